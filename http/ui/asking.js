/**
 * Hooks with which screens ask the server: once, and again when something has changed.
 *
 * Data that is there stays while newer is fetched, and stays when that fails. An answer to an earlier
 * question never replaces that to a later one.
 */
import { useCallback, useEffect, useRef, useState } from "./vendor/preact.js";
import { ask } from "./api.js";
import { returns } from "./server.js";

/**
 * @template T
 * @typedef {{data: T | undefined, error: Error | undefined, isLoading: boolean, reload: () => void, put: (data: T) => void}} Answer
 */

/**
 * Asks one question, and again whenever it is another or the server is back.
 *
 * @template T
 * @param {string | null} path Null: nothing is asked.
 * @param {Record<string, string | undefined>} [query]
 * @returns {Answer<T>}
 */
export function useAnswer(path, query = {}) {
  const question = path === null ? null : JSON.stringify([path, query]);
  /** @type {[{question: string | null, data?: T, error?: Error | undefined}, (made: any) => void]} */
  const [kept, keep] = useState({ question: /** @type {string | null} */ (null) });
  /** @type {import("./vendor/preact.js").RefObject<AbortController | null>} */
  const running = useRef(null);

  const load = useCallback(() => {
    if (question === null) return;
    running.current?.abort();
    const controller = new AbortController();
    running.current = controller;
    const [where, parameters] = JSON.parse(question);
    ask(where, { query: parameters, signal: controller.signal }).then(
      (data) => keep({ question, data }),
      (error) => {
        if (controller.signal.aborted) return;
        keep((/** @type {{question: string}} */ before) =>
          before.question === question ? { ...before, error } : { question, error },
        );
      },
    );
  }, [question]);

  useEffect(() => {
    load();
    const unwatch = returns.watch(load);
    return () => {
      unwatch();
      running.current?.abort();
    };
  }, [load]);

  const isOurs = kept.question === question;
  return {
    data: isOurs ? kept.data : undefined,
    error: isOurs ? kept.error : undefined,
    isLoading: question !== null && !isOurs,
    reload: load,
    put: (data) => keep({ question, data }),
  };
}

/**
 * Lists in pages that stay still while the server changes: rows that are shown change in place, rows that
 * are gone are marked, and new ones wait until they are asked for.
 *
 * A page of a bounded search may end early and even be empty; the search then goes on, for a while.
 */
import { useCallback, useEffect, useRef, useState } from "./vendor/preact.js";
import { ask } from "./api.js";
import { useLive, whenCounting } from "./live.js";
import { pageSize } from "./preferences.js";
import { now, returns } from "./server.js";

/** How often a search goes on by itself when its pages end early: each time costs the server 50 ms. */
const GOES_ON_COUNT = 20;
const REFRESH_MS = 2_000;
/** How many rows that no longer match are looked up one by one at each refresh. */
const LOOKED_UP_COUNT = 20;

/**
 * @template Row
 * @typedef {object} Listed
 * @property {string} question
 * @property {Row[]} rows
 * @property {string | null} cursor
 * @property {{through: number, of: number} | undefined} looked How far a bounded search has come.
 * @property {boolean} isBusy
 * @property {any} error
 * @property {Set<string>} fresh Keys of rows that arose since, and are not shown.
 * @property {Set<string>} gone Keys of rows that are shown and no longer there.
 * @property {number} asOf When this was so, by the server's clock.
 */

/**
 * @template Row
 * @typedef {object} Source
 * @property {string} path
 * @property {string} field Where the answer has the rows.
 * @property {(row: Row) => string} keyOf
 * @property {string[]} topics Of the feed, that say it may have changed.
 * @property {(rows: Row[]) => string[]} [watched] Ids to be told of.
 * @property {(row: Row) => Promise<Row | null>} [lookUp] Finds what became of a row that is no longer listed.
 */

/**
 * Shows a list.
 *
 * @template Row
 * @param {Source<Row>} source
 * @param {Record<string, string | undefined>} query
 */
export function useListing(source, query) {
  const question = JSON.stringify(query);
  const [list, setList] = useState(() => empty(question));
  /** @type {import("./vendor/preact.js").RefObject<Listed<Row>>} */
  const latest = useRef(list);
  /** @type {import("./vendor/preact.js").RefObject<AbortController | null>} */
  const running = useRef(null);
  /** Whether something has changed while a page was being fetched. */
  const isLate = useRef(false);
  /** Whether changes since the first page was asked for are told. */
  const isTold = useRef(false);
  /** @type {import("./vendor/preact.js").RefObject<() => void>} */
  const waiting = useRef(() => {});

  const put = (/** @type {Partial<Listed<Row>>} */ changes) => {
    latest.current = { ...latest.current, ...changes };
    setList(latest.current);
  };

  const fetchMore = async (/** @type {string | null} */ cursor, /** @type {Row[]} */ before) => {
    running.current?.abort();
    const controller = new AbortController();
    running.current = controller;
    const { signal } = controller;
    const limit = Number(pageSize.get());
    let rows = before;
    let next = cursor;
    put({ isBusy: true, error: undefined });
    try {
      for (let round = 0; round < GOES_ON_COUNT; round++) {
        const parameters = { ...query, limit: String(limit), cursor: next ?? undefined };
        const page = await ask(source.path, { query: parameters, signal });
        rows = [...rows, ...page[source.field]];
        next = page.cursor;
        put({ rows, cursor: next, looked: page.looked, asOf: now() });
        if (next === null || rows.length >= before.length + limit) break;
      }
      put({ isBusy: false });
      if (isLate.current) void refresh();
    } catch (error) {
      if (!signal.aborted) put({ isBusy: false, error });
    }
  };

  const reload = useCallback(() => {
    const isOther = latest.current.question !== question;
    put({ ...(isOther ? empty(question) : {}), isBusy: true, fresh: new Set(), gone: new Set() });
    waiting.current();
    running.current?.abort();
    running.current = null;
    waiting.current = whenCounting(source.topics, (isCounting) => {
      isTold.current = isCounting;
      void fetchMore(null, []);
    });
  }, [question]);

  const refresh = async () => {
    const seen = latest.current;
    isLate.current = seen.isBusy && running.current !== null;
    if (seen.isBusy || seen.question !== question) return;
    if (seen.rows.length === 0) return reload();
    try {
      const page = await ask(source.path, { query: { ...query, limit: pageSize.get() } });
      if (latest.current.question !== question) return;
      put(await merged(source, latest.current, page));
    } catch {
      // What is shown stays; the frame says that the server is away.
    }
  };

  useEffect(() => {
    reload();
    const unwatch = returns.watch(refresh);
    return () => {
      unwatch();
      waiting.current();
      running.current?.abort();
    };
  }, [reload]);

  const watch = source.watched?.(list.rows) ?? [];
  useLive(refresh, { topics: source.topics, watch, everyMs: REFRESH_MS, isTold: () => isTold.current });

  const isOurs = list.question === question;
  return {
    ...list,
    rows: isOurs ? list.rows : [],
    isFirstLoad: !isOurs || (list.isBusy && list.rows.length === 0),
    hasMore: list.cursor !== null,
    more: () => void fetchMore(list.cursor, list.rows),
    reload,
    refresh: () => void refresh(),
  };
}

/**
 * @param {string} question
 * @returns {Listed<any>}
 */
function empty(question) {
  return {
    question,
    rows: [],
    cursor: null,
    looked: undefined,
    isBusy: true,
    error: undefined,
    fresh: new Set(),
    gone: new Set(),
    asOf: now(),
  };
}

/**
 * Puts a newer first page into what is shown, without moving a row.
 *
 * @template Row
 * @param {Source<Row>} source
 * @param {Listed<Row>} seen
 * @param {any} page
 * @returns {Promise<Partial<Listed<Row>>>}
 */
async function merged(source, seen, page) {
  /** @type {Map<string, Row>} */
  const newer = new Map(page[source.field].map((/** @type {Row} */ row) => [source.keyOf(row), row]));
  const shown = new Set(seen.rows.map(source.keyOf));
  const fresh = new Set([...newer.keys()].filter((key) => !shown.has(key)));
  // A page covers what is shown up to the last row that both have; all of it, if it is the last page.
  const lastKnown = page.cursor === null ? seen.rows.length : seen.rows.findLastIndex((row) => newer.has(source.keyOf(row))) + 1;
  const gone = new Set(seen.gone);
  let lookedUp = 0;
  const rows = await Promise.all(
    seen.rows.map(async (row, index) => {
      const key = source.keyOf(row);
      const known = newer.get(key);
      // The same object where nothing has changed: its row is not rendered again.
      if (known !== undefined) return JSON.stringify(known) === JSON.stringify(row) ? row : known;
      if (index >= lastKnown || gone.has(key)) return row;
      if (source.lookUp === undefined) return gone.add(key) && row;
      if (lookedUp++ >= LOOKED_UP_COUNT) return row;
      const found = await source.lookUp(row);
      if (found === null) gone.add(key);
      return found ?? row;
    }),
  );
  return { rows, fresh, gone, asOf: now(), ...(page.cursor === null && seen.cursor === null ? { looked: page.looked } : {}) };
}

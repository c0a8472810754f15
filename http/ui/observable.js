/**
 * Values that several components show: a value, who wants to know of its changes, and a hook.
 *
 * Setting the same value again tells nobody.
 */
import { useEffect, useState } from "./vendor/preact.js";

/**
 * @template T
 * @typedef {{get: () => T, set: (value: T) => void, watch: (told: (value: T) => void) => () => void}} Observable
 */

/**
 * Makes an observable value.
 *
 * @template T
 * @param {T} first
 * @returns {Observable<T>}
 */
export function observable(first) {
  let value = first;
  /** @type {Set<(value: T) => void>} */
  const watchers = new Set();
  return {
    get: () => value,
    set(next) {
      if (Object.is(next, value)) return;
      value = next;
      for (const told of [...watchers]) told(value);
    },
    watch(told) {
      watchers.add(told);
      return () => watchers.delete(told);
    },
  };
}

/**
 * Returns the value, and renders the component again when it changes.
 *
 * @template T
 * @param {Observable<T>} source
 * @returns {T}
 */
export function useValue(source) {
  const [, render] = useState({});
  const shown = source.get();
  useEffect(() => {
    // It may have changed after it was read above.
    if (!Object.is(source.get(), shown)) render({});
    return source.watch(() => render({}));
  }, [source]);
  return shown;
}

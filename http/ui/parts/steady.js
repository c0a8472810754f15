/**
 * Lists that stay still. While the pointer or the focus is in one, its rows keep their order: those that
 * are gone are marked, and new ones come at its end. In lists of what happened new rows wait until they
 * are asked for; in short ones of the latest, until pointer and focus are elsewhere.
 */
import { useRef, useState } from "../vendor/preact.js";

/** @typedef {"all" | "latest" | "paged"} Extent What a list has: all there is, or the latest few; or it is a `useListing`. */

/**
 * Returns the rows as they are shown, and the keys of those that are gone.
 *
 * @template Row
 * @param {Row[]} rows As the server last said.
 * @param {(row: Row) => string} keyOf
 * @param {import("../vendor/preact.js").RefObject<HTMLElement | null>} list
 * @param {Extent} extent Lists in pages see to it themselves.
 * @returns {{rows: Row[], gone: Set<string>}}
 */
export function useSteady(rows, keyOf, list, extent) {
  /** @type {import("../vendor/preact.js").RefObject<{rows: Row[], gone: Set<string>}>} */
  const shown = useRef({ rows, gone: new Set() });
  if (extent !== "paged" && list.current?.matches(":hover, :focus-within")) shown.current = held(shown.current.rows, rows, keyOf, extent);
  else shown.current = { rows, gone: new Set() };
  return shown.current;
}

/**
 * @template Row
 * @param {Row[]} before
 * @param {Row[]} rows
 * @param {(row: Row) => string} keyOf
 * @param {Extent} extent
 */
function held(before, rows, keyOf, extent) {
  const newer = new Map(rows.map((row) => [keyOf(row), row]));
  const kept = before.map((row) => newer.get(keyOf(row)) ?? row);
  if (extent === "latest") return { rows: kept, gone: /** @type {Set<string>} */ (new Set()) };
  const known = new Set(before.map(keyOf));
  const gone = new Set([...known].filter((key) => !newer.has(key)));
  const fresh = rows.filter((row) => !known.has(keyOf(row)));
  // However long the pointer rests there, the list does not grow without end.
  return { rows: [...kept, ...fresh].slice(0, Math.max(kept.length, 2 * rows.length)), gone };
}

/**
 * Holds back the rows of a list, the newest first, that came after it was shown.
 *
 * @template Row
 * @param {Row[]} rows
 * @param {(row: Row) => string} keyOf
 * @param {string} question Another question's list is shown whole.
 * @returns {{rows: Row[], freshCount: number, show: () => void}}
 */
export function useWaiting(rows, keyOf, question) {
  /** The key of the newest row that is shown. */
  const newest = useRef(/** @type {{question: string, key: string | undefined}} */ ({ question, key: undefined }));
  const [, render] = useState({});
  const first = rows[0];
  const show = () => {
    newest.current = { question, key: first === undefined ? undefined : keyOf(first) };
  };
  const freshCount = newest.current.question === question ? rows.findIndex((row) => keyOf(row) === newest.current.key) : -1;
  // None were there, or so many came that none of those is left.
  if (freshCount < 0) show();
  return {
    rows: freshCount > 0 ? rows.slice(freshCount) : rows,
    freshCount: Math.max(0, freshCount),
    show: () => {
      show();
      render({});
    },
  };
}

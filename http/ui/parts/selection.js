/** Which rows of a list are selected. */
import { useState } from "../vendor/preact.js";

/**
 * Returns the selection of a list's rows, for its table, and a way to clear it.
 *
 * @param {string[]} keys Of all rows that are listed.
 * @returns {import("./table.js").Selection & {clear: () => void}}
 */
export function useSelection(keys) {
  const [ids, setIds] = useState(/** @type {Set<string>} */ (new Set()));
  return {
    ids,
    toggle: (id) => setIds(ids.has(id) ? new Set([...ids].filter((one) => one !== id)) : new Set([...ids, id])),
    toggleAll: () => setIds(ids.size === keys.length ? new Set() : new Set(keys)),
    clear: () => setIds(new Set()),
  };
}

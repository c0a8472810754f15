/**
 * A tree of calls as rows: which are shown, which are folded, and which stand on the way to a failure.
 *
 * The tree may have circles and missing parents: each call is shown once, under the parent that the
 * server gives it, or as a root if there is none.
 */

/** Trees up to this size are shown unfolded. */
const UNFOLDED_UP_TO_COUNT = 200;

/** @typedef {{call: CallObject, depth: number, hasChildren: boolean, isOpen: boolean, place: number, of: number}} CallRow */

/**
 * Returns the children of each call by its id, and the roots under "".
 *
 * @param {CallObject[]} calls
 */
export function childrenOf(calls) {
  const known = new Set(calls.map(({ id }) => id));
  /** @type {Map<string, CallObject[]>} */
  const children = new Map();
  for (const call of calls) {
    const parent = call.parent !== null && known.has(call.parent) && call.parent !== call.id ? call.parent : "";
    const siblings = children.get(parent) ?? [];
    siblings.push(call);
    children.set(parent, siblings);
  }
  return children;
}

/** @param {CallObject} call */
function isBad({ state, hint }) {
  return state === "REJECTED" || state === "REJECTED_TIMEDOUT" || hint !== undefined;
}

/**
 * Returns the ids of the calls that are unfolded at first: all in a small tree, else the root and those on
 * the way to what failed or is stuck.
 *
 * @param {CallObject[]} calls
 */
export function firstUnfolded(calls) {
  if (calls.length <= UNFOLDED_UP_TO_COUNT) return new Set(calls.map(({ id }) => id));
  const parents = new Map(calls.map(({ id, parent }) => [id, parent]));
  /** @type {Set<string>} */
  const open = new Set(calls.slice(0, 1).map(({ id }) => id));
  for (const call of calls.filter(isBad)) {
    let parent = call.parent;
    while (parent !== null && parent !== undefined && !open.has(parent)) {
      open.add(parent);
      parent = parents.get(parent) ?? null;
    }
  }
  return open;
}

/**
 * Returns the rows that are shown, in order.
 *
 * @param {CallObject[]} calls
 * @param {Set<string>} unfolded
 * @returns {CallRow[]}
 */
export function rowsOf(calls, unfolded) {
  const children = childrenOf(calls);
  /** @type {CallRow[]} */
  const rows = [];
  /** @type {Set<string>} */
  const seen = new Set();
  const roots = children.get("") ?? calls.slice(0, 1);
  // A stack, not a recursion: a chain of calls may be 2,000 deep.
  const waiting = roots.map((call, index) => ({ call, depth: 0, place: index + 1, of: roots.length })).reverse();
  while (waiting.length > 0) {
    const next = /** @type {{call: CallObject, depth: number, place: number, of: number}} */ (waiting.pop());
    if (seen.has(next.call.id)) continue;
    seen.add(next.call.id);
    const below = children.get(next.call.id) ?? [];
    const isOpen = unfolded.has(next.call.id);
    rows.push({ ...next, hasChildren: below.length > 0, isOpen });
    if (!isOpen) continue;
    for (let at = below.length - 1; at >= 0; at--) {
      const call = /** @type {CallObject} */ (below[at]);
      waiting.push({ call, depth: next.depth + 1, place: at + 1, of: below.length });
    }
  }
  return rows;
}

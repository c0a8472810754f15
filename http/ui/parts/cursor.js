/**
 * The cursor of lists: the row that has the focus. `j` and `k` move it through all rows of a screen, so do
 * the arrows once it is in one, and `x` selects the row.
 *
 * When no row has the focus, it goes on from the one that had it last; so it does after one has been
 * elsewhere.
 */
import { place } from "../router.js";

/** How many addresses it is remembered for. */
const PLACES_COUNT = 50;

/** The key of the row that had the focus last, by address. @type {Map<string, string>} */
const last = new Map();

/** @returns {HTMLTableRowElement[]} */
function rows() {
  return [...document.querySelectorAll(/** @type {"tr"} */ ("#main tr[data-row]"))];
}

/** Starts to remember where the focus is, and to listen to the arrows. */
export function startCursor() {
  document.addEventListener("keydown", (event) => {
    const step = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
    const isPlain = !(event.ctrlKey || event.metaKey || event.altKey || event.shiftKey);
    if (step === 0 || !isPlain || !rows().some((row) => row.contains(document.activeElement))) return;
    event.preventDefault();
    moveCursor(step);
  });
  document.addEventListener("focusin", ({ target }) => {
    const row = target instanceof Element ? target.closest("tr[data-row]") : null;
    if (row === null) return;
    const { url } = place.get();
    last.delete(url);
    last.set(url, row.getAttribute("data-key") ?? "");
    const [oldest] = last.keys();
    if (last.size > PLACES_COUNT && oldest !== undefined) last.delete(oldest);
  });
}

/** @param {Element} row */
function isInView(row) {
  const { top, bottom } = row.getBoundingClientRect();
  return bottom > 0 && top < innerHeight;
}

/**
 * Moves the focus to a row's link, or to what else it has that takes focus; else to the row.
 *
 * @param {HTMLElement | undefined} row
 */
function focusIn(row) {
  if (row === undefined) return;
  const target = row.querySelector("a, button") ?? row.querySelector("input") ?? row;
  if (target === row) row.tabIndex = -1;
  if (target instanceof HTMLElement) target.focus();
  row.scrollIntoView({ block: "nearest" });
}

/**
 * Moves the focus to the next or the previous row.
 *
 * @param {1 | -1} step
 */
export function moveCursor(step) {
  const all = rows();
  const key = last.get(place.get().url);
  const at =
    all.find((row) => row.contains(document.activeElement)) ?? all.find((row) => row.getAttribute("data-key") === key && isInView(row));
  focusIn(at === undefined ? (all.find(isInView) ?? all[0]) : all[all.indexOf(at) + step]);
}

/** Selects the row at the cursor, or no longer. */
export function selectAtCursor() {
  document.activeElement?.closest("tr[data-row]")?.querySelector("input")?.click();
}

/**
 * Comes back to the row that had the focus when this place was left, if one has gone back to it and has
 * done nothing since.
 *
 * @param {Element | null} table
 */
export function returnTo(table) {
  const { url, isReturn } = place.get();
  const key = last.get(url);
  if (!isReturn || key === undefined || document.activeElement?.matches("body, h1") === false) return;
  focusIn(rows().find((row) => table?.contains(row) && row.getAttribute("data-key") === key));
}

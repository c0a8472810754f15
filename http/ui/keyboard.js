/**
 * Single keys: everywhere `/` searches, `g` and a letter goes to a screen, `.` pauses, `?` shows all of
 * them; in lists `j k` move, `x` selects and Enter opens. They can be switched off, and never act while
 * one is typing or a dialog is open.
 */
import { useLayoutEffect } from "./vendor/preact.js";
import { singleKeys } from "./preferences.js";

const SEQUENCE_LIMIT_MS = 1_500;

/** @type {Map<string, () => void>} */
const actions = new Map();

let before = "";
let beforeAt = 0;

/** @param {KeyboardEvent} event */
function pressed(event) {
  if (singleKeys.get() !== "on" || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const target = event.target instanceof Element ? event.target : document.body;
  if (target.closest("input:not([type=checkbox]), textarea, select, dialog, [contenteditable]")) return;
  const isLater = event.timeStamp - beforeAt > SEQUENCE_LIMIT_MS;
  const both = isLater ? event.key : `${before}${event.key}`;
  const action = actions.get(both) ?? actions.get(event.key);
  before = event.key;
  beforeAt = event.timeStamp;
  if (action === undefined) return;
  before = "";
  event.preventDefault();
  action();
}

/** Starts to listen to the keyboard. */
export function startKeyboard() {
  document.addEventListener("keydown", pressed);
}

/**
 * Binds keys while a component is shown.
 *
 * @param {Record<string, () => void>} keys A key, or two in sequence, and what they do.
 */
export function useKeys(keys) {
  // As soon as it is there: who sees what a key acts on may press it.
  useLayoutEffect(() => {
    for (const [key, action] of Object.entries(keys)) actions.set(key, action);
    return () => {
      for (const [key, action] of Object.entries(keys)) if (actions.get(key) === action) actions.delete(key);
    };
  });
}

/** What each key does, for the page of keys. */
export const KEYS = /** @type {const} */ ([
  ["/", "Search, or go to an id"],
  ["g o", "Overview"],
  ["g p", "Promises"],
  ["g t", "Tasks"],
  ["g q", "Queues & workers"],
  ["g s", "Schedules"],
  ["g l", "Locks"],
  ["g n", "Functions"],
  ["g f", "Failures"],
  ["j  k", "Next and previous row, as ↓ ↑ do within a list"],
  ["Enter", "Open the row"],
  ["x", "Select the row"],
  ["← →", "In a timeline: fold and unfold"],
  [".", "Pause, and go on"],
  ["Esc", "Close"],
  ["?", "These keys"],
]);

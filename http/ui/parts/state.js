/** The states of promises and tasks: a color, a glyph of its own and a word for each, so none relies on color. */
import { html } from "../vendor/preact.js";

/** @typedef {"pending" | "resolved" | "rejected" | "timedout" | "canceled"} Kind */

/** @type {Record<string, [Kind, string]>} */
const STATES = {
  PENDING: ["pending", "Pending"],
  RESOLVED: ["resolved", "Resolved"],
  REJECTED: ["rejected", "Rejected"],
  REJECTED_CANCELED: ["canceled", "Canceled"],
  REJECTED_TIMEDOUT: ["timedout", "Timed out"],
  // Of tasks of both kinds.
  init: ["pending", "Waiting"],
  enqueued: ["pending", "Sent"],
  claimed: ["pending", "Claimed"],
  completed: ["resolved", "Completed"],
  timedout: ["timedout", "Timed out"],
  stalled: ["rejected", "Stalled"],
  pending: ["pending", "Pending"],
  acquired: ["pending", "Acquired"],
  suspended: ["canceled", "Suspended"],
  halted: ["rejected", "Halted"],
  fulfilled: ["resolved", "Fulfilled"],
};

/** The states of promises, as queries name them, with the words that people read. */
export const PROMISE_STATES = /** @type {const} */ ([
  ["pending", "Pending"],
  ["resolved", "Resolved"],
  ["rejected", "Rejected"],
  ["timedout", "Timed out"],
  ["canceled", "Canceled"],
]);

/** @type {Record<Kind, string>} */
const GLYPHS = {
  pending: "M8 3.2A4.8 4.8 0 0 1 12.8 8",
  resolved: "M3.8 8.4l2.9 2.8 5.5-6",
  rejected: "M4.6 4.6l6.8 6.8M11.4 4.6l-6.8 6.8",
  timedout: "M8 4.6V8l2.4 1.6",
  canceled: "M4.8 11.2l6.4-6.4",
};

/**
 * Returns the color class of a state.
 *
 * @param {string} state
 * @returns {Kind}
 */
export function kindOf(state) {
  return STATES[state]?.[0] ?? "canceled";
}

/**
 * Returns the word for a state.
 *
 * @param {string} state
 */
export function wordFor(state) {
  return STATES[state]?.[1] ?? state;
}

/**
 * The glyph of a state, without a word.
 *
 * @param {{state: string, isNamed?: boolean}} props `isNamed`: it stands alone and says its word to screen readers.
 */
export function Glyph({ state, isNamed = false }) {
  const kind = kindOf(state);
  const naming = isNamed ? { role: "img", "aria-label": wordFor(state) } : { "aria-hidden": "true" };
  return html`<svg class="glyph ${kind}" viewBox="0 0 16 16" ...${naming}>
    ${kind !== "resolved" && kind !== "rejected" && html`<circle cx="8" cy="8" r="4.8" />`}
    <path class=${kind === "pending" ? "arc" : ""} d=${GLYPHS[kind]} />
  </svg>`;
}

/**
 * A state as a colored pill.
 *
 * @param {{state: string}} props
 */
export function State({ state }) {
  return html`<span class="state ${kindOf(state)}"><${Glyph} state=${state} />${wordFor(state)}</span>`;
}

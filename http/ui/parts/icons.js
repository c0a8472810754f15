/** The icons: lines of 1.5 on a grid of 16, in the color of the text around them. */
import { html } from "../vendor/preact.js";

/** @type {Record<string, string>} */
const PATHS = {
  overview: "M1.5 8.5h3l2-5 3 9 2-4h3",
  promises: "M2.5 4h11M2.5 8h8M2.5 12h5",
  tasks: "M2.5 2.5h11v11h-11zM5.3 8l2 2 3.6-4",
  queues: "M2.5 4h11M2.5 8h6M2.5 12h6M12 8.5v5M9.5 11h5",
  schedules: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2zM8 4.7V8l2.2 1.5",
  locks: "M3.5 7h9v6.5h-9zM5.5 7V4.8a2.5 2.5 0 0 1 5 0V7",
  functions: "M2 13V5.5C2 4 3 3 4.5 3M14 13V5.5C14 4 13 3 11.5 3M6 6l4 5M10 6l-4 5",
  failures: "M8 2.5l6 11H2zM8 6.5v3.3M8 11.6v.2",
  bulk: "M2.5 4h7M2.5 8h7M2.5 12h7M11.5 4.5l1 1 2-2.5",
  snapshots: "M8 2v7.5M4.8 6.8L8 10l3.2-3.2M2.5 13.5h11",
  access: "M8 2.5a2.6 2.6 0 1 0 0 5.2 2.6 2.6 0 0 0 0-5.2zM3 13.8c.4-2.9 2.3-4.3 5-4.3s4.6 1.4 5 4.3",
  settings: "M2 5h6M12 5h2M2 11h2M8 11h6M8 3.3v3.4h2.5V3.3zM4 9.3v3.4h2.5V9.3z",
  search: "M7 2.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9zM10.3 10.3l3.4 3.4",
  copy: "M5.5 5.5h8v8h-8zM3.5 10.5h-1v-8h8v1",
  fold: "M6 4l4 4-4 4",
  unfold: "M4 6l4 4 4-4",
  close: "M4 4l8 8M12 4l-8 8",
  menu: "M2.5 4h11M2.5 8h11M2.5 12h11",
  theme: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2zM8 2.4v11.2M10 3v10M12 4.4v7.2",
  plus: "M8 3v10M3 8h10",
  up: "M8 13V3M4 7l4-4 4 4",
};

/**
 * An icon. It is decoration: the words next to it, or the name of its button, say what it means.
 *
 * @param {{name: string}} props
 */
export function Icon({ name }) {
  return html`<svg class="icon" viewBox="0 0 16 16" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;
}

/** The mark of Troth. */
export function Logo() {
  return html`<svg class="logo" viewBox="0 0 32 32" aria-hidden="true">
    <rect width="32" height="32" rx="8" />
    <path d="M8 10.5h14M15 10.5v12" />
    <circle cx="23" cy="21.5" r="2.4" />
  </svg>`;
}

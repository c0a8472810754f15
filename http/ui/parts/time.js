/**
 * Durations and times, as people say them: `69 ms`, `2.8 s`, `6 m 24 s`, `1 h 53 m`, `3 d 4 h`.
 *
 * All compare with the server's clock. Each element keeps itself up to date, and changes the page only
 * when its text does.
 */
import { html, useEffect, useState } from "../vendor/preact.js";
import { tick } from "../live.js";
import { times, TIMES } from "../preferences.js";
import { useValue } from "../observable.js";
import { now } from "../server.js";

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/**
 * Returns a duration in words.
 *
 * @param {number} milliseconds
 */
export function duration(milliseconds) {
  const ms = Math.max(0, milliseconds);
  if (ms < SECOND) return `${Math.round(ms)} ms`;
  if (ms < 9.95 * SECOND) return `${(ms / SECOND).toFixed(1)} s`;
  if (ms < MINUTE) return `${Math.floor(ms / SECOND)} s`;
  if (ms < HOUR) return `${Math.floor(ms / MINUTE)} m ${Math.floor((ms % MINUTE) / SECOND)} s`;
  if (ms < DAY) return `${Math.floor(ms / HOUR)} h ${Math.floor((ms % HOUR) / MINUTE)} m`;
  if (ms < 1_000 * DAY) return `${Math.floor(ms / DAY)} d ${Math.floor((ms % DAY) / HOUR)} h`;
  return `${Math.floor(ms / DAY / 365.25).toLocaleString("en-US")} years`;
}

/**
 * Returns a round duration without what is zero: `2 s`, not `2.0 s`; `5 m`, not `5 m 0 s`.
 *
 * @param {number} milliseconds
 */
export function roundDuration(milliseconds) {
  return milliseconds === 0 ? "0" : duration(milliseconds).replace(/\.0| 0 \w$/, "");
}

/**
 * Returns a duration as calm texts say it: from a minute on without seconds, so that a page of old rows
 * stands still.
 *
 * @param {number} milliseconds
 */
function calmDuration(milliseconds) {
  if (milliseconds >= MINUTE && milliseconds < HOUR) return `${Math.floor(milliseconds / MINUTE)} m`;
  if (milliseconds >= SECOND && milliseconds < MINUTE) return `${Math.floor(milliseconds / SECOND)} s`;
  return duration(milliseconds);
}

/** The largest time that a browser's calendar has. */
const LAST_MS = 8.64e15;

/**
 * Returns a time with date, to the second, in this browser's zone or UTC.
 *
 * @param {number} ms Since 1970.
 * @param {boolean} [isUtc]
 */
export function calendar(ms, isUtc = times.get() === TIMES[2]) {
  if (Math.abs(ms) > LAST_MS) return "never";
  // Swedes write dates as ISO 8601 does.
  const text = new Date(ms).toLocaleString("sv-SE", isUtc ? { timeZone: "UTC" } : {});
  return isUtc ? `${text} UTC` : text;
}

/** @param {number} ms */
function precise(ms) {
  if (Math.abs(ms) > LAST_MS) return "never";
  const zone = new Date(ms).toLocaleString("en-US", { timeZoneName: "longOffset" }).split(" ").at(-1);
  return `${calendar(ms, false)}.${String(((ms % 1_000) + 1_000) % 1_000).padStart(3, "0")} ${zone}`;
}

/**
 * Renders a text that depends on the time.
 *
 * @param {() => string} write
 */
export function useTicking(write) {
  const [, render] = useState("");
  const text = write();
  useEffect(() => tick.watch(() => render(write())), [write]);
  return text;
}

/**
 * A time: how long ago or in how long, or the date, as the reader prefers.
 *
 * @param {{at: number, soon?: string}} props `soon` is what it says of times that have come, for deadlines.
 */
export function When({ at, soon }) {
  const way = useValue(times);
  const text = useTicking(() => (way === TIMES[0] ? relative(at, soon) : calendar(at)));
  return html`<time datetime=${Math.abs(at) > LAST_MS ? undefined : new Date(at).toISOString()} title=${precise(at)}>${text}</time>`;
}

/**
 * @param {number} at
 * @param {string} [soon]
 */
function relative(at, soon) {
  const leftMs = at - now();
  if (leftMs > 200 * 365 * DAY) return "never";
  if (leftMs > 0) return `in ${calmDuration(Math.max(SECOND, leftMs))}`;
  return soon ?? (leftMs > -SECOND ? "now" : `${calmDuration(-leftMs)} ago`);
}

/**
 * A date, whatever the reader prefers in lists.
 *
 * @param {{at: number}} props
 */
export function Calendar({ at }) {
  return html`<time title=${precise(at)}>${calendar(at)}</time>`;
}

/**
 * How long something has been going on, or how long it is until something.
 *
 * @param {{since?: number, until?: number}} props
 */
export function Span({ since, until }) {
  const text = useTicking(() => calmDuration(until === undefined ? now() - (since ?? 0) : until - now()));
  return html`<span class="figures">${text}</span>`;
}

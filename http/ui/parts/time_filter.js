/** From when to when: some usual spans, or two times. In the address as milliseconds since 1970. */
import { html } from "../vendor/preact.js";
import { change, usePlace } from "../router.js";
import { now } from "../server.js";
import { calendar } from "./time.js";

const HOUR = 3_600_000;

/** @type {readonly (readonly [string, number])[]} */
const SPANS = [
  ["Last 15 minutes", HOUR / 4],
  ["Last hour", HOUR],
  ["Last 24 hours", 24 * HOUR],
  ["Last 7 days", 7 * 24 * HOUR],
];

/** A menu that sets them. */
export function TimeFilter() {
  const { query } = usePlace();
  const from = Number(query.get("from"));
  const to = Number(query.get("to"));
  const choose = (/** @type {any} */ event, /** @type {number | undefined} */ since) => {
    event.target.closest("details").open = false;
    change({ from: since === undefined ? undefined : String(Math.round(since)), to: undefined });
  };
  const submit = (/** @type {any} */ event) => {
    event.preventDefault();
    const given = new FormData(event.target);
    event.target.closest("details").open = false;
    change({ from: milliseconds(given.get("from")), to: milliseconds(given.get("to")) });
  };
  return html`<details class="menu">
    <summary>${from || to ? `Created ${from ? `from ${calendar(from)}` : ""} ${to ? `to ${calendar(to)}` : ""}` : "Any time"}</summary>
    <div>
      ${SPANS.map(([text, span]) => html`<button class="quiet" key=${text} onClick=${(/** @type {any} */ event) => choose(event, now() - span)}>${text}</button>`)}
      <button class="quiet" onClick=${(/** @type {any} */ event) => choose(event, undefined)}>Any time</button>
      <form class="stack" onSubmit=${submit}>
        <label>Created from <input type="datetime-local" name="from" step="1" value=${from ? local(from) : ""} /></label>
        <label>to <input type="datetime-local" name="to" step="1" value=${to ? local(to) : ""} /></label>
        <button>Apply</button>
      </form>
    </div>
  </details>`;
}

/** @param {FormDataEntryValue | null} text In this browser's zone. */
function milliseconds(text) {
  return text ? String(new Date(String(text)).getTime()) : undefined;
}

/** @param {number} ms */
function local(ms) {
  return calendar(ms, false).replace(" ", "T");
}

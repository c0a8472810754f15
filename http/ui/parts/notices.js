/**
 * What stands where data is not: lines while it loads, an error with its code and a way to try again,
 * an empty list that says why and what to do. And the region that says results to screen readers.
 */
import { html, useEffect, useState } from "../vendor/preact.js";
import { apiUrl } from "../api.js";
import { observable, useValue } from "../observable.js";
import { Icon } from "./icons.js";

const SAID_FOR_MS = 6_000;

/** What was done last; empty when it has been said long enough. */
const said = observable({ text: "", isError: false });

/**
 * Says a result: on screen for some seconds, and to screen readers.
 *
 * @param {string} text
 * @param {boolean} [isError]
 */
export function say(text, isError = false) {
  said.set({ text, isError });
}

/** Where results are said. */
export function Said() {
  const { text, isError } = useValue(said);
  useEffect(() => {
    if (!text || isError) return undefined;
    const timer = setTimeout(() => said.set({ text: "", isError: false }), SAID_FOR_MS);
    return () => clearTimeout(timer);
  }, [text, isError]);
  return html`<div class="said ${text ? "shown" : ""} ${isError ? "rejected" : ""}">
    <span role="status" aria-live="polite">${text}</span>
    ${text && html`<button class="quiet small" aria-label="Close" onClick=${() => say("")}><${Icon} name="close" /></button>`}
  </div>`;
}

/**
 * Gray lines, which are seen only when loading takes longer than 200 ms.
 *
 * @param {{lines?: number}} props
 */
export function Loading({ lines = 6 }) {
  return html`<div class="loading" role="status" aria-label="Loading">
    ${Array.from({ length: lines }, (_, index) => html`<div key=${index}></div>`)}
  </div>`;
}

/**
 * What went wrong, with a link to the page of its code.
 *
 * @param {{error: any, retry?: () => void}} props
 */
export function Failed({ error, retry }) {
  const details = (error.details ?? []).filter((/** @type {string} */ text) => text !== error.message);
  return html`<div class="notice rejected" role="alert">
    <strong>${error.message}</strong>
    ${details.map((/** @type {string} */ text) => html`<p>${text}</p>`)}
    <p class="row">
      ${retry && html`<button onClick=${retry}>Try again</button>`}
      ${error.code > 0 && html`<a href="${apiUrl("docs/errors")}#${error.code}" target="_blank">What ${error.code} means</a>`}
    </p>
  </div>`;
}

/**
 * A list without rows: why, and what to do.
 *
 * @param {{title: string, command?: string, children?: import("../vendor/preact.js").ComponentChildren}} props
 */
export function Empty({ title, command, children }) {
  return html`<div class="empty">
    <h2>${title}</h2>
    ${children}
    ${command && html`<${Command} text=${command} />`}
  </div>`;
}

/**
 * A command to paste.
 *
 * @param {{text: string, label?: string}} props
 */
export function Command({ text, label = "Copy the command" }) {
  return html`<div class="command">
    <code>${text}</code>
    <${Copy} text=${text} label=${label} />
  </div>`;
}

/**
 * A button that copies a text.
 *
 * @param {{text: string | (() => string), label?: string, children?: import("../vendor/preact.js").ComponentChildren}} props
 */
export function Copy({ text, label, children }) {
  const [isDone, setDone] = useState(false);
  const copy = async () => {
    const copied = typeof text === "string" ? text : text();
    try {
      await navigator.clipboard.writeText(copied);
      setDone(true);
      setTimeout(() => setDone(false), 1_500);
    } catch {
      // Browsers allow it on https and on this machine only.
      say("The browser does not allow copying here. Select the text instead.", true);
    }
  };
  return html`<button class="quiet small" aria-label=${label} onClick=${copy}>
    <${Icon} name=${isDone ? "tasks" : "copy"} />${isDone ? "Copied" : children}
  </button>`;
}

/**
 * What came of a question: its data, or what stands in its place.
 *
 * @template T
 * @param {{answer: import("../asking.js").Answer<T>, lines?: number, show: (data: T) => any}} props
 */
export function Answered({ answer, lines, show }) {
  if (answer.data !== undefined) return show(answer.data);
  if (answer.error) return html`<${Failed} error=${answer.error} retry=${answer.reload} />`;
  return html`<${Loading} lines=${lines ?? 6} />`;
}

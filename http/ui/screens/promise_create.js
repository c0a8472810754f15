/** The dialog that creates a promise, perhaps with what another one was created with. */
import { html, useState } from "../vendor/preact.js";
import { ask } from "../api.js";
import { DialogForm, open } from "../parts/dialog.js";
import { jsonProblem } from "../parts/payload.js";
import { payload } from "../promise.js";
import { go, href } from "../router.js";
import { now, whoami } from "../server.js";

/** @type {readonly (readonly [string, number])[]} */
const TIMEOUTS = [
  ["1 hour", 3_600_000],
  ["1 day", 86_400_000],
  ["7 days", 604_800_000],
  ["30 days", 2_592_000_000],
];

/** @typedef {{id?: string, text?: string, tags?: Record<string, string>, timeoutMs?: number}} Template */

/**
 * Asks for a new promise.
 *
 * @param {Template} template
 */
export function createPromise(template) {
  open({
    title: template.id ? `Create again: ${template.id}` : "Create a promise",
    isWide: true,
    body: (close) => html`<${Form} template=${template} close=${close} />`,
  });
}

/** @param {{template: Template, close: () => void}} props */
function Form({ template, close }) {
  const prefix = whoami.get()?.idPrefix ?? "";
  const [id, setId] = useState(template.id ? `${template.id}-again` : prefix);
  const [text, setText] = useState(template.text ?? "");
  const [tags, setTags] = useState(lines(template.tags ?? {}));
  const [timeout, setTimeoutMs] = useState(String(TIMEOUTS[0]?.[1]));
  const problem = jsonProblem(text);
  const wrongTag = tags.split("\n").find((line) => line.trim() !== "" && !line.includes("="));
  const act = async () => {
    const body = { id, timeout: Math.round(now()) + Number(timeout), param: payload(text), tags: parsed(tags) };
    await ask("promises", { method: "POST", headers: { Strict: "true" }, body });
    go(href("promises", id));
    return `${id} is created.`;
  };
  return html`<${DialogForm} deed="Create" isReady=${id !== "" && !problem && !wrongTag} close=${close} act=${act}>
    <label>Id <input class="id" required value=${id} spellcheck=${false} onInput=${(/** @type {any} */ event) => setId(event.target.value)} /></label>
    <label>
      Param, as JSON
      <textarea class="code" spellcheck=${false} value=${text} onInput=${(/** @type {any} */ event) => setText(event.target.value)}></textarea>
      ${problem && html`<span class="problem">${problem}</span>`}
    </label>
    <label>
      Tags, one a line: name=value
      <textarea class="code" rows="3" spellcheck=${false} value=${tags} onInput=${(/** @type {any} */ event) => setTags(event.target.value)}></textarea>
      ${wrongTag && html`<span class="problem">${wrongTag} has no =</span>`}
    </label>
    <label>
      Times out in
      <select value=${timeout} onChange=${(/** @type {any} */ event) => setTimeoutMs(event.target.value)}>
        ${TIMEOUTS.map(([word, ms]) => html`<option key=${word} value=${String(ms)}>${word}</option>`)}
      </select>
    </label>
  <//>`;
}

/** @param {Record<string, string>} tags */
function lines(tags) {
  return Object.entries(tags)
    .map(([name, value]) => `${name}=${value}`)
    .join("\n");
}

/** @param {string} text */
function parsed(text) {
  const rows = text.split("\n").filter((line) => line.includes("="));
  return Object.fromEntries(rows.map((line) => [line.slice(0, line.indexOf("=")).trim(), line.slice(line.indexOf("=") + 1).trim()]));
}

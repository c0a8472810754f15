/** The panel of the chosen call: its state, times, payloads and tags, and what can be done with it. */
import { html, useState } from "../vendor/preact.js";
import { ask, withId } from "../api.js";
import { BrokenId } from "../parts/broken_id.js";
import { DialogForm, confirm, open } from "../parts/dialog.js";
import { Answered } from "../parts/notices.js";
import { Payload, decoded, jsonProblem } from "../parts/payload.js";
import { State } from "../parts/state.js";
import { Calendar } from "../parts/time.js";
import { complete, functionOf, payload } from "../promise.js";
import { go, href } from "../router.js";
import { may } from "../server.js";
import { createPromise } from "./promise_create.js";

const COPIED_LIMIT_BYTES = 64 << 10;

/**
 * Shows it.
 *
 * @param {{id: string, answer: import("../asking.js").Answer<PromiseObject>, done: () => void}} props
 */
export function CallPanel({ id, answer, done }) {
  return html`<aside class="panel call-panel" aria-label="The chosen call">
    <${Answered} answer=${answer} show=${(/** @type {PromiseObject} */ promise) => html`<${Shown} key=${id} promise=${promise} done=${done} />`} />
  </aside>`;
}

/** @param {{promise: PromiseObject, done: () => void}} props */
function Shown({ promise, done }) {
  const { id, state, param, value, createdOn, completedOn, timeout, tags } = promise;
  const name = functionOf(param);
  return html`<header>
      <h2 class="id"><${BrokenId} id=${id} /></h2>
      <${State} state=${state} />
    </header>
    ${may("promises:write") && html`<div class="row call-actions"><${Actions} promise=${promise} done=${done} /></div>`}
    <dl class="facts">
      ${name && html`<div><dt>Function</dt><dd>${name}</dd></div>`}
      <div><dt>Created</dt><dd><${Calendar} at=${createdOn} /></dd></div>
      ${completedOn !== undefined && html`<div><dt>Completed</dt><dd><${Calendar} at=${completedOn} /></dd></div>`}
      <div><dt>Timeout</dt><dd><${Calendar} at=${timeout} /></dd></div>
    </dl>
    ${state !== "PENDING" && html`<${Payload} title=${state === "RESOLVED" ? "Value" : "Error"} value=${value} name=${`${id}.value`} />`}
    <${Payload} title="Param" value=${param} name=${`${id}.param`} />
    ${tags &&
    html`<section>
      <h3>Tags</h3>
      <dl class="facts small">
        ${Object.entries(tags).map(([key, text]) => html`<div key=${key}><dt class="id">${key}</dt><dd><${Tag} name=${key} text=${text} self=${id} /></dd></div>`)}
      </dl>
    </section>`}`;
}

/** @param {{name: string, text: string, self: string}} props */
function Tag({ name, text, self }) {
  const isPromise = ["resonate:root", "resonate:parent", "resonate:origin", "resonate:branch"].includes(name);
  if (isPromise && text !== self) return html`<a class="id" href=${href("promises", text)}>${text}</a>`;
  return html`<span class="id">${text}</span>`;
}

/** @param {{promise: PromiseObject, done: () => void}} props */
function Actions({ promise, done }) {
  const { id, state, param, tags } = promise;
  const found = decoded(param.data ?? "", COPIED_LIMIT_BYTES);
  const again = () => createPromise({ id, text: found.isCut ? "" : found.text, tags: tags ?? {} });
  const remove = () =>
    confirm({
      title: `Delete ${id}?`,
      text: "It is gone for good, with its param and value. Its id may be used again.",
      deed: `Delete ${id}`,
      act: async () => {
        await ask(withId("promises", id), { method: "DELETE" });
        go(href("promises"));
        return `${id} is deleted.`;
      },
    });
  // Keys: a button that has the focus must not become another one under the finger.
  if (state === "PENDING") return html`<button key="complete" class="main" onClick=${() => completePromise(id, done)}>Complete …</button>`;
  return html`${found.kind !== "bytes" && found.kind !== "broken" && html`<button key="again" onClick=${again}>Create again …</button>`}
    <button key="delete" onClick=${remove}>Delete …</button>`;
}

/** @type {readonly (readonly ["RESOLVED" | "REJECTED" | "REJECTED_CANCELED", string, string, string])[]} */
const WAYS = [
  ["RESOLVED", "Resolve", "resolved", "It worked: what waits for it gets the value."],
  ["REJECTED", "Reject", "rejected", "It failed: what waits for it gets the error."],
  ["REJECTED_CANCELED", "Cancel", "canceled", "It is no longer wanted."],
];

/**
 * Asks how to complete a promise.
 *
 * @param {string} id
 * @param {() => void} done
 */
export function completePromise(id, done) {
  open({ title: `Complete ${id}`, body: (close) => html`<${Completion} id=${id} close=${close} done=${done} />` });
}

/** @param {{id: string, close: () => void, done: () => void}} props */
function Completion({ id, close, done }) {
  const [state, setState] = useState(/** @type {"RESOLVED" | "REJECTED" | "REJECTED_CANCELED"} */ ("RESOLVED"));
  const [text, setText] = useState("");
  const problem = jsonProblem(text);
  const [, deed = "", did = "", meaning = ""] = WAYS.find(([way]) => way === state) ?? [];
  const act = async () => {
    try {
      await complete(id, state, payload(text));
    } finally {
      // If another client was first, what it did is shown.
      done();
    }
    return `${id} is ${did}.`;
  };
  return html`<${DialogForm} deed=${deed} isReady=${!problem} close=${close} act=${act}>
    <fieldset class="ways">
      <legend class="unseen">As</legend>
      ${WAYS.map(
        ([way, word]) => html`<label class="check" key=${way}>
          <input type="radio" name="state" value=${way} checked=${state === way} onChange=${() => setState(way)} /> ${word}
        </label>`,
      )}
    </fieldset>
    <p class="quiet-text">${meaning}</p>
    <label>
      ${state === "RESOLVED" ? "Value" : "Error"}, as JSON; may be empty
      <textarea class="code" spellcheck=${false} value=${text} onInput=${(/** @type {any} */ event) => setText(event.target.value)}></textarea>
      ${problem && html`<span class="problem">${problem}</span>`}
    </label>
  <//>`;
}

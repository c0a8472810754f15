/**
 * One promise: why it is pending, the timeline of its calls, the chosen call with its payloads, its tasks,
 * who waits for it, and what can be done. `?call=` chooses the call, `?tab=` what is shown of it all.
 */
import { html } from "../vendor/preact.js";
import { withId } from "../api.js";
import { useAnswer } from "../asking.js";
import { useLive } from "../live.js";
import { Answered, Copy, Empty, Failed } from "../parts/notices.js";
import { State } from "../parts/state.js";
import { When, duration } from "../parts/time.js";
import { Timeline } from "../parts/timeline.js";
import { functionOf } from "../promise.js";
import { change, go, href, idWithin, usePlace } from "../router.js";
import { useTitle } from "../shell.js";
import { CallPanel } from "./promise_call.js";
import { Raw, Tasks, Waiting } from "./promise_tabs.js";
import { Why } from "./promise_why.js";
import { BrokenId } from "../parts/broken_id.js";

const WATCHED_COUNT = 50;
/** @type {readonly (readonly [string, string])[]} */
const TABS = [
  ["", "Timeline"],
  ["tasks", "Tasks"],
  ["waiting", "Waiting for it"],
  ["raw", "Raw"],
];

/** Shows the promise that the address names. */
export function Screen() {
  const id = idWithin(usePlace(), "promises") ?? "";
  return html`<${PromisePage} key=${id} id=${id} />`;
}

/** @param {{id: string}} props */
function PromisePage({ id }) {
  useTitle(id, true);
  const { query } = usePlace();
  const chosen = query.get("call") ?? id;
  const tab = query.get("tab") ?? "";
  /** @type {import("../asking.js").Answer<TreeObject>} */
  const tree = useAnswer(withId("tree", id));
  /** @type {import("../asking.js").Answer<PromiseObject>} */
  const promise = useAnswer(withId("promises", id));
  /** @type {import("../asking.js").Answer<PromiseObject>} */
  const other = useAnswer(chosen === id ? null : withId("promises", chosen));
  const shown = chosen === id ? promise : other;
  const calls = tree.data?.calls ?? [];
  const pending = calls.filter(({ state }) => state === "PENDING").map((call) => call.id);
  const reload = () => {
    tree.reload();
    promise.reload();
    other.reload();
  };
  useLive(reload, { watch: [...new Set([id, chosen, ...pending])].slice(0, WATCHED_COUNT) });

  if (promise.error && "code" in promise.error && promise.error.code === 40400) return html`<${Unknown} id=${id} />`;
  const choose = (/** @type {string} */ call) => change({ call: call === id ? undefined : call }, { replace: true });
  return html`<div class="promise">
    <div class="promise-main stack">
      ${promise.error && promise.data === undefined && html`<${Failed} error=${promise.error} retry=${reload} />`}
      ${promise.data && html`<${Head} promise=${promise.data} calls=${calls} trace=${tree.data?.trace} />`}
      ${promise.data?.state === "PENDING" && html`<${Why} id=${id} watch=${pending} />`}
      <section class="panel">
        <div class="tabs" role="tablist" aria-label="Of this promise" onKeyDown=${stepTabs}>
          ${TABS.map(
            ([name, text]) => html`<button
              key=${name}
              role="tab"
              id=${`tab-${name}`}
              aria-selected=${tab === name}
              aria-controls="tab-body"
              tabindex=${tab === name ? 0 : -1}
              onClick=${() => change({ tab: name || undefined }, { replace: true })}
            >
              ${text}
            </button>`,
          )}
        </div>
        <div id="tab-body" role="tabpanel" aria-labelledby=${`tab-${tab}`}>
          ${tab === "" && html`<${Answered} answer=${tree} show=${(/** @type {TreeObject} */ data) => html`<${Calls} tree=${data} chosen=${chosen} choose=${choose} />`} />`}
          ${tab === "tasks" && html`<${Tasks} id=${chosen} />`}
          ${tab === "waiting" && html`<${Waiting} id=${chosen} />`}
          ${tab === "raw" && html`<${Raw} answer=${shown} />`}
        </div>
      </section>
    </div>
    <${CallPanel} id=${chosen} answer=${shown} done=${reload} />
  </div>`;
}

/** @param {KeyboardEvent} event */
function stepTabs(event) {
  const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
  if (step === 0 || !(event.currentTarget instanceof HTMLElement)) return;
  const tabs = [...event.currentTarget.querySelectorAll("button")];
  const next = tabs[(tabs.findIndex((tab) => tab === event.target) + step + tabs.length) % tabs.length];
  next?.focus();
  next?.click();
}

/** @param {{promise: PromiseObject, calls: CallObject[], trace?: TreeObject["trace"]}} props */
function Head({ promise, calls, trace }) {
  const { id, state, createdOn, completedOn, timeout, param, tags } = promise;
  const failed = calls.filter((call) => call.state === "REJECTED" || call.state === "REJECTED_TIMEDOUT");
  const root = tags?.["resonate:root"] ?? tags?.["resonate:origin"];
  const parent = tags?.["resonate:parent"];
  return html`<div class="head">
    <div class="row">
      <${State} state=${state} />
      ${root && root !== id && html`<span class="quiet-text">part of <a class="id" href=${href("promises", root, { call: id })}>${root}</a></span>`}
      ${parent && parent !== root && parent !== id && html`<span class="quiet-text">called by <a class="id" href=${href("promises", parent)}>${parent}</a></span>`}
      <span class="push"><${Copy} text=${id}>Copy id<//></span>
    </div>
    <dl class="facts across">
      ${functionOf(param) && html`<div><dt>Function</dt><dd>${functionOf(param)}</dd></div>`}
      <div><dt>Created</dt><dd><${When} at=${createdOn} /></dd></div>
      ${completedOn === undefined
        ? html`<div><dt>Times out</dt><dd><${When} at=${timeout} soon="now" /></dd></div>`
        : html`<div><dt>Completed</dt><dd><${When} at=${completedOn} /></dd></div>
            <div><dt>Took</dt><dd class="figures">${duration(completedOn - createdOn)}</dd></div>`}
      ${calls.length > 1 && html`<div><dt>Calls</dt><dd class="figures">${calls.length - 1}</dd></div>`}
      ${failed.length > 0 &&
      html`<div>
        <dt>Failed</dt>
        <dd><button class="link figures failed" title="Show the first" onClick=${() => change({ call: failed[0]?.id })}>${failed.length}</button></dd>
      </div>`}
      ${trace && html`<div><dt>Trace</dt><dd class="id">${trace.url ? html`<a href=${trace.url} rel="noreferrer">${trace.id}</a>` : trace.id}</dd></div>`}
    </dl>
  </div>`;
}

/** @param {{tree: TreeObject, chosen: string, choose: (id: string) => void}} props */
function Calls({ tree, chosen, choose }) {
  return html`<${Timeline} calls=${tree.calls} chosen=${chosen} choose=${choose} />
    ${tree.cut && html`<p class="more">These are the first ${tree.calls.length} calls; there may be more. Open a call to see those below it.</p>`}`;
}

/** @param {{id: string}} props */
function Unknown({ id }) {
  return html`<${Empty} title="No promise has this id">
    <p class="id"><${BrokenId} id=${id} /></p>
    <p>It was never created, or it was deleted. Ids that begin like this:</p>
    <button onClick=${() => go(href("promises", undefined, { id: `${id}*` }))}>Search for ${id}*</button>
  <//>`;
}

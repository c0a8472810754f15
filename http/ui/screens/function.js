/** One function: what it is and demands, its tasks, and its builds with what was found in them. */
import { html } from "../vendor/preact.js";
import { ask, withId } from "../api.js";
import { useAnswer } from "../asking.js";
import { useLive } from "../live.js";
import { confirm, keepFocus } from "../parts/dialog.js";
import { Answered, Empty, say } from "../parts/notices.js";
import { size } from "../parts/payload.js";
import { figures } from "../parts/rows.js";
import { Glyph } from "../parts/state.js";
import { When, roundDuration } from "../parts/time.js";
import { go } from "../router.js";
import { may } from "../server.js";
import { useTitle } from "../shell.js";
import { FunctionTasks } from "./function_tasks.js";
import { kindOf } from "./functions.js";

const REFRESH_MS = 3_000;
/** Of each function the server keeps ten builds. */
const BUILDS_COUNT = "10";

/** @param {{id: string}} props */
export function FunctionPage({ id }) {
  /** @type {import("../asking.js").Answer<FunctionObject>} */
  const answer = useAnswer(withId("v1/function", id));
  useTitle(answer.data?.name ?? "Function");
  useLive(answer.reload, { topics: ["counters"], everyMs: REFRESH_MS });
  if (answer.error && "status" in answer.error && answer.error.status === 404) {
    return html`<${Empty} title="This account has no such function"><p><a href="functions">All functions</a></p><//>`;
  }
  return html`<div class="promise">
    <div class="stack">
      <${Answered} answer=${answer} lines=${3} show=${(/** @type {FunctionObject} */ data) => html`<${Head} data=${data} reload=${answer.reload} />`} />
      ${may("tasks:read") && html`<${FunctionTasks} id=${id} />`}
    </div>
    <${Builds} id=${id} current=${answer.data?.buildId} isHttp=${answer.data?.type === "http"} />
  </div>`;
}

/** @param {{data: FunctionObject, reload: () => void}} props */
function Head({ data, reload }) {
  const { id, name, description, url, paused, buildId, type, capabilities, metrics, createdAt } = data;
  const { timeout, cpuCount, memSize, networkLatency, privileged } = capabilities;
  const demands = [cpuCount > 0 && `${cpuCount} CPUs`, memSize > 0 && `${memSize} MB`, networkLatency > 0 && `latency below ${networkLatency} ms`, privileged && "a privileged node"].filter(Boolean);
  const toggle = async () => {
    try {
      await ask(`${withId("v1/function", id)}/togglePause`, { method: "POST" });
      say(`${name} is ${paused ? "resumed" : "paused"}.`);
    } catch (error) {
      say(/** @type {Error} */ (error).message, true);
    }
    reload();
    keepFocus();
  };
  const remove = () =>
    confirm({
      title: `Delete ${name}?`,
      text: `New tasks are refused. ${metrics.pendingTasks > 0 ? `Its ${figures(metrics.pendingTasks)} unfinished tasks go on` : "Tasks that exist go on"}, and keep their results.`,
      deed: `Delete ${name}`,
      act: async () => {
        await ask(withId("v1/function", id), { method: "DELETE" });
        go("functions");
        return `${name} is deleted.`;
      },
    });
  return html`<div class="head">
    ${description && html`<p>${description}</p>`}
    ${paused && html`<p class="notice timedout">It is paused: new tasks are refused.</p>`}
    ${!paused && type === "code" && buildId === undefined && html`<p class="notice timedout">It has no build that succeeded, so it takes no tasks yet.</p>`}
    <dl class="facts across">
      <div><dt>Runs</dt><dd>${url ?? kindOf(data)}</dd></div>
      <div><dt>Unfinished</dt><dd>${figures(metrics.pendingTasks)}</dd></div>
      <div><dt>Today</dt><dd>${figures(metrics.todaysTasks)}</dd></div>
      <div><dt>This week</dt><dd>${figures(metrics.weekTasks)}</dd></div>
      <div><dt>Finished</dt><dd>${figures(metrics.completedTasks)}</dd></div>
      <div><dt>Time limit</dt><dd>${roundDuration(1_000 * timeout)}</dd></div>
      ${demands.length > 0 && html`<div><dt>Needs</dt><dd>${demands.join(", ")}</dd></div>`}
      <div><dt>Created</dt><dd><${When} at=${1_000 * Number(createdAt)} /></dd></div>
    </dl>
    ${may("functions:write") &&
    html`<div class="row">
      <button onClick=${toggle}>${paused ? "Resume" : "Pause"}</button>
      <button onClick=${remove}>Delete …</button>
    </div>`}
  </div>`;
}

/** @param {{id: string, current: string | undefined, isHttp: boolean}} props */
function Builds({ id, current, isHttp }) {
  /** @type {import("../asking.js").Answer<{results: {id: string, status: string}[], totalCount: number}>} */
  const answer = useAnswer(isHttp ? null : "v1/build/list", { functionId: id, limit: BUILDS_COUNT });
  useLive(answer.reload, { topics: ["counters"], everyMs: REFRESH_MS });
  if (isHttp) return null;
  const show = (/** @type {{results: {id: string, status: string}[]}} */ { results }) =>
    results.length > 0
      ? results.map((build) => html`<${Build} key=${`${build.id} ${build.status}`} id=${build.id} isCurrent=${build.id === current} />`)
      : html`<p class="quiet-text">None. Upload its folder as a zip archive, with handler.py or handler.js in it.</p>`;
  return html`<aside class="panel call-panel" aria-label="Builds">
    <header><h2>Builds</h2></header>
    <${Answered} answer=${answer} lines=${4} show=${show} />
  </aside>`;
}

/** @type {Record<string, [string, string, string]>} */
const BUILD_STATES = {
  PENDING: ["pending", "PENDING", "Being checked"],
  SUCCESS: ["resolved", "RESOLVED", "Succeeded"],
  FAILED: ["rejected", "REJECTED", "Failed"],
};

/** @param {{id: string, isCurrent: boolean}} props */
function Build({ id, isCurrent }) {
  /** @type {import("../asking.js").Answer<BuildObject>} */
  const answer = useAnswer(withId("v1/build", id));
  const show = (/** @type {BuildObject} */ { status, timeline, log, size: bytes }) => {
    const [color, state = "", word] = BUILD_STATES[status] ?? [];
    return html`<div class="row">
        <span class="state ${color}"><${Glyph} state=${state} />${word}</span>
        ${isCurrent && html`<span class="tag"><b>new tasks run it</b></span>`}
        <span class="push quiet-text">${timeline[0] && html`<${When} at=${Date.parse(timeline[0].time)} />`}</span>
      </div>
      <p class="quiet-text"><span class="id">${id}</span> · ${size(bytes)}</p>
      ${log.length > 0 && html`<pre class="code" tabindex="0" aria-label="Log">${log.join("\n")}</pre>`}`;
  };
  return html`<div class="stack build"><${Answered} answer=${answer} lines=${2} show=${show} /></div>`;
}

/** The account's functions: how their last tasks went, what waits; and the nodes that run them, with their slots. */
import { html } from "../vendor/preact.js";
import { withId } from "../api.js";
import { useAnswer } from "../asking.js";
import { useLive } from "../live.js";
import { Answered, Empty } from "../parts/notices.js";
import { figures } from "../parts/rows.js";
import { Table } from "../parts/table.js";
import { roundDuration } from "../parts/time.js";
import { href, idWithin, usePlace } from "../router.js";
import { may } from "../server.js";
import { useTitle } from "../shell.js";
import { FunctionPage } from "./function.js";
import { Recent } from "./function_tasks.js";
import { Nodes } from "./functions_nodes.js";

const REFRESH_MS = 3_000;

/** All of them, or the one that the address names. */
export function Screen() {
  const id = idWithin(usePlace(), "functions");
  return id === undefined ? html`<${List} />` : html`<${FunctionPage} key=${id} id=${id} />`;
}

/** @type {import("../parts/table.js").Column<FunctionRowObject>[]} */
const COLUMNS = [
  {
    name: "function",
    title: "Function",
    isMain: true,
    show: ({ id, name, description }) => html`<a href=${href("functions", id)}><strong>${name}</strong></a>${description && html`<div class="quiet-text">${description}</div>`}`,
  },
  { name: "state", title: "State", show: ({ paused }) => html`<span class="dot ${paused ? "warning" : "good"}" aria-hidden="true"></span> ${paused ? "Paused" : "Takes tasks"}` },
  { name: "runs", title: "Runs", show: (row) => kindOf(row) },
  {
    name: "tags",
    title: "Tags",
    isMinor: true,
    show: ({ tags }) => tags.map(({ id, name }) => html`<span class="tag" key=${id}><b>${name}</b></span>`),
  },
  { name: "recent", title: "Last tasks", show: ({ id }) => may("tasks:read") && html`<${Recent} id=${id} />` },
  { name: "waiting", title: "Unfinished / this week", isNumber: true, show: ({ id }) => html`<${Numbers} id=${id} />` },
];

/**
 * Says what a function is, in words.
 *
 * @param {FunctionRowObject} row
 */
export function kindOf({ type, lang }) {
  if (type === "http") return "Calls a URL";
  return { py: "Python", js: "JavaScript", "": "Code" }[lang];
}

/** @param {{id: string}} props */
function Numbers({ id }) {
  /** @type {import("../asking.js").Answer<FunctionObject>} */
  const answer = useAnswer(withId("v1/function", id));
  useLive(answer.reload, { topics: ["counters"], everyMs: REFRESH_MS });
  const { pendingTasks, weekTasks } = answer.data?.metrics ?? {};
  return pendingTasks === undefined || weekTasks === undefined ? "" : html`<b>${figures(pendingTasks)}</b> / ${figures(weekTasks)}`;
}

function List() {
  useTitle("Functions");
  /** @type {import("../asking.js").Answer<FunctionRowObject[]>} */
  const answer = useAnswer("v1/function/list");
  useLive(answer.reload, {});
  const show = (/** @type {FunctionRowObject[]} */ functions) =>
    functions.length > 0
      ? html`<${Table} label="Functions" columns=${functions.some(({ tags }) => tags.length > 0) ? COLUMNS : COLUMNS.filter(({ name }) => name !== "tags")} rows=${functions} keyOf=${(/** @type {FunctionRowObject} */ { id }) => id} />`
      : html`<${Empty} title="This account has no functions" command=${"curl -X POST -H \"Authorization: Bearer $TROTH_TOKEN\" -d '{\"name\": \"hello\", \"type\": \"CODE\", \"lang\": \"PY\"}' " + new URL("../v1/function", document.baseURI).href}>
          <p>A function is code that nodes run, or a URL that the server calls, once for each task.</p>
        <//>`;
  return html`<div class="stack">
    <${Usage} />
    <${Answered} answer=${answer} lines=${4} show=${show} />
    ${may("node") && html`<${Nodes} />`}
  </div>`;
}

function Usage() {
  /** @type {import("../asking.js").Answer<UsageObject>} */
  const answer = useAnswer("v1/metrics");
  useLive(answer.reload, { topics: ["counters"], everyMs: REFRESH_MS });
  const show = (/** @type {UsageObject} */ used) => html`<dl class="facts across">
    <div><dt>Unfinished tasks</dt><dd>${figures(used.pendingTasks)}</dd></div>
    <div><dt>Waiting for a node</dt><dd>${figures(used.waitingTasks)}${used.waitingTasks > 0 && html` <span class="quiet-text">the oldest for ${roundDuration(1_000 * used.oldestWaitingSeconds)}</span>`}</dd></div>
    <div><dt>Created today</dt><dd>${figures(used.todayTasks)}</dd></div>
    <div><dt>Finished</dt><dd>${figures(used.completedTasks)}</dd></div>
    <div><dt>Nodes</dt><dd>${used.activeNodes > 0 ? html`${used.activeNodes} <span class="quiet-text">${used.busyNodes} busy, ${used.freeNodes} with a free slot</span>` : "none connected"}</dd></div>
    ${used.pendingBuilds > 0 && html`<div><dt>Builds being checked</dt><dd>${used.pendingBuilds}</dd></div>`}
  </dl>`;
  return html`<${Answered} answer=${answer} lines=${2} show=${show} />`;
}

/** The tasks of a function: how the last ones went at a glance, and each with its progress, node and result. */
import { html, useState } from "../vendor/preact.js";
import { apiUrl, ask, withId } from "../api.js";
import { useAnswer } from "../asking.js";
import { useLive } from "../live.js";
import { confirm, keepFocus } from "../parts/dialog.js";
import { Answered } from "../parts/notices.js";
import { Glyph } from "../parts/state.js";
import { Table } from "../parts/table.js";
import { Span, When, roundDuration } from "../parts/time.js";
import { may } from "../server.js";

const REFRESH_MS = 3_000;
const RECENT_COUNT = 20;
const PAGE_COUNT = 25;
/** The node of functions that the server calls itself. */
const SERVER = "00000000-0000-4000-8000-000000000000";

/**
 * Returns the state of a task as that of its promise, and as a word.
 *
 * @param {FunctionTaskRowObject} task
 * @returns {[string, string]}
 */
function stateOf({ status, progress }) {
  if (status === 0) return ["PENDING", progress > 0 ? `Running, ${progress} %` : "Unfinished"];
  if (status < 400) return ["RESOLVED", "Succeeded"];
  if (status === 410) return ["REJECTED_CANCELED", "Canceled"];
  if (status === 504) return ["REJECTED_TIMEDOUT", "Timed out"];
  return ["REJECTED", `Failed, ${status}`];
}

/** @type {Record<string, string>} */
const COLORS = { PENDING: "pending", RESOLVED: "resolved", REJECTED: "rejected", REJECTED_CANCELED: "canceled", REJECTED_TIMEDOUT: "timedout" };

/** @param {FunctionTaskRowObject | undefined} task */
function colorOf(task) {
  return task ? COLORS[stateOf(task)[0]] : "";
}

/**
 * The last tasks as a row of bars, and how many of those that have ended succeeded.
 *
 * @param {{id: string}} props
 */
export function Recent({ id }) {
  /** @type {import("../asking.js").Answer<FunctionTaskRowObject[]>} */
  const answer = useAnswer("v1/task/list", { functionId: id, limit: String(RECENT_COUNT) });
  useLive(answer.reload, { topics: ["counters"], everyMs: REFRESH_MS });
  const tasks = answer.data?.toReversed() ?? [];
  if (tasks.length === 0) return answer.data && html`<span class="quiet-text">none yet</span>`;
  const over = tasks.filter(({ status }) => status > 0);
  const good = over.filter(({ status }) => status < 400).length;
  return html`<span class="nowrap">
    <svg class="recent" viewBox=${`0 0 ${6 * RECENT_COUNT} 16`} aria-hidden="true">
      ${Array.from({ length: RECENT_COUNT }, (_, index) => html`<rect key=${index} class=${colorOf(tasks[index])} x=${6 * index} width="4" height="16" rx="1" />`)}
    </svg>
    <span class="figures"> ${over.length > 0 ? `${good} of ${over.length} succeeded` : "none has ended"}</span>
  </span>`;
}

/** @param {{id: string}} props */
export function FunctionTasks({ id }) {
  const [page, setPage] = useState(1);
  /** @type {import("../asking.js").Answer<NodeObject[]>} */
  const nodes = useAnswer(may("node") ? "v1/node/list" : null);
  const names = new Map([[SERVER, "the server"], ...(nodes.data ?? []).map(({ hash, description }) => /** @type {[string, string]} */ ([hash, description]))]);
  /** @type {import("../asking.js").Answer<FunctionTaskRowObject[]>} */
  const answer = useAnswer("v1/task/list", { functionId: id, limit: String(PAGE_COUNT), page: String(page) });
  useLive(answer.reload, { topics: ["counters"], everyMs: REFRESH_MS });
  /** @type {import("../parts/table.js").Column<FunctionTaskRowObject>[]} */
  const columns = [
    { name: "state", title: "State", show: (task) => html`<${TaskState} task=${task} />` },
    { name: "task", title: "Task", isMain: true, show: ({ id: taskId }) => html`<span class="id nowrap">${taskId}</span>` },
    { name: "created", title: "Created", show: ({ issued }) => html`<${When} at=${1_000 * Number(issued)} />` },
    { name: "run", title: "Ran for, on", show: (task) => html`<${Run} key=${`${task.status} ${task.progress}`} task=${task} names=${names} />` },
    { name: "actions", title: "", show: (task) => html`<${Actions} task=${task} done=${answer.reload} />` },
  ];
  const turn = (/** @type {number} */ to) => {
    setPage(to);
    keepFocus();
  };
  const show = (/** @type {FunctionTaskRowObject[]} */ tasks) => html`
    ${tasks.length > 0 ? html`<${Table} isLatest label="Tasks" columns=${columns} rows=${tasks} keyOf=${(/** @type {FunctionTaskRowObject} */ task) => task.id} />` : html`<p class="body quiet-text">None${page > 1 && " here"}.</p>`}
    ${(page > 1 || tasks.length === PAGE_COUNT) &&
    html`<div class="row panel-foot">
      <button disabled=${page === 1} onClick=${() => turn(page - 1)}>Newer</button>
      <button disabled=${tasks.length < PAGE_COUNT} onClick=${() => turn(page + 1)}>Older</button>
    </div>`}`;
  return html`<section class="panel"><header><h2>Tasks</h2></header><${Answered} answer=${answer} show=${show} /></section>`;
}

/** @param {{task: FunctionTaskRowObject}} props */
function TaskState({ task }) {
  const [state, word] = stateOf(task);
  return html`<span class="state ${COLORS[state]}"><${Glyph} state=${state} />${word}</span>`;
}

/** @param {{task: FunctionTaskRowObject, names: Map<string, string>}} props */
function Run({ task, names }) {
  /** @type {import("../asking.js").Answer<FunctionTaskObject>} */
  const answer = useAnswer(withId("v1/task", task.id));
  useLive(() => task.status === 0 && answer.reload(), { topics: ["counters"], everyMs: REFRESH_MS });
  if (!answer.data) return "";
  const { node, assigned, finished } = answer.data;
  if (!assigned) return task.status === 0 ? html`<span class="quiet-text">waits for a node</span>` : "";
  const began = 1_000 * Number(assigned);
  // These times are whole seconds.
  const took = Math.max(1_000, 1_000 * Number(finished) - began);
  return html`<span class="nowrap">${finished ? roundDuration(took) : html`<${Span} since=${began} />`} <span class="quiet-text" title=${node}>${names.get(node) || `${node.slice(0, 8)}…`}</span></span>`;
}

/** @param {{task: FunctionTaskRowObject, done: () => void}} props */
function Actions({ task: { id, status }, done }) {
  if (status > 0) return html`<a href=${apiUrl(`${withId("v1/task", id)}/result`).href} target="_blank" rel="noreferrer">Result</a>`;
  if (!may("tasks:write")) return null;
  const cancel = () =>
    confirm({
      title: `Cancel the task ${id}?`,
      text: "The node that runs it is told at once. This cannot be undone.",
      deed: "Cancel the task",
      act: async () => {
        await ask(withId("v1/task", id), { method: "DELETE" });
        done();
        return `The task ${id} is canceled.`;
      },
    });
  return html`<button class="small" onClick=${cancel}>Cancel …</button>`;
}

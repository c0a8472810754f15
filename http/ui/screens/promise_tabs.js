/** The tabs of a promise besides its timeline: its tasks, who waits for it, and all of it as JSON. */
import { html } from "../vendor/preact.js";
import { withId } from "../api.js";
import { useAnswer } from "../asking.js";
import { useLive } from "../live.js";
import { Answered, Copy } from "../parts/notices.js";
import { Table } from "../parts/table.js";
import { TASK_COLUMNS, taskActionsColumn } from "../parts/tasks.js";
import { When } from "../parts/time.js";
import { href } from "../router.js";
import { may } from "../server.js";

const RAW_LIMIT_CHARACTERS = 64 << 10;

const STATES = "init,enqueued,claimed,completed,timedout,stalled,pending,acquired,suspended,halted,fulfilled";

/** @param {{id: string}} props */
export function Tasks({ id }) {
  /** @type {import("../asking.js").Answer<{tasks: TaskObject[]}>} */
  const answer = useAnswer("tasks", { root: id, states: STATES, limit: "100" });
  useLive(answer.reload, { topics: ["queues"], watch: [id], everyMs: 2_000 });
  const columns = may("promises:write") ? [...TASK_COLUMNS, taskActionsColumn(answer.reload)] : TASK_COLUMNS;
  return html`<${Answered}
    answer=${answer}
    show=${(/** @type {{tasks: TaskObject[]}} */ data) =>
      data.tasks.length > 0
        ? html`<${Table} label="Tasks" columns=${columns} rows=${data.tasks} keyOf=${(/** @type {TaskObject} */ task) => task.id} />`
        : html`<p class="more">No worker was asked to work on it: it has no tag resonate:invoke.</p>`}
  />`;
}

/** @type {import("../parts/table.js").Column<WaiterObject>[]} */
const WAITERS = [
  { name: "kind", title: "How", show: ({ kind }) => kind },
  {
    name: "who",
    title: "Who",
    show: ({ promiseId, id }) => (promiseId ? html`<a class="id" href=${href("promises", promiseId)}>${promiseId}</a>` : html`<span class="id">${id}</span>`),
  },
  { name: "receiver", title: "Is told at", show: ({ receiver }) => html`<span class="id">${receiver ?? ""}</span>` },
  { name: "since", title: "Since", isMinor: true, show: ({ createdOn }) => createdOn && html`<${When} at=${createdOn} />` },
];

/** @param {{id: string}} props */
export function Waiting({ id }) {
  /** @type {import("../asking.js").Answer<{waiting: WaiterObject[]}>} */
  const answer = useAnswer(withId("waiting", id));
  useLive(answer.reload, { watch: [id] });
  return html`<${Answered}
    answer=${answer}
    show=${(/** @type {{waiting: WaiterObject[]}} */ data) =>
      data.waiting.length > 0
        ? html`<${Table} label="Waiting for it" columns=${WAITERS} rows=${data.waiting} keyOf=${(/** @type {WaiterObject} */ waiter) => waiter.id} />`
        : html`<p class="more">Nothing is told when it completes: no callback and no subscription is registered.</p>`}
  />`;
}

/** @param {{answer: import("../asking.js").Answer<PromiseObject>}} props */
export function Raw({ answer }) {
  return html`<${Answered}
    answer=${answer}
    show=${(/** @type {PromiseObject} */ data) => {
      const text = JSON.stringify(data, null, 2);
      const isCut = text.length > RAW_LIMIT_CHARACTERS;
      return html`<div class="body payload">
        <div class="row end"><${Copy} text=${text}>Copy<//></div>
        <pre class="code" tabindex="0" role="region" aria-label="JSON">${isCut ? text.slice(0, RAW_LIMIT_CHARACTERS) : text}</pre>
        ${isCut && html`<p class="quiet-text">The beginning; copying takes all of it.</p>`}
      </div>`;
    }}
  />`;
}

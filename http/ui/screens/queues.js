/** The receivers of tasks: whether they take their work, what waits, and why not; workers and nodes below. */
import { html } from "../vendor/preact.js";
import { useAnswer } from "../asking.js";
import { useLive } from "../live.js";
import { BrokenId } from "../parts/broken_id.js";
import { short } from "../parts/chart.js";
import { Answered, Command, Empty } from "../parts/notices.js";
import { figures } from "../parts/rows.js";
import { Table } from "../parts/table.js";
import { Span, When } from "../parts/time.js";
import { href, idWithin, usePlace } from "../router.js";
import { may } from "../server.js";
import { useTitle } from "../shell.js";
import { QueueTasks, RetryQueue } from "./queue.js";

const LIMIT = "100";

/** The color of each health and what it says. @type {Record<string, ["good" | "warning" | "bad", string]>} */
const HEALTH = {
  good: ["good", "Taking work"],
  new: ["good", "Not tried yet"],
  "no-workers": ["warning", "No worker listens"],
  suspect: ["warning", "Has failed once"],
  failing: ["bad", "Does not answer"],
  undeliverable: ["bad", "Cannot be reached"],
};

/** @param {{queue: QueueObject}} props */
function Health({ queue }) {
  const { health, failingSince, lastError, nextTry, waiting, stalled } = queue;
  const idle = health === "no-workers" && waiting + stalled === 0;
  const [color, text] = idle ? ["", "No worker listens"] : (HEALTH[health] ?? ["warning", health]);
  return html`<span class="nowrap"><span class="dot ${color}" aria-hidden="true"></span> <strong>${text}</strong></span>
    ${failingSince && html`<span class="quiet-text"> for <${Span} since=${failingSince} /></span>`}
    ${lastError && html`<div class="problem">${lastError}</div>`}
    ${nextTry && html`<div class="quiet-text">Next try <${When} at=${nextTry} soon="now" /></div>`}`;
}

/** @param {{queue: QueueObject, most: number}} props */
function Waiting({ queue, most }) {
  const count = queue.waiting + queue.stalled;
  const color = queue.health === "good" ? "" : HEALTH[queue.health]?.[0] === "bad" ? "rejected" : "timedout";
  return html`<span class="nowrap ${color}">
    <b class="figures">${figures(count)}</b>
    <svg class="meter after" aria-hidden="true">
      <rect width="100%" height="4" rx="2" />
      ${count > 0 && html`<rect width=${`${Math.max(3, Math.round((count / most) * 100))}%`} height="4" rx="2" />`}
    </svg>
  </span>`;
}

/**
 * @param {QueueObject[]} queues
 * @param {() => void} done
 * @returns {import("../parts/table.js").Column<QueueObject>[]}
 */
function columnsFor(queues, done) {
  const most = Math.max(1, ...queues.map(({ waiting, stalled }) => waiting + stalled));
  /** @type {import("../parts/table.js").Column<QueueObject>[]} */
  const columns = [
    { name: "receiver", title: "Receiver", isMain: true, show: ({ receiver }) => html`<a class="id" href=${href("queues", receiver)}><${BrokenId} id=${receiver} /></a>` },
    { name: "health", title: "Health", show: (queue) => html`<${Health} queue=${queue} />` },
    { name: "workers", title: "Workers", isNumber: true, show: ({ receiver, workers }) => (receiver.startsWith("poll:") ? workers : "–") },
    { name: "waiting", title: "Waiting", show: (queue) => html`<${Waiting} queue=${queue} most=${most} />` },
    { name: "oldest", title: "Oldest", show: ({ oldestOn }) => oldestOn !== null && html`<${Span} since=${oldestOn} />` },
    { name: "flight", title: "Being sent", isNumber: true, isMinor: true, show: ({ inFlight }) => inFlight },
    { name: "rate", title: "In / out", isNumber: true, isMinor: true, show: ({ rateIn, rateOut }) => `${perSecond(rateIn)} / ${perSecond(rateOut)}` },
  ];
  if (may("promises:write")) columns.push({ name: "actions", title: "", show: (queue) => html`<${RetryQueue} queue=${queue} done=${done} />` });
  return columns;
}

/** @param {number | null} rate */
function perSecond(rate) {
  return rate === null ? "–" : `${short(rate)}/s`;
}

/** @type {import("../parts/table.js").Column<WorkerObject>[]} */
const WORKER_COLUMNS = [
  { name: "id", title: "Worker", isMain: true, show: ({ id }) => html`<a class="id" href=${href("tasks", undefined, { process: id })}>${id}</a>` },
  { name: "group", title: "Group", show: ({ group, protocol }) => html`${protocol === "node" ? "node" : html`<span class="id">${group}</span>`}` },
  { name: "state", title: "State", show: (worker) => html`<${WorkerState} worker=${worker} />` },
  { name: "address", title: "Address", isMinor: true, show: ({ address }) => address ?? "" },
  { name: "waiting", title: "Messages waiting", isNumber: true, show: ({ waiting }) => waiting },
  { name: "delivered", title: "Delivered", isNumber: true, isMinor: true, show: ({ delivered }) => figures(delivered) },
  { name: "leases", title: "Tasks held", isNumber: true, show: ({ leases, slots }) => `${leases ?? "–"}${slots ? ` of ${slots}` : ""}` },
];

/** @param {{worker: WorkerObject}} props */
function WorkerState({ worker }) {
  if (worker.since === null) return html`<span class="dot warning" aria-hidden="true"></span> Away`;
  return html`<span class="dot good" aria-hidden="true"></span> Connected <span class="quiet-text">for <${Span} since=${worker.since} /></span>`;
}

/** All receivers, or the one that the address names. */
export function Screen() {
  const receiver = idWithin(usePlace(), "queues");
  useTitle(receiver ?? "Queues & workers", receiver !== undefined);
  /** @type {import("../asking.js").Answer<{queues: QueueObject[], total: number, complete: boolean}>} */
  const queues = useAnswer("queues", { limit: LIMIT });
  useLive(queues.reload, { topics: ["queues"] });
  const show = (/** @type {{queues: QueueObject[], total: number}} */ data) => {
    const rows = receiver === undefined ? data.queues : data.queues.filter((queue) => queue.receiver === receiver);
    if (rows.length === 0) return html`<${NoQueue} receiver=${receiver} />`;
    return html`<${Table} key=${receiver} label="Receivers" columns=${columnsFor(rows, queues.reload)} rows=${rows} keyOf=${(/** @type {QueueObject} */ queue) => queue.receiver} />
      ${receiver === undefined && data.total > rows.length && html`<p class="more">The ${rows.length} with most messages, of ${figures(data.total)}.</p>`}`;
  };
  return html`<div class="stack">
    <${Answered} answer=${queues} show=${show} />
    ${receiver !== undefined && may("promises:read") && html`<${QueueTasks} receiver=${receiver} />`}
    <${Workers} receiver=${receiver} />
  </div>`;
}

/** @param {{receiver: string | undefined}} props */
function NoQueue({ receiver }) {
  if (receiver !== undefined) {
    return html`<${Empty} title="Nothing waits for this receiver, and no worker listens"><p><a href="queues">All receivers</a></p><//>`;
  }
  return html`<${Empty} title="Nothing waits, and no worker listens" command="troth promises create report --tag resonate:invoke=poll://any@default">
    <p>A worker opens a stream with GET /poll/GROUP/ID. A promise with the tag resonate:invoke sends it a task:</p>
  <//>`;
}

/** @param {{receiver: string | undefined}} props */
function Workers({ receiver }) {
  /** @type {import("../asking.js").Answer<{workers: WorkerObject[], nodes: WorkerObject[], cursor: string | null}>} */
  const answer = useAnswer("workers", { limit: LIMIT });
  useLive(answer.reload, { topics: ["queues"] });
  const group = receiver?.match(/^poll:\/\/(?:any@|uni@)?([^/]+)/)?.[1];
  const show = (/** @type {{workers: WorkerObject[], nodes: WorkerObject[], cursor: string | null}} */ data) => {
    const all = receiver === undefined ? [...data.workers, ...data.nodes] : data.workers.filter((worker) => worker.group === group);
    if (all.length === 0) return html`<div class="body stack"><p class="quiet-text">None is connected.</p>${group && html`<${Command} text=${`curl -N ${location.origin.replace(/:\d+$/, "")}:8002/poll/${group}/worker-1`} />`}</div>`;
    return html`<${Table} key=${receiver} label="Workers" columns=${WORKER_COLUMNS} rows=${all} keyOf=${(/** @type {WorkerObject} */ worker) => `${worker.group}/${worker.id}`} />
      ${data.cursor !== null && html`<p class="more">The first ${data.workers.length}; troth workers lists all.</p>`}`;
  };
  if (receiver !== undefined && group === undefined) return null;
  return html`<section class="panel"><header><h2>Workers${receiver === undefined ? " and nodes" : ""}</h2></header><${Answered} answer=${answer} show=${show} lines=${3} /></section>`;
}

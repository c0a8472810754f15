/** Tasks of all kinds: the columns in which they are listed, and what an operator may do with one. */
import { html } from "../vendor/preact.js";
import { ask } from "../api.js";
import { complete } from "../promise.js";
import { href } from "../router.js";
import { may, now } from "../server.js";
import { BrokenId } from "./broken_id.js";
import { confirm, keepFocus } from "./dialog.js";
import { say } from "./notices.js";
import { State } from "./state.js";
import { Span, When } from "./time.js";

/** @type {import("./table.js").Column<TaskObject>[]} */
export const TASK_COLUMNS = [
  { name: "state", title: "State", show: ({ state }) => html`<${State} state=${state} />` },
  {
    name: "task",
    title: "Task of",
    isMain: true,
    show: ({ promiseId, function: name, type, kind }) => html`<a class="id" href=${href("promises", promiseId, { tab: "tasks" })}><${BrokenId} id=${promiseId} /></a>
      <div class="quiet-text">${name && html`<b class="function">${name}</b> · `}${type}${kind === "rest" ? "" : ` · ${kind}`}</div>`,
  },
  {
    name: "receiver",
    title: "Receiver",
    show: ({ receiver, lastError }) => html`<a class="id" href=${href("queues", receiver)}><${BrokenId} id=${receiver} /></a>
      ${lastError && html`<div class="problem">${lastError}</div>`}`,
  },
  { name: "holder", title: "Held by", isMinor: true, show: ({ processId }) => html`<span class="id">${processId ?? ""}</span>` },
  { name: "sent", title: "Sent", isNumber: true, isMinor: true, show: ({ sentCount, failedCount }) => `${sentCount}${failedCount ? ` · ${failedCount} failed` : ""}` },
  { name: "since", title: "Since", isMinor: true, show: ({ createdOn }) => createdOn && html`<${When} at=${createdOn} />` },
  { name: "left", title: "Next", show: (task) => html`<${Next} task=${task} />` },
];

/** @param {{task: TaskObject}} props */
function Next({ task }) {
  const { state, until, nextTry, notBefore } = task;
  const isHeld = state === "claimed" || state === "acquired";
  if (isHeld && until !== undefined) {
    return until < now() ? html`<span class="problem">lease ran out</span>` : html`<span class="quiet-text nowrap">lease <${Span} until=${until} /></span>`;
  }
  if (nextTry !== undefined) return html`<span class="quiet-text nowrap">tried <${When} at=${nextTry} soon="now" /></span>`;
  if (notBefore !== undefined && notBefore > now()) return html`<span class="quiet-text nowrap">sent <${When} at=${notBefore} /></span>`;
  if (until !== undefined) return html`<span class="quiet-text nowrap">sent again <${When} at=${until} soon="now" /></span>`;
  return "";
}

/**
 * The buttons for a task, as its state allows.
 *
 * @param {{task: TaskObject, done: () => void}} props
 */
export function TaskActions({ task, done }) {
  if (!may("promises:write") || task.kind === "function") return null;
  const isHeld = task.state === "claimed" || task.state === "acquired";
  const isWaiting = ["init", "enqueued", "stalled", "pending"].includes(task.state);
  const retry = async () => {
    try {
      await ask("tasks/retry", { method: "POST", body: { id: task.id } });
      say(`The task of ${task.promiseId} is being sent.`);
    } catch (error) {
      say(/** @type {Error} */ (error).message, true);
    }
    done();
    keepFocus();
  };
  const release = () =>
    confirm({
      title: `Take the task of ${task.promiseId} from ${task.processId || "its holder"}?`,
      text: "It goes out again. If its holder still works on it, what it does from now on is refused.",
      deed: "Release the task",
      act: async () => {
        await ask("tasks/release", { method: "POST", body: { id: task.id } });
        done();
        return `The task of ${task.promiseId} is released.`;
      },
    });
  const drop = () =>
    confirm({
      title: `Drop the task of ${task.promiseId}?`,
      text: `${task.promiseId} is canceled: no worker gets its task, and what waits for it is told. This cannot be undone.`,
      deed: "Drop the task",
      act: async () => {
        await complete(task.promiseId, "REJECTED_CANCELED", {});
        done();
        return `The task of ${task.promiseId} is dropped.`;
      },
    });
  return html`${isHeld && html`<button key="release" class="small" onClick=${release}>Release …</button>`}
    ${isWaiting && html`<button key="retry" class="small" onClick=${retry}>Send now</button>`}
    ${isWaiting && task.type === "invoke" && html` <button key="drop" class="small" onClick=${drop}>Drop …</button>`}`;
}

/**
 * The column of those buttons.
 *
 * @param {() => void} done
 * @returns {import("./table.js").Column<TaskObject>}
 */
export function taskActionsColumn(done) {
  return { name: "actions", title: "", show: (task) => html`<${TaskActions} task=${task} done=${done} />` };
}

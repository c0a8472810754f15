/** One receiver: the tasks that wait for it, and sending them now. */
import { html } from "../vendor/preact.js";
import { ask } from "../api.js";
import { useAnswer } from "../asking.js";
import { useLive } from "../live.js";
import { keepFocus } from "../parts/dialog.js";
import { Answered, say } from "../parts/notices.js";
import { Table } from "../parts/table.js";
import { TASK_COLUMNS, taskActionsColumn } from "../parts/tasks.js";
import { href } from "../router.js";
import { may } from "../server.js";

const SHOWN_COUNT = "25";

/**
 * A button that sends all that waits for a receiver now.
 *
 * @param {{queue: QueueObject, done: () => void}} props
 */
export function RetryQueue({ queue, done }) {
  if (queue.waiting + queue.stalled === 0 || queue.health === "good") return null;
  const retry = async () => {
    try {
      await ask("queues/retry", { method: "POST", body: { receiver: queue.receiver } });
      say(`What waits for ${queue.receiver} is being sent.`);
    } catch (error) {
      say(/** @type {Error} */ (error).message, true);
    }
    done();
    keepFocus();
  };
  return html`<button class="small" onClick=${retry}>Retry now</button>`;
}

/** @param {{receiver: string}} props */
export function QueueTasks({ receiver }) {
  /** @type {import("../asking.js").Answer<{tasks: TaskObject[], cursor: string | null}>} */
  const answer = useAnswer("tasks", { receiver, limit: SHOWN_COUNT });
  useLive(answer.reload, { topics: ["queues"], everyMs: 2_000 });
  const columns = TASK_COLUMNS.filter(({ name }) => name !== "receiver");
  if (may("promises:write")) columns.push(taskActionsColumn(answer.reload));
  return html`<section class="panel">
    <header><h2>Tasks for it, the oldest first</h2><a href=${href("tasks", undefined, { receiver })}>All of them</a></header>
    <${Answered}
      answer=${answer}
      show=${(/** @type {{tasks: TaskObject[]}} */ data) =>
        data.tasks.length > 0
          ? html`<${Table} label="Tasks" columns=${columns} rows=${data.tasks} keyOf=${(/** @type {TaskObject} */ task) => task.id} />`
          : html`<p class="body quiet-text">None.</p>`}
    />
  </section>`;
}

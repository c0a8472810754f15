/** Bulk jobs: what each does to what, how far it is, and how it ended. Those that run can be stopped. */
import { html, useEffect } from "../vendor/preact.js";
import { ask, withId } from "../api.js";
import { useAnswer } from "../asking.js";
import { tick, useLive } from "../live.js";
import { BULK_DEEDS, BulkResult, Matched } from "../parts/bulk.js";
import { confirm } from "../parts/dialog.js";
import { Answered, Empty } from "../parts/notices.js";
import { figures } from "../parts/rows.js";
import { Table } from "../parts/table.js";
import { When, roundDuration } from "../parts/time.js";
import { may, now } from "../server.js";
import { useTitle } from "../shell.js";

/** The color of each state and what it says. @type {Record<string, [string, string]>} */
const STATES = {
  running: ["pending", "Running"],
  finished: ["resolved", "Finished"],
  stopped: ["canceled", "Stopped"],
  failed: ["rejected", "Failed"],
};

/** Shows the list. */
export function Screen() {
  useTitle("Bulk jobs");
  /** @type {import("../asking.js").Answer<{jobs: BulkJobObject[]}>} */
  const answer = useAnswer("bulk");
  useLive(answer.reload, {});
  const isRunning = answer.data?.jobs.some(({ state }) => state === "running");
  useEffect(() => (isRunning ? tick.watch(answer.reload) : undefined), [isRunning, answer.reload]);
  /** @type {import("../parts/table.js").Column<BulkJobObject>[]} */
  const columns = [
    { name: "state", title: "State", show: ({ state }) => html`<span class="state plain ${STATES[state]?.[0]}">${STATES[state]?.[1] ?? state}</span>` },
    { name: "deed", title: "What", isMain: true, show: ({ action, subject, dryRun, filter }) => html`<strong>${BULK_DEEDS[action]?.[0] ?? action} ${subject}</strong>${dryRun && html` <span class="tag"><b>dry run</b></span>`} <${Matched} filter=${filter} />` },
    { name: "progress", title: "How far", show: (job) => html`<${Progress} job=${job} />` },
    { name: "by", title: "By", isMinor: true, show: ({ by }) => html`<span title=${by}>${by.replace(/^token \S+ of (.*) \(\S+\)$/, "$1")}</span>` },
    { name: "created", title: "Started", isMinor: true, show: ({ createdOn }) => html`<${When} at=${createdOn} />` },
  ];
  if (may("promises:write")) columns.push({ name: "actions", title: "", show: (job) => job.state === "running" && html`<button class="small" onClick=${() => stop(job, answer.reload)}>Stop …</button>` });
  const show = (/** @type {{jobs: BulkJobObject[]}} */ { jobs }) =>
    jobs.length > 0
      ? html`<${Table} label="Bulk jobs" columns=${columns} rows=${jobs} keyOf=${(/** @type {BulkJobObject} */ { id }) => id} />
          <p class="more">Those that run, and the last hundred that ended within seven days.</p>`
      : html`<${Empty} title="No bulk job was started within seven days" command="troth bulk cancel --id 'order-*' --state pending --dry-run">
          <p>A bulk job does one thing to everything that a filter finds, and goes on after a restart. In the <a href="promises">list of promises</a>, select all and then all that match; or:</p>
        <//>`;
  return html`<${Answered} answer=${answer} lines=${6} show=${show} />`;
}

/** @param {{job: BulkJobObject}} props */
function Progress({ job }) {
  const { state, total, done, failed, skipped, left, rate, problem, createdOn, endedOn } = job;
  if (state === "running" && total === null) return html`<span class="quiet-text">counting …</span>`;
  const over = done + failed + Object.values(skipped).reduce((sum, count) => sum + count, 0);
  if (state !== "running") {
    return html`<${BulkResult} job=${job} />
      ${problem && html`<div class="problem">${problem}</div>`}
      ${endedOn !== undefined && html`<div class="quiet-text">in ${roundDuration(endedOn - createdOn)}</div>`}`;
  }
  return html`<span class="nowrap pending">
      <svg class="meter" aria-hidden="true">
        <rect width="100%" height="4" rx="2" />
        <rect width=${`${Math.round((100 * over) / Math.max(1, total ?? 1))}%`} height="4" rx="2" />
      </svg>
      <b class="figures">${figures(over)}</b> of ${figures(total ?? 0)}
    </span>
    <div class="quiet-text">${figures(rate)}/s${over > 0 && left !== null && ` · about ${roundDuration((left * (now() - createdOn)) / over)} left`}</div>`;
}

/**
 * @param {BulkJobObject} job
 * @param {() => void} done
 */
function stop(job, done) {
  const [deed = job.action] = BULK_DEEDS[job.action] ?? [];
  confirm({
    title: `Stop the job “${deed} ${job.subject}”?`,
    text: "What is done stays done. It cannot go on later; another job can do the rest.",
    deed: "Stop the job",
    act: async () => {
      await ask(withId("bulk", job.id), { method: "DELETE" });
      done();
      return "The job is stopped.";
    },
  });
}

/** Bulk jobs: their words, what they match and what came of them; and the dialog that tries one dry before it starts. */
import { html, useEffect, useState } from "../vendor/preact.js";
import { ask, withId } from "../api.js";
import { go } from "../router.js";
import { BrokenId } from "./broken_id.js";
import { Confirmation, open } from "./dialog.js";
import { Failed, Loading } from "./notices.js";
import { figures } from "./rows.js";

const LOOK_MS = 300;
const SHOWN_COUNT = 6;

/** What each action does, and what has been done after it. @type {Record<string, [string, string]>} */
export const BULK_DEEDS = {
  cancel: ["Cancel", "canceled"],
  reject: ["Reject", "rejected"],
  resolve: ["Resolve", "resolved"],
  delete: ["Delete", "deleted"],
  retry: ["Retry", "sent again"],
  pause: ["Pause", "paused"],
  resume: ["Resume", "resumed"],
};

/** Why some are passed over. @type {Record<string, string>} */
const REASONS = {
  completed: "completed already",
  pending: "still pending",
  originPending: "needed by a pending workflow",
  inUse: "in use",
  notWaiting: "not stalled",
  paused: "paused already",
  notPaused: "not paused",
  forbidden: "not allowed",
  changed: "changed meanwhile",
};

/**
 * The filter of a job.
 *
 * @param {{filter: Record<string, string>}} props
 */
export function Matched({ filter }) {
  return Object.entries(filter).map(([name, text]) => html`<span class="tag" key=${name} title=${`${name}=${text}`}>${name} <b>${text}</b></span>`);
}

/**
 * How many a job has done, or would do, and why not the others.
 *
 * @param {{job: BulkJobObject}} props
 */
export function BulkResult({ job: { action, dryRun, done, failed, skipped } }) {
  const [, did = action] = BULK_DEEDS[action] ?? [];
  const rest = Object.entries(skipped).map(([reason, count]) => `${figures(count)} ${REASONS[reason] ?? reason}`);
  if (failed > 0) rest.push(`${figures(failed)} failed`);
  return html`<span><b class="figures">${figures(done)}</b> ${dryRun && "would be "}${did}</span>${rest.length > 0 && html`<div class="quiet-text">not ${rest.join(", ")}</div>`}`;
}

/**
 * Counts what a filter finds, shows some of it, and starts the job when one agrees.
 *
 * @param {{action: string, subject: string, filter: Record<string, string>, text: string}} wanted `text` says what cannot be undone.
 */
export function startBulk(wanted) {
  open({
    title: `${BULK_DEEDS[wanted.action]?.[0]} all ${wanted.subject} that match`,
    body: (close) => html`<${Trial} ...${wanted} close=${close} />`,
  });
}

/** @param {{action: string, subject: string, filter: Record<string, string>, text: string, close: () => void}} props */
function Trial({ action, subject, filter, text, close }) {
  /** @type {[{job?: BulkJobObject, error?: any}, (made: any) => void]} */
  const [{ job, error }, setFound] = useState({});
  useEffect(() => {
    let isOpen = true;
    /** @type {BulkJobObject | undefined} */
    let trial;
    const count = async () => {
      trial = await ask("bulk", { method: "POST", body: { action, subject, filter, dryRun: true } });
      while (isOpen && trial?.state === "running") {
        setFound({ job: trial });
        await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
        trial = await ask(withId("bulk", trial.id));
      }
      if (isOpen) setFound({ job: trial });
      else if (trial?.state === "running") await ask(withId("bulk", trial.id), { method: "DELETE" });
    };
    count().catch((refused) => isOpen && setFound({ error: refused }));
    return () => {
      isOpen = false;
    };
  }, []);
  const nothing = html`<div class="row end"><button onClick=${close}>Close</button></div>`;
  if (error) return html`<div class="stack"><${Failed} error=${error} />${nothing}</div>`;
  if (job === undefined || job.state === "running") {
    return html`<div class="stack"><p>Counting …${job && job.done > 0 && html` <b class="figures">${figures(job.done)}</b> so far`}</p><${Loading} lines=${3} />${nothing}</div>`;
  }
  if (job.state === "failed" || job.done === 0) {
    return html`<div class="stack"><p>${job.problem ?? html`There is nothing to do: <${BulkResult} job=${job} />`}</p>${nothing}</div>`;
  }
  const deed = `${BULK_DEEDS[action]?.[0]} ${figures(job.done)} ${job.done === 1 ? subject.slice(0, -1) : subject}`;
  const start = async () => {
    await ask("bulk", { method: "POST", body: { action, subject, filter } });
    go("bulk");
    return `The job has started: ${deed.toLowerCase()}.`;
  };
  return html`<${Confirmation} text=${text} deed=${deed} count=${job.done} act=${start} close=${close}>
    <p><${Matched} filter=${filter} /></p>
    <div><${BulkResult} job=${job} /></div>
    <ul class="examples">
      ${job.examples?.slice(0, SHOWN_COUNT).map((id) => html`<li key=${id} class="id"><${BrokenId} id=${id} /></li>`)}
      ${job.done > SHOWN_COUNT && html`<li class="quiet-text">and ${figures(job.done - SHOWN_COUNT)} more</li>`}
    </ul>
  <//>`;
}

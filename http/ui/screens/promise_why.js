/** Why a promise is pending: the server's sentence, in the color of how bad that is, and where the cause is. */
import { html } from "../vendor/preact.js";
import { withId } from "../api.js";
import { useAnswer } from "../asking.js";
import { useLive } from "../live.js";
import { BrokenId } from "../parts/broken_id.js";
import { Glyph } from "../parts/state.js";
import { TaskActions } from "../parts/tasks.js";
import { href } from "../router.js";
import { may } from "../server.js";

/** What does not pass without help. */
const STUCK = new Set([
  ...["circle", "undeliverable", "no-listener", "not-connected", "other-protocol", "receiver-fails"],
  ...["no-node", "account-disabled", "holder-gone", "halted"],
]);
/** What passes when others are done. */
const QUEUED = new Set(["listeners-full", "nodes-busy", "call-waits", "too-many"]);

/**
 * Shows it.
 *
 * @param {{id: string, watch: string[]}} props
 */
export function Why({ id, watch }) {
  /** @type {import("../asking.js").Answer<WhyObject>} */
  const answer = useAnswer(withId("why", id));
  useLive(answer.reload, { topics: ["queues"], watch: watch.slice(0, 50), everyMs: 2_000 });
  const why = answer.data;
  if (why === undefined || why.cause.reason === "completed") return null;
  const { reason, promiseId, task, group } = why.cause;
  const state = STUCK.has(reason) ? "REJECTED" : QUEUED.has(reason) ? "REJECTED_TIMEDOUT" : "PENDING";
  const kind = STUCK.has(reason) ? "rejected" : QUEUED.has(reason) ? "timedout" : "pending";
  const receiver = task?.receiver ?? (group === undefined ? undefined : `poll://${group}`);
  return html`<section class="notice why ${kind}" aria-label="Why it is pending">
    <p class="row nowrap-row"><${Glyph} state=${state} /><strong>${STUCK.has(reason) ? "Stuck" : "Pending"}</strong></p>
    <p><${Sentence} text=${why.sentence} /></p>
    <p class="row">
      ${promiseId !== id && html`<a class="id" href=${href("promises", promiseId)}>Go to <${BrokenId} id=${promiseId} /></a>`}
      ${receiver && may("metrics:read") && html`<a href=${href("queues", receiver)}>Show the queue</a>`}
      ${task && html`<${TaskActions} task=${task} done=${answer.reload} />`}
    </p>
  </section>`;
}

/**
 * Text with names between backquotes.
 *
 * @param {{text: string}} props
 */
function Sentence({ text }) {
  return text.split("`").map((part, index) => (index % 2 === 1 ? html`<code key=${index}>${part}</code>` : part));
}

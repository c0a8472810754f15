/** What failed since the server started: the latest on the overview, and all of them with a filter. */
import { html } from "../vendor/preact.js";
import { useAnswer } from "../asking.js";
import { useLive } from "../live.js";
import { BrokenId } from "../parts/broken_id.js";
import { Chips } from "../parts/filters.js";
import { Answered, Empty } from "../parts/notices.js";
import { State } from "../parts/state.js";
import { NewRows } from "../parts/rows.js";
import { useWaiting } from "../parts/steady.js";
import { Table } from "../parts/table.js";
import { When } from "../parts/time.js";
import { href, usePlace } from "../router.js";
import { may } from "../server.js";
import { useTitle } from "../shell.js";

const LATEST_COUNT = "6";

/** @type {readonly (readonly [string, string])[]} */
const KINDS = [
  ["promise", "Promises"],
  ["lease", "Leases"],
  ["sending", "Sendings"],
  ["function", "Functions"],
  ["build", "Builds"],
  ["login", "Log-ins"],
];

/** What happened. @type {Record<string, string>} */
const HAPPENED = {
  lease: "Lease ran out",
  sending: "Not sent",
  function: "Function failed",
  build: "Build failed",
  login: "Log-in refused",
};

/** @param {{failure: FailureObject}} props */
function Subject({ failure }) {
  const { kind, id } = failure;
  const isTask = kind === "lease" || kind === "sending";
  // A task's id names its promise: `__invoke:order/42`.
  const promise = isTask ? id.replace(/^__(invoke|resume|notify):/, "") : id;
  if (kind === "promise" || isTask) return html`<a class="id" href=${href("promises", promise)}><${BrokenId} id=${promise} /></a>`;
  return html`<span class="id">${id}</span>`;
}

/** @type {import("../parts/table.js").Column<FailureObject>[]} */
const COLUMNS = [
  {
    name: "what",
    title: "What",
    show: ({ kind, reason }) => kind === "promise" ? html`<${State} state=${reason} />` : html`<span class="state timedout plain">${HAPPENED[kind] ?? kind}</span>`,
  },
  { name: "subject", title: "Where", isMain: true, show: (failure) => html`<${Subject} failure=${failure} />` },
  {
    name: "why",
    title: "Function, or why",
    show: ({ kind, reason, about }) => (kind === "promise" ? html`<b class="function">${about}</b>` : html`${reason}${about && html` <span class="id quiet-text">${about}</span>`}`),
  },
  { name: "when", title: "When", show: ({ at }) => html`<${When} at=${at} />` },
];

/** @typedef {import("../asking.js").Answer<{failures: FailureObject[]}>} Failed */

const keyOf = (/** @type {FailureObject} */ { number }) => String(number);

/** The last few. */
export function LatestFailures() {
  /** @type {Failed} */
  const answer = useAnswer("failures", { limit: LATEST_COUNT });
  useLive(answer.reload, { topics: ["failures"] });
  const show = (/** @type {{failures: FailureObject[]}} */ { failures }) =>
    failures.length > 0
      ? html`<${Table} isLatest label="Failures" columns=${COLUMNS} rows=${failures} keyOf=${keyOf} />`
      : html`<p class="body quiet-text">None since the server started.</p>`;
  return html`<section class="panel latest-failures" aria-label="Latest failures">
    <header><h2>Latest failures</h2><a href=${href("failures")}>All failures</a></header>
    <${Answered} answer=${answer} show=${show} />
  </section>`;
}

/** All of them. */
export function Screen() {
  useTitle("Failures");
  const kind = usePlace().query.get("kind") ?? undefined;
  /** @type {Failed} */
  const answer = useAnswer("failures", { limit: "1000", kind });
  useLive(answer.reload, { topics: ["failures"], everyMs: 5_000 });
  const { rows, freshCount, show } = useWaiting(answer.data?.failures ?? [], keyOf, kind ?? "");
  const none = html`<${Empty} title=${kind ? "No failure matches" : "Nothing has failed"}>
    <p>The last 1,000 of each kind are kept, since the server started.</p>
  <//>`;
  return html`<div class="filters">${may("metrics:read") && html`<${Chips} name="kind" label="Kinds" words=${KINDS} />`}
      <span class="push row"><${NewRows} count=${freshCount} show=${show} /></span>
    </div>
    <${Answered} answer=${answer} lines=${9} show=${() => (rows.length > 0 ? html`<${Table} label="Failures" columns=${COLUMNS} rows=${rows} keyOf=${keyOf} />` : none)} />`;
}

/** Retention: the server's rules and what each would delete now; other rules to try; and a sweep by hand. */
import { html, useEffect, useState } from "../vendor/preact.js";
import { ask } from "../api.js";
import { confirm } from "../parts/dialog.js";
import { Answered, Empty } from "../parts/notices.js";
import { figures } from "../parts/rows.js";
import { Table } from "../parts/table.js";

/** @type {Record<string, string>} */
const STATES = {
  resolved: "Resolved",
  rejected: "Rejected",
  rejected_canceled: "Canceled",
  rejected_timedout: "Timed out",
  all: "Completed in any way",
};

/**
 * Counts what rules would delete, without deleting anything.
 *
 * @param {string} retain Rules to try; empty: the server's.
 */
function useDryRun(retain) {
  /** @type {[{data?: RetentionObject, error?: any}, (made: any) => void]} */
  const [found, setFound] = useState({});
  const [round, setRound] = useState(0);
  useEffect(() => {
    const controller = new AbortController();
    ask("admin/retention", { method: "POST", body: { dryRun: true, ...(retain && { retain }) }, signal: controller.signal }).then(
      (data) => setFound({ data }),
      (error) => controller.signal.aborted || setFound({ error }),
    );
    return () => controller.abort();
  }, [retain, round]);
  return { data: found.data, error: found.error, isLoading: false, put: () => {}, reload: () => setRound(round + 1) };
}

/** @type {import("../parts/table.js").Column<RetentionObject["rules"][0]>[]} */
const COLUMNS = [
  { name: "rule", title: "Rule", isMain: true, show: ({ rule }) => html`<${Words} rule=${rule} />` },
  { name: "written", title: "As it is written", isMinor: true, show: ({ rule }) => html`<code class="quiet-text">${rule}</code>` },
  { name: "count", title: "Would delete now", isNumber: true, show: ({ count }) => figures(count) },
];

/** @type {Record<string, string>} */
const UNITS = { s: "second", m: "minute", h: "hour", d: "day", w: "week" };

/** @param {{rule: string}} props */
function Words({ rule }) {
  const [state = "", age = "", ...tag] = rule.split(":");
  return html`${STATES[state] ?? state} for longer than ${age.replace(/^(\d+)([a-z])$/, (_, count, unit) => `${count} ${UNITS[unit] ?? unit}${count === "1" ? "" : "s"}`)}${tag.length > 0 && html`, with the tag <span class="tag">${tag.join(":")}</span>`}`;
}

/** Shows it. */
export function Retention() {
  const [tried, setTried] = useState("");
  const answer = useDryRun(tried);
  const submit = (/** @type {any} */ event) => {
    event.preventDefault();
    setTried(String(new FormData(event.target).get("rules")).trim());
  };
  return html`<section class="panel">
    <header>
      <h2>Retention${tried && html` <span class="state timedout plain">Rules on trial</span>`}</h2>
      <form class="row inline" onSubmit=${submit}>
        <input class="rules" name="rules" aria-label="Rules to try" placeholder="Try resolved:7d,all:90d" autocomplete="off" spellcheck=${false} />
        <button>Count</button>
      </form>
    </header>
    <${Answered} answer=${answer} lines=${3} show=${(/** @type {RetentionObject} */ outcome) => html`<${Rules} outcome=${outcome} isTried=${tried !== ""} reload=${answer.reload} />`} />
  </section>`;
}

/** @param {{outcome: RetentionObject, isTried: boolean, reload: () => void}} props */
function Rules({ outcome: { rules, waiting }, isTried, reload }) {
  const total = rules.reduce((sum, { count }) => sum + count, 0);
  if (rules.length === 0) {
    return html`<${Empty} title="There are no rules: completed promises are kept for ever" command="troth serve --retain resolved:7d,all:90d">
      <p>Try some above first: nothing is deleted by that.</p>
    <//>`;
  }
  const sweep = () =>
    confirm({
      title: `Delete ${figures(total)} promises now?`,
      text: "They are gone for good, with their params and values. The rules would do the same at the next sweep.",
      deed: `Delete ${figures(total)} promises`,
      count: total,
      act: async () => {
        /** @type {RetentionObject} */
        const done = await ask("admin/retention", { method: "POST", body: { dryRun: false } });
        reload();
        return `${figures(done.rules.reduce((sum, { count }) => sum + count, 0))} promises are deleted.`;
      },
    });
  return html`<${Table} label="Rules" columns=${COLUMNS} rows=${rules} keyOf=${(/** @type {{rule: string}} */ { rule }) => rule} />
    <div class="row panel-foot">
      <span class="quiet-text">${waiting > 0 && `${figures(waiting)} more are due, and wait for unfinished work that needs them. `}A promise counts for the first rule that reaches it.</span>
      ${!isTried && total > 0 && html`<button class="push" onClick=${sweep}>Sweep now …</button>`}
    </div>`;
}

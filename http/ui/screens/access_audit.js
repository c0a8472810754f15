/** The audit log: who changed what about the server, from where, and with what outcome. The newest first. */
import { html } from "../vendor/preact.js";
import { apiUrl } from "../api.js";
import { useAnswer } from "../asking.js";
import { useLive } from "../live.js";
import { Chips, FilterField } from "../parts/filters.js";
import { Answered, Empty } from "../parts/notices.js";
import { NewRows, figures } from "../parts/rows.js";
import { useWaiting } from "../parts/steady.js";
import { Table } from "../parts/table.js";
import { When, calendar } from "../parts/time.js";
import { change, usePlace } from "../router.js";

/** As many as the server tells at once. */
const LIMIT_COUNT = 1_000;
const REFRESH_MS = 5_000;

/** What acts are about, and how those acts begin. @type {Record<string, [string, string[]]>} */
const SUBJECTS = {
  account: ["Accounts", ["account"]],
  token: ["Tokens", ["token"]],
  session: ["Sessions", ["session"]],
  data: ["Data", ["snapshot", "retention", "promises"]],
  work: ["Work", ["bulk", "lock"]],
  node: ["Nodes", ["node"]],
};
const WORDS = Object.entries(SUBJECTS).map(([word, [title]]) => /** @type {const} */ ([word, title]));

/** What entries call differently than people do. @type {Record<string, string>} */
const NAMES = { accountName: "account", idPrefix: "ids from", id_prefix: "ids from", dry_run: "dry run", "filter.id": "ids", "filter.states": "states", "filter.tag": "tag" };

/** What is of no interest if it is false or zero. */
const SAID_IF_SO = { dry_run: true, failed: true };

/** What every entry has; the rest is what the act was about. */
const COMMON = new Set(["time", "act", "outcome", "by", "from", "request"]);

/** What acts are called; others by their own name. @type {Record<string, string>} */
const ACTS = {
  "account.add": "Account created",
  "account.disable": "Account disabled",
  "account.enable": "Account enabled",
  "token.create": "Token created",
  "token.rotate": "Token rotated",
  "token.revoke": "Token revoked",
  "session.open": "Signed in",
  "session.close": "Signed out",
  "session.code": "Code to sign in made",
  "bulk.start": "Bulk job started",
  "bulk.stop": "Bulk job stopped",
  "bulk.end": "Bulk job ended",
  "promises.import": "Promises imported",
  "snapshot.take": "Snapshot downloaded",
  "snapshot.write": "Snapshot written",
  "retention.sweep": "Old promises deleted",
  "lock.break": "Lock broken",
};

/** @param {string} act */
function wordsOf(act) {
  const text = act.replaceAll(/[._]/g, " ");
  return ACTS[act] ?? text.charAt(0).toUpperCase() + text.slice(1);
}

/** How a token is named as the one who did it. */
const BY_TOKEN = /^token (\S+) of (.*) \(\S+\)$/;

/** @type {import("../parts/table.js").Column<AuditEntryObject>[]} */
const COLUMNS = [
  { name: "when", title: "When", show: ({ time }) => html`<${When} at=${Date.parse(time)} />` },
  { name: "act", title: "What was done", isMain: true, show: ({ act, outcome }) => html`<strong title=${act}>${wordsOf(act)}</strong> <${Outcome} outcome=${outcome} />` },
  {
    name: "about",
    title: "About",
    show: (entry) => aboutOf(entry).map(([name, value]) => html`<span class="tag" key=${name} title=${`${name}=${value}`}>${name} <b>${value}</b></span>`),
  },
  { name: "by", title: "By", show: ({ by }) => html`<${By} by=${by} />` },
  { name: "from", title: "From", isMinor: true, show: ({ from }) => html`<span class="figures">${from ?? ""}</span>` },
];

/**
 * Names before ids, and times as such.
 *
 * @param {AuditEntryObject} entry
 * @returns {[string, string][]}
 */
function aboutOf(entry) {
  return Object.entries(entry)
    .filter(([name, value]) => !(name in SAID_IF_SO && !value) && !COMMON.has(name) && value !== "" && !(name === "account" && "accountName" in entry))
    .map(([name, value]) => /** @type {[string, string]} */ ([NAMES[name] ?? name, name.endsWith("On") ? calendar(Number(value)) : String(value)]))
    .sort(([one], [other]) => Number(/name/i.test(other)) - Number(/name/i.test(one)));
}

/** How a job ends without an error. @type {Record<string, string>} */
const ENDS = { finished: "resolved", stopped: "canceled" };

/** @param {{outcome: string}} props */
function Outcome({ outcome }) {
  const [word = "", code] = outcome.split(" ");
  if (word === "done") return null;
  if (ENDS[word]) return html`<span class="state plain ${ENDS[word]}">${word}</span>`;
  if (!code) return html`<span class="state rejected plain">${word}</span>`;
  return html`<a class="state rejected plain" href="${apiUrl("docs/errors")}#${code}" target="_blank">${word}, ${code}</a>`;
}

/** @param {{by: string}} props */
function By({ by }) {
  const [, token, account] = BY_TOKEN.exec(by) ?? [];
  return token ? html`<span class="nowrap" title=${`token ${token}`}>${account} <span class="quiet-text">by token</span></span>` : by;
}

const keyOf = (/** @type {AuditEntryObject} */ { request, act, time }) => `${request} ${act} ${time}`;

/** Shows it. */
export function AuditLog() {
  const { query } = usePlace();
  /** @type {import("../asking.js").Answer<AuditEntryObject[]>} */
  const answer = useAnswer("admin/audit", { limit: String(LIMIT_COUNT) });
  useLive(answer.reload, { topics: ["counters"], everyMs: REFRESH_MS });
  const text = (query.get("text") ?? "").toLowerCase();
  const subjects = (query.get("subjects") ?? "").split(",").filter(Boolean);
  const isRefused = query.get("outcome") === "refused";
  const matches = (/** @type {AuditEntryObject} */ entry) =>
    (!isRefused || entry.outcome.startsWith("refused")) &&
    (subjects.length === 0 || subjects.some((subject) => SUBJECTS[subject]?.[1].includes(entry.act.split(".")[0] ?? ""))) &&
    (!text || Object.values(entry).join("\n").toLowerCase().includes(text));
  const filter = JSON.stringify([text, subjects, isRefused]);
  const { rows, freshCount, show: showNew } = useWaiting((answer.data ?? []).filter(matches).reverse(), keyOf, filter);
  const show = (/** @type {AuditEntryObject[]} */ entries) => {
    if (entries.length === 0) return html`<${Empty} title="Nothing has been changed yet"><p>What people and programs change about the server itself is noted here: accounts, tokens, snapshots, locks.</p><//>`;
    if (rows.length === 0) {
      return html`<${Empty} title="No entry matches">
        <button onClick=${() => change({ text: undefined, subjects: undefined, outcome: undefined })}>Show all entries</button>
      <//>`;
    }
    return html`<${Table} key=${filter} label="Audit log" columns=${COLUMNS} rows=${rows} keyOf=${keyOf} />
      ${entries.length === LIMIT_COUNT && html`<p class="more">These are among the newest ${figures(LIMIT_COUNT)} entries. The file audit.log in the data directory has all.</p>`}`;
  };
  return html`<div>
    <div class="filters" role="search" aria-label="Filter">
      <${FilterField} name="text" label="Who, what or where" />
      <${Chips} name="subjects" label="About" words=${WORDS} />
      <label class="check">
        <input type="checkbox" checked=${isRefused} onChange=${() => change({ outcome: isRefused ? undefined : "refused" })} /> Refused only
      </label>
      <span class="push row"><${NewRows} count=${freshCount} show=${showNew} /></span>
    </div>
    <${Answered} answer=${answer} lines=${9} show=${show} />
  </div>`;
}

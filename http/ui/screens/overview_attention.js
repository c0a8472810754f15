/** What needs attention, worst first, each with its remedy; and that all is well if it is. */
import { html, useRef } from "../vendor/preact.js";
import { useAnswer } from "../asking.js";
import { useLive } from "../live.js";
import { size } from "../parts/payload.js";
import { useSteady } from "../parts/steady.js";
import { When, duration } from "../parts/time.js";
import { href } from "../router.js";
import { valuesOf } from "../series.js";
import { may, now } from "../server.js";

const LATE_MS = 5_000;
const BACKUP_AGE_MS = 2 * 24 * 3_600_000;
const EXPIRY_MS = 7 * 24 * 3_600_000;
const RECENT_MS = 3_600_000;
const AGAIN_COUNT = 3;
const REFRESH_MS = 5_000;
const FREE_BYTES = 1 << 30;
/** So many seconds in which the log was written have to be slow. */
const SYNCS_COUNT = 5;
const SLOW_SYNC_MS = 1_000;
/** A schedule that can never fire says a time before the year 1. */
const NEVER_MS = 0;

/** @typedef {{rank: number, kind: "rejected" | "timedout" | "canceled", title: string, text: any, to: string, remedy: string, id?: string}} Concern `id`: of what it is about, where several have one remedy. */

/** @param {QueueObject} queue @returns {Concern[]} */
function concernsOfQueue(queue) {
  const count = queue.waiting + queue.stalled;
  if (queue.health === "good" || count === 0) return [];
  const waits = html`<span class="id">${queue.receiver}</span> · ${tasks(count)}`;
  const to = href("queues", queue.receiver);
  if (queue.health === "no-workers") return [{ rank: 2, kind: "timedout", title: "No worker listens", text: waits, to, remedy: "Show queue" }];
  if (queue.health === "undeliverable") return [{ rank: 1, kind: "rejected", title: "A receiver has an impossible address", text: waits, to, remedy: "Show queue" }];
  if (queue.failingSince === undefined) return [];
  const text = html`${waits} · failing since <${When} at=${queue.failingSince} />`;
  return [{ rank: 1, kind: "rejected", title: "A receiver does not answer", text, to, remedy: "Show queue" }];
}

/** @param {number} count */
function tasks(count) {
  return `${count.toLocaleString("en-US")} ${count === 1 ? "task waits" : "tasks wait"}`;
}

/** @param {FailureObject[]} failures @returns {Concern[]} */
function concernsOfFailures(failures) {
  const recent = failures.filter(({ at }) => at > now() - RECENT_MS);
  /** @type {Map<string, number>} */
  const leases = new Map();
  for (const { kind, id } of recent) if (kind === "lease") leases.set(id, (leases.get(id) ?? 0) + 1);
  const again = [...leases].filter(([, count]) => count >= AGAIN_COUNT);
  /** @type {Concern[]} */
  const found = [];
  if (again.length > 0) {
    const text = html`<span class="id">${again[0]?.[0]}</span>${again.length > 1 ? ` and ${again.length - 1} more` : ""}, in the last hour`;
    found.push({ rank: 3, kind: "rejected", title: "Leases run out again and again", text, to: href("failures", undefined, { kind: "lease" }), remedy: "Show failures" });
  }
  const refused = recent.filter(({ kind }) => kind === "login").length;
  if (refused > 0) {
    found.push({ rank: 6, kind: "timedout", title: "Log-ins were refused", text: `${refused} in the last hour`, to: href("failures", undefined, { kind: "login" }), remedy: "Show failures" });
  }
  return found;
}

/** @param {ScheduleObject[]} schedules @returns {Concern[]} */
function concernsOfSchedules(schedules) {
  return schedules
    .filter(({ nextRunTime, pausedOn }) => pausedOn === undefined && (nextRunTime < NEVER_MS || nextRunTime < now() - LATE_MS))
    .map(({ id, nextRunTime }) => ({
      rank: 4,
      kind: "timedout",
      title: nextRunTime < NEVER_MS ? "A schedule can never fire" : "A schedule is late",
      text: html`<span class="id">${id}</span>`,
      to: href("schedules", id),
      remedy: "Show schedule",
    }));
}

/** @param {DueObject[]} timers @returns {Concern[]} */
function concernsOfTimers(timers) {
  const [first] = timers;
  if (first === undefined || first.at > now() - LATE_MS) return [];
  return [{ rank: 0, kind: "rejected", title: "Timers are late", text: html`The oldest was due <${When} at=${first.at} />`, to: href("settings"), remedy: "Show settings" }];
}

/** @param {{name: string, createdOn: number | null, problem: string | null}[]} snapshots @returns {Concern[]} */
function concernsOfSnapshots(snapshots) {
  const newest = Math.max(0, ...snapshots.map(({ createdOn, problem }) => (problem ? 0 : (createdOn ?? 0))));
  if (newest > now() - BACKUP_AGE_MS) return [];
  const text = newest === 0 ? "There is no snapshot that could be restored" : html`The last snapshot was taken <${When} at=${newest} />`;
  return [{ rank: 5, kind: "timedout", title: "No backup for long", text, to: href("snapshots"), remedy: "Show snapshots" }];
}

/** @param {{id: string, name: string, expiresOn?: number | null}[]} tokens @returns {Concern[]} */
function concernsOfTokens(tokens) {
  const soon = tokens.filter(({ expiresOn }) => expiresOn && expiresOn > now() && expiresOn < now() + EXPIRY_MS);
  return soon.map(({ id, name, expiresOn }) => ({
    rank: 7,
    kind: "canceled",
    title: "A token expires soon",
    text: html`${name || id} · <${When} at=${Number(expiresOn)} />`,
    to: href("access"),
    remedy: "Show access",
    id,
  }));
}

/**
 * What goes wrong on the server itself: its disk, the archive of its log, retention.
 *
 * @param {StatisticsObject} statistics
 * @returns {Concern[]}
 */
function concernsOfUpkeep(statistics) {
  const { freeBytes, archiveFailing, retentionLateMs } = statistics.upkeep;
  const syncs = valuesOf(statistics, "log.syncP99").slice(-SYNCS_COUNT).filter((value) => value !== null);
  const there = { to: href(may("admin") ? "snapshots" : "settings"), remedy: may("admin") ? "Show data" : "Show settings" };
  /** @type {Concern[]} */
  const found = [];
  if (freeBytes !== null && freeBytes < FREE_BYTES) {
    found.push({ rank: 0, kind: "rejected", title: "The disk is nearly full", text: `${size(freeBytes)} are free; without any the log fails and the server stops`, ...there });
  }
  if (syncs.length > 0 && Math.min(...syncs) > SLOW_SYNC_MS) {
    found.push({ rank: 1, kind: "timedout", title: "The disk is slow", text: `Each write of the log takes ${duration(Math.min(...syncs))} or longer, and every answer waits for one`, ...there });
  }
  if (archiveFailing) {
    found.push({ rank: 1, kind: "rejected", title: "The log is not archived", text: "The last copy to the archive failed: the log grows until one succeeds. The server's own log says why", ...there });
  }
  if (retentionLateMs > 0) {
    found.push({ rank: 5, kind: "timedout", title: "Retention is behind", text: `A sweep should have ended ${duration(retentionLateMs)} ago`, ...there });
  }
  return found;
}

const keyOf = (/** @type {Concern} */ { title, to, id }) => `${title} ${to} ${id ?? ""}`;

/**
 * Shows it.
 *
 * @param {{statistics: StatisticsObject}} props
 */
export function Attention({ statistics }) {
  const isAdmin = may("admin");
  const canRead = may("promises:read");
  const queues = useAnswer("queues", { limit: "100" });
  const failures = useAnswer("failures", { limit: "1000", kind: "lease,login" });
  const schedules = useAnswer(canRead ? "schedules" : null, { id: "*", limit: "100" });
  const timers = useAnswer(canRead ? "timers" : null, { limit: "1" });
  const snapshots = useAnswer(isAdmin ? "admin/snapshots" : null);
  const tokens = useAnswer(isAdmin ? "admin/tokens" : null);
  useLive(() => [queues, failures, schedules, timers].forEach(({ reload }) => reload()), { topics: ["queues", "failures"], everyMs: REFRESH_MS });
  /** @type {Concern[]} */
  const concerns = [
    ...concernsOfUpkeep(statistics),
    ...concernsOfTimers(/** @type {any} */ (timers.data)?.timers ?? []),
    .../** @type {any} */ (queues.data)?.queues?.flatMap(concernsOfQueue) ?? [],
    ...concernsOfFailures(/** @type {any} */ (failures.data)?.failures ?? []),
    ...concernsOfSchedules(/** @type {any} */ (schedules.data)?.schedules ?? []),
    ...(snapshots.data ? concernsOfSnapshots(/** @type {any} */ (snapshots.data).snapshots) : []),
    ...concernsOfTokens(/** @type {any} */ (tokens.data) ?? []),
  ].sort((one, other) => one.rank - other.rank);
  /** @type {import("../vendor/preact.js").RefObject<HTMLUListElement | null>} */
  const list = useRef(null);
  const { rows, gone } = useSteady(concerns, keyOf, list, "all");
  const isKnown = queues.data !== undefined;
  return html`<section class="panel attention" aria-label="Needs attention">
    <header><h2>Needs attention</h2></header>
    <ul ref=${list}>
      ${rows.map(
        (concern) => html`<li key=${keyOf(concern)} class=${`${concern.kind} ${gone.has(keyOf(concern)) ? "gone" : ""}`}>
          <span class="dot" aria-hidden="true"></span>
          <div><strong>${concern.title}</strong><p class="quiet-text">${concern.text}</p></div>
          <a href=${concern.to}>${concern.remedy}</a>
        </li>`,
      )}
      ${isKnown && rows.length === 0 && html`<li class="resolved"><span class="dot" aria-hidden="true"></span><div><strong>Nothing</strong><p class="quiet-text">Every receiver takes its work, and timers are on time.</p></div></li>`}
    </ul>
  </section>`;
}

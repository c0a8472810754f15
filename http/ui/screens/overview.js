/**
 * The overview: five numbers with two minutes of history, throughput, what needs attention, worst first,
 * the latest failures, and facts of the server. Every number leads to the list that it counts.
 */
import { html, useState } from "../vendor/preact.js";
import { Chart, Sparkline, short } from "../parts/chart.js";
import { Failed, Loading } from "../parts/notices.js";
import { size } from "../parts/payload.js";
import { Span } from "../parts/time.js";
import { href } from "../router.js";
import { useSeries, valuesOf } from "../series.js";
import { may, now, whoami } from "../server.js";
import { useTitle } from "../shell.js";
import { Attention } from "./overview_attention.js";
import { Cluster } from "./overview_cluster.js";
import { LatestFailures } from "./failures.js";

const HISTORY_COUNT = 120;
const OVER = "resolved,rejected,timedout,canceled";
const COMPLETIONS = ["promises.resolved", "promises.rejected", "promises.timedout", "promises.canceled"];

/** @type {readonly (readonly [string, string])[]} */
const RANGES = [
  ["1s", "5 min"],
  ["10s", "1 h"],
  ["1m", "24 h"],
];

/** Shows it. */
export function Screen() {
  useTitle("Overview");
  if (may("metrics:read")) return html`<${Metrics} />`;
  return html`<div class="stack">
    <p class="quiet-text">These credentials do not allow metrics:read, so there are no numbers of the whole server here.</p>
    ${may("promises:read") && html`<${LatestFailures} />`}
  </div>`;
}

function Metrics() {
  const [resolution, setResolution] = useState("1s");
  const recent = useSeries("1s");
  if (recent.statistics === undefined) {
    return recent.error ? html`<${Failed} error=${recent.error} retry=${recent.reload} />` : html`<${Loading} />`;
  }
  return html`<div class="overview">
    <${Tiles} statistics=${recent.statistics} />
    <section class="panel throughput">
      <header>
        <h2>Throughput</h2>
        <div class="chips" role="group" aria-label="How far back">
          ${RANGES.map(([name, text]) => html`<button key=${name} aria-pressed=${resolution === name} onClick=${() => setResolution(name)}>${text}</button>`)}
        </div>
      </header>
      <div class="body">
        ${resolution === "1s" ? html`<${Throughput} statistics=${recent.statistics} />` : html`<${Longer} key=${resolution} resolution=${resolution} />`}
      </div>
    </section>
    <${Attention} statistics=${recent.statistics} />
    <${LatestFailures} />
    <${Facts} statistics=${recent.statistics} />
    ${recent.statistics.processes && html`<${Cluster} />`}
  </div>`;
}

/** @param {{resolution: string}} props */
function Longer({ resolution }) {
  const { statistics, error, reload } = useSeries(resolution);
  if (statistics) return html`<${Throughput} statistics=${statistics} />`;
  return error ? html`<${Failed} error=${error} retry=${reload} />` : html`<${Loading} />`;
}

/** @param {{statistics: StatisticsObject}} props */
function Throughput({ statistics }) {
  const line = (/** @type {string} */ name, /** @type {string} */ title, /** @type {string} */ color) => ({
    name,
    title,
    color,
    values: valuesOf(statistics, `promises.${name}`),
  });
  const lines = [
    line("created", "Created", "pending"),
    line("resolved", "Resolved", "resolved"),
    line("rejected", "Rejected", "rejected"),
    line("timedout", "Timed out", "timedout"),
    line("canceled", "Canceled", "canceled"),
  ];
  return html`<${Chart} label="Promises a second" lines=${lines} firstAt=${statistics.firstAt} stepMs=${statistics.resolutionMs} />`;
}

/**
 * @param {StatisticsObject} statistics
 * @param {readonly string[]} names
 * @returns {(number | null)[]}
 */
function summed(statistics, names) {
  const all = names.map((name) => valuesOf(statistics, name).slice(-HISTORY_COUNT));
  const [first = []] = all;
  return first.map((_, index) => all.reduce((sum, values) => sum + (values[index] ?? 0), 0));
}

/**
 * The mean of the last seconds: a single second jumps.
 *
 * @param {(number | null)[]} values
 */
function rate(values) {
  const last = values.slice(-5).filter((value) => value !== null);
  return last.length === 0 ? 0 : last.reduce((sum, value) => sum + value, 0) / last.length;
}

/** @param {{statistics: StatisticsObject}} props */
function Tiles({ statistics }) {
  const { counts } = statistics;
  const promises = counts["promises"] ?? {};
  const all = Object.values(promises).reduce((sum, count) => sum + count, 0);
  const recent = (/** @type {string} */ name) => valuesOf(statistics, name).slice(-HISTORY_COUNT);
  const created = recent("promises.created");
  const completed = summed(statistics, COMPLETIONS);
  const disk = recent("log.syncP50");
  const waits = statistics.series.filter(({ name }) => name.startsWith("queue."));
  const waiting = summed(statistics, waits.map(({ name }) => name));
  const tasks = counts["tasks"] ?? {};
  const working = (tasks["claimed"] ?? 0) + (counts["workflows"]?.["acquired"] ?? 0);
  const waitingCount = waiting.at(-1) ?? 0;
  return html`<div class="tiles">
    <${Tile} title="Pending promises" value=${(promises["pending"] ?? 0).toLocaleString("en-US")} note=${`of ${all.toLocaleString("en-US")}`} values=${recent("promises.pending")} to=${href("promises", undefined, { states: "pending" })} />
    <${Tile} title="Created" value=${short(rate(created))} unit="/s" note="mean of 5 s" values=${created} to=${href("promises")} />
    <${Tile} title="Completed" value=${short(rate(completed))} unit="/s" note="in any state" values=${completed} to=${href("promises", undefined, { states: OVER })} />
    <${Tile} title="Write to disk" value=${lastKnown(disk)} unit="ms" note=${whoami.get()?.server.inMemory ? "in memory: nothing is kept" : "before every answer"} values=${disk} to=${href("settings")} />
    <${Tile} title="Tasks waiting" value=${waitingCount.toLocaleString("en-US")} note=${`${working.toLocaleString("en-US")} being worked on`} values=${waiting} to=${href("queues")} />
  </div>`;
}

/** @param {(number | null)[]} values */
function lastKnown(values) {
  const last = values.findLast((value) => value !== null);
  return typeof last === "number" ? short(last) : "–";
}

/** @param {{title: string, value: string, unit?: string, note: string, values: (number | null)[], to: string}} props */
function Tile({ title, value, unit, note, values, to }) {
  return html`<a class="panel tile" href=${to}>
    <span>${title}</span>
    <b class="figures">${value}${unit && html`<small>${unit}</small>`}</b>
    <small>${note}</small>
    <${Sparkline} values=${values} />
  </a>`;
}

/** @param {{statistics: StatisticsObject}} props */
function Facts({ statistics }) {
  const last = (/** @type {string} */ name) => valuesOf(statistics, name).findLast((value) => value !== null) ?? undefined;
  const memory = last("process.memory");
  const cpu = last("process.cpu");
  const log = last("log.bytes");
  const requests = last("http.requests");
  return html`<section class="panel facts-panel">
    <header><h2>Server</h2></header>
    <dl class="facts across body">
      <div><dt>Memory</dt><dd class="figures">${memory === undefined ? "–" : size(memory)}</dd></div>
      <div><dt>CPU</dt><dd class="figures">${cpu === undefined ? "–" : `${Math.round(cpu * 100)} %`}</dd></div>
      <div><dt>Log</dt><dd class="figures">${log === undefined ? "–" : size(log)}</dd></div>
      <div><dt>Requests</dt><dd class="figures">${requests === undefined ? "–" : `${short(requests)}/s`}</dd></div>
      <div><dt>Up for</dt><dd><${Span} since=${statistics.startedOn} /></dd></div>
    </dl>
    ${statistics.processes && html`<${Processes} processes=${statistics.processes} />`}
    ${now() - statistics.startedOn < 300_000 && html`<p class="body quiet-text">The numbers of the past begin with the start of the server.</p>`}
  </section>`;
}

/**
 * The processes of a server that has several, each with its part of the promises.
 *
 * @param {{processes: ProcessObject[]}} props
 */
function Processes({ processes }) {
  const all = Math.max(1, processes.reduce((sum, { promises }) => sum + promises, 0));
  return html`<dl class="facts across body">
    ${processes.map(({ process, promises }) => html`<div key=${process}><dt>Process ${process}</dt><dd class="figures">${promises.toLocaleString("en-US")} promises, ${Math.round((100 * promises) / all)} %</dd></div>`)}
  </dl>`;
}

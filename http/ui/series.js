/** The series of the server's last minutes, hour or day: asked for once, then only what is new. */
import { useEffect, useRef, useState } from "./vendor/preact.js";
import { ask } from "./api.js";
import { tick, useLive } from "./live.js";
import { counts, setClock } from "./server.js";

/** How many values each resolution has at most. @type {Record<string, number>} */
const KEPT = { "1s": 300, "10s": 360, "1m": 1_440 };
/** Of this one, each message has the next values. */
const FINEST = "1s";
const COARSE_MS = 10_000;
/** An idle server has nothing to tell; its series go on all the same. Asking is told to all, so it is seldom. */
const IDLE_S = 10;

/**
 * Returns the statistics with all values of a resolution, or undefined before they are there.
 *
 * @param {string} resolution
 */
export function useSeries(resolution) {
  const [made, setMade] = useState(/** @type {StatisticsObject | undefined} */ (undefined));
  const [error, setError] = useState(/** @type {any} */ (undefined));
  const latest = useRef(made);
  const isBusy = useRef(false);
  const silentS = useRef(0);

  const load = async () => {
    if (isBusy.current) return;
    isBusy.current = true;
    silentS.current = 0;
    const before = latest.current;
    try {
      const since = before && before.firstAt + lengthOf(before) * before.resolutionMs - 1;
      /** @type {StatisticsObject} */
      const answer = await ask("statistics", { query: { resolution, since: since === undefined ? undefined : String(since) } });
      setClock(answer.now);
      counts.set(answer.counts);
      latest.current = joined(before, answer, Number(KEPT[resolution]));
      setMade(latest.current);
      setError(undefined);
    } catch (refused) {
      setError(refused);
    } finally {
      isBusy.current = false;
    }
  };
  useEffect(() => {
    latest.current = undefined;
    setMade(undefined);
    void load();
  }, [resolution]);
  const hear = (/** @type {import("./live.js").Message} */ message) => {
    const next = resolution === FINEST && latest.current && extended(latest.current, message?.data);
    if (!next) return void load();
    latest.current = next;
    silentS.current = 0;
    setMade(next);
  };
  useLive((message) => (message ? hear(message) : load()), { topics: ["counters"], everyMs: resolution === FINEST ? 0 : COARSE_MS });
  useEffect(() => tick.watch(() => void (++silentS.current >= IDLE_S && load())), [resolution]);
  return { statistics: made, error, reload: load };
}

/** @param {StatisticsObject} statistics */
function lengthOf(statistics) {
  return Math.max(0, ...statistics.series.map(({ values }) => values.length));
}

/**
 * Puts the values of a message behind those that are known; undefined if they do not follow those.
 *
 * @param {StatisticsObject} before
 * @param {{at: number, counts: StatisticsObject["counts"], series: Record<string, number>} | null} data
 * @returns {StatisticsObject | undefined}
 */
function extended(before, data) {
  const kept = lengthOf(before);
  if (!data?.series || Math.round((data.at - before.firstAt) / before.resolutionMs) !== kept + 1) return undefined;
  const series = Object.entries(data.series).map(([name, value]) => ({ name, unit: "", values: [value] }));
  const known = before.series.filter(({ name }) => !(name in data.series)).map((one) => ({ ...one, values: [null] }));
  const answer = { ...before, counts: data.counts, firstAt: before.firstAt + kept * before.resolutionMs, series: [...series, ...known] };
  return joined(before, answer, Number(KEPT[FINEST]));
}

/**
 * Puts newer values behind those that are known.
 *
 * @param {StatisticsObject | undefined} before
 * @param {StatisticsObject} answer
 * @param {number} keptCount
 * @returns {StatisticsObject}
 */
function joined(before, answer, keptCount) {
  if (before === undefined || before.startedOn !== answer.startedOn) return answer;
  const step = answer.resolutionMs;
  const kept = lengthOf(before);
  const gap = Math.round((answer.firstAt - before.firstAt) / step) - kept;
  if (gap < 0 || gap > keptCount) return gap < 0 ? before : answer;
  const filler = /** @type {null[]} */ (Array.from({ length: gap }, () => null));
  const old = new Map(before.series.map(({ name, values }) => [name, values]));
  const series = answer.series.map((one) => {
    const known = old.get(one.name) ?? Array.from({ length: kept }, () => null);
    return { ...one, values: [...known, ...filler, ...one.values].slice(-keptCount) };
  });
  const dropped = Math.max(0, kept + gap + lengthOf(answer) - keptCount);
  return { ...answer, series, firstAt: before.firstAt + dropped * step };
}

/**
 * Returns the values of a series; none if there is no such series.
 *
 * @param {StatisticsObject} statistics
 * @param {string} name
 */
export function valuesOf(statistics, name) {
  return statistics.series.find((series) => series.name === name)?.values ?? [];
}

/**
 * The time axis of a timeline. A gap in which nothing begins or ends, and which is longer than five times
 * all the rest, is folded: a workflow that slept for a week still shows the seconds that it worked.
 */

const FOLD_FACTOR = 5;
const FOLDED_SHARE = 0.06;
const TICKS_COUNT = 5;
const STEPS_MS = [
  1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000, 600_000, 900_000,
  1_800_000, 3_600_000, 7_200_000, 21_600_000, 43_200_000, 86_400_000, 172_800_000, 604_800_000, 2_592_000_000, 31_536_000_000,
];

/**
 * @typedef {object} Axis
 * @property {(ms: number) => number} at Where a time is, from 0 to 1.
 * @property {{at: number, ms: number}[]} ticks With the time since the beginning.
 * @property {{at: number, width: number, ms: number}[]} folds The gaps that are folded, and how long they are.
 */

/**
 * Returns the axis for some calls.
 *
 * @param {CallObject[]} calls
 * @param {number} nowMs Where pending ones end.
 * @returns {Axis}
 */
export function axisOf(calls, nowMs) {
  const first = Math.min(...calls.map(({ createdOn }) => createdOn));
  const times = calls.flatMap(({ createdOn, completedOn }) => [createdOn, completedOn ?? nowMs]);
  const edges = [...new Set([first, ...times])].sort((one, other) => one - other);
  const gaps = edges.slice(1).map((end, index) => ({ from: Number(edges[index]), ms: end - Number(edges[index]), isFolded: false }));
  let rest = gaps.reduce((sum, { ms }) => sum + ms, 0);
  for (const gap of [...gaps].sort((one, other) => other.ms - one.ms)) {
    if (gap.ms <= FOLD_FACTOR * (rest - gap.ms) || rest === gap.ms) break;
    gap.isFolded = true;
    rest -= gap.ms;
  }
  const folded = gaps.filter(({ isFolded }) => isFolded);
  const share = Math.min(FOLDED_SHARE, 0.4 / Math.max(1, folded.length));
  const perMs = (1 - share * folded.length) / Math.max(1, rest);
  const at = (/** @type {number} */ ms) => {
    let place = 0;
    for (const gap of gaps) {
      if (ms <= gap.from) break;
      const part = Math.min(1, (ms - gap.from) / gap.ms);
      place += part * (gap.isFolded ? share : gap.ms * perMs);
    }
    return Math.min(1, place);
  };
  return {
    at,
    ticks: ticksOf(gaps, first, rest, at),
    folds: folded.map(({ from, ms }) => ({ at: at(from), width: share, ms })),
  };
}

/**
 * @param {{from: number, ms: number, isFolded: boolean}[]} gaps
 * @param {number} first
 * @param {number} shownMs
 * @param {(ms: number) => number} at
 */
function ticksOf(gaps, first, shownMs, at) {
  const step = STEPS_MS.find((ms) => ms * TICKS_COUNT >= shownMs) ?? shownMs / TICKS_COUNT;
  const last = gaps.at(-1);
  const end = last === undefined ? first : last.from + last.ms;
  /** @type {{at: number, ms: number}[]} */
  const ticks = [];
  let before = -1;
  for (const gap of gaps.filter(({ isFolded }) => !isFolded)) {
    const until = Math.min(gap.from + gap.ms, end);
    for (let ms = Math.ceil((gap.from - first) / step) * step; first + ms < until; ms += step) {
      const place = at(first + ms);
      if (place - before > 0.09 && place < 0.94) ticks.push({ at: place, ms });
      before = ticks.at(-1)?.at ?? before;
    }
  }
  return ticks;
}

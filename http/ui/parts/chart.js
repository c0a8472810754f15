/**
 * Charts of series: lines on one axis of time, with the values under the pointer; and sparklines.
 *
 * They are drawn as SVG from numbers; a value that is not known leaves a gap.
 */
import { html, useState } from "../vendor/preact.js";
import { calendar } from "./time.js";

const WIDTH = 1_000;
const HEIGHT = 200;
const TICKS_COUNT = 5;

/** @typedef {{name: string, title: string, color: string, values: (number | null)[]}} Line */

/**
 * Returns a number in few figures: `12`, `3.5`, `1.2k`.
 *
 * @param {number} value
 */
export function short(value) {
  if (value >= 10_000) return `${(value / 1_000).toFixed(value >= 100_000 ? 0 : 1)}k`;
  if (value >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString("en-US");
  return value >= 1 ? value.toFixed(1).replace(/\.0$/, "") : value.toFixed(2);
}

/** @param {number} most */
function roundUp(most) {
  const power = 10 ** Math.floor(Math.log10(Math.max(most, 1e-9)));
  const found = [1, 2, 2.5, 5, 10].find((step) => step * power >= most) ?? 10;
  return found * power;
}

/**
 * Returns the path of a line.
 *
 * @param {(number | null)[]} values
 * @param {number} top
 * @param {number} height
 */
function pathOf(values, top, height) {
  const step = WIDTH / Math.max(1, values.length - 1);
  let isDrawn = false;
  return values
    .map((value, index) => {
      if (value === null) {
        isDrawn = false;
        return "";
      }
      const y = height - (Math.min(value, top) / top) * height;
      const letter = isDrawn ? "L" : "M";
      isDrawn = true;
      return `${letter}${(index * step).toFixed(1)} ${y.toFixed(1)}`;
    })
    .join("");
}

/**
 * A chart with a legend, in which the values at the pointer stand.
 *
 * @param {{label: string, lines: Line[], firstAt: number, stepMs: number}} props
 */
export function Chart({ label, lines, firstAt, stepMs }) {
  const [at, setAt] = useState(-1);
  const count = Math.max(0, ...lines.map(({ values }) => values.length));
  const most = Math.max(0, ...lines.flatMap(({ values }) => values.map((value) => value ?? 0)));
  const top = most > 0 ? roundUp(most) : 1;
  const isHere = at >= 0 && at < count;
  const shown = isHere ? at : count - 1;
  const point = (/** @type {PointerEvent} */ event) => {
    const box = /** @type {Element} */ (event.currentTarget).getBoundingClientRect();
    setAt(Math.round(((event.clientX - box.left) / box.width) * (count - 1)));
  };
  const x = count > 1 ? `${((shown / (count - 1)) * 100).toFixed(2)}%` : "0";
  return html`<figure class="chart">
    <figcaption class="row">
      ${lines.map(
        ({ name, title, color, values }) => html`<span key=${name} class="legend ${color}">
          <i aria-hidden="true"></i>${title} <b class="figures">${typeof values[shown] === "number" ? short(values[shown]) : "–"}</b>
        </span>`,
      )}
      <span class="quiet-text figures push">${isHere ? timeOf(firstAt + at * stepMs) : ""}</span>
    </figcaption>
    <div class="plot">
      <span class="axis" aria-hidden="true"><i>${short(top)}</i><i>${short(top / 2)}</i><i>0</i></span>
      <div class="lines" onPointerMove=${point} onPointerLeave=${() => setAt(-1)}>
        <svg viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none" role="img" aria-label=${described(label, lines)}>
          ${[0, HEIGHT / 2, HEIGHT].map((y) => html`<line key=${y} x1="0" x2=${WIDTH} y1=${y} y2=${y} />`)}
          ${lines.map(({ name, color, values }) => html`<path key=${name} class=${color} d=${pathOf(values, top, HEIGHT)} />`)}
        </svg>
        ${isHere && html`<svg class="cross" aria-hidden="true"><line x1=${x} x2=${x} y1="0" y2="100%" /></svg>`}
      </div>
      <${TimeAxis} firstAt=${firstAt} lastAt=${firstAt + Math.max(1, count - 1) * stepMs} />
    </div>
  </figure>`;
}

/**
 * @param {string} label
 * @param {Line[]} lines
 */
function described(label, lines) {
  const parts = lines.map(({ title, values }) => {
    const known = values.filter((value) => value !== null);
    return known.length === 0 ? `${title}: none` : `${title}: ${short(Number(known.at(-1)))} now, ${short(Math.max(...known))} at most`;
  });
  return `${label}. ${parts.join("; ")}.`;
}

/** @param {number} ms */
function timeOf(ms) {
  return calendar(ms).split(" ")[1] ?? "";
}

/** @param {{firstAt: number, lastAt: number}} props */
function TimeAxis({ firstAt, lastAt }) {
  const hasSeconds = lastAt - firstAt < 600_000;
  const ticks = Array.from({ length: TICKS_COUNT }, (_, index) => (index + 0.5) / TICKS_COUNT);
  return html`<svg class="times" aria-hidden="true">
    ${ticks.map((part) => html`<text key=${part} x="${part * 100}%" y="12">${timeOf(firstAt + part * (lastAt - firstAt)).slice(0, hasSeconds ? 8 : 5)}</text>`)}
  </svg>`;
}

/**
 * Returns the values with each gap filled by the value before it.
 *
 * @param {(number | null)[]} values
 */
function held(values) {
  /** @type {number | null} */
  let last = null;
  return values.map((value) => (last = value ?? last));
}

/**
 * A small line without axes.
 *
 * @param {{values: (number | null)[]}} props
 */
export function Sparkline({ values }) {
  const known = held(values);
  const most = Math.max(0, ...known.map((value) => value ?? 0)) || 1;
  const line = pathOf(known, most * 1.1, 40);
  const [, left] = /^M([\d.]+)/.exec(line) ?? [];
  return html`<svg class="sparkline" viewBox="0 0 ${WIDTH} 40" preserveAspectRatio="none" aria-hidden="true">
    ${line && html`<path class="area" d="${line}L${WIDTH} 40L${left} 40Z" />`}
    <path d=${line} />
  </svg>`;
}

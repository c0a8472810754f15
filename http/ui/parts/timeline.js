/**
 * The timeline of a call tree: a row for each call, with a bar on one time axis. A treegrid: arrows move
 * and fold, Home and End go to the ends, Enter chooses.
 */
import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact.js";
import { tick } from "../live.js";
import { useValue } from "../observable.js";
import { now } from "../server.js";
import { axisOf } from "./axis.js";
import { firstUnfolded, rowsOf } from "./calls.js";
import { Icon } from "./icons.js";
import { Glyph, kindOf, wordFor } from "./state.js";
import { duration, roundDuration } from "./time.js";
import { useWindow } from "./window.js";

const ROW_PX = 33;
const INDENT_PX = 20;
/** Deeper levels are not moved further to the right. */
const INDENTED_LEVELS_COUNT = 8;

/**
 * Returns a part of an axis as SVG has it.
 *
 * @param {number} part
 */
function percent(part) {
  return `${(part * 100).toFixed(3)}%`;
}

/** @param {{calls: CallObject[], chosen: string, choose: (id: string) => void}} props */
export function Timeline({ calls, chosen, choose }) {
  const isRunning = calls.some(({ state }) => state === "PENDING");
  const second = useValue(tick);
  const axis = useMemo(() => axisOf(calls, now()), [calls, isRunning ? second : 0]);
  const root = calls[0]?.id;
  const [unfolded, setUnfolded] = useState(() => firstUnfolded(calls));
  const seen = useRef(root);
  useEffect(() => {
    if (seen.current !== root) setUnfolded(firstUnfolded(calls));
    seen.current = root;
  }, [root]);
  const rows = useMemo(() => rowsOf(calls, unfolded), [calls, unfolded]);
  /** @type {import("../vendor/preact.js").RefObject<HTMLDivElement | null>} */
  const grid = useRef(null);
  const { first, last, beforePx, afterPx } = useWindow(grid, rows.length, ROW_PX);
  const at = Math.max(0, rows.findIndex(({ call }) => call.id === chosen));

  const fold = (/** @type {string} */ id, /** @type {boolean} */ isOpen) => {
    const next = new Set(unfolded);
    if (isOpen) next.add(id);
    else next.delete(id);
    setUnfolded(next);
  };
  const pressed = (/** @type {KeyboardEvent} */ event) => {
    const target = move(event.key, rows, at, fold);
    if (target === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    const row = rows[target];
    if (row) choose(row.call.id);
    requestAnimationFrame(() => {
      const element = grid.current?.querySelector(`[data-row="${target}"]`);
      if (element instanceof HTMLElement) element.focus();
    });
  };
  return html`<div class="timeline" role="treegrid" aria-label="Calls" aria-rowcount=${rows.length} onKeyDown=${pressed}>
    <${Scale} axis=${axis} />
    <div ref=${grid} role="rowgroup">
      <${Gap} px=${beforePx} />
      ${rows.slice(first, last).map((row, offset) => {
        const index = first + offset;
        const props = { row, index, axis, root, isChosen: index === at, choose, fold };
        return html`<${Row} key=${row.call.id} ...${props} />`;
      })}
      <${Gap} px=${afterPx} />
    </div>
  </div>`;
}

/** @param {{px: number}} props */
function Gap({ px }) {
  return px > 0 && html`<svg class="gap" aria-hidden="true" height=${Math.round(px)}></svg>`;
}

/**
 * Returns the index of the row that a key leads to, or undefined if the key does nothing.
 *
 * @param {string} key
 * @param {import("./calls.js").CallRow[]} rows
 * @param {number} at
 * @param {(id: string, isOpen: boolean) => void} fold
 */
function move(key, rows, at, fold) {
  const row = rows[at];
  if (row === undefined) return undefined;
  const last = rows.length - 1;
  switch (key) {
    case "ArrowDown":
    case "j":
      return Math.min(last, at + 1);
    case "ArrowUp":
    case "k":
      return Math.max(0, at - 1);
    case "Home":
      return 0;
    case "End":
      return last;
    case "ArrowRight":
      if (!row.hasChildren) return undefined;
      if (row.isOpen) return Math.min(last, at + 1);
      fold(row.call.id, true);
      return at;
    case "ArrowLeft":
      if (row.hasChildren && row.isOpen) {
        fold(row.call.id, false);
        return at;
      }
      return Math.max(0, rows.findLastIndex((other, index) => index < at && other.depth < row.depth));
    default:
      return undefined;
  }
}

/** @param {{axis: import("./axis.js").Axis}} props */
function Scale({ axis }) {
  return html`<div class="scale" role="row">
    <span role="columnheader">Call</span>
    <span role="columnheader">
      <span class="unseen">Time</span>
      <svg aria-hidden="true">
        ${axis.ticks.map(
          ({ at, ms }) => html`<text key=${ms} x=${percent(at)} y="14" dx=${at === 0 ? 0 : 4}>${roundDuration(ms)}</text>`,
        )}
      </svg>
    </span>
    <span role="columnheader" class="number">Took</span>
  </div>`;
}

/**
 * @param {{
 *   row: import("./calls.js").CallRow, index: number, axis: import("./axis.js").Axis, root: string | undefined,
 *   isChosen: boolean, choose: (id: string) => void, fold: (id: string, isOpen: boolean) => void,
 * }} props
 */
function Row({ row, index, axis, root, isChosen, choose, fold }) {
  const { call, depth, hasChildren, isOpen, place, of } = row;
  const short = root !== undefined && call.id !== root && call.id.startsWith(root) ? call.id.slice(root.length) : call.id;
  const indent = Math.min(depth, INDENTED_LEVELS_COUNT) * INDENT_PX;
  const isPending = call.state === "PENDING";
  const took = (call.completedOn ?? now()) - call.createdOn;
  const toggle = (/** @type {Event} */ event) => {
    event.stopPropagation();
    fold(call.id, !isOpen);
  };
  return html`<div
    role="row"
    class="call ${isChosen ? "chosen" : ""}"
    data-row=${index}
    aria-level=${depth + 1}
    aria-posinset=${place}
    aria-setsize=${of}
    aria-expanded=${hasChildren ? isOpen : undefined}
    aria-selected=${isChosen}
    tabindex=${isChosen ? 0 : -1}
    onClick=${() => choose(call.id)}
  >
    <span role="gridcell" class="call-name">
      <svg width=${indent} height="1" aria-hidden="true"></svg>
      <span class="folder" aria-hidden="true" onClick=${hasChildren ? toggle : undefined}>${hasChildren && html`<${Icon} name=${isOpen ? "unfold" : "fold"} />`}</span>
      <${Glyph} state=${call.state} isNamed />
      <span class="call-title">${call.function ?? html`<span class="id">${short}</span>`}</span>
      ${call.function && call.id !== root && html`<span class="id quiet-text">${short}</span>`}
      ${call.hint && html`<span class="hint" title=${call.hint}>${call.hint}</span>`}
    </span>
    <span role="gridcell" aria-label=${`${wordFor(call.state)}, ${duration(took)}`}><${Bar} call=${call} axis=${axis} /></span>
    <span role="gridcell" class="number ${isPending ? "quiet-text" : ""}">${duration(took)}</span>
  </div>`;
}

/** @param {{call: CallObject, axis: import("./axis.js").Axis}} props */
function Bar({ call, axis }) {
  const from = axis.at(call.createdOn);
  const isPending = call.completedOn === undefined;
  const until = isPending ? 1 : axis.at(call.completedOn ?? 0);
  return html`<svg class="bar ${kindOf(call.state)}" aria-hidden="true">
    ${axis.ticks.map(({ at, ms }) => html`<line key=${ms} x1=${percent(at)} x2=${percent(at)} y1="0" y2="100%" />`)}
    <rect class=${isPending ? "open-ended" : ""} x=${percent(from)} width=${percent(Math.max(0.004, until - from))} y="11" height="10" rx="2" />
    ${axis.folds.filter(({ at }) => at >= from && at < until).map(
      ({ at, width }) => html`<svg key=${at} x=${percent(at + width / 2)} y="6" width="12" height="20" overflow="visible">
        <path class="fold" d="M-3 18L1 2M2 18L6 2" />
      </svg>`,
    )}
  </svg>`;
}

/**
 * Tables: real ones, with a heading for each column, a cursor that `j` and `k` move, and rows that may be
 * selected. Long ones keep only the rows near what is visible in the page.
 */
import { html, useMemo, useRef } from "../vendor/preact.js";
import { useKeys } from "../keyboard.js";
import { useWindow } from "./window.js";

const ROW_PX = 37;

/**
 * @template Row
 * @typedef {object} Column
 * @property {string} name
 * @property {string} title Empty: a column of buttons.
 * @property {(row: Row) => any} show
 * @property {boolean} [isNumber] Aligned at its end.
 * @property {boolean} [isMinor] Left out on narrow screens.
 * @property {boolean} [isMain] On narrow screens it has the first line for itself.
 */

/** @typedef {{ids: Set<string>, toggle: (id: string) => void, toggleAll: () => void}} Selection */

/**
 * A table.
 *
 * @template Row
 * @param {{label: string, columns: Column<Row>[], rows: Row[], keyOf: (row: Row) => string, selection?: Selection | undefined, gone?: Set<string>}} props
 *   `label` names it for screen readers; `gone` are keys of rows that are no longer there.
 */
export function Table({ label, columns, rows, keyOf, selection, gone }) {
  /** @type {import("../vendor/preact.js").RefObject<HTMLTableElement | null>} */
  const table = useRef(null);
  /** @type {import("../vendor/preact.js").RefObject<HTMLTableSectionElement | null>} */
  const body = useRef(null);
  const { first, last, beforePx, afterPx } = useWindow(body, rows.length, ROW_PX);
  useKeys({
    j: () => moveCursor(table.current, 1),
    k: () => moveCursor(table.current, -1),
    x: () => rowAtCursor(table.current)?.querySelector("input")?.click(),
  });
  const width = columns.length + (selection ? 1 : 0);
  const isAll = rows.length > 0 && selection?.ids.size === rows.length;
  return html`<div class="table">
    <table ref=${table} aria-label=${label} aria-rowcount=${rows.length + 1}>
      <thead>
        <tr>
          ${selection &&
          html`<th class="check" scope="col">
            <input type="checkbox" aria-label="Select all that are listed" checked=${isAll} onChange=${selection.toggleAll} />
          </th>`}
          ${columns.map((column) => html`<th key=${column.name} scope="col" class=${classOf(column)}>${column.title || html`<span class="unseen">Actions</span>`}</th>`)}
        </tr>
      </thead>
      <tbody ref=${body}>
        <${Gap} key="before" px=${beforePx} width=${width} />
        ${rows.slice(first, last).map((row, offset) => {
          const key = keyOf(row);
          const props = { row, rowKey: key, index: first + offset, columns, toggle: selection?.toggle };
          return html`<${Row} key=${`row ${key}`} ...${props} isSelected=${selection?.ids.has(key) ?? false} isGone=${gone?.has(key) ?? false} />`;
        })}
        <${Gap} key="after" px=${afterPx} width=${width} />
      </tbody>
    </table>
  </div>`;
}

/**
 * A row. It is rendered again only when something of it is another.
 *
 * @param {{
 *   row: any, rowKey: string, index: number, columns: Column<any>[], isSelected: boolean, isGone: boolean,
 *   toggle: ((key: string) => void) | undefined,
 * }} props
 */
function Row({ row, rowKey, index, columns, isSelected, isGone, toggle }) {
  const latest = useRef(toggle);
  latest.current = toggle;
  const isSelectable = toggle !== undefined;
  return useMemo(
    () => html`<tr data-row=${index} aria-rowindex=${index + 2} class=${`${isSelected ? "selected" : ""} ${isGone ? "gone" : ""}`}>
      ${isSelectable &&
      html`<td class="check">
        <input type="checkbox" aria-label=${`Select ${rowKey}`} checked=${isSelected} onChange=${() => latest.current?.(rowKey)} />
      </td>`}
      ${columns.map((column) => html`<td key=${column.name} class=${classOf(column)} data-title=${column.title}>${column.show(row)}</td>`)}
    </tr>`,
    [row, rowKey, index, columns, isSelected, isGone, isSelectable],
  );
}

/** @param {{px: number, width: number}} props */
function Gap({ px, width }) {
  return px > 0 && html`<tr aria-hidden="true" class="gap"><td colspan=${width} height=${Math.round(px)}></td></tr>`;
}

/** @param {Column<any>} column */
function classOf({ name, isNumber, isMinor, isMain }) {
  return `c-${name} ${isNumber ? "number" : ""} ${isMinor ? "minor" : ""} ${isMain ? "main-cell" : ""}`;
}

/** @param {HTMLTableElement | null} table */
function rowAtCursor(table) {
  const row = document.activeElement?.closest("tr[data-row]") ?? null;
  return row !== null && table?.contains(row) ? row : null;
}

/**
 * Moves the focus to the next row's link, or to what else it has that takes focus.
 *
 * @param {HTMLTableElement | null} table
 * @param {1 | -1} step
 */
function moveCursor(table, step) {
  const rows = [...(table?.querySelectorAll("tr[data-row]") ?? [])];
  const at = rowAtCursor(table);
  const next = rows[at === null ? 0 : rows.indexOf(at) + step];
  const target = next?.querySelector("a, button, input");
  if (target instanceof HTMLElement) {
    target.focus();
    next?.scrollIntoView({ block: "nearest" });
  }
}

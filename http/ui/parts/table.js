/**
 * Tables: real ones, with a heading for each column, and rows that may be selected and do not move under
 * the pointer or the focus. Long ones keep only the rows near what is visible in the page.
 */
import { html, useLayoutEffect, useMemo, useRef } from "../vendor/preact.js";
import { returnTo } from "./cursor.js";
import { useSteady } from "./steady.js";
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
 * @param {{label: string, columns: Column<Row>[], rows: Row[], keyOf: (row: Row) => string, selection?: Selection | undefined, gone?: Set<string>, isLatest?: boolean}} props
 *   `label` names it for screen readers; `gone` are keys of rows that are no longer there, of a list
 *   that sees to it itself that no row moves. `isLatest`: there are others, which are older.
 */
export function Table({ label, columns, rows: newest, keyOf, selection, gone: marked, isLatest = false }) {
  /** @type {import("../vendor/preact.js").RefObject<HTMLTableElement | null>} */
  const table = useRef(null);
  /** @type {import("../vendor/preact.js").RefObject<HTMLTableSectionElement | null>} */
  const body = useRef(null);
  const steady = useSteady(newest, keyOf, table, marked ? "paged" : isLatest ? "latest" : "all");
  const { rows } = steady;
  const gone = marked ?? steady.gone;
  const { first, last, beforePx, afterPx } = useWindow(body, rows.length, ROW_PX);
  const held = heldIn(table.current);
  useLayoutEffect(() => returnTo(table.current), []);
  useLayoutEffect(() => holdOn(held));
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
          return html`<${Row} key=${`row ${key}`} ...${props} isSelected=${selection?.ids.has(key) ?? false} isGone=${gone.has(key)} />`;
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
    () => html`<tr data-row=${index} data-key=${rowKey} aria-rowindex=${index + 2} class=${`${isSelected ? "selected" : ""} ${isGone ? "gone" : ""}`}>
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

/**
 * Returns the row that has the focus, if one does.
 *
 * @param {HTMLTableElement | null} table
 */
function heldIn(table) {
  return table?.contains(document.activeElement) ? document.activeElement?.closest("tr[data-row]") : null;
}

/**
 * Gives the focus back to a row that had it if what had it is gone, such as a button that did its work.
 *
 * @param {Element | null | undefined} row
 */
function holdOn(row) {
  if (!row?.isConnected || document.activeElement !== document.body) return;
  const target = row.querySelector("a, button, input");
  if (target instanceof HTMLElement) target.focus({ preventScroll: true });
}

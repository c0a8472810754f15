/** What stands above and below a list: new rows that wait, how far a search has come, more rows. */
import { html, useEffect, useRef } from "../vendor/preact.js";
import { keepFocus } from "./dialog.js";
import { Failed, Loading } from "./notices.js";
import { Table } from "./table.js";

/** @param {number} count */
export function figures(count) {
  return count.toLocaleString("en-US");
}

/**
 * Shows how many new rows wait.
 *
 * @param {{count: number, isMore?: boolean, show: () => void}} props
 */
export function NewRows({ count, isMore = false, show }) {
  const shown = () => {
    show();
    keepFocus();
  };
  return count > 0 && html`<button class="main new-rows figures" onClick=${shown}>${count}${isMore ? "+" : ""} new · show</button>`;
}

/**
 * A list as a table, with what stands in its place while there are no rows.
 *
 * @template Row
 * @param {{
 *   list: ReturnType<typeof import("../listing.js").useListing<Row>>,
 *   table: Omit<Parameters<typeof Table<Row>>[0], "rows">,
 *   none: any,
 * }} props `none` is shown if there is nothing.
 */
export function Rows({ list, table, none }) {
  if (list.rows.length === 0) {
    if (list.error) return html`<${Failed} error=${list.error} retry=${list.reload} />`;
    if (list.isFirstLoad) return html`<div class="table"><${Loading} lines=${9} /></div>`;
    if (!list.hasMore) return none;
  }
  return html`${list.rows.length > 0 && html`<${Table} ...${table} rows=${list.rows} gone=${list.gone} />`}
    ${list.error && html`<${Failed} error=${list.error} retry=${list.more} />`}
    <${More} list=${list} />`;
}

/** @param {{list: ReturnType<typeof import("../listing.js").useListing<any>>}} props */
function More({ list }) {
  /** @type {import("../vendor/preact.js").RefObject<HTMLDivElement | null>} */
  const end = useRef(null);
  const canGoOn = list.hasMore && !list.isBusy && !list.error && list.rows.length > 0;
  useEffect(() => {
    if (!canGoOn || end.current === null) return undefined;
    const observer = new IntersectionObserver(
      (entries) => entries.some((entry) => entry.isIntersecting) && list.more(),
      { rootMargin: "400px" },
    );
    observer.observe(end.current);
    return () => observer.disconnect();
  }, [canGoOn, list.rows.length]);
  if (!list.hasMore && !list.isBusy) return null;
  const { looked } = list;
  return html`<div class="more" ref=${end}>
    ${looked && looked.through < looked.of && html`<span class="figures">Searched ${figures(looked.through)} of ${figures(looked.of)}</span>`}
    ${list.isBusy ? "Loading …" : html`<button onClick=${list.more}>${list.rows.length > 0 ? "Show more" : "Search on"}</button>`}
  </div>`;
}

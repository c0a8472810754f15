/**
 * The list of promises: filtered by pattern, state, tag and time, all of it in the address. Rows may be
 * selected and canceled or deleted, copied, exported, or listed with a command instead.
 */
import { html, useMemo } from "../vendor/preact.js";
import { BrokenId } from "../parts/broken_id.js";
import { Chips, FilterField, TagFilter } from "../parts/filters.js";
import { Empty } from "../parts/notices.js";
import { isShown } from "../parts/columns.js";
import { NewRows, Rows } from "../parts/rows.js";
import { useSelection } from "../parts/selection.js";
import { PROMISE_STATES, State } from "../parts/state.js";
import { Span, When, duration } from "../parts/time.js";
import { TimeFilter } from "../parts/time_filter.js";
import { hiddenColumns, pageSize } from "../preferences.js";
import { findPromise, functionOf, ownTags } from "../promise.js";
import { useListing } from "../listing.js";
import { useValue } from "../observable.js";
import { change, href, usePlace } from "../router.js";
import { counts, may, now } from "../server.js";
import { useTitle } from "../shell.js";
import { createPromise } from "./promise_create.js";
import { ListMenu, SelectionBar } from "./promises_actions.js";
import { asked } from "./promises_query.js";

/** A timeout that is further away is none to people. */
const FAR_MS = 1_000 * 24 * 3_600_000;

/** @type {import("../parts/table.js").Column<PromiseObject>[]} */
const COLUMNS = [
  { name: "state", title: "State", show: ({ state }) => html`<${State} state=${state} />` },
  {
    name: "promise",
    title: "Promise",
    isMain: true,
    show: ({ id }) => html`<a class="id" href=${href("promises", id)}><${BrokenId} id=${id} /></a>`,
  },
  { name: "function", title: "Function", show: ({ param }) => functionOf(param) },
  {
    name: "tags",
    title: "Tags",
    isMinor: true,
    show: ({ tags }) => ownTags(tags).map(([name, value]) => html`<span class="tag" title=${`${name}=${value}`}>${name} <b>${value}</b></span>`),
  },
  { name: "created", title: "Created", isMinor: true, show: ({ createdOn }) => html`<${When} at=${createdOn} />` },
  { name: "took", title: "Took / time left", show: (promise) => html`<${Took} promise=${promise} />` },
];

/** @type {import("../listing.js").Source<PromiseObject>} */
const SOURCE = {
  path: "promises",
  field: "promises",
  keyOf: ({ id }) => id,
  topics: ["promises"],
  watched: (rows) => rows.filter(({ state }) => state === "PENDING").map(({ id }) => id).slice(0, 50),
  lookUp: ({ id }) => findPromise(id),
};

/** Shows the list. */
export function Screen() {
  useTitle("Promises");
  const { query } = usePlace();
  const all = useValue(counts)?.["promises"];
  const hidden = useValue(hiddenColumns);
  const columns = useMemo(() => COLUMNS.filter((column) => isShown(column, hidden.split(","))), [hidden]);
  const list = useListing(SOURCE, asked(query));
  const isFiltered = ["id", "tag", "from", "to"].some((name) => query.get(name));
  const selection = useSelection(list.rows.map(SOURCE.keyOf));
  const isOldest = query.get("order") === "oldest";
  return html`<div class="filters" role="search" aria-label="Filter">
      <${FilterField} name="id" label="Ids" placeholder="Begins with …, or has a *" />
      <${Chips} name="states" label="States" words=${PROMISE_STATES} counts=${isFiltered ? undefined : all} />
      <${TagFilter} />
      <${TimeFilter} />
      <span class="push row">
        <${NewRows} count=${isOldest ? 0 : list.fresh.size} isMore=${list.fresh.size >= Number(pageSize.get())} show=${list.reload} />
        <${ListMenu} query=${query} rows=${list.rows} columns=${COLUMNS} />
        ${may("promises:write") && html`<button onClick=${() => createPromise({})}>Create …</button>`}
      </span>
    </div>
    <${SelectionBar} selection=${selection} rows=${list.rows} query=${query} hasMore=${list.hasMore} clear=${selection.clear} done=${list.refresh} />
    <${Rows}
      list=${list}
      table=${{ label: "Promises", columns, keyOf: SOURCE.keyOf, selection }}
      none=${html`<${None} isFiltered=${isFiltered || query.get("states") !== null} />`}
    />`;
}

/** @param {{isFiltered: boolean}} props */
function None({ isFiltered }) {
  if (isFiltered) {
    return html`<${Empty} title="No promise matches">
      <p>The server has others. Loosen the filter, or take it away.</p>
      <button onClick=${() => change({ id: undefined, states: undefined, tag: undefined, from: undefined, to: undefined })}>Show all promises</button>
    <//>`;
  }
  return html`<${Empty} title="There are no promises yet" command="troth promises create hello --timeout 1h">
    <p>A promise is a value that will be known later. Programs create them; so can you:</p>
  <//>`;
}

/** @param {{promise: PromiseObject}} props */
function Took({ promise }) {
  const { createdOn, completedOn, timeout, state } = promise;
  if (state !== "PENDING") return html`<span class="figures">${duration((completedOn ?? createdOn) - createdOn)}</span>`;
  if (timeout - now() > FAR_MS) return html`<span class="quiet-text">no timeout</span>`;
  const passed = (now() - createdOn) / Math.max(1, timeout - createdOn);
  return html`<span class="nowrap pending">
    <svg class="meter" aria-hidden="true">
      <rect width="100%" height="4" rx="2" />
      <rect width=${`${Math.round(Math.min(1, Math.max(0.02, passed)) * 100)}%`} height="4" rx="2" />
    </svg>
    <span class="quiet-text"><${Span} until=${timeout} /> left</span>
  </span>`;
}

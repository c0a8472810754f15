/** The tasks of all kinds that are not finished: who holds which, since when, and what comes next. */
import { html } from "../vendor/preact.js";
import { useListing } from "../listing.js";
import { Chips, FilterField } from "../parts/filters.js";
import { Empty } from "../parts/notices.js";
import { NewRows, Rows } from "../parts/rows.js";
import { TASK_COLUMNS, taskActionsColumn } from "../parts/tasks.js";
import { change, usePlace } from "../router.js";
import { may } from "../server.js";
import { useTitle } from "../shell.js";

/** What people look for, as the states of both APIs. @type {readonly (readonly [string, string])[]} */
const GROUPS = [
  ["waiting", "Waiting"],
  ["held", "Held"],
  ["stalled", "Stalled"],
  ["suspended", "Suspended"],
];

/** @type {Record<string, string>} */
const STATES = {
  waiting: "init,enqueued,pending",
  held: "claimed,acquired",
  stalled: "stalled,halted",
  suspended: "suspended",
};

/** @type {readonly (readonly [string, string])[]} */
const KINDS = [
  ["rest", "REST"],
  ["envelope", "Envelope"],
  ["function", "Functions"],
];

/** @type {import("../listing.js").Source<TaskObject>} */
const SOURCE = { path: "tasks", field: "tasks", keyOf: ({ id }) => id, topics: ["tasks", "queues"] };

/** Shows the list. */
export function Screen() {
  useTitle("Tasks");
  const { query } = usePlace();
  const groups = (query.get("states") ?? "").split(",").filter(Boolean);
  const asked = {
    states: groups.map((group) => STATES[group]).join(",") || undefined,
    kind: query.get("kind") ?? undefined,
    receiver: query.get("receiver") ?? undefined,
    process: query.get("process") ?? undefined,
    root: query.get("root") ?? undefined,
    order: query.get("order") ?? undefined,
  };
  const list = useListing(SOURCE, asked);
  const isFiltered = Object.values(asked).some((value) => value !== undefined);
  const isNewest = query.get("order") === "newest";
  const columns = may("promises:write") ? [...TASK_COLUMNS, taskActionsColumn(list.refresh)] : TASK_COLUMNS;
  const none = isFiltered
    ? html`<${Empty} title="No task matches">
        <button onClick=${() => change({ states: undefined, kind: undefined, receiver: undefined, process: undefined, root: undefined })}>Show all tasks</button>
      <//>`
    : html`<${Empty} title="No task is waiting or being worked on" command="troth promises create report --tag resonate:invoke=poll://any@default">
        <p>A promise with the tag resonate:invoke sends a task to a worker:</p>
      <//>`;
  return html`<div class="filters" role="search" aria-label="Filter">
      <${FilterField} name="root" label="Promises" placeholder="Of the promise …, or with a *" />
      <${Chips} name="states" label="States" words=${GROUPS} />
      <${Chips} name="kind" label="Kinds" words=${KINDS} />
      <${FilterField} name="receiver" label="Receiver" />
      <${FilterField} name="process" label="Held by" />
      <span class="push row">
        <${NewRows} count=${list.fresh.size} show=${list.reload} />
        <button class="quiet" onClick=${() => change({ order: isNewest ? undefined : "newest" })}>${isNewest ? "Newest first" : "Oldest first"}</button>
      </span>
    </div>
    <${Rows} list=${list} table=${{ label: "Tasks", columns, keyOf: SOURCE.keyOf }} none=${none} />`;
}

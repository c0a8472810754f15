/** The schedules: when each fires, in words, and when next; several may be paused, resumed or deleted together. */
import { html } from "../vendor/preact.js";
import { useListing } from "../listing.js";
import { cronWords } from "../parts/cron.js";
import { FilterField } from "../parts/filters.js";
import { Empty } from "../parts/notices.js";
import { NewRows, Rows } from "../parts/rows.js";
import { useSelection } from "../parts/selection.js";
import { When } from "../parts/time.js";
import { ownTags } from "../promise.js";
import { change, href, idWithin, usePlace } from "../router.js";
import { may, now, whoami } from "../server.js";
import { useTitle } from "../shell.js";
import { SchedulePage } from "./schedule.js";
import { ScheduleSelection } from "./schedule_actions.js";
import { editSchedule } from "./schedule_form.js";

/** @type {import("../parts/table.js").Column<ScheduleObject>[]} */
const COLUMNS = [
  {
    name: "schedule",
    title: "Schedule",
    isMain: true,
    show: ({ id, description }) => html`<a class="id" href=${href("schedules", id)}>${id}</a>${description && html`<div class="quiet-text">${description}</div>`}`,
  },
  {
    name: "cron",
    title: "Fires",
    show: ({ cron }) => html`${cronWords(cron) || html`<code>${cron}</code>`}${cronWords(cron) && html` <code class="quiet-text nowrap">${cron}</code>`}`,
  },
  { name: "next", title: "Next", show: (schedule) => html`<${NextRun} schedule=${schedule} />` },
  { name: "last", title: "Last", isMinor: true, show: ({ lastRunTime }) => lastRunTime && html`<${When} at=${lastRunTime} />` },
  {
    name: "tags",
    title: "Tags",
    isMinor: true,
    show: ({ tags }) => ownTags(tags).map(([name, value]) => html`<span class="tag">${name} <b>${value}</b></span>`),
  },
];

/**
 * When a schedule fires next.
 *
 * @param {{schedule: ScheduleObject}} props
 */
export function NextRun({ schedule }) {
  const { pausedOn, nextRunTime } = schedule;
  if (pausedOn !== undefined) return html`<span class="state canceled plain">Paused <${When} at=${pausedOn} /></span>`;
  if (nextRunTime < 0) return html`<span class="problem">never: no time fits</span>`;
  return html`<${When} at=${nextRunTime} soon=${nextRunTime < now() - 5_000 ? "late" : "now"} />`;
}

/** @type {import("../listing.js").Source<ScheduleObject>} */
const SOURCE = { path: "schedules", field: "schedules", keyOf: ({ id }) => id, topics: ["promises"] };

/** The list, or the schedule that the address names. */
export function Screen() {
  const id = idWithin(usePlace(), "schedules");
  return id === undefined ? html`<${List} />` : html`<${SchedulePage} key=${id} id=${id} />`;
}

function List() {
  useTitle("Schedules");
  const text = usePlace().query.get("id") ?? "";
  const list = useListing(SOURCE, { id: text.includes("*") ? text : `${text || (whoami.get()?.idPrefix ?? "")}*` });
  const selection = useSelection(list.rows.map(SOURCE.keyOf));
  const canWrite = may("promises:write");
  const none = text
    ? html`<${Empty} title="No schedule matches"><button onClick=${() => change({ id: undefined })}>Show all schedules</button><//>`
    : html`<${Empty} title="There are no schedules" command="troth schedules create nightly --cron '0 2 * * *' --promise-id 'nightly.{{.timestamp}}'">
        <p>A schedule creates a promise again and again, at the times that it says.</p>
      <//>`;
  return html`<div class="filters" role="search" aria-label="Filter">
      <${FilterField} name="id" label="Schedules" placeholder="Begins with …, or has a *" />
      <span class="push row">
        <${NewRows} count=${list.fresh.size} show=${list.reload} />
        ${canWrite && html`<button onClick=${() => editSchedule(undefined, list.reload)}>Create …</button>`}
      </span>
    </div>
    ${canWrite && html`<${ScheduleSelection} chosen=${list.rows.filter(({ id }) => selection.ids.has(id))} clear=${selection.clear} done=${list.reload} />`}
    <${Rows} list=${list} table=${{ label: "Schedules", columns: COLUMNS, keyOf: SOURCE.keyOf, selection: canWrite ? selection : undefined }} none=${none} />`;
}

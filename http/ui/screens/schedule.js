/** One schedule: when it fires, the next ten times, what its promises are like, and those that it made. */
import { html } from "../vendor/preact.js";
import { withId } from "../api.js";
import { useAnswer } from "../asking.js";
import { useLive } from "../live.js";
import { cronWords } from "../parts/cron.js";
import { Answered, Empty } from "../parts/notices.js";
import { Payload } from "../parts/payload.js";
import { State } from "../parts/state.js";
import { Table } from "../parts/table.js";
import { When, calendar, duration, roundDuration } from "../parts/time.js";
import { go, href } from "../router.js";
import { may } from "../server.js";
import { useTitle } from "../shell.js";
import { ScheduleButtons } from "./schedule_actions.js";
import { editSchedule, usePreview } from "./schedule_form.js";
import { NextRun } from "./schedules.js";

const MADE_COUNT = "25";

/** @param {{id: string}} props */
export function SchedulePage({ id }) {
  useTitle(id, true);
  /** @type {import("../asking.js").Answer<ScheduleObject>} */
  const answer = useAnswer(withId("schedules", id));
  useLive(answer.reload, { topics: ["promises"], everyMs: 2_000 });
  if (answer.error && "status" in answer.error && answer.error.status === 404) {
    return html`<${Empty} title="No schedule has this id"><p><a href="schedules">All schedules</a></p><//>`;
  }
  return html`<${Answered} answer=${answer} show=${(/** @type {ScheduleObject} */ schedule) => html`<${Shown} schedule=${schedule} reload=${answer.reload} />`} />`;
}

/** @param {{schedule: ScheduleObject, reload: () => void}} props */
function Shown({ schedule, reload }) {
  const { id, cron, description, promiseId, promiseTimeout, promiseParam, promiseTags, lastRunTime, createdOn } = schedule;
  const { times, zone } = usePreview(cron);
  return html`<div class="promise">
    <div class="stack">
      <div class="head">
        ${description && html`<p>${description}</p>`}
        <dl class="facts across">
          <div><dt>Fires</dt><dd>${cronWords(cron) || cron}</dd></div>
          <div><dt>Next</dt><dd><${NextRun} schedule=${schedule} /></dd></div>
          <div><dt>Last</dt><dd>${lastRunTime ? html`<${When} at=${lastRunTime} />` : "never"}</dd></div>
          <div><dt>Created</dt><dd><${When} at=${createdOn} /></dd></div>
        </dl>
        ${may("promises:write") &&
        html`<div class="row">
          <button onClick=${() => editSchedule(schedule, reload)}>Change …</button>
          <${ScheduleButtons} schedules=${[schedule]} done=${reload} deleted=${() => go("schedules")} />
        </div>`}
      </div>
      <${Made} schedule=${schedule} />
    </div>
    <aside class="panel call-panel" aria-label="What it makes">
      <header><h2>The next times</h2></header>
      <div>
        ${times.length === 0 ? html`<p class="quiet-text">None.</p>` : html`<ol class="times-list figures">${times.map((time) => html`<li key=${time}>${calendar(time)}</li>`)}</ol>`}
        ${zone && html`<p class="quiet-text">The expression <code>${cron}</code> is in ${zone}.</p>`}
      </div>
      <dl class="facts">
        <div><dt>Promises</dt><dd class="id">${promiseId}</dd></div>
        <div><dt>Time out</dt><dd>after ${roundDuration(promiseTimeout)}</dd></div>
        ${Object.entries(promiseTags ?? {}).map(([name, text]) => html`<div key=${name}><dt class="id">${name}</dt><dd class="id">${text}</dd></div>`)}
      </dl>
      <${Payload} title="Param" value=${promiseParam} name=${`${id}.param`} />
    </aside>
  </div>`;
}

/** @type {import("../parts/table.js").Column<PromiseObject>[]} */
const COLUMNS = [
  { name: "state", title: "State", show: ({ state }) => html`<${State} state=${state} />` },
  { name: "promise", title: "Promise", isMain: true, show: ({ id }) => html`<a class="id" href=${href("promises", id)}>${id}</a>` },
  { name: "created", title: "Created", show: ({ createdOn }) => html`<${When} at=${createdOn} />` },
  { name: "took", title: "Took", show: ({ createdOn, completedOn }) => (completedOn === undefined ? "" : html`<span class="figures">${duration(completedOn - createdOn)}</span>`) },
];

/** @param {{schedule: ScheduleObject}} props */
function Made({ schedule }) {
  const query = { id: "*", "tags[resonate:schedule]": schedule.id };
  /** @type {import("../asking.js").Answer<PromisePage>} */
  const answer = useAnswer("promises", { ...query, values: "none", partial: "true", limit: MADE_COUNT });
  useLive(answer.reload, { topics: ["promises"], everyMs: 5_000 });
  return html`<section class="panel">
    <header><h2>What it made</h2><a href=${href("promises", undefined, { tag: `resonate:schedule=${schedule.id}` })}>All of them</a></header>
    <${Answered}
      answer=${answer}
      show=${(/** @type {PromisePage} */ data) =>
        data.promises.length > 0
          ? html`<${Table} isLatest label="Promises" columns=${COLUMNS} rows=${data.promises} keyOf=${(/** @type {PromiseObject} */ promise) => promise.id} />`
          : html`<p class="body quiet-text">Nothing yet.</p>`}
    />
  </section>`;
}

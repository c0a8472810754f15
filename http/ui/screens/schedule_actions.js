/** What one does with schedules: pause, resume, run now, delete; with one, or with several together. */
import { html } from "../vendor/preact.js";
import { ask, withId } from "../api.js";
import { confirm, keepFocus } from "../parts/dialog.js";
import { say } from "../parts/notices.js";
import { go, href } from "../router.js";

/**
 * @param {string} action
 * @param {string} id
 */
function act(action, id) {
  return ask(`schedules/${action}`, { method: "POST", body: { id } });
}

/** @param {ScheduleObject[]} schedules */
function named(schedules) {
  return schedules.length === 1 ? schedules[0]?.id : `${schedules.length} schedules`;
}

/**
 * Does something that can be undone, at once, and says what came of it.
 *
 * @param {"pause" | "resume"} action
 * @param {ScheduleObject[]} schedules
 * @param {() => void} done
 */
async function change(action, schedules, done) {
  try {
    await Promise.all(schedules.map(({ id }) => act(action, id)));
    say(`${named(schedules)} ${schedules.length === 1 ? "is" : "are"} ${action}d.`);
  } catch (error) {
    say(/** @type {Error} */ (error).message, true);
  }
  done();
  keepFocus();
}

/**
 * The buttons for some schedules.
 *
 * @param {{schedules: ScheduleObject[], done: () => void, deleted: () => void}} props
 */
export function ScheduleButtons({ schedules, done, deleted }) {
  const paused = schedules.filter(({ pausedOn }) => pausedOn !== undefined);
  const going = schedules.filter(({ pausedOn }) => pausedOn === undefined);
  const [only] = schedules;
  const run = async () => {
    try {
      const made = await act("run", String(only?.id));
      say(`${made.id} is created.`);
      go(href("promises", made.id));
    } catch (error) {
      say(/** @type {Error} */ (error).message, true);
    }
  };
  const remove = () =>
    confirm({
      title: `Delete ${named(schedules)}?`,
      text: "It makes no more promises. Those that it has made stay.",
      deed: `Delete ${named(schedules)}`,
      count: schedules.length,
      act: async () => {
        await Promise.all(schedules.map(({ id }) => ask(withId("schedules", id), { method: "DELETE" })));
        deleted();
        return `${named(schedules)} ${schedules.length === 1 ? "is" : "are"} deleted.`;
      },
    });
  return html`${going.length > 0 && html`<button key="pause" onClick=${() => change("pause", going, done)}>Pause</button>`}
    ${paused.length > 0 && html`<button key="resume" onClick=${() => change("resume", paused, done)}>Resume</button>`}
    ${schedules.length === 1 && html`<button key="run" onClick=${run}>Run now</button>`}
    <button key="delete" onClick=${remove}>Delete …</button>`;
}

/**
 * What may be done with the selected rows.
 *
 * @param {{chosen: ScheduleObject[], clear: () => void, done: () => void}} props
 */
export function ScheduleSelection({ chosen, clear, done }) {
  if (chosen.length === 0) return null;
  const cleared = () => {
    clear();
    done();
    keepFocus();
  };
  return html`<div class="selected-bar" role="region" aria-label="Selected schedules">
    <strong class="figures">${chosen.length} selected</strong>
    <${ScheduleButtons} schedules=${chosen} done=${cleared} deleted=${cleared} />
    <button class="quiet small push" onClick=${cleared}>Clear</button>
  </div>`;
}

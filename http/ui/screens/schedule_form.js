/** The dialog that creates or changes a schedule, and shows its next times while one types. */
import { html, useEffect, useState } from "../vendor/preact.js";
import { ask, withId } from "../api.js";
import { cronWords } from "../parts/cron.js";
import { DialogForm, open } from "../parts/dialog.js";
import { decoded, jsonProblem } from "../parts/payload.js";
import { calendar } from "../parts/time.js";
import { payload } from "../promise.js";
import { whoami } from "../server.js";

const TYPING_MS = 250;
const SHOWN_COUNT = 5;
const PARAM_LIMIT_BYTES = 64 << 10;
const MINUTE_MS = 60_000;
const HOUR_MS = 3_600_000;

/**
 * Asks for a schedule.
 *
 * @param {ScheduleObject | undefined} schedule The one to change; undefined: a new one.
 * @param {() => void} done
 */
export function editSchedule(schedule, done) {
  open({
    title: schedule ? `Change ${schedule.id}` : "Create a schedule",
    isWide: true,
    body: (close) => html`<${Form} schedule=${schedule} close=${close} done=${done} />`,
  });
}

/**
 * Returns the next times of an expression, and what is wrong with it.
 *
 * @param {string} cron
 */
export function usePreview(cron) {
  const [found, setFound] = useState(/** @type {{times: number[], zone: string, problem: string}} */ ({ times: [], zone: "", problem: "" }));
  useEffect(() => {
    if (!cron.trim()) return setFound({ times: [], zone: "", problem: "" });
    const controller = new AbortController();
    const timer = setTimeout(async () => {
      try {
        const answer = await ask("schedules/preview", { method: "POST", body: { cron }, signal: controller.signal });
        setFound({ times: answer.times, zone: answer.timeZone === "Local" ? "the server's time zone" : answer.timeZone, problem: "" });
      } catch (error) {
        const { details = [], message } = /** @type {import("../api.js").Refused} */ (error);
        if (!controller.signal.aborted) setFound({ times: [], zone: "", problem: details[0] ?? message });
      }
    }, TYPING_MS);
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  }, [cron]);
  return found;
}

/** @param {{schedule: ScheduleObject | undefined, close: () => void, done: () => void}} props */
function Form({ schedule, close, done }) {
  const prefix = whoami.get()?.idPrefix ?? "";
  const [given, setGiven] = useState({
    id: schedule?.id ?? prefix,
    description: schedule?.description ?? "",
    cron: schedule?.cron ?? "0 * * * *",
    promiseId: schedule?.promiseId ?? `${prefix}{{.id}}.{{.timestamp}}`,
    minutes: String((schedule?.promiseTimeout ?? HOUR_MS) / MINUTE_MS),
    param: decoded(schedule?.promiseParam.data ?? "", PARAM_LIMIT_BYTES).text,
    receiver: schedule?.promiseTags?.["resonate:invoke"] ?? "",
  });
  const preview = usePreview(given.cron);
  const problem = jsonProblem(given.param);
  const put = (/** @type {string} */ name) => (/** @type {any} */ event) => setGiven({ ...given, [name]: event.target.value });
  const act = async () => {
    const body = {
      description: given.description,
      cron: given.cron,
      promiseId: given.promiseId,
      promiseTimeout: Math.round(Number(given.minutes) * MINUTE_MS),
      promiseParam: payload(given.param),
      promiseTags: tagsWith(schedule?.promiseTags, given.receiver),
    };
    if (schedule) await ask(withId("schedules", schedule.id), { method: "PATCH", body });
    else await ask("schedules", { method: "POST", body: { ...body, id: given.id } });
    done();
    return `${given.id} is ${schedule ? "changed" : "created"}.`;
  };
  const isReady = given.id !== "" && given.promiseId !== "" && Number(given.minutes) > 0 && !problem && !preview.problem;
  return html`<${DialogForm} deed=${schedule ? "Change" : "Create"} isReady=${isReady} close=${close} act=${act}>
    ${!schedule && html`<label>Id <input class="id" required value=${given.id} onInput=${put("id")} /></label>`}
    <label>Description <input value=${given.description} onInput=${put("description")} /></label>
    <label>
      Fires, as a cron expression
      <input class="id" required value=${given.cron} onInput=${put("cron")} />
      ${preview.problem ? html`<span class="problem">${preview.problem}</span>` : html`<span>${cronWords(given.cron)}</span>`}
    </label>
    ${preview.times.length > 0 &&
    html`<p class="quiet-text">Next: ${preview.times.slice(0, SHOWN_COUNT).map((time) => html`<span class="tag">${calendar(time)}</span>`)} ${preview.zone && `The expression is in ${preview.zone}.`}</p>`}
    <label>Ids of its promises <input class="id" required value=${given.promiseId} onInput=${put("promiseId")} /></label>
    <label>Minutes after which they time out <input type="number" min="0.001" step="any" required value=${given.minutes} onInput=${put("minutes")} /></label>
    <label>Receiver of their tasks; may be empty <input class="id" placeholder="poll://any@default" value=${given.receiver} onInput=${put("receiver")} /></label>
    <label>
      Param, as JSON; may be empty
      <textarea class="code" value=${given.param} onInput=${put("param")}></textarea>
      ${problem && html`<span class="problem">${problem}</span>`}
    </label>
  <//>`;
}

/**
 * @param {Record<string, string> | undefined} tags
 * @param {string} receiver
 */
function tagsWith(tags, receiver) {
  const { "resonate:invoke": _before, ...others } = tags ?? {};
  return receiver ? { ...others, "resonate:invoke": receiver } : others;
}

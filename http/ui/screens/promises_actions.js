/** What one does with several promises: cancel, delete, copy, export, or the same as a command. */
import { html, useEffect, useState } from "../vendor/preact.js";
import { apiUrl, ask, withId } from "../api.js";
import { startBulk } from "../parts/bulk.js";
import { ColumnChoice } from "../parts/columns.js";
import { confirm, keepFocus, open } from "../parts/dialog.js";
import { Command, Copy, say } from "../parts/notices.js";
import { tagsOf } from "../parts/filters.js";
import { save } from "../parts/save.js";
import { complete } from "../promise.js";
import { change } from "../router.js";
import { may } from "../server.js";
import { asked } from "./promises_query.js";

const AT_ONCE_COUNT = 6;

/**
 * What may be done with the selected rows; if all are, and the server has more, with all that match.
 *
 * @param {{selection: import("../parts/table.js").Selection, rows: PromiseObject[], query: URLSearchParams, hasMore: boolean, clear: () => void, done: () => void}} props
 */
export function SelectionBar({ selection, rows, query, hasMore, clear, done }) {
  const [isAll, setAll] = useState(false);
  const chosen = rows.filter(({ id }) => selection.ids.has(id));
  useEffect(() => setAll(false), [chosen.length]);
  if (chosen.length === 0) return null;
  if (isAll) return html`<${AllThatMatch} query=${query} clear=${clear} />`;
  const selectAll = () => {
    setAll(true);
    keepFocus();
  };
  const pending = chosen.filter(({ state }) => state === "PENDING");
  const over = chosen.filter(({ state }) => state !== "PENDING");
  const act = (/** @type {string} */ did, /** @type {PromiseObject[]} */ those, /** @type {(promise: PromiseObject) => Promise<unknown>} */ deed) => async () => {
    const text = await each(those, deed, did);
    clear();
    done();
    return text;
  };
  const cancel = () =>
    confirm({
      title: `Cancel ${named(pending)}?`,
      text: "What waits for them is told that they were canceled. This cannot be undone.",
      deed: `Cancel ${named(pending)}`,
      count: pending.length,
      act: act("canceled", pending, ({ id }) => complete(id, "REJECTED_CANCELED", {})),
    });
  const remove = () =>
    confirm({
      title: `Delete ${named(over)}?`,
      text: "They are gone for good, with their params and values. Their ids may be used again.",
      deed: `Delete ${named(over)}`,
      count: over.length,
      act: act("deleted", over, ({ id }) => ask(withId("promises", id), { method: "DELETE" })),
    });
  const clearAll = () => {
    clear();
    keepFocus();
  };
  return html`<div class="selected-bar" role="region" aria-label="Selected promises">
    <strong class="figures">${chosen.length} selected</strong>
    ${may("promises:write") && pending.length > 0 && html`<button onClick=${cancel}>Cancel ${pending.length} …</button>`}
    ${may("promises:write") && over.length > 0 && html`<button onClick=${remove}>Delete ${over.length} …</button>`}
    ${may("promises:write") && hasMore && chosen.length === rows.length && html`<button onClick=${selectAll}>Select all that match</button>`}
    <${Copy} text=${() => chosen.map(({ id }) => id).join("\n")}>Copy ids<//>
    <button class="quiet small push" onClick=${clearAll}>Clear</button>
  </div>`;
}

/**
 * What a bulk job may do with all that the filter finds.
 *
 * @param {{query: URLSearchParams, clear: () => void}} props
 */
function AllThatMatch({ query, clear }) {
  const { order: _order, values: _values, partial: _partial, ...filter } = asked(query);
  const given = /** @type {Record<string, string>} */ (Object.fromEntries(Object.entries(filter).filter(([, text]) => text)));
  const states = query.get("states")?.split(",");
  const cancel = () =>
    startBulk({
      action: "cancel",
      subject: "promises",
      filter: { ...given, states: "pending" },
      text: "What waits for them is told that they were canceled. This cannot be undone.",
    });
  const remove = () =>
    startBulk({
      action: "delete",
      subject: "promises",
      filter: given,
      text: "They are gone for good, with their params and values. Their ids may be used again.",
    });
  const clearAll = () => {
    clear();
    keepFocus();
  };
  return html`<div class="selected-bar" role="region" aria-label="All promises that match">
    <strong>All that match are selected</strong>
    ${(!states || states.includes("pending")) && html`<button onClick=${cancel}>Cancel the pending ones …</button>`}
    ${states?.join() !== "pending" && html`<button onClick=${remove}>Delete the completed ones …</button>`}
    <button class="quiet small push" onClick=${clearAll}>Clear</button>
  </div>`;
}

/** @param {PromiseObject[]} promises */
function named(promises) {
  const [first] = promises;
  return promises.length === 1 && first ? first.id : `${promises.length} promises`;
}

/**
 * Does the same to each, some at a time, and returns what came of it. Throws what the first refusal said if
 * all were refused.
 *
 * @param {PromiseObject[]} promises
 * @param {(promise: PromiseObject) => Promise<unknown>} deed
 * @param {string} did
 */
async function each(promises, deed, did) {
  /** @type {PromiseSettledResult<unknown>[]} */
  const results = [];
  for (let at = 0; at < promises.length; at += AT_ONCE_COUNT) {
    results.push(...(await Promise.allSettled(promises.slice(at, at + AT_ONCE_COUNT).map(deed))));
  }
  const refused = results.filter((result) => result.status === "rejected");
  const count = results.length - refused.length;
  if (count === 0 && refused[0]) throw refused[0].reason;
  const rest = refused[0] ? ` ${refused.length} were not: ${refused[0].reason.message}` : "";
  return `${count} ${count === 1 ? "promise is" : "promises are"} ${did}.${rest}`;
}

/**
 * The order and columns of the list; the list as a file, or as a command.
 *
 * @param {{query: URLSearchParams, rows: PromiseObject[], columns: import("../parts/table.js").Column<PromiseObject>[]}} props
 */
export function ListMenu({ query, rows, columns }) {
  const isOldest = query.get("order") === "oldest";
  return html`<details class="menu">
    <summary>View</summary>
    <div>
      <label class="check">
        <input type="checkbox" checked=${isOldest} onChange=${() => change({ order: isOldest ? undefined : "oldest" })} /> Oldest first
      </label>
      <hr />
      <${ColumnChoice} columns=${columns} />
      <hr />
      <button class="quiet" onClick=${() => showCommands(query)}>As a command</button>
      <button class="quiet" disabled=${rows.length === 0} onClick=${() => exportRows(asked(query))}>Export as JSON lines</button>
    </div>
  </details>`;
}

/** @param {string} text */
function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** @param {URLSearchParams} query */
function showCommands(query) {
  const { id = "*" } = asked(query);
  const states = query.get("states");
  const words = ["troth promises search", quoted(id)];
  if (states) words.push("--states", states);
  for (const [name, value] of tagsOf(query)) words.push("--tag", quoted(`${name}=${value}`));
  const { values: _values, ...parameters } = asked(query);
  open({
    title: "The same as a command",
    isWide: true,
    body: (close) => html`<div class="stack">
      <${Command} text=${words.join(" ")} />
      <${Command} text=${`curl -s ${quoted(apiUrl("promises", parameters).href)}`} />
      <div class="row end"><button onClick=${close}>Close</button></div>
    </div>`,
  });
}

/** How many promises one export takes from the server at most. */
const EXPORTED_COUNT = 10_000;

/** @param {Record<string, string | undefined>} query */
async function exportRows(query) {
  /** @type {string[]} */
  const lines = [];
  let cursor;
  try {
    do {
      const page = await ask("promises", { query: { ...query, values: "full", limit: "100", cursor } });
      lines.push(...page.promises.map((/** @type {PromiseObject} */ promise) => JSON.stringify(promise)));
      cursor = page.cursor ?? undefined;
      say(`Exporting: ${lines.length} promises so far.`);
    } while (cursor && lines.length < EXPORTED_COUNT);
  } catch (error) {
    return say(/** @type {Error} */ (error).message, true);
  }
  save("promises.jsonl", new Blob([lines.join("\n"), "\n"], { type: "application/jsonl" }));
  say(`${lines.length} promises are exported${cursor ? "; the command lists all of them" : ""}.`);
}

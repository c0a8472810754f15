/** The locks that are held: by whom, and until when unless they are renewed. */
import { html } from "../vendor/preact.js";
import { ask } from "../api.js";
import { useListing } from "../listing.js";
import { confirm } from "../parts/dialog.js";
import { FilterField } from "../parts/filters.js";
import { Empty } from "../parts/notices.js";
import { NewRows, Rows } from "../parts/rows.js";
import { Span } from "../parts/time.js";
import { change, href, usePlace } from "../router.js";
import { may, now } from "../server.js";
import { useTitle } from "../shell.js";

/** @type {import("../parts/table.js").Column<LockObject>[]} */
const COLUMNS = [
  { name: "resource", title: "Resource", isMain: true, show: ({ resourceId }) => html`<span class="id">${resourceId}</span>` },
  { name: "execution", title: "Held for", show: ({ executionId }) => html`<a class="id" href=${href("promises", executionId)}>${executionId}</a>` },
  { name: "process", title: "By the process", show: ({ processId }) => html`<a class="id" href=${href("tasks", undefined, { process: processId })}>${processId}</a>` },
  {
    name: "left",
    title: "Ends unless renewed",
    show: ({ expiresAt }) => (expiresAt < now() ? html`<span class="quiet-text">now</span>` : html`<span class="quiet-text">in <${Span} until=${expiresAt} /></span>`),
  },
];

/** @type {import("../listing.js").Source<LockObject>} */
const SOURCE = { path: "locks", field: "locks", keyOf: ({ resourceId }) => resourceId, topics: ["tasks", "promises"] };

/** Shows the list. */
export function Screen() {
  useTitle("Locks");
  const { query } = usePlace();
  const text = query.get("id") ?? "";
  const asked = { id: text === "" || text.includes("*") ? text || undefined : `${text}*`, process: query.get("process") ?? undefined };
  const list = useListing(SOURCE, asked);
  const release = (/** @type {LockObject} */ { resourceId, executionId }) =>
    confirm({
      title: `Break the lock on ${resourceId}?`,
      text: `${executionId} holds it. If that still works, two may then work on ${resourceId} together.`,
      deed: "Break the lock",
      act: async () => {
        await ask("locks/break", { method: "POST", body: { resourceId } });
        list.refresh();
        return `The lock on ${resourceId} is broken.`;
      },
    });
  /** @type {import("../parts/table.js").Column<LockObject>} */
  const actions = { name: "actions", title: "", show: (lock) => html`<button class="small" onClick=${() => release(lock)}>Break …</button>` };
  const none =
    text || asked.process
      ? html`<${Empty} title="No lock matches"><button onClick=${() => change({ id: undefined, process: undefined })}>Show all locks</button><//>`
      : html`<${Empty} title="No lock is held" command="troth locks --help"><p>Programs that share a thing lock it while they use it.</p><//>`;
  return html`<div class="filters" role="search" aria-label="Filter">
      <${FilterField} name="id" label="Resources" placeholder="Begins with …, or has a *" />
      <${FilterField} name="process" label="Process" />
      <span class="push row"><${NewRows} count=${list.fresh.size} show=${list.reload} /></span>
    </div>
    <${Rows} list=${list} table=${{ label: "Locks", columns: may("admin") ? [...COLUMNS, actions] : COLUMNS, keyOf: SOURCE.keyOf }} none=${none} />`;
}

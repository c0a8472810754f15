/** Snapshots and data: what is on disk, the snapshots in the server's directory, and what retention deletes. */
import { html, useState } from "../vendor/preact.js";
import { ask, send } from "../api.js";
import { useAnswer } from "../asking.js";
import { useLive } from "../live.js";
import { keepFocus } from "../parts/dialog.js";
import { Answered, Empty, say } from "../parts/notices.js";
import { size } from "../parts/payload.js";
import { figures } from "../parts/rows.js";
import { save } from "../parts/save.js";
import { Table } from "../parts/table.js";
import { When, duration } from "../parts/time.js";
import { may, now, whoami } from "../server.js";
import { useTitle } from "../shell.js";
import { Retention } from "./snapshots_retention.js";

const REFRESH_MS = 10_000;
/** The last bytes of a snapshot that is whole. */
const END = "\u00ffTROTHE\u00fe";

/** Shows all three. */
export function Screen() {
  useTitle("Snapshots & data");
  return html`<div class="stack">
    ${may("metrics:read") && html`<${OnDisk} />`}
    <${Snapshots} />
    <${Retention} />
  </div>`;
}

function OnDisk() {
  /** @type {import("../asking.js").Answer<string>} */
  const answer = useAnswer("metrics");
  useLive(answer.reload, { topics: ["counters"], everyMs: REFRESH_MS });
  const isInMemory = whoami.get()?.server.inMemory;
  const show = (/** @type {string} */ text) => {
    const of = (/** @type {string} */ name) => Number(new RegExp(`^troth_${name} (\\S+)$`, "m").exec(text)?.[1] ?? 0);
    const mean = (/** @type {string} */ name) => (1000 * of(`${name}_seconds_sum`)) / Math.max(1, of(`${name}_seconds_count`));
    const lastOn = 1000 * of("checkpoint_last_timestamp_seconds");
    return html`<dl class="facts across body">
      <div><dt>Log</dt><dd>${size(of("log_size_bytes"))}</dd></div>
      <div><dt>Store</dt><dd>${size(of("store_size_bytes"))}</dd></div>
      <div><dt>Last checkpoint</dt><dd>${lastOn > 0 ? html`<${When} at=${lastOn} /> <span class="quiet-text">each takes ${duration(mean("checkpoint_duration"))}</span>` : "none since the start"}</dd></div>
      <div><dt>Only in the log</dt><dd>${figures(of("log_records_since_checkpoint"))} <span class="quiet-text">records, read again at a start</span></dd></div>
      <div><dt>Write to disk</dt><dd>${duration(mean("log_sync_duration"))} <span class="quiet-text">on average</span></dd></div>
    </dl>`;
  };
  return html`<section class="panel">
    <header><h2>On disk</h2></header>
    ${isInMemory ? html`<p class="body">Nothing: this server keeps everything in memory, and forgets it when it stops.</p>` : html`<${Answered} answer=${answer} lines=${2} show=${show} />`}
  </section>`;
}

/** @type {import("../parts/table.js").Column<SnapshotObject>[]} */
const COLUMNS = [
  { name: "file", title: "File", isMain: true, show: ({ name }) => html`<span class="id">${name}</span>` },
  { name: "state", title: "State", show: ({ problem }) => (problem === null ? html`<span class="dot good" aria-hidden="true"></span> Can be restored` : html`<span class="problem">${problem}</span>`) },
  { name: "size", title: "Size", isNumber: true, show: ({ bytes }) => size(bytes) },
  { name: "when", title: "Taken", show: ({ createdOn }) => createdOn !== null && html`<${When} at=${createdOn} />` },
];

function Snapshots() {
  /** @type {import("../asking.js").Answer<{snapshots: SnapshotObject[]}>} */
  const answer = useAnswer("admin/snapshots");
  useLive(answer.reload, {});
  const [isBusy, setBusy] = useState(false);
  const run = (/** @type {() => Promise<string>} */ deed) => async () => {
    setBusy(true);
    try {
      say(await deed());
    } catch (error) {
      const { message, details } = /** @type {import("../api.js").Refused} */ (error);
      say([message, ...(details ?? [])].join(" "), true);
    }
    setBusy(false);
    answer.reload();
    keepFocus();
  };
  const hasNone = answer.error !== undefined && "status" in answer.error && answer.error.status === 400;
  if (whoami.get()?.server.inMemory) return null;
  const show = (/** @type {{snapshots: SnapshotObject[]}} */ { snapshots }) =>
    snapshots.length > 0
      ? html`<${Table} label="Snapshots" columns=${COLUMNS} rows=${snapshots.toReversed()} keyOf=${(/** @type {SnapshotObject} */ { name }) => name} />`
      : html`<${Empty} title="There is no snapshot yet" command="troth snapshot now"><p>Take one above, or from a shell. With the setting snapshot_schedule the server takes them by itself.</p><//>`;
  return html`<section class="panel">
    <header>
      <h2>Snapshots</h2>
      <span class="row">
        <button disabled=${isBusy} onClick=${run(download)}>Download one</button>
        ${!hasNone && html`<button disabled=${isBusy} onClick=${run(writeThere)}>Take one on the server</button>`}
      </span>
    </header>
    ${hasNone
      ? html`<${Empty} title="No directory for snapshots is set" command="troth serve --snapshot-directory /var/backups/troth --snapshot-schedule '0 3 * * *'"><p>Without it, snapshots can only be downloaded.</p><//>`
      : html`<${Answered} answer=${answer} lines=${3} show=${show} />`}
    <p class="panel-foot quiet-text">A snapshot has everything that the server remembers, its secrets too: keep it as safe as a password. <code>troth snapshot restore</code> makes a data directory of it.</p>
  </section>`;
}

async function writeThere() {
  const { name } = await ask("admin/snapshots", { method: "POST" });
  return `${name} is written.`;
}

/** Saves a snapshot, unless it was cut off on its way. */
async function download() {
  say("The snapshot is being downloaded …");
  const response = await send("admin/snapshot", { method: "POST" });
  if (!response.ok) throw new Error(`The server answered ${response.status}.`);
  const blob = await response.blob();
  const end = new Uint8Array(await blob.slice(-END.length).arrayBuffer());
  if (String.fromCharCode(...end) !== END) throw new Error("The snapshot was cut off on its way. Try again.");
  save(`troth-${new Date(now()).toISOString().replaceAll(/[-:]|\.\d+/g, "")}.snapshot`, blob);
  return `The snapshot is downloaded: ${size(blob.size)}.`;
}

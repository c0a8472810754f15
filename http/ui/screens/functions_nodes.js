/** The account's nodes: whether each is connected, how many of its slots are taken; draining and deleting them. */
import { html } from "../vendor/preact.js";
import { ask, withId } from "../api.js";
import { useAnswer } from "../asking.js";
import { useLive } from "../live.js";
import { confirm, keepFocus } from "../parts/dialog.js";
import { Answered, Empty, say } from "../parts/notices.js";
import { Table } from "../parts/table.js";

const REFRESH_MS = 3_000;
/** @type {Record<string, string>} */
const LANGUAGES = { PY: "Python", JS: "JavaScript" };

/** Shows them. */
export function Nodes() {
  /** @type {import("../asking.js").Answer<NodeObject[]>} */
  const answer = useAnswer("v1/node/list");
  useLive(answer.reload, { topics: ["counters", "queues"], everyMs: REFRESH_MS });
  /** @type {import("../parts/table.js").Column<NodeObject>[]} */
  const columns = [
    { name: "node", title: "Node", isMain: true, show: ({ hash, description }) => html`${description && html`<strong>${description}</strong> `}<span class="id quiet-text">${hash}</span>` },
    { name: "state", title: "State", show: (node) => html`<${NodeState} node=${node} />` },
    { name: "languages", title: "Runs", isMinor: true, show: ({ languages }) => languages.map((one) => LANGUAGES[one] ?? one).join(", ") },
    { name: "slots", title: "Slots taken", show: (node) => html`<${Slots} node=${node} />` },
    { name: "actions", title: "", show: (node) => html`<${Actions} node=${node} done=${answer.reload} />` },
  ];
  const show = (/** @type {NodeObject[]} */ nodes) =>
    nodes.length > 0
      ? html`<${Table} label="Nodes" columns=${columns} rows=${nodes} keyOf=${(/** @type {NodeObject} */ { hash }) => hash} />`
      : html`<${Empty} title="This account has no nodes" command=${`troth node --server ${new URL("..", document.baseURI).href}`}><p>A node runs the code of functions, on this machine or another. Give it a token with the scope node:</p><//>`;
  return html`<section class="panel"><header><h2>Nodes</h2></header><${Answered} answer=${answer} lines=${3} show=${show} /></section>`;
}

/** @param {{node: NodeObject}} props */
function NodeState({ node: { available, disabled, draining } }) {
  const isTaking = available && !disabled && !draining;
  const words = [available ? "Connected" : "Away", ...(disabled ? ["disabled"] : []), ...(draining ? ["takes no more tasks"] : [])];
  return html`<span class="nowrap"><span class="dot ${isTaking ? "good" : "warning"}" aria-hidden="true"></span> ${words.join(", ")}</span>`;
}

/** @param {{node: NodeObject}} props */
function Slots({ node: { running, slots } }) {
  return html`<span class="nowrap"><b class="figures">${running}</b> of ${slots}
    <svg class="meter after" aria-hidden="true">
      <rect width="100%" height="4" rx="2" />
      ${running > 0 && html`<rect width=${`${Math.round((100 * running) / slots)}%`} height="4" rx="2" />`}
    </svg>
  </span>`;
}

/** @param {{node: NodeObject, done: () => void}} props */
function Actions({ node, done }) {
  const { hash, description, draining, running } = node;
  const name = description || hash;
  const drain = async () => {
    try {
      await ask(withId("v1/node", hash), { method: "PATCH", body: { draining: !draining } });
      say(draining ? `${name} takes tasks again.` : `${name} takes no more tasks, and finishes those it has.`);
    } catch (error) {
      say(/** @type {Error} */ (error).message, true);
    }
    done();
    keepFocus();
  };
  const remove = () =>
    confirm({
      title: `Delete the node ${name}?`,
      text: `Its stream ends, and it cannot register again until it is restored.${running > 0 ? ` The ${running} it runs go to other nodes.` : ""}`,
      deed: "Delete the node",
      act: async () => {
        await ask(withId("v1/node", hash), { method: "DELETE" });
        done();
        return `${name} is deleted.`;
      },
    });
  return html`<button class="small" onClick=${drain}>${draining ? "Take tasks again" : "Drain"}</button> <button class="small" onClick=${remove}>Delete …</button>`;
}

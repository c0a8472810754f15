/** The cluster of a server that belongs to one: who owns which group, how far others are, and which nodes there are. */
import { html } from "../vendor/preact.js";
import { useAnswer } from "../asking.js";
import { useLive } from "../live.js";
import { Answered } from "../parts/notices.js";
import { figures } from "../parts/rows.js";
import { Table } from "../parts/table.js";
import { When } from "../parts/time.js";
import { now } from "../server.js";

const REFRESH_MS = 10_000;
/** A node that has said for this long nothing is shown as away. */
const PRESENT_MS = 30_000;
/** More than this takes noticeably longer to take over. */
const BEHIND_COUNT = 5_000;

/** @type {import("../parts/table.js").Column<ClusterGroupObject>[]} */
const GROUPS = [
  { name: "group", title: "Group", isMain: true, show: ({ group }) => `Group ${group}` },
  { name: "owner", title: "Owner", show: ({ owner, wished }) => html`<${Owner} owner=${owner} wished=${wished} />` },
  { name: "epoch", title: "Owners so far", isNumber: true, isMinor: true, show: ({ epoch }) => figures(epoch) },
  { name: "frame", title: "Last frame", isNumber: true, isMinor: true, show: ({ lastFrame }) => figures(lastFrame) },
  { name: "followers", title: "Standing by", show: ({ followers }) => html`<${Followers} followers=${followers} />` },
  { name: "snapshot", title: "Snapshot", isMinor: true, show: ({ snapshotOn }) => (snapshotOn === null ? "none yet" : html`<${When} at=${snapshotOn} />`) },
];

/** @type {import("../parts/table.js").Column<ClusterNodeObject>[]} */
const NODES = [
  { name: "node", title: "Node", isMain: true, show: ({ node }) => html`<strong>${node}</strong>` },
  { name: "state", title: "State", show: ({ seenOn, isDrained }) => html`<${State} seenOn=${seenOn} isDrained=${isDrained} />` },
  { name: "address", title: "Address", show: ({ address }) => html`<span class="id">${address}</span>` },
  { name: "version", title: "Version", isMinor: true, show: ({ version }) => version },
  { name: "features", title: "Reads features", isNumber: true, isMinor: true, show: ({ features }) => features },
];

/** Shows it; nothing for a server without a cluster. */
export function Cluster() {
  /** @type {import("../asking.js").Answer<ClusterObject>} */
  const answer = useAnswer("cluster");
  useLive(answer.reload, { topics: ["counters"], everyMs: REFRESH_MS });
  if (answer.data?.name === null) return null;
  const show = (/** @type {ClusterObject} */ { features, groups, nodes }) => html`
    <${Table} label="Groups" columns=${GROUPS} rows=${groups} keyOf=${(/** @type {ClusterGroupObject} */ { group }) => String(group)} />
    <${Table} label="Nodes of the cluster" columns=${NODES} rows=${nodes} keyOf=${(/** @type {ClusterNodeObject} */ { node }) => node} />
    ${nodes.length > 0 && nodes.every((node) => node.features > features) && html`<p class="body quiet-text">All nodes can read more than they write. End the upgrade with <code>troth cluster finalize</code>.</p>`}
  `;
  return html`<section class="panel cluster-panel">
    <header><h2>Cluster${answer.data && ` ${answer.data.name}`}</h2></header>
    <${Answered} answer=${answer} lines=${4} show=${show} />
  </section>`;
}

/** @param {{owner: string | null, wished: string | null}} props */
function Owner({ owner, wished }) {
  const shown = owner ?? html`<span class="problem">none known</span>`;
  if (wished === null) return shown;
  return html`${shown} <span class="tag">${wished === owner ? "as wished" : html`wished at <b>${wished}</b>`}</span>`;
}

/** @param {{followers: FollowerObject[]}} props */
function Followers({ followers }) {
  if (followers.length === 0) return html`<span class="problem">nobody</span>`;
  return followers.map(({ node, behind }) => html`<div key=${node}>${node} <span class=${behind > BEHIND_COUNT ? "problem" : "quiet-text"}>${behind === 0 ? "has read all" : `${figures(behind)} behind`}</span></div>`);
}

/** @param {{seenOn: number, isDrained: boolean}} props */
function State({ seenOn, isDrained }) {
  const isThere = now() - seenOn <= PRESENT_MS;
  return html`<span class="nowrap"><span class="dot ${isThere ? "good" : "warning"}" aria-hidden="true"></span> ${isThere ? "There" : html`Away since <${When} at=${seenOn} />`}${isDrained && html` <span class="tag">drained</span>`}</span>`;
}

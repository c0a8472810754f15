/** The settings: those of this browser, which one may change here, and those of the server, which are in force until it is started again. */
import { html } from "../vendor/preact.js";
import { useAnswer } from "../asking.js";
import { useValue } from "../observable.js";
import { FilterField } from "../parts/filters.js";
import { Answered, Empty } from "../parts/notices.js";
import { Table } from "../parts/table.js";
import { calendar } from "../parts/time.js";
import { PAGE_SIZES, SWITCH, THEMES, TIMES, pageSize, singleKeys, theme, times } from "../preferences.js";
import { change, usePlace } from "../router.js";
import { may, now } from "../server.js";
import { useTitle } from "../shell.js";

/** Shows both; those of the server to administrators. */
export function Screen() {
  useTitle("Settings");
  return html`<div class="stack">
    <${Browser} />
    ${may("admin") && html`<${Server} />`}
  </div>`;
}

function Browser() {
  return html`<section class="panel">
    <header><h2>This browser</h2></header>
    <div class="body columns">
      <${Choice} title="Times" source=${times} words=${{ [TIMES[0]]: "Relative: 6 m 24 s ago", [TIMES[1]]: `Local: ${calendar(now(), false)}`, [TIMES[2]]: `UTC: ${calendar(now(), true)}` }} />
      <${Choice} title="Theme" source=${theme} words=${{ [THEMES[0]]: "As the system", [THEMES[1]]: "Light", [THEMES[2]]: "Dark" }} />
      <${Choice} title="Rows that a list begins with" source=${pageSize} words=${Object.fromEntries(PAGE_SIZES.map((size) => [size, size]))} />
      <${Choice} title="Single keys (press ? to see them)" source=${singleKeys} words=${{ [SWITCH[0]]: "On", [SWITCH[1]]: "Off" }} />
    </div>
  </section>`;
}

/** @param {{title: string, source: import("../observable.js").Observable<string>, words: Record<string, string>}} props */
function Choice({ title, source, words }) {
  const chosen = useValue(source);
  return html`<label>${title}
    <select value=${chosen} onChange=${(/** @type {any} */ event) => source.set(event.target.value)}>
      ${Object.entries(words).map(([value, text]) => html`<option key=${value} value=${value} selected=${value === chosen}>${text}</option>`)}
    </select>
  </label>`;
}

/** @type {import("../parts/table.js").Column<SettingObject>[]} */
const COLUMNS = [
  { name: "setting", title: "Setting", isMain: true, show: ({ name, help }) => html`<span class="id">${name}</span><div class="quiet-text">${help}</div>` },
  { name: "value", title: "In force", show: ({ value, secret }) => html`<code>${value}</code>${secret && html` <span class="tag">secret</span>`}` },
  { name: "default", title: "Default", isMinor: true, show: (setting) => isChanged(setting) && html`<code class="quiet-text">${setting.default}</code>` },
  { name: "source", title: "From", show: ({ source }) => (source === "default" ? html`<span class="quiet-text">default</span>` : source) },
];

/** @param {SettingObject} setting */
function isChanged({ source }) {
  return source !== "default";
}

function Server() {
  const text = usePlace().query.get("text")?.toLowerCase() ?? "";
  /** @type {import("../asking.js").Answer<{settings: SettingObject[]}>} */
  const answer = useAnswer("settings");
  const show = (/** @type {{settings: SettingObject[]}} */ { settings }) => {
    const found = settings.filter(({ name, help, value }) => `${name}\n${help}\n${value}`.toLowerCase().includes(text));
    if (found.length === 0) return html`<${Empty} title="No setting matches"><button onClick=${() => change({ text: undefined })}>Show all settings</button><//>`;
    const rows = [...found.filter(isChanged), ...found.filter((setting) => !isChanged(setting))];
    return html`<${Table} key=${text} label="Settings of the server" columns=${COLUMNS} rows=${rows} keyOf=${(/** @type {SettingObject} */ { name }) => name} />`;
  };
  return html`<section class="panel">
    <header>
      <h2>The server <span class="quiet-text">· read when it starts, from its file, its environment and its options</span></h2>
      <span><${FilterField} name="text" label="Filter" placeholder="Name, or what it does" /></span>
    </header>
    <${Answered} answer=${answer} lines=${9} show=${show} />
  </section>`;
}

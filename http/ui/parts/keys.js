/** The page of keys, which `?` opens. */
import { html } from "../vendor/preact.js";
import { KEYS } from "../keyboard.js";
import { singleKeys } from "../preferences.js";
import { useValue } from "../observable.js";
import { open } from "./dialog.js";

/** Shows all keys. */
export function showKeys() {
  open({ title: "Keys", body: (close) => html`<${Keys} close=${close} />` });
}

/** @param {{close: () => void}} props */
function Keys({ close }) {
  const isOn = useValue(singleKeys) === "on";
  return html`<dl class="keys">
      ${KEYS.map(
        ([key, does]) => html`<div>
          <dt>${key.split(/ +/).map((one) => html`<kbd>${one}</kbd> `)}</dt>
          <dd>${does}</dd>
        </div>`,
      )}
    </dl>
    <label class="check">
      <input type="checkbox" checked=${isOn} onChange=${() => singleKeys.set(isOn ? "off" : "on")} />
      Single keys act
    </label>
    <div class="row end"><button onClick=${close}>Close</button></div>`;
}

/** The overview. */
import { html } from "../vendor/preact.js";
import { useTitle } from "../shell.js";

export function Screen() {
  useTitle("Overview");
  return html`<p>…</p>`;
}

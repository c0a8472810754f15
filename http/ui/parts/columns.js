/** Which columns of a list are shown; this browser remembers it. */
import { html } from "../vendor/preact.js";
import { useValue } from "../observable.js";
import { hiddenColumns } from "../preferences.js";

/** The columns without which a row says nothing. */
const ALWAYS = ["state", "promise"];

/**
 * Returns whether a column is shown.
 *
 * @param {{name: string}} column
 * @param {string[]} hidden
 */
export function isShown({ name }, hidden) {
  return ALWAYS.includes(name) || !hidden.includes(name);
}

/**
 * Check boxes for the columns.
 *
 * @param {{columns: import("./table.js").Column<any>[]}} props
 */
export function ColumnChoice({ columns }) {
  const hidden = useValue(hiddenColumns).split(",").filter(Boolean);
  const toggle = (/** @type {string} */ name) =>
    hiddenColumns.set((hidden.includes(name) ? hidden.filter((one) => one !== name) : [...hidden, name]).join(","));
  return columns
    .filter(({ name }) => !ALWAYS.includes(name))
    .map(
      ({ name, title }) => html`<label class="check" key=${name}>
        <input type="checkbox" checked=${!hidden.includes(name)} onChange=${() => toggle(name)} /> ${title}
      </label>`,
    );
}

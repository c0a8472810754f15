/** Ids in narrow places: whole, and broken after dots and slashes. */
import { html } from "../vendor/preact.js";

/**
 * An id that may be broken after each dot and slash.
 *
 * @param {{id: string}} props
 */
export function BrokenId({ id }) {
  return id.split(/(?<=[./])/).map((part) => html`${part}<wbr />`);
}

/** Ids in narrow places: whole, and broken after dots, slashes and at signs. */
import { html } from "../vendor/preact.js";

/**
 * An id that may be broken after each dot, slash and at sign.
 *
 * @param {{id: string}} props
 */
export function BrokenId({ id }) {
  return id.split(/(?<=[./@])/).map((part) => html`${part}<wbr />`);
}

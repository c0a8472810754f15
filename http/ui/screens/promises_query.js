/** What the address of the list of promises asks the API for. */
import { tagsOf } from "../parts/filters.js";
import { whoami } from "../server.js";

/**
 * Returns the query of the API for an address.
 *
 * @param {URLSearchParams} query
 * @returns {Record<string, string | undefined>}
 */
export function asked(query) {
  const text = query.get("id") ?? "";
  const tags = tagsOf(query);
  /** @type {Record<string, string | undefined>} */
  const made = {
    id: text === "" ? `${whoami.get()?.idPrefix ?? ""}*` : text.includes("*") ? text : `${text}*`,
    states: query.get("states") ?? undefined,
    order: query.get("order") ?? undefined,
    values: "preview",
    partial: "true",
  };
  for (const [name, value] of tags) made[`tags[${name}]`] = value;
  const from = query.get("from");
  const to = query.get("to");
  if (from) made["createdFrom"] = from;
  if (to) made["createdTo"] = to;
  return made;
}

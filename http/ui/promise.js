/** What is known of a promise beyond its fields: its function, its own tags, how to name and change it. */
import { ask, withId } from "./api.js";

const FUNCTION = /"func"\s*:\s*"((?:[^"\\]|\\.){1,120})"/;

/**
 * Returns the bytes of base64 as text, as far as they are UTF-8; what is cut off at the end is left out.
 *
 * @param {string} data
 */
export function textOf(data) {
  const whole = data.length - (data.length % 4);
  try {
    const bytes = Uint8Array.from(atob(data.slice(0, whole)), (character) => character.charCodeAt(0));
    return new TextDecoder().decode(bytes, { stream: true });
  } catch {
    return ""; // It is not base64: `payload.js` says so where it is shown.
  }
}

/**
 * Returns the function that a promise stands for, as client libraries write it; empty if it is unknown.
 *
 * @param {ValueObject} param Whole, or its beginning.
 */
export function functionOf(param) {
  if (!param.data) return "";
  const text = textOf(param.data.slice(0, 4_096));
  const [, name] = text.trimStart().startsWith("{") ? (FUNCTION.exec(text) ?? []) : [];
  return name ?? "";
}

/**
 * Returns the tags that people gave, without those of client libraries.
 *
 * @param {Record<string, string>} [tags]
 */
export function ownTags(tags = {}) {
  return Object.entries(tags).filter(([name]) => !/^(resonate|troth):/.test(name));
}

/**
 * Returns a promise, with the beginning of its payloads, or null if there is none.
 *
 * @param {string} id
 * @returns {Promise<PromiseObject | null>}
 */
export async function findPromise(id) {
  const page = await ask("promises", { query: { id, values: "preview", limit: "1" } });
  return page.promises.find((/** @type {PromiseObject} */ found) => found.id === id) ?? null;
}

/**
 * Completes a promise. Throws `Refused` if another client was first.
 *
 * @param {string} id
 * @param {"RESOLVED" | "REJECTED" | "REJECTED_CANCELED"} state
 * @param {ValueObject} value
 */
export function complete(id, state, value) {
  return ask(withId("promises", id), { method: "PATCH", headers: { Strict: "true" }, body: { state, value } });
}

/**
 * Returns JSON as the data of a payload.
 *
 * @param {string} text
 * @returns {ValueObject}
 */
export function payload(text) {
  if (!text) return {};
  const bytes = new TextEncoder().encode(text);
  let binary = "";
  for (let at = 0; at < bytes.length; at += 8_192) binary += String.fromCharCode(...bytes.subarray(at, at + 8_192));
  return { data: btoa(binary) };
}

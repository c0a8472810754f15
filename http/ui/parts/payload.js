/**
 * Payloads: JSON colored, text as it is, bytes as a download. What is large does not come into the page
 * unasked: above 64 KiB its beginning, above 1 MiB only the download.
 *
 * Whatever it holds is shown as text: nothing is ever read as HTML.
 */
import { html, useMemo, useState } from "../vendor/preact.js";
import { Copy } from "./notices.js";
import { save } from "./save.js";

const SHOWN_BYTES = 64 << 10;
const SHOWN_AT_ALL_BYTES = 1 << 20;
const TOKENS = /("(?:[^"\\]|\\.)*"\s*:?)|(-?\d[\d.eE+-]*)|\b(true|false|null)\b/g;

/** @typedef {{kind: "none" | "json" | "text" | "bytes" | "broken", text: string, bytes: number, isCut: boolean}} Decoded */

/**
 * Returns how many bytes base64 stands for.
 *
 * @param {string} data
 */
function sizeOf(data) {
  const padding = data.endsWith("==") ? 2 : data.endsWith("=") ? 1 : 0;
  return Math.floor((data.length * 3) / 4) - padding;
}

/**
 * @param {string} data In base64.
 * @returns {Uint8Array<ArrayBuffer>}
 */
function bytesOf(data) {
  return Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
}

/**
 * Returns what a payload is, decoded as far as it will be shown.
 *
 * @param {string} data In base64.
 * @param {number} limitBytes
 * @returns {Decoded}
 */
export function decoded(data, limitBytes) {
  if (!data) return { kind: "none", text: "", bytes: 0, isCut: false };
  const bytes = sizeOf(data);
  const isCut = bytes > limitBytes;
  let found;
  try {
    // Four characters are three bytes.
    found = bytesOf(isCut ? data.slice(0, Math.floor(limitBytes / 3) * 4) : data);
  } catch {
    return { kind: "broken", text: data.slice(0, limitBytes), bytes: data.length, isCut };
  }
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(found, { stream: isCut });
  } catch {
    return { kind: "bytes", text: "", bytes, isCut };
  }
  if (isCut) return { kind: "text", text, bytes, isCut };
  try {
    return { kind: "json", text: JSON.stringify(JSON.parse(text), null, 2), bytes, isCut };
  } catch {
    return { kind: "text", text, bytes, isCut };
  }
}

/**
 * Returns what is wrong with a text that should be JSON; empty if nothing is, or if there is no text.
 *
 * @param {string} text
 */
export function jsonProblem(text) {
  if (!text.trim()) return "";
  try {
    JSON.parse(text);
    return "";
  } catch (error) {
    return `Not JSON: ${/** @type {Error} */ (error).message}`;
  }
}

/**
 * Returns a size in words.
 *
 * @param {number} bytes
 */
export function size(bytes) {
  if (bytes < 1_024) return `${bytes} bytes`;
  const [word, unit] = bytes < 1 << 20 ? ["KiB", 1_024] : bytes < 1 << 30 ? ["MiB", 1 << 20] : ["GiB", 1 << 30];
  return `${(bytes / Number(unit)).toFixed(1)} ${word}`;
}

/**
 * A param or value.
 *
 * @param {{title: string, value: ValueObject, name: string}} props `name` is that of the file when it is downloaded.
 */
export function Payload({ title, value, name }) {
  const data = value.data ?? "";
  const [isWhole, setWhole] = useState(false);
  const limit = isWhole ? SHOWN_AT_ALL_BYTES : SHOWN_BYTES;
  const found = useMemo(() => decoded(data, limit), [data, limit]);
  const isHuge = found.bytes > SHOWN_AT_ALL_BYTES;
  const headers = Object.entries(value.headers ?? {});
  const download = () => save(name, new Blob([found.kind === "broken" ? data : bytesOf(data)]));
  return html`<section class="payload">
    <header class="row">
      <h3>${title}</h3>
      ${found.bytes > 0 && html`<span class="quiet-text figures">${size(found.bytes)}</span>`}
      <span class="push row tight">
        ${found.bytes > 0 && html`<button class="quiet small" onClick=${download}>Download</button>`}
        ${found.text && !found.isCut && html`<${Copy} text=${found.text} label=${`Copy the ${title.toLowerCase()}`}>Copy<//>`}
      </span>
    </header>
    ${headers.length > 0 && html`<dl class="facts small">${headers.map(([key, text]) => html`<div key=${key}><dt>${key}</dt><dd class="id">${text}</dd></div>`)}</dl>`}
    <${Body} title=${title} found=${found} isHuge=${isHuge} />
    ${found.isCut && !isHuge && html`<button class="small" onClick=${() => setWhole(true)}>Show all ${size(found.bytes)}</button>`}
  </section>`;
}

/** @param {{title: string, found: Decoded, isHuge: boolean}} props */
function Body({ title, found, isHuge }) {
  if (found.kind === "none") return html`<p class="quiet-text">none</p>`;
  if (isHuge) return html`<p class="quiet-text">Too large to show here.</p>`;
  if (found.kind === "bytes") return html`<p class="quiet-text">Bytes that are not text.</p>`;
  return html`${found.kind === "broken" && html`<p class="quiet-text">This is not base64. As it was given:</p>`}
    <pre class="code" tabindex="0" role="region" aria-label=${`${title}, its content`}>${found.kind === "json" ? colored(found.text) : found.text}</pre>
    ${found.isCut && html`<p class="quiet-text">The first ${size(SHOWN_BYTES)}.</p>`}`;
}

/** @param {string} text */
function colored(text) {
  /** @type {any[]} */
  const parts = [];
  let at = 0;
  for (const match of text.matchAll(TOKENS)) {
    const [token, string, number] = match;
    if (string?.endsWith(":")) continue;
    parts.push(text.slice(at, match.index), html`<span class=${string ? "json-text" : number ? "json-number" : "json-word"}>${token}</span>`);
    at = match.index + token.length;
  }
  parts.push(text.slice(at));
  return parts;
}

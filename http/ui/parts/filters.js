/** What lists are filtered with: a field for a pattern, chips for states, tags. All of it is in the address. */
import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { change, usePlace } from "../router.js";
import { Icon } from "./icons.js";

const TYPING_MS = 300;

/**
 * A field whose text becomes a parameter of the address once one stops typing.
 *
 * @param {{name: string, label: string, placeholder?: string}} props
 */
export function FilterField({ name, label, placeholder = "" }) {
  const given = usePlace().query.get(name) ?? "";
  const [text, setText] = useState(given);
  /** @type {import("../vendor/preact.js").RefObject<ReturnType<typeof setTimeout> | null>} */
  const timer = useRef(null);
  useEffect(() => setText(given), [given]);
  const put = (/** @type {string} */ wanted) => change({ [name]: wanted.trim() || undefined }, { replace: true });
  const typed = (/** @type {any} */ event) => {
    const wanted = event.target.value;
    setText(wanted);
    clearTimeout(timer.current ?? undefined);
    timer.current = setTimeout(() => put(wanted), TYPING_MS);
  };
  return html`<input
    type="search"
    aria-label=${label}
    placeholder=${placeholder || label}
    autocomplete="off"
    spellcheck=${false}
    value=${text}
    onInput=${typed}
    onKeyDown=${(/** @type {any} */ event) => event.key === "Enter" && put(event.target.value)}
  />`;
}

/**
 * Chips for some words, of which any number may be chosen; none means all.
 *
 * @param {{name: string, label: string, words: readonly (readonly [string, string])[], counts?: Record<string, number> | undefined}} props
 */
export function Chips({ name, label, words, counts }) {
  const chosen = (usePlace().query.get(name) ?? "").split(",").filter(Boolean);
  const toggle = (/** @type {string} */ word) => {
    const next = chosen.includes(word) ? chosen.filter((one) => one !== word) : [...chosen, word];
    change({ [name]: next.length === words.length ? undefined : next.join(",") || undefined });
  };
  return html`<div class="chips" role="group" aria-label=${label}>
    <button aria-pressed=${chosen.length === 0} onClick=${() => change({ [name]: undefined })}>All</button>
    ${words.map(
      ([word, text]) => html`<button key=${word} aria-pressed=${chosen.includes(word)} onClick=${() => toggle(word)}>
        ${text}${counts && html` <span class="count">${(counts[word] ?? 0).toLocaleString("en-US")}</span>`}
      </button>`,
    )}
  </div>`;
}

/**
 * Returns the tags of an address: `tag=team=checkout&…`, with commas between several.
 *
 * @param {URLSearchParams} query
 * @returns {[string, string][]}
 */
export function tagsOf(query) {
  return query
    .getAll("tag")
    .join("\n")
    .split("\n")
    .filter(Boolean)
    .map((text) => {
      const at = text.indexOf("=");
      return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 1)];
    });
}

/** The tags that are filtered by, each with a button that takes it away, and a field for another. */
export function TagFilter() {
  const tags = tagsOf(usePlace().query);
  const [isAdding, setAdding] = useState(false);
  const put = (/** @type {[string, string][]} */ next) =>
    change({ tag: next.map(([name, value]) => `${name}=${value}`).join("\n") || undefined });
  const add = (/** @type {any} */ event) => {
    event.preventDefault();
    const text = String(new FormData(event.target).get("tag"));
    const at = text.indexOf("=");
    if (at > 0) put([...tags, [text.slice(0, at), text.slice(at + 1)]]);
    setAdding(false);
  };
  return html`${tags.map(
      ([name, value], index) => html`<span key=${name} class="tag removable">
        ${name} <b>${value}</b>
        <button class="quiet small" aria-label=${`Remove ${name}=${value}`} onClick=${() => put(tags.toSpliced(index, 1))}><${Icon} name="close" /></button>
      </span>`,
    )}
    ${isAdding
      ? html`<form class="row" onSubmit=${add}>
          <input name="tag" aria-label="A tag, as name=value" placeholder="team=checkout" ref=${(/** @type {any} */ field) => field?.focus()} onBlur=${() => setAdding(false)} />
        </form>`
      : html`<button class="quiet" onClick=${() => setAdding(true)}><${Icon} name="plus" /> Tag</button>`}`;
}

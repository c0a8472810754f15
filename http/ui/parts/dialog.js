/**
 * Dialogs: native ones, so that the page behind is inert, Esc closes, and focus comes back.
 *
 * What cannot be undone asks first, names the thing and the number, and its button says the deed. Above
 * 100 the number must be typed. The button that changes nothing has the focus.
 */
import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { observable, useValue } from "../observable.js";
import { Failed, say } from "./notices.js";

const TYPED_ABOVE_COUNT = 100;

/** @typedef {import("../vendor/preact.js").ComponentChildren} Children */
/** @typedef {{title: string, body: (close: () => void) => Children, isWide?: boolean}} Opened */
/** @typedef {{serial: number, dialog: Opened}} Opening */

/** @type {import("../observable.js").Observable<Opening | null>} */
const opening = observable(/** @type {Opening | null} */ (null));
let openedCount = 0;

/**
 * Opens a dialog. The same one opened again is another: the browser says later that the first was closed.
 *
 * @param {Opened} dialog
 */
export function open(dialog) {
  openedCount += 1;
  opening.set({ serial: openedCount, dialog });
}

/** How long after an action the page may still change, so that what had the focus goes. */
const CHANGES_FOR_MS = 3_000;

/** Moves the focus to the title of the page if it is lost: what had it is gone, now or when newer data comes. */
export function keepFocus() {
  const look = () => {
    const active = document.activeElement;
    if (active !== null && active !== document.body) return;
    observer.disconnect();
    document.querySelector("h1")?.focus({ preventScroll: true });
  };
  const observer = new MutationObserver(look);
  observer.observe(document.body, { childList: true, subtree: true });
  setTimeout(() => observer.disconnect(), CHANGES_FOR_MS);
  requestAnimationFrame(look);
}

/** Where dialogs appear. */
export function Dialogs() {
  const shown = useValue(opening);
  return shown && html`<${Dialog} key=${shown.serial} ...${shown} />`;
}

/** @param {Opening} props */
function Dialog({ serial, dialog: { title, body, isWide } }) {
  /** @type {import("../vendor/preact.js").RefObject<HTMLDialogElement | null>} */
  const element = useRef(null);
  useEffect(() => element.current?.showModal(), []);
  const close = () => element.current?.close();
  const closed = () => {
    if (opening.get()?.serial === serial) opening.set(null);
    keepFocus();
  };
  return html`<dialog ref=${element} class=${isWide ? "wide" : ""} aria-labelledby="dialog-title" onClose=${closed}>
    <h2 id="dialog-title">${title}</h2>
    ${body(close)}
  </dialog>`;
}

/**
 * The form of a dialog: fields, a button that does it, and one that does not. It stays open when the
 * server refuses, and says why.
 *
 * @param {{deed: string, isGrave?: boolean, isReady?: boolean, close: () => void, act: () => Promise<string | undefined>, children?: Children}} props
 *   `act` returns what was done, for people; undefined: the dialog shows it itself, and stays open.
 */
export function DialogForm({ deed, isGrave = false, isReady = true, close, act, children }) {
  const [error, setError] = useState(/** @type {Error | null} */ (null));
  const [isBusy, setBusy] = useState(false);
  const submit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    if (isBusy || !isReady) return;
    setBusy(true);
    setError(null);
    try {
      const done = await act();
      if (done === undefined) return;
      close();
      if (done) say(done);
    } catch (refused) {
      setError(/** @type {Error} */ (refused));
    } finally {
      setBusy(false);
    }
  };
  return html`<form onSubmit=${submit}>
    ${children}
    ${error && html`<${Failed} error=${error} />`}
    <div class="row end">
      <button type="button" onClick=${close}>Close</button>
      <button class=${isGrave ? "grave" : "main"} disabled=${isBusy || !isReady}>${deed}</button>
    </div>
  </form>`;
}

/**
 * Asks before something that cannot be undone.
 *
 * @param {{title: string, text: string, deed: string, count?: number, act: () => Promise<string>}} question
 */
export function confirm({ title, text, deed, count = 1, act }) {
  open({
    title,
    body: (close) => html`<${Confirmation} ...${{ text, deed, count, act, close }} />`,
  });
}

/**
 * The form of such a question.
 *
 * @param {{text: string, deed: string, count: number, act: () => Promise<string>, close: () => void, children?: Children}} props
 */
export function Confirmation({ text, deed, count, act, close, children }) {
  const [typed, setTyped] = useState("");
  const mustType = count > TYPED_ABOVE_COUNT;
  const isReady = !mustType || typed.replaceAll(/[\s,.]/g, "") === String(count);
  return html`<${DialogForm} deed=${deed} isGrave isReady=${isReady} close=${close} act=${act}>
    ${children}
    <p>${text}</p>
    ${mustType &&
    html`<label>
      Type ${count} to go on
      <input inputmode="numeric" autocomplete="off" value=${typed} onInput=${(/** @type {any} */ event) => setTyped(event.target.value)} />
    </label>`}
  <//>`;
}

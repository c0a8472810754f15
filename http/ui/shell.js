/**
 * The frame of every screen: navigation, search, live or paused, who is signed in, and what is wrong with
 * the connection. A screen's module is loaded when it is first shown.
 */
import { html, useEffect, useLayoutEffect, useRef, useState } from "./vendor/preact.js";
import { tryAgain } from "./api.js";
import { useKeys } from "./keyboard.js";
import { isFlowing, pausedSince, tick, togglePause } from "./live.js";
import { observable, useValue } from "./observable.js";
import { moveCursor, selectAtCursor } from "./parts/cursor.js";
import { Dialogs } from "./parts/dialog.js";
import { Icon } from "./parts/icons.js";
import { Failed, Loading, Said } from "./parts/notices.js";
import { Span } from "./parts/time.js";
import { go, href, idWithin, usePlace } from "./router.js";
import { showKeys } from "./parts/keys.js";
import { Navigation } from "./navigation.js";
import { SCREENS, screenFor } from "./screens.js";
import { connection, may, mustSignIn, whoami } from "./server.js";

/** The title of what is shown: in the frame, and of the browser's tab. */
const title = observable({ text: "", isId: false });

/**
 * Sets the title while a screen is shown.
 *
 * @param {string} text
 * @param {boolean} [isId] Whether it is an id, and shown as such.
 */
export function useTitle(text, isId = false) {
  useLayoutEffect(() => {
    title.set({ text, isId });
    document.title = `${text} · Troth`;
  }, [text, isId]);
}

/** The page. */
export function Shell() {
  const isOut = useValue(mustSignIn) !== 0;
  useValue(whoami);
  useKeys(shortcuts());
  return html`<a class="skip" href="#main">Skip to the content</a>
    ${isOut ? html`<${Loaded} load=${() => import("./screens/sign_in.js")} />` : html`<${Frame} />`}
    <${Said} />
    <${Dialogs} />`;
}

function shortcuts() {
  /** @type {Record<string, () => void>} */
  const keys = {
    "/": () => document.getElementById("search")?.focus(),
    ".": togglePause,
    "?": showKeys,
    j: () => moveCursor(1),
    k: () => moveCursor(-1),
    x: selectAtCursor,
  };
  for (const screen of SCREENS) {
    if (screen.key && may(...screen.scopes)) keys[`g${screen.key}`] = () => go(href(screen.path));
  }
  return keys;
}

function Frame() {
  const where = usePlace();
  const screen = screenFor(where.path);
  const allowed = screen !== undefined && may(...screen.scopes);
  const loadOne = screen && idWithin(where, screen.path) === undefined ? undefined : screen?.loadOne;
  return html`<div class="frame">
    <${Navigation} />
    <main class="page">
      <${Connection} />
      <div class="top">
        <${Title} />
        <${Search} />
        <${LiveSwitch} />
      </div>
      <div id="main">
        ${allowed ? html`<${Loaded} key=${`${screen.path} ${loadOne !== undefined}`} load=${loadOne ?? screen.load} />` : html`<${Absent} isForbidden=${screen !== undefined} />`}
      </div>
    </main>
  </div>`;
}

function Title() {
  const { text, isId } = useValue(title);
  const where = usePlace();
  /** @type {import("./vendor/preact.js").RefObject<HTMLHeadingElement | null>} */
  const heading = useRef(null);
  const isFirst = useRef(true);
  useLayoutEffect(() => {
    // Where one has gone is read out, and the next Tab begins there. Not later: one may have moved on.
    if (!isFirst.current) heading.current?.focus();
    isFirst.current = false;
  }, [where.path]);
  // Until its module is there, a screen is named as in the navigation.
  const shown = text || (screenFor(where.path)?.title ?? "Troth");
  return html`<h1 ref=${heading} tabindex="-1" class=${isId ? "id" : ""}>${shown}</h1>`;
}

/** @param {{load: ScreenRow["load"]}} props */
function Loaded({ load }) {
  const [loaded, setLoaded] = useState(/** @type {{Screen?: any, error?: any}} */ ({}));
  useEffect(() => {
    load().then(
      (module) => setLoaded({ Screen: module["Screen"] }),
      () => setLoaded({ error: new Error("This part of the UI could not be loaded. Load the page again.") }),
    );
  }, []);
  if (loaded.error) return html`<${Failed} error=${loaded.error} retry=${() => location.reload()} />`;
  return loaded.Screen ? html`<${loaded.Screen} />` : html`<${Loading} />`;
}

/** @param {{isForbidden: boolean}} props */
function Absent({ isForbidden }) {
  useTitle(isForbidden ? "Not allowed" : "Not found");
  return html`<div class="empty">
    <h2>${isForbidden ? "These credentials do not allow this." : "There is nothing at this address."}</h2>
    <p><a href="./">Go to the overview</a></p>
  </div>`;
}

/** An id goes there; what has a `*` is listed. */
function Search() {
  const [text, setText] = useState("");
  if (!may("promises:read")) return html`<div class="search"></div>`;
  const prefix = whoami.get()?.idPrefix;
  const submit = (/** @type {Event} */ event) => {
    event.preventDefault();
    const wanted = text.trim();
    if (!wanted) return;
    setText("");
    document.getElementById("search")?.blur();
    go(wanted.includes("*") ? href("promises", undefined, { id: wanted }) : href("promises", wanted));
  };
  return html`<form class="search" role="search" onSubmit=${submit}>
    <${Icon} name="search" />
    <input
      id="search"
      type="search"
      aria-label="Go to an id, or search with *"
      placeholder=${prefix ? `Ids begin with ${prefix}` : "Go to an id, or search with *"}
      autocomplete="off"
      spellcheck=${false}
      value=${text}
      onInput=${(/** @type {any} */ event) => setText(event.target.value)}
      onKeyDown=${(/** @type {any} */ event) => event.key === "Escape" && event.target.blur()}
    />
    <kbd aria-hidden="true">/</kbd>
  </form>`;
}

function LiveSwitch() {
  const since = useValue(pausedSince);
  const flows = useValue(isFlowing);
  const word = flows ? "Live" : "Waiting";
  return html`<button class="quiet live ${since ? "paused" : flows ? "flowing" : ""}" aria-pressed=${since !== 0} aria-label="Pause" onClick=${togglePause} title="Keep everything still, or go on (.)">
    <span class="dot" aria-hidden="true"></span>
    ${since ? "Paused" : word}
  </button>`;
}

/** @type {Record<string, [string, string]>} */
const REACHES = {
  away: ["The server does not answer.", "What is shown is as it was then."],
  starting: ["The server is starting.", "It reads its log, and will answer shortly."],
  failing: ["The server cannot write its log.", "It takes nothing more, and stops: look at its disk. What is shown is as it was then."],
  stopping: ["The server is stopping.", "What is shown is as it was then."],
};

function Connection() {
  const { reach, since, nextTry } = useValue(connection);
  useValue(tick);
  const [title, text] = REACHES[reach] ?? ["", ""];
  if (!title) return null;
  const leftS = Math.max(0, Math.ceil((nextTry - Date.now()) / 1000));
  return html`<div class="banner" role="alert">
    <strong>${title}</strong>
    <span>${text} Since <${Span} since=${since} />.</span>
    <span class="figures" aria-live="off">Next try in ${leftS} s</span>
    <button class="small" onClick=${tryAgain}>Try now</button>
  </div>`;
}

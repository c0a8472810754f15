/**
 * The dialog that makes a token, and shows its text: once, since the server keeps only a digest of it.
 *
 * A token may also be given a new text. The one before works for a while, so that programs can change over.
 */
import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { apiUrl, ask } from "../api.js";
import { DialogForm, open } from "../parts/dialog.js";
import { Command } from "../parts/notices.js";

const DAY_MS = 24 * 3_600_000;

/** The scopes, and what each allows. @type {readonly (readonly [string, string])[]} */
const SCOPES = [
  ["promises:read", "see promises, tasks, schedules, locks"],
  ["promises:write", "create and complete them; work on tasks"],
  ["tasks:read", "see function tasks and results"],
  ["tasks:write", "run and cancel functions"],
  ["functions:read", "see functions and builds"],
  ["functions:write", "create, change and delete them"],
  ["node", "run functions, as a node"],
  ["metrics:read", "see queues, workers, failures, metrics"],
  ["admin", "everything about the server: accounts, settings, snapshots"],
];

/** For how long it works; 0: for ever. @type {readonly (readonly [string, number])[]} */
const LIFETIMES = [
  ["90 days", 90 * DAY_MS],
  ["7 days", 7 * DAY_MS],
  ["30 days", 30 * DAY_MS],
  ["1 year", 365 * DAY_MS],
  ["No expiry", 0],
];

/** For how long the text before a rotation works. @type {readonly (readonly [string, number])[]} */
const GRACES = [
  ["another hour", DAY_MS / 24],
  ["another day", DAY_MS],
  ["another 7 days", 7 * DAY_MS],
  ["no longer: it has leaked", 0],
];

/**
 * Asks for a token.
 *
 * @param {AccountObject[]} accounts
 * @param {string | undefined} chosen The name of the account that is offered first.
 * @param {() => void} done
 */
export function createToken(accounts, chosen, done) {
  open({ title: "Create a token", isWide: true, body: (close) => html`<${Form} accounts=${accounts} chosen=${chosen} close=${close} done=${done} />` });
}

/**
 * Offers to give a token a new text.
 *
 * @param {TokenObject} token
 * @param {() => void} done
 */
export function rotateToken(token, done) {
  open({ title: `Rotate ${token.name || token.id}`, isWide: true, body: (close) => html`<${Rotation} token=${token} close=${close} done=${done} />` });
}

/** @param {{accounts: AccountObject[], chosen: string | undefined, close: () => void, done: () => void}} props */
function Form({ accounts, chosen, close, done }) {
  const [account, setAccount] = useState(chosen ?? accounts[0]?.name ?? "");
  const [name, setName] = useState("");
  const [scopes, setScopes] = useState(["promises:read", "promises:write"]);
  const [idPrefix, setPrefix] = useState("");
  const [lifetime, setLifetime] = useState(String(LIFETIMES[0]?.[1]));
  const [text, setText] = useState("");
  const isAdmin = scopes.includes("admin");
  const act = async () => {
    const expiresIn = Number(lifetime);
    const body = { account, name: name.trim(), scopes, ...(idPrefix && !isAdmin && { idPrefix }), ...(expiresIn && { expiresIn }) };
    const made = await ask("admin/tokens", { method: "POST", body });
    setText(made.token);
    done();
    return undefined;
  };
  if (text) return html`<${Shown} text=${text} close=${close} />`;
  const toggle = (/** @type {string} */ scope) => setScopes(scopes.includes(scope) ? scopes.filter((one) => one !== scope) : [...scopes, scope]);
  const put = (/** @type {(value: string) => void} */ set) => (/** @type {any} */ event) => set(event.target.value);
  return html`<${DialogForm} deed="Create the token" isReady=${scopes.length > 0} close=${close} act=${act}>
    <div class="columns">
      <label>Account
        <select value=${account} onChange=${put(setAccount)}>${accounts.map((one) => html`<option key=${one.id}>${one.name}</option>`)}</select>
      </label>
      <label>What it is for <input autocomplete="off" placeholder="nightly job" value=${name} onInput=${put(setName)} /></label>
    </div>
    <fieldset class="scopes">
      <legend>It may</legend>
      ${SCOPES.map(
        ([scope, words]) => html`<label class="check" key=${scope}>
          <input type="checkbox" checked=${scopes.includes(scope)} onChange=${() => toggle(scope)} />
          <span><code>${scope}</code> <span class="quiet-text">${words}</span></span>
        </label>`,
      )}
    </fieldset>
    <div class="columns">
      <label>Only ids that begin with <input class="id" autocomplete="off" disabled=${isAdmin} placeholder=${isAdmin ? "all: admin applies to the whole server" : "empty: all ids"} value=${isAdmin ? "" : idPrefix} onInput=${put(setPrefix)} /></label>
      <label>It works for
        <select value=${lifetime} onChange=${put(setLifetime)}>${LIFETIMES.map(([words, ms]) => html`<option key=${ms} value=${ms}>${words}</option>`)}</select>
      </label>
    </div>
  <//>`;
}

/** @param {{token: TokenObject, close: () => void, done: () => void}} props */
function Rotation({ token, close, done }) {
  const [grace, setGrace] = useState(String(GRACES[0]?.[1]));
  const [text, setText] = useState("");
  const act = async () => {
    const made = await ask("admin/tokens/rotate", { method: "POST", body: { id: token.id, grace: Number(grace) } });
    setText(made.token);
    done();
    return undefined;
  };
  if (text) return html`<${Shown} text=${text} close=${close} />`;
  return html`<${DialogForm} deed="Make the new text" close=${close} act=${act}>
    <p>The token of ${token.accountName} gets a new text, and keeps its rights, its name and its end.</p>
    <label>The text that it has now works
      <select value=${grace} onChange=${(/** @type {any} */ event) => setGrace(event.target.value)}>${GRACES.map(([words, ms]) => html`<option key=${ms} value=${ms}>${words}</option>`)}</select>
    </label>
  <//>`;
}

/** @param {{text: string, close: () => void}} props */
function Shown({ text, close }) {
  /** @type {import("../vendor/preact.js").RefObject<HTMLDivElement | null>} */
  const shown = useRef(null);
  // What had the focus is gone; the first button copies the token.
  useEffect(() => shown.current?.querySelector("button")?.focus(), []);
  return html`<div class="stack" ref=${shown}>
    <p>This is its text. <strong>It is shown this once</strong>: store it where secrets are kept.</p>
    <${Command} text=${text} label="Copy the token" />
    <p class="quiet-text">Programs send it with each request; the <code>troth</code> command reads it from the variable TROTH_TOKEN:</p>
    <${Command} text=${`curl -H "Authorization: Bearer $TROTH_TOKEN" ${apiUrl("whoami").href}`} />
    <div class="row end"><button class="main" onClick=${close}>I have stored it</button></div>
  </div>`;
}

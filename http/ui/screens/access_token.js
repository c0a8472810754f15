/**
 * The dialog that makes a token, and shows its text: once, since the server keeps only a digest of it.
 *
 * A token may also be made to replace another: with the same account, rights, name and lifetime. The old one
 * works until it is revoked, so that programs can change over in between.
 */
import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { apiUrl, ask, withId } from "../api.js";
import { DialogForm, open } from "../parts/dialog.js";
import { Command, Failed, say } from "../parts/notices.js";

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
 * Offers to make a token that takes the place of another.
 *
 * @param {TokenObject} token
 * @param {() => void} done
 */
export function replaceToken(token, done) {
  open({ title: `Replace ${token.name || token.id}`, isWide: true, body: (close) => html`<${Replacement} token=${token} close=${close} done=${done} />` });
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
    const made = await ask("admin/tokens", { method: "POST", body: bodyOf({ account, name: name.trim(), scopes, idPrefix: isAdmin ? "" : idPrefix }, Number(lifetime)) });
    setText(made.token);
    done();
    return undefined;
  };
  if (text) return html`<${Shown} text=${text}><button class="main" onClick=${close}>I have stored it</button><//>`;
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

/**
 * @param {{account: string, name: string, scopes: string[], idPrefix: string}} token
 * @param {number} lifetimeMs 0: for ever.
 */
function bodyOf({ account, name, scopes, idPrefix }, lifetimeMs) {
  return { account, name, scopes, ...(idPrefix && { idPrefix }), ...(lifetimeMs && { expiresIn: lifetimeMs }) };
}

/** @param {{token: TokenObject, close: () => void, done: () => void}} props */
function Replacement({ token, close, done }) {
  const { id, account, name, scopes, idPrefix, createdOn, expiresOn } = token;
  const [text, setText] = useState("");
  const [error, setError] = useState(/** @type {Error | null} */ (null));
  const act = async () => {
    const lifetime = expiresOn === null ? 0 : expiresOn - createdOn;
    const made = await ask("admin/tokens", { method: "POST", body: bodyOf({ account, name, scopes, idPrefix }, lifetime) });
    setText(made.token);
    done();
    return undefined;
  };
  const revoke = async () => {
    try {
      await ask(withId("admin/tokens", id), { method: "DELETE" });
      close();
      say("The old token is revoked.");
    } catch (refused) {
      setError(/** @type {Error} */ (refused));
    }
    done();
  };
  if (text) {
    return html`<${Shown} text=${text}>
      ${error && html`<${Failed} error=${error} />`}
      <button onClick=${close}>Revoke the old one later</button>
      <button class="grave" onClick=${revoke}>Revoke the old one now</button>
    <//>`;
  }
  return html`<${DialogForm} deed="Make the new token" close=${close} act=${act}>
    <p>A new token of ${token.accountName} with the same rights, name and lifetime. The old one works until you revoke it.</p>
  <//>`;
}

/** @param {{text: string, children?: import("../vendor/preact.js").ComponentChildren}} props */
function Shown({ text, children }) {
  /** @type {import("../vendor/preact.js").RefObject<HTMLDivElement | null>} */
  const shown = useRef(null);
  // What had the focus is gone; the first button copies the token.
  useEffect(() => shown.current?.querySelector("button")?.focus(), []);
  return html`<div class="stack" ref=${shown}>
    <p>This is its text. <strong>It is shown this once</strong>: store it where secrets are kept.</p>
    <${Command} text=${text} label="Copy the token" />
    <p class="quiet-text">Programs send it with each request; the <code>troth</code> command reads it from the variable TROTH_TOKEN:</p>
    <${Command} text=${`curl -H "Authorization: Bearer $TROTH_TOKEN" ${apiUrl("whoami").href}`} />
    <div class="row end">${children}</div>
  </div>`;
}

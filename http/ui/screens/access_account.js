/** The dialog that creates an account. The first one ends open access, so it says what that means. */
import { html, useState } from "../vendor/preact.js";
import { ask } from "../api.js";
import { DialogForm, open } from "../parts/dialog.js";
import { whoami } from "../server.js";

/**
 * Asks for an account.
 *
 * @param {() => void} done
 */
export function createAccount(done) {
  open({ title: "Create an account", body: (close) => html`<${Form} close=${close} done=${done} />` });
}

/** @param {{close: () => void, done: () => void}} props */
function Form({ close, done }) {
  const [name, setName] = useState("");
  const isFirst = whoami.get()?.server.isOpen;
  const act = async () => {
    await ask("admin/accounts", { method: "POST", body: { name: name.trim() } });
    done();
    return `${name.trim()} is created. It needs a token.`;
  };
  return html`<${DialogForm} deed="Create the account" isReady=${name.trim() !== ""} close=${close} act=${act}>
    ${isFirst && html`<p class="notice timedout">This ends open access: from then on every request needs credentials, those of programs that run now too. It cannot be undone.</p>`}
    <label>Name <input required autocomplete="off" placeholder="billing" value=${name} onInput=${(/** @type {any} */ event) => setName(event.target.value)} /></label>
    <p class="quiet-text">A team, a customer or a program. It can be disabled later, never renamed or deleted.</p>
  <//>`;
}

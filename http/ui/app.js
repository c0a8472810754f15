/**
 * Starts the UI: signs in with a code if the address has one, asks whose credentials these are, and shows
 * the frame. The code is in the part of the address that no log and no server sees, and is taken out.
 */
import { html, render } from "./vendor/preact.js";
import { learnWho, signIn } from "./api.js";
import { startKeyboard } from "./keyboard.js";
import { startFeed } from "./live.js";
import { startCursor } from "./parts/cursor.js";
import { say } from "./parts/notices.js";
import { startRouter } from "./router.js";
import { Shell } from "./shell.js";

async function start() {
  const code = new URLSearchParams(location.hash.slice(1)).get("code");
  if (code) {
    history.replaceState(null, "", location.pathname + location.search);
    try {
      await signIn({ code });
    } catch (error) {
      say(`The code was not accepted: ${/** @type {Error} */ (error).message}`, true);
    }
  }
  startRouter();
  startKeyboard();
  startCursor();
  await learnWho();
  const root = /** @type {HTMLElement} */ (document.getElementById("app"));
  render(html`<${Shell} />`, root);
  startFeed();
}

void start();

/** Signing in: with a token, or a user's name and password; then on to where one wanted to go. */
import { html, useEffect, useRef, useState } from "../vendor/preact.js";
import { SESSION_ENDED, signIn } from "../api.js";
import { useValue } from "../observable.js";
import { keepFocus } from "../parts/dialog.js";
import { Logo } from "../parts/icons.js";
import { mustSignIn } from "../server.js";
import { useTitle } from "../shell.js";

/** The form. The address stays what it is, so that the screen behind it appears when it succeeds. */
export function Screen() {
  useTitle("Sign in");
  const [isUser, setUser] = useState(false);
  const [problem, setProblem] = useState("");
  const [isBusy, setBusy] = useState(false);
  /** @type {import("../vendor/preact.js").RefObject<HTMLFormElement | null>} */
  const form = useRef(null);
  useEffect(() => form.current?.querySelector("input")?.focus(), [isUser]);
  const submit = async (/** @type {any} */ event) => {
    event.preventDefault();
    const given = Object.fromEntries(new FormData(event.target));
    setBusy(true);
    setProblem("");
    try {
      await signIn(/** @type {any} */ (given));
      keepFocus();
    } catch (error) {
      const { status, message, details } = /** @type {import("../api.js").Refused} */ (error);
      setProblem(status === 401 ? `That ${isUser ? "name or password" : "token"} is not known here, or no longer works.` : [message, ...(details ?? [])].join(" "));
      form.current?.querySelector("input")?.focus();
    } finally {
      setBusy(false);
    }
  };
  const change = () => {
    setProblem("");
    setUser(!isUser);
  };
  const hasEnded = useValue(mustSignIn) === SESSION_ENDED && !problem;
  return html`<main class="sign-in"><div id="main">
    <form class="panel stack" ref=${form} onSubmit=${submit}>
      <h1 tabindex="-1"><${Logo} /> Sign in to Troth</h1>
      <p class="quiet-text">The server <strong>${location.host}</strong> asks for credentials. Use a token, or a user's name and password.</p>
      ${!isSecureContext && html`<p class="notice timedout">This connection is not encrypted: what you type here can be read on the way. Use https, or a tunnel.</p>`}
      ${hasEnded && html`<p class="notice timedout" role="status">Your session has ended: it was not used for long, its credentials no longer work, or the server was started again. Sign in to go on where you were.</p>`}
      ${problem && html`<p class="notice rejected" role="alert">${problem}</p>`}
      ${isUser
        ? html`<label key="user">Name <input name="user" autocomplete="username" autocapitalize="none" spellcheck=${false} required /></label>
            <label key="password">Password <input name="password" type="password" autocomplete="current-password" required /></label>`
        : html`<label key="token">Token <input name="token" type="password" autocomplete="off" spellcheck=${false} required /></label>`}
      <button class="main" disabled=${isBusy}>Sign in</button>
      <button type="button" class="quiet" onClick=${change}>${isUser ? "Use a token" : "Use a name and password"}</button>
      <p class="quiet-text">On the server's machine, <code>troth ui</code> opens a browser that is signed in.</p>
    </form>
  </div></main>`;
}

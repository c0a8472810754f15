/** Signing in: with a token, or a user's name and password; then on to where one wanted to go. */
import { html, useState } from "../vendor/preact.js";
import { signIn } from "../api.js";
import { Logo } from "../parts/icons.js";
import { useTitle } from "../shell.js";

/** The form. The address stays what it is, so that the screen behind it appears when it succeeds. */
export function Screen() {
  useTitle("Sign in");
  const [isUser, setUser] = useState(false);
  const [problem, setProblem] = useState("");
  const [isBusy, setBusy] = useState(false);
  const submit = async (/** @type {any} */ event) => {
    event.preventDefault();
    const given = Object.fromEntries(new FormData(event.target));
    setBusy(true);
    setProblem("");
    try {
      await signIn(/** @type {any} */ (given));
    } catch (error) {
      const { status, message, details } = /** @type {import("../api.js").Refused} */ (error);
      setProblem(status === 401 ? `That ${isUser ? "name or password" : "token"} is not known here, or no longer works.` : [message, ...(details ?? [])].join(" "));
    } finally {
      setBusy(false);
    }
  };
  const isOpenLine = location.protocol === "http:" && !/^(localhost|127\.|\[::1\])/.test(location.hostname);
  return html`<main class="sign-in"><div id="main">
    <form class="panel stack" onSubmit=${submit}>
      <h1 tabindex="-1"><${Logo} /> Sign in to Troth</h1>
      <p class="quiet-text">${location.host} asks for credentials. Use a token, or a user's name and password.</p>
      ${isOpenLine && html`<p class="notice timedout">This connection is not encrypted: what you type here can be read on the way.</p>`}
      ${problem && html`<p class="notice rejected" role="alert">${problem}</p>`}
      ${isUser
        ? html`<label>Name <input name="user" autocomplete="username" required /></label>
            <label>Password <input name="password" type="password" autocomplete="current-password" required /></label>`
        : html`<label>Token <input name="token" type="password" autocomplete="off" spellcheck=${false} required /></label>`}
      <button class="main" disabled=${isBusy}>Sign in</button>
      <button type="button" class="quiet" onClick=${() => setUser(!isUser)}>${isUser ? "Use a token" : "Use a name and password"}</button>
    </form>
  </div></main>`;
}

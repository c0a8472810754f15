/** The tokens in a table: what each may do, to which ids, until when; to rotate and to revoke. */
import { html } from "../vendor/preact.js";
import { ask, withId } from "../api.js";
import { BrokenId } from "../parts/broken_id.js";
import { confirm } from "../parts/dialog.js";
import { Table } from "../parts/table.js";
import { When } from "../parts/time.js";
import { now, whoami } from "../server.js";
import { rotateToken } from "./access_token.js";

const SOON_MS = 7 * 24 * 3_600_000;

/** @param {{tokens: TokenObject[], only: string | null, reload: () => void}} props `only`: of this account. */
export function Tokens({ tokens: all, only, reload }) {
  const tokens = only ? all.filter(({ accountName }) => accountName === only) : all;
  if (tokens.length === 0) return html`<p class="body quiet-text">None. A program needs one to sign in.</p>`;
  /** @type {import("../parts/table.js").Column<TokenObject>[]} */
  const columns = [
    {
      name: "token",
      title: "Token",
      isMain: true,
      show: ({ id, name }) => html`${name && html`<strong>${name}</strong> `}<span class="id quiet-text">${id}</span>${whoami.get()?.token === id && html` <span class="tag">yours</span>`}`,
    },
    { name: "account", title: "Account", show: ({ accountName }) => accountName },
    { name: "scopes", title: "May", show: ({ scopes }) => html`<${Scopes} scopes=${scopes} />` },
    { name: "prefix", title: "Ids", isMinor: true, show: ({ idPrefix }) => (idPrefix ? html`<span class="id"><${BrokenId} id=${`${idPrefix}…`} /></span>` : html`<span class="quiet-text">all</span>`) },
    { name: "until", title: "Works until", show: (token) => html`<${Until} token=${token} />` },
    { name: "used", title: "Last used", isMinor: true, show: ({ lastUsedOn }) => (lastUsedOn === null ? html`<span class="quiet-text">never</span>` : html`<${When} at=${lastUsedOn} />`) },
    { name: "actions", title: "", show: (token) => html`<${Actions} token=${token} reload=${reload} />` },
  ];
  const sorted = tokens.toSorted((one, other) => Number(other.state === "active") - Number(one.state === "active") || other.createdOn - one.createdOn);
  return html`<${Table} key=${only} label="Tokens" columns=${columns} rows=${sorted} keyOf=${(/** @type {TokenObject} */ { id }) => id} />`;
}

/**
 * Scopes in short: one tag for each subject.
 *
 * @param {{scopes: string[]}} props
 */
export function Scopes({ scopes }) {
  /** @type {Map<string, string[]>} */
  const subjects = new Map();
  for (const scope of scopes) {
    const [subject = "", deed] = scope.split(":");
    subjects.set(subject, [...(subjects.get(subject) ?? []), ...(deed ? [deed] : [])]);
  }
  return [...subjects].map(([subject, deeds]) => html`<span class="tag" key=${subject}>${deeds.length > 0 ? html`${subject} <b>${deeds.join(" ")}</b>` : html`<b>${subject}</b>`}</span>`);
}

/** @param {{token: TokenObject}} props */
function Until({ token: { state, expiresOn, revokedOn, oldSecretUntil } }) {
  if (state === "revoked") return html`<span class="state canceled plain">Revoked</span> <${When} at=${Number(revokedOn)} />`;
  if (state === "expired") return html`<span class="state timedout plain">Expired</span> <${When} at=${Number(expiresOn)} />`;
  if (state === "disabled") return html`<span class="state canceled plain">Account disabled</span>`;
  const old = oldSecretUntil !== null && oldSecretUntil > now() && html`<div class="quiet-text">the old text <${When} at=${oldSecretUntil} soon="no more" /></div>`;
  if (expiresOn === null) return html`<span class="quiet-text">no expiry</span>${old}`;
  return html`<span class="nowrap">${expiresOn < now() + SOON_MS && html`<span class="dot warning" aria-hidden="true"></span>`}<${When} at=${expiresOn} /></span>${old}`;
}

/** @param {{token: TokenObject, reload: () => void}} props */
function Actions({ token, reload }) {
  if (token.state === "revoked") return null;
  const { id, name, accountName } = token;
  const revoke = () =>
    confirm({
      title: `Revoke ${name || id}?`,
      text: `Programs that use this token of ${accountName} are refused from then on, and their streams end.${whoami.get()?.token === id ? " You are signed in with it, so you will be signed out." : ""}`,
      deed: "Revoke the token",
      act: async () => {
        await ask(withId("admin/tokens", id), { method: "DELETE" });
        reload();
        return `${name || id} is revoked.`;
      },
    });
  return html`${token.state !== "expired" && html`<button class="small" onClick=${() => rotateToken(token, reload)}>Rotate …</button> `}
    <button class="small" onClick=${revoke}>Revoke …</button>`;
}

/** Who may do what: the accounts, and the tokens with which programs act for them; next to it, the audit log. */
import { html } from "../vendor/preact.js";
import { ask, withId } from "../api.js";
import { useAnswer } from "../asking.js";
import { useLive } from "../live.js";
import { confirm, keepFocus } from "../parts/dialog.js";
import { Answered, Empty, say } from "../parts/notices.js";
import { Table } from "../parts/table.js";
import { When } from "../parts/time.js";
import { href, usePlace } from "../router.js";
import { whoami } from "../server.js";
import { useTitle } from "../shell.js";
import { createAccount } from "./access_account.js";
import { AuditLog } from "./access_audit.js";
import { createToken } from "./access_token.js";
import { Tokens } from "./access_tokens.js";

/** Accounts and tokens, or the audit log, as the address says. */
export function Screen() {
  useTitle("Access");
  const isAudit = usePlace().path === "access/audit";
  return html`<div class="stack">
    <nav class="chips places" aria-label="Access">
      <a href="access" aria-current=${isAudit ? undefined : "page"}>Accounts and tokens</a>
      <a href="access/audit" aria-current=${isAudit ? "page" : undefined}>Audit log</a>
    </nav>
    ${isAudit ? html`<${AuditLog} />` : html`<${Both} />`}
  </div>`;
}

function Both() {
  /** @type {import("../asking.js").Answer<AccountObject[]>} */
  const accounts = useAnswer("admin/accounts");
  /** @type {import("../asking.js").Answer<TokenObject[]>} */
  const tokens = useAnswer("admin/tokens");
  const reload = () => {
    accounts.reload();
    tokens.reload();
  };
  useLive(reload, {});
  const all = accounts.data ?? [];
  const enabled = all.filter(({ disabled }) => !disabled);
  const only = usePlace().query.get("account");
  return html`<section class="panel">
      <header><h2>Accounts</h2><button onClick=${() => createAccount(reload)}>Create an account …</button></header>
      <${Answered} answer=${accounts} lines=${3} show=${(/** @type {AccountObject[]} */ data) => html`<${Accounts} accounts=${data} tokens=${tokens.data ?? []} reload=${reload} />`} />
    </section>
    ${all.length > 0 &&
    html`<section class="panel">
      <header>
        <h2>Tokens${only && html` of ${only} <a href="access">Show all</a>`}</h2>
        ${enabled.length > 0 && html`<button onClick=${() => createToken(enabled, only ?? undefined, reload)}>Create a token …</button>`}
      </header>
      <${Answered} answer=${tokens} show=${(/** @type {TokenObject[]} */ data) => html`<${Tokens} tokens=${data} only=${only} reload=${reload} />`} />
    </section>`}`;
}

/** @param {{accounts: AccountObject[], tokens: TokenObject[], reload: () => void}} props */
function Accounts({ accounts, tokens, reload }) {
  if (accounts.length === 0) {
    return html`<${Empty} title="There are no accounts" command="troth account add billing">
      <p>An account keeps functions, tasks and nodes apart from those of others, and has the tokens with which programs sign in. The first one ends open access.</p>
    <//>`;
  }
  /** @type {import("../parts/table.js").Column<AccountObject>[]} */
  const columns = [
    { name: "name", title: "Account", isMain: true, show: ({ name, id }) => html`<strong>${name}</strong> <span class="id quiet-text">${id}</span>` },
    { name: "state", title: "State", show: ({ disabled }) => html`<span class="dot ${disabled ? "warning" : "good"}" aria-hidden="true"></span> ${disabled ? "Disabled" : "Enabled"}` },
    { name: "tokens", title: "Tokens", show: (account) => html`<a href=${href("access", undefined, { account: account.name })}>${countOf(tokens, account)}</a>` },
    { name: "created", title: "Created", isMinor: true, show: ({ createdOn }) => html`<${When} at=${createdOn} />` },
    { name: "actions", title: "", show: (account) => html`<button class="small" onClick=${() => (account.disabled ? enable(account, reload) : disable(account, reload))}>${account.disabled ? "Enable" : "Disable …"}</button>` },
  ];
  return html`<${Table} label="Accounts" columns=${columns} rows=${accounts} keyOf=${(/** @type {AccountObject} */ { id }) => id} />`;
}

/**
 * @param {TokenObject[]} tokens
 * @param {AccountObject} account
 */
function countOf(tokens, account) {
  const own = tokens.filter((token) => token.account === account.id);
  const working = own.filter(({ state }) => state === "active").length;
  if (own.length === 0) return "none";
  return working === own.length ? `${working}` : `${working} of ${own.length} work`;
}

/**
 * @param {AccountObject} account
 * @param {boolean} disabled
 */
function set(account, disabled) {
  return ask(withId("admin/accounts", account.id), { method: "PATCH", body: { disabled } });
}

/**
 * @param {AccountObject} account
 * @param {() => void} done
 */
async function enable(account, done) {
  try {
    await set(account, false);
    say(`${account.name} is enabled.`);
  } catch (error) {
    say(/** @type {Error} */ (error).message, true);
  }
  done();
  keepFocus();
}

/**
 * @param {AccountObject} account
 * @param {() => void} done
 */
function disable(account, done) {
  const isOwn = whoami.get()?.account === account.id;
  confirm({
    title: `Disable ${account.name}?`,
    text: `None of its tokens works from then on, and their streams end. What it owns is kept; its waiting tasks start when it is enabled again.${isOwn ? " You are signed in with one of its tokens, so you will be signed out." : ""}`,
    deed: `Disable ${account.name}`,
    act: async () => {
      await set(account, true);
      done();
      return `${account.name} is disabled.`;
    },
  });
}

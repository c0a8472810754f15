/** The navigation: the screens that these credentials may read, with counts; the server, and who is signed in. */
import { html, useEffect, useState } from "./vendor/preact.js";
import { signOut } from "./api.js";
import { useAnswer } from "./asking.js";
import { useLive } from "./live.js";
import { useValue } from "./observable.js";
import { Icon, Logo } from "./parts/icons.js";
import { say } from "./parts/notices.js";
import { theme, THEMES } from "./preferences.js";
import { href, usePlace } from "./router.js";
import { SCREENS, screenFor } from "./screens.js";
import { counts, may, whoami } from "./server.js";

/** After the end of all series: only the counts are of interest. */
const NO_SERIES = "9000000000000";

/** Shows it. */
export function Navigation() {
  const [isOpen, setOpen] = useState(false);
  const where = usePlace();
  useEffect(() => setOpen(false), [where]);
  const shown = SCREENS.filter((screen) => may(...screen.scopes));
  return html`<header class="side ${isOpen ? "open" : ""}">
    <div class="brand">
      <a href="./"><${Logo} /> Troth</a>
      <button class="quiet menu" aria-expanded=${isOpen} aria-controls="navigation" onClick=${() => setOpen(!isOpen)}>
        <${Icon} name="menu" /> Menu
      </button>
    </div>
    <nav id="navigation" aria-label="Screens">
      <ul>${shown.filter((screen) => !screen.group).map((screen) => html`<${Entry} key=${screen.path} screen=${screen} />`)}</ul>
      ${shown.some((screen) => screen.group) && html`<h2>Operate</h2>`}
      <ul>${shown.filter((screen) => screen.group).map((screen) => html`<${Entry} key=${screen.path} screen=${screen} />`)}</ul>
    </nav>
    <${Foot} />
  </header>`;
}

/** @param {{screen: ScreenRow}} props */
function Entry({ screen }) {
  const where = usePlace();
  const isHere = screenFor(where.path) === screen;
  return html`<li>
    <a href=${href(screen.path)} aria-current=${isHere ? "page" : undefined}>
      <${Icon} name=${screen.icon} />
      <span>${screen.title}</span>
      ${screen.path === "promises" && html`<${PromiseCount} />`}
      ${screen.path === "queues" && html`<${WaitingCount} />`}
    </a>
  </li>`;
}

function PromiseCount() {
  /** @type {import("./asking.js").Answer<StatisticsObject>} */
  const { data } = useAnswer(may("metrics:read") ? "statistics" : null, { since: NO_SERIES });
  useEffect(() => {
    if (data && counts.get() === null) counts.set(data.counts);
  }, [data]);
  const all = useValue(counts)?.["promises"];
  if (!all) return null;
  return html`<span class="count">${sum(all).toLocaleString("en-US")}</span>`;
}

/** What waits where nothing takes it, which is what an operator wants to know at night. */
function WaitingCount() {
  /** @type {import("./asking.js").Answer<{queues: QueueObject[]}>} */
  const answer = useAnswer(may("metrics:read") ? "queues" : null, { limit: "100" });
  useLive(answer.reload, { topics: ["queues"], everyMs: 2_000 });
  const bad = answer.data?.queues.filter((queue) => queue.health !== "good" && queue.waiting + queue.stalled > 0) ?? [];
  const waiting = bad.reduce((total, queue) => total + queue.waiting + queue.stalled, 0);
  if (waiting === 0) return null;
  return html`<span class="count bad" title="They wait where no worker takes them">${waiting.toLocaleString("en-US")}</span>`;
}

/** @param {Record<string, number>} all */
function sum(all) {
  return Object.values(all).reduce((total, count) => total + count, 0);
}

function Foot() {
  const who = useValue(whoami);
  const chosen = useValue(theme);
  const next = THEMES[(THEMES.findIndex((one) => one === chosen) + 1) % THEMES.length] ?? "system";
  if (who === null) return html`<div class="foot"></div>`;
  const isAnonymous = who.kind === "anonymous";
  return html`<div class="foot">
    ${who.server.isOpen && isAnonymous && html`<p class="open-server">Open: any program on this machine has full access.</p>`}
    <div><span title="This server">${location.host}</span><span>${who.server.version}</span></div>
    <div>
      <span class="who">${isAnonymous ? "Not signed in" : who.name || who.kind}</span>
      <span class="row tight">
        <button class="quiet small" aria-label=${`Theme: ${chosen}. Change to ${next}`} title=${`Theme: ${chosen}`} onClick=${() => theme.set(next)}>
          <${Icon} name="theme" />
        </button>
        ${!isAnonymous && html`<button class="quiet small" onClick=${leave}>Sign out</button>`}
      </span>
    </div>
  </div>`;
}

async function leave() {
  try {
    await signOut();
  } catch (error) {
    say(/** @type {Error} */ (error).message, true);
  }
}

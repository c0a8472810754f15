/**
 * Keeps screens up to date: one stream of events for all tabs, and what it says, handed to whichever
 * components on screen want it.
 *
 * What a screen has asked for before the stream was open is asked for once more when it is: nothing else
 * would tell what has happened in between. So a list, which is large, waits a moment for the stream before
 * it asks (`whenCounting`). A hidden tab asks for nothing. While paused, nothing changes; when that ends, everything is asked for
 * again, once.
 */
import { useEffect, useRef } from "./vendor/preact.js";
import { apiUrl, learnWho } from "./api.js";
import { observable } from "./observable.js";
import { counts, may, now, returns, setClock } from "./server.js";
import { Stream } from "./stream.js";

const DEAF_S = 5;

/** When the reader paused; 0 while live. */
export const pausedSince = observable(0);

/** Whether the stream is open. */
export const isFlowing = observable(false);

/** Whether it has the counters, which tell that something has happened to any promise or task. */
const isCounting = observable(false);

/** Ticks once a second while the page is visible and live: what shows times listens. */
export const tick = observable(0);

/** @typedef {import("./stream.js").Message} Message */
/** @typedef {import("./stream.js").Wish} Wish */

/**
 * What each listener wants, and the number of the wish that has it; 0: a stream has had it already.
 * `isTold` says whether the counters have told of all changes since it asked.
 *
 * @type {Map<(message: Message, topics: string[]) => void, Wish & {isTold: () => boolean}>}
 */
const listeners = new Map();

/** How many wishes were said, and the newest of them that an open stream has. */
let wishesCount = 0;
let openNumber = 0;

const COUNTING_LIMIT_MS = 300;

/** @type {(wish: Wish | null) => void} */
let send = () => {};
let said = "";
let wasLost = false;

function isAwake() {
  return document.visibilityState === "visible" && pausedSince.get() === 0;
}

/**
 * What the counters tell of, apart from themselves: a request of a page changes them, too, and must not
 * make the page ask again.
 *
 * @type {Record<string, string[]>}
 */
const COUNTED = { promises: ["promises"], tasks: ["tasks", "workflows"] };

/** The counts that were last told, as JSON, by topic. @type {Record<string, string>} */
const told = {};

/**
 * Returns the topics of which a message has news.
 *
 * @param {Message} message
 */
function topicsOf({ type, data }) {
  if (type !== "counters") return [type];
  const news = Object.entries(COUNTED).filter(([topic, kinds]) => {
    const text = JSON.stringify(kinds.map((kind) => data.counts?.[kind]));
    const isOther = told[topic] !== undefined && told[topic] !== text;
    told[topic] = text;
    const rates = Object.entries(data.series ?? {}).filter(([name]) => name.startsWith(`${topic}.`) && !name.endsWith(".pending"));
    return isOther || rates.some(([, value]) => Number(value) > 0);
  });
  return [type, ...news.map(([topic]) => topic)];
}

/**
 * Returns whether these credentials may hear a topic.
 *
 * @param {string} topic
 */
function mayHear(topic) {
  return topic === "failures" ? may("metrics:read", "promises:read") : may("metrics:read");
}

function say() {
  const wishes = [...listeners.values()];
  const wish = {
    topics: [...new Set(wishes.flatMap((one) => one.topics).filter(mayHear).map((topic) => (COUNTED[topic] ? "counters" : topic)))],
    watch: [...new Set(wishes.flatMap((one) => one.watch))],
  };
  const text = isAwake() ? JSON.stringify(wish) : "";
  if (text === said) return;
  said = text;
  wishesCount++;
  send(text ? { ...wish, number: wishesCount } : null);
}

/** Has those ask again that have asked before there was a stream that tells them of changes. */
function coverListeners() {
  for (const [listener, wish] of [...listeners]) {
    if (wish.number === 0 || wish.number > openNumber) continue;
    wish.number = 0;
    // The counters go on from one stream to the next, and tell of rows, too.
    const isCounted = wish.topics.some((topic) => COUNTED[topic]);
    if (isCounted ? !wish.isTold() : wish.watch.length > 0) listener({ type: "refresh", data: null }, []);
  }
}

/** @param {Message} message */
function receive(message) {
  if (!isAwake()) return;
  if (message.type === "lost") {
    isFlowing.set(false);
    isCounting.set(false);
    wasLost = true;
    void learnWho();
    return;
  }
  isFlowing.set(true);
  if (message.data?.at) setClock(message.data.at);
  if (message.type === "counters" && message.data.counts) counts.set(message.data.counts);
  if (message.type === "open") {
    openNumber = Math.max(openNumber, message.data.number);
    isCounting.set(message.data.topics.includes("counters"));
    // What happened in between was not told.
    if (wasLost) refresh();
    else coverListeners();
    wasLost = false;
    return;
  }
  const topics = topicsOf(message);
  for (const listener of [...listeners.keys()]) listener(message, topics);
}

/**
 * Calls a function when an open stream has the counters, or soon, if none has; returns what cancels that.
 * The function is told whether one has. For topics that need no counters it is called immediately.
 *
 * @param {string[]} topics
 * @param {(isTold: boolean) => void} act
 */
export function whenCounting(topics, act) {
  const isCounted = topics.some((topic) => COUNTED[topic]);
  if (!isCounted || isCounting.get() || !mayHear("counters") || !isAwake()) {
    act(isCounting.get());
    return () => {};
  }
  const cancel = () => {
    clearTimeout(timer);
    unwatch();
  };
  const run = () => {
    cancel();
    act(isCounting.get());
  };
  const timer = setTimeout(run, COUNTING_LIMIT_MS);
  const unwatch = isCounting.watch(run);
  return cancel;
}

function refresh() {
  for (const listener of [...listeners.keys()]) listener({ type: "refresh", data: null }, []);
}

/** Opens the stream, in a worker that all tabs share where browsers have that. */
export function startFeed() {
  const address = apiUrl("events");
  if (typeof SharedWorker === "undefined") {
    const stream = new Stream(address);
    send = (wish) => stream.want(receive, wish);
  } else {
    const worker = new SharedWorker(workerUrl(), { type: "module", name: "troth" });
    worker.port.onmessage = ({ data }) => receive(data);
    send = (wish) => worker.port.postMessage(wish);
    addEventListener("pagehide", () => worker.port.postMessage(null));
    addEventListener("pageshow", (event) => {
      if (event.persisted) worker.port.postMessage(said ? { ...JSON.parse(said), number: wishesCount } : null);
    });
  }
  document.addEventListener("visibilitychange", wakeOrSleep);
  pausedSince.watch(wakeOrSleep);
  setInterval(() => {
    if (isAwake()) tick.set(tick.get() + 1);
  }, 1_000);
  say();
}

function wakeOrSleep() {
  say();
  if (!isAwake()) return;
  tick.set(tick.get() + 1);
  refresh();
}

/** The one URL that the page's policy for scripts lets through: the worker's. */
function workerUrl() {
  const url = new URL("feed.js", import.meta.url);
  url.searchParams.set("root", apiUrl("").href);
  const factory = /** @type {any} */ (globalThis).trustedTypes;
  if (!factory) return url;
  const policy = factory.createPolicy("troth", {
    createScriptURL: (/** @type {string} */ text) => {
      if (text !== url.href) throw new TypeError(`${text} is not the worker`);
      return text;
    },
  });
  return policy.createScriptURL(url.href);
}

/** Pauses, or goes on. */
export function togglePause() {
  pausedSince.set(pausedSince.get() === 0 ? now() : 0);
}

/**
 * Calls a function when something has changed, at most once in a while; also after a pause and after
 * the server was away. It is given the message that said so, if there was one.
 *
 * @param {(message?: Message) => void} changed
 * @param {{topics?: string[], watch?: string[], everyMs?: number, isTold?: () => boolean}} wish `isTold`
 *   says whether the counters have told of all changes since the caller asked.
 */
export function useLive(changed, { topics = [], watch = [], everyMs = 1_000, isTold }) {
  const latest = useRef(changed);
  latest.current = changed;
  const key = JSON.stringify([topics, watch]);
  useEffect(() => {
    let last = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    /** @type {Message | undefined} */
    let heard;
    const run = () => {
      timer = undefined;
      last = performance.now();
      if (isAwake()) latest.current?.(heard);
      heard = undefined;
    };
    const listener = (/** @type {Message} */ message, /** @type {string[]} */ news) => {
      if (message.type === "refresh") return run();
      const isWatched = message.type === "changed" && watch.some((id) => message.data.ids.includes(id));
      if (!isWatched && !topics.some((topic) => news.includes(topic))) return;
      heard = message;
      timer ??= setTimeout(run, Math.max(0, last + everyMs - performance.now()));
    };
    const wasCounting = isCounting.get();
    const wish = { topics, watch, number: 0, isTold: isTold ?? (() => wasCounting) };
    listeners.set(listener, wish);
    say();
    wish.number = wishesCount > openNumber ? wishesCount : 0;
    const unwatch = returns.watch(run);
    // Who may not hear of it looks from time to time.
    const isDeaf = topics.length > 0 && !topics.some(mayHear);
    const unlook = tick.watch((second) => void (isDeaf && second % DEAF_S === 0 && run()));
    return () => {
      unwatch();
      unlook();
      clearTimeout(timer);
      listeners.delete(listener);
      say();
    };
  }, [key, everyMs]);
}

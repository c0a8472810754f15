/**
 * Asks the server, and says what came of it: an answer, a refusal with its code, or that the server
 * does not answer.
 *
 * A 401 leads to the sign-in, at the same address. While the server is away, what is on screen stays,
 * and the server is tried after 1, 2, 4 … 30 seconds; when it is back, `returns` counts up. Requests
 * that change something carry the session's token against forgery.
 */
import { connection, mustSignIn, now, returns, setClock, whoami } from "./server.js";

const FIRST_WAIT_S = 1;
const LONGEST_WAIT_S = 30;
const ROOT = new URL("..", document.baseURI);

/** The codes of a server that comes or goes. @type {Record<number, import("./server.js").Reach>} */
const REACH_OF_CODE = { 50300: "stopping", 50304: "failing", 50305: "starting" };

/** The session is no more: after half a day without use, with its credentials, or a restart of the server. */
export const SESSION_ENDED = 40101;

/** What stands for a 401 without a code, as a proxy's. */
const NO_CODE = 1;

/** Protects what a session changes: no other page can know it. */
let forgeryToken = "";

let hasEnded = false;

/** A refusal, or the want of an answer. */
export class Refused extends Error {
  /**
   * @param {number} status 0 if there was no answer.
   * @param {number} code The five-digit code; 0 if there was none.
   * @param {string} message
   * @param {string[]} details
   */
  constructor(status, code, message, details = []) {
    super(message);
    this.status = status;
    this.code = code;
    this.details = details;
  }
}

/**
 * @typedef {object} Options
 * @property {string} [method]
 * @property {unknown} [body] Sent as JSON.
 * @property {Record<string, string | undefined>} [query] Empty values are left out.
 * @property {Record<string, string>} [headers]
 * @property {AbortSignal} [signal]
 */

/**
 * Returns the address of a path of the API.
 *
 * @param {string} path
 * @param {Record<string, string | undefined>} [query]
 */
export function apiUrl(path, query = {}) {
  const url = new URL(path, ROOT);
  for (const [name, value] of Object.entries(query)) if (value) url.searchParams.set(name, value);
  return url;
}

/**
 * Returns a path that ends with an id.
 *
 * @param {string} path
 * @param {string} id
 */
export function withId(path, id) {
  return `${path}/${encodeURIComponent(id)}`;
}

/**
 * Sends a request and returns the JSON of its answer, or its text.
 *
 * Throws `Refused`, and the signal's reason when it is aborted.
 *
 * @param {string} path
 * @param {Options} [options]
 * @returns {Promise<any>}
 */
export async function ask(path, options = {}) {
  const response = await send(path, options);
  const text = await response.text();
  if (response.ok) return response.headers.get("content-type")?.includes("json") ? JSON.parse(text) : text;
  throw refusal(response, text);
}

/**
 * Sends a request and returns its answer as it is. Throws `Refused` if there is none.
 *
 * @param {string} path
 * @param {Options} [options]
 */
export async function send(path, { method = "GET", body, query, headers = {}, signal } = {}) {
  /** @type {Record<string, string>} */
  const all = { ...headers, "X-Troth-UI": "1" };
  if (method !== "GET" && forgeryToken) all["X-Troth-CSRF"] = forgeryToken;
  if (body !== undefined) all["Content-Type"] = "application/json";
  /** @type {RequestInit} */
  const request = { method, headers: all, cache: "no-store" };
  if (body !== undefined) request.body = JSON.stringify(body);
  if (signal) request.signal = signal;
  let response;
  try {
    response = await fetch(apiUrl(path, query), request);
  } catch (error) {
    if (signal?.aborted) throw error;
    lose("away");
    throw new Refused(0, 0, "The server does not answer.");
  }
  if (response.status !== 503) found();
  return response;
}

/**
 * @param {Response} response
 * @param {string} text
 */
function refusal(response, text) {
  let message = `The server answered ${response.status}.`;
  let code = 0;
  /** @type {string[]} */
  let details = [];
  try {
    const { error } = JSON.parse(text);
    ({ code, message } = error);
    details = error.details.map((/** @type {{message: string}} */ detail) => detail.message);
  } catch {
    // Something between here and the server answered: its status has to do.
  }
  if (response.status === 401) signedOut(code);
  const reach = REACH_OF_CODE[code];
  if (response.status === 503 && reach) lose(reach);
  return new Refused(response.status, code, message, details);
}

/** @param {number} code */
function signedOut(code) {
  forgeryToken = "";
  // The stream may have been told that the session has ended, and the page only that it has none.
  const wasSignedIn = (whoami.get()?.kind ?? "anonymous") !== "anonymous";
  const isFirst = !hasEnded && (wasSignedIn || code === SESSION_ENDED);
  hasEnded ||= isFirst;
  // The cookie has been taken back. An open server needs none, so it is asked once more.
  if (isFirst) void learnWho();
  else mustSignIn.set(hasEnded ? SESSION_ENDED : code || NO_CODE);
}

/** @param {import("./server.js").Reach} reach */
function lose(reach) {
  const before = connection.get();
  if (before.reach === "answers") {
    connection.set({ reach, since: now(), nextTry: Date.now() + FIRST_WAIT_S * 1000 });
    void keepTrying(FIRST_WAIT_S);
  } else if (before.reach !== reach) {
    connection.set({ ...before, reach });
  }
}

function found() {
  if (connection.get().reach === "answers") return;
  connection.set({ reach: "answers", since: now(), nextTry: 0 });
  returns.set(returns.get() + 1);
}

/** @param {number} firstS */
async function keepTrying(firstS) {
  let waitS = firstS;
  while (connection.get().reach !== "answers") {
    connection.set({ ...connection.get(), nextTry: Date.now() + waitS * 1000 });
    await new Promise((resolve) => setTimeout(resolve, waitS * 1000));
    waitS = Math.min(waitS * 2, LONGEST_WAIT_S);
    await tryAgain();
  }
}

/** Asks whether the server is there again, without waiting for the next try. */
export async function tryAgain() {
  try {
    await ask("ready");
    await learnWho();
  } catch {
    // It is still away; `keepTrying` goes on.
  }
}

/** Asks whose credentials these are, and what protects the session's requests from forgery. */
export async function learnWho() {
  try {
    know(await ask("session"));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
  }
}

/** @param {{who: WhoamiObject, csrf?: string}} session */
function know({ who, csrf }) {
  forgeryToken = csrf ?? "";
  hasEnded = false;
  setClock(who.server.now);
  mustSignIn.set(0);
  whoami.set(who);
}

/**
 * Opens a session. Throws `Refused`.
 *
 * @param {{token: string} | {user: string, password: string} | {code: string}} credentials
 */
export async function signIn(credentials) {
  know(await ask("session", { method: "POST", body: credentials }));
}

/** Ends the session. Throws `Refused`. */
export async function signOut() {
  await ask("session", { method: "DELETE" });
  whoami.set(null);
  await learnWho();
}

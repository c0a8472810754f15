/**
 * What the page knows about its server: who it is, whose credentials these are, whether it answers,
 * and what time it has.
 *
 * Times are compared with the server's clock, never with the browser's, which may be wrong.
 */
import { observable } from "./observable.js";

/** @typedef {"answers" | "away" | "starting" | "stopping" | "failing" | "busy"} Reach */
/** @typedef {{reach: Reach, since: number, nextTry: number}} Connection */

export const connection = observable(/** @type {Connection} */ ({ reach: "answers", since: 0, nextTry: 0 }));

/** Whose credentials these are; null before the first answer, and when signed out. */
export const whoami = observable(/** @type {WhoamiObject | null} */ (null));

/** The code with which the server asks for credentials; 0 while it does not. */
export const mustSignIn = observable(0);

/** Counts by kind and state, as the server last said. */
export const counts = observable(/** @type {Record<string, Record<string, number>> | null} */ (null));

/** Counts up whenever the server is back after an absence: what is on screen is then asked for again. */
export const returns = observable(0);

let offsetMs = 0;

/**
 * Takes the server's time from an answer that says it.
 *
 * @param {number} serverMs
 */
export function setClock(serverMs) {
  offsetMs = serverMs - Date.now();
}

/** Returns the server's time, in milliseconds since 1970. */
export function now() {
  return Date.now() + offsetMs;
}

/**
 * Returns whether one of some scopes is among the rights; without any, everything may.
 *
 * @param {readonly string[]} scopes
 */
export function may(...scopes) {
  const who = whoami.get();
  return scopes.length === 0 || scopes.some((scope) => who?.scopes.includes(scope));
}

/**
 * The address is the state: what a screen shows is in its URL, so reloading, going back and sending a
 * link to a colleague all show the same.
 *
 * All addresses are relative to the page's `<base>`, which ends with `/ui/`. An id in a path is one
 * segment: its slashes are encoded.
 */
import { observable, useValue } from "./observable.js";

const base = new URL(document.baseURI);

/** @typedef {{path: string, query: URLSearchParams, url: string, isReturn: boolean}} Place `isReturn`: by the browser's "back" or "forward". */

/** @returns {Place} */
function read(isReturn = false) {
  const inside = location.pathname.startsWith(base.pathname);
  const path = inside ? location.pathname.slice(base.pathname.length) : "";
  return { path, query: new URLSearchParams(location.search), url: location.href, isReturn };
}

export const place = observable(read());

/** Returns where the browser is, and renders again when it goes elsewhere. */
export function usePlace() {
  return useValue(place);
}

/**
 * Returns the address of a place, for links.
 *
 * @param {string} path Below the base: `promises`.
 * @param {string} [id] Shown there: the second part of the path.
 * @param {Record<string, string | undefined>} [query] Empty values are left out.
 */
export function href(path, id, query = {}) {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) if (value) parameters.set(name, value);
  const where = id === undefined ? path : `${path}/${encodeURIComponent(id)}`;
  const text = parameters.toString();
  // An empty address would be that of the page, with its query.
  return (where || "./") + (text && `?${text}`);
}

/**
 * Goes to a place.
 *
 * @param {string} target An address relative to the base.
 * @param {{replace?: boolean}} [options] Whether "back" skips where one was.
 */
export function go(target, { replace = false } = {}) {
  const url = new URL(target, base);
  if (url.href === location.href) return;
  if (replace) history.replaceState(null, "", url);
  else history.pushState(null, "", url);
  place.set(read());
}

/**
 * Changes some parameters of the present address; undefined or empty removes one.
 *
 * @param {Record<string, string | undefined>} changes
 * @param {{replace?: boolean}} [options]
 */
export function change(changes, options) {
  const { path, query } = place.get();
  const all = { ...Object.fromEntries(query), ...changes };
  go(href(path, undefined, all), options);
}

/**
 * Returns the id that follows a screen's name in a path, or undefined.
 *
 * @param {Place} where
 * @param {string} screen
 */
export function idWithin(where, screen) {
  const rest = where.path.slice(screen.length + 1);
  if (!rest) return undefined;
  try {
    return decodeURIComponent(rest);
  } catch {
    return rest; // Somebody typed a percent sign.
  }
}

/** @param {MouseEvent} event */
function followLink(event) {
  const isPlain = event.button === 0 && !(event.metaKey || event.ctrlKey || event.shiftKey || event.altKey);
  const link = event.target instanceof Element ? event.target.closest("a") : null;
  if (event.defaultPrevented || !isPlain || link === null || link.target || link.hasAttribute("download")) return;
  const url = new URL(link.href);
  if (url.origin !== base.origin || !url.pathname.startsWith(base.pathname)) return;
  event.preventDefault();
  go(url.href);
}

/** Starts to follow the browser's history, and links to places of the UI without loading the page. */
export function startRouter() {
  addEventListener("popstate", () => place.set(read(true)));
  document.addEventListener("click", followLink);
}

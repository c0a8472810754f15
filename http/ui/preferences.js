/**
 * What this browser remembers: theme, how times are shown, rows a page, single keys, columns.
 *
 * Only that: nothing about the server's data, and no credentials. Without storage, changes last as
 * long as the page.
 */
import { observable } from "./observable.js";

const PREFIX = "troth.";

/**
 * @param {string} name
 * @returns {string | null}
 */
function stored(name) {
  try {
    return localStorage.getItem(PREFIX + name);
  } catch {
    return null;
  }
}

/**
 * Makes a preference that is one of some words.
 *
 * @param {string} name
 * @param {readonly string[]} allowed The first is the default.
 */
function choice(name, allowed) {
  const given = stored(name);
  const made = observable(given !== null && allowed.includes(given) ? given : String(allowed[0]));
  made.watch((value) => {
    try {
      localStorage.setItem(PREFIX + name, value);
    } catch {
      // Storage is switched off or full: the choice lasts as long as the page.
    }
  });
  return made;
}

export const THEMES = /** @type {const} */ (["system", "light", "dark"]);
export const TIMES = /** @type {const} */ (["relative", "local", "utc"]);
export const PAGE_SIZES = /** @type {const} */ (["100", "50", "25"]);
export const SWITCH = /** @type {const} */ (["on", "off"]);

export const theme = choice("theme", THEMES);
export const times = choice("times", TIMES);
export const pageSize = choice("pageSize", PAGE_SIZES);
export const singleKeys = choice("keys", SWITCH);

/** The names of hidden columns of the list of promises, with commas between. */
export const hiddenColumns = observable(stored("hiddenColumns") ?? "");
hiddenColumns.watch((value) => {
  try {
    localStorage.setItem(`${PREFIX}hiddenColumns`, value);
  } catch {
    // As above.
  }
});

theme.watch((value) => {
  if (value === "system") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = value;
});

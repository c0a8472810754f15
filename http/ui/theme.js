/**
 * Applies the chosen theme before the first paint, so that no page flashes. A script of its own, not a
 * module: a module would run after the first paint.
 */
(() => {
  /** @type {string | null} */
  let theme = null;
  try {
    theme = localStorage.getItem("troth.theme");
  } catch {
    // Storage is switched off: the system's theme is used.
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset["theme"] = theme;
})();

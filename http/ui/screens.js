/** The screens: what the navigation shows, and which module shows a path. In the navigation's order. */

/** @type {ScreenRow[]} */
export const SCREENS = [
  {
    path: "",
    title: "Overview",
    icon: "overview",
    scopes: [],
    key: "o",
    load: () => import("./screens/overview.js"),
  },
  {
    path: "promises",
    title: "Promises",
    icon: "promises",
    scopes: ["promises:read"],
    key: "p",
    load: () => import("./screens/promises.js"),
  },
];

/**
 * Returns the screen that shows a path.
 *
 * @param {string} path
 */
export function screenFor(path) {
  const [first = ""] = path.split("/");
  return SCREENS.find((screen) => screen.path === first);
}

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
    loadOne: () => import("./screens/promise.js"),
  },
  {
    path: "tasks",
    title: "Tasks",
    icon: "tasks",
    scopes: ["promises:read"],
    key: "t",
    load: () => import("./screens/tasks.js"),
  },
  {
    path: "queues",
    title: "Queues & workers",
    icon: "queues",
    scopes: ["metrics:read"],
    key: "q",
    load: () => import("./screens/queues.js"),
  },
  {
    path: "schedules",
    title: "Schedules",
    icon: "schedules",
    scopes: ["promises:read"],
    key: "s",
    load: () => import("./screens/schedules.js"),
  },
  {
    path: "locks",
    title: "Locks",
    icon: "locks",
    scopes: ["promises:read"],
    key: "l",
    load: () => import("./screens/locks.js"),
  },
  {
    path: "functions",
    title: "Functions",
    icon: "functions",
    scopes: ["functions:read"],
    key: "n",
    load: () => import("./screens/functions.js"),
  },
  {
    path: "failures",
    title: "Failures",
    icon: "failures",
    scopes: ["metrics:read", "promises:read"],
    key: "f",
    load: () => import("./screens/failures.js"),
  },
  {
    path: "bulk",
    title: "Bulk jobs",
    icon: "bulk",
    scopes: ["promises:read"],
    group: "operate",
    load: () => import("./screens/bulk.js"),
  },
  {
    path: "snapshots",
    title: "Snapshots & data",
    icon: "snapshots",
    scopes: ["admin"],
    group: "operate",
    load: () => import("./screens/snapshots.js"),
  },
  {
    path: "access",
    title: "Access",
    icon: "access",
    scopes: ["admin"],
    group: "operate",
    load: () => import("./screens/access.js"),
  },
  {
    path: "settings",
    title: "Settings",
    icon: "settings",
    scopes: [],
    group: "operate",
    load: () => import("./screens/settings.js"),
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

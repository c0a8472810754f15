/**
 * The shared worker that holds the event stream for all tabs of a browser. Browsers open at most six
 * connections to a server: with a stream in each tab, the seventh tab would hang.
 *
 * A tab says `{topics, watch}`, or null when it is hidden or closed.
 */
import { Stream } from "./stream.js";

// The address of the API is in that of this worker, which is below the page's base.
const root = new URL(new URL(import.meta.url).searchParams.get("root") ?? "../../../", import.meta.url);
const stream = new Stream(new URL("events", root));

/** @type {{onconnect: ((event: MessageEvent) => void) | null}} */
const worker = /** @type {any} */ (self);
worker.onconnect = (event) => {
  const port = /** @type {MessagePort} */ (event.ports[0]);
  const listener = (/** @type {import("./stream.js").Message} */ message) => port.postMessage(message);
  port.onmessage = ({ data }) => stream.want(listener, data);
};

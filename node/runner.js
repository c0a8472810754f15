// What a JavaScript sandbox runs: loads a function's code, then answers requests, one after the other.
//
// Started by runner.py as `node runner.js CODE LIMIT`, the limit being that of a result in
// bytes. Descriptor 3 is the channel to the node (troth node, not Node.js): frames of a letter, four
// bytes of length, and content. Needs nothing but Node.js itself.
//
// An execution has ended when its result is written and nothing that it has begun keeps Node.js
// going: no timer, no socket, no child process, but for those of the import. Then the next one finds
// the import, the environment and the working directory as the first did. If something is left, this
// process ends, and it with it.
//
// What a handler returns is sent whole, or refused with its name: nothing is left out in silence.
"use strict";

const fs = require("node:fs");
const net = require("node:net");
const path = require("node:path");
const { pathToFileURL } = require("node:url");
const { inspect, types } = require("node:util");

const CHANNEL = 3;
const TEXT_LIMIT = 2000;
const HANDLERS = ["handler.js", "handler.mjs"];
const RESPONSE_KEYS = ["Body", "StatusCode", "Header"];
const RESULT_LIMIT_BYTES = Number(process.argv[3]);
const TEXT = "text/plain; charset=utf-8";
const BYTES = "application/octet-stream";

// The execution that is answered; what another one still says of its progress counts for nothing.
let current = null;

function frame(kind, payload) {
  const head = Buffer.alloc(5);
  head.write(kind, 0, "latin1");
  head.writeUInt32BE(payload.length, 1);
  return Buffer.concat([head, payload]);
}

// A text that can be sent: what is no Unicode, half a surrogate pair, is replaced.
function wellFormed(text) {
  return Buffer.from(text).toString();
}

// What is thrown may be anything, and looking at it may throw again.
function shown(text, otherwise) {
  try {
    return wellFormed(String(text()).slice(0, TEXT_LIMIT));
  } catch {
    return otherwise;
  }
}

function errorFrame(kind, error) {
  const isObject = typeof error === "object" && error !== null;
  const type = shown(() => (isObject ? (error.name ?? nameOf(error)) : typeof error), "Error");
  const message = shown(() => {
    if (!isObject) return error;
    return error.message === undefined ? inspect(error) : error.message;
  }, "(the error's text cannot be shown)");
  return frame(kind, Buffer.from(JSON.stringify({ type, message })));
}

// To the output, which the node logs.
function printError(error) {
  try {
    process.stderr.write(`${typeof error?.stack === "string" ? error.stack : inspect(error)}\n`);
  } catch {
    // It cannot be shown, or the output was closed: the error itself is still told.
  }
}

async function importHandler(code) {
  const names = fs.readdirSync(code);
  const found = HANDLERS.find((name) => names.includes(name));
  if (found === undefined) throw new Error("there is no handler.js and no handler.mjs");
  const module = await import(pathToFileURL(path.join(code, found)).href);
  const handle = module.handle ?? module.default?.handle ?? module.default;
  if (typeof handle !== "function") throw new TypeError(`${found} exports no handle`);
  return handle;
}

function requestOf(payload, channel) {
  const length = payload.readUInt32BE(0);
  const meta = JSON.parse(payload.subarray(4, 4 + length).toString());
  const body = Buffer.from(payload.subarray(4 + length));
  const text = body.toString("utf8");
  let shown = -1;
  return {
    Body: Buffer.from(text, "utf8").equals(body) ? text : body,
    Header: Object.fromEntries(meta.headers.map(([name, content]) => [name.toLowerCase(), content])),
    QueryString: meta.query,
    Query: Object.fromEntries(new URLSearchParams(meta.query)),
    Method: meta.method,
    Host: meta.host,
    TaskId: meta.id,
    progress(percent) {
      const now = Math.min(100, Math.max(0, Math.trunc(Number(percent) || 0)));
      if (now === shown || current !== meta.id) return;
      shown = now;
      channel.write(frame("P", Buffer.from(String(now))));
    },
  };
}

function nameOf(value) {
  return value?.constructor?.name || typeof value;
}

class ResultTooLarge extends Error {
  name = "ResultTooLarge";
}

async function readAll(source) {
  const parts = [];
  let count = 0;
  for await (const chunk of source) {
    const part = typeof chunk === "string" ? Buffer.from(chunk) : bytesOf(chunk);
    if (part === null) {
      throw new TypeError(`a stream of text and bytes can be sent, not one with a ${nameOf(chunk)}`);
    }
    count += part.length;
    if (count > RESULT_LIMIT_BYTES) {
      throw new ResultTooLarge(`the result is larger than ${RESULT_LIMIT_BYTES} bytes`);
    }
    parts.push(part);
  }
  return Buffer.concat(parts);
}

function bytesOf(value) {
  if (ArrayBuffer.isView(value)) return Buffer.from(value.buffer, value.byteOffset, value.byteLength);
  return types.isAnyArrayBuffer(value) ? Buffer.from(value) : null;
}

function isStream(value) {
  return typeof value?.[Symbol.asyncIterator] === "function";
}

// That of the runtime, or of a package that brings its own.
function isWebResponse(value) {
  return (
    typeof value.arrayBuffer === "function" &&
    typeof value.status === "number" &&
    typeof value.headers?.entries === "function"
  );
}

async function bodyOf(value) {
  if (typeof value === "string") return [Buffer.from(value), TEXT];
  const bytes = bytesOf(value);
  if (bytes !== null) return [bytes, BYTES];
  if (isStream(value)) return [await readAll(value), BYTES];
  if ([Blob, FormData, URLSearchParams].some((one) => value instanceof one)) {
    // The runtime knows what they are as a body.
    const encoded = new Response(value);
    return [await readAll(encoded.body), encoded.headers.get("content-type") || BYTES];
  }
  return [Buffer.from(jsonOf(value)), "application/json"];
}

// JSON.stringify, but what it would leave out or empty is an error that names it.
function jsonOf(value) {
  const places = new Map();
  return JSON.stringify(value === undefined ? null : value, function check(key, content) {
    const place = places.has(this) ? `${places.get(this)}.${key}` : "the result";
    const problem = problemOf(content, this[key]);
    if (problem !== null) throw new TypeError(`${place} is ${problem}, which JSON cannot hold`);
    if (typeof content === "object") places.set(content, place);
    return content;
  });
}

// `original` is what `content` was before its toJSON.
function problemOf(content, original) {
  switch (typeof content) {
    case "number":
      return Number.isFinite(content) ? null : String(content);
    case "bigint":
    case "function":
    case "symbol":
      return `a ${typeof content}`;
    case "object":
      break;
    default:
      return null;
  }
  if (content === null) return types.isDate(original) ? "an invalid date" : null;
  if (types.isBoxedPrimitive(content)) return problemOf(content.valueOf(), content);
  if (Array.isArray(content)) return null;
  const name = nameOf(content);
  const isBuiltIn =
    types.isMap(content) ||
    types.isSet(content) ||
    types.isPromise(content) ||
    types.isNativeError(content) ||
    bytesOf(content) !== null ||
    isStream(content);
  const isPlain = name === "Object" || Object.getPrototypeOf(content) === null;
  // An object of a class that keeps nothing where JSON looks.
  if (isBuiltIn || (!isPlain && Object.keys(content).length === 0)) return `a ${name}`;
  return null;
}

function headersOf(given) {
  if (given === undefined || given === null) return [];
  if (typeof given !== "object") throw new TypeError(`Header must be an object, not a ${typeof given}`);
  // Headers, a Map and a list of pairs can be walked; anything else has its names as keys.
  const pairs = typeof given[Symbol.iterator] === "function" ? [...given] : Object.entries(given);
  return pairs.flatMap((pair) => {
    if (!Array.isArray(pair) || pair.length !== 2) {
      throw new TypeError("Header must be an object, Headers, or a list of pairs of name and text");
    }
    const [name, content] = pair;
    return (Array.isArray(content) ? content : [content]).map((text) => {
      if (!["string", "number", "boolean", "bigint"].includes(typeof text)) {
        throw new TypeError(`the header ${name} must be a text, not a ${nameOf(text)}`);
      }
      return [wellFormed(String(name)), wellFormed(String(text))];
    });
  });
}

// Status, headers, body and the body's type, if there is a body.
async function responseOf(value) {
  if (value === null || typeof value !== "object") return [200, [], ...(await bodyOf(value))];
  if (isWebResponse(value)) {
    // What was fetched has been decoded, and still has the header.
    const headers = headersOf(value.headers).filter(
      ([name]) => !(value.url && name.toLowerCase() === "content-encoding"),
    );
    if (value.bodyUsed) throw new TypeError("the body of the Response has been read already");
    if (!value.body) return [value.status, headers, Buffer.alloc(0)];
    return [value.status, headers, await readAll(value.body), BYTES];
  }
  if (!RESPONSE_KEYS.some((key) => Object.hasOwn(value, key))) {
    return [200, [], ...(await bodyOf(value))];
  }
  const other = Object.keys(value).find((key) => !RESPONSE_KEYS.includes(key));
  if (other !== undefined) {
    throw new TypeError(
      `a response has only ${RESPONSE_KEYS.join(", ")}, not ${other}; ` +
        "to send an object with these names, put it into Body",
    );
  }
  const status = value.StatusCode ?? 200;
  const body = Object.hasOwn(value, "Body") ? await bodyOf(value.Body) : [Buffer.alloc(0)];
  return [status, headersOf(value.Header), ...body];
}

async function resultFrame(value) {
  const [status, headers, body, kind] = await responseOf(value);
  if (!Number.isInteger(status) || status < 200 || status > 599) {
    throw new RangeError(`StatusCode must be an integer from 200 to 599, not ${String(status)}`);
  }
  if (kind !== undefined && !headers.some(([name]) => name.toLowerCase() === "content-type")) {
    headers.push(["content-type", kind]);
  }
  const described = Buffer.from(JSON.stringify({ status, headers }));
  const length = Buffer.alloc(4);
  length.writeUInt32BE(described.length);
  return frame("R", Buffer.concat([length, described, body]));
}

// The requests that come by the channel: `next` waits for one.
class Requests {
  #parts = [];
  #count = 0;
  #wake = null;

  constructor(channel) {
    channel.on("data", (part) => {
      this.#parts.push(part);
      this.#count += part.length;
      this.#look();
    });
    // The node has gone, or has no more tasks for this process.
    channel.on("close", () => process.exit(0));
  }

  next() {
    return new Promise((resolve) => {
      this.#wake = resolve;
      this.#look();
    });
  }

  #look() {
    if (this.#wake === null || this.#count < 5) return;
    if (this.#parts[0].length < 5) this.#parts = [Buffer.concat(this.#parts)];
    const end = 5 + this.#parts[0].readUInt32BE(1);
    if (this.#count < end) return;
    const received = this.#parts.length === 1 ? this.#parts[0] : Buffer.concat(this.#parts);
    this.#parts = received.length === end ? [] : [received.subarray(end)];
    this.#count = received.length - end;
    const wake = this.#wake;
    this.#wake = null;
    wake(received.subarray(5, end));
  }
}

// What keeps Node.js going, by kind.
function resources() {
  const counts = new Map();
  for (const kind of process.getActiveResourcesInfo()) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  counts.delete("Immediate");
  return counts;
}

// The process as the import has left it.
class Surroundings {
  #environment = { ...process.env };
  #directory = process.cwd();
  #resources = resources();

  // Whether executions have left nothing that keeps Node.js going.
  areClean() {
    return [...resources()].every(([kind, count]) => count <= (this.#resources.get(kind) ?? 0));
  }

  restore() {
    for (const name of Object.keys(process.env)) {
      if (!(name in this.#environment)) delete process.env[name];
    }
    for (const [name, text] of Object.entries(this.#environment)) {
      if (process.env[name] !== text) process.env[name] = text;
    }
    if (process.cwd() !== this.#directory) process.chdir(this.#directory);
  }
}

// Node.js would keep what a pipe does not take at once, and lose it when the process exits.
function writeOutputAtOnce() {
  for (const stream of [process.stdout, process.stderr]) stream._handle?.setBlocking?.(true);
}

function written(channel, content) {
  return new Promise((resolve) => channel.write(content, resolve));
}

async function answerOf(handle, payload, channel) {
  try {
    const request = requestOf(payload, channel);
    current = request.TaskId;
    process.env.TROTH_TASK_ID = request.TaskId;
    return await resultFrame(await handle(request));
  } catch (error) {
    printError(error);
    return errorFrame("E", error);
  } finally {
    current = null;
  }
}

async function main() {
  writeOutputAtOnce();
  const channel = new net.Socket({ fd: CHANNEL, readable: true, writable: true });
  const requests = new Requests(channel);
  const started = setImmediate; // the function may put another one in its place
  let handle;
  try {
    handle = await importHandler(process.argv[2]);
  } catch (error) {
    printError(error);
    channel.write(errorFrame("F", error), () => process.exit(0));
    return;
  }
  const surroundings = new Surroundings();
  await written(channel, frame("Y", Buffer.alloc(0)));
  for (;;) {
    await written(channel, await answerOf(handle, await requests.next(), channel));
    // What was closed is gone in the next turn of the loop.
    await new Promise((resolve) => started(resolve));
    if (!surroundings.areClean()) process.exit(0);
    surroundings.restore();
    await written(channel, frame("X", Buffer.from("0")));
  }
}

main();

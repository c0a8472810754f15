// What a JavaScript sandbox runs: loads a function's code, then answers one request and ends.
//
// Started by runner.py as `node runner.js CODE`. Descriptor 3 is the channel to the node
// (troth node, not Node.js): frames of a letter, four bytes of length, and content. Needs nothing
// but Node.js itself.
"use strict";

const fs = require("node:fs");
const net = require("node:net");
const path = require("node:path");
const { pathToFileURL } = require("node:url");

const CHANNEL = 3;
const TEXT_LIMIT = 2000;
const HANDLERS = ["handler.js", "handler.mjs"];

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

function errorFrame(kind, error) {
  const isError = error instanceof Error;
  const content = {
    type: wellFormed(String(isError ? error.name : typeof error).slice(0, TEXT_LIMIT)),
    message: wellFormed(String(isError ? error.message : error).slice(0, TEXT_LIMIT)),
  };
  return frame(kind, Buffer.from(JSON.stringify(content)));
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
      if (now === shown) return;
      shown = now;
      channel.write(frame("P", Buffer.from(String(now))));
    },
  };
}

function bodyOf(value) {
  if (typeof value === "string") return [Buffer.from(value), "text/plain; charset=utf-8"];
  if (ArrayBuffer.isView(value)) {
    return [Buffer.from(value.buffer, value.byteOffset, value.byteLength), "application/octet-stream"];
  }
  if (value instanceof ArrayBuffer) return [Buffer.from(value), "application/octet-stream"];
  const json = JSON.stringify(value === undefined ? null : value);
  if (json === undefined) throw new TypeError(`a ${typeof value} cannot be sent as JSON`);
  return [Buffer.from(json), "application/json"];
}

function resultFrame(value) {
  const isResponse =
    value !== null &&
    typeof value === "object" &&
    ["Body", "StatusCode", "Header"].some((key) => Object.hasOwn(value, key));
  let status = 200;
  let headers = [];
  let body = Buffer.alloc(0);
  let kind;
  if (isResponse) {
    status = value.StatusCode ?? 200;
    if (!Number.isInteger(status) || status < 200 || status > 599) {
      throw new RangeError(`StatusCode must be an integer from 200 to 599, not ${String(status)}`);
    }
    headers = Object.entries(value.Header ?? {}).flatMap(([name, content]) =>
      (Array.isArray(content) ? content : [content]).map((text) => [
        wellFormed(name),
        wellFormed(String(text)),
      ]),
    );
    if (Object.hasOwn(value, "Body")) [body, kind] = bodyOf(value.Body);
  } else {
    [body, kind] = bodyOf(value);
  }
  if (kind !== undefined && !headers.some(([name]) => name.toLowerCase() === "content-type")) {
    headers.push(["content-type", kind]);
  }
  const described = Buffer.from(JSON.stringify({ status, headers }));
  const length = Buffer.alloc(4);
  length.writeUInt32BE(described.length);
  return frame("R", Buffer.concat([length, described, body]));
}

function readFrame(channel) {
  return new Promise((resolve) => {
    let received = Buffer.alloc(0);
    const parts = [];
    let count = 0;
    channel.on("data", (part) => {
      parts.push(part);
      count += part.length;
      if (count < 5) return;
      received = parts.length === 1 ? parts[0] : null;
      const head = received ?? Buffer.concat(parts.slice(0, 5));
      const length = head.readUInt32BE(1);
      if (count >= 5 + length) resolve(Buffer.concat(parts).subarray(5, 5 + length));
    });
    // The node has gone, or has no task for this process.
    channel.on("close", () => process.exit(0));
  });
}

async function main() {
  const channel = new net.Socket({ fd: CHANNEL, readable: true, writable: true });
  const asked = readFrame(channel);
  let handle;
  try {
    handle = await importHandler(process.argv[2]);
  } catch (error) {
    process.stderr.write(`${error?.stack ?? error}\n`);
    channel.write(errorFrame("F", error), () => process.exit(0));
    return;
  }
  channel.write(frame("Y", Buffer.alloc(0)));
  const payload = await asked;
  let result;
  try {
    const request = requestOf(payload, channel);
    process.env.TROTH_TASK_ID = request.TaskId;
    result = resultFrame(await handle(request));
  } catch (error) {
    process.stderr.write(`${error?.stack ?? error}\n`);
    result = errorFrame("E", error);
  }
  channel.write(result, () => process.exit(0));
}

main();

// Workflows of ours for the TypeScript SDK, and a worker that runs them.
//
// `node workflows.ts URL GROUP [TTL_MS]` is a worker: it has the same workflows as
// `../python/workflows.py` and understands the same commands. Node.js 22 runs it as it is.

import * as fs from "node:fs";
import * as readline from "node:readline";
import { setTimeout as pause } from "node:timers/promises";
import { Constant, type Context, type Info, Never, Resonate } from "@resonatehq/sdk/async";

const GATE_POLL_MS = 20;

/** Tell the test what has happened. */
function say(event: object): void {
  fs.writeSync(1, JSON.stringify(event) + "\n");
}

/** Append a line to a file that outlives this process; return whether it was not there yet. */
function note(journal: string, line: string): boolean {
  const isNew = !fs.existsSync(journal) || !fs.readFileSync(journal, "utf8").split("\n").includes(line);
  fs.appendFileSync(journal, line + "\n");
  return isNew;
}

/** One step. */
async function hello(ctx: Context, name: string): Promise<string> {
  return await ctx.run(greet, name);
}

async function greet(_: Info, name: string): Promise<string> {
  return `hello, ${name}`;
}

/** A step that runs in a worker of another group. */
async function order(ctx: Context, item: string, count: number, shop: string): Promise<object> {
  const answer: { price: number; by: number } = await ctx.rpc("price", item, ctx.options({ target: shop }));
  return { total: answer.price * count, priced_by: answer.by, ordered_by: process.pid };
}

async function price(_: Info, item: string): Promise<object> {
  return { price: item.length, by: process.pid };
}

/** Many steps at once, each a task of its own. */
async function fanOut(ctx: Context, count: number, group: string): Promise<number[]> {
  const numbers = Array.from({ length: count }, (_, number) => number);
  return await Promise.all(numbers.map((number) => ctx.rpc<number>("double", number, ctx.options({ target: group }))));
}

async function double(_: Info, number: number): Promise<number> {
  return 2 * number;
}

/** A sleep that needs no process. */
async function nap(ctx: Context, durationMs: number, _group: string): Promise<string> {
  await ctx.sleep(durationMs);
  return "awake";
}

/** A saga: one step is tried again, one fails for good, and what was done is undone. */
async function trip(ctx: Context, journal: string): Promise<string> {
  const booked: string[] = [];
  try {
    for (const what of ["flight", "hotel", "car"]) {
      const retryPolicy = what === "car" ? new Never() : new Constant({ delay: 0, maxRetries: 3 });
      await ctx.run(book, journal, what, ctx.options({ retryPolicy }));
      booked.push(what);
    }
  } catch (error) {
    for (const what of booked.reverse()) {
      await ctx.run(cancel, journal, what);
    }
    return `cancelled: ${(error as Error).message}`;
  }
  return "booked";
}

async function book(_: Info, journal: string, what: string): Promise<void> {
  const isFirstAttempt = note(journal, `book ${what}`);
  if (what === "car") throw new Error("no car left");
  if (what === "hotel" && isFirstAttempt) throw new Error("the hotel's line is busy");
}

async function cancel(_: Info, journal: string, what: string): Promise<void> {
  note(journal, `cancel ${what}`);
}

/** A workflow that fails because a step of it does. */
async function refused(ctx: Context, reason: string): Promise<void> {
  await ctx.run(refuse, reason);
}

async function refuse(_: Info, reason: string): Promise<void> {
  throw new Error(reason);
}

/** Wait for a person, who completes a promise. */
async function expense(ctx: Context, amount: number): Promise<string> {
  const question = ctx.promise<string>();
  say({ event: "asked", id: question.id });
  return `${amount}: ${await question}`;
}

/** Call itself, through the server. */
async function fibonacci(ctx: Context, number: number, group: string): Promise<number> {
  if (number < 2) return number;
  const call = (n: number) => ctx.rpc<number>("fibonacci", n, group, ctx.options({ target: group }));
  const [before, beforeThat] = await Promise.all([call(number - 1), call(number - 2)]);
  return before + beforeThat;
}

/** Start something that this workflow does not wait for, and return its id. */
async function shipment(ctx: Context, journal: string, group: string): Promise<string> {
  return (await ctx.detached("send_mail", journal, ctx.options({ target: group }))).id;
}

async function sendMail(_: Info, journal: string): Promise<string> {
  note(journal, "mail sent");
  return "sent";
}

/** What a schedule starts. */
async function tick(_: Info, journal: string): Promise<string> {
  note(journal, "tick");
  return "ticked";
}

/** Two steps; during the second one, this process is killed. */
async function report(ctx: Context, gate: string): Promise<object> {
  return { counted_by: await ctx.run(countPages), printed_by: await ctx.run(printPages, gate) };
}

async function countPages(_: Info): Promise<number> {
  say({ event: "counts" });
  return process.pid;
}

async function printPages(_: Info, gate: string): Promise<number> {
  say({ event: "prints" });
  while (!fs.existsSync(gate)) await pause(GATE_POLL_MS);
  return process.pid;
}

/** Steps, calls and sleeps in turn, so that something is always under way. */
async function journey(ctx: Context, stages: number, journal: string, group: string): Promise<number[]> {
  const reached: number[] = [];
  for (let stage = 0; stage < stages; stage++) {
    await ctx.run(reach, journal, stage);
    reached.push(await ctx.rpc<number>("double", stage, ctx.options({ target: group })));
    await ctx.sleep(100);
  }
  return reached;
}

async function reach(_: Info, journal: string, stage: number): Promise<void> {
  note(journal, `stage ${stage}`);
}

const [url, group, ttlMs] = process.argv.slice(2);
const resonate = new Resonate({ url, group, ttl: Number(ttlMs ?? 60_000) });
const workflows = {
  ...{ hello, order, price, fan_out: fanOut, double, nap, trip, refused, expense, fibonacci },
  ...{ shipment, send_mail: sendMail, tick, report, journey },
};
for (const [name, workflow] of Object.entries(workflows)) resonate.register(name, workflow);

type Command = { do: string; id: string; function: string; arguments: unknown[]; cron: string };

/** Do what a command says, and return its value, if it has one. */
async function carryOut(command: Command): Promise<unknown> {
  const options = resonate.options({ target: group });
  switch (command.do) {
    case "run":
      return (await resonate.run(command.id, command.function, ...command.arguments, options)).result();
    case "wait":
      return (await resonate.get(command.id)).result();
    case "schedule":
      await resonate.schedule(command.id, command.cron, command.function, ...command.arguments, options);
      return null;
    case "unschedule":
      return resonate.schedules.delete(command.id);
    default:
      throw new Error(`unknown command ${command.do}`);
  }
}

/** Do what a command says, and say what came of it. */
async function obey(command: Command): Promise<void> {
  try {
    say({ id: command.id, done: command.do, value: await carryOut(command) });
  } catch (error) {
    say({ id: command.id, done: command.do, error: (error as Error).message ?? String(error) });
  }
}

say({ event: "ready" });
for await (const line of readline.createInterface({ input: process.stdin })) {
  void obey(JSON.parse(line) as Command);
}
await resonate.stop();

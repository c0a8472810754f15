// Workflows of ours for the TypeScript SDK's engine of `async` functions, and a worker that runs them.
//
// `node workflows.ts URL GROUP [TTL_MS]` is a worker: it has the same workflows as
// `../python/workflows.py` and understands the same commands. Node.js 22 runs it as it is.

import { Constant, type Context, Never, Resonate } from "@resonatehq/sdk/async";
import * as steps from "./steps.ts";
import { say, serve } from "./worker.ts";

/** One step. */
async function hello(ctx: Context, name: string): Promise<string> {
  return await ctx.run(steps.greet, name);
}

/** A step that runs in a worker of another group. */
async function order(ctx: Context, item: string, count: number, shop: string): Promise<object> {
  const answer: { price: number; by: number } = await ctx.rpc("price", item, ctx.options({ target: shop }));
  return { total: answer.price * count, priced_by: answer.by, ordered_by: process.pid };
}

/** Many steps at once, each a task of its own. */
async function fanOut(ctx: Context, count: number, group: string): Promise<number[]> {
  const numbers = Array.from({ length: count }, (_, number) => number);
  return await Promise.all(numbers.map((number) => ctx.rpc<number>("double", number, ctx.options({ target: group }))));
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
      await ctx.run(steps.book, journal, what, ctx.options({ retryPolicy }));
      booked.push(what);
    }
  } catch (error) {
    for (const what of booked.reverse()) {
      await ctx.run(steps.cancel, journal, what);
    }
    return `cancelled: ${(error as Error).message}`;
  }
  return "booked";
}

/** A workflow that fails because a step of it does. */
async function refused(ctx: Context, reason: string): Promise<void> {
  await ctx.run(steps.refuse, reason);
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

/** Two steps; during the second one, this process is killed. */
async function report(ctx: Context, gate: string): Promise<object> {
  return { counted_by: await ctx.run(steps.countPages), printed_by: await ctx.run(steps.printPages, gate) };
}

/** Steps, calls and sleeps in turn, so that something is always under way. */
async function journey(ctx: Context, stages: number, journal: string, group: string): Promise<number[]> {
  const reached: number[] = [];
  for (let stage = 0; stage < stages; stage++) {
    await ctx.run(steps.reach, journal, stage);
    reached.push(await ctx.rpc<number>("double", stage, ctx.options({ target: group })));
    await ctx.sleep(100);
  }
  return reached;
}

const [url, group, ttlMs] = process.argv.slice(2);
const resonate = new Resonate({ url, group, ttl: Number(ttlMs ?? 60_000) });
const workflows = {
  ...{ hello, order, fan_out: fanOut, nap, trip, refused, expense, fibonacci, shipment, report, journey },
  ...steps.byName,
};
for (const [name, workflow] of Object.entries(workflows)) resonate.register(name, workflow);

const options = resonate.options({ target: group });
await serve({
  run: async (id, workflow, args) => (await resonate.run(id, workflow, ...args, options)).result(),
  wait: async (id) => (await resonate.get(id)).result(),
  schedule: (id, cron, workflow, args) => resonate.schedule(id, cron, workflow, ...args, options),
  unschedule: (id) => resonate.schedules.delete(id),
  stop: () => resonate.stop(),
});

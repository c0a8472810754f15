// Workflows of ours for the TypeScript SDK's engine of generators (its main entry), and a worker that runs them.
//
// `node generators.ts URL GROUP [TTL_MS]` is a worker: it has the same workflows as
// `../python/workflows.py` and understands the same commands. Node.js 22 runs it as it is.

import { Constant, type Context, Never, Resonate } from "@resonatehq/sdk";
import * as steps from "./steps.ts";
import { say, serve } from "./worker.ts";

type Steps<T> = Generator<unknown, T, any>;
type Future<T> = { [Symbol.iterator](): Steps<T> };

/** One step. */
function* hello(ctx: Context, name: string): Steps<string> {
  return yield* ctx.run(steps.greet, name);
}

/** A step that runs in a worker of another group. */
function* order(ctx: Context, item: string, count: number, shop: string): Steps<object> {
  const answer: { price: number; by: number } = yield* ctx.rpc("price", item, ctx.options({ target: shop }));
  return { total: answer.price * count, priced_by: answer.by, ordered_by: process.pid };
}

/** Many steps at once, each a task of its own. */
function* fanOut(ctx: Context, count: number, group: string): Steps<number[]> {
  const futures: Future<number>[] = [];
  for (let number = 0; number < count; number++) {
    futures.push(yield* ctx.beginRpc<number>("double", number, ctx.options({ target: group })));
  }
  const doubled: number[] = [];
  for (const future of futures) doubled.push(yield* future);
  return doubled;
}

/** A sleep that needs no process. */
function* nap(ctx: Context, durationMs: number, _group: string): Steps<string> {
  yield* ctx.sleep(durationMs);
  return "awake";
}

/** A saga: one step is tried again, one fails for good, and what was done is undone. */
function* trip(ctx: Context, journal: string): Steps<string> {
  const booked: string[] = [];
  try {
    for (const what of ["flight", "hotel", "car"]) {
      const retryPolicy = what === "car" ? new Never() : new Constant({ delay: 0, maxRetries: 3 });
      yield* ctx.run(steps.book, journal, what, ctx.options({ retryPolicy }));
      booked.push(what);
    }
  } catch (error) {
    for (const what of booked.reverse()) {
      yield* ctx.run(steps.cancel, journal, what);
    }
    return `cancelled: ${(error as Error).message}`;
  }
  return "booked";
}

/** A workflow that fails because a step of it does. */
function* refused(ctx: Context, reason: string): Steps<void> {
  yield* ctx.run(steps.refuse, reason, ctx.options({ retryPolicy: new Never() }));
}

/** Wait for a person, who completes a promise. */
function* expense(ctx: Context, amount: number): Steps<string> {
  const question = yield* ctx.promise<string>();
  say({ event: "asked", id: question.id });
  return `${amount}: ${yield* question}`;
}

/** Call itself, through the server. */
function* fibonacci(ctx: Context, number: number, group: string): Steps<number> {
  if (number < 2) return number;
  const call = (n: number) => ctx.beginRpc<number>("fibonacci", n, group, ctx.options({ target: group }));
  const before = yield* call(number - 1);
  const beforeThat = yield* call(number - 2);
  return (yield* before) + (yield* beforeThat);
}

/** Start something that this workflow does not wait for, and return its id. */
function* shipment(ctx: Context, journal: string, group: string): Steps<string> {
  return (yield* ctx.detached("send_mail", journal, ctx.options({ target: group }))).id;
}

/** Two steps; during the second one, this process is killed. */
function* report(ctx: Context, gate: string): Steps<object> {
  const countedBy = yield* ctx.run(steps.countPages);
  return { counted_by: countedBy, printed_by: yield* ctx.run(steps.printPages, gate) };
}

/** Steps, calls and sleeps in turn, so that something is always under way. */
function* journey(ctx: Context, stages: number, journal: string, group: string): Steps<number[]> {
  const reached: number[] = [];
  for (let stage = 0; stage < stages; stage++) {
    yield* ctx.run(steps.reach, journal, stage);
    reached.push(yield* ctx.rpc<number>("double", stage, ctx.options({ target: group })));
    yield* ctx.sleep(100);
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
  run: (id, workflow, args) => resonate.run(id, workflow, ...args, options),
  wait: async (id) => (await resonate.get(id)).result(),
  schedule: (id, cron, workflow, args) => resonate.schedule(id, cron, workflow, ...args, options),
  unschedule: (id) => resonate.schedules.delete(id),
  stop: () => resonate.stop(),
});

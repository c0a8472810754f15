// A checkout that waits for a person and sleeps, with the newest TypeScript SDK.
//
// What is done once stays done, whoever is killed: the worker, the server or both. With Node.js 22.18
// or newer and `npm install @resonatehq/sdk` in the directory of this file, in three terminals:
//
//     troth serve
//     node checkout.mts worker
//     node checkout.mts start order-9 250
//
// The worker reserves the goods and asks whether 250 may be charged. The question is a durable promise,
// and the answer its value, here JSON in base64 (`"yes, says Ada"`):
//
//     curl -X PATCH http://127.0.0.1:8001/promises/order-9:1 \
//       -d '{"state": "RESOLVED", "value": {"data": "Inllcywgc2F5cyBBZGEi"}}'
//
// `checkout.py` is the same in Python. Each can start what the other's worker carries out.

import { type Context, type Info, Resonate } from "@resonatehq/sdk/async";

const url = process.env.RESONATE_URL ?? "http://127.0.0.1:8001";

/** The workflow. It runs from its beginning whenever it goes on; finished steps do not. */
async function checkout(ctx: Context, amount: number): Promise<string> {
  await ctx.run(reserve, amount);
  const question = ctx.promise<string>();
  console.log(`worker: ${question.id} is to be decided`);
  const decision = await question;
  await ctx.sleep(1000);
  await ctx.run(ship);
  return `shipped for ${amount}: ${decision}`;
}

/** The first step. */
async function reserve(_: Info, amount: number): Promise<void> {
  console.log(`worker: reserves goods for ${amount}`);
}

/** The last step. */
async function ship(_: Info): Promise<void> {
  console.log("worker: ships");
}

const [role, orderId, amount] = process.argv.slice(2);
if (role === "worker") {
  const resonate = new Resonate({ url, group: "checkouts" });
  resonate.register("checkout", checkout);
  console.log("worker: ready");
} else {
  const resonate = new Resonate({ url, group: "customers" });
  const options = resonate.options({ target: "checkouts" });
  const handle = await resonate.rpc<string>(orderId, "checkout", Number(amount), options);
  console.log(await handle.result());
  await resonate.stop();
}

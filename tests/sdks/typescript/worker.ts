// The worker around the workflows of either engine of the TypeScript SDK: it does what the test says.

import * as fs from "node:fs";
import * as readline from "node:readline";

/** Tell the test what has happened. */
export function say(event: object): void {
  fs.writeSync(1, JSON.stringify(event) + "\n");
}

/** What a command of the test may ask for, as one engine of the SDK does it. */
export interface Engine {
  run(id: string, workflow: string, args: unknown[]): Promise<unknown>;
  wait(id: string): Promise<unknown>;
  schedule(id: string, cron: string, workflow: string, args: unknown[]): Promise<unknown>;
  unschedule(id: string): Promise<void>;
  stop(): Promise<void>;
}

type Command = { do: string; id: string; function: string; arguments: unknown[]; cron: string };

/** Do what a command says, and return its value, if it has one. */
async function carryOut(engine: Engine, command: Command): Promise<unknown> {
  switch (command.do) {
    case "run":
      return engine.run(command.id, command.function, command.arguments);
    case "wait":
      return engine.wait(command.id);
    case "schedule":
      await engine.schedule(command.id, command.cron, command.function, command.arguments);
      return null;
    case "unschedule":
      return engine.unschedule(command.id);
    default:
      throw new Error(`unknown command ${command.do}`);
  }
}

/** Do what a command says, and say what came of it. */
async function obey(engine: Engine, command: Command): Promise<void> {
  try {
    say({ id: command.id, done: command.do, value: await carryOut(engine, command) });
  } catch (error) {
    say({ id: command.id, done: command.do, error: (error as Error).message ?? String(error) });
  }
}

/** Be a worker until the input ends. */
export async function serve(engine: Engine): Promise<void> {
  say({ event: "ready" });
  for await (const line of readline.createInterface({ input: process.stdin })) {
    void obey(engine, JSON.parse(line) as Command);
  }
  await engine.stop();
}

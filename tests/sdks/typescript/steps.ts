// The steps of the workflows for both engines of the TypeScript SDK: ordinary functions, whichever calls them.

import * as fs from "node:fs";
import { setTimeout as pause } from "node:timers/promises";
import { say } from "./worker.ts";

const GATE_POLL_MS = 20;

/** Append a line to a file that outlives this process; return whether it was not there yet. */
export function note(journal: string, line: string): boolean {
  const isNew = !fs.existsSync(journal) || !fs.readFileSync(journal, "utf8").split("\n").includes(line);
  fs.appendFileSync(journal, line + "\n");
  return isNew;
}

export async function greet(_: unknown, name: string): Promise<string> {
  return `hello, ${name}`;
}

export async function price(_: unknown, item: string): Promise<object> {
  return { price: item.length, by: process.pid };
}

export async function double(_: unknown, number: number): Promise<number> {
  return 2 * number;
}

export async function book(_: unknown, journal: string, what: string): Promise<void> {
  const isFirstAttempt = note(journal, `book ${what}`);
  if (what === "car") throw new Error("no car left");
  if (what === "hotel" && isFirstAttempt) throw new Error("the hotel's line is busy");
}

export async function cancel(_: unknown, journal: string, what: string): Promise<void> {
  note(journal, `cancel ${what}`);
}

export async function refuse(_: unknown, reason: string): Promise<void> {
  throw new Error(reason);
}

export async function sendMail(_: unknown, journal: string): Promise<string> {
  note(journal, "mail sent");
  return "sent";
}

/** What a schedule starts. */
export async function tick(_: unknown, journal: string): Promise<string> {
  note(journal, "tick");
  return "ticked";
}

export async function countPages(_: unknown): Promise<number> {
  say({ event: "counts" });
  return process.pid;
}

export async function printPages(_: unknown, gate: string): Promise<number> {
  say({ event: "prints" });
  while (!fs.existsSync(gate)) await pause(GATE_POLL_MS);
  return process.pid;
}

export async function reach(_: unknown, journal: string, stage: number): Promise<void> {
  note(journal, `stage ${stage}`);
}

/** Steps that are called by name, from elsewhere or by a schedule. */
export const byName = { price, double, send_mail: sendMail, tick };

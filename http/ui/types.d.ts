// The answers of the API that the UI reads, and the few types of its own that several modules share.
// They are for the type checker alone: the server does not serve this file.

type PromiseState = "PENDING" | "RESOLVED" | "REJECTED" | "REJECTED_CANCELED" | "REJECTED_TIMEDOUT";

interface ValueObject {
  headers?: Record<string, string>;
  /** In base64. */
  data?: string;
  /** Of `data`, where only a part of it is given. */
  size?: number;
}

interface PromiseObject {
  id: string;
  state: PromiseState;
  param: ValueObject;
  value: ValueObject;
  timeout: number;
  idempotencyKeyForCreate?: string;
  idempotencyKeyForComplete?: string;
  tags?: Record<string, string>;
  createdOn: number;
  completedOn?: number;
}

interface PromisePage {
  cursor: string | null;
  promises: PromiseObject[];
  looked?: { through: number; of: number; until: number };
}

interface TaskObject {
  id: string;
  kind: "rest" | "envelope" | "function";
  type: string;
  state: string;
  promiseId: string;
  leafPromiseId?: string;
  receiver: string;
  counter: number;
  processId?: string;
  createdOn?: number;
  completedOn?: number;
  timeout: number;
  until?: number;
  notBefore?: number;
  sentCount: number;
  failedCount: number;
  lastError?: string;
  nextTry?: number;
  resumes?: number;
}

interface CallObject {
  id: string;
  parent: string | null;
  depth: number;
  state: PromiseState;
  function?: string;
  createdOn: number;
  completedOn?: number;
  timeout: number;
  tags?: Record<string, string>;
  tasks?: TaskObject[];
  hint?: string;
}

interface TreeObject {
  id: string;
  cut: boolean;
  calls: CallObject[];
}

interface DueObject {
  at: number;
  what: string;
  id: string;
  promiseId?: string;
}

interface CauseObject {
  promiseId: string;
  reason: string;
  since?: number;
  task?: TaskObject;
  group?: string;
  listeners?: number;
  connectedGroups?: string[];
  holderConnected?: boolean;
  heardOn?: number;
  detail?: string;
}

interface WhyObject {
  id: string;
  state: PromiseState;
  sentence: string;
  path: { id: string; how: string }[];
  cause: CauseObject;
  awaits: string[];
  awaitsCount: number;
  next: DueObject | null;
}

interface WaiterObject {
  kind: string;
  id: string;
  promiseId?: string;
  receiver?: string;
  timeout?: number;
  createdOn?: number;
}

interface LockObject {
  resourceId: string;
  executionId: string;
  processId: string;
  ttl: number;
  expiresAt: number;
}

interface QueueObject {
  receiver: string;
  workers: number;
  waiting: number;
  inFlight: number;
  stalled: number;
  oldestOn: number | null;
  rateIn: number | null;
  rateOut: number | null;
  health: string;
  failingSince?: number;
  lastError?: string;
  nextTry?: number;
}

interface WorkerObject {
  group: string;
  id: string;
  protocol: string | null;
  address: string | null;
  since: number | null;
  waiting: number;
  delivered: number;
  leases: number | null;
  slots?: number;
}

interface ScheduleObject {
  id: string;
  description?: string;
  cron: string;
  tags: Record<string, string>;
  promiseId: string;
  promiseTimeout: number;
  promiseParam: ValueObject;
  promiseTags?: Record<string, string>;
  lastRunTime?: number;
  nextRunTime: number;
  pausedOn?: number;
  createdOn: number;
}

interface FailureObject {
  number: number;
  at: number;
  kind: string;
  id: string;
  reason: string;
  about: string;
}

interface SeriesObject {
  name: string;
  unit: string;
  values: (number | null)[];
}

interface StatisticsObject {
  now: number;
  startedOn: number;
  counts: Record<string, Record<string, number>>;
  resolutionMs: number;
  firstAt: number;
  series: SeriesObject[];
}

interface WhoamiObject {
  kind: string;
  name: string;
  account: string | null;
  token: string | null;
  scopes: string[];
  idPrefix: string;
  expiresOn: number | null;
  server: {
    version: string;
    isOpen: boolean;
    inMemory: boolean;
    startedOn: number;
    now: number;
  };
}

/** One of the places of the UI, as a row of the table that makes navigation and routes. */
interface ScreenRow {
  /** What the path begins with, below `/ui/`. */
  path: string;
  title: string;
  icon: string;
  /** What may be read with any of these scopes; empty: always. */
  scopes: string[];
  /** The key after `g`. */
  key?: string;
  group?: "operate";
  load: () => Promise<Record<string, import("./vendor/preact.js").ComponentType<any>>>;
}

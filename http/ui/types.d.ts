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
  function?: string;
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
  /** The trace of the request that created the root; `url` is where to look at it. */
  trace?: { id: string; url?: string };
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
  upkeep: UpkeepObject;
  processes?: ProcessObject[];
}

interface ProcessObject {
  process: number;
  promises: number;
}

interface ClusterObject {
  name: string | null;
  features: number;
  groups: ClusterGroupObject[];
  nodes: ClusterNodeObject[];
}

interface ClusterGroupObject {
  group: number;
  owner: string | null;
  wished: string | null;
  epoch: number;
  lastFrame: number;
  snapshotOn: number | null;
  followers: FollowerObject[];
}

interface FollowerObject {
  node: string;
  behind: number;
  seenOn: number;
}

interface ClusterNodeObject {
  node: string;
  address: string;
  version: string;
  features: number;
  isDrained: boolean;
  seenOn: number;
}

interface UpkeepObject {
  freeBytes: number | null;
  archiveFailing: boolean;
  retentionLateMs: number;
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

interface AccountObject {
  id: string;
  name: string;
  createdOn: number;
  disabled: boolean;
}

interface TokenObject {
  id: string;
  account: string;
  accountName: string;
  name: string;
  scopes: string[];
  idPrefix: string;
  state: "active" | "revoked" | "expired" | "disabled";
  createdOn: number;
  expiresOn: number | null;
  revokedOn: number | null;
  lastUsedOn: number | null;
  /** Until when the text before the last rotation works. */
  oldSecretUntil: number | null;
}

/** An act; its other fields name its subject. */
interface AuditEntryObject {
  [field: string]: string | number | boolean | null;
  time: string;
  act: string;
  outcome: string;
  by: string;
  from: string | null;
  request: string;
}

interface SettingObject {
  name: string;
  value: string;
  default: string;
  source: string;
  secret: boolean;
  help: string;
}

interface SnapshotObject {
  name: string;
  bytes: number;
  createdOn: number | null;
  problem: string | null;
}

interface RetentionObject {
  dryRun: boolean;
  rules: { rule: string; count: number }[];
  waiting: number;
  durationMs: number;
}

interface FunctionRowObject {
  id: string;
  name: string;
  description: string;
  type: "code" | "http";
  lang: "py" | "js" | "";
  paused: boolean;
  tags: { id: string; name: string; color: string }[];
  /** In seconds since 1970, as text. */
  createdAt: string;
}

interface FunctionObject extends FunctionRowObject {
  url?: string;
  buildId?: string;
  capabilities: {
    timeout: number;
    cpuCount: number;
    memSize: number;
    networkLatency: number;
    privileged: boolean;
  };
  metrics: { todaysTasks: number; pendingTasks: number; weekTasks: number; completedTasks: number };
}

interface BuildObject {
  id: string;
  functionId: string;
  status: "PENDING" | "SUCCESS" | "FAILED";
  arch: string[];
  size: number;
  digest: string;
  timeline: { status: string; time: string }[];
  log: string[];
}

interface FunctionTaskRowObject {
  id: string;
  issued: string;
  progress: number;
  /** The HTTP status of its result; 0 before. */
  status: number;
}

interface FunctionTaskObject {
  functionId: string;
  issued: string;
  assigned: string;
  finished: string;
  progress: number;
  node: string;
  timeout: number;
}

interface NodeObject {
  available: boolean;
  description: string;
  disabled: boolean;
  hash: string;
  draining: boolean;
  slots: number;
  running: number;
  languages: string[];
}

interface UsageObject {
  pendingTasks: number;
  pendingBuilds: number;
  activeNodes: number;
  freeNodes: number;
  busyNodes: number;
  todayTasks: number;
  completedTasks: number;
  waitingTasks: number;
  oldestWaitingSeconds: number;
}

interface BulkJobObject {
  id: string;
  state: "running" | "finished" | "stopped" | "failed";
  subject: "promises" | "tasks" | "schedules";
  action: string;
  filter: Record<string, string>;
  dryRun: boolean;
  ratePerSecond: number;
  by: string;
  createdOn: number;
  endedOn?: number;
  /** Null until they are counted. */
  total: number | null;
  done: number;
  failed: number;
  skipped: Record<string, number>;
  left: number | null;
  rate: number;
  examples?: string[];
  problem?: string;
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
  /** What shows one thing of the screen, where an id follows the path, if that is another module. */
  loadOne?: ScreenRow["load"];
}

/**
 * One event stream for all that listen: what they want is put together, and each is told everything.
 *
 * While no tab is visible, there is no stream. A stream that is lost is opened again after 1, 2, 4 … 30
 * seconds. When other things are wanted, the stream before ends only when the next one is open: what
 * both have is told without a gap. Each listener is told when a stream is open that has what it wants. The server allows 50 watched ids a stream; the tab that asked last comes first.
 */

const WATCHED_LIMIT_COUNT = 50;
/** An address may have 32 KiB; ids may be long. */
const WATCHED_LIMIT_CHARACTERS = 8_000;
const FIRST_WAIT_MS = 1_000;
const LONGEST_WAIT_MS = 30_000;
const GATHER_MS = 50;
const EVENTS = ["counters", "queues", "failures", "changed"];

/** @typedef {{topics: string[], watch: string[], number: number}} Wish A listener counts its wishes. */
/** @typedef {{type: string, data: any}} Message */

/**
 * Returns as many ids as one stream may watch. Those of function tasks are not watched.
 *
 * @param {string[]} ids
 */
function watchable(ids) {
  let left = WATCHED_LIMIT_CHARACTERS;
  return ids
    .filter((id) => !id.startsWith("troth:") && (left -= encodeURIComponent(id).length) >= 0)
    .slice(0, WATCHED_LIMIT_COUNT)
    .sort();
}

export class Stream {
  /** @param {URL} address Of the feed. */
  constructor(address) {
    this.address = address;
    /** What each listener wants, the latest first. @type {Map<(message: Message) => void, Wish>} */
    this.wishes = new Map();
    /** @type {EventSource | null} */
    this.source = null;
    /** Streams that end when `source` is open. @type {EventSource[]} */
    this.former = [];
    /** The numbers of the wishes that `source` has. @type {Map<(message: Message) => void, number>} */
    this.served = new Map();
    this.opened = "";
    this.waitMs = FIRST_WAIT_MS;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
  }

  /**
   * Sets what a listener wants; null: nothing any more.
   *
   * @param {(message: Message) => void} listener
   * @param {Wish | null} wish
   */
  want(listener, wish) {
    this.wishes.delete(listener);
    if (wish !== null) this.wishes = new Map([[listener, wish], ...this.wishes]);
    // A tab that goes from one list to another says so twice: one stream is enough.
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.open(), GATHER_MS);
  }

  open() {
    const wishes = [...this.wishes.values()];
    const topics = [...new Set(wishes.flatMap((wish) => wish.topics))].sort();
    const watched = watchable([...new Set(wishes.flatMap((wish) => wish.watch))]);
    const url = new URL(this.address);
    if (topics.length > 0) url.searchParams.set("topics", topics.join(","));
    for (const id of watched) url.searchParams.append("watch", id);
    const isNeeded = topics.length > 0 || watched.length > 0;
    const source = this.source;
    const before = this.served;
    this.served = new Map([...this.wishes].map(([listener, { number }]) => [listener, number]));
    if (isNeeded && source !== null && source.readyState !== EventSource.CLOSED && url.href === this.opened) {
      if (source.readyState !== EventSource.OPEN) return;
      for (const [listener, number] of this.served) {
        if (before.get(listener) !== number) listener({ type: "open", data: { number, topics } });
      }
      return;
    }
    if (source !== null) this.former.push(source);
    this.source = null;
    this.opened = url.href;
    if (isNeeded) this.connect(url, topics);
    else this.endFormer();
  }

  endFormer() {
    for (const source of this.former) source.close();
    this.former = [];
  }

  /**
   * @param {URL} url
   * @param {string[]} topics
   */
  connect(url, topics) {
    const source = new EventSource(url);
    this.source = source;
    source.onopen = () => {
      if (source !== this.source) return;
      this.waitMs = FIRST_WAIT_MS;
      this.endFormer();
      for (const [listener, number] of this.served) listener({ type: "open", data: { number, topics } });
    };
    source.onerror = () => this.lose(source);
    for (const type of EVENTS) {
      source.addEventListener(type, (event) => this.tell({ type, data: JSON.parse(event.data) }));
    }
  }

  /** @param {EventSource} source */
  lose(source) {
    if (source !== this.source) return;
    // The browser would try again by a rule of its own, and never after a refusal.
    source.close();
    this.source = null;
    this.endFormer();
    this.tell({ type: "lost", data: null });
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.open(), this.waitMs);
    this.waitMs = Math.min(this.waitMs * 2, LONGEST_WAIT_MS);
  }

  /** @param {Message} message */
  tell(message) {
    for (const listener of this.wishes.keys()) listener(message);
  }
}

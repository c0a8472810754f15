"""The bug catalogue: what other systems got wrong, word by word as `field.md` lists it.

Each entry is proven by the tests whose docstring begins with it in double quotes.
"""

ENTRIES = (
    "fsync EIO (once, then success)",
    "write short/torn at every byte of the last record",
    "ENOSPC mid-group-commit",
    "lost rename / missing directory fsync",
    "bit flip in WAL, snapshot, LMDB page",
    "crash between snapshot publish and log trim",
    "WAL truncated before snapshot is durable",
    "clock back 1 h / forward 1 y / DST switch / leap day for cron",
    "timer due during downtime",
    "two timers same instant order",
    "schedule slot fired twice (crash between create and advance)",
    "catch-up storm (1 year of minutes)",
    "ack lost, client retries (same ikey, other payload)",
    "complete vs timeout race at the same ms",
    "heartbeat late by one tick, old holder completes after re-lease",
    "callback registered while settling",
    "subscription to a promise settled in between",
    "outbox delivered, delivery mark lost (duplicate push)",
    "push target hangs / 500s / redirects",
    "poller disconnects with a message in flight",
    "slow consumer fills buffers",
    "stale shard owner writes after takeover (must be fenced)",
    '"done but timed out" from the log',
    "reordering and duplication of messages",
    "GC racing a late retry with the same id",
    "restore of an old backup while a newer owner lives",
    "function swaps a folder for a link while root empties it",
    "data directory deleted or replaced under a running server",
    "the log fails while health checks are being answered",
    "SIGHUP, and standard descriptors that are closed",
    "any name that resolves to loopback may read and write the open server",
    "a proxy on the same machine makes the world local",
)

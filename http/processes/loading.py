"""What a program does that waits for its seat and has nothing else to do: a spare process.

All of it would be done later, too: when the server starts, or soon after. So a spare process has
the files of one version, even if those of another are installed while it waits.
"""

import gc
import importlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final

import structlog

from troth.http.outgoing.connections import usual_trust
from troth.http.settings.settings import Settings
from troth.http.sockets.slow_side import MODULES
from troth.http.web.ui_files import read_ui

_STREAMS: Final = ("troth.shards.streams.stream_opening", "troth.shards.streams.stream_upkeep")
_POSTGRES: Final = (
    *_STREAMS,
    "troth.persistence.streams.postgres_cluster",
    "troth.persistence.streams.postgres_keeping",
    "troth.persistence.streams.postgres_stream",
)
_NATS: Final = (
    *_STREAMS,
    "troth.persistence.streams.jetstream_cluster",
    "troth.shards.streams.nats_opening",
)

_log = structlog.get_logger("troth.processes")


def load_ahead(
    settings: Settings, make_pages: Callable[[Settings], None] = lambda _: None
) -> Iterator[Callable[[], None]]:
    """Yield the parts, in the order in which they are needed. Each takes 0.1 s at most.

    What fails is logged, and done again when it is needed.
    """
    parts: list[Callable[[], object]] = [usual_trust]
    if settings.ui:
        parts.append(partial(read_ui, settings.base_path))
    parts.append(partial(make_pages, settings))
    names = [*_engine_modules(settings), *MODULES]
    parts += [partial(importlib.import_module, name) for name in names]
    parts.append(_settle)
    for part in parts:
        yield partial(_try, part)


def _engine_modules(settings: Settings) -> Sequence[str]:
    """Return what a server needs whose log is in an engine."""
    if settings.log is None:
        return ()
    # Only here: other servers need none of it.
    from troth.shards.streams.stream_opening import POSTGRES_SCHEME

    return _POSTGRES if settings.log.startswith(POSTGRES_SCHEME) else _NATS


def _try(part: Callable[[], object]) -> None:
    try:
        part()
    except (ImportError, OSError, MemoryError) as error:
        _log.warning("a part of the server could not be loaded yet", reason=str(error))


def _settle() -> None:
    """Leave all that is there out of the collector's looks: it stays."""
    gc.collect()
    gc.freeze()

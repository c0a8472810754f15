"""`/metrics`: all groups of metrics, read from their sources and written as text.

A scrape works in slices and yields to the loop in between; a request that comes during a scrape
gets the same text. It reads what is counted anyway: it never goes through promises or tasks.
"""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final, final

import trio

from troth.shards.surveys.first_comers import FirstComers
from troth.shards.surveys.pace import Pace

from .families import Group, Source
from .requests import REQUESTS, AnsweredRequests
from .text import write, write_head

TEXT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
OPEN_METRICS_TYPE: Final = b"application/openmetrics-text; version=1.0.0; charset=utf-8"
END: Final = b"# EOF\n"


@final
class Metrics:
    """The metrics of one server: the groups that were added, and those of the process."""

    def __init__(self) -> None:
        """Begin with the metrics of requests."""
        self.requests = AnsweredRequests()
        self.count: Final = self.requests.count
        self._sources: list[tuple[Group[Any], Callable[[], Any]]] = []
        self._labels: dict[str, FirstComers] = {}
        self._under_way: dict[tuple[bool, bool], _Scrape] = {}
        self.add(REQUESTS, lambda: self.requests)

    def add(
        self,
        group: Group[Source],
        read: Callable[[], Source] | Callable[[], Awaitable[Source]],
    ) -> None:
        """Add a group and the function that reads its source; it may be async, to rest at times."""
        self._sources.append((group, read))

    async def render(self, *, names_accounts: bool, is_open: bool = False) -> bytes:
        """Return the text of all metrics, in OpenMetrics format if `is_open`.

        Series that name accounts are included only if `names_accounts`.
        """
        key = names_accounts, is_open
        scrape = self._under_way.get(key)
        if scrape is None:
            scrape = self._under_way[key] = _Scrape()
            try:
                scrape.text = await self._render(names_accounts=names_accounts, is_open=is_open)
            finally:
                del self._under_way[key]
                scrape.done.set()
        else:
            await scrape.done.wait()
            if scrape.text is None:  # its client left; this one scrapes
                return await self.render(names_accounts=names_accounts, is_open=is_open)
        assert scrape.text is not None, "it has been rendered"
        return scrape.text

    async def _render(self, *, names_accounts: bool, is_open: bool) -> bytes:
        # The first scrape needs it, and it is loaded by then: see `slow_side.py`.
        from .of_process import text_of_process

        pace = Pace()
        parts = [text_of_process(is_open=is_open).removesuffix(END)]
        await pace.rest()
        for group, read in self._sources:
            source = read()
            if inspect.isawaitable(source):
                source = await source
            for family in group.families:
                if names_accounts or not family.names_accounts:
                    labels = self._labels.setdefault(family.name, FirstComers())
                    parts.append(write_head(family, is_open=is_open).encode())
                    for part in group.parts(source):
                        text = write(family, family.rows(part, labels), is_open=is_open)
                        parts.append(text.encode())
                        await pace.rest()
        return b"".join(parts) + (END if is_open else b"")


class _Scrape:
    """A scrape under way, and its text when it is done."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.text: bytes | None = None

"""`/metrics` of a server of several processes: the one that is asked collects from all.

Each series has a label `process`, and `troth_process_up` says which processes have answered. One
that has not within `COLLECT_LIMIT_MS` is left out, so a process that is down or hangs does not hide
the others. Each process writes its own text and adds its label; here the lines of a metric are put
together, since the format wants them in one place.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final, final

from msgspec import Struct

from troth.shards.errors import ShardsError
from troth.shards.mesh.calls import ProcessCall, ProcessCalls
from troth.shards.surveys.pace import Pace

from .families import Group, gauge
from .metrics import END, Metrics
from .text import write, write_head

COLLECT_LIMIT_MS: Final = 1_000
"""How long a scrape waits for other processes."""

PROCESSES: Final[Group[Mapping[str, float]]] = Group(
    "Processes",
    (
        gauge(
            "troth_process_up",
            "1 for each process of the server that answers, 0 for one that does not, whose other "
            "metrics are missing then. Only with several processes (`--processes`); all other "
            "metrics have the label `process` too then: add them up with `sum without (process)`.",
            lambda up: up,
            "process",
        ),
    ),
)

_BLOCK: Final = b"# HELP "
_BEGINNING: Final = re.compile(b"^" + _BLOCK, re.MULTILINE)
_LABELED: Final = re.compile(rb"^(\w+)\{", re.MULTILINE)
_PLAIN: Final = re.compile(rb"^(\w+) ", re.MULTILINE)


class ScrapeAsked(Struct, frozen=True, array_like=True):
    """Which text is wanted; see `Metrics.render`."""

    names_accounts: bool
    is_open: bool


class FamilyText(Struct, array_like=True):
    """One metric as text: what is said once about it, and its lines."""

    head: bytes
    lines: bytes


SCRAPE: Final = ProcessCall("scrape", ScrapeAsked, list[FamilyText])


@final
class MetricsOfAll:
    """The metrics of all processes of a server; `metrics` are those of this one."""

    def __init__(self, calls: ProcessCalls, metrics: Metrics) -> None:
        self._calls = calls
        self._metrics = metrics
        calls.handle(SCRAPE, self._scraped)

    async def render(self, *, names_accounts: bool, is_open: bool = False) -> bytes:
        """Return the text of all metrics of all processes; see `Metrics.render`."""
        calls = self._calls
        asked = ScrapeAsked(names_accounts, is_open)
        found = await calls.call_all(
            SCRAPE, asked, processes=calls.others, wait_ms=0, limit_ms=COLLECT_LIMIT_MS
        )
        found[calls.own] = await self._scraped(calls.own, asked)
        up: dict[tuple[str, ...], float] = {}
        texts = []
        for process in sorted(found):
            text = found[process]
            up[str(process),] = float(not isinstance(text, ShardsError))
            if not isinstance(text, ShardsError):
                texts.append(text)
        (family,) = PROCESSES.families
        said = write_head(family, is_open=is_open) + write(family, up, is_open=is_open)
        return b"".join((said.encode(), *await _joined(texts))) + (END if is_open else b"")

    async def _scraped(self, _process: int, asked: ScrapeAsked) -> list[FamilyText]:
        text = await self._metrics.render(
            names_accounts=asked.names_accounts, is_open=asked.is_open
        )
        return await labeled(text, self._calls.own)


async def labeled(text: bytes, process: int) -> list[FamilyText]:
    """Return a text of metrics, each apart, with the number of a process as a label."""
    pace = Pace()
    found = []
    of_labeled = rb'\1{process="%d",' % process
    of_plain = rb'\1{process="%d"} ' % process
    for block in _BEGINNING.split(text.removesuffix(END))[1:]:
        head_end = block.find(b"\n") + 1
        while block.startswith(b"#", head_end):
            head_end = block.find(b"\n", head_end) + 1
        lines = _PLAIN.sub(of_plain, _LABELED.sub(of_labeled, block[head_end:]))
        found.append(FamilyText(_BLOCK + block[:head_end], lines))
        await pace.rest()
    return found


async def _joined(texts: Sequence[list[FamilyText]]) -> list[bytes]:
    """Return the parts of one text, with the lines of each metric together."""
    pace = Pace()
    together: dict[bytes, list[bytes]] = {}
    for text in texts:
        for one in text:
            together.setdefault(one.head, [one.head]).append(one.lines)
        await pace.rest()
    return [b"".join(parts) for parts in together.values()]

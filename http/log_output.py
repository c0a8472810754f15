"""Where log lines go and what they look like. `configure_logging` sets it up once, for everything.

The server logs with `structlog.get_logger()`: an event in plain words and named values. Libraries
log with the standard `logging`; both end in the same place. Rules of this file:

- All output goes to stderr, as one line for people (`console`; a traceback adds lines) or as one
  JSON object a line (`json`). Colors appear only on a terminal.
- What clients store or prove themselves with is never written: values named like a payload or a
  secret are withheld at every depth, bytes are only counted, and user names and passwords are cut
  out of URLs.
- A client cannot forge a line or reach the terminal: control characters are escaped.
- A value has a limited length and depth.
"""

import contextlib
import json
import logging
import re
import sys
from collections.abc import Mapping
from typing import Final, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

TEXT_LIMIT_CHARACTERS: Final = 2_000
"""Longest text of one value. Tracebacks and what programs print may be ten times as long, and
their ends are kept: the reason comes last."""

_DEPTH_LIMIT_COUNT: Final = 4
_ITEMS_LIMIT_COUNT: Final = 50

# Named so, a value is what a program has printed.
_PRINTED_NAMES: Final = frozenset({"output", "printed"})

# Named so, a value is what a client has stored, or a whole request or answer.
_PAYLOAD_NAMES: Final = frozenset(
    {"body", "content", "data", "headers", "param", "payload", "tags", "value"}
)
_SECRET_NAME: Final = re.compile(
    r"auth|cookie|credential|passw|secret|token|api_?key", re.IGNORECASE
)
_URL_USER: Final = re.compile(r"(?<=://)[^/\s?#]*@")
# All that could move a terminal's cursor or end a line, including the C1 and line separators.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROL_BUT_NEWLINE: Final = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")

# At "info" these write a line for each request they send or frame they read.
_TALKATIVE: Final = ("h11", "h2", "hpack", "httpcore", "httpx")

_FIRST_KEYS: Final = ("timestamp", "level", "logger", "event")


class _Output(logging.StreamHandler[TextIO]):
    """The one handler of ours, told from others so that a second set-up replaces only it."""


def configure_logging(
    level: str, log_format: str, stream: TextIO | None = None, process: int | None = None
) -> None:
    """Send all log events of at least `level` (`debug`, `info`, …) to `stream` (None: stderr).

    Those of one process of several say which it is.
    `log_format` is `console` or `json`. May be called again; the last call counts.
    """
    assert log_format in {"console", "json"}, log_format
    output_stream = sys.stderr if stream is None else stream
    level_number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        *([] if process is None else [_named(process)]),
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _make_safe,
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _json_line if log_format == "json" else _console_line(output_stream),
        ],
    )
    handler = _Output(output_stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in [known for known in root.handlers if isinstance(known, _Output)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level_number)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(level_number, logging.WARNING))
    logging.captureWarnings(True)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level_number),
    )


def _named(process: int) -> Processor:
    def add_process(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["process"] = process
        return event

    return add_process


def say_failed(problem: str, log_format: str) -> None:
    """Say in one line for an operator why the server has ended."""
    if log_format == "json":
        structlog.get_logger("troth.serve").error("the server has failed", problem=problem)
    else:
        with contextlib.suppress(OSError):  # the terminal may be gone
            print(f"troth: {problem}", file=sys.stderr)


def _console_line(stream: TextIO) -> Processor:
    return structlog.dev.ConsoleRenderer(
        colors=stream.isatty(),
        # The default would print the values of local variables, and payloads are among them.
        exception_formatter=structlog.dev.plain_traceback,
    )


def _json_line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    ordered = {key: event.pop(key) for key in _FIRST_KEYS if key in event}
    return json.dumps({**ordered, **event})


def _make_safe(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Withhold, shorten and escape what an event holds. Leaves structlog's own keys alone."""
    return {
        key: value if key.startswith("_") else _safe_item(key, value, _DEPTH_LIMIT_COUNT)
        for key, value in event.items()
    }


def _safe_item(key: str, value: object, depth: int) -> object:
    if key == "exception":
        text = _URL_USER.sub("…@", str(value))[-10 * TEXT_LIMIT_CHARACTERS :]
        return _CONTROL_BUT_NEWLINE.sub(_escaped, text)
    if key in _PRINTED_NAMES:
        text = _URL_USER.sub("…@", str(value))
        limit = 10 * TEXT_LIMIT_CHARACTERS
        if len(text) > limit:
            text = f"({len(text)} characters) …{text[-limit:]}"
        return _CONTROL.sub(_escaped, text)
    if key in _PAYLOAD_NAMES or _SECRET_NAME.search(key):
        return "(withheld)"
    return _safe(value, depth)


def _safe(value: object, depth: int) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        # JSON has no infinity and no not-a-number.
        return value if value - value == 0 else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"({len(value)} bytes)"
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        if depth == 0 or len(value) > _ITEMS_LIMIT_COUNT:
            return f"({len(value)} items)"
        if isinstance(value, Mapping):
            return {
                str(_safe(str(key), 0)): _safe_item(str(key), item, depth - 1)
                for key, item in value.items()
            }
        return [_safe(item, depth - 1) for item in value]
    text = _URL_USER.sub("…@", str(value))
    if len(text) > TEXT_LIMIT_CHARACTERS:
        text = f"{text[:TEXT_LIMIT_CHARACTERS]}… ({len(text)} characters)"
    return _CONTROL.sub(_escaped, text)


def _escaped(character: re.Match[str]) -> str:
    return character[0].encode("unicode_escape").decode("ascii")

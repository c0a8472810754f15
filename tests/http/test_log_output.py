"""The log: both formats, one way out for everybody, and nothing in it that should not be."""

import io
import json
import logging
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from troth.http.log_output import TEXT_LIMIT_CHARACTERS, configure_logging


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def logged_text(log_format: str, write: Callable[[], object], level: str = "info") -> str:
    stream = io.StringIO()
    configure_logging(level, log_format, stream)
    write()
    return stream.getvalue()


def logged(write: Callable[[], object], level: str = "info") -> list[dict[str, Any]]:
    return [json.loads(line) for line in logged_text("json", write, level).splitlines()]


def test_json_is_one_object_a_line_in_a_fixed_order() -> None:
    log = structlog.get_logger("troth.http.node")

    [entry] = logged(lambda: log.info("listening", address="127.0.0.1:8001", port=8001))

    assert list(entry) == ["timestamp", "level", "logger", "event", "address", "port"]
    assert entry["timestamp"].endswith("Z")
    assert entry["level"] == "info"
    assert entry["logger"] == "troth.http.node"
    assert entry["event"] == "listening"
    assert entry["port"] == 8001


def test_the_standard_library_goes_the_same_way() -> None:
    [entry] = logged(lambda: logging.getLogger("quart.app").warning("slow by %d ms", 12))

    assert entry["logger"] == "quart.app"
    assert entry["level"] == "warning"
    assert entry["event"] == "slow by 12 ms"


def test_python_warnings_go_the_same_way() -> None:
    def write() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            # Captured again, as leaving an earlier catch_warnings may have undone it.
            logging.captureWarnings(False)
            logging.captureWarnings(True)
            warnings.warn("old ways", DeprecationWarning, stacklevel=1)

    [entry] = logged(write)

    assert entry["logger"] == "py.warnings"
    assert "old ways" in entry["event"]


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
@pytest.mark.parametrize("get_logger", [structlog.get_logger, logging.getLogger])
def test_less_important_events_are_left_out(
    level: str, expected: list[str], get_logger: Callable[[str], Any]
) -> None:
    def write() -> None:
        log = get_logger("troth")
        for name in ("debug", "info", "warning", "error"):
            getattr(log, name)("event")

    assert [entry["level"] for entry in logged(write, level)] == expected


def test_talkative_libraries_are_heard_from_warning_on() -> None:
    def write() -> None:
        logging.getLogger("httpx").info("HTTP Request: POST http://example.com/?token=1")
        logging.getLogger("httpx").warning("odd")

    assert [entry["event"] for entry in logged(write, "debug")] == ["odd"]


def test_the_last_set_up_counts_and_other_handlers_stay() -> None:
    other = logging.NullHandler()
    logging.getLogger().addHandler(other)
    first, second = io.StringIO(), io.StringIO()
    configure_logging("info", "json", first)
    configure_logging("info", "json", second)

    structlog.get_logger().info("once")

    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1
    assert other in logging.getLogger().handlers


@pytest.mark.parametrize(("stream", "coloured"), [(Terminal(), True), (io.StringIO(), False)])
def test_colours_appear_only_on_a_terminal(stream: io.StringIO, coloured: bool) -> None:
    configure_logging("info", "console", stream)

    structlog.get_logger().info("listening", port=8001)

    assert ("\x1b[" in stream.getvalue()) is coloured
    assert "listening" in stream.getvalue()
    assert stream.getvalue().count("\n") == 1


def test_stderr_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", "json")

    structlog.get_logger().info("hello")

    output = capsys.readouterr()
    assert output.out == ""
    assert json.loads(output.err)["event"] == "hello"


def fail() -> None:
    hunter = "hunter" + "2"
    raise ValueError(f"of {len(hunter)} characters\x1b[2J")


@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize("get_logger", [structlog.get_logger, logging.getLogger])
def test_a_traceback_shows_no_local_variables(
    log_format: str, get_logger: Callable[[str], Any]
) -> None:
    def write() -> None:
        try:
            fail()
        except ValueError:
            get_logger("troth").exception("failed")

    text = logged_text(log_format, write)

    assert "ValueError: of 7 characters" in text
    assert "hunter2" not in text
    assert "\x1b" not in text
    if log_format == "json":
        assert text.count("\n") == 1


@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize(
    "values",
    [
        {"password": "hunter2"},
        {"Authorization": "Basic hunter2"},
        {"access_token": "hunter2"},
        {"basic_auth": {"ada": "hunter2"}},
        {"body": "hunter2"},
        {"param": {"data": "hunter2"}},
        {"request": {"headers": {"a": "hunter2"}, "deeper": [{"secret": "hunter2"}]}},
        {"received": b"hunter2"},
        {"url": "https://ada:hunter2@example.com/hook"},
        {"error": ValueError("cannot reach http://hunter2@example.com")},
        {"deep": {"a": {"b": {"c": {"d": {"e": "hunter2"}}}}}},
    ],
)
def test_payloads_and_secrets_are_withheld(log_format: str, values: dict[str, object]) -> None:
    text = logged_text(log_format, lambda: structlog.get_logger().info("event", **values))

    assert "event" in text
    assert "hunter2" not in text


def test_what_is_withheld_is_said() -> None:
    [entry] = logged(
        lambda: structlog.get_logger().info(
            "event", body="x", received=b"1234", url="http://a:b@c/d", many=list(range(51))
        )
    )

    assert entry["body"] == "(withheld)"
    assert entry["received"] == "(4 bytes)"
    assert entry["url"] == "http://…@c/d"
    assert entry["many"] == "(51 items)"


def test_a_long_text_is_shortened() -> None:
    length = TEXT_LIMIT_CHARACTERS + 1
    [entry] = logged(lambda: structlog.get_logger().info("event", reason="x" * length))

    assert entry["reason"] == "x" * TEXT_LIMIT_CHARACTERS + f"… ({length} characters)"


def test_of_what_a_program_printed_the_end_is_kept_on_one_line() -> None:
    printed = "x" * 10 * TEXT_LIMIT_CHARACTERS + "\nthe reason"
    [entry] = logged(lambda: structlog.get_logger().info("event", output=printed))

    assert entry["output"].startswith(f"({len(printed)} characters) …")
    assert entry["output"].endswith("x\\nthe reason")


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_client_cannot_forge_a_line(log_format: str) -> None:
    forged = "a\n2026-01-01 [error] forged\r\x1b[2J\x9b\u2028"

    def write() -> None:
        structlog.get_logger().info(forged, promise=forged, more={forged: [forged]})
        logging.getLogger("quart.app").error("path %s", forged)

    text = logged_text(log_format, write)

    assert len(text.splitlines()) == 2
    assert not {"\r", "\x1b", "\x9b"} & set(text)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.binary(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)


@given(value=VALUES)
def test_any_value_can_be_logged_as_json(value: object) -> None:
    [entry] = logged(lambda: structlog.get_logger().info("event", some=value))

    assert entry["event"] == "event"
    assert "some" in entry

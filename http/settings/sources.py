"""Where settings come from: the TOML file, the environment and the command line; and what to show.

Which settings there are, and what each may be, is in `settings.py`; everything here is derived
from that. What this module promises:

- A later source wins, value by value: defaults, TOML file, environment (`TROTH_<NAME>`), flags.
- Whatever is given and not understood is an error that names its source, the key, what was given
  and what is allowed. So is a key that does not exist: a misspelt limit must not pass unnoticed.
- Passwords and addresses of receivers never appear in an error or in `describe()`.
"""

import difflib
import functools
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

import click

from .kinds import SettingKind, SettingRefused, Switch
from .log_kinds import NATS_SCHEMES
from .settings import Settings

Result = TypeVar("Result")

DEFAULT_CONFIG_PATH: Final = Path("troth.toml")
"""The file that is read when none is named and it exists."""

ENVIRONMENT_PREFIX: Final = "TROTH_"
_CONFIG_VARIABLE: Final = "TROTH_CONFIG"
# Kubernetes and Docker give these to every neighbor of a service that is named "troth" or
# "troth-something": SERVICE_HOST, SERVICE_PORT and SERVICE_PORT_NAME, PORT (a URL like
# tcp://10.0.0.1:8001), PORT_8001_TCP and PORT_8001_TCP_ADDR; Docker's links give NAME too.
_FOREIGN_VARIABLE: Final = re.compile(
    r"TROTH_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_\w+)?)"
    r"|TROTH_(PORT|NAME)"
)
_FOREIGN_URL_VARIABLE: Final = re.compile(r"TROTH_\w+_PORT")
_FOREIGN_URL: Final = re.compile(r"(tcp|udp|sctp)://.*")


class SettingsError(ValueError):
    """A setting that cannot be used. `str()` is one line for the operator."""

    def __init__(
        self, source: str, key: str, given: str, allowed: str, problem: str | None = None
    ) -> None:
        """Say where (`source`), which setting (`key`), what was given, what is allowed.

        `problem` replaces the words for the last two.
        """
        super().__init__(f"{source}: {key}: {problem or f'must be {allowed} (got {given})'}")
        self.source = source
        self.key = key
        self.given = given
        self.allowed = allowed


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting, as documentation and pages show it. All are texts; nothing secret is in them."""

    name: str
    flag: str
    environment_variable: str
    allowed: str
    default: str
    help: str
    value: str
    source: str
    secret: bool


_FIELDS: Final[Mapping[str, Field[Any]]] = MappingProxyType(
    {entry.name: entry for entry in fields(Settings) if "kind" in entry.metadata}
)
_DEFAULTS: Final = Settings()


def load(
    config_path: Path | None, environment: Mapping[str, str], flags: Mapping[str, object]
) -> Settings:
    """Read all sources and check everything.

    `config_path` None means the file that `TROTH_CONFIG` names, else `./troth.toml` if it exists.
    `flags` holds the command line: setting name to text, True or False; None means not given.
    Raises `SettingsError` for the first thing that cannot be used.
    """
    if config_path is None and environment.get(_CONFIG_VARIABLE):
        config_path = Path(environment[_CONFIG_VARIABLE])
    if config_path is None and DEFAULT_CONFIG_PATH.exists():
        config_path = DEFAULT_CONFIG_PATH

    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name, value, source in (
        *(_from_file(config_path) if config_path is not None else ()),
        *_from_environment(environment),
        *_from_flags(flags),
    ):
        values[name] = value
        sources[name] = source
    settings = Settings(**values, sources=MappingProxyType(sources))
    _check_together(settings)
    return settings


def describe(settings: Settings = _DEFAULTS) -> list[SettingRow]:
    """Return every setting with its documentation and value, in the class's order."""
    return [
        SettingRow(
            name=name,
            flag=_flag(name),
            environment_variable=ENVIRONMENT_PREFIX + name.upper(),
            allowed=kind.allowed,
            default=kind.show(getattr(_DEFAULTS, name)),
            help=_FIELDS[name].metadata["help"],
            value=kind.show(getattr(settings, name)),
            source=settings.sources.get(name, "default"),
            secret=kind.secret,
        )
        for name, kind in _kinds()
    ]


def settings_options(command: Callable[..., Result]) -> Callable[..., Result]:
    """Give a click command `--config` and one option for each setting.

    The command is called with `settings: Settings` in place of them. A `SettingsError` ends the
    command with its message and exit status 2, as click does for a wrong option.
    """

    @functools.wraps(command)
    def with_settings(config: Path | None, **arguments: object) -> Result:
        flags = {name: arguments.pop(name) for name in _FIELDS}
        try:
            settings = load(config, os.environ, flags)
        except SettingsError as error:
            raise click.UsageError(str(error)) from error
        return command(settings=settings, **arguments)

    decorated: Callable[..., Result] = with_settings
    # click lists options in the opposite order of their decorators.
    for row in reversed(describe()):
        decorated = _option(row)(decorated)
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=f"TOML file with settings [default: {DEFAULT_CONFIG_PATH} if there is one].",
    )(decorated)


def _option(row: SettingRow) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    kind = _kind(row.name)
    shown_help = f"{row.help} [default: {row.default}]"
    if isinstance(kind, Switch):
        return click.option(
            f"{row.flag}/--no-{row.flag[2:]}", row.name, default=None, help=shown_help
        )
    # Read as text, so that every source is checked by the same code, with the same messages.
    return click.option(row.flag, row.name, type=str, metavar=kind.placeholder, help=shown_help)


def _from_file(path: Path) -> Iterable[tuple[str, object, str]]:
    source = f"file {path}"
    try:
        document = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        reason = f"a file that cannot be read ({error.strerror})"
        raise SettingsError(source, "--config", reason, "the path of a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        reason = f"text that is not TOML ({error})"
        raise SettingsError(source, "--config", reason, "a file in TOML, UTF-8") from error
    for name, given in document.items():
        if name not in _FIELDS:
            raise _unknown(source, name, _FIELDS)
        yield name, _read(source, name, name, given, _kind(name).from_toml), source


def _from_environment(environment: Mapping[str, str]) -> Iterable[tuple[str, object, str]]:
    names = {ENVIRONMENT_PREFIX + name.upper(): name for name in _FIELDS}
    for variable, text in sorted(environment.items()):
        if variable in names:
            name = names[variable]
            value = _read("environment", variable, name, text, _kind(name).from_text)
            yield name, value, f"environment variable {variable}"
        elif (
            variable.startswith(ENVIRONMENT_PREFIX)
            and variable != _CONFIG_VARIABLE
            and not _is_foreign(variable, text)
        ):
            raise _unknown("environment", variable, (*names, _CONFIG_VARIABLE))


def _is_foreign(variable: str, text: str) -> bool:
    """Return whether a variable is one that an orchestrator sets, and no misspelled setting."""
    if _FOREIGN_VARIABLE.fullmatch(variable) is not None:
        return True
    is_port = _FOREIGN_URL_VARIABLE.fullmatch(variable) is not None
    return is_port and _FOREIGN_URL.fullmatch(text) is not None


def _from_flags(flags: Mapping[str, object]) -> Iterable[tuple[str, object, str]]:
    for name, given in flags.items():
        if name not in _FIELDS:
            raise _unknown("command line", name, _FIELDS)
        if given is None:
            continue
        kind = _kind(name)
        read = kind.from_toml if isinstance(given, bool) else kind.from_text
        value = _read("command line", _flag(name), name, given, read)
        yield name, value, f"option {_flag(name)}"


def _read(source: str, key: str, name: str, given: Any, read: Callable[[Any], object]) -> object:
    try:
        return read(given)
    except SettingRefused as refusal:
        shown = "something (not shown)" if _kind(name).secret else repr(given)
        raise SettingsError(source, key, shown, str(refusal)) from refusal


def _unknown(source: str, key: str, known: Iterable[str]) -> SettingsError:
    # Without the prefix that all variables share, or every name would look close to every other.
    names = {name.removeprefix(ENVIRONMENT_PREFIX): name for name in known}
    matches = difflib.get_close_matches(key.removeprefix(ENVIRONMENT_PREFIX), names, n=1)
    close = [names[match] for match in matches]
    hint = f"; did you mean {close[0]}?" if close else "; `troth serve --help` lists all"
    return SettingsError(source, key, key, "the name of a setting", f"is not a setting{hint}")


_TOGETHER: Final = (
    ("mesh_listen", "cluster"),
    ("mesh_listen", "cluster_secret_file"),
    ("cluster_secret_file", "mesh_listen"),
    ("mesh_tls_cert", "mesh_listen"),
    ("mesh_tls_cert", "mesh_tls_key"),
    ("mesh_tls_key", "mesh_tls_ca"),
    ("mesh_tls_ca", "mesh_tls_cert"),
)
"""Settings that say nothing without another one."""


def _check_together(settings: Settings) -> None:
    """Check the rules between settings. Raises `SettingsError`."""

    def refuse(name: str, allowed: str) -> SettingsError:
        source = settings.sources.get(name, "default")
        return SettingsError(source, name, _kind(name).show(getattr(settings, name)), allowed)

    if settings.exposed is not None and (
        settings.in_memory or (settings.log is None and not settings.data.exists())
    ):
        # There are no accounts. If there may be some, `serve` looks.
        raise refuse(
            settings.exposed,
            "an address of this machine only (127.0.0.1, ::1, localhost), unless there is an "
            "account, basic_auth names users or allow_anonymous is set to admit all clients",
        )
    if settings.debug_operations and not settings.is_only_for_this_machine:
        raise refuse(
            "debug_operations", "off, unless listen and poll_listen are addresses of this machine"
        )
    if settings.poll_listen == settings.listen and settings.listen.port != 0:
        raise refuse("poll_listen", "an address other than that of listen, or none")
    if settings.id_limit_bytes >= settings.request_headers_limit_bytes:
        # An id travels in the request line.
        raise refuse(
            "id_limit_bytes",
            f"less than request_headers_limit_bytes ({settings.request_headers_limit_bytes})",
        )
    if settings.snapshot_schedule is not None and settings.snapshot_directory is None:
        raise refuse("snapshot_schedule", "none, unless snapshot_directory says where to")
    if settings.in_memory and settings.processes != 1:
        raise refuse(
            "processes", "1, since with in_memory there is no directory that several could share"
        )
    if settings.node is not None and settings.log is None:
        raise refuse("node", "none, unless log says whose node it is")
    if settings.cluster is not None and settings.log is None:
        raise refuse("cluster", "none, unless log says where it is")
    for name, is_default, allowed in (
        ("processes", settings.processes == 1, "1: a cluster has one for each of its groups"),
        ("shards", settings.shards is None, "auto, since `troth cluster create` has fixed them"),
        ("replicas", settings.replicas is None, "auto, since `troth cluster create` has made it"),
        ("convert", not settings.convert, "off, since a cluster keeps its number of groups"),
    ):
        if settings.cluster is not None and not is_default:
            raise refuse(name, allowed)
    for name, other in _TOGETHER:
        if getattr(settings, name) is not None and getattr(settings, other) is None:
            raise refuse(name, f"none, unless {other} is given")
    for name in ("nats_monitor", "replicas", "unsafe_fsync"):
        if getattr(settings, name) and not (settings.log or "").startswith(NATS_SCHEMES):
            raise refuse(name, "as it is by default, unless log is in NATS")
    if settings.log is not None and settings.in_memory:
        raise refuse("in_memory", "off, since log says where everything is kept")
    if settings.log is not None and settings.processes != 1:
        raise refuse("processes", "1, since with log one process has all of it; see cluster")
    if settings.shards is not None and (settings.processes or 1) > settings.shards:
        raise refuse(
            "processes", f"at most shards ({settings.shards}), since each process needs a shard"
        )
    if settings.log is not None and settings.archive_directory is not None:
        raise refuse("archive_directory", "none, since with log what keeps it has its own copies")
    for name in ("snapshot_schedule", "archive_directory"):
        if settings.in_memory and getattr(settings, name) is not None:
            raise refuse(name, "none, since with in_memory there is nothing to copy")
    if settings.task_retry_first_ms > settings.task_retry_limit_ms:
        raise refuse(
            "task_retry_first_ms", f"at most task_retry_limit_ms ({settings.task_retry_limit_ms})"
        )
    if settings.push_concurrency_per_target_count > settings.push_concurrency_count:
        raise refuse(
            "push_concurrency_per_target_count",
            f"at most push_concurrency_count ({settings.push_concurrency_count})",
        )


def _kinds() -> list[tuple[str, SettingKind]]:
    return [(name, _kind(name)) for name in _FIELDS]


def _kind(name: str) -> SettingKind:
    kind = _FIELDS[name].metadata["kind"]
    assert isinstance(kind, SettingKind)
    return kind


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")

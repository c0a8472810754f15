"""The settings: every source, their order, every refusal, and that nothing secret is ever shown."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from troth.core import limits
from troth.core.grammar.addresses import PollAddress, PushAddress
from troth.http.settings.kinds import (
    ListenAddress,
    Number,
    OneOf,
    SettingKind,
    SettingRefused,
    Switch,
    WordOr,
)
from troth.http.settings.settings import Settings
from troth.http.settings.sources import SettingsError, describe, load, settings_options

KINDS: dict[str, SettingKind] = {
    entry.name: entry.metadata["kind"]
    for entry in dataclasses.fields(Settings)
    if "kind" in entry.metadata
}


@pytest.fixture(autouse=True)
def empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test may read a `troth.toml` or a variable that happens to be around."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TROTH_CONFIG", raising=False)
    return tmp_path


def from_toml(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return load(path, {}, {})


def from_environment(**variables: str) -> Settings:
    return load(None, {f"TROTH_{name.upper()}": text for name, text in variables.items()}, {})


def from_flags(**flags: object) -> Settings:
    return load(None, {}, flags)


def refused(**variables: str) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        from_environment(**variables)
    return caught.value


class TestSources:
    def test_without_any_source_everything_has_its_default(self) -> None:
        settings = load(None, {}, {})

        assert settings == Settings()
        assert settings.data == Path("troth-data")
        assert settings.listen == ListenAddress("127.0.0.1", 8001)
        assert settings.url is None
        assert settings.sources == {}

    def test_a_later_source_wins_value_by_value(self, tmp_path: Path) -> None:
        path = tmp_path / "some.toml"
        path.write_text("id_limit_bytes = 100\ntags_limit_count = 10\npush_timeout_ms = 100\n")

        settings = load(
            path,
            {"TROTH_TAGS_LIMIT_COUNT": "20", "TROTH_PUSH_TIMEOUT_MS": "200", "PATH": "/bin"},
            {"push_timeout_ms": "300", "body_limit_bytes": None},
        )

        assert settings.id_limit_bytes == 100
        assert settings.tags_limit_count == 20
        assert settings.push_timeout_ms == 300
        assert settings.body_limit_bytes == 4 * 1024 * 1024
        assert settings.sources == {
            "id_limit_bytes": f"file {path}",
            "tags_limit_count": "environment variable TROTH_TAGS_LIMIT_COUNT",
            "push_timeout_ms": "option --push-timeout-ms",
        }

    def test_troth_toml_is_read_when_no_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "troth.toml").write_text("in_memory = true\n")

        assert load(None, {}, {}).in_memory is True
        assert load(None, {}, {"in_memory": False}).in_memory is False

    def test_a_named_file_replaces_troth_toml(self, tmp_path: Path) -> None:
        (tmp_path / "troth.toml").write_text("in_memory = true\n")
        (tmp_path / "other.toml").write_text("id_limit_bytes = 99\n")

        settings = load(None, {"TROTH_CONFIG": "other.toml"}, {})

        assert settings.in_memory is False
        assert settings.id_limit_bytes == 99

    def test_every_kind_can_stand_in_a_file(self, tmp_path: Path) -> None:
        settings = from_toml(
            tmp_path,
            """
            data = "somewhere"
            shards = 4
            listen = "[::1]:0"
            poll_listen = "none"
            url = "https://troth.example.com/api"
            log_format = "json"
            cors_allow_origin = ["https://example.com", "http://localhost:3000"]
            schedule_catch_up = "latest"
            time_zone = "Europe/Vienna"
            [basic_auth]
            ada = "a,b=c"
            [targets]
            default = "poll://any@workers"
            hook = {type = "http", data = {url = "https://example.com/hook"}}
            """,
        )

        assert settings.data == Path("somewhere")
        assert settings.shards == 4
        assert settings.listen == ListenAddress("::1", 0)
        assert str(settings.listen) == "[::1]:0"
        assert settings.poll_listen is None
        assert settings.url == "https://troth.example.com/api"
        assert settings.cors_allow_origin == ("https://example.com", "http://localhost:3000")
        assert settings.schedule_catch_up == "latest"
        assert settings.basic_auth == {"ada": "a,b=c"}
        assert settings.targets == {
            "default": PollAddress("workers", None, "any"),
            "hook": PushAddress("https://example.com/hook", ()),
        }

    def test_every_kind_can_be_written_as_text(self) -> None:
        settings = from_environment(
            shards="auto",
            in_memory="YES",
            allow_anonymous="0",
            body_limit_bytes="1_000_000",
            basic_auth="ada=secret=1,bob=two",
            cors_allow_origin="*",
            schedule_catch_up="12",
            targets="default=poll://workers,hook=http://127.0.0.1:9000/x",
            time_zone="local",
        )

        assert settings.shards is None
        assert settings.in_memory is True
        assert settings.allow_anonymous is False
        assert settings.body_limit_bytes == 1_000_000
        assert settings.basic_auth == {"ada": "secret=1", "bob": "two"}
        assert settings.cors_allow_origin == ("*",)
        assert settings.schedule_catch_up == 12
        assert settings.targets["hook"] == PushAddress("http://127.0.0.1:9000/x", ())
        assert settings.time_zone is None

    def test_targets_can_be_json(self) -> None:
        settings = from_environment(targets='{"a": {"type": "poll", "data": {"group": "g"}}}')

        assert settings.targets == {"a": PollAddress("g", None, "any")}


class TestRefusals:
    def test_an_error_says_source_key_given_and_allowed(self) -> None:
        error = refused(id_limit_bytes="many")

        assert error.source == "environment"
        assert error.key == "TROTH_ID_LIMIT_BYTES"
        assert error.given == "'many'"
        assert error.allowed == "a whole number from 64 to 65536"
        assert str(error) == (
            "environment: TROTH_ID_LIMIT_BYTES: must be a whole number from 64 to 65536 "
            "(got 'many')"
        )

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("body_limit_bytes", "1.5"),
            ("body_limit_bytes", ""),
            ("body_limit_bytes", "٣٠٠٠٠٠"),
            ("body_limit_bytes", "9" * 5000),
            ("body_limit_bytes", "1023"),
            ("body_limit_bytes", str(16 * 1024 * 1024 + 1)),
            ("in_memory", "maybe"),
            ("log_level", "INFO "),
            ("listen", ":8001"),
            ("listen", "127.0.0.1"),
            ("listen", "127.0.0.1:65536"),
            ("listen", "[12345::]:80"),
            ("listen", "none"),
            ("data", ""),
            ("url", "ftp://example.com"),
            ("url", "https://example.com/"),
            ("url", "http://exa mple.com"),
            ("url", "http://example.com:99999"),
            ("cors_allow_origin", "https://example.com/path"),
            ("cors_allow_origin", "*,https://example.com"),
            ("cors_allow_origin", "https://example.com,"),
            ("basic_auth", ""),
            ("basic_auth", "ada"),
            ("basic_auth", "=secret"),
            ("basic_auth", "ada="),
            ("basic_auth", "a:da=secret"),
            ("basic_auth", "ada=one,ada=two"),
            ("targets", "default=nowhere"),
            ("targets", "=poll://workers"),
            ("targets", "hook=ftp://example.com"),
            ("targets", '{"default": {"type": "poll"}}'),
            ("targets", '{"default": 3}'),
            ("targets", "{" * 5000),
            ("schedule_catch_up", "0"),
            ("schedule_catch_up", "none"),
            ("time_zone", "Europe/Atlantis"),
            ("time_zone", "../../etc/passwd"),
            ("time_zone", "Europe"),
            ("shards", "0"),
        ],
    )
    def test_a_value_that_is_not_allowed_is_refused(self, name: str, text: str) -> None:
        error = refused(**{name: text})

        assert error.key == f"TROTH_{name.upper()}"
        assert error.allowed == KINDS[name].allowed

    @pytest.mark.parametrize(
        "line",
        [
            "in_memory = 1",
            'in_memory = "true"',
            "id_limit_bytes = true",
            'id_limit_bytes = "1024"',
            "id_limit_bytes = 1024.0",
            "data = 3",
            'cors_allow_origin = "https://example.com"',
            "cors_allow_origin = [1]",
            'basic_auth = "ada=secret"',
            "basic_auth = {ada = 1}",
            "targets = []",
            "targets = {a = 2020-01-01}",
            'targets = {a = {type = "poll", data = 2020-01-01}}',
            "shards = [1]",
        ],
    )
    def test_a_file_must_hold_the_right_types(self, tmp_path: Path, line: str) -> None:
        with pytest.raises(SettingsError) as caught:
            from_toml(tmp_path, line)

        assert caught.value.source == f"file {tmp_path / 'settings.toml'}"
        assert caught.value.key == line.split(" ")[0]

    @pytest.mark.parametrize(
        "content", [b"data = ", b"\xff", b"in_memory = true\nin_memory = true"]
    )
    def test_a_file_that_is_not_toml_is_refused(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "broken.toml"
        path.write_bytes(content)

        with pytest.raises(SettingsError, match="not TOML"):
            load(path, {}, {})

    def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="cannot be read"):
            load(tmp_path / "missing.toml", {}, {})

    def test_unknown_names_are_refused_with_a_suggestion(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="did you mean in_memory"):
            from_toml(tmp_path, "inmemory = true")
        with pytest.raises(SettingsError, match="did you mean TROTH_LOG_LEVEL"):
            from_environment(loglevel="info")
        with pytest.raises(
            SettingsError, match=r"is not a setting; `troth serve --help` lists all$"
        ):
            from_environment(zzz="1")
        with pytest.raises(SettingsError, match="did you mean listen"):
            from_flags(listn="127.0.0.1:1")

    def test_variables_of_a_container_service_named_troth_are_ignored(self) -> None:
        settings = from_environment(
            service_host="10.0.0.1",
            service_port="8001",
            service_port_http="8001",
            port="tcp://10.0.0.1:8001",
            port_8001_tcp_addr="10.0.0.1",
        )

        assert settings == Settings()

    def test_variables_of_a_container_service_named_after_troth_are_ignored(self) -> None:
        settings = from_environment(
            server_service_host="10.0.0.1",
            server_service_port="8001",
            server_service_port_poll_http="8002",
            server_port="tcp://10.0.0.1:8001",
            server_port_8001_tcp="tcp://10.0.0.1:8001",
            server_port_8001_tcp_proto="tcp",
            server_port_8001_tcp_port="8001",
            server_port_8001_tcp_addr="10.0.0.1",
        )

        assert settings == Settings()

    def test_a_port_that_is_no_url_of_a_container_service_is_refused(self) -> None:
        assert refused(listen_port="8001").key == "TROTH_LISTEN_PORT"

    @pytest.mark.parametrize("name", ["listen", "poll_listen"])
    @pytest.mark.parametrize("address", ["0.0.0.0:9000", "[::]:9000", "example.com:9000"])
    def test_an_open_address_needs_users_or_an_explicit_word(self, name: str, address: str) -> None:
        error = refused(**{name: address})

        assert error.given == address
        assert refused(**{name: address, "in_memory": "true", "data": "/"}).given == address
        # In a data directory there may be accounts, which is as good.
        assert from_environment(**{name: address, "data": "/"}).exposed == name
        assert "basic_auth" in error.allowed
        assert "allow_anonymous" in error.allowed
        assert from_environment(**{name: address, "basic_auth": "ada=secret"}).basic_auth
        assert from_environment(**{name: address, "allow_anonymous": "true"}).allow_anonymous

    @pytest.mark.parametrize("address", ["127.0.0.2:9000", "[::1]:9000", "localhost:9000"])
    def test_a_loopback_address_needs_neither(self, address: str) -> None:
        assert str(from_environment(listen=address).listen) == address

    @pytest.mark.parametrize("name", ["listen", "poll_listen"])
    def test_debug_operations_are_for_this_machine_only(self, name: str) -> None:
        error = refused(debug_operations="true", basic_auth="a=b", **{name: "0.0.0.0:9000"})

        assert error.key == "debug_operations"
        assert from_environment(debug_operations="true").debug_operations

    def test_settings_that_contradict_each_other_are_refused(self) -> None:
        assert refused(poll_listen="127.0.0.1:8001").key == "poll_listen"
        assert refused(request_headers_limit_bytes="1024").key == "id_limit_bytes"
        assert refused(task_retry_first_ms="60001").key == "task_retry_first_ms"
        assert refused(push_concurrency_count="1").key == "push_concurrency_per_target_count"
        both_any_port = from_environment(listen="127.0.0.1:0", poll_listen="127.0.0.1:0")
        assert both_any_port.listen == both_any_port.poll_listen


class TestSecrets:
    def test_passwords_and_addresses_are_never_shown(self) -> None:
        settings = from_environment(
            basic_auth="ada=hunter2", targets="hook=https://hunter2@example.com"
        )

        assert "hunter2" not in repr(settings)
        rows = {row.name: row for row in describe(settings)}
        assert rows["basic_auth"].value == "ada (passwords not shown)"
        assert rows["targets"].value == "hook (addresses not shown)"
        assert "hunter2" not in str(rows)

    @pytest.mark.parametrize("name", ["basic_auth", "targets"])
    def test_a_refused_secret_is_not_shown(self, name: str) -> None:
        assert "hunter2" not in str(refused(**{name: "ada:=hunter2"}))


class TestDescription:
    def test_every_setting_is_described(self) -> None:
        rows = describe()

        assert [row.name for row in rows] == list(KINDS)
        for row in rows:
            assert row.help.endswith("."), row
            assert row.allowed, row
            assert row.default == row.value
            assert row.source == "default"
            assert row.flag == "--" + row.name.replace("_", "-")
            assert row.environment_variable == "TROTH_" + row.name.upper()

    def test_the_value_and_its_source_are_shown(self) -> None:
        rows = {row.name: row for row in describe(from_flags(in_memory=True))}

        assert (rows["in_memory"].value, rows["in_memory"].source) == ("true", "option --in-memory")
        assert (rows["shards"].value, rows["shards"].source) == ("auto", "default")

    @pytest.mark.parametrize("name", KINDS)
    def test_every_default_is_allowed(self, name: str) -> None:
        kind = KINDS[name]
        default = getattr(Settings(), name)
        if kind.secret:
            assert not default
        elif name in {"cors_allow_origin", "hosts", "trace_tags"}:
            assert default == ()
        else:
            assert kind.from_text(kind.show(default)) == default

    @pytest.mark.parametrize("name", KINDS)
    def test_numbers_end_in_a_unit_and_have_a_range(self, name: str) -> None:
        kind = KINDS[name]
        if isinstance(kind, Number):
            assert re.search(r"_(ms|bytes|count)$", name)
            assert 0 <= kind.minimum < kind.maximum
            assert getattr(Settings(), name) == getattr(limits, name.upper())
            with pytest.raises(SettingRefused):
                kind.from_text(str(kind.minimum - 1))
            with pytest.raises(SettingRefused):
                kind.from_toml(kind.maximum + 1)
            assert kind.from_text(str(kind.maximum)) == kind.maximum
        else:
            assert not re.search(r"_(ms|bytes|count)$", name)


def check_read_or_refused(
    kind: SettingKind, read: Callable[[Any], object], given_value: object
) -> None:
    """Reading must give a value that can be shown, or exactly one error with the usual text."""
    refusal = None
    try:
        kind.show(read(given_value))
    except SettingRefused as error:
        refusal = str(error)

    assert refusal in {None, kind.allowed}


@pytest.mark.slow
@given(name=st.sampled_from(sorted(KINDS)), text=st.text(max_size=50))
def test_any_text_is_read_or_refused(name: str, text: str) -> None:
    check_read_or_refused(KINDS[name], KINDS[name].from_text, text)


TOML_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda children: st.lists(children) | st.dictionaries(st.text(max_size=5), children),
    max_leaves=5,
)


@given(name=st.sampled_from(sorted(KINDS)), value=TOML_VALUES)
def test_any_toml_value_is_read_or_refused(name: str, value: object) -> None:
    check_read_or_refused(KINDS[name], KINDS[name].from_toml, value)


class TestCommandLine:
    def run(self, *arguments: str, **environment: str) -> tuple[int, str, list[Any]]:
        seen: list[Any] = []

        @click.command()
        @click.option("--other")
        @settings_options
        def serve(settings: Settings, other: str | None) -> None:
            seen.extend([settings, other])

        result = CliRunner().invoke(serve, arguments, env=environment)
        return result.exit_code, result.output, seen

    def test_the_command_is_given_the_settings(self, tmp_path: Path) -> None:
        (tmp_path / "here.toml").write_text("id_limit_bytes = 100\nin_memory = true\n")

        exit_code, output, seen = self.run(
            *("--config", "here.toml", "--no-in-memory", "--shards", "4", "--other", "thing"),
            TROTH_TAGS_LIMIT_COUNT="7",
        )

        assert (exit_code, output) == (0, "")
        assert seen[1] == "thing"
        assert seen[0].id_limit_bytes == 100
        assert seen[0].in_memory is False
        assert seen[0].shards == 4
        assert seen[0].tags_limit_count == 7

    def test_a_refused_setting_ends_the_command_with_its_message(self) -> None:
        exit_code, output, seen = self.run("--shards", "0")

        assert exit_code == 2
        assert "command line: --shards: must be auto or a whole number" in output
        assert seen == []

    def test_help_shows_every_option_once_in_order_with_its_default(self) -> None:
        exit_code, output, _ = self.run("--help")

        assert exit_code == 0
        shown = re.findall(r"^  (--[a-z-]+)", output, re.MULTILINE)
        assert shown == ["--other", "--config", *(row.flag for row in describe()), "--help"]
        # Long lines are wrapped anywhere, so compare without spaces.
        unwrapped = re.sub(r"\s", "", output)
        for row in describe():
            assert re.sub(r"\s", "", f"{row.help} [default: {row.default}]") in unwrapped


def test_the_kinds_say_what_they_allow() -> None:
    assert Switch().allowed == "true or false"
    assert OneOf(("a", "b")).allowed == "a or b"
    assert WordOr({"none": None}, Number(1, 2)).allowed == "none or a whole number from 1 to 2"

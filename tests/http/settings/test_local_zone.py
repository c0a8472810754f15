"""The machine's own time zone: the environment says it, else the system, else it is UTC."""

from pathlib import Path

import pytest

from troth.core.grammar.zones import ZoneUnknown
from troth.http.settings import local_zone as module
from troth.http.settings.local_zone import local_zone


def test_the_environment_names_the_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", ":Asia/Tokyo")

    assert local_zone().offset_s(0) == 9 * 3600


def test_the_systems_zone_counts_without_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TZ", raising=False)
    monkeypatch.setattr(module, "_FILE", tmp_path / "missing")

    assert local_zone().offset_s(0) == 0


def test_a_zone_that_does_not_exist_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Atlantis/Capital")

    with pytest.raises(ZoneUnknown):
        local_zone()

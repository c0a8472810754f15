"""A directory to build in: what is left behind is recognized, and nothing else is touched."""

import shutil
from pathlib import Path

import pytest

from troth.persistence.building import BuildingInTheWay, Mark, marked

MARK = Mark("being-made", "a try")


class Killed(BaseException):
    """The process ends here."""


def build_until_killed(place: Path) -> None:
    """Build something, and be interrupted."""
    with marked(place, MARK):
        (place / "folder").mkdir()
        (place / "folder" / "file").write_text("x")
        (place / "a file").write_text("x")
        (place / "link").symlink_to(place.parent / "elsewhere")
        shutil.copytree(place, place.parent / "copy", symlinks=True)
        raise Killed


def leave_remains(place: Path) -> None:
    """What an interruption leaves."""
    with pytest.raises(Killed):
        build_until_killed(place)
    assert not place.exists(), "it tidies up where it can"
    (place.parent / "copy").rename(place)


def test_remains_are_replaced_and_links_are_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "letters").write_text("precious")
    place = tmp_path / "place"
    leave_remains(place)

    with marked(place, MARK):
        assert [path.name for path in place.iterdir()] == [MARK.name]
        assert (place / MARK.name).read_text() == "A try was interrupted, or is going on, here.\n"

    assert (elsewhere / "letters").read_text() == "precious"


def test_remains_are_recognized_after_an_end_while_they_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    leave_remains(place)

    def end(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", end)
        with pytest.raises(Killed), marked(place, MARK):
            raise AssertionError("it was not empty")
    assert not (place / "a file").exists(), "it had begun"
    with marked(place, MARK):
        assert [path.name for path in place.iterdir()] == [MARK.name]


def test_what_somebody_else_has_put_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters").write_text("precious")

    with pytest.raises(BuildingInTheWay, match="not left by a try"), marked(tmp_path, MARK):
        pass

    assert [path.name for path in tmp_path.iterdir()] == ["letters"]


def test_only_one_works_there(tmp_path: Path) -> None:
    place = tmp_path / "place"
    with (
        marked(place, MARK),
        pytest.raises(BuildingInTheWay, match="Another process"),
        marked(place, MARK),
    ):
        pass
    assert (place / MARK.name).exists()

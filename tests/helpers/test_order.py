"""The order in which several processes run all tests."""

from tests.helpers.order import BEGINNINGS, in_shares
from tests.helpers.repository import ROOT


def test_each_share_begins_with_its_folders_and_is_filled_with_others() -> None:
    folders = ["core", "core", "http/processes", "shards", "ui", "shards", "streams", "ui/x"]
    places = in_shares(folders, 3)
    assert [folders[place] for place in places] == [
        *("streams", "core"),
        *("ui", "ui/x", "core"),
        *("http/processes", "shards", "shards"),
    ]
    assert places[2:4] == [4, 7]


def test_every_test_is_run_once_whatever_their_number() -> None:
    some = [name for names in BEGINNINGS for name in names]
    for folders in ([], ["ui"], ["core"] * 7, some, some * 3 + ["core"] * 5, ["streams"] * 9):
        for shares_count in (1, 2, 3, 4, 8):
            places = in_shares(folders, shares_count)
            assert sorted(places) == list(range(len(folders)))


def test_all_folders_are_there() -> None:
    for names in BEGINNINGS:
        assert all((ROOT / "tests" / name).is_dir() for name in names)

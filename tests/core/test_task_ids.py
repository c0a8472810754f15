"""Task ids name exactly one pair, whatever the promise ids hold (rest.md 4.1, 12.F)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.core.grammar import task_ids
from troth.core.model import TaskKind

IDS = st.text(alphabet=st.sampled_from(":%/3A25ab \u00fc"), max_size=8) | st.text(max_size=20)


@pytest.mark.parametrize(
    ("task_id", "expected"),
    [
        (task_ids.invoke_id("p"), "__invoke:p"),
        (task_ids.invoke_id("a:b%/ü"), "__invoke:a:b%/ü"),
        (task_ids.resume_id("root", "leaf"), "__resume:root:leaf"),
        (task_ids.resume_id("a:b", "c:d"), "__resume:a%3Ab:c:d"),
        (task_ids.resume_id("100%", "x"), "__resume:100%25:x"),
        (task_ids.notify_id("p/q", "s:1"), "__notify:p/q:s:1"),
        (task_ids.resume_id("", ""), "__resume::"),
    ],
)
def test_ids_read_as_on_the_reference_server_unless_that_is_ambiguous(
    task_id: str, expected: str
) -> None:
    assert task_id == expected


@given(IDS, IDS)
def test_parse_is_the_inverse_of_the_makers(first: str, second: str) -> None:
    assert task_ids.parse(task_ids.invoke_id(first)) == (TaskKind.INVOKE, first, first)
    assert task_ids.parse(task_ids.resume_id(first, second)) == (TaskKind.RESUME, first, second)
    assert task_ids.parse(task_ids.notify_id(first, second)) == (TaskKind.NOTIFY, first, second)


@given(st.lists(st.tuples(IDS, IDS), min_size=2, unique=True))
def test_no_two_pairs_share_an_id(pairs: list[tuple[str, str]]) -> None:
    made = [maker(*pair) for pair in pairs for maker in (task_ids.resume_id, task_ids.notify_id)]

    assert len(set(made)) == 2 * len(pairs)


@given(IDS)
def test_every_text_that_is_a_task_id_is_made_from_what_it_says(text: str) -> None:
    """So no second spelling of an id leads to another shard."""
    for task_id in (text, "__resume:" + text, "__notify:" + text, "__invoke:" + text):
        name = task_ids.parse(task_id)
        if name is None:
            continue
        if name.kind is TaskKind.INVOKE:
            assert task_ids.invoke_id(name.root) == task_id
        else:
            is_resume = name.kind is TaskKind.RESUME
            maker = task_ids.resume_id if is_resume else task_ids.notify_id
            assert maker(name.root, name.leaf) == task_id


@pytest.mark.parametrize(
    "text",
    ["", "x", "invoke:x", "__invoke", "__resume:a", "__notify", "__resume:a%3ab:c", "__x:y:z"],
)
def test_other_texts_name_no_task(text: str) -> None:
    assert task_ids.parse(text) is None

"""The JSON of promises, against a plain dict written by another library."""

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from troth.core.limits import INTEGER_MAX, INTEGER_MIN
from troth.core.model import Promise, PromiseState, Value
from troth.http.promises.answers import path_of, promise_object
from troth.http.wire.json_text import dump

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
MAPS = st.none() | st.dictionaries(TEXTS, TEXTS, max_size=4)
VALUES = st.builds(Value, MAPS, st.none() | TEXTS)
INTEGERS = st.integers(INTEGER_MIN, INTEGER_MAX)
BEGUN: dict[str, Any] = {
    "id": TEXTS,
    "serial": INTEGERS,
    "timeout": INTEGERS,
    "created_on": INTEGERS,
    "param": VALUES,
    "tags": MAPS,
    "key_for_create": st.none() | TEXTS,
}
PROMISES = st.one_of(
    st.builds(Promise, **BEGUN, state=st.just(PromiseState.PENDING)),
    st.builds(
        Promise,
        **BEGUN,
        state=st.sampled_from(PromiseState).filter(lambda state: state != PromiseState.PENDING),
        value=VALUES,
        key_for_complete=st.none() | TEXTS,
        completed_on=st.none() | INTEGERS,
    ),
)


def sorted_map(entries: dict[str, str]) -> dict[str, str]:
    return dict(sorted(entries.items()))


def shown(value: Value) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if value.headers:
        made["headers"] = sorted_map(value.headers)
    if value.data:
        made["data"] = value.data
    return made


@given(promise=PROMISES)
def test_a_promise_is_written_as_its_fields_in_order(promise: Promise) -> None:
    expected: dict[str, Any] = {
        "id": promise.id,
        "state": promise.state.value,
        "param": shown(promise.param),
        "value": shown(promise.value),
        "timeout": promise.timeout,
    }
    if promise.key_for_create is not None:
        expected["idempotencyKeyForCreate"] = promise.key_for_create
    if promise.key_for_complete is not None:
        expected["idempotencyKeyForComplete"] = promise.key_for_complete
    if promise.tags:
        expected["tags"] = sorted_map(promise.tags)
    expected["createdOn"] = promise.created_on
    if promise.completed_on is not None:
        expected["completedOn"] = promise.completed_on

    assert dump(promise_object(promise)) == orjson.dumps(expected)
    assert dump([promise_object(promise)]) == orjson.dumps([expected])


def test_a_plain_id_is_its_own_path() -> None:
    plain = "AZaz09-_.~/:@!$&'()*+,;="

    assert path_of(plain) == plain
    assert path_of("a b\n") == "a%20b%0A"

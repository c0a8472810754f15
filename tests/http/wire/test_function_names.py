"""Which function a promise stands for."""

import base64
import json

import pytest

from troth.core.model import PENDING, Promise, Value
from troth.http.wire.function_names import PARAM_LIMIT_COUNT, function_name


def encoded(param: object) -> str:
    return base64.b64encode(json.dumps(param).encode()).decode()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (encoded({"func": "buy"}), "buy"),
        (encoded({"func": ""}), None),
        (encoded({"func": "x" * 121}), None),
        (encoded([1]), None),
        (encoded({"func": 1}), None),
        (base64.b64encode(b"\xff").decode(), None),
        ("not base64", None),
        (encoded({"func": "buy", "args": "x" * PARAM_LIMIT_COUNT}), None),
        (None, None),
    ],
)
def test_function_names(data: str | None, name: str | None) -> None:
    assert function_name(Promise("p", 1, PENDING, 5, 1, Value(None, data))) == name

"""From the bytes of a request's body to checked values.

Decoding stops at the first thing that cannot be read; validation (`fields.problems`) collects.

Unknown and repeated keys are tolerated, and null is as good as absent, but for bodies that grant
rights or delete (`forbid_unknown_fields`): there `expiresOn` instead of `expiresAt` would make a
token that works forever, and so would a null from a computation that went wrong.

Nearly all bodies are good, and the decoder alone can see that of most: it is tried first with a
type that accepts nothing wrong (`fields.strict_body`). What that refuses is looked at the long way,
which finds out what is wrong, if anything. Either way the result is the same.
"""

import json
import re
from typing import Any, Generic

import msgspec
from msgspec import Struct

from troth.core.codes import Code
from troth.core.limits import (
    BODY_VALUES_LIMIT_COUNT,
    CLOSED_BODY_LIMIT_BYTES,
    LARGE_BODY_BYTES,
)

from .crowded import crowd_problem, values_problem
from .errors import ApiError, FieldProblem, invalid
from .fields import (
    Base64,
    Body,
    BodyList,
    Nested,
    RequestLimits,
    canonical_base64,
    problems,
    rules,
    strict_body,
)

_TYPE_ERROR = re.compile(
    r"Expected `(?P<wanted>.+?)`, got `(?P<given>.+?)`(?: - at `\$(?P<path>.*)`)?$"
)
_PLACE = re.compile(r" - at `\$(?P<path>.*)`$")
_TYPE_NAMES = {
    "int": "an integer",
    "float": "a number with a fraction or exponent",
    "str": "a string",
    "object": "an object",
    "array": "an array",
    "bool": "a boolean",
    "null": "null",
}


BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""What some programs of Windows write before UTF-8; it says nothing."""
_SHOWN_LIMIT_COUNT = 100
_PROBLEMS_LIMIT_COUNT = 20


class _Pairs(list[tuple[str, Any]]):
    """The keys and values of a JSON object as they came."""


class BodyDecoder(Generic[Body]):
    """Decodes and checks JSON bodies of one kind, within limits."""

    def __init__(self, body: type[Body], limits: RequestLimits, *, closely: bool = False) -> None:
        """Compile the decoder; one that looks at every body closely if told to."""
        self._body = body
        self._limits = limits
        self._base64 = _base64_in(body)
        strict = None if closely else strict_body(body, limits)
        self._strict_decoder = None if strict is None else msgspec.json.Decoder(strict)
        self._is_closed = body.__struct_config__.forbid_unknown_fields
        self._is_about_many = any(isinstance(marker, BodyList) for _, _, marker in rules(body))
        self._decoder: msgspec.json.Decoder[Body | None] = msgspec.json.Decoder(body | None)

    def decode(self, content: bytes) -> Body:
        """Decode and check a body. One of `null` counts as `{}`. Raises ApiError (400).

        All base64 in it is canonical: standard, with padding, without line breaks.
        """
        if len(content) > LARGE_BODY_BYTES:
            self._refuse_crowded(content)
        if self._is_closed:
            self._refuse_unclear(content)
        if self._strict_decoder is not None and is_utf8(content):
            try:
                return self._strict_decoder.decode(content)
            except (msgspec.DecodeError, RecursionError):
                pass  # the closer look finds out what is wrong, if anything
        return self._decode_closely(content)

    def _refuse_crowded(self, content: bytes) -> None:
        """Raise ApiError (400) for a large body that would take long to read."""
        problem = None
        if self._is_closed and len(content) > CLOSED_BODY_LIMIT_BYTES:
            problem = f"must have at most {CLOSED_BODY_LIMIT_BYTES} bytes (got {len(content)})"
        elif self._is_about_many:
            problem = values_problem(content, BODY_VALUES_LIMIT_COUNT)
        else:
            problem = crowd_problem(content)
        if problem is not None:
            raise invalid("body", problem)

    def _refuse_unclear(self, content: bytes) -> None:
        """Raise ApiError (400) for keys that are unknown, repeated or null: none may be overlooked.

        The decoder refuses what is not a JSON object.
        """
        try:
            pairs = json.loads(content, object_pairs_hook=_Pairs)
        except (ValueError, RecursionError):
            return
        if not isinstance(pairs, _Pairs):
            return
        known = [name for _, name, _ in rules(self._body)]
        found: dict[str, FieldProblem] = {}
        seen: set[str] = set()
        for name, value in pairs:
            if name not in known:
                problem = f"is not a known field; must be one of {', '.join(known)}"
            elif name in seen:
                problem = "is there more than once"
            elif value is None:
                problem = "must not be null; leave it out if it is not wanted"
            else:
                problem = ""
            if problem:
                found.setdefault(name, FieldProblem(name[:_SHOWN_LIMIT_COUNT], problem))
            seen.add(name)
        if found:
            raise ApiError(Code.INVALID, list(found.values())[:_PROBLEMS_LIMIT_COUNT])

    def _decode_closely(self, content: bytes) -> Body:
        """Decode a body and check it field by field."""
        content = content.removeprefix(BYTE_ORDER_MARK)
        if not content:
            raise invalid("body", "is empty; a JSON object is required")
        try:
            if not content.isascii():
                content.decode()
            decoded = self._decoder.decode(content)
        except UnicodeDecodeError as error:
            raise invalid("body", f"is not UTF-8 (byte {error.start})") from error
        except RecursionError as error:
            raise invalid("body", "is nested too deeply") from error
        except msgspec.ValidationError as error:
            raise _type_problem(str(error)) from error
        except msgspec.DecodeError as error:
            raise invalid("body", f"is not one JSON object ({error})") from error
        if decoded is None:
            decoded = self._body()
        found = problems(decoded, self._limits)
        if found:
            raise ApiError(Code.INVALID, found)
        _make_canonical(decoded, self._base64)
        return decoded


def is_utf8(content: bytes) -> bool:
    """Return whether bytes are UTF-8; the decoder looks into no keys and values that it skips."""
    if content.isascii():
        return True
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


Places = tuple[tuple[str, "Places"], ...]
"""Where in a body base64 is: an attribute, and where in that; nowhere means that it is base64."""


def _base64_in(body: type[Struct]) -> Places:
    found: list[tuple[str, Places]] = []
    for attribute, _, marker in rules(body):
        if isinstance(marker, Base64):
            found.append((attribute, ()))
        elif isinstance(marker, Nested | BodyList):
            inner = _base64_in(marker.body)
            if inner:
                found.append((attribute, inner))
    return tuple(found)


def _make_canonical(body: Struct, places: Places) -> None:
    for attribute, inner in places:
        given = getattr(body, attribute)
        if given is None:
            continue
        if not inner:
            setattr(body, attribute, canonical_base64(given))
        elif isinstance(given, list):
            for entry in given:
                _make_canonical(entry, inner)
        else:
            _make_canonical(given, inner)


def _type_problem(message: str) -> ApiError:
    match = _TYPE_ERROR.match(message)
    if match is None:
        place = _PLACE.search(message)
        return invalid(
            _field_of(place["path"]) if place else "body", _PLACE.sub("", message).lower()
        )
    wanted = " or ".join(
        _TYPE_NAMES.get(name, name) for name in match["wanted"].split(" | ") if name != "null"
    )
    given = _TYPE_NAMES.get(match["given"], match["given"])
    return invalid(_field_of(match["path"] or ""), f"must be {wanted} (got {given})")


def _field_of(path: str) -> str:
    field = path.removeprefix(".").replace("[...]", "")
    return field or "body"

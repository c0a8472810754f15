"""From the bytes of a request's body to checked values.

Decoding stops at the first thing that cannot be read; validation (`fields.problems`) collects.

Unknown and repeated keys are tolerated, and null is as good as absent, but for bodies that grant
rights or delete (`forbid_unknown_fields`): there `expiresOn` instead of `expiresAt` would make a
token that works forever, and so would a null from a computation that went wrong.

Nearly all bodies are good, and the decoder alone can see that of most: it is tried first with a
type that accepts nothing wrong (`fields.strict_body`). What that refuses is looked at the long way,
which finds out what is wrong, if anything. Either way the result is the same.

Nothing interrupts the decoder, and 4 MiB take it 7 ms. So a large body is looked at only once, the
long way, which costs little more there; and one about many things is decoded in slices.
"""

import json
import re
from collections.abc import Generator
from typing import Any, Final, Generic, TypeGuard, TypeVar

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
    Body,
    BodyList,
    Field,
    RequestLimits,
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
_SLICE_COUNT: Final = 50  # things in a body that are decoded before others get their turn
_SLICE_BYTES: Final = 256 * 1024  # and no more of them, once it is this much
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
        strict = None if closely else strict_body(body, limits)
        self._strict_decoder = None if strict is None else msgspec.json.Decoder(strict)
        self._is_closed = body.__struct_config__.forbid_unknown_fields
        self._many = next(
            (_Many(body, *one, limits) for one in rules(body) if _is_about_many(one)), None
        )
        self._decoder: msgspec.json.Decoder[Body | None] = msgspec.json.Decoder(body | None)

    @property
    def is_about_many(self) -> bool:
        """Return whether bodies are to be decoded in slices."""
        return self._many is not None

    def decode(self, content: bytes) -> Body:
        """Decode and check a body. One of `null` counts as `{}`. Raises ApiError (400).

        All base64 in it is canonical: standard, with padding, without line breaks.
        """
        decoder: msgspec.json.Decoder[Body] | None = self._strict_decoder
        if len(content) > LARGE_BODY_BYTES:
            self._refuse_crowded(content)
            decoder = None
        if self._is_closed:
            self._refuse_unclear(content)
        if decoder is not None and (content.isascii() or is_utf8(content)):
            try:
                return decoder.decode(content)
            except (msgspec.DecodeError, RecursionError):
                pass  # the closer look finds out what is wrong, if anything
        return self._decode_closely(content)

    def decode_in_slices(self, content: bytes) -> Generator[None, None, Body]:
        """Decode and check a body about many things; others get their turn at each `yield`.

        The result is that of `decode`, but that JSON which cannot be read is found before what else
        is wrong. Raises ApiError (400).
        """
        many = self._many
        if many is None or len(content) <= LARGE_BODY_BYTES:
            return self.decode(content)
        self._refuse_crowded(content)
        content = content.removeprefix(BYTE_ORDER_MARK)
        parts = _carefully(many.parts_decoder, content)
        yield
        given = None if parts is None else parts.parts
        entries: list[Struct] | None = None
        problem = many.marker.check(given, self._limits)
        found = [] if problem is None else [FieldProblem(many.name, problem)]
        if given is not None:
            entries = []
            size_bytes = 0
            for number, part in enumerate(given):
                text = bytes(part)
                entry = many.quickly(text)
                if entry is None:
                    entry = _carefully(many.one_decoder, text, f".{many.name}[{number}]")
                    if problem is None:
                        prefix = f"{many.name}[{number}]."
                        found.extend(problems(entry, self._limits, prefix))
                entries.append(entry)
                size_bytes += len(text)
                if number % _SLICE_COUNT == _SLICE_COUNT - 1 or size_bytes > _SLICE_BYTES:
                    size_bytes = 0
                    yield
        if found:
            raise ApiError(Code.INVALID, found)
        return self._body() if entries is None else self._body(**{many.attribute: entries})

    def _refuse_crowded(self, content: bytes) -> None:
        """Raise ApiError (400) for a large body that would take long to read."""
        problem = None
        if self._is_closed and len(content) > CLOSED_BODY_LIMIT_BYTES:
            problem = f"must have at most {CLOSED_BODY_LIMIT_BYTES} bytes (got {len(content)})"
        elif self._many is not None:
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
        decoded = _carefully(self._decoder, content)
        if decoded is None:
            decoded = self._body()
        found = problems(decoded, self._limits)
        if found:
            raise ApiError(Code.INVALID, found)
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


Decoded = TypeVar("Decoded")


def _carefully(decoder: msgspec.json.Decoder[Decoded], content: bytes, place: str = "") -> Decoded:
    """Decode JSON, with UTF-8 also where the decoder skips it. Raises ApiError (400).

    `place` is where in the body this is.
    """
    try:
        if not content.isascii():
            content.decode()
        return decoder.decode(content)
    except UnicodeDecodeError as error:
        raise invalid("body", f"is not UTF-8 (byte {error.start})") from error
    except RecursionError as error:
        raise invalid("body", "is nested too deeply") from error
    except msgspec.ValidationError as error:
        raise _type_problem(str(error), place) from error
    except msgspec.DecodeError as error:
        raise invalid("body", f"is not one JSON object ({error})") from error


class _Many(Generic[Body]):
    """The field of a body about many things that they are in."""

    def __init__(
        self,
        body: type[Body],
        attribute: str,
        name: str,
        marker: BodyList,
        limits: RequestLimits,
    ) -> None:
        assert len(rules(body)) == 1, "what is read in slices is all that there is in the body"
        self.attribute = attribute
        self.name = name
        self.marker = marker
        parts = msgspec.defstruct(
            f"Parts{body.__name__}",
            [("parts", list[msgspec.Raw] | None, msgspec.field(default=None, name=name))],
        )
        self.parts_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(parts | None)
        self.one_decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(marker.body)
        strict = strict_body(marker.body, limits)
        self._strict_decoder = None if strict is None else msgspec.json.Decoder(strict)

    def quickly(self, content: bytes) -> Struct | None:
        """Return one of the things if it is surely good, else None."""
        if self._strict_decoder is None or not is_utf8(content):
            return None
        try:
            return self._strict_decoder.decode(content)
        except (msgspec.DecodeError, RecursionError):
            return None  # the closer look finds out what is wrong, if anything


def _is_about_many(rule: tuple[str, str, Field]) -> TypeGuard[tuple[str, str, BodyList]]:
    return isinstance(rule[2], BodyList)


def _type_problem(message: str, place: str) -> ApiError:
    match = _TYPE_ERROR.match(message)
    if match is None:
        within = _PLACE.search(message)
        return invalid(
            _field_of(place + (within["path"] if within else "")),
            _PLACE.sub("", message).lower(),
        )
    wanted = " or ".join(
        _TYPE_NAMES.get(name, name) for name in match["wanted"].split(" | ") if name != "null"
    )
    given = _TYPE_NAMES.get(match["given"], match["given"])
    return invalid(_field_of(place + (match["path"] or "")), f"must be {wanted} (got {given})")


def _field_of(path: str) -> str:
    field = path.removeprefix(".").replace("[...]", "")
    return field or "body"

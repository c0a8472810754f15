"""Parts of the description that stand in several places: written once, among the components."""

import collections
import itertools
from collections.abc import Iterable
from typing import Any

import orjson

Part = dict[str, Any]


class Shared:
    """The components of one kind, for instance `parameters`, and references to them.

    A part becomes a component if that makes the description shorter by `least_bytes` at least. It
    comes with the name that it is to have as one; different parts may come with the same.
    """

    def __init__(
        self, kind: str, parts: Iterable[tuple[str, Part]], *, least_bytes: int = 1
    ) -> None:
        self.components: dict[str, Part] = {}
        self._kind = kind
        self._names: dict[bytes, str] = {}
        named = [(wanted, part, orjson.dumps(part)) for wanted, part in parts]
        counts = collections.Counter(text for _, _, text in named)
        for wanted, part, text in named:
            count, name = counts[text], self._free(wanted)
            length = len(orjson.dumps(self._reference(name)))
            saved_bytes = (count - 1) * len(text) - count * length
            if text not in self._names and saved_bytes >= least_bytes:
                self._names[text] = name
                self.components[name] = part

    def _reference(self, name: str) -> Part:
        return {"$ref": f"#/components/{self._kind}/{name}"}

    def _free(self, wanted: str) -> str:
        """Return a name that no other component has."""
        names = (f"{wanted}{number or ''}" for number in itertools.count())
        return next(name for name in names if name not in self.components)

    def shown(self, part: Part) -> Part:
        """Return a part as it is shown where it belongs: a reference if it is shared."""
        name = self._names.get(orjson.dumps(part))
        return part if name is None else self._reference(name)

"""Id patterns of searches: `*` stands for any characters, everything else for itself.

Matching is case-sensitive, covers the whole id and takes time linear in the id (decisions.md 1;
a regular expression would let a hostile pattern take forever).
"""


class Pattern:
    """A compiled id pattern. `within` is what every match must begin with besides."""

    __slots__ = ("_exact", "_inner", "_prefix", "_suffix", "_within", "is_all")

    def __init__(self, pattern: str, within: str = "") -> None:
        first, *rest = pattern.split("*")
        self._within = within
        self._exact = pattern if not rest else None
        self._prefix = first
        self._suffix = rest[-1] if rest else ""
        self._inner = [part for part in rest[:-1] if part]
        self.is_all = not within and bool(rest) and not pattern.strip("*")

    @property
    def exact(self) -> str | None:
        """The only id that can match, if the pattern has no wildcard."""
        return self._exact

    @property
    def prefix(self) -> str:
        """The prefix of every match; may be empty."""
        return max(self._prefix, self._within, key=len)

    def matches(self, text: str) -> bool:
        """Return whether the pattern covers the whole of `text`."""
        if self.is_all:
            return True
        if self._within and not text.startswith(self._within):
            return False
        if self._exact is not None:
            return text == self._exact
        if not text.startswith(self._prefix):
            return False
        start, end = len(self._prefix), len(text) - len(self._suffix)
        if start > end or not text.endswith(self._suffix):
            return False
        for part in self._inner:
            found = text.find(part, start, end)
            if found < 0:
                return False
            start = found + len(part)
        return True

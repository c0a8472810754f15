"""Inputs that are nearly right: seeded changes to what the corpus holds.

The same seed, corpus and words give the same inputs, in the same order.
"""

from collections.abc import Sequence
from random import Random
from typing import Final

_LENGTHS: Final = (0, 1, 2, 3, 4, 7, 16, 64, 255, 256, 1_000, 4_096)
_INTEGERS: Final = tuple(
    number.to_bytes(size, order)
    for size in (1, 2, 4, 8)
    for order in ("little", "big")
    for number in (0, 1, 127, 128, 255, 2 ** (8 * size - 1), 2 ** (8 * size) - 1)
    if number < 2 ** (8 * size)
)
_CHANGES_LIMIT_COUNT: Final = 6
_LENGTH_LIMIT_BYTES: Final = 16 * 1024


class Mutator:
    """Makes one input after the other. `words` are what the format knows by name."""

    def __init__(self, random: Random, corpus: Sequence[bytes], words: Sequence[bytes]) -> None:
        """`corpus` is not copied: what is added to it is used from then on."""
        assert corpus, "something must be there to begin with"
        self._random = random
        self._corpus = corpus
        self._words = (*words, *_INTEGERS)

    def next(self) -> bytes:
        """One of the corpus with a few changes."""
        content = bytearray(self._random.choice(self._corpus))
        for _ in range(self._random.randint(1, _CHANGES_LIMIT_COUNT)):
            self._change(content)
        return bytes(content[:_LENGTH_LIMIT_BYTES])

    def _change(self, content: bytearray) -> None:
        random = self._random
        start = random.randint(0, len(content))
        end = min(len(content), start + random.choice(_LENGTHS))
        match random.randrange(8):
            case 0 if start < len(content):
                content[start] ^= 1 << random.randrange(8)
            case 1 if start < len(content):
                content[start] = random.randrange(256)
            case 2:
                del content[start:end]
            case 3:
                content[start:start] = content[start:end] * random.choice((1, 1, 1, 2, 20))
            case 4:
                word = random.choice(self._words)
                content[start : start + random.choice((0, len(word)))] = word
            case 5:
                other = random.choice(self._corpus)
                cut = random.randint(0, len(other))
                content[start:end] = other[cut : cut + random.choice(_LENGTHS)]
            case 6:
                content[start:] = random.choice(self._corpus)[start:]
            case _:
                content[start:end] = random.randbytes(random.choice((1, 1, 2, 8)))

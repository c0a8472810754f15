"""A hierarchical timing wheel: deadlines of millions of keys, exact to the millisecond.

Promises:

- `arm` and `cancel` take constant time, whatever the number of entries and however far the
  deadline. A canceled entry is gone immediately; nothing is left behind to be skipped later.
- `advance` returns each key once, at the first call whose time is at or after its deadline, in the
  order of the deadlines and, where these are equal, of arming.
- A key whose deadline never changes, and is known to its owner, may be armed by `arm_fixed` and
  canceled by `cancel_fixed`: the wheel then need not remember where it is.
- Memory is two dictionary entries and one integer for each armed key, one entry for a fixed one.
  Tables that were large and are nearly empty now are shrunk, so memory follows the number of armed
  keys.
- The clock may jump by years: empty time costs nothing.

How it works. A deadline is seen as a number in base 256, and so is the cursor, the time of the last
`advance`. The entry lies at the level of the highest digit in which the two differ, in the slot of
the deadline's digit there. So level 0 has slots of 1 ms and reaches to the end of the current
256 ms, level 1 has slots of 256 ms and reaches to the end of the current 65.5 s, and so on to level
7; what is not after the cursor is overdue and has a slot of its own. Everything at a lower level is
due before everything at a higher one. When the cursor enters a slot, what is in it moves to lower
levels, at most seven times in an entry's life and usually twice.

A slot is a dictionary from key to deadline, which keeps the order of arming, and `_slot_of` knows
the dictionary that holds a key: canceling is two deletions. Where a deadline lies follows from the
cursor, so a fixed key's is found without. Equal deadlines always share a slot, so moving slots as a
whole keeps their order too. One integer for each level has a bit for each slot
that may hold something; bits of slots that were emptied by `cancel` are cleared when they are met.

Moving a slot takes one call of `advance`: about 0.5 us an entry. A wheel whose million entries lie
within a day pauses about 0.1 s every 4.7 hours; sixteen shards share that in sixteen parts.
Measured against a binary heap with lazy deletion in `bench/wheel.py`.
"""

import sys
from collections.abc import Hashable
from dataclasses import dataclass
from operator import itemgetter
from typing import Final, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

LEVEL_COUNT: Final = 8
SLOT_COUNT: Final = 256
DEADLINE_MAX_MS: Final = 2 ** (8 * LEVEL_COUNT - 1) - 1

# A level is named by its shift, the number of bits below its digit: 0, 8, … 56.
# _SHIFT_OF[n] is the level for a highest differing bit n (n counts from 1).
_SHIFT_OF: Final = (0, *(bit // 8 * 8 for bit in range(8 * LEVEL_COUNT - 1)))
_DIGIT: Final = SLOT_COUNT - 1

# Every 2^16 removals the tables are looked over for ones that are much too large.
_SHRINK_CHECK_BITS: Final = 16
_SHRINK_CHECK_MASK: Final = (1 << _SHRINK_CHECK_BITS) - 1
_SHRINK_LEAST_BYTES: Final = 65_536
# A table that has just grown has about 80. Ten times that keeps the pause for rebuilding short:
# the table of a million entries is rebuilt when some 40,000 are left.
_TABLE_BYTES_PER_ENTRY: Final = 1_000

_deadline_of_item = itemgetter(1)


@dataclass(frozen=True, slots=True)
class WheelStatistics:
    """What a wheel holds and has done since it was made."""

    entries_count: int
    armed_count: int
    replaced_count: int
    """Of the armed ones, how many replaced an earlier deadline of their key."""
    cancelled_count: int
    due_count: int
    moved_count: int
    """Moves of entries from a level to a lower one."""


class TimingWheel(Generic[Key]):
    """Deadlines by key; see the module for what it promises. Not safe across threads."""

    __slots__ = (
        "_cursor_ms",
        "_due_count",
        "_fixed_count",
        "_moved_count",
        "_occupied",
        "_overdue",
        "_overdue_from_ms",
        "_removed_count",
        "_replaced_count",
        "_slot_of",
        "_slots",
    )

    def __init__(self, now_ms: int) -> None:
        """Start empty at this time. Raises ValueError when it is negative or beyond 2^63-1."""
        if not 0 <= now_ms <= DEADLINE_MAX_MS:
            raise ValueError(f"now_ms must be within 0 and {DEADLINE_MAX_MS}, not {now_ms}")
        self._cursor_ms = now_ms
        self._slot_of: dict[Key, dict[Key, int]] = {}
        self._fixed_count = 0  # entries that are not in `_slot_of`
        # Digit d of the level with shift s is at (s << 5) + d, that is level * 256 + d.
        self._slots: list[dict[Key, int] | None] = [None] * (LEVEL_COUNT * SLOT_COUNT)
        self._occupied = [0] * LEVEL_COUNT
        self._overdue: dict[Key, int] = {}
        self._overdue_from_ms = 0
        self._removed_count = 0  # entries that were replaced, canceled or due
        self._replaced_count = 0
        self._due_count = 0
        self._moved_count = 0

    def __len__(self) -> int:
        """Return the number of armed keys."""
        return len(self._slot_of) + self._fixed_count

    @property
    def movable_count(self) -> int:
        """Return how many keys are armed whose deadlines may change: all but the fixed ones."""
        return len(self._slot_of)

    def __contains__(self, key: object) -> bool:
        """Tell whether the key is armed, and not as a fixed one."""
        return key in self._slot_of

    def deadline_of(self, key: Key) -> int | None:
        """Return the deadline of the key in ms, or None if it is not armed or fixed."""
        slot = self._slot_of.get(key)
        return None if slot is None else slot[key]

    def arm(self, key: Key, deadline_ms: int) -> None:
        """Set the key's deadline in place of an earlier one; one in the past is due immediately.

        Raises ValueError, and changes nothing, when the deadline is beyond 2^63-1.
        """
        slot = self._slot_for(deadline_ms)
        slot_of = self._slot_of
        if key in slot_of:
            self._remove(key, slot_of[key])
            self._replaced_count += 1
        slot[key] = deadline_ms
        slot_of[key] = slot

    def arm_fixed(self, key: Key, deadline_ms: int) -> None:
        """Set the deadline of a key that is not armed, and whose deadline will never change.

        Raises ValueError as `arm` does.
        """
        slot = self._slot_for(deadline_ms)
        assert key not in slot, "a fixed key is armed once"
        slot[key] = deadline_ms
        self._fixed_count += 1

    def cancel_fixed(self, key: Key, deadline_ms: int) -> bool:
        """Forget a key that was armed by `arm_fixed`; return whether it was still armed."""
        cursor_ms = self._cursor_ms
        slot: dict[Key, int] | None
        if deadline_ms <= cursor_ms:
            slot = self._overdue
        else:
            shift = _SHIFT_OF[(deadline_ms ^ cursor_ms).bit_length()]
            slot = self._slots[(shift << 5) + (deadline_ms >> shift & _DIGIT)]
        if slot is None or key not in slot:
            return False
        self._fixed_count -= 1
        self._remove(key, slot)
        return True

    def _slot_for(self, deadline_ms: int) -> dict[Key, int]:
        """Return where an entry with this deadline lies now. Raises ValueError as `arm` does."""
        cursor_ms = self._cursor_ms
        if deadline_ms <= cursor_ms:
            if not self._overdue or deadline_ms < self._overdue_from_ms:
                self._overdue_from_ms = deadline_ms
            return self._overdue
        try:
            shift = _SHIFT_OF[(deadline_ms ^ cursor_ms).bit_length()]
        except IndexError:
            raise ValueError(f"deadline beyond {DEADLINE_MAX_MS} ms: {deadline_ms}") from None
        digit = deadline_ms >> shift & _DIGIT
        return self._slots[(shift << 5) + digit] or self._open_slot(shift, digit)

    def cancel(self, key: Key) -> bool:
        """Forget the key's deadline; return whether there was one."""
        slot = self._slot_of.pop(key, None)
        if slot is None:
            return False
        # As in _remove, written out: a call costs as much as the rest.
        del slot[key]
        if not slot:
            slot.clear()
        self._removed_count = removed_count = self._removed_count + 1
        if not removed_count & _SHRINK_CHECK_MASK:
            self._shrink()
        return True

    def next_wake_ms(self) -> int | None:
        """Return when `advance` must be called next, or None if nothing is armed.

        That is never after the earliest deadline. It is before it only if entries must move to
        lower levels first; the call of `advance` at that time may return nothing.
        """
        if self._overdue:
            return self._overdue_from_ms
        for level, occupied in enumerate(self._occupied):
            while occupied:
                digit = (occupied & -occupied).bit_length() - 1
                if self._slots[level * SLOT_COUNT + digit]:
                    shift = level * 8
                    above = self._cursor_ms >> (shift + 8) << (shift + 8)
                    return above | digit << shift
                occupied &= occupied - 1
                self._occupied[level] = occupied
        return None

    def slots(self, until_ms: int) -> list[tuple[list[Key], list[int]]]:
        """Return the keys of each slot that begins up to a time, with their deadlines.

        The slots are in the order of time: everything in one is due before everything in the
        next. Within a slot there is no order.
        """
        found = []
        if self._overdue:
            found.append((list(self._overdue), list(self._overdue.values())))
        for level, occupied in enumerate(self._occupied):
            shift = level * 8
            above = self._cursor_ms >> (shift + 8) << (shift + 8)
            left = occupied
            while left:
                digit = (left & -left).bit_length() - 1
                left &= left - 1
                if above | digit << shift > until_ms:
                    return found
                slot = self._slots[level * SLOT_COUNT + digit]
                if slot:
                    found.append((list(slot), list(slot.values())))
        return found

    def advance(self, now_ms: int) -> list[Key]:
        """Move to this time and return the keys whose deadline is not after it, in order.

        See `take_due`.
        """
        return [key for key, _ in self.take_due(now_ms)]

    def take_due(self, now_ms: int) -> list[tuple[Key, int]]:
        """Do as `advance`, with the deadlines.

        A time before that of the last call counts as the time of the last call. Raises ValueError
        when it is beyond 2^63-1.
        """
        if now_ms > DEADLINE_MAX_MS:
            raise ValueError(f"now_ms must be at most {DEADLINE_MAX_MS}, not {now_ms}")
        due: list[tuple[Key, int]] = []
        if self._overdue:
            due.extend(self._overdue.items())
            self._overdue.clear()
        if now_ms > self._cursor_ms:
            self._take_passed_slots(now_ms, due)
        due.sort(key=_deadline_of_item)
        slot_of = self._slot_of
        for key, _ in due:
            if slot_of.pop(key, None) is None:
                self._fixed_count -= 1
        self._due_count += len(due)
        checked = self._removed_count >> _SHRINK_CHECK_BITS
        self._removed_count += len(due)
        if self._removed_count >> _SHRINK_CHECK_BITS != checked:
            self._shrink()
        return due

    def statistics(self) -> WheelStatistics:
        """Return counts of entries and of what was done."""
        return WheelStatistics(
            entries_count=len(self),
            armed_count=len(self) + self._removed_count,
            replaced_count=self._replaced_count,
            cancelled_count=self._removed_count - self._replaced_count - self._due_count,
            due_count=self._due_count,
            moved_count=self._moved_count,
        )

    def _remove(self, key: Key, slot: dict[Key, int]) -> None:
        """Take the key out of its slot, and give back memory that is no longer needed."""
        del slot[key]
        if not slot:
            slot.clear()  # an emptied dictionary keeps its table; a cleared one does not
        self._removed_count = removed_count = self._removed_count + 1
        if not removed_count & _SHRINK_CHECK_MASK:
            self._shrink()

    def _open_slot(self, shift: int, digit: int) -> dict[Key, int]:
        """Return the slot, made if need be, and mark it as occupied."""
        self._occupied[shift >> 3] |= 1 << digit
        index = (shift << 5) + digit
        slot = self._slots[index]
        if slot is None:
            slot = self._slots[index] = {}
        return slot

    def _take_passed_slots(self, now_ms: int, due: list[tuple[Key, int]]) -> None:
        """Move the cursor forward; add what has become due; spread the slot it has entered."""
        shift = _SHIFT_OF[(now_ms ^ self._cursor_ms).bit_length()]
        level = shift >> 3
        digit = now_ms >> shift & _DIGIT
        self._cursor_ms = now_ms
        for lower in range(level):
            self._take_slots(lower, _DIGIT, due)
        self._take_slots(level, digit - 1 if level else digit, due)
        if level and self._occupied[level] >> digit & 1:
            self._spread(level, digit, due)

    def _take_slots(self, level: int, last_digit: int, due: list[tuple[Key, int]]) -> None:
        """Empty the slots of a level up to this digit into `due`."""
        occupied = self._occupied[level]
        taken = occupied & ((2 << last_digit) - 1)
        self._occupied[level] = occupied ^ taken
        while taken:
            index = level * SLOT_COUNT + (taken & -taken).bit_length() - 1
            taken &= taken - 1
            slot = self._slots[index]
            if slot:
                due.extend(slot.items())
                slot.clear()

    def _spread(self, level: int, digit: int, due: list[tuple[Key, int]]) -> None:
        """Move the entries of the slot that the cursor is in to lower levels or into `due`."""
        self._occupied[level] ^= 1 << digit
        index = level * SLOT_COUNT + digit
        entries = self._slots[index]
        if not entries:
            return
        self._slots[index] = None
        cursor_ms = self._cursor_ms
        slots = self._slots
        slot_of = self._slot_of
        before_count = len(due)
        for key, deadline_ms in entries.items():
            if deadline_ms <= cursor_ms:
                due.append((key, deadline_ms))
                continue
            shift = _SHIFT_OF[(deadline_ms ^ cursor_ms).bit_length()]
            lower_digit = deadline_ms >> shift & _DIGIT
            slot = slots[(shift << 5) + lower_digit] or self._open_slot(shift, lower_digit)
            slot[key] = deadline_ms
            if key in slot_of:
                slot_of[key] = slot
        self._moved_count += len(entries) - (len(due) - before_count)

    def _shrink(self) -> None:
        """Rebuild the tables that are far larger than what they hold.

        A dictionary never shrinks by deletions. Rebuilding one costs as much as its remaining
        entries, and these are fewer than those that have left it.
        """
        for slot in self._slots:
            if slot is not None:
                _shrink_table(slot)
        _shrink_table(self._overdue)
        _shrink_table(self._slot_of)


Value = TypeVar("Value")


def _shrink_table(table: dict[Key, Value]) -> None:
    size_bytes = sys.getsizeof(table)
    if size_bytes > max(_SHRINK_LEAST_BYTES, len(table) * _TABLE_BYTES_PER_ENTRY):
        entries = list(table.items())
        table.clear()
        table.update(entries)

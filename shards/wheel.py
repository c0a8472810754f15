"""A hierarchical timing wheel: deadlines of millions of keys, exact to the millisecond.

Promises:

- `arm` and `cancel` take constant time, whatever the number of entries and however far the
  deadline. A canceled entry is gone immediately; nothing is left behind to be skipped later.
- `advance` returns each key once, at the first call whose time is at or after its deadline, in the
  order of the deadlines and, where these are equal, of arming.
- `take_due` with a limit does a limited part of that, and the next call goes on, so a caller need
  not wait for all that comes due together. A key that is canceled or armed again in between is not
  returned.
- A key whose deadline never changes, and is known to its owner, may be armed by `arm_fixed` and
  canceled by `cancel_fixed`: the wheel then need not remember where it is.
- Memory is two dictionary entries and one integer for each armed key, one entry for a fixed one.
  Tables that were large and are nearly empty now are shrunk, so memory follows the number of armed
  keys.
- The clock may jump by years: empty time costs nothing.

How it works. A deadline is seen as a number in base 256, and so is the cursor, the time that the
wheel has come to. The entry lies at the level of the highest digit in which the two differ, in the
slot of the deadline's digit there. So level 0 has slots of 1 ms and reaches to the end of the
current 256 ms, level 1 has slots of 256 ms and reaches to the end of the current 65.5 s, and so on
to level 7; what is before the cursor is overdue and has a heap of its own. Everything at a lower
level is due before everything at a higher one. When the cursor enters a slot, what is in it moves
to lower levels, at most seven times in an entry's life and usually twice.

The cursor goes from one occupied slot to the next, and on only when the slot is empty. A slot that
it has entered is *spreading* until all is moved. What is armed by then for a time within that
slot goes to the end of it, so equal deadlines keep their order.

A slot is a dictionary from key to deadline, which keeps the order of arming, and `_slot_of` knows
the dictionary that holds a key: canceling is two deletions. Where a deadline lies follows from the
cursor, so a fixed key's is found without: there, or in the slot that is spreading. One integer for
each level has a bit for each slot that may hold something; bits of slots that were emptied by
`cancel` are cleared when they are met.

Measured against a binary heap with lazy deletion in `bench/wheel.py`.
"""

import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import islice
from typing import Any, Final, Generic, TypeVar

from troth.core.model import PENDING, Promise

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
        "_near_ms",
        "_now_ms",
        "_occupied",
        "_overdue",
        "_overdue_heap",
        "_overdue_number",
        "_removed_count",
        "_replaced_count",
        "_slot_of",
        "_slots",
        "_spreading",
        "_spreading_level",
    )

    def __init__(self, now_ms: int) -> None:
        """Start empty at this time. Raises ValueError when it is negative or beyond 2^63-1."""
        if not 0 <= now_ms <= DEADLINE_MAX_MS:
            raise ValueError(f"now_ms must be within 0 and {DEADLINE_MAX_MS}, not {now_ms}")
        self._cursor_ms = now_ms
        self._now_ms = now_ms  # the cursor is behind it while something that is due is left
        self._near_ms = now_ms  # what is before is overdue, or belongs to the spreading slot
        self._slot_of: dict[Key, dict[Key, int]] = {}
        self._fixed_count = 0  # entries that are not in `_slot_of`
        # Digit d of the level with shift s is at (s << 5) + d, that is level * 256 + d.
        self._slots: list[dict[Key, int] | None] = [None] * (LEVEL_COUNT * SLOT_COUNT)
        self._occupied = [0] * LEVEL_COUNT
        self._spreading: dict[Key, int] | None = None
        self._spreading_level = 0
        self._overdue: dict[Key, int] = {}
        # The order of what is overdue: deadline and number of arming. What was canceled, or armed
        # again, is skipped: its number is not the key's.
        self._overdue_heap: list[tuple[int, int, Key]] = []
        self._overdue_number: dict[Key, int] = {}
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
        if slot is self._overdue:
            self._note_overdue(key, deadline_ms)

    def arm_fixed(self, key: Key, deadline_ms: int) -> None:
        """Set the deadline of a key that is not armed, and whose deadline will never change.

        Raises ValueError as `arm` does.
        """
        if self._near_ms <= deadline_ms <= DEADLINE_MAX_MS:
            # As in `_slot_for`, written out: every promise comes here.
            shift = _SHIFT_OF[(deadline_ms ^ self._cursor_ms).bit_length()]
            open_slot = self._slots[(shift << 5) + (deadline_ms >> shift & _DIGIT)]
            if open_slot:
                assert key not in open_slot, "a fixed key is armed once"
                open_slot[key] = deadline_ms
                self._fixed_count += 1
                return
        slot = self._slot_for(deadline_ms)
        assert key not in slot, "a fixed key is armed once"
        slot[key] = deadline_ms
        self._fixed_count += 1
        if slot is self._overdue:
            self._note_overdue(key, deadline_ms)

    def arm_first_fixed(self, promises: Sequence[Promise], least_ms: int) -> Sequence[Promise]:
        """Do as `arm_fixed` for the first of some promises; return the others, nearly always none.

        The first are pending, and their deadlines are not before `least_ms`.
        """
        cursor_ms, slots, shift_of = self._cursor_ms, self._slots, _SHIFT_OF
        least_ms = max(self._near_ms, least_ms)
        following = iter(promises)
        for promise in following:
            deadline_ms = promise.timeout
            if deadline_ms < least_ms or promise.state is not PENDING:
                break
            shift = shift_of[(deadline_ms ^ cursor_ms).bit_length()]
            digit = deadline_ms >> shift & _DIGIT
            slot = slots[(shift << 5) + digit] or self._open_slot(shift, digit)
            key: Any = promise.id
            assert key not in slot, "a fixed key is armed once"
            slot[key] = deadline_ms
        else:
            self._fixed_count += len(promises)
            return ()
        others = [promise, *following]
        self._fixed_count += len(promises) - len(others)
        return others

    def arm_all_fixed(
        self, keys: Sequence[Key], deadlines_ms: Sequence[int], now_ms: int
    ) -> list[Key]:
        """Do as `arm_fixed` for each of many; return those whose deadline is not after `now_ms`."""
        cursor_ms, slots, shift_of = self._cursor_ms, self._slots, _SHIFT_OF
        least_ms = max(self._near_ms, now_ms + 1)
        others: list[tuple[Key, int]] = []
        for key, deadline_ms in zip(keys, deadlines_ms, strict=True):
            if least_ms <= deadline_ms <= DEADLINE_MAX_MS:
                shift = shift_of[(deadline_ms ^ cursor_ms).bit_length()]
                slot = slots[(shift << 5) + (deadline_ms >> shift & _DIGIT)]
                if slot:
                    slot[key] = deadline_ms
                    continue
            others.append((key, deadline_ms))
            self.arm_fixed(key, deadline_ms)
        self._fixed_count += len(keys) - len(others)
        return [key for key, deadline_ms in others if deadline_ms <= now_ms]

    def cancel_fixed(self, key: Key, deadline_ms: int) -> bool:
        """Forget a key that was armed by `arm_fixed`; return whether it was still armed."""
        cursor_ms = self._cursor_ms
        slot: dict[Key, int] | None
        if deadline_ms < cursor_ms:
            slot = self._overdue
        elif deadline_ms < self._near_ms and key in (self._spreading or ()):
            slot = self._spreading
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
        if deadline_ms < self._near_ms:
            if deadline_ms < cursor_ms:
                return self._overdue
            assert self._spreading is not None, "nothing else is near"
            return self._spreading
        try:
            shift = _SHIFT_OF[(deadline_ms ^ cursor_ms).bit_length()]
        except IndexError:
            raise ValueError(f"deadline beyond {DEADLINE_MAX_MS} ms: {deadline_ms}") from None
        digit = deadline_ms >> shift & _DIGIT
        return self._slots[(shift << 5) + digit] or self._open_slot(shift, digit)

    def _note_overdue(self, key: Key, deadline_ms: int) -> None:
        """Give the key its place among those that are overdue."""
        if len(self._overdue) == 1:  # the others in the heap, if any, were canceled
            self._overdue_heap.clear()
            self._overdue_number.clear()
        number = len(self) + self._removed_count  # no two have the same
        self._overdue_number[key] = number
        heappush(self._overdue_heap, (deadline_ms, number, key))

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
        """Return when `take_due` must be called next, or None if nothing is armed.

        That is never after the earliest deadline. It is before it only if entries must move to
        lower levels first; the call at that time may return nothing.
        """
        if self._overdue:
            return self._overdue_heap[0][0]
        if self._spreading:
            return self._cursor_ms
        found = self._next_slot()
        return None if found is None else found[1]

    def _next_slot(self) -> tuple[int, int] | None:
        """Return the place of the first slot that holds something, and when it begins."""
        for level, occupied in enumerate(self._occupied):
            while occupied:
                digit = (occupied & -occupied).bit_length() - 1
                if self._slots[level * SLOT_COUNT + digit]:
                    return level * SLOT_COUNT + digit, self._beginning(level, digit)
                occupied &= occupied - 1
                self._occupied[level] = occupied
        return None

    def _beginning(self, level: int, digit: int) -> int:
        """Return the first time that belongs to a slot."""
        shift = level * 8
        return self._cursor_ms >> (shift + 8) << (shift + 8) | digit << shift

    def slots(self, until_ms: int) -> list[list[Mapping[Key, int]]]:
        """Return the slots that begin up to a time: keys and their deadlines, to look at soon.

        They are in the order of time: everything in one is due before everything in the next.
        Within a slot, which may have parts, there is no order. They are the wheel's own.
        """
        found: list[list[Mapping[Key, int]]] = []
        if self._overdue:
            found.append([self._overdue])
        if self._spreading:
            # What has moved out of it is in lower levels, and not before what is still there.
            found.append([self._spreading])
        for level, occupied in enumerate(self._occupied):
            left = occupied
            while left:
                digit = (left & -left).bit_length() - 1
                left &= left - 1
                if self._beginning(level, digit) > until_ms:
                    return found
                slot = self._slots[level * SLOT_COUNT + digit]
                if slot and self._spreading and level < self._spreading_level:
                    found[-1].append(slot)
                elif slot:
                    found.append([slot])
        return found

    def advance(self, now_ms: int) -> list[Key]:
        """Move to this time and return the keys whose deadline is not after it, in order.

        See `take_due`.
        """
        return [key for key, _ in self.take_due(now_ms)]

    def take_due(self, now_ms: int, limit_count: int = sys.maxsize) -> list[tuple[Key, int]]:
        """Do as `advance`, with the deadlines; take or move at most so many entries.

        If something is left, `next_wake_ms` is not after this time. A time before that of the last
        call counts as the time of the last call. Raises ValueError when it is beyond 2^63-1.
        """
        if now_ms > DEADLINE_MAX_MS:
            raise ValueError(f"now_ms must be at most {DEADLINE_MAX_MS}, not {now_ms}")
        self._now_ms = now_ms = max(now_ms, self._now_ms)
        due: list[tuple[Key, int]] = []
        left_count = limit_count
        while left_count > 0:
            if self._overdue:
                left_count -= self._take_overdue(left_count, due)
                continue
            if self._spreading is not None:
                left_count -= self._spread(left_count)
                continue
            found = self._next_slot()
            if found is None or found[1] > now_ms:
                self._cursor_ms = self._near_ms = now_ms
                break
            index, self._cursor_ms = found
            if index >= SLOT_COUNT:
                self._enter(index)
            else:
                self._near_ms = self._cursor_ms
                left_count -= self._take_slot(index, left_count, due)
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

    def take_any(self, limit_count: int) -> list[tuple[Key, int]]:
        """Take at most so many entries, whatever their deadlines, from a wheel that is given up.

        Nothing else may be done with the wheel from then on.
        """
        taken: list[tuple[Key, int]] = []
        slots = self._slots
        while len(taken) < limit_count:
            slot = self._overdue or self._spreading
            while not slot and slots:
                slot = slots[-1]
                if not slot:
                    slots.pop()
            if not slot:
                break
            some = list(islice(slot.items(), limit_count - len(taken)))
            for key, _ in some:
                del slot[key]
                self._slot_of.pop(key, None)
            taken += some
        return taken

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

    def _take_overdue(self, limit_count: int, due: list[tuple[Key, int]]) -> int:
        """Take what is overdue into `due`, at most so many; return how many were looked at."""
        heap, overdue, number_of = self._overdue_heap, self._overdue, self._overdue_number
        looked_count = 0
        while heap and looked_count < limit_count:
            deadline_ms, number, key = heappop(heap)
            looked_count += 1
            if number_of.get(key) == number:
                del number_of[key]
                if overdue.pop(key, None) is not None:
                    due.append((key, deadline_ms))
        if not heap:
            overdue.clear()
        return looked_count

    def _take_slot(self, index: int, limit_count: int, due: list[tuple[Key, int]]) -> int:
        """Take the slot of one millisecond into `due`, at most so many; return how many."""
        slot = self._slots[index]
        assert slot, "only a slot that holds something is taken"
        if len(slot) <= limit_count:
            due.extend(slot.items())
            count = len(slot)
            slot.clear()
            return count
        taken = list(islice(slot.items(), limit_count))
        for key, _ in taken:
            del slot[key]
        due += taken
        return limit_count

    def _enter(self, index: int) -> None:
        """Begin to spread the slot that the cursor is in."""
        level = index // SLOT_COUNT
        self._occupied[level] ^= 1 << (index & _DIGIT)
        self._spreading = self._slots[index]
        self._spreading_level = level
        self._slots[index] = None
        self._near_ms = self._cursor_ms + (1 << level * 8)

    def _spread(self, limit_count: int) -> int:
        """Move entries of the spreading slot to lower levels, at most so many; return how many."""
        entries = self._spreading
        assert entries is not None
        cursor_ms = self._cursor_ms
        slots = self._slots
        slot_of = self._slot_of
        is_last = len(entries) <= limit_count
        moved = list(islice(entries.items(), limit_count))
        for key, deadline_ms in moved:
            shift = _SHIFT_OF[(deadline_ms ^ cursor_ms).bit_length()]
            digit = deadline_ms >> shift & _DIGIT
            slot = slots[(shift << 5) + digit] or self._open_slot(shift, digit)
            slot[key] = deadline_ms
            if key in slot_of:
                slot_of[key] = slot
            if not is_last:
                del entries[key]
        if is_last:
            self._spreading = None
            self._near_ms = cursor_ms
        self._moved_count += len(moved)
        return len(moved)

    def _shrink(self) -> None:
        """Rebuild the tables that are far larger than what they hold.

        A dictionary never shrinks by deletions. Rebuilding one costs as much as its remaining
        entries, and these are fewer than those that have left it.
        """
        for slot in self._slots:
            if slot is not None:
                _shrink_table(slot)
        if self._spreading is not None:
            _shrink_table(self._spreading)
        _shrink_table(self._overdue)
        _shrink_table(self._slot_of)


Value = TypeVar("Value")


def _shrink_table(table: dict[Key, Value]) -> None:
    size_bytes = sys.getsizeof(table)
    if size_bytes > max(_SHRINK_LEAST_BYTES, len(table) * _TABLE_BYTES_PER_ENTRY):
        entries = dict(table)
        table.clear()
        table.update(entries)

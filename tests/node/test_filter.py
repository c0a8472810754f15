"""The filter of system calls, run instruction by instruction as the kernel would."""

import errno
import platform
import struct
from typing import Final

import pytest

from troth.node.filter import (
    ARCHITECTURES,
    CLONE,
    CLONE3,
    NAMESPACE_FLAGS,
    REFUSED,
    call_filter,
    filter_of_this_machine,
)

ALLOWED: Final = 0
INSTRUCTION_BYTES: Final = 8
I386: Final = 0x40000003
ARM: Final = 0x40000028
X32: Final = 0x40000000
# fork's and pthread_create's, as of the GNU C library.
FORK_FLAGS: Final = 0x01200011
THREAD_FLAGS: Final = 0x003D0F00
HARMLESS: Final = {
    "x86_64": {"read": 0, "mmap": 9, "fork": 57, "vfork": 58, "execve": 59, "prctl": 157},
    "aarch64": {"read": 63, "mmap": 222, "execve": 221, "prctl": 167, "openat": 56},
}


def answer(program: bytes, architecture: int, number: int, argument: int = 0) -> int:
    """What a filter makes of a call: `ALLOWED`, or the error that it ends with."""
    data = struct.pack("=iIQ6Q", number, architecture, 0, argument, *(0,) * 5)
    loaded = at = 0
    while True:
        code, yes, no, value = struct.unpack_from("=HBBI", program, at * INSTRUCTION_BYTES)
        at += 1
        if code == 0x20:
            (loaded,) = struct.unpack_from("=I", data, value)
        elif code == 0x06:
            assert value == 0x7FFF0000 or value >> 16 == 5
            return ALLOWED if value == 0x7FFF0000 else value & 0xFFFF
        else:
            is_so = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}
            at += yes if is_so[code] else no


@pytest.mark.parametrize("machine", ARCHITECTURES)
class TestEveryArchitecture:
    """What holds for the filter of each architecture."""

    def test_the_calls_of_the_table_are_refused_and_no_others(self, machine: str) -> None:
        architecture, column = ARCHITECTURES[machine]
        program = call_filter(machine)
        assert program is not None

        found = {
            number: given
            for number in range(600)
            if (given := answer(program, architecture, number)) != ALLOWED
        }

        expected = dict.fromkeys((numbers[column] for numbers in REFUSED.values()), errno.EPERM)
        assert found == {**expected, CLONE3[column]: errno.ENOSYS}
        assert len(expected) == len(REFUSED)
        assert not found.keys() & HARMLESS[machine].values()

    def test_processes_and_threads_may_be_made_but_no_namespaces(self, machine: str) -> None:
        architecture, column = ARCHITECTURES[machine]
        program = call_filter(machine)
        assert program is not None

        for flags in (FORK_FLAGS, THREAD_FLAGS):
            assert answer(program, architecture, CLONE[column], flags) == ALLOWED
            for flag in NAMESPACE_FLAGS.values():
                assert answer(program, architecture, CLONE[column], flags | flag) == errno.EPERM

    def test_calls_of_other_architectures_are_refused(self, machine: str) -> None:
        architecture, _ = ARCHITECTURES[machine]
        program = call_filter(machine)
        assert program is not None

        others = {one for one, _ in ARCHITECTURES.values()} - {architecture}
        for other in (I386, ARM, 0, *others):
            for number in (0, 20, 120):
                assert answer(program, other, number) == errno.EPERM
        for number in (X32, X32 | 9, X32 | 520, -1):
            assert answer(program, architecture, number) == errno.EPERM


def test_an_unknown_architecture_has_no_filter() -> None:
    assert call_filter("vax") is None


def test_a_machine_without_filter_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert filter_of_this_machine() == (call_filter(platform.machine()), "")

    monkeypatch.setattr(platform, "machine", lambda: "vax")

    assert filter_of_this_machine() == (None, "no filter is known for vax with 64 bits")

"""Which system calls a function's processes may not make: a filter that the kernel runs.

An execution's memory and processes are watched from outside, and it has given up its rights. Calls
that would undo either are refused: memory that belongs to no process, namespaces in which one has
all rights, and whatever else only an attack on the kernel needs. All other calls are allowed.

The filter is made here, by the node. `runner.py` installs it before the function's code runs;
it can never be removed, and whatever is started inherits it. It looks at the architecture first: a
number means another call in each, so a call of another architecture (32 bits, x32) is refused.
"""

import ctypes
import errno
import platform
import struct
from typing import Final

REFUSED: Final = {
    # Memory that belongs to no process, so the node cannot count it; System V's outlives its
    # makers, too.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    # Namespaces: in one of users of its own, a process has all capabilities.
    "unshare": (272, 97),
    "setns": (308, 268),
    # File systems.
    "mount": (165, 40),
    "umount2": (166, 39),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "mount_setattr": (442, 442),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    # Other processes' memory and files.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    # Parts of the kernel that have often been the way out.
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # The kernel itself.
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "acct": (163, 89),
}
"""Calls that end with EPERM: their numbers on x86_64 and on aarch64.

The numbers are those of Linux's arch/x86/entry/syscalls/syscall_64.tbl and
include/uapi/asm-generic/unistd.h; a number never changes its meaning.
"""
CLONE: Final = (56, 220)
"""Starts processes and threads; refused with a flag that makes a namespace."""
CLONE3: Final = (435, 435)
"""Its flags are in memory, where no filter can look. ENOSYS: then the C library takes `clone`."""
NAMESPACE_FLAGS: Final = {
    "CLONE_NEWNS": 0x00020000,
    "CLONE_NEWCGROUP": 0x02000000,
    "CLONE_NEWUTS": 0x04000000,
    "CLONE_NEWIPC": 0x08000000,
    "CLONE_NEWUSER": 0x10000000,
    "CLONE_NEWPID": 0x20000000,
    "CLONE_NEWNET": 0x40000000,
}
"""From include/uapi/linux/sched.h. `clone` has no bit left for CLONE_NEWTIME."""
ARCHITECTURES: Final = {
    # By `uname -m`: AUDIT_ARCH_... of include/uapi/linux/audit.h, and the column of the tables.
    "x86_64": (0xC000003E, 0),
    "aarch64": (0xC00000B7, 1),
}
_X32_CALL: Final = 0x40000000
"""The bit of calls with 32-bit addresses on x86_64. No other architecture has such numbers."""

# Instructions, from include/uapi/linux/bpf_common.h; what they load, from seccomp.h.
_LOAD, _RETURN = 0x20, 0x06
_IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT = 0x15, 0x35, 0x45
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _FIRST_ARGUMENT_OFFSET = 0, 4, 16
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2

_Instruction = tuple[int, int, str, str]
"""Code, value, and the labels to go on at if it is so and if not; empty: the next one."""


def call_filter(machine: str) -> bytes | None:
    """Return the filter for an architecture, named as by `uname -m`, as kernel instructions.

    None if it is not known here.
    """
    if machine not in ARCHITECTURES:
        return None
    architecture, column = ARCHITECTURES[machine]
    flags = 0
    for flag in NAMESPACE_FLAGS.values():
        flags |= flag
    instructions: list[_Instruction] = [
        (_LOAD, _ARCHITECTURE_OFFSET, "", ""),
        (_IF_EQUAL, architecture, "", "refuse"),
        (_LOAD, _NUMBER_OFFSET, "", ""),
        (_IF_AT_LEAST, _X32_CALL, "refuse", ""),
        (_IF_EQUAL, CLONE3[column], "unknown", ""),
        (_IF_EQUAL, CLONE[column], "clone", ""),
        *((_IF_EQUAL, numbers[column], "refuse", "") for numbers in REFUSED.values()),
    ]
    labels = {}
    for label, part in (
        ("allow", ((_RETURN, _ALLOW, "", ""),)),
        (
            "clone",
            (
                # The lower half of the argument: both architectures are little-endian.
                (_LOAD, _FIRST_ARGUMENT_OFFSET, "", ""),
                (_IF_ANY_BIT, flags, "refuse", "allow-clone"),
            ),
        ),
        ("allow-clone", ((_RETURN, _ALLOW, "", ""),)),
        ("refuse", ((_RETURN, _ERROR | errno.EPERM, "", ""),)),
        ("unknown", ((_RETURN, _ERROR | errno.ENOSYS, "", ""),)),
    ):
        labels[label] = len(instructions)
        instructions += part
    return b"".join(
        struct.pack("=HBBI", code, *(_distance(labels, at, to) for to in (yes, no)), value)
        for at, (code, value, yes, no) in enumerate(instructions)
    )


def _distance(labels: dict[str, int], at: int, label: str) -> int:
    return labels[label] - at - 1 if label else 0


def filter_of_this_machine() -> tuple[bytes | None, str]:
    """Return the filter to be used here; or None, and the reason."""
    machine = platform.machine()
    # An interpreter of 32 bits makes the calls of another architecture.
    found = call_filter(machine) if struct.calcsize("P") == 8 else None
    if found is None:
        return None, f"no filter is known for {machine} with {8 * struct.calcsize('P')} bits"
    # Asked for a filter that is nowhere, a kernel that has filters says that it cannot be read.
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, None, 0, 0)
    if ctypes.get_errno() != errno.EFAULT:
        return None, "this kernel has no filters for system calls (CONFIG_SECCOMP_FILTER)"
    return found, ""

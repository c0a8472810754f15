"""A time of day that is wrong, for one server: a library that its process is started with.

It adds to the clock what a file says, so that the clock can be set while the server runs. Durations
are not changed. Needs a C compiler.
"""

import shutil
import struct
import subprocess
from pathlib import Path
from typing import Final

_SOURCE: Final = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static volatile int64_t *ahead_s;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("WRONG_CLOCK");
    int file = path ? open(path, O_RDONLY) : -1;
    void *found = file < 0 ? MAP_FAILED : mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
    real = dlsym(RTLD_NEXT, "clock_gettime");
    ahead_s = found == MAP_FAILED ? 0 : found;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    if (!result && clock == CLOCK_REALTIME && ahead_s) time->tv_sec += *ahead_s;
    return result;
}
"""


class WrongClock:
    """The clock of one server. `environment` is what its process is started with."""

    def __init__(self, directory: Path, library: Path) -> None:
        self._file = directory / "clock"
        self.set(0)
        self.environment = {"LD_PRELOAD": str(library), "WRONG_CLOCK": str(self._file)}

    def set(self, ahead_s: int) -> None:
        """Set the clock ahead of, or behind, the machine's by that much."""
        if not self._file.exists():
            self._file.write_bytes(bytes(8))
        with self._file.open("r+b") as file:
            file.write(struct.pack("=q", ahead_s))


def build(directory: Path) -> Path | None:
    """Build the library; None if there is no C compiler."""
    if shutil.which("cc") is None:
        return None
    source, library = directory / "wrong_clock.c", directory / "wrong_clock.so"
    source.write_text(_SOURCE)
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library

"""The signals that come to the supervisor, as bytes on a socket: its selector waits for both."""

import contextlib
import signal
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def signals_received() -> Iterator[socket.socket]:
    """Yield a socket with the numbers of the signals that come, for a block."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGCHLD]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as `nohup` has it
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: None) for number in numbers}
    wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        yield ours
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        ours.close()
        theirs.close()

"""The program that a node starts for each sandbox: isolates itself, imports the code, runs tasks.

A program of its own, run as `python -I -S runner.py`; it needs only the standard library. The node
and it speak frames (`frame`, `read_frame`) over a socket, descriptor 3. The first frame says how to
isolate itself. From the import on, the function controls everything in this process, so the node
trusts none of it.

Python: this process is a *zygote*. It imports the handler once, and forks for every execution: a
process in a session of its own, with the execution's socket as descriptor 3 and its output as 1 and
2. Most of what that costs is the pages of memory that either of the two touches, since each has to
be copied: so what every execution does goes the shortest way through Python. JavaScript: this
process becomes Node.js, which runs `runner.js`.
"""

import array
import contextlib
import ctypes
import errno
import gc
import inspect
import json
import os
import pwd
import resource
import select
import socket
import struct
import sys
import traceback
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Final, NoReturn
from urllib.parse import parse_qsl

CHANNEL: Final = 3
KIND_BYTES: Final = 1
LENGTH_BYTES: Final = 4
FORK_ATTEMPTS_COUNT: Final = 100
FORK_INTERVAL_S: Final = 0.02
WARM_UP_COUNT: Final = 4
TRACEBACK_LIMIT_CHARACTERS: Final = 8_192
ERROR_LIMIT_CHARACTERS: Final = 2_000
USER_NAME: Final = "function"
"""Of a user that is a function's only."""
RESPONSE_KEYS: Final = ("Body", "StatusCode", "Header")

# From the kernel's headers.
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, _INSTRUCTION_BYTES = 22, 2, 8
_CLONE_NEWNS, _CLONE_NEWIPC = 0x00020000, 0x08000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 32, 4096
_MS_REC, _MS_PRIVATE = 16384, 1 << 18
_SYS_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
_SIGKILL: Final = 9

_MNT_SIZE: Final = "size=4m"
_ACCOUNTS_LIMIT_BYTES: Final = 1 << 20
"""A larger list of users is left as it is."""
_OWN_FILE: Final = __file__
_libc: Final = ctypes.CDLL(None, use_errno=True)
_prctl: Final = ctypes.CDLL(None).prctl
_prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
_decode_json: Final = json.JSONDecoder().raw_decode


def frame(kind: bytes, payload: bytes) -> bytes:
    """Return one message: a letter, the length of what follows, and that."""
    return kind + len(payload).to_bytes(LENGTH_BYTES, "big") + payload


def read_frame(receive: Callable[[int], bytes]) -> tuple[bytes, bytes]:
    """Read one message; raises EOFError at the end."""
    head = _read_exactly(receive, KIND_BYTES + LENGTH_BYTES)
    return head[:1], _read_exactly(receive, int.from_bytes(head[1:], "big"))


def _read_exactly(receive: Callable[[int], bytes], count: int) -> bytes:
    parts = []
    while count:
        part = receive(min(count, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


# Shutting in


def _call(function: Callable[..., int], *arguments: object) -> None:
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class _Filter(ctypes.Structure):
    """`struct sock_fprog` of linux/filter.h."""

    _fields_ = (("count", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _control(option: int, argument: int) -> None:
    if _prctl(option, argument, 0, 0, 0) != 0:
        # Again, in the way that says why.
        _call(_libc.prctl, option, argument, 0, 0, 0)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    _call(
        _libc.mount,
        source.encode() if source else None,
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        data.encode() or None,
    )


def shut_in(config: dict[str, Any]) -> None:
    """Give up everything a function must not have. Raises OSError; then nothing may be run."""
    for name, limit in config["limits"].items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    # The first brings a signal that tells, the second ends it.
    resource.setrlimit(resource.RLIMIT_CPU, (config["processor_s"], config["processor_s"] + 1))
    uid, gid = config["uid"], config["gid"]
    if uid is not None:
        if config["private_files"]:
            _make_files_private(config, uid, gid)
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    # Giving up rights has closed /proc/self; it is the function's.
    _control(_PR_SET_DUMPABLE, 1)
    # No set-user-id program gives back what was given up.
    _control(_PR_SET_NO_NEW_PRIVS, 1)
    # What the function leaves behind becomes a child of this process: the node finds it there.
    _control(_PR_SET_CHILD_SUBREAPER, 1)
    _die_with(config["node_process_id"])
    if config["call_filter"] is not None:
        _filter_calls(bytes.fromhex(config["call_filter"]))
    os.umask(0o077)
    os.chdir(config["work"])
    for name in ("HOME", "TMPDIR"):
        os.environ[name] = config["work"]
    for name in ("USER", "LOGNAME"):
        os.environ[name] = _user_name(uid)


def _user_name(uid: int | None) -> str:
    if uid is None:
        with contextlib.suppress(KeyError):
            return pwd.getpwuid(os.geteuid()).pw_name
    return USER_NAME


def _filter_calls(instructions: bytes) -> None:
    """Make the kernel refuse calls, from now on, to this process and its descendants."""
    program = _Filter(len(instructions) // _INSTRUCTION_BYTES, instructions)
    _call(_libc.prctl, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)


def _die_with(parent_id: int) -> None:
    """End when the parent does, even if that has happened already."""
    _control(_PR_SET_PDEATHSIG, _SIGKILL)
    if os.getppid() != parent_id:
        os._exit(1)


def _make_files_private(config: dict[str, Any], uid: int, gid: int) -> None:
    """Enter a mount namespace: the work directory is /tmp, the code is read-only at /mnt/code.

    So nothing the function can write to outlives it or escapes its quota (what is open to all users
    elsewhere, as /run/lock is, becomes read-only), and neither the node's directory nor the
    interpreter's need be open to all users.
    """
    prefix_is_closed = not _is_open_to(uid, gid, os.__file__)
    script = b""
    if config["script"]:
        with open(config["script"], "rb") as file:
            script = file.read()
    _call(_libc.unshare, _CLONE_NEWNS | _CLONE_NEWIPC)
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    _make_read_only()
    # What the mounts cover is reached by descriptors that were opened before.
    sources = {name: os.open(config[name], os.O_PATH) for name in ("code", "work")}
    if prefix_is_closed:
        sources["python"] = os.open(sys.base_prefix, os.O_PATH)
    _mount("tmpfs", "/mnt", "tmpfs", _MS_NOSUID | _MS_NODEV, f"{_MNT_SIZE},mode=755")
    for name in sorted(sources.keys() - {"work"}):
        os.mkdir(f"/mnt/{name}", 0o755)
        _bind(sources[name], f"/mnt/{name}", _MS_RDONLY)
    if script:
        config["script"] = "/mnt/runner.js"
        with open(config["script"], "wb") as file:
            file.write(script)
        os.chmod(config["script"], 0o444)
    accounts = _name_user(uid, gid)
    _mount(None, "/mnt", None, _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV, _MNT_SIZE)
    for name in accounts:
        account = os.open(f"/mnt/{name}", os.O_PATH)
        _bind(account, f"/etc/{name}", _MS_RDONLY)
        os.close(account)
    for target in ("/dev/shm", "/var/tmp", "/tmp"):  # noqa: S108 — to put the own one in its place
        if os.path.isdir(target):
            _bind(sources["work"], target, 0)
    if tuple(int(part) for part in os.uname().release.split(".")[:2]) >= (5, 8):
        # Before, hiding others' processes was not a property of this one mount.
        _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV, "hidepid=2")
    for descriptor in sources.values():
        os.close(descriptor)
    config["code"], config["work"] = "/mnt/code", "/tmp"  # noqa: S108
    if prefix_is_closed:
        old = sys.base_prefix
        sys.path[:] = [path.replace(old, "/mnt/python", 1) for path in sys.path]
        sys.executable = sys.executable.replace(old, "/mnt/python", 1)
        # Where a Python that a function starts finds its library, if it is one of its own.
        os.environ["LD_LIBRARY_PATH"] = "/mnt/python/lib"
        sys.path_importer_cache.clear()
        for module in list(sys.modules.values()):
            if hasattr(module, "__path__"):
                # A package that is loaded: the rest of it is there, too.
                module.__path__ = [path.replace(old, "/mnt/python", 1) for path in module.__path__]


def _name_user(uid: int, gid: int) -> list[str]:
    """Write the machine's lists of users and groups with this one in them; return their names.

    Much asks for its own name: getpass, git, ssh, Node.js's os.userInfo.
    """
    lines = {
        "passwd": f"{USER_NAME}:x:{uid}:{gid}::/tmp:/bin/sh\n",
        "group": f"{USER_NAME}:x:{gid}:\n",
    }
    made = []
    for name, line in lines.items():
        with contextlib.suppress(FileNotFoundError):
            # A machine may have none.
            with open(f"/etc/{name}", "rb") as file:
                content = file.read(_ACCOUNTS_LIMIT_BYTES)
            if len(content) == _ACCOUNTS_LIMIT_BYTES:
                continue
            with open(f"/mnt/{name}", "wb") as file:
                file.write(line.encode() + content)
            os.chmod(f"/mnt/{name}", 0o444)
            made.append(name)
    return made


def _make_read_only() -> None:
    """Make all present file systems read-only; what is mounted afterwards is not."""
    attributes = struct.pack("QQQQ", _MOUNT_ATTR_RDONLY, 0, 0, 0)
    arguments = (_AT_FDCWD, b"/", _AT_RECURSIVE, attributes, ctypes.c_size_t(len(attributes)))
    try:
        _call(_libc.syscall, _SYS_MOUNT_SETATTR, *arguments)
    except OSError as error:
        # Before Linux 5.12 there is no way to do it to all together.
        if error.errno != errno.ENOSYS:
            raise


def _is_open_to(uid: int, gid: int, path: str) -> bool:
    os.setegid(gid)
    os.seteuid(uid)
    try:
        with open(path, "rb"):
            return True
    except OSError:
        return False
    finally:
        os.seteuid(0)
        os.setegid(0)


def _bind(source: int, target: str, flags: int) -> None:
    _mount(f"/proc/self/fd/{source}", target, None, _MS_BIND)
    safe = _MS_NOSUID | _MS_NODEV | flags
    _mount(None, target, None, _MS_REMOUNT | _MS_BIND | safe)


# What a handler is given, and what becomes of what it returns


class HandlerRequest:
    """What `handle` is called with. Header names are in lower case."""

    def __init__(self, meta: dict[str, Any], body: bytes) -> None:
        try:
            self.Body: str | bytes = body.decode()
        except UnicodeDecodeError:
            self.Body = body
        self.Header = {name.lower(): text for name, text in meta["headers"]}
        self.QueryString: str = meta["query"]
        query = self.QueryString
        self.Query = dict(parse_qsl(query, keep_blank_values=True)) if query else {}
        self.Method: str = meta["method"]
        self.Host: str = meta["host"]
        self.TaskId: str = meta["id"]
        self._shown_percent = -1

    def progress(self, percent: float) -> None:
        """Report how far the function is: 0 to 100."""
        shown = min(100, max(0, int(percent)))
        if shown != self._shown_percent:
            self._shown_percent = shown
            _send(frame(b"P", b"%d" % shown))


def response_of(value: object) -> tuple[int, list[tuple[str, str]], bytes]:
    """Return status, headers and body of a handler's result. Raises TypeError, ValueError."""
    if not isinstance(value, Mapping) or value.keys().isdisjoint(RESPONSE_KEYS):
        body, kind = _body_of(value)
        return 200, [("content-type", kind)], body
    for key in value:
        if key not in RESPONSE_KEYS:
            # Left out in silence, it would be missed much later.
            raise TypeError(
                f"a response has only {', '.join(RESPONSE_KEYS)}, not {key}; to send an object "
                "with these names, put it into Body"
            )
    status = value.get("StatusCode", 200)
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
        raise ValueError(f"StatusCode must be an integer from 200 to 599, not {status!r}")
    headers = _headers_of(value.get("Header"))
    if "Body" not in value:
        return status, headers, b""
    body, kind = _body_of(value["Body"])
    if not any(name.lower() == "content-type" for name, _ in headers):
        headers.append(("content-type", kind))
    return status, headers, body


def _headers_of(given: object) -> list[tuple[str, str]]:
    """Return the pairs of a mapping or a list of pairs; a value may be a list of texts."""
    if given is None:
        return []
    headers = []
    for name, content in given.items() if isinstance(given, Mapping) else list(given):  # type: ignore[call-overload]
        for text in content if isinstance(content, list | tuple) else [content]:
            if not isinstance(text, str | int | float):
                raise TypeError(f"the header {name} must be a text, not {type(text).__name__}")
            headers.append((str(name), str(text)))
    return headers


def _body_of(value: object) -> tuple[bytes, str]:
    if isinstance(value, str):
        return value.encode(), _TEXT_TYPE
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value), "application/octet-stream"
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode(), "application/json"


def _error_frame(kind: bytes, error: BaseException) -> bytes:
    content = {
        "type": _shown(lambda: type(error).__name__, "Exception"),
        "message": _shown(lambda: str(error), "(the error's text cannot be shown)"),
    }
    return frame(kind, json.dumps(content).encode())


def _shown(text: Callable[[], str], otherwise: str) -> str:
    """Return a text that can be sent: halves of surrogate pairs become question marks."""
    try:
        return text()[:ERROR_LIMIT_CHARACTERS].encode(errors="replace").decode()
    except Exception:  # the function's own class may fail at anything
        return otherwise


def _print_traceback(error: BaseException) -> None:
    """Print to the output, which the node logs; without the lines of this file."""
    inner = error.__traceback__
    while inner is not None and inner.tb_frame.f_code.co_filename == _OWN_FILE:
        inner = inner.tb_next
    # A class that cannot be shown, or an output that was closed: the error itself is still told.
    with contextlib.suppress(OSError, ValueError, RecursionError, MemoryError):
        shown = "".join(traceback.format_exception(type(error), error, inner))
        print(shown[-TRACEBACK_LIMIT_CHARACTERS:], file=sys.stderr, flush=True)


# Python executions


def import_handler(code: str) -> Callable[[HandlerRequest], Any]:
    """Return the function `handle` of handler.py in the code's folder.

    Raises whatever that raises.
    """
    sys.path.insert(0, code)
    sys.dont_write_bytecode = True
    import handler  # type: ignore[import-not-found]

    assert isinstance(handler, ModuleType)
    handle = getattr(handler, "handle", None)
    if not callable(handle):
        raise TypeError("handler.py has no function named handle")
    if inspect.iscoroutinefunction(handle):
        # Once, not in every task.
        import asyncio

        assert asyncio
    return handle  # type: ignore[no-any-return]


def serve_tasks(control: socket.socket, handle: Callable[[HandlerRequest], Any]) -> None:
    """Fork for each execution the node sends descriptors for, until it closes the socket."""
    warm_up()
    gc.collect()
    gc.freeze()
    own_id = os.getpid()
    while True:
        kind, descriptors = _receive_execution(control)
        if not kind:
            return
        child_id = _fork()
        if child_id == 0:
            _run_execution(own_id, descriptors, handle)
        for descriptor in descriptors:
            os.close(descriptor)
        _, status = os.waitpid(child_id, 0)
        _reap()
        control.sendall(frame(b"X", b"%d" % status))


def warm_up() -> None:
    """Do once what every execution does, so that no execution finds a cache empty: each begins with
    these.
    """
    meta = {"headers": [["a", "b"]], "query": "a=b", "method": "POST", "host": "", "id": ""}
    packed = json.dumps(meta).encode()
    payload = len(packed).to_bytes(LENGTH_BYTES, "big") + packed + b"{}"
    answer = {"Body": "", "StatusCode": 200}
    samples: tuple[object, ...] = ("", b"", None, 1, 1.0, True, [], (), {}, answer)
    # Python specializes what it has run several times, each time for one kind of value.
    for _ in range(WARM_UP_COUNT):
        for sample in samples:
            HandlerRequest(*_split(payload))
            if not inspect.isawaitable(sample):
                _result_frame(sample)


def _fork() -> int:
    """Fork, even if what another execution of the user has started is just being ended."""
    for _ in range(FORK_ATTEMPTS_COUNT):
        try:
            return os.fork()
        except BlockingIOError:
            select.select((), (), (), FORK_INTERVAL_S)
    return os.fork()


def _receive_execution(control: socket.socket) -> tuple[bytes, list[int]]:
    descriptors = array.array("i")
    room = socket.CMSG_SPACE(2 * descriptors.itemsize)
    kind, ancillary, _, _ = control.recvmsg(1, room)
    for _, _, content in ancillary:
        descriptors.frombytes(content)
    return kind, list(descriptors)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            pass
    except ChildProcessError:
        pass  # none is left


def _run_execution(
    zygote_id: int, descriptors: list[int], handle: Callable[[HandlerRequest], Any]
) -> NoReturn:
    """Be one execution: in a forked process, which ends here whatever happens."""
    try:
        os.setsid()
        _die_with(zygote_id)
        # Its own /proc/self is the function's; the zygote's is not.
        _control(_PR_SET_DUMPABLE, 1)
        channel, output = descriptors
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        os.dup2(channel, CHANNEL)
        os.close(channel)
        _answer(handle)
    except BaseException as error:
        # Only the node closing the channel under it, or memory running out while an error is told.
        os.write(2, repr(error).encode(errors="replace")[:ERROR_LIMIT_CHARACTERS])
        os._exit(1)
    os._exit(0)


def _answer(handle: Callable[[HandlerRequest], Any]) -> None:
    _, payload = read_frame(lambda count: os.read(CHANNEL, count))
    meta, body = _split(payload)
    os.environb[b"TROTH_TASK_ID"] = meta["id"].encode()
    try:
        request = HandlerRequest(meta, body)
        value = handle(request)
        if type(value) is not str and inspect.isawaitable(value):
            import asyncio

            async def outcome() -> Any:
                return await value

            value = asyncio.run(outcome())
        result = _result_frame(value)
    except BaseException as error:
        # Whatever ends the function is its result: SystemExit and KeyboardInterrupt too.
        _print_traceback(error)
        result = _error_frame(b"E", error)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception as error:
            # The function has closed it or put something else in its place; its result counts.
            _print_traceback(error)
    _send(result)


def _described(status: int, headers: list[tuple[str, str]]) -> bytes:
    # Escaped, half a surrogate pair would pass here and not at the node; so it is an error here.
    described = json.dumps({"status": status, "headers": headers}, ensure_ascii=False).encode()
    return len(described).to_bytes(LENGTH_BYTES, "big") + described


_TEXT_TYPE: Final = "text/plain; charset=utf-8"
_TEXT_DESCRIBED: Final = _described(200, [("content-type", _TEXT_TYPE)])


def _result_frame(value: object) -> bytes:
    if type(value) is str:
        return frame(b"R", _TEXT_DESCRIBED + value.encode())
    status, headers, content = response_of(value)
    return frame(b"R", _described(status, headers) + content)


def _split(payload: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(payload[:LENGTH_BYTES], "big")
    # Without the patterns that `json.loads` looks for spaces with: no less, and fewer pages.
    meta, _ = _decode_json(payload[LENGTH_BYTES : LENGTH_BYTES + length].decode())
    return meta, payload[LENGTH_BYTES + length :]


def _send(content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(CHANNEL, view) :]


def _become_node(config: dict[str, Any]) -> NoReturn:
    """Run Node.js in place of this program, with the channel and the output as they are."""
    os.set_inheritable(CHANNEL, True)
    heap = f"--max-old-space-size={config['heap_mb']}"
    arguments = ["node", heap, config["script"], config["code"], str(config["result_bytes"])]
    os.execve(config["program"], arguments, dict(os.environ))  # noqa: S606 — no shell is wanted


def main() -> None:
    """Be a sandbox until the node closes the channel."""
    # It comes as the standard input, the one descriptor whose number the node can choose.
    os.dup2(0, CHANNEL, inheritable=False)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=CHANNEL)
    _, payload = read_frame(control.recv)
    config = json.loads(payload)
    try:
        shut_in(config)
    except (OSError, ValueError) as error:
        control.sendall(_error_frame(b"N", error))
        return
    if config["language"] == "JS":
        control.detach()
        _become_node(config)
    # A process that multiprocessing starts would run this file as its own main program, which
    # may be where functions cannot look. To them, there is no such file.
    del sys.modules["__main__"].__file__
    try:
        handle = import_handler(config["code"])
    except BaseException as error:
        # Also SystemExit: a module that exits gives no handler.
        _print_traceback(error)
        control.sendall(_error_frame(b"F", error))
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    # No execution looks into this process, from which the next ones come.
    _control(_PR_SET_DUMPABLE, 0)
    control.sendall(frame(b"Y", b""))
    serve_tasks(control, handle)


if __name__ == "__main__":
    main()

"""What can go wrong with a request inside the shards, by who is to blame: always the server.

Each but `CallFailed` is answered with 503, so that a client tries again later. None of them says
whether the command took effect, except `Overloaded` and `OutOfReach`: then it did not.
"""

from typing import ClassVar

from troth.core.codes import Code


class ShardsError(Exception):
    """The server could not carry out a command; nothing is wrong with the command itself.

    `code` is what the client is answered.
    """

    code: ClassVar[Code] = Code.SHUTTING_DOWN


class Overloaded(ShardsError):
    """A queue is full; the command was not taken (503)."""

    code = Code.OVERLOADED


class Stopping(ShardsError):
    """The server is shutting down (503)."""

    code = Code.SHUTTING_DOWN


class StorageFailed(ShardsError):
    """The log could not be written; the server will end (503)."""

    code = Code.STORE_FAILED


class OutOfReach(Overloaded):
    """The process that has the shard is away; the command was not taken (503)."""

    code = Code.OUT_OF_REACH


class LinkBroken(ShardsError):
    """The process that has the shard went away before it answered (503)."""

    code = Code.LINK_BROKEN


class CallFailed(ShardsError):
    """Another process failed to answer what this one asked it: a defect (500)."""

    code = Code.INTERNAL

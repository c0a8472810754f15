"""What can go wrong with a request inside the shards, by who is to blame: always the server.

Each is answered with 503, so that a client tries again later. None of them says whether the command
took effect, except `Overloaded`: then it did not.
"""


class ShardsError(Exception):
    """The server could not carry out a command; nothing is wrong with the command itself."""


class Overloaded(ShardsError):
    """A queue is full; the command was not taken (503, code 50301)."""


class Stopping(ShardsError):
    """The server is shutting down (503, code 50300)."""


class StorageFailed(ShardsError):
    """The log could not be written; the server will end (503, code 50304)."""

"""Errors that end an execution or a node, by who is to blame."""


class NodeError(Exception):
    """The node cannot go on; the text says what the operator can do."""


class ServerRefused(Exception):
    """The server answered a request with a status that does not mean success."""

    def __init__(self, status: int, text: str) -> None:
        """Initialize. `text` is the server's explanation."""
        super().__init__(f"{status} {text}".rstrip())
        self.status = status


class NotReached(Exception):
    """The server did not answer, or not in HTTP."""


class AnswerTooLarge(NotReached):
    """The server answered with more than a node takes, and would again; the text says how much."""


class CodeRefused(Exception):
    """The function's code cannot be used; the text is for its author."""


class SandboxError(Exception):
    """A sandbox could not be set up on this machine; the function is not to blame."""

"""Reads Python source from standard input and writes what is wrong with it, as JSON.

A program of its own (`python_check.py` starts it): the author of the source may try to exhaust or
crash the compiler. It limits itself before it reads anything, runs nothing of the source and needs
nothing but the standard library. Arguments: the file's name, seconds, bytes of memory.
"""

import ast
import json
import resource
import sys
from collections.abc import Iterable, Iterator

_FUNCTION = "handle"


def main() -> None:
    """Answer with a list of lines, empty if the source is fine."""
    name, seconds, memory_bytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    problem = _problem(sys.stdin.buffer.read(), name)
    sys.stdout.write(json.dumps([] if problem is None else [problem]))


def _problem(source: bytes, name: str) -> str | None:
    try:
        tree = ast.parse(source, name)
        compile(source, name, "exec", dont_inherit=True)
    except SyntaxError as error:
        place = "" if error.lineno is None else f", line {error.lineno}"
        return f"{name}{place}: {error.msg}"
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        return f"{name}: cannot be compiled ({error or type(error).__name__})"
    if _FUNCTION not in _names(tree.body):
        return f"{name}: has no function {_FUNCTION!r} at its top level; define it: " + (
            f"`def {_FUNCTION}(request):`"
        )
    return None


def _names(statements: Iterable[ast.stmt]) -> Iterator[str]:
    """Yield the names that top-level statements may bind; a star import may bind any."""
    for statement in statements:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement.name
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            for alias in statement.names:
                yield _FUNCTION if alias.name == "*" else alias.asname or alias.name
        else:
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    yield node.id
                elif isinstance(node, ast.stmt) and node is not statement:
                    yield from _names([node])


if __name__ == "__main__":
    main()

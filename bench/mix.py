"""Files that describe a run: options and the weights of a mix, in TOML.

[options]
connections = [16, 64]
duration = 10
payload-bytes = 500

[mix]
read = 6
create = 3
locks = 1
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .client import BenchError
from .scenarios.table import MIXABLE


@dataclass(frozen=True)
class MixFile:
    """What a file says: options as on the command line, and weights by scenario."""

    options: dict[str, Any]
    mix: dict[str, float]


def read_mix(path: Path, allowed_options: frozenset[str]) -> MixFile:
    """Read a file. Raises BenchError that says what is wrong with it."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchError(f"{path}: {error}") from error
    unknown = set(content) - {"options", "mix"}
    if unknown:
        raise BenchError(f"{path}: [{min(unknown)}] is unknown; use [options] and [mix].")
    options, mix = content.get("options", {}), content.get("mix", {})
    for name in options:
        if name not in allowed_options:
            allowed = ", ".join(sorted(allowed_options))
            raise BenchError(f"{path}: {name!r} is not an option; must be one of {allowed}.")
    for name, weight in mix.items():
        if name not in MIXABLE:
            allowed = ", ".join(MIXABLE)
            raise BenchError(f"{path}: {name!r} cannot be mixed; must be one of {allowed}.")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or weight <= 0:
            raise BenchError(f"{path}: the weight of {name} must be above 0 (got {weight!r}).")
    return MixFile(options, {name: float(weight) for name, weight in mix.items()})

"""A Containerfile as data, and its steps carried out in a plain directory instead of an image.

Only what the file of this repository uses is understood; anything else is an error.
"""

import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

INSTRUCTIONS: Final = frozenset(
    {
        *("FROM", "LABEL", "WORKDIR", "COPY", "RUN", "ENV", "USER", "VOLUME", "EXPOSE"),
        *("STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"),
    }
)


@dataclass(frozen=True)
class Step:
    """One instruction and the rest of its line."""

    instruction: str
    text: str

    @property
    def words(self) -> list[str]:
        """The text as a shell would split it, or the list that it is."""
        if self.text.startswith("["):
            return [str(word) for word in json.loads(self.text)]
        return shlex.split(self.text)


@dataclass
class Stage:
    """A stage: its base, its name (empty for the last), its steps."""

    base: str
    name: str
    steps: list[Step] = field(default_factory=list)

    def all(self, instruction: str) -> list[Step]:
        """Return the steps with an instruction."""
        return [step for step in self.steps if step.instruction == instruction]

    def last(self, instruction: str) -> Step:
        """Return the last step with an instruction, which is the one that counts."""
        return self.all(instruction)[-1]

    @property
    def environment(self) -> dict[str, str]:
        """All variables that the stage sets."""
        words = [word for step in self.all("ENV") for word in step.words]
        return dict(word.split("=", 1) for word in words)


def stages(text: str) -> list[Stage]:
    """Read a Containerfile. Raises ValueError for an instruction that it does not know."""
    found: list[Stage] = []
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        instruction, _, rest = line.strip().partition(" ")
        if not instruction:
            continue
        if instruction not in INSTRUCTIONS:
            raise ValueError(f"{instruction} is not understood")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            found.append(Stage(base, name))
        else:
            found[-1].steps.append(Step(instruction, rest.strip()))
    return found


def read(path: Path) -> list[Stage]:
    """Read a Containerfile."""
    return stages(path.read_text(encoding="utf-8"))

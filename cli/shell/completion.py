"""`troth completion SHELL`: what makes a shell complete the commands and options of `troth`."""

from typing import Final

import click
from click.shell_completion import get_completion_class

from troth.cli.output import emit

SHELLS: Final = ("bash", "zsh", "fish")
VARIABLE: Final = "_TROTH_COMPLETE"
"""Where the shell says what it wants completed: click's name for it."""


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes a shell complete commands.

    It completes commands, options and names of files.

    \b
    Examples:
      troth completion bash
      echo 'eval "$(troth completion bash)"' >> ~/.bashrc
      echo 'eval "$(troth completion zsh)"' >> ~/.zshrc
      troth completion fish > ~/.config/fish/completions/troth.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None, "click knows these three"
    emit(kind(context.find_root().command, {}, "troth", VARIABLE).source())

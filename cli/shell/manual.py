"""`troth manual`: the manual page, made from the same help texts as `--help`.

Each command formats its own help, into roff instead of columns; so options are under the headings
that its help gives them, and nothing is written twice.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

import click

from troth import __version__
from troth.cli.output import emit

_AS_IS: Final = "\b\n"
"""Begins a paragraph whose lines are kept as they are."""


class RoffFormatter(click.HelpFormatter):
    """Writes a command's help as a section of a manual page."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:  # noqa: ARG002
        """Write how the command is called."""
        self.write(f".PP\n.B {_escaped(prog)}\n{_escaped(args)}\n" if args else "")

    def write_heading(self, heading: str) -> None:
        """Write the heading of options."""
        self.write(f".PP\n.I {_escaped(heading)}:\n")

    def write_paragraph(self) -> None:
        """Begin a paragraph; those of texts begin themselves."""

    def write_text(self, text: str) -> None:
        """Write paragraphs."""
        for paragraph in text.split("\n\n"):
            if paragraph.startswith(_AS_IS):
                lines = _escaped(paragraph.removeprefix(_AS_IS))
                self.write(f".PP\n.nf\n{lines}\n.fi\n")
            elif paragraph.strip():
                self.write(f".PP\n{_escaped(_one_line(paragraph))}\n")

    def write_dl(
        self,
        rows: Iterable[tuple[str, str]],
        col_max: int = 30,  # noqa: ARG002
        col_spacing: int = 2,  # noqa: ARG002
    ) -> None:
        """Write options, or commands, each with what it means."""
        for term, meaning in rows:
            self.write(f".TP\n.B {_escaped(term)}\n{_escaped(_one_line(meaning))}\n")

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Write a heading before what is written in the block."""
        self.write_heading(name)
        yield

    @contextmanager
    def indentation(self) -> Iterator[None]:
        """Indent nothing: roff does."""
        yield


def manual() -> str:
    """Return the manual page of `troth`, in roff."""
    from troth.cli.command import troth

    context = troth.make_context("troth", ["version"])
    parts = [
        f'.TH TROTH 1 "" "Troth {__version__}" "User Commands"\n',
        ".SH NAME\ntroth \\- durable promises: a server, and the commands that talk to it\n",
        ".SH SYNOPSIS\n.B troth\n.I COMMAND\n[\\fIOPTIONS\\fR] [\\fIARGUMENTS\\fR]\n",
        f".SH DESCRIPTION\n{_help_of(troth, context)}",
    ]
    for name in troth.list_commands(context):
        command = troth.get_command(context, name)
        assert command is not None
        parts += _sections(command, name, context, ".SH")
    parts.append(_END)
    text = re.sub(r"\n{2,}", "\n", "".join(parts))
    return re.sub(r"^(\.S[HS] .*\n)\.PP\n", r"\1", text, flags=re.MULTILINE)


def _sections(command: click.Command, name: str, parent: click.Context, macro: str) -> list[str]:
    """Return the section of a command, and those of its own commands."""
    context = click.Context(command, info_name=name, parent=parent)
    title = context.command_path.upper() if macro == ".SH" else context.command_path
    parts = [f'{macro} "{_escaped(title)}"\n{_help_of(command, context)}']
    if isinstance(command, click.Group):
        for own in command.list_commands(context):
            found = command.get_command(context, own)
            assert found is not None
            parts += _sections(found, own, context, ".SS")
    return parts


def _help_of(command: click.Command, context: click.Context) -> str:
    formatter = RoffFormatter(width=10_000)
    command.format_help(context, formatter)
    return formatter.getvalue()


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _escaped(text: str) -> str:
    """Return a text that roff takes as it is: no line of it is a command."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    text = text.replace("`", "\\(ga").replace("…", "...").replace("°", "\\(de")
    return re.sub(r"^\.", "\\&.", text, flags=re.MULTILINE)


_END: Final = r""".SH "EXIT STATUS"
.TP
.B 0
done
.TP
.B 1
refused by the server, or failed
.TP
.B 2
wrong usage
.TP
.B 3
no server can be reached
.TP
.B 130
interrupted
.SH ENVIRONMENT
Every setting of
.B troth serve
is a variable: its name in capitals after TROTH_. Commands that talk to a server read TROTH_SERVER,
TROTH_TOKEN, TROTH_USER, TROTH_PASSWORD and TROTH_CA_FILE.
"""


@click.command("manual")
def manual_command() -> None:
    """Print the manual page of `troth`, in roff.

    \b
    Examples:
      troth manual | man -l -
      troth manual | sudo tee /usr/local/share/man/man1/troth.1 > /dev/null
    """
    emit(manual().rstrip("\n"))

"""`troth health`: whether a server is ready, for scripts and for whatever supervises containers."""

import click

from troth.cli.connection.answers import ApiAnswer, RequestRefused
from troth.cli.options import ServerCommand, Session, server_command
from troth.cli.output import visible


@click.command(cls=ServerCommand)
@click.option(
    "--live",
    "only_live",
    is_flag=True,
    help="Check only whether it is alive: true also while it starts or stops.",
)
@server_command
def health(session: Session, only_live: bool) -> None:
    """Check whether a server is ready, by exit status.

    No token is needed. The exit status is 0 if it is ready, 1 if it starts, stops or is
    overloaded, and 3 if it cannot be reached. It gives up after 30 s.

    \b
    Examples:
      troth health
      troth health --live --server http://10.0.0.1:8001
    """
    try:
        answer = session.client.ask("GET", "/health" if only_live else "/ready")
    except RequestRefused as refusal:
        if session.as_json:
            raise
        raise click.ClickException(" ".join(refusal.message.split())) from refusal
    session.show(answer, lambda: _text(answer, session.client.shown_url))


def _text(answer: ApiAnswer, url: str) -> str:
    text = f"{visible(url)}: {visible(answer.content['status'])}"
    clock = answer.content.get("clock")
    return f"{text}; {visible(clock)}" if clock else text

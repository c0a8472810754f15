"""`troth data retention`: delete now what a server's retention rules reach, or count it."""

import click

from troth.cli.operator_session import administrator_command
from troth.cli.options import TEXT, ServerCommand, Session
from troth.cli.output import span, table


@click.command("retention", cls=ServerCommand)
@click.option("--dry-run", is_flag=True, help="Only count; delete nothing.")
@click.option(
    "--retain",
    type=TEXT,
    metavar="RULES",
    help="Rules to try instead of the server's own; these delete nothing.",
)
@administrator_command()
def retention_command(session: Session, dry_run: bool, retain: str | None) -> None:
    """Apply a server's retention rules now.

    Retention permanently deletes completed promises, by the rules of the server's setting `retain`.
    With --dry-run they are counted. Run it on the server's
    machine, as its user, with --data, or give a token of the scope admin.

    \b
    Examples:
      troth data retention --dry-run --data /var/lib/troth
      troth data retention --dry-run --retain resolved:7d,all:90d:team=billing
    """
    is_dry = dry_run or retain is not None
    body: dict[str, object] = {"dryRun": is_dry}
    if retain is not None:
        body["retain"] = retain
    answer = session.client.ask("POST", "/admin/retention", body)

    def shown() -> str:
        outcome = answer.content
        verb = "would be deleted" if outcome["dryRun"] else "deleted"
        if not outcome["rules"]:
            return "There are no rules: nothing is ever deleted."
        rows = [(row["rule"], str(row["count"])) for row in outcome["rules"]]
        total = sum(row["count"] for row in outcome["rules"])
        lines = [
            table(("RULE", "PROMISES"), rows),
            f"{total} {verb} in {span(outcome['durationMs'])}",
        ]
        if outcome["waiting"]:
            lines.append(f"{outcome['waiting']} more wait for unfinished tasks")
        return "\n".join(lines)

    session.show(answer, shown)

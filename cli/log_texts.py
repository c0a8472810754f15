"""How the log's records, the reports about it and plans to repair it look to people and scripts."""

import base64
import json
import os
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from troth.persistence.errors import LogDamaged
from troth.persistence.inspection.log_records import record_fields, record_type
from troth.persistence.inspection.log_repair import RepairPlan
from troth.persistence.inspection.log_tools import (
    DAMAGES_LISTED_LIMIT_COUNT,
    Damage,
    Entry,
    LogReport,
)

from .output import decoded, fields, moment, visible

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_VALUE_KEYS: Final = frozenset({"headers", "data", "data_characters"})


def entry_json(entry: Entry, whole_values: bool) -> dict[str, Any]:
    """Return a record of the log as JSON."""
    record = entry.record
    shown: dict[str, Any] = {
        "sequence": entry.sequence,
        "group": entry.group,
        "shard": entry.log_record.shard,
        "shard_sequence": entry.log_record.shard_sequence,
        "file": os.path.basename(entry.file),
        "offset": entry.offset,
        "time_ms": entry.time_ms,
        "type": None if record is None else record_type(record),
    }
    if record is None:
        return {**shown, "body": base64.b64encode(entry.log_record.body).decode()}
    return {**shown, "record": record_fields(record, whole_values=whole_values)}


def entry_line(entry: Entry, whole_values: bool) -> str:
    """Return a record of the log on one line."""
    record = entry.record
    time = "-".ljust(23) if entry.time_ms is None else _local_time(entry.time_ms)
    start = f"{entry.sequence:>8}  shard {entry.log_record.shard:<3} {time}"
    if record is None:
        body = entry.log_record.body.decode(errors="backslashreplace")
        return f"{start}  (unknown type)  {visible(body if whole_values else body[:200])}"
    named = record_fields(record, whole_values=whole_values)
    shown = "  ".join(f"{name}={_field_text(part)}" for name, part in named.items())
    return f"{start}  {record_type(record):<23} {shown}"


def _local_time(time_ms: int) -> str:
    try:
        time = (_EPOCH + timedelta(milliseconds=time_ms)).astimezone()
    except (OverflowError, ValueError):
        return str(time_ms).ljust(23)
    return time.replace(tzinfo=None).isoformat(sep=" ", timespec="milliseconds")


def _field_text(content: Any) -> str:
    """Return a field on one line: a word as is, else JSON, with a value's data decoded."""
    if isinstance(content, str) and content.isprintable() and " " not in content and content:
        return content
    return visible(json.dumps(_readable(content), ensure_ascii=False))


def _readable(content: Any) -> Any:
    """Return the same with the data of values decoded, at any depth."""
    if isinstance(content, dict):
        if "data" in content and content.keys() <= _VALUE_KEYS:
            is_cut = "data_characters" in content
            text = _beginning(content["data"]) if is_cut else decoded(content["data"])
            return {**content, "data": text}
        return {name: _readable(part) for name, part in content.items()}
    return content


def _beginning(data: str) -> str:
    """Return the text that cut base64 begins with; the cut may have split its last character."""
    assert len(data) % 4 == 0, "base64 decodes only in whole groups of four characters"
    content = base64.b64decode(data)
    for split_bytes in range(4):
        text = decoded(base64.b64encode(content[: len(content) - split_bytes]).decode())
        if not text.startswith("base64:"):
            return text + "…"
    return f"base64:{data}…"


def report_json(report: LogReport, covered_sequence: int) -> dict[str, Any]:
    """Return a report as JSON."""
    torn = report.torn
    return {
        "path": report.path,
        "group": report.group,
        "sound": report.is_sound,
        "segments": report.segments_count,
        "batches": report.batches_count,
        "records": report.records_count,
        "bytes": report.size_bytes,
        "first_sequence": report.first_sequence,
        "next_sequence": report.next_sequence,
        "covered_sequence": covered_sequence,
        "epoch": report.epoch,
        "last_time_ms": report.last_time_ms,
        "torn": torn and {"file": torn.file, "offset": torn.offset, "bytes": report.torn_bytes},
        "damages": [
            {"file": damage.file, "offset": damage.offset, "problem": damage.problem}
            for damage in report.damages
        ],
        "damages_count": report.damages_count,
        "later_records": report.later_records_count,
        "last_readable_sequence": report.last_sequence,
    }


def report_text(report: LogReport, covered_sequence: int, *, names_group: bool = False) -> str:
    """Return a report as labeled lines."""
    of_group = f" group {report.group}" if names_group else ""
    is_whole = report.break_in_log is None
    torn = report.torn
    damages = list(map(_place, report.damages))
    if report.damages_count > DAMAGES_LISTED_LIMIT_COUNT:
        damages.append(f"and {report.damages_count - DAMAGES_LISTED_LIMIT_COUNT} more")
    later = f"{report.later_records_count}, up to {report.last_sequence}"
    return fields(
        f"{visible(report.path)}{of_group}: {'sound' if report.is_sound else 'DAMAGED'}",
        [
            ("segments", f"{report.segments_count} ({report.size_bytes} bytes)"),
            ("batches" if is_whole else "sound batches", str(report.batches_count)),
            ("records" if is_whole else "sound records", _sequences(report)),
            ("checkpoints", _checkpoints(covered_sequence)),
            ("last time", moment(report.last_time_ms)),
            ("torn end", None if torn is None else _place(torn)),
            ("damage", "\n".join(damages) or None),
            ("readable behind", None if is_whole else later),
        ],
    )


def _checkpoints(covered_sequence: int) -> str | None:
    return f"hold everything up to record {covered_sequence}" if covered_sequence else None


def _place(damage: Damage | LogDamaged) -> str:
    return f"{visible(damage.file)} at byte {damage.offset}: {damage.problem}"


def _sequences(report: LogReport) -> str:
    if report.first_sequence is None:
        return "0"
    return f"{report.records_count} ({report.first_sequence} to {report.next_sequence - 1})"


def plan_text(plan: RepairPlan, dropped_path: str) -> str:
    """Return what a repair would do, as labeled lines and a warning."""
    report = plan.report
    kept = "nothing of the log" if plan.keeps_nothing else _sequences(report)
    lost = f"record {plan.next_sequence} and everything after it, acknowledged or not"
    later = f"{report.later_records_count} records, up to {report.last_sequence}"
    if plan.loses_nothing:
        lost = "nothing: what is damaged is in the checkpoints"
    table = fields(
        f"{visible(report.path)} is damaged",
        [
            ("damage", _place(plan.damage)),
            ("checkpoints", _checkpoints(plan.from_sequence - 1)),
            ("kept", kept),
            ("last time kept", None if plan.keeps_nothing else moment(report.last_time_ms)),
            ("lost", lost),
            ("of these readable", None if plan.loses_nothing else later),
            ("cut", f"{len(plan.parts) + len(plan.covered)} segments, {plan.size_bytes} bytes"),
            ("saved to", visible(dropped_path)),
        ],
    )
    if plan.loses_nothing:
        return table
    return (
        f"{table}\nWhat is lost includes writes that clients were told are done. If there is a "
        "backup, restore it instead."
    )

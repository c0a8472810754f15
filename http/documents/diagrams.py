"""The life cycles as pictures: SVG, drawn from the tables of `core/lifecycles.py`.

Colors and fonts are the page's: it gives `svg` a style.
"""

import html
from collections.abc import Iterable

from troth.core.lifecycles import COMPLETE, PENDING, TASK
from troth.core.model import PromiseState, TaskState


def _box(left: int, top: int, label: str) -> str:
    middle = left + 80
    return (
        f'<rect x="{left}" y="{top}" width="160" height="34" rx="6"/>'
        f'<text x="{middle}" y="{top + 22}" text-anchor="middle">{html.escape(label)}</text>'
    )


def _arrow(start: tuple[int, int], bend: tuple[int, int], end: tuple[int, int], label: str) -> str:
    (x, y), (u, v), (s, t) = start, bend, end
    middle_x, middle_y = (x + 2 * u + s) // 4, (y + 2 * v + t) // 4
    return (
        f'<path d="M{x} {y} Q{u} {v} {s} {t}" marker-end="url(#tip)"/>'
        f'<text class="label" x="{middle_x}" y="{middle_y - 4}" text-anchor="middle">'
        f"{html.escape(label)}</text>"
    )


def _drawing(width: int, height: int, title: str, shapes: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{title}">'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0 0 L8 4 L0 8"/></marker></defs>'
        f"{''.join(shapes)}</svg>"
    )


def promise_diagram() -> str:
    """Return the life cycle of a promise, as SVG."""
    shapes = [_box(10, 110, PENDING.value)]
    finals = [state for state in PromiseState if state is not PENDING]
    for index, state in enumerate(finals):
        top = 10 + index * 68
        asked = any(key[0] is state for key in COMPLETE) and state.value != "REJECTED_TIMEDOUT"
        shapes.append(_box(420, top, state.value))
        label = "completed by a client" if asked else "timeout passed"
        shapes.append(_arrow((170, 127), (295, top + 17), (420, top + 17), label))
    return _drawing(600, 270, "Life cycle of a promise", shapes)


_TASK_PLACES = {
    TaskState.INIT: (10, 140),
    TaskState.ENQUEUED: (390, 20),
    TaskState.CLAIMED: (390, 260),
    TaskState.COMPLETED: (780, 20),
    TaskState.TIMEDOUT: (780, 380),
}
# Where an arrow would cross a box, the point that it bends towards instead.
_TASK_BENDS = {(TaskState.INIT, TaskState.TIMEDOUT): (320, 420)}


def task_diagram() -> str:
    """Return the life cycle of a task, as SVG.

    There is one arrow for each pair of states, labeled with all events that lead there.
    """
    labels: dict[tuple[TaskState, TaskState], list[str]] = {}
    for (state, event), step in TASK.items():
        if step.state is not None:
            labels.setdefault((state, step.state), []).append(event.value)
    shapes = [_box(*place, state.value) for state, place in _TASK_PLACES.items()]
    for (start, end), events in labels.items():
        (x, y), (s, t) = _TASK_PLACES[start], _TASK_PLACES[end]
        forward = s > x
        leave = (x + 160, y + 17) if forward else (x, y + 17)
        arrive = (s, t + 17) if forward else (s + 160, t + 17)
        if s == x:
            leave, arrive = (x + 80, y + 34 if t > y else y), (s + 80, t if t > y else t + 34)
        # Ways back bend the other way, so that they do not cover the ways there.
        middle = ((leave[0] + arrive[0]) // 2, (leave[1] + arrive[1]) // 2)
        bend = _TASK_BENDS.get((start, end), (middle[0], middle[1] + (-30 if forward else 50)))
        shapes.append(_arrow(leave, bend, arrive, ", ".join(events)))
    return _drawing(960, 430, "Life cycle of a task", shapes)

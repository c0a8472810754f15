"""Settings that a server of several processes cannot have yet: they are refused at the start.

The supervisor asks, which loads none of what serves.
"""

from troth.http.settings.settings import Settings


def refused_setting(settings: Settings) -> str | None:
    """Return why a server of several processes cannot have these settings; None if it can."""
    problems = {
        "debug_operations": "debug operations" if settings.debug_operations else None,
        "hot_lane": None if settings.hot_lane else "links without the fast path",
    }
    for name, about in problems.items():
        if about is not None:
            return (
                f"Cannot serve with several processes: the setting {name} is about {about}, which "
                "they do not have yet. Leave it out, or serve with --processes 1."
            )
    return None

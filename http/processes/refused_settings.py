"""Settings that a server of several processes cannot have: they are refused at the start.

The supervisor asks, which loads none of what serves.
"""

from troth.http.settings.settings import Settings


def refused_setting(settings: Settings) -> str | None:
    """Return why a server of several processes cannot have these settings; None if it can."""
    if settings.hot_lane:
        return None
    return (
        "Cannot serve with several processes and without the hot lane: the links between them are "
        "served there. Leave the setting hot_lane out, or serve with --processes 1."
    )

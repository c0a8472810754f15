"""When to wake up for what must happen now and then, but not at any particular moment.

Each wake-up of an idle server's loop costs a tenth of a millisecond, whatever it is for. So all
that looks at something every few seconds does so at the same moments: whole seconds of trio's
clock, or multiples of more.
"""

import trio


def shared_end_s(delay_s: float) -> float:
    """Return a time on trio's clock at which others wake up, too: at most `delay_s` from now.

    It is a multiple of `delay_s`, so those with the same delay have the same.
    """
    now_s = trio.current_time()
    end_s = (now_s + delay_s) // delay_s * delay_s
    return end_s if end_s > now_s else now_s + delay_s  # it may be rounded down

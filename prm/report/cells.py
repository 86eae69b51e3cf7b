"""How numbers are written in every table and drawing."""

from __future__ import annotations

from prm.metrics.intervals import Interval

MISSING = "—"
"""What stands where there is no value."""

WIDTH = 76
"""Characters of a prompt or response that tables show."""


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with as many digits after the point.

    Example:
        >>> number(0.12345), number(None)
        ('0.123', '—')
    """
    return MISSING if value is None else f"{value:.{digits}f}"


def share(value: float | None, digits: int = 1) -> str:
    """Return a share as a percentage.

    Example:
        >>> share(0.1234)
        '12.3%'
    """
    return MISSING if value is None else f"{value:.{digits}%}"


def count(value: float | None) -> str:
    """Return a whole number with its thousands apart.

    Example:
        >>> count(12345)
        '12,345'
    """
    return MISSING if value is None else f"{value:,.0f}"


def share_interval(interval: Interval) -> str:
    """Return a share with its bounds, if there are any, as percentages.

    Example:
        >>> share_interval(Interval(0.5, 0.25, 0.75, 9, 9))
        '50.0% [25%, 75%]'
        >>> share_interval(Interval(1.0, None, None, 1, 1))
        '100.0%'
    """
    if interval.low is None or interval.high is None:
        return share(interval.value)
    return f"{share(interval.value)} [{share(interval.low, 0)}, {share(interval.high, 0)}]"


def signed(interval: Interval | None) -> str:
    """Return a difference with its sign and bounds.

    Example:
        >>> signed(Interval(0.2, -0.1, 0.5, 9, 9))
        '+0.200 [-0.100, +0.500]'
    """
    if interval is None or interval.value is None:
        return MISSING
    if interval.low is None or interval.high is None:
        return f"{interval.value:+.3f}"
    return f"{interval.value:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def short(text: str, width: int = WIDTH) -> str:
    r"""Return a text on one line, cut where it is too long.

    Example:
        >>> short("one two\nthree", width=10)
        'one two t…'
    """
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"

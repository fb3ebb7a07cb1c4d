"""Write numbers, lists, paths and foreign text for people, in messages, tables, pages and files."""

from __future__ import annotations

import os
import sys
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LISTED_AT_MOST = 20
"""Longer lists in a message are cut here: a terminal shows about that much."""

_ALLOWED_CONTROLS = "\n\t"
# Unicode's Bidi_Control: they turn the reading direction, and can make a name read as another one.
_DIRECTION_MARKS = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
# Controls (a terminal obeys some), halves of characters (UTF-8 cannot hold them), separators of lines and paragraphs.
_WRITTEN_OUT = frozenset(("Cc", "Cs", "Zl", "Zp"))
THIN_SPACE = "\u202f"


def percent_text(value: float, *, decimals: int = 1) -> str:
    """Return a share 0-1 as a percentage that never claims 0 or 100 % unless it is.

    Examples:
        >>> percent_text(0.98), percent_text(0.99996), percent_text(0.0002)
        ('98.0\u202f%', '> 99.9\u202f%', '< 0.1\u202f%')
    """
    smallest = 10.0**-decimals
    text = f"{100 * value:.{decimals}f}"
    if value < 1 and float(text) >= 100:
        text = f"> {100 - smallest:.{decimals}f}"
    elif value > 0 and float(text) <= 0:
        text = f"< {smallest:.{decimals}f}"
    return f"{text}{THIN_SPACE}%"


def percent_range(low: float, high: float) -> str:
    """Return an interval of shares 0-1 as percentages, with an en dash."""
    if 0 < high < 0.0005:
        return percent_text(high)
    return f"{100 * low:.1f}\u2013{100 * high:.1f}{THIN_SPACE}%"


def number_text(value: float) -> str:
    """Return a number with three decimals; one above 0 that would read as 0 becomes ``< 0.001``."""
    return "< 0.001" if 0 < value < 0.0005 else f"{value:.3f}"


def number_range(low: float, high: float) -> str:
    """Return an interval with three decimals and an en dash."""
    return number_text(high) if 0 < high < 0.0005 else f"{low:.3f}\u2013{high:.3f}"


def duration_text(seconds: float, *, space: str = THIN_SPACE) -> str:
    """Return a time as people write it: ``0.4 s``, ``12 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f}{space}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{space}s"
    if whole < 3600:
        return f"{whole // 60}{space}min {whole % 60:02d}{space}s"
    return f"{whole // 3600}{space}h {whole % 3600 // 60:02d}{space}min"


def printable(text: str) -> str:
    r"""Return a text with control characters, direction marks and broken Unicode written out as escapes; lines stay lines.

    All that is shown of names and texts that vizsla did not make goes through here: what ``say`` prints, the messages of
    errors, tables, cards, the report.

    Examples:
        >>> printable("cat\x00.jpg")
        'cat\\x00.jpg'
    """
    if text.isascii() and text.isprintable():  # Most are, and this is 40 times as fast.
        return text
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if character not in _ALLOWED_CONTROLS
        and (unicodedata.category(character) in _WRITTEN_OUT or character in _DIRECTION_MARKS)
        else character
        for character in text
    )


def say(text: str = "", *, err: bool = False) -> None:
    """Print a line on standard output, or standard error, with nothing in it that a terminal would obey."""
    stream = sys.stderr if err else sys.stdout
    stream.write(f"{printable(text)}\n")
    stream.flush()


def valid_unicode(text: str) -> str:
    r"""Return a text that UTF-8 can encode: lone surrogates, from file names that are not valid Unicode, become escapes.

    Examples:
        >>> valid_unicode("caf\udce9.jpg")
        'caf\\udce9.jpg'
    """
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def quoted(path: Path | str) -> str:
    """Return a path as messages show it: posix slashes, in quotes, line breaks and undecodable bytes escaped."""
    return repr(str(path).replace(os.sep, "/"))


def listed(entries: Sequence[str], *, limit: int = LISTED_AT_MOST) -> str:
    """Return at most ``limit`` entries one a line, indented, and how many more there are."""
    lines = [f"  {entry}" for entry in entries[:limit]]
    if len(entries) > limit:
        lines.append(f"  ... and {len(entries) - limit} more")
    return "\n".join(lines)


def joined(entries: Sequence[str], *, limit: int, separator: str = ", ") -> str:
    """Return at most ``limit`` entries on one line, and how many more there are.

    Examples:
        >>> joined(["a.jpg", "b.jpg", "c.jpg"], limit=2)
        'a.jpg, b.jpg and 1 more'
    """
    more = f" and {len(entries) - limit} more" if len(entries) > limit else ""
    return f"{separator.join(entries[:limit])}{more}"


def counted(number: int, word: str, plural: str = "") -> str:
    """Return a number with its word: ``1 row``, ``3 rows``, ``2 classes``."""
    return f"{number} {word if number == 1 else plural or word + 's'}"


def first_line(error: BaseException, *, limit: int = 300) -> str:
    """Return the first line of an error's message, or the name of its class; at most ``limit`` characters."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)[:limit]


def one_line(error: BaseException) -> str:
    """Return an error's whole message on one line, or the name of its class."""
    return " ".join(str(error).split()) or type(error).__name__

"""Text of others, made harmless for a terminal and for a spreadsheet.

Keys, accounts and dimensions are what somebody sent. On a terminal they could move the cursor, in a
spreadsheet they could calculate.
"""

from __future__ import annotations

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""What makes spreadsheets take a cell for a formula, at its beginning. Source: OWASP, CSV Injection."""

QUOTE = "'"


def printable(text: str) -> str:
    """The text with everything escaped that does not simply print: control characters, direction marks, line breaks."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def cell(text: str) -> str:
    """The text as a cell that no spreadsheet calculates with. ``text_of`` takes it back exactly."""
    return QUOTE + text if text.lstrip(" ").startswith((*FORMULA, QUOTE)) else text


def text_of(cell: str) -> str:
    """The text that ``cell`` was made of."""
    return cell[1:] if cell.startswith(QUOTE) else cell

"""Where in a record one event ends and the next one begins."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from doortab.schemas.unusual import UNREADABLE, Unreadable, unreadable

WHITESPACE = b" \t\r\n"

_elements = msgspec.json.Decoder(list[msgspec.Raw])
_token = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|["\[\]{},]', re.DOTALL)


def split(value: bytes | None) -> Sequence[bytes]:
    """The bytes of each event in a record: its elements, if it is an array.

    Raises:
        Unreadable: it holds no events.
    """
    if value is None:
        raise Unreadable("null_value", "the record has no value; publish a CloudEvent or an array of them")
    if value.lstrip(WHITESPACE)[:1] != b"[":
        return [value]
    try:
        elements = [bytes(element) for element in _elements.decode(value)]
    except UNREADABLE as error:
        elements = _split_broken(value)
        if not elements:
            raise unreadable(error) from None
    if not elements:
        raise Unreadable("empty_batch", "the array holds no event")
    return elements


def _split_broken(array: bytes) -> list[bytes]:
    """The elements of an array that is no JSON because of what stands inside one of them, such as NaN.

    Empty if its brackets and quotes do not match, so that nobody can tell where an element ends.
    """
    closing: list[bytes] = []
    elements: list[bytes] = []
    start = 0
    for match in _token.finditer(array):
        token = match[0]
        if token in (b"[", b"{"):
            start = start if closing else match.end()
            closing.append(b"]" if token == b"[" else b"}")
        elif token == b"," and len(closing) == 1:
            elements.append(array[start : match.start()].strip(WHITESPACE))
            start = match.end()
        elif token in (b"]", b"}"):
            if not closing or closing.pop() != token:
                return []
            if not closing:
                elements.append(array[start : match.start()].strip(WHITESPACE))
                return [] if array[match.end() :].strip(WHITESPACE) else elements
        elif token == b'"':
            return []
    return []

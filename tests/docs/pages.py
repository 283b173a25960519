"""The documentation as data: pages, their sections, links and fenced blocks.

A comment in the line before a fence says what a block is for:

- ``<!-- run -->`` before ``console``: the commands after ``$`` run, and print what is shown; before
  ``python``: it runs and prints nothing. All blocks of a page run in order, in one shell and one
  directory of the page's own, which begins with a copy of ``examples/``.
- ``<!-- file: NAME -->``: the block is written to that file there, at that point.
- ``<!-- rejected: REASON -->``: the block is a record that is rejected for that reason.

In what is shown, ``…`` stands for anything within a line, and alone in its line for any lines.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parent.parent.parent
DOCS = REPOSITORY / "docs"

_FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[^>]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A fenced block, the line it begins in, and what the comment before it says."""

    line: int
    language: str
    mark: str
    text: str


class Page(NamedTuple):
    """A page by its path in the repository."""

    name: str
    text: str

    @property
    def path(self) -> Path:
        return REPOSITORY / self.name

    @property
    def blocks(self) -> list[Block]:
        """Its fenced blocks, in order."""
        return [
            Block(self.text.count("\n", 0, m.start("text")), m["language"], m["mark"] or "", m["text"])
            for m in _FENCE.finditer(self.text)
        ]

    @property
    def prose(self) -> str:
        """Its text without what stands in fences."""
        return _FENCE.sub("", self.text)

    @property
    def links(self) -> list[str]:
        """The targets of its links."""
        return _LINK.findall(self.prose)

    @property
    def anchors(self) -> set[str]:
        """What a link may name behind ``#``, as GitHub derives it from the headings."""
        return {slug(heading) for heading in _HEADING.findall(self.prose)}

    def section(self, heading: str) -> str:
        """The text below the first heading that holds these words, to the next heading."""
        for match in _HEADING.finditer(self.text):
            if heading in match[1]:
                following = _HEADING.search(self.text, match.end())
                return self.text[match.end() : following.start() if following else None]
        raise AssertionError(f"{self.name} has no heading with {heading!r}")

    def headings(self, level: int) -> list[str]:
        """The headings of that level."""
        return re.findall(rf"^#{{{level}}} (.+)$", self.prose, re.MULTILINE)

    def rows(self) -> list[list[str]]:
        """The rows of all its tables, cell by cell."""
        found = []
        for line in self.prose.splitlines():
            if line.startswith("|") and not set(line) <= set("|- :"):
                cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
                found.append([cell.strip() for cell in cells])
        return found


def slug(heading: str) -> str:
    """The anchor of a heading."""
    plain = re.sub(r"[^\w\- ]", "", heading.lower())
    return plain.replace(" ", "-")


@cache
def page(name: str) -> Page:
    """A page by its path in the repository."""
    return Page(name, (REPOSITORY / name).read_text(encoding="utf-8"))


def pages() -> list[Page]:
    """Every page."""
    found = [path.relative_to(REPOSITORY).as_posix() for path in sorted(DOCS.rglob("*.md"))]
    return [page(name) for name in ("README.md", "CHANGELOG.md", *found)]


def reference(name: str) -> Page:
    """A page of the reference."""
    return page(f"docs/reference/{name}.md")

"""What the show looks like: a live screen on a terminal, and a line now and then where there is none."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from doortab.demo_traffic import Caller, Traffic

if TYPE_CHECKING:
    from doortab.demo import Watcher

LINES = 9
PLAIN_SECONDS = 5.0
BAR = 24


class Screen:
    """Draws rates, spend against caps, and what happened."""

    def __init__(self, callers: list[Caller], seconds: int, watcher: Watcher, traffic: Traffic) -> None:
        self._callers = callers
        self._seconds = seconds
        self._watcher = watcher
        self._traffic = traffic
        self._console = Console(file=sys.stdout)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._before = (0.0, 0)
        self._rate = 0.0
        self._noted = 0
        self._plain_at = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def draw(self, over: float) -> None:
        """Shows the moment."""
        now = time.monotonic()
        at, sent = self._before
        if now - at >= 1:
            self._rate = (self._traffic.sent - sent) / (now - at) if at else 0.0
            self._before = (now, self._traffic.sent)
        if self._live is not None:
            self._live.update(self._picture(over), refresh=True)
        else:
            self._print(over)

    def _print(self, over: float) -> None:
        for note in self._watcher.notes[self._noted :]:
            print(note, flush=True)
        self._noted = len(self._watcher.notes)
        if over - self._plain_at >= PLAIN_SECONDS:
            self._plain_at = over
            print(f"{over:5.1f} s  {self._headline().plain}", flush=True)

    def _headline(self) -> Text:
        verdicts = self._traffic.verdicts.copy()
        allowed = sum(count for (_, outcome), count in verdicts.items() if outcome == "allowed")
        refused = sum(verdicts.values()) - allowed
        return Text.assemble(
            (f"{self._rate:,.0f} requests/s", "bold"),
            f" · allowed {allowed:,} · ",
            (f"refused {refused:,}", "red" if refused else ""),
            f" · {self._watcher.lag} log records behind",
        )

    def _picture(self, over: float) -> Panel:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("account", "application", "allowed", "refused", "spent of its cap", "", ""):
            table.add_column(name, justify="right" if name in ("allowed", "refused") else "left")
        verdicts = self._traffic.verdicts.copy()
        for caller in self._callers:
            allowed = verdicts[caller.key_id, "allowed"]
            refused = sum(n for (key, outcome), n in verdicts.items() if key == caller.key_id and outcome != "allowed")
            used, limit, percent = self._watcher.caps.get(caller.key_id, ("0", "–", 0))
            color = "red" if percent >= 100 else "yellow" if percent >= 80 else "green"
            filled = min(BAR, percent * BAR // 100)
            bar = Text.assemble(("█" * filled, color), ("░" * (BAR - filled), "dim"))
            table.add_row(
                caller.account, caller.name, f"{allowed:,}", Text(f"{refused:,}", "red" if refused else "dim"),
                bar, Text(f"{percent:3d} %", color), f"{used[:6]} of {limit} USD",
            )  # fmt: skip
        notes = Text("\n".join(self._watcher.notes[-LINES:]))
        done = min(1.0, over / self._seconds)
        clock = f"{int(done * 24):02d}:{int(done * 24 * 60) % 60:02d}"
        return Panel(
            Group(self._headline(), Text(), table, Text(), notes),
            title=f"doortab · a day in {self._seconds} s · {clock}",
        )

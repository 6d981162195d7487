"""What several commands say on the console in the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def say_reasons(console: Console, what: str, reasons: Mapping[str, str]) -> None:
    """A line for each subject that was ``what``, with the reason."""
    for name, reason in reasons.items():
        console.print(f"[bold red]{what}:[/] {escape(name)}: {escape(reason)}", highlight=False, soft_wrap=True)


def say_note(console: Console, message: str) -> None:
    """A sentence for the user that is no error."""
    console.print(f"[bold yellow]Note:[/] {escape(message)}", highlight=False, soft_wrap=True)


@contextmanager
def progress(console: Console, what: str, total: int) -> Iterator[Callable[[str], None]]:
    """A bar that advances each time the function it gives is called with the name of what is done."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task("", total=total)
        yield lambda name: bars.advance(bar)

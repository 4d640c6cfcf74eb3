"""Where commands print, and what all of them say alike."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

# Piped into a file or a pager, tables get room instead of the 80 columns of a terminal that is not there.
console = Console(highlight=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160)

OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="Folder for the results.")]


def say(text: str) -> None:
    """What is being done."""
    console.print(f"[dim]-[/dim] {escape(text)}")


def done(written: Sequence[Path], began: float) -> None:
    """Where the files are, and how long it took since ``began`` (``time.perf_counter``)."""
    pages = [p for p in written if p.suffix == ".html"]
    seconds, folder = time.perf_counter() - began, escape(str(written[0].parent))
    console.print(f"[bold]done[/bold] in {seconds:.1f} s; written to {folder}", soft_wrap=True)
    for page in pages:
        console.print(f"open [bold]{escape(str(page.resolve()))}[/bold]", soft_wrap=True)

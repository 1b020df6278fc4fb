"""Where everything that commands print goes out, without the control characters of what others named.

File names, class names, names of studies and answers of servers may hold escape codes, newlines and marks that turn the
direction of writing. A terminal gets them escaped, as does a pipe: what programs read is JSON, or a file (`--csv`).

Output ends with its reader: see `guard_streams`. Commands that load no rich print with `print_text` and its relatives;
those with tables open a console, and print with the functions that take it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from cnnstudy.errors import DiskFullError, printable, printable_lines, without_secrets
from cnnstudy.system.processes import interrupt_command

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from rich.console import Console as Console
    from rich.table import Table as Table

#: Columns of a table where standard output is no terminal.
WIDTH = 160
#: Rows of a table from which on it is written without Rich.
LONG = 500
#: What tracebacks must not show, and what they show instead.
_secrets: dict[str, str] = {}


# ---- lines


def print_text(text: str, error: bool = False) -> None:
    """Print lines to standard output, or standard error."""
    print("\n".join(map(printable, text.split("\n"))), file=sys.stderr if error else sys.stdout, flush=True)


def print_error(text: str) -> None:
    """Print an error or a note; its later lines are indented, so that none looks like a message of its own."""
    print_text(printable_lines(text), error=True)


def print_note(text: str) -> None:
    """Print a note to standard error; nothing for an empty text."""
    if text:
        print_error(f"note: {text}")


def print_columns(rows: Iterable[Sequence[str]]) -> None:
    """Print each row as one complete line to standard output, its last cell to the right."""
    from rich.cells import cell_len, set_cell_size

    lines = [tuple(map(printable, row)) for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for *cells, last in lines:
        left = (f"{set_cell_size(cell, width)}  " for cell, width in zip(cells, widths, strict=False))
        print_text(f"{''.join(left)}{last:>{widths[-1]}}")


def format_json(value: Any) -> str:
    """Return a value as JSON, in which every name is exact and no character controls a terminal."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    return "".join(one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in text)


# ---- tracebacks


def hide_in_tracebacks(secret: str, shown: str) -> None:
    """Show a text in place of a secret in the traceback of an unexpected error."""
    _secrets[secret] = shown


def print_traceback(error: BaseException) -> None:
    """Print the traceback of an unexpected error, without secrets."""
    text = "".join(traceback.format_exception(error)).rstrip("\n")
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, _secrets[secret])
    print_text(without_secrets(text), error=True)


# ---- consoles and tables


def open_console(error: bool = False) -> Console:
    """Return a console on standard output or standard error, as wide as its terminal, or WIDTH columns."""
    from rich.console import Console

    console = Console(stderr=error, force_jupyter=False)
    return console if console.is_terminal else Console(stderr=error, width=WIDTH, force_jupyter=False)


def console_on(file: TextIO) -> Console:
    """Return a console that writes to a file."""
    from rich.console import Console

    return Console(file=file, width=WIDTH, force_jupyter=False)  # else a notebook would get what the file is to get


def print_line(console: Console, line: str) -> None:
    """Print a line; wrap it only on a terminal."""
    _print(console, printable(line), wrap=console.is_terminal)


def print_message(console: Console, text: str) -> None:
    """Print a message without wrapping it; its later lines are indented."""
    _print(console, printable_lines(text))


def print_lines(console: Console, lines: Iterable[str]) -> None:
    """Print lines without wrapping them."""
    _print(console, "\n".join(map(printable, lines)))


def _print(console: Console, text: str, wrap: bool = False) -> None:
    console.print(text, markup=False, emoji=False, highlight=False, soft_wrap=not wrap)


def plain_table(title: str = "", padding: tuple[int, int] = (0, 0)) -> Table:
    """Return a table without columns."""
    from rich import box
    from rich.table import Table

    named = _cell(title, "table.title") if title else None  # an empty one would be an empty line
    return Table(title=named, title_justify="left", box=box.SIMPLE_HEAD, padding=padding, show_edge=False)


def add_row(grid: Table, cells: Iterable[str], styles: Mapping[str, str] | None = None) -> None:
    """Add a row of plain text, in which brackets are no markup.

    Args:
        styles: of the cells with these texts.
    """
    grid.add_row(*(_cell(cell, (styles or {}).get(cell, "")) for cell in cells))


def print_table(console: Console, grid: Table, rows: Iterable[Sequence[str]] = ()) -> None:
    """Add the rows, and print the table; a long one as text, without Rich, which would take a second for 1,500 rows."""
    rows = list(rows)
    if len(rows) >= LONG and not grid.row_count and all(column.no_wrap for column in grid.columns):
        lines = _long_table(grid, rows)
        if max(map(len, lines)) <= console.width:
            print_lines(console, lines)
            return
    for row in rows:
        add_row(grid, row)
    console.print(grid, markup=False, emoji=False)


def _long_table(grid: Table, rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table that has no rows yet, with these, as Rich writes them."""
    from rich.cells import cell_len

    table = [[str(column.header) for column in grid.columns], *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(cell_len, cells)) for cells in zip(*table, strict=True)]
    lines = []
    for cells in table:
        room = [" " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True)]
        padded = zip(cells, room, (column.justify for column in grid.columns), strict=True)
        lines.append(" ".join(space + cell if side == "right" else cell + space for cell, space, side in padded))
    total = sum(widths) + len(widths) - 1
    title = str(grid.title).ljust(total) if grid.title else None
    return [*([title] if title else []), lines[0], "─" * total, *lines[1:]]


def _cell(text: str, style: str = "") -> Any:
    from rich.text import Text

    return Text(printable(text), style)


# ---- the streams


@contextlib.contextmanager
def guard_streams() -> Iterator[None]:
    """During the block, a command whose reader has gone is interrupted as by SIGTERM, and writes nothing any more.

    A reader is the program after a pipe (`| head`). A closed terminal sends SIGHUP instead; a command that ignores it,
    or was disowned, keeps running without a terminal. What can't be encoded is escaped. An unexpected error in another
    thread is shown as `print_traceback` does.

    Raises:
        KeyboardInterrupt: the reader has gone; also when the rest is written at the end of the block.
    """
    before = sys.stdout, sys.stderr, threading.excepthook
    interrupted = threading.Event()
    threading.excepthook = lambda failure: print_traceback(failure.exc_value) if failure.exc_value else None
    sys.stdout, sys.stderr = (_guarded(stream, interrupted) for stream in before[:2])
    try:
        yield
    finally:
        try:
            for stream in filter(None, (sys.stdout, sys.stderr)):  # None: it was closed before the command started
                stream.flush()
        finally:
            sys.stdout, sys.stderr, threading.excepthook = before


def _guarded(stream: TextIO, interrupted: threading.Event) -> TextIO:
    """Return the stream, or one in its place if it is a file or pipe of this process."""
    buffer: Any = getattr(stream, "buffer", None)
    is_buffered = isinstance(buffer, io.BufferedWriter)  # it is not with PYTHONUNBUFFERED
    if type(buffer.raw if is_buffered else buffer) is not io.FileIO:
        return stream
    stream.flush()
    guarded: Any = _UntilReaderGone(stream.fileno(), interrupted)
    return io.TextIOWrapper(
        io.BufferedWriter(guarded) if is_buffered else guarded,
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=bool(stream.line_buffering),
        write_through=not is_buffered,
    )


class _UntilReaderGone(io.FileIO):
    """A file descriptor that leads nowhere once nobody reads it any more.

    Args:
        interrupted: set when the command has been interrupted; once is enough.
    """

    def __init__(self, descriptor: int, interrupted: threading.Event) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._interrupted = interrupted

    def write(self, content: ReadableBuffer, /) -> int:
        try:
            return super().write(content)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFullError(
                    f"there is no room where the output of the command goes ({error.strerror}); send it elsewhere."
                ) from error
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            # EIO: the terminal was closed; SIGHUP interrupts then, unless the command is to go on without one
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self.fileno())
            if error.errno == errno.EPIPE and not self._interrupted.is_set():
                self._interrupted.set()
                interrupt_command()
        return memoryview(content).nbytes

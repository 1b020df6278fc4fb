"""What others named goes out without control characters, through one module, and output ends with its reader."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

import cnnstudy
from cnnstudy.errors import printable_lines
from cnnstudy.system import output
from cnnstudy.system.files import write_whole
from cnnstudy.system.processes import terminate_as_interrupt

PACKAGE = Path(cnnstudy.__file__).parent
#: Clears a terminal, sets its title, forges a line, turns the writing around; [1] and :cat: mean something to rich.
NASTY = "cat\x1b[2J\x9b2J\x1b]0;title\x07\r\nerror: forged\u202egpj.\u2066\udcff [1] [red] :cat:"
CLEAN = r"cat\x1b[2J\x9b2J\x1b]0;title\x07\r\nerror: forged\u202egpj.\u2066\udcff [1] [red] :cat:"


def are_printable(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


# ---- text


def test_a_message_begins_once() -> None:
    assert printable_lines("error: no a\nerror: no b\x1b") == "error: no a\n  error: no b\\x1b"
    assert printable_lines("two:\n  one: x\n\n    deeper") == "two:\n  one: x\n\n    deeper"
    assert printable_lines("two:\n  one\nother") == "two:\n    one\n  other"


def test_lines_errors_and_notes(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_text("one\ttwo\nthree \x1b[1m")
    output.print_error(f"error: {NASTY}")
    output.print_note(NASTY)
    output.print_note("")
    said = capsys.readouterr()
    assert said.out == "one\\ttwo\nthree \\x1b[1m\n"
    two_lines = CLEAN.replace(r"\nerror", "\n  error")
    assert said.err == f"error: {two_lines}\nnote: {two_lines}\n"


def test_an_unexpected_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_secrets", {})
    output.hide_in_tracebacks("word", "***")
    try:
        raise LookupError(f"pass word, token=word2 {NASTY}")
    except LookupError as error:
        output.print_traceback(error)
    said = capsys.readouterr().err
    assert said.startswith("Traceback (most recent call last):\n")
    assert are_printable(said)
    assert "LookupError: pass ***, token=*** cat\\x1b" in said


def test_json_has_exact_names_and_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    value = {NASTY: [NASTY, "Hüte \U000e0001 \x7f 😀"]}
    output.print_text(output.format_json(value))
    said = capsys.readouterr().out
    assert are_printable(said)
    assert "Hüte" in said, "what can be read stays readable"
    assert json.loads(said) == value


@pytest.mark.parametrize("terminal", [True, False])
def test_on_a_console(terminal: bool) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, color_system=None, width=200)
    output.print_line(console, NASTY)
    output.print_lines(console, [NASTY])
    grid = output.plain_table(NASTY)
    grid.add_column("name")
    output.print_table(console, grid, [[NASTY]])
    said = stream.getvalue()
    assert are_printable(said)
    assert said.count(CLEAN) == 4
    output.print_message(console, NASTY)
    assert stream.getvalue().endswith(CLEAN.replace(r"\nerror", "\n  error") + "\n")


def test_columns_are_aligned_as_they_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_columns([("a\x1b", "b", "1 %"), ("犬", "c", "10 %")])
    assert capsys.readouterr().out == "a\\x1b  b   1 %\n犬     c  10 %\n"


def test_a_file_keeps_what_a_terminal_gets_escaped(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", "one\x1b[2J\ntwo\n")
    assert (tmp_path / "file").read_bytes() == b"one\x1b[2J\ntwo\n"
    code = "import sys; from pathlib import Path; from cnnstudy.system.files import write_whole\n"
    code += "write_whole(Path('/dev/stdout'), 'one\\x1b[2J\\ntwo\\n')"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE).stdout == b"one\x1b[2J\ntwo\n"
    master, terminal = os.openpty()
    subprocess.run([sys.executable, "-c", code], stdout=terminal, check=True)
    os.close(terminal)
    assert os.read(master, 100) == b"one\\x1b[2J\r\ntwo\r\n"
    os.close(master)


@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_file_that_is_a_pipe_without_a_reader_ends_the_command(meanwhile: bool) -> None:
    reader, pipe = os.pipe()
    leave = threading.Thread(target=lambda: (os.read(reader, int(meanwhile)), os.close(reader)))
    leave.start()
    if not meanwhile:
        leave.join()
    with pytest.raises(KeyboardInterrupt):
        write_whole(Path(f"/dev/fd/{pipe}"), "x" * 10**6)
    leave.join()
    os.close(pipe)


# ---- one door


#: module -> what else it may call, and why.
EXCEPTIONS = {
    "__main__": {"print", "sys.stderr"},  # before it is known that no file hides the modules of Python
    "analysis.interim": {"sys.stdout"},  # JSON for the driver
    "cli.maintenance": {"typer.confirm"},  # asks for an answer; the question has numbers only
    "data.decoder_process": {"os.dup2"},  # its standard output is the pipe to the worker
    "execution.worker": {"os.dup2"},  # its standard output is the pipe to the driver
    "results.network_summary": {"os.dup2", "os.write"},  # what TensorFlow wrote itself, if its import fails
    "study.interim": {"print"},  # JSON for the driver
    "system.processes": {"os.write", "sys.stdout", "sys.stderr"},  # a fixed line in a handler of signals
}
DOORS = re.compile(
    r"print|pprint|input|sys\.(__)?std(out|err)(__)?|os\.(write|dup2|writev)|(typer|click)\.(echo|secho|confirm|prompt)"
    r"|rich\.print|traceback\.print_\w+|sys\.excepthook|threading\.excepthook|warnings\.warn|logging\.(warning|error)"
)


def ways_out(tree: ast.Module) -> Iterator[str]:
    """What a module names that can print; that rich is imported in its own modules only, tests/test_rooms.py checks."""
    for node in ast.walk(tree):
        names = [ast.unparse(node)] if isinstance(node, ast.Name | ast.Attribute) else []
        yield from (name for name in names if DOORS.fullmatch(name))
        if isinstance(node, ast.Attribute) and node.attr in ("print", "print_exc", "excepthook"):
            yield ast.unparse(node)


def test_everything_goes_out_through_one_module() -> None:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        found[module] = set(ways_out(ast.parse(path.read_text(encoding="utf-8"))))
    assert "sys.stdout" in found.pop("system.output")
    assert {module: names for module, names in found.items() if names} == EXCEPTIONS


# ---- readers that go


WRITER = """
import sys, threading, time
from cnnstudy.system import output
from cnnstudy.system.processes import terminate_as_interrupt
what = sys.argv[1]
try:
    with terminate_as_interrupt(), output.guard_streams():
        if what == "thread":
            threading.Thread(target=lambda: [output.print_text("x" * 1000) for _ in range(1000)]).start()
            threading.Event().wait()
        elif what == "end":
            print("x")  # written when the block ends
        else:
            while True:
                print("x" * 1000)
except KeyboardInterrupt:
    output.print_text("nobody sees this")
    sys.exit(130)
"""


@pytest.mark.parametrize(("what", "unbuffered"), [("main", ""), ("main", "1"), ("thread", ""), ("end", "")])
def test_a_command_ends_with_its_reader(what: str, unbuffered: str) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-c", WRITER, what]
    reader, pipe = os.pipe()
    if what == "end":
        os.close(reader)
    with subprocess.Popen(command, stdout=pipe, stderr=subprocess.PIPE, env=environment) as process:
        os.close(pipe)
        if what != "end":
            assert os.read(reader, 1) == b"x"
            os.close(reader)
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait() == 130


def test_the_command_line_says_so_by_its_exit_code() -> None:
    reader, pipe = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "cnnstudy", "--help"]
    done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, cwd=PACKAGE.parent)
    os.close(pipe)
    assert (done.returncode, done.stderr) == (130, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_where_there_is_no_room_it_is_the_output_that_is_named() -> None:
    with Path("/dev/full").open("wb") as full:
        arguments = [sys.executable, "-m", "cnnstudy", "schema"]
        ended = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode != 0
    assert ended.stderr.startswith("error: there is no room where the output of the command goes (No space left on ")


def test_only_the_first_lost_reader_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second one would end the clean-up after the first."""
    asked = []
    monkeypatch.setattr(output, "interrupt_command", lambda: asked.append(1))
    streams = []
    for _ in range(2):
        reader, pipe = os.pipe()
        os.close(reader)
        streams.append(os.fdopen(pipe, "w"))
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    with output.guard_streams():
        for _ in range(2):
            output.print_text("x")
            output.print_error("x")
    assert asked == [1]
    assert (sys.stdout, sys.stderr) == (streams[0], streams[1])
    for stream in streams:
        stream.close()


def test_without_its_terminal_a_command_that_was_not_told_runs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under nohup or disown: SIGHUP says whether it is to end."""
    master, terminal = os.openpty()
    with os.fdopen(terminal, "w") as stream:
        os.close(master)
        monkeypatch.setattr(sys, "stdout", stream)
        with terminate_as_interrupt(), output.guard_streams():
            output.print_text("x")
            assert sys.stdout is not stream
            done = True
    assert done


def test_what_is_no_plain_stream_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", None)  # it was closed: 2>&-
    with output.guard_streams():
        output.print_text("x")
        assert sys.stderr is None
    assert stream.getvalue() == "x\n"


def test_what_cannot_be_encoded_is_escaped() -> None:
    code = "from cnnstudy.system import output\nwith output.guard_streams(): output.print_text('é 犬')"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
    assert done.stdout == b"\\xe9 \\u72ac\n"


# ---- long tables


def test_a_long_table_is_written_as_rich_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide letters, brackets and empty cells among them."""

    def written(long: int) -> str:
        monkeypatch.setattr(output, "LONG", long)
        file = io.StringIO()
        grid = output.plain_table("study [x]: best first")
        for heading, side in [("trial", "left"), ("batch", "right"), ("verdict", "left")]:
            grid.add_column(heading, justify=side, no_wrap=True)
        rows = [["alexnet-000", "16", "overfit"], ["猫", "", "[red]"], ["ü", "128", "cannot-tell"]]
        output.print_table(output.console_on(file), grid, rows)
        return file.getvalue()

    assert written(1) == written(100)


def test_a_long_table_wider_than_the_terminal_is_left_to_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "LONG", 1)
    file = io.StringIO()
    grid = output.plain_table()
    grid.add_column("name", no_wrap=True)
    console = Console(file=file, width=20)
    output.print_table(console, grid, [["x" * 50]])
    assert [len(line) for line in file.getvalue().splitlines()] == [20, 20, 20]

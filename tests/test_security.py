"""What the package's source may not do at all, read from its syntax tree; and what MLflow's server is told."""

from __future__ import annotations

import ast
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import cnnstudy
from cnnstudy.tracking import ui_server

PACKAGE = Path(cnnstudy.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
#: They run code that comes with the data.
PICKLING = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
CODE = {"eval", "exec", "compile", "__import__"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "commands.getoutput"}
YAML_LOADERS = {"load", "load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all"}
#: Keywords that must be given to a call of that name, and their only value.
NEEDED = {"load_model": ("safe_mode", True), "np.load": ("allow_pickle", False), "numpy.load": ("allow_pickle", False)}
#: Keywords that may have no other value, whatever is called.
ONLY = {"safe_mode": True, "allow_pickle": False, "shell": False, "enable_unsafe_deserialization": None}


def offences(source: str) -> Iterator[str]:
    """What is forbidden in a module, with its line."""
    for node in ast.walk(ast.parse(source)):
        for problem in [*_of_import(node), *_of_call(node), *_of_address(node)]:
            yield f"line {getattr(node, 'lineno', 0)}: {problem}"


def _of_import(node: ast.AST) -> Iterator[str]:
    names = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    for name in names:
        if name.split(".")[0] in PICKLING or name in SHELLS or name.split(".")[0] == "yaml":
            yield f"imports {name}"


def _of_call(node: ast.AST) -> Iterator[str]:
    if not isinstance(node, ast.Call):
        return
    called, given = ast.unparse(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
    last = called.rpartition(".")[2]
    if called in CODE or called in SHELLS:
        yield f"calls {called}"
    if called.startswith("yaml.") and last in YAML_LOADERS:
        yield f"calls {called}"
    if last == "YAML" and not (isinstance(given.get("typ"), ast.Constant) and given["typ"].value in ("rt", "safe")):
        yield "reads YAML with a loader that may make objects"
    for name, (keyword, value) in NEEDED.items():
        if (called == name or called.endswith(f".{name}")) and keyword not in given and None not in given:
            yield f"calls {called} without {keyword}={value}"
    for keyword, value in ONLY.items():
        content = given.get(keyword)
        if content is not None and not (isinstance(content, ast.Constant) and content.value is value):
            yield f"calls {called} with {keyword}={ast.unparse(content)}"
    if called.startswith("subprocess.") and node.args and not isinstance(node.args[0], ast.List | ast.Name):
        yield f"{called} of something that is no list"
    escape = given.get("autoescape")
    if last == "Environment" and not (isinstance(escape, ast.Constant) and escape.value is True):
        yield f"calls {called}, whose templates do not escape"


def _of_address(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and node.value in ("0.0.0.0", "::"):
        yield "binds to every address of the machine"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_runs_no_code_of_others(path: Path) -> None:
    assert list(offences(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import yaml",
        "from os import system",
        "os.system('ls')",
        "eval(text)",
        "exec(text)",
        "subprocess.run(command, shell=True)",
        "subprocess.run(command, shell=chosen)",
        "subprocess.run('ls ' + folder)",
        "subprocess.Popen(f'ls {folder}')",
        "keras.saving.load_model(file)",
        "keras.saving.load_model(file, safe_mode=False)",
        "keras.saving.load_model(file, safe_mode=wanted)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "ruamel.yaml.YAML(typ='unsafe')",
        "ruamel.yaml.YAML()",
        "yaml.load(text)",
        "server.bind(('0.0.0.0', 80))",
        "jinja2.Environment(loader=loader)",
    ],
)
def test_the_search_finds_it(source: str) -> None:
    assert list(offences(source))


# ---- the server of `ui`

Told = tuple[int, Path]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Told]:
    """Its port and its folder in /proc, begun by somebody whose environment says otherwise."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "true")
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
        patch.setenv("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "true")
        patch.setenv("MLFLOW_HOST", "0.0.0.0")
        with ui_server.serve(f"sqlite:///{folder / 'mlflow.db'}", None) as (base, process):
            yield int(base.rpartition(":")[2]), Path(f"/proc/{process.pid}")


def test_mlflow_knows_the_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A switch that MLflow renames would be no switch."""
    from mlflow import environment_variables as variables

    for name, value in ui_server.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    assert variables.MLFLOW_SERVER_ENABLE_JOB_EXECUTION.get() is False
    assert variables.MLFLOW_ALLOW_PICKLE_DESERIALIZATION.get() is False
    assert variables.MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE.get() == "false"
    assert variables.MLFLOW_DISABLE_TELEMETRY.get() is True


linux = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="there is no /proc/net/tcp here")


@linux
def test_the_server_and_its_children_are_told_so(server: Told) -> None:
    _, process = server
    group = os.getpgid(int(process.name))
    members = [one for one in Path("/proc").glob("[0-9]*") if _group(one) == group]
    assert len(members) > 1, "the server's own process and the one that serves"
    for member in members:
        environment = dict(
            part.split("=", 1) for part in (member / "environ").read_text(errors="replace").split("\0") if "=" in part
        )
        assert {name: environment.get(name) for name in ui_server.ENVIRONMENT} == ui_server.ENVIRONMENT
        command = (member / "cmdline").read_text()
        assert "sqlite:" not in command
        assert "0.0.0.0" not in command


@linux
def test_the_server_listens_on_loopback_alone(server: Told) -> None:
    port, _ = server
    listening = [
        fields[1].rpartition(":")[0]
        for table in ("tcp", "tcp6")
        if Path(f"/proc/net/{table}").exists()
        for fields in map(str.split, Path(f"/proc/net/{table}").read_text().splitlines()[1:])
        if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port
    ]
    assert [socket.inet_ntoa(bytes.fromhex(address)[::-1]) for address in listening] == ["127.0.0.1"]


def _group(process: Path) -> int | None:
    try:
        return os.getpgid(int(process.name))
    except ProcessLookupError:
        return None

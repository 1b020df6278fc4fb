"""scripts/audit with a pip-audit that answers what a test says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "audit"
HOLE = {"id": "PYSEC-1", "aliases": ["CVE-2026-1"], "fix_versions": ["2.0"], "description": "a hole"}
CLEAN: dict[str, Any] = {"name": "clean", "version": "1.0", "vulns": []}
HOLED = {"name": "holed", "version": "1.0", "vulns": [HOLE]}
UNKNOWN = {"name": "unknown", "skip_reason": "not found on PyPI"}
FAKE = """
import json, pathlib, sys
answers = json.loads((pathlib.Path(__file__).parent / "answers.json").read_text())
answer = answers[sys.argv[sys.argv.index("--vulnerability-service") + 1]]
if isinstance(answer, str):
    sys.exit(answer)
print(json.dumps({"dependencies": answer, "fixes": []}))
"""


def audit(folder: Path, pypi: object, osv: object, accepted: str = "{}") -> tuple[int, str]:
    """Exit code, and what it says."""
    fake = folder / "pip_audit"
    fake.mkdir()
    (fake / "__init__.py").touch()
    (fake / "__main__.py").write_text(FAKE, encoding="utf-8")
    (fake / "answers.json").write_text(json.dumps({"pypi": pypi, "osv": osv}), encoding="utf-8")
    text = SCRIPT.read_text(encoding="utf-8")
    assert "ACCEPTED: dict[str, str] = {" in text
    script = folder / "audit"
    first, _, rest = text.partition("ACCEPTED: dict[str, str] = ")
    script.write_text(f"{first}ACCEPTED: dict[str, str] = {accepted}\nSERVICES{rest.partition('SERVICES')[2]}")
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_all_is_well(tmp_path: Path) -> None:
    code, said = audit(tmp_path, [CLEAN, UNKNOWN], "never asked")
    assert code == 0
    assert "audited by pypi: 1 packages, 0 vulnerabilities" in said
    assert "not known to the service: unknown" in said


def test_a_vulnerability_fails(tmp_path: Path) -> None:
    code, said = audit(tmp_path, [CLEAN, HOLED], "never asked")
    assert code == 1
    assert "holed 1.0: PYSEC-1, CVE-2026-1; fixed in 2.0" in said


@pytest.mark.parametrize("name", ["PYSEC-1", "CVE-2026-1"])
def test_one_that_is_accepted_is_told_with_its_reason(tmp_path: Path, name: str) -> None:
    code, said = audit(tmp_path, [CLEAN, HOLED], "never asked", f"{{'{name}': 'the module is not used'}}")
    assert code == 0
    assert "accepted: the module is not used" in said


def test_an_acceptance_that_is_no_longer_needed_is_told(tmp_path: Path) -> None:
    assert "GONE-1 is accepted in scripts/audit but was not found" in audit(tmp_path, [CLEAN], "", "{'GONE-1': 'x'}")[1]


def test_where_one_service_does_not_answer_the_other_is_asked(tmp_path: Path) -> None:
    assert audit(tmp_path, "no route to pypi", [HOLED])[0] == 1


@pytest.mark.parametrize("pypi", ["no route to pypi", [UNKNOWN]], ids=["no route", "knows nothing"])
def test_without_network_it_says_so_and_goes_on(tmp_path: Path, pypi: object) -> None:
    code, said = audit(tmp_path, pypi, "no route to osv")
    assert code == 0
    assert "dependencies could not be audited: no network" in said
    assert "osv: no route to osv" in said

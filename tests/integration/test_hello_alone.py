"""With nothing but the hello plugin an audit and its report are complete: the host needs no method."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HELLO = Path(__file__).parents[2] / "docs" / "hello-plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds the hello plugin as a stranger would install it."""
    folder = tmp_path_factory.mktemp("hello")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--disable-pip-version-check", "--target", str(folder), str(HELLO)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.mark.slow
def test_audit_and_report_are_complete(installed, scenes, factory, command, tmp_path):
    """An audit with only hello ends with code 0, its tables and its section are there."""
    done = command(
        "audit", "--model", factory, "--trust-code", "--manifest", scenes, "--preprocess", "unit",
        "--classes", "background,foreground", "--controls", "shuffled:1", "--out", "run",
        "--only-plugins", "hello", env={"PYTHONPATH": str(installed)},
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    record = json.loads((run / "run.json").read_text())
    assert {probe["plugin"] for probe in record["probes"]} == {"hello"}
    assert record["failures"] == []
    report = (run / "report.html").read_text(encoding="utf-8")
    for title in ("What was audited", "Relevance maps", "Failures and exclusions", "Reproduction"):
        assert title in report
    findings = json.loads((run / "findings.json").read_text())
    assert {finding["plugin"] for finding in findings} >= {"host", "hello"}

"""The demo can be made again, and says what the committed report says."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


class Headings(HTMLParser):
    """Headings of a report, and the names of its findings."""

    def __init__(self):
        super().__init__()
        self.headings, self.findings, self._open = [], [], ""

    def handle_starttag(self, tag, attrs):
        """Note where a heading or a name begins."""
        self._open = tag if tag in {"h1", "h2", "h3", "span"} else self._open
        if tag in {"h1", "h2", "h3"}:
            self.headings.append("")

    def handle_endtag(self, tag):
        """Note where it ends."""
        self._open = "" if tag == self._open else self._open

    def handle_data(self, data):
        """Keep the words."""
        if self._open.startswith("h"):
            self.headings[-1] += data
        if self._open == "span" and re.fullmatch(r"(host|channels|explainers)/\S.*", data.strip()):
            self.findings.append(data.strip())


def read(path):
    """Headings and finding names of a report."""
    parser = Headings()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser.headings, sorted(parser.findings)


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    """The demo, made from nothing."""
    folder = tmp_path_factory.mktemp("demo")
    for script in (["make_section.py", folder], ["run_demo.py", folder, folder / "report.html"]):
        command = [sys.executable, str(ROOT / "demo" / script[0]), *map(str, script[1:])]
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    return folder


@pytest.mark.slow
class TestDemo:
    def test_same_sections_and_findings(self, rebuilt):
        """The rebuilt report has the committed one's headings and findings, in order."""
        headings, findings = read(rebuilt / "report.html")

        assert (headings, findings) == read(ROOT / "reports" / "demo" / "report.html")
        assert "What was audited" in headings
        assert "host/certificate" in findings

    def test_it_claims_only_what_it_shows(self, rebuilt):
        """The network is good, its last layer beats every control, and the limits stand first."""
        rows = json.loads((rebuilt / "run" / "findings.json").read_text())
        found = {f"{row['plugin']}/{row['name']}": row for row in rows}

        assert found["host/certificate"]["verdict"] == "ok"
        assert found["host/classifier"]["interval"][0] > 0.9
        best = found["channels/best-channel/stained@features"]["statement"]
        for words in ("above all 3 controls", "an all-ones mask scores", "Otsu of the"):
            assert words in best
        assert "one patient" in found["host/note"]["statement"]

    def test_committed_report_is_small_and_names_no_machine(self):
        """The committed report is at most 8 MB and holds no absolute path."""
        text = (ROOT / "reports" / "demo" / "report.html").read_text(encoding="utf-8")

        assert len(text.encode()) <= 8_000_000
        assert "demo/demo.toml" in text
        assert not re.search(r"(?<![\w.])/(home|root|work|tmp|Users)/", text)

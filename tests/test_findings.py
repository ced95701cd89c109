"""Findings: written as plain JSON, read back as they were, and the host's own statements."""

import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wsss_probe.certificate import Certificate
from wsss_probe.contracts import Finding
from wsss_probe.errors import CorruptRunError
from wsss_probe.findings import (
    certificate_finding,
    control_findings,
    quarantine_finding,
    read_findings,
    storage_finding,
    total,
    write_findings,
)

numbers = st.floats(allow_infinity=False, allow_nan=False)
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
stated = st.builds(
    Finding,
    name=texts,
    verdict=st.sampled_from(["ok", "notice", "warning"]),
    statement=texts,
    effect=st.none() | numbers,
    interval=st.none() | st.tuples(numbers, numbers),
    n=st.none() | st.integers(0, 10**9),
    groups=st.none() | st.integers(0, 10**9),
    unit=texts,
    control=texts,
)


class TestRoundTrip:
    @settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.tuples(texts, stated), max_size=4))
    def test_read_back_as_they_were(self, tmp_path, findings):
        """Whatever the texts and numbers, what is read equals what was written."""
        write_findings(tmp_path, findings)

        assert read_findings(tmp_path) == findings

    @pytest.mark.parametrize("undefined", [math.nan, math.inf, -math.inf, np.float32("nan")])
    def test_what_is_not_finite_becomes_null(self, tmp_path, undefined):
        """NaN and infinity are not JSON: the effect and the whole interval become null."""
        write_findings(
            tmp_path,
            [("p", Finding("a", "ok", "s", effect=undefined, interval=(0.5, undefined))),
             ("p", Finding("b", "ok", "s", effect=0.5, interval=(undefined, 0.5)))],
        )  # fmt: skip
        text = (tmp_path / "findings.json").read_text()
        rows = json.loads(text, parse_constant=pytest.fail)
        found = [finding for _, finding in read_findings(tmp_path)]

        assert [(row["effect"], row["interval"]) for row in rows] == [(None, None), (0.5, None)]
        assert [(finding.effect, finding.interval) for finding in found] == [(None, None), (0.5, None)]

    def test_numbers_of_numpy_are_written(self, tmp_path):
        """A plugin's numpy scalars are written as plain numbers."""
        finding = Finding(
            "a", "ok", "s", effect=np.float32(0.5), interval=(np.float64(0.25), np.float32(1)),
            n=np.int64(3), groups=np.int32(2),
        )  # fmt: skip
        write_findings(tmp_path, [("p", finding)])

        assert read_findings(tmp_path) == [
            ("p", Finding("a", "ok", "s", effect=0.5, interval=(0.25, 1.0), n=3, groups=2))
        ]

    def test_surrogates_survive(self, tmp_path):
        """Text that UTF-8 cannot hold is escaped, not a crash."""
        write_findings(tmp_path, [("p", Finding("a", "ok", "caf\udce9"))])

        assert read_findings(tmp_path)[0][1].statement == "caf\udce9"

    @pytest.mark.parametrize(
        "text", ["", "{", "{}x", '{"a": 1}', "[1]", '[{"name": "a"}]', '[{"plugin": "p"}]']
    )
    def test_a_broken_file_is_a_corrupt_run(self, tmp_path, text):
        """Anything but a list of findings is said in one line."""
        (tmp_path / "findings.json").write_text(text)
        with pytest.raises(CorruptRunError, match=r"findings\.json' cannot be read"):
            read_findings(tmp_path)

    def test_a_missing_file_is_a_corrupt_run(self, tmp_path):
        """A run without findings is corrupt."""
        with pytest.raises(CorruptRunError, match="cannot be read"):
            read_findings(tmp_path)


class TestHost:
    def certificate(self, differences=()):
        """Certify that these things differ."""
        return Certificate(not differences, differences, "p", "b", not differences, 8, True)

    def test_an_intact_network(self):
        """The certificate's finding counts the images behind it."""
        finding = certificate_finding(self.certificate())

        assert (finding.verdict, finding.n) == ("ok", 8)
        assert "bit-identical" in finding.statement

    def test_a_changed_network(self):
        """What changed is named in a warning."""
        finding = certificate_finding(self.certificate(("training changed: a", "gradients changed: b")))

        assert finding.verdict == "warning"
        assert finding.statement.endswith("network: training changed: a; gradients changed: b.")

    def test_unreadable_images(self):
        """Unreadable images are counted, with the first reason; none give no finding."""
        finding = quarantine_finding({3: "torn", 5: "empty"}, 8)

        assert quarantine_finding({}, 8) is None
        assert finding.effect == 0.25
        assert finding.statement == "2 of 8 images could not be read and count nowhere; the first: torn."

    def test_dead_controls_by_layer(self):
        """One finding per layer names all controls that are dead there, and no living one."""
        found = control_findings(
            {
                "shuffled-0": {"a": True, "b": False},
                "shuffled-1": {"a": False, "b": False},
                "x": {"a": True, "b": True},
            }
        )

        assert {finding.name: finding.control for finding in found} == {
            "control-degenerate@b": "shuffled-0, shuffled-1", "control-degenerate@a": "shuffled-1"
        }  # fmt: skip
        assert control_findings({"shuffled-0": {"a": True}}) == []

    def test_storage(self):
        """Non-finite and clipped values get a finding per table; underflow is harmless and gets none."""
        found = storage_finding({"a/maps:overflow": 3, "a/mean:nonfinite": 2, "a/maps:underflow": 9})

        assert [(finding.name, finding.effect) for finding in found] == [
            ("overflow@a/maps", 3.0), ("nonfinite@a/mean", 2.0)
        ]  # fmt: skip
        assert "2 values are not finite" in found[1].statement

    def test_counters_of_shards_add_up(self):
        """Counters are added key by key."""
        assert total([{"a": 1}, {}, {"a": 2, "b": 5}]) == {"a": 3, "b": 5}

"""The best channel is called better only beyond doubt, and the statement says beside what."""

import numpy as np
import pytest
from wsss_probe_channels.screening.selection import Best
from wsss_probe_channels.screening.verdict import ControlScore, Evidence, best_channel_finding

from wsss_probe.statistics import Interval


def evidence(**changes):
    """A channel with mean F1 0.8 [0.7, 0.9] beside three living controls."""
    scored = np.full(20, 0.8)
    values = {
        "layer": "conv",
        "mask_class": "gland",
        "how": "chosen and scored",
        "best": Best(3, 0.85, scored),
        "interval": Interval(np.array(0.8), np.array(0.7), np.array(0.9), 20, 12),
        "all_ones": 0.5,
        "controls": [ControlScore(f"shuffled-{n}", True, 0.3 + 0.1 * n) for n in range(3)],
        "intensity": ("dark input 2", 0.4),
    }
    return Evidence(**{**values, **changes})


def test_all_conditions_met():
    """Above every control with the whole interval, all-ones and intensity: ok, and all are named."""
    finding = best_channel_finding(evidence())

    assert finding.verdict == "ok"
    for words in ("above all 3 controls", "0.300 to 0.500", "no p below 0.25", "all-ones mask scores lower"):
        assert words in finding.statement
    assert "Otsu of the dark input 2 alone scores lower (0.400)" in finding.statement


def test_an_interval_that_reaches_a_control_takes_the_verdict():
    """Above all controls on average is not enough when the interval reaches into their range."""
    finding = best_channel_finding(evidence(controls=[ControlScore("shuffled-0", True, 0.7)]))

    assert finding.verdict == "notice"
    assert "its interval reaches into their range, so no verdict" in finding.statement


def test_no_interval_takes_the_verdict():
    """With one group there is no interval, hence no verdict."""
    undefined = np.array(np.nan)
    finding = best_channel_finding(evidence(interval=Interval(np.array(0.8), undefined, undefined, 20, 1)))

    assert finding.verdict == "notice"
    assert "no interval, so no verdict" in finding.statement


@pytest.mark.parametrize("score", [0.75 + 0.05000001, 0.9])
def test_a_colour_rule_as_good_takes_the_verdict(score):
    """A rule on the input that does as well means the channel shows no more than that."""
    finding = best_channel_finding(evidence(intensity=("dark input 2", score)))

    assert finding.verdict == "notice"
    assert f"alone scores at least as high ({score:.3f})" in finding.statement


def test_an_undefined_rule_is_not_mentioned():
    """A constant input gives no rule; the other comparisons decide."""
    finding = best_channel_finding(evidence(intensity=("", float("nan"))))

    assert finding.verdict == "ok"
    assert "Otsu" not in finding.statement


def test_the_drop_stands_beside_that_of_the_controls():
    """How much is left where it was not chosen is said with its interval and the living controls' drops."""
    controls = [
        ControlScore("a", True, 0.3, 0.1),
        ControlScore("b", True, 0.3, 0.25),
        ControlScore("c", False, 0.3, 0.9),
    ]
    finding = best_channel_finding(evidence(drop=(0.05, -0.01, 0.11), controls=controls))

    words = "mean F1 where chosen minus where scored 0.050 [-0.010, 0.110] (controls 0.100 to 0.250)"
    assert words in finding.statement
    assert "where chosen minus" not in best_channel_finding(evidence()).statement
    assert "(controls" not in best_channel_finding(evidence(drop=(0.05, 0.0, 0.1), controls=[])).statement

"""What control networks are surveyed for, and what probes may know of them."""

import numpy as np
import pytest
import torch
import xarray as xr

from wsss_probe.auditing import perform
from wsss_probe.config import resolve
from wsss_probe.contracts import Conclusion, Needs, Observation
from wsss_probe.images import TensorSource
from wsss_probe.preparation import find_subject, prepare
from wsss_probe.testing.models import multi_logit

LAYER = "features"


def pooled_rows(batch):
    """Give the spatial mean of a layer's maps."""
    values = batch.activations[LAYER].mean(dim=(2, 3)).numpy()
    return Observation(xr.Dataset({"mean": (("image", "channel"), values)}))


def other_rows(batch):
    """Give the spatial mean of a layer's maps for other images than those of the batch."""
    values = batch.activations_of(batch.images.flip(-1), [LAYER])[LAYER].mean(dim=(2, 3)).numpy()
    return Observation(xr.Dataset({"mean": (("image", "channel"), values)}))


@pytest.fixture
def performed(hosting, tmp_path):
    """Run an audit of some probes on twelve images with one shuffled control."""

    def make(*probes):
        host = hosting(probes)
        options = resolve({"layers": (LAYER,), "controls": "shuffled:1", "batch_size": 4})
        images = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        subject = find_subject(options, host, multi_logit(2), TensorSource(images))
        return perform(prepare(options, host, subject), tmp_path / "run", "test")

    return make


def test_a_control_has_its_own_head(performed, looking):
    """The head that a probe sees for a control is proved on the control, with its weights."""
    seen = {}

    def conclude(run):
        if run.controls:
            (control,) = run.controls
            seen.update(own=run.survey.head, other=control.survey.head)
            seen["pooled"] = (run.pooled(LAYER).values, control.pooled(LAYER).values)
        return Conclusion(xr.Dataset({"n": 1}))

    performed(looking("heads", pooled_rows, conclude, Needs(frozenset({LAYER}))))

    own, other = seen["own"], seen["other"]
    assert own.linear
    assert other.linear
    assert not np.allclose(own.weight, other.weight)
    np.testing.assert_allclose(np.sort(own.weight, axis=None), np.sort(other.weight, axis=None), atol=1e-6)
    assert seen["pooled"][0].shape == seen["pooled"][1].shape
    assert not np.allclose(*seen["pooled"])


def test_some_probes_ask_no_control(performed, looking):
    """A probe whose needs leave controls out has rows for the audited network only."""
    needs = {name: Needs(frozenset({LAYER}), controls=name == "with") for name in ("with", "without")}
    found = {}

    def conclude(run):
        found.update({name: _has_rows(control, name) for control in run.controls for name in needs})
        return Conclusion(xr.Dataset({"n": 1}))

    performed(*(looking(name, pooled_rows, conclude, own) for name, own in needs.items()))

    assert found == {"with": True, "without": False}


def _has_rows(control, name):
    return f"probes/{name}/rows" in control.store.tables()


def test_activations_of_other_images(performed, looking):
    """A probe gets the maps of images that it made itself, the same as the network gives for them."""
    means = {}

    def conclude(run):
        means["own"], means["flipped"] = (run.rows(name)["mean"].values for name in ("own", "flipped"))
        return Conclusion(xr.Dataset({"n": 1}))

    needs = Needs(frozenset({LAYER}))
    performed(
        looking("own", pooled_rows, lambda _run: Conclusion(xr.Dataset({"n": 1})), needs),
        looking("flipped", other_rows, conclude, needs),
    )

    net = multi_logit(2).eval()
    images = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = net.get_submodule(LAYER)(images.flip(-1)).mean(dim=(2, 3)).numpy()
    np.testing.assert_allclose(means["flipped"], wanted, rtol=1e-4, atol=1e-6)
    assert not np.allclose(means["own"], means["flipped"])


def test_only_what_a_later_pass_reads_is_concluded_for_controls(performed, looking):
    """Between passes and for controls, nothing is concluded that no later pass over the images needs."""
    called = []

    def concluding(name):
        def conclude(run):
            called.append((name, bool(run.controls)))
            return Conclusion(xr.Dataset({"n": 1}))

        return conclude

    here = Needs(frozenset({LAYER}))
    performed(
        looking("read", pooled_rows, concluding("read"), here),
        looking("unread", pooled_rows, concluding("unread"), here),
        looking(
            "late", pooled_rows, concluding("late"), Needs(frozenset({LAYER}), tables=frozenset({"read"}))
        ),
    )

    # once for the audited network's second pass, once for the control's, then all with the control at hand
    assert sorted(called) == [
        ("late", True),
        ("read", False),
        ("read", False),
        ("read", True),
        ("unread", True),
    ]

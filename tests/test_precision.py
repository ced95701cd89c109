"""Networks in half precision: images go in as they need them, and float32 comes out."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from wsss_probe.api import prepared_audit
from wsss_probe.auditing import perform
from wsss_probe.certificate import certify, fingerprint
from wsss_probe.config import AuditOptions
from wsss_probe.contracts import Conclusion, Needs, Observation
from wsss_probe.controls import make_control
from wsss_probe.errors import ModelError
from wsss_probe.evaluation import lent
from wsss_probe.head import find_head
from wsss_probe.images import TensorSource
from wsss_probe.layers import describe_layers
from wsss_probe.precision import as_input, floating_dtype, precision_name, speaking_float32, widened
from wsss_probe.run import open_run, read_record
from wsss_probe.taps import PassOptions, Resumer, run_pass
from wsss_probe.testing import models
from wsss_probe.testing.layouts import laid_out

HALVES = [torch.float16, torch.bfloat16]


@pytest.fixture
def images():
    """Network input in float32, (image, channel, row, column)."""
    return torch.rand((4, 3, 16, 24), generator=torch.Generator().manual_seed(0))


def layer_of(module, name, images):
    """One layer as described."""
    return next(info for info in describe_layers(module, images[:1]) if info.name == name)


# -- types -------------------------------------------------------------------------------------


def test_float32_costs_nothing(images):
    """In single precision the very same tensors go in and come out."""
    net = models.inplace()

    assert as_input(images, net) is images
    assert widened(images) is images
    assert floating_dtype(net) == torch.float32


def test_the_first_floating_parameter_decides():
    """Its type is named, with those of others; a network without parameters takes what comes."""
    net = nn.Sequential(nn.Conv2d(3, 2, 1).bfloat16(), nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1).half())

    assert floating_dtype(net) == torch.bfloat16
    assert precision_name(net) == "bfloat16 (that of the first parameter; others have float32, float16)"
    assert precision_name(models.inplace().half()) == "float16"
    assert floating_dtype(nn.ReLU()) is None
    assert precision_name(nn.ReLU()) == "no floating-point parameter"


def test_what_is_no_float_is_left():
    """Integers are not cast, and neither is double precision narrowed on its way out."""
    numbers = torch.arange(3)

    assert as_input(numbers, models.inplace().half()) is numbers
    assert widened(torch.zeros(2, dtype=torch.float64)).dtype == torch.float64


# -- one pass ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALVES)
def test_a_pass_gives_float32(dtype, images):
    """Logits, maps and gradients are float32 and those of the same weights in float32, but for rounding."""
    half = models.inplace().to(dtype)
    single = copy.deepcopy(half).float()
    options = PassOptions({1: ("features.3", "features")}, {1: torch.ones(4, dtype=torch.int64)})
    found, wanted = (
        run_pass(net, images, [layer_of(net, name, images) for name in ("features.3", "features")], options)
        for net in (half, single)
    )

    # a few roundings; signs of single cells may differ where the ReLU cuts
    close = {"rtol": 8 * torch.finfo(dtype).eps, "atol": 8 * torch.finfo(dtype).eps}
    torch.testing.assert_close(found.logits, wanted.logits, **close)
    for name in ("features.3", "features"):
        torch.testing.assert_close(found.activations[name], wanted.activations[name], **close)
        gradient, reference = found.gradients[name, 1], wanted.gradients[name, 1]
        assert gradient.dtype == torch.float32
        assert float((gradient - reference).norm() / reference.norm()) < 0.05
    assert not torch.equal(found.logits, wanted.logits)


def test_double_precision_stays(images):
    """A network in float64 takes float32 images and gives float64."""
    net = models.inplace().double()

    captured = run_pass(net, images, [layer_of(net, "features", images)])

    assert captured.logits.dtype == captured.activations["features"].dtype == torch.float64


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("build", [models.inplace, models.branched, lambda: laid_out("tokens")])
def test_resuming_in_half_precision(build, dtype, images):
    """Maps in float32 are taken, nothing before the layer is run, and the logits are float32."""
    net = build().to(dtype)
    name = next(name for name in ("features", "block") if hasattr(net, name))
    info = layer_of(net, name, images)
    captured = run_pass(net, images, [info])

    resumer = Resumer(net, info, images)
    found = resumer(captured.activations[name], images)

    assert resumer.skips
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, captured.logits, rtol=4 * torch.finfo(dtype).eps, atol=1e-3)


@pytest.mark.parametrize("dtype", HALVES)
def test_the_head_is_proved_in_float32(dtype, images):
    """Rounding hides the equation from a proof in half precision; the network itself is not converted."""
    net = models.inplace().to(dtype)

    head = find_head(net, images, describe_layers(net, images[:1]))

    assert (head.linear, head.layer) == (True, "features")
    assert head.error < 1e-6
    np.testing.assert_array_equal(head.weight, net.classifier.weight.detach().double().numpy())
    assert floating_dtype(net) == dtype


@pytest.mark.parametrize("dtype", [*HALVES, torch.float64])
def test_a_lent_network_speaks_float32(dtype, images):
    """Other people's tools hand over float32 and may take gradients of the input; nothing stays behind."""
    net = models.inplace().to(dtype)
    before = fingerprint(net)
    leaf = images.clone().requires_grad_()

    with lent(net) as module:
        logits = module(leaf)
        logits[:, 0].sum().backward()

    assert logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert leaf.grad.dtype == torch.float32
    assert bool(leaf.grad.any())
    assert before.differences(fingerprint(net)) == ()


def test_nothing_is_hooked_in_float32():
    """A network that speaks float32 is lent as it is."""
    net = models.inplace()
    with speaking_float32(net):
        assert not net._forward_pre_hooks
        assert not net._forward_hooks
    with speaking_float32(net.half()):
        assert net._forward_pre_hooks


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", ["shuffled-0", "reinit-0"])
@pytest.mark.parametrize("build", [models.inplace, models.branched])
def test_controls_in_half_precision(build, kind, dtype, images):
    """A control of a network in half precision is made of float32 images, and has its precision."""
    control = make_control(kind, build().to(dtype), [images, images])

    assert floating_dtype(control) == dtype
    assert bool(torch.isfinite(run_pass(control, images, ()).logits).all())


# -- audits ------------------------------------------------------------------------------------


@pytest.fixture
def audited(hosting, tmp_path, times_gradient, looking):
    """Audit a network with an explainer and a probe that intervenes; gives the folder."""

    def observe(batch):
        import xarray as xr

        maps = batch.activations["features"]
        logits = batch.resume("features", maps * 0) - batch.forward(batch.images)
        assert maps.dtype == batch.logits.dtype == logits.dtype == torch.float32
        return Observation(xr.Dataset({"change": (("image", "class"), logits.numpy())}))

    def conclude(run):
        return Conclusion(run.rows("intervening").mean("image"))

    def make(net, images):
        probe = looking("intervening", observe, conclude, Needs(layers=frozenset({"features"})))
        host = hosting([probe], [times_gradient()])
        asked = AuditOptions(layers=("features",), controls="shuffled:1", store_activations=("features",))
        prepared = prepared_audit(asked, host, net, TensorSource(images))
        outcome = perform(prepared, tmp_path / "run", "test")
        assert host.failures == ()
        return outcome.folder

    return make


@pytest.mark.parametrize("dtype", HALVES)
def test_an_audit_in_half_precision(dtype, audited, images):
    """Everything runs, tables are finite, the precision is recorded, and the network is as it was."""
    net = models.inplace().to(dtype).train()
    with certify(net, images) as certification:
        folder = audited(net, images)

    assert certification.certificate.intact
    tree = open_run(folder)
    assert np.isfinite(tree["relevance/timesgradient/features/relevance"].values).all()
    assert np.isfinite(tree["probes/intervening/rows/change"].values).all()
    assert tree["predictions/logits"].dtype == np.float32
    record = read_record(folder)
    assert record["model"]["precision"] == str(dtype).removeprefix("torch.")
    assert "maps and logits are kept in float32" in (folder / "report.json").read_text()


def test_a_precision_that_the_device_cannot_compute(audited, images):
    """An operation without a kernel for the type is one line with the remedy, before anything is written."""

    class Unsupported(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Conv2d(3, 2, 1)

        def forward(self, images):
            self.features(images)
            msg = "\"fancy_cpu\" not implemented for 'Half'"
            raise RuntimeError(msg)

    with pytest.raises(ModelError) as caught:
        audited(Unsupported().half(), images)

    assert "cannot be computed in its precision, float16, on cpu" in str(caught.value)
    assert str(caught.value).endswith("remedy: audit module.float(), or another --device")


def test_mixed_types_that_do_not_meet(audited, images):
    """Layers of two types that are joined without a cast are one line that names both."""
    net = models.inplace()
    net.features.half()

    with pytest.raises(ModelError) as caught:
        audited(net, images)

    assert "float16 (that of the first parameter; others have float32), on cpu" in str(caught.value)
    assert caught.value.remedy == "audit module.float(), or another --device"

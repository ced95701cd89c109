"""Bad input of a network: one line or one finding each, the rest goes on, nothing is left on the network."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import wsss_probe
from wsss_probe.api import prepared_audit
from wsss_probe.auditing import perform
from wsss_probe.certificate import fingerprint
from wsss_probe.config import AuditOptions, resolve
from wsss_probe.contracts import Conclusion, Needs, Observation
from wsss_probe.errors import ExitCode, ModelError, ProbeError, UsageError
from wsss_probe.images import TensorSource
from wsss_probe.influence import UNREACHED
from wsss_probe.run import open_run, read_record
from wsss_probe.targets import parse_target
from wsss_probe.testing import models
from wsss_probe.testing.layouts import class_token, laid_out

SIZE = (16, 24)


def pictures(number=6):
    """Random network input, (image, channel, row, column)."""
    return torch.rand((number, 3, *SIZE), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def audited(hosting, tmp_path, times_gradient):
    """Audit a network in train mode; gives the folder, after the network was found as it had been."""

    def make(net, images=None, probes=(), **options):
        before = fingerprint(net.train())
        host = hosting(probes, [times_gradient()])
        try:
            asked = resolve({"controls": "none", **options})
            source = images if isinstance(images, TensorSource) else TensorSource(pictures())
            outcome = perform(prepared_audit(asked, host, net, source), tmp_path / "run", "test")
        finally:
            assert before.differences(fingerprint(net)) == ()
        assert outcome.exit_code is ExitCode.DONE
        return outcome

    return make


def refused(outcome):
    """Reasons by layer."""
    return {layer: why for _, layer, why in read_record(outcome.folder)["refused"]}


def mapped(outcome):
    """Layers with relevance maps, whose values are finite."""
    tree = open_run(outcome.folder)
    tables = tree["relevance/timesgradient"].children if "relevance" in tree.children else {}
    return {name for name in tables if np.isfinite(tables[name]["relevance"].values).all()}


def statement(outcome, name):
    """Statement of one finding."""
    (found,) = [f.statement for _, f in outcome.findings if f.name == name]
    return found


def one_line(caught):
    """The message, which is one line."""
    assert isinstance(caught.value, ProbeError)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Beside(nn.Module):
    """The layer ``aside`` runs, but nothing reads it."""

    def __init__(self):
        super().__init__()
        self.features, self.aside = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)
        self.classifier = nn.Linear(4, 2)

    def forward(self, images):
        """Return logits."""
        maps = self.features(images)
        self.aside(maps)
        return self.classifier(maps.relu().mean((2, 3)))


# -- layers ------------------------------------------------------------------------------------


def test_a_layer_without_rows_and_columns(audited):
    """It is audited without maps, with the reason, and the other layer has them."""
    outcome = audited(models.multi_logit(2), layers=("features", "classifier"))

    assert refused(outcome) == {"classifier": "needs maps, the output has shape (2,)"}
    assert mapped(outcome) == {"features"}
    assert open_run(outcome.folder)["activations/classifier/mean"].shape == (6, 2)


def test_a_layer_that_no_logit_depends_on(audited, looking):
    """No map there, no probe that reads its gradient; both say why, and the rest goes on."""

    def reading(name, layer):
        needs = Needs(gradients=frozenset({(layer, "predicted")}))
        return looking(name, lambda _b: Observation(), lambda run: Conclusion(run.logits.to_dataset()), needs)

    outcome = audited(
        Beside(), probes=[reading("far", "aside"), reading("near", "features")], layers=("features", "aside")
    )

    why = "no gradient: logits that do not depend on it"
    assert refused(outcome) == {"aside": f"aside: {why}"}
    assert statement(outcome, "no-gradient/aside") == f"Nothing reads gradients at aside: {why}."
    assert statement(outcome, "skipped-far").endswith(f"it reads the gradient at aside: {why}.")
    assert mapped(outcome) == {"features"}
    assert "near" in [probe["name"] for probe in read_record(outcome.folder)["probes"]]


def test_patches_that_no_logit_depends_on(audited):
    """The end of a transformer with a class token has no map, and says so; its last normalisation has."""
    outcome = audited(class_token(), layers=("blocks.1", "blocks.1.norm"))

    assert refused(outcome) == {"blocks.1": f"blocks.1: {UNREACHED}"}
    assert mapped(outcome) == {"blocks.1.norm"}


def test_a_layer_that_is_zero_everywhere(audited):
    """Its maps are zero, which is true, and the audit ends well."""
    net = models.multi_logit(2)
    nn.init.zeros_(net.features[0].weight)
    nn.init.zeros_(net.features[0].bias)
    outcome = audited(net, layers=("features.0", "features"))

    assert mapped(outcome) == {"features.0", "features"}
    tree = open_run(outcome.folder)
    assert not tree["relevance/timesgradient/features.0/relevance"].values.any()


def test_an_output_that_is_no_map_says_why(audited):
    """Tokens that can be read in two ways are no maps, until somebody says which."""

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.tokens = nn.Conv2d(3, 24, 4, 4), nn.Flatten(2)

        def forward(self, images):
            return self.tokens(self.embed(images)).mean(2)[:, :3]

    outcome = audited(Odd(), layers=("embed", "tokens"))

    assert refused(outcome)["tokens"].startswith(
        "needs maps, the output has shape (24, 24) (24 are the cells"
    )
    assert mapped(outcome) == {"embed"}


# -- values ------------------------------------------------------------------------------------


class Sometimes(nn.Module):
    """NaN logits for dark images."""

    def __init__(self, below):
        super().__init__()
        self.inner, self.below = models.multi_logit(2), below

    def forward(self, images):
        """Return logits."""
        dark = images.mean((1, 2, 3)) < self.below
        return self.inner(images).masked_fill(dark[:, None], torch.nan)


@pytest.mark.parametrize(("below", "lost"), [(0.1, [2]), (2.0, list(range(6)))])
def test_logits_that_are_not_finite(audited, below, lost):
    """Rows of such images are NaN and listed, all of them if need be; other rows are as ever."""
    images = pictures()
    images[2] *= 0.1
    outcome = audited(Sometimes(below), TensorSource(images), layers=("inner.features",))

    maps = open_run(outcome.folder)["relevance/timesgradient/inner.features/relevance"].values
    assert np.flatnonzero(np.isnan(maps).all((1, 2))).tolist() == lost
    assert np.isfinite(np.delete(maps, lost, axis=0)).all()
    quarantine = (outcome.folder / "quarantine.csv").read_text()
    assert quarantine.count("the network's values for it are not finite") == len(lost)


def test_a_broken_image_in_a_batch(audited):
    """Only its own row is lost."""
    images = pictures()
    images[3, 0, 0, 0] = torch.nan
    outcome = audited(models.multi_logit(2), TensorSource(images), layers=("features",))

    maps = open_run(outcome.folder)["relevance/timesgradient/features/relevance"].values
    assert np.flatnonzero(np.isnan(maps).any((1, 2))).tolist() == [3]
    assert "image holds NaN or infinite values" in (outcome.folder / "quarantine.csv").read_text()


# -- networks ----------------------------------------------------------------------------------


class Several(nn.Module):
    """Needs more than images."""

    def __init__(self):
        super().__init__()
        self.inner = models.multi_logit(2)

    def forward(self, images, age, *, site, scale=1.0):
        """Return logits."""
        return self.inner(images) * scale + age + site


class Answers(nn.Module):
    """Returns a mapping."""

    def __init__(self, *names):
        super().__init__()
        self.inner, self.names = models.multi_logit(2), names

    def forward(self, images):
        """Return logits by several names, and maps."""
        return {"maps": images, **{name: self.inner(images) for name in self.names}}


def test_several_inputs(audited):
    """The inputs that are missing are named, and that one has to wrap the network."""
    with pytest.raises(ModelError) as caught:
        audited(Several())

    assert one_line(caught) == (
        "'Several' needs other inputs than images; found: forward also asks for age, site; "
        "remedy: wrap it in a module whose forward(images) adds them"
    )


def test_a_wrapped_network_is_audited(audited):
    """The remedy works."""

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.several = Several()

        def forward(self, images):
            return self.several(images, 1.0, site=2.0)

    assert mapped(audited(Wrapped(), layers=("several.inner.features",))) == {"several.inner.features"}


def test_another_type_error_is_told_as_it_is(audited):
    """A network that fails for another reason is not told to be wrapped."""

    class Fails(nn.Module):
        def forward(self, images):
            return images + None

    with pytest.raises(ModelError) as caught:
        audited(Fails())

    assert "'Fails' fails on images of shape 3x16x24; found: TypeError" in one_line(caught)


def test_several_outputs(audited):
    """One tensor of logits in a mapping is found; two are named, with the remedy."""
    assert mapped(audited(Answers("logits"), layers=("inner.features",))) == {"inner.features"}

    with pytest.raises(ModelError) as caught:
        audited(Answers("logits", "auxiliary"))

    said = one_line(caught)
    assert (
        "cannot be read as logits; found: ['maps'] (6, 3, 16, 24), ['logits'] (6, 2), ['auxiliary'] (6, 2)"
        in said
    )
    assert said.endswith("remedy: wrap the network so that it returns its logits")


def test_networks_and_images_of_volumes(audited):
    """Three spatial dimensions, of the network or of the images, are refused in one line."""
    net = nn.Sequential(nn.Conv3d(3, 2, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    with pytest.raises(ModelError) as caught:
        audited(net)
    assert one_line(caught) == (
        "'Sequential' is a network of volumes, and images are audited; "
        "found: three spatial dimensions in '0'; wanted: (image, channel, row, column)"
    )

    with pytest.raises(UsageError, match=r"images in memory; found: .*wanted: float \(image, channel, row"):
        wsss_probe.audit(models.multi_logit(2), torch.rand(2, 3, 4, 16, 16))


# -- options -----------------------------------------------------------------------------------


def test_a_class_by_number(audited):
    """A number from 0 means a class, if no class is called so; one that is too large is refused."""
    assert parse_target("1 vs 0", ["a", "b"])[0].of == 1
    assert parse_target("0", ["1", "0"]) == (1,)
    for text in ("2", "-1", "1.0"):
        with pytest.raises(ModelError) as caught:
            audited(models.multi_logit(2), targets=(text,), layers=("features",))
        assert f"target is no class of the network; found: {text}; wanted: " in one_line(caught)
        assert "0 to 1" in one_line(caught)


def test_layouts_are_options(audited):
    """What is said about layouts is in effect, in the plan and in the report."""
    outcome = audited(laid_out("tokens"), layers=("block",), layouts="block=tokens:6x4+1")

    maps = open_run(outcome.folder)["relevance/timesgradient/block/relevance"]
    assert maps.shape == (6, 6, 4)
    plan = json.loads((outcome.folder / "plan.json").read_text())
    assert plan["layouts"] == {"block": "tokens:6x4+1"}
    assert "tokens:6x4+1" in (outcome.folder / "report.json").read_text()


@pytest.mark.parametrize(
    ("layouts", "message"),
    [
        ("block", "--layouts cannot be read; found: block; wanted: LAYER=LAYOUT"),
        ("block=tokens", "layout of 'block' cannot be read; found: tokens; wanted: NCHW"),
        ({"block": "tokens:9x9+1"}, "layout tokens:9x9+1 does not fit layer 'block'; found: an output"),
        ("blocks=NHWC", "a layout is given for no layer that it fits; found: blocks; remedy: did you"),
    ],
)
def test_layouts_that_cannot_be_meant(audited, layouts, message):
    """They are refused in one line before anything is written, also by ``record``."""
    with pytest.raises(ProbeError) as caught:
        audited(laid_out("tokens"), layouts=layouts)
    assert one_line(caught).startswith(message)

    with pytest.raises(ProbeError) as caught:
        wsss_probe.record(laid_out("tokens"), pictures(), "block", layouts=layouts)
    assert one_line(caught).startswith(message)


def test_recorded_maps_have_one_order():
    """Maps of three layouts are recorded alike: channel, row, column."""
    trees = {
        kind: wsss_probe.record(laid_out(kind), pictures(), "block") for kind in ("NCHW", "NHWC", "tokens")
    }
    maps = {kind: tree["activations/block/maps"] for kind, tree in trees.items()}

    assert maps["NCHW"].sizes == {"image": 6, "channel": 12, "row": 4, "column": 6}
    for kind in ("NHWC", "tokens"):
        np.testing.assert_allclose(maps[kind].values, maps["NCHW"].values, rtol=1e-2, atol=1e-3)
        mean = trees[kind]["activations/block/mean"].values
        np.testing.assert_allclose(mean, trees["NCHW"]["activations/block/mean"].values, rtol=1e-5)


def test_options_of_a_run_file(tmp_path):
    """A run file has a table of layouts."""
    (tmp_path / "run.toml").write_text('[layouts]\n"blocks.11" = "tokens:14x14+1"\n')

    assert resolve({}, tmp_path / "run.toml").layouts == {"blocks.11": "tokens:14x14+1"}
    assert resolve({"layouts": "a=NHWC"}).layouts == {"a": "NHWC"}
    assert AuditOptions().layouts == {}

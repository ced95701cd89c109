"""Relevance maps in an audit: which explainers run, where, what is kept, and what probes see."""

# ruff: noqa: D102  # methods of the contracts

import numpy as np
import pytest
import torch
import xarray as xr

from wsss_probe.api import audit, prepared_audit
from wsss_probe.auditing import perform
from wsss_probe.config import resolve
from wsss_probe.contracts import INPUT, Conclusion, Contrast, DefinitionCard, Explainer, Needs, Observation
from wsss_probe.errors import ExitCode, UsageError
from wsss_probe.images import TensorSource
from wsss_probe.run import open_run
from wsss_probe.testing.models import multi_logit

CARD = DefinitionCard("Made up", "f", "none")


class OnInput(Explainer):
    """The sum of colours, on the input's grid; not computed unasked."""

    name, card, gradients, default, grid = "oninput", CARD, False, False, "input"

    def attribute(self, batch, layer, target):
        assert layer == INPUT
        return batch.images.sum(1)


class Both(Explainer):
    """Mean of two layers' gradients of a contrast with the next class."""

    name, card, gradients = "both", CARD, True

    def reads(self, layer, layers):
        return tuple(dict.fromkeys([next(iter(layers)), layer]))

    def explains(self, target):
        return Contrast(target, "next")

    def attribute(self, batch, layer, target):
        found = [batch.gradients[name, self.explains(target)].mean(1) for name in batch.activations]
        assert batch.targets[self.explains(target)].sum(1).abs().max() < 1e-6
        grid = batch.activations[layer].shape[2:]
        return sum(torch.nn.functional.interpolate(maps[:, None], size=grid)[:, 0] for maps in found)


class Failing(Explainer):
    """Fails always."""

    name, card, gradients = "failing", CARD, False

    def attribute(self, batch, layer, target):
        raise RuntimeError("no map today")


def pictures(number=5):
    """Random network input, (image, channel, row, column)."""
    return torch.rand((number, 3, 16, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def judging(looking):
    """A probe whose rows are the mean of every map, by explainer and layer."""

    def observe(batch):
        names = [f"{explainer}, {layer}" for explainer, layer in batch.relevance]
        means = [maps.flatten(1).mean(1).numpy() for maps in batch.relevance.values()]
        rows = xr.Dataset({"mean": (("image", "explainer"), np.stack(means, 1))}, {"explainer": names})
        return Observation(rows)

    def conclude(run):
        rows = [run.rows("judging"), *(control.rows("judging") for control in run.controls)]
        return Conclusion(xr.concat(rows, "split").mean("image", skipna=False))

    return looking("judging", observe, conclude, Needs(relevance=True))


def run(host, folder, **options):
    """Audit a network of three classes on five images in memory."""
    options = {"layers": ("features",), "controls": "shuffled:2", "out": str(folder), **options}
    prepared = prepared_audit(resolve(options), host, multi_logit(3), TensorSource(pictures()))
    return perform(prepared, folder, "test")


def test_what_is_not_asked_for_is_not_computed(hosting, times_gradient, tmp_path):
    """By default only the explainers that cost nothing run; a name, a pattern or ``all`` asks for more."""
    host = hosting((), [times_gradient(), OnInput()])
    for number, (asked, wanted) in enumerate(
        {
            ("default",): {"timesgradient"},
            ("oninput",): {"oninput"},
            ("on*", "default"): {"timesgradient", "oninput"},
            ("all",): {"timesgradient", "oninput"},
        }.items()
    ):
        folder = tmp_path / str(number)
        run(host, folder, explain=asked, controls="none")
        assert set(open_run(folder)["relevance"].children) == wanted


def test_options_ask_for_the_explainer(hosting, tmp_path):
    """Who gives an explainer options wants it."""
    run(hosting((), [OnInput()]), tmp_path / "run", explainers={"oninput": {}}, controls="none")

    assert set(open_run(tmp_path / "run")["relevance"].children) == {"oninput"}


def test_an_unknown_explainer_names_the_nearest(hosting, tmp_path):
    """A misspelt name is one line with what was meant."""
    with pytest.raises(UsageError, match="'oninput'"):
        run(hosting((), [OnInput()]), tmp_path / "run", explain=("oninptu",))


def test_a_map_on_the_input_has_the_inputs_grid(hosting, tmp_path):
    """The table lies under ``input`` and has the size of the network's input."""
    run(hosting((), [OnInput()]), tmp_path / "run", explain=("all",), controls="none")
    table = open_run(tmp_path / "run")["relevance/oninput/input"]

    np.testing.assert_allclose(table["relevance"], pictures().sum(1), rtol=1e-5)


def test_several_layers_and_another_target_can_be_read(hosting, tmp_path):
    """An explainer gets the gradients of the layers and of the target that it names."""
    layers = ("features.0", "features")
    run(hosting((), [Both()]), tmp_path / "run", layers=layers, controls="none")
    table = open_run(tmp_path / "run")["relevance/both/features"]

    assert np.isfinite(table["relevance"]).all()
    assert float(np.abs(table["relevance"]).max()) > 0


def test_a_contrast_is_stored_under_its_name(hosting, times_gradient, tmp_path):
    """Targets in words: a contrast is the difference of the two classes' maps."""
    targets = ("a", "b", "a vs b")
    options = {"targets": targets, "classes": ("a", "b", "c"), "controls": "none"}
    run(hosting((), [times_gradient()]), tmp_path / "run", **options)
    table = open_run(tmp_path / "run")["relevance/timesgradient/features"]
    by_class = table["by_class"]

    wanted = by_class[:, 0] - by_class[:, 1]
    np.testing.assert_allclose(table[str(Contrast(0, 1))], wanted, rtol=1e-4, atol=1e-6)


class TestJudging:
    def test_probes_see_the_maps_that_are_kept(self, hosting, judging, times_gradient, tmp_path):
        """The maps lent to a probe are those of the run folder, in every batch."""
        run(
            hosting([judging], [times_gradient(), OnInput()]),
            tmp_path / "run",
            batch_size=2,
            explain=("all",),
        )
        tree = open_run(tmp_path / "run")
        rows = tree["probes/judging/rows"]

        assert rows["explainer"].values.tolist() == ["timesgradient, features", "oninput, input"]
        for place, path in enumerate(["timesgradient/features", "oninput/input"]):
            kept = tree[f"relevance/{path}/relevance"].mean(("row", "column"))
            np.testing.assert_allclose(rows["mean"][:, place], kept, rtol=1e-4, atol=1e-7)

    def test_controls_are_judged_and_keep_no_maps(self, hosting, judging, times_gradient, tmp_path):
        """Each control network has rows of its own maps, and no relevance tables."""
        run(hosting([judging], [times_gradient()]), tmp_path / "run")
        tree = open_run(tmp_path / "run")
        means = [
            tree[f"{where}probes/judging/rows/mean"].values
            for where in ("", "controls/shuffled-0/", "controls/shuffled-1/")
        ]

        assert not np.allclose(means[0], means[1])
        assert not np.allclose(means[1], means[2])
        assert "relevance" not in tree["controls/shuffled-0"].children

    def test_without_maps_a_probe_is_skipped(self, hosting, judging, tmp_path):
        """A probe that judges maps does not run where no explainer gives any."""
        run(hosting([judging]), tmp_path / "run", controls="none")

        assert "probes" not in open_run(tmp_path / "run").children

    def test_a_failed_explainer_is_nan(self, hosting, judging, times_gradient, tmp_path):
        """An explainer that fails leaves NaN for the probe; the others and the audit go on."""
        outcome = run(hosting([judging], [Failing(), times_gradient()]), tmp_path / "run", controls="none")
        rows = open_run(tmp_path / "run")["probes/judging/rows"]

        assert outcome.exit_code == ExitCode.WITH_FAILURES
        assert np.isnan(rows["mean"].sel(explainer="failing, features")).all()
        assert np.isfinite(rows["mean"].sel(explainer="timesgradient, features")).all()

    def test_a_control_that_does_not_suit_is_nan(self, hosting, judging, tmp_path):
        """What an explainer refuses of a control's network is NaN there, and no failure."""

        class Heady(OnInput):
            name, default, grid = "heady", True, "layer"

            def accepts(self, layer, head):
                return "" if head.linear and np.asarray(head.weight).flat[0] == WEIGHT else "another head"

            def attribute(self, batch, layer, target):
                return batch.activations[layer].sum(1)

        WEIGHT = float(multi_logit(3).classifier.weight.detach()[0, 0])
        outcome = run(hosting([judging], [Heady()]), tmp_path / "run")
        tree = open_run(tmp_path / "run")

        assert outcome.exit_code == ExitCode.DONE
        assert np.isfinite(tree["probes/judging/rows/mean"]).all()
        assert np.isnan(tree["controls/shuffled-0/probes/judging/rows/mean"]).all()


class TestAfterwards:
    def test_any_images_can_be_explained_on_any_weights(self, hosting, looking, times_gradient, tmp_path):
        """In ``conclude`` a probe has inputs, maps of changed inputs, and maps on changed weights."""
        found = {}

        def conclude(run):
            images, pairs = run.inputs([0, 3]), list(run.survey.relevance)
            other = run.model()
            with torch.no_grad():
                other.classifier.weight.mul_(-1)
            found["same"] = run.explain(images, pairs, 0)[pairs[0]]
            found["turned"] = run.explain(images, pairs, 0, other)[pairs[0]]
            found["kept"] = run.relevance(*pairs[0])["by_class"].sel({"class": "class 0"}).values
            return Conclusion(xr.Dataset())

        probe = looking("after", None, conclude, Needs(model=True))
        run(hosting([probe], [times_gradient()]), tmp_path / "run", targets=("class 0",), controls="none")

        np.testing.assert_allclose(found["same"], found["kept"][[0, 3]], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found["turned"], -found["same"], rtol=1e-4, atol=1e-6)

    def test_an_unreadable_image_is_nan(self, hosting, looking, times_gradient, tmp_path):
        """Inputs of an image that cannot be read are NaN, never those of its neighbour."""
        found = []
        probe = looking(
            "after", None, lambda run: found.append(run.inputs([1, 2])) or Conclusion(xr.Dataset())
        )
        images = pictures()
        images[1, 0, 0, 0] = torch.nan
        prepared = prepared_audit(
            resolve({"layers": "features", "controls": "none"}),
            hosting([probe], [times_gradient()]),
            multi_logit(3),
            TensorSource(images),
        )
        perform(prepared, tmp_path / "run", "test")

        assert found[0][0].isnan().any()
        torch.testing.assert_close(found[0][1], images[2])


def test_the_python_face_takes_the_same_words(tmp_path):
    """``audit(..., explain=...)`` is the flag."""
    outcome = audit(multi_logit(3), pictures(), layers="features", explain="layercam", controls="none",
                    only_plugins="explainers", out=str(tmp_path / "run"))  # fmt: skip

    assert set(open_run(outcome.folder)["relevance"].children) == {"layercam"}


def test_a_probe_that_asks_for_further_maps_survives_a_failing_explainer(
    hosting, looking, times_gradient, tmp_path
):
    """Maps of an explainer that failed are NaN afterwards too; the failure stays its own, told once."""
    found = {}

    def conclude(run):
        found.update(run.explain(run.inputs([0]), list(run.survey.relevance)))
        return Conclusion(xr.Dataset())

    host = hosting([looking("after", None, conclude, Needs(relevance=True))], [Failing(), times_gradient()])
    outcome = run(host, tmp_path / "run", controls="none")

    assert outcome.exit_code == ExitCode.WITH_FAILURES
    assert [(failure.item, failure.message) for failure in host.failures] == [
        ("failing", "RuntimeError: no map today")
    ]
    assert found["failing", "features"].isnan().all()
    assert found["timesgradient", "features"].isfinite().all()

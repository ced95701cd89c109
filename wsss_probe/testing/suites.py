"""Conformance suites: subclass one in a test file, set one attribute, inherit the contract's tests.

>>> from wsss_probe.testing import ExplainerSuite
>>> class TestMeanMap(ExplainerSuite):
...     explainer = ...  # your explainer

Override :meth:`Suite.scene` to test on a network of your own choice.
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wsss_probe import offers, surroundings
from wsss_probe.certificate import fingerprint
from wsss_probe.contracts import (
    INPUT,
    Batch,
    Explainer,
    Head,
    LayerInfo,
    Needs,
    Observation,
    Probe,
    Target,
)
from wsss_probe.errors import ProbeError
from wsss_probe.explaining import input_layer
from wsss_probe.schema import check_observation, check_relevance, check_sections
from wsss_probe.targets import require_target
from wsss_probe.testing.models import with_weights
from wsss_probe.testing.runs import InMemoryRun, observe, run_in_memory
from wsss_probe.testing.scenes import Scene, make_scene, take, weights_of

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["ExplainerSuite", "ProbeSuite", "Suite", "surroundings_kept", "untouched"]

TARGETS: tuple[Target, ...] = ("predicted", "label", 0)


class Suite:
    """What all suites share."""

    tolerance = 1e-5
    """Largest difference, as a share of the largest value, that counts as equal."""

    def scene(self) -> Scene:
        """Make the network and images to test on; override it if yours must be special."""
        return make_scene()

    def assert_equal(self, found: Any, wanted: Any) -> None:
        """Hold two arrays equal within :attr:`tolerance`; NaN equals NaN."""
        found, wanted = np.asarray(found, dtype=float), np.asarray(wanted, dtype=float)
        assert found.shape == wanted.shape
        scale = np.nanmax(np.abs(wanted), initial=0) if np.isfinite(wanted).any() else 0
        np.testing.assert_allclose(found, wanted, rtol=0, atol=self.tolerance * max(float(scale), 1e-12))


class ExplainerSuite(Suite):
    """The contract of an explainer as tests.

    Attributes
    ----------
    explainer : Explainer
        Set it in the subclass.
    """

    explainer: Explainer

    def layers(self, scene: Scene) -> list[LayerInfo]:
        """List the layers of a scene that the explainer accepts; one at least."""
        shape = scene.survey.input_shape
        layers = list(scene.survey.layers.values())
        infos = [input_layer(shape)] if self.explainer.grid == "input" else layers
        refusals = {info.name: self.explainer.accepts(info, scene.survey.head) for info in infos}
        accepted = [info for info in infos if not refusals[info.name]]
        assert accepted, f"accepts no layer of the scene ({refusals}); override scene()"
        return accepted

    def batch(self, scene: Scene, layer: str, target: Target) -> Batch:
        """Make a batch with what the explainer says it reads, and nothing else."""
        read = frozenset(self.explainer.reads(layer, scene.survey.layers))
        asked = self.explainer.explains(target)
        gradients = frozenset((name, asked) for name in read) if self.explainer.gradients else frozenset()
        batch = scene.batch(Needs(layers=read, gradients=gradients))
        weights = {t: weights_of(batch.logits, batch.labels, t) for t in (target, asked)}
        return replace(batch, targets=weights)

    def maps(self, batch: Batch, layer: str, target: Target) -> Tensor:
        """Call the explainer and check type, shape and values of its maps."""
        on = batch.images if layer == INPUT else batch.activations[layer]
        shape = (len(batch.indices), *on.shape[2:])
        name = f"{self.explainer.name} at {layer} for {target!r}"
        return check_relevance(self.explainer.attribute(batch, layer, target), shape, name)

    def cases(self, scene: Scene) -> Iterator[tuple[Batch, str, Target]]:
        """Make a batch for every accepted layer and every kind of target."""
        for info in self.layers(scene):
            for target in TARGETS:
                yield self.batch(scene, info.name, target), info.name, target

    def test_is_complete(self) -> None:
        """Name, card and ``gradients`` are there."""
        offers.check_explainer(self.explainer)

    def test_says_which_layers_suit(self) -> None:
        """``accepts`` answers in words for every layer and refuses a vector."""
        scene = self.scene()
        vector = LayerInfo("classifier", "Linear", 9, 1, (2,), "vector")
        for info in (*scene.survey.layers.values(), vector):
            assert isinstance(self.explainer.accepts(info, scene.survey.head), str)
            assert isinstance(self.explainer.accepts(info, Head(False, reason="two layers")), str)

        assert self.explainer.accepts(vector, scene.survey.head) != ""

    def test_gives_a_map_on_the_layers_grid(self) -> None:
        """Maps are (image, row, column), floating, on the layer's own grid, and not infinite."""
        for batch, layer, target in self.cases(self.scene()):
            self.maps(batch, layer, target)

    def test_is_deterministic(self) -> None:
        """The same batch gives the same maps."""
        for batch, layer, target in self.cases(self.scene()):
            self.assert_equal(self.maps(batch, layer, target), self.maps(batch, layer, target))

    def test_a_batch_equals_its_images_one_by_one(self) -> None:
        """No image's map depends on its neighbours in the batch."""
        for batch, layer, target in self.cases(self.scene()):
            together = self.maps(batch, layer, target)
            for position in range(len(batch.indices)):
                alone = self.maps(take(batch, [position]), layer, target)
                self.assert_equal(together[position], alone[0])

    def test_leaves_everything_as_it_is(self) -> None:
        """Network, batch, random states, torch's settings, folder and environment stay untouched."""
        scene = self.scene()
        for batch, layer, target in self.cases(scene):
            with untouched(scene.network, batch):
                self.maps(batch, layer, target)

    def test_takes_a_map_of_zeros(self) -> None:
        """Where nothing is active the map may be zero or NaN, never infinite or an exception."""
        for batch, layer, target in self.cases(self.scene()):
            self.maps(_with_maps(batch, torch.zeros_like), layer, target)

    def test_takes_a_single_channel(self) -> None:
        """A layer with one channel is a layer like any other."""
        scene = make_scene(_one_map())
        for info in self.layers(scene):
            self.maps(self.batch(scene, info.name, 0), info.name, 0)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
    def test_takes_half_precision_or_says_no(self, dtype: torch.dtype) -> None:
        """Activations in half precision give about the same map, or a clear refusal."""
        for batch, layer, target in self.cases(self.scene()):
            wanted = self.maps(batch, layer, target)
            try:
                found = self.maps(_with_maps(batch, lambda maps: maps.to(dtype)), layer, target)
            except ProbeError:
                continue
            scale = float(wanted.abs().nan_to_num().max())
            assert torch.allclose(found, wanted, rtol=0, atol=0.05 * scale + 1e-6, equal_nan=True)


class ProbeSuite(Suite):
    """The contract of a probe as tests.

    Attributes
    ----------
    probe : Probe
        Set it in the subclass.
    tables : dict of str to Dataset
        Summaries that the probe names in ``Needs.tables``, as an earlier probe would give them.
    """

    probe: Probe
    tables: dict[str, xr.Dataset] = {}  # noqa: RUF012  # read only; a subclass sets its own

    def parts(self, scene: Scene) -> tuple[Probe, ...]:
        """Split the probe for a scene, as the host does; one part at least."""
        parts = tuple(self.probe.split(scene.survey))
        assert parts, "nothing in the scene suits the probe; override scene()"
        return parts

    def observed(self, scene: Scene, batch_size: int = 4) -> dict[str, Observation]:
        """Let all parts observe the scene in batches."""
        return observe(scene, self.parts(scene), batch_size, self.tables)

    def run(self, scene: Scene, controls: int = 1) -> InMemoryRun:
        """Survey the scene."""
        return run_in_memory(self.parts(scene), scene, controls=controls, summaries=self.tables)

    def conclude(self, run: InMemoryRun) -> None:
        """Conclude and make sections, and check both."""
        for part in self.parts(run.scene):
            conclusion = run.concluded(part)
            after = replace(run, summaries={**run.summaries, part.name: conclusion.summary})
            check_sections(part.sections(conclusion.summary, after), part.name)

    def test_is_complete(self) -> None:
        """The name can be stored and the options are JSON."""
        offers.check_probe(self.probe)

    def test_splits_into_probes_with_names_of_their_own(self) -> None:
        """Every part is a probe and no two share a name."""
        names = [offers.check_probe(part).name for part in self.parts(self.scene())]

        assert len(set(names)) == len(names)

    def test_asks_for_what_exists(self) -> None:
        """Needs name layers of the survey and targets that are known, and the tables that are given."""
        survey = self.scene().survey
        for part in self.parts(self.scene()):
            needs = part.needs(survey)
            assert isinstance(needs, Needs)
            named = needs.layers | {layer for layer, _ in needs.gradients}
            assert named <= survey.layers.keys()
            assert all(_is_target(target, len(survey.classes)) for _, target in needs.gradients)
            assert needs.tables <= self.tables.keys()

    def test_rows_follow_the_schema(self) -> None:
        """Rows are floating, one per image; partials can be added; dimension names are known."""
        scene = self.scene()
        for part in self.parts(scene):
            batch = scene.batch(part.needs(scene.survey), tables=self.tables)
            check_observation(part.observe(batch), len(batch.indices), part.name)

    def test_does_not_depend_on_batch_borders(self) -> None:
        """One batch of all images and one image a batch give the same rows and sums."""
        scene = self.scene()
        together, alone = self.observed(scene, len(scene.images)), self.observed(scene, 1)
        for name, wanted in together.items():
            self._assert_same(alone[name], wanted)

    def test_is_deterministic(self) -> None:
        """Observing twice gives the same."""
        first, second = self.observed(self.scene()), self.observed(self.scene())
        for name, wanted in first.items():
            self._assert_same(second[name], wanted)

    def test_leaves_everything_as_it_is(self) -> None:
        """Network, batch, random states, torch's settings, folder and environment stay untouched."""
        scene = self.scene()
        for part in self.parts(scene):
            batch = scene.batch(part.needs(scene.survey), tables=self.tables)
            with untouched(scene.network, batch):
                part.observe(batch)

    def test_stores_nothing_on_itself(self) -> None:
        """A probe is a description: surveying and concluding leave its attributes as they were."""
        scene = self.scene()
        before = [repr(_attributes(part)) for part in (self.probe, *self.parts(scene))]
        self.conclude(self.run(scene))

        assert [repr(_attributes(part)) for part in (self.probe, *self.parts(scene))] == before

    def test_survives_an_unreadable_image(self) -> None:
        """An image of zeros that is marked unreadable raises nothing and spoils no other image's rows."""
        scene = self.scene()
        broken = scene.unreadable([1])
        good, mixed = self.observed(scene), self.observed(broken)
        kept = broken.readable.numpy()
        for name, wanted in good.items():
            ours, theirs = mixed[name].rows, wanted.rows
            if ours is not None and theirs is not None:
                for key in theirs.data_vars:
                    self.assert_equal(ours[key].values[kept], theirs[key].values[kept])
        self.conclude(self.run(broken))

    def test_concludes_with_controls(self) -> None:
        """Summary, findings and sections follow the contract."""
        self.conclude(self.run(self.scene(), controls=2))

    def test_concludes_without_controls(self) -> None:
        """Without a control there is a conclusion all the same, and no exception."""
        self.conclude(self.run(self.scene(), controls=0))

    def test_concludes_over_a_single_image(self) -> None:
        """One image is too few for statistics, not for a conclusion."""
        self.conclude(self.run(self.scene().first(1)))

    def test_concludes_when_no_image_was_readable(self) -> None:
        """A run of NaN alone gives a conclusion and no warning of numpy."""
        scene = self.scene()
        self.conclude(self.run(scene.unreadable(range(len(scene.images)))))

    def test_works_without_masks(self) -> None:
        """A probe that asks for no masks runs when there are none; one that does is not asked."""
        scene = self.scene().without_masks()
        parts = tuple(self.probe.split(scene.survey))
        if parts and not any(part.needs(scene.survey).masks for part in parts):
            self.conclude(self.run(scene))

    def _assert_same(self, found: Observation, wanted: Observation) -> None:
        for ours, theirs in ((found.rows, wanted.rows), (found.partial, wanted.partial)):
            assert (ours is None) == (theirs is None)
            if ours is not None and theirs is not None:
                assert set(ours.data_vars) == set(theirs.data_vars)
                for key in theirs.data_vars:
                    self.assert_equal(ours[key].values, theirs[key].values)


# -- parts ------------------------------------------------------------------------------------


@contextmanager
def untouched(network: nn.Module, batch: Batch) -> Iterator[None]:
    """Assert that a block leaves network, batch and surroundings as they were.

    Parameters
    ----------
    network : nn.Module
    batch : Batch

    Yields
    ------
    None
    """
    copies = [tensor.clone() for tensor in surroundings.batch_tensors(batch)]
    with surroundings_kept():
        network_before = fingerprint(network)
        yield
        assert network_before.differences(fingerprint(network)) == ()
        for lent, after in zip(copies, surroundings.batch_tensors(batch), strict=True):
            assert torch.equal(lent, after), "wrote into the batch; clone before in-place operations"


@contextmanager
def surroundings_kept() -> Iterator[None]:
    """Assert that a block leaves random states, torch's settings, folder and environment as they were.

    Yields
    ------
    None
    """
    outside = surroundings.read()
    _draw()
    before = surroundings.read()
    try:
        yield
    finally:
        changed = surroundings.restore(before)
        surroundings.restore(outside)
    assert changed == (), "use a generator of your own, and context managers"


def _draw() -> None:
    """Leave the states that follow a usual seed, which a plugin could set again unnoticed."""
    torch.rand(1)
    np.random.random()  # the global state is what is meant
    random.random()  # noqa: S311


def _with_maps(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    return replace(
        batch,
        activations={name: change(maps) for name, maps in batch.activations.items()},
        gradients={key: change(maps) for key, maps in batch.gradients.items()},
    )


def _one_map() -> nn.Module:
    """Build a network whose pooled layer has a single channel."""
    with torch.random.fork_rng(devices=()):
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            features=nn.Sequential(nn.Conv2d(3, 1, 3, padding=1), nn.ReLU()),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            classifier=nn.Linear(1, 2),
        )
        return with_weights(nn.Sequential(parts))


def _is_target(target: Target, classes: int) -> bool:
    try:
        require_target(target, classes)
    except ProbeError:
        return False
    return True


def _attributes(probe: Probe) -> dict[str, Any]:
    names = {*getattr(probe, "__dict__", ()), *getattr(type(probe), "__slots__", ())}
    return {name: getattr(probe, name, math.nan) for name in sorted(names)}

"""The conformance suite of concept measures: a good one passes, and each kind of bad one is caught."""

import random
from dataclasses import dataclass

import numpy as np
import pytest

from wsss_probe import Concept, ConceptMeasure, DefinitionCard, View
from wsss_probe.testing import ConceptMeasureSuite


@dataclass(frozen=True)
class Darkness(ConceptMeasure):
    """Share of dark pixels in the image, and in objects where there are any."""

    below: float = 120

    name = "darkness"
    card = DefinitionCard("Darkness", "share of pixels below a level", "Nobody (2026)")

    def concepts(self, mask_classes, objects):
        """Name one, or two."""
        named = [Concept("dark", "share of dark pixels")]
        return [*named, Concept("dark in objects", "share of dark pixels in objects")] if objects else named

    def measure(self, view):
        """Compare with the level."""
        if view.pixels.ndim != 3 or not view.pixels.size:
            return dict.fromkeys(("dark", "dark in objects"), "no pixels")
        dark = view.pixels.mean(axis=2) < self.below
        found = {"dark": float(dark.mean()), "dark in objects": "no object"}
        if view.objects is not None and (view.objects > 0).any():
            found["dark in objects"] = float(dark[view.objects > 0].mean())
        return found


class TestDarkness(ConceptMeasureSuite):
    """A correct measure passes the whole suite."""

    measure = Darkness()


class TestDarknessOfOwnViews(ConceptMeasureSuite):
    """The suite runs on views of the author's choice."""

    measure = Darkness(20)

    def views(self):
        """Make two images that are partly black."""
        made = [np.zeros((9, 8, 3), dtype=np.uint8) for _ in range(2)]
        made[1][3:] = 200
        objects = np.ones((9, 8), dtype=np.int64)
        return [View(own, np.zeros((9, 8), dtype=int), ("a",), objects) for own in made]


class Loud(Darkness):
    """Names concepts in capitals and without meaning."""

    def concepts(self, mask_classes, objects):
        """Shout."""
        return [Concept("DARK", " ")]

    def measure(self, view):
        """Answer in capitals."""
        return {"DARK": Darkness.measure(self, view)["dark"]}


class Twins(Darkness):
    """Names one concept twice."""

    def concepts(self, mask_classes, objects):
        """Name it twice."""
        return [Concept("dark", "share"), Concept("dark", "share")]


class Forgetful(Darkness):
    """Announces what it does not measure in images without objects."""

    def measure(self, view):
        """Leave out what has a text."""
        return {name: own for name, own in super().measure(view).items() if not isinstance(own, str)}


class Refusing(Darkness):
    """Finds nothing in any image."""

    def measure(self, view):
        """Say nothing but no."""
        return {"dark": "too bright", "dark in objects": "too bright"}


class Silent(Darkness):
    """Gives a text that says nothing."""

    def measure(self, view):
        """Leave the reason open."""
        return {name: "" if isinstance(own, str) else own for name, own in super().measure(view).items()}


class Infinite(Darkness):
    """Divides by zero where an image has one colour."""

    def measure(self, view):
        """Divide by the spread."""
        found = super().measure(view)
        spread = np.ptp(view.pixels) if view.pixels.size else 1
        return {**found, "dark": found["dark"] if spread else float("inf")}


class Random(Darkness):
    """Draws from the global generator."""

    def measure(self, view):
        """Add noise."""
        found = super().measure(view)
        return {**found, "dark": random.random()}


class Remembering(Darkness):
    """Compares with the image before."""

    def measure(self, view):
        """Keep the value on the object."""
        found = super().measure(view)
        before = self.__dict__.get("last", 0.0)
        if isinstance(found["dark"], float):
            object.__setattr__(self, "last", found["dark"])
        return {**found, "dark": before}


class Writing(Darkness):
    """Writes into the pixels."""

    def measure(self, view):
        """Darken in place."""
        if view.pixels.ndim == 3 and view.pixels.flags.writeable:
            view.pixels[:1] = 0
        return super().measure(view)


class Locking(Darkness):
    """Cannot measure what it cannot write to."""

    def measure(self, view):
        """Sort in place."""
        found = super().measure(view)
        view.pixels.sort(axis=0)
        return found


class Careless(Darkness):
    """Takes every image for a colour image with pixels."""

    def measure(self, view):
        """Take the mean of whatever there is."""
        dark = view.pixels.mean(axis=2) < self.below
        objects = np.zeros(dark.shape) if view.objects is None else view.objects
        inside = float(dark[objects > 0].mean()) if (objects > 0).any() else "no object"
        return {"dark": float(dark.mean()), "dark in objects": inside}


class Nameless(Darkness):
    """Has no name that can be used."""

    name = "Some Darkness"


class Stuck(Darkness):
    """Holds what no other process can be given."""

    def __init__(self):
        object.__setattr__(self, "below", 120)
        object.__setattr__(self, "held", lambda: None)


class Uncarried(Darkness):
    """Cannot be sent to another process."""

    def __reduce__(self):
        """Come back with another level."""
        return Uncarried, (3.0,)


NAMES = {name for name in dir(ConceptMeasureSuite) if name.startswith("test_")}
STEADY = {
    "test_is_deterministic",
    "test_does_not_depend_on_other_images",
    "test_leaves_everything_as_it_is",
    "test_takes_arrays_that_cannot_be_written",
}


def failing(measure):
    """Run all tests of the suite on a measure, and name those that fail."""
    failed = set()
    for name in NAMES:
        bound = type("Bound", (ConceptMeasureSuite,), {"measure": measure()})()
        try:
            getattr(bound, name)()
        except Exception:  # noqa: BLE001  # any way to fail is a catch
            failed.add(name)
    return failed


@pytest.mark.parametrize(
    ("measure", "caught"),
    [
        (Darkness, set()),
        (Loud, {"test_names_what_it_measures"}),
        (Twins, NAMES - {"test_is_complete"}),
        (Forgetful, {"test_takes_odd_views"}),
        (Refusing, {"test_measures_something"}),
        (Silent, {"test_takes_odd_views"}),
        (Infinite, {"test_takes_odd_views"}),
        (Random, STEADY | {"test_travels_between_processes"}),
        (Remembering, STEADY),
        (Writing, {"test_leaves_everything_as_it_is", "test_takes_arrays_that_cannot_be_written"}),
        (Locking, STEADY | {"test_travels_between_processes", "test_takes_odd_views"}),
        (Careless, {"test_takes_odd_views"}),
        (Nameless, {"test_is_complete"}),
        (Stuck, {"test_travels_between_processes"}),
        (Uncarried, {"test_travels_between_processes", "test_does_not_depend_on_other_images"}),
    ],
)
def test_a_broken_measure_fails_what_is_about_it(measure, caught):
    """Each kind of break of the contract fails the tests that are about it, and no other."""
    assert failing(measure) == caught


def test_says_which_view_is_odd():
    """Whoever fails on an odd view reads which one it was."""
    bound = type("Bound", (ConceptMeasureSuite,), {"measure": Careless()})()

    with pytest.raises(Exception) as caught:  # noqa: PT011  # whatever the measure raises
        bound.test_takes_odd_views()

    assert caught.value.__notes__ == ["in a view with two dimensions"]

"""The conformance suite for concept measures.

>>> from wsss_probe.testing import ConceptMeasureSuite
>>> class TestDarkness(ConceptMeasureSuite):
...     measure = ...  # yours
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING

import numpy as np

from wsss_probe import offers
from wsss_probe.contracts import ConceptMeasure, View
from wsss_probe.schema import check_concepts
from wsss_probe.testing.suites import surroundings_kept

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ConceptMeasureSuite"]

_CLASSES = ("gland", "stroma")
_SIDE = 48

Answers = Mapping[str, float | str]


class ConceptMeasureSuite:
    """The contract of a concept measure as tests.

    Attributes
    ----------
    measure : ConceptMeasure
        Set it in the subclass.
    """

    measure: ConceptMeasure

    def views(self) -> list[View]:
        """Make ordinary images, with masks and objects; override it if yours must be special.

        Returns
        -------
        list of View
            At least two that differ.
        """
        return [_ordinary(seed) for seed in range(3)]

    def odd_views(self) -> dict[str, View]:
        """Make images that cannot be measured as others are, by what is odd about them."""
        plain = self.views()[0]
        return {**_odd_pixels(plain), **_odd_masks(plain)}

    def answers(self, view: View, measure: ConceptMeasure | None = None) -> Answers:
        """Measure an image, and check what comes back against what was announced."""
        measure = self.measure if measure is None else measure
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = measure.measure(view)
        assert isinstance(found, Mapping), f"returned {type(found).__name__}, wanted a mapping"
        for objects in (False, True):
            for name in self.names(view.mask_classes, objects):
                assert name in found, f"announced '{name}' and did not measure it"
                _check_value(name, found[name])
        return found

    def names(self, mask_classes: Sequence[str], objects: bool) -> list[str]:
        """Name the concepts that are announced for such data."""
        announced = check_concepts(self.measure.concepts(mask_classes, objects), self.measure.name)
        return [concept.name for concept in announced]

    def test_is_complete(self) -> None:
        """The name can be shown, and there is a card."""
        offers.check_concept_measure(self.measure)
        assert isinstance(self.measure.default, bool)

    def test_names_what_it_measures(self) -> None:
        """Concepts are unique, in lower case, each with a meaning, and the same when asked again."""
        for classes in ((), _CLASSES):
            for objects in (False, True):
                announced = check_concepts(self.measure.concepts(classes, objects), self.measure.name)
                for concept in announced:
                    assert concept.name == concept.name.lower(), f"'{concept.name}' is not in lower case"
                    assert concept.meaning.strip(), f"'{concept.name}' has no meaning"
                    assert isinstance(concept.unit, str)
                assert tuple(self.measure.concepts(classes, objects)) == announced

    def test_measures_something(self) -> None:
        """Every concept has a value in some ordinary image."""
        found = [self.answers(view) for view in self.views()]
        names = {name for view in self.views() for name in self.names(view.mask_classes, True)}

        assert names, "names no concept; override views()"
        never = sorted(name for name in names if not any(_is_number(own.get(name)) for own in found))
        assert never == [], f"undefined in all views ({found[0].get(never[0]) if never else ''})"

    def test_is_deterministic(self) -> None:
        """Measuring twice gives the same."""
        for view in self.views():
            assert _text(self.answers(view)) == _text(self.answers(view))

    def test_travels_between_processes(self) -> None:
        """It can be sent to another process, and a copy announces and measures the same."""
        ForkingPickler.dumps(self.measure)
        copied, view = deepcopy(self.measure), self.views()[0]

        assert copied.concepts(_CLASSES, True) == self.measure.concepts(_CLASSES, True)
        assert _text(self.answers(view, copied)) == _text(self.answers(view))

    def test_does_not_depend_on_other_images(self) -> None:
        """An image has the same values whatever was measured before it."""
        one, *others = self.views()
        alone = _text(self.answers(one, deepcopy(self.measure)))
        for other in others:
            self.answers(other)

        assert _text(self.answers(one)) == alone

    def test_leaves_everything_as_it_is(self) -> None:
        """Pixels, masks, random states, torch's settings, folder and its own attributes stay untouched."""
        before = repr(getattr(self.measure, "__dict__", None))
        for view in self.views():
            arrays = [own for own in (view.pixels, view.mask, view.objects) if own is not None]
            copies = [own.copy() for own in arrays]
            with surroundings_kept():
                self.answers(view)
            for own, copy in zip(arrays, copies, strict=True):
                np.testing.assert_array_equal(own, copy, err_msg="wrote into the view")

        assert repr(getattr(self.measure, "__dict__", None)) == before

    def test_takes_arrays_that_cannot_be_written(self) -> None:
        """The host lends its arrays; they measure the same as one's own."""
        for view in self.views():
            assert _text(self.answers(_locked(view))) == _text(self.answers(view))

    def test_takes_odd_views(self) -> None:
        """One pixel, one colour, floats, no mask: a value or a text, no exception and no warning."""
        for what, view in self.odd_views().items():
            try:
                self.answers(_locked(view))
            except Exception as error:
                error.add_note(f"in a view with {what}")
                raise


def _ordinary(seed: int) -> View:
    """Make coloured noise that is smooth over some pixels, a mask of two classes, and six objects."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=(_SIDE + 4, _SIDE + 4, 3))
    smooth = sum(noise[r : r + _SIDE, c : c + _SIDE] for r in range(4) for c in range(4)) / 4
    shade = np.linspace(-40, 40, _SIDE)[:, None, None] * generator.normal(size=3)
    pixels = np.clip(128 + 35 * smooth + shade, 0, 255).astype(np.uint8)
    objects = np.zeros((_SIDE, _SIDE), dtype=np.int64)
    rows, columns = np.mgrid[:_SIDE, :_SIDE]
    for number, (row, column) in enumerate(((8, 8), (8, 24), (10, 40), (30, 10), (32, 26), (47, 44)), 1):
        tall, wide = generator.uniform(3, 6, size=2)
        objects[((rows - row) / tall) ** 2 + ((columns - column) / wide) ** 2 <= 1] = 3 * number
    mask = np.where(objects > 0, 0, np.where(columns > _SIDE // 2, 1, -2))
    mask[:2] = -1
    return View(pixels, mask, _CLASSES, objects)


def _odd_pixels(plain: View) -> dict[str, View]:
    shown: dict[str, np.ndarray] = {
        "floating pixels": plain.pixels.astype(np.float32) / 255 - 0.5,
        "pixels that are not finite": np.full_like(plain.pixels, np.nan, dtype=np.float32),
        "16-bit pixels": plain.pixels.astype(np.uint16) * 257,
        "one channel": plain.pixels[:, :, :1],
        "four channels": np.concatenate([plain.pixels, plain.pixels[:, :, :1]], axis=2),
        "two dimensions": plain.pixels[:, :, 0],
        "one row": plain.pixels[:1],
        "one column": plain.pixels[:, :1],
        "one pixel": plain.pixels[:1, :1],
        "two pixels": plain.pixels[:1, :2],
        "no pixels": plain.pixels[:0],
        "one colour": np.full_like(plain.pixels, 77),
        "black pixels": np.zeros_like(plain.pixels),
        "white pixels": np.full_like(plain.pixels, 255),
        "two colours": np.where(np.arange(plain.pixels.shape[1])[:, None] % 2, 0, plain.pixels * 0 + 255),
    }
    return {
        what: View(own, _cut(plain.mask, own), plain.mask_classes, _cut(plain.objects, own))
        for what, own in shown.items()
    }


def _cut(plane: np.ndarray | None, pixels: np.ndarray) -> np.ndarray | None:
    rows, columns = pixels.shape[:2]
    return None if plane is None else plane[:rows, :columns]


def _odd_masks(plain: View) -> dict[str, View]:
    size = plain.pixels.shape[:2]
    background, ignored = np.full(size, -2), np.full(size, -1)
    nothing, everything = np.zeros(size, dtype=np.int64), np.ones(size, dtype=np.int64)
    point, line = nothing.copy(), nothing.copy()
    point[5, 5], line[5] = 1, 4
    pieces = np.arange(size[0] * size[1]).reshape(size) + 1
    return {
        "neither mask nor classes": View(plain.pixels),
        "no mask where other images have one": replace(plain, mask=None, objects=None),
        "a mask without objects": replace(plain, objects=None),
        "nothing but background": replace(plain, mask=background, objects=nothing),
        "an ignored mask": replace(plain, mask=ignored, objects=nothing),
        "one object everywhere": replace(plain, mask=nothing, objects=everything),
        "an object of one pixel": replace(plain, mask=point - 2, objects=point),
        "an object of one row": replace(plain, mask=np.where(line > 0, 0, -2), objects=line),
        "an object for each pixel": replace(plain, objects=pieces),
        "huge numbers of objects": replace(plain, objects=np.where(line > 0, 2**40, 0)),
        "objects of one colour": replace(plain, pixels=np.full_like(plain.pixels, 9)),
    }


def _locked(view: View) -> View:
    """Copy a view whose arrays cannot be written to."""
    copies = {name: getattr(view, name) for name in ("pixels", "mask", "objects")}
    copies = {name: None if own is None else own.copy() for name, own in copies.items()}
    for own in copies.values():
        if own is not None:
            own.setflags(write=False)
    return replace(view, **copies)


def _is_number(value: object) -> bool:
    return isinstance(value, float | int | np.number) and math.isfinite(value)


def _check_value(name: str, value: object) -> None:
    """Hold a value to a finite number, NaN, or a text that says why."""
    if isinstance(value, str):
        assert value.strip(), f"'{name}' has an empty text; say why it is undefined"
        return
    assert isinstance(value, float | int | np.number), f"'{name}' is {value!r}, wanted a number or a text"
    assert not math.isinf(value), f"'{name}' is infinite; say in a text why it is undefined"


def _text(found: Answers) -> str:
    """Show values in full, so that NaN equals NaN."""
    return repr({name: own if isinstance(own, str) else float(own) for name, own in found.items()})

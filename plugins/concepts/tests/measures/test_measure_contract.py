"""Every concept measure keeps the contract, with default and with other options."""

import subprocess
import sys

from wsss_probe_concepts.measures.colour import Colour
from wsss_probe_concepts.measures.cooccurrence import Cooccurrence
from wsss_probe_concepts.measures.haralick import Haralick
from wsss_probe_concepts.measures.morphology import Morphology
from wsss_probe_concepts.measures.stain import Stain

from wsss_probe.testing import ConceptMeasureSuite

EVERYWHERE = ("image", "mask", "objects", "stroma")


class TestHaralick(ConceptMeasureSuite):
    measure = Haralick()


class TestHaralickEverywhere(ConceptMeasureSuite):
    measure = Haralick(distances=(1, 3), levels=16, regions=EVERYWHERE, difference_variance="differences")


class TestCooccurrence(ConceptMeasureSuite):
    measure = Cooccurrence()


class TestCooccurrenceEverywhere(ConceptMeasureSuite):
    measure = Cooccurrence((1, 2), (0, 45, 90, 135), levels=32, symmetric=False, regions=EVERYWHERE)


class TestMorphology(ConceptMeasureSuite):
    measure = Morphology()


class TestMorphologyOfUncutComponents(ConceptMeasureSuite):
    measure = Morphology(smallest=1, keep_cut=False, components=True)


class TestStain(ConceptMeasureSuite):
    measure = Stain()


class TestStainEverywhere(ConceptMeasureSuite):
    measure = Stain(EVERYWHERE)


class TestColour(ConceptMeasureSuite):
    measure = Colour()


class TestAllColours(ConceptMeasureSuite):
    measure = Colour(channels=True, absolute=True)


def test_all_are_offered_and_load_no_torch():
    """The plugin offers the five by default; a process that measures never waits for torch."""
    code = (
        "import sys, numpy as np, wsss_probe_concepts\n"
        "from wsss_probe import View\n"
        "measures = wsss_probe_concepts.wsss_probe_concept_measures()\n"
        "view = View(np.zeros((30, 30, 3), dtype=np.uint8), objects=np.eye(30, dtype=int))\n"
        "found = {own.name: len(own.measure(view)) for own in measures if own.default}\n"
        "print(found, 'torch' in sys.modules)\n"
    )

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    offered = {"cooccurrence": 12, "haralick": 26, "morphology": 9, "stain": 6, "colour": 4}
    assert said == f"{offered} False\n"

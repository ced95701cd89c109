"""Every concept measure keeps the contract, with default and with other options."""

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

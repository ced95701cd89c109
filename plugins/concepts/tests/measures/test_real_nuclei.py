"""Measures of stained nuclei that people outlined: counts are the manifest's, nothing is undefined."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from wsss_probe_concepts.measures.colour import Colour
from wsss_probe_concepts.measures.cooccurrence import Cooccurrence
from wsss_probe_concepts.measures.haralick import Haralick
from wsss_probe_concepts.measures.morphology import Morphology
from wsss_probe_concepts.measures.stain import Stain

from wsss_probe import View

pytestmark = pytest.mark.real

NUCLEI = Path(__file__).parents[5] / "shared" / "data" / "nuclei"


@pytest.fixture(scope="module")
def nuclei():
    """Rows of the manifest with their views."""
    if not NUCLEI.is_dir() and os.environ.get("WSSS_PROBE_REQUIRE_REAL") != "1":
        pytest.skip(f"{NUCLEI} is absent")
    with (NUCLEI / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))[::4]
    views = []
    for row in rows:
        objects = np.array(Image.open(NUCLEI / row["mask"])).astype(np.int64)
        pixels = np.array(Image.open(NUCLEI / row["image"]).convert("RGB"))
        views.append(View(pixels, np.where(objects > 0, 0, -2), ("nucleus",), objects))
    return list(zip(rows, views, strict=True))


def test_counts_and_areas_are_the_manifests(nuclei):
    """Number of nuclei and covered share are those that are written down beside the images."""
    for row, view in nuclei:
        found = Morphology(smallest=1).measure(view)
        assert found["count"] == float(row["n_nuclei"])
        covered = found["count"] * found["area, mean"] / view.objects.size
        assert covered == pytest.approx(float(row["nuclei_fraction"]), abs=6e-5)


def test_every_concept_is_defined_in_almost_every_image(nuclei):
    """All default measures give finite numbers for real tissue; a spread of one nucleus may be missing."""
    for measure in (Cooccurrence(), Haralick(), Morphology(), Stain(), Colour()):
        found = [measure.measure(view) for _, view in nuclei]
        for concept in measure.concepts(("nucleus",), True):
            defined = [own[concept.name] for own in found if not isinstance(own[concept.name], str)]
            assert len(defined) >= 0.95 * len(nuclei), concept.name
            assert np.isfinite(defined).all(), concept.name
            assert np.ptp(defined) > 0 or concept.name.startswith("euler"), concept.name

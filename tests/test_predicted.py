"""Images that a run's network is sure about: probabilities against loops, rows, and what is refused."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsss_probe.commands import ManifestRequest, make_manifest
from wsss_probe.errors import NothingToDoError, PlanError, UsageError
from wsss_probe.manifest import Manifest, read_manifest, write_manifest
from wsss_probe.predicted import images_where, probabilities
from wsss_probe.run import open_run
from wsss_probe.testing.models import multi_logit


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run over twelve images, every other of which was audited."""
    import pandas as pd

    import wsss_probe

    folder = tmp_path_factory.mktemp("sure")
    generator = np.random.default_rng(0)
    for index in range(12):
        pixels = generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels // (1 + index % 5)).save(folder / f"{index}.png")
    frame = pd.DataFrame({"image": [f"{i}.png" for i in range(12)], "group": [f"g{i}" for i in range(12)]})
    frame = frame.assign(split=["test" if i % 2 else "train" for i in range(12)], label="")
    write_manifest(Manifest(folder, frame), folder / "m.csv")
    outcome = wsss_probe.audit(
        multi_logit(3), folder / "m.csv", preprocess="size=16", classes=("a", "b", "c"), splits=("test",),
        controls="none", out=str(folder / "run"), only_plugins=("localizers",), layers=("features",),
    )  # fmt: skip
    return folder, outcome.folder


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.floats(-900, 900), min_size=3, max_size=3), min_size=1, max_size=4))
def test_probabilities_are_those_of_the_formulas(rows):
    """Softmax and sigmoid of the definitions, also where the exponential overflows."""
    logits = np.array(rows)
    softmax, sigmoid = probabilities(logits, False), probabilities(logits, True)
    for row, soft, alone in zip(rows, softmax, sigmoid, strict=True):
        exponentials = [math.exp(value - max(row)) for value in row]
        for index, value in enumerate(row):
            expected = 1 / (1 + math.exp(-value)) if value > -700 else 0.0
            assert soft[index] == pytest.approx(exponentials[index] / sum(exponentials), abs=1e-12)
            assert alone[index] == pytest.approx(expected, abs=1e-12)


def test_a_single_logit_is_a_sigmoid():
    """A softmax of one class would always be 1."""
    assert probabilities(np.array([[0.0], [np.nan]]), False)[0, 0] == 0.5
    assert np.isnan(probabilities(np.array([[np.nan]]), False)[0, 0])


def test_rows_are_those_of_the_condition(finished, tmp_path):
    """Rows keep their cells; which they are is recomputed from the run's logits, image by image."""
    folder, run = finished
    logits = open_run(run)["predictions/logits"].values
    names = open_run(run)["images/path"].values.tolist()
    record = json.loads((run / "run.json").read_text())
    sure = []
    for name, row in zip(names, logits, strict=True):
        alone = [1 / (1 + math.exp(-value)) for value in row]
        soft = [math.exp(value) / sum(math.exp(v) for v in row) for value in row]
        sure.append((name, (alone if record["multilabel"] else soft)[1]))
    share = float(np.median([p for _, p in sure]))
    chosen = images_where(run, f"b>{share:.12f}")

    assert len(names) == 6
    assert chosen.frame["image"].tolist() == [name for name, p in sure if p > share]
    assert set(chosen.frame["split"]) == {"test"}
    below = images_where(run, f"b<={share:.12f}")
    assert len(below) + len(chosen) == 6

    said = make_manifest(ManifestRequest(str(run), str(folder / "sure.csv"), where=f"b>{share:.12f}"))
    assert said.startswith(f"{folder / 'sure.csv'}: {len(chosen)} images")
    assert read_manifest(folder / "sure.csv").frame.equals(chosen.frame)


def test_a_probability_at_the_bound(finished):
    """Strict signs leave out an image that lies exactly on the bound, the others take it."""
    run = finished[1]
    logits = open_run(run)["predictions/logits"].values
    likely = probabilities(logits, json.loads((run / "run.json").read_text())["multilabel"])[:, 2]
    bound = float(np.sort(likely)[3])
    found = {sign: len(images_where(run, f"c{sign}{bound!r}")) for sign in (">", ">=", "<", "<=")}

    assert found == {">": 2, ">=": 3, "<": 3, "<=": 4}


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("b=0.9", "--where cannot be read; found: .*b=0.9"),
        ("b>1.5", "--where cannot be read"),
        ("bb>0.5", "no class of the run's network; found: .*bb.*did you mean .*b"),
    ],
)
def test_conditions_that_cannot_be_meant(finished, condition, message):
    """One clear line each."""
    with pytest.raises(UsageError, match=message):
        images_where(finished[1], condition)


def test_no_image_is_nothing_to_do(finished):
    """An empty manifest is never written."""
    with pytest.raises(NothingToDoError, match="no image of the run meets"):
        images_where(finished[1], "b>1.0")


def test_other_images_are_refused(finished, tmp_path):
    """A manifest that has changed since the run is named."""
    folder, run = finished
    text = (folder / "m.csv").read_text()
    try:
        (folder / "m.csv").write_text(text.replace("g1", "other"))
        with pytest.raises(PlanError, match="no longer those of the run"):
            images_where(run, "b>0.1")
    finally:
        (folder / "m.csv").write_text(text)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    """A condition needs a finished run, and a pattern needs a folder."""
    with pytest.raises(UsageError, match="is not a finished run"):
        make_manifest(ManifestRequest(str(tmp_path), str(tmp_path / "m.csv"), where="a>0.5"))
    with pytest.raises(UsageError, match="--pattern would do nothing here"):
        make_manifest(ManifestRequest(str(tmp_path), str(tmp_path / "m.csv"), where="a>0.5", pattern="x"))

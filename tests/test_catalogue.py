"""The command concepts: what can be measured, and a table of it."""

import csv

import numpy as np
import pytest
from PIL import Image

from wsss_probe import Concept, ConceptMeasure, DefinitionCard, hookimpl, progress
from wsss_probe.catalogue import show_concepts
from wsss_probe.cli import _run
from wsss_probe.config import AuditOptions
from wsss_probe.errors import UsageError
from wsss_probe.host import PluginHost


class Brightness(ConceptMeasure):
    """Mean of all pixels, undefined below 100."""

    name = "brightness"
    card = DefinitionCard("How bright", "mean", "none")

    def concepts(self, mask_classes, objects):
        """Name one concept."""
        return [Concept("mean", "Mean of all pixels.", "grey level")]

    def measure(self, view):
        """Measure it."""
        mean = float(view.pixels.mean())
        return {"mean": mean if mean >= 100 else "dark"}


class Offers:
    """A plugin with one measure."""

    @staticmethod
    @hookimpl
    def wsss_probe_concept_measures():
        """Offer it."""
        return [Brightness()]


@pytest.fixture
def host():
    """Make a host with one measure."""
    made = PluginHost()
    made.register(Offers, "light")
    return made


@pytest.fixture
def folder(tmp_path):
    """Write three images of brightness 50, 100 and 150."""
    (tmp_path / "images").mkdir()
    for index in range(3):
        pixels = np.full((8, 8, 3), 50 * (index + 1), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
    return tmp_path


def test_measures_are_listed_without_images(host, capsys):
    """Every measure has a line with its title and whether audits run it unasked."""
    show_concepts(AuditOptions(), host, "", progress.lines)

    assert capsys.readouterr().out.splitlines()[1] == "brightness\tHow bright\tyes"


def test_concepts_are_listed_for_images(host, folder, capsys):
    """With images every concept has a line with unit and meaning."""
    show_concepts(AuditOptions(images=str(folder / "images")), host, "", progress.lines)

    assert capsys.readouterr().out.splitlines()[1:] == ["brightness/mean\tgrey level\tMean of all pixels."]


def test_a_table_is_written(host, folder):
    """One row per image, in their order; what is undefined is empty."""
    out = folder / "table.csv"
    show_concepts(AuditOptions(images=str(folder / "images")), host, str(out), progress.lines)

    with out.open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["image", "brightness/mean"]
    assert [row[1] for row in rows[1:]] == ["", "100.0", "150.0"]
    assert [row[0] for row in rows[1:]] == ["0.png", "1.png", "2.png"]


def test_nothing_is_overwritten(host, folder):
    """A file that is there already is left alone."""
    out = folder / "table.csv"
    out.write_text("mine")

    with pytest.raises(UsageError, match="exists; remedy"):
        show_concepts(AuditOptions(images=str(folder / "images")), host, str(out), progress.lines)
    assert out.read_text() == "mine"


def test_a_file_needs_images(host, tmp_path):
    """Without images nothing can be measured."""
    with pytest.raises(UsageError, match="nothing to measure; remedy: give --images"):
        show_concepts(AuditOptions(), host, str(tmp_path / "table.csv"), progress.lines)


def test_the_command_line_reaches_it(folder, capsys):
    """The command lists the measures of installed plugins and refuses a wrong name in one line."""
    assert _run(["concepts", "--only-plugins", "explainers"]) == 0
    assert capsys.readouterr().out.splitlines() == ["measure\ttitle\tin every audit"]
    asked = ["concepts", "--images", str(folder / "images"), "--only-plugins", "explainers"]
    assert _run([*asked, "--concepts", "brightness"]) == 4
    assert "no plugin offers such a concept measure; found: brightness" in capsys.readouterr().err

"""The host's own part of the report: what was audited, which images are shown, what failed, how again."""

import itertools
import json
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from PIL import Image

import wsss_probe
from wsss_probe import overview
from wsss_probe.api import prepared_audit
from wsss_probe.auditing import perform
from wsss_probe.config import AuditOptions
from wsss_probe.contracts import Conclusion, Needs
from wsss_probe.errors import CorruptRunError
from wsss_probe.images import ManifestSource, Sample, TensorSource
from wsss_probe.manifest import read_manifest
from wsss_probe.overview import render_again
from wsss_probe.preprocessing import Preprocessing
from wsss_probe.report import loads
from wsss_probe.testing.models import multi_logit, planted_gap, single_logit

SIZE = (16, 24)


def pictures(number=6, seed=0):
    """Random network input, (image, channel, row, column)."""
    return torch.rand((number, 3, *SIZE), generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def reported(hosting, tmp_path):
    """Audit images in memory; gives the stored report."""

    def make(probes=(), explain=(), net=None, images=None, **options):
        host = hosting(probes, explain)
        source = TensorSource(pictures()) if images is None else images
        asked = AuditOptions(**{"layers": ("features",), "controls": "none", **options})
        prepared = prepared_audit(asked, host, net or multi_logit(2), source)
        outcome = perform(prepared, tmp_path / "run", "wsss-probe audit --model 'a b'")
        return loads((outcome.folder / "report.json").read_text())

    return make


def section(report, title):
    """The section of this title."""
    (found,) = [section for section in report.sections if section.title == title]
    return found


def cells(block):
    """Rows of a table as a mapping of the first to the second column."""
    return {row[0]: row[1] for row in block.rows}


class TestSections:
    def test_are_all_there(self, reported, times_gradient):
        """Subject, maps, passport, failures and reproduction, in the order of the questions; the card."""
        report = reported(explain=[times_gradient()])

        assert [(s.question, s.title) for s in report.sections] == [
            ("verdict", "What was audited"),
            ("where", "Relevance maps"),
            ("channels", "Channel passport of features"),
            ("failed", "Failures and exclusions"),
            ("how", "Reproduction"),
        ]
        assert report.title == "Audit of _GAP"
        assert [card.title for card in report.cards] == ["Times gradient"]

    def test_subtitle_counts_what_ran(self, reported, times_gradient, looking):
        """The subtitle counts images, layers, explainers, probes and controls, in words that fit."""

        class Never(times_gradient):
            name = "never"

            def accepts(self, layer, head):
                return "never"

        probes = [looking(name, conclude=lambda run: Conclusion(xr.Dataset())) for name in ("a", "b")]
        masked = looking("c", needs=Needs(masks=True))
        report = reported([*probes, masked], [times_gradient(), Never()], controls="shuffled:1")

        assert report.subtitle.endswith("6 images, 1 layer, 1 explainer, 2 probes, 1 control network.")

    def test_subtitle_opens_with_the_classifier(self, reported, tmp_path):
        """With labels the AUC stands first, as in its finding."""
        for number, image in enumerate(pictures(4)):
            Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy()).save(tmp_path / f"{number}.png")
        rows = [f"{number}.png,{number % 2}" for number in range(4)]
        (tmp_path / "m.csv").write_text("\n".join(["image,label", *rows]) + "\n")
        source = ManifestSource(read_manifest(tmp_path / "m.csv"), Preprocessing.parse("unit"))
        report = reported(images=source)
        (finding,) = [finding for finding in report.findings if finding.name == "classifier"]

        assert re.match(
            r"Classifier: AUC [01]\.\d{3} \[.*\] on 4 labelled images\. 4 images, ", report.subtitle
        )
        assert f"AUC {report.subtitle.split()[2]} [" in finding.statement

    def test_subject(self, reported):
        """Network, classes, head, preprocessing, groups, masks and input size are told."""
        masks = torch.zeros((6, *SIZE), dtype=torch.int64)
        facts, layers = section(
            reported(images=TensorSource(pictures(), masks, ["gland"])), "What was audited"
        ).blocks
        said = cells(facts)

        assert said["network"] == "_GAP"
        assert said["classes"] == "2: class 0, class 1"
        assert said["head"].startswith("linear on the mean of features, proved to ")
        assert said["preprocessing"] == "none (in memory)"
        assert said["images"] == "6, of which 0 could not be read"
        assert said["groups"].startswith("none given: images treated as independent")
        assert said["mask classes"] == "gland"
        assert said["network input"] == "3×16×24"
        assert layers.rows[0][:3] == ("features", "Sequential", "8×8×12")

    def test_many_classes_are_cut_with_a_sign(self, reported):
        """A thousand classes do not fill the page."""
        said = cells(section(reported(net=multi_logit(30)), "What was audited").blocks[0])

        assert said["classes"].startswith("30: class 0, class 1")
        assert said["classes"].endswith("class 11 …")

    def test_without_an_explainer(self, reported):
        """Without an explainer the section says so and how to get one."""
        (text,) = section(reported(), "Relevance maps").blocks

        assert "No explainer suits these layers, or none is installed" in text.markdown

    def test_nothing_failed(self, reported):
        """Where nothing failed the report says that."""
        (text,) = section(reported(), "Failures and exclusions").blocks

        assert text.markdown.startswith("Nothing:")

    def test_failures_quarantine_and_refusals(self, reported, times_gradient, looking):
        """Failed plugins with their traceback, unreadable images, and unsuitable layers are listed."""

        class Never(times_gradient):
            name = "never"

            def accepts(self, layer, head):
                return "because"

        images = pictures()
        images[4, 0, 0, 0] = torch.nan
        report = reported(
            [looking("odd", conclude=lambda run: 1 / 0)], [Never()], images=TensorSource(images)
        )
        text, quarantine, refused = section(report, "Failures and exclusions").blocks

        assert "conclude odd:" in text.markdown
        assert "\n    ZeroDivisionError: division by zero" in text.markdown
        assert "\n    Traceback (most recent call last):" in text.markdown
        assert quarantine.rows == (
            ("4", "image 4", "image unreadable", "image holds NaN or infinite values"),
        )
        assert refused.rows == (("never", "features", "because"),)

    def test_long_tables_say_that_they_are_cut(self, reported):
        """Fifty of sixty unreadable images are shown, and the caption says so."""
        images = pictures(64)
        images[:60, 0, 0, 0] = torch.nan
        report = reported(images=TensorSource(images), max_bad_fraction=1.0)
        (quarantine,) = section(report, "Failures and exclusions").blocks

        assert len(quarantine.rows) == 50
        assert quarantine.caption.endswith("(60); they count nowhere. The first 50 of 60 rows.")

    def test_names_of_digits_stay_text(self, reported, tmp_path, monkeypatch):
        """A file called 007 is not image 7."""
        quarantine = "index,image,what,reason\n3,007,image unreadable,torn\n"
        (tmp_path / "quarantine.csv").write_text(quarantine)
        made = overview._failures(SimpleNamespace(path=tmp_path), {"failures": [], "refused": []})

        assert made.blocks[0].frame["image"].tolist() == ["007"]

    def test_reproduction(self, reported, looking):
        """The command, the options that were set, the methods and the libraries are told."""
        probe = looking("plain", conclude=lambda run: Conclusion(xr.Dataset()))
        text, methods, versions = section(reported([probe], seed=5), "Reproduction").blocks

        assert "    wsss-probe audit --model 'a b'\n" in text.markdown
        assert "    seed = 5\n" in text.markdown
        assert "model_arguments" not in text.markdown
        assert methods.rows == (("plain", "t", "1", "{}"),)
        assert cells(versions)["torch"] == torch.__version__

    def test_labels_are_counted_by_split(self):
        """Labels and splits are counted, with a dash where there is none; without labels no table."""
        frame = pd.DataFrame({"label": ["a", "a", "", "b"], "split": ["test", "", "", "test"]})

        def counts(frame):
            manifest = SimpleNamespace(frame=frame)
            return overview._label_counts(SimpleNamespace(subject=SimpleNamespace(manifest=manifest)))

        assert sorted(counts(frame).itertuples(index=False, name=None)) == [
            ("a", "test", 1), ("a", "–", 1), ("b", "test", 1), ("–", "–", 1)
        ]  # fmt: skip
        assert counts(frame.assign(label="")) is None


def chosen(logits, labels, labelled=None, groups=None):
    """Images that the gallery shows."""
    logits, labels = np.array(logits, dtype=float), np.array(labels, dtype=bool)
    labelled = labels.any(axis=1) if labelled is None else np.array(labelled)
    run = SimpleNamespace(
        logits=SimpleNamespace(values=logits), groups=None if groups is None else np.array(groups)
    )
    return overview._chosen_images(SimpleNamespace(labels=labels, labelled=labelled), run)


class TestChosenImages:
    def test_most_confident_errors_first(self):
        """At most four errors come first, the most confident before the others; then the rest."""
        logits = [[0, margin] for margin in (1, 5, 3, 2, 4, 6)] + [[2, 0], [3, 0]]
        labels = [[True, False]] * 6 + [[True, False]] * 2

        assert chosen(logits, labels)[:4] == [5, 1, 4, 2]
        assert chosen(logits, labels)[4:] == [7, 6]

    def test_the_others_are_spread_over_the_predicted_classes(self):
        """Without errors, classes take turns, each with its most confident image first."""
        logits = [[9, 0, 0], [8, 0, 0], [7, 0, 0], [0, 5, 0], [0, 6, 0], [0, 0, 1]]
        labels = np.eye(3, dtype=bool)[[0, 0, 0, 1, 1, 2]]

        assert chosen(logits, labels) == [0, 4, 5, 1, 3, 2]

    def test_never_more_than_eight_and_none_twice(self):
        """Eight rows are shown of many, each once."""
        random = np.random.default_rng(0)
        found = chosen(random.normal(size=(50, 3)), np.eye(3, dtype=bool)[random.integers(0, 3, 50)])

        assert len(found) == len(set(found)) == 8

    def test_unreadable_images_are_not_chosen(self):
        """NaN rows are left out; if nothing is readable nothing is shown."""
        logits = [[np.nan, np.nan], [1, 0], [np.nan, np.nan]]

        assert chosen(logits, np.zeros((3, 2))) == [1]
        assert chosen([[np.nan, np.nan]], [[False, False]]) == []

    def test_unlabelled_images_are_no_errors(self):
        """Without labels confidence alone orders each class."""
        assert chosen([[1, 0], [3, 0], [0, 2]], np.zeros((3, 2))) == [1, 2, 0]

    def test_of_a_single_logit(self):
        """Of one logit an error is a wrong sign, and its size is the confidence."""
        logits, labels = [[4.0], [-3.0], [0.5], [-0.1]], [[True], [True], [False], [False]]

        assert chosen(logits, labels, labelled=[True] * 4) == [1, 2, 0, 3]
        assert chosen(logits, labels, labelled=[False] * 4) == [0, 1, 2, 3]

    def test_one_image_a_group_first(self):
        """Tiles of one image look alike: each group is seen before any is seen twice."""
        logits = [[9, 0], [8, 0], [7, 0], [1, 0]]
        labels = [[False, True]] * 4

        assert chosen(logits, labels, groups=["a", "a", "a", "b"]) == [0, 3, 1, 2]


class TestGallery:
    def test_shows_picture_mask_and_map_on_its_own_grid(self, reported, times_gradient):
        """Each row has the view with the mask's outline, and the stored map as it is."""
        masks = torch.full((6, *SIZE), -2)
        masks[:, 4:8, 4:8] = 0
        report = reported(explain=[times_gradient()], images=TensorSource(pictures(), masks))
        (gallery,) = section(report, "Relevance maps").blocks

        assert len(gallery.rows) == 6
        for row in gallery.rows:
            assert [picture.label for picture in row.pictures] == ["original", "timesgradient, features"]
            assert row.pictures[0].outline is not None
            assert (row.pictures[0].height, row.pictures[0].width) == SIZE
            assert row.pictures[1].overlay is not None
            assert re.fullmatch(r"image \d: predicted class [01]", row.title)
        assert "for the predicted class" in gallery.caption

    def test_titles_name_each_images_own_prediction(self, reported, times_gradient):
        """The title of a row tells what was predicted for that image."""
        images = torch.full((4, 3, *SIZE), 0.5)
        images[1::2, 0], images[1::2, 1] = 1.0, 0.0
        report = reported(explain=[times_gradient()], net=planted_gap(), images=TensorSource(images))

        assert sorted(row.title for row in section(report, "Relevance maps").blocks[0].rows) == [
            f"image {n}: predicted class {n % 2}" for n in range(4)
        ]

    def test_caption_names_the_class_that_is_explained(self, reported, times_gradient):
        """With a class as first target the caption names it."""
        report = reported(explain=[times_gradient()], classes=("red", "green"), targets=("green", "label"))

        assert "for the green class" in section(report, "Relevance maps").blocks[0].caption

    def test_an_image_lost_since_the_survey_is_a_placeholder(self, reported, times_gradient):
        """An image that can no longer be read keeps its row, without pixels."""

        class Vanishing:
            def __init__(self):
                self.left = None

            def __len__(self):
                return 3

            def read(self, index):
                return Sample(index, tensor=pictures(3)[index])

            def picture(self, index):
                return None

        (gallery,) = section(
            reported(explain=[times_gradient()], images=Vanishing()), "Relevance maps"
        ).blocks

        assert len(gallery.rows) == 3
        assert all(picture.base is None for row in gallery.rows for picture in row.pictures)

    @pytest.mark.parametrize(
        ("logits", "classes", "said"),
        [
            ([1.0, 2.0], ("a", "b"), "b"),
            ([np.nan, np.nan], ("a", "b"), "–"),
            ([0.1], ("tumour",), "tumour"),
            ([-0.1], ("tumour",), "not tumour"),
        ],
    )
    def test_what_was_predicted(self, logits, classes, said):
        """The largest logit names the class; one logit below 0 says that its class is absent."""
        assert overview._predicted(np.array(logits), classes) == said

    def test_a_network_of_one_logit_has_a_report(self, reported, times_gradient):
        """A whole report of a network with a single logit."""
        report = reported(explain=[times_gradient()], net=single_logit(), classes=("tumour",))
        titles = {row.title.partition(": ")[2] for row in section(report, "Relevance maps").blocks[0].rows}

        assert titles <= {"predicted tumour", "predicted not tumour"}


class TestAgain:
    def test_renders_the_same_page(self, reported, times_gradient, tmp_path):
        """From what the run keeps the page is made again, byte for byte."""
        reported(explain=[times_gradient()])
        page = tmp_path / "run" / "report.html"
        before = page.read_bytes()
        page.write_text("lost")

        assert render_again(tmp_path / "run") == page
        assert page.read_bytes() == before

    @pytest.mark.parametrize("text", [None, "", "{}", "[1]"])
    def test_a_lost_or_broken_report(self, tmp_path, text):
        """Without the stored report there is one line, and the old page stays."""
        (tmp_path / "report.html").write_text("old")
        if text is not None:
            (tmp_path / "report.json").write_text(text)
        with pytest.raises(CorruptRunError, match="cannot be read"):
            render_again(tmp_path)

        assert (tmp_path / "report.html").read_text() == "old"

    def test_two_equal_audits_give_equal_pages(self, tmp_path, monkeypatch):
        """Two audits of the same images differ in the provenance block and nowhere else."""
        rows = ["image,label,mask"]
        for number in range(6):
            pixels = np.random.default_rng(number).integers(0, 120, (16, 16, 3), dtype=np.uint8)
            mask = np.zeros((16, 16), np.uint8)
            if number % 2:
                mask[2:9, 3:9] = 1
                pixels[mask == 1] = (250, 10, 40)
            Image.fromarray(pixels).save(tmp_path / f"{number}.png")
            Image.fromarray(mask).save(tmp_path / f"m{number}.png")
            rows.append(f"{number}.png,{number % 2},m{number}.png")
        (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
        clock = itertools.count(1_700_000_000, 1234.5)
        monkeypatch.setattr("wsss_probe.auditing.time.time", lambda: next(clock))
        pages, records = [], []
        for place in ("first", "second"):
            (tmp_path / place).mkdir()
            monkeypatch.chdir(tmp_path / place)
            outcome = wsss_probe.audit(
                planted_gap(), tmp_path / "manifest.csv",
                out="run", layers="features", preprocess="unit", controls="shuffled:1", max_bad_fraction=0.5,
            )  # fmt: skip
            pages.append((outcome.folder / "report.html").read_text())
            records.append(json.loads((outcome.folder / "run.json").read_text()))
        provenance = re.compile(r'<section class="section" id="provenance".*?</section>', re.DOTALL)
        blocks = [provenance.findall(page) for page in pages]

        assert [len(found) for found in blocks] == [1, 1]
        assert blocks[0] != blocks[1]
        assert provenance.sub("", pages[0]) == provenance.sub("", pages[1])
        assert {key for key in records[0] if records[0][key] != records[1][key]} == {"started"}

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
from wsss_probe.contracts import Conclusion, Needs
from wsss_probe.errors import CorruptRunError
from wsss_probe.images import ManifestSource, TensorSource
from wsss_probe.manifest import read_manifest
from wsss_probe.overview import render_again
from wsss_probe.preprocessing import Preprocessing
from wsss_probe.testing.models import multi_logit, planted_gap

SIZE = (16, 24)


def pictures(number=6, seed=0):
    """Random network input, (image, channel, row, column)."""
    return torch.rand((number, 3, *SIZE), generator=torch.Generator().manual_seed(seed))


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
                out="run", layers="features", preprocess="unit", controls="shuffled:1",
                max_bad_fraction=0.5, concepts="colour",
            )  # fmt: skip
            pages.append((outcome.folder / "report.html").read_text())
            records.append(json.loads((outcome.folder / "run.json").read_text()))
        provenance = re.compile(r'<section class="section" id="provenance".*?</section>', re.DOTALL)
        blocks = [provenance.findall(page) for page in pages]

        assert [len(found) for found in blocks] == [1, 1]
        assert blocks[0] != blocks[1]
        assert provenance.sub("", pages[0]) == provenance.sub("", pages[1])
        assert {key for key in records[0] if records[0][key] != records[1][key]} == {"started"}

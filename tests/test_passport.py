"""The channel passport: joined by channel, isolated by plugin, written whole, shown with pictures."""

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsss_probe import ChannelColumn, ChannelColumns, hookimpl
from wsss_probe.api import prepared_audit
from wsss_probe.auditing import perform
from wsss_probe.config import AuditOptions
from wsss_probe.contracts import Head, LayerInfo, Table, Text
from wsss_probe.errors import CorruptRunError, ExitCode, SchemaError, UsageError
from wsss_probe.host import PluginHost
from wsss_probe.images import TensorSource
from wsss_probe.passport import (
    EXAMPLES,
    OPENED,
    Passport,
    evidence_layer,
    issue_passports,
    join_columns,
    read_passport,
)
from wsss_probe.passport import write_passport as write
from wsss_probe.report import loads
from wsss_probe.testing import make_scene, run_in_memory
from wsss_probe.testing.models import dead_channel, multi_logit

CHANNELS = 8


class Given(ChannelColumns):
    """Offers the columns that it was made with."""

    def __init__(self, *columns, name="given"):
        self._columns, self.name, self.asked = columns, name, []

    def columns(self, run, layer):
        """Give them for every layer."""
        self.asked.append(layer)
        return self._columns


class Raising(Given):
    """Fails when it is asked."""

    def columns(self, run, layer):
        """Fail."""
        super().columns(run, layer)
        msg = "no idea"
        raise ValueError(msg)


class Plugin:
    """Offers columns."""

    def __init__(self, *items):
        self._items = items

    @hookimpl
    def wsss_probe_channel_columns(self):
        """Offer what it was made with."""
        return list(self._items)


def column(name="F1", values=range(CHANNELS), **more):
    """Make a column that is good unless told otherwise."""
    return ChannelColumn(name, list(values), **{"meaning": "What it says, n = 6, no control.", **more})


def host_of(*items, strict=False):
    """Make a host with one plugin for each item, named a, b, and so on."""
    host = PluginHost(strict=strict)
    for letter, item in zip("abcdef", items, strict=False):
        host.register(Plugin(item), letter, f"dist-{letter}", "1.0")
    return host, host.collect_channel_columns()


def joined(*items, run=None, layer="features"):
    """Join the columns of some plugins; gives the passport and the host."""
    host, offered = host_of(*items)
    return join_columns(host, offered, run or run_in_memory((), controls=0), layer), host


def names(passport):
    """Names of the columns that come from plugins."""
    return [column.name for column in passport.columns if column.order != 80.0]


class TestOwnColumns:
    def test_are_mean_and_deviation_over_readable_images(self):
        """Mean and standard deviation are those of a loop over the readable images."""
        scene = make_scene().unreadable([2])
        frame = joined(run=run_in_memory((), scene, controls=0))[0].frame
        maps = scene.batch().activations["features"]
        for channel in range(CHANNELS):
            pooled = [float(maps[image, channel].mean()) for image in range(6) if image != 2]
            mean = sum(pooled) / 5
            deviation = math.sqrt(sum((value - mean) ** 2 for value in pooled) / 5)
            assert math.isclose(frame["mean activation"][channel], mean, rel_tol=1e-5)
            assert math.isclose(frame["sd of activation"][channel], deviation, rel_tol=1e-4, abs_tol=1e-7)

    def test_say_how_many_images_were_read(self):
        """The meaning counts readable images, not rows of the manifest."""
        passport, _ = joined(run=run_in_memory((), make_scene().unreadable([0, 1]), controls=0))

        assert "n = 4 readable images" in passport.meanings["mean activation"]

    def test_are_undefined_without_a_readable_image(self):
        """Where nothing could be read all is undefined, and no warning is given."""
        run = run_in_memory((), make_scene().unreadable(range(6)), controls=0)

        assert joined(run=run)[0].frame[["mean activation", "sd of activation"]].isna().all(axis=None)


class TestJoining:
    def test_columns_stand_by_order_then_by_plugin(self):
        """Small orders come first; equal ones stand by plugin, then as given; the host's stand late."""
        passport, host = joined(
            Given(column("late", order=60), column("b", order=0)), Given(column("c", order=0), name="other")
        )

        assert list(passport.frame) == [
            "channel", "b", "c", "late", "mean activation", "sd of activation",
        ]  # fmt: skip
        assert host.failures == ()

    def test_values_stand_in_the_row_of_their_channel(self):
        """Row k holds the k-th value of every column."""
        first, second = [3.5, *range(7)], list("abcdefgh")
        frame = joined(Given(column("x", first), column("y", second)))[0].frame

        assert frame["channel"].tolist() == list(range(CHANNELS))
        assert (frame["x"].tolist(), frame["y"].tolist()) == (first, second)

    @pytest.mark.parametrize("taken", ["mean activation", "channel"])
    def test_a_name_of_the_hosts_is_taken(self, taken):
        """A plugin cannot replace a column of the host; its other columns stay."""
        passport, host = joined(Given(column(taken), column("F1")))

        assert names(passport) == ["F1"]
        assert "found: wsss-probe itself and dist-a 1.0" in host.failures[0].message

    def test_a_clash_names_both_distributions(self):
        """Of two columns with one name the first plugin's stays, and both distributions are named."""
        passport, host = joined(Given(column()), Given(column(values=[9.0] * CHANNELS), name="other"))

        (failure,) = host.failures
        assert passport.frame["F1"].tolist() == list(range(CHANNELS))
        assert (failure.plugin, failure.item) == ("b", "F1")
        assert (
            "two plugins offer the passport column 'F1'; found: dist-a 1.0 and dist-b 1.0" in failure.message
        )

    def test_a_bad_column_is_refused_and_the_others_stay(self):
        """A column of the wrong length is named with what was wanted; its neighbours are kept."""
        passport, host = joined(
            Given(column("short", [1.0]), column("good")), Given(column("b"), name="other")
        )

        assert names(passport) == ["good", "b"]
        assert "'short' has the wrong length; found: 1; wanted: 8 values" in host.failures[0].message

    def test_a_plugin_that_raises_is_recorded_and_not_asked_again(self):
        """What a plugin raises is its failure alone, and it is not asked about the next layer."""
        raising, good = Raising(), Given(column(), name="good")
        host, offered = host_of(raising, good)
        run = run_in_memory((), controls=0)
        passports = [join_columns(host, offered, run, "features") for _ in range(2)]

        assert [names(passport) for passport in passports] == [["F1"], ["F1"]]
        assert [(f.plugin, f.stage, f.message) for f in host.failures] == [
            ("a", "columns", "ValueError: no idea")
        ]
        assert raising.asked == ["features"]

    @pytest.mark.parametrize(
        "answer", [None, "text", 3, ["no column"], column(), [replace(column(), name=" ")]]
    )
    def test_anything_but_columns_is_refused(self, answer):
        """An answer that is no iterable of named columns is that plugin's failure."""

        class Odd(Given):
            def columns(self, run, layer):
                return answer

        passport, host = joined(Odd(), Given(column(), name="good"))

        assert names(passport) == ["F1"]
        assert host.failures[0].message.startswith("given: ")

    def test_strict_raises(self):
        """With --strict the first bad column stops the audit."""
        host, offered = host_of(Given(column(values=[])), strict=True)

        with pytest.raises(SchemaError, match="wrong length"):
            join_columns(host, offered, run_in_memory((), controls=0), "features")

    def test_what_a_plugin_disturbs_is_put_back(self):
        """A plugin that sets the global seed is named, and its columns are kept."""

        class Seeding(Given):
            def columns(self, run, layer):
                torch.manual_seed(123456)
                return super().columns(run, layer)

        passport, host = joined(Seeding(column()))

        assert names(passport) == ["F1"]
        assert [failure.disturbance for failure in host.failures] == [True]


def info(name, layout="maps"):
    """Describe a layer."""
    return LayerInfo(name, "Conv2d", 0, 1, (4, 2, 2), layout)


class TestEvidenceLayer:
    @pytest.mark.parametrize(
        ("layers", "head", "wanted"),
        [
            ([info("a"), info("b")], Head(True, "a"), "a"),
            ([info("a"), info("b")], Head(False), "b"),
            ([info("a"), info("b"), info("fc", "vector")], Head(True, "fc"), "b"),
            ([info("fc", "vector")], Head(False), ""),
        ],
    )
    def test_is_that_of_the_head_or_the_last_with_maps(self, layers, head, wanted):
        """The layer that the head averages is preferred, if it is audited and has maps."""
        survey = replace(make_scene().survey, layers={i.name: i for i in layers}, head=head)

        assert evidence_layer(survey) == wanted


def issued(tmp_path, *items, scene=None, layers=("features",), **changed):
    """Issue the passports of some layers of a scene; gives their sections."""
    host, offered = host_of(*items)
    scene = scene or make_scene()
    audited = {name: scene.survey.layers[name] for name in layers}
    scene = replace(scene, survey=replace(scene.survey, layers=audited))
    run = run_in_memory((), scene, controls=0)
    return issue_passports(host, offered, replace(run, path=tmp_path, **changed)), run


def only_table(section):
    """The one table of a section."""
    (table,) = [block for block in section.blocks if isinstance(block, Table)]
    return table


class TestPictures:
    def test_rows_stand_by_the_leading_column(self, tmp_path):
        """The first column of numbers decides, largest first, undefined last; texts lead nothing."""
        values = [0.1, math.nan, 0.9, 0.3, 0.2, 0.8, 0.0, 0.5]
        given_ = Given(column("who", list("abcdefgh"), order=0), column("F1", values, order=1))
        (section,), _ = issued(tmp_path, given_, scene=make_scene(wide(CHANNELS)))
        table = only_table(section)

        assert table.frame["channel"].tolist() == [2, 5, 7, 3, 4, 0, 6, 1]
        assert "sorted by F1, largest first" in table.caption

    def test_rows_open_the_images_that_move_the_channel_most(self, tmp_path):
        """Each row opens the images of the largest pooled value, each with this channel's own map."""
        (section,), run = issued(tmp_path, Given(column()), scene=make_scene(wide(CHANNELS)))
        table, pooled = only_table(section), run.pooled("features").values

        assert section.title == "Channel passport of features"
        for row, channel in enumerate(table.frame["channel"]):
            best = sorted(range(6), key=lambda image: -pooled[image, channel])[:EXAMPLES]
            ((title, pictures),) = table.details[row].rows
            assert title == f"channel {channel}"
            assert [picture.label.split(",")[0] for picture in pictures] == [f"image{i}.png" for i in best]
            for image, picture in zip(best, pictures, strict=True):
                np.testing.assert_array_equal(picture.overlay, run.activations(image, "features")[channel])
                np.testing.assert_array_equal(picture.outline, run.mask(image) >= 0)
                np.testing.assert_array_equal(picture.pixels, run.picture(image))

    def test_at_most_so_many_rows_open(self, tmp_path):
        """With more channels than rows that open, those of the best ones do, and the caption counts them."""
        scene = make_scene(wide(OPENED + 9))
        (section,), _ = issued(tmp_path, Given(column(values=range(OPENED + 9))), scene=scene)
        table = only_table(section)

        assert sorted(table.details) == list(range(OPENED))
        assert table.frame["channel"].tolist() == list(range(OPENED + 8, -1, -1))
        assert f"The first {OPENED} rows open the 3 images" in table.caption

    def test_a_dead_channel_opens_nothing_and_stands_below(self, tmp_path):
        """A channel that no image moves has no best image, however good its number is."""
        scene = make_scene(dead_channel())
        run = run_in_memory((), scene, controls=0)
        dead = [k for k, spread in enumerate(np.ptp(run.pooled("features").values, axis=0)) if spread == 0]
        number = scene.survey.layers["features"].shape[0]
        (section,), _ = issued(
            tmp_path, Given(column(values=[float(k in dead) for k in range(number)])), scene=scene
        )
        table = only_table(section)

        assert len(dead) >= 1
        assert table.frame["channel"].tolist()[-len(dead) :] == dead
        assert len(table.details) == number - len(dead)

    def test_unreadable_images_are_never_shown(self, tmp_path):
        """An image that could not be read moves no channel."""
        (section,), _ = issued(tmp_path, Given(column()), scene=make_scene().unreadable([0, 1, 2, 3]))
        shown = {p.label for g in only_table(section).details.values() for _, ps in g.rows for p in ps}

        assert {label.split(",")[0] for label in shown} == {"image4.png", "image5.png"}

    def test_nothing_opens_when_no_image_was_readable(self, tmp_path):
        """Without a readable image there is a table all the same."""
        (section,), _ = issued(tmp_path, scene=make_scene().unreadable(range(6)))

        assert only_table(section).details == {}
        assert "n = 0 readable images" in only_table(section).caption

    def test_without_masks_there_is_no_outline(self, tmp_path):
        """Where the manifest has no masks, pictures have no outline."""
        (section,), _ = issued(tmp_path, scene=make_scene().without_masks())

        assert {p.outline is None for g in only_table(section).details.values() for p in g.rows[0][1]} == {
            True
        }

    def test_large_images_are_shown_smaller(self, tmp_path):
        """Pictures keep their shape and have at most 224 pixels a side, once per image."""
        (section,), _ = issued(tmp_path, scene=make_scene(images=2, size=(450, 300)))
        pictures = [p for g in only_table(section).details.values() for p in g.rows[0][1]]

        assert {p.pixels.shape for p in pictures} == {(224, 149, 3)}
        assert len({id(p.pixels) for p in pictures}) == 2

    def test_says_when_nothing_may_be_concluded(self, tmp_path):
        """Under a classifier that does not classify the section says so before the table."""
        (section,), _ = issued(tmp_path, not_testable="AUC 0.52 [0.41, 0.63].")

        assert isinstance(section.blocks[0], Text)
        assert section.blocks[0].markdown.startswith("Not testable here: AUC 0.52 [0.41, 0.63]. The numbers")

    def test_the_evidence_layer_comes_first_and_opens_alone(self, tmp_path):
        """Other layers have a table without pictures, after that of the evidence layer."""
        (first, second), _ = issued(tmp_path, scene=make_scene(two_layers()), layers=("early", "features"))

        assert (first.title, second.title) == ("Channel passport of features", "Channel passport of early")
        assert only_table(first).details
        assert not only_table(second).details


def wide(channels):
    """Build a network with many channels that all answer images."""
    net = torch.nn.Sequential()
    net.add_module("features", torch.nn.Conv2d(3, channels, 3))
    net.add_module("pool", torch.nn.AdaptiveAvgPool2d(1))
    net.add_module("flat", torch.nn.Flatten())
    net.add_module("classifier", torch.nn.Linear(channels, 2))
    return net.eval()


def two_layers():
    """Build a network with two convolutions in front of a linear head."""
    net = torch.nn.Sequential()
    net.add_module("early", torch.nn.Conv2d(3, 4, 3))
    net.add_module("features", torch.nn.Conv2d(4, 5, 3))
    net.add_module("pool", torch.nn.AdaptiveAvgPool2d(1))
    net.add_module("flat", torch.nn.Flatten())
    net.add_module("classifier", torch.nn.Linear(5, 2))
    return net.eval()


@pytest.fixture
def audited(tmp_path):
    """Audit a small network with some plugins; gives outcome and host."""

    def make(*items, layers=("features",), net=None, **options):
        host, _ = host_of(*items, **options)
        images = torch.rand((6, 3, 16, 24), generator=torch.Generator().manual_seed(0))
        asked = AuditOptions(layers=layers, controls="none")
        prepared = prepared_audit(asked, host, net or multi_logit(2), TensorSource(images))
        return perform(prepared, tmp_path / "run", "wsss-probe audit"), host

    return make


class TestInAnAudit:
    def test_every_layer_has_its_file(self, audited):
        """A run keeps one table and one description for every audited layer with maps."""
        outcome, _ = audited(Given(), layers=("early", "features"), net=two_layers())

        files = {path.name for path in (outcome.folder / "passport").iterdir()}
        assert files == {"early.csv", "early.json", "features.csv", "features.json"}
        assert len(read_passport(outcome.folder, "early")) == 4

    def test_wsss_probe_channel_columns_reach_file_and_report(self, audited):
        """What the hook offers stands in the run's table, with its meaning and who said it."""
        values = [0.1234567890123456, math.nan, -1e-30, *range(5)]
        outcome, _ = audited(Given(column("F1", values)))
        frame = read_passport(outcome.folder, "features")
        report = loads((outcome.folder / "report.json").read_text())
        (table,) = [b for s in report.sections if s.title.startswith("Channel passport") for b in s.blocks]

        np.testing.assert_array_equal(frame["F1"], values)
        assert frame.attrs["meanings"]["F1"] == "What it says, n = 6, no control."
        assert frame.attrs["from"] == {
            "channel": "wsss-probe itself",
            "F1": "dist-a 1.0",
            "mean activation": "wsss-probe itself",
            "sd of activation": "wsss-probe itself",
        }
        assert table.columns[:2] == ("channel", "F1")
        assert table.meanings[1] == "What it says, n = 6, no control."
        assert (outcome.exit_code, len(table.rows)) == (ExitCode.DONE, CHANNELS)

    def test_a_failed_plugin_is_listed_and_the_audit_ends_with_code_6(self, audited):
        """The rest is done; the report names the plugin, its distribution and what it raised."""
        outcome, host = audited(Raising(), Given(column("kept"), name="good"))
        report = loads((outcome.folder / "report.json").read_text())
        (failed,) = [section for section in report.sections if section.question == "failed"]

        assert outcome.exit_code == ExitCode.WITH_FAILURES
        assert "kept" in read_passport(outcome.folder, "features")
        assert "ValueError: no idea" in failed.blocks[0].markdown
        assert [(row.name, row.state) for row in host.listing()] == [("a", "faulty"), ("b", "loaded")]

    def test_strict_stops_the_audit(self, audited):
        """With --strict nothing is finished after a plugin failed."""
        with pytest.raises(ValueError, match="no idea"):
            audited(Raising(), strict=True)

    def test_pictures_of_one_image_stand_once_in_the_report(self, audited):
        """Rows that open the same image share it: there are as many photographs as images shown."""
        outcome, _ = audited(Given(column()))
        report = loads((outcome.folder / "report.json").read_text())
        (table,) = [b for s in report.sections if s.title.startswith("Channel passport") for b in s.blocks]
        bases = [p.base for _, gallery in table.details for row in gallery.rows for p in row.pictures]

        assert len(bases) > len(set(bases))
        assert len(set(bases)) <= 6


class TestReading:
    @pytest.fixture
    def kept(self, tmp_path):
        """Write a passport into what passes for a finished run."""

        def make(*columns, layer="features"):
            record = {"plan": "p", "model": {"name": "m"}, "exit_code": 0}
            (tmp_path / "run.json").write_text(json.dumps(record))
            owners = {c.name: "dist 1" for c in columns} | {"channel": "wsss-probe itself"}
            write(tmp_path, Passport(layer, columns, owners))
            return tmp_path

        return make

    def test_texts_and_flags_come_back_as_they_were(self, kept):
        """Texts like numbers, formulas or NA stay text; undefined flags stay undefined."""
        texts = ("0", "NA", "-tie", "=1+1", "", "a,b", 'say "x"', "two\nlines")
        flags = (True, False, math.nan, True, True, True, True, True)
        frame = read_passport(
            kept(column("class", texts), column("dead", flags), column("all", [True] * 8), layer="a/b#1"),
            "a/b#1",
        )

        assert frame["class"].tolist() == list(texts)
        assert frame["dead"].tolist()[:2] == [True, False]
        assert math.isnan(frame["dead"][2])
        assert frame["all"].dtype == bool

    def test_the_table_runs_in_no_spreadsheet(self, kept):
        """In the file a text or a header that begins like a formula has a sign before it."""
        folder = kept(column("-w", ["=1+1"] * 8))
        text = (folder / "passport" / "features.csv").read_text()

        assert text.splitlines()[:2] == ["channel,'-w", "0,'=1+1"]

    @settings(deadline=None, max_examples=30)
    @given(
        st.lists(st.floats(allow_infinity=False), min_size=1, max_size=6)
        | st.lists(st.integers(-(2**53), 2**53), min_size=1, max_size=6)
        | st.lists(st.booleans(), min_size=1, max_size=6)
        | st.lists(st.text(st.characters(codec="ascii", exclude_categories=["C"])), min_size=1, max_size=6)
    )
    def test_what_is_written_is_read(self, tmp_path_factory, values):
        """Numbers come back to the last digit, whole numbers whole, flags and texts as they were."""
        folder = tmp_path_factory.mktemp("run")
        (folder / "run.json").write_text(json.dumps({"plan": "p", "model": {"name": "m"}, "exit_code": 0}))
        passport = Passport("x", (column("v", values),), {"v": "d", "channel": "d"})
        write(folder, passport)

        pd.testing.assert_frame_equal(read_passport(folder, "x"), passport.frame, check_exact=True)

    def test_a_folder_that_is_no_run(self, tmp_path):
        """Anything but a finished run is one clear line."""
        with pytest.raises(UsageError, match="is not a finished run"):
            read_passport(tmp_path, "features")

    def test_a_layer_without_a_passport(self, kept):
        """A layer that was not audited is named beside those that were."""
        with pytest.raises(UsageError, match=r"no channel passport.*found: other; wanted: features"):
            read_passport(kept(column()), "other")

    @pytest.mark.parametrize("lost", ["{", '{"columns": []}', "[]"])
    def test_a_spoilt_description(self, kept, lost):
        """A description that does not fit its table is a corrupt run."""
        folder = kept(column())
        (folder / "passport" / "features.json").write_text(lost)

        with pytest.raises(CorruptRunError, match="cannot be read"):
            read_passport(folder, "features")

    def test_a_torn_table(self, kept):
        """A table whose last line is torn is a corrupt run."""
        table = kept(column()) / "passport" / "features.csv"
        table.write_text(table.read_text().rstrip("\n").rpartition(",")[0])

        with pytest.raises(CorruptRunError, match="cannot be read"):
            read_passport(table.parents[1], "features")

    def test_a_cell_that_is_no_flag(self, kept):
        """A cell that was not written by us is a corrupt run."""
        folder = kept(column(values=[True] * 8))
        table = folder / "passport" / "features.csv"
        table.write_text(table.read_text().replace("3,True", "3,maybe"))

        with pytest.raises(CorruptRunError, match="found: 'maybe'"):
            read_passport(folder, "features")

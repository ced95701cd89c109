"""The schema: names in paths, and one readable line for every table that breaks the contract."""

import re
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from wsss_probe import ChannelColumn, Choice, Conclusion, Finding, Gallery, Observation, Section, Table, Text
from wsss_probe.errors import SchemaError
from wsss_probe.schema import (
    TABLES,
    check_channel_column,
    check_conclusion,
    check_observation,
    check_partial,
    check_relevance,
    check_rows,
    check_sections,
    check_summary,
    escape,
    unescape,
)

NAME = "channels: channel-f1@layer4"


CHOICE = Choice("threshold", 0.5, "mean F1", 0.7, 3, "a half", 4, 4, 2, frozenset({"a", "b"}))


def scored(values):
    """Scores of maps with the coordinate that names them."""
    return xr.DataArray(values, dims=("image", "explainer"), coords={"explainer": ["a, b"]})


def rows(**variables):
    """Make rows for three images."""
    return xr.Dataset(variables or {"f1": (("image", "channel"), np.ones((3, 2), np.float32))})


class TestEscape:
    @pytest.mark.parametrize(
        ("name", "wanted"),
        [
            ("layer4.0.conv1", "layer4.0.conv1"),
            ("relu#1", "relu%231"),
            ("energy@layer4", "energy@layer4"),
            ("a/b", "a%2Fb"),
            (".", "%2E"),
            ("..", "%2E."),
            ("", "%"),
            ("%", "%25"),
            ("zarr.json", "zarr%2Ejson"),
            ("__hidden", "%5F_hidden"),
            ("größe", "gr%C3%B6%C3%9Fe"),
        ],
    )
    def test_known_names(self, name, wanted):
        """Readable names stay readable; what has a meaning in a path is escaped."""
        assert escape(name) == wanted

    @settings(deadline=None, max_examples=300)
    @given(st.text() | st.text("./#@%_\\~ -z", max_size=6))
    def test_is_reversible_and_one_safe_component(self, name):
        """Any text comes back from its path component, which is plain ASCII and stays in its folder."""
        path = escape(name)

        assert unescape(path) == name
        assert re.fullmatch(r"[A-Za-z0-9%_.~@-]+", path)
        assert PurePosixPath("x", path).parts == ("x", path)
        assert not path.startswith((".", "__"))

    def test_survives_bytes_that_are_no_text(self):
        """A name from a file name with bytes outside UTF-8 comes back as it was."""
        assert unescape(escape("layer\udc80")) == "layer\udc80"

    @settings(deadline=None, max_examples=25)
    @given(st.lists(st.text(min_size=0, max_size=8), min_size=1, max_size=4, unique=True))
    def test_zarr_keeps_names_apart(self, tmp_path_factory, names):
        """Groups with escaped names are written and found again, each with its own value."""
        store = tmp_path_factory.mktemp("run") / "data.zarr"
        folded = {escape(name).lower() for name in names}
        if len(folded) < len(names):  # a file system may fold case
            return
        tree = xr.DataTree.from_dict(
            {f"probes/{escape(name)}/rows": rows(x=("image", [float(i)])) for i, name in enumerate(names)}
        )
        tree.to_zarr(store, zarr_format=3, consolidated=False)

        with xr.open_datatree(store, engine="zarr", consolidated=False) as found:
            assert {unescape(name) for name in found["probes"].children} == set(names)
            for number, name in enumerate(names):
                assert float(found[f"probes/{escape(name)}/rows"]["x"][0]) == number


class TestRows:
    def test_good_rows_pass(self):
        """Floating rows, one per image, with named channels pass with their values."""
        good = rows().assign_coords(channel=["red", "green"], image=[5, 6, 7])

        checked = check_rows(good, 3, NAME)

        assert list(checked["channel"].values) == ["red", "green"]
        assert "image" not in checked.coords
        assert checked["f1"].dtype == np.float32

    def test_nan_passes(self):
        """Undefined values are NaN and pass."""
        check_rows(rows(f1=("image", [np.nan, 1.0, 2.0])), 3, NAME)

    def test_a_dimension_of_ones_own_needs_a_coordinate(self):
        """A new dimension passes when a coordinate says what its positions mean."""
        own = rows(share=(("image", "threshold"), np.ones((3, 2)))).assign_coords(threshold=[0.2, 0.5])

        assert check_rows(own, 3, NAME).sizes["threshold"] == 2

    @pytest.mark.parametrize(
        ("table", "message"),
        [
            (None, "rows has the wrong type; found: NoneType; wanted: xarray.Dataset"),
            (np.ones(3), r"found: ndarray of shape \(3,\)"),
            (rows(f1=("image", np.ones(2))), "one row per image.*found: 2 rows; wanted: 3"),
            (rows(f1=(("channel", "image"), np.ones((2, 3)))), "first dimension.*found.*channel.*image"),
            (rows(f1=((), 1.0)), "first dimension of rows variable 'f1' is not image"),
            (
                rows(f1=("image", [1, 2, 3])),
                "not floating point; found: int64.*cast to float; undefined is NaN",
            ),
            (rows(f1=("image", [True] * 3)), "found: bool"),
            (rows(f1=("image", np.array([1.0, "a", None], object))), "found: object"),
            (rows(f1=("image", [1.0, np.inf, -np.inf])), "'f1' has infinite values; found: 2 of 3"),
            (rows(f1=(("image", "channels"), np.ones((3, 2)))), "found: 'channels'; wanted: 'channel'"),
            (rows(f1=(("image", "y", "x"), np.ones((3, 2, 2)))), "found: '[xy]'; wanted: '(row|column)'"),
            (rows(f1=(("image", "dim_1"), np.ones((3, 2)))), "unknown dimension; found: 'dim_1'.*or give"),
            (rows(**{"f1/mean": ("image", np.ones(3))}), "a name that cannot be stored; found: 'f1/mean'"),
            (rows(f1=("image", np.ones(3), {"unit": {1, 2}})), "attribute 'unit' of rows variable 'f1'"),
            (rows().assign_attrs(seen=float("nan")), "attribute 'seen' of rows is not JSON"),
            (rows().assign_attrs(seen=np.float32(1)), "found: float32.*remedy: convert with float"),
            (rows().assign_coords(channel=np.array([None, "b"], object)), "'channel' cannot be stored"),
            (rows().assign_coords(channel=[1j, 2j]), "found: complex128"),
            (rows().assign_coords(area=("image", [1, 2, 3])), "'area' differs from batch to batch"),
        ],
    )
    def test_one_line_names_what_is_wrong(self, table, message):
        """Each way to break the contract has a message with plugin, variable, found and wanted."""
        with pytest.raises(SchemaError, match=message) as caught:
            check_rows(table, 3, NAME)

        assert str(caught.value).startswith(NAME)
        assert "\n" not in str(caught.value)

    def test_a_table_that_is_too_large_is_not_read(self):
        """Two gigabytes are refused by their announced size alone."""
        huge = np.broadcast_to(np.float32(1), (3, 512, 600, 600))

        with pytest.raises(SchemaError, match=r"rows is too large; found: 2,109 MiB; wanted: at most 1,024"):
            check_rows(rows(maps=(("image", "channel", "row", "column"), huge)), 3, NAME)

    def test_a_multi_index_is_refused(self):
        """An index of pairs, which Zarr cannot hold, is refused."""
        index = pd.MultiIndex.from_product([["a"], ["b", "c"]], names=("one", "two"))
        table = rows().assign_coords(xr.Coordinates.from_pandas_multiindex(index, "channel"))

        with pytest.raises(
            SchemaError, match="coordinate 'channel' cannot be stored; found: object of tuple"
        ):
            check_rows(table, 3, NAME)

    def test_what_passes_can_be_written_without_a_warning(self, tmp_path):
        """Rows that passed go to Zarr 3 and come back, text coordinates and attributes included."""
        table = check_rows(rows().assign_coords(channel=["ä", "b"]).assign_attrs(unit="1"), 3, NAME)
        table.to_zarr(tmp_path / "data.zarr", zarr_format=3, consolidated=False)

        with xr.open_zarr(tmp_path / "data.zarr", consolidated=False) as found:
            assert list(found["channel"].values) == ["ä", "b"]
            assert found.attrs == {"unit": "1"}

    @settings(deadline=None, max_examples=40)
    @given(st.integers(1, 4), st.integers(1, 4), st.sampled_from(["f2", "f4", "f8"]))
    def test_any_floating_rows_pass(self, images, channels, dtype):
        """Rows of any size and floating type pass unchanged."""
        values = np.arange(images * channels, dtype=dtype).reshape(images, channels)

        checked = check_rows(xr.Dataset({"a": (("image", "channel"), values)}), images, NAME)

        np.testing.assert_array_equal(checked["a"].values, values)


class TestPartialAndSummary:
    def test_sums_and_counts_pass(self):
        """Numbers without the dimension image can be added up."""
        table = xr.Dataset({"count": ((), 3), "sum": ("channel", [1.0, 2.0])})

        assert check_partial(table, NAME).identical(table)

    @pytest.mark.parametrize(
        ("table", "message"),
        [
            (rows(), "partial has the dimension image.*Observation.rows"),
            (xr.Dataset({"sum": ("channel", [1.0, np.nan])}), "spoil the sum.*found: 1 of 2 values"),
            (xr.Dataset({"sum": ("channel", [1.0, np.inf])}), "infinite values"),
            (xr.Dataset({"best": ("channel", ["a", "b"])}), "cannot be added up; found: object"),
            (xr.Dataset({"any": ((), True)}), "cannot be added up; found: bool"),
        ],
    )
    def test_a_partial_that_cannot_be_added(self, table, message):
        """What would spoil a sum over batches is refused."""
        with pytest.raises(SchemaError, match=message):
            check_partial(table, NAME)

    def test_a_summary_may_hold_text_and_truth(self, tmp_path):
        """Summaries hold numbers, booleans and text, and can be written."""
        table = xr.Dataset({"best": ("layer", ["conv1", "conv2"]), "alive": ("layer", [True, False])})

        checked = check_summary(table, NAME)

        checked.to_zarr(tmp_path / "data.zarr", zarr_format=3, consolidated=False)
        assert checked["best"].dtype == object

    @pytest.mark.parametrize(
        ("values", "message"),
        [([{"a": 1}, {}], "found: object of dict"), ([1.0, np.inf], "infinite"), ([1j, 2j], "complex128")],
    )
    def test_a_summary_that_cannot_be_stored(self, values, message):
        """Python objects, complex and infinite numbers are refused."""
        with pytest.raises(SchemaError, match=message):
            check_summary(xr.Dataset({"a": ("layer", values)}), NAME)


class TestObservation:
    def test_none_is_an_empty_observation(self):
        """A probe that says nothing about a batch is fine."""
        assert check_observation(None, 3, NAME) == Observation()

    def test_both_tables_are_checked(self):
        """Rows and partial of an observation are each checked."""
        with pytest.raises(SchemaError, match="partial has the dimension image"):
            check_observation(Observation(rows(), rows()), 3, NAME)
        with pytest.raises(SchemaError, match="found: 3 rows"):
            check_observation(Observation(rows()), 2, NAME)

    def test_a_bare_dataset_is_refused(self):
        """A dataset in place of an observation is refused with what was wanted."""
        with pytest.raises(SchemaError, match="observe returned the wrong type; found: Dataset"):
            check_observation(rows(), 3, NAME)


class TestRelevance:
    def test_maps_become_float32_without_history(self):
        """Maps of any floating type come back as float32 that carry no graph."""
        maps = torch.ones(2, 3, 4, dtype=torch.float64, requires_grad=True) * 2

        checked = check_relevance(maps, (2, 3, 4), NAME)

        assert (checked.dtype, checked.requires_grad) == (torch.float32, False)

    @pytest.mark.parametrize(
        ("maps", "message"),
        [
            (np.ones((2, 3, 4)), "found: ndarray of shape"),
            (torch.ones(2, 4, 3), r"found: \(2, 4, 3\); wanted: \(image, row, column\) = \(2, 3, 4\)"),
            (torch.ones(2, 1, 3, 4), "wrong shape"),
            (torch.ones(2, 3, 4, dtype=torch.int64), "not floating point; found: int64"),
            (torch.full((2, 3, 4), torch.inf), "infinite values; found: 24 of 24"),
            (torch.full((2, 3, 4), 1e300, dtype=torch.float64), "infinite values"),
        ],
    )
    def test_wrong_maps_are_named(self, maps, message):
        """Type, shape and infinite values are refused in one line."""
        with pytest.raises(SchemaError, match=message):
            check_relevance(maps, (2, 3, 4), NAME)

    def test_nan_passes(self):
        """Undefined relevance is NaN."""
        assert check_relevance(torch.full((1, 2, 2), torch.nan), (1, 2, 2), NAME).isnan().all()


class TestConclusionAndSections:
    @pytest.mark.parametrize(
        ("finding", "message"),
        [
            ("best", "conclude returned the wrong type; found: str; wanted: Finding"),
            (Finding("a", "great", "It is."), "unknown verdict; found: 'great'; wanted: ok, notice, warning"),
            (Finding("", "ok", "It is."), "no name or no statement"),
            (Finding("a", "ok", ""), "no name or no statement"),
            (Finding("a", "ok", "It is.", effect=float("inf")), "infinite effect"),
            (Finding("a", "ok", "It is.", interval=(2.0, 1.0)), r"wrong order; found: \(2.0, 1.0\)"),
            (Finding("a", "ok", "It is.", interval=(1.0,)), "wrong order"),
        ],
    )
    def test_a_finding_that_says_nothing(self, finding, message):
        """Findings without words, with unknown verdicts or impossible numbers are refused."""
        with pytest.raises(SchemaError, match=message):
            check_conclusion(Conclusion(xr.Dataset(), (finding,)), NAME)

    def test_two_findings_of_one_name(self):
        """Names of findings are unique, so that a program can find one."""
        twin = Finding("a", "ok", "It is.")

        with pytest.raises(SchemaError, match="two findings share a name"):
            check_conclusion(Conclusion(xr.Dataset(), (twin, twin)), NAME)

    def test_a_good_conclusion_passes(self):
        """A summary with findings passes; an interval may be equal."""
        findings = (Finding("a", "ok", "It is.", effect=1.0, interval=(1.0, 1.0)),)

        assert check_conclusion(Conclusion(xr.Dataset(), findings), NAME).findings == findings

    def test_an_undefined_number_is_none(self):
        """NaN as effect or interval is none, as a file of findings keeps it."""
        nan = float("nan")
        findings = (
            Finding("a", "ok", "It is.", effect=nan, interval=(nan, nan)),
            Finding("b", "ok", "It is.", effect=2.0, interval=(nan, 3.0)),
        )
        first, second = check_conclusion(Conclusion(xr.Dataset(), findings), NAME).findings

        assert (first.effect, first.interval) == (None, None)
        assert (second.effect, second.interval) == (2.0, None)

    def test_choices_and_scores_of_maps_pass(self):
        """Choices and scores of maps come out as they went in."""
        scores = {"Dice": scored(np.ones((2, 1)))}

        checked = check_conclusion(Conclusion(xr.Dataset(), (), (CHOICE,), scores), NAME)

        assert checked.choices == (CHOICE,)
        assert checked.map_scores["Dice"].identical(scores["Dice"])

    @pytest.mark.parametrize(
        ("choices", "message"),
        [
            (({"value": 1},), "wrong type; found: dict; wanted: Choice"),
            ((CHOICE, CHOICE), "two choices share a name"),
            ((replace(CHOICE, what=""),), "no name, no measure or no split"),
            ((replace(CHOICE, value=np.float32(1)),), "value that cannot be kept; found: float32"),
            ((replace(CHOICE, value=float("inf")),), "value that is not finite"),
            ((replace(CHOICE, score=float("nan")),), "has no score; found: nan"),
            (
                (replace(CHOICE, masks=7),),
                "impossible counts; found: 3 candidates, 4 images, 7 masks",
            ),
            ((replace(CHOICE, candidates=0),), "impossible counts"),
            ((replace(CHOICE, seal=frozenset()),), "sealed against nothing"),
        ],
    )
    def test_a_choice_that_says_nothing(self, choices, message):
        """A choice without words, with impossible numbers or without a seal is refused on one line."""
        with pytest.raises(SchemaError, match=message) as caught:
            check_conclusion(Conclusion(xr.Dataset(), (), choices), NAME)

        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("scores", "message"),
        [
            ([1.0], "map_scores returned the wrong type; found: list"),
            ({"": xr.DataArray(0.0)}, "has no name"),
            ({"Dice": np.ones((2, 1))}, "wrong type; found: ndarray"),
            (
                {"Dice": xr.DataArray(np.ones((2, 1)), dims=("image", "explainer"))},
                "the coordinate explainer",
            ),
            ({"Dice": xr.DataArray(np.ones(2), dims="image")}, r"wrong dimensions; found: \('image',\)"),
            ({"Dice": scored(np.ones((2, 1), int))}, "not floating point; found: int64"),
            ({"Dice": scored(np.full((2, 1), np.inf))}, "infinite"),
        ],
    )
    def test_scores_of_maps_that_no_gallery_can_show(self, scores, message):
        """Scores that are not by image and explainer, or not numbers, are refused."""
        with pytest.raises(SchemaError, match=message):
            check_conclusion(Conclusion(xr.Dataset(), (), (), scores), NAME)

    @pytest.mark.parametrize("conclusion", [None, xr.Dataset()])
    def test_anything_else_is_no_conclusion(self, conclusion):
        """None or a bare dataset is refused."""
        with pytest.raises(SchemaError, match="conclude returned the wrong type"):
            check_conclusion(conclusion, NAME)

    @pytest.mark.parametrize(
        ("sections", "message"),
        [
            (None, "found: NoneType; wanted: an iterable of Section"),
            (Section("where", "Maps", ()), "found: Section; wanted: an iterable"),
            (["Maps"], "found: str"),
            ([Section("why", "Maps", ())], "answers no question.*found: 'why'; wanted: verdict, where"),
            ([Section("where", "Maps", ("text",))], "block of the wrong type; found: str"),
        ],
    )
    def test_wrong_sections_are_named(self, sections, message):
        """Sections of the wrong type or question are refused."""
        with pytest.raises(SchemaError, match=message):
            check_sections(sections, NAME)

    def test_a_generator_of_sections_passes(self):
        """Sections may be generated."""
        section = Section("where", "Maps", (Text("Here."),))

        assert check_sections((s for s in [section]), NAME) == (section,)


class TestTablesOfSections:
    def frame(self):
        """Make a frame of two rows."""
        return pd.DataFrame({"F1": [0.5, 0.25]})

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            ({"details": {2: Gallery((), "")}}, "details of a row .*found: 2; wanted: positions from 0 to 1"),
            ({"details": {-1: Gallery((), "")}}, "details of a row .*found: -1"),
            ({"details": {0: Text("no")}}, "details of the wrong type; wanted: Gallery"),
            ({"meanings": {"f1": "mean"}}, "meaning of a column .*found: 'f1'; wanted: F1"),
        ],
    )
    def test_what_belongs_to_no_row_or_column(self, more, message):
        """Details of rows and meanings of columns that the table does not have are refused."""
        with pytest.raises(SchemaError, match=message):
            check_sections([Section("channels", "S", (Table(self.frame(), "t", **more),))], NAME)

    def test_details_and_meanings_pass(self):
        """Positions may be whole numbers of numpy."""
        table = Table(self.frame(), "t", {np.int64(1): Gallery((), "")}, {"F1": "mean"})
        sections = (Section("channels", "S", (table,)),)

        assert check_sections(sections, NAME) == sections


class TestChannelColumn:
    def column(self, values, **more):
        """Make a column with a meaning."""
        return ChannelColumn("F1", values, **{"meaning": "mean F1", **more})

    @pytest.mark.parametrize(
        ("values", "wanted"),
        [
            ([1, 2, 3], (1, 2, 3)),
            (range(3), (0, 1, 2)),
            (np.array([1.5, 2.5, 3.5], np.float32), (1.5, 2.5, 3.5)),
            (torch.tensor([1.0, 2.0, 3.0]), (1.0, 2.0, 3.0)),
            (xr.DataArray([True, False, True], dims="channel"), (True, False, True)),
            ([np.float64(0.5), np.int64(2), 1], (0.5, 2, 1)),
            (["a", "", "b"], ("a", "", "b")),
            (["a", float("nan"), "b"], ("a", "", "b")),
            (["", "", ""], ("", "", "")),
        ],
    )
    def test_values_become_plain(self, values, wanted):
        """Arrays, tensors and numpy scalars become Python values; undefined among texts is empty."""
        checked = check_channel_column(self.column(values), 3, NAME).values

        assert checked == wanted
        assert {type(value) for value in checked} <= {int, float, bool, str}

    @pytest.mark.parametrize("values", [[1.0, "", 2], [float("nan"), True, ""]])
    def test_an_empty_text_is_undefined_among_numbers(self, values):
        """Among numbers and truth values both ways to say undefined become NaN."""
        checked = check_channel_column(self.column(values), 3, NAME).values

        assert sum(value != value for value in checked) == sum(v in {"", "nan"} for v in map(str, values))

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ([1.0, 2.0], "wrong length; found: 2; wanted: 3 values, one per channel"),
            ([[1.0], [2.0], [3.0]], "cannot stand in one column; found: list;"),
            ([1.0, "a", 2.0], "found: number and text"),
            ([True, 1, 0], "found: number and truth value"),
            ([1.0, float("inf"), 2.0], "found: infinity and number"),
            ([float("-inf")] * 3, "found: infinity;"),
            ([1.0, None, 2.0], "found: NoneType and number; wanted: numbers, texts or truth values; NaN"),
            ([1j, 2j, 3j], "found: complex"),
            ("abc", "values returned the wrong type; found: str"),
            (5, "values returned the wrong type; found: int"),
            ({1: 2}, "values returned the wrong type; found: dict"),
        ],
    )
    def test_values_that_make_no_column(self, values, message):
        """One value per channel, finite, of one kind."""
        with pytest.raises(SchemaError, match=message):
            check_channel_column(self.column(values), 3, NAME)

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            ({"meaning": ""}, "does not say what it means"),
            ({"meaning": " "}, "does not say what it means"),
            ({"meaning": None}, "does not say what it means"),
            ({"order": float("nan")}, "has no order; found: nan"),
            ({"order": "first"}, "has no order; found: 'first'"),
        ],
    )
    def test_a_column_that_says_nothing(self, more, message):
        """Meaning and order are needed."""
        with pytest.raises(SchemaError, match=message):
            check_channel_column(self.column([1, 2, 3], **more), 3, NAME)


def test_every_table_uses_the_common_dimensions():
    """The documented tables use the nine dimension names, and shard for sums."""
    from wsss_probe.schema import DIMENSIONS

    used = {d for table in TABLES.values() for variable in table.values() for d in variable.dims}

    assert used <= {*DIMENSIONS, "shard"}

"""Columns of the passport: every summary that is there, joined by channel, with n and control."""

import numpy as np
import pytest
import xarray as xr
from wsss_probe_channels.columns import MANY, Columns

from wsss_probe.testing import ChannelColumnsSuite, make_scene, run_in_memory

LAYER = "features"
CHANNELS = 8
TARGETS = ["gland", "not gland"]
NAN = float("nan")


def numbers(*shape, seed=0):
    """Random numbers in [0, 1)."""
    return np.random.default_rng(seed).random(shape)


def named(names):
    """A coordinate of texts."""
    return np.array(names, dtype=object)


def by_channel_and_class(*variables, classes=TARGETS, seed=0):
    """A table of random variables (channel, class)."""
    found = {
        name: (("channel", "class"), numbers(CHANNELS, len(classes), seed=seed + at))
        for at, name in enumerate(variables)
    }
    return xr.Dataset(found, coords={"class": named(classes), "channel": np.arange(CHANNELS)})


def f1_table(classes=TARGETS):
    """What channel-F1 concludes, beside two controls of which one is dead."""
    table = by_channel_and_class("mean_f1", "low", "high", "rank", classes=classes)
    return table.assign(
        present=("class", np.arange(len(classes)) + 40),
        all_ones_f1=("class", np.full(len(classes), 0.25)),
        control_top_f1=(("control", "class"), np.array([[0.4] * len(classes), [0.9] * len(classes)])),
        control_alive=("control", np.array([True, False])),
    )


def weights(kind="head"):
    """What head-weights concludes for three classes and eight channels."""
    return xr.Dataset(
        {
            "weight": (("class", "channel"), numbers(3, CHANNELS) - 0.5),
            "weight_class": ("channel", np.array([0, 1, 2, -1, 0, 1, 2, -1])),
            "sign": ("channel", named(["+ − 0"] * CHANNELS)),
        },
        coords={"class": named(["a", "b", "c"])},
        attrs={"kind": kind, "n": 12 if kind == "effective" else 0},
    )


def tables():
    """A summary of every analysis that the columns read."""
    census = {"dead": [True] + [False] * 7, "constant": [False] * 8, "saturated": [False, True] + [False] * 6}
    return {
        f"channel-f1@{LAYER}": f1_table(),
        f"channel-f1-fine@{LAYER}": by_channel_and_class("mean_f1", seed=7),
        f"channel-null@{LAYER}": by_channel_and_class("q_shift").assign_attrs(draws=199, images=40),
        f"channel-null-permuted@{LAYER}": by_channel_and_class("q_permuted"),
        f"head-weights@{LAYER}": weights(),
        f"dissect@{LAYER}": by_channel_and_class("iou", seed=3).assign_attrs(images=40),
        f"ablation@{LAYER}": by_channel_and_class("logit_zero", classes=["a", "b", "c"]).assign(
            accuracy_zero=("channel", numbers(CHANNELS)), n=16
        ),
        f"invariance@{LAYER}": xr.Dataset(
            {
                "iou": (("channel", "transform"), numbers(CHANNELS, 3)),
                "layer_iou": ("transform", np.array([0.4, 0.5, 0.6])),
                "control_iou": (("control", "transform"), np.array([[0.1, 0.2, 0.3], [0.7, 0.8, 0.9]])),
                "control_alive": ("control", np.array([True, False])),
            },
            attrs={"moved": 20},
        ),
        f"census@{LAYER}": xr.Dataset(
            {name: ("channel", np.array(values)) for name, values in census.items()}
            | {
                "duplicate_of": ("channel", np.array([-1, 0, -1, -1, 2, -1, -1, -1])),
                "sparsity": ("channel", numbers(CHANNELS)),
            },
            attrs={"images": 40, "duplicate": 0.99},
        ),
    }


def said(given):
    """Columns of the layer by name, given some summaries."""
    run = run_in_memory((), make_scene(), controls=0, summaries=given)
    return {column.name: column for column in Columns().columns(run, LAYER)}


class TestContract(ChannelColumnsSuite):
    """The columns keep the contract."""

    columns = Columns()
    tables = tables()


class TestAllTogether:
    def test_every_analysis_has_its_columns_in_order(self):
        """Evidence of outlining comes first, then other classes, weights, ablation, invariance, census."""
        columns = sorted(said(tables()).values(), key=lambda column: column.order)

        assert [column.name for column in columns] == [
            *(form.format("gland") for form in F1_COLUMNS),
            *(form.format("not gland") for form in F1_COLUMNS),
            "NetDissect IoU", "NetDissect class",
            "weight class", "sign", "weight a", "weight b", "weight c",
            "without: a", "without: b", "without: c", "without: accuracy",
            "invariance", "state", "sparsity", "duplicate of",
        ]  # fmt: skip

    def test_every_meaning_names_its_control_or_says_that_there_is_none(self):
        """Numbers that are compared say with what; n stands where the summary tells it."""
        columns = said(tables())
        silent = {"rank", "F1 gland low", "F1 gland high", "NetDissect class", "weight class", "sign"}
        for name, column in columns.items():
            if not any(name.startswith(word) for word in (*silent, "F1 not gland low", "F1 not gland high")):
                assert "ontrol" in column.meaning, name
        assert "n = 40 images with the class" in columns["F1 gland"].meaning
        assert "n = 16" in columns["without: a"].meaning

    def test_other_layers_are_left_alone(self):
        """Summaries of another layer give no column of this one."""
        other = {name.replace(LAYER, "other"): table for name, table in tables().items()}

        assert said(other) == {}

    @pytest.mark.parametrize("probe", sorted(tables()))
    def test_a_missing_variable_is_a_missing_column(self, probe):
        """Without any one of its variables a summary gives its other columns, and raises nothing."""
        whole = said(tables())
        for variable in tables()[probe].data_vars:
            fewer = tables()
            fewer[probe] = fewer[probe].drop_vars(variable)
            assert said(fewer).keys() <= whole.keys()
        assert said({probe: xr.Dataset()}) == {}


F1_COLUMNS = ("F1 {}", "F1 {} low", "F1 {} high", "rank {}", "fine F1 {}", "q moved {}", "q exchanged {}")


class TestValues:
    def test_each_class_has_its_own_column(self):
        """Columns by class hold that class's values, whatever the order of dimensions."""
        given = tables()
        for name in (f"channel-f1@{LAYER}", f"head-weights@{LAYER}"):
            given[name] = given[name].transpose(..., "class").transpose("class", ...)
        columns = said(given)

        for name in TARGETS:
            wanted = f1_table()["mean_f1"].sel({"class": name}).values
            assert columns[f"F1 {name}"].values == wanted.tolist()
        assert columns["weight b"].values == weights()["weight"].sel({"class": "b"}).values.tolist()

    def test_controls_that_are_dead_do_not_count(self):
        """The range of the controls is that of the living ones."""
        columns = said(tables())

        assert (
            "Control: the best channel of 1 network that learned nothing, 0.4 to 0.4."
            in columns["F1 gland"].meaning
        )
        assert "0.2 to 0.2" in columns["invariance"].meaning
        assert "The layer's mean is 0.5." in columns["invariance"].meaning
        given = tables() | {
            f"channel-f1@{LAYER}": f1_table().assign(control_alive=("control", [False, False]))
        }
        assert "No living control." in said(given)["F1 gland"].meaning

    def test_dissection_takes_the_best_defined_class(self):
        """The best IoU is the largest that is defined; a channel without any has neither."""
        iou = np.array([[0.1, 0.4], [NAN, 0.2], [NAN, NAN], [0.5, NAN], *[[0.3, 0.3]] * 4])
        given = tables()
        given[f"dissect@{LAYER}"] = given[f"dissect@{LAYER}"].assign(iou=(("channel", "class"), iou))
        columns = said(given)

        np.testing.assert_array_equal(columns["NetDissect IoU"].values[:4], [0.4, 0.2, NAN, 0.5])
        assert columns["NetDissect class"].values[:4] == ["not gland", "not gland", "", "gland"]

    def test_ties_and_states_are_words(self):
        """A tie is called so; idle channels say in which way; a double names the channel it repeats."""
        columns = said(tables())

        assert columns["weight class"].values == ["a", "b", "c", "tie"] * 2
        assert columns["state"].values == ["dead", "saturated", *[""] * 6]
        np.testing.assert_array_equal(columns["duplicate of"].values, [NAN, 0, NAN, NAN, 2, NAN, NAN, NAN])

    def test_effective_weights_are_named_as_such(self):
        """Weights that were averaged from gradients are not called weights of a head."""
        columns = said({f"head-weights@{LAYER}": weights("effective")})

        assert {"effective weight a", "effective weight class"} <= columns.keys()
        assert "mean over 12 images of the layer gradient" in columns["effective weight a"].meaning
        assert not [name for name in columns if name.startswith("weight")]

    def test_invariance_is_the_mean_over_motions(self):
        """Motions under which a channel is undefined are left out of its mean."""
        iou = np.array([[0.2, 0.4, NAN], [NAN, NAN, NAN], *[[0.3, 0.3, 0.3]] * 6])
        given = {f"invariance@{LAYER}": xr.Dataset({"iou": (("channel", "transform"), iou)})}

        found = said(given)["invariance"]
        np.testing.assert_allclose(found.values[:3], [0.3, NAN, 0.3])
        assert "No living control." in found.meaning


class TestManyClasses:
    @pytest.mark.parametrize(("number", "columns"), [(MANY, 7 * MANY), (MANY + 1, 8)])
    def test_only_the_leading_one_is_shown(self, number, columns):
        """Above so many classes one column holds the leading class's value, another its name."""
        classes = [f"class {i}" for i in range(number)]
        given = {
            f"channel-f1@{LAYER}": f1_table(classes),
            f"channel-f1-fine@{LAYER}": by_channel_and_class("mean_f1", classes=classes),
            f"channel-null@{LAYER}": by_channel_and_class("q_shift", classes=classes),
            f"channel-null-permuted@{LAYER}": by_channel_and_class("q_permuted", classes=classes),
        }

        assert len(said(given)) == columns

    def test_the_largest_f1_the_smallest_q_and_the_largest_weight_lead(self):
        """What leads is the best F1, the least q, and the weight or effect of the largest size."""
        classes = [f"class {i}" for i in range(MANY + 2)]
        values = np.linspace(-0.9, 0.5, CHANNELS * len(classes)).reshape(CHANNELS, -1)
        values[1, -1] = NAN
        values[2] = NAN
        table = xr.Dataset({"v": (("channel", "class"), values)}, coords={"class": named(classes)})
        columns = said(
            {
                f"channel-f1@{LAYER}": table.rename(v="mean_f1"),
                f"channel-null@{LAYER}": table.rename(v="q_shift"),
                f"head-weights@{LAYER}": table.rename(v="weight"),
            }
        )

        for header, best in {
            "F1 leading class": max,
            "q moved leading class": min,
            "weight leading class": lambda row: max(row, key=abs),
        }.items():
            for channel in (0, 1, 3, 7):
                row = [value for value in values[channel] if value == value]
                assert columns[header].values[channel] == best(row)
                at = values[channel].tolist().index(best(row))
                assert columns[f"{header}: which"].values[channel] == classes[at]
            assert np.isnan(columns[header].values[2])
            assert columns[f"{header}: which"].values[2] == ""

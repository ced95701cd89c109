"""Concepts over depth: what may be said, when not, and that the report shows what was measured."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import xarray as xr
from wsss_probe_concepts.vectors.along import images_along, spread
from wsss_probe_concepts.vectors.depth_figures import depth_curves, heatmap, stability_plot
from wsss_probe_concepts.vectors.depth_numbers import all_numbers, concept_table, fits_table
from wsss_probe_concepts.vectors.depth_probe import ConceptDepth
from wsss_probe_concepts.vectors.encoded import Cell, best_cell, correlations, encoded, strongest
from wsss_probe_concepts.vectors.panels import grid_layout
from wsss_probe_concepts.vectors.probe import Rcv

from wsss_probe import Figure, Gallery, Section, Table, Text
from wsss_probe.errors import UsageError
from wsss_probe.report.plots import encode_figure
from wsss_probe.report.text import number
from wsss_probe.schema import check_sections
from wsss_probe.testing import ProbeSuite, make_scene, run_in_memory

QUICK = Rcv(permutations=19, bootstraps=2)


def scene_with_concepts(images=12):
    """The usual scene with two concepts."""
    scene = make_scene(images=images)
    values = np.arange(images, dtype=float)
    return scene.with_concepts({"a/one": values, "a/two": -(values**2)})


def summaries(scene, controls=1):
    """What rcv concludes for a scene."""
    run = run_in_memory((), scene, controls=controls)
    return {probe.name: run.concluded(probe).summary for probe in QUICK.split(scene.survey)}


class TestConceptDepthContract(ProbeSuite):
    """The probe conforms to the contract, with the summaries of the scene that it is given."""

    probe = ConceptDepth()
    tables = summaries(scene_with_concepts())

    def scene(self):
        """Make images with concepts."""
        return scene_with_concepts()

    def run(self, scene, controls=1):
        """Conclude rcv for this scene first."""
        return run_in_memory((), scene, controls=controls, summaries=summaries(scene, controls))


def finding(conclusion, name):
    """The finding of this name."""
    return {finding.name: finding for finding in conclusion.findings}[name]


# -- verdicts ------------------------------------------------------------------------------------


class TestVerdict:
    rcv = Rcv(permutations=199, bootstraps=2)

    def test_a_learned_concept_is_ok(self, planted, conclude):
        """Significant, interval above 0 and the living control, forty groups: a verdict with its numbers."""
        scene = planted()
        _, conclusion = conclude(scene.run(), self.rcv)
        best, learned = finding(conclusion, "best-concept"), finding(conclusion, "learned-concepts")
        cell = conclusion.summary.sel(
            layer=scene.late, network="audited", model="ridge", concept="planted/size"
        )

        assert best.verdict == learned.verdict == "ok"
        assert "'planted/size' is encoded best, at alpha" in best.statement
        assert best.effect == float(cell["r2_held"]) > 0.9
        assert best.interval == (float(cell["r2_low"]), float(cell["r2_high"]))
        assert (best.n, best.groups, best.control) == (120, 40, "shuffled-0")
        assert "1 of 3 concepts are encoded" in learned.statement
        assert learned.effect == 1

    @pytest.mark.parametrize(
        ("case", "word"),
        [
            ("no control", "no control was run, no verdict"),
            ("dead control", "control degenerate, no verdict"),
            ("control as good", "not above all 1 control"),
            ("nine groups", "no verdict on 9 groups"),
            ("not testable", "not testable here: the AUC is low"),
        ],
    )
    def test_without_any_one_condition_there_is_no_verdict(self, case, word, planted, conclude, layers_with):
        """Each condition alone turns the verdict into a notice that says which it is."""
        scene = planted(groups=9 if case == "nine groups" else 40)
        late = layers_with["signs"][1]
        controls = {
            "no control": [],
            "dead control": [scene.control(dead=(scene.early, scene.late))],
            "control as good": [scene.control(late=late)],
        }.get(case, [scene.control()])
        untestable = "the AUC is low" if case == "not testable" else ""
        _, conclusion = conclude(scene.run(controls, not_testable=untestable), self.rcv)
        for name in ("best-concept", "learned-concepts"):
            assert finding(conclusion, name).verdict == "notice"
        assert word in finding(conclusion, "best-concept").statement

    def test_a_dead_control_counts_for_nothing(self, planted, conclude, layers_with):
        """A dead control that would be as good does not spoil a verdict that a living one allows."""
        scene = planted()
        dead = scene.control("shuffled-1", late=layers_with["signs"][1], dead=(scene.early, scene.late))
        _, conclusion = conclude(scene.run([scene.control(), dead]), self.rcv)
        best = finding(conclusion, "best-concept")

        assert best.verdict == "ok"
        assert best.control == "shuffled-0"
        assert "1 degenerate and left out" in best.statement

    def test_a_dead_layer_of_a_control_counts_for_nothing(self, planted, conclude, layers_with):
        """A control that would be as good at a layer which is dead there is judged by its other layers."""
        scene = planted()
        control = scene.control(late=layers_with["signs"][1], dead=(scene.late,))
        _, conclusion = conclude(scene.run([control]), self.rcv)

        assert finding(conclusion, "best-concept").verdict == "ok"
        assert finding(conclusion, "best-concept").control == "shuffled-0"

    def test_a_control_is_taken_at_its_best_layer(self, planted, conclude, layers_with):
        """A control that encodes the concept at another layer than the audited network stands against it."""
        scene = planted()
        swapped = scene.control(late=layers_with["signs"][1])
        early_only = replace(swapped, dead=frozenset({scene.early}))
        _, conclusion = conclude(scene.run([early_only]), self.rcv)

        assert "at its best layer" in finding(conclusion, "best-concept").statement
        assert finding(conclusion, "best-concept").verdict == "notice"

    @pytest.mark.parametrize("permutations", [0, 3])
    def test_without_a_test_that_can_reject_nothing_is_encoded(self, permutations, planted, conclude):
        """An interval above 0 alone is no verdict: q must be below 0.05, which 3 permutations cannot give."""
        scene = planted()
        _, conclusion = conclude(scene.run(), Rcv(permutations=permutations, bootstraps=0))
        best = finding(conclusion, "best-concept")

        assert best.verdict == "notice"
        assert best.interval[0] > 0.8
        assert "not significant" in best.statement
        assert "0 of 3 concepts are encoded" in finding(conclusion, "learned-concepts").statement

    def test_nothing_is_encoded_where_nothing_is(self, planted, conclude):
        """Noise alone gives no concept that is encoded, though some cell is the best."""
        scene = planted()
        noise = {name: values for name, values in scene.concepts.items() if name.startswith("noise")}
        _, conclusion = conclude(scene.run(scene=scene.scene.with_concepts(noise)), self.rcv)
        best = finding(conclusion, "best-concept")

        assert best.verdict == "notice"
        assert "nothing is shown to be encoded" in best.statement

    def test_in_sample_numbers_decide_nothing(self, planted, conclude):
        """With as many channels as half the images, noise fits well in sample and no verdict follows."""
        scene = planted(images=16, groups=16)
        noise = {"noise/one": scene.concepts["noise/one"]}
        run, conclusion = conclude(scene.run(scene=scene.scene.with_concepts(noise)), self.rcv)
        table = run.summary("concept-depth").sel(network="audited", model="ols", concept="noise/one")

        assert float(table["r2_train"].max()) > float(table["r2_held"].max()) + 0.2
        assert finding(conclusion, "best-concept").verdict == "notice"
        assert finding(conclusion, "best-concept").effect < 0.2
        trap = finding(conclusion, "in-sample-trap")
        assert "p/(n − 1) = 0." in trap.statement
        assert trap.effect == pytest.approx(float((table["r2_train"] - table["r2_held"]).max()))


class TestWarnings:
    rcv = Rcv(permutations=199, bootstraps=0)

    def test_no_concepts_give_one_notice_that_says_what_to_do(self, planted, conclude):
        """An empty table, one notice and no section."""
        scene = planted()
        run, conclusion = conclude(scene.run(scene=scene.scene.with_concepts({})))

        assert [found.name for found in conclusion.findings] == ["no-concepts"]
        assert "--concepts" in conclusion.findings[0].statement
        assert not conclusion.summary.data_vars
        assert not tuple(ConceptDepth().sections(conclusion.summary, run))

    def test_what_is_not_estimable_is_counted(self, planted, conclude):
        """Cells with a reason are counted by model with the reason; the others are as before."""
        scene = planted()
        odd = scene.scene.with_concepts({**scene.concepts, "a/constant": np.ones(120)})
        _, conclusion = conclude(scene.run(scene=odd), self.rcv)

        assert "ridge 2 (2 × constant)" in finding(conclusion, "not-estimable").statement
        assert finding(conclusion, "best-concept").verdict == "ok"

    def test_nothing_estimable_is_said(self, planted, conclude):
        """Constants alone give a notice and a table of reasons."""
        scene = planted()
        run, conclusion = conclude(scene.run(scene=scene.scene.with_concepts({"a/b": np.ones(120)})))

        assert "No concept vector is estimable" in finding(conclusion, "best-concept").statement
        sections = check_sections(ConceptDepth().sections(conclusion.summary, run), "concept-depth")
        assert [type(block) for block in sections[0].blocks] == [Text, Table]

    def test_collinear_concepts_are_named_in_pairs(self, planted, conclude):
        """A concept and its double are named together, once, with their correlation; noise is not."""
        scene = planted()
        double = -3 * scene.concepts["planted/size"] + 0.01 * np.random.default_rng(9).normal(size=120)
        given = scene.scene.with_concepts({**scene.concepts, "planted/double": double})
        _, conclusion = conclude(scene.run(scene=given), self.rcv)
        statement = finding(conclusion, "collinear-concepts").statement

        assert "2 of 4 concepts" in statement
        assert "'planted/size' with 'planted/double' (r = -1.00)" in statement
        assert statement.count("(r = ") == 1
        assert "noise" not in statement

    def test_independent_concepts_are_not_called_collinear(self, planted, conclude):
        """Noise and the planted concept have no finding on collinearity or stability."""
        scene = planted()
        _, conclusion = conclude(scene.run(), self.rcv)

        assert not {"collinear-concepts", "unstable-directions"} & {f.name for f in conclusion.findings}

    def test_unstable_directions_of_encoded_concepts_are_named(self, planted, conclude):
        """With a limit below the angle between folds, an encoded concept is named with it."""
        scene = planted()
        run, conclusion = conclude(scene.run(), self.rcv, ConceptDepth(unstable=1e-4))
        unstable = finding(conclusion, "unstable-directions")
        angle = run.summary("concept-depth")["angle_mean"].sel(
            model="ridge", concept="planted/size", layer=scene.late
        )

        assert unstable.effect == pytest.approx(float(angle))
        assert "'planted/size' at alpha" in unstable.statement

    @pytest.mark.parametrize("wrong", [{"shown": 0}, {"unstable": -1.0}, {"collinear": 0.0}])
    def test_limits_without_a_meaning_are_refused(self, wrong):
        """One clear line for each."""
        with pytest.raises(UsageError, match="concept-depth"):
            ConceptDepth(**wrong)


# -- the table -----------------------------------------------------------------------------------


def reference_q(p):
    """Benjamini and Hochberg by loops over a flat list, None where nothing was tested."""
    tested = sorted(value for value in p if value is not None)
    found = []
    for value in p:
        later = [
            other * len(tested) / (rank + 1)
            for rank, other in enumerate(tested)
            if value is not None and other >= value
        ]
        found.append(min(1.0, *later, 1.0) if later else None)
    return found


class TestTable:
    def test_layers_stand_in_the_order_of_execution(self, planted, conclude):
        """Not in the alphabet's: in the table, in the text and along every axis."""
        scene = planted()
        run, conclusion = conclude(scene.run())
        table = conclusion.summary
        assert table["layer"].values.tolist() == [scene.early, scene.late]
        cells = strongest(table, run.concepts["value"].values, 6)
        for figure in (depth_curves(table, cells, all_numbers(table)), heatmap(table)):
            assert figure.figure["layout"]["xaxis"]["ticktext"] == [scene.early, scene.late]
        section = next(iter(ConceptDepth().sections(table, run)))
        assert "zeta, alpha" in section.blocks[0].markdown

    def test_q_is_that_of_loops_over_all_cells(self, planted, conclude):
        """One family: every concept at every layer that was tested."""
        scene = planted()
        odd = scene.scene.with_concepts({**scene.concepts, "a/constant": np.ones(120)})
        _, conclusion = conclude(scene.run(scene=odd))
        p = conclusion.summary["p_value"].values.ravel()
        wanted = reference_q([None if np.isnan(value) else float(value) for value in p])
        found = [
            None if np.isnan(value) else float(value)
            for value in conclusion.summary["q_value"].values.ravel()
        ]

        assert found == pytest.approx(wanted)
        assert found.count(None) == 2

    def test_mean_and_standard_error_over_splits_are_those_of_loops(self, planted, conclude):
        """As the paper's figure 3 draws them, of held-out R²."""
        scene = planted()
        run, conclusion = conclude(scene.run())
        own = run.summary(f"rcv@{scene.late}")["r2_split"].sel(network="audited", model="ridge")
        for concept in scene.concepts:
            splits = own.sel(concept=concept).values.tolist()
            mean = sum(splits) / len(splits)
            error = (sum((s - mean) ** 2 for s in splits) / (len(splits) - 1)) ** 0.5 / len(splits) ** 0.5
            cell = conclusion.summary.sel(layer=scene.late, network="audited", model="ridge", concept=concept)
            assert len(splits) == 10
            assert float(cell["split_mean"]) == pytest.approx(mean)
            assert float(cell["split_error"]) == pytest.approx(error)

    def test_the_best_cell_is_an_encoded_one(self, planted, conclude):
        """A cell that is larger but not significant does not stand for the network."""
        scene = planted()
        _, conclusion = conclude(scene.run(), Rcv(permutations=199, bootstraps=0))
        table = conclusion.summary.copy(deep=True)
        table["r2_held"].loc[{"layer": scene.early, "concept": "noise/one", "network": "audited"}] = 0.999

        assert best_cell(table) == Cell(1, 0)

    @pytest.mark.parametrize(("variable", "value"), [("r2_low", -0.01), ("q_value", 0.05)])
    def test_encoded_needs_an_interval_above_0_and_a_q_below_5_percent(self, variable, value, shown):
        """Either alone, at its limit, is not enough."""
        table = shown.table.copy(deep=True)
        table["q_value"][:], table["r2_low"][:] = 0.01, 0.5
        assert encoded(table).all()
        table[variable][:] = value
        assert not encoded(table).any()

    def test_correlations_are_pearsons(self):
        """Over the images that both have; a constant has none."""
        random = np.random.default_rng(0)
        values = random.normal(size=(30, 3))
        values[3, 1], values[:, 2] = np.nan, 4.0
        kept = np.isfinite(values[:, 1])
        wanted = np.corrcoef(values[kept, 0], values[kept, 1])[0, 1]
        found = correlations(values)

        assert found[0, 1] == pytest.approx(wanted)
        assert np.isnan(found[:, 2]).all()

    def test_of_concepts_that_go_together_one_is_drawn(self, planted, conclude):
        """The double of a concept that is drawn already is left out, whatever its R²."""
        scene = planted()
        double = -3 * scene.concepts["planted/size"]
        given = scene.scene.with_concepts({**scene.concepts, "planted/double": double})
        run, conclusion = conclude(scene.run(scene=given))
        cells = strongest(conclusion.summary, run.concepts["value"].values, 6)
        names = [str(conclusion.summary["concept"].values[cell.concept]) for cell in cells]

        assert len({"planted/size", "planted/double"} & set(names)) == 1
        assert set(names) >= {"noise/one", "noise/two"}


# -- what is shown -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """A planted scene, its run with all summaries, the table over depth, and the cells to draw."""

    scene: object
    run: object
    table: object
    cells: object


@pytest.fixture(scope="module")
def shown(planted, conclude):
    """A run with a dead control that is as good, a living one that is not, and a further network."""
    scene = planted()
    signs = scene.scene.network[1]
    dead = scene.control("shuffled-1", late=signs, dead=(scene.early, scene.late))
    other = scene.control("pretrained", late=signs)
    run, conclusion = conclude(scene.run([scene.control(), dead], networks=[other]))
    cells = strongest(conclusion.summary, run.concepts["value"].values, 6)
    return Shown(scene, run, conclusion.summary, cells)


class TestFigures:
    def test_curves_are_held_out_solid_and_in_sample_dashed(self, shown):
        """Solid lines hold the ridge's held-out R² with its interval, dashed ones the in-sample R² of OLS."""
        table, cells = shown.table, shown.cells
        figure = depth_curves(table, cells, all_numbers(table)).figure
        first = [trace for trace in figure["data"] if trace["xaxis"] == "x"]
        named = {trace["name"]: trace for trace in first if trace.get("showlegend", True)}
        for network in ("audited", "pretrained"):
            own = table.sel(network=network, concept="planted/size")
            held = own.sel(model="ridge")
            solid, dashed = named[network], named[f"{network}, in-sample"]
            assert solid["y"] == held["r2_held"].values.tolist()
            assert solid["line"]["dash"] == "solid"
            np.testing.assert_allclose(
                solid["error_y"]["arrayminus"], (held["r2_held"] - held["r2_low"]).values
            )
            assert dashed["y"] == own["r2_train"].sel(model="ols").values.tolist()
            assert dashed["line"]["dash"] == "dash"
        assert named["noise alone, in-sample"]["line"]["dash"] == "dot"
        assert (
            named["noise alone, in-sample"]["y"]
            == table["noise_r2"].sel(concept="planted/size").values.tolist()
        )

    def test_the_band_is_of_living_controls(self, shown):
        """A dead control that reaches 0.9 does not widen the grey band."""
        table, cells = shown.table, shown.cells
        figure = depth_curves(table, cells, all_numbers(table)).figure
        band = [
            trace for trace in figure["data"] if trace["name"] == "controls (1)" and trace["xaxis"] == "x"
        ]
        living = table["r2_held"].sel(network="shuffled-0", model="ridge", concept="planted/size").values

        assert len(band) == 2
        for trace in band:
            np.testing.assert_allclose(trace["y"], living)

    def test_the_heatmap_marks_what_is_not_significant_and_what_is_not_estimable(self, planted, conclude):
        """Dots on cells without significance, crosses with the reason on those without a number."""
        scene = planted()
        odd = scene.scene.with_concepts({**scene.concepts, "a/constant": np.ones(120)})
        _, conclusion = conclude(scene.run(scene=odd), Rcv(permutations=199, bootstraps=0))
        figure = heatmap(conclusion.summary).figure
        cells, dots, crosses = figure["data"]
        rows = figure["layout"]["yaxis"]["ticktext"]
        marked = {(rows[y], x) for x, y in zip(dots["x"], dots["y"], strict=True)}

        assert ("planted/size", 1) not in marked
        assert {("planted/size", 0), ("noise/one", 0), ("noise/one", 1)} <= marked
        assert {(rows[y], x) for x, y in zip(crosses["x"], crosses["y"], strict=True)} == {
            ("a/constant", 0),
            ("a/constant", 1),
        }
        assert crosses["customdata"][0][2] == "constant"
        z = np.array(cells["z"], dtype=float)
        assert np.isnan(z[rows.index("a/constant")]).all()
        assert z[rows.index("planted/size"), 1] > 0.9

    def test_images_run_from_the_lowest_to_the_highest(self, shown):
        """Along the planted vector the images with the largest value stand last, and values are beside."""
        scene, run, table, cells = shown.scene, shown.run, shown.table, shown.cells
        gallery = images_along(table, run, cells[:1])[0]
        (title, pictures), values = gallery.rows[0], scene.concepts["planted/size"]
        order = [int(picture.label.removeprefix("image").removesuffix(".png")) for picture in pictures]

        assert title.startswith("planted/size at alpha")
        assert len(order) == 9
        assert (
            values[order[6:]].min()
            > np.quantile(values, 0.9)
            > np.quantile(values, 0.2)
            > values[order[:3]].max()
        )
        assert abs(np.median(values) - values[order[3:6]].mean()) < 0.3
        assert all(f"measured {number(values[at])}" in p.note for at, p in zip(order, pictures, strict=True))

    @pytest.mark.parametrize("count", [0, 1, 2, 4, 8, 9, 30])
    def test_no_image_is_shown_twice(self, count):
        """Few images are shown once each, lowest first; undefined ones never."""
        values = np.r_[np.random.default_rng(count).normal(size=count), np.nan]
        shown = spread(values)

        assert len(shown) == len(set(shown)) == min(count, 9)
        assert count not in shown
        assert np.all(np.diff(values[shown]) >= 0)

    def test_stability_shows_angle_and_cosine(self, shown):
        """Both panels hold the numbers of the table, in the order of the concepts drawn."""
        scene, table, cells = shown.scene, shown.table, shown.cells
        figure = stability_plot(table, cells)
        own = table.sel(model="ridge", concept="planted/size", layer=scene.late)

        assert figure.data["concept and layer"][0] == "planted/size at alpha"
        assert figure.data["mean angle [rad]"][0] == pytest.approx(float(own["angle_mean"]))
        assert figure.figure["data"][1]["x"][0] == pytest.approx(float(own["cosine_median"]))

    def test_all_numbers_are_there_to_download(self, shown):
        """One row per network, layer, concept and model, of controls ridge only; q beside the audited one."""
        table = shown.table
        frame = all_numbers(table)
        assert len(frame) == 2 * 2 * 3 * 3 + 2 * 2 * 3
        assert set(frame[frame["network"].str.startswith("shuffled")]["model"]) == {"ridge"}
        tested = frame[frame["q"].notna()]
        assert set(tested["network"]) == {"audited"}
        assert set(tested["model"]) == {"ridge"}
        row = frame.query("network == 'pretrained' and layer == 'alpha' and model == 'pca'").iloc[0]
        cell = table.sel(network="pretrained", layer="alpha", model="pca", concept=row["concept"])
        assert row["held-out R²"] == pytest.approx(float(cell["r2_held"]), abs=1e-6)

    def test_the_table_shows_held_out_beside_in_sample_and_controls(self, shown):
        """Its rows are the audited network's, strongest first, with the living controls' range."""
        table = shown.table
        told = concept_table(table)
        row = told.frame.iloc[0]
        own = table.sel(network="audited", layer="alpha", concept="planted/size")
        assert (row["concept"], row["layer"]) == ("planted/size", "alpha")
        assert row["held-out R²"] == float(own["r2_held"].sel(model="ridge"))
        assert row["in-sample R²"] == float(own["r2_train"].sel(model="ols"))
        living = float(table["r2_held"].sel(network="shuffled-0", layer="alpha", model="ridge")[0])
        assert row["controls"] == f"{living:.2f} to {living:.2f}"
        assert set(told.meanings) <= set(told.frame.columns)

    def test_standard_errors_are_those_of_statsmodels(self, shown):
        """The channels with the largest t of the shown fits, with the coefficients of plain statsmodels."""
        from statsmodels.api import OLS, add_constant

        scene, run, table, cells = shown.scene, shown.run, shown.table, shown.cells
        frame = fits_table(table, run, cells[:1])[0].frame
        features = run.pooled("alpha").values.astype(float)
        fit = OLS(scene.concepts["planted/size"], add_constant(features)).fit()
        row = frame.iloc[0]

        assert row["t"] == pytest.approx(fit.tvalues[1:][np.abs(fit.tvalues[1:]).argmax()], rel=1e-4)
        assert row["coefficient"] == pytest.approx(fit.params[1 + int(row["channel"])], rel=1e-4)

    def test_the_section_is_whole_and_harmless(self, planted, conclude):
        """Every block is there; names with markup stay names."""
        scene = planted()
        hostile = {"a/<b>*x*</b>": scene.concepts["planted/size"], "noise/one": scene.concepts["noise/one"]}
        run, conclusion = conclude(scene.run(scene=scene.scene.with_concepts(hostile), not_testable="*low*"))
        (section,) = check_sections(ConceptDepth().sections(conclusion.summary, run), "concept-depth")
        kinds = [type(block) for block in section.blocks]

        assert isinstance(section, Section)
        assert section.question == "concepts"
        assert kinds == [Text, Figure, Figure, Gallery, Figure, Table, Table]
        assert "\\*low\\*" in section.blocks[0].markdown
        for block in section.blocks:
            if isinstance(block, Figure):
                assert "<b>" not in repr(encode_figure(block).figure)

    def test_it_reads_what_was_stored(self, planted, conclude, tmp_path):
        """Summaries that went through Zarr say the same."""
        scene = planted()
        run, conclusion = conclude(scene.run())
        stored = {}
        for place, (name, table) in enumerate(run.summaries.items()):
            table.drop_attrs().to_zarr(tmp_path / str(place), consolidated=False)
            stored[name] = xr.open_zarr(tmp_path / str(place), consolidated=False).assign_attrs(table.attrs)
        again = replace(run, summaries=stored).concluded(ConceptDepth())

        assert [f.statement for f in again.findings] == [f.statement for f in conclusion.findings]


def test_names_of_layers_stand_at_the_bottom_panels_only():
    """In a grid of five panels the two upper left ones have no names along x, since others stand below."""
    layout = grid_layout(list("abcde"), {"title": "layer"}, {"title": "R²"})
    named = [layout[f"xaxis{number}"].get("showticklabels", True) for number in ("", 2, 3, 4, 5)]

    assert named == [False, False, True, True, True]
    assert "title" not in layout["xaxis"]
    assert layout["xaxis3"]["title"] == "layer"

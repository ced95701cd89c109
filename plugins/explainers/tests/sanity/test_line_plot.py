"""Lines that a reader can tell apart."""

from wsss_probe_explainers.line_plot import line_plot


def test_no_two_lines_look_the_same_and_baselines_are_grey():
    """Colours repeat with another dash; what knows nothing is grey and never solid."""
    names = [f"map {number}" for number in range(14)] + ["random", "blob", "edges"]

    plot = line_plot([0, 1], {name: [0, 1] for name in names}, {"random", "blob", "edges"}, ("x", "y"))

    looks = {trace["name"]: (trace["line"]["color"], trace["line"]["dash"]) for trace in plot["data"]}
    assert len(set(looks.values())) == len(names)
    assert len({looks[name][0] for name in names[-3:]}) == 1
    assert all(looks[name][1] != "solid" for name in names[-3:])
    assert plot["layout"]["xaxis"]["title"]["text"] == "x"

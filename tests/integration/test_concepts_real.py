"""The concepts' main job on the command line: real patches, a real network, textures in its layers."""

import numpy as np
import pytest

import wsss_probe

pytestmark = [pytest.mark.real, pytest.mark.slow]

RUN_FILE = """
only_plugins = ["concepts", "localizers"]
layers = ["features.3", "features.10", "features.18"]
concepts = ["cooccurrence"]
explain = []
controls = "shuffled:1"
models = { random = "reinit-5" }

[probes.rcv]
permutations = 99

[probes.concept-relevance]
permutations = 20
scored = 20
"""


def test_textures_in_the_layers_of_a_real_network(shared, command, tmp_path):
    """Wide layers cannot be estimated by OLS but by ridge; textures are encoded; in-sample R² flatters."""
    weights = shared / "weights" / "mobilenetv2_imagenet_coral" / "mobilenetv2_folded_state_dict.pth"
    (tmp_path / "run.toml").write_text(RUN_FILE)
    done = command(
        "audit", "--model", "mobilenetv2-folded", "--weights", weights,
        "--preprocess", "size=96 scale=127.5 mean=1 std=1",
        "--manifest", shared / "data" / "pcam" / "manifest.csv", "--max-images", "60",
        "--run-file", tmp_path / "run.toml", "--out", tmp_path / "run", "--no-progress",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    tree = wsss_probe.open_run(tmp_path / "run")
    tables = {
        name: tree[f"probes/rcv@{name}/summary"] for name in ("features.3", "features.10", "features.18")
    }

    assert tables["features.3"].sizes["channel"] == 24
    assert np.isfinite(tables["features.3"]["r2_held"].sel(model="ols")).all()
    for name, noise in (("features.10", 1.0), ("features.18", 1.0)):
        table = tables[name]
        assert np.isnan(table["r2_train"].sel(model="ols")).all()
        assert np.isnan(table["r2_held"].sel(model="ols")).all()
        assert np.isfinite(table["r2_held"].sel(model=["ridge", "pca"])).all()
        assert float(table["noise_r2"].max()) >= noise
    narrow = tables["features.3"].sel(concept="cooccurrence/contrast")
    assert float(narrow["r2_low"].sel(model="ridge")) > 0.5
    assert (tables["features.3"]["r2_train"] > tables["features.3"]["r2_held"]).sel(model="ols").all()
    assert list(narrow["network"].values) == ["audited", "shuffled-0", "random"]
    assert "encoded" in done.stdout

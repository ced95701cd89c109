"""Every p of the channel evidence on networks that have learned nothing and masks that say nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from wsss_probe_channels import (
    ChannelF1,
    ChannelNull,
    HeadWeights,
    NearEqual,
    Peaks,
    PermutedNull,
    WeightClasses,
    WeightQuality,
)

from wsss_probe.testing.runs import InMemoryRun, observe
from wsss_probe.testing.scenes import make_scene

LAYER, SEEDS, LEVEL, MOST = "1", 100, 0.05, 11
CLASSES = ("gland", "none")


class Untrained(nn.Sequential):
    """A convolution over a circle, a rectifier and a GAP head, with weights as they were drawn."""

    def __init__(self, seed):
        """Draw the weights."""
        generator = torch.Generator().manual_seed(seed)
        convolution = nn.Conv2d(3, 24, 3, padding=1, padding_mode="circular")
        super().__init__(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 2))
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3


def unrelated(seed, images=16, side=12):
    """Noise, and masks of one rectangle each that no picture knows of."""
    scene = make_scene(Untrained(seed).eval(), images, (side, side), seed)
    generator = np.random.default_rng((seed, 7))
    masks = np.full((images, side, side), -2)
    for mask in masks:
        row, column = generator.integers(0, side, 2)
        mask[np.ix_(np.arange(row, row + 6) % side, np.arange(column, column + 6) % side)] = 0
    noise = torch.from_numpy(generator.random((images, 3, side, side), dtype=np.float32))
    survey = replace(
        scene.survey,
        layers={LAYER: scene.survey.layers[LAYER]},
        classes=CLASSES,
        mask_classes=CLASSES[:1],
        seed=seed,
    )
    return replace(scene, images=noise, masks=torch.from_numpy(masks), survey=survey)


def concluded(seed):
    """Survey one network as an audit does: two passes, then the conclusions that read others'."""
    scene = unrelated(seed)
    first = [
        ChannelF1(LAYER),
        HeadWeights(LAYER),
        Peaks(LAYER),
        ChannelNull(LAYER, shifts=39, seed=seed),
        NearEqual(LAYER, pairs=6, seed=seed),
    ]
    run = InMemoryRun(scene, observe(scene, first, 16))
    for probe in first:
        run = replace(run, summaries={**run.summaries, probe.name: run.concluded(probe).summary})
    late = PermutedNull(LAYER, permutations=39, seed=seed)
    run = replace(run, observed={**run.observed, **observe(scene, [late], 16, run.summaries)})
    for probe in (late, WeightClasses(LAYER, permutations=99), WeightQuality(LAYER, permutations=99)):
        run = replace(run, summaries={**run.summaries, probe.name: run.concluded(probe).summary})
    return run.summaries


@pytest.fixture(scope="module")
def rejections():
    """Count, over all seeds, how often each test rejects for the first channel or class."""
    counted = {}
    for seed in range(SEEDS):
        tables = concluded(seed)
        null, late = tables[f"channel-null@{LAYER}"], tables[f"channel-null-permuted@{LAYER}"]
        said = {
            "moved masks, one channel": null["p_shift"].values[0, 0],
            "moved masks, best channel": null["p_best_shift"].values[0],
            "exchanged masks, one channel": late["p_permuted"].values[0, 0],
            "exchanged masks, best channel": late["p_best_permuted"].values[0],
            "weight quality": tables[f"weight-quality@{LAYER}"]["p"].values[0, 0],
            "hit rate": tables[f"weight-classes@{LAYER}"]["p"].values[0],
            "crossed": tables[f"weight-classes@{LAYER}"]["crossed_p"].values[0],
            "near-equal pairs": tables[f"near-equal@{LAYER}"]["p"].values[0],
        }
        for name, p in said.items():
            counted.setdefault(name, []).append(float(p))
    return counted


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "moved masks, one channel",
        "moved masks, best channel",
        "exchanged masks, one channel",
        "exchanged masks, best channel",
        "weight quality",
        "hit rate",
        "crossed",
        "near-equal pairs",
    ],
)
def test_a_test_rejects_as_often_as_it_says(rejections, name):
    """Of 100 untrained networks on masks that say nothing, at most 11 give p of at most .05."""
    p = np.array(rejections[name])
    tested = np.isfinite(p)
    assert tested.sum() >= SEEDS // 2
    assert (p[tested] <= LEVEL).sum() <= MOST
    assert p[tested].min() < 0.5 < p[tested].max()

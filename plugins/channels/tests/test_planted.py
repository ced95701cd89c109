"""The whole screen against a network that is known by hand, and against 99 that have learned nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from wsss_probe_channels import ChannelF1

from wsss_probe.testing.runs import InMemoryControl, InMemoryRun, observe
from wsss_probe.testing.scenes import make_scene
from wsss_probe.testing.synthetic import SceneOptions, planted

RED, DARK, DEAD, CHANNELS = 0, 2, 7, 8
LAYER = "1"


class Small(nn.Sequential):
    """One convolution, a rectifier, and a GAP head: the layer of interest is the rectifier."""

    def __init__(self):
        """Build it with torch's own start; weights are set afterwards."""
        convolution = nn.Conv2d(3, CHANNELS, 5, stride=2, padding=2)
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 2))
        super().__init__(convolution, nn.ReLU(), *head)


def by_hand():
    """Set one channel to the red dye, and others to brightness, darkness, blue, edges and noise."""
    net = Small()
    weight, bias = torch.zeros(CHANNELS, 3, 5, 5), torch.zeros(CHANNELS)
    near, far = torch.zeros(5, 5), torch.full((5, 5), 1 / 25)
    near[1:4, 1:4] = 1 / 9
    for channel, (mixing, window) in enumerate(
        [((1, -1, 0), near), ((1 / 3,) * 3, far), ((-1 / 3,) * 3, far), ((-1, 0, 1), far)]
    ):
        weight[channel] = torch.tensor(mixing, dtype=torch.float32)[:, None, None] * window
    weight[4, :] = -1 / 24
    weight[4, :, 2, 2] = 1
    weight[5, 0, 2, 2:4] = torch.tensor([1.0, -1.0])
    weight[6] = torch.tensor([0.0, 1.0, -1.0])[:, None, None] * far
    bias[RED], bias[DARK], bias[6], bias[DEAD] = -0.2, 0.75, 0.1, -1
    net.load_state_dict({**net.state_dict(), "0.weight": weight, "0.bias": bias})
    return net.eval()


def by_chance(seed):
    """Draw every weight at random, as an initialisation does."""
    net, generator = Small(), torch.Generator().manual_seed(seed)
    weight = torch.randn(CHANNELS, 3, 5, 5, generator=generator) * (2 / 75) ** 0.5
    bias = torch.randn(CHANNELS, generator=generator) * 0.1
    net.load_state_dict({**net.state_dict(), "0.weight": weight, "0.bias": bias})
    return net.eval()


def pictures(net, noise, images=40):
    """Forty tissue-like pictures: red objects on half, blue on the others, grey distractors on all."""
    options = SceneOptions(noise=noise, distractors=3)
    made = planted(images, 0, options)
    pixels = torch.from_numpy(np.stack([one.pixels for one in made])).permute(0, 3, 1, 2).float() / 255
    ids = torch.from_numpy(np.stack([one.mask for one in made]).astype(np.int64))
    scene = make_scene(net, images, options.size)
    labels = torch.tensor([[one.label == name for name in options.classes] for one in made])
    survey = replace(
        scene.survey,
        layers={LAYER: scene.survey.layers[LAYER]},
        mask_classes=options.classes,
        classes=options.classes,
    )
    masks = torch.where(ids > 0, ids - 1, -2)
    return replace(scene, images=pixels, masks=masks, labels=labels, survey=survey)


def screened(noise, controls):
    """Audit the network by hand beside networks by chance; returns the summary and findings by name."""
    probe = ChannelF1(LAYER)
    scene = pictures(by_hand(), noise)
    others = [
        InMemoryControl(f"chance-{seed}", InMemoryRun(other, observe(other, [probe], 40)))
        for seed in range(controls)
        for other in [replace(scene, network=by_chance(seed))]
    ]
    groups = np.array([f"g{index // 2}" for index in range(len(scene.images))])
    run = InMemoryRun(scene, observe(scene, [probe], 40), controls=others, groups=groups)
    concluded = run.concluded(probe)
    return concluded.summary, {finding.name: finding for finding in concluded.findings}


@pytest.fixture(scope="module")
def audited():
    """The screen beside 99 networks by chance, at a noise that leaves the objects visible."""
    return screened(noise=12, controls=99)


def test_the_planted_channel_has_rank_one(audited):
    """Of all channels the one that was set to the dye has the best mean F1 with its class."""
    summary, _ = audited
    assert int(np.nanargmin(summary["rank"].sel({"class": "red"}).values)) == RED


def test_the_planted_channel_beats_all_of_99(audited):
    """No network by chance has a channel that comes near the planted one, and the finding says so."""
    summary, findings = audited
    best = float(summary["mean_f1"].sel({"class": "red", "channel": RED}))
    chance = summary["control_top_f1"].sel({"class": "red"}).values
    assert len(chance) == 99
    assert best > np.nanmax(chance) + 0.05
    finding = findings[f"best-channel/red@{LAYER}"]
    assert finding.verdict == "ok"
    assert "above all 99 controls" in finding.statement
    assert "no p below 0.01" in finding.statement


def test_distractors_do_not(audited):
    """Every other channel, the one for all that is dark among them, stays below the best by chance."""
    summary, _ = audited
    others = summary["mean_f1"].sel({"class": "red"}).drop_sel(channel=RED).values
    assert np.nanmax(others) < np.nanmax(summary["control_top_f1"].sel({"class": "red"}).values)


def test_a_dead_channel_has_no_rank(audited):
    """The dead channel has no F1, is counted as degenerate on every image, and has no rank."""
    summary, _ = audited
    dead = summary.sel({"channel": DEAD, "class": "red"})
    assert np.isnan(dead["mean_f1"])
    assert np.isnan(dead["rank"])
    assert int(dead["degenerate"]) == 40


@pytest.mark.parametrize(("noise", "wins"), [(12, True), (40, True), (80, False), (160, False)])
def test_the_screen_fails_as_noise_grows(noise, wins):
    """The planted channel wins up to a noise of 40 grey levels; from 80 on a smoother distractor does."""
    summary, _ = screened(noise, controls=0)
    winner = int(np.nanargmax(summary["mean_f1"].sel({"class": "red"}).values))
    assert (winner == RED) is wins
    if not wins:
        assert winner == DARK

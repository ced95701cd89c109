"""A run and its controls in memory: rows made by the probe itself, batch by batch."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from wsss_probe_channels import ChannelF1

from wsss_probe import Batch, Head, LayerInfo, Survey
from wsss_probe.schema import check_observation


def survey(channels, classes=("gland",), layers=("conv",)):
    """Plan some layers with maps of 8x8."""
    infos = {name: LayerInfo(name, "Conv2d", i, 1, (channels, 8, 8), "maps") for i, name in enumerate(layers)}
    return Survey(
        infos, ("a", "b"), ("predicted",), tuple(classes), Head(linear=False), (3, 32, 32), False, 0
    )


def batch(maps, masks, classes, readable=None, inputs=3):
    """Make one batch of a layer named conv."""
    number = len(maps)
    return Batch(
        indices=np.arange(number),
        images=torch.zeros(number, inputs, 32, 32),
        labels=torch.zeros(number, 2, dtype=torch.bool),
        masks=masks,
        mask_classes=tuple(classes),
        readable=torch.ones(number, dtype=torch.bool) if readable is None else readable,
        logits=torch.zeros(number, 2),
        activations={"conv": maps},
        gradients={},
        head=Head(linear=False),
        forward=lambda images: images,
        resume=lambda _layer, maps: maps,
    )


@dataclass(frozen=True)
class Tables:
    """Rows and partial of one network."""

    table: xr.Dataset
    sums: xr.Dataset
    name: str = ""
    living: bool = True

    def rows(self, probe):
        """Rows of the one probe there is."""
        assert probe == "channel-f1@conv"
        return self.table

    def partial(self, probe):
        """Sums of the one probe there is."""
        assert probe == "channel-f1@conv"
        return self.sums

    def alive(self, layer):
        """Whether this control lives."""
        assert layer == "conv"
        return self.living


def observed(maps, masks, classes=("gland",), *, size=5, probe=None, readable=None, inputs=3, **names):
    """Stream maps and masks through the probe and put the pieces together as the host does."""
    probe = probe or ChannelF1(layer="conv", complements="none")
    readable = torch.ones(len(maps), dtype=torch.bool) if readable is None else readable
    pieces = []
    for start in range(0, len(maps), size):
        part = slice(start, start + size)
        seen = probe.observe(batch(maps[part], masks[part], classes, readable[part], inputs))
        pieces.append(check_observation(seen, len(maps[part]), probe.name))
    rows = xr.concat([piece.rows for piece in pieces], "image")
    rows = rows.where(xr.DataArray(readable.numpy(), dims="image"))
    return Tables(rows, sum(piece.partial for piece in pieces), **names)


@dataclass(frozen=True)
class FakeRun:
    """A finished survey of one layer."""

    audited: Tables
    masks: torch.Tensor
    maps: torch.Tensor
    survey: Survey
    images: pd.DataFrame
    groups: np.ndarray | None = None
    controls: tuple = ()
    not_testable: str = ""
    contents: np.ndarray | None = None
    path: Path = field(default_factory=Path)

    def rows(self, probe):
        """Rows of the audited network."""
        return self.audited.rows(probe)

    def partial(self, probe):
        """Sums of the audited network."""
        return self.audited.partial(probe)

    def picture(self, index):
        """A grey picture, or None for the first image."""
        return None if index == 0 else np.full((32, 32, 3), 128, dtype=np.uint8)

    def mask(self, index):
        """The mask on the input grid."""
        return self.masks[index].numpy()

    def activations(self, index, layer):
        """The maps of one image."""
        assert layer == "conv"
        return self.maps[index].numpy()


def make_run(maps, masks, classes=("gland",), *, probe=None, size=5, readable=None, inputs=3, **more):
    """Survey maps and masks and make a run of them."""
    names = [f"image {index}.png" for index in range(len(maps))]
    images = pd.DataFrame({"image": names, "name": names, "mask": names, "split": [""] * len(maps)})
    tables = observed(maps, masks, classes, probe=probe, size=size, readable=readable, inputs=inputs)
    return FakeRun(tables, masks, maps, survey(maps.shape[1], classes), images, **more)


def blobs(number, seed=0, size=32):
    """Masks with one rectangle of class 0 on background; half of its sides are multiples of four."""
    rng = np.random.default_rng(seed)
    masks = np.full((number, size, size), -2)
    for mask in masks:
        top, left = 4 * rng.integers(0, 4, 2)
        height, width = 4 * rng.integers(2, 5, 2)
        mask[top : top + height, left : left + width] = 0
    return torch.from_numpy(masks)


def noise(number, channels, seed=1, size=8):
    """Rectified noise that knows nothing of the masks."""
    return torch.randn(number, channels, size, size, generator=torch.Generator().manual_seed(seed)).relu()


def plant(maps, masks, channel, level=0.2, seed=2):
    """Replace a channel by the mask on the layer's grid plus noise, rectified as its neighbours are."""
    truth = (masks == 0).float().unfold(1, 4, 4).unfold(2, 4, 4).mean((-2, -1))
    disturbed = truth + level * torch.randn(truth.shape, generator=torch.Generator().manual_seed(seed))
    return torch.cat([maps[:, :channel], disturbed.relu()[:, None], maps[:, channel + 1 :]], dim=1)


class Made:
    """What the tests build runs with."""

    survey, batch, observed, run = (staticmethod(f) for f in (survey, batch, observed, make_run))
    blobs, noise, plant = (staticmethod(f) for f in (blobs, noise, plant))
    replace = staticmethod(replace)


@pytest.fixture
def made():
    """Builders of batches and runs."""
    return Made

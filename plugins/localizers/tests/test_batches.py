"""Batches: every image once per epoch, in an order that seed and epoch decide."""

import functools
import operator

import numpy as np
import pytest
import torch
from wsss_probe_localizers.batches import loader, seed_of
from wsss_probe_localizers.labels import Labels
from wsss_probe_localizers.options import GapOptions
from wsss_probe_localizers.pictures import Memory


def batches(count, batch_size=4, epoch=0, seed=0, *, shuffle=True):
    """Row numbers of each batch; the images carry their row as colour."""
    pixels = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 2, 2, 3)
    labels = Labels(("a", "b"), False, np.eye(2, dtype=bool)[np.arange(count) % 2])
    options = GapOptions(batch_size=batch_size, seed=seed)
    made = loader(Memory(pixels, np.arange(count)), np.arange(count), labels, options, shuffle=shuffle)
    if shuffle:
        made.batch_sampler.set_epoch(epoch)
    rows = []
    for images, sets in made:
        rows.append(images[:, 0, 0, 0].tolist())
        assert sets.int().argmax(dim=1).tolist() == [row % 2 for row in rows[-1]]
    return rows


def test_every_image_comes_once():
    """An epoch holds each image once, whatever the batch size."""
    assert sorted(functools.reduce(operator.iadd, batches(10), [])) == list(range(10))
    assert [len(batch) for batch in batches(10)] == [4, 4, 2]


def test_epochs_and_seeds_differ_and_repeat():
    """Another epoch or seed gives another order, the same gives the same."""
    assert batches(32, epoch=1) == batches(32, epoch=1)
    assert batches(32, epoch=1) != batches(32, epoch=0)
    assert batches(32, seed=1) != batches(32, seed=0)


def test_a_lone_last_image_waits():
    """A last batch of one is left out in training; the image that waits changes with the epoch."""
    seen = [functools.reduce(operator.iadd, batches(9, epoch=epoch), []) for epoch in range(6)]

    assert all(len(rows) == 8 for rows in seen)
    assert len({next(iter(set(range(9)) - set(rows))) for rows in seen}) > 1


def test_validation_keeps_the_order():
    """Without shuffling the rows come in order, the lone last one too."""
    assert batches(9, shuffle=False) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


@pytest.mark.parametrize("parts", [(0, 0), (0, 1), (1, 0), (1, 1), (1, 1, 2)])
def test_seeds_do_not_collide(parts):
    """Neighbouring seeds, epochs and steps give distinct streams of 32 bits."""
    others = [(a, b) for a in range(20) for b in range(20) if (a, b) != parts]

    assert seed_of(*parts) not in {seed_of(*other) for other in others}
    assert 0 <= seed_of(*parts) < 2**32

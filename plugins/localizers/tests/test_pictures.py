"""Images in memory equal what the audit reads later."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from wsss_probe_localizers.batches import unit
from wsss_probe_localizers.labels import read_labels
from wsss_probe_localizers.pictures import Files, Memory, data_digest, load, normalise
from wsss_probe_localizers.split import split_rows

from wsss_probe.errors import ManifestError
from wsss_probe.images import ManifestSource, Preprocessing
from wsss_probe.manifest import Manifest, tile

PLENTY = 1 << 30


def divided(manifest):
    """Read the labels and split."""
    return split_rows(manifest, read_labels(manifest, (), None), share=0.3, seed=0)


@pytest.fixture
def folder(tmp_path):
    """Eight images of 12 x 16, each its own colours."""
    generator = np.random.default_rng(1)
    for index in range(8):
        Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(
            tmp_path / f"{index}.png"
        )
    frame = pd.DataFrame({"image": [f"{index}.png" for index in range(8)], "label": ["a", "b"] * 4})
    return Manifest(tmp_path, frame)


@pytest.mark.parametrize(
    "preprocess",
    [
        "unit",
        "size=10x9 mean=.7,.5,.3 std=.2,.3,.4",
        "size=8 resize=10 crop=center order=bgr mean=1,2,3 scale=1",
        "size=8 channels=1 mean=.4",
    ],
)
def test_batches_equal_the_input_that_an_audit_computes(folder, preprocess):
    """Views in memory, divided by 255 and normalised by batch, equal the host's tensors."""
    preprocessing = Preprocessing.parse(preprocess)
    loaded = load(folder, divided(folder), preprocessing, None, PLENTY)
    source = ManifestSource(folder, loaded.preprocessing)

    batch = normalise(unit(loaded.pictures.read(list(range(8)))), loaded.preprocessing)

    expected = torch.stack([source.read(row).tensor for row in range(8)])
    torch.testing.assert_close(batch, expected, atol=2e-5, rtol=1e-5)


def test_memory_and_files_give_the_same(folder):
    """Images that do not fit into memory are decoded at every read, to the same bytes."""
    split = divided(folder)
    kept, decoded = (load(folder, split, None, None, limit) for limit in (PLENTY, 100))

    assert isinstance(kept.pictures, Memory)
    assert isinstance(decoded.pictures, Files)
    assert kept.preprocessing == decoded.preprocessing
    assert torch.equal(kept.pictures.read([3, 1, 7]), decoded.pictures.read([3, 1, 7]))


def test_colours_are_measured_on_training_images_only(folder):
    """Mean and standard deviation equal those of the training pixels, to four digits."""
    split = divided(folder)
    pixels = np.concatenate(
        [
            np.asarray(Image.open(folder.root / f"{row}.png")).reshape(-1, 3) / 255
            for row in split.rows["train"]
        ]
    )

    found = load(folder, split, None, None, PLENTY).preprocessing

    assert found.size == (12, 16)
    np.testing.assert_allclose(found.mean, pixels.mean(axis=0), atol=6e-5)
    np.testing.assert_allclose(found.std, pixels.std(axis=0), atol=6e-5)


def test_a_constant_channel_is_not_divided_by_nothing(tmp_path):
    """Images of one colour get a standard deviation of one."""
    for name in "abcd":
        Image.new("RGB", (4, 4), (9, 9, 9)).save(tmp_path / f"{name}.png")
    manifest = Manifest(
        tmp_path, pd.DataFrame({"image": [f"{n}.png" for n in "abcd"], "label": ["x", "y"] * 2})
    )

    assert load(manifest, divided(manifest), None, None, PLENTY).preprocessing.std == (1.0, 1.0, 1.0)


def test_tiles_are_cut_as_the_host_cuts_them(folder):
    """A tile of an image is what the host reads for it, and its size becomes the input size."""
    tiles = tile(folder, 6, 5).manifest

    loaded = load(tiles, divided(tiles), None, None, PLENTY)

    assert loaded.preprocessing.size == (6, 6)
    source = ManifestSource(tiles, loaded.preprocessing)
    for row in (0, 3, len(tiles) - 1):
        np.testing.assert_array_equal(loaded.pictures.read([row])[0].numpy(), source.read(row).view)


def test_sizes_must_be_one_or_asked_for(folder):
    """Images of two sizes need --size; with it they are resized."""
    Image.new("RGB", (20, 20)).save(folder.root / "3.png")

    with pytest.raises(ManifestError, match=r"differ in size.*16 x 12 and 20 x 20 pixels.*--size"):
        load(folder, divided(folder), None, None, PLENTY)
    assert load(folder, divided(folder), None, 9, PLENTY).pictures.read([3]).shape == (1, 9, 9, 3)


def test_bad_images_are_left_out_and_told(folder):
    """A damaged and a missing file leave; the others keep their rows."""
    before = load(folder, divided(folder), None, None, PLENTY)
    (folder.root / "2.png").write_bytes(b"no image")
    (folder.root / "5.png").unlink()

    loaded = load(folder, divided(folder), None, None, PLENTY)

    assert np.flatnonzero(~loaded.readable).tolist() == [2, 5]
    assert loaded.notes[0].startswith("2 images could not be read and were left out; the first: ")
    assert torch.equal(loaded.pictures.read([6]), before.pictures.read([6]))


def test_no_image_at_all_is_an_error(folder):
    """When nothing can be read the first reason is told."""
    for path in folder.root.glob("*.png"):
        path.write_bytes(b"no image")

    with pytest.raises(ManifestError, match="no image can be read; found: "):
        load(folder, divided(folder), None, None, PLENTY)


def test_the_digest_follows_table_and_pixels(folder):
    """Another label, another pixel or a missing file changes the digest; reading does not."""
    split = divided(folder)
    first = data_digest(folder, split)
    assert data_digest(folder, split) == first

    relabelled = replace(folder, frame=folder.frame.assign(label=["b", "a"] * 4))
    assert data_digest(relabelled, split) != first
    Image.new("RGB", (16, 12)).save(folder.root / "0.png")
    changed = data_digest(folder, split)
    (folder.root / "0.png").unlink()
    assert len({first, changed, data_digest(folder, split)}) == 3

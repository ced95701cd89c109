"""White background as a mask class of its own, and draws of tiles."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from wsss_probe.errors import ManifestError, UsageError
from wsss_probe.images import ManifestSource, Preprocessing
from wsss_probe.manifest import Draw, MaskRule, MaskSpec, read_manifest, tile, write_manifest
from wsss_probe.masks import read_sidecar, sidecar_text

GLAND = MaskSpec((("gland", (255,)),), white=220)


@pytest.fixture
def folder(tmp_path):
    """Write one image with white on its right half and a gland over its upper half."""
    pixels = np.full((40, 60, 3), (180, 120, 160), np.uint8)
    pixels[:, 30:] = 250
    mask = np.zeros((40, 60), np.uint8)
    mask[:20] = 255
    Image.fromarray(pixels).save(tmp_path / "image.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    (tmp_path / "manifest.csv").write_text("image,mask,label\nimage.png,mask.png,gland\n")
    (tmp_path / "manifest.toml").write_text("[masks]\nwhite = 220\n[masks.classes]\ngland = 255\n")
    return tmp_path


def test_white_is_the_last_class():
    """The name of white stands after the declared classes, and only where it is asked for."""
    assert GLAND.names == ("gland", "white")
    assert MaskSpec((("gland", (255,)),)).names == ("gland",)


def test_only_background_turns_white():
    """A bright lumen that somebody drew as gland stays gland, and an ignored pixel stays ignored."""
    positions = np.array([[0, -2, -2, -1]])
    bright = np.array([[[255] * 3, [255] * 3, [10] * 3, [255] * 3]], np.uint8)
    assert GLAND.with_white(positions, bright).tolist() == [[0, 1, -2, -1]]


def test_the_level_itself_is_not_white():
    """White lies strictly above the level."""
    grey = np.array([[[220] * 3, [221] * 3]], np.uint8)
    assert GLAND.with_white(np.array([[-2, -2]]), grey).tolist() == [[-2, 1]]


def test_white_reaches_the_samples(folder):
    """A source gives masks in which the bright part of the background has its own position."""
    manifest = read_manifest(folder / "manifest.csv")
    mask = ManifestSource(manifest, Preprocessing(size=(40, 60))).read(0).mask
    assert mask is not None
    assert (mask[:20] == 0).all()
    assert (mask[20:, :30] == -2).all()
    assert (mask[20:, 30:] == 1).all()


def test_tiles_can_be_labelled_by_white(folder):
    """A rule may name white, which only the image shows."""
    manifest = read_manifest(folder / "manifest.csv")
    tiles = tile(manifest, 20, 20, label_from_mask=[MaskRule("bare", "white", at_least=0.9)]).manifest
    assert tiles.frame[["x", "y"]].to_numpy().tolist() == [[40, 20]]


def test_sidecar_keeps_white(folder, tmp_path):
    """What is written beside a manifest reads back as it was."""
    write_manifest(read_manifest(folder / "manifest.csv"), folder / "copy.csv")
    assert read_manifest(folder / "copy.csv").masks == GLAND
    (tmp_path / "x.toml").write_text(sidecar_text(GLAND))
    assert read_sidecar(tmp_path / "x.toml") == GLAND


@pytest.mark.parametrize("white", ["255", "-1", "true", "'bright'", "1.5"])
def test_a_level_that_cannot_be_meant(tmp_path, white):
    """A level outside 0..254, or none at all, is refused with what is wanted."""
    path = tmp_path / "x.toml"
    path.write_text(f"[masks]\nwhite = {white}\n[masks.classes]\ngland = 255\n")
    with pytest.raises(ManifestError, match=r"0\.\.254"):
        read_sidecar(path)


def test_white_cannot_be_declared_twice():
    """A class that is called white already leaves no room for a second one."""
    with pytest.raises(ManifestError, match="declared twice"):
        MaskSpec((("white", (3,)),), white=220)


def test_ignoring_keeps_white():
    """Taking ids out of a declaration does not forget the level."""
    assert GLAND.ignoring([7]).white == 220


class TestDraw:
    """At most so many tiles of each image and label."""

    def test_counts(self, folder):
        """No image gives more tiles of a label than were asked for; the others are counted."""
        manifest = read_manifest(folder / "manifest.csv")
        rules = [MaskRule("gland", "gland", at_least=0.5), MaskRule("none", "gland", at_most=0.4)]
        every = tile(manifest, 10, 5, label_from_mask=rules)
        drawn = tile(manifest, 10, 5, label_from_mask=rules, draw=Draw(3))
        assert Counter(drawn.manifest.frame["label"]) == {"gland": 3, "none": 3}
        assert drawn.dropped["not drawn"] == len(every.manifest) - 6
        assert min(Counter(every.manifest.frame["label"]).values()) > 3

    def test_a_seed_gives_its_draw(self, folder):
        """The same seed draws the same tiles, another seed others; tiles keep their order."""
        manifest = read_manifest(folder / "manifest.csv")

        def boxes(seed):
            frame = tile(manifest, 10, 5, draw=Draw(5, seed)).manifest.frame
            return frame[["y", "x"]].to_numpy().tolist()

        assert boxes(1) == boxes(1) == sorted(boxes(1))
        assert len({str(boxes(seed)) for seed in range(5)}) > 1

    def test_none_is_refused(self):
        """A draw of nothing has no meaning."""
        with pytest.raises(UsageError, match="1 or more"):
            Draw(0)

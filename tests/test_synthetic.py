"""Scenes: the planted truth is there, and where nothing is planted nothing is there."""

from __future__ import annotations

import filecmp

import numpy as np
import pytest
from scipy.stats import rankdata

from wsss_probe.images import ManifestSource, Preprocessing
from wsss_probe.manifest import MaskSpec, read_manifest
from wsss_probe.testing.synthetic import SceneOptions, nothing, planted, write_scenes


def separation(scenes) -> float:
    """Mean over scenes of the area under the ROC curve of "strongly coloured" for the mask."""
    return float(np.mean([_area(np.ptp(scene.pixels, axis=2), scene.mask > 0) for scene in scenes]))


def _area(score, inside) -> float:
    ranks = rankdata(score)
    positives, negatives = inside.sum(), (~inside).sum()
    return (ranks[inside.ravel()].sum() - positives * (positives + 1) / 2) / (positives * negatives)


class TestScenes:
    def test_same_seed_same_scenes(self):
        """Scenes depend on seed and number only; a longer set begins with the shorter one."""
        short, long, other = planted(3, seed=5), planted(9, seed=5), planted(3, seed=6)

        assert all((a.pixels == b.pixels).all() for a, b in zip(short, long, strict=False))
        assert all((a.mask == b.mask).all() for a, b in zip(short, long, strict=False))
        assert any((a.pixels != b.pixels).any() for a, b in zip(short, other, strict=True))

    def test_masks_name_the_class_of_the_label(self):
        """Each mask holds background and the one class that the label names."""
        options = SceneOptions(classes=("a", "b", "c"))
        for scene in planted(9, options=options):
            assert set(np.unique(scene.mask)) == {0, options.classes.index(scene.label) + 1}

    def test_groups_are_whole(self):
        """A group lies in one split, and both splits occur with both classes."""
        scenes = planted(32)
        splits = {scene.group: scene.split for scene in scenes}

        assert all(splits[scene.group] == scene.split for scene in scenes)
        assert {(scene.split, scene.label) for scene in scenes} == {
            (split, label) for split in ("train", "test") for label in ("red", "blue")
        }

    def test_objects_can_be_found(self):
        """Colour tells objects from tissue and from grey distractors, and less so at low contrast."""
        clear = separation(planted(12))
        faint = separation(planted(12, options=SceneOptions(contrast=0.15)))

        assert clear > 0.95
        assert 0.45 < faint < 0.6

    def test_nothing_can_be_found(self):
        """Without contrast the same score is at chance, while masks and labels stay as they were."""
        empty, full = nothing(64), planted(64)

        assert abs(separation(empty) - 0.5) < 0.03
        assert all((a.mask == b.mask).all() and a.label == b.label for a, b in zip(empty, full, strict=True))

    @pytest.mark.parametrize("size", [(16, 16), (40, 72)])
    def test_any_size(self, size):
        """Pictures and masks have the size that was asked for, and every mask has an object."""
        for scene in planted(6, options=SceneOptions(size=size)):
            assert scene.pixels.shape == (*size, 3)
            assert scene.mask.shape == size
            assert scene.mask.any()


class TestWriteScenes:
    def test_folder_is_a_manifest(self, tmp_path):
        """The folder is read as a manifest with named mask classes, pixel for pixel."""
        scenes = planted(8)
        manifest = read_manifest(write_scenes(tmp_path / "set", scenes))
        source = ManifestSource(manifest, Preprocessing())

        assert manifest.masks == MaskSpec((("red", (1,)), ("blue", (2,))))
        assert manifest.label_names == ("blue", "red")
        for index, scene in enumerate(scenes):
            sample = source.read(index)
            assert (sample.view == scene.pixels).all()
            assert (sample.mask == np.where(scene.mask > 0, scene.mask.astype(int) - 1, -2)).all()

    def test_same_scenes_same_bytes(self, tmp_path):
        """Written twice, a set is the same file by file."""
        for name in "ab":
            write_scenes(tmp_path / name, planted(3))
        files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*")]

        assert len(files) == 8
        assert filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", files, shallow=False)[0] == files

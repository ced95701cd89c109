"""Digests of files and of images in memory: equal for equal contents, empty for what cannot be read."""

import hashlib

import numpy as np
import torch
from PIL import Image

from wsss_probe.contents import digest_contents
from wsss_probe.images import ManifestSource, TensorSource
from wsss_probe.manifest import read_manifest
from wsss_probe.preprocessing import Preprocessing


def test_files_have_the_digest_of_their_bytes(tmp_path):
    """A copy under another name has the same digest; a file that is not there has none."""
    for name, grey in (("a.png", 0), ("b.png", 9), ("copy.png", 0)):
        Image.fromarray(np.full((4, 4, 3), grey, np.uint8)).save(tmp_path / name)
    names = ["a.png", "b.png", "copy.png", "absent.png", "lost.png"]
    (tmp_path / "manifest.csv").write_text("\n".join(["image", *names]) + "\n")
    source = ManifestSource(read_manifest(tmp_path / "manifest.csv"), Preprocessing())

    found = digest_contents(source, torch.empty(0)).images

    assert found[0] == hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    assert found[2] == found[0] != found[1]
    assert found[3:].tolist() == ["", ""]


def test_images_in_memory_have_the_digest_of_their_values():
    """Equal tensors have equal digests; masks do not count for an image, but for the whole."""
    images = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    images[2] = images[0]
    plain = digest_contents(TensorSource(images), images)
    masked = digest_contents(TensorSource(images, torch.zeros(3, 4, 4, dtype=torch.int64)), images)

    assert plain.images[0] == plain.images[2] != plain.images[1]
    assert plain.images.tolist() == masked.images.tolist()
    assert plain.digest != masked.digest


def test_a_strangers_source_is_not_read():
    """Reading it may cost as much as the audit: the examples stand for all, and no image is known again."""

    class Costly:
        def __len__(self):
            return 10**6

    examples = torch.rand(2, 3, 4, 4)

    assert digest_contents(Costly(), examples).images is None
    assert digest_contents(Costly(), examples).digest != digest_contents(Costly(), examples + 1).digest

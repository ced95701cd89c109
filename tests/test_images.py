"""Decoding, preprocessing, masks and sources."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsss_probe import images as images_module
from wsss_probe.decoding import cut
from wsss_probe.errors import ImageError, ManifestError, UsageError
from wsss_probe.images import (
    ManifestSource,
    Preprocessing,
    TensorSource,
    decode,
    decode_mask,
    image_size,
    mask_view,
    network_input,
    view,
)
from wsss_probe.manifest import Manifest, MaskSpec, discover, read_manifest
from wsss_probe.masks import deduce, read_sidecar, sidecar_text
from wsss_probe.preprocessing import NAMED

SHARED = Path(__file__).parents[2] / "shared" / "data"
UNIT = Preprocessing()


def noise(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Make a picture of noise."""
    return np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    """Write pixels to an image file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def manifest_of(root: Path, masks: MaskSpec | None = None, **columns: object) -> Manifest:
    """Make a manifest from columns."""
    return Manifest(root, pd.DataFrame(columns), masks)


# -- preprocessing ----------------------------------------------------------------------------


class TestPreprocessing:
    @pytest.mark.parametrize("name", sorted(NAMED))
    def test_named_ones_survive_a_dictionary(self, name):
        """Each named preprocessing equals itself after a way through JSON."""
        spec = Preprocessing.parse(name)

        assert Preprocessing.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("imagenet", {"size": [224, 224], "resize": 256, "crop": "center", "scale": 255.0}),
            (
                "imagenet size=96 mean=.7,.54,.69",
                {"size": [96, 96], "resize": None, "mean": [0.7, 0.54, 0.69]},
            ),
            ("size=224x160", {"size": [224, 160], "mean": [0.0] * 3, "std": [1.0] * 3}),
            ("imagenet resize=240", {"size": [224, 224], "resize": 240, "crop": "center"}),
            ("imagenet resize=none", {"size": [224, 224], "resize": None, "crop": "none"}),
            ("imagenet size=none", {"size": None, "resize": None, "crop": "none"}),
            (
                "imagenet order=bgr",
                {"order": "bgr", "mean": [0.406, 0.456, 0.485], "std": [0.225, 0.224, 0.229]},
            ),
            ("imagenet order=bgr mean=1,2,3", {"mean": [1.0, 2.0, 3.0]}),
            ("channels=1", {"channels": 1, "mean": [0.0], "std": [1.0]}),
            ("unit mean=.5 std=.25", {"mean": [0.5] * 3, "std": [0.25] * 3}),
            ("tf", {"scale": 127.5, "mean": [1.0] * 3, "size": None}),
            ("inception", {"size": [299, 299], "mean": [0.5] * 3, "std": [0.5] * 3}),
        ],
    )
    def test_text_is_understood(self, text, expected):
        """A name and pairs give the values they say, and what follows from them."""
        values = Preprocessing.parse(text).to_dict()

        assert {key: values[key] for key in expected} == expected

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("imagnet", "did you mean imagenet"),
            ("sise=3", "did you mean size"),
            ("", "empty"),
            ("size=0", "out of range"),
            ("size=1e9", "out of range"),
            ("size=1.5", "not a whole number"),
            ("size=1x2x3", "not a size"),
            ("std=0", "larger than 0"),
            ("scale=-1", "larger than 0"),
            ("mean=nan", "not a number"),
            ("mean=1,2", "do not fit"),
            ("imagenet channels=1", "do not fit"),
            ("channels=2", "1 or 3"),
            ("interpolation=lanczos", "bilinear"),
            ("crop=center", "needs a size"),
            ("size=3 resize=4 crop=none", "contradict"),
            ("size=3 size=4", "twice"),
            ("unit imagenet", "key=value"),
            ("missing.toml", "No such file"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, text, message):
        """A wrong text gives one line that says what is wrong."""
        with pytest.raises(UsageError, match=message) as caught:
            Preprocessing.parse(text)

        assert "\n" not in str(caught.value)

    def test_files_are_read(self, tmp_path):
        """TOML and JSON files give the same as text, a base included."""
        toml, other = tmp_path / "p.toml", tmp_path / "p.json"
        toml.write_text('base = "imagenet"\nsize = [96, 80]\n')
        other.write_text('{"base": "imagenet", "size": "96x80"}')

        assert Preprocessing.parse(toml) == Preprocessing.parse("imagenet size=96x80")
        assert Preprocessing.parse(str(other)) == Preprocessing.parse(toml)

    @pytest.mark.parametrize("text", ["[1]", "size = ", '{"sizes": 3}'])
    def test_bad_files_are_refused(self, tmp_path, text):
        """A file that is no table, or has an unknown key, is a usage error."""
        path = tmp_path / "p.json"
        path.write_text(text)

        with pytest.raises(UsageError):
            Preprocessing.parse(path)


# -- the network's view -----------------------------------------------------------------------


def nearest_by_the_book(mask, rows, columns):
    """Take for each new pixel the old one under its centre."""
    result = []
    for row in range(rows):
        old_row = int((row + 0.5) * len(mask) / rows)
        line = []
        for column in range(columns):
            old_column = int((column + 0.5) * len(mask[0]) / columns)
            line.append(int(mask[old_row][old_column]))
        result.append(line)
    return result


def numbers_by_the_book(pixels, scale, mean, std):
    """Compute value = (pixel / scale - mean) / std one by one, channel first."""
    rows, columns = len(pixels), len(pixels[0])
    return [
        [[(pixels[r][c][k] / scale - mean[k]) / std[k] for c in range(columns)] for r in range(rows)]
        for k in range(3)
    ]


class TestView:
    def test_pixels_pass_unchanged_without_size(self):
        """Without size nothing is resized, and the result is a copy."""
        pixels = noise(5, 7)
        seen = view(pixels, UNIT)

        assert (seen == pixels).all()
        assert not np.shares_memory(seen, pixels)

    def test_straight_resize_has_rows_before_columns(self):
        """A size is (row, column)."""
        assert view(noise(50, 30), Preprocessing.parse("size=12x20")).shape == (12, 20, 3)

    def test_centre_crop_takes_the_middle(self):
        """After the shorter side fits, the crop is cut out of the middle."""
        pixels = np.zeros((8, 16, 3), np.uint8)
        pixels[:, 4:12] = 200

        assert (view(pixels, Preprocessing.parse("size=8 resize=8")) == 200).all()

    def test_reduction_is_antialiased(self):
        """A fine checkerboard becomes even grey, not stripes."""
        board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
        seen = view(board, Preprocessing.parse("size=8"))

        assert seen.std() < 3
        assert abs(seen.mean() - 127.5) < 3

    @pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (3, 500)])
    @pytest.mark.parametrize("text", ["imagenet", "size=17x9", "size=32 crop=center"])
    def test_small_images_are_enlarged(self, shape, text):
        """Images smaller than the input are enlarged to cover it."""
        spec = Preprocessing.parse(text)

        assert view(noise(*shape), spec).shape[:2] == spec.size
        assert mask_view(np.ones(shape, int), spec).shape == spec.size

    def test_thread_like_images_are_refused(self):
        """An image whose enlargement would fill the memory is bad, not fatal."""
        with pytest.raises(ImageError, match="elongated"):
            view(noise(1, 10_000), Preprocessing.parse("imagenet"))

    @settings(max_examples=40, deadline=None)
    @given(
        shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
        size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
        seed=st.integers(0, 99),
    )
    def test_masks_follow_the_nearest_pixel(self, shape, size, seed):
        """A resized mask equals the loop, and holds no value that was not there."""
        mask = np.random.default_rng(seed).integers(-2, 9, shape)
        spec = Preprocessing(size=size)

        assert mask_view(mask, spec).tolist() == nearest_by_the_book(mask.tolist(), *size)

    @pytest.mark.parametrize(
        "text", ["size=20", "size=20x31", "imagenet", "size=9x12 resize=16", "size=40 crop=center"]
    )
    def test_masks_stay_on_their_objects(self, text):
        """A mask goes through the same geometry as its image."""
        pixels = np.zeros((37, 61, 3), np.uint8)
        pixels[8:30, 20:44] = 255
        spec = Preprocessing.parse(text)
        seen = view(pixels, spec)[..., 0]
        mask = mask_view((pixels[..., 0] > 0).astype(int), spec)

        certain = (seen < 40) | (seen > 215)
        assert certain.mean() > 0.7
        assert ((seen > 127) == (mask == 1))[certain].all()


class TestNetworkInput:
    @pytest.mark.parametrize("name", ["imagenet", "unit", "cifar10", "tf"])
    def test_equals_the_formula(self, name):
        """Numbers are (pixel / scale - mean) / std, channel before row before column."""
        spec = Preprocessing.parse(name)
        pixels = noise(3, 4)
        expected = torch.tensor(numbers_by_the_book(pixels.tolist(), spec.scale, spec.mean, spec.std))

        result = network_input(pixels, spec)

        assert result.dtype == torch.float32
        assert result.is_contiguous()
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)

    def test_tf_spans_minus_one_to_one(self):
        """Black is -1 and white is 1."""
        pixels = np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)

        assert network_input(pixels, Preprocessing.parse("tf"))[0, 0].tolist() == [-1.0, 1.0]

    def test_blue_comes_first_on_demand(self):
        """With order=bgr the first channel is blue, and mean and std are in that order."""
        pixels = np.array([[[10, 20, 30]]], np.uint8)
        spec = Preprocessing.parse("order=bgr scale=1 mean=3,2,1")

        assert network_input(pixels, spec).flatten().tolist() == [27.0, 18.0, 9.0]

    def test_one_channel_is_luminance(self):
        """A grey network gets 0.299 R + 0.587 G + 0.114 B."""
        pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [7, 7, 7]]], np.uint8)
        grey = network_input(pixels, Preprocessing.parse("channels=1 scale=1"))

        assert grey.shape == (1, 1, 4)
        assert grey.flatten().tolist() == pytest.approx([76.2, 149.7, 29.1, 7], abs=0.6)


# -- decoding: what is read -------------------------------------------------------------------


class TestDecode:
    @pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "ppm", "webp", "gif", "jpg"])
    def test_formats_agree(self, tmp_path, suffix):
        """Every allowed format gives the same flat picture."""
        pixels = np.full((6, 9, 3), (200, 100, 50), np.uint8)
        options = {"webp": {"lossless": True}, "jpg": {"quality": 95, "subsampling": 0}}.get(suffix, {})
        path = save(tmp_path / f"x.{suffix}", pixels, **options)

        assert np.abs(decode(path).pixels.astype(int) - pixels).max() <= (3 if suffix == "jpg" else 0)

    @pytest.mark.parametrize(
        ("mode", "value", "expected"),
        [
            ("1", 1, (255, 255, 255)),
            ("L", 90, (90, 90, 90)),
            ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
            ("YCbCr", (128, 128, 128), (128, 128, 128)),
            ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
            ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
            ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
            ("LA", (0, 51), (204, 204, 204)),
        ],
    )
    def test_modes_become_rgb(self, tmp_path, mode, value, expected):
        """Each mode has one documented way to RGB; transparency is laid over white."""
        path = tmp_path / "x.tif"
        Image.new(mode, (3, 2), value).save(path)
        decoded = decode(path)

        assert decoded.pixels.dtype == np.uint8
        assert np.abs(decoded.pixels[0, 0].astype(int) - expected).max() <= 1

    def test_palettes_show_their_colours(self, tmp_path):
        """A palette image becomes the colours, and its transparent entry becomes white."""
        image = Image.new("P", (2, 1))
        image.putpalette([255, 0, 0, 0, 0, 255])
        image.putdata([0, 1])
        image.save(tmp_path / "x.png")
        image.save(tmp_path / "y.png", transparency=0)

        assert decode(tmp_path / "x.png").pixels.tolist() == [[[255, 0, 0], [0, 0, 255]]]
        assert decode(tmp_path / "y.png").pixels.tolist() == [[[255, 255, 255], [0, 0, 255]]]
        assert decode(tmp_path / "y.png").notes == ("transparency laid over white",)

    @pytest.mark.parametrize("suffix", ["png", "tif", "ppm"])
    def test_sixteen_bits_are_divided_not_clipped(self, tmp_path, suffix):
        """16-bit grey keeps its proportions: 65535 is white, 257 is 1, dark stays dark."""
        values = np.array([[0, 257, 300, 32768, 65535]], np.uint16)
        save(tmp_path / f"x.{suffix}", values)
        save(tmp_path / f"dark.{suffix}", values // 512)

        assert decode(tmp_path / f"x.{suffix}").pixels[0, :, 0].tolist() == [0, 1, 1, 128, 255]
        assert decode(tmp_path / f"dark.{suffix}").pixels.max() == 0

    @pytest.mark.parametrize("dtype", [np.int32, np.float32])
    def test_wide_grey_needs_a_known_range(self, tmp_path, dtype):
        """32-bit and floating-point grey is read within 0..255 and 0..65535, else refused."""
        for name, low, high in [("a", 0, 255), ("b", 0, 65535), ("c", -1, 90), ("d", 0, 70000)]:
            save(tmp_path / f"{name}.tif", np.array([[low, high]], dtype))

        assert decode(tmp_path / "a.tif").pixels[0, :, 0].tolist() == [0, 255]
        assert decode(tmp_path / "b.tif").pixels[0, :, 0].tolist() == [0, 255]
        for name in "cd":
            with pytest.raises(ImageError, match="range of grey values unknown"):
                decode(tmp_path / f"{name}.tif")

    @pytest.mark.parametrize("high", [1.0, 0.3, np.nan, np.inf])
    def test_fractions_and_gaps_are_refused(self, tmp_path, high):
        """Floating-point images within 0..1, or with NaN, are not guessed at."""
        path = save(tmp_path / "x.tif", np.array([[0, high]], np.float32))

        with pytest.raises(ImageError, match="unknown"):
            decode(path)

    @pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_orientation_is_applied(self, tmp_path, suffix, orientation):
        """EXIF orientation turns image and reported size alike."""
        pixels = np.zeros((16, 32, 3), np.uint8)
        pixels[:8, :16] = 255
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = save(tmp_path / f"x.{suffix}", pixels, exif=exif)
        bright = {1: "upper left", 2: "upper right", 3: "lower right", 4: "lower left"}
        bright |= {5: "upper left", 6: "upper right", 7: "lower right", 8: "lower left"}

        result = decode(path).pixels[..., 0]

        rows, columns = result.shape
        assert (rows, columns) == ((16, 32) if orientation < 5 else (32, 16)) == image_size(path)
        quarter = {
            "upper left": result[: rows // 2, : columns // 2],
            "upper right": result[: rows // 2, columns // 2 :],
            "lower left": result[rows // 2 :, : columns // 2],
            "lower right": result[rows // 2 :, columns // 2 :],
        }
        assert max(quarter, key=lambda name: quarter[name].mean()) == bright[orientation]

    @pytest.mark.parametrize("suffix", ["gif", "tif", "png"])
    def test_first_frame_is_taken(self, tmp_path, suffix):
        """Of several frames the first is read, and a note says so."""
        frames = [Image.new("L", (4, 4), value) for value in (10, 200, 90)]
        path = tmp_path / f"x.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        decoded = decode(path)

        assert decoded.pixels[0, 0].tolist() == [10, 10, 10]
        assert decoded.notes == ("first of several frames",)

    def test_boxes_are_cut(self, tmp_path):
        """A box is x, y, width, height, and must lie inside."""
        pixels = noise(10, 20)
        path = save(tmp_path / "x.png", pixels)

        assert (decode(path, box=(3, 2, 5, 4)).pixels == pixels[2:6, 3:8]).all()
        with pytest.raises(ImageError, match="does not lie inside"):
            decode(path, box=(16, 0, 5, 5))
        with pytest.raises(ImageError, match="does not lie inside"):
            cut(pixels, (0, 0, 0, 1))

    def test_content_decides_not_the_name(self, tmp_path):
        """A PNG that is called .jpg is read."""
        path = save(tmp_path / "x.png", noise(4, 4)).rename(tmp_path / "x.jpg")

        assert decode(path).pixels.shape == (4, 4, 3)


# -- decoding: what is refused ----------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    """Make a PNG chunk with a valid checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(rows: int, columns: int) -> bytes:
    """Make a small PNG that claims to be large."""
    header = struct.pack(">IIBBBBB", columns, rows, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0"))


def encoded(kind: str) -> bytes:
    """Encode a valid image file."""
    stream = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(stream, kind)
    return stream.getvalue()


BAD = {
    "half PNG": (encoded("PNG")[:6000], "not readable"),
    "half JPEG": (encoded("JPEG")[:2000], "not readable"),
    "half TIFF": (encoded("TIFF")[:6000], "not readable"),
    "nothing": (b"", "an empty file"),
    "HTML": (b"<!doctype html><title>404</title>", "HTML"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "EPS"),
    "PSD": (b"8BPS\0\1" + bytes(40), "PSD"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
    "broken header": (encoded("PNG")[:20] + b"\xff\xff" + encoded("PNG")[22:], "damaged PNG"),
    "broken pixels": (encoded("PNG")[:3000] + b"\0\1\2\3" + encoded("PNG")[3004:], "not readable"),
    "9,400 squared": (png_header(9400, 9400), "too large"),
    "12,000 squared": (png_header(12000, 12000), "too large"),
    "20,000 squared": (png_header(20000, 20000), "too large"),
    "compressed text bomb": (
        encoded("PNG")[:33]
        + chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80_000_000)))
        + encoded("PNG")[33:],
        "not readable",
    ),
    "random bytes": (np.random.default_rng(1).bytes(500), "not an image"),
}


class TestRefusal:
    @pytest.mark.parametrize("name", sorted(BAD))
    def test_bad_files_have_a_reason(self, tmp_path, name):
        """Each kind of bad file is an ImageError of one line with its own reason."""
        content, reason = BAD[name]
        path = tmp_path / "x.png"
        path.write_bytes(content)

        with pytest.raises(ImageError, match=reason) as caught:
            decode(path)
        assert "\n" not in str(caught.value)
        assert str(tmp_path) not in str(caught.value)

    @pytest.mark.parametrize("kind", ["missing", "dangling", "loop", "folder", "pipe", "below a file", "NUL"])
    def test_what_is_no_file_has_a_reason(self, tmp_path, kind):
        """Whatever stands under the name, nothing hangs and the reason is given."""
        path = tmp_path / "x.png"
        reasons = {
            "missing": "no such file",
            "dangling": "a link to nothing",
            "folder": "a folder",
            "pipe": "a pipe",
        }
        if kind == "dangling":
            path.symlink_to("nowhere.png")
        elif kind == "loop":
            path.symlink_to(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "below a file":
            path.write_bytes(b"x")
            path /= "y.png"
        elif kind == "NUL":
            path = tmp_path / "a\0b.png"

        with pytest.raises(ImageError, match=reasons.get(kind, "not readable")):
            decode(path)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_forbidden_files_have_a_reason(self, tmp_path):
        """A file without permission is a bad image."""
        path = save(tmp_path / "x.png", noise(2, 2))
        path.chmod(0)

        with pytest.raises(ImageError, match="Permission denied"):
            decode(path)

    def test_cap_is_exact(self, tmp_path):
        """An image of the largest allowed size is read, one pixel more is not."""
        path = save(tmp_path / "x.png", noise(10, 10))

        assert decode(path, max_pixels=100).pixels.shape == (10, 10, 3)
        with pytest.raises(ImageError, match="too large; found: 10 x 10"):
            decode(path, max_pixels=99)

    @settings(max_examples=60, deadline=None)
    @given(
        kind=st.sampled_from(["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"]),
        places=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=8),
    )
    @pytest.mark.filterwarnings("ignore")  # Pillow warns of damaged metadata and reads on
    def test_mutated_files_are_read_or_refused(self, tmp_path_factory, kind, places):
        """Damaged bytes give pixels or an ImageError, nothing else."""
        content = bytearray(encoded(kind))
        for place, value in places:
            content[place % len(content)] = value
        path = tmp_path_factory.mktemp("mutated") / "x.png"
        path.write_bytes(content)

        try:
            shape = decode(path, max_pixels=1_000_000).pixels.shape
        except ImageError:
            shape = (1, 1, 3)  # refused: that is one of the two allowed outcomes
        assert len(shape) == 3
        assert shape[2] == 3


# -- masks ------------------------------------------------------------------------------------


class TestMasks:
    SPEC = MaskSpec((("tumour", (0, 4)), ("stroma", (1,))), ignore=(3,))

    def test_ids_become_positions(self):
        """Ids of one class share a position; ignored ids are -1; undeclared 0 would be background."""
        assert self.SPEC.positions(np.array([[0, 4, 1, 3]])).tolist() == [[0, 0, 1, -1]]
        assert self.SPEC.background == ()
        assert MaskSpec((("a", (7,)),)).positions(np.array([[0, 7]])).tolist() == [[-2, 0]]

    def test_undeclared_ids_are_refused(self):
        """An id without meaning is named, with the remedy."""
        with pytest.raises(ManifestError, match="undeclared ids; found: 2, 9"):
            self.SPEC.positions(np.array([[0, 9, 2, 9]]))

    def test_instances_take_every_id(self):
        """With one id per object every id above 0 is foreground, ignored ones are not."""
        spec = MaskSpec.instances(ignore=(9,))

        assert spec.positions(np.array([[0, 1, 500, 65535, 9]])).tolist() == [[-2, 0, 0, 0, -1]]

    def test_more_ids_can_be_ignored(self):
        """Ignoring an id takes it out of its class, and an empty class away."""
        spec = MaskSpec((("a", (1, 2)), ("b", (3,)))).ignoring([2, 3, 0])

        assert spec == MaskSpec((("a", (1,)),), ignore=(0, 2, 3), background=())

    @pytest.mark.parametrize(
        ("classes", "ignore", "message"),
        [
            ((("a", (1,)), ("b", (1,))), (), "declared twice"),
            ((("a", (1,)), ("a", (2,))), (), "declared twice"),
            ((("a", (1,)),), (1,), "declared twice"),
            ((("a", (-1,)),), (), "out of range"),
            ((("a", (70000,)),), (), "out of range"),
            ((("", (1,)),), (), "names"),
            ((), (), "names"),
        ],
    )
    def test_contradictions_are_refused(self, classes, ignore, message):
        """An id has one meaning, a class one name."""
        with pytest.raises(ManifestError, match=message):
            MaskSpec(classes, ignore)

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([[0, 255]], MaskSpec((("foreground", (255,)),))),
            ([[0, 0], [0, 1]], MaskSpec((("foreground", (1,)),))),
            ([[5, 5]], MaskSpec((("foreground", (5,)),))),
            ([[0, 1], [2, 7]], MaskSpec((("mask 1", (1,)), ("mask 2", (2,)), ("mask 7", (7,))))),
            ([[0, 0]], MaskSpec.instances()),
            ([list(range(40))], MaskSpec.instances()),
        ],
    )
    def test_meaning_is_deduced(self, tmp_path, values, expected):
        """Two ids are a foreground, few are classes, many are instances."""
        path = save(tmp_path / "m.png", np.array(values, np.uint8))

        assert deduce([path]) == expected

    def test_wide_files_hold_instances(self, tmp_path):
        """A 16-bit mask holds one id per object, however few there are."""
        assert deduce([save(tmp_path / "m.png", np.array([[0, 1, 2]], np.uint16))]) == MaskSpec.instances()

    def test_deduction_passes_over_bad_masks(self, tmp_path):
        """A missing mask among good ones does not stop the deduction."""
        good = save(tmp_path / "m.png", np.array([[0, 255]], np.uint8))

        assert deduce([tmp_path / "none.png", good]).names == ("foreground",)

    @pytest.mark.parametrize(
        "spec",
        [
            SPEC,
            MaskSpec.instances(ignore=(9,)),
            MaskSpec((('a "quoted" \\ näme\x7f\n', (1,)), ("b.c", (2,))), (0,), (5,)),
        ],
    )
    def test_sidecar_survives_writing(self, tmp_path, spec):
        """A written declaration is read back as it was."""
        path = tmp_path / "m.toml"
        path.write_text(sidecar_text(spec), encoding="utf-8")

        assert read_sidecar(path) == spec

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[masks]\nclases = {a = 1}", "did you mean classes"),
            ("[masks]\ninstances = true\nclasses = {a = 1}", "instances = true"),
            ("[masks]\nignore = [3]", "classes ="),
            ("[masks]\nclasses = {a = true}", "wanted: ids"),
            ("masks = 3", "a table"),
            ("[masks", "not understood"),
        ],
    )
    def test_bad_sidecars_are_refused(self, tmp_path, text, message):
        """A declaration that cannot be meant is one clear line."""
        path = tmp_path / "m.toml"
        path.write_text(text)

        with pytest.raises(ManifestError, match=message):
            read_sidecar(path)

    def test_mask_ids_are_exact(self, tmp_path):
        """Grey levels, palette positions and 16-bit values come as they are; 1-bit gives 0 and 1."""
        palette = Image.new("P", (3, 1))
        palette.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
        palette.putdata([0, 2, 1])
        palette.save(tmp_path / "p.png")
        save(tmp_path / "w.png", np.array([[0, 300, 65535]], np.uint16))
        save(tmp_path / "b.png", np.array([[True, False]]))

        assert decode_mask(tmp_path / "p.png").tolist() == [[0, 2, 1]]
        assert decode_mask(tmp_path / "w.png").tolist() == [[0, 300, 65535]]
        assert decode_mask(tmp_path / "b.png").tolist() == [[1, 0]]

    def test_colour_and_lossy_masks_are_refused(self, tmp_path):
        """A mask in colour, or in JPEG, is not usable."""
        save(tmp_path / "c.png", noise(3, 3))
        save(tmp_path / "j.jpg", noise(3, 3)[..., 0])
        save(tmp_path / "n.tif", np.array([[-1, 3]], np.int32))

        for name, reason in [("c.png", "mode RGB"), ("j.jpg", "JPEG"), ("n.tif", "-1..3")]:
            with pytest.raises(ImageError, match=f"mask not usable; found: .*{reason}"):
                decode_mask(tmp_path / name)


# -- sources ----------------------------------------------------------------------------------


class TestManifestSource:
    def test_bad_images_keep_their_row(self, tmp_path):
        """A bad image is a sample with its reason; its neighbours are not shifted."""
        for name, level in [("a", 10), ("c", 30)]:
            save(tmp_path / f"{name}.png", np.full((8, 8, 3), level, np.uint8))
        (tmp_path / "b.png").write_bytes(b"<html>")
        source = ManifestSource(manifest_of(tmp_path, image=["a.png", "b.png", "c.png", "d.png"]), UNIT)

        samples = [source.read(index) for index in range(len(source))]

        assert [sample.index for sample in samples] == [0, 1, 2, 3]
        assert [sample.view is None for sample in samples] == [False, True, False, True]
        assert [None if s.tensor is None else round(float(s.tensor.mean() * 255)) for s in samples] == [
            10,
            None,
            30,
            None,
        ]
        assert "HTML" in samples[1].error
        assert "missing" in samples[3].error

    def test_no_such_row_is_a_mistake(self, tmp_path):
        """Row numbers outside the manifest are programming errors."""
        source = ManifestSource(manifest_of(tmp_path, image=["a.png"]), UNIT)

        for index in (-1, 1):
            with pytest.raises(IndexError):
                source.read(index)

    def test_sizes_must_agree_without_a_size(self, tmp_path):
        """Without size, the first readable image decides, in whatever order rows are read."""
        (tmp_path / "0.png").write_bytes(b"")
        for number, shape in enumerate([(8, 9), (8, 9), (9, 8)], start=1):
            save(tmp_path / f"{number}.png", noise(*shape))
        manifest = manifest_of(tmp_path, image=[f"{number}.png" for number in range(4)])
        forward = [ManifestSource(manifest, UNIT).read(index).error for index in range(4)]
        source = ManifestSource(manifest, UNIT)
        backward = [source.read(index).error for index in (3, 2, 1, 0)][::-1]

        assert forward == backward
        assert [bool(error) for error in forward] == [True, False, False, True]
        assert "--preprocess size=" in forward[3]
        assert ManifestSource(manifest, Preprocessing.parse("size=8")).read(3).error == ""

    @pytest.mark.parametrize(
        ("mask", "reason"),
        [
            (noise(8, 8), "mode RGB"),
            (np.zeros((8, 9), np.uint8), "another size"),
            (np.full((8, 8), 7, np.uint8), "undeclared ids; found: 7"),
            (None, "no such file"),
        ],
    )
    def test_bad_masks_leave_the_image(self, tmp_path, mask, reason):
        """A mask that cannot be used is refused with a reason, the image stays."""
        save(tmp_path / "a.png", noise(8, 8))
        if mask is not None:
            save(tmp_path / "m.png", mask)
        spec = MaskSpec((("a", (1,)),))
        sample = ManifestSource(manifest_of(tmp_path, spec, image=["a.png"], mask=["m.png"]), UNIT).read(0)

        assert sample.error == ""
        assert sample.tensor is not None
        assert sample.mask is None
        assert reason in sample.mask_error

    def test_masks_come_as_positions(self, tmp_path):
        """A mask has positions on the grid of the view; an image without one misses nothing."""
        save(tmp_path / "a.png", noise(4, 4))
        save(tmp_path / "b.png", noise(4, 4))
        save(tmp_path / "m.png", np.array([[0, 0, 2, 2]] * 2 + [[1, 1, 3, 3]] * 2, np.uint8))
        spec = MaskSpec((("x", (1,)), ("y", (2,))), ignore=(3,))
        source = ManifestSource(
            manifest_of(tmp_path, spec, image=["a.png", "b.png"], mask=["m.png", ""]),
            Preprocessing.parse("size=2"),
        )

        assert source.read(0).mask.tolist() == [[-2, 1], [0, -1]]
        assert source.read(0).mask.dtype == np.int64
        assert (source.read(1).mask, source.read(1).mask_error) == (None, "")

    def test_objects_keep_their_numbers(self, tmp_path):
        """Instance masks tell objects apart on the grid of the view, ignored ids left out; classes do not."""
        save(tmp_path / "a.png", noise(2, 4))
        save(tmp_path / "m.png", np.array([[0, 7, 7, 12], [5, 9, 9, 12]], np.uint8))
        tables = {"image": ["a.png"], "mask": ["m.png"]}
        numbered = ManifestSource(
            manifest_of(tmp_path, MaskSpec.instances(ignore=(9,)), **tables), Preprocessing.parse("unit")
        )
        classes = MaskSpec((("x", (5, 7, 12)),), ignore=(9,))
        plain = ManifestSource(manifest_of(tmp_path, classes, **tables), Preprocessing.parse("unit"))

        assert numbered.read(0).objects.tolist() == [[0, 7, 7, 12], [5, 0, 0, 12]]
        assert numbered.read(0).mask.tolist() == plain.read(0).mask.tolist()
        assert plain.read(0).objects is None

    def test_tiles_are_cut_from_image_and_mask(self, tmp_path):
        """A tile shows its part of the image and of the mask."""
        pixels, ids = noise(20, 30), np.arange(600).reshape(20, 30) % 5
        save(tmp_path / "a.png", pixels)
        save(tmp_path / "m.png", ids.astype(np.uint8))
        spec = MaskSpec(tuple((str(one), (one,)) for one in range(5)))
        manifest = manifest_of(
            tmp_path,
            spec,
            image=["a.png"] * 2,
            mask=["m.png"] * 2,
            x=[3, 22],
            y=[2, 12],
            width=[8, 8],
            height=[8, 8],
        )
        samples = [ManifestSource(manifest, UNIT).read(index) for index in range(2)]

        assert (samples[0].view == pixels[2:10, 3:11]).all()
        assert (samples[1].view == pixels[12:20, 22:30]).all()
        assert (samples[1].mask == ids[12:20, 22:30]).all()

    def test_threads_decode_an_image_of_many_tiles_once(self, tmp_path, monkeypatch):
        """Tiles read by several threads at once agree with one thread and decode their image once."""
        save(tmp_path / "a.png", noise(32, 32))
        (tmp_path / "b.png").write_bytes(b"no")
        corners = [(x, y) for x in range(0, 32, 8) for y in range(0, 32, 8)]
        frame = {
            "image": ["a.png"] * 16 + ["b.png"] * 16,
            "x": [x for x, _ in corners] * 2,
            "y": [y for _, y in corners] * 2,
            "width": 8,
            "height": 8,
        }
        manifest = manifest_of(tmp_path, **frame)
        expected = [ManifestSource(manifest, UNIT).read(index) for index in range(32)]
        calls, started = [], threading.Barrier(4)

        def counted(path, **options):
            calls.append(path.name)
            return decode(path, **options)

        def read(index):
            if index < 4:
                started.wait(timeout=10)
            return source.read(index)

        monkeypatch.setattr(images_module, "decode", counted)
        source = ManifestSource(manifest, UNIT)
        with ThreadPoolExecutor(4) as pool:
            samples = list(pool.map(read, range(32)))

        assert sorted(calls) == ["a.png", "b.png"]
        assert all((one.view == two.view).all() for one, two in zip(samples[:16], expected[:16], strict=True))
        assert [sample.error for sample in samples] == [sample.error for sample in expected]

    def test_travels_to_other_processes(self, tmp_path):
        """A source can be pickled, and reads the same afterwards."""
        save(tmp_path / "a.png", noise(4, 4))
        source = ManifestSource(manifest_of(tmp_path, image=["a.png"]), UNIT)
        source.read(0)
        again = pickle.loads(pickle.dumps(source))

        assert torch.equal(again.read(0).tensor, source.read(0).tensor)


class TestTensorSource:
    def test_images_come_as_given(self):
        """The tensor is untouched; its picture shows it from black to white."""
        images = torch.randn(3, 3, 5, 6)
        source = TensorSource(images)
        sample = source.read(2)

        assert len(source) == 3
        assert torch.equal(sample.tensor, images[2])
        shown = source.picture(2)
        assert shown.shape == (5, 6, 3)
        assert (shown.min(), shown.max()) == (0, 255)

    @pytest.mark.parametrize("channels", [1, 2, 3, 7])
    def test_any_number_of_channels_is_shown(self, channels):
        """The picture has three channels, whatever the network takes; a flat image is black."""
        assert TensorSource(torch.ones(1, channels, 4, 4)).picture(0).tolist() == np.zeros((4, 4, 3)).tolist()

    def test_masks_are_positions(self):
        """Masks pass through, and their classes have names."""
        masks = torch.tensor([[[0, 1], [-1, -2]]])
        source = TensorSource(torch.zeros(1, 1, 2, 2), masks, ("a", "b"))

        assert source.read(0).mask.tolist() == masks[0].tolist()
        assert source.masks.names == ("a", "b")
        assert TensorSource(torch.zeros(1, 1, 2, 2), masks).masks.names == ("mask 0", "mask 1")

    def test_non_finite_images_are_bad(self):
        """An image with NaN is refused, not its neighbours."""
        images = torch.zeros(2, 1, 2, 2)
        images[0, 0, 0, 0] = torch.nan
        source = TensorSource(images)

        assert "NaN" in source.read(0).error
        assert source.read(1).error == ""

    @pytest.mark.parametrize(
        ("images", "masks", "classes"),
        [
            (torch.zeros(3, 4, 4), None, ()),
            (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), None, ()),
            (torch.zeros(1, 3, 4, 4), torch.zeros(1, 5, 4, dtype=torch.long), ()),
            (torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4), ()),
            (torch.zeros(1, 3, 4, 4), torch.full((1, 4, 4), 2), ("a",)),
            (torch.zeros(1, 3, 4, 4), torch.full((1, 4, 4), -3), ("a",)),
        ],
    )
    def test_misfits_are_refused(self, images, masks, classes):
        """Wrong shapes, types and positions are usage errors."""
        with pytest.raises(UsageError, match="in memory"):
            TensorSource(images, masks, classes)


# -- real data --------------------------------------------------------------------------------


def real(name: str) -> Path:
    """Find a real data set, or skip, or fail where it is required."""
    folder = SHARED / name
    if not folder.is_dir():
        if os.environ.get("WSSS_PROBE_REQUIRE_REAL") == "1":
            pytest.fail(f"{folder} is required")
        pytest.skip(f"{name} is not here")
    return folder


@pytest.mark.real
class TestReal:
    @pytest.mark.parametrize("name", ["glas", "luad", "nuclei", "pcam", "kather", "imagenet_sample"])
    def test_images_and_masks_are_readable(self, name):
        """Images of six real sets, PNG, JPEG and TIFF, are read with their masks."""
        manifest = read_manifest(real(name) / "manifest.csv")
        if name == "luad":
            manifest = Manifest(manifest.root, manifest.frame, LUAD)
        source = ManifestSource(manifest, Preprocessing.parse("size=64"))
        samples = [source.read(index) for index in range(0, len(source), max(1, len(source) // 20))]

        assert {(sample.error, sample.mask_error) for sample in samples} == {("", "")}
        assert all((sample.mask is None) == (manifest.masks is None) for sample in samples)

    def test_a_natural_size_is_kept(self):
        """PCam tiles are all 96 x 96 and need no size."""
        source = ManifestSource(discover(real("pcam")), UNIT)

        assert {source.read(index).tensor.shape for index in range(0, len(source), 200)} == {(3, 96, 96)}

    def test_mixed_sizes_are_quarantined(self):
        """GlaS images differ in size: without one the odd ones are refused with the remedy."""
        source = ManifestSource(discover(real("glas")), UNIT)
        errors = [source.read(index).error for index in range(len(source))]

        assert errors[0] == ""
        assert any("--preprocess size=" in error for error in errors)

    def test_gland_area_survives_resizing(self):
        """The gland fraction of GlaS masks on the network's grid equals the published one."""
        manifest = read_manifest(real("glas") / "manifest.csv")
        source = ManifestSource(manifest, Preprocessing.parse("size=192x256"))
        published = manifest.frame["gland_fraction"].astype(float)

        for index in range(0, len(source), 15):
            assert (source.read(index).mask == 0).mean() == pytest.approx(published[index], abs=0.01)


LUAD = MaskSpec((("tumour", (0,)), ("stroma", (1,)), ("normal", (2,))), ignore=(3,))


class TestOwnPreprocessing:
    OWN = Preprocessing(size=(32, 32), mean=(0.7, 0.5, 0.6), std=(0.2, 0.3, 0.2))

    def test_pairs_change_what_the_network_brings(self):
        """A size alone keeps the network's own mean and standard deviation."""
        changed = Preprocessing.parse("size=64", self.OWN)

        assert (changed.size, changed.mean, changed.std) == ((64, 64), self.OWN.mean, self.OWN.std)

    def test_a_name_starts_anew(self):
        """A name replaces everything that the network brings."""
        assert Preprocessing.parse("imagenet", self.OWN) == Preprocessing.parse("imagenet")

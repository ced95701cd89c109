"""Bad input of every kind, met by a whole audit: one clear line, the right exit code, nothing half-written.

The letters and numbers name cases; ``docs/faults.md`` lists them with all tests that hold them.
"""

import argparse
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import unicodedata
import warnings
import zipfile
import zlib
from collections import Counter
from html.parser import HTMLParser
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

import wsss_probe
from wsss_probe import cli
from wsss_probe.errors import ExitCode, ModelError
from wsss_probe.images import TensorSource
from wsss_probe.testing.models import inplace, planted_gap, reused, tuple_output

FACTORIES = """
from wsss_probe.testing.models import inplace, planted_gap

def net():
    return inplace()

def planted():
    return planted_gap()
"""


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Keep torch to one thread, for the audits that tests share as well: sums are ordered by threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def wsss(capsys, tmp_path, monkeypatch):
    """Run the command line in this process; gives exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")

    def call(*arguments):
        code = cli._run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(code), captured.out, captured.err

    return call


@pytest.fixture
def nets(tmp_path):
    """A file with two factories."""
    path = tmp_path / "nets.py"
    path.write_text(FACTORIES)
    return path


@pytest.fixture
def marker(tmp_path):
    """A file that appears if a payload runs; every test that takes it ends by looking for it."""
    path = tmp_path / "marker"
    yield path
    assert not path.exists()


def picture(number, red=True, size=16):
    """Draw noise, with a red square or without."""
    pixels = np.random.default_rng(number).integers(60, 120, (size, size, 3), dtype=np.uint8)
    if red:
        pixels[3:11, 4:12] = (250, 20, 40)
    return pixels


def save(path, pixels):
    """Write an image file, and the folder around it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Six good images in two classes."""
    for number in range(6):
        name = "foreground" if number % 2 else "background"
        save(tmp_path / "images" / name / f"{number}.png", picture(number, bool(number % 2)))
    return tmp_path / "images"


def one_line(said):
    """The only line of an error message, which tells no Python."""
    lines = said.strip().splitlines()
    assert len(lines) == 1, said
    assert "Traceback" not in lines[0]
    assert lines[0].isprintable()
    return lines[0]


def leftovers(where):
    """Everything that an audit may leave in a folder."""
    return sorted(path.name for path in where.iterdir() if path.name.startswith("run"))


def record_of(run):
    """Read run.json."""
    return json.loads((run / "run.json").read_text())


# -- A: checkpoints and architectures -----------------------------------------------------------


class Payload:
    """Creates the marker when unpickled: harmless, and impossible to overlook."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (open, (self.marker, "w"))


def save_torch(path, what, **options):
    """Write with torch.save, whose own warnings are not under test."""
    with warnings.catch_warnings(action="ignore"):
        torch.save(what, path, **options)


def rezipped(path, compression):
    """Pack a checkpoint's entries again, compressed."""
    with zipfile.ZipFile(path) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)


def flip_a_bit(path):
    """Change one bit of tensor data, which torch does not notice."""
    content = bytearray(path.read_bytes())
    place = content.find(b"\x3f", 2000)
    content[place] ^= 0x40
    path.write_bytes(bytes(content))


def write_tar(path):
    """Write what torch.save wrote before 0.2, as far as its loader looks."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.add(__file__, "storages")


def changed(state, **values):
    """Replace some tensors; None removes one."""
    merged = {**state, **{name.replace("__", "."): value for name, value in values.items()}}
    return {name: value for name, value in merged.items() if value is not None}


def filled(tensor, value):
    """Put a value into the middle of a tensor."""
    made = tensor.clone()
    made.view(-1)[made.numel() // 2] = value
    return made


NAN, INFINITE = float("nan"), float("inf")
REFUSED_WEIGHTS = {
    "A2 pickled module": (lambda p, s, m: save_torch(p, inplace()), 7, "objects that need code"),
    "A3 payload beside tensors": (lambda p, s, m: save_torch(p, {**s, "x": Payload(m)}), 7, "io.open"),
    "A3 payload in a container": (
        lambda p, s, m: save_torch(p, {"state_dict": s, "hyper_parameters": Payload(m)}), 7, "io.open",
    ),
    "A4 raw pickle": (lambda p, s, m: p.write_bytes(pickle.dumps(Payload(m), 2)), 7, "a raw pickle"),
    "A4 protocol 4": (lambda p, s, m: p.write_bytes(pickle.dumps(Payload(m), 4)), 7, "a raw pickle"),
    "A5 legacy with payload": (
        lambda p, s, m: save_torch(p, {**s, "x": Payload(m)}, _use_new_zipfile_serialization=False),
        7, "objects that need code",
    ),
    "A6 tar": (lambda p, s, m: write_tar(p), 7, "the tar format"),
    "A10 half a file": (
        lambda p, s, m: (save_torch(p, s), p.write_bytes(p.read_bytes()[: p.stat().st_size // 2])),
        4, "truncated",
    ),
    "A10 nothing": (lambda p, s, m: p.write_bytes(b""), 4, "an empty file"),
    "A10 LFS pointer": (
        lambda p, s, m: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid x"),
        4, "git lfs pull",
    ),
    "A10 web page": (lambda p, s, m: p.write_bytes(b"<!DOCTYPE html><title>404</title>"), 4, "a web page"),
    "A10 folder": (lambda p, s, m: p.mkdir(), 4, "a folder"),
    "A10 pipe": (lambda p, s, m: os.mkfifo(p), 7, "a device, pipe or socket"),
    "A10 endless device": (lambda p, s, m: p.symlink_to("/dev/zero"), 7, "a device, pipe or socket"),
    "A10 missing": (lambda p, s, m: None, 4, "No such file"),
    "A11 zip bomb": (
        lambda p, s, m: (save_torch(p, {"w": torch.zeros(4_000_000)}), rezipped(p, zipfile.ZIP_DEFLATED)),
        7, "never compresses",
    ),
    "A12 flipped bit": (lambda p, s, m: (save_torch(p, s), flip_a_bit(p)), 4, "wrong checksum"),
    "A17 NaN": (
        lambda p, s, m: save_torch(p, changed(s, features__0__weight=filled(s["features.0.weight"], NAN))),
        4, "features.0.weight",
    ),
    "A17 infinite": (
        lambda p, s, m: save_torch(p, changed(s, classifier__bias=filled(s["classifier.bias"], INFINITE))),
        4, "classifier.bias",
    ),
    "A17 negative variance": (
        lambda p, s, m: save_torch(p, changed(s, features__1__running_var=-s["features.1.running_var"])),
        4, "features.1.running_var",
    ),
    "A18 foreign hyper-parameters": (
        lambda p, s, m: save_torch(p, {"state_dict": s, "hyper_parameters": Path("x")}), 7, "pathlib",
    ),
    "A22 list": (lambda p, s, m: save_torch(p, list(s.values())), 4, "a list"),
}  # fmt: skip


class TestCheckpoints:
    @pytest.mark.parametrize("case", REFUSED_WEIGHTS)
    def test_refused_in_one_line(self, wsss, nets, folder, tmp_path, marker, case):
        """Bad weights end in one line that names file and reason; nothing ran and nothing is left."""
        write, code, reason = REFUSED_WEIGHTS[case]
        write(tmp_path / "weights.pt", inplace().state_dict(), marker)
        found, _, said = wsss(
            "audit", "--model", f"{nets}:net", "--trust-code", "--weights", "weights.pt",
            "--images", folder, "--preprocess", "unit", "--out", "run",
        )  # fmt: skip

        assert found == code
        assert reason in one_line(said)
        assert "weights.pt" in said
        assert leftovers(tmp_path) == []

    def test_a_registry_network_is_no_exception(self, wsss, folder, tmp_path, marker):
        """A3, A9: a payload for a torchvision network is refused, whatever the environment says."""
        save_torch(tmp_path / "weights.pt", {"fc.weight": torch.ones(2), "x": Payload(marker)})
        done = subprocess.run(
            [
                sys.executable, "-W", "error", "-m", "wsss_probe", "audit",
                "--model", "torchvision/squeezenet1_1", "--weights", "weights.pt", "--images", folder,
                "--out", "run",
            ],
            env={**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip

        assert done.returncode == ExitCode.UNSAFE
        assert "io.open" in one_line(done.stderr)
        assert leftovers(tmp_path) == []

    @pytest.mark.parametrize(
        ("change", "row"),
        [
            ({"classifier__weight": torch.ones(7, 8)}, "classifier.weight"),
            ({"head__weight": torch.ones(3)}, "head.weight"),
            ({"features__1__running_mean": None}, "features.1.running_mean"),
        ],
    )
    def test_misfits_are_shown_as_a_table(self, wsss, nets, folder, tmp_path, change, row):
        """A20: another head, an extra tensor and a missing buffer stand in a table of differences."""
        save_torch(tmp_path / "weights.pt", changed(inplace().state_dict(), **change))
        code, _, said = wsss(
            "audit", "--model", f"{nets}:net", "--trust-code", "--weights", "weights.pt",
            "--images", folder, "--preprocess", "unit", "--out", "run",
        )  # fmt: skip

        assert code == ExitCode.USAGE
        assert [line for line in said.splitlines() if row in line]
        assert len(said.splitlines()) < 12
        assert leftovers(tmp_path) == []

    def test_no_common_name(self, wsss, nets, folder, tmp_path):
        """A19: weights of which no name fits never leave a network at random."""
        save_torch(tmp_path / "weights.pt", {f"other.{k}": v for k, v in planted_gap().state_dict().items()})
        code, _, said = wsss(
            "audit", "--model", f"{nets}:net", "--trust-code", "--weights", "weights.pt", "--images", folder,
            "--preprocess", "unit", "--out", "run", "--allow-missing", ",".join(inplace().state_dict()),
        )  # fmt: skip

        assert code == ExitCode.USAGE
        assert "weights.pt" in said
        assert leftovers(tmp_path) == []

    @pytest.mark.parametrize("case", ["A1", "A5 legacy", "A18 DataParallel", "A18 compiled", "A18 Lightning"])
    def test_good_ones_load(self, wsss, nets, folder, tmp_path, case):
        """What people do save is loaded, and the run records hash, prefix and container."""
        state = {name: value + 0.01 for name, value in planted_gap().state_dict().items()}
        legacy = {"_use_new_zipfile_serialization": False} if case == "A5 legacy" else {}
        prefix = {"A18 DataParallel": "module.", "A18 compiled": "_orig_mod.", "A18 Lightning": "model."}
        named = {prefix.get(case, "") + name: value for name, value in state.items()}
        whole = {"state_dict": named, "hyper_parameters": argparse.Namespace(lr=0.1), "epoch": 3}
        save_torch(tmp_path / "weights.pt", whole if case == "A18 Lightning" else named, **legacy)
        code, _, said = wsss(
            "audit", "--model", f"{nets}:planted", "--trust-code", "--weights", "weights.pt",
            "--images", folder, "--preprocess", "unit", "--layers", "features", "--controls", "none",
            "--classes", "background,foreground", "--only-plugins", "explainers", "--out", "run",
            "--no-progress",
        )  # fmt: skip
        model = record_of(tmp_path / "run")["model"]

        assert code == 0, said
        assert model["prefix"] == prefix.get(case, "")
        assert len(model["weights_sha256"]) == 64
        assert ("state_dict" in " ".join(model["notes"])) == (case == "A18 Lightning")
        expected = planted_gap()
        expected.load_state_dict(state)
        pixels = np.array(Image.open(folder / "background" / "0.png")).transpose(2, 0, 1)
        with torch.no_grad():
            logits = expected(torch.from_numpy(pixels)[None].float() / 255)
        found = wsss_probe.open_run(tmp_path / "run")["predictions/logits"].values[0]
        np.testing.assert_allclose(found, logits[0].numpy(), atol=1e-5)


class TestArchitectures:
    @pytest.mark.parametrize("trust", [(), ("--trust-code",)])
    @pytest.mark.parametrize(
        ("spec", "code"),
        [
            ("os:system", 7),
            ("logging.os:system", 7),
            ("faults_pkg..x:y", 4),
            ("faults_pkg:y.z.w", 4),
            ("hf-hub:a/b", 7),
            ("timm/hf-hub:a/b", 7),
            ("timm/local-dir:..", 7),
            ("torchvision/../x", 7),
            ("torchvision/resnet180", 4),
            ("timm/resnet180", 4),
            ("resnet18", 4),
        ],
    )
    def test_names_that_are_no_networks(self, wsss, folder, tmp_path, monkeypatch, spec, code, trust):
        """A24: such a name is refused in one line, and no module of that name is imported."""
        (tmp_path / "faults_pkg").mkdir()
        (tmp_path / "faults_pkg" / "__init__.py").write_text("raise SystemExit('imported')")
        monkeypatch.syspath_prepend(str(tmp_path))
        before = set(sys.modules)
        found, _, said = wsss("audit", "--model", spec, *trust, "--images", folder, "--out", "run")

        assert found == code
        one_line(said)
        new = {name.partition(".")[0] for name in set(sys.modules) - before}
        assert "faults_pkg" not in new
        assert leftovers(tmp_path) == []


# -- B: images, manifests, masks ----------------------------------------------------------------


def chunk(kind, data):
    """Make a PNG chunk with a valid checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows, columns, text=b""):
    """Make a black 1-bit PNG of any size; a bomb is valid and small."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 1, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes((columns + 7) // 8 + 1) * rows))
    return b"\x89PNG\r\n\x1a\n" + header + text + pixels + chunk(b"IEND", b"")


def cut_in_half(path):
    """Keep the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path, place):
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(bytes(content))


BAD_IMAGES = {
    "half.jpg": (lambda p: (save(p, picture(1, size=64)), cut_in_half(p)), "not readable"),
    "half.png": (lambda p: (save(p, picture(1)), cut_in_half(p)), "not readable"),
    "crc.png": (lambda p: (save(p, picture(1)), flip(p, 30)), "damaged PNG"),
    "bit.png": (lambda p: (save(p, picture(1)), flip(p, 300)), "not readable"),
    "empty.png": (lambda p: p.write_bytes(b""), "an empty file"),
    "page.jpg": (lambda p: p.write_bytes(b"<html><title>404</title></html>"), "HTML"),
    "bomb20000.png": (lambda p: p.write_bytes(png(20_000, 20_000)), "too large"),
    "bomb12000.png": (lambda p: p.write_bytes(png(12_000, 12_000)), "too large"),
    "bomb9400.png": (lambda p: p.write_bytes(png(9_400, 9_400)), "too large"),
    "text.png": (
        lambda p: p.write_bytes(png(8, 8, chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(9**8))))),
        "not readable",
    ),
    "drawing.png": (lambda p: p.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "EPS"),
    "dangling.png": (lambda p: p.symlink_to("nowhere.png"), "a link to nothing"),
    "loop.png": (lambda p: p.symlink_to(p.name), "not readable"),
    "pipe.png": (os.mkfifo, "a pipe"),
}  # fmt: skip


@pytest.fixture
def options(nets):
    """Flags of a quick audit of the planted network."""
    return [
        "--model", f"{nets}:planted", "--trust-code", "--preprocess", "unit", "--layers", "features",
        "--controls", "none", "--classes", "background,foreground", "--only-plugins", "explainers,channels",
        "--batch-size", "4", "--out", "run", "--no-progress",
    ]  # fmt: skip


@pytest.fixture
def audited(wsss, options, tmp_path):
    """Run a quick audit that must succeed; gives its tables."""

    def call(*arguments):
        code, _, said = wsss("audit", *options, *arguments)
        assert (code, said) == (0, "")
        assert leftovers(tmp_path) == ["run"]
        assert (tmp_path / "run" / "report.html").stat().st_size > 1000
        return wsss_probe.open_run(tmp_path / "run")

    return call


def planted_logits(pixels):
    """What the planted network says about a picture."""
    images = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None].float() / 255
    with torch.no_grad():
        return planted_gap()(images)[0].numpy()


class TestImages:
    @pytest.fixture
    def spoilt(self, folder):
        """Add every kind of bad image to the good ones."""
        for name, (write, _) in BAD_IMAGES.items():
            write(folder / "background" / name)
        return folder

    def test_bad_among_good(self, audited, spoilt, tmp_path):
        """B1, B2, B4, B11: bad images are NaN rows with a reason each; good ones are as without them."""
        tree = audited("--images", spoilt, "--max-bad-fraction", "1")
        paths = tree["images/path"].values
        logits = tree["predictions/logits"].values
        listed = pd.read_csv(tmp_path / "run" / "quarantine.csv")
        reasons = dict(zip(listed["image"], listed["reason"], strict=True))

        assert len(paths) == 6 + len(BAD_IMAGES)
        for index, path in enumerate(paths):
            name = Path(path).name
            if name in BAD_IMAGES:
                assert BAD_IMAGES[name][1] in reasons[path]
                assert np.isnan(logits[index]).all()
            else:
                expected = planted_logits(np.array(Image.open(spoilt / path)))
                np.testing.assert_allclose(logits[index], expected, atol=1e-5)
        assert list(listed["index"]) == [i for i, p in enumerate(paths) if Path(p).name in BAD_IMAGES]
        relevance = tree["relevance/gradcam/features/relevance"].values
        assert (np.isnan(relevance).all((1, 2)) == np.isnan(logits).any(1)).all()

    def test_too_many(self, wsss, options, spoilt, tmp_path):
        """B21: above the limit the audit ends with code 6 and one line; the list is written, no run."""
        code, _, said = wsss("audit", *options, "--images", spoilt)

        assert code == ExitCode.WITH_FAILURES
        assert f"found: {len(BAD_IMAGES)} of 20" in one_line(said)
        assert leftovers(tmp_path) == ["run.partial"]
        assert len(pd.read_csv(tmp_path / "run.partial" / "quarantine.csv")) == len(BAD_IMAGES)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_forbidden(self, audited, folder):
        """B11: a file without permission is a bad image."""
        (folder / "background" / "0.png").chmod(0)

        assert np.isnan(audited("--images", folder)["predictions/logits"].values[0]).all()

    def test_every_mode_is_seen(self, audited, tmp_path):
        """B5: one grey in nine modes is one picture to the network; transparency is laid over white."""
        grey = Image.new("RGB", (16, 16), (128, 128, 128))
        where = tmp_path / "modes"
        where.mkdir()
        for mode in ("L", "LA", "RGBA", "P"):
            grey.convert(mode).save(where / f"{mode}.png")
        for mode in ("CMYK", "F", "I"):
            grey.convert("L" if mode in "FI" else "RGB").convert(mode).save(where / f"{mode}.tif")
        grey.save(where / "YCbCr.jpg", quality=100)
        grey.save(where / "RGB.png")
        clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
        clear.save(where / "white-clear.png")
        Image.new("1", (16, 16), 1).save(where / "white-one.png")
        tree = audited("--images", where)
        pooled = tree["activations/features/mean"].values
        white = np.array(["white" in path for path in tree["images/path"].values])

        assert white.sum() == 2
        np.testing.assert_allclose(pooled[~white], pooled[~white][:1].repeat(9, 0), atol=0.01)
        np.testing.assert_allclose(pooled[white], planted_pooled(255), atol=1e-3)

    @pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 40), (40, 1), (3, 5)])
    def test_tiny_images_are_enlarged(self, audited, folder, rows, columns):
        """B9: an image smaller than the input is enlarged to it, by the stated preprocessing."""
        Image.fromarray(picture(9)[:1, :1].repeat(rows, 0).repeat(columns, 1)).save(folder / "tiny.png")
        tree = audited("--images", folder, "--preprocess", "unit size=16")

        assert np.isfinite(tree["predictions/logits"].values).all()

    def test_too_small_for_the_network(self, wsss, options, tmp_path):
        """B9: where images are too small for the network and nothing enlarges them, one line says so."""
        (tmp_path / "narrow.py").write_text(
            "from torch import nn\ndef net():\n    return nn.Sequential(nn.Conv2d(3, 2, 5, bias=False), "
            "nn.AdaptiveAvgPool2d(1), nn.Flatten()).apply(lambda m: hasattr(m, 'weight') and "
            "nn.init.ones_(m.weight))\n"
        )
        save(tmp_path / "small" / "a.png", picture(1, size=1))
        code, _, said = wsss("audit", *options, "--images", "small", "--model", "narrow.py:net")

        assert code == ExitCode.USAGE
        assert "1x1" in one_line(said).replace(" ", "").replace("×", "x").replace(",", "x")
        assert "--preprocess" in said
        assert leftovers(tmp_path) == []

    def test_no_image(self, wsss, options, tmp_path):
        """B10: a folder without images is nothing to do."""
        (tmp_path / "empty").mkdir()
        code, _, said = wsss("audit", *options, "--images", "empty")

        assert code == ExitCode.NOTHING_TO_DO
        assert "no image" in one_line(said)
        assert leftovers(tmp_path) == []

    def test_one_image(self, audited, tmp_path):
        """B10: one image with a label and a mask, and controls, is a complete audit."""
        save(tmp_path / "one" / "images" / "a.png", picture(1))
        save(tmp_path / "one" / "masks" / "a.png", np.eye(16, dtype=np.uint8))
        rows = "image,label,mask\nimages/a.png,foreground,masks/a.png\n"
        (tmp_path / "one" / "manifest.csv").write_text(rows)
        tree = audited("--images", "one", "--controls", "shuffled:1,reinit:1")

        assert tree["predictions/logits"].shape == (1, 2)

    @pytest.mark.parametrize("number", [4, 5, 17])
    def test_last_batch_and_shard(self, audited, tmp_path, number):
        """B10: images that fill neither the last batch nor the last shard are all there."""
        for index in range(number):
            save(tmp_path / "some" / f"{index}.png", picture(index, index % 2 == 0))
        tree = audited("--images", "some", "--batch-size", "16" if number == 17 else "4")
        expected = [planted_logits(picture(index, index % 2 == 0)) for index in range(number)]

        np.testing.assert_allclose(tree["predictions/logits"].values, expected, atol=1e-5)


def planted_pooled(value):
    """Pooled features of the planted network for a flat picture."""
    pixels = torch.full((1, 3, 16, 16), value / 255)
    with torch.no_grad():
        return planted_gap().features(pixels).mean((2, 3)).numpy().repeat(2, 0)


class TestNames:
    def test_odd_names_are_distinct_images(self, audited, tmp_path):
        """B16: newline, quotes, foreign bytes, 255 bytes, Unicode twins: each is an image of its own."""
        names = [
            b"new\nline.png", b"quote'\".png", b"\xff\xfe.png", b"a" * 251 + b".png", b" leading.png",
            b"CON.png", unicodedata.normalize("NFC", "é.png").encode(),
            unicodedata.normalize("NFD", "é.png").encode(), b"A.png", b"a.png", b"comma,.png",
            "\u202eright.png".encode(), b"=cmd|' C calc'!A0.png", b"<img src=x onerror=alert(1)>.png",
            b"tab\tcarriage\r.png", b"back\\slash.png", b"100%25.png", b"[bold]red[-bold].png",
        ]  # fmt: skip
        where = tmp_path / "odd"
        where.mkdir()
        good = {}
        for number, name in enumerate(names):
            path = where / os.fsdecode(name)
            if number % 3 == 2:
                path.write_bytes(b"")  # so that it is told in words, too
            else:
                good[name] = picture(number)
                with path.open("wb") as stream:
                    Image.fromarray(good[name]).save(stream, "PNG")
        tree = audited("--images", where, "--max-bad-fraction", "1")
        frame = wsss_probe.manifest.discover(where).frame
        logits = tree["predictions/logits"].values

        assert len(frame) == len(names) == len(set(frame["image"]))
        for index, name in enumerate(frame["image"]):
            pixels = good.get(os.fsencode(name))
            expected = [NAN, NAN] if pixels is None else planted_logits(pixels)
            np.testing.assert_allclose(logits[index], expected, atol=1e-5)
        lines = [json.loads(path.read_text()) for path in (tmp_path / "run" / "ledger").iterdir()]
        keys = sorted(int(key) for line in lines for key in line["unreadable"])
        assert keys == [i for i, name in enumerate(frame["image"]) if os.fsencode(name) not in good]
        page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
        assert "\u202e" not in page
        for shown in (r"\xff\xfe.png is not an image", r"tab\tcarriage\r.png is not an image"):
            assert shown in page


MANIFESTS = {
    "B13 out of the folder": ("image\n../../etc/passwd\n", 7, "leaves the folder"),
    "B13 absolute": ("image\n/etc/passwd\n", 7, "leaves the folder"),
    "B13 NUL": ("image\na\0b.png\n", 4, "line"),
    "B13 backslashes": ("image\nimages\\0.png\n", 4, "backslashes"),
    "B13 address": ("image\nhttps://example.org/x.png\n", 4, "an address"),
    "B13 mask out of the folder": ("image,mask\nimages/0.png,../m.png\n", 7, "leaves the folder"),
    "B14 no image column": ("picture,label\nimages/0.png,a\n", 4, "no column 'image'"),
    "B14 same row twice": ("image\nimages/0.png\nimages/0.png\n", 4, "line 3"),
    "B14 short row": ("image,label\nimages/0.png\n", 4, "line 2"),
    "B14 same column twice": ("image,label,label\nimages/0.png,a,b\n", 4, "label"),
    "B14 no row": ("image,label\n", 4, "no row"),
    "B14 nothing": ("", 4, "an empty file"),
    "B14 part of a tile": ("image,x,y\nimages/0.png,0,0\n", 4, "incomplete"),
}  # fmt: skip


class TestManifests:
    @pytest.fixture
    def table(self, tmp_path):
        """A manifest and two images beside it."""
        for number in range(2):
            save(tmp_path / "data" / "images" / f"{number}.png", picture(number, bool(number)))
        return tmp_path / "data" / "manifest.csv"

    @pytest.mark.parametrize("case", MANIFESTS)
    def test_bad_ones_end_in_one_line(self, wsss, options, table, tmp_path, case):
        """A manifest that cannot be meant, or leaves its folder, is refused before anything is written."""
        text, code, reason = MANIFESTS[case]
        table.write_bytes(text.encode())
        found, _, said = wsss("audit", *options, "--manifest", table)

        assert found == code
        assert reason in one_line(said)
        assert leftovers(tmp_path) == []

    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_marks_and_line_ends(self, audited, table, end):
        """B14: BOM, line ends, empty labels, extra columns and blank lines do no harm."""
        lines = ["image,label,stain", "images/0.png,,H&E", "", "images/1.png,foreground,=1+1", ""]
        table.write_bytes(b"\xef\xbb\xbf" + end.join(lines).encode())
        tree = audited("--manifest", table)

        assert list(tree["images/label"].values) == ["", "foreground"]
        assert list(tree["images/stain"].values) == ["H&E", "=1+1"]

    def test_missing_file(self, audited, table):
        """B11: an image that is not there is a NaN row."""
        table.write_text("image\nimages/0.png\nimages/7.png\n")
        logits = audited("--manifest", table)["predictions/logits"].values

        assert list(np.isnan(logits).all(1)) == [False, True]


class TestMasks:
    def mask(self, kind):
        """Draw the mask of a kind for a red square at rows 3 to 10 and columns 4 to 11."""
        mask = np.zeros((16, 16), np.uint8)
        mask[3:11, 4:12] = 1
        made = {
            "good": mask,
            "all 0": mask * 0,
            "all 1": mask * 0 + 1,
            "ignored": mask * 0 + 255,
            "wrong size": mask[:8],
            "unknown ids": mask * 7,
            "colour": np.stack([mask] * 3, -1) * 200,
            "255": mask * 255,
        }
        return made[kind]

    @pytest.fixture
    def scores(self, audited, tmp_path):
        """F1 of the planted channel, (image,), for masks of the given kinds over the same red square."""

        def call(*kinds):
            rows = ["image,mask"]
            for number, kind in enumerate(kinds):
                save(tmp_path / "data" / "images" / f"{number}.png", picture(number, kind != "blank"))
                rows.append(f"images/{number}.png,masks/{number}.png")
                if kind != "missing":
                    save(tmp_path / "data" / "masks" / f"{number}.png", self.mask(kind))
            (tmp_path / "data" / "manifest.csv").write_text("\n".join(rows))
            (tmp_path / "data" / "manifest.toml").write_text(
                "[masks]\nclasses = {foreground = 1}\nignore = [255]\n"
            )
            tree = audited("--images", "data")
            return tree["probes/channel-f1@features/rows/f1"].sel({"class": "foreground"}).values[:, 2]

        return call

    def test_masks_that_cannot_be_used(self, scores, tmp_path):
        """B19: a missing, wrongly sized, undeclared or coloured mask is refused; its image stays."""
        kinds = ["good", "missing", "wrong size", "unknown ids", "colour", "good"]
        found = scores(*kinds)
        listed = pd.read_csv(tmp_path / "run" / "quarantine.csv")

        np.testing.assert_allclose(found[[0, 5]], 1.0)
        assert np.isnan(found[1:5]).all()
        assert list(listed["index"]) == [1, 2, 3, 4]
        assert set(listed["what"]) == {"mask refused"}
        reasons = ("no such file", "another size", "7", "mode RGB")
        assert all(words in found for words, found in zip(reasons, listed["reason"], strict=True))
        logits = wsss_probe.open_run(tmp_path / "run")["predictions/logits"].values
        assert np.isfinite(logits).all()

    def test_empty_full_and_ignored(self, scores, tmp_path):
        """B20: nothing to find gives 0 where something is predicted; ignored everywhere gives NaN."""
        found = scores("good", "all 0", "all 1", "ignored", "255")

        np.testing.assert_allclose(found[:3], [1, 0, 2 * 64 / (64 + 256)], atol=1e-6)
        assert np.isnan(found[3])
        assert np.isnan(found[4])  # the square itself is ignored, and nothing is predicted beside it
        assert len(pd.read_csv(tmp_path / "run" / "quarantine.csv")) == 0

    @pytest.mark.parametrize("kind", ["all 0", "all 1", "ignored", "colour", "unknown ids"])
    def test_all_masks_alike(self, scores, kind):
        """B19, B20: a data set of nothing but such masks is audited to its end."""
        assert len(scores(kind, kind)) == 2


# -- C: activations ------------------------------------------------------------------------------


class Spoil(nn.Module):
    """Puts a value into one cell of one channel of some images."""

    def __init__(self, value, channel):
        super().__init__()
        self.value, self.channel = value, channel

    def forward(self, maps, images):
        """Spoil the images whose first pixel is fully blue."""
        spoilt = maps.clone()
        spoilt[images[:, 2, 0, 0] > 0.99, self.channel, 5, 5] = self.value
        return spoilt


class Flawed(nn.Module):
    """The planted network with a flaw, and a normalisation that could spread it."""

    def __init__(self, value, channel=0):
        super().__init__()
        self.planted, self.features, self.norm = planted_gap(), Spoil(value, channel), nn.BatchNorm2d(6)
        self.eval()

    def forward(self, images):
        """Logits of the spoilt maps."""
        maps = self.features(self.planted.features(images), images)
        return self.planted.classifier(self.norm(maps).mean((2, 3)))


class Varying(nn.Module):
    """One layer drops a row or a channel where the batch holds a blue first pixel."""

    def __init__(self, drop):
        super().__init__()
        self.planted, self.vary = planted_gap(), nn.Identity()
        self.drop = drop

    def forward(self, images):
        """Logits of what is left of the maps."""
        odd = int((images[:, 2, 0, 0] > 0.99).any())
        maps = self.planted.features(images)
        if self.drop == "row":
            return self.planted.classifier(self.vary(maps[:, :, odd:]).mean((2, 3)))
        self.vary(maps.mean((2, 3))[:, odd:])
        return self.planted.classifier(maps.mean((2, 3)))


def scenes(*blue, number=12):
    """Pictures with masks, in memory; the given ones have a blue first pixel."""
    pixels = np.stack([picture(index, index % 2 == 0) for index in range(number)])
    pixels[list(blue), 0, 0] = (60, 60, 255)
    masks = np.zeros((number, 16, 16), np.int64) - 2
    masks[::2, 3:11, 4:12] = 0
    images = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()).float() / 255
    return TensorSource(images, torch.from_numpy(masks), ["foreground"])


QUICK = {"layers": "features", "controls": "none", "concepts": "none", "batch_size": 4}


@pytest.fixture
def audit(tmp_path):
    """Audit a live network; gives outcome, tables and record."""
    numbers = count()

    def call(net, images, **options):
        out = tmp_path / f"run{next(numbers)}"
        outcome = wsss_probe.audit(net, images, out=str(out), **{**QUICK, **options})
        return outcome, wsss_probe.open_run(out), record_of(out)

    return call


FROM_THE_MEAN = {"logit_mean", "correct_mean"}
"""Rows that are measured from the mean over all images, which an image that is left out moves."""

TOGETHER = {"logit_zero", "correct_zero"}
"""Rows of images that go through the rest of the network together."""


class TestNotFinite:
    @pytest.mark.parametrize(("value", "channel"), [(NAN, 0), (INFINITE, 2), (-INFINITE, 0)])
    def test_one_image_is_counted_and_excluded(self, audit, tmp_path, value, channel):
        """C1: one bad cell in one image is counted and named; every other number is as without it."""
        clean, clean_tree, _ = audit(Flawed(value, channel), scenes(), targets="class 1")
        outcome, tree, record = audit(Flawed(value, channel), scenes(5), targets="class 1")
        good = np.arange(12) != 5

        assert clean.exit_code == outcome.exit_code == ExitCode.DONE
        assert record["failures"] == []
        assert record["head"]["linear"]
        assert record["counters"]["predictions/logits:nonfinite"] == 2
        assert record["counters"]["activations/features/mean:nonfinite"] == 1
        assert "nonfinite@predictions/logits" in {finding.name for _, finding in outcome.findings}
        for path in clean_tree.groups:
            for name, array in clean_tree[path].data_vars.items():
                if array.dims[:1] == ("image",) and array.dtype.kind == "f":
                    found = tree[path][name].values
                    if name in FROM_THE_MEAN:
                        continue
                    # copies of several images run together, and their sums are ordered by who is there
                    bound = 1e-6 if name in TOGETHER else 0
                    np.testing.assert_allclose(
                        found[good], array.values[good], rtol=0, atol=bound, err_msg=f"{path}/{name}"
                    )
        for path in ("relevance/gradcam/features/relevance", "probes/channel-f1@features/rows/f1"):
            assert np.isnan(tree[path].values[5]).all()
        listed = pd.read_csv(tmp_path / "run1" / "quarantine.csv")
        assert list(listed["index"]) == [5]
        assert "not finite" in listed["reason"][0]

    def test_a_plugin_is_not_to_blame(self, audit, site):
        """C1: a probe that hands the network's infinity on has not failed; the row is NaN."""
        line = "rows['one'][:] = batch.activations['features'].sum((1, 2, 3)).numpy()"
        plugin = install(site, "summing", observe=line)
        _, tree, record = audit(Flawed(INFINITE), scenes(5), only_plugins=plugin)

        assert record["failures"] == []
        assert list(np.flatnonzero(np.isnan(tree["probes/summing/rows/one"].values))) == [5]

    def test_sums_and_conclusions_leave_it_out(self, audit):
        """C1: pooled counts and the summary are those of the other images alone."""
        _, tree, _ = audit(Flawed(NAN), scenes(4))
        source = scenes()
        kept = [index for index in range(12) if index != 4]
        masks = torch.from_numpy(np.stack([source.read(index).mask for index in kept]))
        _, alone, _ = audit(Flawed(NAN), TensorSource(source.images[kept], masks, ["foreground"]))

        for name in ("tp", "fp", "fn"):
            path = f"probes/channel-f1@features/partials/{name}"
            np.testing.assert_array_equal(tree[path].sum("shard"), alone[path].sum("shard"))

    def test_controls_are_not_poisoned(self, audit):
        """C1: a control that adapts its normalisation to the images leaves the bad one out."""
        _, tree, record = audit(Flawed(NAN), scenes(0), controls="reinit:1", layers="norm")
        pooled = tree["controls/reinit-0/activations/norm/mean"].values

        assert np.isfinite(pooled[1:]).all()
        assert record["controls"] == {"reinit-0": {"norm": True}}

    def test_a_network_of_nothing_else(self, audit, tmp_path):
        """C1: where every image gives NaN the audit ends, and says it."""
        outcome, _, record = audit(Flawed(NAN), scenes(*range(12)))

        assert outcome.exit_code == ExitCode.DONE
        assert record["counters"]["predictions/logits:nonfinite"] == 24
        assert len(pd.read_csv(tmp_path / "run0" / "quarantine.csv")) == 12


class TestLayers:
    def test_dead_channel(self, audit):
        """C2: a channel that is always zero has no score and no rank, and its images are counted."""
        _, tree, _ = audit(planted_gap(), scenes())
        rows = tree["probes/channel-f1@features/rows"]

        assert np.isnan(rows["f1"].values[:, 1]).all()
        assert (rows["degenerate"].values[:, 1] == 1).all()
        summary = tree["probes/channel-f1@features/summary"]
        assert np.isnan(summary["rank"].values[1]).all()
        assert np.isnan(summary["mean_f1"].values[1]).all()
        assert summary["degenerate"].values[1] == 12
        assert np.isfinite(summary["rank"].values[[0, 2, 3, 4, 5]]).all()

    @pytest.mark.parametrize(
        ("net", "layer", "words"),
        [
            (reused, "idle", "never runs"),
            (reused, "relu#2", "not found"),
            (tuple_output, "pair", "one tensor"),
            (tuple_output, "silent", "one tensor"),
        ],
    )
    def test_layers_that_cannot_be_tapped(self, net, layer, words, tmp_path):
        """C5: a layer that never runs, or puts out no single tensor, is refused and nothing is written."""
        with pytest.raises(ModelError, match=words) as caught:
            wsss_probe.audit(net(), scenes(), out=str(tmp_path / "run"), **{**QUICK, "layers": layer})

        one_line(str(caught.value))
        assert leftovers(tmp_path) == []

    @pytest.mark.parametrize("layer", ["relu", "relu#0", "relu#1"])
    def test_a_module_that_runs_twice(self, audit, layer):
        """C5: each call of a reused module is a layer of its own; the bare name is the last call."""
        seen, net, images = [], reused(), scenes().images
        with torch.no_grad(), net.relu.register_forward_hook(lambda *seeing: seen.append(seeing[2].clone())):
            net(images)
        _, tree, record = audit(reused(), scenes(), layers=layer, store_activations=layer)
        name = "relu#0" if layer == "relu#0" else "relu#1"
        expected = seen[name == "relu#1"].numpy()

        assert list(record["layers"]) == [name]
        found = tree[f"activations/{wsss_probe.schema.escape(name)}/maps"].values
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)

    def test_a_mapping_with_one_tensor(self, audit):
        """C5: the only tensor of a mapping is the layer's output."""
        _, tree, _ = audit(tuple_output(), scenes(), layers="boxed")

        assert tree["activations/boxed/mean"].shape == (12, 8)

    @pytest.mark.parametrize("drop", ["row", "channel"])
    def test_a_shape_that_varies(self, tmp_path, drop):
        """C5: a layer whose output changes its shape between batches is one clear line."""
        asked = {**QUICK, "layers": "vary", "store_activations": "vary"}
        with pytest.raises(ModelError, match="changes its shape") as caught:
            wsss_probe.audit(Varying(drop), scenes(9), out=str(tmp_path / "run"), **asked)

        one_line(str(caught.value))

    @pytest.mark.parametrize("layer", ["features.1", "features.4"])
    def test_overwritten_in_place(self, audit, layer):
        """C6: what is stored equals a clone taken before the next operation overwrote it."""
        seen, net, images = [], inplace(), scenes().images
        part = net.get_submodule(layer)
        with torch.no_grad(), part.register_forward_hook(lambda *seeing: seen.append(seeing[2].clone())):
            net(images)
        _, tree, _ = audit(inplace(), scenes(), layers=layer, store_activations=layer)
        found = tree[f"activations/{layer}/maps"].values

        assert (seen[0] < 0).any()
        np.testing.assert_allclose(found, seen[0].numpy(), rtol=1e-3, atol=1e-4)


# -- E: plugins ------------------------------------------------------------------------------------

PLUGIN = """
import os
import numpy as np
import torch
import xarray as xr
from wsss_probe import (
    Batch, Conclusion, DefinitionCard, Explainer, Finding, Needs, Observation, Probe, Section, Text, hookimpl,
)
# import

CALLS = {"observe": 0}

class Own(Probe):
    name = "own"

    def split(self, survey):
        # split
        return (self,)

    def needs(self, survey):
        # needs
        return Needs(layers=frozenset(survey.layers), masks=True)

    def observe(self, batch):
        CALLS["observe"] += 1
        rows = xr.Dataset({"one": ("image", np.ones(len(batch.indices), np.float32))})
        partial = xr.Dataset({"sum": ((), float(len(batch.indices)))})
        # observe
        return Observation(rows, partial)

    def conclude(self, run):
        summary = xr.Dataset({"mean": ((), float(run.rows(self.name)["one"].mean()))})
        findings = (Finding("own", "ok", "Concluded by own.", effect=1.0),)
        # conclude
        return Conclusion(summary, findings)

    def sections(self, summary, run):
        made = [Section("channels", "Section of own", (Text("own text"),))]
        # sections
        return made

class OwnMap(Explainer):
    name = "own"
    gradients = False
    card = DefinitionCard("Own map", "R = 1", "Nobody (2026), Maps")

    def accepts(self, layer, head):
        # accepts
        return ""

    def attribute(self, batch, layer, target):
        maps = torch.ones_like(batch.activations[layer][:, 0])
        # attribute
        return maps

@hookimpl
def wsss_probe_probes():
    # probes
    return [Own()]

@hookimpl
def wsss_probe_explainers():
    # explainers
    return [OwnMap()]

# end
"""

numbers = count()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder from which Python imports, for plugins as they are installed."""
    folder = tmp_path_factory.mktemp("site")
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder
    for name in [name for name in sys.modules if name not in before and name.startswith("faults_made_")]:
        del sys.modules[name]


def install(site, plugin, *, code=PLUGIN, distribution="", entry="", **lines):
    """Write a plugin as an installed distribution; lines are put in the places that are named."""
    for place, line in lines.items():
        assert code.count(f"# {place}\n") == 1
        code = code.replace(f"# {place}\n", f"{line}\n")
    module = f"faults_made_{next(numbers)}"
    code = code.replace('name = "own"', f'name = "{plugin}"').replace("of own", f"of {plugin}")
    (site / f"{module}.py").write_text(code.replace("by own", f"by {plugin}"))
    distribution = distribution or f"dist-{plugin}"
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[wsss_probe]\n{plugin} = {module}{entry}\n")
    return plugin


BOOM = "raise RuntimeError('boom')"
FORM = "another form"
RENAMED = "rows = rows.rename(one=f\"one{CALLS['observe']}\")"
SUMS = "partial = partial.expand_dims(channel=CALLS['observe'])"
WIDER = "rows = rows.expand_dims(channel=CALLS['observe']).transpose('image', 'channel')"
LABELLED = "rows = rows.expand_dims(kind=[str(CALLS['observe'])]).transpose('image', 'kind')"
# plugin: what is spoilt, the stage at which it must fail, and words of the message
FAULTY = {
    # E1, E3: cannot be loaded
    "load-import": ({"import": "raise ImportError('boom')"}, "load", "boom"),
    "load-syntax": ({"code": "def broken(:\n"}, "load", "SyntaxError"),
    "load-dependency": ({"code": "import nowhere_to_be_found\n"}, "load", "nowhere_to_be_found"),
    "load-attribute": ({"entry": ":Missing"}, "load", "Missing"),
    "load-unknown-hook": (
        {"end": "@hookimpl\ndef wsss_probe_explainer():\n    return []"}, "load", "wsss_probe_explainer",
    ),
    "load-argument": ({"end": "@hookimpl\ndef wsss_probe_commands(x):\n    return []"}, "load", "'x'"),
    "load-interface": ({"end": "wsss_probe_interface = 99"}, "load", "later plugin interface"),
    "load-unmarked": ({"end": "def wsss_probe_commands():\n    return []"}, "load", "hookimpl"),
    # E2: raises somewhere
    "raises-probes": ({"probes": BOOM}, "wsss_probe_probes", "boom"),
    "raises-explainers": ({"explainers": BOOM}, "wsss_probe_explainers", "boom"),
    "raises-split": ({"split": BOOM}, "split", "boom"),
    "raises-needs": ({"needs": BOOM}, "needs", "boom"),
    "raises-observe": ({"observe": BOOM}, "observe", "boom"),
    "raises-conclude": ({"conclude": BOOM}, "conclude", "boom"),
    "raises-sections": ({"sections": BOOM}, "sections", "boom"),
    "raises-accepts": ({"accepts": BOOM}, "accepts", "boom"),
    "raises-attribute": ({"attribute": BOOM}, "attribute", "boom"),
    # E2: raises something, at some time
    "raises-exit": ({"observe": "raise SystemExit('boom')"}, "observe", "boom"),
    "raises-memory": ({"observe": "raise MemoryError('boom')"}, "observe", "boom"),
    "raises-recursion": ({"observe": "f = lambda: f(); f()"}, "observe", "recursion"),
    "raises-later": ({"observe": f"if CALLS['observe'] > 2: {BOOM}"}, "observe", "boom"),
    "raises-once": ({"observe": f"if CALLS['observe'] == 2: {BOOM}"}, "observe", "boom"),
    # E4: returns something wrong
    "wrong-dict": ({"observe": "return {}"}, "observe", "Observation"),
    "wrong-length": ({"observe": "rows = rows.isel(image=slice(1, None))"}, "observe", "one row per image"),
    "wrong-integers": ({"observe": "rows['one'] = rows['one'].astype(int)"}, "observe", "floating"),
    "wrong-infinity": ({"observe": "rows['one'][0] = np.inf"}, "observe", "infinite"),
    "wrong-dimension": ({"observe": "rows = rows.expand_dims(height=3)"}, "observe", "height"),
    "wrong-sum": ({"observe": "partial['sum'] = float('nan')"}, "observe", "NaN"),
    "wrong-attribute": ({"observe": "rows.attrs['x'] = object()"}, "observe", "JSON"),
    "wrong-columns": ({"observe": WIDER}, "observe", FORM),
    "wrong-names": ({"observe": RENAMED}, "observe", FORM),
    "wrong-sums": ({"observe": SUMS}, "observe", FORM),
    "wrong-silence": ({"observe": "rows = rows if CALLS['observe'] == 1 else None"}, "observe", FORM),
    "wrong-coordinates": ({"observe": LABELLED}, "observe", FORM),
    "wrong-conclusion": ({"conclude": "return None"}, "conclude", "Conclusion"),
    "wrong-verdict": ({"conclude": "findings = (Finding('x', 'superb', 'x'),)"}, "conclude", "verdict"),
    "wrong-effect": (
        {"conclude": "findings = (Finding('x', 'ok', 'x', effect=float('inf')),)"}, "conclude", "infinite",
    ),
    "wrong-twice": ({"conclude": "findings = findings * 2"}, "conclude", "share a name"),
    "wrong-summary": ({"conclude": "summary['x'] = ((), 1j)"}, "conclude", "cannot be stored"),
    "wrong-section": ({"sections": "return made[0]"}, "sections", "iterable of Section"),
    "wrong-text": ({"sections": "return 'nothing'"}, "sections", "Section"),
    "wrong-question": ({"sections": "made = [Section('why', 'x', ())]"}, "sections", "question"),
    "wrong-map": ({"attribute": "return None"}, "attribute", "Tensor"),
    "wrong-grid": ({"attribute": "maps = maps[:, 1:]"}, "attribute", "shape"),
    "wrong-map-integers": ({"attribute": "maps = maps.int()"}, "attribute", "floating"),
    "wrong-map-infinity": ({"attribute": "maps[0, 0, 0] = float('inf')"}, "attribute", "infinite"),
    "wrong-needs": ({"needs": "return None"}, "needs", "Needs"),
    "wrong-layer": ({"needs": "return Needs(layers=frozenset({'nowhere'}))"}, "needs", "nowhere"),
    "wrong-probes": ({"probes": "return None"}, "wsss_probe_probes", "returned None"),
    "wrong-class": ({"probes": "return [Own]"}, "wsss_probe_probes", "the class Own"),
    "wrong-type": ({"probes": "return 'own'"}, "wsss_probe_probes", "wrong type"),
    # E5: writes into what it was lent; these come before all others by name
    "a-activations": ({"observe": "batch.activations['features'].zero_()"}, "observe", "1 tensors"),
    "a-logits": ({"observe": "batch.logits.neg_()"}, "observe", "1 tensors"),
    "a-masks": ({"observe": "batch.masks.fill_(0)"}, "observe", "1 tensors"),
    "a-labels": ({"observe": "batch.labels.logical_not_()"}, "observe", "1 tensors"),
    "a-indices": ({"observe": "batch.indices[:] = 0"}, "observe", "read-only"),
    "a-images": ({"attribute": "batch.images.add_(1)"}, "attribute", "1 tensors"),
    "a-maps": ({"attribute": "batch.activations['features'].mul_(2)"}, "attribute", "1 tensors"),
    "a-gradients": (
        {"attribute": "batch.gradients['features', 'predicted'].zero_()"}, "attribute", "1 tensors",
    ),
}  # fmt: skip
# E5: nothing fails, but what is changed outside is put back; the network cannot be reached at all
DISTURBING = {
    "seed": "torch.manual_seed(1); np.random.seed(1)",
    "folder": "os.chdir('/')",
    "variable": "os.environ['FAULTS'] = '1'",
    "threads": "torch.set_num_threads(2)",
}
TOUCHING = {
    "zeroes": "run.model().classifier.weight.data.zero_()",
    "trains": "run.model().train()",
    "hooks": "run.model().features.register_forward_hook(lambda *_: None)",
    "freezes": "run.model().classifier.weight.requires_grad_(False)",
    "replaces": "run.model().features = torch.nn.Identity()",
}
WITH = {**QUICK, "batch_size": 2, "controls": "shuffled:1"}
OTHERS = (
    "predictions/logits", "activations/features/mean", "activations/features/maps",
    "relevance/gradcam/features/relevance", "relevance/cam/features/relevance",
    "probes/channel-f1@features/rows/f1", "probes/channel-f1@features/partials/tp",
    "controls/shuffled-0/predictions/logits", "controls/shuffled-0/probes/channel-f1@features/rows/f1",
)  # fmt: skip


def audited_with(out, *plugins):
    """Audit with some plugins; gives outcome, tables of the others, record, page and report."""
    names = ("channels", "explainers", *plugins)
    asked = {**WITH, "only_plugins": names, "store_activations": "features", "out": str(out)}
    net = planted_gap()
    outcome = wsss_probe.audit(net, scenes(number=6), **asked)
    for name, tensor in planted_gap().state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name])
    tree, page = wsss_probe.open_run(out), (out / "report.html").read_text(encoding="utf-8")
    return outcome, tree, record_of(out), page


JUDGES = ("explainers",)
"""Plugins that judge the maps of all others, faulty ones among them, so that they say more in a crowd."""


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What sound plugins say when no faulty one is there."""
    outcome, tree, record, _ = audited_with(tmp_path_factory.mktemp("alone") / "run")
    assert outcome.exit_code == ExitCode.DONE
    assert record["failures"] == []
    said = tuple(made for made in outcome.findings if made[0] not in JUDGES)
    return {path: tree[path].values for path in OTHERS}, repr(said)


@pytest.fixture(scope="module")
def crowd(site, tmp_path_factory):
    """One audit with every faulty plugin there is, beside sound ones."""
    sound = install(site, "sound")
    faulty = [install(site, name, **settings) for name, (settings, _, _) in FAULTY.items()]
    install(site, "sound", distribution="dist-sound-two")
    return audited_with(tmp_path_factory.mktemp("crowd") / "run", sound, *faulty)


class TestPlugins:
    def test_others_are_complete(self, crowd, alone):
        """E1 to E5: among many faulty plugins the others say what they say alone; the code is 6."""
        outcome, tree, record, page = crowd

        assert outcome.exit_code == record["exit_code"] == ExitCode.WITH_FAILURES
        assert leftovers(outcome.folder.parent) == ["run"]
        for path, values in alone[0].items():
            np.testing.assert_array_equal(tree[path].values, values, err_msg=path)
        mine = ("sound", *FAULTY, *JUDGES)
        assert repr(tuple(made for made in outcome.findings if made[0] not in mine)) == alone[1]
        assert (tree["probes/sound/rows/one"].values == 1).all()
        assert "Concluded by sound." in page
        assert "Section of sound" in page
        assert record["certificate"]["intact"]

    @pytest.mark.parametrize("plugin", FAULTY)
    def test_is_listed_with_its_reason(self, crowd, plugin):
        """E1 to E5: one failure, at its stage, in words, with a traceback; no conclusion from half."""
        _, stage, words = FAULTY[plugin]
        _, tree, record, page = crowd
        (failure,) = [failure for failure in record["failures"] if failure["plugin"] == plugin]

        assert failure["stage"] == stage
        assert words in failure["message"]
        assert "\n" not in failure["message"]
        assert failure["traceback"].startswith("Traceback (most recent call last)")
        assert f"dist-{plugin} 1.0" in page
        if stage == "observe":
            assert f"Concluded by {plugin}." not in page
            assert f"probes/{plugin}/summary" not in tree

    def test_tracebacks_are_in_the_report(self, crowd):
        """E2: the report holds one traceback per failure."""
        _, _, record, page = crowd

        traced = [failure for failure in record["failures"] if failure["traceback"]]
        assert page.count("Traceback (most recent call last)") >= len(traced) > len(FAULTY)
        assert all(failure["traceback"] or failure["disturbance"] for failure in record["failures"])

    def test_two_of_one_name(self, crowd):
        """E3: of two plugins with one name the second is refused, and both distributions are named."""
        _, _, record, page = crowd
        (failure,) = [failure for failure in record["failures"] if failure["plugin"] == "sound"]

        assert failure["distribution"] == "dist-sound-two"
        assert "dist-sound 1.0 and dist-sound-two 1.0" in failure["message"]
        assert "dist-sound-two" in page

    def test_are_listed_by_command(self, crowd, wsss):
        """E1, E3: 'plugins list' shows what could not be loaded, and why."""
        code, said, _ = wsss("plugins", "list")
        rows = [line for line in said.splitlines() if line.startswith("load-")]

        assert code == 0
        assert len(rows) == 8
        for name, (_, _, words) in ((name, what) for name, what in FAULTY.items() if what[1] == "load"):
            (row,) = [row for row in rows if row.startswith(f"{name} ")]
            assert "failed" in row
            assert words in row

    def test_the_record_is_a_copy(self, site, alone, tmp_path):
        """E5: a plugin that writes into the batch before anybody else does not change what is recorded."""
        line = "batch.logits.neg_(); batch.activations['features'].zero_()"
        outcome, tree, _, _ = audited_with(tmp_path / "run", install(site, "a-first", observe=line))

        assert outcome.exit_code == ExitCode.WITH_FAILURES
        for path, values in alone[0].items():
            np.testing.assert_array_equal(tree[path].values, values, err_msg=path)

    def test_disturbances_are_put_back(self, site, alone, tmp_path):
        """E5: seeds, folders, variables and threads are put back and named, and the plugin goes on."""
        plugins = [install(site, name, observe=line) for name, line in DISTURBING.items()]
        outcome, tree, record, _ = audited_with(tmp_path / "run", *plugins)

        assert outcome.exit_code == ExitCode.WITH_FAILURES
        assert "FAULTS" not in os.environ
        for plugin, words in zip(plugins, ("random state", "folder", "FAULTS", "threads"), strict=True):
            (failure,) = [failure for failure in record["failures"] if failure["plugin"] == plugin]
            assert failure["disturbance"]
            assert words in failure["message"]
            assert (tree[f"probes/{plugin}/rows/one"].values == 1).all()
        for path, values in alone[0].items():
            np.testing.assert_array_equal(tree[path].values, values, err_msg=path)

    def test_the_network_is_out_of_reach(self, site, tmp_path):
        """E5: what a plugin does to the network that it is given does not reach the audited one."""
        concluding = [install(site, f"concluding-{name}", conclude=line) for name, line in TOUCHING.items()]
        showing = [install(site, f"showing-{name}", sections=line) for name, line in TOUCHING.items()]
        outcome, _, record, _ = audited_with(tmp_path / "run", *concluding, *showing)

        assert outcome.exit_code == ExitCode.DONE
        assert record["failures"] == []
        assert record["certificate"]["intact"]

    @pytest.mark.parametrize("stage", ["import", "probes", "needs", "observe", "conclude", "attribute"])
    def test_an_interrupt_passes(self, site, wsss, options, data, tmp_path, stage):
        """E2: Control-C inside a plugin ends the audit with code 2; the same command finishes it."""
        line = "if not __import__('os').path.exists('go'): raise KeyboardInterrupt"
        plugin = install(site, f"interrupted-{stage}", **{stage: line})
        arguments = ["audit", *options, "--images", data, "--only-plugins", plugin]
        code, _, said = wsss(*arguments)

        assert code == ExitCode.INTERRUPTED
        assert "interrupted" in one_line(said)
        assert not (tmp_path / "run").exists()
        (tmp_path / "go").touch()
        assert wsss(*arguments)[0] == 0
        assert leftovers(tmp_path) == ["run"]

    @pytest.mark.parametrize("raised", ["RuntimeError", "SystemExit", "wsss_probe.errors.ModelError"])
    @pytest.mark.parametrize("stage", ["import", "probes", "needs", "observe", "conclude", "attribute"])
    def test_strict(self, site, wsss, options, data, tmp_path, stage, raised):
        """E2: under --strict the first error ends the audit with one line that names the plugin."""
        line = f"import wsss_probe.errors; raise {raised}('boom')"
        plugin = install(site, f"strict-{stage}-{raised.rpartition('.')[2].lower()}", **{stage: line})
        code, _, said = wsss("audit", *options, "--images", data, "--only-plugins", plugin, "--strict")

        assert code == ExitCode.WITH_FAILURES
        assert f"plugin {plugin}" in one_line(said)
        assert "boom" in said
        assert "internal error" not in said
        assert not (tmp_path / "run").exists()

    def test_strict_in_python(self, site, tmp_path):
        """E2: under strict the plugin's own error passes to the caller."""
        plugin = install(site, "strict-python", observe="raise ZeroDivisionError('boom')")
        asked = {**WITH, "only_plugins": plugin, "strict": True, "out": str(tmp_path / "run")}
        with pytest.raises(ZeroDivisionError, match="boom"):
            wsss_probe.audit(planted_gap(), scenes(number=6), **asked)

        assert not (tmp_path / "run").exists()


@pytest.fixture
def data(tmp_path):
    """Two pictures with labels and masks."""
    rows = ["image,label,mask"]
    for number, name in enumerate(("background", "foreground")):
        save(tmp_path / "data" / "images" / f"{number}.png", picture(number, bool(number)))
        save(tmp_path / "data" / "masks" / f"{number}.png", np.eye(16, dtype=np.uint8))
        rows.append(f"images/{number}.png,{name},masks/{number}.png")
    (tmp_path / "data" / "manifest.csv").write_text("\n".join(rows))
    return tmp_path / "data"


# -- F: reports ------------------------------------------------------------------------------------

PAYLOADS = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)" x=\'',
    "<svg onload=alert(1)>",
    "[go](javascript:alert(1)) **bold** ![x](https://example.org/x.png)",
    "<https://example.org> https://example.org",
    "{{7*7}}{% raw %}%{x}",
    "<!--<script>",
    "]]></style></title></textarea><script>alert(1)</script>",
    "`</code></pre><script>alert(1)</script>`",
    "line\u2028separator\u202eright\x00\x1b[31m",
)
SHOUTING = """
from wsss_probe import Conclusion, Finding, Needs, Probe, Section, Table, Text, hookimpl
import pandas as pd
import xarray as xr
TEXT = {text!r}

class Shouting(Probe):
    name = "shouting"

    def needs(self, survey):
        return Needs()

    def conclude(self, run):
        return Conclusion(xr.Dataset(), (Finding(TEXT, "warning", TEXT, unit=TEXT, control=TEXT),))

    def sections(self, summary, run):
        return [Section("where", TEXT, (Text(TEXT), Table(pd.DataFrame({{TEXT: [TEXT]}}), TEXT)))]

class Failing(Shouting):
    name = "failing"

    def conclude(self, run):
        raise RuntimeError(TEXT)

@hookimpl
def wsss_probe_probes():
    return [Shouting(), Failing()]
"""


class Skeleton(HTMLParser):
    """The tags of a page with the names of their attributes, its addresses and its scripts."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.addresses, self.scripts, self.text, self.inside = [], set(), [], "", ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        """Note a tag."""
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        values = [value or "" for name, value in attrs if name in {"href", "src", "action", "srcdoc"}]
        self.addresses.update(value.partition(",")[0] for value in values)
        self.inside = "" if ("type", "application/json") in attrs else tag

    def handle_data(self, text):
        """Note what a script holds, and what a reader sees."""
        if self.inside == "script":
            self.scripts.append(text)
        elif self.inside != "style":
            self.text += text

    def handle_endtag(self, tag):
        """Leave a tag."""
        self.inside = ""


def page_with(site, tmp_path, text, plugin):
    """Audit with a text wherever a user, a file or a plugin can put one; give the page."""
    install(site, plugin, code=SHOUTING.format(text=text))
    files = "".join(character for character in text if character not in "/\0\\")[:80]
    where = tmp_path / plugin
    rows = []
    for number in range(4):
        path = save(where / "images" / f"{number}.png", picture(number, number % 2 == 0))
        path.rename(path.with_name(f"{number}{files}.png"))
        save(where / "masks" / f"{number}.png", np.eye(16, dtype=np.uint8))
        name = f"images/{number}{files}.png"
        label = text.replace("\0", "").replace(";", "") if number % 2 == 0 else "other"
        rows.append((name, label, f"masks/{number}.png", f"{files} {number}", files, files))
    (where / "images" / f"bad{files}.png").write_bytes(b"")
    rows.append((f"images/bad{files}.png", "", "", "", "", files))
    frame = pd.DataFrame(rows, columns=["image", "label", "mask", "group", "split", "stain"])
    frame.to_csv(where / "manifest.csv", index=False)
    # no class of the network has this name, whatever the text: else maps were compared with other masks
    (where / "manifest.toml").write_text(f"[masks.classes]\n{json.dumps('mask ' + files)} = 1\n")
    net = type(text.replace("\0", ""), (type(planted_gap()),), {})
    net = planted_gap()
    net.__class__ = type(text.replace("\0", ""), (type(net),), {})
    layer = text.replace(".", "").replace("*", "").replace("[", "").replace("?", "")
    net.features.add_module(layer, nn.ReLU())
    outcome = wsss_probe.audit(
        net, where, classes=("other", rows[0][1]), layers=(f"features.{layer}",), preprocess="unit",
        controls="shuffled:1", only_plugins=("channels", "explainers", plugin), note=text,
        out=str(tmp_path / f"run-{plugin}"),
    )  # fmt: skip
    assert outcome.exit_code == ExitCode.WITH_FAILURES
    return (tmp_path / f"run-{plugin}" / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def harmless(site, tmp_path_factory):
    """A page with a plain word instead."""
    return Skeleton(page_with(site, tmp_path_factory.mktemp("harmless"), "harmless", "plain"))


class TestReports:
    @pytest.mark.parametrize("number", range(len(PAYLOADS)))
    def test_texts_stay_texts(self, site, tmp_path, harmless, number):
        """F1: a payload in any name, label, note or message of files, network and plugins never acts."""
        page = Skeleton(page_with(site, tmp_path, PAYLOADS[number], f"shouting-{number}"))
        inert = {"p", "br", "em", "strong", "code", "a"}  # what a plugin's own Markdown may be
        added = Counter(page.tags) - Counter(harmless.tags)

        assert {tag for tag, _ in added} <= inert
        assert [names for _, names in page.tags if any(name.startswith("on") for name in names)] == []
        assert page.scripts == harmless.scripts
        strange = page.addresses - harmless.addresses
        assert strange <= {"https://example.org", "https://example.org/x.png"}
        assert added["a", ("href", "rel")] <= 1  # from the plugin's Markdown, and from nowhere else
        start = PAYLOADS[number].partition("\u2028")[0]
        assert page.text.count(start) > 10

"""Checkpoints: what is read, what is refused, and that nothing in a file is ever executed."""

import argparse
import collections
import contextlib
import copy
import hashlib
import io
import json
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from wsss_probe import weights_file
from wsss_probe.checkpoint import Checkpoint, load_into, read_checkpoint, tensor_digest
from wsss_probe.errors import ExitCode, ModelError, ProbeError, UnsafeInputError, UsageError

SHARED = Path(__file__).parents[1].parent / "shared"


class Payload:
    """Creates the marker when unpickled: harmless, and impossible to overlook."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


@pytest.fixture(autouse=True)
def marker(tmp_path):
    """A file that appears if a payload runs; every test ends by looking for it."""
    path = tmp_path / "payload-was-executed"
    yield path
    assert not path.exists()


def network(classes: int = 2) -> nn.Sequential:
    """A tiny network with convolution, BatchNorm and a linear head."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, classes))


def weights() -> dict[str, torch.Tensor]:
    """Its weights."""
    return network().state_dict()


def saved(path: Path, what: object, **options: object) -> Path:
    """Write with torch.save, whose own warnings are not under test."""
    with warnings.catch_warnings(action="ignore"):
        torch.save(what, path, **options)
    return path


def refused(path: Path, error: type[ProbeError], match: str) -> ProbeError:
    """Read a file that must be refused in one line that names it."""
    with pytest.raises(error, match=match) as caught:
        read_checkpoint(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


# -- files that load -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.th", "w"])
def test_state_dict_loads_whatever_the_suffix(tmp_path, name):
    """A1: a zip state dict loads bit by bit, with its hash, by content and not by suffix."""
    path = saved(tmp_path / name, weights())
    checkpoint = read_checkpoint(path)
    assert checkpoint.format == "torch"
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert checkpoint.tensors.keys() == weights().keys()
    assert all(torch.equal(checkpoint.tensors[key], value) for key, value in weights().items())


def test_legacy_state_dict_loads(tmp_path):
    """A5: the format before zip loads."""
    checkpoint = read_checkpoint(saved(tmp_path / "w.pth", weights(), _use_new_zipfile_serialization=False))
    assert checkpoint.format == "torch-legacy"
    assert torch.equal(checkpoint.tensors["0.weight"], weights()["0.weight"])


def test_safetensors_load_with_metadata_as_text(tmp_path):
    """A16: markup in the metadata is handed on as text, and control characters are spelt out."""
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(weights(), path, {"title": "<script>\x1b[31m"})
    checkpoint = read_checkpoint(path)
    assert checkpoint.format == "safetensors"
    assert checkpoint.metadata == {"title": "<script>\\x1b[31m"}


@pytest.mark.parametrize("length", [0x0280, 0x0480, 0x8B1F, 0x3C20])
def test_safetensors_are_known_whatever_their_header_length(tmp_path, length):
    """A header length whose bytes look like a pickle, gzip or HTML file does not mislead."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "w"
    path.write_bytes(struct.pack("<Q", length) + header.ljust(length) + struct.pack("<f", 3))
    assert read_checkpoint(path).tensors["a"].tolist() == [3]


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda w: {"state_dict": w, "epoch": 3},
        lambda w: {"model": {"state_dict": w}},
        lambda w: {"state_dict": w, "ema": w},
        lambda w: {"net": w, "mean": torch.zeros(3)},
    ],
)
def test_containers_are_unwrapped(tmp_path, wrapped):
    """A18: the dictionaries that people save around a state dict are opened, and that is noted."""
    checkpoint = read_checkpoint(saved(tmp_path / "w.pt", wrapped(weights())))
    assert checkpoint.tensors.keys() == weights().keys()
    assert "weights taken from" in checkpoint.notes[0]


def test_container_choice_is_noted(tmp_path):
    """A18: where two sets of weights lie in a file, the unused one is named."""
    path = saved(tmp_path / "w.pt", {"ema": weights(), "state_dict": weights(), "e": 3})
    checkpoint = read_checkpoint(path)
    unused = "the file also holds 'ema', which was not used"
    assert checkpoint.notes == ("weights taken from 'state_dict'", unused)
    assert checkpoint.metadata == {"e": "3"}


def test_namespace_of_lightning_loads(tmp_path):
    """A18: hyper-parameters in an argparse.Namespace are plain data; the allow list is restored."""
    before = torch.serialization.get_safe_globals()
    path = saved(tmp_path / "w.ckpt", {"state_dict": weights(), "hparams": argparse.Namespace(lr=0.1)})
    assert read_checkpoint(path).tensors.keys() == weights().keys()
    assert torch.serialization.get_safe_globals() == before


def test_tied_tensors_load(tmp_path):
    """Tensors that share storage are no stride trick."""
    weight = torch.rand(4, 4)
    path = saved(tmp_path / "w.pt", {"a": weight, "b": weight, "row": weight[1], "turned": weight.T})
    assert torch.equal(read_checkpoint(path).tensors["turned"], weight.T)


# -- files that would run code ---------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_module_is_refused(tmp_path, legacy):
    """A2: a whole module is refused; the error lists its classes and how to save weights instead."""
    path = saved(tmp_path / "w.pt", network(), _use_new_zipfile_serialization=not legacy)
    error = refused(path, UnsafeInputError, r"torch\.nn\.modules\.container\.Sequential")
    assert error.exit_code == ExitCode.UNSAFE
    assert "state_dict()" in error.remedy


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
def test_payload_in_a_valid_dict_is_refused(tmp_path, marker, legacy, protocol):
    """A3, A5: a payload beside good tensors is refused before it runs, in every torch format."""
    path = saved(
        tmp_path / "w.pt",
        {"state_dict": weights(), "extra": Payload(marker)},
        _use_new_zipfile_serialization=not legacy,
        pickle_protocol=protocol,
    )
    refused(path, UnsafeInputError, "open" if protocol == 2 else "operand 149")


@pytest.mark.parametrize("protocol", range(6))
def test_raw_pickle_is_refused(tmp_path, marker, protocol):
    """A4: a pickle that torch.save did not write is not even handed to torch."""
    path = tmp_path / "w.pt"
    path.write_bytes(pickle.dumps(Payload(marker), protocol=protocol))
    refused(path, ProbeError, "raw pickle" if protocol > 1 else "unknown content")


def test_payload_behind_the_legacy_magic_number_is_refused(tmp_path, marker):
    """A4: the magic number of the legacy format buys a pickle nothing."""
    path = tmp_path / "w.pt"
    number = 0x1950A86A20F9469CFC6C
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in (number, 1001, {}, Payload(marker))))
    refused(path, UnsafeInputError, "nothing was executed")


def test_legacy_tar_is_refused(tmp_path):
    """A6: the tar format needs the unrestricted unpickler."""
    path = tmp_path / "w.pt"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    refused(path, UnsafeInputError, "tar format")


@pytest.mark.parametrize(
    ("entries", "kind"),
    [
        (["w/data.pkl", "w/constants.pkl", "w/code/__torch__.py"], "TorchScript"),
        (["w/archive_format", "w/models/model.json"], r"\.pt2"),
        (["w/.data/extern_modules", "w/model.py"], r"torch\.package"),
        (["serialized_exported_program.json"], r"\.pt2"),
    ],
)
def test_programs_are_refused(tmp_path, entries, kind):
    """A7, A8: archives that carry a program are recognised by their entries; --trust-code is named."""
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for entry in entries:
            archive.writestr(entry, b"x")
    assert "--trust-code" in refused(path, UnsafeInputError, kind).remedy


def test_real_export_program_is_refused(tmp_path):
    """A8: what torch.export writes today is recognised."""
    path = tmp_path / "w.pt"
    with warnings.catch_warnings(action="ignore"), path.with_suffix(".pt2").open("wb") as file:
        torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), file)
    path.with_suffix(".pt2").rename(path)
    refused(path, UnsafeInputError, r"\.pt2")


def test_environment_cannot_switch_the_protection_off(tmp_path, marker):
    """A9: torch's own variable for unsafe loading has no effect here."""
    path = saved(tmp_path / "w.pt", {"a": Payload(marker)})
    code = f"from wsss_probe.checkpoint import read_checkpoint; read_checkpoint({str(path)!r})"
    environment = os.environ | {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert "UnsafeInputError" in run.stderr


def test_every_load_names_weights_only():
    """No call of torch.load in the host leaves the protection to a default."""
    host = Path(weights_file.__file__).parent
    calls = [
        line.strip()
        for file in host.rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if " torch.load(" in line and not line.lstrip().startswith(("#", '"'))
    ]
    assert calls
    assert all("weights_only=True" in call for call in calls), calls


@pytest.mark.parametrize("legacy", [False, True])
def test_pickle_protocol_4_is_refused(tmp_path, legacy):
    """Torch's restricted unpickler knows protocol 2 only; the error says so, and no warning escapes."""
    path = saved(tmp_path / "w.pt", weights(), _use_new_zipfile_serialization=not legacy, pickle_protocol=4)
    assert "protocol 2" in refused(path, UnsafeInputError, "operand 149").wanted


@pytest.mark.parametrize(
    "value",
    [np.float64(3), np.ones(3), pathlib.PurePosixPath("x"), collections.defaultdict(list, a=[1])],
    ids=lambda value: type(value).__name__,
)
def test_foreign_objects_are_refused_by_name(tmp_path, value):
    """A23: numpy values, paths and defaultdicts are refused, named, and the remedy is said."""
    path = saved(tmp_path / "w.pt", {"state_dict": weights(), "extra": value})
    error = refused(path, UnsafeInputError, "numpy|pathlib|defaultdict")
    assert "state_dict()" in error.remedy


# -- files that are no checkpoint, or damaged ------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git-lfs pointer"),
        (b"\n<!DOCTYPE html><title>404</title>", "web page"),
        (b"\x1f\x8b\x08\x00rest", "compressed"),
        (b"\x89HDF\r\n\x1a\n", "Keras"),
        (b"hello world, I am text", "unknown content"),
    ],
)
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_wrong_files_get_their_own_reason(tmp_path, content, reason, name):
    """A10: what people have instead of weights is named."""
    path = tmp_path / name
    path.write_bytes(content)
    if name.endswith("tensors") and reason == "unknown content":
        reason = "no valid safetensors"
    assert refused(path, ModelError, reason).exit_code == ExitCode.USAGE


def test_missing_file_and_folder(tmp_path):
    """A10: a missing file and a folder are said to be that."""
    refused(tmp_path / "absent.pt", ModelError, "No such file")
    refused(tmp_path, ModelError, "a folder")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a POSIX system")
def test_pipes_and_devices_do_not_hang(tmp_path):
    """A10: a FIFO without a writer and a link to /dev/zero are refused at once."""
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "zero.pt").symlink_to("/dev/zero")
    refused(tmp_path / "pipe.pt", UnsafeInputError, "device, pipe")
    refused(tmp_path / "zero.pt", UnsafeInputError, "device, pipe")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a POSIX system")
def test_pipe_that_replaces_a_file_does_not_hang(tmp_path, monkeypatch):
    """What was checked by name is checked again once it is open, and opening never blocks."""
    os.mkfifo(tmp_path / "pipe.pt")
    checks = [lambda *_: None, weights_file._check_regular]

    def next_check(*arguments: object) -> None:
        checks.pop(0)(*arguments)

    monkeypatch.setattr(weights_file, "_check_regular", next_check)
    refused(tmp_path / "pipe.pt", UnsafeInputError, "device, pipe")
    assert not checks


def test_size_cap(tmp_path, monkeypatch):
    """A file above the cap is refused before it is read."""
    path = saved(tmp_path / "w.pt", weights())
    monkeypatch.setattr(weights_file, "MAX_BYTES", path.stat().st_size - 1)
    refused(path, UnsafeInputError, "at most")


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_files(tmp_path, kind, share):
    """A10: a file that stops early is said to be truncated, whatever the format."""
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        safetensors.torch.save_file(weights(), path)
    else:
        saved(path, weights(), _use_new_zipfile_serialization=kind == "zip")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, ModelError if kind != "legacy" else ProbeError, "truncated|damaged|no valid|refused")


def test_deflated_bomb_is_refused(tmp_path):
    """A11: a compressed archive is refused before torch inflates it."""
    plain, bomb = saved(tmp_path / "plain.pt", {"a": torch.zeros(1_000_000)}), tmp_path / "w.pt"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert bomb.stat().st_size < 20_000
    refused(bomb, UnsafeInputError, "unpacks to 4")


def test_compressed_archive_is_refused(tmp_path):
    """A11: torch.save never compresses, so even a compressed archive that hardly grows is not its work."""
    plain, packed = saved(tmp_path / "plain.pt", {"a": torch.rand(1000)}), tmp_path / "w.pt"
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w") as target:
        for entry in source.infolist():
            method = zipfile.ZIP_DEFLATED if entry.filename.endswith("data/0") else zipfile.ZIP_STORED
            target.writestr(entry.filename, source.read(entry), method)
    refused(packed, UnsafeInputError, "never compresses")


def test_entries_that_share_their_bytes_are_refused(tmp_path):
    """A11: a stored archive cannot unpack to more than its own size, unless its entries overlap."""
    path = saved(tmp_path / "w.pt", {"a": torch.zeros(1000)})
    with zipfile.ZipFile(path, "a") as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        for i in range(5):
            twin = copy.copy(largest)
            twin.filename = twin.orig_filename = f"w/data/{i + 1}"
            archive.filelist.append(twin)
        archive.writestr("w/last", b"")  # makes zipfile write the directory again
    refused(path, UnsafeInputError, "unpacks to 2")


def test_two_entries_of_one_name_are_refused(tmp_path):
    """Two readers must not see two different files."""
    path = saved(tmp_path / "w.pt", weights())
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{path.stem}/data.pkl", b"other")
    refused(path, UnsafeInputError, "two entries")


def test_flipped_bit_is_found(tmp_path):
    """A12: one wrong bit in a tensor, which torch loads without a word, fails the checksum."""
    path = saved(tmp_path / "w.pt", {"a": torch.full((64,), 1.5)})
    data = bytearray(path.read_bytes())
    data[data.index(struct.pack("<f", 1.5)) + 3] ^= 0x40
    path.write_bytes(data)
    assert torch.load(path, weights_only=True)["a"][0] != 1.5
    refused(path, ModelError, "checksum.*data/0")


@pytest.mark.parametrize("legacy", [False, True])
def test_stride_zero_tensor_is_refused(tmp_path, legacy):
    """A13: a terabyte made of four bytes is refused while it is still a shape."""
    huge = torch.ones(1).expand(1_000_000, 1_000_000)
    path = saved(tmp_path / "w.pt", {"big": huge}, _use_new_zipfile_serialization=not legacy)
    refused(path, UnsafeInputError, r"'?big'? of shape \(1000000, 1000000\)")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (torch.eye(3).to_sparse(), "sparse"),
        (torch.ones(3, device="meta"), "without data"),
        (3.0, "not named tensors: a"),
        ([torch.ones(2)], "not named tensors: a"),
    ],
    ids=["sparse", "meta", "number", "list"],
)
def test_odd_values_are_refused(tmp_path, value, reason):
    """A22: a state dict holds dense tensors with data, and nothing else."""
    refused(saved(tmp_path / "w.pt", {"ok": torch.ones(1), "a": value}), ModelError, reason)


def test_quantised_tensors_are_refused(tmp_path):
    """A22: quantised tensors are refused before they turn into other numbers."""
    with warnings.catch_warnings(action="ignore"):
        path = saved(tmp_path / "w.pt", {"a": torch.quantize_per_tensor(torch.eye(2), 0.1, 0, torch.qint8)})
    refused(path, ProbeError, "quantised|objects that need code|damaged")


@pytest.mark.parametrize("what", [[torch.ones(2)], torch.ones(2), {}, {"state_dict": {}}, {3: torch.ones(2)}])
def test_not_a_state_dict(tmp_path, what):
    """A22: lists, bare tensors, empty dictionaries and numbered entries are refused."""
    refused(saved(tmp_path / "w.pt", what), ModelError, "a list|a Tensor|no tensors|not named tensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e5m2])
def test_nonfinite_weights_are_refused_by_name(tmp_path, value, dtype):
    """A17: NaN and Inf are refused with the tensor's name, or accepted with a note."""
    path = saved(tmp_path / "w.pt", {"good": torch.ones(2), "bad": torch.tensor([1.0, value]).to(dtype)})
    refused(path, ModelError, "values: bad")
    assert read_checkpoint(path, allow_nonfinite=True).notes == ("not finite, but allowed: bad",)


def test_negative_variance_is_refused(tmp_path):
    """A17: a negative running variance gives NaN for every image."""
    path = saved(tmp_path / "w.pt", {"bn.running_var": torch.tensor([1.0, -0.1])})
    refused(path, ModelError, r"bn\.running_var")


HEADER = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
SECOND = {"b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}


def raw_safetensors(header: bytes, data: bytes = bytes(8), length: int | None = None) -> bytes:
    """A safetensors file put together by hand."""
    return struct.pack("<Q", len(header) if length is None else length) + header + data


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (raw_safetensors(json.dumps(HEADER | SECOND).encode()), "no valid"),
        (raw_safetensors(json.dumps(HEADER).encode(), bytes(12)), "no valid"),
        (raw_safetensors(json.dumps({"a": HEADER["a"] | {"shape": [3]}}).encode()), "no valid"),
        (raw_safetensors(json.dumps({"a": HEADER["a"] | {"shape": [2**62, 4]}}).encode()), "no valid"),
        (raw_safetensors(json.dumps(HEADER).encode(), length=2**60), "header of"),
        (raw_safetensors(b'{"\xff": 1}'), "no valid"),
        (raw_safetensors(b"{not json"), "no valid"),
        (raw_safetensors(b"[1]"), "JSON object"),
        (raw_safetensors(b"[" * 100_000), "no valid"),
        (raw_safetensors(b"{}", b""), "no tensors"),
        (b"\x08", "header of"),
    ],
    ids=[
        "overlap",
        "trailing",
        "shape",
        "overflow",
        "length",
        "utf8",
        "json",
        "list",
        "deep",
        "none",
        "short",
    ],
)
def test_safetensors_header_defects(tmp_path, content, reason):
    """A14: every defect of a safetensors header is one clear refusal."""
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    refused(path, ModelError, reason)


def test_safetensors_duplicate_name_is_refused(tmp_path):
    """A15: a name that stands twice in the header is refused, though the library takes it."""
    entry = json.dumps(HEADER["a"])
    path = tmp_path / "w.safetensors"
    path.write_bytes(raw_safetensors(f'{{"a":{entry},"a":{entry}}}'.encode()))
    refused(path, ModelError, "duplicate name a")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(["zip", "legacy", "safetensors"]))
def test_mutated_files_give_only_our_errors(tmp_path, data, kind):
    """A27: bytes changed at random end in a checkpoint or in one of our errors, never in another."""
    path = tmp_path / "w.pt"
    if kind == "safetensors":
        safetensors.torch.save_file(weights(), path)
    else:
        saved(path, weights(), _use_new_zipfile_serialization=kind == "zip")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        # the interesting bytes of all formats are the first thousand
        place = data.draw(st.integers(0, min(len(content), 1000) - 1))
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(ProbeError):
        assert read_checkpoint(path).tensors


# -- into the network ------------------------------------------------------------------------------


def checkpoint(tensors: dict[str, torch.Tensor]) -> Checkpoint:
    """A checkpoint that never was a file."""
    return Checkpoint(tensors, sha256="", format="torch", name="w.pt")


def fresh() -> nn.Sequential:
    """The same network with other weights."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def misfit(tensors: dict[str, torch.Tensor], **options: object) -> str:
    """The message of a refused load; the network must not have changed."""
    module = fresh()
    before = tensor_digest(module)
    with pytest.raises(ModelError) as caught:
        load_into(module, checkpoint(tensors), **options)
    assert tensor_digest(module) == before
    return str(caught.value)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod.", "a.b.c."])
def test_prefixes_are_stripped_when_all_fits(prefix):
    """A18: a leading part that all names share is stripped, reported, and the weights arrive."""
    module = fresh()
    report = load_into(module, checkpoint({prefix + key: value for key, value in weights().items()}))
    assert report.prefix == prefix
    assert tensor_digest(module) == tensor_digest(network())
    assert any("stripped" in note for note in report.notes) == bool(prefix)


def test_prefix_is_not_stripped_from_some_names():
    """A18: one name without the prefix keeps the prefix on all, so that nothing fits."""
    tensors = {f"module.{key}": value for key, value in weights().items()}
    tensors["3.bias"] = tensors.pop("module.3.bias")
    assert "differences" in misfit(tensors)


def test_no_overlap_is_refused():
    """A19: weights of another network are refused, even if every name of the network may be missing."""
    foreign = {"x": torch.ones(1)}
    assert "0 names agree" in misfit(foreign)
    assert "0 names agree" in misfit(foreign, allow_missing=frozenset({"x", *weights()}))


def test_table_of_differences():
    """A20: shape, missing and extra tensors stand in one table: name, in file, in model."""
    tensors = weights()
    tensors["3.weight"] = torch.ones(7, 4)
    tensors["aux.weight"] = torch.ones(3)
    del tensors["1.running_mean"]
    table = misfit(tensors).splitlines()[1:]
    assert [line.split() for line in table] == [
        ["name", "in", "file", "in", "model"],
        ["3.weight", "(7,", "4)", "float32", "(2,", "4)", "float32"],
        ["1.running_mean", "-", "(4,)", "float32"],
        ["aux.weight", "(3,)", "float32", "-"],
    ]


def test_long_tables_are_capped():
    """A20: after twelve lines a count stands for the rest, and no control character gets through."""
    message = misfit(weights() | {f"extra\x1b{i}": torch.ones(1) for i in range(30)})
    assert len(message.splitlines()) == 15
    assert message.endswith("... and 18 more")
    assert "\x1b" not in message


def test_batch_counters_may_be_absent():
    """A20: only BatchNorm's counter may be missing, which changes no output; that is noted."""
    tensors = weights()
    del tensors["1.num_batches_tracked"]
    report = load_into(fresh(), checkpoint(tensors))
    assert report.missing == ("1.num_batches_tracked",)
    assert "left as built" in report.notes[0]


def test_allowed_names_may_stand_on_one_side():
    """Names that were listed may be missing or extra, and are reported; misspelt ones are an error."""
    tensors = weights() | {"aux": torch.ones(1)}
    del tensors["3.bias"]
    report = load_into(fresh(), checkpoint(tensors), allow_missing=frozenset({"3.bias", "aux"}))
    assert (report.missing, report.unexpected) == (("3.bias",), ("aux",))
    with pytest.raises(UsageError, match=r"3\.bais"):
        load_into(fresh(), checkpoint(weights()), allow_missing=frozenset({"3.bais"}))


def test_allowed_names_may_not_differ_in_shape():
    """A tensor of the wrong shape is refused even when its name may be missing."""
    message = misfit(weights() | {"3.bias": torch.ones(9)}, allow_missing=frozenset({"3.bias"}))
    assert "3.bias  (9,) float32" in message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_casts_are_noted(dtype):
    """A21: other floating-point precisions are converted, with a note and a list."""
    tensors = network().to(dtype).state_dict()
    module = fresh()
    report = load_into(module, checkpoint(tensors))
    name = str(dtype).removeprefix("torch.")
    assert report.casts["0.weight"] == f"{name} -> float32"
    assert report.notes == (f"8 tensors converted {name} -> float32",)
    assert module[0].weight.dtype == torch.float32
    assert torch.allclose(module[0].weight, weights()["0.weight"], rtol=1e-2)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.bool])
def test_other_kinds_are_never_converted(dtype):
    """A21: integers, complex numbers and booleans are refused for a float tensor."""
    assert str(dtype).removeprefix("torch.") in misfit(weights() | {"3.bias": torch.ones(2).to(dtype)})


def test_overflowing_cast_is_refused():
    """A21: a float64 value that float32 cannot hold would become infinite."""
    large = torch.tensor([1e300, 0], dtype=torch.float64)
    assert "too large" in misfit(weights() | {"3.bias": large})


# -- identity --------------------------------------------------------------------------------------


def test_digest_depends_on_every_part():
    """A changed bit, buffer, name, dtype or shape changes the digest; a copy does not."""
    variants = [network() for _ in range(5)]
    variants[1][3].bias.data[0] += 1
    variants[2][1].running_mean[0] = 1e-30
    variants[3] = nn.Sequential(collections.OrderedDict(zip("abcd", network(), strict=True)))
    variants[4] = variants[4].double()
    assert len({tensor_digest(module) for module in variants}) == 5
    assert tensor_digest(network()) == tensor_digest(network())


def test_digest_matches_a_slow_reference():
    """The digest is SHA-256 over sorted name, dtype, shape and little-endian bytes, as documented."""
    module = nn.Linear(2, 1)
    module.register_buffer("flag", torch.tensor(True), persistent=False)
    digest = hashlib.sha256()
    for name in sorted(["weight", "bias", "flag"]):
        value = getattr(module, name).detach().numpy()
        digest.update(f"{name}\0{value.dtype}\0{value.shape}\0".encode() + value.tobytes())
    assert tensor_digest(module) == digest.hexdigest()


# -- real files ------------------------------------------------------------------------------------


@pytest.fixture
def shared_weights():
    """The folder of real checkpoints, which CI must have and others may lack."""
    folder = SHARED / "weights"
    if not folder.is_dir() and os.environ.get("WSSS_PROBE_REQUIRE_REAL") != "1":
        pytest.skip("no ../shared/weights")
    assert folder.is_dir()
    return folder


@pytest.mark.real
def test_all_real_checkpoints_are_read(shared_weights):
    """Every checkpoint that lies here passes the safe sequence."""
    paths = [path for suffix in ("pth", "th", "pt") for path in sorted(shared_weights.glob(f"*/*.{suffix}"))]
    assert len(paths) >= 7
    for path in paths:
        assert read_checkpoint(path).tensors


@pytest.mark.real
def test_real_checkpoint_with_module_prefix(shared_weights):
    """The CIFAR ResNet-20 was saved from DataParallel, inside a container with its best precision."""
    path = shared_weights / "resnet_cifar10_akamaster" / "resnet20-12fca82f.th"
    read = read_checkpoint(path)
    assert read.sha256.startswith("12fca82f")
    assert read.notes == ("weights taken from 'state_dict'",)
    assert all(name.startswith("module.") for name in read.tensors)
    assert read.metadata["best_prec1"].startswith("91")

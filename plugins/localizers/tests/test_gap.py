"""Training: planted truth, chance where nothing is, resume, the card, and what is left behind."""

import json
import logging
import os
import random
import signal
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from wsss_probe_localizers import wsss_probe_model_sources
from wsss_probe_localizers.augmentation import Augmentation
from wsss_probe_localizers.gap import fit_gap
from wsss_probe_localizers.networks import build
from wsss_probe_localizers.options import GapOptions

from wsss_probe.errors import ManifestError, ModelError, PlanError, UsageError
from wsss_probe.images import ManifestSource
from wsss_probe.manifest import Manifest
from wsss_probe.model import ModelRequest, load_model, read_card

QUICK = GapOptions(backbone="8,P,16,16", epochs=6, batch_size=32, learning_rate=1e-2, threads=1)

SOURCES = {source.name: source for source in wsss_probe_model_sources()}


def auc_of(trained, split="test", name="blob"):
    """AUC estimate of a class on a split."""
    return trained.training["metrics"][split]["auc"][name]["estimate"]


def bits(trained):
    """Every tensor of the network as bytes."""
    return {name: value.numpy().tobytes() for name, value in trained.network.state_dict().items()}


@pytest.fixture(scope="module")
def trained(planted, tmp_path_factory):
    """One training that many tests look at."""
    return fit_gap(planted, QUICK, tmp_path_factory.mktemp("runs") / "planted")


class TestPlantedTruth:
    """What there is is found, what is not there is not."""

    def test_a_planted_blob_is_learned(self, trained):
        """A blob among noise and stripes is told on held-out groups."""
        assert auc_of(trained) > 0.95
        assert trained.training["metrics"]["test"]["groups"] == 20
        assert trained.training["metrics"]["test"]["accuracy"]["low"] > 0.7

    def test_random_labels_are_at_chance(self, make_planted, tmp_path):
        """Labels that say nothing about the images give a held-out AUC near one half."""
        manifest = make_planted(400, shuffled=True, seed=1)
        split = ["test" if int(group[1:]) % 2 else "train" for group in manifest.frame["group"]]
        manifest = replace(manifest, frame=manifest.frame.assign(split=split))

        assert 0.4 < auc_of(fit_gap(manifest, replace(QUICK, epochs=3), tmp_path / "out")) < 0.6

    def test_what_is_too_faint_is_not_learned(self, make_planted, tmp_path):
        """A blob of a twentieth of the strength is lost in the noise."""
        manifest = make_planted(240, strength=0.05, seed=2)
        split = ["test" if int(group[1:]) % 2 else "train" for group in manifest.frame["group"]]
        manifest = replace(manifest, frame=manifest.frame.assign(split=split))

        assert auc_of(fit_gap(manifest, replace(QUICK, epochs=3), tmp_path / "out")) < 0.75

    def test_several_labels_are_learned_each_on_its_own(self, tmp_path):
        """A red corner and a green corner, together or apart, are told by two sigmoids."""
        generator = np.random.default_rng(0)
        rows = []
        for index in range(160):
            present = generator.integers(2, size=2).astype(bool)
            pixels = generator.normal(110, 25, (16, 16, 3))
            pixels[:6, :6, 0] += 80 * present[0]
            pixels[-6:, -6:, 1] += 80 * present[1]
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / f"{index}.png")
            labels = [name for name, here in zip(("red", "green"), present, strict=True) if here]
            rows.append({"image": f"{index}.png", "label": ";".join(labels)})
        manifest = Manifest(tmp_path, pd.DataFrame(rows))
        trained = fit_gap(manifest, replace(QUICK, class_weights="balanced"), tmp_path / "out")

        assert trained.classes == ("green", "red")
        assert read_card(tmp_path / "out").multilabel
        assert min(auc_of(trained, "val", "red"), auc_of(trained, "val", "green")) > 0.95
        assert any("without a label" in note for note in trained.training["notes"])


class TestResume:
    """An interruption leaves no trace in the result."""

    def test_a_resumed_training_equals_an_uninterrupted_one(self, planted, trained, tmp_path):
        """Interrupted after three of six epochs and resumed: the same bits, history and metrics."""
        out = tmp_path / "planted"

        def stop(record):
            if record["epoch"] == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit_gap(planted, QUICK, out, on_epoch=stop)
        assert not out.exists()
        seen = []
        resumed = fit_gap(planted, replace(QUICK, resume=True), out, on_epoch=seen.append)

        assert [record["epoch"] for record in seen] == [3, 4, 5]
        assert bits(resumed) == bits(trained)
        for key in ("history", "metrics", "plan", "best_epoch"):
            assert resumed.training[key] == trained.training[key]

    def test_the_best_epoch_survives_an_interruption(self, make_planted, tmp_path):
        """With labels that say nothing the first epochs are best: they are kept, also by a resume."""
        manifest = make_planted(80, shuffled=True, seed=6)
        options = replace(QUICK, epochs=8)

        def stop(record):
            if record["epoch"] == 6:
                raise KeyboardInterrupt

        whole = fit_gap(manifest, options, tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            fit_gap(manifest, options, tmp_path / "parts", on_epoch=stop)
        resumed = fit_gap(manifest, replace(options, resume=True), tmp_path / "parts")
        last = fit_gap(manifest, replace(options, keep="last"), tmp_path / "last")

        assert whole.training["best_epoch"] == resumed.training["best_epoch"] < 6
        assert bits(resumed) == bits(whole) != bits(last)
        assert last.training["best_epoch"] == 7

    def test_ctrl_c_leaves_the_handler(self, planted, tmp_path):
        """Lightning ignores SIGINT while it stops; afterwards the handler is the one of before."""
        handler = signal.getsignal(signal.SIGINT)

        def stop(record):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit_gap(planted, QUICK, tmp_path / "out", on_epoch=stop)

        assert signal.getsignal(signal.SIGINT) is handler

    def test_the_same_seed_gives_the_same_bits(self, planted, trained, tmp_path):
        """A second training is equal, whatever the global random state; another seed differs."""
        torch.rand(17)
        assert bits(fit_gap(planted, QUICK, tmp_path / "again")) == bits(trained)
        assert bits(fit_gap(planted, replace(QUICK, seed=1), tmp_path / "other")) != bits(trained)

    def test_a_finished_training_is_not_overwritten(self, planted, trained):
        """Without --resume the folder is refused; with it the finished result is returned."""
        before = (trained.folder / "model.json").read_bytes()
        with pytest.raises(
            PlanError, match="holds a finished training; remedy: choose another --out, or --resume"
        ):
            fit_gap(planted, QUICK, trained.folder)
        again = fit_gap(planted, replace(QUICK, resume=True), trained.folder)

        assert bits(again) == bits(trained)
        assert again.training == json.loads(before)["training"]
        assert (trained.folder / "model.json").read_bytes() == before

    def test_another_training_is_not_resumed(self, planted, trained):
        """Other options, or other data, are named."""
        with pytest.raises(PlanError, match="found: epochs 6; wanted: epochs 7"):
            fit_gap(planted, replace(QUICK, epochs=7, resume=True), trained.folder)
        fewer = planted.take(range(200))
        with pytest.raises(PlanError, match="found: data '"):
            fit_gap(fewer, replace(QUICK, resume=True), trained.folder)

    def test_an_unfinished_training_is_not_lost(self, planted, tmp_path):
        """What an interruption left is refused without --resume, and stays."""

        def stop(record):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit_gap(planted, QUICK, tmp_path / "out", on_epoch=stop)
        with pytest.raises(PlanError, match="unfinished training; remedy: --resume to go on"):
            fit_gap(planted, QUICK, tmp_path / "out")

        assert (tmp_path / "out.partial" / "last.ckpt").exists()

    def test_a_foreign_folder_is_not_touched(self, planted, tmp_path):
        """A folder with something else in it is refused."""
        (tmp_path / "thesis.txt").write_text("all my work")

        with pytest.raises(PlanError, match="is no trained model; remedy: choose another --out"):
            fit_gap(planted, QUICK, tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


class TestCard:
    """What is written is what an audit reads."""

    def test_an_audit_reads_the_same_network(self, planted, trained):
        """The card alone gives identical logits, classes and preprocessing."""
        model = load_model(ModelRequest(trained.folder), SOURCES)
        source = ManifestSource(planted, model.preprocessing)
        images = torch.stack([source.read(row).tensor for row in range(20)])

        with torch.no_grad():
            assert torch.equal(model.module(images), trained.network(images))
        assert model.classes == trained.classes == ("blob", "none")
        assert model.preprocessing == trained.preprocessing
        assert not model.multilabel

    def test_a_card_of_native_scale_keeps_the_size_of_images(self, planted, tmp_path):
        """With native scale the card has no size, and colours are measured as without."""
        trained = fit_gap(planted, replace(QUICK, epochs=1, native_scale=True), tmp_path / "out")

        preprocessing = load_model(ModelRequest(tmp_path / "out"), SOURCES).preprocessing
        assert preprocessing == trained.preprocessing
        assert preprocessing.size is None
        assert preprocessing.mean != (0.0, 0.0, 0.0)

    def test_metrics_are_those_of_the_card(self, planted, trained):
        """Accuracy recomputed image by image through the host equals the recorded one."""
        model = load_model(ModelRequest(trained.folder), SOURCES)
        source = ManifestSource(planted, model.preprocessing)
        rows = [row for row, split in enumerate(planted.frame["split"]) if split == "test"]
        with torch.no_grad():
            said = [int(model.module(source.read(row).tensor[None]).argmax()) for row in rows]
        truth = [model.classes.index(planted.frame["label"][row]) for row in rows]

        recorded = trained.training["metrics"]["test"]
        assert recorded["n"] == len(rows) == 80
        assert recorded["accuracy"]["estimate"] == pytest.approx(np.mean(np.equal(said, truth)), abs=1e-6)

    def test_the_card_says_how_it_was_made(self, trained):
        """Options, digest, history, best epoch, versions and seconds are there, as strict JSON."""
        card = read_card(trained.folder)
        training = card.training

        assert card.source == "gap"
        assert card.arguments == {"backbone": "8,P,16,16", "width": 1.0, "classes": 2, "channels": 3}
        assert training["plan"]["learning_rate"] == 1e-2
        assert len(training["plan"]["data"]) == 64
        assert [record["epoch"] for record in training["history"]] == list(range(6))
        losses = [record["val_loss"] for record in training["history"]]
        assert training["best_epoch"] == int(np.argmin(losses))
        assert {"torch", "lightning"} <= training["versions"].keys()
        assert sorted(path.name for path in trained.folder.iterdir()) == ["model.json", "model.safetensors"]

    def test_groups_of_validation_do_not_train(self, trained):
        """Images are counted by purpose; no note says that groups are shared."""
        assert sum(trained.training["images"].values()) == 240
        assert trained.training["images"]["test"] == 80
        assert trained.training["notes"] == ["val chose the epoch: its metrics are a little too good"]


class TestSurroundings:
    """A training leaves the process as it found it."""

    def test_global_state_is_as_before(self, planted, tmp_path):
        """Random states, threads, switches, environment and loggers are those of before."""

        def state():
            return (
                torch.get_rng_state().tolist(),
                random.getstate(),
                np.random.get_state()[1].tolist(),
                torch.get_num_threads(),
                torch.get_default_dtype(),
                torch.are_deterministic_algorithms_enabled(),
                torch.is_grad_enabled(),
                torch.backends.cudnn.benchmark,
                dict(os.environ),
                logging.getLogger("lightning.pytorch").level,
            )

        before = state()
        with torch.no_grad():
            fit_gap(planted, replace(QUICK, epochs=1, threads=1), tmp_path / "out")
        assert state() == before

    def test_the_network_comes_in_eval_mode_on_the_cpu(self, trained):
        """What is returned can be audited at once."""
        assert not any(module.training for module in trained.network.modules())
        assert {value.device.type for value in trained.network.state_dict().values()} == {"cpu"}

    def test_nothing_is_said(self, planted, tmp_path, capfd):
        """Neither Lightning nor we write to the terminal."""
        fit_gap(planted, replace(QUICK, epochs=1), tmp_path / "out")

        assert capfd.readouterr() == ("", "")


class TestBadInput:
    """One clear line, and nothing half-written."""

    def test_divergence_is_told_and_leaves_nothing(self, planted, tmp_path):
        """A loss that is not finite stops the training with a remedy."""
        with pytest.raises(ModelError, match=r"diverged.*at epoch 1, batch .*lower --learning-rate"):
            fit_gap(planted, replace(QUICK, learning_rate=1e30), tmp_path / "out")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("changes", "error", "message"),
        [
            ({"backbone": "vgg17"}, ModelError, "backbone unknown.*nearest: vgg1"),
            ({"classes": ("blob", "nothing")}, ManifestError, "'?none'? *; wanted: blob, nothing"),
            ({"class_weights": (1.0,)}, ModelError, "found: 1 weights"),
            ({"device": "tpu"}, UsageError, "device unknown; found: 'tpu'"),
            ({"device": "cuda:7"}, UsageError, "device cuda:7 is not there.*--device cpu"),
            ({"preprocessing": "imagenett"}, UsageError, "did you mean imagenet"),
        ],
    )
    def test_bad_options_leave_nothing(self, planted, tmp_path, changes, error, message):
        """Options that do not suit are refused before or without leaving a folder."""
        with pytest.raises(error, match=message):
            fit_gap(planted, replace(QUICK, **changes), tmp_path / "out")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"epochs": 0}, "epochs is out of range; found: 0; wanted: 1 or more"),
            ({"batch_size": 1}, "batch size is out of range"),
            ({"learning_rate": float("nan")}, "learning rate is out of range"),
            ({"validation": 1.0}, "validation share is out of range"),
            ({"native_scale": True, "size": 9}, "native scale contradicts a size"),
            ({"keep": "best"}, "keep unknown; found: 'best'"),
            ({"class_weights": "balance"}, "class weights unknown.*nearest: balanced"),
        ],
    )
    def test_impossible_options_are_refused(self, changes, message):
        """Numbers out of range and unknown words are refused when the options are made."""
        with pytest.raises(UsageError, match=message):
            replace(QUICK, **changes)

    def test_a_training_with_bad_images_says_so(self, make_planted, tmp_path):
        """Two damaged files are left out with a note, and the rest trains."""
        manifest = make_planted(40, seed=3)
        for name in ("0003.png", "0011.png"):
            (manifest.root / name).write_bytes(b"not an image")

        trained = fit_gap(manifest, replace(QUICK, epochs=1), tmp_path / "out")

        assert sum(trained.training["images"].values()) == 38
        assert trained.training["notes"][0].startswith("2 images could not be read")


def test_a_last_batch_of_one_image_is_no_trap(make_planted, tmp_path):
    """Batch normalisation of one image is undefined at 1 x 1; such a batch is left out."""
    manifest = make_planted(41, seed=4)
    split = ["train"] * 33 + ["val"] * 8
    manifest = replace(manifest, frame=manifest.frame.assign(split=split))
    options = replace(QUICK, backbone="4,P,4,P,4,P,4,P,4", epochs=1, batch_size=16)

    assert fit_gap(manifest, options, tmp_path / "out").training["images"]["train"] == 33


def test_everything_can_be_switched_on(planted, tmp_path):
    """Jitter, class weights, grey input, files instead of memory, best AUC: all at once trains."""
    options = replace(
        QUICK,
        augmentation=Augmentation(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05),
        preprocessing="size=16 channels=1 mean=.4 std=.2",
        class_weights=(1.0, 2.0),
        keep="auc",
        epochs=2,
        cache_bytes=0,
    )

    trained = fit_gap(planted, options, tmp_path / "out")

    assert read_card(tmp_path / "out").arguments["channels"] == 1
    assert trained.preprocessing.size == (16, 16)
    aucs = [record["val_auc"] for record in trained.training["history"]]
    assert trained.training["best_epoch"] == int(np.argmax(aucs))


@pytest.mark.slow
def test_decoding_processes_change_nothing(planted, tmp_path):
    """With workers that decode, the weights are those without."""
    one, two = (
        fit_gap(planted, replace(QUICK, epochs=1, cache_bytes=0, num_workers=n), tmp_path / f"{n}")
        for n in (0, 2)
    )

    assert bits(one) == bits(two)


def test_dropout_is_drawn_from_the_step(planted, tmp_path, monkeypatch):
    """A network that draws random numbers in its forward pass resumes to the same bits, too."""
    options = replace(QUICK, epochs=2)

    def with_dropout(arguments):
        network = build(arguments)
        network.features.append(torch.nn.Dropout(0.3))
        return network

    def stop(record):
        raise KeyboardInterrupt

    monkeypatch.setattr("wsss_probe_localizers.gap.build", with_dropout)
    whole = fit_gap(planted, options, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit_gap(planted, options, tmp_path / "parts", on_epoch=stop)

    assert bits(fit_gap(planted, replace(options, resume=True), tmp_path / "parts")) == bits(whole)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_trains_as_well(planted, tmp_path):
    """On CUDA the planted blob is learned and the card is read on a CPU."""
    trained = fit_gap(planted, replace(QUICK, device="cuda"), tmp_path / "out")

    assert auc_of(trained) > 0.95
    assert load_model(ModelRequest(tmp_path / "out"), SOURCES).module is not None

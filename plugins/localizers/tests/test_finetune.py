"""Finetuning: the recipe against a loop, what learns and what does not, the start beside the result."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from wsss_probe_localizers import wsss_probe_model_sources
from wsss_probe_localizers.finetune import fit_finetuned, nesterov
from wsss_probe_localizers.gap import fit_gap
from wsss_probe_localizers.options import FinetuneOptions, GapOptions

from wsss_probe.errors import ManifestError, ModelError, PlanError, UsageError
from wsss_probe.model import ModelRequest, load_model, read_card

SOURCES = {source.name: source for source in wsss_probe_model_sources()}
BODY = GapOptions(backbone="8,P,16,16", epochs=3, batch_size=32, learning_rate=1e-2, threads=1)


def keras_steps(weights, gradients, rate, momentum, decay):
    """Nesterov momentum with a rate that decays with time, number by number, as Keras writes it."""
    weights, velocity = list(weights), [0.0] * len(weights)
    for step, gradient in enumerate(gradients):
        now = rate / (1 + decay * step)
        for index in range(len(weights)):
            velocity[index] = momentum * velocity[index] - now * gradient[index]
            weights[index] += momentum * velocity[index] - now * gradient[index]
    return weights


@pytest.fixture(scope="module")
def body(planted, tmp_path_factory):
    """A trained network of two outputs: a body to start from."""
    return fit_gap(planted, BODY, tmp_path_factory.mktemp("bodies") / "body").folder


@pytest.fixture(scope="module")
def quick(body):
    """A short recipe with a rate that moves a toy."""
    return FinetuneOptions(model=body, epochs=3, batch_size=32, learning_rate=1e-2, threads=1)


@pytest.fixture(scope="module")
def finetuned(planted, quick, tmp_path_factory):
    """One finetuning that many tests look at."""
    return fit_finetuned(planted, quick, tmp_path_factory.mktemp("runs") / "tuned")


def loaded(folder):
    """A model folder as an audit reads it."""
    return load_model(ModelRequest(folder), SOURCES)


def bits(network):
    """Every tensor as bytes."""
    return {name: value.numpy().tobytes() for name, value in network.state_dict().items()}


def stopping_at(epoch):
    """Interrupt after an epoch."""

    def stop(record):
        if record["epoch"] == epoch:
            raise KeyboardInterrupt

    return stop


class TestRecipe:
    """The optimiser is the paper's."""

    @settings(deadline=None, max_examples=20)
    @given(
        seed=st.integers(0, 1000),
        rate=st.floats(1e-3, 0.5),
        momentum=st.sampled_from([0.0, 0.5, 0.9]),
    )
    def test_steps_are_those_of_the_formula(self, seed, rate, momentum):
        """With a constant rate the weights are those of the loop; a rate that decays divides it per step."""
        generator = np.random.default_rng(seed)
        start, gradients = generator.normal(size=3), generator.normal(size=(6, 3))
        options = FinetuneOptions(learning_rate=rate, momentum=momentum, decay=0.0)
        layer = nn.Linear(3, 1, bias=False).double()
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(start)[None])
        optimizer = nesterov(options)(layer, 6)["optimizer"]
        for gradient in gradients:
            layer.weight.grad = torch.from_numpy(gradient)[None]
            optimizer.step()

        expected = keras_steps(start, gradients, rate, momentum, 0.0)
        np.testing.assert_allclose(layer.weight.detach()[0].numpy(), expected, rtol=1e-9, atol=1e-12)

    def test_the_rate_falls_as_one_over_time(self):
        """At step t the rate is rate / (1 + decay t)."""
        made = nesterov(FinetuneOptions(learning_rate=0.2, decay=0.5))(nn.Linear(2, 1), 4)
        optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
        rates = []
        for _ in range(4):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()

        assert rates == pytest.approx([0.2, 0.2 / 1.5, 0.2 / 2, 0.2 / 2.5])
        assert made["lr_scheduler"]["interval"] == "step"

    def test_the_defaults_are_the_papers(self):
        """SGD 1e-4 with decay 1e-6 and Nesterov .9, 30 epochs, one unit, the last epoch kept."""
        options = FinetuneOptions()

        assert (options.learning_rate, options.decay, options.momentum) == (1e-4, 1e-6, 0.9)
        assert (options.epochs, options.units, options.keep) == (30, "one", "last")
        group = nesterov(options)(nn.Linear(2, 1), 10)["optimizer"].param_groups[0]
        assert group["nesterov"]
        assert group["weight_decay"] == 0


class TestOutcome:
    """What comes out is a model, and so is what it started from."""

    def test_the_labels_are_learned(self, finetuned):
        """A planted blob is told on held-out groups by one unit, and the start's head knows nothing."""
        training = finetuned.training
        after = training["metrics"]["test"]["auc"]
        before = training["start"]["metrics"]["test"]["auc"]

        assert finetuned.classes == ("none",)
        assert after["none"]["estimate"] > 0.9
        assert after["none"]["estimate"] > before["none"]["estimate"]
        assert training["metrics"]["test"]["groups"] == 20
        assert training["metrics"]["test"]["n"] == 80

    def test_random_labels_are_at_chance(self, make_planted, quick, tmp_path):
        """Labels that say nothing about the images give a held-out AUC near one half."""
        manifest = make_planted(300, shuffled=True, seed=1)
        split = ["test" if int(group[1:]) % 2 else "train" for group in manifest.frame["group"]]
        manifest = replace(manifest, frame=manifest.frame.assign(split=split))
        trained = fit_finetuned(manifest, quick, tmp_path / "out")

        assert 0.4 < trained.training["metrics"]["test"]["auc"]["none"]["estimate"] < 0.6

    def test_what_is_too_faint_is_not_learned(self, make_planted, quick, tmp_path):
        """A blob of a twentieth of the strength is lost in the noise."""
        manifest = make_planted(240, strength=0.05, seed=2)
        split = ["test" if int(group[1:]) % 2 else "train" for group in manifest.frame["group"]]
        manifest = replace(manifest, frame=manifest.frame.assign(split=split))
        trained = fit_finetuned(manifest, quick, tmp_path / "out")

        assert trained.training["metrics"]["test"]["auc"]["none"]["estimate"] < 0.75

    def test_both_folders_are_models(self, body, finetuned):
        """Result and start load without further flags; the start's body is the given one, bit for bit."""
        after, start, given = (loaded(path) for path in (finetuned.folder, finetuned.folder / "start", body))
        own = bits(given.module)

        assert after.classes == start.classes == ("none",)
        assert after.multilabel
        assert after.preprocessing == given.preprocessing
        assert bits(after.module) == bits(finetuned.network)
        for name, value in bits(start.module).items():
            assert name.startswith("classifier") or value == own[name]
        assert start.module.classifier.out_features == 1
        assert not torch.equal(start.module.classifier.weight, after.module.classifier.weight)

    def test_the_card_says_how_it_was_made(self, finetuned, quick):
        """Source, arguments, start, movement and notes are there, as strict JSON."""
        card = read_card(finetuned.folder)
        inner = {"backbone": "8,P,16,16", "width": 1.0, "classes": 2, "channels": 3}

        assert card.source == "finetuned"
        assert card.arguments == {"source": "gap", "arguments": inner, "head": "classifier", "units": 1}
        assert "head classifier drawn anew" in card.training["notes"]
        assert (
            "batch normalisation in 3 layers: statistics follow the training images"
            in (card.training["notes"])
        )
        assert card.training["plan"]["start"]["digest"] == card.training["start"]["digest"]
        assert "model" not in card.training["plan"]
        assert {"features.conv1_1", "classifier"} <= set(card.training["moved"])
        assert all(0 < part < 10 for part in card.training["moved"].values())
        assert not any("val chose the epoch" in note for note in card.training["notes"])

    def test_moved_is_what_the_tensors_say(self, finetuned):
        """The recorded change of a part is the norm of the difference over the norm before."""
        start, after = loaded(finetuned.folder / "start").module, finetuned.network
        pairs = zip(start.features.conv2_1.parameters(), after.features.conv2_1.parameters(), strict=True)
        moved, own = 0.0, 0.0
        for old, new in pairs:
            for one, other in zip(old.flatten().tolist(), new.flatten().tolist(), strict=True):
                moved += (other - one) ** 2
                own += one**2

        expected = (moved / own) ** 0.5
        assert finetuned.training["moved"]["features.conv2_1"] == pytest.approx(expected, rel=1e-4)

    def test_a_finetuned_network_can_be_finetuned_again(self, planted, quick, finetuned, tmp_path):
        """The second card names the first source, not a chain of cards."""
        options = replace(quick, model=finetuned.folder, epochs=1, units="classes")
        again = fit_finetuned(planted, options, tmp_path / "again")

        assert read_card(again.folder).arguments["source"] == "gap"
        assert loaded(again.folder).classes == ("blob", "none")
        assert not read_card(again.folder).multilabel

    def test_a_registry_network_starts_untrained_on_purpose(self, planted, quick, tmp_path):
        """A torchvision network with random weights, its arguments and a convolution as its head."""
        options = replace(
            quick, model="torchvision/squeezenet1_1", weights="random", model_arguments={"dropout": 0.1},
            preprocessing="size=40 mean=.5 std=.2", epochs=1,
        )  # fmt: skip
        trained = fit_finetuned(planted.take(range(60)), options, tmp_path / "out")

        card = read_card(trained.folder)
        assert card.arguments["arguments"] == {"dropout": 0.1}
        assert card.arguments["head"] == "classifier.1"
        assert trained.training["start"]["weights"] == "random"
        assert "the network has no batch normalisation" in card.training["notes"]
        assert bits(loaded(trained.folder).module) == bits(trained.network)


class TestStill:
    """What is frozen does not move, and what is not does."""

    @pytest.mark.parametrize("pattern", ["features.conv*", "features.conv1_1"])
    def test_frozen_layers_do_not_move(self, planted, quick, tmp_path, pattern):
        """Parameters of frozen modules are those of the start; the others changed."""
        options = replace(quick, epochs=1, freeze=(pattern,))
        trained = fit_finetuned(planted, options, tmp_path / "out")
        start = bits(loaded(trained.folder / "start").module)
        same = {name for name, value in bits(trained.network).items() if value == start[name]}

        expected = {name for name in start if name.startswith(pattern.rstrip("*"))}
        assert same == expected
        assert expected
        assert all(tensor.requires_grad for tensor in trained.network.parameters())
        assert any(note.startswith(f"{len(expected)} modules did not learn") for note in read_notes(trained))

    def test_frozen_layers_keep_their_statistics(self, planted, quick, tmp_path):
        """Running statistics inside a frozen module are those of the start as well."""
        options = replace(quick, epochs=1, freeze=("features",))
        trained = fit_finetuned(planted, options, tmp_path / "out")
        start = bits(loaded(trained.folder / "start").module)
        moved = {name for name, value in bits(trained.network).items() if value != start[name]}

        assert moved == {"classifier.weight", "classifier.bias"}

    def test_statistics_can_stay_while_scale_and_shift_learn(self, planted, quick, tmp_path):
        """With frozen batch normalisation running means stay, weights and biases move."""
        trained = fit_finetuned(planted, replace(quick, epochs=1, batch_norm="frozen"), tmp_path / "out")
        start = bits(loaded(trained.folder / "start").module)
        same = {name for name, value in bits(trained.network).items() if value == start[name]}

        assert same == {name for name in start if "running_" in name or "num_batches" in name}

    def test_statistics_follow_the_images_by_default(self, finetuned):
        """Without freezing every tensor moves, running statistics too."""
        start = bits(loaded(finetuned.folder / "start").module)

        assert all(value != start[name] for name, value in bits(finetuned.network).items())


def read_notes(trained):
    """Notes of the card on disk."""
    return json.loads((trained.folder / "model.json").read_text())["training"]["notes"]


class TestResume:
    """An interruption leaves no trace in the result."""

    def test_a_resumed_finetuning_equals_an_uninterrupted_one(self, planted, quick, finetuned, tmp_path):
        """Interrupted after one of three epochs and resumed: the same bits, history, metrics and start."""
        out = tmp_path / "tuned"
        with pytest.raises(KeyboardInterrupt):
            fit_finetuned(planted, quick, out, on_epoch=stopping_at(0))
        assert not out.exists()
        seen = []
        resumed = fit_finetuned(planted, replace(quick, resume=True), out, on_epoch=seen.append)

        assert [record["epoch"] for record in seen] == [1, 2]
        assert bits(resumed.network) == bits(finetuned.network)
        assert bits(loaded(out / "start").module) == bits(loaded(finetuned.folder / "start").module)
        for key in ("history", "metrics", "plan", "start", "moved", "notes"):
            assert resumed.training[key] == finetuned.training[key]
        assert sorted(path.name for path in out.iterdir()) == ["model.json", "model.safetensors", "start"]

    def test_another_start_is_not_resumed(self, planted, quick, tmp_path):
        """The digest of the start tells another network, another seed or another rate."""
        out = tmp_path / "out"
        with pytest.raises(KeyboardInterrupt):
            fit_finetuned(planted, quick, out, on_epoch=stopping_at(0))
        with pytest.raises(PlanError, match="was trained differently; found: learning_rate"):
            fit_finetuned(planted, replace(quick, resume=True, learning_rate=0.5), out)
        with pytest.raises(PlanError, match="found: seed 0, start"):
            fit_finetuned(planted, replace(quick, resume=True, seed=4), out)

    def test_a_finished_finetuning_is_returned(self, planted, quick, finetuned):
        """With resume the finished result comes back; without it the folder is refused."""
        again = fit_finetuned(planted, replace(quick, resume=True), finetuned.folder)

        assert bits(again.network) == bits(finetuned.network)
        with pytest.raises(PlanError, match="holds a finished training"):
            fit_finetuned(planted, quick, finetuned.folder)


class TestBadInput:
    """One clear line, and nothing half-written."""

    @pytest.mark.parametrize(
        ("changes", "error", "message"),
        [
            ({"model": "net.py:make"}, UsageError, "cannot start from a factory.*model source of a plugin"),
            ({"model": "torchvision/resnet18"}, UsageError, "no weights for torchvision/resnet18"),
            ({"freeze": ("feature.conv1_1",)}, ModelError, "no module to freeze.*nearest is .*conv1_1"),
            ({"freeze": ("class*",)}, ModelError, "the new head would be frozen.*leave out classifier"),
            ({"device": "cuda:7"}, UsageError, "device cuda:7 is not there"),
            ({"classes": ("blob", "nothing")}, ManifestError, "a label is not among the classes"),
            ({"learning_rate": 1e30}, ModelError, "training diverged.*lower --learning-rate"),
        ],
    )
    def test_what_does_not_suit_is_refused(self, planted, quick, tmp_path, changes, error, message):
        """Models, modules, devices, labels and rates that do not suit leave no folder."""
        with pytest.raises(error, match=message):
            fit_finetuned(planted, replace(quick, **changes), tmp_path / "out")
        assert list(tmp_path.iterdir()) == []

    def test_a_model_without_preprocessing_is_refused(self, planted, quick, tmp_path):
        """A plugin's model source brings none: the message names the flag."""
        options = replace(quick, model="mobilenetv2-folded", weights="random")
        with pytest.raises(ModelError, match=r"nothing says how images are prepared.*--preprocess"):
            fit_finetuned(planted, options, tmp_path / "out")

    def test_a_preprocessing_changes_what_the_network_brings(self, planted, quick, finetuned, tmp_path):
        """A size alone keeps mean and standard deviation of the card."""
        trained = fit_finetuned(planted, replace(quick, preprocessing="size=16", epochs=1), tmp_path / "out")

        assert trained.preprocessing == replace(finetuned.preprocessing, size=(16, 16))

    def test_one_unit_needs_two_classes(self, planted, quick, tmp_path):
        """A third label is refused with the flag that takes it."""
        labels = ["other" if row % 7 == 0 else name for row, name in enumerate(planted.frame["label"])]
        manifest = replace(planted, frame=planted.frame.assign(label=labels))
        with pytest.raises(
            ManifestError, match=r"found: 3 classes .*; wanted: 2; remedy: use --units classes"
        ):
            fit_finetuned(manifest, quick, tmp_path / "out")

        trained = fit_finetuned(manifest, replace(quick, units="classes", epochs=1), tmp_path / "out")
        assert trained.classes == ("blob", "none", "other")

    def test_a_manifest_without_labels_is_refused(self, planted, quick, tmp_path):
        """Nothing can be learned from images alone."""
        manifest = replace(planted, frame=planted.frame.assign(label=""))
        with pytest.raises(ManifestError, match="no image has a label"):
            fit_finetuned(manifest, quick, tmp_path / "out")

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"units": "two"}, "units unknown; found: 'two'"),
            ({"batch_norm": "freeze"}, "batch norm unknown.*nearest: frozen"),
            ({"decay": -1e-6}, "decay is out of range; found: -1e-06; wanted: 0 or more"),
            ({"momentum": 1.0}, "momentum is out of range"),
            ({"multilabel": True}, "one unit leaves nothing to choose"),
            ({"epochs": 0}, "epochs is out of range"),
        ],
    )
    def test_impossible_options_are_refused(self, changes, message):
        """Numbers out of range and unknown words are refused when the options are made."""
        with pytest.raises(UsageError, match=message):
            FinetuneOptions(**changes)


def test_one_unit_is_a_sigmoid_of_the_last_class(planted, finetuned):
    """The recorded accuracy is that of the sign of the logit, image by image."""
    from wsss_probe.images import ManifestSource

    source = ManifestSource(planted, finetuned.preprocessing)
    rows = [row for row, split in enumerate(planted.frame["split"]) if split == "test"]
    with torch.no_grad():
        logits = [float(finetuned.network(source.read(row).tensor[None])) for row in rows]
    truth = [planted.frame["label"][row] == "none" for row in rows]
    right = np.mean([(logit > 0) == present for logit, present in zip(logits, truth, strict=True)])

    assert finetuned.training["metrics"]["test"]["accuracy"]["estimate"] == pytest.approx(right, abs=1e-6)


def test_an_auxiliary_classifier_does_not_disturb(planted, quick, tmp_path, monkeypatch):
    """A network that returns further logits in train mode learns from its own."""

    class Twofold(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(3, 8, 3, padding=1)
            self.classifier, self.auxiliary = nn.Linear(8, 2), nn.Linear(8, 2)

        def forward(self, images):
            pooled = F.relu(self.body(images)).mean((2, 3))
            logits = self.classifier(pooled)
            return (logits, self.auxiliary(pooled)) if self.training else logits

    source = replace(SOURCES["gap"], name="twofold", build=lambda arguments: Twofold())
    sources = {**SOURCES, "twofold": source}
    monkeypatch.setattr("wsss_probe_localizers.finetune.installed_sources", partial(dict, sources))
    monkeypatch.setattr("wsss_probe_localizers.heads.installed_sources", partial(dict, sources))
    options = replace(
        quick, model="twofold", weights="random", preprocessing="size=20 mean=.4 std=.2", epochs=1
    )
    trained = fit_finetuned(planted.take(range(60)), options, tmp_path / "out")

    assert trained.training["moved"]["auxiliary"] == 0
    assert trained.training["moved"]["classifier"] > 0
    assert read_card(trained.folder).arguments["head"] == "classifier"

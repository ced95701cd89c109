"""The audited network: every way to one, its weights, its class names, and its card."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from wsss_probe.checkpoint import tensor_digest
from wsss_probe.contracts import ModelSource
from wsss_probe.errors import CorruptRunError, ExitCode, ModelError, ProbeError, UnsafeInputError, UsageError
from wsss_probe.model import ModelCard, ModelRequest, count_logits, load_model, read_card, write_card
from wsss_probe.preprocessing import Preprocessing

SHARED = Path(__file__).parents[1].parent / "shared"
SMALL = Preprocessing(size=(8, 6))


@pytest.fixture(autouse=True)
def marker(tmp_path):
    """A file that appears if refused code runs; every test ends by looking for it."""
    path = tmp_path / "payload-was-executed"
    yield path
    assert not path.exists()


def tiny(classes: int = 2) -> nn.Sequential:
    """Convolution, BatchNorm, dropout, GAP and a linear head."""
    body = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*body, nn.Linear(4, classes))


SOURCES = {"tiny": ModelSource("tiny", "for tests", lambda arguments: tiny(**arguments))}
CARD = ModelCard("tiny", {"classes": 3}, ("a", "b", "c"), True, SMALL, training={"epochs": 2})


def saved(path: Path, module: nn.Module) -> Path:
    """The module's weights as a torch checkpoint."""
    torch.save(module.state_dict(), path)
    return path


def factory(folder: Path, body: str) -> str:
    """A spec of a factory file whose function ``make`` has this body."""
    path = folder / "nets.py"
    path.write_text(f"import torch\nfrom torch import nn\n\ndef make():\n    {body}\n", encoding="utf-8")
    return f"{path}:make"


# -- live modules ----------------------------------------------------------------------------------


def test_live_module_is_returned_as_it_is():
    """A live module is the same object afterwards, in the same mixed mode, with the same tensors."""
    module = tiny()
    module[1].eval()
    flags = [part.training for part in module.modules()]
    before = tensor_digest(module)
    model = load_model(ModelRequest(module, preprocess=SMALL))
    assert model.module is module
    assert [part.training for part in module.modules()] == flags
    assert tensor_digest(module) == before
    assert (model.name, model.classes) == ("Sequential", ("class 0", "class 1"))
    assert model.provenance["weights"] == "live"


def test_live_module_without_preprocessing():
    """Without preprocessing nothing is guessed; where images must be prepared, the flag is named."""
    model = load_model(ModelRequest(tiny(), classes=("x", "y")))
    assert (model.preprocessing, model.classes) == (None, ("x", "y"))
    assert load_model(ModelRequest(tiny())).classes == ()
    assert load_model(ModelRequest(tiny()), example=torch.zeros(1, 3, 8, 8)).classes == ("class 0", "class 1")
    with pytest.raises(ModelError, match="--preprocess") as caught:
        load_model(ModelRequest(tiny()), require_preprocessing=True)
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize("extra", [{"weights": "w.pt"}, {"arguments": {"classes": 3}}])
def test_live_module_takes_no_weights(extra):
    """Weights are never loaded into somebody else's module."""
    with pytest.raises(UsageError, match="live module"):
        load_model(ModelRequest(tiny(), **extra))


class Counting(nn.Module):
    """Counts its calls in a buffer, draws random numbers, and does so in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.head = nn.Linear(3, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of the mean colour, with noise."""
        self.calls += 1
        return self.head(images.mean((2, 3))) + torch.rand(1)


def test_counting_logits_leaves_no_trace():
    """A module that changes itself in every call is as before, and so is the random state."""
    module = Counting()
    state = torch.get_rng_state()
    assert count_logits(module, torch.zeros(5, 3, 2, 2)) == 4
    assert module.calls == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert module.head.weight.grad is None


class Returning(nn.Module):
    """Returns what it is told to."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, _images: torch.Tensor) -> object:
        """The output, whatever the input."""
        return self.output


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ((torch.ones(1, 2),), "a tuple"),
        ({"out": torch.ones(1, 2)}, "a dict"),
        (torch.ones(1, 2, 4, 4), r"shape \(1, 2, 4, 4\)"),
        (torch.ones(1), r"shape \(1,\)"),
    ],
)
def test_outputs_that_are_no_logits(output, found):
    """Tuples, dictionaries, maps and vectors are refused by what they are."""
    with pytest.raises(ModelError, match=f"returns no logits; found: {found}"):
        load_model(ModelRequest(Returning(output), preprocess=SMALL))


def test_network_that_fails_on_the_image():
    """A wrong number of channels ends in one line that names the shape; modes are restored."""
    module = tiny()
    wrong = Preprocessing(size=(8, 6), channels=1, mean=(0.0,), std=(1.0,))
    with pytest.raises(ModelError, match=r"shape \(1, 8, 6\).*--preprocess"):
        load_model(ModelRequest(module, preprocess=wrong))
    assert all(part.training for part in module.modules())


# -- networks that are built -----------------------------------------------------------------------


def test_weights_are_demanded():
    """A registry's network without weights is an error that names both remedies."""
    with pytest.raises(UsageError, match=r"--weights FILE, or --weights random"):
        load_model(ModelRequest("torchvision/squeezenet1_1"))
    with pytest.raises(UsageError, match=r"--weights FILE, or --weights random"):
        load_model(ModelRequest("tiny"), SOURCES)


def test_random_weights_on_purpose():
    """The word ``random`` gives an untrained network, the same each time, and says so."""
    request = ModelRequest("torchvision/squeezenet1_1", weights="random")
    model = load_model(request)
    assert (model.provenance["weights"], model.provenance["seed"]) == ("random", 0)
    assert model.provenance["tensor_digest"] == load_model(request).provenance["tensor_digest"]
    assert (model.classes[0], len(model.classes)) == ("tench", 1000)
    assert not model.module.training


def test_registry_network_with_weights(tmp_path):
    """Weights of a file arrive in the network, and the provenance says which and how."""
    torch.manual_seed(7)
    trained = load_model(ModelRequest("torchvision/squeezenet1_1", weights="random")).module
    nn.init.normal_(trained.classifier[1].bias)
    path = saved(tmp_path / "w.pt", nn.ModuleDict({"module": trained}))
    model = load_model(ModelRequest("torchvision/squeezenet1_1", weights=path))
    facts = model.provenance
    assert facts["tensor_digest"] == tensor_digest(trained)
    assert (facts["weights"], facts["prefix"], facts["weights_format"]) == ("w.pt", "module.", "torch")
    assert len(facts["weights_sha256"]) == 64
    assert facts["torch"] == torch.__version__
    assert any("default weights assumed" in note for note in facts["notes"])
    json.dumps(dict(facts))


def test_wrong_weights_are_refused(tmp_path):
    """Weights of another network end in the table of differences."""
    with pytest.raises(ModelError, match="do not fit the network SqueezeNet"):
        load_model(ModelRequest("torchvision/squeezenet1_1", weights=saved(tmp_path / "w.pt", tiny())))


def test_repeated_class_names_are_told_apart(tmp_path):
    """Names are coordinates: a source's name that stands twice gets its index."""
    write_card(tmp_path, replace(CARD, classes=("crane", "heron", "crane")), tiny(3))
    assert load_model(ModelRequest(tmp_path), SOURCES).classes == ("crane (0)", "heron", "crane (2)")


def test_registry_class_names_do_not_stick_to_other_heads():
    """A head of another size does not get ImageNet's names."""
    request = ModelRequest("timm/convnext_atto", weights="random", arguments={"num_classes": 2})
    assert load_model(request).classes == ("class 0", "class 1")


def test_class_names_of_the_user_must_fit():
    """Too few names are an error, not a guess."""
    with pytest.raises(UsageError, match="found: 1 names; wanted: 2"):
        load_model(ModelRequest(tiny(), preprocess=SMALL, classes=("a",)))


def test_equal_class_names_get_their_index():
    """Two equal names of the user, as in ImageNet's list, stay apart."""
    assert load_model(ModelRequest(tiny(), preprocess=SMALL, classes=("a", "a"))).classes == (
        "a (0)",
        "a (1)",
    )


# -- factories -------------------------------------------------------------------------------------


def test_factory_may_bring_its_own_weights(tmp_path):
    """A factory that loads weights itself keeps them, and that is recorded."""
    own = saved(tmp_path / "own.pt", nn.Sequential(nn.Flatten(), nn.Linear(144, 2)))
    load = f"net.load_state_dict(torch.load({str(own)!r}, weights_only=True))"
    spec = factory(tmp_path, f"net = nn.Sequential(nn.Flatten(), nn.Linear(144, 2)); {load}; return net")
    model = load_model(ModelRequest(spec, preprocess=SMALL, trust_code=True))
    assert model.provenance["weights"] == "factory"
    assert torch.equal(model.module[1].weight, torch.load(own, weights_only=True)["1.weight"])


def test_untrained_factory_is_found_out(tmp_path):
    """A factory whose weights change with the seed is untrained: it needs weights, or the word random."""
    spec = factory(tmp_path, "return nn.Sequential(nn.Flatten(), nn.Linear(144, 2))")
    with pytest.raises(UsageError, match=r"random seed.*--weights random"):
        load_model(ModelRequest(spec, preprocess=SMALL, trust_code=True))
    model = load_model(ModelRequest(spec, weights="random", preprocess="size=8x6", trust_code=True))
    assert model.preprocessing == SMALL


def test_factory_without_trust(tmp_path, marker):
    """Without trust the factory does not run."""
    spec = factory(tmp_path, f"open({str(marker)!r}, 'w')")
    with pytest.raises(UnsafeInputError, match="--trust-code"):
        load_model(ModelRequest(spec, weights="random", preprocess=SMALL))


def test_factory_without_preprocessing(tmp_path):
    """A factory brings no preprocessing, and the flag to add is named."""
    spec = factory(tmp_path, "return nn.Flatten()")
    with pytest.raises(ModelError, match="--preprocess"):
        load_model(ModelRequest(spec, trust_code=True), require_preprocessing=True)


# -- cards -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["", "model.json"])
def test_card_needs_no_further_flag(tmp_path, which):
    """What was written is what is loaded: bits, classes, preprocessing, kind of task, training."""
    folder = tmp_path / "runs" / "x"
    module = tiny(3)
    written = write_card(folder, CARD, module)
    assert read_card(folder) == written
    model = load_model(ModelRequest(folder / which), SOURCES)
    assert tensor_digest(model.module) == tensor_digest(module)
    assert (model.name, model.classes, model.multilabel) == ("x", ("a", "b", "c"), True)
    assert model.preprocessing == SMALL
    assert model.provenance["training"] == {"epochs": 2}
    assert sorted(entry.name for entry in folder.iterdir()) == ["model.json", "model.safetensors"]


def test_card_of_a_registry_network(tmp_path):
    """A registry network's card needs no plugin; a text path works like a Path."""
    module = load_model(ModelRequest("torchvision/squeezenet1_1", weights="random")).module
    write_card(tmp_path, ModelCard("torchvision/squeezenet1_1"), module)
    model = load_model(ModelRequest(str(tmp_path)))
    assert tensor_digest(model.module) == tensor_digest(module)


def test_tied_and_strided_weights_are_written(tmp_path):
    """Tensors that share memory or lie channels-last come back with the same values."""
    module = tiny(4).to(memory_format=torch.channels_last)
    module[5].bias = module[0].bias
    write_card(tmp_path, ModelCard("tiny", {"classes": 4}), module)
    loaded = load_model(ModelRequest(tmp_path), SOURCES).module
    assert torch.equal(loaded[0].weight, module[0].weight)
    assert torch.equal(loaded[5].bias, module[0].bias)


def test_flags_win_over_the_card(tmp_path):
    """Preprocessing, classes, kind of task and weights of the request replace the card's."""
    write_card(tmp_path / "x", CARD, tiny(3))
    other = tiny(3)
    request = ModelRequest(
        tmp_path / "x",
        weights=saved(tmp_path / "w.pt", other),
        preprocess="size=16",
        classes=["d", "e", "f"],
        multilabel=False,
    )
    model = load_model(request, SOURCES)
    assert tensor_digest(model.module) == tensor_digest(other)
    assert (model.classes, model.multilabel, model.preprocessing.size) == (("d", "e", "f"), False, (16, 16))
    untrained = load_model(ModelRequest(tmp_path / "x", weights="random"), SOURCES)
    assert untrained.provenance["weights"] == "random"


def test_exchanged_weights_are_found(tmp_path):
    """Weights that are not the card's are refused, although they would fit."""
    write_card(tmp_path, CARD, tiny(3))
    safetensors.torch.save_file(tiny(3).state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(CorruptRunError, match="not those of the model card"):
        load_model(ModelRequest(tmp_path), SOURCES)


def test_missing_plugin_is_named(tmp_path):
    """A card of a plugin that is not installed says which source is missing and what to do."""
    write_card(tmp_path, CARD, tiny(3))
    with pytest.raises(ModelError, match=r"needs the model source 'tiny'.*pip install"):
        load_model(ModelRequest(tmp_path))


def edited(folder: Path, **changes: object) -> Path:
    """A valid card in the folder, with some entries changed afterwards."""
    write_card(folder, CARD, tiny(3))
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"source": "evil.py:make"}, UnsafeInputError, "evil.py:make"),
        ({"source": "os:system"}, UnsafeInputError, "os:system"),
        ({"weights": "../model.safetensors"}, UnsafeInputError, "beside the card"),
        ({"weights": "/etc/passwd"}, UnsafeInputError, "beside the card"),
        ({"weights": "absent.safetensors"}, ModelError, "No such file"),
        ({"classes": ["a", 3, "c"]}, CorruptRunError, "wrong type: classes"),
        ({"multilabel": "yes"}, CorruptRunError, "wrong type: multilabel"),
        ({"extra\x1b": 1}, CorruptRunError, r"unknown entries: extra\\x1b"),
        ({"wsss_probe_model_card": 2}, CorruptRunError, "no mark"),
        ({"preprocessing": {"siez": 3}}, UsageError, "did you mean size"),
        ({"arguments": {"clases": 3}}, ModelError, "TypeError"),
        ({"arguments": {"classes": 4}}, ModelError, "do not fit"),
    ],
)
def test_cards_are_not_trusted(tmp_path, changes, error, reason):
    """A card cannot name code or foreign files, with or without trust, and wrong entries are named."""
    path = edited(tmp_path, **changes)
    with pytest.raises(error, match=reason):
        load_model(ModelRequest(path, trust_code=True), SOURCES)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"a": 1}', "\udcff"])
def test_broken_cards(tmp_path, text):
    """Whatever lies in model.json, the error is one of ours."""
    (tmp_path / "model.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CorruptRunError, match=r"model\.json"):
        load_model(ModelRequest(tmp_path))


@pytest.mark.parametrize("name", ["", "absent.json"])
def test_no_card(tmp_path, name):
    """A folder without a card and a missing card are said to be that."""
    with pytest.raises(UsageError, match="no model card"):
        load_model(ModelRequest(tmp_path / name))


def nan_network() -> nn.Module:
    """A network whose training diverged."""
    module = tiny(3)
    nn.init.constant_(module[5].bias, float("nan"))
    return module


@pytest.mark.parametrize(
    ("card", "module"),
    [
        (ModelCard("tiny", training={"loss": float("nan")}), tiny()),
        (ModelCard("tiny", arguments={"size": {1, 2}}), tiny()),
        (ModelCard("nets.py:make"), tiny()),
        (ModelCard("tiny", {"classes": 3}), nan_network()),
    ],
    ids=["nan", "set", "code", "diverged"],
)
def test_impossible_cards_leave_nothing(tmp_path, card, module):
    """A card that cannot be read again is not written, and an older one stays as it is."""
    older = write_card(tmp_path, CARD, tiny(3))
    files = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    with pytest.raises(ModelError):
        write_card(tmp_path, card, module)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == files
    assert read_card(tmp_path) == older


@pytest.mark.parametrize("spec", ["nosuch", "runs/absent", "no.such:factory"])
def test_unknown_models(spec):
    """A name that means nothing is one of our errors."""
    with pytest.raises(ProbeError, match=spec):
        load_model(ModelRequest(spec))


# -- real files ------------------------------------------------------------------------------------


@pytest.fixture
def shared_weights():
    """The folder of real checkpoints, which CI must have and others may lack."""
    folder = SHARED / "weights"
    if not folder.is_dir() and os.environ.get("WSSS_PROBE_REQUIRE_REAL") != "1":
        pytest.skip("no ../shared/weights")
    assert folder.is_dir()
    return folder


REAL = [
    ("resnet20", "CifarResNet(3)", "resnet_cifar10_akamaster/resnet20-12fca82f.th", "size=32", 10),
    ("pcam_gap", "PCamGAP()", "pcam_gap_cnn_trained_here/pcam_gap_state_dict.pth", "size=96", 2),
    (
        "mobilenetv2",
        "MobileNetV2Folded()",
        "mobilenetv2_imagenet_coral/mobilenetv2_folded_state_dict.pth",
        "tf size=224",
        1001,
    ),
]


@pytest.mark.real
@pytest.mark.parametrize(("name", "network", "file", "preprocess", "classes"), REAL, ids=[r[0] for r in REAL])
def test_real_checkpoint_through_a_factory(
    tmp_path, shared_weights, name, network, file, preprocess, classes
):
    """A real checkpoint in a user's architecture gives the logits that its own loader gives."""
    body = f"""
import importlib.util
spec = importlib.util.spec_from_file_location("shared_models", {str(shared_weights / "models.py")!r})
models = importlib.util.module_from_spec(spec)
spec.loader.exec_module(models)
def make(): return models.{network}
def loaded(): return models.load({name!r})[0]
"""
    (tmp_path / "nets.py").write_text(body)
    request = ModelRequest(
        f"{tmp_path / 'nets.py'}:make", weights=shared_weights / file, preprocess=preprocess, trust_code=True
    )
    model = load_model(request, require_preprocessing=True)
    own = load_model(ModelRequest(f"{tmp_path / 'nets.py'}:loaded", preprocess=preprocess, trust_code=True))
    assert len(model.classes) == classes
    assert own.provenance["weights"] == "factory"
    assert model.provenance["tensor_digest"] == own.provenance["tensor_digest"]
    assert model.provenance["prefix"] == ("module." if name == "resnet20" else "")
    images = torch.randn(2, 3, *model.preprocessing.size)
    with torch.no_grad():
        assert torch.equal(model.module(images), own.module(images))

"""The zoo: networks by name, factories only with trust, and nothing disturbed by either."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from wsss_probe.checkpoint import tensor_digest
from wsss_probe.contracts import ModelSource
from wsss_probe.errors import ModelError, UnsafeInputError, UsageError
from wsss_probe.preprocessing import Preprocessing
from wsss_probe.zoo import build, ensure_torchvision


@pytest.fixture(autouse=True)
def marker(tmp_path):
    """A file that appears if refused code runs; every test ends by looking for it."""
    path = tmp_path / "payload-was-executed"
    yield path
    assert not path.exists()


def factory_file(folder: Path, body: str) -> Path:
    """A file with a factory, as a user would write it."""
    path = folder / "nets.py"
    path.write_text(f"import os, sys, random, torch\nfrom torch import nn\n\n{body}\n", encoding="utf-8")
    return path


def in_new_process(code: str) -> str:
    """Run code in a fresh interpreter, warnings as errors, and return what it prints."""
    command = [sys.executable, "-W", "error", "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


# -- torchvision beside a CPU torch ----------------------------------------------------------------


def test_torchvision_imports_in_a_fresh_process():
    """The declarations survive garbage collection, and a second call declares nothing again."""
    code = (
        "from wsss_probe import zoo; import gc, torch\n"
        "zoo.ensure_torchvision(); zoo.ensure_torchvision(); gc.collect()\n"
        "import torchvision; torchvision.models.resnet18(); torch.ops.torchvision.nms\n"
        "print(len(zoo._FRAGMENTS) <= 1)"
    )
    assert in_new_process(code) == "True"


def test_operators_are_declared_only_when_needed():
    """Where torchvision loads by itself, nothing is declared."""
    code = (
        "import sys, types; from wsss_probe import zoo\n"
        "import importlib.util, importlib.machinery\n"
        "sys.modules['torchvision'] = types.ModuleType('torchvision')\n"
        "zoo.ensure_torchvision(); print(zoo._FRAGMENTS)"
    )
    assert in_new_process(code) == "[]"


def test_importing_the_zoo_loads_no_registry():
    """Neither torchvision nor timm is imported before a name asks for it."""
    code = "import sys, wsss_probe.zoo; print('torchvision' in sys.modules, 'timm' in sys.modules)"
    assert in_new_process(code) == "False False"


# -- registries ------------------------------------------------------------------------------------


def test_torchvision_network_with_what_its_weights_say():
    """A torchvision network brings preprocessing and class names, without a download."""
    built = build("torchvision/resnet50")
    assert built.preprocessing == Preprocessing(
        size=(224, 224),
        resize=232,
        crop="center",
        interpolation="bilinear",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    assert (built.classes[0], len(built.classes)) == ("tench", 1000)
    assert built.provenance["builder"] == "torchvision"
    assert not built.module.training


def test_torchvision_weight_files_are_known_by_hash():
    """The two published files of ResNet-50 want different sizes, and their hashes tell which is which."""
    published = build("torchvision/resnet50").published
    assert {key: (value.name, value.preprocessing.resize) for key, value in published.items()} == {
        "0676ba61": ("IMAGENET1K_V1", 256),
        "11ad3fa6": ("IMAGENET1K_V2", 232),
    }


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
def test_networks_with_auxiliary_heads_return_one_tensor(name):
    """Auxiliary heads are built (checkpoints have them) but eval mode returns the logits alone."""
    built = build(f"torchvision/{name}")
    with torch.no_grad():
        output = built.module(torch.zeros(1, 3, *built.preprocessing.size))
    assert output.shape == (1, 1000)
    # the registry's preprocessing holds only with the input transform that its weights were used with
    assert built.module.transform_input


def test_timm_network_with_its_data_config():
    """A timm network brings its evaluation size, crop, mean and std."""
    built = build("timm/convnext_atto", arguments={"num_classes": 3})
    assert built.preprocessing == Preprocessing(
        size=(224, 224),
        resize=256,
        crop="center",
        interpolation="bicubic",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    assert built.classes == ()
    assert build("timm/convnext_atto").classes[0].startswith("tench")


@pytest.mark.parametrize(
    ("spec", "nearest"),
    [("torchvision/resnet51", "torchvision/resnet5"), ("timm/resnet5", "timm/resnet50"), ("gpa", "gap")],
)
def test_unknown_names_suggest_the_nearest(spec, nearest):
    """A misspelt name is answered with the nearest one."""
    sources = {"gap": ModelSource("gap", "", lambda _: nn.Linear(1, 1))}
    with pytest.raises(UsageError, match=f"did you mean {nearest}"):
        build(spec, sources=sources)


@pytest.mark.parametrize("argument", ["weights", "pretrained", "checkpoint_path", "pretrained_cfg"])
@pytest.mark.parametrize("registry", ["torchvision", "timm"])
def test_registries_load_no_weights(registry, argument):
    """Arguments by which a registry would fetch or unpickle weights itself are refused."""
    with pytest.raises(UsageError, match="--weights"):
        build(f"{registry}/resnet18", arguments={argument: True})


def test_wrong_argument_is_explained():
    """An argument that the network does not have ends in one line."""
    with pytest.raises(ModelError, match=r"torchvision/resnet18 failed.*num_clases"):
        build("torchvision/resnet18", arguments={"num_clases": 3})


def test_model_source_of_a_plugin():
    """A plugin's source gets the arguments, and its errors become ours."""
    sources = {
        "line": ModelSource("line", "", lambda arguments: nn.Linear(arguments["n"], 1)),
        "nothing": ModelSource("nothing", "", lambda _: None),
    }
    assert build("line", arguments={"n": 4}, sources=sources).module.in_features == 4
    with pytest.raises(ModelError, match="KeyError: 'n'"):
        build("line", sources=sources)
    with pytest.raises(ModelError, match="a NoneType"):
        build("nothing", sources=sources)


# -- what is refused -------------------------------------------------------------------------------


REFUSED = [
    ("os:system", UnsafeInputError),
    ("logging.os:system", UnsafeInputError),
    ("subprocess:call", UnsafeInputError),
    ("hf-hub:a/b", UnsafeInputError),
    ("local-dir:..", UnsafeInputError),
    ("timm/hf-hub:a/b", UnsafeInputError),
    ("timm/local-dir:..", UnsafeInputError),
    ("torchvision/../x", UnsafeInputError),
    ("torchvision/os:system", UnsafeInputError),
    ("pkg..x:y", UsageError),
    ("x:y.z.w", UsageError),
    ("nets.py:a.b", UsageError),
    (":", UsageError),
    ("json.tool", UsageError),
    ("", UsageError),
]


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(("spec", "error"), REFUSED)
def test_refused_before_any_import(spec, error, trust):
    """A24: names that cannot be networks are refused, trusted or not, and no module is loaded."""
    before = set(sys.modules)
    with pytest.raises(error):
        build(spec, arguments={"command": "true"}, trust_code=trust)
    assert set(sys.modules) == before


def test_factories_need_trust(tmp_path, marker):
    """A24: without trust nothing of a factory runs, be it a file or a package; the flag is named."""
    path = factory_file(tmp_path, f"open({str(marker)!r}, 'w')\ndef make(): return nn.Linear(1, 1)")
    before = set(sys.modules)
    for spec in (f"{path}:make", "this.does.not.exist:make", "wave:open"):
        with pytest.raises(UnsafeInputError, match="--trust-code"):
            build(spec)
    assert set(sys.modules) == before


def test_aliases_are_refused(tmp_path, monkeypatch):
    """A24: a function is called only if the named package defines it."""
    (tmp_path / "wsss_probe_test_alias.py").write_text("from os import system\nimport torch.nn as nn\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnsafeInputError, match="alias"):
        build("wsss_probe_test_alias:system", arguments={"command": "true"}, trust_code=True)
    sys.modules.pop("wsss_probe_test_alias")


# -- factories -------------------------------------------------------------------------------------


def test_file_factory(tmp_path):
    """A trusted file builds a network; its hash is recorded, nothing is left beside it or on the path."""
    body = (
        "from dataclasses import dataclass\n@dataclass\nclass Size:\n    n: int\n\n"
        "def make(n=2): return nn.Linear(Size(n).n, 1)"
    )
    path = factory_file(tmp_path, body)
    before = list(sys.path)
    built = build(f"{path}:make", arguments={"n": 5}, trust_code=True)
    assert built.module.in_features == 5
    assert len(built.provenance["sha256"]) == 64
    assert (built.preprocessing, built.classes) == (None, ())
    assert sys.path == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["nets.py"]


def test_package_factory():
    """A trusted package's class is a factory too."""
    built = build("torch.nn:Linear", arguments={"in_features": 2, "out_features": 3}, trust_code=True)
    assert built.provenance["builder"] == "torch"
    assert built.module.out_features == 3


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("def make(): raise RuntimeError('first line\\nsecond line')", "RuntimeError: first line"),
        ("def make(): return None", "a NoneType"),
        ("def make(): return nn.Linear", "a type"),
        ("def make(): sys.exit(0)", "SystemExit: 0"),
        ("sys.exit(0)\ndef make(): return nn.Linear(1, 1)", "SystemExit: 0"),
        ("def make(:", "SyntaxError"),
        ("import wsss_probe_no_such_module", "ModuleNotFoundError"),
        ("make = 3", "a int"),
        ("def mak(): return nn.Linear(1, 1)", "did you mean mak"),
    ],
)
def test_failing_factories(tmp_path, body, reason):
    """A25: whatever a factory does wrong ends in one line, and its file is forgotten where it failed."""
    path = factory_file(tmp_path, body)
    with pytest.raises(ModelError, match=reason) as caught:
        build(f"{path}:make", trust_code=True)
    assert "\n" not in str(caught.value)


def test_missing_factory_file(tmp_path):
    """A file that does not exist is said to be that."""
    with pytest.raises(UsageError, match="No such file"):
        build(f"{tmp_path}/absent.py:make", trust_code=True)


@pytest.mark.parametrize("end", ["return nn.Linear(1, 1)", "raise ValueError('x')"])
def test_factories_disturb_nothing(tmp_path, end):
    """A25: folder, random states, dtype, threads and gradient mode are as before, also after an error."""
    body = (
        f"def make():\n    os.chdir({str(tmp_path)!r})\n    random.random(); torch.rand(1)\n"
        "    import numpy; numpy.random.rand()\n    torch.set_default_dtype(torch.float64)\n"
        f"    torch.set_grad_enabled(False)\n    torch.set_num_threads(3)\n    {end}"
    )
    path = factory_file(tmp_path, body)

    def state() -> tuple[object, ...]:
        modes = (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled())
        generators = (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())
        return Path.cwd(), *modes, *generators

    before = state()
    if end.startswith("raise"):
        with pytest.raises(ModelError, match="ValueError: x"):
            build(f"{path}:make", trust_code=True)
    else:
        build(f"{path}:make", trust_code=True)
    assert state() == before


def test_random_weights_follow_the_seed():
    """The same seed gives the same network, whatever was drawn before; another seed another one."""
    first = tensor_digest(build("torchvision/squeezenet1_1").module)
    torch.rand(1)
    assert tensor_digest(build("torchvision/squeezenet1_1").module) == first
    assert tensor_digest(build("torchvision/squeezenet1_1", seed=1).module) != first


def test_ensure_torchvision_comes_before_a_file(tmp_path):
    """A user's file may import torchvision without knowing about the platform's troubles."""
    ensure_torchvision()
    path = factory_file(tmp_path, "import torchvision\ndef make(): return torchvision.models.squeezenet1_1()")
    spec = f"{path}:make"
    code = f"from wsss_probe.zoo import build; print(build({spec!r}, trust_code=True).module._get_name())"
    assert in_new_process(code) == "SqueezeNet"

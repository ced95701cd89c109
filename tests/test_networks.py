"""Further networks beside the audited one: surveyed alike, resumed, and refused where they are no match."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import save_file
from torch import nn

import wsss_probe
from wsss_probe.api import prepared_audit
from wsss_probe.auditing import perform
from wsss_probe.certificate import fingerprint
from wsss_probe.config import AuditOptions, resolve
from wsss_probe.contracts import Conclusion, Finding, Needs, Observation
from wsss_probe.errors import ExitCode, ModelError, PlanError, ProbeError, UnsafeInputError, UsageError
from wsss_probe.images import TensorSource
from wsss_probe.testing.models import multi_logit, with_weights

FACTORY = """
from wsss_probe.testing.models import multi_logit

def two():
    return multi_logit(2)
"""

OPTIONS = {"layers": ("features",), "controls": "shuffled:1", "batch_size": 4, "explain": ("none",)}


def pictures(count=10):
    """Noise as network input."""
    return torch.rand((count, 3, 16, 24), generator=torch.Generator().manual_seed(0))


def other(phase):
    """A network of the same architecture with other weights."""
    return with_weights(multi_logit(2), phase)


@pytest.fixture
def weights(tmp_path):
    """Two checkpoints of the audited network's architecture, by name."""
    paths = {}
    for name, phase in {"pretrained": 1.0, "finetuned": 2.0}.items():
        paths[name] = str(tmp_path / f"{name}.safetensors")
        save_file(other(phase).state_dict(), paths[name])
    return paths


@pytest.fixture
def judged(looking):
    """A probe that writes down which networks it found and what they pooled."""

    def conclude(run):
        means = {n.name: float(n.pooled("features").values.mean()) for n in (*run.networks, *run.controls)}
        alive = ", ".join(n.name for n in run.networks if n.alive("features"))
        found = Finding("seen", "notice", f"{', '.join(n.name for n in run.networks)}; alive: {alive}")
        return Conclusion(
            xr.Dataset({name.replace(".", "_"): value for name, value in means.items()}), (found,)
        )

    def observe(batch):
        rows = batch.activations["features"].mean(dim=(1, 2, 3)).numpy()
        return Observation(xr.Dataset({"mean": ("image", rows)}))

    return looking("judged", observe, conclude, Needs(layers=frozenset({"features"})))


@pytest.fixture
def audited(hosting, judged, tmp_path):
    """Audit images in memory with further networks; the outcome."""

    def make(models, net=None, folder="run", progress=None, trust_code=False, **options):
        host = hosting([judged])
        asked = AuditOptions(**{**OPTIONS, "models": models, **options})
        module = multi_logit(2) if net is None else net
        prepared = prepared_audit(asked, host, module, TensorSource(pictures()), trust_code)
        return perform(prepared, tmp_path / folder, "here", *([progress] if progress else []))

    return make


def pooled(net):
    """Pooled features by a plain forward pass."""
    with torch.no_grad():
        return net.get_submodule("features")(pictures()).mean(dim=(2, 3)).numpy()


def _files(folder):
    """All files below a folder."""
    return [path for path in folder.rglob("*") if path.is_file()]


class TestSurveyed:
    def test_tables_are_those_of_each_network(self, audited, weights):
        """Features and logits of every network are those of a plain forward pass with its own weights."""
        outcome = audited(weights)
        tree = wsss_probe.open_run(outcome.folder)

        assert outcome.exit_code == ExitCode.DONE
        for name, phase in {"pretrained": 1.0, "finetuned": 2.0}.items():
            table = tree[f"networks/{name}"]
            np.testing.assert_allclose(
                table["activations/features/mean"].values, pooled(other(phase)), atol=1e-5
            )
            with torch.no_grad():
                logits = other(phase)(pictures()).numpy()
            np.testing.assert_allclose(table["predictions/logits"].values, logits, atol=1e-5)
            assert table["probes/judged/rows/mean"].dims == ("image",)
        np.testing.assert_allclose(
            tree["activations/features/mean"].values, pooled(multi_logit(2)), atol=1e-5
        )

    def test_conclude_reads_them_in_the_order_of_the_file(self, audited, weights):
        """A probe finds the networks in their order, alive, beside the controls and not among them."""
        models = {"finetuned": weights["finetuned"], "random": "reinit", "pretrained": weights["pretrained"]}
        outcome = audited(models)
        seen = next(finding for _, finding in outcome.findings if finding.name == "seen")

        assert seen.statement == "finetuned, random, pretrained; alive: finetuned, random, pretrained"
        record = json.loads((outcome.folder / "run.json").read_text())
        assert list(record["networks"]) == ["finetuned", "random", "pretrained"]
        assert list(record["controls"]) == ["shuffled-0"]

    def test_the_record_says_how_each_was_made(self, audited, weights):
        """run.json names the file and its hash, or the kind of control."""
        outcome = audited({**weights, "random": "reinit", "mixed": "shuffled-7"})
        networks = json.loads((outcome.folder / "run.json").read_text())["networks"]

        assert networks["pretrained"]["weights"] == "pretrained.safetensors"
        assert len(networks["pretrained"]["weights_sha256"]) == 64
        assert networks["pretrained"]["weights_sha256"] != networks["finetuned"]["weights_sha256"]
        assert networks["random"] == {"name": "random", "control": "reinit-0"}
        assert networks["mixed"] == {"name": "mixed", "control": "shuffled-7"}

    def test_their_order_is_part_of_the_plan(self, audited, weights):
        """Another order is another plan, since pairs are compared in it."""
        audited(weights)

        with pytest.raises(PlanError, match="other networks"):
            audited(dict(reversed(weights.items())))

    def test_made_as_a_control_is_that_control(self, audited):
        """A further network of a control's kind and number has the control's numbers."""
        outcome = audited({"random": "shuffled"}, controls="shuffled:2")
        tree = wsss_probe.open_run(outcome.folder)

        own, control, second = (
            tree[f"{place}/activations/features/mean"].values
            for place in ("networks/random", "controls/shuffled-0", "controls/shuffled-1")
        )
        np.testing.assert_array_equal(own, control)
        assert not np.allclose(own, second)

    def test_the_audited_network_is_left_alone(self, audited, weights):
        """The certificate holds, and the network handed over has its own weights and flags."""
        net = multi_logit(2).train()
        before = fingerprint(net)
        outcome = audited(weights, net)

        assert before.differences(fingerprint(net)) == ()
        (certificate,) = (f for plugin, f in outcome.findings if (plugin, f.name) == ("host", "certificate"))
        assert certificate.verdict == "ok"

    def test_without_networks_the_folder_has_none(self, audited):
        """An audit of one network has no folder for others, and says so in its record."""
        outcome = audited({})

        assert not (outcome.folder / "networks").exists()
        assert json.loads((outcome.folder / "run.json").read_text())["networks"] == {}


class TestResumed:
    def test_an_interruption_between_networks_is_resumed(self, audited, weights, tmp_path):
        """Stopped before the second network, the audit goes on there and ends as one that was not stopped."""
        begun = []

        @contextmanager
        def stopping(name, images):
            begun.append(name)
            if name == "network finetuned":
                raise KeyboardInterrupt
            yield lambda count: None

        with pytest.raises(KeyboardInterrupt):
            audited(weights, progress=stopping)
        partial = tmp_path / "run.partial" / "networks" / "pretrained"
        written = {path.relative_to(partial): path.stat().st_mtime_ns for path in _files(partial)}
        resumed, whole = audited(weights), audited(weights, folder="whole")

        assert begun[-2:] == ["network pretrained", "network finetuned"]
        kept = resumed.folder / "networks" / "pretrained"
        arrays = {name: time for name, time in written.items() if "activations" in name.parts}
        assert arrays
        assert arrays == {name: (kept / name).stat().st_mtime_ns for name in arrays}
        trees = [wsss_probe.open_run(outcome.folder) for outcome in (resumed, whole)]
        assert sorted(trees[0].groups) == sorted(trees[1].groups)
        for group in trees[0].groups:
            xr.testing.assert_identical(*(tree[group].to_dataset().load() for tree in trees))

    def test_a_finished_audit_computes_nothing(self, audited, weights):
        """The same audit again finds everything done."""
        audited(weights)

        assert audited(weights).computed == 0

    @pytest.mark.parametrize("change", ["file", "name"])
    def test_other_networks_are_another_plan(self, audited, weights, change):
        """Other weights under a name, or another name, never reuse a run."""
        audited(weights)
        if change == "file":
            save_file(other(3.0).state_dict(), weights["finetuned"])
        models = weights if change == "file" else {"first": weights["pretrained"]}

        with pytest.raises(ProbeError, match="planned differently"):
            audited(models)


class TestRefused:
    def refused(self, audited, models, kind=ModelError, **options):
        """The one line of a refusal; nothing is written."""
        with pytest.raises(kind) as caught:
            audited(models, **options)
        assert type(caught.value) is kind
        first, *table = str(caught.value).split("\n")
        assert not any(table) or "in file" in table[0]  # tensors that do not fit are shown as a table
        return "\n".join([first, *table])

    def test_another_number_of_outputs(self, audited, tmp_path):
        """A head of other classes is no network to compare with."""
        path = tmp_path / "five.safetensors"
        save_file(multi_logit(5).state_dict(), path)

        text = self.refused(audited, {"five": str(path)})
        assert text.startswith("network 'five': ")

    def test_other_shapes(self, audited, tmp_path):
        """Tensors of another shape are refused with the network's name and the tensor's."""
        state = multi_logit(2).state_dict()
        first = next(iter(state))
        state[first] = torch.zeros(5, *state[first].shape[1:])
        save_file(state, tmp_path / "wide.safetensors")

        text = self.refused(audited, {"wide": str(tmp_path / "wide.safetensors")})
        assert "network 'wide'" in text
        assert first in text

    def test_other_layers(self, audited, tmp_path, weights):
        """Weights of another architecture do not load."""
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        save_file(net.state_dict(), tmp_path / "else.safetensors")

        assert "network 'else'" in self.refused(audited, {"else": str(tmp_path / "else.safetensors")})

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            (
                "return multi_logit(3)",
                "another number of outputs than the audited network; found: 3; wanted: 2",
            ),
            ("return flat_head()", "another architecture than the audited network, at layer"),
        ],
    )
    def test_another_architecture_from_a_factory(self, audited, tmp_path, body, said):
        """A factory that builds another network is refused at its outputs or its layers."""
        path = tmp_path / "nets.py"
        path.write_text(f"from wsss_probe.testing.models import *\n\ndef made():\n    {body}\n")
        models = {"built": {"model": f"{path}:made"}}

        text = self.refused(audited, models, trust_code=True)
        assert text.startswith("network 'built': ")
        if "flat_head" not in body:
            assert said in text

    def test_a_missing_file(self, audited):
        """A file that is not there is a usage error that lists what may be said."""
        text = self.refused(audited, {"pretrained": "nowhere.safetensors"}, UsageError)

        assert text.startswith("network 'pretrained': no such file; found: ")
        assert "random, shuffled, reinit" in text

    @pytest.mark.parametrize("name", ["shuffled-0", "reinit-12", "audited", "With Space", "../up", ""])
    def test_a_name_that_cannot_be_used(self, audited, weights, name):
        """A control's name, the audited network's, and what is no name of a folder are refused."""
        text = self.refused(audited, {name: weights["pretrained"]}, UsageError)

        assert "name of a further network" in text

    def test_an_unknown_key(self, audited):
        """A misspelt key of an entry names the nearest."""
        text = self.refused(audited, {"tuned": {"wieghts": "x"}}, UsageError)

        assert "unknown key; found: wieghts" in text
        assert "did you mean 'weights'?" in text

    def test_random_needs_a_builder(self, audited):
        """Nothing says how a network that was handed over is initialised anew."""
        assert "use one of shuffled, reinit" in self.refused(audited, {"fresh": "random"}, UsageError)

    def test_a_factory_needs_trust(self, audited, tmp_path):
        """Code of a further network runs only where the user trusts it."""
        path = tmp_path / "nets.py"
        path.write_text("raise SystemExit('ran')")

        text = self.refused(audited, {"built": {"model": f"{path}:made"}}, UnsafeInputError)
        assert "network 'built'" in text
        assert "--trust-code" in text


class TestRunFile:
    def test_a_run_file_names_them(self, tmp_path, weights):
        """The table [models] keeps its order, with texts and tables."""
        path = tmp_path / "run.toml"
        path.write_text(
            f'[models]\nrandom = "reinit"\npretrained = "{weights["pretrained"]}"\n'
            '[models.built]\nmodel = "nets.py:made"\narguments = {width = 3}\n'
        )

        models = resolve({}, path).models
        assert list(models) == ["random", "pretrained", "built"]
        assert models["built"] == {"model": "nets.py:made", "arguments": {"width": 3}}

    def test_trust_stands_in_no_run_file(self, tmp_path):
        """A file that travels with a model cannot trust code."""
        path = tmp_path / "run.toml"
        path.write_text('trust_code = true\n[models]\nbuilt = "nets.py:made"\n')

        with pytest.raises(UsageError, match="asks to trust code"):
            resolve({}, path)

    def test_networks_of_a_builder(self, hosting, judged, tmp_path, weights):
        """Where the audited network has a builder, entries are its weights, or a fresh initialisation."""
        factory = tmp_path / "nets.py"
        factory.write_text(FACTORY)
        asked = AuditOptions(
            model=f"{factory}:two",
            weights=weights["finetuned"],
            models={"pretrained": weights["pretrained"], "fresh": "random"},
            **OPTIONS,
        )
        prepared = prepared_audit(asked, hosting([judged]), "", TensorSource(pictures()), trust_code=True)
        tree = wsss_probe.open_run(perform(prepared, tmp_path / "run", "here").folder)

        found = {
            place: tree[f"{place}activations/features/mean"].values for place in ("", "networks/pretrained/")
        }
        np.testing.assert_allclose(found[""], pooled(other(2.0)), atol=1e-5)
        np.testing.assert_allclose(found["networks/pretrained/"], pooled(other(1.0)), atol=1e-5)
        assert "networks/fresh/activations/features" in [group.strip("/") for group in tree.groups]

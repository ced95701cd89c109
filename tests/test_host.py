"""The plugin host: loading one by one, isolating faults, restoring what plugins disturb."""

import os
import random
import subprocess
import sys
import types
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from wsss_probe import (
    Batch,
    ChannelColumns,
    Command,
    ConceptMeasure,
    Conclusion,
    DefinitionCard,
    Explainer,
    Head,
    ModelSource,
    Needs,
    Probe,
    hookimpl,
)
from wsss_probe.errors import PluginError, UsageError
from wsss_probe.host import INTERFACE, Offered, PluginFailure, PluginHost

GOOD = """
from wsss_probe import Command, hookimpl

@hookimpl
def wsss_probe_commands():
    return [Command("{name}", "Says hello.", "somewhere:main")]
"""

numbers = count()


class Flat(Explainer):
    """An explainer that finds all positions equal."""

    gradients = False
    card = DefinitionCard("Flat", "R = 1", "Nobody (2026), Flat maps")

    def __init__(self, name="flat"):
        self.name = name

    def attribute(self, batch, layer, target):
        """Give one everywhere."""
        return torch.ones_like(batch.activations[layer][:, 0])


class Silent(Probe):
    """A probe that says nothing."""

    def __init__(self, name="silent", options=None):
        self.name = name
        self.options = options or {}

    def needs(self, survey):
        """Ask for nothing."""
        return Needs()

    def conclude(self, run):
        """Conclude nothing."""
        return Conclusion(summary=None)


class Nothing(ChannelColumns):
    """Knows nothing of any channel."""

    def __init__(self, name="nothing"):
        self.name = name

    def columns(self, run, layer):
        """Say nothing."""
        return ()


class Unmeasured(ConceptMeasure):
    """Knows of nothing to measure."""

    card = DefinitionCard("nothing", "none", "none")

    def __init__(self, name="unmeasured"):
        self.name = name

    def concepts(self, mask_classes, objects):
        """Name nothing."""
        return ()

    def measure(self, view):
        """Measure nothing."""
        return {}


def plugin(**hooks):
    """Make a module with the given hook functions, marked as the author of a plugin would."""
    module = types.ModuleType("made_here")
    for name, function in hooks.items():
        setattr(module, name, hookimpl(function))
    return module


def offering(**results):
    """Make a module whose hooks return the given values."""
    return plugin(**{f"wsss_probe_{name}": lambda value=value: value for name, value in results.items()})


def module_with(*functions):
    """Make a module with functions that are marked already."""
    module = types.ModuleType("made_here")
    for function in functions:
        setattr(module, function.__name__, function)
    return module


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Write distributions with an entry point into a folder that Python imports from."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def write(plugin, code=GOOD, distribution=None, version="1.0", attribute=""):
        module = f"made_for_test_{next(numbers)}"
        made.append(module)
        distribution = distribution or f"dist-{plugin}"
        (tmp_path / f"{module}.py").write_text(code.replace("{name}", plugin))
        info = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[wsss_probe]\n{plugin} = {module}{attribute}\n")

    yield write
    for module in made:
        sys.modules.pop(module, None)


def rows(host):
    """List a host's plugins by name and distribution."""
    return {(row.name, row.distribution): row for row in host.listing()}


def batch(images=2):
    """Make a batch with one layer of ones."""
    activations = {"layer": torch.ones(images, 3, 2, 4)}
    return Batch(
        indices=np.arange(images),
        images=torch.zeros(images, 3, 4, 8),
        labels=torch.zeros(images, 2, dtype=torch.bool),
        masks=None,
        mask_classes=(),
        readable=torch.ones(images, dtype=torch.bool),
        logits=torch.zeros(images, 2),
        activations=activations,
        gradients={},
        head=Head(False),
        forward=lambda x: x,
        resume=lambda layer, x: x,
    )


class TestLoading:
    def test_finds_an_installed_plugin(self, install):
        """An entry point of the group is loaded and listed with its distribution, version and hooks."""
        install("greeting", version="2.3")
        host = PluginHost()

        host.load(only=("greeting",))

        row = rows(host)["greeting", "dist-greeting"]
        assert (row.version, row.state, row.hooks) == ("2.3", "loaded", ("wsss_probe_commands",))
        assert [offered.name for offered in host.collect_commands()] == ["greeting"]

    @pytest.mark.parametrize(
        ("code", "attribute", "error"),
        [
            ("import no_such_module_anywhere", "", "No module named 'no_such_module_anywhere'"),
            ("def broken(:", "", "SyntaxError"),
            (GOOD, ":nothing_here", "has no attribute 'nothing_here'"),
            ("raise SystemExit(3)", "", "SystemExit: 3"),
            ("raise RecursionError('deep')", "", "RecursionError: deep"),
            ("wsss_probe_interface = 99", "", "written for a later plugin interface; found: 99"),
            ("def wsss_probe_probes(): return []", "", "function wsss_probe_probes is not marked"),
            (
                "import wsss_probe\n@wsss_probe.hookimpl\ndef wsss_probe_probes(survey): return []",
                "",
                "hook 'wsss_probe_probes'",
            ),
            (
                "import wsss_probe\n@wsss_probe.hookimpl\ndef wsss_probe_prbes(): return []",
                "",
                "unknown hook 'wsss_probe_prbes'",
            ),
        ],
        ids=[
            "dependency",
            "syntax",
            "attribute",
            "exit",
            "recursion",
            "interface",
            "unmarked",
            "argument",
            "hook",
        ],
    )
    def test_lists_a_broken_plugin_and_loads_the_others(self, install, code, attribute, error):
        """A plugin that cannot be loaded is listed as failed with its traceback; the others load."""
        install("aaa")
        install("broken", code, attribute=attribute)
        install("zzz")
        host = PluginHost()

        host.load(only=("aaa", "broken", "zzz"))

        states = {row.name: row.state for row in host.listing() if row.state != "left out"}
        (failure,) = host.failures
        assert states == {"aaa": "loaded", "broken": "failed", "zzz": "loaded"}
        assert error in failure.traceback
        assert (failure.plugin, failure.distribution, failure.stage) == ("broken", "dist-broken", "load")
        assert rows(host)["broken", "dist-broken"].error == failure.message
        assert "\n" not in failure.message
        assert [offered.name for offered in host.collect_commands()] == ["aaa", "zzz"]

    def test_a_keyboard_interrupt_passes(self, install):
        """Control-C while a plugin is imported ends the audit, not only the plugin."""
        install("slow", "raise KeyboardInterrupt")

        with pytest.raises(KeyboardInterrupt):
            PluginHost().load(only=("slow",))

    def test_names_both_distributions_of_one_plugin_name(self, install):
        """Two distributions with one plugin name are both named and only the first is loaded."""
        install("twin", distribution="dist-one")
        install("twin", distribution="dist-two", version="4.0")
        host = PluginHost()

        host.load(only=("twin",))

        (failure,) = host.failures
        assert "dist-one 1.0 and dist-two 4.0" in failure.message
        assert {key: row.state for key, row in rows(host).items() if row.state != "left out"} == {
            ("twin", "dist-one"): "loaded",
            ("twin", "dist-two"): "failed",
        }

    def test_leaves_out_what_is_not_wanted(self, install):
        """A plugin that is left out is not imported, but listed."""
        install("wanted")
        install("unwanted", "raise RuntimeError('imported')")
        host = PluginHost()

        host.load(only=("wanted", "unwanted"), without=("unwanted",))

        assert host.failures == ()
        assert rows(host)["unwanted", "dist-unwanted"].state == "left out"

    @pytest.mark.parametrize("flag", ["only", "without"])
    def test_an_unknown_name_suggests_the_nearest(self, install, flag):
        """A misspelt plugin name is refused with the name that was probably meant."""
        install("greeting")

        with pytest.raises(UsageError, match=r"no such plugin; found: greting.*did you mean greeting"):
            PluginHost().load(**{flag: ("greting",)})

    def test_strict_raises_the_plugins_own_error(self, install):
        """Under strict the plugin's own exception ends the loading."""
        install("broken", "1 / 0")

        with pytest.raises(ZeroDivisionError):
            PluginHost().load(only=("broken",), strict=True)

    def test_says_when_a_plugin_offers_nothing(self):
        """A module without a marked function is loaded, with a line that says so."""
        host = PluginHost()
        host.register(types.ModuleType("empty"), "empty")

        (row,) = host.listing()
        assert (row.state, row.error) == ("loaded", "offers nothing: no function is marked @hookimpl")

    def test_the_present_interface_is_accepted(self):
        """A plugin that states today's interface version is loaded."""
        module = offering(probes=[Silent()])
        module.wsss_probe_interface = INTERFACE
        host = PluginHost()
        host.register(module, "today")

        assert len(host.collect_probes()) == 1

    def test_importing_the_host_is_cheap(self):
        """The host and its installed plugins load without torch, numpy, xarray or plotly."""
        code = (
            "import sys; from wsss_probe.host import PluginHost\n"
            "h = PluginHost(); h.load(); h.collect_commands()\n"
            "print([m for m in ('torch', 'numpy', 'xarray', 'pandas', 'plotly') if m in sys.modules])"
        )

        answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

        assert answer.stdout.strip() == "[]"


class TestCollecting:
    def test_every_kind_comes_with_its_origin(self):
        """Explainers, probes, model sources and commands each name the plugin that offers them."""
        host = PluginHost()
        everything = offering(
            explainers=[Flat()],
            probes=(Silent(),),
            model_sources=iter([ModelSource("net", "A net.", dict)]),
            commands=(Command(name, "Does.", "a.b:main") for name in ("one", "two words")),
        )
        host.register(everything, "all", "dist-all", "1.2")

        collected = [
            *host.collect_explainers(),
            *host.collect_probes(),
            *host.collect_model_sources(),
            *host.collect_commands(),
        ]

        assert [offered.name for offered in collected] == ["flat", "silent", "net", "one", "two words"]
        assert {(o.plugin, o.distribution, o.version) for o in collected} == {("all", "dist-all", "1.2")}
        assert host.failures == ()

    @pytest.mark.parametrize(
        ("hook", "result", "error"),
        [
            ("explainers", None, "wsss_probe_explainers returned None"),
            ("explainers", 3, "returned the wrong type; found: int; wanted: an iterable"),
            ("explainers", "flat", "returned the wrong type; found: str"),
            ("explainers", Flat(), "returned the wrong type; found: Flat"),
            ("explainers", [Flat], r"a hook returned the class Flat.*remedy: return \[Flat\(\)\]"),
            ("explainers", [Silent()], "found: Silent; wanted: Explainer"),
            ("explainers", [Flat("Flat map")], "a name that cannot be used; found: 'Flat map'"),
            ("probes", [Silent("..")], "a name that cannot be used"),
            ("probes", [Silent(options={"a": {1, 2}})], "options is missing or wrong.*JSON"),
            ("probes", [Silent(options={"a": float("nan")})], "options is missing or wrong.*JSON"),
            ("probes", [Silent(options=[1])], "options is missing or wrong.*a mapping"),
            ("model_sources", [ModelSource("net", "", build="resnet")], "build is missing or wrong"),
            ("commands", [Command("three words here", "", "a:b")], "one or two words"),
            ("commands", [Command("one", "", "a.b.main")], "target is missing.*module:function"),
        ],
    )
    def test_a_wrong_result_is_named(self, hook, result, error):
        """What breaks the contract is refused in one line that says what was found and wanted."""
        import re

        host = PluginHost()
        host.register(offering(**{hook: result}), "wrong")

        assert getattr(host, f"collect_{hook}")() == ()
        (failure,) = host.failures
        assert re.search(error, failure.message)
        assert host.listing()[0].state == "faulty"

    @pytest.mark.parametrize("attribute", ["card", "gradients", "name"])
    def test_a_missing_attribute_is_named(self, attribute):
        """An explainer without name, card or gradients is refused with the attribute's name."""

        class Incomplete(Explainer):
            def attribute(self, batch, layer, target):
                return None

        item = Incomplete()
        complete = {"name": "incomplete", "card": Flat.card, "gradients": False}
        for key in complete.keys() - {attribute}:
            setattr(item, key, complete[key])
        host = PluginHost()
        host.register(offering(explainers=[item]), "incomplete")

        assert host.collect_explainers() == ()
        assert attribute in host.failures[0].message

    @pytest.mark.parametrize("field", ["title", "formula", "paper"])
    def test_an_empty_card_is_named(self, field):
        """A definition card without title, formula or paper is refused."""
        item = Flat()
        fields = {"title": "Flat", "formula": "R = 1", "paper": "Nobody (2026)"} | {field: ""}
        item.card = DefinitionCard(**fields)
        host = PluginHost()
        host.register(offering(explainers=[item]), "empty")

        host.collect_explainers()

        assert f"card.{field}" in host.failures[0].message

    def test_one_bad_item_leaves_the_good_ones(self):
        """Of three results the wrong one is refused and the others are kept."""
        host = PluginHost()
        host.register(offering(explainers=[Flat("a"), 3, Flat("b")]), "mixed")

        assert [offered.name for offered in host.collect_explainers()] == ["a", "b"]
        assert [failure.item for failure in host.failures] == ["result 2"]

    def test_a_generator_that_raises_is_isolated(self):
        """A hook written as a generator is run inside the guard, to its end."""

        def wsss_probe_explainers():
            yield Flat()
            raise LookupError("after one")

        host = PluginHost()
        host.register(plugin(wsss_probe_explainers=wsss_probe_explainers), "lazy")

        assert host.collect_explainers() == ()
        assert host.failures[0].message == "LookupError: after one"

    @pytest.mark.parametrize(
        "error", [ValueError("no"), SystemExit(1), MemoryError("full"), RecursionError()]
    )
    def test_neighbours_are_called_although_one_raises(self, error):
        """Whatever one plugin raises, plugins registered before and after it are still asked."""

        def wsss_probe_probes():
            raise error

        host = PluginHost()
        host.register(offering(probes=[Silent("first")]), "a")
        host.register(plugin(wsss_probe_probes=wsss_probe_probes), "b")
        host.register(offering(probes=[Silent("last")]), "c")

        assert [offered.name for offered in host.collect_probes()] == ["first", "last"]
        assert [failure.plugin for failure in host.failures] == ["b"]

    def test_a_keyboard_interrupt_in_a_hook_passes(self):
        """Control-C inside a hook is not taken for a fault of the plugin."""

        def wsss_probe_probes():
            raise KeyboardInterrupt

        host = PluginHost()
        host.register(plugin(wsss_probe_probes=wsss_probe_probes), "busy")

        with pytest.raises(KeyboardInterrupt):
            host.collect_probes()

    @pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
    @pytest.mark.parametrize(
        ("hook", "item", "kind"),
        [
            ("explainers", Flat("same"), "explainer"),
            ("probes", Silent("same"), "probe"),
            ("model_sources", ModelSource("same", "", dict), "model source"),
            ("commands", Command("same", "", "a:b"), "command"),
            ("channel_columns", Nothing("same"), "channel columns"),
            ("concept_measures", Unmeasured("same"), "concept measure"),
        ],
    )
    def test_a_clash_names_both_distributions(self, hook, item, kind, order):
        """Two plugins with one name are both named; the order of registration does not matter."""
        host = PluginHost()
        for name in order:
            host.register(offering(**{hook: [item]}), name, f"dist-{name}", "1.0")

        (offered,) = getattr(host, f"collect_{hook}")()

        (failure,) = host.failures
        assert (offered.plugin, failure.plugin) == ("a", "b")
        assert f"two plugins offer the {kind} 'same'; found: dist-a 1.0 and dist-b 1.0" in failure.message

    def test_a_command_of_the_host_is_taken(self):
        """A plugin cannot replace a command of the host."""
        host = PluginHost()
        host.register(offering(commands=[Command("audit", "", "a:b")]), "thief")

        assert host.collect_commands(reserved=("audit",)) == ()
        assert "found: wsss-probe itself and thief" in host.failures[0].message

    def test_a_failed_hook_is_not_called_again(self):
        """After its first failure a hook is left alone and its failure is recorded once."""
        calls = []

        def wsss_probe_probes():
            calls.append(1)
            raise ValueError

        host = PluginHost()
        host.register(plugin(wsss_probe_probes=wsss_probe_probes), "bad")
        host.collect_probes()
        host.collect_probes()

        assert (len(calls), len(host.failures)) == (1, 1)

    def test_a_plugin_may_be_an_object(self):
        """An object with marked methods is a plugin like a module."""

        class Things:
            @hookimpl
            def wsss_probe_explainers(self):
                return [Flat()]

        host = PluginHost()
        host.register(Things(), "things")

        assert [offered.name for offered in host.collect_explainers()] == ["flat"]


class TestEveryHook:
    """One implementation of every hook, as an author would write it."""

    def test_explainers(self, plugin_host):
        """What wsss_probe_explainers returns is offered as explainers."""

        @hookimpl
        def wsss_probe_explainers():
            return [Flat("a"), Flat("b")]

        plugin_host.register(module_with(wsss_probe_explainers), "mine")

        assert [offered.name for offered in plugin_host.collect_explainers()] == ["a", "b"]
        assert plugin_host.collect_probes() == ()

    def test_probes(self, plugin_host):
        """What wsss_probe_probes yields is offered as probes."""

        @hookimpl
        def wsss_probe_probes():
            yield Silent()

        plugin_host.register(module_with(wsss_probe_probes), "mine")

        assert isinstance(plugin_host.collect_probes()[0].item, Silent)

    def test_model_sources(self, plugin_host):
        """What wsss_probe_model_sources returns is offered with its function."""

        @hookimpl
        def wsss_probe_model_sources():
            return (ModelSource("net", "A net.", dict),)

        plugin_host.register(module_with(wsss_probe_model_sources), "mine")

        (offered,) = plugin_host.collect_model_sources()
        assert offered.item.build({"a": 1}) == {"a": 1}

    def test_commands(self, plugin_host):
        """What wsss_probe_commands returns is offered; its target is not imported."""

        @hookimpl
        def wsss_probe_commands():
            return (Command("train tiny", "Train.", "no_such_module_anywhere:main"),)

        plugin_host.register(module_with(wsss_probe_commands), "mine")

        assert [offered.name for offered in plugin_host.collect_commands()] == ["train tiny"]

    def test_channel_columns(self):
        """What wsss_probe_channel_columns returns is offered, checked for type and name."""

        @hookimpl
        def wsss_probe_channel_columns():
            return [Nothing("a"), Nothing, Silent(), Nothing("Not A Name")]

        host = PluginHost()
        host.register(module_with(wsss_probe_channel_columns), "mine")

        assert [offered.name for offered in host.collect_channel_columns()] == ["a"]
        said = [failure.message for failure in host.failures]
        assert "wanted: an instance of ChannelColumns; remedy: return [Nothing()]" in said[0]
        assert "found: Silent; wanted: ChannelColumns" in said[1]
        assert "has a name that cannot be used; found: 'Not A Name'" in said[2]

    def test_concept_measures(self):
        """What wsss_probe_concept_measures returns is offered, checked for type, name and card."""

        class Uncarded(Unmeasured):
            card = None

        @hookimpl
        def wsss_probe_concept_measures():
            return [
                Unmeasured("a"),
                Unmeasured,
                Silent(),
                Unmeasured("A"),
                Uncarded("b"),
                Unmeasured("manifest"),
            ]

        host = PluginHost()
        host.register(module_with(wsss_probe_concept_measures), "mine")

        assert [offered.name for offered in host.collect_concept_measures()] == ["a"]
        said = [failure.message for failure in host.failures]
        assert "wanted: an instance of ConceptMeasure" in said[0]
        assert "found: Silent; wanted: ConceptMeasure" in said[1]
        assert "has a name that cannot be used; found: 'A'" in said[2]
        assert "card" in said[3]
        assert "another name" in said[4]


class TestIsolation:
    offered = Offered(Silent(), "noisy", "dist-noisy", "0.1")

    def test_a_result_passes_through(self):
        """A call that succeeds gives its result and records nothing."""
        host = PluginHost()

        assert host.safe_call("observe", self.offered, divmod, 7, 2) == (3, 1)
        assert host.failures == ()

    def test_disabled_after_the_first_failure_of_a_stage(self):
        """A probe that raises on the third batch is not called for the fourth, but may still conclude."""
        host, seen = PluginHost(), []

        def observe(number):
            seen.append(number)
            if number == 2:
                raise RuntimeError("eventually")
            return number

        results = [host.safe_call("observe", self.offered, observe, number) for number in range(5)]

        (failure,) = host.failures
        assert seen == [0, 1, 2]
        assert results == [0, 1, failure, failure, failure]
        assert host.disabled("observe", self.offered) == failure
        assert host.disabled("conclude", self.offered) is None
        assert host.safe_call("conclude", self.offered, int) == 0

    def test_a_guarded_block_may_be_left_with_continue(self):
        """The block sees that it is disabled and control leaves it as from any block."""
        host, ran = PluginHost(), 0
        for _ in range(3):
            with host.guarded("observe", self.offered) as guard:
                if not guard.enabled:
                    continue
                ran += 1
                raise ValueError("bad batch")

        assert (ran, len(host.failures)) == (1, 1)

    def test_only_the_failing_item_is_disabled(self):
        """Another probe of the same plugin goes on."""
        host = PluginHost()
        other = Offered(Silent("other"), "noisy", "dist-noisy", "0.1")
        host.safe_call("observe", self.offered, int, "x")

        assert host.safe_call("observe", other, int, "3") == 3

    def test_the_failure_says_who_where_and_what(self):
        """A failure reads as one sentence, keeps the traceback and turns into JSON."""
        host = PluginHost()

        failure = host.safe_call("observe", self.offered, int, "x")

        assert isinstance(failure, PluginFailure)
        assert str(failure) == (
            "silent of plugin noisy (dist-noisy 0.1), observe: "
            "ValueError: invalid literal for int() with base 10: 'x'"
        )
        assert "Traceback" in failure.to_dict()["traceback"]

    def test_control_characters_are_escaped(self):
        """A message cannot forge a line, colour the terminal or reverse the text of a report."""

        def observe():
            raise ValueError("\x1b[2J first\nsecond \u202e \udc80" + "x" * 10_000_000)

        failure = PluginHost().safe_call("observe", self.offered, observe)

        assert failure.message.startswith("ValueError: \\x1b[2J first second \\u202e \\udc80xx")
        assert len(failure.message) == 500
        assert len(failure.traceback) <= 20_100

    def test_an_error_that_cannot_be_printed_is_isolated(self):
        """An exception whose own text raises is still recorded."""

        class Nasty(Exception):
            def __str__(self):
                raise RuntimeError

        def observe():
            raise Nasty

        assert "Nasty" in PluginHost().safe_call("observe", self.offered, observe).message

    def test_strict_raises(self):
        """Under strict a plugin's exception passes, and is recorded on its way."""
        host = PluginHost(strict=True)

        with pytest.raises(ValueError, match="invalid literal"):
            host.safe_call("observe", self.offered, int, "x")
        assert len(host.failures) == 1

    def test_failures_of_a_worker_are_taken_over_once(self):
        """Failures that a worker sends twice are listed once."""
        worker, host = PluginHost(), PluginHost()
        worker.safe_call("observe", self.offered, int, "x")

        host.adopt(worker.failures)
        host.adopt(worker.failures)

        assert host.failures == worker.failures

    def test_writing_into_the_batch_is_a_failure(self):
        """A probe that changes an activation in place is named, and disabled."""
        host = PluginHost()
        lent = batch()

        failure = host.safe_call("observe", self.offered, lambda b: b.activations["layer"].mul_(2), lent)

        assert "wrote into the batch that it was lent; found: 1 tensors" in failure.message

    def test_reading_a_batch_is_no_failure(self):
        """A probe that only reads is left alone, also on inference tensors."""
        host = PluginHost()
        with torch.inference_mode():
            lent = batch()

        total = host.safe_call("observe", self.offered, lambda b: float(b.activations["layer"].sum()), lent)

        assert total == 48
        assert host.failures == ()


DISTURBANCES = {
    "random state of Python": lambda: random.seed(1),
    "random state of numpy": lambda: np.random.seed(1),
    "random state of torch": lambda: torch.manual_seed(1),
    "number of torch threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "default type of torch": lambda: torch.set_default_dtype(torch.float64),
    "gradient mode of torch": lambda: torch.set_grad_enabled(not torch.is_grad_enabled()),
    "deterministic mode of torch": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "working folder": lambda: os.chdir("/"),
    "environment variables SOMETHING_NEW": lambda: os.environ.update(SOMETHING_NEW="1"),
    "environment variables HOME": lambda: os.environ.pop("HOME"),
}


def everything():
    """Read all that a plugin may disturb, by other means than the host does."""
    return (
        random.getstate(),
        np.random.get_state()[1].tolist(),
        torch.get_rng_state().tolist(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        Path.cwd(),
        {key: os.environ.get(key) for key in ("HOME", "SOMETHING_NEW")},
    )


class TestDisturbance:
    offered = Offered(Silent(), "noisy", "dist-noisy", "0.1")

    @pytest.fixture(autouse=True)
    def known(self, monkeypatch, tmp_path):
        """Start from a folder and an environment that are known."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", "/home/somebody")

    @pytest.mark.parametrize("raises", [False, True], ids=["returns", "raises"])
    @pytest.mark.parametrize("what", DISTURBANCES)
    def test_is_put_back_and_named(self, what, raises):
        """Whatever a call changes outside is restored, also after an exception, and named."""
        host, before = PluginHost(), everything()

        def observe():
            DISTURBANCES[what]()
            return 1 // (0 if raises else 1)

        result = host.safe_call("observe", self.offered, observe)

        assert everything() == before
        note = next(failure for failure in host.failures if failure.disturbance)
        assert note.message == f"changed {what}; the host put it back"
        assert isinstance(result, PluginFailure) == raises

    def test_does_not_disable(self):
        """A probe that draws from the global random state goes on, and is noted once."""
        host = PluginHost()

        drawn = [host.safe_call("observe", self.offered, random.random) for _ in range(3)]

        assert len(set(drawn)) == 1
        assert [failure.disturbance for failure in host.failures] == [True]

    def test_strict_refuses_it(self):
        """Under strict a disturbance is an error."""
        with pytest.raises(PluginError, match="changed random state of Python"):
            PluginHost(strict=True).safe_call("observe", self.offered, random.random)

    def test_a_library_may_set_its_variable(self, tmp_path, monkeypatch):
        """A variable that appears while a module is first imported is the library's own."""
        name = f"library_{next(numbers)}"
        (tmp_path / f"{name}.py").write_text("import os; os.environ['LIBRARY_SETTING'] = '1'")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delenv("LIBRARY_SETTING", raising=False)
        host = PluginHost()

        host.safe_call("observe", self.offered, __import__, name)

        assert host.failures == ()
        assert os.environ.pop("LIBRARY_SETTING") == "1"
        del sys.modules[name]

    def test_a_library_may_draw_while_it_is_imported(self, tmp_path, monkeypatch):
        """What a module draws at its first import is put back, and nobody is blamed."""
        name = f"library_{next(numbers)}"
        (tmp_path / f"{name}.py").write_text("import random; random.random()")
        monkeypatch.syspath_prepend(tmp_path)
        host = PluginHost()
        before = random.getstate()

        host.safe_call("observe", self.offered, __import__, name)

        assert host.failures == ()
        assert random.getstate() == before
        del sys.modules[name]

    def test_survives_a_removed_working_folder(self, tmp_path, monkeypatch):
        """A working folder that somebody removed does not stop the host."""
        gone = tmp_path / "gone"
        gone.mkdir()
        monkeypatch.chdir(gone)
        gone.rmdir()

        assert PluginHost().safe_call("observe", self.offered, int) == 0

    def test_restores_every_cuda_device_once_cuda_is_in_use(self, monkeypatch):
        """States of all devices are read and put back, though here two devices are only pretended."""
        states = [torch.zeros(16, dtype=torch.uint8), torch.ones(16, dtype=torch.uint8)]
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [state.clone() for state in states])
        monkeypatch.setattr(torch.cuda, "set_rng_state_all", lambda new: states.__setitem__(slice(None), new))
        host = PluginHost()

        host.safe_call("observe", self.offered, lambda: int(states[1].fill_(7)[0]))

        assert [state.tolist() for state in states] == [[0] * 16, [1] * 16]
        assert host.failures[0].message == "changed random state of torch on CUDA; the host put it back"

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
    def test_restores_the_random_state_of_cuda(self):
        """The random state of every CUDA device is restored and named."""
        torch.zeros(1, device="cuda")
        before, host = torch.cuda.get_rng_state(), PluginHost()

        host.safe_call("observe", self.offered, lambda: torch.rand(3, device="cuda").sum().item())

        assert torch.equal(torch.cuda.get_rng_state(), before)
        assert "random state of torch on CUDA" in host.failures[0].message


class TestTrace:
    def test_prints_calls_when_asked(self, monkeypatch, capsys):
        """WSSS_PROBE_TRACE=1 prints plugin, stage, item and outcome of every call to stderr."""
        monkeypatch.setenv("WSSS_PROBE_TRACE", "1")
        host = PluginHost()
        host.register(offering(probes=[Silent()]), "quiet")
        (offered,) = host.collect_probes()
        host.safe_call("observe", offered, int, "x")

        lines = capsys.readouterr().err.splitlines()

        assert [line.rpartition(" (")[0] for line in lines] == [
            "wsss-probe trace: quiet load: ok",
            "wsss-probe trace: quiet wsss_probe_probes: ok",
            "wsss-probe trace: quiet wsss_probe_probes result 1: ok",
            "wsss-probe trace: quiet observe silent: ValueError: invalid literal for int() with base 10: 'x'",
        ]

    def test_is_silent_otherwise(self, monkeypatch, capsys):
        """Without the variable nothing is printed."""
        monkeypatch.delenv("WSSS_PROBE_TRACE", raising=False)
        host = PluginHost()
        host.register(offering(probes=[Silent()]), "quiet")
        host.collect_probes()

        assert capsys.readouterr() == ("", "")

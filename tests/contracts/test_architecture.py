"""Who may import whom, what the host may not know, and how long code may be."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "plotly", "statsmodels", "scipy", "skimage", "lightning", "sklearn"}

MAY_IMPORT = {
    "errors": set(),
    "contracts": {"errors"},
    "hookspecs": {"errors", "contracts"},
    "tables": {"errors", "contracts"},
    "schema": {"errors", "contracts", "tables"},
}

PLUGIN_WORDS = r"wsss[-_]probe[-_](channels|concepts|maximization|localizers|pseudolabels|segmentation)"
METHOD_WORDS = (
    r"\w*CAM\b|[Gg]rad-?[Cc]am|layercam|[Hh]aralick|TCAV|RCV|[Cc]hannel-?F1|channel-f1|DeepLab|U-?Net\b|"
    r"[Ss]aliency|SmoothGrad|[Ii]ntegrated [Gg]radients|\bLRP\b|\bNMF\b|\bCRF\b|[Oo]cclusion|[Dd]issection"
)


def host_modules(pairs):
    """List modules of the host, without the package's name, among imports."""
    for module, name in pairs:
        if (
            module == "wsss_probe"
            and name
            and (Path(__file__).parents[2] / "wsss_probe" / f"{name}.py").exists()
        ):
            yield name
        elif module.startswith("wsss_probe."):
            yield module.split(".", 1)[1]
        elif module == "wsss_probe":
            yield ""


class TestImports:
    def test_the_host_imports_no_plugin(self, root, imports):
        """No file of the host imports a distribution of the plugins."""
        found = {
            (path.name, module)
            for path in (root / "wsss_probe").rglob("*.py")
            for module, _ in imports(path)
            if module.startswith("wsss_probe_")
        }

        assert found == set()

    @pytest.mark.parametrize("name", MAY_IMPORT)
    def test_what_an_author_reads_can_be_read_alone(self, root, imports, name):
        """Contracts, hooks, schema and errors import nothing of the host but each other."""
        used = set(host_modules(imports(root / "wsss_probe" / f"{name}.py")))

        assert used <= MAY_IMPORT[name]

    def test_only_main_imports_the_command_line(self, root, imports):
        """The command line is imported by the console script and by nothing else."""
        users = {
            path.name
            for path in (root / "wsss_probe").rglob("*.py")
            if path.name != "cli.py" and "cli" in host_modules(imports(path))
        }

        assert users <= {"__main__.py"}

    def test_only_tests_import_testing(self, root, imports, shipped):
        """What is for tests is used by tests, not by the host or a plugin."""
        users = {
            str(path.relative_to(root))
            for path in shipped
            if "testing" not in path.parts
            and any(module.startswith("testing") for module in host_modules(imports(path)))
        }

        assert users == set()

    def test_a_plugin_imports_no_other_plugin(self, plugin, imports):
        """Plugins meet in the run, never by import."""
        own = f"wsss_probe_{plugin.name}"
        found = {
            (path.name, module)
            for path in plugin.rglob("*.py")
            for module, _ in imports(path)
            if module.startswith("wsss_probe_") and module.split(".")[0] != own
        }

        assert found == set()

    def test_a_plugin_imports_public_names_only(self, plugin, imports):
        """What a plugin takes from the host is in that module's ``__all__``, as a stranger's would be."""
        private = set()
        for path in (plugin / f"wsss_probe_{plugin.name}").rglob("*.py"):
            for module, name in imports(path):
                if module.split(".")[0] != "wsss_probe" or not name:
                    continue
                public = getattr(importlib.import_module(module), "__all__", None)
                submodule = (Path(__file__).parents[2] / module.replace(".", "/") / f"{name}.py").exists()
                if name.startswith("_") or not (submodule or public is None or name in public):
                    private.add((path.name, module, name))

        assert private == set()

    @pytest.mark.parametrize("name", ["wsss_probe", "wsss_probe.host", "wsss_probe.cli"])
    def test_importing_the_host_loads_nothing_heavy(self, name):
        """The façade, the plugin host and the command line start without torch, plotly or statistics."""
        assert heavy_after(f"import {name}") == "[]"

    def test_importing_a_plugin_loads_nothing_heavy(self, plugin):
        """A plugin's entry module and its hooks for commands start without torch or plotly."""
        code = f"import wsss_probe_{plugin.name} as plugin"

        assert heavy_after(code) == "[]"


def heavy_after(code):
    """Run code in a fresh process and list the heavy packages that it has imported."""
    script = f"{code}\nimport sys; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class TestKnowledge:
    def test_the_host_names_no_plugin_and_no_method(self, root):
        """No file of the host, templates included, has the word of a plugin or of a method."""
        words = re.compile(f"{PLUGIN_WORDS}|{METHOD_WORDS}")
        found = [
            f"{path.relative_to(root)}:{number}: {match.group()}"
            for path in sorted((root / "wsss_probe").rglob("*"))
            if path.suffix in {".py", ".j2", ".js", ".css"}
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
            if (match := words.search(line))
        ]

        assert found == []

    def test_every_file_has_its_paragraph(self, root, source):
        """Every Python file has an entry in docs/architecture.md."""
        page = (root / "docs" / "architecture.md").read_text(encoding="utf-8")

        assert f"* `{source.relative_to(root)}`: " in page

    def test_every_paragraph_has_its_file(self, root):
        """docs/architecture.md has no entry for a file that is gone."""
        page = (root / "docs" / "architecture.md").read_text(encoding="utf-8")
        named = re.findall(r"^\* `([\w/]+\.py)`: ", page, flags=re.MULTILINE)

        assert [name for name in named if not (root / name).exists()] == []

    def test_names_say_what_is_inside(self, source):
        """No file is called utils, helpers, common or misc."""
        assert source.stem not in {"utils", "util", "helpers", "helper", "common", "misc", "base", "core"}


class TestStyle:
    def test_the_host_keeps_its_budget(self, root):
        """Files, functions, nesting, arguments and docstrings of the host are within budget."""
        assert over_budget(root, root / "wsss_probe") == ""

    def test_a_plugin_keeps_its_budget(self, root, plugin):
        """Files, functions, nesting, arguments and docstrings of a plugin are within budget."""
        assert over_budget(root, plugin / f"wsss_probe_{plugin.name}") == ""

    def test_classes_are_abstract_or_final(self, root):
        """In contracts.py a class is abstract, a protocol, or marked final."""
        tree = ast.parse((root / "wsss_probe" / "contracts.py").read_text(encoding="utf-8"))
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        open_ones = [
            node.name
            for node in classes
            if not {"ABC", "Protocol"} & {getattr(base, "id", "") for base in node.bases}
            and "final" not in {getattr(mark, "id", "") for mark in node.decorator_list}
        ]

        assert len(classes) > 20
        assert open_ones == []


def over_budget(root, folder):
    """Run the measuring script and give what it says is too much."""
    tool = root / "tools" / "measure_style.py"
    command = [sys.executable, str(tool), "--check", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""

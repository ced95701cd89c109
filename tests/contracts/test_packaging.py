"""What is installed: equal versions, one skeleton for all plugins, wheels that hold everything."""

import subprocess
import sys
import tomllib
import zipfile

import pytest

import wsss_probe


def project(folder):
    """Read the table ``project`` of a distribution."""
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def build(folder, target):
    """Build a wheel as pip would, without a network, and open it."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = target.glob("*.whl")
    return wheel


class TestDistributions:
    def test_versions_are_equal(self, root, plugin):
        """Host and plugins have one version."""
        assert project(plugin)["version"] == project(root)["version"] == wsss_probe.__version__

    def test_a_plugin_folder_has_the_skeleton(self, plugin):
        """A plugin folder has pyproject, README, a typed package and tests, and nothing hidden."""
        package = plugin / f"wsss_probe_{plugin.name}"
        wanted = [plugin / "README.md", package / "__init__.py", package / "py.typed", plugin / "tests"]

        assert [path.name for path in wanted if not path.exists()] == []
        assert list((plugin / "tests").glob("test_*.py"))
        assert {path.name for path in plugin.iterdir() if not path.name.startswith((".", "__"))} - {
            "build",
            "dist",
        } <= {
            "pyproject.toml",
            "README.md",
            "tests",
            package.name,
        }

    def test_a_plugin_is_named_by_one_word(self, plugin):
        """Folder, distribution, import and entry point have the same word."""
        told = project(plugin)

        assert told["name"] == f"wsss-probe-{plugin.name}"
        assert told["entry-points"]["wsss_probe"] == {plugin.name: f"wsss_probe_{plugin.name}"}
        assert any(need.startswith("wsss-probe") for need in told["dependencies"])
        assert told["license"] == "Apache-2.0"
        assert told["requires-python"] == ">=3.11"

    def test_a_plugin_depends_on_no_other_plugin(self, plugin):
        """No plugin requires another; they meet in the run."""
        assert [need for need in project(plugin)["dependencies"] if need.startswith("wsss-probe-")] == []

    def test_every_plugin_is_set_up(self, root, plugin):
        """requirements.txt installs every plugin folder."""
        lines = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()

        assert f"-e ./plugins/{plugin.name}" in lines


class TestWheels:
    def test_the_hosts_wheel_holds_everything(self, root, tmp_path):
        """Every file of the package is in the wheel: modules, templates, style sheets, py.typed."""
        wheel = build(root, tmp_path)
        files = [p for p in (root / "wsss_probe").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        with zipfile.ZipFile(wheel) as archive:
            packed = set(archive.namelist())

        assert {str(path.relative_to(root)) for path in files} - packed == set()
        assert "wsss_probe/py.typed" in packed
        assert any(name.startswith("wsss_probe/report/templates/") for name in packed)
        assert any(name.endswith("licenses/LICENSE") for name in packed)
        assert not any(name.startswith(("tests/", "plugins/", "docs/")) for name in packed)

    def test_a_plugins_wheel_holds_everything(self, plugin, tmp_path):
        """Every file of the plugin's package is in its wheel, and its tests are not."""
        wheel = build(plugin, tmp_path)
        package = plugin / f"wsss_probe_{plugin.name}"
        files = [p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        with zipfile.ZipFile(wheel) as archive:
            packed = set(archive.namelist())

        assert {str(path.relative_to(plugin)) for path in files} - packed == set()
        assert not any(name.startswith("tests/") for name in packed)

    def test_hello_is_found_once_installed(self, root, tmp_path):
        """A host that meets the built hello-plugin loads it by its entry point and lists both hooks."""
        wheel = build(root / "docs" / "hello-plugin", tmp_path)
        code = (
            f"import sys; sys.path.insert(0, {str(wheel)!r})\n"
            "from wsss_probe.host import PluginHost\n"
            "host = PluginHost(strict=True); host.load(only=('hello',))\n"
            "(row,) = [row for row in host.listing() if row.state != 'left out']\n"
            "print(row.name, row.distribution, row.version, row.state, *row.hooks)\n"
            "print(*(offered.name for offered in (*host.collect_explainers(), *host.collect_probes())))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

        assert done.stdout.splitlines() == [
            "hello wsss-probe-hello 0.1.0 loaded wsss_probe_explainers wsss_probe_probes",
            "mean energy",
        ], done.stderr


@pytest.mark.parametrize("name", ["LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile"])
def test_the_root_has_what_a_newcomer_looks_for(root, name):
    """Licence, read-me, changelog, guide and Makefile lie in the root and are not empty."""
    assert (root / name).stat().st_size > 50

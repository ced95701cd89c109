"""What the tests about the repository share: where things lie, and how to read an import."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOST = ROOT / "wsss_probe"
PLUGINS = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))
PACKAGES = {folder.name: folder / f"wsss_probe_{folder.name}" for folder in PLUGINS}


def pytest_generate_tests(metafunc):
    """Give ``plugin``, ``source`` and ``page`` one value for each that the repository has."""
    names = {
        "plugin": PLUGINS,
        "source": [path for folder in (HOST, *PACKAGES.values()) for path in sorted(folder.rglob("*.py"))],
        "page": [
            ROOT / "README.md",
            *sorted((ROOT / "docs").rglob("*.md")),
            *sorted(ROOT.glob("plugins/*/README.md")),
        ],
    }
    for name, values in names.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, values, ids=[str(value.relative_to(ROOT)) for value in values])


@pytest.fixture(scope="session")
def root():
    """Give the root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shipped():
    """Give every Python file that is installed with the host or a plugin."""
    hello = ROOT / "docs" / "hello-plugin" / "wsss_probe_hello.py"
    return [path for folder in (HOST, *PACKAGES.values()) for path in sorted(folder.rglob("*.py"))] + [hello]


@pytest.fixture(scope="session")
def tracked():
    """Give every text file that is under version control."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    kinds = {".py", ".md", ".toml", ".txt", ".j2", ".css", ".js", ".yml", ".yaml", ".sh", ".cfg", ""}
    return [path for path in paths if path.is_file() and path.suffix in kinds and "reports" not in path.parts]


@pytest.fixture(scope="session")
def imports():
    """Give a function that lists ``(module, name)`` of every import in a file, wherever it stands."""

    def listed(path):
        found = []
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found += [(alias.name, "") for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{path}: relative import"
                found += [(node.module, alias.name) for alias in node.names]
        return found

    return listed

"""The documentation is true: hooks are documented, code blocks run, tests say what they test."""

import ast
import doctest
import inspect
import re
import sys
import types

import pytest

from wsss_probe import hookspecs

HOOKS = {name: value for name, value in vars(hookspecs).items() if name.startswith("wsss_probe_")}
BLOCK = re.compile(r"(<!-- not run: (?P<reason>.+?) -->\s+)?^```python\n(?P<code>.*?)^```", re.M | re.S)


@pytest.fixture(scope="module")
def test_functions(root):
    """Give every test function as (file, class or empty, node, source)."""
    found = []
    for folder in ("tests", "plugins", "docs"):
        for path in sorted((root / folder).rglob("test_*.py")):
            text = path.read_text(encoding="utf-8")
            for node in ast.walk(ast.parse(text)):
                if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
                    continue
                if not any("fixture" in ast.unparse(mark) for mark in node.decorator_list):
                    found.append((path, node, ast.get_source_segment(text, node) or ""))
    return found


class TestHooks:
    @pytest.mark.parametrize("name", HOOKS)
    def test_a_hook_has_its_own_section(self, root, name):
        """Each hook is a heading in docs/hooks.md, with its exact arguments."""
        page = (root / "docs" / "hooks.md").read_text(encoding="utf-8").splitlines()
        arguments = ", ".join(inspect.signature(HOOKS[name]).parameters)

        assert f"## {name}({arguments})" in page

    def test_no_section_is_about_a_hook_that_is_gone(self, root):
        """Every heading in docs/hooks.md that looks like a hook is one."""
        page = (root / "docs" / "hooks.md").read_text(encoding="utf-8")

        assert set(re.findall(r"^## (\w+)\(", page, flags=re.M)) == HOOKS.keys()

    @pytest.mark.parametrize("name", HOOKS)
    def test_a_hook_is_tested(self, test_functions, name):
        """Each hook's name occurs in some test function."""
        users = [
            node.name for path, node, text in test_functions if name in text and "contracts" not in path.parts
        ]

        assert users

    @pytest.mark.parametrize("name", HOOKS)
    def test_a_hook_has_an_example(self, name):
        """Each hook's docstring shows an implementation that compiles."""
        lines = re.findall(r"^ *(?:>>>|\.\.\.) ?(.*)$", HOOKS[name].__doc__, flags=re.M)

        compile("\n".join(lines), name, "exec")
        assert f"def {name}(" in "\n".join(lines)


def run_dialogue(match, names, page, line):
    """Run a block of ``>>>`` lines and compare what it prints; only read it if it is not to be run."""
    test = doctest.DocTestParser().get_doctest(match["code"], names, page, page, line)
    for example in test.examples:
        compile(example.source, page, "single")
    if match["reason"] is None:
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        printed = []
        runner.run(test, out=printed.append, clear_globs=False)
        names |= test.globs
        assert runner.failures == 0, "".join(printed)


class TestPages:
    def test_python_blocks_run(self, root, page, tmp_path, monkeypatch):
        """Every Python block runs, in order, unless a comment above it gives the reason why not."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(root / "docs" / "hello-plugin")
        module = types.ModuleType(f"page_{page.stem.replace('-', '_')}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start("code"))
            if match["code"].startswith(">>>"):
                run_dialogue(match, vars(module), str(page), line)
                continue
            code = compile("\n" * line + match["code"], str(page), "exec")
            if match["reason"] is None:
                exec(code, vars(module))  # the documentation's own code

        assert text.count("```python\n") == len(BLOCK.findall(text))

    def test_files_are_shown_as_they_are(self, root):
        """A block below ``<!-- file: x -->`` is that file, character for character."""
        shown = 0
        for page in (root / "docs").glob("*.md"):
            text = page.read_text(encoding="utf-8")
            for name, code in re.findall(
                r"<!-- file: (\S+) -->\s+```\w+\n(.*?)^```", text, flags=re.M | re.S
            ):
                assert code == (page.parent / name).read_text(encoding="utf-8"), (
                    f"{page.name} shows an old {name}"
                )
                shown += 1

        assert shown >= 3

    def test_links_lead_somewhere(self, page):
        """Every relative link leads to a file or folder of the repository."""
        text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        targets = re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", text)

        assert [target for target in targets if not (page.parent / target).exists()] == []


class TestTests:
    def test_every_test_says_what_it_tests(self, root, test_functions):
        """Every test function has a docstring of one sentence."""
        silent = []
        for path, node, _ in test_functions:
            text = " ".join((ast.get_docstring(node) or "").split())
            several = re.search(r"(?<!e\.g)(?<!i\.e)(?<!vs)(?<!eq)\. [A-Z]", text)
            if not text.endswith(".") or several:
                silent.append(f"{path.relative_to(root)}:{node.lineno}: {node.name}: {text!r}")

        assert len(test_functions) > 100
        assert silent == []

"""What shipped code never does, and words that do not belong into the repository."""

import ast
import re

import pytest

UNSAFE_TEXT = (".to_html(", "|safe", "| safe", "Markup(", "yaml.load(", "mark_safe", "autoescape=False")
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "shelve", "marshal", "joblib", "cloudpickle"}
MACHINE = re.compile("|".join(("/" + "work/", "/" + "tmp/", "/" + "root/", "C:" + r"\\Users")))
TOOLS = ("cl" + "aude", "chat" + "gpt", "co" + "pilot", "sub" + "agent", "ai " + "assistant")
SESSION = re.compile("|".join(TOOLS))
ITS_ERROR = {"UnpicklingError", "PickleError"}  # what torch raises for a file that it refuses
PROCESSES = {
    "Parallel",
    "delayed",
    "cpu_count",
}  # joblib hands our own objects to our own processes; no file is read


def calls(tree):
    """List every call with its dotted name."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def only_its_error(path, module, name):
    """Whether a file that imports a whole module takes nothing of it but its error."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    taken = {n.attr for n in nodes if isinstance(n, ast.Attribute) and ast.unparse(n.value) == module}
    return not name and bool(taken) and taken <= ITS_ERROR


class TestShippedCode:
    @pytest.mark.parametrize("text", UNSAFE_TEXT)
    def test_nothing_unescaped_reaches_a_page(self, root, shipped, text):
        """No shipped file, templates included, has a way around escaping or unsafe parsing."""
        templates = [p for p in (root / "wsss_probe").rglob("*") if p.suffix in {".j2", ".js"}]
        users = [path.name for path in (*shipped, *templates) if text in path.read_text(encoding="utf-8")]

        assert users == []

    def test_nothing_is_unpickled(self, shipped, imports):
        """No shipped file imports a module that runs code while it reads data."""
        users = [
            (path, module, name)
            for path in shipped
            for module, name in imports(path)
            if module.split(".")[0] in UNSAFE_MODULES and name not in ITS_ERROR | PROCESSES
        ]

        assert [user for user in users if not only_its_error(*user)] == []

    def test_nothing_is_evaluated(self, shipped):
        """No shipped file calls eval, exec, compile or a shell, but the one that runs trusted factories."""
        banned = {"eval", "exec", "compile", "os.system", "os.popen", "__import__"}
        users = [
            (path.name, node.lineno, name)
            for path in shipped
            if path.name != "factory.py"  # runs a user's file, after --trust-code and nothing else
            for name, node in calls(ast.parse(path.read_text(encoding="utf-8")))
            if name in banned
        ]

        assert users == []

    def test_torch_load_is_always_restricted(self, shipped):
        """Every call of torch.load says weights_only=True, so that no environment can change it."""
        unsafe = []
        for path in shipped:
            for name, node in calls(ast.parse(path.read_text(encoding="utf-8"))):
                given = {keyword.arg: keyword.value for keyword in node.keywords}
                value = given.get("weights_only")
                restricted = isinstance(value, ast.Constant) and value.value is True
                if name in {"torch.load", "torch.hub.load", "torch.jit.load"} and not restricted:
                    unsafe.append((path.name, node.lineno))

        assert unsafe == []

    def test_numpy_reads_no_objects(self, shipped):
        """No shipped file allows numpy to unpickle."""
        assert [path.name for path in shipped if re.search("allow_pickle *= *True", path.read_text())] == []


class TestWords:
    @pytest.mark.parametrize("words", [MACHINE, SESSION], ids=["paths", "tools"])
    def test_no_trace_of_where_it_was_written(self, root, tracked, words):
        """No tracked file names a folder of one machine or a tool that helped to write it."""
        found = [
            f"{path.relative_to(root)}:{number}: {line.strip()[:80]}"
            for path in tracked
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
            if words.search(line) or words.search(line.lower())
        ]

        assert found == []

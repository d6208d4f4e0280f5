"""The order of packages and modules, read from the source: tools < evals < autoencoder < ... < main."""

import ast
import itertools
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ("tools", "evals", "autoencoder", "latent_diffusion", "configs", "main")
# the last layer within a package
TRAINING = ("train", "sample", "stage", "evaluate", "demo", "bench", "bench_parts", "bench_latents", "costs")
MODELS = ("autoencoder", "latent_diffusion")


def sources():
    files = [p for package in ORDER[:-1] for p in sorted((ROOT / package).rglob("*.py"))]
    return files + [p for p in (ROOT / "main.py",) if p.exists()]


def name(path):
    """Return tools/log.py as tools.log, tools/__init__.py as tools."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path, head=False):
    """Return the dotted names that a file imports, anywhere in it or only above its first definition."""
    found, package = set(), path.relative_to(ROOT).parent.parts
    tree = ast.parse(path.read_text())
    defined = (ast.FunctionDef, ast.ClassDef)
    body = list(itertools.takewhile(lambda node: not isinstance(node, defined), tree.body))
    for node in body if head else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[:len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            found |= {f"{module}.{alias.name}" for alias in node.names}  # a name in it, or a module of it
    return found


def code(path):
    """Return (line number, code) without comments and strings."""
    lines = {}
    with open(path, "rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type not in (tokenize.COMMENT, tokenize.STRING, tokenize.ENCODING):
                lines[token.start[0]] = lines.get(token.start[0], "") + token.string
    return sorted(lines.items())


def every(check):
    return pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))(check)


@every
def test_a_package_imports_only_from_its_left(path):
    rank = ORDER.index(path.relative_to(ROOT).parts[0].removesuffix(".py"))
    wrong = [i for i in imports(path) if i.split(".")[0] in ORDER[rank + 1:]]
    assert not wrong, f"{name(path)} imports {wrong} from its right"


@every
def test_tests_are_not_imported(path):
    assert not [i for i in imports(path) if i.split(".")[0] == "tests"]


@every
def test_numerics_and_models_do_not_import_training(path):
    parts = path.relative_to(ROOT).parts
    if parts[0] not in MODELS or path.stem in (*TRAINING, "__init__"):
        return
    late = {f"{package}.{module}" for package in MODELS for module in TRAINING}
    wrong = [i for i in imports(path) if ".".join(i.split(".")[:2]) in late]
    assert not wrong, f"{name(path)} imports {wrong}, which train or sample"


@every
def test_one_module_reads_and_writes_checkpoints(path):
    if name(path) == "tools.checkpoint":
        return
    calls = [node.lineno for node in ast.walk(ast.parse(path.read_text()))
             if isinstance(node, ast.Attribute) and node.attr in ("save", "load")
             and isinstance(node.value, ast.Name) and node.value.id == "torch"]
    assert not calls and not {"torch.save", "torch.load"} & imports(path), f"{path} lines {calls}"


@every
def test_no_wrapper_and_no_device_is_reached_for(path):
    wrong = [(number, text) for number, text in code(path) if re.search(r"\.module\b|\.cuda\(\)", text)]
    assert not wrong, f"{name(path)}: {wrong}"


def test_no_import_goes_in_a_circle():
    # A circle works or fails by who comes first. Plug-ins that register themselves are imported below.
    modules = {name(p): p for p in sources()}
    graph = {}
    for module, path in modules.items():
        near = {i if i in modules else i.rpartition(".")[0] for i in imports(path, head=True)}
        graph[module] = {n for n in near if n in modules and n != module and not module.startswith(n + ".")}
    done, open_ = set(), []

    def visit(module):
        assert module not in open_, " -> ".join([*open_[open_.index(module):], module])
        if module not in done:
            open_.append(module)
            for other in sorted(graph[module]):
                visit(other)
            done.add(open_.pop())
    for module in graph:
        visit(module)


ALONE = """
import importlib, sys
packages, modules = sys.argv[1].split(","), sys.argv[2].split(",")
for module in modules:
    for name in [n for n in sys.modules if n.partition(".")[0] in packages]:
        del sys.modules[name]
    try:
        importlib.import_module(module)
        from tools.sources import SOURCES
    except ImportError as error:
        sys.exit(f"{module}: {error}")
    if not {"VIDEOS", "SKY", "UCF101", "SHAPES"} <= set(SOURCES):
        sys.exit(f"{module}: after it, only {list(SOURCES)} are registered")
"""


def test_a_package_or_a_plug_in_may_be_imported_first():
    # One process for all: what is ours is forgotten before each import, torch (a second each time) is not. Plug-ins are
    # what no order of packages tells apart: they are imported by that which they import.
    plug_ins = [name(p) for p in sources() if re.search(r"^@(SOURCES|READERS)\.register", p.read_text(), re.MULTILINE)]
    assert len(plug_ins) > 10
    modules = ",".join([*ORDER[1:], "latent_diffusion.jobs", "evals.run", *plug_ins])
    done = subprocess.run([sys.executable, "-c", ALONE, ",".join(ORDER), modules], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_reader_of_imports_sees_all_forms(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "tools").mkdir()
    file = tmp_path / "tools/x.py"
    file.write_text("import main\nfrom evals import psnr\nfrom . import log\nfrom .rng import rand\n"
                    "def f():\n    import autoencoder.model as m\n    x.module  # .module\n    '.cuda()'\n")
    top = {"main", "evals.psnr", "tools.log", "tools.rng.rand"}
    assert imports(file) == {*top, "autoencoder.model"} and imports(file, head=True) == top
    assert [n for n, text in code(file) if re.search(r"\.module\b|\.cuda\(\)", text)] == [7]

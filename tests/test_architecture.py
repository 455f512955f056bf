"""The layers of docs/architecture.md, read from the imports; and the sizes and names that the project keeps to."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
PACKAGE = PROJECT / "ngxsync"

# from the ground up; what is in no folder of these is entry
LAYERS = ("agent", "core", "edges", "flow", "entry")
PURE_AGENT = {"ngxsync.agent.manifest", "ngxsync.agent.directives"}
RUN_THE_AGENT = tuple(f"ngxsync.edges.{name}" for name in ("local", "serving", "vip", "spool", "addresses"))

IMPURE = {
    "os",
    "subprocess",
    "socket",
    "logging",
    "time",
    "shutil",
    "tempfile",
    "glob",
    "threading",
    "random",
    "secrets",
    "uuid",
}
CLOCKS = {"now", "utcnow", "today"}
EFFECTS = {"open", "print", "input"}

ONE_IMPORTER = ("watchdog", "fabric", "paramiko", "crossplane", "apscheduler", "cronsim", "rich", "pathspec")
HEAVY = {"fabric", "paramiko", "apscheduler", "watchdog", "crossplane", "rich"}
VAGUE = {"util", "utils", "helper", "helpers", "common", "manager", "base", "misc"}


def module_name(file: Path) -> str:
    parts = file.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(file.read_bytes(), str(file)) for name, file in FILES.items()}


def layer_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else "entry"


def imports_of(module: str) -> Iterator[str]:
    """Every module that this one imports, anywhere in its code, by absolute name; of `from x import y` what y is."""
    package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(part for part in (above, node.module) if part)
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield inner if inner in FILES else source


OWN_IMPORTS = {name: sorted({i for i in imports_of(name) if i.split(".")[0] == "ngxsync"}) for name in FILES}
OUTER_IMPORTS = {name: {i.split(".")[0] for i in imports_of(name)} - {"ngxsync"} for name in FILES}


def test_there_is_something_to_read() -> None:
    assert {layer_of(name) for name in FILES} == set(LAYERS)
    assert "ngxsync.agent.manifest" in OWN_IMPORTS["ngxsync.core.model"]
    assert "ngxsync.agent.manifest" in OWN_IMPORTS["ngxsync.agent.scan"]  # a relative one


def test_imports_go_downwards_only() -> None:
    upwards = [
        f"{name} imports {other}"
        for name, imports in OWN_IMPORTS.items()
        for other in imports
        if other != "ngxsync" and LAYERS.index(layer_of(other)) > LAYERS.index(layer_of(name))
    ]
    assert upwards == []


def test_edges_never_import_each_other() -> None:
    sideways = [
        f"{name} imports {other}"
        for name, imports in OWN_IMPORTS.items()
        for other in imports
        if layer_of(name) == layer_of(other) == "edges" and other != "ngxsync.edges"
        if name.split(".")[2:3] != other.split(".")[2:3]  # the modules of one edge
    ]
    assert sideways == []


def test_flow_imports_no_edge() -> None:
    known = [
        f"{n} imports {o}" for n, i in OWN_IMPORTS.items() for o in i if (layer_of(n), layer_of(o)) == ("flow", "edges")
    ]
    assert known == []


def test_the_agent_is_a_house_of_its_own() -> None:
    agent = [name for name in FILES if layer_of(name) == "agent"]
    assert [f"{n} imports {o}" for n in agent for o in OWN_IMPORTS[n] if layer_of(o) != "agent" or o == "ngxsync"] == []
    assert [f"{n} imports {o}" for n in agent for o in OUTER_IMPORTS[n] if o not in sys.stdlib_module_names] == []
    absolute = [
        f"{name}:{node.lineno}"
        for name in agent
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "ngxsync"
    ]
    assert absolute == [], "on the peer the package is called ngxsync_agent: imports have to be relative"


def test_only_two_edges_call_the_effects_of_the_agent() -> None:
    others = [
        f"{name} imports {other}"
        for name, imports in OWN_IMPORTS.items()
        for other in imports
        if layer_of(other) == "agent" and layer_of(name) != "agent" and name not in RUN_THE_AGENT
        if other not in PURE_AGENT
    ]
    assert others == []


def test_annotations_of_the_agent_are_python_3_6() -> None:
    """Python 3.6 evaluates them, and vermin takes no note of `X | Y`."""
    unions = [
        f"{name}:{part.lineno}"
        for name in FILES
        if layer_of(name) == "agent"
        for annotation in annotations_of(TREES[name])
        for part in ast.walk(annotation)
        if isinstance(part, ast.BinOp)
    ]
    assert unions == []


def annotations_of(tree: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
            yield node.annotation
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns:
            yield node.returns


def test_core_takes_values_and_gives_values() -> None:
    core = [name for name in FILES if layer_of(name) == "core"]
    assert [f"{name} imports {module}" for name in core for module in OUTER_IMPORTS[name] & IMPURE] == []
    calls = [
        f"{name}:{node.lineno} calls {called(node)}"
        for name in core
        for node in ast.walk(TREES[name])
        if isinstance(node, ast.Call) and (called(node) in EFFECTS or called(node).rpartition(".")[2] in CLOCKS)
    ]
    assert calls == []


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


@pytest.mark.parametrize("library", ONE_IMPORTER)
def test_each_library_has_one_importer(library: str) -> None:
    importers = [name for name, imports in OUTER_IMPORTS.items() if library in imports]
    assert len(importers) == 1, f"{library} is imported by {importers}"


def test_click_stays_at_the_entry() -> None:
    importers = [name for name, imports in OUTER_IMPORTS.items() if "click" in imports]
    assert importers
    assert [name for name in importers if layer_of(name) != "entry"] == []


def test_modules_and_functions_are_short() -> None:
    long = [
        f"{name}: {lines} lines" for name, file in FILES.items() if (lines := len(file.read_text().splitlines())) > 350
    ]
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > 50:
                    long.append(f"{name}.{node.name}: {lines} lines")
    assert long == []


def test_module_names_say_what_is_in_them() -> None:
    assert [name for name in FILES if VAGUE & set(name.split("."))] == []


CONFIG = """\
[peer web2]
host = 192.0.2.2
identity = {folder}/key

[ngxsync]
state_dir = {folder}/state
"""


@pytest.mark.parametrize("command", ["--help", "status"])
def test_light_commands_load_no_heavy_library(command: str, tmp_path: Path) -> None:
    arguments = [command]
    if command != "--help":
        config = tmp_path / "config.ini"
        config.write_text(CONFIG.format(folder=tmp_path))
        arguments += ["--config", str(config)]
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ngxsync", *arguments], cwd=PROJECT, capture_output=True, text=True
    )
    timed = [line for line in result.stderr.splitlines() if line.startswith("import time:")]
    said = [line for line in result.stderr.splitlines() if line not in timed]
    assert result.returncode == 0, "\n".join([result.stdout, *said])
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in timed}
    assert "ngxsync" in loaded
    assert loaded & HEAVY == set()

"""The shape of the package: layers, import cycles, and names.

Every import counts, wherever it stands: at the top, inside a function (lazy) or under
``TYPE_CHECKING``. Two things are exempt. The façade ``hardmine/__init__.py`` names the public calls of
the upper layers without importing them; ``from hardmine import train`` counts as an import of the
module that holds ``train``. And a few values have methods that read, write and show them
(``data.to_yolo()``), which call ``hardmine.conversions`` when they are used.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import hardmine

ROOT = Path(__file__).resolve().parents[1] / "src" / "hardmine"
LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(names.split())
    for names in (
        "errors finding_kinds types detections tensors boxes numpy_boxes files device "
        "option_fields plurals",
        "data models",
        "augment losses",
        "recipes",
        "training inference",
        "evaluation",
        "mining",
        "reports",
        "conversions",
        "prior_design inspection review",
        "workflows",
        "loop",
        "comparison diagnosis",
        "demo",
        "cli __main__",
    )
)
BLIND = frozenset(
    frozenset(pair.split()) for pair in ("data models", "augment losses", "training inference")
)
FACADE = "hardmine"
CONVERSIONS = "hardmine.conversions"
"""The methods of values that read, write and show them with the packages above: `data.to_yolo()`."""
MAY_CONVERT = frozenset({"hardmine.types", "hardmine.detections", "hardmine.mining.mine"})
MAY_REPEAT = frozenset({"options.py"})
"""File names that their folder makes plain."""


def module_name(path: Path, root: Path = ROOT) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imported_modules(
    tree: ast.AST, importer: str, is_package: bool, known: Iterable[str]
) -> set[str]:
    """Return the modules among ``known`` that the tree imports, at any depth."""
    known = set(known)
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.update(_from_targets(node, importer, is_package, known))
    return {name for name in found if name in known} - {importer}


def _from_targets(
    node: ast.ImportFrom, importer: str, is_package: bool, known: set[str]
) -> Iterator[str]:
    base = node.module or ""
    if node.level:
        up = importer.split(".")
        up = up[: len(up) - node.level + is_package]
        base = ".".join([*up, *([base] if base else [])])
    for alias in node.names:
        if base == FACADE and alias.name in hardmine._PUBLIC:
            yield hardmine._PUBLIC[alias.name]
        elif f"{base}.{alias.name}" in known:
            yield f"{base}.{alias.name}"
        else:
            yield base


def import_graph() -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        if name == FACADE:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        found = imported_modules(tree, name, path.name == "__init__.py", MODULES)
        graph[name] = found - {FACADE} - ({CONVERSIONS} if name in MAY_CONVERT else set())
    return graph


def layer_of(module: str) -> tuple[str, int]:
    """Return a module's package (``data``) and the rank of its layer."""
    package = module.split(".")[1]
    for rank, names in enumerate(LAYERS):
        if package in names:
            return package, rank
    raise AssertionError(f"{module} is in no layer; add {package!r} to LAYERS and ARCHITECTURE.md")


def violation(importer: str, imported: str) -> str | None:
    (lower, lower_rank), (upper, upper_rank) = layer_of(imported), layer_of(importer)
    if lower_rank > upper_rank:
        return f"{importer} imports {imported}: {lower} lies above {upper}"
    if frozenset({lower, upper}) in BLIND:
        return f"{importer} imports {imported}: {lower} and {upper} are blind to each other"
    return None


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules of one cycle, the first repeated at the end, or nothing."""
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph.get(name, ())):
            if cycle := visit(target, [*trail, name]):
                return cycle
        done.add(name)
        return []

    for start in sorted(graph):
        if cycle := visit(start, []):
            return cycle
    return []


def test_modules_import_only_from_their_own_layer_and_those_above_it() -> None:
    faults = [
        fault
        for importer, targets in import_graph().items()
        for imported in sorted(targets)
        if (fault := violation(importer, imported))
    ]
    assert not faults, "\n".join(faults)


def test_no_import_cycle() -> None:
    assert not find_cycle(import_graph())


def test_a_file_name_occurs_once() -> None:
    count = Counter(path.name for path in MODULES.values() if path.name != "__init__.py")
    assert not {name for name, times in count.items() if times > 1} - MAY_REPEAT


def test_every_package_has_a_layer() -> None:
    for name in MODULES:
        if name != FACADE:
            layer_of(name)


# The checks themselves, on small examples: a check that cannot fail checks nothing.


def test_lazy_and_relative_and_type_imports_are_seen() -> None:
    source = """
from __future__ import annotations
import hardmine.errors
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from hardmine.types import Dataset
def lazy():
    from . import convert
    from ..models import priors
    from hardmine import train
"""
    known = {
        "hardmine.errors",
        "hardmine.types",
        "hardmine.data",
        "hardmine.data.convert",
        "hardmine.data.load_dataset",
        "hardmine.models.priors",
        hardmine._PUBLIC["train"],
    }
    found = imported_modules(ast.parse(source), "hardmine.data.load_dataset", False, known)
    assert found == known - {"hardmine.data", "hardmine.data.load_dataset"}


def test_relative_import_in_a_package_starts_at_the_package() -> None:
    tree = ast.parse("from . import convert\nfrom .load_dataset import x")
    known = {"hardmine.data.convert", "hardmine.data.load_dataset"}
    assert imported_modules(tree, "hardmine.data", True, known) == known


@pytest.mark.parametrize(
    ("importer", "imported", "wrong"),
    [
        ("hardmine.data.load_dataset", "hardmine.models.priors", True),
        ("hardmine.models.priors", "hardmine.data.load_dataset", True),
        ("hardmine.data.load_dataset", "hardmine.training.trainer", True),
        ("hardmine.errors", "hardmine.data.load_dataset", True),
        ("hardmine.training.trainer", "hardmine.data.load_dataset", False),
        ("hardmine.data.load_dataset", "hardmine.data.convert", False),
        ("hardmine.cli.main", "hardmine.errors", False),
    ],
)
def test_violation(importer: str, imported: str, wrong: bool) -> None:
    assert (violation(importer, imported) is not None) is wrong


def test_find_cycle() -> None:
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []

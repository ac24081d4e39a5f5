"""What pages and docstrings cite of this project: files, tests, modules, decisions, sections.

`find_stale` returns every citation that leads nowhere, so that texts stay true as files move. What
belongs to another project is told apart by its place: a path counts as ours when it begins with a
folder of this repository or a package of ``hardmine``.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("src", "tests", "docs", "benchmarks", "examples")
FOREIGN = frozenset({"export_onnx.py", "presets.py", "shape.py", "ssd_coco.py", "ssd_pascal.py"})
"""Files of other projects that texts name without a folder."""

_PATH = re.compile(r"(?<![\w./-])((?:[\w-]+/)+[\w-]+\.(?:py|md|html|css))\b")
_BARE = re.compile(r"`([\w-]+\.py)`")
_MODULE = re.compile(r"\bhardmine(?:\.\w+)+")
_BENCHMARK = re.compile(r"python -m benchmarks\.(\w+)")
_DECISION = re.compile(r"\bdecision (\d+)\b", re.IGNORECASE)
_SECTION = re.compile(r"(?:\bsections?|§)\s*\d", re.IGNORECASE)
_YEAR = re.compile(r"\b(?:19|20)\d\d\b")
_SOURCE_REACH = 200
"""Characters before "section N" in which the year of the paper that it is a section of must stand."""


def find_stale(text: str) -> list[str]:
    """Return the citations in a text that lead nowhere, each as "got, wanted"."""
    return [
        *_stale_files(text),
        *_stale_modules(text),
        *(
            f"python -m benchmarks.{name}: there is no benchmarks/{name}.py"
            for name in _BENCHMARK.findall(text)
            if not (ROOT / "benchmarks" / f"{name}.py").exists()
        ),
        *(
            f"decision {number}: there is no docs/decisions/{int(number):04}-*.md"
            for number in _DECISION.findall(text)
            if not list((ROOT / "docs" / "decisions").glob(f"{int(number):04}-*.md"))
        ),
        *_stale_sections(text),
    ]


def texts_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the comments and docstrings of a Python file with the line where each begins."""
    source = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(source)):
        # A docstring, or the text below a constant or field that describes it.
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield node.lineno, text


def _stale_files(text: str) -> Iterator[str]:
    for name in _PATH.findall(text):
        first = name.split("/")[0]
        places = [ROOT / name] if first in FOLDERS else []
        if first in _packages() or first == "hardmine":
            places.append(ROOT / "src" / "hardmine" / name.removeprefix("hardmine/"))
            places += [ROOT / "tests" / name, ROOT / "docs" / name]
        if places and not any(place.exists() for place in places):
            yield f"{name}: there is no such file"
    for name in _BARE.findall(text):
        if name not in FOREIGN and name not in _file_names():
            yield f"{name}: there is no file of that name"


def _stale_modules(text: str) -> Iterator[str]:
    for name in _MODULE.findall(text):
        parts = name.split(".")
        for end in range(len(parts), 0, -1):
            place = ROOT / "src" / Path(*parts[:end])
            module = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
            if module.exists():
                break
        rest = parts[end:]
        if rest and rest[0] not in _top_level(module) and not _is_file_name(rest):
            yield f"{name}: {'.'.join(parts[:end])} has no {rest[0]}"


def _stale_sections(text: str) -> Iterator[str]:
    for found in _SECTION.finditer(text):
        before = text[max(0, found.start() - _SOURCE_REACH) : found.start()]
        if not _YEAR.search(before):
            shown = " ".join(text[max(0, found.start() - 30) : found.end()].split())
            yield f"{shown!r}: a section of no named source"


def _is_file_name(rest: list[str]) -> bool:
    """Tell ``hardmine.json`` and the like from modules."""
    return rest[-1] in ("json", "yaml", "toml")


@cache
def _packages() -> frozenset[str]:
    """Return the packages of ``hardmine`` and the folders of its tests."""
    folders = [*(ROOT / "src" / "hardmine").iterdir(), *(ROOT / "tests").iterdir()]
    return frozenset(path.name for path in folders if path.is_dir() and path.name[0] != "_")


@cache
def _file_names() -> frozenset[str]:
    return frozenset(path.name for name in FOLDERS for path in (ROOT / name).rglob("*.py"))


@cache
def _top_level(module: Path) -> frozenset[str]:
    """Return the names that a module defines or imports; of the package itself, its public ones."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Name | ast.Constant) and module.name == "__init__.py":
            names.add(str(node.id if isinstance(node, ast.Name) else node.value))
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(target.id for target in targets if isinstance(target, ast.Name))
    return frozenset(names)

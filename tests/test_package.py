"""The package as a user meets it: names, versions, what an import costs."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
from docs.build import call_reference

import hardmine

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("numpy", "torch", "torchvision", "matplotlib", "accelerate", "faster_coco_eval", "PIL")


def loaded_after(code: str) -> list[str]:
    """Return the heavy modules that are loaded after running ``code`` in a fresh interpreter."""
    report = (
        "import json, sys, atexit\n"
        f"names = {HEAVY!r}\n"
        "report = lambda: print('\\n' + json.dumps([n for n in names if n in sys.modules]))\n"
        "atexit.register(report)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", report + code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]))


def test_public_names_are_all_there() -> None:
    assert set(hardmine.__all__) == {"__version__", *hardmine._PUBLIC}
    assert dir(hardmine) == sorted(hardmine.__all__)


def test_type_checkers_see_every_public_name_where_it_is() -> None:
    tree = ast.parse(Path(hardmine.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = {
        alias.asname: str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name == alias.asname
    }
    assert imports == hardmine._PUBLIC


@pytest.mark.parametrize("name", sorted(hardmine._PUBLIC))
def test_public_name_resolves_to_something_documented(name: str) -> None:
    thing = getattr(hardmine, name)
    assert callable(thing)
    assert thing.__module__ == hardmine._PUBLIC[name]
    assert thing.__doc__


def test_the_reference_describes_every_public_name() -> None:
    page = call_reference()
    for name in hardmine._PUBLIC:
        assert f"<h2>{name}</h2>" in page
    assert "<h3>Detections.with_nms</h3>" in page


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = hardmine.trian


@pytest.mark.parametrize("name", sorted(hardmine._PUBLIC))
def test_no_package_shadows_a_public_call(name: str) -> None:
    # Importing hardmine.train as a package would replace the function of that name.
    assert find_spec(f"hardmine.{name}") is None


@pytest.mark.parametrize(
    "code",
    [
        "import hardmine",
        "import hardmine; dir(hardmine); hardmine.Dataset; hardmine.Detections; hardmine.DataError",
        "import hardmine; hardmine.MineOptions; hardmine.LoopOptions",
    ],
)
def test_import_alone_loads_nothing_heavy(code: str) -> None:
    needed = {"numpy"} if "Dataset" in code else set()  # images and boxes are arrays
    assert set(loaded_after(code)) == needed


def test_reading_a_dataset_needs_no_torch() -> None:
    assert "torch" not in loaded_after("import hardmine; hardmine.load_dataset; hardmine.convert")


def test_the_review_page_needs_no_torch() -> None:
    assert "torch" not in loaded_after("import hardmine.review.run_review, hardmine.review.server")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["loop", "-h"], ["train", "-h"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['hardmine', *{arguments!r}]\n"
        "from hardmine.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
    )
    assert loaded_after(code) == []


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(?P<version>\d[^\]]*)\]", changelog, re.MULTILINE)
    assert project["version"] == hardmine.__version__
    assert newest is not None
    assert newest["version"] == hardmine.__version__


def test_every_module_imports() -> None:
    for path in sorted((ROOT / "src" / "hardmine").rglob("*.py")):
        parts = path.relative_to(ROOT / "src").with_suffix("").parts
        if parts[-1] != "__main__":
            importlib.import_module(".".join(parts).removesuffix(".__init__"))


def _name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return match[0].lower().replace("_", "-")


def test_constraints_are_versions_only_and_cover_every_dependency() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    for pin in pins:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*( ; .+)?", pin), pin
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        wanted += extra
    assert {_name(line) for line in wanted} <= {_name(pin) for pin in pins}

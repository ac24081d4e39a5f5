"""The pages say what is true: commands, options and calls in them exist, links lead somewhere."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from typer.main import get_command

import hardmine
from hardmine.cli.main import app
from hardmine.finding_kinds import FindingKind

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


COMMANDS = {
    f"{name} {part}" if part else name: found
    for name, command in get_command(app).commands.items()
    for part, found in {"": command, **getattr(command, "commands", {})}.items()
}
"""Every command by its words, such as ``priors fit``."""
PAGES = sorted(
    {ROOT / "README.md", ROOT / "ARCHITECTURE.md", *(ROOT / "docs").rglob("*.md")}
    - {ROOT / "docs" / "log.md"}
)
ALWAYS = {"--help", "--debug", "--version", "--install-completion"}
OTHER_PROGRAMS = {"--cpu", "--multi_gpu", "--labels", "--no-deps", "--decode_in_inference"} | {
    "--only",
    "--table",
    "--variants",
    "--base",
    "--quick",
}
"""Options that pages name and that belong to accelerate, labelme, pip, YOLOX or a benchmark."""


def unknown_words(text: str) -> list[str]:
    """Return the commands and options in a page's code that Hardmine does not have."""
    code = re.findall(r"^```(?:sh|text)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in code for line in block.replace("\\\n", " ").splitlines()]
    lines += [found.replace("\n", " ") for found in re.findall(r"`([^`]+)`", prose)]
    return [word for line in lines for word in _unknown(line)]


def _unknown(line: str) -> Iterator[str]:
    line = re.sub(r"\"[^\"]*\"|'[^']*'", "", line.partition(" #")[0])
    start = re.search(r"(?:^|-m |--module )hardmine +(.*)", line)
    words = (start[1] if start else line).split()
    name = next((n for n in (" ".join(words[:2]), *words[:1]) if n in COMMANDS), "")
    if start and not name and re.match(r"[a-z]", words[0]):
        yield f"hardmine {words[0]}"
    named = [COMMANDS[name]] if name and (start or len(words) > 1) else COMMANDS.values()
    known = {option for command in named for param in command.params for option in param.opts}
    for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9_-]*", " ".join(words)):
        if option not in known | ALWAYS | OTHER_PROGRAMS:
            yield f"{name} {option}".strip()


def blocks(language: str) -> list[str]:
    """Return the README's code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def command_lines() -> Iterator[list[str]]:
    for block in blocks("sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["hardmine"]:
                yield words[1:]


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("words", list(command_lines()), ids=" ".join)
def test_commands_in_the_readme_exist_with_their_options(words: list[str]) -> None:
    command = get_command(app).commands[words[0]]
    if hasattr(command, "commands"):  # a group, such as priors
        command = command.commands[words[1]]
    known = {name for param in command.params for name in param.opts}
    assert {word for word in words if word.startswith("-")} <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_and_options_in_every_page_exist(page: Path) -> None:
    assert unknown_words(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("`hardmine mine C POOL --topp 3`", ["mine --topp"]),
        ("`mine C POOL --epochs 3`", ["mine --epochs"]),
        ("```sh\nhardmine minee C\n```", ["hardmine minee"]),
        ("```\ntorchrun -m hardmine train DATA \\\n  --bach 3\n```", ["train --bach"]),
        ("use `--topp`", ["--topp"]),
        ("`priors fit DATA --budget 3` and `--min-score`", []),
        ("```python\nx = '--no-such'\n```", []),
    ],
)
def test_unknown_commands_and_options_are_found(text: str, unknown: list[str]) -> None:
    assert unknown_words(text) == unknown


def test_calls_in_the_readme_fit_the_signatures() -> None:
    (block,) = blocks("python")
    called = set()
    for node in ast.walk(ast.parse(block)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        if node.func.id in hardmine.__all__:
            called.add(node.func.id)
            signature = inspect.signature(getattr(hardmine, node.func.id))
            signature.bind(*node.args, **{str(key.arg): key.value for key in node.keywords})
    assert {"load_dataset", "train", "load_detector", "mine", "evaluate", "run_loop"} <= called


def test_make_targets_in_the_pages_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    pages = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`make ([a-z]+)`", pages)) | set(
        re.findall(r"^make ([a-z]+)", README, re.MULTILINE)
    )
    assert {"demo", "test", "setup", "help", "docs"} <= named <= targets


def test_docs_build_and_no_link_is_broken(builder: ModuleType, tmp_path: Path) -> None:
    assert builder.main(tmp_path) == 0
    index = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'href="ARCHITECTURE.html"' in index
    assert "--retrain" in (tmp_path / "cli.html").read_text(encoding="utf-8")
    assert "hardmine.run_loop(" in (tmp_path / "api.html").read_text(encoding="utf-8")
    for page in tmp_path.rglob("*.html"):
        for link in re.findall(r'<a href="([^"#:]+)', page.read_text(encoding="utf-8")):
            assert link == "https" or (page.parent / link).exists(), f"{page.name}: {link}"


def test_a_broken_link_is_found(builder: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "README.md"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "[gone](docs/gone.md) [up](LICENSE)")
    _, broken = builder.render(page, ROOT / "build")
    assert broken == ["README.md: docs/gone.md"]


def test_a_link_to_a_heading_that_is_not_there_is_found(
    builder: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "ROOT", tmp_path)
    page = tmp_path / "README.md"
    page.write_text(
        "# What it reads\n## COCO & `YOLO`\n[a](#what-it-reads) [b](#coco--yolo) [c](#gone)"
    )
    assert builder.render(page, tmp_path / "build")[1] == ["README.md: #gone (no such heading)"]


def test_tables_are_made_from_the_rows(builder: ModuleType) -> None:
    assert builder.old_tables() == []
    shown = [
        found[1] for page in builder.pages() for found in builder.TABLE.finditer(page.read_text())
    ]
    assert sorted(shown) == sorted(builder.TABLES)
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    assert all(f"\n| `{kind}` | {kind.severity} | {kind.heading}." in page for kind in FindingKind)
    assert builder.with_tables(page.replace("| `box_nan` |", "| `gone` |")) == page


@pytest.mark.parametrize(
    ("text", "stale"),
    [
        ("see `data/images.py` and tests/data/test_images.py", []),
        ("see `data/pictures.py`", ["data/pictures.py: there is no such file"]),
        ("pytest tests/losses/test_gone.py", ["tests/losses/test_gone.py: there is no such file"]),
        ("`core/losses.py` of another project", []),
        ("`test_gone.py`", ["test_gone.py: there is no file of that name"]),
        ("`hardmine.data.images.read_image` and `hardmine.json`", []),
        (
            "`hardmine.data.images.gone`",
            ["hardmine.data.images.gone: hardmine.data.images has no gone"],
        ),
        ("hardmine.gone.images", ["hardmine.gone.images: hardmine has no gone"]),
        ("python -m benchmarks.loss", []),
        (
            "python -m benchmarks.gone",
            ["python -m benchmarks.gone: there is no benchmarks/gone.py"],
        ),
        ("as decision 4 says", []),
        ("Decision 99", ["decision 99: there is no docs/decisions/0099-*.md"]),
        ("Liu et al. 2016, section 2.2", []),
        ("as DESIGN, section 5 has it", ["'as DESIGN, section 5': a section of no named source"]),
        ("see § 3", ["'see § 3': a section of no named source"]),
    ],
)
def test_stale_citations_are_found(builder: ModuleType, text: str, stale: list[str]) -> None:
    assert builder.find_stale(text) == stale


def test_docstrings_and_comments_are_searched(builder: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text('"""One."""\nX = 1\n"""Two."""\nY = "no"  # three\ndef f():\n    """Four."""\n')
    assert sorted(builder.texts_of(path)) == [
        (1, "One."),
        (3, "Two."),
        (4, "# three"),
        (6, "Four."),
    ]


def test_commands_of_a_group_are_in_the_reference(builder: ModuleType) -> None:
    page = builder.command_reference()
    for name in ("priors show", "priors coverage", "priors fit", "inspect"):
        assert f"<h2>{name}</h2>" in page
        assert f"<pre>hardmine {name} " in page
    assert "--budget" in page


@pytest.mark.data
def test_coverage_is_drawn_for_the_real_sets(builder: ModuleType, tmp_path: Path) -> None:
    data = Path(os.environ.get("HARDMINE_DATA", "../shared/data"))
    if not (data / "raccoon").is_dir():
        pytest.skip(f"no real data at {data} (set HARDMINE_DATA)")
    builder.COVERAGE_SETS = {"raccoon": "raccoon"}
    titles = builder.coverage_pages(tmp_path, data)
    assert titles == {"coverage/raccoon/coverage.html": "Priors over raccoon"}
    assert sorted(path.name for path in (tmp_path / "coverage/raccoon").iterdir()) == [
        "coverage.html",
        "coverage.png",
        *(f"priors-{index}.png" for index in range(4)),
    ]

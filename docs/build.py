"""Render the Markdown pages, the command line and the public calls to HTML, and check what they cite.

    python docs/build.py build/docs

Tables in the pages that are made from rows in the code are written anew first. Fails (exit code 1)
when a link, or a file, test, module, decision or section that a page or a docstring cites, is not
there, so that texts stay true as files move.
"""

from __future__ import annotations

import argparse
import html
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from citations import find_stale, texts_of
from markdown_it import MarkdownIt
from markdown_it.token import Token
from typer.main import get_command

import hardmine
from hardmine.cli.main import app
from hardmine.data.formats.format_table import READ, WRITTEN
from hardmine.finding_kinds import IN_TRAINING, FindingKind
from hardmine.inference.graph.graph_config import PRESETS
from hardmine.mining.candidates_file import COLUMNS
from hardmine.mining.image_selection import Reason
from hardmine.mining.mine_options import RULES
from hardmine.workflows.framework_trainer import TRAINERS

ROOT = Path(__file__).resolve().parents[1]
COVERAGE_MODEL = "ssdlite320_mobilenet_v2"
COVERAGE_SETS = {"raccoon": "raccoon", "cards": "cards/train"}
"""Real sets whose coverage is drawn, and where they lie below HARDMINE_DATA."""
STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; max-width: 54rem; margin: 2rem auto; padding: 0 1rem;
       color: #1d2126; background: #fff; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; padding-bottom: 1rem;
      border-bottom: 1px solid #d5d9de; }
pre, code { font: 14px/1.45 ui-monospace, monospace; background: #f3f5f7; border-radius: 4px; }
pre { padding: .8rem 1rem; overflow-x: auto; }
code { padding: .1rem .25rem; } pre code { padding: 0; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top;
         border-bottom: 1px solid #e3e6ea; }
a { color: #0b5cad; } img { max-width: 100%; }
"""


TABLE = re.compile(r"<!-- table: ([\w -]+) -->\n(.*?)<!-- end of table -->", re.DOTALL)


def finding_table() -> str:
    """Return the kinds of findings as a Markdown table."""
    rows = ["| kind | | meaning | `--fix` |", "|---|---|---|---|"]
    rows += [
        f"| `{kind}` | {kind.severity} | {kind.heading}. {kind.help} | {kind.fix} |"
        for kind in FindingKind
    ]
    return "\n".join(rows) + "\n"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = "".join(f" {cell} |" if cell else " |" for cell in row)
        lines.append(f"|{cells}")
    return "\n".join(lines) + "\n"


def training_table() -> str:
    """Return what becomes of each kind of error in training and measuring."""
    groups: dict[str, list[str]] = {}
    for kind, done in IN_TRAINING.items():
        groups.setdefault(done, []).append(f"`{kind}`")
    rows = [(" ".join(kinds), done) for done, kinds in groups.items()]
    return markdown_table(("error", "`train`, `val` and `loop`"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "finding kinds": finding_table,
    "errors in training": training_table,
    "formats read": lambda: markdown_table(
        ("format", "recognised by", "written by `convert --to`"),
        ((row.words, row.recognised_by, f"`{row.name}`" if row in WRITTEN else "") for row in READ),
    ),
    "formats written": lambda: markdown_table(
        ("to", "format", "what is written", "how to import"),
        ((f"`{row.name}`", row.words, row.written, row.how_to_import) for row in WRITTEN),
    ),
    "candidate columns": lambda: markdown_table(
        ("column", "what it holds"), ((f"`{column.name}`", column.help) for column in COLUMNS)
    ),
    "ranking rules": lambda: markdown_table(
        ("`--rank`", "the hardest images have"),
        ((f"`{rule.name}`", rule.help) for rule in RULES.values()),
    ),
    "trainers": lambda: markdown_table(
        ("`--trainer`", "what stands for MODEL", "install"),
        ((f"`{row.name}:MODEL`", row.models, row.install) for row in TRAINERS.values()),
    ),
    "reasons": lambda: "".join(f"- {reason.value}\n" for reason in Reason),
    "graph presets": lambda: markdown_table(
        ("preset", "for", "output", "pixels", "NMS"),
        ((f"`{name}`", preset.docs_row) for name, preset in PRESETS.items()),
    ),
}
"""What stands between ``<!-- table: NAME -->`` and ``<!-- end of table -->`` in a page."""


def with_tables(text: str) -> str:
    """Return a page's text with its tables as the code has them now."""

    def table(found: re.Match[str]) -> str:
        return f"<!-- table: {found[1]} -->\n{TABLES[found[1]]()}<!-- end of table -->"

    return TABLE.sub(table, text)


def old_tables() -> list[Path]:
    """Return the pages with a table that is not as the code has it now."""
    return [p for p in pages() if with_tables(text := p.read_text(encoding="utf-8")) != text]


def write_tables() -> None:
    """Bring the tables of all pages up to date."""
    for page in old_tables():
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")


def pages() -> list[Path]:
    """Return the Markdown files that are rendered, the README first."""
    top = [
        ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
    ]
    return [*top, *sorted((ROOT / "docs").rglob("*.md"))]


def target_of(page: Path) -> str:
    """Return where a Markdown file goes: the same place, as HTML; the README is the index."""
    name = page.relative_to(ROOT).with_suffix(".html").as_posix()
    return "index.html" if name == "README.html" else name


def render(page: Path, out: Path) -> tuple[str, list[str]]:
    """Return a page's HTML and its links that lead nowhere."""
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    tokens = parser.parse(page.read_text(encoding="utf-8"))
    broken: list[str] = []
    for token in (inner for outer in tokens for inner in (outer.children or [])):
        attribute = {"link_open": "href", "image": "src"}.get(token.type)
        if attribute:
            _follow(token, attribute, page, out, broken)
    return str(parser.renderer.render(tokens, parser.options, {})), broken


def _follow(token: Token, attribute: str, page: Path, out: Path, broken: list[str]) -> None:
    link = str(token.attrGet(attribute) or "")
    path, _, anchor = link.partition("#")
    if re.match(r"[a-z]+:", path):
        return
    found = (page.parent / path).resolve() if path else page
    if not found.exists():
        broken.append(f"{page.relative_to(ROOT)}: {link}")
        return
    if anchor and found.suffix == ".md" and anchor not in anchors(found):
        broken.append(f"{page.relative_to(ROOT)}: {link} (no such heading)")
    if not path:
        return
    to = out.resolve() / target_of(found) if found in pages() else found
    here = (out.resolve() / target_of(page)).parent
    token.attrSet(attribute, os.path.relpath(to, here) + (f"#{anchor}" if anchor else ""))


def anchors(page: Path) -> set[str]:
    """Return what links may name behind ``#``: a page's headings in GitHub's spelling."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


def stale_citations() -> list[str]:
    """Return what pages, docstrings and comments cite and is not there, each with its place."""
    stale = [
        f"{page.relative_to(ROOT)}: {fault}"
        for page in pages()
        for fault in find_stale(page.read_text(encoding="utf-8"))
    ]
    for folder in ("src", "tests", "benchmarks", "docs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for line, text in texts_of(path):
                where = f"{path.relative_to(ROOT)}:{line}"
                stale += [f"{where}: {fault}" for fault in find_stale(text)]
    return stale


def command_reference() -> str:
    """Return the command line as HTML: each command, its arguments and its options."""
    group = get_command(app)
    parts = ["<h1>Command line</h1>", f"<p>{html.escape(str(group.epilog))}</p>"]
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        parts += _describe_command(name, command)
    return "\n".join(parts)


def _describe_command(name: str, command: Any) -> list[str]:
    """Return a command's heading, usage and options; of a group, those of each command in it."""
    parts = [f"<h2>{name}</h2><p>{html.escape(command.help or '')}</p>"]
    inner = getattr(command, "commands", None)
    if inner is not None:
        for word, part in inner.items():
            parts += _describe_command(f"{name} {word}", part)
        return parts
    context = command.make_context(name, [], resilient_parsing=True)
    usage = " ".join(command.collect_usage_pieces(context))
    parts.append(f"<pre>hardmine {name} {html.escape(usage)}</pre><table>")
    for param in command.get_params(context):
        record = param.get_help_record(context)
        if record:
            cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in record)
            parts.append(f"<tr>{cells}</tr>")
    return [*parts, "</table>"]


def call_reference() -> str:
    """Return the public calls and values as HTML: signature and docstring; of a class, its methods."""
    public = {
        name: getattr(hardmine, name) for name in sorted(set(hardmine.__all__) - {"__version__"})
    }
    calls = {name: thing for name, thing in public.items() if not inspect.isclass(thing)}
    values = {name: thing for name, thing in public.items() if inspect.isclass(thing)}
    parts = ["<h1>Python calls</h1>"]
    for name, function in calls.items():
        parts += _describe_call(f"hardmine.{name}", function)
    parts.append("<h1>Values</h1>")
    for name, cls in values.items():
        parts += _describe_call(f"hardmine.{name}", cls)
        for word, member in vars(cls).items():
            method = getattr(cls, word)
            if not word.startswith("_") and _is_method(method) and inspect.getdoc(member):
                parts += _describe_call(f"{name}.{word}", method, level=3)
    return "\n".join(parts)


def _is_method(member: Any) -> bool:
    return inspect.isfunction(member) or inspect.ismethod(member)


def _describe_call(name: str, thing: Any, level: int = 2) -> list[str]:
    title = name.removeprefix("hardmine.")
    parts = [f"<h{level}>{title}</h{level}>"]
    if not (inspect.isclass(thing) and issubclass(thing, Exception | Enum)):
        parts.append(f"<pre>{html.escape(f'{name}({_parameters(thing)})')}</pre>")
    return [*parts, f"<pre>{html.escape(inspect.getdoc(thing) or '')}</pre>"]


def _parameters(function: Callable[..., Any]) -> str:
    """Return a signature's parameters, one per line, with types as they are written in the source."""
    found = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    shown = [re.sub(r": '([^']*)'", r": \1", str(parameter)) for parameter in found]
    first_keyword = next((i for i, p in enumerate(found) if p.kind is p.KEYWORD_ONLY), None)
    if first_keyword is not None:
        shown.insert(first_keyword, "*")
    return "".join(f"\n    {parameter}," for parameter in shown) + ("\n" if shown else "")


def write(out: Path, target: str, body: str, titles: dict[str, str]) -> None:
    """Write one page with the list of all pages above it."""
    up = "../" * target.count("/")
    links = " ".join(f'<a href="{up}{to}">{html.escape(title)}</a>' for to, title in titles.items())
    title = html.escape(titles[target])
    path = out / target
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title} · hardmine</title>'
        f"<style>{STYLE}</style><nav>{links}</nav>\n{body}</html>\n",
        encoding="utf-8",
    )


def title_of(page: Path) -> str:
    """Return a page's first heading."""
    heading = re.search(r"^# (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return heading[1].replace("`", "") if heading else page.stem


def coverage_pages(out: Path, data: Path) -> dict[str, str]:
    """Write what the default model's priors cover of each set below ``data``, with pictures of them
    over its images; return the pages' places and titles.

    The pictures show the data, so they are made here and never committed.
    """
    from hardmine.data.data_options import CoverageOptions
    from hardmine.data.load_dataset import load_dataset
    from hardmine.prior_design.coverage import boxes_on_canvas, measure_coverage
    from hardmine.prior_design.coverage_report import write_coverage
    from hardmine.prior_design.prior_layout import layout_of_recipe
    from hardmine.recipes.named_recipes import named_recipe

    recipe = named_recipe(COVERAGE_MODEL)
    layout, titles = layout_of_recipe(recipe), {}
    for name, folder in COVERAGE_SETS.items():
        if not (data / folder).is_dir():
            continue
        dataset = load_dataset(data / folder)
        coverage = measure_coverage(
            boxes_on_canvas(dataset, recipe.resize), layout, recipe.loss.assigner.iou_threshold
        )
        place = f"coverage/{name}"
        write_coverage(
            out / place, dataset, recipe, layout, coverage, options=CoverageOptions(pictures=4)
        )
        titles[f"{place}/coverage.html"] = f"Priors over {name}"
    return titles


def main(out: Path, data: Path | None = None) -> int:
    """Render everything; return the exit code. ``data``: the folder of the real sets."""
    titles = {target_of(page): title_of(page) for page in pages()}
    titles |= {"cli.html": "Command line", "api.html": "Python calls"}
    titles |= coverage_pages(out, data) if data is not None else {}
    bodies = {"cli.html": command_reference(), "api.html": call_reference()}
    broken: list[str] = []
    for page in pages():
        bodies[target_of(page)], faults = render(page, out)
        broken += faults
    for target, body in bodies.items():
        write(out, target, body, titles)
    stale = stale_citations()
    broken += [f"{p.relative_to(ROOT)}: a table is not as the code has it" for p in old_tables()]
    for fault in broken:
        sys.stderr.write(f"broken in {fault}\n")
    for fault in stale:
        sys.stderr.write(f"cited and not there in {fault}\n")
    sys.stdout.write(f"{len(bodies)} pages in {out}, start at {out / 'index.html'}\n")
    return 1 if broken or stale else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Render the documentation as HTML.")
    parser.add_argument("out", type=Path, nargs="?", default=Path("build/docs"))
    given = parser.parse_args()
    write_tables()
    real = Path(os.environ.get("HARDMINE_DATA", "../shared/data"))
    sys.exit(main(given.out, real))

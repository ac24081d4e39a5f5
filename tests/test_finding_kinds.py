"""The rows of findings: whole, and the only kinds that a problem can have."""

from __future__ import annotations

import ast
import json
import pickle
from pathlib import Path

import pytest

import hardmine
from hardmine.finding_kinds import FindingKind, Severity
from hardmine.types import Problem

SOURCE = Path(hardmine.__file__).parent


@pytest.mark.parametrize("kind", FindingKind)
def test_every_row_says_all_of_it(kind: FindingKind) -> None:
    assert kind.name == kind.value.upper()
    assert isinstance(kind.severity, Severity)
    assert kind.heading[0].isupper()
    assert not kind.heading.endswith(".")
    assert kind.help.endswith((".", "?"))
    assert not kind.fix.endswith(".")


def test_headings_are_not_repeated() -> None:
    assert len({kind.heading for kind in FindingKind}) == len(FindingKind)


def test_a_problem_of_an_unknown_kind_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="'box_odd'"):
        Problem("box_odd", "a.xml", 0, "reason")  # type: ignore[arg-type]
    problem = Problem("box_nan", "a.xml", 0, "reason")  # type: ignore[arg-type]
    assert problem.kind is FindingKind.BOX_NAN
    assert problem.kind.severity is Severity.ERROR


def test_a_kind_survives_pickling_and_becomes_its_name_in_json() -> None:
    problem = Problem(FindingKind.CLASS_RARE, "train", -1, "reason")
    assert pickle.loads(pickle.dumps(problem)) == problem
    assert json.dumps([problem.kind]) == '["class_rare"]'


def test_every_row_is_noted_somewhere() -> None:
    """A kind that no check, reader or scan mentions is a row too many."""
    used = {
        node.attr
        for path in SOURCE.rglob("*.py")
        if path.name != "finding_kinds.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
    }
    assert {kind.name for kind in FindingKind} <= used

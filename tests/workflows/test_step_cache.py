from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hardmine.workflows.step_cache import Steps, fingerprint


class Work:
    """Counts how often it is done; can fail after its files are written."""

    def __init__(self, result: Any = 1, fail: bool = False) -> None:
        self.times, self.result, self.fail = 0, result, fail

    def __call__(self, folder: Path) -> Any:
        self.times += 1
        (folder / "file.txt").write_text("whole")
        if self.fail:
            raise KeyboardInterrupt
        return self.result


def test_equal_inputs_are_done_once_also_in_a_later_run(tmp_path: Path) -> None:
    work = Work({"b": [1, None, 0.1]})
    assert Steps(tmp_path).run("a/step", {"x": 1}, work) == {"b": [1, None, 0.1]}
    assert Steps(tmp_path).run("a/step", {"x": 1}, work) == {"b": [1, None, 0.1]}
    assert work.times == 1


def test_other_inputs_are_done_again(tmp_path: Path) -> None:
    work, steps = Work(), Steps(tmp_path)
    steps.run("a/step", {"x": 1}, work)
    steps.run("a/step", {"x": 2}, work)
    steps.run("a/other", {"x": 2}, work)
    assert work.times == 3


def test_an_interrupted_step_counts_as_not_done(tmp_path: Path) -> None:
    steps = Steps(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        steps.run("a/step", {}, Work(fail=True))
    again = Work(2)
    assert steps.run("a/step", {}, again) == 2
    assert again.times == 1


def test_a_missing_output_or_a_broken_stamp_is_made_anew(tmp_path: Path) -> None:
    work, steps = Work(), Steps(tmp_path)
    steps.run("a/step", {}, work, ["file.txt"])
    (tmp_path / "a" / "file.txt").unlink()
    steps.run("a/step", {}, work, ["file.txt"])
    assert work.times == 2
    (tmp_path / "a" / "step.step.json").write_text('{"fingerprint"')
    steps.run("a/step", {}, work)
    (tmp_path / "a" / "step.step.json").write_text("[]")
    steps.run("a/step", {}, work)
    assert work.times == 4


def test_outputs_may_be_named_by_the_result(tmp_path: Path) -> None:
    work, steps = Work(["file.txt"]), Steps(tmp_path)
    for _ in range(2):
        assert steps.run("a/step", {}, work, list) == ["file.txt"]
    assert work.times == 1
    (tmp_path / "a" / "file.txt").unlink()
    steps.run("a/step", {}, work, list)
    assert work.times == 2


def test_a_first_run_sees_the_same_values_as_a_resumed_one(tmp_path: Path) -> None:
    # JSON has no tuples and no integer keys: without reading back the two would differ.
    first = Steps(tmp_path).run("s", {}, lambda _: {1: (2, 3)})
    assert first == Steps(tmp_path).run("s", {}, lambda _: None) == {"1": [2, 3]}


def test_the_stamp_names_the_inputs(tmp_path: Path) -> None:
    Steps(tmp_path).run("a/step", {"x": 1}, Work())
    record = json.loads((tmp_path / "a" / "step.step.json").read_text())
    assert record["inputs"] == {"x": 1}
    assert record["fingerprint"] == fingerprint({"x": 1})


def test_who_watches_is_told_only_of_work_that_is_done(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    steps = Steps(tmp_path, lambda name, done, total: told.append((name, done, total)))
    steps.run("a/step", {}, Work(), label="round 1: train")
    steps.run("a/step", {}, Work(), label="round 1: train")
    assert told == [("round 1: train", 0, 1), ("round 1: train", 1, 1)]


def test_a_fingerprint_goes_by_values_not_by_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})
    assert fingerprint([1, 2]) != fingerprint([2, 1])
    with pytest.raises(ValueError, match="Out of range float"):
        fingerprint(float("nan"))

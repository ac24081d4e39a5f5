"""Options that describe themselves: built by name, nested, compared with their defaults, shown."""

from __future__ import annotations

import inspect
import json
import pydoc
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from hardmine.errors import ConfigError, did_you_mean, not_one_of
from hardmine.loop.loop_options import LoopOptions
from hardmine.mining.mine_options import MineOptions, RankOptions
from hardmine.option_fields import (
    build,
    changed_options,
    check_options,
    info_of,
    limits_text,
    option,
    option_names,
    takes_options,
)
from hardmine.workflows.train_options import EvaluateOptions, TrainOptions


@dataclass(frozen=True)
class Inner:
    rule: Literal["score", "sum"] = option("score", "Which rule ranks.")
    quota: int | None = option(None, "How many of a class.", minimum=1)

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class Outer:
    share: float = option(0.15, "A share.", above=0, maximum=1)
    rank: Inner = field(default_factory=Inner)
    names: tuple[str, ...] = option(("a",), "Some names.")
    where: Path | None = option(None, "A folder.")
    extra: dict[str, int] = option(dict, "A value made anew for each.")

    def __post_init__(self) -> None:
        check_options(self)


# Building.


def test_fields_and_nested_fields_are_built_by_name() -> None:
    built = build(Outer, {"share": 0.5, "rule": "sum"})
    assert built == Outer(share=0.5, rank=Inner("sum"))
    assert build(Outer, {}) == Outer()


def test_a_base_keeps_what_is_not_named() -> None:
    base = Outer(0.5, Inner("sum", 3), ("x", "y"))
    assert build(Outer, {"quota": 4}, base) == Outer(0.5, Inner("sum", 4), ("x", "y"))
    assert build(Outer, {}, base) is base


def test_a_whole_nested_value_is_the_base_of_its_fields() -> None:
    assert build(Outer, {"rank": Inner("sum", 3), "quota": 5}).rank == Inner("sum", 5)


def test_an_unknown_name_says_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Outer: no option 'rul'; did you mean 'rule'\?$"):
        build(Outer, {"rul": "sum"})
    with pytest.raises(ConfigError, match=r"no option 'zzz'$"):
        build(Outer, {"zzz": 1})


def test_names_are_those_of_all_levels() -> None:
    assert set(option_names(Outer)) == {
        "share", "rank", "rule", "quota", "names", "where", "extra"
    }  # fmt: skip


def test_one_name_on_two_levels_is_refused() -> None:
    @dataclass(frozen=True)
    class Twice:
        quota: int = option(1, "The outer one.")
        rank: Inner = field(default_factory=Inner)

    with pytest.raises(TypeError, match="Twice: two options are named quota"):
        build(Twice, {"quota": 2})


def test_defaults_made_by_a_class_are_not_shared() -> None:
    assert Outer().extra == {}
    assert Outer().extra is not Outer().extra


# Limits and choices.


@pytest.mark.parametrize("share", [0.001, 1.0])
def test_within_the_limits(share: float) -> None:
    assert Outer(share).share == share


@pytest.mark.parametrize("share", [0.0, -0.1, 1.001, float("nan")])
def test_outside_the_limits(share: float) -> None:
    with pytest.raises(ConfigError, match=f"share: got {share}, wanted above 0 and at most 1"):
        Outer(share)


def test_limits_are_inclusive_and_none_has_no_limits() -> None:
    assert Inner(quota=1).quota == 1
    assert Inner(quota=None).quota is None
    with pytest.raises(ConfigError, match="quota: got 0, wanted at least 1"):
        Inner(quota=0)


def test_a_value_that_is_no_choice_says_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"rule: got 'scor', wanted one of score, sum; did you mean 'score'\?"
    ):
        Inner("scor")  # type: ignore[arg-type]


def test_limits_in_words() -> None:
    info = info_of(Outer.__dataclass_fields__["share"])
    assert info is not None
    assert limits_text(info) == "above 0 and at most 1"
    assert info.help == "A share."


@pytest.mark.parametrize(
    ("got", "text"), [("epoch", "; did you mean 'epochs'?"), ("x", ""), (3, "")]
)
def test_did_you_mean(got: object, text: str) -> None:
    assert did_you_mean(got, ["epochs", "seed"]) == text


def test_not_one_of() -> None:
    assert not_one_of("to", "yol", iter(["coco", "yolo"])) == (
        "to: got 'yol', wanted one of coco, yolo; did you mean 'yolo'?"
    )


# What differs from the defaults.


def test_changed_options_are_plain_and_nested() -> None:
    value = Outer(0.5, Inner(quota=2), ("a", "b"), Path("x/y"))
    changed = changed_options(value)
    assert changed == {"share": 0.5, "rank": {"quota": 2}, "names": ["a", "b"], "where": "x/y"}
    assert json.loads(json.dumps(changed)) == changed


def test_defaults_have_no_changed_options() -> None:
    assert changed_options(Outer()) == {}
    assert changed_options(RankOptions()) == {}


def test_a_nested_value_of_another_class_names_itself_and_its_own_changes() -> None:
    """So that two classes whose fields all have their defaults still differ."""

    @dataclass(frozen=True)
    class Other:
        depth: int = 2
        file: Path = Path("f")

    @dataclass(frozen=True)
    class Holder:
        part: Any = None

    assert changed_options(Holder(Other())) == {"part": {"kind": "Other"}}
    changed = changed_options(Holder(Other(file=Path("g"))))
    assert changed == {"part": {"kind": "Other", "file": "g"}}


def test_a_field_without_a_default_always_counts() -> None:
    @dataclass(frozen=True)
    class Needs:
        name: str
        depth: int = 2

    assert changed_options(Needs("a")) == {"name": "a"}


# Functions that take the fields as keywords.


@takes_options(Outer)
def verb(pool: str, *, share: float = 0.3, options: Outer | None = None) -> tuple[float, Outer]:
    """Do something with a pool."""
    return share, options or Outer()


def test_keywords_become_the_options() -> None:
    assert verb("p", quota=3, names=("z",)) == (0.3, Outer(rank=Inner(quota=3), names=("z",)))
    assert verb("p", options=Outer(0.2), rule="sum") == (0.3, Outer(0.2, Inner("sum")))
    assert verb("p", rank=Inner("sum")) == (0.3, Outer(rank=Inner("sum")))
    assert verb("p", rank=None)[1] == Outer()
    assert verb("p") == (0.3, Outer())


def test_a_parameter_of_the_function_itself_stays_its_own() -> None:
    assert verb("p", share=0.9) == (0.9, Outer())


def test_an_unknown_keyword_says_the_nearest() -> None:
    with pytest.raises(TypeError, match=r"verb\(\) has no argument 'quote'; did you mean 'quota'?"):
        verb("p", quote=3)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'pool'"):
        verb(quota=3)


def test_help_shows_the_fields_as_keywords_with_their_defaults() -> None:
    signature = inspect.signature(verb)
    assert list(signature.parameters) == [
        "pool", "share", "options", "rule", "quota", "names", "where", "extra", "rank"
    ]  # fmt: skip
    quota = signature.parameters["quota"]
    assert (quota.kind, quota.default) == (inspect.Parameter.KEYWORD_ONLY, None)
    assert quota.annotation == "int | None"
    assert signature.parameters["names"].default == ("a",)
    assert signature.parameters["share"].default == 0.3  # the function's own
    assert signature.parameters["rank"].annotation == "Inner | None"
    shown = pydoc.plain(pydoc.render_doc(verb))
    assert "verb(" in shown
    assert "quota: 'int | None' = None" in shown
    assert "Do something with a pool." in shown
    assert signature.bind("p", rule="sum").arguments == {"pool": "p", "rule": "sum"}


def test_none_means_the_default_where_a_field_cannot_hold_it() -> None:
    assert verb("p", rule=None, names=None, quota=None)[1] == Outer()
    assert verb("p", options=Outer(rank=Inner("sum", 3)), rule=None, quota=None)[1] == Outer(
        rank=Inner("sum")
    )


@takes_options(Outer, renamed={"notify": "progress"})
def told(*, options: Outer | None = None, progress: int = 0) -> tuple[Outer | None, int]:
    return options, progress


def test_a_former_name_is_taken_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match=r"told\(\): notify is now called progress"):
        assert told(notify=4) == (None, 4)


# Values from a program.


@dataclass(frozen=True)
class Typed:
    number: int | None = option(None, "A number.", minimum=1)
    share: float = option(0.5, "A share.", maximum=1)
    flag: bool = option(False, "A choice.")
    text: str | None = option(None, "A text.")
    where: Path | None = option(None, "A folder.")
    names: tuple[str, ...] = option((), "Names.", parse=lambda text: text.split(","))
    data: tuple[Any, ...] = option((), "Data.")

    def __post_init__(self) -> None:
        check_options(self)


@pytest.mark.parametrize(
    ("field_name", "given", "kept"),
    [
        ("number", np.int64(3), 3),
        ("number", 3.0, 3),
        ("number", torch.tensor(3), 3),
        ("share", np.float32(0.25), 0.25),
        ("share", np.float64(0.25), 0.25),
        ("flag", np.bool_(True), True),
        ("text", 25, "25"),
        ("text", torch.device("cpu"), "cpu"),
        ("where", "runs/a", Path("runs/a")),
        ("names", "a,b", ("a", "b")),
        ("names", ["a", "b"], ("a", "b")),
        ("names", (name for name in "ab"), ("a", "b")),
        ("data", "pool", ("pool",)),
        ("data", Path("pool"), (Path("pool"),)),
    ],
)
def test_what_a_program_gives_takes_the_declared_form(
    field_name: str, given: Any, kept: Any
) -> None:
    got = getattr(Typed(**{field_name: given}), field_name)
    assert got == kept
    assert type(got) is type(kept)


@pytest.mark.parametrize(
    ("field_name", "given", "message"),
    [
        ("number", "3", "number: got '3', wanted a whole number"),
        ("number", 2.5, "number: got 2.5, wanted a whole number"),
        ("number", float("nan"), "number: got nan, wanted a whole number"),
        ("number", True, "number: got True, wanted a whole number"),
        ("number", np.int64(0), "number: got 0, wanted at least 1"),
        ("share", "0.3", "share: got '0.3', wanted a number"),
        ("share", np.float32(30), "share: got 30.0, wanted at most 1"),
        ("flag", "no", "flag: got 'no', wanted True or False"),
        ("text", ["a"], r"text: got \['a'\], wanted a text"),
    ],
)
def test_a_value_of_another_type_is_named(field_name: str, given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$"):
        Typed(**{field_name: given})


@pytest.mark.parametrize(
    ("cls", "keyword", "given", "kept"),
    [
        (MineOptions, "exclude", "held_out", ("held_out",)),
        (LoopOptions, "arms", "mined,none", ("mined", "none")),
        (LoopOptions, "arms", "mined", ("mined",)),
        (TrainOptions, "set", "epochs=2", ("epochs=2",)),
        (TrainOptions, "epochs", np.float32(2), 2.0),
        (EvaluateOptions, "classes", "names.txt", Path("names.txt")),
    ],
)
def test_options_of_verbs_take_single_values_and_numpy(
    cls: type, keyword: str, given: Any, kept: Any
) -> None:
    assert _flat(build(cls, {keyword: given}))[keyword] == kept


def test_limits_of_the_network_hold_in_a_call_too() -> None:
    with pytest.raises(ConfigError, match=r"^epochs: got 0, wanted above 0$"):
        build(TrainOptions, {"epochs": 0})


def _flat(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in fields(value):
        inner = getattr(value, item.name)
        found |= _flat(inner) if is_dataclass(inner) else {item.name: inner}
    return found

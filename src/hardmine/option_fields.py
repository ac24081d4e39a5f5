"""Options of a verb as one frozen dataclass whose fields describe themselves.

A field made by :func:`option` carries its help text, its limits and its place on the command line. The
library, the command line, recipes and run directories all read the same field, so that a new option is
one new field (and the code that uses it)::

    @dataclass(frozen=True)
    class MineOptions:
        top: int | None = option(None, "Hand out the N hardest images.", metavar="N", minimum=1)

A field may hold another options value (``rank: RankOptions``); its fields then count as fields of the
outer value, and their names must differ.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, asdict, dataclass, field, fields, is_dataclass, replace
from functools import wraps
from typing import Any, TypeVar, get_type_hints

from hardmine.errors import ConfigError

T = TypeVar("T")
R = TypeVar("R")
_KEY = "option"


@dataclass(frozen=True, slots=True)
class OptionInfo:
    """What a field says of itself.

    Attributes:
        help: one or two whole sentences.
        flags: names on the command line (``("--top",)``); made from the field's name when empty.
        metavar: what stands for the value in help texts.
        panel: the group of options that help texts show it in.
        minimum, maximum: limits of a number, inclusive.
        negated: the flag sets the field to False.
        parse: reads the text of the command line; the field's type reads it when not given.
        complete: values to offer, for shell completion and for "did you mean".
        on_command_line: whether the command line has it at all.
    """

    help: str
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    panel: str = "Options"
    minimum: float | None = None
    maximum: float | None = None
    negated: bool = False
    parse: Callable[[str], Any] | None = None
    complete: Callable[[], list[str]] | None = None
    on_command_line: bool = True


def option(default: Any, help: str, **info: Any) -> Any:
    """Return a dataclass field with that default, described by an :class:`OptionInfo`."""
    metadata = {_KEY: OptionInfo(help, **info)}
    if callable(default) and isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def info_of(described: Field[Any]) -> OptionInfo | None:
    """Return what a field says of itself, or ``None`` for a plain field."""
    found = described.metadata.get(_KEY)
    return found if isinstance(found, OptionInfo) else None


def nested_options(cls: type) -> dict[str, type]:
    """Return the fields of an options class that hold another options value, with its class."""
    hints = get_type_hints(cls)
    return {
        item.name: hints[item.name]
        for item in fields(cls)
        if isinstance(hints[item.name], type) and is_dataclass(hints[item.name])
    }


def option_names(cls: type) -> Iterator[str]:
    """Yield every name that :func:`build` accepts: the fields, and those of nested options."""
    for item in fields(cls):
        yield item.name
    for inner in nested_options(cls).values():
        yield from option_names(inner)


def build(cls: type[T], values: Mapping[str, Any], base: T | None = None) -> T:
    """Return ``base`` (the defaults when not given) with some fields changed.

    Args:
        values: by field name; fields of nested options may be named directly.

    Raises:
        ConfigError: a name that is no field; the nearest one is named.
    """
    known = list(option_names(cls))
    for name in values:
        if name not in known:
            raise ConfigError(f"{cls.__name__}: no option {name!r}{did_you_mean(name, known)}")
    own = {item.name for item in fields(cls)}  # type: ignore[arg-type]
    given = {name: value for name, value in values.items() if name in own}
    start = base if base is not None else cls()
    for name, inner in nested_options(cls).items():
        deeper = {k: v for k, v in values.items() if k not in own and k in option_names(inner)}
        if deeper:
            given[name] = build(inner, deeper, given.get(name, getattr(start, name)))
    return replace(start, **given) if given else start  # type: ignore[type-var]


def changed_options(value: Any) -> dict[str, Any]:
    """Return plain values of the fields that differ from their defaults.

    Identities (fingerprints of steps, ``model_id``) are made from these, so that a field that is added
    later changes none of them as long as nobody uses it.
    """
    default = type(value)()
    found: dict[str, Any] = {}
    for item in fields(value):
        mine, usual = getattr(value, item.name), getattr(default, item.name)
        if mine == usual:
            continue
        if is_dataclass(mine) and type(mine) is type(usual):
            found[item.name] = changed_options(mine)
        else:
            found[item.name] = asdict(mine) if is_dataclass(mine) else mine  # type: ignore[arg-type]
    return found


def did_you_mean(name: str, known: list[str]) -> str:
    """Return "; did you mean 'epochs'?" for the nearest known name, or nothing."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def takes_options(cls: type) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Let a function with a keyword ``options: cls | None`` also take each field as a keyword.

    ``mine(detector, pool, top=30)`` is ``mine(detector, pool, options=MineOptions(top=30))``. Fields
    given beside ``options`` change it. An unknown keyword raises ``TypeError`` naming the nearest one.
    """

    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        signature = inspect.signature(function)
        names = [name for name in option_names(cls) if name not in signature.parameters]

        @wraps(function)
        def call(*args: Any, **given: Any) -> R:
            values = {name: given.pop(name) for name in names if name in given}
            known = [*signature.parameters, *names]
            for name in given:
                if name not in signature.parameters:
                    raise TypeError(
                        f"{function.__name__}() has no argument {name!r}{did_you_mean(name, known)}"
                    )
            if values:
                given["options"] = build(cls, values, given.get("options"))
            return function(*args, **given)

        return call

    return decorate

"""Options of a verb as one frozen dataclass whose fields describe themselves.

A field made by :func:`option` carries its help text, its limits and its place on the command line. The
library, the command line, recipes and run directories all read the same field, so that a new option is
one new field (and the code that uses it)::

    @dataclass(frozen=True)
    class MineOptions:
        top: int | None = option(None, "Hand out the N hardest images.", metavar="N", minimum=1)

        def __post_init__(self) -> None:
            check_options(self)

A field may hold another options value (``rank: RankOptions``); its fields then count as fields of the
outer value, and their names must differ.
"""

from __future__ import annotations

import inspect
import os
import re
import types
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass, replace
from enum import Enum
from functools import cache, wraps
from os import PathLike
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from hardmine.errors import ConfigError, did_you_mean, not_one_of

T = TypeVar("T")
R = TypeVar("R")

Panel = Literal["Options", "Data", "Pool", "Loop", "Ranking", "Training", "Output", "Advanced"]
"""The groups of options in help texts, in the order in which they are shown.

"Options" is the group that comes first: the few that everybody needs. "Advanced" holds what few need.
"""
_KEY = "option"


@dataclass(frozen=True, slots=True)
class OptionInfo:
    """What a field says of itself.

    Attributes:
        help: one or two whole sentences.
        flags: names on the command line (``("--out", "-o")``); made from the field's name when empty.
        metavar: what stands for the value in help texts.
        panel: the group of options that help texts show it in.
        minimum, maximum: limits of a number, inclusive.
        above: limit of a number that the number itself may not reach.
        negated: the flag sets the field to False.
        path: the value names a file, a folder or either of them, and it must exist; or a file to write;
            or whatever may be a pool, as text.
        parse: reads the text of the command line; the field's type reads it when not given. It raises
            ``ConfigError`` for a text that it cannot read.
        complete: values to offer, for shell completion and for "did you mean".
        former: earlier keywords for the same choice; they are accepted with a ``DeprecationWarning``.
        on_command_line: whether the command line has it at all.
    """

    help: str
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    panel: Panel = "Options"
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    negated: bool = False
    path: Literal["file", "folder", "any", "new file", "pool"] | None = None
    parse: Callable[[str], Any] | None = None
    complete: Callable[[], list[str]] | None = None
    former: tuple[str, ...] = ()
    on_command_line: bool = True


def split_settings(text: str) -> tuple[str, tuple[str, ...]]:
    """Return a name and the settings that follow it: ``NAME+KEY=VALUE+KEY=VALUE``.

    The longest part that is the path of a file or folder is the name (``runs/base+lr=0.1``). A ``+``
    that no ``KEY=`` follows belongs to the name or to a value.
    """
    parts = re.split(r"\+(?=[\w.]+=)", text)
    for end in range(len(parts), 1, -1):
        name = "+".join(parts[:end])
        if os.path.exists(name):  # noqa: PTH110 (a name may be too long)
            return name, tuple(parts[end:])
    return parts[0], tuple(parts[1:])


def option(default: Any, help: str, **info: Any) -> Any:
    """Return a dataclass field with that default, described by an :class:`OptionInfo`."""
    metadata = {_KEY: OptionInfo(help, **info)}
    if isinstance(default, type):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def info_of(described: Field[Any]) -> OptionInfo | None:
    """Return what a field says of itself, or ``None`` for a plain field."""
    found = described.metadata.get(_KEY)
    return found if isinstance(found, OptionInfo) else None


def field_types(cls: type) -> dict[str, Any]:
    """Return the type of each field of an options class; not to be changed."""
    return _field_types(cls)


@cache
def _field_types(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {item.name: hints[item.name] for item in fields(cls)}


def nested_options(cls: type) -> dict[str, type]:
    """Return the fields of an options class that hold another options value, with its class."""
    return {
        name: hint
        for name, hint in field_types(cls).items()
        if isinstance(hint, type) and is_dataclass(hint)
    }


def option_fields(cls: type) -> Iterator[Field[Any]]:
    """Yield the fields of an options class, each nested options value replaced by its own fields."""
    nested = nested_options(cls)
    for item in fields(cls):
        if item.name in nested:
            yield from option_fields(nested[item.name])
        else:
            yield item


def option_names(cls: type) -> list[str]:
    """Return every name that :func:`build` accepts: the fields, and those of nested options.

    Raises:
        TypeError: two fields of one name; the class is wrong.
    """
    names = [item.name for item in option_fields(cls)] + list(_all_nested(cls))
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise TypeError(f"{cls.__name__}: two options are named {', '.join(sorted(twice))}")
    return names


def _all_nested(cls: type) -> Iterator[str]:
    for name, inner in nested_options(cls).items():
        yield name
        yield from _all_nested(inner)


def build(cls: type[T], values: Mapping[str, Any], base: T | None = None) -> T:
    """Return ``base`` (the defaults when not given) with some fields changed.

    Args:
        values: by field name; fields of nested options may be named directly.

    Raises:
        ConfigError: a name that is no field; the nearest one is named.
    """
    known = option_names(cls)
    for name in values:
        if name not in known:
            raise ConfigError(f"{cls.__name__}: no option {name!r}{did_you_mean(name, known)}")
    own = field_types(cls)
    given = {name: value for name, value in values.items() if name in own}
    start = base if base is not None else cls()
    for name, inner in nested_options(cls).items():
        accepted = option_names(inner)
        deeper = {key: value for key, value in values.items() if key in accepted}
        if deeper:
            given[name] = build(inner, deeper, given.get(name, getattr(start, name)))
    return replace(start, **given) if given else start  # type: ignore[type-var]


def check_options(value: Any) -> None:
    """Check the fields of an options value against the types, limits and choices that they declare.

    What a program gives in another form is turned into the declared one: numbers of numpy and torch,
    texts for paths, a list or a single value for a tuple.

    Raises:
        ConfigError: a value of another type, a number outside its limits, or a value that is none of a
            ``Literal``'s.
    """
    hints = field_types(type(value))
    for item in fields(value):
        given, info = getattr(value, item.name), info_of(item)
        if info is None or given is None:
            continue
        hint = without_none(hints[item.name])
        got = _as_declared(item.name, given, hint, info)
        if got is not given:
            object.__setattr__(value, item.name, got)
        choices = choices_of(hint)
        if choices and got not in choices:
            raise ConfigError(not_one_of(item.name, got, map(str, choices)))
        if isinstance(got, int | float) and not within_limits(got, info):
            raise ConfigError(f"{item.name}: got {got}, wanted {limits_text(info)}")


def _as_declared(name: str, given: Any, hint: Any, info: OptionInfo) -> Any:
    """Return a value in the form of its field's type; one of a type that is not known here as it is."""
    is_scalar = getattr(given, "shape", None) == () and hasattr(given, "item")
    got = given.item() if is_scalar else given  # a number of numpy, or of torch
    if get_origin(hint) is tuple:
        return _as_tuple(got, info)
    if hint is Path and isinstance(got, str):
        return Path(got)
    if hint is str and (isinstance(got, int | float | PathLike) or type(got).__name__ == "device"):
        return str(got)  # 25 for "25", and torch.device("cpu") for "cpu"
    if hint in _WANTED and not _fits(got, hint):
        raise ConfigError(f"{name}: got {given!r}, wanted {_WANTED[hint]}")
    return int(got) if hint is int else got


_WANTED: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "a text",
}
"""The types of fields that a value must have, in words."""


def _fits(got: Any, hint: type) -> bool:
    is_number = isinstance(got, int | float) and not isinstance(got, bool)
    if hint is int:
        return is_number and (isinstance(got, int) or got.is_integer())
    return is_number if hint is float else isinstance(got, hint)


def _as_tuple(got: Any, info: OptionInfo) -> tuple[Any, ...]:
    """Return what a list holds as a tuple; of a single value, such as a text, a tuple of it."""
    if isinstance(got, tuple):
        return got
    if isinstance(got, list | Set | Iterator):
        return tuple(got)
    if isinstance(got, str) and info.parse is not None:
        return tuple(info.parse(got))
    return (got,)


def within_limits(number: float, info: OptionInfo) -> bool:
    """True when a number is within the limits of its field, if it has any; NaN never is."""
    return (
        (info.minimum is None or number >= info.minimum)
        and (info.maximum is None or number <= info.maximum)
        and (info.above is None or number > info.above)
    )


def limits_text(info: OptionInfo) -> str:
    """Return the limits of a number in words, such as ``above 0 and at most 1``."""
    parts = [("above", info.above), ("at least", info.minimum), ("at most", info.maximum)]
    return " and ".join(f"{word} {limit:g}" for word, limit in parts if limit is not None)


def choices_of(hint: Any) -> tuple[Any, ...]:
    """Return the values of a ``Literal`` type, or of one that may also be ``None``; else nothing."""
    bare = without_none(hint)
    return get_args(bare) if get_origin(bare) is Literal else ()


def without_none(hint: Any) -> Any:
    """Return ``X`` for the type ``X | None``, any other type as it is."""
    if get_origin(hint) in (Union, types.UnionType):
        left = [each for each in get_args(hint) if each is not type(None)]
        return left[0] if len(left) == 1 else hint
    return hint


def changed_options(value: Any, usual: Any = None) -> dict[str, Any]:
    """Return the fields that differ from their defaults, as plain values that JSON can hold.

    Identities (fingerprints of steps, ``model_id``) are made from these, so that a field that is added
    later changes none of them as long as nobody uses it. A field that holds another dataclass than
    usual names its ``kind`` (or its class) and what differs from that class's defaults; a field without
    a default is always there.

    Args:
        usual: a value of the same class to compare with; the defaults when not given.
    """
    found: dict[str, Any] = {}
    for item in fields(value):
        mine = getattr(value, item.name)
        normal = _default_of(item) if usual is None else getattr(usual, item.name)
        if mine == normal:
            continue
        if not is_dataclass(mine) or isinstance(mine, type):
            found[item.name] = plain(mine)
        elif type(mine) is type(normal):
            found[item.name] = changed_options(mine, normal)
        else:
            kind = getattr(mine, "kind", type(mine).__name__)
            found[item.name] = {"kind": kind, **changed_options(mine)}
    return found


def _default_of(item: Field[Any]) -> Any:
    if item.default_factory is not MISSING:
        return item.default_factory()
    return item.default


def plain(value: Any) -> Any:
    """Return a value as JSON holds it: dataclasses as objects, tuples as lists, paths as text."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value


class Given(dict[str, Any], Generic[T]):
    """The fields of an options class that somebody named, with the values that were given.

    What was not named is not in it, so that a resumed run can distinguish "3 rounds" from "no word about
    rounds". ``**given`` hands it to a function that takes such options.
    """


Resumed = Callable[[Mapping[str, Any], Collection[str]], T | None]
"""``resumed(arguments, named)``: the options that an interrupted run began with, or ``None``.

``arguments`` are those of the call, ``named`` the options that the caller named.
"""


def takes_options(
    cls: type[T], resumed: Resumed[T] | None = None, renamed: Mapping[str, str] | None = None
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Let a function with a keyword ``options: cls | None`` also take each field as a keyword.

    ``mine(detector, pool, top=30)`` is ``mine(detector, pool, options=MineOptions(top=30))``. Fields
    given beside ``options`` change it; ``None`` for a field that cannot hold it means its default. An
    unknown keyword raises ``TypeError`` naming the nearest one. ``help()`` and editors show the fields
    as keyword-only parameters with their defaults.

    Args:
        resumed: gives the options of the run that a call goes on with; what the caller named, or what
            differs from the defaults in ``options``, is laid over them; ``None`` names nothing.
        renamed: former names of keywords that are no options, each with its present name; a call that
            uses a former name gives a ``DeprecationWarning``.
    """

    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        """Return the function that takes the fields as keywords."""
        plain_signature = inspect.signature(function)
        signature = _with_fields(plain_signature, cls)
        own = plain_signature.parameters
        never_none = set(_never_none(cls))
        former = {**former_names(cls), **(renamed or {})}

        @wraps(function)
        def call(*args: Any, **given: Any) -> R:
            """Call the function with an options value made from the keywords."""
            _rename(given, former, function.__name__)
            values: dict[str, Any] = {}
            for name in set(given) - set(own):
                if name not in signature.parameters:
                    near = did_you_mean(name, signature.parameters)
                    raise TypeError(f"{function.__name__}() has no argument {name!r}{near}")
                value = given.pop(name)
                if value is not None or name not in never_none:
                    values[name] = value
            base = given.get("options")
            if resumed is not None:
                bound = plain_signature.bind_partial(*args, **given)
                bound.apply_defaults()
                named = {name: value for name, value in values.items() if value is not None}
                named = {**_flat_changes(base), **named}
                before = resumed(bound.arguments, named.keys())
                base, values = (base, values) if before is None else (before, named)
            if values or base is not None:
                given["options"] = build(cls, values, base)
            return function(*args, **given)

        call.__signature__ = signature  # type: ignore[attr-defined]
        return call

    return decorate


def _never_none(cls: type) -> Iterator[str]:
    """Yield the names of the fields, nested ones included, whose type has no ``None``."""
    for name, hint in field_types(cls).items():
        if type(None) not in get_args(hint) and hint is not Any:
            yield name
    for inner in nested_options(cls).values():
        yield from _never_none(inner)


def former_names(cls: type) -> dict[str, str]:
    """Return each earlier keyword of an options class with the one that it has now."""
    found: dict[str, str] = {}
    for item in option_fields(cls):
        info = info_of(item)
        found |= dict.fromkeys(info.former if info else (), item.name)
    return found


def _rename(given: dict[str, Any], former: Mapping[str, str], function: str) -> None:
    for old in [name for name in given if name in former]:
        message = f"{function}(): {old} is now called {former[old]}"
        warnings.warn(message, DeprecationWarning, stacklevel=3)
        given[former[old]] = given.pop(old)


def _flat_changes(options: Any) -> dict[str, Any]:
    """Return the fields, nested ones beside the others, that differ from their defaults."""
    if options is None:
        return {}
    found: dict[str, Any] = {}
    nested = nested_options(type(options))
    for item in fields(options):
        mine = getattr(options, item.name)
        if item.name in nested:
            found |= _flat_changes(mine)
        elif mine != default_of(item):
            found[item.name] = mine
    return found


def _with_fields(signature: inspect.Signature, cls: type) -> inspect.Signature:
    """Return a signature with a keyword-only parameter for each option it does not name itself."""
    own = signature.parameters
    added = [
        _keyword(item.name, item.type, default_of(item))
        for item in option_fields(cls)
        if item.name not in own
    ]
    added += [
        _keyword(name, f"{inner.__name__} | None", None)
        for name, inner in nested_options(cls).items()
        if name not in own
    ]
    return signature.replace(parameters=[*own.values(), *added])


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def default_of(item: Field[Any]) -> Any:
    """Return the default of a field; ``inspect.Parameter.empty`` where it has none."""
    if item.default is not MISSING:
        return item.default
    return inspect.Parameter.empty if item.default_factory is MISSING else item.default_factory()


def images_option() -> Any:
    """Return the field ``images``, the same for every verb."""
    return option(
        None,
        "The folder with the images of a COCO file, if they are not beside it.",
        metavar="DIR",
        path="folder",
        panel="Data",
    )


def seed_option(panel: Panel = "Training") -> Any:
    """Return the field ``seed``, the same for every verb."""
    return option(
        0,
        "Seed of everything that is random: the same seed gives the same result.",
        metavar="N",
        minimum=0,
        panel=panel,
    )

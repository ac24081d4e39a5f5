"""Command-line flags made from options values (``option_fields``): no option is written twice."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

from hardmine.option_fields import OptionInfo, build, info_of, nested_options


def expand_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one flag for each described field, in place of a parameter of an options class.

    ``def mine(pool: Path, *, options: MineOptions)`` becomes a command with ``--top``, ``--fraction`` …;
    it is called with the finished value.
    """
    signature = inspect.signature(command, eval_str=True)
    classes = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if isinstance(parameter.annotation, type) and is_dataclass(parameter.annotation)
    }
    flags = {name: _flags(cls) for name, cls in classes.items()}
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        parameters += [flag.parameter() for flag in flags[name]] if name in flags else [parameter]

    @wraps(command)
    def run(**given: Any) -> None:
        for name, cls in classes.items():
            values = {flag.name: flag.value(given.pop(flag.name)) for flag in flags[name]}
            given[name] = build(cls, values)
        command(**given)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run


class _Flag:
    """One field as a parameter that typer understands."""

    def __init__(self, described: Field[Any], info: OptionInfo, hint: Any) -> None:
        self.name = described.name
        self._info = info
        self._hint = hint
        self._many = get_origin(_bare(hint)) is tuple and info.parse is None
        make = described.default_factory
        self._default = described.default if make is MISSING else make()

    def parameter(self) -> inspect.Parameter:
        info, hint, default = self._info, self._hint, self._default
        name = self.name.replace("_", "-")
        declared = info.flags or (f"--{name}",)
        extra: dict[str, Any] = {}
        if info.parse is not None:
            extra["parser"] = info.parse
            hint = str if default is not None else str | None
        if info.negated:
            default = False
        if self._many:
            hint, default = list[get_args(_bare(hint))[0]] | None, None  # type: ignore[misc]
        if info.complete is not None:
            extra["autocompletion"] = _completing(info.complete)
        option = typer.Option(
            *declared,
            help=info.help,
            metavar=info.metavar,
            min=info.minimum,
            max=info.maximum,
            rich_help_panel=info.panel,
            **extra,
        )
        return inspect.Parameter(
            self.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[hint, option],
        )

    def value(self, given: Any) -> Any:
        if self._info.negated:
            return not given
        if self._many:
            return tuple(given) if given is not None else self._default
        return given


def _flags(cls: type) -> list[_Flag]:
    hints = get_type_hints(cls)
    inner = nested_options(cls)
    found: list[_Flag] = []
    for item in fields(cls):
        info = info_of(item)
        if item.name in inner:
            found += _flags(inner[item.name])
        elif info is not None and info.on_command_line:
            found.append(_Flag(item, info, hints[item.name]))
    return found


def _bare(hint: Any) -> Any:
    """Return the type without ``None``."""
    if get_origin(hint) in (Union, types.UnionType):
        left = [each for each in get_args(hint) if each is not type(None)]
        return left[0] if len(left) == 1 else hint
    return hint


def _completing(values: Callable[[], list[str]]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [value for value in values() if value.startswith(incomplete)]

    return complete

"""Command-line flags made from options values (``option_fields``): no option is written twice.

:func:`expand_options` makes the flags, :class:`Command` shows them in groups, and the functions in
between complete their values in a shell.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable
from dataclasses import Field, fields, is_dataclass
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from hardmine.option_fields import (
    Given,
    OptionInfo,
    Panel,
    build,
    default_of,
    field_types,
    info_of,
    limits_text,
    nested_options,
    within_limits,
    without_none,
)

_CONTEXT = "_context"

PANELS: tuple[Panel, ...] = get_args(Panel)


# Words that shell completion offers. A shell asks at every press of the tab key, so nothing here
# imports torch.


def starting_with(words: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return what typer asks for the completions of a half-written word."""

    def complete(incomplete: str) -> list[str]:
        """Return the words that begin so."""
        return [word for word in words() if word.startswith(incomplete)]

    return complete


def recipe_names() -> list[str]:
    """Return the names of the named recipes: the public functions of their module without parameters.

    They are read from its source, since importing it would load torch, which takes seconds.
    """
    spec = find_spec("hardmine.recipes.named_recipes")
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and not node.name.startswith("_")
        and not node.args.args
    ]


def detector_words(incomplete: str) -> list[str]:
    """Return ``model.onnx:PRESET`` for each preset, once the colon has been written."""
    file, colon, begun = incomplete.partition(":")
    if not colon or Path(file).suffix not in (".onnx", ".xml", ".tflite"):
        return []
    from hardmine.inference.graph.graph_config import PRESETS

    return [f"{file}:{name}" for name in PRESETS if name.startswith(begun)]


def setting_words(incomplete: str) -> list[str]:
    """Return ``augment.preset=NAME`` for each preset of the augmentation."""
    key, equals, begun = incomplete.partition("=")
    if not equals:
        return [word for word in ("augment.preset=",) if word.startswith(incomplete)]
    if key != "augment.preset":
        return []
    from hardmine.augment.chain import AUGMENT_PRESETS

    return [f"{key}={name}" for name in AUGMENT_PRESETS if name.startswith(begun)]


def listed(words: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Complete the last name of a list with commas: ``mined,ra`` to ``mined,random``."""

    def complete(incomplete: str) -> list[str]:
        """Return the list with each word that may end it."""
        *before, begun = incomplete.split(",")
        return [
            ",".join([*before, word])
            for word in words()
            if word.startswith(begun) and word not in before
        ]

    return complete


_COMPLETIONS: dict[str, Callable[[str], list[str]]] = {
    "model": starting_with(recipe_names),
    "set": setting_words,
}
"""How a half-written value of these options is completed, without importing torch."""


class Command(TyperCommand):
    """A command whose help shows its options in groups, always in the order of :data:`PANELS`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the arguments, then the options group by group."""
        return _in_groups(super().get_params(ctx))


class Group(TyperGroup):
    """A command that holds others, with the same help."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options."""
        return _in_groups(super().get_params(ctx))


def _in_groups(params: list[Any]) -> list[Any]:
    for param in params:
        if isinstance(param, TyperOption) and param.is_flag:
            param.metavar = ""  # typer would show <bool> where no value is wanted
        elif isinstance(param, TyperArgument):
            param.display_type_rich = _no_type  # type: ignore[method-assign]
    return sorted(params, key=_place)


def _no_type(ctx: Any) -> None:
    """Show no type beside an argument: its name says what is wanted, <list[Path]> would not."""


def _place(param: Any) -> int:
    if not isinstance(param, TyperOption):
        return -1
    return PANELS.index(param.rich_help_panel or "Options")


def expand_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one flag for each described field, in place of a parameter of an options class.

    ``def mine(pool: Path, *, options: MineOptions)`` becomes a command with ``--top``, ``--fraction`` …;
    it is called with the finished value. ``options: Given[MineOptions]`` is called with the flags that
    stand on the command line and with no others.
    """
    signature = inspect.signature(command, eval_str=True)
    classes: dict[str, type] = {}
    partly = set()
    for name, parameter in signature.parameters.items():
        if get_origin(parameter.annotation) is Given:
            classes[name] = get_args(parameter.annotation)[0]
            partly.add(name)
        elif isinstance(parameter.annotation, type) and is_dataclass(parameter.annotation):
            classes[name] = parameter.annotation
    flags = {name: _flags(cls) for name, cls in classes.items()}
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        parameters += [flag.parameter() for flag in flags[name]] if name in flags else [parameter]
    parameters.append(
        inspect.Parameter(_CONTEXT, inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    )

    @wraps(command)
    def run(**given: Any) -> None:
        """Call the command with its options values, made from the flags."""
        context: typer.Context = given.pop(_CONTEXT)
        for name, cls in classes.items():
            taken = {flag.name: flag.value(given.pop(flag.name)) for flag in flags[name]}
            if name in partly:
                written = {n: value for n, value in taken.items() if _is_written(context, n)}
                given[name] = Given(written)
            else:
                given[name] = build(cls, taken)
        command(**given)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run


_MAX_PIXELS = typer.Option(
    "--max-pixels",
    metavar="N",
    min=1,
    help="Read pictures of up to N pixels; about 179 million if not given.",
    rich_help_panel="Advanced",
)
_WORKERS = typer.Option(
    "--workers",
    metavar="N",
    min=1,
    help="Use N threads to read and score images; a number that suits the machine if not given.",
    rich_help_panel="Advanced",
)


def reads_pictures(command: Callable[..., None], *, workers: bool = False) -> Callable[..., None]:
    """Give a command ``--max-pixels``, and with ``workers`` also ``--workers``.

    Both hold for the whole process: which pictures are read, and by how many threads.
    """
    signature = inspect.signature(command, eval_str=True)
    declared = {"max_pixels": _MAX_PIXELS} | ({"workers": _WORKERS} if workers else {})
    added = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[int | None, flag],
        )
        for name, flag in declared.items()
    ]

    @wraps(command)
    def run(*, max_pixels: int | None = None, workers: int | None = None, **given: Any) -> None:
        """Set what holds for the whole process, then call the command."""
        if max_pixels is not None:
            from hardmine.data.images import allow_pixels

            allow_pixels(max_pixels)
        if workers is not None:
            from hardmine.device import use_workers

            use_workers(workers)
        command(**given)

    parameters = [*signature.parameters.values(), *added]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run


def _is_written(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")


def pool_spec(text: str | None) -> str | None:
    """Return what names a pool; a path that does not exist is a usage error."""
    if text is None or "://" in text or any(mark in text for mark in "*?["):
        return text
    if Path(text.partition("#every=")[0]).exists():
        return text
    raise typer.BadParameter(f"path {text!r} does not exist")


def pool_specs(texts: list[str] | None) -> list[str]:
    """Check each by :func:`pool_spec`."""
    return [pool_spec(text) or "" for text in texts or ()]


class _Flag:
    """One field as a parameter that typer understands."""

    def __init__(self, described: Field[Any], info: OptionInfo, hint: Any) -> None:
        self.name = described.name
        self._info = info
        self._hint = hint
        self._many = get_origin(without_none(hint)) is tuple and info.parse is None
        self._default = default_of(described)

    def parameter(self) -> inspect.Parameter:
        """Return the field as a parameter of a command: its flags, type, limits and help."""
        info, hint, default = self._info, self._hint, self._default
        extra: dict[str, Any] = {}
        if info.parse is not None:
            extra["parser"] = info.parse
            hint = str if default is not None else str | None
            default = ",".join(map(str, default)) if isinstance(default, tuple) else default
        elif info.negated:
            default = False
        elif self._many:
            named = str if info.path == "pool" else Path
            each = named if info.path is not None else get_args(without_none(hint))[0]
            hint, default = list[each] | None, None  # type: ignore[valid-type]
        if info.path == "pool":
            extra["callback"] = pool_specs if self._many else pool_spec
            hint = hint if self._many else str | None
        elif info.path is not None:
            extra |= {"exists": info.path != "new file", "file_okay": info.path != "folder"}
            extra |= {"dir_okay": info.path in ("folder", "any")}
            hint = hint if self._many else Path | None
        if info.complete is not None:
            several = info.parse is not None and isinstance(self._default, tuple)
            extra["autocompletion"] = (listed if several else starting_with)(info.complete)
        elif self.name in _COMPLETIONS:
            extra["autocompletion"] = _COMPLETIONS[self.name]
        if info.above is not None:
            extra["callback"] = self._check_limits
        declared = typer.Option(
            *(info.flags or ("--" + self.name.replace("_", "-"),)),
            help=info.help,
            metavar=info.metavar,
            min=info.minimum,
            max=info.maximum if info.above is None else None,
            rich_help_panel=info.panel,
            **extra,
        )
        return inspect.Parameter(
            self.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[hint, declared],
        )

    def _check_limits(self, value: float | None) -> float | None:
        """Refuse what typer's own limits, which are inclusive, let through."""
        if value is not None and not within_limits(value, self._info):
            raise typer.BadParameter(f"{value} is not {limits_text(self._info)}")
        return value

    def value(self, given: Any) -> Any:
        """Return the value of the field for what typer read."""
        if self._info.negated:
            return not given
        if self._many:
            return tuple(given) if given is not None else self._default
        return given


def _flags(cls: type) -> list[_Flag]:
    found: list[_Flag] = []
    for item in fields(cls):
        if item.name in nested_options(cls):
            found += _flags(nested_options(cls)[item.name])
        elif (info := info_of(item)) is not None and info.on_command_line:
            found.append(_Flag(item, info, field_types(cls)[item.name]))
    return found

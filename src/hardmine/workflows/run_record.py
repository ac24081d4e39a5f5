"""What a run was asked for: written when it begins, read back when it is resumed."""

from __future__ import annotations

import glob
import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, get_args, get_type_hints

from hardmine.errors import ConfigError
from hardmine.files import file_stamp, write_bytes, write_json
from hardmine.option_fields import build, nested_options
from hardmine.types import Dataset
from hardmine.workflows.cached_models import RECIPE
from hardmine.workflows.train_options import NetworkOptions

if TYPE_CHECKING:
    from hardmine.recipes.recipe import Recipe

_IN_RECIPE = frozenset({"model", "epochs", "recipe", "set"})
"""Options that ``recipe.yaml`` holds the outcome of."""

_log = logging.getLogger(__name__)


class RunOptions(Protocol):
    """Options of a verb that trains."""

    @property
    def network(self) -> NetworkOptions:
        """Which network, and from which weights."""


T = TypeVar("T", bound=RunOptions)


@dataclass(frozen=True)
class RunRecord(Generic[T]):
    """The data that a run was given, by name of the argument, and its options."""

    inputs: Mapping[str, Any]
    options: T


def write_record(path: Path, inputs: Mapping[str, Any], options: Any) -> None:
    """Write what a run was asked for as JSON; paths become absolute.

    The recipe is not in it: ``recipe.yaml`` beside it holds the whole of it.
    """
    write_json(path, {**plain_options(options), "inputs": _plain_inputs(inputs)})


def read_record(path: Path, cls: type[T]) -> RunRecord[T] | None:
    """Return what ``write_record`` wrote; ``None`` when there is no such file.

    Raises:
        ConfigError: it cannot be read, or holds an option that is not known.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        inputs = values.pop("inputs", {})
        return RunRecord(inputs, _from_plain(cls, values))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError, ConfigError) as error:
        raise ConfigError(f"{path}: not a readable record of a run ({error})") from None


def resumed_options(path: Path, cls: type[T], named: Collection[str]) -> T | None:
    """Return the options that a run began with, for a call that names some of them anew.

    Its recipe is the one in ``recipe.yaml``, unless the call names a model or a recipe.
    """
    record = read_record(path, cls)
    if record is None:
        return None
    recipe = path.parent / RECIPE
    if {"model", "recipe", "network"} & set(named) or not recipe.is_file():
        return record.options
    network = replace(record.options.network, recipe=recipe)
    return build(cls, {"network": network}, record.options)


@contextmanager
def free_unless_begun(files: Sequence[Path], saved: Callable[[], Iterable[Path]]) -> Iterator[None]:
    """Put back what says which run a folder holds where a call fails before it has saved anything.

    The corrected command can then be given without ``--resume`` in a new folder; a folder that held a
    run before keeps the choices of that run, so that ``--resume`` alone goes on with them.

    Args:
        files: what is written when a run begins.
        saved: the files that a resumed run would go on from; one is new or written anew once the call
            has saved something.
    """
    were = {path: path.read_bytes() if path.exists() else None for path in files}
    before = {path: file_stamp(path) for path in saved()}
    try:
        yield
    except Exception:
        if {path: file_stamp(path) for path in saved()} == before:
            for path, content in were.items():
                _put_back(path, content)
        raise


def _put_back(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
    elif not path.exists() or path.read_bytes() != content:
        write_bytes(path, content)


def resumed_inputs(
    given: Mapping[str, Any],
    needed: Mapping[str, str],
    record: RunRecord[Any] | None,
    resumed: Path | None = None,
) -> dict[str, Any]:
    """Return the data of a run: what the call gives, else what the run began with.

    Args:
        needed: what must be there, with a description for the message.
        resumed: the folder of the run that is to go on; ``None`` for a new run.

    Raises:
        ConfigError: a needed one is not given; the run began with a dataset in memory, or with one
            whose files are no longer where they were.
    """
    known = {} if record is None else record.inputs
    found = {name: value if value is not None else known.get(name) for name, value in given.items()}
    for name, value in found.items():
        if isinstance(value, Mapping):
            raise ConfigError(f"{name}: the run began with a dataset in memory; give it again")
        if given[name] is None and resumed is not None and _is_gone(value):
            raise ConfigError(
                f"{name}: the run in {resumed} began with {value}, where nothing is now; put it back, "
                "or give its new place together with --resume"
            )
        if value is None and name in needed:
            if resumed is not None and record is None:
                raise ConfigError(
                    f"{resumed}: holds no run to resume; give its folder, or begin one with the "
                    "data and without --resume"
                )
            raise ConfigError(f"{name}: not given, wanted {needed[name]}")
    return found


def _is_gone(recorded: Any) -> bool:
    """True for the path of a record that names nothing; a glob is expanded later, a share is no path."""
    from hardmine.mining.sources.archives_and_videos import split_sampling

    if not isinstance(recorded, str) or "://" in recorded or glob.has_magic(recorded):
        return False
    return not Path(split_sampling(recorded)[0]).exists()


def note_changes(
    record: RunRecord[T] | None,
    inputs: Mapping[str, Any],
    options: T,
    recipe: Recipe,
    folder: Path,
    effect: str = "what depends on it is done again",
) -> list[str]:
    """Log what differs from how a run began; return one line for each such choice.

    Args:
        folder: that of the run, with its recipe.
        effect: what follows from such a choice.
    """
    if record is None:
        return []
    before = {**flat(plain_options(record.options)), **record.inputs}
    now = {**flat(plain_options(options)), **_plain_inputs(inputs)}
    lines = [
        f"{name} is {now[name]}, and was {before[name]} when the run began"
        for name in now
        if name in before and now[name] != before[name]
    ]
    lines += _recipe_changes(folder / RECIPE, recipe)
    for line in lines:
        _log.warning("--resume: %s; %s", line, effect)
    return lines


def _recipe_changes(path: Path, recipe: Recipe) -> list[str]:
    import yaml

    from hardmine.recipes.recipe import recipe_to_dict

    if not path.is_file():
        return []
    before = flat(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    now = flat(recipe_to_dict(recipe))
    return [
        f"{name} of the recipe is {value}, and was {before[name]} when the run began"
        for name, value in now.items()
        if name in before and before[name] != value
    ]


def plain_options(value: Any) -> dict[str, Any]:
    """Return options as JSON holds them, without what ``recipe.yaml`` holds."""
    found = {}
    for item in fields(value):
        mine = getattr(value, item.name)
        if item.name in _IN_RECIPE:
            continue
        found[item.name] = plain_options(mine) if is_dataclass(mine) else _plain(mine)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Path) or (isinstance(value, str) and Path(value).is_file()):
        return str(Path(value).resolve())
    return value


def _plain_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _plain_input(value) for name, value in inputs.items()}


def _plain_input(value: Any) -> Any:
    if isinstance(value, Dataset):
        return {"dataset": value.fingerprint}
    if value is None or isinstance(value, float) or "://" in str(value):
        return value
    return str(Path(value).resolve())


def _from_plain(cls: type[T], values: Mapping[str, Any]) -> T:
    """Return options from what JSON holds; fields that it lacks keep their defaults."""
    hints, inner = get_type_hints(cls), nested_options(cls)
    read: dict[str, Any] = {}
    for name, value in values.items():
        if name in inner and isinstance(value, Mapping):
            read[name] = _from_plain(inner[name], value)
        elif isinstance(value, list):
            read[name] = tuple(value)
        elif isinstance(value, str) and set(get_args(hints.get(name))) == {Path, type(None)}:
            read[name] = Path(value)
        else:
            read[name] = value
    return build(cls, read)


def flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested values by their paths, such as ``loss.selection.kind``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = value
    return found

"""A detector's weights for another class list: what is known of a class by name is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from hardmine.models.ssd import SSD


def transfer_classes(
    state: Mapping[str, Tensor], categories: Sequence[str], model: SSD
) -> dict[str, Tensor]:
    """Return a full state dict for ``model`` out of a detector's with other ``categories``.

    The last convolution of the class head has one filter per prior and class. Those of classes that
    both lists name are copied, and the background's; a new class keeps the model's own initial
    values. Everything else is copied as it is.

    Args:
        state: of the same architecture, under this package's names.
        categories: its classes, in the order of its filters, without background.

    Raises:
        ValueError: the filters are not a whole number of priors times classes.
    """
    own = model.state_dict()
    last = {f"class_head.{name}" for name in _last_layers(model)}
    background = int(model.config.score_form == "softmax")
    filled = dict(state)
    for name in last & filled.keys():
        filled[name] = _transfer(filled[name], categories, own[name], model.categories, background)
    return filled


def _last_layers(model: SSD) -> list[str]:
    """Return the names of the tensors with one row per prior and class."""
    names = [name for name, _ in model.class_head.named_parameters()]
    return [name for name in names if ".last." in f".{name}"]


def _transfer(
    old: Tensor,
    old_names: Sequence[str],
    initial: Tensor,
    new_names: Sequence[str],
    background: int,
) -> Tensor:
    """Return rows [K · new classes, …] from rows [K · old classes, …]."""
    old_width, new_width = len(old_names) + background, len(new_names) + background
    priors = len(initial) // new_width
    if len(old) != priors * old_width:
        raise ValueError(
            f"{len(old)} filters of the class head are not {priors} priors a cell times "
            f"{old_width} columns"
        )
    source = old.reshape(priors, old_width, *old.shape[1:])
    target = initial.detach().clone().reshape(priors, new_width, *initial.shape[1:])
    target[:, :background] = source[:, :background]
    place = {name: index for index, name in reversed(list(enumerate(old_names)))}
    for index, name in enumerate(new_names):
        if name in place:
            target[:, background + index] = source[:, background + place[name]]
    return target.reshape(initial.shape)

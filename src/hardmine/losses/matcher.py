"""The matcher: which prior is trained on which box.

Greedy bipartite matching first, then by threshold, as in Caffe's ``MatchBBox``: the largest remaining
IoU over all boxes and priors is matched again and again until every box has a prior of its own (of equal
ones the lower box, then the lower prior); then every other prior takes its best box if their IoU reaches
the threshold.

The greedy matching is there twice, with equal results:

* :func:`match_slots`, for accelerators: shapes fixed by the padding and no value read by the host. The
  whole table of IoU, one greedy step per slot.
* :func:`match_boxes`, for the CPU: slot by slot over only those images that fill the slot, so that
  the buffers stay in the cache. Then every box asks for its best prior, the better box keeps it, and
  those turned away ask again. Since boxes and priors rank their pairs by the same strict order, this
  ends in the one stable matching, which is the greedy one (Gale and Shapley 1962).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hardmine.boxes import box_area, box_iou, box_share, cxcywh_to_xyxy
from hardmine.errors import ConfigError
from hardmine.tensors import Assignment, Batch, Priors

LEAST_OVERLAP = 1e-6
"""A pair with no larger IoU is never matched."""

INSIDE = 0.5
"""Share of a background prior inside a box to be ignored from which the prior is ignored."""

_SLOT_BITS = 20

Found = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class AssignerConfig:
    """A prior is positive at IoU >= ``iou_threshold``, ignored from ``ignore_above`` up to it.

    With ``max_positives`` a box keeps so many positives, those of the highest IoU (of equal ones the
    lower prior); the others are ignored. So a class of large or frequent objects
    cannot take a level to itself that a small, rare class needs. ATSS (Zhang et al. 2020) bounds the
    candidates of a box in a similar way, by the distance of the centres.
    """

    iou_threshold: float = 0.5
    ignore_above: float | None = None
    max_positives: int | None = None

    def __post_init__(self) -> None:
        low = self.iou_threshold if self.ignore_above is None else self.ignore_above
        if not 0.0 < low <= self.iou_threshold <= 1.0:
            raise ConfigError(
                f"assigner: got iou_threshold {self.iou_threshold}, ignore_above "
                f"{self.ignore_above}, wanted 0 < ignore_above <= iou_threshold <= 1"
            )
        if self.max_positives is not None and self.max_positives < 1:
            raise ConfigError(
                f"assigner.max_positives: got {self.max_positives}, wanted >= 1, or null for no limit"
            )


@torch.no_grad()
def assign_priors(batch: Batch, priors: Priors, config: AssignerConfig) -> Assignment:
    """Give every prior of every image a class, background or "ignored".

    Two boxes with the same best prior both get one; a box that overlaps no prior gets none (never
    prior 0). A background prior of which at least ``INSIDE`` lies in an ``ignore`` box is ignored, as
    the evaluation does with detections: the small priors in a large crowd are not background.

    Args:
        batch: ``boxes`` [B, G, 4], ``labels`` [B, G] (0 pads), ``ignore`` [B, G].
        priors: [A].
        config: thresholds, inclusive.

    Returns:
        Assignment: labels [B, A], box_index [B, A], iou [B, A] with the best box (0 without boxes).
    """
    corners = cxcywh_to_xyxy(priors.cxcywh)
    real = (batch.labels > 0) & ~batch.ignore  # [B, G]
    found = match(batch.boxes, real, batch.ignore, corners)
    best, box_index, forced, ignorable = found  # [B, A] each
    taken = forced >= 0
    box_index = torch.where(taken, forced, box_index)
    positive = taken | (best >= config.iou_threshold)
    labels = batch.labels.gather(1, box_index) * positive
    ignored = ignorable >= INSIDE
    if config.ignore_above is not None:
        ignored = ignored | (best >= config.ignore_above)
    labels = labels.masked_fill(ignored & ~positive, -1)
    if config.max_positives is not None:
        # A box's greedy match is never among them: of what others left it, it has the highest IoU.
        beyond = beyond_limit(positive, box_index, best, config.max_positives)
        labels = labels.masked_fill(beyond, -1)
    return Assignment(labels, box_index, best)


def beyond_limit(positive: Tensor, box_index: Tensor, iou: Tensor, most: int) -> Tensor:
    """Return bool[B, A]: the positives that are not among the ``most`` highest IoU of their box.

    Args:
        positive (Tensor[B, A]): which priors are positive.
        box_index (Tensor[B, A]): the slot of each prior's box.
        iou (Tensor[B, A]): of equal ones the lower prior goes first.
        most: >= 1.
    """
    if positive.device.type == "cpu" and not torch.compiler.is_compiling():
        return beyond_limit_of_few(positive, box_index, iou, most)
    return beyond_limit_of_all(positive, box_index, iou, most)


def beyond_limit_of_few(positive: Tensor, box_index: Tensor, iou: Tensor, most: int) -> Tensor:
    """Sort the positives alone, which are few, all images at once (CPU); see :func:`beyond_limit`."""
    image = torch.arange(len(positive))[:, None].expand_as(positive)[positive]
    group = (image << _SLOT_BITS) + box_index[positive]
    beyond = torch.zeros_like(positive)
    beyond[positive] = _place_in_group(group[None], iou[positive][None])[0] >= most
    return beyond


def beyond_limit_of_all(positive: Tensor, box_index: Tensor, iou: Tensor, most: int) -> Tensor:
    """Sort all priors, with fixed shapes; see :func:`beyond_limit`."""
    group = box_index.masked_fill(~positive, 1 << _SLOT_BITS)  # behind all boxes
    return (_place_in_group(group, iou) >= most) & positive


def _place_in_group(group: Tensor, iou: Tensor) -> Tensor:
    """Return i64[B, N]: how many of the same group in its row come before each, by falling IoU."""
    order = iou.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, group.gather(1, order).argsort(dim=1, stable=True))
    group = group.gather(1, order)
    place = torch.arange(group.shape[1], device=group.device).expand_as(group)
    starts = torch.ones_like(group)
    starts[:, 1:] = group[:, 1:] != group[:, :-1]
    within = place - (place * starts).cummax(1).values
    return torch.empty_like(group).scatter_(1, order, within)


def match(boxes: Tensor, real: Tensor, ignore: Tensor, corners: Tensor) -> Found:
    """Return what each prior overlaps most and what the greedy matching gave it.

    Args:
        boxes (Tensor[B, G, 4]): xyxy, padded.
        real, ignore (Tensor[B, G]): which slots are objects, which are boxes to be ignored.
        corners (Tensor[A, 4]): the priors, xyxy.

    Returns:
        The highest IoU f32[B, A] with an object, the slot i64[B, A] of that box (0 where the IoU is
        0), the slot i64[B, A] that the greedy matching gave or −1, and the largest share f32[B, A] of
        the prior that lies in a box to be ignored.
    """
    if torch.compiler.is_compiling():
        best, slot, given, ignorable = _match_op(boxes, real, ignore, corners)
        return best, slot, given, ignorable
    return _match_eager(boxes, real, ignore, corners)


def _match_eager(boxes: Tensor, real: Tensor, ignore: Tensor, corners: Tensor) -> Found:
    if boxes.device.type == "cpu":
        return match_boxes(boxes, real, ignore, corners)
    return match_slots(boxes, real, ignore, corners)


@torch.library.custom_op("hardmine::match", mutates_args=())
def _match_op(
    boxes: Tensor, real: Tensor, ignore: Tensor, corners: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One node of a compiled graph, whatever the number of slots, so that none is unrolled."""
    return _match_eager(boxes, real, ignore, corners)


@_match_op.register_fake
def _(boxes: Tensor, real: Tensor, ignore: Tensor, corners: Tensor) -> Found:
    shape = (boxes.shape[0], corners.shape[0])
    slot = boxes.new_empty(shape, dtype=torch.int64)
    return boxes.new_empty(shape), slot, torch.empty_like(slot), boxes.new_empty(shape)


def match_slots(boxes: Tensor, real: Tensor, ignore: Tensor, corners: Tensor) -> Found:
    """Match with fixed shapes; see :func:`match`."""
    iou = box_iou(boxes, corners)  # [B, G, A]
    ignorable = (box_share(boxes, corners) * ignore[..., None]).amax(1)
    left = iou.masked_fill(~real[..., None], 0.0)
    best, slot = left.max(1)
    num_images, slots, num_priors = left.shape
    rows = torch.arange(num_images, device=left.device)
    given = torch.full_like(slot, -1)
    for _ in range(slots):
        top, flat = left.view(num_images, -1).max(1)  # [B]
        box, prior = flat // num_priors, flat % num_priors
        found = top > LEAST_OVERLAP
        given[rows, prior] = torch.where(found, box, given[rows, prior])
        # When nothing is left to match, what is erased here is too small to be matched.
        left[rows, box] = 0.0
        left[rows, :, prior] = 0.0
    return best, slot, given, ignorable


def match_boxes(boxes: Tensor, real: Tensor, ignore: Tensor, corners: Tensor) -> Found:
    """Match with shapes that follow the number of boxes (reads values; CPU); see :func:`match`."""
    (num_images, slots), num_priors = real.shape, len(corners)
    counts, images = real.sum(1).sort(descending=True, stable=True)
    order = (~real[images]).to(torch.int8).argsort(dim=1, stable=True)  # real slots first
    packed = boxes[images].gather(1, order[..., None].expand(-1, -1, 4))
    filled = (counts > torch.arange(slots)[:, None]).sum(1).tolist()  # images that fill a slot
    best = boxes.new_zeros(num_images, num_priors)
    place = torch.zeros_like(best)  # position of the best box, exact in a float
    tops, priors = boxes.new_zeros(slots, num_images), boxes.new_zeros(slots, num_images)
    table = _Table(corners, num_images)
    for position, n in enumerate(filled):
        if n == 0:
            break
        iou, spare = table.iou(packed[:n, position])
        torch.gt(iou, best[:n], out=spare).mul_(position)
        torch.maximum(place[:n], spare, out=place[:n])
        torch.maximum(best[:n], iou, out=best[:n])
        tops[position, :n], priors[position, :n] = table.top(iou, spare)
    given = _propose(packed, tops.T, priors.T.long(), table)
    slot = order.gather(1, place.long())
    slot = torch.where(best > 0, slot, 0)
    given = torch.where(given >= 0, order.gather(1, given.clamp(min=0)), -1)
    back = torch.empty_like(images).scatter_(0, images, torch.arange(num_images))
    return best[back], slot[back], given[back], _ignorable(boxes, ignore, corners)


def _ignorable(boxes: Tensor, ignore: Tensor, corners: Tensor) -> Tensor:
    image, slot = ignore.nonzero(as_tuple=True)
    best = boxes.new_zeros(len(boxes), len(corners))
    if len(image):
        share = box_share(boxes[image, slot], corners)
        best.scatter_reduce_(0, image[:, None].expand_as(share), share, "amax")
    return best


class _Table:
    """One box per image against all priors, in buffers that are used again for each slot."""

    def __init__(self, corners: Tensor, num_images: int) -> None:
        self._planes = corners.T.contiguous()  # [4, A]
        self._area = box_area(corners)
        self.num_priors = len(corners)
        self._last = len(corners) - 1
        self._backwards = torch.arange(self._last, -1, -1.0, dtype=corners.dtype)
        self._buffers = corners.new_empty(3, num_images, len(corners))

    def iou(self, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the IoU f32[n, A] of ``boxes`` (Tensor[n, 4]), as ``box_iou`` has it, and a spare."""
        width, height, spare = self._buffers[:, : len(boxes)]
        x0, y0, x1, y1 = self._planes
        low_x, low_y, high_x, high_y = boxes.T[..., None]
        torch.minimum(high_x, x1, out=width).sub_(torch.maximum(low_x, x0, out=spare))
        torch.minimum(high_y, y1, out=height).sub_(torch.maximum(low_y, y0, out=spare))
        inter = width.clamp_(min=0).mul_(height.clamp_(min=0))
        union = torch.add(box_area(boxes)[:, None], self._area, out=height)
        return inter.div_(union.sub_(inter).clamp_(min=1e-9)), spare

    def top(self, iou: Tensor, spare: Tensor) -> tuple[Tensor, Tensor]:
        """Return the largest value of each row and the first prior that has it (several times
        quicker than ``max`` with indices, which is not vectorised).
        """
        top = iou.amax(1)
        torch.eq(iou, top[:, None], out=spare).mul_(self._backwards)
        return top, self._last - spare.amax(1)


def _propose(packed: Tensor, tops: Tensor, priors: Tensor, table: _Table) -> Tensor:
    """Return the position i64[B, A] of the box that each prior is given, or −1."""
    num_images, slots = tops.shape
    num_priors = table.num_priors
    real = (tops > LEAST_OVERLAP).flatten().nonzero()[:, 0]
    image, position = real // slots, real % slots
    boxes, key = packed.flatten(0, 1)[real], image * num_priors + priors.flatten()[real]
    rank = _rank(tops.flatten()[real], position)
    held = torch.zeros(num_images * num_priors, dtype=torch.int64)
    asking = torch.arange(len(real))
    while len(asking):
        held.scatter_reduce_(0, key[asking], rank[asking], "amax")
        asking = ((held[key] != rank) & (rank > 0)).nonzero()[:, 0]
        rivals = (held >> _SLOT_BITS).to(torch.int32).view(torch.float32)  # IoU of the holder
        rivals, holder = rivals.view(num_images, -1), held.view(num_images, -1)
        for start in range(0, len(asking), num_images):
            some = asking[start : start + num_images]
            iou, spare = table.iou(boxes[some])
            # A prior is open to a box that overlaps it more than its holder does, or as much and has
            # the lower position. (Equal overlaps are rare: looked at in full only when there are any.)
            spare = torch.gt(iou, rivals[image[some]], out=spare)
            equal = (iou == rivals[image[some]]) & (iou > LEAST_OVERLAP)
            if equal.any():
                spare += equal & (_rank(iou, position[some, None]) > holder[image[some]])
            top, prior = table.top(iou.mul_(spare), spare)
            rank[some] = _rank(top, position[some]).masked_fill_(top <= LEAST_OVERLAP, 0)
            key[some] = image[some] * num_priors + prior.long()
    given = torch.full_like(held, -1)
    won = rank > 0
    given[key[won]] = position[won]
    return given.view(num_images, num_priors)


def _rank(iou: Tensor, position: Tensor) -> Tensor:
    """Return i64 that orders pairs: the larger IoU first, of equal ones the lower box."""
    bits = iou.to(torch.float32).view(torch.int32).long()  # order-preserving for values >= 0
    return (bits << _SLOT_BITS) + ((1 << _SLOT_BITS) - 1 - position)

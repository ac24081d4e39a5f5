"""Every selection rule against a slow loop written from its definition; counts and disjointness."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hardmine.boxes import box_iou
from hardmine.errors import ConfigError
from hardmine.losses.matcher import assign_priors
from hardmine.losses.multibox_loss import LossConfig, MultiBoxLoss
from hardmine.losses.negative_mining import (
    AllConfig,
    BandConfig,
    BatchRatioConfig,
    HardExamplesConfig,
    LevelQuotaConfig,
    MixedConfig,
    RandomConfig,
    RankedPriors,
    RatioConfig,
    SelectionConfig,
    SelectionRule,
    select_priors,
)
from hardmine.losses.prior_picking import pick_by_sorting, pick_by_value, pick_hardest, prior_noise
from hardmine.tensors import Selection
from loss_worlds import candidates_of, random_world


def test_golden() -> None:
    labels = torch.tensor([[1, 0, 0, -1, 0, 0], [0, 0, 0, 0, 0, 0]])
    hardness = torch.tensor([[9.0, 0.1, 0.5, 8.0, 0.3, 0.2], [0.1, 0.6, 0.2, 0.5, 0.4, 0.3]])
    picked = select_priors(candidates_of(labels, hardness), RatioConfig(floor=2))
    # Image 0: one positive asks for 3: hardness .5 .3 .2; never the positive (9) or the ignored (8).
    # Image 1: no positive, the floor asks for 2: .6 and .5.
    assert picked.negatives.nonzero().tolist() == [[0, 2], [0, 4], [0, 5], [1, 1], [1, 3]]
    assert picked.positives.nonzero().tolist() == [[0, 0]]


def hardest(score: list[float], among: list[int], count: int) -> list[int]:
    return sorted(among, key=lambda i: (-score[i], i))[: max(0, count)]


class Image:
    """One image's row, in plain numbers."""

    def __init__(self, view: RankedPriors, b: int) -> None:
        self.labels = view.assignment.labels[b].tolist()
        self.iou = view.assignment.iou[b].tolist()
        self.background = view.background[b].tolist()
        self.rank = view.rank[b].tolist()
        self.noise = view.noise()[b].tolist()
        self.level = view.level.tolist()
        self.boxes = None if view.boxes is None else view.boxes[b]
        self.neg = [i for i, label in enumerate(self.labels) if label == 0]
        self.pos = [i for i, label in enumerate(self.labels) if label > 0]

    def survivors(self, among: list[int], nms_iou: float | None, candidates: int) -> list[int]:
        if nms_iou is None or self.boxes is None:
            return among
        kept: list[int] = []
        for i in hardest(self.rank, among, candidates):
            iou = [float(box_iou(self.boxes[i][None], self.boxes[k][None])) for k in kept]
            if all(value <= nms_iou for value in iou):
                kept.append(i)
        return kept


def slow_negatives(image: Image, rule: SelectionConfig, view: RankedPriors) -> list[int]:
    """From each rule's definition, before the floor (the batch's rule is apart)."""
    assert not isinstance(rule, AllConfig | HardExamplesConfig | BatchRatioConfig)
    quota = math.floor(rule.neg_to_pos_ratio * len(image.pos))
    if isinstance(rule, RatioConfig):
        among = image.survivors(image.neg, rule.nms_iou, rule.nms_candidates)
        return hardest(image.rank, among, quota)
    if isinstance(rule, RandomConfig):
        return hardest(image.noise, image.neg, max(quota, rule.count))
    if isinstance(rule, BandConfig):
        among = [i for i in image.neg if rule.low <= image.iou[i] < rule.high]
        return hardest(image.rank, among, quota)
    if isinstance(rule, MixedConfig):
        done = min(1.0, view.step / view.steps / rule.ramp) if rule.ramp else 1.0
        share = rule.hard_start + (rule.hard_end - rule.hard_start) * done
        hard = hardest(image.rank, image.neg, math.floor(quota * share))
        rest = [i for i in image.neg if i not in hard]
        return hard + hardest(image.noise, rest, quota - len(hard))
    chosen: list[int] = []
    shares = rule.shares or (1.0,) * view.num_levels
    for level, share in enumerate(shares):
        here = [i for i in image.neg if image.level[i] == level]
        chosen += hardest(image.rank, here, math.floor(quota * share / sum(shares)))
    rest = [i for i in image.neg if i not in chosen]
    return chosen + hardest(image.rank, rest, quota - len(chosen))


def slow_select(view: RankedPriors, rule: SelectionConfig) -> list[tuple[set[int], set[int]]]:
    """Return (positives, negatives) of each image."""
    images = [Image(view, b) for b in range(len(view.image_ids))]
    if isinstance(rule, AllConfig):
        return [(set(image.pos), set(image.neg)) for image in images]
    out = []
    if isinstance(rule, BatchRatioConfig):
        quota = math.floor(rule.neg_to_pos_ratio * sum(len(image.pos) for image in images))
        pairs = [(b, i) for b, image in enumerate(images) for i in image.neg]
        pairs.sort(key=lambda p: (-images[p[0]].rank[p[1]], p))
        taken = pairs[: max(quota, rule.least)]
    for b, image in enumerate(images):
        positives = set(image.pos)
        if isinstance(rule, BatchRatioConfig):
            negatives = [i for owner, i in taken if owner == b]
        elif isinstance(rule, HardExamplesConfig):
            chosen = image.survivors(image.pos + image.neg, rule.nms_iou, rule.nms_candidates)
            chosen = hardest(image.rank, chosen, rule.count or len(chosen))
            positives &= set(chosen)
            negatives = [i for i in chosen if i in image.neg]
            if rule.neg_to_pos_ratio is not None:
                most = max(math.floor(rule.neg_to_pos_ratio * len(positives)), rule.floor)
                negatives = hardest(image.rank, negatives, most)
        else:
            negatives = slow_negatives(image, rule, view)
        rest = [i for i in image.neg if i not in negatives]
        negatives += hardest(image.background, rest, rule.floor - len(negatives))
        out.append((positives, set(negatives)))
    return out


RULES: list[SelectionConfig] = [
    AllConfig(),
    RandomConfig(neg_to_pos_ratio=1.0, floor=2),
    RandomConfig(neg_to_pos_ratio=0.0, count=4, floor=5),
    RatioConfig(neg_to_pos_ratio=2.5, floor=0),
    RatioConfig(neg_to_pos_ratio=1.0, floor=9, rank="class"),
    RatioConfig(neg_to_pos_ratio=1.0, floor=3, nms_iou=0.4, nms_candidates=5),
    HardExamplesConfig(count=4, nms_iou=None),
    HardExamplesConfig(count=5, nms_iou=0.3, nms_candidates=8, floor=2),
    HardExamplesConfig(count=0, nms_iou=0.5, neg_to_pos_ratio=1.5),
    HardExamplesConfig(count=6, nms_iou=None, neg_to_pos_ratio=1.0, floor=3),
    BatchRatioConfig(neg_to_pos_ratio=2.0, floor=0),
    BatchRatioConfig(neg_to_pos_ratio=1.0, floor=2, least=7),
    BandConfig(low=0.25, high=0.75, neg_to_pos_ratio=2.0, floor=2),
    BandConfig(low=0.0, high=0.5, floor=0),
    LevelQuotaConfig(neg_to_pos_ratio=2.0, floor=1),
    LevelQuotaConfig(neg_to_pos_ratio=3.0, shares=(3.0, 1.0, 0.0), floor=2),
    MixedConfig(neg_to_pos_ratio=2.0, floor=1, ramp=1.0),
    MixedConfig(neg_to_pos_ratio=2.0, floor=1, hard_start=0.5, hard_end=0.5, ramp=0.0),
]


def draw_view(seed: int) -> RankedPriors:
    """Draw labels and ranks with ties on purpose."""
    g = torch.Generator().manual_seed(seed)
    images, priors = (int(torch.randint(low, 15, (), generator=g)) for low in (1, 3))
    shape = (1 + images % 3, priors)

    def table(*values: float) -> Tensor:
        return torch.tensor(values)[torch.randint(len(values), shape, generator=g)]

    low = torch.stack([table(0.0, 4.0, 8.0) for _ in range(2)], -1)
    size = torch.stack([table(5.0, 9.0) for _ in range(2)], -1)
    view = candidates_of(
        table(-1.0, 0.0, 0.0, 0.0, 1.0, 2.0).long(),
        table(0.0, 0.25, 0.5, 1.0, 2.0),
        rank=table(0.0, 0.25, 0.5, 1.0, 2.0),
        iou=table(0.0, 0.125, 0.25, 0.5, 0.75),
        level=torch.arange(priors) * 3 // priors,
        boxes=torch.cat([low, low + size], -1),
    )
    return replace(view, num_levels=3, step=seed % 5, steps=4)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_equal_to_the_slow_loop(rule: SelectionConfig) -> None:
    for seed in range(25):
        view = draw_view(seed)
        picked = select_priors(view, rule)
        got = [
            (set(p.nonzero()[:, 0].tolist()), set(n.nonzero()[:, 0].tolist()))
            for p, n in zip(picked.positives, picked.negatives, strict=True)
        ]
        assert got == slow_select(view, rule)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(RULES), st.integers(0, 10**6))
def test_masks_are_disjoint_and_reach_the_floor(rule: SelectionConfig, seed: int) -> None:
    view = draw_view(seed)
    picked = select_priors(view, rule)
    labels = view.assignment.labels
    assert not (picked.negatives & picked.positives).any()
    assert not ((picked.negatives | picked.positives) & (labels < 0)).any()
    assert not (picked.positives & (labels == 0)).any()
    if not isinstance(rule, AllConfig):
        reachable = (labels == 0).sum(1).clamp(max=rule.floor)
        assert (picked.negatives.sum(1) >= reachable).all()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_both_ways_of_picking_agree(data: st.DataObject) -> None:
    """By the n-th value (CPU) and by a stable sort (accelerators), ties and empty rows included."""
    rows, columns = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 15))
    few = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0])
    cells = st.lists(few, min_size=rows * columns, max_size=rows * columns)
    score = torch.tensor(data.draw(cells)).view(rows, columns)
    wanted = torch.tensor(
        data.draw(st.lists(st.integers(0, columns), min_size=rows, max_size=rows))
    )
    by_value = pick_by_value(score, wanted)
    assert torch.equal(by_value, pick_by_sorting(score, wanted))
    assert by_value.sum(1).tolist() == wanted.tolist()


def test_no_more_than_there_are() -> None:
    score = torch.tensor([[3.0, 1.0, -torch.inf, torch.nan]])
    eligible = torch.tensor([[True, False, True, True]])
    assert pick_hardest(score, eligible, torch.tensor([9])).tolist() == [[True, False, True, True]]
    assert pick_hardest(score, eligible, torch.tensor([1])).tolist() == [
        [False, False, False, True]
    ]


def test_noise_is_uniform_and_belongs_to_image_step_and_seed() -> None:
    ids = torch.arange(64)
    noise = prior_noise(ids, 500, step=3, seed=1)
    assert torch.equal(noise[5:9], prior_noise(ids[5:9], 500, step=3, seed=1))
    histogram = torch.histc(noise, 10, 0.0, 1.0)
    # 3,200 a bin, deviation √(32000 · .1 · .9) = 54.
    assert (histogram - 3200).abs().max() < 5 * 54
    for other in (prior_noise(ids, 500, 4, 1), prior_noise(ids, 500, 3, 2), noise.roll(1, 0)):
        both = torch.corrcoef(torch.stack([noise.flatten(), other.flatten()]))
        assert abs(float(both[0, 1])) < 0.03  # 5 / √32000


def test_no_two_images_draw_alike_and_hardly_two_priors_do() -> None:
    """Of 32,000 draws of 2^24 values 32000² / 2^25 = 31 pairs are expected to be equal."""
    noise = prior_noise(torch.arange(64), 500, step=3, seed=1)
    assert len(noise.unique()) > 32000 - 31 - 5 * 6
    assert len(noise.unique(dim=0)) == 64
    many = prior_noise(torch.arange(2000), 4, step=7, seed=3)
    assert len(many.unique(dim=0)) == 2000


def test_random_takes_other_priors_in_each_step() -> None:
    labels = torch.zeros(1, 50, dtype=torch.int64)
    rule = RandomConfig(neg_to_pos_ratio=0.0, count=10, floor=0)
    masks = [
        select_priors(candidates_of(labels, torch.zeros(1, 50), step=s, steps=9), rule).negatives
        for s in (0, 1, 0)
    ]
    assert masks[0].sum() == 10
    assert torch.equal(masks[0], masks[2])
    assert not torch.equal(masks[0], masks[1])


def test_suppression_counts_one_false_alarm_once() -> None:
    """Two predictions on one stone: NMS leaves the harder, and the third place goes elsewhere."""
    labels = torch.tensor([[1, 0, 0, 0]])
    stone = [10.0, 10, 20, 20]
    boxes = torch.tensor([[[0.0, 0, 5, 5], stone, stone, [40.0, 40, 50, 50]]])
    hardness = torch.tensor([[0.0, 3.0, 2.0, 1.0]])
    view = candidates_of(labels, hardness, boxes=boxes)
    with_nms = RatioConfig(neg_to_pos_ratio=2.0, floor=0, nms_iou=0.5)
    assert select_priors(view, with_nms).negatives.tolist() == [[False, True, False, True]]
    without = replace(with_nms, nms_iou=None)
    assert select_priors(view, without).negatives.tolist() == [[False, True, True, False]]


def test_an_overlap_of_exactly_the_limit_stays() -> None:
    """10 x 10 inside 10 x 20: IoU 100 / 200 = .5."""
    labels, hardness = torch.tensor([[0, 0]]), torch.tensor([[2.0, 1.0]])
    boxes = torch.tensor([[[0.0, 0, 10, 20], [0, 0, 10, 10]]])
    for nms_iou, kept in ((0.5, 2), (0.49, 1)):
        rule = HardExamplesConfig(count=0, nms_iou=nms_iou)
        view = candidates_of(labels, hardness, boxes=boxes)
        assert int(select_priors(view, rule).negatives.sum()) == kept


def test_a_floor_without_a_ratio_works() -> None:
    """TF ignores ``min_negatives_per_image`` unless its ratio is above 0."""
    labels = torch.tensor([[2, 2, 0, 0, 0]])
    view = candidates_of(labels, torch.tensor([[9.0, 8.0, 3.0, 1.0, 2.0]]))
    rule = HardExamplesConfig(count=2, nms_iou=None, floor=2)
    picked = select_priors(view, rule)
    assert picked.positives.tolist() == [[True, True, False, False, False]]
    assert picked.negatives.tolist() == [[False, False, True, False, True]]


@pytest.mark.parametrize(
    ("rule", "taught"),
    [
        (RatioConfig(), 32),
        (RandomConfig(), 32),
        (BatchRatioConfig(), 32),
        (BandConfig(), 32),
        (LevelQuotaConfig(), 32),
        (MixedConfig(), 32),
        (HardExamplesConfig(nms_iou=None), 64),  # its count, of positives and negatives alike
        (AllConfig(), 100),
    ],
    ids=lambda value: getattr(value, "kind", value),
)
def test_an_image_without_objects_teaches_by_default(rule: SelectionConfig, taught: int) -> None:
    """The default floor of 32 is what docs/differences.md promises; elsewhere it would be nothing."""
    ranked = candidates_of(torch.zeros(2, 100, dtype=torch.int64), torch.rand(2, 100))
    picked = select_priors(ranked, rule)
    assert picked.negatives.sum(1).tolist() == [taught, taught]
    assert not picked.positives.any()


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_rule_says_itself_what_the_loss_and_the_normaliser_ask(rule: SelectionConfig) -> None:
    """Wrong answers would rank by another loss or divide by another number."""
    ratio = getattr(rule, "neg_to_pos_ratio", None)
    expected = {"all": None, "hard_examples": 3.0 if ratio is None else ratio}
    assert rule.negatives_per_positive == expected.get(rule.kind, ratio)
    assert rule.reads_step == (rule.kind in ("random", "mixed"))
    assert rule.ranks_matched_boxes_only == (rule.kind == "hard_examples")
    if not isinstance(rule, RatioConfig | HardExamplesConfig):
        assert (rule.rank, rule.nms_iou) == ("background", None)


def test_a_new_rule_is_one_class() -> None:
    """A rule by quantile, written here: selection, loss and normaliser take it as it is."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class QuantileConfig(SelectionRule):
        kind: str = "quantile"
        top: float = 0.25

        def select(self, ranked: RankedPriors) -> Selection:
            wanted = (ranked.negatives.sum(1) * self.top).long()
            hardest = pick_hardest(ranked.rank, ranked.negatives, wanted)
            return Selection(ranked.positives, hardest)

        @property
        def negatives_per_positive(self) -> float | None:
            return None

    config = LossConfig(selection=QuantileConfig())  # type: ignore[arg-type]
    priors, batch, output = random_world(0)
    loss = MultiBoxLoss(config, priors)(output, batch)
    negatives = (assign_priors(batch, priors, config.assigner).labels == 0).sum(1)
    assert int(loss.num_negatives) == int((negatives // 4).sum())
    assert bool(loss.total.isfinite())


def test_shapes_must_agree() -> None:
    labels = torch.zeros(1, 5, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"got shape \(1, 4\), wanted \(1, 5\)"):
        select_priors(candidates_of(labels, torch.rand(1, 4)), RatioConfig())
    whole = candidates_of(labels, torch.rand(1, 5))
    for name in ("background", "rank"):
        with pytest.raises(ValueError, match=rf"^{name}: got shape \(1, 4\), wanted \(1, 5\)$"):
            select_priors(replace(whole, **{name: torch.rand(1, 4)}), RatioConfig())


def test_level_shares_must_be_as_many_as_levels() -> None:
    _, _, output = random_world(0)
    labels = torch.zeros(output.class_logits.shape[:2], dtype=torch.int64)
    view = candidates_of(labels, torch.zeros(labels.shape))
    with pytest.raises(ConfigError, match=r"shares: got 2, wanted 1 \(levels\)"):
        select_priors(view, LevelQuotaConfig(shares=(1.0, 2.0)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RatioConfig(floor=-1), "floor -1, wanted both >= 0"),
        (lambda: RatioConfig(nms_iou=0.0), r"nms_iou: got 0\.0, wanted 0 < nms_iou <= 1"),
        (lambda: RatioConfig(nms_candidates=2000), r"got 2000, wanted 1\.\.1024"),
        (lambda: RandomConfig(count=-1), "count: got -1, wanted >= 0"),
        (lambda: HardExamplesConfig(count=300), r"count: got 300, wanted 0\.\.nms_candidates"),
        (
            lambda: HardExamplesConfig(count=0, nms_iou=None),
            "selects everything, wanted kind 'all'",
        ),
        (lambda: BandConfig(low=0.7, high=0.2), r"low 0\.7, high 0\.2, wanted 0 <= low < high"),
        (lambda: BatchRatioConfig(least=-1), "least: got -1"),
        (lambda: LevelQuotaConfig(shares=(0.0, 0.0)), "wanted values >= 0 that are not all 0"),
        (lambda: MixedConfig(ramp=2.0), r"ramp 2\.0, wanted 0\.\.1 each"),
    ],
)
def test_contradictory_settings_are_refused(
    make: Callable[[], SelectionConfig], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomConfig(count=0),
        lambda: BatchRatioConfig(least=0),
        lambda: BandConfig(low=0.0, high=1.0),
        lambda: LevelQuotaConfig(shares=(0.0, 0.25)),
        lambda: MixedConfig(hard_start=0.0, hard_end=1.0, ramp=1.0),
        lambda: RatioConfig(nms_iou=1.0, nms_candidates=1),
        lambda: RatioConfig(nms_iou=0.5, nms_candidates=1024),
        lambda: HardExamplesConfig(count=8, nms_candidates=8),
    ],
)
def test_limits_are_inclusive(make: Callable[[], SelectionConfig]) -> None:
    make()


@pytest.mark.parametrize(
    "make",
    [
        *(
            partial(rule, **bad)
            for rule in dict.fromkeys(map(type, RULES))
            if rule is not AllConfig
            for bad in ({"floor": -1}, {"neg_to_pos_ratio": -0.5})
        ),
        lambda: BandConfig(low=0.5, high=0.5),
        lambda: BandConfig(low=0.5, high=1.5),
        lambda: RatioConfig(nms_iou=1.5),
        lambda: HardExamplesConfig(nms_iou=1.5),
        lambda: HardExamplesConfig(count=9, nms_candidates=8),
    ],
)
def test_what_lies_just_beyond_the_limits_is_refused(make: Callable[[], SelectionConfig]) -> None:
    with pytest.raises(ConfigError):
        make()


def test_the_share_of_hard_negatives_rises_with_the_steps_of_the_ramp() -> None:
    rule = MixedConfig(hard_start=0.2, hard_end=1.0, ramp=0.5)
    # Half of 10 steps: .2 + .8 · step / 5, and 1 from step 5 on.
    assert [round(rule.hard_share(step, 10), 6) for step in (0, 1, 4, 5, 9)] == [
        0.2,
        0.36,
        0.84,
        1.0,
        1.0,
    ]
    assert rule.hard_share(1, 1) == 1.0
    assert MixedConfig(hard_start=0.2, hard_end=0.7, ramp=0.0).hard_share(0, 10) == 0.7

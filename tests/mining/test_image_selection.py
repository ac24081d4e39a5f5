"""Ranking rules, quotas, groups, repeats and variety, each against a slow reading of its words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from hardmine.data.splits.near_duplicates import group_duplicates
from hardmine.detections import Detections
from hardmine.errors import ConfigError
from hardmine.mining.image_selection import (
    DIVERSE_TIMES,
    AlarmPlaces,
    ImageSelector,
    RankingWalk,
    Reason,
    Rejection,
    Selected,
    k_center,
    select_random,
)
from hardmine.mining.mine_options import RULES, MineOptions, RankOptions, class_margin
from hardmine.mining.pool_store import PoolStore
from hardmine.mining.ranking import RankedImage, rank_images, shortlist_size, take_shortlist
from hardmine.mining.scan import ScannedPool, ScanSummary
from hardmine.mining.sources.pool_source import DatasetSource
from hardmine.types import Dataset, ImageRecord, ImageState, PoolScore, Problem

Alarm = tuple[float, int, tuple[float, float, float, float]]
BOX = (10.0, 10.0, 30.0, 30.0)


def detections(alarms: list[Alarm]) -> Detections:
    rows = sorted(alarms, key=lambda a: -a[0])
    return Detections(
        np.array([b for _, _, b in rows], np.float32).reshape(-1, 4),
        np.array([s for s, _, _ in rows], np.float32),
        np.array([c for _, c, _ in rows], np.int64),
    )


def entry(image: str, alarms: list[Alarm], name: str = "") -> RankedImage:
    found = detections(alarms)
    top = (float(found.scores[0]), int(found.labels[0])) if alarms else (0.0, 0)
    score = PoolScore(image, top[0], top[1], len(alarms), 0, 0, "m")
    return RankedImage(score, name or image, found)


def simple(image: str, score: float, label: int = 1, name: str = "") -> RankedImage:
    return entry(image, [(score, label, BOX)], name)


def choose(entries: list[RankedImage], count: int | None = None, **more: object) -> Selected:
    barred = more.pop("barred", {})
    before = more.pop("before", {})
    groups = more.pop("groups", None) or {e.image: i for i, e in enumerate(entries)}
    features = more.pop("features", None)
    options = RankOptions(**more)  # type: ignore[arg-type]
    walk = RankingWalk(entries, options, count, groups, barred, before, features)  # type: ignore[arg-type]
    return walk.select()


# The rules.


def test_the_rules_by_hand() -> None:
    far = (60.0, 60.0, 90.0, 90.0)
    one = detections([(0.6, 1, BOX), (0.3, 2, BOX), (0.45, 1, far)])
    assert RULES["score"].hardness(one, RankOptions(threshold=0.5)) == pytest.approx(0.6)
    assert RULES["alarms"].hardness(one, RankOptions(threshold=0.5)) == 3
    assert RULES["sum"].hardness(one, RankOptions(threshold=0.5)) == pytest.approx(1.35)
    # At the best box .6 and .3 leave .1 for background: .6 - .3.
    assert class_margin(one) == pytest.approx(0.3)
    # .45 lies .05 from .5, nearer than .6.
    assert RULES["uncertainty"].hardness(one, RankOptions(threshold=0.5)) == pytest.approx(-0.05)
    # .6 is log 1.5 above .5 in logits, .3 log (3/7 x 9) above .1.
    each = RankOptions(rule="class", class_scores=(0.5, 0.1))
    assert RULES["class"].hardness(one, each) == pytest.approx(math.log(27 / 7))
    alone = detections([(0.6, 1, BOX)])
    assert RULES["class"].hardness(alone, each) == pytest.approx(math.log(1.5))
    # Scores and thresholds of 0 and 1 stay finite, and in order.
    sure = detections([(1.0, 1, BOX), (1.0, 2, BOX)])
    assert RULES["class"].hardness(sure, replace(each, class_scores=(1.0, 0.0))) > 40
    assert RULES["class"].hardness(sure, replace(each, class_scores=(1.0, 1.0))) == 0


def test_the_margin_of_one_class_is_to_background() -> None:
    assert class_margin(detections([(0.55, 1, BOX)])) == pytest.approx(0.1)  # .55 - .45
    assert class_margin(detections([(0.2, 1, BOX)])) == pytest.approx(0.6)  # .8 - .2
    # Sigmoid scores may add up to more than 1: background has nothing left.
    assert class_margin(detections([(0.9, 1, BOX), (0.8, 2, BOX)])) == pytest.approx(0.1)


def test_a_box_without_area_has_a_margin() -> None:
    flat = (10.0, 20.0, 10.0, 50.0)
    assert class_margin(detections([(0.2, 1, flat), (0.1, 2, BOX)])) == pytest.approx(0.6)


THRESHOLDS = (0.9, 0.25, 0.5)
"""Of three classes, for the rule that compares with them."""


def slow_key(rule: str, alarms: list[Alarm], threshold: float) -> float:
    """The larger, the harder; alarms as written, in any order."""
    scores = [np.float32(s).item() for s, _, _ in alarms]
    if rule == "score":
        return max(scores)
    if rule == "alarms":
        return len(scores)
    if rule == "sum":
        return sum(sorted(scores, reverse=True))
    if rule == "uncertainty":
        return -min(abs(s - threshold) for s in scores)
    if rule == "class":
        odds = [min(s, 1 - 1e-9) / (1 - min(s, 1 - 1e-9)) for s in scores]
        limits = [THRESHOLDS[label - 1] for _, label, _ in alarms]
        return max(math.log(o * (1 - t) / t) for o, t in zip(odds, limits, strict=True))
    top = max(scores)
    best: dict[int, float] = {}
    for (_, label, _), score in zip(alarms, scores, strict=True):  # all boxes are in one place
        best[label] = max(best.get(label, 0), score)
    likeliest = sorted([*best.values(), max(0.0, 1 - sum(best.values()))], reverse=True)
    assert top in likeliest
    return likeliest[1] - likeliest[0]


alarm_lists = st.lists(
    st.tuples(st.floats(0.0625, 1, width=32), st.integers(1, 3), st.just(BOX)), max_size=4
)
pools = st.lists(st.tuples(alarm_lists, st.integers(0, 3), st.integers(0, 2)), max_size=10)


@given(pools, st.sampled_from(sorted(RULES)), st.sampled_from([0.2, 0.5]))
def test_the_order_is_that_of_a_slow_sort(
    rows: list[tuple[list[Alarm], int, int]], rule: str, threshold: float
) -> None:
    entries = [entry(f"{i:02}", alarms) for i, (alarms, _, _) in enumerate(rows)]
    options = RankOptions(rule=rule, threshold=threshold, class_scores=THRESHOLDS)
    got = [e.image for e in rank_images(entries, options)]
    keys = {
        f"{i:02}": (slow_key(rule, alarms, threshold), max(s for s, _, _ in alarms))
        for i, (alarms, _, _) in enumerate(rows)
        if alarms
    }
    assert set(got) == set(keys)
    for a, b in pairwise(got):
        assert keys[a][0] >= keys[b][0] - 1e-6
        if abs(keys[a][0] - keys[b][0]) < 1e-9 and abs(keys[a][1] - keys[b][1]) < 1e-9:
            assert a < b


@settings(max_examples=150)
@given(
    pools,
    st.one_of(st.none(), st.integers(0, 6)),
    st.one_of(st.none(), st.integers(1, 2)),
    st.one_of(st.none(), st.integers(1, 2)),
    st.booleans(),
    st.sets(st.integers(0, 9)),
)
def test_the_choice_is_that_of_a_slow_reading_of_the_rules(
    rows: list[tuple[list[Alarm], int, int]],
    count: int | None,
    quota_class: int | None,
    quota_group: int | None,
    per_class: bool,
    barred: set[int],
) -> None:
    entries = [
        entry(f"{i:02}", alarms, f"cam{camera}/{i:02}.jpg")
        for i, (alarms, _, camera) in enumerate(rows)
    ]
    duplicate = {f"{i:02}": group for i, (_, group, _) in enumerate(rows)}
    camera_of = {f"{i:02}": f"cam{camera}" for i, (_, _, camera) in enumerate(rows)}
    gone = {f"{i:02}" for i in barred}
    got = choose(
        entries,
        count,
        groups=duplicate,
        barred=dict.fromkeys(gone, Rejection(Reason.DECIDED, "gone")),
        per_class=per_class,
        quota_class=quota_class,
        quota_group=quota_group,
        group="folder",
        repeats=False,
    )
    options = RankOptions()
    labels = sorted({int(c) for e in entries for c in e.alarms.labels}) if per_class else [None]
    lists = {label: rank_images(entries, options, label) for label in labels}
    taken: list[str] = []
    classes: Counter[int] = Counter()
    cameras: Counter[str] = Counter()
    while any(lists.values()):
        for label in labels:  # each class in turn takes its next image that may be taken
            while lists[label]:
                one = lists[label].pop(0)
                image, kind = one.image, label or int(one.alarms.labels[0])
                fits = (
                    image not in gone
                    and image not in taken
                    and all(duplicate[image] != duplicate[other] for other in taken)
                    and (count is None or len(taken) < count)
                    and (quota_class is None or classes[kind] < quota_class)
                    and (quota_group is None or cameras[camera_of[image]] < quota_group)
                )
                if fits:
                    taken.append(image)
                    classes[kind] += 1
                    cameras[camera_of[image]] += 1
                    break
    assert list(got.images) == taken
    firing = {e.image for e in entries}
    assert set(got.rejections) | set(got.images) == firing
    assert not set(got.rejections) & set(got.images)


# What is left out, and why.


def test_trap_13_nothing_without_detection_nothing_twice_no_duplicates_no_leaks() -> None:
    entries = [simple(name, 0.9 - i / 10) for i, name in enumerate("abcdef")]
    entries.append(entry("silent", []))
    got = choose(
        entries,
        groups={"a": 0, "b": 0, "c": 2, "d": 3, "e": 4, "f": 5, "silent": 6},
        barred={
            "c": Rejection(Reason.HANDED_OUT_BEFORE, "handed out before (model x)"),
            "e": Rejection(Reason.LEAK, "leak: repeats val.jpg"),
        },
        before={3: "earlier"},
    )
    assert got.images == ("a", "f")
    assert got.similar["a"] == ("b",)
    assert got.num_represented == 2
    assert {image: str(rejection) for image, rejection in got.rejections.items()} == {
        "b": "near-duplicate of a",
        "c": "handed out before (model x)",
        "d": "near-duplicate of earlier",
        "e": "leak: repeats val.jpg",
        "silent": "no detection counts as an alarm",
    }
    assert got.reasons == {
        Reason.NEAR_DUPLICATE: 2,
        Reason.HANDED_OUT_BEFORE: 1,
        Reason.LEAK: 1,
        Reason.NO_ALARM: 1,
    }


def test_trap_14_a_floor_of_zero_is_zero() -> None:
    rows = [PoolScore(f"{i}", s, 1, 1, 0, 0, "m") for i, s in enumerate((0.5, 0.01, 0.0))]
    taken = take_shortlist(rows, RankOptions(min_score=0.0), size=None)
    assert [row.image for row in taken.rows] == ["0", "1", "2"]
    assert taken.whole
    assert len(take_shortlist(rows, RankOptions(min_score=0.01), size=None).rows) == 2


def test_beyond_the_count_duplicates_are_still_counted() -> None:
    entries = [simple(name, 0.9 - i / 10) for i, name in enumerate("abc")]
    got = choose(entries, 1, groups={"a": 0, "b": 1, "c": 0})
    assert got.images == ("a",)
    assert got.similar["a"] == ("c",)
    assert str(got.rejections["b"]) == "beyond the 1 asked for"


def test_a_rare_class_gets_its_turn() -> None:
    entries = [simple(f"common{i}", 0.9 - i / 100) for i in range(5)] + [simple("rare", 0.2, 2)]
    assert "rare" not in choose(entries, 3).images
    assert choose(entries, 3, per_class=True).images == ("common0", "rare", "common1")


def test_what_two_classes_repeat_is_stood_for_once() -> None:
    both: list[Alarm] = [(0.8, 1, BOX), (0.7, 2, BOX)]
    got = choose([simple("a", 0.9), entry("b", both)], groups={"a": 0, "b": 0}, per_class=True)
    assert got.images == ("a",)
    assert got.similar == {"a": ("b",)}


def test_quotas_say_so() -> None:
    entries = [simple(f"{i}", 0.9 - i / 10, 1, f"cam{i % 2}/{i}.jpg") for i in range(4)]
    got = choose(entries, group="folder", quota_group=1, repeats=False)
    assert got.images == ("0", "1")
    assert str(got.rejections["2"]) == "the quota of 1 for group 'cam0' is used up"
    assert choose(entries, quota_class=3).images == ("0", "1", "2")


@pytest.mark.parametrize(
    ("pattern", "name", "group"),
    [
        ("folder", "site/cam1/a.jpg", "site/cam1"),
        ("folder", "a.jpg", "."),
        (r"cam\d+", "x_cam12_07.jpg", "cam12"),
        (r"(cam\d)_", "x_cam1_07.jpg", "cam1"),
        (r"cam\d+", "other.jpg", ""),
        (None, "cam1/a.jpg", ""),
    ],
)
def test_groups(pattern: str | None, name: str, group: str) -> None:
    assert RankOptions(group=pattern).group_of(name) == group


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "luck"}, "'luck', wanted one of score, class, alarms"),
        ({"quota_class": 0}, "quota_class: got 0"),
        ({"quota_group": 2}, "quota_group needs group"),
        ({"group": "("}, "is no pattern"),
        ({"threshold": 1.5}, "threshold: got 1.5"),
    ],
)
def test_contradictory_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RankOptions(**options)  # type: ignore[arg-type]


# The rock that a fixed camera sees every day.


def scene(folder: Path, name: str, day: int, *, rock: int = 1) -> str:
    """A camera's view: a blocky landscape that changes by the day, a rock that stays."""
    rng = np.random.default_rng(day)
    pixels = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((16, 16, 1)))
    look = np.random.default_rng(1000 + rock).integers(0, 200, (6, 6, 3))
    pixels[40:88, 40:88] = np.kron(look, np.ones((8, 8, 1))) + 8 * day  # the light changes
    noise = rng.normal(0, 4, pixels.shape)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(path)
    return str(path)


ROCK = (40.0, 40.0, 88.0, 88.0)
JITTERED = (44.0, 38.0, 90.0, 86.0)


def test_the_same_alarm_in_the_same_place_is_handed_out_once(tmp_path: Path) -> None:
    rows = [
        ("cam1/1.png", 1, 1, ROCK, 0.9),
        ("cam1/2.png", 2, 1, JITTERED, 0.8),
        ("cam1/3.png", 3, 2, ROCK, 0.7),  # something else stands there
        ("cam1/4.png", 4, 1, (0.0, 0.0, 30.0, 30.0), 0.6),  # another place
        ("cam2/5.png", 5, 1, ROCK, 0.5),  # another camera
        ("cam1/6.png", 6, 1, ROCK, 0.4),
    ]
    entries = [
        entry(scene(tmp_path, name, day, rock=rock), [(score, 1, box)], name)
        for name, day, rock, box, score in rows
    ]
    got = choose(entries, group="folder")
    assert [Path(i).name for i in got.images] == ["1.png", "3.png", "4.png", "5.png"]
    first = entries[0].image
    assert [Path(i).name for i in got.similar[first]] == ["2.png", "6.png"]
    assert (
        str(got.rejections[entries[1].image]) == f"the same alarm in the same place as in {first}"
    )
    assert got.num_represented == 2
    assert len(choose(entries, group="folder", repeats=False).images) == 6
    assert len(choose(entries).images) == 6  # without groups nobody knows what a camera is


def test_another_class_in_the_same_place_is_another_alarm(tmp_path: Path) -> None:
    entries = [
        entry(scene(tmp_path, f"cam1/{i}.png", i), [(0.9 - i / 10, i, ROCK)], f"cam1/{i}.png")
        for i in (1, 2)
    ]
    assert len(choose(entries, group="folder").images) == 2


def test_all_earlier_alarms_of_the_class_are_looked_at_and_by_the_box_of_that_class(
    tmp_path: Path,
) -> None:
    """The one that is repeated comes after others that cannot be it, and is no image's best alarm."""
    corner = (0.0, 0.0, 30.0, 30.0)
    gone, small = str(tmp_path / "gone.png"), str(tmp_path / "small.png")
    Image.new("RGB", (100, 100)).save(small)
    first = scene(tmp_path, "first.png", 1)
    again = entry(scene(tmp_path, "again.png", 2), [(0.9, 2, corner), (0.6, 1, JITTERED)])
    places = AlarmPlaces()
    for image, box in ((scene(tmp_path, "far.png", 3), corner), (gone, ROCK), (small, ROCK)):
        places.add(entry(image, [(0.5, 1, box)]), "cam", 1)
    assert places.find_repeated(again, "cam", 1) is None
    places.add(entry(first, [(0.9, 2, corner), (0.5, 1, ROCK)]), "cam", 1)
    assert places.find_repeated(again, "cam", 1) == first
    assert places.find_repeated(again, "other", 1) is None
    assert places.find_repeated(again, "cam", 2) is None


@pytest.mark.parametrize(("bottom", "again"), [(64.0, True), (63.0, False)])
def test_half_a_box_is_the_same_place(bottom: float, again: bool, tmp_path: Path) -> None:
    # 48 x 24 of 48 x 48 px: an IoU of .5, which is enough
    first, second = (scene(tmp_path, f"{day}.png", day) for day in (1, 2))
    places = AlarmPlaces()
    places.add(entry(first, [(0.9, 1, ROCK)]), "cam", 1)
    part = entry(second, [(0.8, 1, (40.0, 40.0, 88.0, bottom))])
    assert places.find_repeated(part, "cam", 1) == (first if again else None)


def test_an_image_that_cannot_be_read_any_more_repeats_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    places = AlarmPlaces()
    places.add(entry(scene(tmp_path, "first.png", 1), [(0.9, 1, ROCK)]), "cam", 1)
    gone = str(tmp_path / "gone.png")
    assert places.find_repeated(entry(gone, [(0.8, 1, ROCK)]), "cam", 1) is None
    assert "gone.png" in caplog.text
    assert "whether its alarm repeats another one is not known" in caplog.text


def test_looks_may_differ_by_fourteen_bits_and_boxes_may_lie_over_the_edge(tmp_path: Path) -> None:
    first, second = (scene(tmp_path, f"{day}.png", day=1) for day in (1, 2))
    for box in (
        ROCK,
        (-30.0, 80.0, 30.0, 400.0),
        (100.0, -9.0, 300.0, 20.0),
        (200.0, 20.0, 300.0, 60.0),
        (-60.0, 20.0, -10.0, 60.0),
        (20.0, -60.0, 60.0, -10.0),
        (64.0, 64.0, 64.0, 90.0),
    ):
        places = AlarmPlaces()
        places.add(entry(first, [(0.9, 1, box)]), "cam", 1)
        # A line has no area, so that it lies nowhere again.
        owner = None if box[0] == box[2] else first
        assert places.find_repeated(entry(second, [(0.8, 1, box)]), "cam", 1) == owner
    places = AlarmPlaces()
    places.add(entry(first, [(0.9, 1, ROCK)]), "cam", 1)
    again = entry(first, [(0.8, 1, ROCK)])
    assert places.find_repeated(again, "cam", 1) == first
    (place,) = places.known["cam", 1]
    place.phash ^= -(2**63) | (2**13 - 1)  # the sign's bit is one of them
    assert places.find_repeated(again, "cam", 1) == first
    place.phash ^= 2**14
    assert places.find_repeated(again, "cam", 1) is None


# Variety.


def unit(rows: NDArray[Any]) -> NDArray[np.float64]:
    return np.array([r / max(float(np.linalg.norm(r)), 1e-12) for r in rows.astype(np.float64)])


def gap(rows: NDArray[np.float64], i: int, centers: Sequence[int]) -> float:
    """Return how far a row is from the nearest center."""
    return min((float(np.linalg.norm(rows[i] - rows[j])) for j in centers), default=9.0)


def radius(rows: NDArray[np.float64], centers: Sequence[int]) -> float:
    """Return the largest such gap: what k-center makes small."""
    return max(gap(rows, i, centers) for i in range(len(rows)))


def slow_k_center(rows: NDArray[np.float64], count: int, refused: set[int]) -> list[int]:
    """Farthest first, from the definition: the first row, then the one farthest from all taken."""
    chosen: list[int] = []
    left = list(range(len(rows)))
    while left and len(chosen) < count:
        far = max(left, key=lambda i: (gap(rows, i, chosen), -i))
        left.remove(far)
        if far not in refused:
            chosen.append(far)
    return chosen


@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 9), st.sets(st.integers(0, 8)))
def test_k_center_is_the_slow_greedy_choice(
    seed: int, size: int, count: int, refused: set[int]
) -> None:
    features = np.random.default_rng(seed).normal(size=(size, 3)).astype(np.float32)
    wanted = slow_k_center(unit(features), count, refused)
    assert k_center(features, count, lambda i: i not in refused) == wanted
    assert k_center(7 * features, count, lambda i: i not in refused) == wanted  # by direction


def test_of_equally_far_rows_the_harder_one_is_taken() -> None:
    axes = np.eye(4, dtype=np.float32)  # all √2 apart, exactly
    assert k_center(axes, 3, lambda i: True) == slow_k_center(unit(axes), 3, set()) == [0, 1, 2]
    assert k_center(axes[[0, 0, 1]], 3, lambda i: True) == [0, 2, 1]  # a copy comes last
    assert k_center(axes[:0], 3, lambda i: True) == []


@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(1, 4), st.integers(2, 3))
def test_it_covers_within_twice_the_optimum(seed: int, size: int, count: int, width: int) -> None:
    """Gonzalez's bound, against the best of all choices of as many rows."""
    rng = np.random.default_rng(seed)
    spread = 0.02 + rng.integers(0, 2)  # tight bunches, or all over
    bunches = rng.normal(size=(3, width))[rng.integers(0, 3, size)]
    features = (bunches + spread * rng.normal(size=(size, width))).astype(np.float32)
    rows, count = unit(features), min(count, size)
    best = min(radius(rows, centers) for centers in combinations(range(size), count))
    assert radius(rows, k_center(features, count, lambda i: True)) <= 2 * best + 1e-9


def test_variety_beats_five_looks_at_one_thing() -> None:
    entries = [simple(f"{i}", 0.9 - i / 100) for i in range(8)]
    vectors = {f"{i}": [1.0, i / 1000, 0.0] for i in range(8)}
    vectors["6"], vectors["7"] = [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]

    def features(images: object) -> np.ndarray:
        return np.array([vectors[i] for i in images], np.float32)  # type: ignore[attr-defined]

    got = choose(entries, 3, diverse=True, features=features)
    assert got.images == ("0", "6", "7")
    assert str(got.rejections["1"]) == "others that are as hard look less like what is selected"
    got = choose(entries, 3, diverse=True, features=features, quota_class=2)
    assert got.images == ("0", "6")


def test_variety_looks_at_a_few_times_as_many_as_are_wanted_and_keeps_quotas() -> None:
    entries = [simple(f"{i}", 0.9 - i / 100, name=f"cam{i % 2}/{i}") for i in range(12)]
    asked: list[str] = []

    def features(images: list[str]) -> np.ndarray:
        asked[:] = images
        return np.eye(12, dtype=np.float32)[[int(image) for image in images]]

    got = choose(entries, 2, diverse=True, features=features, group="folder", repeats=False)
    assert len(asked) == DIVERSE_TIMES * 2 < len(entries)
    assert got.images == ("0", "1")
    quotas = {"group": "folder", "quota_group": 1, "repeats": False}
    got = choose(entries, 2, diverse=True, features=features, **quotas)
    assert got.images == ("0", "1")
    got = choose(entries, None, diverse=True, features=features, **quotas)
    assert len(asked) == 12  # quotas count for what is handed out, not for what is looked at
    assert got.images == ("0", "1")
    assert got.rejections["2"].reason is Reason.QUOTA_OF_GROUP


def test_variety_looks_into_as_many_groups_as_the_quota_needs() -> None:
    """A group's images alone fill the places that are looked at, unless its quota counts there too."""
    entries = [
        simple(f"{g}-{i}", 0.9 - (12 * g + i) / 200, name=f"cam{g}/{i}")
        for g in range(10)
        for i in range(12)
    ]

    def features(images: Sequence[str]) -> NDArray[np.float32]:
        return np.eye(len(images), dtype=np.float32)

    quotas = {"group": "folder", "quota_group": 1, "repeats": False}
    got = choose(entries, 10, diverse=True, features=features, **quotas)
    assert sorted(image.split("-")[0] for image in got.images) == [str(g) for g in range(10)]


def test_variety_leaves_no_near_duplicate_of_what_is_not_handed_out() -> None:
    entries = [simple("hard", 0.95), simple("other", 0.6), simple("like_other", 0.5)]
    groups = {"hard": 0, "other": 1, "like_other": 1}

    def features(images: Sequence[str]) -> NDArray[np.float32]:
        return np.eye(len(images), dtype=np.float32)

    got = choose(entries, 1, diverse=True, features=features, groups=groups)
    assert got.images == ("hard",)
    assert {k: v.reason for k, v in got.rejections.items()} == {
        "other": Reason.LESS_DIVERSE,
        "like_other": Reason.LESS_DIVERSE,
    }
    assert got.num_represented == 0
    got = choose(entries, 2, diverse=True, features=features, groups=groups)
    assert got.similar == {"hard": (), "other": ("like_other",)}


def test_no_image_stands_for_one_that_another_class_hands_out(tmp_path: Path) -> None:
    far = (40.0, 30.0, 60.0, 46.0)
    pictures = [("a", 1), ("b", 1), ("d", 9)]
    for name, seed in pictures:
        noise = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{name}.png")
    a, b, d = (str(tmp_path / f"{name}.png") for name, _ in pictures)
    entries = [
        entry(a, [(0.9, 1, BOX)], "cam/a"),
        entry(d, [(0.85, 2, (1.0, 1.0, 9.0, 9.0))], "cam/d"),
        entry(b, [(0.8, 1, BOX), (0.7, 2, far)], "cam/b"),
    ]
    alone = choose(entries, group="folder")
    assert alone.similar == {a: (b,), d: ()}  # class 1 of b repeats a
    both = choose(entries, group="folder", per_class=True)
    assert both.similar == {a: (), d: (), b: ()}  # class 2 of b is new
    assert both.num_represented == 0


# The shortlist.


def test_a_score_reaches_a_limit_that_is_written_alike() -> None:
    """Scores are kept in float32, in which .7 is a little less and .6 a little more than in float64."""
    for written in (0.6, 0.7, 0.9, 0.95):
        row = PoolScore("image", float(np.float32(written)), 1, 1, 0, 0, "m")
        below = float(np.nextafter(np.float32(written), np.float32(0)))
        rows = [row, replace(row, image="below", score=below)]
        found = take_shortlist(rows, RankOptions(min_score=written), size=None)
        assert [one.image for one in found.rows] == ["image"]


def test_the_shortlist_stops_reading_when_it_is_full() -> None:
    rows = iter([PoolScore(f"{i}", 1 - i / 10, 1, 1, 0, 0, "m") for i in range(10)])
    found = take_shortlist(rows, RankOptions(min_score=0), size=3)
    assert ([row.image for row in found.rows], found.whole) == (["0", "1", "2"], False)
    assert len(list(rows)) == 6


def test_the_shortlist_of_uncertainty_lies_on_both_sides_of_the_threshold() -> None:
    rows = [PoolScore(f"{i}", 1 - i / 10, 1, 1, 0, 0, "m") for i in range(10)]
    options = RankOptions(rule="uncertainty", threshold=0.65, min_score=0)
    found = take_shortlist(rows, options, size=2)  # 1, .9, .8, .7 | .6, .5, .4, …
    assert [row.image for row in found.rows] == ["2", "3", "4", "5"]
    found = take_shortlist(rows, replace(options, threshold=rows[4].score), size=2)
    assert [row.image for row in found.rows] == ["3", "4", "5", "6"]  # inclusive


def test_how_many_images_are_looked_at() -> None:
    # By score alone 16 more than asked for, or a tenth; else four times as many, and 1,000 at least.
    assert [shortlist_size(n, RankOptions()) for n in (10, 160, 170)] == [26, 176, 187]
    assert shortlist_size(None, RankOptions()) is None
    for more in (
        {"rule": "alarms"},
        {"per_class": True},
        {"diverse": True},
        {"quota_class": 3},
        {"group": "folder", "quota_group": 3},
    ):
        options = RankOptions(**more)  # type: ignore[arg-type]
        assert [shortlist_size(n, options) for n in (10, 250, 251)] == [1000, 1000, 1004]


@pytest.mark.parametrize(
    ("more", "sizes"),
    [
        # Of .9 to .1, five reach .5: with 5 or more on either side nothing is left out.
        ({"rule": "uncertainty", "threshold": 0.5}, {3: False, 4: False, 5: True, 6: True}),
        ({"rule": "alarms"}, {8: False, 9: True, 10: True}),
        ({"rule": "alarms", "min_score": 0.5}, {4: False, 5: True, None: True}),
        ({"per_class": True}, {5: False, 6: True}),  # six of class 1, three of class 2
    ],
)
def test_the_shortlist_says_whether_it_is_whole(
    more: dict[str, object], sizes: dict[int | None, bool]
) -> None:
    rows = [PoolScore(f"{i}", 0.9 - i / 10, 1 + (i > 5), 1, 0, 0, "m") for i in range(9)]
    options = RankOptions(**more)  # type: ignore[arg-type]
    found = {size: take_shortlist(rows, options, size=size).whole for size in sizes}
    assert found == sizes


def test_the_shortlist_per_class_holds_as_many_of_each() -> None:
    rows = [PoolScore(f"{i}", 1 - i / 10, 1 + (i > 6), 1, 0, 0, "m") for i in range(10)]
    found = take_shortlist(rows, RankOptions(per_class=True, min_score=0), size=2)
    assert [row.image for row in found.rows] == ["0", "1", "7", "8"]
    assert not found.whole


def test_the_shortlist_of_a_rule_of_each_class_holds_as_many_of_each() -> None:
    rows = [PoolScore(f"{i}", 1 - i / 10, 1 + (i > 6), 1, 0, 0, "m") for i in range(10)]
    options = RankOptions(rule="class", class_scores=(0.9, 0.1), min_score=0)
    found = take_shortlist(rows, options, size=2)
    assert [row.image for row in found.rows] == ["0", "1", "7", "8"]
    assert [shortlist_size(n, options) for n in (10, 251)] == [1000, 1004]


def test_the_shortlist_of_uncertainty_per_class_has_both_sides_of_each_class() -> None:
    """Class 2 lies among many of class 1; 5 of either class are above the threshold, 5 below."""
    scores = [(1, 0.99 - i / 100) for i in range(40)] + [(2, 0.8 - i / 100) for i in range(5)]
    scores += [(1, 0.49 - i / 100) for i in range(5)] + [(2, 0.4 - i / 100) for i in range(5)]
    ordered = sorted(scores, key=lambda row: -row[1])
    rows = [PoolScore(f"{i:02}", s, label, 1, 0, 0, "m") for i, (label, s) in enumerate(ordered)]
    options = RankOptions(rule="uncertainty", threshold=0.5, min_score=0, per_class=True)
    found = take_shortlist(rows, options, size=3)
    each = {label: [r.score for r in found.rows if r.label == label] for label in (1, 2)}
    assert [round(score, 2) for score in each[1]] == [0.62, 0.61, 0.6, 0.49, 0.48, 0.47]
    assert [round(score, 2) for score in each[2]] == [0.78, 0.77, 0.76, 0.4, 0.39, 0.38]
    assert not found.whole
    assert [row.score for row in found.rows] == sorted((r.score for r in found.rows), reverse=True)


# Near-duplicates, by the selection itself: from a store's perceptual hashes alone.


class Nobody:
    """A detector whose images are scored already."""

    model_id, categories, resize = "m", ("thing",), None


@contextmanager
def scored_pool(folder: Path, rows: list[PoolScore]) -> Iterator[ScannedPool]:
    """Give a pool whose images have these scores; at full precision each scores .01 more."""
    state = ImageState.UNREVIEWED
    records = tuple(ImageRecord.empty(Path(row.image), 8, 8, state) for row in rows)
    source = DatasetSource(Dataset((), records, Path("/pool")))
    by_name = {row.image: row for row in rows}

    def score_exactly(names: Sequence[str]) -> list[tuple[PoolScore, Detections] | Problem]:
        return [
            Problem("image_missing", name, -1, "gone")
            if "gone" in name
            else (
                replace(by_name[name], score=by_name[name].score + 0.01, exact=True),
                detections([(0.9, 1, BOX)]),
            )
            for name in names
        ]

    with PoolStore(folder / "pool.sqlite") as store:
        store.add_scores([(row, detections([(0.9, 1, BOX)])) for row in rows])
        summary = ScanSummary(len(rows), 0, ())
        yield ScannedPool(Nobody(), source, store, summary, score_exactly)  # type: ignore[arg-type]


def row_of(name: str, score: float, phash: int = 0, *, exact: bool = True) -> PoolScore:
    return PoolScore(f"/pool/{name}", score, 1, 1, 0, phash, "m", exact=exact)


def test_the_shortlist_grows_until_enough_is_selected(tmp_path: Path) -> None:
    """The 30 highest scores are copies of one picture, the 40 below them are unlike any other."""
    unlike = [int(h) for h in np.random.default_rng(0).integers(1, 2**62, 40)]
    hashes = [0] * 30 + unlike
    rows = [row_of(f"{i:02}", 0.9 - i / 100, phash) for i, phash in enumerate(hashes)]
    names = [row.image for row in rows]

    def select(top: int | None) -> Selected:
        return ImageSelector(scanned, MineOptions(top=top)).select()

    with scored_pool(tmp_path, rows) as scanned:
        few, enough, every = select(1), select(5), select(None)
    # One image needs no more than the first 1 + 16; five need more than the first 5 + 16.
    assert few.images == (names[0],)
    assert list(few.shortlist) == names[:17]
    assert (few.whole, few.not_looked_at) == (False, 53)
    assert few.reasons == {Reason.NEAR_DUPLICATE: 16, Reason.NOT_LOOKED_AT: 53}
    assert enough.images == (names[0], *names[30:34])
    assert enough.similar[names[0]] == tuple(names[1:30])
    assert every.images == (names[0], *names[30:])
    assert (every.whole, every.not_looked_at) == (True, 0)
    assert every.reasons == {Reason.NEAR_DUPLICATE: 29}


def test_what_lies_far_below_the_lowest_score_is_not_scored_again(tmp_path: Path) -> None:
    rows = [row_of("a", 0.5, exact=False), row_of("gone", 0.02, 99, exact=False)]
    with scored_pool(tmp_path, rows) as scanned:
        assert ImageSelector(scanned, MineOptions(top=2)).select().images == ("/pool/a",)
        assert scanned.store.problems("m") == ()


def test_a_score_is_looked_up_or_made_at_full_precision(tmp_path: Path) -> None:
    rows = [row_of("gone", 0.9, exact=False), row_of("a", 0.5, exact=False), row_of("b", 0.25)]
    with scored_pool(tmp_path, rows) as scanned:
        selector = ImageSelector(scanned, MineOptions())
        assert selector.best_score() is None  # the highest cannot be read any more
        assert selector.best_score() == 0.51
        found = selector.exact_score("/pool/b")
        assert found is not None
        assert (found.score, found.exact) == (0.25, True)
        assert selector.exact_score("/elsewhere/a") is None
        assert [problem.file for problem in scanned.store.problems("m")] == ["/pool/gone"]
    with scored_pool(tmp_path / "empty", []) as scanned:
        assert ImageSelector(scanned, MineOptions()).best_score() is None


def test_a_store_that_serves_several_pools_gives_the_best_score_of_this_one(tmp_path: Path) -> None:
    with scored_pool(tmp_path, [row_of("a", 0.5)]) as scanned:
        other = replace(row_of("a", 0.9), image="/elsewhere/a")
        scanned.store.add_scores([(other, detections([(0.9, 1, BOX)]))])
        assert ImageSelector(scanned, MineOptions()).best_score() == 0.5


@pytest.mark.parametrize("name", ["/pool/before", "/pool/not_scored", "/elsewhere/before"])
def test_what_repeats_an_image_handed_out_before_is_left_out_however_low_that_one_scores(
    name: str, tmp_path: Path
) -> None:
    """The one handed out before is below the lowest score, so that it is not looked at itself."""
    rows = [row_of("again", 0.9, 5), row_of("unlike", 0.8, -1), row_of("before", 0.01, 5)]
    taken = {name: Rejection(Reason.HANDED_OUT_BEFORE, "handed out before")}
    with scored_pool(tmp_path, rows) as scanned:
        got = ImageSelector(scanned, MineOptions(top=5), taken=taken).select()
    if name == "/pool/before":
        assert got.images == ("/pool/unlike",)
        assert str(got.rejections["/pool/again"]) == "near-duplicate of /pool/before"
    else:  # whose looks are not known
        assert got.images == ("/pool/again", "/pool/unlike")


def near(hashes: dict[str, int], a: str, b: str) -> bool:
    """Say whether two images are linked by a chain of near-copies, read off slowly."""
    reached, new = {a}, [a]
    while new:
        one = new.pop()
        for other in set(hashes) - reached:
            if ((hashes[one] ^ hashes[other]) & (2**64 - 1)).bit_count() <= 6:
                reached.add(other)
                new.append(other)
    return b in reached


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**64 - 1)), min_size=1, max_size=10),
    st.integers(1, 10),
    st.sets(st.integers(0, 9)),
    st.booleans(),
)
def test_no_near_duplicate_is_selected(
    tmp_path_factory: pytest.TempPathFactory,
    pictures: list[tuple[int, int]],
    count: int,
    gone: set[int],
    at_random: bool,
) -> None:
    base = [0x0123456789ABCDEF, 0x5A5A5A5AA5A5A5A5, -1, 0x00FF00FF00FF00FF]
    hashes = {}
    for i, (kind, noise) in enumerate(pictures):
        flips = (1 << noise % 64) | (1 << noise // 64 % 64)  # up to two bits of a kind's hash
        bits = (base[kind] ^ flips) & (2**64 - 1)
        hashes[f"/pool/{i}.jpg"] = bits - (bits >> 63 << 64)
    taken = [f"/pool/{i}.jpg" for i in sorted(gone) if i < len(pictures)]
    rows = [
        PoolScore(name, 0.9 - i / 100, 1, 1, 0, phash, "m")
        for i, (name, phash) in enumerate(hashes.items())
    ]
    with scored_pool(tmp_path_factory.mktemp("near"), rows) as scanned:
        before = Rejection(Reason.HANDED_OUT_BEFORE, "handed out before")
        selector = ImageSelector(
            scanned, MineOptions(top=count), taken=dict.fromkeys(taken, before)
        )
        if at_random:
            groups = dict(zip(hashes, group_duplicates(list(hashes.values())), strict=True))
            selected = select_random(hashes, count=count, seed=1, group_of=groups, taken=taken)
        else:
            selected = selector.select()
    for a, b in combinations([*selected.images, *taken], 2):
        assert a != b
        if not {a, b} <= set(taken):
            assert not near(hashes, a, b), (a, b)
    left = [n for n in hashes if not any(near(hashes, n, t) for t in [*taken, *selected.images])]
    assert len(selected.images) == count or not left  # nothing is left out without need

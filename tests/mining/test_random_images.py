from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from hardmine.mining.image_selection import rank_hardest, rank_random
from hardmine.types import PoolScore


def score_of(image: str, score: float, alarms: int = 1) -> PoolScore:
    return PoolScore(image, score, 1, alarms, 0, 0, "m")


def alone(*images: str) -> dict[str, int]:
    """Return each image in a group of its own."""
    return {image: i for i, image in enumerate(images)}


SCORES = [score_of("a", 0.9), score_of("b", 0.5), score_of("c", 0.05), score_of("d", 0.04)]


def test_the_hardest_come_first_and_the_floor_is_inclusive() -> None:
    groups = alone("a", "b", "c", "d")
    chosen = rank_hardest(SCORES, count=None, min_score=0.05, group_of=groups).chosen
    assert chosen == ("a", "b", "c")
    assert rank_hardest(SCORES, count=2, min_score=0.05, group_of=groups).chosen == ("a", "b")
    assert rank_hardest(SCORES, count=0, min_score=0.05, group_of=groups).chosen == ()


def test_a_floor_of_zero_means_zero_but_an_image_without_detection_is_never_chosen() -> None:
    scores = [score_of("a", 0.9), score_of("quiet", 0.02, alarms=0), score_of("low", 0.0)]
    groups = alone("a", "quiet", "low")
    assert rank_hardest(scores, count=None, min_score=0.0, group_of=groups).chosen == ("a", "low")
    nothing = [score_of("quiet", 0.9, alarms=0)]
    assert rank_hardest(nothing, count=5, min_score=0.0, group_of=groups).chosen == ()


def test_no_image_is_handed_out_twice_nor_its_near_duplicate() -> None:
    # a and b are near-duplicates; a went out before
    groups = {"a": 0, "b": 0, "c": 2, "d": 3}
    ranking = rank_hardest(SCORES, count=None, min_score=0.0, group_of=groups, taken=["a"])
    assert ranking.chosen == ("c", "d")
    assert ranking.num_duplicates == 1


def test_of_a_group_the_hardest_is_kept_and_the_others_are_counted() -> None:
    groups = {"a": 7, "b": 7, "c": 7, "d": 3}
    ranking = rank_hardest(SCORES, count=None, min_score=0.0, group_of=groups)
    assert (ranking.chosen, ranking.num_duplicates) == (("a", "d"), 2)


def test_an_image_without_a_group_may_not_be_chosen() -> None:
    assert rank_hardest(SCORES, count=None, min_score=0.0, group_of=alone("b")).chosen == ("b",)


def test_random_draws_from_quiet_images_too_and_a_longer_draw_only_appends() -> None:
    images = [f"i{n}" for n in range(50)]
    groups = alone(*images)
    few = rank_random(images, count=5, seed=1, group_of=groups).chosen
    more = rank_random(reversed(images), count=20, seed=1, group_of=groups).chosen
    assert more[:5] == few
    assert len(set(more)) == 20
    assert rank_random(images, count=5, seed=2, group_of=groups).chosen != few
    assert len(rank_random(images, count=99, seed=1, group_of=groups).chosen) == 50


def test_random_takes_near_duplicates_once_and_nothing_twice() -> None:
    images = [f"i{n}" for n in range(10)]
    groups = {image: n // 2 for n, image in enumerate(images)}
    ranking = rank_random(images, count=10, seed=0, group_of=groups)
    assert sorted(groups[image] for image in ranking.chosen) == [0, 1, 2, 3, 4]
    assert ranking.num_duplicates == 5
    again = rank_random(images, count=10, seed=0, group_of=groups, taken=ranking.chosen)
    assert again.chosen == ()


def test_random_does_not_depend_on_where_the_pool_lies() -> None:
    here = {f"/here/{n}": str(n) for n in range(20)}
    there = {f"/there/{n}": str(n) for n in range(20)}
    one, two = (
        rank_random(names, count=6, seed=3, group_of=alone(*names), names=names).chosen
        for names in (here, there)
    )
    assert [here[image] for image in one] == [there[image] for image in two]


def test_random_is_uniform() -> None:
    # 10 images, 1 drawn, 2000 seeds: 200 each, standard deviation sqrt(2000 * .1 * .9) = 13.4
    images = [f"i{n}" for n in range(10)]
    counts = Counter(
        rank_random(images, count=1, seed=seed, group_of=alone(*images)).chosen[0]
        for seed in range(2000)
    )
    assert all(abs(counts[image] - 200) < 5 * 13.5 for image in images)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 2), st.integers(0, 4)), max_size=12),
    st.integers(0, 6),
    st.floats(0, 1),
    st.sets(st.integers(0, 11)),
)
def test_ranking_agrees_with_a_slow_reading_of_the_rules(
    rows: list[tuple[float, int, int]], count: int, floor: float, taken: set[int]
) -> None:
    scores = [score_of(f"{i:02}", s, alarms) for i, (s, alarms, _) in enumerate(rows)]
    scores.sort(key=lambda s: (-s.score, s.image))
    groups = {f"{i:02}": group for i, (_, _, group) in enumerate(rows)}
    gone = {f"{i:02}" for i in taken if i < len(rows)}
    expected: list[str] = []
    for s in scores:
        fires = s.num_alarms >= 1 and s.score >= floor
        repeats = any(groups[s.image] == groups[other] for other in [*expected, *gone])
        if fires and not repeats and len(expected) < count:
            expected.append(s.image)
    ranking = rank_hardest(scores, count=count, min_score=floor, group_of=groups, taken=gone)
    assert list(ranking.chosen) == expected

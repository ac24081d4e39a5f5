from __future__ import annotations

from collections import Counter

from hardmine.mining.image_selection import select_random


def alone(*images: str) -> dict[str, int]:
    """Return each image in a group of its own."""
    return {image: i for i, image in enumerate(images)}


def test_random_draws_from_quiet_images_too_and_a_longer_draw_only_appends() -> None:
    images = [f"i{n}" for n in range(50)]
    groups = alone(*images)
    few = select_random(images, count=5, seed=1, group_of=groups).images
    more = select_random(reversed(images), count=20, seed=1, group_of=groups).images
    assert more[:5] == few
    assert len(set(more)) == 20
    assert select_random(images, count=5, seed=2, group_of=groups).images != few
    assert len(select_random(images, count=99, seed=1, group_of=groups).images) == 50


def test_random_takes_near_duplicates_once_and_nothing_twice() -> None:
    images = [f"i{n}" for n in range(10)]
    groups = {image: n // 2 for n, image in enumerate(images)}
    ranking = select_random(images, count=10, seed=0, group_of=groups)
    assert sorted(groups[image] for image in ranking.images) == [0, 1, 2, 3, 4]
    assert ranking.num_represented == 5
    again = select_random(images, count=10, seed=0, group_of=groups, taken=ranking.images)
    assert again.images == ()


def test_random_does_not_depend_on_where_the_pool_lies() -> None:
    here = {f"/here/{n}": str(n) for n in range(20)}
    there = {f"/there/{n}": str(n) for n in range(20)}
    one, two = (
        select_random(names, count=6, seed=3, group_of=alone(*names), names=names).images
        for names in (here, there)
    )
    assert [here[image] for image in one] == [there[image] for image in two]


def test_random_is_uniform() -> None:
    # 10 images, 1 drawn, 2000 seeds: 200 each, standard deviation sqrt(2000 * .1 * .9) = 13.4
    images = [f"i{n}" for n in range(10)]
    counts = Counter(
        select_random(images, count=1, seed=seed, group_of=alone(*images)).images[0]
        for seed in range(2000)
    )
    assert all(abs(counts[image] - 200) < 5 * 13.5 for image in images)

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardmine.detections import Detections
from hardmine.mining.pool_store import PoolStore
from hardmine.mining.ranking import (
    ExactRanking,
    RankedPart,
    measure_margin,
    shift_logit,
    wide_margin,
)
from hardmine.types import PoolScore, Problem


def found(score: float) -> Detections:
    one = np.ones(1, np.float32)
    return Detections(np.array([[0, 0, 1, 1]], np.float32), one * score, np.ones(1, np.int64))


class Pool:
    """A store with fast scores, and the exact scores behind them."""

    def __init__(self, store: PoolStore, exact: dict[str, float], cut: dict[str, float]) -> None:
        self.store, self.exact = store, exact
        self.asked: list[str] = []
        rows = [PoolScore(i, s, 1, -1, 0, 0, "m", exact=False) for i, s in cut.items()]
        store.add_scores([(row, Detections.none()) for row in rows], model_id="m")

    def score_exactly(
        self, names: Sequence[str]
    ) -> Iterator[tuple[PoolScore, Detections] | Problem]:
        self.asked += names
        for name in reversed(names):
            if name not in self.exact:
                yield Problem("image_missing", name, -1, "gone")
                continue
            score = self.exact[name]
            yield PoolScore(name, score, 1, 1, 0, 0, "m"), found(score)

    def ranking(self, **part: object) -> ExactRanking:
        return ExactRanking(self.store, "m", self.score_exactly, RankedPart(**part))  # type: ignore[arg-type]


def noisy(size: int, seed: int, noise: float) -> tuple[dict[str, float], dict[str, float]]:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, size)
    cuts = logits + rng.uniform(-noise, noise, size)

    def named(values: np.ndarray) -> dict[str, float]:
        return {f"{i:05d}": float(1 / (1 + np.exp(-v))) for i, v in enumerate(values)}

    return named(logits), named(cuts)


def best(exact: dict[str, float]) -> list[str]:
    return sorted(exact, key=lambda name: (-exact[name], name))


def test_the_top_is_exact_and_little_else_is_scored_again(tmp_path: Path) -> None:
    exact, cut = noisy(2000, seed=0, noise=0.05)
    with PoolStore(tmp_path / "pool.sqlite") as store:
        pool = Pool(store, exact, cut)
        ranking = pool.ranking(expect=100)
        top = list(islice(ranking, 100))
        assert [score.image for score in top] == best(exact)[:100]
        assert all(score.exact and score.num_alarms == 1 for score in top)
        assert ranking.rescored == len(pool.asked) == len(set(pool.asked)) < 200
        # Going on, or starting again, scores nothing twice.
        again = list(islice(pool.ranking(expect=100), 100))
        assert again == top
        assert len(pool.asked) == ranking.rescored


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60))
def test_all_of_it_is_the_exact_order(
    tmp_path_factory: pytest.TempPathFactory, seed: int, expect: int
) -> None:
    exact, cut = noisy(80, seed, noise=1.0)
    with PoolStore(tmp_path_factory.mktemp("refine") / "pool.sqlite") as store:
        pool = Pool(store, exact, cut)
        names = [score.image for score in pool.ranking(expect=expect)]
    assert sorted(names) == sorted(exact)
    assert sorted(pool.asked) == sorted(exact)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 80))
def test_a_margin_that_covers_all_errors_gives_the_exact_order(
    tmp_path_factory: pytest.TempPathFactory, seed: int, expect: int, taken: int
) -> None:
    exact, cut = noisy(80, seed, noise=1.0)
    with PoolStore(tmp_path_factory.mktemp("order") / "pool.sqlite") as store:
        ranking = Pool(store, exact, cut).ranking(expect=expect, margin=lambda store, model: 1.0)
        assert [score.image for score in islice(ranking, taken)] == best(exact)[:taken]


def test_what_stays_below_the_floor_is_not_scored_again(tmp_path: Path) -> None:
    exact, cut = noisy(1000, seed=4, noise=0.05)
    above = [name for name in best(exact) if exact[name] >= 0.9]
    with PoolStore(tmp_path / "pool.sqlite") as store:
        pool = Pool(store, exact, cut)
        names = [s.image for s in pool.ranking(min_score=0.9, expect=600) if s.score >= 0.9]
        assert names == above
        assert len(pool.asked) < len(above) + 30


def test_what_is_gone_becomes_a_problem(tmp_path: Path) -> None:
    exact, cut = noisy(40, seed=1, noise=0.01)
    lost = best(exact)[0]
    del exact[lost]
    with PoolStore(tmp_path / "pool.sqlite") as store:
        pool = Pool(store, exact, cut)
        assert [s.image for s in pool.ranking()] == best(exact)
        assert [problem.file for problem in store.problems("m")] == [lost]


def test_images_of_another_pool_are_left_alone(tmp_path: Path) -> None:
    exact, cut = noisy(600, seed=2, noise=0.01)
    with PoolStore(tmp_path / "pool.sqlite") as store:
        pool = Pool(store, exact, cut)
        here = {name for name in exact if int(name) % 7 == 0}
        ranking = pool.ranking(expect=20, holds=here.__contains__)
        names = [score.image for score in islice(ranking, 20)]
        assert names == [name for name in best(exact) if name in here][:20]
        assert set(pool.asked) <= here


def test_nothing_to_rank(tmp_path: Path) -> None:
    with PoolStore(tmp_path / "pool.sqlite") as store:
        assert list(Pool(store, {}, {}).ranking()) == []


def test_the_margin_covers_the_errors_seen(tmp_path: Path) -> None:
    exact, cut = noisy(500, seed=3, noise=0.3)
    with PoolStore(tmp_path / "pool.sqlite") as store:
        pool = Pool(store, exact, cut)
        list(pool.ranking())
        # Errors are uniform on +-.3 logits, so 99.5 % of them are below .2985.
        assert measure_margin(store, "m") == pytest.approx(0.2985, abs=0.004)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_margin_is_the_size_of_the_errors_whichever_way_they_go(
    tmp_path: Path, sign: int
) -> None:
    exact, _ = noisy(30, seed=3, noise=0.0)
    cut = {name: shift_logit(score, 0.25 * sign) for name, score in exact.items()}
    with PoolStore(tmp_path / "pool.sqlite") as store:
        pool = Pool(store, exact, cut)
        assert (measure_margin(store, "m"), wide_margin(store, "m")) == (0.2, 0.2)
        list(pool.ranking())
        assert measure_margin(store, "m") == pytest.approx(0.25, abs=1e-3)
        assert wide_margin(store, "m") == pytest.approx(0.5, abs=1e-3)


def test_the_margin_is_a_number_where_scores_are_0_and_1(tmp_path: Path) -> None:
    with PoolStore(tmp_path / "pool.sqlite") as store:
        list(Pool(store, exact={"sure": 0.0}, cut={"sure": 1.0}).ranking())
        # 1 and 0 count as 1 - 1e-6 and 1e-6: 2 ln(1e6) = 27.63 apart.
        assert wide_margin(store, "m") == pytest.approx(2 * 27.63, abs=0.1)


def test_shift_logit() -> None:
    # logit(.5) = 0; 1 / (1 + e^-1) = .7311
    assert shift_logit(0.5, 1.0) == pytest.approx(0.731059)
    assert shift_logit(0.731059, -1.0) == pytest.approx(0.5, abs=1e-6)
    assert shift_logit(0.0, 1.0) == 0.0
    assert shift_logit(1.0, -1.0) == 1.0

"""The loop mines with the engine of ``mine``: a first cut, then in full what may come out on top."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardmine import mine
from hardmine.data.formats.image_files import load_images
from hardmine.data.splits.near_duplicates import group_duplicates, hash_images
from hardmine.errors import ConfigError
from hardmine.inference import fast_scoring
from hardmine.inference.predict import _FullPrecision, score_images
from hardmine.loop.control_arms import MINED, NONE, RANDOM
from hardmine.loop.loop_options import Amount, LoopOptions
from hardmine.loop.round_candidates import ArmState, CandidateSearch
from hardmine.mining.mine_options import RankOptions
from hardmine.mining.pool_store import PoolStore
from hardmine.mining.scan import scan_exactly
from hardmine.types import Dataset, ImageState
from hardmine.workflows.cached_models import MeasuredModel, TrainedModel, own_backend
from hardmine.workflows.sets_apart import LoopSets
from hardmine.workflows.step_cache import Steps
from loop_fakes import World, draw, run, sheet_of
from tiny_models import tiny_detector

DETECTOR = tiny_detector()


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """150 pictures, of which every tenth comes twice."""
    folder = tmp_path_factory.mktemp("pool")
    for i in range(150):
        draw(folder / f"{i % 3}" / f"{i:03}.png", i)
        if i % 10 == 0:
            draw(folder / f"{i % 3}" / f"{i:03}-copy.png", i)
    return load_images(folder, state=ImageState.UNREVIEWED, source="pool")


class Noisy:
    """A first cut that is off by up to ``noise`` logits, each image by its own pixels."""

    name, workers, batch_size = "noisy", 1, 8

    def __init__(self, noise: float) -> None:
        self.noise = noise
        self.seen = 0

    def score(self, pixels: Any) -> Any:
        found = DETECTOR.score(torch.from_numpy(pixels).permute(0, 3, 1, 2))
        self.seen += len(pixels)
        draws = [np.random.default_rng(int(p.sum())).uniform(-1, 1) for p in pixels]
        logits = torch.logit(found.scores, 1e-6) + self.noise * torch.tensor(draws)
        return replace(found, scores=torch.sigmoid(logits).float())


def search_of(root: Path, pool: Dataset, store: PoolStore, options: LoopOptions) -> CandidateSearch:
    nothing = Dataset(("a", "b"), (), pool.root)
    paths = [record.path for record in pool.records]
    groups = group_duplicates(list(hash_images(paths)))
    group_of = {str(path): group for path, group in zip(paths, groups, strict=True)}
    sets = LoopSets(nothing, nothing, pool, nothing, nothing, group_of, (), ())
    backend = replace(own_backend(), load_detector=lambda name, device: DETECTOR)
    return CandidateSearch(Steps(root), backend, sets, store, options)


def state_of(root: Path, taken: tuple[str, ...] = ()) -> ArmState:
    measured = MeasuredModel(TrainedModel("key", root / "w"), root, {})
    return ArmState(MINED, [measured], [], handed_out=list(taken))


def exact(search: CandidateSearch, folder: Path, count: int, taken: tuple[str, ...]) -> list[str]:
    """Return what the float32 ranking of the whole pool gives, read off slowly."""
    with PoolStore(folder / "full.sqlite") as store:
        scan_exactly(DETECTOR, search.sets.mine_from, store)
        rows = list(store.iter_ranked(DETECTOR.model_id))
    limit, groups = search.options.quarantine, search.sets.group_of
    gone = [*taken, *(row.image for row in rows if limit is not None and row.score >= limit)]
    chosen: list[str] = []
    for row in rows:
        repeats = any(groups[row.image] == groups[other] for other in [*gone, *chosen])
        fires = row.num_alarms >= 1 and row.score >= search.options.rank.min_score
        if fires and not repeats and len(chosen) < count:
            chosen.append(row.image)
    assert len(chosen) > 3
    return chosen


@pytest.mark.parametrize("noise", [None, 0.02, 0.5])
@pytest.mark.parametrize(
    ("count", "options"),
    [
        (10, LoopOptions()),
        (60, LoopOptions(rank=RankOptions(min_score=0.3))),
        (1000, LoopOptions(rank=RankOptions(min_score=0.5))),
        (12, LoopOptions(quarantine=0.9)),
    ],
)
def test_it_takes_what_the_exact_ranking_takes(
    tmp_path: Path,
    pool: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    noise: float | None,
    count: int,
    options: LoopOptions,
) -> None:
    if noise is not None:  # else the machine's own first cut
        monkeypatch.setattr(fast_scoring, "make_scorer", lambda *a: Noisy(noise))
    taken = tuple(str(record.path) for record in pool.records[::7])
    with PoolStore(tmp_path / "pool.sqlite") as store:
        search = search_of(tmp_path, pool, store, options)
        handed = search.find(state_of(tmp_path, taken), 1, Amount(count))
        rows = list(store.iter_ranked(DETECTOR.model_id))
    assert list(handed.images) == exact(search, tmp_path, count, taken)
    if count < 60 and noise != 0.5:
        assert 0 < sum(row.exact for row in rows) < 0.7 * len(rows)


@pytest.mark.parametrize(
    ("known", "scores"),
    [
        ({"a": 0.9, "b": 0.2}, (0.9, 0.2)),
        ({"b": 0.9, "a": 0.2}, (0.2, 0.9)),
        # A class that does not reach the recall, and one without an object that could tell.
        ({"a": None, "b": 0.2}, (0.05, 0.2)),
        ({"a": 0.9}, (0.9, 0.05)),
    ],
)
def test_each_class_is_compared_with_the_threshold_of_the_round_before(
    tmp_path: Path, pool: Dataset, known: dict[str, float | None], scores: tuple[float, float]
) -> None:
    options = LoopOptions(rank=RankOptions(rule="class"))
    measured = MeasuredModel(
        TrainedModel("key", tmp_path / "w"), tmp_path, {"class_thresholds": known}
    )
    state = ArmState(MINED, [measured], [])
    with PoolStore(tmp_path / "pool.sqlite") as store:
        handed = search_of(tmp_path, pool, store, options).find(state, 1, Amount(12))
    rank = RankOptions(rule="class", class_scores=scores)
    wanted = mine(DETECTOR, pool, rank=rank, top=12)
    assert list(handed.images) == [row.image for row in wanted.candidates]
    plain = mine(DETECTOR, pool, top=12)
    assert [row.image for row in plain.candidates] != list(handed.images)


def test_other_thresholds_of_the_classes_mine_anew(tmp_path: Path, pool: Dataset) -> None:
    options = LoopOptions(rank=RankOptions(rule="class"))
    found = []
    with PoolStore(tmp_path / "pool.sqlite") as store:
        search = search_of(tmp_path, pool, store, options)
        for known in ({"a": 0.9, "b": 0.2}, {"a": 0.2, "b": 0.9}):
            figures = {"class_thresholds": known}
            measured = MeasuredModel(TrainedModel("key", tmp_path / "w"), tmp_path, figures)
            found.append(search.find(ArmState(MINED, [measured], []), 1, Amount(12)).images)
    assert found[0] != found[1]


class Dying:
    """Raises at the ``n``-th call of the first cut or of the scoring in full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, n: int) -> None:
        self.left = n
        self.scorer = Noisy(0.3)
        real_cut, real_full = self.scorer.score, _FullPrecision._run_network

        def cut(pixels: Any) -> Any:
            self.tick()
            return real_cut(pixels)

        def full(this: Any, images: Any) -> Any:
            self.tick()
            return real_full(this, images)

        monkeypatch.setattr(self.scorer, "score", cut)
        monkeypatch.setattr(_FullPrecision, "_run_network", full)
        monkeypatch.setattr(fast_scoring, "make_scorer", lambda *a: self.scorer)

    def tick(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("amount", [Amount(20), Amount(2, limit=1000, threshold=0.5)])
def test_killed_in_the_first_cut_or_after_it(
    tmp_path: Path, pool: Dataset, monkeypatch: pytest.MonkeyPatch, amount: Amount
) -> None:
    monkeypatch.setattr("hardmine.mining.scan.COMMIT_SECONDS", 0.0)
    monkeypatch.setattr("hardmine.mining.ranking._COMMIT", 4)

    def mine(root: Path, n: int) -> str:
        with monkeypatch.context() as patch, PoolStore(root / "pool.sqlite") as store:
            dying = Dying(patch, n)
            search = search_of(root, pool, store, LoopOptions(rank=RankOptions(min_score=0.2)))
            try:
                search.find(state_of(root), 1, amount)
            except KeyboardInterrupt:
                deaths.append(dying.scorer.seen)
                return ""
        return (root / "rounds" / "mined-1" / "candidates.json").read_text()

    deaths: list[int] = []
    whole = mine(tmp_path / "whole", 0)
    for step in (3, 4, 7):
        root, text = tmp_path / f"{step}", ""
        while not text:
            text = mine(root, step)
            assert len(deaths) < 200
        assert text == whole
    assert any(0 < seen < 100 for seen in deaths)
    assert 0 in deaths  # the first cut was done: it died when scoring in full


def test_a_score_in_full_hangs_on_nothing_but_the_image(pool: Dataset) -> None:
    """Convolutions give other last bits for other batch sizes, so every batch is filled up."""
    sizes: list[int] = []

    class Sized(_FullPrecision):
        def _run_network(self, images: torch.Tensor) -> Any:
            sizes.append(len(images))
            return super()._run_network(images)

    from hardmine.inference.image_loading import ImageItem

    items = [ImageItem(str(record.path)) for record in pool.records[:21]]
    found = [r for b in Sized(DETECTOR, floor=0.01, hashed=True).over(items, 16) for r in b]
    assert sizes == [16, 16]
    assert [r.name for r in found if not hasattr(r, "kind")] == [item.name for item in items]


def test_the_second_look_is_at_full_precision(
    tmp_path: Path, pool: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_scoring, "make_scorer", lambda *a: Noisy(0.02))
    with PoolStore(tmp_path / "pool.sqlite") as store:
        search = search_of(tmp_path, pool, store, LoopOptions())
        arm = state_of(tmp_path)
        search.find(arm, 1, Amount(3))  # gives most images a first cut alone
        low = list(store.iter_ranked(DETECTOR.model_id))[-5:]
        assert not any(row.exact for row in low)
        arm.negatives = [r for r in pool.records if str(r.path) in {row.image for row in low}]
        search.second_look(arm, 1, 0.0)
        found = {r.path: r.score for r in score_images(DETECTOR, [Path(r.image) for r in low])}
        for row in low:
            again = store.find(DETECTOR.model_id, row.image)
            assert again is not None
            assert again.exact
            assert again.score == found[Path(row.image)] != row.score


def stamp(out: Path) -> Iterator[str]:
    yield from json.loads((out / "rounds" / "mined-1" / "mine.step.json").read_text())["inputs"]


@pytest.mark.usefixtures("no_page")
def test_the_ranking_is_chosen_and_another_one_mines_again(
    tmp_path: Path, inputs: dict[str, Any]
) -> None:
    out = tmp_path / "run"
    run(inputs, out, World(), rounds=1, add=0.3)
    assert "rank" not in stamp(out)  # what was finished before there was a choice stays finished
    plain = sheet_of(out, "mined", 1)
    assert len({name.split("-")[0] for name in plain}) < len(plain)
    each = RankOptions(group=r"^(k\d)", quota_group=1)
    run(inputs, out, World(), rounds=1, add=0.3, resume=True, rank=each)
    assert "rank" in stamp(out)
    chosen = sheet_of(out, "mined", 1)
    assert [name.split("-")[0] for name in chosen] == [f"k{i}" for i in range(6)]
    assert json.loads((out / "loop.json").read_text())["rank"]["quota_group"] == 1


def test_a_command_that_predicts_has_no_features(tmp_path: Path, inputs: dict[str, Any]) -> None:
    from hardmine import run_loop

    commands = {"train_command": "x {weights_out}", "predict_command": "y {weights} {predict_json}"}
    inputs.pop("draws")
    with pytest.raises(ConfigError, match="diverse: predict_command gives boxes but no features"):
        run_loop(
            inputs.pop("data"),
            **inputs,
            **commands,
            out=tmp_path / "out",
            rank=RankOptions(diverse=True),
        )


@pytest.mark.usefixtures("no_page")
def test_what_was_handed_out_before_decides_what_comes_next(tmp_path: Path, pool: Dataset) -> None:
    with PoolStore(tmp_path / "pool.sqlite") as store:
        search = search_of(tmp_path, pool, store, LoopOptions())
        state = replace(state_of(tmp_path), arm=RANDOM)
        first = search.find(state, 2, Amount(30)).images
        later = replace(state, handed_out=list(first))
        assert len(first) == len(search.find(later, 2, Amount(30)).images) == 30
        assert not set(search.find(later, 2, Amount(30)).images) & set(first)


def test_an_arm_that_adds_nothing_is_never_handed_anything(tmp_path: Path, pool: Dataset) -> None:
    with PoolStore(tmp_path / "pool.sqlite") as store:
        search = search_of(tmp_path, pool, store, LoopOptions())
        with pytest.raises(AssertionError, match="arm none adds no images"):
            search.find(replace(state_of(tmp_path), arm=NONE), 1, Amount(3))

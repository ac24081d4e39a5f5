"""Mine a pool: scan it with a detector and hand out the images on which it fires hardest."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hardmine.errors import ConfigError, DataError
from hardmine.pool.candidates import candidate_of, write_candidates
from hardmine.pool.disk import clear_disk_errors
from hardmine.pool.rank import rank_hardest
from hardmine.pool.scan import ScoreImages, scan_pool
from hardmine.pool.store import PoolStore
from hardmine.types import Dataset, ImageState, PoolScore, Problem

if TYPE_CHECKING:
    from hardmine.detect.detector import Detector

DEFAULT_MIN_SCORE = 0.05
_ARM = "mine"


@dataclass(frozen=True, slots=True)
class MiningResult:
    """What mining found.

    ``candidates`` hardest first; ``scanned`` images that have a score; ``problems`` images that
    could not be read; ``duplicates_grouped`` images passed over as near-duplicates of a harder one
    or of one handed out before; ``leaks`` pairs (pool image, the excluded image that it repeats).
    """

    candidates: tuple[PoolScore, ...]
    scanned: int
    problems: tuple[Problem, ...]
    duplicates_grouped: int
    leaks: tuple[tuple[str, str], ...]


def mine(
    detector: Detector | Path | str,
    pool: Dataset | Path | str,
    *,
    top: int | None = None,
    fraction: float | None = None,
    min_score: float | None = None,
    out: Path | str | None = None,
    exclude: Sequence[Dataset | Path | str] = (),
    score_images: ScoreImages | None = None,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> MiningResult:
    """Rank a pool by how hard a detector fires on it.

    The same model on the same pool gives the same answer again; what an earlier model was given
    from the same ``out`` is not handed out twice, and neither is an image that a person decided on.

    Args:
        detector: a detector, or the checkpoint to load one from.
        pool: a folder of images (searched recursively) or a dataset.
        top: hand out at most so many; all that fire when neither this nor ``fraction`` is given.
        fraction: hand out at most this share of the scanned images, in (0, 1].
        min_score: lowest score, inclusive, in [0, 1]; .05 when not given, and 0 means 0.
        out: folder for ``candidates.csv``, ``candidates.json`` and the store ``pool.sqlite``, from
            which a killed scan goes on; nothing is kept when not given.
        exclude: datasets or folders; pool images that repeat one of theirs are leaks, not mined.
        device: where the checkpoint runs; chosen when not given.
        progress: told (done, total) as the scan goes.

    Raises:
        ConfigError: contradictory or impossible limits.
        DataError: the pool is empty or unreadable, the disk is full, or another run uses ``out``.
    """
    floor = DEFAULT_MIN_SCORE if min_score is None else min_score
    _check_limits(top, fraction, floor)
    images = load_pool(pool)
    eye = _load(detector, device) if isinstance(detector, (str, Path)) else detector
    with ExitStack() as stack:
        folder = Path(out) if out else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(clear_disk_errors(folder))
        store = stack.enter_context(PoolStore(folder / "pool.sqlite"))
        paths = [record.path for record in images.records]
        scorer = score_images or _scorer_of(eye, paths)
        scan_pool(eye, paths, store, score_images=scorer, progress=progress)
        hand = _Hand(eye, images, store, _Limits(top, fraction, floor))
        return hand.out(folder, [load_pool(other) for other in exclude])


@dataclass(frozen=True, slots=True)
class _Limits:
    top: int | None
    fraction: float | None
    min_score: float

    def count(self, scanned: int) -> int | None:
        """Return how many to hand out of ``scanned`` images; ``None`` for all."""
        return self.top if self.fraction is None else max(1, round(self.fraction * scanned))


@dataclass(frozen=True, slots=True)
class _Hand:
    detector: Detector
    images: Dataset
    store: PoolStore
    limits: _Limits

    def out(self, folder: Path, exclude: Sequence[Dataset]) -> MiningResult:
        """Choose from what was scanned, write it down and return it."""
        model_id = self.detector.model_id
        here = {str(record.path) for record in self.images.records}
        scores = {s.image: s for s in self.store.iter_ranked(model_id) if s.image in here}
        if not scores:
            raise DataError(
                f"{self.images.root}: none of the pool's {len(here)} images can be read"
            )
        group_of, leaks = _group(scores, exclude)
        earlier = {i for i, model in self.store.mined(_ARM).items() if model != model_id}
        ranking = rank_hardest(
            scores.values(),
            count=self.limits.count(len(scores)),
            min_score=self.limits.min_score,
            group_of=group_of,
            taken=earlier | set(self.store.decisions()),
        )
        bad = tuple(p for p in self.store.problems(model_id) if p.file in here)
        result = MiningResult(
            tuple(scores[image] for image in ranking.chosen),
            len(scores),
            (*self.images.problems, *bad),
            ranking.num_duplicates,
            leaks,
        )
        self._write(folder, result)
        self.store.add_mined(_ARM, 0, ranking.chosen, model_id)
        return result

    def _write(self, folder: Path, result: MiningResult) -> None:
        names, floor, root = self.detector.categories, self.limits.min_score, self.images.root
        write_candidates(
            folder,
            [candidate_of(score, self.store, names, floor, root) for score in result.candidates],
            names,
            pool=str(root),
            model_id=self.detector.model_id,
            min_score=floor,
            scanned=result.scanned,
            duplicates_grouped=result.duplicates_grouped,
            problems=[str(problem) for problem in result.problems],
            leaks=[list(pair) for pair in result.leaks],
        )


def _scorer_of(detector: Detector, paths: Sequence[Path]) -> ScoreImages:
    """Return how images are scored; a predictions file must name at least one of them."""
    from hardmine.detect.images import score_images
    from hardmine.detect.predictions import Predictions

    if isinstance(detector, Predictions) and not any(detector.names(path) for path in paths):
        named = next(iter(detector.by_name), "nothing")
        raise DataError(f"{detector.path}: names none of the pool's images (it names {named!r})")
    return score_images


def load_pool(pool: Dataset | Path | str) -> Dataset:
    """Return the pool's images by absolute path.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    from hardmine.data.load import load_images

    if isinstance(pool, Dataset):
        images = pool
    else:
        root = Path(pool).resolve()
        images = load_images(root, state=ImageState.UNREVIEWED, source="pool")
    if not images.records:
        seen = f" ({len(images.problems)} unreadable files)" if images.problems else ""
        raise DataError(f"{images.root}: no readable image in the pool{seen}")
    return images


def _group(
    scores: dict[str, PoolScore], others: Sequence[Dataset]
) -> tuple[dict[str, int], tuple[tuple[str, str], ...]]:
    from hardmine.data.phash import group_duplicates, hash_images

    excluded = [record.path for other in others for record in other.records]
    hashed = zip(excluded, hash_images(excluded), strict=True) if excluded else ()
    known = [(str(path), value) for path, value in hashed if value is not None]
    groups = group_duplicates([s.phash for s in scores.values()] + [value for _, value in known])
    repeated = {g: name for (name, _), g in zip(known, groups[len(scores) :], strict=True)}
    inside = dict(zip(scores, groups, strict=False))
    leaks = tuple((image, repeated[g]) for image, g in sorted(inside.items()) if g in repeated)
    return {image: g for image, g in inside.items() if g not in repeated}, leaks


def _check_limits(top: int | None, fraction: float | None, min_score: float) -> None:
    if top is not None and fraction is not None:
        raise ConfigError(f"top {top} and fraction {fraction} are both given: give one of them")
    if top is not None and top < 1:
        raise ConfigError(f"top is {top}: give 1 or more")
    if fraction is not None and not 0 < fraction <= 1:
        raise ConfigError(f"fraction is {fraction}: give a share above 0 and up to 1")
    if not 0 <= min_score <= 1:
        raise ConfigError(f"min_score is {min_score}: give a probability from 0 to 1")


def _load(checkpoint: Path | str, device: str | None) -> Detector:
    from hardmine.detect.resolve import open_detector

    return open_detector(checkpoint, device)

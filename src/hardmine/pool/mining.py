"""Mine a pool: scan it with a detector and hand out the images on which it fires hardest."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hardmine.errors import DataError
from hardmine.pool.candidates import candidate_of, write_candidates
from hardmine.pool.disk import clear_disk_errors
from hardmine.pool.explain import Explanation, explain_image
from hardmine.pool.hand import ARM, Hand, Limits
from hardmine.pool.rules import RankOptions
from hardmine.pool.scan import ScoreImages, scan_pool
from hardmine.pool.store import PoolStore
from hardmine.types import Dataset, ImageState, PoolScore, Problem

if TYPE_CHECKING:
    from hardmine.detect.detector import Detector

DEFAULT_MIN_SCORE = 0.05


@dataclass(frozen=True, slots=True)
class MiningResult:
    """What mining found.

    ``candidates`` hardest first; ``scanned`` images that have a score; ``problems`` images that
    could not be read; ``duplicates_grouped`` images passed over as near-duplicates of a harder one
    or of one handed out before, or as its alarm in the same place; ``leaks`` pairs (pool image, the
    excluded image that it repeats); ``similar`` what each candidate stands for.
    """

    candidates: tuple[PoolScore, ...]
    scanned: int
    problems: tuple[Problem, ...]
    duplicates_grouped: int
    leaks: tuple[tuple[str, str], ...]
    similar: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def mine(
    detector: Detector | Path | str,
    pool: Dataset | Path | str,
    *,
    top: int | None = None,
    fraction: float | None = None,
    min_score: float | None = None,
    out: Path | str | None = None,
    exclude: Sequence[Dataset | Path | str] = (),
    rank: RankOptions | None = None,
    score_images: ScoreImages | None = None,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> MiningResult:
    """Rank a pool by how hard a detector fires on it.

    The same model on the same pool gives the same answer again; what an earlier model was given
    from the same ``out`` is not handed out twice, and neither is an image that a person decided on.

    Args:
        detector: a detector, or what names one (``detect.resolve.open_detector``).
        pool: a folder of images (searched recursively) or a dataset.
        top: hand out at most so many; all that fire when neither this nor ``fraction`` is given.
        fraction: hand out at most this share of the scanned images, in (0, 1].
        min_score: lowest score, inclusive, in [0, 1]; .05 when not given, and 0 means 0.
        out: folder for ``candidates.csv``, ``candidates.json`` and the store ``pool.sqlite``, from
            which a killed scan goes on; nothing is kept when not given.
        exclude: datasets, their files or folders of images; pool images that repeat one of theirs
            are leaks, not mined.
        rank: the rule, groups, quotas and variety; the highest score when not given.
        device: where the checkpoint runs; chosen when not given.
        progress: told (done, total) as the scan goes.

    Raises:
        ConfigError: contradictory or impossible limits.
        DataError: the pool is empty or unreadable, the disk is full, or another run uses ``out``.
    """
    with _scanned(
        detector,
        pool,
        limits=Limits(top, fraction, DEFAULT_MIN_SCORE if min_score is None else min_score),
        options=rank or RankOptions(),
        out=out,
        exclude=exclude,
        score_images=score_images,
        device=device,
        progress=progress,
    ) as (hand, folder):
        return _hand_out(hand, folder)


def explain(
    detector: Detector | Path | str,
    pool: Dataset | Path | str,
    image: Path | str,
    *,
    top: int | None = None,
    fraction: float | None = None,
    min_score: float | None = None,
    out: Path | str | None = None,
    exclude: Sequence[Dataset | Path | str] = (),
    rank: RankOptions | None = None,
    score_images: ScoreImages | None = None,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Explanation:
    """Say why an image of a pool is where it is; nothing is handed out.

    Images that are not scored yet are scored first. See :func:`mine` for the other arguments.

    Raises:
        DataError: the image is not in the pool, or could not be read.
    """
    with _scanned(
        detector,
        pool,
        limits=Limits(top, fraction, DEFAULT_MIN_SCORE if min_score is None else min_score),
        options=rank or RankOptions(),
        out=out,
        exclude=exclude,
        score_images=score_images,
        device=device,
        progress=progress,
    ) as (hand, _):
        return explain_image(hand, str(image))


@contextmanager
def _scanned(
    detector: Detector | Path | str,
    pool: Dataset | Path | str,
    *,
    limits: Limits,
    options: RankOptions,
    out: Path | str | None,
    exclude: Sequence[Dataset | Path | str],
    score_images: ScoreImages | None,
    device: str | None,
    progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[Hand, Path]]:
    """Scan what is not scored yet and give the pool with the folder of its store."""
    images = load_pool(pool)
    eye = _load(detector, device) if isinstance(detector, (str, Path)) else detector
    with ExitStack() as stack:
        folder = Path(out) if out else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(clear_disk_errors(folder))
        store = stack.enter_context(PoolStore(folder / "pool.sqlite"))
        paths = [record.path for record in images.records]
        scorer = score_images or _scorer_of(eye, paths)
        scan_pool(eye, paths, store, score_images=scorer, progress=progress)
        hand = Hand(eye, images, store, limits, options, [load_excluded(e) for e in exclude])
        hand.require_scores()
        yield hand, folder


def _hand_out(hand: Hand, folder: Path) -> MiningResult:
    """Choose from what was scanned, write it down and return it."""
    chosen, entries = hand.choose()
    bad = tuple(p for p in hand.store.problems(hand.model_id) if p.file in hand.here)
    result = MiningResult(
        tuple(entries[image].score for image in chosen.images),
        hand.scanned,
        (*hand.images.problems, *bad),
        chosen.num_similar,
        hand.leaks,
        chosen.similar,
    )
    _write(hand, folder, result)
    hand.store.add_mined(ARM, 0, chosen.images, hand.model_id)
    return result


def _write(hand: Hand, folder: Path, result: MiningResult) -> None:
    names, floor, root = hand.detector.categories, hand.limits.min_score, hand.images.root
    rows = [
        candidate_of(score, hand.store, names, floor, root, result.similar[score.image])
        for score in result.candidates
    ]
    write_candidates(
        folder,
        rows,
        names,
        pool=str(root),
        model_id=hand.model_id,
        min_score=floor,
        rank=asdict(hand.options),
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


def load_excluded(data: Dataset | Path | str) -> Dataset:
    """Return images that must not be mined: a folder's, or those of a labelled dataset's file.

    Raises:
        DataError: there is no image.
    """
    from hardmine.data.load import load_splits

    if isinstance(data, Dataset) or Path(data).is_dir():
        return load_pool(data)
    parts = list(load_splits(Path(data).resolve()).values())
    return parts[0].with_records([record for part in parts for record in part.records])


def _load(checkpoint: Path | str, device: str | None) -> Detector:
    from hardmine.detect.resolve import open_detector

    return open_detector(checkpoint, device)

"""Mine a pool: scan it with a detector and hand out the images on which it fires hardest."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hardmine.disk import clear_disk_errors
from hardmine.mining.candidates_file import candidate_of, write_candidates
from hardmine.mining.explain_ranking import Explanation, explain_image
from hardmine.mining.image_selection import Hand
from hardmine.mining.mine_options import MineOptions
from hardmine.mining.pool_store import PoolStore
from hardmine.mining.scan_dispatch import Notify, scan
from hardmine.mining.sources.pool_source import load_excluded
from hardmine.option_fields import takes_options
from hardmine.types import Dataset, Detections, PoolScore, Problem

if TYPE_CHECKING:
    from hardmine.inference.detector import Detector

_ARM = "mine"


@dataclass(frozen=True, slots=True, repr=False)
class MiningResult:
    """What mining found; a notebook shows the hardest images with their alarms.

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
    alarms: Mapping[str, int] = field(default_factory=dict)
    """How many alarms each candidate has."""
    detections: Mapping[str, Detections] = field(default_factory=dict, compare=False)
    """The alarms of each candidate, by its name, best first."""

    def __len__(self) -> int:
        return len(self.candidates)

    def __repr__(self) -> str:
        scores = [candidate.score for candidate in self.candidates]
        parts = [f"{len(scores)} of {self.scanned} images handed out"]
        parts += [f"scores {scores[0]:.2f} to {scores[-1]:.2f}"] if scores else []
        parts += [f"{self.duplicates_grouped} near-duplicates"] if self.duplicates_grouped else []
        parts += [f"{len(self.leaks)} leaks"] if self.leaks else []
        parts += [f"{len(self.problems)} unreadable"] if self.problems else []
        return f"MiningResult({', '.join(parts)})"

    def _repr_html_(self) -> str:
        from hardmine.conversions import mining_html

        return mining_html(self)


@takes_options(MineOptions, renamed={"notify": "progress"})
def mine(
    detector: Detector | Path | str,
    pool: Dataset | Path | str,
    *,
    options: MineOptions | None = None,
    out: Path | str | None = None,
    device: str | None = None,
    progress: Notify | None = None,
) -> MiningResult:
    """Rank a pool by how hard a detector fires on it.

    The same model on the same pool gives the same answer again; what an earlier model was given
    from the same ``out`` is not handed out twice, and neither is an image that a person decided on.

    Args:
        detector: a detector, or what names one (``hardmine.load_detector``).
        pool: a folder of images (searched recursively), a glob, a ``.txt`` list, a tar or zip
            archive, a URL that fsspec or Arrow reads, or a dataset.
        options: how many images, which not, and by which ranking; each field of
            :class:`~hardmine.mining.mine_options.MineOptions` and of its ``rank`` is a keyword too,
            such as ``top=30`` or ``min_score=0.2``.
        out: folder for ``candidates.csv``, ``candidates.json`` and the store ``pool.sqlite``, from
            which a killed scan goes on; nothing is kept when not given.
        device: where a detector that is named runs; chosen when not given.
        progress: called with (what, done, total) as the work goes; a total of 0 is unknown.

    Raises:
        ConfigError: contradictory or impossible options.
        DataError: the pool is empty or unreadable, the disk is full, or another run uses ``out``.

    Example:
        >>> mined = hardmine.mine(detector, "pool", top=2)
        >>> [(Path(one.image).name, round(one.score, 2)) for one in mined.candidates]
        [('p3.png', 0.95), ('p1.png', 0.7)]
    """
    request = options or MineOptions()
    with _scanned(detector, pool, request, out, device, progress) as (hand, folder):
        return _hand_out(hand, folder)


@takes_options(MineOptions, renamed={"notify": "progress"})
def explain(
    detector: Detector | Path | str,
    pool: Dataset | Path | str,
    image: Path | str,
    *,
    options: MineOptions | None = None,
    out: Path | str | None = None,
    device: str | None = None,
    progress: Notify | None = None,
) -> Explanation:
    """Say why an image of a pool is where it is; nothing is handed out.

    Images that are not scored yet are scored first. See :func:`mine` for the other arguments.

    Raises:
        DataError: the image is not in the pool, or could not be read.
    """
    request = options or MineOptions()
    with _scanned(detector, pool, request, out, device, progress) as (hand, _):
        return explain_image(hand, str(image))


@contextmanager
def _scanned(
    detector: Detector | Path | str,
    pool: Dataset | Path | str,
    options: MineOptions,
    out: Path | str | None,
    device: str | None,
    progress: Notify | None,
) -> Iterator[tuple[Hand, Path]]:
    """Scan what is not scored yet and give the pool with the folder of its store."""
    eye = _load(detector, device) if isinstance(detector, (str, Path)) else detector
    notify = progress or _silent
    with ExitStack() as stack:
        folder = Path(out) if out else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(clear_disk_errors(folder))
        store = stack.enter_context(PoolStore(folder / "pool.sqlite"))
        if options.ray is not None:
            from hardmine.mining.ray_scan import ray_cluster

            stack.enter_context(ray_cluster(options.ray))
        scanned = scan(eye, pool, store, options, cache=folder / "runtimes", notify=notify)
        yield (
            Hand(
                eye,
                scanned.source,
                store,
                options,
                scanned.summary.scanned,
                scanned.score_again,
                _taken(store, eye.model_id),
                [load_excluded(other) for other in options.exclude],
                problems=scanned.problems,
                progress=partial(notify, "score again in float32"),
            ),
            folder,
        )


def _taken(store: PoolStore, model_id: str) -> Mapping[str, str]:
    """Return the images handed out by other models or decided on, with what is to be said of them."""
    mined = store.mined(_ARM).items()
    told = {image: f"handed out before (model {m})" for image, m in mined if m != model_id}
    decided = store.decisions().items()
    return told | {image: f"decided: {d.verdict.value} by {d.who}" for image, d in decided}


def _hand_out(hand: Hand, folder: Path) -> MiningResult:
    """Choose from what was scanned, write it down and return it."""
    chosen, entries = hand.choose()
    bad = [p for p in hand.store.problems(hand.model_id) if hand.source.holds(p.file)]
    result = MiningResult(
        tuple(entries[image].score for image in chosen.images),
        hand.scanned,
        tuple(dict.fromkeys((*hand.problems, *bad))),
        chosen.num_similar,
        hand.leaks,
        chosen.similar,
        {image: len(entries[image].alarms) for image in chosen.images},
        {
            image: replace(
                entries[image].alarms, categories=hand.detector.categories, path=Path(image)
            )
            for image in chosen.images
        },
    )
    _write(hand, folder, result)
    hand.store.add_mined(_ARM, 0, chosen.images, hand.model_id)
    return result


def _write(hand: Hand, folder: Path, result: MiningResult) -> None:
    names, rank, root = hand.detector.categories, hand.options.rank, hand.source.root
    rows = [
        candidate_of(score, hand.store, names, rank, root, result.similar[score.image])
        for score in result.candidates
    ]
    write_candidates(
        folder,
        rows,
        names,
        pool=str(root),
        model_id=hand.model_id,
        min_score=rank.min_score,
        rank=asdict(rank),
        scanned=result.scanned,
        duplicates_grouped=result.duplicates_grouped,
        problems=[str(problem) for problem in result.problems],
        leaks=[list(pair) for pair in result.leaks],
    )


def _silent(what: str, done: int, total: int) -> None:
    del what, done, total


def _load(checkpoint: Path | str, device: str | None) -> Detector:
    from hardmine.inference.load_detector import load_detector

    return load_detector(checkpoint, device)

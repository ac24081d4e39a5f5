"""Mine a pool: scan it, hand out the images on which a detector fires hardest, explain the ranking."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardmine.data.video import hours_of_videos, split_frame
from hardmine.detections import Detections
from hardmine.errors import ConfigError, DataError, on_one_line
from hardmine.files import clear_disk_errors
from hardmine.inference.image_loading import path_of
from hardmine.mining.candidates_file import candidate_of, keep_list, write_candidates
from hardmine.mining.image_selection import ImageSelector, Reason, Rejection, Selected
from hardmine.mining.mine_options import RULES, MineOptions, RankOptions
from hardmine.mining.pool_leaks import list_excluded
from hardmine.mining.pool_store import PoolStore
from hardmine.mining.ranking import RankedImage, rank_images
from hardmine.mining.scan import Notify, ScannedPool, scan, silent
from hardmine.mining.sources.pool_source import find_image, name_inside
from hardmine.option_fields import takes_options
from hardmine.plurals import counted
from hardmine.types import Dataset, PoolScore, Problem, reaches

if TYPE_CHECKING:
    from hardmine.inference.detector import Detector

_ARM = "mine"


@dataclass(frozen=True, slots=True, repr=False)
class MiningResult:
    """What mining found; a notebook shows the hardest images with their alarms.

    Attributes:
        candidates: the images handed out, hardest first.
        scanned: how many images of the pool have a score.
        problems: images that could not be listed or read.
        duplicates_grouped: images left out as near-duplicates of a harder one or of one handed out
            before, or as its alarm in the same place.
        leaks: pairs (pool image, the excluded image that it repeats).
        similar: the images that each candidate stands for.
        alarms: how many alarms each candidate has.
        detections: the alarms of each candidate, best first.
        reasons: how many images are not handed out, for each reason.
        best_score: the highest score in the pool, known when nothing is handed out.
        min_score: the lowest score of an alarm.
        video_hours: how long the pool's videos are; None where none is among what is handed out.
        firing_frames: how many of their frames fire, repeats and near-duplicates too.
        earlier_frames: frames that only earlier scans into the same folder took, at other times; they
            rank and count as well. Known where ``video_hours`` is.
    """

    candidates: tuple[PoolScore, ...]
    scanned: int
    problems: tuple[Problem, ...]
    duplicates_grouped: int
    leaks: tuple[tuple[str, str], ...]
    similar: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    alarms: Mapping[str, int] = field(default_factory=dict)
    detections: Mapping[str, Detections] = field(default_factory=dict, compare=False)
    reasons: Mapping[Reason, int] = field(default_factory=dict)
    best_score: float | None = None
    min_score: float = 0.0
    video_hours: float | None = None
    firing_frames: int = 0
    earlier_frames: int = 0

    def __len__(self) -> int:
        return len(self.candidates)

    def __repr__(self) -> str:
        scores = [candidate.score for candidate in self.candidates]
        parts = [f"{len(scores)} of {self.scanned} images handed out"]
        parts += [f"scores {scores[0]:.2f} to {scores[-1]:.2f}"] if scores else []
        parts += [f"{self.duplicates_grouped} near-duplicates"] if self.duplicates_grouped else []
        parts += (
            [f"{counted(len(self.leaks), 'copy', 'copies')} of excluded images left out"]
            if self.leaks
            else []
        )
        parts += [f"{len(self.problems)} unreadable"] if self.problems else []
        return f"MiningResult({', '.join(parts)})"

    def _repr_html_(self) -> str:
        from hardmine.conversions import mining_html

        return mining_html(self)

    def per_hour(self) -> str | None:
        """Return what fires per hour of video, in one line; ``None`` without videos."""
        if not self.video_hours:
            return None
        handed_out = sum(split_frame(each.image) is not None for each in self.candidates)
        firing, given = (n / self.video_hours for n in (self.firing_frames, handed_out))
        line = (
            f"{_duration(self.video_hours)} of video: {_rate(firing)} of the frames looked at fire per "
            f"hour from score {self.min_score:g} on, and {_rate(given)} alarms per hour are handed out "
            "(the same alarm in the same place once)"
        )
        if not self.earlier_frames:
            return line
        frames = counted(self.earlier_frames, "frame")
        return (
            f"{line}; {frames} of earlier scans into this folder, taken at other times (every), also "
            "rank and count: a new folder (out) leaves them out"
        )

    def why_nothing(self) -> str | None:
        """Return why nothing is handed out, in one line; ``None`` when something is.

        Such as "0 handed out: 60 scanned, best score .03, below --min-score .05".
        """
        if self.candidates:
            return None
        line = f"0 handed out: {self.scanned} scanned"
        if self.best_score is not None:
            line += f", best score {_figure(self.best_score, self.min_score)}"
            if not reaches(self.best_score, self.min_score):
                return f"{line}, below --min-score {self.min_score:g}".replace(" 0.", " .")
        counts = Counter(self.reasons).most_common()
        return line + "".join(f"; {number} {reason.value}" for reason, number in counts)


def _duration(hours: float) -> str:
    for size, unit in ((1.0, "hours"), (60.0, "minutes")):
        if hours * size >= 1:
            return f"{hours * size:.1f} {unit}"
    return f"{3600 * hours:.0f} seconds"


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _figure(score: float, limit: float) -> str:
    """Return a score such as ".03", with as many digits as show it below a limit that it is below."""
    text, digits = f"{score:.2f}", 2
    while score < limit <= float(text) and digits < 6:
        digits += 1
        text = f"{score:.{digits}f}"
    return text.removeprefix("0")


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
        detector: a detector, or what names one (``inference.load_detector.load_detector``).
        pool: a folder of images (searched recursively), a glob, a ``.txt`` list, a tar or zip
            archive, a URL that fsspec or Arrow reads, or a dataset.
        options: how many images, which not, and by which ranking; each field of
            :class:`~hardmine.mining.mine_options.MineOptions` and of its ``rank`` is a keyword too,
            such as ``top=30`` or ``min_score=0.2``.
        out: folder for ``candidates.csv``, ``candidates.json`` and the store ``pool.sqlite``, from
            which a killed scan goes on; nothing is kept when not given. A list that is there is kept as
            ``candidates-old.csv`` where verdicts are filled in, or the new one is empty.
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
    with _scanned(detector, pool, request, out, device, progress) as (selector, folder):
        return _hand_out(selector, folder)


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
    with _scanned(detector, pool, request, out, device, progress) as (selector, _):
        return explain_image(selector, str(image))


@contextmanager
def _scanned(
    detector: Detector | Path | str,
    pool: Dataset | Path | str,
    options: MineOptions,
    out: Path | str | None,
    device: str | None,
    progress: Notify | None,
) -> Iterator[tuple[ImageSelector, Path]]:
    """Scan what is not scored yet; give what selects from it, and the folder of its store."""
    loaded = _load(detector, device)
    options = replace(options, rank=_with_class_scores(options.rank, loaded))
    notify = progress or silent
    excluded = list_excluded(options.exclude, options.images)
    with ExitStack() as stack:
        folder = Path(out) if out else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(clear_disk_errors(folder))
        store = stack.enter_context(PoolStore(folder / "pool.sqlite"))
        if options.ray is not None:
            from hardmine.mining.pool_scorers import ray_cluster

            stack.enter_context(ray_cluster(options.ray))
        scanned = scan(loaded, pool, store, options, cache=folder / "runtimes", progress=notify)
        selector = ImageSelector(
            scanned,
            options,
            taken=_taken(store, loaded.model_id),
            excluded=excluded,
            progress=partial(notify, "score again in float32"),
        )
        yield selector, folder


def _with_class_scores(rank: RankOptions, detector: Detector) -> RankOptions:
    """Give a rule of each class the thresholds that the model holds.

    Raises:
        ConfigError: it needs them, and there are none, or not one for each class.
    """
    if not RULES[rank.rule].of_each_class:
        return rank
    names, given = detector.categories, rank.class_scores
    if not given:
        point = getattr(detector, "operating_point", None)
        if point is None:
            raise ConfigError(
                f"rank {rank.rule!r} needs a threshold for each class, and the model holds none: "
                "'hardmine threshold RUN DATA --min-recall 0.8 --per-class --write' writes them into it"
            )
        given = tuple(point.per_class.get(name, point.score) for name in names)
    if len(given) != len(names):
        raise ConfigError(
            f"class_scores: got {len(given)} thresholds for the {len(names)} classes of the detector"
        )
    return replace(rank, class_scores=given)


def _taken(store: PoolStore, model_id: str) -> Mapping[str, Rejection]:
    """Return the images that were handed out by other models or decided on."""
    taken: dict[str, Rejection] = {}
    for image, by in store.mined(_ARM).items():
        if by != model_id:
            text = f"handed out before (model {by})"
            taken[image] = Rejection(Reason.HANDED_OUT_BEFORE, text)
    for image, decision in store.decisions().items():
        text = f"decided: {decision.verdict.value} by {decision.who}"
        taken[image] = Rejection(Reason.DECIDED, text)
    return taken


def _hand_out(selector: ImageSelector, folder: Path) -> MiningResult:
    """Select from what was scanned, write it down and return it."""
    selected = selector.select()
    images = [selected.shortlist[image] for image in selected.images]
    names = selector.scanned.detector.categories
    hours, firing, earlier = _video_figures(selector, selected.images)
    result = MiningResult(
        candidates=tuple(image.score for image in images),
        scanned=selector.scanned.num_images,
        problems=selector.scanned.problems,
        duplicates_grouped=selected.num_represented,
        leaks=selector.leaks,
        similar=selected.similar,
        alarms={image.image: len(image.alarms) for image in images},
        detections={
            image.image: replace(image.alarms, categories=names, path=path_of(image.image))
            for image in images
        },
        reasons=dict(selected.reasons),
        best_score=None if images else selector.best_score(),
        min_score=selector.rank.min_score,
        video_hours=hours,
        firing_frames=firing,
        earlier_frames=earlier,
    )
    _write(selector, folder, result)
    scanned = selector.scanned
    scanned.store.add_mined(_ARM, 0, selected.images, scanned.model_id)
    return result


def _video_figures(
    selector: ImageSelector, handed_out: Sequence[str]
) -> tuple[float | None, int, int]:
    """Return the hours of the pool's videos, how many frames fire, and how many are of earlier scans."""
    if not any(split_frame(image) for image in handed_out):
        return None, 0, 0
    scanned = selector.scanned
    is_here: dict[str, bool] = {}  # the store may know other pools too
    frames: list[str] = []
    photos: list[str] = []
    firing = 0
    for row in scanned.store.iter_ranked(scanned.model_id):
        found = split_frame(row.image)
        if found is None:
            photos.append(row.image)
            continue
        if found[0] not in is_here:
            is_here[found[0]] = scanned.source.holds(row.image)
        if is_here[found[0]]:
            frames.append(row.image)
            firing += selector.rank.reaches(row.score)
    earlier = len(frames) + len(photos) - scanned.num_images
    if earlier > 0:  # else each row is of this scan, and no photo has to be looked for
        earlier -= sum(not scanned.source.holds(photo) for photo in photos)
    return hours_of_videos(frames), firing, max(0, earlier)


def _write(selector: ImageSelector, folder: Path, result: MiningResult) -> None:
    scanned, rank = selector.scanned, selector.rank
    names = scanned.detector.categories
    rows = [
        candidate_of(score, scanned.store, names, rank, scanned.source, result.similar[score.image])
        for score in result.candidates
    ]
    keep_list(folder / "candidates.csv", if_any=not rows)
    videos: dict[str, Any] = {}
    if result.video_hours is not None:
        videos = {"video_hours": result.video_hours, "firing_frames": result.firing_frames}
    write_candidates(
        folder,
        rows,
        names,
        **videos,
        pool=scanned.source.name,
        model_id=scanned.model_id,
        min_score=rank.min_score,
        rank=asdict(rank),
        scanned=result.scanned,
        duplicates_grouped=result.duplicates_grouped,
        problems=[str(problem) for problem in result.problems],
        leaks=[list(pair) for pair in result.leaks],
    )


def _load(given: Detector | Path | str, device: str | None) -> Detector:
    from hardmine.inference.detector import require_detector
    from hardmine.inference.load_detector import load_detector

    return (
        load_detector(given, device) if isinstance(given, (str, Path)) else require_detector(given)
    )


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is known of one image; ``lines`` says it in words."""

    image: str
    score: float
    category: str
    top_box: tuple[float, ...] | None
    num_alarms: int
    ranks: Mapping[str, tuple[int, int]]
    """Place and number of images by each rule, among the images looked at."""
    group: str
    verdict: str
    """What became of it: its place in the list, or why it is not there."""
    similar: tuple[str, ...]
    min_score: float

    def lines(self) -> list[str]:
        """Return a line for each fact."""
        box = "none" if self.top_box is None else ", ".join(f"{v:.1f}" for v in self.top_box)
        ranks = ", ".join(f"{rule} {place} of {of}" for rule, (place, of) in self.ranks.items())
        return [
            f"image: {on_one_line(self.image)}",
            f"score: {self.score:.4f}{f' ({self.category})' if self.category else ''}",
            f"top box (x1, y1, x2, y2): {box}",
            f"alarms at {self.min_score:g} or more: {self.num_alarms}",
            f"rank by rule: {ranks or 'none: it is not among the images looked at'}",
            f"group: {self.group or 'none'}",
            f"stands for: {on_one_line(', '.join(self.similar)) or 'itself only'}",
            f"verdict: {self.verdict}",
        ]


def explain_image(selector: ImageSelector, image: str) -> Explanation:
    """Return why an image is where it is, with the selection made anew and nothing written.

    Args:
        image: its path or URL, or its name inside the pool.

    Raises:
        DataError: it is not in the pool, or could not be read.
    """
    scanned, rank = selector.scanned, selector.rank
    name = find_image(scanned.source, image)
    if scanned.store.find(scanned.model_id, name) is None:
        reasons = {problem.file: str(problem) for problem in scanned.problems}
        raise DataError(reasons.get(name) or _not_there(scanned, image))
    selected = selector.select()
    row = selector.exact_score(name)
    if row is None:
        raise DataError(f"{name}: could be read before and cannot be read any more")
    found = scanned.store.alarms(scanned.model_id, name)
    inside = name_inside(scanned.source, name)
    similar = selected.similar.get(name, ())
    return Explanation(
        image=name,
        score=row.score,
        category=_category(scanned.detector.categories, row.label),
        top_box=tuple(float(v) for v in found.boxes[0]) if len(found) else None,
        num_alarms=len(rank.alarms(found)),
        ranks=_ranks(selector, selected, name),
        group=rank.group_of(inside),
        verdict=_verdict(selector, selected, row),
        similar=tuple(name_inside(scanned.source, other) for other in similar),
        min_score=rank.min_score,
    )


def _not_there(scanned: ScannedPool, image: str) -> str:
    rows = scanned.store.iter_ranked(scanned.model_id)
    other = next((row.image for row in rows if scanned.source.holds(row.image)), None)
    said = f"{image}: not an image of the pool {scanned.source.name}"
    if other is None:
        return said
    return f"{said}, whose images are named such as {name_inside(scanned.source, other)}"


def _category(names: tuple[str, ...], label: int) -> str:
    return names[label - 1] if 1 <= label <= len(names) else ""


def _ranks(selector: ImageSelector, selected: Selected, image: str) -> dict[str, tuple[int, int]]:
    """Return the place by each rule among the images looked at, before anything is left out."""
    looked_at: RankedImage | None = selected.shortlist.get(image)
    if looked_at is None or not len(looked_at.alarms):
        return {}
    ranks: dict[str, tuple[int, int]] = {}
    for name, rule in RULES.items():
        if rule.of_each_class and not selector.rank.class_scores:
            continue  # without the thresholds of the classes it has no order
        rows = rank_images(list(selected.shortlist.values()), replace(selector.rank, rule=name))
        place = next(i for i, other in enumerate(rows, 1) if other.image == image)
        ranks[name] = (place, len(rows))
    return ranks


def _verdict(selector: ImageSelector, selected: Selected, row: PoolScore) -> str:
    image = row.image
    if image in selected.images:
        place = selected.images.index(image) + 1
        return f"handed out as number {place} of {len(selected.images)}"
    rejection = selector.barred.get(image) or selected.rejections.get(image)
    if rejection is not None:
        return f"not handed out: {rejection}"
    if not selector.rank.reaches(row.score):
        return f"not handed out: its score is below {selector.rank.min_score:g}"
    return "not handed out: too many others score higher for it to be looked at"

"""What runs on a Ray worker: a detector that stays loaded, and blocks of image names to score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hardmine.mining.pool_store import pack_alarms, unpack_alarms
from hardmine.mining.sources.pool_source import open_image
from hardmine.mining.sources.remote import read_ahead
from hardmine.types import Detections, PoolScore, Problem

if TYPE_CHECKING:
    from hardmine.inference.detector import Detector

COLUMNS = ("image", "score", "label", "num_alarms", "level", "phash", "alarms", "kind", "reason")
"""Of a result; ``kind`` and ``reason`` are empty unless the image is a problem."""


class Worker:
    """Scores blocks of names; one lives in each actor.

    Args:
        detector: a reference to the detector in Ray's object store.
        runtime: of the first cut; ``None`` scores in full instead.
        cores: how many the actor was given.
    """

    def __init__(self, detector: Any, runtime: str | None, cores: int) -> None:
        import ray

        from hardmine.inference.image_loading import use_cores
        from hardmine.inference.runtimes.runtime import make_scorer

        use_cores(cores)
        self._detector: Detector = ray.get(detector)
        self._scorer = None if runtime is None else make_scorer(self._detector, runtime)

    def __call__(self, block: Any) -> Any:
        """Return a table of results for a table of names."""
        import pyarrow

        names = block["image"].to_pylist()
        rows = self._first_cut(names) if self._scorer else self._full(names)
        return pyarrow.table(dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True)))

    def _first_cut(self, names: list[str]) -> list[tuple[Any, ...]]:
        from hardmine.inference.hot_pass import first_cut

        assert self._scorer is not None
        items = read_ahead(open_image(name) for name in names)
        batches = first_cut(self._scorer, self._detector.resize, items)
        return [
            _problem_row(r)
            if isinstance(r, Problem)
            else (r.name, r.score, r.label, -1, r.level, r.phash, b"", "", "")
            for batch in batches
            for r in batch
        ]

    def _full(self, names: list[str]) -> list[tuple[Any, ...]]:
        from hardmine.mining.full import score_in_full

        rows: list[tuple[Any, ...]] = []
        for result in score_in_full(self._detector, names):
            if isinstance(result, Problem):
                rows.append(_problem_row(result))
                continue
            s, found = result
            values = (s.image, s.score, s.label, s.num_alarms, s.level, s.phash)
            rows.append((*values, pack_alarms(found), "", ""))
        return rows


def read_rows(
    table: Any, model_id: str, *, exact: bool
) -> list[tuple[PoolScore, Detections] | Problem]:
    """Return the results that a table of :class:`Worker` holds."""
    results: list[tuple[PoolScore, Detections] | Problem] = []
    for row in table.to_pylist():
        if row["kind"]:
            results.append(Problem(row["kind"], row["image"], -1, row["reason"]))
            continue
        score = PoolScore(
            row["image"],
            row["score"],
            row["label"],
            row["num_alarms"],
            row["level"],
            row["phash"],
            model_id,
            exact,
        )
        results.append((score, unpack_alarms(row["alarms"])))
    return results


def _problem_row(problem: Problem) -> tuple[Any, ...]:
    return (problem.file, 0.0, 0, 0, -1, 0, b"", problem.kind, problem.reason)

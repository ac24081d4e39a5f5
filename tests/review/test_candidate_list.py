"""What there is to look at in a run, a store, a list; and what a CSV of verdicts does to it."""

from __future__ import annotations

import json
import sqlite3
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardmine.detections import Detections
from hardmine.errors import DataError
from hardmine.evaluation.doubtful_labels import find_doubtful_labels
from hardmine.evaluation.scored_images import Scored
from hardmine.mining.candidates_file import Candidate, write_candidates
from hardmine.mining.pool_store import LABELS, PoolStore, StoredDecision
from hardmine.review.candidate_list import (
    CANDIDATES,
    DOUBTFUL_LABELS,
    FIRES,
    SECOND_LOOK,
    SET_ASIDE,
    CandidateList,
    labels_in_doubt,
    open_candidates,
)
from hardmine.review.review_pictures import ReviewPictures
from hardmine.review.run_review import export_to_label, open_listed, to_label
from hardmine.types import Dataset, Decision, ImageRecord, ImageState, NamedBox, Verdict
from review_world import CLASSES, MODEL, alarm, draw, mined, score_of


def leaders(listed: CandidateList, queue: str = CANDIDATES) -> list[str]:
    return [i.name for i in listed.items if i.leader < 0 and i.queue == queue]


def say(
    run: Path, verdict: Verdict, *names: str, queue: str = "", model: str = MODEL, who: str = "ann"
) -> None:
    with PoolStore(run / "pool.sqlite") as store:
        pool = run.parent / "pool"
        said = [
            Decision(str(pool / name), verdict, who, "2026-01-01T00:00:00", model) for name in names
        ]
        store.add_decisions(said, queue=queue)


def test_a_run_its_store_and_its_list_are_three_names_of_one_thing(tmp_path: Path) -> None:
    run = mined(tmp_path, 4, similar={0: 1})
    for target in (run, run / "pool.sqlite", run / "candidates.csv", run / "candidates.json"):
        listed = open_candidates(target)
        assert leaders(listed) == [f"pic-00{i}.jpg" for i in range(4)]
        assert (listed.store, listed.categories) == ((run / "pool.sqlite").resolve(), CLASSES)
        assert [listed.items[at].name for at in listed.items[0].members] == ["like-0-0.jpg"]
        member = listed.items[1]
        assert member.path == str(tmp_path / "pool" / "like-0-0.jpg")
        assert member.score == pytest.approx(0.94)
        with PoolStore(listed.store, read_only=True) as store:
            first, other = (listed.boxes(listed.items[at], store) for at in (0, 1))
        assert first == other
        assert first[0] == [30, 20, 110, 90, pytest.approx(0.95), "raccoon"]


def test_a_csv_that_was_shortened_shows_its_rows_alone(tmp_path: Path) -> None:
    run = mined(tmp_path, 4, similar={2: 1})
    lines = (run / "candidates.csv").read_text().splitlines()
    (run / "candidates.csv").write_text("\n".join([lines[0], lines[3], lines[1]]) + "\n")
    listed = open_candidates(run / "candidates.csv")
    assert leaders(listed) == ["pic-000.jpg", "pic-002.jpg"]
    assert [item.name for item in listed.items if item.leader >= 0] == ["like-2-0.jpg"]


def test_a_list_without_boxes_and_store_makes_a_store_beside_it(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg", 1)
    (tmp_path / "some.csv").write_text("image,verdict\na.jpg,empty\n")
    listed = open_listed(tmp_path / "some.csv")
    assert [item.path for item in listed.items] == [str(tmp_path / "a.jpg")]
    with PoolStore(tmp_path / "pool.sqlite", read_only=True) as store:
        said = store.decisions()[str(tmp_path / "a.jpg")]
    assert (said.verdict, said.who) == (Verdict.EMPTY, str(tmp_path / "some.csv"))


@pytest.fixture
def loop_run(tmp_path: Path) -> Path:
    """A loop of two rounds with a second look, what was set aside, and labels in doubt."""
    run = tmp_path / "run"

    def write(folder: Path, name: str, *rows: str, **facts: Any) -> None:
        found = alarm(0.8)
        listed = [
            Candidate(r, str(draw(tmp_path / "pool" / r, 7)), 0.8, "raccoon", found) for r in rows
        ]
        write_candidates(folder, listed, CLASSES, name=name, **facts)

    write(run / "rounds/mined-1", "candidates", "a.jpg", "b.jpg", model_id="m0")
    write(run / "rounds/mined-1", "second_look", "a.jpg", model_id="m1")
    write(run / "rounds/mined-2", "candidates", "c.jpg", model_id="m1")
    write(run / "rounds/mined-2", "second_look", "b.jpg", "a.jpg", model_id="m2")
    write(run / "rounds/mined-2", "quarantine", "d.jpg", model_id="m1")
    write(run / "rounds/random-1", "candidates", "b.jpg", "e.jpg", model_id="")
    labels = {"image": "x.jpg", "path": str(draw(tmp_path / "pool/x.jpg", 9)), "score": 0.9}
    labels |= {"class": "raccoon", "boxes": [[1, 2, 3, 4, 0.9, "raccoon"]]}
    labels |= {"labels": [(5, 6, 7, 8, None, "raccoon")]}
    (run / DOUBTFUL_LABELS).write_text(json.dumps({"candidates": [labels]}))
    thresholds = [{"arm": "mined", "round": 0, "score_threshold": 0.4}]
    (run / "rounds.json").write_text(json.dumps(thresholds))
    PoolStore(run / "pool.sqlite").close()
    return run


def test_verdicts_of_a_file_are_on_the_pool_and_not_on_labelled_images_of_the_same_name(
    loop_run: Path,
) -> None:
    text = (loop_run / DOUBTFUL_LABELS).read_text().replace('"image": "x.jpg"', '"image": "a.jpg"')
    (loop_run / DOUBTFUL_LABELS).write_text(text)
    file = loop_run / "labels.json"
    file.write_text(json.dumps({"classes": ["raccoon"], "labels": {"a.jpg": []}}))
    open_listed(file)
    with PoolStore(loop_run / "pool.sqlite", read_only=True) as store:
        assert [Path(image).name for image in store.decisions()] == ["a.jpg"]


def test_a_loop_has_its_rounds_and_the_queues_beside_them(loop_run: Path) -> None:
    listed = open_candidates(loop_run)
    found = [(i.name, i.round) for i in listed.items if i.queue == CANDIDATES]
    assert found == [
        ("a.jpg", "mined 1"),
        ("b.jpg", "mined 1"),
        ("e.jpg", "random 1"),
        ("c.jpg", "mined 2"),
    ]
    second = [(i.name, i.round, i.model_id) for i in listed.items if i.queue == SECOND_LOOK]
    assert second == [("a.jpg", "mined 2", "m2"), ("b.jpg", "mined 2", "m2")]
    assert leaders(listed, SET_ASIDE) == ["d.jpg"]
    assert [i.labels for i in listed.items if i.queue == LABELS] == [
        [(5, 6, 7, 8, None, "raccoon")]
    ]
    assert listed.thresholds == {"mined 1": 0.4}
    assert "2 second_look" in repr(listed)


def test_a_second_look_is_settled_by_a_decision_that_was_made_in_it(loop_run: Path) -> None:
    listed = open_candidates(loop_run)
    item = next(i for i in listed.items if i.queue == SECOND_LOOK)
    candidate = listed.items[0]

    def said(queue: str, model: str) -> StoredDecision:
        return StoredDecision(1, 1, queue, Decision(item.path, Verdict.EMPTY, "ann", "t", model))

    assert candidate.is_settled(said("", "m0"))
    assert not item.is_settled(None)
    assert not item.is_settled(said("", "m0"))
    assert not item.is_settled(said(SECOND_LOOK, "m1"))  # of an earlier round
    assert item.is_settled(said(SECOND_LOOK, "m2"))


def test_confirmed_negatives_on_which_another_model_is_sure_are_asked_about_again(
    tmp_path: Path,
) -> None:
    run = mined(tmp_path, 4)
    say(run, Verdict.EMPTY, "pic-000.jpg", "pic-001.jpg", "pic-002.jpg")
    say(run, Verdict.IGNORE, "pic-003.jpg")
    with PoolStore(run / "pool.sqlite") as store:
        pool = tmp_path / "pool"
        scores = {"pic-000.jpg": 0.97, "pic-001.jpg": 0.9, "pic-002.jpg": 0.89, "pic-003.jpg": 0.99}
        rows = [(score_of(pool / name, s, "new"), alarm(s)) for name, s in scores.items()]
        store.add_scores(rows, model_id="new")
    assert leaders(open_candidates(run), FIRES) == ["pic-000.jpg", "pic-001.jpg"]
    say(run, Verdict.EMPTY, "pic-000.jpg", queue=FIRES, model="new")
    assert leaders(open_candidates(run), FIRES) == ["pic-001.jpg"]


def test_a_store_alone_shows_what_was_handed_out_or_else_all_that_fires(tmp_path: Path) -> None:
    run = mined(tmp_path, 3)
    for name in ("candidates.csv", "candidates.json"):
        (run / name).unlink()
    assert [Path(name).name for name in leaders(open_candidates(run))] == [
        f"pic-00{i}.jpg" for i in range(3)
    ]
    fresh = tmp_path / "other" / "pool.sqlite"
    with PoolStore(fresh) as store:
        rows = [(score_of(tmp_path / f"{i}.jpg", i / 10), alarm(i / 10)) for i in (1, 7, 3)]
        store.add_scores(rows, model_id=MODEL)
    listed = open_candidates(fresh)
    assert [item.score for item in listed.items] == pytest.approx([0.7, 0.3, 0.1])
    assert listed.items[0].category == "class 1"


def test_images_in_archives_are_read_through_their_archive(tmp_path: Path) -> None:
    draw(tmp_path / "in" / "a b.jpg", 1)
    draw(tmp_path / "in" / "c.jpg", 2)
    shard = tmp_path / "shard.tar"
    with tarfile.open(shard, "w") as tar:
        for name in ("a b.jpg", "c.jpg"):
            tar.add(tmp_path / "in" / name, f"day/{name}")
    place = f"{shard}!/day/a b.jpg"
    row = Candidate("day/a b.jpg", place, 0.9, "raccoon", alarm(0.9), ("day/c.jpg",))
    write_candidates(tmp_path / "run", [row], CLASSES, pool=str(shard), model_id=MODEL)
    listed = open_candidates(tmp_path / "run")
    assert [item.path for item in listed.items] == [place, f"{shard}!/day/c.jpg"]
    pictures = ReviewPictures(tmp_path / "run" / "thumbnails.sqlite")
    for item in listed.items:
        assert (pictures.screen(item).width, pictures.thumbnail(item).height) == (240, 160)
    pictures.close()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("candidates.json", b"{", "cannot be read as JSON"),
        ("candidates.json", b'{"candidates": 3}', "not a list of candidates"),
        ("candidates.json", b'{"candidates": [{"image": "a"}]}', "not a list of candidates"),
        ("other.csv", b"a,b\n1,2\n", "got columns"),
        ("other.csv", b"image\n\xff\xfe", "cannot be read as CSV"),
    ],
)
def test_broken_lists_are_one_clear_error(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_candidates(tmp_path / name)


def test_nothing_there_and_a_newer_store_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither pool\.sqlite nor candidates\.json, wanted"):
        open_candidates(tmp_path)
    run = mined(tmp_path, 1)
    database = sqlite3.connect(run / "pool.sqlite")
    database.execute("PRAGMA user_version = 9")
    database.close()
    with pytest.raises(DataError, match="pool store of version 9, this release reads 4"):
        open_candidates(run)


@pytest.mark.parametrize("to", ["labelstudio", "cvat", "fiftyone"])
def test_what_holds_an_object_and_has_no_box_goes_to_the_labelling_program(
    tmp_path: Path, to: str
) -> None:
    run = mined(tmp_path, 4)
    say(run, Verdict.EMPTY, "pic-000.jpg")
    say(run, Verdict.CONTAINS_OBJECT, "pic-001.jpg", "pic-002.jpg")
    with PoolStore(run / "pool.sqlite") as store:
        image = str(tmp_path / "pool" / "pic-002.jpg")
        boxes = (NamedBox((1, 2, 30, 40), "raccoon"),)
        store.add_decisions([Decision(image, Verdict.CONTAINS_OBJECT, "a", "t", MODEL, (), boxes)])
    assert [item.name for item, _ in to_label(open_candidates(run))] == ["pic-001.jpg"]
    done = export_to_label(run, tmp_path / "out", to)
    assert (done.num_images, done.predicted_boxes) == (1, 2)
    written = "".join(
        p.read_text(errors="replace") for p in (tmp_path / "out").rglob("*.*") if p.is_file()
    )
    assert "pic-001" in written
    assert "pic-002" not in written


def test_an_export_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image is left to label"):
        export_to_label(mined(tmp_path, 1), tmp_path / "out", "cvat")


def test_images_without_alarms_are_shown_too(tmp_path: Path) -> None:
    row = Candidate("a.jpg", str(draw(tmp_path / "a.jpg", 1)), None, "", Detections.none())
    write_candidates(tmp_path / "run", [row], CLASSES, model_id="")
    item = open_candidates(tmp_path / "run").items[0]
    assert (item.score, item.boxes) == (None, [])


def test_labels_on_which_nothing_is_found_are_marked(tmp_path: Path) -> None:
    boxes = np.array([[10, 10, 30, 30], [60, 60, 90, 90]], np.float32)
    labels = np.array([1, 2], np.int64)
    record = ImageRecord(
        tmp_path / "a.jpg", 100, 100, boxes, labels, np.zeros(2, np.bool_), ImageState.LABELLED
    )
    dataset = Dataset(("cat", "dog"), (record,), tmp_path)
    seen = Detections(boxes[:1], np.array([0.9], np.float32), labels[:1])
    found = find_doubtful_labels(Scored(dataset, (seen,)), 0.5)
    listed = labels_in_doubt(found, dataset, "m")["candidates"]
    assert [row["labels"] for row in listed] == [
        [[10, 10, 30, 30, None, "cat"], [60, 60, 90, 90, 0.0, "dog"]]
    ]

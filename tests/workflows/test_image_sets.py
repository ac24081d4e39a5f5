from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardmine.data.formats.image_files import load_images
from hardmine.errors import NOTICE, ConfigError, DataError
from hardmine.loop import loop
from hardmine.mining.sources.pool_source import open_source
from hardmine.types import Dataset, ImageState
from hardmine.workflows import train_and_evaluate
from hardmine.workflows.cached_models import RECIPE
from hardmine.workflows.image_sets import load_negatives, load_train_val
from hardmine.workflows.sets_apart import LoopSets, divide_sets
from hardmine.workflows.step_cache import Steps
from loop_fakes import draw, labelled, pool_of


def divide(tmp_path: Path, seed: int = 0, **parts: Any) -> LoopSets:
    train = parts.get("train") or labelled(tmp_path / "train", 4, 100)
    val = parts.get("val") or labelled(tmp_path / "val", 3, 200, "val")
    folder = parts.get("pool") or pool_of(tmp_path / "pool", 4, 10, 1000)
    pool = load_images(folder, source="pool")
    final = parts.get("final") or Dataset(("thing",), (), tmp_path)
    return divide_sets(train, val, pool, final, Steps(tmp_path / "run"), seed=seed)


def held_out(tmp_path: Path) -> Dataset:
    return load_images(pool_of(tmp_path / "held", 2, 5, 5000), state=ImageState.ASSUMED_EMPTY)


def names(data: Dataset) -> set[str]:
    return {record.path.name for record in data.records}


def test_a_pool_alone_is_divided_in_three(tmp_path: Path) -> None:
    sets = divide(tmp_path)
    # 40 images: .2 for stopping, .3 final, the rest to mine from
    assert [len(p) for p in (sets.mine_from, sets.stop, sets.final)] == [20, 8, 12]
    assert not names(sets.mine_from) & names(sets.stop) | names(sets.stop) & names(sets.final)
    assert {r.state for r in sets.mine_from.records} == {ImageState.UNREVIEWED}
    assert {r.state for p in (sets.stop, sets.final) for r in p.records} == {
        ImageState.ASSUMED_EMPTY
    }
    assert set(sets.group_of) == {str(r.path) for r in sets.mine_from.records}


def test_with_a_final_set_given_the_pool_is_divided_in_two(tmp_path: Path) -> None:
    final = held_out(tmp_path)
    sets = divide(tmp_path, final=final)
    assert [len(p) for p in (sets.mine_from, sets.stop, sets.final)] == [28, 12, 10]
    assert names(sets.final) == names(final)


def test_the_division_goes_by_the_seed_and_not_by_where_the_pool_lies(tmp_path: Path) -> None:
    first = names(divide(tmp_path).stop)
    assert names(divide(tmp_path, seed=1).stop) != first
    shutil.move(tmp_path / "pool", tmp_path / "elsewhere" / "pool2")
    assert names(divide(tmp_path, pool=tmp_path / "elsewhere" / "pool2").stop) == first


def test_near_duplicates_stay_on_one_side(tmp_path: Path) -> None:
    folder = tmp_path / "pool"
    for i in range(30):
        for copy in range(2):
            draw(folder / f"k0-50-{i}-{copy}.png", 1000 + i)
    sets = divide(tmp_path, pool=folder)
    side = {}
    for part in (sets.mine_from, sets.stop, sets.final):
        for record in part.records:
            pair = record.path.stem.rsplit("-", 1)[0]
            assert side.setdefault(pair, id(part)) == id(part)
    assert len(side) == 30


def test_what_repeats_another_set_is_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(NOTICE)
    pool = pool_of(tmp_path / "pool", 4, 10, 1000)
    final = held_out(tmp_path)
    draw(pool / "of-train.png", 100)
    draw(pool / "of-val.png", 201)
    draw(pool / "of-final.png", 5000)
    draw(tmp_path / "held2" / "of-train.png", 101)
    more = load_images(tmp_path / "held2", state=ImageState.ASSUMED_EMPTY)
    final = replace(final, records=(*final.records, *more.records))
    sets = divide(tmp_path, pool=pool, final=final)
    told = {(Path(k.image).name, Path(k.repeats).name, k.sets) for k in sets.leaks}
    assert told == {
        ("of-train.png", "object-001.png", "final/train"),
        ("of-train.png", "object-000.png", "pool/train"),
        ("of-val.png", "val-001.png", "pool/val"),
        ("of-final.png", "k0-95-00.png", "pool/final"),
    }
    assert len(sets.final) == 10
    assert len(sets.mine_from) + len(sets.stop) == 40
    assert "repeats" in str(sets.leaks[0])
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "1 of the 11 held-out negatives repeats training images and is left out (th" in said[0]
    assert "3 of the 43 images of the pool repeat held-out negatives or training ima" in said[1]
    assert "of-train.png repeats" in said[0]


def test_what_does_not_decode_is_set_aside_and_named(tmp_path: Path) -> None:
    train = labelled(tmp_path / "train", 4, 100)
    bad = train.records[1].path
    bad.write_bytes(bad.read_bytes()[:100])
    sets = divide(tmp_path, train=train)
    assert len(sets.train) == 3
    assert [problem.file for problem in sets.problems] == [str(bad)]


def test_files_of_a_pool_that_are_no_images_are_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The header of one shows it when the pool is listed; the other is cut off after its header."""
    pool = pool_of(tmp_path / "pool", 4, 10, 1000)
    (pool / "a0.jpg").write_bytes(b"")
    cut = next(path for path in sorted(pool.iterdir()) if path.suffix == ".png")
    cut.write_bytes(cut.read_bytes()[:100])
    divide(tmp_path, pool=pool)
    assert "2 of 41 pool images cannot be read and are left out (the first: a0.jpg" in caplog.text


def test_files_of_a_pool_that_are_passed_over_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = pool_of(tmp_path / "pool", 4, 10, 1000)
    (pool / "raw.cr2").write_bytes(b"x")
    divide(tmp_path, pool=pool)
    said = f"{pool}/raw.cr2: 1 file ending in .cr2 passed over: not a format that is read"
    assert [record.getMessage() for record in caplog.records] == [said]


def test_archives_in_a_folder_of_negatives_are_said(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", 1)
    (tmp_path / "more.tar.gz").write_bytes(b"x")
    (problem,) = load_negatives(tmp_path, ("cup",), "held_out").problems
    assert "more.tar.gz: 1 archive passed over: of a folder, pictures" in str(problem)
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"no image in it or below it \(.*1 archive passed over"):
        load_negatives(tmp_path, ("cup",), "held_out")


def test_a_pool_that_is_too_small_or_all_leaks_is_a_clear_error(tmp_path: Path) -> None:
    draw(tmp_path / "one" / "k0-50-0.png", 1)
    with pytest.raises(DataError, match="no image is left to stop by"):
        divide(tmp_path, pool=tmp_path / "one")
    draw(tmp_path / "leaks" / "copy.png", 100)
    with pytest.raises(DataError, match="no image is left to mine from") as caught:
        divide(tmp_path, pool=tmp_path / "leaks")
    assert str(caught.value).endswith(
        "0 to mine from, 0 to stop by, 0 to measure on); 1 of the pool's 1 images are among the "
        f"training images as well, such as {tmp_path}/leaks/copy.png: what is mined must be other images"
    )


def test_a_pool_of_near_duplicates_is_called_that(tmp_path: Path) -> None:
    for index in range(5):
        draw(tmp_path / "still" / f"{index}.png", 1)
    with pytest.raises(DataError, match="no image is left to mine from") as caught:
        divide(tmp_path, pool=tmp_path / "still", final=held_out(tmp_path))
    assert str(caught.value).endswith(
        "; the 5 images of the pool are near-duplicates of each other, which stay in one part: the pool "
        "needs images that look different"
    )


def test_images_are_hashed_once_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hardmine.data.splits import near_duplicates as phash

    calls: list[int] = []
    real = phash.hash_contents

    def counted(paths: Any) -> list[tuple[int | None, str]]:
        calls.append(len(paths))
        return real(paths)

    monkeypatch.setattr(phash, "hash_contents", counted)
    train = labelled(tmp_path / "train", 4, 100)
    val = labelled(tmp_path / "val", 3, 200, "val")
    pool = load_images(pool_of(tmp_path / "pool", 4, 10, 1000))
    final = Dataset(("thing",), (), tmp_path)
    for _ in range(2):
        divide_sets(train, val, pool, final, Steps(tmp_path / "run"), seed=0)
    assert calls == [47]
    train.records[0].path.write_bytes(train.records[1].path.read_bytes() + b"more")
    divide_sets(train, val, pool, final, Steps(tmp_path / "run"), seed=0)
    assert calls == [47, 47]


@pytest.mark.parametrize(
    ("train", "val", "said"),
    [
        ((1, 2, 2), (1,), ["class 'b' has 2 objects in the training images and none in the val"]),
        ((1,), (1, 2, 2), ["class 'b' has 2 objects in the validation images and none in the tr"]),
        ((1, 2), (2, 1), []),  # nothing of c is anywhere
    ],
)
def test_a_class_of_one_side_is_named(
    train: tuple[int, ...],
    val: tuple[int, ...],
    said: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def with_classes(name: str, labels: tuple[int, ...], seed: int) -> Dataset:
        made = labelled(tmp_path / name, len(labels), seed)
        pairs = zip(made.records, labels, strict=True)
        records = tuple(replace(r, labels=np.array([label])) for r, label in pairs)
        return Dataset(("a", "b", "c"), records, made.root)

    data = with_classes("train", train, 100)
    load_train_val(data, with_classes("val", val, 200), Steps(tmp_path / "run"), seed=0)
    warned = [r.getMessage() for r in caplog.records if "class" in r.getMessage()]
    assert len(warned) == len(said)
    assert all(text in line for text, line in zip(said, warned, strict=True))


@pytest.mark.parametrize("given", [["a", "b"], ("a",), 3])
def test_data_that_is_no_single_dataset_is_a_clear_error(given: Any, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"data: got (list|tuple|int) .*wanted one dataset, or the"
    ):
        load_train_val(given, None, Steps(tmp_path), seed=0)


def test_too_few_images_to_split_lead_to_other_ones(tmp_path: Path) -> None:
    one = labelled(tmp_path / "one", 1, 100)
    with pytest.raises(DataError, match=r"1 image in 1 group .*to validate on \(--val\)"):
        load_train_val(one, None, Steps(tmp_path / "run"), seed=0)


def test_validation_labels_that_name_other_classes_are_the_reason_given(tmp_path: Path) -> None:
    train, val = labelled(tmp_path / "train", 2, 100), labelled(tmp_path / "val", 2, 200)
    lines = [f"{r.path.name},1,2,20,20,Thing\n" for r in val.records]
    table = val.records[0].path.with_name("boxes.csv")
    table.write_text("image,xmin,ymin,xmax,ymax,label\n" + "".join(lines))
    said = "nothing to measure in the validation images: no labelled .* 2 problems, .*class 'Thing'"
    with pytest.raises(DataError, match=said):
        load_train_val(train, table, Steps(tmp_path / "run"), seed=0)


@pytest.mark.parametrize("record", [loop.RECORD, train_and_evaluate.RECORD])
def test_the_folder_of_a_run_is_no_folder_of_images(record: str, tmp_path: Path) -> None:
    """The pictures in it are parts of labelled images, which the run cut out."""
    draw(tmp_path / "prepare" / "crops" / "a.png", 1)
    (tmp_path / record).write_text("{}")
    assert len(load_negatives(tmp_path, ("cup",), "held_out")) == 1  # labels may be called so
    (tmp_path / RECIPE).touch()
    message = r"the folder of a run, wanted images; .* rounds/\*/train.coco.json"
    with pytest.raises(DataError, match=message):
        load_negatives(tmp_path, ("cup",), "held_out")
    with pytest.raises(DataError, match=message):
        open_source(tmp_path)
    assert len(load_negatives(tmp_path / "prepare", ("cup",), "held_out")) == 1

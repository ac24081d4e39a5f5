"""Entries of a predictions file find their images without doubt, or not at all."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from hardmine.errors import DataError
from hardmine.inference.prediction_programs import match_names
from hardmine.inference.predictions_file import load_predictions

ONE, TWO = Path("/here/one/a.jpg"), Path("/here/two/a.jpg")


def found(names: list[str], images: list[Path]) -> dict[str, str]:
    matched = match_names(dict.fromkeys(names, 1), images)
    return {str(image): name for image, name in matched.name_of.items()}


@pytest.mark.parametrize(
    "name",
    [
        "a.jpg",
        "one/a.jpg",
        "/here/one/a.jpg",
        "/there/x/one/a.jpg",
        "C:\\data\\one\\a.jpg",
        "a",
        "a.png",
    ],
)
def test_one_image_is_found_by_any_name(name: str) -> None:
    assert found([name], [ONE, Path("/here/one/b.jpg")]) == {str(ONE): name}


@pytest.mark.parametrize("name", ["a.jpg", "a", "/there/three/a.jpg"])
def test_a_name_that_fits_two_images_is_given_to_neither(name: str) -> None:
    assert found([name], [ONE, TWO]) == {}


def test_folders_tell_equal_names_apart() -> None:
    names = ["/there/one/a.jpg", "/there/two/a.jpg"]
    assert found(names, [ONE, TWO]) == {str(ONE): names[0], str(TWO): names[1]}
    assert found(["/there/one/a.jpg"], [ONE, TWO]) == {str(ONE): "/there/one/a.jpg"}
    assert found(names, [Path("/here/three/a.jpg")]) == {}


def test_two_names_of_one_image_are_in_doubt() -> None:
    assert found(["a", "a.jpg"], [ONE]) == {str(ONE): "a.jpg"}  # a file's name is more than a stem
    assert found(["x/a.png", "y/a.png"], [ONE]) == {}  # both by their stem only


def test_capital_letters_may_differ_where_nothing_fits_better() -> None:
    small, capital = Path("/p/a.jpg"), Path("/p/A.jpg")
    assert found(["A.JPG"], [small]) == {str(small): "A.JPG"}
    assert found(["a", "A"], [small, capital]) == {str(small): "a", str(capital): "A"}
    assert found(["a"], [small, capital]) == {str(small): "a"}
    assert found(["A.PNG", "a.png"], [Path("/p/a.jpg")]) == {str(small): "a.png"}
    assert found(["A.PNG", "a.PnG"], [Path("/p/Ä.jpg")]) == {}


def test_a_file_without_a_detection_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "p.json"
    path.write_text("[]")
    with caplog.at_level(logging.WARNING):
        load_predictions(path, ["cat"]).bound_to([ONE])
    assert "has no detection at all" in caplog.text


def test_numbers_are_found_with_and_without_zeros() -> None:
    images = [Path("/p/000042.jpg"), Path("/p/7.jpg"), Path("/p/cam_42.jpg")]
    assert found(["42", "0007"], images) == {"/p/000042.jpg": "42", "/p/7.jpg": "0007"}
    assert found(["42"], [Path("/p/42.jpg"), Path("/p/042.jpg")]) == {}


def test_letters_that_are_composed_differently_are_the_same() -> None:
    assert found(["ma\u0308rz.jpg"], [Path("/p/m\u00e4rz.jpg")]) == {
        "/p/m\u00e4rz.jpg": "ma\u0308rz.jpg"
    }


def test_what_was_matched_is_counted() -> None:
    images = [Path(f"/p/{i}.jpg") for i in range(4)]
    matched = match_names({"0": 5, "1": 2, "x": 1, "y": 1, "z": 1, "w": 0}, images)
    assert str(matched) == (
        "7 of 10 detections belong to the images, 2 of 4 images are named; it also names x, y, z …"
    )
    assert str(match_names({"0": 3}, images[:1])) == (
        "3 of 3 detections belong to the images, 1 of 1 images are named"
    )


@pytest.mark.parametrize(
    ("rows", "refused"),
    [
        ({"900": 1, "901": 1}, True),  # nothing
        ({"0": 1, "900": 9}, True),  # a tenth of the detections, one of four images
        ({"0": 2, "900": 8}, False),  # a fifth
        ({"0": 1, "1": 0, "900": 99}, False),  # few detections, but half of the images are named
        ({"0": 1}, False),  # all of the detections: the others have none
        ({}, False),  # a file without detections
        ({"0": 0}, False),
    ],
)
def test_few_matches_are_an_error(rows: dict[str, int], refused: bool) -> None:
    images = [Path(f"/p/{i}.jpg") for i in range(4)]
    matched = match_names(rows, images)
    if not refused:
        matched.require(Path("found.json"), images)
        return
    with pytest.raises(
        DataError, match=r"found.json: is about other images: .*images are 0.jpg, 1.jpg"
    ):
        matched.require(Path("found.json"), images)


def row(image_id: object, **more: object) -> dict[str, object]:
    return {"image_id": image_id, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5, **more}


def load(folder: Path, rows: list[Any], ids: dict[int, str]) -> Any:
    images = [{"id": number, "file_name": name} for number, name in ids.items()]
    truth = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "found.json").write_text(json.dumps(rows))
    return load_predictions(folder / "found.json", folder / "truth.json")


def test_ids_are_ids_and_never_stems_of_other_images(tmp_path: Path) -> None:
    """Ids 1 and 2 are b and a; the file 3.jpg has another id, so the unknown id 3 is not its stem."""
    predictions = load(tmp_path, [row(1), row(2.0), row("3")], {1: "b.jpg", 2: "a.jpg", 7: "3.jpg"})
    images = [Path("/p/a.jpg"), Path("/p/b.jpg"), Path("/p/3.jpg"), Path("/p/1.jpg")]
    matched = predictions.match(images)
    assert matched.name_of == {images[0]: "a.jpg", images[1]: "b.jpg"}
    assert matched.unmatched == ("image_id 3",)


def test_stems_are_stems_where_ids_are_not_known(tmp_path: Path) -> None:
    predictions = load(tmp_path, [row("cam_1"), row("cam_2")], {1: "cam_1.jpg", 2: "cam_2.jpg"})
    assert len(predictions.match([Path("/p/cam_1.jpg"), Path("/p/cam_2.jpg")]).name_of) == 2


def test_bound_predictions_say_what_did_not_match(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predictions = load(tmp_path, [row(1), row(2)], {1: "a.jpg", 2: "gone.jpg"})
    images = [Path("/p/a.jpg"), Path("/p/c.jpg")]
    with caplog.at_level(logging.INFO):
        bound = predictions.bound_to(images)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "1 of 2 detections belong to the images" in record.getMessage()
    assert [len(d) for d in bound.detect_images(images)] == [1, 0]
    assert not bound.names(Path("/elsewhere/a.jpg"))  # bound to those images and no others
    caplog.clear()
    with caplog.at_level(logging.INFO):
        load(tmp_path, [row(1)], {1: "a.jpg"}).bound_to(images)
    assert [entry.levelno for entry in caplog.records] == [logging.INFO]


def test_ids_are_found_with_the_zeros_before_them(tmp_path: Path) -> None:
    predictions = load(tmp_path, [row("000001"), row("000002")], {1: "a.jpg", 2: "b.jpg"})
    assert set(predictions.by_name) == {"a.jpg", "b.jpg"}

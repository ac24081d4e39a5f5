from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_files import coco, coco_box, coco_image, put_image, put_text, voc_object, voc_xml
from hardmine.data.formats.label_validation import RawImage, RawSplit
from hardmine.data.quality.check_dataset import check_dataset
from hardmine.data.quality.label_coordinates import (
    FORMS,
    FormVerdict,
    is_sound,
    judge_form,
    judge_numbers,
    judge_units,
    to_xyxy,
    written_numbers,
)
from hardmine.data.quality.repair import repair
from hardmine.data.quality.usable_data import load_usable
from hardmine.errors import DataError
from hardmine.finding_kinds import Severity

SIZE = (640, 480)
SMALL = (64, 48)
N = 60


def true_boxes(seed: int = 0, n: int = N, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Boxes of all sizes, anywhere inside the image."""
    rng = np.random.default_rng(seed)
    extent = rng.uniform(0.1, 0.6, (n, 2)) * size
    low = rng.random((n, 2)) * (np.array(size) - extent)
    return np.concatenate([low, low + extent], axis=1)


def written_as(form: str, boxes: np.ndarray) -> np.ndarray:
    """Invert `to_xyxy` by hand."""
    x0, y0, x1, y1 = boxes.T
    w, h = x1 - x0, y1 - y0
    numbers = {
        "xyxy": (x0, y0, x1, y1),
        "xywh": (x0, y0, w, h),
        "cxcywh": ((x0 + x1) / 2, (y0 + y1) / 2, w, h),
        "yxyx": (y0, x0, y1, x1),
        "yxhw": (y0, x0, h, w),
        "xxyy": (x0, x1, y0, y1),
        "x1y1x0y0": (x1, y1, x0, y0),
    }
    plain = form.removesuffix("_shares")
    if form != plain:
        return written_as(plain, boxes / np.tile(SIZE, 2))
    return np.stack(numbers[plain], axis=1)


def split_of(numbers: np.ndarray, declared: str = "xyxy") -> RawSplit:
    """What a reader gives that takes the numbers to be of the declared form."""
    boxes = to_xyxy(declared, numbers, np.tile(SIZE, (len(numbers), 1)))
    image = RawImage(Path("a.jpg"), "a.xml", *SIZE)
    image.objects = [(*box, 0, False, i) for i, box in enumerate(boxes.tolist())]
    return RawSplit(Path(), ["cat"], [image], [], form=declared)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_reads_back_what_it_wrote(form: str) -> None:
    boxes = true_boxes()
    back = to_xyxy(form, written_as(form, boxes), np.tile(SIZE, (N, 1)))
    np.testing.assert_allclose(back, boxes, atol=1e-9)


@pytest.mark.parametrize("declared", ["xyxy", "xywh", "cxcywh_shares"])
@pytest.mark.parametrize("form", FORMS)
def test_the_form_that_was_written_is_named(form: str, declared: str) -> None:
    verdict = judge_form(split_of(written_as(form, true_boxes()), declared))
    assert verdict is not None
    assert verdict.best == form
    assert verdict.doubtful == (form != declared)
    assert verdict.sound[form] == 1.0


@pytest.mark.parametrize("declared", ["xyxy", "xywh", "cxcywh_shares"])
def test_written_numbers_undo_the_reader(declared: str) -> None:
    numbers = written_as(declared, true_boxes())
    back, sizes = written_numbers(split_of(numbers, declared))
    np.testing.assert_allclose(back, numbers, atol=1e-9)
    assert sizes.tolist() == [list(SIZE)] * N


def test_a_box_is_sound_inside_its_image_and_with_an_extent() -> None:
    boxes = [
        [0, 0, 10, 10],
        [-6.4, 0, 10, 10],  # 1 % of 640 over the edge: still sound
        [-6.5, 0, 10, 10],
        [0, 0, 1.9, 10],
        [10, 0, 0, 10],
        [600, 400, 646, 484.8],
    ]
    sound = is_sound(np.array(boxes, np.float64), np.tile(SIZE, (len(boxes), 1)).astype(float))
    assert sound.tolist() == [True, True, False, False, False, True]


@pytest.mark.parametrize("declared", ["xyxy", "xywh"])
@pytest.mark.parametrize("number", [1, 2, 7])
def test_shares_are_told_from_pixels_by_any_number_of_boxes(declared: str, number: int) -> None:
    """The order of the numbers stays as declared, though corners and sizes may fit both ways."""
    shares = written_as(f"{declared}_shares", true_boxes(n=number))
    verdict = judge_form(split_of(shares, declared))
    assert verdict is not None
    assert verdict.best == f"{declared}_shares"
    assert verdict.doubtful
    assert judge_form(split_of(written_as(declared, true_boxes(n=number)), declared)) is None


def test_pixels_where_shares_are_wanted() -> None:
    verdict = judge_form(split_of(written_as("cxcywh", true_boxes(n=1)), "cxcywh_shares"))
    assert verdict is not None
    assert verdict.best == "cxcywh"


def test_of_several_forms_of_shares_that_fit_the_declared_order_is_taken() -> None:
    """Boxes in the upper left quarter: as corners and as corner and size they lie inside."""
    boxes = true_boxes(n=12) * 0.5
    verdict = judge_form(split_of(written_as("xywh_shares", boxes), "xywh"))
    assert verdict is not None
    assert verdict.sound["xywh_shares"] == 1.0
    assert verdict.best == "xywh_shares"


def test_sloppy_boxes_and_few_boxes_prove_nothing() -> None:
    boxes = true_boxes()
    boxes[:4, 2] = 700  # 4 of 60 pass the right edge by 60 px: no other form explains the rest
    verdict = judge_form(split_of(boxes))
    assert verdict is not None
    assert not verdict.doubtful
    assert judge_form(split_of(written_as("xywh", true_boxes(n=7)))) is None
    nan = np.full((N, 4), np.nan)
    assert judge_form(split_of(nan)) is None


@pytest.mark.parametrize(("worse", "named"), [(2, "yxyx"), (3, "xyxy")])
def test_another_form_must_be_five_times_better(worse: int, named: str) -> None:
    """Ten boxes are unsound as xyxy; as yxyx 2 are (a fifth of that) or 3 (more)."""
    both = np.tile([10, 10, 50, 50], (100, 1))
    high = np.tile([10, 400, 50, 600], (10, 1))  # y to 600 of 480, or x to 600 of 640
    wide = np.tile([400, 10, 600, 50], (worse, 1))  # the other way round
    verdict = judge_form(split_of(np.concatenate([both, high, wide]).astype(float)))
    assert verdict is not None
    assert verdict.best == named


def test_square_images_do_not_tell_x_from_y() -> None:
    """Nothing is claimed where both readings are sound."""
    boxes = true_boxes() * 0.4
    verdict = judge_form(split_of(written_as("yxyx", boxes)))
    assert verdict is not None
    assert verdict.best == "xyxy"


@pytest.mark.parametrize("to", ["coco", "csv", "voc"])
def test_shares_in_every_format_of_pixels_are_an_error_and_are_mended(
    tmp_path: Path, to: str
) -> None:
    """Three boxes of .1 to .5 by .2 to .6 of images of 64 × 48."""
    data = tmp_path / "data"
    for i in range(3):
        put_image(data / f"{i}.png", i, SMALL)
    corners = [0.1, 0.2, 0.5, 0.6]
    path = data
    if to == "coco":
        images = [coco_image(i, f"{i}.png", width=64, height=48) for i in range(3)]
        boxes = [coco_box(i, [0.1, 0.2, 0.4, 0.4]) for i in range(3)]
        path = put_text(data / "all.json", coco(images, boxes))
    elif to == "csv":
        lines = [f"{i}.png,{','.join(map(str, corners))},cat" for i in range(3)]
        path = put_text(data / "all.csv", "\n".join(["image,xmin,ymin,xmax,ymax,label", *lines]))
    else:
        for i in range(3):
            put_text(data / f"{i}.xml", voc_xml([voc_object("cat", corners)], size=SMALL))
    report = check_dataset(path)
    assert not report.ok
    assert [p.kind for p in report.problems if p.kind.startswith("box_form")] == ["box_form"]
    with pytest.raises(DataError, match="boxes in another form"):
        load_usable(path)
    repair(report.raws, report.seen, tmp_path / "out")
    for record in load_usable(tmp_path / "out")["all"]:
        np.testing.assert_allclose(record.boxes, [[6.4, 9.6, 32, 28.8]], rtol=1e-5)


@pytest.mark.parametrize("shares", [1, 3, 11])
@pytest.mark.parametrize("to", ["coco", "csv", "yolo"])
def test_pixels_and_shares_in_one_set_are_an_error_and_each_box_is_mended(
    tmp_path: Path, to: str, shares: int
) -> None:
    """Twelve images with one box of 6.4 to 32 by 9.6 to 28.8 px of 64 x 48; some as shares."""
    data, pixels = tmp_path / "data", [6.4, 9.6, 32.0, 28.8]
    corners = [[v / s for v, s in zip(pixels, SMALL * 2, strict=True)]] * shares
    corners += [pixels] * (12 - shares)
    for i in range(12):
        put_image(data / "images" / f"{i}.png", i, SMALL)
    path = data
    sizes = [[x0, y0, x1 - x0, y1 - y0] for x0, y0, x1, y1 in corners]
    if to == "coco":
        images = [coco_image(i, f"images/{i}.png", width=64, height=48) for i in range(12)]
        path = put_text(
            data / "all.json", coco(images, [coco_box(i, b) for i, b in enumerate(sizes)])
        )
    elif to == "csv":
        lines = [f"images/{i}.png,{','.join(map(str, b))},cat" for i, b in enumerate(corners)]
        path = put_text(data / "all.csv", "\n".join(["image,xmin,ymin,xmax,ymax,label", *lines]))
    else:
        put_text(data / "classes.txt", "cat")
        for i, (x, y, w, h) in enumerate(sizes):
            put_text(data / "labels" / f"{i}.txt", f"0 {x + w / 2} {y + h / 2} {w} {h}")
    report = check_dataset(path)
    (found,) = (p for p in report.problems if p.kind.startswith(("box_form", "box_units")))
    wrong = 12 - shares if to == "yolo" else shares
    assert found.kind == "box_units_mixed"
    assert found.kind.severity is Severity.ERROR
    assert f"{wrong} of 12 boxes make sense only as" in found.reason
    with pytest.raises(DataError, match=f"{wrong} of 12 boxes make sense only as .*--fix OUT"):
        load_usable(path)
    done = repair(report.raws, report.seen, tmp_path / "out")
    assert sum(change.change == "box read anew" for change in done.changes) == wrong
    records = load_usable(tmp_path / "out")["all"].records
    assert len(records) == 12
    for record in records:
        np.testing.assert_allclose(record.boxes, [pixels], rtol=1e-4)


def test_numbers_that_fit_both_units_are_left_as_they_are() -> None:
    """0 0 1 1 is the corner pixel or the whole image; one speck beside sound boxes is a speck."""
    corner = np.array([[0.0, 0, 1, 1]] * 3)
    assert judge_units(split_of(np.concatenate([true_boxes(n=9), corner]))) is None
    speck = np.array([[0.1, 0.2, 0.5, 0.9]])
    assert judge_units(split_of(np.concatenate([true_boxes(n=9), speck]))) is None
    two = judge_units(split_of(np.concatenate([speck, true_boxes(n=9), speck])))
    assert two is not None
    assert two.rows.tolist() == [0, 10]
    assert judge_units(split_of(np.concatenate([speck] * 9))) is None  # all: another form
    many = np.concatenate([true_boxes(n=2999), speck, speck])
    assert judge_units(split_of(many)) is None


def test_specks_among_boxes_are_named(tmp_path: Path) -> None:
    put_image(tmp_path / "a.png", 0, SMALL)
    images = [coco_image(0, "a.png", width=64, height=48)]
    boxes = [coco_box(0, box) for box in ([1, 2, 30, 20], [0.1, 0.2, 0.4, 0.9], [5, 5, 0.4, 20])]
    report = check_dataset(put_text(tmp_path / "all.json", coco(images, boxes)))
    (speck,) = (p for p in report.problems if p.kind == "box_below_pixel")
    assert str(speck) == "a.png[1]: cat of 0.4 x 0.9 px"


def test_check_names_the_form_and_calls_it_an_error(tmp_path: Path) -> None:
    """VOC files that hold x y width height: most boxes come out inverted or outside."""
    for i, box in enumerate(written_as("xywh", true_boxes(n=12, size=SMALL))):
        put_image(tmp_path / f"{i}.png", i, SMALL)
        put_text(tmp_path / f"{i}.xml", voc_xml([voc_object("cat", box.tolist())], size=SMALL))
    report = check_dataset(tmp_path)
    (found,) = (p for p in report.problems if p.kind.startswith("box_form"))
    assert "read as xmin ymin width height, in pixels, 100%" in found.reason
    assert found.kind.severity in (Severity.ERROR, Severity.WARNING)
    assert report.to_dict()["forms"]["all"]["best"] == "xywh"


def test_coco_corners_are_recognised(tmp_path: Path) -> None:
    images = [coco_image(i, f"{i}.png", width=64, height=48) for i in range(12)]
    for i in range(12):
        put_image(tmp_path / f"{i}.png", i, SMALL)
    annotations = [coco_box(i, box.tolist()) for i, box in enumerate(true_boxes(n=12, size=SMALL))]
    report = check_dataset(put_text(tmp_path / "all.json", coco(images, annotations)))
    assert report.forms["all"].declared == "xywh"
    assert report.forms["all"].best == "xyxy"
    located = [p for p in report.problems if p.kind in ("box_clipped", "box_outside")]
    assert located
    first = located[0]
    assert first.image == tmp_path / f"{first.index}.png"
    assert len(first.boxes) == 1


def judged(form: str, numbers: np.ndarray, size: tuple[int, int] = SIZE) -> FormVerdict:
    found = judge_numbers(numbers, np.tile(np.array(size, np.float64), (len(numbers), 1)), form)
    assert found is not None
    return found


def test_percent_of_the_image_and_pixels_are_told_of_and_not_chosen_between() -> None:
    percent = true_boxes(size=(100, 100))
    for declared in ("xyxy", "xywh", "cxcywh"):
        found = judged(declared, written_as(declared, percent))
        assert found.best == declared, "pixels fit, too"
        assert found.doubtful
        assert not found.decided
        assert "percent" in str(found)
        assert "nothing is changed" in str(found)
    shares = judged("cxcywh_shares", written_as("cxcywh", percent))
    assert shares.best == "cxcywh"
    assert shares.doubtful
    assert not shares.decided


def test_boxes_in_the_first_hundred_pixels_are_not_always_percent() -> None:
    assert not judged("xyxy", true_boxes(size=(90, 90)), SMALL).rivals  # the images are small
    assert not judged("xyxy", true_boxes(size=(40, 40))).rivals  # and none reaches far
    assert not judged("xyxy", true_boxes()).rivals


def test_two_orders_of_numbers_that_fit_alike_are_not_chosen_between() -> None:
    rng = np.random.default_rng(0)
    numbers = np.concatenate([rng.uniform(0, 4, (12, 2)), rng.uniform(20, 26, (12, 2))], axis=1)
    found = judged("cxcywh", numbers, SMALL)
    assert found.sound["xywh"] == found.sound["xyxy"] == 1
    assert found.doubtful
    assert not found.decided


def test_fix_leaves_boxes_of_which_two_readings_fit(tmp_path: Path) -> None:
    put_image(tmp_path / "data/images/a.jpg", size=SIZE)
    lines = [
        f"0 {' '.join(f'{v:.3f}' for v in row)}"
        for row in written_as("cxcywh", true_boxes(size=(100, 100)))
    ]
    put_text(tmp_path / "data/labels/a.txt", "\n".join(lines))
    report = check_dataset(tmp_path / "data")
    assert "box_form" in [p.kind for p in report.problems]
    done = repair(report.raws, report.seen, tmp_path / "fixed")
    assert "box read anew" not in [change.change for change in done.changes]
    with pytest.raises(DataError, match="percent"):
        load_usable(tmp_path / "data")

"""Verdicts from labelling programs: in their documented schemas, and in what our writers write."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardmine.cli.main import run as run_command
from hardmine.data.convert import convert
from hardmine.errors import DataError
from hardmine.mining.pool_store import PoolStore
from hardmine.plurals import counted
from hardmine.review.labelling_files import is_labelling_file
from hardmine.review.run_review import open_listed
from hardmine.review.verdicts import Said, read_verdicts, store_verdicts
from hardmine.types import Dataset, Decision, ImageRecord, ImageState, NamedBox, Verdict
from review_world import MODEL, draw, mined

EMPTY, HOLDS, IGNORE, UNSURE = (
    Verdict.EMPTY,
    Verdict.CONTAINS_OBJECT,
    Verdict.IGNORE,
    Verdict.UNSURE,
)
NAMES = ("a.jpg", "b.jpg", "c.jpg", "d.jpg")


@pytest.fixture
def known(tmp_path: Path) -> dict[str, str]:
    """Return the pool's images, 240×160 pixels each, by name and by path."""
    paths = {name: str(draw(tmp_path / "pool" / name, 1)) for name in NAMES}
    return paths | {path: path for path in paths.values()}


def read(
    tmp_path: Path, value: Any, known: dict[str, str], name: str = "said.json"
) -> dict[str, Said]:
    path = tmp_path / name
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return {Path(image).name: said for image, said in read_verdicts(path, known).items()}


def verdicts(found: dict[str, Said]) -> dict[str, Verdict]:
    return {name: said.verdict for name, said in found.items()}


def rectangle(**more: Any) -> dict[str, Any]:
    value = {"x": 10, "y": 25, "width": 20, "height": 50, "rotation": 0, "rectanglelabels": ["cat"]}
    return {
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": 240,
        "original_height": 160,
        "value": value | more,
    }


CAT = (NamedBox((24.0, 40.0, 72.0, 120.0), "cat"),)
"""What `rectangle` says in pixels of the image."""


def choice(word: str) -> dict[str, Any]:
    return {"type": "choices", "from_name": "v", "to_name": "image", "value": {"choices": [word]}}


def task(name: str, *annotations: dict[str, Any], **more: Any) -> dict[str, Any]:
    data = {"image": f"/data/upload/1/0a1b2c3d-{name}"}
    return {"id": 1, "data": data, "annotations": list(annotations), "predictions": [], **more}


def test_label_studio_tells_finished_untouched_and_skipped_tasks_apart(
    tmp_path: Path, known: dict[str, str]
) -> None:
    tasks = [
        task("a.jpg", {"result": [], "was_cancelled": False}),
        task("b.jpg", predictions=[{"result": [rectangle()]}], drafts=[{"result": [rectangle()]}]),
        task("c.jpg", {"result": [], "was_cancelled": True}),
        task("d.jpg", {"result": [rectangle()], "was_cancelled": False}),
    ]
    found = read(tmp_path, tasks, known)
    assert verdicts(found) == {"a.jpg": EMPTY, "c.jpg": IGNORE, "d.jpg": HOLDS}
    assert found["d.jpg"].boxes == CAT
    assert found["a.jpg"].where == f"{tmp_path}/said.json[0]"


@pytest.mark.parametrize(
    ("annotations", "wanted"),
    [
        ([{"result": [choice("Contains object")]}], HOLDS),
        ([{"result": [choice("empty"), rectangle() | {"origin": "prediction"}]}], EMPTY),
        ([{"result": [choice("empty"), rectangle()]}], UNSURE),
        ([{"result": [choice("night")]}], None),
        ([{"result": []}, {"result": [rectangle()]}], UNSURE),
        ([{"result": [], "ground_truth": True}, {"result": [rectangle()]}], EMPTY),
        ([{"result": [], "was_cancelled": True}, {"result": []}], EMPTY),
        (
            [{"result": [{"type": "brushlabels", "value": {"rle": [1], "brushlabels": ["cat"]}}]}],
            HOLDS,
        ),
    ],
)
def test_label_studio_choices_and_several_annotations(
    tmp_path: Path, known: dict[str, str], annotations: list[Any], wanted: Verdict | None
) -> None:
    found = read(tmp_path, [task("a.jpg", *annotations)], known)
    assert verdicts(found) == ({} if wanted is None else {"a.jpg": wanted})
    assert all(not said.boxes for said in found.values())


def test_json_min_says_nothing_of_a_task_without_shapes(
    tmp_path: Path, known: dict[str, str]
) -> None:
    shape = rectangle()["value"] | {"original_width": 240, "original_height": 160}
    tasks = [
        {"image": "/data/upload/a.jpg", "state": "contains_object", "label": []},
        {"image": "/data/upload/b.jpg", "label": [shape]},
        {"image": "/data/upload/c.jpg", "choice": "empty"},
    ]
    found = read(tmp_path, tasks, known)
    assert verdicts(found) == {"b.jpg": HOLDS, "c.jpg": EMPTY}
    assert found["b.jpg"].boxes == CAT


def cvat(*inside: str) -> str:
    images = "".join(
        f'<image id="{i}" name="{name}" width="240" height="160">{shapes}</image>'
        for i, (name, shapes) in enumerate(zip(NAMES, inside, strict=False))
    )
    return f"<annotations><version>1.1</version>{images}</annotations>"


def shape(source: str, extra: str = "") -> str:
    corners = 'xtl="24.00" ytl="40.00" xbr="72.00" ybr="120.00"'
    return f'<box label="cat" source="{source}" occluded="0" {corners} z_order="0"{extra}/>'


def test_cvat_counts_what_a_person_drew_and_tags(tmp_path: Path, known: dict[str, str]) -> None:
    tag = '<tag label="Empty" source="manual"></tag>'
    text = cvat("", shape("auto"), shape("manual"), tag + shape("auto"))
    found = read(tmp_path, text, known, "said.xml")
    assert verdicts(found) == {"c.jpg": HOLDS, "d.jpg": EMPTY}
    assert found["c.jpg"].boxes == CAT


def test_boxes_of_unknown_origin_in_cvat_s_form_are_said(
    tmp_path: Path, known: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Datumaro and FiftyOne write CVAT's XML without the sources of boxes."""
    bare = shape("auto").replace(' source="auto"', "")
    found = read(tmp_path, cvat("", bare, shape("manual")), known, "said.xml")
    assert verdicts(found) == {"b.jpg": HOLDS, "c.jpg": HOLDS}
    assert "does not say of 1 image whether a person or a model drew" in caplog.text


def test_an_image_with_a_point_holds_an_object_and_has_no_boxes(
    tmp_path: Path, known: dict[str, str]
) -> None:
    points = '<points label="cat" source="manual" points="1,2"/>'
    found = read(tmp_path, cvat(shape("manual") + points), known, "said.xml")
    assert found["a.jpg"][::2] == (HOLDS, ())


def test_fiftyone_labels_tell_null_from_an_empty_list(
    tmp_path: Path, known: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    mine = {"label": 0, "bounding_box": [0.1, 0.25, 0.2, 0.5]}
    labels = {"a": [], "b": None, "c": [mine], "d": [mine | {"confidence": 0.9}]}
    found = read(tmp_path, {"classes": ["cat"], "labels": labels}, known)
    assert verdicts(found) == {"a.jpg": EMPTY, "c.jpg": HOLDS}
    assert "1 image: an empty list of labels counts as looked at" in caplog.text
    assert np.allclose(found["c.jpg"].boxes[0].box, CAT[0].box)


def sample(name: str, *tags: str, **fields: list[Any]) -> dict[str, Any]:
    lists = {key: {"_cls": "Detections", "detections": rows} for key, rows in fields.items()}
    return {"filepath": f"data/{name}", "tags": list(tags), **lists}


def test_fiftyone_samples_are_decided_by_tags_and_by_boxes_of_people(
    tmp_path: Path, known: dict[str, str]
) -> None:
    box = {"_cls": "Detection", "label": "cat", "bounding_box": [0.1, 0.25, 0.2, 0.5]}
    samples = [
        sample("a.jpg", "train", "empty"),
        sample("b.jpg", predictions=[]),
        sample("c.jpg", ground_truth=[box], predictions=[box | {"confidence": 0.9}]),
        sample("d.jpg", predictions=[box | {"confidence": 0.9}]),
    ]
    found = read(tmp_path, {"samples": samples}, known)
    assert verdicts(found) == {"a.jpg": EMPTY, "c.jpg": HOLDS}
    assert len(found["c.jpg"].boxes) == 1
    samples[0]["tags"] = ["empty", "ignore"]
    with pytest.raises(DataError, match=r"said\.json\[0\]: got empty, ignore, wanted one verdict"):
        read(tmp_path, {"samples": samples}, known)


def coco(*images: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": [
            {"id": i, "width": 240, "height": 160, **image} for i, image in enumerate(images)
        ],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [24, 40, 48, 80]}],
        "categories": [{"id": 7, "name": "cat"}],
    }


def test_coco_leaves_images_without_annotations_undecided_and_says_so(
    tmp_path: Path, known: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    file = coco(
        {"file_name": "a.jpg"},
        {"file_name": "b.jpg"},
        {"file_name": "c.jpg", "hardmine_state": "verified_empty"},
    )
    scored = file["annotations"][0] | {"id": 2, "image_id": 0, "score": 0.9}
    file["annotations"].append(scored)  # a model's
    found = read(tmp_path, file, known)
    assert verdicts(found) == {"b.jpg": HOLDS, "c.jpg": EMPTY}
    assert found["b.jpg"].boxes == CAT
    assert "1 image without annotations stays undecided: COCO cannot say" in caplog.text
    file["annotations"].append(file["annotations"][0] | {"id": 3, "iscrowd": 1})
    assert read(tmp_path, file, known)["b.jpg"][::2] == (HOLDS, ())


def test_roboflow_images_are_found_by_their_first_name_and_give_no_boxes(
    tmp_path: Path, known: dict[str, str]
) -> None:
    file = coco(
        {"file_name": "a_jpg.rf.0123456789abcdef0123456789abcdef.jpg"},
        {"file_name": "x_jpg.rf.0123456789abcdef0123456789abcdef.jpg", "extra": {"name": "b.jpg"}},
        {"file_name": "b_jpg.rf.aaaa456789abcdef0123456789abcdef.jpg"},
    )
    assert read(tmp_path, file, known) == {"b.jpg": Said(HOLDS, f"{tmp_path}/said.json[1]")}


def test_boxes_are_clipped_and_none_is_kept_where_one_lies_outside(
    tmp_path: Path, known: dict[str, str]
) -> None:
    over, out = rectangle(x=90, width=30), rectangle(x=110)
    found = read(tmp_path, [task("a.jpg", {"result": [over]})], known)
    assert found["a.jpg"].boxes[0].box == (216.0, 40.0, 240.0, 120.0)
    found = read(tmp_path, [task("a.jpg", {"result": [over, out]})], known)
    assert found["a.jpg"][::2] == (HOLDS, ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"said\.json: got nothing, wanted a CSV with the columns image,verdict, Label"),
        ('{"x": 1}', r"said\.json: got a file that begins '\{\"x\": 1\}', wanted a CSV"),
        (
            '[{"data": {"image": "a.jpg"}, "annotations": [3]}]',
            r"said\.json\[0\]: got a broken entry",
        ),
        (
            '[{"data": {"image": "z.jpg"}, "annotations": []}]',
            r"json\[0\]: image 'z\.jpg' was never",
        ),
        ('[{"data": {"image": "a.jpg"}', r"said\.json: cannot be read as JSON"),
    ],
)
def test_faults_are_named_with_their_entry(
    tmp_path: Path, known: dict[str, str], text: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, text, known)


def test_two_verdicts_on_one_image_and_a_name_of_several_images_are_refused(tmp_path: Path) -> None:
    done, skipped = {"result": []}, {"result": [], "was_cancelled": True}
    paths = ["/pool/cam1/a.jpg", "/pool/cam2/a.jpg"]
    known = {path: path for path in paths}
    with pytest.raises(
        DataError, match=r"\[0\]: image '.*a\.jpg' may be /pool/cam1/a.jpg, /pool/cam2"
    ):
        read(tmp_path, [task("a.jpg", done)], known)
    by_folder = [{"data": {"image": "cam2/a.jpg"}, "annotations": [done]}]
    assert list(read_verdicts(written(tmp_path, by_folder), known)) == ["/pool/cam2/a.jpg"]
    renamed = [{"data": {"image": "images/cam1_a.jpg"}, "annotations": [done]}]
    assert list(read_verdicts(written(tmp_path, renamed), known)) == ["/pool/cam1/a.jpg"]
    both = [task("a.jpg", done), task("a.jpg", skipped)]
    with pytest.raises(
        DataError, match=r"\[1\]: .*a\.jpg is ignore here and empty in .*json\[0\]$"
    ):
        read_verdicts(written(tmp_path, both), {"a.jpg": "/pool/a.jpg"})


def written(tmp_path: Path, value: Any) -> Path:
    path = tmp_path / "said.json"
    path.write_bytes(json.dumps(value).encode("utf-16"))  # read through the shared decoder
    return path


def test_boxes_are_added_to_a_verdict_of_the_page_and_do_not_replace_its_boxes(
    tmp_path: Path,
) -> None:
    other = (NamedBox((1.0, 2.0, 3.0, 4.0), "cat"),)
    with PoolStore(tmp_path / "pool.sqlite") as store:
        store.add_decisions([Decision("a", HOLDS, "ann", "2026-01-01T00:00:00+00:00", "m")])
        assert store_verdicts(store, {"a": Said(HOLDS, "t.json[0]", CAT)}, "t.json", "m") == 1
        assert store.decisions()["a"].boxes == CAT
        assert store_verdicts(store, {"a": Said(HOLDS, "t.json[0]", CAT)}, "t.json", "m") == 0
        assert store_verdicts(store, {"a": Said(HOLDS, "u.xml[0]", other)}, "u.xml", "m") == 1
        store.add_decisions(
            [Decision("a", HOLDS, "ann", "2026-01-02T00:00:00+00:00", "m", (), CAT)]
        )
        assert store_verdicts(store, {"a": Said(HOLDS, "u.xml[0]", other)}, "u.xml", "m") == 0
        assert store.decisions()["a"].boxes == CAT


def exported(tmp_path: Path, to: str) -> tuple[Path, Path]:
    """Export two images that hold an object; return the run and the folder that was written."""
    run = mined(tmp_path, 3)
    images = [str(tmp_path / "pool" / f"pic-00{i}.jpg") for i in (0, 1)]
    with PoolStore(run / "pool.sqlite") as store:
        store.add_decisions([Decision(i, HOLDS, "ann", "2026-01-01", MODEL) for i in images])
    out = tmp_path / "out"
    assert run_command(["review", str(run), "--export", to, "--out", str(out)]) == 0
    return run, out


def test_images_that_cannot_be_read_are_left_out_of_an_export(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, _ = exported(tmp_path, "cvat")
    for number, code in ((0, 0), (1, 1)):
        (tmp_path / "pool" / f"pic-00{number}.jpg").unlink()
        out = str(tmp_path / f"out{number}")
        assert run_command(["review", str(run), "--export", "cvat", "--out", out]) == code
        assert f"left out: {tmp_path}/pool/pic-000.jpg: no such file" in capfd.readouterr().err
    text = (tmp_path / "out0" / "annotations.xml").read_text()
    assert [image.get("name") for image in ET.fromstring(text).iter("image")] == ["pic-001.jpg"]


def boxes_after(run: Path, file: str, content: str) -> dict[str, int]:
    """Put a labelling program's file into the run, take it in; return the boxes by image."""
    (run / file).write_text(content, encoding="utf-8")
    open_listed(run / file)
    with PoolStore(run / "pool.sqlite") as store:
        return {Path(image).name: len(said.boxes) for image, said in store.decisions().items()}


def test_our_label_studio_export_comes_back_with_what_a_person_accepted(tmp_path: Path) -> None:
    run, out = exported(tmp_path, "labelstudio")
    tasks = json.loads((out / "tasks.json").read_text())
    assert boxes_after(run, "t.json", json.dumps(tasks)) == {"pic-000.jpg": 0, "pic-001.jpg": 0}
    tasks[0]["annotations"] = [{"result": tasks[0]["predictions"][0]["result"]}]
    assert boxes_after(run, "t.json", json.dumps(tasks)) == {"pic-000.jpg": 2, "pic-001.jpg": 0}


def test_our_cvat_export_comes_back_with_what_a_person_drew(tmp_path: Path) -> None:
    run, out = exported(tmp_path, "cvat")
    text = (out / "annotations.xml").read_text()
    assert boxes_after(run, "t.xml", text) == {"pic-000.jpg": 0, "pic-001.jpg": 0}
    root = ET.fromstring(text)
    for box in root.findall("image")[1]:
        box.set("source", "manual")
    changed = ET.tostring(root, encoding="unicode")
    assert boxes_after(run, "t.xml", changed) == {"pic-000.jpg": 0, "pic-001.jpg": 2}


def test_our_fiftyone_export_comes_back_with_what_a_person_drew(tmp_path: Path) -> None:
    run, out = exported(tmp_path, "fiftyone")
    data = json.loads((out / "labels.json").read_text())
    assert boxes_after(run, "t.json", json.dumps(data)) == {"pic-000.jpg": 0, "pic-001.jpg": 0}
    for item in data["labels"]["pic-000"]:
        del item["confidence"]
    assert boxes_after(run, "t.json", json.dumps(data)) == {"pic-000.jpg": 2, "pic-001.jpg": 0}


def test_apply_takes_the_file_in_the_folder_of_the_run_and_nowhere_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, data = mined(tmp_path, 2), tmp_path / "data"
    draw(data / "images" / "own.jpg", 77)
    (data / "labels").mkdir()
    (data / "labels" / "own.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (data / "classes.txt").write_text("raccoon\n")
    file = run / "export.json"
    file.write_text(json.dumps([task("pic-000.jpg", {"result": []})]))
    assert is_labelling_file(file) and not is_labelling_file(run / "candidates.json")
    assert run_command(["apply", str(file), str(data), "--dry-run"]) == 0
    assert "1 verified negative and 0 labelled images would be added" in capfd.readouterr().out
    lost = tmp_path / "export.json"
    lost.write_text(file.read_text())
    assert run_command(["apply", str(lost), str(data), "--dry-run"]) == 1
    assert "no pool.sqlite beside it or above it, wanted the file in" in capfd.readouterr().err


def of_every_program() -> dict[str, tuple[str, Any, int]]:
    """Return (file name, content, verified negatives): the first picture is empty, the second is not."""
    first, second = "pic-000.jpg", "pic-001.jpg"
    drawn = rectangle(rectanglelabels=["raccoon"])
    plain = drawn["value"] | {"original_width": 240, "original_height": 160}
    box = {"label": "raccoon", "bounding_box": [0.1, 0.25, 0.2, 0.5]}
    hashed = "0123456789abcdef0123456789abcdef.jpg"
    pair = [{"file_name": first}, {"file_name": second}]
    renamed = [{"file_name": f"{name[:-4]}_jpg.rf.{hashed}"} for name in (first, second)]
    raccoon = {"categories": [{"id": 7, "name": "raccoon"}]}
    labels = {"pic-000": [], "pic-001": [box | {"label": 0}]}
    images = cvat('<tag label="empty" source="manual"></tag>', shape("manual"))
    for old, name in zip(NAMES, (first, second), strict=False):
        images = images.replace(old, name)
    return {
        "Label Studio": (
            "export.json",
            [task(first, {"result": []}), task(second, {"result": [drawn]})],
            1,
        ),
        "Label Studio, JSON-MIN": (
            "export.json",
            [{"image": first, "choice": "empty"}, {"image": second, "label": [plain]}],
            1,
        ),
        "CVAT": ("annotations.xml", images.replace('"cat"', '"raccoon"'), 1),
        "CVAT, COCO": ("instances_default.json", coco(*pair) | raccoon, 0),
        "FiftyOne, labels": ("labels.json", {"classes": ["raccoon"], "labels": labels}, 1),
        "FiftyOne, samples": (
            "samples.json",
            {"samples": [sample(first, "empty"), sample(second, ground_truth=[box])]},
            1,
        ),
        "Roboflow": ("_annotations.coco.json", coco(*renamed) | raccoon, 0),
    }


@pytest.mark.parametrize("program", of_every_program())
def test_the_command_takes_the_file_of_every_program(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], program: str
) -> None:
    """Roboflow's boxes are left out, as it resizes the picture, so that one waits for boxes."""
    name, content, empty = of_every_program()[program]
    run, data = mined(tmp_path, 3), tmp_path / "data"
    draw(data / "images" / "own.jpg", 77)
    (data / "labels").mkdir()
    (data / "labels" / "own.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (data / "classes.txt").write_text("raccoon\n")
    text = content if isinstance(content, str) else json.dumps(content)
    (run / name).write_text(text, encoding="utf-8")
    assert run_command(["apply", str(run / name), str(data), "--dry-run"]) == 0
    said = capfd.readouterr()
    held = 0 if program == "Roboflow" else 1
    line = f"{counted(empty, 'verified negative')} and {counted(held, 'labelled image')} would be added"
    assert line in said.out, said.out + said.err


@pytest.mark.parametrize("to", ["labelstudio", "cvat", "fiftyone"])
def test_images_of_the_same_name_are_told_apart_by_the_list_that_the_export_wrote(
    tmp_path: Path, to: str
) -> None:
    paths = [draw(tmp_path / "pool" / camera / "a.jpg", i) for i, camera in enumerate(("c1", "c2"))]
    known = {str(path): str(path) for path in paths}
    exported_only = ImageRecord.empty(paths[1], 240, 160, ImageState.UNREVIEWED)
    out = convert(Dataset(("cat",), (exported_only,), tmp_path), tmp_path / "out", to).out
    if to == "labelstudio":
        file = out / "tasks.json"
        tasks = json.loads(file.read_text())
        file.write_text(json.dumps([each | {"annotations": [{"result": []}]} for each in tasks]))
    elif to == "cvat":
        file = out / "annotations.xml"
        text = file.read_text()
        file.write_text(
            text.replace('height="160" />', 'height="160"><tag label="empty"/></image>')
        )
    else:
        file = out / "labels.json"
        file.write_text(file.read_text().replace("null", "[]"))
    assert {image: said.verdict for image, said in read_verdicts(file, known).items()} == {
        str(paths[1]): EMPTY
    }
    (out / "image_names.json").write_text('{"copies": {"a.jpg": 3}}')
    with pytest.raises(DataError, match=r"image_names\.json: got .*, wanted 'copies'"):
        read_verdicts(file, known)
    (out / "image_names.json").unlink()
    with pytest.raises(DataError, match=r"\[0\]: image '.*a.*' may be"):
        read_verdicts(file, known)


def test_the_list_names_images_of_the_pool_where_the_export_had_to_copy_them_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copies(names: list[str], folder: Path) -> list[Path]:
        return [draw(folder / f"copy-{i}.jpg", i) for i, _ in enumerate(names)]

    monkeypatch.setattr("hardmine.review.run_review.local_files", copies)
    _, out = exported(tmp_path, "cvat")
    said = json.loads((out / "image_names.json").read_text())
    assert said == {"copies": {f"copy-{i}.jpg": f"{tmp_path}/pool/pic-00{i}.jpg" for i in (0, 1)}}


def test_an_image_on_which_the_model_saw_nothing_is_null_for_fiftyone(
    tmp_path: Path, known: dict[str, str]
) -> None:
    image = ImageRecord.empty(Path(known["a.jpg"]), 240, 160, ImageState.UNREVIEWED)
    dataset, nothing = Dataset(("cat",), (image,), tmp_path), np.zeros(0, np.float32)
    out = convert(dataset, tmp_path / "out", "fiftyone", scores={image.path: nothing}).out
    assert read_verdicts(out / "labels.json", known) == {}

"""The same images as a folder, glob, list, tar, zip and URL: every way to mine gives the same result."""

from __future__ import annotations

import functools
import http.server
import io
import json
import os
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from hardmine import mine
from hardmine.cli.main import app
from hardmine.data.formats.format_table import FORMATS
from hardmine.errors import DataError
from hardmine.inference.load_detector import load_detector
from hardmine.inference.tiles import tiled
from hardmine.mining.candidates_file import hand_over
from hardmine.mining.mine import explain
from hardmine.mining.pool_store import PoolStore
from hardmine.mining.scan import estimate_scan
from hardmine.mining.sources.local_files import load_pool
from hardmine.review.apply_decisions import apply_decisions
from hardmine.review.known_images import KnownImages, read_copies
from hardmine.review.review_pictures import ReviewPictures
from hardmine.review.run_review import export_to_label, open_listed
from hardmine.review.verdicts import read_verdicts
from hardmine.types import Decision, Verdict
from hardmine.workflows.export_model import calibration_pictures
from hardmine.workflows.image_sets import load_negatives
from review_world import serve
from shelf_world import make_world
from tiny_models import tiny_detector

KINDS = ("folder", "glob", "list", "tar", "tar.gz", "zip", "url", "url of a tar", "url of a zip")
PROGRAMS = tuple(row.name for row in FORMATS if row.for_labelling)
ROCK = (40, 40, 88, 88)


def scene(day: int) -> Image.Image:
    """Draw a camera's view: a landscape that changes by the day, and a rock that stays."""
    rng = np.random.default_rng(day)
    pixels = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((16, 16, 1)))
    look = np.random.default_rng(1001).integers(0, 200, (6, 6, 3))
    pixels[40:88, 40:88] = np.kron(look, np.ones((8, 8, 1))) + 8 * (day % 4)
    return Image.fromarray((pixels + rng.normal(0, 4, pixels.shape)).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder, and its URL on this machine."""
    root = tmp_path_factory.mktemp("web")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None: ...

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *args: Any) -> None: ...  # who has read enough of a tar hangs up

    made = Server(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root)))
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield root, f"http://127.0.0.1:{made.server_port}"
    made.shutdown()
    made.server_close()


@pytest.fixture(scope="module")
def pools(server: tuple[Path, str]) -> dict[str, str]:
    """Every kind of pool, of the same eight images: three views of each of two cameras and two more."""
    root, url = server
    folder = root / "pool"
    names = [f"cam{c}/day {d}.png" for c in (1, 2) for d in (1, 2, 3)] + ["a.png", "b.jpg"]
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        scene(number).save(folder / name)
    (folder / "notes.md").write_text("not an image")
    with (
        tarfile.open(root / "pool.tar", "w") as plain,
        tarfile.open(root / "pool.tar.gz", "w:gz") as packed,
    ):
        for archive in (plain, packed):
            for name in names:
                archive.add(folder / name, name)
    with zipfile.ZipFile(root / "pool.zip", "w") as archive:
        for name in names:
            archive.write(folder / name, name)
    lines = "".join(f"{name}\r\n" for name in names[:-1])  # as Windows writes it
    text = f"\ufeff# the pool\r\n\r\n{lines}{names[-1]}"
    (folder / "pool.txt").write_bytes(text.replace("cam2/", "cam2\\").encode())
    return {
        "folder": str(folder),
        "glob": f"{folder}/**/*.[pj]*g",
        "list": str(folder / "pool.txt"),
        "tar": str(root / "pool.tar"),
        "tar.gz": str(root / "pool.tar.gz"),
        "zip": str(root / "pool.zip"),
        "url": f"{url}/pool/",
        "url of a tar": f"{url}/pool.tar",
        "url of a zip": f"{url}/pool.zip",  # this server sends whole files only
    }


@pytest.fixture(scope="module")
def predictions(server: tuple[Path, str]) -> Path:
    """Alarms on the rock of every view, falling; two alarms on ``a.png``; nothing on ``b.jpg``."""
    box = [ROCK[0], ROCK[1], ROCK[2] - ROCK[0], ROCK[3] - ROCK[1]]
    rows: list[dict[str, Any]] = []
    for number, name in enumerate(f"cam{c}/day {d}.png" for c in (1, 2) for d in (1, 2, 3)):
        rows.append({"file_name": name, "category": "cup", "bbox": box, "score": 0.9 - number / 20})
    rows += [
        {"file_name": "a.png", "category": "jar", "bbox": [0, 0, 30, 30], "score": s}
        for s in (0.4, 0.3)
    ]
    path = server[0] / "found.json"
    path.write_text(json.dumps(rows))
    return path


Result = Any


def candidates_of(out: Path) -> list[tuple[Any, ...]]:
    """Return what a run handed out, by the names inside the pool."""
    sheet = json.loads((out / "candidates.json").read_text())
    plain = [
        (
            row["image"],
            row["score"],
            row["class"],
            row["boxes"],
            row["similar"],
        )
        for row in sheet["candidates"]
    ]
    header = (out / "candidates.csv").read_text().splitlines()[0]
    return [*plain, (header, sheet["scanned"], sheet["duplicates_grouped"])]


def mined(detector: Any, pool: str, out: Path, **more: Any) -> list[tuple[Any, ...]]:
    mine(detector, pool, out=out, **more)
    return candidates_of(out)


def plainly(pool: str, predictions: Path, out: Path) -> Result:
    return mined(tiny_detector(), pool, out, top=3, runtime="torch", min_score=0.2)


def from_predictions(pool: str, predictions: Path, out: Path) -> Result:
    return mined(predictions, pool, out, group=r"cam\d", repeats=False)


def by_group(pool: str, predictions: Path, out: Path) -> Result:
    found = mined(predictions, pool, out, group=r"^cam\d", quota_group=2)
    assert [row[0] for row in found[:-1]] == ["cam1/day 1.png", "cam2/day 1.png", "a.png"]
    assert found[0][4] == ["cam1/day 2.png", "cam1/day 3.png"]  # the rock, seen again
    return found


def diversely(pool: str, predictions: Path, out: Path) -> Result:
    how = {"top": 3, "runtime": "torch", "min_score": 0.1, "diverse": True}
    return mined(tiny_detector(), pool, out, **how)


def in_tiles(pool: str, predictions: Path, out: Path) -> Result:
    return mined(tiled(tiny_detector(), 64, 0.2), pool, out, top=4, min_score=0.2)


def explained(pool: str, predictions: Path, out: Path) -> Result:
    said = explain(predictions, pool, "cam1/day 2.png", out=out, group=r"cam\d").lines()
    assert "the same alarm in the same place as in" in said[-1]
    return said[1:-1]


def excluding(pool: str, predictions: Path, out: Path) -> Result:
    found = mine(predictions, pool, exclude=[pool], out=out)
    assert found.why_nothing() == (
        "0 handed out: 8 scanned, best score .90; 7 repeats of an excluded image; "
        "1 score below --min-score"
    )
    return len(found.leaks)


def estimated(pool: str, predictions: Path, out: Path) -> Result:
    fresh = estimate_scan(load_detector(predictions), pool, out=out)
    mine(predictions, pool, out=out)
    done = estimate_scan(load_detector(predictions), pool, out=out)
    return fresh.sample, fresh.done, done.sample, done.done


def labelled(pool: str, predictions: Path, out: Path) -> Result:
    """``hardmine convert`` of candidates to each labelling program: pictures, boxes and scores."""
    mine(predictions, pool, out=out, group=r"cam\d", repeats=False)
    items = open_listed(out).items
    saw = {text: item.path for item in items for text in (item.name, item.path)}
    written: dict[str, str] = {}
    pictures: list[dict[str, bytes]] = []
    for program in PROGRAMS:
        to = out / program
        command("convert", out / "candidates.csv", to, "--to", program)
        for path in filter(Path.is_file, to.rglob("*")):
            if path.suffix in (".json", ".xml"):
                text = path.read_text()
                if path.name == "image_names.json":
                    assert set(json.loads(text)["copies"].values()) == set(saw.values())
                else:
                    written[f"{program}/{path.name}"] = text
        folder = to / ("data" if program == "fiftyone" else "images")
        pictures.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert [len(found) for found in pictures] == [7, 7, 7]
    assert '"score": 0.8999' in written["labelstudio/tasks.json"]
    known = KnownImages(saw, read_copies(out / "cvat" / "annotations.xml"))
    assert {known.find(name, "") for name in pictures[0]} == set(saw.values())
    return written, pictures


def unpacked(pool: str, predictions: Path, out: Path) -> Result:
    """What the loop trains on: files with the same names and content."""
    first = load_pool(pool, out / "pool")
    again = load_pool(pool, out / "pool")
    assert again.fingerprint == first.fingerprint
    names = [record.path.relative_to(first.root).as_posix() for record in first.records]
    return [
        (name, record.width, record.path.read_bytes())
        for name, record in zip(names, first.records, strict=True)
    ]


def reviewed(pool: str, predictions: Path, out: Path) -> Result:
    """What a person sees, what is exported to label, and what goes back into a data set."""
    mine(predictions, pool, out=out, repeats=False)
    listed = open_listed(out)
    pictures = ReviewPictures(out / "thumbnails.sqlite")
    with PoolStore(out / "pool.sqlite") as store:
        shown = [(i.name, pictures.screen(i).width, listed.boxes(i, store)) for i in listed.items]
    pictures.close()
    saw = {item.name: item.path for item in listed.items}
    share = {"label": 0, "bounding_box": [0.25, 0.5, 0.25, 0.25]}
    file = out / "labels.json"
    file.write_text(json.dumps({"classes": ["cup"], "labels": {"a": [share]}}))
    said = read_verdicts(file, saw)
    boxes = [(one.verdict, one.boxes) for one in said.values()]
    with PoolStore(out / "pool.sqlite") as store:
        for name, verdict in (
            ("a.png", Verdict.CONTAINS_OBJECT),
            ("cam1/day 1.png", Verdict.EMPTY),
        ):
            store.add_decisions([Decision(saw[name], verdict, "me", "2026-01-01T00:00:00Z", "m")])
    done = export_to_label(out, out / "cvat", "cvat")
    data = out / "data"
    scene(99).save(data_image := _made(data / "JPEGImages") / "x.png")
    (_made(data / "Annotations") / "x.xml").write_text("<annotation></annotation>")
    applied = apply_decisions(out, data)
    added = [p.read_bytes() for p in sorted(data_image.parent.iterdir()) if p != data_image]
    return shown, boxes, done.num_images, done.predicted_boxes, len(applied.empty), added


def served(pool: str, predictions: Path, out: Path) -> Result:
    """``hardmine review``: what a browser is sent, and the decisions that it sends back."""
    mine(predictions, pool, out=out, repeats=False)
    page = serve(out, "--who", "ann")
    try:
        names = [one["name"] for one in json.loads(page.get("/api/images?ids=0,1,2,3,4,5,6")[1])]
        sizes = []
        for at in range(len(names)):
            for size in ("thumbnail/{}", "picture/{}", "picture/{}?side=400", "picture/{}/full"):
                status, data, headers = page.get("/" + size.format(at))
                assert (status, headers["x-image-width"]) == (200, "128"), data
                sizes.append(Image.open(io.BytesIO(data)).size)
        jar = {"id": names.index("a.png"), "boxes": [[1, 2, 30, 40, "jar"]]}
        said = [
            page.post("/api/decide", {"images": [{"id": 0}, {"id": 1}], "verdict": "empty"}),
            page.post("/api/decide", {"images": [jar], "verdict": "contains_object"}),
            page.post("/api/decide", {"images": [{"id": 2}], "verdict": "unsure"}),
            page.post("/api/undo", {"who": "ann"}),
        ]
        assert [status for status, _ in said] == [200] * 4, said
        verdicts = json.loads(page.get("/api/list")[1])["verdict"]
        (drawn,) = json.loads(page.get(f"/api/images?ids={jar['id']}")[1])
    finally:
        page.kill()
    with PoolStore(out / "pool.sqlite", read_only=True) as store:
        kept = [one.verdict for one in store.decisions().values()]
    return names, sizes, verdicts, drawn["drawn"], drawn["fault"], drawn["history"][0]["who"], kept


def looped(pool: str, predictions: Path, out: Path) -> Result:
    """``hardmine loop --pool``: what is mined and trained on, and what is measured."""
    world = predictions.parent / "world"
    if not world.exists():
        make_world(world)
    how = ("--recipe", world / "tiny.yaml", "--rounds", 1, "--arms", "mined", "--add", 2)
    where = ("--val", 0.4, "--min-score", 0.001, "--draws", 5, "--device", "cpu", "--out", out)
    command("loop", world / "shelf", "--pool", pool, *how, *where)
    rows = (out / "rounds" / "mined-1" / "candidates.csv").read_text().splitlines()
    trained = json.loads((out / "rounds" / "mined-1" / "train.coco.json").read_text())
    assert len(rows) == 3
    return (
        [row.split(",")[:3] for row in rows],
        sorted(Path(image["file_name"]).name for image in trained["images"]),
        (out / "metrics.csv").read_text(),
    )


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def told(pool: str, predictions: Path, out: Path) -> Result:
    """The figures of the report that ``mine`` writes, pictures and all."""
    mine(predictions, pool, out=out, repeats=False)
    page = next(iter(out.glob("*.html")), None)
    return 0 if page is None else page.read_text().count("<img")


def predicted(pool: str, predictions: Path, out: Path) -> Result:
    """``hardmine predict``: every image's line, and the pictures that it saves."""
    lines = command("predict", predictions, pool, "--save", "--out", out, "--min-score", 0.35)
    assert len(list(out.rglob("*.jpg"))) == 8
    names = ("cam1/", "cam2/", "a.png", "b.jpg")
    return sorted(
        unquote(line)[max(unquote(line).find(name) for name in names) :] for line in lines
    )


def compared(pool: str, predictions: Path, out: Path) -> Result:
    """``hardmine check-detector``: all images that the reference names are compared."""
    return command("check-detector", predictions, pool, "--reference", predictions)


def command(*words: object) -> list[str]:
    """Return the lines of standard output of a command that succeeds."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return [line for line in done.stdout.splitlines() if line]


def held_out(pool: str, predictions: Path, out: Path) -> Result:
    """``--negatives``: what is found on all of the images."""
    empty = load_negatives(pool, ("cup", "jar"), "negatives", out)
    assert all(record.state.is_negative for record in empty.records)
    found = load_detector(predictions).detect_images([record.path for record in empty.records])  # type: ignore[attr-defined]
    return sorted(one.scores.tolist() for one in found)


def calibrated(pool: str, predictions: Path, out: Path) -> Result:
    """``export --calibrate``: the pixels of all images."""
    pictures = calibration_pictures(pool, out)
    return sorted(np.asarray(Image.open(path)).tobytes() for path in pictures)


def labelled_data(predictions: Path) -> Path:
    """A COCO file of three images: a cup on the rock of each, and a jar beside it."""
    root = predictions.parent / "labelled"
    if not root.exists():
        sides = [ROCK[0], ROCK[1], ROCK[2] - ROCK[0], ROCK[3] - ROCK[1]]
        images = [
            {"id": i, "file_name": f"l{i}.png", "width": 128, "height": 128} for i in range(3)
        ]
        boxes = [(1, sides), (2, [0, 0, 30, 30])]
        rows = [
            {"id": 2 * i + k, "image_id": i, "category_id": kind, "bbox": box, "iscrowd": 0}
            for i in range(3)
            for k, (kind, box) in enumerate(boxes)
        ]
        names = [{"id": 1, "name": "cup"}, {"id": 2, "name": "jar"}]
        for image in images:
            scene(50 + int(str(image["id"]))).save(_file_in(root, str(image["file_name"])))
        content = {"images": images, "annotations": rows, "categories": names}
        (root / "l.json").write_text(json.dumps(content))
        scored = [{**row, "score": 0.6, "image_id": f"l{row['image_id']}.png"} for row in rows]
        found = json.loads(predictions.read_text())
        named = [{**row, "file_name": row["image_id"], "category": "cup"} for row in scored]
        (root / "found.json").write_text(json.dumps([*named, *found]))
    return root


def _file_in(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def measured(pool: str, predictions: Path, out: Path) -> Result:
    """``hardmine val --negatives``: alarms per image of the pool."""
    data = labelled_data(predictions)
    how = ("--classes", data / "l.json", "--out", out, "--draws", 10, "--json")
    said = command("val", data / "found.json", data / "l.json", "--negatives", pool, *how)
    found = json.loads("\n".join(said))["negatives"]
    assert found["held_out"]["images"] == 8
    return found


def promised(pool: str, predictions: Path, out: Path) -> Result:
    """``hardmine threshold --negatives``: the score from which alarms are rare enough."""
    data = labelled_data(predictions)
    how = ("--classes", data / "l.json", "--max-alarms", 0.9, "--out", out, "--json")
    said = command("threshold", data / "found.json", data / "l.json", "--negatives", pool, *how)
    found = json.loads("\n".join(said))
    return {key: value for key, value in found.items() if "seconds" not in key}


def checked(pool: str, predictions: Path, out: Path) -> Result:
    """``hardmine check``: what repeats the images of the pool, and the shortcut test."""
    data = labelled_data(predictions)
    copy = out / "copied"
    shutil.copytree(data, copy)
    scene(0).save(copy / "l0.png")  # that of "cam1/day 1.png"
    given = ("--negatives", pool, "--against", pool)
    done = CliRunner().invoke(app, ["check", str(copy / "l.json"), *map(str, given), "--json"])
    assert done.exit_code == 1, done.output
    problems = json.loads(done.stdout)["problems"]
    leaks = [p["reason"] for p in problems if p["kind"] == "split_leak" and "negatives" in str(p)]
    assert leaks
    assert "day 1.png" in str(leaks)
    return [(p["kind"], p["index"]) for p in problems]


def left_out(pool: str, predictions: Path, out: Path) -> Result:
    """``hardmine mine --exclude``: nothing that repeats an image of the pool is handed out."""
    folder = predictions.parent / "pool"
    how = ("--classes", labelled_data(predictions) / "l.json", "--out", out, "--exclude", pool)
    return [line for line in command("mine", predictions, folder, *how) if "repeats" in line]


WAYS: tuple[Callable[[str, Path, Path], Result], ...] = (
    plainly,
    from_predictions,
    by_group,
    diversely,
    in_tiles,
    explained,
    excluding,
    estimated,
    labelled,
    reviewed,
    served,
    told,
    unpacked,
    predicted,
    compared,
    held_out,
    calibrated,
    measured,
    promised,
    checked,
    left_out,
)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_every_kind_of_pool_gives_the_same(
    pools: dict[str, str],
    predictions: Path,
    tmp_path: Path,
    way: Callable[[str, Path, Path], Result],
) -> None:
    torch.manual_seed(0)
    found = {kind: way(pools[kind], predictions, tmp_path / kind) for kind in KINDS}
    for kind in KINDS:
        assert found[kind] == found["folder"], kind


@pytest.mark.slow
def test_a_loop_takes_every_kind_of_pool(
    pools: dict[str, str], predictions: Path, tmp_path: Path
) -> None:
    """Where the pictures lie makes no difference to a training; ``unpacked`` goes over all kinds."""
    found = looped(pools["folder"], predictions, tmp_path / "folder")
    for kind in ("glob", "zip", "url of a tar"):
        assert looped(pools[kind], predictions, tmp_path / kind) == found, kind


def test_an_image_that_is_gone_from_its_archive_is_named(
    pools: dict[str, str], predictions: Path, tmp_path: Path
) -> None:
    pool = tmp_path / "pool.zip"
    shutil.copy(pools["zip"], pool)
    mine(predictions, pool, out=tmp_path / "out", repeats=False)
    with zipfile.ZipFile(pool, "w") as archive:
        archive.writestr("other.png", b"")
    with pytest.raises(DataError, match=r"none of its \d images can be read"):
        hand_over(tmp_path / "out" / "candidates.json", tmp_path / "cvat", "cvat")


def test_an_archive_that_has_changed_is_unpacked_anew(tmp_path: Path) -> None:
    for colour in ((200, 0, 0), (0, 200, 0)):
        Image.new("RGB", (8, 8), colour).save(tmp_path / "a.png")
        with zipfile.ZipFile(tmp_path / "pool.zip", "w") as archive:
            archive.write(tmp_path / "a.png", "../../a.png")
        (record,) = load_pool(tmp_path / "pool.zip", tmp_path / "run" / "pool").records
        assert Image.open(record.path).getpixel((0, 0)) == colour
        assert record.path.is_relative_to(tmp_path / "run" / "pool")  # whatever the archive says


@pytest.mark.parametrize("kind", ["glob", "list"])
def test_an_archive_among_others_that_has_changed_is_unpacked_anew(
    tmp_path: Path, kind: str
) -> None:
    (tmp_path / "pool.txt").write_text("first.zip\nsecond.zip\n")
    pool = {"glob": f"{tmp_path}/*.zip", "list": str(tmp_path / "pool.txt")}[kind]
    pack(tmp_path / "first.zip", (200, 0, 0))
    pack(tmp_path / "second.zip", (0, 0, 200))
    for colour in ((200, 0, 0), (0, 200, 0)):
        pack(tmp_path / "first.zip", colour)
        records = load_pool(pool, tmp_path / "run" / "pool").records
        assert [Image.open(r.path).getpixel((0, 0)) for r in records] == [colour, (0, 0, 200)]
    seen = {record.path: record.path.stat() for record in records}
    again = load_pool(pool, tmp_path / "run" / "pool").records
    assert {record.path: record.path.stat() for record in again} == seen  # none was written again


def pack(archive: Path, colour: tuple[int, int, int]) -> None:
    """Write an archive with one picture, dated anew."""
    Image.new("RGB", (8, 8), colour).save(archive.with_suffix(".png"))
    before = archive.stat().st_mtime_ns if archive.exists() else 0
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(archive.with_suffix(".png"), f"{archive.stem}.png")
    now = max(archive.stat().st_mtime_ns, before + 1)  # clocks of file systems are coarse
    os.utime(archive, ns=(now, now))

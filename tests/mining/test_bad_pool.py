"""Every kind of bad and odd file inside a pool of good ones, all the way through ``mine``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from hardmine import mine
from hardmine.mining.pool_store import PoolStore
from tiny_models import tiny_detector

GOOD = 6
ODD = ("cmyk.jpg", "deep.png", "moving.gif", "palette.png", "see-through.png", "turned.jpg")
BAD = {
    "cut.jpg": "broken image",
    "cut.png": "broken image",
    "empty.jpg": "zero bytes long",
    "text.jpg": "not an image of a known format",
}


def picture(seed: int) -> Image.Image:
    low = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(low).resize((48, 36))


def write_pool(folder: Path) -> None:
    """Write good pictures, ones in odd forms that can be read, and ones that cannot."""
    folder.mkdir()
    for seed in range(GOOD):
        picture(seed).save(folder / f"good{seed}.jpg")
    picture(20).convert("CMYK").save(folder / "cmyk.jpg")
    deep = np.asarray(picture(21).convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(folder / "deep.png")
    picture(22).save(folder / "moving.gif", save_all=True, append_images=[picture(23)])
    picture(24).convert("P").save(folder / "palette.png")
    picture(25).convert("RGBA").save(folder / "see-through.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(26).save(folder / "turned.jpg", exif=exif)
    for name in ("cut.jpg", "cut.png"):
        noise = np.random.default_rng(30).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(folder / name)
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("this is a letter, not a picture")


def test_bad_files_are_named_and_the_others_scored(tmp_path: Path) -> None:
    folder, out = tmp_path / "pool", tmp_path / "out"
    write_pool(folder)
    detector = tiny_detector()
    for again in (False, True):  # the second run finds all in the store
        result = mine(detector, folder, out=out, min_score=0.0, runtime="torch")
        assert result.scanned == GOOD + len(ODD), again
        told = {Path(problem.file).name: problem.reason for problem in result.problems}
        assert sorted(told) == sorted(BAD)
        assert all(told[name].startswith(reason) for name, reason in BAD.items()), told
        assert {problem.kind for problem in result.problems} == {"image_unreadable"}
    with PoolStore(out / "pool.sqlite") as store:
        scored = {Path(score.image).name: score for score in store.iter_ranked(detector.model_id)}
    assert sorted(scored) == sorted([f"good{seed}.jpg" for seed in range(GOOD)] + list(ODD))
    assert all(0 <= score.score <= 1 for score in scored.values())


def test_a_turned_picture_scores_as_what_a_person_sees(tmp_path: Path) -> None:
    folder = tmp_path / "pool"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(26).save(folder / "turned.png", exif=exif)
    picture(26).transpose(Image.Transpose.ROTATE_270).save(folder / "upright.png")
    mine(tiny_detector(), folder, out=tmp_path / "out", min_score=0.0, runtime="torch")
    with PoolStore(tmp_path / "out" / "pool.sqlite") as store:
        scores = [score.score for score in store.iter_ranked("tiny")]
    assert len(scores) == 2
    assert scores[0] == scores[1]

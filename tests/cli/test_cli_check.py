"""``check`` from the command line on small folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hardmine.cli import console as failures

Cli = Callable[..., tuple[int, str, str]]


def put(folder: Path, name: str, seed: int, box: str | None = "10 10 30 25") -> None:
    folder.mkdir(exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((40, 30), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    if box is None:
        return
    corners = "".join(
        f"<{key}>{value}</{key}>"
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box.split(), strict=True)
    )
    (folder / f"{name}.xml").write_text(
        f"<annotation><object><name>cat</name><bndbox>{corners}</bndbox></object></annotation>"
    )


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed in range(3):
        put(Path("data"), str(seed), seed)
    return tmp_path


def test_good_data_pass_even_strictly(cli: Cli, here: Path) -> None:
    code, out, _ = cli("check data --strict")
    assert code == failures.DONE
    assert "no problems" in out
    assert "letterbox" in out


def test_strict_is_a_gate_for_warnings_and_errors(cli: Cli, here: Path) -> None:
    put(Path("data"), "copy", 0)
    assert cli("check data")[0] == failures.DONE
    code, out, err = cli("check data --strict")
    assert code == failures.GATE
    assert "duplicate_images" in out
    assert "0 errors and 1 warning, wanted none" in err
    put(Path("data"), "bad", 9, "30 10 10 25")
    assert cli("check data")[0] == failures.FAILURE
    assert cli("check data --strict")[0] == failures.GATE


def test_other_sets_must_be_apart(cli: Cli, here: Path) -> None:
    put(Path("val"), "a", 1)
    put(Path("pool"), "p", 2, None)
    put(Path("pool"), "q", 2, None)
    put(Path("negatives"), "n", 0, None)
    code, out, _ = cli("check data --val val --against pool --negatives negatives --json")
    assert code == failures.FAILURE
    got = json.loads(out)
    assert [(p["kind"], p["reason"]) for p in got["problems"]] == [
        ("split_leak", "near-copy in all of n.png (negatives)"),
        ("split_leak", "near-copy in all of a.png (val)"),
        ("split_leak", "near-copy in all of p.png (pool), q.png (pool)"),
    ]
    assert list(got["splits"]) == ["all", "val"]
    assert got["shortcut"] is None
    assert "left out" in got["notes"][0]


def test_small_boxes_for_a_model(cli: Cli, here: Path) -> None:
    put(Path("data"), "small", 7, "10 10 11 11")
    code, out, _ = cli("check data --model small160")
    assert code == failures.DONE
    # 160 / 40 = 4 across and 160 / 30 = 5.3 down
    assert "cat of 4.0 x 5.3 px in the input of small160" in out
    assert cli("check data --model nothing")[0] == failures.USAGE


def test_page_and_repaired_copy(cli: Cli, here: Path) -> None:
    put(Path("data"), "bad", 9, "30 10 10 25")
    code, out, err = cli("check data --html page.html --fix fixed")
    assert code == failures.FAILURE  # of the data as they are
    assert "1 change, listed in fixed/changes.csv" in out
    assert "page: page.html" in err
    assert "Boxes with swapped corners" in Path("page.html").read_text()
    assert cli("check fixed --strict")[0] == failures.DONE

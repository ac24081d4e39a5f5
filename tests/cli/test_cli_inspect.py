"""``hardmine inspect``: the page, and mistakes in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def block(tmp_path: Path) -> Path:
    folder = tmp_path / "block"
    folder.mkdir()
    picture = Image.new("RGB", (160, 160), (90, 90, 90))
    picture.paste("white", (40, 50, 120, 110))
    picture.save(folder / "a.png")
    (folder / "a.xml").write_text(
        "<annotation><filename>a.png</filename><object><name>block</name><bndbox><xmin>40</xmin>"
        "<ymin>50</ymin><xmax>120</xmax><ymax>110</ymax></bndbox></object></annotation>"
    )
    return folder


def test_a_page_is_written(cli: Cli, block: Path, tmp_path: Path) -> None:
    out_file = tmp_path / "page.html"
    code, out, err = cli("inspect", block, "a.png --model small160 --draws 1 -q --out", out_file)
    assert (code, out, err) == (0, f"page: {out_file}\n", "")
    page = out_file.read_text(encoding="utf-8")
    assert "40.0 50.0 120.0 110.0" in page and "40.0 50.0 80.0 60.0" in page


def test_out_is_a_folder_or_the_page_itself(
    cli: Cli, block: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written = "old"
    Path(written).touch()  # a page that was written under a name without an ending
    for given, page in (
        ("--out look", "look/inspect.html"),
        ("--out deep/look.HTM", "deep/look.HTM"),
        (f"--out {written}", written),
        ("", "runs/inspect.html"),
    ):
        code, out, _ = cli("inspect", block, "a.png --model small160 --draws 1 -q", given)
        assert (code, out) == (0, f"page: {page}\n")
        assert Path(page).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_mistakes_are_one_line(cli: Cli, block: Path, tmp_path: Path) -> None:
    code, _, err = cli("inspect", block, "nothing.png --model small160")
    assert (code, err) == (
        1,
        f"hardmine: {block}: no image 'nothing.png' among 1 (the first is a.png)\n",
    )
    code, _, err = cli("inspect", block, "--model nothing")
    assert code == 2 and err.startswith("hardmine: model: got 'nothing'")
    code, _, err = cli("inspect", block, "--model fasterrcnn_mobilenet_v3_large_320_fpn")
    assert code == 2 and "wanted one of the SSD family" in err and len(err.splitlines()) == 1
    code, _, err = cli("inspect", block, "--split val --model small160")
    assert code == 1 and err.endswith("has the splits all; not 'val'\n")
    text = tmp_path / "w.safetensors"
    text.write_text("no weights")
    code, _, err = cli("inspect", block, "--checkpoint", text)
    assert code == 1 and len(err.splitlines()) == 1
    code, _, err = cli("inspect", block, "--model small160 --checkpoint", text)
    assert code == 2 and "leave out '--model'" in err

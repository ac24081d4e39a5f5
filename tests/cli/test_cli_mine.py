"""``mine`` as it is called: dry runs, runtimes and Ray's address, with a network that is tiny."""

from __future__ import annotations

import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hardmine.cli import console as failures
from hardmine.errors import ConfigError
from hardmine.inference.load_detector import load_detector
from hardmine.mining.scan import Estimate, estimate_scan
from hardmine.models.ssd import SSD
from hardmine.recipes.checkpoint import save_checkpoint
from review_world import decided
from tiny_models import tiny_recipe

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``tiny.safetensors`` and a pool of 20 pictures and one broken file; the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("pool").mkdir()
    rng = np.random.default_rng(0)
    for i in range(20):
        low = rng.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(low).resize((40, 32)).save(f"pool/{i:02d}.jpg")
    Path("pool/broken.jpg").write_bytes(b"no image")
    torch.manual_seed(0)
    recipe = tiny_recipe()
    weights = SSD(recipe.model, ("a", "b")).state_dict()
    save_checkpoint(tmp_path / "tiny.safetensors", weights, recipe, ("a", "b"))
    return tmp_path


def test_a_dry_run_says_how_much_there_is_and_writes_nothing(cli: Cli, work: Path) -> None:
    code, out, err = cli("mine tiny.safetensors pool --runtime torch --dry-run --out o -q")
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert out.startswith("21 images, about ")
    assert " images/s (torch cpu " in out
    assert out.endswith(", measured on 21, 1 of them unreadable)\n")
    assert not Path("o").exists()
    with_ray = cli("mine tiny.safetensors pool --runtime torch --dry-run --ray auto -q")
    assert with_ray[1].endswith("), on this machine alone\n")


def test_a_dry_run_counts_only_what_is_left(cli: Cli, work: Path) -> None:
    words = "mine tiny.safetensors pool --runtime torch --out o -q"
    for path in sorted(Path("pool").glob("1*.jpg")):
        path.rename(path.name)
    assert cli(words)[0] == 0  # ten good images and the broken one
    for path in Path().glob("1*.jpg"):
        path.rename(Path("pool") / path.name)
    before = Path("o/pool.sqlite").read_bytes()
    code, out, _ = cli(f"{words} --dry-run")
    assert (code, out.startswith("21 images, 11 of them scanned before, about ")) == (0, True)
    assert " to scan the others at " in out
    assert Path("o/pool.sqlite").read_bytes() == before
    assert out.endswith(", measured on 10)\n")  # the broken one is among those scanned before
    few = estimate_scan(load_detector("tiny.safetensors"), "pool", out=Path("o"), sample=4)
    assert (few.images, few.done, few.sample) == (21, 11, 4)  # counted beyond the sample
    assert cli(words)[0] == 0
    code, out, _ = cli(f"{words} --dry-run")
    assert (code, out) == (0, "21 images, all of them scanned before\n")
    estimate = Estimate(1_000, 10.0, 99, 0, "torch", done=400)
    assert estimate.seconds == 60.0  # (1,000 - 400) / 10


def test_what_is_not_read_is_counted_and_named(cli: Cli, work: Path) -> None:
    Path("pool/20.jpg").write_bytes(Path("pool/00.jpg").read_bytes())
    for name in ("a.nef", "b.nef", "scan"):
        Path("pool", name).write_bytes(Path("pool/00.jpg").read_bytes())
    code, out, err = cli("mine tiny.safetensors pool --runtime torch --min-score 0 --top 2 --out o")
    assert code == 0
    assert "21 scanned" in out
    assert "1 unreadable" in out
    text = " ".join(err.split())
    assert "unreadable: " in text
    assert "2 files ending in .nef passed over: not a format that is read" in text
    assert "1 file without a suffix passed over: the content is a picture" in text


def test_predict_names_what_it_passes_over_and_does_not_fail_for_it(cli: Cli, work: Path) -> None:
    Path("pool/broken.jpg").unlink()
    Path("pool/a.nef").write_bytes(b"II*")
    code, out, err = cli("predict tiny.safetensors pool")
    assert (code, out.count("pool/")) == (0, 20)
    assert "a.nef: 1 file ending in .nef passed over" in err and "unreadable" not in err
    Path("raw").mkdir()
    Path("pool/a.nef").rename("raw/a.nef")
    code, out, err = cli("predict tiny.safetensors raw")
    assert (code, out) == (1, "")
    assert "no image in raw; " in err and "1 file ending in .nef passed over" in err


def test_predict_does_not_replace_the_images_that_it_reads(cli: Cli, work: Path) -> None:
    before = Path("pool/00.jpg").read_bytes()
    code, out, err = cli("predict tiny.safetensors pool --save --out pool")
    assert (code, out.splitlines()[1:]) == (2, [])
    assert "pool/00.jpg: is one of the images that are read" in err
    assert Path("pool/00.jpg").read_bytes() == before


def test_predict_saves_a_picture_that_is_longer_than_a_jpeg_can_be(cli: Cli, work: Path) -> None:
    Path("scans").mkdir()
    Image.new("RGB", (66_000, 10)).save("scans/a.png")
    Image.new("RGB", (40, 10)).save("scans/b.png")
    assert cli("predict tiny.safetensors scans --save --out o -q")[0] == 0
    for name, size in (("a", (65_500, 10)), ("b", (40, 10))):
        with Image.open(f"o/{name}.jpg") as picture:
            assert picture.size == size


def test_nothing_handed_out_is_explained(cli: Cli, work: Path) -> None:
    code, out, _ = cli("mine tiny.safetensors pool --runtime torch --min-score 1 --out o -q")
    assert code == 0
    assert out.startswith("0 handed out: 20 scanned, best score ")
    assert out.splitlines()[0].endswith(", below --min-score 1")


def test_a_dry_run_reads_a_store_of_an_earlier_version(cli: Cli, work: Path) -> None:
    words = "mine tiny.safetensors pool --runtime torch --out o -q"
    assert cli(words)[0] == 0
    old = sqlite3.connect("o/pool.sqlite")
    old.executescript(
        "DROP INDEX scores_by_exact; ALTER TABLE scores DROP COLUMN exact;"
        "ALTER TABLE scores DROP COLUMN first_cut; PRAGMA user_version = 1"
    )
    old.close()
    assert cli(f"{words} --dry-run") == (0, "21 images, all of them scanned before\n", "")


def test_a_slow_dry_run_looks_at_fewer(
    cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hardmine.mining.scan._SECONDS", 0.0)
    code, out, _ = cli("mine tiny.safetensors pool --runtime torch --dry-run -q")
    assert code == 0
    assert out.startswith("21 images, about ")
    assert 0 < int(out.split("measured on ")[1].split(")")[0].split(",")[0]) < 21


def test_a_dry_run_of_an_empty_pool(cli: Cli, work: Path) -> None:
    Path("none").mkdir()
    code, out, err = cli("mine tiny.safetensors none --runtime torch --dry-run")
    assert (code, out) == (failures.FAILURE, "")
    assert "none" in err.splitlines()[-1]


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_every_runtime_hands_out_the_same(cli: Cli, work: Path, runtime: str) -> None:
    pytest.importorskip(runtime)
    pytest.importorskip("onnxscript")
    for name in ("torch", runtime):
        code, _, err = cli(f"mine tiny.safetensors pool --top 5 --runtime {name} --out {name} -q")
        assert code == 0, err
    told = Path(runtime, "candidates.csv").read_text()
    assert told == Path("torch", "candidates.csv").read_text()
    assert told.count("\n") == 6


@pytest.mark.parametrize(
    ("address", "code", "message"),
    [
        ("=nonsense", failures.USAGE, "--ray: got 'nonsense', wanted local, auto or HOST:PORT"),
        ("127.0.0.1:99999", failures.USAGE, "wanted local, auto or HOST:PORT"),
        ("127.0.0.1:{port}", failures.FAILURE, "127.0.0.1:{port}: no cluster answers ("),
        ("ray://127.0.0.1:{port}", failures.FAILURE, "127.0.0.1:{port}: no cluster answers ("),
    ],
)
def test_a_cluster_that_is_not_there_is_one_line(
    cli: Cli, work: Path, address: str, code: int, message: str
) -> None:
    pytest.importorskip("ray")
    with socket.socket() as taken:  # bound, not listening: whoever connects is refused
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        where = (
            address.format(port=port)
            if address.startswith("=")
            else f" {address.format(port=port)}"
        )
        line = f"mine tiny.safetensors pool --ray{where} --out o -q"
        got, out, err = cli(line)
    assert (got, out, err.count("\n")) == (code, "", 1), err
    assert err.startswith("hardmine: ")
    assert message.format(port=port) in err


@pytest.mark.parametrize(
    ("words", "address"),
    [
        ("--ray pool", "find"),
        ("pool --ray", "find"),
        ("--ray -q pool", "find"),
        ("--ray auto pool", "auto"),
        ("--ray local pool", "local"),
        ("--ray=local pool", "local"),
        ("--ray head:6379 pool", "head:6379"),
        ("pool --ray ray://[::1]:10001", "ray://[::1]:10001"),
        ("pool", None),
    ],
)
def test_ray_takes_an_address_and_never_the_pool(
    cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch, words: str, address: str | None
) -> None:
    asked: list[Any] = []

    def mine(detector: Any, pool: Any, **more: Any) -> Any:
        asked.append((pool, more["options"].ray))
        raise ConfigError("enough")

    monkeypatch.setattr("hardmine.mine", mine)
    assert cli(f"mine tiny.safetensors {words} --out o")[0] == failures.USAGE
    assert asked == [("pool", address)]


def test_verdicts_that_are_typed_in_are_taken_into_the_store_first(cli: Cli, work: Path) -> None:
    words = "mine tiny.safetensors pool --runtime torch --min-score 0 --out o --top"
    sheet = Path("o/candidates.csv")
    assert cli(f"{words} 4")[0] == 0
    first = sheet.read_text().splitlines()
    sheet.write_text("\n".join([first[0], first[1] + "empty", first[2] + "unsure", *first[3:]]))
    assert cli(f"{words} 4 --dry-run")[0] == 0
    assert decided(work / "o") == {}  # a dry run writes nothing
    code, _, err = cli(f"{words} 6")
    assert code == 0
    assert "candidates.csv: 2 verdicts read, 2 of them new" in " ".join(err.split())
    typed = [line.split(",")[0] for line in first[1:3]]
    found = decided(work / "o")
    assert {name: said for name, (said, _) in found.items()} == dict(
        zip(typed, ("empty", "unsure"), strict=True)
    )
    again = [line.split(",")[0] for line in sheet.read_text().splitlines()[1:]]
    assert len(again) == 6
    assert not set(typed) & set(again)
    sheet.write_text(sheet.read_text().replace(",0,\n", ",0,perhaps\n"))
    code, _, err = cli(f"{words} 6")
    assert code == failures.FAILURE
    assert "candidates.csv:2: verdict 'perhaps', wanted one of" in " ".join(err.split())
    assert "perhaps" in sheet.read_text()
    sheet.write_text("")  # as a spreadsheet that crashed leaves it
    code, _, err = cli(f"{words} 6")
    assert code == 0
    assert "candidates.csv:1: got columns [], wanted image" in " ".join(err.split())
    assert list(sheet.parent.glob("candidates-old*.csv"))

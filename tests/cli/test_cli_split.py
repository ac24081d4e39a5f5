"""``split`` and ``convert`` for labelling programs, from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hardmine.cli import console as failures
from hardmine.data.load_dataset import load_dataset, load_splits

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty images of four cameras, 0 and 1 alike, with a CSV of boxes."""
    monkeypatch.chdir(tmp_path)
    lines = ["image,xmin,ymin,xmax,ymax,label"]
    for index in range(20):
        path = Path("data") / f"cam{index % 4}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(max(index, 1))
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((40, 30), Image.Resampling.BICUBIC).save(path)
        lines.append(f"{path.relative_to('data')},1,2,20,20,{'cat' if index % 2 else 'dog'}")
    Path("data/labels.csv").write_text("\n".join(lines))
    return tmp_path


def test_split_writes_labels_and_lists(cli: Cli, here: Path) -> None:
    code, out, err = cli("split data out --fractions train=0.5,val=0.25,test=0.25")
    assert code == failures.DONE
    assert "19 groups by near-copies" in out
    assert "--images" in err
    names = {name: Path(f"out/{name}.txt").read_text().split() for name in ("train", "val", "test")}
    assert [len(n) for n in names.values()] == [10, 5, 5]
    back = load_dataset("out/val.json", images="data")
    assert sorted(str(r.path.relative_to(here / "data")) for r in back.records) == sorted(
        names["val"]
    )
    assert any({"cam0/0.png", "cam1/1.png"} <= set(n) for n in names.values())
    assert cli("split data out")[0] == failures.FAILURE  # not empty


def test_split_into_a_whole_dataset_by_camera(cli: Cli, here: Path) -> None:
    code, out, _ = cli("split data out --link --group", "'(cam.)/'")
    assert code == failures.DONE
    splits = load_splits("out")
    assert sum(map(len, splits.values())) == 20
    # cam0 and cam1 share a picture: three groups, so one of five or ten images is held out
    assert "3 groups" in out
    assert len(splits["val"]) in (5, 10)


def test_split_by_time(cli: Cli, here: Path) -> None:
    code, out, _ = cli("split data out --by-time --gap 1")
    assert code == failures.DONE
    assert "numbers in names, 1 frames apart" in out


@pytest.mark.parametrize(
    "words",
    [
        "--fractions train=0.5",
        "--fractions train",
        "--fractions a=0.5,a=0.5",
        "--fractions ../x=1",
        "--by-time --group '(x)'",
        "--group x",
    ],
)
def test_contradictions_are_usage_errors(cli: Cli, here: Path, words: str) -> None:
    code, _, err = cli("split data out", words)
    assert code == failures.USAGE
    assert len(err.splitlines()) == 1
    assert not Path("out").exists()


def test_convert_hands_images_to_labelling_programs(cli: Cli, here: Path) -> None:
    code, out, _ = cli("convert data out --to labelstudio --link")
    assert code == failures.DONE
    assert "20 images, 20 boxes as annotations, 0 as predictions" in out
    assert len(json.loads(Path("out/tasks.json").read_text())) == 20

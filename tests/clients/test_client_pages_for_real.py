"""Every command of the pages in docs/clients with the real packages: `make test-clients` installs them.

Only the size of the loops' work is changed: one epoch, one round, small images.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import test_other_clients
from test_huggingface_client import saved, yolos
from test_other_clients import random_rfdetr
from test_ultralytics_client import checkpoint

from client_pages import (
    commands_of,
    make_client_world,
    run_page,
    write_recording,
    write_torchvision,
)
from shelf_world import CLASSES

SMALL = {"@640": "@64", "@320": "@64"}
LESS = ["--rounds", "1", "--draws", "5", "--batch", "2", "--add", "1", "--device", "cpu"]
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(900)]


def prepare(page: str, world: Path, patch: pytest.MonkeyPatch) -> None:
    """Write the model that the page speaks of, with random weights and the classes of the data."""
    match page:
        case "ultralytics" | "camera_videos":
            checkpoint(world, "yolo11n.yaml", names=CLASSES)
        case "hugging_face":
            config = saved(world, yolos) / "config.json"
            names = {"id2label": dict(enumerate(CLASSES))}
            names |= {"label2id": {name: i for i, name in enumerate(CLASSES)}}
            config.write_text(json.dumps(json.loads(config.read_text()) | names))
        case "rf_detr":
            patch.setattr(test_other_clients, "NAMES", list(CLASSES))
            random_rfdetr(pytest.importorskip("rfdetr"), world)
        case "torchvision":
            write_torchvision(world)
    if page == "camera_videos":
        write_recording(world)


def reduced(words: list[str]) -> list[str]:
    """Return a loop's command with less work to do; the commands of others as they are."""
    if words[1] != "loop":
        return words
    for long, short in SMALL.items():
        words = [word.replace(long, short) for word in words]
    words[words.index("--epochs") + 1] = "1"
    return [*words, *LESS]


@pytest.mark.parametrize(
    "page", ["ultralytics", "hugging_face", "rf_detr", "torchvision", "camera_videos"]
)
def test_the_commands_of_a_page_run_with_the_real_package(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    make_client_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    prepare(page, tmp_path, monkeypatch)
    run_page([reduced(words) for words in commands_of(page)], monkeypatch, capfd)

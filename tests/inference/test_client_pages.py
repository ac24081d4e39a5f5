"""The commands of docs/clients run, each page with a stand-in of its framework.

The packages themselves are held to ours in tests/clients, where these commands run once more;
torchvision, LiteRT, the predictions files and the videos are real here. Loops are left to those tests.
"""

from __future__ import annotations

from pathlib import Path

import framework_stand_ins
import pytest
from framework_stand_ins import install

from client_pages import (
    PAGES,
    commands_of,
    make_client_world,
    run_page,
    write_recording,
    write_torchvision,
)
from shelf_world import CLASSES

STAND_IN = {
    "ultralytics": "ultralytics",
    "camera_videos": "ultralytics",
    "hugging_face": "transformers",
    "rf_detr": "rfdetr",
}
NAMED = {"rf_detr": "checkpoint_best_total.pth"}


def prepare(page: str, world: Path, patch: pytest.MonkeyPatch) -> None:
    """Make what the page speaks of, besides the data."""
    kind = STAND_IN.get(page)
    if kind is not None:
        patch.setattr(framework_stand_ins, "CLASSES", CLASSES)
        made = Path(install(kind, world, patch))
        if page in NAMED:
            made.rename(world / NAMED[page])
    if page == "torchvision":
        write_torchvision(world)
    if page == "small_devices":
        pytest.importorskip("ai_edge_litert", reason="needs the extra litert")
        from tflite_files import Written, write_tflite

        write_tflite(world / "detect.tflite", Written())
        (world / "labels.txt").write_text("\n".join(CLASSES) + "\n")
    if page == "camera_videos":
        write_recording(world)


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    make_client_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    prepare(page, tmp_path, monkeypatch)
    commands = [words for words in commands_of(page) if words[1] != "loop"]
    run_page(commands, monkeypatch, capfd)

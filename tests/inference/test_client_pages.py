"""The commands of docs/clients run, each page with a stand-in of its framework.

The packages themselves are held to ours in tests/clients; torchvision, LiteRT, the predictions files
and the videos are real here.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import framework_stand_ins
import pytest
import torch
from framework_stand_ins import install
from torchvision.models import get_model

from hardmine.cli.main import run as cli
from shelf_world import CLASSES, make_world

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "clients").glob("*.md"))
STAND_IN = {
    "ultralytics": "ultralytics",
    "camera_videos": "ultralytics",
    "hugging_face": "transformers",
    "rf_detr": "rfdetr",
}
NAMED = {"rf_detr": "checkpoint_best_total.pth"}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the pages speak of: data, pools, predictions, weights of torchvision's SSDLite."""
    make_world(tmp_path)
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "p1.txt").write_text("0 0.5 0.5 0.25 0.25 0.75\n")
    row = {"category": "1", "conf": 0.75, "bbox": [0.1, 0.1, 0.5, 0.5]}
    images = [{"file": f"pool\\p{i}.png", "detections": [row] if i == 1 else []} for i in range(6)]
    categories = {"1": "animal", "2": "person"}
    found = {"detection_categories": categories, "images": images}
    (tmp_path / "md.json").write_text(json.dumps(found))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(framework_stand_ins, "CLASSES", CLASSES)
    return tmp_path


def prepare(page: str, world: Path, patch: pytest.MonkeyPatch) -> None:
    kind = STAND_IN.get(page)
    if kind is not None:
        made = Path(install(kind, world, patch))
        if page in NAMED:
            made.rename(world / NAMED[page])
    if page == "torchvision":
        torch.manual_seed(0)
        network = get_model("ssdlite320_mobilenet_v3_large", weights_backbone=None, num_classes=3)
        torch.save(network.state_dict(), world / "model.pth")
    if page == "small_devices":
        pytest.importorskip("ai_edge_litert", reason="needs the extra litert")
        from tflite_files import Written, write_tflite

        write_tflite(world / "detect.tflite", Written())
        (world / "labels.txt").write_text("\n".join(CLASSES) + "\n")
    if page == "camera_videos":
        av = pytest.importorskip("av")
        (world / "cams").mkdir()
        with av.open(str(world / "cams" / "front.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=2)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for path in sorted((world / "pool").glob("*.png")):
                with framework_stand_ins.Image.open(path) as image:
                    frame = av.VideoFrame.from_image(image.convert("RGB"))
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))


@pytest.mark.parametrize("page", [path.stem for path in PAGES])
def test_the_commands_of_a_page_run(
    page: str, world: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    prepare(page, world, monkeypatch)
    text = (ROOT / "docs" / "clients" / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    commands = [line.split() for block in blocks for line in block.splitlines()]
    assert len(commands) >= 3
    for words in commands:
        assert words[0] == "hardmine"
        shutil.rmtree(world / "runs", ignore_errors=True)
        code = cli(words[1:])
        said = capfd.readouterr()
        assert code == 0, f"{' '.join(words)}: {said.err}"
        assert said.out.strip()

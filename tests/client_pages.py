"""What the pages in docs/clients speak of, drawn, and their commands, run as a reader runs them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from hardmine.cli.console import GATE
from hardmine.cli.main import run as cli
from hardmine.mining.pool_store import PoolStore
from hardmine.review.run_review import open_listed
from hardmine.types import Decision, Verdict
from shelf_world import CLASSES, make_world

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(path.stem for path in (ROOT / "docs" / "clients").glob("*.md"))


def make_client_world(root: Path) -> None:
    """Write data, pools, class names and predictions; models and videos are made elsewhere."""
    make_world(root)
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    (root / "labels").mkdir()
    (root / "labels" / "p1.txt").write_text("0 0.5 0.5 0.25 0.25 0.75\n")
    row = {"category": "1", "conf": 0.75, "bbox": [0.1, 0.1, 0.5, 0.5]}
    images = [{"file": f"pool\\p{i}.png", "detections": [row] if i == 1 else []} for i in range(6)]
    categories = {"1": "animal", "2": "person"}
    found = {"detection_categories": categories, "images": images}
    (root / "md.json").write_text(json.dumps(found))


def write_recording(root: Path) -> None:
    """Write ``cams/front.mp4`` of the pool's pictures, two a second."""
    av = pytest.importorskip("av")
    from PIL import Image

    (root / "cams").mkdir()
    with av.open(str(root / "cams" / "front.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=2)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for path in sorted((root / "pool").glob("*.png")):
            with Image.open(path) as image:
                frame = av.VideoFrame.from_image(image.convert("RGB"))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_torchvision(world: Path) -> None:
    """Write weights of an SSDLite with two classes, ``model.pth``."""
    import torch
    from torchvision.models import get_model

    torch.manual_seed(0)
    network = get_model("ssdlite320_mobilenet_v3_large", weights_backbone=None, num_classes=3)
    torch.save(network.state_dict(), world / "model.pth")


def commands_of(page: str) -> list[list[str]]:
    """Return the words of every command in the page's plain code blocks."""
    text = (ROOT / "docs" / "clients" / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    commands = [line.split() for block in blocks for line in block.splitlines()]
    assert len(commands) >= 3
    assert all(words[0] == "hardmine" for words in commands)
    return commands


def run_page(
    commands: list[list[str]], patch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Run them in order; in place of the page of ``review``, a person calls two images empty."""
    patch.setattr("hardmine.review.run_review.serve_review", call_two_empty)
    for words in commands:
        code = cli(words[1:])
        said = capfd.readouterr()
        # A detector of random weights cannot be promised anything, which `threshold` ends with.
        without_promise = code == GATE and "a promise cannot be given" in said.err
        assert code == 0 or without_promise, f"{' '.join(words)}: {said.err}"
        assert said.out.strip()


def call_two_empty(
    target: Path, options: object, say: Callable[[str], object], note: object
) -> None:
    """Do what a person does on the page of ``hardmine review`` who sees no object in two images.

    The others stay in the pool: a loop leaves out what the data already have.
    """
    listed = open_listed(target)
    assert len(listed)
    when = "2026-01-01T00:00:00+00:00"
    with PoolStore(listed.store, beside_a_run=True) as store:
        store.add_decisions(
            [Decision(item.path, Verdict.EMPTY, "reader", when, "") for item in listed.items[:2]]
        )
    say(f"{len(listed)} decided")

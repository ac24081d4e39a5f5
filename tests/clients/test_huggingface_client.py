"""Hugging Face transformers against our use of it: `make test-clients` installs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from made_models import (
    Rows,
    assert_same,
    assert_spread,
    drawn_data,
    drawn_pictures,
    pictures,
    sorted_rows,
    train,
)
from PIL import Image

import hardmine
from hardmine.errors import CheckpointError

transformers = pytest.importorskip("transformers")

SCORE = 0.2
_LABELS = {"id2label": {0: "cat", 1: "dog"}, "label2id": {"cat": 0, "dog": 1}}
_SMALL = {
    "d_model": 32,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "num_queries": 20,
    "decoder_layers": 2,
}
_REAL_TIME = {
    **_SMALL,
    "encoder_hidden_dim": 32,
    "decoder_in_channels": [32, 32, 32],
    "num_denoising": 0,
    "decoder_attention_heads": 4,
    "encoder_attention_heads": 4,
}
_STAGES = {
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 16, 32],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}


def rtdetr_v2() -> tuple[Any, Any]:
    stages = ["stage2", "stage3", "stage4"]
    backbone = transformers.RTDetrResNetConfig(**_STAGES, out_features=stages)
    config = transformers.RTDetrV2Config(
        backbone_config=backbone, encoder_in_channels=[16, 16, 32], **_REAL_TIME, **_LABELS
    )
    processor = transformers.RTDetrImageProcessor(size={"height": 128, "width": 160})
    return transformers.RTDetrV2ForObjectDetection(config), processor


def d_fine() -> tuple[Any, Any]:
    backbone = transformers.HGNetV2Config(
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 16, 16, 16],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[16, 16, 16, 32],
        stage_num_blocks=[1, 1, 1, 1],
        hidden_sizes=[16, 16, 16, 32],
        out_features=["stage2", "stage3", "stage4"],
    )
    config = transformers.DFineConfig(
        backbone_config=backbone, encoder_in_channels=[16, 16, 32], **_REAL_TIME, **_LABELS
    )
    processor = transformers.RTDetrImageProcessor(size={"height": 128, "width": 128})
    return transformers.DFineForObjectDetection(config), processor


def detr() -> tuple[Any, Any]:
    backbone = transformers.ResNetConfig(**_STAGES, out_features=["stage4"])
    config = transformers.DetrConfig(
        backbone_config=backbone, use_timm_backbone=False, encoder_layers=1, **_SMALL, **_LABELS
    )
    processor = transformers.DetrImageProcessor(size={"shortest_edge": 96, "longest_edge": 160})
    return transformers.DetrForObjectDetection(config), processor


def yolos() -> tuple[Any, Any]:
    config = transformers.YolosConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        image_size=[96, 128],
        num_detection_tokens=20,
        **_LABELS,
    )
    processor = transformers.YolosImageProcessor(size={"shortest_edge": 96, "longest_edge": 128})
    return transformers.YolosForObjectDetection(config), processor


def saved(folder: Path, make: Any, dtype: torch.dtype = torch.float32) -> Path:
    """Write a random model whose class scores are spread, as ``save_pretrained`` does.

    The weights that these models start from are so small that all of their answers are nearly one.
    """
    torch.manual_seed(0)
    model, processor = make()
    for name, value in model.named_parameters():
        if "class" in name and name.endswith("weight"):
            value.data.normal_(std=0.3)
        elif value.ndim == 2:
            value.data.normal_(std=value.shape[1] ** -0.5)
        elif "class" in name and name.endswith("bias"):
            value.data.zero_()
    path = folder / "saved"
    model.eval().to(dtype).save_pretrained(path)
    processor.save_pretrained(path)
    return path


def own(folder: Path, image: Path, score: float = SCORE) -> Rows:
    model = transformers.AutoModelForObjectDetection.from_pretrained(folder, dtype=torch.float32)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    picture = Image.open(image).convert("RGB")
    with torch.inference_mode():
        outputs = model(**processor(images=picture, return_tensors="pt"))
    size = [(picture.height, picture.width)]
    found = processor.post_process_object_detection(outputs, threshold=score, target_sizes=size)[0]
    return sorted_rows(found["boxes"].numpy(), found["scores"].numpy(), found["labels"].numpy())


@pytest.mark.parametrize("make", [rtdetr_v2, d_fine, detr, yolos])
def test_a_folder_finds_what_its_own_processor_finds(make: Any, tmp_path: Path) -> None:
    folder = saved(tmp_path, make)
    detector = hardmine.load_detector(folder, "cpu")
    assert detector.categories == ("cat", "dog")
    total = 0
    for image in pictures(tmp_path):
        wanted = own(folder, image)
        assert_same(detector.predict(image, score_threshold=SCORE), wanted)
        total += len(wanted[1])
    assert total > 10


@pytest.mark.filterwarnings("ignore")  # theirs, while training
@pytest.mark.parametrize(
    ("make", "spread"), [(rtdetr_v2, 0.0), (d_fine, 0.0), (detr, 0.05), (yolos, 0.05)]
)
def test_a_trained_model_finds_what_its_own_processor_finds(
    make: Any, spread: float, tmp_path: Path
) -> None:
    """Trained by ``--trainer`` with pictures without objects among the others.

    After so few steps the scores of the first two differ by less than .01; those of the untrained ones
    above are spread.
    """
    data = drawn_data(tmp_path)
    spec = train(f"hf:{saved(tmp_path, make)}", data, 10)
    detector = hardmine.load_detector(spec, "cpu")
    trained, scores = Path(spec.removeprefix("hf:")).parent, []
    for image in drawn_pictures(data)[:6]:
        wanted = own(trained, image, 0.02)
        assert_same(detector.predict(image, score_threshold=0.02), wanted)
        scores += wanted[1].tolist()
    assert_spread(scores, spread)


@pytest.mark.filterwarnings("ignore")  # theirs, while training
def test_a_configuration_alone_trains_from_scratch_and_goes_on(tmp_path: Path) -> None:
    folder = saved(tmp_path, yolos)
    (folder / "model.safetensors").unlink()
    data = drawn_data(tmp_path, 8)
    first = Path(train(f"hf:{folder}", data, 2).removeprefix("hf:"))
    detector = hardmine.load_detector(train(f"hf:{folder}", data, 2, first), "cpu")
    assert detector.categories == ("cat", "dog")


def test_half_precision_weights_run_on_a_cpu(tmp_path: Path) -> None:
    folder = saved(tmp_path, detr, torch.float16)
    image = pictures(tmp_path)[0]
    found = hardmine.load_detector(f"hf:{folder}", "cpu").predict(image, score_threshold=SCORE)
    assert_same(found, own(folder, image))


def test_a_model_of_another_task_is_refused(tmp_path: Path) -> None:
    config = transformers.ResNetConfig(**_STAGES)
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    transformers.ConvNextImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="transformers cannot load it"):
        hardmine.load_detector(tmp_path, "cpu")

"""Configurations of the TensorFlow Object Detection API: the text format, and what becomes of fields."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from hardmine.errors import ConfigError
from hardmine.losses.loss_functions import FocalConfig, SigmoidConfig, SmoothL1Config
from hardmine.losses.negative_mining import AllConfig, HardExamplesConfig, RandomConfig
from hardmine.models.neck_and_head import FpnConfig
from hardmine.models.priors import ExplicitPriors, MultiscalePriors
from hardmine.models.ssd import SSD, SSDConfig, make_network
from hardmine.recipes.protobuf_text import Message, parse_protobuf_text
from hardmine.recipes.recipe import recipe_from_dict, recipe_to_dict
from hardmine.recipes.tf_pipeline import (
    TfPipeline,
    describe_translation,
    read_tf_pipeline,
    translate_tf_pipeline,
)
from tf_configs import MINER, PLAIN

PYRAMID = (
    PLAIN.replace('ssd_mobilenet_v2_keras"', 'ssd_mobilenet_v2_fpn"')
    .replace("min_depth: 16", "use_depthwise: true fpn { additional_layer_depth: 128 }")
    .replace("hard_example_miner { HERE }", "")
    .replace("weighted_sigmoid { }", "weighted_sigmoid_focal { alpha: 0.25 gamma: 2.0 }")
    .replace(
        "convolutional_box_predictor {",
        "weight_shared_convolutional_box_predictor { depth: 128 "
        "num_layers_before_predictor: 4 share_prediction_tower: true use_depthwise: true",
    )
)
PYRAMID = re.sub(
    r"ssd_anchor_generator \{[^}]*\}",
    "multiscale_anchor_generator { anchor_scale: 4.0 aspect_ratios: [1.0, 2.0, 0.5] "
    "scales_per_octave: 2 }",
    PYRAMID,
)


def plain(miner: str = MINER, **changes: str) -> TfPipeline:
    text = PLAIN.replace("HERE", miner)
    for old, new in changes.items():
        text = re.sub(rf"\b{old}: \S+", f"{old}: {new}", text)
    return translate_tf_pipeline(text)


def test_each_part_of_the_recipe_is_what_the_file_says() -> None:
    recipe = plain().recipe
    assert isinstance(recipe.model, SSDConfig)
    assert (recipe.model.height, recipe.model.width, recipe.resize_mode) == (300, 300, "stretch")
    assert recipe.model.score_form == "sigmoid"
    assert recipe.model.head.prior_probability == pytest.approx(1 / (1 + math.exp(4.6)))
    assert recipe.model.init.std == 0.02  # type: ignore[union-attr]
    assert recipe.loss.assigner.iou_threshold == 0.5
    assert recipe.loss.assigner.ignore_above == 0.4
    assert recipe.loss.classification == SigmoidConfig()
    # TF's Huber loss is delta times ours; by the code's size of 4; weights 1 to 2.
    assert recipe.loss.localisation == SmoothL1Config(delta=0.5)
    assert recipe.loss.box_weight == pytest.approx(0.5 / 4 / 2)
    assert recipe.loss.normaliser.kind == "batch"
    assert recipe.batch.size == 12
    assert recipe.optim.warmup_steps == 100
    assert recipe.optim.ema_decay == 0.0
    assert (recipe.augment.mirror, recipe.augment.crop) == (0.25, False)
    assert (recipe.decode.score_threshold, recipe.decode.nms_iou) == (0.3, 0.6)
    assert recipe.decode.max_detections == 50
    assert recipe_from_dict(recipe_to_dict(recipe)) == recipe


def test_anchors_are_those_of_create_ssd_anchors() -> None:
    """300 px: 0.1, then .2 at 2:1 and 1:2; level 1 is at .35 and, between, √(.35 · .5); 1,917 in all."""
    recipe = plain().recipe
    assert isinstance(recipe.model, SSDConfig)
    assert isinstance(recipe.model.priors, ExplicitPriors)
    first, second, *_, last = recipe.model.priors.levels
    root = math.sqrt(2)
    want = [(30, 30), (60 * root, 60 / root), (60 / root, 60 * root)]
    assert [pytest.approx(shape, abs=1e-3) for shape in want] == list(first)
    assert second[0] == (105, 105)
    assert second[-1] == pytest.approx((300 * math.sqrt(0.35 * 0.5),) * 2, abs=1e-3)
    assert last[-1] == pytest.approx((300 * math.sqrt(0.95),) * 2, abs=1e-3)
    network = make_network(recipe.model, ("a", "b", "c"))
    assert isinstance(network, SSD)
    assert len(network.priors.cxcywh) == 1917


@pytest.mark.parametrize(
    ("miner", "want"),
    [
        ("", {"count": 64, "rank": "both", "nms_iou": 0.7, "neg_to_pos_ratio": None, "floor": 0}),
        ("num_hard_examples: 9 loss_type: CLASSIFICATION", {"count": 9, "rank": "class"}),
        (
            "max_negatives_per_positive: 3 min_negatives_per_image: 5",
            {"neg_to_pos_ratio": 3.0, "floor": 5},
        ),
        ("min_negatives_per_image: 5", {"neg_to_pos_ratio": None, "floor": 0}),
        (
            "num_hard_examples: 3000 iou_threshold: 0.99 max_negatives_per_positive: 3",
            {"count": 0, "nms_iou": None, "neg_to_pos_ratio": 3.0},
        ),
    ],
    ids=["defaults", "classification", "ratio and floor", "floor alone", "all"],
)
def test_the_miner(miner: str, want: dict[str, object]) -> None:
    """The API ignores a floor without a ratio; over 1,024 examples are all that the ratio leaves."""
    selection = plain(miner).recipe.loss.selection
    assert isinstance(selection, HardExamplesConfig)
    assert {name: getattr(selection, name) for name in want} == want


def test_a_floor_that_the_api_ignores_is_named() -> None:
    left = [str(note) for note in plain("min_negatives_per_image: 5").left_out]
    assert any(
        "min_negatives_per_image: 5 -> without a ratio the API ignores it" in line for line in left
    )


def test_pyramid_focal_loss_and_shared_head() -> None:
    """8,525 cells of 320 / 8 … 320 / 128 px times 6 at 640 px; at 320 px 2,134."""
    found = translate_tf_pipeline(PYRAMID.replace("300", "320"))
    model, loss = found.recipe.model, found.recipe.loss
    assert isinstance(model, SSDConfig)
    assert model.neck == FpnConfig(width=128, depthwise=True, extra_levels=2)
    assert model.head.kind == "shared"
    assert isinstance(model.priors, MultiscalePriors)
    assert loss.classification == FocalConfig(alpha=0.25, gamma=2.0)
    assert loss.selection == AllConfig()
    assert found.mining.focal
    assert found.mining.shared_head
    network = make_network(model, ("a",))
    assert isinstance(network, SSD)
    assert len(network.priors.cxcywh) == 6 * (40**2 + 20**2 + 10**2 + 5**2 + 3**2)


def test_random_sampling_instead_of_a_miner() -> None:
    text = PLAIN.replace(
        "hard_example_miner { HERE }", "random_example_sampler { positive_sample_fraction: 0.25 }"
    )
    assert translate_tf_pipeline(text).recipe.loss.selection == RandomConfig(
        neg_to_pos_ratio=3.0, floor=0
    )


def every_value(message: Message) -> set[str]:
    found: set[str] = set()
    for each in message.fields:
        if isinstance(each.value, Message):
            found |= every_value(each.value)
        else:
            found.add(f"{message.path}.{each.name}")
    return found


@pytest.mark.parametrize("text", [PLAIN.replace("HERE", MINER), PYRAMID], ids=["plain", "pyramid"])
def test_every_field_is_named_in_one_of_the_lists(text: str) -> None:
    found = translate_tf_pipeline(text)
    said = [note.path for part in (found.carried, found.same, found.left_out) for note in part]
    for path in every_value(parse_protobuf_text(text, "x")):
        assert any(covers(note, path.removeprefix(".")) for note in said), path
    for path in empty_messages(parse_protobuf_text(text, "x")):
        name = path.removeprefix(".")
        assert any(note.startswith(name) or name.startswith(f"{note}.") for note in said), path


def empty_messages(message: Message) -> set[str]:
    """Return messages without fields, such as ``iou_similarity { }``, whose name is what they say."""
    found: set[str] = set()
    for each in message.fields:
        if isinstance(each.value, Message):
            found |= empty_messages(each.value) or (
                set() if each.value.fields else {f"{message.path}.{each.name}"}
            )
    return found


def covers(note: str, path: str) -> bool:
    """True when a note speaks of a field: of it, of the message around it, or of several at once."""
    parent, _, name = path.rpartition(".")
    among, _, names = note.rpartition(".")
    several = name in names.split(", ")
    initialiser = "initializer" in note and path.startswith(note)
    whole = note.endswith("faster_rcnn_box_coder") and path.startswith(note)
    return note == path or (parent == among and several) or initialiser or whole


def test_what_nobody_knows_is_named() -> None:
    text = PLAIN.replace("HERE", MINER).replace(
        "num_classes: 3", "num_classes: 3 wonder { strength: 7 }"
    )
    left = [str(note) for note in translate_tf_pipeline(text).left_out]
    assert "model.ssd.wonder.strength: 7 -> no counterpart" in left
    lines = describe_translation(translate_tf_pipeline(text))
    assert "  model.ssd.wonder.strength: 7 -> no counterpart" in lines


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        (
            "ssd_mobilenet_v2_keras",
            "ssd_inception_v2",
            "'ssd_inception_v2' is no network of Hardmine's",
        ),
        (
            "depth_multiplier: 1.0",
            "depth_multiplier: 0.75",
            "no mobilenet_v2 of 0.75 times the width",
        ),
        ("weighted_sigmoid {", "bootstrapped_sigmoid {", "bootstrapped_sigmoid is not translated"),
        ("argmax_matcher", "bipartite_matcher", "bipartite_matcher is not translated"),
        ("num_layers: 6", "num_layers: 5", "got 5 for a network of 6 levels"),
        (
            "batch_size: 12",
            "batch_size: twelve",
            "38: train_config.batch_size: got 'twelve', wanted a finite number",
        ),
        ("batch_size: 12", "batch_size: inf", "38: train_config.batch_size: got 'inf', wanted a"),
        ("batch_size: 12", "batch_size: -inf", "38: train_config.batch_size: got '-inf', wanted a"),
        (
            "batch_size: 12",
            "batch_size: 1.5",
            "38: train_config.batch_size: got '1.5', wanted a whole",
        ),
        ("delta: 0.5", "delta: nan", "weighted_smooth_l1.delta: got 'nan', wanted a finite number"),
        (
            "ratios: [1.0,",
            "ratios: [-1.0,",
            "ssd_anchor_generator.aspect_ratios: got -1, wanted > 0",
        ),
        ("ratios: [1.0,", "ratios: [0,", "ssd_anchor_generator.aspect_ratios: got 0, wanted > 0"),
        ("min_scale: 0.2", "min_scale: -0.2", "got a smallest scale of -0.2, wanted > 0"),
        (
            "loss_type: BOTH",
            "loss_type: 3",
            "25: model.ssd.loss.hard_example_miner.loss_type: got '3'",
        ),
        ("loss_type: BOTH", "loss_type: -1", "loss_type: got '-1', wanted one of BOTH, CLASSIF"),
        ("loss_type: BOTH", "loss_type: 'BOTH'", "got 'BOTH', wanted one of BOTH"),
        (
            "score_converter: SIGMOID",
            "score_converter: TANH",
            "33: model.ssd.post_processing.score_c",
        ),
        (
            "matcher {",
            "matcher { bipartite_matcher { }",
            "matcher: got bipartite_matcher, argmax_matcher, wanted one matcher",
        ),
        (
            "iou_similarity { }",
            "",
            "similarity_calculator: got nothing, wanted one similarity_calc",
        ),
        ("image_resizer {", "other_resizer {", "model.ssd has no image_resizer"),
        ("batch_size: 12", "batch_size: 12 batch_size: 13", "train_config has batch_size twice"),
        ("  ssd {", "  faster_rcnn {", "the model is faster_rcnn"),
        ("model {", "mode {", "has no 'model'"),
    ],
)
def test_what_cannot_be_translated_is_refused_by_name(old: str, new: str, part: str) -> None:
    with pytest.raises(ConfigError) as error:
        translate_tf_pipeline(PLAIN.replace("HERE", MINER).replace(old, new), "my.config")
    assert str(error.value).startswith("my.config")
    assert part in str(error.value)


def test_a_choice_may_be_given_by_its_number() -> None:
    """LossType 1 is CLASSIFICATION and ScoreConverter 2 SOFTMAX, in the API's protos."""
    found = plain(f"{MINER.removesuffix('BOTH')}1", score_converter="2")
    assert isinstance(found.recipe.loss.selection, HardExamplesConfig)
    assert found.recipe.loss.selection.rank == "class"
    assert any("score_converter: SOFTMAX" in str(note) for note in found.left_out)


@pytest.mark.parametrize("prefix", ["", "\ufeff"], ids=["plain", "mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["lf", "crlf", "cr"])
@pytest.mark.parametrize("code", ["utf-8", "utf-16"])
def test_a_file_as_editors_save_it(tmp_path: Path, prefix: str, end: str, code: str) -> None:
    """Line ends of every system, a byte order mark, single quotes and comments change nothing."""
    text = PLAIN.replace("HERE", MINER).replace('"', "'").replace("{ ", "{  # a { comment\n", 3)
    (tmp_path / "x.config").write_bytes((prefix + text.replace("\n", end)).encode(code))
    if prefix and code == "utf-16":
        pytest.skip("its own mark stands first")
    assert read_tf_pipeline(tmp_path / "x.config").recipe == plain().recipe


def test_a_focal_loss_without_alpha_keeps_its_weight_against_the_boxes() -> None:
    """alpha .5 halves the loss of the classes, so that of the boxes is halved as well."""
    text = PLAIN.replace("HERE", MINER)
    focal = translate_tf_pipeline(text.replace("weighted_sigmoid {", "weighted_sigmoid_focal {"))
    assert focal.recipe.loss.classification == FocalConfig(alpha=0.5, gamma=2.0)
    assert focal.recipe.loss.box_weight == pytest.approx(plain().recipe.loss.box_weight / 2)
    given = "weighted_sigmoid_focal { alpha: 0.5"
    same = translate_tf_pipeline(text.replace("weighted_sigmoid {", given))
    assert same.recipe.loss.box_weight == plain().recipe.loss.box_weight


def test_a_warm_up_that_is_not_given_is_named() -> None:
    """The API's cosine schedule warms up for 10,000 steps unless the file says otherwise."""
    text = PLAIN.replace("HERE", MINER).replace("warmup_steps: 100", "")
    left = [str(note) for note in translate_tf_pipeline(text).left_out]
    assert any("warmup_steps: not given -> 10,000 in the API" in note for note in left)
    assert not any("warmup_steps" in str(note) for note in plain().left_out)
    none = plain(warmup_steps="0")
    assert none.recipe.optim.warmup_steps == 0


def test_the_rank_of_the_miner_is_told_where_it_differs() -> None:
    """The API divides by the code's size after mining; here the miner ranks by the weighted loss."""
    both = [str(note) for note in plain().carried]
    assert any("the miner ranks with it as well" in note for note in both)
    by_class = [str(note) for note in plain(MINER.replace("BOTH", "CLASSIFICATION")).carried]
    assert not any("the miner ranks with it as well" in note for note in by_class)


def test_the_text_format() -> None:
    text = r"""
    # a comment
    a: 1, b: -2.5f; c: 0x1F d: 017 e: .5e1 f: -inf
    s: "one " 'two\x41\t\101' t: True w: RELU_6
    list: [1, 2, 3] list: 4
    m < n { } > m: { n: { k: "v" } }
    [some.ext.name] { z: 1 }
    """
    found = parse_protobuf_text(text, "x")
    assert [found.number(name, 0) for name in "abcde"] == [1, -2.5, 31, 15, 5.0]
    assert next(each.value for each in found.fields if each.name == "f") == -math.inf
    assert found.text("s", "") == "one twoA\tA"
    assert found.flag("t", False) is True
    assert found.choice("w", ("NONE", "RELU_6")) == "RELU_6"
    assert found.numbers("list") == [1, 2, 3, 4]
    assert len(found.messages("m")) == 2
    left = [path for path, _, _ in found.left()]
    assert left == ["f", "m.n", "m.n.k", "[some.ext.name].z"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a {", "x:1: the file ends inside a message"),
        ("a: \n ]", "x:2: a: got ']', wanted a value"),
        ("a 5", "x:1: a: got '5', wanted ':' or '{'"),
        ("a: [1 2]", "x:1: got '2', wanted ','"),
        ('a: "open', "which begins no value"),
        ("{", "wanted the name of a field"),
        ("a{" * 200, "more than 100 deep"),
    ],
)
def test_broken_text_is_one_error_with_its_line(text: str, part: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_protobuf_text(text, "x")
    assert part in str(error.value)


def test_a_share_of_an_object_in_a_crop_is_not_taken_for_an_overlap() -> None:
    """The API's crop holds so much of an object; an IoU of 1 with one would be reached by none."""

    def cropped(words: str) -> TfPipeline:
        option = f"data_augmentation_options {{ random_crop_image {{ {words} }} }} batch_size"
        return translate_tf_pipeline(PLAIN.replace("HERE", MINER).replace("batch_size", option, 1))

    whole, part = cropped("min_area: 0.25"), cropped("min_object_covered: 0.5")
    for found in (whole, part):
        assert (found.recipe.augment.crop, found.recipe.augment.min_overlaps[0]) == (True, 0.1)
        assert any(note.path.endswith("min_object_covered") for note in found.left_out)
    assert whole.recipe.augment.min_crop == 0.5
    anywhere = cropped("min_object_covered: 0.0")
    assert anywhere.recipe.augment.min_overlaps == ()
    assert not any(note.path.endswith("min_object_covered") for note in anywhere.left_out)

"""Choosing a model by the boxes of a dataset, and what is said of a pinned one. No pixel is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hardmine.errors import NOTICE, ConfigError, DataError
from hardmine.models.ssd import SSD, make_network
from hardmine.recipes.checkpoint import save_checkpoint
from hardmine.recipes.named_recipes import named_recipe
from hardmine.recipes.recipe import apply_settings, load_recipe
from hardmine.types import Dataset, ImageRecord, ImageState
from hardmine.workflows.auto_recipe import (
    choose_for,
    fit_to_data,
    is_automatic,
    warnings_of,
)
from hardmine.workflows.cached_models import choose_recipe, why_chosen, write_recipe
from hardmine.workflows.recipe_fit import measure_fit, overlapping_share
from hardmine.workflows.train_options import DataOptions, NetworkOptions

SIDE = 320


def dataset(*sides: float, per_image: int = 1, images: int = 12) -> Dataset:
    """Squares of those sides, a class for each side, on images as large as the canvas."""
    records = []
    for index in range(images):
        boxes, labels = [], []
        for label, side in enumerate(sides, start=1):
            for copy in range(per_image):
                x = (37 * index + 53 * copy + 11 * label) % (SIDE - side)
                y = (29 * index + 71 * copy + 17 * label) % (SIDE - side)
                boxes.append([x, y, x + side, y + side])
                labels.append(label)
        records.append(
            ImageRecord(
                Path(f"{index}.jpg"),
                SIDE,
                SIDE,
                np.array(boxes, np.float32),
                np.array(labels, np.int64),
                np.zeros(len(labels), bool),
                ImageState.LABELLED,
            )
        )
    names = tuple(f"class{label}" for label in range(1, len(sides) + 1))
    return Dataset(names, tuple(records), Path())


def enlarged(data: Dataset, factor: float) -> Dataset:
    """The same in images of so many times the pixels; on a canvas nothing changes."""
    larger = [
        replace(
            r, width=int(r.width * factor), height=int(r.height * factor), boxes=r.boxes * factor
        )
        for r in data.records
    ]
    return data.with_records(larger)


def test_large_objects_get_the_quickest_model() -> None:
    choice = choose_for(dataset(150, images=80))
    assert choice.model == "ssdlite320_mobilenet_v2"
    assert choice.settings == ()
    assert len(choice.lines) == 3
    assert choice.recipe == named_recipe("ssdlite320_mobilenet_v2")


@pytest.mark.parametrize(
    ("sides", "factor", "said"),
    [
        ((28.0, 150.0), 2, "'class1' has 56 px in the images"),
        ((33.0, 150.0), 2, ""),  # large enough on the canvas
        ((28.0, 150.0), 1, ""),  # the images hold no more
        ((28.0,), 2, ""),  # one class cannot be confused
        ((12.0, 150.0), 2, ""),  # that model is taken already
    ],
)
def test_small_objects_of_several_classes_get_a_word_on_a_larger_canvas(
    sides: tuple[float, ...], factor: int, said: str
) -> None:
    data = enlarged(dataset(*sides), factor)
    lines = choose_for(data).lines
    assert any("a larger canvas" in line for line in lines) is bool(said)
    assert said in lines[-1]
    wide = [replace(r, width=3 * r.width) for r in data.records]
    on_their_shape = choose_for(data.with_records(wide)).lines
    assert not any("a larger canvas" in line for line in on_their_shape)
    if said:
        assert lines[-1].endswith(
            "(--model ssd640_mobilenet_v2_fpnlite --set loss.selection.kind=level_quota)"
        )


@pytest.mark.parametrize(
    ("sides", "factor", "priors"),
    [
        ((26, 28, 31), 2, "0.08"),  # 52 to 62 px on the larger canvas, against 51 px and more
        ((18, 20), 2, "0.06"),  # 36 px: IoU with 51 px is (36/51)² = .50 at best, with 38 px .90
        ((26, 28, 31), 1.4, None),  # the images hold little more
        ((26, 53), 2, None),  # their sizes tell them apart
        ((33, 36), 2, None),  # the usual canvas keeps enough
        ((26,), 2, None),  # one class is not confused
        ((13, 14), 4, None),  # too small for these priors
    ],
)
def test_small_classes_of_one_size_get_a_larger_canvas(
    sides: tuple[float, ...], factor: float, priors: str | None
) -> None:
    choice = choose_for(enlarged(dataset(*sides, per_image=3), factor))
    chosen = f"model.priors.min_scale={priors}" in choice.settings
    assert chosen is (priors is not None)
    network = choice.recipe.model
    got = (network.height, network.width, network.name)
    assert (got == (640, 640, "ssdlite320_mobilenet_v2")) is chosen
    if chosen:
        assert network.backbone.frozen_to == "features.7"
        assert f"'class1' has {sides[0] * factor:.0f} px in the images" in choice.lines[-1]
        assert "--model ssd640" not in choice.lines[-1]


@pytest.mark.parametrize(
    ("classes", "images", "epochs"),
    [
        (
            6,
            77,
            41.0,
        ),  # 6 x 65 = 390 steps of 8 images are 3120 images: 3120 / 77 = 40.5, rounded up
        (6, 60, 52.0),
        (6, 20, 100.0),  # 156 would be needed, and 100 are the most
        (2, 20, 52.0),
    ],
)
def test_few_images_of_several_classes_get_more_epochs(
    classes: int, images: int, epochs: float
) -> None:
    options, data = NetworkOptions(), dataset(*[150] * classes, images=images)
    recipe, lines = fit_to_data(choose_recipe(options), options, None, data)
    assert recipe.epochs == epochs
    assert lines[-1] == (
        f"{epochs:g} epochs (--epochs N sets them): 40 epochs of {images} images are "
        f"{images * 40 // 8} steps, and {classes * 65} are wanted for {classes} classes"
    )


@pytest.mark.parametrize(("classes", "images"), [(6, 78), (1, 13)])
def test_other_data_keep_the_epochs_of_the_model(classes: int, images: int) -> None:
    options, data = NetworkOptions(), dataset(*[150] * classes, images=images)
    recipe, lines = fit_to_data(choose_recipe(options), options, None, data)
    assert recipe.epochs == 40.0
    assert not any("epochs" in line for line in lines)


def test_few_images_of_one_class_get_more_epochs_too() -> None:
    options = NetworkOptions()
    recipe, lines = fit_to_data(choose_recipe(options), options, None, dataset(150, images=12))
    assert recipe.epochs == 44  # 65 steps of 8 images
    assert lines[-1].endswith("are 60 steps, and 65 are wanted for 1 class")


def test_images_without_objects_do_not_make_few_images_many() -> None:
    data = dataset(150, 150, images=20)
    empty = [
        ImageRecord.empty(Path(f"empty{index}.jpg"), SIDE, SIDE, ImageState.VERIFIED_EMPTY)
        for index in range(20)
    ]
    both = data.with_records([*data.records, *empty])
    options = NetworkOptions()
    recipe, _ = fit_to_data(choose_recipe(options), options, None, both)
    assert recipe.epochs == 52.0  # 130 steps of 8 images: 1040 / 20


@pytest.mark.parametrize("options", [NetworkOptions(epochs=3.0), NetworkOptions(set=("epochs=3",))])
def test_epochs_of_the_user_stay(options: NetworkOptions) -> None:
    data = dataset(*[150] * 6, images=20)
    recipe, lines = fit_to_data(choose_recipe(options), options, None, data)
    assert recipe.epochs == 3.0
    assert not any("epochs" in line for line in lines)


def test_choices_may_be_those_of_a_model_that_the_data_choose() -> None:
    """The default model's head has no tower, so that it has no such key."""
    options = NetworkOptions(model="auto", set=("model.head.depth=0",))
    recipe, _ = fit_to_data(choose_recipe(options), options, None, dataset(150, 45))
    assert (recipe.model.name, recipe.model.head.depth) == ("ssd320_mobilenet_v2_fpnlite", 0)
    message = "^ssdlite320_mobilenet_v2, which these data choose: .* unknown key 'model.head.depth'"
    with pytest.raises(ConfigError, match=message):
        fit_to_data(choose_recipe(options), options, None, dataset(150))
    by_level = NetworkOptions(model="auto", set=("loss.selection.shares=[1, 1, 1, 1, 1]",))
    recipe, _ = fit_to_data(choose_recipe(by_level), by_level, None, dataset(150, 45))
    assert recipe.loss.selection.shares == (1, 1, 1, 1, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        # depth: FPNLite's tower has it; depthwise: the heads of both
        (
            ["model.head.dept=0"],
            r"key 'model.head.dept', wanted one of depth, depthwise, kind, prior_probability \(the "
            r"keys of all models of 'auto'\); did you mean 'depth'\?$",
        ),
        (
            ["model.priors.min_scale=0.1", "model.priors.anchor_scale=2"],
            "^no model of 'auto' has all keys of model.priors.min_scale=0.1, model.priors.anchor_sc",
        ),
        (["model.priors.min_scale=7"], "^priors: got min_scale 7.0"),
        (["model.priors.anchor_scale=many"], "anchor_scale: .* got 'many'"),
    ],
)
def test_choices_that_no_model_of_auto_takes_are_refused_for_what_they_are(
    settings: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_recipe(NetworkOptions(model="auto", set=tuple(settings)))


def test_a_class_that_no_prior_reaches_decides() -> None:
    # 45 px: the plain model's smallest prior has 64 px, IoU (45/64)² = .49 < .5; FPNLite has 32·√2.
    choice = choose_for(dataset(150, 45))
    assert choice.model == "ssd320_mobilenet_v2_fpnlite"
    assert choice.settings == (
        "loss.selection.kind=level_quota",
        "model.priors.octaves=2",
        "loss.assigner.max_positives=9",
    )
    assert "reach 0% of the boxes of 'class2'" in choice.lines[0]
    recipe = choice.recipe
    assert recipe.loss.selection.kind == "level_quota"
    assert (recipe.model.priors.octaves, recipe.loss.assigner.max_positives) == (2, 9)
    assert choice.lines[3] == (
        "small objects are matched on two levels and keep their 9 best priors each: fewer alarms at one "
        "score for all classes"
    )


@pytest.mark.parametrize(("shift", "images", "two"), [(20, 1, False), (30, 12, True)])
def test_crowded_small_objects_are_matched_on_one_level(shift: int, images: int, two: bool) -> None:
    """45 px, in so many of 12 images 20 px beside another: IoU 25 / 65 = .38; 30 px: 15 / 75 = .2.

    In one of 12 images are 8 % of the boxes.
    """
    pairs = []
    for index, record in enumerate(dataset(45).records):
        beside = np.float32([shift if index < images else 100, 0] * 2)
        pairs.append(
            replace(
                record,
                boxes=np.concatenate([record.boxes, record.boxes + beside]),
                labels=np.ones(2, np.int64),
                ignore=np.zeros(2, bool),
            )
        )
    choice = choose_for(dataset(45).with_records(pairs))
    assert choice.model == "ssd320_mobilenet_v2_fpnlite"
    assert ("model.priors.octaves=2" in choice.settings) is two
    assert ("loss.assigner.max_positives=9" in choice.settings) is two
    assert any("two levels" in line for line in choice.lines) is two


def test_small_objects_get_smaller_priors_and_tiny_ones_a_larger_canvas() -> None:
    # 22 px: against 32 px IoU (22/32)² = .47; against 20 px (scale 2.5 at stride 8) (20/22)² = .83.
    small = choose_for(dataset(22))
    assert "model.priors.anchor_scale=2.5" in small.settings
    # 13 px: against 20 px .42; on the 640 canvas 26 px against 32 px (26/32)² = .66 at best.
    tiny = choose_for(dataset(13))
    assert tiny.model == "ssd640_mobilenet_v2_fpnlite"
    assert tiny.settings == ("loss.selection.kind=level_quota",)


def shaped(
    width: int, height: int, box: tuple[float, float], *, images: int = 12, boxes: int = 3
) -> Dataset:
    """Images of one size with boxes (width, height) of one class, spread over them."""
    records = []
    for index in range(images):
        x = [(97 * index + 211 * copy) % max(1, int(width - box[0])) for copy in range(boxes)]
        y = [(61 * index + 137 * copy) % max(1, int(height - box[1])) for copy in range(boxes)]
        places = [[a, b, a + box[0], b + box[1]] for a, b in zip(x, y, strict=True)]
        records.append(
            ImageRecord(
                Path(f"{index}.jpg"),
                width,
                height,
                np.array(places, np.float32),
                np.ones(boxes, np.int64),
                np.zeros(boxes, bool),
                ImageState.LABELLED,
            )
        )
    return Dataset(("thing",), tuple(records), Path())


def test_wide_images_get_a_wide_canvas_of_the_same_area() -> None:
    # stretched to 320 x 320, a square of 300 px in 3000 x 750 would be 32 x 128 px
    choice = choose_for(shaped(3000, 750, (300, 300)))
    assert (choice.recipe.model.height, choice.recipe.model.width) == (160, 640)
    assert "on a canvas of the images' shape" in choice.lines[0]
    assert not choice.warnings
    tall = choose_for(shaped(750, 3000, (300, 300)))
    assert (tall.recipe.model.height, tall.recipe.model.width) == (640, 160)
    usual = choose_for(shaped(1920, 1080, (300, 300)))
    assert (usual.recipe.model.height, usual.recipe.model.width) == (320, 320)
    strip = choose_for(shaped(9000, 500, (300, 300)))  # 18 : 1, and the canvas has 4 : 1 at most
    assert (strip.recipe.model.height, strip.recipe.model.width) == (160, 640)
    upright = choose_for(shaped(500, 9000, (300, 300)))
    assert (upright.recipe.model.height, upright.recipe.model.width) == (640, 160)


def test_the_canvas_takes_the_shape_of_most_images_from_two_to_one_on() -> None:
    # 320 / √2 = 226 and 320 · √2 = 453 px, of which 224 and 448 are the nearest multiples of 32
    wide = choose_for(shaped(2000, 1000, (500, 500)))
    assert (wide.recipe.model.height, wide.recipe.model.width) == (224, 448)
    # 320 / √3 = 185 and 320 · √3 = 554 px: the nearest multiples are above and below
    wider = choose_for(shaped(3000, 1000, (500, 500)))
    assert (wider.recipe.model.height, wider.recipe.model.width) == (192, 544)
    nearly = choose_for(shaped(1990, 1000, (500, 500)))
    assert (nearly.recipe.model.height, nearly.recipe.model.width) == (320, 320)
    # one strip of 12 : 1, or any number of them without an object, among squares change nothing
    squares = shaped(1000, 1000, (500, 500), images=2)
    strip = shaped(12000, 1000, (6000, 500), images=1).records[0]
    empty = ImageRecord.empty(Path("strip.jpg"), 12000, 1000, ImageState.VERIFIED_EMPTY)
    mixed = choose_for(squares.with_records([*squares.records, strip, *[empty] * 5]))
    assert (mixed.recipe.model.height, mixed.recipe.model.width) == (320, 320)


def test_the_model_of_a_wide_canvas_runs() -> None:
    choice = choose_for(shaped(3000, 750, (100, 100)))
    assert choice.model == "ssd320_mobilenet_v2_fpnlite"
    network = make_network(choice.recipe.model, ("thing",)).eval()
    output = network(torch.zeros(1, 3, 160, 640, dtype=torch.uint8))
    cells = sum(-(-160 // stride) * -(-640 // stride) for stride in (8, 16, 32, 64, 128))
    assert output.class_logits.shape[1] == cells * 12  # six of each of two octaves


def test_long_boxes_get_long_priors() -> None:
    # 210 x 35 px, 6 : 1: with a prior of 3 : 1 and the same area IoU (1/√2) / (2 - 1/√2) = .55 at best
    long = choose_for(shaped(SIDE, SIDE, (210, 35)))
    assert "model.priors.aspect_ratios=[[2, 3, 6]]" in long.settings
    # 1 : 5 and 64 px long is too small for the first model, and too long for the second as it is
    small = choose_for(shaped(SIDE, SIDE, (13, 64)))
    assert small.model == "ssd320_mobilenet_v2_fpnlite"
    assert "model.priors.aspect_ratios=[1, 2, 0.5, 5, 0.2]" in small.settings
    assert not long.warnings


def test_long_boxes_get_long_priors_where_others_are_too_small_for_any_model() -> None:
    long, tiny = shaped(SIDE, SIDE, (13, 64)), shaped(SIDE, SIDE, (4, 4))
    others = [replace(r, labels=r.labels + 1) for r in tiny.records]
    data = Dataset(("long", "tiny"), (*long.records, *others), Path())
    choice = choose_for(data)
    assert "model.priors.aspect_ratios=[1, 2, 0.5, 5, 0.2]" in choice.settings
    assert "reach only 0% of the 36 boxes of class 'tiny': boxes out of reach" in choice.warnings[0]


def test_what_no_model_reaches_is_said_with_the_way_out(caplog: pytest.LogCaptureFixture) -> None:
    data = shaped(4000, 3000, (30, 30))
    options = NetworkOptions()
    _, lines = fit_to_data(choose_recipe(options), options, None, data)
    # no prior reaches any box; of the models the one with the smallest priors comes nearest
    assert lines[0].startswith("model ssd640_mobilenet_v2_fpnlite")
    assert "no model of the list reaches every class, and this one comes nearest" in lines[0]
    (warning,) = (r.getMessage() for r in caplog.records if r.levelname == "WARNING")
    assert "reach only 0% of the 36 boxes of class 'thing'" in warning
    assert "6 px on the canvas and 30 px in the images" in warning
    assert "--to coco --tile 800" in warning  # 640 px of canvas show 30 of 800 px as 24 px
    # The priors of the first model grow with its canvas, so the model is named whose priors do not.
    _, _, more = warning.partition("or take a larger canvas")
    words = more[more.index("(") + 1 : -1].replace("=H", "=3200").replace("=W", "=3200").split()
    named, settings = words[words.index("--model") + 1], words[words.index("--set") + 1 :: 2]
    fit = measure_fit(data, apply_settings(named_recipe(named), settings))
    assert fit is not None and fit.reach == 1  # 30 px of 4000 x 3000 are 28 px of 3200 x 3200
    grown = apply_settings(named_recipe("ssdlite320_mobilenet_v2"), settings[1:])
    fit = measure_fit(data, grown)
    assert fit is not None and fit.reach == 0
    needles = choose_for(shaped(SIDE, SIDE, (300, 8)))
    (line,) = needles.warnings
    assert "'hardmine priors fit DATA --model ssdlite320_mobilenet_v2' looks for priors" in line
    upright = choose_for(shaped(1280, 320, (8, 300)))  # on a canvas of 1280 x 320 px
    (line,) = upright.warnings
    assert (
        f"--model {upright.model} --set model.height=320 --set model.width=1280' looks for" in line
    )


def test_square_tiles_of_wide_images_fit_a_square_canvas() -> None:
    # 40 px at 24 px of 640: 1067 px, the nearest multiple of 32 is 1056, whichever way the images lie
    for size in ((4000, 500), (500, 4000)):
        (line,) = choose_for(shaped(*size, (40, 40))).warnings
        assert "--to coco --tile 1056" in line
    (line,) = choose_for(shaped(2000, 2000, (1, 1))).warnings
    assert "--tile 32)" in line  # no tile has 0 px
    (line,) = warnings_of(shaped(4000, 500, (40, 40)), named_recipe("ssdlite320_mobilenet_v2"))
    assert "--to coco --tile 544" in line  # the same on a canvas of 320 px


def test_of_many_images_some_are_measured_which_is_said() -> None:
    lines = choose_for(dataset(150, images=2001)).lines
    assert lines[1].startswith("1001 boxes in 1001 of 2001 images, 1.0 per image; on its 320 x 320")
    assert choose_for(dataset(150, images=3)).lines[1].startswith("3 boxes, 1.0 per image;")


@pytest.mark.parametrize(
    ("model", "choices", "kept"),
    [
        ("ssdlite320_mobilenet_v2", (), 100),
        (None, ("decode.max_detections=120", "decode.candidates=110"), 110),
        (None, ("decode.max_detections=150",), None),
    ],
)
def test_more_objects_than_detections_are_warned_of(
    model: str | None, choices: tuple[str, ...], kept: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    crowded = dataset(150, per_image=150, images=1)
    data = crowded.with_records([*crowded.records, *dataset(150, images=3).records])
    options = NetworkOptions(model=model, set=choices)
    recipe, _ = fit_to_data(choose_recipe(options), options, None, data)
    said = [r.getMessage() for r in caplog.records if "can never be found" in r.getMessage()]
    if kept is None:
        assert not said
        assert recipe.decode.nms_iou == 0.55  # the boxes of the first image overlap
        return
    (line,) = said
    assert line.startswith(f"up to 150 objects lie in one image, and the best {kept} detections")
    # 150 - 100 = 50 of 153, 150 - 110 = 40
    assert f"{round(100 * (150 - kept) / 153)}% of the objects can never be found" in line
    assert "--set decode.max_detections=300 --set decode.candidates=1200 keeps more" in line


def test_the_chosen_model_keeps_enough_detections_for_many_objects() -> None:
    """Of 101 objects 1 lies beyond the 100 that are kept: .99 %; of 102 objects 2 do: 1.96 %."""
    crowded = dataset(150, per_image=150, images=1)
    choice = choose_for(crowded)
    assert choice.settings[-2:] == ("decode.max_detections=300", "decode.candidates=1200")
    assert (choice.recipe.decode.max_detections, choice.recipe.decode.candidates) == (300, 1200)
    assert "images hold many objects: the best 300 detections of an image are kept" in choice.lines
    assert choose_for(dataset(150, per_image=101, images=1)).recipe.decode.max_detections == 100
    assert choose_for(dataset(150, per_image=102, images=1)).recipe.decode.max_detections == 204


def test_few_boxes_in_all_are_judged_all_the_same() -> None:
    choice = choose_for(dataset(22, images=3))
    assert "model.priors.anchor_scale=2.5" in choice.settings


def test_many_objects_per_image_alone_change_nothing() -> None:
    assert choose_for(dataset(100, per_image=6)).model == "ssdlite320_mobilenet_v2"


@pytest.mark.parametrize(("images", "frozen_to"), [(299, "features.13"), (300, "features.10")])
def test_many_boxes_train_more_of_the_backbone(images: int, frozen_to: str) -> None:
    data = dataset(150, images=images)
    ignored = np.array([True])
    # nine more that do not count
    ignoring = [replace(record, ignore=ignored) for record in data.records[:9]]
    choice = choose_for(data.with_records([*data.records, *ignoring]))
    assert choice.recipe.model.backbone.frozen_to == frozen_to  # type: ignore[union-attr]
    said = [line for line in choice.lines if "more of the backbone" in line]
    enough = ["300 boxes are enough: more of the backbone is trained"]
    assert said == (enough if images == 300 else [])


def test_several_classes_train_more_of_the_backbone() -> None:
    choice = choose_for(dataset(150, 150, images=4))
    assert choice.recipe.model.backbone.frozen_to == "features.7"  # type: ignore[union-attr]
    assert "2 classes are told apart: more of the backbone is trained" in choice.lines
    records = dataset(150, 150, images=4).records
    second_ignored = np.array([False, True])
    one = [replace(record, ignore=second_ignored) for record in records]
    choice = choose_for(dataset(150, 150, images=0).with_records(one))
    assert choice.recipe.model.backbone.frozen_to == "features.13"  # type: ignore[union-attr]


def neighbours(shift: float, labels: tuple[int, int] = (1, 1)) -> ImageRecord:
    """Return an image with two boxes of 100 px, the second so many px to the right."""
    boxes = np.array([[0, 0, 100, 100], [shift, 0, 100 + shift, 100]], np.float32)
    return replace(
        dataset(100, 100, images=1).records[0], boxes=boxes, labels=np.array(labels, np.int64)
    )


@pytest.mark.parametrize(
    ("record", "share"),
    [
        (neighbours(50), 1.0),  # 50 x 100 px of 150 x 100: IoU 1/3
        (neighbours(60), 0.0),  # 40 of 160: 1/4
        (neighbours(50, (1, 2)), 0.0),
        (replace(neighbours(50), ignore=np.array([False, True])), 0.0),
    ],
)
def test_overlapping_boxes_of_a_class_are_counted(record: ImageRecord, share: float) -> None:
    lonely = dataset(100, 100, images=0).with_records([record])
    assert overlapping_share(lonely) == share


@pytest.mark.parametrize(("others", "nms_iou"), [(38, 0.55), (39, 0.45)])
def test_crowded_data_keep_detections_that_overlap(others: int, nms_iou: float) -> None:
    data = dataset(150, images=others)
    choice = choose_for(data.with_records([neighbours(50), *data.records]))  # 2 of 40, 2 of 41
    assert choice.recipe.decode.nms_iou == nms_iou  # type: ignore[union-attr]
    said = [line for line in choice.lines if "overlap" in line]
    assert said == (
        []
        if nms_iou == 0.45
        else [
            "5% of the boxes overlap another of their class by IoU 0.3 or more: only detections that "
            "overlap by more than 0.55 are taken for one object"
        ]
    )


def test_the_users_suppression_stays_on_crowded_data() -> None:
    data = dataset(150, images=1).with_records([neighbours(50)])
    options = NetworkOptions(set=("decode.nms_iou=0.4",))
    recipe, lines = fit_to_data(choose_recipe(options), options, None, data)
    assert recipe.decode.nms_iou == 0.4  # type: ignore[union-attr]
    assert not any("overlap" in line for line in lines)


@pytest.mark.parametrize(
    ("setting", "warned"),
    [
        ("decode.nms_iou=0.45", True),
        ("decode.nms_iou=0.49", True),
        ("decode.nms_iou=0.5", False),
        ("decode.kind=soft_nms", False),
    ],
)
def test_a_pinned_suppression_that_removes_neighbours_is_warned_of(
    setting: str, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    data = dataset(150, images=1).with_records([neighbours(50)])
    options = NetworkOptions(model="ssdlite320_mobilenet_v2", set=(setting,))
    pinned = choose_recipe(options)
    assert fit_to_data(pinned, options, None, data) == (pinned, ())
    said = "overlap" in caplog.text and "--set decode.nms_iou=0.55 keeps more" in caplog.text
    assert said is warned
    assert warnings_of(dataset(150, images=1), pinned) == ()


@pytest.mark.parametrize(
    ("boxes", "model"), [(4, "ssdlite320_mobilenet_v2"), (5, "ssd320_mobilenet_v2_fpnlite")]
)
def test_a_rare_class_with_few_boxes_does_not_decide(boxes: int, model: str) -> None:
    rare = [replace(r, labels=r.labels + 1) for r in dataset(45, images=boxes).records]
    data = Dataset(("thing", "rare"), (*dataset(150).records, *rare), Path())
    assert choose_for(data).model == model


@pytest.mark.parametrize(
    ("small", "model"), [(2, "ssdlite320_mobilenet_v2"), (3, "ssd320_mobilenet_v2_fpnlite")]
)
def test_nine_of_ten_boxes_in_reach_are_enough(small: int, model: str) -> None:
    records = [*dataset(150, images=20 - small).records, *dataset(45, images=small).records]
    assert choose_for(dataset(150).with_records(records)).model == model


def test_the_class_that_is_reached_least_is_named_first() -> None:
    """Of class 2 half the boxes are large and in reach, of class 3 none."""
    data = dataset(150, 45, 30)
    larger = dataset(150, 150, 30).records
    mixed = data.with_records([*larger[:6], *data.records[6:]])
    (line,) = warnings_of(mixed, named_recipe("ssdlite320_mobilenet_v2"))
    assert line.startswith(
        "12 of the 12 boxes of class 'class3' (and 1 more class) (100%, median side"
    )


def test_a_pinned_model_that_misses_a_class_is_warned_of_with_the_way_out() -> None:
    data = dataset(150, 45)
    (line,) = warnings_of(data, named_recipe("ssdlite320_mobilenet_v2"))
    assert line.startswith(
        "12 of the 12 boxes of class 'class2' (100%, median side 45 px on the canvas) overlap no prior "
        "of ssdlite320_mobilenet_v2 enough to be matched: these will hardly be learned. "
    )
    assert (
        "--model auto would take ssd320_mobilenet_v2_fpnlite with loss.selection.kind=level_quota, "
        "model.priors.octaves=2, loss.assigner.max_positives=9, which reaches 100%"
    ) in line
    wide = shaped(3000, 750, (200, 200))
    (line,) = warnings_of(wide, named_recipe("ssdlite320_mobilenet_v2"))
    assert "model.height=160, model.width=640, which reaches 100%" in line
    assert warnings_of(dataset(150), named_recipe("ssdlite320_mobilenet_v2")) == ()


def test_a_model_without_priors_of_its_own_is_left_alone() -> None:
    data = dataset(20)
    recipe = named_recipe("fasterrcnn_mobilenet_v3_large_320_fpn")
    assert measure_fit(data, recipe) is None
    assert warnings_of(data, recipe) == ()


def test_regions_to_be_ignored_are_no_part_of_the_fit() -> None:
    """The objects have 150 px on the canvas and 300 px in the images, the regions 40 px there."""
    region = np.array([[0, 0, 40, 40]], np.float32)
    records = [
        replace(
            r,
            boxes=np.concatenate([region, r.boxes]),
            labels=np.array([1, 1]),
            ignore=np.array([True, False]),
        )
        for r in enlarged(dataset(150), 2).records
    ]
    fit = measure_fit(dataset(150).with_records(records), named_recipe("ssdlite320_mobilenet_v2"))
    assert fit is not None
    (thing,) = fit.classes
    assert (thing.boxes, fit.objects_per_image) == (12, 1.0)
    assert (thing.median_side, thing.side_in_images) == (150, 300)


def test_crowded_small_classes_keep_detections_that_overlap_on_the_larger_canvas() -> None:
    """A copy of each box 8 px beside it: IoU (26 - 8) / (26 + 8) = .53 and more."""
    crowded = [
        replace(
            r,
            boxes=np.concatenate([r.boxes, r.boxes + np.array([8, 0, 8, 0], np.float32)]),
            labels=np.tile(r.labels, 2),
            ignore=np.tile(r.ignore, 2),
        )
        for r in dataset(26, 28, 31).records
    ]
    choice = choose_for(enlarged(dataset(26, 28, 31).with_records(crowded), 2))
    assert choice.settings[-2:] == ("decode.nms_iou=0.55", "model.priors.min_scale=0.08")
    assert "larger canvas" in choice.lines[-2] and "overlap another" in choice.lines[-1]


def test_no_labelled_box_is_an_error() -> None:
    data = dataset(100)
    with pytest.raises(DataError, match="no labelled box"):
        choose_for(data.with_records([]))


def test_only_what_pins_the_model_keeps_the_default(tmp_path: Path) -> None:
    backbone, detector = tmp_path / "backbone.pth", tmp_path / "detector.safetensors"
    torch.save({"features.0.0.weight": torch.zeros(1)}, backbone)
    foreign = tmp_path / "torchvision.pth"
    head = "head.classification_head.module_list.0.weight"
    torch.save({"backbone.features.0.weight": torch.zeros(1), head: torch.zeros(1)}, foreign)
    recipe = named_recipe("ssdlite320_mobilenet_v2")
    network = SSD(recipe.model, ("cat",))  # type: ignore[arg-type]
    save_checkpoint(detector, network.state_dict(), recipe, network.categories)
    assert is_automatic(NetworkOptions(), None)
    assert is_automatic(NetworkOptions(set=("optim.lr=0.01",), epochs=3), backbone)
    assert is_automatic(NetworkOptions(model="auto", set=("model.width=256",)), detector)
    assert not is_automatic(NetworkOptions(set=("model.width=256",)), None)
    assert not is_automatic(NetworkOptions(model="ssdlite320_mobilenet_v2"), None)
    assert not is_automatic(NetworkOptions(recipe=recipe), None)
    assert not is_automatic(NetworkOptions(), detector)
    assert not is_automatic(NetworkOptions(), foreign)


def test_the_users_choices_are_laid_over_what_the_data_chose(
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = NetworkOptions(set=("optim.lr=0.01", "loss.selection.kind=random"), batch=4)
    with caplog.at_level(NOTICE, "hardmine"):
        recipe, lines = fit_to_data(choose_recipe(options), options, None, dataset(150, 45))
    assert recipe.model.name == "ssd320_mobilenet_v2_fpnlite"
    assert (recipe.optim.lr, recipe.batch.size, recipe.loss.selection.kind) == (0.01, 4, "random")
    assert caplog.messages == list(lines)
    assert len(lines) == 5  # four on the model, one on the epochs


def test_a_pinned_model_is_kept_and_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    options = NetworkOptions(model="ssdlite320_mobilenet_v2")
    pinned = choose_recipe(options)
    with caplog.at_level(NOTICE, "hardmine"):
        assert fit_to_data(pinned, options, None, dataset(150, 45)) == (pinned, ())
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "of class 'class2'" in record.message


def test_auto_and_a_recipe_exclude_each_other() -> None:
    options = NetworkOptions(model="auto", recipe=Path("mine.yaml"))
    with pytest.raises(ConfigError, match="'auto' and a recipe are both given"):
        choose_recipe(options)


def test_a_run_keeps_the_reasons_of_its_choice(tmp_path: Path) -> None:
    recipe = named_recipe("ssdlite320_mobilenet_v2")
    write_recipe(tmp_path, recipe, ("one reason", "another: with a colon"))
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
    write_recipe(tmp_path, recipe)  # as a resumed run does
    assert why_chosen(tmp_path) == ("one reason", "another: with a colon")


def test_a_large_dataset_is_measured_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardmine.workflows.recipe_fit.MOST_IMAGES", 5)
    fit = measure_fit(dataset(150, images=12), named_recipe("ssdlite320_mobilenet_v2"))
    assert fit is not None
    assert fit.boxes == 4  # images 0, 3, 6, 9


def test_classes_of_ignored_regions_alone_ask_for_no_epochs() -> None:
    """Nothing of such a class is trained on, so that the same data without it get as many epochs."""
    data = shaped(SIDE, SIDE, (90, 90), images=16)
    regions = [
        replace(r, labels=np.array([1, 2, 2]), ignore=np.array([False, True, True]))
        for r in data.records
    ]
    crowds = Dataset(("thing", "crowd"), tuple(regions), Path())
    options = NetworkOptions()
    recipe, lines = fit_to_data(choose_recipe(options), options, None, crowds)
    assert recipe.epochs == choose_recipe(options).epochs
    assert not any("epochs" in line for line in lines)


def test_classes_of_too_few_boxes_are_named_and_left_out_of_the_sentences_on_each_class() -> None:
    data = dataset(150, 60)
    small = replace(
        data.records[0],
        boxes=np.array([[10, 10, 30, 30]] * 3, np.float32),
        labels=np.full(3, 3),
        ignore=np.zeros(3, bool),
    )
    rare = Dataset((*data.categories, "screw"), (*data.records, small), data.root)
    lines = choose_for(rare).lines
    assert "the smallest class of 5 boxes or more, 'class2', has a median side of 60 px" in lines[1]
    assert lines[2].endswith("of each class of 5 boxes or more")
    assert "too few boxes to choose by: 'screw' (3 boxes, median side 20 px, 0% reached)" in lines
    assert not any("too few" in line or "or more" in line for line in choose_for(data).lines)


def test_the_command_in_a_warning_names_the_data_that_were_given(
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = NetworkOptions(model="ssdlite320_mobilenet_v2")
    words = DataOptions(images=Path("more pictures")).words(Path("my data.csv"))
    assert words == "'my data.csv' --images 'more pictures'"
    assert DataOptions().words(dataset(150)) == "DATA"
    fit_to_data(choose_recipe(options), options, None, dataset(150, 30), words)
    fit = f"'hardmine priors fit {words} --model ssdlite320_mobilenet_v2' looks for priors"
    assert fit in caplog.text
    needles = shaped(SIDE, SIDE, (300, 8))
    assert f"'hardmine priors fit {words} --model" in choose_for(needles, source=words).warnings[0]

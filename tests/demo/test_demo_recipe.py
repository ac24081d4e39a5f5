"""The demo's recipe: its priors fit the drawn world, and it survives being written down."""

import numpy as np
import torch

from hardmine.boxes import box_iou, cxcywh_to_xyxy
from hardmine.demo.items import CATEGORIES
from hardmine.demo.run_demo import SIDE, fridge160
from hardmine.demo.world import draw_image
from hardmine.models.ssd import SSD
from hardmine.recipes.recipe import recipe_from_dict, recipe_to_dict


def test_every_drawn_object_meets_a_prior() -> None:
    recipe = fridge160()
    priors = SSD(recipe.model, CATEGORIES).priors
    # Strides 8, 16, 32 on 160 px with 4, 4 and 2 shapes a cell: 20·20·4 + 10·10·4 + 5·5·2 = 2050.
    assert len(priors.cxcywh) == 2050
    boxes = []
    for index in range(40):
        scene = draw_image(5, "train", index)
        height, width = scene.image.shape[:2]
        boxes.append(scene.boxes * (np.array([SIDE / width, SIDE / height] * 2, np.float32)))
    iou = box_iou(torch.from_numpy(np.concatenate(boxes)), cxcywh_to_xyxy(priors.cxcywh))
    threshold = recipe.loss.assigner.iou_threshold
    assert (iou.max(1).values >= threshold).float().mean() >= 0.99


def test_recipe_round_trips_through_plain_values() -> None:
    assert recipe_from_dict(recipe_to_dict(fridge160())) == fridge160()

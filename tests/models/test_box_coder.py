"""Coding of boxes against priors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hardmine.boxes import cxcywh_to_xyxy
from hardmine.models.priors import decode_boxes, encode_boxes

COORDINATE = st.floats(-100, 400, width=32)
SIDE = st.floats(1, 400, width=32)
CODED = st.tuples(COORDINATE, COORDINATE, SIDE, SIDE)


def test_golden() -> None:
    # Prior 50, 50, 20 x 40; box 54, 46, 40 x 20.
    # x: (54 − 50) / 20 / .1 = 2; y: (46 − 50) / 40 / .1 = −1; w: ln 2 / .2; h: ln ½ / .2.
    prior = torch.tensor([[50.0, 50, 20, 40]])
    box = cxcywh_to_xyxy(torch.tensor([[54.0, 46, 40, 20]]))
    wanted = [2.0, -1.0, math.log(2) / 0.2, math.log(0.5) / 0.2]
    assert encode_boxes(box, prior)[0].tolist() == pytest.approx(wanted, abs=1e-5)


@given(CODED, CODED)
def test_decode_inverts_encode(box: tuple[float, ...], prior: tuple[float, ...]) -> None:
    corners = cxcywh_to_xyxy(torch.tensor([box], dtype=torch.float64))
    priors = torch.tensor([prior], dtype=torch.float64)
    if box[2] / prior[2] > 60 or box[3] / prior[3] > 60:
        return  # beyond the limit that keeps exp finite
    back = decode_boxes(encode_boxes(corners, priors), priors)
    assert torch.allclose(back, corners, atol=1e-5)


def test_an_untrained_network_decodes_to_finite_boxes() -> None:
    wild = torch.full((1, 4), 1e4)
    assert decode_boxes(wild, torch.tensor([[10.0, 10, 5, 5]])).isfinite().all()


def test_a_batch_is_coded_image_by_image() -> None:
    priors = torch.tensor([[50.0, 50, 20, 40], [10.0, 20, 8, 8], [30.0, 30, 5, 9]])
    boxes = cxcywh_to_xyxy(torch.rand(2, 3, 4) * 40 + 5)
    coded = encode_boxes(boxes, priors)
    assert torch.equal(coded, torch.stack([encode_boxes(image, priors) for image in boxes]))
    back = decode_boxes(coded, priors)
    assert torch.equal(back, torch.stack([decode_boxes(image, priors) for image in coded]))
    assert torch.allclose(back, boxes, atol=1e-3)

"""Box arithmetic."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from hardmine.boxes import box_area, box_iou, clip_boxes, cxcywh_to_xyxy, xyxy_to_cxcywh

BOX = st.tuples(
    st.floats(-50, 200, width=32),
    st.floats(-50, 200, width=32),
    st.floats(0.5, 300, width=32),
    st.floats(0.5, 300, width=32),
)


def test_iou_golden() -> None:
    # Two 10 x 10 boxes shifted by 5 share 50 of 150; a far one shares nothing.
    a = torch.tensor([[0.0, 0, 10, 10]])
    b = torch.tensor([[5.0, 0, 15, 10], [0, 0, 10, 10], [20, 20, 30, 30]])
    assert torch.allclose(box_iou(a, b), torch.tensor([[50 / 150, 1.0, 0.0]]))


def test_boxes_without_area_have_no_overlap_and_no_nan() -> None:
    flat = torch.tensor([[5.0, 5, 5, 5], [9, 9, 3, 3]])
    assert box_iou(flat, flat).eq(0).all()
    assert box_area(flat).eq(0).all()


@given(st.lists(BOX, min_size=1, max_size=6), st.lists(BOX, min_size=1, max_size=6))
def test_iou_is_symmetric_and_bounded(
    a: list[tuple[float, ...]], b: list[tuple[float, ...]]
) -> None:
    first, second = (cxcywh_to_xyxy(torch.tensor(x)) for x in (a, b))
    iou = box_iou(first, second)
    assert torch.allclose(iou, box_iou(second, first).T)
    assert ((iou >= 0) & (iou <= 1 + 1e-5)).all()


@given(st.lists(BOX, min_size=1, max_size=6))
def test_forms_are_inverse(boxes: list[tuple[float, ...]]) -> None:
    coded = torch.tensor(boxes)
    assert torch.allclose(xyxy_to_cxcywh(cxcywh_to_xyxy(coded)), coded, atol=1e-3)


def test_clip_keeps_axes_apart() -> None:
    boxes = torch.tensor([[-5.0, -6, 30, 40]])
    assert clip_boxes(boxes, height=20, width=10).tolist() == [[0, 0, 10, 20]]

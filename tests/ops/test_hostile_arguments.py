"""Hostile arguments of the operator's functions: a TypeError or a ValueError that names the argument, never a crash."""

import numpy as np
import pytest
import torch
from attention_problems import make_problem

from mdqe.ops import MultiScaleDeformableAttention, deform_attn, deform_attn_fused, ms_deform_attn

SHAPES = ((3, 4), (2, 3))
HUGE = 2**62


def call(function, change: dict) -> torch.Tensor:
    """Call a function with valid arguments, except those in `change`."""
    p = make_problem(2, 5, 3, 8, 2, SHAPES, fused=function is deform_attn_fused)
    arguments = {
        deform_attn: {"value": p.value, "shapes": SHAPES, "locations": p.position, "weights": p.score},
        deform_attn_fused: {
            "value": p.value, "shapes": SHAPES, "centers": p.centers, "offsets": p.position, "logits": p.score,
        },
        ms_deform_attn: {
            "value": p.value,
            "value_spatial_shapes": torch.tensor(SHAPES),
            "value_level_start_index": torch.tensor([0, 12]),
            "sampling_locations": p.position,
            "attention_weights": p.score,
        },
    }[function]  # fmt: skip
    return function(**(arguments | change))


def sparse(*size: int) -> torch.Tensor:
    return torch.zeros(size).to_sparse()


def empty(*size: int, **options) -> torch.Tensor:
    return torch.empty(size, **options)


# Arguments that are tensors, in all functions.
TENSORS = {
    deform_attn: ("value", "locations", "weights"),
    deform_attn_fused: ("value", "centers", "offsets", "logits"),
    ms_deform_attn: (
        "value", "value_spatial_shapes", "value_level_start_index", "sampling_locations", "attention_weights",
    ),
}  # fmt: skip
NOT_TENSORS = (None, [[1.0, 2.0]], np.zeros((2, 18, 3, 8)), 1.5, "value", (3, 4))
WRONG_TENSORS = (
    torch.zeros(()), torch.zeros(3), torch.zeros(2, 18, 3, 8, 9, 9, 9), torch.zeros(2, 18, 3, 8, dtype=torch.complex64),
    torch.zeros(2, 18, 3, 8, dtype=torch.bool), torch.zeros(2, 18, 3, 8).double(), sparse(2, 18, 3, 8),
    empty(2, 18, 3, 8, device="meta"), empty(0, HUGE), empty(2, 0, 3, 8), empty(2, 18, 3, 0),
)  # fmt: skip


@pytest.mark.parametrize(("function", "name"), [(function, name) for function in TENSORS for name in TENSORS[function]])
@pytest.mark.parametrize("value", NOT_TENSORS, ids=lambda value: type(value).__name__)
def test_arguments_that_are_not_tensors(function, name, value):
    with pytest.raises(TypeError, match=f"^{name} must be a tensor, got {type(value).__name__}$"):
        call(function, {name: value})


@pytest.mark.parametrize(("function", "name"), [(function, name) for function in TENSORS for name in TENSORS[function]])
@pytest.mark.parametrize("index", range(len(WRONG_TENSORS)))
def test_tensors_that_do_not_fit(function, name, index):
    names = "|".join((*TENSORS[function], "shapes"))
    with pytest.raises(
        (TypeError, ValueError), match=rf"^({names}|level 0 of starts and shapes) .*(, got |, but value has )"
    ):
        call(function, {name: WRONG_TENSORS[index]})


LEVELS = (
    ({"shapes": None}, TypeError), ({"shapes": 6}, TypeError), ({"shapes": "34"}, TypeError),
    ({"shapes": (3, 4)}, TypeError), ({"shapes": ((3.0, 4.0), (2.0, 3.0))}, TypeError),
    ({"shapes": (("3", "4"), (2, 3))}, TypeError), ({"shapes": ("34", "23")}, TypeError),
    ({"shapes": ((3, 4, 1), (2, 3))}, ValueError), ({"shapes": ((3,), (2, 3))}, ValueError),
    ({"shapes": ((3, None), (2, 3))}, TypeError), ({"shapes": {3: 4, 2: 3}}, TypeError),
    ({"shapes": ((-3, -4), (2, 3))}, ValueError), ({"shapes": ((2**70, 1), (2, 3))}, ValueError),
    ({"shapes": ((float("nan"), 4), (2, 3))}, TypeError), ({"shapes": (torch.tensor([3, 4]), (2, 3))}, TypeError),
    ({"shapes": np.array(SHAPES, np.float32)}, TypeError), ({"starts": 6}, TypeError), ({"starts": "01"}, TypeError),
    ({"starts": (0.0, 12.0)}, TypeError), ({"starts": (0, None)}, TypeError), ({"starts": ((0,), (12,))}, TypeError),
    ({"starts": {0: 12}}, TypeError), ({"starts": (0, 2**70)}, ValueError), ({"starts": (0, -(2**70))}, ValueError),
    ({"starts": ()}, ValueError), ({"starts": np.array([0.0, 12.0])}, TypeError),
    ({"starts": torch.tensor([0, 12])}, TypeError), ({"starts": (torch.tensor(0), 12)}, TypeError),
)  # fmt: skip


@pytest.mark.parametrize("function", [deform_attn, deform_attn_fused])
@pytest.mark.parametrize(("change", "error"), LEVELS, ids=lambda one: str(one)[:40])
def test_level_tables_that_do_not_fit(function, change, error):
    with pytest.raises(error, match=r"shapes|starts"):
        call(function, change)


TABLES = (
    ({"value_spatial_shapes": torch.tensor(SHAPES).float()}, TypeError),
    ({"value_spatial_shapes": torch.tensor(SHAPES)[0]}, ValueError),
    ({"value_spatial_shapes": torch.zeros(0, 2, dtype=torch.int64)}, ValueError),
    ({"value_spatial_shapes": torch.zeros(2, 3, dtype=torch.int64)}, ValueError),
    ({"value_spatial_shapes": torch.tensor(SHAPES, device="meta")}, ValueError),
    ({"value_spatial_shapes": torch.tensor(SHAPES) > 0}, TypeError),
    ({"value_level_start_index": torch.tensor([0.0, 12.0])}, TypeError),
    ({"value_level_start_index": torch.tensor([0])}, ValueError),
    ({"value_level_start_index": torch.tensor([[0, 12]])}, ValueError),
    ({"value_level_start_index": torch.tensor([0, 12], device="meta")}, ValueError),
)
EXCEEDING = (
    {"value_spatial_shapes": torch.tensor([[3, 4], [2, 4]])}, {"value_spatial_shapes": torch.tensor([[3, 4], [0, 4]])},
    {"value_spatial_shapes": torch.tensor([[3, 4], [HUGE, HUGE]])},
    {"value_level_start_index": torch.tensor([0, -1])}, {"value_level_start_index": torch.tensor([0, HUGE])},
)  # fmt: skip


@pytest.mark.parametrize(("change", "error"), TABLES, ids=lambda one: str(one)[:40])
def test_level_tables_in_tensors_that_do_not_fit(change, error):
    (name,) = change
    with pytest.raises(error, match=f"^{name} must "):
        call(ms_deform_attn, change)


@pytest.mark.parametrize("change", EXCEEDING, ids=lambda one: str(one)[:60])
def test_level_tables_in_tensors_that_exceed_value(change):
    with pytest.raises(ValueError, match=r"^(level 1 of starts and shapes covers rows|shapes must hold heights)"):
        call(ms_deform_attn, change)


def test_numpy_integers_and_small_integer_tensors_are_valid():
    expected = call(deform_attn, {})
    for shapes in (np.array(SHAPES), np.array(SHAPES, np.uint8), [list(pair) for pair in SHAPES]):
        assert torch.equal(call(deform_attn, {"shapes": shapes, "starts": np.array([0, 12], np.int32)}), expected)
    small = {"value_spatial_shapes": torch.tensor(SHAPES, dtype=torch.uint8)}
    torch.testing.assert_close(call(ms_deform_attn, small), expected)


@pytest.mark.parametrize("function", TENSORS)
def test_tensors_on_the_meta_device_give_the_size(function):
    p = make_problem(2, 5, 3, 8, 2, SHAPES, fused=function is deform_attn_fused)
    floating = [name for name in TENSORS[function] if not name.startswith("value_")]
    tensors = (p.value, *((p.centers,) if p.centers is not None else ()), p.position, p.score)
    result = call(function, {name: x.to("meta") for name, x in zip(floating, tensors, strict=True)})
    assert result.device.type == "meta" and result.shape == (2, 5, 24)


@pytest.mark.parametrize(
    "arguments", [(0, 1, 1, 1), (8, 0, 1, 1), (8, -2, 1, 1), (8, 2, 0, 1), (8, 2, 1, 0), (8.0, 2, 1, 1), (8, 3, 1, 1)]
)
def test_invalid_sizes_of_the_module(arguments):
    with pytest.raises(ValueError, match=r"^(dim|num_heads|num_levels|num_points) is "):
        MultiScaleDeformableAttention(*arguments)


@pytest.mark.parametrize(("boxes", "axes"), [(False, 4), (True, 2), (True, 3), (False, 1)])
def test_references_of_the_other_form(boxes, axes):
    module = MultiScaleDeformableAttention(24, 3, 2, 2, boxes=boxes)
    value = module.project_value(torch.zeros(2, 18, 24))
    expected = r"boxes \(B, Q, 4\)" if boxes else r"points \(B or 1, Q, 2\)"
    with pytest.raises(ValueError, match=rf"^reference must be {expected}, got \(2, 5, {axes}\)"):
        module(torch.zeros(2, 5, 24), torch.zeros(2, 5, axes), value, SHAPES)

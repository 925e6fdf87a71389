"""CUDA graphs of the network on a CPU: a stand-in for the capture runs a function again and overwrites its result."""

import gc
import sys
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import moving_squares, small_model
from test_session import assert_same
from torch import Tensor
from torch.utils._pytree import tree_leaves

from mdqe import MDQE
from mdqe.inference import graphs
from mdqe.inference.decode import decode_clips
from mdqe.inference.frame_buffer import encode_frames
from mdqe.inference.graphs import Graphs, graphs_of
from mdqe.inference.session import VideoSession
from mdqe.inference.whole import OverlappedSession
from mdqe.ops import kernel_status

sys.path.append(str(Path(__file__).parents[2] / "examples" / "benchmarks"))
from calls import counted

OPTIONS = {"score_threshold": 0.0, "by_window": True, "keep_all": True, "encoder_batch_size": 4, "cuda_graphs": True}


class StandIn:
    """Captures by running a function; counts captures and repetitions."""

    def __init__(self) -> None:
        self.captures = self.replays = 0
        self.error: Exception | None = None

    def __call__(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        if self.error is not None:
            raise self.error
        self.captures += 1
        result = function()

        def replay() -> None:
            self.replays += 1
            for kept, new in zip(tree_leaves(result), tree_leaves(function()), strict=True):
                if isinstance(kept, Tensor):
                    kept.copy_(new)

        return replay, result


@pytest.fixture
def capture() -> StandIn:
    return StandIn()


@pytest.fixture
def model(capture: StandIn, monkeypatch: pytest.MonkeyPatch) -> MDQE:
    model = small_model()
    own = Graphs(model, capture)
    monkeypatch.setattr("mdqe.inference.session.graphs_of", lambda model: own)
    return model


def linear(x: Tensor) -> Tensor:
    return x * 2


@torch.inference_mode()
def test_a_graph_is_captured_at_the_second_call_of_its_shapes(model: MDQE, capture: StandIn) -> None:
    found = Graphs(model, capture)
    for i, size in enumerate((3, 3, 3, 4, 3, 4, 4)):
        x = torch.full((size,), float(i))
        assert torch.equal(found.run(linear, x, "linear"), 2 * x)
    assert (capture.captures, capture.replays) == (2, 5)
    found.run(linear, torch.zeros(3), "another function")
    found.run(linear, torch.zeros(3, dtype=torch.float64), "linear")
    with torch.autocast("cpu", torch.bfloat16):
        found.run(linear, torch.zeros(3), "linear")
    found.run(lambda inputs: linear(inputs[0]), (torch.zeros(3), 1), "linear")
    assert capture.replays == 5


@torch.inference_mode()
def test_few_graphs_are_kept(model: MDQE, capture: StandIn) -> None:
    found = Graphs(model, capture)
    for size in range(1, graphs.MOST_GRAPHS + 3):
        for _ in range(2):
            found.run(linear, torch.zeros(size), "linear")
            found.run(linear, torch.zeros(0), "linear")  # used all the time
    captures = capture.captures
    found.run(linear, torch.zeros(0), "linear")
    found.run(linear, torch.zeros(graphs.MOST_GRAPHS + 2), "linear")
    assert capture.captures == captures
    found.run(linear, torch.zeros(1), "linear")
    assert capture.captures == captures + 1


@torch.inference_mode()
@pytest.mark.parametrize("change", ["in place", "moved"])
def test_changed_weights_drop_the_graphs(change: str, model: MDQE, capture: StandIn) -> None:
    found = Graphs(model, capture)
    for _ in range(3):
        found.run(linear, torch.zeros(3), "linear")
    with torch.inference_mode(False), torch.no_grad():
        model.encoder.level_embed.add_(1) if change == "in place" else model.float()
    for count in (1, 2, 2):
        found.run(linear, torch.zeros(3), "linear")
        assert capture.captures == count


@torch.inference_mode()
def test_out_of_memory_takes_the_plain_way_for_these_shapes(model: MDQE, capture: StandIn) -> None:
    found = Graphs(model, capture)
    capture.error = torch.OutOfMemoryError("CUDA out of memory")
    for _ in range(3):
        assert torch.equal(found.run(linear, torch.ones(3), "linear"), torch.full((3,), 2.0))
    capture.error = None
    found.run(linear, torch.ones(3), "linear")
    assert capture.captures == 0
    for _ in range(2):
        found.run(linear, torch.ones(4), "linear")
    assert capture.captures == 1
    capture.error = RuntimeError("operation not permitted when stream is capturing")
    found.run(linear, torch.ones(5), "linear")
    with pytest.raises(RuntimeError, match="not permitted"):
        found.run(linear, torch.ones(5), "linear")


def test_without_inference_mode_there_are_no_graphs(model: MDQE, capture: StandIn) -> None:
    x = torch.ones(3, requires_grad=True)
    found = Graphs(model, capture)
    for _ in range(3):
        assert found.run(linear, x, "linear").requires_grad
    assert not capture.captures


@pytest.mark.parametrize("kind", [VideoSession, OverlappedSession])
def test_videos_have_the_same_bits(kind: type[VideoSession], model: MDQE, capture: StandIn) -> None:
    video = moving_squares(17)
    expected = list(VideoSession(model, **OPTIONS | {"cuda_graphs": False}).run(video))
    for _ in range(2):  # the second video captures what occurs once in each
        for found, wanted in zip(kind(model, **OPTIONS).run(video), expected, strict=True):
            assert_same(found, wanted)
    assert capture.captures == 5  # encoder: 4 frames, and 1; decoder: 1 clip, 4 clips, and a cut one
    assert capture.replays >= 9


class SlowStandIn(StandIn):
    """Pauses between the inputs and the repetition, so that other threads run."""

    def __call__(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        def slow() -> Any:
            time.sleep(0.005)
            return function()

        return super().__call__(slow)


def test_threads_take_turns(model: MDQE, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two videos of equal size, which share all graphs, have the bits that they have one after the other."""
    capture = SlowStandIn()
    own = Graphs(model, capture)
    monkeypatch.setattr("mdqe.inference.session.graphs_of", lambda model: own)
    videos = [moving_squares(12, (32, 48), seed=seed) for seed in (0, 1)]
    expected = [list(VideoSession(model, **OPTIONS | {"cuda_graphs": False}).run(video)) for video in videos]
    for _ in range(2):
        list(VideoSession(model, **OPTIONS).run(videos[0]))
    captures, capture.replays = capture.captures, 0
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda video: list(VideoSession(model, **OPTIONS).run(video)), videos))
    assert capture.captures == captures > 0 and capture.replays >= 8
    for results, wanted in zip(found, expected, strict=True):
        for one, other in zip(results, wanted, strict=True):
            assert_same(one, other)


def test_a_cpu_has_no_graphs_and_a_model_is_not_kept_alive() -> None:
    model = small_model()
    assert graphs_of(model) is None
    kept = Graphs(model, StandIn())
    with torch.inference_mode():
        for _ in range(2):
            kept.run(linear, torch.zeros(2), "linear")
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_a_model_that_moves_to_another_gpu_has_graphs_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Moving:
        device = torch.device("cuda:0")

    captured: list[torch.device] = []
    monkeypatch.setattr("mdqe.inference.graphs.cuda_capture", captured.append)
    model: Any = Moving()
    first = graphs_of(model)
    assert first is graphs_of(model)
    model.device = torch.device("cuda:1")
    assert graphs_of(model) is not first
    assert captured == [torch.device("cuda:0"), torch.device("cuda:1")]


@torch.inference_mode()
def test_captured_functions_read_nothing_back(model: MDQE) -> None:
    """A transfer between host and device would break the capture."""
    reads = {}

    class Watched(Graphs):
        def run(self, function: Callable[[Any], Any], inputs: Any, *static: Any) -> Any:
            with counted() as found:
                result = function(inputs)
            reads[static[0]] = found
            return result

    watched = Watched(model, StandIn())
    frames = moving_squares(6).permute(0, 3, 1, 2)
    encoded = encode_frames(model, frames, 0, watched)
    list(decode_clips(model, encoded, range(3), 4, watched))
    assert reads.keys() == {"encode", "decode"}
    for found in reads.values():
        assert found.calls.total() > 50
        assert found.waits.total() == 0
        if "cpu" in kernel_status().compiled:  # without kernels, the CPU's operator makes tensors of numbers
            assert not found.calls["aten::lift_fresh"], "a tensor made of numbers is copied to the device"

"""Parts of the network as CUDA graphs: the host starts one graph instead of hundreds of operators.

A graph is bound to the shapes and addresses with which it was captured. So each set of shapes has a graph of its own,
whose inputs are copied to fixed tensors. The tests run this file on a CPU with a stand-in for the capture; on a GPU it
has not been run yet.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only

from mdqe.errors import is_out_of_memory
from mdqe.modeling.network import Network

MOST_GRAPHS = 8
"""Graphs of a model; the one that was not used for longest is dropped for a ninth."""
WARM_UPS = 3  # runs before a capture, in which libraries allocate their workspaces and choose algorithms

Capture = Callable[[Callable[[], Any]], tuple[Callable[[], None], Any]]
"""Runs a function and returns how to repeat it, and its result, which every repetition overwrites."""


class Graph(NamedTuple):
    """A captured function with its fixed tensors."""

    inputs: list[Tensor]
    replay: Callable[[], None]
    result: Any


class Graphs:
    """The graphs of one model.

    A graph is captured at the second call with its shapes, so that shapes that occur once, such as those of the last
    frames of a video, cost nothing. Weights that move or change drop all graphs. If the memory is not enough for a
    capture, these shapes always take the plain way.

    Threads that run one model take turns, because they share the fixed tensors. They must use the same CUDA stream, as
    they do unless the program sets another one.

    Args:
        model: the network, which is not kept alive.
        capture: how to capture.

    Attributes:
        lock: held during `run`. A caller that other threads may disturb holds it until it has copied the result.
    """

    def __init__(self, model: Network, capture: Capture) -> None:
        self.lock = threading.RLock()
        self._model = ref(model)
        self._capture = capture
        self._weights: Hashable = None
        self._graphs: OrderedDict[Hashable, Graph] = OrderedDict()
        self._seen: set[Hashable] = set()
        self._refused: set[Hashable] = set()

    def run(self, function: Callable[[Any], Any], inputs: Any, *static: Hashable) -> Any:
        """Compute function(inputs), by a graph if there is one.

        Args:
            function: reads nothing back from the device and copies nothing to it.
            inputs: tensors in tuples and lists; other values in them are part of the key.
            static: what else the computation depends on, with a name that differs between functions.

        Returns:
            The result. The next call with the same shapes overwrites it if it came from a graph.
        """
        with self.lock:
            return self._run(function, inputs, static)

    def _run(self, function: Callable[[Any], Any], inputs: Any, static: tuple[Hashable, ...]) -> Any:
        leaves, structure = tree_flatten(inputs)
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        self._check_weights()
        shapes = tuple((x.shape, x.dtype, x.device) if isinstance(x, Tensor) else x for x in leaves)
        key = (static, shapes, _modes(tensors[0].device.type))
        if key not in self._graphs:
            if key in self._refused or key not in self._seen or not torch.is_inference_mode_enabled():
                self._seen.add(key)
                return function(inputs)
            try:
                self._graphs[key] = self._captured(function, leaves, structure)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._refused.add(key)
            if key in self._refused:  # not in the handler, where the error still has tensors
                return function(inputs)
            while len(self._graphs) > MOST_GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        graph = self._graphs[key]
        for fixed_tensor, x in zip(graph.inputs, tensors, strict=True):
            fixed_tensor.copy_(x, non_blocking=True)
        graph.replay()
        return graph.result

    def _captured(self, function: Callable[[Any], Any], leaves: list[Any], structure: TreeSpec) -> Graph:
        own = [x.clone(memory_format=torch.contiguous_format) if isinstance(x, Tensor) else x for x in leaves]
        inputs = structure.unflatten(own)
        replay, result = self._capture(lambda: function(inputs))
        return Graph([x for x in own if isinstance(x, Tensor)], replay, result)

    def _check_weights(self) -> None:
        """Drop all graphs if a weight has another address or was changed in place since the last call."""
        model = self._model()
        assert model is not None, "the caller holds the model"
        weights = (*model.parameters(), *model.buffers())
        state = tuple((x.data_ptr(), 0 if x.is_inference() else x._version) for x in weights)
        if state != self._weights:
            self._weights = state
            for known in (self._graphs, self._seen, self._refused):
                known.clear()


def _modes(device: str) -> Hashable:
    """The settings of PyTorch that choose kernels."""
    autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    return autocast, torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()


def copied(result: Any) -> Any:
    """A result that later calls do not overwrite."""
    return tree_map_only(Tensor, Tensor.clone, result)


_OF_MODELS: WeakKeyDictionary[Network, tuple[torch.device, Graphs]] = WeakKeyDictionary()
_OF_MODELS_LOCK = threading.Lock()


def graphs_of(model: Network) -> Graphs | None:
    """The graphs of a model on a GPU, which the sessions of all its videos share; None on other devices."""
    device = model.device
    if device.type != "cuda":
        return None
    with _OF_MODELS_LOCK:
        known = _OF_MODELS.get(model)
        if known is None or known[0] != device:  # the model may have moved to another GPU
            known = _OF_MODELS[model] = device, Graphs(model, cuda_capture(device))
        return known[1]


def cuda_capture(device: torch.device) -> Capture:
    """Capture CUDA graphs of one device, which share one pool of memory: they never run at the same time."""
    pool = torch.cuda.graph_pool_handle()

    def capture(function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        current, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                function()
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # "thread_local": threads that load other data may allocate meanwhile.
        with torch.cuda.device(device), torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            result = function()
        return graph.replay, result

    return capture

"""Files of weights as people have them: wrapped, prefixed, with moving averages, NumPy arrays or Python objects."""

import argparse
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from mdqe.checkpoint import read_checkpoint, read_official
from mdqe.checkpoint.pickles import outline, read_arrays

TENSORS = {"detr.a.weight": torch.rand(2, 3), "detr.b.bias": torch.arange(3)}


def equal(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.fixture
def saved(tmp_path):
    """Write a file of torch.save and read it: the tensors and the lines that were printed."""

    def read(document, **options):
        said = []
        torch.save(document, tmp_path / "x.pth")
        return read_checkpoint(tmp_path / "x.pth", say=said.append, **options).state, said

    return read


# --- prefixes and entries -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.model."])
def test_prefixes_are_removed(saved, prefix):
    state, said = saved({prefix + name: value for name, value in TENSORS.items()})
    assert equal(state, TENSORS)
    (line,) = said
    assert line.startswith("prefixes removed from the names: ") and all(
        part + "." in line for part in prefix.split(".")[:-1]
    )


def test_prefixes_inside_names_of_compiled_parts(saved):
    state, _ = saved({"detr._orig_mod.a.weight": TENSORS["detr.a.weight"], "detr.b.bias": TENSORS["detr.b.bias"]})
    assert equal(state, TENSORS)


def test_names_that_would_become_equal_are_kept(saved):
    state, said = saved({"module.a": torch.ones(1), "module.b": torch.ones(1), "a": torch.zeros(1)})
    assert set(state) == {"module.a", "module.b", "a"} and said == []


def test_lightning(saved):
    document = {
        "epoch": 3, "global_step": 100, "pytorch-lightning_version": "2.4", "hyper_parameters": {"lr": 1e-4},
        "state_dict": {"model." + name: value for name, value in TENSORS.items()} | {"criterion.weight": torch.ones(3)},
        "optimizer_states": [], "loops": None,
    }  # fmt: skip
    state, said = saved(document)
    assert equal(state, {**TENSORS, "criterion.weight": torch.ones(3)})
    assert said == [
        "weights from the entry 'state_dict'; ignored: epoch, global_step, pytorch-lightning_version, "
        "hyper_parameters, optimizer_states, loops",
        "prefixes removed from the names: model.",
    ]


@pytest.mark.parametrize("key", ["model_ema", "ema"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_moving_averages(saved, key, wrapped):
    average = {name: value + 1 for name, value in TENSORS.items()}
    inner = {"module": average} if wrapped else {"module." + name: value for name, value in average.items()}
    state, said = saved({"model": TENSORS, key: inner})
    assert equal(state, TENSORS)
    hint = f"ignored: {key}; --ema takes the moving average '{key}'"
    assert said == [f"weights from the entry 'model'; {hint}"]
    state, said = saved({"model": TENSORS, key: inner}, ema=True)
    assert equal(state, average)
    assert said[0] == f"weights from the entry '{key}'; ignored: model"


def test_a_moving_average_of_the_parameters_alone(saved):
    average = {"detr.a.weight": TENSORS["detr.a.weight"] + 1}
    state, said = saved({"model": TENSORS, "ema": average}, ema=True)
    assert equal(state, {**TENSORS, **average})
    assert said[1] == "1 tensors that the moving average lacks come from 'model'"


def test_a_missing_moving_average(saved):
    with pytest.raises(ValueError, match=r"x\.pth has no moving average of the weights \(model_ema, ema, "):
        saved({"model": TENSORS}, ema=True)


def test_plain_values_beside_tensors_are_passed_over(saved):
    state, said = saved({**TENSORS, "epoch": 3, "name": "best", "loss": 0.5, "none": None})
    assert equal(state, TENSORS)
    assert said == ["ignored, because they are not tensors: epoch, name, loss, none"]


def test_an_empty_entry(saved):
    with pytest.raises(ValueError, match=r"x\.pth contains no entries, expected tensors by name"):
        saved({"state_dict": {}})


class Shadowed:
    """Is pickled as an OrderedDict whose attributes hide its methods."""

    def __init__(self, **entries):
        self.entries = entries

    def __reduce__(self):
        return OrderedDict, (), {"keys": 3, "items": 3, "get": 3}, None, iter(self.entries.items())


def test_attributes_that_hide_methods(saved, tmp_path):
    assert equal(saved(Shadowed(**TENSORS))[0], TENSORS)
    assert equal(saved({"model": Shadowed(**TENSORS)})[0], TENSORS)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Shadowed(a=np.ones(2))))
    assert equal(read_official(tmp_path / "x.pkl"), {"a": torch.ones(2, dtype=torch.float64)})
    with pytest.raises(ValueError, match="contains Python objects other than tensors"):
        saved(Shadowed(**TENSORS, args=argparse.Namespace(lr=1)))


def test_containers_that_contain_themselves(saved, tmp_path):
    document = {}
    document["model"] = document
    with pytest.raises(ValueError, match="contains entries that are not tensors by name: model"):
        saved(document)
    document["args"] = argparse.Namespace(lr=1)
    with pytest.raises(ValueError, match="contains Python objects other than tensors"):
        saved(document)


def test_a_compressed_file_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(10**6))
    with pytest.raises(ValueError, match=r"x\.pth is a compressed zip file, which torch\.save does not write"):
        read_official(tmp_path / "x.pth")


def test_a_stated_size_of_an_old_file_is_not_a_lack_of_memory(tmp_path):
    """4 TB, in a file of PyTorch before 1.6."""
    torch.save({"a": torch.zeros(1000)}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    data = (tmp_path / "x.pth").read_bytes()
    stated = pickle.LONG1 + b"\x06" + (2**40).to_bytes(6, "little")
    (tmp_path / "x.pth").write_bytes(data.replace(pickle.BININT2 + (1000).to_bytes(2, "little"), stated))
    with pytest.raises(ValueError, match="is a truncated or damaged file"):
        read_official(tmp_path / "x.pth")


UNUSUAL = {
    "sparse": lambda: torch.ones(2).to_sparse(),
    "meta": lambda: torch.empty(2, device="meta"),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2)]),
}


@pytest.mark.parametrize("kind", UNUSUAL)
@pytest.mark.filterwarnings("ignore")
def test_unusual_tensors(saved, kind):
    with pytest.raises(ValueError, match=r"x\.pth has a sparse, quantized or nested .* as w, expected numbers"):
        saved({"model": {"w": UNUSUAL[kind]()}})


# --- NumPy ----------------------------------------------------------------------------------------------------------

ARRAYS = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "half": np.ones(2, np.float16),
    "ids": np.array([1, -2], np.int64),
    "big": np.array([1.5, 2.5], ">f4"),
    "flags": np.array([True, False]),
    "scalar": np.array(3.0),
    "empty": np.zeros((0, 4), np.float32),
}
ARRAY_TENSORS = {name: torch.from_numpy(np.array(a, a.dtype.newbyteorder("="))) for name, a in ARRAYS.items()}


@pytest.mark.parametrize("protocol", range(2, 6))
def test_pickles_of_arrays(tmp_path, protocol):
    """Such as those of detectron2."""
    document = {"model": ARRAYS, "__author__": "someone", "matching_heuristics": True}
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(document, protocol=protocol))
    assert equal(read_official(tmp_path / "x.pkl"), ARRAY_TENSORS)


def test_pickles_of_python_2(tmp_path):
    """Their arrays are texts, and the module of NumPy has its old name."""
    data = pickle.dumps({"w": ARRAYS["weight"]}, protocol=2).replace(
        b"numpy._core.multiarray", b"numpy.core.multiarray"
    )
    assert b"_codecs" in data
    (tmp_path / "x.pkl").write_bytes(data)
    assert equal(read_official(tmp_path / "x.pkl"), {"w": ARRAY_TENSORS["weight"]})


def test_arrays_and_numpy_numbers_in_a_torch_file(saved):
    document = {"state_dict": {**TENSORS, **ARRAYS}, "best": np.float64(0.5), "epoch": np.int64(3)}
    assert equal(saved(document)[0], {**TENSORS, **ARRAY_TENSORS})


def _pickled(*steps) -> bytes:
    """A pickle that calls functions: each step is (module, name, arguments, state)."""

    class Call:
        def __init__(self, function, arguments, state):
            self.parts = (function, arguments, state)

        def __reduce__(self):
            return self.parts

    return pickle.dumps({str(i): Call(*step) for i, step in enumerate(steps)})


HOSTILE = {
    "a huge shape": ((2**40,), b"\0" * 8),
    "a negative shape": ((-1, -8), b"\0" * 8),
    "too few bytes": ((4,), b"\0" * 8),
    "objects": ((2,), [1, 2]),
    "no shape": (None, b"\0" * 8),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_arrays(tmp_path, case):
    """Nothing is allocated by a size that a file states."""
    shape, data = HOSTILE[case]
    reconstruct = np._core.multiarray._reconstruct
    state = (1, shape, np.dtype("f4"), False, data)
    (tmp_path / "x.pkl").write_bytes(_pickled((reconstruct, (np.ndarray, (2**40,), b"b"), state)))
    with pytest.raises(ValueError, match="contains Python objects other than tensors"):
        read_official(tmp_path / "x.pkl")


@pytest.mark.parametrize("what", ["dtype of objects", "class", "function"])
def test_arrays_admit_nothing_else(tmp_path, what):
    ran = tmp_path / "ran"
    value = {"dtype of objects": np.array([{}]), "class": argparse.Namespace(a=1)}.get(what)
    data = pickle.dumps({"w": value}) if what != "function" else _pickled((open, (str(ran), "w"), None))
    with pytest.raises(pickle.UnpicklingError):
        read_arrays(data)
    assert not ran.exists()


def test_pickles_do_not_change_functions():
    """A state for a function would set its attributes, such as the defaults of its arguments."""
    function = b"c_codecs\nencode\n"
    with pytest.raises(pickle.UnpicklingError):
        read_arrays(function + b"(N}V__defaults__\n(Vx\ntstb.")
    assert read_arrays(function + b"(V1\ntR.") == b"1"


def test_a_stated_size_is_not_allocated():
    frame = b"\x80\x05" + pickle.BYTEARRAY8 + (2**46).to_bytes(8, "little") + b"."
    with pytest.raises((pickle.UnpicklingError, EOFError)):
        read_arrays(frame)
    with pytest.raises((pickle.UnpicklingError, EOFError)):
        read_arrays(b"\x80\x05" + pickle.BINBYTES8 + (2**46).to_bytes(8, "little") + b".")
    assert read_arrays(b"\x80\x04" + pickle.LONG_BINPUT.join([b"N", (2**31).to_bytes(4, "little") + b"."])) is None


# --- files with objects ---------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 2)


def objects():
    net = Net()
    run = argparse.Namespace(lr=1)
    return {
        "beside the weights": ({"model": TENSORS, "args": run}, TENSORS),
        "Lightning": ({"state_dict": OrderedDict(TENSORS), "hyper_parameters": {"run": run}}, TENSORS),
        "among the weights": ({**TENSORS, "args": run}, TENSORS),
        "a module": (net, net.state_dict()),
        "a module in an entry": ({"epoch": 1, "model": net}, net.state_dict()),
        "a nested entry": ({"ema": {"state_dict": TENSORS, "args": run}}, TENSORS),
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("case", objects())
def test_the_statement_of_the_message_saves_the_tensors(tmp_path, case, zipped):
    document, expected = objects()[case]
    path = tmp_path / "it's mine.pth"
    torch.save(document, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="unpickling them can run arbitrary code") as raised:
        read_official(path)
    message = str(raised.value)
    assert "\n" not in message
    assert ("a whole " in message) == ("module" in case)
    exec(message.partition("where it was made: ")[2], {})
    assert equal(read_official(tmp_path / "it's mine.tensors.pth"), expected)


def test_the_statement_for_a_pickle_with_objects(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"model": ARRAYS, "run": argparse.Namespace()}))
    with pytest.raises(ValueError) as raised:
        read_official(path)
    exec(str(raised.value).partition("where it was made: ")[2], {})
    assert equal(read_official(tmp_path / "x.tensors.pth"), ARRAY_TENSORS)


def test_an_outline_runs_nothing(tmp_path):
    ran = tmp_path / "ran"
    (tmp_path / "x.pkl").write_bytes(_pickled((open, (str(ran), "w"), None)))
    assert set(outline(tmp_path / "x.pkl")) == {"0"}
    assert not ran.exists()
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02garbage")
    assert outline(tmp_path / "x.pkl") is None


# --- checkpoints of this library ------------------------------------------------------------------------------------


def run_checkpoint(average):
    return {
        "step": 7, "batch": 2, "config": {"hidden_dim": 32}, "model": TENSORS, "optimizer": {}, "scaler": {},
        "average": average, "random": None, "interval": {},
    }  # fmt: skip


def test_a_checkpoint_of_a_run(tmp_path):
    said, path = [], tmp_path / "checkpoint.pt"
    torch.save(run_checkpoint(None), path)
    found = read_checkpoint(path, say=said.append)
    assert equal(found.state, TENSORS) and found.fields == {"hidden_dim": 32}
    assert said == ["checkpoint of mdqe train after step 7"]
    with pytest.raises(ValueError, match="the run was started without --ema"):
        read_checkpoint(path, ema=True)


def test_a_run_with_a_moving_average(tmp_path):
    """Training saves the average as the model, so the average is taken."""
    said, path = [], tmp_path / "checkpoint.pt"
    torch.save(run_checkpoint({"detr.a.weight": torch.zeros(2, 3)}), path)
    assert equal(read_checkpoint(path, say=said.append).state, {**TENSORS, "detr.a.weight": torch.zeros(2, 3)})
    assert said == ["checkpoint of mdqe train after step 7: the moving average of the weights"]

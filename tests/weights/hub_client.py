"""A process that loads and pushes a small model with the real Hub client. Requests are lines of JSON on standard input.

The client reads HF_ENDPOINT when it is imported, so it cannot run in the process of the tests.
"""

import json
import sys

import torch
from torch import nn

from mdqe.config import MDQEConfig
from mdqe.weights.hub import PretrainedMixin


class SmallModel(PretrainedMixin):
    """Every kind of state that a model can have: parameters, a shared parameter, and both kinds of buffers."""

    def __init__(self, config: MDQEConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.embed_dim, config.hidden_dim)
        self.classify = nn.Linear(config.hidden_dim, config.num_classes)
        self.again = self.embed
        self.scale = nn.Parameter(torch.full((3,), 2.0))
        self.register_buffer("mean", torch.tensor(config.pixel_mean))
        self.register_buffer("table", torch.arange(4.0) / 8, persistent=False)


def digest(model: nn.Module) -> float:
    """A number that changes with any value of the state."""
    tensors = [*model.state_dict().values(), model.table]
    return sum(float((t.double().flatten() * torch.arange(1, t.numel() + 1)).sum()) for t in tensors)


def answer(call: str, name: str, options: dict) -> dict:
    if call == "publish":
        from mdqe.weights.publish import publish

        return {"url": publish(options.pop("folder"), name, **options)}
    if call == "push":
        model = SmallModel.from_pretrained(options.pop("folder"))
        return {"url": model.push_to_hub(name, **options)}
    model = SmallModel.from_pretrained(name, **options)
    return {"digest": digest(model), "num_classes": model.config.num_classes, "training": model.training}


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        try:
            result = answer(request["call"], request["name"], request["options"])
        except Exception as error:
            result = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()

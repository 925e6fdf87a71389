"""`MDQE.compile`: torch.compile on the parts of the model that gain from it."""

from __future__ import annotations

from typing import Any

from torch import nn

COMPILED_PARTS = ("backbone", "encoder", "decoder", "mask_head")
"""Attributes that are compiled; docs/export.md has what each gains."""


class CompileMixin(nn.Module):
    """Compiling for a module that has the attributes `COMPILED_PARTS`."""

    def compile(self, *, dynamic: bool | None = None, **options: Any) -> None:
        """Compile, in place, the parts that gain from it (`COMPILED_PARTS`), each on its first call.

        Results are equal but for rounding; names of weights, saving and loading are as before. The first frames take
        minutes, and so may the first of another size or number.

        Args:
            dynamic: True: one program for all sizes and lengths; None: one for the first, and where others follow one
                for all of those.
            **options: further ones of `torch.compile`, such as `mode` or `backend`.
        """
        for name in COMPILED_PARTS:
            getattr(self, name).compile(dynamic=dynamic, fullgraph=True, **options)

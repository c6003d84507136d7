"""16-bit arithmetic as a GPU does it, on a CPU: inside `with Rounded(dtype):` every operator whose inputs are of that type is computed in
float32 and its result rounded once. PyTorch 1.13's own CPU kernels are no reference for this: float16 has none, and the bfloat16 ones
accumulate some matrix products, and round scalar factors, in bfloat16."""
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

MOVES_ONLY = {"view", "_unsafe_view", "reshape", "transpose", "t", "permute", "expand", "slice", "select", "cat", "clone",
              "copy_", "index", "embedding", "detach", "unsqueeze", "squeeze", "alias", "_to_copy", "split", "unbind",
              "empty", "full", "zeros", "ones", "contiguous", "as_strided", "_reshape_alias", "split_with_sizes",
              "lift_fresh", "masked_fill", "masked_fill_", "fill_", "triu", "constant_pad_nd", "stack"}


class Rounded(TorchDispatchMode):
    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        seen = []

        def widen(x):
            if isinstance(x, torch.Tensor) and x.dtype == self.dtype:
                seen.append(x)
                return x.float()
            return x

        def narrow(x):
            return x.to(self.dtype) if isinstance(x, torch.Tensor) and x.dtype == torch.float32 else x

        if name in MOVES_ONLY:
            return func(*args, **kwargs)
        wide_args, wide_kwargs = tree_map(widen, args), tree_map(widen, kwargs)
        if not seen:
            return func(*args, **kwargs)
        assert not name.endswith("_"), "in-place operator %s is not emulated" % name
        others = [x for x in args if isinstance(x, torch.Tensor) and x.is_floating_point() and x.ndim > 0]
        result = func(*wide_args, **wide_kwargs)
        if any(x.dtype != self.dtype for x in others):        # ordinary promotion: with f32 it gives f32
            return result
        return tree_map(narrow, result)

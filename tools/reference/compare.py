"""Compares freshly made golden files with the committed ones; exits 1 on a difference.

Ids, texts, pictures and masks must be equal. Numbers may differ by the order of summation: float32 files by 2e-4 of
the tensor's largest value, reduced precision by one part in 32 (a rounding step or two, seen through a few layers).
"""
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file as load_torch


def load_file(path):
    """As numpy arrays; bfloat16, which numpy does not have, as float32."""
    tensors = torch.load(path) if path.suffix == ".bin" else load_torch(path)
    return {name: (t.float() if t.dtype == torch.bfloat16 else t).numpy() for name, t in tensors.items()}


fresh, committed = Path(sys.argv[1]), Path(sys.argv[2])
bad = 0
for path in sorted(p for p in fresh.rglob("*") if p.is_file()):
    other = committed / path.relative_to(fresh)
    problem = ""
    if not other.exists():
        problem = "is not committed"
    elif path.suffix in (".safetensors", ".bin"):
        a, b = load_file(path), load_file(other)
        if a.keys() != b.keys():
            problem = "other tensors: %s" % (a.keys() ^ b.keys())
        for name in a.keys() & b.keys():
            bound = 1 / 32 if path.stem.endswith(("_bf16", "_f16")) or name.endswith(".bf16") else 2e-4
            if a[name].shape != b[name].shape or a[name].dtype != b[name].dtype:
                problem = "%s: other shape or type" % name
            elif a[name].dtype.kind != "f":
                problem = problem if np.array_equal(a[name], b[name]) else "%s differs" % name
            elif a[name].size:
                gap = np.abs(a[name] - b[name]).max() / max(np.abs(b[name]).max(), 1e-6)
                if not gap <= bound and name.split(".")[-1] != "min_margin":
                    problem = "%s differs by %.1e" % (name, gap)
    elif path.suffix == ".png":
        problem = "" if np.array_equal(np.array(Image.open(path)), np.array(Image.open(other))) else "pixels differ"
    elif path.read_bytes() != other.read_bytes():
        problem = "text differs"
    bad += bool(problem)
    print("%-36s %s" % (path.relative_to(fresh), problem or "same"))
sys.exit(1 if bad else 0)

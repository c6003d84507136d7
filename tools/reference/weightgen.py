"""Weights by formula: a tensor's name and shape give its values, in Python and in C alike.

Full-size networks can so be compared without shipping gigabytes. For a tensor called `name`, element i of
the row-major flattened tensor is

    h = FNV-1a-64(name);  z = mix(h + (i + 1) * 0x9E3779B97F4A7C15)   (mix = splitmix64's finaliser)
    u = (z >> 40) / 2^23 - 1                                          (in [-1, 1), exact in float32)
    value = float32(offset + scale * u)                               (in double, rounded once)

`rule` gives offset and scale; the same table stands in tests/support/weightgen.c. Scales are chosen so
that activations stay of order one through the real depth of every network.
"""
import math

import numpy as np

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
EMBEDDING_SUFFIXES = ("embed_tokens.weight", "class_embedding", "position_embedding.weight", "pos_embed",
                      "_token.weight", "_tokens.weight", "_embed.weight")


def fnv1a64(text):
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return h


def rule(name, shape):
    """(offset, scale) as float32 values; the first line that fits decides."""
    if name.startswith("input"):                       # network inputs: unit variance
        offset, scale = 0.0, math.sqrt(3.0)
    elif name.endswith("running_var"):
        offset, scale = 1.0, 0.3
    elif name.endswith("running_mean"):
        offset, scale = 0.0, 0.1
    elif name.endswith("bias"):
        offset, scale = 0.0, 0.05
    elif name.endswith("gaussian_matrix"):
        offset, scale = 0.0, math.sqrt(3.0)
    elif "rel_pos" in name:
        offset, scale = 0.0, 0.1
    elif name.endswith(EMBEDDING_SUFFIXES) or "point_embeddings." in name:
        offset, scale = 0.0, 0.5
    elif len(shape) <= 1:                              # norm weights
        offset, scale = 1.0, 0.1
    elif "output_upscaling" in name and len(shape) == 4:   # transposed convolutions, [in, out, 2, 2]
        offset, scale = 0.0, math.sqrt(3.0 / shape[0])
    else:                                              # linear [out, in], convolution [out, in, kh, kw]
        offset, scale = 0.0, math.sqrt(3.0 / math.prod(shape[1:]))
    return np.float32(offset), np.float32(scale)


def weight(name, shape):
    """The tensor `name` of `shape` as a float32 numpy array."""
    shape = tuple(int(n) for n in shape)
    count = math.prod(shape)
    offset, scale = (float(v) for v in rule(name, shape))
    out = np.empty(count, np.float32)
    h = np.uint64(fnv1a64(name))
    step = 1 << 20
    with np.errstate(over="ignore"):
        for start in range(0, count, step):
            stop = min(start + step, count)
            z = h + np.arange(start + 1, stop + 1, dtype=np.uint64) * GOLDEN
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z ^= z >> np.uint64(31)
            u = (z >> np.uint64(40)).astype(np.float64) * 2.0 ** -23 - 1.0
            out[start:stop] = offset + scale * u
    return out.reshape(shape)


def tensor(name, shape):
    import torch
    return torch.from_numpy(weight(name, shape))


def fill(module, prefix=""):
    """Sets every parameter and floating buffer of a torch module to its formula value, by its name."""
    import torch
    with torch.no_grad():
        for name, value in module.state_dict(keep_vars=True).items():
            if value.is_floating_point():
                value.data.copy_(tensor(prefix + name, value.shape))
    return module


EXAMPLES = {  # one tensor for each rule; their first values are the golden weightgen.safetensors
    "input": (2, 3, 5), "input.text": (1, 1, 32), "bn1.running_var": (7,), "bn1.running_mean": (7,), "conv1.bias": (9,),
    "pe_layer.positional_encoding_gaussian_matrix": (2, 4), "blocks.0.attn.rel_pos_h": (5, 3),
    "model.embed_tokens.weight": (6, 4), "embeddings.class_embedding": (8,), "mask_decoder.iou_token.weight": (1, 6),
    "prompt_encoder.point_embeddings.2.weight": (1, 5), "prompt_encoder.no_mask_embed.weight": (1, 5),
    "image_encoder.pos_embed": (1, 2, 2, 3), "model.norm.weight": (11,), "layer1.0.bn2.weight": (4,),
    "mask_decoder.output_upscaling.0.weight": (6, 3, 2, 2), "mask_decoder.output_upscaling.1.weight": (3,),
    "conv1.weight": (2, 3, 7, 7), "model.layers.0.self_attn.q_proj.weight": (4, 10),
    "region_encoder.roi_align.pos_embedd.3.weight": (3, 4),
    "mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight": (4, 8),
}


if __name__ == "__main__":
    import sys
    from safetensors.numpy import save_file
    save_file({name: weight(name, shape) for name, shape in EXAMPLES.items()}, sys.argv[1])

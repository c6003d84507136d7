"""The tiny checkpoint's stage 1 as llama.cpp's converters would write a LLaVA 1.5: one GGUF file with the language model, one ("mmproj") with
CLIP and the projector. Names and keys are those of llama.cpp's convert_hf_to_gguf.py and legacy-models/convert_image_encoder_to_gguf.py; the
files are written by the official gguf package.

Usage: make_llava_gguf.py OUT_DIR [--files DIR]   writes OUT_DIR/llava_lm.head, llava_mmproj.head and llava.json (tests/golden/gguf);
                                                  --files keeps the whole files, too
       make_llava_gguf.py --check OUT_DIR         compares the committed files with what this program makes now

The .head files are the bytes in front of the tensors' data. tests/e2e/test_llava.c puts the data behind them from models/tiny and compares the
SHA-256 of the whole, which is in llava.json, so the names' meaning, the order of rows and the rounding are checked byte for byte.
"""
import hashlib
import json
import os
import sys
import tempfile

import numpy as np
import sentencepiece
import torch
from gguf import GGMLQuantizationType as Q, GGUFReader, GGUFWriter
from gguf.quants import quantize
from safetensors.numpy import load_file

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
TINY = os.path.join(ROOT, "models", "tiny")


def permute(w, heads):
    """Rows of each head: halves become neighbours, as the architecture "llama" rotates them."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def add(writer, name, data, kind):
    if data.ndim < 2:
        writer.add_tensor(name, np.ascontiguousarray(data, dtype=np.float32))
    elif kind == Q.F16:
        writer.add_tensor(name, np.ascontiguousarray(data.astype(np.float16)))
    else:
        writer.add_tensor(name, quantize(np.ascontiguousarray(data, dtype=np.float32), kind), raw_dtype=kind)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def load_lm():
    folder = os.path.join(TINY, "DTE-FDM")
    tensors = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith(".safetensors"):
            tensors.update(load_file(os.path.join(folder, name)))
    with open(os.path.join(folder, "config.json")) as f:
        return tensors, json.load(f)


def write_lm(path, t, c):
    w = GGUFWriter(path, "llama")
    w.add_name("LLaVA tiny")
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_block_count(c["num_hidden_layers"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_rope_dimension_count(c["hidden_size"] // c["num_attention_heads"])
    w.add_head_count(c["num_attention_heads"])
    w.add_head_count_kv(c["num_key_value_heads"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_file_type(1)
    sp = sentencepiece.SentencePieceProcessor(os.path.join(TINY, "DTE-FDM", "tokenizer.model"))
    pieces, scores, kinds = [], [], []
    for i in range(c["vocab_size"]):
        pieces.append(sp.id_to_piece(i).encode())
        scores.append(sp.get_score(i))
        kinds.append(2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 5 if sp.is_unused(i) else 6 if sp.is_byte(i) else 1)
    w.add_tokenizer_model("llama")
    w.add_tokenizer_pre("default")
    w.add_token_list(pieces)
    w.add_token_scores(scores)
    w.add_token_types(kinds)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    w.add_add_bos_token(True)
    w.add_add_eos_token(False)
    names = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
             "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    add(w, "token_embd.weight", t["model.embed_tokens.weight"], Q.F16)
    for i in range(c["num_hidden_layers"]):
        for theirs, ours in names.items():
            data = t[f"model.layers.{i}.{theirs}.weight"]
            if ours in ("attn_q", "attn_k"):
                data = permute(data, c["num_attention_heads" if ours == "attn_q" else "num_key_value_heads"])
            add(w, f"blk.{i}.{ours}.weight", data, Q.Q8_0 if (i, ours) == (1, "attn_v") else Q.F16)  # one that is packed
    add(w, "output_norm.weight", t["model.norm.weight"], Q.F16)
    add(w, "output.weight", t["lm_head.weight"], Q.F16)
    finish(w)


def write_mmproj(path, lm):
    folder = os.path.join(TINY, "clip-vit-tiny")
    t = {k: v.float().numpy() for k, v in torch.load(os.path.join(folder, "pytorch_model.bin")).items() if v.is_floating_point()}
    with open(os.path.join(folder, "config.json")) as f:
        c = json.load(f)["vision_config"]
    layers = c["num_hidden_layers"] - 1  # LLaVA never reads the last one, and the converter leaves it out
    w = GGUFWriter(path, "clip")
    w.add_bool("clip.has_text_encoder", False)
    w.add_bool("clip.has_vision_encoder", True)
    w.add_bool("clip.has_llava_projector", True)
    w.add_file_type(1)
    w.add_name("clip-vit-tiny")
    w.add_description("image encoder for LLaVA")
    w.add_string("clip.projector_type", "mlp")
    w.add_uint32("clip.vision.image_size", c["image_size"])
    w.add_uint32("clip.vision.patch_size", c["patch_size"])
    w.add_uint32("clip.vision.embedding_length", c["hidden_size"])
    w.add_uint32("clip.vision.feed_forward_length", c["intermediate_size"])
    w.add_uint32("clip.vision.projection_dim", c["projection_dim"])
    w.add_uint32("clip.vision.attention.head_count", c["num_attention_heads"])
    w.add_float32("clip.vision.attention.layer_norm_epsilon", c["layer_norm_eps"])
    w.add_uint32("clip.vision.block_count", layers)
    w.add_array("clip.vision.feature_layer", [layers])
    w.add_array("clip.vision.image_mean", [0.48145466, 0.4578275, 0.40821073])
    w.add_array("clip.vision.image_std", [0.26862954, 0.26130258, 0.27577711])
    w.add_bool("clip.use_gelu", c["hidden_act"] == "gelu")
    for i in (0, 2):
        for kind in ("weight", "bias"):
            add(w, f"mm.{i}.{kind}", lm[f"model.mm_projector.{i}.{kind}"], Q.F16)
    add(w, "v.class_embd", t["vision_model.embeddings.class_embedding"], Q.F16)
    add(w, "v.patch_embd.weight", t["vision_model.embeddings.patch_embedding.weight"], Q.F16)
    add(w, "v.position_embd.weight", t["vision_model.embeddings.position_embedding.weight"], Q.F16)
    for kind in ("weight", "bias"):
        add(w, f"v.pre_ln.{kind}", t[f"vision_model.pre_layrnorm.{kind}"], Q.F16)
    names = {"self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.q_proj": "attn_q", "self_attn.out_proj": "attn_out",
             "layer_norm1": "ln1", "mlp.fc1": "ffn_down", "mlp.fc2": "ffn_up", "layer_norm2": "ln2"}  # so has the converter named them
    for i in range(layers):
        for theirs, ours in names.items():
            for kind in ("weight", "bias"):
                add(w, f"v.blk.{i}.{ours}.{kind}", t[f"vision_model.encoder.layers.{i}.{theirs}.{kind}"], Q.F16)
    finish(w)


def make(out, files):
    lm, config = load_lm()
    sums = {}
    for name, write in (("llava_lm", lambda p: write_lm(p, lm, config)), ("llava_mmproj", lambda p: write_mmproj(p, lm))):
        path = os.path.join(files, name + ".gguf")
        write(path)
        start = min(t.data_offset for t in GGUFReader(path).tensors)
        with open(path, "rb") as f:
            data = f.read()
        with open(os.path.join(out, name + ".head"), "wb") as f:
            f.write(data[:start])
        sums[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    with open(os.path.join(out, "llava.json"), "w") as f:
        json.dump(sums, f, indent=1)
        f.write("\n")


def main():
    if sys.argv[1] == "--check":
        with tempfile.TemporaryDirectory() as out:
            make(out, out)
            for name in ("llava_lm.head", "llava_mmproj.head", "llava.json"):
                with open(os.path.join(out, name), "rb") as a, open(os.path.join(sys.argv[2], name), "rb") as b:
                    if a.read() != b.read():
                        sys.exit(f"{name} differs")
        print("as committed")
        return
    with tempfile.TemporaryDirectory() as temporary:
        make(sys.argv[1], sys.argv[3] if len(sys.argv) > 3 else temporary)


main()

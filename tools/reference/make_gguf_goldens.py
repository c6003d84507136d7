"""GGUF files for the tests, written by the official gguf package (ggml-org, 0.17.1), and what it reads from them.

Usage: make_gguf_goldens.py OUT_DIR           writes tests/golden/gguf
       make_gguf_goldens.py --check OUT_DIR   compares the committed files with what this program makes now
       make_gguf_goldens.py --read FILE       opens any GGUF file with the package, dequantizes every tensor and,
                                              if it carries them, compares the checksums of FakeShield's bundles

  fields.gguf      every type of metadata value; a scalar, F32 to I64 tensors; alignment 64
  fields_v2.gguf   the same file with version 2 in its head (the layout did not change from 2 to 3)
  blocks.gguf      one tensor of every block type. Q8_0, Q4_0, Q4_1, Q5_0, Q5_1: the package's quantization of
                   "input"; Q4_K, Q5_K, Q6_K, which it cannot make: blocks of random bits with finite scales
  blocks.safetensors   "input" [rows, 512], and under each block type's name the package's dequantization
  bundle.gguf      what FakeShield's writer must give byte for byte: same fields, tensors and checksums, put
                   together here with the package and hashlib (tests/unit/test_gguf.c writes the same content)
"""
import hashlib
import os
import sys
import tempfile

import numpy as np
from gguf import GGMLQuantizationType as Q, GGUFReader, GGUFValueType as V, GGUFWriter
from gguf.quants import dequantize, quantize
from safetensors.numpy import load_file, save_file

MADE = [Q.Q8_0, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1]
RANDOM = {Q.Q4_K: (144, [0, 2]), Q.Q5_K: (176, [0, 2]), Q.Q6_K: (210, [208])}  # bytes of a block, where its f16 numbers stand


class Writer(GGUFWriter):
    """Fields in exactly the order given, without the package's own."""

    def add_architecture(self):
        pass


def finish(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def block_input():
    r = np.random.default_rng(20240607)
    rows = [r.normal(size=512) * 0.02, r.laplace(size=512) * 0.05, r.standard_t(2, size=512)]
    zeros = np.zeros(512)
    zeros[:32] = -0.0
    zeros[100] = 1
    zeros[200] = -1
    ties = np.concatenate([np.tile(np.arange(16) - 7.5, 30), np.array([127, -127] + [0.5, 1.5, -0.5, -2.5] * 7 + [126.5, -126.5])])
    scales = r.normal(size=512) * np.repeat(10.0 ** np.arange(-11, 5), 32)
    rows += [zeros, ties, scales, np.abs(r.normal(size=512)) + 3, -np.abs(r.normal(size=512)) - 3, np.full(512, 0.25)]
    return np.concatenate([np.array(rows, dtype=np.float32), half_way(r)])


def half_way(r):
    """A row whose values stand a few units in the last place from Q4_0's half-way points: rounding twice gives other codes."""
    most = (1 + r.random((16, 1))).astype(np.float32)
    k = r.integers(-7, 7, size=(16, 32)) + 0.5
    x = (most.astype(np.float64) * k / -8).astype(np.float32)
    x = (x.view(np.int32) + r.integers(-2, 3, size=x.shape)).astype(np.int32).view(np.float32)
    x[:, 5] = most[:, 0]
    inverse = np.float32(1) / (most / np.float32(-8))
    once, twice = (x.astype(np.float64) * inverse + 8.5).astype(np.float32), x * inverse + np.float32(8.5)
    assert (np.trunc(once) != np.trunc(twice)).sum() > 10
    return x.reshape(1, 512)


def random_blocks(kind, rows, per_row):
    size, halves = RANDOM[kind]
    r = np.random.default_rng(kind.value)
    blocks = r.integers(0, 256, size=(rows * per_row, size), dtype=np.uint8)
    for at in halves:  # any finite f16, subnormals and zeros of both signs among them
        h = r.integers(0, 0x7C00, size=rows * per_row).astype(np.uint16) | (r.integers(0, 2, size=rows * per_row) << 15).astype(np.uint16)
        h[:4] = [0, 0x8000, 1, 0x7BFF]
        blocks[:, at:at + 2] = h.astype("<u2").view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, per_row * size)


def write_blocks(out):
    x = block_input()
    w = Writer(os.path.join(out, "blocks.gguf"), "")
    w.add_string("general.architecture", "test")
    expected = {"input": x}
    for kind in MADE:
        data = quantize(x, kind)
        w.add_tensor(kind.name, data, raw_dtype=kind)
        expected[kind.name] = dequantize(data, kind)
    for kind in RANDOM:
        data = random_blocks(kind, 5, 2)
        w.add_tensor(kind.name, data, raw_dtype=kind)
        expected[kind.name] = dequantize(data, kind)
    finish(w)
    save_file(expected, os.path.join(out, "blocks.safetensors"))


def write_fields(out):
    w = Writer(os.path.join(out, "fields.gguf"), "")
    w.add_string("general.architecture", "test")
    w.add_custom_alignment(64)
    w.add_uint8("a.u8", 200)
    w.add_int8("a.i8", -100)
    w.add_uint16("a.u16", 60000)
    w.add_int16("a.i16", -30000)
    w.add_uint32("a.u32", 4000000000)
    w.add_int32("a.i32", -2000000000)
    w.add_uint64("a.u64", 2 ** 64 - 1)
    w.add_int64("a.i64", -2 ** 62)
    w.add_float32("a.f32", 0.1)
    w.add_float64("a.f64", 0.1)
    w.add_bool("a.true", True)
    w.add_bool("a.false", False)
    w.add_string("a.string", "f\u00e4lschung \u2713")
    w.add_key_value("a.empty", "", V.STRING)
    w.add_array("b.strings", ["one", "", "\u4e09", "four"])
    w.add_key_value("b.u8", bytes(range(5)), V.ARRAY)
    w.add_key_value("b.i16", [-1, 2, -3], V.ARRAY, V.INT16)
    w.add_array("b.f32", [0.5, -1.25])
    w.add_array("b.i32", [1, -2, 3])
    w.add_array("b.bool", [True, False, True])
    w.add_key_value("b.u64", [2 ** 63], V.ARRAY, V.UINT64)
    w.add_key_value("b.f64", [0.1], V.ARRAY, V.FLOAT64)
    w.add_array("b.nested", [[1, 2], [3]])
    count = np.arange(24)
    w.add_tensor("f32", (count / 8).astype(np.float32).reshape(2, 3, 4))
    w.add_tensor("f16", (count / 8).astype(np.float16).reshape(4, 6))
    w.add_tensor("bf16", quantize((count / 8).astype(np.float32).reshape(1, 24), Q.BF16), raw_shape=(1, 48), raw_dtype=Q.BF16)
    for kind in (np.float64, np.int8, np.int16, np.int32, np.int64):
        w.add_tensor(np.dtype(kind).name, (count - 12).astype(kind))
    w.add_tensor("scalar", np.array(2.5, dtype=np.float32))
    finish(w)
    with open(os.path.join(out, "fields.gguf"), "rb") as f:
        data = f.read()
    with open(os.path.join(out, "fields_v2.gguf"), "wb") as f:
        f.write(data[:4] + b"\2\0\0\0" + data[8:])


def formula(n):
    return (((np.arange(n) * 37 + 11) % 101 - 50) / 64).astype(np.float32)


HEADER_SUM, TENSOR_SUMS, ZEROS = "fakeshield.header_sha256", "fakeshield.tensor_sha256", "0" * 64


def write_bundle(out):
    path = os.path.join(out, "bundle.gguf")
    tensors = [("token_embd.weight", (3, 5), Q.F32), ("blk.0.attn_q.weight", (2, 64), Q.Q8_0), ("blk.0.attn_k.weight", (4, 32), Q.Q4_0),
               ("conv.weight", (2, 3, 4, 1), Q.F16), ("blk.0.ffn_norm.weight", (7,), Q.F32), ("empty", (0, 4), Q.F32), ("half.weight", (2, 3), Q.BF16)]
    data = [quantize(formula(int(np.prod(shape))).reshape(shape), kind) for _, shape, kind in tensors]
    w = Writer(path, "")
    w.add_string(HEADER_SUM, ZEROS)
    w.add_string("general.architecture", "llama")
    w.add_uint32("llama.block_count", 40)
    w.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    w.add_int32("test.i32", -7)
    w.add_uint64("test.u64", 2 ** 40)
    w.add_bool("test.bool", True)
    w.add_key_value("test.empty", "", V.STRING)
    w.add_array("tokenizer.ggml.tokens", ["<unk>", "<s>", "\u2581a"])
    w.add_array("tokenizer.ggml.scores", [0.0, -1.5])
    w.add_array("tokenizer.ggml.token_type", [2, 3, 1])
    w.add_key_value("fakeshield.file", b"raw\0bytes", V.ARRAY)
    w.add_array(TENSOR_SUMS, [hashlib.sha256(d.tobytes()).hexdigest() for d in data])
    for (name, shape, kind), d in zip(tensors, data):
        raw = kind not in (Q.F32, Q.F16)
        w.add_tensor(name, d, raw_dtype=kind if raw else None)
    finish(w)
    with open(path, "rb") as f:
        whole = bytearray(f.read())
    head = GGUFReader(path).data_offset
    at = whole.index(ZEROS.encode())
    whole[at:at + 64] = hashlib.sha256(whole[:head]).hexdigest().encode()
    with open(path, "wb") as f:
        f.write(whole)


def read(path):
    r = GGUFReader(path)
    field = r.get_field(TENSOR_SUMS)
    sums = field.contents() if field else None
    for i, t in enumerate(r.tensors):
        values = t.data if t.tensor_type.name[0] == "I" or t.tensor_type == Q.F64 else dequantize(t.data, t.tensor_type)
        shape = tuple(int(n) for n in reversed(t.shape))
        assert values.size == t.n_elements, t.name
        assert values.dtype.kind == "i" or not values.size or np.isfinite(values).all(), t.name
        if sums:
            assert hashlib.sha256(t.data.tobytes()).hexdigest() == sums[i], f"{path}: {t.name}: another checksum"
    if sums:
        head = bytearray(r.data[:r.data_offset].tobytes())
        own = r.get_field(HEADER_SUM).contents()
        at = head.index(own.encode())
        head[at:at + 64] = ZEROS.encode()
        assert hashlib.sha256(head).hexdigest() == own, f"{path}: another checksum of the header"
    print(f"{path}: {len(r.tensors)} tensors, {len(r.fields) - 3} fields{', checksums right' if sums else ''}")
    return r


def write(out):
    os.makedirs(out, exist_ok=True)
    write_blocks(out)
    write_fields(out)
    write_bundle(out)


def check(out):
    with tempfile.TemporaryDirectory() as now:
        write(now)
        for name in sorted(os.listdir(now)):
            with open(os.path.join(now, name), "rb") as a, open(os.path.join(out, name), "rb") as b:
                assert a.read() == b.read(), f"{name}: the committed file differs"
    expected = load_file(os.path.join(out, "blocks.safetensors"))
    for t in read(os.path.join(out, "blocks.gguf")).tensors:
        assert np.array_equal(dequantize(t.data, t.tensor_type), expected[t.name]), t.name
    for name in ("fields.gguf", "fields_v2.gguf", "bundle.gguf"):
        read(os.path.join(out, name))


if __name__ == "__main__":
    if sys.argv[1] == "--read":
        for file in sys.argv[2:]:
            read(file)
    elif sys.argv[1] == "--check":
        check(sys.argv[2])
    else:
        write(sys.argv[1])
        check(sys.argv[1])

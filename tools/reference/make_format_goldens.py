"""Weight files for the format tests, written by PyTorch and safetensors themselves, and what they hold.

Usage: make_format_goldens.py OUT_DIR            writes tests/golden/format
       make_format_goldens.py --check OUT_DIR    reads the committed files with the original libraries and
                                                 compares with expected.json

expected.json: {file: {tensor: {"dtype", "shape", "hex"}}} holds what torch.load / safetensors.torch.load_file say,
little-endian and row-major. Files that this PyTorch (1.13) cannot write (what newer versions write, what Python 2
wrote, zip64, hostile ones) are put together here byte by byte; for those it cannot read either, the expected values
stand in this program. Names that start with "bad_" must be refused by a reader.

Storage keys of the old format are addresses, so those files differ from run to run; their contents do not.
"""
import collections
import json
import os
import struct
import sys
import zlib

import torch
from safetensors.torch import load_file, save_file

NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64",
         torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"}


# ---- contents ----

def all_dtypes():
    out = {}
    for dtype, name in NAMES.items():
        values = torch.arange(-3, 9) * 3
        if dtype == torch.bool:
            t = (values > 4).reshape(3, 4)
        elif dtype == torch.uint8:
            t = (values + 200).to(dtype).reshape(3, 4)
        elif dtype.is_floating_point:
            t = (values.to(torch.float64) * 0.37).to(dtype).reshape(3, 4)
        else:
            t = values.to(dtype).reshape(3, 4)
        out["t." + name] = t
    out["scalar"] = torch.tensor(2.5)
    out["count"] = torch.tensor(7)
    out["empty"] = torch.empty(0, 3)
    out["one"] = torch.tensor([[[1.25]]], dtype=torch.float16)
    return out


def views():
    base = torch.arange(24, dtype=torch.float32) * 0.5
    cube = torch.arange(60, dtype=torch.float16).reshape(3, 4, 5)
    return {
        "whole": base.reshape(4, 6), "transposed": base.reshape(4, 6).t(), "tail": base[17:], "every_third": base[1::3],
        "column": base.reshape(4, 6)[:, 2], "block": base.reshape(4, 6)[1:3, 2:5], "expanded": base[5:6].expand(3, 2),
        "permuted": cube.permute(2, 0, 1), "inner": cube[1:, 1:3, ::2], "narrow": cube[:, :1, :],
        "tied.a": base[:6], "tied.b": base[:6],
    }


def module_state():
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 2), torch.nn.BatchNorm2d(3), torch.nn.Linear(4, 2, bias=False))
    return net.state_dict()  # an OrderedDict with _metadata


def wrapped():
    inner = collections.OrderedDict(("module." + k, v) for k, v in module_state().items())
    return {"epoch": 12, "arch": "resnet50", "state_dict": inner, "lr": 1e-3, "best": torch.tensor(0.5), "args": None, "steps": [1, (2, 3), {"a": True}],
            "optimizer": {"state": {0: {"exp_avg": torch.ones(3, dtype=torch.float64)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}}


def parameters():
    p = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    q = torch.nn.Parameter(torch.arange(4, dtype=torch.float16), requires_grad=False)
    tagged = torch.arange(3.0)
    tagged.note = "an attribute"
    return {"p": p, "q": q, "tagged": tagged}


# ---- a hand-made zip: stored, with the options that zipfile does not give ----

def make_zip(records, zip64=False, method=0, align=64, flags=0):
    body, directory = b"", b""
    for name, data in records:
        name = name.encode()
        offset, crc = len(body), zlib.crc32(data)
        packed = data
        if method == 8:
            z = zlib.compressobj(9, zlib.DEFLATED, -15)
            packed = z.compress(data) + z.flush()
        extra = b""
        pad = -(offset + 30 + len(name)) % align
        if pad:
            pad += align if pad < 4 else 0
            extra = b"FB" + struct.pack("<H", pad - 4) + b"Z" * (pad - 4)
        head = struct.pack("<HHHHHI", 20, flags, method, 0, 0, crc)
        body += b"PK\3\4" + head + struct.pack("<IIHH", len(packed), len(data), len(name), len(extra)) + name + extra + packed
        if zip64:
            extra = struct.pack("<HHQQQ", 1, 24, len(data), len(packed), offset)
            sizes = struct.pack("<II", 0xFFFFFFFF, 0xFFFFFFFF)
            where = 0xFFFFFFFF
        else:
            extra, sizes, where = b"", struct.pack("<II", len(packed), len(data)), offset
        directory += (b"PK\1\2" + struct.pack("<H", 45) + head + sizes + struct.pack("<HHHHHII", len(name), len(extra), 0, 0, 0, 0, where) + name + extra)
    start = len(body)
    end = b""
    count, size, where = len(records), len(directory), start
    if zip64:
        end += b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, size, where)
        end += b"PK\6\7" + struct.pack("<IQI", 0, start + size, 1)
        count, size, where = 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF
    end += b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count, count, size, where, 0)
    return body + directory + end


# ---- hand-made pickles ----

def text(s):
    return b"X" + struct.pack("<I", len(s)) + s.encode()


def integer(n):
    return b"J" + struct.pack("<i", n)


def long_integer(n):
    return b"\x8a\x08" + struct.pack("<q", n)


def tup(*items):
    return b"(" + b"".join(items) + b"t"


def glob(module, name):
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


def storage(kind, key, count, module="torch"):
    return tup(text("storage"), glob(module, kind), text(key), text("cpu"), integer(count)) + b"Q"


def rebuild(version, st, offset, shape, stride, *more):
    args = [st, integer(offset), tup(*map(integer, shape)), tup(*map(integer, stride))]
    if version:
        args += [b"\x89", glob("collections", "OrderedDict") + b")R"]
    return glob("torch._utils", "_rebuild_tensor" + (f"_v{version}" if version else "")) + tup(*args, *more) + b"R"


def dictionary(items):
    return b"\x80\2}(" + b"".join(text(k) + v for k, v in items) + b"u."


F32_6 = struct.pack("<6f", 0, 1, 2, 3, 4, 5)


def simple_zip(pickle, extra=(), data=(("0", F32_6),), folder="archive", **options):
    records = [("data.pkl", pickle)] + list(extra) + [("data/" + k, v) for k, v in data] + [("version", b"3\n")]
    return make_zip([((folder + "/" if folder else "") + name, value) for name, value in records], **options)


ONE = dictionary([("w", rebuild(2, storage("FloatStorage", "0", 6), 0, (2, 3), (3, 1)))])
ONE_EXPECTED = {"w": {"dtype": "F32", "shape": [2, 3], "hex": F32_6.hex()}}


def handmade_good():
    """name -> (bytes, expected or None to ask torch.load)"""
    out = {}
    half = struct.pack("<4e", 0.5, 1.5, 2.5, -3.5)
    # What PyTorch 2.x writes: byteorder, .format_version, .storage_alignment, .data/serialization_id; a seventh argument for tensors with
    # metadata; _rebuild_tensor_v3 over an UntypedStorage for types without a storage class.
    newer = dictionary([
        ("plain", rebuild(2, storage("FloatStorage", "0", 6), 0, (2, 3), (3, 1))),
        ("metadata", rebuild(2, storage("FloatStorage", "0", 6), 2, (2,), (1,), b"}" + text("math_bits") + b"\x88s")),
        ("untyped", rebuild(3, storage("UntypedStorage", "1", 8, "torch.storage"), 1, (3,), (1,), glob("torch", "float16"))),
        ("size", glob("torch", "Size") + tup(tup(integer(2), integer(3))) + b"R"),
    ])
    records = [(".format_version", b"1"), (".storage_alignment", b"64"), ("byteorder", b"little")]
    out["zip_torch2.pt"] = (simple_zip(newer, records + [(".data/serialization_id", b"0" * 40)], (("0", F32_6), ("1", half)), folder="model_name"), {
        "plain": {"dtype": "F32", "shape": [2, 3], "hex": F32_6.hex()},
        "metadata": {"dtype": "F32", "shape": [2], "hex": F32_6[8:16].hex()},
        "untyped": {"dtype": "F16", "shape": [3], "hex": half[2:].hex()}})
    out["zip_zip64.bin"] = (simple_zip(ONE, zip64=True), ONE_EXPECTED)
    out["zip_misaligned.bin"] = (simple_zip(ONE, align=1, folder="abc"), ONE_EXPECTED)
    # A stride of a dimension of size 1 is never taken, so PyTorch lets it be anything.
    wild = glob("torch._utils", "_rebuild_tensor_v2") + tup(storage("FloatStorage", "0", 6), integer(1), tup(*map(integer, (2, 1, 2))),
                                                            tup(integer(3), long_integer(2 ** 63 - 1), integer(1)), b"\x89", b"N") + b"R"
    out["zip_wild_stride.bin"] = (simple_zip(dictionary([("w", wild)])), {
        "w": {"dtype": "F32", "shape": [2, 1, 2], "hex": (F32_6[4:12] + F32_6[16:24]).hex()}})
    out["zip_nested_pickle.bin"] = (simple_zip(ONE, [("more/data.pkl", b"\x80\2N.")]), ONE_EXPECTED)
    out["zip_no_folder.bin"] = (simple_zip(ONE, folder=""), ONE_EXPECTED)
    out["zip_cuda.bin"] = (simple_zip(dictionary([("w", rebuild(0, storage("FloatStorage", "0", 6, "torch.cuda"), 0, (2, 3), (3, 1)))])), ONE_EXPECTED)
    # Python 2's pickler: byte strings, an OrderedDict made from a list of pairs, a view of a larger storage.
    def s(x):
        return b"U" + bytes([len(x)]) + x.encode()
    def pair(key, value):
        return b"](" + s(key) + value + b"e"
    def old_storage(count, view):
        return tup(s("storage"), glob("torch", "FloatStorage"), s("77"), s("cpu"), b"K" + bytes([count]), view) + b"Q"
    body = glob("collections", "OrderedDict") + b"](" + \
        pair("w", rebuild(0, old_storage(6, b"N"), 0, (2, 3), (3, 1))) + \
        pair("v", rebuild(0, old_storage(6, tup(s("78"), b"K\2", b"K\3")), 1, (2,), (1,))) + b"e\x85R" + b"}" + s("_metadata") + b"}sb."
    head = b"\x80\2\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\2M\xe9\3." + b"\x80\2}(" + s("little_endian") + b"\x88" + s("type_sizes") + b"}u."
    tail = b"\x80\2]" + s("77") + b"a." + struct.pack("<q", 6) + F32_6
    out["legacy_python2.pth"] = (head + b"\x80\2" + body + tail, {
        "w": ONE_EXPECTED["w"], "v": {"dtype": "F32", "shape": [2], "hex": F32_6[12:20].hex()}})
    # safetensors as the first writers made them: no padding, tensors in the order given
    header = b'{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"F32","shape":[2,3],"data_offsets":[3,27]}}'
    header += b" " * (2 - len(header) % 2) + (b" " if len(header) % 2 else b"")
    out["unpadded.safetensors"] = (struct.pack("<Q", len(header)) + header + b"\1\2\3" + F32_6, None)
    return out


def handmade_bad():
    """name -> bytes; each must be refused, and nothing in it run"""
    out = {}
    out["bad_os_system.bin"] = simple_zip(b"\x80\2" + glob("os", "system") + text("touch pwned") + b"\x85R.")
    out["bad_eval_in_dict.bin"] = simple_zip(dictionary([("w", glob("builtins", "eval") + text("1+1") + b"\x85R")]))
    out["bad_stack_global.bin"] = simple_zip(b"\x80\4\x8c\2os\x8c\6system\x93\x8c\4true\x85R.")
    out["bad_newobj.bin"] = simple_zip(b"\x80\2" + glob("collections", "OrderedDict") + b")\x81.")
    out["bad_inst.bin"] = simple_zip(b"\x80\2(S'ls'\nios\nsystem\n.")
    out["bad_numpy.bin"] = simple_zip(dictionary([("w", glob("torch._utils", "_rebuild_device_tensor_from_numpy") + b")R")]))
    out["bad_call_dtype.bin"] = simple_zip(dictionary([("w", glob("torch", "float32") + b")R")]))
    out["bad_quantized.bin"] = simple_zip(dictionary([("w", rebuild(2, storage("QInt8Storage", "0", 24), 0, (2,), (1,)))]))
    out["bad_big_endian.pt"] = simple_zip(ONE, [("byteorder", b"big")])
    out["bad_compressed.bin"] = simple_zip(ONE, method=8)
    out["bad_encrypted.bin"] = simple_zip(ONE, flags=1)
    out["bad_torchscript.pt"] = simple_zip(ONE, [("constants.pkl", b"\x80\2).")])
    out["bad_no_pickle.zip"] = make_zip([("a/readme.txt", b"hello")])
    out["bad_two_folders.bin"] = make_zip([("a/data.pkl", ONE), ("b/data.pkl", ONE), ("a/data/0", F32_6)])
    out["bad_missing_storage.bin"] = simple_zip(ONE, data=())
    out["bad_short_storage.bin"] = simple_zip(ONE, data=(("0", F32_6[:20]),))
    out["bad_reach.bin"] = simple_zip(dictionary([("w", rebuild(2, storage("FloatStorage", "0", 6), 1, (2, 3), (3, 1)))]))
    out["bad_expand_bomb.bin"] = simple_zip(dictionary([("w", rebuild(2, storage("FloatStorage", "0", 6), 0, (2000000000,), (0,)))]))
    out["bad_other_type.bin"] = simple_zip(dictionary([("w", rebuild(3, storage("FloatStorage", "0", 6), 0, (2,), (1,), glob("torch", "float16")))]))
    renamed = simple_zip(ONE)
    at = renamed.index(b"archive/data/0")
    out["bad_local_name.bin"] = renamed[:at] + b"archive/data/1" + renamed[at + 14:]
    out["bad_seven_dims.bin"] = simple_zip(dictionary([("w", rebuild(2, storage("FloatStorage", "0", 6), 0, (1,) * 7, (1,) * 7))]))
    out["bad_tensor_alone.bin"] = simple_zip(b"\x80\2" + rebuild(2, storage("FloatStorage", "0", 6), 0, (2, 3), (3, 1)) + b".")
    out["bad_plain_pickle.pkl"] = b"\x80\2}X\1\0\0\0aK\1s."
    out["bad_lfs_pointer.bin"] = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
    out["bad_web_page.bin"] = b"<!DOCTYPE html><html><body>404</body></html>"
    out["bad_empty.bin"] = b""
    return out


# ---- sharded directories ----

def shard_tensors():
    return {f"model.layers.{i}.weight": torch.arange(6, dtype=torch.float16).reshape(2, 3) + 10 * i for i in range(4)}


def write_sharded(out, kind):
    folder = os.path.join(out, "sharded_" + kind)
    os.makedirs(folder, exist_ok=True)
    tensors = shard_tensors()
    names = list(tensors)
    stem, ext = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    weight_map = {}
    for shard in range(2):
        part = {n: tensors[n] for n in names[2 * shard:2 * shard + 2]}
        file = f"{stem}-{shard + 1:05d}-of-00002.{ext}"
        if kind == "safetensors":
            save_file(part, os.path.join(folder, file), metadata={"format": "pt"})
        else:
            torch.save(part, os.path.join(folder, file))
        weight_map.update({n: file for n in part})
    index = {"metadata": {"total_size": sum(t.numel() * 2 for t in tensors.values())}, "weight_map": weight_map}
    with open(os.path.join(folder, f"{stem}.{ext}.index.json"), "w") as f:
        f.write(json.dumps(index, indent=2, sort_keys=True) + "\n")


# ---- what the original libraries read ----

def describe(tensors):
    out = {}
    for name, t in sorted(tensors.items()):
        t = t.detach().contiguous()
        raw = t.view(torch.int16) if t.dtype == torch.bfloat16 else t
        out[name] = {"dtype": NAMES[t.dtype], "shape": list(t.shape), "hex": raw.numpy().tobytes().hex()}
    return out


def read_original(path):
    if path.endswith(".safetensors"):
        return describe(load_file(path))
    state = torch.load(path, map_location="cpu")
    state = state.get("state_dict", state)
    state = {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}
    if all(k.startswith("module.") for k in state):
        state = {k[len("module."):]: v for k, v in state.items()}
    return describe(state)


def write(out):
    os.makedirs(out, exist_ok=True)
    at = lambda name: os.path.join(out, name)
    expected = {}
    contents = {"dtypes": all_dtypes(), "views": views(), "state": module_state(), "wrapped": wrapped(), "parameters": parameters()}
    for name, value in contents.items():
        torch.save(value, at(f"zip_{name}.bin"))
        torch.save(value, at(f"legacy_{name}.pth"), _use_new_zipfile_serialization=False)
    torch.save(contents["state"], at("zip_protocol4.bin"), pickle_protocol=4)
    files = [f"{k}_{n}.{e}" for k, e in (("zip", "bin"), ("legacy", "pth")) for n in contents] + ["zip_protocol4.bin"]
    save_file({k: v.contiguous() for k, v in all_dtypes().items()}, at("single.safetensors"), metadata={"format": "pt"})
    files.append("single.safetensors")
    for name, (data, known) in handmade_good().items():
        with open(at(name), "wb") as f:
            f.write(data)
        expected[name] = known or read_original(at(name))
    for name, data in handmade_bad().items():
        with open(at(name), "wb") as f:
            f.write(data)
    for name in files:
        expected[name] = read_original(at(name))
    for kind in ("safetensors", "bin"):
        write_sharded(out, kind)
        expected["sharded_" + kind] = describe(shard_tensors())
    with open(at("expected.json"), "w") as f:
        f.write(json.dumps(expected, indent=1, sort_keys=True) + "\n")


def check(out):
    with open(os.path.join(out, "expected.json")) as f:
        expected = json.load(f)
    by_hand = {name for name, (_, known) in handmade_good().items() if known}
    compared = 0
    for name, tensors in expected.items():
        if name.startswith("sharded_"):
            ext = "safetensors" if name.endswith("safetensors") else "bin"
            found = {}
            for file in sorted(os.listdir(os.path.join(out, name))):
                if file.endswith("." + ext):
                    found.update(read_original(os.path.join(out, name, file)))
        else:
            try:
                found = read_original(os.path.join(out, name))
            except Exception as e:
                if name not in by_hand:
                    raise
                print(f"{name}: this PyTorch cannot read it ({type(e).__name__}), values as stated in this program")
                continue
        assert found == tensors, f"{name}: differs from expected.json"
        compared += 1
    print(f"{compared} files hold what expected.json says")


if __name__ == "__main__":
    if sys.argv[1] == "--check":
        check(sys.argv[2])
    else:
        write(sys.argv[1])
        check(sys.argv[1])

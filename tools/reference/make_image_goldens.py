"""Goldens of the picture code: small pictures in every format and mode, and what the original's libraries make of them.

    python make_image_goldens.py [--check] OUT_DIR        (OUT_DIR = tests/golden/image)

Run it with both environments of make_env.sh. With transformers 4.28 (plus opencv-python-headless 4.8.1.78, installed with
--no-deps) it writes the pictures, decode.txt, resize.txt and preprocess_mflm.txt; with transformers 4.37 it writes
preprocess_dte.txt. With --check nothing is written: differing files are named and the exit status is 1.

Pictures too large to commit are computed by the integer formula of `picture` here and of tests/unit/test_image_picture.h in C.
Every line of a .txt file is one case; '#' starts a comment. A hash is the SHA-256 of the bytes [h][w][3] or of the
little-endian float32 values [3][size][size].
"""
import hashlib
import io
import os
import struct
import sys
import warnings
import zlib

import numpy as np
from PIL import Image
import transformers

warnings.filterwarnings("ignore")
STAGE2 = transformers.__version__.startswith("4.28")


# ---- pictures by formula --------------------------------------------------------------------------------------------------

def picture(kind, w, h):
    """[h][w][3] uint8. kind 0: ramps with some noise (like a photo); 1: noise; 2: hard stripes (rings in a resampler)."""
    y, x, c = np.meshgrid(np.arange(h, dtype=np.int64), np.arange(w, dtype=np.int64), np.arange(3, dtype=np.int64),
                          indexing="ij")
    n = ((x * 73856093) ^ (y * 19349663) ^ (c * 83492791)) & 0xFFFFFFFF
    n = ((n ^ (n >> 13)) * 1274126177) & 0xFFFFFFFF
    n = (n ^ (n >> 16)) & 255
    if kind == 0:
        t = (x * (3 + c) + y * (5 - c) + ((x * y) >> 5)) % 510
        return ((np.where(t > 255, 510 - t, t) * 7 + n) // 8).astype(np.uint8)
    if kind == 1:
        return n.astype(np.uint8)
    return np.where(((x // 3 + y // 2 + c) & 1) == 1, 255, n // 64).astype(np.uint8)


def gray16(w, h):
    p = picture(0, w, h).astype(np.int64)
    return (p[..., 0] * 257 // (1 + (p[..., 1] > 128) * 300) + p[..., 2]).clip(0, 65535).astype(np.uint16)


# ---- writers for what Pillow cannot write ---------------------------------------------------------------------------------

def png(w, h, depth, color, rows, interlace=False, chunks=()):
    """rows: [h][w][samples] ints."""
    def pack(block):
        out = b""
        for row in block:
            flat = [int(v) for v in np.asarray(row).reshape(-1)]
            if depth == 16:
                line = b"".join(struct.pack(">H", v) for v in flat)
            else:
                bits = "".join(format(v, "0%db" % depth) for v in flat)
                bits += "0" * (-len(bits) % 8)
                line = bytes(int(bits[i:i + 8], 2) for i in range(0, len(bits), 8))
            out += b"\0" + line
        return out

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    if interlace:
        raw = b""
        for x0, y0, dx, dy in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)):
            block = rows[y0::dy, x0::dx]
            if block.size:
                raw += pack(block)
    else:
        raw = pack(rows)
    out = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, depth, color, 0, 0, int(interlace)))
    for kind, data in chunks:
        out += chunk(kind, data)
    return out + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")


def tiff(w, h, bits, photometric, samples, planes, extra=(), order="<", tile=None, planar=1, big=False):
    """Uncompressed. planes: [h][w][samples] ints of `bits` (8 or 16); tile: (tw, th); extra: (tag, type, values)."""
    dtype = np.dtype(np.uint8 if bits == 8 else order + "u2")
    a = np.ascontiguousarray(planes.reshape(h, w, samples)).astype(dtype)
    parts = [a] if planar == 1 else [a[..., i:i + 1] for i in range(samples)]
    blocks = []
    for p in parts:
        if tile:
            tw, th = tile
            for y in range(0, h, th):
                for x in range(0, w, tw):
                    t = np.zeros((th, tw, p.shape[2]), dtype)
                    piece = p[y:y + th, x:x + tw]
                    t[:piece.shape[0], :piece.shape[1]] = piece
                    blocks.append(t.tobytes())
        else:
            step = 13 if h > 13 else h
            blocks += [np.ascontiguousarray(p[y:y + step]).tobytes() for y in range(0, h, step)]
    off_type = 16 if big else 4
    tags = [(256, 4, [w]), (257, 4, [h]), (258, 3, [bits] * samples), (259, 3, [1]), (262, 3, [photometric]), (277, 3, [samples]),
            (284, 3, [planar])] + list(extra)
    if tile:
        tags += [(322, 4, [tile[0]]), (323, 4, [tile[1]]), (324, off_type, None), (325, 4, [len(b) for b in blocks])]
    else:
        tags += [(278, 4, [13 if h > 13 else h]), (273, off_type, None), (279, 4, [len(b) for b in blocks])]
    tags.sort(key=lambda t: t[0])
    head = 16 if big else 8
    offsets, at = [], head
    for b in blocks:
        offsets.append(at)
        at += len(b) + len(b) % 2
    body = b"".join(b + b"\0" * (len(b) % 2) for b in blocks)
    fmt = {1: "B", 3: "H", 4: "I", 16: "Q"}
    ifd_at = at
    entry, count_fmt, inline = (20, "Q", 8) if big else (12, "H", 4)
    data_at = ifd_at + struct.calcsize(order + count_fmt) + entry * len(tags) + (8 if big else 4)
    ifd, data = struct.pack(order + count_fmt, len(tags)), b""
    for tag, kind, values in tags:
        values = offsets if values is None else values
        payload = b"".join(struct.pack(order + fmt[kind], v) for v in values)
        n = struct.pack(order + ("Q" if big else "I"), len(values))
        if len(payload) <= inline:
            field = payload + b"\0" * (inline - len(payload))
        else:
            field = struct.pack(order + ("Q" if big else "I"), data_at + len(data))
            data += payload + b"\0" * (len(payload) % 2)
        ifd += struct.pack(order + "HH", tag, kind) + n + field
    ifd += struct.pack(order + ("Q" if big else "I"), 0)
    mark = b"II" if order == "<" else b"MM"
    if big:
        header = mark + struct.pack(order + "HHHQ", 43, 8, 0, ifd_at)
    else:
        header = mark + struct.pack(order + "HI", 42, ifd_at)
    return header + body + ifd + data


def bmp(w, h, bits, rows, palette=(), top_down=False, masks=(), header=40):
    """rows: list of packed row bytes, top row first."""
    rows = [r + b"\0" * (-len(r) % 4) for r in rows]
    pixels = b"".join(rows if top_down else rows[::-1])
    if header == 12:
        info = struct.pack("<IHHHH", 12, w, h, 1, bits)
        table = b"".join(bytes((b, g, r)) for r, g, b in palette)
    else:
        compression = 3 if masks else 0
        info = struct.pack("<IiiHHIIiiII", header, w, -h if top_down else h, 1, bits, compression, len(pixels), 2835, 2835,
                           len(palette), 0)
        extra = b"".join(struct.pack("<I", m) for m in masks)
        if header > 40:
            info += (extra + b"\0" * header)[:header - 40]
            extra = b""
        table = extra + b"".join(bytes((b, g, r, 0)) for r, g, b in palette)
    at = 14 + len(info) + len(table)
    return b"BM" + struct.pack("<IHHI", at + len(pixels), 0, 0, at) + info + table + pixels


def pack_bits(a, depth):
    out = []
    for row in a:
        bits = "".join(format(int(v), "0%db" % depth) for v in row)
        bits += "0" * (-len(bits) % 8)
        out.append(bytes(int(bits[i:i + 8], 2) for i in range(0, len(bits), 8)))
    return out


def save(im, fmt, **kw):
    f = io.BytesIO()
    im.save(f, fmt, **kw)
    return f.getvalue()


def exif(orientation, order="<", kind=3):
    mark = b"II" if order == "<" else b"MM"
    tiffs = mark + struct.pack(order + "HI", 42, 8) + struct.pack(order + "H", 2)
    tiffs += struct.pack(order + "HHI", 0x0110, 2, 4) + b"cam\0"
    value = struct.pack(order + "HH", orientation, 0) if kind == 3 else struct.pack(order + "I", orientation)
    tiffs += struct.pack(order + "HHI", 0x0112, kind, 1) + value
    return tiffs + struct.pack(order + "I", 0)


def jpeg_segments(data):
    """[(marker, payload)] up to SOS, and the rest."""
    at, out = 2, []
    while True:
        marker, n = data[at + 1], struct.unpack(">H", data[at + 2:at + 4])[0]
        if marker == 0xDA:
            return out, data[at:]
        out.append((marker, data[at + 4:at + 2 + n]))
        at += 2 + n


def jpeg_join(segments, rest):
    return b"\xff\xd8" + b"".join(b"\xff" + bytes([m]) + struct.pack(">H", len(p) + 2) + p for m, p in segments) + rest


def webp_chunk(data, kind, payload, flag):
    """Adds a chunk to a WebP file, making it an extended one."""
    chunks = data[12:]
    if chunks[:4] != b"VP8X":
        im = Image.open(io.BytesIO(data))
        w, h = im.size
        flags = flag | (0x10 if im.mode == "RGBA" else 0)
        vp8x = b"VP8X" + struct.pack("<I", 10) + bytes([flags, 0, 0, 0]) + struct.pack("<I", w - 1)[:3] + struct.pack("<I", h - 1)[:3]
        chunks = vp8x + chunks
    else:
        chunks = chunks[:8] + bytes([chunks[8] | flag]) + chunks[9:]
    chunks += kind + struct.pack("<I", len(payload)) + payload + b"\0" * (len(payload) % 2)
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


# ---- the pictures ---------------------------------------------------------------------------------------------------------

def jpegs():
    import cv2
    im = lambda w, h, k=0: Image.fromarray(picture(k, w, h))
    yield "420.jpg", save(im(61, 45), "JPEG", quality=85)
    yield "444.jpg", save(im(40, 33), "JPEG", quality=92, subsampling=0)
    yield "422.jpg", save(im(35, 22), "JPEG", quality=70, subsampling=1)
    yield "odd.jpg", save(im(17, 17, 2), "JPEG", quality=60)
    yield "one.jpg", save(im(1, 1), "JPEG")
    yield "progressive.jpg", save(im(50, 37), "JPEG", quality=80, progressive=True)
    yield "progressive_gray.jpg", save(im(33, 20).convert("L"), "JPEG", quality=80, progressive=True)
    yield "gray.jpg", save(im(31, 29).convert("L"), "JPEG", quality=90)
    bgr = picture(0, 47, 39)[..., ::-1].copy()
    for name, factor in (("440", cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440), ("411", cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411)):
        yield name + ".jpg", cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor])[1].tobytes()
    yield "restart.jpg", cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1].tobytes()
    p = picture(0, 33, 26)
    cmyk = Image.fromarray(np.dstack([p, picture(1, 33, 26)[..., 0] // 2]), "CMYK")
    data = save(cmyk, "JPEG", quality=90)
    yield "cmyk.jpg", data
    segments, rest = jpeg_segments(data)
    yield "ycck.jpg", jpeg_join([(m, p[:11] + b"\2" if m == 0xEE else p) for m, p in segments], rest)
    yield "cmyk_no_adobe.jpg", jpeg_join([(m, p) for m, p in segments if m != 0xEE], rest)
    segments, rest = jpeg_segments(save(im(30, 21), "JPEG", quality=90, subsampling=0))
    adobe = (0xEE, b"Adobe\0\x64\0\0\0\0\0")
    yield "rgb_space.jpg", jpeg_join([adobe] + [s for s in segments if s[0] != 0xE0], rest)
    for o in range(1, 9):
        yield "exif%d.jpg" % o, save(im(20, 13), "JPEG", quality=75, exif=b"Exif\0\0" + exif(o, "<" if o % 2 else ">"))
    yield "exif_bad.jpg", save(im(20, 13), "JPEG", quality=75, exif=b"Exif\0\0" + exif(9))
    yield "exif_long.jpg", save(im(20, 13), "JPEG", quality=75, exif=b"Exif\0\0" + exif(6, "<", 4))
    yield "exif_cut.jpg", save(im(20, 13), "JPEG", quality=75, exif=b"Exif\0\0" + exif(6)[:24])


def pngs():
    w, h = 29, 21
    p = picture(0, w, h)
    palette = picture(1, 16, 16).reshape(256, 3)
    a = picture(1, w, h)[..., 1:2]
    for inter in (False, True):
        s = "_i" if inter else ""
        for d in (1, 2, 4, 8):
            yield "gray%d%s.png" % (d, s), png(w, h, d, 0, p[..., :1] >> (8 - d), inter)
            plte = [(b"PLTE", palette[:1 << d].tobytes())]
            yield "pal%d%s.png" % (d, s), png(w, h, d, 3, p[..., :1] >> (8 - d), inter, plte)
        g = gray16(w, h)[..., None]
        yield "gray16%s.png" % s, png(w, h, 16, 0, g, inter)
        yield "la8%s.png" % s, png(w, h, 8, 4, np.dstack([p[..., :1], a]), inter)
        yield "la16%s.png" % s, png(w, h, 16, 4, np.dstack([g, a.astype(int) * 257]), inter)
        yield "rgb8%s.png" % s, png(w, h, 8, 2, p, inter)
        wide = p.astype(int) * 256 + picture(1, w, h)
        yield "rgb16%s.png" % s, png(w, h, 16, 2, wide, inter)
        yield "rgba8%s.png" % s, png(w, h, 8, 6, np.dstack([p, a]), inter)
        yield "rgba16%s.png" % s, png(w, h, 16, 6, np.dstack([wide, a.astype(int) * 257]), inter)
    p = picture(2, 11, 7)
    yield "one.png", png(1, 1, 8, 2, p[:1, :1])
    yield "thin_i.png", png(1, 7, 8, 2, p[:, :1], True)
    yield "gray8_trns.png", png(11, 7, 8, 0, p[..., :1], False, [(b"tRNS", struct.pack(">H", 255))])
    yield "gray1_trns.png", png(11, 7, 1, 0, p[..., :1] >> 7, False, [(b"tRNS", struct.pack(">H", 1))])
    yield "gray16_trns.png", png(11, 7, 16, 0, p[..., :1].astype(int) * 3, False, [(b"tRNS", struct.pack(">H", 765))])
    yield "rgb8_trns.png", png(11, 7, 8, 2, p, False, [(b"tRNS", struct.pack(">HHH", 255, 255, 255))])
    yield "pal8_trns.png", png(11, 7, 8, 3, p[..., :1], False, [(b"PLTE", palette.tobytes()), (b"tRNS", bytes(range(0, 250, 2)))])
    yield "pal8_short.png", png(11, 7, 8, 3, p[..., :1], False, [(b"PLTE", palette[:100].tobytes())])
    yield "gamma.png", png(11, 7, 8, 2, p, False, [(b"gAMA", struct.pack(">I", 100000))])
    yield "bkgd.png", png(11, 7, 8, 6, np.dstack([p, p[..., :1]]), False, [(b"bKGD", struct.pack(">HHH", 9, 99, 199))])
    yield "exif.png", png(11, 7, 8, 2, p, False, [(b"eXIf", exif(6))])
    late = png(11, 7, 8, 2, p)
    cut = len(late) - 12
    chunk = b"eXIf" + exif(3, ">")
    yield "exif_late.png", late[:cut] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + late[cut:]


def webps():
    p = picture(0, 45, 31)
    a = picture(1, 45, 31)[..., :1]
    im, ima = Image.fromarray(p), Image.fromarray(np.dstack([p, a]))
    yield "lossy.webp", save(im, "WEBP", quality=80)
    yield "lossless.webp", save(im, "WEBP", lossless=True)
    yield "lossy_alpha.webp", save(ima, "WEBP", quality=70)
    yield "lossless_alpha.webp", save(ima, "WEBP", lossless=True, exact=True)
    yield "one.webp", save(im.crop((0, 0, 1, 1)), "WEBP", quality=80)
    yield "exif.webp", webp_chunk(save(im, "WEBP", quality=50), b"EXIF", exif(6), 0x08)
    yield "exif_prefix.webp", webp_chunk(save(ima, "WEBP", quality=50), b"EXIF", b"Exif\0\0" + exif(8, ">"), 0x08)


def tiffs():
    w, h = 27, 19
    p = picture(0, w, h)
    a = picture(1, w, h)[..., :1]
    wide = p.astype(int) * 256 + picture(1, w, h)
    im = Image.fromarray(p)
    yield "rgb8.tif", tiff(w, h, 8, 2, 3, p)
    yield "rgb8_be.tif", tiff(w, h, 8, 2, 3, p, order=">")
    yield "rgb8_big.tif", tiff(w, h, 8, 2, 3, p, big=True)
    yield "rgb8_planar.tif", tiff(w, h, 8, 2, 3, p, planar=2)
    yield "rgb8_tiled.tif", tiff(w, h, 8, 2, 3, p, tile=(16, 16))
    yield "rgb8_tiled_planar.tif", tiff(w, h, 8, 2, 3, p, tile=(16, 16), planar=2)
    yield "rgb16.tif", tiff(w, h, 16, 2, 3, wide)
    yield "rgb16_be.tif", tiff(w, h, 16, 2, 3, wide, order=">")
    yield "rgbx8.tif", tiff(w, h, 8, 2, 4, np.dstack([p, a]), [(338, 3, [0])])
    yield "rgba8.tif", tiff(w, h, 8, 2, 4, np.dstack([p, a]), [(338, 3, [2])])
    pre = (p.astype(int) * a // 255).astype(np.uint8)
    yield "rgba8_pre.tif", tiff(w, h, 8, 2, 4, np.dstack([pre, a]), [(338, 3, [1])])
    yield "rgba16.tif", tiff(w, h, 16, 2, 4, np.dstack([wide, a.astype(int) * 257]), [(338, 3, [2])])
    yield "gray8.tif", tiff(w, h, 8, 1, 1, p[..., :1])
    yield "gray8_white.tif", tiff(w, h, 8, 0, 1, p[..., :1])
    yield "gray16.tif", tiff(w, h, 16, 1, 1, gray16(w, h)[..., None])
    yield "gray16_be.tif", tiff(w, h, 16, 1, 1, gray16(w, h)[..., None], order=">")
    yield "gray16_white.tif", tiff(w, h, 16, 0, 1, gray16(w, h)[..., None])
    yield "la8.tif", tiff(w, h, 8, 1, 2, np.dstack([p[..., :1], a]), [(338, 3, [2])])
    cmap = (picture(1, 16, 16).reshape(256, 3).astype(int) * 257).T.reshape(-1)
    yield "pal8.tif", tiff(w, h, 8, 3, 1, p[..., :1], [(320, 3, list(cmap))])
    yield "cmyk8.tif", tiff(w, h, 8, 5, 4, np.dstack([p, a]), [(332, 3, [1])])
    for o in range(2, 9):
        yield "orient%d.tif" % o, tiff(9, 5, 8, 2, 3, picture(0, 9, 5), [(274, 3, [o])])
    yield "orient6_16.tif", tiff(9, 5, 16, 2, 3, picture(0, 9, 5).astype(int) * 256, [(274, 3, [6])], tile=(16, 16))
    yield "lzw.tif", save(im, "TIFF", compression="tiff_lzw")
    yield "deflate.tif", save(im, "TIFF", compression="tiff_adobe_deflate")
    yield "packbits.tif", save(im, "TIFF", compression="packbits")
    yield "jpeg.tif", save(im, "TIFF", compression="jpeg", quality=80)
    yield "lzw_orient6.tif", save(im, "TIFF", compression="tiff_lzw", tiffinfo={274: 6})
    yield "bilevel.tif", save(im.convert("1"), "TIFF")
    yield "group4.tif", save(im.convert("1"), "TIFF", compression="group4")
    yield "pal_lzw.tif", save(im.quantize(17), "TIFF", compression="tiff_lzw")
    yield "lzw16.tif", save(Image.fromarray(gray16(w, h)), "TIFF", compression="tiff_lzw")
    yield "ycbcr.tif", save(im.convert("YCbCr"), "TIFF")
    yield "gray_lzw.tif", save(im.convert("L"), "TIFF", compression="tiff_lzw")
    yield "rgba_lzw.tif", save(Image.fromarray(np.dstack([p, a])), "TIFF", compression="tiff_lzw")


def heifs(out_dir):
    """Written once through libheif and then kept: the bytes depend on the encoder's version. No expected pixels, the original cannot read
    these; the C test compares with the formula, coarsely."""
    import ctypes
    import ctypes.util
    lib = ctypes.CDLL(ctypes.util.find_library("heif"))

    class Error(ctypes.Structure):
        _fields_ = [("code", ctypes.c_int), ("subcode", ctypes.c_int), ("message", ctypes.c_char_p)]

    def call(name, *args):
        f = getattr(lib, name)
        f.restype = Error
        e = f(*args)
        assert e.code == 0, (name, e.message)

    for f in ("heif_context_alloc", "heif_image_get_plane"):
        getattr(lib, f).restype = ctypes.c_void_p
    p = picture(0, 64, 48)
    for name, coding in (("hevc.heic", 1), ("av1.avif", 4)):  # heif_compression_HEVC, heif_compression_AV1
        path = os.path.join(out_dir, name)
        if os.path.exists(path):
            continue
        ctx, enc, im, handle = ctypes.c_void_p(lib.heif_context_alloc()), ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        call("heif_context_get_encoder_for_format", ctx, coding, ctypes.byref(enc))
        call("heif_encoder_set_lossy_quality", enc, 80)
        call("heif_image_create", 64, 48, 1, 10, ctypes.byref(im))  # RGB, interleaved RGB
        call("heif_image_add_plane", im, 10, 64, 48, 8)
        stride = ctypes.c_int()
        to = lib.heif_image_get_plane(im, 10, ctypes.byref(stride))
        for y in range(48):
            ctypes.memmove(to + y * stride.value, np.ascontiguousarray(p[y]).tobytes(), 192)
        call("heif_context_encode_image", ctx, im, enc, None, ctypes.byref(handle))
        call("heif_context_write_to_file", ctx, path.encode())


def bmps():
    w, h = 23, 17
    p = picture(0, w, h)
    palette = [tuple(int(v) for v in c) for c in picture(1, 16, 16).reshape(256, 3)]
    for d in (1, 4, 8):
        yield "pal%d.bmp" % d, bmp(w, h, d, pack_bits(p[..., 0] >> (8 - d), d), palette[:1 << d])
    yield "pal8_os2.bmp", bmp(w, h, 8, pack_bits(p[..., 0], 8), palette, header=12)
    yield "pal4_short.bmp", bmp(w, h, 4, pack_bits(p[..., 0] >> 4, 4), palette[:10])
    grays = [(i, i, i) for i in range(256)]
    yield "gray8.bmp", bmp(w, h, 8, pack_bits(p[..., 0], 8), grays)
    rows24 = [np.ascontiguousarray(r[:, ::-1]).tobytes() for r in p]
    yield "rgb24.bmp", bmp(w, h, 24, rows24)
    yield "rgb24_top.bmp", bmp(w, h, 24, rows24, top_down=True)
    yield "rgb24_os2.bmp", bmp(w, h, 24, rows24, header=12)
    a = picture(1, w, h)[..., :1]
    bgra = np.dstack([p[..., ::-1], a])
    rows32 = [r.tobytes() for r in bgra]
    yield "rgb32.bmp", bmp(w, h, 32, rows32)
    yield "rgba32_v4.bmp", bmp(w, h, 32, rows32, masks=(0xFF0000, 0xFF00, 0xFF, 0xFF000000), header=108)
    rgba = np.dstack([p, a])
    yield "rgba32_swap.bmp", bmp(w, h, 32, [r.tobytes() for r in rgba], masks=(0xFF, 0xFF00, 0xFF0000, 0xFF000000), header=124)
    q = p.astype(np.uint16)
    r555 = ((q[..., 0] >> 3) << 10 | (q[..., 1] >> 3) << 5 | q[..., 2] >> 3).astype("<u2")
    r565 = ((q[..., 0] >> 3) << 11 | (q[..., 1] >> 2) << 5 | q[..., 2] >> 3).astype("<u2")
    yield "rgb555.bmp", bmp(w, h, 16, [r.tobytes() for r in r555])
    yield "rgb555_masks.bmp", bmp(w, h, 16, [r.tobytes() for r in r555], masks=(0x7C00, 0x3E0, 0x1F))
    yield "rgb565.bmp", bmp(w, h, 16, [r.tobytes() for r in r565], masks=(0xF800, 0x7E0, 0x1F))
    yield "one.bmp", bmp(1, 1, 24, rows24[:1][:1] and [rows24[0][:3]])


# ---- what the libraries make of them --------------------------------------------------------------------------------------

def digest(a):
    return hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest()


def decode_pil(data):
    """(mode, stored size, orientation, RGB array), as DTG and DTE-FDM open a file. None when Pillow refuses."""
    try:
        im = Image.open(io.BytesIO(data))
        mode, size = im.mode, im.size
        orientation = im.getexif().get(0x0112, 1)
        return mode, size, orientation, np.asarray(im.convert("RGB"))
    except Exception as e:
        sys.stderr.write("  Pillow: %s\n" % e)
        return None


def decode_cv2(path):
    import cv2
    bgr = cv2.imread(path)
    return None if bgr is None else cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


RESIZES = [  # w h W H
    (64, 48, 32, 24), (64, 48, 128, 96), (31, 17, 97, 5), (5, 97, 31, 17), (1, 50, 1, 7), (50, 1, 7, 1), (1, 1, 9, 4), (9, 4, 1, 1),
    (1, 40, 336, 336), (40, 1, 336, 336), (333, 250, 336, 336), (336, 200, 336, 97), (200, 336, 97, 336), (640, 427, 383, 256),
    (1000, 30, 7, 300), (30, 1000, 300, 7), (2000, 3, 336, 1), (3, 2000, 1, 336), (257, 255, 256, 256), (3000, 20, 1024, 7),
    (30000, 20, 300, 1), (20, 30000, 1, 300), (1920, 1080, 1024, 576), (513, 700, 750, 1024), (2, 2, 1024, 3), (123, 456, 789, 12)]

SIZES = [(640, 427), (427, 640), (336, 336), (100, 75), (75, 100), (1, 1), (17, 300), (300, 17), (1024, 768), (224, 224), (256, 256),
         (257, 256), (500, 333), (333, 500), (1367, 911), (899, 1200), (2000, 1), (1, 2000), (3000, 20), (20, 3000), (338, 337)]


def dump(a):
    a = np.ascontiguousarray(a, dtype="<f4")
    flat = a.reshape(-1)
    pick = [flat[i] for i in (0, flat.size // 3, flat.size // 2, flat.size - 1)]
    return digest(a) + " " + " ".join("%08x" % v for v in np.array(pick, "<f4").view("<u4"))


def consume_dtg(p):
    import torchvision.transforms as T
    t = T.Compose([T.Resize(256), T.CenterCrop(224), T.ToTensor(), T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
    return t(Image.fromarray(p)).numpy()


def clip_processor(size):
    from transformers import CLIPImageProcessor
    return CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def consume_padded(p, size):
    """LLaVA's `pad` handling: a square canvas in the mean colour, the picture in its middle."""
    proc = clip_processor(size)
    im = Image.fromarray(p)
    w, h = im.size
    if w != h:
        side = max(w, h)
        canvas = Image.new("RGB", (side, side), tuple(int(m * 255) for m in proc.image_mean))
        canvas.paste(im, ((side - w) // 2, (side - h) // 2))
        im = canvas
    return proc.preprocess(im, return_tensors="np")["pixel_values"][0]


def consume_cropped(p, size):
    return clip_processor(size).preprocess(p, return_tensors="np")["pixel_values"][0]


def consume_sam(p, size):
    import torch
    from segment_anything.utils.transforms import ResizeLongestSide
    a = ResizeLongestSide(size).apply_image(p)
    x = torch.from_numpy(a).permute(2, 0, 1).contiguous()
    mean = torch.Tensor([123.675, 116.28, 103.53]).view(-1, 1, 1)
    std = torch.Tensor([58.395, 57.12, 57.375]).view(-1, 1, 1)
    x = (x - mean) / std
    h, w = x.shape[-2:]
    return torch.nn.functional.pad(x, (0, size - w, 0, size - h)).numpy(), h, w


def stage1_lines():
    yield "# consumer kind w h size sha256 and four values (float32 bits): first, one third, half, last"
    for i, (w, h) in enumerate(SIZES):
        p = picture(i % 3, w, h)
        yield "dtg %d %d %d 224 %s" % (i % 3, w, h, dump(consume_dtg(p)))
        if max(w, h) in (1, 3):  # 4.37 takes such an array for channels-first and fails
            continue
        for size in (336, 112):
            yield "padded %d %d %d %d %s" % (i % 3, w, h, size, dump(consume_padded(p, size)))


def stage2_lines():
    yield "# consumer kind w h size sha256 and four values (float32 bits); for sam also the resized h and w"
    for i, (w, h) in enumerate(SIZES):
        p = picture(i % 3, w, h)
        if h not in (1, 3):  # 4.28 takes such an array for channels-first and fails
            for size in (336, 112):
                yield "cropped %d %d %d %d %s" % (i % 3, w, h, size, dump(consume_cropped(p, size)))
        for size in (1024, 128):
            s = size / max(w, h)
            if min(int(w * s + 0.5), int(h * s + 0.5)) == 0:  # the original fails
                continue
            a, th, tw = consume_sam(p, size)
            yield "sam %d %d %d %d %s %d %d" % (i % 3, w, h, size, dump(a), th, tw)


def resize_lines():
    yield "# kind w h W H filter(2 bilinear, 3 bicubic) sha256"
    for i, (w, h, ow, oh) in enumerate(RESIZES):
        for f in (2, 3):
            kind = (i + f) % 3
            yield "%d %d %d %d %d %d %s" % (kind, w, h, ow, oh, f, digest(Image.fromarray(picture(kind, w, h)).resize((ow, oh), f)))


def decode_lines(out_dir, files):
    yield "# file mode w h orientation, then width height sha256 of the RGB pixels as Pillow and as cv2.imread give them; - = refused"
    for name, data in files:
        path = os.path.join(out_dir, name)
        pil, cv = decode_pil(data), decode_cv2(path)
        if pil is None:
            head, a = "- 0 0 1", "0 0 -"
        else:
            o = pil[2] if pil[2] in range(1, 9) else 1
            head = "%s %d %d %d" % (pil[0], pil[1][0], pil[1][1], o)
            a = "%d %d %s" % (pil[3].shape[1], pil[3].shape[0], digest(pil[3]))
        b = "0 0 -" if cv is None else "%d %d %s" % (cv.shape[1], cv.shape[0], digest(cv))
        yield "%s %s %s %s" % (name, head, a, b)


def main():
    check = "--check" in sys.argv
    out_dir = [a for a in sys.argv[1:] if not a.startswith("--")][0]
    bad = []

    def put(name, data):
        path = os.path.join(out_dir, name)
        if check:
            with open(path, "rb") as f:
                if f.read() != data:
                    bad.append(name)
        else:
            with open(path, "wb") as f:
                f.write(data)

    if STAGE2:
        files = [f for make in (jpegs, pngs, webps, tiffs, bmps) for f in make()]
        assert len({n for n, _ in files}) == len(files)
        for name, data in files:
            put(name, data)
        if not check:
            heifs(out_dir)
        for name, lines in (("decode.txt", decode_lines(out_dir, files)), ("resize.txt", resize_lines()),
                            ("preprocess_mflm.txt", stage2_lines())):
            put(name, ("\n".join(lines) + "\n").encode())
    else:
        put("preprocess_dte.txt", ("\n".join(stage1_lines()) + "\n").encode())
    for name in bad:
        print("differs: " + name)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

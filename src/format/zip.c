/* The directory of a zip archive (PKWARE APPNOTE 6.3), as far as PyTorch uses it: entries are stored, not compressed; sizes and
 * offsets may need 64 bits. The directory stands at the end of the file, so a file that was cut short has none.
 *
 * Every offset and size is checked against the bytes there are; a compressed, encrypted or multi-disk archive is refused; a local
 * header that names another entry than the directory does is refused, so that no two readers see different contents. */
#include "format/zip.h"

#include <stdlib.h>
#include <string.h>

enum {
    END_SIZE = 22, END64_SIZE = 56, LOCATOR_SIZE = 20, CENTRAL_SIZE = 46, LOCAL_SIZE = 30, COMMENT_MAX = 65535, EXTRA_ZIP64 = 1
};
static const uint32_t END_MAGIC = 0x06054b50, END64_MAGIC = 0x06064b50, LOCATOR_MAGIC = 0x07064b50, CENTRAL_MAGIC = 0x02014b50,
                      LOCAL_MAGIC = 0x04034b50;

typedef struct view { const char *file; const uint8_t *data; size_t size; } view;
typedef struct directory { uint64_t offset, size, count; } directory;

static uint64_t little(const uint8_t *p, int bytes) {
    uint64_t v = 0;
    while (bytes-- > 0) v = v << 8 | p[bytes];
    return v;
}
static uint32_t u16(const uint8_t *p) { return (uint32_t)little(p, 2); }
static uint32_t u32(const uint8_t *p) { return (uint32_t)little(p, 4); }

static bool inside(const view *v, uint64_t offset, uint64_t size) { return offset <= v->size && size <= v->size - offset; }

static fs_status damaged(const view *v, const char *what, fs_error *err) {
    return fs_fail(err, FS_E_FORMAT, "%s: %s; the file is damaged: download it again", v->file, what);
}

/* The end record: the last one whose comment ends with the file. */
static const uint8_t *find_end(const view *v) {
    for (size_t back = END_SIZE; back <= v->size && back <= END_SIZE + COMMENT_MAX; back++) {
        const uint8_t *p = v->data + v->size - back;
        if (p[0] == 'P' && u32(p) == END_MAGIC && u16(p + 20) == back - END_SIZE) return p;
    }
    return NULL;
}

static fs_status read_end(const view *v, directory *d, fs_error *err) {
    const uint8_t *end = find_end(v);
    if (!end)
        return fs_fail(
            err, FS_E_FORMAT,
            "%s: the zip directory that should stand at its end is missing after %zu bytes: the file is cut short, download it again",
            v->file, v->size);
    size_t at = (size_t)(end - v->data);
    uint32_t disk = u16(end + 4), first_disk = u16(end + 6);
    *d = (directory){u32(end + 16), u32(end + 12), u16(end + 10)};
    if (at >= LOCATOR_SIZE && u32(end - LOCATOR_SIZE) == LOCATOR_MAGIC) {
        uint64_t where = little(end - LOCATOR_SIZE + 8, 8);
        const uint8_t *e64 = inside(v, where, END64_SIZE) ? v->data + where : NULL;
        if (!e64 || u32(e64) != END64_MAGIC) return damaged(v, "its zip64 end record is not where it should be", err);
        disk = u32(e64 + 16);
        first_disk = u32(e64 + 20);
        *d = (directory){little(e64 + 48, 8), little(e64 + 40, 8), little(e64 + 32, 8)};
    }
    if (disk != 0 || first_disk != 0)
        return fs_fail(err, FS_E_UNSUPPORTED, "%s: is one part of a split zip archive: join the parts first", v->file);
    if (!inside(v, d->offset, d->size)) return damaged(v, "its zip directory reaches beyond its end", err);
    if (d->count > d->size / CENTRAL_SIZE) return damaged(v, "its zip directory is smaller than its entries", err);
    return FS_OK;
}

/* Sizes and offset that did not fit 32 bits stand, in this order, in the zip64 extra field. */
static bool read_zip64(const uint8_t *extra, size_t length, uint64_t *full, uint64_t *packed, uint64_t *offset) {
    bool needed = *full == UINT32_MAX || *packed == UINT32_MAX || *offset == UINT32_MAX;
    while (needed && length >= 4) {
        size_t id = u16(extra), n = u16(extra + 2);
        if (n > length - 4) return false;
        if (id == EXTRA_ZIP64) {
            const uint8_t *p = extra + 4, *stop = p + n;
            uint64_t *const fields[] = {full, packed, offset};
            for (int i = 0; i < 3; i++) {
                if (*fields[i] != UINT32_MAX) continue;
                if (stop - p < 8) return false;
                *fields[i] = little(p, 8);
                p += 8;
            }
            return true;
        }
        extra += 4 + n;
        length -= 4 + n;
    }
    return true;
}

static fs_status check_stored(const view *v, const fs_zip_entry *e, uint32_t flags, uint32_t method, uint64_t full, uint64_t packed,
                              fs_error *err) {
    int n = (int)(e->name_length < 200 ? e->name_length : 200);
    if (flags & 1)
        return fs_fail(err, FS_E_UNSUPPORTED, "%s: entry %.*s is encrypted: unpack it and save the weights again", v->file, n, e->name);
    if (method != 0)
        return fs_fail(
            err, FS_E_UNSUPPORTED,
            "%s: entry %.*s is compressed (method %u); torch.save never does that, so this was packed again: unpack it, or zip it "
            "without compression (zip -0)",
            v->file, n, e->name, method);
    if (full != packed)
        return fs_fail(err, FS_E_FORMAT, "%s: entry %.*s has two different sizes; the file is damaged: download it again", v->file, n,
                       e->name);
    return FS_OK;
}

/* One record of the directory at `at`, and its local header. *at moves behind it. */
static fs_status read_entry(const view *v, uint64_t stop, uint64_t *at, fs_zip_entry *e, fs_error *err) {
    if (stop - *at < CENTRAL_SIZE || u32(v->data + *at) != CENTRAL_MAGIC) return damaged(v, "its zip directory is broken", err);
    const uint8_t *p = v->data + *at;
    size_t name = u16(p + 28), extra = u16(p + 30), comment = u16(p + 32);
    if (stop - *at - CENTRAL_SIZE < name + extra + comment) return damaged(v, "its zip directory is broken", err);
    *at += CENTRAL_SIZE + name + extra + comment;
    uint64_t packed = u32(p + 20), full = u32(p + 24), offset = u32(p + 42);
    *e = (fs_zip_entry){.name = (const char *)p + CENTRAL_SIZE, .name_length = name};
    if (!read_zip64(p + CENTRAL_SIZE + name, extra, &full, &packed, &offset))
        return damaged(v, "a zip64 field of its directory is broken", err);
    fs_status status = check_stored(v, e, u16(p + 8), u16(p + 10), full, packed, err);
    if (status) return status;

    if (!inside(v, offset, LOCAL_SIZE) || u32(v->data + offset) != LOCAL_MAGIC)
        return damaged(v, "a zip entry is not where the directory says", err);
    const uint8_t *local = v->data + offset;
    size_t local_name = u16(local + 26), local_extra = u16(local + 28);
    uint64_t start = offset + LOCAL_SIZE + local_name + local_extra;
    if (local_name != name || !inside(v, offset + LOCAL_SIZE, name) || memcmp(local + LOCAL_SIZE, e->name, name) != 0)
        return damaged(v, "a zip entry has another name than the directory says", err);
    if (!inside(v, start, full)) return damaged(v, "a zip entry reaches beyond its end", err);
    e->data = v->data + start;
    e->size = (size_t)full;
    return FS_OK;
}

fs_status fs_zip_open(const char *file, const uint8_t *data, size_t size, fs_zip *out, fs_error *err) {
    view v = {file, data, size};
    directory d = {0};
    *out = (fs_zip){0};
    fs_status status = read_end(&v, &d, err);
    if (status) return status;
    out->entries = fs_alloc((size_t)d.count + 1, sizeof *out->entries);
    if (!out->entries) return fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for its zip directory", file);
    uint64_t at = d.offset, stop = d.offset + d.size;
    for (uint64_t i = 0; i < d.count; i++) {
        fs_zip_entry *e = &out->entries[out->count];
        bool added;
        status = read_entry(&v, stop, &at, e, err);
        if (status) return status;
        if (!fs_strmap_put(&out->names, e->name, e->name_length, out->count, &added))
            return fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for its zip directory", file);
        if (!added) return damaged(&v, "a zip entry is there twice", err);
        out->count++;
    }
    return FS_OK;
}

const fs_zip_entry *fs_zip_find(const fs_zip *z, const char *name, size_t length) {
    const size_t *i = fs_strmap_get(&z->names, name, length);
    return i ? &z->entries[*i] : NULL;
}

void fs_zip_close(fs_zip *z) {
    free(z->entries);
    fs_strmap_free(&z->names);
    *z = (fs_zip){0};
}

/* TensorBoard's event files: TFRecords (length and bytes, each with a masked CRC-32C) that hold Event messages of protocol buffers. Only
 * what scalars need of tensorflow/core/util/event.proto and framework/summary.proto is written:
 *
 *     Event    wall_time = 1 (double)   step = 2 (int64)   file_version = 3 (string)   summary = 5   session_log = 7
 *     Summary  value = 1 (repeated)     Value: tag = 1 (string), simple_value = 2 (float)
 *     SessionLog  status = 1 (START = 1) */
#include <string.h>

#include "train/trainlog.h"

/* Bit by bit: a few hundred bytes a step. 0x82F63B78 is the polynomial 0x1EDC6F41 with its bits reversed. */
uint32_t fs_crc32c(const void *data, size_t n) {
    const uint8_t *p = data;
    uint32_t crc = 0xFFFFFFFFu;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
    }
    return ~crc;
}

uint32_t fs_crc32c_masked(const void *data, size_t n) {
    const uint32_t crc = fs_crc32c(data, n);
    return (crc >> 15 | crc << 17) + 0xA282EAD8u;
}

static void add_little(fs_buffer *b, uint64_t x, int bytes) {
    uint8_t out[8];
    for (int i = 0; i < bytes; i++) out[i] = (uint8_t)(x >> (8 * i));
    fs_buffer_add(b, out, (size_t)bytes);
}

void fs_tfrecord_add(fs_buffer *b, const void *data, size_t n) {
    uint8_t length[8];
    for (int i = 0; i < 8; i++) length[i] = (uint8_t)((uint64_t)n >> (8 * i));
    fs_buffer_add(b, length, 8);
    add_little(b, fs_crc32c_masked(length, 8), 4);
    fs_buffer_add(b, data, n);
    add_little(b, fs_crc32c_masked(data, n), 4);
}

/* ---- protocol buffers ------------------------------------------------------------------------------------------------- */

enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 };

static void add_varint(fs_buffer *b, uint64_t x) {
    for (; x >= 0x80; x >>= 7) add_little(b, (x & 0x7F) | 0x80, 1);
    add_little(b, x, 1);
}

static void add_key(fs_buffer *b, unsigned field, unsigned kind) {
    add_varint(b, field << 3 | kind);
}

static void add_double(fs_buffer *b, unsigned field, double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    add_key(b, field, FIXED64);
    add_little(b, bits, 8);
}

static void add_float(fs_buffer *b, unsigned field, float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    add_key(b, field, FIXED32);
    add_little(b, bits, 4);
}

static void add_bytes(fs_buffer *b, unsigned field, const void *data, size_t n) {
    add_key(b, field, BYTES);
    add_varint(b, n);
    fs_buffer_add(b, data, n);
}

static void finish(fs_buffer *b, fs_buffer *event) {
    if (event->failed)
        b->failed = true;
    else
        fs_tfrecord_add(b, event->data, event->size);
    fs_buffer_free(event);
}

static fs_buffer begin(double time, int64_t step) {
    fs_buffer event = {0};
    add_double(&event, 1, time);
    if (step) {
        add_key(&event, 2, VARINT);
        add_varint(&event, (uint64_t)step);
    }
    return event;
}

void fs_event_add_version(fs_buffer *b, double time) {
    static const char version[] = "brain.Event:2";
    fs_buffer event = begin(time, 0);
    add_bytes(&event, 3, version, sizeof version - 1);
    finish(b, &event);
}

void fs_event_add_restart(fs_buffer *b, double time, int64_t step) {
    static const uint8_t started[] = {1 << 3 | VARINT, 1};
    fs_buffer event = begin(time, step);
    add_bytes(&event, 7, started, sizeof started);
    finish(b, &event);
}

void fs_event_add_scalars(fs_buffer *b, double time, int64_t step, const char *const *names, const double *values, size_t n) {
    fs_buffer event = begin(time, step), summary = {0}, value = {0};
    for (size_t i = 0; i < n; i++) {
        value.size = 0;
        add_bytes(&value, 1, names[i], strlen(names[i]));
        add_float(&value, 2, (float)values[i]);
        add_bytes(&summary, 1, value.data, value.size);
    }
    add_bytes(&event, 5, summary.data, summary.size);
    event.failed |= summary.failed || value.failed;
    finish(b, &event);
    fs_buffer_free(&summary);
    fs_buffer_free(&value);
}

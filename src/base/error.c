/* Errors as one line a user can act on, status names, the log callback. */
#include "base/base.h"

#include <string.h>

const char *fs_version(void) { return FS_VERSION_TEXT; }

const char *fs_status_name(fs_status status) {
    switch (status) {
    case FS_OK: return "ok";
    case FS_E_FAILED: return "failed";
    case FS_E_USAGE: return "usage";
    case FS_E_NOT_FOUND: return "not-found";
    case FS_E_IO: return "io";
    case FS_E_FORMAT: return "format";
    case FS_E_UNSUPPORTED: return "unsupported";
    case FS_E_LIMIT: return "limit";
    case FS_E_MISMATCH: return "mismatch";
    case FS_E_NO_MEMORY: return "no-memory";
    case FS_E_NUMERIC: return "numeric";
    case FS_E_CANCELLED: return "cancelled";
    case FS_E_INTERNAL: return "internal";
    }
    return "unknown";
}

/* Names inside messages come from untrusted files: nothing that moves a terminal's cursor may pass. UTF-8 bytes do. A cut may not leave
 * half a character at the end. */
static void make_one_line(char *s, size_t room, bool cut) {
    for (char *p = s; *p; p++) {
        unsigned char c = (unsigned char)*p;
        if (c < 0x20 || c == 0x7f) *p = c == '\n' || c == '\t' ? ' ' : '?';
    }
    if (!cut || room < 8) return;
    char *end = s + room - 4;
    while (end > s && ((unsigned char)*end & 0xC0) == 0x80) end--;
    memcpy(end, "...", 4);
}

fs_status fs_vfail(fs_error *err, fs_status status, const char *format, va_list args) {
    if (err) {
        err->status = status;
        int n = vsnprintf(err->message, sizeof err->message, format, args);
        if (n < 0) snprintf(err->message, sizeof err->message, "%s", fs_status_name(status));
        make_one_line(err->message, sizeof err->message, n >= (int)sizeof err->message);
    }
    return status;
}

fs_status fs_fail(fs_error *err, fs_status status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fs_vfail(err, status, format, args);
    va_end(args);
    return status;
}

fs_status fs_error_prefix(fs_error *err, const char *format, ...) {
    if (!err) return FS_E_FAILED;
    fs_error old = *err;
    char context[sizeof err->message];
    va_list args;
    va_start(args, format);
    vsnprintf(context, sizeof context, format, args);
    va_end(args);
    return fs_fail(err, old.status, "%s: %s", context, old.message);
}

void fs_log(const fs_callbacks *cb, fs_log_level level, const char *format, ...) {
    if (!cb || !cb->log) return;
    char line[2048];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (n < 0) return;
    make_one_line(line, sizeof line, n >= (int)sizeof line);
    cb->log(cb->user_data, level, line);
}

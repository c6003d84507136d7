/* What this machine has left: memory that a program may take without pushing others out. */
#include "base/base.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* The number in a file like /sys/fs/cgroup/memory.max; -1 if there is none ("max"). */
static int64_t number_in(const char *path) {
    char line[64], *end = line;
    long long n = -1;
    FILE *f = fopen(path, "r");
    if (!f) return -1;
    if (fgets(line, sizeof line, f)) n = strtoll(line, &end, 10);
    fclose(f);
    return end > line ? n : -1;
}

int64_t fs_memory_available(void) {
    char line[128];
    int64_t bytes = -1;
    FILE *f = fopen("/proc/meminfo", "r");
    while (f && fgets(line, sizeof line, f)) {
        static const char name[] = "MemAvailable:";
        if (strncmp(line, name, sizeof name - 1) == 0) bytes = strtoll(line + sizeof name - 1, NULL, 10) * 1024; /* "  123 kB" */
    }
    if (f) fclose(f);
    const int64_t limit = number_in("/sys/fs/cgroup/memory.max"), used = number_in("/sys/fs/cgroup/memory.current"); /* in a container */
    if (limit >= 0 && used >= 0 && (bytes < 0 || limit - used < bytes)) bytes = fs_max_i64(0, limit - used);
    return bytes;
}

bool fs_lock_pages(const void *data, size_t size) {
    if (size == 0) return true;
#ifdef MLOCK_ONFAULT
    if (mlock2(data, size, MLOCK_ONFAULT) == 0) return true;
    if (errno != ENOSYS) return false;
#endif
    return mlock(data, size) == 0;
}

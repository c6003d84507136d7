/* Downloading weights from a model hub: what the files of this room share.
 *
 *   listing.c   the hub's list of files, which is not to be trusted: names, sizes, checksums
 *   digest.c    SHA-256, or git's SHA-1 of a blob for small files
 *   partial.c   a file that is half there: NAME.part with the bytes, NAME.part.json with what of it is valid
 *   http.c      one request: options, reply headers, what a failure means and whether to try again
 *   chat.c      questions to a language model's service (dataset describe)
 *   transfer.c  many requests at a time, until every file is whole and its checksum right
 *   pull.c      the public fs_pull: list, compare with the folder, check the disk, transfer
 *
 * Facts of the hub (from its public client, huggingface_hub): {base}/api/models/{repo}/tree/{revision}?recursive=true answers with a JSON
 * list of
 * {"type": "file", "path", "size", "oid": SHA-1 of the git blob, "lfs": {"oid": SHA-256, "size"}}, where "lfs" is there for large files
 * only and "oid" is then of no use (it is the pointer's). More pages are named in a Link header with rel="next".
 * {base}/{repo}/resolve/{revision}/{path} redirects to where the bytes lie. */
#ifndef FS_NET_H
#define FS_NET_H

#include <curl/curl.h>
#include <jansson.h>

#include "base/base.h"

/* ---- listing.c ----------------------------------------------------------------------------------------------------- */

enum { FS_NET_MAX_FILES = 100000, FS_NET_MAX_PATH = 1024, FS_NET_MAX_NAME = 200 };
enum { FS_NET_MAX_ERROR_PAGE = 1 << 20 };
#define FS_NET_MAX_BYTES ((int64_t)1 << 40) /* one file: 1 TiB */

typedef struct fs_net_entry {
    char *path; /* relative, '/' between names; checked: it stays inside the folder and prints safely */
    int64_t size;
    bool git;      /* hash is git's SHA-1 of the blob, 40 digits; else SHA-256, 64 digits */
    char hash[65]; /* lower-case hex */
} fs_net_entry;

typedef struct fs_net_listing {
    fs_net_entry *items;
    size_t count, room;
    int64_t total; /* bytes; at most FS_NET_MAX_FILES * FS_NET_MAX_BYTES, which fits */
} fs_net_listing;

/* Adds one page; where: for error lines. Directories are passed over. */
fs_status fs_net_listing_add(fs_net_listing *l, const char *where, const void *json, size_t size, fs_error *err);
fs_status fs_net_listing_add_array(fs_net_listing *l, const char *where, const json_t *files, fs_error *err);
/* After the last page: sorts by path; refuses what names a file twice, or as a folder too. */
fs_status fs_net_listing_finish(fs_net_listing *l, const char *where, fs_error *err);
/* Takes out what FakeShield has no use for: git's own files, other frameworks' copies of the weights. */
void fs_net_listing_trim(fs_net_listing *l);
void fs_net_listing_free(fs_net_listing *l);
json_t *fs_net_listing_array(const fs_net_listing *l); /* as the hub writes it; NULL when out of memory */
/* The address of rel="next" in the value of a Link header: malloc'ed, or NULL. */
char *fs_net_link_next(const char *value);
/* The address of the next page on the hub or mirror `base`: a hub's own address is turned to the mirror's. NULL if it leads elsewhere. */
char *fs_net_next_page(const char *base, const char *link);

/* ---- digest.c ------------------------------------------------------------------------------------------------------ */

typedef struct fs_net_sha1 {
    uint32_t h[5];
    uint64_t size;
    uint8_t tail[64];
} fs_net_sha1;
typedef struct fs_net_digest {
    bool git;
    fs_sha256 sha256;
    fs_net_sha1 sha1;
} fs_net_digest;
void fs_net_digest_begin(fs_net_digest *d, const fs_net_entry *e);
void fs_net_digest_add(fs_net_digest *d, const void *data, size_t size);
void fs_net_digest_end(fs_net_digest *d, char out[65]);

/* ---- partial.c ----------------------------------------------------------------------------------------------------- */

typedef struct fs_net_part { /* bytes [i * part_bytes, + have) of the file are valid */
    int64_t have;
    int failures; /* in a row, without progress */
    double not_before;
    bool active;
} fs_net_part;

typedef struct fs_net_partial {
    const fs_net_entry *entry;
    char *target, *data_path, *state_path, *new_path; /* new_path: the state while it is written */
    int fd;                                           /* of data_path, locked; -1 = not open */
    int64_t part_bytes;
    fs_net_part *parts;
    size_t count;
} fs_net_partial;

extern const char fs_net_partial_suffix[], fs_net_state_suffix[], fs_net_new_suffix[];
/* Opens or makes the partial file of dir/entry->path, folders included, and takes up what an earlier run left if it is of the same file. */
fs_status fs_net_partial_open(fs_net_partial *p, const char *dir, const fs_net_entry *e, int64_t part_bytes, fs_error *err);
/* Forgets all bytes; from here on in parts of part_bytes. */
fs_status fs_net_partial_reset(fs_net_partial *p, int64_t part_bytes, fs_error *err);
fs_status fs_net_partial_write(fs_net_partial *p, size_t part, const void *data, size_t size, fs_error *err);
fs_status fs_net_partial_save(fs_net_partial *p, fs_error *err);   /* after this a killed run loses nothing */
fs_status fs_net_partial_commit(fs_net_partial *p, fs_error *err); /* fsync, rename to the target */
void fs_net_partial_drop(fs_net_partial *p);                       /* removes both files; close it then */
void fs_net_partial_close(fs_net_partial *p);
int64_t fs_net_part_size(const fs_net_partial *p, size_t part);
int64_t fs_net_partial_have(const fs_net_partial *p);  /* all valid bytes */
int64_t fs_net_partial_ready(const fs_net_partial *p); /* valid bytes from the beginning up to the first gap */

/* ---- http.c -------------------------------------------------------------------------------------------------------- */

typedef struct fs_net_hub {
    char *base, *repo, *revision; /* base without '/' at the end; revision percent-encoded */
    const fs_pull_options *opt;
    struct curl_slist *headers;
} fs_net_hub;
/* What is wrong with an address that others are built from ("does not begin with ...", "names no host"), or NULL. */
const char *fs_net_base_fault(const char *base);
bool fs_net_is_loopback(const char *base); /* of an address without fault: is it this machine? */
fs_status fs_net_hub_open(fs_net_hub *h, const char *repo, const fs_pull_options *opt, fs_error *err);
void fs_net_hub_close(fs_net_hub *h);
char *fs_net_file_url(const fs_net_hub *h, const char *path);
char *fs_net_tree_url(const fs_net_hub *h);

typedef struct fs_net_reply { /* headers of the last answer in a chain of redirects */
    long code;
    int64_t length;                               /* -1 = not said */
    int64_t range_first, range_last, range_total; /* of Content-Range; -1 = not said */
    int retry_after;                              /* seconds; 0 = not said */
    char *next;                                   /* fs_net_link_next */
} fs_net_reply;
void fs_net_reply_clear(fs_net_reply *r);
/* A handle with everything set but the write callback; reply is filled while it runs. NULL when out of memory. */
CURL *fs_net_request(const fs_net_hub *h, const char *url, fs_net_reply *reply, char *error_text);
/* What went wrong, into *err, and its status; *again: trying again may help. */
fs_status fs_net_explain(const fs_net_hub *h, CURL *c, const char *url, CURLcode code, const fs_net_reply *r, const char *error_text,
                         bool *again, fs_error *err);
double fs_net_delay(const fs_net_hub *h, int failures, const fs_net_reply *r); /* seconds to wait before the next attempt */
/* One small document, with retries. *next: address of the next page or NULL; the caller's. */
fs_status fs_net_get(const fs_net_hub *h, const char *url, size_t max_bytes, fs_buffer *out, char **next, fs_error *err);

/* ---- transfer.c ---------------------------------------------------------------------------------------------------- */

/* Fetches the entries whose wanted[i] is true into dir. Reports each through opt->file as it is finished. */
fs_status fs_net_transfer(const fs_net_hub *h, const char *dir, const fs_net_listing *l, const bool *wanted, fs_error *err);

#endif

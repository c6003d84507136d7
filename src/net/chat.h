/* One question to an OpenAI-compatible service: POST {url}/chat/completions with a JSON body, a JSON body back. Pictures and key go to the
 * host that was named and to no other: a redirect is not followed, it is an error that tells where it leads. */
#ifndef FS_NET_CHAT_H
#define FS_NET_CHAT_H

#include "base/base.h"

enum { FS_CHAT_MAX_REPLY = 8 << 20 };

typedef struct fs_chat {
    const char *url, *key;         /* url without /chat/completions; key NULL = none */
    int timeout_seconds;           /* of the whole request */
    bool (*stop)(void *user_data); /* asked several times a second, on the thread that asks; NULL = never */
    void *user_data;
} fs_chat;

/* FS_E_USAGE: an address that is none, a key that would travel in the clear or holds characters no key has. */
fs_status fs_chat_check(const fs_chat *c, fs_error *err);
char *fs_chat_address(const fs_chat *c); /* where it goes; malloc'ed */

typedef enum fs_chat_trouble {
    FS_CHAT_FINE = 0,
    FS_CHAT_AGAIN = 1, /* may pass: too many requests, the server's fault, the network */
    FS_CHAT_THIS = 2,  /* this question is refused; others may not be */
    FS_CHAT_ALL = 3    /* no question will get through: the key, the address, the model's name */
} fs_chat_trouble;

/* *out: the reply's body, of at most FS_CHAT_MAX_REPLY bytes. *wait: seconds the service asks to wait (Retry-After), 0 = it does not say.
 * On failure *trouble says what it means for what comes next. The key is in no message. */
fs_status fs_chat_post(const fs_chat *c, const char *body, size_t size, fs_buffer *out, fs_chat_trouble *trouble, int *wait, fs_error *err);

#endif

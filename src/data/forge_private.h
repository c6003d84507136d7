/* What fs_forge_make and fs_forge share. Private to src/data. */
#ifndef FS_DATA_FORGE_PRIVATE_H
#define FS_DATA_FORGE_PRIVATE_H

#include "data/forge_texts.h"

struct fs_forger {
    fs_forge_options opt; /* texts_file is not kept */
    fs_sources *sources;
    fs_texts *texts;
};

#endif

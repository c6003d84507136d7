/* A training set of generated pictures: coloured scenes with a rectangle of another colour, at one of eight places, as the tampered area. */
#ifndef FS_TEST_TRAINSET_H
#define FS_TEST_TRAINSET_H

#include "base/base.h"

enum { FS_TRAINSET_MAX = 8 };

/* Below dir: ps/A/image/pN.png, ps/A/mask/pN.png, ps/A/lisa_train_output.json and lisa_val_output.json, and conversations.json with absolute paths. n
 * records, n <= FS_TRAINSET_MAX; domains[n]: the tag in each question, NULL: Photoshop for all. False when something could not be written. */
bool fs_trainset_write(const char *dir, int n, const fs_domain *domains);
const char *fs_trainset_text(int i);            /* the answer of record i */
char *fs_trainset_image(const char *dir, int i); /* its path, malloc'ed */
char *fs_trainset_mask(const char *dir, int i);

#endif

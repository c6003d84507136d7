/* Operators. Each runs at once on the context's backend and returns a new tensor in its arena; inputs are never changed, so a tape
 * can record any of them. Shapes are PyTorch's, outermost first, row-major. x: F32 activations; w, b: weights of any float type.
 * Every result is rounded to the context's precision once, as PyTorch does for a network of that type: products accumulate in f32
 * and the bias is added before rounding; normalisations and softmax compute in f32 (sums in f64 where that is free).
 * A weight of another float type than the precision is rounded to it as it is read: a network in that type holds it so.
 * Results do not depend on the number of threads: threads divide outputs, never a sum. Nor does a row's result depend on the rows beside
 * it, except that up to 12 rows of linear and up to 12 queries of attention go through other kernels than more do: among each other they
 * have the same bits (so one token at a time is the same as a few), against more of them the last bits differ. Packed 4-bit weights may have a
 * third class, 48 rows of linear and more, rounded another way (backend/cpu/q_kernels.h: longer groups).
 * On any misuse (shape, dtype) the context's error is set and NULL returned. */
#ifndef FS_OPS_H
#define FS_OPS_H

#include "tensor/tensor.h"

enum { FS_FEW_ROWS = 12 }; /* the 12 of which the above speaks */

/* -- shape only -- */
/* Another shape over the same data; counts must agree. */
fs_tensor *fs_reshape(fs_exec *c, const fs_tensor *x, int ndim, const int64_t *shape);
#define fs_reshape_2d(c, x, a, b) fs_reshape((c), (x), 2, (const int64_t[]){(a), (b)})
#define fs_reshape_3d(c, x, a, b_, d) fs_reshape((c), (x), 3, (const int64_t[]){(a), (b_), (d)})
/* Rows [begin, end) of the first dimension, no copy. */
fs_tensor *fs_rows(fs_exec *c, const fs_tensor *x, int64_t begin, int64_t end);
/* Columns [begin, end) of the last dimension, copied. */
fs_tensor *fs_columns(fs_exec *c, const fs_tensor *x, int64_t begin, int64_t end);
/* Rows rows[0..n) of the first dimension, copied; any row any number of times. */
fs_tensor *fs_gather_rows(fs_exec *c, const fs_tensor *x, const int64_t *rows, int64_t n);
/* Joined along the first dimension; all other dimensions equal. */
fs_tensor *fs_concat_rows(fs_exec *c, const fs_tensor *const *parts, size_t n);
/* x: [a, b] -> [b, a]; with more dimensions: the first against all others taken together ([C,H,W] -> [H*W, C]). */
fs_tensor *fs_transpose(fs_exec *c, const fs_tensor *x);
/* Copy (F32 of any float weight, rounded to the precision). */
fs_tensor *fs_to_f32(fs_exec *c, const fs_tensor *w);

/* -- elementwise -- */
fs_tensor *fs_add(fs_exec *c, const fs_tensor *a, const fs_tensor *b); /* b: same shape, or the trailing dimensions of a (broadcast), any float type */
fs_tensor *fs_mul(fs_exec *c, const fs_tensor *a, const fs_tensor *b); /* likewise */
fs_tensor *fs_scale(fs_exec *c, const fs_tensor *x, float factor);
fs_tensor *fs_relu(fs_exec *c, const fs_tensor *x);
fs_tensor *fs_gelu(fs_exec *c, const fs_tensor *x);       /* exact: x * 0.5 * (1 + erf(x / sqrt 2)) */
fs_tensor *fs_quick_gelu(fs_exec *c, const fs_tensor *x); /* x * sigmoid(1.702 x), CLIP's; each of the three steps rounded */
fs_tensor *fs_silu(fs_exec *c, const fs_tensor *x);
fs_tensor *fs_silu_mul(fs_exec *c, const fs_tensor *gate, const fs_tensor *up); /* silu(gate) * up; silu rounded before the product */
/* Training only: each value is 0 with probability p, else x / (1 - p). Which ones is a function of the key and the value's index alone, so a
 * segment that is computed again (fs_checkpoint) drops the same; take another key for every call and step. p: [0, 1); 0 gives x itself. */
fs_tensor *fs_dropout(fs_exec *c, const fs_tensor *x, float p, uint64_t key);

/* -- products -- */
/* x: [..., in], w: [out, in], b: [out] or NULL -> [..., out] = x w^T + b. w may also be of a block type, or packed
 * (tensor/packed.h); packed, x is rounded to 8 bits in groups of 32 (many rows of 4-bit weights: of 128): each value within 1/254 of its
 * group's largest. */
fs_tensor *fs_linear(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b);
/* The same and what follows it in one pass: gelu(linear), quick_gelu(linear), residual + linear. The bits are those of the two operators one
 * after the other. residual: F32, rows and width of the result. */
fs_tensor *fs_linear_gelu(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b);
fs_tensor *fs_linear_quick_gelu(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b);
fs_tensor *fs_linear_add(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b, const fs_tensor *residual);
/* A linear layer with a low-rank adapter beside it, in one pass and with little to remember: residual + x w^T + scale (xd a^T) b^T -> [n, out]. xd: what
 * the adapter sees, x itself or x after dropout. a: [rank, in], b: [out, rank]: F32, F16 or BF16. w or residual may be NULL. Precision F32 only. */
fs_tensor *fs_linear_lora(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *residual, const fs_tensor *xd, const fs_tensor *a,
                          const fs_tensor *b, float scale);
/* a: [m, k], b: [k, n] (both F32) -> [m, n] */
fs_tensor *fs_matmul(fs_exec *c, const fs_tensor *a, const fs_tensor *b);
/* x: [C, H, W], w: [O, C, kh, kw], b: [O] or NULL, stride, zero padding -> [O, H', W']; or [N, C, H, W] -> [N, O, H', W'] */
fs_tensor *fs_conv2d(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b, int stride, int pad);
/* Convolution without bias, batch norm (eps included), + residual unless NULL, ReLU if asked for: the bits of these operators one after the
 * other, in one pass. */
typedef struct fs_batch { const fs_tensor *w, *b, *mean, *var; float eps; } fs_batch;
fs_tensor *fs_conv2d_norm(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_batch *norm, int stride, int pad, const fs_tensor *residual,
                          bool relu);
/* The same with a kernel made ready once: `form` (zero at first) is filled by the first call, belongs to w and must be given to no other. With it a
 * 3 x 3 kernel at stride 1 may run by Winograd's method, whose last digits are others; still the same for any number of threads. Precision F32
 * only; in others, or without memory for the form, as without one. */
typedef struct fs_conv_form { float *values; int tile; bool few, tried; } fs_conv_form; /* tile: 2 or 4 of Winograd's, 0: the product's own order */
fs_tensor *fs_conv2d_norm_kept(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_batch *norm, int stride, int pad, const fs_tensor *residual,
                               bool relu, fs_conv_form *form);
void fs_conv_form_free(fs_conv_form *form);
/* x: [C, H, W], w: [C, O, kh, kw], b: [O] or NULL; stride, no padding -> [O, (H-1)*stride+kh, ...] */
fs_tensor *fs_conv_transpose2d(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b, int stride);
/* ids: [n] token ids in [0, rows), table: [rows, width] any float, block or packed type -> [n, width] */
fs_tensor *fs_embedding(fs_exec *c, const int32_t *ids, int64_t n, const fs_tensor *table);

/* -- normalisation -- */
fs_tensor *fs_layer_norm(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b, float eps); /* over the last dimension */
/* RMSNorm as LLaMA: y = x * rsqrt(mean(x^2) + eps) rounded, then times w, rounded again. Over the last dimension. */
fs_tensor *fs_rms_norm(fs_exec *c, const fs_tensor *x, const fs_tensor *w, float eps);
/* SAM's LayerNorm2d. x: [C, H, W], over C, biased variance; each of mean, difference, square, variance, root, quotient, product and
 * sum is rounded to the precision separately (it is written out elementwise upstream). */
fs_tensor *fs_layer_norm_2d(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b, float eps);
fs_tensor *fs_group_norm(fs_exec *c, const fs_tensor *x, int groups, const fs_tensor *w, const fs_tensor *b, float eps); /* x: [C, H, W] */
/* Inference: (x - mean) / sqrt(var + eps) * w + b per channel. x: [C, H, W] or [N, C, H, W]; all four [C]. Mean and variance get no gradient. */
fs_tensor *fs_batch_norm(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b, const fs_tensor *mean,
                         const fs_tensor *var, float eps);
/* Training, as PyTorch's BatchNorm2d: mean and variance (biased) of the batch itself, over N, H and W. x: [N, C, H, W]; w, b: [C]. running_mean,
 * running_var: [C] of the caller's, NULL for none: what inference will use; each becomes (1 - momentum) of itself + momentum of the batch's (the
 * variance unbiased). Not for segments (fs_checkpoint), which run twice and would count the batch twice. */
fs_tensor *fs_batch_norm_train(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b, float *running_mean, float *running_var,
                               float momentum, float eps);
fs_tensor *fs_softmax(fs_exec *c, const fs_tensor *x); /* over the last dimension */

/* -- attention -- */
/* LLaMA's rotary embedding, half-rotation convention. x: [n, heads, d], positions: [n], 0 or more -> same shape. cos and sin are rounded to
 * the precision, and so are products and sum. */
fs_tensor *fs_rope(fs_exec *c, const fs_tensor *x, const int64_t *positions, float theta);
/* x: [n, heads, d] whose heads hold neighbouring pairs (2i, 2i+1), as GGUF files have them -> the same in halves (i, i + d/2). */
fs_tensor *fs_halves_from_pairs(fs_exec *c, const fs_tensor *x);
/* softmax(q k^T * scale [+ causal mask]) v per head, tiled: scores of one query block at a time, never the whole matrix.
 * q: [nq, heads, d], k, v: [nk, heads_kv, d] (heads a multiple of heads_kv; v's d may differ) -> [nq, heads, dv].
 * causal: query i sees keys 0 .. nk - nq + i. scale is applied to the scores (scores rounded, then scaled and rounded). A caller whose
 * original scales q instead (CLIP, SAM) scales q with fs_scale and passes 1. */
fs_tensor *fs_attention(fs_exec *c, const fs_tensor *q, const fs_tensor *k, const fs_tensor *v, float scale, bool causal);
/* The same, causal, for n sequences that lie one after the other and see nothing of each other. lengths: [n], of their rows in q, k and v alike. */
fs_tensor *fs_attention_apart(fs_exec *c, const fs_tensor *q, const fs_tensor *k, const fs_tensor *v, const int64_t *lengths, size_t n, float scale);
/* SAM's attention with decomposed relative positions over an h x w grid, one window at a time.
 * q, k, v: [windows, h*w, heads, d]; rel_h: [2h-1, d], rel_w: [2w-1, d]; scale multiplies q before the product, the relative terms use
 * the unscaled q -> [windows, h*w, heads, d]. */
fs_tensor *fs_attention_rel(fs_exec *c, const fs_tensor *q, const fs_tensor *k, const fs_tensor *v, const fs_tensor *rel_h,
                            const fs_tensor *rel_w, int64_t h, int64_t w, float scale);
/* The same in windows of win x win tokens (rel tables [2 win - 1, d]) straight from the qkv product over a grid, which is neither cut up nor
 * copied. qkv: [h, w, 3C]: q, k, v one after the other, each by heads. Windows that stick out have `pad` [3C] for tokens beyond the grid: what
 * the product gives for a token of zeros, its bias. -> [h, w, C] */
fs_tensor *fs_attention_grid(fs_exec *c, const fs_tensor *qkv, int64_t heads, const fs_tensor *pad, const fs_tensor *rel_h, const fs_tensor *rel_w,
                             int64_t win, float scale);
/* x: [h, w, C] -> [windows, win*win, C], zero padded at bottom and right; and back (cropped to h, w). */
fs_tensor *fs_window_partition(fs_exec *c, const fs_tensor *x, int64_t win);
fs_tensor *fs_window_unpartition(fs_exec *c, const fs_tensor *x, int64_t win, int64_t h, int64_t w);

/* -- pooling and sampling (all [C, H, W]; the first two [N, C, H, W] too) -- */
fs_tensor *fs_max_pool2d(fs_exec *c, const fs_tensor *x, int kernel, int stride, int pad);
fs_tensor *fs_mean_hw(fs_exec *c, const fs_tensor *x); /* -> [C] or [N, C] */
/* F.interpolate(mode="bilinear"), explicit sizes, no antialias; computed in f32, not rounded to the precision unless `round`. */
fs_tensor *fs_resize_bilinear(fs_exec *c, const fs_tensor *x, int64_t h, int64_t w, bool align_corners, bool round);
/* RoIAlign (He et al. 2017), average, aligned = true. boxes: [n][4] x0,y0,x1,y1 in input units -> [n, C, out, out]. */
fs_tensor *fs_roi_align(fs_exec *c, const fs_tensor *x, const float *boxes, int64_t n, float spatial_scale, int out, int sampling_ratio);

/* -- losses: one number, [1] -- */
enum { FS_IGNORE = -100 }; /* a target that does not count */
/* logits: [rows, classes], target: [rows] -> mean over the targets that count of -log softmax(logits)[target] */
fs_tensor *fs_cross_entropy(fs_exec *c, const fs_tensor *logits, const int32_t *target);
/* x: logits, target: as many values in 0..1 -> mean over all of them */
fs_tensor *fs_bce_with_logits(fs_exec *c, const fs_tensor *x, const fs_tensor *target);
/* -> 1 - (2 sum(s t) + e) / (sum(s) + sum(t) + e), s the logistic of x; sums over 1000, e = 1e-6, as the original has it */
fs_tensor *fs_dice_loss(fs_exec *c, const fs_tensor *x, const fs_tensor *target);

/* True if every value is finite; sets the context's error (FS_E_NUMERIC, naming `what`) if not. */
bool fs_check_finite(fs_exec *c, const fs_tensor *x, const char *what);

#endif

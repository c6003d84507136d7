/* SAM against segment-anything: image encoder, positional encoding, mask decoder and post-processing, in f32 and in bf16. */
#include "parity.h"

static const double TOLERANCE = 1e-5; /* f32 sums in another order */
#define PREFIX "model.grounding_encoder."

typedef struct sam {
    fs_archive *weights;
    fs_sam_encoder encoder;
    fs_sam_prompt prompt;
    fs_sam_decoder decoder;
} sam;

static sam open_sam(void) {
    sam s = {.weights = open_tiny("MFLM")};
    fs_error err = {0};
    fs_tensor_source source = fs_archive_source(s.weights);
    if (fs_sam_encoder_bind(&s.encoder, &source, PREFIX "image_encoder.", &err) ||
        fs_sam_prompt_bind(&s.prompt, &source, PREFIX "prompt_encoder.", &err) ||
        fs_sam_decoder_bind(&s.decoder, &source, PREFIX "mask_decoder.", &err))
        fail_msg("%s", err.message);
    return s;
}

static void close_sam(sam *s) {
    fs_sam_encoder_unbind(&s->encoder);
    fs_sam_decoder_unbind(&s->decoder);
    fs_archive_free(s->weights);
}

static fs_tensor *pixels(fs_exec *c) { return formula_3d(c, "input", 3, 128, 128); }

static void sizes_come_from_the_tensors(void **state) {
    (void)state;
    sam s = open_sam();
    const fs_sam_encoder *e = &s.encoder;
    assert_int_equal(e->embed, 64);
    assert_int_equal(e->depth, 4);
    assert_int_equal(e->heads, 4);
    assert_int_equal(e->grid, 8);
    assert_int_equal(e->patch, 16);
    assert_int_equal(e->window, 3);
    assert_int_equal(e->out_channels, 32);
    assert_int_equal(e->image_size, 128);
    for (int i = 0; i < 4; i++) assert_int_equal(e->blocks[i].global, i % 2 == 1);
    assert_int_equal(s.prompt.channels, 32);
    assert_int_equal(s.decoder.channels, 32);
    assert_int_equal(s.decoder.depth, 2);
    assert_int_equal(s.decoder.n_masks, 4);
    close_sam(&s);
}

static void encoder(void **state) {
    (void)state;
    sam s = open_sam();
    fs_archive *g = open_golden("sam.safetensors");
    fs_exec c = start(FS_DTYPE_F32, 2);
    fs_tensor *taps[5];
    fs_tensor *neck = fs_sam_encoder_forward(&c, &s.encoder, pixels(&c), taps);
    assert_ok(&c);
    static const char *const names[5] = {"embed", "block_0", "block_1", "block_2", "block_3"};
    for (int i = 0; i < 5; i++) assert_close(taps[i], golden(g, names[i]), TOLERANCE, names[i]);
    assert_close(neck, golden(g, "neck"), TOLERANCE, "neck");
    fs_tensor *again = fs_sam_encoder_forward(&c, &s.encoder, pixels(&c), NULL);
    assert_ok(&c);
    assert_memory_equal(fs_f32(again), fs_f32(neck), 32 * 64 * sizeof(float));
    fs_exec_end(&c);
    close_sam(&s);
    fs_archive_free(g);
}

/* The reduced-precision encoding is what a bf16 checkpoint was trained with. It must equal upstream's exactly where sines do, and it must not be
 * the f32 one: the last check catches a build that forgot the rounding. */
static void dense_positions(void **state) {
    (void)state;
    sam s = open_sam();
    fs_archive *g = open_golden("sam.safetensors"), *g16 = open_golden("sam_bf16.safetensors");
    fs_exec c = start(FS_DTYPE_F32, 1);
    fs_tensor *plain = fs_sam_dense_pe(&c, &s.prompt, 8, false), *rounded = fs_sam_dense_pe(&c, &s.prompt, 8, true);
    assert_ok(&c);
    assert_close(plain, golden(g, "pe_f32"), TOLERANCE, "pe_f32");
    /* One step of bf16 at 1: a sine on a rounding boundary may fall on the other side. */
    assert_close(rounded, golden(g, "pe_bf16"), 1.0 / 256, "pe_bf16");
    assert_true(share_in_steps(rounded, golden(g, "pe_bf16"), 8, 0, 0) > 0.99);
    assert_true(share_in_steps(rounded, golden(g16, "pe"), 8, 0, 0) > 0.99);
    assert_true(max_error(rounded, golden(g, "pe_f32")) > 0.02);
    fs_exec_end(&c);

    /* The flag decides, not the context. */
    c = start(FS_DTYPE_BF16, 1);
    assert_close(fs_sam_dense_pe(&c, &s.prompt, 8, false), golden(g, "pe_f32"), TOLERANCE, "pe_f32 in bf16");
    assert_ok(&c);
    fs_exec_end(&c);
    close_sam(&s);
    fs_archive_free(g), fs_archive_free(g16);
}

/* golden: [32, 8, 8] and so on; one mask. */
static fs_tensor *decode(fs_exec *c, const sam *s, const fs_tensor *image, const fs_tensor *pe, const fs_tensor *text) {
    return fs_sam_decoder_forward(c, &s->decoder, image, pe, s->prompt.no_mask, text);
}

static void decoder(void **state) {
    (void)state;
    sam s = open_sam();
    fs_archive *g = open_golden("sam.safetensors");
    const fs_tensor *neck = golden(g, "neck"), *pe = golden(g, "pe_f32");
    fs_exec c = start(FS_DTYPE_F32, 2);
    fs_tensor *text = formula_2d(&c, "input.text", 1, 32);
    fs_tensor *low = decode(&c, &s, neck, pe, text);
    assert_ok(&c);
    assert_close(low, golden(g, "low_res"), TOLERANCE, "low_res");
    assert_close(low, fs_rows(&c, golden(g, "masks_all"), 0, 1), TOLERANCE, "masks_all[0]");
    assert_close(decode(&c, &s, neck, golden(g, "pe_bf16"), text), golden(g, "low_res_pe_bf16"), TOLERANCE, "low_res_pe_bf16");
    /* Two [SEG] at once; each is decoded as if it were alone. */
    fs_tensor *two = formula_2d(&c, "input.text2", 2, 32);
    fs_tensor *both = decode(&c, &s, neck, pe, two);
    assert_ok(&c);
    assert_close(both, golden(g, "low_res_two"), TOLERANCE, "low_res_two");
    fs_tensor *second = decode(&c, &s, neck, pe, fs_rows(&c, two, 1, 2));
    assert_ok(&c);
    assert_memory_equal(fs_f32(second), fs_f32(both) + 32 * 32, 32 * 32 * sizeof(float));
    fs_exec_end(&c);
    close_sam(&s);
    fs_archive_free(g);
}

/* Mask logits must agree to 1e-3 absolutely and masks pixel for pixel. */
static void assert_mask(const fs_tensor *found, const fs_tensor *expected, const char *what) {
    assert_close(found, expected, TOLERANCE, what);
    for (int64_t i = 0; i < fs_tensor_count(expected); i++) {
        assert_true(fabsf(fs_f32(found)[i] - fs_f32(expected)[i]) < 1e-3f);
        assert_int_equal(fs_f32(found)[i] > 0, fs_f32(expected)[i] > 0);
    }
}

static void postprocess(void **state) {
    (void)state;
    fs_archive *g = open_golden("sam.safetensors"), *g16 = open_golden("sam_bf16.safetensors");
    static const fs_dtype precisions[2] = {FS_DTYPE_F32, FS_DTYPE_BF16};
    for (int i = 0; i < 2; i++) { /* the interpolation is in f32 in both */
        fs_exec c = start(precisions[i], 2);
        const fs_tensor *low = golden(g, "low_res");
        fs_tensor *wide = fs_sam_postprocess(&c, low, 128, 88, 128, 90, 131);
        fs_tensor *tall = fs_sam_postprocess(&c, low, 128, 128, 60, 160, 75);
        fs_tensor *half = fs_sam_postprocess(&c, golden(g16, "low_res"), 128, 88, 128, 90, 131);
        fs_tensor *two = fs_sam_postprocess(&c, golden(g, "low_res_two"), 128, 88, 128, 90, 131);
        assert_ok(&c);
        assert_mask(wide, golden(g, "post"), "post");
        assert_mask(tall, golden(g, "post_tall"), "post_tall");
        assert_mask(half, golden(g16, "post"), "post (bf16 logits)");
        fs_tensor *second = fs_sam_postprocess(&c, fs_rows(&c, golden(g, "low_res_two"), 1, 2), 128, 88, 128, 90, 131);
        assert_ok(&c);
        assert_memory_equal(fs_f32(second), fs_f32(two) + 90 * 131, 90 * 131 * sizeof(float));
        assert_null(fs_sam_postprocess(&c, low, 128, 129, 128, 90, 131)); /* more than SAM's square */
        assert_int_equal(c.error.status, FS_E_MISMATCH);
        fs_exec_end(&c);
    }
    fs_archive_free(g), fs_archive_free(g16);
}

/* An encoder that starts at golden tensor `name` ([8, 8, 64]) and runs `depth` blocks from `first` on: nothing for patches, the golden for
 * position embedding. `zeros` holds at least 64 * 3 * 16 * 16 floats. */
static fs_sam_encoder starting_at(const fs_sam_encoder *m, fs_archive *g, const char *name, int first, int depth, float *zeros,
                                  fs_tensor parts[3]) {
    fs_sam_encoder e = *m;
    parts[0] = *m->patch_embed.w;
    parts[1] = *m->patch_embed.b;
    for (int i = 0; i < 2; i++) {
        parts[i].dtype = FS_DTYPE_F32;
        parts[i].data = zeros;
    }
    parts[2] = *m->pos_embed;
    parts[2].dtype = FS_DTYPE_F32;
    parts[2].data = golden(g, name)->data;
    e.patch_embed = (fs_affine){&parts[0], &parts[1]};
    e.pos_embed = &parts[2];
    e.blocks = m->blocks + first;
    e.depth = depth;
    return e;
}

/* Each part on the golden's own input: only sums that lie on a rounding boundary may fall on the other side, and what follows from them inside
 * one block. Whole networks are another matter: after a few blocks such flips have spread everywhere, and the distance to the golden
 * is that between two equally good roundings, sqrt 2 times a rounding's distance from f32. Appendix A's 2 steps for 99 % hold for parts. */
static void bf16(void **state) {
    (void)state;
    sam s = open_sam();
    fs_archive *g = open_golden("sam_bf16.safetensors"), *plain = open_golden("sam.safetensors");
    static float zeros[64 * 3 * 16 * 16];
    static const char *const names[5] = {"embed", "block_0", "block_1", "block_2", "block_3"};
    fs_exec c = start(FS_DTYPE_BF16, 2);
    fs_tensor *taps[5], parts[3];
    for (int i = 0; i < 4; i++) {
        fs_sam_encoder one = starting_at(&s.encoder, g, names[i], i, 1, zeros, parts);
        fs_sam_encoder_forward(&c, &one, pixels(&c), taps);
        assert_ok(&c);
        assert_in_steps(taps[1], golden(g, names[i + 1]), 8, 2, 0.99, names[i + 1]);
    }
    fs_sam_encoder only_neck = starting_at(&s.encoder, g, "block_3", 0, 0, zeros, parts);
    fs_tensor *neck = fs_sam_encoder_forward(&c, &only_neck, pixels(&c), NULL);
    assert_ok(&c);
    assert_in_steps(neck, golden(g, "neck"), 8, 2, 0.99, "neck");
    fs_tensor *text = fs_to_f32(&c, formula_2d(&c, "input.text", 1, 32));
    fs_tensor *low = decode(&c, &s, golden(g, "neck"), golden(g, "pe"), text);
    assert_ok(&c);
    /* Ten layers in one: measured 0.9932, the 16 pixels under one flipped cell of the image; room for two more such cells. */
    assert_in_steps(low, golden(g, "low_res"), 8, 2, 0.96, "low_res");
    assert_true(rms_error(low, golden(g, "low_res")) < 0.5 * rms_error(golden(g, "low_res"), golden(plain, "low_res")));

    neck = fs_sam_encoder_forward(&c, &s.encoder, pixels(&c), taps);
    assert_ok(&c);
    assert_in_steps(taps[0], golden(g, "embed"), 8, 2, 0.99, "embed");
    for (int i = 1; i < 5; i++) assert_noise(taps[i], golden(g, names[i]), golden(plain, names[i]), names[i]);
    assert_noise(neck, golden(g, "neck"), golden(plain, "neck"), "neck");
    fs_exec_end(&c);
    close_sam(&s);
    fs_archive_free(g), fs_archive_free(plain);
}

static void threads_do_not_matter(void **state) {
    (void)state;
    sam s = open_sam();
    static const fs_dtype precisions[2] = {FS_DTYPE_F32, FS_DTYPE_BF16};
    for (int p = 0; p < 2; p++) {
        static float first[90 * 131];
        for (int threads = 1; threads <= 4; threads++) {
            fs_exec c = start(precisions[p], threads);
            fs_tensor *neck = fs_sam_encoder_forward(&c, &s.encoder, pixels(&c), NULL);
            fs_tensor *pe = fs_sam_dense_pe(&c, &s.prompt, 8, p == 1);
            fs_tensor *low = decode(&c, &s, neck, pe, formula_2d(&c, "input.text", 1, 32));
            fs_tensor *mask = fs_sam_postprocess(&c, low, 128, 88, 128, 90, 131);
            assert_ok(&c);
            if (threads == 1) memcpy(first, fs_f32(mask), sizeof first);
            assert_memory_equal(first, fs_f32(mask), sizeof first);
            fs_exec_end(&c);
        }
    }
    close_sam(&s);
}

static void bad_weights_are_named(void **state) {
    (void)state;
    fs_archive *weights = open_tiny("MFLM");
    static const struct { const char *name; spoil_kind kind; const char *message; } cases[] = {
        {PREFIX "image_encoder.pos_embed", SPOIL_MISSING,
         "weights.bin: tensor model.grounding_encoder.image_encoder.pos_embed: expected shape [1,any,any,64], found no tensor of that name; "
         "the file is incomplete or belongs to another model"},
        {PREFIX "image_encoder.blocks.2.attn.rel_pos_w", SPOIL_SHAPE,
         "weights.bin: tensor model.grounding_encoder.image_encoder.blocks.2.attn.rel_pos_w: expected shape [5,16], found [5,17]; the weights "
         "and config.json do not belong together"},
        {PREFIX "image_encoder.neck.3.bias", SPOIL_MISSING,
         "weights.bin: tensor model.grounding_encoder.image_encoder.neck.3.bias: expected shape [32], found no tensor of that name; the file "
         "is incomplete or belongs to another model"},
        {PREFIX "mask_decoder.transformer.layers.1.cross_attn_image_to_token.k_proj.weight", SPOIL_MISSING,
         "weights.bin: tensor model.grounding_encoder.mask_decoder.transformer.layers.1.cross_attn_image_to_token.k_proj.weight: expected "
         "shape [16,32], found no tensor of that name; the file is incomplete or belongs to another model"},
        {PREFIX "mask_decoder.output_upscaling.3.bias", SPOIL_SHAPE,
         "weights.bin: tensor model.grounding_encoder.mask_decoder.output_upscaling.3.bias: expected shape [4], found [5]; the weights and "
         "config.json do not belong together"},
        {PREFIX "prompt_encoder.no_mask_embed.weight", SPOIL_SHAPE,
         "weights.bin: tensor model.grounding_encoder.prompt_encoder.no_mask_embed.weight: expected shape [1,32], found [1,33]; the weights "
         "and config.json do not belong together"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        spoilt s;
        fs_tensor_source source = spoilt_source(&s, fs_archive_source(weights), cases[i].name, cases[i].kind);
        sam m = {0};
        fs_error err = {0};
        fs_status status = fs_sam_encoder_bind(&m.encoder, &source, PREFIX "image_encoder.", &err);
        if (!status) status = fs_sam_prompt_bind(&m.prompt, &source, PREFIX "prompt_encoder.", &err);
        if (!status) status = fs_sam_decoder_bind(&m.decoder, &source, PREFIX "mask_decoder.", &err);
        assert_int_equal(status, cases[i].kind == SPOIL_MISSING ? FS_E_NOT_FOUND : FS_E_MISMATCH);
        assert_string_equal(err.message, cases[i].message);
        fs_sam_encoder_unbind(&m.encoder);
        fs_sam_decoder_unbind(&m.decoder);
    }
    fs_archive_free(weights);
}

/* Relative tables whose length fits neither the window nor the grid would be stretched upstream: refused. */
typedef struct relabelled { fs_tensor_source inner; int block; int64_t rows; fs_tensor tensor[2]; float values[64 * 16]; } relabelled;
static const fs_tensor *relabelled_find(void *user, const char *name) {
    relabelled *r = user;
    char h[128], w[128];
    snprintf(h, sizeof h, PREFIX "image_encoder.blocks.%d.attn.rel_pos_h", r->block);
    snprintf(w, sizeof w, PREFIX "image_encoder.blocks.%d.attn.rel_pos_w", r->block);
    const bool is_h = !strcmp(name, h), is_w = !strcmp(name, w);
    if (!is_h && !is_w) return r->inner.find(r->inner.user, name);
    fs_tensor *t = &r->tensor[is_w];
    *t = (fs_tensor){.dtype = FS_DTYPE_F32, .ndim = 2, .shape = {r->rows, 16, 1, 1, 1, 1}, .data = r->values};
    return t;
}

static void relative_tables_of_other_lengths_are_refused(void **state) {
    (void)state;
    fs_archive *weights = open_tiny("MFLM");
    relabelled r = {.inner = fs_archive_source(weights)};
    fs_tensor_source source = {&r, relabelled_find, spoilt_origin};
    fs_sam_encoder m;
    fs_error err = {0};
    r.block = 2, r.rows = 7; /* a window of 4 after one of 3 */
    assert_int_equal(fs_sam_encoder_bind(&m, &source, PREFIX "image_encoder.", &err), FS_E_MISMATCH);
    assert_string_equal(err.message, "weights.bin: tensor model.grounding_encoder.image_encoder.blocks.2.attn.rel_pos_h: expected 5 rows (windows "
                                     "of 3) or 15 (the whole grid of 8), found 7; stretching it is not supported");
    r.block = 0, r.rows = 6; /* even: no window has it */
    assert_int_equal(fs_sam_encoder_bind(&m, &source, PREFIX "image_encoder.", &err), FS_E_MISMATCH);
    assert_string_equal(err.message, "weights.bin: tensor model.grounding_encoder.image_encoder.blocks.0.attn.rel_pos_h: expected an odd number of "
                                     "rows (twice the window minus one), found 6");
    /* A window as large as the grid is the same as a global block. */
    r.block = 0, r.rows = 15;
    assert_int_equal(fs_sam_encoder_bind(&m, &source, PREFIX "image_encoder.", &err), FS_OK);
    assert_true(m.blocks[0].global && m.blocks[1].global && !m.blocks[2].global);
    fs_sam_encoder_unbind(&m);
    fs_archive_free(weights);
}

static void nan_weights_are_noticed(void **state) {
    (void)state;
    fs_archive *weights = open_tiny("MFLM");
    spoilt s;
    fs_error err = {0};
    fs_tensor_source source = spoilt_source(&s, fs_archive_source(weights), PREFIX "image_encoder.blocks.0.mlp.lin2.bias", SPOIL_NAN);
    fs_sam_encoder m;
    assert_int_equal(fs_sam_encoder_bind(&m, &source, PREFIX "image_encoder.", &err), FS_OK);
    fs_exec c = start(FS_DTYPE_F32, 1);
    assert_null(fs_sam_encoder_forward(&c, &m, pixels(&c), NULL));
    assert_int_equal(fs_exec_status(&c, &err), FS_E_NUMERIC);
    assert_non_null(strstr(err.message, "SAM image encoder"));
    fs_exec_end(&c);
    free(s.values);
    fs_sam_encoder_unbind(&m);

    source = spoilt_source(&s, fs_archive_source(weights), PREFIX "mask_decoder.mask_tokens.weight", SPOIL_NAN);
    sam whole = open_sam();
    fs_sam_decoder_unbind(&whole.decoder);
    assert_int_equal(fs_sam_decoder_bind(&whole.decoder, &source, PREFIX "mask_decoder.", &err), FS_OK);
    c = start(FS_DTYPE_F32, 1);
    assert_null(decode(&c, &whole, formula_3d(&c, "input", 32, 8, 8), fs_sam_dense_pe(&c, &whole.prompt, 8, false),
                       formula_2d(&c, "input.text", 1, 32)));
    assert_int_equal(fs_exec_status(&c, &err), FS_E_NUMERIC);
    assert_non_null(strstr(err.message, "SAM mask decoder"));
    fs_exec_end(&c);
    free(s.values);
    close_sam(&whole);
    fs_archive_free(weights);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_come_from_the_tensors),
        cmocka_unit_test(encoder),
        cmocka_unit_test(dense_positions),
        cmocka_unit_test(decoder),
        cmocka_unit_test(postprocess),
        cmocka_unit_test(bf16),
        cmocka_unit_test(threads_do_not_matter),
        cmocka_unit_test(bad_weights_are_named),
        cmocka_unit_test(relative_tables_of_other_lengths_are_refused),
        cmocka_unit_test(nan_weights_are_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

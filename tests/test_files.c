/* test_files.c - models on disk: what is written is what is read, and a damaged or hostile file
 * ends in one clear line, never in a crash.
 *
 *     cc -std=gnu11 -O3 tests/test_files.c -o build/test_files -lm && build/test_files
 *
 * Also built with -fsanitize=address,undefined: a reader that looks a byte too far is caught
 * there, because its report is more than the one line that is allowed.
 */
#define _GNU_SOURCE 1 /* memmem */
#define TRAIN_NO_MAIN
#include <errno.h>
#include <unistd.h>
static int syncs_left = -1; /* calls of fsync that still succeed; below 0: all of them */
static int fsync_or_fail(int descriptor) {
    if (syncs_left == 0) return errno = EIO, -1;
    syncs_left -= syncs_left > 0;
    return fsync(descriptor);
}
#define fsync fsync_or_fail
#include "../train.c"
#include "check.c"
#include "child.c"

static const char *folder; /* of this program's files */

static char *file_in(const char *model, const char *name) {
    return text_format("%s/%s/%s", folder, model, name);
}

/* A model whose weights are all different, the biases too. */
static GPT *model_make(size_t layers, size_t heads, size_t channels, size_t context,
                       size_t vocab, bool bias) {
    Config config = {.layers = layers, .heads = heads, .channels = channels, .context = context,
                     .vocab = vocab, .bias = bias, .dropout = 0.1f};
    GPT *gpt = gpt_create(&config, false);
    gpt_initialize(gpt, 1);
    for (size_t i = 0; i < gpt->parameter_count; i++)
        gpt->weights[i] += 0.01f * random_normal(77, i);
    return gpt;
}

static Tokenizer *tokenizer_of(const char *text) {
    return tokenizer_create((const unsigned char *)text, strlen(text));
}

/* --- Round trips -------------------------------------------------------------------------- */

static void test_round_trip(const char *name, size_t layers, size_t heads, size_t channels,
                            bool bias) {
    GPT *gpt = model_make(layers, heads, channels, 6, 4, bias);
    Tokenizer *tokenizer = tokenizer_of("ab\"\\");
    char *path = text_format("%s/%s", folder, name);
    /* Numbers that a text format would lose: the smallest, the largest, minus zero. */
    float odd[] = {0x1p-149f, -0x1.fffffep127f, -0.0f, 0x1.000002p0f};
    for (size_t i = 0; i < 4; i++) gpt->weights[i] = odd[i];
    model_write(gpt, tokenizer, "", path);
    GPT *back = model_read(text_of("%s/%s", folder, name).chars, 0, true); /* a path by value */
    Config a = gpt->config, b = back->config;
    check(a.layers == b.layers && a.heads == b.heads && a.channels == b.channels &&
              a.context == b.context && a.vocab == b.vocab && a.bias == b.bias &&
              b.dropout == 0,
          "%-9s the configuration comes back, but for dropout", name);
    check(gpt->parameter_count == back->parameter_count &&
          !memcmp(gpt->weights, back->weights, gpt->parameter_count * sizeof(float)),
          "%-9s %zu weights come back to the last bit", name, gpt->parameter_count);
    check(back->gradients != NULL, "%-9s asked for training, it comes with gradients", name);
    Tokenizer *words = tokenizer_load(path);
    check(words->vocab == tokenizer->vocab &&
              !memcmp(words->id_of_byte, tokenizer->id_of_byte, sizeof words->id_of_byte),
          "%-9s the tokenizer comes back", name);

    /* The file itself: every tensor of a model with biases is there, with the right name, type
     * and shape. */
    Config full = gpt->config;
    full.bias = true;
    GPT *all = gpt_create(&full, false);
    char *weights = text_format("%s/model.safetensors", path);
    SafeTensors *file = safetensors_open(weights);
    size_t good = 0, zeros = 0, biases = 0;
    for (size_t i = 0; i < all->tensor_count; i++) {
        const Tensor *t = &all->table[i];
        const SafeTensor row = safetensors_find(file, t->name);
        good += row.numbers && !strcmp(row.dtype, "F32") && row.bytes == t->count * 4 &&
                row.rank == t->rank && row.shape[0] == t->shape[0] &&
                row.shape[1] == t->shape[1] && (size_t)(row.numbers - file->data) % 4 == 0;
        if (!row.numbers || gpt->table[i].count) continue;
        biases++;
        size_t nonzero = 0;
        for (size_t j = 0; j < row.bytes; j++) nonzero += row.numbers[j] != 0;
        zeros += nonzero == 0;
    }
    size_t members = 0; /* of the header: the tensors and the metadata */
    char key[128];
    Json j = file->json;
    for (json_enter(&j, '{'); json_key(&j, key, sizeof key); json_skip(&j)) members++;
    check(good == all->tensor_count && members == all->tensor_count + 1,
          "%-9s the file holds all %zu tensors with name, type and shape", name,
          all->tensor_count);
    if (!bias)
        check(biases == 2 + 6 * layers - 1 && zeros == biases,
              "%-9s %zu biases that the model has not are written as zeros", name, biases);
    size_t bytes = all->parameter_count * sizeof(float);
    size_t start = 8 + (size_t)bytes_number(file->data, 8);
    check(start % 8 == 0 && start + bytes == file->size,
          "%-9s the numbers begin at a multiple of 8 and end with the file", name);
    safetensors_close(file);
    static const char *const names[] = {"model.safetensors", "config.json", "vocab.json",
                                        "merges.txt"};
    size_t left = 0;
    for (size_t i = 0; i < 4; i++) {
        char *temporary = text_format("%s/%s.tmp", path, names[i]);
        left += access(temporary, F_OK) == 0;
        free(temporary);
    }
    check(left == 0, "%-9s no temporary file is left", name);
    free(weights);
    free(path);
    gpt_destroy(all);
    gpt_destroy(back);
    gpt_destroy(gpt);
    tokenizer_destroy(tokenizer);
    tokenizer_destroy(words);
}

/* Names without "transformer.", as OpenAI's own files have them. */
static void test_bare_names(void) {
    GPT *gpt = model_make(1, 2, 4, 5, 3, true);
    Tokenizer *tokenizer = tokenizer_of("abc");
    char *path = text_format("%s/bare", folder),
         *weights = file_in("bare", "model.safetensors");
    model_write(gpt, tokenizer, "", path);
    Bytes file = file_read(weights);
    size_t removed = 0;
    for (char *at; (at = memmem(file.data, file.size, "transformer.", 12)); removed++) {
        size_t behind = file.size - (size_t)(at - (char *)file.data) - 12;
        memmove(at, at + 12, behind);
        file.size -= 12;
    }
    uint64_t header = 0;
    for (int i = 7; i >= 0; i--) header = header << 8 | file.data[i];
    header -= 12 * removed;
    for (int i = 0; i < 8; i++) file.data[i] = (unsigned char)(header >> 8 * i);
    bytes_save(weights, file.data, file.size);
    GPT *back = model_read(path, 0, false);
    check(removed == gpt->tensor_count &&
              !memcmp(gpt->weights, back->weights, gpt->parameter_count * sizeof(float)),
          "names without \"transformer.\" are understood (at any address: the header has %llu "
          "bytes)",
          (unsigned long long)header);
    free(file.data);
    free(path);
    free(weights);
    gpt_destroy(gpt);
    gpt_destroy(back);
    tokenizer_destroy(tokenizer);
}

typedef struct {
    const char *model;
    bool generate; /* and let it generate, as a run would */
} Opening;

static void model_open(void *argument) {
    const Opening *o = argument;
    char *path = text_format("%s/%s", folder, o->model);
    GPT *gpt = model_read(path, 0, true);
    Tokenizer *tokenizer = tokenizer_load(path);
    if (o->generate && tokenizer->vocab && tokenizer->vocab == gpt->config.vocab &&
        gpt->config.context < 1000) {
        Cache *cache = cache_create(&gpt->config, 1);
        uint32_t prompt = 0;
        Sampling sampling = {1.0, 0, 1.0};
        text_generate(gpt, cache, tokenizer, &prompt, 1, 10, false, &sampling, 1, stdout);
        cache_destroy(cache);
    }
    gpt_destroy(gpt);
    tokenizer_destroy(tokenizer);
    free(path);
}

static void tokenizer_save_xyz(void *argument) {
    Tokenizer *tokenizer = tokenizer_of("xyz");
    tokenizer_save(tokenizer, argument);
    tokenizer_destroy(tokenizer);
}

static void tokenizer_save_failing(void *path) { /* merges.txt does not reach the disk */
    syncs_left = 1;
    tokenizer_save_xyz(path);
}

/* The second file of the pair cannot be created, because a folder has the name merges.txt.tmp;
 * or its bytes do not reach the disk. */
static void test_pair(bool created) {
    static const char *const names[] = {"vocab.json", "merges.txt"};
    Tokenizer *tokenizer = tokenizer_of("abc");
    char *path = text_format("%s/pair-%d", folder, created);
    char *blocked = text_format("%s/merges.txt.tmp", path);
    Bytes before[2];
    bool same = true;
    folder_create(path);
    tokenizer_save(tokenizer, path);
    for (int i = 0; i < 2; i++) before[i] = file_read(text_of("%s/%s", path, names[i]).chars);
    if (!created) folder_create(blocked);
    Ending ending = child_run(created ? tokenizer_save_failing : tokenizer_save_xyz, path);
    for (int i = 0; i < 2; i++) {
        Bytes now = file_read(text_of("%s/%s", path, names[i]).chars);
        same = same && now.size == before[i].size &&
               !memcmp(now.data, before[i].data, now.size);
        free(now.data);
        free(before[i].data);
    }
    const char *message =
        created ? "merges.txt.tmp: cannot write" : "merges.txt.tmp: cannot create";
    check(same && ending_is_error(&ending, 1, message) &&
              access(text_of("%s/vocab.json.tmp", path).chars, F_OK) != 0,
          "a tokenizer that cannot be saved whole, %s: the old pair of files is as it was",
          message);
    ending_free(&ending);
    tokenizer_destroy(tokenizer);
    free(blocked);
    free(path);
}

/* The settings of a run are in its model too, each under its own name. */
static void test_metadata(void) {
    GPT *gpt = model_make(1, 1, 4, 5, 3, true);
    Tokenizer *tokenizer = tokenizer_of("abc");
    char *path = text_format("%s/settings", folder), key[128], text[64], *all = NULL;
    char *weights = file_in("settings", "model.safetensors");
    size_t size;
    model_write(gpt, tokenizer,
                ", \"--lr\": \"1e-3\", \"--data 0\": \"a \\\"b\\\"\"", path);
    SafeTensors *file = safetensors_open(weights);
    FILE *stream = open_memstream(&all, &size);
    if (!stream) die("no memory");
    Json j = json_member(file->json, "__metadata__");
    for (json_enter(&j, '{'); json_key(&j, key, sizeof key);) {
        json_string(&j, text, sizeof text);
        fprintf(stream, "%s=%s;", key, text);
    }
    fclose(stream);
    check(!strcmp(all, "format=pt;--lr=1e-3;--data 0=a \"b\";"), "metadata: %s", all);
    check(metadata_text(file, "--data 0", text, sizeof text) && !strcmp(text, "a \"b\"") &&
              !metadata_text(file, "--data", text, sizeof text),
          "metadata: a member is found by its whole name");
    safetensors_close(file);
    static const char bare[] = "\2\0\0\0\0\0\0\0{}";
    bytes_save(weights, bare, 10);
    file = safetensors_open(weights);
    check(!metadata_text(file, "format", text, 64) && !safetensors_find(file, "x").numbers,
          "metadata: a file without any has no members");
    safetensors_close(file);
    free(all);
    free(weights);
    free(path);
    gpt_destroy(gpt);
    tokenizer_destroy(tokenizer);
}

/* --- What Hugging Face may write ---------------------------------------------------------- */

/* A tensor for a file that a test writes; the offsets follow from the order. */
typedef struct {
    const char *name, *dtype;
    size_t rank, shape[2];
    const void *numbers;
    size_t bytes;
} Piece;

static void pieces_save(const char *path, const Piece *pieces, size_t count) {
    char *header = text_format("{"), size[8], *longer;
    size_t place = 0;
    for (size_t i = 0; i < count; i++) {
        const Piece *p = &pieces[i];
        char *second = p->rank == 2 ? text_format(", %zu", p->shape[1]) : text_format("%s", "");
        longer = text_format("%s%s\"%s\": {\"dtype\": \"%s\", \"shape\": [%zu%s], "
                             "\"data_offsets\": [%zu, %zu]}",
                             header, i ? ", " : "", p->name, p->dtype, p->shape[0], second,
                             place, place + p->bytes);
        place += p->bytes;
        free(second);
        free(header);
        header = longer;
    }
    for (int i = 0; i < 8; i++) size[i] = (char)((strlen(header) + 1) >> 8 * i);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(size, 1, 8, file) != 8 || fprintf(file, "%s}", header) < 0)
        die("%s: cannot write", path);
    for (size_t i = 0; i < count; i++) fwrite(pieces[i].numbers, 1, pieces[i].bytes, file);
    if (fclose(file) != 0) die("%s: cannot write", path);
    free(header);
}

/* The tensors of a model as pieces, of which the caller frees the array. */
static Piece *pieces_of(const GPT *gpt) {
    Piece *pieces = memory_allocate(gpt->tensor_count + 2, sizeof *pieces);
    for (size_t i = 0; i < gpt->tensor_count; i++) {
        const Tensor *t = &gpt->table[i];
        pieces[i] = (Piece){t->name, "F32", t->rank, {t->shape[0], t->shape[1]},
                            gpt->weights + t->offset, t->count * sizeof(float)};
    }
    return pieces;
}

static bool weights_equal(const GPT *a, const GPT *b) {
    return a->parameter_count == b->parameter_count &&
           !memcmp(a->weights, b->weights, a->parameter_count * sizeof(float));
}

/* Every number of 16 bits, against its meaning written down in another way. */
static void test_half(void) {
    size_t wrong = 0, infinite = 0;
    for (uint32_t half = 0; half < 65536; half++) {
        unsigned char bytes[2] = {(unsigned char)half, (unsigned char)(half >> 8)};
        float brain, number;
        numbers_convert(&brain, bytes, "BF16", 1);
        numbers_convert(&number, bytes, "F16", 1);
        int e16 = half >> 10 & 31, e8 = half >> 7 & 255;
        double sign = half & 0x8000 ? -1 : 1;
        double f16 = e16 ? ldexp(1024 + (half & 1023), e16 - 25) : ldexp(half & 1023, -24);
        double bf16 = e8 ? ldexp(128 + (half & 127), e8 - 134) : ldexp(half & 127, -133);
        bool bad = e16 == 31 ? isfinite(number) : (double)number != sign * f16;
        bad |= e8 == 255 ? isfinite(brain) : (double)brain != sign * bf16;
        bad |= !isnan(number) && !signbit(number) != !(half & 0x8000);
        wrong += bad;
        infinite += !isfinite(number) + !isfinite(brain);
    }
    check(wrong == 0 && infinite == 2 * 1024 + 2 * 128,
          "F16 and BF16: 65536 numbers each, %zu wrong, %zu not finite", wrong, infinite);
}

/* A model in the forms that a Hugging Face folder can have. */
static void test_forms(void) {
    GPT *gpt = model_make(2, 2, 4, 5, 3, true);
    for (size_t i = 0; i < gpt->parameter_count; i++) /* exact in half precision */
        gpt->weights[i] = (float)((int)(random_bits(3, i) % 511) - 255) / 256;
    Tokenizer *tokenizer = tokenizer_of("abc");
    char *path = text_format("%s/forms", folder);
    char *whole = file_in("forms", "model.safetensors");
    char *index = file_in("forms", "model.safetensors.index.json");
    model_write(gpt, tokenizer, "", path);
    Piece *pieces = pieces_of(gpt);
    size_t count = gpt->tensor_count;

    /* Half precision. */
    uint16_t *half = memory_allocate(2 * gpt->parameter_count, sizeof *half);
    for (int kind = 0; kind < 2; kind++) {
        Piece *small = pieces_of(gpt);
        for (size_t i = 0; i < gpt->parameter_count; i++) {
            int exponent;
            float mantissa = frexpf(gpt->weights[i], &exponent);
            int sign = mantissa < 0 ? 0x8000 : 0;
            int bits = kind ? 7 : 10, bias = kind ? 127 : 15;
            int digits = (int)ldexpf(fabsf(mantissa), bits + 1) - (1 << bits);
            if (mantissa != 0)
                half[i] = (uint16_t)(sign | (exponent - 1 + bias) << bits | digits);
            else half[i] = 0;
        }
        for (size_t i = 0; i < count; i++) {
            small[i].dtype = kind ? "BF16" : "F16";
            small[i].numbers = half + gpt->table[i].offset;
            small[i].bytes /= 2;
        }
        pieces_save(whole, small, count);
        GPT *back = model_read(path, 0, false);
        check(weights_equal(gpt, back), "a model in %s is read", small[0].dtype);
        gpt_destroy(back);
        free(small);
    }
    free(half);

    /* The head once more, and the mask that old files hold. */
    static const float mask[25];
    pieces[count] = (Piece){"lm_head.weight", "F32", 2, {3, 4}, pieces[0].numbers, 48};
    pieces[count + 1] = (Piece){"transformer.h.0.attn.bias", "F32", 2, {5, 5}, mask, 100};
    pieces_save(whole, pieces, count + 2);
    GPT *back = model_read(path, 0, false);
    check(weights_equal(gpt, back), "lm_head.weight equal to wte, and a mask: read");
    gpt_destroy(back);
    pieces[count].numbers = mask;
    pieces_save(whole, pieces, count + 1);
    Opening opening = {"forms", false};
    Ending ending = child_run(model_open, &opening);
    check_error("a head that is not wte", &ending, 1, "lm_head.weight is not the same");
    ending_free(&ending);

    /* A model in several files is named as such, with what joins them. */
    unlink(whole);
    text_save(index, "{\"weight_map\": {}}");
    ending = child_run(model_open, &opening);
    check_error("a model in several files", &ending, 1, "dev/data/convert_model.py");
    ending_free(&ending);
    free(pieces);
    free(path);
    free(whole);
    free(index);
    gpt_destroy(gpt);
    tokenizer_destroy(tokenizer);
}

/* A model is replaced by one of another shape, which cannot be written: what must never be
 * there are weights beside the config.json of the other one. */
static void model_replace(void *argument) {
    GPT *gpt = model_make(1, 1, 6, 5, 3, true);
    model_write(gpt, tokenizer_of("xyz"), "", argument);
}

static void test_replaced(void) {
    static const char *const blocked[] = {"vocab.json.tmp", "config.json.tmp",
                                          "model.safetensors.tmp"};
    GPT *gpt = model_make(1, 1, 4, 5, 3, true);
    Tokenizer *tokenizer = tokenizer_of("abc");
    char *path = text_format("%s/replaced", folder);
    char *weights = file_in("replaced", "model.safetensors");
    for (size_t i = 0; i < 3; i++) {
        char *block = file_in("replaced", blocked[i]);
        model_write(gpt, tokenizer, "", path);
        folder_create(block);
        Ending ending = child_run(model_replace, path);
        check(ending_is_error(&ending, 1, blocked[i]) && access(weights, F_OK) != 0,
              "another model, stopped at %s: no weights beside the settings of the other one",
              blocked[i]);
        ending_free(&ending);
        rmdir(block);
        free(block);
    }
    free(weights);
    free(path);
    gpt_destroy(gpt);
    tokenizer_destroy(tokenizer);
}

/* The same tensors with fewer positions: all else stays as it is. */
static void test_shorten(void) {
    GPT *gpt = model_make(2, 2, 4, 7, 3, true);
    Tokenizer *tokenizer = tokenizer_of("abc");
    char *path = text_format("%s/shorten", folder);
    model_write(gpt, tokenizer, "", path);
    GPT *cut = model_read(path, 3, true);
    size_t same = 0;
    for (size_t i = 0; i < gpt->tensor_count; i++) {
        const Tensor *a = &gpt->table[i], *b = &cut->table[i];
        same += b->count == (i == WPE ? 12 : a->count) &&
                b->shape[0] == (i == WPE ? 3 : a->shape[0]) &&
                !memcmp(gpt->weights + a->offset, cut->weights + b->offset,
                        b->count * sizeof(float));
    }
    check(same == gpt->tensor_count && cut->config.context == 3 &&
              cut->parameter_count == config_parameters(&cut->config),
          "a shorter context: %zu tensors keep their numbers", same);
    free(path);
    gpt_destroy(gpt);
    gpt_destroy(cut);
    tokenizer_destroy(tokenizer);
}

/* A file with very many tensors. */
static void test_large(void) {
    char *path = text_format("%s/large.safetensors", folder);
    enum { MANY = 100000 };
    char *header = memory_allocate(MANY, 80);
    size_t length = 0;
    for (size_t i = 0; i < MANY; i++)
        length += (size_t)sprintf(header + length, "%c\"%zu\":{\"dtype\":\"F32\",\"shape\":[0],"
                                  "\"data_offsets\":[0,0]}", i ? ',' : '{', i * 7919 % MANY);
    header[length++] = '}';
    unsigned char size[8] = {0};
    for (int i = 0; i < 8; i++) size[i] = (unsigned char)(length >> 8 * i);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(size, 1, 8, file) != 8 || fwrite(header, 1, length, file) != length ||
        fclose(file) != 0)
        die("%s: cannot write", path);
    double start = (double)clock();
    SafeTensors *many = safetensors_open(path);
    bool found = safetensors_find(many, "99999").numbers &&
                 !safetensors_find(many, "100000").numbers;
    double seconds = ((double)clock() - start) / CLOCKS_PER_SEC;
    check(found && seconds < 2,
          "of 100000 tensors, in no order, one is found in %.2f s of a processor, at most 2",
          seconds);
    safetensors_close(many);
    free(header);
    unlink(path);
    free(path);
}

/* --- Hostile model files ------------------------------------------------------------------ */

typedef struct { Bytes config, weights, vocab, merges; } ModelFiles;

static void model_store(const char *model, const ModelFiles *files) {
    char *path = text_format("%s/%s", folder, model);
    folder_create(path);
    free(path);
    const struct {
        const char *name;
        const Bytes *bytes;
    } all[] = {{"config.json", &files->config},
               {"model.safetensors", &files->weights},
               {"vocab.json", &files->vocab},
               {"merges.txt", &files->merges}};
    for (size_t i = 0; i < 4; i++) {
        path = file_in(model, all[i].name);
        bytes_save(path, all[i].bytes->data, all[i].bytes->size);
        free(path);
    }
}

/* A copy of `bytes` in which the first `old` is `new`; a safetensors file's header length
 * follows. */
static Bytes bytes_replace(const Bytes *bytes, const char *old, const char *new,
                           bool safetensors) {
    unsigned char *at = memmem(bytes->data, bytes->size, old, strlen(old));
    if (!at) die("the test looks for \"%s\", which the file does not hold", old);
    size_t before = (size_t)(at - bytes->data), behind = bytes->size - before - strlen(old);
    Bytes copy = {memory_allocate(bytes->size - strlen(old) + strlen(new) + 1, 1),
                  before + strlen(new) + behind};
    memcpy(copy.data, bytes->data, before);
    memcpy(copy.data + before, new, strlen(new));
    memcpy(copy.data + before + strlen(new), at + strlen(old), behind);
    if (safetensors) {
        uint64_t header = 0;
        for (int i = 7; i >= 0; i--) header = header << 8 | bytes->data[i];
        header = header + strlen(new) - strlen(old);
        for (int i = 0; i < 8; i++) copy.data[i] = (unsigned char)(header >> 8 * i);
    }
    return copy;
}

static void check_refused(const char *name, const ModelFiles *files, const char *words) {
    Opening opening = {"hostile", true};
    model_store("hostile", files);
    double start = clock_seconds();
    Ending ending = child_run(model_open, &opening);
    double seconds = clock_seconds() - start;
    check_error(name, &ending, 1, words);
    if (seconds > 2) check(false, "%-38s took %.1f s to say so", name, seconds);
    ending_free(&ending);
}

/* Where wte ends and wpe begins. */
#define BORDER(end, start)                                                                     \
    "\"data_offsets\": [0, " end "]}, \"transformer.wpe.weight\": {\"dtype\": \"F32\", "       \
    "\"shape\": [5, 4], \"data_offsets\": [" start ", 128]"

static void test_hostile(const ModelFiles *good) {
    Opening opening = {"hostile", true};
    model_store("hostile", good);
    Ending ending = child_run(model_open, &opening);
    check(ending.status == 0 && ending.err.size == 0 && ending.out.size == 10,
          "the model that is damaged below is good to begin with");
    ending_free(&ending);

    ModelFiles bad = *good;
    /* Cut short: every length up to the header's end and some beyond would take too long; these
     * cover the length field, the header, its end and the numbers. */
    uint64_t header = 0;
    for (int i = 7; i >= 0; i--) header = header << 8 | good->weights.data[i];
    size_t refused = 0, tried = 0;
    for (size_t size = 0; size < good->weights.size;
         size +=
         size < 32 || (size + 40 > header && size < header + 40) ? 1 : good->weights.size / 60,
                tried++) {
        bad.weights.size = size;
        model_store("hostile", &bad);
        ending = child_run(model_open, &opening);
        bool fine = ending_is_error(&ending, 1, "model.safetensors");
        refused += fine;
        if (!fine)
            check(false, "cut to %zu bytes: exit %d: %.200s", size, ending.status,
                  (char *)ending.err.data);
        ending_free(&ending);
    }
    check(refused == tried, "model.safetensors cut short: %zu of %zu lengths end in one line",
          refused, tried);
    bad = *good;
    refused = tried = 0;
    for (size_t size = 0; size + 3 < good->config.size; size += 7, tried++) {
        bad.config.size = size;
        model_store("hostile", &bad);
        ending = child_run(model_open, &opening);
        bool fine = ending_is_error(&ending, 1, "config.json");
        refused += fine;
        if (!fine)
            check(false, "cut to %zu bytes: exit %d: %.200s", size, ending.status,
                  (char *)ending.err.data);
        ending_free(&ending);
    }
    check(refused == tried, "config.json cut short: %zu of %zu lengths end in one line",
          refused, tried);

    /* Sizes of the header. */
    static const char large[] = "do not hold its header", other[] = "model.safetensors";
    const struct { const char *name; uint64_t size; const char *words;
    } lengths[] = {{"header of 2^63 bytes", (uint64_t)1 << 63, large},
                   {"header of 2^64 - 1 bytes", UINT64_MAX, large},
                   {"header of 2^64 - 8 bytes", UINT64_MAX - 7, large},
                   {"header of 0 bytes", 0, other},
                   {"header one byte longer than the file", good->weights.size - 7, large},
                   {"header as long as the file", good->weights.size - 8, other},
                   {"header cut by a byte", header - 8, other}};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        bad = *good;
        bad.weights.data = memory_allocate(bad.weights.size, 1);
        memcpy(bad.weights.data, good->weights.data, bad.weights.size);
        for (int b = 0; b < 8; b++)
            bad.weights.data[b] = (unsigned char)(lengths[i].size >> 8 * b);
        check_refused(lengths[i].name, &bad, lengths[i].words);
        free(bad.weights.data);
    }

    /* One change in the header or in the configuration.  The model has 1 layer, 2 heads, 4
     * channels, a context of 5 and 3 tokens: wte is (3, 4), 48 bytes. */
    static const struct { const char *name, *old, *new, *words;
    } changes[] = {
        {"not JSON", "{\"__metadata__\"", "hello, world.. ", "model.safetensors"},
        {"a list where an object is due", "{\"__metadata__\"", "[\"__metadata__\"",
         "an object"},
        {"a tensor twice", "transformer.wpe.weight", "transformer.wte.weight", "(5, 4)"},
        {"a tensor missing", "transformer.wpe.weight", "transformer.wp_.weight",
         "wpe.weight is missing"},
        {"another type", "\"F32\", \"shape\": [3, 4]", "\"I32\", \"shape\": [3, 4]",
         "type I32"},
        {"half as many bytes a number", "\"F32\", \"shape\": [3, 4]",
         "\"F16\", \"shape\": [3, 8]", "shape"},
        {"double precision", "\"F32\", \"shape\": [3, 4]", "\"F64\", \"shape\": [3, 2]",
         "F32, F16 or BF16"},
        {"a type that is none", "\"F32\", \"shape\": [3, 4]", "\"X99\", \"shape\": [3, 4]",
         "type X99"},
        {"a type with too long a name", "\"F32\", \"shape\": [3, 4]",
         "\"FLOAT32FLOAT32\", \"shape\": [3, 4]", "model.safetensors"},
        {"no type", "\"dtype\": \"F32\", \"shape\": [3, 4]", "\"shape\": [3, 4]", "a string"},
        {"a number for a type", "\"F32\", \"shape\": [3, 4]", "32, \"shape\": [3, 4]",
         "string"},
        {"the shape turned around", "[3, 4]", "[4, 3]", "shape"},
        {"the shape flattened", "[3, 4]", "[12]", "shape"},
        {"a dimension more", "[3, 4]", "[3, 4, 1]", "shape"},
        {"nine dimensions", "[3, 4]", "[3, 4, 1, 1, 1, 1, 1, 1, 1]", "shape"},
        {"no shape", "\"shape\": [3, 4], ", "", "a list"},
        {"a negative dimension", "[3, 4]", "[-3, -4]", "negative"},
        {"a broken dimension", "[3, 4]", "[3.5, 4]", "whole number"},
        {"2^62 rows of 4", "[3, 4]", "[4611686018427387904, 4]", "model.safetensors"},
        {"2^53 rows of 4", "[3, 4]", "[9007199254740992, 4]", "shape"},
        {"a product of 2^64: 0 bytes", "[3, 4]", "[4294967296, 4294967296]",
         "shape"},
        {"a dimension of 0 among huge ones", "[3, 4]",
         "[0, 9007199254740992, 9007199254740992]", "wte"},
        {"a dimension of 1e308", "[3, 4]", "[1e308, 4]", "whole number"},
        {"a dimension of 1e999", "[3, 4]", "[1e999, 4]", "whole number"},
        {"offsets beyond the file", "[0, 48]", "[1000000, 1000048]", "not complete"},
        {"offsets that end beyond the file", "[0, 48]", "[0, 1000000]", "offsets"},
        {"offsets turned around", "[0, 48]", "[48, 0]", "offsets"},
        {"offsets that leave 4 bytes out", "[0, 48]", "[0, 44]", "44 bytes"},
        {"offsets that take in 4 bytes more", "[0, 48]", "[0, 52]", "52 bytes"},
        {"offsets around 2^64", "[0, 48]", "[18446744073709551568, 0]", "model.safetensors"},
        {"offsets that leave a gap", "\"shape\": [3, 4], \"data_offsets\": [0, 48]",
         "\"shape\": [1, 4], \"data_offsets\": [0, 16]", "shape (1, 4)"},
        {"a border 4 bytes too early", BORDER("48", "48"), BORDER("44", "44"),
         "bytes, type F32"},
        {"a border 4 bytes too late", BORDER("48", "48"), BORDER("52", "52"),
         "bytes, type F32"},
        {"one offset", "[0, 48]", "[0]", "offsets"},
        {"three offsets", "[0, 48]", "[0, 48, 96]", "offsets"},
        {"no offsets", ", \"data_offsets\": [0, 48]", "", "a list"},
        {"a comma too many", "[0, 48]}", "[0, 48],}", "model.safetensors"},
        {"a comma missing", "[3, 4], ", "[3, 4] ", "model.safetensors"},
        {"a list that is not closed", "[0, 48]", "[0, 48", "model.safetensors"},
        {"a string that is not closed", "\"F32\", \"shape\": [3, 4]", "\"F32, shape: [3, 4]",
         "model.safetensors"},
        {"brackets that do not match", "{\"format\": \"pt\"}", "{\"format\": [\"pt\"}]",
         "model.safetensors"},
        {"a comma instead of a colon", "{\"format\": \"pt\"}", "{\"format\", \"pt\"}",
         "model.safetensors"},
        {"a line feed in a type", "\"F32\", \"shape\": [3, 4]", "\"F\\n\", \"shape\": [3, 4]",
         "type F?"},
    };
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        bad = *good;
        bad.weights = bytes_replace(&good->weights, changes[i].old, changes[i].new, true);
        check_refused(changes[i].name, &bad, changes[i].words);
        free(bad.weights.data);
    }
    /* Control characters, of which the last is one in UTF-8, do not reach the terminal. */
    bad = *good;
    bad.weights = bytes_replace(&good->weights, "\"F32\", \"shape\": [3, 4]",
                                "\"\\u001b[\\u007f\\u009b2J\", \"shape\": [3, 4]", true);
    model_store("hostile", &bad);
    Ending shown = child_run(model_open, &opening);
    check(ending_is_error(&shown, 1, "type ?[???2J and"),
          "they are shown as '?': %.150s", (char *)shown.err.data);
    ending_free(&shown);
    free(bad.weights.data);

    static const struct { const char *name, *old, *new, *words;
    } configs[] = {
        {"config: no heads", "\"n_head\": 2", "\"n_head\": 0", "n_head is 0"},
        {"config: no layers", "\"n_layer\": 1", "\"n_layer\": 0", "n_layer is 0"},
        {"config: no channels", "\"n_embd\": 4", "\"n_embd\": 0", "n_embd is 0"},
        {"config: no context", "\"n_positions\": 5", "\"n_positions\": 0", "n_positions is 0"},
        {"config: no vocabulary", "\"vocab_size\": 3", "\"vocab_size\": 0", "vocab_size is 0"},
        {"config: n_head missing", "\"n_head\": 2", "\"n_he_d\": 2", "n_head is 0"},
        {"config: heads do not divide channels", "\"n_head\": 2", "\"n_head\": 3",
         "multiple of n_head"},
        {"config: 10^15 channels", "\"n_embd\": 4", "\"n_embd\": 1000000000000000",
         "n_embd is 1000"},
        {"config: 2^64 layers", "\"n_layer\": 1", "\"n_layer\": 18446744073709551616",
         "config.json"},
        {"config: 2^24 layers", "\"n_layer\": 1", "\"n_layer\": 16777216",
         "n_layer is 16777216"},
        {"config: a million layers", "\"n_layer\": 1", "\"n_layer\": 1000000",
         "n_layer is 1000000"},
        {"config: 10^9 parameters", "\"n_embd\": 4", "\"n_embd\": 10000", "fewer numbers"},
        {"config: more than the file holds", "\"vocab_size\": 3", "\"vocab_size\": 16000000",
         "fewer numbers"},
        {"config: another vocabulary", "\"vocab_size\": 3", "\"vocab_size\": 2", "shape"},
        {"config: another context", "\"n_positions\": 5", "\"n_positions\": 4", "shape"},
        {"config: another layer", "\"n_layer\": 1", "\"n_layer\": 2", "missing"},
        {"config: a negative number", "\"n_head\": 2", "\"n_head\": -2", "negative"},
        {"config: a text for a number", "\"n_head\": 2", "\"n_head\": \"2\"", "a number"},
        {"config: another nonlinearity", "gelu_new", "relu", "activation_function"},
        {"config: one with a line feed", "gelu_new", "re\\nlu", "activation_function"},
        {"config: another width of the MLP", "\"n_inner\": null", "\"n_inner\": 17", "n_inner"},
        {"config: another kind of model", "\"gpt2\"", "\"bert\"", "model_type"},
        {"config: cross attention", "\"add_cross_attention\": false",
         "\"add_cross_attention\": true",
         "add_cross_attention"},
        {"config: an output head of its own", "\"tie_word_embeddings\": true",
         "\"tie_word_embeddings\": false", "must be true"},
        {"config: no biases, but the file has some", "\"bias\": true", "\"bias\": false",
         "is not 0"},
        {"config: bias is a number", "\"bias\": true", "\"bias\": 1", "true or false"},
        {"config: not JSON", "{", "config", "an object"},
        {"config: text behind it", "\"bias\": true\n}", "\"bias\": true\n} and more",
         "config.json"},
    };
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        bad = *good;
        bad.config = bytes_replace(&good->config, configs[i].old, configs[i].new, false);
        check_refused(configs[i].name, &bad, configs[i].words);
        free(bad.config.data);
    }

    static const struct { const char *name, *text, *words;
    } vocabs[] = {
        {"vocab.json: empty file", "", "vocab.json"},
        {"vocab.json: not JSON", "abc", "vocab.json"},
        {"vocab.json: a token twice", "{\"a\": 0, \"a\": 1, \"c\": 2}", "vocab.json"},
        {"vocab.json: an id twice", "{\"a\": 0, \"b\": 1, \"c\": 1}", "vocab.json"},
        {"vocab.json: an id left out", "{\"a\": 0, \"b\": 1, \"c\": 3}", "vocab.json"},
        {"vocab.json: an id of 2^40", "{\"a\": 0, \"b\": 1, \"c\": 1099511627776}",
         "vocab.json"},
        {"vocab.json: a negative id", "{\"a\": 0, \"b\": 1, \"c\": -1}", "vocab.json"},
        {"vocab.json: an empty token", "{\"a\": 0, \"b\": 1, \"\": 2}", "vocab.json"},
        {"vocab.json: a line feed in a token", "{\"a\": 0, \"b\": 1, \"c\\nd\": 2}",
         "vocab.json"},
        {"vocab.json: half a surrogate pair", "{\"a\": 0, \"b\": 1, \"\\ud83d\": 2}",
         "vocab.json"},
        {"vocab.json: not closed", "{\"a\": 0, \"b\": 1, \"c\": 2", "vocab.json"},
    };
    for (size_t i = 0; i < sizeof vocabs / sizeof *vocabs; i++) {
        bad = *good;
        bad.vocab = (Bytes){(unsigned char *)(uintptr_t)vocabs[i].text, strlen(vocabs[i].text)};
        check_refused(vocabs[i].name, &bad, vocabs[i].words);
    }

    /* Nesting so deep that a reader which calls itself would run out of stack. */
    enum { DEEP = 2000000 };
    bad = *good;
    char *deep = memory_allocate(2 * DEEP + 64, 1);
    for (int closed = 0; closed < 2; closed++) {
        memset(deep, '[', DEEP);
        memset(deep + DEEP, ']', closed ? DEEP : 0);
        deep[DEEP + (closed ? DEEP : 0)] = 0;
        char *metadata = text_format("{\"__metadata__\": %s", deep);
        bad.weights = bytes_replace(&good->weights, "{\"__metadata__\": {\"format\": \"pt\"}",
                                    metadata, true);
        check_refused(closed ? "2 million nested lists" : "2 million open brackets", &bad,
                      "fewer brackets");
        free(bad.weights.data);
        free(metadata);
    }
    free(deep);

    /* Weights that are no numbers, first and last. */
    static const float not_finite[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 6; i++) {
        bad = *good;
        bad.weights.data = memory_allocate(bad.weights.size, 1);
        memcpy(bad.weights.data, good->weights.data, bad.weights.size);
        memcpy(bad.weights.data + (i % 2 ? bad.weights.size - 4 : 8 + header),
               &not_finite[i / 2], 4);
        static const char *const names[] = {
            "the first weight is NaN",       "the last weight is NaN",
            "the first weight is infinite",  "the last weight is infinite",
            "the first weight is -infinite", "the last weight is -infinite"};
        check_refused(names[i], &bad, "not finite");
        free(bad.weights.data);
    }
}

/* Some bytes changed at random: a reader may find nothing wrong, or end in one line; it may do
 * nothing else. */
static void test_random_flips(const ModelFiles *good) {
    enum { FILES = 250 };
    uint64_t header = 0;
    for (int i = 7; i >= 0; i--) header = header << 8 | good->weights.data[i];
    for (int which = 0; which < 5; which++) {
        static const char *const names[] = {"model.safetensors, header",
                                            "model.safetensors, anywhere", "config.json",
                                            "vocab.json", "merges.txt"};
        size_t fine = 0, opened = 0;
        for (uint64_t trial = 0; trial < FILES; trial++) {
            ModelFiles bad = *good;
            Bytes *changed = which < 2    ? &bad.weights
                             : which == 2 ? &bad.config
                             : which == 3 ? &bad.vocab
                                          : &bad.merges;
            Bytes copy = {memory_allocate(changed->size + 1, 1), changed->size};
            memcpy(copy.data, changed->data, changed->size);
            size_t range = which == 0 ? 8 + (size_t)header : changed->size;
            uint64_t key = random_bits((uint64_t)which, trial);
            for (uint64_t i = 0; i < 1 + trial % 5; i++) {
                size_t at = (size_t)(random_bits(key, 2 * i) % range);
                uint64_t draw = random_bits(key, 2 * i + 1);
                /* Half of them a bit, as a bad disk does; half a byte that means something in
                 * JSON. */
                if (trial % 2) copy.data[at] ^= (unsigned char)(1u << draw % 8);
                else
                    copy.data[at] =
                        (unsigned char)"{}[]\",:\\0123456789-+.eEtfnu \n"[draw % 29];
            }
            *changed = copy;
            model_store("flipped", &bad);
            Opening opening = {"flipped", true};
            Ending ending = child_run(model_open, &opening);
            bool good_ending = (ending.status == 0 && ending.err.size == 0) ||
                               ending_is_error(&ending, 1, "flipped/");
            opened += ending.status == 0;
            fine += good_ending;
            if (!good_ending)
                check(false, "%s, trial %llu: exit %d: %.300s", names[which],
                      (unsigned long long)trial, ending.status, (char *)ending.err.data);
            ending_free(&ending);
            free(copy.data);
        }
        /* Of the weights and of merges.txt, nearly all changes make another good file. */
        check(fine == FILES && (opened < FILES || which == 1 || which == 4),
              "random changes in %-28s %d files, %zu opened, the others end in one line",
              names[which], FILES, opened);
    }
}

/* --- JSON --------------------------------------------------------------------------------- */

typedef struct {
    const char *text;
    char kind; /* 's' string, 'n' number, 'z' size, 'o' object of numbers, 'a' list of numbers,
                  'v' any value, 'b' boolean */
} JsonCase;

/* Reads one value and prints what was understood. */
static void json_read(void *argument) {
    const JsonCase *c = argument;
    size_t size = strlen(c->text);
    unsigned char *copy = memory_allocate(
        size, 1); /* exactly as long as the text: a sanitizer sees a look beyond */
    memcpy(copy, c->text, size);
    Json j = {copy, size, 0, "text", true};
    char string[64];
    if (c->kind == 's') {
        size_t length = json_string(&j, string, sizeof string);
        for (size_t i = 0; i < length; i++) printf("%02X", (unsigned char)string[i]);
    } else if (c->kind == 'n') printf("%.17g", json_number(&j));
    else if (c->kind == 'z') printf("%zu", json_size(&j));
    else if (c->kind == 'b') printf("%d", json_boolean(&j));
    else if (c->kind == 'o') {
        json_enter(&j, '{');
        while (json_key(&j, string, sizeof string)) printf("%s=%g;", string, json_number(&j));
    } else if (c->kind == 'a') {
        json_enter(&j, '[');
        while (json_more(&j, ']')) printf("%g;", json_number(&j));
    } else {
        json_skip(&j);
        printf("%zu", j.at);
    }
    free(copy);
}

static void test_json(void) {
    /* Expected: what json_read prints, or NULL: the text must be refused. */
    static const struct { JsonCase c; const char *expected;
    } cases[] = {
        {{"\"\"", 's'}, ""},
        {{"\"abc\"", 's'}, "616263"},
        {{" \t\r\n\"a\"", 's'}, "61"},
        {{"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", 's'}, "225C2F080C0A0D09"},
        {{"\"\\u0041\\u00e9\\u20AC\"", 's'}, "41C3A9E282AC"},
        {{"\"\\ud83d\\ude00\"", 's'}, "F09F9880"},
        {{"\"\\uD800\\uDC00\"", 's'}, "F0908080"},
        {{"\"\\udbff\\udfff\"", 's'}, "F48FBFBF"},
        {{"\"\xC3\xA9\"", 's'}, "C3A9"},
        {{"\"\\u0080\\u07ff\\u0800\\uffff\"", 's'}, "C280DFBFE0A080EFBFBF"},
        {{"\"\\ud83d\"", 's'}, NULL},
        {{"\"\\ud83dx\"", 's'}, NULL},
        {{"\"\\ud83d\\n\"", 's'}, NULL},
        {{"\"\\ud83d\\u0041\"", 's'}, NULL},
        {{"\"\\ude00\"", 's'}, NULL},
        {{"\"\\ud83d\\ud83d\"", 's'}, NULL},
        {{"\"\\u12g4\"", 's'}, NULL},
        {{"\"\\u12", 's'}, NULL},
        {{"\"\\u\"", 's'}, NULL},
        {{"\"\\x41\"", 's'}, NULL},
        {{"\"\\", 's'}, NULL},
        {{"\"abc", 's'}, NULL},
        {{"\"", 's'}, NULL},
        {{"abc", 's'}, NULL},
        {{"'abc'", 's'}, NULL},
        {{"\"a\nb\"", 's'}, NULL},
        {{"\"a\x01\"", 's'}, NULL},
        {{"", 's'}, NULL},
        {{"7", 's'}, NULL},
        {{"\"123456789 123456789 123456789 123456789 123456789 123456789 123\"", 's'},
         "3132333435363738392031323334353637383920313233343536373839203132333435363738392031323"
         "334353637383920313233343536373839203132"
         "33"},
        {{"\"123456789 123456789 123456789 123456789 123456789 123456789 1234\"", 's'}, NULL},
        {{"0", 'n'}, "0"},
        {{"-0", 'n'}, "-0"},
        {{"12", 'n'}, "12"},
        {{"-1.5e3", 'n'}, "-1500"},
        {{"2E-2", 'n'}, "0.02"},
        {{"1e+2", 'n'}, "100"},
        {{"0.1000000000000000055511151231257827021181583404541015625", 'n'},
         "0.10000000000000001"},
        {{"0.10000000000000000555111512312578270211815834045410156250000000000000", 'n'},
         "0.10000000000000001"},
        {{"1e-05", 'n'}, "1.0000000000000001e-05"},
        {{"12,", 'n'}, "12"},
        {{"-", 'n'}, NULL},
        {{"+1", 'n'}, NULL},
        {{".5", 'n'}, NULL},
        {{"-.5", 'n'}, NULL},
        {{"1.", 'n'}, NULL},
        {{"1.e3", 'n'}, NULL},
        {{"1e", 'n'}, NULL},
        {{"1e+", 'n'}, NULL},
        {{"01", 'n'}, NULL},
        {{"--1", 'n'}, NULL},
        {{"NaN", 'n'}, NULL},
        {{"Infinity", 'n'}, NULL},
        {{"", 'n'}, NULL},
        {{"true", 'n'}, NULL},
        {{"9007199254740992", 'z'}, "9007199254740992"},
        {{"1e3", 'z'}, "1000"},
        {{"9007199254740994", 'z'}, NULL},
        {{"-1", 'z'}, NULL},
        {{"0.5", 'z'}, NULL},
        {{"1e300", 'z'}, NULL},
        {{"1e999", 'z'}, NULL},
        {{"18446744073709551616", 'z'}, NULL},
        {{"true", 'b'}, "1"},
        {{" false", 'b'}, "0"},
        {{"tru", 'b'}, NULL},
        {{"1", 'b'}, NULL},
        {{"null", 'b'}, NULL},
        {{"{}", 'o'}, ""},
        {{" { } ", 'o'}, ""},
        {{"{\"a\":1}", 'o'}, "a=1;"},
        {{"{ \"a\" : 1 , \"b\" : 2 }", 'o'}, "a=1;b=2;"},
        {{"{\"a\":1,}", 'o'}, NULL},
        {{"{,\"a\":1}", 'o'}, NULL},
        {{"{\"a\":1 \"b\":2}", 'o'}, NULL},
        {{"{\"a\":1,,\"b\":2}", 'o'}, NULL},
        {{"{\"a\" 1}", 'o'}, NULL},
        {{"{\"a\":}", 'o'}, NULL},
        {{"{\"a\"}", 'o'}, NULL},
        {{"{a:1}", 'o'}, NULL},
        {{"{\"a\":1", 'o'}, NULL},
        {{"{\"a\":1]", 'o'}, NULL},
        {{"{", 'o'}, NULL},
        {{"[1]", 'o'}, NULL},
        {{"{1:2}", 'o'}, NULL},
        {{"[]", 'a'}, ""},
        {{"[ ]", 'a'}, ""},
        {{"[1,2 , 3]", 'a'}, "1;2;3;"},
        {{"[1,]", 'a'}, NULL},
        {{"[,1]", 'a'}, NULL},
        {{"[1 2]", 'a'}, NULL},
        {{"[1-2]", 'a'}, NULL},
        {{"[1.2.3]", 'a'}, NULL},
        {{"[1", 'a'}, NULL},
        {{"[", 'a'}, NULL},
        {{"[1}", 'a'}, NULL},
        {{"1", 'a'}, NULL},
        {{"{\"a\": [1, {\"b\": \"]}\"}, null, true], \"c\": -1e3} ", 'v'}, "46"},
        {{"\"a\\\"b\" ", 'v'}, "6"},
        {{"null,", 'v'}, "4"},
        {{"[[[]]]", 'v'}, "6"},
        {{"[{}, [], \"\\\\\"]", 'v'}, "14"},
        {{"[}", 'v'}, NULL},
        {{"{]", 'v'}, NULL},
        {{"[{]}", 'v'}, NULL},
        {{"[1 2]", 'v'}, NULL},
        {{"[1,,2]", 'v'}, NULL},
        {{"[1,]", 'v'}, NULL},
        {{"{\"a\" 1}", 'v'}, NULL},
        {{"{\"a\":1,}", 'v'}, NULL},
        {{"{1:2}", 'v'}, NULL},
        {{"[:]", 'v'}, NULL},
        {{"{\"a\"}", 'v'}, NULL},
        {{"nul", 'v'}, NULL},
        {{"\"abc", 'v'}, NULL},
        {{"\"a\nb\"", 'v'}, NULL},
        {{"\"\\q\"", 'v'}, NULL},
        {{"\"\\ud800\"", 'v'}, NULL},
        {{"\"\\u0000\"", 'v'}, "8"},
        {{"\"abc\\", 'v'}, NULL},
        {{"[[]", 'v'}, NULL},
        {{"", 'v'}, NULL},
        {{"]", 'v'}, NULL},
        {{"hello", 'v'}, NULL},
        {{"[1] ", 'v'}, "3"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        JsonCase c = cases[i].c;
        Ending ending = child_run(json_read, &c);
        bool good = cases[i].expected ? ending.status == 0 && ending.err.size == 0 &&
                                            !strcmp((char *)ending.out.data, cases[i].expected)
                                      : ending_is_error(&ending, 1, "text: byte ");
        char shown[48];
        size_t n = 0;
        for (const char *t = c.text; *t && n + 5 < sizeof shown; t++)
            n += (size_t)snprintf(shown + n, sizeof shown - n,
                                  *t >= ' ' && *t < 127 ? "%c" : "<%02X>", (unsigned char)*t);
        shown[n] = 0;
        check(good, "JSON %c  %-46s %s", c.kind, shown,
              ending.status == 0 ? (char *)ending.out.data
                                 : (ending.err.data[strcspn((char *)ending.err.data, "\n")] = 0,
                                    (char *)ending.err.data));
        ending_free(&ending);
    }
}

/* --- Through the program ------------------------------------------------------------------ */

/* A model with more tokens than its tokenizer has words for writes only what has words. */
static void test_vocabularies(void) {
    static const struct {
        size_t model, tokenizer;
    } sizes[] = {{300, 256}, {60000, 256}, {10, 3}};
    for (size_t i = 0; i < 3; i++) {
        GPT *gpt = model_make(1, 1, 4, 8, sizes[i].model, true);
        Tokenizer *tokenizer =
            sizes[i].tokenizer == 256 ? tokenizer_create(NULL, 0) : tokenizer_of("abc");
        char *path = text_format("%s/vocab", folder);
        model_write(gpt, tokenizer, "", path);
        Ending ending = train_run(
            "generate --model %s --prompt a --tokens 200 --temperature 100 --threads 1", path);
        bool words = ending.status == 0 && ending.err.size == 0 && ending.out.size <= 202;
        for (size_t b = 0; words && sizes[i].tokenizer == 3 && b + 1 < ending.out.size; b++)
            words = strchr("abc", ending.out.data[b]) != NULL && ending.out.data[b];
        check(words,
              "a model of %zu tokens with a tokenizer of %zu: exit %d: %.100s", sizes[i].model,
              sizes[i].tokenizer, ending.status,
              ending.status ? (char *)ending.err.data : "writes only what has words");
        ending_free(&ending);
        gpt_destroy(gpt);
        tokenizer_destroy(tokenizer);
        free(path);
    }
    Ending ending = train_run("info --model %s/hostile-none", folder);
    check_error("a model that is not there", &ending, 1, "config.json");
    ending_free(&ending);
}

int main(void) {
    program_name = "train";
#ifdef _OPENMP
    omp_set_num_threads(1); /* a forked child has none of its parent's other threads */
#endif
    folder = scratch_create("test_files");
    test_round_trip("biased", 2, 3, 9, true);
    test_round_trip("unbiased", 3, 1, 5, false);
    test_bare_names();
    test_half();
    test_forms();
    test_shorten();
    test_large();
    test_pair(false);
    test_pair(true);
    test_metadata();
    test_replaced();

    GPT *gpt = model_make(1, 2, 4, 5, 3, true);
    Tokenizer *tokenizer = tokenizer_of("abc");
    char *path = text_format("%s/good", folder);
    model_write(gpt, tokenizer, "", path);
    char *paths[4] = {file_in("good", "config.json"), file_in("good", "model.safetensors"),
                      file_in("good", "vocab.json"), file_in("good", "merges.txt")};
    ModelFiles good = {file_read(paths[0]), file_read(paths[1]), file_read(paths[2]),
                       file_read(paths[3])};
    test_hostile(&good);
    test_random_flips(&good);
    test_json();
    test_vocabularies();
    free(good.config.data);
    free(good.weights.data);
    free(good.vocab.data);
    free(good.merges.data);
    for (int i = 0; i < 4; i++) free(paths[i]);
    free(path);
    gpt_destroy(gpt);
    tokenizer_destroy(tokenizer);
    return check_summary();
}

/* fuzz_files.c - arbitrary bytes against the readers of train.c, for clang's libFuzzer:
 *
 *     make fuzz-files                       all of them, ten minutes each
 *     clang -g -O1 -fsanitize=fuzzer,address,undefined tests/fuzz_files.c -o build/fuzz_files
 *     FUZZ=config build/fuzz_files -max_total_time=600 build/fuzz/config
 *
 * $FUZZ names the reader: safetensors (any such file), model (model.safetensors beside a
 * config.json), config, state (of a run) or tokens.
 * build/fuzz/NAME gets seeds from files that the program itself has written.  What must hold of
 * a file that is accepted is asserted.
 */
#define _GNU_SOURCE 1
#include "fuzz.c"
#define TRAIN_NO_MAIN
#include "../train.c"
#undef NDEBUG
#include <assert.h>

static char folder[64]; /* gone at the end */
static char paths[4][128];
enum { CONFIG, WEIGHTS, TOKENS, STATE };

static void fuzz_save(const char *path, const void *data, size_t size) {
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || write(file, data, size) != (ssize_t)size || close(file) != 0) abort();
}

static void fuzz_safetensors(const uint8_t *data, size_t size) {
    fuzz_save(paths[WEIGHTS], data, size);
    SafeTensors *file = safetensors_open(paths[WEIGHTS]);
    volatile unsigned char seen;
    char key[1024];
    Json j = file->json;
    for (json_enter(&j, '{'); json_key(&j, key, sizeof key); json_skip(&j)) {
        if (!strcmp(key, "__metadata__")) continue;
        SafeTensor t = safetensors_find(file, key);
        assert(t.numbers && t.bytes <= size);
        if (t.bytes) seen = t.numbers[0], seen = t.numbers[t.bytes - 1];
    }
    (void)seen;
    char text[64];
    metadata_text(file, "format", text, sizeof text);
    safetensors_close(file);
}

static void fuzz_model(const uint8_t *data, size_t size) {
    fuzz_save(paths[WEIGHTS], data, size);
    GPT *gpt = model_read(folder, size % 2, false); /* of the context all or one position */
    for (size_t i = 0; i < gpt->parameter_count; i++) assert(isfinite(gpt->weights[i]));
    gpt_destroy(gpt);
}

static void fuzz_config(const uint8_t *data, size_t size) {
    fuzz_save(paths[CONFIG], data, size);
    Config config = config_read(paths[CONFIG]);
    assert(config.channels % config.heads == 0 && config_parameters(&config) > 0);
}

static void fuzz_state(const uint8_t *data, size_t size) {
    Config config = {1, 2, 4, 5, 3, true, 0.1f};
    Optimizer *optimizer;
    fuzz_save(paths[STATE], data, size);
    SafeTensors *file = state_open(folder);
    Progress progress = state_progress(file);
    config.vocab = (size_t)state_number(file, "vocab", true);
    GPT *gpt = state_read(file, &config, &optimizer);
    for (size_t i = 0; i < gpt->parameter_count; i++)
        assert(isfinite(gpt->weights[i]) && isfinite(optimizer->m[i]));
    assert(progress.seconds >= 0 || isnan(progress.seconds));
    optimizer_destroy(optimizer);
    gpt_destroy(gpt);
    safetensors_close(file);
}

static void fuzz_tokens(const uint8_t *data, size_t size) {
    if (!size) return;
    size_t vocab = *data % 2 ? 50257 : 128256; /* the rest is the file */
    fuzz_save(paths[TOKENS], data + 1, size - 1);
    Corpus corpus = {0};
    tokens_append(&corpus, paths[TOKENS], vocab);
    assert(corpus.count <= (size - 1) / 2);
    for (size_t i = 0; i < corpus.count; i++) assert(corpus.tokens[i] < vocab);
    free(corpus.tokens);
}

static const struct Target {
    const char *name;
    void (*run)(const uint8_t *, size_t);
} TARGETS[] = {{"safetensors", fuzz_safetensors}, {"model", fuzz_model},
               {"config", fuzz_config}, {"tokens", fuzz_tokens}, {"state", fuzz_state}};
static const struct Target *target;

/* A seed from the bytes of a file, behind `before` bytes that say something to the target. */
static void seed_save(const char *name, const void *before, size_t length, Bytes file) {
    char path[128];
    unsigned char *bytes = memory_allocate(length + file.size, 1);
    memcpy(bytes, before, length);
    memcpy(bytes + length, file.data, file.size);
    snprintf(path, sizeof path, "build/fuzz/%s/%s", target->name, name);
    fuzz_save(path, bytes, length + file.size);
    free(bytes);
}

/* A small model in the scratch folder, and seeds made of its files. */
static void seeds_make(const uint8_t *unused, size_t size) {
    (void)unused, (void)size;
    Config config = {1, 2, 4, 5, 3, true, 0.1f};
    GPT *gpt = gpt_create(&config, false);
    gpt_initialize(gpt, 1);
    Tokenizer *tokenizer = tokenizer_create((const unsigned char *)"abc", 3);
    model_write(gpt, tokenizer, ", \"--lr\": \"1\"", folder);
    char *seeds = text_format("build/fuzz/%s", target->name);
    folder_create(seeds);
    free(seeds);
    Bytes weights = file_read(paths[WEIGHTS]), text = file_read(paths[CONFIG]);
    if (target->run == fuzz_safetensors) {
        seed_save("model", "", 0, weights);
        Bytes reference = file_read("tests/reference/residual.safetensors");
        seed_save("reference", "", 0, reference);
        free(reference.data);
    }
    if (target->run == fuzz_model) seed_save("model", "", 0, weights);
    if (target->run == fuzz_config) seed_save("config", "", 0, text);
    if (target->run == fuzz_state) {
        Optimizer *optimizer = optimizer_create(gpt->parameter_count);
        state_write(paths[STATE], gpt, optimizer, &(Progress){.best_loss = 1}, "");
        Bytes seed = file_read(paths[STATE]);
        seed_save("state", "", 0, seed);
        fuzz_state(seed.data, seed.size);
        free(seed.data);
        optimizer_destroy(optimizer);
    }
    if (target->run == fuzz_tokens) {
        static const uint32_t heads[2][257] = {{20240520, 1, 2}, {20240801, 7, 1}};
        Bytes ids = {(unsigned char *)"\1\0\2\0\377\377", 6};
        for (int i = 0; i < 2; i++) {
            seed_save(i ? "raw-odd" : "raw-even", i ? "\1" : "\0", 1, ids);
            unsigned char before[1025] = {(unsigned char)(1 - i)};
            memcpy(before + 1, heads[i], 1024);
            seed_save(i ? "llama3" : "gpt2", before, 1025, (Bytes){ids.data, 4});
        }
    }
    free(weights.data);
    free(text.data);
    gpt_destroy(gpt);
    tokenizer_destroy(tokenizer);
}

static void scratch_remove(void) {
    DIR *files = opendir(folder);
    for (struct dirent *entry; files && (entry = readdir(files));) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        unlink(path);
    }
    if (files) closedir(files);
    rmdir(folder);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    const char *name = getenv("FUZZ");
    for (size_t i = 0; i < sizeof TARGETS / sizeof *TARGETS; i++)
        if (name && !strcmp(name, TARGETS[i].name)) target = &TARGETS[i];
    if (!target) {
        fprintf(stderr, "FUZZ must name safetensors, model, config, state or tokens\n");
        _exit(2);
    }
    /* In memory where that can be had: each input is written to a file. */
    snprintf(folder, sizeof folder, "%s/fuzz_files.XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (!mkdtemp(folder)) abort();
    atexit(scratch_remove);
    static const char *const names[] = {"config.json", "model.safetensors", "ids.bin",
                                        "state.safetensors"};
    for (size_t i = 0; i < 4; i++)
        snprintf(paths[i], sizeof paths[i], "%s/%s", folder, names[i]);
    fuzz_input(seeds_make, NULL, 0);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_input(target->run, data, size);
    return 0;
}

/* train.c - GPT training, whole: from raw text to a trained model that writes.
 *
 * What it does.  A text is a row of tokens: bytes, or pieces of words.  The model reads some of
 * them and gives a probability to each token that could come next; the loss says how badly it
 * was surprised by the one that did.  Calculus says how the loss would change with each weight,
 * and each weight takes a small step downhill.  That is all; the rest is arithmetic, and all of
 * it is here: no library but libc and libm.
 *
 *     cc -std=gnu11 -O3 -march=native -fno-math-errno -fopenmp train.c -o train -lm
 *     ./train --data book.txt --out out/book
 *     ./train generate --model out/book/best
 *
 * How to read it.  From top to bottom; nothing is used before it is defined (but for one
 * prototype, which says so).  In a hurry: this page, then one kernel of section 4 with its
 * block of mathematics, then gpt_block_forward in section 7, then batch_gradient and run_train
 * in section 11.  A tag such as [glossary: Gradient accumulation] marks the place where a term
 * of doc/glossary.md comes alive.
 *
 *   1. This page
 *   2. Small tools          clock, threads, counter-based random numbers
 *   3. Text in              the corpus, its parts, batches
 *   4. Kernels              what a token meets, each forward with its backward
 *   5. The matrix product made fast     packed panels, register tiles; attention on top of them
 *   6. The model            one table of tensors; activations; the compute budget
 *   7. Forward and backward two mirrored lists of kernel calls
 *   8. The optimizer        learning-rate schedule, gradient clipping, AdamW
 *   9. Checkpoints          safetensors and config.json, as Hugging Face writes them
 *  10. Inference            KV cache, sampling
 *  11. The training loop    micro-batches, evaluation, early stopping, progress, log
 *  12. Command line         one table of options, and main
 *
 * Symbols.  A capital is a size, and means the same everywhere; its small letter counts it.
 *   B sequences in a batch     T tokens in a sequence   C channels (width of the model)
 *   H attention heads          D = C/H channels a head  F = 4C hidden width of the MLP
 *   L layers (blocks)          V vocabulary             N rows, mostly N = B*T
 *   O output channels          s key position in attention, beside t, the query position
 *   M, N, K of a matrix product: (M,N) is (M,K) times (K,N), each element a sum over K
 * (B,T,C) is the shape of an array in row-major order.  dX is the gradient of the loss with
 * respect to X, an array of X's shape: dX[i] says how much the loss grows, per unit, when X[i]
 * alone grows a little.                                                   [glossary: Gradient]
 *
 * One training step.
 *   for each micro-batch of the batch                                 batch_gradient       (11)
 *       inputs, targets = windows of the text, shifted by one         batch_read           (3)
 *       x = wte[inputs] + wpe                                         gpt_embed            (7)
 *       for each layer l                                              gpt_block_forward    (7)
 *           x = x + projection(attention(norm(x)))                    kernels            (4, 5)
 *           x = x + MLP(norm(x))
 *       losses = cross_entropy(norm(x) wte^T, targets)                head_run             (7)
 *       dlosses = 1 / targets of the whole batch                      batch_gradient       (11)
 *       the same list backward: gradients += d loss / d weights       gpt_backward_hidden  (7)
 *   norm = |gradients|, scaled down to at most `clip`                 gradient_norm        (8)
 *   weights = weights - lr (AdamW's step), gradients = 0              adamw_update         (8)
 *
 * Rules that hold everywhere.
 *   - Gradients of weights accumulate (+=) until optimizer_step clears them; so several
 *     micro-batches add up to one batch.  For activations, each kernel says "sets" or "adds".
 *   - The same seed and the same program give the same losses to the last bit on any number of
 *     threads: threads divide outputs, and sums that cross threads have a fixed order.
 *   - Numbers are float.  Double are the sums of the mean loss, of the gradient's norm, of
 *     a layer norm's mean and variance, and of the gradients of biases and norms.  All others,
 *     those of matrix products, embeddings and softmax, are float, in a fixed order.
 *   - What a user can cause ends in one line on stderr; what only a mistake in this file can
 *     cause is an assert.
 */
#define TOKENIZER_NO_MAIN
#include "tokenizer.c" /* first: it says on which systems this cannot run */
#include <dirent.h>
#if defined(__AVX512BF16__)
#include <immintrin.h> /* one instruction, for --precision bf16 */
#endif
#include <math.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#ifdef _OPENMP
#include <omp.h>
#else
#pragma GCC diagnostic ignored "-Wunknown-pragmas" /* the omp lines then mean nothing */
#endif

/* =========================================================================================
 * 2. Small tools
 *
 * tokenizer.c brings those that both programs need: die(), memory_allocate(), files that are
 * replaced whole or not at all, JSON.  Here stand the clock, random numbers, and threads.
 * ====================================================================================== */

double clock_seconds(void) { /* since some fixed moment; never goes back */
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int thread_count(void) {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

/* The number that 1 to 8 bytes write, the lowest first. */
static uint64_t bytes_number(const unsigned char *at, size_t bytes) {
    uint64_t number = 0;
    while (bytes--) number = number << 8 | at[bytes];
    return number;
}

/* A whole file, mapped and not read: only pages that are looked at come into memory.  No NUL
 * stands behind it, and an empty file has no data.  Ends the program if it cannot be mapped.
 * The caller calls file_unmap. */
Bytes file_map(const char *path) {
    struct stat status;
    int descriptor = open(path, O_RDONLY);
    if (descriptor < 0 || fstat(descriptor, &status) != 0)
        die("%s: cannot open: %s", path, strerror(errno));
    if (!S_ISREG(status.st_mode)) die("%s: is not a file", path);
    Bytes file = {NULL, (size_t)status.st_size};
    if (file.size) file.data = mmap(NULL, file.size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (file.data == MAP_FAILED) die("%s: cannot map: %s", path, strerror(errno));
    close(descriptor);
    return file;
}

void file_unmap(Bytes file) {
    if (file.size) munmap(file.data, file.size);
}

/* Counter-based random numbers: each is a function of a key and of an index, with no state.
 * A draw thus depends on the seed and on what it is for (the step, the layer, the element),
 * and never on which thread asked first or on how many were drawn before.  That is what
 * makes a run repeatable on any number of threads, and what lets dropout draw its mask again
 * in the backward pass.  The function is SplitMix64's: the index-th value of the sequence
 * that starts at `key` (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
 * generators", section 3).  Keys nest: random_bits(random_bits(seed, step), layer) is a key
 * for that step and layer. */
static inline uint64_t random_bits(uint64_t key, uint64_t index) {
    uint64_t z = key + (index + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* In [0, 1), a multiple of 2^-24. */
static inline float random_uniform(uint64_t key, uint64_t index) {
    return (float)(random_bits(key, index) >> 40) * 0x1p-24f;
}

/* Mean 0, standard deviation 1: Box and Muller 1958, from two uniform draws. */
float random_normal(uint64_t key, uint64_t index) {
    double u = ((double)(random_bits(key, 2 * index) >> 11) + 0.5) * 0x1p-53; /* in (0, 1] */
    double angle =
        (double)(random_bits(key, 2 * index + 1) >> 11) * 0x1p-53 * 6.283185307179586;
    return (float)(sqrt(-2.0 * log(u)) * cos(angle));
}

/* What the draws of a run are for: keys random_bits(seed, purpose). */
enum { RANDOM_WEIGHTS = 1, RANDOM_ORDER, RANDOM_WINDOWS, RANDOM_DROPOUT, RANDOM_SAMPLING };

/* The place to which a shuffle of 0..N-1 sends i, computed on its own: no table, so that place
 * 10^9 of the shuffle costs what place 0 costs.  A Feistel network of four rounds permutes the
 * smallest square 2^bits x 2^bits that holds N numbers; what falls on N or above is sent on
 * until it falls below (Black and Rogaway 2002, "Ciphers with arbitrary finite domains",
 * section 3). */
uint64_t random_permutation(uint64_t key, uint64_t i, uint64_t N) {
    unsigned bits = 1;
    while (bits < 32 && (uint64_t)1 << 2 * bits < N) bits++;
    uint64_t mask = ((uint64_t)1 << bits) - 1;
    do {
        uint64_t left = i >> bits, right = i & mask;
        for (uint64_t round = 0; round < 4; round++) {
            uint64_t mixed = left ^ (random_bits(random_bits(key, round), right) & mask);
            left = right;
            right = mixed;
        }
        i = left << bits | right;
    } while (i >= N);
    return i;
}

/* =========================================================================================
 * 3. Text in                                       [glossary: Training corpus, Training set]
 *
 * Text becomes one long row of token ids (tokenizer_encode of tokenizer.c, which run_corpus of
 * section 12 calls; corpus_rows encodes line by line).  It is cut by position into three
 * parts that do not overlap: what the model learns from, what tells us when to stop, and
 * what is looked at once.  A batch is a number of windows into one part; the targets are the
 * inputs one place further.  Where every line of the text is a sequence of its own (names,
 * sums), the windows are lines.
 * ====================================================================================== */

enum { SPLIT_TRAIN, SPLIT_VALIDATION, SPLIT_TEST, SPLITS };

/* A line as a sequence of its own, by places in the tokens.  Its inputs begin with the line
 * feed before it, its targets end with the one behind it: the line feed is both the token to
 * start from and the one that ends. */
typedef struct {
    size_t start;  /* the line feed before it; row[1].start is the one behind it */
    size_t answer; /* the first token that counts in the loss: behind the prompt, if any */
} Row;

typedef struct {
    uint32_t *tokens;
    size_t count; /* tokens */
    size_t bytes; /* of the text that they stand for */
    size_t parts[SPLITS]; /* tokens of each part; all 0: the parts are cut by position */
    Row *rows;    /* (row_count + 1), the last one for its start only; NULL: a running text */
    size_t row_count;
} Corpus;

static const char *const SPLIT_NAMES[] = {"train", "validation", "test", NULL};

/* One part of a corpus.  The tokens belong to the corpus; with rows, `tokens` points to all of
 * them, and `count` counts only those of these rows. */
typedef struct {
    const uint32_t *tokens;
    size_t count;
    const char *name;
    const Row *rows; /* (row_count + 1) or NULL */
    size_t row_count;
} Split;

static void text_append(Bytes *text, const char *path, bool named) {
    Bytes file = file_read(path);
    unsigned char *nul = memchr(file.data, 0, file.size);
    if (nul && named)
        die("%s: byte %td is NUL: this is not a text; name text files", path, nul - file.data);
    if (nul)
        fprintf(stderr, "%s: %s holds NUL bytes, is no text, and is left out\n", program_name,
                path);
    if (!nul && file.size) {
        bool gap = text->size && text->data[text->size - 1] != '\n'; /* or two words touch */
        text->data = memory_resize(text->data, text->size + gap + file.size + 1, 1);
        if (gap) text->data[text->size++] = '\n';
        memcpy(text->data + text->size, file.data, file.size + 1);
        text->size += file.size;
    }
    free(file.data);
}

static int name_compare(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Appends a file, or all files below a folder in the order of their names; names that begin
 * with a dot are passed over.  `named` says that the user asked for this very path. */
void text_collect(Bytes *text, const char *path, bool named) {
    struct stat status;
    if (stat(path, &status) != 0) die("%s: cannot open: %s", path, strerror(errno));
    if (S_ISREG(status.st_mode)) {
        text_append(text, path, named);
        return;
    }
    if (!S_ISDIR(status.st_mode)) {
        if (named) die("%s: is neither a file nor a folder", path);
        return;
    }
    DIR *folder = opendir(path);
    if (!folder) die("%s: cannot open the folder: %s", path, strerror(errno));
    char **names = NULL;
    size_t count = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (entry->d_name[0] == '.') continue;
        names = memory_resize(names, count + 1, sizeof *names);
        names[count++] = text_format("%s/%s", path, entry->d_name);
    }
    closedir(folder);
    if (count) qsort(names, count, sizeof *names, name_compare);
    for (size_t i = 0; i < count; i++) {
        /* A link below the folder could lead back up to it. */
        if (lstat(names[i], &status) == 0 && !S_ISLNK(status.st_mode))
            text_collect(text, names[i], false);
        free(names[i]);
    }
    free(names);
}

static const unsigned char ROW_END[] = "\n"; /* begins rows, too */

/* A text whose every line is a row, at most T tokens with its line feed.  after: NULL, or the
 * character that ends each line's prompt.  Lines, and prompt and answer, are encoded apart, so
 * that no token of a learned vocabulary reaches across.  The caller frees tokens and rows. */
Corpus corpus_rows(Tokenizer *tokenizer, const Bytes *text, const char *name, const char *after,
                   size_t T) {
    const unsigned char *line = text->data, *end = text->data + text->size, *next;
    Ids ids = {0};
    size_t n = 0, lines = 1;
    for (const unsigned char *c = line; c < end; c++) lines += *c == '\n';
    Row *rows = memory_allocate(lines + 1, sizeof *rows);
    text_check(tokenizer, text->data, text->size, name, 0);
    text_check(tokenizer, ROW_END, 1, "--rows: the line feed", 0);
    text_encode(tokenizer, ROW_END, 1, &ids);
    for (; line < end; line = next + 1) {
        next = memchr(line, '\n', (size_t)(end - line));
        if (!next) next = end; /* the last line may lack its line feed */
        const unsigned char *mark = after ? memchr(line, *after, (size_t)(next - line)) : NULL;
        if (after && !mark)
            die("%s: line %zu has no '%s', which --answer-after wants on every line", name,
                n + 1, after);
        const unsigned char *answer = mark ? mark + 1 : line;
        rows[n].start = ids.count - 1;
        text_encode(tokenizer, line, (size_t)(answer - line), &ids);
        rows[n].answer = ids.count;
        text_encode(tokenizer, answer, (size_t)(next - answer), &ids);
        text_encode(tokenizer, ROW_END, 1, &ids);
        size_t length = ids.count - 1 - rows[n++].start;
        if (length > T)
            die("%s: line %zu and its line feed are %zu tokens, more than the context of %zu",
                name, n, length, T);
    }
    rows[n].start = ids.count - 1;
    return (Corpus){ids.data, ids.count, text->size, {0}, rows, n};
}

/* Cuts the corpus into three: the share `test` at its end, before that the share `validation`,
 * the rest for training; or as its files were named.  Rows are cut to the nearest whole number.
 * 1 - 0.05 - 0.05 is a little less than 0.9 in binary: the 1e-6 keeps whole numbers whole. */
void corpus_split(const Corpus *corpus, double validation, double test, Split splits[SPLITS]) {
    const size_t *parts = corpus->parts;
    size_t all = corpus->rows ? corpus->row_count : corpus->count, train_end, test_start;
    if (corpus->rows) {
        train_end = (size_t)((double)all * (1.0 - validation - test) + 0.5);
        test_start = (size_t)((double)all * (1.0 - test) + 0.5);
    } else if (parts[SPLIT_TRAIN] + parts[SPLIT_VALIDATION] + parts[SPLIT_TEST]) {
        train_end = parts[SPLIT_TRAIN];
        test_start = train_end + parts[SPLIT_VALIDATION];
    } else {
        train_end = (size_t)((double)all * (1.0 - validation - test) + 1e-6);
        test_start = train_end + (size_t)((double)all * validation + 1e-6);
        if (test == 0) test_start = all;
    }
    size_t starts[SPLITS + 1] = {0, train_end, test_start, all};
    for (int i = 0; i < SPLITS; i++) {
        size_t start = starts[i], count = starts[i + 1] - start;
        const Row *row = corpus->rows ? corpus->rows + start : NULL;
        splits[i] = row ? (Split){corpus->tokens, row[count].start - row->start, SPLIT_NAMES[i],
                                  row, count}
                        : (Split){corpus->tokens + start, count, SPLIT_NAMES[i], NULL, 0};
    }
}

/* How many sequences of T tokens lie side by side in a split; with rows, how many rows. */
size_t split_sequences(const Split *split, size_t T) {
    return split->rows ? split->row_count : split->count > T ? (split->count - 1) / T : 0;
}

/* The sequence that begins at token `at` of a split, or row number `at`: inputs (T), and
 * targets (T), which are the inputs shifted by one.  A prompt and what lies behind the end
 * of a row have the target -1, which does not count in the loss; and no earlier token can
 * look at the padding behind a row.
 * [glossary: Next-token prediction, Self-supervised learning] */
void sequence_read(const Split *split, size_t at, size_t T, int32_t *inputs, int32_t *targets) {
    const Row *row = split->rows ? split->rows + at : NULL;
    size_t start = row ? row->start : at, end = row ? row[1].start : at + T;
    size_t answer = row ? row->answer : at + 1;
    for (size_t t = 0, place = start; t < T; t++, place++) {
        inputs[t] = (int32_t)split->tokens[place < end ? place : start];
        targets[t] =
            place < end && place + 1 >= answer ? (int32_t)split->tokens[place + 1] : -1;
    }
}

/* Where batches come from.  A process has a rank below world; each batch is dealt out so that
 * all ranks together see what one process would have seen. */
enum { ORDER_EPOCHS, ORDER_WINDOWS };
static const char *const ORDER_NAMES[] = {"epochs", "windows", NULL};

typedef struct {
    const Split *split;
    size_t batch; /* sequences in a step, over all ranks */
    size_t T;     /* tokens in a sequence */
    int order; /* ORDER_EPOCHS: each window once an epoch, shuffled; ORDER_WINDOWS: at random */
    uint64_t seed;
    size_t rank, world;
} BatchSource;

/* The first token of sequence i of this step's batch; with rows, the number of its row.
 *                                                                           [glossary: Epoch]
 * ORDER_EPOCHS: the split is cut into windows of T tokens, and an epoch visits every one once,
 * in an order of its own.  The cut begins at a random place among the few that leave the same
 * number of windows.  ORDER_WINDOWS: any place, as nanoGPT does; a token is then seen once an
 * epoch on average. */
static size_t window_start(const BatchSource *source, uint64_t step, size_t i) {
    const Split *split = source->split;
    size_t T = split->rows ? 1 : source->T; /* rows are counted, and as long as one */
    size_t last = split->rows ? split->row_count - 1 : split->count - T - 1; /* that fits */
    uint64_t number = step * source->batch + i;
    if (source->order == ORDER_WINDOWS)
        return (size_t)(random_bits(random_bits(source->seed, RANDOM_WINDOWS), number) %
                        (last + 1));
    uint64_t windows = last / T + 1, epoch = number / windows;
    uint64_t key = random_bits(random_bits(source->seed, RANDOM_ORDER), epoch);
    size_t slack = last % T; /* tokens that the windows leave over */
    size_t shift = (size_t)(random_bits(key, ~(uint64_t)0) % (slack + 1));
    return shift + (size_t)random_permutation(key, number % windows, windows) * T;
}

/* Reads `count` sequences of this rank's share of the batch, beginning with number `first` of
 * that share: inputs (count,T), targets (count,T). */
void batch_read(const BatchSource *source, uint64_t step, size_t first, size_t count,
                int32_t *inputs, int32_t *targets) {
    size_t T = source->T, mine = source->rank * (source->batch / source->world);
    assert(source->batch % source->world == 0 && source->rank < source->world);
    for (size_t b = 0; b < count; b++)
        sequence_read(source->split, window_start(source, step, mine + first + b), T,
                      inputs + b * T, targets + b * T);
}

/* Targets that count in the loss, in the whole batch of this step over all ranks. */
size_t batch_targets(const BatchSource *source, uint64_t step) {
    size_t sum = 0;
    if (!source->split->rows) return source->batch * source->T;
    for (size_t i = 0; i < source->batch; i++) {
        const Row *row = source->split->rows + window_start(source, step, i);
        sum += row[1].start - row->answer + 1;
    }
    return sum;
}

/* Tokens that a step reads, without padding; rows differ, and this is the mean. */
double batch_tokens(const BatchSource *source) {
    const Split *s = source->split;
    return (double)source->batch *
           (s->rows ? (double)s->count / (double)s->row_count : (double)source->T);
}

/* Epochs that `steps` steps amount to.  The last token of a running text is only a target. */
double batch_epochs(const BatchSource *source, uint64_t steps) {
    return (double)steps * batch_tokens(source) /
           (double)(source->split->count - !source->split->rows);
}

/* --- Files of tokens ------------------------------------------------------------------------
 * A long text is encoded once and kept as the ids of its tokens.  Two forms are read:
 *   llm.c's  256 numbers of 32 bits, of which the first three are a magic number, a version and
 *            the number of tokens; then the ids.  The magic number tells such a file.
 *   raw      nothing but ids, as nanoGPT and `./tokenizer encode --raw` write them: 2 bytes
 *            each if the vocabulary has at most 65536 tokens, otherwise 4.  Any bytes could be
 *            that, so such a file is told by its name, which ends in ".bin". */
static const struct {
    uint32_t magic, version;
    size_t width; /* bytes of an id */
} TOKEN_FORMS[] = {{20240520, 1, 2}, {20240801, 7, 4}}; /* for GPT-2's ids, for Llama 3's */
enum { TOKEN_FORM_COUNT = sizeof TOKEN_FORMS / sizeof *TOKEN_FORMS, TOKEN_HEADER = 256 * 4 };

/* The row of TOKEN_FORMS for a file that begins with `head`; TOKEN_FORM_COUNT: none. */
static size_t token_form(Bytes head) {
    size_t form = 0;
    while (form < TOKEN_FORM_COUNT &&
           (head.size < 4 || bytes_number(head.data, 4) != TOKEN_FORMS[form].magic))
        form++;
    return form;
}

/* Is this a file of tokens, of one form or the other? */
bool tokens_recognise(const char *path) {
    struct stat status;
    size_t length = strlen(path);
    if (stat(path, &status) != 0 || !S_ISREG(status.st_mode)) return false;
    if (length >= 4 && !strcmp(path + length - 4, ".bin")) return true;
    Bytes file = file_map(path);
    bool tokens = token_form(file) < TOKEN_FORM_COUNT;
    file_unmap(file);
    return tokens;
}

/* Appends the ids of a file; each must be one of the vocabulary's. */
static void tokens_append(Corpus *corpus, const char *path, size_t vocab) {
    Bytes file = file_map(path);
    size_t form = token_form(file), width = vocab <= 65536 ? 2 : 4, at = 0;
    if (form < TOKEN_FORM_COUNT) {
        width = TOKEN_FORMS[form].width;
        at = TOKEN_HEADER;
        if (file.size < at || bytes_number(file.data + 4, 4) != TOKEN_FORMS[form].version ||
            bytes_number(file.data + 8, 4) != (file.size - at) / width)
            die("%s: its header does not fit its %zu bytes: damaged, not complete, or of "
                "another version of llm.c",
                path, file.size);
    }
    if ((file.size - at) % width)
        die("%s: %zu bytes of ids: not a multiple of %zu", path, file.size - at, width);
    size_t count = (file.size - at) / width;
    corpus->tokens =
        memory_resize(corpus->tokens, corpus->count + count, sizeof *corpus->tokens);
    for (size_t i = 0; i < count; i++) {
        uint32_t id = (uint32_t)bytes_number(file.data + at + i * width, width);
        if (id >= vocab)
            die("%s: token %zu is %u: the vocabulary has %zu tokens", path, i, (unsigned)id,
                vocab);
        corpus->tokens[corpus->count++] = id;
    }
    file_unmap(file);
}

/* The part that the name of a file tells, as that of nanoGPT's val.bin does; SPLITS: none. */
static int tokens_part(const char *path) {
    static const char *const WORDS[] = {"train", "val", "test"};
    static const char between[] = "._-0123456789";
    const char *slash = strrchr(path, '/'), *at = slash ? slash + 1 : path;
    while (*at) {
        size_t letters = strcspn(at, between);
        for (int part = 0; part < SPLITS; part++)
            if (letters == strlen(WORDS[part]) && !strncmp(at, WORDS[part], letters))
                return part;
        at += letters + strspn(at + letters, between);
    }
    return SPLITS;
}

/* Reads files of tokens; paths ends with NULL.  If any is named val or test, each must be named
 * train, val or test, and the parts are made of them; otherwise all are joined and cut by
 * position, as texts are. */
void tokens_collect(Corpus *corpus, const char *const *paths, size_t vocab) {
    bool named = false;
    for (size_t i = 0; paths[i]; i++)
        named |= tokens_part(paths[i]) == SPLIT_VALIDATION ||
                 tokens_part(paths[i]) == SPLIT_TEST;
    for (int part = 0; part < (named ? SPLITS : 1); part++) {
        size_t before = corpus->count;
        for (size_t i = 0; paths[i]; i++) {
            if (named && tokens_part(paths[i]) == SPLITS)
                die("%s: its name does not say train, val or test, but another name does",
                    paths[i]);
            if (!named || tokens_part(paths[i]) == part) tokens_append(corpus, paths[i], vocab);
        }
        if (named) corpus->parts[part] = corpus->count - before;
    }
}

/* =========================================================================================
 * 4. Kernels
 *
 * In the order in which a token meets them: embedding, layer norm, matrix product, dropout
 * (which attention uses), attention, GELU, residual, and at the end the output head with its
 * loss.  Each forward stands beside its backward, under one block that holds the mathematics of
 * both; doc/derivations.md derives every backward step by step, with numbers.
 *
 * What every kernel keeps to:
 *   - Arguments: outputs, values saved for the backward pass, inputs, weights, sizes.  Arrays
 *     are row-major; (B,T,C) means that element [b][t][c] stands at x[(b*T + t)*C + c].
 *   - A backward takes its forward's arguments with outputs replaced by their gradients.
 *   - Gradients of weights are always added to (+=): micro-batches accumulate in them.  For
 *     gradients of activations each kernel says "sets" or "adds".
 *   - No kernel allocates, prints, or keeps anything between calls.  Two things stand outside
 *     the arguments, both in section 5: product_precision, which --precision sets (sample_show
 *     puts it aside), and the rooms to which matrix_product copies panels of B and rows of A.
 *   - Threads divide the *outputs*: an output element is computed by one thread, in an order
 *     that does not depend on how many there are.  So neither does any result, to the last bit.
 *     [glossary: Forward pass, Backpropagation (backward pass)]
 * ====================================================================================== */

/* A sum of floats taken one after another cannot be vectorised: the compiler may not change
 * the order of the additions, because that changes the rounding.  So the order is fixed here
 * once: LANES running sums side by side, added up at the end.  Shorter chains of additions also
 * round less. */
enum { LANES = 16 }; /* a vector of AVX-512; the same everywhere, as it fixes the order */

/* The sum of the lanes, halves added to halves. */
static inline float lanes_total(const float lane[LANES]) {
    float half[LANES / 2];
    for (int i = 0; i < LANES / 2; i++) half[i] = lane[i] + lane[i + LANES / 2];
    for (int width = LANES / 4; width; width /= 2)
        for (int i = 0; i < width; i++) half[i] += half[i + width];
    return half[0];
}

/* sum over i of a_i b_i */
static inline float dot_product(const float *a, const float *b, size_t N) {
    float lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= N; i += LANES)
        for (int j = 0; j < LANES; j++) lane[j] += a[i + j] * b[i + j];
    for (int j = 0; i < N; i++, j++) lane[j] += a[i] * b[i];
    return lanes_total(lane);
}

/* y_i += factor x_i */
static inline void scaled_add(float *y, float factor, const float *x, size_t N) {
    for (size_t i = 0; i < N; i++) y[i] += factor * x[i];
}

/* The loops that generation runs stay on one thread over fewer elements than this: waking the
 * others costs more.  All other loops do not ask: only generation has so few rows. */
enum { PARALLEL_ELEMENTS = 16384 };

/* e^x with a relative error near 1e-7 for x in [-86, 88]; beyond, the value at the border; NaN
 * stays NaN.  libm's expf is as exact but is called for one number at a time; this is
 * arithmetic only, so that a loop over it becomes vector instructions.
 *   e^x = 2^n e^r,   n = round(x / ln 2),   r = x - n ln 2,   |r| <= ln(2)/2
 * n ln 2 is taken off in two parts, the first of which has few enough digits for n times it to
 * be exact (Cody and Waite 1980).  e^r is its Taylor polynomial of degree 7: the first term
 * left out is 0.35^8/8! = 6e-9.  Adding 1.5 * 2^23 rounds to a whole number and leaves n in the
 * low bits; adding n to the exponent bits multiplies by 2^n. */
static inline float exponential(float x) {
    const float shift = 12582912.0f;
    float clamped = x < -86.0f ? -86.0f : x;
    clamped = clamped > 88.0f ? 88.0f : clamped;
    float shifted = clamped * 1.44269504f + shift, n = shifted - shift;
    float r = clamped - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    float e = 1.0f / 5040;
    e = e * r + 1.0f / 720;
    e = e * r + 1.0f / 120;
    e = e * r + 1.0f / 24;
    e = e * r + 1.0f / 6;
    e = e * r + 0.5f;
    e = e * r + 1.0f;
    e = e * r + 1.0f;
    uint32_t bits, exponent;
    memcpy(&bits, &e, sizeof bits);
    memcpy(&exponent, &shifted, sizeof exponent);
    bits += exponent << 23;
    memcpy(&e, &bits, sizeof e);
    return x != x ? x : e;
}

/* A view of a matrix: element (i, j) is at[i*row + j*column].  Its transpose is the same view
 * with the two strides exchanged, so that no kernel needs a second version for transposed
 * inputs. */
typedef struct {
    const float *at;
    size_t row, column;
} Matrix;

/* Section 5: result (M,N), rows `pitch` floats apart, set to A (M,K) times B (K,N) plus bias
 * (N, or NULL), or, with `add`, increased by A times B; of numbers rounded to bf16 where
 * --precision says so.  Note the letters: in matmul_forward its M, N, K are a layer's N, O,
 * C. */
void matrix_product(float *result, size_t pitch, Matrix A, Matrix B, const float *bias,
                    size_t M, size_t N, size_t K, bool add);

/* --- Embedding --------------------------------------- [glossary: Embedding] ---------------
 * A token is a number with no meaning; its row of wte is what the model knows of it, and the
 * row of wpe what it knows of the place.
 *   x[b,t] = wte[token[b,t]] + wpe[t]                    x (B,T,C), wte (V,C), wpe (context,C)
 * Backward: x is a sum, so its gradient goes unchanged to both rows; a row that was used at
 * several places gets the sum over all of them.
 *   dwte[token[b,t]] += dx[b,t]      dwpe[t] += sum over b of dx[b,t]
 * Cost: 3 B T C floats moved, no arithmetic to speak of.
 * Pitfall: two places with the same token add to the same row.  Threads that divided the places
 * would race, so they divide the channels. */
void embedding_forward(float *x, const int32_t *tokens, const float *wte, const float *wpe,
                       size_t B, size_t T, size_t C) {
    #pragma omp parallel for if (B * T * C > PARALLEL_ELEMENTS)
    for (size_t bt = 0; bt < B * T; bt++) {
        const float *token = wte + (size_t)tokens[bt] * C, *place = wpe + bt % T * C;
        for (size_t c = 0; c < C; c++) x[bt * C + c] = token[c] + place[c];
    }
}

enum { SLICE = 64 }; /* channels that a thread takes at a time where it owns channels */

void embedding_backward(float *dwte, float *dwpe, const float *dx, const int32_t *tokens,
                        size_t B, size_t T, size_t C) {
    #pragma omp parallel for
    for (size_t c0 = 0; c0 < C; c0 += SLICE) {
        size_t n = C - c0 < SLICE ? C - c0 : SLICE;
        for (size_t bt = 0; bt < B * T; bt++) {
            const float *dx_bt = dx + bt * C + c0;
            scaled_add(dwte + (size_t)tokens[bt] * C + c0, 1.0f, dx_bt, n);
            scaled_add(dwpe + bt % T * C + c0, 1.0f, dx_bt, n);
        }
    }
}

/* --- Layer norm -------------------------------------- [glossary: Layer normalisation] -----
 * Brings every row to mean 0 and variance 1, then lets the model choose scale and shift
 * (Ba, Kiros, Hinton 2016, arXiv:1607.06450, eq. 3 and 4).  For one row x of C channels:
 *   mean = sum(x)/C    rstd = 1/sqrt(sum((x - mean)^2)/C + eps)    z = (x - mean) rstd
 *   y = z weight + bias
 * Backward, with g = dy weight, which is the gradient that arrives at z:
 *   dx += rstd (g - mean(g) - z mean(g z))      dweight += dy z      dbias += dy
 * where mean(...) is taken over the C channels of the row.  The first term alone would be right
 * if mean and rstd were constants.  Adding a constant to x changes nothing, so dx must have
 * mean 0: the second term.  Stretching x - mean changes nothing (but for eps), so dx has
 * next to no component along z: the third.  The formula itself is exact, eps included.
 * Shapes: x, y (N,C); mean, rstd (N), saved; weight, bias (C).
 * Cost: some 8 N C FLOPs forward; reading x and writing y takes longer.
 * Pitfall: the variance from mean(x^2) - mean^2 loses every digit when the mean is large; so
 * the mean is taken off first, in a second pass over a row that is still in the cache. */
static const float LAYERNORM_EPS = 1e-5f; /* GPT-2's */

void layernorm_forward(float *y, float *mean, float *rstd, const float *x, const float *weight,
                       const float *bias, size_t N, size_t C) {
    #pragma omp parallel for if (N * C > PARALLEL_ELEMENTS)
    for (size_t n = 0; n < N; n++) {
        const float *x_n = x + n * C;
        float *y_n = y + n * C;
        double sum = 0, squares = 0, lane[LANES] = {0};
        for (size_t c = 0; c + LANES <= C; c += LANES)
            for (int j = 0; j < LANES; j++) lane[j] += x_n[c + j];
        for (size_t c = C - C % LANES; c < C; c++) sum += x_n[c];
        for (int j = 0; j < LANES; j++) sum += lane[j], lane[j] = 0;
        float m = (float)(sum / (double)C);
        for (size_t c = 0; c + LANES <= C; c += LANES)
            for (int j = 0; j < LANES; j++) {
                double centred = x_n[c + j] - m;
                lane[j] += centred * centred;
            }
        for (size_t c = C - C % LANES; c < C; c++)
            squares += (double)(x_n[c] - m) * (x_n[c] - m);
        for (int j = 0; j < LANES; j++) squares += lane[j];
        float r = (float)(1.0 / sqrt(squares / (double)C + LAYERNORM_EPS));
        for (size_t c = 0; c < C; c++) y_n[c] = (x_n[c] - m) * r * weight[c];
        for (size_t c = 0; c < C && bias; c++) y_n[c] += bias[c];
        mean[n] = m;
        rstd[n] = r;
    }
}

void layernorm_backward(float *dx /* adds */, float *dweight, float *dbias, const float *dy,
                        const float *mean, const float *rstd, const float *x,
                        const float *weight, size_t N, size_t C) {
    #pragma omp parallel for
    for (size_t n = 0; n < N; n++) {
        const float *x_n = x + n * C, *dy_n = dy + n * C;
        float *dx_n = dx + n * C, m = mean[n], r = rstd[n];
        float g_lane[LANES] = {0}, gz_lane[LANES] = {0};
        size_t c = 0;
        for (; c + LANES <= C; c += LANES)
            for (int j = 0; j < LANES; j++) {
                float g = dy_n[c + j] * weight[c + j];
                g_lane[j] += g;
                gz_lane[j] += g * ((x_n[c + j] - m) * r);
            }
        for (int j = 0; c < C; c++, j++) {
            float g = dy_n[c] * weight[c];
            g_lane[j] += g;
            gz_lane[j] += g * ((x_n[c] - m) * r);
        }
        float g_mean = lanes_total(g_lane) / (float)C,
              gz_mean = lanes_total(gz_lane) / (float)C;
        for (c = 0; c < C; c++) {
            float z = (x_n[c] - m) * r;
            dx_n[c] += r * (dy_n[c] * weight[c] - g_mean - z * gz_mean);
        }
    }
    #pragma omp parallel for
    for (size_t c0 = 0; c0 < C; c0 += SLICE) { /* sums over rows: threads own channels */
        size_t count = C - c0 < SLICE ? C - c0 : SLICE;
        double dw[SLICE] = {0}, db[SLICE] = {0};
        for (size_t n = 0; n < N; n++) {
            const float *x_n = x + n * C + c0, *dy_n = dy + n * C + c0;
            for (size_t c = 0; c < count; c++) {
                dw[c] += dy_n[c] * ((x_n[c] - mean[n]) * rstd[n]);
                db[c] += dy_n[c];
            }
        }
        for (size_t c = 0; c < count; c++) dweight[c0 + c] += (float)dw[c];
        for (size_t c = 0; c < count && dbias; c++) dbias[c0 + c] += (float)db[c];
    }
}

/* --- Matrix product with bias ---------------------------------------------------------------
 * Nearly all of the time of training is spent here.  A linear layer: every output channel is
 * a weighted sum of all input channels.
 *   y[n,o] = bias[o] + sum over c of x[n,c] weight[c,o]         x (N,C), weight (C,O), y (N,O)
 * Backward: y[n,o] grows by weight[c,o] per unit of x[n,c], and by x[n,c] per unit of
 * weight[c,o].  Sum over everything that x[n,c], weight[c,o] or bias[o] reaches:
 *   dx[n,c] = sum over o of dy[n,o] weight[c,o]                             dx = dy weight^T
 *   dweight[c,o] += sum over n of x[n,c] dy[n,o]                       dweight += x^T dy
 *   dbias[o] += sum over n of dy[n,o]
 * The shapes are a check: (N,O)(O,C) is (N,C), and (C,N)(N,O) is (C,O).
 * Cost: 2 N C O FLOPs forward, twice that backward: a step costs 6 FLOPs per weight and token.
 * All three are one routine, matrix_product (section 5), told by strides which matrix is to be
 * read transposed.
 * Pitfall: Hugging Face stores GPT-2's weights (in, out), its Linear layers (out, in). */
void matmul_forward(float *y, const float *x, const float *weight, const float *bias, size_t N,
                    size_t C, size_t O) {
    matrix_product(y, O, (Matrix){x, C, 1}, (Matrix){weight, O, 1}, bias, N, O, C, false);
}

/* sums (O) += the sum over n of y[n] */
static void column_sums_add(float *sums, const float *y, size_t N, size_t O) {
    #pragma omp parallel for
    for (size_t o0 = 0; o0 < O; o0 += SLICE) {
        size_t count = O - o0 < SLICE ? O - o0 : SLICE;
        double sum[SLICE] = {0};
        for (size_t n = 0; n < N; n++)
            for (size_t o = 0; o < count; o++) sum[o] += y[n * O + o0 + o];
        for (size_t o = 0; o < count; o++) sums[o0 + o] += (float)sum[o];
    }
}

void matmul_backward(float *dx /* sets; NULL: not wanted */, float *dweight, float *dbias,
                     const float *dy, const float *x, const float *weight, size_t N, size_t C,
                     size_t O) {
    if (dx)
        matrix_product(dx, C, (Matrix){dy, O, 1}, (Matrix){weight, 1, O}, NULL, N, C, O, false);
    matrix_product(dweight, O, (Matrix){x, 1, C}, (Matrix){dy, O, 1}, NULL, C, O, N, true);
    if (dbias) column_sums_add(dbias, dy, N, O);
}

/* --- Dropout ----------------------------------------- [glossary: Dropout] ------------------
 * While training, sets each element to 0 with probability `rate` and divides the others by 1 -
 * rate, so that the expected value stays (Srivastava et al. 2014).  No channel can then rely on
 * another one being there.
 *   y_i = x_i keep_i / (1 - rate)            dx_i = dy_i keep_i / (1 - rate)
 * keep_i is not stored: it is drawn again in the backward pass from (key, number of the
 * element).  `first` is the number of element 0, so that a micro-batch draws what its sequences
 * would have drawn inside the whole batch.
 * Pitfall: generation and evaluation must run without it (rate 0). */
typedef struct {
    float rate;     /* share of elements set to 0, in [0, 1); 0 switches dropout off */
    uint64_t key;   /* of the seed, the step and the place in the model */
    uint64_t first; /* number of the tensor's first element */
} Dropout;

static inline float dropout_factor(Dropout dropout, uint64_t i) {
    if (dropout.rate == 0) return 1.0f; /* as any draw would */
    return random_uniform(dropout.key, dropout.first + i) >= dropout.rate
               ? 1.0f / (1.0f - dropout.rate)
               : 0.0f;
}

void dropout_forward(float *y /* may be x */, const float *x, size_t N, Dropout dropout) {
    #pragma omp parallel for
    for (size_t i = 0; i < N; i++) y[i] = x[i] * dropout_factor(dropout, i);
}

void dropout_backward(float *dx /* sets; may be dy */, const float *dy, size_t N,
                      Dropout dropout) {
    dropout_forward(dx, dy, N, dropout); /* the same factors */
}

/* --- Causal self-attention --------------------------- [glossary: Self-attention] -----------
 * The one place where tokens look at each other.  Every place t asks with its query q, every
 * place s <= t answers with its key k, and what t receives is the mean of the values v weighted
 * by how well they match (Vaswani et al. 2017, arXiv:1706.03762, eq. 1).  For one head, D =
 * C/H:
 *   S[t,s] = q[t].k[s] / sqrt(D)     P[t,s] = exp(S[t,s]) / sum over s' <= t of exp(S[t,s'])
 *   y[t] = sum over s <= t of P[t,s] v[s]
 * If the elements of q and k are independent with mean 0 and variance 1, q.k has standard
 * deviation sqrt(D); without the scale the softmax would put nearly all weight on one s, and
 * hardly any gradient would pass.
 *
 * P is T x T numbers a head: at T = 1024, more than all other activations of a layer.  It is
 * not kept.  The forward pass walks over the keys with a running maximum m and a running sum;
 * when the maximum rises to m', what was summed shrinks (Milakov and Gimelshein 2018,
 * arXiv:1805.02867, algorithm 3; doc/attention.md has an example):
 *   y = y exp(m - m') + exp(S - m') v[s]        sum = sum exp(m - m') + exp(S - m')
 * and y is divided by the sum at the end.  It keeps one number a row,
 *   lse[t] = log(sum over s of exp(S[t,s])),  from which the backward pass has P = exp(S - lse)
 * again for the price of a dot product (Dao et al. 2022, arXiv:2205.14135, section 3).
 *
 * Backward, from dy[t]:
 *   dv[s] += P[t,s] dy[t]             y is linear in v
 *   dP[t,s] = dy[t].v[s]
 *   dS[t,s] = P[t,s] (dP[t,s] - sum over s' of P[t,s'] dP[t,s'])
 *             The softmax: per unit of S[t,s], P[t,s'] grows by P[t,s'] ((s' is s) - P[t,s]);
 *             raising one score lowers the share of all others.  The sum is dy[t].y[t], because
 *             y[t] is the sum of P[t,s'] v[s']: no second pass.
 *   dq[t] += dS[t,s] k[s] / sqrt(D)      dk[s] += dS[t,s] q[t] / sqrt(D)
 * Dropout multiplies P by a factor f in y and in dv, and dP by the same f; dy.y remains the
 * sum.
 *
 * Shapes: qkv (B,T,3C), a row holds q, k, v with head h at channels h*D..; y (B,T,C); lse
 * (B,H,T), saved.
 * Cost: 2 T C FLOPs a token forward (half of 4 T C, for s <= t), 5/2 of it backward.
 * Pitfalls: exp(S) overflows from S = 89 on; the maximum is taken off first.  Looking at s > t
 * would show the model the very token that it is asked to predict.
 * attention_forward_plain and attention_backward_plain are the definition; the model calls
 * attention_forward and attention_backward of section 5 (and, to write, attention_cached),
 * which do the same for many queries and keys at a time. */
void attention_forward_plain(float *y, float *lse, const float *qkv, size_t B, size_t T,
                             size_t C, size_t H, Dropout dropout) {
    size_t D = C / H;
    float scale = 1.0f / sqrtf((float)D);
    #pragma omp parallel for
    for (size_t bh = 0; bh < B * H; bh++) {
        size_t b = bh / H, h = bh % H;
        const float *q = qkv + b * T * 3 * C + h * D, *k = q + C, *v = k + C;
        for (size_t t = 0; t < T; t++) {
            float maximum = -INFINITY, sum = 0, *y_t = y + (b * T + t) * C + h * D;
            for (size_t d = 0; d < D; d++) y_t[d] = 0;
            for (size_t s = 0; s <= t; s++) {
                float score = scale * dot_product(q + t * 3 * C, k + s * 3 * C, D);
                float highest = score > maximum ? score : maximum;
                float shrink = expf(maximum - highest), p = expf(score - highest);
                float f = dropout_factor(dropout, (bh * T + t) * T + s);
                for (size_t d = 0; d < D; d++)
                    y_t[d] = y_t[d] * shrink + f * p * v[s * 3 * C + d];
                sum = sum * shrink + p;
                maximum = highest;
            }
            for (size_t d = 0; d < D; d++) y_t[d] /= sum;
            lse[bh * T + t] = maximum + logf(sum);
        }
    }
}

void attention_backward_plain(float *dqkv /* sets */, const float *dy, const float *y,
                              const float *lse, const float *qkv, size_t B, size_t T, size_t C,
                              size_t H, Dropout dropout) {
    size_t D = C / H;
    float scale = 1.0f / sqrtf((float)D);
    #pragma omp parallel for
    for (size_t bh = 0; bh < B * H; bh++) { /* a head writes to its own channels of dqkv only */
        size_t b = bh / H, h = bh % H, at = b * T * 3 * C + h * D;
        const float *q = qkv + at, *k = q + C, *v = k + C;
        float *dq = dqkv + at, *dk = dq + C, *dv = dk + C;
        for (size_t t = 0; t < T; t++)
            for (size_t d = 0; d < D; d++)
                dq[t * 3 * C + d] = dk[t * 3 * C + d] = dv[t * 3 * C + d] = 0;
        for (size_t t = 0; t < T; t++) {
            const float *dy_t = dy + (b * T + t) * C + h * D,
                        *y_t = y + (b * T + t) * C + h * D;
            float sum_p_dp = dot_product(dy_t, y_t, D);
            for (size_t s = 0; s <= t; s++) {
                float score = scale * dot_product(q + t * 3 * C, k + s * 3 * C, D);
                float p = expf(score - lse[bh * T + t]);
                float f = dropout_factor(dropout, (bh * T + t) * T + s);
                float dp = f * dot_product(dy_t, v + s * 3 * C, D);
                float ds = p * (dp - sum_p_dp) * scale;
                scaled_add(dv + s * 3 * C, f * p, dy_t, D);
                scaled_add(dk + s * 3 * C, ds, q + t * 3 * C, D);
                scaled_add(dq + t * 3 * C, ds, k + s * 3 * C, D);
            }
        }
    }
}

/* --- GELU ------------------------------------------------------------------------------------
 * The nonlinearity between the two matrix products of the MLP; without it, they would collapse
 * into a single matrix.  GPT-2 uses the tanh form (Hendrycks and Gimpel 2016, arXiv:1606.08415,
 * section 2):
 *   y = x/2 (1 + tanh(u)),    u = sqrt(2/pi) (x + 0.044715 x^3)
 * With e = exp(-2u) and s = 1/(1 + e) it is y = x s, because (1 + tanh u)/2 = s: one
 * exponential instead of a tanh.
 * Backward, by the product rule and ds/du = 2 s (1 - s), where 1 - s = e s:
 *   dx = dy (s + x 2 s (e s) du/dx),    du/dx = sqrt(2/pi) (1 + 3 * 0.044715 x^2)
 * Shapes: x, y (N).
 * Cost: some 20 FLOPs an element.
 * Pitfalls: the backward pass needs x, not y; y cannot be undone (it falls, then rises).  1 - s
 * computed as it stands has no digits left where s is near 1. */
static const float SQRT_2_OVER_PI = 0.797884561f;

static inline float gelu_exponential(float x) { /* e above */
    return exponential(-2.0f * SQRT_2_OVER_PI * (x + 0.044715f * x * x * x));
}

void gelu_forward(float *y, const float *x, size_t N) {
    #pragma omp parallel for if (N > PARALLEL_ELEMENTS)
    for (size_t i = 0; i < N; i++) y[i] = x[i] / (1.0f + gelu_exponential(x[i]));
}

void gelu_backward(float *dx /* sets; may be dy */, const float *dy, const float *x, size_t N) {
    #pragma omp parallel for
    for (size_t i = 0; i < N; i++) {
        float e = gelu_exponential(x[i]), s = 1.0f / (1.0f + e);
        float du_dx = SQRT_2_OVER_PI * (1.0f + 3.0f * 0.044715f * x[i] * x[i]);
        dx[i] = dy[i] * (s + x[i] * 2.0f * s * (e * s) * du_dx);
    }
}

/* --- Residual connection ----------------------------- [glossary: Residual connection] ------
 * A block does not replace what it is given, it adds to it (He et al. 2015, arXiv:1512.03385):
 *   y = x + branch                       dx = dy      dbranch = dy
 * The row x that runs through all blocks, and to which each adds, is called the residual
 * stream.  The gradient of a sum goes to both terms unchanged.  That is the whole trick:
 * however many blocks there are, the gradient that leaves the final norm also reaches the
 * embedding along a path on which nothing multiplies it. */
void residual_forward(float *y, const float *x, const float *branch, size_t N) {
    #pragma omp parallel for if (N > PARALLEL_ELEMENTS)
    for (size_t i = 0; i < N; i++) y[i] = x[i] + branch[i];
}

void residual_backward(float *dx /* sets; may be dy */, float *dbranch /* sets */,
                       const float *dy, size_t N) {
    #pragma omp parallel for
    for (size_t i = 0; i < N; i++) dx[i] = dbranch[i] = dy[i];
}

/* --- Output head -----------------------------------------------------------------------------
 * One score (logit) for every token of the vocabulary: how well its embedding matches the last
 * hidden state.  The embedding matrix is used a second time ("tied"; Press and Wolf 2016,
 * arXiv:1608.05859), so wte gets gradient from both ends of the model.
 *   logits[n,v] = sum over c of x[n,c] wte[v,c]      x (N,C), wte (V,C), logits (N,V)
 *   dx = dlogits wte        dwte += dlogits^T x
 * Cost: 2 N C V FLOPs forward, twice that backward; in a small model with a large vocabulary
 * this is the largest part. */
void unembedding_forward(float *logits, const float *x, const float *wte, size_t N, size_t C,
                         size_t V) {
    matrix_product(logits, V, (Matrix){x, C, 1}, (Matrix){wte, 1, C}, NULL, N, V, C, false);
}

void unembedding_backward(float *dx /* sets */, float *dwte, const float *dlogits,
                          const float *x, const float *wte, size_t N, size_t C, size_t V) {
    matrix_product(dx, C, (Matrix){dlogits, V, 1}, (Matrix){wte, C, 1}, NULL, N, C, V, false);
    matrix_product(dwte, C, (Matrix){dlogits, 1, V}, (Matrix){x, C, 1}, NULL, V, C, N, true);
}

/* --- Softmax cross-entropy -------------------------- [glossary: Loss function, Cross-entropy]
 * The loss at a place is minus the logarithm of the probability that the model gave to the
 * token that really came next:
 *   p[v] = exp(logit[v]) / sum over w of exp(logit[w])
 *   loss = -log p[target] = lse - logit[target],      lse = log(sum over w of exp(logit[w]))
 * Backward, for a weight dloss on this place: d lse / d logit[v] = p[v], so
 *   dlogit[v] = dloss (p[v] - (v is the target))
 * The gradient is what the model said minus what was true: never more than 1, and not small as
 * long as the model is confidently wrong.
 * Shapes: logits (N,V); targets, losses, lse (N), lse saved.  A target below 0 asks for no
 * prediction: loss 0 and gradient 0.
 * Cost: an exponential for each logit, in each direction.
 * Pitfalls: exp of a logit of 89 or more overflows, and log(softmax) in two steps may take
 * log 0; so the maximum is taken off first.  And lse is one float: near 500 its last bit is
 * 3e-5, which is much beside a loss, or as an error in an exponent.  So the loss is formed
 * from log_sum directly, and the backward pass uses lse only to bring the exponents near 0,
 * and then divides by the sum of its own row. */
void cross_entropy_forward(float *losses, float *lse, const float *logits,
                           const int32_t *targets, size_t N, size_t V) {
    #pragma omp parallel for
    for (size_t n = 0; n < N; n++) {
        const float *logit = logits + n * V;
        float maximum = logit[0], highest[LANES], lane[LANES] = {0};
        size_t v = 0;
        for (int j = 0; j < LANES; j++) highest[j] = maximum;
        for (; v + LANES <= V; v += LANES) /* in lanes, for the reason that sums are */
            for (int j = 0; j < LANES; j++)
                highest[j] = logit[v + j] > highest[j] ? logit[v + j] : highest[j];
        for (; v < V; v++) maximum = logit[v] > maximum ? logit[v] : maximum;
        for (int j = 0; j < LANES; j++) maximum = highest[j] > maximum ? highest[j] : maximum;
        for (v = 0; v + LANES <= V; v += LANES)
            for (int j = 0; j < LANES; j++) lane[j] += exponential(logit[v + j] - maximum);
        for (int j = 0; v < V; v++, j++) lane[j] += exponential(logit[v] - maximum);
        float log_sum = logf(lanes_total(lane));
        lse[n] = maximum + log_sum;
        losses[n] = targets[n] < 0 ? 0.0f : log_sum - (logit[targets[n]] - maximum);
    }
}

void cross_entropy_backward(float *dlogits /* sets; may be logits */, const float *dlosses,
                            const float *lse, const float *logits, const int32_t *targets,
                            size_t N, size_t V) {
    #pragma omp parallel for
    for (size_t n = 0; n < N; n++) {
        float *dlogit = dlogits + n * V, dloss = targets[n] < 0 ? 0.0f : dlosses[n];
        const float *logit = logits + n * V;
        float lane[LANES] = {0};
        size_t v = 0;
        for (; v + LANES <= V; v += LANES)
            for (int j = 0; j < LANES; j++)
                lane[j] += dlogit[v + j] = exponential(logit[v + j] - lse[n]);
        for (int j = 0; v < V; v++, j++) lane[j] += dlogit[v] = exponential(logit[v] - lse[n]);
        float factor = dloss / lanes_total(lane); /* the sum is 1 but for rounding */
        for (v = 0; v < V; v++) dlogit[v] *= factor;
        if (targets[n] >= 0) dlogit[targets[n]] -= dloss;
    }
}

/* =========================================================================================
 * 5. The matrix product made fast
 *
 * matrix_product_plain is the definition; a reader in a hurry may stop behind it.  It computes
 * the same numbers as matrix_product up to rounding, and tests/test_kernels.c holds the two
 * side by side.
 * ====================================================================================== */

/* result (M,N), rows `pitch` floats apart: result[m,n] = bias[n] + sum over k of A[m,k] B[k,n],
 * or, with `add`, result[m,n] += that sum.  A is (M,K), B is (K,N), bias (N) or NULL.  The
 * result may not overlap A or B. */
void matrix_product_plain(float *result, size_t pitch, Matrix A, Matrix B, const float *bias,
                          size_t M, size_t N, size_t K, bool add) {
    for (size_t m = 0; m < M; m++)
        for (size_t n = 0; n < N; n++) {
            float sum = add ? result[m * pitch + n] : bias ? bias[n] : 0;
            for (size_t k = 0; k < K; k++)
                sum += A.at[m * A.row + k * A.column] * B.at[k * B.row + n * B.column];
            result[m * pitch + n] = sum;
        }
}

/* Why the plain loops are slow, and what is done about it (doc/matmul.md goes there one idea at
 * a time, each measured).  A core does 2 units x 8 (or 16) floats x 2 FLOPs = 32 (or 64) in
 * a clock tick, but only if every number that it fetches is used many times while it is at
 * hand.
 *
 * 1. A tile of the result stays in registers.  For each k, TILE_ROWS numbers of A, each one
 *    copied to all places of a vector, meet TILE_VECTORS vectors of a row of B.  With AVX-512,
 *    14 rows and 2 vectors:
 *
 *                          B[k, n..]     [ v0 ][ v1 ]          <- 2 loads
 *          A[m,   k]  ->   [ a a a a ]   [ c00 ][ c01 ]
 *          A[m+1, k]  ->   [ a a a a ]   [ c10 ][ c11 ]        rows x vectors multiply-adds
 *            ...                           ...                 on results that never leave
 *          A[m+13,k]  ->   [ a a a a ]   [c13,0][c13,1]        the registers
 *
 *    28 multiply-adds for 16 loads: the multipliers are busy, not the memory.  Meanwhile the
 *    result's own lines are fetched, so that they are there when the sums are done: one row
 *    every few k, because asked for all at once they would hold up the rows of B.
 * 2. B is packed first: a panel holds TILE_COLUMNS columns for DEPTH values of k, in the order
 *    in which the tile reads them, and lies in the second-level cache while all tiles of a
 *    block of rows use it.  A transposed B is turned around here, once, not at every use.
 *
 *          B (K,N)    +--------+--------+---        a panel in memory:
 *            DEPTH    | panel0 | panel1 |             k=0: n n n ... n
 *                     +--------+--------+---          k=1: n n n ... n     TILE_COLUMNS wide,
 *                     |  the next DEPTH             ...                    zeros past column N
 *
 * 3. Threads share the packing, then take blocks of the result.
 * 4. A is read where it lies, except where its rows collide: a cache finds the place of a line
 *    from the low bits of its address, so rows that lie a multiple of 4 KB apart (1,024 floats,
 *    as in a matrix of 3,072 columns) have one place, with room for fewer lines than a tile has
 *    rows, and throw each other out.  Of such an A a thread copies the rows of its block to a
 *    pitch that has no such factor (Lam, Rothberg and Wolf 1991, "The cache performance and
 *    optimizations of blocked algorithms": self-interference, and copying as its cure).
 *
 * An element of the result is summed over k in one fixed order, whatever M, N, the number of
 * threads or the place in the tile: so results are the same to the last bit on any number of
 * threads, and a row (in float32) is the same alone and among others. */
#if defined(__AVX512F__)
enum { WIDTH = 16, TILE_ROWS = 14, TILE_VECTORS = 2 }; /* 28 results + 3 of 32 registers */
#elif defined(__AVX__)
enum { WIDTH = 8, TILE_ROWS = 6, TILE_VECTORS = 2 }; /* 12 + 3 of 16 */
#elif defined(__aarch64__)
enum { WIDTH = 4, TILE_ROWS = 8, TILE_VECTORS = 3 }; /* 24 + 4 of 32 */
#else
enum { WIDTH = 4, TILE_ROWS = 4, TILE_VECTORS = 3 }; /* 12 + 4 of 16 */
#endif
enum {
    TILE_COLUMNS = TILE_VECTORS * WIDTH,
    DEPTH = 768,            /* at most; a panel of 768 x 32 floats is 96 KB */
    PANELS = 64,            /* panels packed at a time: 6 MB, in the last-level cache */
    BLOCK_TILES = 5,        /* tiles of rows that use a panel in turn; their A is some 200 KB */
    BLOCK_ROWS = BLOCK_TILES * TILE_ROWS,
    COLLISION = 1024,       /* floats: rows a multiple of this apart collide in the cache */
    COPY_PITCH = DEPTH + 16, /* of such rows once they are copied: an odd number of lines */
    ASK_EVERY = 4,          /* k from one row of the result that is asked for to the next */
    PARALLEL_FLOPS = 200000 /* below this, waking the other threads costs more than they save */
};

/* K is cut into as few pieces of at most DEPTH as there can be, all of one size: 800 into two
 * of 400, not into 768 and 32, which would cost a whole pass over the result for nothing. */
static size_t piece_depth(size_t K) {
    size_t pieces = (K + DEPTH - 1) / DEPTH;
    return pieces ? (K + pieces - 1) / pieces : 0;
}

/* A vector of WIDTH floats; + and * work element by element, and gcc and clang turn them into
 * one instruction each (vector extensions of both compilers). */
typedef float Vector __attribute__((vector_size(4 * WIDTH)));

static inline Vector vector_load(const float *from) { /* from any address */
    Vector v;
    memcpy(&v, from, sizeof v);
    return v;
}

static inline void vector_store(float *to, Vector v) { memcpy(to, &v, sizeof v); }

/* As many integers of the same size: the bits of a Vector, and places in it. */
typedef uint32_t Words __attribute__((vector_size(4 * WIDTH)));

/* --- Mixed precision ---------------------------------- [glossary: Mixed precision] ----------
 * A bf16 is the upper half of a float: 8 bits of exponent, so that the range is the same, but 8
 * significant bits instead of 24.  With --precision bf16, matrix_product rounds both operands
 * to bf16 (Micikevicius et al. 2017, arXiv:1710.03740, sections 3.1 and 3.3; Kalamkar et al.
 * 2019, arXiv:1905.12322, on bf16, which needs no loss scaling).  A product of two bf16 needs
 * 16 bits and is exact in float.  Everything else stays float: sums, activations, gradients,
 * moments, attention's own products, and the weights ("master weights": AdamW's steps are
 * smaller than the gap between neighbouring bf16).  Products of at most FEW_ROWS rows are not
 * rounded, so with bf16 a row computed alone is not the same to the bit as among others.
 * Evaluation while training uses bf16 too, so `eval --precision bf16` gives its figure
 * again; generation is always in float.
 *
 * A pair is two bf16 in the room of a float, the earlier k in its lower half.  Some processors
 * multiply pairs and add both products to a sum of floats in one instruction, twice the work in
 * the same time; C has no word for it, so here stands the only intrinsic of this file.  All
 * others unpack the pair, and are slower than with floats: there the option shows what bf16
 * does to the loss, and no more. */
#if defined(__AVX512BF16__)
#define BF16_IN_HARDWARE true
#else
#define BF16_IN_HARDWARE false
#endif
enum { FLOAT32, BF16 };
static const char *const PRECISION_NAMES[] = {"float32", "bf16", NULL};
static int product_precision = FLOAT32; /* --precision; put aside by sample_show */

/* Rounded to the nearest bf16, halfway cases to the even one.  NaN stays NaN. */
static inline uint32_t bf16_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t nearest = bits + 0x7fff + (bits >> 16 & 1);
    return (x != x ? bits | 0x400000 : nearest) >> 16;
}

static inline uint32_t bf16_pair(float first, float second) {
    return bf16_bits(first) | bf16_bits(second) << 16;
}

/* sum + first a * first b + second a * second b, for one pair a and WIDTH pairs b. */
static inline Vector pairs_multiply_add(Vector sum, uint32_t a, Vector b) {
#if defined(__AVX512BF16__)
    Words everywhere = (Words){0} + a;
    return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)everywhere, (__m512bh)b);
#else
    uint32_t halves[2] = {a << 16, a & 0xffff0000};
    float first, second;
    memcpy(&first, &halves[0], sizeof first);
    memcpy(&second, &halves[1], sizeof second);
    sum += first * (Vector)((Words)b << 16);
    return sum + second * (Vector)((Words)b & 0xffff0000);
#endif
}

/* The loops over a tile must be unrolled in full, or its results do not stay in registers. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* One tile: `rows` rows of A (row 0 begins at A.at) against `vectors` vectors of a panel of B,
 * whose row k begins at panel + k*panel_pitch.  It is compiled once for each number of rows,
 * which is a constant in every call.  Rows are addressed in groups of four: a processor adds
 * 0, 1 or 2 strides to an address for nothing (3 cost one register more), but has none for 14
 * addresses.  With `pairs`, a constant too, every number of A and of the panel is a pair for
 * two k. */
static inline __attribute__((always_inline)) void
tile_multiply(size_t rows, size_t vectors, bool pairs, float *result, size_t pitch, Matrix A,
              const float *panel, size_t panel_pitch, const float *bias, size_t depth,
              bool add) {
    Vector sum[TILE_ROWS][TILE_VECTORS];
    const float *group[(TILE_ROWS + 3) / 4];
    UNROLL for (size_t g = 0; g < (rows + 3) / 4; g++) group[g] = A.at + 4 * g * A.row;
    UNROLL for (size_t r = 0; r < rows; r++)
        UNROLL for (size_t j = 0; j < vectors; j++) sum[r][j] = (Vector){0};
    for (size_t k = 0; k < depth; k++) {
        if (k % ASK_EVERY == 0 && k / ASK_EVERY < rows)
            UNROLL for (size_t j = 0; j < vectors; j++)
                __builtin_prefetch(result + k / ASK_EVERY * pitch + j * WIDTH, 1);
        Vector b[TILE_VECTORS];
        UNROLL for (size_t j = 0; j < vectors; j++) b[j] = vector_load(panel + j * WIDTH);
        UNROLL for (size_t r = 0; r < rows; r++) {
            const float *a_rk = &group[r / 4][r % 4 * A.row];
            uint32_t pair;
            memcpy(&pair, a_rk, sizeof pair);
            UNROLL for (size_t j = 0; j < vectors; j++)
                if (pairs) sum[r][j] = pairs_multiply_add(sum[r][j], pair, b[j]);
                else sum[r][j] += *a_rk * b[j];
        }
        UNROLL for (size_t g = 0; g < (rows + 3) / 4; g++) group[g] += A.column;
        panel += panel_pitch;
    }
    UNROLL for (size_t r = 0; r < rows; r++)
        UNROLL for (size_t j = 0; j < vectors; j++) {
            float *to = result + r * pitch + j * WIDTH;
            Vector start = (Vector){0};
            if (add) start = vector_load(to);
            else if (bias) start = vector_load(bias + j * WIDTH);
            vector_store(to, start + sum[r][j]);
        }
}

/* All M rows of A against one panel, a tile at a time.  At the right border of the result,
 * where there are fewer than TILE_COLUMNS columns, the tile goes to a scratch first.  Compiled
 * twice, once for numbers and once for pairs, so that no tile has to ask which. */
static inline __attribute__((always_inline)) void
panel_multiply_as(bool pairs, float *result, size_t pitch, Matrix A, const float *panel,
                  size_t panel_pitch, const float *bias, size_t M, size_t columns, size_t depth,
                  bool add) {
    float scratch[TILE_ROWS * TILE_COLUMNS];
    bool border = columns < TILE_COLUMNS;
    for (size_t m = 0; m < M; m += TILE_ROWS) {
        size_t rows = M - m < TILE_ROWS ? M - m : TILE_ROWS;
        float *row = result + m * pitch, *to = border ? scratch : row;
        size_t to_pitch = border ? TILE_COLUMNS : pitch;
        bool to_add = add && !border;
        const float *to_bias = border ? NULL : bias;
        Matrix from = {A.at + m * A.row, A.row, A.column};
#define TILE(r)                                                                                \
    case r:                                                                                    \
        if (r <= TILE_ROWS)                                                                    \
            tile_multiply(r, TILE_VECTORS, pairs, to, to_pitch, from, panel, panel_pitch,      \
                          to_bias, depth, to_add);                                             \
        break
        switch (rows) {
            TILE(14); TILE(13); TILE(12); TILE(11); TILE(10); TILE(9); TILE(8);
            TILE(7); TILE(6); TILE(5); TILE(4); TILE(3); TILE(2); TILE(1);
        }
#undef TILE
        for (size_t r = 0; r < rows && border; r++)
            for (size_t n = 0; n < columns; n++) {
                float start = add ? row[r * pitch + n] : bias ? bias[n] : 0;
                row[r * pitch + n] = start + scratch[r * TILE_COLUMNS + n];
            }
    }
}

static void panel_multiply(float *result, size_t pitch, Matrix A, const float *panel,
                           size_t panel_pitch, const float *bias, size_t M, size_t columns,
                           size_t depth, bool add) {
    panel_multiply_as(false, result, pitch, A, panel, panel_pitch, bias, M, columns, depth,
                      add);
}

/* The same with A and the panel in pairs; depth counts pairs. */
static void panel_multiply_pairs(float *result, size_t pitch, Matrix A, const float *panel,
                                 size_t panel_pitch, const float *bias, size_t M,
                                 size_t columns, size_t depth, bool add) {
    panel_multiply_as(true, result, pitch, A, panel, panel_pitch, bias, M, columns, depth, add);
}

/* The first, or the second, halves of two vectors merged: a0 b0 a1 b1 ...  The compilers have
 * different names for it. */
#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (Words){__VA_ARGS__})
#endif
#if defined(__AVX512F__)
#define MERGE_FIRST(a, b)                                                                      \
    SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define MERGE_SECOND(a, b)                                                                     \
    SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#elif defined(__AVX__)
#define MERGE_FIRST(a, b) SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define MERGE_SECOND(a, b) SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#else
#define MERGE_FIRST(a, b) SHUFFLE(a, b, 0, 4, 1, 5)
#define MERGE_SECOND(a, b) SHUFFLE(a, b, 2, 6, 3, 7)
#endif

/* Transposes a square of WIDTH x WIDTH numbers as one shuffles a pack of cards: the first half
 * of the rows and the second are merged, a card from each in turn.  A card's place in the whole
 * pack, written in binary, thereby loses its highest digit at the front and gets it back at the
 * end.  After log2(WIDTH) times half of the digits have moved so: row and column have changed
 * places. */
static inline __attribute__((always_inline)) void
square_transpose(float *to, size_t to_pitch, const float *from, size_t from_pitch) {
    Vector row[WIDTH], merged[WIDTH];
    UNROLL for (size_t i = 0; i < WIDTH; i++) {
        row[i] = vector_load(from + i * from_pitch);
        __builtin_prefetch(from + i * from_pitch + 4 * WIDTH); /* four squares on */
    }
    UNROLL for (size_t round = 1; round < WIDTH; round *= 2) {
        UNROLL for (size_t i = 0; i < WIDTH / 2; i++) {
            merged[2 * i] = MERGE_FIRST(row[i], row[i + WIDTH / 2]);
            merged[2 * i + 1] = MERGE_SECOND(row[i], row[i + WIDTH / 2]);
        }
        UNROLL for (size_t i = 0; i < WIDTH; i++) row[i] = merged[i];
    }
    UNROLL for (size_t i = 0; i < WIDTH; i++) vector_store(to + i * to_pitch, row[i]);
}

/* Copies rows k0 .. k0+depth-1 and columns n0 .. n0+columns-1 of B into a panel, zeros to its
 * right.  A large B comes from memory, and its rows lie too far apart for the processor to
 * guess the next one: so it is told, PACK_AHEAD rows before. */
enum { PACK_AHEAD = 16 };
static void panel_pack(float *panel, Matrix B, size_t k0, size_t depth, size_t n0,
                       size_t columns) {
    const float *b = B.at + k0 * B.row + n0 * B.column;
    if (columns == TILE_COLUMNS && B.column == 1) {
        for (size_t k = 0; k < depth; k++) {
            memcpy(panel + k * TILE_COLUMNS, b + k * B.row, TILE_COLUMNS * sizeof *panel);
            UNROLL for (size_t j = 0; j < TILE_VECTORS; j++)
                __builtin_prefetch(b + (k + PACK_AHEAD) * B.row + j * WIDTH);
        }
        return;
    }
    for (size_t k = 0; k < depth; k += WIDTH) /* in squares, so that neither side strides far */
        for (size_t n = 0; n < TILE_COLUMNS; n += WIDTH) {
            float *to = panel + k * TILE_COLUMNS + n;
            const float *from = b + k * B.row + n * B.column;
            if (B.row == 1 && k + WIDTH <= depth && n + WIDTH <= columns)
                square_transpose(to, TILE_COLUMNS, from, B.column);
            else
                for (size_t i = 0; i < WIDTH && k + i < depth; i++)
                    for (size_t j = 0; j < WIDTH; j++)
                        to[i * TILE_COLUMNS + j] =
                            n + j < columns ? from[i * B.row + j * B.column] : 0;
        }
}

/* With few rows, as when a model writes, a number of B is used at most FEW_ROWS times:
 * packing it would move it nearly as often.  So B is read where it lies, row by row.  Each
 * element is summed in the order of the tiles, so that a model that writes computes the very
 * bits that it was trained with (in float32). */
enum { FEW_ROWS = 4, FEW_COLUMNS = 512 };

/* sum_n += a_0 b_0,n + a_1 b_1,n + ... for four rows of B, or as many as there are.  Several at
 * a time, so that the memory has several to fetch: 28 GB/s instead of 20, where a plain read
 * has 31 (one thread, kernels of dev/bench/kernels.c at GPT-2's sizes). */
static inline void rows_add(float *sum, const float *a, size_t a_stride, const float *b,
                            size_t b_stride, size_t columns, size_t rows) {
    if (rows >= 4) {
        float a0 = a[0], a1 = a[a_stride], a2 = a[2 * a_stride], a3 = a[3 * a_stride];
        const float *b1 = b + b_stride, *b2 = b1 + b_stride, *b3 = b2 + b_stride;
        for (size_t n = 0; n < columns; n++) {
            float s = sum[n];
            s += a0 * b[n];
            s += a1 * b1[n];
            s += a2 * b2[n];
            s += a3 * b3[n];
            sum[n] = s;
        }
    } else
        for (size_t k = 0; k < rows; k++)
            scaled_add(sum, a[k * a_stride], b + k * b_stride, columns);
}

static void product_few_rows(float *result, size_t pitch, Matrix A, Matrix B, const float *bias,
                             size_t M, size_t N, size_t K, bool add) {
    const size_t piece = piece_depth(K);
    /* An even number of equal shares: two threads that fetch from one memory end together. */
    const size_t rounds = (N + 2 * FEW_COLUMNS - 1) / (2 * FEW_COLUMNS);
    const size_t share = rounds ? (N + 2 * rounds - 1) / (2 * rounds) : 1;
    #pragma omp parallel for if (2.0 * (double)M * (double)N * (double)K > PARALLEL_FLOPS)
    for (size_t n0 = 0; n0 < N; n0 += share) {
        size_t columns = N - n0 < share ? N - n0 : share;
        float sum[FEW_ROWS][FEW_COLUMNS], panel[DEPTH * TILE_COLUMNS],
            turned[TILE_ROWS * TILE_COLUMNS];
        for (size_t k0 = 0; k0 < K; k0 += piece) {
            size_t depth = K - k0 < piece ? K - k0 : piece;
            const float *b = B.at + k0 * B.row + n0 * B.column;
            memset(sum, 0, sizeof sum);
            if (B.column == 1)
                for (size_t k = 0; k < depth; k += 4)
                    for (size_t m = 0; m < M; m++)
                        rows_add(sum[m], A.at + m * A.row + (k0 + k) * A.column, A.column,
                                 b + k * B.row, B.row, columns, depth - k);
            else { /* B lies transposed: its columns are rows in memory, A becomes the panel */
                panel_pack(panel, (Matrix){A.at, A.column, A.row}, k0, depth, 0, M);
                for (size_t n = 0; n < columns; n += TILE_ROWS) {
                    size_t rows = columns - n < TILE_ROWS ? columns - n : TILE_ROWS;
                    Matrix from = {b + n * B.column, B.column, B.row};
                    if (rows == TILE_ROWS && M <= WIDTH) /* one vector holds all M */
                        tile_multiply(TILE_ROWS, 1, false, turned, TILE_COLUMNS, from, panel,
                                      TILE_COLUMNS, NULL, depth, false);
                    else
                        panel_multiply(turned, TILE_COLUMNS, from, panel, TILE_COLUMNS, NULL,
                                       rows, TILE_COLUMNS, depth, false);
                    for (size_t i = 0; i < rows * M; i++)
                        sum[i % M][n + i / M] = turned[i / M * TILE_COLUMNS + i % M];
                }
            }
            for (size_t m = 0; m < M; m++)
                for (size_t n = 0; n < columns; n++) {
                    float *to = result + m * pitch + n0 + n;
                    *to = (add || k0 > 0 ? *to : bias ? bias[n0 + n] : 0) + sum[m][n];
                }
        }
    }
}

/* Copies `rows` rows of A, `depth` numbers of each, to rows COPY_PITCH apart; returns them. */
static Matrix rows_copy(float *to, Matrix A, size_t rows, size_t depth) {
    for (size_t r = 0; r < rows; r++)
        memcpy(to + r * COPY_PITCH, A.at + r * A.row, depth * sizeof *to);
    return (Matrix){to, COPY_PITCH, 1};
}

/* Two rows of a packed panel become one of pairs; an odd last row gets zeros beside it. */
static void panel_to_pairs(float *panel, size_t depth) {
    for (size_t k = 0; k < depth; k += 2) {
        const float *first = panel + k * TILE_COLUMNS, *second = first + TILE_COLUMNS;
        uint32_t pairs[TILE_COLUMNS];
        for (size_t n = 0; n < TILE_COLUMNS; n++)
            pairs[n] = bf16_pair(first[n], k + 1 < depth ? second[n] : 0);
        memcpy(panel + k / 2 * TILE_COLUMNS, pairs, sizeof pairs);
    }
}

/* `rows` rows of A in pairs, `depth` numbers of each.  They lie as A lies, so that both sides
 * are read and written in order: row after row, or, where A is transposed, k after k. */
static Matrix rows_to_pairs(float *to, Matrix A, size_t rows, size_t depth) {
    if (A.row == 1) {
        for (size_t k = 0; k < depth; k += 2) {
            const float *first = A.at + k * A.column;
            const float *second = k + 1 < depth ? first + A.column : NULL;
            uint32_t pairs[BLOCK_ROWS];
            for (size_t r = 0; r < rows; r++)
                pairs[r] = bf16_pair(first[r], second ? second[r] : 0);
            memcpy(to + k / 2 * BLOCK_ROWS, pairs, rows * sizeof *pairs);
        }
        return (Matrix){to, 1, BLOCK_ROWS};
    }
    for (size_t r = 0; r < rows; r++) {
        uint16_t row[DEPTH + 1]; /* two bf16 side by side are a pair */
        for (size_t k = 0; k < depth; k++)
            row[k] = (uint16_t)bf16_bits(A.at[r * A.row + k * A.column]);
        row[depth] = 0;
        memcpy(to + r * COPY_PITCH, row, (depth + 1) / 2 * 2 * sizeof *row);
    }
    return (Matrix){to, COPY_PITCH, 1};
}

/* The contract of matrix_product_plain, for K of at least 1; with product_precision BF16 and
 * more than FEW_ROWS rows, of A and B rounded to bf16.  A block of the result is one task
 * for one thread.  One product at a time, and not from inside a parallel region: the room
 * for packed panels is shared by all calls. */
void matrix_product(float *result, size_t pitch, Matrix A, Matrix B, const float *bias,
                    size_t M, size_t N, size_t K, bool add) {
    static float packed[PANELS * DEPTH * TILE_COLUMNS] __attribute__((aligned(64)));
    static _Thread_local float own_rows[BLOCK_ROWS * COPY_PITCH]
        __attribute__((aligned(64)));
    const bool pairs = product_precision == BF16;
    if (M <= FEW_ROWS) {
        product_few_rows(result, pitch, A, B, bias, M, N, K, add);
        return;
    }
    size_t tiles = (M + TILE_ROWS - 1) / TILE_ROWS, piece = piece_depth(K);
    size_t blocks = (tiles + BLOCK_TILES - 1) / BLOCK_TILES;
    size_t block_rows =
        blocks ? (tiles + blocks - 1) / blocks * TILE_ROWS : 0; /* of equal size */
    #pragma omp parallel if (2.0 * (double)M * (double)N * (double)K > PARALLEL_FLOPS)
    for (size_t n0 = 0; n0 < N; n0 += PANELS * TILE_COLUMNS) {
        size_t width = N - n0 < PANELS * TILE_COLUMNS ? N - n0 : PANELS * TILE_COLUMNS;
        size_t panels = (width + TILE_COLUMNS - 1) / TILE_COLUMNS;
        for (size_t k0 = 0; k0 < K; k0 += piece) {
            size_t depth = K - k0 < piece ? K - k0 : piece;
            #pragma omp for schedule(static)
            for (size_t p = 0; p < panels; p++) {
                size_t n = p * TILE_COLUMNS, left = width - n;
                panel_pack(packed + n * DEPTH, B, k0, depth, n0 + n,
                           left < TILE_COLUMNS ? left : TILE_COLUMNS);
                if (pairs) panel_to_pairs(packed + n * DEPTH, depth);
            }
            Matrix copy = {0};
            size_t copied = M; /* first row of the block whose copy this thread has: none */
            #pragma omp for schedule(dynamic)
            for (size_t task = 0; task < blocks * panels; task++) {
                size_t m = task / panels * block_rows, n = task % panels * TILE_COLUMNS;
                size_t rows = M - m < block_rows ? M - m : block_rows;
                Matrix block = {A.at + m * A.row + k0 * A.column, A.row, A.column};
                if (pairs || (A.column == 1 && A.row % COLLISION == 0)) {
                    if (copied != m)
                        copy = pairs ? rows_to_pairs(own_rows, block, rows, depth)
                                     : rows_copy(own_rows, block, rows, depth);
                    copied = m;
                    block = copy;
                }
                (pairs ? panel_multiply_pairs : panel_multiply)(
                    result + m * pitch + n0 + n, pitch, block, packed + n * DEPTH, TILE_COLUMNS,
                    bias && k0 == 0 ? bias + n0 + n : NULL, rows,
                    width - n < TILE_COLUMNS ? width - n : TILE_COLUMNS,
                    pairs ? (depth + 1) / 2 : depth, add || k0 > 0);
            }
        }
    }
}

/* --- Attention in tiles ----------------------------------------------------------------------
 * The products inside attention are small, but they are matrix products: scores of all keys
 * against TILE_COLUMNS queries at a time.  The scores stand transposed, S[s][t], a row for each
 * key: a vector holds WIDTH queries, and maximum, exponential and sum run down the columns,
 * with no sum across a vector.  Keys come in strips, so that S and its gradient stay in the
 * first-level cache.
 *
 *                        queries t0 = 64 ..
 *          key  0     [ S S S S S S S S ]    strip 0 of STRIP keys
 *            ...
 *          key 64     [ S S S S S S S S ]    strip 1
 *          key 65     [ . S S S S S S S ]    `.` is s > t and counts as probability 0
 *          key 66     [ . . S S S S S S ]
 */
enum { STRIP = 64, HEAD_PART = 128 }; /* keys in a strip; channels of a head at a time */

/* `rows` rows of a matrix as a panel: where they lie, if they are TILE_COLUMNS wide, else
 * packed into `room`. */
static const float *panel_rows(float *room, const float *from, size_t *pitch, size_t rows,
                               size_t columns) {
    if (columns == TILE_COLUMNS) return from;
    panel_pack(room, (Matrix){from, *pitch, 1}, 0, rows, 0, columns);
    *pitch = TILE_COLUMNS;
    return room;
}

/* result (M,D) += A (M,rows) times from (rows,D), rows at most STRIP; D taken a panel at a
 * time. */
static void strip_product_add(float *result, size_t pitch, Matrix A, const float *from,
                              size_t from_pitch, size_t M, size_t D, size_t rows) {
    float room[STRIP * TILE_COLUMNS];
    for (size_t d = 0; d < D; d += TILE_COLUMNS) {
        size_t columns = D - d < TILE_COLUMNS ? D - d : TILE_COLUMNS, panel_pitch = from_pitch;
        const float *panel = panel_rows(room, from + d, &panel_pitch, rows, columns);
        panel_multiply(result + d, pitch, A, panel, panel_pitch, NULL, M, columns, rows, true);
    }
}

/* S[s][t] = sum over d of keys[s][d] queries[t][d], for `rows` keys and `count` queries.
 * turned holds the queries transposed; `fresh` says that it is not filled yet.  Where D is
 * larger than HEAD_PART it holds a part only, and is filled again each time. */
static void scores_compute(float *S, float *turned, bool fresh, const float *keys,
                           size_t keys_pitch, const float *queries, size_t queries_pitch,
                           size_t rows, size_t count, size_t D) {
    assert(D > 0); /* or S would not be set */
    for (size_t d = 0; d < D; d += HEAD_PART) {
        size_t depth = D - d < HEAD_PART ? D - d : HEAD_PART;
        if (fresh || D > HEAD_PART)
            panel_pack(turned, (Matrix){queries, 1, queries_pitch}, d, depth, 0, count);
        panel_multiply(S, TILE_COLUMNS, (Matrix){keys + d, keys_pitch, 1}, turned, TILE_COLUMNS,
                       NULL, rows, TILE_COLUMNS, depth, d > 0);
    }
}

/* One head: queries t0 .. t0+count-1 (count at most TILE_COLUMNS), of which q is the first,
 * against keys and values 0 .. t0+count-1.  Sets y (count,D) and lse (count).  dropout.first is
 * the number of this head's P[0,0]. */
static void attention_queries(float *y, size_t y_pitch, float *lse, const float *q,
                              size_t q_pitch, const float *k, const float *v, size_t kv_pitch,
                              size_t t0, size_t count, size_t T, size_t D, Dropout dropout) {
    float S[STRIP * TILE_COLUMNS], turned[HEAD_PART * TILE_COLUMNS];
    float maximum[TILE_COLUMNS], sum[TILE_COLUMNS], shrink[TILE_COLUMNS];
    float scale = 1.0f / sqrtf((float)D);
    for (size_t t = 0; t < TILE_COLUMNS; t++) maximum[t] = -INFINITY, sum[t] = 0;
    for (size_t t = 0; t < count; t++) memset(y + t * y_pitch, 0, D * sizeof *y);
    for (size_t s0 = 0; s0 < t0 + count; s0 += STRIP) {
        size_t rows = t0 + count - s0 < STRIP ? t0 + count - s0 : STRIP;
        scores_compute(S, turned, s0 == 0, k + s0 * kv_pitch, kv_pitch, q, q_pitch, rows, count,
                       D);
        for (size_t t = 0; t < TILE_COLUMNS; t++) shrink[t] = maximum[t];
        for (size_t s = 0; s < rows; s++)
            for (size_t t = 0; t < TILE_COLUMNS; t++) {
                float score = S[s * TILE_COLUMNS + t] * scale;
                score = s0 + s <= t0 + t ? score : -INFINITY;
                S[s * TILE_COLUMNS + t] = score;
                maximum[t] = score > maximum[t] ? score : maximum[t];
            }
        for (size_t t = 0; t < TILE_COLUMNS; t++) {
            shrink[t] = exponential(shrink[t] - maximum[t]);
            sum[t] *= shrink[t];
        }
        for (size_t s = 0; s < rows; s++)
            for (size_t t = 0; t < TILE_COLUMNS; t++) {
                float p = exponential(S[s * TILE_COLUMNS + t] - maximum[t]);
                p = s0 + s <= t0 + t ? p : 0.0f; /* exponential() never returns 0 itself */
                S[s * TILE_COLUMNS + t] = p;
                sum[t] += p;
            }
        for (size_t s = 0; s < rows && dropout.rate > 0; s++)
            for (size_t t = 0; t < count; t++)
                S[s * TILE_COLUMNS + t] *= dropout_factor(dropout, (t0 + t) * T + s0 + s);
        for (size_t t = 0; t < count && s0 > 0; t++)
            for (size_t d = 0; d < D; d++) y[t * y_pitch + d] *= shrink[t];
        strip_product_add(y, y_pitch, (Matrix){S, 1, TILE_COLUMNS}, v + s0 * kv_pitch, kv_pitch,
                          count, D, rows);
    }
    for (size_t t = 0; t < count; t++) {
        for (size_t d = 0; d < D; d++) y[t * y_pitch + d] *= 1.0f / sum[t];
        lse[t] = maximum[t] + logf(sum[t]);
    }
}

/* The contract of attention_forward_plain. */
void attention_forward(float *y, float *lse, const float *qkv, size_t B, size_t T, size_t C,
                       size_t H, Dropout dropout) {
    size_t D = C / H, groups = (T + TILE_COLUMNS - 1) / TILE_COLUMNS;
    #pragma omp parallel for schedule(dynamic)
    for (size_t task = 0; task < B * H * groups; task++) {
        size_t bh = task / groups, b = bh / H, h = bh % H, t0 = task % groups * TILE_COLUMNS;
        size_t count = T - t0 < TILE_COLUMNS ? T - t0 : TILE_COLUMNS;
        const float *q = qkv + b * T * 3 * C + h * D, *k = q + C, *v = k + C;
        Dropout head = {dropout.rate, dropout.key, dropout.first + bh * T * T};
        attention_queries(y + (b * T + t0) * C + h * D, C, lse + bh * T + t0, q + t0 * 3 * C,
                          3 * C, k, v, 3 * C, t0, count, T, D, head);
    }
}

/* attention_forward for one sequence, whose first `length` tokens a KV cache (section 10)
 * holds, without dropout.  qkv (rows,3C) are the next tokens: their keys and values go to
 * keys and values (context,C) from row `length` on, and query r sees rows 0 to length + r.
 * Sets y (rows,C) and lse (H,rows). */
void attention_cached(float *y, float *lse, float *keys, float *values, const float *qkv,
                      size_t length, size_t rows, size_t C, size_t H) {
    size_t D = C / H, groups = (rows + TILE_COLUMNS - 1) / TILE_COLUMNS;
    for (size_t r = 0; r < rows; r++) {
        const float *k = qkv + r * 3 * C + C, *v = k + C;
        memcpy(keys + (length + r) * C, k, C * sizeof *keys);
        memcpy(values + (length + r) * C, v, C * sizeof *values);
    }
    #pragma omp parallel for if (rows * C * (length + rows) > PARALLEL_ELEMENTS)
    for (size_t task = 0; task < groups * H; task++) {
        size_t r = task / H * TILE_COLUMNS, h = task % H;
        size_t count = rows - r < TILE_COLUMNS ? rows - r : TILE_COLUMNS;
        attention_queries(y + r * C + h * D, C, lse + h * rows + r, qkv + r * 3 * C + h * D,
                          3 * C, keys + h * D, values + h * D, C, length + r, count, 0, D,
                          (Dropout){0});
    }
}

/* One head backward, for the queries of attention_queries.  Sets dq (count,D), adds to all dk
 * and dv. */
static void attention_queries_backward(float *dq, float *dk, float *dv, const float *dy,
                                       const float *y, const float *lse, const float *q,
                                       const float *k, const float *v, size_t t0, size_t count,
                                       size_t T, size_t C, size_t D, Dropout dropout) {
    float P[STRIP * TILE_COLUMNS], dS[STRIP * TILE_COLUMNS];
    float q_turned[HEAD_PART * TILE_COLUMNS], dy_turned[HEAD_PART * TILE_COLUMNS];
    float sum_p_dp[TILE_COLUMNS] = {0}, lse_t[TILE_COLUMNS] = {0};
    float scale = 1.0f / sqrtf((float)D);
    const size_t pitch = 3 * C;
    for (size_t t = 0; t < count; t++) {
        sum_p_dp[t] = dot_product(dy + t * C, y + t * C, D);
        lse_t[t] = lse[t];
        memset(dq + t * pitch, 0, D * sizeof *dq);
    }
    for (size_t s0 = 0; s0 < t0 + count; s0 += STRIP) {
        size_t rows = t0 + count - s0 < STRIP ? t0 + count - s0 : STRIP, at = s0 * pitch;
        scores_compute(P, q_turned, s0 == 0, k + at, pitch, q, pitch, rows, count, D);
        scores_compute(dS, dy_turned, s0 == 0, v + at, pitch, dy, C, rows, count, D); /* dP */
        for (size_t s = 0; s < rows; s++)
            for (size_t t = 0; t < TILE_COLUMNS; t++) {
                size_t i = s * TILE_COLUMNS + t;
                float p = exponential(P[i] * scale - lse_t[t]);
                P[i] = s0 + s <= t0 + t ? p : 0.0f;
            }
        for (size_t s = 0; s < rows; s++)
            for (size_t t = 0; t < TILE_COLUMNS; t++) {
                size_t i = s * TILE_COLUMNS + t;
                float f = dropout_factor(dropout, (t0 + t) * T + s0 + s);
                dS[i] = P[i] * (f * dS[i] - sum_p_dp[t]) * scale;
                P[i] *= f;
            }
        strip_product_add(dq, pitch, (Matrix){dS, 1, TILE_COLUMNS}, k + at, pitch, count, D,
                          rows);
        strip_product_add(dk + at, pitch, (Matrix){dS, TILE_COLUMNS, 1}, q, pitch, rows, D,
                          count);
        strip_product_add(dv + at, pitch, (Matrix){P, TILE_COLUMNS, 1}, dy, C, rows, D, count);
    }
}

/* The contract of attention_backward_plain.  A thread owns a head: all its queries add to dk
 * and dv. */
void attention_backward(float *dqkv /* sets */, const float *dy, const float *y,
                        const float *lse, const float *qkv, size_t B, size_t T, size_t C,
                        size_t H, Dropout dropout) {
    size_t D = C / H;
    #pragma omp parallel for schedule(dynamic)
    for (size_t bh = 0; bh < B * H; bh++) {
        size_t b = bh / H, h = bh % H, at = b * T * 3 * C + h * D;
        const float *q = qkv + at, *k = q + C, *v = k + C;
        float *dq = dqkv + at, *dk = dq + C, *dv = dk + C;
        Dropout head = {dropout.rate, dropout.key, dropout.first + bh * T * T};
        for (size_t t = 0; t < T; t++) {
            memset(dk + t * 3 * C, 0, D * sizeof *dk);
            memset(dv + t * 3 * C, 0, D * sizeof *dv);
        }
        for (size_t t0 = 0; t0 < T; t0 += TILE_COLUMNS) {
            size_t count = T - t0 < TILE_COLUMNS ? T - t0 : TILE_COLUMNS,
                   row = (b * T + t0) * C + h * D;
            attention_queries_backward(dq + t0 * 3 * C, dk, dv, dy + row, y + row,
                                       lse + bh * T + t0, q + t0 * 3 * C, k, v, t0, count, T, C,
                                       D, head);
        }
    }
}

/* =========================================================================================
 * 6. The model                                    [glossary: Transformer, Parameters (weights)]
 *
 * One table describes every tensor: name, shape, how it starts, whether it decays.  Sizes,
 * pointers, initialisation, weight decay, files and the printed summary all come from it.
 * ====================================================================================== */

typedef struct {
    size_t layers, heads, channels, context, vocab; /* L, H, C, the largest T, V */
    bool bias;     /* do linear layers and norms have biases? */
    float dropout; /* rate, 0 to below 1 */
} Config;

/* Kinds of tensors, in the order in which they lie in the arena.  PROJ: attention's output
 * projection; FC and OUT: the MLP's first and second matrix; LNF: the final norm. */
enum {
    WTE, WPE,
    LN1_W, LN1_B, QKV_W, QKV_B, PROJ_W, PROJ_B, LN2_W, LN2_B, FC_W, FC_B, OUT_W, OUT_B,
    LNF_W, LNF_B,
    KINDS, BLOCK_KINDS = LNF_W - LN1_W
};

/* Names and shapes are those of Hugging Face's GPT-2.  Shapes are in the letters of the symbol
 * table: V, P (positions: the context), C, 3 (3C), F (4C), 1.  Every matrix starts from a
 * normal distribution of standard deviation 0.02, as in Hugging Face's GPT-2 (OpenAI's code
 * has 0.01 for wpe); what a block adds to the residual stream starts smaller by a factor of
 * sqrt(2L): there are 2L such terms, and their sum should not grow with the depth (Radford
 * et al. 2019, section 2.3). */
static const struct {
    const char *name;
    char rows, columns;
    enum { START_ZERO, START_ONE, START_NORMAL, START_RESIDUAL } start;
} TENSOR_KINDS[KINDS] = {
    [WTE] = {"transformer.wte.weight", 'V', 'C', START_NORMAL},
    [WPE] = {"transformer.wpe.weight", 'P', 'C', START_NORMAL},
    [LN1_W] = {"transformer.h.%zu.ln_1.weight", 'C', '1', START_ONE},
    [LN1_B] = {"transformer.h.%zu.ln_1.bias", 'C', '1', START_ZERO},
    [QKV_W] = {"transformer.h.%zu.attn.c_attn.weight", 'C', '3', START_NORMAL},
    [QKV_B] = {"transformer.h.%zu.attn.c_attn.bias", '3', '1', START_ZERO},
    [PROJ_W] = {"transformer.h.%zu.attn.c_proj.weight", 'C', 'C', START_RESIDUAL},
    [PROJ_B] = {"transformer.h.%zu.attn.c_proj.bias", 'C', '1', START_ZERO},
    [LN2_W] = {"transformer.h.%zu.ln_2.weight", 'C', '1', START_ONE},
    [LN2_B] = {"transformer.h.%zu.ln_2.bias", 'C', '1', START_ZERO},
    [FC_W] = {"transformer.h.%zu.mlp.c_fc.weight", 'C', 'F', START_NORMAL},
    [FC_B] = {"transformer.h.%zu.mlp.c_fc.bias", 'F', '1', START_ZERO},
    [OUT_W] = {"transformer.h.%zu.mlp.c_proj.weight", 'F', 'C', START_RESIDUAL},
    [OUT_B] = {"transformer.h.%zu.mlp.c_proj.bias", 'C', '1', START_ZERO},
    [LNF_W] = {"transformer.ln_f.weight", 'C', '1', START_ONE},
    [LNF_B] = {"transformer.ln_f.bias", 'C', '1', START_ZERO},
};

typedef struct {
    char name[64];
    size_t rank, shape[2]; /* shape[1] is 1 where rank is 1 */
    size_t offset, count;  /* floats; count is 0 for a bias in a model without biases */
    float deviation; /* standard deviation of its first values; 0: all are `constant` */
    float constant;
    bool decay; /* matrices and embeddings decay, biases and norms do not */
} Tensor;

typedef struct {
    Config config;
    Tensor *table; /* tensor_count rows */
    size_t tensor_count, parameter_count;
    float *weights;   /* arena of parameter_count floats */
    float *gradients; /* the same; NULL if not training */
} GPT;

static size_t dimension(const Config *config, char letter) { /* of the table above */
    switch (letter) {
        case 'V': return config->vocab;
        case 'P': return config->context;
        case 'C': return config->channels;
        case '3': return 3 * config->channels;
        case 'F': return 4 * config->channels;
        default: return 1;
    }
}

/* The tensor of a kind, in block l if it is one of a block, which begins at `offset`. */
static Tensor tensor_describe(const Config *config, int kind, size_t l, size_t offset) {
    int start = TENSOR_KINDS[kind].start;
    Tensor t = {.offset = offset, .rank = TENSOR_KINDS[kind].columns == '1' ? 1 : 2};
    snprintf(t.name, sizeof t.name, TENSOR_KINDS[kind].name, l);
    t.shape[0] = dimension(config, TENSOR_KINDS[kind].rows);
    t.shape[1] = dimension(config, TENSOR_KINDS[kind].columns);
    t.count = start == START_ZERO && !config->bias ? 0 : t.shape[0] * t.shape[1];
    t.decay = t.rank == 2;
    t.constant = start == START_ONE ? 1.0f : 0.0f;
    if (start == START_NORMAL) t.deviation = 0.02f;
    if (start == START_RESIDUAL) t.deviation = 0.02f / sqrtf(2.0f * (float)config->layers);
    return t;
}

static size_t tensor_rows(const Config *config) { /* of the table */
    return KINDS + (config->layers - 1) * BLOCK_KINDS;
}

/* Fills the table, unless it is NULL, and returns the number of parameters.  The caller has
 * checked the configuration. */
static size_t table_fill(const Config *config, Tensor *table) {
    size_t parameters = 0, blocks_end = LN1_W + config->layers * BLOCK_KINDS;
    for (size_t i = 0; i < tensor_rows(config); i++) {
        size_t l = i < LN1_W ? 0 : i < blocks_end ? (i - LN1_W) / BLOCK_KINDS
                                                  : config->layers - 1;
        Tensor t = tensor_describe(config, (int)(i - l * BLOCK_KINDS), l, parameters);
        if (table) table[i] = t;
        parameters += t.count;
    }
    return parameters;
}

size_t config_parameters(const Config *config) { return table_fill(config, NULL); }

/* A model with weights that are all 0: gpt_initialize or model_read gives them values.
 * `training` asks for gradients as well.  The caller calls gpt_destroy. */
GPT *gpt_create(const Config *config, bool training) {
    GPT *gpt = memory_allocate(1, sizeof *gpt);
    gpt->config = *config;
    gpt->table = memory_allocate(tensor_rows(config), sizeof *gpt->table);
    gpt->tensor_count = tensor_rows(config);
    gpt->parameter_count = table_fill(config, gpt->table);
    gpt->weights = memory_allocate(gpt->parameter_count, sizeof *gpt->weights);
    if (training)
        gpt->gradients = memory_allocate(gpt->parameter_count, sizeof *gpt->gradients);
    return gpt;
}

/* Cuts a model to a shorter context: it keeps the rows of wpe for the places that are left.
 * What it computes for a text that fits is the same to the last bit.  Gradients are not moved:
 * they must still be 0. */
void gpt_shorten(GPT *gpt, size_t context) {
    const Tensor *wpe = &gpt->table[WPE];
    size_t kept = wpe->offset + context * gpt->config.channels, end = wpe->offset + wpe->count;
    assert(context > 0 && context <= gpt->config.context);
    memmove(gpt->weights + kept, gpt->weights + end,
            (gpt->parameter_count - end) * sizeof *gpt->weights);
    gpt->config.context = context;
    gpt->parameter_count = table_fill(&gpt->config, gpt->table);
}

void gpt_destroy(GPT *gpt) {
    if (!gpt) return;
    free(gpt->table);
    free(gpt->weights);
    free(gpt->gradients);
    free(gpt);
}

/* A fresh model.  Each tensor draws from a key of its own. */
void gpt_initialize(GPT *gpt, uint64_t seed) {
    for (size_t i = 0; i < gpt->tensor_count; i++) {
        const Tensor *t = &gpt->table[i];
        uint64_t key = random_bits(random_bits(seed, RANDOM_WEIGHTS), i);
        float *w = gpt->weights + t->offset;
        #pragma omp parallel for
        for (size_t j = 0; j < t->count; j++)
            w[j] = t->deviation > 0 ? t->deviation * random_normal(key, j) : t->constant;
    }
}

/* Row of the table for a kind and a layer (any, for tensors outside the blocks). */
static const Tensor *tensor_of(const GPT *gpt, int kind, size_t l) {
    if (kind < LN1_W) l = 0;
    if (kind >= LNF_W) l = gpt->config.layers - 1;
    return &gpt->table[(size_t)kind + l * BLOCK_KINDS];
}

/* The numbers of a tensor; NULL if the model has no biases and this is one. */
static const float *weight_of(const GPT *gpt, int kind, size_t l) {
    const Tensor *t = tensor_of(gpt, kind, l);
    return t->count ? gpt->weights + t->offset : NULL;
}

static float *gradient_of(GPT *gpt, int kind, size_t l) {
    const Tensor *t = tensor_of(gpt, kind, l);
    return t->count ? gpt->gradients + t->offset : NULL;
}

/* Where the tensors of block l, and those outside the blocks, lie in an arena that is laid out
 * by the table, by kind; NULL for a bias that the model does not have. */
static void tensors_place(float *places[KINDS], const GPT *gpt, float *arena, size_t l) {
    for (int kind = 0; kind < KINDS; kind++) {
        const Tensor *t = tensor_of(gpt, kind, l);
        places[kind] = t->count ? arena + t->offset : NULL;
    }
}

/* --- Activations ------------------- [glossary: Activations (cached for the backward pass)] -
 * What the forward pass leaves behind.  The backward pass needs the input of every matrix
 * product and of every nonlinearity.  Some of them are cheap to make again from others: the
 * output of a layer norm from its input, of GELU from its input.  Those are not kept, which
 * saves 6 C of 16 C floats a token and layer.  How much is kept is a choice:
 *   KEEP_NOTHING  evaluation, writing: one layer's room, used again by the next
 *   KEEP_ALL      training: what the backward pass of every layer needs
 *   KEEP_STREAM   training with only x kept: the backward pass runs each block forward once
 *                 more, a third more work for a fraction of the memory (Chen et al. 2016,
 *                 arXiv:1604.06174)     [glossary: Activation checkpointing (recomputation)] */
enum { KEEP_NOTHING, KEEP_ALL, KEEP_STREAM };

/* What inference keeps of the tokens so far: section 10. */
typedef struct Cache {
    size_t length;        /* tokens seen, at most the context */
    float *keys, *values; /* (L,context,C) */
    struct Activations *a; /* room for up to DECODE_ROWS new tokens on their way */
} Cache;

typedef struct Activations {
    size_t B, T;      /* the largest batch and length they hold; N = B*T below */
    int keep;         /* see above */
    size_t kept;      /* layers that have room of their own: L or 1 */
    size_t head_rows; /* rows of logits held at a time; below N they are made in pieces */
    float *arena;
    size_t floats;        /* size of the arena */
    float *x;             /* (L+1,N,C) what enters each block, and what leaves the last */
    float *ln1_mean, *ln1_rstd;          /* (kept,N) */
    float *qkv;                          /* (kept,N,3C) */
    float *attention;                    /* (kept,N,C) from the heads, before the projection */
    float *lse;                          /* (kept,B,H,T) */
    float *middle;                       /* (kept,N,C) the stream between attention and MLP */
    float *ln2_mean, *ln2_rstd;          /* (kept,N) */
    float *fc;                           /* (kept,N,F) before GELU */
    float *norm;                         /* (N,C) output of a layer norm */
    float *gelu;                         /* (N,F) */
    float *branch;                       /* (N,C) what a half block adds, until it is added */
    float *hidden, *lnf_mean, *lnf_rstd; /* (N,C) the last hidden state, (N), (N) */
    float *logits; /* (head_rows,V); the backward pass turns them into their gradient */
    float *losses, *head_lse; /* (N), (N) */
    float *dx;                /* (N,C) gradient of the stream; flows through all blocks */
    float *dbranch, *dnorm;   /* (N,C) */
    float *dwide;             /* (N,F) gradient at the wide places: GELU, then q, k, v */
    struct Cache *cache;  /* the KV cache that attention uses (section 10), or NULL */
    size_t dropout_first; /* number of the first sequence in its batch, and the key of the */
    uint64_t dropout_key; /* step: the backward pass draws the same masks as the forward pass */
} Activations;

typedef struct {
    const char *name;
    size_t count;  /* floats */
    float **place; /* the pointer that will show it */
} ActivationRow;
enum { ACTIVATION_ROWS = 23 };

static void activations_table(Activations *a, const Config *config,
                              ActivationRow rows[ACTIVATION_ROWS]) {
    size_t N = a->B * a->T, C = config->channels, kept = a->kept;
    size_t streams = a->keep == KEEP_NOTHING ? 1 : config->layers + 1;
    size_t gradient = a->keep == KEEP_NOTHING ? 0 : N * C;
    const ActivationRow all[ACTIVATION_ROWS] = {
        {"stream into blocks", streams * N * C, &a->x},
        {"norm 1 mean", kept * N, &a->ln1_mean},
        {"norm 1 rstd", kept * N, &a->ln1_rstd},
        {"q, k, v", kept * N * 3 * C, &a->qkv},
        {"attention", kept * N * C, &a->attention},
        {"attention log-sum-exp", kept * N * config->heads, &a->lse},
        {"stream between halves", kept * N * C, &a->middle},
        {"norm 2 mean", kept * N, &a->ln2_mean},
        {"norm 2 rstd", kept * N, &a->ln2_rstd},
        {"MLP before GELU", kept * N * 4 * C, &a->fc},
        {"norm", N * C, &a->norm},
        {"MLP after GELU", N * 4 * C, &a->gelu},
        {"branch", N * C, &a->branch},
        {"last hidden state", N * C, &a->hidden},
        {"final norm mean", N, &a->lnf_mean},
        {"final norm rstd", N, &a->lnf_rstd},
        {"logits", a->head_rows * config->vocab, &a->logits},
        {"losses", N, &a->losses},
        {"loss log-sum-exp", N, &a->head_lse},
        {"gradient of the stream", gradient, &a->dx},
        {"gradient of a branch", gradient, &a->dbranch},
        {"gradient at a norm", gradient, &a->dnorm},
        {"gradient at wide places", 4 * gradient, &a->dwide},
    };
    memcpy(rows, all, sizeof all);
}

/* Sizes without memory: the struct and its table.  head_rows 0 takes all rows of logits up to
 * 64 MB, else as many as 64 MB hold: enough rows for a fast product, and little beside the rest
 * (doc/memory.md). */
static void activations_plan(Activations *a, const Config *config, size_t B, size_t T, int keep,
                             size_t head_rows, ActivationRow rows[ACTIVATION_ROWS]) {
    size_t most = ((size_t)64 << 20) / sizeof(float) / config->vocab;
    double rough = 16.0 * (double)(config->layers + 4) * (double)config->channels; /* a token */
    if ((double)B * (double)T * rough > 1e17)
        die("activations of %zu x %zu tokens need more than any memory: lower --micro-batch", B,
            T);
    *a = (Activations){.B = B, .T = T, .keep = keep, .head_rows = head_rows ? head_rows : most};
    a->kept = keep == KEEP_ALL ? config->layers : 1;
    if (a->head_rows < 1) a->head_rows = 1;
    if (a->head_rows > B * T) a->head_rows = B * T;
    activations_table(a, config, rows);
    for (size_t i = 0; i < ACTIVATION_ROWS; i++) a->floats += rows[i].count;
}

/* Room for batches of up to B sequences of up to T tokens.  head_rows: see the struct; 0
 * chooses.  The caller calls activations_destroy. */
Activations *activations_create(const Config *config, size_t B, size_t T, int keep,
                                size_t head_rows) {
    Activations *a = memory_allocate(1, sizeof *a);
    ActivationRow rows[ACTIVATION_ROWS];
    activations_plan(a, config, B, T, keep, head_rows, rows);
    float *next = a->arena = memory_allocate(a->floats, sizeof *a->arena);
    for (size_t i = 0; i < ACTIVATION_ROWS; i++) {
        *rows[i].place = rows[i].count ? next : NULL;
        next += rows[i].count;
    }
    return a;
}

void activations_destroy(Activations *a) {
    if (!a) return;
    free(a->arena);
    free(a);
}

/* --- Compute budget ---------------- [glossary: Compute budget (FLOPs)] ---------------------
 * A weight of a matrix costs a multiplication and an addition forward and twice that backward:
 * 6 FLOPs a token (Kaplan et al. 2020, arXiv:2001.08361, section 2.1).  Every matrix counts:
 * those of the blocks, and the embedding once, where it is the output head.  Attention adds q.k
 * and P v over all T keys, 4 T C a layer forward, three times that in all.  Half of the keys
 * lie in the future and are never looked at; they are counted all the same, as the literature
 * does (Chowdhery et al. 2022, arXiv:2204.02311, appendix B), so that shares of the peak can be
 * compared. */
double flops_per_token(const Config *config, size_t T) {
    double L = (double)config->layers, C = (double)config->channels, V = (double)config->vocab;
    return 6.0 * (L * 12.0 * C * C + V * C) + 12.0 * L * (double)T * C;
}

/* Numbers in a KV cache (section 10), for keys and values of a whole context. */
size_t cache_floats(const Config *config) {
    return 2 * config->layers * config->context * config->channels;
}

/* What the machine can do at best: FLOPs per second of a loop of multiply-adds on vectors that
 * never leave the registers, on all threads: the best of five short tries. */
double peak_flops(void) {
    enum { CHAINS = 12, ROUNDS = 100000 }; /* at least 8: 2 start in a tick, each takes 4 */
    double best = 0;
    for (int attempt = 0; attempt < 5; attempt++) {
        double start = clock_seconds();
        float seen = 0;
        #pragma omp parallel reduction(+ : seen)
        {
            Vector sum[CHAINS], factor = (Vector){0} + 0.999f, step = (Vector){0} + 0.001f;
            UNROLL for (int i = 0; i < CHAINS; i++) sum[i] = (Vector){0} + (float)i;
            for (int round = 0; round < ROUNDS; round++)
                UNROLL for (int i = 0; i < CHAINS; i++) sum[i] = sum[i] * factor + step;
            UNROLL for (int i = 0; i < CHAINS; i++) seen += sum[i][0];
        }
        double seconds =
            clock_seconds() - start + (seen == 12345.0f); /* or the compiler drops the loop */
        double flops = 2.0 * CHAINS * ROUNDS * WIDTH * thread_count() / seconds;
        best = flops > best ? flops : best;
    }
    return best;
}

/* A number of bytes as a person reads it. */
static const char *bytes_text(double bytes) {
    const char *units[] = {"B", "KB", "MB", "GB", "TB", "PB"};
    int unit = 0;
    for (; bytes >= 1000 && unit < 5; unit++) bytes /= 1000;
    return text_lend("%.*f %s", unit > 0, bytes, units[unit]);
}

/* The table of tensors; those of the L blocks, which are alike, share a row. */
void tensors_print(FILE *out, const Config *config) {
    fprintf(out, "%-42s %-16s %6s %12s  %s\n", "tensor", "shape", "times", "parameters",
            "decays");
    for (int kind = 0; kind < KINDS; kind++) {
        const Tensor t = tensor_describe(config, kind, 0, 0);
        size_t times = kind >= LN1_W && kind < LNF_W ? config->layers : 1;
        const char *shape = t.rank == 2 ? text_lend("(%zu, %zu)", t.shape[0], t.shape[1])
                                        : text_lend("(%zu)", t.shape[0]);
        if (t.count)
            fprintf(out, "%-42s %-16s %6zu %12zu  %s\n", t.name, shape, times, times * t.count,
                    t.decay ? "yes" : "no");
    }
    fprintf(out, "%-42s %-16s %6s %12zu\n", "all parameters", "", "",
            config_parameters(config));
}

/* Bytes and FLOPs of training on `tokens` tokens, micro_batch sequences at a time; `different`
 * says how many of them the text has, 0 if not known.      [glossary: Chinchilla optimum] */
void budget_print(FILE *out, const Config *config, size_t micro_batch, int keep, double tokens,
                  double different) {
    size_t T = config->context;
    double P = (double)config_parameters(config), cache = 4.0 * (double)cache_floats(config);
    Activations a;
    ActivationRow rows[ACTIVATION_ROWS];
    activations_plan(&a, config, micro_batch, T, keep, 0, rows);
    double activations = 4.0 * (double)a.floats;
    fprintf(out, "\n%-42s %s for a micro-batch of %zu x %zu tokens\n", "activations",
            bytes_text(activations), micro_batch, T);
    for (size_t i = 0; i < ACTIVATION_ROWS; i++) {
        double bytes = 4.0 * (double)rows[i].count;
        if (bytes < 0.02 * activations) continue; /* they would hide the others */
        fprintf(out, "  %-40s %s\n", rows[i].name, bytes_text(bytes));
    }
    fprintf(out,
            "\nmemory: weights %s + gradients %s + Adam's two moments %s + activations %s = "
            "%s\n",
            bytes_text(4 * P), bytes_text(4 * P), bytes_text(8 * P), bytes_text(activations),
            bytes_text(16 * P + activations));
    fprintf(out, "inference needs weights %s + KV cache %s only\n", bytes_text(4 * P),
            bytes_text(cache));
    fprintf(out, "compute: %.3g FLOPs a token, %.3g in all for %.3g tokens\n",
            flops_per_token(config, T), flops_per_token(config, T) * tokens, tokens);
    fprintf(out, "tokens per parameter: %.2f over the run", tokens / P);
    if (different > 0) fprintf(out, ", %.3g of them different", different / P);
    fprintf(out, " (Chinchilla's optimum is about 20)\n");
}

/* =========================================================================================
 * 7. Forward and backward
 *
 * Two lists of kernel calls, the second one the mirror image of the first.  A model is
 * embedding, block(0) ... block(L-1), final norm, then head, each callable alone: whoever
 * wants to look inside, or to run a part again, loops over blocks.
 * ====================================================================================== */

/* One layer's share of the activations; shapes as in Activations, without the layer. */
typedef struct {
    float *x, *x_next, *ln1_mean, *ln1_rstd, *qkv, *attention, *lse, *middle;
    float *ln2_mean, *ln2_rstd, *fc;
} Layer;

static Layer layer_of(const Activations *a, const Config *config, size_t l) {
    size_t all = a->B * a->T, C = config->channels, slot = a->keep == KEEP_ALL ? l : 0;
    float *x = a->x + (a->keep == KEEP_NOTHING ? 0 : l * all * C);
    return (Layer){
        .x = x,
        .x_next = a->keep == KEEP_NOTHING ? x : x + all * C,
        .ln1_mean = a->ln1_mean + slot * all,
        .ln1_rstd = a->ln1_rstd + slot * all,
        .qkv = a->qkv + slot * all * 3 * C,
        .attention = a->attention + slot * all * C,
        .lse = a->lse + slot * all * config->heads,
        .middle = a->middle + slot * all * C,
        .ln2_mean = a->ln2_mean + slot * all,
        .ln2_rstd = a->ln2_rstd + slot * all,
        .fc = a->fc + slot * all * 4 * C,
    };
}

/* The dropout of one place of the model: site 0 is the embedding; 1 + 3l, 2 + 3l and 3 + 3l are
 * layer l's attention weights, its attention branch and its MLP branch.  per_sequence is the
 * tensor's number of elements for one sequence: numbered so, a micro-batch draws the masks
 * that its sequences have in the whole batch. */
static Dropout dropout_site(const GPT *gpt, const Activations *a, size_t site,
                            size_t per_sequence) {
    float rate = a->dropout_key ? gpt->config.dropout : 0;
    return (Dropout){rate, random_bits(a->dropout_key, site), a->dropout_first * per_sequence};
}

/* Sets a->x (B,T,C) to wte[token] + wpe[position].  inputs (B,T), each below V; with a KV
 * cache, positions count on from its length. */
void gpt_embed(const GPT *gpt, Activations *a, const int32_t *inputs, size_t B, size_t T) {
    size_t C = gpt->config.channels, past = a->cache ? a->cache->length : 0;
    embedding_forward(a->x, inputs, weight_of(gpt, WTE, 0), weight_of(gpt, WPE, 0) + past * C,
                      B, T, C);
    Dropout dropout = dropout_site(gpt, a, 0, T * C);
    if (dropout.rate > 0) dropout_forward(a->x, a->x, B * T * C, dropout);
}

/* Block l: x[l] -> x[l+1].   x += projection(attention(norm(x)));   x += MLP(norm(x)) */
void gpt_block_forward(const GPT *gpt, Activations *a, size_t l, size_t B, size_t T) {
    const Layer y = layer_of(a, &gpt->config, l);
    size_t C = gpt->config.channels, H = gpt->config.heads, F = 4 * C, N = B * T;
    Dropout inside = dropout_site(gpt, a, 1 + 3 * l, H * T * T);
    Dropout after1 = dropout_site(gpt, a, 2 + 3 * l, T * C);
    Dropout after2 = dropout_site(gpt, a, 3 + 3 * l, T * C);
    float *w[KINDS]; /* the block's weights, by kind */
    tensors_place(w, gpt, gpt->weights, l);

    layernorm_forward(a->norm, y.ln1_mean, y.ln1_rstd, y.x, w[LN1_W], w[LN1_B], N, C);
    matmul_forward(y.qkv, a->norm, w[QKV_W], w[QKV_B], N, C, 3 * C);
    if (a->cache)
        attention_cached(y.attention, y.lse, a->cache->keys + l * gpt->config.context * C,
                         a->cache->values + l * gpt->config.context * C, y.qkv,
                         a->cache->length, N, C, H);
    else attention_forward(y.attention, y.lse, y.qkv, B, T, C, H, inside);
    matmul_forward(a->branch, y.attention, w[PROJ_W], w[PROJ_B], N, C, C);
    if (after1.rate > 0) dropout_forward(a->branch, a->branch, N * C, after1);
    residual_forward(y.middle, y.x, a->branch, N * C);

    layernorm_forward(a->norm, y.ln2_mean, y.ln2_rstd, y.middle, w[LN2_W], w[LN2_B], N, C);
    matmul_forward(y.fc, a->norm, w[FC_W], w[FC_B], N, C, F);
    gelu_forward(a->gelu, y.fc, N * F);
    matmul_forward(a->branch, a->gelu, w[OUT_W], w[OUT_B], N, F, C);
    if (after2.rate > 0) dropout_forward(a->branch, a->branch, N * C, after2);
    residual_forward(y.x_next, y.middle, a->branch, N * C);
}

/* The last hidden state: a->hidden = norm(x[L]). */
void gpt_final_norm(const GPT *gpt, Activations *a, size_t B, size_t T) {
    size_t C = gpt->config.channels;
    const float *x = layer_of(a, &gpt->config, gpt->config.layers).x;
    layernorm_forward(a->hidden, a->lnf_mean, a->lnf_rstd, x, weight_of(gpt, LNF_W, 0),
                      weight_of(gpt, LNF_B, 0), B * T, C);
}

/* Logits (rows,V) of the rows from `row` on, in the order (B,T), after a forward pass. */
void gpt_logits(const GPT *gpt, const Activations *a, float *logits, size_t row, size_t rows) {
    size_t C = gpt->config.channels;
    unembedding_forward(logits, a->hidden + row * C, weight_of(gpt, WTE, 0), rows, C,
                        gpt->config.vocab);
}

/* The head, a piece of logits at a time: all of them at once are N x V numbers, for GPT-2 half
 * as much as all other activations together, and more than those with --recompute
 * (doc/memory.md).  With `losses`, sets a->losses and a->head_lse (N).  With dlosses (N), turns
 * each piece into its gradient while it is there, adds to dwte (V,C), and sets a->dnorm (N,C),
 * the gradient of a->hidden; without `losses`, an earlier call with them must have left
 * a->head_lse, and a->logits if they are one piece. */
static void head_run(const GPT *gpt, Activations *a, const int32_t *targets, bool losses,
                     const float *dlosses, float *dwte, size_t N) {
    size_t C = gpt->config.channels, V = gpt->config.vocab;
    for (size_t n = 0; n < N; n += a->head_rows) {
        size_t rows = N - n < a->head_rows ? N - n : a->head_rows;
        float *lse = a->head_lse + n;
        if (losses || a->head_rows < N) gpt_logits(gpt, a, a->logits, n, rows);
        if (losses) cross_entropy_forward(a->losses + n, lse, a->logits, targets + n, rows, V);
        if (!dlosses) continue;
        cross_entropy_backward(a->logits, dlosses + n, lse, a->logits, targets + n, rows, V);
        unembedding_backward(a->dnorm + n * C, dwte, a->logits, a->hidden + n * C,
                             weight_of(gpt, WTE, 0), rows, C, V);
    }
}

/* a->losses (B,T): the loss at every place, after gpt_final_norm. */
void gpt_head_forward(const GPT *gpt, Activations *a, const int32_t *targets, size_t B,
                      size_t T) {
    head_run(gpt, a, targets, true, NULL, NULL, B * T);
}

/* The forward pass.  inputs, targets (B,T): tokens below V, and of targets also -1; B*T at most
 * what `a` has room for, T at most the model's context.  Without targets it stops at the
 * last hidden state.  dropout_key 0 switches dropout off; `first` is the number of this
 * micro-batch's first sequence within its batch.  With a KV cache B is 1, and the caller adds T
 * to its length afterwards. */
void gpt_forward(const GPT *gpt, Activations *a, const int32_t *inputs, const int32_t *targets,
                 size_t B, size_t T, uint64_t dropout_key, size_t first) {
    assert(B * T <= a->B * a->T && T <= gpt->config.context);
    assert(!a->cache || (B == 1 && a->cache->length + T <= gpt->config.context));
    a->dropout_key = dropout_key;
    a->dropout_first = first;
    gpt_embed(gpt, a, inputs, B, T);
    for (size_t l = 0; l < gpt->config.layers; l++) gpt_block_forward(gpt, a, l, B, T);
    gpt_final_norm(gpt, a, B, T);
    if (targets) gpt_head_forward(gpt, a, targets, B, T);
}

/* Block l backward: a->dx holds the gradient of x[l+1] and becomes that of x[l].  Read it
 * beside gpt_block_forward, from the bottom up.  Where a matrix product's input was not kept,
 * the line before it makes it again.  x feeds both the sum and the branch, so its gradient is a
 * sum of two: residual_backward leaves the first in a->dx, and layernorm_backward, the last of
 * the branch, adds the second.  a->dwide is the gradient of the MLP's wide rows (N,F), then
 * that of q, k, v (N,3C). */
void gpt_block_backward(GPT *gpt, Activations *a, size_t l, size_t B, size_t T) {
    const Layer y = layer_of(a, &gpt->config, l);
    size_t C = gpt->config.channels, H = gpt->config.heads, F = 4 * C, N = B * T;
    Dropout inside = dropout_site(gpt, a, 1 + 3 * l, H * T * T);
    Dropout after1 = dropout_site(gpt, a, 2 + 3 * l, T * C);
    Dropout after2 = dropout_site(gpt, a, 3 + 3 * l, T * C);

    float *w[KINDS], *dw[KINDS]; /* the block's weights and their gradients, by kind */
    tensors_place(w, gpt, gpt->weights, l);
    tensors_place(dw, gpt, gpt->gradients, l);

    residual_backward(a->dx, a->dbranch, a->dx, N * C);
    if (after2.rate > 0) dropout_backward(a->dbranch, a->dbranch, N * C, after2);
    gelu_forward(a->gelu, y.fc, N * F);
    matmul_backward(a->dwide, dw[OUT_W], dw[OUT_B], a->dbranch, a->gelu, w[OUT_W], N, F, C);
    gelu_backward(a->dwide, a->dwide, y.fc, N * F);
    layernorm_forward(a->norm, y.ln2_mean, y.ln2_rstd, y.middle, w[LN2_W], w[LN2_B], N, C);
    matmul_backward(a->dnorm, dw[FC_W], dw[FC_B], a->dwide, a->norm, w[FC_W], N, C, F);
    layernorm_backward(a->dx, dw[LN2_W], dw[LN2_B], a->dnorm, y.ln2_mean, y.ln2_rstd, y.middle,
                       w[LN2_W], N, C);

    residual_backward(a->dx, a->dbranch, a->dx, N * C);
    if (after1.rate > 0) dropout_backward(a->dbranch, a->dbranch, N * C, after1);
    matmul_backward(a->dnorm, dw[PROJ_W], dw[PROJ_B], a->dbranch, y.attention, w[PROJ_W], N, C,
                    C);
    attention_backward(a->dwide, a->dnorm, y.attention, y.lse, y.qkv, B, T, C, H, inside);
    layernorm_forward(a->norm, y.ln1_mean, y.ln1_rstd, y.x, w[LN1_W], w[LN1_B], N, C);
    matmul_backward(a->dnorm, dw[QKV_W], dw[QKV_B], a->dwide, a->norm, w[QKV_W], N, C, 3 * C);
    layernorm_backward(a->dx, dw[LN1_W], dw[LN1_B], a->dnorm, y.ln1_mean, y.ln1_rstd, y.x,
                       w[LN1_W], N, C);
}

/* Adds to the gradients of wte and wpe from a->dx (B,T,C), which dropout overwrites. */
void gpt_embed_backward(GPT *gpt, Activations *a, const int32_t *inputs, size_t B, size_t T) {
    size_t C = gpt->config.channels;
    Dropout dropout = dropout_site(gpt, a, 0, T * C);
    if (dropout.rate > 0) dropout_backward(a->dx, a->dx, B * T * C, dropout);
    embedding_backward(gradient_of(gpt, WTE, 0), gradient_of(gpt, WPE, 0), a->dx, inputs, B, T,
                       C);
}

/* Backward from dhidden (B,T,C), the gradient of the last hidden state; it may be a->dnorm.
 * The entry for a head that is not the vocabulary's, such as a reward or value model.  All
 * entries come after a gpt_forward with the same inputs, B and T, and add to gpt->gradients. */
void gpt_backward_hidden(GPT *gpt, Activations *a, const int32_t *inputs, const float *dhidden,
                         size_t B, size_t T) {
    size_t C = gpt->config.channels, N = B * T, L = gpt->config.layers;
    assert(a->keep != KEEP_NOTHING && gpt->gradients);
    memset(a->dx, 0, N * C * sizeof *a->dx); /* nothing but the norm has used x[L] */
    layernorm_backward(a->dx, gradient_of(gpt, LNF_W, 0), gradient_of(gpt, LNF_B, 0), dhidden,
                       a->lnf_mean, a->lnf_rstd, layer_of(a, &gpt->config, L).x,
                       weight_of(gpt, LNF_W, 0), N, C);
    for (size_t l = L; l-- > 0;) {
        if (a->keep == KEEP_STREAM) gpt_block_forward(gpt, a, l, B, T);
        gpt_block_backward(gpt, a, l, B, T);
    }
    gpt_embed_backward(gpt, a, inputs, B, T);
}

/* Backward from dlogits (B,T,V): for losses on the whole distribution, such as distillation. */
void gpt_backward_logits(GPT *gpt, Activations *a, const int32_t *inputs, const float *dlogits,
                         size_t B, size_t T) {
    assert(a->keep != KEEP_NOTHING && gpt->gradients);
    unembedding_backward(a->dnorm, gradient_of(gpt, WTE, 0), dlogits, a->hidden,
                         weight_of(gpt, WTE, 0), B * T, gpt->config.channels,
                         gpt->config.vocab);
    gpt_backward_hidden(gpt, a, inputs, a->dnorm, B, T);
}

/* Backward from dlosses (B,T), the gradient of whatever is minimised with respect to each
 * a->losses[b,t]: for the mean over n tokens, 1/n everywhere.  Masked prompts, preferences and
 * rewards are other weights in the same place.  Uses up a->logits: one backward for one
 * forward. */
void gpt_backward(GPT *gpt, Activations *a, const int32_t *inputs, const int32_t *targets,
                  const float *dlosses, size_t B, size_t T) {
    assert(a->keep != KEEP_NOTHING && gpt->gradients);
    head_run(gpt, a, targets, false, dlosses, gradient_of(gpt, WTE, 0), B * T);
    gpt_backward_hidden(gpt, a, inputs, a->dnorm, B, T);
}

/* gpt_forward and gpt_backward in one, for dlosses that are known beforehand and do not depend
 * on the losses, as in pre-training: each piece of logits is turned into its gradient at once,
 * and is never made a second time. */
void gpt_forward_backward(GPT *gpt, Activations *a, const int32_t *inputs,
                          const int32_t *targets, const float *dlosses, size_t B, size_t T,
                          uint64_t dropout_key, size_t first) {
    assert(a->keep != KEEP_NOTHING && gpt->gradients);
    gpt_forward(gpt, a, inputs, NULL, B, T, dropout_key, first);
    head_run(gpt, a, targets, true, dlosses, gradient_of(gpt, WTE, 0), B * T);
    gpt_backward_hidden(gpt, a, inputs, a->dnorm, B, T);
}

/* =========================================================================================
 * 8. The optimizer              [glossary: AdamW, Optimizer state, Learning rate]
 *
 * The backward pass has left the gradient of the mean loss with respect to every weight.  Three
 * things stand between it and the weights: how large a step is (the schedule), a limit to the
 * gradient's length (clipping), and a step of its own size for each weight (AdamW).  None knows
 * the model; only optimizer_step looks at the table of tensors, for which of them decay.
 * doc/optimizer.md has it with numbers.
 * ====================================================================================== */

/* --- Learning-rate schedule ------ [glossary: Learning rate schedule, Warmup, Cosine decay] --
 * Warmup: Adam's first steps rest on moments of one or two gradients, and have nearly full
 * length whatever the gradient; a small rate keeps them short: lr (step + 1)/(warmup + 1), so
 * that step 0 moves a little and step `warmup` has exactly lr.  After it, p goes from 0 to just
 * below 1, p = (step - warmup)/(steps - warmup); 1 would be the step after the last:
 *   constant   lr
 *   linear     lr + (min_lr - lr) p
 *   cosine     min_lr + (lr - min_lr) (1 + cos(pi p))/2
 *              (Loshchilov and Hutter 2016, arXiv:1608.03983, eq. 5)
 *   trapezoid  lr, then linear over the last `cooldown` steps, in which p counts from their
 *              start (warmup-stable-decay: Hu et al. 2024, arXiv:2404.06395); the end can be
 *              chosen late */
enum { SCHEDULE_CONSTANT, SCHEDULE_LINEAR, SCHEDULE_COSINE, SCHEDULE_TRAPEZOID };
static const char *const SCHEDULE_NAMES[] = {"constant", "linear", "cosine", "trapezoid", NULL};

typedef struct {
    int kind;
    float lr, min_lr;
    uint64_t warmup, steps, cooldown; /* steps; cooldown counts for the trapezoid only */
} Schedule;

/* The rate of a step, which counts from 0. */
float learning_rate(const Schedule *s, uint64_t step) {
    if (step < s->warmup) return s->lr * (float)(step + 1) / (float)(s->warmup + 1);
    if (s->kind == SCHEDULE_CONSTANT) return s->lr;
    uint64_t start = s->kind != SCHEDULE_TRAPEZOID ? s->warmup
                     : s->cooldown < s->steps      ? s->steps - s->cooldown
                                                   : 0;
    if (step >= s->steps) return s->min_lr;
    if (step < start) return s->lr;
    double p = (double)(step - start) / (double)(s->steps - start);
    if (s->kind == SCHEDULE_COSINE)
        return (float)(s->min_lr +
                       (s->lr - s->min_lr) * 0.5 * (1.0 + cos(3.141592653589793 * p)));
    return (float)(s->lr + (s->min_lr - s->lr) * p);
}

/* --- Gradient norm and clipping ----- [glossary: Gradient norm, Gradient clipping] -----------
 * The length of the gradient of all parameters as one vector: sqrt(sum of g^2).  If it is over
 * the limit, the whole gradient is scaled down to it: the direction stays (Pascanu, Mikolov,
 * Bengio 2012, arXiv:1211.5063, algorithm 1).  Summed in double, in PIECES pieces. */
double gradient_norm(const float *gradient, size_t N) {
    enum { PIECES = 64 };
    double sums[PIECES] = {0}, total = 0;
    #pragma omp parallel for
    for (size_t piece = 0; piece < PIECES; piece++) {
        size_t start = N * piece / PIECES, end = N * (piece + 1) / PIECES;
        double lane[LANES] = {0};
        size_t i = start;
        for (; i + LANES <= end; i += LANES)
            for (int j = 0; j < LANES; j++)
                lane[j] += (double)gradient[i + j] * gradient[i + j];
        for (int j = 0; i < end; i++, j++) lane[j] += (double)gradient[i] * gradient[i];
        for (int j = 0; j < LANES; j++) sums[piece] += lane[j];
    }
    for (int piece = 0; piece < PIECES; piece++) total += sums[piece];
    return sqrt(total);
}

/* --- AdamW ------------------------------------ [glossary: Weight decay (L2 regularisation)] -
 * Each weight gets a step of its own: the mean of its recent gradients, divided by their
 * typical size (Kingma and Ba 2014, arXiv:1412.6980, algorithm 1), and decays by itself, not
 * through the gradient, where the decay would be divided by sqrt(v) too, and weights with large
 * gradients would hardly decay (Loshchilov and Hutter 2017, arXiv:1711.05101, algorithm 2, in
 * PyTorch's form: the decay is multiplied by the learning rate).
 *   m = beta1 m + (1 - beta1) g         v = beta2 v + (1 - beta2) g^2
 *   w -= lr (weight_decay w + (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps))
 * m and v start at 0, so they are too small at first: after `step` steps of one gradient g,
 * m is (1 - beta1^step) g and v is (1 - beta2^step) g^2.  The divisors undo just that.
 * w, m, v, gradient (N); gradient_scale multiplies the gradient first (clipping); `step`
 * counts from one.  Leaves the gradient cleared, since it is at hand: a pass of its own would
 * cost time again.
 * Cost: 4 numbers read and 4 written for each weight: memory bandwidth, not arithmetic.
 * Pitfall: eps is added after the root; inside, it would act like sqrt(eps) outside. */
void adamw_update(float *w, float *m, float *v, float *gradient, size_t N, float lr,
                  float beta1, float beta2, float eps, float weight_decay, float gradient_scale,
                  uint64_t step) {
    float m_scale = (float)(1.0 / (1.0 - pow(beta1, (double)step)));
    float v_scale = (float)(1.0 / (1.0 - pow(beta2, (double)step)));
    #pragma omp parallel for
    for (size_t i = 0; i < N; i++) {
        float g = gradient[i] * gradient_scale;
        m[i] = beta1 * m[i] + (1.0f - beta1) * g;
        v[i] = beta2 * v[i] + (1.0f - beta2) * g * g;
        w[i] -= lr * (weight_decay * w[i] + m[i] * m_scale / (sqrtf(v[i] * v_scale) + eps));
        gradient[i] = 0;
    }
}

typedef struct {
    float beta1, beta2, eps, weight_decay;
    float clip; /* limit of the gradient's norm; 0: none */
} OptimizerOptions;

typedef struct {
    float *m, *v;  /* moments of all parameters, in the order of the weights */
    uint64_t step; /* updates done */
} Optimizer;

/* Moments of 0.  The caller calls optimizer_destroy. */
Optimizer *optimizer_create(size_t parameters) {
    Optimizer *optimizer = memory_allocate(1, sizeof *optimizer);
    optimizer->m = memory_allocate(parameters, sizeof(float));
    optimizer->v = memory_allocate(parameters, sizeof(float));
    return optimizer;
}

void optimizer_destroy(Optimizer *optimizer) {
    if (!optimizer) return;
    free(optimizer->m);
    free(optimizer->v);
    free(optimizer);
}

/* One update from the accumulated gradients, which are cleared.   [glossary: Iteration / step]
 * Returns their norm before clipping.  If that is not finite, nothing is updated. */
double optimizer_step(GPT *gpt, Optimizer *optimizer, const OptimizerOptions *o, float lr) {
    double norm = gradient_norm(gpt->gradients, gpt->parameter_count);
    if (!isfinite(norm)) return norm;
    float scale = o->clip > 0 && norm > o->clip ? (float)(o->clip / (norm + 1e-6)) : 1.0f;
    /* 1e-6 as in PyTorch's clip_grad_norm_, so that losses can be compared */
    optimizer->step++;
    for (size_t i = 0; i < gpt->tensor_count; i++) {
        const Tensor *t = &gpt->table[i];
        adamw_update(gpt->weights + t->offset, optimizer->m + t->offset,
                     optimizer->v + t->offset, gpt->gradients + t->offset, t->count, lr,
                     o->beta1, o->beta2, o->eps, t->decay ? o->weight_decay : 0.0f, scale,
                     optimizer->step);
    }
    return norm;
}

/* =========================================================================================
 * 9. Checkpoints                                                     [glossary: Checkpoint]
 *
 * A model on disk is a folder as Hugging Face writes it for GPT-2: model.safetensors,
 * config.json and the tokenizer's vocab.json and merges.txt.  So what was trained here opens
 * there, and a GPT-2 that was saved there opens here, also in half precision or in several
 * files.  Beside them, state.safetensors holds what a run needs besides the weights to go on as
 * if it had never stopped: Adam's moments, a few counters, and every setting.
 *
 * A safetensors file is: 8 bytes, the length n of the header, little-endian; n bytes of JSON,
 * {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [from, to]}, ...}, offsets counted
 * from the end of the header; then the numbers themselves.  A file is mapped, not read, and
 * everything that its header says is checked against the size of the file before it is
 * believed.
 * ====================================================================================== */

typedef struct {
    char name[128], dtype[8];
    size_t rank, shape[8];
    const unsigned char *numbers; /* in the mapped file, at any address */
    size_t bytes;
} SafeTensor;

typedef struct {
    char *path;
    unsigned char *data; /* the whole file, mapped */
    size_t size, count, capacity;
    size_t header;       /* bytes: 8 and the JSON text */
    size_t metadata;     /* the byte behind "__metadata__":, 0 if there is none */
    SafeTensor *tensors; /* count of them, sorted by name */
} SafeTensors;

static size_t dtype_bytes(const char *dtype) { /* 0: not known */
    static const struct {
        const char *name;
        size_t bytes;
    } KNOWN[] = {{"F64", 8}, {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"I64", 8},
                 {"I32", 4}, {"I16", 2}, {"I8", 1},  {"U64", 8},  {"U32", 4},
                 {"U16", 2}, {"U8", 1},  {"BOOL", 1}};
    for (size_t i = 0; i < sizeof KNOWN / sizeof *KNOWN; i++)
        if (!strcmp(dtype, KNOWN[i].name)) return KNOWN[i].bytes;
    return 0;
}

static void safetensors_entry(SafeTensors *file, Json *j, const char *name) {
    SafeTensor t = {.rank = 0};
    char key[32];
    size_t limits[2] = {1, 0}, n = 0, space = file->size - file->header;
    snprintf(t.name, sizeof t.name, "%s", name);
    json_enter(j, '{');
    while (json_key(j, key, sizeof key)) {
        if (!strcmp(key, "dtype")) json_string(j, t.dtype, sizeof t.dtype);
        else if (!strcmp(key, "shape"))
            for (json_enter(j, '['); json_more(j, ']');) {
                if (t.rank == 8)
                    die("%s: tensor %s has more than 8 dimensions", file->path, name);
                t.shape[t.rank++] = json_size(j);
            }
        else if (!strcmp(key, "data_offsets"))
            for (json_enter(j, '['); json_more(j, ']'); n++) {
                if (n == 2) die("%s: tensor %s has more than two offsets", file->path, name);
                limits[n] = json_size(j);
            }
        else json_skip(j);
    }
    size_t bytes = dtype_bytes(t.dtype);
    if (!bytes) die("%s: tensor %s has the unknown type \"%s\"", file->path, name, t.dtype);
    for (size_t d = 0; d < t.rank; d++) {
        if (t.shape[d] && bytes > space / t.shape[d])
            die("%s: tensor %s is larger than the file", file->path, name);
        bytes *= t.shape[d];
    }
    if (n != 2 || limits[0] > limits[1] || limits[1] > space || limits[1] - limits[0] != bytes)
        die("%s: tensor %s: its offsets do not fit its shape and the file: damaged or not "
            "complete",
            file->path, name);
    t.numbers = file->data + file->header + limits[0];
    t.bytes = bytes;
    file->tensors = array_grow(file->tensors, &file->capacity, file->count, sizeof t);
    file->tensors[file->count++] = t;
}

static int safetensor_compare_place(const void *a, const void *b) {
    const SafeTensor *s = a, *t = b;
    if (s->numbers != t->numbers) return s->numbers < t->numbers ? -1 : 1;
    return (s->bytes > t->bytes) - (s->bytes < t->bytes); /* an empty one goes before */
}

static int safetensor_compare_name(const void *a, const void *b) {
    return strcmp(((const SafeTensor *)a)->name, ((const SafeTensor *)b)->name);
}

/* The rules for all tensors together, as the official reader has them: no name twice, and every
 * byte behind the header belongs to exactly one tensor.  Leaves them sorted by name. */
static void safetensors_check(SafeTensors *file) {
    const unsigned char *end = file->data + file->header;
    if (file->count)
        qsort(file->tensors, file->count, sizeof *file->tensors, safetensor_compare_place);
    for (size_t i = 0; i < file->count; i++) {
        const SafeTensor *t = &file->tensors[i];
        if (t->numbers != end)
            die("%s: the offsets of tensor %s %s", file->path, t->name,
                t->numbers < end ? "overlap those of another" : "leave a gap before it");
        end += t->bytes;
    }
    if (end != file->data + file->size)
        die("%s: %td bytes at its end belong to no tensor", file->path,
            file->data + file->size - end);
    if (file->count)
        qsort(file->tensors, file->count, sizeof *file->tensors, safetensor_compare_name);
    for (size_t i = 1; i < file->count; i++)
        if (!strcmp(file->tensors[i].name, file->tensors[i - 1].name))
            die("%s: tensor %s occurs twice", file->path, file->tensors[i].name);
}

enum { SAFETENSORS_HEADER_MAX = 100000000 }; /* bytes; the official reader's limit */

/* Opens and checks a file.  The caller calls safetensors_close. */
SafeTensors *safetensors_open(const char *path) {
    SafeTensors *file = memory_allocate(1, sizeof *file);
    file->path = text_format("%s", path);
    Bytes all = file_map(path);
    file->data = all.data;
    file->size = all.size;
    if (file->size < 8) die("%s: has %zu bytes: not a safetensors file", path, file->size);
    uint64_t header = bytes_number(file->data, 8);
    if (header > file->size - 8)
        die("%s: its header should have %llu bytes, the file has %zu: damaged, not "
            "complete, or not a safetensors file",
            path, (unsigned long long)header, file->size);
    if (header > SAFETENSORS_HEADER_MAX)
        die("%s: its header has %llu bytes, %d is the limit", path, (unsigned long long)header,
            SAFETENSORS_HEADER_MAX);
    file->header = 8 + (size_t)header;
    Json j = {file->data, file->header, 8, path, true};
    char name[128];
    json_enter(&j, '{');
    while (json_key(&j, name, sizeof name)) {
        if (strcmp(name, "__metadata__")) safetensors_entry(file, &j, name);
        else file->metadata = j.at, json_skip(&j);
    }
    json_end(&j);
    safetensors_check(file);
    return file;
}

void safetensors_close(SafeTensors *file) {
    file_unmap((Bytes){file->data, file->size});
    free(file->tensors);
    free(file->path);
    free(file);
}

/* The tensor of a name, which belongs to the file, or NULL. */
const SafeTensor *safetensors_find(const SafeTensors *file, const char *name) {
    SafeTensor key = {.rank = 0};
    if (!file->count || strlen(name) >= sizeof key.name) return NULL;
    memcpy(key.name, name, strlen(name) + 1);
    return bsearch(&key, file->tensors, file->count, sizeof key, safetensor_compare_name);
}

/* The text that __metadata__ holds under a key, into room; false if there is none. */
bool safetensors_text(const SafeTensors *file, const char *key, char *room, size_t size) {
    Json j = {file->data, file->header, file->metadata, file->path, true}, value;
    if (!file->metadata) return false;
    json_members(&j, &key, &value, 1);
    if (value.text) json_string(&value, room, size);
    return value.text != NULL;
}

/* Numbers to be written: an arena laid out by a model's table, and what precedes each name. */
typedef struct {
    const char *prefix;
    const float *numbers;
} Arena;

/* metadata: members of a JSON object, all strings.  zeros: write a bias that the model does not
 * have as 0; otherwise leave it out. */
static void safetensors_write(const char *path, const char *metadata, const GPT *gpt,
                              const Arena *arenas, size_t count, bool zeros) {
    char *header;
    size_t length, end = 0, rows = gpt->tensor_count;
    FILE *stream = open_memstream(&header, &length);
    if (!stream) die("no memory for the header of %s", path);
    fprintf(stream, "{\"__metadata__\": {%s}", metadata);
    for (size_t i = 0; i < count * rows; i++) {
        const Tensor *t = &gpt->table[i % rows];
        size_t start = end;
        if (!t->count && !zeros) continue;
        end += t->shape[0] * t->shape[1] * sizeof(float);
        fprintf(stream, ", \"%s%s\": {\"dtype\": \"F32\", \"shape\": [%zu",
                arenas[i / rows].prefix, t->name, t->shape[0]);
        if (t->rank == 2) fprintf(stream, ", %zu", t->shape[1]);
        fprintf(stream, "], \"data_offsets\": [%zu, %zu]}", start, end);
    }
    fputc('}', stream);
    if (fclose(stream) != 0) die("no memory for the header of %s", path);
    size_t padded = (length + 7) / 8 * 8; /* the numbers start at a multiple of 8 */
    FileWriter file = file_create(path);
    unsigned char size[8];
    for (int i = 0; i < 8; i++) size[i] = (unsigned char)((uint64_t)padded >> 8 * i);
    file_write(&file, size, sizeof size);
    file_write(&file, header, length);
    file_write(&file, "       ", padded - length);
    for (size_t i = 0; i < count * rows; i++) {
        const Tensor *t = &gpt->table[i % rows];
        size_t N = t->shape[0] * t->shape[1];
        if (!t->count && !zeros) continue;
        float *none = t->count ? NULL : memory_allocate(N, sizeof *none);
        file_write(&file, none ? none : arenas[i / rows].numbers + t->offset,
                   N * sizeof(float));
        free(none);
    }
    file_commit(&file);
    free(header);
}

/* A model without biases is written with biases of 0: the same function, and every reader of
 * GPT-2 models has all that it looks for. */
static void weights_write(const GPT *gpt, const char *path) {
    safetensors_write(path, "\"format\": \"pt\"", gpt, &(Arena){"", gpt->weights}, 1, true);
}

static void config_write(const Config *config, const char *path) {
    char *text = text_format(
        "{\n  \"architectures\": [\"GPT2LMHeadModel\"],\n  \"model_type\": \"gpt2\",\n"
        "  \"vocab_size\": %zu,\n  \"n_positions\": %zu,\n  \"n_ctx\": %zu,\n  "
        "\"n_embd\": %zu,\n"
        "  \"n_layer\": %zu,\n  \"n_head\": %zu,\n  \"n_inner\": null,\n"
        "  \"activation_function\": \"gelu_new\",\n  \"layer_norm_epsilon\": 1e-05,\n"
        "  \"initializer_range\": 0.02,\n  \"embd_pdrop\": %.9g,\n  \"attn_pdrop\": %.9g,\n"
        "  \"resid_pdrop\": %.9g,\n  \"tie_word_embeddings\": true,\n  \"bias\": %s\n}\n",
        config->vocab, config->context, config->context, config->channels, config->layers,
        config->heads, config->dropout, config->dropout, config->dropout,
        config->bias ? "true" : "false");
    FileWriter file = file_create(path);
    file_write(&file, text, strlen(text));
    file_commit(&file);
    free(text);
}

/* NULL if a model can have this shape, else what is wrong (lent). */
const char *config_problem(const Config *c) {
    const struct {
        const char *name;
        size_t value, limit;
    } sizes[] = {{"layers", c->layers, 1000},
                 {"heads", c->heads, 1000},
                 {"channels", c->channels, 1 << 16},
                 {"context", c->context, 1 << 20},
                 {"vocab", c->vocab, 1 << 24}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].value < 1 || sizes[i].value > sizes[i].limit)
            return text_lend("%s is %zu, it must be from 1 to %zu", sizes[i].name,
                             sizes[i].value, sizes[i].limit);
    if (c->channels % c->heads)
        return text_lend("channels (%zu) must be a multiple of heads (%zu)", c->channels,
                         c->heads);
    if (!(c->dropout >= 0 && c->dropout < 1))
        return text_lend("dropout is %g, it must be from 0 to below 1", (double)c->dropout);
    return NULL;
}

/* Reads a config.json.  Settings that would change what the model computes are refused, others
 * are passed over.  Sets *tied: does the file say that the output head is wte? */
static Config config_read(const char *path, bool *tied) {
    Config c = {.bias = true};
    *tied = true;
    Bytes text = file_read(path);
    Json j = {text.data, text.size, 0, path, true};
    char key[64], value[64];
    size_t inner = 0;
    json_enter(&j, '{');
    while (json_key(&j, key, sizeof key)) {
        if (!strcmp(key, "n_layer")) c.layers = json_size(&j);
        else if (!strcmp(key, "n_head")) c.heads = json_size(&j);
        else if (!strcmp(key, "n_embd")) c.channels = json_size(&j);
        else if (!strcmp(key, "n_positions")) c.context = json_size(&j);
        else if (!strcmp(key, "vocab_size")) c.vocab = json_size(&j);
        else if (!strcmp(key, "resid_pdrop")) c.dropout = (float)json_number(&j);
        else if (!strcmp(key, "bias")) c.bias = json_boolean(&j);
        else if (!strcmp(key, "n_inner")) inner = json_word(&j, "null") ? 0 : json_size(&j);
        else if (!strcmp(key, "tie_word_embeddings")) *tied = json_boolean(&j);
        else if (!strcmp(key, "scale_attn_weights")) {
            if (!json_boolean(&j)) die("%s: %s must be true here", path, key);
        } else if (!strcmp(key, "scale_attn_by_inverse_layer_idx") ||
                   !strcmp(key, "add_cross_attention")) {
            if (json_boolean(&j)) die("%s: %s must be false here", path, key);
        } else if (!strcmp(key, "layer_norm_epsilon")) {
            if (fabs(json_number(&j) - LAYERNORM_EPS) > 1e-9)
                die("%s: %s must be 1e-5 here", path, key);
        } else if (!strcmp(key, "model_type")) {
            json_string(&j, value, sizeof value);
            if (strcmp(value, "gpt2"))
                die("%s: model_type is \"%s\", only gpt2 is known here", path, value);
        } else if (!strcmp(key, "activation_function")) {
            json_string(&j, value, sizeof value);
            if (strcmp(value, "gelu_new") && strcmp(value, "gelu_pytorch_tanh"))
                die("%s: activation_function is \"%s\", only gelu_new is known here", path,
                    value);
        } else json_skip(&j);
    }
    json_end(&j);
    const char *problem = config_problem(&c);
    if (problem) die("%s: %s", path, problem);
    if (inner && inner != 4 * c.channels) die("%s: n_inner must be 4 n_embd here", path);
    free(text.data);
    return c;
}

/* The files that hold a model's weights: model.safetensors, or the parts ("shards") that
 * model.safetensors.index.json names, {"weight_map": {"tensor": "file", ...}, ...}. */
typedef struct {
    char *path; /* for messages */
    SafeTensors **files;
    size_t count, capacity, bytes;
} Weights;

static void weights_add(Weights *w, const char *path) {
    for (size_t i = 0; i < w->count; i++)
        if (!strcmp(w->files[i]->path, path)) return;
    w->files = array_grow(w->files, &w->capacity, w->count, sizeof *w->files);
    w->files[w->count++] = safetensors_open(path);
    w->bytes += w->files[w->count - 1]->size;
}

static void weights_open_shards(Weights *w, const char *folder) {
    char key[128], shard[256];
    Bytes text = file_read(w->path);
    Json j = {text.data, text.size, 0, w->path, true};
    json_enter(&j, '{');
    while (json_key(&j, key, sizeof key)) {
        if (strcmp(key, "weight_map")) json_skip(&j);
        else
            for (json_enter(&j, '{'); json_key(&j, key, sizeof key);) {
                json_string(&j, shard, sizeof shard);
                if (strchr(shard, '/') || strchr(shard, '\\')) /* it could lead anywhere */
                    die("%s: %s is not the name of a file in this folder", w->path, shard);
                weights_add(w, text_lend("%s/%s", folder, shard));
            }
    }
    json_end(&j);
    free(text.data);
}

static Weights weights_open(const char *folder) {
    const char *whole = text_lend("%s/model.safetensors", folder);
    const char *index = text_lend("%s.index.json", whole);
    bool shards = access(whole, F_OK) != 0 && access(index, F_OK) == 0;
    Weights w = {.path = text_format("%s", shards ? index : whole)};
    if (shards) weights_open_shards(&w, folder);
    else weights_add(&w, whole);
    return w;
}

static void weights_close(Weights *w) {
    for (size_t i = 0; i < w->count; i++) safetensors_close(w->files[i]);
    free(w->files);
    free(w->path);
}

/* A tensor of the model, or NULL.  OpenAI's own files name it without "transformer.". */
static const SafeTensor *weights_find(const Weights *w, const char *name) {
    static const char prefix[] = "transformer.";
    bool longer = !strncmp(name, prefix, sizeof prefix - 1);
    const SafeTensor *found = NULL;
    for (size_t i = 0; i < w->count; i++) {
        const SafeTensor *t = safetensors_find(w->files[i], name);
        if (!t && longer) t = safetensors_find(w->files[i], name + sizeof prefix - 1);
        if (t && found)
            die("%s: tensor %s is in another shard too", w->files[i]->path, t->name);
        if (t) found = t;
    }
    return found;
}

/* Sets floats to what a file holds.  Both kinds of half precision are a float with fewer bits:
 * BF16 is its upper half; F16 has 5 bits of exponent instead of 8, and 10 of mantissa
 * instead of 23.  Its exponent counts from 15 and not from 127, which a factor of 2^112
 * makes up for, also for the smallest numbers, which have no leading 1. */
static void numbers_convert(float *to, const unsigned char *from, const char *dtype,
                            size_t count) {
    if (!strcmp(dtype, "F32")) {
        memcpy(to, from, count * sizeof *to);
        return;
    }
    bool short_exponent = !strcmp(dtype, "F16");
    for (size_t i = 0; i < count; i++) {
        uint32_t half = (uint32_t)bytes_number(from + 2 * i, 2), bits = half << 16;
        if (short_exponent) bits = (half & 0x8000) << 16 | (half & 0x7FFF) << 13;
        memcpy(&to[i], &bits, sizeof bits);
        if (short_exponent) to[i] = (half & 0x7C00) == 0x7C00 ? NAN : to[i] * 0x1p112f;
    }
}

/* Reads one tensor of the model.  A bias that the model does not have may be there if it is
 * 0. */
static void tensor_read(const Weights *w, const Tensor *t, float *weights) {
    const SafeTensor *row = weights_find(w, t->name);
    for (size_t i = 0; row && !t->count && i < row->bytes; i++)
        if (row->numbers[i])
            die("%s: config.json says that there are no biases, but %s is not 0", w->path,
                row->name);
    if (!t->count) return;
    if (!row) die("%s: tensor %s is missing", w->path, t->name);
    if (strcmp(row->dtype, "F32") && strcmp(row->dtype, "F16") && strcmp(row->dtype, "BF16"))
        die("%s: tensor %s has type %s; F32, F16 or BF16 is needed", w->path, row->name,
            row->dtype);
    if (row->rank != t->rank || row->shape[0] != t->shape[0] ||
        (t->rank == 2 && row->shape[1] != t->shape[1]))
        die("%s: tensor %s does not have the shape that config.json gives", w->path, row->name);
    numbers_convert(weights, row->numbers, row->dtype, t->count);
    for (size_t i = 0; i < t->count; i++)
        if (!isfinite(weights[i]))
            die("%s: tensor %s holds a number that is not finite", w->path, row->name);
}

/* The output head is wte here.  A file may hold it a second time, but no other one. */
static void head_check(const Weights *w, bool tied) {
    const SafeTensor *head = weights_find(w, "lm_head.weight");
    const SafeTensor *wte = weights_find(w, "transformer.wte.weight");
    assert(wte); /* tensor_read has found it */
    if (head && (strcmp(head->dtype, wte->dtype) || head->bytes != wte->bytes ||
                 memcmp(head->numbers, wte->numbers, head->bytes) != 0))
        die("%s: lm_head.weight is not the same as wte.weight, as it must be here", w->path);
    if (!head && !tied)
        die("%s: tensor lm_head.weight is missing: config.json says that it is not wte.weight",
            w->path);
}

/* Reads DIR/config.json and the weights.  The caller calls gpt_destroy. */
GPT *model_read(const char *folder, bool training) {
    bool tied;
    Config config = config_read(text_lend("%s/config.json", folder), &tied);
    Weights weights = weights_open(folder);
    if (config_parameters(&config) > weights.bytes / 2) /* before a byte is allocated */
        die("%s: holds fewer numbers than the model of %s/config.json has", weights.path,
            folder);
    GPT *gpt = gpt_create(&config, training);
    for (size_t i = 0; i < gpt->tensor_count; i++)
        tensor_read(&weights, &gpt->table[i], gpt->weights + gpt->table[i].offset);
    head_check(&weights, tied);
    weights_close(&weights);
    return gpt;
}

/* Writes the model and its tokenizer into a folder: all four files, or none.  A tokenizer of
 * NULL leaves all but the weights as they stand there. */
void model_write(const GPT *gpt, const Tokenizer *tokenizer, const char *folder) {
    files_hold();
    folder_create(folder);
    if (tokenizer) {
        tokenizer_save(tokenizer, folder);
        config_write(&gpt->config, text_lend("%s/config.json", folder));
    }
    weights_write(gpt, text_lend("%s/model.safetensors", folder));
    files_release();
}

/* --- The state of a run ---------------------------------------------------------------------
 * The step, and with it the place in the data and every random draw: all of them are functions
 * of the seed and the step (section 2).  So no generator has a state that would have to be
 * saved.
 *
 * Model and state are two files, and no system renames two files at once.  So the state says
 * which weights it belongs to, by their fingerprint, and takes its name first; the new model is
 * then complete under its temporary name.  A run that was killed between the two renames is
 * told by a model that is not the state's, and state_open finishes what was begun. */

/* A number that stands for a row of bytes: another row has, in all likelihood, another number.
 * It finds what was mixed up or damaged; it is no lock against a forger.  NULL are zeros. */
uint64_t fingerprint(uint64_t start, const void *data, size_t bytes) {
    const unsigned char *from = data;
    for (size_t i = 0; i < bytes; i += 8) {
        uint64_t word = 0;
        if (from) memcpy(&word, from + i, bytes - i < 8 ? bytes - i : 8);
        start = random_bits(start ^ word, bytes);
    }
    return start;
}

/* Of a tensor as weights_write lays it down.  Those of all tensors are added up, so that their
 * order does not matter. */
static uint64_t tensor_fingerprint(const char *name, const void *data, size_t bytes) {
    return fingerprint(fingerprint(0, name, strlen(name)), data, bytes);
}

uint64_t weights_fingerprint(const GPT *gpt) {
    uint64_t print = 0;
    for (size_t i = 0; i < gpt->tensor_count; i++) {
        const Tensor *t = &gpt->table[i];
        print += tensor_fingerprint(t->name, t->count ? gpt->weights + t->offset : NULL,
                                    t->shape[0] * t->shape[1] * sizeof(float));
    }
    return print;
}

/* Does DIR/model.safetensors hold the weights with this fingerprint? */
static bool model_matches(const char *folder, uint64_t weights) {
    const char *path = text_lend("%s/model.safetensors", folder);
    uint64_t print = 0;
    if (access(path, F_OK) != 0) return false;
    SafeTensors *file = safetensors_open(path);
    for (size_t i = 0; i < file->count; i++) {
        const SafeTensor *t = &file->tensors[i];
        print += tensor_fingerprint(t->name, t->numbers, t->bytes);
    }
    safetensors_close(file);
    return print == weights;
}

/* What a save writes into a folder, in the order in which the files take their names. */
static const char *const STATE_FILES[] = {"state.safetensors", "vocab.json", "merges.txt",
                                          "config.json", "model.safetensors", NULL};

/* Where a save was cut off among its renames, gives the files their names: all are complete if
 * the state has its own.  Files of a save that did not come so far are passed over. */
static void save_finish(const char *folder, uint64_t weights) {
    const char *waiting = text_lend("%s/model.safetensors.tmp", folder);
    if (access(waiting, F_OK) != 0 || model_matches(folder, weights)) return;
    for (size_t i = 1; STATE_FILES[i]; i++) {
        const char *path = text_lend("%s/%s", folder, STATE_FILES[i]);
        const char *temporary = text_lend("%s.tmp", path);
        if (access(temporary, F_OK) == 0 && rename(temporary, path) != 0)
            die("%s: cannot rename: %s", temporary, strerror(errno));
        folder_flush(path);
    }
}

/* What a run knows besides its weights and moments. */
typedef struct {
    double best_loss, shown_loss; /* validation loss of the best model, and the latest one */
    uint64_t best_step, bad_evaluations; /* step of the best; evaluations since then */
    double seconds;                      /* of work so far */
    uint64_t weights, best_weights;      /* fingerprints of the last and the best model, */
    uint64_t corpus, tokenizer;          /* of the tokens trained on, and of the vocabulary */
} Progress;

enum { STATE_VERSION = 1 };

/* settings: members of a JSON object; section 12 makes them from the table of options. */
static void state_write(const char *path, const GPT *gpt, const Optimizer *optimizer,
                        const Progress *p, const char *settings) {
    const Arena moments[] = {{"m.", optimizer->m}, {"v.", optimizer->v}};
    char *metadata = text_format(
        "\"version\": \"%d\", \"step\": \"%" PRIu64 "\", \"best_loss\": \"%.17g\", "
        "\"shown_loss\": \"%.17g\", \"best_step\": \"%" PRIu64 "\", \"bad_evaluations\": "
        "\"%" PRIu64 "\", \"seconds\": \"%.3f\", \"weights\": \"%016" PRIx64 "\", "
        "\"best_weights\": \"%016" PRIx64 "\", \"corpus\": \"%016" PRIx64 "\", "
        "\"tokenizer\": \"%016" PRIx64 "\"%s",
        STATE_VERSION, optimizer->step, p->best_loss, p->shown_loss, p->best_step,
        p->bad_evaluations, p->seconds, p->weights, p->best_weights, p->corpus, p->tokenizer,
        settings);
    safetensors_write(path, metadata, gpt, moments, 2, false);
    free(metadata);
}

/* A number of the metadata, from 0 to `high`; NaN is one too. */
static double state_number(const SafeTensors *file, const char *key, double high) {
    char text[64], *end = text;
    double value = safetensors_text(file, key, text, sizeof text) ? strtod(text, &end) : NAN;
    if (end == text || *end || !(isnan(value) || (value >= 0 && value <= high)))
        die("%s: \"%s\" is missing or out of range", file->path, key);
    return value;
}

static uint64_t state_count(const SafeTensors *file, const char *key) {
    double value = state_number(file, key, 1e15);
    if (value != floor(value)) die("%s: \"%s\" is not a whole number", file->path, key);
    return (uint64_t)value;
}

static uint64_t state_fingerprint(const SafeTensors *file, const char *key) {
    char text[64];
    if (!safetensors_text(file, key, text, sizeof text) || strlen(text) != 16 ||
        strspn(text, "0123456789abcdef") != 16)
        die("%s: \"%s\" is missing, or not 16 hexadecimal digits", file->path, key);
    return strtoull(text, NULL, 16);
}

Progress state_progress(const SafeTensors *file) {
    return (Progress){
        .best_loss = state_number(file, "best_loss", INFINITY),
        .shown_loss = state_number(file, "shown_loss", INFINITY),
        .best_step = state_count(file, "best_step"),
        .bad_evaluations = state_count(file, "bad_evaluations"),
        .seconds = state_number(file, "seconds", 1e12),
        .weights = state_fingerprint(file, "weights"),
        .best_weights = state_fingerprint(file, "best_weights"),
        .corpus = state_fingerprint(file, "corpus"),
        .tokenizer = state_fingerprint(file, "tokenizer"),
    };
}

/* Opens DIR/state.safetensors, and sees to it that DIR and DIR/best hold the models that belong
 * to it.  The caller calls safetensors_close. */
SafeTensors *state_open(const char *folder) {
    const char *path = text_lend("%s/state.safetensors", folder);
    if (access(path, F_OK) != 0) die("%s: there is no run to resume: no such file", path);
    SafeTensors *file = safetensors_open(path);
    uint64_t version = state_count(file, "version");
    if (version != STATE_VERSION)
        die("%s: is of version %" PRIu64 ", this program writes and reads version %d", path,
            version, STATE_VERSION);
    Progress saved = state_progress(file);
    save_finish(folder, saved.weights);
    if (saved.best_weights) /* 0: there is no best yet */
        save_finish(text_lend("%s/best", folder), saved.best_weights);
    if (!model_matches(folder, saved.weights))
        die("%s/model.safetensors: is not the model that the run's state was saved with",
            folder);
    return file;
}

/* The moments and the step, for the model in `gpt`. */
void state_read(const SafeTensors *file, const GPT *gpt, Optimizer *optimizer) {
    optimizer->step = state_count(file, "step");
    for (int moment = 0; moment < 2; moment++) {
        float *to = moment ? optimizer->v : optimizer->m;
        for (size_t i = 0; i < gpt->tensor_count; i++) {
            const Tensor *t = &gpt->table[i];
            const char *name = text_lend("%c.%s", "mv"[moment], t->name);
            const SafeTensor *from = safetensors_find(file, name);
            if (!t->count) continue;
            if (from && strcmp(from->dtype, "F32"))
                die("%s: tensor %s has type %s, F32 is needed", file->path, name, from->dtype);
            if (!from || from->bytes != t->count * sizeof(float))
                die("%s: tensor %s is missing, or not of the model's shape", file->path, name);
            memcpy(to + t->offset, from->numbers, from->bytes);
        }
        for (size_t i = 0; i < gpt->parameter_count; i++)
            if (!(isfinite(to[i]) && (!moment || to[i] >= 0)))
                die("%s: Adam's moments hold a number that cannot be one", file->path);
    }
}

/* =========================================================================================
 * 10. Inference                                                       [glossary: Inference]
 *
 * Writing is a loop: logits for the last token, draw one from them, append it.  A token's keys
 * and values depend on the tokens before it only, so they are computed once and kept: the KV
 * cache.  There are no gradients, no moments, and activations for a few tokens only.
 * ====================================================================================== */

enum { DECODE_ROWS = 64 }; /* tokens of a prompt that go through the model together */

Cache *cache_create(const Config *config) { /* the caller calls cache_destroy */
    Cache *cache = memory_allocate(1, sizeof *cache);
    cache->keys = memory_allocate(cache_floats(config), sizeof *cache->keys);
    cache->values = cache->keys + cache_floats(config) / 2;
    cache->a = activations_create(config, 1, DECODE_ROWS, KEEP_NOTHING, 1);
    cache->a->cache = cache;
    return cache;
}

void cache_destroy(Cache *cache) {
    if (!cache) return;
    activations_destroy(cache->a);
    free(cache->keys);
    free(cache);
}

/* Takes in `count` (at least 1) tokens behind those that the cache holds; logits (V) are those
 * of the last one.  They are, to the last bit, those of gpt_forward on the whole text (in bf16,
 * which generation does not use, products of few rows differ: section 5). */
void gpt_decode(const GPT *gpt, Cache *cache, const int32_t *tokens, size_t count,
                float *logits) {
    size_t rows = 0;
    assert(count && cache->length + count <= gpt->config.context);
    for (size_t start = 0; start < count; start += rows) {
        rows = count - start < DECODE_ROWS ? count - start : DECODE_ROWS;
        gpt_forward(gpt, cache->a, tokens + start, NULL, 1, rows, 0, 0);
        cache->length += rows;
    }
    gpt_logits(gpt, cache->a, logits, rows - 1, 1);
}

/* --- Sampling ------------------------------------------------------------------------------
 * p[v] = exp(logit[v] / temperature) / sum; a temperature below 1 makes likely tokens likelier,
 * and 0 leaves only the likeliest.  top_k keeps the k likeliest tokens (Fan et al. 2018,
 * arXiv:1805.04833), top_p then the fewest of those whose probabilities add up to a share p
 * (Holtzman et al. 2019, arXiv:1904.09751, section 3.1). */
typedef struct {
    double temperature; /* 0: the likeliest token */
    size_t top_k;       /* 0: all */
    double top_p;       /* 1: all */
    bool line; /* stop where the line would end, without the line feed */
} Sampling;

typedef struct {
    double weight;
    uint32_t token;
} Candidate;

/* Likeliest first; of equal ones, the smallest id. */
static int candidate_compare(const void *a, const void *b) {
    const Candidate *x = a, *y = b;
    return x->weight != y->weight ? (x->weight < y->weight) - (x->weight > y->weight)
                                  : (x->token > y->token) - (x->token < y->token);
}

/* The likeliest token; of equally likely ones, the first. */
static size_t logits_likeliest(const float *logits, size_t V) {
    size_t best = 0;
    for (size_t v = 1; v < V; v++) best = logits[v] > logits[best] ? v : best;
    return best;
}

/* Draws a token from logits (V); u is uniform in [0, 1).  room (V) is for work. */
uint32_t token_sample(const float *logits, size_t V, const Sampling *s, double u,
                      Candidate *room) {
    size_t best = logits_likeliest(logits, V), n = V;
    if (s->temperature == 0) return (uint32_t)best;
    for (size_t v = 0; v < V; v++)
        room[v] =
            (Candidate){exp(((double)logits[v] - logits[best]) / s->temperature), (uint32_t)v};
    double total = 0, sum = 0;
    if (s->top_k || s->top_p < 1) qsort(room, V, sizeof *room, candidate_compare);
    if (s->top_k && s->top_k < n) n = s->top_k;
    for (size_t v = 0; v < n; v++) total += room[v].weight;
    if (s->top_p < 1) {
        size_t kept = 0;
        while (kept < n && (kept == 0 || sum < s->top_p * total)) sum += room[kept++].weight;
        n = kept;
        total = sum;
    }
    sum = 0;
    for (size_t v = 0; v + 1 < n; v++) {
        sum += room[v].weight;
        if (u * total < sum) return room[v].token;
    }
    return room[n - 1].token;
}

/* Writes `count` tokens behind a prompt (at least one token) to a stream, each as soon as it is
 * drawn; returns how many it wrote.  When the context is full, the model goes on with its later
 * half: positions are learned, so a window cannot slide, and has to be read again. */
size_t text_generate(const GPT *gpt, Cache *cache, const Tokenizer *tokenizer,
                     const uint32_t *prompt, size_t prompt_count, size_t count,
                     const Sampling *sampling, uint64_t seed, FILE *out) {
    size_t V = gpt->config.vocab, context = gpt->config.context, length = 0;
    size_t known = tokenizer->vocab; /* the model may have more ids, which stand for no text */
    int32_t *tokens = memory_allocate(context, sizeof *tokens);
    float *logits = memory_allocate(V, sizeof *logits);
    Candidate *room = memory_allocate(V, sizeof *room);
    size_t skip = prompt_count > context ? prompt_count - context : 0; /* only its end fits */
    for (; skip + length < prompt_count; length++)
        tokens[length] = (int32_t)prompt[skip + length];
    cache->length = 0;
    size_t i = 0;
    for (; i < count; i++) {
        gpt_decode(gpt, cache, tokens + cache->length, length - cache->length, logits);
        double u = random_uniform(random_bits(seed, RANDOM_SAMPLING), i);
        uint32_t token = token_sample(logits, known, sampling, u, room);
        size_t bytes;
        const unsigned char *text = tokenizer_token(tokenizer, token, &bytes);
        if (sampling->line && bytes == 1 && *text == '\n') break;
        if (fwrite(text, 1, bytes, out) != bytes || fflush(out) != 0)
            die("cannot write the text: %s", strerror(errno));
        if (length == context) {
            size_t keep = context > 1 ? context / 2 : 0;
            memmove(tokens, tokens + context - keep, keep * sizeof *tokens);
            length = keep;
            cache->length = 0;
        }
        tokens[length++] = (int32_t)token;
    }
    free(tokens);
    free(logits);
    free(room);
    return i;
}

/* Whole rows, each begun anew with the prompt (which begins with a line feed), until `count`
 * tokens are written.  A model of rows has never seen anything behind the end of one.  An
 * error of `out` stays with the stream, and the caller looks at it there. */
void rows_generate(const GPT *gpt, Cache *cache, const Tokenizer *tokenizer,
                   const uint32_t *prompt, size_t prompt_count, size_t count,
                   const Sampling *sampling, uint64_t seed, FILE *out) {
    Sampling row = *sampling;
    row.line = true;
    for (size_t done = 0, i = 0; done < count; i++) {
        for (size_t t = 1, bytes; t < prompt_count; t++) {
            const unsigned char *text = tokenizer_token(tokenizer, prompt[t], &bytes);
            fwrite(text, 1, bytes, out);
        }
        done += 1 + text_generate(gpt, cache, tokenizer, prompt, prompt_count,
                                  gpt->config.context, &row, random_bits(seed, i), out);
        fputc('\n', out);
    }
}

/* =========================================================================================
 * 11. The training loop                                                [glossary: Training]
 *
 * A step is batch_gradient, then optimizer_step; around it stand evaluation, saving and what
 * the user sees of it.  All that changes from step to step is in weights, moments, the
 * number of the step and Progress, so that a saved run can go on to the last bit.
 * ====================================================================================== */

/* Every choice that the command line offers; section 12 has the names, what they mean, and the
 * ranges.  batch and micro_batch count sequences, eval_batches batches, patience evaluations;
 * steps, warmup, cooldown and every ..._every count steps, sample and tokens tokens; validation
 * and test are shares of the text. */
typedef struct {
    size_t layers, heads, channels, context, vocab;
    bool no_bias;
    double dropout;
    size_t batch, micro_batch, steps;
    int order;
    double lr, min_lr;
    size_t warmup, cooldown;
    int schedule, precision;
    double weight_decay, beta1, beta2, eps, clip;
    const char *data[64]; /* up to the first NULL */
    bool rows;
    const char *answer_after; /* one character, or NULL */
    double validation, test;
    size_t eval_every, eval_batches, patience, log_every, sample, save_every, keep;
    const char *out, *init, *resume, *model, *tokenizer;
    bool overwrite, recompute, profile;
    size_t seed, threads;
    int split;
    const char *prompt;
    size_t tokens;
    double temperature, top_p;
    size_t top_k;
    int preset;
} Options;

typedef struct {
    double loss;          /* mean over targets, in nats a token */
    double bits_per_byte; /* the sum of the losses in bits, divided by the targets' bytes */
    size_t tokens;        /* targets that count */
    size_t sequences;
    double accuracy; /* share of rows without a mistake, or NAN where there are no rows */
} Evaluation;

/* How many of B rows, after a forward pass, the model would write without a mistake if it
 * always took the likeliest token: those whose every target is the likeliest token.  It is
 * enough to look at the targets, for up to the first mistake the model would have written
 * just them, and so would have read what it has read here. */
static size_t rows_right(const GPT *gpt, Activations *a, const int32_t *targets, size_t B,
                         size_t T) {
    size_t V = gpt->config.vocab, right = 0;
    for (size_t b = 0; b < B; b++) {
        bool all = true;
        for (size_t n = b * T; n < (b + 1) * T; n += a->head_rows) {
            size_t rows = (b + 1) * T - n < a->head_rows ? (b + 1) * T - n : a->head_rows;
            gpt_logits(gpt, a, a->logits, n, rows);
            for (size_t i = 0; i < rows; i++)
                all &= targets[n + i] < 0 ||
                       logits_likeliest(a->logits + i * V, V) == (size_t)targets[n + i];
        }
        right += all;
    }
    return right;
}

/* Mean loss over at most `sequences` windows of a->T tokens, or rows, of a split (0: all),
 * evenly spread and always the same ones, so that two evaluations can be compared; without
 * dropout.  Overwrites the activations.  NaN if the split has none.
 *                                          [glossary: Validation set, Test set, Perplexity] */
Evaluation split_evaluate(const GPT *gpt, Activations *a, const Tokenizer *tokenizer,
                          const Split *split, size_t sequences) {
    size_t T = a->T, all = split_sequences(split, T), bytes = 0, tokens = 0, right = 0;
    if (!sequences || sequences > all) sequences = all;
    int32_t *inputs = memory_allocate(a->B * T, sizeof *inputs);
    int32_t *targets = memory_allocate(a->B * T, sizeof *targets);
    double sum = 0;
    for (size_t done = 0, B; done < sequences; done += B) {
        B = sequences - done < a->B ? sequences - done : a->B;
        for (size_t b = 0; b < B; b++) {
            size_t i = (size_t)((double)(done + b) * (double)all / (double)sequences);
            sequence_read(split, split->rows ? i : i * T, T, inputs + b * T, targets + b * T);
        }
        for (size_t i = 0, length; i < B * T; i++) {
            if (targets[i] < 0) continue;
            tokenizer_token(tokenizer, (uint32_t)targets[i], &length);
            bytes += length;
            tokens++;
        }
        gpt_forward(gpt, a, inputs, targets, B, T, 0, 0);
        for (size_t i = 0; i < B * T; i++) sum += a->losses[i];
        if (split->rows) right += rows_right(gpt, a, targets, B, T);
    }
    free(inputs);
    free(targets);
    return (Evaluation){sum / (double)tokens, sum / log(2.0) / (double)bytes, tokens, sequences,
                        split->rows ? (double)right / (double)sequences : (double)NAN};
}

/* All that one run holds on to. */
typedef struct {
    const Options *o;
    Tokenizer *tokenizer;
    Corpus corpus;
    Split splits[SPLITS];
    GPT *gpt;
    Activations *activations;
    Optimizer *optimizer;
    Cache *cache;
    BatchSource source;
    Schedule schedule;
    int32_t *inputs, *targets; /* (micro_batch,T) */
    float *dlosses;            /* (micro_batch,T) */
    FILE *log, *samples;
    char *best_folder, *settings; /* settings: for the state, see state_write */
    Progress progress;
    double shown_accuracy; /* the latest one of the validation part; NAN: none yet */
    double peak;         /* FLOPs per second */
    double start, shown; /* clock: of the first step, of the last progress line */
    bool saved, saved_best; /* did this process write the last model, the best one? */
    bool replaces;          /* it did not yet, and --out holds an older run */
    bool terminal, line_open;
} Run;

static volatile sig_atomic_t interrupted; /* the signal's number, looked at after each step */

static void interrupt(int signal_number) { interrupted = signal_number; }

/* One step, but for the update: gradients of the whole batch, a micro-batch at a time.  Returns
 * the mean loss.  Every target weighs 1/(targets of the whole batch) in dlosses.  So the sum of
 * the micro-batches' gradients is the gradient of the batch, also when a micro-batch is smaller
 * than the others, or has fewer targets.  Reads the whole batch itself, not a rank's share: it
 * is for a single process.
 *           [glossary: Batch and batch size, Micro-batch, Gradient accumulation] */
double batch_gradient(Run *run, uint64_t step) {
    size_t batch = run->o->batch, T = run->source.T, count = batch_targets(&run->source, step);
    uint64_t key = random_bits(random_bits(run->o->seed, RANDOM_DROPOUT), step) | 1; /* not 0 */
    double sum = 0;
    for (size_t first = 0, B; first < batch; first += B) {
        B = batch - first < run->activations->B ? batch - first : run->activations->B;
        batch_read(&run->source, step, first, B, run->inputs, run->targets);
        for (size_t i = 0; i < B * T; i++) run->dlosses[i] = 1.0f / (float)count;
        gpt_forward_backward(run->gpt, run->activations, run->inputs, run->targets,
                             run->dlosses, B, T, key, first);
        for (size_t i = 0; i < B * T; i++) sum += run->activations->losses[i];
    }
    return sum / (double)count;
}

/* Ends a line that is being rewritten in place, so that other text can follow. */
static void progress_close(Run *run) {
    if (run->line_open) fputc('\n', stderr);
    run->line_open = false;
}

/* One updating line on a terminal, a line every log_every steps elsewhere. */
static void progress_show(Run *run, uint64_t step, double loss, double norm, float lr) {
    const Options *o = run->o;
    double now = clock_seconds(), elapsed = now - run->start, done = (double)(step + 1);
    double rate = batch_tokens(&run->source) * done / elapsed;
    double peak = 100 * rate * flops_per_token(&run->gpt->config, run->source.T) / run->peak;
    double left = floor(elapsed / done * ((double)o->steps - done)), minutes = floor(left / 60);
    bool due = step == 0 || step + 1 == o->steps || (step + 1) % o->log_every == 0;
    if (run->terminal ? now - run->shown < 0.1 && !due : !due) return;
    run->shown = now;
    fprintf(stderr, "%sstep %llu/%zu  epoch %.2f  loss %.4f", run->terminal ? "\r" : "",
            (unsigned long long)step + 1, o->steps, batch_epochs(&run->source, step + 1), loss);
    if (run->splits[SPLIT_VALIDATION].count)
        fprintf(stderr, "  val %.4f", run->progress.shown_loss);
    if (!isnan(run->shown_accuracy))
        fprintf(stderr, "  right %.1f%%", 100 * run->shown_accuracy);
    fprintf(stderr, "  lr %.2e  norm %.3f  %.0f tok/s  %.0f%% of %speak", lr, norm, rate, peak,
            product_precision == BF16 ? "float32 " : "");
    fprintf(stderr, "  %.0f:%02.0f left%s", minutes, left - 60 * minutes,
            run->terminal ? "\033[K" : "\n");
    run->line_open = run->terminal;
}

/* A row of log.csv; what is not known stays empty.  e, t: evaluations of the validation and of
 * the training part, or NULL. */
static void log_row(Run *run, uint64_t step, double loss, const Evaluation *e,
                    const Evaluation *t, float lr, double norm) {
    double elapsed = clock_seconds() - run->start;
    double tokens = batch_tokens(&run->source) * (double)step;
    fprintf(run->log, "%llu,%.4f,%.0f,", (unsigned long long)step,
            batch_epochs(&run->source, step), tokens);
    if (step > 0) fprintf(run->log, "%.9g", loss);
    if (e) fprintf(run->log, ",%.9g,%.9g", e->loss, e->bits_per_byte);
    else fputs(",,", run->log);
    if (step > 0)
        fprintf(run->log, ",%.9g,%.9g,%.1f", (double)lr, norm, tokens / (elapsed + 1e-9));
    else fputs(",,,", run->log);
    fprintf(run->log, ",%.3f,", elapsed);
    if (e && run->o->rows) fprintf(run->log, "%.9g", e->accuracy);
    fputc(',', run->log);
    if (t) fprintf(run->log, "%.9g", t->accuracy);
    fputc('\n', run->log);
    if (fflush(run->log) != 0 || ferror(run->log))
        die("%s/log.csv: cannot write: %s", run->o->out, strerror(errno));
}

/* Shows what the model would write now, and adds it to samples.txt: from the first token of the
 * text on, or as rows with the last row's prompt. */
static void sample_show(Run *run, size_t count, uint64_t step) {
    Sampling sampling = {0.8, 0, 1.0, false};
    int precision = product_precision;
    product_precision = FLOAT32; /* as `generate` will, so that it can write the same */
    const Row *last = run->o->rows ? &run->corpus.rows[run->corpus.row_count - 1] : NULL;
    char *text;
    size_t size;
    FILE *stream = open_memstream(&text, &size);
    if (!stream) die("no memory for a sample");
    if (last)
        rows_generate(run->gpt, run->cache, run->tokenizer, run->corpus.tokens + last->start,
                      last->answer - last->start, count, &sampling, run->o->seed, stream);
    else {
        text_generate(run->gpt, run->cache, run->tokenizer, run->corpus.tokens, 1, count,
                      &sampling, run->o->seed, stream);
        fputc('\n', stream);
    }
    if (fclose(stream) != 0) die("no memory for a sample");
    product_precision = precision;
    fputs(last ? "--- sample:\n" : "--- sample: ", stderr);
    fwrite(text, 1, size, stderr);
    fputs("---\n", stderr);
    fprintf(run->samples, "--- step %llu\n", (unsigned long long)step);
    fwrite(text, 1, size, run->samples);
    free(text);
    if (fflush(run->samples) != 0 || ferror(run->samples))
        die("%s/samples.txt: cannot write: %s", run->o->out, strerror(errno));
}

/* Loss on the validation part; notes whether the model is the best so far.  A model that has
 * not learned anything here cannot be the best, unless --init brought it. */
static Evaluation validation_run(Run *run, uint64_t step, bool *improved) {
    Progress *p = &run->progress;
    Evaluation e = split_evaluate(run->gpt, run->activations, run->tokenizer,
                                  &run->splits[SPLIT_VALIDATION],
                                  run->o->eval_batches * run->o->batch);
    *improved = e.loss < p->best_loss && (step > 0 || run->o->init);
    if (*improved) {
        p->best_loss = e.loss;
        p->best_step = step;
        p->bad_evaluations = 0;
    } else if (step > 0) p->bad_evaluations++;
    p->shown_loss = e.loss;
    run->shown_accuracy = e.accuracy;
    progress_close(run);
    fprintf(stderr, "step %llu: validation loss %.4f, perplexity %.4g, %.3f bits per byte",
            (unsigned long long)step, e.loss, exp(e.loss), e.bits_per_byte);
    if (run->o->rows) fprintf(stderr, ", %.2f%% of rows right", 100 * e.accuracy);
    fputs(*improved ? " (best so far)\n" : "\n", stderr);
    if (step == 0 && !run->o->init)
        fprintf(stderr, "an untrained model should score ln V = ln %zu = %.4f\n",
                run->gpt->config.vocab, log((double)run->gpt->config.vocab));
    return e;
}

static bool all_finite(const float *x, size_t N) { return isfinite(gradient_norm(x, N)); }

/* Where NaN or infinity stands first, in the order in which numbers flow through a step: the
 * weights, what the forward pass left, the gradients from the head down, Adam's moments.  NULL
 * if all is well. */
static const char *bad_tensor(const Run *run) {
    const GPT *gpt = run->gpt;
    Activations *a = run->activations;
    size_t L = gpt->config.layers, r = 0;
    for (size_t i = 0; i < gpt->tensor_count; i++)
        if (!all_finite(gpt->weights + gpt->table[i].offset, gpt->table[i].count))
            return text_lend("weight %s", gpt->table[i].name);
    ActivationRow rows[ACTIVATION_ROWS];
    activations_table(a, &gpt->config, rows);
    for (size_t l = 0; l <= L; l++) /* the rows up to fc have a piece for each layer kept */
        for (r = 0; rows[r].place != &a->norm; r++) {
            size_t pieces = r == 0 ? L + 1 : a->kept, N = rows[r].count / pieces;
            if (l < pieces && !all_finite(*rows[r].place + l * N, N))
                return text_lend("activations \"%s\"%s", rows[r].name,
                                 pieces > 1 ? text_lend(" of block %zu", l) : "");
        }
    for (; rows[r].place != &a->head_lse; r++)
        if (!all_finite(*rows[r].place, rows[r].count))
            return text_lend("activations \"%s\"", rows[r].name);
    for (size_t i = gpt->tensor_count; i-- > 0;)
        if (!all_finite(gpt->gradients + gpt->table[i].offset, gpt->table[i].count))
            return text_lend("gradient of %s", gpt->table[i].name);
    for (size_t i = 0; i < gpt->tensor_count; i++)
        if (!all_finite(run->optimizer->m + gpt->table[i].offset, gpt->table[i].count) ||
            !all_finite(run->optimizer->v + gpt->table[i].offset, gpt->table[i].count))
            return text_lend("Adam's moments of %s", gpt->table[i].name);
    return NULL;
}

/* Ends the run because a number is not finite. */
__attribute__((noreturn)) static void run_fail(Run *run, uint64_t step, const char *what) {
    const char *bad = bad_tensor(run);
    progress_close(run);
    die("step %" PRIu64 ": %s is not a finite number; first seen in: %s; %s keeps what was "
        "saved last; a lower --lr or --clip, or more --warmup may help",
        step, what, bad ? bad : "the loss", run->o->out);
}

/* Evaluates, logs, shows a sample.  Is the model the best so far? */
static bool evaluation_run(Run *run, uint64_t step, double loss, float lr, double norm) {
    bool improved = step > 0, validated = run->splits[SPLIT_VALIDATION].count > 0;
    Evaluation e = {0}, t;
    if (validated) e = validation_run(run, step, &improved);
    if (run->o->rows) /* what is memorized, beside what is understood */
        t = split_evaluate(run->gpt, run->activations, run->tokenizer,
                           &run->splits[SPLIT_TRAIN], run->o->eval_batches * run->o->batch);
    log_row(run, step, loss, validated ? &e : NULL, run->o->rows ? &t : NULL, lr, norm);
    if (!isfinite(e.loss)) run_fail(run, step, "the validation loss");
    if (step > 0 && run->o->sample) sample_show(run, run->o->sample, step);
    return improved;
}

static int step_compare(const void *a, const void *b) { /* the larger one first */
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* Removes our files from a folder OUT/step-N, and the folder if nothing else is in it. */
static void kept_remove(const char *folder) {
    for (size_t i = 0; STATE_FILES[i]; i++) unlink(text_lend("%s/%s", folder, STATE_FILES[i]));
    rmdir(folder);
}

/* Leaves the newest `keep` of the folders OUT/step-N. */
static void kept_trim(const char *out, size_t keep) {
    uint64_t *steps = NULL, step;
    size_t count = 0;
    char end;
    DIR *folder = opendir(out);
    for (struct dirent *entry; folder && (entry = readdir(folder));)
        if (sscanf(entry->d_name, "step-%19" SCNu64 "%c", &step, &end) == 1) {
            steps = memory_resize(steps, count + 1, sizeof *steps);
            steps[count++] = step;
        }
    if (folder) closedir(folder);
    if (count) qsort(steps, count, sizeof *steps, step_compare);
    for (size_t i = keep; i < count; i++)
        kept_remove(text_lend("%s/step-%" PRIu64, out, steps[i]));
    free(steps);
}

/* Keeps what was just saved as OUT/step-N too: second names (hard links) of the same files,
 * which cost no room until the first names go over to newer files. */
static void kept_add(const char *out, uint64_t step) {
    char *folder = text_format("%s/step-%" PRIu64, out, step);
    char *unfinished = text_format("%s.tmp", folder);
    kept_remove(unfinished);
    folder_create(unfinished);
    for (size_t i = 0; STATE_FILES[i]; i++) {
        const char *to = text_lend("%s/%s", unfinished, STATE_FILES[i]);
        if (link(text_lend("%s/%s", out, STATE_FILES[i]), to) != 0)
            die("%s: cannot link: %s; %s holds what was saved", to, strerror(errno), out);
    }
    kept_remove(folder); /* of a run that came here before */
    if (rename(unfinished, folder) != 0)
        die("%s: cannot rename: %s; %s holds what was saved", unfinished, strerror(errno), out);
    folder_flush(folder);
    free(folder);
    free(unfinished);
}

/* Saves the state and the model, and the best model if it is this one: all, or nothing.  The
 * order of the renames is explained in section 9.                    [glossary: Checkpoint] */
static void run_save(Run *run, bool improved) {
    const Options *o = run->o;
    Progress *p = &run->progress;
    uint64_t step = run->optimizer->step;
    size_t P = run->gpt->parameter_count;
    if (!all_finite(run->gpt->weights, P) || !all_finite(run->optimizer->m, P) ||
        !all_finite(run->optimizer->v, P))
        run_fail(run, step, "a weight or a moment of Adam");
    p->weights = weights_fingerprint(run->gpt);
    if (improved) p->best_weights = p->weights;
    p->seconds = clock_seconds() - run->start;
    if (fsync(fileno(run->log)) != 0 && errno != EINVAL)
        die("%s/log.csv: cannot write: %s", o->out, strerror(errno));
    files_hold();
    state_write(text_lend("%s/state.safetensors", o->out), run->gpt, run->optimizer, p,
                run->settings);
    if (run->replaces) { /* of the older run no model is to be seen with new settings */
        file_drop(text_lend("%s/model.safetensors", o->out));
        file_drop(text_lend("%s/model.safetensors", run->best_folder));
    }
    model_write(run->gpt, run->saved ? NULL : run->tokenizer, o->out);
    if (improved)
        model_write(run->gpt, run->saved_best ? NULL : run->tokenizer, run->best_folder);
    files_release();
    run->saved = true;
    run->saved_best = run->saved_best || improved;
    if (run->replaces) kept_trim(o->out, 0);
    run->replaces = false;
    if (o->keep) {
        kept_add(o->out, step);
        kept_trim(o->out, o->keep);
    }
}

static void run_report(const Run *run, uint64_t step, bool stopped_early) {
    const Options *o = run->o;
    bool there = access(text_lend("%s/model.safetensors", run->best_folder), F_OK) == 0;
    if (interrupted)
        fprintf(stderr, "interrupted after step %" PRIu64 ", which is saved; to go on: "
                "./train --resume %s\n", step, o->out);
    else if (stopped_early)
        fprintf(stderr, "stopped early: no better validation loss in %zu evaluations\n",
                o->patience);
    printf("%" PRIu64 " steps in %.1f s", step, clock_seconds() - run->start);
    if (isfinite(run->progress.best_loss))
        printf(", best validation loss %.4f at step %" PRIu64, run->progress.best_loss,
               run->progress.best_step);
    printf("\nthe last model is in %s%s%s\nto generate text: ./train generate%s --model %s\n",
           o->out, there ? ", the best in " : "", there ? run->best_folder : "",
           o->rows ? " --rows" : "", there ? run->best_folder : o->out);
}

/* The loop itself.  Ends after o->steps steps, on Ctrl-C or SIGTERM, or when the validation
 * loss no longer falls.  Begins behind the last step that the optimizer has done: 0, or where
 * the run that is resumed was saved.  [glossary: Pre-training, Early stopping, Convergence] */
void run_train(Run *run) {
    const Options *o = run->o;
    OptimizerOptions update = {(float)o->beta1, (float)o->beta2, (float)o->eps,
                               (float)o->weight_decay, (float)o->clip};
    struct sigaction action = {.sa_handler = interrupt,
                               .sa_flags = (int)SA_RESETHAND | SA_RESTART};
    sigaction(SIGINT, &action, NULL); /* a second Ctrl-C ends the program at once */
    sigaction(SIGTERM, &action, NULL);
    run->start = clock_seconds() - run->progress.seconds;
    uint64_t step = run->optimizer->step;
    if (step == 0 && evaluation_run(run, 0, NAN, 0, NAN)) run_save(run, true);
    bool stopped = false, saved = false;
    while (step < o->steps && !(interrupted && saved)) {
        stopped = o->patience && run->progress.bad_evaluations >= o->patience;
        if (stopped) break;
        float lr = learning_rate(&run->schedule, step);
        double loss = batch_gradient(run, step);
        double norm = optimizer_step(run->gpt, run->optimizer, &update, lr);
        if (!isfinite(loss) || !isfinite(norm))
            run_fail(run, step + 1, isfinite(loss) ? "the gradient" : "the loss");
        progress_show(run, step, loss, norm, lr);
        step++;
        bool due = step % o->eval_every == 0 || step == o->steps, improved = false;
        if (due) improved = evaluation_run(run, step, loss, lr, norm);
        else log_row(run, step, loss, NULL, NULL, lr, norm);
        saved = due || interrupted || (o->save_every && step % o->save_every == 0);
        if (saved) run_save(run, improved);
    }
    progress_close(run);
    run_report(run, step, stopped);
}

/* --- Where the time of a step goes ----------------------------------------------------------
 * Each kernel is run alone, at the sizes of this model and micro-batch, on the numbers that a
 * real step has left; its fastest time counts as often as a micro-batch runs it. */
typedef struct {
    const char *name;
    double calls, flops; /* in a micro-batch; FLOPs of one call, 0 where memory decides */
    double seconds;      /* of the fastest call */
} ProfileRow;

enum { PROFILE_ROWS = 32 }; /* at most */
typedef struct {
    ProfileRow rows[PROFILE_ROWS];
    int count, runs;     /* rows that are finished; runs so far of the next one */
    double start, spent; /* clock at the start of its latest run; seconds of all its runs */
} Profile;

/* Measures the body of `while (profile_again(...))`: true until that has run three times and
 * for 0.1 s, or 100 times. */
static bool profile_again(Profile *p, const char *name, double calls, double flops) {
    assert(p->count < PROFILE_ROWS);
    ProfileRow *row = &p->rows[p->count];
    double once = clock_seconds() - p->start;
    if (p->runs == 0) *row = (ProfileRow){name, calls, flops, INFINITY}, p->spent = 0;
    else row->seconds = fmin(row->seconds, once), p->spent += once;
    bool again = p->runs < 3 || (p->spent < 0.1 && p->runs < 100);
    p->runs = again ? p->runs + 1 : 0;
    p->count += !again;
    p->start = clock_seconds();
    return again;
}

/* Measures every kernel.  Where the backward pass runs blocks forward again (--recompute),
 * their kernels are called twice. */
static void profile_kernels(Run *run, Profile *p) {
    GPT *gpt = run->gpt;
    Activations *a = run->activations;
    const Layer y = layer_of(a, &gpt->config, 0);
    size_t B = a->B, T = a->T, C = gpt->config.channels, H = gpt->config.heads, F = 4 * C;
    size_t N = B * T, V = gpt->config.vocab, rows = a->head_rows, P = gpt->parameter_count;
    Dropout inside = dropout_site(gpt, a, 1, H * T * T),
            outside = dropout_site(gpt, a, 2, T * C);
    float *w[KINDS], *dw[KINDS];
    tensors_place(w, gpt, gpt->weights, 0);
    tensors_place(dw, gpt, gpt->gradients, 0);
    double layers = (double)gpt->config.layers, pieces = (double)N / (double)rows;
    double block = 24.0 * (double)(N * C * C), head = 2.0 * (double)(rows * C * V);
    double attention = 2.0 * (double)(N * T * C); /* keys up to the query only */
    double share = (double)B / (double)run->o->batch; /* of one update */
    double again = a->keep == KEEP_STREAM ? layers : 0;

    while (profile_again(p, "embedding, both ways", 1, 0)) {
        embedding_forward(a->x, run->inputs, w[WTE], w[WPE], B, T, C);
        embedding_backward(dw[WTE], dw[WPE], a->dx, run->inputs, B, T, C);
    }
    while (profile_again(p, "layer norm forward", 4 * layers + 1 + 2 * again, 0))
        layernorm_forward(a->norm, y.ln1_mean, y.ln1_rstd, y.x, w[LN1_W], w[LN1_B], N, C);
    while (profile_again(p, "layer norm backward", 2 * layers + 1, 0))
        layernorm_backward(a->dx, dw[LN1_W], dw[LN1_B], a->dnorm, y.ln1_mean, y.ln1_rstd, y.x,
                           w[LN1_W], N, C);
    while (profile_again(p, "matrix products of a block forward", layers + again, block)) {
        matmul_forward(y.qkv, a->norm, w[QKV_W], w[QKV_B], N, C, 3 * C);
        matmul_forward(a->branch, y.attention, w[PROJ_W], w[PROJ_B], N, C, C);
        matmul_forward(y.fc, a->norm, w[FC_W], w[FC_B], N, C, F);
        matmul_forward(a->branch, a->gelu, w[OUT_W], w[OUT_B], N, F, C);
    }
    while (profile_again(p, "matrix products of a block backward", layers, 2 * block)) {
        matmul_backward(a->dnorm, dw[QKV_W], dw[QKV_B], a->dwide, a->norm, w[QKV_W], N, C,
                        3 * C);
        matmul_backward(a->dnorm, dw[PROJ_W], dw[PROJ_B], a->dbranch, y.attention, w[PROJ_W],
                        N, C, C);
        matmul_backward(a->dnorm, dw[FC_W], dw[FC_B], a->dwide, a->norm, w[FC_W], N, C, F);
        matmul_backward(a->dwide, dw[OUT_W], dw[OUT_B], a->dbranch, a->gelu, w[OUT_W], N, F, C);
    }
    while (profile_again(p, "attention forward", layers + again, attention))
        attention_forward(y.attention, y.lse, y.qkv, B, T, C, H, inside);
    while (profile_again(p, "attention backward", layers, 2.5 * attention))
        attention_backward(a->dwide, a->dnorm, y.attention, y.lse, y.qkv, B, T, C, H, inside);
    while (profile_again(p, "GELU forward", 2 * layers + again, 0))
        gelu_forward(a->gelu, y.fc, N * F);
    while (profile_again(p, "GELU backward", layers, 0))
        gelu_backward(a->dwide, a->gelu, y.fc, N * F);
    /* forward and backward take equally long: two more forward calls count as one more pair */
    while (profile_again(p, "residual, both ways", 2 * layers + again, 0)) {
        residual_forward(y.middle, y.x, a->branch, N * C);
        residual_backward(a->dx, a->dbranch, a->dx, N * C);
    }
    while (outside.rate > 0 &&
           profile_again(p, "dropout outside attention", 4 * layers + 2 + 2 * again, 0))
        dropout_forward(a->branch, a->branch, N * C, outside);
    while (profile_again(p, "output head forward", pieces, head))
        unembedding_forward(a->logits, a->hidden, w[WTE], rows, C, V);
    while (profile_again(p, "output head backward", pieces, 2 * head))
        unembedding_backward(a->dnorm, dw[WTE], a->logits, a->hidden, w[WTE], rows, C, V);
    while (profile_again(p, "cross-entropy forward", pieces, 0))
        cross_entropy_forward(a->losses, a->head_lse, a->logits, run->targets, rows, V);
    while (profile_again(p, "cross-entropy backward", pieces, 0))
        cross_entropy_backward(a->logits, run->dlosses, a->head_lse, a->logits, run->targets,
                               rows, V);
    while (profile_again(p, "gradient norm, a micro-batch's share", share, 0))
        gradient_norm(gpt->gradients, P);
    while (profile_again(p, "AdamW, a micro-batch's share", share, 0))
        adamw_update(gpt->weights, run->optimizer->m, run->optimizer->v, gpt->gradients, P, 0,
                     0.9f, 0.99f, 1e-8f, 0, 1, 1);
}

/* Prints the table.  The model is not fit for use afterwards. */
void run_profile(Run *run) {
    Profile p = {.count = 0};
    double sum = 0, whole = INFINITY;
    double share = (double)run->o->micro_batch / (double)run->o->batch;
    OptimizerOptions update = {0.9f, 0.99f, 1e-8f, 0, 1};
    for (int i = 0; i < 4; i++) {
        double start = clock_seconds();
        batch_gradient(run, (uint64_t)i);
        optimizer_step(run->gpt, run->optimizer, &update, 0);
        whole = fmin(whole, (clock_seconds() - start) * share);
    }
    profile_kernels(run, &p);
    for (int i = 0; i < p.count; i++) sum += p.rows[i].seconds * p.rows[i].calls;
    printf("%-42s %8s %7s %7s %10s\n", "kernel", "ms", "share", "calls",
           product_precision == BF16 ? "of float32 peak" : "of peak");
    for (int i = 0; i < p.count; i++) {
        const ProfileRow *row = &p.rows[i];
        double seconds = row->seconds * row->calls;
        printf("%-42s %8.2f %6.1f%% %7.4g", row->name, 1e3 * seconds, 100 * seconds / sum,
               row->calls);
        if (row->flops > 0)
            printf(" %9.0f%%", 100 * row->flops / row->seconds / run->peak);
        putchar('\n');
    }
    printf("%-42s %8.2f\n%-42s %8.2f\n", "all of them", 1e3 * sum,
           "a micro-batch of a real step", 1e3 * whole);
}

/* =========================================================================================
 * 12. Command line                                             [glossary: Hyperparameters]
 *
 * Options are filled in this order: DEFAULTS, the preset, the command line; then what the saved
 * run says (--resume), or options_complete.  options_check sees the result.
 * ====================================================================================== */

#ifndef TRAIN_NO_MAIN

static const struct {
    char letter;
    const char *name, *help;
} COMMANDS[] = {
    {'t', "train", "train a model (also when no command is named)"},
    {'g', "generate", "let a model write"},
    {'e', "eval", "loss, perplexity and bits per byte of a model on a part of a text"},
    {'i', "info", "tensors, memory and compute of a model, or of one that could be trained"},
};
enum { COMMAND_ROWS = sizeof COMMANDS / sizeof *COMMANDS };

/* A preset gives other defaults; options on the command line go before it.  nano and baby have
 * the sizes of nanoGPT's two runs on Shakespeare's characters, gpt2 those of GPT-2 small. */
enum { PRESET_NANO, PRESET_BABY, PRESET_GPT2 };
static const char *const PRESET_NAMES[] = {"nano", "baby", "gpt2", NULL};
static const struct Preset {
    size_t layers, heads, channels, context, batch, micro_batch, steps, warmup, eval_every;
    double lr, dropout, beta2;
} PRESETS[] = {
    {4, 4, 128, 64, 12, 12, 2000, 100, 250, 1e-3, 0.0, 0.99},
    {6, 6, 384, 256, 64, 8, 5000, 100, 250, 1e-3, 0.2, 0.99},
    {12, 12, 768, 1024, 32, 4, 5000, 500, 250, 6e-4, 0.0, 0.95},
};

static const Options DEFAULTS = {
    .order = ORDER_EPOCHS, .schedule = SCHEDULE_COSINE, .min_lr = -1, /* lr/10, set later */
    .weight_decay = 0.1, .beta1 = 0.9, .eps = 1e-8, .clip = 1.0,
    .validation = 0.05, .test = 0.05, .eval_batches = 20, .log_every = 50, .sample = 200,
    .out = "out/model", .seed = 1, .split = SPLIT_TEST,
    .prompt = "\n", .tokens = 500, .temperature = 0.8, .top_p = 1.0,
};

enum { COUNT, REAL, CHOICE, TEXT, TEXTS, FLAG }; /* types: size_t, double, int, char * ... */
static const struct OptionRow {
    const char *name, *commands; /* letters of the commands that take it */
    int type;
    size_t place;     /* in Options */
    double low, high; /* inclusive */
    const char *const *choices;
    const char *standard; /* the default as --help shows it; NULL: read it from DEFAULTS */
    const char *help, *term;
} OPTIONS[] = {
#define AT(field) offsetof(Options, field)
    {"preset", "ti", CHOICE, AT(preset), 0, 0, PRESET_NAMES, NULL,
     "defaults for layers, heads, channels, context, batch, steps, lr ...", "Hyperparameters"},
    {"data", "teir", TEXTS, AT(data), 0, 0, NULL, "this project's text",
     "text files, folders of them, or files of tokens; may be given several times",
     "Training corpus"},
    {"rows", "teg", FLAG, AT(rows), 0, 0, NULL, NULL,
     "each line of the text is a sequence of its own", "Training set"},
    {"answer-after", "te", TEXT, AT(answer_after), 0, 0, NULL, "the whole line counts",
     "with --rows: only what follows this character on its line weighs in the loss",
     "Supervised fine-tuning (SFT)"},
    {"validation", "te", REAL, AT(validation), 0, 0.9, NULL, NULL,
     "share of the text kept for validation", "Validation set"},
    {"test", "te", REAL, AT(test), 0, 0.9, NULL, NULL,
     "share of the text kept for the final test", "Test set"},
    {"vocab", "ti", COUNT, AT(vocab), 0, 1 << 20, NULL, "0",
     "0: the bytes that occur; 256: all bytes; more: BPE learned from the text", "Vocabulary"},
    {"tokenizer", "t", TEXT, AT(tokenizer), 0, 0, NULL, NULL,
     "folder with a tokenizer.json, vocab.json or merges.txt, such as GPT-2's", "Tokenization"},
    {"layers", "ti", COUNT, AT(layers), 1, 1000, NULL, "4", "blocks, L", "Transformer"},
    {"heads", "ti", COUNT, AT(heads), 1, 1000, NULL, "4",
     "attention heads, H; a divisor of channels", "Self-attention"},
    {"channels", "ti", COUNT, AT(channels), 1, 65536, NULL, "128", "width of the model, C",
     "Embedding"},
    {"context", "ti", COUNT, AT(context), 1, 1048576, NULL, "64",
     "tokens that the model can look back on, T; with --init at most the model's",
     "Self-attention"},
    {"no-bias", "ti", FLAG, AT(no_bias), 0, 0, NULL, NULL,
     "no biases in linear layers and norms", "Parameters (weights)"},
    {"dropout", "ti", REAL, AT(dropout), 0, 0.99, NULL, "0",
     "share of activations set to 0 while training", "Dropout"},
    {"batch", "ti", COUNT, AT(batch), 1, 1048576, NULL, "12", "sequences in a step, B",
     "Batch and batch size"},
    {"micro-batch", "teir", COUNT, AT(micro_batch), 0, 1048576, NULL, "12",
     "sequences that go through the model together; 0: the batch", "Gradient accumulation"},
    {"recompute", "tir", FLAG, AT(recompute), 0, 0, NULL, NULL,
     "keep less for the backward pass and compute it again: less memory, more time",
     "Activation checkpointing (recomputation)"},
    {"precision", "te", CHOICE, AT(precision), 0, 0, PRECISION_NAMES, NULL,
     "what matrix products multiply; weights and sums are float32 always", "Mixed precision"},
    {"steps", "tir", COUNT, AT(steps), 1, 1e12, NULL, "2000", "updates of the weights",
     "Iteration / step"},
    {"order", "t", CHOICE, AT(order), 0, 0, ORDER_NAMES, NULL,
     "epochs: each window once an epoch, shuffled; windows: at random", "Epoch"},
    {"lr", "tr", REAL, AT(lr), 0, 1e9, NULL, "1e-3", "highest learning rate", "Learning rate"},
    {"min-lr", "tr", REAL, AT(min_lr), 0, 1e9, NULL, "lr/10", "rate at the end of the schedule",
     "Cosine decay"},
    {"schedule", "tr", CHOICE, AT(schedule), 0, 0, SCHEDULE_NAMES, NULL,
     "how the rate moves from lr to min-lr", "Learning rate schedule"},
    {"warmup", "tr", COUNT, AT(warmup), 0, 1e12, NULL, "100",
     "steps over which the rate rises to lr", "Warmup"},
    {"cooldown", "tr", COUNT, AT(cooldown), 0, 1e12, NULL, "steps/5",
     "last steps of the trapezoid, over which it falls", "Learning rate schedule"},
    {"weight-decay", "t", REAL, AT(weight_decay), 0, 1e3, NULL, NULL,
     "pull of matrices and embeddings towards 0", "Weight decay (L2 regularisation)"},
    {"beta1", "t", REAL, AT(beta1), 0, 0.9999999, NULL, NULL, "memory of Adam's mean gradient",
     "AdamW"},
    {"beta2", "t", REAL, AT(beta2), 0, 0.9999999, NULL, "0.99", "memory of Adam's mean square",
     "AdamW"},
    {"eps", "t", REAL, AT(eps), 1e-30, 1, NULL, NULL, "keeps Adam's division finite", "AdamW"},
    {"clip", "t", REAL, AT(clip), 0, 1e9, NULL, NULL, "limit of the gradient's norm; 0: none",
     "Gradient clipping"},
    {"eval-every", "tr", COUNT, AT(eval_every), 1, 1e12, NULL, "250",
     "steps from one evaluation to the next; each saves", "Validation set"},
    {"eval-batches", "ter", COUNT, AT(eval_batches), 0, 1e9, NULL, "20; eval: 0",
     "batches in an evaluation; 0: the whole split", "Validation set"},
    {"patience", "tr", COUNT, AT(patience), 0, 1e9, NULL, "0",
     "stop after so many evaluations without a better one; 0: never", "Early stopping"},
    {"save-every", "tr", COUNT, AT(save_every), 0, 1e12, NULL, NULL,
     "steps from one save to the next; 0: at evaluations, which always save", "Checkpoint"},
    {"keep", "tr", COUNT, AT(keep), 0, 1e6, NULL, NULL,
     "saves to keep as OUT/step-N, each of which can be resumed", "Checkpoint"},
    {"log-every", "tr", COUNT, AT(log_every), 1, 1e9, NULL, NULL,
     "steps from one progress line to the next (not on a terminal)", "Loss function"},
    {"sample", "tr", COUNT, AT(sample), 0, 1e6, NULL, NULL,
     "tokens to write at each evaluation; 0: none", "Inference"},
    {"out", "t", TEXT, AT(out), 0, 0, NULL, NULL, "folder for the model and log.csv",
     "Checkpoint"},
    {"overwrite", "t", FLAG, AT(overwrite), 0, 0, NULL, NULL,
     "replace a model that --out already holds", "Checkpoint"},
    {"init", "t", TEXT, AT(init), 0, 0, NULL, "random weights",
     "start from the weights and the tokenizer of this folder", "Fine-tuning"},
    {"resume", "t", TEXT, AT(resume), 0, 0, NULL, NULL,
     "go on with the run saved in this folder as if it had never stopped", "Checkpoint"},
    {"model", "gei", TEXT, AT(model), 0, 0, NULL, NULL, "folder of a trained model",
     "Checkpoint"},
    {"split", "e", CHOICE, AT(split), 0, 0, SPLIT_NAMES, NULL, "what to evaluate on",
     "Test set"},
    {"prompt", "g", TEXT, AT(prompt), 0, 0, NULL, "a line feed", "text to go on from",
     "Inference"},
    {"tokens", "g", COUNT, AT(tokens), 1, 1e9, NULL, NULL, "tokens to write", "Inference"},
    {"temperature", "g", REAL, AT(temperature), 0, 100, NULL, NULL,
     "below 1: safer, above 1: wilder; 0: always the likeliest", "Inference"},
    {"top-k", "g", COUNT, AT(top_k), 0, 1e9, NULL, "0",
     "draw from the k likeliest tokens; 0: from all", "Inference"},
    {"top-p", "g", REAL, AT(top_p), 1e-9, 1, NULL, NULL,
     "draw from the likeliest tokens that together have this probability", "Inference"},
    {"profile", "t", FLAG, AT(profile), 0, 0, NULL, NULL,
     "do not train: time each kernel at these sizes", "Compute budget (FLOPs)"},
    {"seed", "tgei", COUNT, AT(seed), 0, 9e15, NULL, NULL,
     "of everything that is drawn at random", "Hyperparameters"},
    {"threads", "tgeir", COUNT, AT(threads), 1, 1024, NULL, "one per core",
     "threads; the results do not depend on them", "Compute budget (FLOPs)"},
#undef AT
};
enum { OPTION_ROWS = sizeof OPTIONS / sizeof *OPTIONS };

/* The text that would set the option as it is (lent), or NULL if it is not set.  `nth` counts
 * the values of one that can be given several times. */
static const char *option_text(const Options *o, const struct OptionRow *row, size_t nth) {
    const void *field = (const char *)o + row->place;
    switch (row->type) {
    case TEXTS: return o->data[nth];
    case TEXT: return *(const char *const *)field;
    case CHOICE: return row->choices[*(const int *)field];
    case FLAG: return *(const bool *)field ? "yes" : NULL;
    case COUNT: return text_lend("%zu", *(const size_t *)field);
    }
    double value = *(const double *)field;
    const char *shortest = text_lend("%.15g", value); /* 17 digits name any double */
    return strtod(shortest, NULL) == value ? shortest : text_lend("%.17g", value);
}

static void help_print(void) {
    printf("Trains a GPT on text, and lets it write.\n\n"
           "usage: ./train [COMMAND] [--OPTION VALUE]...\n\n");
    for (size_t i = 0; i < COMMAND_ROWS; i++)
        printf("  %-10s %s\n", COMMANDS[i].name, COMMANDS[i].help);
    printf("\nIn brackets: the default; the commands that take it, by their first letter (r: "
           "may change\nwith --resume); the term in doc/glossary.md.\n\n");
    for (size_t i = 0; i < OPTION_ROWS; i++) {
        const struct OptionRow *row = &OPTIONS[i];
        const char *standard = row->standard ? row->standard : option_text(&DEFAULTS, row, 0);
        printf("  --%-13s %s\n%17s[%s; %s; %s]\n", row->name, row->help, "",
               standard ? standard : "none", row->commands, row->term);
        for (int c = 0; row->choices && row->choices[c]; c++)
            printf("%s%s%s", c ? ", " : "                 one of: ", row->choices[c],
                   row->choices[c + 1] ? "" : "\n");
        if (row->type == COUNT || row->type == REAL)
            printf("%17sfrom %.15g to %.15g\n", "", row->low, row->high);
    }
    printf("\npresets (layers, heads, channels, context): nano 4, 4, 128, 64; "
           "baby 6, 6, 384, 256;\ngpt2 12, 12, 768, 1024\n");
}

/* Puts the text of one option into its field, or refuses it; `source` says where it stood, if
 * not on the command line. */
static void option_set(Options *o, const struct OptionRow *row, const char *text,
                       const char *source) {
    void *field = (char *)o + row->place;
    size_t n = 0;
    switch (row->type) {
    case TEXT: *(const char **)field = text; return;
    case FLAG: *(bool *)field = true; return;
    case TEXTS:
        while (o->data[n]) n++;
        if (n + 1 >= sizeof o->data / sizeof *o->data)
            die_usage("%s--%s: given too often; name a folder instead", source, row->name);
        o->data[n] = text;
        return;
    case CHOICE:
        while (row->choices[n] && strcmp(text, row->choices[n])) n++;
        if (!row->choices[n])
            die_usage("%s--%s: '%s' is none of its values; see ./train --help", source,
                      row->name, text);
        *(int *)field = (int)n;
        return;
    }
    char *end;
    bool whole = row->type == COUNT;
    if (!*text || strspn(text, whole ? "0123456789" : "+-.0123456789eE") != strlen(text))
        die_usage("%s--%s: '%s' is not a %s number", source, row->name, text,
                  whole ? "whole" : "decimal");
    double value = strtod(text, &end);
    if (*end) die_usage("%s--%s: '%s' is not a decimal number", source, row->name, text);
    if (!(value >= row->low && value <= row->high))
        die_usage("%s--%s: %s is out of range: it must be from %.15g to %.15g", source,
                  row->name, text, row->low, row->high);
    if (whole) *(size_t *)field = (size_t)strtoull(text, NULL, 10);
    else *(double *)field = value;
}

/* --- Settings in the state of a run ---------------------------------------------------------
 * Every option of `train` is saved as the text that would set it, but for those that say what
 * to do and not how to train. */
static bool option_saved(const struct OptionRow *row) {
    static const char others[] = " out overwrite init resume profile threads ";
    return strchr(row->commands, 't') && !strstr(others, text_lend(" %s ", row->name));
}

/* The key of an option in the state's metadata. */
static const char *option_key(const struct OptionRow *row, size_t nth) {
    return row->type == TEXTS ? text_lend("--%s %zu", row->name, nth)
                              : text_lend("--%s", row->name);
}

/* All settings as members of a JSON object, each behind a comma.  The caller frees them. */
static char *options_settings(const Options *o) {
    char *all;
    size_t size;
    FILE *stream = open_memstream(&all, &size);
    if (!stream) die("no memory for the settings");
    for (size_t i = 0; i < OPTION_ROWS; i++) {
        const struct OptionRow *row = &OPTIONS[i];
        for (size_t nth = 0; option_saved(row) && (nth == 0 || row->type == TEXTS); nth++) {
            const char *text = option_text(o, row, nth);
            if (!text) break;
            char *quoted = json_quote(text);
            fprintf(stream, ", \"%s\": %s", option_key(row, nth), quoted);
            free(quoted);
        }
    }
    if (fclose(stream) != 0) die("no memory for the settings");
    return all;
}

/* Takes from the state what the command line leaves open, and refuses what it would change
 * though it must stay.  The texts live as long as the program. */
static void options_recall(Options *o, const bool given[OPTION_ROWS],
                           const SafeTensors *state) {
    static char texts[OPTION_ROWS + 64][4200];
    char *source = text_format("%s: ", state->path), *text = texts[0];
    for (size_t i = 0; i < OPTION_ROWS; i++) {
        const struct OptionRow *row = &OPTIONS[i];
        bool may_change = strchr(row->commands, 'r') != NULL;
        for (size_t nth = 0; option_saved(row) && (nth == 0 || row->type == TEXTS); nth++) {
            bool known =
                safetensors_text(state, option_key(row, nth), text, sizeof texts[0]);
            const char *mine = given[i] ? option_text(o, row, nth) : NULL;
            const char *saved = known ? text : option_text(&DEFAULTS, row, nth);
            if (given[i] && !may_change && !(saved && mine && !strcmp(saved, mine)))
                die_usage("--%s %s: the run in %s has %s, and cannot change it", row->name,
                          mine ? mine : "", o->resume, saved ? saved : "none");
            if (given[i] || !known) break;
            option_set(o, row, text, source);
            text += sizeof texts[0];
        }
    }
    free(source);
}

static void preset_apply(Options *o) {
    const struct Preset *p = &PRESETS[o->preset];
    o->layers = p->layers, o->heads = p->heads, o->channels = p->channels;
    o->context = p->context, o->batch = p->batch, o->micro_batch = p->micro_batch;
    o->steps = p->steps, o->warmup = p->warmup, o->eval_every = p->eval_every;
    o->lr = p->lr, o->dropout = p->dropout, o->beta2 = p->beta2;
}

/* The row of OPTIONS with the name of `length` bytes; OPTION_ROWS: none. */
static size_t option_find(const char *name, size_t length) {
    size_t r = 0;
    while (r < OPTION_ROWS &&
           (strncmp(OPTIONS[r].name, name, length) || OPTIONS[r].name[length]))
        r++;
    return r;
}

static bool option_given(const bool given[OPTION_ROWS], const char *name) {
    return given[option_find(name, strlen(name))];
}

/* Reads the command line into `o`, marks in `given` the options that were there, and returns
 * the letter of the command. */
static char options_read(Options *o, bool given[OPTION_ROWS], int argc, char **argv) {
    bool named = argc > 1 && argv[1][0] != '-';
    const char *name = named ? argv[1] : "train";
    size_t command = 0;
    while (command < COMMAND_ROWS && strcmp(name, COMMANDS[command].name)) command++;
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return 'h';
    if (command == COMMAND_ROWS)
        die_usage("'%s' is not a command: train, generate, eval or info; see ./train --help",
                  name);
    for (int pass = 0; pass < 2; pass++) { /* the preset first, wherever it stands */
        for (int i = named ? 2 : 1; i < argc; i++) {
            const char *value = strchr(argv[i], '=');
            size_t length = value ? (size_t)(value - argv[i]) : strlen(argv[i]);
            size_t r = OPTION_ROWS;
            if (!strncmp(argv[i], "--", 2)) r = option_find(argv[i] + 2, length - 2);
            if (r == OPTION_ROWS)
                die_usage("'%s' is not an option; see ./train --help", argv[i]);
            const struct OptionRow *row = &OPTIONS[r];
            if (!strchr(row->commands, COMMANDS[command].letter))
                die_usage("--%s has no meaning for '%s'", row->name, name);
            given[r] = true;
            if (row->type == FLAG) {
                if (value) die_usage("--%s takes no value", row->name);
                option_set(o, row, "", "");
                continue;
            }
            value = value ? value + 1 : i + 1 < argc ? argv[++i] : NULL;
            if (!value || !*value) die_usage("--%s needs a value", row->name);
            if (value == argv[i] && !strncmp(value, "--", 2))
                die_usage("--%s needs a value; %s looks like an option", row->name, value);
            if ((pass == 0) == (row->place == offsetof(Options, preset)))
                option_set(o, row, value, "");
        }
        if (pass == 0) preset_apply(o);
    }
    return COMMANDS[command].letter;
}

/* Defaults that depend on other options. */
static void options_complete(Options *o, const bool given[OPTION_ROWS], char command) {
    if (command == 'e' && !option_given(given, "eval-batches")) o->eval_batches = 0;
    if (!option_given(given, "micro-batch") && o->micro_batch > o->batch)
        o->micro_batch = o->batch;
    if (o->min_lr < 0) o->min_lr = o->lr / 10;
    if (o->init && !option_given(given, "context")) o->context = 0; /* the model's own */
    if (!option_given(given, "warmup") && o->warmup > o->steps / 10) o->warmup = o->steps / 10;
    if (!option_given(given, "cooldown"))
        o->cooldown = o->steps / 5 < o->steps - o->warmup ? o->steps / 5 : o->steps - o->warmup;
}

/* Refuses combinations that cannot be meant. */
static void options_check(const Options *o, const bool given[OPTION_ROWS], char command) {
    const char *shape[] = {"layers", "heads", "channels", "context", "vocab", "no-bias"};
    const char *folder = o->init ? o->init : o->model;
    if (o->resume && (o->init || o->profile || o->overwrite))
        die_usage("--resume excludes --init, --overwrite and --profile");
    for (size_t i = 0; folder && i < sizeof shape / sizeof *shape; i++)
        if (option_given(given, shape[i]) && !(o->init && !strcmp(shape[i], "context")))
            die_usage("--%s cannot be chosen: the model in %s has its own", shape[i], folder);
    if (strchr("ge", command) && !o->model)
        die_usage("no model is named; say --model out/model/best");
    if (strchr("ti", command) && o->micro_batch > o->batch)
        die_usage("--micro-batch %zu is larger than --batch %zu", o->micro_batch, o->batch);
    if (o->min_lr > o->lr) die_usage("--min-lr %g is larger than --lr %g", o->min_lr, o->lr);
    if (o->warmup >= o->steps)
        die_usage("--warmup %zu leaves nothing of --steps %zu", o->warmup, o->steps);
    if (o->schedule != SCHEDULE_TRAPEZOID && option_given(given, "cooldown"))
        die_usage("--cooldown belongs to --schedule trapezoid");
    if (o->schedule == SCHEDULE_TRAPEZOID && o->warmup + o->cooldown > o->steps)
        die_usage("--warmup %zu and --cooldown %zu do not fit into --steps %zu", o->warmup,
                  o->cooldown, o->steps);
    if (o->answer_after && !o->rows) die_usage("--answer-after belongs to --rows");
    if (o->answer_after && (strlen(o->answer_after) != 1 || *o->answer_after == '\n'))
        die_usage("--answer-after '%s': it must be one character of one byte", o->answer_after);
    if (o->rows && command == 'g' && strchr(o->prompt + (*o->prompt == '\n'), '\n'))
        die_usage("--prompt: with --rows it must be the beginning of one line");
    if (o->validation + o->test > 0.9)
        die_usage("--validation %g and --test %g leave too little to train on", o->validation,
                  o->test);
    if (o->vocab > 0 && o->vocab < 256)
        die_usage("--vocab %zu: it must be 0, or 256 or more", o->vocab);
    if (o->tokenizer && (o->init || option_given(given, "vocab")))
        die_usage("--tokenizer excludes --vocab and --init: each brings a vocabulary");
    Config config = {.layers = o->layers, .heads = o->heads, .channels = o->channels,
                     .context = o->context + !o->context, .vocab = 1,
                     .dropout = (float)o->dropout};
    const char *problem = config_problem(&config);
    if (problem) die_usage("%s", problem);
}

/* The text that the options name, or else this project's own; .data is NULL if they name files
 * of tokens. */
static Bytes data_read(const Options *o) {
    Bytes text = {NULL, 0};
    const char *own[] = {"README.md", "doc", "train.c", "tokenizer.c"};
    bool tokens = o->data[0] && tokens_recognise(o->data[0]);
    for (size_t i = 0; o->data[i]; i++)
        if (tokens_recognise(o->data[i]) != tokens)
            die("%s and %s: one is a text, the other a file of tokens; only one kind can be "
                "read",
                o->data[0], o->data[i]);
    if (tokens) return text;
    for (size_t i = 0; o->data[i]; i++) text_collect(&text, o->data[i], true);
    for (size_t i = 0; !o->data[0] && i < sizeof own / sizeof *own; i++)
        if (access(own[i], F_OK) == 0) text_collect(&text, own[i], true);
    if (!text.size)
        die("%s: there is no text in it",
            o->data[0] ? o->data[0] : "this folder (name a text: --data FILE)");
    return text;
}

/* Text to tokens, in parts; rows are at most T tokens long. */
static void run_corpus(Run *run, const Bytes *text, size_t T) {
    const char *name = run->o->data[0] ? run->o->data[0] : "this project's text";
    if (run->o->rows && !text->data) die("%s: --rows needs a text, not tokens", name);
    run->corpus.bytes = text->size;
    if (run->o->rows)
        run->corpus = corpus_rows(run->tokenizer, text, name, run->o->answer_after, T);
    else if (text->data)
        run->corpus.count =
            tokenizer_encode(run->tokenizer, text->data, text->size, name, &run->corpus.tokens);
    else tokens_collect(&run->corpus, run->o->data, run->tokenizer->vocab);
    for (size_t i = 0, bytes; !text->data && i < run->corpus.count; i++) {
        tokenizer_token(run->tokenizer, run->corpus.tokens[i], &bytes);
        run->corpus.bytes += bytes;
    }
    fprintf(stderr, "%-12s %zu bytes, %zu tokens, vocabulary %zu\n", "text",
            run->corpus.bytes, run->corpus.count, run->tokenizer->vocab);
    corpus_split(&run->corpus, run->o->validation, run->o->test, run->splits);
    for (int i = 0; i < SPLITS; i++) {
        const Split *s = &run->splits[i];
        fprintf(stderr, "%-12s %zu tokens", s->name, s->count);
        if (s->rows) fprintf(stderr, " in %zu rows", s->row_count);
        fputc('\n', stderr);
    }
}

/* Every part that training uses must hold at least one window. */
static void parts_check(const Run *run, size_t T) {
    const char *name = run->o->data[0] ? run->o->data[0] : "this project's text";
    for (int i = 0; i < SPLITS; i++) {
        const Split *s = &run->splits[i];
        bool used = i == SPLIT_TRAIN ||
                    (i == SPLIT_VALIDATION && (s->count > 0 || run->o->validation > 0));
        if (!used || split_sequences(s, T)) continue;
        if (s->rows) die("%s: its %s part has no row: take a longer text", name, s->name);
        die("%s: its %s part has %zu tokens, but one window of context %zu needs %zu: "
            "take a longer text or a smaller --context",
            name, s->name, s->count, T, T + 1);
    }
}

static void run_destroy(Run *run) {
    free(run->settings);
    if (run->log && fclose(run->log) != 0)
        die("%s/log.csv: cannot write: %s", run->o->out, strerror(errno));
    if (run->samples && fclose(run->samples) != 0)
        die("%s/samples.txt: cannot write: %s", run->o->out, strerror(errno));
    tokenizer_destroy(run->tokenizer);
    gpt_destroy(run->gpt);
    activations_destroy(run->activations);
    optimizer_destroy(run->optimizer);
    cache_destroy(run->cache);
    free(run->corpus.tokens);
    free(run->corpus.rows);
    free(run->inputs);
    free(run->targets);
    free(run->dlosses);
    free(run->best_folder);
}

/* The tokenizer that the options ask for: that of a model to start from, one that exists, or a
 * new one, learned from the share of the bytes that is trained on.  (The parts are cut
 * later, by tokens, so the two borders differ a little.) */
static Tokenizer *run_tokenizer(const Options *o, const Bytes *text) {
    if (o->resume || o->init) return tokenizer_load(o->resume ? o->resume : o->init);
    if (o->tokenizer) return tokenizer_load(o->tokenizer);
    if (!text->data)
        die("%s: holds ids of tokens: say with --tokenizer FOLDER what they stand for",
            o->data[0]);
    if (o->vocab == 0) return tokenizer_create(text->data, text->size);
    size_t learned_from = (size_t)((double)text->size * (1.0 - o->validation - o->test));
    return o->vocab == 256 ? tokenizer_create(NULL, 0)
                           : tokenizer_learn(text->data, learned_from, o->vocab, false);
}

/* The shape that the options ask for. */
static Config run_config(const Options *o, size_t vocab) {
    const char *folder = o->resume ? o->resume : o->init;
    if (folder) {
        bool tied; /* model_read looks at that */
        Config config = config_read(text_lend("%s/config.json", folder), &tied);
        if (vocab > config.vocab)
            die("%s: its tokenizer has more tokens than its model", folder);
        if (o->init && o->context > config.context)
            die("%s: the model has a context of %zu: --context %zu is more than that", o->init,
                config.context, o->context);
        if (o->init && o->context) config.context = o->context;
        config.dropout = (float)o->dropout;
        return config;
    }
    return (Config){o->layers, o->heads,    o->channels,      o->context,
                    vocab,     !o->no_bias, (float)o->dropout};
}

/* Memory of a run: all of it is allocated here, but for what run_restore has read.  A fresh
 * model starts from random weights, with --init from trained ones.   [glossary: Fine-tuning] */
static void run_allocate(Run *run, const Config *config) {
    const Options *o = run->o;
    size_t B = o->micro_batch, T = config->context;
    if (!run->gpt) {
        run->gpt = o->init ? model_read(o->init, true) : gpt_create(config, true);
        if (o->init) gpt_shorten(run->gpt, config->context);
        else gpt_initialize(run->gpt, o->seed);
        run->optimizer = optimizer_create(run->gpt->parameter_count);
    }
    run->gpt->config.dropout = config->dropout;
    run->activations =
        activations_create(config, B, T, o->recompute ? KEEP_STREAM : KEEP_ALL, 0);
    if (o->sample) run->cache = cache_create(config);
    run->inputs = memory_allocate(B * T, sizeof *run->inputs);
    run->targets = memory_allocate(B * T, sizeof *run->targets);
    run->dlosses = memory_allocate(B * T, sizeof *run->dlosses);
}

/* Is there a run in this folder, or a model? */
static bool run_exists(const char *folder) {
    return access(text_lend("%s/model.safetensors", folder), F_OK) == 0 ||
           access(text_lend("%s/state.safetensors", folder), F_OK) == 0;
}

/* Opens log.csv and samples.txt: new ones, or those of the run that is resumed, log.csv without
 * the rows that it wrote after its last save. */
static void run_log(Run *run) {
    static const char header[] = "step,epoch,tokens,loss,val_loss,val_bits_per_byte,lr,norm,"
                                 "tokens_per_second,seconds,val_accuracy,train_accuracy\n";
    const Options *o = run->o;
    const char *path = text_lend("%s/log.csv", o->out), *samples;
    const char *old_path = text_lend("%s/log.csv", o->resume ? o->resume : "");
    bool there = o->resume && access(old_path, F_OK) == 0;
    Bytes old = there ? file_read(old_path) : (Bytes){NULL, 0};
    const char *rows = "", *end = rows, *feed;
    if (there && !strncmp((char *)old.data, header, sizeof header - 1)) {
        rows = end = (char *)old.data + sizeof header - 1;
        while ((feed = strchr(end, '\n')) && strtoull(end, NULL, 10) <= run->optimizer->step)
            end = feed + 1;
    }
    FileWriter file = file_create(path);
    file_write(&file, header, sizeof header - 1);
    file_write(&file, rows, (size_t)(end - rows));
    file_commit(&file);
    free(old.data);
    run->log = fopen(path, "a");
    if (!run->log) die("%s: cannot open: %s", path, strerror(errno));
    samples = text_lend("%s/samples.txt", o->out);
    run->samples = fopen(samples, o->resume && !strcmp(o->out, o->resume) ? "a" : "w");
    if (!run->samples) die("%s: cannot open: %s", samples, strerror(errno));
}

/* Which text and which vocabulary a run is trained on, in two numbers. */
static void run_fingerprints(const Run *run, Progress *p) {
    p->corpus = fingerprint(0, run->corpus.tokens, run->corpus.count * sizeof(uint32_t));
    p->tokenizer = 0;
    for (uint32_t id = 0; id < run->tokenizer->vocab; id++) {
        size_t length;
        const unsigned char *token = tokenizer_token(run->tokenizer, id, &length);
        p->tokenizer = fingerprint(p->tokenizer, token, length);
    }
}

/* Puts a run where its state was saved: model, moments, step, best loss. */
static void run_restore(Run *run, const SafeTensors *state) {
    const Options *o = run->o;
    Progress saved = state_progress(state), now = saved;
    run_fingerprints(run, &now);
    if (now.tokenizer != saved.tokenizer)
        die("%s: its vocabulary is not the one that the run was trained with", o->resume);
    if (now.corpus != saved.corpus)
        die("%s: was trained on another text than %s", o->resume,
            o->data[0] ? o->data[0] : "this project's, as it is now");
    run->gpt = model_read(o->resume, true);
    run->optimizer = optimizer_create(run->gpt->parameter_count);
    state_read(state, run->gpt, run->optimizer);
    run->progress = saved;
    fprintf(stderr, "resumed after step %" PRIu64 "\n", run->optimizer->step);
}

static void command_train(const Options *o, const SafeTensors *state) {
    Run run = {.o = o, .progress.best_loss = INFINITY, .shown_accuracy = NAN,
               .terminal = isatty(STDERR_FILENO)};
    bool elsewhere = !state || strcmp(o->out, o->resume);
    run.replaces = elsewhere && run_exists(o->out);
    if (run.replaces && !o->overwrite && !o->profile)
        die("%s: already holds a model; choose another --out, or say --overwrite", o->out);
    Bytes text = data_read(o);
    run.tokenizer = run_tokenizer(o, &text);
    Config config = run_config(o, run.tokenizer->vocab);
    size_t T = config.context;
    run_corpus(&run, &text, T);
    parts_check(&run, T);
    free(text.data);
    run.source =
        (BatchSource){&run.splits[SPLIT_TRAIN], o->batch, T, o->order, o->seed, 0, 1};
    tensors_print(stderr, &config);
    budget_print(stderr, &config, o->micro_batch, o->recompute ? KEEP_STREAM : KEEP_ALL,
                 (double)o->steps * batch_tokens(&run.source),
                 (double)run.splits[SPLIT_TRAIN].count);
    if (state) run_restore(&run, state);
    run_allocate(&run, &config);
    run.schedule = (Schedule){o->schedule, (float)o->lr, (float)o->min_lr,
                              o->warmup,   o->steps,     o->cooldown};
    run.peak = peak_flops();
    fprintf(stderr, "%d threads, %.0f GFLOP/s at best%s\n\n", thread_count(), run.peak / 1e9,
            o->precision == FLOAT32 ? ""
            : BF16_IN_HARDWARE      ? ", with floats; products in bf16"
                                    : "; products in bf16, which this program must imitate");
    if (o->profile) {
        run_profile(&run);
        run_destroy(&run);
        return;
    }
    Options all = *o; /* with the shape that --init brought */
    all.layers = config.layers, all.heads = config.heads, all.channels = config.channels;
    all.context = T, all.no_bias = !config.bias;
    run.settings = options_settings(&all);
    run_fingerprints(&run, &run.progress);
    run.best_folder = text_format("%s/best", o->out);
    folder_create(o->out);
    run_log(&run);
    run_train(&run);
    run_destroy(&run);
}

/* Reads a model and its tokenizer, which must belong together. */
static void run_open(Run *run) {
    run->gpt = model_read(run->o->model, false);
    run->tokenizer = tokenizer_load(run->o->model);
    if (run->tokenizer->vocab > run->gpt->config.vocab)
        die("%s: its tokenizer has more tokens than its model", run->o->model);
}

static void command_generate(const Options *o) {
    Run run = {.o = o};
    run_open(&run);
    run.cache = cache_create(&run.gpt->config);
    Ids ids = {0};
    Sampling sampling = {o->temperature, o->top_k, o->top_p, false};
    const unsigned char *text = (const unsigned char *)o->prompt;
    size_t bytes = strlen(o->prompt), feed = o->rows && *text == '\n';
    text_check(run.tokenizer, text, bytes, "--prompt", 0);
    if (o->rows) {
        text_check(run.tokenizer, ROW_END, 1, "--rows: the line feed", 0);
        text_encode(run.tokenizer, ROW_END, 1, &ids);
    }
    text_encode(run.tokenizer, text + feed, bytes - feed, &ids);
    if (o->rows)
        rows_generate(run.gpt, run.cache, run.tokenizer, ids.data, ids.count, o->tokens,
                      &sampling, o->seed, stdout);
    else {
        fputs(o->prompt, stdout);
        text_generate(run.gpt, run.cache, run.tokenizer, ids.data, ids.count, o->tokens,
                      &sampling, o->seed, stdout);
        putchar('\n');
    }
    free(ids.data);
    run_destroy(&run);
}

static void command_eval(const Options *o) {
    Run run = {.o = o};
    Bytes text = data_read(o);
    run_open(&run);
    size_t T = run.gpt->config.context;
    run_corpus(&run, &text, T);
    free(text.data);
    const Split *split = &run.splits[o->split];
    if (!split_sequences(split, T))
        die("the %s part has %zu tokens: too few for one window of %zu", split->name,
            split->count, T);
    run.activations = activations_create(&run.gpt->config, o->micro_batch, T, KEEP_NOTHING, 0);
    Evaluation e = split_evaluate(run.gpt, run.activations, run.tokenizer, split,
                                  o->eval_batches * o->batch);
    printf("%s: loss %.4f, perplexity %.4g, %.4f bits per byte, over %zu tokens", split->name,
           e.loss, exp(e.loss), e.bits_per_byte, e.tokens);
    if (o->rows) printf("; %.2f%% of %zu rows right", 100 * e.accuracy, e.sequences);
    putchar('\n');
    run_destroy(&run);
}

static void command_info(const Options *o) {
    Config config;
    if (o->model) {
        GPT *gpt = model_read(o->model, false); /* so that a damaged file is noticed */
        config = gpt->config;
        gpt_destroy(gpt);
    } else {
        size_t vocab = o->vocab ? o->vocab : o->preset == PRESET_GPT2 ? 50257 : 256;
        if (o->data[0] && !o->vocab) {
            Bytes text = data_read(o);
            if (!text.data)
                die("%s: holds ids of tokens: say with --vocab how many there are", o->data[0]);
            Tokenizer *tokenizer = tokenizer_create(text.data, text.size);
            vocab = tokenizer->vocab;
            tokenizer_destroy(tokenizer);
            free(text.data);
        }
        config = run_config(o, vocab);
    }
    tensors_print(stdout, &config);
    budget_print(stdout, &config, o->micro_batch, o->recompute ? KEEP_STREAM : KEEP_ALL,
                 (double)o->steps * (double)o->batch * (double)config.context, 0);
    printf("loss of an untrained model: ln V = ln %zu = %.4f\n", config.vocab,
           log((double)config.vocab));
    printf("Adam's moments of 70 billion parameters: 2 x 70e9 x 4 bytes = %s\n",
           bytes_text(2 * 70e9 * 4)); /* [glossary: Optimizer state] */
}

/* A full disk behind stdout shows here at the latest. */
static void output_check(void) {
    if (fflush(stdout) != 0 || ferror(stdout))
        die("cannot write the output: %s", strerror(errno));
}

/* After each kernel the threads wait for the slowest.  gcc's OpenMP lets them spin meanwhile,
 * for longer than the system lets a thread run: if any other program takes one of the cores,
 * all others spin for nothing until it gives it back, hundreds of times in a step.  60 steps of
 * the smallest preset beside one busy program took 79 s, and 2.3 s when threads went to sleep
 * after a short spin.  The library reads the setting once, before main, so the program starts
 * itself again with it. */
static void threads_patience(char **argv) {
#ifdef _OPENMP
    if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY")) return; /* the user's, or ours */
    if (setenv("GOMP_SPINCOUNT", "1000", 0) == 0) execv("/proc/self/exe", argv);
#endif
    (void)argv; /* where there is no /proc, it goes on with long spins */
}

static void threads_set(size_t threads) { /* 0: as many as there are cores */
#ifdef _OPENMP
    if (threads) omp_set_num_threads((int)threads);
#else
    if (threads > 1) die_usage("--threads: this program was built without OpenMP");
#endif
}

int main(int argc, char **argv) {
    program_name = "train";
    threads_patience(argv);
    Options options = DEFAULTS;
    bool given[OPTION_ROWS] = {false};
    char command = options_read(&options, given, argc, argv);
    SafeTensors *state = NULL;
    if (command != 'h') {
        if (options.resume) {
            state = state_open(options.resume);
            options_recall(&options, given, state);
            if (!option_given(given, "out")) options.out = options.resume;
        } else options_complete(&options, given, command);
        if (!options.micro_batch) options.micro_batch = options.batch;
        options_check(&options, given, command);
    }
    threads_set(options.threads);
    product_precision = options.precision;
    switch (command) {
    case 'h': help_print(); break;
    case 't': command_train(&options, state); break;
    case 'g': command_generate(&options); break;
    case 'e': command_eval(&options); break;
    case 'i': command_info(&options); break;
    }
    if (state) safetensors_close(state);
    output_check();
    return interrupted ? 128 + interrupted : 0; /* as a shell reports a program that obeyed */
}
#endif /* TRAIN_NO_MAIN */

/* train.c - GPT training, whole: from raw text to a trained model that generates text.
 *
 * What it does.  A text is a sequence of tokens: bytes, or pieces of words.  The model reads
 * some of them and gives a probability to each token that could come next; the loss says how
 * badly it was surprised by the one that did.  Calculus says how the loss would change with
 * each weight, and each weight takes a small step downhill.  That is all; the rest is
 * arithmetic, and all of it is here: no library but libc and libm.
 *
 *     cc -std=gnu11 -O3 -march=native -fno-math-errno -fopenmp train.c -o train -lm
 *     ./train --data book.txt --out out/book
 *     ./train generate --model out/book/best
 *
 * How to read it.  From top to bottom; nothing is used before it is defined (but for one
 * prototype, which says so).  Sections 1, 4, 6, 7, 8 and 11 are all of training; the others are
 * what a program needs around it, and section 5 is what makes it fast.  In a hurry: this page,
 * then one kernel of section 4 with its block of mathematics, then gpt_block_forward in section
 * 7, then batch_gradient and run_train in section 11.  A tag such as [glossary: Gradient
 * accumulation] marks where a term of doc/glossary.md comes alive.  Built with -DPLAIN, the
 * program runs on the plain definitions of its kernels, where a printf shows every number.
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
 *   gradients = 0                                                     gradients_clear      (6)
 *   for each micro-batch of the batch                                 batch_gradient       (11)
 *       inputs, targets = windows of the text, shifted by one         batch_read           (3)
 *       x = wte[inputs] + wpe                                         gpt_embed            (7)
 *       for each layer l                                              gpt_block_forward    (7)
 *           x = x + projection(attention(norm(x)))                    kernels            (4, 5)
 *           x = x + MLP(norm(x))
 *       losses = cross_entropy(norm(x) wte^T, targets)                gpt_head_forward     (7)
 *       dlosses = 1 / targets of the whole batch                      batch_gradient       (11)
 *       the same list backward: gradients += d loss / d weights       gpt_backward         (7)
 *   norm = |gradients|, scaled down to at most `clip`                 gradient_norm        (8)
 *   weights = weights - lr (AdamW's step)                             adamw_update         (8)
 *
 * Rules that hold everywhere.
 *   - Gradients of weights accumulate (+=) until gradients_clear; so several micro-batches add
 *     up to one batch.  For activations, each kernel says "sets" or "adds".
 *   - The same seed and the same program give the same losses to the last bit on any number of
 *     threads: threads divide outputs, and sums that cross threads have a fixed order.  Another
 *     compiler, processor or set of flags makes another program, whose rounding differs.
 *   - Numbers are float.  Double precision is used for the sums of the mean loss, of the
 *     gradient's norm, of a layer norm's mean and variance, and of the gradients of biases and
 *     norms.  All other sums, those of matrix products, embeddings and softmax, are float.
 *   - What a user can cause ends in one line on stderr; what only a mistake in this file can
 *     cause is an assert.
 */
#define TOKENIZER_NO_MAIN
#include "tokenizer.c" /* first: it says on which systems this cannot run */
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
 * replaced whole or not at all, JSON.  Here are the clock, random numbers, and threads.
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

/* A little-endian number of 1 to 8 bytes. */
static uint64_t bytes_number(const unsigned char *at, size_t bytes) {
    uint64_t number = 0;
    while (bytes--) number = number << 8 | at[bytes];
    return number;
}

/* A whole file, mapped and not read: only pages that are looked at come into memory.  It has no
 * NUL at its end, and an empty file has no data.  Ends the program if it cannot be mapped.  The
 * caller calls file_unmap. */
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

/* The position to which a shuffle of 0..N-1 moves i, computed without a table of all N.  A
 * Feistel network of four rounds permutes the smallest square 2^bits x 2^bits that holds N
 * numbers; a result of N or above is permuted again until it falls below (Black and Rogaway
 * 2002, "Ciphers with arbitrary finite domains", section 3). */
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
 * Text becomes one long sequence of token ids (tokenizer_encode of tokenizer.c).  It is cut by
 * position into three parts that do not overlap: what the model learns from, what says when
 * to stop, and what is looked at once.  A batch is a number of windows into one part; the
 * targets are the inputs shifted by one.  Where every line of the text is a sequence of its
 * own (names, sums), a line takes the place of a window.
 * ====================================================================================== */

enum { SPLIT_TRAIN, SPLIT_VALIDATION, SPLIT_TEST, SPLITS };
static const char *const SPLIT_NAMES[] = {"train", "validation", "test", NULL};

/* A line as a sequence of its own.  Its inputs begin with the line feed before it, its targets
 * end with the line feed at its end: a line feed is both the token to start from and the one
 * to stop at.  Both numbers are positions in the corpus. */
typedef struct {
    size_t start;  /* the line feed before it; row[1].start is the one at its end */
    size_t answer; /* the first token that counts in the loss: after the prompt, if any */
} Row;

typedef struct {
    uint32_t *tokens;
    size_t count; /* tokens */
    size_t bytes; /* of the text that they stand for */
    Row *rows;    /* (row_count + 1), the last one for its start only; NULL: running text */
    size_t row_count;
} Corpus;

typedef struct { /* one part of a corpus */
    const uint32_t *tokens; /* its first one; with rows, the first one of the corpus */
    size_t count;
    const char *name;
    const Row *rows; /* (row_count + 1) or NULL */
    size_t row_count;
} Split;

/* Cuts the corpus into three: the share `test` at its end, before that the share `validation`,
 * the rest for training.  Rows are cut to the nearest whole number.  1 - 0.05 - 0.05 is a
 * little less than 0.9 in binary: the 1e-6 keeps whole numbers whole. */
void corpus_split(const Corpus *corpus, double validation, double test, Split splits[SPLITS]) {
    const Row *rows = corpus->rows;
    size_t all = rows ? corpus->row_count : corpus->count;
    double n = (double)all, train = n * (1.0 - validation - test);
    size_t train_end = (size_t)(train + (rows ? 0.5 : 1e-6));
    size_t test_start = rows ? (size_t)(n * (1.0 - test) + 0.5)
                             : train_end + (size_t)(n * validation + 1e-6);
    size_t starts[SPLITS + 1] = {0, train_end, test > 0 ? test_start : all, all};
    for (int i = 0; i < SPLITS; i++) {
        size_t start = starts[i], end = starts[i + 1];
        splits[i] = (Split){corpus->tokens + start, end - start, SPLIT_NAMES[i], NULL, 0};
        if (rows)
            splits[i] = (Split){corpus->tokens, rows[end].start - rows[start].start,
                                SPLIT_NAMES[i], rows + start, end - start};
    }
}

/* How many windows of T tokens a split holds side by side, or how many rows. */
size_t split_sequences(const Split *split, size_t T) {
    if (split->rows) return split->row_count;
    return split->count > T ? (split->count - 1) / T : 0;
}

/* The window that begins at position `at`: inputs (T), targets (T).  The target of each input
 * is the token that follows it; the text is its own label.
 *                          [glossary: Next-token prediction, Self-supervised learning] */
static void window_read(const Split *split, size_t at, size_t T, int32_t *inputs,
                        int32_t *targets) {
    for (size_t t = 0; t < T; t++) {
        inputs[t] = (int32_t)split->tokens[at + t];
        targets[t] = (int32_t)split->tokens[at + t + 1];
    }
}

/* A window, or the row of number `at`.  The target -1 does not count in the loss: that of a
 * prompt, and that of the padding after the row's end, which no earlier token can look at. */
void sequence_read(const Split *split, size_t at, size_t T, int32_t *inputs, int32_t *targets) {
    if (!split->rows) {
        window_read(split, at, T, inputs, targets);
        return;
    }
    const Row *row = split->rows + at;
    size_t length = row[1].start - row->start;
    const uint32_t *tokens = split->tokens + row->start;
    for (size_t t = 0; t < T; t++) {
        bool counts = t < length && row->start + t + 1 >= row->answer;
        inputs[t] = (int32_t)tokens[t < length ? t : 0];
        targets[t] = counts ? (int32_t)tokens[t + 1] : -1;
    }
}

enum { ORDER_EPOCHS, ORDER_WINDOWS };
static const char *const ORDER_NAMES[] = {"epochs", "windows", NULL};

/* Where batches come from.  `world` processes may share each batch: the process number `rank`
 * reads its share, and all together read what one process would. */
typedef struct {
    const Split *split;
    size_t batch; /* sequences in a step, over all ranks */
    size_t T;     /* tokens in a sequence */
    int order;
    uint64_t seed;
    size_t rank, world;
} BatchSource;

/* Where sequence i of this step's batch begins; with rows, the number of its row.
 *                                                                           [glossary: Epoch]
 * ORDER_EPOCHS: the split is cut into windows of T tokens, and an epoch visits each of them
 * once, in an order of its own.  Fewer than T tokens are left over; the cut is shifted at
 * random by at most that many, so that over several epochs none is always left out.
 * ORDER_WINDOWS: a window begins at any position, drawn at random, as in nanoGPT. */
static size_t window_start(const BatchSource *source, uint64_t step, size_t i) {
    const Split *split = source->split;
    size_t T = source->T;
    uint64_t number = step * source->batch + i; /* of the sequence, since the run began */
    if (source->order == ORDER_WINDOWS) {
        size_t starts = split->rows ? split->row_count : split->count - T;
        uint64_t key = random_bits(source->seed, RANDOM_WINDOWS);
        return (size_t)(random_bits(key, number) % starts);
    }
    uint64_t windows = split_sequences(split, T), epoch = number / windows;
    uint64_t key = random_bits(random_bits(source->seed, RANDOM_ORDER), epoch);
    size_t window = (size_t)random_permutation(key, number % windows, windows);
    if (split->rows) return window;
    uint64_t left = split->count - 1 - windows * T; /* the last token is only a target */
    return window * T + (size_t)(random_bits(key, ~(uint64_t)0) % (left + 1));
}

/* Sequences of each batch that this rank reads; they begin with number rank * share. */
size_t batch_share(const BatchSource *source) {
    assert(source->batch % source->world == 0 && source->rank < source->world);
    return source->batch / source->world;
}

/* Reads `count` sequences of this rank's share of the batch, beginning with number `first` of
 * that share: inputs (count,T), targets (count,T). */
void batch_read(const BatchSource *source, uint64_t step, size_t first, size_t count,
                int32_t *inputs, int32_t *targets) {
    size_t T = source->T, mine = source->rank * batch_share(source);
    for (size_t b = 0; b < count; b++) {
        size_t at = window_start(source, step, mine + first + b);
        sequence_read(source->split, at, T, inputs + b * T, targets + b * T);
    }
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

/* Tokens that a step reads, without padding; of rows, the mean. */
double batch_tokens(const BatchSource *source) {
    const Split *s = source->split;
    double length = s->rows ? (double)s->count / (double)s->row_count : (double)source->T;
    return (double)source->batch * length;
}

/* Epochs that `steps` steps amount to.  The last token of a running text is only a target. */
double batch_epochs(const BatchSource *source, uint64_t steps) {
    size_t tokens = source->split->count - !source->split->rows;
    return (double)steps * batch_tokens(source) / (double)tokens;
}

/* --- Files ---------------------------------------------------------------------------------
 * A text is read whole.  A long one can be encoded once and kept as the ids of its tokens, in a
 * file named *.bin: nothing but ids, as nanoGPT and `./tokenizer encode --raw` write them, of 2
 * bytes if the vocabulary has at most 65,536 tokens, otherwise 4, the lowest byte first. */

/* Appends a text file, on a line of its own: two words must not touch where files meet. */
void text_append(Bytes *text, const char *path) {
    Bytes file = file_read(path);
    const unsigned char *nul = memchr(file.data, 0, file.size);
    if (nul) die("%s: byte %td is NUL: this is not a text", path, nul - file.data);
    bool gap = file.size && text->size && text->data[text->size - 1] != '\n';
    text->data = memory_resize(text->data, text->size + gap + file.size + 1, 1);
    if (gap) text->data[text->size++] = '\n';
    memcpy(text->data + text->size, file.data, file.size + 1); /* with the NUL at its end */
    text->size += file.size;
    free(file.data);
}

/* A running text.  name: of the text, for messages.  The caller frees tokens. */
Corpus corpus_text(Tokenizer *tokenizer, const Bytes *text, const char *name) {
    Corpus corpus = {.bytes = text->size};
    corpus.count = tokenizer_encode(tokenizer, text->data, text->size, name, &corpus.tokens);
    return corpus;
}

static const unsigned char ROW_END[] = "\n"; /* begins rows, too */

/* A text whose every line is a row, at most T tokens with its line feed.  after: NULL, or the
 * character that ends each line's prompt.  Lines, and prompt and answer, are encoded apart, so
 * that no token of a learned vocabulary reaches across.  The caller frees tokens and rows. */
Corpus corpus_rows(Tokenizer *tokenizer, const Bytes *text, const char *name, const char *after,
                   size_t T) {
    const unsigned char *line = text->data, *end = text->data + text->size, *next;
    Ids ids = {0};
    Row *rows = NULL;
    size_t n = 0, capacity = 0;
    text_check(tokenizer, text->data, text->size, name, 0);
    text_check(tokenizer, ROW_END, 1, "--rows: the line feed", 0);
    text_encode(tokenizer, ROW_END, 1, &ids);
    for (;; line = next + 1) {
        rows = array_grow(rows, &capacity, n, sizeof *rows);
        rows[n].start = ids.count - 1;
        if (line >= end) return (Corpus){ids.data, ids.count, text->size, rows, n};
        next = memchr(line, '\n', (size_t)(end - line));
        if (!next) next = end; /* the last line may lack its line feed */
        const unsigned char *mark = after ? memchr(line, *after, (size_t)(next - line)) : NULL;
        if (after && !mark)
            die("%s: line %zu has no '%s' (--answer-after)", name, n + 1, after);
        const unsigned char *answer = mark ? mark + 1 : line;
        text_encode(tokenizer, line, (size_t)(answer - line), &ids);
        rows[n].answer = ids.count;
        text_encode(tokenizer, answer, (size_t)(next - answer), &ids);
        text_encode(tokenizer, ROW_END, 1, &ids);
        size_t length = ids.count - 1 - rows[n++].start;
        if (length > T)
            die("%s: line %zu and its line feed are %zu tokens, more than the context of %zu",
                name, n, length, T);
    }
}

bool tokens_named(const char *path) { /* is this the name of a file of tokens? */
    size_t length = strlen(path);
    return length >= 4 && !strcmp(path + length - 4, ".bin");
}

/* Appends a file of ids, each of which must be one of the vocabulary's.  A header, such as
 * llm.c's, would be read as ids; its first number is beyond GPT-2's vocabulary. */
void tokens_append(Corpus *corpus, const char *path, size_t vocab) {
    Bytes file = file_map(path);
    size_t width = vocab <= 65536 ? 2 : 4, count = file.size / width;
    if (file.size % width)
        die("%s: %zu bytes of ids: not a multiple of %zu", path, file.size, width);
    uint32_t *all = memory_resize(corpus->tokens, corpus->count + count, sizeof *all);
    for (size_t i = 0; i < count; i++) {
        uint64_t id = bytes_number(file.data + i * width, width);
        if (id >= vocab)
            die("%s: token %zu is %" PRIu64 ": the vocabulary has %zu tokens (a header? "
                "dev/data/convert.py makes plain ids)", path, i, id, vocab);
        all[corpus->count++] = (uint32_t)id;
    }
    corpus->tokens = all;
    file_unmap(file);
}

/* =========================================================================================
 * 4. Kernels
 *
 * In the order in which a token meets them: embedding, layer norm, matrix product, dropout
 * (which attention uses), attention, GELU, residual, and at the end the output head with its
 * loss.  Each forward is next to its backward, under one block that holds the mathematics of
 * both; doc/derivations.md derives every backward step by step, with numbers.
 *
 * What every kernel keeps to:
 *   - Arguments: outputs, values saved for the backward pass, inputs, weights, sizes.  A
 *     backward takes its forward's arguments with outputs replaced by their gradients.
 *   - Arrays are row-major: element [b][t][c] of (B,T,C) is x[(b*T + t)*C + c].
 *   - No kernel allocates, prints, or keeps anything between calls.  What is no argument is in
 *     section 5: product_precision (--precision) and the buffers of packed numbers and scores.
 *   - Threads divide the *outputs*: an output element is computed by one thread, in an order
 *     that does not depend on how many there are.  So neither does any result, to the last bit.
 *     [glossary: Forward pass, Backpropagation (backward pass)]
 *   - Where a kernel has a plain and a fast version, the plain one is the definition.  With
 *     cc -DPLAIN (make PLAIN=1) the program runs on the definitions: to print from, to try
 *     things.
 * ====================================================================================== */

#ifdef PLAIN
enum { PLAIN_KERNELS = true };
#else
enum { PLAIN_KERNELS = false };
#endif

static size_t least(size_t a, size_t b) { return a < b ? a : b; }
static size_t divide_up(size_t a, size_t b) { return (a + b - 1) / b; }

/* A sum of floats taken one after another cannot be vectorized: the compiler may not change
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

/* sum over i of (x_i - center)^power, for power 1 or 2, in double precision */
static inline double sum_powers(const float *x, float center, int power, size_t N) {
    double lane[LANES] = {0}, sum = 0;
    size_t i = 0;
    for (; i + LANES <= N; i += LANES)
        for (int j = 0; j < LANES; j++) {
            double distance = x[i + j] - center;
            lane[j] += power == 2 ? distance * distance : distance;
        }
    for (int j = 0; i < N; i++, j++) {
        double distance = x[i] - center;
        lane[j] += power == 2 ? distance * distance : distance;
    }
    for (int j = 0; j < LANES; j++) sum += lane[j];
    return sum;
}

/* The largest x_i; N at least 1. */
static inline float maximum_of(const float *x, size_t N) {
    float lane[LANES], maximum = x[0];
    size_t i = 0;
    for (int j = 0; j < LANES; j++) lane[j] = maximum;
    for (; i + LANES <= N; i += LANES)
        for (int j = 0; j < LANES; j++) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
    for (int j = 0; i < N; i++, j++) lane[j] = x[i] > lane[j] ? x[i] : lane[j];
    for (int j = 0; j < LANES; j++) maximum = lane[j] > maximum ? lane[j] : maximum;
    return maximum;
}

/* y_i += factor x_i */
static inline void scaled_add(float *y, float factor, const float *x, size_t N) {
    for (size_t i = 0; i < N; i++) y[i] += factor * x[i];
}

/* The loops that generation runs stay on one thread over fewer elements than this: waking the
 * others costs more. */
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

/* Sets y_i = exp(x_i - shift), and returns the sum of them.  y may be x. */
static inline float exponentials(float *y, const float *x, float shift, size_t N) {
    float lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= N; i += LANES)
        for (int j = 0; j < LANES; j++) lane[j] += y[i + j] = exponential(x[i + j] - shift);
    for (int j = 0; i < N; i++, j++) lane[j] += y[i] = exponential(x[i] - shift);
    return lanes_total(lane);
}

/* How many channels a thread takes at a time where threads divide the channels: whole cache
 * lines, and few where there are few, so that all threads have some. */
enum { SLICE = 64 };
static size_t slice_width(size_t C) { return least(SLICE, divide_up(C, 128) * 16); }

/* sums (O) += the sum over n of y[n], y (N,O); in double precision */
static void column_sums_add(float *sums, const float *y, size_t N, size_t O) {
    const size_t slice = slice_width(O);
    #pragma omp parallel for
    for (size_t o0 = 0; o0 < O; o0 += slice) {
        size_t count = least(slice, O - o0);
        double sum[SLICE] = {0};
        for (size_t n = 0; n < N; n++)
            for (size_t o = 0; o < count; o++) sum[o] += y[n * O + o0 + o];
        for (size_t o = 0; o < count; o++) sums[o0 + o] += (float)sum[o];
    }
}

/* A view of a matrix: element (i, j) is at[i*row + j*column].  Its transpose is the same view
 * with the two strides exchanged, so that no kernel needs a second version for transposed
 * inputs. */
typedef struct {
    const float *at;
    size_t row, column;
} Matrix;

/* Section 5: result (M,N), rows `stride` floats apart, set to A (M,K) times B (K,N) plus bias
 * (N, or NULL), or, with `add`, increased by A times B; of numbers rounded to bf16 where
 * --precision says so. */
void matrix_product(float *result, size_t stride, Matrix A, Matrix B, const float *bias,
                    size_t M, size_t N, size_t K, bool add);

/* --- Embedding --------------------------------------- [glossary: Embedding] ---------------
 * A token is a number with no meaning; its row of wte is what the model knows of it, and the
 * row of wpe what it knows of the position.
 *   x[b,t] = wte[token[b,t]] + wpe[t]                    x (B,T,C), wte (V,C), wpe (context,C)
 * Backward: x is a sum, so its gradient goes unchanged to both rows; a row that was used at
 * several positions gets the sum over all of them.
 *   dwte[token[b,t]] += dx[b,t]      dwpe[t] += sum over b of dx[b,t]
 * Cost: 3 B T C floats moved, no arithmetic to speak of.
 * Pitfall: two positions with the same token add to the same row.  Threads that divided the
 * positions would race, so they divide the channels. */
void embedding_forward(float *x, const int32_t *tokens, const float *wte, const float *wpe,
                       size_t B, size_t T, size_t C) {
    #pragma omp parallel for if (B * T * C > PARALLEL_ELEMENTS)
    for (size_t bt = 0; bt < B * T; bt++) {
        const float *token = wte + (size_t)tokens[bt] * C, *position = wpe + bt % T * C;
        for (size_t c = 0; c < C; c++) x[bt * C + c] = token[c] + position[c];
    }
}

void embedding_backward(float *dwte /* or NULL */, float *dwpe /* or NULL */, const float *dx,
                        const int32_t *tokens, size_t B, size_t T, size_t C) {
    const size_t slice = slice_width(C);
    #pragma omp parallel for
    for (size_t c0 = 0; c0 < C; c0 += slice) {
        size_t n = least(slice, C - c0);
        for (size_t bt = 0; bt < B * T; bt++) {
            const float *dx_bt = dx + bt * C + c0;
            if (dwte) scaled_add(dwte + (size_t)tokens[bt] * C + c0, 1.0f, dx_bt, n);
            if (dwpe) scaled_add(dwpe + bt % T * C + c0, 1.0f, dx_bt, n);
        }
    }
}

/* --- Layer norm -------------------------------------- [glossary: Layer normalization] -----
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
        float m = (float)(sum_powers(x_n, 0, 1, C) / (double)C);
        double variance = sum_powers(x_n, m, 2, C) / (double)C;
        float r = (float)(1.0 / sqrt(variance + LAYERNORM_EPS));
        for (size_t c = 0; c < C; c++) y_n[c] = (x_n[c] - m) * r * weight[c];
        if (bias)
            for (size_t c = 0; c < C; c++) y_n[c] += bias[c];
        mean[n] = m;
        rstd[n] = r;
    }
}

void layernorm_backward(float *dx /* adds */, float *dweight /* or NULL */,
                        float *dbias /* or NULL */, const float *dy, const float *mean,
                        const float *rstd, const float *x, const float *weight, size_t N,
                        size_t C) {
    #pragma omp parallel for
    for (size_t n = 0; n < N; n++) {
        const float *x_n = x + n * C, *dy_n = dy + n * C;
        float *dx_n = dx + n * C, m = mean[n], r = rstd[n];
        float g_mean = dot_product(dy_n, weight, C) / (float)C;
        float gz_mean = 0, gz[256];
        for (size_t c0 = 0; c0 < C; c0 += 256) {
            size_t count = least(256, C - c0);
            for (size_t i = 0; i < count; i++) gz[i] = weight[c0 + i] * ((x_n[c0 + i] - m) * r);
            gz_mean += dot_product(dy_n + c0, gz, count) / (float)C;
        }
        for (size_t c = 0; c < C; c++) {
            float z = (x_n[c] - m) * r;
            dx_n[c] += r * (dy_n[c] * weight[c] - g_mean - z * gz_mean);
        }
    }
    if (dbias) column_sums_add(dbias, dy, N, C);
    if (!dweight) return;
    const size_t slice = slice_width(C);
    #pragma omp parallel for
    for (size_t c0 = 0; c0 < C; c0 += slice) { /* sums over rows: threads divide the channels */
        size_t count = least(slice, C - c0);
        double dw[SLICE] = {0};
        for (size_t n = 0; n < N; n++) {
            const float *x_n = x + n * C + c0, *dy_n = dy + n * C + c0;
            for (size_t c = 0; c < count; c++)
                dw[c] += dy_n[c] * ((x_n[c] - mean[n]) * rstd[n]);
        }
        for (size_t c = 0; c < count; c++) dweight[c0 + c] += (float)dw[c];
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
 * The shapes are a check: (N,O)(O,C) is (N,C), and (C,N)(N,O) is (C,O).  All three are one
 * routine, matrix_product; strides say which matrix it reads transposed.
 * Cost: 2 N C O FLOPs forward, twice that backward: a step costs 6 FLOPs per weight and token.
 * Pitfall: Hugging Face stores GPT-2's weights (in, out), its Linear layers (out, in). */
void matmul_forward(float *y, const float *x, const float *weight, const float *bias, size_t N,
                    size_t C, size_t O) {
    matrix_product(y, O, (Matrix){x, C, 1}, (Matrix){weight, O, 1}, bias, N, O, C, false);
}

/* dx, dweight and dbias may each be NULL: what is not wanted is not computed. */
void matmul_backward(float *dx /* sets */, float *dweight, float *dbias, const float *dy,
                     const float *x, const float *weight, size_t N, size_t C, size_t O) {
    if (dx)
        matrix_product(dx, C, (Matrix){dy, O, 1}, (Matrix){weight, 1, O}, NULL, N, C, O, false);
    if (dweight)
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
    uint64_t key;   /* of the seed, the step and the layer */
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

/* --- Self-attention ---------------------------------- [glossary: Self-attention] -----------
 * Here, and nowhere else, tokens look at each other.  Every position t asks with its query q,
 * every position s answers with its key k, and what t receives is the mean of the values v
 * weighted by how well they match (Vaswani et al. 2017, arXiv:1706.03762, eq. 1).  In a model
 * that predicts the next token it is causal: only positions s <= t answer.  Without `causal`,
 * all T positions do, and the sums below run over all s.  For one head, D = C/H:
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
 * and y is divided by the sum at the end.  It keeps one number for each row,
 *   lse[t] = log(sum over s of exp(S[t,s])),  from which the backward pass has P = exp(S - lse)
 * again at the cost of a dot product (Dao et al. 2022, arXiv:2205.14135, section 3).
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
 * The functions here are the definition; the model calls attention_forward, attention_backward
 * and attention_cached of section 5, which do the same for a block of queries at a time. */

/* One head of one sequence, as the plain and the fast version see it. */
typedef struct {
    Matrix q, k, v; /* q (T,D); k and v (length,D), the memory of a sequence's keys */
    size_t T, C, D, length, cached; /* cached: keys of earlier tokens, in a KV cache */
    bool causal;
    Dropout dropout; /* its element 0 is P[0,0]; rows of P are T long */
} Head;

/* Head 0 of sequence 0, and from it head h of sequence b. */
static Head head_first(const float *qkv, size_t T, size_t C, size_t H, bool causal,
                       Dropout dropout) {
    Matrix q = {qkv, 3 * C, 1}, k = {qkv + C, 3 * C, 1}, v = {qkv + 2 * C, 3 * C, 1};
    return (Head){q, k, v, T, C, C / H, T, 0, causal, dropout};
}

static Head head_at(Head head, size_t b, size_t h) {
    head.q.at += b * head.T * head.q.row + h * head.D;
    head.k.at += b * head.length * head.k.row + h * head.D;
    head.v.at += b * head.length * head.v.row + h * head.D;
    head.dropout.first += (b * (head.C / head.D) + h) * head.T * head.T;
    return head;
}

/* How many keys query t sees. */
static size_t keys_seen(const Head *head, size_t t) {
    return head->causal ? head->cached + t + 1 : head->T;
}

/* Sets y (T,D), its rows C apart, and lse (T), for queries t0 .. t0+count-1. */
static void queries_forward_plain(float *y, float *lse, const Head *head, size_t t0,
                                  size_t count) {
    const size_t D = head->D;
    const float scale = 1.0f / sqrtf((float)D);
    for (size_t t = t0; t < t0 + count; t++) {
        const float *q = head->q.at + t * head->q.row;
        float *y_t = y + t * head->C, maximum = -INFINITY, sum = 0;
        for (size_t d = 0; d < D; d++) y_t[d] = 0;
        for (size_t s = 0; s < keys_seen(head, t); s++) {
            const float *k = head->k.at + s * head->k.row, *v = head->v.at + s * head->v.row;
            float score = scale * dot_product(q, k, D);
            float highest = score > maximum ? score : maximum;
            float shrink = expf(maximum - highest), p = expf(score - highest);
            float f = dropout_factor(head->dropout, t * head->T + s);
            for (size_t d = 0; d < D; d++) y_t[d] = y_t[d] * shrink + f * p * v[d];
            sum = sum * shrink + p;
            maximum = highest;
        }
        for (size_t d = 0; d < D; d++) y_t[d] /= sum;
        lse[t] = maximum + logf(sum);
    }
}

/* Adds to dq, dk and dv (T,D), their rows 3C apart; dy and y (T,D) as in the forward pass. */
static void head_backward_plain(float *dq, float *dk, float *dv, const float *dy,
                                const float *y, const float *lse, const Head *head) {
    const size_t C = head->C, D = head->D, row = 3 * C;
    const float scale = 1.0f / sqrtf((float)D);
    for (size_t t = 0; t < head->T; t++) {
        const float *q = head->q.at + t * row, *dy_t = dy + t * C;
        float sum_p_dp = dot_product(dy_t, y + t * C, D);
        for (size_t s = 0; s < keys_seen(head, t); s++) {
            const float *k = head->k.at + s * row, *v = head->v.at + s * row;
            float p = expf(scale * dot_product(q, k, D) - lse[t]);
            float f = dropout_factor(head->dropout, t * head->T + s);
            float dp = f * dot_product(dy_t, v, D);
            float ds = p * (dp - sum_p_dp) * scale;
            scaled_add(dv + s * row, f * p, dy_t, D);
            scaled_add(dk + s * row, ds, q, D);
            scaled_add(dq + t * row, ds, k, D);
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
 * stream.  The gradient of a sum goes to both terms unchanged: however many blocks there are,
 * it also reaches the embedding along a path on which nothing multiplies it. */
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

void unembedding_backward(float *dx /* sets */, float *dwte /* or NULL */, const float *dlogits,
                          const float *x, const float *wte, size_t N, size_t C, size_t V) {
    matrix_product(dx, C, (Matrix){dlogits, V, 1}, (Matrix){wte, C, 1}, NULL, N, C, V, false);
    if (!dwte) return;
    matrix_product(dwte, C, (Matrix){dlogits, 1, V}, (Matrix){x, C, 1}, NULL, V, C, N, true);
}

/* --- Softmax cross-entropy -------------------------- [glossary: Loss function, Cross-entropy]
 * The loss at a position is minus the logarithm of the probability that the model gave to the
 * token that really came next:
 *   p[v] = exp(logit[v]) / sum over w of exp(logit[w])
 *   loss = -log p[target] = lse - logit[target],      lse = log(sum over w of exp(logit[w]))
 * Backward, for a weight dloss on this position: d lse / d logit[v] = p[v], so
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
        float maximum = maximum_of(logit, V);
        float sum = 0, scratch[256];
        for (size_t v = 0; v < V; v += 256)
            sum += exponentials(scratch, logit + v, maximum, least(256, V - v));
        float log_sum = logf(sum);
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
        float sum = exponentials(dlogit, logits + n * V, lse[n], V); /* 1 but for rounding */
        for (size_t v = 0; v < V; v++) dlogit[v] *= dloss / sum;
        if (targets[n] >= 0) dlogit[targets[n]] -= dloss;
    }
}

/* =========================================================================================
 * 5. The matrix product made fast
 *
 * matrix_product_plain is the definition; a reader in a hurry may stop after it.  All the rest
 * computes the same up to rounding, and tests/test_kernels.c holds the two side by side.
 * ====================================================================================== */

/* result[m,n] = bias[n] + sum over k of A[m,k] B[k,n] or, with `add`, += that sum; section 4
 * has the shapes.  The result may not overlap A or B. */
void matrix_product_plain(float *result, size_t stride, Matrix A, Matrix B, const float *bias,
                          size_t M, size_t N, size_t K, bool add) {
    #pragma omp parallel for if (M * N * K > PARALLEL_ELEMENTS)
    for (size_t m = 0; m < M; m++)
        for (size_t n = 0; n < N; n++) {
            float sum = add ? result[m * stride + n] : bias ? bias[n] : 0;
            for (size_t k = 0; k < K; k++)
                sum += A.at[m * A.row + k * A.column] * B.at[k * B.row + n * B.column];
            result[m * stride + n] = sum;
        }
}

/* Why the plain loops are slow, and what is done about it (doc/matmul.md gets there one idea at
 * a time, each measured).  A core does 2 units x 8 (or 16) floats x 2 FLOPs = 32 (or 64) in
 * a clock cycle, but only if every number that it loads is used many times while it is close.
 *
 * 1. A tile of the result stays in registers.  For each k, TILE_ROWS numbers of A, each one
 *    copied to all elements of a vector, meet TILE_VECTORS vectors of a row of B.  With
 *    AVX-512, 14 rows and 2 vectors:
 *
 *                          B[k, n..]     [ v0 ][ v1 ]          <- 2 loads
 *          A[m,   k]  ->   [ a a a a ]   [ c00 ][ c01 ]
 *          A[m+1, k]  ->   [ a a a a ]   [ c10 ][ c11 ]        28 multiply-adds for 16 loads,
 *            ...                           ...                 on sums that never leave
 *          A[m+13,k]  ->   [ a a a a ]   [c13,0][c13,1]        the registers
 *
 * 2. Both operands are packed first, in the order in which the tile reads them: A in strips of
 *    TILE_ROWS rows, B in "panels" of TILE_COLUMNS columns, each k after k.  So lines do not
 *    compete for one set of the cache, the tile walks through few pages, and what is transposed
 *    is transposed here, once, not at every use.
 *
 *          B (K,N)    +--------+--------+---        a panel in memory:
 *            DEPTH    | panel0 | panel1 |             k=0: n n n ... n
 *                     +--------+--------+---          k=1: n n n ... n     TILE_COLUMNS wide,
 *                     |  the next DEPTH             ...                    zeros past column N
 *
 * 3. Each operand is in the cache that its use asks for.  K is cut into pieces of at most
 *    DEPTH, so that a strip of A (up to 21 KB) stays in the first-level cache while a group of
 *    panels passes by; the group (up to 393 KB) stays in the second-level cache while all
 *    strips of A pass by; up to BLOCK_ROWS rows of A (3 MB) are in the last-level cache.
 * 4. Threads share the packing of A, wait for each other, then take tasks: a group of panels,
 *    which a thread packs for itself, times a part of the rows.
 *
 * An element of the result is summed over k in one fixed order, whatever M, N, the number of
 * threads or the position in the tile: so a row is the same alone and among others. */
#if defined(__AVX512F__)
enum { WIDTH = 16, TILE_ROWS = 14, TILE_VECTORS = 2 }; /* 28 sums + 3 of 32 registers */
#elif defined(__AVX__)
enum { WIDTH = 8, TILE_ROWS = 6, TILE_VECTORS = 2 }; /* 12 + 3 of 16 */
#elif defined(__aarch64__)
enum { WIDTH = 4, TILE_ROWS = 8, TILE_VECTORS = 3 }; /* 24 + 4 of 32 */
#else
enum { WIDTH = 4, TILE_ROWS = 4, TILE_VECTORS = 3 }; /* 12 + 4 of 16 */
#endif
enum {
    TILE_COLUMNS = TILE_VECTORS * WIDTH,
    DEPTH = 384, /* a constant, not the cache of this machine: it fixes the order of sums */
    GROUP_COLUMNS = 8 * TILE_COLUMNS,
    BLOCK_ROWS = 2048 / TILE_ROWS * TILE_ROWS,
    PACK_ROWS = 8 * TILE_ROWS, /* rows of A that a thread packs at a time */
    TASKS = 4,              /* for each thread, so that all end at about the same time */
    PARALLEL_FLOPS = 200000 /* below this, waking other threads costs more than they save */
};

/* K is cut into as few pieces of at most DEPTH as there can be, all of one size: 400 into two
 * of 200, not into 384 and 16, which would cost a whole pass over the result for nothing. */
static size_t piece_depth(size_t K) { return divide_up(K, divide_up(K, DEPTH)); }

/* A vector of WIDTH floats; + and * work element by element, and gcc and clang turn them into
 * one instruction each (vector extensions of both compilers). */
typedef float Vector __attribute__((vector_size(4 * WIDTH)));

static inline Vector vector_load(const float *from) { /* from any address */
    Vector v;
    memcpy(&v, from, sizeof v);
    return v;
}

static inline void vector_store(float *to, Vector v) { memcpy(to, &v, sizeof v); }

/* The loops over a tile must be unrolled in full, or its sums do not stay in registers. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* result (rows,columns) = start + A B, where start is the result itself (add), bias, or 0.  A
 * is a strip: its number for row r and k is a[k*a_stride + r]; B's for column n and k is
 * b[k*b_stride + n].  Always TILE_ROWS x TILE_COLUMNS sums are computed; what is more than
 * `rows` and `columns` is computed from whatever is there, and ignored. */
static void tile_multiply(float *result, size_t stride, const float *a, size_t a_stride,
                          const float *b, size_t b_stride, const float *bias, size_t rows,
                          size_t columns, size_t depth, bool add) {
    Vector sum[TILE_ROWS][TILE_VECTORS];
    UNROLL for (size_t r = 0; r < TILE_ROWS; r++)
        UNROLL for (size_t j = 0; j < TILE_VECTORS; j++) sum[r][j] = (Vector){0};
    for (size_t k = 0; k < depth; k++, a += a_stride, b += b_stride) {
        Vector v[TILE_VECTORS];
        UNROLL for (size_t j = 0; j < TILE_VECTORS; j++) v[j] = vector_load(b + j * WIDTH);
        UNROLL for (size_t r = 0; r < TILE_ROWS; r++)
            UNROLL for (size_t j = 0; j < TILE_VECTORS; j++) sum[r][j] += a[r] * v[j];
    }
    float scratch[TILE_ROWS][TILE_COLUMNS]; /* where a tile sticks out of the result */
    bool whole = rows == TILE_ROWS && columns == TILE_COLUMNS;
    UNROLL for (size_t r = 0; r < TILE_ROWS; r++)
        UNROLL for (size_t j = 0; j < TILE_VECTORS; j++) {
            float *to = whole ? result + r * stride + j * WIDTH : &scratch[r][j * WIDTH];
            Vector start = {0};
            if (whole && add) start = vector_load(to);
            else if (whole && bias) start = vector_load(bias + j * WIDTH);
            vector_store(to, start + sum[r][j]);
        }
    for (size_t r = 0; r < rows && !whole; r++)
        for (size_t n = 0; n < columns; n++) {
            float *to = result + r * stride + n;
            *to = (add ? *to : bias ? bias[n] : 0) + scratch[r][n];
        }
}

/* A strip of A times the panels of `columns` columns. */
static void strip_multiply(float *result, size_t stride, const float *strip,
                           const float *panels, const float *bias, size_t rows, size_t columns,
                           size_t depth, bool add) {
    for (size_t n = 0; n < columns; n += TILE_COLUMNS)
        tile_multiply(result + n, stride, strip, TILE_ROWS, panels + n * depth, TILE_COLUMNS,
                      bias ? bias + n : NULL, rows, least(TILE_COLUMNS, columns - n), depth,
                      add);
}

/* Packs `count` rows of A, or columns of B, in strips `wide` of them each: number k of row i,
 * from[i*step + k*step_k], goes to strip i/wide, there to k*wide + i%wide; a strip is
 * wide*depth floats.  The last strip is filled up with zeros.  `wide` is a constant in every
 * call. */
static inline __attribute__((always_inline)) void
strips_pack(float *to, const float *from, size_t step, size_t step_k, size_t count,
            size_t depth, size_t wide) {
    size_t whole = count - count % wide;
    if (step == 1) /* k after k in memory too: read long runs, as memory likes them */
        for (size_t k = 0; k < depth; k++)
            for (size_t i = 0; i < whole; i += wide)
                memcpy(to + i * depth + k * wide, from + k * step_k + i, wide * sizeof *to);
    else
        for (size_t i = 0; i < whole; i += wide)
            for (size_t k = 0; k < depth; k++)
                for (size_t j = 0; j < wide; j++)
                    to[i * depth + k * wide + j] = from[(i + j) * step + k * step_k];
    for (size_t k = 0; k < depth && whole < count; k++)
        for (size_t j = 0; j < wide; j++)
            to[whole * depth + k * wide + j] =
                whole + j < count ? from[(whole + j) * step + k * step_k] : 0;
}

/* --- Mixed precision ---------------------------------- [glossary: Mixed precision] ----------
 * A bf16 is the upper half of a float: the same range, but 8 significant bits instead of 24.
 * With --precision bf16 both operands of a product are rounded to it while they are packed
 * (Micikevicius et al. 2017, arXiv:1710.03740; Kalamkar et al. 2019, arXiv:1905.12322).  A
 * product of two bf16 is exact in float, and everything else stays float: sums, activations,
 * moments, attention, and the weights ("master weights": AdamW's steps are smaller than the gap
 * between neighboring bf16).  It shows what bf16 does to the loss; speed would need a
 * processor's own instructions for it. */
enum { FLOAT32, BF16 };
static const char *const PRECISION_NAMES[] = {"float32", "bf16", NULL};
static int product_precision = FLOAT32; /* --precision */

/* Rounded to the nearest bf16, halfway cases to the even one.  NaN stays NaN. */
static inline float bf16_round(float x) {
    uint32_t bits;
    float rounded;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000;
    memcpy(&rounded, &bits, sizeof rounded);
    return x != x ? x : rounded;
}

static void precision_apply(float *packed, size_t N) {
    if (product_precision == BF16)
        for (size_t i = 0; i < N; i++) packed[i] = bf16_round(packed[i]);
}

/* --- One row --------------------------------------------------------------------------------
 * When a model generates, A has one row: a number of B is used once, and packing it would cost
 * more than using it.  So B is read in place, four rows at a time, so that the memory has
 * several to deliver.  Only a transposed B is packed, a panel at a time.  Each element is
 * summed in the order of the tiles: a model that generates computes the very bits that it was
 * trained with. */
enum { SHARE_COLUMNS = 512 };

/* sum[n] += a_0 B[0,n] + a_1 B[1,n] + ..., rows of B b_stride apart */
static void row_multiply(float *sum, const float *a, size_t a_step, const float *b,
                         size_t b_stride, size_t columns, size_t depth) {
    size_t k = 0;
    for (; k + 4 <= depth; k += 4, a += 4 * a_step, b += 4 * b_stride)
        for (size_t n = 0; n < columns; n++) {
            float s = sum[n];
            UNROLL for (size_t r = 0; r < 4; r++) s += a[r * a_step] * b[r * b_stride + n];
            sum[n] = s;
        }
    for (; k < depth; k++, a += a_step, b += b_stride) scaled_add(sum, *a, b, columns);
}

static void product_one_row(float *result, const float *a, size_t a_step, Matrix B,
                            const float *bias, size_t N, size_t K, bool add) {
    const size_t piece = piece_depth(K), rounds = N / (2 * SHARE_COLUMNS) + 1;
    /* An even number of equal shares: two threads that read one memory end together. */
    const size_t share = B.column == 1 ? N / (2 * rounds) + 1 : TILE_COLUMNS;
    #pragma omp parallel for if (2.0 * (double)N * (double)K > PARALLEL_FLOPS)
    for (size_t n0 = 0; n0 < N; n0 += share)
        for (size_t k = 0; k < K; k += piece) {
            float sum[SHARE_COLUMNS] = {0}, panel[DEPTH * TILE_COLUMNS], *to = result + n0;
            size_t columns = least(share, N - n0), depth = least(piece, K - k), stride = B.row;
            const float *b = B.at + k * B.row + n0 * B.column;
            if (B.column != 1) {
                strips_pack(panel, b, B.column, B.row, columns, depth, TILE_COLUMNS);
                b = panel;
                stride = TILE_COLUMNS;
            }
            row_multiply(sum, a + k * a_step, a_step, b, stride, columns, depth);
            for (size_t n = 0; n < columns; n++)
                to[n] = (add || k > 0 ? to[n] : bias ? bias[n0 + n] : 0) + sum[n];
        }
}

static _Thread_local float panels[GROUP_COLUMNS * DEPTH] __attribute__((aligned(64)));

/* One product at a time, and not from inside a parallel region: all threads share `packed`. */
void matrix_product(float *result, size_t stride, Matrix A, Matrix B, const float *bias,
                    size_t M, size_t N, size_t K, bool add) {
    static float packed[BLOCK_ROWS * DEPTH] __attribute__((aligned(64)));
    if (PLAIN_KERNELS || M == 0 || N == 0 || K == 0) {
        matrix_product_plain(result, stride, A, B, bias, M, N, K, add);
        return;
    }
    if (M == 1 && product_precision == FLOAT32) {
        product_one_row(result, A.at, A.column, B, bias, N, K, add);
        return;
    }
    /* Groups of panels, all of about one size; where they are few, rows are divided too. */
    const size_t piece = piece_depth(K), panel_count = divide_up(N, TILE_COLUMNS),
                 wide = divide_up(panel_count, divide_up(N, GROUP_COLUMNS)) * TILE_COLUMNS,
                 groups = divide_up(N, wide),
                 parts = divide_up(TASKS * (size_t)thread_count(), groups);
    #pragma omp parallel if (2.0 * (double)M * (double)N * (double)K > PARALLEL_FLOPS)
    for (size_t m0 = 0; m0 < M; m0 += BLOCK_ROWS)
        for (size_t k0 = 0; k0 < K; k0 += piece) {
            size_t rows = least(BLOCK_ROWS, M - m0), depth = least(piece, K - k0);
            size_t strips = divide_up(rows, TILE_ROWS), mine = groups; /* no group is packed */
            #pragma omp for
            for (size_t m = 0; m < rows; m += PACK_ROWS) {
                const float *a = A.at + (m0 + m) * A.row + k0 * A.column;
                size_t count = least(PACK_ROWS, rows - m);
                strips_pack(packed + m * depth, a, A.row, A.column, count, depth, TILE_ROWS);
                precision_apply(packed + m * depth,
                                divide_up(count, TILE_ROWS) * TILE_ROWS * depth);
            }
            #pragma omp for schedule(dynamic)
            for (size_t task = 0; task < groups * parts; task++) {
                size_t group = task / parts, part = task % parts, n0 = group * wide;
                size_t columns = least(wide, N - n0);
                if (mine != group) {
                    strips_pack(panels, B.at + k0 * B.row + n0 * B.column, B.column, B.row,
                                columns, depth, TILE_COLUMNS);
                    precision_apply(panels,
                                    divide_up(columns, TILE_COLUMNS) * TILE_COLUMNS * depth);
                    mine = group;
                }
                for (size_t m = strips * part / parts * TILE_ROWS;
                     m < strips * (part + 1) / parts * TILE_ROWS; m += TILE_ROWS)
                    strip_multiply(result + (m0 + m) * stride + n0, stride, packed + m * depth,
                                   panels, bias ? bias + n0 : NULL, least(TILE_ROWS, rows - m),
                                   columns, depth, add || k0 > 0);
            }
        }
}

/* --- Attention in blocks ---------------------------------------------------------------------
 * The products inside attention are matrix products, and go through the same tiles: a block of
 * queries of a head at a time against all keys that they see.  The scores of the block are kept
 * while they are used, in a buffer that fits the second-level cache, so that a row of them is
 * whole and its softmax a plain one.  With many keys there are fewer queries in a block: memory
 * does not grow with T x T.  Threads divide heads and blocks; backward, where all queries of a
 * head add to its dk and dv, heads only. */
enum { BLOCK = 64, SCORES = 65536 /* floats; so the largest context too */ };
static _Thread_local float scores[2][SCORES] __attribute__((aligned(64)));

static size_t block_rows(size_t keys) {
    assert(keys <= SCORES);
    return least(BLOCK, SCORES / keys);
}

/* The rows of A from row i on; the transpose of A. */
static Matrix matrix_from(Matrix A, size_t i) {
    return (Matrix){A.at + i * A.row, A.row, A.column};
}
static Matrix matrix_transposed(Matrix A) { return (Matrix){A.at, A.column, A.row}; }

/* result (M,N) = A B, or += with `add`, on this thread alone.  Sums are over pieces of DEPTH
 * from the first k on, so that an element does not depend on how many zeros follow. */
static void product_serial(float *result, size_t stride, Matrix A, Matrix B, size_t M, size_t N,
                           size_t K, bool add) {
    float strip[TILE_ROWS * DEPTH];
    for (size_t k = 0; k < K; k += DEPTH)
        for (size_t n = 0; n < N; n += GROUP_COLUMNS) {
            size_t depth = least(DEPTH, K - k), columns = least(GROUP_COLUMNS, N - n);
            strips_pack(panels, B.at + k * B.row + n * B.column, B.column, B.row, columns,
                        depth, TILE_COLUMNS);
            for (size_t m = 0; m < M; m += TILE_ROWS) {
                size_t rows = least(TILE_ROWS, M - m);
                strips_pack(strip, A.at + m * A.row + k * A.column, A.row, A.column, rows,
                            depth, TILE_ROWS);
                strip_multiply(result + m * stride + n, stride, strip, panels, NULL, rows,
                               columns, depth, add || k > 0);
            }
        }
}

/* Queries t0 .. t0+count-1 of a head. */
static void queries_forward(float *y, float *lse, const Head *head, size_t t0, size_t count) {
    size_t keys = keys_seen(head, t0 + count - 1), D = head->D;
    float *S = scores[0], scale = 1.0f / sqrtf((float)D);
    product_serial(S, keys, matrix_from(head->q, t0), matrix_transposed(head->k), count, keys,
                   D, false);
    for (size_t i = 0; i < count; i++) {
        size_t t = t0 + i, seen = keys_seen(head, t);
        float *row = S + i * keys;
        for (size_t s = 0; s < seen; s++) row[s] *= scale;
        float maximum = maximum_of(row, seen), sum = exponentials(row, row, maximum, seen);
        for (size_t s = 0; s < seen; s++)
            row[s] *= dropout_factor(head->dropout, t * head->T + s) * (1.0f / sum);
        memset(row + seen, 0, (keys - seen) * sizeof *row); /* later tokens */
        lse[t] = maximum + logf(sum);
    }
    product_serial(y + t0 * head->C, head->C, (Matrix){S, keys, 1}, head->v, count, D, keys,
                   false);
}

static void head_backward(float *dq, float *dk, float *dv, const float *dy, const float *y,
                          const float *lse, const Head *head) {
    const size_t T = head->T, C = head->C, D = head->D, block = block_rows(T);
    const float scale = 1.0f / sqrtf((float)D);
    for (size_t t0 = 0; t0 < T; t0 += block) {
        size_t count = least(block, T - t0), keys = keys_seen(head, t0 + count - 1);
        Matrix q = matrix_from(head->q, t0), dY = {dy + t0 * C, C, 1};
        Matrix P = {scores[0], keys, 1}, dS = {scores[1], keys, 1};
        product_serial(scores[0], keys, q, matrix_transposed(head->k), count, keys, D, false);
        product_serial(scores[1], keys, dY, matrix_transposed(head->v), count, keys, D, false);
        for (size_t i = 0; i < count; i++) { /* there were S and dP; now P and dS */
            size_t t = t0 + i, seen = keys_seen(head, t);
            float *p = scores[0] + i * keys, *ds = scores[1] + i * keys;
            float sum_p_dp = dot_product(dy + t * C, y + t * C, D);
            for (size_t s = 0; s < seen; s++) {
                float share = exponential(p[s] * scale - lse[t]);
                float f = dropout_factor(head->dropout, t * T + s);
                ds[s] = share * (f * ds[s] - sum_p_dp) * scale;
                p[s] = f * share;
            }
            memset(p + seen, 0, (keys - seen) * sizeof *p);
            memset(ds + seen, 0, (keys - seen) * sizeof *ds);
        }
        product_serial(dq + t0 * 3 * C, 3 * C, dS, head->k, count, D, keys, true);
        product_serial(dk, 3 * C, matrix_transposed(dS), q, keys, D, count, true);
        product_serial(dv, 3 * C, matrix_transposed(P), dY, keys, D, count, true);
    }
}

/* All heads: lengths (B) says how many keys of each sequence are in a cache; NULL, none. */
static void heads_forward(bool plain, float *y, float *lse, Head first, const size_t *lengths,
                          size_t B) {
    const size_t T = first.T, C = first.C, H = C / first.D;
    const size_t block = block_rows(first.length), blocks = divide_up(T, block);
    #pragma omp parallel for schedule(dynamic) if (B * T * first.length * C > PARALLEL_ELEMENTS)
    for (size_t task = 0; task < B * H * blocks; task++) {
        size_t bh = task / blocks, b = bh / H, h = bh % H, t0 = task % blocks * block;
        Head head = head_at(first, b, h);
        if (lengths) head.cached = lengths[b];
        (plain ? queries_forward_plain : queries_forward)(
            y + b * T * C + h * head.D, lse + bh * T, &head, t0, least(block, T - t0));
    }
}

static void heads_backward(bool plain, float *dqkv, const float *dy, const float *y,
                           const float *lse, const float *qkv, Head first, size_t B) {
    const size_t T = first.T, C = first.C, H = C / first.D;
    #pragma omp parallel for schedule(dynamic)
    for (size_t bh = 0; bh < B * H; bh++) { /* a head writes to its own channels of dqkv only */
        size_t at = bh / H * T * C + bh % H * first.D;
        Head head = head_at(first, bh / H, bh % H);
        float *dq = dqkv + (head.q.at - qkv);
        for (size_t i = 0; i < 3 * T; i++) memset(dq + i * C, 0, head.D * sizeof *dq);
        (plain ? head_backward_plain : head_backward)(dq, dq + C, dq + 2 * C, dy + at, y + at,
                                                      lse + bh * T, &head);
    }
}

void attention_forward_plain(float *y, float *lse, const float *qkv, size_t B, size_t T,
                             size_t C, size_t H, bool causal, Dropout dropout) {
    heads_forward(true, y, lse, head_first(qkv, T, C, H, causal, dropout), NULL, B);
}

void attention_forward(float *y, float *lse, const float *qkv, size_t B, size_t T, size_t C,
                       size_t H, bool causal, Dropout dropout) {
    heads_forward(PLAIN_KERNELS, y, lse, head_first(qkv, T, C, H, causal, dropout), NULL, B);
}

void attention_backward_plain(float *dqkv /* sets */, const float *dy, const float *y,
                              const float *lse, const float *qkv, size_t B, size_t T, size_t C,
                              size_t H, bool causal, Dropout dropout) {
    heads_backward(true, dqkv, dy, y, lse, qkv, head_first(qkv, T, C, H, causal, dropout), B);
}

void attention_backward(float *dqkv /* sets */, const float *dy, const float *y,
                        const float *lse, const float *qkv, size_t B, size_t T, size_t C,
                        size_t H, bool causal, Dropout dropout) {
    heads_backward(PLAIN_KERNELS, dqkv, dy, y, lse, qkv,
                   head_first(qkv, T, C, H, causal, dropout), B);
}

/* Causal attention for B sequences whose first tokens a KV cache (section 10) holds: of
 * sequence b the first lengths[b].  qkv (B,T,3C) are the next T tokens of each: their keys and
 * values are added to keys and values (B,context,C) of this layer, and query t of sequence b
 * sees the first lengths[b] + t + 1.  Sets y (B,T,C) and lse (B,H,T).  lengths (B) stays: the
 * other layers need it too. */
void attention_cached(float *y, float *lse, float *keys, float *values, const float *qkv,
                      const size_t *lengths, size_t B, size_t T, size_t context, size_t C,
                      size_t H) {
    for (size_t bt = 0; bt < B * T; bt++) {
        const float *k = qkv + bt * 3 * C + C, *v = k + C;
        size_t position = bt / T * context + lengths[bt / T] + bt % T;
        memcpy(keys + position * C, k, C * sizeof *keys);
        memcpy(values + position * C, v, C * sizeof *values);
    }
    Head first = head_first(qkv, T, C, H, true, (Dropout){0});
    first.k = (Matrix){keys, C, 1};
    first.v = (Matrix){values, C, 1};
    first.length = context;
    heads_forward(PLAIN_KERNELS, y, lse, first, lengths, B);
}

/* =========================================================================================
 * 6. The model                                    [glossary: Transformer, Parameters (weights)]
 *
 * One table describes every tensor: name, shape, initial values, whether it decays.  Sizes,
 * pointers, initialization, weight decay, files and the printed summary all come from it.
 * ====================================================================================== */

typedef struct {
    size_t layers, heads, channels, context, vocab; /* L, H, C, the largest T, V */
    bool bias;          /* do linear layers and norms have biases? */
    float dropout;      /* rate, 0 to below 1 */
    bool bidirectional; /* attention sees later tokens too; a language model must not */
} Config;

/* Kinds of tensors, in the order in which they are stored; the bias of a weight is the kind
 * that follows it.  PROJ: attention's output projection; FC and OUT: the MLP's first and second
 * matrix; LNF: the final norm. */
enum {
    WTE, WPE,
    LN1_W, LN1_B, QKV_W, QKV_B, PROJ_W, PROJ_B, LN2_W, LN2_B, FC_W, FC_B, OUT_W, OUT_B,
    LNF_W, LNF_B,
    KINDS, BLOCK_KINDS = LNF_W - LN1_W
};

/* Names and shapes are those of Hugging Face's GPT-2.  Shapes are in the letters of the symbol
 * table: V, P (positions: the context), C, 3 (3C), F (4C), 1.  Every matrix starts from a
 * normal distribution with standard deviation 0.02, as in Hugging Face's GPT-2 (OpenAI's code
 * has 0.01 for wpe).  The two matrices whose output is added to the residual stream start
 * smaller by a factor of sqrt(2L): there are 2L such terms, and their sum should not grow with
 * the depth (Radford et al. 2019, section 2.3). */
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
    float deviation; /* standard deviation of the initial values; 0: all are `constant` */
    float constant;
    bool decay;  /* matrices and embeddings decay, biases and norms do not */
    bool frozen; /* no gradient, no update: its product in the backward pass is left out */
} Tensor;

typedef struct {
    Config config;
    Tensor *table; /* tensor_count entries */
    size_t tensor_count, parameter_count;
    float *weights;   /* arena of parameter_count floats */
    float *gradients; /* the same; NULL if not training */
} GPT;

/* The number that a letter of a shape means. */
static size_t dimension(const Config *config, char letter) {
    switch (letter) {
        case 'V': return config->vocab;
        case 'P': return config->context;
        case 'C': return config->channels;
        case '3': return 3 * config->channels;
        case 'F': return 4 * config->channels;
        case 'H': return config->heads;
        default: return 1;
    }
}

/* The tensor of a kind, in block l if it belongs to a block; it is stored at `offset`. */
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

static size_t table_size(const Config *config) {
    return KINDS + (config->layers - 1) * BLOCK_KINDS;
}

/* Fills the table, unless it is NULL, and returns the number of parameters.  The caller has
 * checked the configuration. */
static size_t table_fill(const Config *config, Tensor *table) {
    size_t parameters = 0, blocks_end = LN1_W + config->layers * BLOCK_KINDS;
    for (size_t i = 0; i < table_size(config); i++) {
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
    gpt->table = memory_allocate(table_size(config), sizeof *gpt->table);
    gpt->tensor_count = table_size(config);
    gpt->parameter_count = table_fill(config, gpt->table);
    gpt->weights = memory_allocate(gpt->parameter_count, sizeof *gpt->weights);
    if (training)
        gpt->gradients = memory_allocate(gpt->parameter_count, sizeof *gpt->gradients);
    return gpt;
}

void gpt_destroy(GPT *gpt) {
    if (!gpt) return;
    free(gpt->table);
    free(gpt->weights);
    free(gpt->gradients);
    free(gpt);
}

/* Random initial weights.  Each tensor draws from a key of its own. */
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

/* Every batch starts from gradients of 0; its micro-batches then add to them. */
void gradients_clear(GPT *gpt) {
    enum { PIECES = 64 };
    size_t N = gpt->parameter_count;
    #pragma omp parallel for
    for (size_t piece = 0; piece < PIECES; piece++) {
        size_t start = N * piece / PIECES, end = N * (piece + 1) / PIECES;
        memset(gpt->gradients + start, 0, (end - start) * sizeof *gpt->gradients);
    }
}

/* Entry of the table for a kind and a layer (any, for tensors outside the blocks). */
static Tensor *tensor_of(const GPT *gpt, int kind, size_t l) {
    if (kind < LN1_W) l = 0;
    if (kind >= LNF_W) l = gpt->config.layers - 1;
    return &gpt->table[(size_t)kind + l * BLOCK_KINDS];
}

/* The numbers of a tensor; NULL for a bias that the model does not have. */
static const float *weight_of(const GPT *gpt, int kind, size_t l) {
    const Tensor *t = tensor_of(gpt, kind, l);
    return t->count ? gpt->weights + t->offset : NULL;
}

/* Where its gradient is added up; NULL, too, if it is frozen: kernels then leave it out. */
static float *gradient_of(const GPT *gpt, int kind, size_t l) {
    const Tensor *t = tensor_of(gpt, kind, l);
    return t->count && !t->frozen ? gpt->gradients + t->offset : NULL;
}

/* --- Activations ------------------- [glossary: Activations (cached for the backward pass)] -
 * What the forward pass leaves behind.  The backward pass needs the input of every matrix
 * product and of every nonlinearity.  Some of them are cheap to compute again from others: the
 * output of a layer norm from its input, of GELU from its input.  Those are not kept, which
 * saves 6 C of 16 C floats a token and layer.  How much is kept is a choice:
 *   KEEP_NOTHING  evaluation, generation: all layers share the buffers of one
 *   KEEP_ALL      training: what the backward pass of every layer needs
 *   KEEP_STREAM   training with only x kept: the backward pass runs each block forward once
 *                 more, a third more work for a fraction of the memory (Chen et al. 2016,
 *                 arXiv:1604.06174)     [glossary: Activation checkpointing (recomputation)] */
enum { KEEP_NOTHING, KEEP_ALL, KEEP_STREAM };

/* What inference keeps of the tokens so far, for each of B sequences: section 10. */
typedef struct {
    size_t B, *lengths;    /* (B) tokens that the model has read of each */
    float *keys, *values;  /* (L,B,context,C) */
    size_t first;          /* the sequence that the first one of the next batch continues */
    struct Activations *a; /* of the tokens that are being read */
} Cache;

/* What one block keeps of N = B*T tokens. */
typedef struct {
    float *x;                   /* (N,C) the residual stream that enters the block */
    float *ln1_mean, *ln1_rstd; /* (N) */
    float *qkv;                 /* (N,3C) */
    float *attention;           /* (N,C) from the heads, before the projection */
    float *lse;                 /* (B,H,T) */
    float *middle;              /* (N,C) the stream between attention and MLP */
    float *ln2_mean, *ln2_rstd; /* (N) */
    float *fc;                  /* (N,F) before GELU */
} Layer;

typedef struct Activations {
    size_t B, T;      /* the largest batch and length they hold; N = B*T */
    int keep;         /* see above */
    size_t head_rows; /* rows of logits held at a time; below N they are made in pieces */
    float *arena;
    Layer *layers;               /* (L+1); of the last one only x, which leaves the model */
    int32_t *inputs, *targets;   /* (N) a micro-batch, for batch_gradient and evaluation */
    float *norm;                 /* (N,C) output of a layer norm */
    float *gelu;                 /* (N,F) */
    float *branch;               /* (N,C) what half a block adds to the stream */
    float *hidden;               /* (N,C) the last hidden state */
    float *lnf_mean, *lnf_rstd;  /* (N) */
    float *logits;               /* (head_rows,V) */
    float *losses, *head_lse;    /* (N) */
    float *dlosses;              /* (N) */
    float *dx;                   /* (N,C) gradient of the stream; flows through all blocks */
    float *dbranch;              /* (N,C) */
    float *dhidden, *dnorm, *dattention; /* (N,C) in one buffer, used one after another */
    float *dgelu, *dfc, *dqkv;           /* (N,F), (N,F), (N,3C): the same, in another */
    Cache *cache;           /* the KV cache that attention uses (section 10), or NULL */
    uint64_t dropout_key;   /* of this step; 0: no dropout */
    size_t dropout_first;   /* number of the micro-batch's first sequence in its batch */
} Activations;

/* The list of the arrays of floats: how many numbers a token has (in the letters of the tensor
 * table; V: one row of logits), for which layers they exist, and where the pointer is. */
enum { OF_STREAM, OF_BLOCKS, ONCE, TRAINING };
static const struct {
    const char *name;
    char numbers;
    int group;
    size_t pointer; /* offset in Layer or, for ONCE and TRAINING, in Activations */
} ACTIVATIONS[] = {
    {"stream into blocks", 'C', OF_STREAM, offsetof(Layer, x)},
    {"norm 1 mean", '1', OF_BLOCKS, offsetof(Layer, ln1_mean)},
    {"norm 1 rstd", '1', OF_BLOCKS, offsetof(Layer, ln1_rstd)},
    {"q, k, v", '3', OF_BLOCKS, offsetof(Layer, qkv)},
    {"attention", 'C', OF_BLOCKS, offsetof(Layer, attention)},
    {"attention log-sum-exp", 'H', OF_BLOCKS, offsetof(Layer, lse)},
    {"stream between halves", 'C', OF_BLOCKS, offsetof(Layer, middle)},
    {"norm 2 mean", '1', OF_BLOCKS, offsetof(Layer, ln2_mean)},
    {"norm 2 rstd", '1', OF_BLOCKS, offsetof(Layer, ln2_rstd)},
    {"MLP before GELU", 'F', OF_BLOCKS, offsetof(Layer, fc)},
    {"norm", 'C', ONCE, offsetof(Activations, norm)},
    {"MLP after GELU", 'F', ONCE, offsetof(Activations, gelu)},
    {"branch", 'C', ONCE, offsetof(Activations, branch)},
    {"last hidden state", 'C', ONCE, offsetof(Activations, hidden)},
    {"final norm mean", '1', ONCE, offsetof(Activations, lnf_mean)},
    {"final norm rstd", '1', ONCE, offsetof(Activations, lnf_rstd)},
    {"logits", 'V', ONCE, offsetof(Activations, logits)},
    {"losses", '1', ONCE, offsetof(Activations, losses)},
    {"loss log-sum-exp", '1', ONCE, offsetof(Activations, head_lse)},
    {"gradients of losses", '1', TRAINING, offsetof(Activations, dlosses)},
    {"gradient of the stream", 'C', TRAINING, offsetof(Activations, dx)},
    {"gradient of a branch", 'C', TRAINING, offsetof(Activations, dbranch)},
    {"gradient at a norm or at attention", 'C', TRAINING, offsetof(Activations, dnorm)},
    {"gradient at GELU or at q, k, v", 'F', TRAINING, offsetof(Activations, dfc)},
};
enum { ACTIVATION_COUNT = sizeof ACTIVATIONS / sizeof *ACTIVATIONS };

/* Layers that have an array of their own; where it is one, all layers share it. */
static size_t activation_copies(const Activations *a, const Config *config, size_t i) {
    switch (ACTIVATIONS[i].group) {
        case OF_STREAM: return a->keep == KEEP_NOTHING ? 1 : config->layers + 1;
        case OF_BLOCKS: return a->keep == KEEP_ALL ? config->layers : 1;
        case ONCE: return 1;
        default: return a->keep != KEEP_NOTHING;
    }
}

/* Floats of one copy. */
static size_t activation_floats(const Activations *a, const Config *config, size_t i) {
    size_t rows = ACTIVATIONS[i].numbers == 'V' ? a->head_rows : a->B * a->T;
    return rows * dimension(config, ACTIVATIONS[i].numbers);
}

static float **activation_pointer(const Activations *a, size_t i, size_t l) {
    char *start = ACTIVATIONS[i].group < ONCE ? (char *)&a->layers[l] : (char *)a;
    return (float **)(start + ACTIVATIONS[i].pointer);
}

/* Sizes without memory.  head_rows 0 takes all rows of logits up to 64 MB, else as many as
 * 64 MB hold: enough rows for a fast product, and little compared with the rest. */
static Activations activations_plan(const Config *config, size_t B, size_t T, int keep,
                                    size_t head_rows) {
    size_t most = ((size_t)64 << 20) / sizeof(float) / config->vocab;
    double rough = 16.0 * (double)(config->layers + 4) * (double)config->channels; /* a token */
    if ((double)B * (double)T * rough > 1e17)
        die("activations of %zu x %zu tokens need more than any memory: lower --micro-batch", B,
            T);
    Activations a = {.B = B, .T = T, .keep = keep, .head_rows = head_rows ? head_rows : most};
    if (a.head_rows < 1) a.head_rows = 1;
    if (a.head_rows > B * T) a.head_rows = B * T;
    return a;
}

static size_t activations_floats(const Activations *a, const Config *config) {
    size_t floats = 0;
    for (size_t i = 0; i < ACTIVATION_COUNT; i++)
        floats += activation_copies(a, config, i) * activation_floats(a, config, i);
    return floats;
}

/* Memory for batches of up to B sequences of up to T tokens.  head_rows: see the struct; 0
 * chooses.  The caller calls activations_destroy. */
Activations *activations_create(const Config *config, size_t B, size_t T, int keep,
                                size_t head_rows) {
    size_t L = config->layers;
    Activations *a = memory_allocate(1, sizeof *a);
    *a = activations_plan(config, B, T, keep, head_rows);
    a->layers = memory_allocate(L + 1, sizeof *a->layers);
    a->inputs = memory_allocate(B * T, sizeof *a->inputs);
    a->targets = memory_allocate(B * T, sizeof *a->targets);
    float *next = a->arena = memory_allocate(activations_floats(a, config), sizeof(float));
    for (size_t i = 0; i < ACTIVATION_COUNT; i++) {
        size_t copies = activation_copies(a, config, i), size = activation_floats(a, config, i);
        size_t pointers = ACTIVATIONS[i].group < ONCE ? L + 1 : copies;
        for (size_t l = 0; l < pointers; l++)
            *activation_pointer(a, i, l) = next + (l < copies ? l : 0) * size;
        next += copies * size;
    }
    a->dhidden = a->dattention = a->dnorm;
    a->dgelu = a->dqkv = a->dfc;
    return a;
}

void activations_destroy(Activations *a) {
    if (!a) return;
    free(a->arena);
    free(a->layers);
    free(a->inputs);
    free(a->targets);
    free(a);
}

/* --- Compute budget ---------------- [glossary: Compute budget (FLOPs)] ---------------------
 * A weight of a matrix costs a multiplication and an addition forward and twice that backward:
 * 6 FLOPs a token (Kaplan et al. 2020, arXiv:2001.08361, section 2.1).  Every matrix counts:
 * those of the blocks, and the embedding once, where it is the output head.  Attention adds q.k
 * and P v over all T keys, 4 T C a layer forward, three times that in all.  Half of the keys
 * are in the future and are never looked at; they are counted all the same, as the literature
 * does (Chowdhery et al. 2022, arXiv:2204.02311, appendix B), so that shares of the peak can be
 * compared. */
double flops_per_token(const Config *config, size_t T) {
    double L = (double)config->layers, C = (double)config->channels, V = (double)config->vocab;
    return 6.0 * (L * 12.0 * C * C + V * C) + 12.0 * L * (double)T * C;
}

/* Numbers in a KV cache (section 10), for the keys and values of one sequence. */
size_t cache_floats(const Config *config) {
    return 2 * config->layers * config->context * config->channels;
}

/* What the machine can do at best: FLOPs per second of a loop of multiply-adds on vectors that
 * never leave the registers, on all threads: the best of five short tries. */
double peak_flops(void) {
    enum { CHAINS = 12, ROUNDS = 100000 }; /* at least 8: 2 start in a cycle, each takes 4 */
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
static Text bytes_text(double bytes) {
    const char *units[] = {"B", "KB", "MB", "GB", "TB", "PB"};
    int unit = 0;
    for (; bytes >= 1000 && unit < 5; unit++) bytes /= 1000;
    return text_of("%.*f %s", unit > 0, bytes, units[unit]);
}

/* The table of tensors; those of the L blocks, which are alike, share a line. */
void tensors_print(FILE *out, const Config *config) {
    fprintf(out, "%-42s %-16s %6s %12s  %s\n", "tensor", "shape", "times", "parameters",
            "decays");
    for (int kind = 0; kind < KINDS; kind++) {
        const Tensor t = tensor_describe(config, kind, 0, 0);
        size_t times = kind >= LN1_W && kind < LNF_W ? config->layers : 1;
        Text shape = t.rank == 2 ? text_of("(%zu, %zu)", t.shape[0], t.shape[1])
                                 : text_of("(%zu)", t.shape[0]);
        if (t.count)
            fprintf(out, "%-42s %-16s %6zu %12zu  %s\n", t.name, shape.chars, times,
                    times * t.count, t.decay ? "yes" : "no");
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
    Activations a = activations_plan(config, micro_batch, T, keep, 0);
    double activations = 4.0 * (double)activations_floats(&a, config);
    fprintf(out, "\n%-42s %s for a micro-batch of %zu x %zu tokens\n", "activations",
            bytes_text(activations).chars, micro_batch, T);
    for (size_t i = 0; i < ACTIVATION_COUNT; i++) {
        double bytes = 4.0 * (double)(activation_copies(&a, config, i) *
                                      activation_floats(&a, config, i));
        if (bytes >= 0.02 * activations) /* the small ones would hide the others */
            fprintf(out, "  %-40s %s\n", ACTIVATIONS[i].name, bytes_text(bytes).chars);
    }
    fprintf(out,
            "\nmemory: weights %s + gradients %s + Adam's two moments %s + activations %s = "
            "%s\n",
            bytes_text(4 * P).chars, bytes_text(4 * P).chars, bytes_text(8 * P).chars,
            bytes_text(activations).chars, bytes_text(16 * P + activations).chars);
    fprintf(out, "inference needs weights %s + KV cache %s only\n", bytes_text(4 * P).chars,
            bytes_text(cache).chars);
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
 * embedding, block 0 ... block L-1, final norm, then head; a block is two halves, attention and
 * MLP.  Each can be called alone, so whoever wants to look inside, to run a part again or to
 * replace one writes a loop of their own over the others.
 * ====================================================================================== */

/* A linear layer: y (N,O) = x (N,C) weight + bias.  kind: that of the weight, in block l. */
void linear_forward(const GPT *gpt, int kind, size_t l, float *y, const float *x, size_t N) {
    const size_t *shape = tensor_of(gpt, kind, l)->shape;
    matmul_forward(y, x, weight_of(gpt, kind, l), weight_of(gpt, kind + 1, l), N, shape[0],
                   shape[1]);
}

/* Sets dx (N,C); adds to the gradients of weight and bias, unless they are frozen. */
void linear_backward(GPT *gpt, int kind, size_t l, float *dx, const float *dy, const float *x,
                     size_t N) {
    const size_t *shape = tensor_of(gpt, kind, l)->shape;
    matmul_backward(dx, gradient_of(gpt, kind, l), gradient_of(gpt, kind + 1, l), dy, x,
                    weight_of(gpt, kind, l), N, shape[0], shape[1]);
}

/* A layer norm; kind: LN1_W, LN2_W or LNF_W. */
void norm_forward(const GPT *gpt, int kind, size_t l, float *y, float *mean, float *rstd,
                  const float *x, size_t N) {
    layernorm_forward(y, mean, rstd, x, weight_of(gpt, kind, l), weight_of(gpt, kind + 1, l), N,
                      gpt->config.channels);
}

/* Adds to dx (N,C) and to the gradients of weight and bias. */
void norm_backward(GPT *gpt, int kind, size_t l, float *dx, const float *dy, const float *mean,
                   const float *rstd, const float *x, size_t N) {
    layernorm_backward(dx, gradient_of(gpt, kind, l), gradient_of(gpt, kind + 1, l), dy, mean,
                       rstd, x, weight_of(gpt, kind, l), N, gpt->config.channels);
}

/* The dropout of one position in the model: site 0 is the embedding; 1 + 3l, 2 + 3l and 3 + 3l
 * are layer l's attention weights, attention branch and MLP branch.  per_sequence is the
 * tensor's number of elements for one sequence: numbered so, a micro-batch draws the masks
 * that its sequences have in the whole batch. */
static Dropout dropout_site(const GPT *gpt, const Activations *a, size_t site,
                            size_t per_sequence) {
    float rate = a->dropout_key ? gpt->config.dropout : 0;
    return (Dropout){rate, random_bits(a->dropout_key, site), a->dropout_first * per_sequence};
}

/* Sets x of block 0 (B,T,C) to wte[token] + wpe[position].  inputs (B,T), each below V. */
void gpt_embed(const GPT *gpt, Activations *a, const int32_t *inputs, size_t B, size_t T) {
    size_t C = gpt->config.channels;
    float *x = a->layers[0].x;
    Dropout dropout = dropout_site(gpt, a, 0, T * C);
    embedding_forward(x, inputs, weight_of(gpt, WTE, 0), weight_of(gpt, WPE, 0), B, T, C);
    if (dropout.rate > 0) dropout_forward(x, x, B * T * C, dropout);
}

/* The first half of block l: branch = projection(attention(norm(x))). */
void gpt_attention_forward(const GPT *gpt, Activations *a, size_t l, size_t B, size_t T) {
    const Layer *y = &a->layers[l];
    size_t C = gpt->config.channels, H = gpt->config.heads, N = B * T;
    Dropout inside = dropout_site(gpt, a, 1 + 3 * l, H * T * T);
    Dropout after = dropout_site(gpt, a, 2 + 3 * l, T * C);

    norm_forward(gpt, LN1_W, l, a->norm, y->ln1_mean, y->ln1_rstd, y->x, N);
    linear_forward(gpt, QKV_W, l, y->qkv, a->norm, N);
    if (a->cache) {
        size_t context = gpt->config.context, first = a->cache->first;
        size_t at = (l * a->cache->B + first) * context * C;
        attention_cached(y->attention, y->lse, a->cache->keys + at, a->cache->values + at,
                         y->qkv, a->cache->lengths + first, B, T, context, C, H);
    } else
        attention_forward(y->attention, y->lse, y->qkv, B, T, C, H, !gpt->config.bidirectional,
                          inside);
    linear_forward(gpt, PROJ_W, l, a->branch, y->attention, N);
    if (after.rate > 0) dropout_forward(a->branch, a->branch, N * C, after);
}

/* The second half: branch = MLP(norm(middle)). */
void gpt_mlp_forward(const GPT *gpt, Activations *a, size_t l, size_t B, size_t T) {
    const Layer *y = &a->layers[l];
    size_t C = gpt->config.channels, N = B * T;
    Dropout after = dropout_site(gpt, a, 3 + 3 * l, T * C);

    norm_forward(gpt, LN2_W, l, a->norm, y->ln2_mean, y->ln2_rstd, y->middle, N);
    linear_forward(gpt, FC_W, l, y->fc, a->norm, N);
    gelu_forward(a->gelu, y->fc, N * 4 * C);
    linear_forward(gpt, OUT_W, l, a->branch, a->gelu, N);
    if (after.rate > 0) dropout_forward(a->branch, a->branch, N * C, after);
}

/* Block l, from its x to that of block l+1: each half adds its branch to the stream. */
void gpt_block_forward(const GPT *gpt, Activations *a, size_t l, size_t B, size_t T) {
    const Layer *y = &a->layers[l];
    size_t count = B * T * gpt->config.channels;
    gpt_attention_forward(gpt, a, l, B, T);
    residual_forward(y->middle, y->x, a->branch, count);
    gpt_mlp_forward(gpt, a, l, B, T);
    residual_forward(a->layers[l + 1].x, y->middle, a->branch, count);
}

/* The last hidden state: hidden = norm(what leaves the last block). */
void gpt_final_norm(const GPT *gpt, Activations *a, size_t B, size_t T) {
    norm_forward(gpt, LNF_W, 0, a->hidden, a->lnf_mean, a->lnf_rstd,
                 a->layers[gpt->config.layers].x, B * T);
}

/* Everything up to the last hidden state.  dropout_key 0 switches dropout off; `first` is the
 * number of this micro-batch's first sequence within its batch.  B*T is at most what `a` has
 * memory for, T at most the model's context. */
void gpt_forward_hidden(const GPT *gpt, Activations *a, const int32_t *inputs, size_t B,
                        size_t T, uint64_t dropout_key, size_t first) {
    assert(B * T <= a->B * a->T && T <= gpt->config.context && !a->cache);
    a->dropout_key = dropout_key;
    a->dropout_first = first;
    gpt_embed(gpt, a, inputs, B, T);
    for (size_t l = 0; l < gpt->config.layers; l++) gpt_block_forward(gpt, a, l, B, T);
    gpt_final_norm(gpt, a, B, T);
}

/* --- The head ----------------------------------------------------------------------------
 * All logits at once are N x V numbers: for GPT-2 half as much as all other activations
 * together, and more than those with --recompute (doc/memory.md).  So they are made a piece
 * at a time, head_rows rows of the N. */

/* Logits (rows,V) of the rows from `row` on, in the order (B,T). */
void gpt_logits(const GPT *gpt, const Activations *a, float *logits, size_t row, size_t rows) {
    size_t C = gpt->config.channels;
    unembedding_forward(logits, a->hidden + row * C, weight_of(gpt, WTE, 0), rows, C,
                        gpt->config.vocab);
}

/* Rows of the piece that begins at row n. */
static size_t head_piece(const Activations *a, size_t n, size_t N) {
    return N - n < a->head_rows ? N - n : a->head_rows;
}

/* Sets the losses of one piece, and leaves its logits in a->logits. */
static void head_piece_forward(const GPT *gpt, Activations *a, const int32_t *targets, size_t n,
                               size_t rows) {
    gpt_logits(gpt, a, a->logits, n, rows);
    cross_entropy_forward(a->losses + n, a->head_lse + n, a->logits, targets + n, rows,
                          gpt->config.vocab);
}

/* From losses to hidden, for the piece whose logits are in a->logits: they become their own
 * gradient.  Sets its part of dhidden, adds to the gradient of wte. */
static void head_piece_backward(GPT *gpt, Activations *a, const int32_t *targets,
                                const float *dlosses, size_t n, size_t rows) {
    size_t C = gpt->config.channels, V = gpt->config.vocab;
    float *dlogits = a->logits;
    cross_entropy_backward(dlogits, dlosses + n, a->head_lse + n, a->logits, targets + n, rows,
                           V);
    unembedding_backward(a->dhidden + n * C, gradient_of(gpt, WTE, 0), dlogits,
                         a->hidden + n * C, weight_of(gpt, WTE, 0), rows, C, V);
}

/* losses (N), from the last hidden state.  targets (N): tokens below V, or -1. */
void gpt_head_forward(const GPT *gpt, Activations *a, const int32_t *targets, size_t N) {
    for (size_t n = 0; n < N; n += a->head_rows)
        head_piece_forward(gpt, a, targets, n, head_piece(a, n, N));
}

/* Sets dhidden (N,C) from dlosses (N).  The logits are computed again: since the forward pass
 * something else may have used their buffer. */
void gpt_head_backward(GPT *gpt, Activations *a, const int32_t *targets, const float *dlosses,
                       size_t N) {
    for (size_t n = 0; n < N; n += a->head_rows) {
        gpt_logits(gpt, a, a->logits, n, head_piece(a, n, N));
        head_piece_backward(gpt, a, targets, dlosses, n, head_piece(a, n, N));
    }
}

/* Both, for dlosses that do not depend on the losses, as in pre-training: each piece of logits
 * is turned into its gradient at once, and computed only once. */
void gpt_head_forward_backward(GPT *gpt, Activations *a, const int32_t *targets,
                               const float *dlosses, size_t N) {
    for (size_t n = 0; n < N; n += a->head_rows) {
        head_piece_forward(gpt, a, targets, n, head_piece(a, n, N));
        head_piece_backward(gpt, a, targets, dlosses, n, head_piece(a, n, N));
    }
}

/* The forward pass: losses (B,T), the loss at every position. */
void gpt_forward(const GPT *gpt, Activations *a, const int32_t *inputs, const int32_t *targets,
                 size_t B, size_t T, uint64_t dropout_key, size_t first) {
    gpt_forward_hidden(gpt, a, inputs, B, T, dropout_key, first);
    gpt_head_forward(gpt, a, targets, B * T);
}

/* --- Backward ----------------------------------------------------------------------------
 * Read it next to the forward pass, from the bottom up.  dx is the gradient of the residual
 * stream.  Every half of a block took the stream twice: once unchanged, into the sum, and once
 * through its branch.  So the stream's gradient is a sum of two: the first is there already,
 * in dx, and the last call of each half, norm_backward, adds the second.  Where the input of a
 * matrix product was not kept, the line before the product computes it again. */

/* From dbranch, the gradient of what the MLP added: adds to dx and to the gradients. */
void gpt_mlp_backward(GPT *gpt, Activations *a, size_t l, size_t B, size_t T) {
    const Layer *y = &a->layers[l];
    size_t C = gpt->config.channels, N = B * T;
    Dropout after = dropout_site(gpt, a, 3 + 3 * l, T * C);

    if (after.rate > 0) dropout_backward(a->dbranch, a->dbranch, N * C, after);
    gelu_forward(a->gelu, y->fc, N * 4 * C);
    linear_backward(gpt, OUT_W, l, a->dgelu, a->dbranch, a->gelu, N);
    gelu_backward(a->dfc, a->dgelu, y->fc, N * 4 * C);
    norm_forward(gpt, LN2_W, l, a->norm, y->ln2_mean, y->ln2_rstd, y->middle, N);
    linear_backward(gpt, FC_W, l, a->dnorm, a->dfc, a->norm, N);
    norm_backward(gpt, LN2_W, l, a->dx, a->dnorm, y->ln2_mean, y->ln2_rstd, y->middle, N);
}

/* The same for attention. */
void gpt_attention_backward(GPT *gpt, Activations *a, size_t l, size_t B, size_t T) {
    const Layer *y = &a->layers[l];
    size_t C = gpt->config.channels, H = gpt->config.heads, N = B * T;
    Dropout inside = dropout_site(gpt, a, 1 + 3 * l, H * T * T);
    Dropout after = dropout_site(gpt, a, 2 + 3 * l, T * C);

    if (after.rate > 0) dropout_backward(a->dbranch, a->dbranch, N * C, after);
    linear_backward(gpt, PROJ_W, l, a->dattention, a->dbranch, y->attention, N);
    attention_backward(a->dqkv, a->dattention, y->attention, y->lse, y->qkv, B, T, C, H,
                       !gpt->config.bidirectional, inside);
    norm_forward(gpt, LN1_W, l, a->norm, y->ln1_mean, y->ln1_rstd, y->x, N);
    linear_backward(gpt, QKV_W, l, a->dnorm, a->dqkv, a->norm, N);
    norm_backward(gpt, LN1_W, l, a->dx, a->dnorm, y->ln1_mean, y->ln1_rstd, y->x, N);
}

/* Block l: dx, the gradient of what leaves it, becomes that of what entered it. */
void gpt_block_backward(GPT *gpt, Activations *a, size_t l, size_t B, size_t T) {
    size_t count = B * T * gpt->config.channels;
    residual_backward(a->dx, a->dbranch, a->dx, count);
    gpt_mlp_backward(gpt, a, l, B, T);
    residual_backward(a->dx, a->dbranch, a->dx, count);
    gpt_attention_backward(gpt, a, l, B, T);
}

/* Sets dx from dhidden (B,T,C), the gradient of the last hidden state. */
void gpt_final_norm_backward(GPT *gpt, Activations *a, const float *dhidden, size_t B,
                             size_t T) {
    size_t N = B * T, C = gpt->config.channels;
    memset(a->dx, 0, N * C * sizeof *a->dx); /* nothing but the norm used this x */
    norm_backward(gpt, LNF_W, 0, a->dx, dhidden, a->lnf_mean, a->lnf_rstd,
                  a->layers[gpt->config.layers].x, N);
}

/* Adds to the gradients of wte and wpe from dx, which dropout overwrites. */
void gpt_embed_backward(GPT *gpt, Activations *a, const int32_t *inputs, size_t B, size_t T) {
    size_t C = gpt->config.channels;
    Dropout dropout = dropout_site(gpt, a, 0, T * C);
    if (dropout.rate > 0) dropout_backward(a->dx, a->dx, B * T * C, dropout);
    embedding_backward(gradient_of(gpt, WTE, 0), gradient_of(gpt, WPE, 0), a->dx, inputs, B, T,
                       C);
}

/* Everything below the head, from dhidden (B,T,C), which may be a->dhidden: where a head that
 * is not the vocabulary's (a reward, a value) begins.  All that follows must come after a
 * forward pass with the same inputs, B and T, and adds to gpt->gradients. */
void gpt_backward_hidden(GPT *gpt, Activations *a, const int32_t *inputs, const float *dhidden,
                         size_t B, size_t T) {
    assert(a->keep != KEEP_NOTHING && gpt->gradients);
    gpt_final_norm_backward(gpt, a, dhidden, B, T);
    for (size_t l = gpt->config.layers; l-- > 0;) {
        if (a->keep == KEEP_STREAM) gpt_block_forward(gpt, a, l, B, T);
        gpt_block_backward(gpt, a, l, B, T);
    }
    gpt_embed_backward(gpt, a, inputs, B, T);
}

/* Backward from dlogits (B,T,V): for losses on the whole distribution, such as distillation. */
void gpt_backward_logits(GPT *gpt, Activations *a, const int32_t *inputs, const float *dlogits,
                         size_t B, size_t T) {
    unembedding_backward(a->dhidden, gradient_of(gpt, WTE, 0), dlogits, a->hidden,
                         weight_of(gpt, WTE, 0), B * T, gpt->config.channels,
                         gpt->config.vocab);
    gpt_backward_hidden(gpt, a, inputs, a->dhidden, B, T);
}

/* Backward from dlosses (B,T), the gradient of whatever is minimized with respect to each
 * losses[b,t]: for the mean over n tokens, 1/n everywhere.  Masked prompts, preferences and
 * rewards are other weights in the same array. */
void gpt_backward(GPT *gpt, Activations *a, const int32_t *inputs, const int32_t *targets,
                  const float *dlosses, size_t B, size_t T) {
    gpt_head_backward(gpt, a, targets, dlosses, B * T);
    gpt_backward_hidden(gpt, a, inputs, a->dhidden, B, T);
}

/* gpt_forward and gpt_backward in one, for dlosses that are known beforehand. */
void gpt_forward_backward(GPT *gpt, Activations *a, const int32_t *inputs,
                          const int32_t *targets, const float *dlosses, size_t B, size_t T,
                          uint64_t dropout_key, size_t first) {
    gpt_forward_hidden(gpt, a, inputs, B, T, dropout_key, first);
    gpt_head_forward_backward(gpt, a, targets, dlosses, B * T);
    gpt_backward_hidden(gpt, a, inputs, a->dhidden, B, T);
}

/* =========================================================================================
 * 8. The optimizer              [glossary: AdamW, Optimizer state, Learning rate]
 *
 * The backward pass has left the gradient of the mean loss with respect to every weight.  Three
 * things stand between it and the weights: how large a step is (the schedule), a limit to the
 * gradient's length (clipping), and a step of its own size for each weight (AdamW).  None knows
 * the model; only optimizer_step looks at the table of tensors, for which of them decay.
 * doc/optimizer.md has the arithmetic with numbers.
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

/* --- AdamW ------------------------------------ [glossary: Weight decay (L2 regularization)] -
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
 * counts from one.
 * Cost: 4 numbers read and 3 written for each weight: memory bandwidth, not arithmetic.
 * Pitfall: eps is added after the root; inside, it would act like sqrt(eps) outside. */
void adamw_update(float *w, float *m, float *v, const float *gradient, size_t N, float lr,
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

/* One update from the accumulated gradients.                      [glossary: Iteration / step]
 * Returns their norm before clipping.  If that is not finite, nothing is updated. */
double optimizer_step(GPT *gpt, Optimizer *optimizer, const OptimizerOptions *o, float lr) {
    double norm = gradient_norm(gpt->gradients, gpt->parameter_count);
    if (!isfinite(norm)) return norm;
    float scale = o->clip > 0 && norm > o->clip ? (float)(o->clip / (norm + 1e-6)) : 1.0f;
    /* 1e-6 as in PyTorch's clip_grad_norm_, so that losses can be compared */
    optimizer->step++;
    for (size_t i = 0; i < gpt->tensor_count; i++) {
        const Tensor *t = &gpt->table[i];
        if (t->frozen) continue;
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
 * The state of a run is one file, state.safetensors: weights, Adam's moments, a few counters
 * and every setting, all that the run needs to continue as if it had never stopped.  One
 * rename replaces it, so at every instant there is one whole state, the old or the new one.
 *
 * A model for others is a folder as Hugging Face writes it for GPT-2: model.safetensors,
 * config.json and the tokenizer's vocab.json and merges.txt.  So what was trained here opens
 * there, and a GPT-2 that was saved there opens here.  These files are exports: written before
 * the state, and never read to resume.
 *
 * A safetensors file is: 8 bytes, the length n of the header, little-endian; n bytes of JSON,
 * {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [from, to]}, ...}, offsets counted
 * from the end of the header; then the numbers themselves.  A file is mapped, not read, and
 * nothing that its header says is believed before it is checked.
 * ====================================================================================== */

typedef struct {
    char *path;
    unsigned char *data; /* the whole file, mapped */
    size_t size, header; /* bytes: the file; its first 8 and the JSON text */
    Json json;           /* at the beginning of that text */
} SafeTensors;

typedef struct {
    char dtype[8];
    size_t rank, shape[4];        /* 1 beyond the rank */
    const unsigned char *numbers; /* in the mapped file, at any address */
    size_t bytes;
} SafeTensor;

size_t dtype_bytes(const char *dtype) { /* "BF16" says that a number has 16 bits */
    return strtoul(dtype + strcspn(dtype, "0123456789"), NULL, 10) / 8;
}

/* Opens a file.  The caller calls safetensors_close. */
SafeTensors *safetensors_open(const char *path) {
    SafeTensors *file = memory_allocate(1, sizeof *file);
    Bytes all = file_map(path);
    if (all.size < 8 || bytes_number(all.data, 8) > all.size - 8)
        die("%s: %zu bytes do not hold its header: damaged, not complete, or not a safetensors "
            "file", path, all.size);
    *file = (SafeTensors){.path = text_format("%s", path), .data = all.data, .size = all.size,
                          .header = 8 + (size_t)bytes_number(all.data, 8)};
    file->json = (Json){file->data, file->header, 8, file->path, true};
    return file;
}

void safetensors_close(SafeTensors *file) {
    file_unmap((Bytes){file->data, file->size});
    free(file->path);
    free(file);
}

/* The value that an object has under a key; its text is NULL if there is none. */
static Json json_member(Json object, const char *key) {
    Json value = object;
    if (object.text) json_members(&object, &key, &value, 1);
    return value;
}

/* Reads a list of whole numbers and returns how many; of more than four, some are lost. */
static size_t json_sizes(Json list, size_t sizes[4]) {
    size_t count = 0;
    for (json_enter(&list, '['); json_more(&list, ']'); count++)
        sizes[count % 4] = json_size(&list);
    return count;
}

/* The tensor of a name; its numbers are NULL if there is none.  OpenAI's own files leave out
 * the "transformer." of a name. */
SafeTensor safetensors_find(const SafeTensors *file, const char *name) {
    SafeTensor t = {.shape = {1, 1, 1, 1}};
    size_t offsets[4];
    Json entry = json_member(file->json, name);
    if (!entry.text && !strncmp(name, "transformer.", 12))
        entry = json_member(file->json, name + 12);
    if (!entry.text) return t;
    Json dtype = json_member(entry, "dtype");
    json_string(&dtype, t.dtype, sizeof t.dtype);
    t.rank = json_sizes(json_member(entry, "shape"), t.shape);
    if (json_sizes(json_member(entry, "data_offsets"), offsets) != 2 ||
        offsets[0] > offsets[1] || offsets[1] > file->size - file->header)
        die("%s: tensor %s: its offsets do not fit the file: damaged or not complete",
            file->path, name);
    t.numbers = file->data + file->header + offsets[0];
    t.bytes = offsets[1] - offsets[0];
    return t;
}

/* Sets `buffer` to the text that __metadata__ has under a key; false if there is none. */
bool metadata_text(const SafeTensors *file, const char *key, char *buffer, size_t size) {
    Json text = json_member(json_member(file->json, "__metadata__"), key);
    if (text.text) json_string(&text, buffer, size);
    return text.text;
}

typedef struct { /* numbers for a file, laid out by a model's table */
    const char *prefix; /* of each name */
    float *numbers;
} Arena;

/* metadata: members of a JSON object, all strings.  A bias that the model does not have is
 * written as zeros: the same function, and every reader of GPT-2 models finds all tensors. */
static void safetensors_write(const char *path, const char *metadata, const GPT *gpt,
                              const Arena *arenas, size_t count) {
    size_t end = 0, rows = gpt->tensor_count;
    uint64_t header = 0;
    float *zeros = memory_allocate(4 * gpt->config.channels, sizeof *zeros);
    FileWriter file = file_create(path);
    file_write(&file, &header, sizeof header); /* its length follows when it is known */
    fprintf(file.stream, "{\"__metadata__\": {%s}", metadata);
    for (size_t i = 0; i < count * rows; i++) {
        const Tensor *t = &gpt->table[i % rows];
        size_t start = end;
        end += t->shape[0] * t->shape[1] * sizeof(float);
        fprintf(file.stream, ", \"%s%s\": {\"dtype\": \"F32\", \"shape\": [%zu",
                arenas[i / rows].prefix, t->name, t->shape[0]);
        if (t->rank == 2) fprintf(file.stream, ", %zu", t->shape[1]);
        fprintf(file.stream, "], \"data_offsets\": [%zu, %zu]}", start, end);
    }
    fputc('}', file.stream);
    while (ftell(file.stream) % 8) fputc(' ', file.stream); /* floats at a multiple of 8 */
    header = (uint64_t)ftell(file.stream) - sizeof header;
    for (size_t i = 0; i < count * rows; i++) {
        const Tensor *t = &gpt->table[i % rows];
        file_write(&file, t->count ? arenas[i / rows].numbers + t->offset : zeros,
                   t->shape[0] * t->shape[1] * sizeof(float));
    }
    fseek(file.stream, 0, SEEK_SET);
    file_write(&file, &header, sizeof header);
    file_commit(&file);
    free(zeros);
}

/* The keys of config.json: sizes, each with its limit, and values that a model must have, for
 * others would change what it computes.  Other keys are skipped. */
static const struct {
    const char *key;
    size_t field, limit; /* field: where it is in Config */
} CONFIG_SIZES[] = {{"n_layer", offsetof(Config, layers), 1000},
                    {"n_head", offsetof(Config, heads), 1000},
                    {"n_embd", offsetof(Config, channels), 1 << 16},
                    {"n_positions", offsetof(Config, context), 1 << 16},
                    {"vocab_size", offsetof(Config, vocab), VOCAB_MAX}};
static const char *const CONFIG_FIXED[][2] = {
    {"model_type", "\"gpt2\""}, {"activation_function", "\"gelu_new\""},
    {"layer_norm_epsilon", "1e-05"}, {"n_inner", "null"}, {"tie_word_embeddings", "true"},
    {"scale_attn_weights", "true"}, {"scale_attn_by_inverse_layer_idx", "false"},
    {"add_cross_attention", "false"}};
enum { SIZE_KEYS = sizeof CONFIG_SIZES / sizeof *CONFIG_SIZES };
enum { FIXED_KEYS = sizeof CONFIG_FIXED / sizeof *CONFIG_FIXED };

static size_t *config_size(const Config *config, int i) {
    return (size_t *)((char *)config + CONFIG_SIZES[i].field);
}

static void config_write(const Config *c, const char *path) {
    FileWriter file = file_create(path);
    fprintf(file.stream, "{\n  \"architectures\": [\"GPT2LMHeadModel\"],\n");
    for (int i = 0; i < FIXED_KEYS; i++)
        fprintf(file.stream, "  \"%s\": %s,\n", CONFIG_FIXED[i][0], CONFIG_FIXED[i][1]);
    for (int i = 0; i < SIZE_KEYS; i++)
        fprintf(file.stream, "  \"%s\": %zu,\n", CONFIG_SIZES[i].key, *config_size(c, i));
    fprintf(file.stream, "  \"embd_pdrop\": %.9g,\n  \"attn_pdrop\": %.9g,\n"
            "  \"resid_pdrop\": %.9g,\n  \"bias\": %s\n}\n", c->dropout, c->dropout, c->dropout,
            c->bias ? "true" : "false");
    file_commit(&file);
}

/* Dropout is not read: it belongs to a training, not to a model. */
static Config config_read(const char *path) {
    Config c = {.bias = true};
    Bytes text = file_read(path);
    Json j = {text.data, text.size, 0, path, true};
    char key[64];
    for (json_enter(&j, '{'); json_key(&j, key, sizeof key); json_skip(&j)) {
        Json value = j; /* read here, and skipped by j */
        if (!strcmp(key, "bias")) c.bias = json_boolean(&value);
        for (int i = 0; i < SIZE_KEYS; i++)
            if (!strcmp(key, CONFIG_SIZES[i].key)) *config_size(&c, i) = json_size(&value);
        for (int i = 0; i < FIXED_KEYS; i++)
            if (!strcmp(key, CONFIG_FIXED[i][0]) && !json_word(&value, CONFIG_FIXED[i][1]))
                die("%s: %s must be %s here", path, key, CONFIG_FIXED[i][1]);
    }
    json_end(&j);
    free(text.data);
    for (int i = 0; i < SIZE_KEYS; i++)
        if (*config_size(&c, i) < 1 || *config_size(&c, i) > CONFIG_SIZES[i].limit)
            die("%s: %s is %zu, it must be from 1 to %zu", path, CONFIG_SIZES[i].key,
                *config_size(&c, i), CONFIG_SIZES[i].limit);
    if (c.channels % c.heads)
        die("%s: n_embd (%zu) must be a multiple of n_head (%zu)", path, c.channels, c.heads);
    return c;
}

/* Sets floats to what a file holds.  Both kinds of half precision are a float with fewer bits:
 * BF16 is its upper half; F16 has 5 bits of exponent instead of 8, and 10 of mantissa instead
 * of 23.  Its exponent counts from 15 and not from 127, which a factor of 2^112 makes up for,
 * also for the smallest numbers, which have no leading 1.  65504 is the largest. */
static void numbers_convert(float *to, const unsigned char *from, const char *dtype,
                            size_t count) {
    bool f16 = !strcmp(dtype, "F16"), f32 = !strcmp(dtype, "F32");
    if (f32) memcpy(to, from, count * sizeof *to);
    for (size_t i = 0; !f32 && i < count; i++) {
        uint32_t half = (uint32_t)bytes_number(from + 2 * i, 2), bits = half << 16;
        if (f16) bits = (half & 0x8000) << 16 | (half & 0x7FFF) << 13;
        memcpy(&to[i], &bits, sizeof bits);
        if (f16) to[i] *= 0x1p112f;
        if (f16 && fabsf(to[i]) >= 0x1p16f) to[i] = NAN;
    }
}

/* Reads the tensor of the file that is named prefix + t->name into an arena.  Of a larger one
 * than the model's, as wpe may be, only t->count numbers are kept.  A bias that the model does
 * not have may be missing or 0. */
static void tensor_read(const SafeTensors *file, const char *prefix, const Tensor *t,
                        float *arena) {
    Text name = text_of("%s%s", prefix, t->name);
    SafeTensor from = safetensors_find(file, name.chars);
    size_t count = t->shape[0] * t->shape[1];
    float *to = arena + t->offset;
    if (!from.numbers && !t->count) return;
    if (!from.numbers) die("%s: tensor %s is missing", file->path, name.chars);
    bool known = !strcmp(from.dtype, "F32") || !strcmp(from.dtype, "F16") ||
                 !strcmp(from.dtype, "BF16");
    if (!known || from.rank != t->rank || from.bytes != count * dtype_bytes(from.dtype) ||
        memcmp(from.shape, t->shape, sizeof t->shape) != 0)
        die("%s: tensor %s has %zu bytes, type %s and shape (%zu, %zu); the model needs type "
            "F32, F16 or BF16 and shape (%zu, %zu)", file->path, name.chars, from.bytes,
            from.dtype, from.shape[0], from.shape[1], t->shape[0], t->shape[1]);
    numbers_convert(to, from.numbers, from.dtype, t->count);
    for (size_t i = 0; i < t->count; i++)
        if (!isfinite(to[i]))
            die("%s: tensor %s holds a number that is not finite", file->path, name.chars);
    for (size_t i = 0; !t->count && i < from.bytes; i++)
        if (from.numbers[i])
            die("%s: there are no biases in this model, but %s is not 0", file->path,
                name.chars);
}

/* Reads DIR/config.json and the weights; the model gets the first `context` positions, or all
 * if it is 0.  The caller calls gpt_destroy. */
GPT *model_read(const char *folder, size_t context, bool training) {
    Text path = text_of("%s/model.safetensors", folder);
    Config config = config_read(text_of("%s/config.json", folder).chars);
    size_t positions = config.context;
    assert(context <= positions);
    if (access(path.chars, F_OK) != 0)
        die("%s: no such file; if the model is in several files or in another form: python3 "
            "dev/data/convert_model.py %s NEW_FOLDER", path.chars, folder);
    SafeTensors *file = safetensors_open(path.chars);
    if (config_parameters(&config) > file->size / 2) /* before a byte is allocated */
        die("%s: holds fewer numbers than the model of %s/config.json has", path.chars, folder);
    if (context) config.context = context;
    GPT *gpt = gpt_create(&config, training);
    for (size_t i = 0; i < gpt->tensor_count; i++) {
        Tensor t = gpt->table[i];
        if (i == WPE) t.shape[0] = positions; /* in the file */
        tensor_read(file, "", &t, gpt->weights);
    }
    SafeTensor head = safetensors_find(file, "lm_head.weight");
    SafeTensor wte = safetensors_find(file, TENSOR_KINDS[WTE].name);
    if (head.numbers &&
        (head.bytes != wte.bytes || memcmp(head.numbers, wte.numbers, wte.bytes) != 0))
        die("%s: lm_head.weight is not the same as wte.weight, as it must be here", file->path);
    safetensors_close(file);
    return gpt;
}

bool model_exists(const char *folder) {
    return access(text_of("%s/model.safetensors", folder).chars, F_OK) == 0;
}

/* Writes a model folder.  With a tokenizer it may replace another model, whose weights go
 * first: at no instant do weights have the config.json or the tokenizer of another model.  NULL
 * says that only the weights are new.  settings: see state_write. */
void model_write(const GPT *gpt, const Tokenizer *tokenizer, const char *settings,
                 const char *folder) {
    Text path = text_of("%s/model.safetensors", folder);
    char *metadata = text_format("\"format\": \"pt\"%s", settings);
    folder_create(folder);
    if (tokenizer) {
        file_remove(path.chars);
        tokenizer_save(tokenizer, folder);
        config_write(&gpt->config, text_of("%s/config.json", folder).chars);
    }
    safetensors_write(path.chars, metadata, gpt, &(Arena){"", gpt->weights}, 1);
    free(metadata);
}

/* --- The state of a run ---------------------------------------------------------------------
 * The position in the data and every random draw are functions of the seed and the step
 * (section 2), so no generator has a state to be saved.  Besides weights, moments and settings
 * a run knows no more than this: */
typedef struct {
    double best_loss, shown_loss; /* validation loss of the best model, and the latest one */
    uint64_t best_step, bad_evaluations; /* step of the best; evaluations since then */
    double seconds;                      /* of work so far */
    uint64_t corpus;                     /* corpus_hash of the tokens trained on */
} Progress;

/* Another text, or another tokenizer, has in all likelihood another number.  It is below 2^53,
 * so that a double holds it. */
uint64_t corpus_hash(const Corpus *corpus) {
    uint64_t hash = corpus->count;
    for (size_t i = 0; i < corpus->count; i++) hash = random_bits(hash, corpus->tokens[i]);
    return hash >> 11;
}

enum { STATE_VERSION = 2 };

/* As soon as the file has its name, the run is saved.  settings: members of a JSON object, a
 * comma before each. */
static void state_write(const char *path, const GPT *gpt, const Optimizer *optimizer,
                        const Progress *p, const char *settings) {
    const Arena arenas[] = {{"", gpt->weights}, {"m.", optimizer->m}, {"v.", optimizer->v}};
    char *metadata = text_format(
        "\"version\": \"%d\", \"vocab\": \"%zu\", \"step\": \"%" PRIu64 "\", "
        "\"best_loss\": \"%.17g\", \"shown_loss\": \"%.17g\", \"best_step\": \"%" PRIu64 "\", "
        "\"bad_evaluations\": \"%" PRIu64 "\", \"seconds\": \"%.3f\", \"corpus\": \"%" PRIu64
        "\"%s", STATE_VERSION, gpt->config.vocab, optimizer->step, p->best_loss, p->shown_loss,
        p->best_step, p->bad_evaluations, p->seconds, p->corpus, settings);
    safetensors_write(path, metadata, gpt, arenas, 3);
    free(metadata);
}

/* A number of the metadata.  A loss may be infinite or NaN; counts must be whole. */
static double state_number(const SafeTensors *file, const char *key, bool whole) {
    char text[64], *end = text;
    double x = metadata_text(file, key, text, sizeof text) ? strtod(text, &end) : NAN;
    if (end == text || *end || x < 0 || (whole && !(x <= 0x1p53 && x == floor(x))))
        die("%s: \"%s\" is missing or out of range", file->path, key);
    return x;
}

Progress state_progress(const SafeTensors *file) {
    return (Progress){
        .best_loss = state_number(file, "best_loss", false),
        .shown_loss = state_number(file, "shown_loss", false),
        .best_step = (uint64_t)state_number(file, "best_step", true),
        .bad_evaluations = (uint64_t)state_number(file, "bad_evaluations", true),
        .seconds = state_number(file, "seconds", false),
        .corpus = (uint64_t)state_number(file, "corpus", true),
    };
}

/* Opens DIR/state.safetensors.  The caller calls safetensors_close. */
SafeTensors *state_open(const char *folder) {
    SafeTensors *file = safetensors_open(text_of("%s/state.safetensors", folder).chars);
    if (state_number(file, "version", true) != STATE_VERSION)
        die("%s: is not of version %d, which this program writes and reads", file->path,
            STATE_VERSION);
    return file;
}

/* The model and the optimizer as they were saved.  The caller calls gpt_destroy and
 * optimizer_destroy. */
GPT *state_read(const SafeTensors *file, const Config *config, Optimizer **optimizer) {
    Config full = *config; /* all biases are in the file */
    full.bias = true;
    if (config->vocab > VOCAB_MAX ||
        file->size - file->header != 3 * sizeof(float) * config_parameters(&full))
        die("%s: does not hold the tensors that its settings say: damaged or not complete",
            file->path);
    GPT *gpt = gpt_create(config, true);
    *optimizer = optimizer_create(gpt->parameter_count);
    (*optimizer)->step = (uint64_t)state_number(file, "step", true);
    for (size_t i = 0; i < gpt->tensor_count; i++) {
        tensor_read(file, "", &gpt->table[i], gpt->weights);
        tensor_read(file, "m.", &gpt->table[i], (*optimizer)->m);
        tensor_read(file, "v.", &gpt->table[i], (*optimizer)->v);
    }
    return gpt;
}

/* =========================================================================================
 * 10. Inference                                                       [glossary: Inference]
 *
 * Generation is a loop: logits for the last token, draw one from them, append it.  A token's
 * keys and values depend on the tokens before it only, so they are computed once and kept: the
 * KV cache.  There are no gradients, no moments, and activations for a few tokens only.
 * Several sequences can be continued together, each with a length of its own.
 * ====================================================================================== */

enum { DECODE_ROWS = 64 }; /* tokens of a prompt that go through the model together */

/* A cache for B sequences.  The caller calls cache_destroy. */
Cache *cache_create(const Config *config, size_t B) {
    Cache *cache = memory_allocate(1, sizeof *cache);
    size_t each = B * cache_floats(config) / 2;
    cache->B = B;
    cache->lengths = memory_allocate(B, sizeof *cache->lengths);
    cache->keys = memory_allocate(each, sizeof *cache->keys);
    cache->values = memory_allocate(each, sizeof *cache->values);
    size_t rows = B > DECODE_ROWS ? B : DECODE_ROWS;
    cache->a = activations_create(config, 1, rows, KEEP_NOTHING, 1);
    cache->a->cache = cache;
    return cache;
}

void cache_destroy(Cache *cache) {
    if (!cache) return;
    activations_destroy(cache->a);
    free(cache->lengths);
    free(cache->keys);
    free(cache->values);
    free(cache);
}

/* Reads the next T tokens of B sequences, of which `first` is the first; tokens (B,T).  B or T
 * must be 1: the many tokens of one prompt, or the next token of many sequences.  Sets logits
 * (B,V), those after each one's last token.  They are, to the last bit, those of gpt_forward on
 * the whole text. */
void gpt_decode(const GPT *gpt, Cache *cache, size_t first, size_t B, const int32_t *tokens,
                size_t T, float *logits) {
    Activations *a = cache->a;
    size_t C = gpt->config.channels, rows = 0, *lengths = cache->lengths + first;
    assert(T && (B == 1 || T == 1) && first + B <= cache->B);
    cache->first = first;
    for (size_t start = 0; start < T; start += rows) {
        rows = T - start < DECODE_ROWS ? T - start : DECODE_ROWS;
        for (size_t b = 0; b < B; b++) {
            const float *wte = weight_of(gpt, WTE, 0);
            const float *wpe = weight_of(gpt, WPE, 0) + lengths[b] * C; /* of the next one */
            assert(lengths[b] + rows <= gpt->config.context);
            embedding_forward(a->layers[0].x + b * C, tokens + b + start, wte, wpe, 1, rows, C);
        }
        for (size_t l = 0; l < gpt->config.layers; l++) gpt_block_forward(gpt, a, l, B, rows);
        for (size_t b = 0; b < B; b++) lengths[b] += rows;
    }
    gpt_final_norm(gpt, a, B, rows);
    gpt_logits(gpt, a, logits, rows - 1, B);
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

/* Draws a token from logits (V); u is uniform in [0, 1).  scratch: (V). */
uint32_t token_sample(const float *logits, size_t V, const Sampling *s, double u,
                      Candidate *scratch) {
    size_t best = logits_likeliest(logits, V), n = V;
    if (s->temperature == 0) return (uint32_t)best;
    for (size_t v = 0; v < V; v++)
        scratch[v] =
            (Candidate){exp(((double)logits[v] - logits[best]) / s->temperature), (uint32_t)v};
    double total = 0, sum = 0;
    if (s->top_k || s->top_p < 1) qsort(scratch, V, sizeof *scratch, candidate_compare);
    if (s->top_k && s->top_k < n) n = s->top_k;
    for (size_t v = 0; v < n; v++) total += scratch[v].weight;
    if (s->top_p < 1) {
        size_t kept = 0;
        while (kept < n && (kept == 0 || sum < s->top_p * total)) sum += scratch[kept++].weight;
        n = kept;
        total = sum;
    }
    sum = 0;
    for (size_t v = 0; v + 1 < n; v++) {
        sum += scratch[v].weight;
        if (u * total < sum) return scratch[v].token;
    }
    return scratch[n - 1].token;
}

/* --- Generation ------------------------------------------------------------------------------
 * Continues the B sequences of a cache side by side: generator_prompt for each, then
 * generator_next again and again.  What comes out are ids and the log-probabilities that the
 * model gave them; text is made of them below. */
typedef struct {
    const GPT *gpt;
    Cache *cache;
    size_t vocab; /* ids below it are drawn; a model may have more, which stand for no text */
    Sampling sampling;
    uint64_t seed, draws;   /* draws: of each sequence, so far */
    int32_t *window;        /* (B,context) the tokens that the cache has read, and the next */
    int32_t *next;          /* (B) the tokens drawn last; -1: none since the prompt */
    float *log_p;           /* (B) log p[next] of the model, at temperature 1, all tokens */
    float *logits, *lse;    /* (B,V), (B) */
    Candidate *scratch;     /* (V) */
} Generator;

/* The caller calls generator_destroy; model and cache stay the caller's. */
Generator *generator_create(const GPT *gpt, Cache *cache, size_t vocab, Sampling sampling,
                            uint64_t seed) {
    Generator *g = memory_allocate(1, sizeof *g);
    size_t B = cache->B, V = gpt->config.vocab;
    *g = (Generator){.gpt = gpt, .cache = cache, .vocab = vocab, .sampling = sampling,
                     .seed = random_bits(seed, RANDOM_SAMPLING)};
    g->window = memory_allocate(B * gpt->config.context, sizeof *g->window);
    g->next = memory_allocate(B, sizeof *g->next);
    g->log_p = memory_allocate(B, sizeof *g->log_p);
    g->lse = memory_allocate(B, sizeof *g->lse);
    g->logits = memory_allocate(B * V, sizeof *g->logits);
    g->scratch = memory_allocate(V, sizeof *g->scratch);
    return g;
}

void generator_destroy(Generator *g) {
    free(g->window);
    free(g->next);
    free(g->log_p);
    free(g->lse);
    free(g->logits);
    free(g->scratch);
    free(g);
}

/* Begins sequence b anew with a prompt of at least one token, of which the end is used if it is
 * longer than the context. */
void generator_prompt(Generator *g, size_t b, const int32_t *prompt, size_t count) {
    size_t context = g->gpt->config.context, kept = count < context ? count : context;
    int32_t *window = g->window + b * context;
    memmove(window, prompt + count - kept, kept * sizeof *window);
    g->cache->lengths[b] = 0;
    g->next[b] = -1;
    gpt_decode(g->gpt, g->cache, b, 1, window, kept, g->logits + b * g->gpt->config.vocab);
}

/* Reads what was drawn last.  When the context is full, a sequence goes on with its later half:
 * positions are learned, so a window cannot slide, and must be read again. */
static void generator_read(Generator *g) {
    size_t B = g->cache->B, context = g->gpt->config.context, V = g->gpt->config.vocab;
    bool together = true;
    for (size_t b = 0; b < B; b++)
        together &= g->next[b] >= 0 && g->cache->lengths[b] < context;
    for (size_t b = 0; b < B; b++) {
        if (g->next[b] < 0) continue;
        int32_t *window = g->window + b * context;
        size_t length = g->cache->lengths[b], keep = context > 1 ? context / 2 : 0;
        if (length == context) {
            memmove(window, window + context - keep, keep * sizeof *window);
            window[keep] = g->next[b];
            generator_prompt(g, b, window, keep + 1);
        } else {
            window[length] = g->next[b];
            if (!together)
                gpt_decode(g->gpt, g->cache, b, 1, &g->next[b], 1, g->logits + b * V);
        }
    }
    if (together) gpt_decode(g->gpt, g->cache, 0, B, g->next, 1, g->logits);
}

/* Draws the next token of every sequence: sets next (B) and log_p (B). */
void generator_next(Generator *g) {
    size_t B = g->cache->B, V = g->gpt->config.vocab;
    generator_read(g);
    for (size_t b = 0; b < B; b++) {
        double u = random_uniform(g->seed, g->draws * B + b);
        g->next[b] = (int32_t)token_sample(g->logits + b * V, g->vocab, &g->sampling, u,
                                           g->scratch);
    }
    cross_entropy_forward(g->log_p, g->lse, g->logits, g->next, B, V); /* loss = -log p */
    for (size_t b = 0; b < B; b++) g->log_p[b] = -g->log_p[b];
    g->draws++;
}

/* Generates `count` tokens after a prompt (at least one token) into a stream, each as soon as
 * it is drawn, or fewer with `line`: then it stops where the line would end.  Returns how many
 * it wrote.  cache: of one sequence. */
size_t text_generate(const GPT *gpt, Cache *cache, const Tokenizer *tokenizer,
                     const uint32_t *prompt, size_t prompt_count, size_t count, bool line,
                       const Sampling *sampling, uint64_t seed, FILE *out) {
    Generator *g = generator_create(gpt, cache, tokenizer->vocab, *sampling, seed);
    size_t i = 0, bytes;
    generator_prompt(g, 0, (const int32_t *)prompt, prompt_count);
    for (; i < count; i++) {
        generator_next(g);
        const unsigned char *text = tokenizer_token(tokenizer, (uint32_t)g->next[0], &bytes);
        if (line && bytes == 1 && *text == '\n') break;
        if (fwrite(text, 1, bytes, out) != bytes || fflush(out) != 0)
            die("cannot write the text: %s", strerror(errno));
    }
    generator_destroy(g);
    return i;
}

/* Whole rows, each begun anew with the prompt (which begins with a line feed), until `count`
 * tokens are generated: a model of rows has never seen anything after the end of one.  An
 * error of `out` stays with the stream, and the caller looks at it there. */
void rows_generate(const GPT *gpt, Cache *cache, const Tokenizer *tokenizer,
                   const uint32_t *prompt, size_t prompt_count, size_t count,
                   const Sampling *sampling, uint64_t seed, FILE *out) {
    for (size_t done = 0, i = 0; done < count; i++) {
        for (size_t t = 1, bytes; t < prompt_count; t++) {
            const unsigned char *text = tokenizer_token(tokenizer, prompt[t], &bytes);
            fwrite(text, 1, bytes, out);
        }
        done += 1 + text_generate(gpt, cache, tokenizer, prompt, prompt_count,
                                  gpt->config.context, true, sampling, random_bits(seed, i),
                                  out);
        fputc('\n', out);
    }
}

/* =========================================================================================
 * 11. The training loop                                                [glossary: Training]
 *
 * A step is batch_gradient, then optimizer_step; around it are evaluation, saving and what the
 * user sees of it.  All that changes from step to step is in weights, moments, the number of
 * the step and Progress, so that a saved run can go on to the last bit.
 * ====================================================================================== */

/* One step, but for the update: adds the gradients of a whole batch, a micro-batch of at most
 * a->B sequences at a time, and returns its mean loss.  Every target weighs 1/(targets of the
 * whole batch).  So the sum of the micro-batches' gradients is the gradient of the batch, also
 * when a micro-batch is smaller than the others, or has fewer targets; and where the batch is
 * dealt out to several ranks, the sum over ranks is that of the whole, for the gradients and
 * for what is returned.
 *           [glossary: Batch and batch size, Micro-batch, Gradient accumulation] */
double batch_gradient(GPT *gpt, Activations *a, const BatchSource *source, uint64_t step) {
    size_t T = source->T, mine = batch_share(source), before = source->rank * mine;
    size_t targets = batch_targets(source, step);
    uint64_t key = random_bits(random_bits(source->seed, RANDOM_DROPOUT), step) | 1; /* not 0 */
    double sum = 0;
    for (size_t first = 0, B; first < mine; first += B) {
        B = mine - first < a->B ? mine - first : a->B;
        batch_read(source, step, first, B, a->inputs, a->targets);
        for (size_t i = 0; i < B * T; i++) a->dlosses[i] = 1.0f / (float)targets;
        gpt_forward_backward(gpt, a, a->inputs, a->targets, a->dlosses, B, T, key,
                             before + first);
        for (size_t i = 0; i < B * T; i++) sum += a->losses[i];
    }
    return sum / (double)targets;
}

typedef struct {
    double loss;          /* mean over targets, in nats a token */
    double bits_per_byte; /* the sum of the losses in bits, divided by the targets' bytes */
    size_t tokens;        /* targets that count */
    size_t sequences;
    double accuracy; /* share of rows without a mistake, or NAN where there are no rows */
} Evaluation;

static const Evaluation NOT_EVALUATED = {NAN, NAN, 0, 0, NAN};

/* How many of B rows, after a forward pass, the model would generate without a mistake if it
 * always took the likeliest token: those whose every target is the likeliest token.  Looking
 * at the targets is enough, for up to its first mistake the model would have generated just
 * them, and so would have read what it has read here. */
static size_t rows_right(const GPT *gpt, Activations *a, const int32_t *targets, size_t B,
                         size_t T) {
    size_t V = gpt->config.vocab, right = 0;
    for (size_t b = 0; b < B; b++) {
        bool all = true;
        for (size_t n = b * T, rows; n < (b + 1) * T; n += rows) {
            rows = head_piece(a, n, (b + 1) * T);
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
    int32_t *inputs = a->inputs, *targets = a->targets;
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
    return (Evaluation){sum / (double)tokens, sum / log(2.0) / (double)bytes, tokens, sequences,
                        split->rows ? (double)right / (double)sequences : (double)NAN};
}

/* Every choice that the command line offers; section 12 has what they mean and the ranges.
 * Those before `out` say how to train, and are saved with a run; the others, what to do. */
typedef struct {
    int preset;
    const char *data; /* files; a comma before the second and any more */
    int rows;         /* NO or YES, as other ints without names of their own */
    const char *answer_after; /* one character, or NULL */
    double validation, test;  /* shares of the text */
    const char *tokenizer;
    size_t vocab, layers, heads, channels, context;
    int no_bias, recompute, precision, order, schedule, keep;
    double dropout, lr, min_lr, weight_decay, beta1, beta2, eps, clip;
    size_t batch, micro_batch;      /* sequences; micro_batch 0: the batch */
    size_t steps, warmup, cooldown; /* steps, as all ..._every are */
    size_t eval_every, eval_batches, patience, save_every, log_every;
    size_t sample, seed; /* sample: tokens */
    const char *out, *init, *resume, *model;
    int overwrite, split;
    const char *prompt; /* NULL: a line feed */
    size_t tokens, top_k, threads;
    double temperature, top_p;
} Options;

/* The sizes and rates of nanoGPT's small run on Shakespeare's characters, and a text that never
 * changes, so that figures do not either; what is not named is 0 or NULL. */
static const Options DEFAULTS = {
    .data = "dev/data/prose.txt", .validation = 0.05, .test = 0.05,
    .layers = 4, .heads = 4, .channels = 128, .context = 64, .batch = 12, .steps = 2000,
    .order = ORDER_EPOCHS, .schedule = SCHEDULE_COSINE, .lr = 1e-3, .min_lr = 1e-4,
    .warmup = 100, .cooldown = 400, .weight_decay = 0.1, .beta1 = 0.9, .beta2 = 0.99,
    .eps = 1e-8, .clip = 1.0, .eval_every = 250, .eval_batches = 20, .log_every = 50,
    .sample = 200, .seed = 1, .out = "out/model", .split = SPLIT_TEST,
    .tokens = 500, .temperature = 0.8, .top_p = 1.0,
};

/* All that one run holds on to. */
typedef struct {
    const Options *o;
    const char *settings; /* for the state, see state_write; the caller's */
    Tokenizer *tokenizer;
    Corpus corpus;
    Split splits[SPLITS];
    GPT *gpt;
    Activations *activations;
    Optimizer *optimizer;
    Cache *cache;
    BatchSource source;
    Schedule schedule;
    Progress progress;
    FILE *log;
    double peak, start;     /* FLOPs per second; clock of the first step */
    bool saved, saved_best; /* did this process write the last model, the best one? */
} Run;

/* --- Setting up a run -------------------------------------------------------------------- */

/* The text that the options name; .data is NULL if they name files of tokens. */
static Bytes data_read(const Options *o) {
    Bytes text = {NULL, 0};
    bool tokens = tokens_named(o->data);
    Text names = text_of("%s", o->data);
    for (char *name = strtok(names.chars, ","); name; name = strtok(NULL, ",")) {
        if (tokens_named(name) != tokens)
            die("%s: only one kind can be read, texts or files of tokens (.bin)", o->data);
        if (!tokens) text_append(&text, name);
    }
    if (!tokens && !text.size) die("%s: there is no text in it", o->data);
    return text;
}

/* The tokenizer that the options ask for: that of the model to start from, one that exists, or
 * a new one, learned from the share of the bytes that is trained on.  (The parts are cut later,
 * by tokens, so the two borders differ a little.) */
static Tokenizer *run_tokenizer(const Options *o, const Bytes *text) {
    const char *folder = o->resume ? o->resume : o->init ? o->init : o->tokenizer;
    if (folder) return tokenizer_load(folder);
    if (!text->data)
        die("%s: holds ids: say with --tokenizer FOLDER what they stand for", o->data);
    if (o->vocab == 0) return tokenizer_create(text->data, text->size);
    if (o->vocab == 256) return tokenizer_create(NULL, 0);
    size_t learned_from = (size_t)((double)text->size * (1.0 - o->validation - o->test));
    return tokenizer_learn(text->data, learned_from, o->vocab, false);
}

/* The shape that the options ask for; with --init they get that of the model. */
static Config run_config(Options *o, size_t vocab) {
    if (o->init) {
        Config c = config_read(text_of("%s/config.json", o->init).chars);
        if (!o->context) o->context = c.context;
        if (o->context > c.context)
            die("%s: the model has a context of %zu: --context %zu is more than that", o->init,
                c.context, o->context);
        o->layers = c.layers, o->heads = c.heads, o->channels = c.channels;
        o->no_bias = !c.bias;
        vocab = c.vocab;
    }
    return (Config){.layers = o->layers, .heads = o->heads, .channels = o->channels,
                    .context = o->context, .vocab = vocab, .bias = !o->no_bias,
                    .dropout = (float)o->dropout};
}

/* Text to tokens, in parts; rows are at most T tokens long. */
static void run_corpus(Run *run, const Bytes *text, size_t T) {
    const Options *o = run->o;
    Corpus *corpus = &run->corpus;
    if (o->rows && !text->data) die("%s: --rows needs a text, not tokens", o->data);
    if (o->rows) *corpus = corpus_rows(run->tokenizer, text, o->data, o->answer_after, T);
    else if (text->data) *corpus = corpus_text(run->tokenizer, text, o->data);
    else {
        Text names = text_of("%s", o->data);
        for (char *name = strtok(names.chars, ","); name; name = strtok(NULL, ","))
            tokens_append(corpus, name, run->tokenizer->vocab);
        for (size_t i = 0, bytes; i < corpus->count; i++, corpus->bytes += bytes)
            tokenizer_token(run->tokenizer, corpus->tokens[i], &bytes);
    }
    fprintf(stderr, "%-12s %zu bytes, %zu tokens, vocabulary %zu\n", "text", corpus->bytes,
            corpus->count, run->tokenizer->vocab);
    corpus_split(corpus, o->validation, o->test, run->splits);
    for (const Split *s = run->splits; s < run->splits + SPLITS; s++) {
        fprintf(stderr, "%-12s %zu tokens", s->name, s->count);
        if (s->rows) fprintf(stderr, " in %zu rows", s->row_count);
        fputc('\n', stderr);
    }
}

/* A part that is used must hold at least one window, or row. */
static void part_check(const Run *run, const Split *s, size_t T) {
    if (split_sequences(s, T)) return;
    die("%s: its %s part has %zu tokens, too few for one %s: take a longer text or a smaller "
        "--context than %zu", run->o->data, s->name, s->count, s->rows ? "row" : "window", T);
}

/* Memory of a run, all of it.  A new model starts from random weights, or with --init from
 * trained ones; a run that is resumed, from its state.               [glossary: Fine-tuning] */
static void run_allocate(Run *run, const Config *config, const SafeTensors *state) {
    const Options *o = run->o;
    if (state) {
        uint64_t corpus = run->progress.corpus;
        run->progress = state_progress(state);
        if (run->progress.corpus != corpus)
            die("%s: was trained on another text than %s, or with another tokenizer", o->resume,
                o->data);
        run->gpt = state_read(state, config, &run->optimizer);
        fprintf(stderr, "resumed after step %" PRIu64 "\n", run->optimizer->step);
    } else {
        run->gpt = o->init ? model_read(o->init, config->context, true)
                           : gpt_create(config, true);
        if (!o->init) gpt_initialize(run->gpt, o->seed);
        run->optimizer = optimizer_create(run->gpt->parameter_count);
    }
    run->gpt->config.dropout = config->dropout;
    run->activations = activations_create(config, o->micro_batch, config->context,
                                          o->recompute ? KEEP_STREAM : KEEP_ALL, 0);
    if (o->sample) run->cache = cache_create(config, 1);
}

/* Opens log.csv: a new one, or that of the run that is resumed up to the step of its state;
 * a header counts as step 0.  samples.txt goes on, or is begun anew. */
static void run_log(Run *run) {
    const char *header = "step,epoch,tokens,loss,val_loss,val_bits_per_byte,lr,norm,"
                         "tokens_per_second,seconds,val_accuracy,train_accuracy\n";
    const Options *o = run->o;
    Text path = text_of("%s/log.csv", o->out);
    Text old = text_of("%s/log.csv", o->resume ? o->resume : "");
    bool there = o->resume && access(old.chars, F_OK) == 0;
    char *lines = there ? (char *)file_read(old.chars).data : text_format("%s", header);
    char *end = lines, *feed;
    while ((feed = strchr(end, '\n')) && strtoull(end, NULL, 10) <= run->optimizer->step)
        end = feed + 1;
    FileWriter file = file_create(path.chars);
    file_write(&file, lines, (size_t)(end - lines));
    file_commit(&file);
    free(lines);
    run->log = fopen(path.chars, "a");
    if (!run->log) die("%s: cannot open: %s", path.chars, strerror(errno));
    if (!o->resume) file_remove(text_of("%s/samples.txt", o->out).chars);
}

/* Sets up a run that run_train can begin: text, tokenizer, model, memory, log.  Fills in what
 * the options leave open; they stay the caller's.  The caller calls run_destroy. */
void run_open(Run *run, Options *o) {
    Text old = text_of("%s/state.safetensors", o->out);
    bool there = model_exists(o->out) || access(old.chars, F_OK) == 0;
    if (there && !o->overwrite && !(o->resume && !strcmp(o->out, o->resume)))
        die("%s: already holds a model; choose another --out, or say --overwrite", o->out);
    if (!o->micro_batch) o->micro_batch = o->batch;
    *run = (Run){.o = o, .settings = "", .progress.best_loss = INFINITY};
    Bytes text = data_read(o);
    run->tokenizer = run_tokenizer(o, &text);
    SafeTensors *state = o->resume ? state_open(o->resume) : NULL;
    size_t vocab = run->tokenizer->vocab;
    Config config =
        run_config(o, state ? (size_t)state_number(state, "vocab", true) : vocab);
    if (vocab > config.vocab)
        die("%s: its tokenizer has more tokens than its model", o->init ? o->init : o->resume);
    size_t T = config.context;
    run_corpus(run, &text, T);
    free(text.data);
    run->progress.corpus = corpus_hash(&run->corpus);
    part_check(run, &run->splits[SPLIT_TRAIN], T);
    if (o->validation > 0) part_check(run, &run->splits[SPLIT_VALIDATION], T);
    run->source =
        (BatchSource){&run->splits[SPLIT_TRAIN], o->batch, T, o->order, o->seed, 0, 1};
    run->schedule = (Schedule){o->schedule, (float)o->lr, (float)o->min_lr,
                               o->warmup,   o->steps,     o->cooldown};
    tensors_print(stderr, &config);
    budget_print(stderr, &config, o->micro_batch, o->recompute ? KEEP_STREAM : KEEP_ALL,
                 (double)o->steps * batch_tokens(&run->source),
                 (double)run->splits[SPLIT_TRAIN].count);
    run_allocate(run, &config, state);
    if (state) safetensors_close(state);
    product_precision = o->precision;
    run->peak = peak_flops();
    fprintf(stderr, "%d threads, %.0f GFLOP/s at best%s\n\n", thread_count(), run->peak / 1e9,
            o->precision == BF16 ? " in float32; products in bf16" : "");
    folder_create(o->out);
    run_log(run);
}

void run_destroy(Run *run) {
    if (run->log && fclose(run->log) != 0)
        die("%s/log.csv: cannot write: %s", run->o->out, strerror(errno));
    tokenizer_destroy(run->tokenizer);
    gpt_destroy(run->gpt);
    activations_destroy(run->activations);
    optimizer_destroy(run->optimizer);
    cache_destroy(run->cache);
    free(run->corpus.tokens);
    free(run->corpus.rows);
}

/* --- What the user sees ------------------------------------------------------------------ */

/* A line every log_every steps, where `step` are done. */
static void progress_show(Run *run, uint64_t step, double loss, double norm, float lr) {
    const Options *o = run->o;
    double elapsed = clock_seconds() - run->start, done = (double)step;
    double rate = batch_tokens(&run->source) * done / elapsed;
    double peak = rate * flops_per_token(&run->gpt->config, run->source.T) / run->peak;
    size_t left = (size_t)(elapsed / done * ((double)o->steps - done)); /* seconds */
    if (step != 1 && step != o->steps && step % o->log_every) return;
    fprintf(stderr, "step %" PRIu64 "/%zu  epoch %.2f  loss %.4f", step, o->steps,
            batch_epochs(&run->source, step), loss);
    if (run->splits[SPLIT_VALIDATION].count)
        fprintf(stderr, "  val %.4f", run->progress.shown_loss);
    fprintf(stderr, "  lr %.2e  norm %.3f  %.0f tok/s  %.0f%% of peak  %zu:%02zu left\n", lr,
            norm, rate, 100 * peak, left / 60, left % 60);
}

/* A line of log.csv; what is not known (NAN) stays empty.  e, t: evaluations of the validation
 * and of the training part. */
static void log_line(Run *run, uint64_t step, double loss, const Evaluation *e,
                     const Evaluation *t, double lr, double norm) {
    double elapsed = clock_seconds() - run->start;
    double tokens = batch_tokens(&run->source) * (double)step;
    const double columns[] = {
        loss, e->loss, e->bits_per_byte, lr, norm, step ? tokens / (elapsed + 1e-9) : NAN,
        elapsed, e->accuracy, t->accuracy,
    };
    fprintf(run->log, "%" PRIu64 ",%.4f,%.0f", step, batch_epochs(&run->source, step), tokens);
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        fprintf(run->log, isnan(columns[i]) ? "," : ",%.9g", columns[i]);
    fputc('\n', run->log);
    if (fflush(run->log) != 0 || ferror(run->log))
        die("%s/log.csv: cannot write: %s", run->o->out, strerror(errno));
}

/* Goes on from a prompt for `count` tokens, or in whole rows that begin with it. */
static void run_generate(Run *run, const uint32_t *prompt, size_t prompt_count, size_t count,
                         FILE *out) {
    Sampling sampling = {run->o->temperature, run->o->top_k, run->o->top_p};
    if (run->o->rows)
        rows_generate(run->gpt, run->cache, run->tokenizer, prompt, prompt_count, count,
                      &sampling, run->o->seed, out);
    else {
        text_generate(run->gpt, run->cache, run->tokenizer, prompt, prompt_count, count, false,
                      &sampling, run->o->seed, out);
        fputc('\n', out);
    }
}

/* Shows what the model would generate now, and adds it to samples.txt: from the first token of
 * the text on, or as rows with the last row's prompt; in the precision of the run. */
static void sample_show(Run *run, uint64_t step) {
    const Corpus *c = &run->corpus;
    const Row *last = run->o->rows ? &c->rows[c->row_count - 1] : NULL;
    Text path = text_of("%s/samples.txt", run->o->out);
    char *text;
    size_t size;
    FILE *stream = open_memstream(&text, &size), *file = fopen(path.chars, "a");
    if (!stream || !file) die("%s: cannot open: %s", path.chars, strerror(errno));
    run_generate(run, c->tokens + (last ? last->start : 0),
                 last ? last->answer - last->start : 1, run->o->sample, stream);
    if (fclose(stream) != 0) die("no memory for a sample");
    fputs(last ? "--- sample:\n" : "--- sample: ", stderr);
    fwrite(text, 1, size, stderr);
    fputs("---\n", stderr);
    fprintf(file, "--- step %" PRIu64 "\n", step);
    bool written = fwrite(text, 1, size, file) == size;
    free(text);
    if (fclose(file) != 0 || !written)
        die("%s: cannot write: %s", path.chars, strerror(errno));
}

/* Ends the run because a number is not finite. */
static void run_fail(const Run *run, uint64_t step, const char *what) {
    die("step %" PRIu64 ": %s is not a finite number; %s keeps what was saved last; a lower "
        "--lr or --clip, or more --warmup may help", step, what, run->o->out);
}

/* Evaluates, logs, shows a sample.  Is the model the best so far?  One that has not learned
 * anything here cannot be, unless --init brought it. */
static bool evaluation_run(Run *run, uint64_t step, double loss, double lr, double norm) {
    const Options *o = run->o;
    Progress *p = &run->progress;
    size_t V = run->gpt->config.vocab, sequences = o->eval_batches * o->batch;
    bool learned = step > 0 || o->init, improved = step > 0;
    Evaluation e = NOT_EVALUATED, t = NOT_EVALUATED;
    if (run->splits[SPLIT_VALIDATION].count) {
        e = split_evaluate(run->gpt, run->activations, run->tokenizer,
                           &run->splits[SPLIT_VALIDATION], sequences);
        if (!isfinite(e.loss)) run_fail(run, step, "the validation loss");
        improved = learned && e.loss < p->best_loss;
        if (improved) p->best_loss = e.loss, p->best_step = step;
        p->bad_evaluations = improved ? 0 : p->bad_evaluations + (step > 0);
        p->shown_loss = e.loss;
        fprintf(stderr, "step %" PRIu64 ": validation loss %.4f, perplexity %.4g, %.3f bits "
                "per byte", step, e.loss, exp(e.loss), e.bits_per_byte);
        if (o->rows) fprintf(stderr, ", %.2f%% of rows right", 100 * e.accuracy);
        fputs(improved ? " (best so far)\n" : "\n", stderr);
        if (!learned)
            fprintf(stderr, "an untrained model should score ln V = ln %zu = %.4f\n", V,
                    log((double)V));
    }
    if (o->rows) /* what is memorized, next to what is understood */
        t = split_evaluate(run->gpt, run->activations, run->tokenizer,
                           &run->splits[SPLIT_TRAIN], sequences);
    log_line(run, step, loss, &e, &t, lr, norm);
    if (step > 0 && o->sample) sample_show(run, step);
    return improved;
}

/* --- Saving ------------------------------------------------------------------------------ */

/* Writes the model and the state into a folder.  The state's rename comes last: it is the
 * save, and by then the model's files have their names on the disk. */
static void save_write(Run *run, const Tokenizer *tokenizer, const char *folder) {
    model_write(run->gpt, tokenizer, run->settings, folder);
    state_write(text_of("%s/state.safetensors", folder).chars, run->gpt, run->optimizer,
                &run->progress, run->settings);
}

/* Saves the run, and before it all that it should be able to rely on: the log, the best model
 * if it is this one, and with --keep a copy of the save.         [glossary: Checkpoint] */
static void run_save(Run *run, bool improved) {
    const Options *o = run->o;
    uint64_t step = run->optimizer->step;
    size_t P = run->gpt->parameter_count;
    Text best = text_of("%s/best", o->out);
    if (!isfinite(gradient_norm(run->gpt->weights, P) + gradient_norm(run->optimizer->m, P) +
                  gradient_norm(run->optimizer->v, P)))
        run_fail(run, step, "a weight or a moment of Adam");
    run->progress.seconds = clock_seconds() - run->start;
    if (fsync(fileno(run->log)) != 0 && errno != EINVAL)
        die("%s/log.csv: cannot write: %s", o->out, strerror(errno));
    if (!run->saved && !o->resume) /* an older run's best model is not this run's */
        file_remove(text_of("%s/model.safetensors", best.chars).chars);
    if (improved)
        model_write(run->gpt, run->saved_best ? NULL : run->tokenizer, run->settings,
                    best.chars);
    if (o->keep)
        save_write(run, run->tokenizer, text_of("%s/step-%" PRIu64, o->out, step).chars);
    save_write(run, run->saved ? NULL : run->tokenizer, o->out);
    run->saved = true;
    run->saved_best |= improved;
}

/* --- The loop ---------------------------------------------------------------------------- */

static volatile sig_atomic_t interrupted; /* the signal's number, looked at after each step */

static void interrupt(int signal_number) { interrupted = signal_number; }

static void run_report(const Run *run, uint64_t step) {
    const Options *o = run->o;
    const Progress *p = &run->progress;
    Text best = text_of("%s/best", o->out);
    bool there = model_exists(best.chars);
    if (interrupted)
        fprintf(stderr, "interrupted after step %" PRIu64 ", which is saved; to go on: "
                "./train --resume %s\n", step, o->out);
    else if (step < o->steps)
        fprintf(stderr, "stopped early: no better validation loss in %zu evaluations\n",
                o->patience);
    printf("%" PRIu64 " steps in %.1f s", step, clock_seconds() - run->start);
    if (isfinite(p->best_loss))
        printf(", best validation loss %.4f at step %" PRIu64, p->best_loss, p->best_step);
    printf("\nthe last model is in %s%s%s\nto generate text: ./train generate%s --model %s\n",
           o->out, there ? ", the best in " : "", there ? best.chars : "",
           o->rows ? " --rows" : "", there ? best.chars : o->out);
}

/* The loop itself.  Ends after o->steps steps, on Ctrl-C or SIGTERM, or when the validation
 * loss no longer falls.  Begins after the last step that the optimizer has done: 0, or where
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
    if (step == 0 && evaluation_run(run, 0, NAN, NAN, NAN)) run_save(run, true);
    bool saved = false;
    while (step < o->steps && !(interrupted && saved) &&
           !(o->patience && run->progress.bad_evaluations >= o->patience)) {
        float lr = learning_rate(&run->schedule, step);
        gradients_clear(run->gpt);
        double loss = batch_gradient(run->gpt, run->activations, &run->source, step);
        double norm = optimizer_step(run->gpt, run->optimizer, &update, lr);
        step++;
        if (!isfinite(loss) || !isfinite(norm))
            run_fail(run, step, isfinite(loss) ? "the gradient" : "the loss");
        progress_show(run, step, loss, norm, lr);
        bool due = step % o->eval_every == 0 || step == o->steps, improved = false;
        if (due) improved = evaluation_run(run, step, loss, lr, norm);
        else log_line(run, step, loss, &NOT_EVALUATED, &NOT_EVALUATED, lr, norm);
        saved = due || interrupted || (o->save_every && step % o->save_every == 0);
        if (saved) run_save(run, improved);
    }
    run_report(run, step);
}

/* =========================================================================================
 * 12. Command line                                             [glossary: Hyperparameters]
 *
 * An option is set by the last of these that names it: DEFAULTS, the preset, what the run
 * (--resume) or the model (eval) was saved with, the command line.  All of them are texts such
 * as --lr=1e-3, and one function, option_set, reads them.
 * ====================================================================================== */

#ifndef TRAIN_NO_MAIN

/* The first letter of each stands for it. */
static const char *const COMMANDS[] = {"train", "generate", "eval", "info", NULL};

/* nano is DEFAULTS; baby has the sizes of nanoGPT's larger run on Shakespeare's characters,
 * gpt2 those of GPT-2 small. */
static const char *const PRESET_NAMES[] = {"nano", "baby", "gpt2", NULL};
static const char *const PRESETS[][12] = {
    {NULL},
    {"--layers=6", "--heads=6", "--channels=384", "--context=256", "--batch=64",
     "--micro-batch=8", "--steps=5000", "--dropout=0.2"},
    {"--layers=12", "--heads=12", "--channels=768", "--context=1024", "--batch=32",
     "--micro-batch=4", "--steps=5000", "--warmup=500", "--lr=6e-4", "--beta2=0.95"},
};
static const char *const NO_YES[] = {"no", "yes", NULL};

/* The field of Options, whose name with hyphens is the option's; the letters of the commands
 * that take it, and r if it may change with --resume; range or choices; help; the term of the
 * glossary. */
typedef struct {
    const char *name, *commands;
    enum { COUNT, REAL, CHOICE, TEXT } type; /* size_t, double, int, const char * */
    size_t field;     /* where it begins in Options */
    double low, high; /* inclusive */
    const char *const *choices;
    const char *help, *term;
} OptionRow;
#define ROW(name, by, type, low, high, choices, help, term) \
    {#name, by, type, offsetof(Options, name), low, high, choices, help, term}
#define COUNT(name, by, low, high, ...) ROW(name, by, COUNT, low, high, NULL, __VA_ARGS__)
#define REAL(name, by, low, high, ...) ROW(name, by, REAL, low, high, NULL, __VA_ARGS__)
#define CHOICE(name, by, choices, ...) ROW(name, by, CHOICE, 0, 0, choices, __VA_ARGS__)
#define TEXT(name, by, ...) ROW(name, by, TEXT, 0, 0, NULL, __VA_ARGS__)

static const OptionRow OPTIONS[] = {
    CHOICE(preset, "ti", PRESET_NAMES, "sizes and rates, listed below", "Hyperparameters"),
    TEXT(data, "ter", "the text: FILE, or FILE,FILE and so on", "Training corpus"),
    CHOICE(rows, "teg", NO_YES, "each line is a sequence of its own", "Training set"),
    TEXT(answer_after, "te", "what ends a row's prompt", "Supervised fine-tuning (SFT)"),
    REAL(validation, "te", 0, 0.9, "share of the text kept for validation", "Validation set"),
    REAL(test, "te", 0, 0.9, "share of the text kept for the final test", "Test set"),
    COUNT(vocab, "ti", 0, 1048576, "0: bytes that occur; 256: all; more: BPE", "Vocabulary"),
    TEXT(tokenizer, "t", "folder with a tokenizer, such as GPT-2's", "Tokenization"),
    COUNT(layers, "ti", 1, 1000, "blocks, L", "Transformer"),
    COUNT(heads, "ti", 1, 1000, "attention heads, H; divide C", "Self-attention"),
    COUNT(channels, "ti", 1, 65536, "width of the model, C", "Embedding"),
    COUNT(context, "ti", 1, 65536, "tokens that it can look back on, T", "Self-attention"),
    CHOICE(no_bias, "ti", NO_YES, "no biases in layers and norms", "Parameters (weights)"),
    REAL(dropout, "ti", 0, 0.99, "share of activations set to 0", "Dropout"),
    COUNT(batch, "tei", 1, 1048576, "sequences in a step, B", "Batch and batch size"),
    COUNT(micro_batch, "teir", 0, 1048576, "sequences at once; 0: B", "Gradient accumulation"),
    CHOICE(recompute, "tir", NO_YES, "blocks run twice: less memory, more time",
     "Activation checkpointing (recomputation)"),
    CHOICE(precision, "te", PRECISION_NAMES, "of what products multiply", "Mixed precision"),
    COUNT(steps, "tir", 1, 1e12, "updates of the weights", "Iteration / step"),
    CHOICE(order, "t", ORDER_NAMES, "each window once an epoch, or at random", "Epoch"),
    REAL(lr, "tr", 0, 1e9, "highest learning rate", "Learning rate"),
    REAL(min_lr, "tr", 0, 1e9, "last learning rate; if not given, lr/10", "Cosine decay"),
    CHOICE(schedule, "tr", SCHEDULE_NAMES, "from lr to min-lr", "Learning rate schedule"),
    COUNT(warmup, "tr", 0, 1e12, "steps over which the rate rises to lr", "Warmup"),
    COUNT(cooldown, "tr", 0, 1e12, "trapezoid's end; else steps/5", "Learning rate schedule"),
    REAL(weight_decay, "t", 0, 1e3, "pull towards 0", "Weight decay (L2 regularization)"),
    REAL(beta1, "t", 0, 0.9999999, "memory of Adam's mean gradient", "AdamW"),
    REAL(beta2, "t", 0, 0.9999999, "memory of Adam's mean square", "AdamW"),
    REAL(eps, "t", 1e-30, 1, "keeps Adam's division finite", "AdamW"),
    REAL(clip, "t", 0, 1e9, "limit of the gradient's norm; 0: no", "Gradient clipping"),
    COUNT(eval_every, "tr", 1, 1e12, "steps between evaluations", "Validation set"),
    COUNT(eval_batches, "ter", 0, 1e9, "batches in each; 0: the whole part", "Validation set"),
    COUNT(patience, "tr", 0, 1e9, "stop after so many bad evaluations", "Early stopping"),
    COUNT(save_every, "tr", 0, 1e12, "steps between extra saves; 0: none", "Checkpoint"),
    CHOICE(keep, "tr", NO_YES, "keep each save as OUT/step-N, to be resumed", "Checkpoint"),
    COUNT(log_every, "tr", 1, 1e9, "steps between progress lines", "Loss function"),
    COUNT(sample, "tr", 0, 1e6, "tokens to generate at each evaluation", "Inference"),
    COUNT(seed, "tgei", 0, 9e15, "of all that is drawn at random", "Hyperparameters"),
    TEXT(out, "tr", "folder for the model and log.csv", "Checkpoint"),
    CHOICE(overwrite, "t", NO_YES, "replace the model in --out", "Checkpoint"),
    TEXT(init, "t", "start from the model in this folder", "Fine-tuning"),
    TEXT(resume, "tr", "go on with the run in this folder, bit for bit", "Checkpoint"),
    TEXT(model, "gei", "folder of a trained model", "Checkpoint"),
    CHOICE(split, "e", SPLIT_NAMES, "the part to evaluate on", "Test set"),
    TEXT(prompt, "g", "text to go on from; none: a line feed", "Inference"),
    COUNT(tokens, "g", 1, 1e9, "tokens to generate", "Inference"),
    REAL(temperature, "g", 0, 100, "below 1: safer; 0: always the likeliest", "Inference"),
    COUNT(top_k, "g", 0, 1e9, "draw from the k likeliest; 0: from all", "Inference"),
    REAL(top_p, "g", 1e-9, 1, "draw from the likeliest of this probability", "Inference"),
    COUNT(threads, "tgeir", 0, 1024, "0: one per core", "Compute budget (FLOPs)"),
};
enum { OPTION_ROWS = sizeof OPTIONS / sizeof *OPTIONS };
static bool given[OPTION_ROWS]; /* is it in the words that were read last? */

static Text option_name(const OptionRow *row) { /* as --micro-batch */
    Text name = text_of("--%s", row->name);
    for (char *c = name.chars; (c = strchr(c, '_')); *c = '-') {}
    return name;
}

/* The row of an option named by `length` bytes, or NULL. */
static const OptionRow *option_find(const char *name, size_t length) {
    for (const OptionRow *row = OPTIONS; row < OPTIONS + OPTION_ROWS; row++) {
        Text whole = option_name(row);
        if (strlen(whole.chars) == length && !memcmp(whole.chars, name, length)) return row;
    }
    return NULL;
}

static bool option_given(const char *name) {
    return given[option_find(name, strlen(name)) - OPTIONS];
}

/* The text that would set the option as it is, empty if there is none. */
static Text option_text(const Options *o, const OptionRow *row) {
    const void *field = (const char *)o + row->field;
    const char *text = row->type == TEXT ? *(const char *const *)field : NULL;
    if (row->type == TEXT) return text_of("%s", text ? text : "");
    if (row->type == COUNT) return text_of("%zu", *(const size_t *)field);
    if (row->type == CHOICE) return text_of("%s", row->choices[*(const int *)field]);
    double value = *(const double *)field;
    Text shortest = text_of("%.15g", value); /* 17 digits name any double */
    return strtod(shortest.chars, NULL) == value ? shortest : text_of("%.17g", value);
}

/* Puts the text of one option into its field, or refuses it; `source` names the file that the
 * text is from, if it is not from the command line. */
static void option_set(Options *o, const OptionRow *row, const char *text, const char *source) {
    void *field = (char *)o + row->field;
    Text name = option_name(row);
    char *end;
    double value = strtod(text, &end);
    bool whole = row->type == COUNT;
    int n = 0;
    if (row->type == TEXT) *(const char **)field = text;
    else if (row->type == CHOICE) {
        while (row->choices[n] && strcmp(text, row->choices[n])) n++;
        if (!row->choices[n])
            die_usage("%s%s: '%s' is none of its values; see ./train --help", source,
                      name.chars, text);
        *(int *)field = n;
    } else if (*end || strspn(text, whole ? "0123456789" : "+-.0123456789eE") < strlen(text) ||
               !(value >= row->low && value <= row->high))
        die_usage("%s%s: '%s' is not a %s from %.15g to %.15g", source, name.chars, text,
                  whole ? "whole number" : "number", row->low, row->high);
    else if (whole) *(size_t *)field = (size_t)strtoull(text, NULL, 10);
    else *(double *)field = value;
}

static void help_print(void) {
    printf("Trains a GPT on text, and lets it generate.\n\n"
           "usage: ./train [COMMAND] [--OPTION VALUE]...\n\n"
           "  train      train a model (also when no command is named)\n"
           "  generate   let a model generate text\n"
           "  eval       loss, perplexity and bits per byte of a model on a part of a text\n"
           "  info       tensors, memory and compute of a model, or of one to be trained\n"
           "\nIn brackets: the default; the range or the choices (--rows alone is --rows=yes); "
           "the\ncommands that take it, by their first letter (r: may change with --resume); "
           "the term in\ndoc/glossary.md.  --resume and eval take from the run what is not "
           "given (eval: but not\n--eval-batches, which is then 0).\n\n");
    for (const OptionRow *row = OPTIONS; row < OPTIONS + OPTION_ROWS; row++) {
        Text standard = option_text(&DEFAULTS, row);
        printf("  %-15s %s\n%17s[%s; ", option_name(row).chars, row->help, "",
               *standard.chars ? standard.chars : "none");
        for (int c = 0; row->choices && row->choices[c]; c++)
            printf("%s%s", row->choices[c], row->choices[c + 1] ? ", " : "; ");
        if (row->type <= REAL) printf("%.15g to %.15g; ", row->low, row->high);
        printf("%s; %s]\n", row->commands, row->term);
    }
    for (int p = 1; PRESET_NAMES[p]; p++) {
        printf("\n--preset %s stands for", PRESET_NAMES[p]);
        for (int i = 0; PRESETS[p][i]; i++)
            printf("%s%s", i % 5 ? " " : "\n    ", PRESETS[p][i]);
    }
    putchar('\n');
}

/* The options that say how to train, as members of a JSON object, a comma before each; the
 * value is the text that would set it.  The caller frees them. */
static char *options_settings(const Options *o) {
    char *all;
    size_t size;
    FILE *stream = open_memstream(&all, &size);
    if (!stream) die("no memory for the settings");
    for (const OptionRow *row = OPTIONS; row < OPTIONS + OPTION_ROWS; row++) {
        Text text = option_text(o, row);
        if (row->field >= offsetof(Options, out) || !*text.chars) continue;
        char *quoted = json_quote(text.chars);
        fprintf(stream, ", \"%s\": %s", option_name(row).chars, quoted);
        free(quoted);
    }
    if (fclose(stream) != 0) die("no memory for the settings");
    return all;
}

/* Sets the options that a command takes to what they were when the file was saved; a file of
 * another program has none.  The texts last as long as the program. */
static void options_recall(Options *o, SafeTensors *file, char command) {
    static Text texts[OPTION_ROWS], *text = texts;
    for (const OptionRow *row = OPTIONS; row < OPTIONS + OPTION_ROWS; row++, text++)
        if (row->field < offsetof(Options, out) && strchr(row->commands, command) &&
            metadata_text(file, option_name(row).chars, text->chars, sizeof *text))
            option_set(o, row, text->chars, text_of("%s: ", file->path).chars);
    safetensors_close(file);
}

/* Reads words up to a NULL: a command, or none for "train", and options as --lr=1e-3, or --lr
 * and 1e-3.  Refuses to change what a run that is resumed must keep.  Returns the letter of the
 * command, h for --help. */
static char options_read(Options *o, const char *const *words) {
    const Options saved = *o;
    size_t command = 0;
    memset(given, 0, sizeof given);
    if (*words && **words != '-') {
        while (COMMANDS[command] && strcmp(*words, COMMANDS[command])) command++;
        if (!COMMANDS[command]) die_usage("'%s' is not a command; see ./train --help", *words);
        words++;
    }
    for (; *words; words++) {
        if (!strcmp(*words, "--help") || !strcmp(*words, "-h")) return 'h';
        size_t length = strcspn(*words, "=");
        const char *value = (*words)[length] ? *words + length + 1 : NULL;
        const OptionRow *row = option_find(*words, length);
        if (!row) die_usage("'%s' is not an option; see ./train --help", *words);
        Text name = option_name(row);
        if (!strchr(row->commands, *COMMANDS[command]))
            die_usage("%s has no meaning for '%s'", name.chars, COMMANDS[command]);
        if (!value && row->choices == NO_YES) value = "yes";
        else if (!value && words[1] && strncmp(words[1], "--", 2)) value = *++words;
        if (!value || !*value) die_usage("%s needs a value", name.chars);
        if (row->type == TEXT && given[row - OPTIONS]) die_usage("%s comes twice", name.chars);
        given[row - OPTIONS] = true;
        option_set(o, row, value, "");
        if (!saved.resume || strchr(row->commands, 'r')) continue;
        Text old = option_text(&saved, row);
        if (strcmp(old.chars, option_text(o, row).chars))
            die_usage("%s %s: the run that was saved has %s, and cannot change it", name.chars,
                      value, *old.chars ? old.chars : "none");
    }
    return *COMMANDS[command];
}

/* Sets what depends on other options, but not in a run that is resumed, which has it; refuses
 * what cannot be meant, or would mean nothing. */
static void options_complete(Options *o, char command) {
    static const char *const shape[] = {"--context", "--layers", "--heads", "--channels",
                                        "--vocab", "--no-bias", "--tokenizer"};
    const char *folder = o->init ? o->init : o->model, *after = o->answer_after;
    if (command == 'e' && !option_given("--eval-batches")) o->eval_batches = 0;
    if (!o->micro_batch) o->micro_batch = o->batch;
    if (!o->resume) {
        if (!option_given("--min-lr")) o->min_lr = o->lr / 10;
        if (!option_given("--warmup") && o->warmup > o->steps / 10) o->warmup = o->steps / 10;
        if (!option_given("--cooldown")) o->cooldown = o->steps / 5;
        if (o->init && !option_given("--context")) o->context = 0; /* the model's own */
    }
    bool trapezoid = o->schedule == SCHEDULE_TRAPEZOID;
    size_t falling = trapezoid ? o->cooldown : 0;
    for (size_t i = o->init ? 1 : 0; folder && i < sizeof shape / sizeof *shape; i++)
        if (option_given(shape[i]))
            die_usage("%s cannot be chosen: the model in %s has its own", shape[i], folder);
    if (o->tokenizer && option_given("--vocab"))
        die_usage("--vocab cannot be chosen: the --tokenizer has its own");
    if (strchr("ge", command) && !o->model)
        die_usage("no model is named; say --model out/model/best");
    if (strchr("ti", command) && o->micro_batch > o->batch)
        die_usage("--micro-batch %zu is larger than --batch %zu", o->micro_batch, o->batch);
    if (o->channels % o->heads)
        die_usage("--heads %zu is no divisor of --channels %zu", o->heads, o->channels);
    if (o->min_lr > o->lr) die_usage("--min-lr %g is larger than --lr %g", o->min_lr, o->lr);
    if (!trapezoid && option_given("--cooldown"))
        die_usage("--cooldown belongs to --schedule trapezoid");
    if (o->warmup >= o->steps || o->warmup + falling > o->steps)
        die_usage("--steps %zu: too few for --warmup %zu and a --cooldown of %zu", o->steps,
                  o->warmup, falling);
    if (after && (!o->rows || strlen(after) != 1 || *after == '\n'))
        die_usage("--answer-after '%s': it must be one byte, and belongs to --rows", after);
    if (o->validation + o->test > 0.9)
        die_usage("--validation %g and --test %g: too much", o->validation, o->test);
    if (o->vocab && o->vocab < 256) die_usage("--vocab must be 0, or 256 or more");
}

static void command_train(Options *o) {
    Run run;
    run_open(&run, o);
    char *settings = options_settings(o);
    run.settings = settings;
    run_train(&run);
    run_destroy(&run);
    free(settings);
}

/* A model and its tokenizer, which must belong together. */
static Run model_open(const Options *o) {
    Run run = {.o = o, .gpt = model_read(o->model, 0, false)};
    product_precision = o->precision;
    run.tokenizer = tokenizer_load(o->model);
    if (run.tokenizer->vocab > run.gpt->config.vocab)
        die("%s: its tokenizer has more tokens than its model", o->model);
    return run;
}

static void command_generate(const Options *o) {
    Run run = model_open(o);
    Ids ids = {0};
    const char *prompt = o->prompt ? o->prompt : o->rows ? "" : "\n";
    const unsigned char *text = (const unsigned char *)prompt;
    run.cache = cache_create(&run.gpt->config, 1);
    text_check(run.tokenizer, text, strlen(prompt), "--prompt", 0);
    if (o->rows) { /* a row begins after the line feed of the one before */
        text_check(run.tokenizer, ROW_END, 1, "--rows: the line feed", 0);
        text_encode(run.tokenizer, ROW_END, 1, &ids);
    } else fputs(prompt, stdout);
    text_encode(run.tokenizer, text, strlen(prompt), &ids);
    run_generate(&run, ids.data, ids.count, o->tokens, stdout);
    free(ids.data);
    run_destroy(&run);
}

static void command_eval(const Options *o) {
    Bytes text = data_read(o);
    Run run = model_open(o);
    size_t T = run.gpt->config.context;
    const Split *split = &run.splits[o->split];
    run_corpus(&run, &text, T);
    free(text.data);
    part_check(&run, split, T);
    run.activations = activations_create(&run.gpt->config, o->micro_batch, T, KEEP_NOTHING, 0);
    Evaluation e = split_evaluate(run.gpt, run.activations, run.tokenizer, split,
                                  o->eval_batches * o->batch);
    printf("%s: loss %.4f, perplexity %.4g, %.4f bits per byte, over %zu tokens", split->name,
           e.loss, exp(e.loss), e.bits_per_byte, e.tokens);
    if (o->rows) printf("; %.2f%% of %zu rows right", 100 * e.accuracy, e.sequences);
    putchar('\n');
    run_destroy(&run);
}

static void command_info(Options *o) {
    bool gpt2 = !strcmp(PRESET_NAMES[o->preset], "gpt2");
    Config config = run_config(o, o->vocab ? o->vocab : gpt2 ? 50257 : 256);
    if (o->model) { /* read whole, so that a damaged file is noticed */
        GPT *gpt = model_read(o->model, 0, false);
        config = gpt->config;
        gpt_destroy(gpt);
    }
    tensors_print(stdout, &config);
    budget_print(stdout, &config, o->micro_batch, o->recompute ? KEEP_STREAM : KEEP_ALL,
                 (double)o->steps * (double)o->batch * (double)config.context, 0);
    printf("loss of an untrained model: ln V = ln %zu = %.4f\n", config.vocab,
           log((double)config.vocab));
}

int main(int argc, char **argv) {
    program_name = "train";
    const char *const *words = (const char *const *)argv + (argc > 0);
    Options line = DEFAULTS, o = DEFAULTS; /* line: only it says which preset, run or model */
    char command = options_read(&line, words);
    if (command == 'h') help_print();
    else {
        options_read(&o, PRESETS[line.preset]);
        if (line.resume) options_recall(&o, state_open(line.resume), command);
        if (line.resume) o.out = o.resume = line.resume;
        Text model = text_of("%s/model.safetensors", line.model ? line.model : "");
        if (command == 'e' && access(model.chars, F_OK) == 0)
            options_recall(&o, safetensors_open(model.chars), command);
        options_read(&o, words);
        options_complete(&o, command);
    }
#ifdef _OPENMP
    if (o.threads) omp_set_num_threads((int)o.threads);
#else
    if (o.threads > 1) die_usage("--threads: this program was built without OpenMP");
#endif
    if (command == 't') command_train(&o);
    if (command == 'g') command_generate(&o);
    if (command == 'e') command_eval(&o);
    if (command == 'i') command_info(&o);
    if (fflush(stdout) != 0 || ferror(stdout)) /* a full disk shows here at the latest */
        die("cannot write the output: %s", strerror(errno));
    return interrupted ? 128 + interrupted : 0; /* as a shell reports a program that obeyed */
}
#endif /* TRAIN_NO_MAIN */

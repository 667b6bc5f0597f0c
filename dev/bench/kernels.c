/* kernels.c - every kernel of train.c at the shapes of models, beside the machine's limits.
 *
 *     cc -std=gnu11 -O3 -march=native -fno-math-errno -fopenmp dev/bench/kernels.c \
 *         -o build/kernels -lm
 *     ./build/kernels [nano|baby|gpt2|attention|decode|all] [ROUNDS]         default: all 7
 *
 * A kernel is bound by arithmetic or by memory.  Where it multiplies matrices, its figure is
 * GFLOP/s, and the limit the multiply-add peak.  Elsewhere it is GB/s: the bytes that it must
 * read and write at least once, against what the machine moves when it does nothing else.  More
 * than 100% of that bandwidth means that the arrays fit a cache; far less, in a large model,
 * means that arithmetic or bookkeeping is in the way.
 *
 * All kernels of a model take turns over the rounds; the figures are medians.
 */
#define TRAIN_NO_MAIN
#include "../../train.c"

enum { MOST_ROUNDS = 99, MOST_ROWS = 64 };

typedef struct {
    const char *name;
    size_t layers, heads, channels, vocab, B, T;
} Shape;
static const Shape SHAPES[] = {{"nano", 4, 4, 128, 65, 12, 64},
                               {"baby", 6, 6, 384, 65, 8, 256},
                               {"gpt2", 12, 12, 768, 50257, 4, 64}};

static double peak, read_rate, copy_rate; /* FLOP/s, bytes/s */

static int double_compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* --- The machine's limits ---------------------------------------------------------------- */

enum { LARGE = 64 << 20 }; /* floats; 256 MB, more than any cache holds */

/* Bytes a second of reading an array, and of y = a x + b z, counted as two reads and a write
 * (the line of y is also fetched before it is written, as in any kernel of train.c). */
static void bandwidth_measure(void) {
    float *x = memory_allocate(LARGE, sizeof *x), *y = memory_allocate(LARGE, sizeof *y);
    float *z = memory_allocate(LARGE, sizeof *z), seen = 0;
    #pragma omp parallel for
    for (size_t i = 0; i < LARGE; i++) x[i] = y[i] = z[i] = (float)(i % 3);
    for (int attempt = 0; attempt < 5; attempt++) {
        double start = clock_seconds();
    #pragma omp parallel for reduction(+ : seen)
        for (size_t piece = 0; piece < LARGE / 65536; piece++) {
            Vector sum[4] = {{0}};
            for (size_t i = piece * 65536; i < (piece + 1) * 65536; i += 4 * WIDTH)
                UNROLL for (size_t j = 0; j < 4; j++) sum[j] += vector_load(x + i + j * WIDTH);
            seen += (sum[0] + sum[1] + sum[2] + sum[3])[0];
        }
        double middle = clock_seconds();
    #pragma omp parallel for
        for (size_t i = 0; i < LARGE; i++) y[i] = 0.5f * x[i] + 0.25f * z[i];
        double end = clock_seconds();
        double reading = 4.0 * LARGE / (middle - start + (seen == 1)); /* the sum is wanted */
        double triad = 12.0 * LARGE / (end - middle + (y[LARGE / 2] == 77));
        read_rate = reading > read_rate ? reading : read_rate;
        copy_rate = triad > copy_rate ? triad : copy_rate;
    }
    free(x);
    free(y);
    free(z);
}

/* --- Rows of a table --------------------------------------------------------------------- */

typedef struct {
    const char *name;
    double flops, bytes; /* one of them is 0: which limit counts */
    double seconds[MOST_ROUNDS];
} TableRow;
static TableRow rows[MOST_ROWS];
static size_t row_next, round_now; /* the rows come in the same order in every round */

/* Runs `call` often enough for the clock, and notes its time in the row whose turn it is.  A
 * macro, because C has no functions without names; there is no control flow in it to hide. */
#define MEASURE(title, flop_count, byte_count, call)                                           \
    do {                                                                                       \
        double start_ = clock_seconds(), end_;                                                 \
        size_t calls_ = 0;                                                                     \
        do {                                                                                   \
            call;                                                                              \
            calls_++;                                                                          \
            end_ = clock_seconds();                                                            \
        } while (end_ - start_ < 0.004);                                                       \
        row_note(title, (double)(flop_count), (double)(byte_count),                            \
                 (end_ - start_) / (double)calls_);                                            \
    } while (0)

static void row_note(const char *name, double flops, double bytes, double seconds) {
    assert(row_next < MOST_ROWS);
    TableRow *row = &rows[row_next++];
    row->name = name;
    row->flops = flops;
    row->bytes = bytes;
    row->seconds[round_now] = seconds;
}

static void rows_print(const char *title, size_t rounds) {
    double now = peak_flops(); /* once more: the highest of all counts */
    peak = now > peak ? now : peak;
    printf("\n%s\n\n| kernel | ms | GFLOP/s | GB/s | of the limit |\n|---|---|---|---|---|\n",
           title);
    for (size_t i = 0; i < row_next; i++) {
        TableRow *row = &rows[i];
        qsort(row->seconds, rounds, sizeof *row->seconds, double_compare);
        double s = row->seconds[rounds / 2];
        if (row->flops > 0)
            printf("| %s | %.3f | %.1f | | %.0f%% |\n", row->name, 1e3 * s,
                   row->flops / s / 1e9, 100 * row->flops / s / peak);
        else
            printf("| %s | %.3f | | %.1f | %.0f%% |\n", row->name, 1e3 * s,
                   row->bytes / s / 1e9, 100 * row->bytes / s / copy_rate);
    }
    fflush(stdout);
}

/* Random numbers in [-1, 1).  The caller frees them. */
static float *numbers(size_t count, uint64_t key) {
    float *x = memory_allocate(count, sizeof *x);
    for (size_t i = 0; i < count; i++) x[i] = 2 * random_uniform(key, i) - 1;
    return x;
}

/* Both directions of attention; FLOPs of the half of all pairs that is looked at. */
static void attention_measure(const char *forward, const char *backward, float *y, float *dqkv,
                              float *lse, const float *qkv, const float *dy, size_t B, size_t T,
                              size_t C, size_t H) {
    double flops = 2.0 * (double)(B * C) * (double)T * (double)(T + 1);
    Dropout none = {0};
    MEASURE(forward, flops, 0, attention_forward(y, lse, qkv, B, T, C, H, true, none));
    MEASURE(backward, 2.5 * flops, 0,
            attention_backward(dqkv, dy, y, lse, qkv, B, T, C, H, true, none));
}

/* --- A model's kernels ------------------------------------------------------------------- */

static void shape_measure(const Shape *shape, size_t rounds) {
    size_t B = shape->B, T = shape->T, C = shape->channels, H = shape->heads, V = shape->vocab;
    size_t N = B * T, F = 4 * C, wide = F > V ? F : V;
    size_t parameters = C * F;
    float *x = numbers(N * F, 1), *y = numbers(N * F, 2), *dy = numbers(N * F, 3);
    float *dx = numbers(N * F, 4), *w = numbers(C * wide, 5), *dw = numbers(C * wide, 6);
    float *logits = numbers(N * V, 7), *mean = numbers(N, 8), *rstd = numbers(N, 9);
    float *bias = numbers(F, 10), *dbias = numbers(F, 11), *lse = numbers(N * H, 12);
    float *losses = numbers(N, 13), *m = numbers(parameters, 14), *v = numbers(parameters, 15);
    float *scores = numbers(N * V, 16), *wpe = numbers(T * C, 17);
    int32_t *tokens = memory_allocate(N, sizeof *tokens);
    for (size_t n = 0; n < N; n++) tokens[n] = (int32_t)(random_bits(18, n) % V);
    for (size_t i = 0; i < parameters; i++) v[i] = v[i] * v[i];
    Dropout dropout = {0.1f, 19, 0};
    double f = sizeof(float), NC = (double)(N * C), NF = (double)(N * F), NV = (double)N * V;
    struct {
        const char *forward, *backward;
        size_t in, out;
    } products[] = {{"q, k, v forward", "q, k, v backward (two products)", C, 3 * C},
                    {"projection forward", "projection backward", C, C},
                    {"MLP in forward", "MLP in backward", C, F},
                    {"MLP out forward", "MLP out backward", F, C}};
    for (round_now = 0; round_now < rounds; round_now++) {
        row_next = 0;
        for (size_t p = 0; p < sizeof products / sizeof *products; p++) {
            size_t in = products[p].in, out = products[p].out;
            double flops = 2.0 * (double)N * (double)in * (double)out;
            MEASURE(products[p].forward, flops, 0, matmul_forward(y, x, w, bias, N, in, out));
            MEASURE(products[p].backward, 2 * flops, 0,
                    matmul_backward(dx, dw, dbias, dy, x, w, N, in, out));
        }
        MEASURE("output head forward", 2 * NV * C, 0,
                unembedding_forward(logits, x, w, N, C, V));
        MEASURE("output head backward", 4 * NV * C, 0,
                unembedding_backward(dx, dw, scores, x, w, N, C, V));
        attention_measure("attention forward", "attention backward", y, dx, lse, x, dy, B, T, C,
                          H);
        MEASURE("embedding forward", 0, 2 * NC * f,
                embedding_forward(y, tokens, w, wpe, B, T, C));
        MEASURE("embedding backward", 0, 3 * NC * f,
                embedding_backward(dw, wpe, dy, tokens, B, T, C));
        MEASURE("layer norm forward", 0, 2 * NC * f,
                layernorm_forward(y, mean, rstd, x, w, bias, N, C));
        MEASURE("layer norm backward", 0, 4 * NC * f,
                layernorm_backward(dx, dw, dbias, dy, mean, rstd, x, w, N, C));
        MEASURE("GELU forward", 0, 2 * NF * f, gelu_forward(y, x, N * F));
        MEASURE("GELU backward", 0, 3 * NF * f, gelu_backward(dx, dy, x, N * F));
        MEASURE("residual forward", 0, 3 * NC * f, residual_forward(y, x, dy, N * C));
        MEASURE("residual backward", 0, 3 * NC * f, residual_backward(y, dx, dy, N * C));
        MEASURE("dropout", 0, 2 * NC * f, dropout_forward(y, x, N * C, dropout));
        MEASURE("cross-entropy forward", 0, NV * f,
                cross_entropy_forward(losses, mean, logits, tokens, N, V));
        MEASURE("cross-entropy backward", 0, 2 * NV * f,
                cross_entropy_backward(scores, losses, mean, logits, tokens, N, V));
        MEASURE("gradient norm of a matrix", 0, (double)parameters * f,
                if (gradient_norm(dw, parameters) == 12345) puts("")); /* it must be wanted */
        MEASURE(
            "AdamW of a matrix", 0, 8 * (double)parameters * f,
            adamw_update(w, m, v, dw, parameters, 1e-6f, 0.9f, 0.95f, 1e-8f, 0.1f, 1.0f, 9));
    }
    char *title =
        text_format("%s: C %zu, H %zu, V %zu, B %zu, T %zu", shape->name, C, H, V, B, T);
    rows_print(title, rounds);
    free(title);
    float *arrays[] = {x,    y,     dy,  dx,     w, dw, logits, mean, rstd,
                       bias, dbias, lse, losses, m, v,  scores, wpe};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) free(arrays[i]);
    free(tokens);
}

/* The same 1024 tokens as 16, 4 and 1 sequences: time should grow as T does, no more. */
static void attention_lengths(size_t rounds) {
    size_t C = 768, H = 12, N = 1024;
    float *qkv = numbers(N * 3 * C, 1), *dqkv = numbers(N * 3 * C, 2), *y = numbers(N * C, 3);
    float *dy = numbers(N * C, 4), *lse = numbers(N * H, 5);
    for (round_now = 0; round_now < rounds; round_now++) {
        row_next = 0;
        attention_measure("T 64 forward", "T 64 backward", y, dqkv, lse, qkv, dy, 16, 64, C, H);
        attention_measure("T 256 forward", "T 256 backward", y, dqkv, lse, qkv, dy, 4, 256, C,
                          H);
        attention_measure("T 1024 forward", "T 1024 backward", y, dqkv, lse, qkv, dy, 1, 1024,
                          C, H);
    }
    rows_print("attention of gpt2 (C 768, H 12) on 1024 tokens", rounds);
    free(qkv);
    free(dqkv);
    free(y);
    free(dy);
    free(lse);
}

/* A model that generates: each token reads every weight once, but of wpe only a row. */
static void decode_measure(size_t rounds) {
    Config config = {.layers = 12,
                     .heads = 12,
                     .channels = 768,
                     .context = 256,
                     .vocab = 50257,
                     .bias = true};
    enum { TOKENS = 16 };
    GPT *gpt = gpt_create(&config, false);
    gpt_initialize(gpt, 1);
    Cache *cache = cache_create(&config, 1);
    float *logits = memory_allocate(config.vocab, sizeof *logits);
    double times[MOST_ROUNDS], bytes = 0;
    int32_t token = 1;
    for (size_t i = 0; i < gpt->tensor_count; i++)
        if (&gpt->table[i] != tensor_of(gpt, WPE, 0)) bytes += 4.0 * gpt->table[i].count;
    for (size_t round = 0; round < rounds; round++) {
        cache->lengths[0] = 0;
        gpt_decode(gpt, cache, 0, 1, &token, 1, logits);
        double start = clock_seconds();
        for (int i = 0; i < TOKENS; i++) gpt_decode(gpt, cache, 0, 1, &token, 1, logits);
        times[round] = (clock_seconds() - start) / TOKENS;
        if (!isfinite(logits[0])) die("the logits are not finite");
    }
    qsort(times, rounds, sizeof *times, double_compare);
    double s = times[rounds / 2];
    printf(
        "\ndecode, gpt2 124M, one sequence: %.1f tokens/s, %.1f GB/s, %.0f%% of the bandwidth "
        "for reading\n",
        1 / s, bytes / s / 1e9, 100 * bytes / s / read_rate);
    gpt_destroy(gpt);
    cache_destroy(cache);
    free(logits);
}

int main(int argc, char **argv) {
    program_name = "kernels";
    const char *what = argc > 1 ? argv[1] : "all";
    long rounds = argc > 2 ? strtol(argv[2], NULL, 10) : 7;
    const char *known[] = {"nano", "baby", "gpt2", "attention", "decode", "all"};
    bool found = false, all = !strcmp(what, "all");
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) found |= !strcmp(what, known[i]);
    if (!found || argc > 3 || rounds < 1 || rounds > MOST_ROUNDS)
        die_usage("usage: kernels [nano|baby|gpt2|attention|decode|all] [ROUNDS, 1 to %d]",
                  MOST_ROUNDS);
    peak = peak_flops();
    bandwidth_measure();
    for (int i = 0; i < 5; i++) {
        double again = peak_flops();
        peak = again > peak ? again : peak;
    }
    printf(
        "%d threads; multiply-add peak %.0f GFLOP/s; memory: reading %.1f GB/s, two reads and "
        "a write %.1f GB/s\n",
        thread_count(), peak / 1e9, read_rate / 1e9, copy_rate / 1e9);
    for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES; i++)
        if (all || !strcmp(what, SHAPES[i].name)) shape_measure(&SHAPES[i], (size_t)rounds);
    if (all || !strcmp(what, "attention")) attention_lengths((size_t)rounds);
    if (all || !strcmp(what, "decode")) decode_measure((size_t)rounds);
    return fflush(stdout) != 0;
}

/* test_kernels.c - every kernel of train.c, forward and backward.
 *
 * One table of cases, at the end of section 2, drives everything.  For each case:
 *   - forward and backward against PyTorch in float64 (tests/reference, dev/reference);
 *   - outputs that a kernel sets start as NaN, those it adds to start from numbers: see `Role`;
 *   - nothing is written outside the outputs, and no input is changed;
 *   - the slope of the outputs along a direction, measured with central differences, is the one
 *     that backward computes;
 *   - 1 and 2 threads (and 3, in the larger cases) give the same bits.
 *
 *   1. The kernels and their operands
 *   2. The cases
 *   3. One call, with guards around what it writes
 *   4. The checks that every case goes through
 *   5. What does not fit the table: wide products, edges, random numbers, the optimizer
 */
#define TRAIN_NO_MAIN
#include "../train.c"
#include "check.c"
#ifdef _OPENMP
#include <omp.h>
#endif

/* =========================================================================================
 * 1. The kernels and their operands
 * ====================================================================================== */

typedef enum {
    TOKENS,   /* int32 input: ids below V, or negative where there is no loss */
    INPUT,    /* float input of forward, and of backward if it wants it */
    OUTPUT,   /* forward sets it; backward may read it and must not change it */
    UPSTREAM, /* dY for an OUTPUT Y: where backward starts */
    SETS,     /* dX for an INPUT X: set by backward, so it may hold garbage before */
    ADDS,     /* dX for an INPUT X: backward adds to what is there */
} Role;

typedef struct {
    const char *name;  /* as in train.c and in the reference file; dX is the gradient of X */
    const char *shape; /* letters of Case; "BT3C" is B * T * 3C elements */
    Role role;
    bool optional;     /* NULL in the cases whose reference does not have it */
} Operand;

typedef struct {
    const char *kernel, *name;          /* a name as in the reference file */
    size_t B, T, C, H, N, O, V;         /* those that the kernel knows */
    bool drawn; /* no reference: larger, and the numbers are drawn here */
    bool dropout;
    bool full; /* attention that is not causal */
    int step; /* log2 of the step of the differences for x, logits or qkv; 0 means -6 */
} Case;

enum { OPERANDS = 12 };
typedef struct Call Call;
typedef struct {
    const char *name, *cases; /* cases: Case.kernel, and the reference file */
    void (*forward)(Call *), (*backward)(Call *);
    const char *forward_in_place[2];  /* an output that may be the input named after it */
    const char *backward_in_place[2];
    Operand operands[OPERANDS];
} Kernel;

struct Call {
    const Kernel *kernel;
    const Case *c;
    size_t B, T, C, H, N, O, V;
    Dropout dropout;
    size_t count[OPERANDS];
    float *memory[OPERANDS]; /* what malloc gave */
    float *data[OPERANDS];   /* where the operand begins; NULL if this case leaves it out */
    int32_t *tokens;
};

/* The operand of that name. */
static size_t operand_index(const Kernel *kernel, const char *name) {
    for (size_t i = 0; i < OPERANDS && kernel->operands[i].name; i++)
        if (strcmp(kernel->operands[i].name, name) == 0) return i;
    die("the kernel %s has no operand %s", kernel->name, name);
}

static float *of(const Call *a, const char *name) {
    return a->data[operand_index(a->kernel, name)];
}

static void embedding_f(Call *a) {
    embedding_forward(of(a, "x"), a->tokens, of(a, "wte"), of(a, "wpe"), a->B, a->T, a->C);
}
static void embedding_b(Call *a) {
    embedding_backward(of(a, "dwte"), of(a, "dwpe"), of(a, "dx"), a->tokens, a->B, a->T, a->C);
}
static void layernorm_f(Call *a) {
    layernorm_forward(of(a, "y"), of(a, "mean"), of(a, "rstd"), of(a, "x"), of(a, "weight"),
                      of(a, "bias"), a->N, a->C);
}
static void layernorm_b(Call *a) {
    layernorm_backward(of(a, "dx"), of(a, "dweight"), of(a, "dbias"), of(a, "dy"),
                       of(a, "mean"), of(a, "rstd"), of(a, "x"), of(a, "weight"), a->N, a->C);
}
static void matmul_f(Call *a) {
    matmul_forward(of(a, "y"), of(a, "x"), of(a, "weight"), of(a, "bias"), a->N, a->C, a->O);
}
static void matmul_b(Call *a) {
    matmul_backward(of(a, "dx"), of(a, "dweight"), of(a, "dbias"), of(a, "dy"), of(a, "x"),
                    of(a, "weight"), a->N, a->C, a->O);
}
static void attention_f(Call *a) {
    attention_forward(of(a, "y"), of(a, "lse"), of(a, "qkv"), a->B, a->T, a->C, a->H,
                      !a->c->full, a->dropout);
}
static void attention_b(Call *a) {
    attention_backward(of(a, "dqkv"), of(a, "dy"), of(a, "y"), of(a, "lse"), of(a, "qkv"),
                       a->B, a->T, a->C, a->H, !a->c->full, a->dropout);
}
static void attention_plain_f(Call *a) {
    attention_forward_plain(of(a, "y"), of(a, "lse"), of(a, "qkv"), a->B, a->T, a->C, a->H,
                            !a->c->full, a->dropout);
}
static void attention_plain_b(Call *a) {
    attention_backward_plain(of(a, "dqkv"), of(a, "dy"), of(a, "y"), of(a, "lse"), of(a, "qkv"),
                             a->B, a->T, a->C, a->H, !a->c->full, a->dropout);
}
static void gelu_f(Call *a) { gelu_forward(of(a, "y"), of(a, "x"), a->N); }
static void gelu_b(Call *a) { gelu_backward(of(a, "dx"), of(a, "dy"), of(a, "x"), a->N); }
static void residual_f(Call *a) {
    residual_forward(of(a, "y"), of(a, "x"), of(a, "branch"), a->N);
}
static void residual_b(Call *a) {
    residual_backward(of(a, "dx"), of(a, "dbranch"), of(a, "dy"), a->N);
}
static void dropout_f(Call *a) { dropout_forward(of(a, "y"), of(a, "x"), a->N, a->dropout); }
static void dropout_b(Call *a) { dropout_backward(of(a, "dx"), of(a, "dy"), a->N, a->dropout); }
static void unembedding_f(Call *a) {
    unembedding_forward(of(a, "logits"), of(a, "x"), of(a, "wte"), a->N, a->C, a->V);
}
static void unembedding_b(Call *a) {
    unembedding_backward(of(a, "dx"), of(a, "dwte"), of(a, "dlogits"), of(a, "x"), of(a, "wte"),
                         a->N, a->C, a->V);
}
static void cross_entropy_f(Call *a) {
    cross_entropy_forward(of(a, "losses"), of(a, "lse"), of(a, "logits"), a->tokens, a->N,
                          a->V);
}
static void cross_entropy_b(Call *a) {
    cross_entropy_backward(of(a, "dlogits"), of(a, "dlosses"), of(a, "lse"), of(a, "logits"),
                           a->tokens, a->N, a->V);
}

static const Kernel kernels[] = {
    {"embedding",
     "embedding",
     embedding_f,
     embedding_b,
     {0},
     {0},
     {{"tokens", "BT", TOKENS, 0},
      {"wte", "VC", INPUT, 0},
      {"wpe", "TC", INPUT, 0},
      {"x", "BTC", OUTPUT, 0},
      {"dx", "BTC", UPSTREAM, 0},
      {"dwte", "VC", ADDS, 0},
      {"dwpe", "TC", ADDS, 0}}},
    {"layernorm",
     "layernorm",
     layernorm_f,
     layernorm_b,
     {0},
     {0},
     {{"x", "NC", INPUT, 0},
      {"weight", "C", INPUT, 0},
      {"bias", "C", INPUT, true},
      {"y", "NC", OUTPUT, 0},
      {"mean", "N", OUTPUT, 0},
      {"rstd", "N", OUTPUT, 0},
      {"dy", "NC", UPSTREAM, 0},
      {"dx", "NC", ADDS, 0},
      {"dweight", "C", ADDS, 0},
      {"dbias", "C", ADDS, true}}},
    {"matmul",
     "matmul",
     matmul_f,
     matmul_b,
     {0},
     {0},
     {{"x", "NC", INPUT, 0},
      {"weight", "CO", INPUT, 0},
      {"bias", "O", INPUT, true},
      {"y", "NO", OUTPUT, 0},
      {"dy", "NO", UPSTREAM, 0},
      {"dx", "NC", SETS, true},
      {"dweight", "CO", ADDS, 0},
      {"dbias", "O", ADDS, true}}},
    {"attention",
     "attention",
     attention_f,
     attention_b,
     {0},
     {0},
     {{"qkv", "BT3C", INPUT, 0},
      {"y", "BTC", OUTPUT, 0},
      {"lse", "BHT", OUTPUT, 0},
      {"dy", "BTC", UPSTREAM, 0},
      {"dqkv", "BT3C", SETS, 0}}},
    {"attention_plain",
     "attention",
     attention_plain_f,
     attention_plain_b,
     {0},
     {0},
     {{"qkv", "BT3C", INPUT, 0},
      {"y", "BTC", OUTPUT, 0},
      {"lse", "BHT", OUTPUT, 0},
      {"dy", "BTC", UPSTREAM, 0},
      {"dqkv", "BT3C", SETS, 0}}},
    {"gelu",
     "gelu",
     gelu_f,
     gelu_b,
     {0},
     {"dx", "dy"},
     {{"x", "N", INPUT, 0},
      {"y", "N", OUTPUT, 0},
      {"dy", "N", UPSTREAM, 0},
      {"dx", "N", SETS, 0}}},
    {"residual",
     "residual",
     residual_f,
     residual_b,
     {"y", "x"},
     {"dx", "dy"},
     {{"x", "N", INPUT, 0},
      {"branch", "N", INPUT, 0},
      {"y", "N", OUTPUT, 0},
      {"dy", "N", UPSTREAM, 0},
      {"dx", "N", SETS, 0},
      {"dbranch", "N", SETS, 0}}},
    {"dropout",
     "dropout",
     dropout_f,
     dropout_b,
     {"y", "x"},
     {"dx", "dy"},
     {{"x", "N", INPUT, 0},
      {"y", "N", OUTPUT, 0},
      {"dy", "N", UPSTREAM, 0},
      {"dx", "N", SETS, 0}}},
    {"unembedding",
     "unembedding",
     unembedding_f,
     unembedding_b,
     {0},
     {0},
     {{"x", "NC", INPUT, 0},
      {"wte", "VC", INPUT, 0},
      {"logits", "NV", OUTPUT, 0},
      {"dlogits", "NV", UPSTREAM, 0},
      {"dx", "NC", SETS, 0},
      {"dwte", "VC", ADDS, 0}}},
    {"cross_entropy",
     "cross_entropy",
     cross_entropy_f,
     cross_entropy_b,
     {0},
     {"dlogits", "logits"},
     {{"logits", "NV", INPUT, 0},
      {"targets", "N", TOKENS, 0},
      {"losses", "N", OUTPUT, 0},
      {"lse", "N", OUTPUT, 0},
      {"dlosses", "N", UPSTREAM, 0},
      {"dlogits", "NV", SETS, 0}}},
};
enum { KERNELS = sizeof kernels / sizeof kernels[0] };

/* =========================================================================================
 * 2. The cases
 *
 * Small and odd where PyTorch's numbers are stored.  Those drawn here are large enough to be
 * split among threads and to pass the edges of every tile.
 * ====================================================================================== */

static const Case cases[] = {
    {"embedding", "1_1_1", .B = 1, .T = 1, .C = 1, .V = 2},
    {"embedding", "1_7_5", .B = 1, .T = 7, .C = 5, .V = 3},
    {"embedding", "3_2_17", .B = 3, .T = 2, .C = 17, .V = 7},
    {"embedding", "2_33_16", .B = 2, .T = 33, .C = 16, .V = 65},
    {"embedding", "2_64_17", .B = 2, .T = 64, .C = 17, .V = 65},
    {"embedding", "drawn", .B = 5, .T = 67, .C = 97, .V = 31, .drawn = true},

    {"layernorm", "1_3", .N = 1, .C = 3},
    {"layernorm", "1_17", .N = 1, .C = 17},
    {"layernorm", "7_5", .N = 7, .C = 5},
    {"layernorm", "33_33", .N = 33, .C = 33},
    {"layernorm", "3_128", .N = 3, .C = 128},
    {"layernorm", "17_65_no_bias", .N = 17, .C = 65},
    {"layernorm", "65_17", .N = 65, .C = 17},
    {"layernorm", "370_5", .N = 370, .C = 5, .step = -9},
    {"layernorm", "large_mean", .N = 16, .C = 64},
    {"layernorm", "nearly_constant", .N = 16, .C = 33, .step = -13},
    {"layernorm", "large_deviation", .N = 8, .C = 48, .step = 7},
    {"layernorm", "drawn", .N = 301, .C = 99, .drawn = true},

    {"matmul", "1_1_1", .N = 1, .C = 1, .O = 1},
    {"matmul", "1_5_3", .N = 1, .C = 5, .O = 3},
    {"matmul", "2_3_1", .N = 2, .C = 3, .O = 1},
    {"matmul", "7_17_5", .N = 7, .C = 17, .O = 5},
    {"matmul", "17_33_7_no_bias", .N = 17, .C = 33, .O = 7},
    {"matmul", "33_7_65", .N = 33, .C = 7, .O = 65},
    {"matmul", "31_37_29_no_dx", .N = 31, .C = 37, .O = 29},
    {"matmul", "70_16_20", .N = 70, .C = 16, .O = 20},
    {"matmul", "1000_1_2", .N = 1000, .C = 1, .O = 2},
    {"matmul", "5_128_17", .N = 5, .C = 128, .O = 17},
    {"matmul", "40_32_48_no_bias", .N = 40, .C = 32, .O = 48},
    {"matmul", "3_300_2", .N = 3, .C = 300, .O = 2},
    {"matmul", "drawn", .N = 131, .C = 97, .O = 201, .drawn = true},

    {"attention", "1_1_1_1", .B = 1, .T = 1, .C = 1, .H = 1},
    {"attention", "1_2_3_1", .B = 1, .T = 2, .C = 3, .H = 1},
    {"attention", "1_7_5_1", .B = 1, .T = 7, .C = 5, .H = 1},
    {"attention", "3_1_6_2", .B = 3, .T = 1, .C = 6, .H = 2},
    {"attention", "2_5_21_7", .B = 2, .T = 5, .C = 21, .H = 7},
    {"attention", "2_17_24_3", .B = 2, .T = 17, .C = 24, .H = 3},
    {"attention", "1_33_16_1", .B = 1, .T = 33, .C = 16, .H = 1},
    {"attention", "1_70_10_2", .B = 1, .T = 70, .C = 10, .H = 2},
    {"attention", "1_130_8_2", .B = 1, .T = 130, .C = 8, .H = 2},
    {"attention", "1_12_64_1", .B = 1, .T = 12, .C = 64, .H = 1},
    {"attention", "large_scores", .B = 1, .T = 20, .C = 32, .H = 2, .step = -9},
    {"attention", "dropout", .B = 2, .T = 19, .C = 12, .H = 3, .dropout = true},
    {"attention", "dropout_first", .B = 1, .T = 66, .C = 6, .H = 1, .dropout = true},
    {"attention", "full_1_1_1", .B = 1, .T = 1, .C = 3, .H = 1, .full = true},
    {"attention", "full_2_7_3", .B = 2, .T = 7, .C = 15, .H = 3, .full = true},
    {"attention", "full_1_70_2", .B = 1, .T = 70, .C = 10, .H = 2, .full = true},
    {"attention", "full_dropout", .B = 2, .T = 19, .C = 12, .H = 3, .full = true,
     .dropout = true},
    {"attention", "drawn full", .B = 2, .T = 133, .C = 34, .H = 2, .drawn = true, .full = true},
    {"attention", "drawn full dropout", .B = 1, .T = 66, .C = 21, .H = 1, .drawn = true,
     .full = true, .dropout = true},
    {"attention", "drawn", .B = 3, .T = 141, .C = 60, .H = 3, .drawn = true},
    {"attention", "drawn wide head", .B = 1, .T = 39, .C = 530, .H = 2, .drawn = true,
     .step = -9},
    {"attention", "drawn long", .B = 1, .T = DEPTH + 17, .C = 6, .H = 2, .drawn = true},
    {"attention", "drawn dropout", .B = 2, .T = 75, .C = 33, .H = 3, .drawn = true,
     .dropout = true},

    {"gelu", "1", .N = 1},
    {"gelu", "2", .N = 2},
    {"gelu", "3", .N = 3},
    {"gelu", "5", .N = 5},
    {"gelu", "7", .N = 7},
    {"gelu", "17", .N = 17},
    {"gelu", "33", .N = 33},
    {"gelu", "1000", .N = 1000},
    {"gelu", "small", .N = 257},
    {"gelu", "large", .N = 257},
    {"gelu", "drawn", .N = 40003, .drawn = true},

    {"residual", "1", .N = 1},
    {"residual", "3", .N = 3},
    {"residual", "17", .N = 17},
    {"residual", "130", .N = 130},
    {"residual", "drawn", .N = 40003, .drawn = true},

    {"dropout", "7", .N = 7, .dropout = true},
    {"dropout", "33", .N = 33, .dropout = true},
    {"dropout", "500", .N = 500, .dropout = true},
    {"dropout", "rate_0", .N = 17, .dropout = true},
    {"dropout", "rate_09", .N = 130, .dropout = true},
    {"dropout", "drawn", .N = 40003, .dropout = true, .drawn = true},

    {"unembedding", "1_1_2", .N = 1, .C = 1, .V = 2},
    {"unembedding", "1_5_7", .N = 1, .C = 5, .V = 7},
    {"unembedding", "7_3_65", .N = 7, .C = 3, .V = 65},
    {"unembedding", "33_17_5", .N = 33, .C = 17, .V = 5},
    {"unembedding", "17_48_65", .N = 17, .C = 48, .V = 65},
    {"unembedding", "2_8_257", .N = 2, .C = 8, .V = 257},
    {"unembedding", "drawn", .N = 71, .C = 50, .V = 611, .drawn = true},

    {"cross_entropy", "1_2", .N = 1, .V = 2},
    {"cross_entropy", "1_65", .N = 1, .V = 65},
    {"cross_entropy", "7_5", .N = 7, .V = 5},
    {"cross_entropy", "33_17", .N = 33, .V = 17},
    {"cross_entropy", "20_65", .N = 20, .V = 65},
    {"cross_entropy", "3_1000", .N = 3, .V = 1000},
    {"cross_entropy", "large_logits", .N = 17, .V = 33},
    {"cross_entropy", "shifted_logits", .N = 17, .V = 33},
    {"cross_entropy", "drawn", .N = 97, .V = 613, .drawn = true},
};
enum { CASES = sizeof cases / sizeof cases[0] };

/* =========================================================================================
 * 3. One call, with guards around what it writes
 * ====================================================================================== */

enum { GUARD = 16 }; /* floats before and after every output */
static const float guard_value = 12345.678f;

static size_t letter_size(const Case *c, char letter) {
    switch (letter) {
    case 'B': return c->B;
    case 'T': return c->T;
    case 'C': return c->C;
    case 'H': return c->H;
    case 'N': return c->N;
    case 'O': return c->O;
    case 'V': return c->V;
    default: die("no size is called %c", letter);
    }
}

static size_t shape_count(const Case *c, const char *shape) {
    size_t count = 1;
    for (; *shape; shape++)
        count *=
            *shape >= '0' && *shape <= '9' ? (size_t)(*shape - '0') : letter_size(c, *shape);
    return count;
}

/* A tensor of the reference: NULL when the file lacks it and `optional` allows that.  Its
 * element count must be the one that the case's sizes say. */
static const void *reference_find(const SafeTensors *file, const char *name, const char *dtype,
                                  size_t expected, bool optional) {
    const SafeTensor t = safetensors_find(file, name);
    if (!t.numbers && optional) return NULL;
    if (!t.numbers || strcmp(t.dtype, dtype))
        die("the reference has no tensor %s of type %s", name, dtype);
    size_t count = t.bytes / dtype_bytes(dtype);
    if (count != expected)
        die("%s has %zu elements in the reference, %zu here", name, count, expected);
    return t.numbers;
}

static bool role_is_input(Role role) { return role == INPUT || role == UPSTREAM; }

/* Numbers between -2 and 2, the same for the same key: multiples of 2^-12, see slope_check. */
static float drawn_number(uint64_t key, uint64_t index) {
    return (float)(rint(16384 * (double)random_uniform(key, index)) / 4096 - 2);
}

static void call_drawn(Call *a, size_t i, uint64_t key) {
    const Operand *operand = &a->kernel->operands[i];
    if (operand->role == TOKENS) {
        bool targets = strcmp(operand->name, "targets") == 0; /* only these may be negative */
        for (size_t j = 0; j < a->count[i]; j++)
            a->tokens[j] = targets && j % 9 == 4 ? -1 : (int32_t)(random_bits(key, j) % a->V);
    } else {
        for (size_t j = 0; j < a->count[i]; j++) a->data[i][j] = drawn_number(key, j);
    }
}

/* Reads or draws the inputs and allocates the outputs.  Inputs get memory of exactly their
 * size, so that an address sanitizer sees a read past the end. */
static Call call_create(const Kernel *kernel, const Case *c, const SafeTensors *file) {
    Call a = {.kernel = kernel, .c = c, .B = c->B, .T = c->T, .C = c->C, .H = c->H, .N = c->N,
              .O = c->O, .V = c->V};
    for (size_t i = 0; i < OPERANDS && kernel->operands[i].name; i++) {
        const Operand *operand = &kernel->operands[i];
        char *name = text_format("%s/%s", c->name, operand->name);
        const char *dtype = operand->role == TOKENS ? "I32" :
                            role_is_input(operand->role) ? "F32" : "F64";
        a.count[i] = shape_count(c, operand->shape);
        const void *stored = c->drawn ? NULL : reference_find(file, name, dtype, a.count[i],
                                                              operand->optional);
        free(name);
        if (!stored && !c->drawn) continue;
        if (operand->role == TOKENS) {
            a.tokens = memory_allocate(a.count[i], sizeof(int32_t));
            if (stored) memcpy(a.tokens, stored, a.count[i] * sizeof(int32_t));
        } else if (role_is_input(operand->role)) {
            a.memory[i] = a.data[i] = memory_allocate(a.count[i], sizeof(float));
            if (stored) memcpy(a.data[i], stored, a.count[i] * sizeof(float));
        } else {
            a.memory[i] = memory_allocate(a.count[i] + 2 * GUARD, sizeof(float));
            a.data[i] = a.memory[i] + GUARD;
        }
        if (!stored && (operand->role == TOKENS || role_is_input(operand->role)))
            call_drawn(&a, i, 1000 + i);
    }
    if (c->dropout && c->drawn) {
        a.dropout = (Dropout){0.4f, 77, 123456789};
    } else if (c->dropout) {
        char *rate = text_format("%s/dropout_rate", c->name);
        char *key = text_format("%s/dropout_key_first", c->name);
        const float *rates = reference_find(file, rate, "F32", 1, false);
        const int64_t *numbers = reference_find(file, key, "I64", 2, false);
        a.dropout = (Dropout){rates[0], (uint64_t)numbers[0], (uint64_t)numbers[1]};
        free(rate);
        free(key);
    }
    return a;
}

static void call_destroy(Call *a) {
    for (size_t i = 0; i < OPERANDS; i++) free(a->memory[i]);
    free(a->tokens);
}

/* What an output of role ADDS holds before the call when it is not to start from zero. */
static float base_value(size_t i, size_t j) { return drawn_number(5000 + i, j); }

/* Forward, then backward.  What they set starts as NaN: an element that is not written stays
 * one, and one that is added to becomes one. */
static void call_run(Call *a, bool from_base) {
    for (size_t i = 0; i < OPERANDS && a->kernel->operands[i].name; i++) {
        Role role = a->kernel->operands[i].role;
        if (!a->data[i] || role_is_input(role)) continue;
        for (size_t j = 0; j < a->count[i] + 2 * GUARD; j++) a->memory[i][j] = guard_value;
        for (size_t j = 0; j < a->count[i]; j++)
            a->data[i][j] = role != ADDS ? NAN : from_base ? base_value(i, j) : 0.0f;
    }
    a->kernel->forward(a);
    a->kernel->backward(a);
}

/* =========================================================================================
 * 4. The checks that every case goes through
 * ====================================================================================== */

static char *row_name(const Call *a, const char *what) {
    return text_format("%s %s %s", a->kernel->name, a->c->name, what);
}

static void reference_check(const Call *a, const SafeTensors *file) {
    for (size_t i = 0; i < OPERANDS && a->kernel->operands[i].name; i++) {
        const Operand *operand = &a->kernel->operands[i];
        if (!a->data[i] || role_is_input(operand->role)) continue;
        char *name = text_format("%s/%s", a->c->name, operand->name);
        char *error_name = text_format("%s.float32_error", name);
        const double *truth = reference_find(file, name, "F64", a->count[i], false);
        const double *error = reference_find(file, error_name, "F64", 1, false);
        char *row = row_name(a, operand->name);
        /* Inputs are of size 1, or 1e4 with gradients of 1e-4: 1e-6 is close to zero. */
        check_tensor(row, a->data[i], truth, a->count[i], *error, 1e-6);
        free(name);
        free(error_name);
        free(row);
    }
}

/* A second run from other starting values.  What is set must come out the same; what is added
 * to must have grown by the same.  Adding to a number in place of zero rounds each addition to
 * that number's last bit: some 1e-7 an addition, a few hundred of them. */
static void start_check(Call *a, float *const first[OPERANDS]) {
    bool same = true, guards = true;
    double distance = 0, norm = 0;
    for (size_t i = 0; i < OPERANDS && a->kernel->operands[i].name; i++) {
        Role role = a->kernel->operands[i].role;
        if (!a->data[i] || role_is_input(role)) continue;
        for (size_t j = 0; j < GUARD; j++)
            guards = guards && a->memory[i][j] == guard_value &&
                     a->data[i][a->count[i] + j] == guard_value;
        for (size_t j = 0; j < a->count[i]; j++) {
            if (role == ADDS) {
                double expected = (double)base_value(i, j) + first[i][j];
                distance += (a->data[i][j] - expected) * (a->data[i][j] - expected);
                norm += expected * expected;
            } else {
                same = same && a->data[i][j] == first[i][j]; /* false for a NaN */
            }
        }
    }
    char *row = row_name(a, "sets and adds as promised");
    if (norm > 0) {
        double error = sqrt(distance / norm);
        check(same && error <= 1e-5, "%-52s error %8.2e  at most 1.00e-05", row, error);
    } else {
        check(same, "%s", row);
    }
    free(row);
    row = row_name(a, "writes nowhere else");
    check(guards, "%s", row);
    free(row);
}

static void inputs_check(const Call *a, const Call *pristine,
                         float *const after_forward[OPERANDS]) {
    bool same = true;
    for (size_t i = 0; i < OPERANDS && a->kernel->operands[i].name; i++) {
        Role role = a->kernel->operands[i].role;
        if (role == TOKENS)
            same =
                same && memcmp(a->tokens, pristine->tokens, a->count[i] * sizeof(int32_t)) == 0;
        const float *before = role_is_input(role) ? pristine->data[i] :
                              role == OUTPUT ? after_forward[i] : NULL;
        if (before)
            same = same && memcmp(a->data[i], before, a->count[i] * sizeof(float)) == 0;
    }
    char *row = row_name(a, "leaves its inputs alone");
    check(same, "%s", row);
    free(row);
}

static void threads_check(Call *a, float *const first[OPERANDS]) {
    char *row = row_name(a, "same bits on any number of threads");
#ifdef _OPENMP
    /* More threads than cores wait for each other in busy loops: 3 only where it matters. */
    int before = omp_get_max_threads(), most = a->c->drawn ? 3 : 2;
    bool same = true;
    for (int threads = 1; threads <= most; threads++) {
        omp_set_num_threads(threads);
        call_run(a, false);
        for (size_t i = 0; i < OPERANDS; i++)
            if (a->data[i])
                same = same && memcmp(a->data[i], first[i], a->count[i] * sizeof(float)) == 0;
    }
    omp_set_num_threads(before);
    check(same, "%s", row);
#else
    (void)a, (void)first;
    check_skip("%s: built without OpenMP", row);
#endif
    free(row);
}

/* A kernel that may write over one of its inputs gives the same bits when it does. */
static void in_place_check(Call *a, bool backward, float *const first[OPERANDS]) {
    const char *const *names =
        backward ? a->kernel->backward_in_place : a->kernel->forward_in_place;
    if (!names[0]) return;
    call_run(a, false);
    size_t output = operand_index(a->kernel, names[0]),
           input = operand_index(a->kernel, names[1]);
    size_t bytes = a->count[output] * sizeof(float);
    float *kept = a->data[input];
    memcpy(a->data[output], kept, bytes);
    a->data[input] = a->data[output];
    (backward ? a->kernel->backward : a->kernel->forward)(a);
    a->data[input] = kept;
    check(memcmp(a->data[output], first[output], bytes) == 0, "%s %s %s may be %s",
          a->kernel->name, a->c->name, names[0], names[1]);
}

/* The sum over all outputs of output times upstream gradient, in double: the scalar whose
 * gradient backward computes. */
static double call_objective(Call *a) {
    double sum = 0;
    a->kernel->forward(a);
    for (size_t i = 0; i < OPERANDS && a->kernel->operands[i].name; i++) {
        if (a->kernel->operands[i].role != UPSTREAM) continue;
        const float *output = of(a, a->kernel->operands[i].name + 1); /* dY belongs to Y */
        for (size_t j = 0; j < a->count[i]; j++) sum += (double)output[j] * a->data[i][j];
    }
    return sum;
}

/* The slope along a direction u, from backward and from the outputs themselves:
 *
 *     f'(0) = (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h + O(h^4)
 *
 * float32 makes two demands.  The inputs and h are multiples of 2^-6 h, so that x + hu is exact
 * and rounding does not bend the direction.  And h is large, 2^-6, because the rounding of f is
 * divided by it; that is why the formula is of fourth order: the error of the usual one, h^2,
 * would be 1e-4.  u is +1 or -1 everywhere and agrees three times in four with the sign of the
 * gradient (always, if there are few elements), so that the slope is a large sum, of which a
 * wrong element is a noticeable part.
 *
 * The tolerance: rounding, some 1e-7 for each output, is divided by h and falls on a sum of
 * which it is a random part.  The largest error of all cases is below 1e-4; a wrong factor or
 * term shows as 1e-2 and more. */
static const double slope_tolerance = 5e-4;

static void slope_check(Call *a, size_t gradient) {
    const char *name = a->kernel->operands[gradient].name;
    size_t input = operand_index(a->kernel, name + 1), count = a->count[input];
    bool weight = strcmp(name, "dweight") == 0 || strcmp(name, "dbias") == 0;
    double h = ldexp(1, a->c->step && !weight ? a->c->step : -6);
    float *x = a->data[input], *direction = memory_allocate(count, sizeof(float));
    float *middle = memory_allocate(count, sizeof(float));

    for (size_t j = 0; j < count; j++) x[j] = (float)(rint(x[j] / h * 64) * h / 64);
    memcpy(middle, x, count * sizeof(float));
    call_run(a, false);
    double computed = 0, sum[2] = {0};
    for (size_t j = 0; j < count; j++) {
        float g = a->data[gradient][j];
        direction[j] = (g < 0) != (random_bits(9, j) % 4 == 0 && count > 7) ? -1.0f : 1.0f;
        computed += (double)direction[j] * g;
    }
    for (int k = 0; k < 2; k++) {
        double distance = h * (k + 1);
        for (int sign = -1; sign <= 1; sign += 2) {
            for (size_t j = 0; j < count; j++)
                x[j] = (float)(middle[j] + sign * distance * direction[j]);
            sum[k] += sign * call_objective(a);
        }
    }
    memcpy(x, middle, count * sizeof(float));
    double measured = (8 * sum[0] - sum[1]) / (12 * h);
    double error = fabs(measured - computed) / fabs(measured);
    char *row = row_name(a, name);
    check(fabs(measured) > 1e-5 && error <= slope_tolerance,
          "%-52s slope %12.5e  differences %12.5e  error %8.2e  at most %8.2e", row, computed,
          measured, error, slope_tolerance);
    free(row);
    free(direction);
    free(middle);
}

static void case_check(const Case *c, const Kernel *kernel, const SafeTensors *file) {
    Call a = call_create(kernel, c, file), pristine = call_create(kernel, c, file);
    float *first[OPERANDS] = {NULL}, *forward[OPERANDS] = {NULL};
    call_run(&a, false);
    if (!c->drawn) reference_check(&a, file);
    for (size_t i = 0; i < OPERANDS; i++) {
        if (!a.data[i]) continue;
        first[i] = memory_allocate(a.count[i], sizeof(float));
        memcpy(first[i], a.data[i], a.count[i] * sizeof(float));
    }
    Call alone = call_create(kernel, c, file); /* what forward leaves when nothing follows */
    kernel->forward(&alone);
    for (size_t i = 0; i < OPERANDS && kernel->operands[i].name; i++)
        if (kernel->operands[i].role == OUTPUT) forward[i] = alone.data[i];
    inputs_check(&a, &pristine, forward);
    call_run(&a, true);
    start_check(&a, first);
    threads_check(&a, first);
    in_place_check(&a, false, first);
    in_place_check(&a, true, first);
    for (size_t i = 0; i < OPERANDS && kernel->operands[i].name; i++)
        if ((kernel->operands[i].role == SETS || kernel->operands[i].role == ADDS) && a.data[i])
            slope_check(&a, i);
    for (size_t i = 0; i < OPERANDS; i++) free(first[i]);
    call_destroy(&alone);
    call_destroy(&pristine);
    call_destroy(&a);
}

/* Every case of the table, and no case of a reference file that the table does not have. */
static void table_check(void) {
    for (size_t k = 0; k < KERNELS; k++) {
        char *path = text_format("tests/reference/%s.safetensors", kernels[k].cases);
        SafeTensors *file = safetensors_open(path);
        const int64_t *stored = reference_find(file, "cases", "I64", 1, false);
        int64_t checked = 0;
        for (size_t i = 0; i < CASES; i++) {
            if (strcmp(cases[i].kernel, kernels[k].cases) != 0) continue;
            case_check(&cases[i], &kernels[k], file);
            checked += !cases[i].drawn;
        }
        check(checked == *stored && checked > 0, "%s: %lld of %lld stored cases checked",
              kernels[k].name, (long long)checked, (long long)*stored);
        safetensors_close(file);
        free(path);
    }
}

/* =========================================================================================
 * 5. What does not fit the table
 * ====================================================================================== */

static float *drawn_floats(size_t count, uint64_t key) {
    float *x = memory_allocate(count, sizeof *x);
    for (size_t i = 0; i < count; i++) x[i] = 2 * random_uniform(key, i) - 1;
    return x;
}

static double *doubles(const float *x, size_t count) {
    double *y = memory_allocate(count, sizeof *y);
    for (size_t i = 0; i < count; i++) y[i] = x[i];
    return y;
}

typedef void Product(float *, size_t, Matrix, Matrix, const float *, size_t, size_t, size_t,
                     bool);

/* The bf16 nearest to x, with arithmetic instead of bits: 8 significant digits, of two equally
 * near ones the even one.  For the size of the numbers here. */
static double rounded_to_bf16(double x) {
    int exponent;
    double mantissa = frexp(x, &exponent);
    return ldexp(nearbyint(ldexp(mantissa, 8)), exponent - 8);
}

/* One product against the same sum in double, with --precision bf16 of rounded operands.
 * `form` says what is transposed and what is in the result before.  Rows are further apart than
 * they are long; what is between them must stay as it was. */
static void product_check(Product *product, const char *name, size_t M, size_t N, size_t K,
                          unsigned form) {
    bool a_turned = form & 1, b_turned = form & 2, add = form & 4, with_bias = form & 8;
    size_t stride = N + 3, size = M * stride;
    float *a = drawn_floats(M * K, 1), *b = drawn_floats(K * N, 2), *bias = drawn_floats(N, 3);
    float *start = drawn_floats(size, 4), *result = memory_allocate(size, sizeof *result);
    float *again = memory_allocate(size, sizeof *again), *row = memory_allocate(N, sizeof *row);
    Matrix A = {a, a_turned ? 1 : K, a_turned ? M : 1},
           B = {b, b_turned ? 1 : N, b_turned ? K : 1};
    for (size_t i = 0; i < size; i++) result[i] = add || i % stride >= N ? start[i] : NAN;
    product(result, stride, A, B, with_bias ? bias : NULL, M, N, K, add);

    double distance = 0, norm = 0;
    bool between = true, rounded = product_precision == BF16;
    for (size_t m = 0; m < M; m++) {
        for (size_t n = 0; n < N; n++) {
            double sum = add ? start[m * stride + n] : with_bias ? bias[n] : 0;
            for (size_t k = 0; k < K; k++) {
                double x = A.at[m * A.row + k * A.column], y = B.at[k * B.row + n * B.column];
                sum += rounded ? rounded_to_bf16(x) * rounded_to_bf16(y) : x * y;
            }
            distance += (result[m * stride + n] - sum) * (result[m * stride + n] - sum);
            norm += sum * sum;
        }
        for (size_t n = N; n < stride; n++)
            between = between && result[m * stride + n] == start[m * stride + n];
    }
    /* Each of K additions rounds a sum that grows with the square root of K, and the roundings
     * add up like a random walk: sqrt(K) units in the last place at the very most. */
    double error = sqrt(distance / norm), allowed = 0x1p-23 * sqrt((double)K + 1);
    check(norm > 1e-6 && error <= allowed && between,
          "%s%s %zu %zu %zu%s%s%s%s      error %8.2e  at most %8.2e", name,
          rounded ? " in bf16" : "", M, N, K,
          a_turned ? " A transposed" : "", b_turned ? " B transposed" : "", add ? " adds" : "",
          with_bias ? " with bias" : "", error, allowed);

    bool same = true, promised = product == matrix_product; /* the plain one promises no bits */
    int most = 1;
#ifdef _OPENMP
    int before = omp_get_max_threads();
    most = form == 0 ? 3 : 2;
    for (int threads = 1; threads <= most && promised; threads++) {
        omp_set_num_threads(threads);
        for (size_t i = 0; i < size; i++) again[i] = start[i];
        product(again, stride, A, B, with_bias ? bias : NULL, M, N, K, add);
        for (size_t m = 0; m < M; m++)
            same = same && !memcmp(again + m * stride, result + m * stride, N * sizeof *row);
    }
    omp_set_num_threads(before);
#endif
    /* A row is the same alone as among others: inference with a cache rests on that. */
    for (size_t m = 0; m < M && promised; m += 1 + M / 5) {
        memcpy(row, start + m * stride, N * sizeof *row);
        product(row, N, (Matrix){A.at + m * A.row, A.row, A.column}, B, with_bias ? bias : NULL,
                1, N, K, add);
        same = same && memcmp(row, result + m * stride, N * sizeof *row) == 0;
    }
    if (promised)
        check(same, "%s%s %zu %zu %zu same bits row by row, and on %d threads", name,
              rounded ? " in bf16" : "", M, N, K, most);
    free(a), free(b), free(bias), free(start), free(result), free(again), free(row);
}

/* Sizes on both sides of every edge: of tiles and panels, of DEPTH, of a group of panels, of
 * the rows that a thread packs at a time, of the rows of A that are packed together; and one
 * row, which has a way of its own. */
static void products_check(void) {
    static const size_t sizes[][3] = {
        {1, 1, 1}, {2, 3, 5}, {TILE_ROWS - 1, TILE_COLUMNS - 1, 7},
        {TILE_ROWS, TILE_COLUMNS, DEPTH}, {TILE_ROWS + 1, TILE_COLUMNS + 1, DEPTH + 1},
        {2 * TILE_ROWS + 1, 2 * TILE_COLUMNS + 1, 2 * DEPTH + 1}, {33, 17, 1000},
        {2, GROUP_COLUMNS + 1, 5}, {7, 3 * GROUP_COLUMNS - TILE_COLUMNS, 11}, {1, 300, 70},
        {1, 2 * SHARE_COLUMNS + 1, 9}, {1, TILE_COLUMNS + 3, 2 * DEPTH + 1},
        {5, 2 * TILE_COLUMNS - 1, DEPTH - 1}, {PACK_ROWS + 6, 40, 30},
        {2 * PACK_ROWS + 1, 5, 3}, {PACK_ROWS, 2 * TILE_COLUMNS, WIDTH},
        {BLOCK_ROWS + TILE_ROWS + 1, TILE_COLUMNS + 2, 19}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (unsigned form = 0; form < 16; form++) {
            const size_t *s = sizes[i];
            if ((form & 12) == 12) continue; /* a bias is for results that are set */
            product_check(matrix_product, "matrix_product", s[0], s[1], s[2], form);
            product_precision = BF16;
            product_check(matrix_product, "matrix_product", s[0], s[1], s[2], form);
            product_precision = FLOAT32;
            if (s[0] * s[1] * s[2] < 100000)
                product_check(matrix_product_plain, "matrix_product_plain", s[0], s[1], s[2],
                              form);
        }
}

/* With one channel the mean is the number itself: nothing is left of x, and y is the bias.
 * With the same number everywhere, likewise. */
static void layernorm_edges_check(void) {
    float x[2] = {3.5f, -7.25f}, weight[1] = {2}, bias[1] = {0.75f}, y[2], mean[2], rstd[2];
    float dy[2] = {1, -3}, dx[2] = {0, 0}, dweight[1] = {0}, dbias[1] = {0};
    layernorm_forward(y, mean, rstd, x, weight, bias, 2, 1);
    layernorm_backward(dx, dweight, dbias, dy, mean, rstd, x, weight, 2, 1);
    check(y[0] == 0.75f && y[1] == 0.75f && mean[0] == 3.5f && dweight[0] == 0 &&
              dbias[0] == -2,
          "layernorm of one channel is the bias");
    check(dx[0] == 0 && dx[1] == 0, "layernorm of one channel passes no gradient on");
    float same[5] = {1e4f, 1e4f, 1e4f, 1e4f, 1e4f}, ones[5] = {1, 1, 1, 1, 1}, z[5];
    layernorm_forward(z, mean, rstd, same, ones, ones, 1, 5);
    bool good = true;
    for (int i = 0; i < 5; i++) good = good && z[i] == 1;
    check(good && fabs(rstd[0] * sqrt((double)LAYERNORM_EPS) - 1) < 1e-6,
          "layernorm of a constant row is the bias");
}

/* The largest logit is 1000, at each position in turn, in whole lanes or after them: an
 * exponential of it would overflow. */
static void cross_entropy_maximum_check(void) {
    bool good = true;
    for (size_t V = 1; V <= 2 * LANES + 1; V++)
        for (size_t at = 0; at < V; at++) {
            float logits[2 * LANES + 1] = {0}, losses[2], lse[2];
            int32_t targets[2] = {(int32_t)at, (int32_t)((at + 1) % V)};
            logits[at] = 1000;
            for (int i = 0; i < 2; i++)
                cross_entropy_forward(losses + i, lse + i, logits, targets + i, 1, V);
            good = good && losses[0] == 0 && lse[0] == 1000;
            good = good && losses[1] == (V > 1 ? 1000.0f : 0);
        }
    check(good, "cross_entropy finds the largest logit wherever it stands");
}

/* NaN and infinity must come through: a kernel that swallows them hides a broken run. */
static void not_finite_check(void) {
    float x[3] = {NAN, 1, 2}, y[3], losses[1], lse[1];
    int32_t target[1] = {1};
    gelu_forward(y, x, 3);
    check(isnan(y[0]) && !isnan(y[1]), "gelu keeps a NaN, and keeps it where it was");
    cross_entropy_forward(losses, lse, x, target, 1, 3);
    check(isnan(losses[0]), "cross_entropy of a NaN is a NaN");
    x[0] = INFINITY;
    check(isinf(gradient_norm(x, 3)), "the norm of a gradient with an infinity is infinite");
    x[0] = NAN;
    check(isnan(gradient_norm(x, 3)), "the norm of a gradient with a NaN is a NaN");
}

static void random_check(void) {
    SafeTensors *file = safetensors_open("tests/reference/dropout.safetensors");
    const int64_t *keys = reference_find(file, "random/keys", "I64", 5, false);
    const int64_t *indices = reference_find(file, "random/indices", "I64", 5, false);
    const int64_t *bits = reference_find(file, "random/bits", "I64", 25, false);
    bool same = true;
    for (int i = 0; i < 25; i++)
        same = same && random_bits((uint64_t)keys[i / 5], (uint64_t)indices[i % 5]) ==
                           (uint64_t)bits[i];
    check(same, "random_bits: 25 draws as the formula in numpy gives them");
    safetensors_close(file);

    enum { COUNT = 200000, SHIFT = 1000 };
    float *ones = memory_allocate(COUNT, sizeof *ones), *y = memory_allocate(COUNT, sizeof *y);
    float *other = memory_allocate(COUNT, sizeof *other);
    for (size_t i = 0; i < COUNT; i++) ones[i] = 1;
    static const float rates[] = {0.1f, 0.5f, 0.9f};
    for (int r = 0; r < 3; r++) {
        Dropout dropout = {rates[r], 4242, 0};
        double kept = 0, both = 0, share = 1 - (double)rates[r];
        bool scaled = true;
        dropout_forward(y, ones, COUNT, dropout);
        for (size_t i = 0; i < COUNT; i++) {
            kept += y[i] != 0;
            both += i && y[i] != 0 && y[i - 1] != 0;
            scaled = scaled && (y[i] == 0 || fabs(y[i] * share - 1) < 1e-6);
        }
        /* Independent draws: the count has deviation sqrt(N p (1-p)).  Five of them: once in a
         * million.  Neighbors that are both kept tell a pattern from independent draws. */
        double deviation = sqrt(COUNT * share * (1 - share)),
               off = (kept - COUNT * share) / deviation;
        double pair = share * share,
               off_pair =
                   (both - COUNT * pair) /
                   sqrt(COUNT * pair * (1 - pair) + 2.0 * COUNT * (share * pair - pair * pair));
        check(scaled && fabs(off) < 5 && fabs(off_pair) < 5,
              "dropout %.1f keeps its share: %+.2f deviations, pairs %+.2f, at most 5",
              rates[r], off, off_pair);
        dropout_forward(other, ones, COUNT, dropout);
        check(memcmp(y, other, COUNT * sizeof *y) == 0, "dropout %.1f is repeatable", rates[r]);
        dropout.key++;
        dropout_forward(other, ones, COUNT, dropout);
        size_t differ = 0;
        for (size_t i = 0; i < COUNT; i++) differ += (y[i] != 0) != (other[i] != 0);
        double expected = 2 * COUNT * share * (1 - share);
        check(fabs((double)differ / expected - 1) < 0.05,
              "dropout %.1f: another key, another mask: %zu differ, about %.0f expected",
              rates[r], differ, expected);
        dropout.key--;
        dropout.first = SHIFT;
        dropout_forward(other, ones, COUNT - SHIFT, dropout);
        check(memcmp(other, y + SHIFT, (COUNT - SHIFT) * sizeof *y) == 0,
              "dropout %.1f: `first` moves the mask", rates[r]);
    }
    double sum = 0, lowest = 1, highest = 0;
    for (size_t i = 0; i < COUNT; i++) {
        double u = random_uniform(7, i);
        sum += u;
        lowest = fmin(lowest, u);
        highest = fmax(highest, u);
    }
    check(lowest >= 0 && highest < 1 && fabs(sum / COUNT - 0.5) < 5 * sqrt(1.0 / 12 / COUNT),
          "random_uniform: mean %.4f in [%.6f, %.6f]", sum / COUNT, lowest, highest);
    double squares = 0;
    sum = 0;
    for (size_t i = 0; i < COUNT; i++) {
        double z = random_normal(7, i);
        sum += z;
        squares += z * z;
    }
    check(fabs(sum / COUNT) < 5 / sqrt(COUNT) &&
              fabs(squares / COUNT - 1) < 5 * sqrt(2.0 / COUNT),
          "random_normal: mean %+.4f, variance %.4f", sum / COUNT, squares / COUNT);
    free(ones), free(y), free(other);
}

/* What adamw_update is given for one case, from the file. */
static const float *stored_floats(const SafeTensors *file, const char *c, const char *name,
                                  size_t count) {
    char *path = text_format("%s/%s", c, name);
    const float *data = reference_find(file, path, "F32", count, false);
    free(path);
    return data;
}

static void adamw_case_check(const SafeTensors *file, const char *c, size_t N, size_t updates) {
    static const char *const names[] = {"w", "m", "v"};
    const float *o = stored_floats(file, c, "options", 6);
    const float *gradients = stored_floats(file, c, "gradients", updates * N);
    char *first_name = text_format("%s/first_step", c);
    const int64_t *first = reference_find(file, first_name, "I64", 1, false);
    float *state[3], *memory[3], *again[3], *gradient[2];
    bool kept = true;
    for (int k = 0; k < 2; k++) gradient[k] = memory_allocate(N, sizeof(float));
    for (int k = 0; k < 3; k++) {
        char *name = text_format("%s_before", names[k]);
        memory[k] = memory_allocate(N + 2 * GUARD, sizeof(float));
        for (size_t i = 0; i < N + 2 * GUARD; i++) memory[k][i] = guard_value;
        state[k] = memory[k] + GUARD;
        again[k] = memory_allocate(N, sizeof(float));
        memcpy(state[k], stored_floats(file, c, name, N), N * sizeof(float));
        memcpy(again[k], state[k], N * sizeof(float));
        free(name);
    }
    for (size_t u = 0; u < updates; u++) {
        for (int k = 0; k < 2; k++) memcpy(gradient[k], gradients + u * N, N * sizeof(float));
        adamw_update(state[0], state[1], state[2], gradient[0], N, o[0], o[1], o[2], o[3], o[4],
                     o[5], (uint64_t)*first + u);
#ifdef _OPENMP
        int before = omp_get_max_threads();
        omp_set_num_threads(1 + (int)(u % 2));
#endif
        adamw_update(again[0], again[1], again[2], gradient[1], N, o[0], o[1], o[2], o[3], o[4],
                     o[5], (uint64_t)*first + u);
#ifdef _OPENMP
        omp_set_num_threads(before);
#endif
        kept = kept && !memcmp(gradient[0], gradients + u * N, N * sizeof(float));
    }
    bool same = true, guards = true;
    for (int k = 0; k < 3; k++) {
        char *name = text_format("%s/%s", c, names[k]), *row = text_format("adamw %s", name);
        char *error_name = text_format("%s.float32_error", name);
        const double *truth = reference_find(file, name, "F64", N, false);
        const double *error = reference_find(file, error_name, "F64", 1, false);
        /* The smallest gradients of a case are of size 1e-7, v is their square. */
        check_tensor(row, state[k], truth, N, *error, k == 2 ? 1e-20 : 1e-12);
        same = same && memcmp(state[k], again[k], N * sizeof(float)) == 0;
        for (int i = 0; i < GUARD; i++)
            guards =
                guards && memory[k][i] == guard_value && state[k][N + (size_t)i] == guard_value;
        free(name), free(error_name), free(row), free(memory[k]), free(again[k]);
    }
#ifdef _OPENMP
    check(same, "adamw %s same bits on 1 and 2 threads", c);
#else
    (void)same;
    check_skip("adamw %s same bits on 1 and 2 threads: built without OpenMP", c);
#endif
    check(guards, "adamw %s writes nowhere else", c);
    check(kept, "adamw %s leaves the gradient as it is", c);
    free(first_name), free(gradient[0]), free(gradient[1]);
}

/* --precision bf16 against PyTorch: the rounding bit by bit, with ties, infinities and NaNs;
 * then the three products of a linear layer. */
static void mixed_precision_check(void) {
    SafeTensors *file = safetensors_open("tests/reference/mixed_precision.safetensors");
    enum { COUNT = 2512 };
    const int32_t *x = reference_find(file, "rounding/x", "I32", COUNT, false);
    const int32_t *y = reference_find(file, "rounding/y", "I32", COUNT, false);
    size_t wrong = 0;
    for (size_t i = 0; i < COUNT; i++) {
        float number, expected, result;
        memcpy(&number, &x[i], sizeof number);
        memcpy(&expected, &y[i], sizeof expected);
        result = bf16_round(number);
        int32_t bits;
        memcpy(&bits, &result, sizeof bits);
        wrong += isnan(expected) ? !isnan(result) : bits != y[i];
    }
    check(wrong == 0, "bf16_round: %d numbers as PyTorch rounds them, %zu wrong", COUNT, wrong);

    static const struct { const char *name; size_t N, C, O; } cases[] = {
        {"33_37_29", 33, 37, 29}, {"70_48_65", 70, 48, 65}};
    enum { CASES = sizeof cases / sizeof cases[0] };
    const int64_t *stored = reference_find(file, "cases", "I64", 1, false);
    check(*stored == CASES, "mixed_precision: %d of %lld stored cases checked", CASES,
          (long long)*stored);
    product_precision = BF16;
    for (int i = 0; i < CASES; i++) {
        size_t N = cases[i].N, C = cases[i].C, O = cases[i].O;
        const float *in = stored_floats(file, cases[i].name, "x", N * C);
        const float *weight = stored_floats(file, cases[i].name, "weight", C * O);
        const float *dy = stored_floats(file, cases[i].name, "dy", N * O);
        const char *names[] = {"y", "dx", "dweight"};
        size_t counts[] = {N * O, N * C, C * O};
        float *results[3];
        for (int k = 0; k < 3; k++) results[k] = memory_allocate(counts[k], sizeof(float));
        matmul_forward(results[0], in, weight, NULL, N, C, O);
        matmul_backward(results[1], results[2], NULL, dy, in, weight, N, C, O);
        for (int k = 0; k < 3; k++) {
            char *name = text_format("%s/%s", cases[i].name, names[k]);
            char *error_name = text_format("%s.float32_error", name);
            char *row = text_format("mixed_precision %s", name);
            const double *truth = reference_find(file, name, "F64", counts[k], false);
            const double *error = reference_find(file, error_name, "F64", 1, false);
            check_tensor(row, results[k], truth, counts[k], *error, 1e-12);
            free(name), free(error_name), free(row), free(results[k]);
        }
    }
    /* A smaller product after one with NaNs: nothing of those is left in the buffers. */
    enum { M = 20, K = 7 };
    float a[M * (K + 1)], b[(K + 1) * M], result[M * M];
    for (size_t i = 0; i < M * (K + 1); i++) a[i] = 1, b[i] = NAN;
    matrix_product(result, M, (Matrix){a, K + 1, 1}, (Matrix){b, M, 1}, NULL, M, M, K + 1,
                   false);
    bool right = isnan(result[0]);
    for (size_t i = 0; i < (K + 1) * M; i++) b[i] = 2;
    matrix_product(result, M, (Matrix){a, K, 1}, (Matrix){b, M, 1}, NULL, M, M, K, false);
    for (size_t i = 0; i < M * M; i++) right = right && result[i] == 2 * K;
    check(right, "matrix_product in bf16, after one with NaNs");
    product_precision = FLOAT32;
    safetensors_close(file);
}

static void optimizer_check(void) {
    static const struct { const char *name; size_t N, updates;
    } adamw[] = {{"1", 1, 3},      {"7", 7, 5},          {"33", 33, 5},
                 {"late", 130, 4}, {"below_eps", 65, 4}, {"1000", 1000, 2}};
    static const struct { const char *name; size_t N; } norms[] = {
        {"1", 1}, {"5", 5}, {"33", 33}, {"1000", 1000}, {"4097", 4097}};
    SafeTensors *file = safetensors_open("tests/reference/adamw.safetensors");
    enum { ADAMW = sizeof adamw / sizeof adamw[0], NORMS = sizeof norms / sizeof norms[0] };
    const int64_t *stored = reference_find(file, "cases", "I64", 1, false);
    check(*stored == ADAMW, "adamw: %d of %lld stored cases checked", ADAMW,
          (long long)*stored);
    for (int i = 0; i < ADAMW; i++)
        adamw_case_check(file, adamw[i].name, adamw[i].N, adamw[i].updates);
    safetensors_close(file);

    file = safetensors_open("tests/reference/gradient_norm.safetensors");
    stored = reference_find(file, "cases", "I64", 1, false);
    check(*stored == NORMS, "gradient_norm: %d of %lld stored cases checked", NORMS,
          (long long)*stored);
    for (int i = 0; i < NORMS; i++) {
        const float *gradient = stored_floats(file, norms[i].name, "gradient", norms[i].N);
        char *name = text_format("%s/norm", norms[i].name);
        const double *norm = reference_find(file, name, "F64", 1, false);
        /* A sum of squares in double, in any order: some 1e-16 for each addition. */
        double error = fabs(gradient_norm(gradient, norms[i].N) / *norm - 1);
        check(error <= 1e-13, "gradient_norm %-38s error %8.2e  at most 1.00e-13",
              norms[i].name, error);
        free(name);
    }
    safetensors_close(file);
    enum { LARGE = 100003 };
    float *gradient = drawn_floats(LARGE, 5);
    double *exact = doubles(gradient, LARGE), norm = tensor_size(exact, LARGE) * sqrt(LARGE);
    check(fabs(gradient_norm(gradient, LARGE) / norm - 1) <= 1e-13,
          "gradient_norm of %d numbers", LARGE);
#ifdef _OPENMP
    int before = omp_get_max_threads();
    double by_threads[3];
    for (int threads = 1; threads <= 3; threads++) {
        omp_set_num_threads(threads);
        by_threads[threads - 1] = gradient_norm(gradient, LARGE);
    }
    omp_set_num_threads(before);
    check(by_threads[0] == by_threads[1] && by_threads[1] == by_threads[2],
          "gradient_norm same bits on 1, 2 and 3 threads");
#else
    check_skip("gradient_norm same bits on 1, 2 and 3 threads: built without OpenMP");
#endif
    free(gradient), free(exact);
}

/* attention_cached for B sequences beside attention_forward of each, y and lse: the same bits.
 * Sequence b comes in steps of n tokens of which the first has first[b] tokens, so that the
 * caches have different lengths.  Keys and values that are not there yet are NaN: one look at
 * them spoils a sum; what is in the cache already may not change. */
static void cached_check(size_t n) {
    enum { B = 3, T = 70, C = 12, H = 3, CONTEXT = 80 };
    static const size_t first[B] = {0, 3, 66};
    static float qkv[B * T * 3 * C], y[B * T * C], lse[B * H * T], keys[B * CONTEXT * C],
        values[B * CONTEXT * C], part[B * T * C], part_lse[B * H * T], next[B * T * 3 * C];
    for (size_t i = 0; i < B * T * 3 * C; i++) qkv[i] = random_normal(5, i);
    attention_forward(y, lse, qkv, B, T, C, H, true, (Dropout){0});
    for (size_t j = 0; j < B * CONTEXT * C; j++) keys[j] = values[j] = NAN;
    size_t lengths[B];
    for (size_t b = 0; b < B; b++) { /* each alone up to its first length */
        lengths[b] = 0;
        if (first[b])
            attention_cached(part, part_lse, keys + b * CONTEXT * C, values + b * CONTEXT * C,
                             qkv + b * T * 3 * C, &lengths[b], 1, first[b], CONTEXT, C, H);
        lengths[b] = first[b];
    }
    double worst = 0;
    bool stored = true;
    for (size_t step = 0; step + n <= T - 66 || (step == 0 && n <= T); step += n) {
        size_t count = n > T - 66 ? 1 : B; /* long steps: the empty sequence alone */
        for (size_t b = 0; b < count; b++)
            memcpy(next + b * n * 3 * C, qkv + (b * T + lengths[b]) * 3 * C,
                   n * 3 * C * sizeof *next);
        attention_cached(part, part_lse, keys, values, next, lengths, count, n, CONTEXT, C, H);
        for (size_t b = 0; b < count; b++) {
            for (size_t i = 0; i < n * C; i++)
                worst = fmax(worst, fabs((double)part[b * n * C + i] -
                                         y[(b * T + lengths[b]) * C + i]));
            for (size_t h = 0; h < H; h++)
                for (size_t t = 0; t < n; t++)
                    worst = fmax(worst, fabs((double)part_lse[(b * H + h) * n + t] -
                                             lse[(b * H + h) * T + lengths[b] + t]));
            for (size_t i = 0; i < n * C; i++) /* NaN compares as different */
                stored = stored && isfinite(part[b * n * C + i]);
            lengths[b] += n;
            for (size_t s = 0; s < CONTEXT; s++)
                for (size_t c = 0; c < C; c++) {
                    size_t i = (b * CONTEXT + s) * C + c, at = (b * T + s) * 3 * C + c;
                    bool right = s < lengths[b]
                                     ? keys[i] == qkv[at + C] && values[i] == qkv[at + 2 * C]
                                     : isnan(keys[i]) && isnan(values[i]);
                    stored = stored && right;
                }
        }
    }
    check(stored, "attention_cached by %zu tokens: keys and values are where they belong", n);
    check(worst == 0, "attention_cached by %zu tokens: y and lse of attention_forward", n);
}

/* A gradient that is not wanted is NULL, and the others are the same bits without it. */
static void unwanted_check(void) {
    enum { N = 37, C = 19, O = 23, B = 1, T = N, V = 11 };
    float *x = drawn_floats(N * C, 1), *w = drawn_floats(C * O, 2);
    float *dy = drawn_floats(N * O, 3);
    float *dx[2], *dw[2], *db[2];
    for (int i = 0; i < 2; i++) {
        dx[i] = drawn_floats(N * C, 4);
        dw[i] = drawn_floats(C * O, 5);
        db[i] = drawn_floats(O, 6);
    }
    matmul_backward(dx[0], dw[0], db[0], dy, x, w, N, C, O);
    matmul_backward(dx[1], NULL, NULL, dy, x, w, N, C, O);
    matmul_backward(NULL, dw[1], NULL, dy, x, w, N, C, O);
    matmul_backward(NULL, NULL, db[1], dy, x, w, N, C, O);
    check(!memcmp(dx[0], dx[1], N * C * sizeof *x) &&
              !memcmp(dw[0], dw[1], C * O * sizeof *x) &&
              !memcmp(db[0], db[1], O * sizeof *x),
          "matmul: each gradient without the others, same bits");
    /* The table of O tokens of C channels, then of norms of C channels. */
    float *mean = drawn_floats(N, 7), *rstd = drawn_floats(N, 8);
    layernorm_backward(dx[0], dw[0], db[0], x, mean, rstd, x, w, N, C);
    layernorm_backward(dx[1], NULL, NULL, x, mean, rstd, x, w, N, C);
    layernorm_backward(dx[1] /* once more: adds */, dw[1], NULL, x, mean, rstd, x, w, N, C);
    layernorm_backward(dx[0], NULL, db[1], x, mean, rstd, x, w, N, C);
    check(!memcmp(dx[0], dx[1], N * C * sizeof *x) &&
              !memcmp(dw[0], dw[1], C * O * sizeof *x) &&
              !memcmp(db[0], db[1], O * sizeof *x),
          "layernorm: each gradient without the others, same bits");
    int32_t tokens[N];
    for (int i = 0; i < N; i++) tokens[i] = i * i % V;
    embedding_backward(dw[0], dx[0], x, tokens, B, T, C);
    embedding_backward(dw[1], NULL, x, tokens, B, T, C);
    embedding_backward(NULL, dx[1], x, tokens, B, T, C);
    check(!memcmp(dx[0], dx[1], N * C * sizeof *x) && !memcmp(dw[0], dw[1], C * O * sizeof *x),
          "embedding: each gradient without the other, same bits");
    unembedding_backward(dx[0], dw[0], dy, x, w, N, C, O);
    unembedding_backward(dx[1], NULL, dy, x, w, N, C, O);
    check(!memcmp(dx[0], dx[1], N * C * sizeof *x), "unembedding without dwte: dx, same bits");
    for (int i = 0; i < 2; i++) free(dx[i]), free(dw[i]), free(db[i]);
    free(x), free(w), free(dy), free(mean), free(rstd);
}

int main(void) {
    program_name = "test_kernels";
    table_check();
    products_check();
    static const size_t steps[] = {1, 2, 4, 64, 70};
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) cached_check(steps[i]);
    unwanted_check();
    mixed_precision_check();
    layernorm_edges_check();
    cross_entropy_maximum_check();
    not_finite_check();
    random_check();
    optimizer_check();
    return check_summary();
}

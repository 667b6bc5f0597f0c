/* profile.c - where the time of a training step of train.c goes, kernel by kernel.
 *
 *     cc -std=gnu11 -O3 -march=native -fno-math-errno -fopenmp dev/bench/profile.c \
 *         -o build/profile -lm
 *     ./build/profile LAYERS HEADS CHANNELS VOCAB BATCH TIME [dropout] [recompute] [bf16]
 *
 * Each kernel is run alone, at the sizes of this model and batch, on the numbers that a real
 * step has left; its fastest time counts as often as a step runs it.  The tokens are drawn at
 * random: no kernel's time depends on what the numbers are.  dropout is at a rate of 0.1.
 *
 * The last two lines are the sum of the rows and the fastest of four whole steps.  What the
 * whole step takes beyond the sum is fetching what a kernel that runs alone finds in the cache,
 * and waiting between the kernels.
 */
#define TRAIN_NO_MAIN
#include "../../train.c"

typedef struct {
    const char *name;
    double calls, flops; /* calls in a step; FLOPs of one call, 0 where memory decides */
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

/* A model, its memory, and one batch. */
typedef struct {
    GPT *gpt;
    Activations *a;
    Optimizer *optimizer;
    int32_t *inputs, *targets; /* (B,T) */
    float *dlosses;            /* (B,T) */
} Bench;

/* The first block's linear layers and attention, which stand for those of all blocks.  Where
 * the backward pass runs blocks forward again (recompute), their kernels are called twice, here
 * and below. */
static void profile_products(const Bench *bench, Profile *p) {
    GPT *gpt = bench->gpt;
    Activations *a = bench->a;
    const Layer *y = &a->layers[0];
    size_t B = a->B, T = a->T, N = B * T, C = gpt->config.channels, H = gpt->config.heads;
    bool causal = !gpt->config.bidirectional;
    Dropout inside = dropout_site(gpt, a, 1, H * T * T);
    double layers = (double)gpt->config.layers, again = a->keep == KEEP_STREAM ? layers : 0;
    double block = 24.0 * (double)(N * C * C);
    double attention = 2.0 * (double)(N * T * C); /* keys up to the query only */

    while (profile_again(p, "matrix products of a block forward", layers + again, block)) {
        linear_forward(gpt, QKV_W, 0, y->qkv, a->norm, N);
        linear_forward(gpt, PROJ_W, 0, a->branch, y->attention, N);
        linear_forward(gpt, FC_W, 0, y->fc, a->norm, N);
        linear_forward(gpt, OUT_W, 0, a->branch, a->gelu, N);
    }
    while (profile_again(p, "matrix products of a block backward", layers, 2 * block)) {
        linear_backward(gpt, QKV_W, 0, a->dnorm, a->dqkv, a->norm, N);
        linear_backward(gpt, PROJ_W, 0, a->dattention, a->dbranch, y->attention, N);
        linear_backward(gpt, FC_W, 0, a->dnorm, a->dfc, a->norm, N);
        linear_backward(gpt, OUT_W, 0, a->dgelu, a->dbranch, a->gelu, N);
    }
    while (profile_again(p, "attention forward", layers + again, attention))
        attention_forward(y->attention, y->lse, y->qkv, B, T, C, H, causal, inside);
    while (profile_again(p, "attention backward", layers, 2.5 * attention))
        attention_backward(a->dqkv, a->dattention, y->attention, y->lse, y->qkv, B, T, C, H,
                           causal, inside);
}

/* What touches each number once: memory decides how long it takes. */
static void profile_elements(const Bench *bench, Profile *p) {
    GPT *gpt = bench->gpt;
    Activations *a = bench->a;
    const Layer *y = &a->layers[0];
    size_t B = a->B, T = a->T, N = B * T, C = gpt->config.channels, F = 4 * C;
    Dropout outside = dropout_site(gpt, a, 2, T * C);
    double layers = (double)gpt->config.layers, again = a->keep == KEEP_STREAM ? layers : 0;

    while (profile_again(p, "embedding, both ways", 1, 0)) {
        embedding_forward(y->x, bench->inputs, weight_of(gpt, WTE, 0), weight_of(gpt, WPE, 0),
                          B, T, C);
        embedding_backward(gradient_of(gpt, WTE, 0), gradient_of(gpt, WPE, 0), a->dx,
                           bench->inputs, B, T, C);
    }
    while (profile_again(p, "layer norm forward", 4 * layers + 1 + 2 * again, 0))
        norm_forward(gpt, LN1_W, 0, a->norm, y->ln1_mean, y->ln1_rstd, y->x, N);
    while (profile_again(p, "layer norm backward", 2 * layers + 1, 0))
        norm_backward(gpt, LN1_W, 0, a->dx, a->dnorm, y->ln1_mean, y->ln1_rstd, y->x, N);
    while (profile_again(p, "GELU forward", 2 * layers + again, 0))
        gelu_forward(a->gelu, y->fc, N * F);
    while (profile_again(p, "GELU backward", layers, 0))
        gelu_backward(a->dfc, a->dgelu, y->fc, N * F);
    /* forward and backward take equally long: two more forward calls count as one more pair */
    while (profile_again(p, "residual, both ways", 2 * layers + again, 0)) {
        residual_forward(y->middle, y->x, a->branch, N * C);
        residual_backward(a->dx, a->dbranch, a->dx, N * C);
    }
    while (outside.rate > 0 &&
           profile_again(p, "dropout outside attention", 4 * layers + 2 + 2 * again, 0))
        dropout_forward(a->branch, a->branch, N * C, outside);
}

/* The output head, which goes over the positions in pieces of head_rows, and the update. */
static void profile_head_and_update(const Bench *bench, Profile *p) {
    Activations *a = bench->a;
    GPT *gpt = bench->gpt;
    size_t N = a->B * a->T, C = gpt->config.channels, V = gpt->config.vocab;
    size_t rows = a->head_rows, P = gpt->parameter_count;
    double pieces = (double)N / (double)rows, head = 2.0 * (double)(rows * C * V);
    const float *wte = weight_of(gpt, WTE, 0);

    while (profile_again(p, "output head forward", pieces, head))
        unembedding_forward(a->logits, a->hidden, wte, rows, C, V);
    while (profile_again(p, "output head backward", pieces, 2 * head))
        unembedding_backward(a->dhidden, gradient_of(gpt, WTE, 0), a->logits, a->hidden, wte,
                             rows, C, V);
    while (profile_again(p, "cross-entropy forward", pieces, 0))
        cross_entropy_forward(a->losses, a->head_lse, a->logits, bench->targets, rows, V);
    while (profile_again(p, "cross-entropy backward", pieces, 0))
        cross_entropy_backward(a->logits, bench->dlosses, a->head_lse, a->logits,
                               bench->targets, rows, V);
    while (profile_again(p, "gradients cleared", 1, 0)) gradients_clear(gpt);
    while (profile_again(p, "gradient norm", 1, 0)) gradient_norm(gpt->gradients, P);
    while (profile_again(p, "AdamW", 1, 0))
        adamw_update(gpt->weights, bench->optimizer->m, bench->optimizer->v, gpt->gradients, P,
                     0, 0.9f, 0.99f, 1e-8f, 0, 1, 1);
}

static void profile_print(const Profile *p, double whole, double peak) {
    double sum = 0;
    for (int i = 0; i < p->count; i++) sum += p->rows[i].seconds * p->rows[i].calls;
    printf("%-38s %8s %7s %7s %10s\n", "kernel", "ms", "share", "calls",
           product_precision == BF16 ? "of float32 peak" : "of peak");
    for (int i = 0; i < p->count; i++) {
        const ProfileRow *row = &p->rows[i];
        double seconds = row->seconds * row->calls;
        printf("%-38s %8.2f %6.1f%% %7.4g", row->name, 1e3 * seconds, 100 * seconds / sum,
               row->calls);
        if (row->flops > 0) printf(" %9.0f%%", 100 * row->flops / row->seconds / peak);
        putchar('\n');
    }
    printf("%-38s %8.2f\n", "all of them", 1e3 * sum);
    printf("%-38s %8.2f\n", "a real step", 1e3 * whole);
}

static size_t argument(char **argv, int i) {
    char *end;
    errno = 0;
    long long value = strtoll(argv[i], &end, 10);
    if (errno || *end || end == argv[i] || value < 1 || value > 1000000)
        die_usage("argument %d: \"%s\" is not a number from 1 to 1000000", i, argv[i]);
    return (size_t)value;
}

int main(int argc, char **argv) {
    program_name = "profile";
    bool dropout = false, recompute = false;
    if (argc < 7)
        die_usage("usage: profile LAYERS HEADS CHANNELS VOCAB BATCH TIME [dropout] [recompute] "
                  "[bf16]");
    for (int i = 7; i < argc; i++)
        if (!strcmp(argv[i], "dropout")) dropout = true;
        else if (!strcmp(argv[i], "recompute")) recompute = true;
        else if (!strcmp(argv[i], "bf16")) product_precision = BF16;
        else die_usage("argument %d: \"%s\" is not dropout, recompute or bf16", i, argv[i]);
    size_t B = argument(argv, 5), T = argument(argv, 6), N = B * T;
    Config config = {.layers = argument(argv, 1), .heads = argument(argv, 2),
                     .channels = argument(argv, 3), .vocab = argument(argv, 4), .context = T,
                     .bias = true, .dropout = dropout ? 0.1f : 0};
    if (config.channels % config.heads)
        die_usage("%zu channels are no multiple of %zu heads", config.channels, config.heads);

    int keep = recompute ? KEEP_STREAM : KEEP_ALL;
    Bench bench = {.gpt = gpt_create(&config, true),
                   .a = activations_create(&config, B, T, keep, 0),
                   .inputs = memory_allocate(N, sizeof *bench.inputs),
                   .targets = memory_allocate(N, sizeof *bench.targets),
                   .dlosses = memory_allocate(N, sizeof *bench.dlosses)};
    gpt_initialize(bench.gpt, 1);
    bench.optimizer = optimizer_create(bench.gpt->parameter_count);
    for (size_t n = 0; n < N; n++) {
        bench.inputs[n] = (int32_t)(random_bits(1, n) % config.vocab);
        bench.targets[n] = (int32_t)(random_bits(2, n) % config.vocab);
        bench.dlosses[n] = 1.0f / (float)N;
    }
    double peak = peak_flops(), whole = INFINITY;
    OptimizerOptions update = {0.9f, 0.99f, 1e-8f, 0, 1};
    for (uint64_t step = 0; step < 4; step++) {
        double start = clock_seconds();
        gradients_clear(bench.gpt);
        gpt_forward_backward(bench.gpt, bench.a, bench.inputs, bench.targets, bench.dlosses, B,
                             T, step + 1, 0);
        double norm = optimizer_step(bench.gpt, bench.optimizer, &update, 0);
        whole = fmin(whole, clock_seconds() - start);
        if (!isfinite(norm) || norm == 0)
            die("step %" PRIu64 ": the gradient's norm is %g: nothing was computed", step,
                norm);
    }
    Profile profile = {.count = 0};
    profile_products(&bench, &profile);
    profile_elements(&bench, &profile);
    profile_head_and_update(&bench, &profile);
    profile_print(&profile, whole, fmax(peak, peak_flops()));

    gpt_destroy(bench.gpt);
    activations_destroy(bench.a);
    optimizer_destroy(bench.optimizer);
    free(bench.inputs);
    free(bench.targets);
    free(bench.dlosses);
    return fflush(stdout) != 0;
}

/* test_seams.c - the seams of train.c: each is used here as a program would use it that wants
 * another wiring, another loss or another way to train than ./train has.
 *
 *     cc -std=gnu11 -O3 tests/test_seams.c -o build/test_seams -lm && build/test_seams
 *
 *   1. Small models, and slopes
 *   2. A run in a few lines; ranks
 *   3. Linear layers; frozen tensors
 *   4. Halves of blocks, heads, attention that looks both ways
 *   5. Generation
 *   6. The optimizer, files
 */
#define TRAIN_NO_MAIN
#include "../train.c"
#include "check.c"
#include "child.c"

/* =========================================================================================
 * 1. Small models, and slopes
 * ====================================================================================== */

/* A model whose gradients are of a size to be measured, and a batch for it. */
typedef struct {
    GPT *gpt;
    Activations *a;
    size_t B, T, N;            /* N = B*T */
    int32_t *inputs, *targets; /* (B,T), some targets are -1 */
    float *dlosses;            /* (B,T), no two alike */
    uint64_t key;              /* of the dropout */
    float *head, *dhead;       /* (C) a value head: value[n] = head . hidden[n] */
    float *goals;              /* (N) what the values should be */
} Lab;

static const Config SMALL = {.layers = 3, .heads = 3, .channels = 15, .context = 9,
                             .vocab = 23, .bias = true, .dropout = 0.2f};
enum { FIRST = 2 }; /* the number of the batch's first sequence, for dropout */

/* The nearest multiple of 2^-16, so that a step of a power of two is exact. */
static float rounded(float x) { return (float)(rint(x * 0x1p16) * 0x1p-16); }

static Lab lab_create(Config config) {
    size_t B = 3, T = 7, N = B * T, C = config.channels;
    Lab lab = {.gpt = gpt_create(&config, true), .B = B, .T = T, .N = N, .key = 5,
               .a = activations_create(&config, B, T, KEEP_ALL, 0),
               .inputs = memory_allocate(N, sizeof(int32_t)),
               .targets = memory_allocate(N, sizeof(int32_t)),
               .dlosses = memory_allocate(N, sizeof(float)),
               .head = memory_allocate(C, sizeof(float)),
               .dhead = memory_allocate(C, sizeof(float)),
               .goals = memory_allocate(N, sizeof(float))};
    gpt_initialize(lab.gpt, 1);
    for (size_t i = 0; i < lab.gpt->parameter_count; i++)
        lab.gpt->weights[i] = rounded(lab.gpt->weights[i] + 0.15f * random_normal(2, i));
    for (size_t n = 0; n < N; n++) {
        lab.inputs[n] = (int32_t)(random_bits(3, n) % config.vocab);
        lab.targets[n] = n % 5 == 2 ? -1 : (int32_t)(random_bits(4, n) % config.vocab);
        lab.dlosses[n] = (0.5f + random_uniform(5, n)) / (float)N;
        lab.goals[n] = random_normal(6, n);
    }
    for (size_t c = 0; c < C; c++) lab.head[c] = rounded(random_normal(7, c));
    return lab;
}

static void lab_destroy(Lab *lab) {
    gpt_destroy(lab->gpt);
    activations_destroy(lab->a);
    free(lab->inputs), free(lab->targets), free(lab->dlosses);
    free(lab->head), free(lab->dhead), free(lab->goals);
}

static bool same_bits(const float *a, const float *b, size_t count) {
    return memcmp(a, b, count * sizeof *a) == 0;
}

static float *copy_of(const float *data, size_t count) {
    return memcpy(memory_allocate(count, sizeof *data), data, count * sizeof *data);
}

/* |a - b| / |b| */
static double difference(const float *a, const float *b, size_t count) {
    double distance = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        distance += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += (double)b[i] * b[i];
    }
    return sqrt(distance / norm);
}

static void forward(const Lab *lab) {
    gpt_forward(lab->gpt, lab->a, lab->inputs, lab->targets, lab->B, lab->T, lab->key, FIRST);
}

static void backward(const Lab *lab) {
    gpt_backward(lab->gpt, lab->a, lab->inputs, lab->targets, lab->dlosses, lab->B, lab->T);
}

static double losses_weighted(const Lab *lab) {
    double sum = 0;
    for (size_t n = 0; n < lab->N; n++) sum += (double)lab->dlosses[n] * lab->a->losses[n];
    return sum;
}

/* The slope of `objective` along a direction of +1 and -1 in the numbers w (count), from their
 * gradient and from differences of fourth order, as slopes_check in test_model.c, which says
 * why the steps and the tolerance are what they are. */
static void slope_check(const char *what, const char *name, float *w, const float *gradient,
                        size_t count, bool matrix, double objective(const Lab *), Lab *lab) {
    static const double tolerance = 2e-3;
    double h = matrix ? 0x1p-10 : 0x1p-7, computed = 0, sum[2] = {0};
    float *middle = copy_of(w, count), *direction = memory_allocate(count, sizeof *direction);
    for (size_t j = 0; j < count; j++) {
        direction[j] = (gradient[j] < 0) != (random_bits(8, j) % 8 == 0) ? -1.0f : 1.0f;
        computed += (double)direction[j] * gradient[j];
    }
    for (int k = 0; k < 2; k++)
        for (int sign = -1; sign <= 1; sign += 2) {
            for (size_t j = 0; j < count; j++)
                w[j] = (float)(middle[j] + sign * h * (k + 1) * direction[j]);
            sum[k] += sign * objective(lab);
        }
    memcpy(w, middle, count * sizeof *w);
    double measured = (8 * sum[0] - sum[1]) / (12 * h);
    double error = fabs(measured - computed) / fabs(measured);
    check(fabs(measured) > 1e-3 && error <= tolerance,
          "%s: %-36s slope %12.5e  differences %12.5e  error %8.2e  at most %8.2e", what, name,
          computed, measured, error, tolerance);
    free(middle);
    free(direction);
}

/* Of every tensor that has a gradient. */
static void slopes_check(const char *what, double objective(const Lab *), Lab *lab) {
    GPT *gpt = lab->gpt;
    for (size_t i = 0; i < gpt->tensor_count; i++) {
        const Tensor *t = &gpt->table[i];
        bool some = false;
        for (size_t j = 0; j < t->count; j++) some |= gpt->gradients[t->offset + j] != 0;
        if (some)
            slope_check(what, t->name, gpt->weights + t->offset, gpt->gradients + t->offset,
                        t->count, t->rank == 2, objective, lab);
    }
}

static void threads_set(int threads) {
#ifdef _OPENMP
    omp_set_num_threads(threads);
#else
    (void)threads;
#endif
}

/* =========================================================================================
 * 2. A run in a few lines; ranks
 * ====================================================================================== */

enum { STEPS = 80 };

/* All that a program needs for a training of its own.  The caller frees what is returned: the
 * weights.  losses (STEPS). */
static float *run_alone(double *losses, Evaluation *validation, size_t *vocab, size_t *count) {
    char text[2000];
    for (size_t i = 0; i < sizeof text; i++) text[i] = "the cat sat on the mat.\n"[i % 24];

    Tokenizer *tokenizer = tokenizer_create((unsigned char *)text, sizeof text);
    Corpus corpus = {.bytes = sizeof text};
    corpus.count = tokenizer_encode(tokenizer, (unsigned char *)text, sizeof text, "text",
                                    &corpus.tokens);
    Split splits[SPLITS];
    corpus_split(&corpus, 0.1, 0, splits);
    Config config = {.layers = 2, .heads = 2, .channels = 32, .context = 16,
                     .vocab = tokenizer->vocab, .bias = true, .dropout = 0.05f};
    GPT *gpt = gpt_create(&config, true);
    gpt_initialize(gpt, 1);
    Activations *a = activations_create(&config, 5, 16, KEEP_ALL, 0);
    Optimizer *optimizer = optimizer_create(gpt->parameter_count);
    OptimizerOptions options = {.beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-8f, .clip = 1};
    BatchSource source = {.split = &splits[SPLIT_TRAIN], .batch = 8, .T = 16, .world = 1};
    for (uint64_t step = 0; step < STEPS; step++) {
        gradients_clear(gpt);
        losses[step] = batch_gradient(gpt, a, &source, step);
        optimizer_step(gpt, optimizer, &options, 1e-2f);
    }
    *validation = split_evaluate(gpt, a, tokenizer, &splits[SPLIT_VALIDATION], 0);

    *vocab = config.vocab;
    *count = gpt->parameter_count;
    float *weights = copy_of(gpt->weights, *count);
    optimizer_destroy(optimizer);
    activations_destroy(a);
    gpt_destroy(gpt);
    free(corpus.tokens);
    tokenizer_destroy(tokenizer);
    return weights;
}

static void run_check(void) {
    double losses[2][STEPS];
    float *weights[2];
    size_t vocab = 0, count = 0;
    Evaluation validation;
    for (int i = 0; i < 2; i++) {
        threads_set(i + 1);
        weights[i] = run_alone(losses[i], &validation, &vocab, &count);
    }
    threads_set(1);
    /* A fresh model guesses: ln V.  test_untrained of test_training.c has what is added to it:
     * less than 0.2 at this size. */
    check(fabs(losses[0][0] - log((double)vocab)) < 0.2 && losses[0][STEPS - 1] < 0.5,
          "a run without the option parser: the loss falls from %.3f, near ln V = %.3f, to "
          "%.3f",
          losses[0][0], log((double)vocab), losses[0][STEPS - 1]);
    check(validation.loss < 1 && validation.tokens > 100,
          "a run without the option parser: validation loss %.3f", validation.loss);
#ifdef _OPENMP
    check(!memcmp(losses[0], losses[1], sizeof losses[0]) &&
              same_bits(weights[0], weights[1], count),
          "a run without the option parser: 1 and 2 threads give the same bits");
#else
    check_skip("a run on 1 and 2 threads: built without OpenMP");
#endif
    free(weights[0]), free(weights[1]);
}

/* Sums of two digits in words of unequal length, or running text. */
static Corpus corpus_create(bool rows, size_t T, Tokenizer **tokenizer) {
    static const char *const words[] = {"no", "I", "V", "seven", "ten"};
    Bytes text = {memory_allocate(1000, 1), 0};
    for (int i = 0; i < 25; i++)
        text.size += (size_t)sprintf((char *)text.data + text.size, "%d+%d=%s\n", i / 5, i % 5,
                                     words[(i / 5 + i % 5) % 5]);
    *tokenizer = tokenizer_create(text.data, text.size);
    Corpus corpus = {.bytes = text.size};
    if (rows) corpus = corpus_rows(*tokenizer, &text, "text", "=", T);
    else
        corpus.count =
            tokenizer_encode(*tokenizer, text.data, text.size, "text", &corpus.tokens);
    free(text.data);
    return corpus;
}

/* Two processes with half of a batch each: their losses are those of one process, and the
 * means and gradients that they return have its sum, whatever their micro-batches are. */
static void ranks_check(bool rows) {
    enum { BATCH = 10, T = 12, WORLD = 2, SHARE = BATCH / WORLD };
    const char *what = rows ? "ranks, rows" : "ranks, running text";
    Tokenizer *tokenizer;
    Corpus corpus = corpus_create(rows, T, &tokenizer);
    Split splits[SPLITS];
    corpus_split(&corpus, 0, 0, splits);
    Config config = {.layers = 2, .heads = 2, .channels = 12, .context = T,
                     .vocab = tokenizer->vocab, .bias = true, .dropout = 0.3f};
    GPT *gpt = gpt_create(&config, true);
    gpt_initialize(gpt, 1);
    size_t count = gpt->parameter_count;
    Activations *a = activations_create(&config, BATCH, T, KEEP_ALL, 0);
    BatchSource one = {.split = &splits[SPLIT_TRAIN], .batch = BATCH, .T = T, .seed = 3,
                       .world = 1};
    double loss = batch_gradient(gpt, a, &one, 4);
    float *gradients = copy_of(gpt->gradients, count), *losses = copy_of(a->losses, BATCH * T);
    activations_destroy(a);

    static const size_t sizes[] = {5, 2, 3, 1}; /* 2 and 3 do not divide a share of 5 */
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        double sum = 0;
        bool same = true;
        gradients_clear(gpt);
        for (size_t rank = 0; rank < WORLD; rank++) {
            BatchSource half = one;
            half.rank = rank;
            half.world = WORLD;
            a = activations_create(&config, sizes[i], T, KEEP_ALL, 0);
            sum += batch_gradient(gpt, a, &half, 4);
            /* What the activations hold now is the last micro-batch. */
            size_t last = (SHARE - 1) % sizes[i] + 1, start = (rank + 1) * SHARE - last;
            same = same && same_bits(a->losses, losses + start * T, last * T);
            activations_destroy(a);
        }
        double error = difference(gpt->gradients, gradients, count);
        check(same, "%s, micro-batches of %zu: the losses of one process, same bits", what,
              sizes[i]);
        /* The same float32 terms, added in another order: some roundings of 6e-8. */
        check(error < 1e-6 && fabs(sum / loss - 1) < 1e-6,
              "%s, micro-batches of %zu: two ranks add up to one: gradient %.1e and loss %.1e "
              "from it, at most 1e-6",
              what, sizes[i], error, fabs(sum / loss - 1));
    }
    free(gradients), free(losses);
    gpt_destroy(gpt);
    free(corpus.tokens), free(corpus.rows);
    tokenizer_destroy(tokenizer);
}

/* =========================================================================================
 * 3. Linear layers; frozen tensors
 * ====================================================================================== */

/* What gradient memory holds before a backward pass that should leave it alone: whatever were
 * added to it, of more than 1e-17, would change its bits. */
static const float UNTOUCHED = 0x1p-30f;

static void untouched_fill(float *x, size_t count) {
    for (size_t i = 0; i < count; i++) x[i] = UNTOUCHED;
}

static bool untouched(const float *x, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (x[i] != UNTOUCHED) return false;
    return true;
}

/* Where the table of tensors has a name, or -1. */
static ptrdiff_t offset_of(const GPT *gpt, const char *name) {
    for (size_t i = 0; i < gpt->tensor_count; i++)
        if (gpt->table[i].count && !strcmp(gpt->table[i].name, name))
            return (ptrdiff_t)gpt->table[i].offset;
    return -1;
}

static void linear_check(bool biases) {
    static const struct { int kind; const char *name; size_t in, out; } layers[] = {
        {QKV_W, "attn.c_attn", 1, 3}, {PROJ_W, "attn.c_proj", 1, 1},
        {FC_W, "mlp.c_fc", 1, 4}, {OUT_W, "mlp.c_proj", 4, 1}};
    enum { N = 11 };
    Config config = SMALL;
    config.bias = biases;
    Lab lab = lab_create(config);
    GPT *gpt = lab.gpt;
    for (size_t i = 0; i < 4; i++) {
        size_t I = layers[i].in * config.channels, O = layers[i].out * config.channels, l = 1;
        float x[N * 60], dy[N * 60], y[N * 60], dx[N * 60], weight[60 * 60], bias[60];
        float y_expected[N * 60], dx_expected[N * 60];
        for (size_t j = 0; j < N * I; j++) x[j] = random_normal(11, j);
        for (size_t j = 0; j < N * O; j++) dy[j] = random_normal(12, j);
        ptrdiff_t w = offset_of(
            gpt, text_of("transformer.h.%zu.%s.weight", l, layers[i].name).chars);
        ptrdiff_t b =
            offset_of(gpt, text_of("transformer.h.%zu.%s.bias", l, layers[i].name).chars);
        untouched_fill(gpt->gradients, gpt->parameter_count);
        untouched_fill(weight, I * O);
        untouched_fill(bias, O);
        matmul_forward(y_expected, x, gpt->weights + w, b < 0 ? NULL : gpt->weights + b, N, I,
                       O);
        matmul_backward(dx_expected, weight, b < 0 ? NULL : bias, dy, x, gpt->weights + w, N, I,
                        O);
        linear_forward(gpt, layers[i].kind, l, y, x, N);
        linear_backward(gpt, layers[i].kind, l, dx, dy, x, N);
        check((b >= 0) == biases && same_bits(y, y_expected, N * O) &&
                  same_bits(dx, dx_expected, N * I),
              "linear layer %s%s by kind: output and input's gradient, same bits",
              layers[i].name, biases ? "" : " without bias");
        check(same_bits(gpt->gradients + w, weight, I * O) &&
                  (b < 0 || same_bits(gpt->gradients + b, bias, O)),
              "linear layer %s%s by kind: gradients of weight and bias, same bits",
              layers[i].name, biases ? "" : " without bias");
        untouched_fill(gpt->gradients + w, I * O);
        if (b >= 0) untouched_fill(gpt->gradients + b, O);
        check(untouched(gpt->gradients, gpt->parameter_count),
              "linear layer %s%s by kind: nobody else's gradient changes", layers[i].name,
              biases ? "" : " without bias");

        tensor_of(gpt, layers[i].kind, l)->frozen = true;
        memset(dx, 0, sizeof dx);
        linear_backward(gpt, layers[i].kind, l, dx, dy, x, N);
        check(untouched(gpt->gradients + w, I * O) && same_bits(dx, dx_expected, N * I) &&
                  (b < 0 || same_bits(gpt->gradients + b, bias, O)),
              "linear layer %s%s, weight frozen: no gradient of it, the others have the same "
              "bits", layers[i].name, biases ? "" : " without bias");
        tensor_of(gpt, layers[i].kind, l)->frozen = false;
        untouched_fill(gpt->gradients, gpt->parameter_count);
        linear_backward(gpt, layers[i].kind, l, NULL, dy, x, N);
        check(same_bits(gpt->gradients + w, weight, I * O),
              "linear layer %s%s, input's gradient not wanted: the weight's has the same bits",
              layers[i].name, biases ? "" : " without bias");
    }
    lab_destroy(&lab);
}

/* Gradients, with those of frozen tensors marked beforehand. */
static void frozen_run(const Lab *lab, bool in_one) {
    GPT *gpt = lab->gpt;
    gradients_clear(gpt);
    for (size_t i = 0; i < gpt->tensor_count; i++)
        if (gpt->table[i].frozen)
            untouched_fill(gpt->gradients + gpt->table[i].offset, gpt->table[i].count);
    memset(lab->a->dx, 0, lab->N * gpt->config.channels * sizeof *lab->a->dx);
    if (in_one)
        gpt_forward_backward(gpt, lab->a, lab->inputs, lab->targets, lab->dlosses, lab->B,
                             lab->T, lab->key, FIRST);
    else {
        forward(lab);
        backward(lab);
    }
}

/* Is a frozen tensor's gradient memory as it was, and every other gradient that of full
 * training, to the last bit? */
static bool frozen_holds(const GPT *gpt, const float *full) {
    bool good = true;
    for (size_t i = 0; i < gpt->tensor_count; i++) {
        const Tensor *t = &gpt->table[i];
        const float *g = gpt->gradients + t->offset;
        good = good && (t->frozen ? untouched(g, t->count)
                                  : same_bits(g, full + t->offset, t->count));
    }
    return good;
}

/* An update after gradients of 1 everywhere: frozen weights and their moments stay, all others
 * move. */
static bool frozen_stays(GPT *gpt) {
    Optimizer *optimizer = optimizer_create(gpt->parameter_count);
    OptimizerOptions options = {0.9f, 0.99f, 1e-8f, 0.1f, 1};
    float *before = copy_of(gpt->weights, gpt->parameter_count);
    bool good = true;
    for (size_t i = 0; i < gpt->parameter_count; i++)
        gpt->gradients[i] = optimizer->m[i] = optimizer->v[i] = 1;
    optimizer_step(gpt, optimizer, &options, 0.01f);
    for (size_t i = 0; i < gpt->tensor_count; i++) {
        const Tensor *t = &gpt->table[i];
        for (size_t j = t->offset; j < t->offset + t->count; j++) {
            bool stays = gpt->weights[j] == before[j] && optimizer->m[j] == 1 &&
                         optimizer->v[j] == 1;
            bool moves = gpt->weights[j] != before[j] && optimizer->m[j] != 1 &&
                         optimizer->v[j] != 1;
            good = good && (t->frozen ? stays : moves);
        }
    }
    memcpy(gpt->weights, before, gpt->parameter_count * sizeof *before);
    optimizer_destroy(optimizer);
    free(before);
    return good;
}

static void frozen_check(void) {
    Lab lab = lab_create(SMALL);
    GPT *gpt = lab.gpt;
    size_t L = gpt->config.layers, C = gpt->config.channels, V = gpt->config.vocab;
    frozen_run(&lab, false);
    float *full = copy_of(gpt->gradients, gpt->parameter_count);
    float *dx = copy_of(lab.a->dx, lab.N * C);
    for (int kind = 0; kind < KINDS; kind++) {
        const char *name = TENSOR_KINDS[kind].name;
        for (size_t l = 0; l < L; l++) tensor_of(gpt, kind, l)->frozen = true;
        frozen_run(&lab, false);
        check(frozen_holds(gpt, full) && same_bits(lab.a->dx, dx, lab.N * C),
              "frozen %s: no gradient of it; the others and the stream's have the same bits",
              name);
        frozen_run(&lab, true);
        check(frozen_holds(gpt, full) && same_bits(lab.a->dx, dx, lab.N * C),
              "frozen %s: the same from forward and backward in one", name);
        check(frozen_stays(gpt), "frozen %s: an update leaves weights and moments alone", name);
        for (size_t l = 0; l < L; l++) tensor_of(gpt, kind, l)->frozen = false;
    }
    for (size_t i = 0; i < gpt->tensor_count; i++) gpt->table[i].frozen = true;
    frozen_run(&lab, false);
    check(frozen_holds(gpt, full) && same_bits(lab.a->dx, dx, lab.N * C),
          "all frozen: no gradient, and the stream's has the same bits");
    float *dlogits = memory_allocate(lab.N * V, sizeof *dlogits);
    for (size_t i = 0; i < lab.N * V; i++) dlogits[i] = random_normal(13, i);
    forward(&lab);
    gpt_backward_logits(gpt, lab.a, lab.inputs, dlogits, lab.B, lab.T);
    check(frozen_holds(gpt, full), "all frozen: no gradient from those of logits");
    size_t good = 0;
    for (size_t i = 0; i < gpt->tensor_count; i++) {
        gpt->table[i].frozen = false;
        frozen_run(&lab, false);
        good += frozen_holds(gpt, full);
        gpt->table[i].frozen = true;
    }
    check(good == gpt->tensor_count,
          "all frozen but one: its gradient has the bits of full training, %zu of %zu tensors",
          good, gpt->tensor_count);
    free(full), free(dx), free(dlogits);
    lab_destroy(&lab);
}

/* =========================================================================================
 * 4. Halves of blocks, heads, attention that looks both ways
 * ====================================================================================== */

/* gpt_forward, wired by hand.  `without`: the block whose MLP adds nothing; L: none. */
static void parts_forward(const Lab *lab, size_t without) {
    const GPT *gpt = lab->gpt;
    Activations *a = lab->a;
    size_t B = lab->B, T = lab->T, count = lab->N * gpt->config.channels;
    a->dropout_key = lab->key;
    a->dropout_first = FIRST;
    gpt_embed(gpt, a, lab->inputs, B, T);
    for (size_t l = 0; l < gpt->config.layers; l++) {
        const Layer *y = &a->layers[l];
        gpt_attention_forward(gpt, a, l, B, T);
        residual_forward(y->middle, y->x, a->branch, count);
        if (l == without) memset(a->branch, 0, count * sizeof *a->branch);
        else gpt_mlp_forward(gpt, a, l, B, T);
        residual_forward(a->layers[l + 1].x, y->middle, a->branch, count);
    }
    gpt_final_norm(gpt, a, B, T);
    gpt_head_forward(gpt, a, lab->targets, lab->N);
}

/* From dx, the gradient of what leaves the last block. */
static void blocks_backward(const Lab *lab, size_t without) {
    GPT *gpt = lab->gpt;
    Activations *a = lab->a;
    size_t B = lab->B, T = lab->T, count = lab->N * gpt->config.channels;
    for (size_t l = gpt->config.layers; l-- > 0;) {
        residual_backward(a->dx, a->dbranch, a->dx, count);
        if (l != without) gpt_mlp_backward(gpt, a, l, B, T);
        residual_backward(a->dx, a->dbranch, a->dx, count);
        gpt_attention_backward(gpt, a, l, B, T);
    }
    gpt_embed_backward(gpt, a, lab->inputs, B, T);
}

static void parts_backward(const Lab *lab, size_t without) {
    gpt_head_backward(lab->gpt, lab->a, lab->targets, lab->dlosses, lab->N);
    gpt_final_norm_backward(lab->gpt, lab->a, lab->a->dhidden, lab->B, lab->T);
    blocks_backward(lab, without);
}

static double objective_without_mlp(const Lab *lab) {
    parts_forward(lab, 1);
    return losses_weighted(lab);
}

static void halves_check(void) {
    Lab lab = lab_create(SMALL);
    GPT *gpt = lab.gpt;
    Activations *a = lab.a;
    size_t N = lab.N, C = gpt->config.channels, L = gpt->config.layers;
    size_t count = gpt->parameter_count;
    gradients_clear(gpt);
    forward(&lab);
    float *losses = copy_of(a->losses, N), *hidden = copy_of(a->hidden, N * C);
    backward(&lab);
    float *gradients = copy_of(gpt->gradients, count), *dx = copy_of(a->dx, N * C);

    Activations *own = a; /* memory that holds nothing of the pass before */
    lab.a = a = activations_create(&gpt->config, lab.B, lab.T, KEEP_ALL, 0);
    gradients_clear(gpt);
    parts_forward(&lab, L);
    check(same_bits(a->losses, losses, N) && same_bits(a->hidden, hidden, N * C),
          "a forward pass of halves of blocks, wired by hand: same bits");
    parts_backward(&lab, L);
    check(same_bits(gpt->gradients, gradients, count) && same_bits(a->dx, dx, N * C),
          "a backward pass of halves of blocks, wired by hand: same bits");

    parts_forward(&lab, 1);
    check(difference(a->hidden, hidden, N * C) > 0.01,
          "a block without its MLP: another last hidden state, by %.2f of it",
          difference(a->hidden, hidden, N * C));
    gradients_clear(gpt);
    parts_backward(&lab, 1);
    bool none = true;
    for (int kind = LN2_W; kind <= OUT_B; kind++) {
        const Tensor *t = tensor_of(gpt, kind, 1);
        for (size_t j = 0; j < t->count; j++)
            none = none && gpt->gradients[t->offset + j] == 0;
    }
    check(none, "a block without its MLP: no gradient of it");
    slopes_check("a block without its MLP", objective_without_mlp, &lab);
    activations_destroy(a);
    lab.a = own;
    free(losses), free(hidden), free(gradients), free(dx);
    lab_destroy(&lab);
}

/* --- A value head --- */

static double value_error(const Lab *lab, size_t n) {
    size_t C = lab->gpt->config.channels;
    double value = 0;
    for (size_t c = 0; c < C; c++) value += (double)lab->head[c] * lab->a->hidden[n * C + c];
    return value - lab->goals[n];
}

/* Token losses, and half the mean of squared errors of the values. */
static double objective_value(const Lab *lab) {
    double sum = 0;
    forward(lab);
    for (size_t n = 0; n < lab->N; n++) sum += value_error(lab, n) * value_error(lab, n) / 2;
    return losses_weighted(lab) + sum / (double)lab->N;
}

static void value_head_check(void) {
    Lab lab = lab_create(SMALL);
    GPT *gpt = lab.gpt;
    Activations *a = lab.a;
    size_t C = gpt->config.channels, L = gpt->config.layers, count = gpt->parameter_count;
    gradients_clear(gpt);
    forward(&lab);
    backward(&lab);
    float *tokens_only = copy_of(gpt->gradients, count);

    gradients_clear(gpt);
    forward(&lab);
    gpt_head_backward(gpt, a, lab.targets, lab.dlosses, lab.N);
    for (size_t n = 0; n < lab.N; n++) {
        float dvalue = (float)(value_error(&lab, n) / (double)lab.N);
        scaled_add(lab.dhead, dvalue, a->hidden + n * C, C);
        scaled_add(a->dhidden + n * C, dvalue, lab.head, C);
    }
    float *dhidden = copy_of(a->dhidden, lab.N * C);
    gpt_final_norm_backward(gpt, a, a->dhidden, lab.B, lab.T);
    blocks_backward(&lab, L);
    float *gradients = copy_of(gpt->gradients, count);
    slope_check("a value head", "the head itself", lab.head, lab.dhead, C, false,
                objective_value, &lab);
    slopes_check("a value head", objective_value, &lab);
    size_t wte = gpt->table[WTE].count;
    double share = difference(gradients + wte, tokens_only + wte, count - wte);
    check(share > 0.1, "a value head: it changes the gradient by %.2f of it", share);

    gradients_clear(gpt);
    forward(&lab);
    gpt_head_backward(gpt, a, lab.targets, lab.dlosses, lab.N);
    gpt_backward_hidden(gpt, a, lab.inputs, dhidden, lab.B, lab.T);
    check(same_bits(gpt->gradients, gradients, count),
          "a value head: everything below the heads in one call, same bits");
    free(tokens_only), free(dhidden), free(gradients);
    lab_destroy(&lab);
}

/* The logits' buffer may be used for anything between forward and backward. */
static void logits_check(void) {
    static const size_t head_rows[] = {0, 5};
    for (size_t i = 0; i < 2; i++) {
        Lab lab = lab_create(SMALL);
        GPT *gpt = lab.gpt;
        size_t count = gpt->parameter_count, C = gpt->config.channels;
        activations_destroy(lab.a);
        lab.a = activations_create(&gpt->config, lab.B, lab.T, KEEP_ALL, head_rows[i]);
        size_t rows = lab.a->head_rows;
        gradients_clear(gpt);
        forward(&lab);
        backward(&lab);
        float *gradients = copy_of(gpt->gradients, count);
        gradients_clear(gpt);
        backward(&lab);
        check(same_bits(gpt->gradients, gradients, count),
              "%zu logits at a time: a second backward pass has the same bits", rows);
        gradients_clear(gpt);
        forward(&lab);
        for (size_t j = 0; j < rows * gpt->config.vocab; j++) lab.a->logits[j] = NAN;
        backward(&lab);
        check(same_bits(gpt->gradients, gradients, count),
              "%zu logits at a time, overwritten with NaN before backward: same bits", rows);
        gradients_clear(gpt);
        forward(&lab);
        gpt_logits(gpt, lab.a, lab.a->logits, 3, rows < 9 ? rows : 9);
        backward(&lab);
        check(same_bits(gpt->gradients, gradients, count) && gradients[C] != 0,
              "%zu logits at a time, overwritten with other positions': same bits", rows);
        free(gradients);
        lab_destroy(&lab);
    }
}

static double objective_tokens(const Lab *lab) {
    forward(lab);
    return losses_weighted(lab);
}

/* Which positions does the last token of sequence 1 reach? */
static size_t positions_reached(const Lab *lab, bool *elsewhere) {
    size_t C = lab->gpt->config.channels, T = lab->T, last = 2 * T - 1, reached = 0;
    forward(lab);
    float *hidden = copy_of(lab->a->hidden, lab->N * C);
    int32_t token = lab->inputs[last];
    lab->inputs[last] = (token + 1) % (int32_t)lab->gpt->config.vocab;
    forward(lab);
    lab->inputs[last] = token;
    *elsewhere = false;
    for (size_t n = 0; n < lab->N; n++) {
        bool same = same_bits(lab->a->hidden + n * C, hidden + n * C, C);
        if (n / T == 1) reached += !same;
        else *elsewhere |= !same;
    }
    free(hidden);
    return reached;
}

static void both_ways_check(void) {
    Config config = SMALL;
    config.dropout = 0; /* it could cut a position off from another */
    for (int both = 0; both < 2; both++) {
        config.bidirectional = both;
        Lab lab = lab_create(config);
        bool elsewhere;
        size_t reached = positions_reached(&lab, &elsewhere);
        check(reached == (both ? lab.T : 1) && !elsewhere,
              "%s attention: the last token reaches %zu of its sequence's %zu positions",
              both ? "bidirectional" : "causal", reached, lab.T);
        lab_destroy(&lab);
    }
    config.dropout = 0.2f;
    Lab lab = lab_create(config);
    gradients_clear(lab.gpt);
    forward(&lab);
    backward(&lab);
    slopes_check("bidirectional", objective_tokens, &lab);
    lab_destroy(&lab);
}

/* =========================================================================================
 * 5. Generation
 * ====================================================================================== */

enum { SEQUENCES = 3, TOKENS = 25, PROMPT = 12, SEED = 7 };
static const size_t PROMPTS[SEQUENCES] = {1, 4, PROMPT}; /* the last exceeds the context of 9 */

static void prompt_fill(int32_t prompt[PROMPT], size_t b, size_t vocab) {
    for (size_t t = 0; t < PROMPT; t++) prompt[t] = (int32_t)(random_bits(20 + b, t) % vocab);
}

typedef struct {
    int32_t ids[SEQUENCES][TOKENS];
    float log_p[SEQUENCES][TOKENS];
} Generated;

/* Sequences side by side, or only sequence `alone`, in a generator of its own. */
static void generated_by_generator(Generated *out, const GPT *gpt, size_t vocab, Sampling s,
                                   size_t alone) {
    size_t B = alone < SEQUENCES ? 1 : SEQUENCES, first = B == 1 ? alone : 0;
    Cache *cache = cache_create(&gpt->config, B);
    Generator *g = generator_create(gpt, cache, vocab, s, SEED);
    for (size_t b = 0; b < B; b++) {
        int32_t prompt[PROMPT];
        prompt_fill(prompt, first + b, vocab);
        generator_prompt(g, b, prompt, PROMPTS[first + b]);
    }
    for (size_t i = 0; i < TOKENS; i++) {
        generator_next(g);
        for (size_t b = 0; b < B; b++) {
            out->ids[first + b][i] = g->next[b];
            out->log_p[first + b][i] = g->log_p[b];
        }
    }
    generator_destroy(g);
    cache_destroy(cache);
}

/* The definition: every token from a forward pass of its own over the window, without a cache
 * and with the same draw.  The window is the text so far; when it is full, its later half goes
 * on.  *worst: of log_p against a log-softmax in double, relative to 1 + |log p|. */
static void generated_by_definition(Generated *out, const GPT *gpt, size_t vocab, Sampling s,
                                    const Generated *given, double *worst) {
    size_t context = gpt->config.context, V = gpt->config.vocab;
    Activations *a = activations_create(&gpt->config, 1, context, KEEP_NOTHING, 1);
    int32_t *window = memory_allocate(context, sizeof *window), prompt[PROMPT];
    float *logits = memory_allocate(V, sizeof *logits), lse;
    Candidate *scratch = memory_allocate(V, sizeof *scratch);
    *worst = 0;
    for (size_t b = 0; b < SEQUENCES; b++) {
        size_t length = PROMPTS[b] < context ? PROMPTS[b] : context;
        prompt_fill(prompt, b, vocab);
        memcpy(window, prompt + PROMPTS[b] - length, length * sizeof *window);
        for (size_t i = 0; i < TOKENS; i++) {
            gpt_forward_hidden(gpt, a, window, 1, length, 0, 0);
            gpt_logits(gpt, a, logits, length - 1, 1);
            double u =
                random_uniform(random_bits(SEED, RANDOM_SAMPLING), i * SEQUENCES + b);
            int32_t id = (int32_t)token_sample(logits, vocab, &s, u, scratch);
            cross_entropy_forward(&out->log_p[b][i], &lse, logits, &id, 1, V);
            out->log_p[b][i] = -out->log_p[b][i];
            out->ids[b][i] = id;
            double sum = 0;
            for (size_t v = 0; v < V; v++) sum += exp((double)logits[v]);
            double log_p = logits[id] - log(sum);
            *worst = fmax(*worst, fabs(given->log_p[b][i] - log_p) / (1 + fabs(log_p)));
            if (length == context) {
                length = context / 2;
                memmove(window, window + context - length, length * sizeof *window);
            }
            window[length++] = id;
        }
    }
    activations_destroy(a);
    free(window), free(logits), free(scratch);
}

static bool log_p_same(const Generated *a, const Generated *b) {
    return !memcmp(a->log_p, b->log_p, sizeof a->log_p);
}

static bool ids_same(const Generated *a, const Generated *b) {
    return !memcmp(a->ids, b->ids, sizeof a->ids);
}

static void generation_check(const char *what, Sampling s, size_t vocab, size_t context) {
    Config config = SMALL;
    config.context = context;
    Lab lab = lab_create(config);
    Generated together, expected, alone = {0};
    double worst;
    bool below = true;
    generated_by_generator(&together, lab.gpt, vocab, s, SEQUENCES);
    generated_by_definition(&expected, lab.gpt, vocab, s, &together, &worst);
    for (size_t i = 0; i < SEQUENCES * TOKENS; i++) {
        int32_t id = together.ids[i / TOKENS][i % TOKENS];
        below = below && id >= 0 && (size_t)id < vocab;
    }
    check(ids_same(&together, &expected) && below,
          "%s: ids of %d sequences, as if each window were read anew", what, SEQUENCES);
    check(log_p_same(&together, &expected),
          "%s: their log-probabilities, same bits as from a forward pass", what);
    /* The logits are the same floats.  Rounding is 6e-8 of the largest number in the sum, in
     * the exponentials, in the logarithm and in the difference: some 3e-7. */
    check(worst < 1e-6, "%s: log-softmax in double differs by %.1e, at most 1e-6", what, worst);
    if (s.temperature == 0) { /* without draws, which are numbered by the sequences' count */
        for (size_t b = 0; b < SEQUENCES; b++)
            generated_by_generator(&alone, lab.gpt, vocab, s, b);
        check(ids_same(&together, &alone) && log_p_same(&together, &alone),
              "%s: the same ids and bits as each sequence in a generator of its own", what);
    }
    lab_destroy(&lab);
}

static bool contains(const int32_t *ids, size_t count, int32_t id) {
    for (size_t i = 0; i < count; i++)
        if (ids[i] == id) return true;
    return false;
}

/* Samples of one prompt differ from each other, and a sequence can begin anew beside others
 * that go on. */
static void sequences_check(void) {
    Lab lab = lab_create(SMALL);
    int32_t prompt[PROMPT], ids[SEQUENCES][TOKENS], again[TOKENS], other[TOKENS];
    size_t V = lab.gpt->config.vocab, kinds = 0;
    Cache *cache = cache_create(&lab.gpt->config, SEQUENCES);
    Generator *g = generator_create(lab.gpt, cache, V, (Sampling){1, 0, 1}, SEED);
    prompt_fill(prompt, 0, V);
    for (size_t b = 0; b < SEQUENCES; b++) generator_prompt(g, b, prompt, 4);
    for (size_t i = 0; i < TOKENS; i++) {
        generator_next(g);
        for (size_t b = 0; b < SEQUENCES; b++) ids[b][i] = g->next[b];
    }
    bool differ = memcmp(ids[0], ids[1], sizeof ids[0]) &&
                  memcmp(ids[1], ids[2], sizeof ids[0]) &&
                  memcmp(ids[0], ids[2], sizeof ids[0]);
    for (size_t i = 0; i < TOKENS; i++) kinds += !contains(ids[0], i, ids[0][i]);
    check(differ && kinds > 3, "one prompt, %d sequences: no two alike, %zu different ids",
          SEQUENCES, kinds);
    generator_destroy(g);

    Sampling likeliest = {0, 0, 1};
    Generated undisturbed;
    generated_by_generator(&undisturbed, lab.gpt, V, likeliest, SEQUENCES);
    g = generator_create(lab.gpt, cache, V, likeliest, SEED);
    for (size_t b = 0; b < SEQUENCES; b++) {
        prompt_fill(prompt, b, V);
        generator_prompt(g, b, prompt, PROMPTS[b]);
    }
    for (size_t i = 0; i < TOKENS; i++) {
        if (i == 5 || i == 11) { /* sequence 0 takes the prompt of sequence 1 */
            prompt_fill(prompt, 1, V);
            generator_prompt(g, 0, prompt, PROMPTS[1]);
        }
        generator_next(g);
        again[i] = g->next[0];
        other[i] = g->next[2];
    }
    bool anew = !memcmp(again + 5, undisturbed.ids[1], 6 * sizeof *again) &&
                !memcmp(again + 11, undisturbed.ids[1], (TOKENS - 11) * sizeof *again);
    check(anew, "a sequence begins anew: the ids of its new prompt");
    check(!memcmp(other, undisturbed.ids[2], sizeof other),
          "a sequence begins anew: its neighbors go on as before");
    generator_destroy(g);
    cache_destroy(cache);
    lab_destroy(&lab);
}

/* =========================================================================================
 * 6. The optimizer, files
 * ====================================================================================== */

/* A gradient that is not finite is as if it had never been, once gradients are cleared. */
static void not_finite_check(void) {
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    OptimizerOptions options = {0.9f, 0.99f, 1e-8f, 0.1f, 1};
    for (size_t i = 0; i < 3; i++) {
        Lab labs[2] = {lab_create(SMALL), lab_create(SMALL)};
        Optimizer *optimizers[2];
        size_t count = labs[0].gpt->parameter_count;
        bool kept = true;
        double norm = 0;
        for (size_t k = 0; k < 2; k++) {
            GPT *gpt = labs[k].gpt;
            Optimizer *o = optimizers[k] = optimizer_create(count);
            for (uint64_t step = 0; step < 3; step++) {
                gradients_clear(gpt);
                forward(&labs[k]);
                backward(&labs[k]);
                if (step == 1 && k == 1) {
                    float *w = copy_of(gpt->weights, count), *m = copy_of(o->m, count),
                          *v = copy_of(o->v, count);
                    gpt->gradients[count / 2] = bad[i];
                    norm = optimizer_step(gpt, o, &options, 0.01f);
                    kept = same_bits(gpt->weights, w, count) && same_bits(o->m, m, count) &&
                           same_bits(o->v, v, count) && o->step == 1;
                    free(w), free(m), free(v);
                } else if (step != 1) optimizer_step(gpt, o, &options, 0.01f);
            }
        }
        check(!isfinite(norm) && kept, "a gradient of %f: the norm is %f, nothing is updated",
              (double)bad[i], norm);
        check(same_bits(labs[0].gpt->weights, labs[1].gpt->weights, count) &&
                  same_bits(optimizers[0]->m, optimizers[1]->m, count) &&
                  same_bits(optimizers[0]->v, optimizers[1]->v, count) &&
                  optimizers[0]->step == 2 && optimizers[1]->step == 2,
              "a gradient of %f: the next batch trains as if it had not been", (double)bad[i]);
        for (size_t k = 0; k < 2; k++) optimizer_destroy(optimizers[k]), lab_destroy(&labs[k]);
    }
}

/* The name of a folder may be a Text, whatever other texts are made meanwhile. */
static void names_check(void) {
    Text folder = text_of("%s/model", scratch_create("test_seams")), others[40];
    Lab lab = lab_create(SMALL);
    Tokenizer *tokenizer =
        tokenizer_create((const unsigned char *)"abcdefghijklmnopqrstuvw", 23);
    const char *name = folder.chars;
    size_t good = 0;
    model_write(lab.gpt, tokenizer, "", name);
    for (int i = 0; i < 40; i++) others[i] = text_of("another text, number %d", i);
    for (int i = 0; i < 40; i++)
        good += strtol(strrchr(others[i].chars, ' '), NULL, 10) == i;
    GPT *gpt = model_read(name, 0, false);
    check(good == 40 && same_bits(gpt->weights, lab.gpt->weights, gpt->parameter_count) &&
              gpt->parameter_count == lab.gpt->parameter_count,
          "a model is read from a folder whose name is followed by %zu other texts", good);
    gpt_destroy(gpt);
    tokenizer_destroy(tokenizer);
    lab_destroy(&lab);
}

int main(void) {
    program_name = "test_seams";
    run_check();
    ranks_check(false);
    ranks_check(true);
    linear_check(true);
    linear_check(false);
    frozen_check();
    halves_check();
    value_head_check();
    logits_check();
    both_ways_check();
    size_t V = SMALL.vocab, context = SMALL.context;
    generation_check("likeliest", (Sampling){0, 0, 1}, V, context);
    generation_check("temperature 1", (Sampling){1, 0, 1}, V, context);
    generation_check("temperature 0.7, top-k 2", (Sampling){0.7, 2, 1}, V, context);
    generation_check("top-p 0.6, ids below 20 of 23", (Sampling){1, 0, 0.6}, V - 3, context);
    generation_check("likeliest, ids below 20 of 23", (Sampling){0, 0, 1}, V - 3, context);
    generation_check("a context of 40, never full", (Sampling){1, 0, 1}, V, 40);
    generation_check("a context of 1", (Sampling){1, 0, 1}, V, 1);
    sequences_check();
    not_finite_check();
    names_check();
    return check_summary();
}

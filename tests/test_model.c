/* test_model.c - the whole model of train.c: what its kernels give when they are put together.
 *
 *   1. Models from the reference
 *   2. Against PyTorch: outputs, the three ways into the backward pass, 20 updates
 *   3. Against itself: what must not change a result
 *   4. Slopes of the loss along a direction, tensor by tensor
 *   5. A fresh model, schedules, the optimizer's promises
 */
#define TRAIN_NO_MAIN
#include "../train.c"
#include "check.c"
#ifdef _OPENMP
#include <omp.h>
#endif

/* =========================================================================================
 * 1. Models from the reference
 * ====================================================================================== */

typedef struct {
    const char *name;
    SafeTensors *file;
    GPT *gpt;
    Activations *activations;
    size_t B, T, first;
    uint64_t key; /* of the dropout; 0: none */
    const int32_t *inputs, *targets;
    const float *dlosses;
} Model;

/* A tensor that must be there, with so many elements. */
static const void *stored(const Model *m, const char *dtype, size_t expected,
                          const char *name) {
    const SafeTensor t = safetensors_find(m->file, name);
    if (!t.numbers || strcmp(t.dtype, dtype))
        die("the reference of model %s has no tensor %s of type %s", m->name, name, dtype);
    size_t count = t.bytes / dtype_bytes(dtype);
    if (count != expected)
        die("model %s: %s has %zu elements in the reference, %zu here", m->name, name, count,
            expected);
    return t.numbers;
}

static void *copy_of(const void *data, size_t bytes) {
    return memcpy(memory_allocate(bytes, 1), data, bytes);
}

static void weights_load(const Model *m) {
    size_t used = 0, there = 0;
    for (size_t i = 0; i < m->gpt->tensor_count; i++) {
        const Tensor *t = &m->gpt->table[i];
        if (!t->count) continue; /* a bias in a model without biases */
        char *name = text_format("parameter/%s", t->name);
        memcpy(m->gpt->weights + t->offset, stored(m, "F32", t->count, name),
               t->count * sizeof(float));
        free(name);
        used++;
    }
    char key[128];
    Json j = m->file->json;
    for (json_enter(&j, '{'); json_key(&j, key, sizeof key); json_skip(&j))
        there += strncmp(key, "parameter/", 10) == 0;
    if (used != there) die("model %s has %zu tensors, its reference %zu", m->name, used, there);
}

static Model model_open(const char *name) {
    Model m = {.name = name};
    char *path = text_format("tests/reference/model_%s.safetensors", name);
    m.file = safetensors_open(path);
    const int64_t *c = stored(&m, "I64", 9, "config");
    const float *rate = stored(&m, "F32", 1, "dropout_rate");
    const int64_t *key = stored(&m, "I64", 1, "dropout_key");
    Config config = {.layers = (size_t)c[0], .heads = (size_t)c[1], .channels = (size_t)c[2],
                     .context = (size_t)c[3], .vocab = (size_t)c[4], .bias = c[5] != 0,
                     .dropout = *rate};
    m.B = (size_t)c[6], m.T = (size_t)c[7], m.first = (size_t)c[8], m.key = (uint64_t)*key;
    m.inputs = stored(&m, "I32", m.B * m.T, "inputs");
    m.targets = stored(&m, "I32", m.B * m.T, "targets");
    m.dlosses = stored(&m, "F32", m.B * m.T, "dlosses");
    m.gpt = gpt_create(&config, true);
    m.activations = activations_create(&config, m.B, m.T, KEEP_ALL, 0);
    weights_load(&m);
    free(path);
    return m;
}

static void model_close(Model *m) {
    activations_destroy(m->activations);
    gpt_destroy(m->gpt);
    safetensors_close(m->file);
}

static void forward(const Model *m, Activations *a) {
    gpt_forward(m->gpt, a, m->inputs, m->targets, m->B, m->T, m->key, m->first);
}

/* |a - b| / |b| of two float tensors. */
static double difference(const float *a, const float *b, size_t count) {
    double distance = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        distance += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += (double)b[i] * b[i];
    }
    return sqrt(distance / norm);
}

/* The largest difference of any tensor; *name gets which one it is.  A NaN is the largest. */
static double worst_tensor(const GPT *gpt, const float *a, const float *b, const char **name) {
    double worst = -1;
    for (size_t i = 0; i < gpt->tensor_count; i++) {
        const Tensor *t = &gpt->table[i];
        if (!t->count) continue;
        double d = difference(a + t->offset, b + t->offset, t->count);
        if (!(d <= worst)) worst = d, *name = t->name;
    }
    return worst;
}

static bool same_bits(const float *a, const float *b, size_t count) {
    return memcmp(a, b, count * sizeof *a) == 0;
}

/* =========================================================================================
 * 2. Against PyTorch
 * ====================================================================================== */

static void expect(const Model *m, const char *name, const float *result, size_t count) {
    char *error_name = text_format("%s.float32_error", name);
    char *row = text_format("%s %s", m->name, name);
    const double *truth = stored(m, "F64", count, name);
    const double *error = stored(m, "F64", 1, error_name);
    /* The smallest gradients, of a mean over some hundred losses, are of size 1e-4. */
    check_tensor(row, result, truth, count, *error, 1e-6);
    free(error_name);
    free(row);
}

static void expect_gradients(const Model *m, const char *from) {
    for (size_t i = 0; i < m->gpt->tensor_count; i++) {
        const Tensor *t = &m->gpt->table[i];
        if (!t->count) continue;
        char *name = text_format("from_%s/%s", from, t->name);
        expect(m, name, m->gpt->gradients + t->offset, t->count);
        free(name);
    }
}

static void outputs_check(const Model *m) {
    size_t N = m->B * m->T, C = m->gpt->config.channels, V = m->gpt->config.vocab;
    float *logits = memory_allocate(N * V, sizeof *logits);
    forward(m, m->activations);
    gpt_logits(m->gpt, m->activations, logits, 0, N);
    expect(m, "hidden", m->activations->hidden, N * C);
    expect(m, "logits", logits, N * V);
    expect(m, "losses", m->activations->losses, N);
    bool zero = true, some = false;
    for (size_t n = 0; n < N; n++)
        if (m->targets[n] < 0) zero = zero && m->activations->losses[n] == 0, some = true;
    check(some && zero, "%s: no loss where there is no target", m->name);
    free(logits);
}

static void gradients_check(const Model *m) {
    size_t N = m->B * m->T, C = m->gpt->config.channels, V = m->gpt->config.vocab;
    gradients_clear(m->gpt);
    forward(m, m->activations);
    gpt_backward(m->gpt, m->activations, m->inputs, m->targets, m->dlosses, m->B, m->T);
    expect_gradients(m, "losses");
    /* A second backward adds the same again. */
    float *once = copy_of(m->gpt->gradients, m->gpt->parameter_count * sizeof(float));
    forward(m, m->activations);
    gpt_backward(m->gpt, m->activations, m->inputs, m->targets, m->dlosses, m->B, m->T);
    for (size_t i = 0; i < m->gpt->parameter_count; i++) m->gpt->gradients[i] *= 0.5f;
    const char *name = "";
    double error = worst_tensor(m->gpt, m->gpt->gradients, once, &name);
    check(error <= 1e-5, "%s: gradients accumulate: difference %.2e at most 1e-5 (%s)", m->name,
          error, name);
    free(once);

    gradients_clear(m->gpt);
    forward(m, m->activations);
    gpt_backward_logits(m->gpt, m->activations, m->inputs, stored(m, "F32", N * V, "dlogits"),
                        m->B, m->T);
    expect_gradients(m, "logits");
    gradients_clear(m->gpt);
    forward(m, m->activations);
    gpt_backward_hidden(m->gpt, m->activations, m->inputs, stored(m, "F32", N * C, "dhidden"),
                        m->B, m->T);
    expect_gradients(m, "hidden");
}

/* 20 updates of two micro-batches each, as a training makes them. */
static void training_check(Model *m) {
    enum { STEPS = 20, MICRO = 2 };
    size_t N = m->B * m->T, C = m->gpt->config.channels;
    const int32_t *inputs = stored(m, "I32", STEPS * MICRO * N, "train/inputs");
    const int32_t *targets = stored(m, "I32", STEPS * MICRO * N, "train/targets");
    const int64_t *keys = stored(m, "I64", STEPS, "train/dropout_keys");
    const double *s = stored(m, "F64", 4, "train/schedule");
    const double *rates = stored(m, "F64", STEPS, "train/rates");
    const float *o = stored(m, "F32", 5, "train/options");
    Schedule schedule = {.kind = SCHEDULE_COSINE, .lr = (float)s[0], .min_lr = (float)s[1],
                         .warmup = (uint64_t)s[2], .steps = (uint64_t)s[3]};
    OptimizerOptions options = {.beta1 = o[0], .beta2 = o[1], .eps = o[2], .weight_decay = o[3],
                                .clip = o[4]};
    Optimizer *optimizer = optimizer_create(m->gpt->parameter_count);
    float *dlosses = memory_allocate(N, sizeof *dlosses), losses[STEPS], norms[STEPS];
    bool rates_good = true;
    size_t clipped = 0;

    weights_load(m);
    for (size_t step = 0; step < STEPS; step++) {
        const int32_t *in = inputs + step * MICRO * N, *out = targets + step * MICRO * N;
        size_t count = 0; /* of the whole batch: its micro-batches differ */
        double loss = 0;
        gradients_clear(m->gpt);
        for (size_t i = 0; i < MICRO * N; i++) count += out[i] >= 0;
        for (size_t n = 0; n < N; n++) dlosses[n] = 1.0f / (float)count;
        for (size_t micro = 0; micro < MICRO; micro++, in += N, out += N) {
            gpt_forward(m->gpt, m->activations, in, out, m->B, m->T, (uint64_t)keys[step],
                        micro * m->B);
            for (size_t n = 0; n < N; n++) loss += m->activations->losses[n];
            gpt_backward(m->gpt, m->activations, in, out, dlosses, m->B, m->T);
        }
        float lr = learning_rate(&schedule, step);
        rates_good = rates_good && fabs(lr / rates[step] - 1) <= 0x1p-22;
        losses[step] = (float)(loss / (double)count);
        norms[step] = (float)optimizer_step(m->gpt, optimizer, &options, lr);
        clipped += norms[step] > options.clip;
    }
    check(rates_good, "%s: learning rates of warmup and cosine", m->name);
    check(clipped >= 3 && clipped <= STEPS - 3, "%s: clipping was active in %zu of %d steps",
          m->name, clipped, STEPS);
    expect(m, "train/losses", losses, STEPS);
    expect(m, "train/norms", norms, STEPS);
    for (size_t i = 0; i < m->gpt->tensor_count; i++) {
        const Tensor *t = &m->gpt->table[i];
        const char *ending = strstr(t->name, "attn.c_attn.bias");
        if (!t->count) continue;
        char *name = text_format("train/final/%s", t->name);
        float *w = copy_of(m->gpt->weights + t->offset, t->count * sizeof(float));
        /* The keys' bias has gradient zero but for rounding, which Adam magnifies: whatever it
         * becomes has no effect.  The reference leaves it out. */
        if (ending) memmove(w + C, w + 2 * C, C * sizeof *w);
        expect(m, name, w, ending ? 2 * C : t->count);
        free(name);
        free(w);
    }
    weights_load(m);
    gradients_clear(m->gpt);
    optimizer_destroy(optimizer);
    free(dlosses);
}

/* =========================================================================================
 * 3. Against itself
 * ====================================================================================== */

/* Parts of an arena must not share memory, also where that would do no harm today. */
typedef struct { const char *name; const void *start; size_t count; } Part; /* of 4 bytes */

static void parts_check(const char *what, const Part *parts, size_t count) {
    const char *one = "", *other = "";
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < count; j++) {
            const char *a = parts[i].start, *b = parts[j].start;
            if (i != j && a <= b && b < a + 4 * parts[i].count)
                one = parts[i].name, other = parts[j].name;
        }
    check(!*one, "%s: no part shares memory with another %s %s", what, one, other);
}

/* streams, blocks: how many arrays of each kind there are; further layers share the first. */
static void activations_check(const char *what, const Activations *a, const Config *config,
                              size_t streams, size_t blocks) {
    size_t H = config->heads, C = config->channels, N = a->B * a->T, count = 0, floats = 0;
    const Layer *y = a->layers;
    Part parts[100];
    bool shared = true;
    for (size_t l = 0; l < streams; l++) parts[count++] = (Part){"x", y[l].x, N * C};
    for (size_t l = 0; l < blocks; l++) {
        const Part block[] = {
            {"ln1_mean", y[l].ln1_mean, N}, {"ln1_rstd", y[l].ln1_rstd, N},
            {"qkv", y[l].qkv, N * 3 * C}, {"attention", y[l].attention, N * C},
            {"lse", y[l].lse, N * H}, {"middle", y[l].middle, N * C},
            {"ln2_mean", y[l].ln2_mean, N}, {"ln2_rstd", y[l].ln2_rstd, N},
            {"fc", y[l].fc, N * 4 * C}};
        for (size_t i = 0; i < sizeof block / sizeof *block; i++) parts[count++] = block[i];
    }
    const Part once[] = {
        {"norm", a->norm, N * C}, {"gelu", a->gelu, N * 4 * C}, {"branch", a->branch, N * C},
        {"hidden", a->hidden, N * C}, {"lnf_mean", a->lnf_mean, N},
        {"lnf_rstd", a->lnf_rstd, N}, {"logits", a->logits, a->head_rows * config->vocab},
        {"losses", a->losses, N}, {"head_lse", a->head_lse, N}, {"dlosses", a->dlosses, N},
        {"dx", a->dx, N * C}, {"dbranch", a->dbranch, N * C}, {"dnorm", a->dnorm, N * C},
        {"dfc", a->dfc, N * 4 * C}};
    size_t kept = sizeof once / sizeof *once - (a->keep == KEEP_NOTHING ? 5 : 0);
    for (size_t i = 0; i < kept; i++) parts[count++] = once[i];
    for (size_t i = 0; i < count; i++) floats += parts[i].count;
    check(floats == activations_floats(a, config), "%s: its parts are all %zu floats", what,
          activations_floats(a, config));
    parts[count++] = (Part){"inputs", a->inputs, N};
    parts[count++] = (Part){"targets", a->targets, N};
    parts_check(what, parts, count);
    for (size_t l = 0; l <= config->layers; l++)
        shared = shared && (l < streams || y[l].x == y[0].x) &&
                 (l < blocks || (y[l].qkv == y[0].qkv && y[l].fc == y[0].fc));
    check(shared, "%s: layers without arrays of their own share the first one's", what);
    check(a->dhidden == a->dnorm && a->dattention == a->dnorm && a->dgelu == a->dfc &&
              a->dqkv == a->dfc,
          "%s: gradients that are used one after another share a buffer", what);
}

static void arenas_check(void) {
    Config config = {.layers = 3, .heads = 2, .channels = 10, .context = 80, .vocab = 33,
                     .bias = true};
    size_t L = config.layers, stored_floats = 2 * L * config.context * config.channels;
    Activations *a = activations_create(&config, 4, 7, KEEP_ALL, 0);
    activations_check("activations", a, &config, L + 1, L);
    activations_destroy(a);
    a = activations_create(&config, 4, 7, KEEP_STREAM, 3);
    activations_check("activations to recompute", a, &config, L + 1, 1);
    activations_destroy(a);
    Cache *c = cache_create(&config, 2);
    const Part cached[] = {{"keys", c->keys, stored_floats},
                           {"values", c->values, stored_floats}};
    parts_check("KV cache", cached, sizeof cached / sizeof cached[0]);
    activations_check("activations of new tokens", c->a, &config, 1, 1);
    cache_destroy(c);
}

/* Losses, and gradients of all weights, with other activations than the model's own. */
static void run_with(const Model *m, Activations *a) {
    gradients_clear(m->gpt);
    forward(m, a);
    gpt_backward(m->gpt, a, m->inputs, m->targets, m->dlosses, m->B, m->T);
}

/* Logits of a few rows at a time, computed again in the backward pass, against all at once. */
static void head_rows_check(const Model *m) {
    size_t N = m->B * m->T, count = m->gpt->parameter_count, wte = m->gpt->table[0].count;
    run_with(m, m->activations);
    float *losses = copy_of(m->activations->losses, N * sizeof(float));
    float *gradients = copy_of(m->gpt->gradients, count * sizeof(float));
    static const size_t rows[] = {1, 3, 5};
    for (int i = 0; i < 3; i++) {
        Activations *a = activations_create(&m->gpt->config, m->B, m->T, KEEP_ALL, rows[i]);
        run_with(m, a);
        check(same_bits(a->losses, losses, N),
              "%s: losses of %zu rows of logits at a time: same bits", m->name, rows[i]);
        /* Rows of logits and of their gradients do not depend on each other.  The gradient of
         * wte is a sum over rows, and is now added up in pieces: a rounding for each. */
        check(same_bits(m->gpt->gradients + wte, gradients + wte, count - wte),
              "%s: gradients of %zu rows of logits at a time: same bits", m->name, rows[i]);
        double d = difference(m->gpt->gradients, gradients, wte);
        check(d <= 1e-6,
              "%s: gradient of wte from %zu rows at a time: difference %.2e at most 1e-6",
              m->name, rows[i], d);
        /* The training loop's way: forward and backward in one. */
        float *apart = copy_of(m->gpt->gradients, count * sizeof(float));
        gradients_clear(m->gpt);
        gpt_forward_backward(m->gpt, a, m->inputs, m->targets, m->dlosses, m->B, m->T, m->key,
                             m->first);
        check(same_bits(a->losses, losses, N) && same_bits(m->gpt->gradients, apart, count),
              "%s: forward and backward in one, %zu rows of logits at a time: same bits",
              m->name, rows[i]);
        free(apart);
        activations_destroy(a);
    }
    /* Activations that are made again in the backward pass. */
    Activations *stream = activations_create(&m->gpt->config, m->B, m->T, KEEP_STREAM, 0);
    run_with(m, stream);
    check(same_bits(stream->losses, losses, N) &&
              same_bits(m->gpt->gradients, gradients, count),
          "%s: recomputed activations: same bits", m->name);
    activations_destroy(stream);
    /* Activations that can hold more than they are used for. */
    Activations *larger = activations_create(&m->gpt->config, m->B + 2, m->T + 3, KEEP_ALL, 0);
    run_with(m, larger);
    check(same_bits(larger->losses, losses, N) &&
              same_bits(m->gpt->gradients, gradients, count),
          "%s: activations that could hold more: same bits", m->name);
    activations_destroy(larger);
    Activations *evaluation = activations_create(&m->gpt->config, m->B, m->T, KEEP_NOTHING, 2);
    forward(m, evaluation);
    check(same_bits(evaluation->losses, losses, N),
          "%s: activations without a backward pass: same bits", m->name);
    memset(m->activations->hidden, 0, N * m->gpt->config.channels * sizeof(float));
    gpt_forward_hidden(m->gpt, m->activations, m->inputs, m->B, m->T, m->key, m->first);
    check(same_bits(evaluation->hidden, m->activations->hidden, N * m->gpt->config.channels),
          "%s: a forward pass without targets: same last hidden state", m->name);
    activations_destroy(evaluation);
    free(losses);
    free(gradients);
}

/* A model of a size at which threads share the work, with a text of random tokens. */
typedef struct {
    GPT *gpt;
    size_t B, T;
    int32_t *inputs, *targets; /* (B,T) */
} Fresh;

static Fresh fresh_create(Config config, size_t B, size_t T, uint64_t seed) {
    Fresh f = {gpt_create(&config, true), B, T, memory_allocate(B * T, sizeof(int32_t)),
               memory_allocate(B * T, sizeof(int32_t))};
    gpt_initialize(f.gpt, seed);
    for (size_t i = 0; i < B * T; i++) {
        f.inputs[i] = (int32_t)(random_bits(seed + 1, i) % config.vocab);
        f.targets[i] = (int32_t)(random_bits(seed + 2, i) % config.vocab);
    }
    return f;
}

static void fresh_destroy(Fresh *f) {
    gpt_destroy(f->gpt);
    free(f->inputs);
    free(f->targets);
}

/* The gradient of one batch, taken in micro-batches of the given sizes.  Losses go to `losses`
 * (B,T).  Every token weighs 1/count of those that have a target. */
static void batch_in_pieces(const Fresh *f, const size_t *pieces, uint64_t key, float *losses) {
    size_t T = f->T, count = 0, first = 0;
    float *dlosses = memory_allocate(f->B * T, sizeof *dlosses);
    for (size_t i = 0; i < f->B * T; i++) count += f->targets[i] >= 0;
    for (size_t i = 0; i < f->B * T; i++) dlosses[i] = 1.0f / (float)count;
    gradients_clear(f->gpt);
    for (; *pieces; first += *pieces++) {
        Activations *a = activations_create(&f->gpt->config, *pieces, T, KEEP_ALL, 0);
        const int32_t *in = f->inputs + first * T, *out = f->targets + first * T;
        gpt_forward(f->gpt, a, in, out, *pieces, T, key, first);
        memcpy(losses + first * T, a->losses, *pieces * T * sizeof *losses);
        gpt_backward(f->gpt, a, in, out, dlosses, *pieces, T);
        activations_destroy(a);
    }
    if (first != f->B) die("the pieces of a batch have %zu sequences, not %zu", first, f->B);
    free(dlosses);
}

static void micro_batches_check(void) {
    static const size_t ways[][6] = {{5}, {2, 3}, {1, 1, 1, 1, 1}, {4, 1}};
    for (int form = 0; form < 4; form++) {
        bool masked = form & 1, dropout = form & 2;
        Config config = {2, 3, 24, 20, 65, true, 0.2f, false};
        Fresh f = fresh_create(config, 5, 17, 3);
        size_t N = f.B * f.T, count = f.gpt->parameter_count;
        /* Targets are missing in the first sequences only: micro-batches of unequal counts. */
        if (masked) for (size_t i = 0; i < 2 * f.T - 3; i++) f.targets[i] = -1;
        float *losses = memory_allocate(N, sizeof *losses),
              *whole_losses = memory_allocate(N, sizeof *losses);
        batch_in_pieces(&f, ways[0], dropout ? 99 : 0, whole_losses);
        float *whole = copy_of(f.gpt->gradients, count * sizeof *whole);
        for (int way = 1; way < 4; way++) {
            const char *name = "";
            batch_in_pieces(&f, ways[way], dropout ? 99 : 0, losses);
            double d = worst_tensor(f.gpt, f.gpt->gradients, whole, &name);
            /* Not the same bits: sums over rows are cut elsewhere.  The keys' bias is all
             * rounding, but a third of its tensor only. */
            check(
                same_bits(losses, whole_losses, N) && d <= 3e-6,
                "micro-batches %zu+%zu%s of 5%s%s: losses same bits, gradient differs by %.2e,"
                " at most 3e-6 (%s)",
                ways[way][0], ways[way][1], ways[way][2] ? "+..." : "",
                masked ? ", unequal token counts" : "", dropout ? ", dropout" : "", d, name);
        }
        if (dropout) {
            batch_in_pieces(&f, ways[0], 100, losses);
            check(!same_bits(losses, whole_losses, N), "another dropout key, other losses%s",
                  masked ? ", unequal token counts" : "");
            batch_in_pieces(&f, ways[0], 0, losses);
            check(!same_bits(losses, whole_losses, N), "dropout key 0: no dropout%s",
                  masked ? ", unequal token counts" : "");
        }
        free(losses), free(whole_losses), free(whole);
        fresh_destroy(&f);
    }
}

/* A few steps of training on 1, 2 and 3 threads: the same weights, to the last bit. */
static void threads_check(void) {
#ifdef _OPENMP
    float *weights[3] = {NULL};
    int before = omp_get_max_threads();
    size_t count = 0;
    for (int threads = 1; threads <= 3; threads++) {
        omp_set_num_threads(threads);
        Config config = {2, 4, 68, 70, 131, true, 0.1f, false};
        Fresh f = fresh_create(config, 3, 67, 8);
        Optimizer *optimizer = optimizer_create(f.gpt->parameter_count);
        OptimizerOptions options = {0.9f, 0.99f, 1e-8f, 0.1f, 1.0f};
        static const size_t pieces[] = {2, 1, 0};
        float *losses = memory_allocate(f.B * f.T, sizeof *losses);
        for (uint64_t step = 0; step < 4; step++) {
            batch_in_pieces(&f, pieces, step + 1, losses);
            optimizer_step(f.gpt, optimizer, &options, 1e-2f);
        }
        count = f.gpt->parameter_count;
        weights[threads - 1] = copy_of(f.gpt->weights, count * sizeof(float));
        free(losses);
        optimizer_destroy(optimizer);
        fresh_destroy(&f);
    }
    omp_set_num_threads(before);
    check(same_bits(weights[0], weights[1], count),
          "4 steps of training on 1 and 2 threads: same bits");
    check(same_bits(weights[0], weights[2], count),
          "4 steps of training on 1 and 3 threads: same bits");
    for (int i = 0; i < 3; i++) free(weights[i]);
#else
    check_skip("4 steps of training on 1, 2 and 3 threads: built without OpenMP");
#endif
}

/* Token by token, or in chunks, with a cache: the logits of the full forward pass. */
static void decode_check(const Model *m) {
    const Config *config = &m->gpt->config;
    size_t T = config->context, V = config->vocab;
    int32_t *tokens = memory_allocate(T, sizeof *tokens);
    float *full = memory_allocate(T * V, sizeof *full),
          *logits = memory_allocate(V, sizeof *logits);
    Activations *a = activations_create(config, 1, T, KEEP_NOTHING, 0);
    for (size_t t = 0; t < T; t++) tokens[t] = (int32_t)(random_bits(21, t) % V);
    gpt_forward_hidden(m->gpt, a, tokens, 1, T, 0, 0);
    gpt_logits(m->gpt, a, full, 0, T);
    static const size_t chunks[] = {1, 2, 5, 7, 64, 65, 1000};
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
        Cache *cache = cache_create(config, 1);
        size_t same = 0, calls = 0;
        for (size_t t = 0, n; t < T; t += n) {
            n = T - t < chunks[i] ? T - t : chunks[i];
            gpt_decode(m->gpt, cache, 0, 1, tokens + t, n, logits);
            same += same_bits(logits, full + (t + n - 1) * V, V) && cache->lengths[0] == t + n;
            calls++;
        }
        check(same == calls,
              "%s: cached inference by %zu token%s, %zu of %zu logits same bits as the"
              " full forward pass",
              m->name, chunks[i], chunks[i] > 1 ? "s" : "", same, calls);
        cache_destroy(cache);
    }
    /* Chunks of unequal length: a prompt, then single tokens, then many. */
    Cache *cache = cache_create(config, 1);
    size_t first = T / 2, second = first + 1;
    gpt_decode(m->gpt, cache, 0, 1, tokens, first, logits);
    bool same = same_bits(logits, full + (first - 1) * V, V);
    gpt_decode(m->gpt, cache, 0, 1, tokens + first, 1, logits);
    same = same && same_bits(logits, full + first * V, V);
    gpt_decode(m->gpt, cache, 0, 1, tokens + second, T - second, logits);
    same = same && same_bits(logits, full + (T - 1) * V, V);
    check(same, "%s: cached inference, prompt, one token, the rest: same bits", m->name);
    cache_destroy(cache);
    activations_destroy(a);
    free(tokens), free(full), free(logits);
}

/* No loss depends on a later token, and every later one depends on an earlier token. */
static void causality_check(const Model *m) {
    size_t T = m->T, N = m->B * T, C = m->gpt->config.channels;
    int32_t *inputs = copy_of(m->inputs, N * sizeof *inputs);
    forward(m, m->activations);
    float *losses = copy_of(m->activations->losses, N * sizeof *losses);
    float *hidden = copy_of(m->activations->hidden, N * C * sizeof *hidden);
    for (size_t i = 0; i < 3; i++) {
        size_t b = i % m->B, t = (i + 1) * T / 4, at = b * T + t;
        inputs[at] = (inputs[at] + 1) % (int32_t)m->gpt->config.vocab;
        gpt_forward(m->gpt, m->activations, inputs, m->targets, m->B, T, m->key, m->first);
        bool elsewhere = same_bits(m->activations->losses, losses, at) &&
                         same_bits(m->activations->hidden, hidden, at * C) &&
                         same_bits(m->activations->losses + (b + 1) * T, losses + (b + 1) * T,
                                   N - (b + 1) * T);
        size_t reached = 0;
        for (size_t later = t; later < T; later++)
            reached += !same_bits(m->activations->hidden + (b * T + later) * C,
                                  hidden + (b * T + later) * C, C);
        check(elsewhere, "%s: another token at %zu,%zu changes nothing before it or beside it",
              m->name, b, t);
        /* Dropout may cut a position off from an earlier one, and with it the last effect. */
        check(m->key ? 2 * reached > T - t : reached == T - t,
              "%s: another token at %zu,%zu reaches %zu of %zu positions from there on",
              m->name, b, t, reached, T - t);
        inputs[at] = m->inputs[at];
    }
    free(inputs), free(losses), free(hidden);
}

/* =========================================================================================
 * 4. Slopes of the loss
 * ====================================================================================== */

static double objective(const Model *m) {
    double sum = 0;
    forward(m, m->activations);
    for (size_t n = 0; n < m->B * m->T; n++)
        sum += (double)m->dlosses[n] * m->activations->losses[n];
    return sum;
}

/* For each tensor, the slope of the weighted loss along a direction of +1 and -1, from backward
 * and from differences of fourth order (see slope_check in test_kernels.c, where the direction
 * and the formula are explained).  All elements of a matrix move at once, and all layers bend
 * what comes of it, so the step is 2^-10 there; vectors have fewer elements and take 2^-7.
 * Rounding, 1e-7 for each loss, and what the formula leaves out are then below 1e-3 of the
 * slope, of which a wrong or missing term is a large part. */
static void slopes_check(const Model *m) {
    static const double tolerance = 2e-3;
    GPT *gpt = m->gpt;
    for (size_t i = 0; i < gpt->parameter_count; i++) /* w + h u must be exact */
        gpt->weights[i] = (float)(rint(gpt->weights[i] * 0x1p16) * 0x1p-16);
    run_with(m, m->activations);
    for (size_t i = 0; i < gpt->tensor_count; i++) {
        const Tensor *t = &gpt->table[i];
        if (!t->count) continue;
        float *w = gpt->weights + t->offset, *g = gpt->gradients + t->offset;
        double h = t->rank == 2 ? 0x1p-10 : 0x1p-7;
        float *middle = copy_of(w, t->count * sizeof *w);
        float *direction = memory_allocate(t->count, sizeof *direction);
        double computed = 0, sum[2] = {0};
        for (size_t j = 0; j < t->count; j++) {
            direction[j] = (g[j] < 0) != (random_bits(i, j) % 4 == 0) ? -1.0f : 1.0f;
            computed += (double)direction[j] * g[j];
        }
        for (int k = 0; k < 2; k++)
            for (int sign = -1; sign <= 1; sign += 2) {
                for (size_t j = 0; j < t->count; j++)
                    w[j] = (float)(middle[j] + sign * h * (k + 1) * direction[j]);
                sum[k] += sign * objective(m);
            }
        memcpy(w, middle, t->count * sizeof *w);
        double measured = (8 * sum[0] - sum[1]) / (12 * h);
        double error = fabs(measured - computed) / fabs(measured);
        check(fabs(measured) > 1e-3 && error <= tolerance,
              "%-8s %-36s slope %12.5e  differences %12.5e  error %8.2e  at most %8.2e",
              m->name, t->name, computed, measured, error, tolerance);
        free(middle);
        free(direction);
    }
    weights_load(m);
}

/* =========================================================================================
 * 5. A fresh model, schedules, the optimizer's promises
 * ====================================================================================== */

static void initialization_check(void) {
    Config config = {4, 4, 128, 64, 65, true, 0, false};
    Fresh f = fresh_create(config, 12, 64, 1), same = fresh_create(config, 1, 1, 1);
    Fresh other = fresh_create(config, 1, 1, 2);
    size_t N = f.B * f.T, normal = 0;
    check(same_bits(f.gpt->weights, same.gpt->weights, f.gpt->parameter_count),
          "the same seed gives the same model");
    bool differ = true;
    for (size_t i = 0; i < f.gpt->tensor_count; i++) {
        const Tensor *t = &f.gpt->table[i];
        const float *w = f.gpt->weights + t->offset;
        bool residual = strstr(t->name, "c_proj.weight"), norm = strstr(t->name, ".ln_");
        double sum = 0, squares = 0, n = (double)t->count;
        double deviation = t->rank == 1 ? 0 : residual ? 0.02 / sqrt(2 * 4) : 0.02;
        double mean = norm && strstr(t->name, ".weight") ? 1 : 0;
        for (size_t j = 0; j < t->count; j++)
            sum += w[j], squares += (w[j] - mean) * (w[j] - mean);
        double measured = sqrt(squares / n);
        /* The mean of n draws has deviation s/sqrt(n), their deviation s/sqrt(2n). */
        check(fabs(sum / n - mean) <= 5 * deviation / sqrt(n) &&
                  fabs(measured - deviation) <= 5 * deviation / sqrt(2 * n),
              "initial %-38s mean %8.5f deviation %.5f, expected %.5f", t->name, sum / n,
              measured, deviation);
        check(t->decay == (t->rank == 2), "%s %s", t->name,
              t->rank == 2 ? "decays" : "does not decay");
        if (t->rank != 2) continue;
        normal++;
        differ = differ && difference(other.gpt->weights + t->offset, w, t->count) > 1;
    }
    check(differ && normal == 2 + 4 * 4,
          "another seed gives another model, in all %zu matrices", normal);
    size_t pairs = 0, alike = 0; /* of matrices that draw from the same distribution */
    for (size_t i = 0; i < f.gpt->tensor_count; i++)
        for (size_t j = 0; j < i; j++) {
            const Tensor *a = &f.gpt->table[i], *b = &f.gpt->table[j];
            if (a->rank != 2 || a->deviation != b->deviation || b->rank != 2) continue;
            pairs++;
            alike += same_bits(f.gpt->weights + a->offset, f.gpt->weights + b->offset, 8);
        }
    check(pairs == 10 * 9 / 2 + 8 * 7 / 2 && !alike,
          "%zu of %zu pairs of matrices start alike", alike, pairs);

    Activations *a = activations_create(&config, f.B, f.T, KEEP_NOTHING, 0);
    gpt_forward(f.gpt, a, f.inputs, f.targets, f.B, f.T, 0, 0);
    double loss = 0;
    for (size_t n = 0; n < N; n++) loss += a->losses[n] / (double)N;
    /* A fresh model knows nothing: ln V.  Its logits have variance 128 * 0.02^2 = 0.05, which
     * adds half of that; 768 tokens leave a deviation of 0.01. */
    check(fabs(loss - log(65.0) - 0.0256) < 0.05, "a fresh model's loss is %.4f, ln V is %.4f",
          loss, log(65.0));
    activations_destroy(a);
    fresh_destroy(&f), fresh_destroy(&same), fresh_destroy(&other);
}

/* Counts that can be written down by hand. */
static void counts_check(void) {
    Config nano = {4, 4, 128, 64, 65, true, 0, false};
    /* Matrices: 12 C^2 a block; wte and wpe.  Vectors: 13 C a block and 2 C, without biases
     * 2 C a block and C. */
    size_t matrices = 4 * 12 * 128 * 128 + 65 * 128 + 64 * 128;
    check(config_parameters(&nano) == matrices + 4 * 13 * 128 + 2 * 128,
          "parameters of 4 blocks of 128 channels: %zu", config_parameters(&nano));
    /* 6 a weight of a matrix (wte as the head), 12 L T C for attention. */
    double flops = 6.0 * (4 * 12 * 128 * 128 + 65 * 128) + 12.0 * 4 * 64 * 128;
    check(flops_per_token(&nano, 64) == flops, "FLOPs a token: %.0f of %.0f",
          flops_per_token(&nano, 64), flops);
    nano.bias = false;
    check(config_parameters(&nano) == matrices + 4 * 2 * 128 + 128,
          "parameters without biases: %zu", config_parameters(&nano));
}

static void schedules_check(void) {
    static const struct { int kind; uint64_t step; double rate;
    } points[] = {
        /* lr 1, min_lr 0.1, warmup 4 (so fifths), 104 steps, cooldown 20 */
        {SCHEDULE_CONSTANT, 0, 0.2},
        {SCHEDULE_CONSTANT, 3, 0.8},
        {SCHEDULE_CONSTANT, 4, 1},
        {SCHEDULE_CONSTANT, 103, 1},
        {SCHEDULE_CONSTANT, 500, 1},
        {SCHEDULE_LINEAR, 0, 0.2},
        {SCHEDULE_LINEAR, 2, 0.6},
        {SCHEDULE_LINEAR, 4, 1},
        {SCHEDULE_LINEAR, 54, 0.55},
        {SCHEDULE_LINEAR, 79, 0.325},
        {SCHEDULE_LINEAR, 104, 0.1},
        {SCHEDULE_LINEAR, 1000, 0.1},
        {SCHEDULE_COSINE, 1, 0.4},
        {SCHEDULE_COSINE, 4, 1},
        {SCHEDULE_COSINE, 54, 0.55},
        {SCHEDULE_COSINE, 29, 0.868198052}, /* 0.1 + 0.9 (1 + cos(pi/4))/2 */
        {SCHEDULE_COSINE, 79, 0.231801948},
        {SCHEDULE_COSINE, 104, 0.1},
        {SCHEDULE_COSINE, 9999, 0.1},
        {SCHEDULE_TRAPEZOID, 1, 0.4},
        {SCHEDULE_TRAPEZOID, 4, 1},
        {SCHEDULE_TRAPEZOID, 60, 1},
        {SCHEDULE_TRAPEZOID, 84, 1},
        {SCHEDULE_TRAPEZOID, 89, 0.775},
        {SCHEDULE_TRAPEZOID, 94, 0.55},
        {SCHEDULE_TRAPEZOID, 104, 0.1},
        {SCHEDULE_TRAPEZOID, 110, 0.1},
    };
    static const char *const names[] = {[SCHEDULE_CONSTANT] = "constant",
                                        [SCHEDULE_LINEAR] = "linear",
                                        [SCHEDULE_COSINE] = "cosine",
                                        [SCHEDULE_TRAPEZOID] = "trapezoid"};
    for (size_t i = 0; i < sizeof points / sizeof points[0]; i++) {
        Schedule s = {points[i].kind, 1.0f, 0.1f, 4, 104, 20};
        float rate = learning_rate(&s, points[i].step);
        check(fabs(rate - points[i].rate) <= 2e-7,
              "schedule %s: rate of step %llu is %.7f, expected %.7f", names[points[i].kind],
              (unsigned long long)points[i].step, rate, points[i].rate);
    }
    Schedule none = {
        SCHEDULE_COSINE, 0.5f, 0, 0, 10, 0}; /* no warmup: the first step is whole */
    check(learning_rate(&none, 0) == 0.5f && learning_rate(&none, 10) == 0,
          "schedule without warmup");
}

static void optimizer_check(void) {
    Config config = {1, 1, 8, 4, 5, true, 0, false};
    GPT *gpt = gpt_create(&config, true);
    size_t count = gpt->parameter_count;
    OptimizerOptions options = {0.9f, 0.99f, 1e-8f, 0.1f, 1.0f};
    gpt_initialize(gpt, 5);
    float *start = copy_of(gpt->weights, count * sizeof *start);

    /* With gradient zero everywhere, only decay moves a weight, and only where it should. */
    Optimizer *optimizer = optimizer_create(count);
    double norm = optimizer_step(gpt, optimizer, &options, 0.5f);
    bool decayed = true, kept = true;
    for (size_t i = 0; i < gpt->tensor_count; i++) {
        const Tensor *t = &gpt->table[i];
        for (size_t j = t->offset; j < t->offset + t->count; j++) {
            if (t->rank == 2)
                decayed = decayed && fabs(gpt->weights[j] - 0.95 * start[j]) <= 1e-8;
            else kept = kept && gpt->weights[j] == start[j];
        }
    }
    check(norm == 0 && decayed && kept,
          "without gradient, matrices decay by lr * decay, vectors stay");

    /* The first step of Adam has length lr whatever the gradient, and clipping does not change
     * that; but the moments show the factor. */
    for (size_t i = 0; i < count; i++) gpt->gradients[i] = i % 2 ? 3.0f : -3.0f;
    optimizer_destroy(optimizer);
    optimizer = optimizer_create(count);
    norm = optimizer_step(gpt, optimizer, &options, 0.01f);
    double expected = 3 * sqrt((double)count);
    check(fabs(norm / expected - 1) < 1e-12,
          "the norm before clipping is returned: %.6f of %.6f", norm, expected);
    check(fabs(optimizer->m[1] * expected / (0.1 * 3) - 1) < 1e-5 && optimizer->step == 1,
          "the clipped gradient has norm 1");
    bool left = true, cleared = true;
    for (size_t i = 0; i < count; i++)
        left = left && gpt->gradients[i] == (i % 2 ? 3.0f : -3.0f);
    check(left, "the step leaves the gradients as they are");
    gradients_clear(gpt);
    for (size_t i = 0; i < count; i++) cleared = cleared && gpt->gradients[i] == 0;
    check(cleared, "gradients_clear clears all %zu gradients", count);

    options.clip = 0;
    for (size_t i = 0; i < count; i++) gpt->gradients[i] = 3.0f;
    optimizer_destroy(optimizer);
    optimizer = optimizer_create(count);
    optimizer_step(gpt, optimizer, &options, 0.01f);
    check(fabs(optimizer->m[1] / (0.1 * 3) - 1) < 1e-6, "clip 0: no clipping");

    memcpy(start, gpt->weights, count * sizeof *start);
    gpt->gradients[count / 2] = NAN;
    norm = optimizer_step(gpt, optimizer, &options, 0.01f);
    check(isnan(norm) && same_bits(gpt->weights, start, count),
          "a gradient that is not finite is reported and changes no weight");
    optimizer_destroy(optimizer);
    gpt_destroy(gpt);
    free(start);
}

int main(void) {
    static const char *const names[] = {"plain", "no_bias", "dropout", "odd"};
    program_name = "test_model";
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        Model m = model_open(names[i]);
        outputs_check(&m);
        gradients_check(&m);
        training_check(&m);
        head_rows_check(&m);
        decode_check(&m);
        causality_check(&m);
        slopes_check(&m);
        model_close(&m);
    }
    arenas_check();
    micro_batches_check();
    threads_check();
    initialization_check();
    counts_check();
    schedules_check();
    optimizer_check();
    return check_summary();
}

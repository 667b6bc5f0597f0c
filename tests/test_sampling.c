/* test_sampling.c - drawing tokens, and generating text with a model.
 *
 *     cc -std=gnu11 -O3 tests/test_sampling.c -o build/test_sampling -lm && build/test_sampling
 *
 * Draws use the project's own random numbers with fixed seeds; frequencies may be 5 standard
 * deviations from the probabilities, which true random numbers exceed once in two million
 * times.
 */
#define _GNU_SOURCE 1 /* fopencookie */
#define TRAIN_NO_MAIN
#include "../train.c"
#include "check.c"
#include "child.c"

enum { V = 8, DRAWS = 100000 };

static const double PROBABILITIES[V] = {0.02, 0.30, 0.05, 0.05, 0.25, 0.03, 0.20, 0.10};

static void logits_of(float logits[V], double shift) {
    for (int v = 0; v < V; v++) logits[v] = (float)(log(PROBABILITIES[v]) + shift);
}

/* Draws many tokens, and compares how often each came with `expected`: tokens that should not
 * come must not come at all. */
static void check_frequencies(const char *name, const float *logits, const Sampling *s,
                              const double expected[V]) {
    size_t counts[V] = {0};
    Candidate scratch[V];
    bool inside = true;
    for (uint64_t i = 0; i < DRAWS; i++) {
        uint32_t token = token_sample(logits, V, s, random_uniform(17, i), scratch);
        inside = inside && token < V;
        if (token < V) counts[token]++;
    }
    double worst = 0;
    bool exact = true; /* the set is the wanted one */
    for (int v = 0; v < V; v++) {
        double p = expected[v], deviation = sqrt(DRAWS * p * (1 - p));
        exact = exact && (p == 0) == (counts[v] == 0);
        if (p > 0 && p < 1)
            worst = fmax(worst, fabs((double)counts[v] - DRAWS * p) / deviation);
        if (p == 1) exact = exact && counts[v] == DRAWS;
    }
    check(inside && exact && worst < 5, "%-52s %s, %.2f sigma, at most 5", name,
          exact ? "just the wanted tokens" : "WRONG TOKENS", worst);
}

/* What is left of the probabilities when only the tokens of a set may come, at a temperature.
 */
static void renormalize(double out[V], const char *set, double temperature) {
    double total = 0;
    for (int v = 0; v < V; v++)
        total += out[v] =
            strchr(set, '0' + v) ? pow(PROBABILITIES[v] / 0.30, 1 / temperature) : 0;
    for (int v = 0; v < V; v++) out[v] /= total;
}

static void test_frequencies(void) {
    static const struct {
        const char *name;
        Sampling s;
        const char *set;
        double shift;
    } cases[] = {
        {"temperature 1: the model's own probabilities", {1, 0, 1}, "01234567", 0},
        {"temperature 1, logits moved by 1000", {1, 0, 1}, "01234567", 1000},
        {"temperature 1, logits moved by -1000", {1, 0, 1}, "01234567", -1000},
        {"temperature 0.5: the likely become likelier", {0.5, 0, 1}, "01234567", 0},
        {"temperature 2: the unlikely become likelier", {2, 0, 1}, "01234567", 0},
        {"temperature 1e-4: the likeliest", {1e-4, 0, 1}, "1", 0},
        {"temperature 0: the likeliest", {0, 0, 1}, "1", 0},
        {"temperature 0 overrides top-k", {0, 3, 1}, "1", 0},
        {"top-k 1: the likeliest", {1, 1, 1}, "1", 0},
        {"top-k 2", {1, 2, 1}, "14", 0},
        {"top-k 4", {1, 4, 1}, "1467", 0},
        {"top-k 5: of two that tie, the smaller id", {1, 5, 1}, "14672", 0},
        {"top-k 6: both", {1, 6, 1}, "146723", 0},
        {"top-k 8: all", {1, 8, 1}, "01234567", 0},
        {"top-k 1000: all", {1, 1000, 1}, "01234567", 0},
        {"top-k 3 at temperature 2", {2, 3, 1}, "146", 0},
        {"top-p 1e-9: at least one token", {1, 0, 1e-9}, "1", 0},
        {"top-p 0.29: the first alone reaches it", {1, 0, 0.29}, "1", 0},
        {"top-p 0.31: one more is needed", {1, 0, 0.31}, "14", 0},
        {"top-p 0.54: two reach it", {1, 0, 0.54}, "14", 0},
        {"top-p 0.56: three", {1, 0, 0.56}, "146", 0},
        {"top-p 0.84: four", {1, 0, 0.84}, "1467", 0},
        {"top-p 0.89: of two that tie, the smaller id", {1, 0, 0.89}, "14672", 0},
        {"top-p 0.999: all but none", {1, 0, 0.999}, "01234567", 0},
        {"top-p 0.6 at temperature 0.5", {0.5, 0, 0.6}, "14", 0},
        {"top-k 4, then top-p 0.6 of what it left", {1, 4, 0.6}, "14", 0},
        {"top-k 4, then top-p 0.7 of what it left", {1, 4, 0.7}, "146", 0},
        {"top-k 2 is narrower than top-p 0.99", {1, 2, 0.99}, "14", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float logits[V];
        double expected[V];
        logits_of(logits, cases[i].shift);
        renormalize(expected, cases[i].set,
                    cases[i].s.temperature > 0 ? cases[i].s.temperature : 1);
        check_frequencies(cases[i].name, logits, &cases[i].s, expected);
    }
}

static void test_edges(void) {
    Candidate scratch[V];
    float flat[V] = {0}, one[1] = {-3}, steep[V] = {-1e30f, 1e30f, 0, 0, 0, 0, 0, 0}, masked[V];
    double equal[V];
    for (int v = 0; v < V; v++) equal[v] = 1.0 / V;
    check_frequencies("all equal: all equally often", flat, &(Sampling){1, 0, 1}, equal);
    check(token_sample(flat, V, &(Sampling){0, 0, 1}, 0.99, scratch) == 0,
          "all equal at temperature 0: the smallest id");
    float late[V] = {0, 0, 0, 2, 0, 2, 2, 0};
    check(token_sample(late, V, &(Sampling){0, 0, 1}, 0.99, scratch) == 3,
          "three that tie at temperature 0: the smallest id");
    size_t right = 0;
    for (int i = 0; i < 100; i++)
        right += token_sample(one, 1, &(Sampling){1, 0, 1}, i / 100.0, scratch) == 0;
    check(right == 100, "a vocabulary of one token");
    right = 0;
    for (int i = 0; i < 100; i++)
        right += token_sample(steep, V, &(Sampling){0.01, 0, 1}, i / 100.0, scratch) == 1;
    check(right == 100, "logits of 1e30 and -1e30 at temperature 0.01 overflow nothing");
    right = 0;
    for (int i = 0; i < 100; i++)
        right += token_sample(steep, V, &(Sampling){1e-300, 0, 1}, i / 100.0, scratch) == 1;
    check(right == 100, "temperature 1e-300 divides without an overflow");

    /* A token at minus infinity has the probability 0. */
    logits_of(masked, 0);
    masked[1] = masked[4] = -INFINITY;
    double expected[V];
    renormalize(expected, "023567", 1);
    check_frequencies("two tokens at minus infinity never come", masked,
                      &(Sampling){1, 0, 1}, expected);

    /* The borders between tokens are where the running sum says: u = 0 is the first token, u
     * just below 1 the last one, and u at a border belongs to the token after it. */
    uint32_t first = token_sample(flat, V, &(Sampling){1, 0, 1}, 0, scratch),
             last = token_sample(flat, V, &(Sampling){1, 0, 1}, 1 - 0x1p-24, scratch);
    check(first == 0 && last == V - 1, "u = 0 draws token %u, u = 1 - 2^-24 token %u", first,
          last);
    right = 0;
    for (uint32_t v = 0; v < V; v++) {
        right += token_sample(flat, V, &(Sampling){1, 0, 1}, v / (double)V, scratch) == v;
        right += token_sample(flat, V, &(Sampling){1, 0, 1}, (v + 1) / (double)V - 1e-9,
                              scratch) == v;
    }
    check(right == 2 * V, "u at a border belongs to the token after it: %zu of %d", right,
          2 * V);
    float logits[V], before[V];
    logits_of(logits, 0);
    memcpy(before, logits, sizeof before);
    token_sample(logits, V, &(Sampling){0.7, 3, 0.9}, 0.5, scratch);
    check(!memcmp(logits, before, sizeof before), "the logits are left as they were");
}

/* --- Generation ----------------------------------------------------------------------------
 * The definition that text_generate is held against: every token comes from a fresh cache that
 * reads the whole window.  The window is the text so far; when it is full, its later half goes
 * on. */
static Bytes plain_generate(const GPT *gpt, const Tokenizer *tokenizer, const uint32_t *prompt,
                            size_t prompt_count, size_t count, const Sampling *s,
                            uint64_t seed) {
    size_t context = gpt->config.context, vocab = gpt->config.vocab, length = 0;
    int32_t *window = memory_allocate(context, sizeof *window);
    float *logits = memory_allocate(vocab, sizeof *logits);
    Candidate *scratch = memory_allocate(vocab, sizeof *scratch);
    Bytes text = {memory_allocate(count + 1, 1), 0};
    for (size_t i = prompt_count > context ? prompt_count - context : 0; i < prompt_count; i++)
        window[length++] = (int32_t)prompt[i];
    for (size_t i = 0; i < count; i++) {
        Cache *cache = cache_create(&gpt->config, 1);
        gpt_decode(gpt, cache, 0, 1, window, length, logits);
        cache_destroy(cache);
        uint32_t token = token_sample(
            logits, vocab, s, random_uniform(random_bits(seed, RANDOM_SAMPLING), i), scratch);
        size_t bytes;
        text.data[text.size++] = tokenizer_token(tokenizer, token, &bytes)[0];
        if (length == context) {
            length = context / 2;
            for (size_t j = 0; j < length; j++) window[j] = window[context - length + j];
        }
        window[length++] = (int32_t)token;
    }
    free(window);
    free(logits);
    free(scratch);
    return text;
}

static Bytes stream_generate(const GPT *gpt, Cache *cache, const Tokenizer *tokenizer,
                             const uint32_t *prompt, size_t prompt_count, size_t count,
                             const Sampling *s, uint64_t seed) {
    FILE *file = scratch_file();
    text_generate(gpt, cache, tokenizer, prompt, prompt_count, count, false, s, seed, file);
    rewind(file);
    Bytes text = stream_read(file, "what was generated");
    fclose(file);
    return text;
}

static size_t bytes_kinds(const Bytes *text) { /* how many different bytes there are */
    bool seen[256] = {false};
    size_t kinds = 0;
    for (size_t i = 0; i < text->size; i++) {
        kinds += !seen[text->data[i]];
        seen[text->data[i]] = true;
    }
    return kinds;
}

static void test_generate(size_t context, size_t prompt_count, size_t count, bool bias) {
    Config config = {.layers = 2, .heads = 2, .channels = 8, .context = context, .vocab = 5,
                     .bias = bias, .dropout = 0.3f}; /* no say in what is generated */
    GPT *gpt = gpt_create(&config, false);
    gpt_initialize(gpt, 3);
    for (size_t i = 0; i < gpt->parameter_count; i++)
        gpt->weights[i] += 0.3f * random_normal(4, i); /* opinions */
    Tokenizer *tokenizer = tokenizer_create((const unsigned char *)"abcde", 5);
    Cache *cache = cache_create(&config, 1);
    uint32_t prompt[64];
    for (size_t i = 0; i < prompt_count; i++) prompt[i] = (uint32_t)(random_bits(6, i) % 5);
    Sampling s = {1.0, 4, 0.95};
    Bytes plain = plain_generate(gpt, tokenizer, prompt, prompt_count, count, &s, 9);
    Bytes text = stream_generate(gpt, cache, tokenizer, prompt, prompt_count, count, &s, 9);
    check(
        text.size == count && !memcmp(text.data, plain.data, count) && bytes_kinds(&text) > 2,
        "context %2zu, prompt %2zu, %3zu tokens: as if every window were read anew: %.20s...",
        context, prompt_count, count, (char *)text.data);
    Bytes again = stream_generate(gpt, cache, tokenizer, prompt, prompt_count, count, &s, 9);
    check(again.size == count && !memcmp(text.data, again.data, count),
          "context %2zu, prompt %2zu, %3zu tokens: the same seed gives the same text, with "
          "a used cache",
          context, prompt_count, count);
    Bytes other = stream_generate(gpt, cache, tokenizer, prompt, prompt_count, count, &s, 10);
    check(other.size == count && memcmp(text.data, other.data, count),
          "context %2zu, prompt %2zu, %3zu tokens: another seed gives another text", context,
          prompt_count, count);
    free(plain.data);
    free(text.data);
    free(again.data);
    free(other.data);
    cache_destroy(cache);
    tokenizer_destroy(tokenizer);
    gpt_destroy(gpt);
}

/* Each token must reach the stream before the next one is computed: a reader at the other end
 * of a pipe sees text grow, and a stream that breaks ends the program at once. */
typedef struct {
    const GPT *gpt;
    const Tokenizer *tokenizer;
    size_t count;
} Writing;

static void write_to_full_disk(void *argument) {
    const Writing *w = argument;
    FILE *full = fopen("/dev/full", "w");
    if (!full) _exit(77);
    uint32_t prompt = 0;
    Cache *cache = cache_create(&w->gpt->config, 1);
    text_generate(w->gpt, cache, w->tokenizer, &prompt, 1, w->count, false,
                  &(Sampling){1, 0, 1}, 1, full);
}

static ssize_t stream_count(void *cookie, const char *data, size_t size) {
    (void)data;
    size_t *calls = cookie;
    *calls += size > 0; /* musl flushes with a second, empty call */
    return (ssize_t)size;
}

static void test_streaming(void) {
    Config config = {.layers = 1, .heads = 1, .channels = 4, .context = 16, .vocab = 5,
                     .bias = true};
    GPT *gpt = gpt_create(&config, false);
    gpt_initialize(gpt, 1);
    Tokenizer *tokenizer = tokenizer_create((const unsigned char *)"abcde", 5);
    Cache *cache = cache_create(&config, 1);
    uint32_t prompt = 0;
    size_t calls = 0;
    FILE *stream = fopencookie(&calls, "w", (cookie_io_functions_t){.write = stream_count});
    text_generate(gpt, cache, tokenizer, &prompt, 1, 40, false, &(Sampling){1, 0, 1}, 1,
                  stream);
    check(calls == 40, "40 tokens reach the stream in %zu pieces: each as soon as it is drawn",
          calls);
    fclose(stream);
    Writing writing = {gpt, tokenizer, 40};
    Ending ending = child_run(write_to_full_disk, &writing);
    if (ending.status == 77) check_skip("there is no /dev/full here");
    else check_error("a stream that cannot be written", &ending, 1, "cannot write");
    ending_free(&ending);
    Bytes none =
        stream_generate(gpt, cache, tokenizer, &prompt, 1, 0, &(Sampling){1, 0, 1}, 1);
    check(none.size == 0, "0 tokens are nothing");
    free(none.data);
    cache_destroy(cache);
    tokenizer_destroy(tokenizer);
    gpt_destroy(gpt);
}

int main(void) {
    program_name = "train";
#ifdef _OPENMP
    omp_set_num_threads(1); /* a forked child has none of its parent's other threads */
#endif
    test_frequencies();
    test_edges();
    test_generate(16, 3, 10, true);    /* within the context */
    test_generate(16, 3, 14,
                  true); /* up to its end: the last token is drawn with the window full */
    test_generate(16, 3, 100, true);   /* far beyond it */
    test_generate(16, 16, 40, false);  /* a prompt that fills it */
    test_generate(16, 50, 40, true);   /* a prompt of which only the end fits */
    test_generate(7, 2, 60, false);    /* an odd context */
    test_generate(2, 1, 60, true);
    test_generate(1, 1, 60, true);     /* a model that sees one token */
    test_streaming();
    return check_summary();
}

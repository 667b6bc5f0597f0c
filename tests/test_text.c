/* test_text.c - random numbers, texts, splits and batches: everything before the first kernel.
 *
 *     cc -std=gnu11 -O3 tests/test_text.c -o build/test_text -lm && build/test_text
 *
 * Where a number is drawn at random, the seeds are fixed, and the tolerance is at least 5
 * standard deviations of what true random numbers would give: with some hundred comparisons, a
 * right program would fail about once in ten thousand choices of the seeds, and these seeds are
 * chosen.
 */
#define TRAIN_NO_MAIN
#include "../train.c"
#include "check.c"
#include "child.c"

/* --- Random numbers ----------------------------------------------------------------------- */

/* How far a sum of `n` draws is from what was expected, in standard deviations. */
static double sigmas(double sum, double expected, double variance) {
    return fabs(sum - expected) / sqrt(variance);
}

/* Pearson's chi-square for counts that should all be `expected`, as a distance from its mean,
 * bins - 1, in standard deviations, sqrt(2 (bins - 1)).  Its upper tail is longer than the
 * normal distribution's, so 6 of them are allowed. */
static double chi_square(const size_t *counts, size_t bins, double expected) {
    double sum = 0;
    for (size_t i = 0; i < bins; i++) {
        double difference = (double)counts[i] - expected;
        sum += difference * difference / expected;
    }
    return (sum - (double)(bins - 1)) / sqrt(2.0 * (double)(bins - 1));
}

static void test_random_bits(void) {
    /* The first values of SplitMix64 from the seed 1234567, as its other implementations print
     * them. */
    static const uint64_t known[] = {6457827717110365317u, 3203168211198807973u,
                                     9817491932198370423u, 4593380528125082431u,
                                     16408922859458223821u};
    size_t equal = 0;
    for (uint64_t i = 0; i < 5; i++) equal += random_bits(1234567, i) == known[i];
    check(equal == 5, "random_bits: SplitMix64's own first values: %zu of 5", equal);

    /* Each of the 64 bits must be 1 half of the time, in the sequence of one key, in the first
     * draws of neighboring keys, and in keys that nest as a run's keys do. */
    enum { DRAWS = 100000 };
    static const char *const ways[] = {"one key, indices 0, 1, 2 ...",
                                       "keys 0, 1, 2 ..., one index",
                                       "nested keys, as steps and layers"};
    for (int way = 0; way < 3; way++) {
        size_t ones[64] = {0}, flips[64] = {0};
        uint64_t before = 0;
        for (uint64_t i = 0; i <= DRAWS; i++) {
            uint64_t bits =
                way == 0 ? random_bits(1, i)
                : way == 1
                    ? random_bits(i, 7)
                    : random_bits(random_bits(random_bits(3, RANDOM_DROPOUT), i / 10), i % 10);
            for (int bit = 0; bit < 64; bit++) {
                if (i < DRAWS) ones[bit] += bits >> bit & 1;
                if (i > 0) flips[bit] += (bits ^ before) >> bit & 1;
            }
            before = bits;
        }
        double worst_ones = 0, worst_flips = 0;
        for (int bit = 0; bit < 64; bit++) {
            worst_ones = fmax(worst_ones, sigmas((double)ones[bit], DRAWS / 2.0, DRAWS / 4.0));
            worst_flips =
                fmax(worst_flips, sigmas((double)flips[bit], DRAWS / 2.0, DRAWS / 4.0));
        }
        check(worst_ones < 5,
              "random_bits: bits are 1 half the time, %-34s %.2f sigma, at most 5", ways[way],
              worst_ones);
        check(worst_flips < 5,
              "random_bits: neighbors differ in half of them, %-29s %.2f sigma, at most 5",
              ways[way], worst_flips);
    }

    /* One bit changed in the key or the index should change half of the bits of the value. */
    for (int of_key = 0; of_key < 2; of_key++) {
        double worst = 0;
        for (int bit = 0; bit < 64; bit++) {
            size_t changed = 0;
            for (uint64_t i = 0; i < 1000; i++) {
                uint64_t one = (uint64_t)1 << bit;
                uint64_t a = random_bits(i * 0x12345677, i),
                         b = of_key ? random_bits(i * 0x12345677 ^ one, i)
                                    : random_bits(i * 0x12345677, i ^ one);
                changed += (size_t)__builtin_popcountll(a ^ b);
            }
            worst = fmax(worst, sigmas((double)changed, 32000, 16000));
        }
        check(worst < 5,
              "random_bits: one bit of the %s changes half of the value: %.2f sigma, at most 5",
              of_key ? "key" : "index", worst);
    }
}

static void test_random_reals(void) {
    enum { DRAWS = 200000, BINS = 64 };
    size_t counts[BINS] = {0};
    double sum = 0, squares = 0, low = 1, high = 0, neighbors = 0, other_key = 0;
    bool grid = true;
    for (uint64_t i = 0; i < DRAWS; i++) {
        double u = random_uniform(11, i);
        grid = grid && u * 0x1p24 == floor(u * 0x1p24);
        low = fmin(low, u);
        high = fmax(high, u);
        counts[(size_t)(u * BINS)]++;
        sum += u;
        squares += (u - 0.5) * (u - 0.5);
        neighbors += (u - 0.5) * ((double)random_uniform(11, i + 1) - 0.5);
        other_key += (u - 0.5) * ((double)random_uniform(12, i) - 0.5);
    }
    check(low >= 0 && low < 1e-4 && high < 1 && high > 1 - 1e-4 && grid,
          "random_uniform: multiples of 2^-24 from %.2g to 1 - %.2g", low, 1 - high);
    check(sigmas(sum, DRAWS / 2.0, DRAWS / 12.0) < 5,
          "random_uniform: mean %.5f, at most 5 sigma from 1/2", sum / DRAWS);
    check(sigmas(squares, DRAWS / 12.0, DRAWS / 180.0) < 5,
          "random_uniform: variance %.6f, at most 5 sigma from 1/12", squares / DRAWS);
    double chi = chi_square(counts, BINS, (double)DRAWS / BINS);
    check(fabs(chi) < 6, "random_uniform: %d bins equally full: %.2f sigma, at most 6", BINS,
          chi);
    check(sigmas(neighbors, 0, DRAWS / 144.0) < 5,
          "random_uniform: neighbors do not correlate: %.2f sigma, at most 5",
          sigmas(neighbors, 0, DRAWS / 144.0));
    check(sigmas(other_key, 0, DRAWS / 144.0) < 5,
          "random_uniform: neighboring keys do not correlate: %.2f sigma, at most 5",
          sigmas(other_key, 0, DRAWS / 144.0));

    /* Moments of the normal distribution and their variances: x^k has mean 0, 1, 0, 3 and
     * variance 1, 2, 15, 96. */
    double moments[5] = {0}, product = 0;
    size_t beyond[4] = {0};
    bool finite = true;
    for (uint64_t i = 0; i < DRAWS; i++) {
        double x = random_normal(5, i);
        finite = finite && isfinite(x);
        for (int k = 1; k <= 4; k++) moments[k] += pow(x, k);
        for (int k = 1; k <= 3; k++) beyond[k] += fabs(x) > k;
        product += x * (double)random_normal(5, i + 1);
    }
    static const double mean[5] = {0, 0, 1, 0, 3}, variance[5] = {0, 1, 2, 15, 96};
    check(finite, "random_normal: always finite");
    for (int k = 1; k <= 4; k++)
        check(sigmas(moments[k], mean[k] * DRAWS, variance[k] * DRAWS) < 5,
              "random_normal: mean of x^%d is %.4f, at most 5 sigma from %.0f", k,
              moments[k] / DRAWS, mean[k]);
    for (int k = 1; k <= 3; k++) {
        double p = erfc(k / sqrt(2.0));
        check(sigmas((double)beyond[k], p * DRAWS, p * (1 - p) * DRAWS) < 5,
              "random_normal: share beyond %d is %.5f, at most 5 sigma from %.5f", k,
              (double)beyond[k] / DRAWS, p);
    }
    check(sigmas(product, 0, DRAWS) < 5,
          "random_normal: neighbors do not correlate: %.2f sigma, at most 5",
          sigmas(product, 0, DRAWS));
}

static bool is_permutation(uint64_t key, uint64_t N) {
    bool *seen = memory_allocate(N, sizeof *seen), good = true;
    for (uint64_t i = 0; i < N && good; i++) {
        uint64_t position = random_permutation(key, i, N);
        good = position < N && !seen[position];
        if (good) seen[position] = true;
    }
    free(seen);
    return good;
}

static void test_random_permutation(void) {
    size_t good = 0, tried = 0;
    for (uint64_t N = 1; N <= 300; N++)
        for (uint64_t key = 0; key < 5; key++, tried++) good += is_permutation(key * 77, N);
    check(good == tried,
          "random_permutation: every number once, N from 1 to 300, 5 keys: %zu of %zu", good,
          tried);
    static const uint64_t sizes[] = {1023,  1024,  1025,  4095,   4096,  4097,
                                     16384, 16385, 65537, 100003, 262145};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        check(is_permutation(i, sizes[i]), "random_permutation: every number once, N = %llu",
              (unsigned long long)sizes[i]);
    uint64_t huge = (uint64_t)1 << 40, below = 0;
    for (uint64_t i = 0; i < 1000; i++)
        below += random_permutation(9, huge - 1 - i, huge) < huge;
    check(below == 1000, "random_permutation: stays below N = 2^40");

    /* A shuffle of N numbers leaves one of them where it was on average, with variance 1. */
    for (int which = 0; which < 3; which++) {
        uint64_t N = which == 0 ? 7 : which == 1 ? 100 : 1000;
        size_t fixed = 0, shuffles = 2000;
        for (uint64_t key = 0; key < shuffles; key++)
            for (uint64_t i = 0; i < N; i++) fixed += random_permutation(key, i, N) == i;
        check(sigmas((double)fixed, (double)shuffles, (double)shuffles) < 5,
              "random_permutation: N = %4llu: %.3f numbers stay where they were, at most 5 "
              "sigma from 1",
              (unsigned long long)N, (double)fixed / (double)shuffles);
    }
    /* Over the keys, a number goes to all positions equally often, and keeps no neighbor. */
    enum { N = 50, KEYS = 20000 };
    size_t positions[N] = {0}, kept = 0;
    for (uint64_t key = 0; key < KEYS; key++) {
        uint64_t position = random_permutation(key, 3, N);
        positions[position]++;
        kept += random_permutation(key, 4, N) == position + 1;
    }
    double chi = chi_square(positions, N, (double)KEYS / N), p = 1.0 / N;
    check(fabs(chi) < 6,
          "random_permutation: number 3 of %d goes everywhere: %.2f sigma, at most 6", N, chi);
    check(sigmas((double)kept, KEYS * p, KEYS * p * (1 - p)) < 5,
          "random_permutation: numbers 3 and 4 stay together %zu times of %d, at most 5 sigma "
          "from %.0f",
          kept, KEYS, KEYS * p);
}

/* --- Splits and batches -------------------------------------------------------------------
 * The corpus here is 0, 1, 2, 3 ...: a token is its own position. */

static Corpus corpus_count(size_t count) {
    Corpus corpus = {memory_allocate(count, sizeof(uint32_t)), count, count, NULL, 0};
    for (size_t i = 0; i < count; i++) corpus.tokens[i] = (uint32_t)i;
    return corpus;
}

static void test_splits(void) {
    static const struct {
        size_t count;
        double validation, test;
        size_t expected[SPLITS];
    } cases[] = {{1000, 0.05, 0.05, {900, 50, 50}},
                 {1000, 0, 0, {1000, 0, 0}},
                 {1000, 0.1, 0, {900, 100, 0}},
                 {1000, 0, 0.1, {900, 0, 100}},
                 {1000, 0.45, 0.45, {100, 450, 450}},
                 {10, 0.05, 0.05, {9, 0, 1}},
                 {1115394, 0.05, 0.05, {1003854, 55769, 55771}},
                 {7, 0.2, 0.1, {4, 1, 2}},
                 {100, 0.3, 0.6, {10, 30, 60}},
                 {3, 0, 0.5, {1, 0, 2}},
                 {1, 0, 0, {1, 0, 0}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Corpus corpus = corpus_count(cases[i].count);
        Split s[SPLITS];
        corpus_split(&corpus, cases[i].validation, cases[i].test, s);
        bool sizes = true, adjacent = s[0].tokens == corpus.tokens;
        for (int k = 0; k < SPLITS; k++) {
            sizes = sizes && s[k].count == cases[i].expected[k];
            if (k) adjacent = adjacent && s[k].tokens == s[k - 1].tokens + s[k - 1].count;
        }
        adjacent = adjacent && s[2].tokens + s[2].count == corpus.tokens + corpus.count;
        check(sizes && adjacent,
              "splits of %zu, shares %g and %g: %zu + %zu + %zu, one after the other",
              cases[i].count, cases[i].validation, cases[i].test, s[0].count, s[1].count,
              s[2].count);
        free(corpus.tokens);
    }
    /* Rounding must not lose or double a token, whatever the shares. */
    bool whole = true;
    Corpus corpus = corpus_count(1);
    for (size_t count = 1; count < 2000; count += 7)
        for (int v = 0; v <= 45; v += 3)
            for (int t = 0; t <= 45; t += 5) {
                Split s[SPLITS];
                corpus.count = count;
                corpus_split(&corpus, v / 100.0, t / 100.0, s);
                whole = whole && s[0].count + s[1].count + s[2].count == count &&
                        s[0].count <= count && s[1].count <= count && (t || s[2].count == 0) &&
                        (v || s[1].count == 0) &&
                        fabs((double)s[1].count - v / 100.0 * (double)count) < 1.001;
            }
    check(whole,
          "splits: every token in exactly one part for 45,760 choices of size and shares");
    check(!strcmp(SPLIT_NAMES[SPLIT_TRAIN], "train") &&
              !strcmp(SPLIT_NAMES[SPLIT_TEST], "test"),
          "splits: names are in the order of the parts");
    free(corpus.tokens);
}

/* Reads steps [0, steps) of a source and returns where each sequence begins; NULL if an input
 * or a target is not the token that belongs there. */
static size_t *batch_starts(const BatchSource *source, uint64_t steps, size_t mine) {
    size_t T = source->T;
    int32_t *inputs = memory_allocate(mine * T, sizeof *inputs),
            *targets = memory_allocate(mine * T, sizeof *targets);
    size_t *starts = memory_allocate(steps * mine, sizeof *starts);
    bool good = true;
    for (uint64_t step = 0; step < steps; step++) {
        memset(inputs, 0xFF, mine * T * sizeof *inputs);
        memset(targets, 0xFF, mine * T * sizeof *targets);
        batch_read(source, step, 0, mine, inputs, targets);
        for (size_t b = 0; b < mine; b++) {
            size_t start = (size_t)inputs[b * T];
            starts[step * mine + b] = start;
            for (size_t t = 0; t < T; t++)
                good = good && (size_t)inputs[b * T + t] == start + t &&
                       (size_t)targets[b * T + t] == start + t + 1 &&
                       (size_t)targets[b * T + t] < source->split->count;
        }
    }
    free(inputs);
    free(targets);
    if (good) return starts;
    free(starts);
    return NULL;
}

/* Epochs: the sequences, in the order in which steps deal them out, fall into groups of
 * `windows`; each group must hold every window exactly once. */
static void test_epochs(size_t count, size_t T, size_t batch) {
    Corpus corpus = corpus_count(count);
    Split split = {corpus.tokens, count, "train", NULL, 0};
    size_t windows = (count - 1) / T, slack = (count - 1) % T, epochs = 6;
    size_t steps = (epochs * windows + batch - 1) / batch;
    BatchSource source = {&split, batch, T, ORDER_EPOCHS, 42, 0, 1};
    size_t *starts = batch_starts(&source, steps, batch),
           *again = batch_starts(&source, steps, batch);
    check(starts && again,
          "epochs, %4zu tokens, T %2zu, batch %2zu: targets are the inputs shifted by one",
          count, T, batch);
    if (!starts || !again) { free(starts); free(again); free(corpus.tokens); return; }
    bool once = true, shifts = true;
    size_t moved = 0, same_order = 0;
    for (size_t epoch = 0; epoch < epochs; epoch++) {
        const size_t *s = starts + epoch * windows;
        bool *seen = memory_allocate(windows, sizeof *seen);
        size_t shift = s[0] % T;
        shifts = shifts && shift <= slack;
        moved += shift != starts[0] % T;
        for (size_t i = 0; i < windows; i++) {
            size_t window = s[i] / T;
            bool good = s[i] % T == shift && window < windows && !seen[window];
            if (good) seen[window] = true;
            once = once && good;
        }
        size_t same = 0;
        for (size_t i = 0; epoch && i < windows; i++) same += s[i] / T == starts[i] / T;
        same_order += same == windows;
        free(seen);
    }
    check(once,
          "epochs, %4zu tokens, T %2zu, batch %2zu: each of %zu windows once in each of %zu "
          "epochs",
          count, T, batch, windows, epochs);
    check(shifts && (slack < 3 || moved > 0),
          "epochs, %4zu tokens, T %2zu, batch %2zu: the cut moves within the %zu tokens left "
          "over",
          count, T, batch, slack);
    if (windows > 4)
        check(same_order == 0,
              "epochs, %4zu tokens, T %2zu, batch %2zu: no epoch has the order of the first",
              count, T, batch);
    check(!memcmp(starts, again, steps * batch * sizeof *starts),
          "epochs, %4zu tokens, T %2zu, batch %2zu: the same seed gives the same batches",
          count, T, batch);
    source.seed = 43;
    size_t *other = batch_starts(&source, steps, batch), equal = 0;
    for (size_t i = 0; other && i < windows; i++) equal += other[i] / T == starts[i] / T;
    if (windows > 4)
        check(other && equal < windows,
              "epochs, %4zu tokens, T %2zu, batch %2zu: another seed, another order", count, T,
              batch);
    free(other);
    free(again);
    free(starts);
    free(corpus.tokens);
}

static void test_windows(void) {
    enum { COUNT = 64, T = 7, BATCH = 5, STEPS = 4000, STARTS = COUNT - T };
    Corpus corpus = corpus_count(COUNT);
    Split split = {corpus.tokens, COUNT, "train", NULL, 0};
    BatchSource source = {&split, BATCH, T, ORDER_WINDOWS, 1, 0, 1};
    size_t *starts = batch_starts(&source, STEPS, BATCH), counts[STARTS] = {0};
    bool in = starts != NULL;
    for (size_t i = 0; starts && i < STEPS * BATCH; i++) {
        in = in && starts[i] < STARTS;
        if (starts[i] < STARTS) counts[starts[i]]++;
    }
    double chi = chi_square(counts, STARTS, (double)STEPS * BATCH / STARTS);
    check(in,
          "windows: targets are the inputs shifted by one, and none reaches beyond the split");
    check(fabs(chi) < 6,
          "windows: every one of %d positions is drawn equally often: %.2f sigma, at most 6",
          STARTS, chi);
    source.seed = 2;
    size_t *other = batch_starts(&source, STEPS, BATCH), equal = 0, repeats = 0;
    for (size_t i = 0; starts && other && i < STEPS * BATCH; i++)
        equal += starts[i] == other[i];
    for (size_t i = BATCH; starts && i < STEPS * BATCH; i++)
        repeats += starts[i] == starts[i - BATCH];
    double p = 1.0 / STARTS, n = STEPS * BATCH;
    check(other && sigmas((double)equal, n * p, n * p * (1 - p)) < 5,
          "windows: another seed draws other positions");
    check(sigmas((double)repeats, (n - BATCH) * p, n * p * (1 - p)) < 5,
          "windows: a step draws other positions than the one before");
    free(other);
    free(starts);
    source.seed = 1;
    split.count = T + 1;
    starts = batch_starts(&source, 3, BATCH);
    check(starts && starts[0] == 0 && starts[14] == 0,
          "windows: a split of T + 1 tokens has one window");
    free(starts);
    free(corpus.tokens);
}

/* What the ranks read, put side by side, is what one process reads; so is a batch read in
 * micro-batches. */
static void test_ranks(int order) {
    enum { COUNT = 503, T = 9, BATCH = 12, STEPS = 20 };
    Corpus corpus = corpus_count(COUNT);
    Split split = {corpus.tokens, COUNT, "train", NULL, 0};
    BatchSource alone = {&split, BATCH, T, order, 7, 0, 1};
    size_t *whole = batch_starts(&alone, STEPS, BATCH);
    for (size_t world = 2; whole && world <= 6; world++) {
        if (BATCH % world) continue;
        bool equal = true;
        for (size_t rank = 0; rank < world; rank++) {
            BatchSource part = alone;
            part.rank = rank;
            part.world = world;
            size_t mine = BATCH / world, *starts = batch_starts(&part, STEPS, mine);
            for (size_t i = 0; starts && i < STEPS * mine; i++)
                equal = equal && starts[i] == whole[i / mine * BATCH + rank * mine + i % mine];
            equal = equal && starts;
            free(starts);
        }
        check(equal, "ranks, %-7s: %zu ranks together read what one process reads",
              ORDER_NAMES[order], world);
    }
    int32_t inputs[BATCH * T], targets[BATCH * T];
    bool equal = whole != NULL;
    for (size_t first = 0, B; first < BATCH; first += B) {
        B = BATCH - first < 5 ? BATCH - first : 5;
        batch_read(&alone, 3, first, B, inputs, targets);
        for (size_t b = 0; b < B; b++)
            equal = equal && whole && (size_t)inputs[b * T] == whole[3 * BATCH + first + b];
    }
    check(equal, "micro-batches, %-7s: 5 + 5 + 2 sequences are those of the batch of 12",
          ORDER_NAMES[order]);
    double epochs = batch_epochs(&alone, 100);
    check(fabs(epochs - 100.0 * BATCH * T / (COUNT - 1)) < 1e-9,
          "batch_epochs: 100 steps of %d x %d tokens in %d are %.4f epochs", BATCH, T, COUNT,
          epochs);
    free(whole);
    free(corpus.tokens);
}

/* --- Rows: every line a sequence of its own ----------------------------------------------- */

enum { ROW_T = 8 };

/* Inputs and targets of a row as text: a target that is not asked for is shown as a dot, a line
 * feed as |. */
static void check_row(const Split *split, const Tokenizer *tokenizer, size_t row,
                      const char *inputs_expected, const char *targets_expected) {
    int32_t ids[2][ROW_T];
    char shown[2][ROW_T + 1] = {{0}};
    memset(ids, 0x7F, sizeof ids);
    sequence_read(split, row, ROW_T, ids[0], ids[1]);
    for (int i = 0; i < 2; i++)
        for (size_t t = 0, bytes; t < ROW_T; t++) {
            char c = ids[i][t] < 0
                         ? '.'
                         : (char)*tokenizer_token(tokenizer, (uint32_t)ids[i][t], &bytes);
            shown[i][t] = c == '\n' ? '|' : c;
        }
    check(!strcmp(shown[0], inputs_expected) && !strcmp(shown[1], targets_expected),
          "rows: row %zu of %-10s: %s -> %s", row, split->name, shown[0], shown[1]);
}

static void test_rows(void) {
    static const char text[] =
        "ab=cd\n=xyz\n\nabc=\nabcdefg\nq=r"; /* no line feed at the end */
    Bytes plain = {(unsigned char *)text, strlen(text)};
    Tokenizer *tokenizer = tokenizer_create(plain.data, plain.size);
    Corpus corpus = corpus_rows(tokenizer, &plain, "text", NULL, ROW_T);
    check(corpus.row_count == 6 && corpus.count == plain.size + 2 && corpus.bytes == plain.size,
          "rows: 6 lines of %zu bytes are %zu rows of %zu tokens", plain.size, corpus.row_count,
          corpus.count);
    Split s[SPLITS];
    corpus_split(&corpus, 0.3, 0.2, s);
    check(s[0].row_count == 3 && s[1].row_count == 2 && s[2].row_count == 1 &&
              s[0].count == 6 + 5 + 1 && s[1].count == 5 + 8 && s[2].count == 4,
          "rows: split into %zu, %zu and %zu rows of %zu, %zu and %zu targets", s[0].row_count,
          s[1].row_count, s[2].row_count, s[0].count, s[1].count, s[2].count);
    check_row(&s[0], tokenizer, 0, "|ab=cd||", "ab=cd|..");
    check_row(&s[0], tokenizer, 1, "|=xyz|||", "=xyz|...");
    check_row(&s[0], tokenizer, 2, "||||||||", "|.......");
    check_row(&s[1], tokenizer, 0, "|abc=|||", "abc=|...");
    check_row(&s[1], tokenizer, 1, "|abcdefg", "abcdefg|");
    check_row(&s[2], tokenizer, 0, "|q=r||||", "q=r|....");
    free(corpus.tokens);
    free(corpus.rows);

    /* The same as a running text: its bytes, in their order. */
    corpus = corpus_text(tokenizer, &plain, "text");
    bool in_order = corpus.count == plain.size && corpus.bytes == plain.size && !corpus.rows;
    for (size_t i = 0, bytes; in_order && i < corpus.count; i++)
        in_order = *tokenizer_token(tokenizer, corpus.tokens[i], &bytes) == plain.data[i];
    check(in_order, "corpus_text: %zu bytes are as many tokens, in order", plain.size);
    free(corpus.tokens);

    static const char sums[] = "ab=cd\n=xyz\nabc=\na=b=c\n";
    Bytes prompts = {(unsigned char *)sums, strlen(sums)};
    corpus = corpus_rows(tokenizer, &prompts, "text", "=", ROW_T);
    corpus_split(&corpus, 0, 0, s);
    check(s[0].row_count == 4, "rows: after the last line feed there is no row: %zu of 4",
          s[0].row_count);
    check_row(&s[0], tokenizer, 0, "|ab=cd||", "...cd|..");
    check_row(&s[0], tokenizer, 1, "|=xyz|||", ".xyz|...");
    check_row(&s[0], tokenizer, 2, "|abc=|||", "....|...");
    check_row(&s[0], tokenizer, 3, "|a=b=c||", "..b=c|..");
    free(corpus.tokens);
    free(corpus.rows);
    tokenizer_destroy(tokenizer);

    /* A learned vocabulary has tokens such as "\n\n" and "b c"; none may reach across the end
     * of a line or of a prompt, for a model that is asked has nothing but the prompt. */
    Bytes learned = {NULL, 0};
    for (int i = 0; i < 200; i++) {
        static const char lines[] = "aa  bb  \n\n\n  cc=cc\n";
        learned.data = memory_resize(learned.data, learned.size + sizeof lines, 1);
        memcpy(learned.data + learned.size, lines, sizeof lines);
        learned.size += sizeof lines - 1;
    }
    tokenizer = tokenizer_learn(learned.data, learned.size, 290, false);
    uint32_t *across;
    size_t whole = tokenizer_encode(tokenizer, learned.data, learned.size, "text", &across),
           feeds = 0, length;
    for (size_t i = 0; i < whole; i++) {
        const unsigned char *token = tokenizer_token(tokenizer, across[i], &length);
        feeds += length > 1 && memchr(token, '\n', length) != NULL;
    }
    corpus = corpus_rows(tokenizer, &learned, "text", NULL, 20);
    size_t kept = 0;
    for (size_t i = 0; i <= corpus.row_count; i++) {
        const unsigned char *token =
            tokenizer_token(tokenizer, corpus.tokens[corpus.rows[i].start], &length);
        kept += length == 1 && *token == '\n';
    }
    check(feeds > 0 && corpus.row_count == 800 && kept == 801,
          "rows: %zu tokens of the running text reach across a line's end, in rows none",
          feeds);
    free(across);
    free(corpus.tokens);
    free(corpus.rows);
    free(learned.data);
    tokenizer_destroy(tokenizer);
}

/* `count` rows of 1 to 7 letters: row i has i % 7 of them and its line feed. */
static Corpus rows_count(size_t count, Tokenizer **tokenizer) {
    Bytes text = {memory_allocate(count * 7, 1), 0};
    for (size_t i = 0; i < count; i++) {
        memset(text.data + text.size, 'a' + (int)(i % 26), i % 7);
        text.size += i % 7;
        text.data[text.size++] = '\n';
    }
    *tokenizer = tokenizer_create(text.data, text.size);
    Corpus corpus = corpus_rows(*tokenizer, &text, "text", NULL, 7);
    free(text.data);
    return corpus;
}

static void test_rows_batches(void) {
    enum { ROWS = 101, BATCH = 12, T = 7 };
    Tokenizer *tokenizer;
    Corpus corpus = rows_count(ROWS, &tokenizer);
    Split s[SPLITS];
    corpus_split(&corpus, 0, 0, s);
    for (int order = ORDER_EPOCHS; order <= ORDER_WINDOWS; order++) {
        BatchSource source = {&s[0], BATCH, T, order, 3, 0, 1};
        size_t seen[3][ROWS] = {{0}}, most = 0, least = 1000000, wrong = 0, short_epochs = 0;
        double tokens = 0;
        enum { STEPS = ROWS * 40 };
        for (uint64_t step = 0; step < STEPS; step++) {
            int32_t inputs[BATCH * T], targets[BATCH * T];
            size_t asked = 0;
            batch_read(&source, step, 0, BATCH, inputs, targets);
            for (size_t i = 0; i < BATCH * T; i++) asked += targets[i] >= 0;
            wrong += asked != batch_targets(&source, step);
            tokens += (double)asked;
            for (size_t b = 0; b < BATCH; b++) {
                size_t row = window_start(&source, step, b), number = step * BATCH + b;
                if (number < 2 * ROWS) seen[number / ROWS][row]++;
                seen[2][row]++;
                wrong += row >= ROWS || targets[b * T + row % 7] < 0 ||
                         (row % 7 < 6 && targets[b * T + row % 7 + 1] >= 0);
            }
        }
        for (size_t row = 0; row < ROWS; row++) {
            most = seen[2][row] > most ? seen[2][row] : most;
            least = seen[2][row] < least ? seen[2][row] : least;
            short_epochs += seen[0][row] != 1 || seen[1][row] != 1;
        }
        check(!wrong, "rows, %-7s: batches hold whole rows, and batch_targets() counts theirs",
              ORDER_NAMES[order]);
        if (order == ORDER_EPOCHS)
            check(!short_epochs && most == 40 * BATCH && least == most,
                  "rows, epochs : each row once in an epoch");
        else /* 480 draws a row; 5 deviations of sqrt(480) on either side */
            check(short_epochs && most < 480 + 110 && least > 480 - 110,
                  "rows, windows: %zu to %zu draws of each row, 480 expected", least, most);
        check(fabs(batch_epochs(&source, STEPS) - 40.0 * BATCH) < 1e-9 &&
                  fabs(tokens / STEPS / batch_tokens(&source) - 1) < 0.01,
              "rows, %-7s: %.0f epochs of %.2f tokens a step", ORDER_NAMES[order],
              batch_epochs(&source, STEPS), batch_tokens(&source));
    }
    free(corpus.tokens);
    free(corpus.rows);
    tokenizer_destroy(tokenizer);

    corpus = rows_count(32033, &tokenizer);
    corpus_split(&corpus, 0.03122, 0, s);
    check(s[0].row_count == 31033 && s[1].row_count == 1000 && s[2].row_count == 0,
          "rows: a share of 0.03122 of 32,033 rows is %zu", s[1].row_count);
    bool whole = true;
    for (int v = 0; v <= 45; v++)
        for (int t = 0; t <= 45; t++) {
            corpus_split(&corpus, v / 100.0, t / 100.0, s);
            double rows = 32033;
            whole = whole && s[0].rows == corpus.rows && s[2].tokens == corpus.tokens &&
                    s[1].rows == s[0].rows + s[0].row_count &&
                    s[2].rows == s[1].rows + s[1].row_count &&
                    s[0].row_count + s[1].row_count + s[2].row_count == 32033 &&
                    s[0].count + s[1].count + s[2].count == corpus.count - 1 &&
                    fabs((double)s[1].row_count - v / 100.0 * rows) < 1.001 &&
                    fabs((double)s[2].row_count - t / 100.0 * rows) < 0.501;
        }
    check(whole, "rows: every row in exactly one part, whatever the shares");
    free(corpus.tokens);
    free(corpus.rows);
    tokenizer_destroy(tokenizer);
}

/* Two ranks read rows, too, as one process does, and both count the targets of the whole batch:
 * each gradient is divided by that number, and only their sum is the batch's. */
static void test_rows_ranks(void) {
    enum { BATCH = 10, T = 7, STEPS = 30, HALF = BATCH / 2 * T };
    Tokenizer *tokenizer;
    Corpus corpus = rows_count(101, &tokenizer);
    Split s[SPLITS];
    corpus_split(&corpus, 0, 0, s);
    for (int order = ORDER_EPOCHS; order <= ORDER_WINDOWS; order++) {
        BatchSource whole = {&s[0], BATCH, T, order, 3, 0, 1}, ranks[2] = {whole, whole};
        size_t equal = 0;
        for (size_t r = 0; r < 2; r++) ranks[r].rank = r, ranks[r].world = 2;
        for (uint64_t step = 0; step < STEPS; step++) {
            int32_t inputs[BATCH * T], targets[BATCH * T], in[BATCH * T], out[BATCH * T];
            batch_read(&whole, step, 0, BATCH, inputs, targets);
            for (size_t r = 0; r < 2; r++) {
                int32_t *mine = in + r * HALF, *aims = out + r * HALF;
                batch_read(&ranks[r], step, 0, 2, mine, aims);
                batch_read(&ranks[r], step, 2, 3, mine + 2 * T, aims + 2 * T);
                equal += batch_targets(&ranks[r], step) == batch_targets(&whole, step);
            }
            equal += !memcmp(inputs, in, sizeof in) && !memcmp(targets, out, sizeof out);
        }
        check(equal == 3 * STEPS,
              "rows, %-7s: ranks 0 and 1 of 2 read together what one process reads",
              ORDER_NAMES[order]);
    }
    free(corpus.tokens);
    free(corpus.rows);
    tokenizer_destroy(tokenizer);
}

static void rows_of(void *argument) {
    const char *const *in = argument; /* text, mark */
    Bytes text = {(unsigned char *)in[0], strlen(in[0])};
    Tokenizer *tokenizer = tokenizer_create(text.data, text.size);
    corpus_rows(tokenizer, &text, "some.txt", in[1], ROW_T);
}

static void test_rows_refused(void) {
    static const char *const cases[][4] = {
        {"line by line", "1234567\n12345678\n1\n", NULL,
         "some.txt: line 2 and its line feed are 9"},
        {"a prompt without an end", "1+1=2\n2+2=4\n\n", "=", "some.txt: line 3 has no '='"},
        {"no line feed at all", "1+1=2", NULL, "0x0A"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *in[] = {cases[i][1], cases[i][2]};
        Ending ending = child_run(rows_of, in);
        check_error(cases[i][0], &ending, 1, cases[i][3]);
        ending_free(&ending);
    }
}

/* --- Text from files ---------------------------------------------------------------------- */

static const char *scratch; /* the folder of this test's files */

static void append_child(void *name) { /* a child that prints what it reads */
    Bytes text = {NULL, 0};
    text_append(&text, text_of("%s/%s", scratch, (const char *)name).chars);
    fwrite(text.data, 1, text.size, stdout);
    free(text.data);
}

static void test_text_files(void) {
    static const char *const files[][2] = {{"a.txt", "first"}, {"b.txt", "second\n"},
                                           {"empty", ""}, {"c.txt", "last, no line feed"}};
    Bytes text = {NULL, 0};
    bool ends = true;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        text_save(text_of("%s/%s", scratch, files[i][0]).chars, files[i][1]);
        text_append(&text, text_of("%s/%s", scratch, files[i][0]).chars);
        ends = ends && text.data[text.size] == 0;
    }
    text_append(&text, text_of("%s/a.txt", scratch).chars);
    const char *all = "first\nsecond\nlast, no line feed\nfirst";
    check(ends && text.size == strlen(all) && !memcmp(text.data, all, text.size),
          "text_append: five files, each begins on a line of its own: %zu bytes of %zu",
          text.size, strlen(all));
    free(text.data);

    bytes_save(text_of("%s/zeros", scratch).chars, "abc\0def\n", 8);
    folder_create(text_of("%s/folder", scratch).chars);
    text_save(text_of("%s/folder/in.txt", scratch).chars, "in a folder\n");
    if (symlink("nowhere", text_of("%s/gone", scratch).chars) != 0 ||
        symlink("a.txt", text_of("%s/link", scratch).chars) != 0)
        die("cannot make a link: %s", strerror(errno));
    static const struct { const char *name, *words;
    } cases[] = {{"zeros", "byte 3 is NUL"},
                 {"folder", "is a folder; a file is needed"},
                 {"missing.txt", "missing.txt: cannot open"},
                 {"gone", "No such file"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Ending ending = child_run(append_child, (void *)cases[i].name);
        check_error(text_of("text_append: %s", cases[i].name).chars, &ending, 1,
                    cases[i].words);
        ending_free(&ending);
    }
    Ending ending = child_run(append_child, "link");
    check(ending.status == 0 && ending.out.size == 5,
          "text_append: a link to a file is followed");
    ending_free(&ending);
}

/* --- Files of tokens ---------------------------------------------------------------------- */

/* A file of `count` ids, first, first + 1, ..., each of `width` bytes; with a magic number, the
 * header of llm.c before them. */
typedef struct {
    const char *name;
    uint32_t magic, first;
    size_t count, width, vocab, cut; /* cut: bytes missing at the end */
} TokenFile;

static Text tokens_save(const TokenFile *f) {
    size_t head = f->magic ? 1024 : 0, size = head + f->count * f->width;
    unsigned char *bytes = memory_allocate(size, 1);
    const uint32_t start[3] = {f->magic, 1, (uint32_t)f->count};
    if (head) memcpy(bytes, start, sizeof start);
    for (size_t i = 0; i < f->count; i++)
        for (size_t b = 0; b < f->width; b++)
            bytes[head + i * f->width + b] = (unsigned char)((f->first + i) >> 8 * b);
    Text path = text_of("%s/%s", scratch, f->name);
    bytes_save(path.chars, bytes, size - f->cut);
    free(bytes);
    return path;
}

static void tokens_child(void *argument) { /* prints what it reads */
    const TokenFile *f = argument;
    Corpus corpus = {0};
    tokens_append(&corpus, text_of("%s/%s", scratch, f->name).chars, f->vocab);
    printf("%zu", corpus.count);
    for (size_t i = 0; i < corpus.count; i++) printf(" %u", (unsigned)corpus.tokens[i]);
    free(corpus.tokens);
}

static void test_token_files(void) {
    enum { GPT2 = 20240520, LLAMA3 = 20240801 }; /* llm.c's magic numbers */
    static const struct { TokenFile file; const char *expected, *words;
    } cases[] = {
        {{"raw.bin", 0, 254, 4, 2, 50257, 0}, "4 254 255 256 257", NULL},
        {{"all.bin", 0, 65533, 3, 2, 65536, 0}, "3 65533 65534 65535", NULL},
        {{"wide.bin", 0, 65534, 3, 4, 65537, 0}, "3 65534 65535 65536", NULL},
        {{"empty.bin", 0, 0, 0, 2, 50257, 0}, "0", NULL},
        {{"beyond.bin", 0, 50255, 3, 2, 50257, 0}, NULL, "token 2 is 50257: the vocabulary"},
        {{"wide2.bin", 0, 65536, 2, 4, 65537, 0}, NULL, "token 1 is 65537"},
        {{"odd.bin", 0, 0, 3, 2, 50257, 1}, NULL, "5 bytes of ids: not a multiple of 2"},
        {{"odd4.bin", 0, 0, 3, 4, 65537, 2}, NULL, "10 bytes of ids: not a multiple of 4"},
        {{"gpt2.bin", GPT2, 5, 3, 2, 50257, 0}, NULL, "dev/data/convert.py"},
        {{"llama3.bin", LLAMA3, 5, 3, 4, 128256, 0}, NULL, "dev/data/convert.py"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        TokenFile file = cases[i].file;
        Text name = text_of("a file of tokens: %s", file.name);
        tokens_save(&file);
        Ending ending = child_run(tokens_child, &file);
        const char *expected = cases[i].expected;
        if (expected)
            check(ending.status == 0 && ending.err.size == 0 &&
                      !strcmp((char *)ending.out.data, expected),
                  "%-38s %.60s", name.chars, (char *)ending.out.data);
        else check_error(name.chars, &ending, 1, cases[i].words);
        ending_free(&ending);
    }

    /* Several files are joined in the order in which they are named. */
    static const TokenFile files[] = {{"b.bin", 0, 30, 20, 2, 500, 0},
                                      {"a.bin", 0, 0, 30, 2, 500, 0}};
    Corpus corpus = {0};
    for (size_t i = 0; i < 2; i++) tokens_append(&corpus, tokens_save(&files[i]).chars, 500);
    bool joined = corpus.count == 50;
    for (size_t i = 0; joined && i < 50; i++) joined = corpus.tokens[i] == (i + 30) % 50;
    check(joined, "files of tokens: two are joined, %zu tokens", corpus.count);
    free(corpus.tokens);

    static const struct { const char *path; bool tokens;
    } names[] = {{"train.bin", true}, {"a/b/val.bin", true},  {".bin", true},   {"bin", false},
                 {"x.bin/y", false},  {"data.bin.txt", false}, {"a.BIN", false}, {"", false}};
    size_t right = 0, all = sizeof names / sizeof *names;
    for (size_t i = 0; i < all; i++) right += tokens_named(names[i].path) == names[i].tokens;
    check(right == all, "files of tokens are recognized by names in .bin: %zu of %zu", right,
          all);
}

int main(void) {
    program_name = "train";
    test_random_bits();
    test_random_reals();
    test_random_permutation();
    test_splits();
    test_epochs(101, 10, 3);   /* nothing left over */
    test_epochs(110, 10, 4);   /* as much left over as can be */
    test_epochs(1000, 7, 12);  /* an epoch that is no whole number of batches */
    test_epochs(50, 7, 64);    /* a batch of many epochs */
    test_epochs(8, 7, 2);      /* one window */
    test_epochs(9, 1, 3);      /* a context of one token */
    test_epochs(2, 1, 1);
    test_windows();
    test_ranks(ORDER_EPOCHS);
    test_ranks(ORDER_WINDOWS);
    test_rows();
    test_rows_batches();
    test_rows_ranks();
    test_rows_refused();
    scratch = scratch_create("test_text");
    test_text_files();
    test_token_files();
    return check_summary();
}

/* test_training.c - whole trainings, small ones: does the loss fall, is the result the same
 * however the work is divided, and does a run end as it should, well or badly?
 *
 *     cc -std=gnu11 -O3 tests/test_training.c -o build/test_training -lm && build/test_training
 *
 * It runs the program $TRAIN (build/train unless told otherwise) and reads the log.csv that it
 * leaves; what no log shows is looked at in this process.
 */
#define TRAIN_NO_MAIN
#include "../train.c"
#include "check.c"
#include "child.c"

static const char *folder; /* of this program's files */

/* --- log.csv --- */

enum { STEP, EPOCH, TOKENS, LOSS, VAL_LOSS, VAL_BITS, LR, NORM, SPEED, SECONDS, VAL_ACCURACY,
       TRAIN_ACCURACY, COLUMNS };
static const char LOG_HEADER[] =
    "step,epoch,tokens,loss,val_loss,val_bits_per_byte,lr,norm,tokens_per_second,seconds,"
    "val_accuracy,train_accuracy";

typedef struct {
    Bytes text;                /* commas and line feeds are NULs now */
    size_t rows;               /* without the header */
    char *(*field)[COLUMNS];   /* (rows) as it is in the file */
    double (*value)[COLUMNS];  /* (rows) NAN where a field is empty */
    bool good;                 /* header, number of fields, all fields empty or a number */
} Log;

static Log log_read(const char *run) {
    char *path = text_format("%s/%s/log.csv", folder, run);
    Log history = {.good = true};
    if (access(path, F_OK) != 0) { free(path); return (Log){.good = false}; }
    history.text = file_read(path);
    free(path);
    history.good = history.text.size > 0 && history.text.data[history.text.size - 1] == '\n';
    char *line = (char *)history.text.data, *end;
    for (size_t number = 0; (end = strchr(line, '\n')); line = end + 1, number++) {
        *end = 0;
        if (number == 0) {
            history.good = history.good && !strcmp(line, LOG_HEADER);
            continue;
        }
        history.field = memory_resize(history.field, history.rows + 1, sizeof *history.field);
        history.value = memory_resize(history.value, history.rows + 1, sizeof *history.value);
        for (int c = 0; c < COLUMNS; c++) {
            char *comma = strchr(line, ','), *stop;
            history.good = history.good && (c + 1 < COLUMNS) == (comma != NULL);
            if (comma) *comma = 0;
            history.field[history.rows][c] = line;
            history.value[history.rows][c] = *line ? strtod(line, &stop) : NAN;
            history.good = history.good && (!*line || !*stop);
            line = comma ? comma + 1 : line + strlen(line);
        }
        history.rows++;
    }
    return history;
}

static void log_free(Log *log) {
    free(log->text.data);
    free(log->field);
    free(log->value);
}

static double log_last(const Log *log, int column) { /* the last one that is not empty */
    for (size_t r = log->rows; r-- > 0;)
        if (!isnan(log->value[r][column])) return log->value[r][column];
    return NAN;
}

/* Are the columns of losses and norms the same, to the last digit that is printed (9 digits
 * name a float without doubt)?  There must be something to compare. */
static bool logs_equal(const Log *a, const Log *b) {
    static const int columns[] = {STEP, TOKENS, LOSS, VAL_LOSS, VAL_BITS, LR, NORM};
    bool equal = a->good && b->good && a->rows == b->rows && a->rows > 5;
    for (size_t r = 0; equal && r < a->rows; r++)
        for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
            equal = equal && !strcmp(a->field[r][columns[i]], b->field[r][columns[i]]);
    return equal;
}

/* --- Texts and runs --- */

static char *path_of(const char *name) { return text_format("%s/%s", folder, name); }

/* Half of the time the next letter of eight follows, else any: the pattern can be learned, and
 * after it, by heart, what has none. */
static void half_random_text(const char *name, size_t bytes) {
    char *text = memory_allocate(bytes + 1, 1), *path = path_of(name);
    for (size_t i = 0; i < bytes; i++) {
        uint64_t draw = random_bits(99, i);
        text[i] = (char)(i && draw >> 32 & 1 ? 'a' + (text[i - 1] - 'a' + 1) % 8
                                             : 'a' + (int)(draw % 8));
    }
    bytes_save(path, text, bytes);
    free(text);
    free(path);
}

static void alphabet_text(const char *name, size_t times) {
    static const char line[] = "abcdefghijklmnopqrstuvwxyz\n";
    char *text = memory_allocate(times * 27 + 1, 1), *path = path_of(name);
    for (size_t i = 0; i < times; i++) memcpy(text + 27 * i, line, 27);
    bytes_save(path, text, times * 27);
    free(text);
    free(path);
}

#define SMALL "--layers 1 --heads 2 --channels 32 --context 16 --batch 8 --sample 0 --threads 1"

static bool file_exists(const char *run, const char *name) {
    char *path = text_format("%s/%s/%s", folder, run, name);
    bool there = access(path, F_OK) == 0;
    free(path);
    return there;
}

/* The numbers of a model, without the header, which holds the settings too. */
static Bytes model_bytes(const char *run) {
    char *path = text_format("%s/%s/model.safetensors", folder, run);
    Bytes bytes = {NULL, 0};
    if (access(path, F_OK) == 0) {
        bytes = file_read(path);
        size_t header = 8 + (size_t)bytes_number(bytes.data, 8);
        if (header > bytes.size) die("%s: has no header", path);
        memmove(bytes.data, bytes.data + header, bytes.size -= header);
    }
    free(path);
    return bytes;
}

static bool bytes_equal(Bytes a, Bytes b) {
    return a.data && b.data && a.size == b.size && !memcmp(a.data, b.data, a.size);
}

/* Is there a file that was never finished? */
static bool leftovers(const char *run) {
    static const char *const names[] = {"state.safetensors.tmp", "model.safetensors.tmp",
                                        "config.json.tmp", "vocab.json.tmp", "merges.txt.tmp"};
    for (size_t i = 0; i < 5; i++)
        if (file_exists(run, names[i])) return true;
    return false;
}

/* The loss that `eval` prints for a model on the validation part of a text; NAN if there is
 * none. */
static double eval_loss(const char *model, const char *data, const char *shares) {
    Ending ending =
        train_run("eval --model %s/%s --data %s/%s --split validation %s --threads 1", folder,
                  model, folder, data, shares);
    char *at = strstr((char *)ending.out.data, "loss ");
    double loss = ending.status == 0 && at ? strtod(at + 5, NULL) : NAN;
    ending_free(&ending);
    return loss;
}

/* --- Learning --- */

static void test_learning(void) {
    alphabet_text("alphabet.txt", 150);
    Ending ending = train_run("--data %s/alphabet.txt " SMALL
                              " --steps 200 --lr 1e-2 --eval-every 50 --out %s/learned",
                              folder, folder);
    Log history = log_read("learned");
    double ln_v = log_last(&history, LOSS) >= 0 ? log(27.0) : NAN;
    check(ending.status == 0 && history.good && history.rows == 201,
          "a run of 200 steps ends well: exit %d, %zu rows", ending.status, history.rows);
    check(log_last(&history, LOSS) < 0.1 * ln_v,
          "a text that repeats is learned: the loss falls from %.3f to %.3f, below a tenth of "
          "ln V = %.3f",
          history.rows > 1 ? history.value[1][LOSS] : NAN, log_last(&history, LOSS), ln_v);
    check(log_last(&history, VAL_LOSS) < 0.1 * ln_v,
          "and known in a part that was not trained on: validation loss %.3f",
          log_last(&history, VAL_LOSS));
    Ending text = train_run(
        "generate --model %s/learned/best --prompt abc --tokens 54 --temperature 0 --threads 1",
        folder);
    check(text.status == 0 &&
              !strncmp((char *)text.out.data,
                       "abcdefghijklmnopqrstuvwxyz\nabcdefghijklmnopqrstuvwxyz\nabc\n", 58),
          "the model says the alphabet: %.26s...", (char *)text.out.data);
    ending_free(&text);
    ending_free(&ending);
    log_free(&history);
}

/* An untrained model knows nothing, so its loss should be ln V, that of a guess.  It is a
 * little more, for two reasons.  Its logits have the deviation s = 0.02 sqrt(C), and the mean
 * of log(sum exp) is above ln V by s^2/2. And with a tied head the token that was just read,
 * whose embedding is half of the stream, has a logit near a = 0.02 C / sqrt(2), which takes
 * (e^a - 1)/V of the probability from the others; in the alphabet that token never comes next.
 * The targets are 27 different tokens, the mean of whose logits has the deviation s / sqrt(27):
 * five of these either way, and 0.02 for what the two blocks add. */
static void test_untrained(size_t channels, size_t heads, const char *data, size_t vocabulary) {
    Ending ending =
        train_run("--data %s --layers 2 --heads %zu --channels %zu --context 16 --batch 4 "
                  "--steps 1 --sample 0 --threads 1 "
                  "--vocab %s --out %s/untrained%zu",
                  data, heads, channels, vocabulary == 256 ? "256" : "0", folder, channels);
    char *run = text_format("untrained%zu", channels);
    Log history = log_read(run);
    double V = (double)vocabulary, C = (double)channels, s = 0.02 * sqrt(C),
           own = 0.02 * C / sqrt(2.0);
    double expected = log(V) + s * s / 2 + (exp(own) - 1) / V,
           allowed = 5 * s / sqrt(27.0) + 0.02;
    double loss = history.rows ? history.value[0][VAL_LOSS] : NAN;
    check(
        ending.status == 0 && fabs(loss - expected) < allowed,
        "untrained, C %3zu, V %3zu: loss %.4f, ln V %.4f, expected %.4f, at most %.4f from it",
        channels, vocabulary, loss, log(V), expected, allowed);
    ending_free(&ending);
    log_free(&history);
    free(run);
}

/* --- The same run, divided otherwise --- */

#define REPEAT                                                                                 \
    "--data tests/check.c --layers 2 --heads 2 --channels 32 --context 24 --batch 12 "         \
    "--dropout 0.1 --steps 12 --warmup 2 "                                                     \
    "--eval-every 5 --sample 20"

/* |a - b| / |a| of the weights of two models, from model_bytes. */
static double weights_distance(Bytes a, Bytes b) {
    if (!a.size || a.size != b.size) return INFINITY;
    double distance = 0, norm = 0;
    for (size_t i = 0; i + 4 <= a.size; i += 4) {
        float x, y;
        memcpy(&x, a.data + i, 4);
        memcpy(&y, b.data + i, 4);
        distance += ((double)x - y) * ((double)x - y);
        norm += (double)x * x;
    }
    return norm > 0 ? sqrt(distance / norm) : INFINITY;
}

/* The same run on another build: without OpenMP, or on the definitions.  Another build is
 * another program: a compiler may fuse and order the operations of each loop anew, and the
 * definitions sum in another order, so float32 sums differ by some 1e-7 of themselves.  As with
 * micro-batches, a dozen steps of Adam may stretch that a hundredfold, and so the
 * weights. */
static void build_compare(const Log *log, const Bytes *model, const char *name,
                          const char *variable, const char *flags) {
    const char *built = getenv(variable), *cc = getenv("CC"), *before = getenv("TRAIN");
    char *own = path_of(name), *kept = before ? text_format("%s", before) : NULL;
    if (!built || !*built) { /* nobody has compiled it yet */
        char *command =
            text_format("%s -std=gnu11 -O3 -march=native -fno-math-errno -w %s train.c "
                        "-o %s -lm",
                        cc && *cc ? cc : "cc", flags, own);
        if (system(command) != 0) check(false, "the %s build fails: %s", name, command);
        free(command);
        built = own;
    }
    setenv("TRAIN", built, 1);
    Ending ending = train_run(REPEAT " --out %s/run-%s", folder, name);
    char *run = text_format("run-%s", name);
    Log history = log_read(run);
    Bytes weights = model_bytes(run);
    double first = NAN, worst = 0, distance = weights_distance(*model, weights);
    bool good = ending.status == 0 && history.good && history.rows == log->rows;
    for (size_t r = 1; good && r < log->rows; r++) {
        double difference = fabs(history.value[r][LOSS] / log->value[r][LOSS] - 1);
        difference = fmax(difference, fabs(history.value[r][NORM] / log->value[r][NORM] - 1));
        if (r == 1) first = difference;
        worst = fmax(worst, difference);
    }
    check(good && first < 1e-6 && worst < 1e-4 && distance < 1e-4,
          "the %s build: losses and norms of this one, first step %.1e, at most 1e-6, "
          "all %.1e, at most 1e-4; weights %.1e, at most 1e-4",
          name, first, worst, distance);
    if (kept) setenv("TRAIN", kept, 1);
    else unsetenv("TRAIN");
    ending_free(&ending);
    log_free(&history);
    free(weights.data);
    free(run), free(kept), free(own);
}

static void test_repeats(void) {
    static const struct { const char *name, *options;
    } runs[] = {{"first", "--threads 1"},
                {"again", "--threads 1"},
                {"two", "--threads 2"},
                {"seed", "--threads 1 --seed 2"},
                {"three", "--threads 1 --micro-batch 3"},
                {"five", "--threads 1 --micro-batch 5"}};
    Log logs[6];
    Bytes models[6];
    bool threads = false;
    for (size_t i = 0; i < 6; i++) {
        Ending ending =
            train_run(REPEAT " %s --out %s/%s", runs[i].options, folder, runs[i].name);
        logs[i] = log_read(runs[i].name);
        models[i] = model_bytes(runs[i].name);
        if (i == 2) threads = strstr((char *)ending.err.data, "2 threads") != NULL;
        ending_free(&ending);
    }
    check(logs_equal(&logs[0], &logs[1]) && bytes_equal(models[0], models[1]),
          "the same seed gives the same losses, norms and weights, to the last bit");
    if (!threads) check_skip("this build has one thread");
    else
        check(logs_equal(&logs[0], &logs[2]) && bytes_equal(models[0], models[2]),
              "2 threads give the losses, norms and weights of 1, to the last bit");
    check(logs[3].good && logs[3].rows == logs[0].rows && !logs_equal(&logs[0], &logs[3]) &&
              logs[3].value[1][LOSS] != logs[0].value[1][LOSS],
          "another seed gives other losses");
    /* Micro-batches add the same numbers in another order.  A float32 sum of some thousand
     * terms may differ by 1e-6 of itself; a dozen steps of Adam, whose division makes much of
     * little gradients, may stretch that a hundredfold. */
    for (size_t i = 4; i < 6; i++) {
        double worst = 0, first = NAN;
        bool same = logs[i].good && logs[i].rows == logs[0].rows;
        for (size_t r = 1; same && r < logs[0].rows; r++) {
            double difference = fabs(logs[i].value[r][LOSS] / logs[0].value[r][LOSS] - 1);
            difference =
                fmax(difference, fabs(logs[i].value[r][NORM] / logs[0].value[r][NORM] - 1));
            if (r == 1) first = difference;
            worst = fmax(worst, difference);
        }
        check(same && first < 1e-6 && worst < 1e-4,
              "micro-batches of %s: losses and norms of one batch of 12, with dropout: first "
              "step %.1e, at most 1e-6, "
              "all steps %.1e, at most 1e-4",
              runs[i].name, first, worst);
    }

    build_compare(&logs[0], &models[0], "serial", "TRAIN_SERIAL", "");
    build_compare(&logs[0], &models[0], "plain", "TRAIN_PLAIN", "-DPLAIN");
    for (size_t i = 0; i < 6; i++) {
        log_free(&logs[i]);
        free(models[i].data);
    }
}

/* A run in this process, small enough to look into. */
typedef struct {
    Options o;
    Run run;
} Inside;

/* A text of rows with prompts: the sum of two digits, in words of unequal length. */
static Corpus rows_create(Tokenizer **tokenizer, size_t T) {
    static const char *const words[] = {"no", "I", "V", "seven", "ten"};
    Bytes text = {memory_allocate(1000, 1), 0};
    for (int i = 0; i < 25; i++)
        text.size += (size_t)sprintf((char *)text.data + text.size, "%d+%d=%s\n", i / 5, i % 5,
                                     words[(i / 5 + i % 5) % 5]);
    *tokenizer = tokenizer_create(text.data, text.size);
    Corpus corpus = corpus_rows(*tokenizer, &text, "text", "=", T);
    free(text.data);
    return corpus;
}

static Inside *inside_create_of(bool rows, size_t batch, size_t micro_batch, double dropout,
                                const char *out) {
    Inside *in = memory_allocate(1, sizeof *in);
    in->o = (Options){.batch = batch,
                      .micro_batch = micro_batch,
                      .steps = 5,
                      .eval_every = 1,
                      .eval_batches = 0,
                      .log_every = 1,
                      .seed = 4,
                      .beta1 = 0.9,
                      .beta2 = 0.99,
                      .eps = 1e-8,
                      .rows = rows,
                      .out = out};
    Run *run = &in->run;
    const char *text = "One line of text is enough to see what a batch is made of, and where "
                       "its gradient comes from.\n";
    size_t bytes = strlen(text), T = rows ? 12 : 6;
    *run = (Run){.o = &in->o, .settings = "", .progress.best_loss = INFINITY, .peak = 1e9};
    if (rows) run->corpus = rows_create(&run->tokenizer, T);
    else {
        run->tokenizer = tokenizer_create((const unsigned char *)text, bytes);
        run->corpus.bytes = bytes;
        run->corpus.count = tokenizer_encode(run->tokenizer, (const unsigned char *)text, bytes,
                                             "text", &run->corpus.tokens);
    }
    corpus_split(&run->corpus, 0.2, 0, run->splits);
    Config config = {.layers = 2, .heads = 2, .channels = 12, .context = T,
                     .vocab = run->tokenizer->vocab, .bias = true, .dropout = (float)dropout};
    run->gpt = gpt_create(&config, true);
    gpt_initialize(run->gpt, 8);
    run->optimizer = optimizer_create(run->gpt->parameter_count);
    run->activations = activations_create(&config, micro_batch, T, KEEP_ALL, 0);
    run->cache = cache_create(&config, 1);
    run->source =
        (BatchSource){&run->splits[SPLIT_TRAIN], batch, T, ORDER_EPOCHS, in->o.seed, 0, 1};
    run->schedule = (Schedule){SCHEDULE_CONSTANT, 1e-3f, 1e-4f, 0, 5, 0};
    if (out) {
        folder_create(out);
        char *path = text_format("%s/log.csv", out);
        run->log = fopen(path, "w");
        free(path);
    }
    return in;
}

static Inside *inside_create(size_t batch, size_t micro_batch, double dropout,
                             const char *out) {
    return inside_create_of(false, batch, micro_batch, dropout, out);
}

static double inside_gradient(Inside *in, uint64_t step) {
    return batch_gradient(in->run.gpt, in->run.activations, &in->run.source, step);
}

static void inside_destroy(Inside *in) {
    Run *run = &in->run;
    if (run->log) fclose(run->log);
    tokenizer_destroy(run->tokenizer);
    gpt_destroy(run->gpt);
    activations_destroy(run->activations);
    optimizer_destroy(run->optimizer);
    cache_destroy(run->cache);
    free(run->corpus.tokens);
    free(run->corpus.rows);
    free(in);
}

/* The gradient of a batch of 12, however it is cut.  Each element is a float32 sum of some 72
 * terms (12 sequences of 6 tokens) formed in another order: the difference is some roundings of
 * 6e-8. */
static void test_micro_batches(void) {
    for (int with_dropout = 0; with_dropout < 2; with_dropout++) {
        Inside *whole = inside_create(12, 12, with_dropout ? 0.3 : 0, NULL);
        double loss = inside_gradient(whole, 3),
               norm = gradient_norm(whole->run.gpt->gradients, whole->run.gpt->parameter_count);
        static const size_t sizes[] = {1, 3, 5, 7};
        for (size_t i = 0; i < 4; i++) {
            Inside *cut = inside_create(12, sizes[i], with_dropout ? 0.3 : 0, NULL);
            double other = inside_gradient(cut, 3), difference = 0;
            for (size_t j = 0; j < cut->run.gpt->parameter_count; j++) {
                double d = (double)cut->run.gpt->gradients[j] - whole->run.gpt->gradients[j];
                difference += d * d;
            }
            difference = sqrt(difference) / norm;
            check(norm > 0.01 && difference < 1e-6 && fabs(other / loss - 1) < 1e-6,
                  "micro-batches of %zu, dropout %.1f: gradient %.1e and loss %.1e from those "
                  "of 12, at most 1e-6",
                  sizes[i], with_dropout ? 0.3 : 0.0, difference, fabs(other / loss - 1));
            inside_destroy(cut);
        }
        double again = inside_gradient(whole, 3);
        double doubled =
            gradient_norm(whole->run.gpt->gradients, whole->run.gpt->parameter_count);
        check(again == loss && fabs(doubled / (2 * norm) - 1) < 1e-6,
              "dropout %.1f: the same step again has the same loss, and its gradient is added",
              with_dropout ? 0.3 : 0.0);
        double next = inside_gradient(whole, 4);
        check(next != loss, "dropout %.1f: the next step has another loss",
              with_dropout ? 0.3 : 0.0);
        if (with_dropout) { /* the same model on the same batch: only dropout can make a
                               difference */
            Inside *without = inside_create(12, 12, 0, NULL);
            double plain = inside_gradient(without, 3);
            check(fabs(loss / plain - 1) > 1e-4,
                  "dropout: a step's loss is another one than without, %.6f and %.6f", loss,
                  plain);
            inside_destroy(without);
        }
        if (with_dropout) { /* one sequence, the same tokens: only the mask can differ */
            Activations *a = whole->run.activations;
            gpt_forward(whole->run.gpt, a, a->inputs, a->targets, 1, 6, 5, 0);
            float first = a->losses[3];
            gpt_forward(whole->run.gpt, a, a->inputs, a->targets, 1, 6, 5, 1);
            check(first != a->losses[3],
                  "dropout: another position in the batch has another mask");
        }
        inside_destroy(whole);
    }
}

/* Rows ask for 2 to 6 tokens each, and micro-batches for unequal numbers: each target must
 * weigh as much as every other all the same.  The truth is formed by hand: the gradient of the
 * mean over all targets of the batch, read in one piece. */
static void test_rows_gradient(void) {
    Inside *whole = inside_create_of(true, 12, 12, 0, NULL);
    Run *run = &whole->run;
    Activations *a = run->activations;
    size_t T = run->source.T, asked = 0, lengths[3] = {0};
    batch_read(&run->source, 3, 0, 12, a->inputs, a->targets);
    for (size_t i = 0; i < 12 * T; i++) {
        asked += a->targets[i] >= 0;
        lengths[i / (4 * T)] += a->targets[i] >= 0;
    }
    for (size_t i = 0; i < 12 * T; i++) a->dlosses[i] = 1.0f / (float)asked;
    gpt_forward(run->gpt, a, a->inputs, a->targets, 12, T, 0, 0);
    double loss = 0;
    for (size_t i = 0; i < 12 * T; i++) loss += a->losses[i] / (double)asked;
    gpt_backward(run->gpt, a, a->inputs, a->targets, a->dlosses, 12, T);
    double norm = gradient_norm(run->gpt->gradients, run->gpt->parameter_count);
    check(asked < 12 * T / 2 && lengths[0] != lengths[1] && lengths[1] != lengths[2],
          "rows: three micro-batches ask for %zu, %zu and %zu tokens of %zu each", lengths[0],
          lengths[1], lengths[2], 4 * T);
    static const size_t sizes[] = {1, 4, 5, 12};
    for (size_t i = 0; i < 4; i++) {
        Inside *cut = inside_create_of(true, 12, sizes[i], 0, NULL);
        double other = inside_gradient(cut, 3), difference = 0;
        for (size_t j = 0; j < cut->run.gpt->parameter_count; j++) {
            double d = (double)cut->run.gpt->gradients[j] - run->gpt->gradients[j];
            difference += d * d;
        }
        difference = sqrt(difference) / norm;
        check(norm > 0.01 && difference < 1e-6 && fabs(other / loss - 1) < 1e-6,
              "rows, micro-batches of %zu: gradient %.1e and loss %.1e from the mean over all "
              "%zu targets, at most 1e-6", sizes[i], difference, fabs(other / loss - 1), asked);
        inside_destroy(cut);
    }
    inside_destroy(whole);
}

/* What evaluation says of rows, beside its definition: the loss is the mean over all targets of
 * all rows, and a row is right if the model, given its prompt and always taking the likeliest
 * token, generates just its answer. */
static void test_rows_evaluation(void) {
    Inside *in = inside_create_of(true, 20, 7, 0, NULL);
    Run *run = &in->run;
    Activations *a = run->activations;
    const Split *split = &run->splits[SPLIT_TRAIN];
    OptimizerOptions update = {0.9f, 0.99f, 1e-8f, 0, 1};
    size_t T = run->source.T, counts[3], mixed = 0;
    for (int round = 0; round < 3; round++) {
        for (uint64_t step = 0; step < 40 + 20 * (uint64_t)round; step++) {
            gradients_clear(run->gpt);
            inside_gradient(in, step);
            optimizer_step(run->gpt, run->optimizer, &update, 3e-3f);
        }
        double sum = 0, bytes = 0;
        size_t right = 0, targets = 0;
        for (size_t r = 0; r < split->row_count; r++) {
            sequence_read(split, r, T, a->inputs, a->targets);
            gpt_forward(run->gpt, a, a->inputs, a->targets, 1, T, 0, 0);
            for (size_t t = 0; t < T; t++) {
                sum += a->losses[t];
                targets += a->targets[t] >= 0;
                bytes += a->targets[t] >= 0;
            }
            const Row *row = &split->rows[r];
            char *written = NULL;
            size_t size, n = row[1].start - row->answer;
            FILE *stream = open_memstream(&written, &size);
            text_generate(run->gpt, run->cache, run->tokenizer, split->tokens + row->start,
                          row->answer - row->start, n + 1, true, &(Sampling){0, 0, 1}, 1,
                          stream);
            fclose(stream);
            bool same = size == n;
            for (size_t i = 0, length; same && i < n; i++)
                same = written[i] == (char)*tokenizer_token(run->tokenizer,
                                                            split->tokens[row->answer + i],
                                                            &length);
            right += same;
            free(written);
        }
        Evaluation e =
            split_evaluate(run->gpt, run->activations, run->tokenizer, split, 0);
        counts[round] = right;
        mixed += right > 0 && right < split->row_count;
        check(
            e.tokens == targets && e.sequences == split->row_count &&
                fabs(e.loss * (double)targets / sum - 1) < 1e-6 &&
                fabs(e.bits_per_byte * log(2.0) * bytes / sum - 1) < 1e-6,
            "rows, evaluation: loss %.5f and %.5f bits per byte over %zu targets, by hand %.5f",
            e.loss, e.bits_per_byte, e.tokens, sum / (double)targets);
        check(fabs(e.accuracy * (double)split->row_count - (double)right) < 1e-9,
              "rows, evaluation: %.2f%% of %zu rows right, generated one by one: %zu",
              100 * e.accuracy, split->row_count, right);
        Activations *small = activations_create(&run->gpt->config, 2, T, KEEP_NOTHING, 3);
        Evaluation pieces = split_evaluate(run->gpt, small, run->tokenizer, split, 0);
        check(pieces.accuracy == e.accuracy,
              "rows, evaluation: the same in pieces of 3 logits: %.2f%%",
              100 * pieces.accuracy);
        activations_destroy(small);
    }
    check(mixed > 0,
          "rows, evaluation: some rows were right and some were wrong: %zu, %zu, %zu of %zu",
          counts[0], counts[1], counts[2], split->row_count);
    inside_destroy(in);
}

/* Clipping: the first update's mean gradient is (1 - beta1) times the gradient that was used.
 */
static void test_clipping(void) {
    for (int clipped = 0; clipped < 2; clipped++) {
        Inside *in = inside_create(4, 4, 0, NULL);
        GPT *gpt = in->run.gpt;
        inside_gradient(in, 0);
        double norm = gradient_norm(gpt->gradients, gpt->parameter_count),
               limit = clipped ? norm / 3 : norm * 3;
        float *before = memory_allocate(gpt->parameter_count, sizeof *before);
        memcpy(before, gpt->gradients, gpt->parameter_count * sizeof *before);
        OptimizerOptions update = {0.9f, 0.99f, 1e-8f, 0.1f, (float)limit};
        double returned = optimizer_step(gpt, in->run.optimizer, &update, 1e-3f);
        double used = 10 * gradient_norm(in->run.optimizer->m, gpt->parameter_count),
               expected = clipped ? limit : norm, product = 0, left = 0;
        bool same = !memcmp(gpt->gradients, before, gpt->parameter_count * sizeof *before);
        gradients_clear(gpt);
        for (size_t i = 0; i < gpt->parameter_count; i++) {
            product += (double)before[i] * 10 * in->run.optimizer->m[i];
            left += fabs((double)gpt->gradients[i]);
        }
        check(fabs(returned / norm - 1) < 1e-6,
              "clip at %s norm: the norm before clipping is returned, %.5f",
              clipped ? "a third of the" : "three times the", returned);
        check(fabs(used / expected - 1) < 1e-4 && fabs(product / (norm * used) - 1) < 1e-6,
              "clip at %s norm: the update uses a gradient of norm %.5f, expected %.5f, in the "
              "same direction",
              clipped ? "a third of the" : "three times the", used, expected);
        check(same && left == 0, "clip at %s norm: gradients are as they were, then cleared",
              clipped ? "a third of the" : "three times the");
        free(before);
        inside_destroy(in);
    }
    Inside *in = inside_create(4, 4, 0, NULL);
    inside_gradient(in, 0);
    float first = in->run.gpt->weights[7];
    in->run.gpt->gradients[3] = NAN;
    OptimizerOptions update = {0.9f, 0.99f, 1e-8f, 0.1f, 1};
    double norm = optimizer_step(in->run.gpt, in->run.optimizer, &update, 1e-3f);
    check(!isfinite(norm) && in->run.gpt->weights[7] == first && in->run.optimizer->step == 0,
          "a gradient that is not finite updates nothing");
    inside_destroy(in);
}

/* --- How runs end --- */

static void test_early_stopping(void) {
    half_random_text("random.txt", 600);
    Ending ending = train_run(
        "--data %s/random.txt --validation 0.3 " SMALL
        " --steps 3000 --lr 1e-2 --eval-every 20 --eval-batches 0 --patience 6 --out %s/early",
        folder, folder);
    Log history = log_read("early");
    double best = INFINITY;
    size_t best_row = 0, evaluations = 0, since = 0;
    for (size_t r = 0; r < history.rows; r++) {
        double loss = history.value[r][VAL_LOSS];
        if (isnan(loss)) continue;
        evaluations++;
        since++;
        if (loss < best) { best = loss; best_row = r; since = 0; }
    }
    check(ending.status == 0 && strstr((char *)ending.err.data, "stopped early") &&
              history.rows < 2000 && since == 6,
          "early stopping: ends at step %zu, after %zu evaluations without a better one; "
          "patience was 6",
          history.rows ? history.rows - 1 : 0, since);
    double kept = eval_loss("early/best", "random.txt", "--validation 0.3"),
           last = eval_loss("early", "random.txt", "--validation 0.3");
    check(evaluations > 4, "early stopping: it looked %zu times", evaluations);
    check(fabs(kept - best) < 1e-4,
          "early stopping: the best model is kept: loss %.4f, the smallest in the log %.4f",
          kept, best);
    check(fabs(last - log_last(&history, VAL_LOSS)) < 1e-4 && last > best,
          "early stopping: and so is the last one, loss %.4f, which is worse", last);
    check(best_row > 0 && log_last(&history, LOSS) < 0.9 * best,
          "early stopping: the training loss went on falling, to %.3f",
          log_last(&history, LOSS));
    char *says = text_format("best validation loss %.4f at step %.0f", best,
                             history.rows ? history.value[best_row][STEP] : 0);
    check(strstr((char *)ending.out.data, says) != NULL, "early stopping: it says \"%s\"",
          says);
    free(says);
    ending_free(&ending);
    log_free(&history);
}

static void test_init(void) {
    Log learned = log_read("learned"); /* the run of test_learning */
    double best = log_last(&learned, VAL_LOSS);
    for (size_t r = 0; r < learned.rows; r++)
        if (learned.value[r][VAL_LOSS] < best) best = learned.value[r][VAL_LOSS];
    Ending ending = train_run("--data %s/alphabet.txt --init %s/learned/best --batch 8 --steps "
                              "3 --eval-every 1 --lr 1e-4 --sample 0 --threads 1 --out %s/more",
                              folder, folder, folder);
    Log history = log_read("more");
    check(ending.status == 0 && history.good && history.rows == 4 &&
              history.value[0][VAL_LOSS] == best && best < 0.1 * log(27.0),
          "--init goes on from the weights: validation loss %.9g at step 0, %.9g when they "
          "were saved",
          history.rows ? history.value[0][VAL_LOSS] : NAN, best);
    double first = history.rows > 1 ? history.value[1][LOSS] : NAN;
    check(first < 0.2, "--init: and the first step's loss is %.4f", first);
    ending_free(&ending);
    log_free(&history);

    /* Nothing better than the start: then the start is the best model. */
    ending =
        train_run("--data %s/alphabet.txt --init %s/learned/best --batch 8 --steps 4 "
                  "--eval-every 2 --lr 10 --warmup 0 --sample 0 --threads 1 --out %s/worse",
                  folder, folder, folder);
    history = log_read("worse");
    double kept = eval_loss("worse/best", "alphabet.txt", "");
    check(ending.status == 0 && strstr((char *)ending.out.data, "worse/best") &&
              fabs(kept - best) < 1e-4,
          "--init and a rate that spoils it: the best model is the first, loss %.4f",
          kept);
    ending_free(&ending);
    log_free(&history);
    log_free(&learned);
}

/* A shorter context than the model's: the loss before the first step is that of the first rows
 * of wpe; all of it is in the file that is written. */
static void test_shorter(void) {
    Ending ending = train_run("--data %s/alphabet.txt --init %s/learned/best --context 5 "
                              "--batch 8 --steps 2 --sample 0 --threads 1 --out %s/shorter",
                              folder, folder, folder);
    char *path = path_of("shorter");
    GPT *gpt = ending.status == 0 ? model_read(path, 0, false) : NULL;
    Log history = log_read("shorter");
    check(gpt && gpt->config.context == 5 && history.value[0][VAL_LOSS] < 1,
          "--init with a smaller --context: exit %d, validation loss %.3f before step 1",
          ending.status, history.rows ? history.value[0][VAL_LOSS] : NAN);
    ending_free(&ending);
    ending = train_run("--data %s/alphabet.txt --init %s/learned/best --context 17 --batch 8 "
                       "--steps 2 --threads 1 --out %s/longer", folder, folder, folder);
    check(ending_refused(&ending, 1, "--context 17") && !file_exists("longer", ""),
          "--init with a larger --context: exit %d: %.100s", ending.status, last_line(&ending));
    ending_free(&ending);
    log_free(&history);
    if (gpt) gpt_destroy(gpt);
    free(path);
}

/* The ids of a text in a file are the same to a run as the text. */
static void test_tokens(void) {
    char *path = path_of("learned/best"), *text_path = path_of("alphabet.txt");
    Tokenizer *tokenizer = tokenizer_load(path);
    Bytes text = file_read(text_path);
    uint32_t *ids;
    size_t count = tokenizer_encode(tokenizer, text.data, text.size, "text", &ids);
    unsigned char *raw = memory_allocate(2 * count, 1);
    for (size_t i = 0; i < count; i++) raw[2 * i] = (unsigned char)ids[i];
    char *raw_path = path_of("alphabet.bin");
    bytes_save(raw_path, raw, 2 * count);
    for (int i = 0; i < 2; i++) {
        Ending ending = train_run("--data %s/alphabet.%s --tokenizer %s --out %s/from_%s " SMALL
                                  " --steps 5 --eval-every 5", folder, i ? "bin" : "txt", path,
                                  folder, i ? "bin" : "txt");
        check(ending.status == 0, "a run on a %s: exit %d: %.60s",
              i ? "file of tokens" : "text", ending.status, (char *)ending.out.data);
        ending_free(&ending);
    }
    Bytes a = model_bytes("from_txt"), b = model_bytes("from_bin");
    check(bytes_equal(a, b), "its model is the same to the last bit as that of the text");
    double by_text = eval_loss("from_txt", "alphabet.txt", "--validation 0.9 --test 0");
    double by_ids = eval_loss("from_txt", "alphabet.bin", "--validation 0.9 --test 0");
    check(by_text == by_ids, "eval on its ids: loss %.4f; on the text: %.4f", by_ids, by_text);
    free(a.data);
    free(b.data);
    free(raw);
    free(ids);
    free(text.data);
    free(path);
    free(text_path);
    free(raw_path);
    tokenizer_destroy(tokenizer);
}

/* A model that is good, with one change; then what training on from it does. */
static void poison(const char *run, size_t weight, float value) {
    char *from = path_of("learned/best"), *to = path_of(run);
    GPT *gpt = model_read(from, 0, false);
    Tokenizer *tokenizer = tokenizer_load(from);
    gpt->weights[weight] = value;
    model_write(gpt, tokenizer, "", to);
    gpt_destroy(gpt);
    tokenizer_destroy(tokenizer);
    free(from);
    free(to);
}

static void test_bad_endings(void) {
    poison("good", 0, 0.01f);
    Bytes good = model_bytes("good");
    static const struct { const char *name, *options;
    } bad[] = {{"a rate of 1e9", "--lr 1e9 --warmup 0"},
               {"a rate of 1e9, no decay", "--lr 1e9 --warmup 0 --weight-decay 0"},
               {"a rate of 1e9, no clipping", "--lr 1e9 --warmup 0 --clip 0"},
               {"a rate of 1e9, no validation", "--lr 1e9 --warmup 0 --validation 0"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Ending ending =
            train_run("--data %s/alphabet.txt --init %s/good --out %s/good --overwrite --batch "
                      "4 --steps 2000 --eval-every 1000 --sample 0 --threads 1 %s",
                      folder, folder, folder, bad[i].options);
        Bytes after = model_bytes("good");
        bool error = ending_refused(&ending, 1, "step ");
        check(error, "%-30s exit %d: %.120s", bad[i].name, ending.status, last_line(&ending));
        check(bytes_equal(good, after) && !leftovers("good"),
              "%-30s the last good model is still there", bad[i].name);
        ending_free(&ending);
        free(after.data);
    }
    /* Evaluations in between must not save what cannot be read again. */
    for (int validation = 0; validation < 2; validation++) {
        Ending ending =
            train_run("--data %s/alphabet.txt --init %s/learned/best --out %s/often%d --batch "
                      "4 --steps 2000 --eval-every 1 --sample 0 --threads 1 "
                      "--lr 1e9 --warmup 0 --validation %s",
                      folder, folder, folder, validation, validation ? "0.05" : "0");
        check(ending_refused(&ending, 1, "step "),
              "a rate of 1e9, %s each step: exit %d: %.100s",
              validation ? "evaluated" : "saved", ending.status, last_line(&ending));
        char *run = text_format("often%d", validation);
        if (file_exists(run, "model.safetensors")) {
            Ending info = train_run("info --model %s/%s --threads 1", folder, run);
            check(info.status == 0, "a rate of 1e9, %s each step: what was saved can be read",
                  validation ? "evaluated" : "saved");
            ending_free(&info);
        }
        check(!leftovers(run), "a rate of 1e9, %s each step: no unfinished file is left",
              validation ? "evaluated" : "saved");
        free(run);
        ending_free(&ending);
    }
    poison("poisoned", 40, 3e38f); /* in the embedding: finite, but not for long */
    for (int validation = 0; validation < 2; validation++) {
        Bytes before = model_bytes("poisoned");
        Ending ending =
            train_run("--data %s/alphabet.txt --init %s/poisoned --out %s/poisoned --overwrite "
                      "--batch 4 --steps 50 --eval-every 1 --sample 0 --threads 1 "
                      "--validation %s",
                      folder, folder, folder, validation ? "0.05" : "0");
        Bytes after = model_bytes("poisoned");
        check(ending_refused(&ending, 1, "step "),
              "a poisoned weight, %s validation: exit %d: %.100s",
              validation ? "with" : "without", ending.status, last_line(&ending));
        check(bytes_equal(before, after),
              "a poisoned weight, %s validation: the model in --out is as it was",
              validation ? "with" : "without");
        ending_free(&ending);
        free(before.data);
        free(after.data);
    }
    poison("nan", 40, NAN);
    Ending ending = train_run(
        "--data %s/alphabet.txt --init %s/nan --out %s/fresh --batch 4 --steps 5 --threads 1",
        folder, folder, folder);
    check(ending_refused(&ending, 1, "not finite"), "a weight that is NaN: exit %d: %.100s",
          ending.status, last_line(&ending));
    check(!file_exists("fresh", ""), "a weight that is NaN: nothing is created");
    ending_free(&ending);
    free(good.data);
}

/* Ctrl-C before the first step is through: what is said must be true. */
static void run_interrupted(void *argument) {
    Inside *in = inside_create(4, 4, 0, argument);
    interrupted = 1;
    run_train(&in->run);
    inside_destroy(in);
}

/* The same over an older run, before the first evaluation: of the older best model nothing may
 * be left, since it is not the best of this run; there need not have been one. */
static bool older_has_best;
static void run_replaced(void *argument) {
    Inside *in = inside_create(4, 4, 0, argument);
    if (older_has_best)
        model_write(in->run.gpt, in->run.tokenizer, "",
                    text_of("%s/best", (char *)argument).chars);
    in->o.eval_every = 100;
    interrupted = 1;
    run_train(&in->run);
    inside_destroy(in);
}

static void test_replaced(void) {
    char *out = path_of("replaced-first");
    Ending ending = child_run(run_replaced, out);
    check(ending.status == 0 && file_exists("replaced-first", "model.safetensors") &&
              file_exists("replaced-first", "vocab.json"),
          "an older run without a best model is replaced: exit %d %.60s", ending.status,
          (char *)ending.err.data);
    ending_free(&ending);
    free(out);
    older_has_best = true;
    out = path_of("replaced");
    ending = child_run(run_replaced, out);
    check(ending.status == 0 && file_exists("replaced", "model.safetensors") &&
              file_exists("replaced/best", "config.json") &&
              !file_exists("replaced/best", "model.safetensors"),
          "an older run is replaced: its best model is gone before this run has one");
    ending_free(&ending);
    free(out);
}

static void test_interrupted(void) {
    char *out = path_of("interrupted");
    Ending ending = child_run(run_interrupted, out);
    bool says = strstr((char *)ending.err.data, "is saved") ||
                strstr((char *)ending.out.data, "the last model is in");
    check(ending.status == 0 && says && file_exists("interrupted", "model.safetensors"),
          "Ctrl-C before the first step: a model that is said to be saved is there");
    ending_free(&ending);
    free(out);
}

/* --- The log --- */

static void test_log(const char *name, const char *options, int kind, float lr, float min_lr,
                     uint64_t warmup, uint64_t cooldown, bool validation) {
    enum { STEPS = 23, EVERY = 5, B = 3, T = 16 };
    Ending ending = train_run(
        "--data %s/alphabet.txt --layers 1 --heads 1 --channels 8 --context %d --batch %d "
        "--sample 0 --threads 1 --steps %d --eval-every %d %s --out %s/log-%s",
        folder, T, B, STEPS, EVERY, options, folder, name);
    char *run = text_format("log-%s", name);
    Log history = log_read(run);
    check(ending.status == 0 && history.good,
          "log.csv, %-10s: the header, and twelve fields in each line, numbers or empty", name);
    Schedule schedule = {kind, lr, min_lr, warmup, STEPS, cooldown};
    bool steps = history.rows == STEPS + 1, rates = true, filled = true, counts = true,
         clock = true, evaluated = true;
    double before = 0;
    for (size_t r = 0; r < history.rows; r++) {
        const double *v = history.value[r];
        uint64_t step = r;
        steps = steps && v[STEP] == (double)step;
        counts = counts && v[TOKENS] == (double)(step * B * T) &&
                 fabs(v[EPOCH] - (double)(step * B * T) / 3644) < 1e-4;
        if (step > 0) {
            float rate = learning_rate(&schedule, step - 1);
            rates = rates && fabs(v[LR] - (double)rate) <= 1e-7 * (double)rate;
            filled = filled && isfinite(v[LOSS]) && isfinite(v[NORM]) && v[NORM] > 0 &&
                     isfinite(v[SPEED]) && v[LOSS] > 0;
        }
        filled = filled && isnan(v[VAL_ACCURACY]) && isnan(v[TRAIN_ACCURACY]); /* no rows */
        clock = clock && v[SECONDS] >= (step > 1 ? before : 0) && v[SECONDS] < 60;
        before = v[SECONDS];
        bool due = validation && (step % EVERY == 0 || step == STEPS);
        evaluated = evaluated && due == !isnan(v[VAL_LOSS]) && due == !isnan(v[VAL_BITS]);
        /* The alphabet is ASCII, so a token is a byte, and bits are nats over ln 2. */
        if (due) evaluated = evaluated && fabs(v[VAL_BITS] * log(2.0) / v[VAL_LOSS] - 1) < 1e-6;
    }
    check(steps, "log.csv, %-10s: a line for every step, %zu", name, history.rows);
    check(counts, "log.csv, %-10s: tokens and epochs follow from the step", name);
    check(rates, "log.csv, %-10s: the learning rates are those of the schedule", name);
    check(filled, "log.csv, %-10s: every step has its loss, norm and speed", name);
    check(clock, "log.csv, %-10s: seconds run from the start of the run on, without going back",
          name);
    check(evaluated, "log.csv, %-10s: validation is where it is due, and nowhere else",
          name);
    log_free(&history);
    free(run);
    ending_free(&ending);
}

/* A whole run on rows: it learns, logs accuracies where it evaluates, and its answers can be
 * asked for. */
static void test_rows_run(void) {
    char *path = path_of("sums.txt"), *text = NULL;
    size_t size;
    FILE *stream = open_memstream(&text, &size);
    for (int i = 0; i < 400; i++)
        fprintf(stream, "%d%c=%d%c%d\n", i % 10, 'a' + i / 10 % 4, i % 10, 'a' + i / 10 % 4,
                i % 10);
    fclose(stream);
    text_save(path, text);
    free(text);
    Ending ending = train_run(
        "--data %s --rows --answer-after = --layers 1 --heads 2 --channels 16 --context 8 "
        "--batch 32 --steps 200 --eval-every 50 --lr 1e-2 --sample 8 --threads 1 --out %s/rows",
        path, folder);
    Log history = log_read("rows");
    bool good = ending.status == 0 && history.good && history.rows == 201;
    for (size_t r = 0; good && r < history.rows; r++) {
        bool due = r % 50 == 0;
        const double *v = history.value[r];
        good = due == !isnan(v[VAL_ACCURACY]) && due == !isnan(v[TRAIN_ACCURACY]) &&
               v[TOKENS] == 32.0 * 7 * (double)r &&
               fabs(v[EPOCH] - 32.0 * (double)r / 360) < 1e-4;
    }
    check(good, "rows, a run: accuracies where it evaluates, tokens without padding");
    if (good) {
        const double *first = history.value[0], *last = history.value[200];
        check(first[VAL_ACCURACY] < 0.1 && last[VAL_ACCURACY] == 1 &&
                  last[TRAIN_ACCURACY] == 1 && last[VAL_LOSS] < 0.05,
              "rows, a run: from %.1f%% to %.1f%% right, loss %.4f", 100 * first[VAL_ACCURACY],
              100 * last[VAL_ACCURACY], last[VAL_LOSS]);
        check(strstr((char *)ending.err.data, "% of rows right") &&
                  strstr((char *)ending.err.data, "--- sample:\n9d=9"),
              "rows, a run: it says how many are right, and shows answers to a prompt");
    }
    log_free(&history);
    ending_free(&ending);
    char *samples_path = path_of("rows/samples.txt");
    Bytes samples = file_read(samples_path);
    const char *at = (char *)samples.data;
    for (int step = 50; at && step <= 200; step += 50) {
        char *head = text_format("--- step %d\n9d=", step);
        at = strstr(at, head);
        free(head);
    }
    check(at != NULL, "samples.txt: a sample from each of four evaluations, in order");
    free(samples.data);
    free(samples_path);
    char *model = path_of("rows");
    ending = train_run("generate --rows --model %s --prompt 7b= --tokens 1 --temperature 0",
                       model);
    check(ending.status == 0 && !strcmp((char *)ending.out.data, "7b=7b7\n"),
          "rows: asked for 7b=, the model generates 7b7 and ends: %s", (char *)ending.out.data);
    ending_free(&ending);
    ending = train_run("eval --rows --answer-after = --model %s --data %s", model, path);
    check(ending.status == 0 &&
              strstr((char *)ending.out.data, "over 80 tokens; 100.00% of 20 rows right"),
          "rows: eval counts rows and targets: %s", (char *)ending.out.data);
    ending_free(&ending);
    free(model);
    free(path);
}

/* A run without the option parser, as a lab sets it up, and the same from the command line. */
static void run_set_up(void *argument) {
    Text data = text_of("%s/alphabet.txt", folder);
    Options o = DEFAULTS;
    o.data = data.chars, o.out = argument;
    o.layers = 1, o.heads = 2, o.channels = 16, o.context = 8, o.batch = 4;
    o.steps = 12, o.warmup = 1, o.eval_every = 6, o.sample = 5;
    Run run;
    run_open(&run, &o);
    run_train(&run);
    run_destroy(&run);
}

static void test_set_up(void) {
    char *out = path_of("set-up");
    Ending lab = child_run(run_set_up, out);
    Ending line = train_run(
        "--data %s/alphabet.txt --layers 1 --heads 2 --channels 16 --context 8 --batch 4 "
        "--steps 12 --warmup 1 --eval-every 6 --sample 5 --threads 1 --out %s/by-line",
        folder, folder);
    Bytes a = model_bytes("set-up"), b = model_bytes("by-line");
    Log log = log_read("set-up");
    check(lab.status == 0 && line.status == 0 && log.good && log.rows == 13 &&
              a.size > 1000 && bytes_equal(a, b),
          "a run that a lab sets up: the weights of the command line's: exit %d %.80s",
          lab.status, lab.status ? last_line(&lab) : "");
    log_free(&log);
    ending_free(&lab);
    ending_free(&line);
    free(a.data), free(b.data), free(out);
}

int main(void) {
    program_name = "train";
#ifdef _OPENMP
    omp_set_num_threads(1); /* a forked child has none of its parent's other threads */
#endif
    if (access(train_program(), X_OK) != 0)
        die("%s: is not there; build it first, or set TRAIN", train_program());
    folder = scratch_create("test_training");
    test_learning();
    char *alphabet = path_of("alphabet.txt");
    test_untrained(8, 2, alphabet, 256);
    test_untrained(64, 4, alphabet, 256);
    test_untrained(16, 4, alphabet, 27);
    free(alphabet);
    test_repeats();
    test_micro_batches();
    test_rows_gradient();
    test_rows_evaluation();
    test_rows_run();
    test_clipping();
    test_early_stopping();
    test_init();
    test_shorter();
    test_tokens();
    test_bad_endings();
    test_set_up();
    test_interrupted();
    test_replaced();
    test_log("cosine", "--lr 1e-2 --min-lr 1e-3 --warmup 4", SCHEDULE_COSINE, 1e-2f, 1e-3f, 4,
             0, true);
    test_log("linear", "--lr 1e-2 --min-lr 0 --warmup 0 --schedule linear", SCHEDULE_LINEAR,
             1e-2f, 0, 0, 0, true);
    test_log("constant", "--lr 1e-3 --warmup 2 --schedule constant", SCHEDULE_CONSTANT, 1e-3f,
             1e-4f, 2, 0, true);
    test_log("trapezoid", "--lr 1e-3 --warmup 5 --schedule trapezoid --cooldown 7",
             SCHEDULE_TRAPEZOID, 1e-3f, 1e-4f, 5, 7, true);
    test_log("alone", "--lr 1e-3 --warmup 2 --validation 0 --test 0.1", SCHEDULE_COSINE, 1e-3f,
             1e-4f, 2, 0, false);
    return check_summary();
}

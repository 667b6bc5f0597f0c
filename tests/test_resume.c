/* test_resume.c - a run that was stopped and resumed is the run that was not, to the last bit;
 * a run that was killed while it saved loses nothing; a state that does not fit is refused.
 *
 *     cc -std=gnu11 -O3 tests/test_resume.c -o build/test_resume -lm && build/test_resume
 *
 * It runs the program $TRAIN (build/train unless told otherwise).  tests/attack.c kills it at
 * random instants, which takes minutes; here the moments of a save are laid out by hand.
 */
#define TRAIN_NO_MAIN
#include "../train.c"
#include "check.c"
#include "child.c"

static const char *folder; /* of this program's files */

static const char *const FILES[] = {"state.safetensors", "vocab.json", "merges.txt",
                                    "config.json", "model.safetensors"};
enum { FILE_COUNT = 5 };

static void file_copy(const char *from, const char *to) {
    char *a = text_format("%s/%s", folder, from), *b = text_format("%s/%s", folder, to);
    Bytes bytes = file_read(a);
    bytes_save(b, bytes.data, bytes.size);
    free(bytes.data);
    free(a);
    free(b);
}

/* A folder with the five files of another one, and its log. */
static void run_copy(const char *from, const char *to) {
    char *path = text_format("%s/%s/best", folder, to);
    folder_create(path);
    free(path);
    for (int i = 0; i < FILE_COUNT + 1; i++) {
        const char *name = i < FILE_COUNT ? FILES[i] : "log.csv";
        char *a = text_format("%s/%s", from, name), *b = text_format("%s/%s", to, name);
        char *whole = text_format("%s/%s", folder, a);
        if (access(whole, F_OK) == 0) file_copy(a, b);
        free(whole);
        free(a);
        free(b);
    }
}

static bool file_there(const char *name) {
    char *path = text_format("%s/%s", folder, name);
    bool there = access(path, F_OK) == 0;
    free(path);
    return there;
}

/* Do both files exist, with the same bytes? */
static bool files_equal(const char *a, const char *b) {
    char *paths[] = {text_format("%s/%s", folder, a), text_format("%s/%s", folder, b)};
    bool equal = file_there(a) && file_there(b);
    if (equal) {
        Bytes x = file_read(paths[0]), y = file_read(paths[1]);
        equal = x.size == y.size && x.size > 0 && !memcmp(x.data, y.data, x.size);
        free(x.data);
        free(y.data);
    }
    free(paths[0]);
    free(paths[1]);
    return equal;
}

/* Are the logs the same, but for the columns that hold times? */
static bool logs_equal(const char *a, const char *b) {
    Bytes text[2];
    for (int i = 0; i < 2; i++) {
        char *path = text_format("%s/%s/log.csv", folder, i ? b : a);
        text[i] = file_read(path);
        free(path);
        int comma = 0;
        size_t kept = 0;
        for (size_t j = 0; j < text[i].size; j++) {
            char c = (char)text[i].data[j];
            if (c == '\n') comma = 0;
            if (comma < 8) text[i].data[kept++] = (unsigned char)c;
            comma += c == ',';
        }
        text[i].size = kept;
    }
    bool equal = text[0].size == text[1].size && text[0].size > 500 &&
                 !memcmp(text[0].data, text[1].data, text[0].size);
    free(text[0].data);
    free(text[1].data);
    return equal;
}

enum { STEPS = 24 };
#define RUN                                                                                    \
    "--data %s/text.txt --layers 2 --heads 2 --channels 16 --context 8 --batch 6 "             \
    "--micro-batch 4 --dropout 0.1 --sample 0 --eval-every 5 --eval-batches 2 --lr 1e-2 "      \
    "--patience 1000 --steps 24 --warmup 4 "

static void text_make(void) {
    char text[1201], *path = text_format("%s/text.txt", folder);
    for (size_t i = 0; i < 1200; i++) {
        uint64_t draw = random_bits(7, i);
        text[i] = (char)(i && draw >> 32 & 1 ? 'a' + (text[i - 1] - 'a' + 1) % 8
                                             : 'a' + (int)(draw % 8));
    }
    text[1200] = 0;
    text_save(path, text);
    free(path);
}

/* How many threads the program can be told to take: 3, or 1 if it was built without OpenMP. */
static int threads_most(void) {
    Ending ending = train_run("info --threads 3");
    bool refused = ending.status == 2 && strstr((char *)ending.err.data, "without OpenMP");
    ending_free(&ending);
    return refused ? 1 : 3;
}

/* --- Resumed at every step ---------------------------------------------------------------- */

/* --keep leaves the state of every step, and each is resumed.  Best models are not kept with
 * them, so a copy of the best model of that step goes along where the log says which it was. */
static void test_every_step(const char *name, const char *options, int threads) {
    char *whole = text_format("whole-%s", name);
    Ending ending = train_run(RUN "%s --save-every 1 --keep 100 --threads 1 --out %s/%s",
                              folder, options, folder, whole);
    check(ending.status == 0, "%s: the run that is not stopped", name);
    ending_free(&ending);
    size_t same = 0, resumed = 0, logs = 0;
    for (int step = 1; step < STEPS; step++) {
        char *from = text_format("%s/step-%d", whole, step), *to = text_format("r-%s", name);
        char *remove = text_format("%s/%s", folder, to);
        run_copy(from, to);
        char *log_from = text_format("%s/log.csv", whole),
             *log_to = text_format("%s/log.csv", to);
        file_copy(log_from, log_to); /* with rows of steps that this state knows nothing of */
        ending = train_run("--resume %s/%s --threads %d", folder, to, 1 + step % threads);
        resumed += ending.status == 0;
        ending_free(&ending);
        char *a = text_format("%s/model.safetensors", whole),
             *b = text_format("%s/model.safetensors", to);
        same += files_equal(a, b);
        logs += logs_equal(whole, to);
        folder_remove(remove);
        free(a), free(b), free(log_from), free(log_to), free(remove), free(from), free(to);
    }
    check(resumed == STEPS - 1 && same == STEPS - 1,
          "%s: resumed at each of %d steps, on up to %d threads: %zu end, %zu with the same "
          "weights to the last bit",
          name, STEPS - 1, threads, resumed, same);
    check(logs == STEPS - 1, "%s: and %zu with the same log", name, logs);
    free(whole);
}

static void test_finished(void) {
    Ending ending = train_run("--resume %s/whole-plain --threads 1", folder);
    check(ending.status == 0 && strstr((char *)ending.out.data, "24 steps") &&
              files_equal("whole-plain/model.safetensors",
                          "whole-plain/step-24/model.safetensors"),
          "a run that has done all its steps: nothing is left to do, and it says so");
    ending_free(&ending);
}

/* --- Killed while it saved ---------------------------------------------------------------- */

/* The moments of a save, by hand: `old` and `new` are saves of one run, one step apart. */
static void moment_make(const char *old, const char *new, const char *to, int state, int model,
                        bool waiting) {
    run_copy(old, to);
    for (int i = 0; i < FILE_COUNT; i++) {
        bool renamed = i == 0 ? state : model;
        char *from = text_format("%s/%s", new, FILES[i]),
             *name = text_format("%s/%s%s", to, FILES[i], renamed ? "" : ".tmp");
        if (renamed || waiting) file_copy(from, name);
        free(from);
        free(name);
    }
}

static void moment_check(const char *words, const char *moment, bool first) {
    for (int i = 1; first && i < FILE_COUNT; i++) { /* nothing was there before this save */
        char *path = text_format("%s/%s/%s", folder, moment, FILES[i]);
        unlink(path);
        free(path);
    }
    Ending ending = train_run("--resume %s/%s --threads 1", folder, moment);
    char *a = text_format("%s/model.safetensors", moment);
    check(ending.status == 0 && files_equal(a, "whole-plain/model.safetensors") &&
              logs_equal(moment, "whole-plain"),
          "killed %s: resumed, the same weights and log", words);
    ending_free(&ending);
    free(a);
}

static void test_moments(void) {
    static const struct {
        const char *words;
        int state, model;
        bool waiting, first;
    } moments[] = {{"before the first rename", 0, 0, true, false},
                   {"before a byte was written", 0, 0, false, false},
                   {"between the state and the model", 1, 0, true, false},
                   {"between the state and the first model there is", 1, 0, true, true},
                   {"behind the last rename", 1, 1, false, false}};
    for (size_t i = 0; i < sizeof moments / sizeof *moments; i++) {
        char *name = text_format("moment-%zu", i);
        moment_make("whole-plain/step-9", "whole-plain/step-10", name, moments[i].state,
                    moments[i].model, moments[i].waiting);
        char *log = text_format("%s/log.csv", name);
        file_copy("whole-plain/log.csv", log);
        moment_check(moments[i].words, name, moments[i].first);
        free(log);
        free(name);
    }
    /* The best model waits under its temporary name: the state knows it. */
    run_copy("whole-plain/step-10", "moment-best");
    file_copy("whole-plain/log.csv", "moment-best/log.csv");
    for (int i = 1; i < FILE_COUNT; i++) {
        char *old = text_format("whole-plain/step-5/%s", FILES[i]);
        char *new = text_format("whole-plain/step-10/%s", FILES[i]);
        char *there = text_format("moment-best/best/%s", FILES[i]);
        char *waiting = text_format("%s.tmp", there);
        file_copy(old, there);
        file_copy(new, waiting);
        free(old), free(new), free(there), free(waiting);
    }
    char *path = text_format("%s/moment-best", folder);
    SafeTensors *file = state_open(path);
    Progress progress = state_progress(file);
    safetensors_close(file);
    check(progress.best_step == 10 && !file_there("moment-best/best/model.safetensors.tmp") &&
              files_equal("moment-best/best/model.safetensors",
                          "whole-plain/step-10/model.safetensors"),
          "killed before the best model, of step %" PRIu64 ", had its name: it gets it",
          progress.best_step);
    free(path);

    moment_make("whole-plain/step-9", "whole-plain/step-10", "moment-mixed", 1, 0, false);
    Ending ending = train_run("--resume %s/moment-mixed --threads 1", folder);
    check(ending_refused(&ending, 1, "not the model"),
          "a state and the model of another step: %s", last_line(&ending));
    ending_free(&ending);
}

/* --- What is refused ---------------------------------------------------------------------- */

/* Replaces, in a copy of a state, the first `old` by `new`, which is as long. */
static void state_change(const char *to, const char *old, const char *new) {
    run_copy("whole-plain/step-10", to);
    char *path = text_format("%s/%s/state.safetensors", folder, to);
    Bytes bytes = file_read(path);
    size_t length = strlen(old);
    bool done = false;
    assert(length == strlen(new));
    for (size_t i = 0; !done && i + length <= bytes.size; i++)
        if (!memcmp(bytes.data + i, old, length)) {
            memcpy(bytes.data + i, new, length);
            done = true;
        }
    if (!done) die("the state holds no %s", old);
    bytes_save(path, bytes.data, bytes.size);
    free(bytes.data);
    free(path);
}

static void test_states(void) {
    static const struct {
        const char *name, *old, *new;
        int status;
        const char *words;
    } changes[] = {
        {"another version", "\"version\": \"1\"", "\"version\": \"2\"", 1, "version 2"},
        {"no step", "\"step\": \"10\"", "\"stop\": \"10\"", 1, "step"},
        {"a step that is none", "\"step\": \"10\"", "\"step\": \"1x\"", 1, "step"},
        {"a negative step", "\"step\": \"10\"", "\"step\": \"-1\"", 1, "step"},
        {"half a step", "\"step\": \"10\"", "\"step\": \".5\"", 1, "step"},
        {"another corpus", "\"corpus\": \"", "\"corbus\": \"", 1, "corpus"},
        {"no fingerprint of the weights", "\"weights\": \"", "\"wights \": \"", 1, "weights"},
        {"an option that is none of its values", "\"cosine\"", "\"kosine\"", 2, "kosine"},
        {"an option that is no number", "\"--seed\": \"1\"", "\"--seed\": \"x\"", 2, "--seed"},
        {"a tensor of another name", "\"m.transformer.ln_f.bias\"",
         "\"m.transformer.ln_f.bass\"", 1, "ln_f.bias"},
        {"a tensor of another type", "\"F32\", \"shape\": [8, 16]",
         "\"F64\", \"shape\": [4, 16]", 1, "F64"},
    };
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        state_change("changed", changes[i].old, changes[i].new);
        Ending ending = train_run("--resume %s/changed --threads 1", folder);
        check(ending_refused(&ending, changes[i].status, changes[i].words),
              "a state with %-38s exit %d: %.110s", changes[i].name, ending.status,
              last_line(&ending));
        ending_free(&ending);
    }
    /* Moments that cannot be: the last numbers of the file are v of the last tensor. */
    static const float wrong[] = {NAN, INFINITY, -1.0f};
    for (size_t i = 0; i < 3; i++) {
        run_copy("whole-plain/step-10", "changed");
        char *path = text_format("%s/changed/state.safetensors", folder);
        Bytes bytes = file_read(path);
        memcpy(bytes.data + bytes.size - sizeof(float), &wrong[i], sizeof(float));
        bytes_save(path, bytes.data, bytes.size);
        Ending ending = train_run("--resume %s/changed --threads 1", folder);
        check(ending_refused(&ending, 1, "that cannot be one"),
              "a second moment of %g is refused: exit %d", (double)wrong[i], ending.status);
        ending_free(&ending);
        for (size_t cut = 1; cut < 4 && i == 0; cut++) {
            bytes_save(path, bytes.data, bytes.size * cut / 4);
            ending = train_run("--resume %s/changed --threads 1", folder);
            check_error("a state cut short", &ending, 1, "state.safetensors");
            ending_free(&ending);
        }
        free(bytes.data);
        free(path);
    }
}

static void test_refused(void) {
    static const struct {
        const char *options;
        int status;
        const char *words;
    } bad[] = {{"--batch 7", 2, "has 6"},       {"--layers 3", 2, "has 2"},
               {"--context 16", 2, "has 8"},    {"--seed 2", 2, "has 1"},
               {"--dropout 0.2", 2, "has 0.1"}, {"--no-bias", 2, "has none"},
               {"--beta1 0.8", 2, "has 0.9"},   {"--preset baby", 2, "has nano"},
               {"--order windows", 2, "has epochs"}, {"--init x", 2, "--init"},
               {"--overwrite", 2, "--overwrite"}, {"--profile", 2, "--profile"},
               {"--warmup 30", 2, "--warmup"}};
    run_copy("whole-plain/step-10", "refuse");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        Ending ending =
            train_run("--resume %s/refuse %s --threads 1", folder, bad[i].options);
        check_error(bad[i].options, &ending, bad[i].status, bad[i].words);
        ending_free(&ending);
    }
    Ending ending = train_run("--resume %s/refuse --batch 6 --layers 2 --dropout 0.10 --seed 1 "
                              "--steps 12 --threads 1", folder);
    check(ending.status == 0, "the same values again are no change: exit %d", ending.status);
    ending_free(&ending);
    char *other = text_format("%s/other.txt", folder),
         *text = text_format("%s/text.txt", folder);
    Bytes bytes = file_read(text);
    unsigned char a = bytes.data[100];
    bytes.data[100] = bytes.data[101];
    bytes.data[101] = a == bytes.data[101] ? 'a' + (a == 'a') : a;
    bytes_save(other, bytes.data, bytes.size);
    ending = train_run("--resume %s/refuse --data %s --threads 1", folder, other);
    check(ending_refused(&ending, 1, "another text"),
          "a text with two letters exchanged is another text: exit %d", ending.status);
    ending_free(&ending);
    ending = train_run("--resume %s/refuse --data %s --steps 13 --threads 1", folder, text);
    check(ending.status == 0, "the same text by another name is the same: exit %d",
          ending.status);
    ending_free(&ending);
    run_copy("whole-plain/step-10", "exchanged"); /* a and b exchanged: the same size */
    char *vocab = text_format("%s/exchanged/vocab.json", folder);
    text_save(vocab, "{\"b\": 0, \"a\": 1, \"c\": 2, \"d\": 3, \"e\": 4, \"f\": 5, \"g\": 6, "
                     "\"h\": 7}\n");
    ending = train_run("--resume %s/exchanged --threads 1", folder);
    check(ending_refused(&ending, 1, "vocabulary"), "another vocabulary: %s",
          last_line(&ending));
    ending_free(&ending);
    free(vocab);
    ending = train_run("--resume %s/nothing --threads 1", folder);
    check_error("a folder without a run", &ending, 1, "no run");
    ending_free(&ending);
    ending = train_run(RUN "--threads 1 --out %s/whole-plain", folder, folder);
    check_error("a new run where one is", &ending, 1, "--overwrite");
    ending_free(&ending);
    free(bytes.data);
    free(other);
    free(text);
}

/* --- Other ways to go on ------------------------------------------------------------------ */

static void test_changes(void) {
    run_copy("whole-plain/step-10", "longer");
    Ending ending =
        train_run("--resume %s/longer --steps 30 --lr 5e-3 --eval-every 3 --threads 1", folder);
    check(ending.status == 0 && strstr((char *)ending.out.data, "30 steps"),
          "steps, rate and evaluations may change: %.40s", (char *)ending.out.data);
    ending_free(&ending);
    ending = train_run("--resume %s/whole-plain/step-10 --threads 1 --out %s/branch", folder,
                       folder);
    check(ending.status == 0 &&
              files_equal("branch/model.safetensors", "whole-plain/model.safetensors") &&
              !file_there("whole-plain/step-10/log.csv"),
          "--resume a kept step into another folder: the same end, and the kept step "
          "is as it was");
    ending_free(&ending);
    ending = train_run("--resume %s/whole-plain/step-10 --threads 1 --out %s/branch", folder,
                       folder);
    check_error("--resume into a folder that holds a run", &ending, 1, "already holds");
    ending_free(&ending);
    run_copy("whole-plain/step-10", "at-once");
    ending = train_run("--resume %s/at-once --micro-batch 0 --steps 12 --threads 1", folder);
    check(ending.status == 0 && strstr((char *)ending.out.data, "12 steps"),
          "--resume --micro-batch 0, the batch at once: %.40s", (char *)ending.out.data);
    ending_free(&ending);
}

static void test_keep(void) {
    Ending ending =
        train_run(RUN "--save-every 2 --keep 3 --threads 1 --out %s/few", folder, folder);
    size_t there = 0;
    for (int step = 0; step <= STEPS; step++) {
        char *name = text_format("few/step-%d/model.safetensors", step);
        there += file_there(name);
        free(name);
    }
    check(ending.status == 0 && there == 3 && file_there("few/step-24/state.safetensors") &&
              file_there("few/step-22/vocab.json") && file_there("few/step-20/config.json"),
          "--keep 3 leaves the newest three of the saves: %zu", there);
    check(files_equal("few/model.safetensors", "few/step-24/model.safetensors"),
          "--keep: the newest of them is the last model");
    ending_free(&ending);
    ending = train_run(
        RUN "--save-every 5 --keep 1 --overwrite --channels 8 --threads 1 --out %s/few", folder,
        folder);
    there = 0;
    for (int step = 0; step <= STEPS; step++) {
        char *name = text_format("few/step-%d", step);
        there += file_there(name);
        free(name);
    }
    check(ending.status == 0 && there == 1 && file_there("few/step-24/model.safetensors"),
          "--overwrite: of the older run nothing is kept: %zu", there);
    ending_free(&ending);
}

/* An older run is replaced by one that stops before it evaluates: no model of the older one may
 * stand beside the new state. */
static void test_replaced(void) {
    Ending ending = train_run(RUN "--threads 1 --out %s/old", folder, folder);
    ending_free(&ending);
    bool best = file_there("old/best/model.safetensors");
    ending = train_run(RUN "--save-every 1 --threads 1 --steps 2 --warmup 0 --eval-every 1000 "
                       "--validation 0 --channels 8 --overwrite --out %s/old", folder, folder);
    Ending info = train_run("info --model %s/old --threads 1", folder);
    check(best && ending.status == 0 && info.status == 0 &&
              strstr((char *)info.out.data, "(8, 24)"),
          "--overwrite with another shape: the folder holds the new model");
    ending_free(&info);
    ending_free(&ending);
}

static void test_json_quote(void) {
    static const char hard[] = "a \"quoted\\ \n\t\x01 path \xC3\xA9";
    char *quoted = json_quote(hard), out[64];
    Json j = {(unsigned char *)quoted, strlen(quoted), 0, "quoted", true};
    json_string(&j, out, sizeof out);
    check(!strcmp(out, hard), "a text in JSON and back: %zu bytes", strlen(quoted));
    free(quoted);
}

int main(void) {
    program_name = "train";
#ifdef _OPENMP
    omp_set_num_threads(1); /* a forked child has none of its parent's other threads */
#endif
    if (access(train_program(), X_OK) != 0)
        die("%s: is not there; build it first, or set TRAIN", train_program());
    folder = scratch_create("test_resume");
    text_make();
    int threads = threads_most();
    test_every_step("plain", "", threads);
    test_every_step("windows", "--order windows --no-bias --recompute --precision bf16",
                    threads);
    test_every_step("bytes", "--vocab 256 --schedule trapezoid --eval-every 2", threads);
    test_finished();
    test_moments();
    test_states();
    test_refused();
    test_changes();
    test_keep();
    test_replaced();
    test_json_quote();
    return check_summary();
}

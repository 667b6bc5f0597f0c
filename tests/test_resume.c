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

/* Do both models hold the same numbers?  Their headers may differ in settings. */
static bool numbers_equal(const char *a, const char *b) {
    if (!file_there(a) || !file_there(b)) return false;
    SafeTensors *x = safetensors_open(text_of("%s/%s", folder, a).chars);
    SafeTensors *y = safetensors_open(text_of("%s/%s", folder, b).chars);
    size_t bytes = x->size - x->header;
    bool equal = bytes > 1000 && y->size - y->header == bytes &&
                 !memcmp(x->data + x->header, y->data + y->header, bytes);
    safetensors_close(x);
    safetensors_close(y);
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

/* --keep leaves the state of every step, and each is resumed. */
static void test_every_step(const char *name, const char *options, int threads) {
    char *whole = text_format("whole-%s", name);
    Ending ending = train_run(RUN "%s --save-every 1 --keep --threads 1 --out %s/%s",
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
        ending = train_run("--resume %s/%s --save-every 0 --threads %d", folder, to,
                           1 + step % threads); /* fewer saves take less time */
        resumed += ending.status == 0;
        ending_free(&ending);
        char *a = text_format("%s/model.safetensors", whole),
             *b = text_format("%s/model.safetensors", to);
        same += numbers_equal(a, b);
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

/* What eval looks up: each folder of a run has the settings in the model as in the state. */
static void test_settings(void) {
    static const char *const folders[] = {"whole-plain", "whole-plain/best",
                                          "whole-plain/step-10"};
    SafeTensors *state = state_open(text_of("%s/whole-plain", folder).chars);
    for (size_t i = 0; i < 3; i++) {
        char key[128], a[512], b[512];
        size_t same = 0, settings = 0;
        SafeTensors *model =
            safetensors_open(text_of("%s/%s/model.safetensors", folder, folders[i]).chars);
        Json j = json_member(state->json, "__metadata__");
        for (json_enter(&j, '{'); json_key(&j, key, sizeof key);) {
            json_string(&j, a, sizeof a);
            if (strncmp(key, "--", 2)) continue;
            settings++;
            same += metadata_text(model, key, b, sizeof b) && !strcmp(a, b);
        }
        check(settings > 20 && same == settings,
              "%s: %zu settings in the state, %zu of them in the model", folders[i], settings,
              same);
        safetensors_close(model);
    }
    safetensors_close(state);
}

/* --- Killed while it saved ---------------------------------------------------------------- */

/* What a save that was killed may leave beside the state of step 9: files of step 10, under
 * their own names or not, cut short or not at all.  None of it may matter. */
static void test_moments(void) {
    static const struct {
        const char *words, *file, *suffix;
        double share; /* of the file of step 10 that is there */
    } moments[] = {{"before a byte was written", NULL, "", 0},
                   {"while the model was written", "model.safetensors", ".tmp", 0.5},
                   {"when the model had its name, the state not", "model.safetensors", "", 1},
                   {"while the state was written", "state.safetensors", ".tmp", 0.5},
                   {"just before the state's rename", "state.safetensors", ".tmp", 1},
                   {"just after the state's rename", "state.safetensors", "", 1},
                   {"and the model was damaged", "model.safetensors", "", 0.5},
                   {"and config.json was damaged", "config.json", "", 0.5}};
    for (size_t i = 0; i < sizeof moments / sizeof *moments; i++) {
        run_copy("whole-plain/step-9", "moment");
        file_copy("whole-plain/log.csv", "moment/log.csv");
        for (int state = 0; moments[i].file && state <= (moments[i].share == 1); state++) {
            /* the state is written after the model has its name */
            const char *name = state ? "model.safetensors" : moments[i].file;
            Bytes all = file_read(text_of("%s/whole-plain/step-10/%s", folder, name).chars);
            bytes_save(text_of("%s/moment/%s%s", folder, name, state ? "" : moments[i].suffix)
                           .chars, all.data, (size_t)(moments[i].share * (double)all.size));
            free(all.data);
        }
        Ending ending = train_run("--resume %s/moment --threads 1", folder);
        check(ending.status == 0 && logs_equal("moment", "whole-plain") &&
                  files_equal("moment/model.safetensors", "whole-plain/model.safetensors") &&
                  files_equal("moment/state.safetensors", "moment/step-24/state.safetensors"),
              "killed %s: resumed, the same weights and log", moments[i].words);
        ending_free(&ending);
        folder_remove(text_of("%s/moment", folder).chars);
    }
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
        {"another version", "\"version\": \"2\"", "\"version\": \"1\"", 1, "not of version 2"},
        {"no step", "\"step\": \"10\"", "\"stop\": \"10\"", 1, "step"},
        {"a step that is none", "\"step\": \"10\"", "\"step\": \"1x\"", 1, "step"},
        {"a negative step", "\"step\": \"10\"", "\"step\": \"-1\"", 1, "step"},
        {"half a step", "\"step\": \"10\"", "\"step\": \".5\"", 1, "step"},
        {"another corpus", "\"corpus\": \"", "\"corbus\": \"", 1, "corpus"},
        {"fewer layers", "\"--layers\": \"2\"", "\"--layers\": \"1\"", 1, "settings say"},
        {"more layers", "\"--layers\": \"2\"", "\"--layers\": \"3\"", 1, "settings say"},
        {"a thousand times the channels", "\"--channels\": \"16\", \"--context\": \"8\"",
         "\"--channels\":\"16384\",\"--context\":\"8\"", 1, "its settings say"},
        {"a smaller vocabulary", "\"vocab\": \"8\"", "\"vocab\": \"7\"", 1,
         "more tokens than its model"},
        {"a larger vocabulary", "\"vocab\": \"8\"", "\"vocab\": \"9\"", 1,
         "its settings say"},
        {"an endless vocabulary", "\"vocab\": \"8\", \"step\"", "\"vocab\":\"9e9\",\"step\"", 1,
         "its settings say"},
        {"no vocabulary", "\"vocab\": \"8\"", "\"vocal\": \"8\"", 1, "vocab"},
        {"another shape of wte", "[8, 16]", "[9, 16]", 1, "wte.weight"},
        {"an option that is none of its values", "\"cosine\"", "\"kosine\"", 2, "kosine"},
        {"an option that is no number", "\"--seed\": \"1\"", "\"--seed\": \"x\"", 2, "--seed"},
        {"a weight of another name", "\"transformer.ln_f.bias\"",
         "\"transformer.ln_f.bass\"", 1, "ln_f.bias is missing"},
        {"a moment of another name", "\"m.transformer.ln_f.bias\"",
         "\"m.transformer.ln_f.bass\"", 1, "m.transformer.ln_f.bias is missing"},
        {"a moment of another type", "\"m.transformer.wte.weight\": {\"dtype\": \"F32\"",
         "\"m.transformer.wte.weight\": {\"dtype\": \"F64\"", 1, "F64"},
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
    static const float wrong[] = {NAN, INFINITY};
    for (size_t i = 0; i < 2; i++) {
        run_copy("whole-plain/step-10", "changed");
        char *path = text_format("%s/changed/state.safetensors", folder);
        Bytes bytes = file_read(path);
        memcpy(bytes.data + bytes.size - sizeof(float), &wrong[i], sizeof(float));
        bytes_save(path, bytes.data, bytes.size);
        Ending ending = train_run("--resume %s/changed --threads 1", folder);
        check(ending_refused(&ending, 1, "not finite"),
              "a second moment of %g is refused: exit %d", (double)wrong[i], ending.status);
        ending_free(&ending);
        for (size_t cut = 1; cut < 4 && i == 0; cut++) {
            bytes_save(path, bytes.data, bytes.size * cut / 4);
            ending = train_run("--resume %s/changed --threads 1", folder);
            check(ending_refused(&ending, 1, "state.safetensors: does not hold"),
                  "a state cut short to %zu quarters: %s", cut, last_line(&ending));
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
               {"--dropout 0.2", 2, "has 0.1"}, {"--no-bias", 2, "has no,"},
               {"--beta1 0.8", 2, "has 0.9"},   {"--preset baby", 2, "has nano"},
               {"--order windows", 2, "has epochs"}, {"--init x", 2, "--init"},
               {"--overwrite", 2, "--overwrite"},
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
    run_copy("whole-plain/step-10", "exchanged"); /* a and b exchanged, then one token more */
    char *vocab = text_format("%s/exchanged/vocab.json", folder);
    text_save(vocab, "{\"b\": 0, \"a\": 1, \"c\": 2, \"d\": 3, \"e\": 4, \"f\": 5, \"g\": 6, "
                     "\"h\": 7}\n");
    ending = train_run("--resume %s/exchanged --threads 1", folder);
    check(ending_refused(&ending, 1, "another tokenizer"), "another vocabulary: %s",
          last_line(&ending));
    ending_free(&ending);
    text_save(vocab, "{\"a\": 0, \"b\": 1, \"c\": 2, \"d\": 3, \"e\": 4, \"f\": 5, \"g\": 6, "
                     "\"h\": 7, \"i\": 8}\n");
    ending = train_run("--resume %s/exchanged --threads 1", folder);
    check(ending_refused(&ending, 1, "more tokens"), "a larger vocabulary: %s",
          last_line(&ending));
    ending_free(&ending);
    free(vocab);
    ending = train_run("--resume %s/nothing --threads 1", folder);
    check_error("a folder without a run", &ending, 1, "state.safetensors: cannot open");
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
        train_run(RUN "--save-every 2 --keep --threads 1 --out %s/few", folder, folder);
    size_t there = 0, expected = 0;
    for (int step = 0; step <= STEPS; step++) {
        static const int evaluations = 5;
        expected += step > 0 && (step % 2 == 0 || step % evaluations == 0);
        there += file_there(text_of("few/step-%d/model.safetensors", step).chars) &&
                 file_there(text_of("few/step-%d/state.safetensors", step).chars) &&
                 file_there(text_of("few/step-%d/config.json", step).chars) &&
                 file_there(text_of("few/step-%d/vocab.json", step).chars);
    }
    check(ending.status == 0 && there == expected && expected == 14,
          "--keep: each of %zu saves is there as OUT/step-N: %zu", expected, there);
    check(files_equal("few/model.safetensors", "few/step-24/model.safetensors") &&
              files_equal("few/state.safetensors", "few/step-24/state.safetensors"),
          "--keep: the newest of them is the last save");
    ending_free(&ending);
    ending = train_run("--resume %s/few/step-20 --threads 1", folder);
    check(ending.status == 0 && files_equal("few/step-20/model.safetensors",
                                            "few/model.safetensors"),
          "--resume OUT/step-20: it ends as the run did");
    ending_free(&ending);
    ending = train_run(RUN "--save-every 5 --keep --overwrite --channels 8 --threads 1 "
                           "--out %s/few", folder, folder);
    Ending old = train_run("info --model %s/few/step-22 --threads 1", folder);
    Ending new = train_run("info --model %s/few/step-10 --threads 1", folder);
    check(ending.status == 0 && old.status == 0 && new.status == 0 &&
              strstr((char *)old.out.data, "(16, 48)") &&
              strstr((char *)new.out.data, "(8, 24)"),
          "--keep --overwrite: its saves replace those of the same steps, others stay");
    ending_free(&ending);
    ending_free(&old);
    ending_free(&new);
}

/* An older run is replaced.  Until the first save all of it is there and can go on; afterwards
 * none of its models may look like one of the new run. */
static void test_replaced(void) {
    Ending ending = train_run(RUN "--threads 1 --out %s/old", folder, folder);
    ending_free(&ending);
    run_copy("old", "older");
    bool best = file_there("old/best/model.safetensors");
    ending = train_run(RUN "--threads 1 --lr 1e9 --min-lr 1e9 --weight-decay 1000 --clip 0 "
                       "--warmup 0 --steps 20 --eval-every 1000 --validation 0 --channels 8 "
                       "--overwrite --out %s/old", folder, folder);
    size_t same = 0;
    for (int i = 0; i < FILE_COUNT; i++)
        same += files_equal(text_of("old/%s", FILES[i]).chars,
                            text_of("older/%s", FILES[i]).chars);
    check(ending_refused(&ending, 1, "not a finite number") && same == FILE_COUNT &&
              file_there("old/best/model.safetensors"),
          "--overwrite, a failure before the first save: the older run is as it was");
    ending_free(&ending);
    ending = train_run("--resume %s/old --steps 26 --threads 1", folder);
    check(ending.status == 0, "and it can go on: exit %d", ending.status);
    ending_free(&ending);
    ending = train_run(RUN "--save-every 1 --threads 1 --steps 2 --warmup 0 --eval-every 1000 "
                       "--validation 0 --channels 8 --overwrite --out %s/old", folder, folder);
    Ending info = train_run("info --model %s/old --threads 1", folder);
    check(best && ending.status == 0 && info.status == 0 &&
              strstr((char *)info.out.data, "(8, 24)"),
          "--overwrite with another shape: the folder holds the new model");
    ending_free(&info);
    info = train_run("info --model %s/old/best --threads 1", folder);
    check(info.status == 1 || strstr((char *)info.out.data, "(8, 24)"),
          "--overwrite: the best model of the older run is not there");
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
    test_settings();
    test_moments();
    test_states();
    test_refused();
    test_changes();
    test_keep();
    test_replaced();
    test_json_quote();
    return check_summary();
}

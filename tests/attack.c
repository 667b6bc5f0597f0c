/* attack.c - a run is killed and its disk fails, hundreds of times: nothing saved is lost, and
 * the run that is resumed ends as the one that was left alone, to the last bit.
 *
 *     make attack                all of it, some ten minutes
 *     build/attack KILLS STRIDE  so many random kills; every STRIDE-th write that can fail
 *
 * It runs the program $TRAIN (build/train unless told otherwise), with build/fault_shim.so for
 * the faults.  Five parts: kill -9 at random instants; the order in which files and folders
 * reach the disk; an error or a kill at each call that changes files, in turn, of a new run and
 * of one that replaces another; memory over ten thousand steps.
 */
#define TRAIN_NO_MAIN
#include "../train.c"
#include "check.c"
#include "child.c"

static const char *folder;

static char *path_of(const char *name) { return text_format("%s/%s", folder, name); }

static bool file_there(const char *run, const char *name) {
    char *path = text_format("%s/%s/%s", folder, run, name);
    bool there = access(path, F_OK) == 0;
    free(path);
    return there;
}

static bool files_equal(const char *a, const char *b, const char *name) {
    bool equal = file_there(a, name) && file_there(b, name);
    char *paths[] = {text_format("%s/%s/%s", folder, a, name),
                     text_format("%s/%s/%s", folder, b, name)};
    if (equal) {
        Bytes x = file_read(paths[0]), y = file_read(paths[1]);
        equal = x.size == y.size && !memcmp(x.data, y.data, x.size);
        free(x.data);
        free(y.data);
    }
    free(paths[0]);
    free(paths[1]);
    return equal;
}

/* Losses, norms and rates of a log without the times: the first eight fields of each row. */
static Bytes log_read(const char *run) {
    char *path = text_format("%s/%s/log.csv", folder, run);
    Bytes text = file_read(path);
    size_t kept = 0;
    int commas = 0;
    for (size_t i = 0; i < text.size; i++) {
        if (text.data[i] == '\n') commas = 0;
        if (commas < 8) text.data[kept++] = text.data[i];
        commas += text.data[i] == ',';
    }
    text.size = kept;
    free(path);
    return text;
}

/* Weights and moments; the headers differ in the seconds that a run took. */
static bool states_equal(const char *a, const char *b) {
    if (!file_there(a, "state.safetensors") || !file_there(b, "state.safetensors"))
        return false;
    SafeTensors *x = state_open(text_of("%s/%s", folder, a).chars);
    SafeTensors *y = state_open(text_of("%s/%s", folder, b).chars);
    size_t bytes = x->size - x->header;
    bool equal = y->size - y->header == bytes &&
                 !memcmp(x->data + x->header, y->data + y->header, bytes);
    safetensors_close(x);
    safetensors_close(y);
    return equal;
}

static bool runs_equal(const char *a, const char *b) {
    if (!file_there(a, "log.csv") || !file_there(b, "log.csv")) return false;
    Bytes x = log_read(a), y = log_read(b);
    bool equal = x.size == y.size && !memcmp(x.data, y.data, x.size);
    free(x.data);
    free(y.data);
    return equal && states_equal(a, b) && files_equal(a, b, "model.safetensors") &&
           files_equal(a, b, "best/model.safetensors") && files_equal(a, b, "vocab.json");
}

#define RUN                                                                              \
    "--layers 1 --heads 2 --channels 16 --context 8 --batch 4 --dropout 0.1 --sample 0 " \
    "--warmup 2 --lr 1e-2 --eval-batches 2 --threads 1"

#define SHORT "--steps 6 --save-every 2 --eval-every 3 --keep"
#define OTHER "--channels 8 --steps 4 --save-every 2 --eval-every 3" /* the last one counts */

static void text_make(void) {
    char text[1001], *path = path_of("text.txt");
    for (size_t i = 0; i < 1000; i++) text[i] = (char)('a' + random_bits(3, i) % 4);
    text[1000] = 0;
    text_save(path, text);
    free(path);
}

/* Starts the program; its output goes nowhere but to `err`, if that is not NULL. */
static pid_t start(char *line, FILE *err) {
    const char *arguments[64] = {train_program()};
    size_t count = 1;
    for (char *word = strtok(line, " "); word && count + 1 < 64; word = strtok(NULL, " "))
        arguments[count++] = word;
    FILE *out = scratch_file(), *other = err ? err : scratch_file();
    pid_t child = child_fork(out, other);
    if (child == 0) {
        execv(arguments[0], (char *const *)(uintptr_t)arguments);
        _exit(127);
    }
    fclose(out);
    if (!err) fclose(other);
    return child;
}

static int status_of(pid_t child) {
    int status = 0;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) die("cannot wait for a child: %s", strerror(errno));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* A new run, or the one that is there resumed.  A run that stopped within its first save may
 * leave a model and no state: then it starts again, with the user's leave to replace it. */
static char *command_of(const char *run, const char *options) {
    return file_there(run, "state.safetensors")
               ? text_format("--resume %s/%s --threads 1", folder, run)
               : text_format("--data %s/text.txt " RUN " %s --out %s/%s%s", folder, options,
                             folder, run,
                             file_there(run, "model.safetensors") ? " --overwrite" : "");
}

/* Does a model that is there open? */
static bool opens(const char *run, const char *below) {
    char *name = text_format("%s/model.safetensors", below);
    bool there = file_there(run, name);
    free(name);
    if (!there) return true;
    Ending ending = train_run("info --model %s/%s/%s --threads 1", folder, run, below);
    bool good = ending.status == 0;
    ending_free(&ending);
    return good;
}

/* --- kill -9 ----------------------------------------------------------------------------- */

static void nap(double seconds) {
    struct timespec time = {0, (long)(1e9 * seconds)};
    nanosleep(&time, NULL);
}

/* Waits until something is being written that has not its name yet, `saves` times, or until
 * the program ends. */
static void writing_await(pid_t child, const char *run, size_t saves) {
    static const char *const names[] = {"state.safetensors.tmp", "model.safetensors.tmp",
                                        "best/model.safetensors.tmp"};
    bool before = true;
    for (double until = clock_seconds() + 5; clock_seconds() < until;) {
        bool now = false;
        for (int i = 0; i < 3; i++) now = now || file_there(run, names[i]);
        if (now && !before && saves-- == 0) return;
        before = now;
        siginfo_t ended = {0};
        waitid(P_PID, (id_t)child, &ended, WEXITED | WNOHANG | WNOWAIT);
        if (ended.si_pid == child) return;
    }
}

/* One run, killed again and again until it is through; then it must be the undisturbed one.
 * Returns the number of kills. */
static size_t run_killed(uint64_t key, const char *options, double whole, size_t *aimed,
                         size_t *closed) {
    size_t kills = 0;
    char *path = path_of("killed");
    folder_remove(path);
    for (uint64_t life = 0; life < 60; life++) {
        char *line = command_of("killed", options);
        bool aim = (key + life) & 1;
        bool alone = life == 59; /* it may end */
        pid_t child = start(line, NULL);
        if (!alone && aim) {
            writing_await(child, "killed", random_bits(key, life) >> 8 & 7);
            nap(4e-3 * (double)random_uniform(key + 1, life));
        } else if (!alone) nap(whole * (double)random_uniform(key + 2, life));
        if (!alone) kill(child, SIGKILL);
        int status = status_of(child);
        free(line);
        if (status == 0) break;
        if (status != 128 + SIGKILL) {
            check(false, "life %" PRIu64 " of run %" PRIu64 " ended with %d", life, key,
                  status);
            break;
        }
        kills++;
        *aimed += aim;
        *closed += !opens("killed", ".") || !opens("killed", "best");
    }
    free(path);
    return kills;
}

static void test_kills(size_t wanted) {
    const char *options = "--steps 30 --save-every 1 --eval-every 4";
    char *line = command_of("whole", options);
    double begun = clock_seconds();
    int status = status_of(start(line, NULL));
    double whole = clock_seconds() - begun;
    free(line);
    check(status == 0, "the undisturbed run, %.2f s", whole);
    size_t kills = 0, aimed = 0, closed = 0, runs = 0, same = 0;
    for (; kills < wanted && runs < 20 * wanted; runs++) {
        kills += run_killed(1000 + runs, options, whole, &aimed, &closed);
        same += runs_equal("whole", "killed");
    }
    check(kills >= wanted && (aimed * 4 >= kills || wanted < 20),
          "kill -9, %zu times, %zu of them at a save, over %zu runs", kills, aimed, runs);
    check(closed == 0, "kill -9: a folder whose model does not open: %zu", closed);
    check(same == runs,
          "kill -9: %zu of %zu runs end with the weights, the best model and the log of the "
          "undisturbed one",
          same, runs);
}

/* --- Errors and kills at each call ------------------------------------------------------- */

static void test_faults(const char *call, const char *mode, size_t stride) {
    const char *options = SHORT;
    char *mark = path_of("mark"), *number, *run = path_of("faulty");
    size_t injected = 0, silent = 0, unclear = 0, lost = 0, closed = 0, refused = 0;
    setenv("FAULT_CALL", call, 1);
    setenv("FAULT_MODE", mode, 1);
    setenv("FAULT_MARK", mark, 1);
    for (size_t i = 1; i < 100000; i += stride) {
        folder_remove(run);
        unlink(mark);
        number = text_format("%zu", i);
        setenv("FAULT_NUMBER", number, 1);
        setenv("LD_PRELOAD", "build/fault_shim.so", 1);
        char *line = command_of("faulty", options);
        FILE *err = scratch_file();
        int status = status_of(start(line, err));
        unsetenv("LD_PRELOAD");
        free(line);
        free(number);
        rewind(err);
        Bytes said = stream_read(err, "stderr");
        fclose(err);
        if (access(mark, F_OK) != 0) {
            free(said.data);
            break;
        }
        injected++;
        Ending ending = {status, {NULL, 0}, said};
        if (status == 0) silent++; /* then it must not have mattered */
        else if (strcmp(mode, "kill") && !ending_refused(&ending, 1, "")) unclear++;
        closed += !opens("faulty", ".") || !opens("faulty", "best");
        if (status != 0) {
            line = command_of("faulty", options);
            if (status_of(start(line, NULL)) != 0) refused++;
            free(line);
        }
        bool ended = runs_equal("short", "faulty");
        lost += !ended;
        if (!ended)
            printf("      %s at %s number %zu: exit %d: %s\n", mode, call, i, status,
                   last_line(&ending));
        free(said.data);
    }
    unsetenv("FAULT_CALL");
    check(injected > 0, "%s at %s: %zu of them, %zu without consequence", mode, call, injected,
          silent);
    check(unclear == 0, "%s at %s: without one clear line and status 1: %zu", mode, call,
          unclear);
    check(closed == 0 && refused == 0,
          "%s at %s: folders that do not open: %zu; runs that cannot go on: %zu", mode, call,
          closed, refused);
    check(lost == 0, "%s at %s: runs that end in another way than the undisturbed one: %zu",
          mode, call, lost);
    free(mark);
    free(run);
}

/* --- One run replaces another ------------------------------------------------------------ */

/* The short run is replaced by one of another shape, which is killed or fails at each call in
 * turn.  A model that is there must open: none may have the config.json of the other run.  The
 * state is that of either run, and goes on as that one. */
static void test_replaced(const char *call, const char *mode) {
    static const char *const files[] = {
        "state.safetensors",      "model.safetensors", "config.json",     "vocab.json",
        "merges.txt",             "log.csv",           "best/vocab.json", "best/merges.txt",
        "best/model.safetensors", "best/config.json"};
    char *mark = path_of("mark");
    size_t injected = 0, closed = 0, lost = 0;
    for (int i = 1; i < 1000; i++) {
        folder_remove(text_of("%s/replaced", folder).chars);
        folder_create(text_of("%s/replaced/best", folder).chars);
        for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
            Bytes bytes = file_read(text_of("%s/short/%s", folder, files[f]).chars);
            bytes_save(text_of("%s/replaced/%s", folder, files[f]).chars, bytes.data,
                       bytes.size);
            free(bytes.data);
        }
        unlink(mark);
        setenv("FAULT_CALL", call, 1);
        setenv("FAULT_MODE", mode, 1);
        setenv("FAULT_MARK", mark, 1);
        setenv("FAULT_NUMBER", text_of("%d", i).chars, 1);
        setenv("LD_PRELOAD", "build/fault_shim.so", 1);
        char *line = text_format("--data %s/text.txt " RUN " " OTHER " --overwrite --out "
                                 "%s/replaced", folder, folder);
        status_of(start(line, NULL));
        free(line);
        unsetenv("LD_PRELOAD");
        unsetenv("FAULT_CALL");
        if (access(mark, F_OK) != 0) break;
        injected++;
        closed += !opens("replaced", ".") || !opens("replaced", "best");
        line = text_format("--resume %s/replaced --threads 1", folder);
        lost += status_of(start(line, NULL)) != 0 ||
                !(states_equal("replaced", "short") || states_equal("replaced", "other"));
        free(line);
        closed += !opens("replaced", ".") || !opens("replaced", "best");
    }
    check(injected > 0 && closed == 0 && lost == 0,
          "--overwrite, %s at %s: %zu of them; models that do not open: %zu; runs that cannot "
          "go on as one of the two: %zu", mode, call, injected, closed, lost);
    free(mark);
}

/* --- The order on the disk --------------------------------------------------------------- */

/* Names in a folder are on the disk once the folder is flushed.  In the trace of a run, each
 * rename must follow a flush of the file; and when a state gets its name, no folder may have a
 * name in it that is not on the disk yet: the exports belong to a state that may be lost, never
 * the other way round. */
static void test_order(void) {
    enum { MANY = 64 };
    static char dirty[MANY][256], flushed[MANY][256]; /* folders; files, since their rename */
    size_t dirty_count = 0, flushed_count = 0, saves = 0, early = 0, unflushed = 0;
    char *trace = path_of("trace"), *line = command_of("traced", SHORT);
    setenv("FAULT_TRACE", trace, 1);
    setenv("LD_PRELOAD", "build/fault_shim.so", 1);
    int status = status_of(start(line, NULL));
    unsetenv("LD_PRELOAD");
    unsetenv("FAULT_TRACE");
    free(line);
    Bytes text = file_read(trace);
    for (char *next = strtok((char *)text.data, "\n"); next; next = strtok(NULL, "\n")) {
        char call[16], path[240], above[240];
        if (sscanf(next, "%15s %239s", call, path) != 2) die("%s: %s", trace, next);
        snprintf(above, sizeof above, "%s", path);
        char *slash = strrchr(above, '/');
        if (slash) *slash = 0;
        else strcpy(above, ".");
        if (!strcmp(call, "fsync")) {
            size_t kept = 0;
            for (size_t i = 0; i < dirty_count; i++)
                if (strcmp(dirty[i], path)) memmove(dirty[kept++], dirty[i], 256);
            dirty_count = kept;
            snprintf(flushed[flushed_count++ % MANY], 256, "%s", path);
            continue;
        }
        if (!strcmp(call, "rename")) {
            bool state = slash && !strcmp(slash + 1, "state.safetensors"), found = false;
            for (size_t i = 0; i < MANY; i++)
                if (!strcmp(flushed[i], text_of("%s.tmp", path).chars)) {
                    found = true;
                    *flushed[i] = 0;
                }
            unflushed += !found;
            saves += state;
            early += state && dirty_count > 0;
        }
        if (dirty_count == MANY) die("%s: too many folders", trace);
        snprintf(dirty[dirty_count++], 256, "%s", above);
    }
    check(status == 0 && saves == 8 && unflushed == 0,
          "order: %zu states get their names; renames of a file that is not on the disk: %zu",
          saves, unflushed);
    check(early == 0 && dirty_count == 0,
          "order: states named before all other names were on the disk: %zu; folders not "
          "flushed at the end: %zu", early, dirty_count);
    free(text.data);
    free(trace);
}

/* --- Memory ------------------------------------------------------------------------------ */

static long resident_kb(pid_t child) {
    char *path = text_format("/proc/%d/status", (int)child);
    long kb = -1;
    FILE *file = fopen(path, "r");
    char line[256];
    while (file && fgets(line, sizeof line, file)) sscanf(line, "VmRSS: %ld", &kb);
    if (file) fclose(file);
    free(path);
    return kb;
}

static void test_memory(void) {
    char *line = text_format("--data %s/text.txt " RUN " --steps 10000 --eval-every 500 --out "
                             "%s/long",
                             folder, folder);
    pid_t child = start(line, NULL);
    long early = -1, late = -1;
    int status = -1;
    while (waitpid(child, &status, WNOHANG) == 0) {
        if (file_there("long", "log.csv")) {
            char *path = text_format("%s/long/log.csv", folder);
            Bytes text = file_read(path);
            size_t rows = lines_count(&text);
            long kb = resident_kb(child);
            if (kb > 0 && rows > 1000 && early < 0) early = kb;
            if (kb > 0 && rows > 1000) late = kb;
            free(text.data);
            free(path);
        }
        nap(0.05);
    }
    check(status == 0, "memory: 10,000 steps end with status %d", status);
    if (early < 0) check_skip("memory: there is no /proc here");
    else
        check(late - early < 200,
              "memory: %ld KB after 1,000 steps, %ld KB at the end of 10,000", early, late);
    free(line);
}

int main(int argc, char **argv) {
    size_t kills = argc > 1 ? strtoul(argv[1], NULL, 10) : 200;
    size_t stride = argc > 2 ? strtoul(argv[2], NULL, 10) : 1;
    program_name = "train";
    if (access(train_program(), X_OK) != 0)
        die("%s: is not there; build it first, or set TRAIN", train_program());
    if (access("build/fault_shim.so", R_OK) != 0) die("build/fault_shim.so is not there");
    if (stride == 0) die("usage: build/attack [KILLS [STRIDE]]");
    folder = scratch_create("attack");
    setvbuf(stdout, NULL, _IOLBF, 0);
    text_make();
    test_kills(kills);
    char *line = command_of("short", SHORT);
    check(status_of(start(line, NULL)) == 0, "the undisturbed short run");
    free(line);
    line = command_of("other", OTHER);
    check(status_of(start(line, NULL)) == 0, "the run that replaces it");
    free(line);
    test_order();
    static const char *const calls[] = {"fwrite", "fflush", "fclose", "fopen",
                                        "fsync",  "rename", "unlink", "mkdir"};
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        test_faults(calls[i], "fail", i == 0 ? stride : 1);
        test_faults(calls[i], "kill", i == 0 ? stride : 1);
    }
    for (size_t i = 4; i < 7; i++) {
        test_replaced(calls[i], "fail");
        test_replaced(calls[i], "kill");
    }
    test_memory();
    return check_summary();
}

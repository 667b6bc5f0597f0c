/* child.c - how a test watches something end: a function of train.c that is meant to stop the
 * program, or the program itself.
 *
 * An error of the user ends the whole process, so what should end is run in a child.  The child
 * leaves an exit status and what it printed, and the test looks at both: an error message has
 * to be exactly one line, because that is what a user can read and a script can show.
 *
 * Included after train.c and check.c.
 */
#include <dirent.h>
#include <sys/wait.h>

typedef struct {
    int status;     /* exit status; 128 + the signal's number if a signal ended it */
    Bytes out, err; /* all that it printed */
} Ending;

void ending_free(Ending *ending) {
    free(ending->out.data);
    free(ending->err.data);
}

/* A child's memory is the operating system's to take back: die() keeps what it points at, and
 * that is no leak.  A leak checker, where the program is built with one, asks this function at
 * the end; the parent is still checked. */
static bool in_child;
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void) { return in_child; }

/* A child that hangs is a failure too: the alarm ends it, and it also survives an exec. */
enum { CHILD_SECONDS = 60 };

/* Forks.  Returns 0 in the child, whose stdout and stderr go to the two files. */
static pid_t child_fork(FILE *out, FILE *err) {
    fflush(stdout);
    fflush(stderr);
    pid_t child = fork();
    if (child < 0) die("cannot fork: %s", strerror(errno));
    if (child == 0) {
        dup2(fileno(out), STDOUT_FILENO);
        dup2(fileno(err), STDERR_FILENO);
        alarm(CHILD_SECONDS);
        in_child = true;
    }
    return child;
}

static Ending child_wait(pid_t child, FILE *out, FILE *err) {
    int status = 0;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) die("cannot wait for a child: %s", strerror(errno));
    rewind(out);
    rewind(err);
    Ending ending = {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
                     stream_read(out, "a child's stdout"),
                     stream_read(err, "a child's stderr")};
    fclose(out);
    fclose(err);
    return ending;
}

static FILE *scratch_file(void) {
    FILE *file = tmpfile();
    if (!file) die("cannot create a temporary file: %s", strerror(errno));
    return file;
}

/* What becomes of body(argument) in a process of its own; status 0 if it returns. */
Ending child_run(void (*body)(void *), void *argument) {
    FILE *out = scratch_file(), *err = scratch_file();
    pid_t child = child_fork(out, err);
    if (child == 0) {
        body(argument);
        fflush(stdout);
        _exit(0);
    }
    return child_wait(child, out, err);
}

/* The program under test: $TRAIN, else build/train. */
const char *train_program(void) {
    const char *named = getenv("TRAIN");
    return named && *named ? named : "build/train";
}

/* Runs a program; arguments[0] is its path, and NULL follows the last one. */
Ending program_run(const char *const arguments[]) {
    FILE *out = scratch_file(), *err = scratch_file();
    pid_t child = child_fork(out, err);
    if (child == 0) {
        execv(arguments[0],
              (char *const *)(uintptr_t)arguments); /* execv changes no argument */
        fprintf(stderr, "%s: cannot run: %s\n", arguments[0], strerror(errno));
        _exit(127);
    }
    return child_wait(child, out, err);
}

/* The arguments in one text, separated by blanks (so no argument can hold one). */
__attribute__((format(printf, 1, 2)))
Ending train_run(const char *format, ...) {
    va_list list;
    va_start(list, format);
    char line[4096];
    int length = vsnprintf(line, sizeof line, format, list);
    va_end(list);
    if (length < 0 || (size_t)length >= sizeof line)
        die("a command line of the tests is too long");
    const char *arguments[128] = {train_program()};
    size_t count = 1;
    for (char *word = strtok(line, " "); word && count + 1 < 128; word = strtok(NULL, " "))
        arguments[count++] = word;
    return program_run(arguments);
}

size_t lines_count(const Bytes *text) { /* a last line without its line feed counts */
    size_t lines = 0;
    for (size_t i = 0; i < text->size; i++)
        lines += text->data[i] == '\n' || i + 1 == text->size;
    return lines;
}

/* Is this the one line of an error: `status`, nothing on stderr but one line that begins with
 * the program's name and holds `words`? */
bool ending_is_error(const Ending *ending, int status, const char *words) {
    return ending->status == status && lines_count(&ending->err) == 1 &&
           ending->err.data[ending->err.size - 1] == '\n' &&
           !strncmp((const char *)ending->err.data, "train: ", 7) &&
           strstr((const char *)ending->err.data, words);
}

/* The last line of stderr is the error, and the only line that looks like one. */
bool ending_refused(const Ending *ending, int status, const char *words) {
    const char *text = (const char *)ending->err.data, *last = text;
    size_t errors = 0;
    for (const char *line = text; *line;) {
        errors += !strncmp(line, "train: ", 7);
        last = line;
        line += strcspn(line, "\n");
        line += *line == '\n';
    }
    return ending->status == status && errors == 1 && !strncmp(last, "train: ", 7) &&
           strstr(last, words);
}

const char *last_line(const Ending *ending) {
    char *text = (char *)ending->err.data;
    size_t length = strlen(text);
    if (length && text[length - 1] == '\n') text[--length] = 0;
    char *feed = strrchr(text, '\n');
    return feed ? feed + 1 : text;
}

/* A row for an error that has to end in one line; the row shows that line. */
void check_error(const char *name, const Ending *ending, int status, const char *words) {
    size_t length = strcspn((const char *)ending->err.data, "\n");
    check(ending_is_error(ending, status, words), "%-38s exit %d, %zu line(s): %.*s", name,
          ending->status, lines_count(&ending->err), (int)(length < 150 ? length : 150),
          (const char *)ending->err.data);
}

/* --- Files for tests ---------------------------------------------------------------------- */

void bytes_save(const char *path, const void *data, size_t size) {
    unlink(path); /* some file systems flush a file to disk that was cut to nothing and written
                     again */
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0)
        die("%s: cannot write: %s", path, strerror(errno));
}

void text_save(const char *path, const char *text) { bytes_save(path, text, strlen(text)); }

/* Takes a folder away with all that is in it; links are cut, not followed. */
void folder_remove(const char *path) {
    DIR *folder = opendir(path);
    if (folder) {
        for (struct dirent *entry; (entry = readdir(folder));) {
            if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
            char *below = text_format("%s/%s", path, entry->d_name);
            struct stat status;
            if (lstat(below, &status) == 0 && S_ISDIR(status.st_mode)) folder_remove(below);
            else unlink(below);
            free(below);
        }
        closedir(folder);
    }
    rmdir(path);
}

static const char *scratch_folder; /* of this test program; gone when it ends well or badly */
static pid_t scratch_owner;

static void scratch_remove(void) {
    if (scratch_folder && getpid() == scratch_owner) folder_remove(scratch_folder);
}

/* A new folder build/NAME.XXXXXX, which lives as long as the program. */
const char *scratch_create(const char *name) {
    static char path[256];
    folder_create("build");
    snprintf(path, sizeof path, "build/%s.XXXXXX", name);
    if (!mkdtemp(path)) die("%s: cannot create the folder: %s", path, strerror(errno));
    scratch_folder = path;
    scratch_owner = getpid();
    atexit(scratch_remove);
    return path;
}

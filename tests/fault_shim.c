/* fault_shim.c - makes one chosen call to the C library fail, or kills the program there.
 *
 *     cc -shared -fPIC tests/fault_shim.c -o build/fault_shim.so
 *     FAULT_CALL=rename FAULT_NUMBER=3 FAULT_MODE=fail FAULT_MARK=mark \
 *         LD_PRELOAD=build/fault_shim.so ./train ...
 *
 * The FAULT_NUMBER-th call of that name returns an error with "No space left on device" (fwrite
 * after half of its bytes), or the program gets SIGKILL instead of the call.  The file
 * FAULT_MARK then exists, so that whoever counts up the number knows when there are no more.
 *
 * FAULT_TRACE=file: every fsync, rename, unlink and mkdir that succeeds is a line of that file,
 * in the order in which they happen: the name of the call, a blank, the path (of a rename, the
 * new one).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool fault_due(const char *call) {
    static int count;
    const char *named = getenv("FAULT_CALL"), *mode = getenv("FAULT_MODE");
    if (!named || strcmp(named, call) || ++count != atoi(getenv("FAULT_NUMBER"))) return false;
    close(open(getenv("FAULT_MARK"), O_WRONLY | O_CREAT, 0666));
    if (mode && !strcmp(mode, "kill")) raise(SIGKILL);
    errno = ENOSPC;
    return true;
}

/* The function of that name that this one replaces. */
#define REAL(name) ((__typeof__(name) *)dlsym(RTLD_NEXT, #name))

size_t fwrite(const void *data, size_t size, size_t count, FILE *stream) {
    if (stream == stdout || stream == stderr || !fault_due("fwrite"))
        return REAL(fwrite)(data, size, count, stream);
    size_t half = REAL(fwrite)(data, size, count / 2, stream);
    stream->_flags |= 0x20; /* what ferror() looks at: glibc's _IO_ERR_SEEN */
    errno = ENOSPC;
    return half;
}

int fflush(FILE *stream) {
    return stream != stdout && stream != stderr && fault_due("fflush") ? EOF
                                                                      : REAL(fflush)(stream);
}

int fclose(FILE *stream) {
    bool due = fault_due("fclose");
    int result = REAL(fclose)(stream);
    if (due) errno = ENOSPC;
    return due ? EOF : result;
}

FILE *fopen(const char *path, const char *mode) {
    return *mode != 'r' && fault_due("fopen") ? NULL : REAL(fopen)(path, mode);
}

/* Notes a call on a path, if it succeeded; returns its result. */
static int traced(int result, const char *call, const char *path) {
    const char *name = getenv("FAULT_TRACE");
    int error = errno, file = -1;
    if (result == 0 && name) file = open(name, O_WRONLY | O_CREAT | O_APPEND, 0666);
    if (file >= 0) {
        dprintf(file, "%s %s\n", call, path);
        close(file);
    }
    errno = error;
    return result;
}

int fsync(int file) {
    char link[64], path[4096] = "?", here[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length > 0) path[length] = 0;
    size_t above = getcwd(here, sizeof here) ? strlen(here) : 0; /* as the program names it */
    bool below = above && !strncmp(path, here, above) && (!path[above] || path[above] == '/');
    const char *shown = !below ? path : path[above] ? path + above + 1 : ".";
    return fault_due("fsync") ? -1 : traced(REAL(fsync)(file), "fsync", shown);
}

int rename(const char *from, const char *to) {
    return fault_due("rename") ? -1 : traced(REAL(rename)(from, to), "rename", to);
}
int unlink(const char *path) {
    return fault_due("unlink") ? -1 : traced(REAL(unlink)(path), "unlink", path);
}
int mkdir(const char *path, mode_t mode) {
    return fault_due("mkdir") ? -1 : traced(REAL(mkdir)(path, mode), "mkdir", path);
}

/* posix.h - what train.c and tokenizer.c use of POSIX and Windows does not have.  All that is
 * different there stands in this folder:
 *
 *     x86_64-w64-mingw32-gcc -std=gnu11 -O3 -fno-math-errno -Wall -Wextra -Wno-format \
 *         -Idev/windows -include dev/windows/posix.h train.c -o train.exe
 *
 * -Wno-format: MinGW takes the attribute format(printf) for Microsoft's printf, which knows no %zu;
 * the one that is called, MinGW's own, does.
 */
#define __USE_MINGW_ANSI_STDIO 1
#include <direct.h>
#include <errno.h>
#include <fcntl.h>
#include <io.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <windows.h>

/* Bytes are bytes: no line feed becomes two. */
__attribute__((constructor)) static void windows_start(void) {
    _setmode(0, _O_BINARY);
    _setmode(1, _O_BINARY);
}

/* A folder cannot be opened to be flushed; what stands in for it is the device that is nothing,
 * and flushing that does nothing. */
static inline int windows_open(const char *path, int flags) {
    struct stat status;
    if (stat(path, &status) == 0 && S_ISDIR(status.st_mode)) path = "NUL";
    return _open(path, flags | _O_BINARY);
}

static inline int windows_fsync(int descriptor) {
    return _isatty(descriptor) ? 0 : _commit(descriptor); /* "a tty": any device */
}

/* rename() does not replace a file there. */
static inline int windows_rename(const char *from, const char *to) {
    if (MoveFileExA(from, to, MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH)) return 0;
    errno = EACCES;
    return -1;
}

static inline int link(const char *from, const char *to) {
    if (CreateHardLinkA(to, from, NULL)) return 0;
    errno = GetLastError() == ERROR_ALREADY_EXISTS ? EEXIST : EACCES;
    return -1;
}

/* A stream into memory is a temporary file there, which is read when it is closed; one at a
 * time. */
static FILE *windows_memory;
static char **windows_text;
static size_t *windows_size;

static inline FILE *open_memstream(char **text, size_t *size) {
    windows_text = text, windows_size = size;
    return windows_memory = tmpfile();
}

static inline int windows_fclose(FILE *stream) {
    bool good = true;
    if (stream == windows_memory) {
        long size = ftell(stream);
        rewind(stream);
        *windows_text = (char *)calloc((size_t)size + 1, 1);
        *windows_size = (size_t)size;
        good = *windows_text && fread(*windows_text, 1, (size_t)size, stream) == (size_t)size;
        windows_memory = NULL;
    }
    return fclose(stream) == 0 && good ? 0 : EOF;
}

struct sigaction {
    void (*sa_handler)(int);
    int sa_flags;
};
#define SA_RESETHAND 0 /* signal() behaves so there */
#define SA_RESTART 0

static inline int sigaction(int number, const struct sigaction *action, void *before) {
    (void)before;
    return signal(number, action->sa_handler) == SIG_ERR ? -1 : 0;
}

static inline int setenv(const char *name, const char *value, int replace) {
    return !replace && getenv(name) ? 0 : _putenv_s(name, value);
}

#define open windows_open
#define fclose windows_fclose
#define fsync windows_fsync
#define rename windows_rename
#define mkdir(path, mode) _mkdir(path)
#define lstat stat /* links are followed; a circle of them would not end */
#define S_ISLNK(mode) 0

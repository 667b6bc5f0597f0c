/* fuzz.c - what lets clang's libFuzzer call a program that ends at the first error.
 *
 * The program writes one line and calls exit(1) when a file is not what it should be.  A fuzzer
 * tries a million files in one process, so here exit() is a jump back to the fuzzer, and memory
 * comes from a list that is cleared after each input.  A file is not mapped but read into
 * memory of exactly its size, so that the address sanitizer sees a look beyond its end.
 *
 * Included in place of the program's system headers, before the program under test.
 */
#include <assert.h>
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef struct Block { /* stands before each block of memory */
    struct Block *before, *after;
    size_t size, unused;
} Block;

static Block all = {&all, &all, 0, 0};
static jmp_buf ended;

static void *fuzz_calloc(size_t count, size_t size) {
    if (size && count > ((size_t)1 << 30) / size) return NULL;
    Block *block = calloc(1, sizeof *block + count * size);
    if (!block) return NULL;
    block->size = count * size;
    block->after = all.after;
    block->before = &all;
    all.after->before = block;
    all.after = block;
    return block + 1;
}

/* The text of a memory stream is the C library's own block, not one of the list. */
static char **stream_text;

static FILE *fuzz_memstream(char **text, size_t *size) {
    stream_text = text;
    return open_memstream(text, size);
}

static void fuzz_free(void *memory) {
    if (!memory) return;
    if (stream_text && memory == *stream_text) {
        stream_text = NULL;
        free(memory);
        return;
    }
    Block *block = (Block *)memory - 1;
    block->before->after = block->after;
    block->after->before = block->before;
    free(block);
}

static void *fuzz_realloc(void *memory, size_t size) {
    void *larger = fuzz_calloc(1, size);
    if (memory && larger) {
        size_t old = ((Block *)memory - 1)->size;
        memcpy(larger, memory, old < size ? old : size);
        fuzz_free(memory);
    }
    return larger;
}

__attribute__((noreturn)) static void fuzz_exit(int status) {
    longjmp(ended, status);
}

/* Stands in for mmap: file_map() asks for a whole file, from its first byte. */
static void *fuzz_mmap(void *wanted, size_t size, int protection, int flags, int descriptor,
                       off_t from) {
    (void)wanted, (void)protection, (void)flags;
    char *memory = fuzz_calloc(1, size);
    if (!memory || pread(descriptor, memory, size, from) != (ssize_t)size) return MAP_FAILED;
    return memory;
}

static int fuzz_munmap(void *memory, size_t size) {
    (void)size;
    fuzz_free(memory);
    return 0;
}

/* Runs one input to its end or to its error. */
static void fuzz_input(void (*run)(const uint8_t *, size_t), const uint8_t *data, size_t size) {
    if (setjmp(ended) == 0) {
        run(data, size);
        assert(all.after == &all); /* nothing is left when all went well */
    }
    stream_text = NULL;
    while (all.after != &all) fuzz_free(all.after + 1);
}

#define calloc fuzz_calloc
#define realloc fuzz_realloc
#define free fuzz_free
#define open_memstream fuzz_memstream
#define exit fuzz_exit
#define mmap fuzz_mmap
#define munmap fuzz_munmap

/* sys/mman.h for Windows: a file is read where POSIX systems map it. */
#define PROT_READ 1
#define MAP_PRIVATE 2
#define MAP_FAILED ((void *)-1)

static inline void *mmap(void *wanted, size_t size, int protection, int flags, int descriptor,
                         long from) {
    char *memory = (char *)malloc(size);
    (void)wanted, (void)protection, (void)flags, (void)from; /* from 0, as file_map() asks */
    for (size_t done = 0; memory && done < size;) {
        unsigned part = size - done < 1 << 30 ? (unsigned)(size - done) : 1 << 30;
        int got = _read(descriptor, memory + done, part);
        if (got <= 0) free(memory), memory = NULL;
        else done += (size_t)got;
    }
    return memory ? memory : MAP_FAILED;
}

static inline int munmap(void *memory, size_t size) {
    (void)size;
    free(memory);
    return 0;
}

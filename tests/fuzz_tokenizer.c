/* fuzz_tokenizer.c - arbitrary files and texts for tokenizer.c, with clang's libFuzzer:
 *
 *     make fuzz-tokenizer
 *
 * The first byte of an input says what the rest is: a vocab.json and a merges.txt separated by
 * a NUL, a merges.txt alone, a text to learn from, or a tokenizer.json; in all but the third a
 * NUL after them may begin a text.  An error that ends the program elsewhere (one line, exit
 * status 1) ends only the present input here (see fuzz.c).  What must hold is asserted: the
 * fast functions agree with the plain ones, and decoding the ids gives the text back.
 */
#include "fuzz.c"
#define TOKENIZER_NO_MAIN
#include "../tokenizer.c"
#undef NDEBUG
#include <assert.h>

static void text_round(Tokenizer *t, const unsigned char *text, size_t bytes) {
    uint32_t *ids, *again, *plain = memory_allocate(bytes, sizeof *plain);
    size_t count = tokenizer_encode(t, text, bytes, "text", &ids), size = 0, expected = 0;
    for (size_t i = 0; i < count; i++) {
        size_t more;
        assert(ids[i] < t->vocab);
        const unsigned char *token = tokenizer_token(t, ids[i], &more);
        assert(size + more <= bytes && memcmp(text + size, token, more) == 0);
        size += more;
    }
    assert(size == bytes);
    for (size_t at = 0, length; at < bytes; at += length) {
        length = piece_length(text + at, bytes - at);
        assert(length > 0 && length <= bytes - at);
        if (t->merges.count) {
            uint32_t *slow = memory_allocate(length, sizeof *slow);
            size_t n = piece_encode_plain(t, text + at, length, plain + expected, NULL);
            assert(piece_encode_long(t, text + at, length, slow) == n);
            assert(memcmp(slow, plain + expected, n * sizeof *slow) == 0);
            expected += n;
            free(slow);
        }
    }
    assert(!t->merges.count ||
           (expected == count && memcmp(ids, plain, count * sizeof *ids) == 0));
    size_t cut = bytes ? text_cut(text, bytes) : 0;
    if (cut) {
        size_t first = tokenizer_encode(t, text, cut, "text", &again);
        assert(first <= count && memcmp(again, ids, first * sizeof *ids) == 0);
        free(again);
        first += tokenizer_encode(t, text + cut, bytes - cut, "text", &again);
        assert(first == count);
        free(again);
    }
    Ids special = {0};
    text_encode_special(t, text, bytes, "text", 0, &special);
    size = 0;
    for (size_t i = 0, more; i < special.count; i++) {
        const unsigned char *token = tokenizer_token(t, special.data[i], &more);
        assert(size + more <= bytes && memcmp(text + size, token, more) == 0);
        size += more;
    }
    assert(size == bytes);
    free(special.data);
    free(ids);
    free(plain);
}

/* The input up to the next NUL, in memory of its exact size and a NUL after it. */
static Bytes part_next(const uint8_t **data, size_t *size) {
    const uint8_t *end = *size ? memchr(*data, 0, *size) : NULL;
    size_t bytes = end ? (size_t)(end - *data) : *size;
    Bytes part = {memory_allocate(bytes + 1, 1), bytes};
    if (bytes) memcpy(part.data, *data, bytes);
    *data += bytes + (end != NULL);
    *size -= bytes + (end != NULL);
    return part;
}

static void input_run(const uint8_t *data, size_t size) {
    unsigned kind = *data++ % 5;
    size--;
    Tokenizer *t;
    if (kind == 3) { /* learn from all of it, with both functions */
        Strings pieces = {0};
        classes_prepare();
        pieces_count(&pieces, data, size);
        t = tokenizer_learn(data, size, 256 + size / 4, false);
        if (size < 400) {
            Tokenizer *plain = tokenizer_create(NULL, 0);
            merges_learn_plain(plain, &pieces, 256 + size / 4);
            assert(plain->merges.count == t->merges.count && plain->vocab == t->vocab);
            assert(!t->merges.count || memcmp(plain->merges.items, t->merges.items,
                                              t->merges.count * sizeof(Pair)) == 0);
            tokenizer_destroy(plain);
        }
        strings_destroy(&pieces);
    } else if (kind == 4) {
        Bytes text = part_next(&data, &size);
        t = tokenizer_json_parse(text, "tokenizer.json");
        free(text.data);
    } else {
        Bytes vocab = {NULL, 0}, merges;
        if (kind < 2) vocab = part_next(&data, &size);
        merges = part_next(&data, &size);
        t = tokenizer_parse(vocab, "vocab.json", merges, "merges.txt");
        free(vocab.data);
        free(merges.data);
    }
    unsigned char *text = memory_allocate(size, 1); /* the exact size, for ASan */
    if (size) memcpy(text, data, size);
    text_round(t, text, size);
    free(text);
    tokenizer_destroy(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size) fuzz_input(input_run, data, size);
    return 0;
}

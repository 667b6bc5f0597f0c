/* test_tokenizer.c - checks of tokenizer.c.
 *
 * Run from the top folder.  What is compared: the fast functions with the plain ones that
 * define them, on random texts; splits, ids and merges with tables that
 * dev/reference/check_tokenizer.py generated with tiktoken and tokenizers; the program with its
 * own functions; broken files with the message that they must get.  GPT-2's merges are read
 * from ../shared/data/gpt2 or data/gpt2; if neither exists, what needs them is skipped.
 */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* A child that die() ends leaves memory allocated, as it should; the leak checker must not
 * count it. */
__attribute__((noreturn)) static void exit_unchecked(int status) {
    fflush(stdout);
    _exit(status);
}

#define main tokenizer_main
#define exit exit_unchecked
#include "../tokenizer.c"
#undef main
#undef exit
#include <sys/wait.h>
#include <time.h>
#include "check.c"

static uint64_t random_state = 0x1234567;

static size_t
random_below(size_t limit) { /* xorshift: any sequence will do, if it is the same */
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (size_t)(random_state >> 11) % limit;
}

static void random_fill(unsigned char *text, size_t bytes, const char *alphabet) {
    size_t letters = strlen(alphabet);
    for (size_t i = 0; i < bytes; i++)
        text[i] = letters ? (unsigned char)alphabet[random_below(letters)]
                          : (unsigned char)random_below(256);
}

/* A text in which everything that the splitting rule treats specially occurs close together. */
static size_t random_text(unsigned char *text, size_t limit) {
    static const char *const parts[] = {
        " ", " ", " ", "  ", "\n", "\t", "\r\n", "a", "the", "Then", "I'll", "'s", "'S", "'re",
        "'", "''ve", "'m", "'d", "'t", "'l", "7", "42", "2026", "!", "...", "?!", "-", "_",
        "\xC3\xA9", "\xC2\xA0", "\xE3\x80\x80", "\xE2\x80\x83", "\xE6\x97\xA5\xE6\x9C\xAC",
        "\xD0\x96", "\xF0\x9F\x98\x80", "\xF0\x9F", "\x80", "\xFF", "\xC0\x80", "\xED\xA0\x80",
        "\xE2\x85\xA7", "\xC2\xBD", "\xE2\x80", "\xCC\x81", "\xF4\x90\x80\x80", "\xC2\x85",
        "\x1C", "\v"};
    size_t size = 0, words = 1 + random_below(40);
    for (size_t i = 0; i < words; i++) {
        const char *part = parts[random_below(sizeof parts / sizeof *parts)];
        if (size + strlen(part) + 1 > limit) break;
        memcpy(text + size, part, strlen(part));
        size += strlen(part);
        if (random_below(50) == 0) text[size++] = 0;
    }
    return size;
}

static Tokenizer *gpt2; /* or NULL */

static void gpt2_open(void) {
    static const char *const folders[] = {"../shared/data/gpt2", "data/gpt2"};
    for (int i = 0; i < 2 && !gpt2; i++) {
        char *path = text_format("%s/merges.txt", folders[i]);
        if (access(path, R_OK) == 0) gpt2 = tokenizer_load(folders[i]);
        free(path);
    }
}

/* Runs tokenizer_main(arguments) in a child: its input is in[], its output and messages go into
 * *out and *errors (caller frees .data).  Returns the exit status. */
static int program_run(const char *const *arguments, const void *in, size_t bytes, Bytes *out,
                       Bytes *errors) {
    FILE *files[3] = {tmpfile(), tmpfile(), tmpfile()};
    if (!files[0] || !files[1] || !files[2]) die("no temporary files: %s", strerror(errno));
    if (bytes && fwrite(in, 1, bytes, files[0]) != bytes) die("cannot write a temporary file");
    rewind(files[0]);
    fflush(stdout);
    pid_t child = fork();
    if (child < 0) die("cannot fork: %s", strerror(errno));
    if (child == 0) {
        for (int i = 0; i < 3; i++) dup2(fileno(files[i]), i);
        char *argv[16] = {text_format("tokenizer")};
        int argc = 1;
        for (; arguments[argc - 1]; argc++) argv[argc] = text_format("%s", arguments[argc - 1]);
        int status = tokenizer_main(argc, argv);
        fflush(stdout);
        _exit(status); /* not exit(): the leak checker would count what belongs to the parent */
    }
    int status = 0;
    waitpid(child, &status, 0);
    for (int i = 1; i < 3; i++) rewind(files[i]);
    *out = stream_read(files[1], "output");
    *errors = stream_read(files[2], "errors");
    for (int i = 0; i < 3; i++) fclose(files[i]);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

#define RUN(in, bytes, out, errors, ...) \
    program_run((const char *const[]){__VA_ARGS__, NULL}, in, bytes, out, errors)

static size_t lines_of(Bytes text) {
    size_t lines = 0;
    for (size_t i = 0; i < text.size; i++) lines += text.data[i] == '\n';
    return lines;
}

static char folder[] = "build/test_tokenizer.XXXXXX"; /* made by main, removed at the end */

static char *folder_path(const char *name) { return text_format("%s/%s", folder, name); }

static void folder_file(const char *name, const void *data, size_t bytes) {
    char *path = folder_path(name);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, bytes, file) != bytes || fclose(file) != 0)
        die("%s: cannot write: %s", path, strerror(errno));
    free(path);
}

/* ---- splitting texts ---- */

static void test_classes(void) {
    size_t members[4] = {0}, ranges[4] = {0};
    classes_prepare();
    for (size_t c = 0; c < CLASSED; c++) {
        members[class_of[c]]++;
        ranges[class_of[c]] += c == 0 || class_of[c] != class_of[c - 1];
    }
    check(members[LETTER] == 141028 && ranges[LETTER] == 677,
          "Unicode 16 letters: %zu in %zu ranges, 141028 in 677 expected", members[LETTER],
          ranges[LETTER]);
    check(members[NUMBER] == 1911 && ranges[NUMBER] == 144,
          "Unicode 16 numbers: %zu in %zu ranges, 1911 in 144 expected", members[NUMBER],
          ranges[NUMBER]);
    check(members[WHITE] == 25 && ranges[WHITE] == 10,
          "Unicode 16 white space: %zu in %zu ranges, 25 in 10 expected", members[WHITE],
          ranges[WHITE]);
    static const struct { const char *text; size_t bytes, step; int class;
    } cases[] = {{"a", 1, 1, LETTER},
                 {"\0", 1, 1, OTHER},
                 {"\x1C", 1, 1, OTHER},
                 {"\xC2\x85", 2, 2, WHITE},
                 {"\xC3\xA9", 2, 2, LETTER},
                 {"\xC3", 1, 1, OTHER},
                 {"\xC1\xBF", 2, 1, OTHER},
                 {"\xE0\x9F\xBF", 3, 1, OTHER},
                 {"\xE0\xA0\x80", 3, 3, LETTER},
                 {"\xED\x9F\xBB", 3, 3, LETTER},
                 {"\xED\xA0\x80", 3, 1, OTHER},
                 {"\xE3\x80\x80", 3, 3, WHITE},
                 {"\xE3\x80", 2, 1, OTHER},
                 {"\xF0\x8F\xBF\xBF", 4, 1, OTHER},
                 {"\xF0\xA0\x80\x80", 4, 4, LETTER},
                 {"\xF0\xB2\x8E\xAF", 4, 4, LETTER},
                 {"\xF0\xB2\x8E\xB0", 4, 4, OTHER},
                 {"\xF4\x8F\xBF\xBF", 4, 4, OTHER},
                 {"\xF4\x90\x80\x80", 4, 1, OTHER},
                 {"\xF5\x80\x80\x80", 4, 1, OTHER},
                 {"\xF0\x9F\x98", 3, 1, OTHER},
                 {"\xF0\x9F\x98\x20", 4, 1, OTHER},
                 {"\x80", 1, 1, OTHER},
                 {"\xE1\x9A\x80", 3, 3, WHITE},
                 {"\xC2\xBD", 2, 2, NUMBER},
                 {"\xE2\x85\xA7", 3, 3, NUMBER},
                 {"\xEF\xBC\x97", 3, 3, NUMBER}};
    size_t wrong = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t step;
        unsigned char *exact =
            memory_allocate(cases[i].bytes, 1); /* so that ASan sees one too far */
        memcpy(exact, cases[i].text, cases[i].bytes);
        int class = class_read(exact, cases[i].bytes, &step);
        if (class != cases[i].class || step != cases[i].step) {
            printf("      case %zu: class %d, %zu bytes\n", i, class, step);
            wrong++;
        }
        free(exact);
    }
    check(wrong == 0, "characters, well-formed or not: %zu of %zu classes or lengths differ",
          wrong, sizeof cases / sizeof *cases);
}

/* Reads one line of a table: fields separated by tabs, numbers by spaces. */
typedef struct {
    Bytes file;
    size_t at;
} Table;

static bool table_line(Table *table, Bytes *text, uint32_t *numbers, size_t *count) {
    const char *line = (const char *)table->file.data + table->at;
    if (table->at >= table->file.size) return false;
    text->data = memory_allocate(table->file.size, 1);
    text->size = *count = 0;
    for (; *line != '\t'; line += 2) {
        unsigned byte;
        if (sscanf(line, "%2x", &byte) != 1) die("the table is damaged at byte %zu", table->at);
        text->data[text->size++] = (unsigned char)byte;
    }
    for (line++; *line != '\n'; line += *line == ' ') {
        char *end;
        numbers[(*count)++] = (uint32_t)strtoul(line, &end, 10);
        line = end;
    }
    table->at = (size_t)(line + 1 - (const char *)table->file.data);
    text->data = memory_resize(text->data, text->size, 1);
    return true;
}

static void test_tables(void) {
    enum { MOST = 1 << 16 };
    uint32_t *expected = memory_allocate(MOST, sizeof *expected);
    Bytes text;
    size_t count, rows = 0, wrong = 0, pieces = 0;
    Table table = {file_read("tests/reference/tokenizer_splits.txt"), 0};
    for (; table_line(&table, &text, expected, &count); rows++) {
        size_t at = 0, i = 0;
        bool same = true;
        for (; at < text.size && same; i++) {
            size_t length = piece_length(text.data + at, text.size - at);
            same = i < count && length == expected[i];
            at += length;
        }
        same = same && i == count;
        if (!same) printf("      row %zu, piece %zu, byte %zu\n", rows + 1, i, at);
        wrong += !same;
        pieces += count;
        free(text.data);
    }
    free(table.file.data);
    check(rows > 300 && wrong == 0,
          "splits of `tokenizers`: %zu of %zu texts differ (%zu pieces)", wrong, rows, pieces);
    table = (Table){file_read("tests/reference/tokenizer_ids.txt"), 0};
    rows = wrong = 0;
    size_t tokens = 0, lost = 0;
    for (; table_line(&table, &text, expected, &count); rows++) {
        if (gpt2) {
            uint32_t *ids;
            size_t n = tokenizer_encode(gpt2, text.data, text.size, "table", &ids), size = 0;
            bool same = n == count && memcmp(ids, expected, n * sizeof *ids) == 0;
            if (!same) printf("      row %zu\n", rows + 1);
            wrong += !same;
            tokens += n;
            for (size_t i = 0; i < n; i++) {
                size_t bytes;
                const unsigned char *token = tokenizer_token(gpt2, ids[i], &bytes);
                if (size + bytes > text.size || memcmp(text.data + size, token, bytes) != 0)
                    break;
                size += bytes;
            }
            lost += size != text.size;
            free(ids);
        }
        free(text.data);
    }
    free(table.file.data);
    free(expected);
    if (!gpt2) {
        check_skip(
            "ids of tiktoken: GPT-2's merges are neither in ../shared/data/gpt2 nor data/gpt2");
        return;
    }
    check(rows > 300 && wrong == 0, "ids of tiktoken: %zu of %zu texts differ (%zu ids)", wrong,
          rows, tokens);
    check(lost == 0, "and back: %zu texts differ", lost);
    uint32_t *ids;
    size_t n = tokenizer_encode(gpt2, (const unsigned char *)"Hello world", 11, "text", &ids);
    check(n == 2 && ids[0] == 15496 && ids[1] == 995, "\"Hello world\" is [15496, 995]");
    check(gpt2->vocab == 50257 && gpt2->special_count == 1 && gpt2->specials[0] == 50256,
          "GPT-2 has 50257 ids, of which one is special");
    free(ids);
}

static void test_cut(void) {
    unsigned char text[600];
    size_t wrong = 0, cuts = 0;
    for (int round = 0; round < 20000; round++) {
        size_t bytes = random_text(text, sizeof text),
               seen = bytes ? random_below(bytes) + 1 : 0;
        size_t cut = seen ? text_cut(text, seen) : 0;
        if (!cut) continue;
        cuts++;
        bool boundary = false;
        for (size_t at = 0; at < bytes; at += piece_length(text + at, bytes - at))
            boundary |= at == cut;
        bool same =
            boundary; /* and the part before the cut is split the same way on its own */
        for (size_t at = 0; same && at < cut;) {
            size_t length = piece_length(text + at, bytes - at);
            same = piece_length(text + at, cut - at) == length;
            at += length;
        }
        wrong += !same;
    }
    check(cuts > 5000 && wrong == 0, "%zu cuts of random texts: %zu change a piece", cuts,
          wrong);
}

/* Strings with equal hashes, made by running the hash backwards: they must stay distinct. */
static void test_strings(void) {
    const uint64_t factor = 0xD6E8FEB86659FD93u;
    uint64_t inverse = factor;
    for (int i = 0; i < 5; i++) inverse *= 2 - factor * inverse; /* Newton, modulo 2^64 */
    Strings s = {0};
    size_t equal = 0, wrong = 0;
    for (uint32_t round = 0; round < 200; round++) {
        uint64_t mixed = (uint64_t)(round / 2) << 40 | (uint64_t)(round % 2) << 31;
        uint64_t word = mixed * inverse ^ 8 * 0x9E3779B97F4A7C15u;
        unsigned char text[8];
        memcpy(text, &word, 8);
        equal += bytes_hash(text, 8) >> 32 == mixed >> 32;
        wrong += strings_add(&s, text, 8) != round || strings_find(&s, text, 8) != round;
    }
    check(equal == 200 && wrong == 0, "100 pairs of strings with one hash: %zu mixed up",
          wrong);
    strings_destroy(&s);
}

/* ---- learning ---- */

static bool merges_same(const Tokenizer *a, const Tokenizer *b) {
    if (a->vocab != b->vocab || a->merges.count != b->merges.count) return false;
    if (a->tokens.start[a->vocab] != b->tokens.start[b->vocab]) return false;
    return memcmp(a->tokens.bytes, b->tokens.bytes, a->tokens.start[a->vocab]) == 0 &&
           memcmp(a->tokens.start, b->tokens.start, a->vocab * sizeof *a->tokens.start) == 0 &&
           (!a->merges.count ||
            (memcmp(a->merges.items, b->merges.items, a->merges.count * sizeof(Pair)) == 0 &&
             memcmp(a->result, b->result, a->merges.count * sizeof *a->result) == 0));
}

static void test_learning(void) {
    static const char *const alphabets[] = {"a",       "ab",         "ab ", "abc ",
                                            "aab' \n", "abcdefgh  ", ""};
    size_t wrong = 0, merges = 0, exhausted = 0, rounds = 0;
    for (int round = 0; round < 700; round++) {
        unsigned char text[400];
        const char *alphabet = alphabets[round % 7];
        size_t bytes = random_below(sizeof text), vocab = 256 + random_below(80);
        random_fill(text, bytes, alphabet);
        Strings pieces = {0};
        if (round % 3) {
            pieces_count(&pieces, text, bytes);
        } else { /* pieces of any kind: longer runs and more overlaps are harder */
            for (size_t at = 0, length; at < bytes; at += length) {
                length = 1 + random_below(40);
                if (length > bytes - at) length = bytes - at;
                strings_add(&pieces, text + at, length);
            }
        }
        Tokenizer *plain = tokenizer_create(NULL, 0), *fast = tokenizer_create(NULL, 0);
        merges_learn_plain(plain, &pieces, vocab);
        merges_learn(fast, &pieces, vocab, false);
        wrong += !merges_same(plain, fast);
        merges += plain->merges.count;
        exhausted += plain->vocab < vocab;
        rounds++;
        tokenizer_destroy(plain);
        tokenizer_destroy(fast);
        strings_destroy(&pieces);
    }
    check(wrong == 0 && merges > 10000,
          "learning, fast against plain: %zu of %zu texts differ, "
          "%zu merges",
          wrong, rounds, merges);
    check(exhausted > 50 && exhausted < rounds - 50,
          "among them %zu texts without enough pairs", exhausted);
    Tokenizer *t = tokenizer_learn((const unsigned char *)"aaaa aaa", 8, 300, false);
    /* "aaaa": (a, a) 3 times; " aaa": (space, a) once, (a, a) twice.  So first (a, a).  Then
     * (aa, aa), (aa, a) and (space, aa) occur once each, and the smallest ids win. */
    uint32_t a = t->id_of_byte['a'], space = t->id_of_byte[' '];
    check(t->merges.count == 4 && t->merges.items[0].left == a &&
              t->merges.items[0].right == a && t->merges.items[1].left == space &&
              t->merges.items[1].right == 256 && t->merges.items[2].left == 256 &&
              t->merges.items[2].right == 256 && t->merges.items[3].left == 257 &&
              t->merges.items[3].right == a,
          "\"aaaa aaa\" gives the four merges that paper and pencil give");
    tokenizer_destroy(t);
}

static void test_learning_reference(void) {
    Bytes text = file_read("tests/reference/tokenizer_learn.txt");
    Bytes expected = file_read("tests/reference/tokenizer_learn_merges.txt");
    size_t lines = lines_of(expected);
    Tokenizer *t = tokenizer_learn(text.data, text.size, 256 + lines - 1, false);
    tokenizer_save(t, folder);
    char *path = folder_path("merges.txt");
    Bytes ours = file_read(path);
    check(lines > 800 && ours.size == expected.size &&
              memcmp(ours.data, expected.data, ours.size) == 0,
          "merges of `tokenizers` on %zu bytes of text: %zu lines, the same bytes", text.size,
          lines);
    free(path);
    free(ours.data);
    free(text.data);
    free(expected.data);
    tokenizer_destroy(t);
}

/* ---- encoding ---- */

static size_t encoders_differ(const Tokenizer *t, const unsigned char *piece, size_t bytes) {
    uint32_t *ids[3];
    size_t count[3];
    for (int i = 0; i < 3; i++) ids[i] = memory_allocate(bytes, sizeof **ids);
    count[0] = piece_encode_plain(t, piece, bytes, ids[0], NULL);
    count[1] = piece_encode_long(t, piece, bytes, ids[1]);
    count[2] = piece_encode(t, piece, bytes, ids[2]);
    bool same = true;
    for (int i = 1; i < 3; i++)
        same &= count[i] == count[0] && memcmp(ids[i], ids[0], count[0] * sizeof **ids) == 0;
    for (int i = 0; i < 3; i++) free(ids[i]);
    return !same;
}

/* A whole text, twice (so that the second time finds the cache full), against the definition.
 * */
static size_t texts_differ(Tokenizer *t, const unsigned char *text, size_t bytes) {
    uint32_t *plain = memory_allocate(bytes, sizeof *plain), *ids;
    size_t count = 0, wrong = 0;
    for (size_t at = 0, length; at < bytes; at += length) {
        length = piece_length(text + at, bytes - at);
        count += piece_encode_plain(t, text + at, length, plain + count, NULL);
    }
    unsigned char *exact = memory_allocate(bytes, 1); /* nothing after it, for ASan */
    memcpy(exact, text, bytes);
    for (int round = 0; round < 2; round++) {
        size_t n = tokenizer_encode(t, exact, bytes, "text", &ids), size = 0;
        wrong += n != count || memcmp(ids, plain, n * sizeof *ids) != 0;
        for (size_t i = 0; i < n; i++) {
            size_t more;
            const unsigned char *token = tokenizer_token(t, ids[i], &more);
            if (size + more > bytes || memcmp(text + size, token, more) != 0) break;
            size += more;
        }
        wrong += size != bytes;
        free(ids);
    }
    free(plain);
    free(exact);
    return wrong > 0;
}

static void test_encoding(Tokenizer *t, const char *name) {
    static const char *const alphabets[] = {"a", "ab", "aehinorst", "0123456789", "-=_.", ""};
    size_t wrong = 0, pieces = 0;
    unsigned char text[1200];
    for (size_t length = 1; length <= 300; length++) /* from the scan to the heap */
        for (int i = 0; i < 6; i++)
            for (int again = 0; again < 2 + 10 * (length - SHORT_MAX < 3); again++) {
                random_fill(text, length, alphabets[i]);
                wrong += encoders_differ(t, text, length);
                pieces++;
            }
    check(wrong == 0,
          "%s: short, long and plain on pieces of 1 to 300 bytes: %zu of %zu differ", name,
          wrong, pieces);
    wrong = pieces = 0;
    for (int round = 0; round < 30; round++) {
        size_t length = 1000 + random_below(3000);
        unsigned char *piece = memory_allocate(length, 1);
        random_fill(piece, length, alphabets[round % 6]);
        wrong += encoders_differ(t, piece, length);
        pieces++;
        free(piece);
    }
    check(wrong == 0, "%s: long and plain on pieces of 1000 to 4000: %zu of %zu differ", name,
          wrong, pieces);
    wrong = 0;
    size_t texts = 0;
    for (int round = 0; round < 10000; round++) {
        size_t bytes = random_text(text, sizeof text);
        if (round % 4 == 0) random_fill(text, bytes = random_below(100), "");
        wrong += texts_differ(t, text, bytes);
        texts++;
    }
    check(wrong == 0, "%s: random texts and bytes, encoded and decoded: %zu of %zu differ",
          name, wrong, texts);
}

/* Merges as no text teaches them: tokens that several merges build and, in every other round,
 * parts that only younger merges build, so that lower ranks follow higher ones. */
static void test_any_merges(void) {
    enum { MOST = 200 };
    size_t wrong = 0, pieces = 0, merges = 0, again = 0;
    unsigned char text[400];
    for (int round = 0; round < 400; round++) {
        Tokenizer *t = tokenizer_create(NULL, 0);
        uint32_t known[3 + MOST], list[MOST][3];
        size_t count = 1 + random_below(3), listed = 0, longest = 3 + random_below(15);
        for (size_t i = 0; i < count; i++) known[i] = t->id_of_byte['a' + i];
        for (int i = 0; i < MOST; i++) {
            uint32_t left = known[random_below(count)], right = known[random_below(count)];
            size_t a, b, tokens = t->vocab;
            tokenizer_token(t, left, &a);
            tokenizer_token(t, right, &b);
            if (a + b > longest) continue;
            uint32_t result = token_join(t, left, right);
            if (t->vocab > tokens) known[count++] = result;
            list[listed][0] = left, list[listed][1] = right, list[listed++][2] = result;
        }
        again -= t->vocab - 256;
        for (size_t i = 0; i < listed; i++) {
            uint32_t chosen[3];
            size_t from = round % 2 ? i + random_below(listed - i) : i;
            memcpy(chosen, list[from], sizeof chosen);
            memcpy(list[from], list[i], sizeof chosen);
            merge_add(t, chosen[0], chosen[1], chosen[2]);
        }
        merges += t->merges.count;
        again += t->merges.count;
        for (int i = 0; i < 20; i++) {
            size_t bytes = 1 + random_below(sizeof text);
            random_fill(text, bytes, i % 3 == 0 ? "abc" : i % 3 == 1 ? "ab" : "a");
            wrong += encoders_differ(t, text, bytes);
            pieces++;
        }
        tokenizer_destroy(t);
    }
    check(wrong == 0 && again > merges / 8,
          "%zu random merges, %zu of which build a token again: %zu of %zu pieces differ",
          merges, again, wrong, pieces);
}

/* A piece whose pairs might not have numbers in 32 bits is refused before a byte is read. */
static void test_too_long(void) {
    static const size_t lengths[] = {(size_t)UINT32_MAX / 4 + 1, (size_t)UINT32_MAX + 1,
                                     (size_t)UINT32_MAX + 300};
    for (int i = 0; i < 3; i++) {
        FILE *errors = tmpfile();
        if (!errors) die("no temporary file: %s", strerror(errno));
        fflush(stdout);
        pid_t child = fork();
        if (child < 0) die("cannot fork: %s", strerror(errno));
        if (child == 0) {
            dup2(fileno(errors), 2);
            Tokenizer *t = tokenizer_create(NULL, 0);
            piece_encode(t, (const unsigned char *)"", lengths[i], &(uint32_t){0});
            exit_unchecked(0);
        }
        int status = 0;
        waitpid(child, &status, 0);
        rewind(errors);
        Bytes message = stream_read(errors, "errors");
        fclose(errors);
        check(WIFEXITED(status) && WEXITSTATUS(status) == 1 && lines_of(message) == 1 &&
              strstr((char *)message.data, "1 GB is the limit"), "%.*s",
              (int)(message.size ? message.size - 1 : 0), message.data);
        free(message.data);
    }
}

/* Nothing may depend on what the cache held before: keys that differ only in length, in the
 * bytes at the end, or in NULs after the piece. */
static void test_cache(void) {
    Tokenizer *t = tokenizer_learn((const unsigned char *)"!!!!!!!!!! \0\0\0\0\0\0 aaaaaaaaaaa",
                                   30, 270, false);
    size_t wrong = 0, texts = 0;
    for (size_t length = 1; length < 40; length++)
        for (int kind = 0; kind < 3; kind++) {
            unsigned char text[80] = {0};
            memset(text, kind == 0 ? 0 : kind == 1 ? 'a' : '!', length);
            if (kind == 2) memset(text + length / 2, 0, length - length / 2);
            wrong += texts_differ(t, text, length);
            texts++;
        }
    check(wrong == 0, "cache: pieces that differ in length or in NULs: %zu of %zu differ",
          wrong, texts);
    tokenizer_destroy(t);
}

static void test_pathological(void) {
    static const char *const names[] = {
        "a letter",     "a space",        "a digit",       "^",   "an emoji",
        "random bytes", "random letters", "random digits", "NUL", "a newline",
        "=", "common letters"};
    static const char *const alphabets[] = {
        "a", " ", "7", "^", NULL, "", "abcdefghijklmnopqrstuvwxyz", "0123456789", NULL, "\n",
        "=", "eeeettaaooiinnsshhrrddlu"};
    enum { BYTES = 1000000 };
    unsigned char *text = memory_allocate(BYTES, 1);
    for (int i = 0; i < 12; i++) {
        if (alphabets[i]) random_fill(text, BYTES, alphabets[i]);
        else for (size_t k = 0; k < BYTES; k++)
            text[k] = i == 8 ? 0 : (unsigned char)"\xF0\x9F\x98\x80"[k % 4];
        clock_t start = clock();
        uint32_t *ids;
        size_t n = tokenizer_encode(gpt2, text, BYTES, "text", &ids), size = 0, more;
        double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        for (size_t k = 0; k < n; k++) tokenizer_token(gpt2, ids[k], &more), size += more;
        /* Quadratic time would be minutes; the limit is generous, for sanitizers and old
         * machines. */
        check(seconds < 3 && size == BYTES,
              "a million bytes of %s: %zu ids, %.2f s of at most 3", names[i], n, seconds);
        free(ids);
    }
    free(text);
}

/* ---- files ---- */

static Tokenizer *parse(const char *vocab, const char *merges) {
    Bytes v = {(unsigned char *)(uintptr_t)vocab, vocab ? strlen(vocab) : 0};
    Bytes m = {(unsigned char *)(uintptr_t)merges, strlen(merges)};
    return tokenizer_parse(v, "vocab.json", m, "merges.txt");
}

static void test_files(void) {
    Bytes text = file_read("tests/reference/tokenizer_learn.txt");
    Tokenizer *t = tokenizer_learn(text.data, text.size, 700, false);
    char *path = folder_path("vocab.json");
    tokenizer_save(t, folder);
    Tokenizer *again = tokenizer_load(folder);
    check(merges_same(t, again) && again->special_count == 0,
          "saved and loaded: the same tokenizer");
    tokenizer_destroy(again);
    unlink(path);
    again = tokenizer_load(folder);
    check(merges_same(t, again), "loaded from merges.txt alone: the same tokenizer");
    tokenizer_destroy(again);
    tokenizer_destroy(t);
    t = tokenizer_create(text.data, text.size);
    tokenizer_save(t, folder);
    again = tokenizer_load(folder);
    check(t->vocab < 256 && merges_same(t, again) &&
          memcmp(t->id_of_byte, again->id_of_byte, sizeof t->id_of_byte) == 0,
          "a vocabulary of %zu single bytes, saved and loaded", t->vocab);
    uint32_t *ids;
    size_t n = tokenizer_encode(again, text.data, text.size, "text", &ids);
    check(n == text.size && ids[5] == t->id_of_byte[text.data[5]],
          "without merges, one id per byte");
    free(ids);
    tokenizer_destroy(again);
    tokenizer_destroy(t);
    free(text.data);
    free(path);
    /* ids in any order, escapes, a special token, Windows line ends, no newline at the end */
    t = parse("{\"b\":3, \"<x>\" "
              ":0,\n\"\\u0061\":1,\"ab\":2,\"\\\"\":4,\"\\u0120\":5,\"\\u0120ab\":6}",
              "a b\r\n\xC4\xA0 ab");
    check(t->vocab == 7 && t->id_of_byte['a'] == 1 && t->id_of_byte['"'] == 4 &&
          t->id_of_byte[' '] == 5 && t->merges.count == 2 && t->result[1] == 6 &&
          t->special_count == 1 && t->specials[0] == 0,
          "a vocab.json with its ids in another order");
    n = tokenizer_encode(t, (const unsigned char *)"ab ab", 5, "text", &ids);
    check(n == 2 && ids[0] == 2 && ids[1] == 6, "and encodes with it");
    free(ids);
    tokenizer_destroy(t);
    t = parse(NULL, "#version: 0.2\n");
    check(t->vocab == 256 && t->merges.count == 0 && t->id_of_byte['!'] == 0 &&
              t->id_of_byte[0] == 188,
          "no merges: 256 bytes in GPT-2's order");
    tokenizer_destroy(t);
}

/* What `tokenizers` writes around the model, with odd white space; ' is short for ". */
#define HEAD(added)                                                                            \
    "{'version': '1.0', 'truncation': null, 'padding': {'to': [1, {}, []]}, 'added_tokens': [" \
    added "], 'normalizer': null, 'pre_tokenizer': {'type' : 'ByteLevel', "                    \
    "'add_prefix_space':false,'trim_offsets': true, 'use_regex': true}, 'model': "

static char *quotes_make(const char *text) { /* the caller frees it */
    char *copy = text_format("%s", text);
    for (char *c = copy; *c; c++)
        if (*c == '\'') *c = '"';
    return copy;
}

static Tokenizer *parse_json(const char *text) {
    char *quoted = quotes_make(text);
    Tokenizer *t = tokenizer_json_parse((Bytes){(unsigned char *)quoted, strlen(quoted)},
                                        "tokenizer.json");
    free(quoted);
    return t;
}

static void test_tokenizer_json(void) {
    static const char *const forms[] = {
        "['a b', '\\u0120 ab', 'ab ab']",
        "[['a', 'b'],['\\u0120','ab'] , ['ab', 'ab']]",
        "[['a', 'b'], '\xC4\xA0 ab', ['ab', 'ab']]"};
    static const char vocab[] =
        "{'b':3, '<x>':0,'a':1,'ab':2,'\\u0120':4,'\\u0120ab':5,'abab':6}";
    char *quoted = quotes_make(vocab);
    Tokenizer *expected = parse(quoted, "a b\n\xC4\xA0 ab\nab ab\n");
    free(quoted);
    for (int i = 0; i < 3; i++) {
        char *text = text_format(
            "%s{'type': 'BPE', 'dropout': null, 'end_of_word_suffix': '', "
            "'continuing_subword_prefix': null, 'ignore_merges': false, 'vocab': %s, "
            "'merges': %s}}",
            HEAD("{'id': 0, 'content': '<x>', 'special': true}"), vocab, forms[i]);
        Tokenizer *t = parse_json(text);
        check(merges_same(t, expected) && t->merges.count == 3 && t->special_count == 1 &&
                  t->specials[0] == 0,
              "tokenizer.json, merges in form %d: the same tokenizer", i + 1);
        tokenizer_destroy(t);
        free(text);
    }
    tokenizer_destroy(expected);
    /* Added tokens are spelled as they occur in a text: one has a space, one a character of two
     * bytes, one is in the vocabulary too.  The vocabulary follows the merges. */
    Tokenizer *t = parse_json(
        HEAD("{'content': 'a \xC4\xA0', 'id': 4},{'id': 2, 'lstrip': false, 'content': 'b b'}")
        "{'merges': ['a b'], 'vocab': {'b': 1, 'a': 0, 'b b': 2, 'ab': 3}}}");
    static const unsigned char added[] = "b babba \xC4\xA0" "a"; /* b b, ab, b, a_G, a */
    Ids ids = {0};
    text_encode_special(t, added, sizeof added - 1, "text", 0, &ids);
    static const uint32_t meant[] = {2, 3, 1, 4, 0};
    check(t->vocab == 5 && t->special_count == 2 && ids.count == 5 &&
              memcmp(ids.data, meant, sizeof meant) == 0,
          "added tokens, in the vocabulary or not, are special");
    free(ids.data);
    tokenizer_destroy(t);
    /* In a folder it precedes merges.txt; saving another tokenizer there deletes it. */
    quoted = quotes_make(HEAD("") "{'vocab': {'z': 0}, 'merges': []}}");
    folder_file("tokenizer.json", quoted, strlen(quoted));
    free(quoted);
    char *path = folder_path("tokenizer.json");
    Tokenizer *first = tokenizer_load(folder), *second = tokenizer_create(NULL, 0);
    tokenizer_save(second, folder);
    bool gone = access(path, F_OK) != 0;
    Tokenizer *third = tokenizer_load(folder);
    check(first->vocab == 1 && first->id_of_byte['z'] == 0 && gone && third->vocab == 256,
          "a folder with tokenizer.json, before and after another tokenizer is saved there");
    tokenizer_destroy(first);
    tokenizer_destroy(second);
    tokenizer_destroy(third);
    free(path);
}

/* Opens the folder in a child, which must die with one line that holds `expected`. */
static void check_folder_refused(const char *what, const char *expected) {
    Bytes out, errors;
    int status = RUN("ab", 2, &out, &errors, "encode", "--model", folder);
    bool good = status == 1 && lines_of(errors) == 1 && errors.size < 400 &&
                strstr((char *)errors.data, expected) && out.size == 0;
    check(good, "%s is refused: %.*s", what, (int)(errors.size ? errors.size - 1 : 0),
          errors.data);
    free(out.data);
    free(errors.data);
}

static void check_refused(const char *what, const char *vocab, const char *merges,
                          const char *expected) {
    char *path = folder_path("vocab.json");
    if (vocab) folder_file("vocab.json", vocab, strlen(vocab));
    else unlink(path);
    free(path);
    folder_file("merges.txt", merges, strlen(merges));
    check_folder_refused(what, expected);
}

/* Models: with no tokens, and with one and these merges. */
#define NOTHING "{'vocab': {}, 'merges': []}}"
#define ONLY_A(merges) "{'vocab': {'a': 0}, 'merges': [" merges "]}}"
#define CUT(settings) "{'pre_tokenizer': {" settings "}, 'model': {}}"
#define DEEP "[[[[[[[[[[[[[[[[[[[["

static void test_hostile_json(void) {
    static const struct { const char *what, *text, *expected; } cases[] = {
        {"an empty tokenizer.json", "", "expected an object"},
        {"a tokenizer.json that is a list", "[]", "expected an object"},
        {"one that ends early", HEAD("") "{'vocab': {'a': 0", " or "},
        {"text after it", HEAD("") NOTHING " x", "end of the text"},
        {"one without a model", "{'pre_tokenizer': {'type': 'ByteLevel'}}", "has no model"},
        {"one without a pre_tokenizer", "{'pre_tokenizer': null, 'model': {}}",
         "has no pre_tokenizer"},
        {"a model without merges", HEAD("") "{'vocab': {'a': 0}}}", "has no merges"},
        {"a model without vocab", HEAD("") "{'merges': []}}", "has no vocab"},
        {"another model", HEAD("") "{'type': 'WordPiece', 'vocab': {}}}", "type is not 'BPE'"},
        {"merges that are ignored", HEAD("") "{'ignore_merges': true}}",
         "ignore_merges is not false"},
        {"dropout of merges", HEAD("") "{'dropout': 0.1}}", "dropout is not null"},
        {"a prefix of tokens inside words", HEAD("") "{'continuing_subword_prefix': '##'}}",
         "continuing_subword_prefix is not ''"},
        {"a suffix of words", HEAD("") "{'end_of_word_suffix': '</w>'}}",
         "end_of_word_suffix is not ''"},
        {"tokens for single bytes", HEAD("") "{'byte_fallback': true}}",
         "byte_fallback is not false"},
        {"a normalizer", "{'normalizer': {}, 'pre_tokenizer': {}, 'model': {}}",
         "normalizer is not null"},
        {"another pre_tokenizer", CUT("'type': 'Sequence'"), "type is not 'ByteLevel'"},
        {"a space before each text", CUT("'type': 'ByteLevel', 'add_prefix_space': true"),
         "add_prefix_space is not false"},
        {"a text that is not split", CUT("'type': 'ByteLevel', 'use_regex': false"),
         "use_regex is not true"},
        {"an added token without id", HEAD("{'content': 'x'}") NOTHING, "without id"},
        {"an empty added token", HEAD("{'id': 0, 'content': ''}") NOTHING,
         "is empty"},
        {"an added token twice", HEAD("{'id': 0, 'content': 'x'}, {'id': 1, 'content': 'x'}")
         NOTHING, "twice"},
        {"one with another id", HEAD("{'id': 1, 'content': 'a'}") ONLY_A(""), "twice"},
        {"one that takes an id", HEAD("{'id': 0, 'content': 'x'}") ONLY_A(""),
         "two tokens have the id 0"},
        {"a gap before one", HEAD("{'id': 2, 'content': 'x'}") ONLY_A(""),
         "id 2 is out of range"},
        {"one far away", HEAD("{'id': 99999999999, 'content': 'x'}") ONLY_A(""),
         "out of range"},
        {"a merge of one part", HEAD("") ONLY_A("['a']"), "a list of two tokens"},
        {"a merge of three parts", HEAD("") ONLY_A("['a','a','a']"), "a list of two tokens"},
        {"a merge that is a number", HEAD("") ONLY_A("7"), "a list [...]"},
        {"a merge without a space", HEAD("") ONLY_A("'aa'"), "merge 1: expected two tokens"},
        {"a merge with a line feed", HEAD("") ONLY_A("'a a\\na a'"), "no line feed"},
        {"a merge that builds nothing", HEAD("") ONLY_A("'a a'"), "merge 1: what it builds"},
        {"a merge twice",
         HEAD("") "{'vocab': {'a': 0, 'aa': 1}, 'merges': ['a a', ['a', 'a']]}}",
         "merge 2: this merge occurs twice"},
        {"brackets without end", HEAD(DEEP DEEP DEEP DEEP), "fewer brackets"}};
    char *path = folder_path("tokenizer.json");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = quotes_make(cases[i].text), *expected = quotes_make(cases[i].expected);
        folder_file("tokenizer.json", text, strlen(text));
        check_folder_refused(cases[i].what, expected);
        free(text);
        free(expected);
    }
    unlink(path);
    free(path);
}

static void test_hostile(void) {
    check_refused("an empty vocab.json", "", "", "byte 0: expected an object");
    check_refused("a vocab.json that ends early", "{\"a\": 0, \"b\"", "",
                  "byte 12: expected ':'");
    check_refused("a line feed in a string", "{\"a\": 0, \"b\n\": 1}", "",
                  "byte 11: expected no");
    check_refused("an unknown escape", "{\"a\\q\": 0}", "", "byte 4: expected a valid escape");
    check_refused("an id out of range", "{\"a\": 0, \"b\": 2}", "", "id 2 is out of range");
    check_refused("an id beyond any range", "{\"a\": 0, \"b\": 4294967296}", "",
                  "out of range");
    check_refused("a negative id", "{\"a\": -1}", "", "not negative");
    check_refused("an id that is no whole number", "{\"a\": 0.5}", "",
                  "byte 6: expected a whole");
    check_refused("an overlong encoding of a letter", "{\"a\": 0, \"\xC0\xA1\": 1}", "",
                  "GPT-2's byte symbols");
    check_refused("an id given twice", "{\"a\": 0, \"b\": 0}", "", "two tokens have the id 0");
    check_refused("a token given twice", "{\"a\": 0, \"a\": 1}", "", "twice");
    check_refused("an empty token", "{\"a\": 0, \"\": 1}", "", "GPT-2's byte symbols");
    check_refused("a token with a space", "{\"a\": 0, \"b c\": 1}", "", "GPT-2's byte symbols");
    check_refused("a token beyond the symbols", "{\"a\": 0, \"\xC5\x84\": 1}", "",
                  "GPT-2's byte symbols");
    check_refused("a token with NUL", "{\"a\\u0000\": 0}", "", "NUL");
    check_refused("half a pair of surrogates", "{\"\\ud800\": 0}", "", "halves of a pair");
    check_refused("text after the object", "{\"a\": 0} {", "", "the end of the text");
    check_refused("a list for an object", "[]", "", "expected an object");
    check_refused("a missing byte", "{\"a\": 0}", "",
                  "0x62, which is not in the model's vocabulary");
    check_refused("a merge of the unknown", "{\"a\": 0, \"b\": 1}", "a c\n",
                  "line 1: the right token");
    check_refused("a merge that builds the unknown", "{\"a\": 0, \"b\": 1}", "a b\n",
                  "not in the vocabulary");
    check_refused("a merge of what a later line builds", "{\"a\":0,\"b\":1,\"ab\":2,\"abb\":3}",
                  "ab b\na b\n", "line 1: the left token");
    check_refused("a merge that builds its own part", NULL, "a ab\na b\n",
                  "line 1: the right token");
    check_refused("a merge given twice", NULL, "#version: 0.2\na b\na b\n",
                  "line 3: this merge occurs twice");
    check_refused("a line without a space", NULL, "a b\nab\n", "line 2: expected two tokens");
    check_refused("a line with two spaces", NULL, "a b c\n", "line 1: expected two tokens");
    check_refused("an empty left part", NULL, " b\n", "line 1: expected two tokens");
    check_refused("an empty line", NULL, "a b\n\na ab\n", "line 2: expected two tokens");
    enum { HUGE_BYTES = 1 << 20 };
    char *huge = memory_allocate(2 * HUGE_BYTES + 64, 1);
    memset(huge, 'a', HUGE_BYTES);
    strcpy(huge + HUGE_BYTES, " a\n");
    check_refused("a merge with a part of a megabyte", NULL, huge,
                  "line 1: expected two tokens");
    strcpy(huge, "{\"");
    memset(huge + 2, 'a', HUGE_BYTES);
    strcpy(huge + 2 + HUGE_BYTES, "\": 0}");
    check_refused("a token of a megabyte", huge, "", "too long here");
    size_t at = 0; /* a a, aa aa, ...: a token of twice the length with each line */
    for (size_t length = 1; length <= 32768; length *= 2) {
        memset(huge + at, 'a', 2 * length + 1);
        huge[at + length] = ' ';
        at += 2 * length + 1;
        huge[at++] = '\n';
    }
    huge[at] = 0;
    check_refused("merges that double their token", NULL, huge, "line 16: expected two tokens");
    free(huge);
}

/* ---- the program ---- */

static void test_program(void) {
    Bytes out, errors, text = file_read("tests/reference/tokenizer_learn.txt");
    /* Three megabytes, so that it is read in parts; the first has no white space at all. */
    size_t bytes = 3 << 20;
    unsigned char *large = memory_allocate(bytes, 1);
    for (size_t i = 0; i < bytes; i++) large[i] = text.data[i % text.size];
    for (size_t i = 0; i < 1500000; i++)
        if (large[i] == ' ' || large[i] == '\n') large[i] = '_';
    char *path = folder_path("large.txt"), *model = folder_path("model");
    folder_file("large.txt", large, bytes);
    int status = RUN(NULL, 0, &out, &errors, "train", "--vocab", "1000", "--out", model,
                     "--verbose", "tests/reference/tokenizer_learn.txt");
    check(status == 0 && lines_of(out) == 1 && lines_of(errors) == 744 &&
          strncmp((char *)errors.data, "merge 0: ", 9) == 0,
          "train --verbose prints a line for each merge (%zu) and one at the end (%zu)",
          lines_of(errors), lines_of(out));
    free(out.data);
    free(errors.data);
    Tokenizer *t = tokenizer_load(model),
              *same = tokenizer_learn(text.data, text.size, 1000, false);
    check(merges_same(t, same), "train learns what tokenizer_learn() learns");
    tokenizer_destroy(same);
    uint32_t *ids;
    size_t n = tokenizer_encode(t, large, bytes, "text", &ids), at = 0, wrong = 0;
    status = RUN(NULL, 0, &out, &errors, "encode", "--model", model, path);
    Bytes decimal = out;
    for (size_t i = 0; i < n && at < out.size; i++) {
        char *end;
        wrong += strtoul((char *)out.data + at, &end, 10) != ids[i];
        at = (size_t)(end - (char *)out.data) + 1;
    }
    check(status == 0 && wrong == 0 && at == out.size && lines_of(out) == 1 && errors.size == 0,
          "encode, in parts: one line of %zu ids, %zu differ", n, wrong);
    free(errors.data);
    status = RUN(decimal.data, decimal.size, &out, &errors, "decode", "--model", model);
    check(status == 0 && out.size == bytes && memcmp(out.data, large, bytes) == 0,
          "decode gives the text back");
    free(out.data);
    free(errors.data);
    status = RUN(large, bytes, &out, &errors, "encode", "--model", model, "--raw", "-");
    Bytes raw = out;
    for (size_t i = wrong = 0; i < n && 2 * i + 1 < raw.size; i++)
        wrong += raw.data[2 * i] + 256u * raw.data[2 * i + 1] != ids[i];
    check(status == 0 && raw.size == 2 * n && wrong == 0, "encode --raw: 2 bytes for each id");
    free(errors.data);
    free(raw.data);
    status = RUN("7 1000", 6, &out, &errors, "decode", "--model", model);
    check(status == 1 &&
              strstr((char *)errors.data, "id 1000 (number 2) is out of range: the vocabulary "
                                          "has 1000 ids"),
          "decode: %s", errors.data);
    free(out.data);
    free(errors.data);
    status = RUN("7 8x", 4, &out, &errors, "decode", "--model", model);
    check(status == 1 && strstr((char *)errors.data, "0x78"), "decode: %s", errors.data);
    free(out.data);
    free(errors.data);
    /* 2^64 + 5 is not id 5 */
    status = RUN("18446744073709551621", 20, &out, &errors, "decode", "--model", model);
    check(status == 1 && lines_of(errors) == 1 && out.size == 0, "decode: %s", errors.data);
    free(out.data);
    free(errors.data);
    status = RUN("123456789012", 12, &out, &errors, "decode", "--model", model);
    check(status == 1 && strstr((char *)errors.data, "id 123456789012 "),
          "decode: %s", errors.data);
    free(out.data);
    free(errors.data);
    status = RUN("sharian ingan", 13, &out, &errors, "show", "--model", model);
    check(status == 0 && strstr((char *)out.data, "merge ") &&
              strstr((char *)out.data, "ids: "),
          "show prints merges and ids");
    free(out.data);
    free(errors.data);
    static const char specials[] = "{\"a\": 0, \"<s>\": 1, \"<s>x\": 2}";
    folder_file("model/merges.txt", "#version: 0.2\n", 14);
    folder_file("model/vocab.json", specials, strlen(specials));
    status = RUN("aa<s>a<s>xa", 11, &out, &errors, "encode", "--model", model, "--special");
    check(status == 0 && strcmp((char *)out.data, "0 0 1 0 2 0\n") == 0,
          "encode --special, the longest that fits: %s", out.data);
    free(out.data);
    free(errors.data);
    /* With three single bytes instead of 256. */
    static const char few[] = "{\"a\": 0, \"b\": 1, \"ab\": 2, \"aba\": 3}";
    folder_file("model/merges.txt", "a b\nab a\n", 9);
    folder_file("model/vocab.json", few, strlen(few));
    status = RUN("abab", 4, &out, &errors, "show", "--model", model);
    check(status == 0 && strcmp((char *)out.data,
                                "abab\n a b a b\n    merge 0:   ab a b\n    merge 0:   ab ab\n"
                                "    ids: ab = 2, ab = 2\n") == 0, "show, to the letter: %s",
          out.data);
    free(out.data);
    free(errors.data);
    folder_file("model/merges.txt", "#version: 0.2\n", 14);
    folder_file("model/vocab.json", specials, strlen(specials));
    status = RUN("aa<s>", 5, &out, &errors, "encode", "--model", model);
    check(status == 1 && strstr((char *)errors.data, "byte 2 is 0x3C"),
          "without --special it is plain text: %s", errors.data);
    free(out.data);
    free(errors.data);
    static const char *const wrong_lines[][6] = {
        {"encode"},
        {"fly", "--model", "x"},
        {"encode", "--model"},
        {"encode", "--model", "x", "--vocab", "300"},
        {"train", "--vocab", "255", "--out", "x"},
        {"train", "--vocab", "1e3", "--out", "x"},
        {"train", "--vocab", "-1", "--out", "x"},
        {"train", "--out", "x", "y"},
        {"train", "--vocab", "99999999999999999999", "--out", "x"},
        {"encode", "--model", "x", "y", "z"},
        {"decode", "--model", "x", "--raw"}};
    for (size_t i = 0; i < sizeof wrong_lines / sizeof *wrong_lines; i++) {
        status = program_run(wrong_lines[i], NULL, 0, &out, &errors);
        check(status == 2 && lines_of(errors) == 1 && out.size == 0, "a wrong command line: %s",
              errors.data);
        free(out.data);
        free(errors.data);
    }
    status = RUN(NULL, 0, &out, &errors, "encode", "--model", "tests/nothing");
    check(status == 1 && lines_of(errors) == 1, "no such model: %s", errors.data);
    free(out.data);
    free(errors.data);
    status = RUN(NULL, 0, &out, &errors, "train", "--vocab", "300", "--out",
                 "tests/check.none/x/", "tests");
    check(status == 1 && lines_of(errors) == 1 && access("tests/check.none", F_OK) != 0,
          "a folder as text: %s", errors.data);
    free(out.data);
    free(errors.data);
    /* more than 65,536 tokens: four bytes for each id */
    for (size_t i = 0; i < 400000; i++) large[i] = (unsigned char)('a' + random_below(26));
    for (size_t i = 7; i < 400000; i += 8) large[i] = ' ';
    folder_file("large.txt", large, 400000);
    status = RUN(NULL, 0, &out, &errors, "train", "--vocab", "70000", "--out", model, path);
    check(status == 0, "train --vocab 70000");
    free(out.data);
    free(errors.data);
    status = RUN(large, 50000, &out, &errors, "encode", "--model", model, "--raw");
    raw = out;
    free(errors.data);
    Tokenizer *wide = tokenizer_load(model);
    uint32_t *wide_ids, greatest = 0;
    n = tokenizer_encode(wide, large, 50000, "text", &wide_ids);
    for (size_t i = wrong = 0; i < n && 4 * i + 3 < raw.size; i++) {
        uint32_t id = raw.data[4 * i] | (uint32_t)raw.data[4 * i + 1] << 8 |
                      (uint32_t)raw.data[4 * i + 2] << 16 | (uint32_t)raw.data[4 * i + 3] << 24;
        wrong += id != wide_ids[i];
        if (id > greatest) greatest = id;
    }
    check(status == 0 && raw.size == 4 * n && wrong == 0 && greatest > 65535,
          "encode --raw with %zu tokens: 4 bytes for each id, %zu differ", wide->vocab, wrong);
    free(raw.data);
    free(wide_ids);
    tokenizer_destroy(wide);
    free(decimal.data);
    free(ids);
    free(large);
    free(text.data);
    free(path);
    free(model);
    tokenizer_destroy(t);
}

int main(void) {
    folder_create("build");
    if (!mkdtemp(folder)) die("%s: cannot create: %s", folder, strerror(errno));
    gpt2_open();
    test_classes();
    test_tables();
    test_cut();
    test_strings();
    test_learning();
    test_learning_reference();
    Bytes text = file_read("tests/reference/tokenizer_learn.txt");
    Tokenizer *t = tokenizer_learn(text.data, text.size, 1200, false);
    test_encoding(t, "learned");
    tokenizer_destroy(t);
    free(text.data);
    test_any_merges();
    test_too_long();
    test_cache();
    if (gpt2) {
        test_encoding(gpt2, "GPT-2");
        test_pathological();
        tokenizer_destroy(gpt2);
    } else check_skip("GPT-2's tokenizer against its definition, and in hard cases");
    test_files();
    test_tokenizer_json();
    test_hostile();
    test_hostile_json();
    test_program();
    static const char *const left[] = {
        "model/vocab.json", "model/merges.txt", "model", "vocab.json",
        "merges.txt",       "large.txt",        ""};
    for (size_t i = 0; i < sizeof left / sizeof *left; i++) {
        char *path = folder_path(left[i]);
        remove(path);
        free(path);
    }
    check(access(folder, F_OK) != 0, "no file is left over");
    return check_summary();
}

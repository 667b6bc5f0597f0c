/* tokenizer.c - text to token ids and back.
 *
 * A program of its own (`./tokenizer --help`) and a part of train.c, which defines
 * TOKENIZER_NO_MAIN and includes this file.  It knows nothing of train.c.
 *
 * Byte-level byte-pair encoding (BPE), as in GPT-2: a text is split into pieces (roughly
 * words), each piece is broken into single bytes, and adjacent pairs are merged into longer
 * tokens, in the order in which a training text once showed them to be frequent.
 *
 * Two functions are the definition: merges_learn_plain() in section 3 and piece_encode_plain()
 * in section 5.  They say all there is to say about BPE, in some 60 lines, and are slow.  Each
 * has a fast version that gives the same result: section 3 says why for learning, section 6 for
 * encoding.  The tests compare the two.
 *
 * Sections
 *   1. Small tools: errors, checked memory, files, JSON   (may be skipped at first)
 *   2. What a token is
 *   3. How merges are learned
 *   4. How a text is split
 *   5. How merges are applied
 *   6. The same ids, fast
 *   7. Whole texts
 *   8. A tokenizer on disk
 *   9. The program
 */
#ifndef TOKENIZER_C
#define TOKENIZER_C

#if __SIZEOF_POINTER__ < 8
#error "This needs a 64-bit system: sizes of texts and models do not fit into 32 bits."
#endif
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "This needs a little-endian system: files hold numbers as they are in memory."
#endif

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* =========================================================================================
 * 1. Small tools: errors, checked memory, files, JSON
 *
 * An error that a user can cause ends the program here: one line on stderr, exit status 1 (2
 * for a wrong command line).  So no function below returns an error code that a caller could
 * forget: it either returns what it promises or does not return.
 * ====================================================================================== */

static const char *program_name = "tokenizer"; /* opens every message; train.c says "train" */

/* Temporary files that have not been renamed yet (NULL: none).  An error deletes them. */
enum { UNFINISHED_MAX = 4 };
static char *unfinished[UNFINISHED_MAX];

/* Deletes unfinished files and prints a message.  Control characters, which a hostile file may
 * have put into a name, are shown as '?': a message is one line and cannot control a terminal.
 * (U+0080 to U+009F are control characters too; in UTF-8 they are 0xC2 and 0x80 to 0x9F.) */
static void message_end(const char *format, va_list arguments) {
    char text[1024];
    for (int i = 0; i < UNFINISHED_MAX; i++)
        if (unfinished[i]) unlink(unfinished[i]);
    vsnprintf(text, sizeof text, format, arguments);
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7F) *c = '?';
        else if ((unsigned char)*c == 0xC2 && c[1] && (unsigned char)c[1] < 0xA0)
            *c = c[1] = '?';
    fflush(stdout);
    fprintf(stderr, "%s: %s\n", program_name, text);
}

/* Ends the program with one line on stderr, exit status 1. */
__attribute__((noreturn, format(printf, 1, 2)))
void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    message_end(format, arguments);
    va_end(arguments);
    exit(1);
}

/* The same for a wrong command line: exit status 2. */
__attribute__((noreturn, format(printf, 1, 2)))
void die_usage(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    message_end(format, arguments);
    va_end(arguments);
    exit(2);
}

/* count * size zeroed bytes, never NULL; the caller owns them and calls free(). */
void *memory_allocate(size_t count, size_t size) {
    void *memory = count && size ? calloc(count, size) : calloc(1, 1);
    if (!memory) die("out of memory: cannot allocate %zu times %zu bytes", count, size);
    return memory;
}

/* realloc() with the same promises; the new part is not zeroed. */
void *memory_resize(void *memory, size_t count, size_t size) {
    bool possible = !size || count <= SIZE_MAX / size;
    void *larger = possible ? realloc(memory, count && size ? count * size : 1) : NULL;
    if (!larger) die("out of memory: cannot allocate %zu times %zu bytes", count, size);
    return larger;
}

/* printf into new memory, which the caller frees. */
__attribute__((format(printf, 1, 2)))
char *text_format(const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length < 0) die("cannot format a text");
    char *text = memory_allocate((size_t)length + 1, 1);
    vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    return text;
}

/* printf into a text that is passed by value: the name of a file on its way into a call, a
 * number in a line of output.  text_of(...).chars lasts until the end of the statement that
 * makes it, so nobody frees it, and no later text can overwrite it. */
typedef struct {
    char chars[4096 + 64]; /* no system opens a longer name */
} Text;

__attribute__((format(printf, 1, 2)))
Text text_of(const char *format, ...) {
    Text text;
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text.chars, sizeof text.chars, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= sizeof text.chars)
        die("%.60s...: is too long", text.chars);
    return text;
}

typedef struct {
    unsigned char *data; /* size bytes and a NUL after them, which size does not count */
    size_t size;
} Bytes;

/* The rest of an open stream; `name` is for messages.  The caller frees .data. */
Bytes stream_read(FILE *stream, const char *name) {
    Bytes bytes = {memory_allocate(1 << 16, 1), 0};
    size_t capacity = 1 << 16;
    for (;;) {
        bytes.size += fread(bytes.data + bytes.size, 1, capacity - 1 - bytes.size, stream);
        if (ferror(stream)) die("%s: cannot read: %s", name, strerror(errno));
        if (bytes.size + 1 < capacity) break; /* a short count without an error is the end */
        capacity *= 2;
        bytes.data = memory_resize(bytes.data, capacity, 1);
    }
    bytes.data[bytes.size] = 0;
    return bytes;
}

static FILE *file_open(const char *path) { /* to read it */
    struct stat status;
    FILE *file = fopen(path, "rb");
    if (!file) die("%s: cannot open: %s", path, strerror(errno));
    if (fstat(fileno(file), &status) == 0 && S_ISDIR(status.st_mode))
        die("%s: is a folder; a file is needed here", path);
    return file;
}

/* A whole file.  The caller frees .data. */
Bytes file_read(const char *path) {
    FILE *file = file_open(path);
    Bytes bytes = stream_read(file, path);
    fclose(file);
    return bytes;
}

/* Files are replaced whole or not at all: what is written goes to PATH.tmp, which takes the
 * name PATH only after every byte is on the disk.  Whoever opens PATH, at any instant, a power
 * cut included, sees the old file or the new one. */
typedef struct {
    FILE *stream;
    char *path, *temporary;
} FileWriter;

static void unfinished_replace(char *old, char *new) {
    int i = 0;
    while (i < UNFINISHED_MAX && unfinished[i] != old) i++;
    assert(i < UNFINISHED_MAX);
    unfinished[i] = new;
}

FileWriter file_create(const char *path) {
    FileWriter file = {NULL, text_format("%s", path), text_format("%s.tmp", path)};
    file.stream = fopen(file.temporary, "wb");
    if (!file.stream) die("%s: cannot create: %s", file.temporary, strerror(errno));
    unfinished_replace(NULL, file.temporary);
    return file;
}

__attribute__((noreturn)) static void file_fail(const FileWriter *file, const char *what) {
    die("%s: cannot %s: %s; what was saved before is as it was", file->temporary, what,
        strerror(errno));
}

void file_write(FileWriter *file, const void *data, size_t bytes) {
    if (bytes && fwrite(data, 1, bytes, file->stream) != bytes) file_fail(file, "write");
}

/* Every byte is on the disk afterwards, under the temporary name. */
void file_finish(FileWriter *file) {
    if (ferror(file->stream) || fflush(file->stream) != 0 || fsync(fileno(file->stream)) != 0 ||
        fclose(file->stream) != 0)
        file_fail(file, "write");
}

/* Makes what happened to the names in a folder, that of this path included, survive a power
 * cut. */
void folder_flush(const char *path) {
    char *folder = text_format("%s", path), *slash = strrchr(folder, '/');
    if (slash) slash[slash == folder] = 0;
    int descriptor = open(slash ? folder : ".", O_RDONLY);
    if (descriptor < 0 || (fsync(descriptor) != 0 && errno != EINVAL))
        die("%s: cannot flush the folder to disk: %s", slash ? folder : ".", strerror(errno));
    close(descriptor);
    free(folder);
}

/* Gives a finished file its name. */
void file_rename(FileWriter *file) {
    if (rename(file->temporary, file->path) != 0) file_fail(file, "rename");
    unfinished_replace(file->temporary, NULL);
    folder_flush(file->path);
    free(file->path);
    free(file->temporary);
}

/* The end of a file that file_create began. */
void file_commit(FileWriter *file) {
    file_finish(file);
    file_rename(file);
}

/* Deletes a file, if it exists. */
void file_remove(const char *path) {
    if (unlink(path) == 0) folder_flush(path);
    else if (errno != ENOENT) die("%s: cannot be removed: %s", path, strerror(errno));
}

/* Creates a folder and those above it; one that exists is as good. */
void folder_create(const char *path) {
    struct stat status;
    char *part = text_format("%s/", path);
    if (!*path) die("the name of a folder is empty");
    for (char *slash = part; (slash = strchr(slash + 1, '/')); *slash = '/') {
        *slash = 0;
        if (mkdir(part, 0777) == 0) folder_flush(part);
        else if (errno != EEXIST)
            die("%s: cannot create the folder: %s", part, strerror(errno));
    }
    if (stat(path, &status) != 0 || !S_ISDIR(status.st_mode))
        die("%s: is not a folder", path);
    free(part);
}

/* A JSON text is read from front to back: the caller asks for what must come next.  For an
 * object: `json_enter(&j, '{'); while (json_key(&j, key, sizeof key)) ...one value...`; for an
 * array: `json_enter(&j, '['); while (json_more(&j, ']')) ...one value...`.  Whatever is not
 * JSON ends the program with the name of the file and the byte. */
typedef struct {
    const unsigned char *text;
    size_t size, at;
    const char *name; /* for messages */
    bool first;       /* the next member is the first: no comma precedes it */
} Json;

__attribute__((noreturn)) static void json_fail(const Json *j, const char *expected) {
    die("%s: byte %zu: expected %s", j->name, j->at, expected);
}

static int json_byte(const Json *j) { return j->at < j->size ? j->text[j->at] : -1; }

static int json_peek(Json *j) { /* the next byte that is not white space, or -1 */
    int c;
    while ((c = json_byte(j)) == ' ' || c == '\t' || c == '\r' || c == '\n') j->at++;
    return c;
}

void json_enter(Json *j, char bracket) {
    if (json_peek(j) != bracket)
        json_fail(j, bracket == '{' ? "an object {...}" : "a list [...]");
    j->at++;
    j->first = true;
}

/* Is there another member before `bracket`?  Skips the comma, or the bracket. */
bool json_more(Json *j, char bracket) {
    int next = json_peek(j);
    bool more = next != bracket;
    if (!more || (!j->first && next == ',')) j->at++;
    else if (!j->first) json_fail(j, bracket == '}' ? "',' or '}'" : "',' or ']'");
    j->first = false;
    return more;
}

/* The four digits of a \u escape. */
static unsigned json_hex(Json *j) {
    unsigned value = 0;
    for (int i = 0; i < 4; i++, j->at++) {
        int c = json_byte(j);
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 :
                    c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (digit < 0) json_fail(j, "four hexadecimal digits after \\u");
        value = value * 16 + (unsigned)digit;
    }
    return value;
}

/* Appends a code point as UTF-8; returns the number of bytes, 1 to 4. */
size_t utf8_put(unsigned char *out, uint32_t c) {
    if (c < 0x80) return out[0] = (unsigned char)c, 1;
    size_t more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    static const unsigned char lead[4] = {0, 0xC0, 0xE0, 0xF0};
    out[0] = (unsigned char)(lead[more] | c >> 6 * more);
    for (size_t i = 1; i <= more; i++)
        out[i] = (unsigned char)(0x80 | (c >> 6 * (more - i) & 0x3F));
    return more + 1;
}

/* A string, unescaped, into out (capacity bytes, a closing NUL included); returns its
 * length.  If out is NULL it is only skipped. */
size_t json_string(Json *j, char *out, size_t capacity) {
    size_t length = 0;
    if (json_peek(j) != '"') json_fail(j, "a string in double quotes");
    j->at++;
    while (j->at < j->size && j->text[j->at] != '"') {
        unsigned char c = j->text[j->at], utf8[4] = {c};
        size_t bytes = 1;
        if (c < 0x20) json_fail(j, "no control character inside a string");
        j->at++;
        if (c == '\\') {
            static const char escapes[] = "\"\\/bfnrt", meaning[] = "\"\\/\b\f\n\r\t";
            int escape = json_byte(j);
            const char *found = escape > 0 ? strchr(escapes, escape) : NULL;
            if (!found && escape != 'u') json_fail(j, "a valid escape");
            j->at++;
            if (found) {
                utf8[0] = (unsigned char)meaning[found - escapes];
            } else {
                uint32_t code = json_hex(j);
                if (code >= 0xD800 && code < 0xDC00 && j->size - j->at >= 6 &&
                    j->text[j->at] == '\\' && j->text[j->at + 1] == 'u') {
                    j->at += 2;
                    uint32_t low = json_hex(j);
                    if (low < 0xDC00 || low > 0xDFFF) json_fail(j, "the second half of a pair");
                    code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
                }
                if (code >= 0xD800 && code < 0xE000) json_fail(j, "both halves of a pair");
                if (code == 0 && out)
                    json_fail(j, "no NUL inside a string"); /* it would end it here */
                bytes = utf8_put(utf8, code);
            }
        }
        if (!out) continue;
        if (length + bytes >= capacity)
            die("%s: byte %zu: a string of %zu bytes or more, which is too long here", j->name,
                j->at, capacity);
        memcpy(out + length, utf8, bytes);
        length += bytes;
    }
    if (j->at >= j->size) json_fail(j, "the closing quote of a string");
    j->at++;
    if (out) out[length] = 0;
    return length;
}

/* The next key of an object and its colon; false at the end of the object. */
bool json_key(Json *j, char *key, size_t capacity) {
    if (!json_more(j, '}')) return false;
    json_string(j, key, capacity);
    if (json_peek(j) != ':') json_fail(j, "':'");
    j->at++;
    return true;
}

static size_t json_digits(Json *j) { /* skips digits, at least one */
    size_t start = j->at;
    while (json_byte(j) >= '0' && json_byte(j) <= '9') j->at++;
    if (j->at == start) json_fail(j, "a digit");
    return j->at - start;
}

double json_number(Json *j) {
    int c = json_peek(j);
    if (c != '-' && !(c >= '0' && c <= '9')) json_fail(j, "a number");
    size_t start = j->at;
    if (c == '-') j->at++;
    bool zero = json_byte(j) == '0';
    if (json_digits(j) > 1 && zero) json_fail(j, "no digit after a leading 0");
    if (json_byte(j) == '.') { j->at++; json_digits(j); }
    if (json_byte(j) == 'e' || json_byte(j) == 'E') {
        j->at++;
        if (json_byte(j) == '+' || json_byte(j) == '-') j->at++;
        json_digits(j);
    }
    if (j->at - start > 4096) json_fail(j, "a number of at most 4096 characters");
    char *digits = text_format("%.*s", (int)(j->at - start), (const char *)j->text + start);
    double value = strtod(digits, NULL);
    free(digits);
    return value;
}

/* A whole number from 0 to 2^53, the range in which a double is exact. */
size_t json_size(Json *j) {
    json_peek(j);
    size_t start = j->at;
    double value = json_number(j);
    if (!(value >= 0 && value <= 9007199254740992.0) || value != (double)(uint64_t)value) {
        j->at = start;
        json_fail(j, "a whole number that is not negative");
    }
    return (size_t)value;
}

/* Are these the next bytes?  Then they are skipped. */
bool json_word(Json *j, const char *word) {
    size_t length = strlen(word);
    json_peek(j);
    if (j->size - j->at < length || memcmp(j->text + j->at, word, length) != 0) return false;
    j->at += length;
    return true;
}

bool json_boolean(Json *j) {
    if (json_word(j, "true")) return true;
    if (!json_word(j, "false")) json_fail(j, "true or false");
    return false;
}

enum { JSON_DEPTH_MAX = 64 };

/* Skips one value.  Calls itself for what is inside brackets, but no deeper than
 * JSON_DEPTH_MAX: no file can exhaust the stack. */
static void json_skip_at(Json *j, int depth) {
    int c = json_peek(j);
    if (depth > JSON_DEPTH_MAX) json_fail(j, "fewer brackets, one inside the other");
    if (c == '{')
        for (json_enter(j, '{'); json_key(j, NULL, 0);) json_skip_at(j, depth + 1);
    else if (c == '[')
        for (json_enter(j, '['); json_more(j, ']');) json_skip_at(j, depth + 1);
    else if (c == '"') json_string(j, NULL, 0);
    else if (c == 't' || c == 'f') json_boolean(j);
    else if (c == 'n') { if (!json_word(j, "null")) json_fail(j, "null"); }
    else json_number(j);
}

/* Skips one value of any kind. */
void json_skip(Json *j) { json_skip_at(j, 0); }

/* A text as a JSON string, quotes included.  The caller frees it. */
char *json_quote(const char *text) {
    char *out = memory_allocate(6 * strlen(text) + 3, 1), *to = out;
    *to++ = '"';
    for (; *text; text++)
        if ((unsigned char)*text < 0x20) to += snprintf(to, 7, "\\u%04x", (unsigned)*text);
        else {
            if (*text == '"' || *text == '\\') *to++ = '\\';
            *to++ = *text;
        }
    *to = '"';
    return out;
}

/* Skips an object.  values[i] becomes a reader of the value of keys[i], or one whose text is
 * NULL if there is no such key. */
static void json_members(Json *j, const char *const *keys, Json *values, size_t count) {
    char key[1024];
    for (size_t i = 0; i < count; i++) values[i] = (Json){.name = j->name};
    for (json_enter(j, '{'); json_key(j, key, sizeof key); json_skip(j))
        for (size_t i = 0; i < count; i++)
            if (strcmp(key, keys[i]) == 0) values[i] = *j;
}

/* Nothing but white space may follow. */
void json_end(Json *j) {
    if (json_peek(j) != -1) json_fail(j, "the end of the text");
}

/* =========================================================================================
 * 2. What a token is                                 [glossary: Tokenization, Vocabulary]
 *
 * A model reads numbers, so a text becomes a sequence of ids.  A token is a byte string that
 * has an id; the vocabulary is the list of all tokens.  Three things are always true here:
 *
 *   - Ids run from 0 to vocab - 1 without a gap, and no two tokens are the same byte string.
 *   - A text is bytes, in any language and of any kind.  With all 256 single bytes in the
 *     vocabulary nothing is unknown, and the tokens of a text joined together are that text.
 *   - A longer token is built by a merge: the rule that two adjacent tokens may become one.
 *     Merges are ranked by age, and each joins bytes or what older merges built.  A token that
 *     is neither a byte nor built by a merge is special: no text turns into it unless the
 *     caller asks.  GPT-2 has one, <|endoftext|>, which separates documents.
 *
 * A vocabulary without merges is a character-level one, so the small first models and GPT-2's
 * 50,257 tokens are the same thing in two sizes.
 * ====================================================================================== */

enum {
    VOCAB_MAX = 1 << 24,    /* ranks below this leave 8 bits of 32 free: section 6 */
    TOKEN_BYTES_MAX = 65535 /* the longest token; files that claim a longer one are refused */
};
static const uint32_t NONE = UINT32_MAX; /* no id, no rank, no position */

/* Makes sure that one more item fits after `count` of them, by doubling the array if not. */
static void *array_grow(void *items, size_t *capacity, size_t count, size_t size) {
    if (count < *capacity) return items;
    *capacity = *capacity ? 2 * *capacity : 512;
    return memory_resize(items, *capacity, size);
}

/* A set of byte strings, numbered in the order in which they were added.  It holds the
 * vocabulary (number = id), and while merges are learned the pieces of the text with their
 * counts. */
typedef struct {
    unsigned char *bytes; /* all strings, concatenated */
    size_t *start;        /* string i is bytes[start[i]] up to bytes[start[i + 1]] */
    uint64_t *times;      /* how often it was added */
    size_t count, capacity, bytes_capacity;
    uint64_t *slots;      /* hash table: upper half of the hash, then number + 1; 0 is free */
    size_t slot_count;    /* a power of two, at least twice count */
} Strings;

/* String i, *bytes long; the memory belongs to the set. */
static const unsigned char *strings_get(const Strings *s, size_t i, size_t *bytes) {
    *bytes = s->start[i + 1] - s->start[i];
    return s->bytes + s->start[i];
}

static uint64_t bytes_hash(const unsigned char *data, size_t bytes) {
    uint64_t hash = bytes * 0x9E3779B97F4A7C15u, word;
    for (; bytes > 8; data += 8, bytes -= 8) {
        memcpy(&word, data, 8);
        hash = (hash ^ word) * 0xD6E8FEB86659FD93u;
        hash ^= hash >> 32;
    }
    word = 0;
    memcpy(&word, data, bytes);
    hash = (hash ^ word) * 0xD6E8FEB86659FD93u;
    return hash ^ hash >> 32;
}

/* The slot that holds a string, or the free slot where it would go. */
static uint64_t *strings_slot(const Strings *s, const unsigned char *data, size_t bytes,
                              uint64_t hash) {
    for (size_t at = hash;; at++) {
        uint64_t *slot = &s->slots[at & (s->slot_count - 1)];
        if (*slot == 0) return slot;
        if (*slot >> 32 != hash >> 32) continue;
        size_t i = (size_t)(*slot & UINT32_MAX) - 1;
        if (s->start[i + 1] - s->start[i] == bytes &&
            memcmp(s->bytes + s->start[i], data, bytes) == 0) return slot;
    }
}

/* The number of a string, or NONE. */
static uint32_t strings_find(const Strings *s, const unsigned char *data, size_t bytes) {
    if (!s->slot_count) return NONE;
    uint64_t slot = *strings_slot(s, data, bytes, bytes_hash(data, bytes));
    return slot ? (uint32_t)slot - 1 : NONE;
}

/* Adds a string, or counts it once more; returns its number. */
static uint32_t strings_add(Strings *s, const unsigned char *data, size_t bytes) {
    if (2 * (s->count + 1) > s->slot_count) { /* move to a table of twice the size */
        free(s->slots);
        s->slot_count = s->slot_count ? 2 * s->slot_count : 1024;
        s->slots = memory_allocate(s->slot_count, sizeof *s->slots);
        for (size_t i = 0, size; i < s->count; i++) {
            const unsigned char *string = strings_get(s, i, &size);
            uint64_t hash = bytes_hash(string, size);
            *strings_slot(s, string, size, hash) = hash >> 32 << 32 | (i + 1);
        }
    }
    uint64_t hash = bytes_hash(data, bytes), *slot = strings_slot(s, data, bytes, hash);
    if (*slot) {
        s->times[(uint32_t)*slot - 1]++;
        return (uint32_t)*slot - 1;
    }
    if (s->count >= UINT32_MAX - 2)
        die("a text of more than %u different pieces", UINT32_MAX - 2);
    if (s->count == s->capacity) {
        s->capacity = s->capacity ? 2 * s->capacity : 512;
        s->start = memory_resize(s->start, s->capacity + 1, sizeof *s->start);
        s->times = memory_resize(s->times, s->capacity, sizeof *s->times);
        if (!s->count) s->start[0] = 0;
    }
    size_t end = s->start[s->count] + bytes;
    if (end > s->bytes_capacity) {
        s->bytes_capacity = end + s->bytes_capacity / 2 + 4096;
        s->bytes = memory_resize(s->bytes, s->bytes_capacity, 1);
    }
    memcpy(s->bytes + s->start[s->count], data, bytes);
    s->start[s->count + 1] = end;
    s->times[s->count++] = 1;
    *slot = hash >> 32 << 32 | s->count;
    return (uint32_t)s->count - 1;
}

static void strings_destroy(Strings *s) {
    free(s->bytes);
    free(s->start);
    free(s->times);
    free(s->slots);
}

typedef struct {
    uint32_t left, right; /* the ids of two adjacent tokens */
} Pair;

/* A set of pairs, numbered in the order in which they were added. */
typedef struct {
    Pair *items;
    size_t count, capacity;
    uint32_t *slots;   /* hash table: number + 1; 0 is free */
    size_t slot_count; /* a power of two, at least four times count */
} Pairs;

/* The slot that holds a pair, or the free slot where it would go.  A slot is only four bytes
 * and three of four are free: most pairs that are looked up while a text is encoded are not
 * merges, and one access to one free slot shows that. */
static inline uint32_t *pairs_slot(const Pairs *pairs, uint32_t left, uint32_t right) {
    uint64_t hash = (uint64_t)left << 32 | right;
    hash = (hash ^ hash >> 29) * 0x9E3779B97F4A7C15u;
    hash = (hash ^ hash >> 32) * 0xD6E8FEB86659FD93u;
    for (size_t at = hash >> 32;; at++) {
        uint32_t *slot = &pairs->slots[at & (pairs->slot_count - 1)];
        if (*slot == 0) return slot;
        if (pairs->items[*slot - 1].left == left && pairs->items[*slot - 1].right == right)
            return slot;
    }
}

/* The number of a pair, or NONE. */
static inline uint32_t pairs_find(const Pairs *pairs, uint32_t left, uint32_t right) {
    return pairs->slot_count ? *pairs_slot(pairs, left, right) - 1 : NONE; /* 0 - 1 is NONE */
}

/* The number of a pair, which is added if it is new. */
static uint32_t pairs_add(Pairs *pairs, uint32_t left, uint32_t right) {
    if (4 * (pairs->count + 1) > pairs->slot_count) {
        free(pairs->slots);
        pairs->slot_count = pairs->slot_count ? 2 * pairs->slot_count : 1024;
        pairs->slots = memory_allocate(pairs->slot_count, sizeof *pairs->slots);
        for (size_t i = 0; i < pairs->count; i++)
            *pairs_slot(pairs, pairs->items[i].left, pairs->items[i].right) = (uint32_t)i + 1;
    }
    uint32_t *slot = pairs_slot(pairs, left, right);
    if (*slot) return *slot - 1;
    pairs->items =
        array_grow(pairs->items, &pairs->capacity, pairs->count, sizeof *pairs->items);
    pairs->items[pairs->count++] = (Pair){left, right};
    *slot = (uint32_t)pairs->count;
    return *slot - 1;
}

static void pairs_destroy(Pairs *pairs) {
    free(pairs->items);
    free(pairs->slots);
}

typedef struct PieceCache PieceCache; /* pieces encoded before, with their ids: section 6 */

typedef struct {
    size_t vocab;             /* number of ids; they run from 0 to vocab - 1 */
    Strings tokens;           /* the byte string of each id */
    uint32_t id_of_byte[256]; /* the id of a single byte; NONE if it is not in the vocabulary */
    Pairs merges;             /* the number of a merge is its rank: the oldest has rank 0 */
    uint32_t *result;         /* the id of what each merge builds */
    size_t result_capacity;
    uint32_t *specials;       /* ids of the special tokens */
    size_t special_count;
    PieceCache *cache;        /* allocated for the first text that is encoded */
} Tokenizer;

/* GPT-2's files show each byte as one visible symbol, so that a token can be part of a text
 * file whatever its bytes are: a printable byte is its own symbol, and the others are U+0100,
 * U+0101 and so on.  A space is then "\u0120", a G with a dot.  The ids of single bytes follow
 * the same order. */
bool byte_prints(int byte) {
    return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

/* Fills symbol[256] with the code point that shows each byte. */
static void byte_symbols(uint32_t *symbol) {
    uint32_t next = 256;
    for (int byte = 0; byte < 256; byte++)
        symbol[byte] = byte_prints(byte) ? (uint32_t)byte : next++;
}

/* A byte string in these symbols, as UTF-8 with a closing NUL; the caller frees it. */
char *bytes_show(const unsigned char *data, size_t bytes) {
    uint32_t symbol[256];
    byte_symbols(symbol);
    unsigned char *shown = memory_allocate(2 * bytes + 1, 1), *end = shown;
    for (size_t i = 0; i < bytes; i++) end += utf8_put(end, symbol[data[i]]);
    return (char *)shown;
}

/* The bytes of one token (id < vocab), *bytes of them; they belong to the tokenizer. */
const unsigned char *tokenizer_token(const Tokenizer *t, uint32_t id, size_t *bytes) {
    return strings_get(&t->tokens, id, bytes);
}

static char *token_show(const Tokenizer *t, uint32_t id) { /* the caller frees it */
    size_t bytes;
    const unsigned char *data = tokenizer_token(t, id, &bytes);
    return bytes_show(data, bytes);
}

/* Adds a token, or finds the one that is the same byte string; returns its id. */
static uint32_t token_add(Tokenizer *t, const unsigned char *data, size_t bytes) {
    uint32_t id = strings_add(&t->tokens, data, bytes);
    if (bytes == 1) t->id_of_byte[data[0]] = id;
    t->vocab = t->tokens.count;
    return id;
}

/* The id of the token that two others build, which is added if it is new. */
static uint32_t token_join(Tokenizer *t, uint32_t left, uint32_t right) {
    size_t a, b;
    const unsigned char *left_bytes = tokenizer_token(t, left, &a);
    const unsigned char *right_bytes = tokenizer_token(t, right, &b);
    unsigned char *joined = memory_allocate(a + b, 1);
    memcpy(joined, left_bytes, a);
    memcpy(joined + a, right_bytes, b);
    uint32_t result = token_add(t, joined, a + b);
    free(joined);
    return result;
}

/* Adds a merge, the youngest of all; returns its rank.  If the pair is a merge already, that
 * one stays as it is. */
static uint32_t merge_add(Tokenizer *t, uint32_t left, uint32_t right, uint32_t result) {
    size_t before = t->merges.count;
    uint32_t rank = pairs_add(&t->merges, left, right);
    if (rank < before) return rank;
    t->result = array_grow(t->result, &t->result_capacity, before, sizeof *t->result);
    t->result[rank] = result;
    return rank;
}

static Tokenizer *tokenizer_new(void) { /* with no tokens yet */
    Tokenizer *t = memory_allocate(1, sizeof *t);
    for (int byte = 0; byte < 256; byte++) t->id_of_byte[byte] = NONE;
    return t;
}

/* A vocabulary of single bytes: those that occur in `text`, or all 256 when text is NULL.
 * The caller calls tokenizer_destroy(). */
Tokenizer *tokenizer_create(const unsigned char *text, size_t bytes) {
    bool present[256] = {false};
    for (size_t i = 0; text && i < bytes; i++) present[text[i]] = true;
    Tokenizer *t = tokenizer_new();
    for (int printing = 1; printing >= 0; printing--)
        for (int byte = 0; byte < 256; byte++)
            if (byte_prints(byte) == printing && (!text || present[byte]))
                token_add(t, (const unsigned char[]){(unsigned char)byte}, 1);
    return t;
}

void tokenizer_destroy(Tokenizer *t) {
    strings_destroy(&t->tokens);
    pairs_destroy(&t->merges);
    free(t->result);
    free(t->specials);
    free(t->cache);
    free(t);
}

/* =========================================================================================
 * 3. How merges are learned                          [glossary: Byte-pair encoding (BPE)]
 *
 * The text has been split into pieces, roughly words with the space before them (section 4 says
 * how and why), and equal pieces are kept once with their count.  Each piece begins as a
 * sequence of single bytes.  Then, until the vocabulary is as large as wanted:
 *
 *     count every pair of adjacent tokens, in all pieces
 *     the most frequent pair becomes a merge; among equals, the one with the smallest ids
 *     wherever that pair occurs, from left to right, the new token replaces it
 *
 * So frequent strings become one token and rare ones stay in several: the vocabulary is spent
 * where it shortens the text most.  merges_learn_plain() is these three lines and nothing else.
 * It counts the whole text again for each merge; merges_learn() keeps the counts up to date
 * instead.  Both learn the same merges, and the tests compare them.
 *
 * Overlaps count: "aaa" holds the pair (a, a) twice, though only one of the two can be merged.
 * ====================================================================================== */

/* Is what these two build short enough to be a token? */
static bool pair_fits(const Tokenizer *t, uint32_t left, uint32_t right) {
    size_t a, b;
    tokenizer_token(t, left, &a);
    tokenizer_token(t, right, &b);
    return a + b <= TOKEN_BYTES_MAX;
}

/* Makes a merge of a pair, and returns the id of what it builds.  That token is always new: a
 * merge is applied wherever its pair occurs, so equal strings are built up in equal ways, and
 * no second pair of tokens can have the same bytes. */
static uint32_t merge_learn(Tokenizer *t, uint32_t left, uint32_t right) {
    uint32_t result = token_join(t, left, right);
    assert(result == t->vocab - 1);
    merge_add(t, left, right, result);
    return result;
}

/* The definition.  Adds merges to `t`, which holds the bytes, until it has `vocab` tokens or no
 * pair is left.  Cost: the number of merges times the length of all pieces. */
void merges_learn_plain(Tokenizer *t, const Strings *pieces, size_t vocab) {
    size_t total = pieces->count ? pieces->start[pieces->count] : 0;
    uint32_t *ids = memory_allocate(total, sizeof *ids); /* piece i begins at start[i] */
    size_t *length = memory_allocate(pieces->count, sizeof *length); /* its number of ids */
    for (size_t i = 0; i < total; i++) ids[i] = t->id_of_byte[pieces->bytes[i]];
    for (size_t i = 0; i < pieces->count; i++)
        length[i] = pieces->start[i + 1] - pieces->start[i];
    for (bool found = true; found && t->vocab < vocab;) {
        Pairs pairs = {0};
        uint64_t *counts = NULL;
        size_t capacity = 0, best = 0;
        for (size_t i = 0; i < pieces->count; i++)
            for (size_t j = 0; j + 1 < length[i]; j++) {
                const uint32_t *id = ids + pieces->start[i] + j;
                if (!pair_fits(t, id[0], id[1])) continue;
                size_t before = pairs.count, pair = pairs_add(&pairs, id[0], id[1]);
                counts = array_grow(counts, &capacity, before, sizeof *counts);
                counts[pair] = (pair < before ? counts[pair] : 0) + pieces->times[i];
            }
        for (size_t p = 1; p < pairs.count; p++) {
            Pair a = pairs.items[p], b = pairs.items[best];
            bool smaller = a.left < b.left || (a.left == b.left && a.right < b.right);
            if (counts[p] > counts[best] || (counts[p] == counts[best] && smaller)) best = p;
        }
        found = pairs.count > 0;
        Pair merge = found ? pairs.items[best] : (Pair){NONE, NONE};
        uint32_t result = found ? merge_learn(t, merge.left, merge.right) : NONE;
        for (size_t i = 0; found && i < pieces->count; i++) {
            uint32_t *id = ids + pieces->start[i];
            size_t kept = 0;
            for (size_t j = 0; j < length[i]; j++) {
                bool here =
                    j + 1 < length[i] && id[j] == merge.left && id[j + 1] == merge.right;
                id[kept++] = here ? result : id[j];
                j += here;
            }
            length[i] = kept;
        }
        pairs_destroy(&pairs);
        free(counts);
    }
    free(ids);
    free(length);
}

/* A heap (priority queue) gives out its smallest item first.  The parent of item i is item
 * (i - 1) / 2 and never larger than it; so the smallest is items[0], and adding or removing one
 * moves items along one path between top and bottom: O(log n). */
typedef struct {
    uint64_t first, second; /* the second matters only where the first are equal */
} Item;

typedef struct {
    Item *items;
    size_t count, capacity;
} Heap;

static inline bool item_less(Item a, Item b) {
    return a.first == b.first ? a.second < b.second : a.first < b.first;
}

static inline void heap_push(Heap *heap, Item item) {
    heap->items = array_grow(heap->items, &heap->capacity, heap->count, sizeof item);
    size_t at = heap->count++;
    for (; at && item_less(item, heap->items[(at - 1) / 2]); at = (at - 1) / 2)
        heap->items[at] = heap->items[(at - 1) / 2];
    heap->items[at] = item;
}

/* Removes and returns the smallest; the last item takes its position and sinks from there. */
static inline Item heap_pop(Heap *heap) {
    Item smallest = heap->items[0], last = heap->items[--heap->count];
    size_t at = 0, child;
    /* The entry past the end is made larger than any item, so that the choice between two
     * children needs no branch: it would go either way, and no processor can predict which. */
    heap->items[heap->count] = (Item){UINT64_MAX, UINT64_MAX};
    while ((child = 2 * at + 1) < heap->count) {
        child += item_less(heap->items[child + 1], heap->items[child]);
        if (!item_less(heap->items[child], last)) break;
        heap->items[at] = heap->items[child];
        at = child;
    }
    heap->items[at] = last;
    return smallest;
}

/* The fast version rests on one idea: a merge changes the text only where its pair occurs, so
 * only the pairs that touch these positions change.  Each byte of each piece is a position.  A
 * position where a token begins is linked to the previous and the next token, and is in the
 * list of the one pair that begins there:
 *
 *     piece " the":   [ ]<->[t]<->[h]<->[e]        pair (t, h):  first -> this t -> another t
 *
 * Merging (t, h) here removes three positions from the lists of ( ,t), (t,h) and (h,e), joins
 * the two tokens, and adds two positions to the lists of ( ,th) and (th,e).  That is all.
 *
 * Positions are only ever added at the end of a list, and yet each list is in the order of the
 * text, so that "aaaa" is merged from its first a on: equal tokens are built by equal merges,
 * which are applied from left to right (doc/tokenizer.md has the proof). */
typedef struct {
    uint32_t token, previous, next;    /* NONE at the ends of the piece */
    uint32_t pair;                     /* the pair that begins here, NONE at the last token */
    uint32_t list_previous, list_next; /* the pair's other positions */
    uint32_t piece;                    /* whose count applies to this position */
} Position;

typedef struct {
    uint64_t count;       /* in the whole text: a piece that occurs 9 times adds 9 */
    uint32_t first, last; /* positions of the pair, NONE if there are none */
} Occurrences;

typedef struct {
    Position *positions;
    const uint64_t *times; /* the count of each piece */
    Pairs pairs;           /* every pair that was ever seen */
    Occurrences *lists;    /* of the pair of the same number */
    size_t list_capacity;
} PairIndex;

/* Appends this position to the list of the pair that begins here now, and counts it. */
static inline void position_link(PairIndex *x, uint32_t at) {
    Position *position = &x->positions[at];
    position->pair = NONE;
    if (position->next == NONE) return;
    size_t before = x->pairs.count;
    uint32_t right = x->positions[position->next].token;
    position->pair = pairs_add(&x->pairs, position->token, right);
    if (position->pair == before) {
        x->lists = array_grow(x->lists, &x->list_capacity, before, sizeof *x->lists);
        x->lists[before] = (Occurrences){0, NONE, NONE};
    }
    Occurrences *list = &x->lists[position->pair];
    assert(list->last == NONE || list->last < at);
    position->list_previous = list->last;
    position->list_next = NONE;
    if (list->last == NONE) list->first = at;
    else x->positions[list->last].list_next = at;
    list->last = at;
    list->count += x->times[position->piece];
}

/* Removes this position from its pair's list and count. */
static inline void position_unlink(PairIndex *x, uint32_t at) {
    Position *position = &x->positions[at];
    if (position->pair == NONE) return;
    Occurrences *list = &x->lists[position->pair];
    if (position->list_previous == NONE) list->first = position->list_next;
    else x->positions[position->list_previous].list_next = position->list_next;
    if (position->list_next == NONE) list->last = position->list_previous;
    else x->positions[position->list_next].list_previous = position->list_previous;
    list->count -= x->times[position->piece];
}

/* The token at this position and the next one become `result`. */
static inline void position_merge(PairIndex *x, uint32_t at, uint32_t result) {
    Position *position = &x->positions[at];
    if (position->previous != NONE) position_unlink(x, position->previous);
    position_unlink(x, at);
    position_unlink(x, position->next);
    position->token = result;
    position->next = x->positions[position->next].next;
    if (position->next != NONE) x->positions[position->next].previous = at;
    if (position->previous != NONE) position_link(x, position->previous);
    position_link(x, at);
}

/* The index of pieces that are still single bytes.  `times` must outlive it. */
static PairIndex index_create(const Tokenizer *t, const Strings *pieces) {
    size_t total = pieces->count ? pieces->start[pieces->count] : 0;
    PairIndex x = {.times = pieces->times};
    x.positions = memory_allocate(total, sizeof *x.positions);
    for (size_t i = 0; i < pieces->count; i++)
        for (size_t at = pieces->start[i], end = pieces->start[i + 1]; at < end; at++)
            x.positions[at] = (Position){t->id_of_byte[pieces->bytes[at]],
                                         at > pieces->start[i] ? (uint32_t)at - 1 : NONE,
                                         at + 1 < end ? (uint32_t)at + 1 : NONE, NONE, NONE,
                                         NONE, (uint32_t)i};
    for (size_t at = 0; at < total; at++) position_link(&x, (uint32_t)at);
    return x;
}

static void index_destroy(PairIndex *x) {
    free(x->positions);
    pairs_destroy(&x->pairs);
    free(x->lists);
}

/* Pairs are queued in a heap, the most frequent first. */
static void heap_push_pair(Heap *heap, Pair pair, uint64_t count) {
    if (count) heap_push(heap, (Item){~count, (uint64_t)pair.left << 32 | pair.right});
}

/* The same merges as merges_learn_plain().  Cost: about one step for every position that a
 * merge ever changes.  `verbose` prints each merge with its count to stderr. */
void merges_learn(Tokenizer *t, const Strings *pieces, size_t vocab, bool verbose) {
    assert(vocab <= VOCAB_MAX);
    size_t total = pieces->count ? pieces->start[pieces->count] : 0;
    if (total >= NONE)
        die("the different pieces of the text have %zu bytes: 4 GB is the limit", total);
    PairIndex x = index_create(t, pieces);
    Heap heap = {0};
    for (size_t queued = 0; t->vocab < vocab;) {
        /* A pair gains occurrences only in the merge that builds the newer of its two tokens.
         * So it is queued once, after that merge, and from then on its count can only fall. */
        for (; queued < x.pairs.count; queued++)
            heap_push_pair(&heap, x.pairs.items[queued], x.lists[queued].count);
        if (!heap.count) break;
        Item top = heap_pop(&heap);
        uint32_t left = (uint32_t)(top.second >> 32), right = (uint32_t)top.second;
        uint32_t best = pairs_find(&x.pairs, left, right);
        uint64_t count = x.lists[best].count;
        if (count != ~top.first) { /* it fell since: back into the queue with what it is now */
            heap_push_pair(&heap, (Pair){left, right}, count);
            continue;
        }
        if (!pair_fits(t, left, right)) continue;
        if (verbose) {
            char *a = token_show(t, left), *b = token_show(t, right);
            fprintf(stderr, "merge %zu: %s %s -> %s%s, %" PRIu64 " times\n", t->merges.count, a,
                    b, a, b, count);
            free(a);
            free(b);
        }
        uint32_t result = merge_learn(t, left, right);
        while (x.lists[best].first != NONE) position_merge(&x, x.lists[best].first, result);
    }
    index_destroy(&x);
    free(heap.items);
}

/* =========================================================================================
 * 4. How a text is split
 *
 * Merges work inside pieces and never across their ends.  (Splitting into pieces is also called
 * pre-tokenization.)  Without pieces "dog", "dog." and "dog!" would each become a token of
 * their own, and a text could only be encoded as a whole.  By GPT-2's rule a piece is the first
 * of these that fits:
 *
 *     's 't 're 've 'm 'll 'd      English endings, lower case only
 *     letters                      each of these three with one space (U+0020) before it,
 *     numbers                          if there is one: most words thus include their space,
 *     other characters                 and there is one token for " the", not two
 *     white space                  but without its last character when something else follows,
 *                                      and if that is a space, it goes to the next word
 *
 * Letters and numbers of all scripts count (Unicode's general categories L and N), and white
 * space is Unicode's too.  Text is read as UTF-8; a byte that is not part of a well-formed
 * sequence (RFC 3629) is one other character, so any bytes at all can be split.
 * ====================================================================================== */

enum { OTHER, LETTER, NUMBER, WHITE }; /* the class of a character */

/* The classes of Unicode 16.0, generated by dev/unicode/make_classes.py: beginning with code
 * point 0, the number of code points outside the class and the number inside it, in turn, in
 * base 26.  A capital letter is a digit that is followed by others, a small one the last, from
 * A = a = 0 to Z = z = 25.  So "CnBagBa" is 65 characters that are not letters, A to Z, 6 that
 * are not, a to z. */
/* letters: 677 ranges, 141,028 code points */
static const char letter_runs[] =
    "CnBagBaBvbkbebfxbBfbRqemofhbbbEzfbccebbgbbdbbbubDfbFjiGkbBmcbgBpCtBbeeBtBrBjcbDvbbpchckd"
    "cbqbbBeBdDllbyBhjcebfwebjbdbxzhlfybgrBqCgCcdbsbhkpqeicccwbhbbdedbqbncbdockbigeccwbhbcbcb"
    "cBfebbtdqjbdbwbhbcbfdbsbpcxblicccwbhbcbfdbBecbdpbrbbgddbedcbbbcdcdddmwbCaibdbxbqdbBadcbc"
    "cBebeibdbxbkbfdbBfcbcpcrjbdbBpcbqbfdidygfsdybjbbchCgBwbcmhCgcbbbfbybbbkbcjbcfbbveBgbClib"
    "BkBbfElBrubqgeedbdchdenmbrBmbbfbcBrbMvbechbbbecBpbecBhbechbbbecpbCfbecCpBlqqDicgdXwcrbBa"
    "fCxgihsntosonbdpCaBjbebCpDlhfcBibbfCskBfBxBecflBseBaCcxjCbDebDpBvriCcBenckBsBaBkBpdkBkcl"
    "fBrcdBpebgbcdbfHkCmKscgcBmcgcibbbbbbbBfcCbbhbbddbhdecgenfdbhEmbnbqnDxbebckbbdfgbbbbbbebl"
    "ceffebCacDZfIvgedcmBmbbfbcCehbqxjhbhbhbhbhbhbhbhDcbSbcBqffceDigdbDmbefBrbDqrBgBwqTsJToCm"
    "BGUfCpBucKjdqkcuBvqBfcCsBxjcDzcCpccbbbivqbdbebxBdCaoByCkgdbbclBckxzBdhBvBcbqfbkkfbBpxdbi"
    "uxdbdBybbdccfcbbbydclhdmgcgcgjhbhbBrbogElBdQNsmxeBxMNcOccEcBmhmffbbkbnbfbbbcbcbEeBhNzsCm"
    "cCcBomEmfbFfBkBagBalDldgcgcgcdBjmbBabtbcbpcoBiEtOzBddBxBvBgnubigBmkBecBkeiBwGcsBkeBkeBoi"
    "CamlbpbhbcblbpbhbcdCamLzjwkiygbBqbjCrgcbbBsbcdbcxkxjBfCntbckwkBaCsCegcCmbpebdbBdBqBddBdB"
    "jibBcBbCckwktnsEgCvCdBznBznBkBmBcjxJqBqgcqdChBdkbiwBqsBuvBbxmCbCfccbnBtBgzBaBkBdbcbiBjdb"
    "mBwoevbbbBjsbztcClhbbbebpbkhBvBmicccwbhbcbfdbsbmfBekbbcbbBmbbzbbbBsCbseudBeBwucbbHcBvBpe"
    "BkBwubChBrnbCtBbBlhHdBsEmCmBficbcibcbypbbbDqicBnqbbbBcbkBohbvblButbsCvHrBhBfjbBlrbBxBeEi"
    "hbcbBmvbzgbcbBgobMptpbbnbBiEubDbBJmIwHoDXkDtpBPgrgzFXrfWlKDdBeCPuVxhBfrDbrBesBwqeBfvftQq"
    "BtIdCmEyCxfbConCmcbbBcJCaiBVqBpkNFrebhbcbLfpbBddcboeiPgDKuEdfndjhkIWkDhbCtbccbcccebmbbbh"
    "bCnbecibhbBcbebfbbdhbNcczbzbBfbzbBfbzbBfbzbBfbzbiCSyBfggKbCkFqBtkhqbMjBesBsSqBcIuBecbTbh"
    "bebcbpbHpChCqhbBUiebBbbcbbcbbkbebbbbgbebbbbbbdbcbbcbbbbbbbbbbcbbcebhbebebbbkbrfdbfbrGOaC"
    "LFcBgGDugIocINqoLBlpXyDQwUwCFyHHzfGFg";
/* numbers: 144 ranges, 1,911 code points */
static const char number_runs[] =
    "BwkEqcfbcdCDlkFekHqkPwkEokegEekEokEokcgEgnElkihDzkEahhtEfkDskEokCsuKikCskBBruBHxdJfkgkwk"
    "LokEylGjkgkHakDikFekgkBOgbdggkHqBzcfBByCiDawYgBeCBhbBDxbzjodNfeFikBeibpBgkBnpBRSakHgkMig"
    "FykBmkHqkwkDikPqkBFMckSzBtmCfrcNdBbBkeBdbibFefHukBKgizhBnjCxfwgGeccqcBuCmjCacBedCxfEaiyi"
    "BphMsgBwkgkKsBfGckBqeEihFeBeEykCikFokhuJrkNekEokOkkDykguCymQetDpkZmkDiBdItkCskQgkDyvBPbE"
    "hXAfkDMckDikFekbhUgkKcxBJSzkCEwumuEezBQrByDNckQgkTikJnkBBojEykBElChbdbeCyBtbpBLanEDfk";
/* white space: 10 ranges, 25 code points */
static const char white_runs[] =
    "jfsbDwbBabIHjbDPnlBdcfbBvbFXwb";

enum { CLASSED = 0x32400 };             /* no code point from here on is in any of the three */
static unsigned char class_of[CLASSED]; /* unpacked from the tables by classes_prepare() */

static void classes_unpack(const char *runs, unsigned char class) {
    size_t code = 0, number = 0;
    for (bool inside = false; *runs; runs++) {
        bool last = *runs >= 'a';
        number = 26 * number + (size_t)(*runs - (last ? 'a' : 'A'));
        if (!last) continue;
        assert(code + number <= CLASSED);
        if (inside) memset(class_of + code, class, number);
        code += number;
        number = 0;
        inside = !inside;
    }
}

static void classes_prepare(void) {
    if (class_of['a'] == LETTER) return;
    classes_unpack(white_runs, WHITE);
    classes_unpack(number_runs, NUMBER);
    classes_unpack(letter_runs, LETTER);
}

/* The class of the character at text[0], where `bytes` are left; *step is its length.  The
 * limits on the second byte exclude overlong forms (E0, F0), the halves of UTF-16 pairs (ED)
 * and everything above U+10FFFF (F4). */
static inline int class_read(const unsigned char *text, size_t bytes, size_t *step) {
    unsigned lead = text[0];
    *step = 1;
    if (lead < 0x80) return class_of[lead];
    if (lead < 0xC2 || lead > 0xF4 || bytes < 2) return OTHER;
    unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (text[1] < low || text[1] > high) return OTHER;
    size_t more = lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
    uint32_t code = (lead & (0x3Fu >> more)) << 6 | (text[1] & 0x3F);
    for (size_t i = 2; i <= more; i++) {
        if (i >= bytes || (text[i] & 0xC0) != 0x80) return OTHER;
        code = code << 6 | (text[i] & 0x3F);
    }
    *step = more + 1;
    return code < CLASSED ? class_of[code] : OTHER;
}

/* The length of the piece that begins at text[0], where `bytes`, at least 1, are left.  It
 * looks at each byte of the piece once, and at the one character after it. */
static size_t piece_length(const unsigned char *text, size_t bytes) {
    size_t at = 0, step;
    if (text[0] == '\'' && bytes > 1) {
        unsigned a = text[1], b = bytes > 2 ? text[2] : 0;
        if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
        if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l'))
            return 3;
    }
    int class = class_read(text, bytes, &step);
    if (text[0] == ' ' && bytes > 1) {
        int next = class_read(text + 1, bytes - 1, &step);
        if (next == WHITE) step = 1;
        else at = 1, class = next;
    }
    if (class != WHITE) {
        do at += step;
        while (at < bytes && class_read(text + at, bytes - at, &step) == class);
        return at;
    }
    size_t last;
    do last = at, at += step;
    while (at < bytes && class_read(text + at, bytes - at, &step) == WHITE);
    return at == bytes || last == 0 ? at : last;
}

/* A position where the text may be cut in two without changing any piece, so that a file
 * larger than memory can be read in parts: before the last ASCII white-space character that
 * follows a character which is not white space.  A piece ends there whatever is on either
 * side.  Returns 0 if there is none. */
size_t text_cut(const unsigned char *text, size_t bytes) {
    for (size_t at = bytes; at-- > 1;) {
        size_t step, before = at - 1;
        if (text[at] >= 0x80 || class_of[text[at]] != WHITE) continue;
        while (before && before + 3 > at && (text[before] & 0xC0) == 0x80) before--;
        int class = class_read(text + before, at - before, &step);
        if (class != WHITE || before + step != at) return at;
    }
    return 0;
}

/* Counts the pieces of a text. */
static void pieces_count(Strings *pieces, const unsigned char *text, size_t bytes) {
    for (size_t at = 0, length; at < bytes; at += length) {
        length = piece_length(text + at, bytes - at);
        strings_add(pieces, text + at, length);
    }
}

/* =========================================================================================
 * 5. How merges are applied
 *
 * A piece begins as single bytes.  As long as any two adjacent tokens are a merge, the oldest
 * merge (the lowest rank) among them is applied, at its leftmost position.  The text is thus
 * built up in the order in which the merges were learned, and gets the tokens that it had in
 * training.
 * ====================================================================================== */

/* The definition.  Sets ids[] to the ids of one piece, at most `bytes` of them, and returns how
 * many there are.  Every byte must be in the vocabulary.  `show`, if not NULL, gets a line for
 * each merge.  Cost: the square of the length. */
size_t piece_encode_plain(const Tokenizer *t, const unsigned char *piece, size_t bytes,
                          uint32_t *ids, FILE *show) {
    size_t count = bytes;
    for (size_t i = 0; i < bytes; i++) ids[i] = t->id_of_byte[piece[i]];
    for (uint32_t best = NONE;; best = NONE) {
        size_t where = 0;
        for (size_t i = 0; i + 1 < count; i++) {
            uint32_t rank = pairs_find(&t->merges, ids[i], ids[i + 1]);
            if (rank < best) best = rank, where = i;
        }
        if (show) {
            if (count < bytes || best == NONE) fputs("  ", show);
            for (size_t i = 0; i < count; i++) {
                char *token = token_show(t, ids[i]);
                fprintf(show, " %s", token);
                free(token);
            }
            if (best == NONE) fputs("\n", show);
            else fprintf(show, "\n    merge %" PRIu32 ":", best);
        }
        if (best == NONE) return count;
        ids[where] = t->result[best];
        count--;
        memmove(ids + where + 1, ids + where + 2, (count - where - 1) * sizeof *ids);
    }
}

/* =========================================================================================
 * 6. The same ids, fast
 *
 * Three things make the definition fast, and none of them changes the result.
 *
 * Ranks are kept.  A merge changes two pairs, the one before it and the one after it; all
 * others keep their ranks.  So two ranks are looked up for each merge instead of all.
 *
 * The next merge is found faster.  It is the smallest (rank, position) of all pairs, compared
 * by rank and then by position.  In a short piece it is found by a scan of a small array, which
 * the compiler turns into a few vector instructions; a long one has a heap for it, so that a
 * piece of n bytes does not cost n^2.  Both find the smallest, and that is the merge that the
 * definition applies.
 *
 * Pieces repeat.  The ids of a piece depend on nothing but its bytes, so they may be kept and
 * copied when it occurs again, as most pieces of a text do.  dev/bench/tokenizer.py measures
 * what all this gains; doc/tokenizer.md has the table.
 * ====================================================================================== */

enum {
    SHORT_MAX = 128,      /* longest piece that is scanned; a position must fit in 8 bits */
    CACHE_BYTES = 23,     /* longest piece that is kept */
    CACHE_IDS = 9,        /* most ids kept for one piece: 64 bytes in all, a cache line */
    CACHE_SLOTS = 1 << 16 /* 4 MB */
};

static size_t piece_encode_short(const Tokenizer *t, const unsigned char *piece, size_t bytes,
                                 uint32_t *ids) {
    uint32_t token[SHORT_MAX], order[SHORT_MAX]; /* order: rank << 8 | position, or NONE */
    uint8_t previous[SHORT_MAX + 1], next[SHORT_MAX];
    for (size_t i = 0; i < bytes; i++) {
        token[i] = t->id_of_byte[piece[i]];
        previous[i + 1] = (uint8_t)i;
        next[i] = (uint8_t)(i + 1);
    }
    for (size_t i = 0; i < bytes; i++) {
        uint32_t rank = i + 1 < bytes ? pairs_find(&t->merges, token[i], token[i + 1]) : NONE;
        order[i] = rank == NONE ? NONE : rank << 8 | (uint32_t)i;
    }
    for (;;) {
        uint32_t least = NONE;
        for (size_t i = 0; i < bytes; i++) least = order[i] < least ? order[i] : least;
        if (least == NONE) break;
        size_t at = least & 0xFF, gone = next[at], after = next[gone];
        token[at] = t->result[least >> 8];
        next[at] = (uint8_t)after;
        previous[after] = (uint8_t)at;
        order[gone] = order[at] = NONE;
        if (after < bytes) {
            uint32_t rank = pairs_find(&t->merges, token[at], token[after]);
            if (rank != NONE) order[at] = rank << 8 | (uint32_t)at;
        }
        if (at > 0) {
            uint32_t rank = pairs_find(&t->merges, token[previous[at]], token[at]);
            order[previous[at]] = rank == NONE ? NONE : rank << 8 | previous[at];
        }
    }
    size_t count = 0;
    for (size_t at = 0; at < bytes; at = next[at]) ids[count++] = token[at];
    return count;
}

/* A long piece uses the index of section 3: the positions of each pair are in a list, in the
 * order of the text.  A heap holds the rank of each pair that is a merge and occurs, and the
 * smallest (rank, position) is the first position in the list of the smallest rank.
 *
 * Cost: n bytes make fewer than 3 n pairs (n - 1 at first, and two for each merge), and each
 * enters and leaves its list in constant time; the heap changes when a list begins or ends.  In
 * a vocabulary that was learned each of the R ranks that occur has one list: O(n + R log R).
 * With any other it is O(n log n). */

/* Queues the pair at this position, if the position is the first in its list. */
static void rank_queue(const Tokenizer *t, const PairIndex *x, Heap *heap, uint32_t at) {
    uint32_t pair = x->positions[at].pair;
    if (pair == NONE || x->lists[pair].first != at) return;
    Pair tokens = x->pairs.items[pair];
    uint32_t rank = pairs_find(&t->merges, tokens.left, tokens.right);
    if (rank != NONE) heap_push(heap, (Item){rank, pair});
}

static size_t piece_encode_long(const Tokenizer *t, const unsigned char *piece, size_t bytes,
                                uint32_t *ids) {
    if (bytes > NONE / 4) die("a word of %zu bytes: 1 GB is the limit", bytes);
    PairIndex x = index_create(t, &(Strings){.bytes = (unsigned char *)(uintptr_t)piece,
                                             .start = (size_t[]){0, bytes},
                                             .times = (uint64_t[]){1}, .count = 1});
    Heap heap = {0};
    for (uint32_t i = 0; i < bytes; i++) rank_queue(t, &x, &heap, i);
    while (heap.count) {
        uint32_t rank = (uint32_t)heap.items[0].first;
        uint32_t at = x.lists[heap.items[0].second].first;
        if (at == NONE) { /* all occurrences are merged, or lost to other merges */
            heap_pop(&heap);
            continue;
        }
        position_merge(&x, at, t->result[rank]);
        if (x.positions[at].previous != NONE)
            rank_queue(t, &x, &heap, x.positions[at].previous);
        rank_queue(t, &x, &heap, at);
    }
    size_t count = 0;
    for (uint32_t at = 0; at != NONE; at = x.positions[at].next)
        ids[count++] = x.positions[at].token;
    index_destroy(&x);
    free(heap.items);
    return count;
}

static size_t piece_encode(const Tokenizer *t, const unsigned char *piece, size_t bytes,
                           uint32_t *ids) {
    return bytes <= SHORT_MAX ? piece_encode_short(t, piece, bytes, ids)
                              : piece_encode_long(t, piece, bytes, ids);
}

/* A piece has one slot where it may be kept, and the last one that comes replaces what was
 * there: frequent pieces occur so often that they are nearly always there, and the cache never
 * grows.  The key is the whole piece followed by its length, so a slot never answers for
 * another piece. */
struct PieceCache {
    struct {
        uint64_t key[3]; /* the bytes, then zeros, the length in the last byte; 0 is free */
        uint32_t count, ids[CACHE_IDS];
    } slots[CACHE_SLOTS];
};

/* The key of a piece of at most CACHE_BYTES, from whose start `readable` bytes may be read;
 * returns the number of its slot. */
static inline size_t cache_key(const unsigned char *piece, size_t bytes, size_t readable,
                               uint64_t key[3]) {
    /* Three words are read at once and what is not part of the piece is masked out: a copy of
     * variable length would be a call and a chain of branches, for every piece. */
    static const uint8_t mask[48] = {255, 255, 255, 255, 255, 255, 255, 255,
                                     255, 255, 255, 255, 255, 255, 255, 255,
                                     255, 255, 255, 255, 255, 255, 255, 255}; /* then zeros */
    uint64_t keep[3];
    unsigned char last[24] = {0};
    memcpy(keep, mask + 24 - bytes, 24);
    if (readable < 24) memcpy(last, piece, bytes), piece = last;
    memcpy(key, piece, 24);
    for (int i = 0; i < 3; i++) key[i] &= keep[i];
    ((unsigned char *)key)[23] = (unsigned char)bytes;
    uint64_t hash = (key[0] ^ key[1] * 0xD6E8FEB86659FD93u ^ key[2] * 0xA0761D6478BD642Fu) *
                    0x9E3779B97F4A7C15u;
    return (hash ^ hash >> 32) * 0xD6E8FEB86659FD93u >> 32 & (CACHE_SLOTS - 1);
}

/* =========================================================================================
 * 7. Whole texts
 * ====================================================================================== */

typedef struct {
    uint32_t *data;
    size_t count, capacity;
} Ids;

static inline void ids_reserve(Ids *ids, size_t more) {
    if (ids->capacity - ids->count >= more) return;
    ids->capacity = ids->capacity + ids->capacity / 2 + more;
    ids->data = memory_resize(ids->data, ids->capacity, sizeof *ids->data);
}

/* Appends the ids of a text, in which special tokens have no meaning. */
static void text_encode(Tokenizer *t, const unsigned char *text, size_t bytes, Ids *ids) {
    if (!t->merges.count) { /* character level: pieces make no difference */
        ids_reserve(ids, bytes);
        for (size_t i = 0; i < bytes; i++) ids->data[ids->count++] = t->id_of_byte[text[i]];
        return;
    }
    if (!t->cache) t->cache = memory_allocate(1, sizeof *t->cache);
    for (size_t at = 0, length; at < bytes; at += length) {
        length = piece_length(text + at, bytes - at);
        ids_reserve(ids, length + CACHE_IDS);
        uint32_t *out = ids->data + ids->count;
        if (length > CACHE_BYTES) {
            ids->count += piece_encode(t, text + at, length, out);
            continue;
        }
        uint64_t key[3];
        size_t slot = cache_key(text + at, length, bytes - at, key);
        uint32_t *kept = t->cache->slots[slot].ids;
        if (memcmp(t->cache->slots[slot].key, key, sizeof key) == 0) {
            memcpy(out, kept, CACHE_IDS * sizeof *out); /* all nine: faster than a choice */
            ids->count += t->cache->slots[slot].count;
            continue;
        }
        size_t count = piece_encode_short(t, text + at, length, out);
        ids->count += count;
        if (count > CACHE_IDS) continue;
        memcpy(t->cache->slots[slot].key, key, sizeof key);
        memcpy(kept, out, count * sizeof *out);
        t->cache->slots[slot].count = (uint32_t)count;
    }
}

/* Every byte must be in the vocabulary before merges may be applied. */
static void text_check(const Tokenizer *t, const unsigned char *text, size_t bytes,
                       const char *name, size_t offset) {
    bool all = true;
    for (int byte = 0; byte < 256; byte++) all &= t->id_of_byte[byte] != NONE;
    for (size_t i = 0; !all && i < bytes; i++)
        if (t->id_of_byte[text[i]] == NONE)
            die("%s: byte %zu is 0x%02X, which is not in the model's vocabulary", name,
                offset + i, text[i]);
}

/* Text to ids; *ids is new memory that the caller frees.  Returns how many there are.  A byte
 * that is not in the vocabulary ends the program; `name` says in the message where the text
 * came from. */
size_t tokenizer_encode(Tokenizer *t, const unsigned char *text, size_t bytes, const char *name,
                        uint32_t **ids) {
    Ids list = {0};
    text_check(t, text, bytes, name, 0);
    ids_reserve(&list, bytes / 3 + 1);
    text_encode(t, text, bytes, &list);
    *ids = memory_resize(list.data, list.count, sizeof *list.data);
    return list.count;
}

/* Appends the ids of a text in which special tokens are recognized.  `offset` is the position
 * of the text in its file, for messages. */
void text_encode_special(Tokenizer *t, const unsigned char *text, size_t bytes,
                         const char *name, size_t offset, Ids *ids) {
    for (size_t at = 0, done = 0; at <= bytes; at++) {
        size_t longest = 0, size;
        uint32_t found = NONE;
        for (size_t i = 0; i < t->special_count; i++) {
            const unsigned char *token = tokenizer_token(t, t->specials[i], &size);
            if (size > longest && size <= bytes - at && memcmp(text + at, token, size) == 0)
                found = t->specials[i], longest = size;
        }
        if (found == NONE && at < bytes) continue;
        text_check(t, text + done, at - done, name, offset + done);
        text_encode(t, text + done, at - done, ids);
        if (found == NONE) break;
        ids_reserve(ids, 1);
        ids->data[ids->count++] = found;
        done = at + longest;
        at = done - 1;
    }
}

/* The number of tokens in a text that is given as its pieces with their counts. */
size_t pieces_tokens(const Tokenizer *t, const Strings *pieces) {
    Ids ids = {0};
    size_t tokens = 0;
    for (size_t i = 0, bytes; i < pieces->count; i++) {
        const unsigned char *piece = strings_get(pieces, i, &bytes);
        ids_reserve(&ids, bytes);
        tokens += pieces->times[i] * piece_encode(t, piece, bytes, ids.data);
    }
    free(ids.data);
    return tokens;
}

/* A vocabulary of 256 bytes and the merges learned from a text, `vocab` ids in all (fewer if no
 * pairs are left).  The caller calls tokenizer_destroy(). */
Tokenizer *tokenizer_learn(const unsigned char *text, size_t bytes, size_t vocab,
                           bool verbose) {
    Strings pieces = {0};
    classes_prepare();
    pieces_count(&pieces, text, bytes);
    Tokenizer *t = tokenizer_create(NULL, 0);
    merges_learn(t, &pieces, vocab, verbose);
    strings_destroy(&pieces);
    return t;
}

/* =========================================================================================
 * 8. A tokenizer on disk
 *
 * DIR/vocab.json is {"token": id, ...} and DIR/merges.txt has a line "left right" for each
 * merge, oldest first; tokens are spelled in the symbols of section 2.  Hugging Face stores
 * GPT-2's tokenizer in these two files, so its programs open what is saved here.  What they
 * save themselves is one file, DIR/tokenizer.json, which is read here as well.
 * ====================================================================================== */

/* Writes vocab.json and merges.txt into a folder, which must exist.  Both are complete before
 * either gets its name: a full disk leaves the old pair. */
void tokenizer_save(const Tokenizer *t, const char *folder) {
    FileWriter vocab = file_create(text_of("%s/vocab.json", folder).chars);
    file_write(&vocab, "{", 1);
    for (size_t id = 0; id < t->vocab; id++) {
        char *token = token_show(t, (uint32_t)id), *quoted = json_quote(token);
        char *entry = text_format("%s%s: %zu", id ? ", " : "", quoted, id);
        file_write(&vocab, entry, strlen(entry));
        free(token);
        free(quoted);
        free(entry);
    }
    file_write(&vocab, "}\n", 2);
    FileWriter merges = file_create(text_of("%s/merges.txt", folder).chars);
    file_write(&merges, "#version: 0.2\n", 14);
    for (size_t i = 0; i < t->merges.count; i++) {
        char *left = token_show(t, t->merges.items[i].left);
        char *right = token_show(t, t->merges.items[i].right);
        char *line = text_format("%s %s\n", left, right);
        file_write(&merges, line, strlen(line));
        free(left);
        free(right);
        free(line);
    }
    file_finish(&vocab);
    file_finish(&merges);
    file_rename(&vocab);
    file_rename(&merges);
    file_remove(text_of("%s/tokenizer.json", folder).chars); /* it would be read instead */
}

/* Turns symbols back into bytes; returns how many, or 0 if that is not possible. */
static size_t symbols_read(const unsigned char *text, size_t size, unsigned char *out) {
    static int16_t byte_of[0x144]; /* byte + 1; the last symbol is U+0143 */
    uint32_t symbol[256];
    if (!byte_of['!']) {
        byte_symbols(symbol);
        for (int byte = 0; byte < 256; byte++) byte_of[symbol[byte]] = (int16_t)(byte + 1);
    }
    size_t count = 0;
    for (size_t i = 0; i < size; i++) {
        uint32_t code = text[i];
        if (code >= 0xC2 && code < 0xE0 && i + 1 < size && (text[i + 1] & 0xC0) == 0x80)
            code = (code & 0x1F) << 6 | (text[++i] & 0x3F);
        else if (code >= 0x80) return 0;
        if (code >= 0x144 || !byte_of[code] || count == TOKEN_BYTES_MAX) return 0;
        out[count++] = (unsigned char)(byte_of[code] - 1);
    }
    return count;
}

enum { KEY_MAX = 2 * TOKEN_BYTES_MAX + 1 }; /* of a token in symbols of at most two bytes */

/* Tokens with their ids, in the order of a file. */
typedef struct {
    Strings tokens;
    uint32_t *ids;
    size_t capacity;
    size_t added; /* so many added tokens come first; the vocabulary may hold them again */
} TokenList;

static void token_list_add(TokenList *list, const unsigned char *token, size_t bytes, size_t id,
                           const Json *j) {
    if (id >= VOCAB_MAX)
        die("%s: byte %zu: id %zu is out of range, %d is the limit", j->name, j->at, id,
            VOCAB_MAX - 1);
    size_t before = list->tokens.count, number = strings_add(&list->tokens, token, bytes);
    if (number < before && !(number < list->added && list->ids[number] == id))
        die("%s: byte %zu: this token occurs twice", j->name, j->at);
    list->ids = array_grow(list->ids, &list->capacity, before, sizeof *list->ids);
    list->ids[number] = (uint32_t)id;
}

/* Reads {"token": id, ...}.  Added tokens appear as they are, not in symbols. */
static void vocabulary_parse(TokenList *list, Json *j) {
    char *key = memory_allocate(KEY_MAX, 1);
    unsigned char *token = memory_allocate(KEY_MAX, 1);
    for (json_enter(j, '{'); json_key(j, key, KEY_MAX);) {
        size_t length = strlen(key), id = json_size(j);
        uint32_t same = strings_find(&list->tokens, (unsigned char *)key, length);
        if (same < list->added && list->ids[same] == id) continue;
        size_t bytes = symbols_read((unsigned char *)key, length, token);
        if (!bytes)
            die("%s: byte %zu: this token is empty, longer than %d bytes, or not spelled in "
                "GPT-2's byte symbols",
                j->name, j->at, TOKEN_BYTES_MAX);
        token_list_add(list, token, bytes, id, j);
    }
    free(token);
    free(key);
}

/* Gives `t`, which has none, these tokens in the order of their ids.  Frees the list. */
static void tokens_take(Tokenizer *t, TokenList *list, const char *name) {
    size_t count = list->tokens.count, bytes;
    uint32_t *order = memory_allocate(count, sizeof *order); /* id to number + 1 */
    for (size_t i = 0; i < count; i++) {
        uint32_t id = list->ids[i];
        if (id >= count)
            die("%s: id %u is out of range: %zu tokens must have the ids 0 to %zu", name,
                (unsigned)id, count, count - 1);
        if (order[id]) die("%s: two tokens have the id %u", name, (unsigned)id);
        order[id] = (uint32_t)i + 1;
    }
    for (size_t id = 0; id < count; id++) {
        const unsigned char *token = strings_get(&list->tokens, order[id] - 1, &bytes);
        token_add(t, token, bytes);
    }
    free(order);
    strings_destroy(&list->tokens);
    free(list->ids);
}

/* Reads the lines "left right" of a merges.txt, or (`unit` is "merge") what merges_collect made
 * of a tokenizer.json.  Each must build a token of the vocabulary, or may add one if `grow`.
 * Tokens that nothing builds are special. */
static void merges_parse(Tokenizer *t, Bytes text, const char *name, const char *unit,
                         bool grow) {
    size_t lines = 1, number = 1;
    for (size_t i = 0; i < text.size; i++) lines += text.data[i] == '\n';
    bool file = strcmp(unit, "line") == 0;
    bool *built = memory_allocate(t->vocab + lines, sizeof *built); /* by bytes and merges */
    unsigned char *joined = memory_allocate(2 * TOKEN_BYTES_MAX, 1);
    for (int byte = 0; byte < 256; byte++)
        if (t->id_of_byte[byte] != NONE) built[t->id_of_byte[byte]] = true;
    const unsigned char *line = text.data, *end = text.data + text.size, *next;
    for (; line < end; line = next, number++) {
        const unsigned char *stop = memchr(line, '\n', (size_t)(end - line));
        next = stop ? stop + 1 : end;
        if (!stop) stop = end;
        if (file && stop > line && stop[-1] == '\r') stop--;
        size_t size = (size_t)(stop - line);
        if (file && number == 1 && size >= 8 && memcmp(line, "#version", 8) == 0) continue;
        const unsigned char *space = memchr(line, ' ', size);
        size_t left_size = space ? (size_t)(space - line) : 0;
        size_t a = symbols_read(line, left_size, joined);
        size_t b = a ? symbols_read(space + 1, size - left_size - 1, joined + a) : 0;
        if (!b || a + b > TOKEN_BYTES_MAX)
            die("%s: %s %zu: expected two tokens in GPT-2's byte symbols, of at most %d bytes "
                "together, with one space between them",
                name, unit, number, TOKEN_BYTES_MAX);
        uint32_t left = strings_find(&t->tokens, joined, a);
        uint32_t right = strings_find(&t->tokens, joined + a, b);
        bool left_good = left != NONE && built[left];
        if (!left_good || right == NONE || !built[right])
            die("%s: %s %zu: the %s token is neither a byte of the vocabulary nor built by an "
                "earlier %s",
                name, unit, number, left_good ? "right" : "left", unit);
        uint32_t result = strings_find(&t->tokens, joined, a + b);
        if (result == NONE && !grow)
            die("%s: %s %zu: what it builds is not in the vocabulary", name, unit, number);
        if (result == NONE) result = token_add(t, joined, a + b);
        built[result] = true;
        size_t ranks = t->merges.count;
        if (merge_add(t, left, right, result) < ranks)
            die("%s: %s %zu: this merge occurs twice", name, unit, number);
        if (t->merges.count >= VOCAB_MAX)
            die("%s: %s %zu: more than %d merges", name, unit, number, VOCAB_MAX - 1);
    }
    for (size_t id = 0; id < t->vocab; id++) {
        if (built[id]) continue;
        t->specials = memory_resize(t->specials, t->special_count + 1, sizeof *t->specials);
        t->specials[t->special_count++] = (uint32_t)id;
    }
    free(built);
    free(joined);
}

/* A tokenizer from the contents of the two files; vocab.data may be NULL. */
static Tokenizer *tokenizer_parse(Bytes vocab, const char *vocab_name, Bytes merges,
                                  const char *merges_name) {
    Tokenizer *t = vocab.data ? tokenizer_new() : tokenizer_create(NULL, 0);
    classes_prepare();
    if (vocab.data) {
        TokenList list = {0};
        Json j = {vocab.data, vocab.size, 0, vocab_name, true};
        vocabulary_parse(&list, &j);
        json_end(&j);
        tokens_take(t, &list, vocab_name);
    }
    merges_parse(t, merges, merges_name, "line", !vocab.data);
    return t;
}

/* Reads [{"id": ..., "content": ..., ...}, ...]: tokens as they occur in a text. */
static void added_parse(TokenList *list, Json *j) {
    static const char *const keys[] = {"id", "content"};
    char *content = memory_allocate(TOKEN_BYTES_MAX + 1, 1);
    for (json_enter(j, '['); json_more(j, ']');) {
        Json values[2];
        json_members(j, keys, values, 2);
        if (!values[0].text || !values[1].text)
            die("%s: byte %zu: an added token without id or content", j->name, j->at);
        size_t id = json_size(&values[0]);
        size_t bytes = json_string(&values[1], content, TOKEN_BYTES_MAX + 1);
        if (!bytes) die("%s: byte %zu: an added token that is empty", j->name, j->at);
        token_list_add(list, (unsigned char *)content, bytes, id, j);
    }
    list->added = list->tokens.count;
    free(content);
}

/* The merges of a tokenizer.json, each "left right" or ["left", "right"], as the lines of a
 * merges.txt.  The caller frees .data. */
static Bytes merges_collect(Json *j) {
    Bytes lines = {NULL, 0};
    size_t capacity = 0;
    for (json_enter(j, '['); json_more(j, ']');) {
        if (capacity - lines.size < 2 * KEY_MAX + 2) {
            capacity = 2 * capacity + 2 * KEY_MAX + 2;
            lines.data = memory_resize(lines.data, capacity, 1);
        }
        char *line = (char *)lines.data + lines.size;
        size_t size;
        if (json_peek(j) == '"') {
            size = json_string(j, line, 2 * KEY_MAX);
        } else {
            json_enter(j, '[');
            size = json_more(j, ']') ? json_string(j, line, KEY_MAX) : 0;
            char *end = line + size + 1;
            size_t right = size && json_more(j, ']') ? json_string(j, end, KEY_MAX) : 0;
            if (!right || json_more(j, ']')) json_fail(j, "a list of two tokens");
            line[size] = ' ';
            size += 1 + right;
        }
        if (memchr(line, '\n', size)) json_fail(j, "no line feed in a merge");
        line[size] = '\n';
        lines.size += size + 1;
    }
    return lines;
}

/* A tokenizer.json can describe tokenizers of many other kinds.  Where one of the settings
 * below is not as GPT-2 has it, ids would differ from those of the programs that wrote it: it
 * is refused.  What concerns special tokens only (the flags of added tokens, post_processor) is
 * skipped.
 * values[i] becomes a reader of the value of keys[i], which must be expected[i] or null, or may
 * be anything if that is NULL. */
static void settings_read(Json *object, const char *const *keys, const char *const *expected,
                          Json *values, size_t count) {
    json_members(object, keys, values, count);
    for (size_t i = 0; i < count; i++)
        if (expected[i] && values[i].text && !json_word(&values[i], expected[i]) &&
            !json_word(&values[i], "null"))
            die("%s: byte %zu: %s is not %s: only tokenizers of GPT-2's kind can be read",
                object->name, values[i].at, keys[i], expected[i]);
}

/* A tokenizer from the contents of a tokenizer.json. */
static Tokenizer *tokenizer_json_parse(Bytes text, const char *name) {
    static const char *const parts[] = {"pre_tokenizer", "model", "added_tokens", "normalizer"},
                      *const parts_expected[] = {NULL, NULL, NULL, "null"};
    static const char *const splitting[] = {"type", "add_prefix_space", "use_regex"},
                      *const splitting_expected[] = {"\"ByteLevel\"", "false", "true"};
    static const char *const merging[] = {"vocab", "merges", "type", "dropout", "byte_fallback",
                                          "ignore_merges", "continuing_subword_prefix",
                                          "end_of_word_suffix"},
                      *const merging_expected[] = {NULL, NULL, "\"BPE\"", "null", "false",
                                                   "false", "\"\"", "\"\""};
    Json j = {text.data, text.size, 0, name, true}, part[4], split[3], model[8];
    settings_read(&j, parts, parts_expected, part, 4);
    json_end(&j);
    for (int i = 0; i < 2; i++)
        if (!part[i].text || json_word(&part[i], "null")) die("%s: has no %s", name, parts[i]);
    settings_read(&part[0], splitting, splitting_expected, split, 3);
    settings_read(&part[1], merging, merging_expected, model, 8);
    for (int i = 0; i < 2; i++)
        if (!model[i].text) die("%s: its model has no %s", name, merging[i]);

    Tokenizer *t = tokenizer_new();
    TokenList list = {0};
    classes_prepare();
    if (part[2].text) added_parse(&list, &part[2]);
    vocabulary_parse(&list, &model[0]);
    tokens_take(t, &list, name);
    Bytes lines = merges_collect(&model[1]);
    merges_parse(t, lines, name, "merge", false);
    free(lines.data);
    return t;
}

/* Reads the folder that tokenizer_save() or Hugging Face wrote.  With merges.txt alone the
 * vocabulary is the 256 bytes and what the merges build, in this order.  The caller calls
 * tokenizer_destroy(). */
Tokenizer *tokenizer_load(const char *folder) {
    Text path = text_of("%s/tokenizer.json", folder), merges_path;
    if (access(path.chars, F_OK) == 0) {
        Bytes text = file_read(path.chars);
        Tokenizer *t = tokenizer_json_parse(text, path.chars);
        free(text.data);
        return t;
    }
    path = text_of("%s/vocab.json", folder);
    merges_path = text_of("%s/merges.txt", folder);
    Bytes merges = file_read(merges_path.chars), vocab = {NULL, 0};
    if (access(path.chars, F_OK) == 0) vocab = file_read(path.chars);
    Tokenizer *t = tokenizer_parse(vocab, path.chars, merges, merges_path.chars);
    free(vocab.data);
    free(merges.data);
    return t;
}

#ifndef TOKENIZER_NO_MAIN
/* =========================================================================================
 * 9. The program
 * ====================================================================================== */

static const char usage_text[] =
    "usage: tokenizer train  --vocab N --out DIR [--verbose] [FILE...]\n"
    "       tokenizer encode --model DIR [--special] [--raw] [FILE]\n"
    "       tokenizer decode --model DIR [FILE]\n"
    "       tokenizer show   --model DIR [FILE]\n"
    "\n"
    "  train    learns a vocabulary of N tokens (256 bytes and N - 256 merges) from texts\n"
    "  encode   prints the ids of a text, in decimal on one line\n"
    "  decode   prints the text of such ids\n"
    "  show     splits a text into its tokens and shows the merges that build each of them\n"
    "\n"
    "  --model DIR  a folder as Hugging Face writes it for GPT-2: tokenizer.json, or\n"
    "               merges.txt and vocab.json\n"
    "  --vocab N    number of tokens, 256 to 16777216\n"
    "  --out DIR    the folder for the learned tokenizer\n"
    "  --verbose    prints each merge with its count as it is learned\n"
    "  --special    recognizes special tokens such as <|endoftext|> in the text\n"
    "  --raw        ids as little-endian binary numbers: 2 bytes each if the vocabulary has\n"
    "               at most 65536 tokens, otherwise 4\n"
    "\n"
    "Without FILE, or where FILE is -, text and ids come from the standard input.  show and\n"
    "--verbose print each byte as one symbol, as in merges.txt: a space is \u0120 and a\n"
    "newline is \u010A.\n";

typedef struct {
    const char *model, *out, *vocab;
    bool verbose, special, raw;
    char **files; /* file_count of them, then NULL */
    size_t file_count;
} Options;

/* A text in parts that may be encoded one by one, so that its size does not matter:
 * `Reader r = reader_open(path); while (reader_next(&r)) ...r.text, r.bytes, r.offset...` */
typedef struct {
    FILE *stream;
    const char *name;
    unsigned char *text;
    size_t bytes, offset; /* of this part; its position in the file */
    size_t filled, capacity;
    bool ended, whole;    /* nothing is left to read; the caller wants one part only */
} Reader;

static Reader reader_open(const char *path) {
    Reader r = {.stream = stdin, .name = "standard input", .capacity = 1 << 20};
    if (path && strcmp(path, "-") != 0) {
        r.name = path;
        r.stream = file_open(path);
    }
    r.text = memory_allocate(r.capacity, 1);
    return r;
}

static bool reader_next(Reader *r) {
    r->filled -= r->bytes;
    memmove(r->text, r->text + r->bytes, r->filled);
    r->offset += r->bytes;
    for (r->bytes = 0; !r->bytes && !r->ended;) {
        if (r->filled == r->capacity) {
            r->capacity *= 2;
            r->text = memory_resize(r->text, r->capacity, 1);
        }
        r->filled += fread(r->text + r->filled, 1, r->capacity - r->filled, r->stream);
        if (ferror(r->stream)) die("%s: cannot read: %s", r->name, strerror(errno));
        r->ended = r->filled < r->capacity;
        r->bytes = r->ended ? r->filled : r->whole ? 0 : text_cut(r->text, r->filled);
    }
    if (r->bytes) return true;
    if (r->stream != stdin) fclose(r->stream);
    free(r->text);
    return false;
}

static void output_write(const void *data, size_t bytes) {
    if (fwrite(data, 1, bytes, stdout) != bytes)
        die("cannot write to the standard output: %s", strerror(errno));
}

static void run_train(const Options *o) {
    char *end;
    errno = 0;
    unsigned long long vocab = strtoull(o->vocab, &end, 10);
    if (*end || !(*o->vocab >= '0' && *o->vocab <= '9') || errno || vocab < 256 ||
        vocab > VOCAB_MAX)
        die_usage("--vocab %s: a whole number from 256 to %d is needed", o->vocab, VOCAB_MAX);
    Strings pieces = {0};
    size_t bytes = 0, tokens = 0;
    classes_prepare();
    for (size_t i = 0; i == 0 || i < o->file_count; i++) {
        Reader r = reader_open(o->files[i]);
        for (; reader_next(&r); bytes += r.bytes) pieces_count(&pieces, r.text, r.bytes);
    }
    Tokenizer *t = tokenizer_create(NULL, 0);
    merges_learn(t, &pieces, (size_t)vocab, o->verbose);
    folder_create(o->out);
    tokenizer_save(t, o->out);
    tokens = pieces_tokens(t, &pieces);
    printf("%s: %zu tokens, %zu merges; %zu bytes of text are %zu tokens, %.3f bytes each\n",
           o->out, t->vocab, t->merges.count, bytes, tokens,
           tokens ? (double)bytes / (double)tokens : 0.0);
    if (t->vocab < vocab)
        fprintf(stderr, "%s: the text has no more pairs: %zu tokens instead of %llu\n",
                program_name, t->vocab, vocab);
    strings_destroy(&pieces);
    tokenizer_destroy(t);
}

static void run_encode(const Options *o) {
    Tokenizer *t = tokenizer_load(o->model);
    Reader r = reader_open(o->files[0]);
    Ids ids = {0};
    size_t total = 0, width = t->vocab <= 65536 ? 2 : 4, size; /* bytes of a raw id */
    for (size_t i = 0; o->special && i < t->special_count; i++) { /* may a cut fall inside? */
        const unsigned char *token = tokenizer_token(t, t->specials[i], &size);
        r.whole |= text_cut(token, size) > 0;
    }
    while (reader_next(&r)) {
        ids.count = 0;
        if (o->special) {
            text_encode_special(t, r.text, r.bytes, r.name, r.offset, &ids);
        } else {
            text_check(t, r.text, r.bytes, r.name, r.offset);
            text_encode(t, r.text, r.bytes, &ids);
        }
        unsigned char *out = memory_allocate(ids.count, 11), *end = out;
        for (size_t i = 0; i < ids.count; i++) {
            uint32_t id = ids.data[i];
            if (o->raw) {
                memcpy(end, &id, width); /* the low bytes: this machine is little-endian */
                end += width;
                continue;
            }
            unsigned char digits[10];
            int n = 0;
            do digits[n++] = (unsigned char)('0' + id % 10);
            while (id /= 10);
            if (total + i) *end++ = ' ';
            while (n) *end++ = digits[--n];
        }
        total += ids.count;
        output_write(out, (size_t)(end - out));
        free(out);
    }
    if (!o->raw) output_write("\n", 1);
    free(ids.data);
    tokenizer_destroy(t);
}

static void run_decode(const Options *o) {
    Tokenizer *t = tokenizer_load(o->model);
    Reader r = reader_open(o->files[0]);
    size_t number = 0, bytes;
    uint64_t id = 0;
    bool digits = false; /* some of this id have been read */
    for (int c = ' '; c != EOF;) {
        c = getc(r.stream);
        if (c >= '0' && c <= '9') {
            if (id < UINT64_MAX / 10 - 1) id = id * 10 + (uint64_t)(c - '0'); /* or too large */
            digits = true;
            continue;
        }
        if (c != EOF && !(c == ' ' || c == '\n' || c == '\t' || c == '\r'))
            die("%s: after %zu ids: 0x%02X is not part of a decimal number", r.name, number,
                (unsigned)c);
        if (!digits) continue;
        number++;
        if (id >= t->vocab)
            die("%s: id %" PRIu64 " (number %zu) is out of range: the vocabulary has %zu ids",
                r.name, id, number, t->vocab);
        const unsigned char *token = tokenizer_token(t, (uint32_t)id, &bytes);
        output_write(token, bytes);
        id = digits = 0;
    }
    if (ferror(r.stream)) die("%s: cannot read: %s", r.name, strerror(errno));
    if (r.stream != stdin) fclose(r.stream);
    free(r.text);
    tokenizer_destroy(t);
}

static void run_show(const Options *o) {
    Tokenizer *t = tokenizer_load(o->model);
    Reader r = reader_open(o->files[0]);
    while (reader_next(&r)) {
        text_check(t, r.text, r.bytes, r.name, r.offset);
        for (size_t at = 0, length; at < r.bytes; at += length) {
            length = piece_length(r.text + at, r.bytes - at);
            char *piece = bytes_show(r.text + at, length);
            uint32_t *ids = memory_allocate(length, sizeof *ids);
            printf("%s\n", piece);
            size_t count = length <= SHORT_MAX
                               ? piece_encode_plain(t, r.text + at, length, ids, stdout)
                               : piece_encode(t, r.text + at, length, ids);
            for (size_t i = 0; i < count; i++) {
                char *token = token_show(t, ids[i]);
                printf("%s%s = %" PRIu32, i ? ", " : "    ids: ", token, ids[i]);
                free(token);
            }
            putchar('\n');
            free(piece);
            free(ids);
        }
    }
    tokenizer_destroy(t);
}

static const struct {
    const char *name;
    void (*run)(const Options *);
} COMMANDS[] = {{"train", run_train}, {"encode", run_encode},
                {"decode", run_decode}, {"show", run_show}};

/* The options after the command.  The names of files are moved to the front of argv[]. */
static Options options_read(const char *command, int argc, char **argv) {
    static const struct { const char *name, *commands; size_t field; bool value; } known[] = {
        {"--model", "encode decode show", offsetof(Options, model), true},
        {"--vocab", "train", offsetof(Options, vocab), true},
        {"--out", "train", offsetof(Options, out), true},
        {"--verbose", "train", offsetof(Options, verbose), false},
        {"--special", "encode", offsetof(Options, special), false},
        {"--raw", "encode", offsetof(Options, raw), false},
    };
    Options o = {.files = argv};
    for (int i = 2; i < argc; i++) {
        if (argv[i][0] != '-' || !argv[i][1]) {
            argv[o.file_count++] = argv[i];
            continue;
        }
        size_t k = 0, count = sizeof known / sizeof *known;
        while (k < count && strcmp(argv[i], known[k].name) != 0) k++;
        if (k == count || !strstr(known[k].commands, command))
            die_usage("%s: %s has no such option (see --help)", argv[i], command);
        if (known[k].value && i + 1 == argc) die_usage("%s: a value must follow", argv[i]);
        char *field = (char *)&o + known[k].field;
        if (known[k].value) *(const char **)field = argv[++i];
        else *(bool *)field = true;
    }
    argv[o.file_count] = NULL;
    if (strcmp(command, "train") == 0) {
        if (!o.vocab || !o.out) die_usage("train needs --vocab N and --out DIR");
        return o;
    }
    if (!o.model) die_usage("%s needs --model DIR", command);
    if (o.file_count > 1) die_usage("%s takes one file, not %zu", command, o.file_count);
    return o;
}

int main(int argc, char **argv) {
    const char *command = argc > 1 ? argv[1] : "";
    size_t k = 0, count = sizeof COMMANDS / sizeof *COMMANDS;
    while (k < count && strcmp(command, COMMANDS[k].name) != 0) k++;
    if (k < count) {
        Options o = options_read(command, argc, argv);
        COMMANDS[k].run(&o);
    } else if (strcmp(command, "--help") == 0) {
        fputs(usage_text, stdout);
    } else {
        die_usage("\"%s\" is not a command: use train, encode, decode or show (see --help)",
                  command);
    }
    if (fflush(stdout) != 0 || ferror(stdout))
        die("cannot write to the standard output: %s", strerror(errno));
    return 0;
}
#endif /* TOKENIZER_NO_MAIN */

#endif /* TOKENIZER_C */

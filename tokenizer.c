/* tokenizer.c - text to token ids and back.
 *
 * A program of its own (`./tokenizer --help`) and a part of train.c, which defines
 * TOKENIZER_NO_MAIN and includes this file.  It knows nothing of train.c.
 *
 * Byte-level byte-pair encoding (BPE), as GPT-2 has it: a text is cut into pieces (roughly
 * words), each piece is taken apart into single bytes, and pairs of neighbours are merged into
 * longer tokens, in the order in which a training text once showed them to be common.
 *
 * Two functions are the definition: merges_learn_plain() in section 3 and piece_encode_plain()
 * in section 5.  They say all there is to say about BPE, in some 60 lines, and are slow.
 * Beside each stands the one that is used, which gives the same result: section 3 says why for
 * learning, section 6 for encoding.  The tests hold each pair against each other.
 *
 * Sections
 *   1. Small tools: errors, checked memory, files, JSON   (may be skipped at first)
 *   2. What a token is
 *   3. How merges are learned
 *   4. How a text is cut
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
#error "This needs a little-endian system: files are read and written as numbers lie in memory."
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
 * What a user can cause ends here: one line on stderr, exit status 1 (2 for a wrong command
 * line).  So no function below hands back an error code that a caller could forget: it either
 * returns what it promises or does not return.
 * ====================================================================================== */

static const char *program_name = "tokenizer"; /* opens every message; train.c says "train" */

/* Files that are written but not renamed yet.  An error deletes them. */
enum { PENDING_MAX = 16 };
static struct {
    char *temporary, *path; /* temporary is NULL: this file is to be deleted */
} pending_files[PENDING_MAX];
static int pending_count;

/* Deletes unfinished files and prints a message.  Control characters, which a hostile file may
 * have put into a name, are shown as '?': a message is one line, and no terminal obeys it.
 * (U+0080 to U+009F are control characters too; in UTF-8 they are 0xC2 and 0x80 to 0x9F.) */
static void message_end(const char *format, va_list arguments) {
    char text[1024];
    for (int i = 0; i < pending_count; i++)
        if (pending_files[i].temporary) unlink(pending_files[i].temporary);
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

/* The same for a command line that cannot be meant: exit status 2. */
__attribute__((noreturn, format(printf, 1, 2)))
void die_usage(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    message_end(format, arguments);
    va_end(arguments);
    exit(2);
}

static size_t memory_bytes(size_t count, size_t size) { /* at least 1 */
    if (size && count > SIZE_MAX / 2 / size)
        die("cannot allocate %zu times %zu bytes: more than any memory", count, size);
    return count && size ? count * size : 1;
}

/* count * size zeroed bytes, never NULL; the caller owns them and calls free(). */
void *memory_allocate(size_t count, size_t size) {
    size_t bytes = memory_bytes(count, size);
    void *memory = calloc(bytes, 1);
    if (!memory) die("out of memory: cannot allocate %zu bytes", bytes);
    return memory;
}

/* realloc() with the same promises; the new part is not zeroed. */
void *memory_resize(void *memory, size_t count, size_t size) {
    size_t bytes = memory_bytes(count, size);
    void *larger = realloc(memory, bytes);
    if (!larger) die("out of memory: cannot allocate %zu bytes", bytes);
    return larger;
}

/* printf into fresh memory, which the caller frees. */
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

/* printf into a text that nobody frees and that lasts until 32 others were lent: the name of a
 * file on its way into a call, a number in a line of output. */
__attribute__((format(printf, 1, 2)))
const char *text_lend(const char *format, ...) {
    static char texts[32][4096 + 64]; /* no system opens a longer name */
    static unsigned next;
    char *text = texts[next++ % 32];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof texts[0], format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= sizeof texts[0]) die("%.60s...: is too long", text);
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
    unsigned char *data; /* size bytes and a NUL behind them, which size does not count */
    size_t size;
} Bytes;

/* All that an open stream still holds; `name` is for messages.  The caller frees .data. */
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
        die("%s: is a folder, a file is needed here", path);
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
 * cut included, sees the old file or the new one.
 *
 * Files that belong together are written between files_hold() and files_release(): they take
 * their names at the end, in the order in which they were created, when no write can fail any
 * more. */
typedef struct {
    FILE *stream;
    char *path, *temporary; /* they belong to the list of pending files */
} FileWriter;

static int files_held; /* holds that are open; they may nest */

FileWriter file_create(const char *path) {
    FileWriter file = {NULL, text_format("%s", path), text_format("%s.tmp", path)};
    file.stream = fopen(file.temporary, "wb");
    if (!file.stream) die("%s: cannot create: %s", file.temporary, strerror(errno));
    assert(pending_count < PENDING_MAX);
    pending_files[pending_count].temporary = file.temporary;
    pending_files[pending_count++].path = file.path;
    return file;
}

/* Deletes this file when the held files are renamed, if it exists now. */
void file_drop(const char *path) {
    assert(files_held && pending_count < PENDING_MAX);
    if (access(path, F_OK) != 0) return;
    pending_files[pending_count].temporary = NULL;
    pending_files[pending_count++].path = text_format("%s", path);
}

__attribute__((noreturn)) static void file_fail(const char *temporary) {
    die("%s: cannot write: %s; what was saved before is as it was", temporary, strerror(errno));
}

void file_write(FileWriter *file, const void *data, size_t bytes) {
    if (bytes && fwrite(data, 1, bytes, file->stream) != bytes)
        file_fail(file->temporary);
}

/* Makes a finished rename of a file in this folder survive a power cut. */
void folder_flush(const char *path) {
    char *folder = text_format("%s", path), *slash = strrchr(folder, '/');
    if (slash) slash[slash == folder] = 0;
    int descriptor = open(slash ? folder : ".", O_RDONLY);
    if (descriptor < 0 || (fsync(descriptor) != 0 && errno != EINVAL))
        die("%s: cannot flush the folder to disk: %s", slash ? folder : ".", strerror(errno));
    close(descriptor);
    free(folder);
}

/* Gives all pending files their names; of holds that nest, only the last release does.  From
 * here on they are complete: should one keep its temporary name, because the machine stops or
 * the rename fails, it stays and is not lost. */
void files_release(void) {
    int count = pending_count;
    if (files_held && --files_held) return;
    pending_count = 0;
    for (int i = 0; i < count; i++) {
        char *temporary = pending_files[i].temporary, *path = pending_files[i].path;
        if (!temporary && unlink(path) != 0 && errno != ENOENT)
            die("%s: cannot be removed: %s", path, strerror(errno));
        if (temporary && rename(temporary, path) != 0)
            die("%s: cannot be replaced: %s; its new contents may be in %s", path,
                strerror(errno), temporary);
        folder_flush(path);
        free(temporary);
        free(path);
    }
}

void files_hold(void) { files_held++; }

/* The end of a file that file_create began: all of it is on the disk. */
void file_commit(FileWriter *file) {
    bool good = fflush(file->stream) == 0 && fsync(fileno(file->stream)) == 0;
    int error = errno;
    if (fclose(file->stream) != 0 || !good) {
        if (!good) errno = error;
        file_fail(file->temporary);
    }
    if (!files_held) files_release();
}

/* Creates a folder and those above it; one that exists is as good. */
void folder_create(const char *path) {
    struct stat status;
    char *part = text_format("%s/", path);
    if (!*path) die("the name of a folder is empty");
    for (char *slash = part; (slash = strchr(slash + 1, '/')); *slash = '/') {
        *slash = 0;
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
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
    bool first;       /* nothing stands yet before the next member: no comma is due */
} Json;

__attribute__((noreturn)) static void json_fail(const Json *j, const char *expected) {
    die("%s: byte %zu: expected %s", j->name, j->at, expected);
}

static int json_byte(const Json *j) { return j->at < j->size ? j->text[j->at] : -1; }

static int json_peek(Json *j) { /* the next byte that is not blank, or -1 */
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

/* Is there another member before `bracket`?  Steps over the comma, or over the bracket. */
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
 * length.  Where out is NULL it is only stepped over. */
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
            static const char plain[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
            int escape = json_byte(j);
            const char *found = escape > 0 ? strchr(plain, escape) : NULL;
            if (!found && escape != 'u') json_fail(j, "an escape that JSON knows");
            j->at++;
            if (found) {
                utf8[0] = (unsigned char)meant[found - plain];
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

static size_t json_digits(Json *j) { /* steps over digits, of which there must be one */
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
    if (json_digits(j) > 1 && zero) json_fail(j, "no digit behind a leading 0");
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

/* Are these the next bytes?  Then steps over them. */
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

/* Steps over one value.  Calls itself for what stands in brackets, but no deeper than
 * JSON_DEPTH_MAX: no file can exhaust the stack. */
static void json_skip_at(Json *j, int depth) {
    int c = json_peek(j);
    if (depth > JSON_DEPTH_MAX) json_fail(j, "fewer brackets inside each other");
    if (c == '{')
        for (json_enter(j, '{'); json_key(j, NULL, 0);) json_skip_at(j, depth + 1);
    else if (c == '[')
        for (json_enter(j, '['); json_more(j, ']');) json_skip_at(j, depth + 1);
    else if (c == '"') json_string(j, NULL, 0);
    else if (c == 't' || c == 'f') json_boolean(j);
    else if (c == 'n') { if (!json_word(j, "null")) json_fail(j, "null"); }
    else json_number(j);
}

/* Steps over one value of any kind. */
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

/* Steps over an object.  values[i] becomes a reader of what stands behind keys[i], or one whose
 * text is NULL where there is no such key. */
static void json_members(Json *j, const char *const *keys, Json *values, size_t count) {
    char key[1024];
    for (size_t i = 0; i < count; i++) values[i] = (Json){.name = j->name};
    for (json_enter(j, '{'); json_key(j, key, sizeof key); json_skip(j))
        for (size_t i = 0; i < count; i++)
            if (strcmp(key, keys[i]) == 0) values[i] = *j;
}

/* Nothing but blanks may follow. */
void json_end(Json *j) {
    if (json_peek(j) != -1) json_fail(j, "the end of the text");
}

/* =========================================================================================
 * 2. What a token is                                 [glossary: Tokenization, Vocabulary]
 *
 * A model reads numbers, so a text becomes a row of ids.  A token is a byte string that has
 * an id; the vocabulary is the list of all tokens.  Three things are always true here:
 *
 *   - Ids run from 0 to vocab - 1 without a gap, and no two tokens are the same byte string.
 *   - A text is bytes, of whatever language or kind.  With all 256 single bytes in the
 *     vocabulary nothing is unknown, and the tokens of a text joined together are that text.
 *   - A longer token is built by a merge: the rule that two tokens, one behind the other, may
 *     become one.  Merges are ranked by age, and each joins bytes or what older merges built.
 *     A token that is neither a byte nor built by a merge is special: no text turns into it
 *     unless the caller asks.  GPT-2 has one, <|endoftext|>, which stands between documents.
 *
 * A vocabulary without merges is a character-level one, so the small first models and GPT-2's
 * 50,257 tokens are the same thing in two sizes.
 * ====================================================================================== */

enum {
    VOCAB_MAX = 1 << 24,    /* ranks below this leave 8 bits of 32 free: section 6 */
    TOKEN_BYTES_MAX = 65535 /* the longest token; files that claim a longer one are refused */
};
static const uint32_t NONE = UINT32_MAX; /* no id, no rank, no place */

/* Makes room for one more item behind `count` of them, doubling the room when it is used up. */
static void *array_grow(void *items, size_t *capacity, size_t count, size_t size) {
    if (count < *capacity) return items;
    *capacity = *capacity ? 2 * *capacity : 512;
    return memory_resize(items, *capacity, size);
}

/* A set of byte strings, numbered in the order in which they came.  It holds the vocabulary
 * (number = id), and while merges are learned the pieces of the text with their counts. */
typedef struct {
    unsigned char *bytes; /* all strings, one behind the other */
    size_t *start;        /* string i is bytes[start[i]] up to bytes[start[i + 1]] */
    uint64_t *times;      /* how often it was added */
    size_t count, capacity, bytes_capacity;
    uint64_t *slots;      /* hash table: upper half of the hash, then number + 1; 0 is free */
    size_t slot_count;    /* a power of two, at least twice count */
} Strings;

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

/* The slot in which a string stands, or the free slot in which it would. */
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
        for (size_t i = 0; i < s->count; i++) {
            const unsigned char *string = s->bytes + s->start[i];
            size_t size = s->start[i + 1] - s->start[i];
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
    uint32_t left, right; /* the ids of two tokens that stand one behind the other */
} Pair;

/* A set of pairs, numbered in the order in which they came. */
typedef struct {
    Pair *items;
    size_t count, capacity;
    uint32_t *slots;   /* hash table: number + 1; 0 is free */
    size_t slot_count; /* a power of two, at least four times count */
} Pairs;

/* The slot in which a pair stands, or the free slot in which it would.  A slot is only four
 * bytes and three of four are free: most pairs that are looked up while a text is encoded are
 * no merges, and one look at one free slot tells. */
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

typedef struct PieceCache PieceCache; /* pieces met before, with their ids: section 6 */

typedef struct {
    size_t vocab;             /* number of ids; they run from 0 to vocab - 1 */
    Strings tokens;           /* the byte string of each id */
    uint32_t id_of_byte[256]; /* the id of a single byte; NONE if it is not in the vocabulary */
    Pairs merges;             /* the number of a merge is its rank: the oldest has rank 0 */
    uint32_t *result;         /* the id of what each merge builds */
    uint32_t *run_end;        /* of each merge: where its run ends in section 6, else NONE */
    size_t result_capacity, run_end_capacity;
    uint32_t *specials;       /* ids of the special tokens */
    size_t special_count;
    PieceCache *cache;             /* made by the first text that is encoded */
} Tokenizer;

/* GPT-2 writes each byte as one letter, so that a token can stand in a text file whatever it
 * holds: the bytes that print stand for themselves, the others are U+0100, U+0101 and so on.
 * A blank is then "\u0120", a G with a dot.  The ids of single bytes follow the same order. */
bool byte_prints(int byte) {
    return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

/* Fills letter[256] with the code point that each byte is written as. */
static void byte_letters(uint32_t *letter) {
    uint32_t next = 256;
    for (int byte = 0; byte < 256; byte++)
        letter[byte] = byte_prints(byte) ? (uint32_t)byte : next++;
}

/* A byte string in these letters, as UTF-8 with a closing NUL; the caller frees it. */
char *bytes_show(const unsigned char *data, size_t bytes) {
    uint32_t letter[256];
    byte_letters(letter);
    unsigned char *shown = memory_allocate(2 * bytes + 1, 1), *end = shown;
    for (size_t i = 0; i < bytes; i++) end += utf8_put(end, letter[data[i]]);
    return (char *)shown;
}

/* The bytes of one token (id < vocab), *bytes of them; they belong to the tokenizer. */
const unsigned char *tokenizer_token(const Tokenizer *t, uint32_t id, size_t *bytes) {
    *bytes = t->tokens.start[id + 1] - t->tokens.start[id];
    return t->tokens.bytes + t->tokens.start[id];
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

/* Adds a merge, the youngest of all; returns its rank.  One that is there already stays as it
 * is. */
static uint32_t merge_add(Tokenizer *t, uint32_t left, uint32_t right, uint32_t result) {
    size_t before = t->merges.count;
    uint32_t rank = pairs_add(&t->merges, left, right);
    if (rank < before) return rank;
    t->result = array_grow(t->result, &t->result_capacity, before, sizeof *t->result);
    t->run_end = array_grow(t->run_end, &t->run_end_capacity, before, sizeof *t->run_end);
    t->result[rank] = result;
    t->run_end[rank] = NONE;
    return rank;
}

static Tokenizer *tokenizer_new(void) { /* without any token yet */
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
    free(t->run_end);
    free(t->specials);
    free(t->cache);
    free(t);
}

/* =========================================================================================
 * 3. How merges are learned                          [glossary: Byte-pair encoding (BPE)]
 *
 * The text has been cut into pieces, roughly words with the blank before them (section 4 says
 * how and why), and equal pieces are kept once with their count.  Each piece begins as a row of
 * single bytes.  Then, until the vocabulary is as large as wanted:
 *
 *     count every pair of tokens that stand one behind the other, in all pieces
 *     the commonest pair becomes a merge; among equals, the one with the smallest ids
 *     wherever that pair stands, from left to right, the new token takes its place
 *
 * So frequent strings become one token and rare ones stay in several: the vocabulary is spent
 * where it shortens the text most.  merges_learn_plain() is these three lines and nothing else.
 * It counts the whole text anew for each merge; merges_learn() keeps the counts up to date
 * instead.  Both learn the same merges, and the tests hold them against each other.
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
 * merge is applied wherever its pair stands, so equal strings are built up in equal ways, and
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
    while (t->vocab < vocab) {
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
        bool found = pairs.count > 0;
        if (found) {
            Pair merge = pairs.items[best];
            uint32_t result = merge_learn(t, merge.left, merge.right);
            for (size_t i = 0; i < pieces->count; i++) {
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
        }
        pairs_destroy(&pairs);
        free(counts);
        if (!found) break;
    }
    free(ids);
    free(length);
}

/* A heap hands out its smallest item first.  The parent of item i is item (i - 1) / 2 and never
 * larger than it; so the smallest stands in front, and putting in or taking out moves items
 * along one path from top to bottom: O(log n). */
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

/* Takes the smallest out; the last one sinks from its place to where it belongs. */
static inline void heap_pop(Heap *heap) {
    Item last = heap->items[--heap->count];
    size_t at = 0, child;
    /* What lies behind the end is made larger than any item, so that the choice between two
     * children needs no branch: it would go either way, and no processor foresees which. */
    heap->items[heap->count] = (Item){UINT64_MAX, UINT64_MAX};
    while ((child = 2 * at + 1) < heap->count) {
        child += item_less(heap->items[child + 1], heap->items[child]);
        if (!item_less(heap->items[child], last)) break;
        heap->items[at] = heap->items[child];
        at = child;
    }
    heap->items[at] = last;
}

/* The fast way rests on one thought: a merge changes the text only where its pair stands, so
 * only the pairs that touch these places change their counts.  Each byte of each piece is a
 * place.  A place that begins a token is linked to the tokens before and behind it, and stands
 * in the chain of the one pair that begins there:
 *
 *     piece " the":   [ ]<->[t]<->[h]<->[e]        pair (t, h):  first -> this t -> another t
 *
 * Merging (t, h) here takes the three places from the chains of ( ,t), (t,h), (h,e), joins the
 * two tokens, and puts two places into the chains of ( ,th) and (th,e).  That is all. */
typedef struct {
    uint32_t token, before, after;    /* NONE at the ends of the piece */
    uint32_t pair;                    /* the pair that begins here, NONE at the last token */
    uint32_t chain_before, chain_after;
    uint32_t piece;                   /* whose count this place has */
} Place;

typedef struct {
    uint64_t count;       /* in the whole text, so a piece that stands there 9 times counts 9 */
    uint32_t first, last; /* of the places where the pair stands, NONE if there are none */
    bool grown;           /* its count rose during the present merge */
} Chain;

typedef struct {
    Place *places;
    const uint64_t *times; /* the count of each piece */
    Pairs pairs;           /* every pair that was ever met */
    Chain *chains;         /* of the pair of the same number */
    size_t chain_capacity;
    uint32_t *grown;       /* pairs whose counts rose during this merge */
    size_t grown_count, grown_capacity;
} Learner;

/* Puts this place into the chain of the pair that begins here now, and counts it. */
static void place_join(Learner *l, uint32_t at) {
    Place *place = &l->places[at];
    place->pair = NONE;
    if (place->after == NONE) return;
    size_t before = l->pairs.count;
    place->pair = pairs_add(&l->pairs, place->token, l->places[place->after].token);
    if (place->pair == before) {
        l->chains = array_grow(l->chains, &l->chain_capacity, before, sizeof *l->chains);
        l->chains[before] = (Chain){0, NONE, NONE, false};
    }
    Chain *chain = &l->chains[place->pair];
    place->chain_before = chain->last;
    place->chain_after = NONE;
    if (chain->last == NONE) chain->first = at;
    else l->places[chain->last].chain_after = at;
    chain->last = at;
    chain->count += l->times[place->piece];
    if (chain->grown) return;
    chain->grown = true;
    l->grown = array_grow(l->grown, &l->grown_capacity, l->grown_count, sizeof *l->grown);
    l->grown[l->grown_count++] = place->pair;
}

/* Takes this place out of its pair's chain and count. */
static void place_leave(Learner *l, uint32_t at) {
    Place *place = &l->places[at];
    if (place->pair == NONE) return;
    Chain *chain = &l->chains[place->pair];
    if (place->chain_before == NONE) chain->first = place->chain_after;
    else l->places[place->chain_before].chain_after = place->chain_after;
    if (place->chain_after == NONE) chain->last = place->chain_before;
    else l->places[place->chain_after].chain_before = place->chain_before;
    chain->count -= l->times[place->piece];
}

/* The token at this place and the one behind it become `result`. */
static void place_merge(Learner *l, uint32_t at, uint32_t result) {
    Place *place = &l->places[at], *gone = &l->places[place->after];
    if (place->before != NONE) place_leave(l, place->before);
    place_leave(l, at);
    place_leave(l, place->after);
    place->token = result;
    place->after = gone->after;
    if (place->after != NONE) l->places[place->after].before = at;
    if (place->before != NONE) place_join(l, place->before);
    place_join(l, at);
}

/* Pairs wait in a heap, the commonest in front.  A count that falls leaves its item in the heap
 * too far in front; that is found out when the item comes up, which then goes back with the
 * present count (a lazy heap).  A count that rises is put in again at once, so no pair is
 * ever further back than it should be: what comes up with a true count is the commonest. */
static void heap_push_pair(Heap *heap, Pair pair, uint64_t count) {
    if (count) heap_push(heap, (Item){~count, (uint64_t)pair.left << 32 | pair.right});
}

/* The same merges as merges_learn_plain().  Cost: about one step for every place that a merge
 * ever touches.  `verbose` prints each merge with its count to stderr. */
void merges_learn(Tokenizer *t, const Strings *pieces, size_t vocab, bool verbose) {
    size_t total = pieces->count ? pieces->start[pieces->count] : 0;
    if (total >= NONE)
        die("the different pieces of the text have %zu bytes: 4 GB is the limit", total);
    Learner l = {.places = memory_allocate(total, sizeof(Place)), .times = pieces->times};
    Heap heap = {0};
    for (size_t i = 0; i < pieces->count; i++)
        for (size_t at = pieces->start[i], end = pieces->start[i + 1]; at < end; at++)
            l.places[at] = (Place){t->id_of_byte[pieces->bytes[at]],
                                   at > pieces->start[i] ? (uint32_t)at - 1 : NONE,
                                   at + 1 < end ? (uint32_t)at + 1 : NONE, NONE, NONE, NONE,
                                   (uint32_t)i};
    for (size_t at = 0; at < total; at++) place_join(&l, (uint32_t)at);
    while (t->vocab < vocab) {
        for (; l.grown_count; l.grown_count--) {
            uint32_t pair = l.grown[l.grown_count - 1];
            l.chains[pair].grown = false;
            heap_push_pair(&heap, l.pairs.items[pair], l.chains[pair].count);
        }
        if (!heap.count) break;
        Item top = heap.items[0];
        heap_pop(&heap);
        uint32_t left = (uint32_t)(top.second >> 32), right = (uint32_t)top.second;
        uint32_t best = pairs_find(&l.pairs, left, right);
        uint64_t count = l.chains[best].count;
        if (count != ~top.first) { /* out of date */
            if (count < ~top.first) heap_push_pair(&heap, (Pair){left, right}, count);
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
        uint32_t at;
        while ((at = l.chains[best].first) != NONE) {
            /* A chain is in the order of the text, so "aaaa" is merged from its first a on. */
            assert(left != right || l.places[at].before == NONE ||
                   l.places[l.places[at].before].token != left);
            place_merge(&l, at, result);
        }
    }
    free(l.places);
    pairs_destroy(&l.pairs);
    free(l.chains);
    free(l.grown);
    free(heap.items);
}

/* =========================================================================================
 * 4. How a text is cut
 *
 * Merges work inside pieces and never across their ends.  Without pieces "dog", "dog." and
 * "dog!" would each become a token of their own, and a text could only be encoded as a whole.
 * A piece is, by GPT-2's rule, the first of these that fits:
 *
 *     's 't 're 've 'm 'll 'd      English endings, small letters only
 *     letters                      each of these three with one blank (U+0020) before it,
 *     numbers                          if there is one: most words thus carry their blank
 *     other characters                 along, and there is one token for " the", not two
 *     white space                  but without its last character when something else follows,
 *                                      and if that is a blank, it goes to the word after it
 *
 * Letters and numbers of all scripts count (Unicode's general categories L and N), and white
 * space is Unicode's too.  Text is read as UTF-8; a byte that belongs to no well-formed
 * sequence (RFC 3629) is one other character, so any bytes at all can be cut.
 * ====================================================================================== */

enum { OTHER, LETTER, NUMBER, WHITE }; /* the class of a character */

/* The classes of Unicode 16.0, written by dev/unicode/make_classes.py: beginning with code
 * point 0, so many outside the class and so many inside it, in turn. */
/* letters: 677 ranges, 141,028 code points */
static const uint16_t letter_runs[] = {
  65,26,6,26,47,1,10,1,4,1,5,23,1,31,1,458,4,12,14,5,7,1,1,1,129,5,1,2,2,4,1,1,6,1,1,3,1,1,1,
  20,1,83,1,139,8,166,1,38,2,1,6,41,71,27,4,4,45,43,35,2,1,99,1,1,15,2,7,2,10,3,2,1,16,1,1,30,
  29,89,11,1,24,33,9,2,4,1,5,22,4,1,9,1,3,1,23,25,7,11,5,24,1,6,17,42,58,54,3,1,18,1,7,10,15,
  16,4,8,2,2,2,22,1,7,1,1,3,4,3,1,16,1,13,2,1,3,14,2,10,1,8,6,4,2,2,22,1,7,1,2,1,2,1,2,31,4,1,
  1,19,3,16,9,1,3,1,22,1,7,1,2,1,5,3,1,18,1,15,2,23,1,11,8,2,2,2,22,1,7,1,2,1,5,3,1,30,2,1,3,
  15,1,17,1,1,6,3,3,1,4,3,2,1,1,1,2,3,2,3,3,3,12,22,1,52,8,1,3,1,23,1,16,3,1,26,3,2,1,2,2,30,
  1,4,8,1,3,1,23,1,10,1,5,3,1,31,2,1,2,15,2,17,9,1,3,1,41,2,1,16,1,5,3,8,3,24,6,5,18,3,24,1,9,
  1,1,2,7,58,48,1,2,12,7,58,2,1,1,1,5,1,24,1,1,1,10,1,2,9,1,2,5,1,1,21,4,32,1,63,8,1,36,27,5,
  115,43,20,1,16,6,4,4,3,1,3,2,7,3,4,13,12,1,17,38,1,1,5,1,2,43,1,333,1,4,2,7,1,1,1,4,2,41,1,
  4,2,33,1,4,2,7,1,1,1,4,2,15,1,57,1,4,2,67,37,16,16,86,2,6,3,620,2,17,1,26,5,75,6,8,7,18,13,
  19,14,18,14,13,1,3,15,52,35,1,4,1,67,89,7,5,2,34,1,1,5,70,10,31,49,30,2,5,11,44,4,26,54,23,
  9,53,82,1,93,47,17,8,54,30,13,2,10,44,26,36,41,3,10,36,2,11,5,43,2,3,41,4,1,6,1,2,3,1,5,192,
  64,278,2,6,2,38,2,6,2,8,1,1,1,1,1,1,1,31,2,53,1,7,1,1,3,3,1,7,3,4,2,6,4,13,5,3,1,7,116,1,13,
  1,16,13,101,1,4,1,2,10,1,1,3,5,6,1,1,1,1,1,1,4,1,11,2,4,5,5,4,1,52,2,2683,229,6,4,3,2,12,38,
  1,1,5,1,2,56,7,1,16,23,9,7,1,7,1,7,1,7,1,7,1,7,1,7,1,7,80,1,469,2,42,5,5,2,4,86,6,3,1,90,1,
  4,5,43,1,94,17,32,48,16,512,6592,64,22157,67,46,2,269,3,16,10,2,20,47,16,31,2,70,49,9,2,103,
  2,67,2,2,1,1,1,8,21,16,1,3,1,4,1,23,29,52,14,50,62,6,3,1,1,2,11,28,10,23,25,29,7,47,28,1,16,
  5,1,10,10,5,1,41,23,3,1,8,20,23,3,1,3,50,1,1,3,2,2,5,2,1,1,1,24,3,2,11,7,3,12,6,2,6,2,6,9,7,
  1,7,1,43,1,14,6,115,29,11172,12,23,4,49,8452,366,2,106,38,7,12,5,5,1,1,10,1,13,1,5,1,1,1,2,
  1,2,1,108,33,363,18,64,2,54,40,12,116,5,1,135,36,26,6,26,11,89,3,6,2,6,2,6,2,3,35,12,1,26,1,
  19,1,2,1,15,2,14,34,123,389,29,3,49,47,32,13,20,1,8,6,38,10,30,2,36,4,8,48,158,18,36,4,36,4,
  40,8,52,12,11,1,15,1,7,1,2,1,11,1,15,1,7,1,2,3,52,12,311,9,22,10,8,24,6,1,42,1,9,69,6,2,1,1,
  44,1,2,3,1,2,23,10,23,9,31,65,19,1,2,10,22,10,26,70,56,6,2,64,1,15,4,1,3,1,29,42,29,3,29,35,
  8,1,28,27,54,10,22,10,19,13,18,110,73,55,51,13,51,13,36,38,28,9,23,250,42,6,2,16,3,59,29,10,
  1,8,22,42,18,46,21,27,23,12,53,57,2,2,1,13,45,32,25,26,36,29,1,2,1,8,35,3,1,12,48,14,4,21,1,
  1,1,35,18,1,25,19,2,63,7,1,1,1,4,1,15,1,10,7,47,38,8,2,2,2,22,1,7,1,2,1,5,3,1,18,1,12,5,30,
  10,1,1,2,1,1,38,1,1,25,1,1,1,44,53,18,4,20,3,30,48,20,2,1,1,184,47,41,4,36,48,20,1,59,43,13,
  1,71,27,37,7,185,44,116,64,31,8,2,1,2,8,1,2,1,24,15,1,1,1,94,8,2,39,16,1,1,1,28,1,10,40,7,1,
  21,1,11,46,19,1,18,73,199,33,31,9,1,37,17,1,49,30,112,7,1,2,1,38,21,1,25,6,1,2,1,32,14,1,
  327,19,15,1,1,13,1,34,124,1,79,922,230,196,2636,97,15,1072,17,6,25,3995,5,583,6841,30,1762,
  569,7,31,17,79,17,30,18,48,16,4,31,21,5,19,432,45,211,64,128,75,5,1,66,13,64,2,1,1,28,6136,
  8,1238,41,10,8935,4,1,7,1,2,1,291,15,1,29,3,2,1,14,4,8,396,2308,107,5,13,3,9,7,10,5990,85,1,
  71,1,2,2,1,2,2,2,4,1,12,1,1,1,7,1,65,1,4,2,8,1,7,1,28,1,4,1,5,1,1,3,7,1,340,2,25,1,25,1,31,
  1,25,1,31,1,25,1,31,1,25,1,31,1,25,1,8,1844,31,6,6,261,62,146,45,10,7,16,1,321,30,18,44,484,
  28,228,30,2,1,495,7,1,4,1,2,1,15,1,197,59,68,7,1,1204,4,1,27,1,2,1,1,2,1,1,10,1,4,1,1,1,1,6,
  1,4,1,1,1,1,1,1,3,1,2,1,1,2,1,1,1,1,1,1,1,1,1,1,2,1,1,2,4,1,7,1,4,1,4,1,1,1,10,1,17,5,3,1,5,
  1,17,4420,42720,32,4154,6,222,2,5762,14,7473,15,622,2466,542,1506,4939,5,4192};
/* numbers: 144 ranges, 1,911 code points */
static const uint16_t number_runs[] = {
  48,10,120,2,5,1,2,3,1441,10,134,10,198,10,412,10,118,10,4,6,108,10,118,10,118,10,2,6,110,13,
  115,10,8,7,103,10,104,7,7,19,109,10,96,10,118,10,70,20,268,10,70,10,719,20,881,3,239,10,6,
  10,22,10,300,10,128,11,165,10,6,10,182,10,86,10,134,10,6,10,1046,1,3,6,6,10,198,51,2,5,726,
  60,78,22,630,30,1385,1,777,1,25,9,14,3,343,4,138,10,30,8,1,15,32,10,39,15,29536,10,188,10,
  320,6,154,10,38,10,198,10,22,10,86,10,406,10,21270,10,493,45,12,57,17,2,341,27,36,4,29,1,8,
  1,134,5,202,10,942,8,25,7,39,9,75,5,22,6,160,2,2,16,2,46,64,9,52,2,30,3,75,5,104,8,24,8,41,
  7,330,6,48,10,6,10,278,31,158,10,42,4,112,7,134,30,128,10,60,10,144,10,7,20,251,10,342,10,
  118,10,374,10,102,10,6,20,76,12,420,19,93,10,662,10,86,29,227,10,70,10,422,10,102,21,1067,
  111,15553,10,2342,10,86,10,134,10,1,7,526,10,262,23,24153,10,1478,20,12,20,108,25,1109,50,
  2368,10,422,10,502,10,247,10,716,9,128,10,791,59,1,3,1,4,76,45,1,15,962,13,2787,10};
/* white space: 10 ranges, 25 code points */
static const uint16_t white_runs[] = {
  9,5,18,1,100,1,26,1,5599,1,2431,11,29,2,5,1,47,1,4000,1};

enum { CLASSED = 0x32400 };             /* no code point from here on is in any of the three */
static unsigned char class_of[CLASSED]; /* unpacked from the tables by classes_prepare() */

static void classes_unpack(const uint16_t *runs, size_t count, unsigned char class) {
    for (size_t i = 0, code = 0; i < count; i += 2) {
        code += runs[i];
        memset(class_of + code, class, runs[i + 1]);
        code += runs[i + 1];
        assert(code <= CLASSED);
    }
}

static void classes_prepare(void) {
    if (class_of['a'] == LETTER) return;
    classes_unpack(white_runs, sizeof white_runs / sizeof *white_runs, WHITE);
    classes_unpack(number_runs, sizeof number_runs / sizeof *number_runs, NUMBER);
    classes_unpack(letter_runs, sizeof letter_runs / sizeof *letter_runs, LETTER);
}

/* The class of the character at text[0], of which `bytes` follow; *step is its length.  The
 * limits on the second byte shut out forms that are too long (E0, F0), the halves of UTF-16
 * pairs (ED) and everything above U+10FFFF (F4). */
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

/* The length of the piece that begins at text[0]; `bytes`, at least 1, are there in all.  It
 * looks at each byte of the piece once, and at the one character behind it. */
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

/* A place at which the text may be taken apart without changing any piece, so that a file
 * larger than memory can be read in parts: the last blank that follows a character which is not
 * white.  There a piece ends, whatever stands on either side.  Returns 0 if there is none. */
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
 * A piece begins as single bytes.  As long as any two neighbours are a merge, the oldest merge
 * (the lowest rank) among them is applied, at its leftmost place.  The text is thus built up in
 * the order in which the merges were learned, and gets the tokens that it had in training.
 * ====================================================================================== */

/* The definition.  Writes the ids of one piece to ids[], at most `bytes`, and returns how many
 * they are.  Every byte must be in the vocabulary.  `show`, if not NULL, gets a line for each
 * merge.  Cost: the square of the length. */
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
 * Three things make the definition fast, and none of them changes what comes out.
 *
 * Ranks are kept.  A merge changes two pairs, the one before it and the one behind it; all
 * others keep their ranks.  So two ranks are looked up for each merge instead of all.
 *
 * The next merge is found faster.  It is the least (rank, place) of all neighbours, compared by
 * rank and then by place.  In a short piece the least is found by a scan of a small array,
 * which the compiler turns into a few vector instructions; in a long one it stands first in a
 * queue, so that a piece of n bytes does not cost n^2.  Both hand out the least, and that is
 * the merge that the definition takes.
 *
 * Pieces repeat.  What a piece becomes depends on nothing but its bytes, so its ids may be kept
 * and copied when it comes again, which most pieces of a text do.  What all this gains is what
 * dev/bench/tokenizer.py measures; doc/tokenizer.md has the table.
 * ====================================================================================== */

enum {
    SHORT_MAX = 128,      /* longest piece that is scanned; a place must fit in 8 bits */
    CACHE_BYTES = 23,     /* longest piece that is kept */
    CACHE_IDS = 9,        /* most ids kept for one piece: 64 bytes in all, a cache line */
    CACHE_SLOTS = 1 << 16 /* 4 MB */
};

static size_t piece_encode_short(const Tokenizer *t, const unsigned char *piece, size_t bytes,
                                 uint32_t *ids) {
    uint32_t token[SHORT_MAX], order[SHORT_MAX]; /* order: rank << 8 | place, or NONE */
    uint8_t before[SHORT_MAX + 1], after[SHORT_MAX];
    for (size_t i = 0; i < bytes; i++) {
        token[i] = t->id_of_byte[piece[i]];
        before[i + 1] = (uint8_t)i;
        after[i] = (uint8_t)(i + 1);
    }
    for (size_t i = 0; i < bytes; i++) {
        uint32_t rank = i + 1 < bytes ? pairs_find(&t->merges, token[i], token[i + 1]) : NONE;
        order[i] = rank == NONE ? NONE : rank << 8 | (uint32_t)i;
    }
    for (;;) {
        uint32_t least = NONE;
        for (size_t i = 0; i < bytes; i++) least = order[i] < least ? order[i] : least;
        if (least == NONE) break;
        size_t at = least & 0xFF, gone = after[at], next = after[gone];
        token[at] = t->result[least >> 8];
        after[at] = (uint8_t)next;
        before[next] = (uint8_t)at;
        order[gone] = order[at] = NONE;
        if (next < bytes) {
            uint32_t rank = pairs_find(&t->merges, token[at], token[next]);
            if (rank != NONE) order[at] = rank << 8 | (uint32_t)at;
        }
        if (at > 0) {
            uint32_t rank = pairs_find(&t->merges, token[before[at]], token[at]);
            order[before[at]] = rank == NONE ? NONE : rank << 8 | before[at];
        }
    }
    size_t count = 0;
    for (size_t at = 0; at < bytes; at = after[at]) ids[count++] = token[at];
    return count;
}

/* In a long piece all pairs of one rank stand in a run: a list of their places.  The heap holds
 * the rank of each run, not each pair.
 *
 *     heap:   rank 3     its run:   2 -> 7 -> 40
 *             rank 8     its run:   0 -> 12
 *
 * The front of the run of the least rank is the least (rank, place), because all runs ascend,
 * although places are only ever put behind the last one: the pairs of two tokens x and y arise
 * from left to right.  For let r be the highest rank among the merges that build x.  These are
 * the same wherever x stands, since nothing but its own bytes has a part in them.  Merges of
 * rank r are applied from left to right; between two of them come only merges of lower ranks,
 * which the first of the two made possible, and they enlarge the token that it built.  So each
 * x is completed while r is the highest rank up to then, and one is after another, from left
 * to right.  A pair (x, y) arises when the second of its tokens is completed.  That is always
 * the one with the higher r, and if they have the same, it is y: in both cases, from left to
 * right.  This holds for any list of merges.
 *
 * A pair whose tokens are gone stays where it is, and is known when its turn comes: the rank
 * at its place is another one by then.
 *
 * Cost: n bytes make less than 3 n pairs.  A pair enters and leaves its run in the same time,
 * however long the run is; the heap moves when a run begins or ends.  In a vocabulary that was
 * learned a merge only makes pairs of higher ranks, so each of the R ranks that occur has one
 * run: O(n + R log R).  With any other it is O(n log R).  Memory: 16 bytes for each byte of the
 * piece, 4.6 for each pair that waits, 64 for each rank.  (A list for each key in place of a
 * heap of single items is R. B. Dial's: "Algorithm 360", Communications of the ACM, 1969.) */
typedef struct {
    uint32_t token, before, after; /* NONE at the ends */
    uint32_t rank; /* of the merge with the token behind, NONE if there is none */
} Link;

/* A run is a chain of these.  One place in each would do; so many of them fill one line of the
 * processor's cache, and a step through a run hardly ever waits for memory. */
enum { PART_PLACES = 14 };
typedef struct {
    uint32_t place[PART_PLACES];
    uint32_t next;         /* the number of the part behind this one, NONE behind the last */
    uint16_t first, count; /* place[first] is the next to be taken, place[count] is free */
} RunPart;

typedef struct {
    const Tokenizer *t;
    Link *links; /* one for each byte of the piece */
    RunPart *parts;
    size_t part_count, part_capacity;
    uint32_t unused; /* a chain of parts that are empty again */
    Heap heap;       /* the rank of each run and the number of its first part */
} LongPiece;

/* The pair that begins at place `at` now waits, if it is a merge. */
static inline void pair_wait(LongPiece *p, uint32_t at) {
    Link *link = &p->links[at];
    link->rank = NONE;
    if (link->after == NONE) return;
    link->rank = pairs_find(&p->t->merges, link->token, p->links[link->after].token);
    if (link->rank == NONE) return;
    uint32_t *end = &p->t->run_end[link->rank], part = *end;
    if (part == NONE || p->parts[part].count == PART_PLACES) {
        part = p->unused;
        if (part == NONE) {
            p->parts =
                array_grow(p->parts, &p->part_capacity, p->part_count, sizeof *p->parts);
            part = (uint32_t)p->part_count++;
        } else p->unused = p->parts[part].next;
        p->parts[part].next = NONE;
        p->parts[part].first = p->parts[part].count = 0;
        if (*end == NONE) heap_push(&p->heap, (Item){link->rank, part});
        else p->parts[*end].next = part;
        *end = part;
    }
    RunPart *last = &p->parts[part];
    assert(!last->count || last->place[last->count - 1] < at);
    last->place[last->count++] = at;
}

/* Takes the pair of the least (rank, place) out of its run; returns its place. */
static inline uint32_t pair_take(LongPiece *p, uint32_t *rank) {
    Item *least = &p->heap.items[0];
    uint32_t part = (uint32_t)least->second;
    RunPart *front = &p->parts[part];
    uint32_t at = front->place[front->first++];
    *rank = (uint32_t)least->first;
    /* The link that is needed four pairs from now is fetched from memory meanwhile. */
    if (front->first + 3 < front->count)
        __builtin_prefetch(&p->links[front->place[front->first + 3]]);
    if (front->first == front->count) {
        least->second = front->next;
        if (front->next == NONE) {
            p->t->run_end[*rank] = NONE;
            heap_pop(&p->heap);
        }
        front->next = p->unused;
        p->unused = part;
    }
    return at;
}

static size_t piece_encode_long(const Tokenizer *t, const unsigned char *piece, size_t bytes,
                                uint32_t *ids) {
    if (bytes > NONE / 2) die("a word of %zu bytes: 2 GB is the limit", bytes);
    LongPiece p = {.t = t, .links = memory_allocate(bytes, sizeof(Link)), .unused = NONE};
    for (uint32_t i = 0; i < bytes; i++)
        p.links[i] = (Link){t->id_of_byte[piece[i]], i ? i - 1 : NONE,
                            i + 1 < bytes ? i + 1 : NONE, NONE};
    for (uint32_t i = 0; i < bytes; i++) pair_wait(&p, i);
    while (p.heap.count) {
        uint32_t rank, at = pair_take(&p, &rank);
        Link *link = &p.links[at];
        if (link->rank != rank) continue;
        Link *gone = &p.links[link->after];
        link->token = t->result[rank];
        link->after = gone->after;
        gone->rank = NONE;
        if (gone->after != NONE) p.links[gone->after].before = at;
        pair_wait(&p, at);
        if (link->before != NONE) pair_wait(&p, link->before);
    }
    size_t count = 0;
    for (uint32_t at = 0; at != NONE; at = p.links[at].after) ids[count++] = p.links[at].token;
    free(p.links);
    free(p.parts);
    free(p.heap.items);
    return count;
}

static size_t piece_encode(const Tokenizer *t, const unsigned char *piece, size_t bytes,
                           uint32_t *ids) {
    return bytes <= SHORT_MAX ? piece_encode_short(t, piece, bytes, ids)
                              : piece_encode_long(t, piece, bytes, ids);
}

/* A piece has one slot in which it may be kept, and the last one to come keeps it: common
 * pieces come so often that they are nearly always there, and memory stays what it is.  The key
 * is the whole piece with its length behind it, so a slot never answers for another piece. */
struct PieceCache {
    struct {
        uint64_t key[3]; /* the bytes, zeros behind them, the length in the last; 0 is free */
        uint32_t count, ids[CACHE_IDS];
    } slots[CACHE_SLOTS];
};

/* The key of a piece of at most CACHE_BYTES, from whose start `room` bytes may be read; returns
 * the number of its slot. */
static inline size_t cache_key(const unsigned char *piece, size_t bytes, size_t room,
                               uint64_t key[3]) {
    /* Three words are read at once and what does not belong to the piece is masked away: a copy
     * whose length varies would be a call and a chain of branches, for every piece. */
    static const uint8_t mask[48] = {255, 255, 255, 255, 255, 255, 255, 255,
                                     255, 255, 255, 255, 255, 255, 255, 255,
                                     255, 255, 255, 255, 255, 255, 255, 255}; /* then zeros */
    uint64_t keep[3];
    unsigned char last[24] = {0};
    memcpy(keep, mask + 24 - bytes, 24);
    if (room < 24) memcpy(last, piece, bytes), piece = last;
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

/* Appends the ids of a text, whose special tokens have no meaning here. */
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

/* Every byte must be known before merges may be applied. */
static void text_check(const Tokenizer *t, const unsigned char *text, size_t bytes,
                       const char *name, size_t offset) {
    bool all = true;
    for (int byte = 0; byte < 256; byte++) all &= t->id_of_byte[byte] != NONE;
    for (size_t i = 0; !all && i < bytes; i++)
        if (t->id_of_byte[text[i]] == NONE)
            die("%s: byte %zu is 0x%02X, which is not in the model's vocabulary", name,
                offset + i, text[i]);
}

/* Text to ids; *ids is fresh memory that the caller frees.  Returns how many there are.  A byte
 * that the vocabulary does not have ends the program; `name` says in the message where the
 * text came from. */
size_t tokenizer_encode(Tokenizer *t, const unsigned char *text, size_t bytes, const char *name,
                        uint32_t **ids) {
    Ids list = {0};
    text_check(t, text, bytes, name, 0);
    ids_reserve(&list, bytes / 3 + 1);
    text_encode(t, text, bytes, &list);
    *ids = memory_resize(list.data, list.count, sizeof *list.data);
    return list.count;
}

/* The same for a text in which special tokens stand for themselves.  `offset` is the place of
 * the text in its file, for messages.  Appends to `ids`. */
void text_encode_special(Tokenizer *t, const unsigned char *text, size_t bytes,
                         const char *name, size_t offset, Ids *ids) {
    bool begins[256] = {false}; /* a special token begins with this byte */
    size_t size, done = 0;
    for (size_t i = 0; i < t->special_count; i++)
        begins[tokenizer_token(t, t->specials[i], &size)[0]] = true;
    for (size_t at = 0; at <= bytes; at++) {
        uint32_t found = NONE;
        size_t longest = 0;
        for (size_t i = 0; at < bytes && begins[text[at]] && i < t->special_count; i++) {
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

/* A vocabulary of 256 bytes and the merges that the pieces of a text teach, `vocab` ids in all
 * (fewer if the text has no more pairs).  The caller calls tokenizer_destroy(). */
static Tokenizer *pieces_learn(const Strings *pieces, size_t vocab, bool verbose) {
    assert(vocab >= 256 && vocab <= VOCAB_MAX);
    Tokenizer *t = tokenizer_create(NULL, 0);
    merges_learn(t, pieces, vocab, verbose);
    return t;
}

/* The number of tokens in a text that is given as its pieces with their counts. */
size_t pieces_tokens(const Tokenizer *t, const Strings *pieces) {
    Ids ids = {0};
    size_t tokens = 0;
    for (size_t i = 0; i < pieces->count; i++) {
        size_t bytes = pieces->start[i + 1] - pieces->start[i];
        ids_reserve(&ids, bytes);
        tokens += pieces->times[i] *
                  piece_encode(t, pieces->bytes + pieces->start[i], bytes, ids.data);
    }
    free(ids.data);
    return tokens;
}

/* A vocabulary of `vocab` ids that a text teaches; see pieces_learn. */
Tokenizer *tokenizer_learn(const unsigned char *text, size_t bytes, size_t vocab,
                           bool verbose) {
    Strings pieces = {0};
    classes_prepare();
    pieces_count(&pieces, text, bytes);
    Tokenizer *t = pieces_learn(&pieces, vocab, verbose);
    strings_destroy(&pieces);
    return t;
}

/* =========================================================================================
 * 8. A tokenizer on disk
 *
 * DIR/vocab.json is {"token": id, ...} and DIR/merges.txt has a line "left right" for each
 * merge, oldest first; tokens are written in the letters of section 2.  Hugging Face keeps
 * GPT-2's tokenizer in these two files, so its programs open what is saved here.  What they
 * save themselves is one file, DIR/tokenizer.json, which is read here as well.
 * ====================================================================================== */

/* Writes vocab.json and merges.txt into a folder, which must exist. */
void tokenizer_save(const Tokenizer *t, const char *folder) {
    files_hold();
    FileWriter file = file_create(text_lend("%s/vocab.json", folder));
    file_write(&file, "{", 1);
    for (size_t id = 0; id < t->vocab; id++) {
        char *token = token_show(t, (uint32_t)id), *quoted = json_quote(token);
        char *entry = text_format("%s%s: %zu", id ? ", " : "", quoted, id);
        file_write(&file, entry, strlen(entry));
        free(token);
        free(quoted);
        free(entry);
    }
    file_write(&file, "}\n", 2);
    file_commit(&file);
    file = file_create(text_lend("%s/merges.txt", folder));
    file_write(&file, "#version: 0.2\n", 14);
    for (size_t i = 0; i < t->merges.count; i++) {
        char *left = token_show(t, t->merges.items[i].left),
             *right = token_show(t, t->merges.items[i].right);
        char *line = text_format("%s %s\n", left, right);
        file_write(&file, line, strlen(line));
        free(left);
        free(right);
        free(line);
    }
    file_commit(&file);
    file_drop(text_lend("%s/tokenizer.json", folder)); /* which would be read instead */
    files_release();
}

/* Turns letters back into bytes; returns how many, or 0 if that cannot be. */
static size_t letters_read(const unsigned char *text, size_t size, unsigned char *out) {
    static int16_t byte_of[0x144]; /* byte + 1; the last letter is U+0143 */
    uint32_t letter[256];
    if (!byte_of['!']) {
        byte_letters(letter);
        for (int byte = 0; byte < 256; byte++) byte_of[letter[byte]] = (int16_t)(byte + 1);
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

enum { KEY_MAX = 2 * TOKEN_BYTES_MAX + 1 }; /* of a token in letters of at most two bytes */

/* Tokens with their ids, in the order of a file. */
typedef struct {
    Strings tokens;
    uint32_t *ids;
    size_t capacity;
} Vocabulary;

static void vocabulary_destroy(Vocabulary *v) {
    strings_destroy(&v->tokens);
    free(v->ids);
}

/* `j` is for messages, `again` says that the token may be there already, with the same id. */
static void vocabulary_add(Vocabulary *v, const unsigned char *token, size_t bytes, size_t id,
                           const Json *j, bool again) {
    if (id >= VOCAB_MAX)
        die("%s: byte %zu: id %zu is out of range, %d is the limit", j->name, j->at, id,
            VOCAB_MAX - 1);
    size_t before = v->tokens.count, number = strings_add(&v->tokens, token, bytes);
    if (number < before && !(again && v->ids[number] == id))
        die("%s: byte %zu: this token occurs twice", j->name, j->at);
    v->ids = array_grow(v->ids, &v->capacity, before, sizeof *v->ids);
    v->ids[number] = (uint32_t)id;
}

/* Reads {"token": id, ...}.  The tokens in `added` are written as they are, not in letters. */
static void vocabulary_parse(Vocabulary *v, Json *j, const Vocabulary *added) {
    char *key = memory_allocate(KEY_MAX, 1);
    unsigned char *token = memory_allocate(KEY_MAX, 1);
    for (json_enter(j, '{'); json_key(j, key, KEY_MAX);) {
        size_t length = strlen(key), id = json_size(j);
        uint32_t raw = strings_find(&added->tokens, (unsigned char *)key, length);
        size_t bytes = raw != NONE && added->ids[raw] == id
                           ? (memcpy(token, key, length), length)
                           : letters_read((unsigned char *)key, length, token);
        if (!bytes)
            die("%s: byte %zu: this token is empty, longer than %d bytes, or not made of "
                "GPT-2's letters",
                j->name, j->at, TOKEN_BYTES_MAX);
        vocabulary_add(v, token, bytes, id, j, false);
    }
    free(token);
    free(key);
}

/* Gives `t`, which has none, these tokens in the order of their ids. */
static void vocabulary_take(Tokenizer *t, Vocabulary *v, const char *name) {
    Strings *tokens = &v->tokens;
    uint32_t *order = memory_allocate(tokens->count, sizeof *order); /* id to number + 1 */
    bool sorted = true;
    for (size_t i = 0; i < tokens->count; i++) {
        uint32_t id = v->ids[i];
        if (id >= tokens->count)
            die("%s: id %u is out of range: %zu tokens must have the ids 0 to %zu", name,
                (unsigned)id, tokens->count, tokens->count - 1);
        if (order[id]) die("%s: two tokens have the id %u", name, (unsigned)id);
        order[id] = (uint32_t)i + 1;
        sorted &= id == i;
    }
    for (size_t id = 0; !sorted && id < tokens->count; id++) {
        size_t i = order[id] - 1;
        strings_add(&t->tokens, tokens->bytes + tokens->start[i],
                    tokens->start[i + 1] - tokens->start[i]);
    }
    if (sorted) { /* the usual case: nothing is to be moved */
        t->tokens = *tokens;
        *tokens = (Strings){0};
    }
    t->vocab = t->tokens.count;
    for (int byte = 0; byte < 256; byte++)
        t->id_of_byte[byte] =
            strings_find(&t->tokens, &(unsigned char){(unsigned char)byte}, 1);
    free(order);
    vocabulary_destroy(v);
}

/* Merges as they are read, oldest first. */
typedef struct {
    Tokenizer *t;
    const char *name, *unit; /* for messages: the file, and what is counted there */
    size_t number;
    bool fixed, *built;      /* t has its vocabulary; what bytes and merges build of it */
    unsigned char *joined;   /* room for the bytes of both parts */
} MergeReader;

static MergeReader merges_begin(Tokenizer *t, const char *name, const char *unit, bool fixed) {
    MergeReader r = {t, name, unit, 0, fixed, memory_allocate(fixed ? t->vocab : 0, 1),
                     memory_allocate(2 * TOKEN_BYTES_MAX, 1)};
    for (int byte = 0; byte < 256; byte++)
        if (fixed && t->id_of_byte[byte] != NONE) r.built[t->id_of_byte[byte]] = true;
    return r;
}

static void merges_next(MergeReader *r, const unsigned char *left_text, size_t left_size,
                        const unsigned char *right_text, size_t right_size) {
    Tokenizer *t = r->t;
    size_t a = letters_read(left_text, left_size, r->joined);
    size_t b = a ? letters_read(right_text, right_size, r->joined + a) : 0;
    if (!b)
        die("%s: %s %zu: expected two tokens in GPT-2's letters, of at most %d bytes, and one "
            "blank between them",
            r->name, r->unit, r->number, TOKEN_BYTES_MAX);
    if (a + b > TOKEN_BYTES_MAX)
        die("%s: %s %zu: a token of %zu bytes: %d is the limit", r->name, r->unit, r->number,
            a + b, TOKEN_BYTES_MAX);
    uint32_t left = strings_find(&t->tokens, r->joined, a);
    uint32_t right = strings_find(&t->tokens, r->joined + a, b);
    bool left_good = left != NONE && (!r->fixed || r->built[left]);
    if (!left_good || right == NONE || (r->fixed && !r->built[right]))
        die("%s: %s %zu: the %s token is neither a byte of the vocabulary nor built by a %s "
            "above",
            r->name, r->unit, r->number, left_good ? "right" : "left", r->unit);
    uint32_t result = strings_find(&t->tokens, r->joined, a + b);
    if (result == NONE && r->fixed)
        die("%s: %s %zu: what it builds is not in the vocabulary", r->name, r->unit, r->number);
    if (result == NONE) result = token_add(t, r->joined, a + b);
    else if (r->fixed) r->built[result] = true;
    uint32_t ranks = (uint32_t)t->merges.count;
    if (merge_add(t, left, right, result) < ranks)
        die("%s: %s %zu: this merge occurs twice", r->name, r->unit, r->number);
    if (t->merges.count >= VOCAB_MAX)
        die("%s: %s %zu: more than %d merges", r->name, r->unit, r->number, VOCAB_MAX - 1);
}

/* "left right" in one string */
static void merges_next_joined(MergeReader *r, const unsigned char *text, size_t size) {
    const unsigned char *blank = size ? memchr(text, ' ', size) : NULL;
    size_t left = blank ? (size_t)(blank - text) : 0;
    merges_next(r, text, left, text + left + 1, blank ? size - left - 1 : 0);
}

static void merges_end(MergeReader *r) { /* what nothing has built is special */
    Tokenizer *t = r->t;
    for (size_t id = 0; r->fixed && id < t->vocab; id++) {
        if (r->built[id]) continue;
        t->specials = memory_resize(t->specials, t->special_count + 1, sizeof *t->specials);
        t->specials[t->special_count++] = (uint32_t)id;
    }
    free(r->built);
    free(r->joined);
}

/* Reads a merges.txt.  Without a vocabulary (`fixed` is false) each line adds its token. */
static void merges_parse(Tokenizer *t, Bytes text, const char *name, bool fixed) {
    MergeReader r = merges_begin(t, name, "line", fixed);
    const unsigned char *line = text.data, *end = text.data + text.size;
    for (r.number = 1; line < end; r.number++) {
        const unsigned char *stop = memchr(line, '\n', (size_t)(end - line));
        const unsigned char *next = stop ? stop + 1 : end;
        if (!stop) stop = end;
        if (stop > line && stop[-1] == '\r') stop--;
        if (r.number > 1 || stop - line < 8 || memcmp(line, "#version", 8) != 0)
            merges_next_joined(&r, line, (size_t)(stop - line));
        line = next;
    }
    merges_end(&r);
}

/* A tokenizer from the contents of the two files; vocab.data may be NULL. */
static Tokenizer *tokenizer_parse(Bytes vocab, const char *vocab_name, Bytes merges,
                                  const char *merges_name) {
    Tokenizer *t = vocab.data ? tokenizer_new() : tokenizer_create(NULL, 0);
    classes_prepare();
    if (vocab.data) {
        Vocabulary v = {0};
        Json j = {vocab.data, vocab.size, 0, vocab_name, true};
        vocabulary_parse(&v, &j, &(Vocabulary){0});
        json_end(&j);
        vocabulary_take(t, &v, vocab_name);
    }
    merges_parse(t, merges, merges_name, vocab.data != NULL);
    return t;
}

/* Reads [{"id": ..., "content": ..., ...}, ...]: tokens as they stand in a text. */
static void added_parse(Vocabulary *v, Json *j) {
    static const char *const keys[] = {"id", "content"};
    char *content = memory_allocate(TOKEN_BYTES_MAX + 1, 1);
    for (json_enter(j, '['); json_more(j, ']');) {
        Json values[2];
        json_members(j, keys, values, 2);
        if (!values[0].text || !values[1].text)
            die("%s: byte %zu: an added token without id or content", j->name, j->at);
        size_t id = json_size(&values[0]);
        size_t bytes = json_string(&values[1], content, TOKEN_BYTES_MAX + 1);
        if (!bytes) die("%s: byte %zu: an added token without a byte", j->name, j->at);
        vocabulary_add(v, (unsigned char *)content, bytes, id, j, false);
    }
    free(content);
}

/* A tokenizer.json can describe tokenizers of many other kinds.  Where one of the settings
 * below is not as GPT-2 has it, ids would differ from those of the programs that wrote it: it
 * is refused.  What concerns special tokens only (the flags of added tokens, post_processor) is
 * passed over.
 * values[i] becomes a reader of the value of keys[i], which must be meant[i] or null, or may be
 * anything if that is NULL. */
static void settings_read(Json *object, const char *const *keys, const char *const *meant,
                          Json *values, size_t count) {
    json_members(object, keys, values, count);
    for (size_t i = 0; i < count; i++)
        if (meant[i] && values[i].text && !json_word(&values[i], meant[i]) &&
            !json_word(&values[i], "null"))
            die("%s: byte %zu: %s is not %s: only tokenizers of GPT-2's kind can be read",
                object->name, values[i].at, keys[i], meant[i]);
}

/* A tokenizer from the contents of a tokenizer.json. */
static Tokenizer *tokenizer_json_parse(Bytes text, const char *name) {
    static const char *const parts[] = {"pre_tokenizer", "model", "added_tokens", "normalizer"},
                      *const parts_meant[] = {NULL, NULL, NULL, "null"};
    static const char *const cutting[] = {"type", "add_prefix_space", "use_regex"},
                      *const cutting_meant[] = {"\"ByteLevel\"", "false", "true"};
    static const char *const merging[] = {"vocab", "merges", "type", "dropout", "byte_fallback",
                                          "ignore_merges", "continuing_subword_prefix",
                                          "end_of_word_suffix"},
                      *const merging_meant[] = {NULL, NULL, "\"BPE\"", "null", "false", "false",
                                                "\"\"", "\"\""};
    Json j = {text.data, text.size, 0, name, true}, part[4], cut[3], model[8];
    settings_read(&j, parts, parts_meant, part, 4);
    json_end(&j);
    for (int i = 0; i < 2; i++)
        if (!part[i].text || json_word(&part[i], "null")) die("%s: has no %s", name, parts[i]);
    settings_read(&part[0], cutting, cutting_meant, cut, 3);
    settings_read(&part[1], merging, merging_meant, model, 8);
    for (int i = 0; i < 2; i++)
        if (!model[i].text) die("%s: its model has no %s", name, merging[i]);

    Vocabulary added = {0}, v = {0};
    if (part[2].text) added_parse(&added, &part[2]);
    vocabulary_parse(&v, &model[0], &added);
    for (size_t i = 0; i < added.tokens.count; i++)
        vocabulary_add(&v, added.tokens.bytes + added.tokens.start[i],
                       added.tokens.start[i + 1] - added.tokens.start[i], added.ids[i],
                       &part[2], true);
    vocabulary_destroy(&added);
    Tokenizer *t = tokenizer_new();
    classes_prepare();
    vocabulary_take(t, &v, name);

    MergeReader r = merges_begin(t, name, "merge", true);
    char *left = memory_allocate(2 * KEY_MAX, 1), *right = memory_allocate(KEY_MAX, 1);
    Json *m = &model[1];
    for (json_enter(m, '['); json_more(m, ']');) { /* ["left", "right"], or "left right" */
        r.number++;
        if (json_peek(m) == '"') {
            size_t size = json_string(m, left, 2 * KEY_MAX);
            merges_next_joined(&r, (unsigned char *)left, size);
            continue;
        }
        json_enter(m, '[');
        size_t a = json_more(m, ']') ? json_string(m, left, KEY_MAX) : 0;
        size_t b = a && json_more(m, ']') ? json_string(m, right, KEY_MAX) : 0;
        if (!b || json_more(m, ']')) json_fail(m, "a list of two tokens");
        merges_next(&r, (unsigned char *)left, a, (unsigned char *)right, b);
    }
    merges_end(&r);
    free(left);
    free(right);
    return t;
}

/* Reads the folder that tokenizer_save() or Hugging Face wrote.  With merges.txt alone the
 * vocabulary is the 256 bytes and what the merges build, in this order.  The caller calls
 * tokenizer_destroy(). */
Tokenizer *tokenizer_load(const char *folder) {
    const char *json_path = text_lend("%s/tokenizer.json", folder);
    const char *vocab_path = text_lend("%s/vocab.json", folder);
    const char *merges_path = text_lend("%s/merges.txt", folder);
    bool one = access(json_path, F_OK) == 0;
    Bytes vocab = {NULL, 0}, first = file_read(one ? json_path : merges_path);
    if (!one && access(vocab_path, F_OK) == 0) vocab = file_read(vocab_path);
    Tokenizer *t = one ? tokenizer_json_parse(first, json_path)
                       : tokenizer_parse(vocab, vocab_path, first, merges_path);
    free(vocab.data);
    free(first.data);
    return t;
}

#ifndef TOKENIZER_NO_MAIN
/* =========================================================================================
 * 9. The program
 * ====================================================================================== */

static const char usage_text[] =
    "usage: tokenizer train  --vocab N --out DIR [--verbose] FILE...\n"
    "       tokenizer encode --model DIR [--special] [--raw | --count] [FILE]\n"
    "       tokenizer decode --model DIR [--raw] [FILE]\n"
    "       tokenizer info   --model DIR [FILE]\n"
    "       tokenizer show   --model DIR [FILE]\n"
    "\n"
    "  train    learns a vocabulary of N tokens (256 bytes and N - 256 merges) from texts\n"
    "  encode   writes the ids of a text, in decimal on one line\n"
    "  decode   writes the text of such ids\n"
    "  info     describes a vocabulary; with FILE, what a smaller or larger one would do\n"
    "  show     cuts a text into its tokens and shows the merges that build each of them\n"
    "\n"
    "  --model DIR  a folder as Hugging Face writes it for GPT-2: tokenizer.json, or\n"
    "               merges.txt and vocab.json\n"
    "  --vocab N    number of tokens, 256 to 16777216\n"
    "  --out DIR    where the learned tokenizer goes\n"
    "  --verbose    prints each merge with its count as it is learned\n"
    "  --special    special tokens such as <|endoftext|> in the text stand for themselves\n"
    "  --raw        ids as little-endian binary numbers: 2 bytes each if the vocabulary has\n"
    "               at most 65536 tokens, otherwise 4\n"
    "  --count      only the number of ids\n"
    "\n"
    "Without FILE, or where FILE is -, text and ids come from the standard input.  In what\n"
    "show, info and --verbose print, each byte is one letter, as in merges.txt: a blank is\n"
    "\u0120 and a newline is \u010A.\n";

typedef struct {
    const char *command, *model, *out, *vocab;
    bool verbose, special, raw, count;
    char **files;
    size_t file_count;
} Options;

static Options options_read(int argc, char **argv) {
    static const struct { const char *name, *commands; size_t field; bool value; } known[] = {
        {"--model", "encode decode info show", offsetof(Options, model), true},
        {"--vocab", "train", offsetof(Options, vocab), true},
        {"--out", "train", offsetof(Options, out), true},
        {"--verbose", "train", offsetof(Options, verbose), false},
        {"--special", "encode", offsetof(Options, special), false},
        {"--raw", "encode decode", offsetof(Options, raw), false},
        {"--count", "encode", offsetof(Options, count), false},
    };
    Options o = {0};
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(usage_text, stdout);
            exit(fflush(stdout) == 0 ? 0 : 1);
        }
    if (argc < 2)
        die_usage("a command is needed: train, encode, decode, info or show (see --help)");
    o.command = argv[1];
    static const char *const commands[] = {"train", "encode", "decode", "info", "show"};
    bool good = false;
    for (int i = 0; i < 5; i++) good |= strcmp(o.command, commands[i]) == 0;
    if (!good) die_usage("%s: there is no such command (see --help)", o.command);
    o.files = memory_allocate((size_t)argc, sizeof *o.files);
    bool only_files = false;
    for (int i = 2; i < argc; i++) {
        if (only_files || argv[i][0] != '-' || !argv[i][1]) {
            o.files[o.file_count++] = argv[i];
            continue;
        }
        if (strcmp(argv[i], "--") == 0) { only_files = true; continue; }
        size_t k = 0, count = sizeof known / sizeof *known;
        while (k < count && strcmp(argv[i], known[k].name) != 0) k++;
        if (k == count || !strstr(known[k].commands, o.command))
            die_usage("%s: %s has no such option (see --help)", argv[i], o.command);
        if (!known[k].value) {
            *(bool *)((char *)&o + known[k].field) = true;
        } else {
            if (i + 1 == argc) die_usage("%s: a value must follow", argv[i]);
            *(const char **)((char *)&o + known[k].field) = argv[++i];
        }
    }
    bool train = strcmp(o.command, "train") == 0;
    if (!train && !o.model) die_usage("%s needs --model DIR", o.command);
    if (!train && o.file_count > 1)
        die_usage("%s takes one file, not %zu", o.command, o.file_count);
    if (train && (!o.vocab || !o.out)) die_usage("train needs --vocab N and --out DIR");
    if (o.raw && o.count) die_usage("--raw and --count exclude each other");
    return o;
}

static void output_write(const void *data, size_t bytes) {
    if (fwrite(data, 1, bytes, stdout) != bytes)
        die("cannot write to the standard output: %s", strerror(errno));
}

/* A text in parts that may be cut and encoded each for itself, so that its size does not
 * matter: `Reader r = reader_open(path); while (reader_next(&r)) ...r.text, r.bytes,
 * r.offset...` */
typedef struct {
    FILE *stream;
    const char *name;
    unsigned char *text;
    size_t bytes, offset;   /* of this part; its place in the file */
    size_t filled, capacity;
    bool ended, whole;      /* nothing is left to read; the caller wants one part only */
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
    for (size_t i = 0; i < (o->file_count ? o->file_count : 1); i++) {
        Reader r = reader_open(o->file_count ? o->files[i] : NULL);
        for (; reader_next(&r); bytes += r.bytes) pieces_count(&pieces, r.text, r.bytes);
    }
    Tokenizer *t = pieces_learn(&pieces, (size_t)vocab, o->verbose);
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

/* The bytes of one id in --raw files. */
static size_t raw_bytes(const Tokenizer *t) { return t->vocab <= 65536 ? 2 : 4; }

static void run_encode(const Options *o) {
    Tokenizer *t = tokenizer_load(o->model);
    Reader r = reader_open(o->file_count ? o->files[0] : NULL);
    Ids ids = {0};
    size_t total = 0, width = raw_bytes(t);
    for (size_t i = 0; o->special && i < t->special_count;
         i++) { /* one that a cut could part */
        size_t size;
        const unsigned char *token = tokenizer_token(t, t->specials[i], &size);
        for (size_t k = 0; k < size; k++)
            r.whole |= token[k] < 0x80 && class_of[token[k]] == WHITE;
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
        for (size_t i = 0; !o->count && i < ids.count; i++) {
            uint32_t id = ids.data[i];
            if (o->raw) {
                for (size_t k = 0; k < width; k++) *end++ = (unsigned char)(id >> 8 * k);
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
    if (o->count) printf("%zu\n", total);
    else if (!o->raw) output_write("\n", 1);
    free(ids.data);
    tokenizer_destroy(t);
}

static void decode_id(const Tokenizer *t, uint64_t id, size_t number, const char *name) {
    if (id >= t->vocab)
        die("%s: id %" PRIu64 " (number %zu) is out of range: the vocabulary has %zu ids", name,
            id, number, t->vocab);
    size_t bytes;
    const unsigned char *token = tokenizer_token(t, (uint32_t)id, &bytes);
    output_write(token, bytes);
}

static void run_decode(const Options *o) {
    Tokenizer *t = tokenizer_load(o->model);
    Reader r = reader_open(o->file_count ? o->files[0] : NULL);
    size_t number = 0, place = 0,
           width = raw_bytes(t); /* place: bytes or digits of this id so far */
    uint64_t id = 0;
    for (size_t filled; (filled = fread(r.text, 1, r.capacity, r.stream)) > 0;)
        for (size_t i = 0; i < filled; i++) {
            unsigned char c = r.text[i];
            bool digit = c >= '0' && c <= '9';
            if (o->raw) {
                id |= (uint64_t)c << 8 * place++;
                if (place < width) continue;
            } else if (digit) {
                if (id < UINT64_MAX / 10 - 1) id = id * 10 + c - '0'; /* else it is refused */
                place++;
                continue;
            } else if (c != ' ' && c != '\n' && c != '\t' && c != '\r') {
                die("%s: behind id number %zu: 0x%02X is not part of a decimal number", r.name,
                    number, c);
            }
            if (place) decode_id(t, id, ++number, r.name);
            id = place = 0;
        }
    if (ferror(r.stream)) die("%s: cannot read: %s", r.name, strerror(errno));
    if (o->raw && place) die("%s: ends within id number %zu", r.name, number + 1);
    if (place) decode_id(t, id, number + 1, r.name);
    if (r.stream != stdin) fclose(r.stream);
    free(r.text);
    tokenizer_destroy(t);
}

/* Prints how many tokens a text has with the first `vocab` ids, `singles` of them bytes. */
static void info_row(const Tokenizer *t, const Strings *pieces, size_t bytes, size_t vocab,
                     size_t singles) {
    Tokenizer first = *t; /* with the merges that a vocabulary of this size would have */
    first.merges = (Pairs){0};
    for (size_t i = 0; i < t->merges.count && singles + i < vocab; i++)
        pairs_add(&first.merges, t->merges.items[i].left, t->merges.items[i].right);
    size_t tokens = pieces_tokens(&first, pieces);
    printf(" %12zu %8.3f", tokens, (double)bytes / (double)tokens);
    pairs_destroy(&first.merges);
}

static void run_info(const Options *o) {
    Tokenizer *t = tokenizer_load(o->model);
    size_t singles = 0, total = t->vocab ? t->tokens.start[t->vocab] : 0;
    for (int byte = 0; byte < 256; byte++) singles += t->id_of_byte[byte] != NONE;
    printf("vocabulary      %zu ids: %zu single bytes, %zu merges, %zu special\n", t->vocab,
           singles, t->merges.count, t->special_count);
    printf("token length    %.2f bytes on average\n",
           t->vocab ? (double)total / (double)t->vocab : 0);
    bool *printed = memory_allocate(t->vocab, sizeof *printed);
    for (size_t row = 0; row < 5 && row < t->vocab; row++) {
        size_t longest = 0, most = 0, bytes;
        for (size_t id = 0; id < t->vocab; id++) {
            tokenizer_token(t, (uint32_t)id, &bytes);
            if (!printed[id] && bytes > most) most = bytes, longest = id;
        }
        printed[longest] = true;
        char *token = token_show(t, (uint32_t)longest);
        size_t shown = strlen(token) < 60 ? strlen(token) : 60;
        while (((unsigned char)token[shown] & 0xC0) == 0x80) shown--; /* only whole letters */
        printf("%s%6zu bytes  %7zu  %.*s\n", row ? "                " : "longest tokens  ",
               most, longest, (int)shown, token);
        free(token);
    }
    free(printed);
    if (o->file_count) {
        Strings pieces = {0};
        size_t bytes = 0;
        Reader r = reader_open(o->files[0]);
        for (; reader_next(&r); bytes += r.bytes) {
            text_check(t, r.text, r.bytes, r.name, r.offset);
            pieces_count(&pieces, r.text, r.bytes);
        }
        if (!bytes) die("%s: is empty", r.name);
        size_t top = t->vocab < 512             ? 1024
                     : 2 * t->vocab < VOCAB_MAX ? 2 * t->vocab
                                                : VOCAB_MAX;
        Tokenizer *own = pieces_learn(&pieces, top, false);
        printf("\n%s: %zu bytes\n%14s %21s   %s\n%14s %12s %8s %12s %8s\n", r.name, bytes, "",
               "this model", "learned from this text", "vocabulary", "tokens", "bytes/t",
               "tokens", "bytes/t");
        bool done = false; /* the model's own size has had its row */
        for (size_t size = 256; size <= top; size *= 2) {
            for (int own_size = !done && t->vocab <= size; own_size >= 0; own_size--) {
                size_t vocab = own_size ? t->vocab : size;
                if (!own_size && vocab == t->vocab) continue;
                if (vocab > t->vocab && vocab > own->vocab) continue; /* the text has no more */
                printf("%13zu%c", vocab, own_size ? '*' : ' ');
                if (vocab <= t->vocab) info_row(t, &pieces, bytes, vocab, singles);
                else printf(" %12s %8s", "", "");
                if (vocab >= 256 && vocab <= own->vocab)
                    info_row(own, &pieces, bytes, vocab, 256);
                putchar('\n');
                done |= own_size;
            }
        }
        puts("* this model.  A vocabulary of V tokens costs an embedding table of V rows;\n"
             "what it buys is a shorter text.  Merges learned from this very text show the\n"
             "most that it can buy.");
        tokenizer_destroy(own);
        strings_destroy(&pieces);
    }
    tokenizer_destroy(t);
}

static void run_show(const Options *o) {
    Tokenizer *t = tokenizer_load(o->model);
    Reader r = reader_open(o->file_count ? o->files[0] : NULL);
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

int main(int argc, char **argv) {
    Options o = options_read(argc, argv);
    if (strcmp(o.command, "train") == 0) run_train(&o);
    else if (strcmp(o.command, "encode") == 0) run_encode(&o);
    else if (strcmp(o.command, "decode") == 0) run_decode(&o);
    else if (strcmp(o.command, "info") == 0) run_info(&o);
    else run_show(&o);
    free(o.files);
    if (fflush(stdout) != 0 || ferror(stdout))
        die("cannot write to the standard output: %s", strerror(errno));
    return 0;
}
#endif /* TOKENIZER_NO_MAIN */

#endif /* TOKENIZER_C */

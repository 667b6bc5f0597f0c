/* tokenizer.c - text to token ids and back.
 *
 * A program of its own (`./tokenizer --help`) and a part of train.c, which defines
 * TOKENIZER_NO_MAIN and includes this file.  It knows nothing of train.c.
 *
 * Sections
 *   1. Small tools: errors, checked memory, files, JSON
 *   2. The vocabulary
 *   3. Encoding and decoding
 *   4. A tokenizer on disk
 */
#ifndef TOKENIZER_C
#define TOKENIZER_C

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
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

/* Files that are written but have not taken their names yet: taken away on the way out. */
enum { PENDING_MAX = 16 };
static struct { char *temporary, *path; } pending_files[PENDING_MAX];
static int pending_count;

/* Control bytes, which a hostile file may have put into a name, are shown as '?': a message is one
 * line, and no terminal obeys it. */
void message_print(const char *format, va_list arguments) {
    char text[1024];
    for (int i = 0; i < pending_count; i++) unlink(pending_files[i].temporary);
    vsnprintf(text, sizeof text, format, arguments);
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7F) *c = '?';
    fflush(stdout);
    fprintf(stderr, "%s: %s\n", program_name, text);
}

/* Ends the program with one line on stderr, exit status 1. */
__attribute__((noreturn, format(printf, 1, 2)))
void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    message_print(format, arguments);
    va_end(arguments);
    exit(1);
}

/* The same for a command line that cannot be meant: exit status 2. */
__attribute__((noreturn, format(printf, 1, 2)))
void die_usage(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    message_print(format, arguments);
    va_end(arguments);
    exit(2);
}

/* count * size zeroed bytes, never NULL; the caller owns them and calls free(). */
void *memory_allocate(size_t count, size_t size) {
    if (size && count > SIZE_MAX / 2 / size)
        die("cannot allocate %zu times %zu bytes: more than any memory", count, size);
    void *memory = calloc(count ? count : 1, size ? size : 1);
    if (!memory) die("out of memory: %zu bytes were not to be had", count * size);
    return memory;
}

/* realloc() with the same promises; the new part is not zeroed. */
void *memory_resize(void *memory, size_t count, size_t size) {
    if (size && count > SIZE_MAX / 2 / size)
        die("cannot allocate %zu times %zu bytes: more than any memory", count, size);
    void *larger = realloc(memory, count && size ? count * size : 1);
    if (!larger) die("out of memory: %zu bytes were not to be had", count * size);
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

/* A whole file.  The caller frees .data. */
Bytes file_read(const char *path) {
    struct stat status;
    FILE *file = fopen(path, "rb");
    if (!file) die("%s: cannot open: %s", path, strerror(errno));
    if (fstat(fileno(file), &status) == 0 && S_ISDIR(status.st_mode))
        die("%s: is a folder, a file is needed here", path);
    Bytes bytes = stream_read(file, path);
    fclose(file);
    return bytes;
}

/* Files are replaced whole or not at all: what is written goes to PATH.tmp, which takes the
 * name PATH only after every byte is on the disk.  Whoever opens PATH, at any instant, a power
 * cut included, sees the old file or the new one.
 *
 * Files that belong together are written between files_hold() and files_release(): they take their
 * names at the end, one behind the other, when nothing is left that could fail for want of room. */
typedef struct {
    FILE *stream;
    char *path, *temporary; /* they belong to the list of pending files */
} FileWriter;

static bool files_held;

FileWriter file_create(const char *path) {
    FileWriter file = {NULL, text_format("%s", path), text_format("%s.tmp", path)};
    file.stream = fopen(file.temporary, "wb");
    if (!file.stream) die("%s: cannot create: %s", file.temporary, strerror(errno));
    assert(pending_count < PENDING_MAX);
    pending_files[pending_count].temporary = file.temporary;
    pending_files[pending_count++].path = file.path;
    return file;
}

__attribute__((noreturn)) static void file_fail(const char *temporary, const char *path) {
    die("%s: cannot write: %s (%s, if there was one, is as it was)", temporary, strerror(errno), path);
}

void file_write(FileWriter *file, const void *data, size_t bytes) {
    if (bytes && fwrite(data, 1, bytes, file->stream) != bytes) file_fail(file->temporary, file->path);
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

/* Gives all pending files their names. */
void files_release(void) {
    files_held = false;
    for (int i = 0; i < pending_count; i++) {
        char *temporary = pending_files[i].temporary, *path = pending_files[i].path;
        if (rename(temporary, path) != 0) file_fail(temporary, path);
        folder_flush(path);
    }
    for (int i = 0; i < pending_count; i++) {
        free(pending_files[i].temporary);
        free(pending_files[i].path);
    }
    pending_count = 0;
}

void files_hold(void) { files_held = true; }

/* The end of a file that file_create began: all of it is on the disk. */
void file_commit(FileWriter *file) {
    bool good = fflush(file->stream) == 0 && fsync(fileno(file->stream)) == 0;
    int error = errno;
    if (fclose(file->stream) != 0 || !good) {
        if (!good) errno = error;
        file_fail(file->temporary, file->path);
    }
    if (!files_held) files_release();
}

/* Creates a folder and those above it; one that exists is as good. */
void folder_create(const char *path) {
    char *part = text_format("%s", path);
    if (!*part) die("the name of a folder is empty");
    for (char *c = part + 1; *c; c++) {
        if (*c != '/') continue;
        *c = 0;
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            die("%s: cannot create the folder: %s", part, strerror(errno));
        *c = '/';
    }
    struct stat status;
    if (mkdir(part, 0777) != 0 && errno != EEXIST)
        die("%s: cannot create the folder: %s", part, strerror(errno));
    if (stat(part, &status) != 0 || !S_ISDIR(status.st_mode))
        die("%s: is not a folder", part);
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

static int json_peek(Json *j) { /* the next byte that is not blank, or -1 */
    while (j->at < j->size && strchr(" \t\r\n", j->text[j->at]) && j->text[j->at]) j->at++;
    return j->at < j->size ? j->text[j->at] : -1;
}

void json_enter(Json *j, char bracket) {
    if (json_peek(j) != bracket) json_fail(j, bracket == '{' ? "an object {...}" : "a list [...]");
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
        int c = j->at < j->size ? j->text[j->at] : 0;
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

/* A string, unescaped, into out (capacity bytes, a closing NUL included); returns its length. */
size_t json_string(Json *j, char *out, size_t capacity) {
    size_t length = 0;
    if (json_peek(j) != '"') json_fail(j, "a string in double quotes");
    j->at++;
    while (j->at < j->size && j->text[j->at] != '"') {
        unsigned char c = j->text[j->at++], utf8[4] = {c};
        size_t bytes = 1;
        if (c < 0x20) json_fail(j, "no control character inside a string");
        if (c == '\\') {
            static const char plain[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
            int escape = j->at < j->size ? j->text[j->at++] : 0;
            const char *found = escape ? strchr(plain, escape) : NULL;
            if (found) {
                utf8[0] = (unsigned char)meant[found - plain];
            } else if (escape == 'u') {
                uint32_t code = json_hex(j);
                if (code >= 0xD800 && code < 0xDC00 && j->size - j->at >= 6 &&
                    j->text[j->at] == '\\' && j->text[j->at + 1] == 'u') {
                    j->at += 2;
                    uint32_t low = json_hex(j);
                    if (low < 0xDC00 || low > 0xDFFF) json_fail(j, "the second half of a pair");
                    code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
                }
                if (code >= 0xD800 && code < 0xE000) json_fail(j, "both halves of a pair");
                bytes = utf8_put(utf8, code);
            } else json_fail(j, "an escape that JSON knows");
        }
        if (length + bytes >= capacity) json_fail(j, "a shorter string");
        memcpy(out + length, utf8, bytes);
        length += bytes;
    }
    if (j->at >= j->size) json_fail(j, "the closing quote of a string");
    j->at++;
    out[length] = 0;
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
    while (j->at < j->size && j->text[j->at] >= '0' && j->text[j->at] <= '9') j->at++;
    if (j->at == start) json_fail(j, "a digit");
    return j->at - start;
}

double json_number(Json *j) {
    int c = json_peek(j);
    if (c != '-' && !(c >= '0' && c <= '9')) json_fail(j, "a number");
    size_t start = j->at;
    if (c == '-') j->at++;
    bool zero = j->at < j->size && j->text[j->at] == '0';
    if (json_digits(j) > 1 && zero) json_fail(j, "no digit behind a leading 0");
    if (j->at < j->size && j->text[j->at] == '.') { j->at++; json_digits(j); }
    if (j->at < j->size && (j->text[j->at] == 'e' || j->text[j->at] == 'E')) {
        j->at++;
        if (j->at < j->size && (j->text[j->at] == '+' || j->text[j->at] == '-')) j->at++;
        json_digits(j);
    }
    char *digits = text_format("%.*s", (int)(j->at - start < 4096 ? j->at - start : 4096),
                               (const char *)j->text + start);
    double value = strtod(digits, NULL);
    free(digits);
    return value;
}

/* A whole number from 0 to 2^53, the range in which a double is exact. */
size_t json_size(Json *j) {
    double value = json_number(j);
    if (!(value >= 0 && value <= 9007199254740992.0) || value != (double)(uint64_t)value)
        json_fail(j, "a whole number that is not negative");
    return (size_t)value;
}

bool json_word(Json *j, const char *word) { /* steps over true, false or null if it is next */
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

static void json_skip_at(Json *j, int depth) {
    char key[1024];
    int c = json_peek(j);
    if (depth > JSON_DEPTH_MAX) json_fail(j, "fewer brackets inside each other");
    if (c == '{')
        for (json_enter(j, '{'); json_key(j, key, sizeof key);) json_skip_at(j, depth + 1);
    else if (c == '[')
        for (json_enter(j, '['); json_more(j, ']');) json_skip_at(j, depth + 1);
    else if (c == '"') {
        for (j->at++; j->at < j->size && j->text[j->at] != '"'; j->at++)
            if (j->text[j->at] == '\\') j->at++;
        if (j->at >= j->size) json_fail(j, "the closing quote of a string");
        j->at++;
    } else if (c == 't' || c == 'f') json_boolean(j);
    else if (c == 'n') { if (!json_word(j, "null")) json_fail(j, "null"); }
    else json_number(j);
}

/* Steps over one value of any kind.  It calls itself for what stands in brackets, but not deeper
 * than JSON_DEPTH_MAX: no file can exhaust the stack. */
void json_skip(Json *j) { json_skip_at(j, 0); }

/* Nothing but blanks may follow. */
void json_end(Json *j) {
    if (json_peek(j) != -1) json_fail(j, "the end of the text");
}

/* =========================================================================================
 * 2. The vocabulary                                  [glossary: Tokenization, Vocabulary]
 * ====================================================================================== */

typedef struct {
    size_t vocab;            /* number of ids; they run from 0 to vocab - 1 */
    int32_t id_of_byte[256]; /* the id of a single byte, or -1: it is not in the vocabulary */
    unsigned char byte_of_id[256];
} Tokenizer;

/* The bytes in GPT-2's order: those that print come first.  GPT-2 shows the others as letters
 * from U+0100 on, so that every token can be written as text. */
bool byte_prints(int byte) {
    return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

/* A vocabulary of single bytes: those that occur in `text`, or all 256 when text is NULL.
 * The caller calls tokenizer_destroy(). */
Tokenizer *tokenizer_create(const unsigned char *text, size_t bytes) {
    bool present[256] = {false};
    for (size_t i = 0; text && i < bytes; i++) present[text[i]] = true;
    Tokenizer *tokenizer = memory_allocate(1, sizeof *tokenizer);
    for (int pass = 0; pass < 2; pass++)
        for (int byte = 0; byte < 256; byte++) {
            if (byte_prints(byte) != (pass == 0)) continue;
            bool in = !text || present[byte];
            tokenizer->id_of_byte[byte] = in ? (int32_t)tokenizer->vocab : -1;
            if (in) tokenizer->byte_of_id[tokenizer->vocab++] = (unsigned char)byte;
        }
    return tokenizer;
}

void tokenizer_destroy(Tokenizer *tokenizer) { free(tokenizer); }

/* =========================================================================================
 * 3. Encoding and decoding
 * ====================================================================================== */

/* Text to ids; *ids is fresh memory that the caller frees.  Returns how many there are.  A byte
 * that the vocabulary does not have ends the program; `name` says in the message where the
 * text came from. */
size_t tokenizer_encode(const Tokenizer *tokenizer, const unsigned char *text, size_t bytes,
                               const char *name, uint32_t **ids) {
    *ids = memory_allocate(bytes, sizeof **ids);
    for (size_t i = 0; i < bytes; i++) {
        if (tokenizer->id_of_byte[text[i]] < 0)
            die("%s: byte %zu is 0x%02X, which is not in the model's vocabulary", name, i, text[i]);
        (*ids)[i] = (uint32_t)tokenizer->id_of_byte[text[i]];
    }
    return bytes;
}

/* The bytes of one token (id < vocab), *bytes of them; they belong to the tokenizer. */
const unsigned char *tokenizer_token(const Tokenizer *tokenizer, uint32_t id, size_t *bytes) {
    *bytes = 1;
    return &tokenizer->byte_of_id[id];
}

/* =========================================================================================
 * 4. A tokenizer on disk
 * ====================================================================================== */

/* Writes DIR/vocab.json and DIR/merges.txt in GPT-2's format. */
void tokenizer_save(const Tokenizer *tokenizer, const char *folder) {
    char *path = text_format("%s/vocab.json", folder);
    FileWriter file = file_create(path);
    free(path);
    for (size_t id = 0; id < tokenizer->vocab; id++) {
        int byte = tokenizer->byte_of_id[id], shown = byte, next = 256;
        for (int other = 0; !byte_prints(byte) && other <= byte; other++)
            if (!byte_prints(other)) shown = next++;
        unsigned char utf8[4];
        size_t length = utf8_put(utf8, (uint32_t)shown);
        char *entry = text_format("%s\"%s%.*s\": %zu", id ? ", " : "{",
                                  byte == '"' || byte == '\\' ? "\\" : "", (int)length, utf8, id);
        file_write(&file, entry, strlen(entry));
        free(entry);
    }
    file_write(&file, "}\n", 2);
    file_commit(&file);
    path = text_format("%s/merges.txt", folder);
    file = file_create(path);
    free(path);
    file_write(&file, "#version: 0.2\n", 14);
    file_commit(&file);
}

/* Reads what tokenizer_save wrote.  The caller calls tokenizer_destroy(). */
Tokenizer *tokenizer_load(const char *folder) {
    char *path = text_format("%s/vocab.json", folder), key[16];
    Bytes text = file_read(path);
    Json j = {text.data, text.size, 0, path, true};
    Tokenizer *tokenizer = memory_allocate(1, sizeof *tokenizer);
    for (int byte = 0; byte < 256; byte++) tokenizer->id_of_byte[byte] = -1;
    json_enter(&j, '{');
    while (json_key(&j, key, sizeof key)) {
        unsigned char utf8[4] = {0};
        int byte = -1, next = 256;
        for (int b = 0; b < 256 && byte < 0; b++) {
            size_t length = utf8_put(utf8, (uint32_t)(byte_prints(b) ? b : next++));
            if (strlen(key) == length && memcmp(key, utf8, length) == 0) byte = b;
        }
        size_t id = json_size(&j);
        if (byte < 0 || id > 255 || tokenizer->id_of_byte[byte] >= 0)
            die("%s: token \"%s\" with id %zu is not a single byte", path, key, id);
        tokenizer->id_of_byte[byte] = (int32_t)id;
        tokenizer->byte_of_id[id] = (unsigned char)byte;
        tokenizer->vocab++;
    }
    for (size_t id = 0; id < tokenizer->vocab; id++)
        if (tokenizer->id_of_byte[tokenizer->byte_of_id[id]] != (int32_t)id)
            die("%s: id %zu is missing", path, id);
    free(text.data);
    free(path);
    return tokenizer;
}

#endif /* TOKENIZER_C */

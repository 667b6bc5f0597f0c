/* test_book.c - checks the book in doc/ against the code.
 *
 * The book names functions, sections, options, commands and files, and prints worked numbers.
 * This program reads all of them from the text and looks them up in the sources, so that
 * neither can change without the other.
 *
 *   1. Texts                   files, words, headings
 *   2. The glossary            every term has one entry with all its parts
 *   3. Names                   functions, sections, options, commands, files, links
 *   4. Tags                    [glossary: term] in the sources
 *   5. Worked numbers          the ```numbers blocks, computed with train.c
 *   6. What can be seen        lines that the glossary shows
 *
 * The text must keep to a few conventions, as any README does: `name()` is a
 * function, `--name` an option, `dir/file.ext` a file, "section N" a section of train.c or,
 * after the name of the file, of tokenizer.c.
 */
#define TRAIN_NO_MAIN
#include "../train.c"
#include "check.c"
#include <dirent.h>
#include <strings.h>

/* =========================================================================================
 * 1. Texts
 * ====================================================================================== */

enum { DOCS_MAX = 32, HEADINGS_MAX = 1024 };

typedef struct {
    char *path;
    Bytes text;
    char *slugs[HEADINGS_MAX]; /* of the headings, as links name them */
    size_t slug_count;
} Doc;

static Doc docs[DOCS_MAX];
static size_t doc_count;
static Bytes train_source, tokenizer_source, makefile, scripts; /* scripts: all of dev/ */

static char *text_copy(const char *from, size_t length) {
    char *copy = memory_allocate(length + 1, 1);
    memcpy(copy, from, length);
    return copy;
}

static const char *line_end(const char *at) {
    const char *end = strchr(at, '\n');
    return end ? end : at + strlen(at);
}

static bool starts_with(const char *text, const char *start) {
    return strncmp(text, start, strlen(start)) == 0;
}

/* The anchor of a heading: lower case, '-' for each space, without punctuation. */
static char *slug_of(const char *heading, size_t length) {
    char *slug = memory_allocate(length + 1, 1);
    size_t n = 0;
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)heading[i];
        if (c >= 'A' && c <= 'Z') c = (unsigned char)(c - 'A' + 'a');
        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_')
            slug[n++] = (char)c;
        else if (c == ' ') slug[n++] = '-';
    }
    return slug;
}

/* Collects the headings; a line in a fenced block is not one. */
static void doc_headings(Doc *doc) {
    bool fenced = false;
    for (const char *at = (char *)doc->text.data; *at;
         at = *line_end(at) ? line_end(at) + 1 : "") {
        const char *first = at + strspn(at, " ");
        if (starts_with(first, "```")) fenced = !fenced;
        if (fenced || *at != '#') continue;
        const char *name = at + strspn(at, "#");
        name += strspn(name, " ");
        assert(doc->slug_count < HEADINGS_MAX);
        doc->slugs[doc->slug_count++] = slug_of(name, (size_t)(line_end(at) - name));
    }
    check(!fenced, "%s: every ``` block is closed", doc->path);
}

static bool doc_has_anchor(const Doc *doc, const char *slug) {
    for (size_t i = 0; i < doc->slug_count; i++)
        if (!strcmp(doc->slugs[i], slug)) return true;
    return false;
}

static Doc *doc_find(const char *path) {
    for (size_t i = 0; i < doc_count; i++)
        if (!strcmp(docs[i].path, path)) return &docs[i];
    return NULL;
}

/* Appends a file, or all files of text below a folder. */
static void scripts_append(const char *path) {
    DIR *folder = opendir(path);
    if (!folder) {
        Bytes file = file_read(path);
        if (!memchr(file.data, 0, file.size)) text_append(&scripts, path);
        free(file.data);
        return;
    }
    for (struct dirent *entry; (entry = readdir(folder));)
        if (entry->d_name[0] != '.')
            scripts_append(text_of("%s/%s", path, entry->d_name).chars);
    closedir(folder);
}

static void texts_read(void) {
    train_source = file_read("train.c");
    tokenizer_source = file_read("tokenizer.c");
    makefile = file_read("Makefile");
    static const char *const SCRIPTS[] = {"dev", "tests/run.sh"};
    for (size_t i = 0; i < sizeof SCRIPTS / sizeof *SCRIPTS; i++)
        scripts_append(SCRIPTS[i]);
    DIR *folder = opendir("doc");
    if (!folder) die("doc: cannot open the folder (the test runs from the top folder)");
    for (struct dirent *entry; (entry = readdir(folder));) {
        size_t length = strlen(entry->d_name);
        if (length < 4 || strcmp(entry->d_name + length - 3, ".md")) continue;
        assert(doc_count < DOCS_MAX);
        Doc *doc = &docs[doc_count++];
        doc->path = text_format("doc/%s", entry->d_name);
        doc->text = file_read(doc->path);
        doc_headings(doc);
    }
    closedir(folder);
    static const char *const CHAPTERS[] = {
        "doc/README.md",     "doc/glossary.md",      "doc/derivations.md",
        "doc/optimizer.md",  "doc/reading.md",       "doc/memory.md",
        "doc/attention.md",  "doc/many-machines.md", "doc/checkpoints.md",
        "doc/hardware.md",   "doc/tokenizer.md",     "doc/matmul.md",
        "doc/performance.md", "doc/verification.md",  "doc/reproduction.md"};
    for (size_t i = 0; i < sizeof CHAPTERS / sizeof *CHAPTERS; i++)
        check(doc_find(CHAPTERS[i]) != NULL, "%s exists", CHAPTERS[i]);
}

/* The part of a source that is section N: from its banner to the next one.  The opening
 * essay is section 1 of train.c.  NULL if there is no such section. */
static const char *section_find(const Bytes *source, unsigned section, const char **end) {
    const char *text = (char *)source->data, *start = NULL;
    *end = text + source->size;
    if (source == &train_source && section == 1) start = text;
    for (const char *at = text; (at = strstr(at, "=====\n * ")); at++) {
        const char *digits = strchr(at, '*') + 2;
        char *after;
        unsigned long number = strtoul(digits, &after, 10);
        if (after == digits || *after != '.') continue;
        if (start && number == section + 1) {
            *end = at;
            return start;
        }
        if (number == section) start = at;
    }
    return start;
}

/* Does this piece of C define the function?  Then its name is on a line that begins in the
 * first column and is neither a comment nor a statement, and a { follows the arguments. */
static bool function_defined(const char *start, const char *end, const char *name) {
    size_t length = strlen(name);
    for (const char *at = start; (at = strstr(at, name)) && at < end; at++) {
        if (at[length] != '(' || at == start || !strchr(" *\n", at[-1])) continue;
        const char *line = at;
        while (line > start && line[-1] != '\n') line--;
        if (strchr(" \t#*/}\n", *line)) continue;
        const char *close = at;
        for (int depth = 0; close < end; close++) { /* the bracket that closes the arguments */
            depth += (*close == '(') - (*close == ')');
            if (*close == ')' && depth == 0) break;
        }
        close++;
        close += strspn(close, " \n");
        if (*close == '{') return true;
    }
    return false;
}

static bool source_defines(const Bytes *source, const char *name) {
    return function_defined((char *)source->data, (char *)source->data + source->size, name);
}

/* =========================================================================================
 * 2. The glossary
 * ====================================================================================== */

typedef struct {
    char *term;
    const char *body, *end; /* of the entry, after its heading */
} Entry;

static Entry entries[HEADINGS_MAX];
static size_t entry_count;

static void entries_read(void) {
    Doc *glossary = doc_find("doc/glossary.md");
    const char *text = glossary ? (char *)glossary->text.data : "";
    for (const char *at = text; (at = strstr(at, "\n### ")); at++) {
        const char *name = at + 5, *end = line_end(name);
        const char *next = strstr(end, "\n## "), *other = strstr(end, "\n### ");
        if (!next || (other && other < next)) next = other;
        if (entry_count) assert(entries[entry_count - 1].end <= at);
        entries[entry_count++] = (Entry){text_copy(name, (size_t)(end - name)), end,
                                         next ? next : end + strlen(end)};
    }
}

/* The entry for a name that a tag or a help text uses: the term, with or without the part in
 * parentheses after it. */
static const Entry *entry_named(const char *name) {
    for (size_t i = 0; i < entry_count; i++) {
        const char *bracket = strstr(entries[i].term, " (");
        size_t shorter = bracket ? (size_t)(bracket - entries[i].term) : 0;
        if (!strcmp(entries[i].term, name)) return &entries[i];
        if (shorter == strlen(name) && !strncmp(entries[i].term, name, shorter))
            return &entries[i];
    }
    return NULL;
}

/* The text of a part of the entry, from after its label to the next label. */
static char *entry_part(const Entry *e, const char *label) {
    char *mark = text_format("\n- **%s:**", label), *part = NULL;
    for (const char *at = e->body; (at = strstr(at, mark)) && at < e->end; at++) {
        if (part) {
            free(part);
            free(mark);
            return NULL;
        } /* twice */
        const char *from = at + strlen(mark), *to = strstr(from, "\n- **");
        part = text_copy(from, (size_t)((to && to < e->end ? to : e->end) - from));
    }
    free(mark);
    return part;
}

static void check_glossary(void) {
    static const char *const LABELS[] = {"Where", "See it", "Claim", "Source"};
    Bytes terms = file_read("tests/glossary_terms.txt");
    size_t count = 0, missing = 0, planned = 0;
    for (char *line = strtok((char *)terms.data, "\n"); line; line = strtok(NULL, "\n")) {
        char *home = strchr(line, '\t');
        if (!home) {
            check(false, "glossary_terms.txt: '%s' has no home", line);
            continue;
        }
        *home++ = 0;
        size_t found = 0;
        const Entry *e = NULL;
        for (size_t i = 0; i < entry_count; i++)
            if (!strcmp(entries[i].term, line)) found++, e = &entries[i];
        count++;
        if (found != 1) {
            check(false, "'%s' has one entry in the glossary, not %zu", line, found);
            missing++;
            continue;
        }
        /* A term of a program that exists must say where in it; the others are planned. */
        char *where = entry_part(e, "Where");
        bool later = where && strstr(where, "Planned:");
        char *lab = starts_with(home, "lab ") ? text_format("(%s)", home + 4) : NULL;
        if (lab) check(later && strstr(where, lab), "'%s': Where says Planned, %s", line, lab);
        else if (!strcmp(home, "doc"))
            check(where && strstr(where, ".md"), "'%s': Where names a chapter", line);
        else if (!later)
            check(where && strstr(where, home), "'%s': Where names its home, %s", line, home);
        else planned++;
        free(lab);
        free(where);
    }
    check(count > 100 && !missing, "%zu terms of glossary_terms.txt have one entry each",
          count);
    check(planned <= 2, "%zu terms of train.c are still planned, at most 2", planned);
    for (size_t i = 0; i < entry_count; i++) {
        const Entry *e = &entries[i];
        const char *previous = e->body;
        bool good = true;
        for (size_t l = 0; l < sizeof LABELS / sizeof *LABELS; l++) {
            char *part = entry_part(e, LABELS[l]),
                 *mark = text_format("\n- **%s:**", LABELS[l]);
            const char *at = strstr(e->body, mark);
            good = good && part && strlen(part) > 8 && at >= previous;
            if (!part || strlen(part) <= 8)
                check(false, "'%s' has one part '%s' with a text", e->term, LABELS[l]);
            if (at) previous = at;
            free(part);
            free(mark);
        }
        /* There is a definition between the heading and the first label. */
        const char *label = strstr(e->body, "\n- **");
        good = good && label && label - e->body > 80;
        char *source = entry_part(e, "Source"), *see = entry_part(e, "See it");
        bool year = false;
        for (const char *c = source ? source : ""; *c; c++)
            year = year || (strspn(c, "0123456789") == 4 && (*c == '1' || *c == '2'));
        good = good && year && see && (strstr(see, "```sh") || strstr(see, "Planned:"));
        if (!good || !year)
            check(false, "'%s': a definition, four parts in order, a command, a year", e->term);
        free(source);
        free(see);
        for (size_t j = 0; j < i; j++)
            if (!strcmp(e->term, entries[j].term))
                check(false, "'%s' has two entries", e->term);
    }
    check(entry_count >= count, "%zu entries, each with its four parts", entry_count);

    /* The index names every entry once, in alphabetical order. */
    const Doc *glossary = doc_find("doc/glossary.md");
    const char *index = strstr((char *)glossary->text.data, "\n## Index\n"), *end = NULL;
    if (index) end = strstr(index + 1, "\n## ");
    size_t listed = 0, disordered = 0;
    char *previous = NULL;
    for (const char *at = index; index && (at = strchr(at, '[')) && at < end; at++) {
        const char *close = strchr(at, ']');
        char *name = text_copy(at + 1, (size_t)(close - at - 1));
        bool known = false;
        for (size_t i = 0; i < entry_count; i++) known |= !strcmp(entries[i].term, name);
        if (!known) check(false, "the index names '%s', which has no entry", name);
        if (previous && strcasecmp(previous, name) >= 0) disordered++;
        free(previous);
        previous = name;
        listed++;
    }
    free(previous);
    check(listed == entry_count && !disordered, "the index lists %zu of %zu entries, in order",
          listed, entry_count);
    free(terms.data);
}

/* "train.c, section 7: `a()`, `b()`; section 8: `c()`": each is defined in that very section.
 */
static void check_where(void) {
    size_t names = 0, wrong = 0;
    for (size_t i = 0; i < entry_count; i++) {
        char *where = entry_part(&entries[i], "Where");
        const Bytes *source = NULL;
        const char *start = NULL, *end = NULL;
        unsigned section = 0;
        for (char *at = where; at && *at; at++) {
            if (starts_with(at, "train.c")) source = &train_source;
            if (starts_with(at, "tokenizer.c")) source = &tokenizer_source;
            if (starts_with(at, "section ")) {
                section = (unsigned)strtoul(at + 8, NULL, 10);
                start = source ? section_find(source, section, &end) : NULL;
                if (!start)
                    check(false, "'%s': there is a section %u", entries[i].term, section);
            }
            char *close = *at == '`' ? strchr(at + 1, '`') : NULL;
            if (!close) continue;
            if (close - at > 3 && close[-1] == ')' && close[-2] == '(') {
                char *name = text_copy(at + 1, (size_t)(close - at - 3));
                names++;
                if (!start || !function_defined(start, end, name)) {
                    check(false, "'%s': %s() is in section %u", entries[i].term, name, section);
                    wrong++;
                }
                free(name);
            }
            at = close;
        }
        free(where);
    }
    check(names > 50 && !wrong, "%zu functions are in the sections that the glossary names",
          names);
}

/* =========================================================================================
 * 3. Names
 * ====================================================================================== */

/* Is --NAME an option of train.c's table, of tokenizer.c, or of a script? */
static bool option_exists(const char *name, const char *program, char letter) {
    char *row = text_format("(%s, \"", name), *word = text_format("{\"--%s\", ", name);
    char *script = text_format("\"--%s\"", name);
    for (char *c = row; (c = strchr(c, '-')); *c = '_') {}
    const char *train = strstr((char *)train_source.data, " OPTIONS[] = {");
    train = train ? strstr(train, row) : NULL; /* a row of the table: COUNT(name, "letters" */
    bool found = false;
    if (!program || !strcmp(program, "train"))
        found = train && (!letter || memchr(train + strlen(row), letter,
                                            strcspn(train + strlen(row), "\"")));
    if (!program || !strcmp(program, "tokenizer"))
        found |= strstr((char *)tokenizer_source.data, word) != NULL;
    if (!program) found |= scripts.data && strstr((char *)scripts.data, script) != NULL;
    if (!strcmp(name, "help")) found = true;
    free(row);
    free(word);
    free(script);
    return found;
}

/* One command of a ```sh block: the program exists, its command exists and takes the options.
 */
static void check_command(const Doc *doc, const char *command) {
    const char *train = strstr(command, "./train "),
               *tokenizer = strstr(command, "./tokenizer ");
    const char *program = train ? "train" : tokenizer ? "tokenizer" : NULL;
    const char *make = starts_with(command, "make ") ? command : strstr(command, " make ");
    if (make && !program) {
        const char *target = strstr(make, "make ") + 5;
        char *name = text_copy(target, strcspn(target, " \n|&"));
        char *rule = text_format("\n%s:", name);
        bool test = starts_with(name, "build/test_");
        char *file = test ? text_format("tests/%s.c", name + 6) : NULL;
        check(test ? access(file, F_OK) == 0
                   : strstr((char *)makefile.data, rule) != NULL || strchr(name, '=') != NULL,
              "%s: make %s exists", doc->path, name);
        free(name);
        free(rule);
        free(file);
    }
    for (const char *call = train ? train : tokenizer; call && program;) {
        const char *word = strchr(call, ' ') + 1, *end = call + strcspn(call, "|&\n;");
        char letter = 't';
        if (*word != '-' && *word != '$') {
            char *name = text_copy(word, strcspn(word, " \n|&;"));
            char *known = text_format("\"%s\"", name);
            const Bytes *source = train ? &train_source : &tokenizer_source;
            if (!strstr((char *)source->data, known))
                check(false, "%s: ./%s %s exists", doc->path, program, name);
            letter = name[0];
            free(known);
            free(name);
        }
        for (const char *at = call; (at = strstr(at, " --")) && at < end; at++) {
            char *name = text_copy(at + 3, strcspn(at + 3, " =\n"));
            if (!option_exists(name, program, train ? letter : 0))
                check(false, "%s: --%s is an option of %.60s", doc->path, name, call);
            free(name);
        }
        const char *next = strstr(end, train ? "./train " : "./tokenizer ");
        call = next;
    }
}

/* A code span, or a word of a command: function, option, file? */
static void check_span(const Doc *doc, const char *span, size_t counts[3]) {
    size_t length = strlen(span);
    bool word =
        strspn(span, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789") ==
        length - 2;
    if (length > 2 && word && !strcmp(span + length - 2, "()")) {
        char *name = text_copy(span, length - 2);
        static Bytes checks;
        if (!checks.data) checks = file_read("tests/check.c");
        counts[0]++;
        if (!source_defines(&train_source, name) && !source_defines(&tokenizer_source, name) &&
            !source_defines(&checks, name))
            check(false, "%s: %s() is a function", doc->path, name);
        free(name);
    } else if (starts_with(span, "--")) {
        char *name = text_copy(span + 2, strcspn(span + 2, " ="));
        counts[1]++;
        if (!option_exists(name, NULL, 0))
            check(false, "%s: --%s is an option", doc->path, name);
        free(name);
    } else if (starts_with(span, "./") || starts_with(span, "make ")) {
        check_command(doc, span);
    } else if (!strpbrk(span, " <>*{}$=") && strchr(span, '.')) {
        const char *dot = strrchr(span, '.');
        static const char *const ENDINGS[] = {".c", ".md", ".py", ".sh", NULL};
        bool file = false;
        for (size_t i = 0; ENDINGS[i]; i++) file |= !strcmp(dot, ENDINGS[i]);
        file |= strchr(span, '/') && (!strcmp(dot, ".txt") || !strcmp(dot, ".safetensors"));
        if (!file || starts_with(span, "out/") || starts_with(span, "data/")) return;
        char *inside = text_format("doc/%s", span);
        counts[2]++;
        if (access(span, F_OK) && access(inside, F_OK))
            check(false, "%s: the file %s exists", doc->path, span);
        free(inside);
    }
}

static void check_link(const Doc *doc, const char *target) {
    if (starts_with(target, "http")) return;
    const char *hash = strchr(target, '#');
    char *file = text_copy(target, hash ? (size_t)(hash - target) : strlen(target));
    char *path = *file ? text_format("doc/%s", file) : text_format("%s", doc->path);
    if (starts_with(file, "../")) {
        free(path);
        path = text_format("%s", file + 3);
    }
    bool ok = access(path, F_OK) == 0;
    const Doc *other = doc_find(path);
    if (hash) ok = ok && other && doc_has_anchor(other, hash + 1);
    if (!ok) check(false, "%s: the link to %s has a target", doc->path, target);
    free(file);
    free(path);
}

static void check_names(const Doc *doc) {
    size_t counts[3] = {0}, links = 0, sections = 0, failed = checks_failed;
    char *block = NULL; /* commands of a ```sh block, a line with its continuation at a time */
    bool fenced = false, shell = false;
    for (const char *at = (char *)doc->text.data; *at;) {
        const char *end = line_end(at), *first = at + strspn(at, " ");
        if (starts_with(first, "```")) {
            shell = !fenced && starts_with(first, "```sh");
            fenced = !fenced;
        } else if (shell) {
            char *line = text_copy(first, (size_t)(end - first)), *joined;
            joined = block ? text_format("%s %s", block, line) : text_format("%s", line);
            free(block);
            free(line);
            size_t length = strlen(joined);
            if (length && joined[length - 1] == '\\') {
                joined[length - 1] = 0;
                block = joined;
            } else {
                check_command(doc, joined);
                free(joined);
                block = NULL;
            }
        } else if (!fenced) {
            const Bytes *source = &train_source;
            bool paper = starts_with(at, "- **Source:**") || starts_with(at, "  ");
            for (const char *c = at; c < end; c++) {
                if (starts_with(c, "tokenizer.c")) source = &tokenizer_source;
                if (starts_with(c, "train.c")) source = &train_source;
                if (starts_with(c, "section ") && !paper && c[8] >= '0' && c[8] <= '9') {
                    const char *section_end;
                    unsigned section = (unsigned)strtoul(c + 8, NULL, 10);
                    sections++;
                    if (!section_find(source, section, &section_end))
                        check(false, "%s: section %u exists", doc->path, section);
                }
                if (starts_with(c, "](")) {
                    char *target = text_copy(c + 2, strcspn(c + 2, ")\n"));
                    check_link(doc, target);
                    links++;
                    free(target);
                }
                const char *close = *c == '`' ? strchr(c + 1, '`') : NULL;
                if (close) {
                    char *span = text_copy(c + 1, (size_t)(close - c - 1));
                    for (char *s = span; *s; s++) *s = *s == '\n' ? ' ' : *s;
                    check_span(doc, span, counts);
                    free(span);
                    if (close > end) end = line_end(close);
                    c = close;
                }
            }
        }
        at = *end ? end + 1 : end;
    }
    check(checks_failed == failed && counts[0] + links > 0,
          "%s: %zu functions, %zu sections, %zu options, %zu files, %zu links exist", doc->path,
          counts[0], sections, counts[1], counts[2], links);
}

/* =========================================================================================
 * 4. Tags
 * ====================================================================================== */

/* Every [glossary: a, b] of a source; it may continue on the next line of the comment. */
static void check_tags(const char *path, const Bytes *source) {
    size_t tags = 0, wrong = 0;
    for (const char *at = (char *)source->data; (at = strstr(at, "[glossary: ")); at++) {
        const char *from = at + strlen("[glossary: "), *to = strchr(from, ']');
        if (!to) die("%s: a tag is not closed", path);
        char tag[512];
        size_t n = 0;
        for (const char *c = from; c < to && n + 1 < sizeof tag; c++) {
            bool wrapped = *c == '\n';
            if (wrapped)
                while (c + 1 < to && strchr(" *\t", c[1])) c++;
            if (!wrapped) tag[n++] = *c;
            else if (n && tag[n - 1] != ' ') tag[n++] = ' ';
        }
        tag[n] = 0;
        for (char *name = tag; name;) {
            char *comma = strstr(name, ", ");
            bool whole = entry_named(name) != NULL; /* some terms have a comma in them */
            if (comma && !whole) *comma = 0;
            if (!whole && !entry_named(name)) {
                check(false, "%s: [glossary: %s] names an entry", path, name);
                wrong++;
            }
            tags++;
            name = comma && !whole ? comma + 2 : NULL;
        }
    }
    check(tags > 0 && !wrong, "%s: %zu tags name entries of the glossary", path, tags);
}

/* The last string in each entry of train.c's table of options is its term. */
static void check_option_terms(void) {
    const char *at = strstr((char *)train_source.data, " OPTIONS[] = {"), *end;
    size_t rows = 0, wrong = 0;
    end = at ? strstr(at, "\n};") : NULL;
    for (; at && end && (at = strstr(at, "\"),\n")) && at < end; at++) {
        const char *from = at;
        while (from[-1] != '"') from--;
        char *term = text_copy(from, (size_t)(at - from));
        rows++;
        if (!entry_named(term)) {
            check(false, "train.c: an option names the term '%s', which has an entry", term);
            wrong++;
        }
        free(term);
    }
    check(rows > 30 && !wrong, "train.c: the terms of %zu options have entries", rows);
}

/* =========================================================================================
 * 5. Worked numbers
 *
 * A line of a ```numbers block is `name = 0.25 -1.5`.  What is computed must agree with each of
 * them to half a unit of its last printed digit, and a little for the rounding of floats.
 * ====================================================================================== */

enum { NUMBERS_MAX = 512 };
static struct {
    char *name, *values, *path; /* path: of the chapter */
    bool used;
} numbers[NUMBERS_MAX];
static size_t number_count;

static void numbers_read(void) {
    for (size_t d = 0; d < doc_count; d++)
        for (const char *at = (char *)docs[d].text.data; (at = strstr(at, "\n```numbers\n"));
             at++) {
            const char *line = at + strlen("\n```numbers\n");
            for (; !starts_with(line, "```"); line = line_end(line) + 1) {
                const char *equals = strstr(line, " = ");
                if (!equals || equals > line_end(line)) {
                    check(false, "%s: a line `name = numbers`: %.*s", docs[d].path,
                          (int)(line_end(line) - line), line);
                    continue;
                }
                const char *name_end = equals;
                while (name_end[-1] == ' ') name_end--;
                assert(number_count < NUMBERS_MAX);
                numbers[number_count].name = text_copy(line, (size_t)(name_end - line));
                numbers[number_count].values =
                    text_copy(equals + 3, (size_t)(line_end(line) - equals - 3));
                numbers[number_count++].path = docs[d].path;
            }
        }
}

static void number(const char *name, const double *computed, size_t count) {
    size_t found = 0, row = 0;
    for (size_t i = 0; i < number_count; i++)
        if (!strcmp(numbers[i].name, name)) found++, row = i;
    char shown[512] = "";
    size_t length = 0;
    for (size_t i = 0; i < count; i++)
        length += (size_t)snprintf(shown + length, sizeof shown - length, " %.4f", computed[i]);
    if (found != 1) {
        check(false, "%s =%s is in the book once, not %zu times", name, shown, found);
        return;
    }
    numbers[row].used = true;
    char *at = numbers[row].values;
    bool good = true;
    for (size_t i = 0; i < count; i++) {
        char *end;
        double printed = strtod(at, &end);
        good = good && end > at;
        const char *dot = memchr(at, '.', (size_t)(end - at));
        const char *e = memchr(at, 'e', (size_t)(end - at));
        double unit = pow(10, (dot ? -(double)((e ? e : end) - dot - 1) : 0) +
                                  (e ? strtod(e + 1, NULL) : 0));
        double rounding = dot || e ? 1e-6 * fabs(printed) + 1e-7 : 0; /* of floats */
        good = good && fabs(computed[i] - printed) <= 0.5 * unit + rounding;
        at = end;
    }
    good = good && at[strspn(at, " ")] == 0;
    check(good, "%s %s%s%s", name, shown, good ? "" : "   but the book has ",
          good ? "" : numbers[row].values);
}

static void number_floats(const char *name, const float *values, size_t count) {
    double wide[64];
    assert(count <= 64);
    for (size_t i = 0; i < count; i++) wide[i] = values[i];
    number(name, wide, count);
}

static void number_one(const char *name, double value) { number(name, &value, 1); }

static Config shape(size_t layers, size_t heads, size_t channels, size_t context,
                    size_t vocab) {
    return (Config){.layers = layers, .heads = heads, .channels = channels,
                    .context = context, .vocab = vocab, .bias = true};
}

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))
#define NUMBERS(name, array) number_floats(name, array, COUNT_OF(array))

static void compute_kernels(void) {
    { /* embedding: three positions, the same token at the first and the last */
        const int32_t tokens[] = {2, 0, 2};
        const float wte[] = {0.1f, 0.2f, 0.3f, 0.4f, 0.5f, 0.6f};
        const float wpe[] = {0.01f, 0.02f, 0.03f, 0.04f, 0.05f, 0.06f};
        const float dx[] = {1, 2, 3, 4, 5, 6};
        float x[6], dwte[6] = {0}, dwpe[6] = {0};
        embedding_forward(x, tokens, wte, wpe, 1, 3, 2);
        embedding_backward(dwte, dwpe, dx, tokens, 1, 3, 2);
        NUMBERS("embedding.x", x);
        NUMBERS("embedding.dwte", dwte);
        NUMBERS("embedding.dwpe", dwpe);
    }
    { /* layer norm of 1 2 6 */
        const float x[] = {1, 2, 6}, weight[] = {1, 2, 0.5f}, bias[] = {0, 0, 1},
                    dy[] = {1, 0, 0};
        float y[3], mean, rstd, dx[3] = {0}, dweight[3] = {0}, dbias[3] = {0}, z[3];
        layernorm_forward(y, &mean, &rstd, x, weight, bias, 1, 3);
        layernorm_backward(dx, dweight, dbias, dy, &mean, &rstd, x, weight, 1, 3);
        for (int c = 0; c < 3; c++) z[c] = (x[c] - mean) * rstd;
        number_one("layernorm.mean", mean);
        number_one("layernorm.rstd", rstd);
        NUMBERS("layernorm.z", z);
        NUMBERS("layernorm.y", y);
        NUMBERS("layernorm.dx", dx);
        NUMBERS("layernorm.dweight", dweight);
        NUMBERS("layernorm.dbias", dbias);
        number_one("layernorm.sum_dx", (double)dx[0] + dx[1] + dx[2]);
        number_one("layernorm.sum_dx_z", (double)dx[0] * z[0] + dx[1] * z[1] + dx[2] * z[2]);
    }
    { /* matrix product of two rows */
        const float x[] = {1, 2, 0, 1}, weight[] = {1, 2, 3, 4}, bias[] = {10, 20};
        const float dy[] = {1, -1, 2, 0};
        float y[4], dx[4], dweight[4] = {0}, dbias[2] = {0};
        matmul_forward(y, x, weight, bias, 2, 2, 2);
        matmul_backward(dx, dweight, dbias, dy, x, weight, 2, 2, 2);
        NUMBERS("matmul.y", y);
        NUMBERS("matmul.dx", dx);
        NUMBERS("matmul.dweight", dweight);
        NUMBERS("matmul.dbias", dbias);
    }
    { /* attention at two positions, one head of one channel; both versions */
        const float qkv[] = {1, 0, 1, 2, 1, 3}, dy[] = {0, 1};
        for (int fast = 0; fast < 2; fast++) {
            float y[2], lse[2], dqkv[6];
            (fast ? attention_forward : attention_forward_plain)(y, lse, qkv, 1, 2, 1, 1,
                                                                 true, (Dropout){0});
            (fast ? attention_backward : attention_backward_plain)(dqkv, dy, y, lse, qkv, 1, 2,
                                                                   1, 1, true, (Dropout){0});
            const float dq[] = {dqkv[0], dqkv[3]}, dk[] = {dqkv[1], dqkv[4]};
            const float dv[] = {dqkv[2], dqkv[5]};
            const float p[] = {expf(0 - lse[1]), expf(2 - lse[1])};
            NUMBERS("attention.P", p);
            NUMBERS("attention.lse", lse);
            NUMBERS("attention.y", y);
            NUMBERS("attention.dq", dq);
            NUMBERS("attention.dk", dk);
            NUMBERS("attention.dv", dv);
            float ds[2] = {p[0] * (1 - y[1]), p[1] * (3 - y[1])};
            NUMBERS("attention.dS", ds);
        }
    }
    { /* the same with dropout on P: a key that keeps P[1,0] and drops P[1,1] */
        const float qkv[] = {1, 0, 1, 2, 1, 3}, dy[] = {0, 1};
        Dropout dropout = {0.5f, 0, 0};
        while (!(dropout_factor(dropout, 2) > 0 && dropout_factor(dropout, 3) == 0))
            dropout.key++;
        for (int fast = 0; fast < 2; fast++) {
            float y[2], lse[2], dqkv[6];
            (fast ? attention_forward : attention_forward_plain)(y, lse, qkv, 1, 2, 1, 1,
                                                                 true, dropout);
            (fast ? attention_backward : attention_backward_plain)(dqkv, dy, y, lse, qkv, 1, 2,
                                                                   1, 1, true, dropout);
            const float dk[] = {dqkv[1], dqkv[4]}, dv[] = {dqkv[2], dqkv[5]};
            number_one("attention_dropout.y", y[1]);
            NUMBERS("attention_dropout.dk", dk);
            NUMBERS("attention_dropout.dv", dv);
        }
    }
    { /* GELU of -1, 0, 1 */
        const float x[] = {-1, 0, 1}, dy[] = {1, 1, 1};
        float y[3], dx[3], gate[3], tanh_form[3];
        gelu_forward(y, x, 3);
        gelu_backward(dx, dy, x, 3);
        for (int i = 0; i < 3; i++) {
            double u = sqrt(2 / 3.141592653589793) * (x[i] + 0.044715 * x[i] * x[i] * x[i]);
            gate[i] = 1 / (1 + gelu_exponential(x[i]));
            tanh_form[i] = (float)(x[i] / 2 * (1 + tanh(u)));
        }
        NUMBERS("gelu.gate", gate);
        NUMBERS("gelu.y", y);
        NUMBERS("gelu.tanh_form", tanh_form);
        NUMBERS("gelu.dx", dx);
    }
    { /* residual */
        const float x[] = {1, 2}, branch[] = {0.5f, -1}, dy[] = {3, 4};
        float y[2], dx[2], dbranch[2];
        residual_forward(y, x, branch, 2);
        residual_backward(dx, dbranch, dy, 2);
        NUMBERS("residual.y", y);
        NUMBERS("residual.dx", dx);
        NUMBERS("residual.dbranch", dbranch);
    }
    { /* dropout of four ones */
        const float x[] = {1, 1, 1, 1}, dy[] = {1, 2, 3, 4};
        Dropout dropout = {0.25f, 3, 0};
        float y[4], dx[4], draws[4];
        for (int i = 0; i < 4; i++) draws[i] = random_uniform(3, (uint64_t)i);
        dropout_forward(y, x, 4, dropout);
        dropout_backward(dx, dy, 4, dropout);
        NUMBERS("dropout.draws", draws);
        NUMBERS("dropout.y", y);
        NUMBERS("dropout.dx", dx);
    }
    { /* head and cross-entropy: one row, three tokens, the last is the target */
        const float x[] = {1, 2}, wte[] = {1, 0, 0, 1, 1, 1}, one[] = {1};
        const int32_t target[] = {2};
        float logits[3], loss[1], lse[1], dlogits[3], dx[2], dwte[6] = {0}, p[3];
        unembedding_forward(logits, x, wte, 1, 2, 3);
        cross_entropy_forward(loss, lse, logits, target, 1, 3);
        cross_entropy_backward(dlogits, one, lse, logits, target, 1, 3);
        unembedding_backward(dx, dwte, dlogits, x, wte, 1, 2, 3);
        for (int v = 0; v < 3; v++) p[v] = expf(logits[v] - lse[0]);
        NUMBERS("head.logits", logits);
        NUMBERS("cross_entropy.lse", lse);
        NUMBERS("cross_entropy.p", p);
        NUMBERS("cross_entropy.loss", loss);
        NUMBERS("cross_entropy.dlogits", dlogits);
        NUMBERS("head.dx", dx);
        NUMBERS("head.dwte", dwte);
    }
    { /* the mean over three tokens, in one piece and as a micro-batch of two and one of one */
        const float x[] = {1, 2, 0, 1, 2, 0}, wte[] = {1, 0, 0, 1, 1, 1};
        const int32_t targets[] = {2, 0, 1};
        const float third[] = {1 / 3.0f, 1 / 3.0f, 1 / 3.0f};
        float logits[9], losses[3], lse[3], dlogits[9], dx[6], whole[6] = {0}, parts[6] = {0};
        unembedding_forward(logits, x, wte, 3, 2, 3);
        cross_entropy_forward(losses, lse, logits, targets, 3, 3);
        cross_entropy_backward(dlogits, third, lse, logits, targets, 3, 3);
        unembedding_backward(dx, whole, dlogits, x, wte, 3, 2, 3);
        NUMBERS("mean.losses", losses);
        number_one("mean.loss", ((double)losses[0] + losses[1] + losses[2]) / 3);
        NUMBERS("mean.dwte", whole);
        for (size_t first = 0; first < 3; first += 2) {
            size_t rows = first ? 1 : 2;
            cross_entropy_backward(dlogits, third, lse + first, logits + 3 * first,
                                   targets + first, rows, 3);
            unembedding_backward(dx, parts, dlogits, x + 2 * first, wte, rows, 2, 3);
            if (first == 0) NUMBERS("mean.first_part", parts);
        }
        NUMBERS("mean.both_parts", parts);
    }
}

static double rate_of(int kind, uint64_t step) {
    Schedule s = {kind, 1.0f, 0.1f, 2, 12, 4};
    return learning_rate(&s, step);
}

/* Some steps on the loss sum(w^2)/2 over 100 weights, whose gradient is w; at step 20 the
 * gradient is 1000 times too large.  Returns the loss at the end. */
static double spike_run(double clip, double factor, uint64_t steps) {
    enum { N = 100 };
    float w[N], m[N] = {0}, v[N] = {0}, g[N];
    for (int i = 0; i < N; i++) w[i] = random_normal(1, (uint64_t)i);
    for (uint64_t step = 1; step <= steps; step++) {
        for (int i = 0; i < N; i++) g[i] = step == 20 ? (float)factor * w[i] : w[i];
        double norm = gradient_norm(g, N);
        float scale = clip > 0 && norm > clip ? (float)(clip / norm) : 1.0f;
        adamw_update(w, m, v, g, N, 0.02f, 0.9f, 0.99f, 1e-8f, 0, scale, step);
    }
    double loss = 0;
    for (int i = 0; i < N; i++) loss += 0.5 * w[i] * w[i];
    return loss;
}

static double spike_norm(void) { /* the length of the first gradient */
    float w[100];
    for (int i = 0; i < 100; i++) w[i] = random_normal(1, (uint64_t)i);
    return gradient_norm(w, 100);
}

static void compute_optimizer(void) {
    { /* schedules: lr 1, min_lr 0.1, 2 steps of warmup, 12 in all, 4 of cooldown */
        static const char *const NAMES[] = {"schedule.constant", "schedule.linear",
                                            "schedule.cosine", "schedule.trapezoid"};
        for (int kind = 0; kind < 4; kind++) {
            double rates[12];
            for (uint64_t step = 0; step < 12; step++) rates[step] = rate_of(kind, step);
            number(NAMES[kind], rates, 12);
        }
    }
    { /* AdamW: three steps of one weight */
        const float gradients[] = {1, 0.5f, -1};
        float w = 1, m = 0, v = 0, ws[3], ms[3], vs[3], m_hat[3], v_hat[3];
        for (int i = 0; i < 3; i++) {
            adamw_update(&w, &m, &v, &gradients[i], 1, 0.01f, 0.9f, 0.99f, 1e-8f, 0.1f, 1.0f,
                         (uint64_t)i + 1);
            ws[i] = w, ms[i] = m, vs[i] = v;
            m_hat[i] = (float)(m / (1 - pow(0.9, i + 1)));
            v_hat[i] = (float)(v / (1 - pow(0.99, i + 1)));
        }
        NUMBERS("adamw.m", ms);
        NUMBERS("adamw.v", vs);
        NUMBERS("adamw.m_hat", m_hat);
        NUMBERS("adamw.v_hat", v_hat);
        NUMBERS("adamw.w", ws);
    }
    { /* without the corrections: the same function with a step so late that they are 1 */
        float w = 1, m = 0, v = 0, g = 1;
        adamw_update(&w, &m, &v, &g, 1, 0.01f, 0.9f, 0.999f, 1e-8f, 0, 1.0f, 1000000);
        number_one("adamw.uncorrected_first_step", 1 - w);
    }
    { /* decay apart from the gradient, and through it: two weights of 1, gradients 10 and 0.1
       */
        float apart[] = {1, 1}, through[] = {1, 1}, m[2] = {0}, v[2] = {0}, m2[2] = {0},
              v2[2] = {0};
        for (uint64_t step = 1; step <= 100; step++) {
            float sign = step % 2 ? 1 : -1, g[] = {10 * sign, 0.1f * sign}, l2[2];
            for (int i = 0; i < 2; i++) l2[i] = g[i] + 0.1f * through[i];
            adamw_update(apart, m, v, g, 2, 0.01f, 0.9f, 0.99f, 1e-8f, 0.1f, 1.0f, step);
            adamw_update(through, m2, v2, l2, 2, 0.01f, 0.9f, 0.99f, 1e-8f, 0, 1.0f, step);
        }
        double lost_apart[] = {1 - apart[0], 1 - apart[1]};
        double lost_through[] = {1 - through[0], 1 - through[1]};
        number("decay.apart", lost_apart, 2);
        number("decay.through_gradient", lost_through, 2);
    }
    { /* clipping */
        const float g[] = {3, 4};
        double norm = gradient_norm(g, 2), clipped[] = {g[0] / norm, g[1] / norm};
        number_one("clip.norm", norm);
        number_one("clip.first_norm", spike_norm());
        number("clip.clipped", clipped, 2);
        number_one("clip.before_spike", spike_run(20, 1, 19));
        number_one("clip.no_spike", spike_run(20, 1, 80));
        number_one("clip.spike_clipped", spike_run(20, 1000, 80));
        number_one("clip.spike_unclipped", spike_run(0, 1000, 80));
    }
}

/* doc/memory.md shows line by line what ./train info prints about GPT-2's memory. */
static void check_memory_text(const Config *config) {
    char *printed;
    size_t size, lines = 0, missing = 0;
    FILE *out = open_memstream(&printed, &size);
    budget_print(out, config, 4, KEEP_ALL, 1, 0);
    fclose(out);
    const Doc *doc = doc_find("doc/memory.md");
    const char *at = strstr(doc ? (char *)doc->text.data : "", "\n```text\n");
    for (at = at ? line_end(at + 1) + 1 : ""; *at && !starts_with(at, "```");
         at = line_end(at) + 1) {
        char *line = text_copy(at, (size_t)(line_end(at) - at));
        const char *found = *line ? strstr(printed, line) : printed;
        if (!found || (*line && found[strlen(line)] != '\n')) {
            check(false, "doc/memory.md: ./train info prints '%s'", line);
            missing++;
        }
        lines++;
        free(line);
    }
    check(lines > 8 && !missing,
          "memory: doc/memory.md has %zu lines of what ./train info prints", lines);
    free(printed);
}

/* MB of the activations of one mode; `name` takes those whose name begins so, NULL all. */
static double plan_megabytes(const Config *config, size_t B, int keep, const char *name) {
    Activations a = activations_plan(config, B, config->context, keep, 0);
    size_t floats = 0;
    for (size_t i = 0; i < ACTIVATION_COUNT; i++)
        if (!name || starts_with(ACTIVATIONS[i].name, name))
            floats += activation_copies(&a, config, i) * activation_floats(&a, config, i);
    return 4e-6 * (double)floats;
}

static void compute_memory(void) {
    Config nano = shape(4, 4, 128, 64, 256), baby = shape(6, 6, 384, 256, 256);
    Config gpt2 = shape(12, 12, 768, 1024, 50257);
    const Config *c = &gpt2;
    double P = (double)config_parameters(c), MB = 1e-6;
    check_memory_text(c);
    number_one("memory.gpt2.parameters", P);
    number_one("memory.gpt2.weights", 4 * P * MB);
    number_one("memory.gpt2.gradients", 4 * P * MB);
    number_one("memory.gpt2.moments", 8 * P * MB);
    number_one("memory.gpt2.all_four", 16 * P * MB);
    static const char *const ROWS[][6] = {
        {"stream_into_blocks", "stream into blocks"},
        {"qkv", "q, k, v"},
        {"attention", "attention"},
        {"log_sum_exp", "attention log-sum-exp"},
        {"stream_between_halves", "stream between halves"},
        {"before_gelu", "MLP before GELU"},
        {"norms", "norm 1", "norm 2", "final norm"},
        {"shared_by_blocks", "norm", "branch", "last hidden state"},
        {"after_gelu", "MLP after GELU"},
        {"logits", "logits"},
        {"losses", "losses", "loss log-sum-exp"},
        {"passing_gradients", "gradient"}};
    double sum = 0;
    for (size_t i = 0; i < COUNT_OF(ROWS); i++) {
        double row = 0;
        for (size_t j = 1; j < 6 && ROWS[i][j]; j++)
            row += plan_megabytes(c, 4, KEEP_ALL, ROWS[i][j]);
        if (!strcmp(ROWS[i][0], "attention"))
            row -= plan_megabytes(c, 4, KEEP_ALL, "attention log");
        if (!strcmp(ROWS[i][0], "shared_by_blocks")) /* the rows called "norm 1 mean" ... */
            row -= plan_megabytes(c, 4, KEEP_ALL, "norm 1") +
                   plan_megabytes(c, 4, KEEP_ALL, "norm 2");
        char *name = text_format("memory.gpt2.%s", ROWS[i][0]);
        number_one(name, row);
        free(name);
        sum += row;
    }
    double all = plan_megabytes(c, 4, KEEP_ALL, NULL);
    number_one("memory.gpt2.activations", all);
    check(fabs(sum - all) < 1e-6 * all, "memory: the rows of the table are all there are");
    double T = 1024, N = 4 * T;
    number_one("memory.gpt2.attention_matrices_GB", 12 * 4 * 12 * T * T * 4e-9);
    number_one("memory.gpt2.all_logits", N * 50257 * 4 * MB);
    number_one("memory.gpt2.keep_all", all);
    number_one("memory.gpt2.keep_stream", plan_megabytes(c, 4, KEEP_STREAM, NULL));
    number_one("memory.gpt2.keep_nothing", plan_megabytes(c, 4, KEEP_NOTHING, NULL));
    double formula = N * 768 * (12 + 24) + 333 * 50257.0; /* the short form for KEEP_STREAM */
    check(fabs(4 * formula * MB / plan_megabytes(c, 4, KEEP_STREAM, NULL) - 1) < 0.01,
          "memory: the short formula is within 1%% of the plan");
    const struct {
        const char *name;
        const Config *config;
        size_t B;
    } BARS[] = {{"memory.nano.bars", &nano, 12},
                {"memory.baby.bars", &baby, 8},
                {"memory.gpt2.bars", &gpt2, 4}};
    double activations_share[3];
    for (size_t i = 0; i < COUNT_OF(BARS); i++) {
        double p = 4e-6 * (double)config_parameters(BARS[i].config);
        double bars[] = {p, p, 2 * p,
                         plan_megabytes(BARS[i].config, BARS[i].B, KEEP_ALL, NULL)};
        number(BARS[i].name, bars, 4);
        activations_share[i] = 100 * bars[3] / (4 * p + bars[3]);
    }
    number("memory.share_of_activations", activations_share, 3);
    double four = 16 * P * MB,
           fit[] = {four + all, four + plan_megabytes(c, 1, KEEP_ALL, NULL),
                    four + plan_megabytes(c, 1, KEEP_STREAM, NULL)};
    number("memory.gpt2.fit", fit, 3);
    number_one("memory.gpt2.kv_cache", 4 * MB * (double)cache_floats(&gpt2));
    number_one("attention_memory.matrix", 12 * T * T * 4 * MB);
    Config deeper = gpt2;
    deeper.layers = 13;
    number_one("attention_memory.others", plan_megabytes(&deeper, 1, KEEP_ALL, NULL) -
                                              plan_megabytes(&gpt2, 1, KEEP_ALL, NULL));
}

/* Attention with a query of 1 at three positions and scores 2, 0, 3: position t has what the
 * loop over the keys has computed after key t. */
static void compute_running_softmax(void) {
    const float qkv[] = {1, 2, 1, 1, 0, 2, 1, 3, 4};
    float y[3], lse[3];
    attention_forward_plain(y, lse, qkv, 1, 3, 1, 1, true, (Dropout){0});
    double m[3], Z[3], Y[3];
    for (int t = 0; t < 3; t++) {
        m[t] = t && m[t - 1] > qkv[3 * t + 1] ? m[t - 1] : qkv[3 * t + 1];
        Z[t] = exp(lse[t] - m[t]);
        Y[t] = Z[t] * y[t];
    }
    number("running.m", m, 3);
    number("running.Z", Z, 3);
    number("running.Y", Y, 3);
    NUMBERS("running.y", y);
    NUMBERS("running.lse", lse);
    float last_y, last_lse; /* key 2 alone, and then joined to keys 0 and 1 */
    attention_forward_plain(&last_y, &last_lse, qkv + 6, 1, 1, 1, 1, true, (Dropout){0});
    double joined = log(exp(lse[1]) + exp(last_lse));
    double shares[] = {exp(lse[1] - joined), exp(last_lse - joined)};
    number_one("joined.lse", joined);
    number("joined.shares", shares, 2);
    number_one("joined.y", shares[0] * y[1] + shares[1] * last_y);
    check(fabs(joined - lse[2]) < 1e-6 &&
              fabs(shares[0] * y[1] + shares[1] * last_y - y[2]) < 1e-5,
          "joined: two parts of the keys give what all keys give");
    size_t computed = 0, tiles = 0;
    for (size_t t0 = 0; t0 < 1024; t0 += BLOCK, tiles += 1024 / BLOCK)
        for (size_t s0 = 0; s0 < t0 + BLOCK; s0 += BLOCK) computed++;
    number_one("attention_tiles.computed", (double)computed);
    number_one("attention_tiles.all", (double)tiles);
    number_one("attention_tiles.share", (double)computed / (double)tiles);
}

/* A ring of three processes: part p of each array travels around until it is a sum, and once
 * more until all have it. */
static void compute_ring(void) {
    enum { n = 3 };
    double held[n][n] = {{1, 2, 3}, {10, 20, 30}, {100, 200, 300}};
    size_t sent = 0;
    for (size_t step = 0; step < 2 * (n - 1); step++) {
        double traveling[n];
        for (size_t i = 0; i < n; i++) traveling[i] = held[i][(i + 2 * n - step) % n];
        for (size_t i = 0; i < n; i++) { /* from i to the next */
            double *to = &held[(i + 1) % n][(i + 2 * n - step) % n];
            *to = step < n - 1 ? *to + traveling[i] : traveling[i];
        }
        sent++;
        if (step == n - 2)
            for (size_t i = 0; i < n; i++) {
                char *name = text_format("ring.process_%zu", i);
                number(name, held[i], n);
                free(name);
            }
    }
    number("ring.at_the_end", held[1], n);
    bool same = true;
    for (size_t i = 1; i < n; i++) same = same && !memcmp(held[0], held[i], sizeof held[0]);
    check(same, "ring: all processes end with the same sums");
    number_one("ring.sent_by_one", (double)sent);
}

/* The idle share of a pipeline: forward takes 1, backward 2, and a stage does the forward
 * passes of all micro-batches before their backward passes. */
static double pipeline_idle(size_t p, size_t m) {
    double ready[256] = {0}, free_at[16] = {0}; /* when a micro-batch and a stage are */
    double end = 0;
    for (size_t pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < p; i++) {
            size_t stage = pass ? p - 1 - i : i;
            for (size_t b = 0; b < m; b++) {
                double start = fmax(ready[b], free_at[stage]);
                ready[b] = free_at[stage] = end = start + (pass ? 2 : 1);
            }
        }
    return 1 - 3 * (double)m / end;
}

static void compute_machines(void) {
    Config c = shape(88, 64, 8192, 4096, 50257);
    double P = (double)config_parameters(&c), token = flops_per_token(&c, 4096);
    double speed = 0.4e15, link = 50e9, inside = 450e9, GB = 1e-9;
    number_one("machines.parameters_billion", P * 1e-9);
    number_one("machines.GFLOPs_a_token", token * 1e-9);
    number_one("machines.memory_GB", 16 * P * GB);
    number_one("machines.activations_GB", 1e-3 * plan_megabytes(&c, 1, KEEP_ALL, NULL));
    number_one("machines.activations_recomputed",
               1e-3 * plan_megabytes(&c, 1, KEEP_STREAM, NULL));
    double run = token * 20 * P, day = 86400, step = token * 4096 / speed;
    number_one("machines.chinchilla_FLOPs", run);
    number_one("machines.years_on_one", run / speed / day / 365.25);
    number_one("machines.days_on_1024", run / speed / day / 1024);
    double sent = 2 * 1023.0 / 1024 * 2 * P;
    number_one("machines.gradient_sent_GB", sent * GB);
    number_one("machines.gradient_seconds", sent / link);
    number_one("machines.step_seconds", step);
    number_one("machines.gradient_seconds_after_tensor", 2 * 127.0 / 128 * 2 * P / 8 / link);
    double n = 64, stages[] = {16 * P * GB, (8 + 8 / n) * P * GB, (4 + 12 / n) * P * GB,
                               16 * P / n * GB};
    double travel[] = {2 * 2 * P * GB, 2 * 2 * P * GB, 2 * 2 * P * GB, 3 * 2 * P * GB};
    number("zero.stages_GB", stages, 4);
    number("zero.sent_GB", travel, 4);
    double array = 2.0 * 4096 * 8192, all = 88 * 4 * array * 2 * 7 / 8;
    number_one("tensor.array_MB", array * 1e-6);
    number_one("tensor.sent_GB", all * GB);
    number_one("tensor.seconds_inside", all / inside);
    number_one("tensor.seconds_between", all / link);
    number_one("tensor.seconds_of_step", step / 8);
    double idle[] = {pipeline_idle(8, 1), pipeline_idle(8, 8), pipeline_idle(8, 32),
                     pipeline_idle(8, 128)};
    number("pipeline.idle_8", idle, 4);
    check(fabs(idle[2] - 7.0 / 39) < 1e-9, "pipeline: the schedule idles (p - 1)/(m + p - 1)");
    double block = 2 * 2.0 * 8192 * 8192; /* keys and values of 8192 positions */
    number_one("sequence.sent_MB", block * 1e-6);
    number_one("sequence.sent_ms", 1e3 * block / link);
    number_one("sequence.arithmetic_ms", 1e3 * 4.0 * 8192 * 8192 * 8192 / speed);
    number_one("together.GB_each", (8 * P / 32 + 8 * P / 1024) * GB);
    number_one("together.gradient_seconds", 2 * 31.0 / 32 * 2 * P / 32 / link);
    number_one("failures.hours_between_checkpoints", sqrt(2.0 * 60 * 5 * 3600) / 3600);
    compute_ring();
    { /* an MLP of four hidden channels, whole and in two halves */
        const float x[] = {1, -1}, W1[] = {1, 0, 2, 1, 0, 1, 1, 0};
        const float W2[] = {1, 0, 0, 1, 1, 1, 2, 0};
        float hidden[4], y[2], sum[2] = {0};
        matmul_forward(hidden, x, W1, NULL, 1, 2, 4);
        gelu_forward(hidden, hidden, 4);
        matmul_forward(y, hidden, W2, NULL, 1, 4, 2);
        for (size_t part = 0; part < 2; part++) {
            const float columns[] = {W1[2 * part], W1[2 * part + 1], W1[4 + 2 * part],
                                     W1[5 + 2 * part]};
            float half[2], term[2];
            matmul_forward(half, x, columns, NULL, 1, 2, 2);
            gelu_forward(half, half, 2);
            matmul_forward(term, half, W2 + 4 * part, NULL, 1, 2, 2);
            NUMBERS(part ? "tensor.part_1" : "tensor.part_0", term);
            for (int o = 0; o < 2; o++) sum[o] += term[o];
        }
        NUMBERS("tensor.sum", sum);
        NUMBERS("tensor.whole", y);
    }
}

/* The smallest model on disk, byte by byte as doc/checkpoints.md shows it. */
static void compute_checkpoint(void) {
    const char *path = "build/test_book.safetensors";
    const Doc *doc = doc_find("doc/checkpoints.md");
    Config config = shape(1, 1, 2, 2, 3), gpt2 = shape(12, 12, 768, 1024, 50257);
    GPT *gpt = gpt_create(&config, false);
    gpt_initialize(gpt, 1);
    safetensors_write(path, "\"format\": \"pt\"", gpt, &(Arena){"", gpt->weights}, 1);
    Bytes file = file_read(path);
    unlink(path);
    size_t header = file.size - 8 - 4 * gpt->parameter_count;
    float first[3];
    memcpy(first, file.data + 8 + header, sizeof first);
    number_one("checkpoint.header_bytes", (double)header);
    number_one("checkpoint.parameters", (double)gpt->parameter_count);
    number_one("checkpoint.file_bytes", (double)file.size);
    NUMBERS("checkpoint.first_weights", first);
    char start[512];
    int n = 0;
    for (int i = 0; i < 8; i++)
        n += sprintf(start + n, "%02x%c", file.data[i], i < 7 ? ' ' : '\n');
    snprintf(start + n, sizeof start - (size_t)n, "%.208s", (char *)file.data + 8);
    check(doc && strstr((char *)doc->text.data, start),
          "checkpoint: the first bytes are %.23s, then %.40s ...", start, start + n);
    free(file.data);
    gpt_destroy(gpt);
    double P = (double)config_parameters(&gpt2), seconds = 16 * P / 200e6;
    number_one("checkpoint.gpt2_MB", 16e-6 * P);
    number_one("checkpoint.gpt2_seconds", seconds);
    number_one("checkpoint.minutes_between", sqrt(2 * seconds * 7 * 86400) / 60);
}

static double seconds_of(const Config *c, double tokens) { /* at half of 560 GFLOP/s */
    return flops_per_token(c, c->context) * tokens / 280e9;
}

static void compute_hardware(void) {
    double balance[] = {560 / 39.0, 989 / 3.35, 459 / 2.77, 125 / 21.0};
    number("balance.machines", balance, 4);
    double C = 768, F = 4 * C, T = 1024, N = 4096, H = 12;
    double kernels[] = {2 * N * C * F / (4 * (N * C + C * F + N * F)),
                        2 * C * F / (4 * (C + C * F + F)),
                        2 * T * C / (16 * C),
                        2 * T * C / (16 * C + 4 * H * T),
                        8 / 8.0,
                        20 / 8.0,
                        1 / 12.0,
                        17 / 28.0},
           shares[8];
    static const char *const NAMES[] = {
        "intensity.product",   "intensity.product_one_token", "intensity.attention_tiles",
        "intensity.attention_matrix", "intensity.layernorm",  "intensity.gelu",
        "intensity.residual",  "intensity.adamw"};
    for (size_t i = 0; i < 8; i++) {
        number_one(NAMES[i], kernels[i]);
        shares[i] = 100 * fmin(1, kernels[i] / balance[0]);
    }
    number("intensity.shares", shares, 8);
    Config nano = shape(4, 4, 128, 64, 256), baby = shape(6, 6, 384, 256, 256);
    Config gpt2 = shape(12, 12, 768, 1024, 50257);
    double P = (double)config_parameters(&gpt2), day = 86400;
    number_one("generation.tokens_a_second", 39e9 / (4 * P));
    number_one("laptop.nano_seconds", seconds_of(&nano, 2000 * 12 * 64));
    number_one("laptop.baby_hours", seconds_of(&baby, 5000 * 64 * 256) / 3600);
    number_one("laptop.gpt2_days", seconds_of(&gpt2, 5000.0 * 32 * 1024) / day);
    number_one("laptop.gpt2_optimum", seconds_of(&gpt2, 20 * P) / day);
    for (int cores = 2; cores <= 16; cores *= cores == 2 ? 4 : 2) {
        double flops = 140e9 * cores, millions[3], times[] = {60, 3600, day};
        for (int i = 0; i < 3; i++) millions[i] = 1e-6 * sqrt(flops * times[i] / 120);
        char *name = text_format("laptop.cores_%d", cores);
        number(name, millions, 3);
        free(name);
    }
    number_one("rack.faster", 72 * 0.4e15 / 280e9);
    number_one("rack.larger", sqrt(72 * 0.4e15 / 280e9));
}

static void check_numbers(void) {
    numbers_read();
    compute_kernels();
    compute_optimizer();
    compute_memory();
    compute_running_softmax();
    compute_machines();
    compute_checkpoint();
    compute_hardware();
    size_t unused = 0;
    for (size_t i = 0; i < number_count; i++)
        if (!numbers[i].used) {
            check(false, "%s: %s = %s is computed here", numbers[i].path, numbers[i].name,
                  numbers[i].values);
            unused++;
        }
    check(number_count > 40 && !unused, "%zu lines of worked numbers, all of them computed",
          number_count);
}

/* =========================================================================================
 * 6. What can be seen
 * ====================================================================================== */

static const char SENTENCE[] = "A model writes one token, and then another one. It looks back "
                               "at all that it has written. ";

/* A small model with weights large enough for its gradients to be measured in float. */
static GPT *small_model(size_t layers) {
    Config config = shape(layers, 2, 16, 16, 128);
    GPT *gpt = gpt_create(&config, true);
    gpt_initialize(gpt, 1);
    return gpt;
}

/* A text of `count` tokens (its bytes) that repeats a sentence. */
static Split sentence_split(uint32_t *tokens, size_t count) {
    for (size_t i = 0; i < count; i++)
        tokens[i] = (uint32_t)SENTENCE[i % (sizeof SENTENCE - 1)];
    return (Split){tokens, count, "sentence", NULL, 0};
}

/* The mean loss of one batch, and with `backward` its gradient in gpt->gradients. */
static double batch_loss(GPT *gpt, Activations *a, const int32_t *inputs,
                         const int32_t *targets, size_t B, size_t T, size_t whole,
                         bool backward) {
    float dlosses[256];
    double sum = 0;
    gpt_forward(gpt, a, inputs, targets, B, T, 0, 0);
    for (size_t i = 0; i < B * T; i++) {
        sum += a->losses[i];
        dlosses[i] = 1.0f / (float)whole;
    }
    if (backward) gpt_backward(gpt, a, inputs, targets, dlosses, B, T);
    return sum / (double)whole;
}

static void see_text(void) {
    static uint32_t tokens[1025];
    Split split = sentence_split(tokens, 1025);
    enum { B = 4, T = 16, STEPS = 16 };
    BatchSource source = {&split, B, T, ORDER_EPOCHS, 7, 0, 1};
    int32_t inputs[B * T], targets[B * T];
    size_t wrong = 0, pairs = 0, seen[1024] = {0}, same = 0;
    static size_t starts[2][STEPS * B];
    for (uint64_t step = 0; step < 4 * STEPS; step++) {
        batch_read(&source, step, 0, B, inputs, targets);
        for (size_t b = 0; b < B; b++) {
            size_t start = window_start(&source, step, b);
            if (step < STEPS) seen[start]++;
            if (step < 2 * STEPS) starts[step / STEPS][step % STEPS * B + b] = start;
            for (size_t t = 0; t < T; t++, pairs++)
                wrong += inputs[b * T + t] != (int32_t)tokens[start + t] ||
                         targets[b * T + t] != (int32_t)tokens[start + t + 1];
        }
    }
    char shown[2][12] = {{0}};
    for (int t = 0; t < 11; t++)
        shown[0][t] = (char)tokens[t], shown[1][t] = (char)tokens[t + 1];
    check(
        !wrong && pairs == 4096,
        "next token: inputs \"%s\", targets \"%s\": all %zu targets are the next input",
        shown[0], shown[1], pairs);
    size_t windows = 0, again = 0;
    for (size_t i = 0; i < 1024; i++) windows += seen[i] == 1, again += seen[i] > 1;
    for (size_t i = 0; i < STEPS * B; i++) same += starts[0][i] == starts[1][i];
    check(windows == 64 && !again && same < 16,
          "epoch: %zu windows of %d tokens: each read once in %d steps, and in another order "
          "in the next epoch",
          windows, T, STEPS);
}

static void see_gradients(void) {
    enum { B = 6, T = 16 };
    static uint32_t tokens[1025];
    Split split = sentence_split(tokens, 1025);
    BatchSource source = {&split, B, T, ORDER_EPOCHS, 7, 0, 1};
    int32_t inputs[B * T], targets[B * T];
    batch_read(&source, 0, 0, B, inputs, targets);
    GPT *gpt = small_model(2);
    Activations *a = activations_create(&gpt->config, B, T, KEEP_ALL, 0);
    size_t P = gpt->parameter_count;
    for (size_t i = 0; i < P; i++) gpt->weights[i] *= 3; /* away from the flat start */

    /* Slopes along the gradient of each tensor itself, where the loss changes most. */
    batch_loss(gpt, a, inputs, targets, B, T, B * T, true);
    float *gradient = memory_allocate(P, sizeof *gradient);
    memcpy(gradient, gpt->gradients, P * sizeof *gradient);
    for (size_t i = 0; i < gpt->tensor_count; i++) {
        const Tensor *t = &gpt->table[i];
        float *w = gpt->weights + t->offset;
        const float *g = gradient + t->offset;
        double length = gradient_norm(g, t->count), h = 0.01, losses[2];
        float *saved = memory_allocate(t->count, sizeof *saved);
        memcpy(saved, w, t->count * sizeof *w);
        for (int side = 0; side < 2; side++) {
            double step = (side ? -h : h) / (length + 1e-30);
            for (size_t j = 0; j < t->count; j++) w[j] = saved[j] + (float)(step * g[j]);
            losses[side] = batch_loss(gpt, a, inputs, targets, B, T, B * T, false);
        }
        memcpy(w, saved, t->count * sizeof *w);
        free(saved);
        double slope = (losses[0] - losses[1]) / (2 * h);
        /* The sums of attention's keys do not change with their biases, but the tensor holds
         * the biases of queries and values too.  1%: the loss has 7 digits, its change some 4.
         */
        check(length > 1e-4 && fabs(slope - length) < 0.01 * length,
              "slope: %-40s backward %9.6f  difference %9.6f", t->name, length, slope);
    }

    /* One batch of 6, or several micro-batches. */
    static const size_t PARTS[][3] = {{3, 3, 0}, {4, 2, 0}};
    double worst = 0;
    for (size_t p = 0; p < COUNT_OF(PARTS); p++) {
        memset(gpt->gradients, 0, P * sizeof *gpt->gradients);
        for (size_t part = 0, first = 0; PARTS[p][part]; first += PARTS[p][part++])
            batch_loss(gpt, a, inputs + first * T, targets + first * T, PARTS[p][part], T,
                       B * T, true);
        double distance = 0;
        for (size_t i = 0; i < P; i++)
            distance += pow((double)gpt->gradients[i] - gradient[i], 2);
        worst = fmax(worst, sqrt(distance) / gradient_norm(gradient, P));
    }
    check(
        worst < 1e-5, /* two orders of adding the same numbers; a wrong divisor gives 0.3 */
        "gradient accumulation: one batch of %d, 2 micro-batches of 3, and 4 and 2: gradients "
        "differ by %.0e of their norm",
        B, worst);

    /* Another token at position 5 is an input there and the target at position 4. */
    float before[T];
    batch_loss(gpt, a, inputs, targets, 1, T, T, false);
    memcpy(before, a->losses, sizeof before);
    inputs[5] = targets[4] = 'Z';
    batch_loss(gpt, a, inputs, targets, 1, T, T, false);
    size_t same = 0, changed = 0;
    for (size_t t = 0; t < T; t++) {
        same += t < 4 && before[t] == a->losses[t];
        changed += t >= 4 && before[t] != a->losses[t];
    }
    check(same == 4 && changed == T - 4, "causal: another token at t = 5 changes the losses "
                                         "from t = 4 on and no bit of the 4 before");
    free(gradient);
    activations_destroy(a);
    gpt_destroy(gpt);
}

static void see_kernels(void) {
    { /* the gradient of the stream as it leaves the last block and the first */
        enum { B = 2, T = 16 };
        static uint32_t tokens[1025];
        Split split = sentence_split(tokens, 1025);
        BatchSource source = {&split, B, T, ORDER_EPOCHS, 7, 0, 1};
        int32_t inputs[B * T], targets[B * T];
        batch_read(&source, 0, 0, B, inputs, targets);
        GPT *gpt = small_model(12);
        Activations *a = activations_create(&gpt->config, B, T, KEEP_ALL, 0);
        batch_loss(gpt, a, inputs, targets, B, T, B * T, true);
        double norms[12];
        /* The loop of gpt_backward_hidden, stopped at each block. */
        float dlosses[B * T];
        for (size_t n = 0; n < B * T; n++) dlosses[n] = 1.0f / (B * T);
        gpt_head_backward(gpt, a, targets, dlosses, B * T); /* dhidden's buffer is shared */
        gpt_final_norm_backward(gpt, a, a->dhidden, B, T);
        for (size_t l = 12; l-- > 0;) {
            gpt_block_backward(gpt, a, l, B, T);
            norms[l] = gradient_norm(a->dx, B * T * 16);
        }
        check(norms[11] > 0 && norms[0] > 0.1 * norms[11] && norms[0] < 10 * norms[11],
              "residual: 12 layers: gradient of the stream %.3f at the last block, %.3f at the "
              "first, ratio %.2f",
              norms[11], norms[0], norms[0] / norms[11]);
        activations_destroy(a);
        gpt_destroy(gpt);
    }
    { /* layer norm far from 0 */
        enum { C = 64 };
        float x[C], weight[C], y[C], mean, rstd;
        double m = 0, v = 0;
        for (int c = 0; c < C; c++)
            x[c] = 1000 + 3 * random_normal(5, (uint64_t)c), weight[c] = 1;
        layernorm_forward(y, &mean, &rstd, x, weight, NULL, 1, C);
        for (int c = 0; c < C; c++) m += y[c] / (double)C;
        for (int c = 0; c < C; c++) v += (y[c] - m) * (y[c] - m) / C;
        check(fabs(m) < 1e-4 && fabs(v - 1) < 1e-3,
              "layer norm: %d channels around 1000 leave with mean %.6f, variance %.6f", C, m,
              v);
    }
    { /* dropout keeps the mean */
        enum { N = 100000 };
        float *x = memory_allocate(N, sizeof *x);
        double sum = 0, zeros = 0;
        for (size_t i = 0; i < N; i++) x[i] = 1;
        dropout_forward(x, x, N, (Dropout){0.25f, 9, 0});
        for (size_t i = 0; i < N; i++) sum += x[i], zeros += x[i] == 0;
        /* The share has standard deviation sqrt(0.25 0.75 / N) = 0.0014; 5 are allowed. */
        check(fabs(zeros / N - 0.25) < 0.007 && fabs(sum / N - 1) < 0.01,
              "dropout: rate 0.25: share set to 0: %.4f, mean of a tensor of ones: %.4f",
              zeros / N, sum / N);
        free(x);
    }
    { /* softmax does not overflow, and a constant added to all logits changes nothing */
        const float near[] = {1, 2, 3, 1, 2, 3, 1, 2, 3};
        float far[9], losses[2][3], lse[3];
        const int32_t targets[] = {0, 1, 2};
        for (int i = 0; i < 9; i++) far[i] = near[i] + 1000;
        cross_entropy_forward(losses[0], lse, near, targets, 3, 3);
        cross_entropy_forward(losses[1], lse, far, targets, 3, 3);
        double worst = 0;
        for (int i = 0; i < 3; i++) worst = fmax(worst, fabs(losses[0][i] - losses[1][i]));
        check(worst < 2e-4, /* at 1000 a float has a last digit of 6e-5 */
              "softmax: logits 1001, 1002, 1003 give the losses of 1, 2, 3: %.6f %.6f %.6f",
              losses[0][0], losses[0][1], losses[0][2]);
    }
    { /* clipping, through the model's own step: the first m is (1 - beta1) times the gradient
       */
        GPT *gpt = small_model(1);
        Optimizer *optimizer = optimizer_create(gpt->parameter_count);
        OptimizerOptions o = {0.9f, 0.99f, 1e-8f, 0, 1};
        for (size_t i = 0; i < gpt->parameter_count; i++)
            gpt->gradients[i] = random_normal(11, i);
        double length = gradient_norm(gpt->gradients, gpt->parameter_count);
        for (size_t i = 0; i < gpt->parameter_count; i++)
            gpt->gradients[i] *= (float)(1000 / length);
        double norm = optimizer_step(gpt, optimizer, &o, 1e-3f);
        double reached = gradient_norm(optimizer->m, gpt->parameter_count) / 0.1;
        check(fabs(norm - 1000) < 0.01 && fabs(reached - 1) < 1e-5,
              "clipping: a gradient of norm %.0f reaches Adam with norm %.6f", norm, reached);
        optimizer_destroy(optimizer);
        gpt_destroy(gpt);
        double with = spike_run(20, 1000, 80), without = spike_run(0, 1000, 80);
        check(with < without / 2,
              "clipping: one gradient 1000 times too large at step 20 of 80: loss %.4f with "
              "clipping, %.4f without",
              with, without);
    }
}

/* What doc/many-machines.md says about dividing a run: the parts add up to the whole. */
static void see_machines(void) {
    enum { B = 6, T = 16, RANKS = 3, STEP = 5 };
    static uint32_t tokens[1025];
    Split split = sentence_split(tokens, 1025);
    BatchSource source = {&split, B, T, ORDER_EPOCHS, 7, 0, 1};
    int32_t inputs[B * T], targets[B * T], dealt[2][B * T];
    batch_read(&source, STEP, 0, B, inputs, targets);
    GPT *gpt = small_model(2);
    Activations *a = activations_create(&gpt->config, B, T, KEEP_ALL, 0);
    size_t P = gpt->parameter_count, mine = B / RANKS;
    batch_loss(gpt, a, inputs, targets, B, T, B * T, true);
    float *whole = memory_allocate(P, sizeof *whole), *sum = memory_allocate(P, sizeof *sum);
    memcpy(whole, gpt->gradients, P * sizeof *whole);
    source.world = RANKS;
    for (size_t rank = 0; rank < RANKS; rank++) {
        int32_t *in = dealt[0] + rank * mine * T, *out = dealt[1] + rank * mine * T;
        source.rank = rank;
        batch_read(&source, STEP, 0, mine, in, out);
        memset(gpt->gradients, 0, P * sizeof *gpt->gradients); /* a process of its own */
        batch_loss(gpt, a, in, out, mine, T, B * T, true);
        for (size_t i = 0; i < P; i++) sum[i] += gpt->gradients[i];
    }
    double distance = 0;
    for (size_t i = 0; i < P; i++) distance += pow((double)sum[i] - whole[i], 2);
    distance = sqrt(distance) / gradient_norm(whole, P);
    bool same = !memcmp(dealt[0], inputs, sizeof inputs) &&
                !memcmp(dealt[1], targets, sizeof targets);
    check(same && distance < 1e-5, /* three sums in another order; a part left out gives 0.5 */
          "data parallel: %d ranks with %zu of %d sequences each: the inputs of one process, "
          "and the sum of gradients differs by %.0e of its norm",
          RANKS, mine, B, distance);
    free(whole);
    free(sum);
    activations_destroy(a);
    gpt_destroy(gpt);

    enum { N = 1000, STEPS = 5 };
    float w[2][N], m[2][N] = {{0}}, v[2][N] = {{0}}, g[N];
    for (size_t i = 0; i < N; i++) w[0][i] = w[1][i] = random_normal(1, i);
    for (uint64_t step = 1; step <= STEPS; step++) {
        for (size_t i = 0; i < N; i++) g[i] = random_normal(1 + step, i);
        adamw_update(w[0], m[0], v[0], g, N, 0.01f, 0.9f, 0.99f, 1e-8f, 0.1f, 1, step);
        for (size_t slice = 0; slice < 3; slice++) {
            size_t from = N * slice / 3, to = N * (slice + 1) / 3;
            adamw_update(w[1] + from, m[1] + from, v[1] + from, g + from, to - from, 0.01f,
                         0.9f, 0.99f, 1e-8f, 0.1f, 1, step);
        }
    }
    size_t differ = 0;
    for (size_t i = 0; i < N; i++) differ += memcmp(&w[0][i], &w[1][i], sizeof w[0][i]) != 0;
    check(!differ && w[0][0] != random_normal(1, 0),
          "AdamW sliced in 3: %d weights after %d steps, %zu weights differ", N, STEPS, differ);
}

int main(void) {
    program_name = "test_book";
    texts_read();
    entries_read();
    check_glossary();
    check_where();
    for (size_t i = 0; i < doc_count; i++) check_names(&docs[i]);
    check_tags("train.c", &train_source);
    check_tags("tokenizer.c", &tokenizer_source);
    check_option_terms();
    check_numbers();
    see_text();
    see_gradients();
    see_kernels();
    see_machines();
    return check_summary();
}

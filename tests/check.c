/* check.c - what every test program is made of: a row for each check, and their sum at the end.
 *
 * A test program includes this file, calls check() as often as it likes and ends with
 * `return check_summary();`.  A row reads
 *
 *     ok    what was checked ... the error, and what it may be at most
 *
 * or begins with FAIL.  All programs run from the top folder of the project, where their files
 * are found as tests/...
 *
 * Included after the program under test: it needs that program's system headers, and no more.
 */
#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

static size_t checks_passed, checks_failed, checks_skipped;

__attribute__((format(printf, 2, 3)))
void check(bool ok, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs(ok ? "ok    " : "FAIL  ", stdout);
    vprintf(format, arguments);
    putchar('\n');
    fflush(stdout); /* what stands here is on the screen even when the next check crashes */
    va_end(arguments);
    if (ok) checks_passed++;
    else checks_failed++;
}

/* For what cannot be checked here, such as two threads in a build that has only one. */
__attribute__((format(printf, 1, 2)))
void check_skip(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("skip  ", stdout);
    vprintf(format, arguments);
    putchar('\n');
    va_end(arguments);
    checks_skipped++;
}

/* The last line.  A program that checked nothing has not passed. */
int check_summary(void) {
    printf("%zu passed, %zu failed", checks_passed, checks_failed);
    if (checks_skipped) printf(", %zu skipped", checks_skipped);
    putchar('\n');
    return fflush(stdout) == 0 && checks_failed == 0 && checks_passed > 0 ? 0 : 1;
}

/* -----------------------------------------------------------------------------------------
 * Tensors against float64
 *
 * The error of a float32 tensor is |result - truth| / |truth| in the Euclidean norm, formed in
 * double.  The norm looks at the tensor as a whole: an element near zero, which is the
 * difference of two large numbers, may be wrong by more than itself and harm nobody.
 * -------------------------------------------------------------------------------------- */

double relative_error(const float *result, const double *truth, size_t count) {
    double distance = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        distance += (result[i] - truth[i]) * (result[i] - truth[i]);
        norm += truth[i] * truth[i];
    }
    return sqrt(distance / norm);
}

/* The root of the mean square. */
double tensor_size(const double *x, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += x[i] * x[i];
    return sqrt(sum / (double)count);
}

/* What an error may be at most: twice what PyTorch's own float32 arithmetic makes of the same
 * inputs.  Rounding is a matter of luck, hence the factor: another order of the same additions
 * has another error of that size.  A few elements can by luck be exact in PyTorch, and nobody
 * can do better than the last bit: 2^-23 is always granted. */
double error_allowed(double float32_error) {
    return fmax(2 * float32_error, 0x1p-23);
}

/* One row of the table: our error beside PyTorch's.  A comparison with zeros would say nothing,
 * so the size of the truth (root of the mean square) must be above `floor`.  The comparisons
 * are written so that a NaN fails them. */
void check_tensor(const char *name, const float *result, const double *truth, size_t count,
                  double float32_error, double floor) {
    double error = relative_error(result, truth, count), allowed = error_allowed(float32_error);
    double size = tensor_size(truth, count);
    bool ok = count > 0 && size > floor && size < (double)FLT_MAX && float32_error >= 0 &&
              error <= allowed;
    check(ok, "%-52s error %8.2e  PyTorch float32 %8.2e  at most %8.2e%s", name, error,
          float32_error, allowed, size > floor ? "" : "  (the reference is close to zero)");
}

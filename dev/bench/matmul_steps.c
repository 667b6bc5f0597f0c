/* matmul_steps.c - from three loops to the matrix product of train.c, one idea at a time.
 *
 *     cc -std=gnu11 -O3 -march=native -fno-math-errno -fopenmp dev/bench/matmul_steps.c \
 *         -o build/matmul_steps -lm
 *     ./build/matmul_steps [M N K ROUNDS]                         default: 1008 992 1000 5
 *
 * The default is a size that AVX-512's tiles of 14 x 32 fill, so that the early steps, which
 * leave the borders to plain loops, show what the tile gains; and it is no power of two, of
 * which the chapter tells.
 *
 * doc/matmul.md tells what each step does and why it gains.  Every step computes the same
 * result (M,N) = A (M,K) B (K,N), and is compared with the first one: a step that is fast and
 * wrong ends the program with status 1.  The steps take turns over several rounds and each
 * shows its median, so that a slow moment of the machine falls on all of them.  All but the
 * last run on one thread.
 */
#define TRAIN_NO_MAIN
#include "../../train.c"

typedef void Product(float *result, const float *A, const float *B, size_t M, size_t N,
                     size_t K);

/* Each result is a dot product of a row of A and a column of B.  The column's numbers are N
 * floats apart, and a sum of floats may not be taken in another order: no vectors. */
static void step_triple_loop(float *result, const float *A, const float *B, size_t M, size_t N,
                             size_t K) {
    for (size_t m = 0; m < M; m++)
        for (size_t n = 0; n < N; n++) {
            float sum = 0;
            for (size_t k = 0; k < K; k++) sum += A[m * K + k] * B[k * N + n];
            result[m * N + n] = sum;
        }
}

/* The two inner loops exchanged: both B and the result are now read along their rows, and the
 * additions of the innermost loop go to different sums, so the compiler makes vectors. */
static void step_loop_order(float *result, const float *A, const float *B, size_t M, size_t N,
                            size_t K) {
    memset(result, 0, M * N * sizeof *result);
    for (size_t m = 0; m < M; m++)
        for (size_t k = 0; k < K; k++)
            for (size_t n = 0; n < N; n++) result[m * N + n] += A[m * K + k] * B[k * N + n];
}

/* Whatever the tile does not fill, at the right and lower border, by the plain loops. */
static void borders(float *result, const float *A, const float *B, size_t M, size_t N, size_t K,
                    size_t M_done, size_t N_done) {
    for (size_t m = 0; m < M; m++) {
        size_t from = m < M_done ? N_done : 0;
        for (size_t n = from; n < N; n++) result[m * N + n] = 0;
        for (size_t k = 0; k < K; k++)
            for (size_t n = from; n < N; n++) result[m * N + n] += A[m * K + k] * B[k * N + n];
    }
}

/* TILE_ROWS rows of A, k after k, as the tile reads them. */
static void strip_pack(float *strip, const float *A, size_t K, size_t depth) {
    strips_pack(strip, A, K, 1, TILE_ROWS, depth, TILE_ROWS);
}

/* A tile of the result stays in the registers for all of K: a number of A is used for
 * TILE_COLUMNS results, a vector of B for TILE_ROWS.  B is read in place. */
static void step_register_tile(float *result, const float *A, const float *B, size_t M,
                               size_t N, size_t K) {
    size_t M_done = M - M % TILE_ROWS, N_done = N - N % TILE_COLUMNS;
    float *strip = memory_allocate(K * TILE_ROWS + WIDTH, sizeof *strip);
    for (size_t m = 0; m < M_done; m += TILE_ROWS) {
        strip_pack(strip, A + m * K, K, K);
        for (size_t n = 0; n < N_done; n += TILE_COLUMNS)
            tile_multiply(result + m * N + n, N, strip, TILE_ROWS, B + n, N, NULL, TILE_ROWS,
                          TILE_COLUMNS, K, false);
    }
    free(strip);
    borders(result, A, B, M, N, K, M_done, N_done);
}

/* Both operands are packed whole, in the order in which the tiles read them. */
static void step_packed(float *result, const float *A, const float *B, size_t M, size_t N,
                        size_t K) {
    size_t M_done = M - M % TILE_ROWS, N_done = N - N % TILE_COLUMNS;
    float *strip = memory_allocate(K * TILE_ROWS + WIDTH, sizeof *strip);
    float *panels = memory_allocate(K * N_done + 1, sizeof *panels);
    strips_pack(panels, B, 1, N, N_done, K, TILE_COLUMNS);
    for (size_t m = 0; m < M_done; m += TILE_ROWS) {
        strip_pack(strip, A + m * K, K, K);
        for (size_t n = 0; n < N_done; n += TILE_COLUMNS)
            tile_multiply(result + m * N + n, N, strip, TILE_ROWS, panels + n * K, TILE_COLUMNS,
                          NULL, TILE_ROWS, TILE_COLUMNS, K, false);
    }
    free(panels);
    free(strip);
    borders(result, A, B, M, N, K, M_done, N_done);
}

/* K in pieces of at most DEPTH, so that a strip of A stays in the first-level cache; B in
 * groups of panels that stay in the second-level cache while all strips of A pass by. */
static void step_blocked(float *result, const float *A, const float *B, size_t M, size_t N,
                         size_t K) {
    size_t M_done = M - M % TILE_ROWS, N_done = N - N % TILE_COLUMNS, piece = piece_depth(K);
    float *strips = memory_allocate(M_done * DEPTH + WIDTH, sizeof *strips);
    float *panels = memory_allocate(GROUP_COLUMNS * DEPTH, sizeof *panels);
    for (size_t k0 = 0; k0 < K; k0 += piece) {
        size_t depth = least(piece, K - k0);
        strips_pack(strips, A + k0, K, 1, M_done, depth, TILE_ROWS);
        for (size_t n0 = 0; n0 < N_done; n0 += GROUP_COLUMNS) {
            size_t columns = least(GROUP_COLUMNS, N_done - n0);
            strips_pack(panels, B + k0 * N + n0, 1, N, columns, depth, TILE_COLUMNS);
            for (size_t m = 0; m < M_done; m += TILE_ROWS)
                for (size_t n = 0; n < columns; n += TILE_COLUMNS)
                    tile_multiply(result + m * N + n0 + n, N, strips + m * depth, TILE_ROWS,
                                  panels + n * depth, TILE_COLUMNS, NULL, TILE_ROWS,
                                  TILE_COLUMNS, depth, k0 > 0);
        }
    }
    free(strips);
    free(panels);
    borders(result, A, B, M, N, K, M_done, N_done);
}

/* matrix_product: the same, with every size, every stride and the borders in tiles. */
static void step_matrix_product(float *result, const float *A, const float *B, size_t M,
                                size_t N, size_t K) {
    matrix_product(result, N, (Matrix){A, K, 1}, (Matrix){B, N, 1}, NULL, M, N, K, false);
}

/* The same product told that B is a transposed matrix, (N,K) in memory: only packing differs.
 * The caller of the benchmark transposes B, outside the clock. */
static const float *transposed_b;
static void step_transposed(float *result, const float *A, const float *B, size_t M, size_t N,
                            size_t K) {
    (void)B;
    matrix_product(result, N, (Matrix){A, K, 1}, (Matrix){transposed_b, 1, K}, NULL, M, N, K,
                   false);
}

static const struct {
    const char *name;
    Product *product;
    bool all_threads;
} STEPS[] = {{"triple loop, dot products", step_triple_loop, false},
             {"loop order m, k, n", step_loop_order, false},
             {"tile in registers", step_register_tile, false},
             {"A and B packed", step_packed, false},
             {"blocks for the caches", step_blocked, false},
             {"matrix_product of train.c", step_matrix_product, false},
             {"  B transposed by its strides", step_transposed, false},
             {"  on all threads", step_matrix_product, true}};
enum { COUNT = sizeof STEPS / sizeof *STEPS, MOST_ROUNDS = 99 };

static int double_compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void threads_use(int threads) {
#ifdef _OPENMP
    omp_set_num_threads(threads);
#else
    (void)threads;
#endif
}

/* The largest difference from the first step's result must be of the size of rounding errors:
 * K products of numbers below 1 in size, each sum rounded K times at most. */
static void result_check(const char *name, const float *result, const float *expected, size_t N,
                         size_t K) {
    double worst = 0, size = 0;
    for (size_t i = 0; i < N; i++) {
        double error = fabs((double)result[i] - expected[i]);
        if (!(error <= worst)) worst = error; /* so that NaN stays */
        if (fabsf(expected[i]) > size) size = fabsf(expected[i]);
    }
    if (size == 0 || !(worst <= 0x1p-23 * sqrt((double)K) * size * 8))
        die("%s: differs by %g from the triple loop; the largest result is %g", name, worst,
            size);
}

int main(int argc, char **argv) {
    program_name = "matmul_steps";
    size_t sizes[4] = {1008, 992, 1000, 5}; /* M, N, K, rounds */
    if (argc > 5) die_usage("usage: matmul_steps [M N K ROUNDS]");
    for (int i = 1; i < argc; i++) {
        char *end;
        long value = strtol(argv[i], &end, 10);
        if (*end || end == argv[i] || value < 1 || value > (i == 4 ? MOST_ROUNDS : 20000))
            die_usage("argument %d: \"%s\" is not a number from 1 to %d", i, argv[i],
                      i == 4 ? MOST_ROUNDS : 20000);
        sizes[i - 1] = (size_t)value;
    }
    size_t M = sizes[0], N = sizes[1], K = sizes[2], rounds = sizes[3];
    float *A = memory_allocate(M * K, sizeof *A), *B = memory_allocate(K * N, sizeof *B);
    float *transposed = memory_allocate(K * N, sizeof *transposed);
    float *expected = memory_allocate(M * N, sizeof *expected);
    float *result = memory_allocate(M * N, sizeof *result);
    for (size_t i = 0; i < M * K; i++) A[i] = random_uniform(1, i) - 0.5f;
    for (size_t i = 0; i < K * N; i++) B[i] = random_uniform(2, i) - 0.5f;
    for (size_t k = 0; k < K; k++)
        for (size_t n = 0; n < N; n++) transposed[n * K + k] = B[k * N + n];
    transposed_b = transposed;

    int threads = thread_count();
    double peaks[2] = {0}, times[COUNT][MOST_ROUNDS];
    for (size_t round = 0; round < rounds; round++)
        for (size_t i = 0; i < COUNT; i++) {
            threads_use(STEPS[i].all_threads ? threads : 1);
            float *to = i == 0 && round == 0 ? expected : result;
            for (size_t j = 0; j < M * N; j++)
                to[j] = NAN; /* nothing left of the step before */
            double start = clock_seconds();
            STEPS[i].product(to, A, B, M, N, K);
            times[i][round] = clock_seconds() - start;
            if (i > 0) result_check(STEPS[i].name, result, expected, M * N, K);
            if (i > 0 && i + 2 < COUNT) continue;
            double peak = peak_flops();
            if (peak > peaks[STEPS[i].all_threads]) peaks[STEPS[i].all_threads] = peak;
        }

    double flops = 2.0 * (double)M * (double)N * (double)K, before = 0;
    printf("A (%zu,%zu) times B (%zu,%zu), medians of %zu rounds\n", M, K, K, N, rounds);
    printf("multiply-add peak: %.0f GFLOP/s on one thread, %.0f on %d\n\n", peaks[0] / 1e9,
           peaks[1] / 1e9, threads);
    printf("| step | GFLOP/s | of the peak | gain |\n|---|---|---|---|\n");
    for (size_t i = 0; i < COUNT; i++) {
        qsort(times[i], rounds, sizeof **times, double_compare);
        double rate = flops / times[i][rounds / 2];
        double base = i == COUNT - 1 ? flops / times[COUNT - 3][rounds / 2] : before;
        printf("| %s | %.1f | %.1f%% |", STEPS[i].name, rate / 1e9,
               100 * rate / peaks[STEPS[i].all_threads]);
        if (base > 0)
            printf(" %.2f x |\n", rate / base);
        else
            printf(" |\n");
        before = rate;
    }
    free(A);
    free(B);
    free(transposed);
    free(expected);
    free(result);
    return fflush(stdout) != 0;
}

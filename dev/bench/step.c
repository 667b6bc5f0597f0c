/* step.c - the time of a training step of train.c: forward, backward, optimizer.
 *
 *     cc -std=gnu11 -O3 -march=native -fno-math-errno -fopenmp dev/bench/step.c \
 *         -o build/step -lm
 *     ./build/step LAYERS HEADS CHANNELS VOCAB BATCH TIME STEPS [bf16]
 *
 * The tokens are drawn at random, and drawn before the clock starts: reading data is no part of
 * what is measured.  Random tokens are as good as text here, because no kernel's time depends
 * on what the numbers are.  One step warms up (it touches all memory for the first time), then
 * each of the others is timed on its own.
 *
 * A line for each timed step: "step", milliseconds.  Then "peak", the multiply-add peak in
 * GFLOP/s, measured before and after the steps, the higher one; "flops", of one step; and
 * "memory", the most that the process ever had resident, in bytes.  dev/bench/step.py reads
 * these lines, so that this program and PyTorch can take turns.
 */
#define TRAIN_NO_MAIN
#include "../../train.c"

/* The most bytes that this process ever had resident: VmHWM in /proc/self/status; 0 where
 * there is no such file. */
static double resident_peak(void) {
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    double kilobytes = 0;
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "VmHWM: %lf", &kilobytes) == 1) break;
    if (file) fclose(file);
    return kilobytes * 1024;
}

static size_t argument(char **argv, int i) {
    char *end;
    errno = 0;
    long long value = strtoll(argv[i], &end, 10);
    if (errno || *end || end == argv[i] || value < 1 || value > 1000000)
        die_usage("argument %d: \"%s\" is not a number from 1 to 1000000", i, argv[i]);
    return (size_t)value;
}

int main(int argc, char **argv) {
    program_name = "step";
    bool bf16 = argc == 9 && !strcmp(argv[8], "bf16"); /* as --precision bf16 of train */
    if (argc != 8 && !bf16)
        die_usage("usage: step LAYERS HEADS CHANNELS VOCAB BATCH TIME STEPS [bf16]");
    product_precision = bf16 ? BF16 : FLOAT32;
    Config config = {.layers = argument(argv, 1),
                     .heads = argument(argv, 2),
                     .channels = argument(argv, 3),
                     .vocab = argument(argv, 4),
                     .bias = true};
    size_t B = argument(argv, 5), T = argument(argv, 6), steps = argument(argv, 7), N = B * T;
    config.context = T;
    if (config.channels % config.heads)
        die_usage("%zu channels are no multiple of %zu heads", config.channels, config.heads);

    double peak = peak_flops();
    GPT *gpt = gpt_create(&config, true);
    gpt_initialize(gpt, 1);
    Activations *a = activations_create(&config, B, T, KEEP_ALL, 0);
    Optimizer *optimizer = optimizer_create(gpt->parameter_count);
    OptimizerOptions options = {
        .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .weight_decay = 0.1f, .clip = 1.0f};
    int32_t *inputs = memory_allocate(N, sizeof *inputs);
    int32_t *targets = memory_allocate(N, sizeof *targets);
    float *dlosses = memory_allocate(N, sizeof *dlosses);
    for (size_t n = 0; n < N; n++) {
        inputs[n] = (int32_t)(random_bits(1, n) % config.vocab);
        targets[n] = (int32_t)(random_bits(2, n) % config.vocab);
        dlosses[n] = 1.0f / (float)N;
    }
    for (size_t i = 0; i < steps + 1; i++) {
        double start = clock_seconds();
        gradients_clear(gpt);
        gpt_forward_backward(gpt, a, inputs, targets, dlosses, B, T, 0, 0);
        double norm = optimizer_step(gpt, optimizer, &options, 1e-4f);
        double seconds = clock_seconds() - start;
        if (!isfinite(norm) || norm == 0)
            die("step %zu: the gradient's norm is %g: nothing was trained", i, norm);
        if (i > 0) printf("step %.4f\n", seconds * 1e3);
    }
    double again = peak_flops();
    printf("peak %.1f\nflops %.0f\nmemory %.0f\n", (again > peak ? again : peak) / 1e9,
           flops_per_token(&config, T) * (double)N, resident_peak());
    gpt_destroy(gpt);
    activations_destroy(a);
    optimizer_destroy(optimizer);
    free(inputs);
    free(targets);
    free(dlosses);
    return fflush(stdout) != 0;
}

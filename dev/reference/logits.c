/* logits.c - what a model computes, as raw numbers:
 *
 *     build/logits FOLDER < IDS > LOGITS
 *
 * Reads ids of tokens (32 bits each, at most as many as the context), writes the logits (T,V)
 * as floats.  check_huggingface.py compares them with what transformers computes.
 */
#define TRAIN_NO_MAIN
#include "../../train.c"

int main(int argc, char **argv) {
    program_name = "logits";
    if (argc != 2) die_usage("one argument is needed: the folder of a model");
    GPT *gpt = model_read(argv[1], 0, false);
    Bytes input = stream_read(stdin, "the standard input");
    const int32_t *ids = (const int32_t *)(const void *)input.data;
    size_t T = input.size / sizeof *ids, V = gpt->config.vocab;
    if (T < 1 || T > gpt->config.context)
        die("%zu tokens: it must be 1 to %zu", T, gpt->config.context);
    for (size_t t = 0; t < T; t++)
        if (ids[t] < 0 || (size_t)ids[t] >= V) die("%d is no token", (int)ids[t]);
    Activations *a = activations_create(&gpt->config, 1, T, KEEP_NOTHING, 0);
    float *logits = memory_allocate(T * V, sizeof *logits);
    gpt_forward(gpt, a, ids, ids, 1, T, 0, 0);
    gpt_logits(gpt, a, logits, 0, T);
    if (fwrite(logits, sizeof *logits, T * V, stdout) != T * V || fflush(stdout) != 0)
        die("cannot write: %s", strerror(errno));
    free(logits);
    free(input.data);
    activations_destroy(a);
    gpt_destroy(gpt);
    return 0;
}

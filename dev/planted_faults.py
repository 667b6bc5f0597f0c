#!/usr/bin/env python3
"""Breaks train.c and tokenizer.c on purpose, one change at a time, and shows that the tests notice every one.

    python3 dev/planted_faults.py                 all faults, two at a time; some minutes
    python3 dev/planted_faults.py layernorm 17    those whose row holds a word, or by number
    python3 dev/planted_faults.py --part 3/8      every eighth
    python3 dev/planted_faults.py --list          the table
    python3 dev/planted_faults.py --jobs 4        more at a time

A test that cannot fail proves nothing.  Each row below is a mistake that a person could make while typing
these files: a sign, a factor, an index, a missing term.  The changed file is compiled with each test program,
in a folder of its own, until a check fails; that check is printed.  A fault that no test notices is MISSED, and
the script ends with status 1.  So it does when a row's old text is not found exactly once: then the table has
fallen behind the code.  Before all that, the unchanged program must pass every test.

Python's standard library and a C compiler ($CC, or cc) are all that it needs.
"""
import argparse
import concurrent.futures
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# -O1 compiles ten times as fast as -O3 and is fast enough for the tests.  One thread: a fault does not depend on
# how many there are, and two faults are tried at a time.
FLAGS = ["-std=gnu11", "-O1", "-march=native", "-fno-math-errno", "-w"]
LIMIT = 120  # seconds for one test program: a fault may also make it run for ever

# The test programs, in the order in which they are tried unless a row says otherwise.
TESTS = ["kernels", "model", "text", "sampling", "files", "training", "resume"]

# A row: the function (or table) in which the change is made, the old text, the new text, what it breaks, and the
# test programs that are tried first.  Blanks and line breaks in the old text stand for any blanks and line breaks.
K, M, T, S, F, R, Z = "kernels", "model", "text", "sampling", "files", "training", "resume"
FAULTS = [
    # Random numbers, text, batches
    ("random_bits", "z >> 27", "z >> 26", "the generator is another one", [T]),
    ("random_uniform", ">> 40", ">> 41", "numbers reach 1/2 only", [T]),
    ("random_normal", "-2.0 * log(u)", "-1.0 * log(u)", "the deviation is not 1", [T]),
    ("random_normal", "2 * index + 1", "2 * index", "angle and length are the same draw", [T]),
    ("random_permutation", "round < 4", "round < 1", "the shuffle hardly shuffles", [T]),
    ("random_permutation", "while (i >= N)", "while (i > N)", "the shuffle reaches N", [T]),
    ("corpus_split", "(1.0 - validation - test) + 1e-6", "(1.0 - validation) + 1e-6", "the test part has moved", [T]),
    ("corpus_split", "if (test == 0) test_start = all;", "", "a test part that nobody asked for", [T]),
    ("window_start", "split->count - T - 1", "split->count - T",
     "the last target lies beyond the split", [T]),
    ("window_start", "RANDOM_ORDER), epoch)", "RANDOM_ORDER), 0)", "every epoch has the same order", [T]),
    ("window_start", "number % windows, windows) * T", "number % windows, windows) * (source->T - 1)",
     "windows overlap", [T]),
    ("window_start", "% (slack + 1)", "% (slack + 2)", "the cut moves too far", [T]),
    ("window_start", "step * source->batch + i", "step + i", "steps share their sequences", [T]),
    ("window_start", "% (last + 1)", "% (last + 2)", "a random window reaches beyond the split", [T]),
    ("window_start", "split->rows ? split->row_count - 1", "split->rows ? split->row_count", "a row behind the last one", [T]),
    ("window_start", "split->rows ? 1 : source->T", "source->T", "rows are drawn as if they were windows", [T]),
    ("sequence_read", "(int32_t)split->tokens[place + 1]", "(int32_t)split->tokens[place]", "targets are not shifted", [T]),
    ("sequence_read", "tokens[place < end ? place : start]", "tokens[place]", "behind a row stands the next one", [T]),
    ("sequence_read", "place < end && place + 1 >= answer", "place + 1 >= answer", "padding weighs in the loss", [T]),
    ("sequence_read", "place + 1 >= answer", "place >= answer", "the first token of an answer weighs nothing", [T]),
    ("sequence_read", "row ? row->answer : at + 1", "at + 1", "the prompt of a row weighs in the loss", [T]),
    ("corpus_rows", "mark + 1 : line", "mark : line", "a prompt without its last character", [T]),
    ("corpus_rows", "length > T", "length > T + 1", "a row that is too long", [T]),
    ("corpus_rows", "if (!next) next = end;", "if (!next) break;", "the last line is lost", [T]),
    ("corpus_split", "(1.0 - validation - test) + 0.5)", "(1.0 - validation - test) + 1e-6)", "999 rows of 1,000", [T]),
    ("corpus_split", "row[count].start - row->start", "row[count].start", "tokens of all rows before, too", [T]),
    ("batch_targets", "- row->answer + 1", "- row->start", "prompts are counted", [R, T]),
    ("batch_targets", "window_start(source, step, i)", "window_start(source, 0, i)", "the count of another step", [T]),
    ("batch_read", "mine + first + b", "first + b", "all ranks read the same", [T]),
    ("batch_read", "mine + first + b", "mine + b", "all micro-batches read the same", [T]),
    ("text_collect", "qsort(names, count, sizeof *names, name_compare)", "(void)name_compare", "files in no order", [T]),
    ("text_collect", "if (entry->d_name[0] == '.') continue;",
     "if (!strcmp(entry->d_name, \".\") || !strcmp(entry->d_name, \"..\")) continue;", "hidden files are read", [T]),
    ("text_collect", "&& !S_ISLNK(status.st_mode)", "", "links are followed, also in a circle", [T]),
    ("tokens_append", "id >= vocab", "id > vocab", "an id one too large", [T]),
    ("tokens_append", "vocab <= 65536 ? 2 : 4", "vocab < 65536 ? 2 : 4", "the width of raw ids", [T]),
    ("tokens_append", "!= TOKEN_FORMS[form].version", "== 0", "any version", [T]),
    ("tokens_append", "bytes_number(file.data + 8, 4) != (file.size - at) / width",
     "bytes_number(file.data + 8, 4) > (file.size - at) / width", "tokens behind those that the header counts", [T]),
    ("tokens_append", "if ((file.size - at) % width)", "if (0)", "half a token at the end", [T]),
    ("tokens_part", "letters == strlen(WORDS[part]) &&", "", "a part in half a word", [T]),
    ("tokens_part", "slash ? slash + 1 : path", "path", "the folder's name tells the part", [T]),
    ("tokens_collect", "named && tokens_part(paths[i]) == SPLITS", "0", "a file of no part is left out", [T]),
    ("corpus_split", "train_end = parts[SPLIT_TRAIN];", "", "parts that files made up are cut elsewhere", [T]),
    ("tokens_recognise", "form(file) < TOKEN_FORM_COUNT", "form(file) + 1 < TOKEN_FORM_COUNT",
     "Llama 3's magic number is not known", [T]),

    # Tools of the kernels
    ("lanes_total", "lane[i] + lane[i + LANES / 2]", "lane[i] + lane[i]", "half of the lanes are lost", [K]),
    ("dot_product", "for (int j = 0; i < N; i++, j++)", "for (int j = 0; i + 1 < N; i++, j++)",
     "the last element is lost", [K]),
    ("exponential", "1.0f / 24", "1.0f / 25", "a coefficient", [K]),
    ("exponential", "2.12194440e-4f", "2.1e-4f", "the second part of ln 2", [K]),
    ("exponential", "x < -86.0f ? -86.0f", "x < -8.6f ? -8.6f", "small probabilities are not", [K]),

    # Embedding
    ("embedding_forward", "token[c] + place[c]", "token[c] - place[c]", "a sign", [K]),
    ("embedding_forward", "wpe + bt % T * C", "wpe + bt / T * C", "the place is the sequence's number", [K]),
    ("embedding_forward", "(size_t)tokens[bt] * C", "(size_t)tokens[bt % T] * C", "all sequences are the first", [K]),
    ("embedding_backward", "dwte + (size_t)tokens[bt] * C + c0", "dwte + (size_t)tokens[0] * C + c0",
     "one token gets all the gradient", [K]),
    ("embedding_backward", "dwpe + bt % T * C + c0", "dwpe + c0", "one place gets all the gradient", [K]),
    ("embedding_backward", "scaled_add(dwpe + bt % T * C + c0, 1.0f, dx_bt, n);", "", "places do not learn", [K]),
    ("embedding_backward", "C - c0 < SLICE ? C - c0 : SLICE", "SLICE", "the last slice is too wide", [K]),

    # Layer norm
    ("LAYERNORM_EPS", "1e-5f", "1e-3f", "eps", [K]),
    ("layernorm_forward", "squares / (double)C + LAYERNORM_EPS", "squares / (double)C", "no eps", [K]),
    ("layernorm_forward", "squares / (double)C + LAYERNORM_EPS", "squares / (double)(C - 1) + LAYERNORM_EPS",
     "C - 1 for C", [K]),
    ("layernorm_forward", "1.0 / sqrt(squares / (double)C + LAYERNORM_EPS)",
     "1.0 / (sqrt(squares / (double)C) + LAYERNORM_EPS)", "eps outside the root", [K]),
    ("layernorm_forward", "(x_n[c] - m) * r * weight[c]", "x_n[c] * r * weight[c]", "the mean is not taken off", [K]),
    ("layernorm_forward", "(x_n[c] - m) * r * weight[c]", "(x_n[c] - m) * r", "no weight", [K]),
    ("layernorm_forward", "y_n[c] += bias[c]", "y_n[c] -= bias[c]", "a sign", [K]),
    ("layernorm_forward", "rstd[n] = r", "rstd[n] = r * r", "what is saved is not what was used", [K]),
    ("layernorm_forward", "squares += (double)(x_n[c] - m) * (x_n[c] - m)", "squares += (double)(x_n[c] - m) * x_n[c]",
     "a centred factor missing in the tail", [K]),
    ("layernorm_backward", "dx_n[c] += r", "dx_n[c] = r", "sets where it should add", [K]),
    ("layernorm_backward", "c < C; c++, j++", "c + 1 < C; c++, j++", "the last channel is left out", [K]),
    ("layernorm_backward", "- g_mean - z * gz_mean", "- z * gz_mean", "the second term is missing", [K]),
    ("layernorm_backward", "- g_mean - z * gz_mean", "- g_mean", "the third term is missing", [K]),
    ("layernorm_backward", "- g_mean - z * gz_mean", "- g_mean + z * gz_mean", "a sign", [K]),
    ("layernorm_backward", "(dy_n[c] * weight[c] - g_mean", "(dy_n[c] - g_mean", "no weight", [K]),
    ("layernorm_backward", "r * (dy_n[c] * weight[c]", "(dy_n[c] * weight[c]", "a factor", [K]),
    ("layernorm_backward", "((x_n[c] - mean[n]) * rstd[n])", "(x_n[c] - mean[n])", "dweight without rstd", [K]),
    ("layernorm_backward", "dweight[c0 + c] += ", "dweight[c0 + c] = ", "dweight does not accumulate", [K]),
    ("layernorm_backward", "dbias[c0 + c] += ", "dbias[c0 + c] = ", "dbias does not accumulate", [K]),

    # Linear layer
    ("matmul_forward", "bias, N, O, C, false", "NULL, N, O, C, false", "no bias", [K]),
    ("matmul_forward", "bias, N, O, C, false", "bias, N, O, C, true", "adds where it should set", [K]),
    ("matmul_backward", "C, O, N, true", "C, O, N, false", "dweight does not accumulate", [K]),
    ("matmul_backward", "(Matrix){weight, 1, O}", "(Matrix){weight, O, 1}", "the weight is not transposed", [K]),
    ("matmul_backward", "(Matrix){x, 1, C}", "(Matrix){x, C, 1}", "the input is not transposed", [K]),
    ("matmul_backward", "if (dbias) column_sums_add(dbias, dy, N, O);", "", "no dbias", [K]),
    ("column_sums_add", "sums[o0 + o] += ", "sums[o0 + o] = ", "dbias does not accumulate", [K]),
    ("column_sums_add", "sum[o] += y[n * O + o0 + o]", "sum[o] += y[n * O + o]", "the second slice is the first", [K]),

    # Dropout
    ("dropout_factor", "1.0f / (1.0f - dropout.rate)", "1.0f", "what stays is not scaled", [K]),
    ("dropout_factor", "1.0f / (1.0f - dropout.rate)", "1.0f / dropout.rate", "scaled by the wrong share", [K]),
    ("dropout_factor", ">= dropout.rate", "< dropout.rate", "drops what it should keep", [K]),
    ("dropout_factor", "dropout.first + i", "i", "micro-batches draw the same masks", [K]),
    ("dropout_backward", "dropout_forward(dx, dy, N, dropout)",
     "dropout_forward(dx, dy, N, (Dropout){dropout.rate, dropout.key + 1, dropout.first})",
     "another mask than the forward pass had", [K]),

    # Attention, plain
    ("attention_forward_plain", "score > maximum ? score : maximum", "0.0f", "no maximum", [K]),
    ("attention_forward_plain", "y_t[d] * shrink +", "y_t[d] +", "what was summed does not shrink", [K]),
    ("attention_forward_plain", "1.0f / sqrtf((float)D)", "1.0f / (float)D", "the scale", [K]),
    ("attention_backward_plain", "(dp - sum_p_dp)", "dp", "the softmax's second term", [K]),
    ("attention_backward_plain", "scaled_add(dk + s * 3 * C, ds,", "scaled_add(dk + s * 3 * C, -ds,", "a sign", [K]),
    ("attention_backward_plain", "scaled_add(dv + s * 3 * C, f * p,", "scaled_add(dv + s * 3 * C, p,",
     "dv without dropout", [K]),

    # Attention in tiles
    ("scores_compute", "depth, d > 0", "depth, false", "a deep head keeps its last part only", [K]),
    ("strip_product_add", "from + d, &panel_pitch", "from, &panel_pitch", "all panels are the first", [K]),
    ("attention_queries", "float score = S[s * TILE_COLUMNS + t] * scale", "float score = S[s * TILE_COLUMNS + t]",
     "no scale", [K]),
    ("attention_queries", "sum[t] *= shrink[t];", "", "the sum does not shrink", [K]),
    ("attention_queries", "y[t * y_pitch + d] *= shrink[t]", "y[t * y_pitch + d] *= 1.0f", "the result does not shrink", [K]),
    ("attention_queries", "score > maximum[t] ? score : maximum[t]", "0.0f", "no maximum", [K]),
    ("attention_queries", "maximum[t] + logf(sum[t])", "logf(sum[t])", "lse without the maximum", [K]),
    ("attention_queries", "(t0 + t) * T + s0 + s", "t * T + s0 + s", "dropout's element", [K]),
    ("attention_queries", "*= 1.0f / sum[t]", "*= 1.0f", "no division by the sum", [K]),
    ("attention_queries", "v + s0 * kv_pitch", "v", "all strips have the first values", [K]),
    ("attention_queries", "rows = t0 + count - s0 < STRIP ? t0 + count - s0 : STRIP",
     "rows = count - 1 + t0 - s0 < STRIP ? count - 1 + t0 - s0 : STRIP", "the last key is left out", [K]),
    ("attention_forward", "dropout.first + bh * T * T", "dropout.first + h * T * T", "all sequences have one mask", [K]),
    ("attention_forward", "lse + bh * T + t0", "lse + h * T + t0", "lse in the wrong row", [K]),
    ("attention_forward", "*k = q + C, *v = k + C", "*k = q + C, *v = q + C", "keys for values", [K]),
    ("attention_queries_backward", "- sum_p_dp[t]) * scale", "- sum_p_dp[t])", "no scale", [K]),
    ("attention_queries_backward", "- sum_p_dp[t]) * scale", ") * scale", "the softmax's second term", [K]),
    ("attention_queries_backward", "P[i] = s0 + s <= t0 + t ? p : 0.0f", "P[i] = p", "no mask", [K]),
    ("attention_queries_backward", "P[i] = s0 + s <= t0 + t ? p : 0.0f", "P[i] = s0 + s < t0 + t ? p : 0.0f",
     "the mask takes the token itself", [K]),
    ("attention_queries_backward", "P[i] *= f;", "", "dv without dropout", [K]),
    ("attention_queries_backward", "(f * dS[i]", "(dS[i]", "dP without dropout", [K]),
    ("attention_queries_backward", "lse_t[t] = lse[t]", "lse_t[t] = lse[0]", "one lse for all", [K]),
    ("attention_queries_backward", "dot_product(dy + t * C, y + t * C, D)", "dot_product(dy + t * C, y, D)",
     "the wrong row of y", [K]),
    ("attention_backward", "memset(dv + t * 3 * C, 0, D * sizeof *dv);", "", "adds dv to what was there", [K]),
    ("attention_backward", "dropout.first + bh * T * T", "dropout.first + h * T * T", "all sequences have one mask", [K]),

    # GELU, residual
    ("gelu_exponential", "0.044715f * x * x * x", "0.044715f * x * x", "a factor x", [K]),
    ("gelu_exponential", "-2.0f * SQRT_2_OVER_PI", "-SQRT_2_OVER_PI", "a factor 2", [K]),
    ("gelu_backward", "1.0f + 3.0f * 0.044715f", "1.0f + 0.044715f", "a factor 3", [K]),
    ("gelu_backward", "(s + x[i] * 2.0f", "(s - x[i] * 2.0f", "a sign", [K]),
    ("gelu_backward", "s * (e * s) * du_dx", "s * (e * s)", "du/dx is missing", [K]),
    ("gelu_backward", "dx[i] = dy[i] * (", "dx[i] = (", "dy is missing", [K]),
    ("residual_forward", "x[i] + branch[i]", "x[i] - branch[i]", "a sign", [K]),
    ("residual_backward", "dx[i] = dbranch[i] = dy[i]", "dx[i] = dy[i]", "the branch gets no gradient", [K]),
    ("residual_backward", "dx[i] = dbranch[i] = dy[i]", "dx[i] += dbranch[i] = dy[i]", "adds where it should set", [K]),

    # Output head and loss
    ("unembedding_forward", "NULL, N, V, C, false", "NULL, N, V, C, true", "adds where it should set", [K]),
    ("unembedding_backward", "V, C, N, true", "V, C, N, false", "dwte does not accumulate", [K]),
    ("unembedding_backward", "(Matrix){dlogits, 1, V}", "(Matrix){dlogits, V, 1}", "not transposed", [K]),
    ("cross_entropy_forward", "highest[j] > maximum ? highest[j] : maximum", "maximum", "the maximum is not that of the lanes", [K]),
    ("cross_entropy_forward", "logit[v] > maximum ? logit[v] : maximum", "maximum", "the last logits cannot be the maximum", [K]),
    ("cross_entropy_forward", "log_sum - (logit[targets[n]] - maximum)", "log_sum - logit[targets[n]]",
     "the maximum is left out", [K]),
    ("cross_entropy_forward", "lse[n] = maximum + log_sum", "lse[n] = log_sum", "lse without the maximum", [K]),
    ("cross_entropy_forward", "targets[n] < 0 ? 0.0f : log_sum", "targets[n] < 0 ? log_sum : log_sum",
     "a loss where none is asked for", [K]),
    ("cross_entropy_backward", "-= dloss", "-= 1.0f", "the target's weight", [K]),
    ("cross_entropy_backward", "-= dloss", "+= dloss", "a sign", [K]),
    ("cross_entropy_backward", "dloss / lanes_total(lane)", "1.0f / lanes_total(lane)", "every token weighs 1", [K]),
    ("cross_entropy_backward", "targets[n] < 0 ? 0.0f : dlosses[n]", "dlosses[n]", "a gradient where none is asked for", [K]),

    # The matrix product
    ("matrix_product_plain", "bias ? bias[n] : 0", "0", "no bias", [K]),
    ("matrix_product_plain", "A.at[m * A.row + k * A.column]", "A.at[m * A.row + k]", "A's column stride", [K]),
    ("tile_multiply", "sum[r][j] += *a_rk * b[j]", "sum[r][j] = *a_rk * b[j]", "only the last k counts", [K]),
    ("tile_multiply", "if (add) start = vector_load(to);", "if (0) start = vector_load(to);", "whole tiles do not add", [K]),
    ("panel_multiply_as", "add ? row[r * pitch + n] : bias", "bias", "tiles at the border do not add", [K]),
    ("panel_multiply_as", "n < columns; n++", "n + 1 < columns; n++", "the last column is left out", [K]),
    ("tile_multiply", "vector_load(bias + j * WIDTH)", "vector_load(bias)", "the second vector's bias", [K]),
    ("panel_multiply_as", "M - m < TILE_ROWS ? M - m : TILE_ROWS", "TILE_ROWS", "the last tile is too high", [K]),
    ("panel_pack", "from[i * B.row + j * B.column]", "from[i * B.row + j]", "B's column stride", [K]),
    ("panel_pack", "B.at + k0 * B.row", "B.at", "every panel is the first in depth", [K]),
    ("panel_pack", "i < WIDTH && k + i < depth; i++", "i + 1 < WIDTH && k + i < depth; i++", "a row of each square is left out", [K]),
    ("square_transpose", "MERGE_SECOND(row[i], row[i + WIDTH / 2])", "MERGE_FIRST(row[i], row[i + WIDTH / 2])",
     "the second halves are lost", [K]),
    ("square_transpose", "round < WIDTH", "round < WIDTH / 2", "half turned", [K]),
    ("matrix_product", "add || k0 > 0", "add", "only the last panel in depth counts", [K]),
    ("matrix_product", "m * A.row + k0 * A.column", "m * A.row", "A's depth", [K]),
    ("matrix_product", "K - k0 < piece ? K - k0 : piece", "piece", "the last panel is too deep", [K]),
    ("matrix_product", "result + m * pitch + n0 + n", "result + m * pitch + n", "the second group of panels", [K]),
    ("matrix_product", "task / panels * block_rows", "task % blocks * block_rows", "tasks are dealt out wrongly", [K]),
    ("matrix_product", "if (copied != m)", "if (copied == M)", "colliding rows: always the first block's", [K]),
    ("matrix_product", "size_t copied = M;", "size_t copied = 0;", "colliding rows: the first block is not copied", [K]),
    ("rows_copy", "depth * sizeof *to", "(depth - 1) * sizeof *to", "the last number of a copied row", [K]),
    ("bf16_bits", "bits + 0x7fff + (bits >> 16 & 1)", "bits", "bf16: rounded towards 0", [K]),
    ("bf16_bits", "bits + 0x7fff + (bits >> 16 & 1)", "bits + 0x8000", "bf16: halfway cases away from 0", [K]),
    ("bf16_bits", "x != x ? bits | 0x400000 : nearest", "nearest", "bf16: a NaN becomes an infinity", [K]),
    ("bf16_pair", "bf16_bits(second) << 16", "bf16_bits(first) << 16", "bf16: the second of a pair", [K]),
    ("tile_multiply", "if (pairs) sum[r][j] = pairs_multiply_add(sum[r][j], pair, b[j]);",
     "if (pairs) sum[r][j] = pairs_multiply_add(sum[r][j], pair & 0xffff, b[j]);", "bf16: every second k is left out", [K]),
    ("panel_to_pairs", "k + 1 < depth ? second[n] : 0", "second[n]", "bf16: an odd depth meets what lay there before", [K]),
    ("rows_to_pairs", "k + 1 < depth ? first + A.column : NULL", "first", "bf16: A transposed, every second k", [K]),
    ("rows_to_pairs", "row[depth] = 0;", "row[depth] = 0x7fc0;", "bf16: an odd depth has one too many, a NaN", [K]),
    ("matrix_product", "(depth + 1) / 2", "depth / 2", "bf16: an odd depth loses its last", [K]),
    ("matrix_product", "product_precision == BF16", "product_precision == BF16 && !add", "bf16: gradients of weights stay in float", [K]),

    # The model
    ("tensor_describe", "t.decay = t.rank == 2", "t.decay = true", "norms and biases decay", [M]),
    ("tensor_describe", "0.02f / sqrtf(2.0f * (float)config->layers)", "0.02f", "residual projections start too large", [M, R]),
    ("tensor_describe", "t.deviation = 0.02f;", "t.deviation = 0.2f;", "weights start too large", [M, R]),
    ("tensor_describe", "START_ONE ? 1.0f : 0.0f", "START_ONE ? 0.0f : 0.0f", "norms start at 0", [M, R]),
    ("tensor_describe", "&& !config->bias", "", "a model never has biases", [M, F]),
    ("gpt_initialize", "RANDOM_WEIGHTS), i)", "RANDOM_WEIGHTS), 0)", "all tensors start alike", [M, R]),
    ("dropout_site", "a->dropout_first * per_sequence", "a->dropout_first", "micro-batches draw shifted masks", [M, R]),
    ("dropout_site", "random_bits(a->dropout_key, site)", "random_bits(a->dropout_key, 0)", "one mask for all places", [M]),
    ("dropout_site", "a->dropout_key ? gpt->config.dropout : 0", "gpt->config.dropout", "dropout in evaluation", [M, R]),
    ("gpt_embed", "if (dropout.rate > 0) dropout_forward(a->x, a->x, B * T * C, dropout);", "",
     "no dropout of the embedding", [M]),
    ("gpt_block_forward", "tensors_place(w, gpt, gpt->weights, l);", "tensors_place(w, gpt, gpt->weights, 0);", "another layer's weights", [M]),
    ("gpt_block_forward", "residual_forward(y.x_next, y.middle, a->branch, N * C)",
     "residual_forward(y.x_next, y.x, a->branch, N * C)", "the stream leaves attention out", [M]),
    ("gpt_block_forward", "2 + 3 * l", "3 + 3 * l", "two places share a mask", [M]),
    ("gpt_block_forward", "if (after2.rate > 0) dropout_forward(a->branch, a->branch, N * C, after2);", "",
     "no dropout of the MLP", [M]),
    ("gpt_block_backward", "if (after1.rate > 0) dropout_backward(a->dbranch, a->dbranch, N * C, after1);", "",
     "backward without dropout", [M]),
    ("gpt_block_backward", "y.ln2_mean, y.ln2_rstd, y.middle,\n                       w[LN2_W], N, C)",
     "y.ln2_mean, y.ln2_rstd, y.x, w[LN2_W], N, C)", "the second norm's input", [M]),
    ("gpt_block_backward", "tensors_place(dw, gpt, gpt->gradients, l);", "tensors_place(dw, gpt, gpt->gradients, 0);", "another layer's gradients", [M]),
    ("gpt_block_backward", "gelu_backward(a->dwide, a->dwide, y.fc, N * F)",
     "gelu_backward(a->dwide, a->dwide, a->gelu, N * F)", "GELU's output for its input", [M]),
    ("gpt_embed_backward", "if (dropout.rate > 0) dropout_backward(a->dx, a->dx, B * T * C, dropout);", "",
     "backward without the embedding's dropout", [M]),
    ("gpt_backward_hidden", "memset(a->dx, 0, N * C * sizeof *a->dx);", "", "the last step's gradient is added", [M]),
    ("gpt_backward_hidden", "layer_of(a, &gpt->config, L).x", "layer_of(a, &gpt->config, 0).x", "the wrong stream", [M]),
    ("head_run", "cross_entropy_backward(a->logits, dlosses + n", "cross_entropy_backward(a->logits, dlosses",
     "all pieces have the first weights", [M]),
    ("head_run", "if (losses || a->head_rows < N) gpt_logits", "if (losses) gpt_logits", "all pieces of logits are the last", [M]),
    ("head_run", "unembedding_backward(a->dnorm + n * C", "unembedding_backward(a->dnorm", "pieces overwrite each other", [M]),
    ("head_run", "cross_entropy_forward(a->losses + n, lse, a->logits, targets + n", "cross_entropy_forward(a->losses + n, lse, a->logits, targets", "all pieces have the first targets", [M]),
    ("gpt_forward_backward", "head_run(gpt, a, targets, true, dlosses,", "head_run(gpt, a, targets, true, NULL,", "the head does not learn", [M, R]),

    # The optimizer
    ("learning_rate", "(float)(step + 1)", "(float)step", "the first step has the rate 0", [M]),
    ("learning_rate", "* 0.5 * (1.0 + cos(", "* 0.5 * (1.0 - cos(", "the cosine rises", [M]),
    ("learning_rate", "(double)(s->steps - start)", "(double)s->steps", "the schedule does not reach its end", [M]),
    ("learning_rate", "s->steps - s->cooldown", "s->cooldown", "the trapezoid falls too early", [M]),
    ("learning_rate", "if (step >= s->steps) return s->min_lr;", "", "behind the end the rate goes on falling", [M]),
    ("gradient_norm", "return sqrt(total)", "return total", "no root", [K]),
    ("gradient_norm", "N * (piece + 1) / PIECES", "N / PIECES * (piece + 1)", "the rest of the division is left out", [K]),
    ("gradient_norm", "for (int j = 0; i < end; i++, j++)", "for (int j = 0; i + 1 < end; i++, j++)",
     "the last element of a piece is left out", [K]),
    ("adamw_update", "(sqrtf(v[i] * v_scale) + eps)", "sqrtf(v[i] * v_scale + eps)", "eps inside the root", [K]),
    ("adamw_update", "m[i] * m_scale /", "m[i] /", "m is not corrected", [K]),
    ("adamw_update", "sqrtf(v[i] * v_scale)", "sqrtf(v[i])", "v is not corrected", [K]),
    ("adamw_update", "(1.0f - beta2) * g * g", "(1.0f - beta2) * g", "not squared", [K]),
    ("adamw_update", "weight_decay * w[i] +", "-weight_decay * w[i] +", "weights grow instead of decaying", [K]),
    ("adamw_update", "w[i] -= lr * (weight_decay * w[i] +", "w[i] -= weight_decay * w[i] + lr * (",
     "the decay without the learning rate", [K]),
    ("adamw_update", "gradient[i] * gradient_scale", "gradient[i]", "no clipping", [K]),
    ("adamw_update", "gradient[i] = 0;", "", "the gradient is not cleared", [K, M]),
    ("adamw_update", "pow(beta1, (double)step)", "pow(beta1, (double)step + 1)", "steps count from 2", [K]),
    ("optimizer_step", "t->decay ? o->weight_decay : 0.0f", "o->weight_decay", "everything decays", [M]),
    ("optimizer_step", "norm > o->clip", "norm < o->clip", "clips the small ones", [M]),
    ("optimizer_step", "if (!isfinite(norm)) return norm;", "", "a gradient of NaN is used", [R, M]),

    # Checkpoints
    ("safetensors_entry", "limits[1] > space || ", "", "offsets beyond the file", [F]),
    ("safetensors_entry", "limits[1] - limits[0] != bytes", "limits[1] - limits[0] < bytes", "offsets that hold more than the shape", [F]),
    ("safetensors_entry", "t.shape[d] && bytes > space / t.shape[d]", "0", "a product of dimensions that overflows", [F]),
    ("safetensors_open", "header > file->size - 8", "header > file->size", "a header beyond the file", [F]),
    ("safetensors_write", "(uint64_t)padded >> 8 * i", "(uint64_t)length >> 8 * i", "the length of the header", [F]),
    ("safetensors_write", "none ? none : arenas", "arenas", "biases that the model has not", [F]),
    ("safetensors_check", "t->numbers != end", "t->numbers > end", "offsets that overlap", [F]),
    ("safetensors_check", "t->numbers != end", "t->numbers < end", "offsets that leave a gap", [F]),
    ("safetensors_check", "end != file->data + file->size", "0", "bytes that belong to no tensor", [F]),
    ("safetensors_check", "!strcmp(file->tensors[i].name, file->tensors[i - 1].name)", "0", "a name twice", [F]),
    ("safetensors_open", "header > SAFETENSORS_HEADER_MAX", "0", "a header of any length", [F]),
    ("weights_open_shards", "strchr(shard, '/') ||", "", "a shard anywhere on the disk", [F]),
    ("weights_find", "t && found", "0", "a tensor in two shards", [F]),
    ("weights_add", "!strcmp(w->files[i]->path, path)", "0", "a shard is opened for each of its tensors", [F]),
    ("numbers_convert", "0x1p112f", "0x1p111f", "half precision read as half of it", [F]),
    ("numbers_convert", "(half & 0x7C00) == 0x7C00 ? NAN :", "", "infinity in half precision becomes a number", [F]),
    ("numbers_convert", "(half & 0x8000) << 16 |", "", "half precision without signs", [F]),
    ("tensor_read", "if (row->numbers[i])", "if (0)", "biases that config.json denies are passed over", [F]),
    ("tensor_read", "!isfinite(weights[i])", "0", "weights that are NaN", [F]),
    ("tensor_read", "row->shape[0] != t->shape[0] ||", "", "another shape", [F]),
    ("head_check", "memcmp(head->numbers, wte->numbers, head->bytes) != 0", "0", "an output head of its own is passed over", [F]),
    ("head_check", "!head && !tied", "0", "a missing output head is passed over", [F]),
    ("config_read", "strcmp(value, \"gpt2\")", "0", "another kind of model", [F]),
    ("gpt_shorten", "gpt->weights + end,", "gpt->weights + kept,", "the first row of the next tensors is a place's", [F]),
    ("gpt_shorten", "gpt->config.context = context;", "", "the context stays", [F]),
    ("config_problem", "c->channels % c->heads", "0", "heads that do not divide the channels", [F]),
    ("config_write", "config->bias ? \"true\" : \"false\"", "\"true\"", "a model without biases comes back with them", [F]),

    # Inference
    ("attention_cached", "keys + (length + r) * C", "keys + r * C", "the cache overwrites its first keys", [M]),
    ("attention_cached", "*v = k + C;", "*v = k;", "keys for values", [M]),
    ("attention_cached", "C, length + r, count,", "C, r, count,", "a query sees the last tokens only", [M]),
    ("attention_cached", "lse + h * rows + r", "lse + r", "heads share their room", [K]),
    ("attention_cached", "size_t count = rows - r < TILE_COLUMNS ? rows - r : TILE_COLUMNS;", "size_t count = rows < TILE_COLUMNS ? rows : TILE_COLUMNS;", "the last group reads on", [K]),
    ("gpt_embed", "weight_of(gpt, WPE, 0) + past * C", "weight_of(gpt, WPE, 0)", "every token stands first", [M]),
    ("gpt_decode", "logits, rows - 1, 1);", "logits, 0, 1);", "logits of the first token", [M]),
    ("logits_likeliest", "logits[v] > logits[best]", "logits[v] >= logits[best]", "of equals the last one", [S]),
    ("token_sample", "/ s->temperature)", "* s->temperature)", "the temperature turned around", [S]),
    ("token_sample", "n = s->top_k", "n = s->top_k + 1", "one token too many", [S]),
    ("token_sample", "sum < s->top_p * total", "sum < s->top_p", "top-p forgets what top-k left", [S]),
    ("token_sample", "(kept == 0 || sum < s->top_p * total)", "(kept == 0 || sum + room[kept].weight < s->top_p * total)",
     "one token too few", [S]),
    ("token_sample", "u * total < sum", "u < sum", "weights taken for probabilities", [S]),
    ("candidate_compare", "(x->weight < y->weight) - (x->weight > y->weight)", "(x->weight > y->weight) - (x->weight < y->weight)",
     "the least likely first", [S]),
    ("text_generate", "tokens + context - keep", "tokens", "the wrong half is kept", [S]),
    ("text_generate", "length = keep; cache->length = 0;", "length = keep; cache->length = keep;", "the cache is not read again", [S]),
    ("text_generate", "prompt_count > context ? prompt_count - context : 0", "0", "a long prompt overflows the window", [S]),
    ("text_generate", "random_bits(seed, RANDOM_SAMPLING), i)", "random_bits(seed, RANDOM_SAMPLING), 0)", "one draw for all tokens", [S]),
    ("text_generate", "|| fflush(out) != 0", "", "text comes late", [S]),

    # The loop
    ("batch_gradient", "1.0f / (float)count", "1.0f / (float)(count * B / batch)", "micro-batches weigh too much", [R]),
    ("batch_gradient", "sum / (double)count", "sum / (double)(batch * T)", "padding lowers the loss", [R]),
    ("batch_gradient", "RANDOM_DROPOUT), step) | 1", "RANDOM_DROPOUT), step) * 0", "no dropout in training", [R]),
    ("batch_gradient", "run->dlosses, B, T, key, first)", "run->dlosses, B, T, key, 0)", "micro-batches share their masks", [R]),
    ("batch_gradient", "step, first, B, run->inputs", "step, 0, B, run->inputs", "micro-batches read the same", [R]),
    ("split_evaluate", "if (targets[i] < 0) continue;", "if (targets[i] < 0) { tokens++; continue; }",
     "padding lowers the validation loss", [R]),
    ("split_evaluate", "split->rows ? i : i * T", "i * T", "rows are counted as windows", [R]),
    ("sample_show", "fwrite(text, 1, size, run->samples);", "", "samples.txt holds no samples", [R]),
    ("rows_right", "targets[n + i] < 0 ||", "", "padding must be guessed", [R]),
    ("rows_right", "n < (b + 1) * T; n += a->head_rows", "n < b * T + 1; n += a->head_rows", "only the first logits are looked at", [R]),
    ("text_generate", "if (sampling->line && bytes == 1 && *text == '\\n') break;", "", "a row does not end", [R]),
    ("split_evaluate", "sum / log(2.0)", "sum", "nats for bits", [R]),
    ("validation_run", "e.loss < p->best_loss", "e.loss > p->best_loss", "the worst model is the best", [R]),
    ("run_train", "run->progress.bad_evaluations >= o->patience", "run->progress.bad_evaluations > o->patience", "one evaluation too patient", [R]),
    ("run_save", "if (improved)\n        model_write", "if (0)\n        model_write", "the best model is not kept", [R]),
    ("run_train", "if (!isfinite(loss) || !isfinite(norm))", "if (0)", "training goes on with NaN", [R]),
    ("fingerprint", "start ^ word", "start", "all weights have the same fingerprint", [Z]),
    ("state_write", "{\"m.\", optimizer->m}, {\"v.\", optimizer->v}", "{\"m.\", optimizer->v}, {\"v.\", optimizer->m}",
     "the moments change places", [Z]),
    ("state_read", "isfinite(to[i])", "1", "moments may be infinite", [Z]),
    ("state_read", "|| to[i] >= 0", "|| 1", "squares may be negative", [Z]),
    ("state_open", "if (version != STATE_VERSION)", "if (0)", "any version will do", [Z]),
    ("save_finish", "|| model_matches(folder, weights)", "", "a save that was not complete is finished", [Z]),
    ("save_finish", "access(waiting, F_OK) != 0 ||", "1 ||", "a save is not finished", [Z]),
    ("state_open", "if (!model_matches(folder, saved.weights))", "if (0)", "any model will do", [Z]),
    ("state_open", "save_finish(text_lend(\"%s/best\", folder), saved.best_weights);", ";", "the best model does not get its name", [Z]),
    ("run_restore", "if (now.corpus != saved.corpus)", "if (0)", "any text will do", [Z]),
    ("run_restore", "if (now.tokenizer != saved.tokenizer)", "if (0)", "any vocabulary will do", [Z]),
    ("run_restore", "state_read(state, run->gpt, run->optimizer);", "run->optimizer->step = state_count(state, \"step\");",
     "the moments start at 0 again", [Z]),
    ("run_log", "<= run->optimizer->step", "< run->optimizer->step", "a row of the log is lost", [Z]),
    ("run_log", "while ((feed = strchr(end, '\\n')) &&", "while ((feed = strchr(end, '\\n')) || 0 &&",
     "rows of the log stand there twice", [Z]),
    ("options_recall", "if (given[i] || !known) break;", "if (!known) break;", "the saved value wins over the command line", [Z]),
    ("options_recall", "given[i] && !may_change &&", "0 &&", "everything may change", [Z]),
    ("run_save", "file_drop(text_lend(\"%s/model.safetensors\", run->best_folder));", "", "an older best model is left", [R]),
    ("run_save", "if (improved) p->best_weights = p->weights;", "", "the state does not know the best model", [Z]),
    ("kept_trim", "i = keep; i < count", "i = keep + 1; i < count", "one more is kept", [Z]),
    ("run_train", "step % o->save_every == 0", "step % o->save_every == 1", "saved at other steps", [Z]),
    ("run_train", "learning_rate(&run->schedule, step)", "learning_rate(&run->schedule, 0)", "the schedule stands still", [R]),
]

# The same for tokenizer.c, nearly all with the one program that tests it alone.
B = "tokenizer"
TOKENIZER_FAULTS = [
    ("heap_push_pair", "(uint64_t)pair.left << 32 | pair.right}", "~((uint64_t)pair.left << 32 | pair.right)}",
     "the largest of equally common pairs", [B]),
    ("item_less", "a.first == b.first ? a.second < b.second : a.first < b.first", "a.first < b.first",
     "equally common pairs in no order", [B]),
    ("heap_pop", "heap->items[child + 1], heap->items[child]", "heap->items[child], heap->items[child + 1]",
     "the larger child rises", [B]),
    ("heap_pop", "heap->items[heap->count] = (Item){UINT64_MAX, UINT64_MAX};",
     "heap->items[heap->count] = (Item){0, 0};", "what lies behind the end is the smallest", [B]),
    ("place_leave", "chain->count -= l->times[place->piece];", "", "pairs that are gone count", [B]),
    ("place_join", "chain->count += l->times[place->piece];", "chain->count += 1;", "a piece counts once", [B]),
    ("place_join", "place->chain_before = chain->last;", "place->chain_before = chain->first;", "a chain out of order", [B]),
    ("place_merge", "if (place->before != NONE) place_join(l, place->before);", "", "the pair before is forgotten", [B]),
    ("merges_learn", "if (count < ~top.first) heap_push_pair(&heap, (Pair){left, right}, count);", "",
     "a pair whose count fell is lost", [B]),
    ("piece_length", "return at == bytes || last == 0 ? at : last;", "return at;", "white space keeps its last blank", [B]),
    ("piece_length", "|| (a == 'l' && b == 'l')", "", "'ll is no ending", [B]),
    ("piece_length", "if (next == WHITE) step = 1;", "if (next == WHITE) step = 2;", "a blank before white space", [B]),
    ("class_read", "lead == 0xED ? 0x9F :", "", "halves of pairs are characters", [B]),
    ("class_read", "lead == 0xE0 ? 0xA0 :", "", "forms that are too long", [B]),
    ("text_cut", "if (class != WHITE || before + step != at) return at;", "return at;", "a cut within white space", [B]),
    ("piece_encode_plain", "if (rank < best)", "if (rank <= best && rank != NONE)", "the rightmost of equal ranks", [B]),
    ("piece_encode_short", "order[i] = rank == NONE ? NONE : rank << 8 | (uint32_t)i;",
     "order[i] = rank == NONE ? NONE : rank << 8 | (uint32_t)(bytes - 1 - i);", "the rightmost of equal ranks", [B]),
    ("piece_encode_short", "if (rank != NONE) order[at] = rank << 8 | (uint32_t)at;", "",
     "the pair behind a merge is forgotten", [B]),
    ("pair_wait", "|| p->parts[part].count == PART_PLACES", "", "a part overflows", [B]),
    ("pair_wait", "|| p->parts[part].count == PART_PLACES", "|| p->parts[part].first == p->parts[part].count",
     "a part overflows unless all of it was taken", [B]),
    ("pair_wait", "else p->parts[*end].next = part;", "", "a run ends with its first part", [B]),
    ("pair_wait", "(Item){link->rank, part}", "(Item){link->rank / 2, part}", "merges in nearly the right order", [B]),
    ("pair_wait", "p->parts[part].first = p->parts[part].count = 0;", "p->parts[part].first = 0;",
     "a part that is used again is not empty", [B]),
    ("pair_take", "p->t->run_end[*rank] = NONE;", "", "a run that was taken goes on", [B]),
    ("pair_take", "least->second = front->next;", "", "a run does not go on", [B]),
    ("pair_take", "if (front->first == front->count)", "if (front->first == PART_PLACES)", "places behind the last one", [B]),
    ("piece_encode_long", "if (link->rank != rank) continue;", "if (link->after == NONE) continue;",
     "pairs that are gone are merged", [B]),
    ("piece_encode_long", "gone->rank = NONE;", "", "a token that is gone is merged", [B]),
    ("piece_encode_long", "if (gone->after != NONE) p.links[gone->after].before = at;", "", "links back are stale", [B]),
    ("piece_encode_long", "if (link->before != NONE) pair_wait(&p, link->before);", "", "the pair before is forgotten", [B]),
    ("piece_encode_long", "bytes > NONE / 2", "bytes > (size_t)NONE * 2", "places beyond 32 bits", [B]),
    ("cache_key", "((unsigned char *)key)[23] = (unsigned char)bytes;", "", "pieces that differ in NULs are one", [B]),
    ("cache_key", "memcpy(keep, mask + 24 - bytes, 24);", "memcpy(keep, mask + 25 - bytes, 24);",
     "the last byte of a piece does not count", [B]),
    ("text_encode", "if (count > CACHE_IDS) continue;", "if (count > CACHE_IDS + 2) continue;",
     "more ids are kept than there is room for", [B]),
    ("text_encode_special", "size > longest &&", "(!longest || size < longest) &&", "the shortest special token", [B]),
    ("json_quote", "if (*text == '\"' || *text == '\\\\')", "if (*text == '\"')", "a backslash that is not escaped", [B]),
    ("json_fail", "j->name, j->at, expected", "j->name, (size_t)0, expected", "no place in a message", [B]),
    ("json_string", "if (c < 0x20) json_fail", "if (0) json_fail", "a line feed in a string", [B]),
    ("json_skip_at", "json_string(j, NULL, 0);",
     "{ for (j->at++; json_byte(j) >= 0 && json_byte(j) != '\"'; j->at++) if (json_byte(j) == '\\\\') j->at++;"
     " if (json_byte(j) < 0) json_fail(j, \"a quote\"); j->at++; }", "what is skipped may be anything", [F]),
    ("message_end", "*c = c[1] = '?';", ";", "a control character reaches the terminal", [F]),
    ("files_release", "if (files_held && --files_held) return;", "files_held = 0;", "files are renamed one by one", [F, Z]),
    ("tokenizer_save", "file_drop(text_lend(\"%s/tokenizer.json\", folder));", "", "another tokenizer stays in the folder", [B]),
    ("vocabulary_add", "!(again && v->ids[number] == id)", "!again", "an added token with two ids", [B]),
    ("vocabulary_add", "!(again && v->ids[number] == id)", "true", "an added token that the vocabulary has", [B]),
    ("vocabulary_parse", "raw != NONE && added->ids[raw] == id", "false", "added tokens in letters", [B]),
    ("vocabulary_take", "tokens->bytes + tokens->start[i], tokens->start[i + 1] - tokens->start[i]",
     "tokens->bytes + tokens->start[id], tokens->start[id + 1] - tokens->start[id]", "ids in the order of the file", [B]),
    ("vocabulary_take", "if (order[id]) die(\"%s: two tokens have the id %u\", name, (unsigned)id);", "", "an id twice", [B]),
    ("merges_next", "left != NONE && (!r->fixed || r->built[left])", "left != NONE", "a part that nothing has built", [B]),
    ("merges_parse", "if (stop > line && stop[-1] == '\\r') stop--;", "", "line ends of Windows", [B]),
    ("settings_read", "!json_word(&values[i], meant[i]) &&", "false &&", "tokenizers of any kind", [B]),
    ("settings_read", "&& !json_word(&values[i], \"null\")", "", "settings that are null", [B]),
    ("tokenizer_json_parse", "if (!b || json_more(m, ']')) json_fail", "if (!b) json_fail", "a merge of three", [B]),
    ("tokenizer_json_parse", "if (part[2].text) added_parse(&added, &part[2]);", "", "added tokens are left out", [B]),
    ("file_drop", "if (access(path, F_OK) != 0) return;", "", "a folder that is not there is flushed", [R]),
    ("letters_read", "code >= 0xC2", "code >= 0xC0", "overlong encodings", [B]),
    ("info_row", "singles + i < vocab", "256 + i < vocab", "a vocabulary of few bytes has too few merges", [B]),
    ("run_decode", "if (id < UINT64_MAX / 10 - 1) id", "id", "2^64 + 5 is 5", [B]),
    ("raw_bytes", "t->vocab <= 65536 ? 2 : 4", "2", "ids that do not fit", [B]),
    ("run_encode", "(unsigned char)(id >> 8 * k)", "(unsigned char)(id >> 8 * (width - 1 - k))", "big-endian ids", [B]),
    ("reader_next", "memmove(r->text, r->text + r->bytes, r->filled);", "", "the text between two parts", [B]),
    ("pairs_slot", "pairs->items[*slot - 1].left == left && pairs->items[*slot - 1].right == right",
     "pairs->items[*slot - 1].left == left", "any pair of the same left", [B]),
    ("strings_slot", "&& memcmp(s->bytes + s->start[i], data, bytes) == 0", "", "strings of one hash", [B]),
]
FAULTS += TOKENIZER_FAULTS
SOURCES = ["train.c", "tokenizer.c"]


class Place(Exception):
    pass


def code_of(text, name):
    """Start and end of the function or table `name`: from the line at the margin that opens it to the next line that
    begins with a closing brace, or to the end of the line for a constant."""
    for match in re.finditer(r"^(?=[A-Za-z_])[^\n;]*\b%s\b[^\n]*" % re.escape(name), text, re.M):
        line = match.group(0)
        if re.search(r"=\s*[^{;]+;", line):  # a constant
            return match.start(), match.end()
        opening = re.compile(r"\b%s\b\s*(\([^{]*?\)|\[[^;{]*\]\s*=|\s*=)\s*\{" % re.escape(name))
        if opening.search(text, match.start(), match.start() + 1500):
            found = opening.search(text, match.start())
            if text.count("\n\n", match.start(), found.end()):
                continue  # a prototype, and the definition further down
            return match.start(), text.index("\n}", found.end()) + 2
    raise Place("there is no function or table %s" % name)


def fault_source(fault):
    return SOURCES[fault in TOKENIZER_FAULTS]


def fault_plant(text, fault):
    name, old, new = fault[:3]
    start, end = code_of(text, name)
    pattern = re.compile(r"\s+".join(re.escape(word) for word in old.split()))
    found = [m for m in pattern.finditer(text, start, end)]
    if len(found) != 1:
        raise Place("%s holds %d times: %s" % (name, len(found), old))
    return text[:found[0].start()] + new + text[found[0].end():]


running, running_lock = set(), threading.Lock()


def command(arguments, folder, limit, environment):
    """Runs a program to its first line that begins with FAIL, or to its end.  Returns the exit status (None: it took
    too long) and the lines, of which a failed check is the last one."""
    process = subprocess.Popen(arguments, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               stdin=subprocess.DEVNULL, start_new_session=True, errors="replace")
    with running_lock:
        running.add(process)
    late = []

    def stop():
        late.append(True)
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(limit, stop)
    timer.start()
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if line.startswith("FAIL"):
            break
    try:
        os.killpg(process.pid, signal.SIGKILL if lines and lines[-1].startswith("FAIL") else 0)
    except ProcessLookupError:
        pass
    process.stdout.close()
    status = process.wait()
    timer.cancel()
    with running_lock:
        running.discard(process)
    return (None if late else status), lines


def environment_make():
    environment = dict(os.environ, TRAIN="build/train", TRAIN_PLAIN="build/train", OMP_NUM_THREADS="1", LC_ALL="C")
    return environment


def tests_run(folder, tests, compiler):
    """Compiles and runs test programs until one fails.  Returns (program, what failed), or None."""
    environment = environment_make()
    for test in tests:
        programs = ["tests/test_%s.c" % test] + (["train.c"] if test in ("training", "files", "resume") else [])
        for source in programs:
            out = "build/" + os.path.basename(source)[:-2]
            status, lines = command([compiler] + FLAGS + [source, "-o", out, "-lm"], folder, 300, environment)
            if status != 0:
                return "compiler", (lines or ["it failed"])[0]
        status, lines = command(["build/test_" + test], folder, LIMIT, environment)
        last = lines[-1] if lines else ""
        if last.startswith("FAIL"):
            return "test_" + test, re.sub(r"\s+", " ", last[4:]).strip()
        if status is None:
            return "test_" + test, "did not end within %d s" % LIMIT
        if status != 0 or not re.match(r"\d+ passed, 0 failed", last):
            return "test_" + test, "ended with status %s: %s" % (status, last)
    return None


def folder_make(texts):
    """A copy of what the tests need, with these texts in SOURCES."""
    folder = tempfile.mkdtemp(prefix="planted-")
    os.mkdir(os.path.join(folder, "build"))
    for name, text in texts.items():
        with open(os.path.join(folder, name), "w") as file:
            file.write(text)
    os.symlink(os.path.join(ROOT, "tests", "reference"), os.path.join(folder, "reference"))
    os.mkdir(os.path.join(folder, "tests"))
    for name in os.listdir(os.path.join(ROOT, "tests")):
        if name.endswith(".c"):
            shutil.copy(os.path.join(ROOT, "tests", name), os.path.join(folder, "tests"))
    os.symlink(os.path.join(ROOT, "tests", "reference"), os.path.join(folder, "tests", "reference"))
    return folder


def fault_try(texts, fault, tests, compiler):
    if fault:
        name = fault_source(fault)
        texts = {**texts, name: fault_plant(texts[name], fault)}
    folder = folder_make(texts)
    try:
        first = [test for test in fault[4] if test in tests] if fault else []
        return tests_run(folder, first + [test for test in tests if test not in first], compiler)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("words", nargs="*", help="numbers of rows, or words that a row must hold")
    parser.add_argument("--jobs", type=int, default=2, help="how many faults at a time (2)")
    parser.add_argument("--part", metavar="I/N", default="0/1", help="every N-th row, from the I-th on: 0/8 to 7/8")
    parser.add_argument("--list", action="store_true", help="only show the table")
    parser.add_argument("--no-baseline", action="store_true", help="do not run the unchanged program first")
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error("--jobs must be at least 1")
    compiler = os.environ.get("CC", "cc")
    texts = {}
    for name in SOURCES:
        with open(os.path.join(ROOT, name), encoding="utf-8") as file:
            texts[name] = file.read()
    chosen = [(i + 1, fault) for i, fault in enumerate(FAULTS)
              if not options.words or str(i + 1) in options.words or
              any(not word.isdigit() and word in " ".join(fault[:4]) for word in options.words)]
    if not re.fullmatch(r"\d+/[1-9]\d*", options.part):
        parser.error("--part must look like 3/8")
    first, parts = map(int, options.part.split("/"))
    chosen = [row for row in chosen if row[0] % parts == first % parts]
    if not chosen:
        parser.error("no row holds any of these words")
    if options.list:
        for number, fault in chosen:
            print("%3d  %-27s %s\n     %-27s %s\n     %-27s %s" % (number, fault[0], fault[3], "", fault[1], "", fault[2] or "(nothing)"))
        return 0

    start, passed, failed = time.time(), 0, 0
    for number, fault in enumerate(FAULTS, 1):  # all of them, whichever are tried: a row that has come loose catches nothing
        try:
            fault_plant(texts[fault_source(fault)], fault)
        except Place as problem:
            print("FAIL  %d: the table does not fit the code: %s" % (number, problem))
            failed += 1
    if failed:
        return 1
    tests = [test for test in TESTS if os.path.exists(os.path.join(ROOT, "tests", "test_%s.c" % test))]
    pool = concurrent.futures.ThreadPoolExecutor(options.jobs)
    try:
        if not options.no_baseline:
            # Every test program on the unchanged file: a test that fails anyway would catch everything.
            needed = (tests if any(fault[4] != [B] for _, fault in chosen) else []) + \
                     ([B] if any(fault[4] == [B] for _, fault in chosen) else [])
            for test, result in zip(needed, pool.map(lambda t: fault_try(texts, None, [t], compiler), needed)):
                if result:
                    print("FAIL  unchanged, %s: %s" % result)
                    failed += 1
                else:
                    print("ok    unchanged, test_%s: passes" % test)
                    passed += 1
            if failed:
                print("%d passed, %d failed" % (passed, failed))
                return 1

        def attempt(row):
            try:
                return fault_try(texts, row[1], [B] if row[1][4] == [B] else tests, compiler)
            except Place as problem:
                return problem

        futures = [(row, pool.submit(attempt, row)) for row in chosen]
        for (number, fault), future in futures:
            result = future.result()
            row = "%3d  %-27s %-45s" % (number, fault[0], fault[3])
            if isinstance(result, Place):
                print("FAIL  %s the table does not fit the code: %s" % (row, result))
            elif result is None:
                print("FAIL  %s MISSED by all of: %s" % (row, B if fault[4] == [B] else " ".join(tests)))
            elif result[0] == "compiler":
                print("FAIL  %s does not compile: %s" % (row, result[1][:100]))
            else:
                print("ok    %s caught by %s: %s" % (row, result[0], result[1][:110]))
            good = isinstance(result, tuple) and result[0] != "compiler"
            passed, failed = passed + good, failed + (not good)
            sys.stdout.flush()
    except KeyboardInterrupt:
        for _, future in futures:
            future.cancel()
        with running_lock:
            for process in running:
                os.killpg(process.pid, signal.SIGKILL)
        print("interrupted")
        return 1
    print("%d faults in %.0f s" % (len(chosen), time.time() - start))
    print("%d passed, %d failed" % (passed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

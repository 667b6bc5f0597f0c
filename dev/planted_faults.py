#!/usr/bin/env python3
"""Breaks train.c and tokenizer.c on purpose, one change at a time, and shows that the tests notice every one.

    python3 dev/planted_faults.py                 all faults, two at a time; some minutes
    python3 dev/planted_faults.py layernorm 17    those whose row holds a word, or by number
    python3 dev/planted_faults.py --part 3/8      every eighth
    python3 dev/planted_faults.py --list          the table, and whether all of its rows fit the code
    python3 dev/planted_faults.py --jobs 4        more at a time

A test that cannot fail proves nothing.  Each row below is a mistake that a person could make while typing
these files: a sign, a factor, an index, a missing term.  The changed file is compiled with each test program,
in a folder of its own, until a check fails; that check is printed.  A fault that no test notices is MISSED, and
the script ends with status 1.  So it does when a row's old text is not found exactly once: then the table no
longer fits the code.  Before all that, the unchanged program must pass every test.

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
TESTS = ["kernels", "model", "text", "sampling", "seams", "files", "training", "resume"]

# A row: the function (or table) in which the change is made, the old text, the new text, what it breaks, and the
# test programs that are tried first.  Blanks and line breaks in the old text stand for any blanks and line breaks.
K, M, T, S, F, R, Z = "kernels", "model", "text", "sampling", "files", "training", "resume"
E = "seams"
FAULTS = [
    # Random numbers, text, batches
    ("random_bits", "z >> 27", "z >> 26", "the generator is another one", [T]),
    ("random_uniform", ">> 40", ">> 41", "numbers reach 1/2 only", [T]),
    ("random_normal", "-2.0 * log(u)", "-1.0 * log(u)", "the deviation is not 1", [T]),
    ("random_normal", "2 * index + 1", "2 * index", "angle and length are the same draw", [T]),
    ("random_permutation", "round < 4", "round < 1", "the shuffle hardly shuffles", [T]),
    ("random_permutation", "while (i >= N)", "while (i > N)", "the shuffle reaches N", [T]),
    ("corpus_split", "train = n * (1.0 - validation - test);", "train = n * (1.0 - validation);", "the test part has moved", [T]),
    ("corpus_split", "test > 0 ? test_start : all", "test_start", "a test part that nobody asked for", [T]),
    ("window_start", "split->count - T;", "split->count - T + 1;", "the last target is beyond the split", [T]),
    ("window_start", "RANDOM_ORDER), epoch)", "RANDOM_ORDER), 0)", "every epoch has the same order", [T]),
    ("window_start", "window * T +", "window * (T - 1) +", "windows overlap", [T]),
    ("window_start", "% (left + 1)", "% (left + 2)", "the cut moves too far", [T]),
    ("window_start", "step * source->batch + i", "step + i", "steps share their sequences", [T]),
    ("window_start", "% starts", "% (starts + 1)", "a random window reaches beyond the split", [T]),
    ("window_start", "split->rows ? split->row_count :", "split->rows ? split->row_count + 1 :",
     "a row after the last one", [T]),
    ("window_start", "if (split->rows) return window;", "", "rows are drawn as if they were windows", [T]),
    ("split_sequences", "if (split->rows) return split->row_count;", "", "rows are counted as if they were windows", [T]),
    ("window_read", "split->tokens[at + t + 1]", "split->tokens[at + t]", "targets are not shifted", [T]),
    ("sequence_read", "(int32_t)tokens[t + 1]", "(int32_t)tokens[t]", "targets of rows are not shifted", [T]),
    ("sequence_read", "t < length ? t : 0", "t", "after a row comes the next one", [T]),
    ("sequence_read", "t < length && row->start + t + 1 >= row->answer", "row->start + t + 1 >= row->answer", "padding weighs in the loss", [T]),
    ("sequence_read", "row->start + t + 1 >= row->answer", "row->start + t >= row->answer", "the first token of an answer weighs nothing", [T]),
    ("sequence_read", "t < length && row->start + t + 1 >= row->answer", "t < length", "the prompt of a row weighs in the loss", [T]),
    ("corpus_rows", "mark + 1 : line", "mark : line", "a prompt without its last character", [T]),
    ("corpus_rows", "length > T", "length > T + 1", "a row that is too long", [T]),
    ("corpus_rows", "if (!next) next = end;", "if (!next) break;", "the last line is lost", [T]),
    ("corpus_split", "rows ? 0.5 : 1e-6", "1e-6", "999 rows of 1,000", [T]),
    ("corpus_split", "rows[end].start - rows[start].start", "rows[end].start", "tokens of all rows before, too", [T]),
    ("batch_targets", "- row->answer + 1", "- row->start", "prompts are counted", [R, T]),
    ("batch_targets", "window_start(source, step, i)", "window_start(source, 0, i)", "the count of another step", [T]),
    ("batch_read", "mine + first + b", "first + b", "all ranks read the same", [T]),
    ("batch_read", "mine + first + b", "mine + b", "all micro-batches read the same", [T]),
    ("batch_share", "source->batch / source->world", "source->batch", "a rank's share is the whole batch", [T]),
    ("text_append", "if (gap) text->data[text->size++] = '\\n';", "", "two words touch where files meet", [T]),
    ("text_append", "if (nul) die", "if (0) die", "a file that is no text", [T]),
    ("tokens_append", "id >= vocab", "id > vocab", "an id one too large", [T]),
    ("tokens_append", "vocab <= 65536 ? 2 : 4", "vocab < 65536 ? 2 : 4", "the width of raw ids", [T]),
    ("tokens_append", "if (file.size % width)", "if (0)", "half a token at the end", [T]),
    ("tokens_append", "i * width, width", "i * 2, width", "ids of 4 bytes are 2 bytes apart", [T]),
    ("tokens_named", "path + length - 4", "path", "files of tokens are taken for texts", [T]),

    # Tools of the kernels
    ("lanes_total", "lane[i] + lane[i + LANES / 2]", "lane[i] + lane[i]", "half of the lanes are lost", [K]),
    ("dot_product", "for (int j = 0; i < N; i++, j++)", "for (int j = 0; i + 1 < N; i++, j++)",
     "the last element is lost", [K]),
    ("exponential", "1.0f / 24", "1.0f / 25", "a coefficient", [K]),
    ("exponential", "2.12194440e-4f", "2.1e-4f", "the second part of ln 2", [K]),
    ("exponential", "x < -86.0f ? -86.0f", "x < -8.6f ? -8.6f", "small probabilities are not", [K]),

    ("sum_powers", "for (int j = 0; i < N; i++, j++)", "for (int j = 0; i + 1 < N; i++, j++)", "the last element is lost", [K]),
    ("sum_powers", "double distance = x[i] - center;", "double distance = x[i];", "squares for squared distances in the tail", [K]),
    ("sum_powers", "double distance = x[i + j] - center;", "double distance = x[i + j];", "squares for squared distances", [K]),
    ("sum_powers", "distance * distance : distance; } for (int j = 0; i < N", "distance : distance; } for (int j = 0; i < N", "distances that are not squared", [K]),
    ("maximum_of", "lane[j] > maximum ? lane[j] : maximum", "maximum", "the maximum is not that of the lanes", [K]),
    ("maximum_of", "x[i] > lane[j] ? x[i] : lane[j]", "lane[j]", "the last numbers cannot be the maximum", [K]),
    ("exponentials", "for (int j = 0; i < N; i++, j++)", "for (int j = 0; i + 1 < N; i++, j++)", "the last element is lost", [K]),
    ("slice_width", "least(SLICE, divide_up(C, 128) * 16)", "divide_up(C, 1) * 16", "slices wider than their sums", [K]),
    ("column_sums_add", "sums[o0 + o] += ", "sums[o0 + o] = ", "dbias does not accumulate", [K]),
    ("column_sums_add", "sum[o] += y[n * O + o0 + o]", "sum[o] += y[n * O + o]", "the second slice is the first", [K]),

    # Embedding
    ("embedding_forward", "token[c] + position[c]", "token[c] - position[c]", "a sign", [K]),
    ("embedding_forward", "wpe + bt % T * C", "wpe + bt / T * C", "the position is the sequence's number", [K]),
    ("embedding_forward", "(size_t)tokens[bt] * C", "(size_t)tokens[bt % T] * C", "all sequences are the first", [K]),
    ("embedding_backward", "dwte + (size_t)tokens[bt] * C + c0", "dwte + (size_t)tokens[0] * C + c0",
     "one token gets all the gradient", [K]),
    ("embedding_backward", "dwpe + bt % T * C + c0", "dwpe + c0", "one position gets all the gradient", [K]),
    ("embedding_backward", "if (dwpe) scaled_add(dwpe + bt % T * C + c0, 1.0f, dx_bt, n);", "", "positions do not learn", [K]),
    ("embedding_backward", "least(slice, C - c0)", "slice", "the last slice is too wide", [K]),

    # Layer norm
    ("LAYERNORM_EPS", "1e-5f", "1e-3f", "eps", [K]),
    ("layernorm_forward", "variance + LAYERNORM_EPS", "variance", "no eps", [K]),
    ("layernorm_forward", "m, 2, C) / (double)C", "m, 2, C) / (double)(C - 1)",
     "C - 1 for C", [K]),
    ("layernorm_forward", "1.0 / sqrt(variance + LAYERNORM_EPS)",
     "1.0 / (sqrt(variance) + LAYERNORM_EPS)", "eps outside the root", [K]),
    ("layernorm_forward", "(x_n[c] - m) * r * weight[c]", "x_n[c] * r * weight[c]", "the mean is not taken off", [K]),
    ("layernorm_forward", "(x_n[c] - m) * r * weight[c]", "(x_n[c] - m) * r", "no weight", [K]),
    ("layernorm_forward", "y_n[c] += bias[c]", "y_n[c] -= bias[c]", "a sign", [K]),
    ("layernorm_forward", "rstd[n] = r", "rstd[n] = r * r", "what is saved is not what was used", [K]),
    ("layernorm_backward", "dx_n[c] += r", "dx_n[c] = r", "sets where it should add", [K]),
    ("layernorm_backward", "i < count; i++) gz", "i + 1 < count; i++) gz", "the last channel is left out", [K]),
    ("layernorm_backward", "- g_mean - z * gz_mean", "- z * gz_mean", "the second term is missing", [K]),
    ("layernorm_backward", "- g_mean - z * gz_mean", "- g_mean", "the third term is missing", [K]),
    ("layernorm_backward", "- g_mean - z * gz_mean", "- g_mean + z * gz_mean", "a sign", [K]),
    ("layernorm_backward", "(dy_n[c] * weight[c] - g_mean", "(dy_n[c] - g_mean", "no weight", [K]),
    ("layernorm_backward", "r * (dy_n[c] * weight[c]", "(dy_n[c] * weight[c]", "a factor", [K]),
    ("layernorm_backward", "((x_n[c] - mean[n]) * rstd[n])", "(x_n[c] - mean[n])", "dweight without rstd", [K]),
    ("layernorm_backward", "dweight[c0 + c] += ", "dweight[c0 + c] = ", "dweight does not accumulate", [K]),
    ("layernorm_backward", "if (dbias) column_sums_add(dbias, dy, N, C);", "", "no dbias", [K]),
    ("layernorm_backward", "if (!dweight) return;", "if (!dweight || !dbias) return;", "no dweight without dbias", [K]),
    ("layernorm_backward", "((x_n[c0 + i] - m) * r)", "(x_n[c0 + i] - m)", "z without rstd", [K]),

    # Linear layer
    ("matmul_forward", "bias, N, O, C, false", "NULL, N, O, C, false", "no bias", [K]),
    ("matmul_forward", "bias, N, O, C, false", "bias, N, O, C, true", "adds where it should set", [K]),
    ("matmul_backward", "C, O, N, true", "C, O, N, false", "dweight does not accumulate", [K]),
    ("matmul_backward", "(Matrix){weight, 1, O}", "(Matrix){weight, O, 1}", "the weight is not transposed", [K]),
    ("matmul_backward", "(Matrix){x, 1, C}", "(Matrix){x, C, 1}", "the input is not transposed", [K]),
    ("matmul_backward", "if (dbias) column_sums_add(dbias, dy, N, O);", "", "no dbias", [K]),
    ("matmul_backward", "if (dweight) matrix_product(dweight", "if (dweight && dbias) matrix_product(dweight", "no dweight without dbias", [K]),
    ("unembedding_backward", "if (!dwte) return;", "", "a gradient that nobody asked for", [K]),

    # Dropout
    ("dropout_factor", "1.0f / (1.0f - dropout.rate)", "1.0f", "what stays is not scaled", [K]),
    ("dropout_factor", "1.0f / (1.0f - dropout.rate)", "1.0f / dropout.rate", "scaled by the wrong share", [K]),
    ("dropout_factor", ">= dropout.rate", "< dropout.rate", "drops what it should keep", [K]),
    ("dropout_factor", "dropout.first + i", "i", "micro-batches draw the same masks", [K]),
    ("dropout_backward", "dropout_forward(dx, dy, N, dropout)",
     "dropout_forward(dx, dy, N, (Dropout){dropout.rate, dropout.key + 1, dropout.first})",
     "another mask than the forward pass had", [K]),

    # Attention, plain
    ("queries_forward_plain", "score > maximum ? score : maximum", "0.0f", "no maximum", [K]),
    ("queries_forward_plain", "y_t[d] * shrink +", "y_t[d] +", "what was summed does not shrink", [K]),
    ("queries_forward_plain", "1.0f / sqrtf((float)D)", "1.0f / (float)D", "the scale", [K]),
    ("queries_forward_plain", "t * head->T + s", "s", "all queries have one mask", [K]),
    ("keys_seen", "head->causal ? head->cached + t + 1 : head->T", "head->cached + t + 1", "always causal", [K]),
    ("keys_seen", "head->causal ? head->cached + t + 1 : head->T", "head->T", "never causal", [K]),
    ("keys_seen", "head->cached + t + 1", "head->cached + t + 2", "a query sees the next token", [K]),
    ("keys_seen", "head->cached + t + 1", "t + 1", "a query sees the first tokens of the cache only", [M, K]),
    ("head_at", "head.dropout.first += (b * (head.C / head.D) + h) * head.T * head.T;", "", "all heads have one mask", [K]),
    ("head_at", "(b * (head.C / head.D) + h)", "h", "all sequences have one mask", [K]),
    ("head_at", "head.k.at += b * head.length * head.k.row + h * head.D;", "head.k.at += h * head.D;", "all sequences have the keys of the first", [K]),
    ("head_first", "v = {qkv + 2 * C,", "v = {qkv + C,", "keys for values", [K]),
    ("head_backward_plain", "(dp - sum_p_dp)", "dp", "the softmax's second term", [K]),
    ("head_backward_plain", "scaled_add(dk + s * row, ds,", "scaled_add(dk + s * row, -ds,", "a sign", [K]),
    ("head_backward_plain", "scaled_add(dv + s * row, f * p,", "scaled_add(dv + s * row, p,", "dv without dropout", [K]),

    # Attention in blocks
    ("product_serial", "add || k > 0", "add", "only the last piece of k counts", [K]),
    ("product_serial", "k * B.row + n * B.column", "k * B.row", "all groups of panels are the first", [K]),
    ("product_serial", "m * A.row + k * A.column", "m * A.row", "all pieces of A are the first", [K]),
    ("product_serial", "rows, columns, depth", "TILE_ROWS, columns, depth", "the last tile is too high", [K]),
    ("queries_forward", "row[s] *= scale;", ";", "no scale", [K]),
    ("queries_forward", "memset(row + seen, 0, (keys - seen) * sizeof *row);", "", "no mask", [K]),
    ("queries_forward", "maximum_of(row, seen)", "maximum_of(row, 1)", "the maximum is the first score", [K]),
    ("queries_forward", "t * head->T + s", "i * head->T + s", "all blocks have one mask", [K]),
    ("queries_forward", "lse[t] = maximum + logf(sum)", "lse[t] = logf(sum)", "lse without the maximum", [K]),
    ("queries_forward", "(1.0f / sum)", "1.0f", "shares do not add up to 1", [K]),
    ("head_backward", "- sum_p_dp) * scale", "- sum_p_dp)", "no scale", [K]),
    ("head_backward", "- sum_p_dp) * scale", ") * scale", "the softmax's second term", [K]),
    ("head_backward", "memset(p + seen, 0, (keys - seen) * sizeof *p);", "", "no mask for dv", [K]),
    ("head_backward", "memset(ds + seen, 0, (keys - seen) * sizeof *ds);", "", "no mask for dq and dk", [K]),
    ("head_backward", "p[s] = f * share;", "p[s] = share;", "dv without dropout", [K]),
    ("head_backward", "(f * ds[s]", "(ds[s]", "dP without dropout", [K]),
    ("head_backward", "t * T + s", "i * T + s", "all blocks have one mask", [K]),
    ("head_backward", "- lse[t])", "- lse[0])", "one lse for all", [K]),
    ("head_backward", "y + t * C, D)", "y, D)", "the wrong row of y", [K]),
    ("head_backward", "dS, head->k, count, D, keys, true", "dS, head->v, count, D, keys, true", "values for keys", [K]),
    ("heads_forward", "lse + bh * T", "lse + h * T", "lse in the wrong row", [K]),
    ("heads_forward", "least(block, T - t0)", "least(block, T)", "the last block reads on", [K]),
    ("heads_forward", "head.cached = lengths[b]", "head.cached = lengths[0]", "all sequences are as long as the first", [K]),
    ("heads_backward", "memset(dq + i * C, 0, head.D * sizeof *dq);", ";", "adds to what was there", [K]),
    ("heads_backward", "lse + bh * T", "lse", "all heads have the first one's lse", [K]),

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
    ("cross_entropy_forward", "log_sum - (logit[targets[n]] - maximum)", "log_sum - logit[targets[n]]",
     "the maximum is left out", [K]),
    ("cross_entropy_forward", "lse[n] = maximum + log_sum", "lse[n] = log_sum", "lse without the maximum", [K]),
    ("cross_entropy_forward", "targets[n] < 0 ? 0.0f : log_sum", "targets[n] < 0 ? log_sum : log_sum",
     "a loss where none is asked for", [K]),
    ("cross_entropy_backward", "-= dloss", "-= 1.0f", "the target's weight", [K]),
    ("cross_entropy_backward", "-= dloss", "+= dloss", "a sign", [K]),
    ("cross_entropy_backward", "dlogit[v] *= dloss / sum", "dlogit[v] *= 1.0f / sum", "every token weighs 1", [K]),
    ("cross_entropy_backward", "targets[n] < 0 ? 0.0f : dlosses[n]", "dlosses[n]", "a gradient where none is asked for", [K]),

    # The matrix product
    ("matrix_product_plain", "bias ? bias[n] : 0", "0", "no bias", [K]),
    ("matrix_product_plain", "A.at[m * A.row + k * A.column]", "A.at[m * A.row + k]", "A's column stride", [K]),
    ("tile_multiply", "sum[r][j] += a[r] * v[j]", "sum[r][j] = a[r] * v[j]", "only the last k counts", [K]),
    ("tile_multiply", "if (whole && add) start = vector_load(to);", "if (0) start = vector_load(to);", "whole tiles do not add", [K]),
    ("tile_multiply", "(add ? *to : bias ? bias[n] : 0)", "(bias ? bias[n] : 0)", "tiles at the edge do not add", [K]),
    ("tile_multiply", "n < columns; n++", "n + 1 < columns; n++", "the last column is left out", [K]),
    ("tile_multiply", "vector_load(bias + j * WIDTH)", "vector_load(bias)", "the second vector's bias", [K]),
    ("strip_multiply", "panels + n * depth", "panels", "all panels are the first", [K]),
    ("strip_multiply", "bias + n : NULL", "bias : NULL", "all panels have the bias of the first", [K]),
    ("strips_pack", "from + k * step_k + i", "from + k * step_k", "all strips are the first", [K]),
    ("strips_pack", "from[(i + j) * step + k * step_k];", "from[i * step + j + k * step_k];", "the step between rows", [K]),
    ("strips_pack", "to + i * depth + k * wide", "to + i * depth + k", "rows of a strip overlap", [K]),
    ("strips_pack", "from[(whole + j) * step + k * step_k] : 0", "from[(whole + j) * step] : 0", "the last strip has one k only", [K]),
    ("bf16_round", "bits + 0x7fff + (bits >> 16 & 1)", "bits", "bf16: rounded towards 0", [K]),
    ("bf16_round", "bits + 0x7fff + (bits >> 16 & 1)", "bits + 0x8000", "bf16: halfway cases away from 0", [K]),
    ("bf16_round", "x != x ? x : rounded", "rounded", "a NaN may become an infinity", [K]),
    ("precision_apply", "i < N", "i + 1 < N", "the last number is not rounded", [K]),
    ("row_multiply", "b[r * b_stride + n]", "b[n]", "all rows of B are the first", [K]),
    ("row_multiply", "for (; k < depth; k++, a", "for (; k + 1 < depth; k++, a", "the last rows of B are left out", [K]),
    ("product_one_row", "add || k > 0", "add", "only the last piece of k counts", [K]),
    ("product_one_row", "stride = TILE_COLUMNS;", "", "a packed panel is read as if it were not", [K]),
    ("product_one_row", "bias[n0 + n]", "bias[n]", "all shares have the bias of the first", [K]),
    ("matrix_product", "add || k0 > 0", "add", "only the last piece of k counts", [K]),
    ("matrix_product", "(m0 + m) * A.row + k0 * A.column", "(m0 + m) * A.row", "A's depth", [K]),
    ("matrix_product", "(m0 + m) * A.row + k0 * A.column", "m * A.row + k0 * A.column", "all blocks of rows are the first", [K]),
    ("matrix_product", "depth = least(piece, K - k0)", "depth = piece", "the last piece is too deep", [K]),
    ("matrix_product", "result + (m0 + m) * stride + n0", "result + (m0 + m) * stride", "the second group of panels", [K]),
    ("matrix_product", "if (mine != group)", "if (mine == groups)", "all groups of panels are the first", [K]),
    ("matrix_product", "bias ? bias + n0", "bias ? bias", "the second group has the bias of the first", [K]),
    ("matrix_product", "least(TILE_ROWS, rows - m)", "TILE_ROWS", "the last tile is too high", [K]),
    ("matrix_product", "strips * (part + 1) / parts * TILE_ROWS; m", "strips / parts * (part + 1) * TILE_ROWS; m", "rows that no part has", [K]),

    # The model
    ("tensor_describe", "t.decay = t.rank == 2", "t.decay = true", "norms and biases decay", [M]),
    ("tensor_describe", "0.02f / sqrtf(2.0f * (float)config->layers)", "0.02f", "residual projections start too large", [M, R]),
    ("tensor_describe", "t.deviation = 0.02f;", "t.deviation = 0.2f;", "weights start too large", [M, R]),
    ("tensor_describe", "START_ONE ? 1.0f : 0.0f", "START_ONE ? 0.0f : 0.0f", "norms start at 0", [M, R]),
    ("tensor_describe", "&& !config->bias", "", "a model never has biases", [M, F]),
    ("gpt_initialize", "RANDOM_WEIGHTS), i)", "RANDOM_WEIGHTS), 0)", "all tensors start alike", [M, R]),
    ("dropout_site", "a->dropout_first * per_sequence", "a->dropout_first", "micro-batches draw shifted masks", [M, R]),
    ("dropout_site", "random_bits(a->dropout_key, site)", "random_bits(a->dropout_key, 0)", "one mask for all sites", [M]),
    ("dropout_site", "a->dropout_key ? gpt->config.dropout : 0", "gpt->config.dropout", "dropout in evaluation", [M, R]),
    ("weight_of", "tensor_of(gpt, kind, l)", "tensor_of(gpt, kind, 0)", "another layer's weights", [M]),
    ("gradient_of", "tensor_of(gpt, kind, l)", "tensor_of(gpt, kind, 0)", "another layer's gradients", [M]),
    ("gradient_of", "&& !t->frozen", "", "frozen tensors have gradients", [E]),
    ("gradients_clear", "N * (piece + 1) / PIECES", "N / PIECES * (piece + 1)", "some gradients are not cleared", [M]),
    ("gradients_clear", "(end - start) * sizeof *gpt->gradients", "end - start", "a quarter of the gradients is cleared", [M]),
    ("activation_copies", "a->keep == KEEP_ALL ? config->layers : 1", "1", "blocks overwrite each other's activations", [M]),
    ("activation_copies", "a->keep == KEEP_NOTHING ? 1 : config->layers + 1", "1", "blocks overwrite each other's stream", [M]),
    ("linear_forward", "weight_of(gpt, kind + 1, l)", "NULL", "no biases", [E, M]),
    ("linear_backward", "gradient_of(gpt, kind + 1, l)", "NULL", "biases do not learn", [E, M]),
    ("linear_backward", "gradient_of(gpt, kind, l)", "gpt->gradients + tensor_of(gpt, kind, l)->offset",
     "a frozen matrix has a gradient", [E]),
    ("norm_backward", "gradient_of(gpt, kind + 1, l)", "NULL", "norms' biases do not learn", [M]),
    ("gpt_embed", "if (dropout.rate > 0) dropout_forward(x, x, B * T * C, dropout);", "",
     "no dropout of the embedding", [M]),
    ("gpt_attention_forward", "2 + 3 * l", "3 + 3 * l", "two sites share a mask", [M]),
    ("gpt_attention_forward", "!gpt->config.bidirectional", "true", "attention never looks both ways", [E]),
    ("gpt_mlp_forward", "if (after.rate > 0) dropout_forward(a->branch, a->branch, N * C, after);", "",
     "no dropout of the MLP", [M]),
    ("gpt_block_forward", "residual_forward(y->middle, y->x, a->branch, count);",
     "memcpy(y->middle, a->branch, count * sizeof *y->middle);", "attention replaces the stream", [E, M]),
    ("gpt_block_forward", "residual_forward(a->layers[l + 1].x, y->middle, a->branch, count)",
     "residual_forward(a->layers[l + 1].x, y->x, a->branch, count)", "the stream leaves attention out", [E, M]),
    ("gpt_mlp_backward", "norm_backward(gpt, LN2_W, l, a->dx, a->dnorm, y->ln2_mean, y->ln2_rstd, y->middle, N)",
     "norm_backward(gpt, LN2_W, l, a->dx, a->dnorm, y->ln2_mean, y->ln2_rstd, y->x, N)", "the second norm's input", [M]),
    ("gpt_mlp_backward", "gelu_backward(a->dfc, a->dgelu, y->fc, N * 4 * C)",
     "gelu_backward(a->dfc, a->dgelu, a->gelu, N * 4 * C)", "GELU's output for its input", [M]),
    ("gpt_attention_backward", "if (after.rate > 0) dropout_backward(a->dbranch, a->dbranch, N * C, after);", "",
     "backward without dropout", [M]),
    ("gpt_attention_backward", "!gpt->config.bidirectional", "true", "the gradient never looks both ways", [E]),
    ("gpt_block_backward", "residual_backward(a->dx, a->dbranch, a->dx, count); gpt_attention_backward",
     "gpt_attention_backward", "attention's branch has no gradient of its own", [E, M]),
    ("gpt_final_norm_backward", "memset(a->dx, 0, N * C * sizeof *a->dx);", "", "the last step's gradient is added", [E, M]),
    ("gpt_final_norm_backward", "a->layers[gpt->config.layers].x", "a->layers[0].x", "the wrong stream", [E, M]),
    ("gpt_final_norm_backward", "a->dx, dhidden, a->lnf_mean", "a->dx, a->dhidden, a->lnf_mean",
     "the gradient that is passed in is ignored", [E, M]),
    ("gpt_embed_backward", "if (dropout.rate > 0) dropout_backward(a->dx, a->dx, B * T * C, dropout);", "",
     "backward without the embedding's dropout", [M]),
    ("head_piece_backward", "cross_entropy_backward(dlogits, dlosses + n", "cross_entropy_backward(dlogits, dlosses",
     "all pieces have the first weights", [M]),
    ("head_piece_backward", "unembedding_backward(a->dhidden + n * C", "unembedding_backward(a->dhidden",
     "pieces overwrite each other", [M]),
    ("head_piece_forward", "a->logits, targets + n, rows", "a->logits, targets, rows", "all pieces have the first targets", [M]),
    ("gpt_head_backward", "gpt_logits(gpt, a, a->logits, n, head_piece(a, n, N));", "", "logits are not computed again", [E]),
    ("head_piece_forward", "gpt_logits(gpt, a, a->logits, n, rows);", "gpt_logits(gpt, a, a->logits, 0, rows);",
     "all pieces of logits are the first", [M]),
    ("gpt_forward_backward", "gpt_head_forward_backward(gpt, a, targets, dlosses, B * T);", "gpt_head_forward(gpt, a, targets, B * T);",
     "the head does not learn", [M, R]),

    # The optimizer
    ("learning_rate", "(float)(step + 1)", "(float)step", "the first step has the rate 0", [M]),
    ("learning_rate", "* 0.5 * (1.0 + cos(", "* 0.5 * (1.0 - cos(", "the cosine rises", [M]),
    ("learning_rate", "(double)(s->steps - start)", "(double)s->steps", "the schedule does not reach its end", [M]),
    ("learning_rate", "s->steps - s->cooldown", "s->cooldown", "the trapezoid falls too early", [M]),
    ("learning_rate", "if (step >= s->steps) return s->min_lr;", "", "after the end the rate goes on falling", [M]),
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
    ("adamw_update", "pow(beta1, (double)step)", "pow(beta1, (double)step + 1)", "steps count from 2", [K]),
    ("optimizer_step", "t->decay ? o->weight_decay : 0.0f", "o->weight_decay", "everything decays", [M]),
    ("optimizer_step", "norm > o->clip", "norm < o->clip", "clips the small ones", [M]),
    ("optimizer_step", "if (t->frozen) continue;", "", "frozen tensors are updated", [E]),
    ("optimizer_step", "if (!isfinite(norm)) return norm;", "", "a gradient of NaN is used", [R, M]),

    # Checkpoints
    ("safetensors_find", "|| offsets[1] > file->size - file->header", "", "offsets beyond the file", [F]),
    ("safetensors_find", "offsets[0] > offsets[1] ||", "", "offsets turned around", [F]),
    ("tensor_read", "from.bytes != count * dtype_bytes(from.dtype) ||", "", "offsets that hold more or less than the shape", [F]),
    ("json_sizes", "sizes[count % 4]", "sizes[count]", "a list that is longer than its array", [F]),
    ("safetensors_open", "bytes_number(all.data, 8) > all.size - 8", "bytes_number(all.data, 8) > all.size", "a header beyond the file", [F]),
    ("safetensors_write", "ftell(file.stream) - sizeof header;", "ftell(file.stream) - sizeof header - 1;", "the length of the header", [F]),
    ("safetensors_write", "while (ftell(file.stream) % 8) fputc(' ', file.stream);", "", "numbers at any address", [F]),
    ("safetensors_write", "t->count ? arenas[i / rows].numbers + t->offset : zeros", "arenas[i / rows].numbers + t->offset", "biases that the model has not", [F]),
    ("safetensors_find", "if (!entry.text && !strncmp(name, \"transformer.\", 12))", "if (0)", "OpenAI's own names", [F]),
    ("json_member", "if (object.text)", "if (1)", "metadata where there are none", [F]),
    ("metadata_text", "json_member(json_member(file->json, \"__metadata__\"), key)", "json_member(file->json, \"__metadata__\")", "another member is found", [F, Z]),
    ("model_write", "file_remove(path.chars);", "", "weights beside another model's config.json", [F]),
    ("model_write", "\"pt\\\"%s\", settings", "\"pt\\\"%.0s\", settings", "the settings are not in the model", [F]),
    ("numbers_convert", "0x1p112f", "0x1p111f", "half precision read as half of it", [F]),
    ("numbers_convert", "if (f16 && fabsf(to[i]) >= 0x1p16f) to[i] = NAN;", "", "infinity in half precision becomes a number", [F]),
    ("numbers_convert", "(half & 0x8000) << 16 |", "", "half precision without signs", [F]),
    ("tensor_read", "if (from.numbers[i])", "if (0)", "biases that config.json denies are passed over", [F]),
    ("tensor_read", "|| memcmp(from.shape, t->shape, sizeof t->shape) != 0", "", "another shape", [F]),
    ("model_read", "memcmp(head.numbers, wte.numbers, wte.bytes) != 0", "0", "an output head of its own is passed over", [F]),
    ("CONFIG_FIXED", "{\"tie_word_embeddings\", \"true\"}", "{\"tie_word\", \"true\"}", "a missing output head is passed over", [F]),
    ("config_read", "&& !json_word(&value, CONFIG_FIXED[i][1])", "&& 0", "another kind of model", [F]),
    ("model_read", "if (access(path.chars, F_OK) != 0)", "if (0)", "shards are not named as such", [F]),
    ("model_read", "if (config_parameters(&config) > file->size / 2)", "if (0)", "memory for what the file does not hold", [F]),
    ("model_read", "if (i == WPE) t.shape[0] = positions;", "", "a shorter context is taken for another shape", [F]),
    ("model_read", "if (context) config.context = context;", "", "the context stays", [F]),
    ("config_read", "if (c.channels % c.heads)", "if (0)", "heads that do not divide the channels", [F]),
    ("config_read", "*config_size(&c, i) > CONFIG_SIZES[i].limit", "0", "sizes without a limit", [F]),
    ("config_write", "c->bias ? \"true\" : \"false\"", "\"true\"", "a model without biases comes back with them", [F]),

    # Inference
    ("attention_cached", "lengths[bt / T] + bt % T", "bt % T", "the cache overwrites its first keys", [M, K]),
    ("attention_cached", "bt / T * context", "bt / T * T", "the caches of two sequences overlap", [K]),
    ("attention_cached", "*v = k + C;", "*v = k;", "keys for values", [M, K]),
    ("attention_cached", "first.length = context;", "", "sequences read each other's cache", [K]),
    ("attention_cached", "first.v = (Matrix){values, C, 1};", "", "values of the new tokens only", [M, K]),
    ("gpt_decode", "weight_of(gpt, WPE, 0) + lengths[b] * C", "weight_of(gpt, WPE, 0)", "every token is at the first position", [M]),
    ("gpt_decode", "tokens + b + start", "tokens + start", "all sequences read the token of the first", [E]),
    ("gpt_decode", "gpt_logits(gpt, a, logits, rows - 1, B)", "gpt_logits(gpt, a, logits, 0, B)", "logits of the first token", [M]),
    ("gpt_attention_forward", "a->cache->lengths + first", "a->cache->lengths", "the lengths of other sequences", [E]),
    ("gpt_attention_forward", "(l * a->cache->B + first) * context * C", "(l + first) * context * C",
     "layers share their keys", [E]),
    ("logits_likeliest", "logits[v] > logits[best]", "logits[v] >= logits[best]", "of equals the last one", [S]),
    ("token_sample", "/ s->temperature)", "* s->temperature)", "the inverse of the temperature", [S]),
    ("token_sample", "n = s->top_k", "n = s->top_k + 1", "one token too many", [S]),
    ("token_sample", "sum < s->top_p * total", "sum < s->top_p", "top-p forgets what top-k left", [S]),
    ("token_sample", "(kept == 0 || sum < s->top_p * total)", "(kept == 0 || sum + scratch[kept].weight < s->top_p * total)",
     "one token too few", [S]),
    ("token_sample", "u * total < sum", "u < sum", "weights taken for probabilities", [S]),
    ("candidate_compare", "(x->weight < y->weight) - (x->weight > y->weight)", "(x->weight > y->weight) - (x->weight < y->weight)",
     "the least likely first", [S]),
    ("generator_prompt", "g->cache->lengths[b] = 0;", "", "the cache is not read again", [S]),
    ("generator_prompt", "count < context ? count : context", "count", "a long prompt overflows the window", [S]),
    ("generator_prompt", "prompt + count - kept", "prompt", "the beginning of a long prompt", [S]),
    ("generator_prompt", "g->next[b] = -1;", "", "a token drawn before a prompt is read after it", [E]),
    ("generator_read", "window + context - keep", "window", "the wrong half is kept", [S]),
    ("generator_read", "context > 1 ? context / 2 : 0", "context > 1 ? (context + 1) / 2 : 0", "more than half is kept", [S, E]),
    ("generator_read", "window[keep] = g->next[b];", "", "the token drawn last is lost with the window's first half", [S, E]),
    ("generator_read", "window[length] = g->next[b];", "window[length] = g->next[0];", "all windows are of one sequence", [E]),
    ("generator_read", "if (!together) gpt_decode", "if (0) gpt_decode", "sequences wait while another is read again", [E]),
    ("generator_next", "g->draws * B + b", "b", "one draw for all tokens", [S]),
    ("generator_next", "g->draws * B + b", "g->draws", "one draw for all sequences", [E]),
    ("generator_next", "g->log_p[b] = -g->log_p[b]", "g->log_p[b] = g->log_p[b]", "losses for log-probabilities", [E]),
    ("generator_next", "g->logits, g->next, B, V)", "g->logits, g->window, B, V)", "log-probabilities of other tokens", [E]),
    ("text_generate", "|| fflush(out) != 0", "", "text comes late", [S]),

    # The loop
    ("batch_gradient", "1.0f / (float)targets", "1.0f / (float)(targets * B / source->batch)", "micro-batches weigh too much", [R]),
    ("batch_gradient", "sum / (double)targets", "sum / (double)(source->batch * T)", "padding lowers the loss", [R]),
    ("batch_gradient", "RANDOM_DROPOUT), step) | 1", "RANDOM_DROPOUT), step) * 0", "no dropout in training", [R]),
    ("batch_gradient", "before + first);", "before);", "micro-batches share their masks", [R]),
    ("batch_gradient", "before = source->rank * mine", "before = 0", "ranks share their masks", [E]),
    ("batch_gradient", "mine = batch_share(source)", "mine = source->batch", "every rank takes as much as all", [E]),
    ("batch_gradient", "batch_read(source, step, first, B,", "batch_read(source, step, 0, B,", "micro-batches read the same", [R]),
    ("split_evaluate", "if (targets[i] < 0) continue;", "if (targets[i] < 0) { tokens++; continue; }",
     "padding lowers the validation loss", [R]),
    ("split_evaluate", "split->rows ? i : i * T", "i * T", "rows are counted as windows", [R]),
    ("sample_show", "fwrite(text, 1, size, file) == size", "true", "samples.txt holds no samples", [R]),
    ("rows_right", "targets[n + i] < 0 ||", "", "padding must be guessed", [R]),
    ("rows_right", "n < (b + 1) * T; n += rows", "n < b * T + 1; n += rows", "only the first logits are looked at", [R]),
    ("text_generate", "if (line && bytes == 1 && *text == '\\n') break;", "", "a line does not end", [R]),
    ("split_evaluate", "sum / log(2.0)", "sum", "nats for bits", [R]),
    ("evaluation_run", "e.loss < p->best_loss", "e.loss > p->best_loss", "the worst model is the best", [R]),
    ("run_train", "run->progress.bad_evaluations >= o->patience", "run->progress.bad_evaluations > o->patience", "one evaluation too patient", [R]),
    ("run_save", "if (improved)\n        model_write", "if (0)\n        model_write", "the best model is not kept", [R]),
    ("run_train", "gradients_clear(run->gpt);", "", "gradients are not cleared", [Z, R]),
    ("run_train", "if (!isfinite(loss) || !isfinite(norm))", "if (0)", "training goes on with NaN", [R]),
    ("corpus_hash", "random_bits(hash, corpus->tokens[i])", "random_bits(hash, 0)", "all texts of one length are the same", [Z]),
    ("corpus_hash", "return hash >> 11;", "return hash;", "a hash that no double holds", [Z]),
    ("state_write", "{\"m.\", optimizer->m}, {\"v.\", optimizer->v}", "{\"m.\", optimizer->v}, {\"v.\", optimizer->m}",
     "the moments are exchanged", [Z]),
    ("tensor_read", "if (!isfinite(to[i]))", "if (0)", "weights and moments may be infinite", [F, Z]),
    ("state_read", "file->size - file->header != 3 * sizeof(float) * config_parameters(&full)", "0", "a shape that is not the state's", [Z]),
    ("state_number", "x == floor(x)", "1", "half a step", [Z]),
    ("state_read", "tensor_read(file, \"v.\", &gpt->table[i], (*optimizer)->v);", "tensor_read(file, \"m.\", &gpt->table[i], (*optimizer)->v);", "the second moment is the first", [Z]),
    ("state_read", "(*optimizer)->step = (uint64_t)state_number(file, \"step\", true);", "", "the steps start at 0 again", [Z]),
    ("state_open", "state_number(file, \"version\", true) != STATE_VERSION", "0", "any version will do", [Z]),
    ("run_allocate", "if (run->progress.corpus != corpus)", "if (0)", "any text will do", [Z]),
    ("run_open", "if (vocab > config.vocab)", "if (0)", "a vocabulary that does not fit", [Z]),
    ("state_read", "tensor_read(file, \"m.\", &gpt->table[i], (*optimizer)->m);", "", "the first moment starts at 0 again", [Z]),
    ("run_log", "<= run->optimizer->step", "< run->optimizer->step", "a row of the log is lost", [Z]),
    ("run_log", "while ((feed = strchr(end, '\\n')) &&", "while ((feed = strchr(end, '\\n')) || 0 &&",
     "rows of the log stand there twice", [Z]),
    ("main", "options_read(&o, words);", "if (!line.resume) options_read(&o, words);",
     "the saved value wins over the command line", [Z]),
    ("options_complete", "if (!o->resume) {", "if (true) {",
     "a resumed run gets the defaults of a new one", [Z]),
    ("options_read", "if (!saved.resume ||", "if (true ||", "everything may change", [Z]),
    ("options_recall", "option_set(o, row, text->chars, text_of(\"%s: \", file->path).chars);", ";",
     "a resumed run has the default settings", [Z]),
    ("option_set", "*(int *)field = n;", "*(int *)field = row->choices == NO_YES ? 1 : n;", "no is yes", [Z]),
    ("run_save", "file_remove(text_of(\"%s/model.safetensors\", best.chars).chars);", ";", "an older best model is left", [R, Z]),
    ("save_write", "run->settings, folder);", "\"\", folder);", "the model has no settings", [Z]),
    ("run_save", "if (o->keep)", "if (0)", "no save is kept", [Z]),
    ("run_train", "step % o->save_every == 0", "step % o->save_every == 1", "saved at other steps", [Z]),
    ("run_open", "run->schedule = (Schedule){o->schedule, (float)o->lr, (float)o->min_lr,", "run->schedule = (Schedule){0, (float)o->lr, (float)o->min_lr,",
     "every schedule is constant", [R]),
    ("run_open", "run->progress.corpus = corpus_hash(&run->corpus);", "", "no text has a number", [Z]),
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
     "heap->items[heap->count] = (Item){0, 0};", "the entry past the end is the smallest", [B]),
    ("position_unlink", "list->count -= x->times[position->piece];", "", "pairs that are gone count", [B]),
    ("position_unlink", "x->positions[position->list_next].list_previous = position->list_previous;", ";",
     "links back in a list are stale", [B]),
    ("position_link", "list->count += x->times[position->piece];", "list->count += 1;", "a piece counts once", [B]),
    ("position_link", "position->list_previous = list->last;", "position->list_previous = list->first;",
     "a list out of order", [B]),
    ("position_link", "else x->positions[list->last].list_next = at;", "", "a list ends with its first position", [B]),
    ("position_merge", "if (position->previous != NONE) position_link(x, position->previous);", "",
     "the pair before is forgotten", [B]),
    ("position_merge", "position_unlink(x, position->next);", "", "a token that is gone is merged", [B]),
    ("position_merge", "if (position->next != NONE) x->positions[position->next].previous = at;", "",
     "links back are stale", [B]),
    ("merges_learn", "heap_push_pair(&heap, (Pair){left, right}, count);", "", "a pair whose count fell is lost", [B]),
    ("merges_learn", "for (; queued < x.pairs.count; queued++)", "for (; queued + 1 < x.pairs.count; queued++)",
     "the newest pair is queued late", [B]),
    ("classes_unpack", "inside = !inside;", "inside = true;", "characters between two ranges", [B]),
    ("piece_length", "return at == bytes || last == 0 ? at : last;", "return at;", "white space keeps its last space", [B]),
    ("piece_length", "|| (a == 'l' && b == 'l')", "", "'ll is no ending", [B]),
    ("piece_length", "if (next == WHITE) step = 1;", "if (next == WHITE) step = 2;", "a space before white space", [B]),
    ("class_read", "lead == 0xED ? 0x9F :", "", "halves of pairs are characters", [B]),
    ("class_read", "lead == 0xE0 ? 0xA0 :", "", "forms that are too long", [B]),
    ("text_cut", "if (class != WHITE || before + step != at) return at;", "return at;", "a cut within white space", [B]),
    ("piece_encode_plain", "if (rank < best)", "if (rank <= best && rank != NONE)", "the rightmost of equal ranks", [B]),
    ("piece_encode_short", "order[i] = rank == NONE ? NONE : rank << 8 | (uint32_t)i;",
     "order[i] = rank == NONE ? NONE : rank << 8 | (uint32_t)(bytes - 1 - i);", "the rightmost of equal ranks", [B]),
    ("piece_encode_short", "if (rank != NONE) order[at] = rank << 8 | (uint32_t)at;", "",
     "the pair after a merge is forgotten", [B]),
    ("rank_queue", "x->lists[pair].first != at", "x->lists[pair].first == at", "a pair is queued at its second position", [B]),
    ("rank_queue", "(Item){rank, pair}", "(Item){rank / 2, pair}", "merges in nearly the right order", [B]),
    ("piece_encode_long", "rank_queue(t, &x, &heap, x.positions[at].previous);", ";",
     "a pair that begins before the merge is not queued", [B]),
    ("piece_encode_long", "rank_queue(t, &x, &heap, at);", "", "a pair that begins at the merge is not queued", [B]),
    ("piece_encode_long", "uint32_t at = x.lists[heap.items[0].second].first;",
     "uint32_t at = x.lists[heap.items[0].second].last;", "the rightmost of equal ranks", [B]),
    ("piece_encode_long", "bytes > NONE / 4", "bytes > (size_t)NONE * 2", "positions beyond 32 bits", [B]),
    ("cache_key", "((unsigned char *)key)[23] = (unsigned char)bytes;", "", "pieces that differ in NULs are one", [B]),
    ("cache_key", "memcpy(keep, mask + 24 - bytes, 24);", "memcpy(keep, mask + 25 - bytes, 24);",
     "the last byte of a piece does not count", [B]),
    ("text_encode", "if (count > CACHE_IDS) continue;", "if (count > CACHE_IDS + 2) continue;",
     "more ids are kept than fit", [B]),
    ("text_encode_special", "size > longest &&", "(!longest || size < longest) &&", "the shortest special token", [B]),
    ("json_quote", "if (*text == '\"' || *text == '\\\\')", "if (*text == '\"')", "a backslash that is not escaped", [B]),
    ("json_fail", "j->name, j->at, expected", "j->name, (size_t)0, expected", "no position in a message", [B]),
    ("json_string", "if (c < 0x20) json_fail", "if (0) json_fail", "a line feed in a string", [B]),
    ("json_skip_at", "json_string(j, NULL, 0);",
     "{ for (j->at++; json_byte(j) >= 0 && json_byte(j) != '\"'; j->at++) if (json_byte(j) == '\\\\') j->at++;"
     " if (json_byte(j) < 0) json_fail(j, \"a quote\"); j->at++; }", "what is skipped may be anything", [F]),
    ("message_end", "*c = c[1] = '?';", ";", "a control character reaches the terminal", [F]),
    ("tokenizer_save", "file_finish(&vocab);\n    file_finish(&merges);\n    file_rename(&vocab);", "file_finish(&vocab);\n    file_rename(&vocab);\n    file_finish(&merges);", "half of a pair is replaced", [F]),
    ("message_end", "if (unfinished[i]) unlink(unfinished[i]);", "", "half a file stays", [F]),
    ("tokenizer_save", "file_remove(text_of(\"%s/tokenizer.json\", folder).chars);", "", "another tokenizer stays in the folder", [B]),
    ("file_remove", "else if (errno != ENOENT)", "else", "a file that is not there is an error", [R]),
    ("token_list_add", "!(number < list->added && list->ids[number] == id)", "!(number < list->added)",
     "an added token with two ids", [B]),
    ("token_list_add", "number < before && !(number < list->added && list->ids[number] == id)", "false", "a token twice", [B]),
    ("vocabulary_parse", "if (same < list->added && list->ids[same] == id) continue;", "", "added tokens in symbols", [B]),
    ("tokens_take", "&list->tokens, order[id] - 1, &bytes", "&list->tokens, id, &bytes", "ids in the order of the file", [B]),
    ("tokens_take", "if (order[id]) die(\"%s: two tokens have the id %u\", name, (unsigned)id);", "", "an id twice", [B]),
    ("merges_parse", "left != NONE && built[left]", "left != NONE", "a part that nothing has built", [B]),
    ("merges_parse", "if (file && stop > line && stop[-1] == '\\r') stop--;", "", "line ends of Windows", [B]),
    ("merges_parse", "if (result == NONE && !grow)", "if (false)", "a merge may add to a vocabulary that is given", [B]),
    ("merges_collect", "if (memchr(line, '\\n', size)) json_fail(j, \"no line feed in a merge\");", "",
     "two merges in one string", [B]),
    ("settings_read", "!json_word(&values[i], expected[i]) &&", "false &&", "tokenizers of any kind", [B]),
    ("settings_read", "&& !json_word(&values[i], \"null\")", "", "settings that are null", [B]),
    ("merges_collect", "if (!right || json_more(j, ']')) json_fail", "if (!right) json_fail", "a merge of three", [B]),
    ("tokenizer_json_parse", "if (part[2].text) added_parse(&list, &part[2]);", "", "added tokens are left out", [B]),
    ("symbols_read", "code >= 0xC2", "code >= 0xC0", "overlong encodings", [B]),
    ("run_decode", "if (id < UINT64_MAX / 10 - 1) id", "id", "2^64 + 5 is 5", [B]),
    ("run_encode", "t->vocab <= 65536 ? 2 : 4", "2", "ids that do not fit", [B]),
    ("run_encode", "memcpy(end, &id, width);", "memcpy(end, (char *)&id + 4 - width, width);", "the high bytes of ids", [B]),
    ("reader_next", "memmove(r->text, r->text + r->bytes, r->filled);", "", "the text between two parts", [B]),
    ("pairs_slot", "pairs->items[*slot - 1].left == left && pairs->items[*slot - 1].right == right",
     "pairs->items[*slot - 1].left == left", "any pair of the same left", [B]),
    ("strings_slot", "&& memcmp(s->bytes + s->start[i], data, bytes) == 0", "", "strings of one hash", [B]),
]
FAULTS += TOKENIZER_FAULTS
SOURCES = ["train.c", "tokenizer.c"]


class Misfit(Exception):
    """A row whose old text is not in the code."""


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
    raise Misfit("there is no function or table %s" % name)


def fault_source(fault):
    return SOURCES[fault in TOKENIZER_FAULTS]


def fault_plant(text, fault):
    name, old, new = fault[:3]
    start, end = code_of(text, name)
    pattern = re.compile(r"\s+".join(re.escape(word) for word in old.split()))
    found = [m for m in pattern.finditer(text, start, end)]
    if len(found) != 1:
        raise Misfit("%s holds %d times: %s" % (name, len(found), old))
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
    environment = dict(os.environ, TRAIN="build/train", TRAIN_PLAIN="build/train", TRAIN_SERIAL="build/train", OMP_NUM_THREADS="1", LC_ALL="C")
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

    start, passed, failed = time.time(), 0, 0
    for number, fault in enumerate(FAULTS, 1):  # all of them, whichever are tried: a row that has come loose catches nothing
        try:
            fault_plant(texts[fault_source(fault)], fault)
        except Misfit as problem:
            print("FAIL  %d: the table does not fit the code: %s" % (number, problem))
            failed += 1
    if failed or options.list:
        return failed > 0
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
            except Misfit as problem:
                return problem

        futures = [(row, pool.submit(attempt, row)) for row in chosen]
        for (number, fault), future in futures:
            result = future.result()
            row = "%3d  %-27s %-45s" % (number, fault[0], fault[3])
            if isinstance(result, Misfit):
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

#!/bin/sh
# What can be found without a test's result: compilers and checkers read the source, valgrind and the thread sanitizer
# watch a short run.
#
#     sh dev/static.sh
#
# On Debian: gcc clang clang-tidy cppcheck valgrind libomp-dev.  A row whose tool is not there says "skipped".  What is
# reported and meant so stands with its reason in .clang-tidy and in dev/cppcheck.txt.  Exit status 1 if any row fails.
set -u
cd "$(dirname "$0")/.." || exit 1
export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive LC_ALL=C
out=build/static
rm -rf $out
mkdir -p $out
passed=0 failed=0 skipped=0
FLAGS='-std=gnu11 -fno-math-errno'
RUN='--data LICENSE --layers 2 --heads 2 --channels 32 --context 16 --batch 4 --dropout 0.1 --sample 10'

has() { command -v "$1" > /dev/null 2>&1; }

row() { # STATUS NAME: of what was just tried; its log is shown if it failed
    if [ "$1" -eq 0 ]; then
        passed=$((passed + 1))
        echo "ok    $2"
    else
        failed=$((failed + 1))
        echo "FAIL  $2"
        head -n 40 $out/log | cut -c 1-160
    fi
}

skip() {
    skipped=$((skipped + 1))
    echo "skip  $1: no $2"
}

for source in train.c tokenizer.c; do
    if has gcc; then # no output at all
        gcc $FLAGS -O1 -fanalyzer -Wall -Wextra -c $source -o $out/object > $out/log 2>&1 && [ ! -s $out/log ]
        row $? "gcc -fanalyzer $source"
    else skip "gcc -fanalyzer $source" gcc
    fi
    if has clang-tidy; then
        clang-tidy --quiet $source -- $FLAGS -fopenmp > $out/log 2> /dev/null
        row $? "clang-tidy $source"
    else skip "clang-tidy $source" clang-tidy
    fi
    if has cppcheck; then # it does not know the compiler's own macros
        cppcheck --std=c11 --library=posix --enable=warning,portability,performance --quiet --error-exitcode=1 \
            --suppressions-list=dev/cppcheck.txt -D__GNUC__=12 -D__SIZEOF_POINTER__=8 -D__BYTE_ORDER__=1234 \
            -D__ORDER_LITTLE_ENDIAN__=1234 -D__AVX2__ -D__FMA__ $source > $out/log 2>&1
        row $? "cppcheck $source"
    else skip "cppcheck $source" cppcheck
    fi
done

# watched NAME PROGRAM...: trains, goes on, writes, evaluates and encodes, under a checker.
watched() {
    name=$1
    shift
    rm -rf $out/model
    for command in "train $RUN --steps 4 --eval-every 2 --vocab 300 --out $out/model" \
        "train --resume $out/model --steps 6 --out $out/model" "generate --model $out/model --tokens 30 --prompt The" \
        "eval --model $out/model --data LICENSE --split train"; do
        "$@" $command > $out/log 2>&1 || { row 1 "$name: $command"; return; }
    done
    ! grep -q -e 'WARNING: ThreadSanitizer' -e 'definitely lost: [1-9]' $out/log
    row $? "$name: a short training, resumed, generate and eval"
}

if has valgrind && has gcc; then
    gcc $FLAGS -O1 -g train.c -o $out/train -lm && gcc $FLAGS -O1 -g tokenizer.c -o $out/tokenizer
    watched valgrind valgrind -q --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite,indirect $out/train
    valgrind -q --error-exitcode=9 --leak-check=full $out/tokenizer encode --model $out/model LICENSE > $out/log 2>&1
    row $? 'valgrind: tokenizer encode'
    # It must be able to fail: a read of memory that nobody has written.
    echo '#include <stdio.h>
#include <stdlib.h>
int main(void) { char *p = malloc(9); if (p[3] > 7) puts("seven"); free(p); return 0; }' > $out/unset.c
    gcc -O0 -g $out/unset.c -o $out/unset && ! valgrind -q --error-exitcode=9 $out/unset > $out/log 2>&1
    row $? 'valgrind notices a read of memory that was not set'
else skip valgrind 'valgrind or gcc'
fi

# The thread sanitizer has to know where OpenMP's threads wait for each other.  gcc's library does not tell it; clang's
# does, through a tool that comes with it (libarcher).
archer=$(ls /usr/lib/llvm-*/lib/libarcher.so 2> /dev/null | tail -n 1)
if has clang && [ -n "$archer" ]; then
    export OMP_TOOL_LIBRARIES=$archer TSAN_OPTIONS='ignore_noninstrumented_modules=1 exitcode=9'
    clang $FLAGS -O1 -g -fopenmp -fsanitize=thread train.c -o $out/train-threads -lm
    RUN="$RUN --channels 64 --batch 16" # large enough for two threads
    watched 'thread sanitizer' $out/train-threads
    echo '#include <stdio.h>
int main(void) { int sum = 0;
    #pragma omp parallel for
    for (int i = 0; i < 1000; i++) sum += i;
    printf("%d", sum); return 0; }' > $out/race.c
    clang -O1 -g -fopenmp -fsanitize=thread $out/race.c -o $out/race && ! $out/race > $out/log 2>&1
    row $? 'thread sanitizer notices two threads that add to one sum'
else skip 'thread sanitizer' "clang's libarcher"
fi

if [ $skipped -gt 0 ]; then echo "$passed passed, $failed failed, $skipped skipped"; else echo "$passed passed, $failed failed"; fi
[ $failed -eq 0 ]

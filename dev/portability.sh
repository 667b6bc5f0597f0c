#!/bin/sh
# Builds and tests the programs with every compiler, library and machine that is at hand, and prints a table:
#
#     sh dev/portability.sh              all rows
#     sh dev/portability.sh arm musl     those whose name holds one of these words
#
# On Debian the rows need: gcc clang libomp-dev musl-tools gcc-aarch64-linux-gnu qemu-user gcc-mingw-w64-x86-64
# and, to run what was built for Windows, wine64.  A row whose tools are not there says "skipped", which is not
# "passed".  Exit status 1 if any row failed.
#
# A row compiles both programs and the tests without a warning, runs the tests, and trains a model for 60 steps.  Its
# loss is that of the first row but for rounding: compilers and machines may order additions otherwise.
set -u
cd "$(dirname "$0")/.." || exit 1
export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=1000 LC_ALL=C
out=build/portability
rm -rf $out
mkdir -p $out
passed=0 failed=0 skipped=0 expected=''
STRICT='-std=gnu11 -fno-math-errno -Wall -Wextra -Werror'
FEW='kernels text sampling files tokenizer'
chosen=$*

wanted() { # NAME: is this row asked for?
    [ -z "$chosen" ] && return 0
    for word in $chosen; do case $1 in *"$word"*) return 0 ;; esac; done
    return 1
}

line() { printf '%-34s %-10s %-22s %-10s %s\n' "$@"; }

skip() { # NAME WHAT
    skipped=$((skipped + 1))
    line "$1" "skipped: no $2" '' '' ''
}

bad() { # NAME COLUMNS...: with the end of the log
    failed=$((failed + 1))
    line "$@"
    tail -n 5 "$log" | cut -c 1-150 | sed 's/^/    /'
}

has() { command -v "$1" > /dev/null 2>&1; }

# Does this compiler build and, with the runner, run a program with OpenMP?
openmp() {
    echo '#include <omp.h>
int main(void) { return omp_get_max_threads() < 1; }' > $out/omp.c
    $1 -fopenmp $out/omp.c -o $out/omp > /dev/null 2>&1 && $2 $out/omp
}

# row NAME COMPILER FLAGS RUNNER TESTS
row() {
    name=$1 compiler=$2 flags=$3 runner=$4 tests=$5
    wanted "$name" || return
    dir=$out/$(echo "$name" | tr -c 'a-zA-Z0-9\n-' _)
    log=$dir/log
    mkdir -p "$dir"
    : > "$log"
    begin=$(date +%s)
    has "$compiler" || { skip "$name" "$compiler"; return; }
    [ -z "$runner" ] || has "${runner%% *}" || { skip "$name" "${runner%% *}"; return; }
    case $flags in *-fopenmp*) openmp "$compiler" "$runner" || { skip "$name" "OpenMP for $compiler"; return; } ;; esac
    for source in train.c tokenizer.c $(for test in $tests; do echo "tests/test_$test.c"; done); do
        program=$dir/$(basename "$source" .c)
        $compiler $STRICT $flags "$source" -o "$program" -lm >> "$log" 2>&1 &
    done
    wait
    for source in train tokenizer $(for test in $tests; do echo "test_$test"; done); do
        [ -x "$dir/$source" ] || { bad "$name" 'no build' "$source" '' ''; return; }
    done
    # The tests start the program by its path; on a foreign machine that is a script.
    train=$dir/train
    if [ -n "$runner" ]; then
        printf '#!/bin/sh\nexec %s %s "$@"\n' "$runner" "$dir/train" > "$dir/train.sh"
        chmod +x "$dir/train.sh"
        train=$dir/train.sh
    fi
    good=0 wrong=0
    for test in $tests; do
        TRAIN=$train $runner "$dir/test_$test" > "$dir/$test.log" 2>&1
        set -- $(tail -n 1 "$dir/$test.log" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed.*/\1 \2/p')
        if [ $# -eq 2 ]; then good=$((good + $1)) wrong=$((wrong + $2)); else wrong=$((wrong + 1)); fi
        grep '^FAIL' "$dir/$test.log" >> "$log" || [ $# -eq 2 ] || tail -n 2 "$dir/$test.log" >> "$log"
    done
    train_check "$name" "$train" "$good passed, $wrong failed"
}

# train_check NAME PROGRAM TESTS: the row's last column, and the row itself.
train_check() {
    wrong=${wrong:-0}
    $2 --data LICENSE --layers 2 --heads 2 --channels 32 --context 16 --batch 8 --steps 60 --lr 1e-2 --sample 0 \
        --vocab 256 --eval-every 60 --overwrite --out "$dir/model" >> "$log" 2>&1 &&
        $2 generate --model "$dir/model" --tokens 20 --prompt Permission >> "$log" 2>&1 ||
        { bad "$1" 'built' "$3" 'no run' ''; return; }
    loss=$(tail -n 1 "$dir/model/log.csv" | cut -d , -f 4)
    expected=${expected:-$loss}
    seconds="$(($(date +%s) - begin)) s"
    if [ "$wrong" -eq 0 ] && awk "BEGIN { d = $loss - $expected; exit !(d < 0.01 && d > -0.01 && $loss < 4) }"; then
        passed=$((passed + 1))
        line "$1" built "$3" "$(printf %.6f "$loss")" "$seconds"
    else bad "$1" built "$3" "$(printf %.6f "$loss")" "$seconds"
    fi
}

# refused NAME COMPILER FLAGS WORDS: it must not compile, and say why.
refused() {
    wanted "$1" || return
    log=$out/refused.log
    has "${2%% *}" || { skip "$1" "${2%% *}"; return; }
    if $2 $3 -fsyntax-only train.c > "$log" 2>&1 || ! grep -q "error.*$4" "$log"; then
        bad "$1" 'FAILED' 'is not refused' '' ''
    else
        passed=$((passed + 1))
        line "$1" refused "\"$4\"" '' ''
    fi
}

windows() {
    name="Windows (MinGW)" compiler=x86_64-w64-mingw32-gcc dir=$out/windows wrong=0
    wanted "$name" || return
    log=$dir/log
    mkdir -p "$dir"
    begin=$(date +%s)
    has $compiler || { skip "$name" $compiler; return; }
    for program in train tokenizer; do
        $compiler $STRICT -O3 -Wno-format -Idev/windows -include dev/windows/posix.h $program.c -o "$dir/$program.exe" \
            -static -lpthread > "$log" 2>&1 || { bad "$name" 'no build' "$program" '' ''; return; }
    done
    wine=$(command -v wine64 || command -v wine || ls /usr/lib/wine/wine64 2> /dev/null)
    if [ -z "$wine" ]; then
        passed=$((passed + 1))
        line "$name" built 'not run: no wine' '' "$(($(date +%s) - begin)) s"
        return
    fi
    printf '#!/bin/sh\nWINEDEBUG=-all WINEPREFIX=%s exec %s %s "$@"\n' "$PWD/$dir/wine" "$wine" "$dir/train.exe" > "$dir/train.sh"
    chmod +x "$dir/train.sh"
    train_check "$name" "$dir/train.sh" 'under wine: training'
}

ALL="kernels model text sampling files tokenizer"
line 'compiler, library, machine' build tests 'loss' time
row 'gcc' gcc '-O3 -march=native -fopenmp' '' "$ALL"
row 'gcc, no OpenMP' gcc '-O3 -march=native' '' "$ALL"
row 'clang' clang '-O3 -march=native -fopenmp' '' "$ALL"
row 'clang, no OpenMP' clang '-O3 -march=native' '' "$ALL"
row 'gcc -O0' gcc '-O0 -fopenmp' '' "$FEW"
row 'gcc -O2, x86-64' gcc '-O2 -march=x86-64 -fopenmp' '' "$ALL"
row 'gcc -O3, x86-64-v3' gcc '-O3 -march=x86-64-v3 -fopenmp' '' "$ALL"
row 'clang -O2, x86-64-v3' clang '-O2 -march=x86-64-v3 -fopenmp' '' "$ALL"
row 'musl' musl-gcc '-O2 -march=native' '' "$ALL"
row '64-bit Arm (qemu)' aarch64-linux-gnu-gcc '-O2 -fopenmp' 'qemu-aarch64 -L /usr/aarch64-linux-gnu' "$FEW"
windows
refused '32-bit' gcc -m32 'a 64-bit system'
refused 'big-endian (s390x)' clang --target=s390x-linux-gnu 'a little-endian system'

if [ $skipped -gt 0 ]; then echo "$passed passed, $failed failed, $skipped skipped"; else echo "$passed passed, $failed failed"; fi
[ $failed -eq 0 ]

#!/bin/sh
# Repeats a published run, with several seeds, and prints its figure beside the published one.
#
#     sh dev/runs/reproduce.sh names               or: make reproduce RUN=names
#     SEEDS="1 2" sh dev/runs/reproduce.sh names    other seeds than 1, 2 and 3 (long runs: than 1)
#     RESUME=1 sh dev/runs/reproduce.sh baby        goes on with runs that were stopped; without it they are
#                                                   begun anew and overwritten
#     PYTORCH=1 sh dev/runs/reproduce.sh names      the same settings in PyTorch, with $PYTHON
#     ONLY=summary sh dev/runs/reproduce.sh names   only the table, from the runs that are there
#     MIRROR=FOLDER ...                             data from a folder instead of the network
#     ANY_EDITION=1 ...                             takes a book as it is on the network now
#     THREADS=1 ...                                 one thread; otherwise one per core
#
# PYTORCH, RESUME and ANY_EDITION count with any value; RESUME means nothing to PyTorch.  Results go to
# out/NAME-SEED and out/NAME-pytorch-SEED.
#
# dev/runs/NAME.sh holds the settings of a run: where they come from, what was published, how
# its text is made, and the options.  `settings` are those of both programs, `ours` and `pytorch`
# those of one; pytorch=none: PyTorch cannot repeat it here.
set -eu
[ ! -d "${MIRROR-}" ] || MIRROR=$(cd "$MIRROR" && pwd)
cd "$(dirname "$0")/../.."
name=${1-}
if [ $# -ne 1 ] || [ ! -f "dev/runs/$name.sh" ] || [ "$name" = reproduce ]; then
    runs=$(cd dev/runs && ls ./*.sh | sed 's/.*\///; s/\.sh//; /reproduce/d' | paste -s -d '|' -)
    echo "usage: reproduce.sh $runs" >&2
    exit 2
fi
fetch() { sh dev/data/fetch.sh "$@" ${MIRROR:+--mirror "$MIRROR"} ${ANY_EDITION:+--any-edition}; }
make_text() { "$python" dev/data/make.py "$@"; }
fail() {
    echo "reproduce.sh: $*" >&2
    exit 1
}
python=${PYTHON:-python3} seeds='1 2 3' ours='' pytorch=''
. "dev/runs/$name.sh"
seeds=${SEEDS:-$seeds}
cores=$(nproc 2> /dev/null || getconf _NPROCESSORS_ONLN)
[ -z "${PYTORCH-}" ] || [ "$pytorch" != none ] || fail "$name has no counterpart in PyTorch here"

# A column of the log.csv files that are named: its lowest or last value in each, or, where a
# number is given, the first step at which it is that high; and over several files, the mean and
# the standard deviation.  Accuracies are shares of 1.
summary() { # title, column, which, files
    title=$1 column=$2 which=$3
    shift 3
    awk -F, -v title="$title" -v column="$column" -v which="$which" '
        FNR == 1 {
            if (file++) end()
            for (at = NF; at && $at != column; at--);
            value = ""
            next
        }
        !at || $at == "" { next }
        which == "last" || which == "lowest" && (value == "" || $at + 0 < value) { value = $at + 0; step = $1 }
        which + 0 && value == "" && $at >= which { value = $1 }
        function end() {
            if (value == "") { shown = shown "  never"; return }
            shown = shown (which + 0 ? "  " value : sprintf("  %.4f (step %d)", value, step))
            n++; sum += value; square += value * value
        }
        END {
            if (file) end()
            printf "%-10s %s\n", title, which + 0 ? column " reaches " which " at step" shown : which " " column shown
            if (n < 2) exit
            d = (square - sum * sum / n) / (n - 1)
            printf "%-10s mean %.4f, standard deviation %.4f\n", "", sum / n, (d > 0 ? sqrt(d) : 0)
        }' "$@"
}

if [ "${ONLY-}" != summary ]; then
    prepare
    [ -n "${PYTORCH-}" ] || make -s build/train
    for seed in $seeds; do
        out=out/$name-$seed
        if [ -n "${PYTORCH-}" ]; then
            "$python" dev/reference/train_pytorch.py $settings $pytorch --seeds "$seed" \
                --threads "${THREADS:-$cores}" --out "out/$name-pytorch-"
        elif [ -n "${RESUME-}" ] && [ -f "$out/state.safetensors" ]; then
            ./build/train --resume "$out" ${THREADS:+--threads "$THREADS"}
        else
            ./build/train $settings $ours --seed "$seed" ${THREADS:+--threads "$THREADS"} --out "$out" --overwrite
        fi
    done
fi
echo
echo "$name: $source"
found=0
for kind in '' pytorch-; do
    set --
    for seed in $seeds; do
        [ ! -f "out/$name-$kind$seed/log.csv" ] || set -- "$@" "out/$name-$kind$seed/log.csv"
    done
    title=${kind:+PyTorch} found=$((found + $#))
    for figure in $figures; do
        [ $# -eq 0 ] || summary "${title:-train.c}" "${figure%:*}" "${figure#*:}" "$@"
    done
done
echo "published  $published"
[ "$found" -gt 0 ] || fail "there is no log.csv in out/$name-SEED for the seeds $seeds"

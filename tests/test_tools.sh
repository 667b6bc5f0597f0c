# The scripts that fetch texts and repeat known runs, dev/data/fetch.sh and dev/runs/:  sh tests/test_tools.sh
#
# They run in a scratch project: copies of the scripts, with other files and so other sums and addresses in
# fetch.sh's table.  Nothing here touches the network or data/ and out/.  The program is $TRAIN, build/train unless
# it is set.  Runs from the top folder of the project.  tests/test_tools.py has the tools in Python.

TRAIN=${TRAIN:-build/train}
OMP_NUM_THREADS=1
LC_ALL=C
export OMP_NUM_THREADS LC_ALL
unset MAKEFLAGS MFLAGS MAKELEVEL SEEDS PYTORCH ONLY THREADS RESUME ANY_EDITION
if [ ! -x "$TRAIN" ]; then echo "FAIL  $TRAIN is not there; build it first, or set TRAIN"; echo "0 passed, 1 failed"; exit 1; fi
case $TRAIN in /*) ;; *) TRAIN=$PWD/$TRAIN ;; esac
texts=${MIRROR:-../shared/data} # a folder with the true files, if there is one
[ ! -d "$texts" ] || texts=$(cd "$texts" && pwd)
unset MIRROR
mkdir -p build
W=$(mktemp -d "$PWD/build/test_tools.XXXXXX") || exit 1
trap 'rm -rf "$W"' EXIT
trap 'exit 1' INT TERM

passed=0 failed=0 skipped=0
row() { # CONDITION'S STATUS, NAME: for a condition that was just tested
    if [ "$1" -eq 0 ]; then passed=$((passed + 1)); printf 'ok    %s\n' "$2"
    else failed=$((failed + 1)); printf 'FAIL  %s\n' "$2"; fi
}
skip() { skipped=$((skipped + 1)); printf 'skip  %s\n' "$*"; }

# Runs a command in the scratch project; leaves $status, $W/stdout and $W/stderr.  What hangs is ended.
P=$W/project
limit=$(command -v timeout) && limit="$limit 60"
run() { (cd "$P" && exec $limit "$@") > "$W/stdout" 2> "$W/stderr" < /dev/null; status=$?; }

# refused NAME STATUS WORDS COMMAND...: it must fail with that status and one line that holds the words.  While curl
# is called, which shows its progress, other lines may precede it.
progress=false
refused() {
    name=$1 want=$2 words=$3
    shift 3
    run "$@"
    [ "$status" -eq "$want" ] && [ "$(grep -c -e '^usage: ' -e '^[a-z]*\.sh: ' "$W/stderr")" -eq 1 ] && { $progress || [ "$(wc -l < "$W/stderr")" -eq 1 ]; } &&
        tail -n 1 "$W/stderr" | grep -e '^usage: ' -e '^[a-z]*\.sh: ' | grep -q -F -e "$words"
    row $? "$name: exit $status: $(tail -n 1 "$W/stderr" | cut -c 1-110)"
}
sum_of() { (sha256sum "$1" 2> /dev/null || shasum -a 256 "$1") | cut -d ' ' -f 1; }
listing() { (cd "$P" && find "$@" -type f 2> /dev/null | sort | tr '\n' ' '); }

# --- The frozen text: what the book's figures were measured on must not change by a byte ----------------------------
[ "$(sum_of dev/data/prose.txt)" = 9230eed1c00c30a8656e60c42c5f5be2768e20de7db78dd5abc950d6d02a82e0 ]
row $? "dev/data/prose.txt is as it was when figures were measured on it"

# --- The scratch project -----------------------------------------------------------------------------------
mkdir -p "$P/dev/data" "$P/dev/reference" "$P/build" "$W/net/gpt2" "$W/right/gpt2"
cp -r dev/runs "$P/dev/"
echo 'build/train:' > "$P/Makefile"
rows=$(awk 'NF == 4 && length($3) == 64' dev/data/fetch.sh)
names=$(printf '%s\n' "$rows" | awk '{ print $2 }')
for name in $names; do
    awk -v name="$name" 'BEGIN { for (i = 1; i < 400; i++) print name ", line " i * i }' > "$W/right/$name"
    cp "$W/right/$name" "$W/net/$name"
done
for name in $(printf '%s\n' "$rows" | awk '$1 == "books" { print $2 }'); do # as Project Gutenberg sends it
    printf 'First line.\n\n\nA last one, of %s\n' "$name" > "$W/right/$name"
    start='*** START OF THE PROJECT GUTENBERG EBOOK ***'
    [ "$name" != sherlock-holmes.txt ] || # a long title goes on in the next line
        start=$(printf '*** START OF THE PROJECT GUTENBERG EBOOK THE ADVENTURES OF SHERLOCK\nHOLMES ***')
    {
        printf 'A license.\n\n%s\n\n\n' "$start"
        cat "$W/right/$name"
        printf '\n\n*** END OF THE PROJECT GUTENBERG EBOOK ***\nThe license again.\n'
    } | sed "s/\$/$(printf '\r')/" > "$W/net/$name"
done
for name in $names; do echo "$name $(sum_of "$W/right/$name")"; done > "$W/sums"
awk -v sums="$W/sums" -v net="$W/net" '
    BEGIN { while ((getline line < sums) > 0) { split(line, part, " "); sum[part[1]] = part[2] } }
    NF == 4 && length($3) == 64 { $3 = sum[$2]; $4 = "file://" net "/" $2 }
    { print }' dev/data/fetch.sh > "$P/dev/data/fetch.sh"
fetch="sh dev/data/fetch.sh"

# --- fetch.sh: its command line, and a mirror ----------------------------------------------------------------
refused "fetch.sh without a set" 2 "shakespeare|names" $fetch
refused "fetch.sh with a set that it does not know" 2 "shakespeare|names" $fetch names nonsense
refused "--mirror without a folder" 2 "--mirror" $fetch names --mirror
refused "--mirror with a folder that is not there" 1 "$W/nowhere" $fetch names --mirror "$W/nowhere"
[ -z "$(listing data)" ]
row $? "none of these has made a file: $(listing data)"

if [ -z "$(sum_of "$W/sums")" ]; then skip "neither sha256sum nor shasum is here: nothing can be fetched"
else
    run $fetch all --mirror "$W/net"
    [ "$status" -eq 0 ] && [ ! -s "$W/stderr" ] && [ "$(grep -c ': fetched$' "$W/stdout")" -eq 7 ] && [ ! -e "$P/data/gpt2/config.json" ]
    row $? "all of the table but the weights, from a mirror: exit $status: $(listing data)"
    for name in $names; do
        [ -e "$P/data/$name" ] || continue
        cmp -s "$P/data/$name" "$W/right/$name"
        row $? "$name is what it should be"
    done
    run $fetch all gpt2-weights --mirror "$W/net"
    [ "$status" -eq 0 ] && [ "$(grep -c ': is there$' "$W/stdout")" -eq 7 ] && [ "$(grep -c ': fetched$' "$W/stdout")" -eq 2 ]
    row $? "once more, and the weights: only those are fetched"
    rm -rf "$P/data"
    (cd "$W/right/gpt2" && $limit sh ../../project/dev/data/fetch.sh gpt2-weights all --mirror ../../net > "$W/stdout" 2> "$W/stderr")
    [ "$(listing data | wc -w)" -eq 9 ]
    row $? "a relative mirror, seen from another folder: $(listing data | wc -w) files"
    echo 'not a name' > "$P/data/names.txt"
    run $fetch names --mirror "$W/net"
    cmp -s "$P/data/names.txt" "$W/right/names.txt"
    row $? "a file that is there but wrong is replaced: exit $status"

    rm -rf "$P/data"
    mkdir "$W/bad"
    refused "a file that the mirror does not have" 1 names.txt $fetch names --mirror "$W/bad"
    sed 's/line 9$/line 8/' "$W/right/names.txt" > "$W/bad/names.txt"
    refused "a file with one other byte" 1 "names.txt: not the file that was expected" $fetch names --mirror "$W/bad"
    : > "$W/bad/names.txt"
    refused "an empty file" 1 "names.txt: not the file that was expected" $fetch names --mirror "$W/bad"
    book=pride-and-prejudice.txt
    cp "$W"/net/*.txt "$W/bad"
    sed 's/First/Second/' "$W/net/$book" > "$W/bad/$book"
    refused "another edition of a book" 1 --any-edition $fetch books --mirror "$W/bad"
    case $(listing data) in *$book*|*.part*|*.cut*) false ;; *) true ;; esac
    row $? "nothing of these is left, not even a part: $(listing data)"
    run $fetch books --any-edition --mirror "$W/bad"
    [ "$status" -eq 0 ] && sed 's/First/Second/' "$W/right/$book" | cmp -s - "$P/data/$book"
    row $? "--any-edition takes it, and cuts it as the other: exit $status"
    run $fetch books --any-edition --mirror "$W/net"
    [ "$status" -eq 0 ] && [ "$(grep -c ': is there$' "$W/stdout")" -eq 3 ]
    row $? "and keeps it the next time: exit $status"
    rm -rf "$P/data"
    run $fetch war-and-peace --mirror "$W/net"
    [ "$status" -eq 0 ] && [ "$(listing data)" = 'data/war-and-peace.txt ' ]
    row $? "one book alone: exit $status: $(listing data)"
    printf '*** START OF A BOOK\n\n*** END OF IT\n' > "$W/bad/$book"
    rm -rf "$P/data"
    refused "a book with nothing in it" 1 "$book: not the file" $fetch books --mirror "$W/bad"
    refused "and --any-edition does not take it" 1 "$book: not the file" $fetch books --any-edition --mirror "$W/bad"
    sed 's/line 9$/line 8/' "$W/right/names.txt" > "$W/bad/names.txt"
    rm -rf "$P/data"
    refused "--any-edition is for books only" 1 "names.txt: not the file" $fetch names --any-edition --mirror "$W/bad"

    rm -rf "$P/data"
    mkdir "$W/bare"
    for tool in sh sha256sum shasum cut dirname mkdir cat grep rm; do
        tool=$(command -v "$tool") && ln -s "$tool" "$W/bare/"
    done
    refused "neither curl nor wget" 1 "curl or wget is needed" env PATH="$W/bare" sh dev/data/fetch.sh names
    rm -f "$W/bare/sha256sum" "$W/bare/shasum"
    mkdir -p "$P/data"
    echo part > "$P/data/names.txt.part"
    refused "neither sha256sum nor shasum" 1 "sha256sum or shasum is needed" env PATH="$W/bare" sh dev/data/fetch.sh names
    [ -f "$P/data/names.txt.part" ]
    row $? "which leaves what there is: $(listing data)"

    # --- fetch.sh: a download that was cut short ------------------------------------------------------------
    # The address is a file, to which curl goes as to a server.  A part that begins with other bytes shows that
    # what was there is kept and only the rest fetched: then the sum is wrong.
    rm -rf "$P/data"
    if ! command -v curl > /dev/null; then skip "curl is not here: downloads are not tried"
    else
        progress=true
        run $fetch names
        [ "$status" -eq 0 ] && cmp -s "$P/data/names.txt" "$W/right/names.txt"
        row $? "a download: exit $status"
        rm -f "$P/data/names.txt"
        head -c 1000 "$W/right/names.txt" > "$P/data/names.txt.part"
        run $fetch names
        [ "$status" -eq 0 ] && cmp -s "$P/data/names.txt" "$W/right/names.txt"
        row $? "a download goes on after 1,000 bytes: exit $status"
        rm -f "$P/data/names.txt"
        head -c 1000 "$W/right/names.txt" | tr l L > "$P/data/names.txt.part"
        refused "after 1,000 bytes of something else" 1 "names.txt: not the file" $fetch names
        [ -z "$(listing data)" ]
        row $? "that leaves nothing: $(listing data)"
        run $fetch names
        row "$status" "and the next attempt succeeds: exit $status"
        mv "$P/data/names.txt" "$P/data/names.txt.part"
        mv "$W/net/names.txt" "$W/net/names.gone"
        run $fetch names
        [ "$status" -eq 0 ] && cmp -s "$P/data/names.txt" "$W/right/names.txt" && [ ! -e "$P/data/names.txt.part" ]
        row $? "a part that is whole already needs no network: exit $status"
        rm -f "$P/data/names.txt"
        refused "an address with nothing there" 1 "names.txt: file://" $fetch names
        [ -z "$(listing data)" ]
        row $? "that leaves nothing: $(listing data)"
        head -c 1000 "$W/right/names.txt" > "$P/data/names.txt.part"
        refused "the same, with a part from before" 1 "names.txt: file://" $fetch names
        mv "$W/net/names.gone" "$W/net/names.txt"
        [ "$(wc -c < "$P/data/names.txt.part")" -eq 1000 ]
        row $? "the part stays, for another attempt"
        rm -f "$P/data/names.txt.part"
        cp "$W/net/$book" "$P/data/$book.part"
        run $fetch books
        [ "$status" -eq 0 ] && cmp -s "$P/data/$book" "$W/right/$book"
        row $? "a book that came whole but was not cut yet: exit $status"
        progress=false
    fi

    # --- fetch.sh: the table itself ----------------------------------------------------------------------------
    bad=$(printf '%s\n' "$rows" | grep -v -E '^[a-z0-9-]+ [a-z0-9./-]+ [0-9a-f]{64} (https://[a-z.]+/|\$gpt2/)[^ ]+$')
    [ -z "$bad" ] && [ "$(printf '%s\n' "$rows" | wc -l)" -eq 9 ] && [ "$(printf '%s\n' "$rows" | awk '{ print $3 }' | sort -u | wc -l)" -eq 9 ]
    row $? "the table has nine files, each with a sum of its own and an https address$bad"
    if [ -f "$texts/gpt2/merges.txt" ]; then
        mkdir -p "$W/true/dev/data"
        cp dev/data/fetch.sh "$W/true/dev/data/"
        (cd "$W/true" && sh dev/data/fetch.sh all --mirror "$texts") > "$W/stdout" 2> "$W/stderr"
        row $? "the true files have the sums of the table: $(grep -c ': fetched$' "$W/stdout") files"
        rm -rf "$W/true"
    else skip "no folder with the true files, MIRROR=FOLDER"
    fi
fi
rm -rf "$P/data"

# --- dev/runs: the settings ----------------------------------------------------------------------------------
reproduce="sh dev/runs/reproduce.sh"
runs=$(cd dev/runs && for file in *.sh; do [ "$file" = reproduce.sh ] || echo "${file%.sh}"; done)
for run in $runs; do
    (
        ours='' pytorch=''
        . "dev/runs/$run.sh"
        [ -n "$source" ] && [ -n "$published" ] && [ -n "$figures" ] && command -v prepare > /dev/null || exit 3
        printf '%s\n' "$settings" | tr -d '\n' > "$W/settings"
        cd "$P" && $limit "$TRAIN" $settings $ours --seed 1 --out out/x 2> "$W/stderr" > /dev/null
    )
    status=$?
    # The command line is good, and the first thing that is missing is the text or the model.
    [ "$status" -eq 1 ] && grep -q '^train: data/' "$W/stderr"
    row $? "$run: the options of dev/runs/$run.sh are those of train.c: exit $status: $(head -n 1 "$W/stderr" | cut -c 1-90)"
    grep -q "^| .*\`$run\`" doc/reproduction.md && grep -q "^### .*$run" doc/reproduction.md && grep -q "^| .*\`$run\`" README.md
    row $? "$run: is in the tables of doc/reproduction.md and README.md, and has a section"
done
for run in $(cat README.md Makefile doc/*.md dev/runs/* | grep -o -E '(RUN=|reproduce\.sh |dev/runs/)[a-z_0-9]+' | sed 's/.*[= /]//' | sort -u); do
    [ "$run" = out ] || [ -f "dev/runs/$run.sh" ]
    row $? "a run that is named in the texts exists: $run"
done
for variable in SEEDS PYTORCH ONLY RESUME MIRROR ANY_EDITION THREADS; do
    grep -q "$variable=" doc/reproduction.md && grep -q "^#  .*$variable=" dev/runs/reproduce.sh && grep -q "\${$variable[:-]" dev/runs/reproduce.sh
    row $? "$variable is in doc/reproduction.md, and in what reproduce.sh says and does"
done

# --- reproduce.sh: with programs that only note how they were called -------------------------------------------
refused "reproduce.sh without a run" 2 "names|shakespeare|sorting" $reproduce
refused "reproduce.sh with an unknown run" 2 "names|shakespeare|sorting" $reproduce nonsense
refused "reproduce.sh with two runs" 2 "names|shakespeare|sorting" $reproduce names sorting
refused "reproduce.sh is no run itself" 2 "names|shakespeare|sorting" $reproduce reproduce
refused "a summary of runs that are not there" 1 "out/names-SEED" env ONLY=summary $reproduce names
cat > "$P/build/train" << 'END'
#!/bin/sh
echo "train $*" >> calls
while [ $# -gt 1 ]; do
    case $1 in
        --out) out=$2 ;;
        --data) [ -s "$2" ] || exit 9 ;;
        --init) [ -s "$2/model.safetensors" ] && [ -s "$2/merges.txt" ] || exit 9 ;;
    esac
    shift
done
mkdir -p "$out"
: > "$out/vocab.json"
echo 'step,val_loss,val_bits_per_byte,val_accuracy,train_accuracy' > "$out/log.csv"
echo '7,0.5,0.25,1,1' >> "$out/log.csv"
END
cat > "$P/python" << 'END'
#!/bin/sh
echo "python $*" >> calls
case $1 in *make.py) name=$2; [ "$2" != names ] || name=names-shuffled; mkdir -p data; echo text > "data/$name.txt" ;; esac
END
chmod +x "$P/build/train" "$P/python"
for run in $runs; do
    rm -rf "$P/calls" "$P/out" "$P/data"
    [ -n "$(sum_of "$W/sums")" ] || { mkdir "$P/data"; cp -r "$W"/right/* "$P/data"; echo 'exit 0' > "$P/dev/data/fetch.sh"; }
    settings=$(. "dev/runs/$run.sh"; echo $settings) # in one line
    seeds=$(seeds='1 2 3'; . "dev/runs/$run.sh"; echo $seeds)
    run env PYTHON=./python MIRROR="$W/net" $reproduce "$run"
    [ "$status" -eq 0 ] && [ ! -s "$W/stderr" ] && [ "$(grep -c -F -e "train $settings" "$P/calls")" -eq "$(echo $seeds | wc -w)" ] &&
        (for seed in $seeds; do grep "^train .* --seed $seed --out out/$run-$seed --overwrite\$" "$P/calls" || exit 1; done) > /dev/null &&
        grep -q '^published  ' "$W/stdout" &&
        { [ "$seeds" = 1 ] || grep -q '^ .*mean .*, standard deviation 0.0000' "$W/stdout"; }
    row $? "$run: its text is made and seeds $seeds are trained: exit $status$(tail -n 1 "$W/stderr")"
    if [ "$run" = baby ]; then
        : > "$P/calls"
        : > "$P/out/baby-1/state.safetensors"
        run env RESUME=1 SEEDS="1 2" THREADS=2 MIRROR="$W/net" $reproduce baby
        [ "$status" -eq 0 ] && [ "$(sed -n 1p "$P/calls")" = 'train --resume out/baby-1 --threads 2' ] &&
            sed -n 2p "$P/calls" | grep -q -e '--seed 2 .*--out out/baby-2 --overwrite$'
        row $? "RESUME=1 goes on with what was saved, and begins what was not: exit $status"
    fi
    if [ "$run" = characters ]; then
        rm -rf "$P/data"
        mkdir -p "$W/bad2"
        sed 's/First/Second/' "$W/net/war-and-peace.txt" > "$W/bad2/war-and-peace.txt"
        run env MIRROR="$W/bad2" $reproduce characters
        [ "$status" -eq 1 ] && grep -q ANY_EDITION=1 "$W/stderr"
        row $? "another edition is refused with the words that take it: exit $status"
        for attempt in first second; do
            run env ANY_EDITION=1 SEEDS=1 MIRROR="$W/bad2" $reproduce characters
            row "$status" "ANY_EDITION=1 takes it, the $attempt time: exit $status"
        done
    fi
    if [ "$run" = bpe ]; then
        mv "$P/out" "$P/out.kept"
        refused "bpe in PyTorch needs our vocabulary, and says so" 1 "out/bpe-1" env PYTORCH=1 PYTHON=./python $reproduce bpe
        mv "$P/out.kept" "$P/out"
    fi
    if [ "$run" = gpt2_finetune ]; then
        refused "$run has no counterpart in PyTorch, and says so" 1 PyTorch env PYTORCH=1 PYTHON=./python MIRROR="$W/net" $reproduce "$run"
        continue
    fi
    rm -f "$P/calls"
    run env PYTORCH=1 SEEDS=5 THREADS=1 PYTHON=./python MIRROR="$W/net" $reproduce "$run"
    grep "^python dev/reference/train_pytorch.py $settings " "$P/calls" | grep -q -e "--seeds 5 --threads 1 --out out/$run-pytorch-\$"
    row $? "$run: the same settings go to PyTorch"
done

# --- train.c without a text: the frozen one ----------------------------------------------------------------------
small="--layers 1 --heads 1 --channels 8 --context 8 --batch 2 --steps 1 --warmup 0 --sample 0 --eval-batches 1"
run "$TRAIN" $small --out out/frozen
[ "$status" -eq 1 ] && [ "$(wc -l < "$W/stderr")" -eq 1 ] && grep -q '^train: dev/data/prose.txt: cannot ' "$W/stderr" && [ ! -e "$P/out/frozen" ]
row $? "without --data, and without the frozen text: exit $status: $(tail -n 1 "$W/stderr" | cut -c 1-100)"
cp dev/data/prose.txt "$P/dev/data/"
run "$TRAIN" $small --out out/frozen
[ "$status" -eq 0 ] && grep -q "^text  *$(wc -c < dev/data/prose.txt | tr -d ' ') bytes" "$W/stderr"
row $? "without --data: exit $status: $(head -n 1 "$W/stderr")"

# --- reproduce.sh: what it makes of log.csv ---------------------------------------------------------------------
cat > "$P/dev/runs/tiny.sh" << 'END'
source='nobody' published='nothing'
figures='val_loss:lowest val_loss:last val_accuracy:0.5 absent:lowest'
prepare() { fetch names; }
settings='--data data/names.txt --rows --context 24 --layers 1 --heads 1 --channels 8 --batch 4 --steps 6 --warmup 0'
ours='--eval-every 2 --sample 0'
END
rm -rf "$P/out"
mkdir -p "$P/out/tiny-1" "$P/out/tiny-2" "$P/out/tiny-3" "$P/out/tiny-pytorch-1"
printf 'step,val_loss,val_accuracy\n0,3,0\n1,,\n2,1.5,0.4\n4,1.25,0.5\n6,2,0.6\n' > "$P/out/tiny-1/log.csv"
printf 'val_accuracy,step,val_loss\n' > "$P/out/tiny-2/log.csv" # no steps
printf 'step,val_loss,val_accuracy\n10,1.75,0.75\n' > "$P/out/tiny-3/log.csv"
printf 'step,val_loss,val_accuracy\n10,1.5,0.25\n' > "$P/out/tiny-pytorch-1/log.csv"
cat > "$W/expected" << 'END'

tiny: nobody
train.c    lowest val_loss  1.2500 (step 4)  never  1.7500 (step 10)
           mean 1.5000, standard deviation 0.3536
train.c    last val_loss  2.0000 (step 6)  never  1.7500 (step 10)
           mean 1.8750, standard deviation 0.1768
train.c    val_accuracy reaches 0.5 at step  4  never  10
           mean 7.0000, standard deviation 4.2426
train.c    lowest absent  never  never  never
PyTorch    lowest val_loss  1.5000 (step 10)
PyTorch    last val_loss  1.5000 (step 10)
PyTorch    val_accuracy reaches 0.5 at step  never
PyTorch    lowest absent  never
published  nothing
END
run env ONLY=summary $reproduce tiny
[ "$status" -eq 0 ] && cmp -s "$W/stdout" "$W/expected"
row $? "lowest, last and first values of three runs, mean and deviation$(diff "$W/expected" "$W/stdout" | sed -n 2p)"
: > "$P/out/tiny-3/log.csv"
run env ONLY=summary SEEDS=3 $reproduce tiny
[ "$status" -eq 0 ] && grep -q 'lowest val_loss$' "$W/stdout"
row $? "a log.csv with nothing in it has no figure: exit $status"

# --- reproduce.sh: a true run, as short as it can be ---------------------------------------------------------------
rm -rf "$P/out" "$P/data" "$P/build/train"
ln -s "$TRAIN" "$P/build/train"
run env SEEDS="4 5" THREADS=1 MIRROR="$W/net" $reproduce tiny
[ "$status" -eq 0 ] && [ -f "$P/out/tiny-4/best/model.safetensors" ] && [ -f "$P/out/tiny-5/best/model.safetensors" ]
row $? "two seeds are trained: exit $status: $(tail -n 1 "$W/stderr" | cut -c 1-100)"
last=$(for seed in 4 5; do
    awk -F, 'NR == 1 { for (at = 1; $at != "val_loss"; at++); next } $at != "" { loss = $at }
             END { printf "  %.4f (step 6)", loss }' "$P/out/tiny-$seed/log.csv"
done)
grep -q -F -e "train.c    last val_loss$last" "$W/stdout"
row $? "their losses are in the summary:$last"
sed 's/--steps 6/--steps 6 --nonsense/' "$P/dev/runs/tiny.sh" > "$P/dev/runs/broken.sh"
run env SEEDS="4 5" MIRROR="$W/net" $reproduce broken
[ "$status" -eq 2 ] && grep -q '^train: .*nonsense' "$W/stderr" && ! grep -q '^published' "$W/stdout"
row $? "a run that fails ends it, without a figure: exit $status"

if [ "$skipped" -gt 0 ]; then echo "$passed passed, $failed failed, $skipped skipped"
else echo "$passed passed, $failed failed"; fi
[ "$failed" -eq 0 ]

# The command line of train.c, and what the sources promise about themselves:  sh tests/test_cli.sh
#
# Every bad input must end in one clear line that begins with "train: ", with exit status 2 for a command
# line that cannot be meant and 1 for everything else; it must overwrite nothing and leave nothing half-written.
# The program is $TRAIN, build/train unless told otherwise.  Runs from the top folder of the project.

TRAIN=${TRAIN:-build/train}
OMP_NUM_THREADS=1
LC_ALL=C
export OMP_NUM_THREADS LC_ALL
if [ ! -x "$TRAIN" ]; then echo "FAIL  $TRAIN is not there; build it first, or set TRAIN"; echo "0 passed, 1 failed"; exit 1; fi
mkdir -p build
W=$(mktemp -d build/test_cli.XXXXXX) || exit 1
mounted='' child=''
clean() {
    [ -n "$child" ] && kill -9 "$child" 2>/dev/null
    [ -n "$mounted" ] && umount "$mounted" 2>/dev/null
    chmod -R u+rwx "$W" 2>/dev/null
    rm -rf "$W"
}
trap clean EXIT
trap 'exit 1' INT TERM

passed=0 failed=0 skipped=0
ok() { passed=$((passed + 1)); printf 'ok    %s\n' "$*"; }
fail() { failed=$((failed + 1)); printf 'FAIL  %s\n' "$*"; }
skip() { skipped=$((skipped + 1)); printf 'skip  %s\n' "$*"; }
row() { # CONDITION'S STATUS, NAME: for a condition that was just tested
    if [ "$1" -eq 0 ]; then ok "$2"; else fail "$2"; fi
}

# Runs the program; leaves $status, $W/out and $W/err.  A run that hangs is ended after a minute.
limit=$(command -v timeout) && limit="$limit 60"
run() { $limit "$TRAIN" "$@" > "$W/out" 2> "$W/err" < /dev/null; status=$?; }

# bad NAME STATUS WORDS ARGUMENTS...: the program must refuse them.  For a wrong command line stderr is just
# the one line; elsewhere a report of progress may stand before it, but it is the last and only error.
bad() {
    name=$1 want=$2 words=$3
    shift 3
    run "$@"
    last=$(tail -n 1 "$W/err")
    reason=''
    [ "$status" -eq "$want" ] || reason="exit $status, not $want"
    lines=$(grep '^train: ' "$W/err" | grep -c -v 'is left out$')
    [ "$lines" -eq 1 ] || reason="$reason; $lines lines of error"
    case $last in "train: "*) ;; *) reason="$reason; the last line is no error" ;; esac
    [ "$want" -ne 2 ] || [ "$(wc -l < "$W/err")" -eq 1 ] || reason="$reason; $(wc -l < "$W/err") lines on stderr"
    [ "$want" -ne 2 ] || [ ! -s "$W/out" ] || reason="$reason; something on stdout"
    grep -q -F -e "$words" "$W/err" || reason="$reason; nothing of '$words'"
    case $last in *"ERROR: "*|*"runtime error"*) reason="$reason; a sanitizer speaks" ;; esac
    shown=$(printf '%s' "$last" | cut -c 1-130)
    if [ -z "$reason" ]; then ok "$name: exit $status: $shown"; else fail "$name: ${reason#; }: $shown"; fi
}

# Checksums of all that lies in the scratch folder but the output of the last run.
state() { (cd "$W" && find . -type f ! -name out ! -name err ! -name before ! -name after ! -name help ! -name ranges -exec cksum {} + | sort -k 3; find . -type d | sort); }

# --- Material: a text, a model, and things that are neither -----------------------------------------
i=0
while [ $i -lt 120 ]; do echo "the quick brown fox jumps over the lazy dog, and the dog sleeps on."; i=$((i + 1)); done > "$W/text.txt"
small="--layers 1 --heads 1 --channels 8 --context 8 --batch 4 --sample 0"
run --data "$W/text.txt" $small --steps 4 --eval-every 2 --out "$W/good"
[ "$status" -eq 0 ] && [ -f "$W/good/best/model.safetensors" ]
row $? "a small model is trained: exit $status"
: > "$W/empty.txt"
echo "short" > "$W/short.txt"
printf 'text with a NUL \000 in it, and more behind it\n' > "$W/nul.txt"
mkdir "$W/folder" "$W/noise"
cp "$W/good/"*.* "$W/noise/"
head -c 5000 "$TRAIN" > "$W/noise/model.safetensors"
cp -r "$W/good/best" "$W/cut"
head -c 300 "$W/good/model.safetensors" > "$W/cut/model.safetensors"
cp -r "$W/good/best" "$W/headless"
sed 's/"n_head": 1/"n_head": 3/' "$W/good/best/config.json" > "$W/headless/config.json"
cp -r "$W/good/best" "$W/nojson"
echo 'not JSON' > "$W/nojson/config.json"
cp -r "$W/good/best" "$W/words"
rm "$W/words/vocab.json" "$W/words/merges.txt"
printf '\001\000\002\000\015\014' > "$W/ids.bin"
printf '\001\000\002' > "$W/odd.bin"
: > "$W/none.bin"
state > "$W/before"

# --- Products in bf16 change the numbers, and little ---------------------------------------------------
for precision in float32 bf16; do
    run --data "$W/text.txt" $small --channels 32 --steps 60 --eval-every 60 --precision $precision --out "$W/$precision"
    [ "$status" -eq 0 ]
    row $? "--precision $precision trains: exit $status"
done
losses=$(for precision in float32 bf16; do tail -n 1 "$W/$precision/log.csv" | cut -d, -f4,5; done | tr '\n,' '  ')
echo "$losses" | awk '{ train = $1 - $3; validation = $2 - $4
    exit !(train != 0 && train * train < 0.0004 && validation != 0 && validation * validation < 0.0004) }'
row $? "training and validation loss in float32, then in bf16: $losses"
rm -r "$W/float32"

# --- Texts that are none -----------------------------------------------------------------------------
new="--out $W/new $small --steps 4"
bad "an empty file" 1 empty.txt --data "$W/empty.txt" $new
bad "a text shorter than the context" 1 short.txt --data "$W/short.txt" --out "$W/new" --context 64
bad "a context longer than the text" 1 context --data "$W/text.txt" --out "$W/new" --context 60000
bad "a validation part shorter than the context" 1 validation --data "$W/text.txt" --out "$W/new" --context 600 --heads 1 --layers 1
bad "a file that is not there" 1 missing.txt --data "$W/missing.txt" $new
bad "a file below a file" 1 "text.txt/x" --data "$W/text.txt/x" $new
bad "a folder" 1 "is a folder; a file is needed" --data "$W/folder" $new
bad "a file with NUL bytes" 1 NUL --data "$W/nul.txt" $new
bad "ids without a tokenizer" 1 "say with --tokenizer" --data "$W/ids.bin" $new
bad "ids and a text" 1 "only one kind" --data "$W/text.txt,$W/ids.bin" --tokenizer "$W/good" $new
bad "an id that the vocabulary has not" 1 "token 2 is 3085" --data "$W/ids.bin" --tokenizer "$W/good" $new
bad "ids that do not end" 1 "not a multiple" --data "$W/odd.bin" --tokenizer "$W/good" $new
bad "no ids at all" 1 "train part has 0 tokens" --data "$W/none.bin" --tokenizer "$W/good" $new
bad "--init and a larger context" 1 "--context 9" --data "$W/text.txt" --init "$W/good" --context 9 --out "$W/new"
bad "one good text, one missing" 1 missing.txt --data "$W/text.txt,$W/missing.txt" $new
bad "a device" 1 "/dev/null" --data /dev/null $new
if [ "$(id -u)" -eq 0 ]; then skip "a file without permission to read (root may read all)"
else
    cp "$W/text.txt" "$W/secret.txt"
    chmod 000 "$W/secret.txt"
    bad "a file without permission to read" 1 secret.txt --data "$W/secret.txt" $new
    rm -f "$W/secret.txt"
fi

# --- Rows that are none ------------------------------------------------------------------------------
printf '1+1=2\n2+2=4\n1+2\n' > "$W/sums.txt"
bad "a row longer than the context" 1 "line 1 and its line feed are 6 tokens" --data "$W/sums.txt" --rows --context 5 --out "$W/new"
bad "a row without the end of its prompt" 1 "line 3 has no '='" --data "$W/sums.txt" --rows --answer-after = $new
bad "fewer rows than parts" 1 "validation part has 0 tokens, too few for one row" --data "$W/sums.txt" --rows $new
rm -f "$W/sums.txt"
state > "$W/before"

# --- Command lines that cannot be meant --------------------------------------------------------------
data="--data $W/text.txt"
bad "--heads 5 --channels 128" 2 heads $data --heads 5 --channels 128 --out "$W/new"
bad "--lr -1" 2 --lr $data --lr -1 --out "$W/new"
bad "--steps 1e9x" 2 --steps $data --steps 1e9x --out "$W/new"
bad "--steps 1e3: whole numbers are written out" 2 --steps $data --steps 1e3 --out "$W/new"
bad "--micro-batch above --batch" 2 --micro-batch $data --batch 4 --micro-batch 5 --out "$W/new"
bad "--min-lr above --lr" 2 --min-lr $data --lr 1e-4 --min-lr 1e-3 --out "$W/new"
bad "--warmup as long as --steps" 2 --warmup $data --steps 10 --warmup 10 --out "$W/new"
bad "--warmup longer than --steps" 2 --warmup $data --steps 10 --warmup 11 --out "$W/new"
bad "a warmup and a cooldown that do not fit" 2 --cooldown $data --steps 10 --warmup 5 --cooldown 6 --schedule trapezoid --out "$W/new"
bad "nothing left to train on" 2 --validation $data --validation 0.6 --test 0.5 --out "$W/new"
bad "an unknown command" 2 tarin tarin $data
bad "an unknown option" 2 --layer $data --layer 3
bad "an unknown option with a value" 2 --Lr $data --Lr=3
bad "the beginning of an option" 2 --micro $data --micro 3
bad "two dashes alone" 2 -- $data --
bad "one dash" 2 "'-l'" $data -l 3
bad "a word behind the options" 2 book.txt $data book.txt
bad "a value is missing" 2 --lr $data --lr
bad "a value is missing behind =" 2 --lr $data --lr=
bad "a flag with a value that is neither yes nor no" 2 --overwrite $data --overwrite=maybe
bad "an option of another command: train" 2 --prompt $data --prompt hello
bad "an option of another command: generate" 2 --lr generate --model "$W/good" --lr 1
bad "an option of another command: eval" 2 --steps eval --model "$W/good" --steps 1
bad "an option of another command: info" 2 --prompt info --prompt hello
bad "a text for info" 2 --data info $data
bad "an unknown preset" 2 --preset $data --preset mega
bad "an unknown precision" 2 --precision $data --precision fp16
bad "a resumed run of another precision" 2 "has bf16" --resume "$W/bf16" --data "$W/text.txt" --steps 70 --precision float32
bad "an unknown schedule" 2 --schedule $data --schedule cos
bad "an unknown part" 2 --split eval --model "$W/good" $data --split training
bad "--answer-after without --rows" 2 --rows $data --answer-after = --out "$W/new"
bad "--answer-after with a word" 2 --answer-after $data --rows --answer-after is --out "$W/new"
bad "--rows with a value" 2 --rows $data --rows=1 --out "$W/new"
bad "generate without a model" 2 --model generate
bad "eval without a model" 2 --model eval $data
bad "another shape for a model that has one" 2 --layers $data --init "$W/good" --layers 2 --out "$W/new"
bad "an empty prompt" 2 --prompt generate --model "$W/good" --prompt ''
bad "an empty folder's name for --out" 2 --out $data $small --steps 4 --out ''
bad "more parameters than any memory" 1 memory $data --layers 1000 --channels 65536 --heads 1 --out "$W/new"
bad "a text given twice" 2 --data $data --data "$W/text.txt" --out "$W/new"
run --data "$W/missing.txt" --steps 100 --warmup 85 --out "$W/new"
[ "$status" -eq 1 ] && grep -q missing.txt "$W/err"
row $? "a warmup of 85 of 100 steps is accepted: exit $status: $(head -n 1 "$W/err")"

# --- Every option of the table: its limits, and texts that are no numbers ------------------------------
run --help
cp "$W/out" "$W/help"
awk '/^  --/ { name = substr($1, 3) }
     /^ *\[.*; .*; .*\]$/ {
         n = split($0, part, "; "); letter = substr(part[n - 1], 1, 1)
         if (part[2] ~ /^[-+.0-9e]+ to [-+.0-9e]+$/) { split(part[2], range, " to "); print name, letter, range[1], range[2] }
     }' "$W/help" > "$W/ranges"
count=$(wc -l < "$W/ranges")
[ "$count" -ge 25 ]
row $? "--help states the range of $count options"

# The command line for an option: the file that it names is not there, so a value that is accepted ends with
# status 1 at that file, and one that is refused with 2.
base() {
    case $1 in
        t) echo "--data $W/missing.txt --out $W/new" ;;
        g) echo "generate --model $W/missing" ;;
        e) echo "eval --model $W/missing --data $W/missing.txt" ;;
        *) echo "info --model $W/missing" ;;
    esac
}
tried=0 kept=0
while read -r name letter low high; do
    below=$(awk "BEGIN { printf \"%.17g\", $low - 1 }")
    above=$(awk "BEGIN { x = $high; if (x < 1e9) printf \"%.17g\", x + (x < 1 ? 0.1 : 1); else printf \"%.0f\", 10 * x }")
    wrong=0
    for value in "$below" "$above" abc '' 1x 0x10 nan inf -inf 1e999 -0.5 1.2.3 1e 1,5 '5 ' ' 5' 99999999999999999999999; do
        run $(base "$letter") "--$name=$value"
        tried=$((tried + 1))
        if [ "$status" -ne 2 ] || [ "$(wc -l < "$W/err")" -ne 1 ] || ! grep -q -e "^train: .*--$name" "$W/err"; then
            wrong=$((wrong + 1))
            fail "--$name '$value': exit $status: $(head -n 1 "$W/err" | cut -c 1-120)"
        fi
    done
    [ $wrong -eq 0 ]
    row $? "--$name: 17 values outside $low to $high, or no number, are refused"
    # The limits themselves are accepted, beside options that go with them.
    for value in "$low" "$high"; do
        value=$(awk "BEGIN { x = $value; if (x >= 1e6 && x == int(x)) printf \"%.0f\", x; else printf \"%s\", \"$value\" }")
        beside=''
        case $name in
            heads) beside="--channels 64000" ;;
            channels) beside="--heads 1 --layers 1" ;;
            layers) beside="--channels 4" ;;
            batch) beside="--micro-batch 1" ;;
            micro-batch) beside="--batch $high" ;;
            min-lr) beside="--lr $high" ;;
            warmup) [ "$value" = 0 ] || continue ;; # the longest run has no room for the longest warmup
            cooldown) beside="--schedule trapezoid --steps $high --warmup 0" ;;
            validation) beside="--test 0" ;;
            test) beside="--validation 0" ;;
        esac
        run $(base "$letter") $beside "--$name=$value"
        kept=$((kept + 1))
        if [ "$name" = threads ] && [ "$value" -gt 1 ] && grep -q 'built without OpenMP' "$W/err"; then
            skip "--threads $value: this program was built without OpenMP, and says so"
            continue
        fi
        { [ "$status" -eq 1 ] && grep -q missing "$W/err"; }
        row $? "--$name $value is accepted: exit $status: $(head -n 1 "$W/err" | cut -c 1-100)"
    done
done < "$W/ranges"
[ $tried -gt 400 ] && [ $kept -gt 50 ]
row $? "$tried bad and $kept good values were tried"

# --- Models that are none ------------------------------------------------------------------------------
bad "a model folder that is not there" 1 missing generate --model "$W/missing"
bad "a text for a model" 1 text.txt generate --model "$W/text.txt"
for command in generate "eval $data" info; do
    name=${command%% *}
    bad "a model cut short, $name" 1 cut/model.safetensors $command --model "$W/cut"
    bad "a model of noise, $name" 1 noise/model.safetensors $command --model "$W/noise"
    bad "a model with 3 heads for 8 channels, $name" 1 n_head $command --model "$W/headless"
    bad "a config.json that is not JSON, $name" 1 nojson/config.json $command --model "$W/nojson"
done
bad "a model without a tokenizer" 1 words generate --model "$W/words"
bad "--init with a model cut short" 1 cut/model.safetensors $data --init "$W/cut" --steps 4 --batch 4 --out "$W/new"
bad "a prompt with a byte that the model does not know" 1 prompt generate --model "$W/good" --prompt 'QUICK'
printf 'QUICK BROWN FOX, and so on and so on and so on and so on and so on.\n' > "$W/out"
cp "$W/out" "$W/other.txt"
bad "a text with bytes that the model does not know" 1 other.txt eval --model "$W/good" --data "$W/other.txt" --split train
bad "--init and such a text" 1 other.txt --init "$W/good" --data "$W/other.txt" --steps 4 --batch 4 --out "$W/new"
bad "a part too short for one window" 1 test eval --model "$W/good" --data "$W/short.txt" --split test
rm -f "$W/other.txt"

# --- What is there is not overwritten --------------------------------------------------------------------
bad "--out that holds a model" 1 --overwrite $data $small --steps 4 --out "$W/good"
bad "--out is a file" 1 text.txt $data $small --steps 4 --out "$W/text.txt"
bad "--out below a file" 1 text.txt $data $small --steps 4 --out "$W/text.txt/run"
bad "--out in a folder that forbids it" 1 "/proc" $data $small --steps 4 --out /proc/train/run
state > "$W/after"
cmp -s "$W/before" "$W/after"
row $? "all of these have changed, created and left nothing$(diff "$W/before" "$W/after" | grep "^[<>]" | tr "\n" " ")"
run $data $small --steps 4 --eval-every 2 --out "$W/again" && cp -r "$W/again" "$W/saved"
run $data $small --steps 6 --eval-every 2 --channels 16 --out "$W/again" --overwrite
[ "$status" -eq 0 ] && ! cmp -s "$W/again/model.safetensors" "$W/saved/model.safetensors"
row $? "--overwrite replaces a model: exit $status"

# --- A disk that is full -----------------------------------------------------------------------------------
# A larger model does not fit beside or over a smaller one; the smaller one must stay whole.
full_check() { # NAME FOLDER
    last=$(tail -n 1 "$W/err")
    [ "$status" -eq 1 ] && [ "$(grep -c '^train: ' "$W/err")" -eq 1 ] && case $last in "train: "*) true ;; *) false ;; esac
    row $? "$1: exit $status: $(printf '%s' "$last" | cut -c 1-130)"
    [ -z "$(find "$2" -name '*.tmp')" ]
    row $? "$1: no unfinished file is left$(find "$2" -name '*.tmp' | tr '\n' ' ')"
    for file in model.safetensors config.json vocab.json merges.txt; do
        cmp -s "$2/$file" "$W/kept/$file" || { fail "$1: $file is not what it was"; return; }
    done
    ok "$1: the model that was there is as it was"
    # --overwrite removes the older run's best model before it saves: there is none, or that one, whole.
    [ ! -e "$2/best/model.safetensors" ] || cmp -s "$2/best/model.safetensors" "$W/kept/best/model.safetensors"
    row $? "$1: no other best model is there"
    run generate --model "$2" --tokens 5 --prompt the
    row $status "$1: and it can be opened: exit $status"
}
larger="--layers 2 --heads 2 --channels 64 --context 16 --batch 4 --sample 0 --steps 4 --eval-every 2 --overwrite"
cp -r "$W/good" "$W/kept"
cp -r "$W/good" "$W/limited"
# Files of at most 20 KB: the signal that says so is ignored, as a full disk sends none.
(trap '' XFSZ; ulimit -f 40; exec $limit "$TRAIN" $data $larger --out "$W/limited" > "$W/out" 2> "$W/err" < /dev/null)
status=$?
full_check "a limit on the size of files" "$W/limited"
mkdir "$W/disk"
if [ "$(id -u)" -eq 0 ] && mount -t tmpfs -o size=200k tmpfs "$W/disk" 2>/dev/null; then
    mounted=$W/disk
    cp -r "$W/good" "$W/disk/run"
    run $data $larger --out "$W/disk/run"
    full_check "a full disk" "$W/disk/run"
    umount "$W/disk" && mounted=''
else skip "a small file system cannot be mounted here"
fi
if [ -w /dev/full ]; then
    for command in "--help" "info" "generate --model $W/good --tokens 20 --prompt the" "eval --model $W/good $data" \
                   "$data $small --steps 2 --out $W/spoken"; do
        $limit "$TRAIN" $command > /dev/full 2> "$W/err" < /dev/null
        status=$?
        [ $status -eq 1 ] && [ "$(grep -c '^train: ' "$W/err")" -eq 1 ]
        row $? "stdout is full, ${command%% *}: exit $status: $(tail -n 1 "$W/err" | cut -c 1-100)"
    done
else skip "there is no /dev/full here"
fi

# --- What eval takes from the run, and flags that are switched off --------------------------------------------
# "--eval-batches 2" counts batches of the run's size, and the parts are those of the run: so eval finds the loss
# that the log has.
parts="--validation 0.2 --test 0.1 --eval-batches 2"
run $data $small --batch 3 $parts --steps 4 --eval-every 2 --out "$W/own"
logged=$(tail -n 1 "$W/own/log.csv" | cut -d , -f 5)
evaluated() { sed -n 's/^[a-z]*: loss \([0-9.]*\), .* over \([0-9]*\) tokens.*/\1 \2/p' "$W/out"; }
run eval --model "$W/own" --split validation --eval-batches 2
[ "$status" -eq 0 ] && [ "$(evaluated)" = "$(printf '%.4f 48' "$logged")" ]
row $? "eval: the run's own text, parts and batch give the loss that it logged, $logged: $(evaluated)"
run eval --model "$W/own" --split test
[ "$status" -eq 0 ] && [ "$(evaluated | cut -d ' ' -f 2)" -ge 800 ]
row $? "eval: without --eval-batches it takes the whole part: $(evaluated)"
run eval --model "$W/own" --split validation --validation 0.4 --test 0 --batch 5 --eval-batches 2
[ "$status" -eq 0 ] && [ "$(evaluated | cut -d ' ' -f 2)" = 80 ]
row $? "eval: the command line overrides the run: $(evaluated)"
run $data $small --validation 0 --test 0 --steps 4 --out "$W/all"
bad "a test part of a run that learned from all of its text" 1 "test part has 0 tokens" eval --model "$W/all" $data
bad "a validation part of such a run" 1 "validation part has 0 tokens" eval --model "$W/all" $data --split validation
run eval --model "$W/all" $data --test 0.5
row $status "eval: --test on the command line cuts a part for it: exit $status"
memory() { grep '^memory: ' "$W/err"; }
run $data $small --layers 3 --steps 4 --out "$W/kept-all"
all=$(memory)
run $data $small --layers 3 --steps 4 --recompute --out "$W/again-all"
few=$(memory)
run --resume "$W/again-all" --steps 5
[ "$status" -eq 0 ] && [ "$(memory)" = "$few" ] && [ "$few" != "$all" ]
row $? "--recompute is resumed: exit $status: $few"
run --resume "$W/again-all" --steps 6 --recompute=no
[ "$status" -eq 0 ] && [ "$(memory)" = "$all" ]
row $? "--recompute=no switches it off on resume: exit $status: $(memory)"
run --resume "$W/again-all" --steps 7
[ "$status" -eq 0 ] && [ "$(memory)" = "$all" ]
row $? "and it stays off: exit $status"
run --resume "$W/again-all" --steps 8 --lr=0.002 --batch=4
[ "$status" -eq 0 ]
row $? "an option that is given as it was saved is no change: exit $status"
bad "an option that a run cannot change" 2 "has 4, and cannot change it" --resume "$W/again-all" --batch=5

# --- Presets ---------------------------------------------------------------------------------------------------
run info --preset baby
baby=$(cat "$W/out")
run info --layers 6 --heads 6 --channels 384 --context 256 --batch 64 --micro-batch 8 --steps 5000
[ "$status" -eq 0 ] && [ "$(cat "$W/out")" = "$baby" ]
row $? "--preset baby is the options that --help says"
run info --layers 3 --preset baby
[ "$status" -eq 0 ] && grep -q 'c_attn.weight *(384, 1152) *3 ' "$W/out"
row $? "an option overrides the preset, also one that stands before it"

# --- Ctrl-C ------------------------------------------------------------------------------------------------
# A long run is started, and gets a signal once its log has some steps.
# weights FILE: a checksum of what follows the header, in which the settings of the two runs differ.
weights() { header=$(od -An -tu4 -N4 "$1") && tail -c +$((header + 9)) "$1" | cksum; }
for signal in INT TERM; do
    out=$W/stopped-$signal
    "$TRAIN" $data $small --schedule constant --warmup 0 --steps 100000000 --eval-every 100000000 --eval-batches 0 --out "$out" > "$W/out" 2> "$W/err" < /dev/null &
    child=$!
    waited=0
    while [ $waited -lt 100 ] && { [ ! -f "$out/log.csv" ] || [ "$(wc -l < "$out/log.csv")" -lt 10 ]; }; do
        sleep 0.1
        waited=$((waited + 1))
    done
    if [ -r "/proc/$child/comm" ]; then # so that pgrep and killall find it
        name=$(cat "/proc/$child/comm")
        [ "$name" = "$(basename "$TRAIN" | cut -c 1-15)" ]
        row $? "the program runs under its own name: $name"
    fi
    kill -s "$signal" "$child"
    waited=0
    while [ $waited -lt 100 ] && kill -0 "$child" 2>/dev/null; do sleep 0.1; waited=$((waited + 1)); done
    if kill -0 "$child" 2>/dev/null; then kill -9 "$child"; fail "SIG$signal: the run goes on after 10 s"; fi
    wait "$child"
    status=$?
    child=''
    [ "$status" -eq "$(case $signal in INT) echo 130 ;; TERM) echo 143 ;; esac)" ]
    row $? "SIG$signal: the run ends properly: exit $status"
    grep -q "interrupted after step [1-9]" "$W/err" && grep -q -e "--resume $out\$" "$W/err"
    row $? "SIG$signal: $(grep interrupted "$W/err" | cut -c 1-140)"
    step=$(sed -n 's/.*interrupted after step \([0-9]*\).*/\1/p' "$W/err")
    logged=$(tail -n 1 "$out/log.csv" | cut -d , -f 1)
    [ -n "$step" ] && [ "$step" = "$logged" ]
    row $? "SIG$signal: the log ends with step $logged, the message says $step"
    [ -z "$(find "$out" -name '*.tmp')" ]
    row $? "SIG$signal: no unfinished file is left"
    run --resume "$out" --steps $((step + 3)) --log-every 1
    row $status "SIG$signal: training goes on as the message says: exit $status"
    run $data $small --schedule constant --warmup 0 --steps $((step + 3)) --eval-every 100000000 --eval-batches 0 --out "$out-whole"
    [ "$(weights "$out/model.safetensors")" = "$(weights "$out-whole/model.safetensors")" ]
    row $? "SIG$signal: and gives the weights of a run that was not stopped, $((step + 3)) steps"
done

# --- --help and the sources ------------------------------------------------------------------------------------
run --help
row $status "--help: exit $status"
[ ! -s "$W/err" ]
row $? "--help goes to stdout"
for command in train generate eval info; do
    run "$command" --help
    [ "$status" -eq 0 ] && cmp -s "$W/out" "$W/help"
    row $? "$command --help says the same"
done
sed -n '/ OPTIONS\[\] = {/,/^};/s/^ *[A-Z]*(\([a-z0-9_]*\), ".*/\1/p' train.c | tr _ - > "$W/options"
awk '/^  --/ { print substr($1, 3) }' "$W/help" | cmp -s "$W/options" -
row $? "--help names the $(wc -l < "$W/options") options of the table, in its order"
# And nothing that is not there: each name in the help is understood, that is, not refused as unknown.
awk '/^  --/ { print substr($1, 3) }' "$W/help" > "$W/names"
unknown=''
while read -r name; do
    run info "--$name"
    if grep -q "is not an option" "$W/err"; then unknown="$unknown $name"; fi
done < "$W/names"
[ -z "$unknown" ] && [ "$(wc -l < "$W/names")" -ge 40 ]
row $? "the $(wc -l < "$W/names") options that --help names exist$unknown"
wide=$(awk 'length > 96' "$W/help" | wc -l)
[ "$wide" -eq 0 ]
row $? "--help has no line over 96 columns: $wide"

terms=tests/glossary_terms.txt
[ -f doc/glossary-terms ] && terms=doc/glossary-terms
# Lists of terms are joined by commas, and so are some terms: the longest beginning that is a term is taken.
cat > "$W/terms.awk" <<'AWK'
NR == FNR { sub(/\t.*/, ""); term[$0] = 1; next } # the home of the term stands behind a tab
{
    rest = $0
    while (rest != "") {
        best = ""
        for (t in term)
            if (length(t) > length(best) && substr(rest, 1, length(t)) == t &&
                (length(rest) == length(t) || substr(rest, length(t) + 1, 2) == ", ")) best = t
        if (best == "") { print rest; break }
        rest = substr(rest, length(best) + 3)
    }
}
AWK
for file in train.c tokenizer.c; do
    # A tag may be broken over two lines of a comment.
    awk '{ sub(/^ *\* ?/, ""); printf "%s ", $0 } END { print "" }' "$file" | grep -o '\[glossary: [^]]*\]' |
        sed 's/^\[glossary: //; s/\]$//; s/  */ /g' > "$W/tags"
    strangers=$(awk -f "$W/terms.awk" "$terms" "$W/tags" | tr '\n' ';')
    [ -z "$strangers" ] && [ "$(wc -l < "$W/tags")" -gt 1 ]
    row $? "$file: each of $(wc -l < "$W/tags") [glossary: ...] tags names terms of the glossary${strangers:+; not these: $strangers}"
done
sed -n 's/^ *\[.*; \(.*\)\]$/\1/p' "$W/help" > "$W/tags"
strangers=$(awk -f "$W/terms.awk" "$terms" "$W/tags" | sort -u | tr '\n' ';')
[ -z "$strangers" ] && [ "$(wc -l < "$W/tags")" -ge 40 ]
row $? "--help: the term of each option is one of the glossary${strangers:+; not these: $strangers}"

# The index in the essay and the banners: the same numbers in the same order, and the index line begins with the
# banner's title.
for file in train.c tokenizer.c; do
    awk -v file="$file" '
        /^\/\* =+$/ { banner = FNR + 1 }
        FNR == banner && /^ \* [0-9]+\. / {
            title = $0; sub(/^ \* /, "", title); sub(/ *\[glossary.*/, "", title); sub(/ *(\*\/)?$/, "", title)
            banners++; number = title + 0
            if (last && number != last + 1) { print "section " number " follows " last; bad = 1 }
            last = number
            name = title; sub(/^[0-9]+\. /, "", name)
            if (substr(index_line[number], 1, length(name)) != name) { print "section " number " is \"" name "\", the index says \"" index_line[number] "\""; bad = 1 }
        }
        !done && /^ \*  ? ?[ 0-9][0-9]\. / { line = $0; sub(/^ \* */, "", line); n = line + 0; sub(/^[0-9]+\. */, "", line); index_line[n] = line; entries++ }
        /^ \*\// { done = 1 }
        END { first = index_line[1] ~ /^This page/
              if (banners + first != entries || banners < 5) { print banners " banners, " entries " lines in the index"; bad = 1 } exit bad }' "$file" > "$W/banners"
    row $? "$file: the index and the banners agree$(tr '\n' ';' < "$W/banners" | sed 's/^/: /; s/: $//')"
done
for file in train.c tokenizer.c; do
    wide=$(awk 'length > 96' "$file" | wc -l)
    [ "$wide" -eq 0 ]
    row $? "$file: $wide lines over 96 columns"
    strange=$(tr -d '\n\040-\176' < "$file" | wc -c)
    [ "$strange" -eq 0 ]
    row $? "$file: $strange bytes that are not plain ASCII"
    torn=$(grep -c -E '^ \* ?\*/$|^ \* [a-z]+$' "$file")
    [ "$torn" -eq 0 ]
    row $? "$file: $torn lines of comment that hold one word or nothing but their end"
done

if [ $skipped -gt 0 ]; then echo "$passed passed, $failed failed, $skipped skipped"; else echo "$passed passed, $failed failed"; fi
[ $failed -eq 0 ]

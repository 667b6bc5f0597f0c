# Runs test programs, two at a time, and adds up their last lines: sh tests/run.sh build/test_a build/test_b ...
# The rows of each go to build/NAME.log; only those that failed are shown here.  Exit status 1 on any
# failure, also when a program ends without its last line.
export OMP_WAIT_POLICY=passive # many small teams of threads, and cores may be shared
if [ "$1" = --one ]; then # the program or script $2: its line, and behind it the counts for the sum
    name=$(basename "$2" .sh) log=build/$(basename "$2" .sh).log
    start=$(date +%s)
    case $2 in
        *.sh) sh "$2" > "$log" 2>&1 ;;
        *) "./$2" > "$log" 2>&1 ;;
    esac
    status=$?
    last=$(tail -n 1 "$log")
    set -- $(printf '%s\n' "$last" | sed -nE 's/^([0-9]+) passed, ([0-9]+) failed(, ([0-9]+) skipped)?$/\1 \2 \4/p')
    problem=$(grep -E '^FAIL' "$log" | head -n 20)
    if [ $# -lt 2 ] || { [ "$status" -ne 0 ] && [ "$2" -eq 0 ]; }; then
        problem=$(printf '%s\n' "$problem" "FAIL $name ended with status $status: $last" | sed '/^$/d')
        set -- "${1:-0}" $((${2:-0} + 1)) "${3:-0}"
    fi
    [ -z "$problem" ] || printf '%s\n' "$problem" | cut -c 1-240
    printf '%-18s %5d passed, %d failed, %d skipped, %d s\n' "$name" "$1" "$2" "${3:-0}" $(($(date +%s) - start))
    echo "$1 $2 ${3:-0}" > "build/$name.sum"
    exit 0
fi
mkdir -p build
rm -f build/*.sum
set -- tests/test_*.sh "$@" # the longest ones first
printf '%s\n' "$@" | xargs -P 2 -n 1 sh tests/run.sh --one
passed=0 failed=0 skipped=0
for program in "$@"; do
    counts=$(cat "build/$(basename "$program" .sh).sum" 2>/dev/null) || counts='0 1 0' # it did not come to its end
    set -- $counts
    passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
done
if [ "$skipped" -gt 0 ]; then echo "$passed passed, $failed failed, $skipped skipped"
else echo "$passed passed, $failed failed"; fi
[ "$failed" -eq 0 ]

# Runs test programs and adds up their last lines: sh tests/run.sh build/test_a build/test_b ...
# The rows of each go to build/NAME.log; only those that failed are shown here.  Exit status 1 on any
# failure, also when a program ends without its last line.
mkdir -p build
export OMP_WAIT_POLICY=passive # many small teams of threads, and cores may be shared
passed=0 failed=0 skipped=0
run() { # NAME COMMAND...
    name=$1 log=build/$1.log
    shift
    start=$(date +%s)
    "$@" > "$log" 2>&1
    status=$?
    last=$(tail -n 1 "$log")
    set -- $(printf '%s\n' "$last" | sed -nE 's/^([0-9]+) passed, ([0-9]+) failed(, ([0-9]+) skipped)?$/\1 \2 \4/p')
    grep -E '^FAIL' "$log" | head -n 20
    if [ $# -lt 2 ] || { [ "$status" -ne 0 ] && [ "$2" -eq 0 ]; }; then
        echo "FAIL $name ended with status $status: $(tail -n 1 "$log" | cut -c 1-160)"
        set -- "${1:-0}" $((${2:-0} + 1)) "${3:-0}"
    fi
    passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + ${3:-0}))
    printf '%-18s %5d passed, %d failed, %d skipped, %d s\n' "$name" "$1" "$2" "${3:-0}" $(($(date +%s) - start))
}
for program in "$@"; do run "$(basename "$program")" "./$program"; done
for script in tests/test_*.sh; do
    if [ -f "$script" ]; then run "$(basename "$script" .sh)" sh "$script"; fi
done
if [ "$skipped" -gt 0 ]; then echo "$passed passed, $failed failed, $skipped skipped"
else echo "$passed passed, $failed failed"; fi
[ "$failed" -eq 0 ]

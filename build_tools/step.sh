#!/bin/sh
# One step of a set-up, or of what STEP_OF names: step.sh LOG WHAT COMMAND...
# Says in one line what it does and how long it took. What COMMAND prints goes to LOG, and to the reader where it fails.
log=$1 what=$2
shift 2
mkdir -p "$(dirname "$log")" || exit 1
printf '%s: %s ...' "${STEP_OF:-set-up}" "$what"
start=$(date +%s)
"$@" > "$log" 2>&1
status=$?
if [ "$status" -ne 0 ]; then
    printf ' failed after %s s. What it printed (%s):\n' "$(($(date +%s) - start))" "$log"
    tail -n 60 "$log"
    exit "$status"
fi
printf ' %s s\n' "$(($(date +%s) - start))"

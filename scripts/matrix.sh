#!/usr/bin/env bash
# Runs the tests whose outcome may depend on the server's version on several of them, one after the other, and ends with a
# line for each: what ran, and what was left out and why.
#
#   scripts/matrix.sh "14 18"             on these major versions, which scripts/setup.sh matrix has unpacked
#   scripts/matrix.sh "14 18" fidelity    only end-to-end tests of these names
set -uo pipefail
cd "$(dirname "$0")/.."

. scripts/cache.sh
majors=$1
shift
export DBSTREAMD_PYTHON="${DBSTREAMD_PYTHON:-$cache/python/bin/python}"

# The modules of tests/e2e that ask most of the server.
core=(fidelity:: values:: schemas:: lost_schema:: ddl:: diverged:: ordering:: resuming:: huge_transaction:: slot_guard:: unpublished:: bad_slot:: bad_server:: other_history:: epochs::)

status=0
summary=()
for major in $majors; do
    export DBSTREAMD_PG_BIN=$servers/$major/bin
    log=$(mktemp)
    echo "=== $("$DBSTREAMD_PG_BIN/postgres" --version)"
    failed=0
    if [ $# -gt 0 ]; then
        cargo test --release -p dbstreamd --test e2e -- --show-output "$@" 2>&1 | tee "$log" || failed=1
    else
        {
            cargo test --release -p dbstreamd-source --test client --test setup --no-fail-fast
            one=$?
            cargo test --release -p dbstreamd --test e2e -- --show-output "${core[@]}" && [ $one = 0 ]
        } 2>&1 | tee "$log" || failed=1
    fi
    [ $failed = 0 ] || status=1
    counts=$(awk '/^test result:/ {
        seen = 1
        for (i = 2; i <= NF; i++) {
            if ($i ~ /^passed/) passed += $(i - 1)
            if ($i ~ /^failed/) failed += $(i - 1)
            if ($i ~ /^ignored/) ignored += $(i - 1)
        }
    } END { if (seen) printf "%d passed, %d failed, %d skipped", passed, failed, ignored; else print "no test ran" }' "$log")
    summary+=("PostgreSQL $major: $counts")
    while IFS= read -r line; do summary+=("    $line"); done < <(grep '^left out' "$log" | sort -u)
    rm -f "$log"
done
printf '%s\n' "${summary[@]}"
exit "$status"

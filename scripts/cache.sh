# Where the scripts beside this one keep what they install; to be sourced.
# shellcheck shell=bash

cache=${DBSTREAMD_CACHE:-$HOME/.cache/dbstreamd}
# The servers of the matrix. For root, tests run them as somebody else, whom root's home may well keep out.
servers=$cache/postgres
if [ "$(id -u)" -eq 0 ]; then
    servers=${DBSTREAMD_CACHE:-/var/cache/dbstreamd}/postgres
fi

#!/bin/sh
# The linker for arm64, where rustc links a static executable to a fixed address: to none, as it does for amd64 by itself.
set -eu
for word; do
    shift
    case $word in
    -static) continue ;;
    -no-pie) word=-static-pie ;;
    esac
    set -- "$@" "$word"
done
# Debian's, of another machine or of this one.
compiler=aarch64-linux-gnu-gcc
command -v "$compiler" >/dev/null || compiler=cc
exec "$compiler" "$@"

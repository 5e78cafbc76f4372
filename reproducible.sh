#!/bin/sh
# Runs cargo so that nothing of this machine is in what it builds: the folders of sources, of cargo's registry, whichever mirror that is
# of, and of the target are called the same everywhere.
#
#   sh reproducible.sh rustc --locked --release --features kubernetes --bin countersign -- -C target-feature=+crt-static
set -eu
: "${CARGO:=cargo}" "${CARGO_HOME:=$HOME/.cargo}"
here=$(pwd -P)
# A registry's folder has its name once something is in it.
host=$(rustc --print host-tuple)
"$CARGO" fetch --locked --target "$host"
mapped="--remap-path-prefix=$here=/countersign"
add() { mapped=$(printf '%s\037%s' "$mapped" "--remap-path-prefix=$1=$2"); }
for registry in "$CARGO_HOME"/registry/src/*; do add "$registry" /crates; done
case "${CARGO_TARGET_DIR:-}" in
'') ;;
/*) add "$CARGO_TARGET_DIR" /countersign/target ;;
*) add "$here/$CARGO_TARGET_DIR" /countersign/target ;;
esac
# The one linker that is not the C compiler itself.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER="$here/link-arm64.sh"
# Flags between which stands a byte that no path has.
export CARGO_ENCODED_RUSTFLAGS="$mapped"
exec "$CARGO" "$@"

#!/bin/sh
# Runs cargo so that nothing of this machine is in what it builds: the folders of sources, of cargo's registry, whichever mirror that is
# of, and of the target are called the same everywhere.
#
#   sh reproducible.sh rustc --locked --release --features kubernetes --bin countersign -- -C target-feature=+crt-static
set -eu
: "${CARGO:=cargo}" "${CARGO_HOME:=$HOME/.cargo}"
here=$(pwd -P)
# A registry's folder has its name once something is in it.
"$CARGO" fetch --locked --target "$(rustc --print host-tuple)"
mapped="--remap-path-prefix=$here=/countersign"
add() { mapped=$(printf '%s\037%s' "$mapped" "--remap-path-prefix=$1=$2"); }
for registry in "$CARGO_HOME"/registry/src/*; do add "$registry" /crates; done
if [ -n "${CARGO_TARGET_DIR:-}" ]; then add "$CARGO_TARGET_DIR" /countersign/target; fi
# Flags between which stands a byte that no path has.
export CARGO_ENCODED_RUSTFLAGS="$mapped"
exec "$CARGO" "$@"

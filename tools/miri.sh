#!/bin/sh
# The modules with unsafe code under Miri, an interpreter that checks every access to memory: the kernels with AVX2 and
# without. Files cannot be mapped there, and signals not be caught: those two modules (crates/io) are tested as they are.
#
#   rustup toolchain install nightly --component miri,rust-src && tools/miri.sh
set -eu
cd "$(dirname "$0")/.."

# Left out: what measures time, and what only keeps threads awake. Thread pools live as long as the process, and the
# queues of rayon need the newer model of borrowing.
export MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-ignore-leaks -Zmiri-tree-borrows -Zmiri-permissive-provenance"
export RUSTFLAGS="-Ctarget-feature=+avx2,+fma,+f16c"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/miri"
cargo +nightly miri test --package trimtab-nn --lib -- kernels:: --skip bench --skip parallel

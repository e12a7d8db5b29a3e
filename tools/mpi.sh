#!/bin/sh
# Gradient exchange over MPI against threads, with 2 and 3 processes, and ranks that fail.
# Installs nothing: says what is missing.
set -eu
cd "$(dirname "$0")/.."

missing=
command -v mpirun >/dev/null || missing="$missing openmpi-bin"
command -v mpicc >/dev/null || missing="$missing libopenmpi-dev"
ls /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang*.so* >/dev/null 2>&1 \
    || [ -n "${LIBCLANG_PATH:-}" ] || missing="$missing libclang-dev"
if [ -n "$missing" ]; then
    echo "missing:$missing" >&2
    echo "hint: on Debian or Ubuntu: apt-get install -y$missing" >&2
    exit 2
fi

cargo build -p trimtab-exchange --features mpi --example mpi_check
program="${CARGO_TARGET_DIR:-target}/debug/examples/mpi_check"
run() {
    ranks=$1
    shift
    # As root only if this is root; more ranks than cores are fine here.
    root=
    [ "$(id -u)" -ne 0 ] || root=--allow-run-as-root
    timeout 120 mpirun $root --oversubscribe -n "$ranks" "$program" "$@"
}

run 2
run 3
for failure in error panic exit; do
    code=0
    run 2 "$failure" >"${TMPDIR:-/tmp}/mpi_check.$$" 2>&1 || code=$?
    if [ "$code" -eq 0 ] || [ "$code" -eq 124 ]; then
        cat "${TMPDIR:-/tmp}/mpi_check.$$" >&2
        echo "a rank that ends by $failure: mpirun ended with code $code, expected a failure and no hang" >&2
        exit 1
    fi
    echo "a rank that ends by $failure ends the group (code $code): $(grep -m1 -E 'has left the group|exit code|exited|panicked' "${TMPDIR:-/tmp}/mpi_check.$$" || true)"
done
rm -f "${TMPDIR:-/tmp}/mpi_check.$$"

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

# The verb: two processes train what one trains, and take up a run of which one was killed.
cargo build --release --workspace --bin trimtab --features trimtab-cli/mpi
trimtab="${CARGO_TARGET_DIR:-target}/release/trimtab"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sed -e 's/^count = .*/count = 400/' -e 's/^heldout = .*/heldout = 20/' -e 's/^steps = .*/steps = 30/' \
    -e 's/^hidden_size = .*/hidden_size = 32/' -e 's/^num_hidden_layers = .*/num_hidden_layers = 2/' \
    -e 's/^intermediate_size = .*/intermediate_size = 64/' -e 's/^save_every = .*/save_every = 3/' \
    -e 's/^vocab = .*/vocab = 400/' -e 's/^dtype = .*/dtype = "f32"/' recipes/pico.toml >"$work/dense.toml"
# PowerSGD with levels by L-GreCo, from step 4 on.
cat "$work/dense.toml" - >"$work/levels.toml" <<TOML
[exchange]
family = { family = "power_sgd", rank = 4 }
policy = { policy = "l_greco", schedule = { start = 4, period = 5, window = 3 } }
TOML
train() {
    ranks=$1
    recipe=$2
    out=$3
    mpirun $root --oversubscribe -n "$ranks" "$trimtab" train "$work/$recipe.toml" -o "$work/$out" --threads 1 --json >"$work/$out.json"
}
field() { sed -n "s/^ *\"$1\": *\([^,]*\),*\$/\1/p" "$work/$2.json"; }
root=
[ "$(id -u)" -ne 0 ] || root=--allow-run-as-root
"$trimtab" train "$work/dense.toml" -o "$work/one" --json >"$work/one.json"
train 2 dense two
for out in one two; do
    echo "$out: held-out loss $(field heldout_loss $out), $(field processes $out) processes, $(field sent_bytes $out) bytes sent by the first"
done
awk -v a="$(field heldout_loss one)" -v b="$(field heldout_loss two)" 'BEGIN { d = a - b; exit !(d < 1e-3 && d > -1e-3) }' \
    || { echo "one and two processes differ" >&2; exit 1; }
train 2 levels whole
train 2 levels broken &
run=$!
for _ in $(seq 300); do
    [ ! -e "$work/broken.partial/training.safetensors" ] || break
    sleep 0.1
done
pkill -KILL -n -f "train $work/levels.toml -o $work/broken" || true
code=0
wait "$run" || code=$?
[ "$code" -ne 0 ] || { echo "a killed process was not noticed" >&2; exit 1; }
train 2 levels broken
cmp "$work/whole/model.safetensors" "$work/broken/model.safetensors"
echo "levels: held-out loss $(field heldout_loss whole), $(field sent_bytes whole) bytes sent by the first; killed (mpirun: code $code) and taken up to the same bytes"

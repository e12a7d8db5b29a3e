#!/bin/sh
# `mpirun trimtab train`: two processes train what one trains, and take up a run of which one was killed. Needs what tools/mpi.sh
# needs, and builds the program with the feature `mpi`, which compiles most dependencies again.
set -eu
cd "$(dirname "$0")/.."

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

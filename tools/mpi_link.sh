#!/bin/sh
# Two processes that train over a limited link: seconds, held-out loss, and bytes of gradients as the program counts them beside
# those that the link carried. Linux, as root: the link is the loopback of a network namespace, limited by `tc`.
#
#   tools/mpi_link.sh [RATE ...]       rates as `tc` names them, by default: 100mbit 1gbit none
#
# Needs what tools/mpi_train.sh needs; TRIMTAB names a program that is built already with the feature `mpi`.
set -eu
cd "$(dirname "$0")/.."

if [ -z "${TRIMTAB:-}" ]; then
    cargo build --release --workspace --bin trimtab --features trimtab-cli/mpi
    TRIMTAB="${CARGO_TARGET_DIR:-target}/release/trimtab"
fi
work=$(mktemp -d)
space="trimtab-link-$$"
trap 'rm -rf "$work"; ip netns delete "$space"' EXIT
ip netns add "$space"
inside() { ip netns exec "$space" "$@"; }
inside ip link set lo up mtu 1500

sed -e 's/^count = .*/count = 800/' -e 's/^heldout = .*/heldout = 20/' -e 's/^steps = .*/steps = 60/' \
    -e 's/^hidden_size = .*/hidden_size = 96/' -e 's/^num_hidden_layers = .*/num_hidden_layers = 2/' \
    -e 's/^intermediate_size = .*/intermediate_size = 256/' -e '/^save_every = .*/d' -e '/^heldout_every = .*/d' \
    -e 's/^window = .*/window = 64/' -e 's/^vocab = .*/vocab = 512/' -e 's/^dtype = .*/dtype = "f32"/' recipes/pico.toml >"$work/dense.toml"
exchange() {
    { cat "$work/dense.toml"; printf '\n[exchange]\nfamily = %s\npolicy = %s\n' "$2" "$3"; } >"$work/$1.toml"
}
levels='{ policy = "l_greco", schedule = { start = 10, period = 10, window = 5 } }'
exchange power-sgd '{ family = "power_sgd", rank = 4 }' '{ policy = "uniform" }'
exchange power-sgd-l-greco '{ family = "power_sgd", rank = 4 }' "$levels"
exchange qsgd '{ family = "qsgd", bits = 4 }' '{ policy = "uniform" }'
exchange qsgd-l-greco '{ family = "qsgd", bits = 4 }' "$levels"

root=
[ "$(id -u)" -ne 0 ] || root=--allow-run-as-root
field() { sed -n "s/^ *\"$1\": *\([^,]*\),*\$/\1/p" "$work/out.json"; }
carried() { inside cat /sys/class/net/lo/statistics/tx_bytes; }
now() { date +%s.%N; }
printf '%-8s %-18s %8s %10s %14s %14s\n' link exchange seconds loss 'bytes a rank' 'on the link'
for rate in "${@:-100mbit 1gbit none}"; do
    for rate in $rate; do
        inside tc qdisc delete dev lo root 2>/dev/null || true
        [ "$rate" = none ] || inside tc qdisc add dev lo root tbf rate "$rate" burst 256kb latency 400ms
        for recipe in dense power-sgd power-sgd-l-greco qsgd qsgd-l-greco; do
            begin=$(now) before=$(carried)
            inside mpirun $root --oversubscribe -n 2 --mca btl tcp,self --mca btl_tcp_if_include lo \
                "$TRIMTAB" train "$work/$recipe.toml" -o "$work/out" --force --threads 1 --json >"$work/out.json"
            seconds=$(echo "$(now) $begin" | awk '{ print $1 - $2 }')
            printf '%-8s %-18s %8.1f %10.4f %14d %14d\n' "$rate" "$recipe" "$seconds" "$(field heldout_loss)" \
                "$(field sent_bytes)" "$(($(carried) - before))"
        done
    done
done

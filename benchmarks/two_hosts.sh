#!/usr/bin/env bash
# Purpose:  train on two hosts, joined by a cable, and compare with one process. The hosts are two
#           network namespaces of this machine: each sees its own interfaces only, not even the
#           other's loopback, so all that passes between them passes the cable (a veth pair).
# Command:  sudo benchmarks/two_hosts.sh [CASE]        module (default) or regression
# Hardware: Linux, root, iproute2; the Python environment active.
# Expected: bytes over the cable, then a greatest difference of weights below 1e-5.
set -euo pipefail
cd "$(dirname "$0")/../tests/tasks"
case=${1:-module}
out=$(mktemp -d)
finish() {
    kill $(jobs -p) 2>/dev/null || true
    ip netns delete vcm-a 2>/dev/null || true
    ip netns delete vcm-b 2>/dev/null || true
    rm -rf "$out"
}
trap finish EXIT

ip netns add vcm-a
ip netns add vcm-b
ip link add cable-a netns vcm-a type veth peer name cable-b netns vcm-b
for host in a b; do
    address=10.77.0.$([ $host = a ] && echo 1 || echo 2)
    ip -n vcm-$host address add $address/24 dev cable-$host
    ip -n vcm-$host link set cable-$host up
    ip -n vcm-$host link set lo up
done

# On real hosts this is the same command on each, with its own rank; GLOO_SOCKET_IFNAME (for GPUs
# NCCL_SOCKET_IFNAME) is needed where a host's name does not resolve to the address of the cable.
train_on() { # host, rank
    ip netns exec vcm-"$1" env GLOO_SOCKET_IFNAME=cable-"$1" OMP_NUM_THREADS=1 \
        accelerate launch --multi_gpu --num_machines 2 --num_processes 2 --machine_rank "$2" \
        --main_process_ip 10.77.0.1 --main_process_port 29500 \
        --mixed_precision no --dynamo_backend no \
        small_training.py "$case" "out=$out/$1" 2>"$out/$1.txt" || { cat "$out/$1.txt"; exit 1; }
}
train_on b 1 &
train_on a 0
wait $!
for host in a b; do
    bytes=$(ip netns exec vcm-$host cat /sys/class/net/cable-$host/statistics/rx_bytes)
    echo "host $host received $bytes bytes over the cable"
done

OMP_NUM_THREADS=1 python small_training.py "$case" "out=$out/one"
python - "$out" <<'PYTHON'
import sys
from pathlib import Path
from safetensors.torch import load_file

one, a, b = (
    load_file(Path(sys.argv[1], *name, "diffusion_pytorch_model.safetensors"))
    for name in (("one", "net-0"), ("a", "net-0"), ("b", "net-1"))
)
for name, other in (("one process and host a", a), ("one process and host b", b)):
    most = max(float((one[k] - other[k]).abs().max()) for k in one)
    print(f"greatest difference of {sum(x.numel() for x in one.values())} weights, {name}: {most:.2g}")
    assert most < 1e-5
PYTHON

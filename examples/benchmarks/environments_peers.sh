#!/usr/bin/env bash
# Throw-away virtual environments for the peers that environments_peers.py measures, one per peer.
#
#     bash examples/benchmarks/environments_peers.sh [FOLDER]     (default: a fresh temporary folder)
#
# Leaves FOLDER/myosuite (also holds MuJoCo, hence serves `mujoco`) and FOLDER/motornet, about 1 GB each, and prints
# their interpreters, one `peer=path` a line; everything else goes to stderr. An environment that already holds the
# pinned versions is kept. Then, on one core:
#
#     OMP_NUM_THREADS=1 taskset -c 1 FOLDER/myosuite/bin/python examples/benchmarks/environments_peers.py myosuite
#     OMP_NUM_THREADS=1 taskset -c 1 FOLDER/myosuite/bin/python examples/benchmarks/environments_peers.py mujoco
#     OMP_NUM_THREADS=1 taskset -c 1 FOLDER/motornet/bin/python examples/benchmarks/environments_peers.py motornet
#
# Python 3.11 and these versions are what worked. MyoSuite 3 takes its models from the wheel myo-sim, so nothing is
# downloaded from GitHub. PYTHON chooses another interpreter.
set -euo pipefail

python=${PYTHON:-python3}
folder=${1:-$(mktemp -d -t peers.XXXXXX)}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

myosuite=(myosuite==3.0.0 myo-sim==0.2.3 mujoco==4.0.0 gymnasium==1.2.3 numpy==2.4.6 scipy==1.17.1)
motornet=(motornet==0.3.0 gymnasium==1.4.0 numpy==2.4.6)
torch=torch==2.13.0+cpu

create() {
    [ -x "$folder/$1/bin/python" ] || "$python" -m venv "$folder/$1" >&2
}

install() {
    "$folder/$1/bin/python" -m pip install --quiet --prefer-binary "${@:2}" >&2
}

create myosuite
install myosuite "${myosuite[@]}"

create motornet
# PyPI's own Linux wheel of torch brings CUDA along; the CPU build lies on PyTorch's index, or among pip's find-links.
install motornet "$torch" || install motornet --index-url https://download.pytorch.org/whl/cpu "$torch"
install motornet "$torch" "${motornet[@]}"

echo "myosuite=$folder/myosuite/bin/python"
echo "mujoco=$folder/myosuite/bin/python"
echo "motornet=$folder/motornet/bin/python"

#!/usr/bin/env bash
# Builds with the CUDA kernels, by nvcc from PyPI (no driver, no GPU, nothing outside target/), and holds their machine code
# against the table of gates. Run it, or source it and call check_cuda.

# Installs nvcc, and builds with it from now on: over what was built without it, for nothing but this crate differs. In the root
# of the repository.
use_nvcc() {
  VENV=$PWD/target/cuda/venv
  if [[ ! -x $VENV/bin/pip ]]; then python3 -m venv "$VENV"; fi
  # 13.0: a later one writes PTX that driver 580 does not take.
  "$VENV/bin/pip" install --quiet --disable-pip-version-check 'nvidia-cuda-nvcc==13.0.88' 'nvidia-nvvm==13.0.88' \
    'nvidia-cuda-crt==13.0.88' 'nvidia-cuda-runtime==13.0.96' 'nvidia-cuda-cccl==13.0.85' \
    'nvidia-cuda-cuobjdump>=13.2,<14' 'nvidia-cuda-nvdisasm>=13.2,<14'
  local tools
  tools=$(echo "$VENV"/lib/python3*/site-packages/nvidia/cu13/bin)
  export PATH=$tools:$PATH NVCC=$tools/nvcc DOGE_CUDA=require CARGO_TARGET_DIR=$PWD/target
}

check_cuda() (
  set -euo pipefail
  cd "$(git rev-parse --show-toplevel)"
  use_nvcc
  cargo build --quiet --release
  images=$(dirname "$(ls -t target/release/build/doge-engine-*/out/*.fatbin | head -n 1)")
  python3 .ci/cuda_gates.py "$images"
  # No driver here: the binary must say so, and still run on the CPU.
  if message=$(env -u LD_LIBRARY_PATH target/release/doge generate -p x -n 1 --device cuda 2>&1); then
    echo "check_cuda: --device cuda ran; a machine with a GPU shall run .ci/gpu.sh" >&2
  elif [[ $message != *"cuda:0 cannot be used"* || $message == *"no CUDA kernels"* ]]; then
    echo "check_cuda: without a driver --device cuda says: $message" >&2
    exit 1
  fi
  target/release/doge generate -p x -n 1 --device auto --quiet >/dev/null
)

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then check_cuda; fi

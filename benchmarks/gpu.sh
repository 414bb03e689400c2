#!/usr/bin/env bash
# All that needs a GPU, in one call of about eight minutes: its tests, training speed, one real training.
# What it prints and measures goes to the folder $OUT. PYTHON names an interpreter that has the packages.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT="${OUT:-gpu-results}"
PYTHON="${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}"
DATA="${DATA:-drawn:largest=1600,ratio=10}"
mkdir -p "$OUT"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" EMOTION_CACHE_DIR="${EMOTION_CACHE_DIR:-$(mktemp -d)}"
status=0

step() { # seconds name command...: run one part, keep what it prints, go on with the next whatever happens
  local seconds=$1 name=$2 start=$SECONDS
  shift 2
  echo "== $name (at most $seconds s)"
  timeout "$seconds" "$@" > "$OUT/$name.txt" 2>&1
  local ended=$?
  tail -n 8 "$OUT/$name.txt"
  echo "== $name: status $ended, $((SECONDS - start)) s"
  [ $ended -eq 0 ] || status=1
}

step 60 device "$PYTHON" -c 'import torch; assert torch.cuda.is_available(), "no CUDA device"; print(torch.__version__, [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())])'
step 150 tests "$PYTHON" -m pytest tests/gpu -m ""
step 150 speed "$PYTHON" -m benchmarks --only gpu
cp benchmarks/results.json "$OUT/" 2> /dev/null
step 120 training "$PYTHON" -m emotion fit --recipe balanced --data "$DATA" --data.split holdout --trainer.accelerator gpu --trainer.precision bf16-mixed
exit $status

#!/usr/bin/env bash
# scripts/gpu-check makes its folder, and the programs in it start on a machine without a driver and say so.
#
#   gpu_check_test.sh SOURCE FOLDER
set -euo pipefail
source=$1 folder=$2
"$source/scripts/gpu-check" 90-real "$folder"

"$folder/bin/tenon" --version
"$folder/bin/tenon-bench" --help >/dev/null
for program in kernels_gpu_test scenarios_gpu_test engines_gpu_test; do
  status=0
  output=$("$folder/bin/$program") || status=$?
  if ((status == 0)); then
    continue # there is a GPU
  fi
  if ((status != 77)) || [[ $output != *"no GPU: "*"1 skipped"* ]]; then
    echo "$program without a GPU: exit status $status, $output" >&2
    exit 1
  fi
  if TENON_REQUIRE_GPU=1 "$folder/bin/$program" >/dev/null; then
    echo "$program without a GPU that is required: exit status 0" >&2
    exit 1
  fi
  # Everything in the folder is skipped then, and shown as skipped.
  status=0
  output=$("$folder/run" "$folder/results") || status=$?
  if ((status != 77)) || [[ $output != *"skipped probe-device: no GPU"* ]]; then
    echo "run without a GPU: exit status $status, $output" >&2
    exit 1
  fi
done

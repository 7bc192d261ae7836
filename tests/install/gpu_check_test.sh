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

# Every part of the run comes to its end where all programs are content: doubles of them and of compute-sanitizer.
doubles=$folder-doubles
rm -rf "$doubles"
mkdir -p "$doubles/bin"
cp "$folder/run" "$folder/commit" "$doubles"
for program in bin/gpu_probe bin/kernels_gpu_test bin/scenarios_gpu_test bin/engines_gpu_test bin/chaos_gpu bin/tenon bin/tenon-bench \
  bin/compute-sanitizer relay; do
  printf '#!/bin/sh\nexit 0\n' >"$doubles/$program"
  chmod +x "$doubles/$program"
done
PATH=$doubles/bin:$PATH "$doubles/run" "$doubles/results" probe tests sanitize relay bench >"$doubles/log" 2>&1 || {
  cat "$doubles/log"
  exit 1
}
for part in probe kernels engines chaos sanitize-memcheck sanitize-synccheck relay-command bench-gather-qwen3-30b-a3b bench-sizes bench-subscribers \
  bench-relay-llama-3.2-1b bench-handles-llama-3.1-8b; do
  grep -q "^ok  *$part\$" "$doubles/log" || {
    echo "run did not come to $part" >&2
    cat "$doubles/log"
    exit 1
  }
done
rm -rf "$doubles"

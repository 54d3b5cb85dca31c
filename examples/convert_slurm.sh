#!/usr/bin/env bash
# A checkpoint to Hugging Face, or back, on Slurm: an array of TASKS tasks with CPUS threads each that share one conversion.
#
#   TASKS=8 CPUS=4 examples/convert_slurm.sh from-hf /models/Llama-3.1-70B /checkpoints/llama31_70b
#   TASKS=8 CPUS=4 examples/convert_slurm.sh to-hf /runs/stable /models/stable --max-shard-size 5GB
#
# Files are what tasks share: more tasks than files are of no use, and --max-shard-size decides how many there are. The last task to end
# puts the directory together and, with --check, reads all of it again. After a failure, run the script again: finished files are kept.
# Options of sbatch (partition, account, time) come from SBATCH_* variables, as always.
set -euo pipefail
TASKS=${TASKS:-8}
CPUS=${CPUS:-4}

command="megatron-octo convert $(printf '%q ' "$@") --workers $CPUS --tasks $TASKS --task \$SLURM_ARRAY_TASK_ID"
sbatch --parsable --job-name=convert --array=0-$((TASKS - 1)) --cpus-per-task="$CPUS" \
  --output="${LOGS:-.}/convert-%A_%a.log" --wrap "$command"

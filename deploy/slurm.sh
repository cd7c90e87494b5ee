#!/usr/bin/env bash
# One run on the GPUs of several machines, by Slurm. docs/cluster.md says what the ranks share and
# which ports must be closed to everything outside the cluster.
#
#   sbatch deploy/slurm.sh my-book.txt runs/book --steps 20000 --keep-last 2
#
# The text and the run folder are on a file system that all machines share. Further arguments go to
# hornbook train. Never run: there was no cluster (docs/scale.md).

#SBATCH --job-name=hornbook
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=1    # one torchrun a machine, which starts a process for each GPU
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue              # a preempted job, or one that lost a machine, is queued again
#SBATCH --open-mode=append     # and goes on in the same log
#SBATCH --output=%x-%j.log
#SBATCH --signal=B:USR1@300    # this script is told five minutes before the time is over; and when
                               # the job is preempted, where PreemptParameters=send_user_signal

set -euo pipefail

text=${1:?usage: sbatch slurm.sh TEXT RUN [options of hornbook train]}
run=${2:?usage: sbatch slurm.sh TEXT RUN [options of hornbook train]}
shift 2

# The environment that hornbook is installed in, on all machines under the same path.
environment=${HORNBOOK_ENVIRONMENT:-$HOME/hornbook/.venv}
# shellcheck disable=SC1091  # not a part of the repository
source "$environment/bin/activate"

mapfile -t machines < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# Needed where machines come and go: otherwise torchrun keeps the addresses of dead processes.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

# A requeued job has its old number. So its processes find the run by --rdzv-id, and go on from the
# last checkpoint.
srun --kill-on-bad-exit=1 torchrun \
  --nnodes "$SLURM_JOB_NUM_NODES" \
  --nproc-per-node gpu \
  --max-restarts 100 \
  --rdzv-backend c10d \
  --rdzv-endpoint "${machines[0]}:29400" \
  --rdzv-id "slurm-$SLURM_JOB_ID" \
  -m hornbook train "$text" --out "$run" "$@" &
step=$!

# srun passes SIGTERM to torchrun and torchrun to the ranks, which finish their step and save.
noticed=
trap 'noticed=yes; kill -TERM "$step" 2> /dev/null || true' USR1 TERM

status=0
wait "$step" || status=$?
while kill -0 "$step" 2> /dev/null; do # a signal ended the wait, not the training
  status=0
  wait "$step" || status=$?
done

# Without that parameter Slurm sends SIGTERM to the ranks themselves when it preempts the job.
case "$(scontrol show job "$SLURM_JOB_ID")" in *PreemptTime=[0-9]*) noticed=yes ;; esac
if [ "$status" -ne 0 ] && [ -n "$noticed" ]; then # it was stopped before its end
  scontrol requeue "$SLURM_JOB_ID" || true        # Slurm may have done so itself
fi
exit "$status"

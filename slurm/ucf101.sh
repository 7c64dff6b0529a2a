#!/bin/bash
# The whole UCF101 recipe, from videos to the report: submits the five files beside it, each to begin when the one before
# has succeeded. Edit what they ask for, then, with vicc in the PATH:
#
#   VIDEOS=ucf101/UCF-101 STORE=store-ucf101 RUN=run-ucf101 slurm/ucf101.sh
#
# squeue --me shows the jobs, scancel NUMBER ends one, and with it those that wait for it.
set -euo pipefail
here=$(dirname "$0")
before=
for step in prepare merge pretrain retrieve report; do
    job=$(sbatch --parsable --kill-on-invalid-dep=yes ${before:+--dependency=afterok:$before} "$here/$step.sbatch")
    echo "$step: job $job"
    before=$job
done

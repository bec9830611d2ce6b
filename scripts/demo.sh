#!/usr/bin/env bash
# The whole demo on the head phantom: translate, segment, judge, report. Killed and started again it resumes.
# Arguments go to snakemake, e.g. `--dry-run`, `--cores 8`, `--config output_dir=/data/demo`.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

# --nolock, --rerun-incomplete: a killed run needs no unlocking; what it was writing is made again.
exec snakemake --snakefile scripts/Snakefile --configfile scripts/recipes/demo.yaml \
    --cores 2 --resources gpu=1 --nolock --rerun-incomplete --quiet rules host reason "$@"

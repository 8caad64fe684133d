# streamdac in a container, by README's own steps.
FROM debian:bookworm-slim

# What .ci/run and README ask of a machine; the certificates are for downloads.
RUN apt-get update \
    && apt-get install -y --no-install-recommends make gcc g++ python3-dev python3-venv libportaudio2 ca-certificates \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /streamdac
COPY . .

# The torch that pip finds by default carries CUDA, some gigabytes of it, and runs on CPUs too. For a small CPU image name PyTorch's
# index of CPU builds: docker build --build-arg TORCH_CPU_INDEX=... -t streamdac . (GPU=1 leaves it out of account.)
ARG GPU=0
ARG TORCH_CPU_INDEX=
RUN if [ "$GPU" = 0 ] && [ -n "$TORCH_CPU_INDEX" ]; then export PIP_EXTRA_INDEX_URL="$TORCH_CPU_INDEX"; fi \
    && PIP_NO_CACHE_DIR=1 make install

ENV PATH=/streamdac/.venv/bin:$PATH
# Downloaded models are here: mount a volume to keep them.
VOLUME /root/.cache/descript
WORKDIR /data
ENTRYPOINT ["streamdac"]
CMD ["--help"]

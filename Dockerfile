# md4jax for NVIDIA GPUs. CUDA comes with jax's wheels; the host has the driver, 580 or newer, and
# NVIDIA's container toolkit. Data and runs are folders of the host that uid 1000 may write to:
#
#   docker build --tag=md4jax .
#   docker run --rm --gpus=all --volume="$PWD/data:/md4jax/data" --volume="$PWD/runs:/runs" md4jax \
#       --config=configs/md4/cifar10.py --workdir=/runs/cifar10
#   docker run ... --entrypoint=python md4jax prepare_data.py --dataset=cifar10
FROM python:3.11.7-slim-bookworm
ENV PYTHONUNBUFFERED=1
RUN useradd --uid=1000 --create-home md4jax
WORKDIR /md4jax
# What is large and seldom changes first: jax and the rest, for a package that is not there yet.
COPY pyproject.toml requirements_gpu.txt LICENSE ./
RUN mkdir md4jax && touch md4jax/__init__.py README.md \
    && pip install --no-cache-dir -r requirements_gpu.txt
COPY main.py prepare_data.py ./
COPY configs configs
COPY md4jax md4jax
USER md4jax
ENTRYPOINT ["python", "main.py"]

# The service's image plus what its networks need on an NVIDIA GPU. Run in the repository's root:
#   docker build -f deploy/gpu.Dockerfile --build-arg IMAGE=neurobento:latest -t neurobento:latest-gpu .
ARG IMAGE=neurobento:latest
FROM ${IMAGE}
USER root
COPY requirements/gpu.txt /opt/gpu.txt
RUN uv pip install --python /app/.venv/bin/python --no-cache -r /opt/gpu.txt
USER bentoml

# The command `neurobento cohort` with Dask, for the pods of docs/scaling.md:
#   docker build -f deploy/cohort.Dockerfile -t REGISTRY/neurobento-cohort:0.1.0 .
FROM python:3.11-slim-bookworm
WORKDIR /opt/neurobento
COPY pyproject.toml setup.py constraints.txt README.md LICENSE ./
COPY requirements requirements
COPY neurobento neurobento
COPY models models
RUN pip install --no-cache-dir -c constraints.txt -e '.[cohort]' \
 && useradd --uid 1034 --create-home cohort
USER 1034

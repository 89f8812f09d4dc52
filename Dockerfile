# Podium: controller, agent and the `podium` command in one image. For amd64 and arm64, as far as its base is.
#
#   docker build --tag podium .
#   docker build --tag podium-agent --build-arg PARTS=agent,cli .     without the controller's libraries
#
# BASE is any image with Python 3.11 or later, its venv module and a shell. Where the package index cannot be reached:
# `pip wheel --wheel-dir wheelhouse --constraint constraints.txt '.[all]' hatchling` where it can, then build with
# --build-arg PIP_NO_INDEX=1 --build-arg PIP_FIND_LINKS=/src/wheelhouse.
ARG BASE=python:3.11-slim

FROM ${BASE} AS build
ARG PARTS=all
ARG PIP_NO_INDEX
ARG PIP_FIND_LINKS
ARG PIP_INDEX_URL
WORKDIR /src
COPY . .
# Without pip, which nothing needs any more. Compiled ahead: the image may be run read-only.
RUN python3 -m venv /opt/podium \
 && /opt/podium/bin/pip install --no-cache-dir --disable-pip-version-check --no-compile --constraint constraints.txt ".[${PARTS}]" \
 && /opt/podium/bin/pip uninstall --quiet --yes setuptools pip \
 && /opt/podium/bin/python -m compileall -q /opt/podium/lib

FROM ${BASE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="Podium" \
      org.opencontainers.image.description="A container orchestrator: controller, agent and command" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
COPY --from=build /opt/podium /opt/podium
COPY deploy/image/healthcheck.py /opt/podium/healthcheck.py
# A volume mounted here for the first time takes its owner over. /shared is for what containers hand each other.
RUN mkdir -p /var/lib/podium /shared/agents /shared/controllers /shared/etcd \
 && chown -R 10001:10001 /var/lib/podium /shared
ENV PATH=/opt/podium/bin:$PATH \
    HOME=/var/lib/podium \
    PYTHONUNBUFFERED=1 \
    PYTHONFAULTHANDLER=1 \
    PODIUM_HEALTH=127.0.0.1:7078
# Only an agent with the Docker runtime has to be another: root, or a member of the socket's group.
USER 10001:10001
WORKDIR /var/lib/podium
EXPOSE 7077 7078 7079
# PODIUM_HEALTH is where the process serves HTTP: an agent's is another address, and https:// where it leaves loopback.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python3", "-IS", "/opt/podium/healthcheck.py"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["podium"]
CMD ["--help"]

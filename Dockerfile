# One image for all programs: Python and Java from Debian, packages and jars with pinned hashes.
FROM debian:bookworm-slim

RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates make openjdk-17-jre-headless python3 python3-venv tini \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --home-dir /var/lib/bitcoin bitcoin

ENV XDG_CACHE_HOME=/opt/bitcoin/cache \
    PYTHONUNBUFFERED=1
WORKDIR /opt/bitcoin/app

# Rarely changed files first, so that a code change does not invalidate the installed packages.
COPY requirements-bootstrap.txt requirements.txt requirements-dev.txt ./
COPY devstack devstack
COPY config config
COPY marketdata marketdata
COPY exchanges exchanges
COPY clients clients
COPY simulator simulator
RUN python3 -m devstack.bootstrap

COPY streams streams
COPY batch batch
COPY forecasting forecasting
RUN mkdir -p /var/lib/bitcoin/stack /var/lib/bitcoin/streams /var/lib/bitcoin/report \
 && chown -R bitcoin:bitcoin /var/lib/bitcoin /opt/bitcoin/cache

USER bitcoin
ENV PATH=/opt/bitcoin/app/.venv/bin:$PATH \
    BDI_PROFILE=compose
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "devstack", "--help"]

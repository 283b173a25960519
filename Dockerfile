# doortab in one image: `doortab gate`, `doortab ledger`, or any other command.
# Everything comes out of the lock with its hash, as wheels; nothing is compiled and no index is named.

FROM python:3.13.9-slim-bookworm AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore

# What the product runs with. The layer is made anew only when the lock changes.
COPY requirements.lock requirements-run.lock ./
RUN python -m venv --without-pip /opt/doortab \
 && pip --python /opt/doortab/bin/python install --require-hashes --only-binary :all: -r requirements-run.lock

# What builds our wheel: setuptools, at the version and with the hashes of the lock.
RUN sed '/^setuptools==/,/[^\\]$/!d' requirements.lock > setuptools.lock \
 && pip install --require-hashes --only-binary :all: -r setuptools.lock

COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY producers producers
COPY consumers consumers
COPY analytics analytics
COPY doortab doortab
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && pip --python /opt/doortab/bin/python install --no-deps --no-index /wheels/doortab-*.whl


FROM python:3.13.9-slim-bookworm
COPY --from=build /opt/doortab /opt/doortab
# A volume that is mounted here for the first time takes over the owner.
RUN groupadd --gid 10001 doortab \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin doortab \
 && install --directory --owner 10001 --group 10001 --mode 0700 /data
ENV PATH=/opt/doortab/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 DOORTAB_DATA=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8600
ENTRYPOINT ["doortab"]
CMD ["--help"]

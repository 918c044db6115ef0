# Two images from one file: `worker` runs every command but the build of models, `models` has TensorFlow for that.
# docker-compose.yml builds both. RUN --mount needs BuildKit, which Docker has used by itself since version 23.

# A tag may be pushed again. To pin the bytes too, add @sha256:… as `docker buildx imagetools inspect` shows it.
FROM python:3.13.16-slim-bookworm AS python
ENV PATH=/opt/tagmill/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1
# The image comes without compiled modules, and containers that cannot write would compile them at every start.
# /models belongs to our user, and so does the volume that Docker makes from it.
RUN python -m compileall -q -x site-packages "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
    && groupadd --gid 10001 tagmill \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir /tmp tagmill \
    && install -d -o tagmill -g tagmill /models

FROM python AS wheel
RUN --mount=source=requirements/build.txt,target=/build.txt \
    pip install --no-deps --require-hashes --only-binary :all: -r /build.txt
WORKDIR /src
COPY . .
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheel .

FROM python AS worker-packages
RUN python -m venv --without-pip /opt/tagmill
RUN --mount=source=requirements/worker.txt,target=/worker.txt \
    pip --python /opt/tagmill install --no-deps --require-hashes --only-binary :all: -r /worker.txt

FROM worker-packages AS models-packages
RUN --mount=source=requirements/train.txt,target=/train.txt \
    pip --python /opt/tagmill install --no-deps --require-hashes --only-binary :all: -r /train.txt

# The packages are a layer of their own, which stays as it is when only our code changes.
FROM python AS models
COPY --from=models-packages /opt/tagmill /opt/tagmill
RUN --mount=from=wheel,source=/wheel,target=/wheel \
    pip --python /opt/tagmill install --no-deps --no-index /wheel/*.whl
USER 10001:10001
ENTRYPOINT ["tagmill"]
CMD ["models", "build"]

# The last one is what `docker build .` makes.
FROM python AS worker
COPY --from=worker-packages /opt/tagmill /opt/tagmill
RUN --mount=from=wheel,source=/wheel,target=/wheel \
    pip --python /opt/tagmill install --no-deps --no-index /wheel/*.whl
USER 10001:10001
ENTRYPOINT ["tagmill"]
CMD ["worker"]

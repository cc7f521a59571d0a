FROM python:3.13-slim AS build
WORKDIR /build
COPY requirements-dev.lock .
RUN pip install --no-cache-dir --require-hashes -r requirements-dev.lock
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m build --wheel --no-isolation

FROM python:3.13-slim
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TALLYBOOK_HOME=/var/lib/tallybook
COPY requirements.lock /
RUN pip install --no-cache-dir --require-hashes -r /requirements.lock
RUN --mount=type=bind,from=build,source=/build/dist,target=/dist pip install --no-cache-dir --no-deps --no-index /dist/*.whl
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/tallybook tallybook
USER tallybook
WORKDIR /var/lib/tallybook
ENTRYPOINT ["tallybook"]

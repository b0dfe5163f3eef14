# pacx serve, on a CPU, without torch, as a user without rights.
#
#   docker build -t pacx .
#   docker run --rm -p 127.0.0.1:8000:8000 -e PACX_TOKEN=... pacx
#   docker run --rm -p 127.0.0.1:8000:8000 -e PACX_TOKEN=... -v "$PWD/models:/models:ro" pacx /models/model.onnx
FROM python:3.11.14-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY requirements requirements
COPY recipes recipes
COPY src src
# The extra `dicom` brings decoders for compressed DICOM; pylibjpeg-libjpeg is GPL-3.0. Build with
# --build-arg EXTRAS=serve for an image without it.
ARG EXTRAS=serve,dicom
RUN python -m venv /opt/pacx \
 && /opt/pacx/bin/pip install --no-cache-dir --constraint requirements/constraints.txt ".[${EXTRAS}]"

FROM python:3.11.14-slim-bookworm
LABEL org.opencontainers.image.title="pacx" \
      org.opencontainers.image.description="Chest X-ray encoders over HTTP. Research use only; not a medical device." \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin pacx
COPY --from=build /opt/pacx /opt/pacx
ENV PATH=/opt/pacx/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
STOPSIGNAL SIGTERM
# In a container every address is the container's own; which of the host's may reach it is said with -p.
ENTRYPOINT ["pacx", "serve", "--host", "0.0.0.0", "--port", "8000", "--models"]
CMD ["shipped:phantom-small"]

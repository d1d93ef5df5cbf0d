# The server: nextvec serve. What it serves is mounted at /data (a run, a store), nothing of it is in the image.
#   docker build -t nextvec .
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/data:/data:ro" nextvec run --store store

FROM python:3.11-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/nextvec
ENV PATH=/opt/nextvec/bin:$PATH
WORKDIR /src
COPY constraints.txt ./
# The build of torch without CUDA: 200 MB instead of several GB. What it needs comes with the next step.
RUN pip install --no-deps -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install -c constraints.txt ".[serve,onnx,faiss,pgvector]"

FROM python:3.11-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /data --no-create-home nextvec
COPY --from=build /opt/nextvec /opt/nextvec
# Whatever a library wants to keep goes to /tmp; everything else may be read-only.
ENV PATH=/opt/nextvec/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HF_HOME=/tmp/huggingface
WORKDIR /data
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health/ready', timeout=4)"]
ENTRYPOINT ["nextvec", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["run"]

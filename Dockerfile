# Answers over HTTP by the runs below /runs: see docs/howto/serve.md.
#
#   docker build -t morphax .
#   docker run --rm -p 8000:8000 -e MORPHAX_TOKEN=secret -v "$PWD/runs:/runs:ro" morphax /runs/sentiment_bert
FROM python:3.12-slim
RUN useradd --create-home morphax
WORKDIR /opt/morphax
COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY train train
COPY configs configs
RUN pip install --no-cache-dir ".[serve]"
USER morphax
WORKDIR /home/morphax
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --start-period=300s \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/ready', timeout=5)"]
ENTRYPOINT ["morphax", "serve", "--host", "0.0.0.0", "--port", "8000"]

# A small image of the daemon: `docker build -t mail-gateway .`
# docker run -p 25:25 -p 127.0.0.1:9125:9125 -v gateway:/var/lib/gateway -v ./gateway.toml:/etc/gateway/gateway.toml:ro mail-gateway
# In gateway.toml, [admin] address = "0.0.0.0:9125" shows metrics outside of the container. Docker lets any user bind port 25; where
# that is not so, listen on 2525 and map -p 25:2525.
FROM python:3.11-slim-bookworm AS build
COPY pyproject.toml README.md LICENSE /src/
COPY gateway /src/gateway
RUN python -m venv /opt/gateway && /opt/gateway/bin/pip install --no-cache-dir /src

FROM python:3.11-slim-bookworm
RUN useradd --system --home-dir /var/lib/gateway --create-home --shell /usr/sbin/nologin gateway \
 && install -d -o gateway -g gateway -m 0700 /var/lib/gateway && install -d /etc/gateway
COPY --from=build /opt/gateway /opt/gateway
COPY config/gateway.toml /etc/gateway/gateway.toml
ENV PATH=/opt/gateway/bin:$PATH PYTHONUNBUFFERED=1
USER gateway
VOLUME /var/lib/gateway
EXPOSE 25 465 587 9125
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:9125/healthz', timeout=4)"]
ENTRYPOINT ["gateway"]
CMD ["serve"]

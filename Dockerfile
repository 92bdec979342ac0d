# The binary.
FROM rust:1-slim-bookworm AS build
WORKDIR /build
COPY . .
RUN cargo build --release --locked --bin file-watcher

# What runs: the binary, the roots of trust for amqps, and a user who owns nothing but the state.
FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 file-watcher \
    && useradd --uid 1000 --gid 1000 --no-create-home --home-dir /var/lib/file-watcher --shell /usr/sbin/nologin file-watcher \
    && install --directory --owner=1000 --group=1000 --mode=0700 /var/lib/file-watcher \
    && install --directory /data/music
COPY --from=build /build/target/release/file-watcher /usr/local/bin/file-watcher
ENV DATA_DIR=/data/music \
    STATE_DIR=/var/lib/file-watcher \
    HTTP_ADDR=0.0.0.0:8080
EXPOSE 8080
VOLUME /var/lib/file-watcher
WORKDIR /var/lib/file-watcher
USER 1000:1000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=35s --start-period=30s CMD ["file-watcher", "healthcheck"]
ENTRYPOINT ["file-watcher"]

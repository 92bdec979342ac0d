# The image of file-watcher: the program, the libraries that it is linked to, and nothing else. No shell, no package
# manager.
#
#   docker build --tag file-watcher .
#   docker build --target sbom --output . .    sbom.cdx.json, the bill of materials (this needs BuildKit)
#
# The program is linked to glibc, not to musl: musl's allocator serializes the threads that read files, and would save
# the three megabytes of glibc alone. glibc resolves names by itself since 2.34, so it needs no module beside it.

FROM rust:1-slim-bookworm AS toolchain
WORKDIR /build

# The dependencies. A change of the program's own sources leaves this layer as it is. Cargo wants every target that the
# manifest names to be there, and what it makes of these must not be taken for the program, whose files may be older.
FROM toolchain AS dependencies
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches tests/failpoints \
    && echo 'fn main() {}' | tee src/main.rs benches/main.rs > tests/failpoints/main.rs \
    && touch src/lib.rs \
    && cargo build --release --locked --bin file-watcher \
    && cargo clean --release --locked --package file-watcher

# The program, and its libraries at the places where the loader looks for them.
FROM dependencies AS program
COPY src src
RUN cargo build --release --locked --bin file-watcher \
    && install -D --strip target/release/file-watcher /root-of-image/usr/local/bin/file-watcher \
    && ldd target/release/file-watcher | grep --only-matching '/[^ ]*' > libraries \
    && xargs cp --parents --dereference --target-directory=/root-of-image < libraries

# What the libraries look up: the roots of trust for amqps, the time zones for the nights of VERIFY_INTERVAL_DAYS, and
# users. The folder of the state is apart, because COPY gives all that it copies to one owner.
FROM toolchain AS files
COPY LICENSE ./
RUN mkdir -p /files/etc/ssl/certs /files/usr/share/doc/file-watcher /files/data/music /files/var/lib \
    && cp --dereference /etc/ssl/certs/ca-certificates.crt /files/etc/ssl/certs/ \
    && cp --archive /usr/share/zoneinfo /files/usr/share/ \
    && rm -rf /files/usr/share/zoneinfo/posix /files/usr/share/zoneinfo/right \
    && test -s /files/usr/share/zoneinfo/Europe/Vienna \
    && cp LICENSE /files/usr/share/doc/file-watcher/ \
    && echo 'root:x:0:0:root:/:/sbin/nologin' > /files/etc/passwd \
    && echo 'file-watcher:x:1000:1000:file-watcher:/var/lib/file-watcher:/sbin/nologin' >> /files/etc/passwd \
    && echo 'root:x:0:' > /files/etc/group \
    && echo 'file-watcher:x:1000:' >> /files/etc/group \
    && printf 'passwd: files\ngroup: files\nhosts: files dns\n' > /files/etc/nsswitch.conf \
    && install --directory --mode=0700 /state/file-watcher

# The bill of materials: the crates that the program is made of, with their versions, licenses and hashes.
FROM dependencies AS bill
COPY .ci/sbom.awk ./
RUN for edges in normal normal,build; do \
        cargo tree --locked --edges "$edges" --prefix depth --format '|{p}|{l}|{r}' > "$edges" || exit 1; \
    done \
    && awk -f sbom.awk Cargo.lock normal normal,build > sbom.cdx.json

FROM scratch AS sbom
COPY --from=bill /build/sbom.cdx.json /

# The image. What changes most comes last.
FROM scratch
COPY --from=files /files/ /
# A named or anonymous volume that is still empty takes over the owner and the mode of this folder, and takes them over
# again at each start until something is in it. So the state of another user (--user, PUID) needs a folder of the host
# that belongs to that user, or a volume that belongs to that user and is mounted with the option nocopy. A folder that
# everybody can write to would spare this, and would let everybody read the names of all files.
COPY --from=files --chown=1000:1000 /state/ /var/lib/
COPY --from=bill /build/sbom.cdx.json /usr/share/doc/file-watcher/
COPY --from=program /root-of-image/ /
ENV DATA_DIR=/data/music \
    STATE_DIR=/var/lib/file-watcher \
    HTTP_ADDR=0.0.0.0:8080 \
    # There is no /tmp. SQLite sorts what is larger than its cache in a file.
    SQLITE_TMPDIR=/var/lib/file-watcher \
    # So that the C library gives memory back after a burst: mallopt(3).
    MALLOC_ARENA_MAX=8 \
    MALLOC_MMAP_THRESHOLD_=131072 \
    MALLOC_TRIM_THRESHOLD_=262144 \
    PATH=/usr/local/bin
EXPOSE 8080
VOLUME /var/lib/file-watcher
# Where every user can be: the state belongs to one.
WORKDIR /
USER 1000:1000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=35s --start-period=30s CMD ["/usr/local/bin/file-watcher", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/file-watcher"]
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="file-watcher" \
      org.opencontainers.image.description="Keeps every consumer of a topic exchange in step with a music library on disk" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"

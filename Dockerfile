# Build: cmake is for Pingora's zlib-ng.
FROM rust:1-bookworm AS build
RUN apt-get update -q \
    && apt-get install -qy --no-install-recommends cmake \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked

FROM debian:bookworm-slim
# Authorities for origins that speak TLS.
RUN apt-get update -q \
    && apt-get install -qy --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --home-dir /nonexistent --shell /usr/sbin/nologin selvedge
COPY --from=build /src/target/release/selvedge /usr/local/bin/selvedge
COPY conf/minimal.yaml /etc/selvedge/selvedge.yaml
COPY conf /usr/share/selvedge/conf
COPY scripts /usr/share/selvedge/scripts
USER selvedge
EXPOSE 8080
# TERM drains; give `docker stop` more time than limits.drain_timeout.
STOPSIGNAL SIGTERM
ENTRYPOINT ["selvedge"]
CMD ["run", "-c", "/etc/selvedge/selvedge.yaml"]

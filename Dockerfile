# Two stages: the build, and a runtime without shell, package manager or root. Only /data need be writable.

FROM rust:1.95-trixie AS build
WORKDIR /src
# The dependencies in a layer of their own, which changes only with them.
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
RUN mkdir src \
 && echo 'fn main() {}' > build.rs \
 && cp build.rs src/main.rs \
 && touch src/lib.rs \
 && cargo build --release --locked --bin chat-service \
 && rm -rf src build.rs
COPY . .
# What chat_build_info tells. No earlier, as it makes anew whatever stands below it.
ARG REVISION=unknown
# Newer than what was built of the stand-ins.
RUN touch build.rs src/main.rs src/lib.rs \
 && CHAT_REVISION="$REVISION" cargo build --release --locked --bin chat-service \
 && strip --strip-debug -o /chat-service target/release/chat-service \
 && mkdir -p /empty/data /empty/keys

# Of the same Debian as the build: the binary needs its C library, or a newer one.
FROM gcr.io/distroless/cc-debian13:nonroot
ARG VERSION=local
ARG REVISION=unknown
LABEL org.opencontainers.image.title="chat-service" \
      org.opencontainers.image.description="A real-time messaging service: gRPC first, durable before acknowledged, one gapless order per chat." \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /chat-service /usr/local/bin/chat-service
# New volumes take over whose these are.
COPY --from=build --chown=65532:65532 /empty/ /
# Beyond the container's loopback, where a development secret is refused.
ENV CHAT_LISTEN=0.0.0.0:50051 \
    DATABASE_URL=sqlite:/data/chat.db \
    CHAT_TLS_CERT=/keys/server.pem \
    CHAT_TLS_KEY=/keys/server.key
WORKDIR /data
USER 65532:65532
EXPOSE 50051 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["/usr/local/bin/chat-service", "health"]
ENTRYPOINT ["/usr/local/bin/chat-service"]
CMD ["serve"]

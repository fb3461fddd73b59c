# The command line in an image without a compiler. Build: docker build -t assay .
# Run: docker run --rm -v "$PWD:/work" assay score --reward ...
FROM rust:1.95-bookworm AS build
WORKDIR /assay
COPY . .
RUN cargo build --locked --release -p assay-cli

FROM debian:bookworm-slim
RUN useradd --create-home assay && mkdir /work && chown assay /work
COPY --from=build /assay/target/release/assay /usr/local/bin/assay
USER assay
WORKDIR /work
# `docker run -p 8000:8000 assay serve --addr 0.0.0.0:8000 --token-file ...` serves a critic.
EXPOSE 8000
ENTRYPOINT ["assay"]

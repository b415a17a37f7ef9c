# The broker as an image; with BuildKit only the stages that are needed are built.
#
#   docker build -t sockbroker .                                      # from the source: a quarter of an hour on two cores
#   ./dev package && docker build --build-arg PACKAGES=prebuilt .     # from Debian packages made beside it: a minute
#   docker run sockbroker --listen 0.0.0.0:7400 --tls-cert ... --tls-key ... --tls-client-ca ... --allow-all
#
# It listens on /run/sockbroker/sockbroker.sock inside the container, for itself (`docker exec ... sockbroker ls`, the health
# check), and wherever its arguments say. docker-compose.yml shows it with mutual TLS.

# --- the packages ---------------------------------------------------------------------------------------------------

FROM debian:bookworm-slim AS build
ARG PACKAGES=source
WORKDIR /src
COPY dev ./
RUN if [ "$PACKAGES" = source ]; then ./dev deps; fi
COPY . .
RUN if [ "$PACKAGES" = source ]; then ./dev package; fi \
 && mkdir /packages && cp build/packages/*.deb /packages/

# --- the broker: nothing but its libraries ----------------------------------------------------------------------------

FROM debian:bookworm-slim AS broker
# Its number is fixed, so that key files in a volume can be made its own before it exists.
RUN groupadd --system --gid 7400 sockbroker \
 && useradd --system --uid 7400 --gid 7400 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin sockbroker \
 && install -d -o sockbroker -g sockbroker -m 0700 /run/sockbroker
COPY --from=build /packages/sockbroker_*.deb /tmp/
RUN apt-get update \
 && apt-get install -y --no-install-recommends /tmp/sockbroker_*.deb \
 && rm -rf /tmp/*.deb /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/log/apt /var/log/dpkg.log
USER sockbroker
# For `sockbroker` in this container.
ENV SOCKBROKER_ADDRESS=unix:/run/sockbroker/sockbroker.sock
EXPOSE 7400
# Asks the broker's health service, so a broker that hangs is found out, and one that drains gets no new clients.
HEALTHCHECK --interval=5s --timeout=6s --start-period=10s --retries=3 CMD ["sockbroker", "ping"]
ENTRYPOINT ["sockbrokerd", "--listen", "unix:/run/sockbroker/sockbroker.sock"]

# --- a client: the command line and Python with the generated stubs (for docker-compose.yml and the tests) ----------------

FROM debian:bookworm-slim AS stubs
RUN apt-get update \
 && apt-get install -y --no-install-recommends libprotobuf-dev protobuf-compiler protobuf-compiler-grpc \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /packages/sockbroker-dev_*.deb /tmp/
# All it takes for any language: the protos of sockbroker-dev (unpacked: it takes nothing else) and that
# language's plug-in.
RUN dpkg-deb -x /tmp/sockbroker-dev_*.deb / && cd /usr/share/sockbroker/proto && mkdir /stubs \
 && protoc --python_out=/stubs --grpc_out=/stubs --plugin=protoc-gen-grpc=/usr/bin/grpc_python_plugin \
      $(find google sockbroker -name '*.proto')

FROM broker AS client
USER root
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-grpcio python3-protobuf \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
COPY --from=stubs /stubs /usr/local/lib/python3.11/dist-packages
COPY compose/client/ /usr/local/bin/
USER sockbroker
HEALTHCHECK NONE
ENTRYPOINT []
CMD ["demo.sh"]

# --- what `docker build .` makes ----------------------------------------------------------------------------------------

FROM broker

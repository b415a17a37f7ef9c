// As bulk_load.cc, over TLS 1.3: OpenSSL's own calls on a blocking socket, so that nothing but the
// server differs. Usage: bench_tls_bulk_load send|receive ADDRESS SERVER_PID BLOCK SECONDS
#include <openssl/ssl.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "bench/load/clocks.h"
#include "bench/load/connect.h"

namespace sockbroker::bench {
namespace {

[[noreturn]] void Die(const char* what) {
  std::fprintf(stderr, "tls_bulk_load: %s\n", what);
  std::exit(1);
}

int Main(const std::string& mode, const std::string& address, pid_t server, std::size_t block,
         double seconds) {
  const bool sending = mode == "send";
  SSL_CTX* context = SSL_CTX_new(TLS_client_method());
  SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
  SSL* ssl = SSL_new(context);
  SSL_set_fd(ssl, ConnectOrDie(address));
  if (SSL_connect(ssl) != 1) Die("no handshake");
  std::vector<char> data(block, 'x');
  const auto move = [&] {
    std::size_t moved = 0;
    const int done = sending ? SSL_write_ex(ssl, data.data(), data.size(), &moved)
                             : SSL_read_ex(ssl, data.data(), data.size(), &moved);
    if (done != 1) Die("the server closed the connection");
    return static_cast<uint64_t>(moved);
  };

  const int64_t start = NowNanos();
  while (NowNanos() - start < static_cast<int64_t>(seconds * 1e8)) move();  // warms up
  uint64_t bytes = 0;
  int64_t cpu = CpuNanosOf(server);
  const int64_t begin = NowNanos();
  int64_t end = begin;
  for (; end - begin < static_cast<int64_t>(seconds * 9e8); end = NowNanos()) bytes += move();
  cpu = CpuNanosOf(server) - cpu;

  const double taken = static_cast<double>(end - begin) / 1e9;
  const double mebibytes = static_cast<double>(bytes) / (1024 * 1024);
  std::printf("{\"rate\": %.1f, \"cpu_us\": %.4f, \"seconds\": %.3f, \"cipher\": \"%s\"}\n",
              mebibytes / taken, static_cast<double>(cpu) / 1e3 / mebibytes, taken,
              SSL_get_cipher_name(ssl));
  return 0;
}

}  // namespace
}  // namespace sockbroker::bench

int main(int argc, char** argv) {
  const std::string mode = argc == 6 ? argv[1] : "";
  if (mode != "send" && mode != "receive") {
    std::fprintf(stderr, "usage: %s send|receive ADDRESS SERVER_PID BLOCK SECONDS\n", argv[0]);
    return 2;
  }
  return sockbroker::bench::Main(mode, argv[2], std::atoi(argv[3]),
                                 std::strtoul(argv[4], nullptr, 10), std::atof(argv[5]));
}

// OpenSSL's blocking calls in a loop (SSL_set_fd), TLS 1.3, one connection after another: what the
// machine itself can do, for tls-throughput. Usage: bench_tls_raw_server discard|source
// tcp|unix:PATH
#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <string>
#include <vector>

#include "bench/load/identity.h"

namespace {

constexpr std::size_t kBlock = 64 * 1024;

void Discard(SSL* ssl) {
  std::vector<char> data(kBlock);
  while (SSL_read(ssl, data.data(), static_cast<int>(data.size())) > 0) {
  }
}

void Source(SSL* ssl) {
  const std::vector<char> data(kBlock, 'x');
  while (SSL_write(ssl, data.data(), static_cast<int>(data.size())) > 0) {
  }
}

// Prints where it listens. -1 after an error.
int Listen(const std::string& address) {
  if (address == "tcp") {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in local{};
    local.sin_family = AF_INET;
    local.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(local);
    if (bind(fd, reinterpret_cast<sockaddr*>(&local), size) != 0 || listen(fd, 16) != 0 ||
        getsockname(fd, reinterpret_cast<sockaddr*>(&local), &size) != 0) {
      return -1;
    }
    std::printf("listening on 127.0.0.1:%d\n", ntohs(local.sin_port));
    return fd;
  }
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un local{};
  local.sun_family = AF_UNIX;
  address.copy(local.sun_path, sizeof(local.sun_path) - 1, 5);
  if (bind(fd, reinterpret_cast<sockaddr*>(&local), sizeof(local)) != 0 || listen(fd, 16) != 0) {
    return -1;
  }
  std::printf("listening on %s\n", address.c_str());
  return fd;
}

SSL_CTX* MakeContext() {
  const sockbroker::bench::Identity identity = sockbroker::bench::MakeIdentity();
  BIO* certificate_bio = BIO_new_mem_buf(identity.certificate_pem.data(), -1);
  BIO* key_bio = BIO_new_mem_buf(identity.key_pem.data(), -1);
  X509* certificate = PEM_read_bio_X509(certificate_bio, nullptr, nullptr, nullptr);
  EVP_PKEY* key = PEM_read_bio_PrivateKey(key_bio, nullptr, nullptr, nullptr);
  SSL_CTX* context = SSL_CTX_new(TLS_server_method());
  SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
  SSL_CTX_use_certificate(context, certificate);
  SSL_CTX_use_PrivateKey(context, key);
  X509_free(certificate);
  EVP_PKEY_free(key);
  BIO_free(certificate_bio);
  BIO_free(key_bio);
  return context;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc == 3 ? argv[1] : "";
  const std::string address = argc == 3 ? argv[2] : "";
  if ((mode != "discard" && mode != "source") ||
      (address != "tcp" && !address.starts_with("unix:"))) {
    std::fprintf(stderr, "usage: %s discard|source tcp|unix:PATH\n", argv[0]);
    return 2;
  }
  std::signal(SIGPIPE, SIG_IGN);
  SSL_CTX* context = MakeContext();
  const int listener = Listen(address);
  if (listener < 0) {
    std::perror("listen");
    return 1;
  }
  std::fflush(stdout);
  while (true) {
    const int fd = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) continue;
    SSL* ssl = SSL_new(context);
    SSL_set_fd(ssl, fd);
    if (SSL_accept(ssl) == 1) {
      if (mode == "discard") {
        Discard(ssl);
      } else {
        Source(ssl);
      }
    }
    SSL_free(ssl);
    close(fd);
  }
}

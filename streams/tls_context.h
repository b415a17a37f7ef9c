// TlsContext: what one side of TLS connections brings: roots, certificate, ALPN, versions. Python's
// ssl.SSLContext.
//
//   auto client = TlsContext::Create({.side = TlsSide::kClient});  // the system's roots
//   auto server = TlsContext::Create({.side = TlsSide::kServer,
//                                     .certificate_pem = chain, .private_key_pem = key});
//   co_await OpenConnection("example.org", 443, {.tls = {.context = *client}});
//
// Immutable once made, and shared by any number of connections and threads. TLS 1.2 and 1.3 only;
// renegotiation and compression are off.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

struct ssl_ctx_st;

namespace sockbroker::streams {

enum class TlsSide { kClient, kServer };
enum class TlsVersion { kTls12, kTls13 };

// Whether the peer must show a certificate that a root vouches for.
enum class TlsVerify {
  kDefault,   // a client: kRequired; a server: kRequired if it has roots, else kNone
  kNone,      // any certificate, or none
  kOptional,  // a server: one that is shown must be good
  kRequired,
};

struct TlsContextOptions {
  TlsSide side = TlsSide::kClient;

  // Roots: inline PEM, a PEM file, or (a client with neither) the system's store.
  std::string ca_pem;
  std::string ca_file;
  TlsVerify verify = TlsVerify::kDefault;
  // Whether the certificate must be for the server_hostname. A client that verifies only.
  bool check_hostname = true;

  // Our own certificate, then its intermediates; and its key. Inline or from files. A server needs
  // them.
  std::string certificate_pem;
  std::string private_key_pem;
  std::string certificate_file;
  std::string private_key_file;

  // Protocols in order of preference ("h2", "http/1.1"), each of 1 to 255 bytes. A server that
  // shares none with its client goes on without, as Python's ssl.
  std::vector<std::string> alpn;
  TlsVersion min_version = TlsVersion::kTls12;
  TlsVersion max_version = TlsVersion::kTls13;
  // OpenSSL's notation: for TLS 1.2, and the suites of TLS 1.3. Empty: OpenSSL's default.
  std::string ciphers;
  std::string ciphersuites;
  // Tickets: a client keeps the latest per server_hostname, a server hands them out.
  bool session_resumption = true;
  // Called with each line of an NSS key log, on the connection's thread. For debugging: whoever has
  // it reads everything.
  std::function<void(absl::string_view line)> key_log;
};

class TlsContext {
 public:
  // kInvalidArgument says which option is unusable and why, never what a key was.
  static absl::StatusOr<std::shared_ptr<const TlsContext>> Create(TlsContextOptions options);
  ~TlsContext();
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;

  TlsSide side() const;
  bool check_hostname() const;

  // For TlsEngine.
  struct State;
  const State& state() const { return *state_; }

 private:
  explicit TlsContext(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace sockbroker::streams

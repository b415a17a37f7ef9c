// What the TLS tests share: an authority, a client's and a server's context that trust it, and two
// engines joined by hand.
//
//   EngineLink link;                      // both sides, nothing exchanged yet
//   ASSERT_TRUE(link.Establish());
//   link.Write(*link.client, "ping");
//   EXPECT_EQ(link.ReadAll(*link.server), "ping");
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/cord.h"
#include "streams/testing/test_certificates.h"
#include "streams/tls_context.h"
#include "streams/tls_engine.h"

namespace sockbroker::streams {

// One for the process: making keys takes a while under the sanitizers.
inline const TestAuthority& Authority() {
  static const auto* const authority = new TestAuthority("Test Root");
  return *authority;
}
inline const TestCertificate& ServerIdentity() {
  static const auto* const identity = new TestCertificate(Authority().Issue(
      {.common_name = "server", .dns_names = {"localhost"}, .ip_addresses = {"127.0.0.1"}}));
  return *identity;
}
inline const TestCertificate& ClientIdentity() {
  static const auto* const identity = new TestCertificate(
      Authority().Issue({.common_name = "client", .uris = {"spiffe://test/client"}}));
  return *identity;
}

inline TlsContextOptions ClientTlsOptions() {
  TlsContextOptions options;
  options.side = TlsSide::kClient;
  options.ca_pem = Authority().certificate_pem();
  return options;
}
inline TlsContextOptions ServerTlsOptions(const TestCertificate& identity = ServerIdentity()) {
  TlsContextOptions options;
  options.side = TlsSide::kServer;
  options.certificate_pem = identity.certificate_pem;
  options.private_key_pem = identity.key_pem;
  return options;
}
inline TlsContextOptions At(TlsVersion version, TlsContextOptions options) {
  options.min_version = options.max_version = version;
  return options;
}

inline std::shared_ptr<const TlsContext> MakeContext(TlsContextOptions options) {
  return TlsContext::Create(std::move(options)).value();
}
inline std::shared_ptr<const TlsContext> ClientContext() { return MakeContext(ClientTlsOptions()); }
inline std::shared_ptr<const TlsContext> ServerContext() { return MakeContext(ServerTlsOptions()); }

using EngineResult = TlsEngine::Result;

struct EngineLink {
  explicit EngineLink(std::shared_ptr<const TlsContext> client_context = ClientContext(),
                      std::shared_ptr<const TlsContext> server_context = ServerContext(),
                      std::optional<std::string> server_hostname = "localhost")
      : client(TlsEngine::Create(std::move(client_context), std::move(server_hostname)).value()),
        server(TlsEngine::Create(std::move(server_context), std::nullopt).value()) {}

  // Shakes hands until neither side gets on; whether both are done.
  bool Establish() {
    EngineResult at_client = EngineResult::kWantInput;
    EngineResult at_server = EngineResult::kWantInput;
    for (int i = 0; i < 10; ++i) {
      if (at_client != EngineResult::kDone) at_client = client->Handshake();
      server->FeedCiphertext(client->TakeCiphertext());
      if (at_server != EngineResult::kDone) at_server = server->Handshake();
      client->FeedCiphertext(server->TakeCiphertext());
    }
    return at_client == EngineResult::kDone && at_server == EngineResult::kDone;
  }

  // Carries what `from` has to say to the other.
  void Carry(TlsEngine& from) {
    (&from == client.get() ? server : client)->FeedCiphertext(from.TakeCiphertext());
  }
  // Encrypts and carries.
  void Write(TlsEngine& from, absl::string_view data) {
    absl::Cord plain(data);
    last = from.Write(&plain);
    Carry(from);
  }
  // What can be decrypted, and in `last` why there is no more.
  std::string ReadAll(TlsEngine& engine) {
    absl::Cord plain;
    do {
      last = engine.Read(&plain, 64 * 1024);
    } while (last == EngineResult::kDone);
    return std::string(plain);
  }

  std::unique_ptr<TlsEngine> client;
  std::unique_ptr<TlsEngine> server;
  EngineResult last = EngineResult::kDone;
};

}  // namespace sockbroker::streams

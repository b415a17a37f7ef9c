// TLS against other programs, over loopback: openssl s_server and s_client, Python's ssl, and a
// loop of OpenSSL's own calls for the bulk.
#include <fcntl.h>
#include <openssl/sha.h>
#include <poll.h>
#include <sys/socket.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "streams/create_task.h"
#include "streams/error.h"
#include "streams/open_connection.h"
#include "streams/server.h"
#include "streams/socket_stream.h"
#include "streams/testing/co_test.h"
#include "streams/testing/socket_pair.h"
#include "tests/streams/child_process.h"
#include "tests/streams/openssl_peer.h"
#include "tests/streams/sockets.h"
#include "tests/streams/tls_sides.h"

namespace sockbroker::streams {
namespace {

using ::testing::HasSubstr;

constexpr char kOpenssl[] = "/usr/bin/openssl";

// The certificates as files, for programs that want them so.
class Files {
 public:
  Files() {
    std::ofstream(ca()) << Authority().certificate_pem();
    std::ofstream(certificate()) << ServerIdentity().certificate_pem;
    std::ofstream(key()) << ServerIdentity().key_pem;
    std::ofstream(client_certificate()) << ClientIdentity().certificate_pem;
    std::ofstream(client_key()) << ClientIdentity().key_pem;
  }
  std::string ca() const { return directory_.File("ca.pem"); }
  std::string certificate() const { return directory_.File("server.pem"); }
  std::string key() const { return directory_.File("server.key"); }
  std::string client_certificate() const { return directory_.File("client.pem"); }
  std::string client_key() const { return directory_.File("client.key"); }

 private:
  TempDir directory_;
};

class TlsPeersTest : public ::testing::TestWithParam<TlsVersion> {
 protected:
  void SetUp() override {
    if (!Installed(kOpenssl)) GTEST_SKIP() << kOpenssl << " is not installed";
    if (!Installed(kPython)) GTEST_SKIP() << kPython << " is not installed";
  }

  static bool Old() { return GetParam() == TlsVersion::kTls12; }
  static std::string VersionFlag() { return Old() ? "-tls1_2" : "-tls1_3"; }
  static std::string VersionName() { return Old() ? "TLSv1.2" : "TLSv1.3"; }

  OpenConnectionOptions Client() const {
    OpenConnectionOptions options;
    options.tls.context = MakeContext(At(GetParam(), ClientTlsOptions()));
    return options;
  }
  StartServerOptions Serving() const {
    StartServerOptions options;
    options.tls.context = MakeContext(At(GetParam(), ServerTlsOptions()));
    return options;
  }

  Files files_;
};

INSTANTIATE_TEST_SUITE_P(Versions, TlsPeersTest,
                         ::testing::Values(TlsVersion::kTls12, TlsVersion::kTls13),
                         [](const auto& version) {
                           return version.param == TlsVersion::kTls12 ? "Tls12" : "Tls13";
                         });

// What follows `mark` on the first line that has it.
Task<std::string> LineWith(StreamReader& output, absl::string_view mark) {
  while (true) {
    absl::StatusOr<absl::Cord> line = co_await output.ReadLine();
    if (!line.ok() || line->empty()) co_return "";
    const std::string text(*line);
    if (const std::size_t at = text.find(std::string(mark)); at != std::string::npos) {
      co_return std::string(absl::StripTrailingAsciiWhitespace(text.substr(at + mark.size())));
    }
  }
}

int PortOf(absl::string_view text) {
  int port = 0;
  (void)absl::SimpleAtoi(text, &port);
  return port;
}

Task<void> Echo(StreamReader reader, StreamWriter writer) {
  while (true) {
    absl::StatusOr<absl::Cord> data = co_await reader.Read(65536);
    if (!data.ok() || data->empty()) break;
    if (!writer.Write(*std::move(data)).ok() || !(co_await writer.Drain()).ok()) break;
  }
  writer.Close();
}

// --- openssl s_server

// Rows: 20, 204, 210
TEST_P(TlsPeersTest, OurClientTalksToOpensslSServer) {
  RunInRealTime([](const Files* files, OpenConnectionOptions options) -> Task<void> {
    ChildProcess server({kOpenssl, "s_server", "-accept", "127.0.0.1:0", "-cert",
                         files->certificate(), "-key", files->key(), "-naccept", "1", "-rev"});
    const int port = PortOf(co_await LineWith(server.output(), "ACCEPT 127.0.0.1:"));
    CO_ASSERT_NE(port, 0);
    auto connection = co_await OpenConnection("127.0.0.1", port, options);
    CO_ASSERT_OK(connection);
    EXPECT_EQ(connection->writer.tls_info()->version, VersionName());
    EXPECT_THAT(connection->writer.Write("stressed\n"), IsOk());
    EXPECT_THAT(co_await connection->reader.ReadLine(), IsOkAndHolds("desserts\n"));
    connection->writer.Close();
    EXPECT_THAT(co_await connection->writer.WaitClosed(), IsOk());
  }(&files_, Client()));
}

// Rows: 217
TEST_P(TlsPeersTest, OurClientFollowsTheKeyUpdatesOfOpensslSServer) {
  if (Old()) GTEST_SKIP() << "TLS 1.2 has none";
  RunInRealTime([](const Files* files, OpenConnectionOptions options) -> Task<void> {
    ChildProcess server({kOpenssl, "s_server", "-accept", "127.0.0.1:0", "-cert",
                         files->certificate(), "-key", files->key(), "-naccept", "1"});
    const int port = PortOf(co_await LineWith(server.output(), "ACCEPT 127.0.0.1:"));
    CO_ASSERT_NE(port, 0);
    auto connection = co_await OpenConnection("127.0.0.1", port, options);
    CO_ASSERT_OK(connection);
    for (const absl::string_view update : {"K\n", "k\n", "K\n"}) {
      EXPECT_THAT(server.input().Write(update), IsOk());
      // It takes what one read of its input gives for one command; by the time it shows this, it
      // has seen that.
      EXPECT_THAT(connection->writer.Write("seen:it\n"), IsOk());
      EXPECT_EQ(co_await LineWith(server.output(), "seen:"), "it");
      EXPECT_THAT(server.input().Write("to the client\n"), IsOk());
      EXPECT_THAT(co_await connection->reader.ReadLine(), IsOkAndHolds("to the client\n"));
      EXPECT_THAT(connection->writer.Write("to the server:mark\n"), IsOk());
      EXPECT_EQ(co_await LineWith(server.output(), "to the server:"), "mark");
    }
    connection->writer.Close();
    EXPECT_THAT(co_await connection->writer.WaitClosed(), IsOk());
  }(&files_, Client()));
}

// Rows: 217
TEST_P(TlsPeersTest, OurClientRefusesTheRenegotiationOfOpensslSServer) {
  if (!Old()) GTEST_SKIP() << "TLS 1.3 has none";
  RunInRealTime([](const Files* files, OpenConnectionOptions options) -> Task<void> {
    ChildProcess server({kOpenssl, "s_server", "-accept", "127.0.0.1:0", "-cert",
                         files->certificate(), "-key", files->key(), "-naccept", "1"});
    const int port = PortOf(co_await LineWith(server.output(), "ACCEPT 127.0.0.1:"));
    CO_ASSERT_NE(port, 0);
    auto connection = co_await OpenConnection("127.0.0.1", port, options);
    CO_ASSERT_OK(connection);
    EXPECT_THAT(server.input().Write("r\n"), IsOk());
    // It takes the refusal for an error, and ends the connection with an alert.
    EXPECT_THAT(co_await connection->reader.ReadLine(),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("alert handshake failure")));
  }(&files_, Client()));
}

// Rows: 210
TEST_P(TlsPeersTest, OurClientShowsItsCertificateToOpensslSServer) {
  OpenConnectionOptions with_certificate = Client();
  TlsContextOptions context = At(GetParam(), ClientTlsOptions());
  context.certificate_pem = ClientIdentity().certificate_pem;
  context.private_key_pem = ClientIdentity().key_pem;
  with_certificate.tls.context = MakeContext(context);
  RunInRealTime([](const Files* files, OpenConnectionOptions with,
                   OpenConnectionOptions without) -> Task<void> {
    for (const bool shown : {true, false}) {
      ChildProcess server({kOpenssl, "s_server", "-accept", "127.0.0.1:0", "-cert",
                           files->certificate(), "-key", files->key(), "-naccept", "1", "-rev",
                           "-Verify", "1", "-CAfile", files->ca(), "-verify_return_error"});
      const int port = PortOf(co_await LineWith(server.output(), "ACCEPT 127.0.0.1:"));
      CO_ASSERT_NE(port, 0);
      auto connection = co_await OpenConnection("127.0.0.1", port, shown ? with : without);
      absl::Status status = connection.status();
      if (status.ok()) {
        (void)connection->writer.Write("ab\n");
        absl::StatusOr<absl::Cord> line = co_await connection->reader.ReadLine();
        status = line.status();
        if (shown) EXPECT_THAT(line, IsOkAndHolds("ba\n"));
      }
      // TLS 1.3 says it only to the first read.
      if (shown) {
        EXPECT_THAT(status, IsOk());
      } else {
        EXPECT_TRUE(IsTlsError(status)) << status;
      }
    }
  }(&files_, with_certificate, Client()));
}

// Rows: 210
TEST_P(TlsPeersTest, OurClientRefusesOpensslSServerOfAnotherName) {
  OpenConnectionOptions options = Client();
  options.tls.server_hostname = "elsewhere.example";
  RunInRealTime([](const Files* files, OpenConnectionOptions wrong) -> Task<void> {
    ChildProcess server({kOpenssl, "s_server", "-accept", "127.0.0.1:0", "-cert",
                         files->certificate(), "-key", files->key(), "-naccept", "1"});
    const int port = PortOf(co_await LineWith(server.output(), "ACCEPT 127.0.0.1:"));
    CO_ASSERT_NE(port, 0);
    auto connection = co_await OpenConnection("127.0.0.1", port, wrong);
    const auto failure = GetTlsVerifyFailure(connection.status());
    CO_ASSERT_TRUE(failure.has_value()) << connection.status();
    EXPECT_EQ(failure->code, X509_V_ERR_HOSTNAME_MISMATCH);
    EXPECT_EQ(co_await LineWith(server.output(), "alert"), "");  // reads until it has ended
  }(&files_, options));
}

// --- openssl s_client

// Rows: 82, 204
TEST_P(TlsPeersTest, OurServerTalksToOpensslSClient) {
  RunInRealTime([](const Files* files, StartServerOptions options) -> Task<void> {
    auto server = co_await StartServer(Echo, "127.0.0.1", 0, options);
    CO_ASSERT_OK(server);
    ChildProcess client({kOpenssl, "s_client", "-connect",
                         absl::StrCat("127.0.0.1:", server->sockets()[0].port()), "-CAfile",
                         files->ca(), "-verify_return_error", "-verify_hostname", "localhost",
                         "-servername", "localhost", VersionFlag(), "-brief"});
    EXPECT_THAT(client.input().Write("over there:and back\n"), IsOk());
    EXPECT_EQ(co_await LineWith(client.output(), "over there:"), "and back");
    client.input().Close();  // the end of its input ends it, with close_notify
    server->Close();
    EXPECT_THAT(co_await server->WaitClosed(), IsOk());
  }(&files_, Serving()));
}

// Rows: 217
TEST_P(TlsPeersTest, OurServerFollowsTheKeyUpdatesOfOpensslSClient) {
  if (Old()) GTEST_SKIP() << "TLS 1.2 has none";
  RunInRealTime([](const Files* files, StartServerOptions options) -> Task<void> {
    auto server = co_await StartServer(Echo, "127.0.0.1", 0, options);
    CO_ASSERT_OK(server);
    // It says on its standard error that it has updated its keys.
    ChildProcess client({"/bin/sh", "-c", "exec \"$0\" \"$@\" 2>&1", kOpenssl, "s_client",
                         "-connect", absl::StrCat("127.0.0.1:", server->sockets()[0].port()),
                         "-CAfile", files->ca(), "-verify_return_error", VersionFlag()});
    for (int i = 0; i < 3; ++i) {
      EXPECT_THAT(client.input().Write(absl::StrCat("message:", i, "\n")), IsOk());
      EXPECT_EQ(co_await LineWith(client.output(), "message:"), absl::StrCat(i));
      EXPECT_THAT(client.input().Write(i % 2 == 0 ? "K\n" : "k\n"), IsOk());
      EXPECT_THAT(co_await client.output().ReadUntil("KEYUPDATE\n"), IsOk());
    }
    EXPECT_THAT(client.input().Write("message:last\n"), IsOk());
    EXPECT_EQ(co_await LineWith(client.output(), "message:"), "last");
  }(&files_, Serving()));
}

// Rows: 217
TEST_P(TlsPeersTest, OurServerRefusesTheRenegotiationOfOpensslSClient) {
  if (!Old()) GTEST_SKIP() << "TLS 1.3 has none";
  RunInRealTime([](const Files* files, StartServerOptions options) -> Task<void> {
    auto server = co_await StartServer(Echo, "127.0.0.1", 0, options);
    CO_ASSERT_OK(server);
    ChildProcess client({kOpenssl, "s_client", "-connect",
                         absl::StrCat("127.0.0.1:", server->sockets()[0].port()), "-CAfile",
                         files->ca(), "-verify_return_error", VersionFlag()});
    EXPECT_THAT(client.input().Write("message:first\n"), IsOk());
    EXPECT_EQ(co_await LineWith(client.output(), "message:"), "first");
    EXPECT_THAT(client.input().Write("R\n"), IsOk());
    EXPECT_NE(co_await client.Exit(), 0) << "it takes the refusal for an error";
  }(&files_, Serving()));
}

// Rows: 83
TEST_P(TlsPeersTest, OurServerOutlivesAClientThatRefusesIt) {
  RunInRealTime([](const Files* files, StartServerOptions options) -> Task<void> {
    int served = 0;
    auto count = [&served](StreamReader reader, StreamWriter writer) -> Task<void> {
      served++;
      co_await Echo(std::move(reader), std::move(writer));
    };
    auto server = co_await StartServer(count, "127.0.0.1", 0, options);
    CO_ASSERT_OK(server);
    ChildProcess client({kOpenssl, "s_client", "-connect",
                         absl::StrCat("127.0.0.1:", server->sockets()[0].port()), "-CAfile",
                         files->client_certificate(), "-verify_return_error", VersionFlag()});
    EXPECT_NE(co_await client.Exit(), 0);
    server->Close();
    EXPECT_THAT(co_await server->WaitClosed(), IsOk());
    EXPECT_EQ(served, 0);
  }(&files_, Serving()));
}

// --- Python

constexpr char kPythonServer[] = R"(
import hashlib, socket, ssl, sys
certificate, key = sys.argv[1:3]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
plain = listener.accept()[0]
if len(sys.argv) > 3:
    assert plain.recv(100) == b"STARTTLS\n"
    plain.sendall(b"220 ready\n")
with context.wrap_socket(plain, server_side=True) as connection:
    print(connection.version(), flush=True)
    received = hashlib.sha256()
    while data := connection.recv(65536):
        received.update(data)
        connection.sendall(data)
    print("sha256", received.hexdigest(), flush=True)
    connection.unwrap()
    print("closed cleanly", flush=True)
)";

constexpr char kPythonClient[] = R"(
import socket, ssl, sys, threading
port, ca = int(sys.argv[1]), sys.argv[2]
context = ssl.create_default_context(cafile=ca)
plain = socket.create_connection(("127.0.0.1", port))
if len(sys.argv) > 3:
    plain.sendall(b"STARTTLS\n")
    assert plain.recv(100) == b"220 ready\n"
with context.wrap_socket(plain, server_hostname="localhost") as connection:
    print(connection.version(), flush=True)
    sent = bytes(range(256)) * 8192
    sender = threading.Thread(target=connection.sendall, args=(sent,))
    sender.start()
    received = b""
    while len(received) < len(sent):
        data = connection.recv(65536)
        assert data
        received += data
    sender.join()
    assert received == sent
    print("equal", flush=True)
    connection.unwrap()
    print("closed cleanly", flush=True)
)";

std::string Payload(std::size_t size) {
  std::string data(size, '\0');
  uint32_t state = 7;
  for (char& byte : data) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<char>(state >> 24);
  }
  return data;
}

std::string Sha256(absl::string_view data) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(data.data()), data.size(), digest);
  std::string hex;
  for (const unsigned char byte : digest) absl::StrAppend(&hex, absl::Hex(byte, absl::kZeroPad2));
  return hex;
}

// Rows: 212, 215
TEST_P(TlsPeersTest, OurClientTalksToPython) {
  RunInRealTime([](const Files* files, OpenConnectionOptions options) -> Task<void> {
    ChildProcess server({kPython, "-c", kPythonServer, files->certificate(), files->key()});
    const int port = PortOf(co_await LineWith(server.output(), ""));
    CO_ASSERT_NE(port, 0);
    auto connection = co_await OpenConnection("127.0.0.1", port, options);
    CO_ASSERT_OK(connection);
    EXPECT_EQ(co_await LineWith(server.output(), ""), VersionName());
    const std::string payload = Payload(2 << 20);
    EXPECT_THAT(connection->writer.Write(payload), IsOk());
    EXPECT_THAT(co_await connection->reader.ReadExactly(payload.size()), IsOkAndHolds(payload));
    connection->writer.Close();
    EXPECT_THAT(co_await connection->writer.WaitClosed(), IsOk());
    EXPECT_EQ(co_await LineWith(server.output(), "sha256 "), Sha256(payload));
    EXPECT_THAT(co_await server.output().ReadLine(), IsOkAndHolds("closed cleanly\n"));
    EXPECT_EQ(co_await server.Exit(), 0);
  }(&files_, Client()));
}

// Rows: 82, 212
TEST_P(TlsPeersTest, OurServerTalksToPython) {
  RunInRealTime([](const Files* files, StartServerOptions options) -> Task<void> {
    auto server = co_await StartServer(Echo, "127.0.0.1", 0, options);
    CO_ASSERT_OK(server);
    ChildProcess client(
        {kPython, "-c", kPythonClient, absl::StrCat(server->sockets()[0].port()), files->ca()});
    EXPECT_EQ(co_await LineWith(client.output(), ""), VersionName());
    EXPECT_THAT(co_await client.output().ReadLine(), IsOkAndHolds("equal\n"));
    EXPECT_THAT(co_await client.output().ReadLine(), IsOkAndHolds("closed cleanly\n"));
    EXPECT_EQ(co_await client.Exit(), 0);
  }(&files_, Serving()));
}

// Rows: 221, 222
TEST_P(TlsPeersTest, OurClientUpgradesAConnectionToPython) {
  RunInRealTime([](const Files* files, OpenConnectionOptions tls) -> Task<void> {
    ChildProcess server(
        {kPython, "-c", kPythonServer, files->certificate(), files->key(), "starttls"});
    const int port = PortOf(co_await LineWith(server.output(), ""));
    CO_ASSERT_NE(port, 0);
    auto connection = co_await OpenConnection("127.0.0.1", port);
    CO_ASSERT_OK(connection);
    EXPECT_THAT(connection->writer.Write("STARTTLS\n"), IsOk());
    EXPECT_THAT(co_await connection->reader.ReadLine(), IsOkAndHolds("220 ready\n"));
    StartTlsOptions options;
    options.server_hostname = "localhost";
    CO_ASSERT_OK(co_await connection->writer.StartTls(tls.tls.context, options));
    const std::string payload = Payload(2 << 20);
    EXPECT_THAT(connection->writer.Write(payload), IsOk());
    EXPECT_THAT(co_await connection->reader.ReadExactly(payload.size()), IsOkAndHolds(payload));
    EXPECT_EQ(connection->reader.bytes_received(), payload.size() + 10);
    EXPECT_EQ(connection->writer.bytes_flushed(), payload.size() + 9);
    connection->writer.Close();
    EXPECT_THAT(co_await connection->writer.WaitClosed(), IsOk());
    EXPECT_EQ(co_await LineWith(server.output(), "closed"), " cleanly");
  }(&files_, Client()));
}

// Rows: 221, 222, 228
TEST_P(TlsPeersTest, OurServerUpgradesAConnectionOfPython) {
  RunInRealTime([](const Files* files, StartServerOptions tls) -> Task<void> {
    auto upgrade = [](StreamReader reader, StreamWriter writer,
                      std::shared_ptr<const TlsContext> context) -> Task<void> {
      EXPECT_THAT(co_await reader.ReadLine(), IsOkAndHolds("STARTTLS\n"));
      EXPECT_THAT(writer.Write("220 ready\n"), IsOk());
      // The ClientHello may be in the buffer by the time the upgrade begins.
      StartTlsOptions options;
      options.unread = StartTlsOptions::Unread::kBelongsToTls;
      CO_ASSERT_OK(co_await writer.StartTls(context, options));
      co_await Echo(std::move(reader), std::move(writer));
    };
    auto server = co_await StartServer(
        [&](StreamReader reader, StreamWriter writer) {
          return upgrade(std::move(reader), std::move(writer), tls.tls.context);
        },
        "127.0.0.1", 0);
    CO_ASSERT_OK(server);
    ChildProcess client({kPython, "-c", kPythonClient, absl::StrCat(server->sockets()[0].port()),
                         files->ca(), "starttls"});
    EXPECT_EQ(co_await LineWith(client.output(), ""), VersionName());
    EXPECT_THAT(co_await client.output().ReadLine(), IsOkAndHolds("equal\n"));
    EXPECT_EQ(co_await LineWith(client.output(), "closed"), " cleanly");
    EXPECT_EQ(co_await client.Exit(), 0);
  }(&files_, Serving()));
}

// --- bulk

// How much goes each way. More by the environment: SOCKBROKER_TLS_TRANSFER_MIB=1024.
std::size_t TransferSize() {
  std::size_t mebibytes = 64;
  if (const char* text = std::getenv("SOCKBROKER_TLS_TRANSFER_MIB")) {
    (void)absl::SimpleAtoi(text, &mebibytes);
  }
  return mebibytes << 20;
}

constexpr std::size_t kBetweenKeyUpdates = 5 << 20;

class Digest {
 public:
  Digest() : context_(EVP_MD_CTX_new()) { EVP_DigestInit_ex(context_, EVP_sha256(), nullptr); }
  ~Digest() { EVP_MD_CTX_free(context_); }
  Digest(const Digest&) = delete;
  Digest& operator=(const Digest&) = delete;
  void Add(absl::string_view data) { EVP_DigestUpdate(context_, data.data(), data.size()); }
  std::string Finish() {
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    EVP_DigestFinal_ex(context_, bytes, &size);
    return std::string(reinterpret_cast<char*>(bytes), size);
  }

 private:
  EVP_MD_CTX* const context_;
};

// A stream of bytes that only its place decides.
struct Source {
  uint64_t state;
  std::string Next(std::size_t size) {
    std::string block(size, '\0');
    for (std::size_t i = 0; i + 8 <= size; i += 8) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      std::memcpy(&block[i], &state, 8);
    }
    return block;
  }
};
constexpr std::size_t kBlock = 64 * 1024;

struct Transferred {
  std::string sent;
  std::string received;
  int key_updates = 0;
  std::string error;
};

// OpenSSL's own calls on a non-blocking socket, both directions at once.
Transferred TransferByOpenssl(SSL* ssl, int fd, std::size_t size, bool update_keys) {
  Transferred result;
  Digest sent;
  Digest received;
  Source source{1};
  std::string block;
  std::size_t written = 0;
  std::size_t read = 0;
  std::size_t updated = 0;
  std::string room(kBlock, '\0');
  while (written < size || read < size) {
    bool moved = false;
    if (written < size) {
      if (block.empty()) {
        if (update_keys && written - updated >= kBetweenKeyUpdates) {
          updated = written;
          if (SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED) == 1) result.key_updates++;
        }
        block = source.Next(kBlock);
        sent.Add(block);
      }
      const int count = SSL_write(ssl, block.data(), static_cast<int>(block.size()));
      if (count > 0) {
        written += block.size();
        block.clear();
        moved = true;
      } else if (SSL_get_error(ssl, count) != SSL_ERROR_WANT_WRITE &&
                 SSL_get_error(ssl, count) != SSL_ERROR_WANT_READ) {
        result.error = "SSL_write: " + internal::TakeOpensslError();
        return result;
      }
      ERR_clear_error();
    }
    if (read < size) {
      const int count = SSL_read(ssl, room.data(), static_cast<int>(room.size()));
      if (count > 0) {
        received.Add(absl::string_view(room.data(), static_cast<std::size_t>(count)));
        read += static_cast<std::size_t>(count);
        moved = true;
      } else if (SSL_get_error(ssl, count) != SSL_ERROR_WANT_WRITE &&
                 SSL_get_error(ssl, count) != SSL_ERROR_WANT_READ) {
        result.error = "SSL_read: " + internal::TakeOpensslError();
        return result;
      }
      ERR_clear_error();
    }
    if (!moved) {
      pollfd wait{fd, static_cast<short>(POLLIN | (written < size ? POLLOUT : 0)), 0};
      // Half a minute without a byte: the other side has failed, and says so itself.
      if (poll(&wait, 1, 30000) <= 0) {
        result.error = "nothing moves any more";
        return result;
      }
    }
  }
  result.sent = sent.Finish();
  result.received = received.Finish();
  return result;
}

class TlsTransferTest : public ::testing::TestWithParam<std::tuple<TlsVersion, TlsSide>> {};

INSTANTIATE_TEST_SUITE_P(Sides, TlsTransferTest,
                         ::testing::Combine(::testing::Values(TlsVersion::kTls12,
                                                              TlsVersion::kTls13),
                                            ::testing::Values(TlsSide::kClient, TlsSide::kServer)),
                         [](const auto& info) {
                           return absl::StrCat(
                               std::get<0>(info.param) == TlsVersion::kTls12 ? "Tls12" : "Tls13",
                               std::get<1>(info.param) == TlsSide::kClient ? "Client" : "Server");
                         });

// Rows: 217
TEST_P(TlsTransferTest, BothWaysAtOnceWithKeyUpdatesArrivesWhole) {
  const TlsVersion version = std::get<0>(GetParam());
  const TlsSide our_side = std::get<1>(GetParam());
  const std::size_t size = TransferSize();
  auto [ours, theirs] = TcpSocketPair();

  // The other side, in a thread of its own.
  Transferred there;
  std::thread thread([&there, fd = theirs.get(), size, version, our_side] {
    OpensslPeer peer(our_side == TlsSide::kClient ? TlsSide::kServer : TlsSide::kClient,
                     [version](SSL_CTX* ctx) {
                       const int number =
                           version == TlsVersion::kTls12 ? TLS1_2_VERSION : TLS1_3_VERSION;
                       SSL_CTX_set_min_proto_version(ctx, number);
                       SSL_CTX_set_max_proto_version(ctx, number);
                       SSL_CTX_set_mode(ctx, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
                     });
    SSL_set_fd(peer.ssl(), fd);
    if (SSL_do_handshake(peer.ssl()) != 1) {
      there.error = "handshake: " + internal::TakeOpensslError();
      shutdown(fd, SHUT_RDWR);
      return;
    }
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    there = TransferByOpenssl(peer.ssl(), fd, size, version == TlsVersion::kTls13);
    // Its close_notify, and then what is left of ours: no reset may destroy data under way.
    SSL_shutdown(peer.ssl());
    shutdown(fd, SHUT_WR);
    ERR_clear_error();
  });

  Transferred here;
  RunInRealTime(
      [](Descriptor socket, TlsVersion tls_version, TlsSide side, std::size_t bytes,
         Transferred* result) -> Task<void> {
        EventLoop* loop = GetRunningLoop();
        std::shared_ptr<ByteStream> lower = SocketStream::Create(loop, std::move(socket)).value();
        auto engine =
            side == TlsSide::kClient
                ? TlsEngine::Create(MakeContext(At(tls_version, ClientTlsOptions())), "localhost")
                : TlsEngine::Create(MakeContext(At(tls_version, ServerTlsOptions())), std::nullopt);
        auto tls = TlsStream::Create(loop, lower, *std::move(engine), {});
        Connection connection = MakeConnection(loop, tls).value();
        CO_ASSERT_OK(co_await TlsStream::WaitHandshake(tls));
        auto send = [](StreamWriter writer, std::size_t total) -> Task<std::string> {
          Digest digest;
          Source source{2};
          for (std::size_t sent = 0; sent < total; sent += kBlock) {
            const std::string block = source.Next(kBlock);
            digest.Add(block);
            EXPECT_THAT(writer.Write(block), IsOk());
            absl::Status status = co_await writer.Drain();
            EXPECT_THAT(status, IsOk());
            if (!status.ok()) break;
          }
          co_return digest.Finish();
        };
        auto sending = CreateTask(send(connection.writer, bytes));
        Digest digest;
        for (std::size_t received = 0; received < bytes;) {
          absl::StatusOr<absl::Cord> data = co_await connection.reader.Read(kBlock);
          CO_ASSERT_OK(data);
          CO_ASSERT_FALSE(data->empty());
          for (const absl::string_view chunk : data->Chunks()) digest.Add(chunk);
          received += data->size();
        }
        result->received = digest.Finish();
        result->sent = co_await sending.Join();
        EXPECT_THAT(co_await connection.reader.ReadAll(), IsOkAndHolds(""));
        EXPECT_THAT(co_await connection.writer.WaitClosed(), IsOk());
        EXPECT_EQ(connection.writer.bytes_flushed(), bytes);
      }(std::move(ours), version, our_side, size, &here),
      absl::Minutes(5));
  thread.join();

  EXPECT_EQ(there.error, "");
  EXPECT_EQ(here.sent, there.received);
  EXPECT_EQ(there.sent, here.received);
  EXPECT_EQ(here.received.size(), 32u);
  if (version == TlsVersion::kTls13) {
    EXPECT_EQ(there.key_updates, static_cast<int>((size - 1) / kBetweenKeyUpdates));
  }
}

}  // namespace
}  // namespace sockbroker::streams

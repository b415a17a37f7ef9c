// MakeTlsPair: both ends of a TLS connection in memory. HandPeer: one end whose TLS is done by
// hand, so that it can stop, lie and hang up at any point.
//
//   TlsPair pair = MakeTlsPair();
//   CO_ASSERT_OK(co_await pair.Establish());
//   pair.client.writer.Write("ping\n");
//   EXPECT_THAT(co_await pair.server.reader.ReadLine(), IsOkAndHolds("ping\n"));
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "streams/connection.h"
#include "streams/testing/fault_stream.h"
#include "streams/testing/idle.h"
#include "streams/testing/memory_stream.h"
#include "streams/tls_stream.h"
#include "tests/streams/tls_sides.h"

namespace sockbroker::streams {

struct TlsPairOptions {
  std::shared_ptr<const TlsContext> client_context = ClientContext();
  std::shared_ptr<const TlsContext> server_context = ServerContext();
  TlsStreamOptions client;
  TlsStreamOptions server;
  StreamOptions stream;
  MemoryStreamOptions memory;
  // What happens to what each side sends.
  std::optional<Faults> faults;
};

struct TlsPair {
  std::shared_ptr<MemoryStream> client_wire;
  std::shared_ptr<MemoryStream> server_wire;
  std::shared_ptr<TlsStream> client_tls;
  std::shared_ptr<TlsStream> server_tls;
  Connection client;
  Connection server;

  Task<absl::Status> Establish() {
    if (absl::Status status = co_await TlsStream::WaitHandshake(client_tls); !status.ok()) {
      co_return status;
    }
    co_return co_await TlsStream::WaitHandshake(server_tls);
  }
};

inline std::shared_ptr<TlsStream> ClientTlsOver(
    std::shared_ptr<ByteStream> lower, TlsStreamOptions options = {},
    std::shared_ptr<const TlsContext> context = ClientContext()) {
  return TlsStream::Create(GetRunningLoop(), std::move(lower),
                           TlsEngine::Create(std::move(context), "localhost").value(), options);
}
inline std::shared_ptr<TlsStream> ServerTlsOver(
    std::shared_ptr<ByteStream> lower, TlsStreamOptions options = {},
    std::shared_ptr<const TlsContext> context = ServerContext()) {
  return TlsStream::Create(GetRunningLoop(), std::move(lower),
                           TlsEngine::Create(std::move(context), std::nullopt).value(), options);
}

inline TlsPair MakeTlsPair(TlsPairOptions options = {}) {
  EventLoop* loop = GetRunningLoop();
  TlsPair pair;
  std::tie(pair.client_wire, pair.server_wire) = MakeMemoryStreams(loop, options.memory);
  std::shared_ptr<ByteStream> client = pair.client_wire;
  std::shared_ptr<ByteStream> server = pair.server_wire;
  if (options.faults.has_value()) {
    client = std::make_shared<FaultStream>(loop, client, Faults{}, *options.faults);
    server = std::make_shared<FaultStream>(loop, server, Faults{}, *options.faults);
  }
  pair.client_tls = ClientTlsOver(client, options.client, options.client_context);
  pair.server_tls = ServerTlsOver(server, options.server, options.server_context);
  pair.client = MakeConnection(loop, pair.client_tls, options.stream).value();
  pair.server = MakeConnection(loop, pair.server_tls, options.stream).value();
  return pair;
}

class HandPeer {
 public:
  // `side` is the hand-made end's.
  explicit HandPeer(TlsSide side, TlsStreamOptions options = {},
                    TlsVersion version = TlsVersion::kTls13, MemoryStreamOptions memory = {},
                    StreamOptions stream = {}) {
    EventLoop* loop = GetRunningLoop();
    std::tie(lower, wire) = MakeMemoryStreams(loop, memory);
    auto client = MakeContext(At(version, ClientTlsOptions()));
    auto server = MakeContext(At(version, ServerTlsOptions()));
    if (side == TlsSide::kServer) {
      engine = TlsEngine::Create(server, std::nullopt).value();
      tls = ClientTlsOver(lower, options, client);
    } else {
      engine = TlsEngine::Create(client, "localhost").value();
      tls = ServerTlsOver(lower, options, server);
    }
    connection = MakeConnection(loop, tls, stream).value();
  }

  // Takes what has come and says what the engine has to say.
  Task<void> Exchange() {
    Send();
    co_await Idle();
    Take();
  }
  void Take() { engine->FeedCiphertext(wire->Receive(1 << 30)); }
  void Send() { wire->Write(engine->TakeCiphertext()); }
  // One flight of ours, for one of theirs.
  Task<void> HandshakeStep() {
    co_await Exchange();
    if (!done) done = engine->Handshake() == EngineResult::kDone;
  }
  Task<bool> Establish() {
    for (int i = 0; i < 6; ++i) co_await HandshakeStep();
    co_await Exchange();
    co_return done && tls->tls_info() != nullptr;
  }
  // Sends protected data.
  void Write(absl::string_view data) {
    absl::Cord plain(data);
    EXPECT_EQ(engine->Write(&plain), EngineResult::kDone);
    Send();
  }
  void SendCloseNotify() {
    EXPECT_EQ(engine->SendCloseNotify(), EngineResult::kDone);
    Send();
  }
  // Everything that has come, decrypted, and in `last` why there is no more.
  Task<std::string> ReadAll() {
    absl::Cord plain;
    for (int idle = 0; idle < 3; ++idle) {
      co_await Exchange();
      const std::size_t before = plain.size();
      do {
        last = engine->Read(&plain, 1 << 20);
      } while (last == EngineResult::kDone);
      if (plain.size() != before) idle = 0;
    }
    co_return std::string(plain);
  }

  std::shared_ptr<MemoryStream> lower;
  std::shared_ptr<MemoryStream> wire;  // the hand's end
  std::unique_ptr<TlsEngine> engine;   // the hand's
  std::shared_ptr<TlsStream> tls;      // what is tested
  Connection connection;
  bool done = false;
  EngineResult last = EngineResult::kDone;
};

}  // namespace sockbroker::streams

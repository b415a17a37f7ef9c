// What can be chosen about a broker's link, a connection, a server.
#pragma once

#include <grpcpp/security/credentials.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "sockbroker/v1/connection.pb.h"
#include "sockbroker/v1/endpoint.pb.h"
#include "sockbroker/v1/server.pb.h"
#include "sockbroker/v1/tls.pb.h"
#include "streams/byte_stream.h"
#include "streams/open_connection.h"
#include "streams/server.h"

namespace sockbroker::client {

using Metadata = std::vector<std::pair<std::string, std::string>>;

// --- the link

enum class LinkState {
  kConnecting,    // an attempt is under way
  kUp,            // the broker has answered: streams move
  kReconnecting,  // the link broke, or could not be made; `retry_in` says when it is tried again
  kDraining,      // up, but the broker is about to stop: nothing new is opened
  kClosed,        // for good: `reason` says why
};

struct LinkEvent {
  LinkState state = LinkState::kConnecting;
  absl::Status reason;
  absl::Duration retry_in;
  // The broker's, once it is known. Another one: what the earlier had is lost.
  uint64_t incarnation = 0;
};

struct BrokerOptions {
  // Who we are, for a broker on TCP: see MutualTls. Null: a Unix socket, or plain TCP on loopback.
  std::shared_ptr<grpc::ChannelCredentials> credentials;
  // Sent with every call.
  Metadata metadata;
  // How long one attempt to reach the broker may take, its answer included.
  absl::Duration connect_timeout = absl::Seconds(10);
  // Whether Connect tries again when nobody is there, as for a link that breaks later; else it
  // fails at once.
  bool wait_for_broker = false;
  // Before each new attempt a random part of a time that doubles from the first to the second (full
  // jitter). The broker keeps what nobody is bound to for a lease of 60 s: stay well below.
  absl::Duration backoff_initial = absl::Milliseconds(20);
  absl::Duration backoff_max = absl::Seconds(5);
  // A link that was down for so long is given up: every stream ends with StreamEnd::kGivenUp.
  absl::Duration give_up_after = absl::InfiniteDuration();
  // How much of a connection may be under way to us, or wait here unread, in bytes. It grows by
  // itself with the bandwidth-delay product, to 16 MiB.
  uint64_t window = 64 * 1024;
  // 16 bytes that no other client has; none: random. Who comes back under the same ones takes his
  // connections over without `steal`.
  std::string holder;
  // Called on the loop when the link's state changes.
  std::function<void(const LinkEvent&)> on_state;
};

// The broker's roots, our certificate and key, in PEM.
std::shared_ptr<grpc::ChannelCredentials> MutualTls(std::string ca_pem, std::string certificate_pem,
                                                    std::string key_pem);

// --- connections

// Where a connection's two byte streams stand, in bytes from their begin.
struct Progress {
  uint64_t read = 0;     // given to the application and acknowledged: the broker forgets it
  uint64_t written = 0;  // by this and earlier clients
  uint64_t taken = 0;    // of that, what the broker has
  uint64_t flushed = 0;  // of that, what its kernel has
};

struct ConnectionOptions {
  // asyncio's `limit`, of the reader here.
  std::size_t limit = streams::kDefaultLimit;
  // How long Close may take here; the broker has its own time-out (broker.timeouts.close), which
  // goes on when the link is down.
  absl::Duration close_timeout = absl::InfiniteDuration();
  // The broker may forget what a reader has given. True: only what StreamWriter::Acknowledge has
  // named, so that a program that dies finds again what it had not stored. What is not acknowledged
  // fills the window.
  bool acknowledge_explicitly = false;
  // The broker's: lease, time-outs, socket options, labels. Its `limit` and water marks are for
  // unary calls.
  v1::ConnectionOptions broker;
  // Called on the loop when the broker has taken or flushed more.
  std::function<void(const Progress&)> on_progress;
  // Called on the loop when the connection was bound again after a broken link.
  std::function<void(uint64_t epoch)> on_rebound;
};

struct OpenConnectionOptions : ConnectionOptions {
  // As the engine's.
  int family = AF_UNSPEC;
  int flags = 0;
  std::optional<std::pair<std::string, uint16_t>> local_addr;
  std::optional<absl::Duration> happy_eyeballs_delay;
  std::optional<int> interleave;
  // TLS from the first byte on, done by the broker. An empty message trusts the system's roots.
  std::optional<v1::TlsOptions> tls;
  std::optional<v1::ProxyProtocol> proxy_protocol;
};

struct OpenUnixConnectionOptions : ConnectionOptions {
  std::optional<v1::TlsOptions> tls;
  std::optional<v1::ProxyProtocol> proxy_protocol;
};

struct AttachOptions : ConnectionOptions {
  // Take it from the client that has it.
  bool steal = false;
  // Where reading goes on; none: at the lowest byte that the broker has kept.
  std::optional<uint64_t> read_offset;
};

struct StartTlsOptions {
  // asyncio: a server for a connection that was accepted, else a client.
  v1::StartTlsRequest::Side side = v1::StartTlsRequest::SIDE_UNSPECIFIED;
  // What the peer sent and nobody has read yet.
  streams::StartTlsOptions::Unread unread = streams::StartTlsOptions::Unread::kRefuse;
};

// --- servers

struct ServerOptions {
  // Of accepted connections: the client's part; the broker's is broker.accepted.
  ConnectionOptions accepted;
  int backlog = 100;
  bool start_serving = true;
  std::optional<v1::TlsOptions> tls;
  // Lease, name, labels, PROXY protocol, what accepted connections have.
  v1::ServerOptions broker;
  // With a callback: how many connections may be on their way to us at a time.
  uint32_t credits = 64;
};

struct StartServerOptions : ServerOptions {
  int family = AF_UNSPEC;
  std::optional<int> flags;  // asyncio: AI_PASSIVE
  bool reuse_address = true;
  bool reuse_port = false;
  bool keep_alive = false;
};

struct StartUnixServerOptions : ServerOptions {
  bool cleanup_socket = true;
  std::optional<int> mode;
};

}  // namespace sockbroker::client

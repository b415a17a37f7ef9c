// What requests carry as options, checked and in the engine's types. Every complaint names the
// field's path and what is allowed there.
//
//   ConnectionSettings settings;
//   RpcStatus s = ParseConnectionOptions(request.options(), "options", limits, &settings);
//   if (!s.ok()) return s;
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "server/broker.h"
#include "server/errors.h"
#include "server/proxy_protocol.h"
#include "server/tls_settings.h"
#include "sockbroker/v1/connection.pb.h"
#include "sockbroker/v1/endpoint.pb.h"
#include "sockbroker/v1/server.pb.h"
#include "streams/open_connection.h"
#include "streams/server.h"
#include "streams/socket_options.h"

namespace sockbroker::server {

using LabelMap = std::map<std::string, std::string>;

// The contract's numbers.
inline constexpr int64_t kMaxRead = 1 << 20;
inline constexpr std::size_t kMaxWrite = 1 << 20;
inline constexpr std::size_t kMaxLines = 65536;
inline constexpr std::size_t kMaxSeparators = 64;
inline constexpr std::size_t kMaxSeparatorSize = 65536;
inline constexpr uint32_t kMaxLimit = 1 << 20;
inline constexpr uint32_t kMaxWaterMark = 8 << 20;
inline constexpr uint32_t kDefaultPageSize = 100;
inline constexpr uint32_t kMaxPageSize = 1000;

struct ConnectionSettings {
  std::size_t limit = streams::kDefaultLimit;
  std::size_t write_high_water = streams::kDefaultHighWater;
  std::size_t write_low_water = streams::kDefaultHighWater / 4;
  absl::Duration lease;
  // InfiniteDuration: none.
  absl::Duration connect_timeout = absl::InfiniteDuration();
  absl::Duration idle_timeout = absl::InfiniteDuration();
  absl::Duration half_close_timeout = absl::InfiniteDuration();
  absl::Duration close_timeout = absl::InfiniteDuration();
  streams::SocketOptions socket;
  // As asked for, with the defaults filled in: what GetConnection shows.
  v1::ConnectionOptions shown;

  LabelMap labels() const { return {shown.labels().begin(), shown.labels().end()}; }
  streams::StreamOptions stream_options() const { return {limit, close_timeout}; }
};

struct ServerSettings {
  std::string name;
  absl::Duration lease;
  bool start_serving = true;
  int backlog = 100;
  ConnectionSettings accepted;
  // Set when a PROXY header is demanded.
  std::optional<absl::Duration> proxy_header_timeout;
  // Set when every accepted connection does a TLS handshake first.
  streams::TlsOptions tls;
  v1::ServerOptions shown;

  LabelMap labels() const { return {shown.labels().begin(), shown.labels().end()}; }
};

// `prefix`: the path of `options` itself.
RpcStatus ParseConnectionOptions(const v1::ConnectionOptions& options, absl::string_view prefix,
                                 const BrokerLimits& limits, ConnectionSettings* settings);
RpcStatus ParseServerOptions(const v1::ServerOptions& options, absl::string_view prefix,
                             const BrokerLimits& limits, ServerSettings* settings);
// SetOptions: what is present in `changes` over what `settings` has. `socket` gets only what must
// be applied.
RpcStatus ParseOptionChanges(const v1::SetOptionsRequest& request, const BrokerLimits& limits,
                             ConnectionSettings* settings, streams::SocketOptions* socket);

// OpenConnectionRequest and the like, ready for the engine.
struct OpenPlan {
  bool is_unix = false;  // which method was called
  std::optional<std::string> host;
  streams::Port port = 0;
  std::string unix_path;
  // The name of an adopted descriptor, instead.
  std::optional<std::string> sock;
  streams::OpenConnectionOptions engine;
  ConnectionSettings settings;
  // Sent before the first byte; "" for none.
  std::string proxy_header;
  std::optional<v1::TlsOptions> tls;
  std::string requested_host;
};
RpcStatus ParseOpen(const v1::OpenConnectionRequest& request, const BrokerLimits& limits,
                    OpenPlan* plan);
RpcStatus ParseOpenUnix(const v1::OpenUnixConnectionRequest& request, const BrokerLimits& limits,
                        OpenPlan* plan);

struct ServePlan {
  bool is_unix = false;
  std::vector<std::string> hosts;
  streams::Port port = 0;
  std::string unix_path;
  std::optional<std::string> sock;
  streams::StartServerOptions tcp;
  streams::StartUnixServerOptions unix_server;
  std::optional<v1::TlsOptions> tls;
  ServerSettings settings;
};
RpcStatus ParseStart(const v1::StartServerRequest& request, const BrokerLimits& limits,
                     ServePlan* plan);
RpcStatus ParseStartUnix(const v1::StartUnixServerRequest& request, const BrokerLimits& limits,
                         ServePlan* plan);

// Absent, or exactly 16 bytes.
RpcStatus CheckRequestId(absl::string_view request_id);
RpcStatus CheckPageSize(uint32_t page_size);
RpcStatus CheckLabelFilter(const google::protobuf::Map<std::string, std::string>& labels);
// A filter matches when each of its keys is there, with its value unless that is empty.
bool MatchesLabels(const google::protobuf::Map<std::string, std::string>& filter,
                   const LabelMap& labels);

}  // namespace sockbroker::server

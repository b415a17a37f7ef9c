#include "server/options_codec.h"

#include <netdb.h>

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/endpoint_codec.h"

namespace sockbroker::server {
namespace {

using google::protobuf::Duration;

constexpr absl::Duration kMaxLease = absl::Hours(24);
constexpr absl::Duration kForever = absl::InfiniteDuration();

std::string Path(absl::string_view prefix, absl::string_view field) {
  return prefix.empty() ? std::string(field) : absl::StrCat(prefix, ".", field);
}

// Collects the first complaint, so that a list of checks reads as one.
class Checker {
 public:
  explicit Checker(absl::string_view prefix) : prefix_(prefix) {}

  bool ok() const { return status_.ok(); }
  RpcStatus Take() { return std::move(status_); }
  bool Require(bool condition, absl::string_view field, absl::string_view allowed) {
    if (!condition && status_.ok()) status_ = InvalidField(Path(prefix_, field), allowed);
    return condition;
  }
  void Merge(RpcStatus status) {
    if (status_.ok()) status_ = std::move(status);
  }

  // From `least` to `most`, both included.
  std::optional<absl::Duration> Time(bool present, const Duration& value, absl::string_view field,
                                     absl::Duration least, absl::Duration most,
                                     absl::string_view allowed) {
    if (!present) return std::nullopt;
    const std::optional<absl::Duration> duration = FromProto(value);
    if (!Require(duration.has_value() && *duration >= least && *duration <= most, field, allowed)) {
      return std::nullopt;
    }
    return duration;
  }
  // A time-out: zero means none.
  std::optional<absl::Duration> Timeout(bool present, const Duration& value,
                                        absl::string_view field) {
    std::optional<absl::Duration> duration =
        Time(present, value, field, absl::ZeroDuration(), kForever, "0 (no limit) or more");
    if (duration.has_value() && *duration == absl::ZeroDuration()) duration = kForever;
    return duration;
  }

 private:
  const std::string prefix_;
  RpcStatus status_;
};

bool HasNul(absl::string_view text) { return absl::StrContains(text, absl::string_view("\0", 1)); }

bool LabelsAreValid(const google::protobuf::Map<std::string, std::string>& labels) {
  if (labels.size() > 16) return false;
  for (const auto& [key, value] : labels) {
    if (key.empty() || key.size() > 63 || value.size() > 255) return false;
  }
  return true;
}
constexpr absl::string_view kLabelsAllowed =
    "at most 16, with keys of 1 to 63 and values of at most 255 bytes";

RpcStatus ParseSocketOptions(const v1::SocketOptions& in, absl::string_view prefix,
                             streams::SocketOptions* out) {
  Checker check(prefix);
  constexpr absl::string_view kKeepaliveTime = "1 s to 32767 s";
  if (in.has_nodelay()) out->nodelay = in.nodelay();
  if (in.has_keepalive()) out->keepalive = in.keepalive();
  if (auto value = check.Time(in.has_keepalive_idle(), in.keepalive_idle(), "keepalive_idle",
                              absl::Seconds(1), absl::Seconds(32767), kKeepaliveTime)) {
    out->keepalive_idle = value;
  }
  if (auto value =
          check.Time(in.has_keepalive_interval(), in.keepalive_interval(), "keepalive_interval",
                     absl::Seconds(1), absl::Seconds(32767), kKeepaliveTime)) {
    out->keepalive_interval = value;
  }
  if (in.has_keepalive_count() &&
      check.Require(in.keepalive_count() >= 1 && in.keepalive_count() <= 127, "keepalive_count",
                    "1 to 127")) {
    out->keepalive_count = static_cast<int>(in.keepalive_count());
  }
  if (auto value =
          check.Time(in.has_user_timeout(), in.user_timeout(), "user_timeout", absl::ZeroDuration(),
                     absl::Milliseconds(INT32_MAX), "0 to 2147483.647 s")) {
    out->user_timeout = value;
  }
  if (auto value = check.Time(in.has_linger(), in.linger(), "linger", absl::ZeroDuration(),
                              absl::Seconds(32767), "0 to 32767 s")) {
    out->linger = value;
  }
  constexpr absl::string_view kBuffer = "1 to 1073741824";
  if (in.has_receive_buffer() &&
      check.Require(in.receive_buffer() >= 1 && in.receive_buffer() <= (1u << 30), "receive_buffer",
                    kBuffer)) {
    out->receive_buffer = static_cast<int>(in.receive_buffer());
  }
  if (in.has_send_buffer() && check.Require(in.send_buffer() >= 1 && in.send_buffer() <= (1u << 30),
                                            "send_buffer", kBuffer)) {
    out->send_buffer = static_cast<int>(in.send_buffer());
  }
  if (in.has_tos() && check.Require(in.tos() <= 255, "tos", "0 to 255")) {
    out->tos = static_cast<int>(in.tos());
  }
  if (in.has_mark()) out->mark = in.mark();
  if (in.has_bind_to_device() &&
      check.Require(!in.bind_to_device().empty() && in.bind_to_device().size() <= 15 &&
                        !HasNul(in.bind_to_device()),
                    "bind_to_device", "the name of an interface, 1 to 15 bytes")) {
    out->bind_to_device = in.bind_to_device();
  }
  if (in.has_freebind()) out->freebind = in.freebind();
  return check.Take();
}

// The parts that both a new connection and SetOptions take.
RpcStatus ParseCommon(const v1::ConnectionOptions& in, absl::string_view prefix,
                      ConnectionSettings* out) {
  Checker check(prefix);
  if (in.has_limit() &&
      check.Require(in.limit() >= 1 && in.limit() <= kMaxLimit, "limit", "1 to 1048576")) {
    out->limit = in.limit();
    out->shown.set_limit(in.limit());
  }
  if (in.has_write_high_water() || in.has_write_low_water()) {
    // asyncio's set_write_buffer_limits; 64 bit, since 4*low may pass 32.
    uint64_t high = in.write_high_water();
    if (!in.has_write_high_water()) high = uint64_t{4} * in.write_low_water();
    const uint64_t low = in.has_write_low_water() ? in.write_low_water() : high / 4;
    const absl::string_view field =
        in.has_write_high_water() ? "write_high_water" : "write_low_water";
    check.Require(low <= high, "write_low_water", "at most write_high_water");
    if (check.Require(high <= kMaxWaterMark, field,
                      in.has_write_high_water() ? "0 to 8388608" : "0 to 2097152")) {
      out->write_high_water = high;
      out->write_low_water = low;
      out->shown.set_write_high_water(static_cast<uint32_t>(high));
      out->shown.set_write_low_water(static_cast<uint32_t>(low));
    }
  }
  if (auto lease = check.Time(in.has_lease(), in.lease(), "lease", absl::Seconds(1), kMaxLease,
                              "1 s to 24 h")) {
    out->lease = *lease;
    *out->shown.mutable_lease() = in.lease();
  }
  const v1::Timeouts& times = in.timeouts();
  if (auto value = check.Timeout(times.has_idle(), times.idle(), "timeouts.idle")) {
    out->idle_timeout = *value;
    *out->shown.mutable_timeouts()->mutable_idle() = times.idle();
  }
  if (auto value =
          check.Timeout(times.has_half_close(), times.half_close(), "timeouts.half_close")) {
    out->half_close_timeout = *value;
    *out->shown.mutable_timeouts()->mutable_half_close() = times.half_close();
  }
  if (auto value = check.Timeout(times.has_close(), times.close(), "timeouts.close")) {
    out->close_timeout = *value;
    *out->shown.mutable_timeouts()->mutable_close() = times.close();
  }
  check.Require(LabelsAreValid(in.labels()), "labels", kLabelsAllowed);
  if (!in.labels().empty()) *out->shown.mutable_labels() = in.labels();
  return check.Take();
}

RpcStatus CheckName(absl::string_view name, absl::string_view field) {
  Checker check("");
  check.Require(name.size() <= 253 && !HasNul(name), field, "at most 253 bytes, without NUL");
  return check.Take();
}

RpcStatus CheckPort(uint32_t port, absl::string_view field) {
  Checker check("");
  check.Require(port <= 65535, field, "0 to 65535");
  return check.Take();
}

RpcStatus CheckUnixPath(absl::string_view path) {
  Checker check("");
  check.Require(!path.empty() && path.size() <= 107, "path", "1 to 107 bytes");
  check.Require(path.empty() || path[0] == '\0' || !HasNul(path), "path",
                "no NUL, unless it is the first byte (the abstract namespace)");
  return check.Take();
}

RpcStatus CheckSockName(absl::string_view name) {
  Checker check("");
  check.Require(!name.empty() && name.size() <= 255, "sock",
                "the name of a descriptor the broker was given, 1 to 255 bytes");
  return check.Take();
}

RpcStatus ParseFamily(v1::Family family, int* out) {
  switch (family) {
    case v1::FAMILY_UNSPECIFIED:
      *out = AF_UNSPEC;
      return RpcStatus();
    case v1::FAMILY_INET:
      *out = AF_INET;
      return RpcStatus();
    case v1::FAMILY_INET6:
      *out = AF_INET6;
      return RpcStatus();
    default:
      return InvalidField("family", "FAMILY_UNSPECIFIED, FAMILY_INET or FAMILY_INET6");
  }
}

RpcStatus ParseService(const std::string& service, streams::Port* port) {
  if (service.empty() || service.size() > 63 || HasNul(service)) {
    return InvalidField("service", "a service's name or a number in text, 1 to 63 bytes");
  }
  *port = streams::Port(service);
  return RpcStatus();
}

// A header that is sent.
RpcStatus ParseSentProxy(const v1::ProxyProtocol& in, std::string* header) {
  Checker check("proxy_protocol");
  check.Require(in.version() == v1::ProxyProtocol::V1 || in.version() == v1::ProxyProtocol::V2,
                "version", "V1 or V2");
  check.Require(in.has_source() == in.has_destination(), in.has_source() ? "destination" : "source",
                "both ends, or neither");
  ProxyHeader ends;
  const auto parse = [&](const v1::TcpEndpoint& endpoint, absl::string_view field,
                         streams::SocketAddress* address) {
    const absl::StatusOr<streams::SocketAddress> parsed = FromProto(endpoint);
    if (check.Require(parsed.ok(), field, "an IP address, and a port from 0 to 65535")) {
      *address = *parsed;
    }
  };
  if (in.has_source()) parse(in.source(), "source", &ends.source);
  if (in.has_destination()) parse(in.destination(), "destination", &ends.destination);
  if (!check.ok()) return check.Take();
  const auto version =
      in.version() == v1::ProxyProtocol::V1 ? ProxyVersion::kV1 : ProxyVersion::kV2;
  absl::StatusOr<std::string> encoded = EncodeProxyHeader(version, ends);
  if (!encoded.ok()) return InvalidField("proxy_protocol", encoded.status().message());
  *header = *std::move(encoded);
  return RpcStatus();
}

}  // namespace

RpcStatus ParseConnectionOptions(const v1::ConnectionOptions& in, absl::string_view prefix,
                                 const BrokerLimits& limits, ConnectionSettings* out) {
  out->lease = limits.default_lease;
  out->connect_timeout = limits.default_connect_timeout;
  out->close_timeout = limits.default_close_timeout;
  out->shown.set_limit(static_cast<uint32_t>(out->limit));
  out->shown.set_write_high_water(static_cast<uint32_t>(out->write_high_water));
  out->shown.set_write_low_water(static_cast<uint32_t>(out->write_low_water));
  *out->shown.mutable_lease() = ToProto(out->lease);
  *out->shown.mutable_timeouts()->mutable_connect() = ToProto(out->connect_timeout);
  *out->shown.mutable_timeouts()->mutable_close() = ToProto(out->close_timeout);

  Checker check(prefix);
  check.Merge(ParseCommon(in, prefix, out));
  if (auto value =
          check.Timeout(in.timeouts().has_connect(), in.timeouts().connect(), "timeouts.connect")) {
    out->connect_timeout = *value;
    *out->shown.mutable_timeouts()->mutable_connect() = in.timeouts().connect();
  }
  check.Merge(ParseSocketOptions(in.socket(), Path(prefix, "socket"), &out->socket));
  if (in.has_socket()) *out->shown.mutable_socket() = in.socket();
  // W3C's is 55 characters; a later version may append.
  check.Require(in.traceparent().size() <= 256, "traceparent", "at most 256 bytes");
  out->shown.set_traceparent(in.traceparent());
  return check.Take();
}

RpcStatus ParseOptionChanges(const v1::SetOptionsRequest& request, const BrokerLimits& /*limits*/,
                             ConnectionSettings* settings, streams::SocketOptions* socket) {
  const v1::ConnectionOptions& in = request.options();
  Checker check("options");
  check.Require(!in.timeouts().has_connect(), "timeouts.connect",
                "absent: the connection stands already");
  check.Require(in.traceparent().empty(), "traceparent", "absent: it can't be changed");
  if (request.clear_labels() && !in.labels().empty()) {
    check.Merge(InvalidField("clear_labels", "false when labels are given"));
  }
  if (!check.ok()) return check.Take();
  if (request.clear_labels()) settings->shown.clear_labels();
  check.Merge(ParseCommon(in, "options", settings));
  check.Merge(ParseSocketOptions(in.socket(), "options.socket", socket));
  if (in.has_socket()) settings->shown.mutable_socket()->MergeFrom(in.socket());
  return check.Take();
}

RpcStatus ParseServerOptions(const v1::ServerOptions& in, absl::string_view prefix,
                             const BrokerLimits& limits, ServerSettings* out) {
  Checker check(prefix);
  out->lease = limits.default_lease;
  out->shown = in;
  if (in.has_backlog() &&
      check.Require(in.backlog() >= 1 && in.backlog() <= 65535, "backlog", "1 to 65535")) {
    out->backlog = static_cast<int>(in.backlog());
  }
  out->start_serving = !in.has_start_serving() || in.start_serving();
  check.Require(in.name().size() <= 63, "name", "at most 63 bytes");
  out->name = in.name();
  if (auto lease = check.Time(in.has_lease(), in.lease(), "lease", absl::Seconds(1), kMaxLease,
                              "1 s to 24 h")) {
    out->lease = *lease;
  }
  check.Merge(
      ParseConnectionOptions(in.accepted(), Path(prefix, "accepted"), limits, &out->accepted));
  if (in.has_proxy_protocol()) {
    const v1::ProxyProtocol& proxy = in.proxy_protocol();
    out->proxy_header_timeout =
        check
            .Time(proxy.has_timeout(), proxy.timeout(), "proxy_protocol.timeout",
                  absl::Milliseconds(1), absl::Hours(1), "1 ms to 1 h")
            .value_or(limits.default_proxy_header_timeout);
    check.Require(v1::ProxyProtocol::Version_IsValid(proxy.version()), "proxy_protocol.version",
                  "V1, V2 or absent (either is taken)");
    check.Require(!proxy.has_source() && !proxy.has_destination(), "proxy_protocol.source",
                  "absent: the peer's header says it");
  }
  check.Require(LabelsAreValid(in.labels()), "labels", kLabelsAllowed);
  check.Require(in.traceparent().size() <= 256, "traceparent", "at most 256 bytes");
  out->shown.set_backlog(static_cast<uint32_t>(out->backlog));
  out->shown.set_start_serving(out->start_serving);
  *out->shown.mutable_lease() = ToProto(out->lease);
  *out->shown.mutable_accepted() = out->accepted.shown;
  return check.Take();
}

RpcStatus ParseOpen(const v1::OpenConnectionRequest& in, const BrokerLimits& limits,
                    OpenPlan* plan) {
  Checker check("");
  check.Merge(CheckRequestId(in.request_id()));
  const bool has_port = in.port_kind_case() != v1::OpenConnectionRequest::PORT_KIND_NOT_SET;
  if (in.has_sock()) {
    check.Require(!in.has_host() && !has_port, "sock", "not together with host, port or service");
    check.Merge(CheckSockName(in.sock()));
    plan->sock = in.sock();
  } else {
    check.Require(in.has_host() || has_port, "host", "a host, a port or sock must be given");
  }
  if (in.has_host()) {
    check.Merge(CheckName(in.host(), "host"));
    plan->host = in.host();
    plan->requested_host = in.host();
  }
  if (in.port_kind_case() == v1::OpenConnectionRequest::kPort) {
    check.Merge(CheckPort(in.port(), "port"));
    plan->port = streams::Port(static_cast<int>(in.port() & 0xffff));
  } else if (in.port_kind_case() == v1::OpenConnectionRequest::kService) {
    check.Merge(ParseService(in.service(), &plan->port));
  }
  check.Merge(ParseFamily(in.family(), &plan->engine.family));
  plan->engine.flags = in.flags();
  if (in.has_local_host() || in.has_local_port()) {
    check.Require(!in.has_local_host() || !in.local_host().empty(), "local_host",
                  "a name or an address, or absent for any address");
    check.Merge(CheckName(in.local_host(), "local_host"));
    check.Merge(CheckPort(in.local_port(), "local_port"));
    plan->engine.local_addr.emplace(in.local_host(),
                                    streams::Port(static_cast<int>(in.local_port() & 0xffff)));
  }
  if (auto delay =
          check.Time(in.has_happy_eyeballs_delay(), in.happy_eyeballs_delay(),
                     "happy_eyeballs_delay", absl::ZeroDuration(), absl::Hours(1), "0 to 1 h")) {
    plan->engine.happy_eyeballs_delay = *delay;
  }
  if (in.has_interleave() && check.Require(in.interleave() <= 1000, "interleave", "0 to 1000")) {
    plan->engine.interleave = static_cast<int>(in.interleave());
  }
  check.Merge(ParseConnectionOptions(in.options(), "options", limits, &plan->settings));
  if (in.has_proxy_protocol()) {
    check.Merge(ParseSentProxy(in.proxy_protocol(), &plan->proxy_header));
  }
  plan->engine.stream = plan->settings.stream_options();
  plan->engine.socket = plan->settings.socket;
  plan->engine.connect_timeout = plan->settings.connect_timeout;
  if (in.has_tls()) {
    check.Merge(CheckTls(in.tls(), streams::TlsSide::kClient));
    plan->tls = in.tls();
  }
  return check.Take();
}

RpcStatus ParseOpenUnix(const v1::OpenUnixConnectionRequest& in, const BrokerLimits& limits,
                        OpenPlan* plan) {
  plan->is_unix = true;
  Checker check("");
  check.Merge(CheckRequestId(in.request_id()));
  if (in.has_sock()) {
    check.Require(in.path().empty(), "sock", "not together with path");
    check.Merge(CheckSockName(in.sock()));
    plan->sock = in.sock();
  } else {
    check.Merge(CheckUnixPath(in.path()));
    plan->unix_path = in.path();
  }
  check.Merge(ParseConnectionOptions(in.options(), "options", limits, &plan->settings));
  if (in.has_proxy_protocol()) {
    check.Merge(ParseSentProxy(in.proxy_protocol(), &plan->proxy_header));
  }
  plan->engine.stream = plan->settings.stream_options();
  plan->engine.socket = plan->settings.socket;
  plan->engine.connect_timeout = plan->settings.connect_timeout;
  if (in.has_tls()) {
    check.Merge(CheckTls(in.tls(), streams::TlsSide::kClient));
    plan->tls = in.tls();
  }
  return check.Take();
}

RpcStatus ParseStart(const v1::StartServerRequest& in, const BrokerLimits& limits,
                     ServePlan* plan) {
  Checker check("");
  check.Merge(CheckRequestId(in.request_id()));
  const bool has_port = in.port_kind_case() != v1::StartServerRequest::PORT_KIND_NOT_SET;
  if (in.has_sock()) {
    check.Require(in.hosts().empty() && !has_port, "sock",
                  "not together with hosts, port or service");
    check.Merge(CheckSockName(in.sock()));
    plan->sock = in.sock();
  } else {
    check.Require(!in.hosts().empty() || has_port, "port", "hosts, a port or sock must be given");
  }
  check.Require(in.hosts_size() <= 16, "hosts", "at most 16");
  for (const std::string& host : in.hosts()) check.Merge(CheckName(host, "hosts"));
  plan->hosts.assign(in.hosts().begin(), in.hosts().end());
  if (in.port_kind_case() == v1::StartServerRequest::kPort) {
    check.Merge(CheckPort(in.port(), "port"));
    plan->port = streams::Port(static_cast<int>(in.port() & 0xffff));
  } else if (in.port_kind_case() == v1::StartServerRequest::kService) {
    check.Merge(ParseService(in.service(), &plan->port));
  }
  check.Merge(ParseFamily(in.family(), &plan->tcp.family));
  if (in.has_flags()) plan->tcp.flags = in.flags();
  if (in.has_reuse_address()) plan->tcp.reuse_address = in.reuse_address();
  plan->tcp.reuse_port = in.reuse_port();
  plan->tcp.keep_alive = in.keep_alive();
  check.Merge(ParseServerOptions(in.options(), "options", limits, &plan->settings));
  plan->tcp.stream = plan->settings.accepted.stream_options();
  plan->tcp.socket = plan->settings.accepted.socket;
  plan->tcp.backlog = plan->settings.backlog;
  plan->tcp.start_serving = plan->settings.start_serving;
  plan->tcp.accept = streams::AcceptMode::kOnDemand;
  if (in.has_tls()) {
    check.Merge(CheckTls(in.tls(), streams::TlsSide::kServer));
    plan->tls = in.tls();
  }
  return check.Take();
}

RpcStatus ParseStartUnix(const v1::StartUnixServerRequest& in, const BrokerLimits& limits,
                         ServePlan* plan) {
  plan->is_unix = true;
  Checker check("");
  check.Merge(CheckRequestId(in.request_id()));
  if (in.has_sock()) {
    check.Require(in.path().empty(), "sock", "not together with path");
    check.Merge(CheckSockName(in.sock()));
    plan->sock = in.sock();
  } else {
    check.Merge(CheckUnixPath(in.path()));
    plan->unix_path = in.path();
  }
  if (in.has_cleanup_socket()) plan->unix_server.cleanup_socket = in.cleanup_socket();
  if (in.has_mode() && check.Require(in.mode() <= 0777, "mode", "0 to 0777 (octal)")) {
    plan->unix_server.mode = static_cast<int>(in.mode());
  }
  check.Merge(ParseServerOptions(in.options(), "options", limits, &plan->settings));
  plan->unix_server.stream = plan->settings.accepted.stream_options();
  plan->unix_server.socket = plan->settings.accepted.socket;
  plan->unix_server.backlog = plan->settings.backlog;
  plan->unix_server.start_serving = plan->settings.start_serving;
  plan->unix_server.accept = streams::AcceptMode::kOnDemand;
  if (in.has_tls()) {
    check.Merge(CheckTls(in.tls(), streams::TlsSide::kServer));
    plan->tls = in.tls();
  }
  return check.Take();
}

RpcStatus CheckRequestId(absl::string_view request_id) {
  if (request_id.empty() || request_id.size() == 16) return RpcStatus();
  return InvalidField("request_id", "16 bytes, or absent");
}

RpcStatus CheckPageSize(uint32_t page_size) {
  if (page_size <= kMaxPageSize) return RpcStatus();
  return InvalidField("page_size", "0 (100) to 1000");
}

RpcStatus CheckLabelFilter(const google::protobuf::Map<std::string, std::string>& labels) {
  if (LabelsAreValid(labels)) return RpcStatus();
  return InvalidField("labels", kLabelsAllowed);
}

bool MatchesLabels(const google::protobuf::Map<std::string, std::string>& filter,
                   const LabelMap& labels) {
  for (const auto& [key, value] : filter) {
    const auto found = labels.find(key);
    if (found == labels.end() || (!value.empty() && found->second != value)) return false;
  }
  return true;
}

}  // namespace sockbroker::server

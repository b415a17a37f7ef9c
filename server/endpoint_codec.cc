#include "server/endpoint_codec.h"

#include <sys/socket.h>

#include <cstdint>

#include "absl/strings/str_cat.h"

namespace sockbroker::server {
namespace {

constexpr int64_t kMaxSeconds = 315'576'000'000;  // google/protobuf/duration.proto

}  // namespace

v1::Endpoint ToProto(const streams::SocketAddress& address) {
  v1::Endpoint endpoint;
  if (address.is_ip()) {
    *endpoint.mutable_tcp() = ToTcpProto(address);
  } else if (address.is_unix()) {
    endpoint.set_unix(address.unix_path());
  }
  return endpoint;
}

v1::TcpEndpoint ToTcpProto(const streams::SocketAddress& address) {
  v1::TcpEndpoint endpoint;
  endpoint.set_host(address.host());
  endpoint.set_port(address.port());
  return endpoint;
}

absl::StatusOr<streams::SocketAddress> FromProto(const v1::TcpEndpoint& endpoint) {
  if (endpoint.port() > 65535) return absl::InvalidArgumentError("a port from 0 to 65535");
  return streams::SocketAddress::FromIp(endpoint.host(), static_cast<uint16_t>(endpoint.port()));
}

google::protobuf::Duration ToProto(absl::Duration duration) {
  google::protobuf::Duration result;
  if (duration >= absl::Seconds(kMaxSeconds)) {
    result.set_seconds(kMaxSeconds);
    return result;
  }
  result.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  result.set_nanos(
      static_cast<int32_t>(absl::IDivDuration(duration, absl::Nanoseconds(1), &duration)));
  return result;
}

std::optional<absl::Duration> FromProto(const google::protobuf::Duration& duration) {
  const int64_t seconds = duration.seconds();
  const int32_t nanos = duration.nanos();
  if (seconds > kMaxSeconds || seconds < -kMaxSeconds) return std::nullopt;
  if (nanos > 999'999'999 || nanos < -999'999'999) return std::nullopt;
  if ((seconds > 0 && nanos < 0) || (seconds < 0 && nanos > 0)) return std::nullopt;
  return absl::Seconds(seconds) + absl::Nanoseconds(nanos);
}

google::protobuf::Timestamp ToProto(absl::Time wall_time) {
  google::protobuf::Timestamp result;
  const int64_t seconds = absl::ToUnixSeconds(wall_time);
  result.set_seconds(seconds);
  result.set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(wall_time - absl::FromUnixSeconds(seconds))));
  return result;
}

}  // namespace sockbroker::server

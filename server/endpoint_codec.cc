#include "server/endpoint_codec.h"

#include <sys/socket.h>

#include <cstdint>

#include "absl/strings/str_cat.h"

namespace sockbroker::server {
namespace {

constexpr int64_t kMaxSeconds = 315'576'000'000;  // google/protobuf/duration.proto

// The length of the UTF-8 character that `text` begins with; 0 if it begins with none.
std::size_t CharacterLength(absl::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; i++) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  // Overlong forms, surrogates, and what lies beyond U+10FFFF.
  if (first == 0xe0 && byte(1) < 0xa0) return 0;
  if (first == 0xed && byte(1) > 0x9f) return 0;
  if (first == 0xf0 && byte(1) < 0x90) return 0;
  if (first == 0xf4 && byte(1) > 0x8f) return 0;
  return length;
}

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

std::string ToUtf8(absl::string_view text) {
  std::string result;
  while (!text.empty()) {
    const std::size_t length = CharacterLength(text);
    if (length == 0) {
      result += "\xef\xbf\xbd";  // U+FFFD
      text.remove_prefix(1);
    } else {
      absl::StrAppend(&result, text.substr(0, length));
      text.remove_prefix(length);
    }
  }
  return result;
}

bool IsUtf8(absl::string_view text) {
  while (!text.empty()) {
    const std::size_t length = CharacterLength(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

}  // namespace sockbroker::server

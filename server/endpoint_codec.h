// Addresses, durations and times between the engine's types and the contract's.
//
//   *connection.mutable_peer() = ToProto(writer.peername());
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"
#include "sockbroker/v1/endpoint.pb.h"
#include "streams/address.h"

namespace sockbroker::server {

// Unknown addresses give an endpoint of no kind.
v1::Endpoint ToProto(const streams::SocketAddress& address);
// Only for IP addresses.
v1::TcpEndpoint ToTcpProto(const streams::SocketAddress& address);
// A numeric address; kInvalidArgument for a name, or a port over 65535.
absl::StatusOr<streams::SocketAddress> FromProto(const v1::TcpEndpoint& endpoint);

// InfiniteDuration becomes the largest duration Protobuf has.
google::protobuf::Duration ToProto(absl::Duration duration);
// None for what is no valid Duration: beyond 10,000 years, or with nanos of another sign.
std::optional<absl::Duration> FromProto(const google::protobuf::Duration& duration);

google::protobuf::Timestamp ToProto(absl::Time wall_time);

}  // namespace sockbroker::server

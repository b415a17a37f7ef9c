// A gRPC message as a Cord, and back. Payload is not copied: either keeps the other's memory alive.
//
//   session.OnMessage(ToCord(received), now);
//   StartWrite(&(message_ = ToByteBuffer(session.NextBatch())));
#pragma once

#include <grpcpp/support/byte_buffer.h>

#include "absl/strings/cord.h"

namespace sockbroker {

absl::Cord ToCord(const grpc::ByteBuffer& message);
grpc::ByteBuffer ToByteBuffer(const absl::Cord& message);

// The path of SocketBroker.Session, for generic stubs and raw methods.
inline constexpr char kSessionMethod[] = "/sockbroker.v1.SocketBroker/Session";

}  // namespace sockbroker

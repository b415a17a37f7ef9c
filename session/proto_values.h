// What the frame logic and the frames of session.proto both have, each in the other's form.
//
//   const Position taken = FromProto(ack.taken());
//   *frame.mutable_eof()->mutable_at() = ToProto(at);
//   *frame.mutable_failed()->mutable_status() = ToProto(absl::CancelledError("aborted"));
#pragma once

#include <string>

#include "absl/status/status.h"
#include "google/rpc/status.pb.h"
#include "session/position.h"
#include "sockbroker/v1/error.pb.h"
#include "sockbroker/v1/session.pb.h"

namespace sockbroker::session {

inline Position FromProto(const v1::Position& position) {
  return {position.offset(), position.marks()};
}

inline v1::Position ToProto(Position position) {
  v1::Position proto;
  proto.set_offset(position.offset);
  proto.set_marks(position.marks);
  return proto;
}

inline google::rpc::Status ToProto(const absl::Status& status) {
  google::rpc::Status proto;
  proto.set_code(status.raw_code());
  proto.set_message(std::string(status.message()));
  return proto;
}

inline google::rpc::Status ToProto(const absl::Status& status, const v1::ErrorDetail& detail) {
  google::rpc::Status proto = ToProto(status);
  proto.add_details()->PackFrom(detail);
  return proto;
}

}  // namespace sockbroker::session

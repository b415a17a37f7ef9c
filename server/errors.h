// Errors as clients see them: a gRPC code, a sentence, and one ErrorDetail that travels in
// grpc-status-details-bin.
//
//   RpcStatus status = InvalidField("n", "0 to 1048576");
//   status.detail().set_epoch(7);                       // OK has no detail
//   reactor->Finish(status.ToGrpc());
//
// Which case has which code and reason is written down in proto/sockbroker/v1/error.proto.
#pragma once

#include <grpcpp/support/status.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/rpc/status.pb.h"
#include "sockbroker/v1/error.pb.h"

namespace sockbroker::server {

// google.rpc.Status, serialised, is never larger.
inline constexpr std::size_t kMaxErrorDetails = 4096;
inline constexpr std::size_t kMaxErrorMessage = 512;

// OK, or an error. Copyable; OK costs nothing.
class [[nodiscard]] RpcStatus {
 public:
  RpcStatus() = default;
  RpcStatus(grpc::StatusCode code, v1::Reason reason, absl::string_view message);
  RpcStatus(const RpcStatus& other) { *this = other; }
  RpcStatus& operator=(const RpcStatus& other) {
    if (this != &other) rep_ = other.rep_ == nullptr ? nullptr : std::make_unique<Rep>(*other.rep_);
    return *this;
  }
  RpcStatus(RpcStatus&&) noexcept = default;
  RpcStatus& operator=(RpcStatus&&) noexcept = default;

  bool ok() const { return rep_ == nullptr; }
  grpc::StatusCode code() const { return ok() ? grpc::StatusCode::OK : rep_->code; }
  v1::Reason reason() const { return ok() ? v1::REASON_UNSPECIFIED : rep_->detail.reason(); }
  const std::string& message() const;
  // Only when not OK.
  v1::ErrorDetail& detail() { return rep_->detail; }
  const v1::ErrorDetail& detail() const { return rep_->detail; }

  // Long lists of attempts are cut at the end, long messages too, so that the whole fits into
  // kMaxErrorDetails.
  grpc::Status ToGrpc() const;
  // The same inside of a frame.
  google::rpc::Status ToProto() const;

 private:
  struct Rep {
    grpc::StatusCode code;
    std::string message;
    v1::ErrorDetail detail;
  };
  std::unique_ptr<Rep> rep_;
};

// INVALID_ARGUMENT. `field`: its path in the request ("options.socket.linger"); `allowed`: a
// phrase.
RpcStatus InvalidField(absl::string_view field, absl::string_view allowed);
// NOT_FOUND. No argument changes a byte of it: an unknown handle and another principal's look the
// same.
RpcStatus NoSuchHandle();
RpcStatus WrongBroker();
RpcStatus HandleLost();
// FAILED_PRECONDITION.
RpcStatus WrongState(v1::Reason reason, absl::string_view message);
// FAILED_PRECONDITION: a session has it.
RpcStatus IsBound(uint64_t epoch);
// ABORTED.
RpcStatus StaleEpoch(uint64_t epoch);
// RESOURCE_EXHAUSTED: which limit, its value, when to try again (zero: not said).
RpcStatus Exhausted(v1::Reason reason, absl::string_view limit_name, uint64_t limit_value,
                    absl::Duration retry_after, absl::string_view message);
// PERMISSION_DENIED.
RpcStatus Denied(absl::string_view rule, absl::string_view message);
// UNAVAILABLE: the broker drains.
RpcStatus Draining();
// CANCELLED: the caller has gone, nobody reads it.
RpcStatus CallerGone();

// What the engine was asked to do when it failed: the same errno means different things.
enum class EngineCall { kConnect, kBind, kStream };

// The engine's errors of the network, of name resolution and of its own time-outs, with every
// address tried. `field`: the request's field to blame for what the engine calls an invalid
// argument.
RpcStatus FromEngine(const absl::Status& status, EngineCall call, absl::string_view field = "");
// The reason of an errno alone.
v1::Reason ReasonOfErrno(int os_errno, EngineCall call);

}  // namespace sockbroker::server

#include "server/errors.h"

#include <cerrno>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "google/rpc/status.pb.h"
#include "server/endpoint_codec.h"
#include "streams/error.h"
#include "transport/utf8.h"

namespace sockbroker::server {
namespace {

std::string Serialize(grpc::StatusCode code, const std::string& message,
                      const v1::ErrorDetail& detail) {
  google::rpc::Status status;
  status.set_code(code);
  status.set_message(message);
  status.add_details()->PackFrom(detail);
  return status.SerializeAsString();
}

// Cuts at a boundary of UTF-8 characters: grpc-message and string fields must stay valid text.
void Truncate(std::string* text, std::size_t size) {
  if (text->size() <= size) return;
  while (size > 0 && (static_cast<unsigned char>((*text)[size]) & 0xc0) == 0x80) size--;
  text->resize(size);
  text->append("...");
}

bool Retryable(v1::Reason reason) {
  switch (reason) {
    case v1::READ_PENDING:
    case v1::DESCRIPTOR_RESERVE:
    case v1::WRITE_BUFFER_FULL:
    case v1::QUOTA:
    case v1::BUDGET:
    case v1::CONNECTION_REFUSED:
    case v1::UNREACHABLE:
    case v1::NAME_NOT_FOUND:
    case v1::TIMED_OUT:
    case v1::DRAINING:
      return true;
    default:
      return false;
  }
}

v1::Phase PhaseOf(absl::string_view phase) {
  if (phase == "resolve") return v1::PHASE_RESOLVE;
  if (phase == "connect") return v1::PHASE_CONNECT;
  if (phase == "handshake") return v1::PHASE_HANDSHAKE;
  if (phase == "shutdown") return v1::PHASE_SHUTDOWN;
  if (phase == "close") return v1::PHASE_CLOSE;
  return v1::PHASE_UNSPECIFIED;
}

}  // namespace

RpcStatus::RpcStatus(grpc::StatusCode code, v1::Reason reason, absl::string_view message)
    : rep_(std::make_unique<Rep>(Rep{code, ToUtf8(message), {}})) {
  Truncate(&rep_->message, kMaxErrorMessage);
  rep_->detail.set_reason(reason);
  rep_->detail.set_retryable(Retryable(reason));
}

const std::string& RpcStatus::message() const {
  static const std::string* const empty = new std::string;
  return ok() ? *empty : rep_->message;
}

grpc::Status RpcStatus::ToGrpc() const {
  if (ok()) return grpc::Status::OK;
  std::string serialized = Serialize(rep_->code, rep_->message, rep_->detail);
  if (serialized.size() > kMaxErrorDetails) {
    v1::ErrorDetail detail = rep_->detail;
    for (v1::Attempt& attempt : *detail.mutable_attempts()) {
      Truncate(attempt.mutable_message(), 64);
    }
    Truncate(detail.mutable_resolver_error(), 256);
    Truncate(detail.mutable_allowed(), 256);
    Truncate(detail.mutable_field(), 256);
    serialized = Serialize(rep_->code, rep_->message, detail);
    while (serialized.size() > kMaxErrorDetails && detail.attempts_size() > 0) {
      // The first attempts tell the most; a quarter at a time, since there may be hundreds.
      const int keep = detail.attempts_size() * 3 / 4;
      detail.mutable_attempts()->DeleteSubrange(keep, detail.attempts_size() - keep);
      serialized = Serialize(rep_->code, rep_->message, detail);
    }
  }
  return grpc::Status(rep_->code, rep_->message, serialized);
}

google::rpc::Status RpcStatus::ToProto() const {
  google::rpc::Status status;
  if (!ok()) status.ParseFromString(ToGrpc().error_details());
  return status;
}

RpcStatus InvalidField(absl::string_view field, absl::string_view allowed) {
  RpcStatus status(grpc::StatusCode::INVALID_ARGUMENT, v1::INVALID_FIELD,
                   absl::StrCat(field, ": ", allowed));
  status.detail().set_field(ToUtf8(field));
  status.detail().set_allowed(ToUtf8(allowed));
  return status;
}

RpcStatus NoSuchHandle() {
  return RpcStatus(grpc::StatusCode::NOT_FOUND, v1::NO_SUCH_HANDLE, "no such handle");
}

RpcStatus WrongBroker() {
  return RpcStatus(grpc::StatusCode::NOT_FOUND, v1::WRONG_BROKER,
                   "the handle was made by another broker");
}

RpcStatus HandleLost() {
  return RpcStatus(grpc::StatusCode::NOT_FOUND, v1::LOST,
                   "the handle was made before this broker last started: the socket is gone");
}

RpcStatus WrongState(v1::Reason reason, absl::string_view message) {
  return RpcStatus(grpc::StatusCode::FAILED_PRECONDITION, reason, message);
}

RpcStatus IsBound(uint64_t epoch) {
  RpcStatus status = WrongState(v1::BOUND, "a session has the connection");
  status.detail().set_epoch(epoch);
  return status;
}

RpcStatus StaleEpoch(uint64_t epoch) {
  RpcStatus status(grpc::StatusCode::ABORTED, v1::STALE_EPOCH,
                   absl::StrCat("the connection's epoch is ", epoch));
  status.detail().set_epoch(epoch);
  return status;
}

RpcStatus Exhausted(v1::Reason reason, absl::string_view limit_name, uint64_t limit_value,
                    absl::Duration retry_after, absl::string_view message) {
  RpcStatus status(grpc::StatusCode::RESOURCE_EXHAUSTED, reason, message);
  status.detail().set_limit_name(std::string(limit_name));
  status.detail().set_limit_value(limit_value);
  if (retry_after > absl::ZeroDuration()) {
    *status.detail().mutable_retry_after() = ToProto(retry_after);
  }
  return status;
}

RpcStatus Denied(absl::string_view rule, absl::string_view message) {
  RpcStatus status(grpc::StatusCode::PERMISSION_DENIED, v1::POLICY, message);
  status.detail().set_rule(std::string(rule));
  return status;
}

RpcStatus Draining() {
  return RpcStatus(grpc::StatusCode::UNAVAILABLE, v1::DRAINING,
                   "the broker is shutting down and opens nothing new");
}

RpcStatus CallerGone() {
  return RpcStatus(grpc::StatusCode::CANCELLED, v1::REASON_UNSPECIFIED, "the caller has gone");
}

v1::Reason ReasonOfErrno(int os_errno, EngineCall call) {
  switch (os_errno) {
    case EMFILE:
    case ENFILE:
      return v1::DESCRIPTOR_RESERVE;
    case ECONNRESET:
    case EPIPE:
    case ECONNABORTED:
      return v1::CONNECTION_RESET;
    default:
      break;
  }
  if (call == EngineCall::kBind) return v1::BIND_FAILED;
  switch (os_errno) {
    case ECONNREFUSED:
      return v1::CONNECTION_REFUSED;
    case ENOENT:
      return call == EngineCall::kConnect ? v1::CONNECTION_REFUSED : v1::OS_ERROR;
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENETDOWN:
    case EHOSTDOWN:
    case ENONET:
    case ETIMEDOUT:  // the kernel's own patience; the broker's time-outs are TIMED_OUT
      return v1::UNREACHABLE;
    case EADDRINUSE:
    case EADDRNOTAVAIL:  // of the local address
      return call == EngineCall::kConnect ? v1::BIND_FAILED : v1::OS_ERROR;
    default:
      return v1::OS_ERROR;
  }
}

RpcStatus FromEngine(const absl::Status& status, EngineCall call, absl::string_view field) {
  if (status.ok()) return RpcStatus();
  const absl::string_view message = status.message();
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      return InvalidField(field, message);
    case absl::StatusCode::kFailedPrecondition:
      return WrongState(v1::UNSUPPORTED, message);
    case absl::StatusCode::kUnimplemented:
      return WrongState(v1::UNSUPPORTED, message);
    case absl::StatusCode::kCancelled:
      return CallerGone();
    case absl::StatusCode::kDeadlineExceeded: {
      RpcStatus result(grpc::StatusCode::DEADLINE_EXCEEDED, v1::TIMED_OUT, message);
      result.detail().set_phase(PhaseOf(streams::GetTimeoutPhase(status).value_or("")));
      return result;
    }
    case absl::StatusCode::kNotFound: {
      RpcStatus result = WrongState(v1::NAME_NOT_FOUND, message);
      result.detail().set_resolver_error(ToUtf8(streams::GetResolverError(status).value_or("")));
      return result;
    }
    case absl::StatusCode::kUnavailable: {
      if (streams::IsTlsError(status)) {
        RpcStatus result = WrongState(
            streams::IsTlsTruncated(status) ? v1::TLS_TRUNCATED : v1::TLS_FAILED, message);
        if (const auto failure = streams::GetTlsVerifyFailure(status)) {
          result.detail().set_tls_verify_result(failure->text);
        }
        return result;
      }
      const std::vector<streams::AttemptFailure> attempts = streams::GetAttempts(status);
      int os_errno = streams::GetErrno(status);
      for (const streams::AttemptFailure& attempt : attempts) {
        if (os_errno == 0) os_errno = attempt.os_errno;
      }
      const v1::Reason reason = ReasonOfErrno(os_errno, call);
      RpcStatus result = reason == v1::DESCRIPTOR_RESERVE
                             ? Exhausted(reason, "descriptors", 0, absl::Seconds(1), message)
                             : WrongState(reason, message);
      result.detail().set_os_errno(os_errno);
      for (const streams::AttemptFailure& failure : attempts) {
        v1::Attempt* attempt = result.detail().add_attempts();
        *attempt->mutable_endpoint() = ToProto(failure.address);
        attempt->set_os_errno(failure.os_errno);
        attempt->set_message(ToUtf8(failure.message));
      }
      return result;
    }
    default:
      return RpcStatus(grpc::StatusCode::INTERNAL, v1::REASON_UNSPECIFIED, message);
  }
}

}  // namespace sockbroker::server

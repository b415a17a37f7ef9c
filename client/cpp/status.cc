#include "client/cpp/status.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/cord.h"
#include "client/cpp/internal/endpoints.h"
#include "streams/error.h"

namespace sockbroker::client {
namespace {

constexpr char kDetailUrl[] = "type.googleapis.com/sockbroker.v1.ErrorDetail";
constexpr char kEndUrl[] = "sockbroker.client/stream_end";

void CopyPayloads(const absl::Status& from, absl::Status* to) {
  from.ForEachPayload(
      [to](absl::string_view url, const absl::Cord& payload) { to->SetPayload(url, payload); });
}

const char* PhaseName(v1::Phase phase) {
  switch (phase) {
    case v1::PHASE_RESOLVE:
      return "resolve";
    case v1::PHASE_CONNECT:
      return "connect";
    case v1::PHASE_HANDSHAKE:
      return "handshake";
    case v1::PHASE_SHUTDOWN:
      return "shutdown";
    case v1::PHASE_IDLE:
      return "idle";
    case v1::PHASE_HALF_CLOSE:
      return "half_close";
    case v1::PHASE_CLOSE:
      return "close";
    case v1::PHASE_PROXY_HEADER:
      return "proxy_header";
    case v1::PHASE_LEASE:
      return "lease";
    default:
      return "";
  }
}

// The same for who asks in the engine's words.
void AddEnginePayloads(const v1::ErrorDetail& detail, absl::Status* status) {
  if (detail.os_errno() != 0) CopyPayloads(streams::ErrnoToStatus(detail.os_errno(), ""), status);
  if (detail.attempts_size() > 0) {
    std::vector<streams::AttemptFailure> attempts;
    for (const v1::Attempt& attempt : detail.attempts()) {
      attempts.push_back(
          {internal::ToSocketAddress(attempt.endpoint()), attempt.os_errno(), attempt.message()});
    }
    CopyPayloads(streams::AttemptsError(std::move(attempts)), status);
  }
  if (!detail.resolver_error().empty()) {
    CopyPayloads(streams::ResolveError("", detail.resolver_error()), status);
  }
  if (detail.reason() == v1::TLS_FAILED) CopyPayloads(streams::TlsError(""), status);
  if (detail.reason() == v1::TLS_TRUNCATED) CopyPayloads(streams::TlsTruncatedError(), status);
  if (detail.phase() != v1::PHASE_UNSPECIFIED) {
    CopyPayloads(streams::PhaseTimeoutError(PhaseName(detail.phase()), ""), status);
  }
}

}  // namespace

void SetErrorDetail(const v1::ErrorDetail& detail, absl::Status* status) {
  AddEnginePayloads(detail, status);
  status->SetPayload(kDetailUrl, absl::Cord(detail.SerializeAsString()));
}

std::optional<v1::ErrorDetail> GetErrorDetail(const absl::Status& status) {
  const auto payload = status.GetPayload(kDetailUrl);
  v1::ErrorDetail detail;
  if (!payload.has_value() || !detail.ParseFromString(std::string(*payload))) return std::nullopt;
  return detail;
}

v1::Reason GetReason(const absl::Status& status) {
  const std::optional<v1::ErrorDetail> detail = GetErrorDetail(status);
  return detail.has_value() ? detail->reason() : v1::REASON_UNSPECIFIED;
}

std::optional<v1::Offsets> GetOffsets(const absl::Status& status) {
  const std::optional<v1::ErrorDetail> detail = GetErrorDetail(status);
  if (!detail.has_value() || !detail->has_offsets()) return std::nullopt;
  return detail->offsets();
}

StreamEnd GetStreamEnd(const absl::Status& status) {
  const auto payload = status.GetPayload(kEndUrl);
  if (!payload.has_value() || payload->empty()) return StreamEnd::kConnection;
  return static_cast<StreamEnd>((*payload)[0] - '0');
}

absl::Status StreamEndStatus(StreamEnd end, absl::StatusCode code, absl::string_view message,
                             const v1::ErrorDetail& detail) {
  absl::Status status(code, message);
  SetErrorDetail(detail, &status);
  status.SetPayload(kEndUrl,
                    absl::Cord(std::string(1, static_cast<char>('0' + static_cast<int>(end)))));
  return status;
}

absl::Status ToStatus(const google::rpc::Status& status) {
  if (status.code() == 0) return absl::OkStatus();
  absl::Status result(static_cast<absl::StatusCode>(status.code()), status.message());
  for (const google::protobuf::Any& any : status.details()) {
    v1::ErrorDetail detail;
    if (any.UnpackTo(&detail)) SetErrorDetail(detail, &result);
  }
  return result;
}

absl::Status ToStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  google::rpc::Status details;
  if (!status.error_details().empty() && details.ParseFromString(status.error_details()) &&
      details.code() == static_cast<int>(status.error_code())) {
    return ToStatus(details);
  }
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace sockbroker::client

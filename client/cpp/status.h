// What a broker's error says, in an absl::Status: the code and words of the call, and as a payload
// the contract's ErrorDetail. The engine's questions (streams/error.h: GetErrno, GetAttempts,
// GetResolverError, IsTlsError, GetTimeoutPhase) are answered too.
//
//   absl::StatusOr<Connection> connection = co_await broker.OpenConnection("example.org", 80);
//   if (GetReason(connection.status()) == v1::CONNECTION_REFUSED) ...
//   if (GetStreamEnd(status) == StreamEnd::kLost) Resend(GetOffsets(status)->write_offset());
//
// kUnavailable is only ever the broker or the way to it; what the network beyond it says is
// kFailedPrecondition with a reason.
#pragma once

#include <grpcpp/support/status.h>

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "google/rpc/status.pb.h"
#include "sockbroker/v1/error.pb.h"

namespace sockbroker::client {

// What ended a stream that was there, when it was not the connection's own end.
enum class StreamEnd {
  kConnection,  // nothing of the below: the connection has ended, well or by its own error
  kFenced,      // another client has taken it (steal); see ErrorDetail.epoch
  kDetached,    // Detach: it lives on at the broker; see ErrorDetail.offsets
  kLost,        // the broker that had it is no more; what lies between the offsets is in doubt
  kGivenUp,     // no way to the broker any more; the connection may live on there, for its lease
};
StreamEnd GetStreamEnd(const absl::Status& status);

// The broker's ErrorDetail, if it gave one.
std::optional<v1::ErrorDetail> GetErrorDetail(const absl::Status& status);
// REASON_UNSPECIFIED without a detail. Of a connection that has ended: why.
v1::Reason GetReason(const absl::Status& status);
// Where the two byte streams stood, as far as is known here.
std::optional<v1::Offsets> GetOffsets(const absl::Status& status);

// --- making them
absl::Status ToStatus(const grpc::Status& status);
absl::Status ToStatus(const google::rpc::Status& status);
void SetErrorDetail(const v1::ErrorDetail& detail, absl::Status* status);
absl::Status StreamEndStatus(StreamEnd end, absl::StatusCode code, absl::string_view message,
                             const v1::ErrorDetail& detail);

}  // namespace sockbroker::client

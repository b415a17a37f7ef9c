// What a failed call means, in one line for people: what happened, and what to do next where that
// is known.
//
//   grpc::Status status = stub->OpenConnection(...);
//   ErrorLine("connect to 127.0.0.1 port 9", status)
//       ->  "connect to 127.0.0.1 port 9 failed: Connection refused"
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "client/broker_address.h"
#include "grpcpp/support/status.h"
#include "sockbroker/v1/error.pb.h"

namespace sockbroker::client {

// The typed detail in `grpc-status-details-bin`; none when the broker (or what stands before it)
// sent none.
absl::optional<v1::ErrorDetail> DetailOf(const grpc::Status& status);
// REASON_UNSPECIFIED without a detail.
v1::Reason ReasonOf(const grpc::Status& status);

// The cause alone: "Connection refused", "no such connection or server; ...".
std::string CauseText(const grpc::Status& status);
// "ACTION failed: CAUSE".
std::string ErrorLine(absl::string_view action, const grpc::Status& status);
// Why a connection ended, from Connection.close_reason or ErrorDetail.close_reason: "its lease ran
// out".
std::string CloseReasonText(v1::Reason reason);
// Nobody answers at the address: says how to start a broker or to name another. Of a TCP address it
// finds out why, which may take seconds, unless `status` is DEADLINE_EXCEEDED: no time is left.
std::string NoBrokerText(const BrokerAddress& address, const grpc::Status& status);

// What the broker was to bind.
enum class Bound { kPort, kPath, kSource };
// What to do when it could not, to stand behind ErrorLine: "; port 0 takes a free one, ...", or "".
std::string BindAdvice(const grpc::Status& status, Bound what);

// The same for code that deals in absl::Status: kUnavailable when the broker cannot be reached
// (with NoBrokerText), the call's own code otherwise, with ErrorLine and `advice` behind it.
absl::Status ToAbslStatus(const BrokerAddress& address, absl::string_view action,
                          const grpc::Status& status, absl::string_view advice = "");
// kExitNoBroker for kUnavailable, kExitUsage for kInvalidArgument, else kExitFailed.
int ExitStatusOf(const absl::Status& status);

// Whether the way to the broker failed (and not the broker or the network behind it): the call may
// be tried again.
bool IsBrokenLink(const grpc::Status& status);
// kExitOk, kExitFailed or kExitNoBroker.
int ExitStatusOf(const grpc::Status& status);

// The library's errors in gRPC's clothes, for the texts above. A link that was given up is a broken
// one.
grpc::Status ToGrpcStatus(const absl::Status& status);
// The system's words for an errno.
std::string ErrnoText(int error);

// Puts a detail into a status, as a broker does; for tests and fakes.
grpc::Status MakeStatus(grpc::StatusCode code, absl::string_view message,
                        const v1::ErrorDetail& detail);

}  // namespace sockbroker::client

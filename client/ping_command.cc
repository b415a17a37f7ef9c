#include "client/ping_command.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/broker_link.h"
#include "client/console.h"
#include "client/error_text.h"
#include "client/exit_status.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/support/byte_buffer.h"

namespace sockbroker::client {
namespace {

// How long one question may take.
constexpr absl::Duration kPatience = absl::Seconds(5);

// HealthCheckResponse{status: SERVING}. The two messages are so small that their proto is not worth
// having: the request is empty, the answer one enum.
constexpr char kServing[] = "\x08\x01";

absl::Status Check(BrokerLink& link, absl::Time deadline) {
  const grpc::Slice nothing;
  const grpc::ByteBuffer request(&nothing, 1);
  grpc::ByteBuffer response;
  grpc::Status status;
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(deadline));
  grpc::CompletionQueue queue;
  grpc::GenericStub stub(link.channel());
  const std::unique_ptr<grpc::GenericClientAsyncResponseReader> call =
      stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", request, &queue);
  call->StartCall();
  call->Finish(&response, &status, nullptr);
  void* tag;
  bool ok;
  queue.Next(&tag, &ok);
  if (!status.ok()) return ToAbslStatus(link.address(), "the health check", status);
  std::vector<grpc::Slice> slices;
  std::string bytes;
  if (response.Dump(&slices).ok()) {
    for (const grpc::Slice& slice : slices) {
      bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
    }
  }
  if (bytes == kServing) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the broker at ", link.address().text(), " is ending"));
}

}  // namespace

int RunPing(const BrokerAddress& address, const PingOptions& options) {
  const absl::Time give_up = absl::Now() + absl::Seconds(options.wait);
  Backoff backoff;
  while (true) {
    const absl::Time deadline = absl::Now() + kPatience;
    const absl::StatusOr<std::unique_ptr<BrokerLink>> link =
        BrokerLink::Connect(address, /*canceller=*/nullptr, deadline - absl::Now());
    const absl::Status status = link.ok() ? Check(**link, deadline) : link.status();
    if (status.ok()) return PrintLine("serving");
    const absl::Time again = absl::Now() + backoff.Next();
    if (again >= give_up) return FailWith(status);
    absl::SleepFor(again - absl::Now());
  }
}

}  // namespace sockbroker::client

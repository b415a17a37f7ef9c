#include "client/starttls_upgrade.h"

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/error_text.h"

namespace sockbroker::client {
namespace {

constexpr int64_t kReadSize = 16 << 10;

}  // namespace

absl::Status UpgradeToTls(BrokerLink& link, StartTlsDialogue& dialogue, const v1::TlsOptions& tls,
                          absl::string_view peer, const UpgradeOptions& options,
                          v1::Connection* connection) {
  const std::string action = absl::StrCat("STARTTLS with ", peer);
  const auto refused = [&](absl::string_view why) {
    return absl::FailedPreconditionError(absl::StrCat(action, " failed: ", why));
  };
  const uint64_t begin = connection->offsets().read_offset();
  uint64_t read_offset = begin;
  uint64_t write_offset = connection->offsets().write_offset();
  const std::string writer = RandomBytes(16);
  // One for all reads: a repeated one takes the place of that whose reply was lost.
  const std::string reader = RandomBytes(16);
  const absl::Time deadline = absl::Now() + options.timeout;

  std::string received;
  while (true) {
    std::string send;
    const StartTlsDialogue::State state = dialogue.Feed(received, &send);
    if (state == StartTlsDialogue::State::kRefused) return refused(dialogue.refusal());
    if (!send.empty()) {
      v1::WriteRequest write;
      write.set_handle(connection->handle());
      write.set_data(send);
      write.set_offset(write_offset);
      write.set_writer(writer);
      v1::WriteResponse written;
      const grpc::Status status =
          link.Call(&BrokerLink::Stub::Write, write, &written, {.canceller = options.canceller});
      if (!status.ok()) return ToAbslStatus(link.address(), action, status);
      write_offset += send.size();
    }
    if (state == StartTlsDialogue::State::kUpgrade) break;

    // At the end of what came: the broker may forget the rest. An upgrade is always behind it,
    // since the answer that it follows was not whole before.
    v1::ReadRequest read;
    read.set_handle(connection->handle());
    read.set_n(kReadSize);
    read.set_offset(read_offset);
    read.set_request_id(reader);
    v1::ReadResponse answer;
    const grpc::Status status =
        link.Call(&BrokerLink::Stub::Read, read, &answer,
                  {.canceller = options.canceller, .timeout = deadline - absl::Now()});
    if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED &&
        ReasonOf(status) == v1::REASON_UNSPECIFIED) {
      return refused(absl::StrCat(
          "nothing more came for ", absl::FormatDuration(options.timeout),
          read_offset == begin ? "; a peer that begins with TLS waits for --tls without --starttls"
                               : ""));
    }
    if (!status.ok()) return ToAbslStatus(link.address(), action, status);
    if (answer.eof()) return refused("the peer ended the connection before TLS");
    received = answer.data();
    read_offset += received.size();
  }

  v1::StartTlsRequest request;
  request.set_handle(connection->handle());
  request.set_request_id(RandomBytes(16));
  *request.mutable_tls() = tls;
  request.set_side(v1::StartTlsRequest::CLIENT);
  request.set_read_offset(begin + dialogue.consumed());
  v1::StartTlsResponse upgraded;
  const grpc::Status status =
      link.Call(&BrokerLink::Stub::StartTls, request, &upgraded, {.canceller = options.canceller});
  if (!status.ok()) {
    return ToAbslStatus(link.address(), absl::StrCat("TLS with ", peer), status);
  }
  connection->mutable_offsets()->set_read_offset(upgraded.read_offset());
  connection->mutable_offsets()->set_write_offset(upgraded.write_offset());
  *connection->mutable_tls() = upgraded.tls();
  return absl::OkStatus();
}

}  // namespace sockbroker::client

#include "client/conversation.h"

#include <fcntl.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/console.h"
#include "client/error_text.h"
#include "client/exit_status.h"

namespace sockbroker::client {
void CloseQuickly(BrokerLink& link, const std::string& handle) {
  v1::CloseRequest request;
  request.set_handle(handle);
  v1::CloseResponse response;
  (void)link.Call(&BrokerLink::Stub::Close, request, &response,
                  {.timeout = absl::Seconds(2), .patience = absl::ZeroDuration()});
}

namespace {

// Closes, and waits until the kernel has taken everything.
int CloseAndFlush(BrokerLink& link, const std::string& handle, absl::string_view peer,
                  const PumpOptions& options, Interrupt* interrupt) {
  Canceller canceller;
  Interrupt::Subscription subscription(interrupt, [&] { canceller.Cancel(); });
  v1::CloseRequest close;
  close.set_handle(handle);
  v1::CloseResponse closed;
  grpc::Status status =
      link.Call(&BrokerLink::Stub::Close, close, &closed, {.canceller = &canceller});
  v1::WaitClosedRequest wait;
  wait.set_handle(handle);
  v1::WaitClosedResponse waited;
  if (status.ok()) {
    status = link.Call(
        &BrokerLink::Stub::WaitClosed, wait, &waited,
        {.canceller = &canceller, .timeout = options.idle.value_or(absl::InfiniteDuration())});
  }
  if (interrupt->raised()) return ExitBySignal(interrupt->signal_number());
  // A peer that ends both directions of TLS may have left something of ours behind.
  const v1::Connection& end = waited.connection();
  const bool cut_short = status.ok() && end.close_reason() == v1::ENDED_BY_PEER &&
                         end.offsets().flushed() < end.offsets().write_offset();
  if (status.ok() && !cut_short) return kExitOk;
  if (IsBrokenLink(status)) {
    PrintError(NoBrokerText(link.address(), status));
    return kExitNoBroker;
  }
  // A loss at the very end is none when everything had been handed over.
  v1::GetConnectionRequest get;
  get.set_handle(handle);
  v1::Connection tombstone;
  const bool known = link.Call(&BrokerLink::Stub::GetConnection, get, &tombstone).ok();
  const v1::Offsets& offsets = tombstone.offsets();
  if (known && offsets.flushed() >= offsets.write_offset()) {
    if (tombstone.state() != v1::CONNECTION_STATE_CLOSED) CloseQuickly(link, handle);
    return kExitOk;
  }
  if (known && tombstone.state() != v1::CONNECTION_STATE_CLOSED) {
    v1::AbortRequest abort;
    abort.set_handle(handle);
    v1::AbortResponse aborted;
    (void)link.Call(&BrokerLink::Stub::Abort, abort, &aborted, {.timeout = absl::Seconds(2)});
  }
  PrintError(absl::StrCat(
      "the connection to ", peer, " ended before everything was sent",
      known ? absl::StrCat(" (", offsets.write_offset() - offsets.flushed(), " bytes)") : "", ": ",
      cut_short ? CloseReasonText(end.close_reason()) : CauseText(status)));
  return kExitFailed;
}

}  // namespace

void TuneForPump(v1::ConnectionOptions* options) {
  // The broker reads ahead up to twice the limit: enough that a read has its megabyte ready when it
  // comes.
  options->set_limit(512 << 10);
  // A write is answered while up to this much of earlier ones is on its way, so that the socket
  // never runs dry.
  options->set_write_high_water(4 << 20);
  options->set_write_low_water(2 << 20);
  // We wait for the flush ourselves; this bounds it for a broker whose client is gone.
  options->mutable_timeouts()->mutable_close()->set_seconds(3600);
}

void WidenPipe(int fd) {
  constexpr int kSize = 1 << 20;
  if (const int size = fcntl(fd, F_GETPIPE_SZ); size > 0 && size < kSize) {
    (void)fcntl(fd, F_SETPIPE_SZ, kSize);
  }
}

int Converse(BrokerLink& link, const v1::Connection& connection, absl::string_view peer, int input,
             int output, PumpOptions options, const Notes& notes, Interrupt* interrupt,
             PumpResult* result) {
  PumpResult local;
  if (result == nullptr) result = &local;
  {
    Pump pump(&link, connection, input, output, options, interrupt);
    *result = pump.Run();
  }
  int exit_status = kExitOk;
  switch (result->end) {
    case PumpResult::End::kDone:
      exit_status = CloseAndFlush(link, connection.handle(), peer, options, interrupt);
      break;
    case PumpResult::End::kQuitTimer:
    case PumpResult::End::kIdle:
      CloseQuickly(link, connection.handle());
      break;
    case PumpResult::End::kOutputClosed:
      CloseQuickly(link, connection.handle());
      exit_status = kExitBrokenPipe;
      break;
    case PumpResult::End::kInterrupted:
      CloseQuickly(link, connection.handle());
      exit_status = ExitBySignal(interrupt->signal_number());
      break;
    case PumpResult::End::kFailed:
      exit_status = ExitStatusOf(result->status);
      if (!result->failed_part.empty()) {
        PrintError(absl::StrCat(result->failed_part, " failed: ", result->status.error_message()));
        exit_status = kExitFailed;
      } else if (const v1::Reason reason = ReasonOf(result->status);
                 reason == v1::LOST || reason == v1::WRONG_BROKER) {
        // Whose handle it was has gone: another broker is at its address, whatever id it has.
        PrintError(absl::StrCat("the connection to ", peer, " is lost: the broker at ",
                                link.address().text(), " was restarted, and its sockets are gone"));
      } else if (IsBrokenLink(result->status)) {
        PrintError(absl::StrCat("the connection to ", peer, " is lost with its broker: ",
                                NoBrokerText(link.address(), result->status)));
      } else {
        PrintError(absl::StrCat("the connection to ", peer, " broke: ", CauseText(result->status)));
      }
      if (exit_status != kExitNoBroker) CloseQuickly(link, connection.handle());
      break;
  }
  notes.Ended(connection, *result);
  return exit_status;
}

}  // namespace sockbroker::client

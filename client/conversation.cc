#include "client/conversation.h"

#include <fcntl.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "client/console.h"
#include "client/cpp/status.h"
#include "client/error_text.h"
#include "client/exit_status.h"
#include "streams/wait_for.h"

namespace sockbroker::client {
namespace {

using streams::Task;
using streams::WaitFor;

// How long a way out that nobody should have to wait for may take.
constexpr absl::Duration kQuickly = absl::Seconds(2);

// Every way out but the good one: the broker has the wish to close, flushes and closes by itself.
// What it would take only when the peer reads is given up.
Task<void> CloseQuickly(SessionLink* link, StreamWriter writer) {
  if (writer.IsClosed()) co_return;
  writer.Close();
  if ((co_await WaitFor(writer.WaitTaken(), absl::Milliseconds(500))).ok()) co_return;
  v1::CloseRequest request;
  request.set_handle(writer.handle());
  (void)co_await WaitFor(link->broker().Call(&Broker::Rpcs::Close, std::move(request)), kQuickly);
}

Task<void> Leave(StreamWriter writer, Notes notes) {
  const v1::Connection connection = writer.info();
  const uint64_t read_offset = writer.read_offset();
  // Who does not get an answer in time leaves it by going.
  const absl::StatusOr<Detached> left = co_await WaitFor(writer.Detach(), kQuickly);
  notes.Left(connection, left.ok() ? left->read_offset : read_offset,
             left.ok() ? left->write_offset : writer.taken_offset());
}

// Closes, and waits until the kernel has taken everything.
Task<int> CloseAndFlush(SessionLink* link, StreamWriter writer, std::string peer,
                        PumpOptions options, Interrupt* interrupt) {
  writer.Close();
  const absl::Status status = co_await UntilInterrupted(
      interrupt, WaitFor(writer.WaitClosed(), options.idle.value_or(absl::InfiniteDuration())));
  if (interrupt->raised()) co_return ExitBySignal(interrupt->signal_number());
  // A loss at the very end is none when everything had been handed over; and a peer that ends both
  // directions of TLS may have left something of ours behind.
  const uint64_t missing = writer.write_offset() - writer.flushed_offset();
  if (missing == 0) {
    if (!writer.IsClosed()) co_await CloseQuickly(link, writer);
    co_return kExitOk;
  }
  if (GetStreamEnd(status) == StreamEnd::kGivenUp) {
    PrintError(NoBrokerText(link->address(), ToGrpcStatus(status)));
    co_return kExitNoBroker;
  }
  if (!writer.IsClosed()) {
    v1::AbortRequest abort;
    abort.set_handle(writer.handle());
    (void)co_await WaitFor(link->broker().Call(&Broker::Rpcs::Abort, std::move(abort)), kQuickly);
  }
  PrintError(absl::StrCat(
      "the connection to ", peer, " ended before everything was sent (", missing, " bytes): ",
      status.ok() ? CloseReasonText(writer.close_reason()) : CauseText(ToGrpcStatus(status))));
  co_return kExitFailed;
}

// Says why it failed.
int Explain(const SessionLink& link, const StreamWriter& writer, const std::string& peer,
            const PumpResult& result) {
  const absl::Status& status = result.status;
  const v1::Reason reason = GetReason(status);
  if (!result.failed_part.empty()) {
    PrintError(absl::StrCat(result.failed_part, " failed: ", status.message()));
    return kExitFailed;
  }
  if (GetStreamEnd(status) == StreamEnd::kGivenUp) {
    PrintError(absl::StrCat("the connection to ", peer, " is lost with its broker: ",
                            NoBrokerText(link.address(), ToGrpcStatus(status))));
    return kExitNoBroker;
  }
  if (GetStreamEnd(status) == StreamEnd::kFenced || reason == v1::STALE_EPOCH) {
    PrintError(absl::StrCat("another client has taken the connection to ", peer,
                            " over; nothing of this one's goes out any more (it had got to byte ",
                            writer.read_offset(), " reading, ", writer.taken_offset(),
                            " writing)"));
    return kExitFenced;
  }
  if (reason == v1::LOST || reason == v1::WRONG_BROKER) {
    // Whose handle it was has gone: another broker is at its address, whatever id it has.
    const v1::Offsets last = GetOffsets(status).value_or(v1::Offsets());
    PrintError(absl::StrCat("the connection to ", peer, " is lost: the broker at ",
                            link.address().text(), " was restarted, and its sockets are gone; ",
                            last.read_kept(),
                            " bytes had come and were written out, and of what was written the old "
                            "broker had at least ",
                            last.write_offset(), " bytes, its kernel ", last.flushed()));
    return kExitFailed;
  }
  const grpc::Status cause = ToGrpcStatus(status);
  PrintError(absl::StrCat("the connection to ", peer, " broke: ", CauseText(cause)));
  return ExitStatusOf(cause);
}

}  // namespace

void TuneForConversation(v1::ConnectionOptions* options) {
  // We wait for the flush ourselves; this bounds it for a broker whose client is gone.
  options->mutable_timeouts()->mutable_close()->set_seconds(3600);
}

void WidenPipe(int fd) {
  constexpr int kSize = 1 << 20;
  if (const int size = fcntl(fd, F_GETPIPE_SZ); size > 0 && size < kSize) {
    (void)fcntl(fd, F_SETPIPE_SZ, kSize);
  }
}

Task<int> Converse(SessionLink* link, Connection connection, Conversation conversation,
                   PumpOptions options, Notes notes, Interrupt* interrupt, PumpResult* result) {
  using After = Conversation::After;
  PumpResult local;
  if (result == nullptr) result = &local;
  StreamWriter writer = connection.writer;
  {
    Pump pump(std::move(connection), conversation.input, conversation.output, options, interrupt);
    *result = co_await pump.Run();
  }
  const bool leave = conversation.after == After::kLeave;
  const bool leave_when_broken_off = conversation.after != After::kClose;
  int exit_status = kExitOk;
  bool leaving = leave;
  switch (result->end) {
    case PumpResult::End::kDone:
      if (!leave) {
        exit_status = co_await CloseAndFlush(link, writer, conversation.peer, options, interrupt);
      }
      break;
    case PumpResult::End::kQuitTimer:
    case PumpResult::End::kIdle:
      break;
    case PumpResult::End::kOutputClosed:
      leaving = leave_when_broken_off;
      exit_status = kExitBrokenPipe;
      break;
    case PumpResult::End::kInterrupted:
      leaving = leave_when_broken_off;
      exit_status = ExitBySignal(interrupt->signal_number());
      break;
    case PumpResult::End::kFailed:
      leaving = leave_when_broken_off;
      exit_status = Explain(*link, writer, conversation.peer, *result);
      break;
  }
  if (!writer.IsClosed()) {
    if (leaving) {
      co_await Leave(writer, notes);
    } else if (result->end != PumpResult::End::kDone) {
      co_await CloseQuickly(link, writer);
    }
  }
  notes.Ended(writer.info(), *result);
  co_return exit_status;
}

}  // namespace sockbroker::client

#include "client/pump.h"

#include <algorithm>
#include <utility>

#include "client/cpp/status.h"
#include "client/error_text.h"
#include "streams/event_loop.h"
#include "streams/task_group.h"

namespace sockbroker::client {
namespace {

using streams::Task;

constexpr std::size_t kReadSize = 1 << 20;
// Held here beyond what the window lets go, bytes: the input is read when it is less than the
// latter.
constexpr int64_t kHighWater = 256 << 10;
constexpr int64_t kLowWater = 64 << 10;

}  // namespace

void TuneForPump(ConnectionOptions* options) {
  options->acknowledge_explicitly = true;
  // What may wait is the window's business.
  options->limit = 16 << 20;
}

Pump::Pump(Connection connection, int input, int output, PumpOptions options, Interrupt* interrupt)
    : reader_(std::move(connection.reader)),
      writer_(std::move(connection.writer)),
      options_(std::move(options)),
      interrupt_(interrupt),
      news_(std::make_shared<streams::WaitQueue>()),
      output_(output, news_),
      read_start_(writer_.read_offset()),
      write_start_(writer_.write_offset()),
      last_activity_(Now()) {
  if (input >= 0) input_.emplace(input, options_.crlf, news_);
}

Pump::~Pump() = default;

absl::Time Pump::Now() const { return writer_.loop()->Now(); }

Task<PumpResult> Pump::Run() {
  streams::EventLoop* const loop = writer_.loop();
  (void)writer_.SetWriteBufferLimits(kHighWater, kLowWater);
  const auto wake = [news = news_] { news->WakeAll(); };
  streams::Timer timer(loop, wake);
  std::optional<Interrupt::Subscription> subscription;
  if (interrupt_ != nullptr) {
    subscription.emplace(interrupt_, [loop, wake] { loop->Post(wake); });
  }
  streams::TaskGroup group;
  group.Spawn(Send());
  group.Spawn(Receive());
  group.Spawn(WatchForClose());
  group.Spawn(WatchProgress());

  PumpResult result;
  bool released = false;
  while (!IsOver(&result)) {
    const bool no_output = receiving_ended_ || output_.state() == OutputWriter::State::kClosed;
    if (no_output && !released) {
      released = true;
      output_.Stop();
      if (options_.on_output_end) options_.on_output_end();
    }
    timer.Set(NextTimer());
    if (absl::Status status = co_await news_->Wait(); !status.ok()) {
      result.end = PumpResult::End::kInterrupted;
      break;
    }
    Acknowledge();
  }
  timer.Cancel();
  group.Cancel();
  (void)co_await group.Join();
  if (input_.has_value()) input_->Stop();
  output_.Stop();
  Acknowledge();
  result.sent = writer_.taken_offset() - write_start_;
  result.received = output_.written();
  result.peer_eof = peer_eof_;
  co_return result;
}

void Pump::Acknowledge() {
  const uint64_t offset = read_start_ + output_.written();
  writer_.Acknowledge(offset);
}

absl::Status Pump::ClosedStatus() const {
  if (closed_.has_value() && !closed_->ok()) return *closed_;
  v1::ErrorDetail detail;
  detail.set_reason(v1::CLOSED);
  detail.set_close_reason(writer_.close_reason());
  absl::Status status =
      absl::FailedPreconditionError("the connection was closed before everything was sent");
  SetErrorDetail(detail, &status);
  return status;
}

bool Pump::IsOver(PumpResult* result) {
  const auto over = [&](PumpResult::End end) {
    result->end = end;
    return true;
  };
  const auto failed = [&](const absl::Status& status, const std::string& part) {
    result->status = status;
    result->failed_part = part;
    return over(PumpResult::End::kFailed);
  };
  if (interrupt_ != nullptr && interrupt_->raised()) return over(PumpResult::End::kInterrupted);
  if (output_.state() == OutputWriter::State::kFailed) {
    return failed(absl::UnknownError(ErrnoText(output_.error())), "writing the output");
  }
  if (!receive_status_.ok()) return failed(receive_status_, receive_failed_part_);
  const bool output_closed = output_.state() == OutputWriter::State::kClosed;
  if (output_closed && options_.end_when_output_closes && !peer_eof_) {
    return over(PumpResult::End::kOutputClosed);
  }
  const bool receiving_done = peer_eof_ || output_closed;
  // What the peer sent before it would take no more is still read: a reply that says why.
  if (!send_status_.ok() && receiving_done) {
    if (!send_failed_part_.empty()) return failed(send_status_, send_failed_part_);
    if (closed_.has_value()) return failed(ClosedStatus(), "");
    // Of a connection that is gone the reason follows.
    if (!writer_.IsClosing()) return failed(send_status_, "");
    return false;
  }
  if (input_done_ && receiving_done) return over(PumpResult::End::kDone);
  if (closed_.has_value() && receiving_done) {
    // Nothing is missing when nothing was to be sent; what is there still tries, and says so.
    if (!closed_->ok() || writer_.close_reason() != v1::ENDED_BY_PEER ||
        writer_.flushed_offset() < writer_.write_offset()) {
      return failed(ClosedStatus(), "");
    }
    return !HasSomethingToSend() && over(PumpResult::End::kDone);
  }
  if (peer_eof_ && !input_done_) {
    if (options_.at_peer_eof == PumpOptions::PeerEof::kEnd) return over(PumpResult::End::kDone);
    if (options_.at_peer_eof == PumpOptions::PeerEof::kSendWhatIsThere && input_.has_value() &&
        !input_->exhausted() && !HasSomethingToSend()) {
      return over(PumpResult::End::kDone);
    }
  }
  const absl::Time now = Now();
  if (options_.quit_after_input.has_value() && input_done_ &&
      now >= input_done_at_ + *options_.quit_after_input) {
    return over(PumpResult::End::kQuitTimer);
  }
  if (options_.idle.has_value() && now >= last_activity_ + *options_.idle) {
    return over(PumpResult::End::kIdle);
  }
  return false;
}

absl::Time Pump::NextTimer() const {
  absl::Time due = absl::InfiniteFuture();
  if (options_.idle.has_value()) due = last_activity_ + *options_.idle;
  if (options_.quit_after_input.has_value() && input_done_) {
    due = std::min(due, input_done_at_ + *options_.quit_after_input);
  }
  return due;
}

bool Pump::HasSomethingToSend() const {
  if (writer_.taken_offset() < writer_.write_offset()) return true;
  return input_.has_value() && input_->HasSomething();
}

Task<void> Pump::Send() {
  while (input_.has_value()) {
    InputReader::Piece piece = input_->Take();
    if (!piece.bytes.empty()) {
      last_activity_ = Now();
      // On what has ended it would be dropped without a word.
      absl::Status status = writer_.IsClosing() ? absl::UnavailableError("Connection lost")
                                                : writer_.Write(std::move(piece.bytes));
      if (status.ok()) status = co_await writer_.Drain();
      if (absl::IsCancelled(status) && !writer_.IsClosed()) co_return;
      if (!status.ok()) {
        send_status_ = status;
        news_->WakeAll();
        co_return;
      }
      continue;
    }
    if (!piece.error.ok()) {
      // What was read before is sent, but not marked as all there is.
      send_status_ = receive_status_ = piece.error;
      send_failed_part_ = receive_failed_part_ = "reading the input";
      news_->WakeAll();
      co_return;
    }
    if (piece.ended) break;
    if (!(co_await news_->Wait()).ok()) co_return;
  }
  // TLS 1.2 has no half-close: then the end is said by closing. Nor is there one to say to a peer
  // that has ended both directions.
  if (input_.has_value() && options_.half_close && writer_.CanWriteEof() && !writer_.IsClosing()) {
    (void)writer_.WriteEof();
  }
  absl::Status status = co_await writer_.WaitTaken();
  if (absl::IsCancelled(status) && !writer_.IsClosed()) co_return;
  if (status.ok()) {
    input_done_ = true;
    input_done_at_ = Now();
  } else {
    send_status_ = status;
  }
  news_->WakeAll();
}

Task<void> Pump::Receive() {
  absl::Status status;
  bool eof = false;
  while (!eof && output_.state() == OutputWriter::State::kOpen) {
    absl::StatusOr<absl::Cord> data = co_await reader_.Read(kReadSize);
    if (!data.ok()) {
      status = data.status();
      break;
    }
    eof = data->empty();
    if (!eof) last_activity_ = Now();
    output_.Write(*std::move(data));
  }
  if (absl::IsCancelled(status) && !writer_.IsClosed()) co_return;
  while (output_.state() == OutputWriter::State::kOpen && output_.pending() > 0) {
    if (!(co_await news_->Wait()).ok()) co_return;
  }
  Acknowledge();
  receive_status_ = status;
  peer_eof_ = eof && output_.state() == OutputWriter::State::kOpen;
  receiving_ended_ = true;
  news_->WakeAll();
}

Task<void> Pump::WatchForClose() {
  absl::Status status = co_await writer_.WaitClosed();
  if (!writer_.IsClosed()) co_return;  // cancelled
  closed_ = std::move(status);
  news_->WakeAll();
}

Task<void> Pump::WatchProgress() {
  while ((co_await writer_.WaitProgress()).ok()) {
    last_activity_ = Now();
    // What was only to be sent to its end may have been.
    if (peer_eof_) news_->WakeAll();
  }
}

}  // namespace sockbroker::client

#include "client/pump.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/error_text.h"

namespace sockbroker::client {
namespace {

// The contract's largest write.
constexpr std::size_t kMaxWrite = 1 << 20;
// What is read from the input at once. Four of them make a write when they come quicker than writes
// are answered.
constexpr std::size_t kInputBlock = 256 << 10;
// Asked again before a quarter of the broker's shortest usual lease (60 s) is over, so that the
// connection lives while neither direction has a call to make: a stalled output and a silent input.
constexpr absl::Duration kTouchEvery = absl::Seconds(15);

grpc::Status SystemFailure(int error) {
  char buffer[128];
  return {grpc::StatusCode::UNKNOWN, strerror_r(error, buffer, sizeof(buffer))};
}

}  // namespace

Pump::Pump(BrokerLink* link, const v1::Connection& connection, int input, int output,
           PumpOptions options, Interrupt* interrupt)
    : link_(link),
      handle_(connection.handle()),
      input_(input),
      output_(output),
      options_(std::move(options)),
      interrupt_(interrupt),
      event_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      stop_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      last_activity_(absl::Now()),
      write_offset_(connection.offsets().write_offset()),
      read_offset_(connection.offsets().read_offset()) {}

Pump::~Pump() {
  close(event_fd_);
  close(stop_fd_);
}

void Pump::Notify() { eventfd_write(event_fd_, 1); }

PumpResult Pump::Run() {
  std::vector<std::thread> threads;
  threads.emplace_back([this] { ReadInput(); });
  threads.emplace_back([this] { SendToPeer(); });
  threads.emplace_back([this] { ReceiveFromPeer(); });
  threads.emplace_back([this] { WatchForClose(); });

  PumpResult result;
  bool watch_output = true;
  bool output_released = false;
  while (!IsOver(&result)) {
    absl::Time due;
    bool release_output = false;
    {
      absl::MutexLock lock(&mutex_);
      due = NextTimer();
      watch_output = watch_output && !receiving_ended_ && !output_closed_;
      release_output = receiving_ended_ && !output_released;
    }
    if (release_output) {
      output_released = true;
      output_.Release();
      if (options_.on_output_end) options_.on_output_end();
    }
    int timeout = -1;
    if (due != absl::InfiniteFuture()) {
      // Rounded up: a timer that is polled for a moment too early would spin.
      timeout = static_cast<int>(
          std::clamp<int64_t>(absl::ToInt64Milliseconds(due - absl::Now()) + 1, 0, 3'600'000));
    }
    pollfd fds[] = {
        {event_fd_, POLLIN, 0},
        {interrupt_ != nullptr ? interrupt_->fd() : -1, POLLIN, 0},
        // Errors are always reported: the reader's going shows at once, not with the next byte.
        {watch_output ? output_.fd() : -1, 0, 0}};
    if (poll(fds, 3, timeout) <= 0) continue;
    eventfd_t ignored = 0;
    if ((fds[0].revents & POLLIN) != 0) eventfd_read(event_fd_, &ignored);
    if (fds[2].revents != 0) {
      absl::MutexLock lock(&mutex_);
      output_closed_ = true;
    }
  }

  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  canceller_.Cancel();
  eventfd_write(stop_fd_, 1);
  for (std::thread& thread : threads) thread.join();

  absl::MutexLock lock(&mutex_);
  result.sent = sent_;
  result.received = received_;
  result.peer_eof = peer_eof_;
  return result;
}

bool Pump::IsOver(PumpResult* result) {
  const auto over = [&](PumpResult::End end) {
    result->end = end;
    return true;
  };
  const auto failed = [&](const grpc::Status& status, const std::string& part) {
    result->status = status;
    result->failed_part = part;
    return over(PumpResult::End::kFailed);
  };
  if (interrupt_ != nullptr && interrupt_->raised()) return over(PumpResult::End::kInterrupted);
  absl::MutexLock lock(&mutex_);
  if (!receive_status_.ok()) return failed(receive_status_, receive_failed_part_);
  if (output_closed_ && options_.end_when_output_closes)
    return over(PumpResult::End::kOutputClosed);
  const bool receiving_done = peer_eof_ || output_closed_;
  // What the peer sent before it would take no more is still read: a reply that says why.
  if (!send_status_.ok() && receiving_done) return failed(send_status_, send_failed_part_);
  if (input_done_ && receiving_done) return over(PumpResult::End::kDone);
  if (closed_.has_value() && receiving_done) {
    // Nothing is missing when nothing was to be sent; what is there still tries, and says so.
    if (ended_by_peer_) {
      if (!InputHasSomething()) return over(PumpResult::End::kDone);
      return false;
    }
    return failed(closed_->ok()
                      ? grpc::Status(grpc::StatusCode::FAILED_PRECONDITION,
                                     "the connection was closed before everything was sent")
                      : *closed_,
                  "");
  }
  if (peer_eof_ && !input_done_) {
    if (options_.at_peer_eof == PumpOptions::PeerEof::kEnd) return over(PumpResult::End::kDone);
    if (options_.at_peer_eof == PumpOptions::PeerEof::kSendWhatIsThere && !input_ended_ &&
        !InputHasSomething()) {
      return over(PumpResult::End::kDone);
    }
  }
  const absl::Time now = absl::Now();
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

bool Pump::InputHasSomething() const {
  if (reading_ || writing_ || !pending_.empty()) return true;
  pollfd fds{input_, POLLIN, 0};
  return poll(&fds, 1, 0) > 0;
}

void Pump::ReadInput() {
  std::string block(kInputBlock, '\0');
  std::string converted;
  CrlfConverter converter;
  while (true) {
    pollfd fds[] = {{input_, POLLIN, 0}, {stop_fd_, POLLIN, 0}};
    if (poll(fds, 2, -1) < 0) continue;
    if (fds[1].revents != 0) return;
    {
      absl::MutexLock lock(&mutex_);
      reading_ = true;
    }
    const ssize_t got = read(input_, block.data(), block.size());
    const int error = errno;
    absl::string_view bytes(block.data(), got > 0 ? static_cast<std::size_t>(got) : 0);
    if (options_.crlf) {
      converted.clear();
      converter.Append(bytes, &converted);
      bytes = converted;
    }
    absl::MutexLock lock(&mutex_);
    reading_ = false;
    if (got < 0 && (error == EINTR || error == EAGAIN)) {
      Notify();
      continue;
    }
    // A terminal that was hung up, or a standard input that was closed from the start, has ended.
    if (got < 0 && error != EIO && error != EBADF) {
      send_status_ = SystemFailure(error);
      send_failed_part_ = "reading the input";
      // What was read before is sent, but not marked as all there is.
      receive_status_ = send_status_;
      receive_failed_part_ = send_failed_part_;
      Notify();
      return;
    }
    if (got <= 0) {
      input_ended_ = true;
      return;
    }
    reading_ = true;
    const auto has_room = [this, &bytes]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return stopping_ || !send_status_.ok() || pending_.size() + bytes.size() <= kMaxWrite;
    };
    mutex_.Await(absl::Condition(&has_room));
    if (stopping_ || !send_status_.ok()) return;
    reading_ = false;
    pending_.append(bytes.data(), bytes.size());
  }
}

bool Pump::MaySend() const { return stopping_ || input_ended_ || !pending_.empty(); }

void Pump::SendToPeer() {
  v1::WriteRequest request;
  request.set_handle(handle_);
  // Chosen once: what this pump wrote is recognised when it comes a second time.
  request.set_writer(RandomBytes(16));
  // Answered when the socket has taken most of it: that is what slows the input down to the peer's
  // speed.
  request.set_drain(true);
  while (true) {
    bool ended = false;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &Pump::MaySend));
      if (stopping_) return;
      request.mutable_data()->clear();
      request.mutable_data()->swap(pending_);
      writing_ = true;
      ended = input_ended_ && request.data().empty();
    }
    grpc::Status status;
    if (!ended) {
      request.set_offset(write_offset_);
      v1::WriteResponse response;
      status =
          link_->Call(&BrokerLink::Stub::Write, request, &response, {.canceller = &canceller_});
      if (!status.ok() && ReasonOf(status) == v1::WRITE_BUFFER_FULL) {
        // Only when somebody else writes too: room for this one is made first.
        v1::DrainRequest drain;
        drain.set_handle(handle_);
        v1::DrainResponse drained;
        status = link_->Call(&BrokerLink::Stub::Drain, drain, &drained, {.canceller = &canceller_});
        if (status.ok()) {
          status =
              link_->Call(&BrokerLink::Stub::Write, request, &response, {.canceller = &canceller_});
        }
      }
    } else if (options_.half_close) {
      v1::WriteEofRequest eof;
      eof.set_handle(handle_);
      v1::WriteEofResponse response;
      status = link_->Call(&BrokerLink::Stub::WriteEof, eof, &response, {.canceller = &canceller_});
      // TLS 1.2 has no half-close: then the end is said by closing. Nor is there one to say to a
      // peer that has ended both directions.
      if (const absl::optional<v1::ErrorDetail> detail = DetailOf(status);
          detail.has_value() &&
          (detail->reason() == v1::UNSUPPORTED || detail->close_reason() == v1::ENDED_BY_PEER)) {
        status = grpc::Status::OK;
      }
    }
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    if (stopping_) return;
    if (!status.ok()) {
      send_status_ = status;
    } else if (ended) {
      input_done_ = true;
      input_done_at_ = absl::Now();
    } else {
      write_offset_ += request.data().size();
      sent_ += request.data().size();
      last_activity_ = absl::Now();
    }
    Notify();
    if (!status.ok() || ended) return;
  }
}

void Pump::ReceiveFromPeer() {
  v1::ReadRequest request;
  request.set_handle(handle_);
  request.set_n(static_cast<int64_t>(options_.read_size));
  // The same for all: a repeated read then takes the place of one that still waits for a caller who
  // has gone.
  request.set_request_id(RandomBytes(16));
  v1::ReadResponse response;
  grpc::Status status;
  std::string failed_part;
  bool eof = false;
  bool closed = false;
  while (!eof && !closed && status.ok()) {
    request.set_offset(read_offset_);
    status = link_->Call(&BrokerLink::Stub::Read, request, &response, {.canceller = &canceller_});
    if (!status.ok()) break;
    if (response.offset() != read_offset_) {
      status = {grpc::StatusCode::DATA_LOSS,
                absl::StrCat("the broker answered a read at ", read_offset_, " with bytes from ",
                             response.offset())};
      break;
    }
    eof = response.eof();
    switch (output_.Write(response.data(), stop_fd_)) {
      case Output::Result::kOk:
        break;
      case Output::Result::kClosed:
        closed = true;
        break;
      case Output::Result::kStopped:
        return;
      case Output::Result::kFailed:
        status = SystemFailure(output_.error());
        failed_part = "writing the output";
        break;
    }
    if (closed || !status.ok()) break;
    read_offset_ += response.data().size();
    absl::MutexLock lock(&mutex_);
    received_ += response.data().size();
    last_activity_ = absl::Now();
  }
  absl::MutexLock lock(&mutex_);
  if (stopping_) return;
  receiving_ended_ = true;
  peer_eof_ = eof && !closed && status.ok();
  output_closed_ = output_closed_ || closed;
  if (!status.ok() && receive_status_.ok()) {
    receive_status_ = status;
    receive_failed_part_ = failed_part;
  }
  Notify();
}

void Pump::WatchForClose() {
  v1::WaitClosedRequest request;
  request.set_handle(handle_);
  while (!canceller_.cancelled()) {
    v1::WaitClosedResponse response;
    const grpc::Status status = link_->Call(&BrokerLink::Stub::WaitClosed, request, &response,
                                            {.canceller = &canceller_, .timeout = kTouchEvery});
    if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED &&
        ReasonOf(status) == v1::REASON_UNSPECIFIED) {
      continue;
    }
    absl::MutexLock lock(&mutex_);
    if (!stopping_) closed_ = status;
    ended_by_peer_ = status.ok() && response.connection().close_reason() == v1::ENDED_BY_PEER;
    Notify();
    return;
  }
}

}  // namespace sockbroker::client

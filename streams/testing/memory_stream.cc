#include "streams/testing/memory_stream.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "streams/error.h"

namespace sockbroker::streams {

// One direction. `reader` and `writer` are told when the other end did something.
struct MemoryStream::Pipe {
  absl::Cord data;
  bool fin = false;          // behind data
  bool reset = false;        // behind data
  bool reader_gone = false;  // what is sent is answered with a reset
  std::weak_ptr<MemoryStream> reader;
  std::weak_ptr<MemoryStream> writer;

  void WakeReader() {
    if (auto stream = reader.lock()) stream->Schedule();
  }
  void WakeWriter() {
    if (auto stream = writer.lock()) stream->Schedule();
  }
};

std::pair<std::shared_ptr<MemoryStream>, std::shared_ptr<MemoryStream>> MakeMemoryStreams(
    EventLoop* loop, MemoryStreamOptions options) {
  auto forth = std::make_shared<MemoryStream::Pipe>();
  auto back = std::make_shared<MemoryStream::Pipe>();
  std::shared_ptr<MemoryStream> client(new MemoryStream(loop, options, back, forth));
  std::shared_ptr<MemoryStream> server(new MemoryStream(loop, options, forth, back));
  forth->writer = back->reader = client;
  forth->reader = back->writer = server;
  return {client, server};
}

MemoryStream::MemoryStream(EventLoop* loop, MemoryStreamOptions options,
                           std::shared_ptr<Pipe> incoming, std::shared_ptr<Pipe> outgoing)
    : loop_(loop),
      options_(options),
      incoming_(std::move(incoming)),
      outgoing_(std::move(outgoing)) {}

MemoryStream::~MemoryStream() {
  if (descriptor_open_) CloseDescriptor(/*reset=*/false);
}

void MemoryStream::Start(std::shared_ptr<StreamProtocol> protocol) {
  protocol_ = std::move(protocol);
  self_ = shared_from_this();
  loop_->AddShutdownListener(this);
  Schedule();
}

void MemoryStream::OnLoopShutdown() {
  loop_->RemoveShutdownListener(this);
  if (descriptor_open_) CloseDescriptor(/*reset=*/false);
  closing_ = lost_ = true;
  const std::shared_ptr<MemoryStream> self = std::move(self_);
  if (auto protocol = std::move(protocol_)) {
    protocol->OnConnectionLost(absl::CancelledError("the event loop is shutting down"));
  }
}

void MemoryStream::PauseReading() {
  if (!std::exchange(reading_paused_, true)) times_paused_++;
}

void MemoryStream::ResumeReading() {
  reading_paused_ = false;
  Schedule();
}

void MemoryStream::Write(absl::Cord data) {
  if (lost_ || write_eof_ || data.empty()) return;
  const bool send_now = write_buffer_.empty();
  write_buffer_.Append(std::move(data));
  if (send_now) Flush();
  MaybePause();
}

void MemoryStream::SetWriteBufferLimits(std::size_t high, std::size_t low) {
  high_ = high;
  low_ = low;
  MaybePause();
}

void MemoryStream::WriteEof() {
  if (closing_ || write_eof_) return;
  write_eof_ = true;
  Flush();
}

void MemoryStream::Close() {
  if (closing_) return;
  closing_ = true;
  if (write_buffer_.empty()) Lose(absl::OkStatus());
}

void MemoryStream::Abort(bool reset, absl::Status status) {
  if (lost_) return;
  closing_ = true;
  write_buffer_.Clear();
  CloseDescriptor(reset);
  Lose(std::move(status));
}

absl::Cord MemoryStream::Receive(std::size_t n) {
  const std::size_t size = std::min(n, incoming_->data.size());
  absl::Cord taken = incoming_->data.Subcord(0, size);
  incoming_->data.RemovePrefix(size);
  incoming_->WakeWriter();
  return taken;
}

std::size_t MemoryStream::readable() const { return incoming_->data.size(); }
bool MemoryStream::peer_sent_eof() const { return incoming_->fin; }
bool MemoryStream::peer_sent_reset() const { return incoming_->reset; }

void MemoryStream::Schedule() {
  if (scheduled_) return;
  scheduled_ = true;
  loop_->CallSoon([self = shared_from_this()] {
    self->scheduled_ = false;
    self->Turn();
  });
}

void MemoryStream::Turn() {
  Flush();
  if (lost_ || protocol_ == nullptr) return;
  // A protocol may close, abort or write from within any of these.
  const std::shared_ptr<StreamProtocol> protocol = protocol_;
  if (writing_paused_ && write_buffer_.size() <= low_) {
    writing_paused_ = false;
    protocol->OnResumeWriting();
  }
  if (closing_ || reading_paused_) return;
  if (!incoming_->data.empty()) {
    protocol->OnData(Receive(options_.read_size));
    Schedule();
  } else if (incoming_->reset) {
    Fail(ECONNRESET, "recv");
  } else if (incoming_->fin && !std::exchange(eof_told_, true)) {
    if (!protocol->OnEof()) Close();
  }
}

void MemoryStream::Flush() {
  if (lost_) return;
  if (!write_buffer_.empty() && incoming_->reset) {
    // Behind the peer's FIN the kernel calls a reset a broken pipe.
    Fail(eof_told_ ? EPIPE : ECONNRESET, "send");
    return;
  }
  if (outgoing_->reader_gone && !write_buffer_.empty()) {
    // The kernel takes it, and the peer's answer is a reset.
    bytes_flushed_ += write_buffer_.size();
    write_buffer_.Clear();
    incoming_->reset = true;
    Schedule();
  }
  const std::size_t room =
      options_.kernel_buffer - std::min(options_.kernel_buffer, outgoing_->data.size());
  if (const std::size_t size = std::min(room, write_buffer_.size()); size > 0) {
    outgoing_->data.Append(write_buffer_.Subcord(0, size));
    write_buffer_.RemovePrefix(size);
    bytes_flushed_ += size;
    outgoing_->WakeReader();
  }
  if (!write_buffer_.empty()) return;
  if (closing_) {
    Lose(absl::OkStatus());
  } else if (write_eof_ && !outgoing_->fin) {
    outgoing_->fin = true;
    outgoing_->WakeReader();
  }
}

void MemoryStream::MaybePause() {
  if (writing_paused_ || protocol_ == nullptr || write_buffer_.size() <= high_) return;
  writing_paused_ = true;
  protocol_->OnPauseWriting();
}

void MemoryStream::Fail(int os_errno, absl::string_view call) {
  const bool may_read = !closing_;
  closing_ = true;
  write_buffer_.Clear();
  // Left for the protocol, which is told of the rest before the loss.
  if (may_read) unread_ = std::exchange(incoming_->data, absl::Cord());
  CloseDescriptor(/*reset=*/false);
  Lose(streams::ErrnoToStatus(os_errno, call));
}

void MemoryStream::CloseDescriptor(bool reset) {
  if (!std::exchange(descriptor_open_, false)) return;
  if (reset || !incoming_->data.empty()) {
    outgoing_->reset = true;
  } else {
    outgoing_->fin = true;
  }
  incoming_->data.Clear();
  incoming_->reader_gone = true;
  outgoing_->WakeReader();
  incoming_->WakeWriter();
}

void MemoryStream::Lose(absl::Status status) {
  if (std::exchange(lost_, true)) return;
  // Told in a turn of its own, as asyncio does, so that a drain in between sees it coming.
  loop_->CallSoon([self = shared_from_this(), status = std::move(status)] {
    // Closed here and not in Close: a peer sees the end no sooner than the protocol does.
    self->CloseDescriptor(/*reset=*/false);
    const std::shared_ptr<StreamProtocol> protocol = std::move(self->protocol_);
    if (protocol == nullptr) return;
    self->self_.reset();
    self->loop_->RemoveShutdownListener(self.get());
    if (!self->unread_.empty()) protocol->OnData(std::exchange(self->unread_, absl::Cord()));
    protocol->OnConnectionLost(status);
  });
}

}  // namespace sockbroker::streams

#include "streams/testing/fault_stream.h"

#include <algorithm>
#include <utility>

namespace sockbroker::streams {

FaultStream::Lane::Lane(FaultStream* owner, Faults faults,
                        absl::AnyInvocable<void(absl::Cord)> pass)
    : owner_(owner),
      faults_(std::move(faults)),
      pass_(std::move(pass)),
      timer_(owner->loop_, [this] {
        const std::shared_ptr<FaultStream> alive = owner_->shared_from_this();
        PassOne();
      }) {}

void FaultStream::Lane::Push(absl::Cord data) {
  if (failed_) return;
  size_ += data.size();
  items_.push_back({std::move(data), nullptr, owner_->loop_->Now() + faults_.delay});
  Schedule();
}

void FaultStream::Lane::PushMark(absl::AnyInvocable<void()> mark) {
  items_.push_back({absl::Cord(), std::move(mark), owner_->loop_->Now() + faults_.delay});
  Schedule();
}

void FaultStream::Lane::Release() {
  held_ = false;
  Schedule();
}

void FaultStream::Lane::Clear() {
  items_.clear();
  size_ = 0;
  timer_.Cancel();
}

void FaultStream::Lane::Schedule() {
  if (held_ || items_.empty() || timer_.armed()) return;
  timer_.Set(std::max(items_.front().due, owner_->loop_->Now()));
}

void FaultStream::Lane::PassOne() {
  if (held_ || items_.empty()) return;
  Item& item = items_.front();
  if (item.mark) {
    absl::AnyInvocable<void()> mark = std::move(item.mark);
    items_.pop_front();
    Schedule();
    mark();
    return;
  }
  std::size_t size = item.data.size();
  if (faults_.split != 0) size = std::min(size, faults_.split);
  if (faults_.fail.has_value()) {
    size = static_cast<std::size_t>(std::min<uint64_t>(size, faults_.fail->offset - passed_));
  }
  absl::Cord piece = item.data.Subcord(0, size);
  item.data.RemovePrefix(size);
  if (item.data.empty()) items_.pop_front();
  size_ -= size;
  passed_ += size;
  const bool fail = faults_.fail.has_value() && passed_ == faults_.fail->offset;
  if (fail) {
    failed_ = true;
    Clear();
  }
  Schedule();
  if (!piece.empty()) pass_(std::move(piece));
  if (fail) owner_->Fail(faults_.fail->status);
}

FaultStream::FaultStream(EventLoop* loop, std::shared_ptr<ByteStream> inner, Faults incoming,
                         Faults outgoing)
    : loop_(loop),
      inner_(std::move(inner)),
      incoming_(this, std::move(incoming),
                [this](absl::Cord data) {
                  if (protocol_ != nullptr && !closing_) protocol_->OnData(std::move(data));
                }),
      outgoing_(this, std::move(outgoing), [this](absl::Cord data) {
        inner_->Write(std::move(data));
        MaybeResume();
      }) {}

void FaultStream::HoldIncoming() {
  incoming_held_ = true;
  ApplyReadingPause();
}

void FaultStream::ReleaseIncoming() {
  incoming_held_ = false;
  ApplyReadingPause();
}

void FaultStream::HoldOutgoing() { outgoing_.Hold(); }
void FaultStream::ReleaseOutgoing() { outgoing_.Release(); }

void FaultStream::Start(std::shared_ptr<StreamProtocol> protocol) {
  protocol_ = std::move(protocol);
  self_ = shared_from_this();
  // Before the inner stream does: listeners are told in reverse, so that what is held then is
  // dropped after the inner stream's own end.
  loop_->AddShutdownListener(this);
  inner_->Start(shared_from_this());
}

void FaultStream::OnLoopShutdown() {
  Lose(absl::CancelledError("the event loop is shutting down"));
}

void FaultStream::PauseReading() {
  reading_paused_ = true;
  inner_->PauseReading();
  ApplyReadingPause();
}

void FaultStream::ResumeReading() {
  reading_paused_ = false;
  inner_->ResumeReading();
  ApplyReadingPause();
}

void FaultStream::ApplyReadingPause() {
  reading_paused_ || incoming_held_ ? incoming_.Hold() : incoming_.Release();
}

void FaultStream::Write(absl::Cord data) {
  if (data.empty()) return;
  outgoing_.Push(std::move(data));
  MaybePause();
}

std::size_t FaultStream::write_buffer_size() const {
  return outgoing_.size() + inner_->write_buffer_size();
}

void FaultStream::SetWriteBufferLimits(std::size_t high, std::size_t low) {
  high_ = high;
  low_ = low;
  inner_->SetWriteBufferLimits(high, low);
  MaybePause();
}

void FaultStream::WriteEof() {
  outgoing_.PushMark([this] { inner_->WriteEof(); });
}

void FaultStream::Close() {
  if (std::exchange(closing_, true)) return;
  outgoing_.PushMark([this] { inner_->Close(); });
}

void FaultStream::Abort(bool reset, absl::Status status) {
  closing_ = true;
  outgoing_.Clear();
  incoming_.Clear();
  inner_->Abort(reset, std::move(status));
}

void FaultStream::Fail(const absl::Status& status) {
  closing_ = true;
  outgoing_.Clear();
  inner_->Abort(/*reset=*/true, status);
}

void FaultStream::OnData(absl::Cord data) { incoming_.Push(std::move(data)); }

bool FaultStream::OnEof() {
  incoming_.PushMark([this] {
    if (protocol_ != nullptr && !closing_ && !protocol_->OnEof()) Close();
  });
  return true;
}

void FaultStream::OnPauseWriting() {
  inner_paused_ = true;
  MaybePause();
}

void FaultStream::OnResumeWriting() {
  inner_paused_ = false;
  MaybeResume();
}

void FaultStream::MaybePause() {
  if (outgoing_.size() > high_) lane_paused_ = true;
  if (paused_ || protocol_ == nullptr || !(lane_paused_ || inner_paused_)) return;
  paused_ = true;
  protocol_->OnPauseWriting();
}

void FaultStream::MaybeResume() {
  if (outgoing_.size() <= low_) lane_paused_ = false;
  if (!paused_ || protocol_ == nullptr || lane_paused_ || inner_paused_) return;
  paused_ = false;
  protocol_->OnResumeWriting();
}

void FaultStream::OnConnectionLost(const absl::Status& status) {
  // What came before a loss is delivered before it, unless this end has closed: then nobody reads.
  if (closing_) {
    Lose(status);
  } else {
    incoming_.PushMark([this, status] { Lose(status); });
  }
}

void FaultStream::Lose(const absl::Status& status) {
  closing_ = true;
  outgoing_.Clear();
  incoming_.Clear();
  const std::shared_ptr<FaultStream> self = std::move(self_);
  if (const std::shared_ptr<StreamProtocol> protocol = std::move(protocol_)) {
    loop_->RemoveShutdownListener(this);
    protocol->OnConnectionLost(status);
  }
}

}  // namespace sockbroker::streams

#include "session/client_channel.h"

#include <algorithm>
#include <utility>

#include "session/client_session.h"
#include "session/proto_values.h"

namespace sockbroker::session {
namespace {

constexpr uint64_t kMaxWindow = 16 << 20;

}  // namespace

void ClientChannel::ReadyIfOpen() {
  if (!MaySpeak()) return;
  session_->mux_.Ready(this);
  session_->Notify();
}

void ClientChannel::Write(absl::Cord bytes) {
  out.Append(std::move(bytes));
  ReadyIfOpen();
}

void ClientChannel::AddMark(v1::ClientFrame frame) {
  const Position at = out.AddMark();
  marks_.emplace_back(at.marks, std::move(frame));
  ReadyIfOpen();
}

void ClientChannel::WriteEof() {
  v1::ClientFrame frame;
  frame.mutable_eof();
  AddMark(std::move(frame));
}

void ClientChannel::StartTls(v1::TlsOptions options, v1::StartTlsRequest::Side side) {
  // What was received beyond it, and what is still under way, is not ours to read.
  discard_from_ = in.consumed().offset;
  in.ForgetUnconsumed();
  v1::ClientFrame frame;
  frame.mutable_start_tls()->set_read_offset(*discard_from_);
  *frame.mutable_start_tls()->mutable_tls() = std::move(options);
  frame.mutable_start_tls()->set_side(side);
  AddMark(std::move(frame));
}

void ClientChannel::Close() {
  v1::ClientFrame frame;
  frame.mutable_close();
  AddMark(std::move(frame));
}

void ClientChannel::Abort() {
  if (state_ == State::kNew) {
    const std::unique_ptr<ClientChannel> owner = session_->Remove(this);
    listener_->OnFailed(ToProto(absl::CancelledError("aborted before anybody was asked")));
    return;
  }
  aborted_ = true;
  // A broker that has not answered yet has nothing to abort, unless it is an Open of its own: then
  // it forgets it.
  const bool opening = state_ == State::kWaiting && handle_.empty() && !asked_before_;
  if (state_ == State::kBound || opening) SayAbort();
}

void ClientChannel::SayAbort() {
  v1::ClientFrame frame;
  frame.mutable_close()->set_channel(number);
  frame.mutable_close()->set_abort(true);
  session_->mux_.Control(frame);
  session_->Notify();
}

void ClientChannel::Detach() {
  detaching_ = true;
  ReadyIfOpen();
}

void ClientChannel::Consume(uint64_t bytes) {
  in.Consume(bytes);
  if (in.WantsLargerWindow(session_->now_, session_->mux_.round_trip())) {
    in.set_window(std::min(2 * in.window(), kMaxWindow));
  }
  if (MaySpeak()) {
    session_->mux_.AckLater(this);
    session_->Notify();
  }
  FinishIfConsumed();
}

void ClientChannel::FinishIfConsumed() {
  if (!closed_.has_value() || in.waiting() > 0) return;
  // The broker keeps the tail until it knows that we have it.
  if (MaySpeak()) session_->mux_.AckNow(this);
  const std::unique_ptr<ClientChannel> owner = session_->Remove(this);
  session_->Notify();
  listener_->OnClosed(*closed_);
}

void ClientChannel::set_window(uint64_t window) {
  in.set_window(window);
  if (!MaySpeak()) return;
  session_->mux_.AckLater(this);
  session_->Notify();
}

void ClientChannel::WriteMark(Position at, FrameWriter* writer) {
  const auto found = std::find_if(marks_.begin(), marks_.end(),
                                  [&](const auto& mark) { return mark.first == at.marks; });
  v1::ClientFrame& frame = found->second;
  switch (frame.frame_case()) {
    case v1::ClientFrame::kEof:
      frame.mutable_eof()->set_channel(number);
      *frame.mutable_eof()->mutable_at() = ToProto(at);
      break;
    case v1::ClientFrame::kStartTls:
      frame.mutable_start_tls()->set_channel(number);
      *frame.mutable_start_tls()->mutable_at() = ToProto(at);
      break;
    default:
      frame.mutable_close()->set_channel(number);
      *frame.mutable_close()->mutable_at() = ToProto(at);
      break;
  }
  writer->Add(frame);
}

bool ClientChannel::WriteEnd(FrameWriter* writer) {
  if (!detaching_ || detach_sent_) return false;
  // What was taken is not to be given to whoever comes next. What an earlier binding brought can be
  // acked when it has come again.
  if (Taken() != in.consumed()) return false;
  detach_sent_ = true;
  if (in.AckPending(Taken())) writer->AddAck(number, Taken(), in.TakeAck(Taken()), 0);
  v1::ClientFrame frame;
  frame.mutable_detach()->set_channel(number);
  writer->Add(frame);
  return false;
}

}  // namespace sockbroker::session

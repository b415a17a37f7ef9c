#include "session/broker_channel.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "session/broker_session.h"
#include "session/proto_values.h"

namespace sockbroker::session {

void ReadMarkLog::EndUpgrade(v1::TlsInfo info) {
  v1::BrokerFrame frame;
  *frame.mutable_tls_started()->mutable_tls() = std::move(info);
  entries.push_back({void_to, std::move(frame)});
  upgrading = false;
}

void BrokerChannel::OnReadable() {
  session_->mux_.Ready(this);
  session_->Notify();
}

void BrokerChannel::OnFlushed() {
  const uint64_t flushed = connection_->Flushed();
  if (flushed > in.consumed().offset) in.Consume(flushed - in.consumed().offset);
  if (over_granted_ && !in.revoking()) ShrinkGrant();
  if (in.WantsLargerWindow(session_->now_, session_->mux_.round_trip())) {
    in.set_window(session_->host_->GrowWindow(connection_.get(), in.window()));
  }
  session_->mux_.AckLater(this);
  session_->Notify();
}

void BrokerChannel::OnTlsStarted() {
  if (ApplyHeld()) OnReadable();
}

void BrokerChannel::OnWriteClosed(google::rpc::Status status) {
  v1::BrokerFrame frame;
  frame.mutable_write_closed()->set_channel(number);
  *frame.mutable_write_closed()->mutable_status() = std::move(status);
  frame.mutable_write_closed()->set_flushed(Flushed());
  session_->mux_.Control(frame);
  session_->Notify();
}

void BrokerChannel::OnGone(v1::Closed closed) {
  end_ = std::make_unique<v1::Closed>(std::move(closed));
  held_.clear();
  connection_->read_marks().upgrading = false;
  OnReadable();
}

void BrokerChannel::Fence(uint64_t new_epoch) {
  v1::BrokerFrame frame;
  frame.mutable_fenced()->set_channel(number);
  frame.mutable_fenced()->set_epoch(new_epoch);
  session_->mux_.Control(frame);
  session_->Notify();
  LetGo();
  session_->Erase(number);
}

void BrokerChannel::Revoke(uint64_t window) {
  if (in.revoking()) return;
  v1::BrokerFrame frame;
  frame.mutable_revoke()->set_channel(number);
  frame.mutable_revoke()->set_edge(in.Revoke(window));
  session_->mux_.Control(frame);
  session_->Notify();
}

void BrokerChannel::ShrinkGrant() {
  const uint64_t promised = in.edge() - in.consumed().offset;
  over_granted_ = promised > in.window();
  session_->host_->ShrinkWindow(connection_.get(), std::max(promised, in.window()));
}

void BrokerChannel::Refill(std::size_t max) {
  if (connection_ == nullptr || closing_ || upgrading()) return;
  if (upgrade_at_ > 0) {
    const uint64_t end = out.end().offset;
    if (end >= upgrade_at_) {
      session_->resume_.push_back(number);
      return;
    }
    max = std::min<uint64_t>(max, upgrade_at_ - end);
  }
  ReadMarkLog& log = connection_->read_marks();
  // Marks stand at their offsets, whichever binding sends them.
  if (out.end().marks < log.entries.size()) {
    const uint64_t until = log.entries[out.end().marks].offset - out.end().offset;
    if (until == 0) {
      out.AddMark();
      return;
    }
    max = std::min<uint64_t>(max, until);
  }
  absl::Cord bytes = connection_->Read(max, out.kept_bytes());
  if (!bytes.empty()) {
    out.Append(std::move(bytes));
    return;
  }
  if (!log.has_eof && connection_->AtEof()) {
    v1::BrokerFrame frame;
    frame.mutable_eof();
    log.entries.push_back({out.end().offset, std::move(frame)});
    log.has_eof = true;
    out.AddMark();
  }
}

void BrokerChannel::WriteMark(Position at, FrameWriter* writer) {
  v1::BrokerFrame frame = connection_->read_marks().entries[at.marks].frame;
  if (frame.has_eof()) {
    frame.mutable_eof()->set_channel(number);
    *frame.mutable_eof()->mutable_at() = ToProto(at);
  } else {
    frame.mutable_tls_started()->set_channel(number);
    *frame.mutable_tls_started()->mutable_at() = ToProto(at);
  }
  writer->Add(frame);
}

bool BrokerChannel::WriteEnd(FrameWriter* writer) {
  if (end_ == nullptr || end_sent_) return false;
  if (!closing_ && !connection_->Exhausted()) return false;
  end_sent_ = true;
  v1::BrokerFrame frame;
  *frame.mutable_closed() = *end_;
  frame.mutable_closed()->set_channel(number);
  writer->Add(frame);
  // What the client has not taken must still be there if the link breaks now.
  if (out.taken() == out.end()) {
    LetGo();
    session_->Erase(number);
  }
  return true;
}

bool BrokerChannel::Apply(absl::Cord bytes) {
  const std::size_t size = bytes.size();
  if (end_ == nullptr && !closing_) {
    if (absl::Status status = connection_->Write(std::move(bytes)); !status.ok()) {
      session_->Fault(this, status);
      return false;
    }
  }
  applied_.offset += size;
  return true;
}

bool BrokerChannel::Apply(const v1::ClientFrame& mark) {
  if (mark.has_start_tls() && end_ == nullptr &&
      mark.start_tls().read_offset() > out.end().offset &&
      mark.start_tls().read_offset() <= out.edge()) {
    upgrade_at_ = mark.start_tls().read_offset();
    held_.emplace_front(absl::Cord(), mark);
    session_->mux_.Ready(this);
    session_->Notify();
    return true;
  }
  applied_.marks++;
  session_->mux_.AckLater(this);
  if (end_ != nullptr) return true;
  switch (mark.frame_case()) {
    case v1::ClientFrame::kEof:
      connection_->WriteEof();
      break;
    case v1::ClientFrame::kStartTls: {
      const uint64_t from = mark.start_tls().read_offset();
      if (from < out.taken().offset || from > out.end().offset) {
        session_->Fault(this, absl::OutOfRangeError(absl::StrCat(
                                  "StartTls.read_offset ", from, " is outside what is held, ",
                                  out.taken().offset, " to ", out.end().offset)));
        return false;
      }
      ReadMarkLog& log = connection_->read_marks();
      log.upgrading = true;
      log.void_from = from;
      log.void_to = out.end().offset;
      connection_->StartTls(mark.start_tls(), out.TakeBack(from));
      break;
    }
    case v1::ClientFrame::kClose:
      closing_ = true;
      connection_->Close();
      break;
    default:
      break;
  }
  return true;
}

bool BrokerChannel::ApplyHeld() {
  while (!held_.empty() && !holds()) {
    auto [bytes, mark] = std::move(held_.front());
    held_.pop_front();
    if (mark.has_detach()) {
      session_->OnDetach(number);
      return false;
    }
    const bool is_data = mark.frame_case() == v1::ClientFrame::FRAME_NOT_SET;
    if (!(is_data ? Apply(std::move(bytes)) : Apply(mark))) return false;
  }
  session_->mux_.AckLater(this);
  return true;
}

void BrokerChannel::LetGo() {
  if (connection_ == nullptr) return;
  const std::shared_ptr<BrokerConnection> connection = std::move(connection_);
  connection->Unbind(out.taken(), out.Kept(out.taken().offset), applied_);
}

}  // namespace sockbroker::session

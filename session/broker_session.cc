#include "session/broker_session.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "session/proto_values.h"

namespace sockbroker::session {
namespace {

constexpr std::size_t kHolderSize = 16;

void WritePing(uint64_t nonce, FrameWriter* writer) {
  v1::BrokerFrame frame;
  frame.mutable_ping()->set_nonce(nonce);
  writer->Add(frame);
}

}  // namespace

BrokerSession::BrokerSession(Options options, Host* host)
    : options_(std::move(options)), host_(host), mux_(&WritePing, options_.flight) {}

absl::Cord BrokerSession::NextBatch(absl::Time now) {
  absl::Cord batch = mux_.NextBatch(now);
  for (const uint32_t number : std::exchange(resume_, {})) {
    const auto found = channels_.find(number);
    if (found == channels_.end()) continue;
    found->second->upgrade_at_ = 0;
    found->second->ApplyHeld();
  }
  return batch;
}

void BrokerSession::Notify() {
  if (on_output_ && (mux_.HasOutput() || mux_.HasPendingAcks())) on_output_();
}

absl::Status BrokerSession::OnMessage(absl::Cord message, absl::Time now) {
  now_ = now;
  FrameReader<v1::ClientFrame> reader(std::move(message));
  while (reader.Next()) {
    if (DataFrame* data = reader.data()) {
      if (!greeted_) return absl::InvalidArgumentError("the first frame must be Hello");
      OnData(data);
    } else if (absl::Status status = OnFrame(&reader.frame()); !status.ok()) {
      return status;
    }
  }
  if (!reader.status().ok()) return reader.status();
  if (greeted_) mux_.PingIfDue(now);
  Notify();
  return absl::OkStatus();
}

void BrokerSession::RevokeUnused(uint64_t window, absl::Time now) {
  for (auto& [number, channel] : channels_) {
    if (channel->connection_ == nullptr ||
        !channel->in.HasUnusedWindow(window, now, mux_.round_trip())) {
      continue;
    }
    channel->Revoke(window);
  }
}

absl::Status BrokerSession::CheckNewNumber(uint32_t number) {
  if (number % 2 == 0) return absl::InvalidArgumentError("a client's channels have odd numbers");
  if (number <= highest_client_number_) {
    return absl::InvalidArgumentError(
        absl::StrCat("channel ", number, " was used already, or one above it"));
  }
  highest_client_number_ = number;
  return absl::OkStatus();
}

bool BrokerSession::Admit(uint32_t number) {
  if (room() > 0) return true;
  v1::ErrorDetail detail;
  detail.set_reason(v1::QUOTA);
  detail.set_retryable(true);
  detail.set_limit_name("channels");
  detail.set_limit_value(options_.max_channels);
  Failed(number,
         ToProto(absl::ResourceExhaustedError("the session has as many channels as it may have"),
                 detail));
  return false;
}

absl::Status BrokerSession::OnFrame(v1::ClientFrame* frame) {
  using Frame = v1::ClientFrame;
  if (frame->has_hello() == greeted_) {
    return absl::InvalidArgumentError(greeted_ ? "a second Hello"
                                               : "the first frame must be Hello");
  }
  switch (frame->frame_case()) {
    case Frame::kHello: {
      if (frame->hello().holder().size() != kHolderSize) {
        return absl::InvalidArgumentError("Hello.holder must have 16 bytes");
      }
      greeted_ = true;
      holder_ = frame->hello().holder();
      v1::BrokerFrame answer;
      v1::Welcome* welcome = answer.mutable_welcome();
      welcome->set_broker_id(options_.broker_id);
      welcome->set_incarnation(options_.incarnation);
      welcome->set_initial_window(options_.initial_window);
      welcome->set_max_channels(options_.max_channels);
      mux_.Control(answer);
      return absl::OkStatus();
    }
    case Frame::kOpen: {
      const uint32_t number = frame->open().channel();
      if (absl::Status status = CheckNewNumber(number); !status.ok()) return status;
      if (!Admit(number)) return absl::OkStatus();
      Add(number, {}, frame->open().edge(), {}, options_.initial_window)->opening_ = true;
      host_->Open(std::move(*frame->mutable_open()));
      return absl::OkStatus();
    }
    case Frame::kBind: {
      const uint32_t number = frame->bind().channel();
      if (absl::Status status = CheckNewNumber(number); !status.ok()) return status;
      if (!Admit(number)) return absl::OkStatus();
      Add(number, {}, frame->bind().edge(), {}, 0);
      host_->Bind(std::move(*frame->mutable_bind()), holder_);
      return absl::OkStatus();
    }
    case Frame::kListen: {
      const uint32_t number = frame->listen().channel();
      // Further credits for a channel that has ended crossed its end.
      const bool ended = number % 2 == 1 && number <= highest_client_number_ &&
                         !listening_.contains(number) && !channels_.contains(number);
      if (ended) return absl::OkStatus();
      if (!listening_.contains(number)) {
        if (absl::Status status = CheckNewNumber(number); !status.ok()) return status;
        if (!Admit(number)) return absl::OkStatus();
        listening_.insert(number);
      }
      host_->Listen(std::move(*frame->mutable_listen()));
      return absl::OkStatus();
    }
    case Frame::kAck:
      OnAck(frame->ack());
      return absl::OkStatus();
    case Frame::kEof:
      OnMark(frame->eof().channel(), frame->eof().at(), frame);
      return absl::OkStatus();
    case Frame::kStartTls:
      OnMark(frame->start_tls().channel(), frame->start_tls().at(), frame);
      return absl::OkStatus();
    case Frame::kClose:
      OnClose(frame);
      return absl::OkStatus();
    case Frame::kDetach:
      OnDetach(frame->detach().channel());
      return absl::OkStatus();
    case Frame::kRevoked:
      if (BrokerChannel* channel = Find(frame->revoked().channel())) {
        if (!channel->in.revoking()) return absl::OkStatus();
        channel->in.OnRevoked(frame->revoked().edge());
        channel->ShrinkGrant();
      }
      return absl::OkStatus();
    case Frame::kPing: {
      v1::BrokerFrame answer;
      answer.mutable_pong()->set_nonce(frame->ping().nonce());
      mux_.Control(answer);
      return absl::OkStatus();
    }
    case Frame::kPong:
      mux_.OnPong(frame->pong().nonce(), now_);
      return absl::OkStatus();
    default:
      if (frame->optional()) return absl::OkStatus();
      return absl::UnimplementedError("a frame that this broker doesn't know");
  }
}

BrokerChannel* BrokerSession::Add(uint32_t number, Position read, uint64_t edge, Position write,
                                  uint64_t window) {
  auto& channel = channels_[number];
  channel.reset(new BrokerChannel(this, number, read, edge, write, window));
  return channel.get();
}

void BrokerSession::Erase(uint32_t number) {
  const bool full = room() == 0;
  channels_.erase(number);
  listening_.erase(number);
  if (full && room() > 0) host_->OnRoom();
}

BrokerChannel* BrokerSession::Find(uint32_t number) {
  const auto found = channels_.find(number);
  if (found == channels_.end()) return nullptr;
  BrokerChannel* channel = found->second.get();
  if (std::exchange(channel->unclaimed_, false)) host_->Claimed(channel->connection_.get());
  return channel;
}

void BrokerSession::Fault(BrokerChannel* channel, const absl::Status& status) {
  channel->LetGo();
  v1::ErrorDetail detail;
  detail.set_reason(absl::IsOutOfRange(status) ? v1::OFFSET_OUT_OF_RANGE : v1::SESSION_FAULT);
  Failed(channel->number, ToProto(status, detail));
}

void BrokerSession::Failed(uint32_t number, google::rpc::Status status) {
  Erase(number);
  v1::BrokerFrame frame;
  frame.mutable_failed()->set_channel(number);
  *frame.mutable_failed()->mutable_status() = std::move(status);
  mux_.Control(frame);
  Notify();
}

void BrokerSession::Closed(uint32_t number, v1::Closed closed) {
  Erase(number);
  v1::BrokerFrame frame;
  *frame.mutable_closed() = std::move(closed);
  frame.mutable_closed()->set_channel(number);
  mux_.Control(frame);
  Notify();
}

// --- frames of a channel

void BrokerSession::OnData(DataFrame* data) {
  BrokerChannel* channel = Find(data->channel);
  if (channel == nullptr) return;
  if (channel->placeholder()) {
    Fault(channel, absl::InvalidArgumentError("data before Bound"));
    return;
  }
  absl::StatusOr<absl::Cord> fresh = channel->in.OnData(data->offset, std::move(data->bytes));
  if (!fresh.ok()) {
    Fault(channel, fresh.status());
    return;
  }
  if (fresh->empty()) return;
  if (channel->holds()) {
    channel->held_.emplace_back(*std::move(fresh), v1::ClientFrame());
  } else if (!channel->Apply(*std::move(fresh))) {
    return;
  }
  mux_.AckLater(channel);
}

void BrokerSession::OnAck(const v1::Ack& ack) {
  BrokerChannel* channel = Find(ack.channel());
  if (channel == nullptr || channel->placeholder()) return;
  if (absl::Status status = channel->out.OnAck(FromProto(ack.taken()), ack.edge()); !status.ok()) {
    Fault(channel, status);
    return;
  }
  if (channel->connection_ != nullptr) channel->connection_->OnTaken(channel->out.kept_bytes());
  if (channel->end_sent_) {
    if (channel->out.taken() != channel->out.end()) return;
    channel->LetGo();
    Erase(ack.channel());
    return;
  }
  mux_.Ready(channel);
}

void BrokerSession::OnMark(uint32_t number, const v1::Position& at, v1::ClientFrame* frame) {
  BrokerChannel* channel = Find(number);
  if (channel == nullptr) return;
  if (channel->placeholder()) {
    Fault(channel, absl::InvalidArgumentError("a mark before Bound"));
    return;
  }
  absl::StatusOr<bool> fresh = channel->in.OnMark(FromProto(at));
  if (!fresh.ok()) {
    Fault(channel, fresh.status());
    return;
  }
  if (!*fresh) return;
  if (channel->holds()) {
    channel->held_.emplace_back(absl::Cord(), std::move(*frame));
  } else {
    channel->Apply(*frame);
  }
}

void BrokerSession::OnClose(v1::ClientFrame* frame) {
  const uint32_t number = frame->close().channel();
  if (listening_.contains(number)) {
    host_->StopListening(number);
    Erase(number);
    return;
  }
  if (!frame->close().abort()) {
    OnMark(number, frame->close().at(), frame);
    return;
  }
  BrokerChannel* channel = Find(number);
  if (channel == nullptr) return;
  if (channel->connection_ == nullptr) {
    // The host finds no channel when the connection is there.
    Failed(number, ToProto(absl::CancelledError("aborted before it was there")));
    return;
  }
  channel->closing_ = true;
  channel->held_.clear();
  channel->connection_->Abort();
}

void BrokerSession::OnDetach(uint32_t number) {
  BrokerChannel* channel = Find(number);
  if (channel == nullptr) return;
  if (channel->holds() && !channel->placeholder()) {
    v1::ClientFrame frame;
    frame.mutable_detach()->set_channel(number);
    channel->held_.emplace_back(absl::Cord(), std::move(frame));
    return;
  }
  channel->LetGo();
  Erase(number);
  v1::BrokerFrame frame;
  frame.mutable_detached()->set_channel(number);
  mux_.Control(frame);
}

// --- the host's answers

BrokerChannel* BrokerSession::Opened(uint32_t number, Binding binding) {
  const auto found = channels_.find(number);
  if (found == channels_.end()) return nullptr;
  BrokerChannel* channel = found->second.get();
  channel->Connect(std::move(binding.connection));
  channel->opening_ = false;
  channel->in.set_window(binding.window);
  v1::BrokerFrame frame;
  v1::Opened* opened = frame.mutable_opened();
  opened->set_channel(number);
  *opened->mutable_connection() = std::move(binding.info);
  opened->set_epoch(binding.epoch);
  opened->set_edge(channel->in.edge());
  mux_.Control(frame);
  if (!channel->ApplyHeld()) return nullptr;
  // Of what was sent ahead; and the window may be another than was assumed.
  mux_.AckNow(channel);
  channel->OnReadable();
  return channel;
}

BrokerChannel* BrokerSession::Bound(uint32_t number, Binding binding) {
  const auto found = channels_.find(number);
  if (found == channels_.end()) return nullptr;
  if (!found->second->held_.empty()) {
    Fault(found->second.get(),
          absl::InvalidArgumentError("data with an Open whose request_id is an earlier one's"));
    return nullptr;
  }
  const uint64_t edge = found->second->out.edge();
  BrokerChannel* channel = Add(number, binding.read, edge, binding.write, binding.window);
  channel->Connect(std::move(binding.connection));
  v1::BrokerFrame frame;
  v1::Bound* bound = frame.mutable_bound();
  bound->set_channel(number);
  *bound->mutable_connection() = std::move(binding.info);
  bound->set_epoch(binding.epoch);
  *bound->mutable_read() = ToProto(binding.read);
  *bound->mutable_write() = ToProto(binding.write);
  bound->set_edge(channel->in.edge());
  bound->set_flushed(channel->Flushed());
  mux_.Control(frame);
  channel->OnReadable();
  return channel;
}

BrokerChannel* BrokerSession::Accepted(uint32_t listen_channel, Binding binding) {
  if (!listening_.contains(listen_channel) || room() == 0) return nullptr;
  const uint32_t number = next_own_number_;
  next_own_number_ += 2;
  // The client grants an edge when it claims the connection.
  BrokerChannel* channel = Add(number, binding.read, 0, binding.write, binding.window);
  channel->Connect(std::move(binding.connection));
  channel->unclaimed_ = true;
  v1::BrokerFrame frame;
  v1::Accepted* accepted = frame.mutable_accepted();
  accepted->set_channel(number);
  accepted->set_listen_channel(listen_channel);
  *accepted->mutable_connection() = std::move(binding.info);
  accepted->set_epoch(binding.epoch);
  accepted->set_edge(channel->in.edge());
  mux_.Control(frame);
  Notify();
  return channel;
}

void BrokerSession::GoAway(absl::Duration deadline) {
  v1::BrokerFrame frame;
  frame.mutable_go_away()->mutable_deadline()->set_seconds(absl::ToInt64Seconds(deadline));
  mux_.Control(frame);
  Notify();
}

void BrokerSession::OnLinkDown() {
  on_output_ = nullptr;
  // In the order of their numbers: what goes back to a server's queue keeps its place there.
  std::vector<uint32_t> numbers;
  numbers.reserve(channels_.size());
  for (const auto& [number, channel] : channels_) numbers.push_back(number);
  std::sort(numbers.begin(), numbers.end(), std::greater<>());
  for (const uint32_t number : numbers) channels_[number]->LetGo();
  channels_.clear();
  for (const uint32_t number : listening_) host_->StopListening(number);
  listening_.clear();
}

}  // namespace sockbroker::session

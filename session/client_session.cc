#include "session/client_session.h"

#include <algorithm>
#include <utility>

#include "session/proto_values.h"

namespace sockbroker::session {
namespace {

const std::string& RequestId(const v1::Open& open) {
  return open.has_tcp() ? open.tcp().request_id() : open.unix().request_id();
}

void WritePing(uint64_t nonce, FrameWriter* writer) {
  v1::ClientFrame frame;
  frame.mutable_ping()->set_nonce(nonce);
  writer->Add(frame);
}

}  // namespace

ClientSession::ClientSession(std::string holder, uint64_t window, uint64_t flight)
    : holder_(std::move(holder)), window_(window), mux_(&WritePing, flight) {}

void ClientSession::Notify() {
  if (up_ && on_output_ && (mux_.HasOutput() || mux_.HasPendingAcks())) on_output_();
}

ClientChannel* ClientSession::Add(ClientListener* listener) {
  std::unique_ptr<ClientChannel> channel(new ClientChannel(this, listener, window_));
  ClientChannel* raw = channel.get();
  raw->sequence_ = next_sequence_++;
  channels_[raw] = std::move(channel);
  return raw;
}

ClientChannel* ClientSession::Open(v1::OpenConnectionRequest request, ClientListener* listener) {
  ClientChannel* channel = Add(listener);
  *channel->open_.emplace().mutable_tcp() = std::move(request);
  if (welcome_) Ask(channel);
  return channel;
}

ClientChannel* ClientSession::Open(v1::OpenUnixConnectionRequest request,
                                   ClientListener* listener) {
  ClientChannel* channel = Add(listener);
  *channel->open_.emplace().mutable_unix() = std::move(request);
  if (welcome_) Ask(channel);
  return channel;
}

ClientChannel* ClientSession::Bind(std::string handle, bool steal, std::optional<Position> read,
                                   ClientListener* listener) {
  ClientChannel* channel = Add(listener);
  channel->handle_ = std::move(handle);
  v1::Bind& bind = channel->bind_.emplace();
  bind.set_steal(steal);
  if (read.has_value()) {
    *bind.mutable_read() = ToProto(*read);
    channel->in = ReceiveHalf(*read, window_);
  }
  if (welcome_) Ask(channel);
  return channel;
}

uint32_t ClientSession::Listen(std::string server, uint32_t credits, AcceptListener* listener) {
  const uint32_t id = next_listening_id_++;
  auto& listening = listening_[id];
  listening = std::make_unique<Listening>();
  listening->server = std::move(server);
  listening->credits = credits;
  listening->listener = listener;
  if (welcome_) Ask(listening.get());
  return id;
}

void ClientSession::AddCredits(uint32_t id, uint32_t credits) {
  const auto found = listening_.find(id);
  if (found == listening_.end() || credits == 0) return;
  Listening& listening = *found->second;
  listening.credits += credits;
  if (listening.number == 0) return;
  v1::ClientFrame frame;
  frame.mutable_listen()->set_channel(listening.number);
  frame.mutable_listen()->set_server(listening.server);
  frame.mutable_listen()->set_credits(credits);
  mux_.Control(frame);
  Notify();
}

void ClientSession::StopListening(uint32_t id) {
  const auto found = listening_.find(id);
  if (found == listening_.end()) return;
  if (const uint32_t number = found->second->number; number != 0) {
    listening_by_number_.erase(number);
    v1::ClientFrame frame;
    frame.mutable_close()->set_channel(number);
    mux_.Control(frame);
    Notify();
  }
  listening_.erase(found);
}

// --- the link

void ClientSession::OnLinkUp() {
  up_ = true;
  attempt_++;
  v1::ClientFrame frame;
  frame.mutable_hello()->set_holder(holder_);
  mux_.Control(frame);
  Notify();
}

void ClientSession::OnLinkDown() {
  up_ = welcome_ = going_away_ = false;
  next_number_ = 1;
  by_number_.clear();
  listening_by_number_.clear();
  // What was queued for the old stream means nothing on the next one.
  for (auto& [channel, owner] : channels_) {
    Mux::Forget(channel);
    channel->number = 0;
    channel->detach_sent_ = false;
    if (channel->state_ == ClientChannel::State::kBound) {
      channel->state_ = ClientChannel::State::kBroken;
    } else if (channel->state_ == ClientChannel::State::kWaiting && channel->handle_.empty()) {
      channel->asked_before_ = true;
    }
  }
  for (auto& [id, listening] : listening_) listening->number = 0;
  mux_.DropControl();
}

void ClientSession::OnWelcome(const v1::Welcome& welcome) {
  const bool other_broker = incarnation_ != 0 && incarnation_ != welcome.incarnation();
  incarnation_ = welcome.incarnation();
  initial_window_ = welcome.initial_window();
  welcome_ = true;
  std::vector<ClientChannel*> all;
  all.reserve(channels_.size());
  for (auto& [channel, owner] : channels_) all.push_back(channel);
  std::sort(all.begin(), all.end(),
            [](const auto* a, const auto* b) { return a->sequence_ < b->sequence_; });
  for (ClientChannel* channel : all) {
    // Listeners may have removed some meanwhile.
    if (!channels_.contains(channel)) continue;
    if (other_broker && channel->state_ != ClientChannel::State::kNew) {
      Lose(channel);
    } else {
      Ask(channel);
    }
  }
  for (auto& [id, listening] : listening_) Ask(listening.get());
}

void ClientSession::Ask(ClientChannel* channel) {
  if (channel->aborted_ && channel->handle_.empty()) {
    // It was given up before its answer came: asking again would only open another.
    const std::unique_ptr<ClientChannel> owner = Remove(channel);
    owner->listener_->OnFailed(ToProto(absl::CancelledError("aborted before the broker answered")));
    return;
  }
  if (channel->open_.has_value() && channel->handle_.empty() &&
      channel->state_ != ClientChannel::State::kNew && RequestId(*channel->open_).empty()) {
    const std::unique_ptr<ClientChannel> owner = Remove(channel);
    owner->listener_->OnFailed(ToProto(absl::UnavailableError(
        "the link broke before the answer, and the open has no request_id")));
    return;
  }
  channel->number = next_number_;
  next_number_ += 2;
  by_number_[channel->number] = channel;
  v1::ClientFrame frame;
  const uint64_t edge = channel->in.TakeAck(channel->in.consumed());
  if (channel->handle_.empty()) {
    *frame.mutable_open() = *channel->open_;
    frame.mutable_open()->set_channel(channel->number);
    frame.mutable_open()->set_edge(edge);
    // Of an Open that an earlier stream carried nobody knows how far it came: it waits for the
    // answer.
    if (channel->state_ == ClientChannel::State::kNew) {
      (void)channel->out.Rewind({}, initial_window_);
    } else {
      channel->asked_before_ = true;
    }
  } else {
    v1::Bind* bind = frame.mutable_bind();
    if (channel->bind_.has_value()) *bind = *channel->bind_;
    bind->set_channel(channel->number);
    bind->set_handle(channel->handle_);
    bind->set_attempt(attempt_);
    bind->set_edge(edge);
    // The first Bind of somebody who has nothing yet leaves `read` out.
    if (channel->epoch_ != 0) {
      bind->set_steal(false);
      bind->set_epoch(channel->epoch_);
      // Not what was received: until it is consumed it may have to be had again (by a process that
      // takes over), or may belong to a TLS handshake. What comes twice is dropped.
      *bind->mutable_read() = ToProto(channel->in.consumed());
    }
  }
  channel->state_ = ClientChannel::State::kWaiting;
  mux_.Control(frame);
  if (channel->MaySpeak()) mux_.Ready(channel);
  Notify();
}

void ClientSession::Ask(Listening* listening) {
  listening->number = next_number_;
  next_number_ += 2;
  listening_by_number_[listening->number] = listening;
  v1::ClientFrame frame;
  frame.mutable_listen()->set_channel(listening->number);
  frame.mutable_listen()->set_server(listening->server);
  frame.mutable_listen()->set_credits(listening->credits);
  mux_.Control(frame);
  Notify();
}

// --- frames

ClientChannel* ClientSession::Find(uint32_t number) {
  const auto found = by_number_.find(number);
  return found == by_number_.end() ? nullptr : found->second;
}

std::unique_ptr<ClientChannel> ClientSession::Remove(ClientChannel* channel) {
  Mux::Forget(channel);
  by_number_.erase(channel->number);
  channel->number = 0;
  const auto found = channels_.find(channel);
  std::unique_ptr<ClientChannel> owner = std::move(found->second);
  channels_.erase(found);
  return owner;
}

void ClientSession::Lose(ClientChannel* channel) {
  v1::Offsets last;
  last.set_read_offset(channel->in.received().offset);
  last.set_read_kept(channel->in.consumed().offset);
  last.set_write_offset(channel->out.taken().offset);
  last.set_flushed(channel->flushed_);
  const std::unique_ptr<ClientChannel> owner = Remove(channel);
  owner->listener_->OnLost(last);
}

void ClientSession::Fault(ClientChannel* channel, const absl::Status& status) {
  v1::ClientFrame frame;
  frame.mutable_detach()->set_channel(channel->number);
  mux_.Control(frame);
  const std::unique_ptr<ClientChannel> owner = Remove(channel);
  owner->listener_->OnFailed(ToProto(status));
}

absl::Status ClientSession::OnMessage(absl::Cord message, absl::Time now) {
  now_ = now;
  FrameReader<v1::BrokerFrame> reader(std::move(message));
  while (reader.Next()) {
    if (DataFrame* data = reader.data()) {
      OnData(data);
    } else if (absl::Status status = OnFrame(&reader.frame()); !status.ok()) {
      return status;
    }
  }
  if (!reader.status().ok()) return reader.status();
  if (welcome_) mux_.PingIfDue(now);
  Notify();
  return absl::OkStatus();
}

void ClientSession::OnData(DataFrame* data) {
  ClientChannel* channel = Find(data->channel);
  if (channel == nullptr || channel->discard_from_.has_value()) return;
  absl::StatusOr<absl::Cord> fresh = channel->in.OnData(data->offset, std::move(data->bytes));
  if (!fresh.ok()) {
    return Fault(channel, fresh.status());
  }
  if (channel->detaching_) mux_.Ready(channel);
  if (fresh->empty()) {
    // It was consumed before it came on this binding, and can be acked only now.
    mux_.AckLater(channel);
  } else {
    channel->listener_->OnData(*std::move(fresh));
  }
}

void ClientSession::OnMark(uint32_t number, const v1::Position& at, const v1::BrokerFrame& frame) {
  ClientChannel* channel = Find(number);
  if (channel == nullptr) return;
  absl::StatusOr<bool> fresh = frame.has_tls_started() ? channel->in.OnJump(FromProto(at))
                                                       : channel->in.OnMark(FromProto(at));
  if (!fresh.ok()) {
    Fault(channel, fresh.status());
    return;
  }
  if (!*fresh) return;
  mux_.AckLater(channel);
  if (frame.has_tls_started()) {
    channel->discard_from_.reset();
    channel->listener_->OnTlsStarted(frame.tls_started().tls());
  } else {
    channel->listener_->OnEof();
  }
}

void ClientSession::OnBound(const v1::Bound& bound) {
  ClientChannel* channel = Find(bound.channel());
  if (channel == nullptr) return;
  const bool first = channel->epoch_ == 0;
  if (first && !channel->asked_before_) {
    // A connection that others have used before: it is taken where it stands.
    channel->in = ReceiveHalf(FromProto(bound.read()), channel->in.window());
    SendHalf mine(FromProto(bound.write()), bound.edge());
    // What the application wrote before the answer comes behind what others wrote.
    mine.Append(channel->out.Kept(channel->out.taken().offset));
    const uint32_t shift = bound.write().marks();
    for (auto& mark : channel->marks_) mark.first += shift;
    for (std::size_t i = 0; i < channel->marks_.size(); ++i) mine.AddMark();
    channel->out = std::move(mine);
  } else if (absl::Status status = channel->out.Rewind(FromProto(bound.write()), bound.edge());
             !status.ok()) {
    Fault(channel, status);
    return;
  }
  while (!channel->marks_.empty() && channel->marks_.front().first < bound.write().marks()) {
    channel->marks_.pop_front();
  }
  channel->in.Restart(FromProto(bound.read()));
  channel->state_ = ClientChannel::State::kBound;
  channel->epoch_ = bound.epoch();
  channel->handle_ = bound.connection().handle();
  channel->flushed_ = std::max(channel->flushed_, bound.flushed());
  mux_.Ready(channel);
  // An edge counted from where the broker stands.
  mux_.AckNow(channel);
  if (channel->aborted_) channel->SayAbort();
  channel->listener_->OnBound(bound.connection(), bound.epoch());
}

void ClientSession::OnAccepted(const v1::Accepted& accepted) {
  const auto found = listening_by_number_.find(accepted.listen_channel());
  if (found == listening_by_number_.end()) return;  // unclaimed, it goes back
  Listening* listening = found->second;
  if (listening->credits > 0) listening->credits--;
  ClientChannel* channel = Add(nullptr);
  channel->number = accepted.channel();
  by_number_[channel->number] = channel;
  channel->state_ = ClientChannel::State::kBound;
  channel->handle_ = accepted.connection().handle();
  channel->epoch_ = accepted.epoch();
  (void)channel->out.Rewind({}, accepted.edge());
  // The claim.
  mux_.AckNow(channel);
  channel->listener_ = listening->listener->OnAccepted(channel, accepted.connection());
}

absl::Status ClientSession::OnFrame(v1::BrokerFrame* frame) {
  using Frame = v1::BrokerFrame;
  switch (frame->frame_case()) {
    case Frame::kWelcome:
      OnWelcome(frame->welcome());
      break;
    case Frame::kOpened:
      if (ClientChannel* channel = Find(frame->opened().channel())) {
        channel->state_ = ClientChannel::State::kBound;
        channel->epoch_ = frame->opened().epoch();
        channel->handle_ = frame->opened().connection().handle();
        // Opened to an Open that was repeated: the first one never arrived, nor what followed it.
        (void)(channel->asked_before_
                   ? channel->out.Rewind({}, frame->opened().edge())
                   : channel->out.OnAck(channel->out.taken(), frame->opened().edge()));
        // The handle says all that is needed from now on.
        channel->open_.reset();
        mux_.Ready(channel);
        if (channel->aborted_) channel->SayAbort();
        channel->listener_->OnBound(frame->opened().connection(), channel->epoch_);
      }
      break;
    case Frame::kBound:
      OnBound(frame->bound());
      break;
    case Frame::kAccepted:
      OnAccepted(frame->accepted());
      break;
    case Frame::kAck:
      if (ClientChannel* channel = Find(frame->ack().channel())) {
        const Position taken = FromProto(frame->ack().taken());
        if (absl::Status status = channel->out.OnAck(taken, frame->ack().edge()); !status.ok()) {
          Fault(channel, status);
          break;
        }
        while (!channel->marks_.empty() && channel->marks_.front().first < taken.marks) {
          channel->marks_.pop_front();
        }
        channel->flushed_ = std::max(channel->flushed_, frame->ack().flushed());
        mux_.Ready(channel);
        channel->listener_->OnProgress();
      }
      break;
    case Frame::kEof:
      OnMark(frame->eof().channel(), frame->eof().at(), *frame);
      break;
    case Frame::kTlsStarted:
      OnMark(frame->tls_started().channel(), frame->tls_started().at(), *frame);
      break;
    case Frame::kRevoke:
      if (ClientChannel* channel = Find(frame->revoke().channel())) {
        v1::ClientFrame answer;
        answer.mutable_revoked()->set_channel(channel->number);
        answer.mutable_revoked()->set_edge(channel->out.LowerEdge(frame->revoke().edge()));
        mux_.Control(answer);
      }
      break;
    case Frame::kWriteClosed:
      if (ClientChannel* channel = Find(frame->write_closed().channel())) {
        channel->flushed_ = std::max(channel->flushed_, frame->write_closed().flushed());
        channel->listener_->OnWriteClosed(frame->write_closed().status());
      }
      break;
    case Frame::kClosed:
      if (ClientChannel* channel = Find(frame->closed().channel())) {
        channel->closed_ = frame->closed();
        if (channel->in.waiting() > 0) channel->listener_->OnEnding(frame->closed());
        if (Find(frame->closed().channel()) == channel) channel->FinishIfConsumed();
      }
      break;
    case Frame::kFailed:
      if (ClientChannel* channel = Find(frame->failed().channel())) {
        const std::unique_ptr<ClientChannel> owner = Remove(channel);
        owner->listener_->OnFailed(frame->failed().status());
      } else if (const auto found = listening_by_number_.find(frame->failed().channel());
                 found != listening_by_number_.end()) {
        Listening* failed = found->second;
        AcceptListener* listener = failed->listener;
        listening_by_number_.erase(found);
        std::erase_if(listening_, [&](const auto& entry) { return entry.second.get() == failed; });
        listener->OnFailed(frame->failed().status());
      }
      break;
    case Frame::kDetached:
      if (ClientChannel* channel = Find(frame->detached().channel())) {
        const std::unique_ptr<ClientChannel> owner = Remove(channel);
        owner->listener_->OnDetached();
      }
      break;
    case Frame::kFenced:
      if (ClientChannel* channel = Find(frame->fenced().channel())) {
        const std::unique_ptr<ClientChannel> owner = Remove(channel);
        owner->listener_->OnFenced(frame->fenced().epoch());
      }
      break;
    case Frame::kGoAway:
      going_away_ = true;
      break;
    case Frame::kPing: {
      v1::ClientFrame answer;
      answer.mutable_pong()->set_nonce(frame->ping().nonce());
      mux_.Control(answer);
      break;
    }
    case Frame::kPong:
      mux_.OnPong(frame->pong().nonce(), now_);
      break;
    default:
      if (frame->optional()) break;
      return absl::UnimplementedError("a frame that this client doesn't know");
  }
  return absl::OkStatus();
}

}  // namespace sockbroker::session

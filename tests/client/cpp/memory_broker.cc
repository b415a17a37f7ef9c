#include "tests/client/cpp/memory_broker.h"

#include <algorithm>
#include <deque>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "streams/event_loop.h"

namespace sockbroker::client {

using session::BrokerSession;

// --- MemoryPeer

void MemoryPeer::NotifyReadable() {
  if (channel_ != nullptr && !in_handshake_) channel_->OnReadable();
}

void MemoryPeer::Send(const std::string& bytes) {
  if (in_handshake_) {
    handshake_ += bytes;
    return;
  }
  incoming_.Append(bytes);
  NotifyReadable();
}

void MemoryPeer::SendEof() {
  eof_ = true;
  NotifyReadable();
}

void MemoryPeer::End(google::rpc::Status status, v1::Reason reason) {
  if (std::exchange(closed_, true)) return;
  v1::Closed closed;
  *closed.mutable_status() = std::move(status);
  closed.set_reason(reason);
  closed.mutable_offsets()->set_flushed(flushed_);
  if (channel_ != nullptr) channel_->OnGone(std::move(closed));
}

void MemoryPeer::TakeNoMore() {
  google::rpc::Status status;
  status.set_code(9);
  status.set_message("Broken pipe");
  if (channel_ != nullptr) channel_->OnWriteClosed(status);
}

void MemoryPeer::Hold(bool held) {
  held_ = held;
  Flush();
}

void MemoryPeer::FinishTls(const std::string& version) {
  in_handshake_ = false;
  v1::TlsInfo info;
  info.set_version(version);
  marks_.EndUpgrade(info);
  if (channel_ != nullptr) channel_->OnTlsStarted();
}

absl::Cord MemoryPeer::Read(std::size_t max, std::size_t /*retained*/) {
  absl::Cord bytes = incoming_.Subcord(0, std::min(max, incoming_.size()));
  incoming_.RemovePrefix(bytes.size());
  read_.offset += bytes.size();
  return bytes;
}

absl::Status MemoryPeer::Write(absl::Cord bytes) {
  kernel_.Append(std::move(bytes));
  Flush();
  return absl::OkStatus();
}

void MemoryPeer::Flush() {
  if (held_) return;
  received_ += std::string(kernel_);
  flushed_ += kernel_.size();
  kernel_.Clear();
  if (write_eof_) saw_eof_ = true;
  if (channel_ != nullptr) channel_->OnFlushed();
  if (close_asked_) End();
}

void MemoryPeer::WriteEof() {
  write_eof_ = true;
  Flush();
}

void MemoryPeer::StartTls(const v1::SessionStartTls&, absl::Cord taken_back) {
  in_handshake_ = true;
  handshake_ = std::string(taken_back) + std::string(incoming_);
  incoming_.Clear();
}

void MemoryPeer::Close() {
  close_asked_ = true;
  Flush();
}

void MemoryPeer::Abort() {
  aborted_ = true;
  End({}, v1::ABORTED_BY_CLIENT);
}

void MemoryPeer::Unbind(session::Position read, absl::Cord unread, session::Position write) {
  unread.Append(std::move(incoming_));
  incoming_ = std::move(unread);
  read_ = read;
  write_ = write;
  channel_ = nullptr;
}

// --- a session

class MemoryBroker::Host final : public BrokerSession::Host {
 public:
  Host(MemoryBroker* broker, Call* call) : broker_(broker), call_(call) {}
  void Open(v1::Open request) override;
  void Bind(v1::Bind request, const std::string& holder) override;
  void Listen(v1::Listen request) override {
    listening[request.channel()] = request.server();
    credits[request.channel()] += request.credits();
    broker_->Accept();
  }
  void StopListening(uint32_t channel) override { listening.erase(channel); }
  void Claimed(session::BrokerConnection*) override {}
  uint64_t GrowWindow(session::BrokerConnection*, uint64_t window) override {
    return std::min<uint64_t>(2 * window, 1 << 20);
  }
  void ShrinkWindow(session::BrokerConnection*, uint64_t) override {}
  void OnRoom() override {}

  std::map<uint32_t, std::string> listening;
  std::map<uint32_t, uint32_t> credits;

 private:
  MemoryBroker* const broker_;
  Call* const call_;
};

// Messages pass in later turns of the loop, one write at a time, as with gRPC.
class MemoryBroker::Call final : public internal::SessionCall {
 public:
  Call(MemoryBroker* broker, Listener* listener)
      : host(broker, this),
        session(SessionOptions(broker), &host),
        broker_(broker),
        listener_(listener),
        loop_(streams::GetRunningLoop()) {
    broker_->calls_.push_back(this);
    session.set_on_output([this] { PumpLater(); });
  }
  ~Call() override {
    *alive_ = false;
    if (broker_ != nullptr) std::erase(broker_->calls_, this);
    if (!down_) session.OnLinkDown();
  }

  void Write(absl::Cord message) override {
    EXPECT_FALSE(std::exchange(writing_, true)) << "two writes at a time";
    Later([this, message = std::move(message)]() mutable {
      if (frozen()) return;
      writing_ = false;
      broker_->messages_++;
      if (!down_) {
        const absl::Status status = session.OnMessage(std::move(message), loop_->Now());
        if (!status.ok()) return End(status);
        PumpLater();
      }
      listener_->OnWritten();
    });
  }

  void SayNothingReadable() {
    Later([this] {
      if (!down_) listener_->OnMessage(absl::Cord("\xff"));
    });
  }

  bool frozen() const { return broker_ == nullptr || broker_->frozen_; }

  void End(absl::Status status) {
    if (std::exchange(down_, true)) return;
    session.OnLinkDown();
    Later([this, status = std::move(status)] { listener_->OnEnded(status); });
  }

  Host host;
  BrokerSession session;

 private:
  friend class MemoryBroker;
  static BrokerSession::Options SessionOptions(MemoryBroker* broker) {
    BrokerSession::Options options;
    options.incarnation = broker->incarnation_;
    return options;
  }
  template <typename F>
  void Later(F f) {
    loop_->CallSoon([alive = alive_, f = std::move(f)]() mutable {
      if (*alive) f();
    });
  }
  void PumpLater() {
    if (std::exchange(pumping_, true)) return;
    Later([this] {
      pumping_ = false;
      if (down_ || frozen()) return;
      session.AckPending();
      if (!session.HasOutput()) return;
      absl::Cord message = session.NextBatch(loop_->Now());
      if (session.HasOutput()) PumpLater();
      if (!message.empty()) listener_->OnMessage(std::move(message));
    });
  }

  MemoryBroker* broker_;
  Listener* const listener_;
  streams::EventLoop* const loop_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  bool writing_ = false;
  bool pumping_ = false;
  bool down_ = false;
};

void MemoryBroker::Host::Open(v1::Open request) {
  const auto answer = [this, request] {
    const std::string id =
        request.has_tcp() ? request.tcp().request_id() : request.unix().request_id();
    for (const auto& peer : broker_->peers_) {
      if (peer->request_id_ != id) continue;
      v1::Bind bind;
      return broker_->Bind(call_, request.channel(), peer, bind);
    }
    if (request.tcp().port() == kUnreadable) return call_->SayNothingReadable();
    if (request.tcp().port() == 9) {
      google::rpc::Status refused;
      refused.set_code(9);
      refused.set_message("Connection refused");
      v1::ErrorDetail detail;
      detail.set_reason(v1::CONNECTION_REFUSED);
      detail.set_os_errno(111);
      refused.add_details()->PackFrom(detail);
      return call_->session.Failed(request.channel(), refused);
    }
    auto peer = std::make_shared<MemoryPeer>(
        absl::StrCat("handle", broker_->peers_.size(), ".", broker_->incarnation_));
    peer->request_id_ = id;
    peer->holder_ = call_->session.holder();
    peer->epoch_ = 1;
    broker_->peers_.push_back(peer);
    BrokerSession::Binding binding;
    binding.connection = peer;
    binding.info.set_handle(peer->handle_);
    binding.info.mutable_peer()->mutable_tcp()->set_host("192.0.2.1");
    binding.info.mutable_peer()->mutable_tcp()->set_port(request.tcp().port());
    binding.epoch = 1;
    peer->channel_ = call_->session.Opened(request.channel(), std::move(binding));
    if (peer->channel_ == nullptr) peer->aborted_ = true;
  };
  if (broker_->hold_opens_) {
    broker_->held_opens_.emplace_back(answer);
  } else {
    answer();
  }
}

void MemoryBroker::Host::Bind(v1::Bind request, const std::string& holder) {
  google::rpc::Status status;
  const auto found =
      std::find_if(broker_->peers_.begin(), broker_->peers_.end(),
                   [&](const auto& peer) { return peer->handle_ == request.handle(); });
  if (found == broker_->peers_.end()) {
    status.set_code(5);
    status.set_message("no such handle");
    return call_->session.Failed(request.channel(), status);
  }
  const std::shared_ptr<MemoryPeer>& peer = *found;
  if (peer->holder_ != holder && request.epoch() != 0) {
    status.set_code(10);
    status.set_message("stale");
    return call_->session.Failed(request.channel(), status);
  }
  if (peer->channel_ != nullptr && peer->holder_ != holder && !request.steal()) {
    status.set_code(9);
    status.set_message("bound");
    v1::ErrorDetail detail;
    detail.set_reason(v1::BOUND);
    status.add_details()->PackFrom(detail);
    return call_->session.Failed(request.channel(), status);
  }
  if (peer->closed_ && peer->incoming_.empty()) {
    v1::Closed closed;
    closed.set_reason(v1::CLOSED_BY_CLIENT);
    closed.mutable_offsets()->set_received(peer->read_.offset);
    return call_->session.Closed(request.channel(), closed);
  }
  peer->holder_ = holder;
  broker_->Bind(call_, request.channel(), peer, request);
}

void MemoryBroker::Bind(Call* call, uint32_t channel, const std::shared_ptr<MemoryPeer>& peer,
                        const v1::Bind& request) {
  peer->epoch_++;
  if (peer->channel_ != nullptr) peer->channel_->Fence(peer->epoch_);
  if (request.has_read()) {
    uint64_t wanted = request.read().offset();
    if (wanted >= peer->marks_.void_from && wanted < peer->marks_.void_to) {
      wanted = peer->marks_.void_to;
    }
    EXPECT_GE(wanted, peer->read_.offset);
    (void)peer->Read(wanted - peer->read_.offset, 0);
    peer->read_.marks = std::max(peer->read_.marks, request.read().marks());
  }
  BrokerSession::Binding binding;
  binding.connection = peer;
  binding.info.set_handle(peer->handle_);
  binding.epoch = peer->epoch_;
  binding.read = peer->read_;
  binding.write = peer->write_;
  peer->channel_ = call->session.Bound(channel, std::move(binding));
  if (peer->closed_ && peer->channel_ != nullptr) peer->channel_->OnGone({});
}

// --- MemoryBroker

MemoryBroker::MemoryBroker() = default;
MemoryBroker::~MemoryBroker() {
  for (Call* call : calls_) call->broker_ = nullptr;
}

streams::Task<absl::StatusOr<Broker>> MemoryBroker::Connect(BrokerOptions options) {
  streams::EventLoop* loop = streams::GetRunningLoop();
  auto link =
      internal::Link::Create(loop, std::move(options), std::make_shared<internal::LoopGate>(loop));
  internal::LinkTransport transport;
  transport.dial = [this](internal::SessionCall::Listener* listener) { return Dial(listener); };
  link->Start(std::move(transport));
  if (absl::Status status = co_await internal::Link::WaitUp(link); !status.ok()) co_return status;
  co_return internal::MakeBroker(std::move(link));
}

std::unique_ptr<internal::SessionCall> MemoryBroker::Dial(
    internal::SessionCall::Listener* listener) {
  dials_++;
  auto call = std::make_unique<Call>(this, listener);
  if (refuse_ > 0) {
    refuse_--;
    call->End(refusal_);
  }
  return call;
}

void MemoryBroker::RefuseDials(int times, absl::Status status) {
  refuse_ = times;
  refusal_ = std::move(status);
}

void MemoryBroker::Cut(absl::Status status) {
  for (Call* call : std::vector<Call*>(calls_)) call->End(status);
}

void MemoryBroker::Restart() {
  Cut();
  incarnation_++;
  peers_.clear();
}

void MemoryBroker::GoAway() {
  for (Call* call : calls_) call->session.GoAway(absl::Seconds(8));
}

void MemoryBroker::HoldOpens(bool held) {
  hold_opens_ = held;
  if (held) return;
  for (const auto& open : std::exchange(held_opens_, {})) open();
}

void MemoryBroker::ConnectTo(const std::string& server) {
  backlog_[server].push_back(std::make_shared<MemoryPeer>(absl::StrCat("accepted", peers_.size())));
  peers_.push_back(backlog_[server].back());
  Accept();
}

void MemoryBroker::Accept() {
  for (Call* call : calls_) {
    for (auto& [channel, server] : call->host.listening) {
      auto& waiting = backlog_[server];
      while (!waiting.empty() && call->host.credits[channel] > 0) {
        const std::shared_ptr<MemoryPeer> peer = waiting.front();
        waiting.erase(waiting.begin());
        call->host.credits[channel]--;
        peer->holder_ = call->session.holder();
        peer->epoch_ = 1;
        BrokerSession::Binding binding;
        binding.connection = peer;
        binding.info.set_handle(peer->handle_);
        binding.epoch = 1;
        peer->channel_ = call->session.Accepted(channel, std::move(binding));
      }
    }
  }
}

std::size_t MemoryBroker::channels() const {
  std::size_t all = 0;
  for (const Call* call : calls_) all += call->session.channels();
  return all;
}

std::size_t MemoryBroker::listeners() const {
  std::size_t all = 0;
  for (const Call* call : calls_) all += call->host.listening.size();
  return all;
}

}  // namespace sockbroker::client

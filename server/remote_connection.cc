#include "server/remote_connection.h"

#include <utility>

namespace sockbroker::server {

using session::Position;
using session::ReadMarkLog;

namespace {

constexpr std::size_t kTellTaken = 64 * 1024;

}  // namespace

// The connection's side.
class RemoteConnection::Agent final : public session::ConnectionListener,
                                      public std::enable_shared_from_this<Agent> {
 public:
  Agent(std::shared_ptr<SessionConnection> connection, streams::EventLoop* loop,
        streams::EventLoop* home)
      : loop_(loop), home_(home), connection_(std::move(connection)) {}

  void Begin(std::weak_ptr<RemoteConnection> front) {
    front_ = std::move(front);
    self_ = shared_from_this();
    connection_->OnBinding(this);
  }
  streams::EventLoop* loop() const { return loop_; }
  SessionConnection* connection() const { return connection_.get(); }

  // `arrived`: what the session has of the bytes that were sent to it; of these and earlier ones it
  // retains so many.
  void Allow(std::size_t max, uint64_t arrived, std::size_t retained) {
    Forget(arrived);
    retained_ = retained;
    credit_ = max;
    OnReadable();
  }
  void StartTls(const v1::SessionStartTls& request, const ReadMarkLog& marks, absl::Cord taken_back,
                uint64_t arrived) {
    Forget(arrived);
    taken_back.Append(std::exchange(under_way_, absl::Cord()));
    forgotten_ = 0;
    credit_ = 0;
    upgrades_++;
    connection_->read_marks() = marks;
    connection_->StartTls(request, std::move(taken_back));
  }
  void Unbind(Position read, absl::Cord unread, Position write, ReadMarkLog marks,
              uint64_t arrived) {
    Forget(arrived);
    unread.Append(std::exchange(under_way_, absl::Cord()));
    // The upgrade may have ended while the session had not heard of it.
    ReadMarkLog& log = connection_->read_marks();
    if (marks.upgrading && !log.upgrading) {
      marks.upgrading = false;
      if (log.entries.size() > marks.entries.size()) marks.entries.push_back(log.entries.back());
    }
    log = std::move(marks);
    connection_->Unbind(read, std::move(unread), write);
    const std::shared_ptr<Agent> self = std::move(self_);
  }

  void OnTaken(uint64_t arrived, std::size_t retained) {
    Forget(arrived);
    retained_ = retained;
    connection_->OnTaken(retained_ + under_way_.size());
    // What was retained may be what held back the read that is allowed.
    if (credit_ > 0) OnReadable();
  }

  // --- session::ConnectionListener
  void OnReadable() override {
    absl::Cord bytes;
    while (credit_ > 0) {
      absl::Cord some = connection_->Read(credit_, retained_ + under_way_.size());
      if (some.empty()) break;
      credit_ -= some.size();
      bytes.Append(std::move(some));
    }
    if (credit_ == 0) (void)connection_->Read(0, retained_ + under_way_.size());
    under_way_.Append(bytes);
    const bool eof = connection_->AtEof();
    const bool exhausted = connection_->Exhausted();
    if (bytes.empty() && eof == eof_ && exhausted == exhausted_) return;
    eof_ = eof;
    exhausted_ = exhausted;
    Tell([bytes = std::move(bytes), upgrades = upgrades_, eof,
          exhausted](RemoteConnection* front) mutable {
      front->OnBytes(std::move(bytes), upgrades, eof, exhausted);
    });
  }
  void OnFlushed() override {
    Tell([flushed = connection_->Flushed()](RemoteConnection* front) {
      front->flushed_ = flushed;
      if (front->listener_ != nullptr) front->listener_->OnFlushed();
    });
  }
  void OnTlsStarted() override {
    Tell([mark = connection_->read_marks().entries.back()](RemoteConnection* front) {
      front->marks_.entries.push_back(mark);
      front->marks_.upgrading = false;
      if (front->listener_ != nullptr) front->listener_->OnTlsStarted();
    });
  }
  void OnWriteClosed(google::rpc::Status status) override {
    Tell([status = std::move(status)](RemoteConnection* front) {
      if (front->listener_ != nullptr) front->listener_->OnWriteClosed(status);
    });
  }
  void OnGone(v1::Closed closed) override {
    OnReadable();
    Tell([closed = std::move(closed)](RemoteConnection* front) {
      if (front->listener_ != nullptr) front->listener_->OnGone(closed);
    });
  }
  void Fence(uint64_t new_epoch) override {
    Tell([new_epoch](RemoteConnection* front) {
      if (front->listener_ != nullptr) front->listener_->Fence(new_epoch);
    });
  }

 private:
  template <typename Function>
  void Tell(Function function) {
    home_->Post([weak = front_, function = std::move(function)]() mutable {
      if (const auto front = weak.lock()) function(front.get());
    });
  }
  void Forget(uint64_t arrived) {
    under_way_.RemovePrefix(static_cast<std::size_t>(arrived - forgotten_));
    forgotten_ = arrived;
  }

  streams::EventLoop* const loop_;
  streams::EventLoop* const home_;
  const std::shared_ptr<SessionConnection> connection_;
  std::weak_ptr<RemoteConnection> front_;
  std::shared_ptr<Agent> self_;  // until Unbind
  std::size_t credit_ = 0;
  std::size_t retained_ = 0;
  absl::Cord under_way_;  // sent to the session, which has not said that it arrived
  uint64_t forgotten_ = 0;
  uint64_t upgrades_ = 0;
  bool eof_ = false;
  bool exhausted_ = false;
};

void RemoteConnection::Wrap(std::shared_ptr<SessionConnection> connection, streams::EventLoop* home,
                            session::BrokerSession::Binding* binding) {
  std::shared_ptr<RemoteConnection> front(new RemoteConnection);
  front->marks_ = connection->read_marks();
  front->flushed_ = connection->Flushed();
  front->window() = std::move(connection->window());
  front->agent_ = std::make_shared<Agent>(std::move(connection), streams::GetRunningLoop(), home);
  front->agent_->Begin(front);
  binding->connection = std::move(front);
}

template <typename Function>
void RemoteConnection::Tell(Function function) {
  agent_->loop()->Post(
      [agent = agent_, function = std::move(function)]() mutable { function(agent.get()); });
}

void RemoteConnection::OnBytes(absl::Cord bytes, uint64_t upgrades, bool eof, bool exhausted) {
  eof_ = eof;
  exhausted_ = exhausted;
  if (upgrades == upgrades_) {
    arrived_ += bytes.size();
    allowed_ -= bytes.size();
    received_.Append(std::move(bytes));
  }
  if (listener_ != nullptr) listener_->OnReadable();
}

absl::Cord RemoteConnection::Read(std::size_t max, std::size_t retained) {
  if (max == 0) return absl::Cord();
  if (received_.empty()) {
    if (allowed_ == 0) {
      allowed_ = max;
      told_retained_ = retained;
      Tell([max, arrived = arrived_, retained](Agent* agent) {
        agent->Allow(max, arrived, retained);
      });
    }
    return absl::Cord();
  }
  if (received_.size() <= max) return std::exchange(received_, absl::Cord());
  absl::Cord some = received_.Subcord(0, max);
  received_.RemovePrefix(max);
  return some;
}

void RemoteConnection::OnTaken(std::size_t retained) {
  // Every post costs a wake-up: only what matters is told.
  if (retained + kTellTaken > told_retained_ && retained > 0) return;
  told_retained_ = retained;
  Tell([arrived = arrived_, retained](Agent* agent) { agent->OnTaken(arrived, retained); });
}

absl::Status RemoteConnection::Write(absl::Cord bytes) {
  if (write_ended_) {
    return absl::FailedPreconditionError("Cannot call write() after write_eof()");
  }
  Tell([bytes = std::move(bytes)](Agent* agent) mutable {
    (void)agent->connection()->Write(std::move(bytes));
  });
  return absl::OkStatus();
}

void RemoteConnection::WriteEof() {
  write_ended_ = true;
  Tell([](Agent* agent) { agent->connection()->WriteEof(); });
}

void RemoteConnection::StartTls(const v1::SessionStartTls& request, absl::Cord taken_back) {
  taken_back.Append(std::exchange(received_, absl::Cord()));
  Tell([request, marks = marks_, taken_back = std::move(taken_back),
        arrived = arrived_](Agent* agent) mutable {
    agent->StartTls(request, marks, std::move(taken_back), arrived);
  });
  arrived_ = 0;
  allowed_ = 0;
  upgrades_++;
}

void RemoteConnection::Claim() {
  Tell([](Agent* agent) { agent->connection()->Claim(); });
}

void RemoteConnection::Close() {
  Tell([](Agent* agent) { agent->connection()->Close(); });
}

void RemoteConnection::Abort() {
  Tell([](Agent* agent) { agent->connection()->Abort(); });
}

void RemoteConnection::Unbind(Position read, absl::Cord unread, Position write) {
  unbound_ = true;
  window() = MemoryGrant();
  listener_ = nullptr;
  unread.Append(std::exchange(received_, absl::Cord()));
  Tell([read, unread = std::move(unread), write, marks = std::move(marks_),
        arrived = arrived_](Agent* agent) mutable {
    agent->Unbind(read, std::move(unread), write, std::move(marks), arrived);
  });
}

}  // namespace sockbroker::server

// Link: the way to one broker: a session and the stream it runs on at the moment, made again when
// it breaks. Everything that hangs on the broker (channels, servers, Broker itself) keeps it alive.
//
//   auto link = Link::Create(loop, options, dial);
//   absl::Status status = co_await Link::WaitUp(link);
//   link->session()->Open(...);          // at any time: what is asked while the link is down waits
//   link->Close(absl::CancelledError("..."));
//
// The loop's thread only.
#pragma once

#include <grpcpp/channel.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "client/cpp/internal/backoff.h"
#include "client/cpp/internal/loop_gate.h"
#include "client/cpp/internal/session_call.h"
#include "client/cpp/options.h"
#include "session/client_session.h"
#include "sockbroker/v1/sockbroker.grpc.pb.h"
#include "streams/event_loop.h"
#include "streams/task.h"
#include "streams/wait_queue.h"

namespace sockbroker::client::internal {

// Who is told that the link is no more.
class LinkDependent {
 public:
  // It has ended for its user, and the broker has not said that it knows.
  virtual bool IsEnding() const { return false; }
  virtual void OnLinkClosed(const absl::Status& reason) = 0;

 protected:
  ~LinkDependent() = default;
};

// How a link reaches its broker. Tests put memory in the place of gRPC.
struct LinkTransport {
  SessionDialer dial;
  // For unary calls; the latest channel.
  std::function<std::shared_ptr<grpc::Channel>()> channel;
};

class Link final : public SessionCall::Listener,
                   public std::enable_shared_from_this<Link>,
                   private streams::EventLoop::ShutdownListener {
 public:
  static std::shared_ptr<Link> Create(streams::EventLoop* loop, BrokerOptions options,
                                      std::shared_ptr<LoopGate> gate);
  ~Link();
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  // Begins to dial.
  void Start(LinkTransport transport);
  // Until the broker has answered for the first time, or was given up.
  static streams::Task<absl::Status> WaitUp(std::shared_ptr<Link> link);
  // Ends everything that hangs on it, with `reason`. Their sockets live on at the broker.
  void Close(const absl::Status& reason);
  // Why nothing new may be opened: closed, or the broker drains. OK: it may.
  absl::Status MayOpen() const;

  streams::EventLoop* loop() const { return loop_; }
  session::ClientSession* session() { return &session_; }
  const BrokerOptions& options() const { return options_; }
  const std::shared_ptr<LoopGate>& gate() const { return gate_; }
  LinkState state() const { return state_; }
  uint64_t incarnation() const { return session_.incarnation(); }
  std::shared_ptr<grpc::Channel> channel() const { return transport_.channel(); }
  const absl::Status& closed() const { return closed_; }

  void Add(LinkDependent* dependent) { dependents_.insert(dependent); }
  void Remove(LinkDependent* dependent) {
    dependents_.erase(dependent);
    changed_.WakeAll();
  }
  // Until the broker knows of everything that has ended here, or can't be told.
  static streams::Task<absl::Status> WaitEnded(std::shared_ptr<Link> link);

  // Asks the broker to close the connection without flushing it. False: it can't be asked.
  bool DiscardAndClose(const std::string& handle);

  // Begins a unary call: Broker::Call, untyped.
  using BeginCall = std::function<void(v1::SocketBroker::StubInterface*, grpc::ClientContext*,
                                       std::function<void(grpc::Status)>)>;
  // With `repeat`, a call that the way to the broker swallowed is made again.
  static streams::Task<absl::Status> MakeCall(std::shared_ptr<Link> link, BeginCall begin,
                                              bool repeat);

  // SessionCall::Listener.
  void OnMessage(absl::Cord message) override;
  void OnWritten() override;
  void OnEnded(absl::Status status) override;

 private:
  Link(streams::EventLoop* loop, BrokerOptions options, std::shared_ptr<LoopGate> gate);

  void Dial();
  void FlushLater();
  void Flush();
  void Broken(absl::Status status);
  void SetState(LinkState state, absl::Status reason = absl::OkStatus(),
                absl::Duration retry_in = absl::ZeroDuration());
  void OnLoopShutdown() override;
  // Until the next attempt of a call makes sense.
  static streams::Task<absl::Status> WaitToRepeat(std::shared_ptr<Link> link, Backoff* backoff);

  streams::EventLoop* const loop_;
  const BrokerOptions options_;
  const std::shared_ptr<LoopGate> gate_;
  LinkTransport transport_;
  session::ClientSession session_;
  absl::flat_hash_set<LinkDependent*> dependents_;

  std::unique_ptr<SessionCall> call_;  // null while there is none
  bool writing_ = false;
  bool flush_scheduled_ = false;
  bool listening_for_shutdown_ = false;

  LinkState state_ = LinkState::kConnecting;
  bool was_up_ = false;
  absl::Status closed_;  // why, once it is
  absl::Status last_error_;
  absl::Time down_since_ = absl::InfinitePast();
  absl::Time up_since_ = absl::InfinitePast();
  // A link has brought what can't be read, and none has lasted since: the next may bring it again.
  bool unreadable_ = false;
  Backoff backoff_;
  streams::Timer retry_timer_;
  streams::Timer answer_timer_;
  streams::Timer ack_timer_;
  streams::WaitQueue changed_;
};

}  // namespace sockbroker::client::internal

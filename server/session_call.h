// SessionCall: one Session stream on gRPC: frames to the frame logic (session/) and back, and what
// frames ask for: opening, binding, accepting.
//
//   return SessionCall::Start(core, PrincipalOf(*context, options));
//
// It lives on one loop. gRPC's reactions only dispatch to it; what one round of the loop produced
// is written once, at its end. The loop is chosen by the first connection or server that a frame
// names, so that traffic crosses no second loop.
#pragma once

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/cord.h"
#include "server/broker_core.h"
#include "server/creation.h"
#include "server/errors.h"
#include "server/principal.h"
#include "server/session_connection.h"
#include "server/session_inbox.h"
#include "session/broker_session.h"
#include "streams/cancel.h"
#include "streams/task.h"

namespace sockbroker::server {

class ServerRecord;

class SessionCall final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                          private session::BrokerSession::Host,
                          public std::enable_shared_from_this<SessionCall> {
 public:
  using Reactor = grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;
  static Reactor* Start(BrokerCore* core, std::shared_ptr<const Principal> principal);
  ~SessionCall() override;

  // The broker drains: tells the client. Any thread.
  void GoAway(absl::Duration deadline);
  // Ends the stream, once everything that was to be said is. Any thread.
  void End(RpcStatus status);
  // Memory is short: takes back the room that its windows have and don't need. Any thread.
  void RevokeUnusedWindows();

 private:
  SessionCall(BrokerCore* core, std::shared_ptr<const Principal> principal);

  // gRPC's threads.
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;
  // Runs `function` on the session's loop, whichever that is by then.
  template <typename Function>
  void OnLoop(Function function);
  // `function` as a callback for `loop`, which passes it on if the session lives elsewhere by then.
  template <typename Function>
  auto For(streams::EventLoop* loop, Function function);

  // The loop's.
  streams::EventLoop* loop() const { return loop_.load(std::memory_order_acquire); }
  void TakeMessages();
  void OnMessage(absl::Cord message);
  // The loop of what the message names first; null: it names nothing yet.
  streams::EventLoop* PlaceOf(const absl::Cord& message) const;
  void OnOutput();
  void Flush();
  // The client has gone, or must go: every connection goes back to its lease.
  void Disconnect(RpcStatus status);
  void FinishIfIdle();

  // BrokerSession::Host.
  void Open(v1::Open request) override;
  void Bind(v1::Bind request, const std::string& holder) override;
  void Listen(v1::Listen request) override;
  void StopListening(uint32_t channel) override;
  void Claimed(session::BrokerConnection* connection) override;
  uint64_t GrowWindow(session::BrokerConnection* connection, uint64_t window) override;
  void ShrinkWindow(session::BrokerConnection* connection, uint64_t window) override;
  void OnRoom() override;

  struct Opening {
    std::shared_ptr<CreationAttempt> attempt;
    uint64_t waiter = 0;
    bool ours = false;  // no earlier request has begun it
    bool repeatable = false;
  };
  struct Listening {
    std::shared_ptr<ServerRecord> server;
    uint32_t credits = 0;
    std::size_t acceptors = 0;
    streams::CancelSource cancel;  // the server's loop's
  };

  // For a connection that has had no client yet.
  SessionConnection::Client NewClient() const;
  void OnOpened(uint32_t channel, const CreationOutcome& outcome);
  void Refuse(uint32_t channel, const RpcStatus& status);
  // Tells the frame logic of a binding, by `answer`. False: nobody wants it, and it was undone.
  template <typename Answer>
  bool Bind(TakeOverResult result, Answer answer);
  void BeginBind(v1::Bind request, bool reopened);
  void OnTakenOver(uint32_t channel, TakeOverResult result);
  void AcceptMore(uint32_t channel, const std::shared_ptr<Listening>& listening);
  void OnAccepted(uint32_t channel, const std::shared_ptr<Listening>& listening,
                  TakeOverResult result);

  // On the loop of the connection, or the server: either may be another than the session's.
  static streams::Task<void> RunTakeOver(std::shared_ptr<SessionCall> self,
                                         std::shared_ptr<ConnectionRecord> record, uint32_t channel,
                                         TakeOverRequest request);
  static streams::Task<void> AcceptOne(std::shared_ptr<SessionCall> self, uint32_t channel,
                                       std::shared_ptr<Listening> listening);
  // Runs `function` on the session's loop, at once if this is it. Only once that was chosen.
  template <typename Function>
  void AtHome(Function function);

  BrokerCore* const core_;
  const std::shared_ptr<const Principal> principal_;
  std::atomic<streams::EventLoop*> loop_;
  bool placed_ = false;  // the loop is chosen

  SessionInbox inbox_;
  grpc::ByteBuffer received_;  // gRPC's while a read is under way
  grpc::ByteBuffer sending_;   // gRPC's while a write is

  const MemoryBudgets::Pair budgets_;
  session::BrokerSession session_;
  absl::flat_hash_map<uint32_t, Opening> openings_;
  absl::flat_hash_map<uint32_t, std::shared_ptr<Listening>> listening_;
  bool writing_ = false;
  bool flush_scheduled_ = false;
  bool acks_scheduled_ = false;
  bool disconnected_ = false;
  bool ending_ = false;  // once everything is said
  bool finished_ = false;
  RpcStatus status_;  // to finish with

  std::shared_ptr<SessionCall> self_;  // gRPC's share
};

}  // namespace sockbroker::server

// CreationCall: a unary RPC that makes something (Open*, Start*, Accept). It joins an attempt, its
// own or one that is under way for the same request_id, and answers with what that attempt made, as
// it is then.
//
//   return CreationCall::Start(core, std::move(spec), [response](const v1::Connection& c) { ... });
#pragma once

#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "server/broker_core.h"
#include "server/creation.h"
#include "server/dial.h"
#include "server/errors.h"
#include "server/principal.h"
#include "streams/task.h"

namespace sockbroker::server {

class CreationCall final : public grpc::ServerUnaryReactor,
                           public std::enable_shared_from_this<CreationCall> {
 public:
  struct Spec {
    std::shared_ptr<const Principal> principal;
    std::string request_id;
    std::string fingerprint;
    std::string rpc;
    // The attempt ends when nobody waits for it any more. Always so without a request_id.
    bool abandonable = false;
    streams::EventLoop* loop = nullptr;
    // Makes it, on `loop`, under the attempt's cancel token.
    std::function<streams::Task<CreationOutcome>(Maker)> make;
    // Undoes it when nobody wants it any more, on `loop`.
    std::function<void(const Handle&)> undo;
    // Fills the response with what the handle names now, and calls `then` once it has. `fill` may
    // be called on any thread; it must not touch the response unless `claim` says that the call is
    // still to be answered.
    std::function<void(const Handle&, std::function<bool()> claim,
                       std::function<void(RpcStatus)> then)>
        fill;
    // Told of a refusal.
    std::function<void(const RpcStatus&)> refused;
  };

  static grpc::ServerUnaryReactor* Start(BrokerCore* core, Spec spec);

 private:
  CreationCall(BrokerCore* core, Spec spec) : core_(core), spec_(std::move(spec)) {}

  static streams::Task<void> RunAttempt(std::shared_ptr<CreationCall> self);
  void OnOutcome(const CreationOutcome& outcome);
  // The caller may go away at any moment: whoever is first answers.
  bool Claim() { return !answered_.exchange(true); }

  void OnCancel() override;
  void OnDone() override;

  BrokerCore* const core_;
  const Spec spec_;
  std::shared_ptr<CreationAttempt> attempt_;
  uint64_t waiter_ = 0;
  std::atomic<bool> answered_{false};
  std::shared_ptr<CreationCall> self_;  // gRPC's share
};

}  // namespace sockbroker::server

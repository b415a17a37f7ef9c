// CreationCall: a unary RPC that makes something (Open*, Start*, Accept). It joins an attempt, its
// own or one that is under way for the same request_id, and answers with what that attempt made, as
// it is then.
//
//   return CreationCall::Start(core, std::move(spec), fill);
#pragma once

#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "server/broker_core.h"
#include "server/creation.h"
#include "server/creation_spec.h"
#include "server/errors.h"

namespace sockbroker::server {

class CreationCall final : public grpc::ServerUnaryReactor,
                           public std::enable_shared_from_this<CreationCall> {
 public:
  // Fills the response with what the handle names now, and calls `then` once it has. It may be
  // called on any thread; it must not touch the response unless `claim` says that the call is still
  // to be answered.
  using Fill = std::function<void(const Handle&, std::function<bool()> claim,
                                  std::function<void(RpcStatus)> then)>;

  static grpc::ServerUnaryReactor* Start(BrokerCore* core, CreationSpec spec, Fill fill);

 private:
  CreationCall(BrokerCore* core, Fill fill) : core_(core), fill_(std::move(fill)) {}

  void OnOutcome(const CreationOutcome& outcome);
  // The caller may go away at any moment: whoever is first answers.
  bool Claim() { return !answered_.exchange(true); }

  void OnCancel() override;
  void OnDone() override;

  BrokerCore* const core_;
  const Fill fill_;
  std::shared_ptr<CreationAttempt> attempt_;
  uint64_t waiter_ = 0;
  std::atomic<bool> answered_{false};
  std::shared_ptr<CreationCall> self_;  // gRPC's share
};

}  // namespace sockbroker::server

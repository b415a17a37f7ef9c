// SessionCall: one Session stream to the broker, whatever carries it: gRPC, or memory in a test.
//
//   std::unique_ptr<SessionCall> call = dial(&listener);  // OnEnded comes if it does not work
//   call->Write(batch);                                   // one at a time: OnWritten answers
//   call.reset();                                         // cancels; no more calls come
//
// One loop's thread, calls and callbacks alike.
#pragma once

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/cord.h"

namespace sockbroker::client::internal {

class SessionCall {
 public:
  class Listener {
   public:
    // Any of these may destroy the call. None comes from inside `dial` or Write.
    virtual void OnMessage(absl::Cord message) = 0;
    // The stream has taken the message: it may have the next one.
    virtual void OnWritten() = 0;
    // The last call. Never OK: a session has no good end of its own.
    virtual void OnEnded(absl::Status status) = 0;

   protected:
    ~Listener() = default;
  };

  virtual ~SessionCall() = default;
  virtual void Write(absl::Cord message) = 0;
};

using SessionDialer = std::function<std::unique_ptr<SessionCall>(SessionCall::Listener*)>;

}  // namespace sockbroker::client::internal

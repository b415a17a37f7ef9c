// BoundConnection: a connection in a session's hands, wherever it lives: SessionConnection on the
// session's own loop, RemoteConnection on another.
#pragma once

#include "server/memory_budget.h"
#include "session/broker_session.h"

namespace sockbroker::server {

class BoundConnection : public session::BrokerConnection {
 public:
  // The client has taken what it was offered.
  virtual void Claim() = 0;
  // Unbind was called.
  virtual bool unbound() const = 0;

  // The window that its client has been granted, out of the budget of what is written.
  MemoryGrant& window() { return window_; }

 private:
  MemoryGrant window_;
};

}  // namespace sockbroker::server

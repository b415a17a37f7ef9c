// SessionLink: a Broker of the client library, as the program's commands want it: what happens to
// the link is told, Ctrl-C is heard, and a broker that is gone for good is given up.
//
//   auto link = co_await SessionLink::Connect(address, notes, interrupt);   // kUnavailable: a text
//   if (!link.ok()) co_return FailWith(link.status());                      // for people
//   auto connection = co_await UntilInterrupted(interrupt, (*link)->broker().Open(request, how));
//
// On one loop.
#pragma once

#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/broker_address.h"
#include "client/cpp/broker.h"
#include "client/interrupt.h"
#include "client/notes.h"
#include "streams/cancel.h"
#include "streams/event_loop.h"
#include "streams/task.h"
#include "streams/with_cancel.h"

namespace sockbroker::client {

class SessionLink {
 public:
  // A broken link is waited for as long as `patience`; a Unix socket at which nobody listens any
  // more only for some seconds. A broker that does not answer is given up after `timeout`.
  // `interrupt` is borrowed.
  static streams::Task<absl::StatusOr<std::unique_ptr<SessionLink>>> Connect(
      BrokerAddress address, Notes notes, Interrupt* interrupt,
      absl::Duration patience = absl::Seconds(60), absl::Duration timeout = absl::Seconds(10));
  ~SessionLink();
  SessionLink(const SessionLink&) = delete;
  SessionLink& operator=(const SessionLink&) = delete;

  Broker& broker() { return broker_; }
  const BrokerAddress& address() const { return address_; }

 private:
  class Watch;
  SessionLink(BrokerAddress address, std::shared_ptr<Watch> watch, Broker broker);

  const BrokerAddress address_;
  const std::shared_ptr<Watch> watch_;
  Broker broker_;
};

// Cancels `task` when `interrupt` is raised: see Interrupt::raised then.
template <typename T>
streams::Task<T> UntilInterrupted(Interrupt* interrupt, streams::Task<T> task) {
  auto source = std::make_shared<streams::CancelSource>(co_await streams::GetCancelToken());
  streams::EventLoop* const loop = streams::GetRunningLoop();
  const Interrupt::Subscription subscription(
      interrupt, [loop, weak = std::weak_ptr<streams::CancelSource>(source)] {
        loop->Post([weak] {
          if (const auto alive = weak.lock()) alive->Cancel();
        });
      });
  co_return co_await streams::WithCancel(std::move(task), source->token());
}

}  // namespace sockbroker::client

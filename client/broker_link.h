// BrokerLink: the way to the broker: a channel, a stub, and calls that are tried again while the
// way is broken.
//
//   auto link = *BrokerLink::Connect(address);  // kUnavailable: nobody is there
//   v1::ReadResponse reply;
//   grpc::Status status =
//       link->Call(&BrokerLink::Stub::Read, request, &reply, {.canceller = &canceller});
//
// Only what may be repeated goes through Call: a read with an offset, a write with offset and
// writer, an open with a request_id, everything that only looks. All methods may be called from any
// thread.
#pragma once

#include <memory>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "client/broker_address.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/status.h"
#include "sockbroker/v1/sockbroker.grpc.pb.h"

namespace sockbroker::client {

// Ends the calls that run under it, and those that come later. It outlives them.
class Canceller {
 public:
  void Cancel();
  bool cancelled() const;
  // Waits so long, or until cancelled; says whether it was.
  bool SleepUnlessCancelled(absl::Duration duration);

 private:
  friend class BrokerLink;
  void Add(grpc::ClientContext* context);
  void Remove(grpc::ClientContext* context);

  mutable absl::Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::set<grpc::ClientContext*> running_ ABSL_GUARDED_BY(mutex_);
};

struct CallOptions {
  // May be null. A call that was cancelled ends with CANCELLED.
  Canceller* canceller = nullptr;
  // Of the call with all its repetitions: DEADLINE_EXCEEDED. The broker sees it as the time-out of
  // what it waits for.
  absl::Duration timeout = absl::InfiniteDuration();
  // How long a broken link is waited for. The broker keeps what nobody asks about for a lease of 60
  // s.
  absl::Duration patience = absl::Seconds(60);
};

class BrokerLink {
 public:
  using Stub = v1::SocketBroker::StubInterface;
  template <typename Request, typename Response>
  using Method = grpc::Status (Stub::*)(grpc::ClientContext*, const Request&, Response*);

  // Waits until the broker answers, or for a clear no, at most so long. kUnavailable with a text
  // for people; kCancelled when the canceller (may be null) was first.
  static absl::StatusOr<std::unique_ptr<BrokerLink>> Connect(
      BrokerAddress address, Canceller* canceller = nullptr,
      absl::Duration timeout = absl::Seconds(10));

  const BrokerAddress& address() const { return address_; }
  Stub& stub() { return *stub_; }
  // For services that are not ours.
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

  template <typename Request, typename Response>
  grpc::Status Call(Method<Request, Response> method, const Request& request, Response* response,
                    const CallOptions& options = {}) {
    return Repeat(
        [&](grpc::ClientContext* context) {
          return (stub_.get()->*method)(context, request, response);
        },
        options);
  }

  // Runs `attempt` until it ends with something else than a broken link, or patience is over.
  grpc::Status Repeat(absl::FunctionRef<grpc::Status(grpc::ClientContext*)> attempt,
                      const CallOptions& options);

  // Waits until the channel has a connection, or `until`; says which. False at once when cancelled
  // (the canceller may be null). Sleeping instead would not do: gRPC reads from a connection that
  // is being made only while somebody waits in one of its calls, and every 5 s.
  bool AwaitConnected(absl::Time until, const Canceller* canceller);

 private:
  BrokerLink(BrokerAddress address, std::shared_ptr<grpc::Channel> channel);

  BrokerAddress address_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<Stub> stub_;
};

// How long to wait before the next attempt: doubles from 20 ms to 1 s, each time a random part of
// it, so that many clients of a broker that comes back don't come all at once.
class Backoff {
 public:
  absl::Duration Next();

 private:
  absl::Duration ceiling_ = absl::Milliseconds(20);
};

// So many random bytes from the system, for request ids and writer ids.
std::string RandomBytes(std::size_t size);

}  // namespace sockbroker::client

#include "client/session_link.h"

#include <cerrno>
#include <optional>
#include <utility>

#include "client/error_text.h"

namespace sockbroker::client {
namespace {

using streams::Task;

// Nobody listens at the broker's Unix socket: it may be on its way back, but not for long.
constexpr absl::Duration kPatienceWithTheDead = absl::Seconds(5);

}  // namespace

// Hears of the link, and gives up a broker that has died.
class SessionLink::Watch {
 public:
  Watch(BrokerAddress address, Notes notes)
      : address_(std::move(address)), notes_(notes), loop_(streams::GetRunningLoop()) {}

  void OnState(const LinkEvent& event) {
    if (event.state == LinkState::kUp) {
      if (down_since_.has_value()) notes_.LinkRestored();
      down_since_.reset();
      was_up_ = true;
    } else if (event.state == LinkState::kReconnecting && was_up_) {
      if (!down_since_.has_value()) {
        down_since_ = loop_->Now();
        notes_.LinkBroken(event.reason);
      }
      const int error = address_.ProbeErrno();
      if ((error == ENOENT || error == ECONNREFUSED) &&
          loop_->Now() - *down_since_ >= kPatienceWithTheDead && broker.has_value()) {
        loop_->CallSoon([lost = *broker]() mutable { lost.Close(); });
      }
    }
  }

  // Once connected.
  std::optional<Broker> broker;

 private:
  const BrokerAddress address_;
  const Notes notes_;
  streams::EventLoop* const loop_;
  bool was_up_ = false;
  std::optional<absl::Time> down_since_;
};

SessionLink::SessionLink(BrokerAddress address, std::shared_ptr<Watch> watch, Broker broker)
    : address_(std::move(address)), watch_(std::move(watch)), broker_(std::move(broker)) {
  watch_->broker = broker_;
}

SessionLink::~SessionLink() { watch_->broker.reset(); }

Task<absl::StatusOr<std::unique_ptr<SessionLink>>> SessionLink::Connect(BrokerAddress address,
                                                                        Notes notes,
                                                                        Interrupt* interrupt,
                                                                        absl::Duration patience,
                                                                        absl::Duration timeout) {
  auto watch = std::make_shared<Watch>(address, notes);
  BrokerOptions options;
  if (address.tls().enabled()) {
    options.credentials =
        MutualTls(address.tls().ca(), address.tls().certificate(), address.tls().key());
  }
  options.connect_timeout = timeout;
  options.backoff_max = absl::Seconds(1);
  options.give_up_after = patience;
  options.on_state = [watch](const LinkEvent& event) { watch->OnState(event); };
  absl::StatusOr<Broker> broker =
      co_await UntilInterrupted(interrupt, Broker::Connect(address.text(), std::move(options)));
  if (!broker.ok()) {
    const absl::StatusCode code = broker.status().code();
    if (code == absl::StatusCode::kUnavailable || code == absl::StatusCode::kDeadlineExceeded) {
      co_return absl::UnavailableError(NoBrokerText(address, ToGrpcStatus(broker.status())));
    }
    co_return ToAbslStatus(address, "speaking to the broker", ToGrpcStatus(broker.status()));
  }
  co_return std::unique_ptr<SessionLink>(
      new SessionLink(std::move(address), std::move(watch), *std::move(broker)));
}

}  // namespace sockbroker::client

#include "client/broker_link.h"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <utility>

#include "absl/random/random.h"
#include "client/error_text.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"

namespace sockbroker::client {
namespace {

// A broker that is gone for sure (nobody listens on its Unix socket) took its sockets with it: only
// a restart is waited for, to be told so.
constexpr absl::Duration kPatienceWithTheDead = absl::Seconds(5);

void Pause(absl::Time until, Canceller* canceller) {
  if (canceller != nullptr) {
    canceller->SleepUnlessCancelled(until - absl::Now());
  } else {
    absl::SleepFor(until - absl::Now());
  }
}

std::shared_ptr<grpc::ChannelCredentials> CredentialsFor(const BrokerTls& tls) {
  if (!tls.enabled()) return grpc::InsecureChannelCredentials();
  return grpc::SslCredentials({.pem_root_certs = tls.ca(),
                               .pem_private_key = tls.key(),
                               .pem_cert_chain = tls.certificate()});
}

}  // namespace

void Canceller::Cancel() {
  absl::MutexLock lock(&mutex_);
  cancelled_ = true;
  for (grpc::ClientContext* context : running_) context->TryCancel();
}

bool Canceller::cancelled() const {
  absl::MutexLock lock(&mutex_);
  return cancelled_;
}

bool Canceller::SleepUnlessCancelled(absl::Duration duration) {
  absl::MutexLock lock(&mutex_);
  return mutex_.AwaitWithTimeout(absl::Condition(&cancelled_), duration);
}

void Canceller::Add(grpc::ClientContext* context) {
  absl::MutexLock lock(&mutex_);
  running_.insert(context);
  if (cancelled_) context->TryCancel();
}

void Canceller::Remove(grpc::ClientContext* context) {
  absl::MutexLock lock(&mutex_);
  running_.erase(context);
}

BrokerLink::BrokerLink(BrokerAddress address, std::shared_ptr<grpc::Channel> channel)
    : address_(std::move(address)),
      channel_(std::move(channel)),
      stub_(v1::SocketBroker::NewStub(channel_)) {}

absl::StatusOr<std::unique_ptr<BrokerLink>> BrokerLink::Connect(BrokerAddress address,
                                                                Canceller* canceller,
                                                                absl::Duration timeout) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  // The time one attempt to connect may take, in spite of its name.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // A broker beyond a link that went silent is noticed while calls wait; it allows a ping every 10
  // s.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  // Beside the pings of the data's own.
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // A proxy for the web is no way to a broker.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  std::shared_ptr<grpc::Channel> channel =
      grpc::CreateCustomChannel(address.target(), CredentialsFor(address.tls()), arguments);
  const absl::Time deadline = absl::Now() + timeout;
  while (true) {
    const grpc_connectivity_state state = channel->GetState(/*try_to_connect=*/true);
    if (state == GRPC_CHANNEL_READY) break;
    if (state == GRPC_CHANNEL_TRANSIENT_FAILURE || state == GRPC_CHANNEL_SHUTDOWN ||
        absl::Now() >= deadline) {
      return absl::UnavailableError(
          NoBrokerText(address, absl::Now() >= deadline
                                    ? grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "no answer")
                                    : grpc::Status::OK));
    }
    if (canceller != nullptr && canceller->cancelled()) return absl::CancelledError("interrupted");
    // In slices, so that Ctrl-C is heard.
    channel->WaitForStateChange(state, absl::ToChronoTime(absl::Now() + absl::Milliseconds(100)));
  }
  return std::unique_ptr<BrokerLink>(new BrokerLink(std::move(address), std::move(channel)));
}

bool BrokerLink::AwaitConnected(absl::Time until, const Canceller* canceller) {
  while (canceller == nullptr || !canceller->cancelled()) {
    const grpc_connectivity_state state = channel_->GetState(/*try_to_connect=*/true);
    if (state == GRPC_CHANNEL_READY) return true;
    const absl::Time now = absl::Now();
    if (now >= until) return false;
    // In slices, so that Ctrl-C is heard.
    channel_->WaitForStateChange(
        state, absl::ToChronoTime(std::min(until, now + absl::Milliseconds(100))));
  }
  return false;
}

grpc::Status BrokerLink::Repeat(absl::FunctionRef<grpc::Status(grpc::ClientContext*)> attempt,
                                const CallOptions& options) {
  const absl::Time deadline = absl::Now() + options.timeout;
  absl::Time broken_since = absl::InfiniteFuture();
  Backoff backoff;
  while (true) {
    grpc::ClientContext context;
    if (deadline != absl::InfiniteFuture()) context.set_deadline(absl::ToChronoTime(deadline));
    if (options.canceller != nullptr) options.canceller->Add(&context);
    const absl::Time started = absl::Now();
    grpc::Status status = attempt(&context);
    if (options.canceller != nullptr) {
      options.canceller->Remove(&context);
      if (!status.ok() && options.canceller->cancelled()) {
        return {grpc::StatusCode::CANCELLED, "interrupted"};
      }
    }
    if (!IsBrokenLink(status)) return status;
    // A long poll that ran well before it broke does not count as trouble.
    const absl::Time now = absl::Now();
    broken_since = now - started > absl::Seconds(2) ? now : std::min(broken_since, now);
    absl::Duration patience = options.patience;
    if (const int error = address_.ProbeErrno(); error == ENOENT || error == ECONNREFUSED) {
      patience = std::min(patience, kPatienceWithTheDead);
    }
    if (now - broken_since >= patience) return status;
    const absl::Time give_up = std::min(deadline, broken_since + patience);
    // At least a moment: the broker may be there and answer UNAVAILABLE. Then in slices, so that a
    // broker that dies for good meanwhile is noticed.
    Pause(std::min(give_up, now + backoff.Next()), options.canceller);
    AwaitConnected(std::min(give_up, absl::Now() + absl::Seconds(1)), options.canceller);
    if (options.canceller != nullptr && options.canceller->cancelled()) {
      return {grpc::StatusCode::CANCELLED, "interrupted"};
    }
    if (absl::Now() >= deadline) {
      return {grpc::StatusCode::DEADLINE_EXCEEDED,
              "timed out while the broker could not be reached"};
    }
  }
}

absl::Duration Backoff::Next() {
  thread_local absl::InsecureBitGen generator;
  const absl::Duration pause = ceiling_ * absl::Uniform(generator, 0.5, 1.0);
  ceiling_ = std::min(2 * ceiling_, absl::Seconds(1));
  return pause;
}

std::string RandomBytes(std::size_t size) {
  std::string bytes(size, '\0');
  // Up to 256 bytes come whole, whatever signals arrive.
  while (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    if (errno != EINTR) std::abort();
  }
  return bytes;
}

}  // namespace sockbroker::client

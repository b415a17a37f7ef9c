#include "client/cpp/internal/link.h"

#include <sys/random.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cpp/internal/random_bytes.h"
#include "client/cpp/status.h"
#include "streams/sleep.h"

namespace sockbroker::client::internal {
namespace {

// What will not be better the next time.
bool IsPermanent(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kInvalidArgument:
      return true;
    default:
      return false;
  }
}

}  // namespace

std::shared_ptr<Link> Link::Create(streams::EventLoop* loop, BrokerOptions options,
                                   std::shared_ptr<LoopGate> gate) {
  if (options.holder.empty()) options.holder = RandomBytes(16);
  return std::shared_ptr<Link>(new Link(loop, std::move(options), std::move(gate)));
}

Link::Link(streams::EventLoop* loop, BrokerOptions options, std::shared_ptr<LoopGate> gate)
    : loop_(loop),
      options_(std::move(options)),
      gate_(std::move(gate)),
      session_(options_.holder, options_.window),
      backoff_(options_.backoff_initial, options_.backoff_max),
      retry_timer_(loop, [this] { Dial(); }),
      answer_timer_(
          loop,
          [this] { Broken(absl::DeadlineExceededError("the broker did not answer in time")); }),
      ack_timer_(loop, [this] { session_.AckPending(); }) {
  session_.set_on_output([this] { FlushLater(); });
  loop_->AddShutdownListener(this);
  listening_for_shutdown_ = true;
}

Link::~Link() {
  call_.reset();
  gate_->Close();
  if (listening_for_shutdown_) loop_->RemoveShutdownListener(this);
}

void Link::Start(LinkTransport transport) {
  transport_ = std::move(transport);
  down_since_ = loop_->Now();
  Dial();
}

streams::Task<absl::Status> Link::WaitUp(std::shared_ptr<Link> link) {
  while (!link->was_up_ && link->closed_.ok()) {
    if (absl::Status status = co_await link->changed_.Wait(); !status.ok()) co_return status;
  }
  co_return link->closed_;
}

streams::Task<absl::Status> Link::WaitEnded(std::shared_ptr<Link> link) {
  const auto can_tell = [&] {
    return link->state_ == LinkState::kUp || link->state_ == LinkState::kDraining;
  };
  while (can_tell()) {
    const auto ending = std::find_if(link->dependents_.begin(), link->dependents_.end(),
                                     [](const LinkDependent* one) { return one->IsEnding(); });
    if (ending == link->dependents_.end()) break;
    LinkDependent* const last = *ending;
    // Another may come to stand where it stood.
    while (can_tell() && link->dependents_.contains(last) && last->IsEnding()) {
      if (absl::Status status = co_await link->changed_.Wait(); !status.ok()) co_return status;
    }
  }
  co_return absl::OkStatus();
}

void Link::SetState(LinkState state, absl::Status reason, absl::Duration retry_in) {
  state_ = state;
  changed_.WakeAll();
  if (options_.on_state) {
    options_.on_state({state, std::move(reason), retry_in, session_.incarnation()});
  }
}

// --- the stream

void Link::Dial() {
  const std::shared_ptr<Link> self = shared_from_this();
  SetState(LinkState::kConnecting);
  if (!closed_.ok()) return;
  answer_timer_.SetAfter(options_.connect_timeout);
  call_ = transport_.dial(this);
  writing_ = false;
  session_.OnLinkUp();
}

void Link::OnMessage(absl::Cord message) {
  const std::shared_ptr<Link> self = shared_from_this();
  const bool was_going_away = session_.going_away();
  const bool was_welcome = session_.welcome();
  const absl::Status status = session_.OnMessage(std::move(message), loop_->Now());
  if (call_ == nullptr) return;  // a listener has closed the link
  if (!status.ok()) {
    Broken(absl::InternalError(absl::StrCat("the session can't be read: ", status.message())));
    unreadable_ = true;
    return;
  }
  if (unreadable_ && loop_->Now() - up_since_ >= options_.backoff_max) unreadable_ = false;
  // A link that carries anything beyond the greeting is no failed attempt, however short it lives.
  if (was_welcome && !unreadable_) backoff_.Reset();
  if (!was_welcome && session_.welcome()) {
    answer_timer_.Cancel();
    up_since_ = loop_->Now();
    was_up_ = true;
    last_error_ = absl::OkStatus();
    SetState(LinkState::kUp);
  }
  if (!was_going_away && session_.going_away() && closed_.ok()) SetState(LinkState::kDraining);
}

void Link::OnWritten() {
  writing_ = false;
  Flush();
}

void Link::FlushLater() {
  // What this round of the loop produces goes together.
  if (writing_ || std::exchange(flush_scheduled_, true)) return;
  loop_->CallSoon([self = shared_from_this()] {
    self->flush_scheduled_ = false;
    self->Flush();
  });
}

void Link::Flush() {
  if (session_.HasPendingAcks() && !ack_timer_.armed()) ack_timer_.SetAfter(session::kAckDelay);
  if (call_ == nullptr || writing_ || !session_.HasOutput()) return;
  absl::Cord batch = session_.NextBatch(loop_->Now());
  if (batch.empty()) return;
  // Until OnWritten: what gathers meanwhile goes in one message.
  writing_ = true;
  call_->Write(std::move(batch));
}

void Link::OnEnded(absl::Status status) { Broken(std::move(status)); }

void Link::Broken(absl::Status status) {
  const std::shared_ptr<Link> self = shared_from_this();
  const bool was_welcome = session_.welcome();
  call_.reset();
  writing_ = false;
  answer_timer_.Cancel();
  session_.OnLinkDown();
  const absl::Time now = loop_->Now();
  if (was_welcome && !unreadable_) down_since_ = now;
  if (IsPermanent(status.code()) || (!was_up_ && !options_.wait_for_broker) ||
      now - down_since_ >= options_.give_up_after) {
    Close(status);
    return;
  }
  const absl::Duration wait = std::min(backoff_.Next(), down_since_ + options_.give_up_after - now);
  last_error_ = status;
  retry_timer_.SetAfter(wait);
  SetState(LinkState::kReconnecting, std::move(status), wait);
}

absl::Status Link::MayOpen() const {
  if (!closed_.ok()) return closed_;
  if (!session_.going_away()) return absl::OkStatus();
  v1::ErrorDetail detail;
  detail.set_reason(v1::DRAINING);
  detail.set_retryable(true);
  absl::Status status = absl::UnavailableError("the broker drains and opens nothing new");
  SetErrorDetail(detail, &status);
  return status;
}

void Link::Close(const absl::Status& reason) {
  if (!closed_.ok()) return;
  const std::shared_ptr<Link> self = shared_from_this();
  closed_ = reason.ok() ? absl::CancelledError("the link to the broker was closed") : reason;
  retry_timer_.Cancel();
  answer_timer_.Cancel();
  ack_timer_.Cancel();
  call_.reset();
  // In a turn of its own: the session may be at work further up the stack.
  loop_->CallSoon([self] {
    const std::vector<LinkDependent*> all(self->dependents_.begin(), self->dependents_.end());
    for (LinkDependent* dependent : all) {
      if (self->dependents_.contains(dependent)) dependent->OnLinkClosed(self->closed_);
    }
  });
  SetState(LinkState::kClosed, closed_);
}

void Link::OnLoopShutdown() {
  loop_->RemoveShutdownListener(this);
  listening_for_shutdown_ = false;
  const std::shared_ptr<Link> self = shared_from_this();
  gate_->Close();
  Close(absl::CancelledError("the event loop is shutting down"));
}

// --- unary calls

streams::Task<absl::Status> Link::WaitToRepeat(std::shared_ptr<Link> link, Backoff* backoff) {
  if (absl::Status status = co_await streams::Sleep(backoff->Next()); !status.ok()) {
    co_return status;
  }
  while (link->closed_.ok() && link->state_ != LinkState::kUp &&
         link->state_ != LinkState::kDraining) {
    if (absl::Status status = co_await link->changed_.Wait(); !status.ok()) co_return status;
  }
  co_return link->closed_;
}

namespace {

// What a call and whoever waits for it share. gRPC's thread writes `status` before the loop hears
// of it.
struct PendingCall {
  grpc::ClientContext context;
  grpc::Status status;
  bool done = false;  // the loop's
  streams::WaitQueue ended;
};

streams::Task<absl::Status> WaitForEnd(std::shared_ptr<PendingCall> call) {
  while (!call->done) {
    if (absl::Status status = co_await call->ended.Wait(); !status.ok()) {
      call->context.TryCancel();
      co_return status;
    }
  }
  co_return absl::OkStatus();
}

}  // namespace

streams::Task<absl::Status> Link::MakeCall(std::shared_ptr<Link> link, BeginCall begin,
                                           bool repeat) {
  Backoff backoff(link->options_.backoff_initial, absl::Seconds(1));
  while (true) {
    if (!link->closed_.ok()) co_return link->closed_;
    auto call = std::make_shared<PendingCall>();
    for (const auto& [key, value] : link->options_.metadata) call->context.AddMetadata(key, value);
    const std::unique_ptr<v1::SocketBroker::StubInterface> stub =
        v1::SocketBroker::NewStub(link->transport_.channel());
    begin(stub.get(), &call->context, [call, gate = link->gate_](grpc::Status status) {
      call->status = std::move(status);
      gate->Dispatch([call] {
        call->done = true;
        call->ended.WakeAll();
      });
    });
    if (absl::Status status = co_await WaitForEnd(call); !status.ok()) co_return status;
    // What the broker itself calls unavailable comes with a detail.
    const bool broken = call->status.error_code() == grpc::StatusCode::UNAVAILABLE &&
                        call->status.error_details().empty();
    if (!repeat || !broken) co_return ToStatus(call->status);
    if (absl::Status status = co_await WaitToRepeat(link, &backoff); !status.ok()) {
      co_return status;
    }
  }
}

bool Link::DiscardAndClose(const std::string& handle) {
  if (state_ != LinkState::kUp || handle.empty()) return false;
  struct Messages {
    v1::CloseRequest request;
    v1::CloseResponse response;
  };
  auto messages = std::make_shared<Messages>();
  messages->request.set_handle(handle);
  messages->request.set_discard_pending(true);
  loop_->Spawn([](std::shared_ptr<Link> link, std::shared_ptr<Messages> m) -> streams::Task<void> {
    (void)co_await MakeCall(
        std::move(link),
        [m](v1::SocketBroker::StubInterface* stub, grpc::ClientContext* context,
            std::function<void(grpc::Status)> done) {
          stub->async()->Close(
              context, &m->request, &m->response,
              [m, done = std::move(done)](grpc::Status status) { done(std::move(status)); });
        },
        /*repeat=*/true);
  }(shared_from_this(), std::move(messages)));
  return true;
}

}  // namespace sockbroker::client::internal

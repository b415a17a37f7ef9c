#include "server/lease.h"

namespace sockbroker::server {
namespace {

// A timer so late means that the process, or this loop, stood still; calls that were made meanwhile
// may still be on their way through gRPC's threads.
constexpr absl::Duration kStall = absl::Seconds(1);
constexpr absl::Duration kGrace = absl::Seconds(1);

}  // namespace

Lease::Lease(streams::EventLoop* loop, absl::Duration duration, std::function<void()> on_expired)
    : loop_(loop),
      duration_(duration),
      on_expired_(std::move(on_expired)),
      last_used_(loop->Now()),
      timer_(loop, [this] { OnTimer(); }),
      self_(std::make_shared<Lease*>(this)) {
  timer_.Set(last_used_ + duration_);
}

Lease::Use Lease::Begin() {
  pending_++;
  last_used_ = loop_->Now();
  return Use(this);
}

void Lease::End() {
  pending_--;
  last_used_ = loop_->Now();
  graced_ = false;
  // The timer is left alone while calls come: it finds out by itself that it was too early.
  if (pending_ == 0 && on_expired_ && !timer_.armed()) timer_.Set(last_used_ + duration_);
}

void Lease::SetDuration(absl::Duration duration) {
  duration_ = duration;
  last_used_ = loop_->Now();
  if (on_expired_) timer_.Set(last_used_ + duration_);
}

void Lease::Stop() {
  on_expired_ = nullptr;
  timer_.Cancel();
}

void Lease::OnTimer() {
  if (pending_ > 0) return;  // End sets it again
  const absl::Time now = loop_->Now();
  const absl::Time due = last_used_ + duration_;
  if (now < due) {
    timer_.Set(due);
    return;
  }
  if (now - due > kStall && !graced_) {
    graced_ = true;
    timer_.Set(now + kGrace);
    return;
  }
  // Calls that are queued for this loop already go first: what is posted runs in order.
  loop_->Post([self = std::weak_ptr<Lease*>(self_)] {
    if (const std::shared_ptr<Lease*> alive = self.lock()) (*alive)->ExpireUnlessUsed();
  });
}

void Lease::ExpireUnlessUsed() {
  if (!on_expired_ || pending_ > 0) return;
  const absl::Time due = last_used_ + duration_;
  if (loop_->Now() < due) {
    timer_.Set(due);
    return;
  }
  std::exchange(on_expired_, nullptr)();
}

}  // namespace sockbroker::server

// Lease: how long something is kept with no call made for it.
//
//   Lease lease(loop, absl::Seconds(60), [this] { Expire(); });
//   { Lease::Use use = lease.Begin();  ... }  // a call: pending while `use` lives, then it counts
//
// On the loop's thread only.
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "absl/time/time.h"
#include "streams/event_loop.h"

namespace sockbroker::server {

class Lease {
 public:
  // A pending call. Must not outlive its lease.
  class Use {
   public:
    explicit Use(Lease* lease) : lease_(lease) {}
    Use(Use&& other) noexcept : lease_(std::exchange(other.lease_, nullptr)) {}
    Use& operator=(Use&&) = delete;
    ~Use() {
      if (lease_ != nullptr) lease_->End();
    }

   private:
    Lease* lease_;
  };

  // `on_expired` is called once, and may destroy the lease.
  Lease(streams::EventLoop* loop, absl::Duration duration, std::function<void()> on_expired);
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  Use Begin();
  // Counts from now on.
  void SetDuration(absl::Duration duration);
  absl::Time last_used() const { return last_used_; }
  // It can't expire any more.
  void Stop();

 private:
  void End();
  void OnTimer();
  void ExpireUnlessUsed();

  streams::EventLoop* const loop_;
  absl::Duration duration_;
  std::function<void()> on_expired_;
  absl::Time last_used_;
  int pending_ = 0;
  bool graced_ = false;
  streams::Timer timer_;
  // For what is posted and may come too late.
  std::shared_ptr<Lease*> self_;
};

}  // namespace sockbroker::server

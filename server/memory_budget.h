// MemoryBudget: how many bytes may be held for clients, in one direction: of one principal, and of
// all together. Every bound connection has kReserve of its own, so that none can be starved; the
// rest is shared.
//
//   MemoryBudget process(256 << 20), owner(64 << 20, &process);
//   if (!owner.AcquireReserve()) return Exhausted(...);          // admission
//   const std::size_t granted = owner.Acquire(65536);            // as much as there is
//   owner.Release(granted);
//   owner.WaitForRoom(loop, [weak] { ... });                     // once, when something came back
//
// Whoever has room to give back can be told that it is wanted: `on_shortage`.
//
// Safe from every thread.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "streams/event_loop.h"

namespace sockbroker::server {

class MemoryBudget {
 public:
  // What a bound connection has for itself in each direction, bytes.
  static constexpr std::size_t kReserve = 8 * 1024;

  // `parent`: what is taken here is taken there too. It must outlive this. `on_shortage` is called
  // when somebody did not get all that was wanted, on that one's thread, and may be null.
  explicit MemoryBudget(std::size_t limit, MemoryBudget* parent = nullptr,
                        std::function<void()> on_shortage = nullptr)
      : limit_(limit), parent_(parent), on_shortage_(std::move(on_shortage)) {}
  MemoryBudget(const MemoryBudget&) = delete;
  MemoryBudget& operator=(const MemoryBudget&) = delete;

  // At most `wanted` bytes, as many as there are. A quarter of the limit is left to reserves, so
  // that whoever comes late is not locked out by the busy.
  std::size_t Acquire(std::size_t wanted) { return TakeOrTell(wanted, /*reserve=*/false); }
  // kReserve bytes, or none.
  bool AcquireReserve() { return TakeOrTell(kReserve, /*reserve=*/true) > 0; }
  void Release(std::size_t bytes) ABSL_LOCKS_EXCLUDED(mutex_);
  // Posts `callback` to `loop`, once, when bytes have come back. Those who wait are called in the
  // order of their coming, only as many as there is room for.
  void WaitForRoom(streams::EventLoop* loop, std::function<void()> callback)
      ABSL_LOCKS_EXCLUDED(mutex_);

  std::size_t limit() const { return limit_; }
  std::size_t used() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Waiter {
    streams::EventLoop* loop;
    std::function<void()> callback;
  };
  std::size_t TakeOrTell(std::size_t wanted, bool reserve) {
    const std::size_t granted = Take(wanted, reserve);
    if (granted < wanted && on_shortage_) on_shortage_();
    return granted;
  }
  std::size_t Take(std::size_t wanted, bool reserve) ABSL_LOCKS_EXCLUDED(mutex_);
  std::size_t Room(bool reserve) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const std::size_t limit = reserve ? limit_ : limit_ / 4 * 3;
    return limit > used_ ? limit - used_ : 0;
  }
  // Takes out whom there is room for.
  void TakeWaiters(std::vector<Waiter>* out) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::size_t limit_;
  MemoryBudget* const parent_;
  const std::function<void()> on_shortage_;
  mutable absl::Mutex mutex_;
  std::size_t used_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<Waiter> waiters_ ABSL_GUARDED_BY(mutex_);
};

// Bytes of a budget, given back when destroyed.
class MemoryGrant {
 public:
  MemoryGrant() = default;
  explicit MemoryGrant(std::shared_ptr<MemoryBudget> budget) : budget_(std::move(budget)) {}
  MemoryGrant(MemoryGrant&& other) noexcept
      : budget_(std::move(other.budget_)), bytes_(std::exchange(other.bytes_, 0)) {}
  MemoryGrant& operator=(MemoryGrant&& other) noexcept {
    Shrink(0);
    budget_ = std::move(other.budget_);
    bytes_ = std::exchange(other.bytes_, 0);
    return *this;
  }
  ~MemoryGrant() { Shrink(0); }

  // The first kReserve bytes; false if there are none.
  bool GetReserve() {
    if (budget_ == nullptr || !budget_->AcquireReserve()) return false;
    bytes_ += MemoryBudget::kReserve;
    return true;
  }
  // Tries to have `bytes` in all; what it has then.
  std::size_t Grow(std::size_t bytes) {
    if (budget_ != nullptr && bytes > bytes_) bytes_ += budget_->Acquire(bytes - bytes_);
    return bytes_;
  }
  void Shrink(std::size_t bytes) {
    if (budget_ != nullptr && bytes < bytes_) budget_->Release(bytes_ - bytes);
    if (bytes < bytes_) bytes_ = bytes;
  }
  std::size_t bytes() const { return bytes_; }
  const std::shared_ptr<MemoryBudget>& budget() const { return budget_; }

 private:
  std::shared_ptr<MemoryBudget> budget_;
  std::size_t bytes_ = 0;
};

// The budgets of all principals, both directions, below the process's.
class MemoryBudgets {
 public:
  struct Limits {
    // Of each direction, bytes.
    std::size_t process;
    std::size_t principal;
  };
  struct Pair {
    std::shared_ptr<MemoryBudget> read;   // from peers, for clients
    std::shared_ptr<MemoryBudget> write;  // from clients, for peers
  };
  // `on_write_shortage`: see MemoryBudget; any thread, often.
  explicit MemoryBudgets(Limits limits, std::function<void()> on_write_shortage = nullptr)
      : limits_(limits),
        on_write_shortage_(std::move(on_write_shortage)),
        read_(limits.process),
        write_(limits.process) {}

  Pair OfPrincipal(const std::string& name) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  const Limits limits_;
  const std::function<void()> on_write_shortage_;
  MemoryBudget read_;
  MemoryBudget write_;
  absl::Mutex mutex_;
  struct Weak {
    std::weak_ptr<MemoryBudget> read;
    std::weak_ptr<MemoryBudget> write;
  };
  absl::flat_hash_map<std::string, Weak> principals_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sockbroker::server

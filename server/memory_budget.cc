#include "server/memory_budget.h"

#include <algorithm>

namespace sockbroker::server {
namespace {

// What one who waits is worth waking for.
constexpr std::size_t kShare = 16 * 1024;

}  // namespace

std::size_t MemoryBudget::Take(std::size_t wanted, bool reserve) {
  std::size_t granted = 0;
  {
    const absl::MutexLock lock(&mutex_);
    granted = std::min(wanted, Room(reserve));
    if (reserve && granted < wanted) return 0;
    used_ += granted;
  }
  if (parent_ == nullptr || granted == 0) return granted;
  const std::size_t above = parent_->Take(granted, reserve);
  if (above < granted) {
    const absl::MutexLock lock(&mutex_);
    used_ -= granted - above;
  }
  return above;
}

void MemoryBudget::Release(std::size_t bytes) {
  if (bytes == 0) return;
  std::vector<Waiter> woken;
  {
    const absl::MutexLock lock(&mutex_);
    used_ -= bytes;
    TakeWaiters(&woken);
  }
  for (Waiter& waiter : woken) waiter.loop->Post(std::move(waiter.callback));
  if (parent_ != nullptr) parent_->Release(bytes);
}

void MemoryBudget::TakeWaiters(std::vector<Waiter>* out) {
  const std::size_t count = std::min(waiters_.size(), Room(/*reserve=*/false) / kShare);
  if (count == 0) return;
  const auto end = waiters_.begin() + static_cast<std::ptrdiff_t>(count);
  out->assign(std::make_move_iterator(waiters_.begin()), std::make_move_iterator(end));
  waiters_.erase(waiters_.begin(), end);
}

void MemoryBudget::WaitForRoom(streams::EventLoop* loop, std::function<void()> callback) {
  {
    const absl::MutexLock lock(&mutex_);
    if (Room(/*reserve=*/false) < kShare) {
      waiters_.push_back({loop, std::move(callback)});
      return;
    }
  }
  // Room here: it is the parent that holds everybody back, or something has come back meanwhile.
  if (parent_ != nullptr) return parent_->WaitForRoom(loop, std::move(callback));
  loop->Post(std::move(callback));
}

std::size_t MemoryBudget::used() const {
  const absl::MutexLock lock(&mutex_);
  return used_;
}

MemoryBudgets::Pair MemoryBudgets::OfPrincipal(const std::string& name) {
  const absl::MutexLock lock(&mutex_);
  Weak& known = principals_[name];
  Pair pair{known.read.lock(), known.write.lock()};
  if (pair.read == nullptr || pair.write == nullptr) {
    pair.read = std::make_shared<MemoryBudget>(limits_.principal, &read_);
    pair.write = std::make_shared<MemoryBudget>(limits_.principal, &write_, on_write_shortage_);
    known = {pair.read, pair.write};
  }
  return pair;
}

}  // namespace sockbroker::server

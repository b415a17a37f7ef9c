// DescriptorBudget: how many file descriptors the broker may spend on the sockets of its clients,
// so that some always remain for the way in to the broker itself (control connections, health,
// drain).
//
//   DescriptorBudget budget(*RaiseDescriptorLimit());
//   std::optional<DescriptorBudget::Hold> hold = budget.Acquire();
//   if (!hold) return ResourceExhausted("descriptors", budget.capacity());
//   // else: open, and keep `hold` with what was opened
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/status/statusor.h"

namespace sockbroker::server {

// Raises the soft RLIMIT_NOFILE to the hard one and returns it. kInternal when the kernel refuses.
absl::StatusOr<uint64_t> RaiseDescriptorLimit();

// Counts; it opens and closes nothing. Safe from every thread; must outlive its holds.
class DescriptorBudget {
 public:
  // The right to have one descriptor open, until destroyed.
  class Hold {
   public:
    Hold() = default;
    Hold(Hold&& other) noexcept : budget_(std::exchange(other.budget_, nullptr)) {}
    Hold& operator=(Hold&& other) noexcept {
      if (this != &other) {
        Release();
        budget_ = std::exchange(other.budget_, nullptr);
      }
      return *this;
    }
    ~Hold() { Release(); }

    bool held() const { return budget_ != nullptr; }
    void Release() {
      if (budget_ != nullptr) std::exchange(budget_, nullptr)->in_use_.fetch_sub(1);
    }

   private:
    friend class DescriptorBudget;
    explicit Hold(DescriptorBudget* budget) : budget_(budget) {}
    DescriptorBudget* budget_ = nullptr;
  };

  // `limit`: what the process may have open in all.
  explicit DescriptorBudget(uint64_t limit);
  DescriptorBudget(const DescriptorBudget&) = delete;
  DescriptorBudget& operator=(const DescriptorBudget&) = delete;

  // Nothing when `capacity` holds are out already.
  std::optional<Hold> Acquire();

  uint64_t limit() const { return limit_; }
  // Never given out: 256 or a tenth of the limit, whichever is more.
  uint64_t reserve() const { return reserve_; }
  // What can be given out at once: limit - reserve.
  uint64_t capacity() const { return limit_ - reserve_; }
  uint64_t in_use() const { return in_use_.load(std::memory_order_relaxed); }

 private:
  const uint64_t limit_;
  const uint64_t reserve_;
  std::atomic<uint64_t> in_use_{0};
};

}  // namespace sockbroker::server

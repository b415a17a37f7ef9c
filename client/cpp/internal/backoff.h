// Backoff: how long to wait before the next attempt: a random part of a time that doubles, so that
// many clients of a broker that comes back do not come all at once ("full jitter").
#pragma once

#include <algorithm>

#include "absl/random/random.h"
#include "absl/time/time.h"

namespace sockbroker::client::internal {

class Backoff {
 public:
  Backoff(absl::Duration initial, absl::Duration max)
      : initial_(initial), max_(max), ceiling_(initial) {}

  absl::Duration Next() {
    const absl::Duration wait = ceiling_ * absl::Uniform(random_, 0.0, 1.0);
    ceiling_ = std::min(2 * ceiling_, max_);
    return wait;
  }
  void Reset() { ceiling_ = initial_; }

 private:
  const absl::Duration initial_;
  const absl::Duration max_;
  absl::Duration ceiling_;
  absl::BitGen random_;
};

}  // namespace sockbroker::client::internal

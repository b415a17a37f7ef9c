#include "server/descriptor_budget.h"

#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace sockbroker::server {

absl::StatusOr<uint64_t> RaiseDescriptorLimit() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
    return absl::InternalError(absl::StrCat("getrlimit(RLIMIT_NOFILE): ", std::strerror(errno)));
  }
  if (limit.rlim_cur != limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) {
      return absl::InternalError(
          absl::StrCat("setrlimit(RLIMIT_NOFILE, ", limit.rlim_max, "): ", std::strerror(errno)));
    }
  }
  return limit.rlim_cur;
}

DescriptorBudget::DescriptorBudget(uint64_t limit)
    : limit_(limit), reserve_(std::min(limit, std::max<uint64_t>(256, limit / 10))) {}

std::optional<DescriptorBudget::Hold> DescriptorBudget::Acquire() {
  // Counted first and taken back when it was too many: threads that race for the last one may both
  // be refused for an instant, but never are both served.
  if (in_use_.fetch_add(1) >= capacity()) {
    in_use_.fetch_sub(1);
    return std::nullopt;
  }
  return Hold(this);
}

}  // namespace sockbroker::server

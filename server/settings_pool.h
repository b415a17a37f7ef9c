// SettingsPool: one copy of the settings that connections have in common, as most of them do.
//
//   std::shared_ptr<const ConnectionSettings> settings = pool.Share(std::move(parsed));
//
// Safe from every thread.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "server/options_codec.h"

namespace sockbroker::server {

class SettingsPool {
 public:
  std::shared_ptr<const ConnectionSettings> Share(ConnectionSettings settings)
      ABSL_LOCKS_EXCLUDED(mutex_) {
    // What is a connection's own is not looked for.
    if (settings.shown.labels_size() > 0 || !settings.shown.traceparent().empty()) {
      return std::make_shared<const ConnectionSettings>(std::move(settings));
    }
    // All of the settings comes from what is shown of them.
    std::string key = settings.shown.SerializeAsString();
    const absl::MutexLock lock(&mutex_);
    if (auto known = known_[key].lock()) return known;
    auto made = std::make_shared<const ConnectionSettings>(std::move(settings));
    known_[std::move(key)] = made;
    if (known_.size() >= sweep_at_) {
      absl::erase_if(known_, [](const auto& entry) { return entry.second.expired(); });
      sweep_at_ = std::max(kLeast, 2 * known_.size());
    }
    return made;
  }

  std::size_t size() const ABSL_LOCKS_EXCLUDED(mutex_) {
    const absl::MutexLock lock(&mutex_);
    return known_.size();
  }

 private:
  static constexpr std::size_t kLeast = 64;

  mutable absl::Mutex mutex_;
  std::size_t sweep_at_ ABSL_GUARDED_BY(mutex_) = kLeast;
  absl::flat_hash_map<std::string, std::weak_ptr<const ConnectionSettings>> known_
      ABSL_GUARDED_BY(mutex_);
};

}  // namespace sockbroker::server

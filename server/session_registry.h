// SessionRegistry: the session streams that are open, for a broker that drains. Safe from every
// thread.
#pragma once

#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace sockbroker::server {

class SessionCall;

class SessionRegistry {
 public:
  void Add(const std::shared_ptr<SessionCall>& session) ABSL_LOCKS_EXCLUDED(mutex_) {
    const absl::MutexLock lock(&mutex_);
    sessions_[session.get()] = session;
  }
  void Remove(SessionCall* session) ABSL_LOCKS_EXCLUDED(mutex_) {
    const absl::MutexLock lock(&mutex_);
    sessions_.erase(session);
  }
  std::vector<std::shared_ptr<SessionCall>> All() const ABSL_LOCKS_EXCLUDED(mutex_) {
    std::vector<std::shared_ptr<SessionCall>> all;
    const absl::MutexLock lock(&mutex_);
    for (const auto& [session, weak] : sessions_) {
      if (auto shared = weak.lock()) all.push_back(std::move(shared));
    }
    return all;
  }
  // Until every session has ended, at most so long.
  void WaitUntilEmpty(absl::Duration timeout) const ABSL_LOCKS_EXCLUDED(mutex_) {
    const absl::MutexLock lock(&mutex_);
    const auto empty = [this] {
      mutex_.AssertHeld();
      return sessions_.empty();
    };
    mutex_.AwaitWithTimeout(absl::Condition(&empty), timeout);
  }

 private:
  mutable absl::Mutex mutex_;
  absl::flat_hash_map<SessionCall*, std::weak_ptr<SessionCall>> sessions_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sockbroker::server

// CreationTable: makes Open*, Start* and Accept idempotent. A request with a request_id begins one
// attempt; the same request again waits for that attempt, or gets its result.
//
//   auto entered = table.Enter(key, fingerprint, /*abandonable=*/false, loop,
//                              [](const CreationOutcome& outcome) { ... });
//   if (entered.start) loop->Dispatch(...);  // runs the attempt, and at its end:
//   if (!table.Finish(entered.attempt, outcome)) Undo(outcome);  // nobody waits for it any more
//
// Safe from every thread; callbacks run without a lock, on the thread that calls Enter or Finish.
#pragma once

#include <google/protobuf/message_lite.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/errors.h"
#include "server/handle.h"
#include "streams/cancel.h"
#include "streams/clock.h"
#include "streams/event_loop.h"

namespace sockbroker::server {

// What came of an attempt: an error, or the handle of what was made.
struct CreationOutcome {
  RpcStatus status;
  Handle handle;
};

class CreationTable;

// One attempt. Its runner works on `loop` under `cancel`; the rest is the table's.
class CreationAttempt {
 public:
  CreationAttempt(streams::EventLoop* l, std::string k, std::string f, bool a)
      : loop(l), key(std::move(k)), fingerprint_(std::move(f)), abandonable_(a) {}

  streams::EventLoop* const loop;
  // The table's key; "" without a request_id.
  const std::string key;
  streams::CancelSource cancel;  // on the loop's thread only

 private:
  friend class CreationTable;
  const std::string fingerprint_;
  const bool abandonable_;
  // The table's mutex guards these.
  std::vector<std::pair<uint64_t, std::function<void(const CreationOutcome&)>>> waiters_;
  bool abandoned_ = false;
  bool done_ = false;
  CreationOutcome outcome_;
  absl::Time until_ = absl::InfiniteFuture();
  std::list<std::shared_ptr<CreationAttempt>>* finished_in_ = nullptr;
  std::list<std::shared_ptr<CreationAttempt>>::iterator position_;
};

class CreationTable {
 public:
  using Done = std::function<void(const CreationOutcome&)>;

  // Failures are remembered for `lifetime`, results until Forget; at most `most` of both, else the
  // oldest go first.
  CreationTable(streams::Clock* clock, absl::Duration lifetime, std::size_t most);
  CreationTable(const CreationTable&) = delete;
  CreationTable& operator=(const CreationTable&) = delete;

  struct Entered {
    RpcStatus status;  // INVALID_ARGUMENT (DIFFERENT_REQUEST), or OK and:
    std::shared_ptr<CreationAttempt> attempt;
    uint64_t waiter = 0;
    // The caller must run the attempt.
    bool start = false;
  };
  // `key` "": an attempt of its own. `abandonable`: it ends when everyone who waits has left.
  // `done` may be called before Enter returns.
  Entered Enter(std::string key, std::string fingerprint, bool abandonable,
                streams::EventLoop* loop, Done done) ABSL_LOCKS_EXCLUDED(mutex_);
  // The waiter has gone: its callback is not called any more (unless it is being called).
  void Leave(const std::shared_ptr<CreationAttempt>& attempt, uint64_t waiter)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // The attempt has ended. False: nobody wants the result, and nobody will ever ask for it.
  // RESOURCE_EXHAUSTED, UNAVAILABLE and CANCELLED are told to those who wait and not remembered.
  bool Finish(const std::shared_ptr<CreationAttempt>& attempt, CreationOutcome outcome)
      ABSL_LOCKS_EXCLUDED(mutex_);
  // What the attempt of that key has come to; none: nothing is known of it, or it still runs.
  std::optional<CreationOutcome> Find(const std::string& key) const ABSL_LOCKS_EXCLUDED(mutex_);
  // What the key's attempt made is gone, its tombstone too.
  void Forget(const std::string& key) ABSL_LOCKS_EXCLUDED(mutex_);
  // Cancels every attempt under way.
  void CancelAll() ABSL_LOCKS_EXCLUDED(mutex_);

  std::size_t pending() const ABSL_LOCKS_EXCLUDED(mutex_);
  std::size_t remembered() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  using Attempt = std::shared_ptr<CreationAttempt>;

  void Drop(const Attempt& attempt) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Purge() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void PostCancel(const Attempt& attempt);

  streams::Clock* const clock_;
  const absl::Duration lifetime_;
  const std::size_t most_;

  mutable absl::Mutex mutex_;
  uint64_t next_waiter_ ABSL_GUARDED_BY(mutex_) = 1;
  // Each by its own key.
  absl::flat_hash_map<absl::string_view, Attempt> by_key_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<Attempt> pending_ ABSL_GUARDED_BY(mutex_);
  // In the order in which they ended.
  std::list<Attempt> failures_ ABSL_GUARDED_BY(mutex_);
  std::list<Attempt> successes_ ABSL_GUARDED_BY(mutex_);
};

// What tells one request from another: the method and all of its content, hashed.
std::string Fingerprint(absl::string_view method, const google::protobuf::MessageLite& request);

}  // namespace sockbroker::server

// EventLog: what happened to connections lately, for those who watch: a ring of events, numbered.
//
//   uint64_t sequence = log.Publish(v1::ConnectionEvent::OPENED, "unix", snapshot);
//   bool gap = !log.Read(&cursor, filter, 100, &events);  // behind `cursor`; a gap: some were lost
//
// Safe from every thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "sockbroker/v1/connection.pb.h"

namespace sockbroker::server {

class EventLog {
 public:
  struct Filter {
    std::string principal;
    google::protobuf::Map<std::string, std::string> labels;
    std::string server;
    bool Matches(const v1::Connection& connection) const;
  };
  using Event = std::shared_ptr<const v1::ConnectionEvent>;

  // Keeps at most so many events, and about so many bytes of them.
  EventLog(uint64_t incarnation, std::size_t events, std::size_t bytes);

  // Gives the event's sequence number; the first is 1.
  uint64_t Publish(v1::ConnectionEvent::Kind kind, const std::string& principal,
                   v1::Connection connection) ABSL_LOCKS_EXCLUDED(mutex_);
  // The last number given; 0 when there was none.
  uint64_t head() const ABSL_LOCKS_EXCLUDED(mutex_);
  // The number of the oldest event that is still here, or would be the next.
  uint64_t oldest() const ABSL_LOCKS_EXCLUDED(mutex_);

  // Appends up to `most` events behind `*cursor` that match, and moves the cursor behind what was
  // looked at. False when events right behind the cursor are gone (or it was never reached): the
  // cursor then stands before the oldest.
  bool Read(uint64_t* cursor, const Filter& filter, std::size_t most,
            std::vector<Event>* events) const ABSL_LOCKS_EXCLUDED(mutex_);

  // `wake` is called after each Publish, on the publisher's thread, without a lock; it must be
  // quick. It may still be called once while Unsubscribe returns.
  uint64_t Subscribe(std::function<void()> wake) ABSL_LOCKS_EXCLUDED(mutex_);
  void Unsubscribe(uint64_t id) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Entry {
    std::string principal;
    // Serialised, without its number: a quarter of what the message takes.
    std::string event;
  };

  const uint64_t incarnation_;
  const std::size_t max_events_;
  const std::size_t max_bytes_;

  mutable absl::Mutex mutex_;
  std::deque<Entry> entries_
      ABSL_GUARDED_BY(mutex_);  // without holes: the front's number tells all others'
  std::size_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t head_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t next_subscriber_ ABSL_GUARDED_BY(mutex_) = 1;
  std::map<uint64_t, std::shared_ptr<std::function<void()>>> subscribers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sockbroker::server

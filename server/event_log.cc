#include "server/event_log.h"

#include <utility>

#include "absl/time/clock.h"
#include "server/endpoint_codec.h"
#include "server/options_codec.h"

namespace sockbroker::server {

bool EventLog::Filter::Matches(const v1::Connection& connection) const {
  if (!server.empty() && connection.server() != server) return false;
  const auto& has = connection.options().labels();
  for (const auto& [key, value] : labels) {
    const auto found = has.find(key);
    if (found == has.end() || (!value.empty() && found->second != value)) return false;
  }
  return true;
}

EventLog::EventLog(uint64_t incarnation, std::size_t events, std::size_t bytes)
    : incarnation_(incarnation), max_events_(events), max_bytes_(bytes) {}

uint64_t EventLog::Publish(v1::ConnectionEvent::Kind kind, const std::string& principal,
                           v1::Connection connection) {
  v1::ConnectionEvent event;
  event.set_kind(kind);
  event.set_incarnation(incarnation_);
  *event.mutable_at() = ToProto(absl::Now());
  *event.mutable_connection() = std::move(connection);
  std::string serialized = event.SerializeAsString();
  std::vector<std::shared_ptr<std::function<void()>>> wake;
  uint64_t sequence;
  {
    const absl::MutexLock lock(&mutex_);
    sequence = ++head_;
    bytes_ += serialized.size();
    entries_.push_back({principal, std::move(serialized)});
    while (entries_.size() > 1 && (entries_.size() > max_events_ || bytes_ > max_bytes_)) {
      bytes_ -= entries_.front().event.size();
      entries_.pop_front();
    }
    wake.reserve(subscribers_.size());
    for (const auto& [id, subscriber] : subscribers_) wake.push_back(subscriber);
  }
  for (const auto& subscriber : wake) (*subscriber)();
  return sequence;
}

uint64_t EventLog::head() const {
  const absl::MutexLock lock(&mutex_);
  return head_;
}

uint64_t EventLog::oldest() const {
  const absl::MutexLock lock(&mutex_);
  return head_ + 1 - entries_.size();
}

bool EventLog::Read(uint64_t* cursor, const Filter& filter, std::size_t most,
                    std::vector<Event>* events) const {
  const absl::MutexLock lock(&mutex_);
  const uint64_t first = head_ + 1 - entries_.size();
  if (*cursor + 1 < first || *cursor > head_) {
    *cursor = first - 1;
    return false;
  }
  std::size_t found = 0;
  while (*cursor < head_ && found < most) {
    const Entry& entry = entries_[static_cast<std::size_t>(*cursor + 1 - first)];
    ++*cursor;
    if (entry.principal != filter.principal) continue;
    auto event = std::make_shared<v1::ConnectionEvent>();
    event->ParseFromString(entry.event);
    if (!filter.Matches(event->connection())) continue;
    event->set_sequence(*cursor);
    events->push_back(std::move(event));
    found++;
  }
  return true;
}

uint64_t EventLog::Subscribe(std::function<void()> wake) {
  const absl::MutexLock lock(&mutex_);
  const uint64_t id = next_subscriber_++;
  subscribers_.emplace(id, std::make_shared<std::function<void()>>(std::move(wake)));
  return id;
}

void EventLog::Unsubscribe(uint64_t id) {
  const absl::MutexLock lock(&mutex_);
  subscribers_.erase(id);
}

}  // namespace sockbroker::server

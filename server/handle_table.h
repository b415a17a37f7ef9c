// HandleTable: which handle names what, and what is remembered of those that are gone. One for
// connections, one for servers. Safe from every thread; no lock is held while anything else is
// called.
//
//   table.Insert(handle, {.principal = "unix", .labels = labels}, record);
//   auto found = table.Find("unix", handle_bytes);         // found.record, or found.tombstone
//   table.Bury(handle, tombstone, bytes);                  // remembered, and forgotten later
//   for (auto& item : table.Scan(query, 0, 100)) ...       // oldest first
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/errors.h"
#include "server/handle.h"
#include "server/options_codec.h"
#include "streams/clock.h"

namespace sockbroker::server {

// What lists filter by, and what ties an entry to the request that made it.
struct HandleAttributes {
  std::string principal;
  LabelMap labels;
  std::string server;  // of a connection: the handle of the server that accepted it
  std::string name;    // of a server
  // The creation table's key of the request that made it ("" without request_id): forgotten
  // together.
  std::string request_key;
};

template <typename Record, typename Tombstone>
class HandleTable {
 public:
  struct Found {
    RpcStatus status;  // when neither of these:
    std::shared_ptr<Record> record;
    std::shared_ptr<const Tombstone> tombstone;
  };
  struct Query {
    std::string principal;
    google::protobuf::Map<std::string, std::string> labels;
    std::string server;
    std::string handle_prefix;
    std::string name;
    bool include_closed = false;
  };
  struct Item {
    Handle handle;
    uint64_t order;
    std::shared_ptr<Record> record;
    std::shared_ptr<const Tombstone> tombstone;
  };
  struct Limits {
    absl::Duration tombstone_lifetime;
    std::size_t tombstones;
    std::size_t tombstone_bytes;
  };

  // `on_forgotten` gets the request_key of each entry that is erased.
  HandleTable(BrokerIdentity identity, streams::Clock* clock, Limits limits,
              std::function<void(const std::string&)> on_forgotten)
      : identity_(identity),
        clock_(clock),
        limits_(limits),
        on_forgotten_(std::move(on_forgotten)) {}

  // Later entries list after earlier ones. `listed`: whether Scan shows it from the start (else
  // from Publish on).
  void Insert(const Handle& handle, HandleAttributes attributes, std::shared_ptr<Record> record,
              bool listed = true) ABSL_LOCKS_EXCLUDED(mutex_) {
    auto entry = std::make_shared<Entry>();
    entry->handle = handle;
    entry->attributes = std::move(attributes);
    entry->record = std::move(record);
    const absl::MutexLock lock(&mutex_);
    entry->order = ++last_order_;
    open_++;
    if (listed) List(entry);
    entries_.emplace(handle, std::move(entry));
  }

  void Publish(const Handle& handle) ABSL_LOCKS_EXCLUDED(mutex_) {
    const absl::MutexLock lock(&mutex_);
    const auto found = entries_.find(handle);
    if (found != entries_.end()) List(found->second);
  }

  void SetLabels(const Handle& handle, LabelMap labels) ABSL_LOCKS_EXCLUDED(mutex_) {
    const absl::MutexLock lock(&mutex_);
    const auto found = entries_.find(handle);
    if (found != entries_.end()) found->second->attributes.labels = std::move(labels);
  }

  Found Find(absl::string_view principal, absl::string_view bytes) const
      ABSL_LOCKS_EXCLUDED(mutex_) {
    Found result;
    const std::optional<Handle> handle = Handle::FromBytes(bytes);
    if (!handle.has_value()) {
      result.status = InvalidField("handle", "32 bytes, as the broker gave it");
    } else if (handle->broker_id() != identity_.broker_id) {
      result.status = WrongBroker();
    } else if (handle->incarnation() != identity_.incarnation) {
      result.status = HandleLost();
    } else {
      const absl::MutexLock lock(&mutex_);
      const auto found = entries_.find(*handle);
      // One answer for both: it must not tell anybody that the handle exists.
      if (found == entries_.end() || found->second->attributes.principal != principal) {
        result.status = NoSuchHandle();
      } else {
        result.record = found->second->record;
        result.tombstone = found->second->tombstone;
      }
    }
    return result;
  }

  // The record is gone; `bytes`: what the tombstone takes, about.
  void Bury(const Handle& handle, std::shared_ptr<const Tombstone> tombstone, std::size_t bytes)
      ABSL_LOCKS_EXCLUDED(mutex_) {
    std::shared_ptr<Record> record;  // destroyed after the lock
    std::vector<std::string> forgotten;
    {
      const absl::MutexLock lock(&mutex_);
      const auto found = entries_.find(handle);
      if (found == entries_.end() || found->second->record == nullptr) return;
      Entry& entry = *found->second;
      record = std::move(entry.record);
      entry.record = nullptr;
      entry.tombstone = std::move(tombstone);
      open_--;
      graves_.push_back({handle, clock_->Now() + limits_.tombstone_lifetime, bytes});
      grave_bytes_ += bytes;
      Purge(&forgotten);
    }
    Tell(forgotten);
  }

  // As if it had never been.
  void Erase(const Handle& handle) ABSL_LOCKS_EXCLUDED(mutex_) {
    std::shared_ptr<Entry> entry;
    {
      const absl::MutexLock lock(&mutex_);
      entry = Remove(handle);
    }
    if (entry != nullptr) Tell({entry->attributes.request_key});
  }

  // Drops tombstones whose time is over. Called now and then, so that memory comes back though
  // nothing is closed.
  void PurgeExpired() ABSL_LOCKS_EXCLUDED(mutex_) {
    std::vector<std::string> forgotten;
    {
      const absl::MutexLock lock(&mutex_);
      Purge(&forgotten);
    }
    Tell(forgotten);
  }

  // Up to `most` of the query's principal whose order is above `after`, oldest first.
  std::vector<Item> Scan(const Query& query, uint64_t after, std::size_t most) const
      ABSL_LOCKS_EXCLUDED(mutex_) {
    constexpr int kEntriesPerLock = 1024;  // so that a big table does not stop everybody else
    std::vector<Item> items;
    while (true) {
      const absl::MutexLock lock(&mutex_);
      const auto of_principal = by_principal_.find(query.principal);
      if (of_principal == by_principal_.end()) return items;
      auto position = of_principal->second.upper_bound(after);
      for (int looked_at = 0; looked_at < kEntriesPerLock; looked_at++, position++) {
        if (position == of_principal->second.end() || items.size() == most) return items;
        const Entry& entry = *position->second;
        after = entry.order;
        if (Matches(query, entry))
          items.push_back({entry.handle, entry.order, entry.record, entry.tombstone});
      }
    }
  }

  // Whether one of the principal's open entries has that name.
  bool HasName(absl::string_view principal, absl::string_view name) const
      ABSL_LOCKS_EXCLUDED(mutex_) {
    const absl::MutexLock lock(&mutex_);
    const auto of_principal = by_principal_.find(principal);
    if (of_principal == by_principal_.end()) return false;
    for (const auto& [order, entry] : of_principal->second) {
      if (entry->record != nullptr && entry->attributes.name == name) return true;
    }
    return false;
  }

  // Everything that is not a tombstone.
  std::vector<std::shared_ptr<Record>> Records() const ABSL_LOCKS_EXCLUDED(mutex_) {
    std::vector<std::shared_ptr<Record>> records;
    const absl::MutexLock lock(&mutex_);
    for (const auto& [handle, entry] : entries_) {
      if (entry->record != nullptr) records.push_back(entry->record);
    }
    return records;
  }
  std::size_t open() const ABSL_LOCKS_EXCLUDED(mutex_) {
    const absl::MutexLock lock(&mutex_);
    return open_;
  }
  std::size_t tombstones() const ABSL_LOCKS_EXCLUDED(mutex_) {
    const absl::MutexLock lock(&mutex_);
    return entries_.size() - open_;
  }

 private:
  struct Entry {
    Handle handle;
    uint64_t order = 0;
    bool listed = false;
    HandleAttributes attributes;
    std::shared_ptr<Record> record;
    std::shared_ptr<const Tombstone> tombstone;
  };
  struct Grave {
    Handle handle;
    absl::Time until;
    std::size_t bytes;
  };

  static bool Matches(const Query& query, const Entry& entry) {
    return (query.include_closed || entry.record != nullptr) &&
           (query.server.empty() || query.server == entry.attributes.server) &&
           (query.name.empty() || query.name == entry.attributes.name) &&
           absl::StartsWith(entry.handle.bytes(), query.handle_prefix) &&
           MatchesLabels(query.labels, entry.attributes.labels);
  }
  void List(const std::shared_ptr<Entry>& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    entry->listed = true;
    by_principal_[entry->attributes.principal].emplace(entry->order, entry);
  }
  std::shared_ptr<Entry> Remove(const Handle& handle) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto found = entries_.find(handle);
    if (found == entries_.end()) return nullptr;
    std::shared_ptr<Entry> entry = std::move(found->second);
    entries_.erase(found);
    if (entry->record != nullptr) open_--;
    if (entry->listed) {
      const auto of_principal = by_principal_.find(entry->attributes.principal);
      of_principal->second.erase(entry->order);
      if (of_principal->second.empty()) by_principal_.erase(of_principal);
    }
    return entry;
  }
  // All live equally long, so the oldest grave is the first to go.
  void Purge(std::vector<std::string>* forgotten) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const absl::Time now = clock_->Now();
    while (!graves_.empty() &&
           (graves_.front().until <= now || graves_.size() > limits_.tombstones ||
            grave_bytes_ > limits_.tombstone_bytes)) {
      grave_bytes_ -= graves_.front().bytes;
      const std::shared_ptr<Entry> entry = Remove(graves_.front().handle);
      if (entry != nullptr && !entry->attributes.request_key.empty()) {
        forgotten->push_back(entry->attributes.request_key);
      }
      graves_.pop_front();
    }
  }
  void Tell(const std::vector<std::string>& forgotten) const {
    for (const std::string& key : forgotten) {
      if (!key.empty()) on_forgotten_(key);
    }
  }

  const BrokerIdentity identity_;
  streams::Clock* const clock_;
  const Limits limits_;
  const std::function<void(const std::string&)> on_forgotten_;

  mutable absl::Mutex mutex_;
  absl::flat_hash_map<Handle, std::shared_ptr<Entry>> entries_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<std::string, std::map<uint64_t, std::shared_ptr<Entry>>> by_principal_
      ABSL_GUARDED_BY(mutex_);
  std::deque<Grave> graves_ ABSL_GUARDED_BY(mutex_);
  std::size_t grave_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::size_t open_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t last_order_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace sockbroker::server

// SessionInbox: a Session stream's messages on their way from gRPC's thread to the loop, and who
// asks gRPC for the next one: there is one read at a time.
//
//   gRPC's thread, with a message:                the loop, once told:
//     Arrival arrival = inbox.Put(message);         while (taken = inbox.Take(...), it is a message)
//     if (arrival.read_next) StartRead();             if (taken.read_next) StartRead();
//     if (arrival.tell) tell the loop;                handle taken.message
//                                                     if (inbox.Handled()) StartRead();
#pragma once

#include <cstddef>
#include <deque>
#include <mutex>
#include <utility>

#include "absl/strings/cord.h"

namespace sockbroker::server {

class SessionInbox {
 public:
  // Messages that may wait for the loop before gRPC is asked for the next one; and that the loop
  // handles before others of it have their turn.
  static constexpr std::size_t kAhead = 4;
  // From here on the next message is asked for before one is handled, so that it arrives meanwhile.
  // A small one is handled first: asking makes gRPC send a window update at once, ahead of it.
  static constexpr std::size_t kBulk = 16 * 1024;
  // Answers, acks and the like that may wait for a client that does not read.
  static constexpr std::size_t kMaxUnread = 1 << 20;

  // --- gRPC's thread
  struct Arrival {
    bool read_next;
    bool tell;  // the loop does not know yet that something is here
  };
  Arrival Put(absl::Cord message) {
    const bool bulk = message.size() >= kBulk;
    const std::lock_guard lock(mutex_);
    messages_.push_back(std::move(message));
    const bool read_next = bulk && messages_.size() < kAhead;
    reading_waits_ = !read_next;
    return {read_next, !std::exchange(told_, true)};
  }

  // --- the loop
  enum class Found {
    kMessage,
    kNothing,   // the next Put tells the loop
    kTurnOver,  // the loop must come again, after others
    kStalled,   // too many answers wait; come again when Resume says so
  };
  struct Taken {
    Found found;
    absl::Cord message = {};
    bool read_next = false;
  };
  // `unread`: the bytes of answers that wait for the client.
  Taken Take(std::size_t unread) {
    if (unread > kMaxUnread) {
      stalled_ = true;
      return {Found::kStalled};
    }
    if (taken_ == kAhead) {
      taken_ = 0;
      return {Found::kTurnOver};
    }
    const std::lock_guard lock(mutex_);
    if (messages_.empty()) {
      taken_ = 0;
      told_ = false;
      return {Found::kNothing};
    }
    taken_++;
    Taken taken = {Found::kMessage, std::move(messages_.front())};
    messages_.pop_front();
    if (taken.message.size() >= kBulk) taken.read_next = std::exchange(reading_waits_, false);
    return taken;
  }
  // Whether to start the next read, now that the message is handled.
  bool Handled() {
    const std::lock_guard lock(mutex_);
    return std::exchange(reading_waits_, false);
  }
  // What was taken is to be handled by another loop, which is told by the caller.
  void PutBack(absl::Cord message) {
    taken_ = 0;
    const std::lock_guard lock(mutex_);
    messages_.push_front(std::move(message));
  }
  // Whether the loop must come again now, after kStalled.
  bool Resume(std::size_t unread) {
    return stalled_ && unread <= kMaxUnread && std::exchange(stalled_, false);
  }

 private:
  // The loop's.
  std::size_t taken_ = 0;  // in this turn
  bool stalled_ = false;

  std::mutex mutex_;
  // Under the mutex.
  std::deque<absl::Cord> messages_;
  bool reading_waits_ = false;  // the loop must start the next read
  bool told_ = false;
};

}  // namespace sockbroker::server

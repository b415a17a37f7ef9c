// Lists: pages of what a principal has. What records know lives on their loops, so each loop is
// asked for its part.
//
//   std::vector<v1::Connection> page = co_await SnapshotAll<v1::Connection>(items, keep);
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/broker_core.h"
#include "streams/event_loop.h"
#include "streams/task.h"
#include "streams/wait_queue.h"
#include "streams/with_cancel.h"

namespace sockbroker::server {

// A page's answer stays well below the 4 MiB that gRPC takes by default.
inline constexpr std::size_t kMaxPageBytes = 2 << 20;

// One message for each of `items` (HandleTable::Item), in their order. `keep` is asked on the
// record's loop; where it says no, and for records whose handle has been given up meanwhile, the
// message is empty.
template <typename Message, typename Item, typename Keep>
streams::Task<std::vector<Message>> SnapshotAll(std::vector<Item> items, Keep keep) {
  struct State {
    State(std::vector<Item> i, Keep k)
        : items(std::move(i)), keep(std::move(k)), snapshots(items.size()) {}
    const std::vector<Item> items;
    Keep keep;
    std::vector<Message> snapshots;  // each written by one loop, before it posts that it is done
    int running = 0;                 // the awaiter's loop only
    streams::WaitQueue changed;      // likewise
  };
  streams::EventLoop* const home = (co_await streams::internal::CurrentContext{}).loop;
  auto state = std::make_shared<State>(std::move(items), std::move(keep));
  std::vector<streams::EventLoop*> loops;
  for (std::size_t i = 0; i < state->items.size(); i++) {
    const Item& item = state->items[i];
    if (item.tombstone != nullptr) {
      state->snapshots[i] = item.tombstone->last;
    } else if (std::find(loops.begin(), loops.end(), item.record->loop()) == loops.end()) {
      loops.push_back(item.record->loop());
    }
  }
  for (streams::EventLoop* loop : loops) {
    state->running++;
    loop->Post([state, loop, home] {
      for (std::size_t i = 0; i < state->items.size(); i++) {
        const auto& record = state->items[i].record;
        if (record == nullptr || record->loop() != loop || !state->keep(*record)) continue;
        state->snapshots[i] = record->Snapshot();
      }
      home->Post([state] {
        state->running--;
        state->changed.WakeAll();
      });
    });
  }
  while (state->running > 0) {
    // Soon done in any case: nobody needs to cancel it.
    co_await streams::Shielded([](std::shared_ptr<State> s) -> streams::Task<void> {
      (void)co_await s->changed.Wait();
    }(state));
  }
  co_return std::move(state->snapshots);
}

// A page token is where the next page begins; opaque to clients. False for what isn't one.
inline bool ParsePageToken(const std::string& token, uint64_t* cursor) {
  *cursor = 0;
  return token.empty() || (token.size() <= 20 && absl::SimpleAtoi(token, cursor) && *cursor > 0);
}
inline std::string MakePageToken(uint64_t cursor) {
  return cursor == 0 ? "" : absl::StrCat(cursor);
}

}  // namespace sockbroker::server

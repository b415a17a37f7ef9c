#include "streams/internal/block.h"

#include <array>
#include <new>

#include "absl/strings/string_view.h"

namespace sockbroker::streams::internal {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || \
    (defined(__has_feature) &&                                       \
     (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer)))

char* Block::Allocate() { return static_cast<char*>(::operator new(kSize)); }
void Block::Free(char* data) { ::operator delete(data); }

#else

namespace {

constexpr std::size_t kKept = 32;  // 2 MiB a thread at most

// As in frame_pool.cc: trivially destructible, since a Cord may die after the thread's destructors.
thread_local std::array<char*, kKept> kept;
thread_local std::size_t kept_count = 0;
thread_local bool thread_ended = false;

struct ReturnAtThreadEnd {
  ~ReturnAtThreadEnd() {
    thread_ended = true;
    while (kept_count > 0) ::operator delete(kept[--kept_count]);
  }
};
thread_local ReturnAtThreadEnd return_at_thread_end;

}  // namespace

char* Block::Allocate() {
  if (kept_count > 0) return kept[--kept_count];
  return static_cast<char*>(::operator new(kSize));
}

void Block::Free(char* data) {
  if (thread_ended || kept_count == kKept) {
    ::operator delete(data);
    return;
  }
  (void)&return_at_thread_end;  // makes the thread's guard exist
  kept[kept_count++] = data;
}

#endif

absl::Cord Block::ToCord(std::size_t size) && {
  if (size < kSize / 4) return absl::Cord(absl::string_view(data_, size));
  char* const data = std::exchange(data_, nullptr);
  return absl::MakeCordFromExternal(absl::string_view(data, size), [data] { Free(data); });
}

}  // namespace sockbroker::streams::internal

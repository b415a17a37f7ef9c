#include "streams/internal/frame_pool.h"

#include <array>
#include <new>
#include <utility>

namespace sockbroker::streams::internal {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || \
    (defined(__has_feature) &&                                       \
     (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer)))

void* AllocateFrame(std::size_t size) { return ::operator new(size); }
void FreeFrame(void* frame, std::size_t size) { ::operator delete(frame, size); }

#else

namespace {

constexpr std::size_t kGrain = 64;
constexpr std::size_t kClasses = 32;        // frames up to 2 KiB
constexpr std::size_t kKeptPerClass = 256;  // at most 256 frames of each size a thread

struct FreeList {
  struct Node {
    Node* next;
  };
  Node* head = nullptr;
  std::size_t size = 0;
};

// Trivially destructible on purpose: a frame may be freed after the thread's destructors ran, and
// must not touch a dead pool. What the pool holds at a thread's end is returned by the guard below.
thread_local std::array<FreeList, kClasses> free_lists;
thread_local bool thread_ended = false;

struct ReturnAtThreadEnd {
  ~ReturnAtThreadEnd() {
    thread_ended = true;
    for (FreeList& list : free_lists) {
      while (list.head != nullptr) ::operator delete(std::exchange(list.head, list.head->next));
      list.size = 0;
    }
  }
};
thread_local ReturnAtThreadEnd return_at_thread_end;

std::size_t ClassOf(std::size_t size) { return (size + kGrain - 1) / kGrain - 1; }

}  // namespace

void* AllocateFrame(std::size_t size) {
  const std::size_t index = ClassOf(size);
  if (index >= kClasses) return ::operator new(size);
  FreeList& list = free_lists[index];
  if (list.head == nullptr) return ::operator new((index + 1) * kGrain);
  list.size--;
  return std::exchange(list.head, list.head->next);
}

void FreeFrame(void* frame, std::size_t size) {
  const std::size_t index = ClassOf(size);
  if (index >= kClasses || thread_ended || free_lists[index].size == kKeptPerClass) {
    ::operator delete(frame);
    return;
  }
  (void)&return_at_thread_end;  // makes the thread's guard exist
  FreeList& list = free_lists[index];
  auto* node = static_cast<FreeList::Node*>(frame);
  node->next = list.head;
  list.head = node;
  list.size++;
}

#endif

}  // namespace sockbroker::streams::internal

// FairQueue: whose turn it is to send. A channel that just became ready goes before those that have
// had a turn, so a small answer never waits behind a bulk transfer's next share.
//
//   queue.Add(channel);                              // it has something to send (again)
//   while (Channel* next = queue.Next()) {
//     send_up_to(next, kTurn);
//     if (next->CanSend()) queue.AddAgain(next);     // behind all the others
//   }
//
// `T` has a member `FairQueueHook hook`. A channel must be removed before it is destroyed.
#pragma once

#include <cstddef>

namespace sockbroker::session {

struct FairQueueHook {
  FairQueueHook* previous = nullptr;
  FairQueueHook* next = nullptr;
  void* owner = nullptr;

  bool linked() const { return previous != nullptr; }
  void Unlink() {
    if (!linked()) return;
    previous->next = next;
    next->previous = previous;
    previous = next = nullptr;
  }
};

template <typename T>
class FairQueue {
 public:
  FairQueue() {
    for (FairQueueHook* head : {&fresh_, &again_}) head->previous = head->next = head;
  }
  FairQueue(const FairQueue&) = delete;
  FairQueue& operator=(const FairQueue&) = delete;

  // No-op for one that waits already.
  void Add(T* item) { Append(&fresh_, item); }
  void AddAgain(T* item) { Append(&again_, item); }
  static void Remove(T* item) { item->hook.Unlink(); }
  bool empty() const { return fresh_.next == &fresh_ && again_.next == &again_; }

  // Takes it out.
  T* Next() {
    for (FairQueueHook* head : {&fresh_, &again_}) {
      if (head->next == head) continue;
      FairQueueHook* hook = head->next;
      hook->Unlink();
      return static_cast<T*>(hook->owner);
    }
    return nullptr;
  }

 private:
  static void Append(FairQueueHook* head, T* item) {
    FairQueueHook* hook = &item->hook;
    if (hook->linked()) return;
    hook->owner = item;
    hook->previous = head->previous;
    hook->next = head;
    head->previous->next = hook;
    head->previous = hook;
  }

  FairQueueHook fresh_;
  FairQueueHook again_;
};

}  // namespace sockbroker::session

// LoopThread: an event loop with a thread of its own.
//
//   LoopThread thread("io-0");
//   thread.loop()->Post([] { ... });
//   RunCoroutineThreadsafe(Main(), thread.loop()).Result();
//   // the destructor stops the loop, lets its tasks end and joins the thread
#pragma once

#include <memory>
#include <string>
#include <thread>

#include "streams/event_loop.h"

namespace sockbroker::streams {

class LoopThread {
 public:
  // `name` (at most 15 bytes) is what `top -H` shows.
  explicit LoopThread(const std::string& name, Clock* clock = nullptr);
  ~LoopThread();
  LoopThread(const LoopThread&) = delete;
  LoopThread& operator=(const LoopThread&) = delete;

  EventLoop* loop() const { return loop_.get(); }

 private:
  std::unique_ptr<EventLoop> loop_;
  std::thread thread_;
};

}  // namespace sockbroker::streams

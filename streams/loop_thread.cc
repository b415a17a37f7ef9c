#include "streams/loop_thread.h"

#include <pthread.h>

namespace sockbroker::streams {

LoopThread::LoopThread(const std::string& name, Clock* clock)
    : loop_(std::make_unique<EventLoop>(clock)), thread_([this] { loop_->RunForever(); }) {
  pthread_setname_np(thread_.native_handle(), name.substr(0, 15).c_str());
}

LoopThread::~LoopThread() {
  loop_->Post([loop = loop_.get()] { loop->Stop(); });
  thread_.join();
  loop_.reset();  // ends what still runs, on this thread: nobody else can reach the loop any more
}

}  // namespace sockbroker::streams

// OwnListeners: the addresses the broker itself listens on. No client may have it dial them: the
// call would come back with the broker's own rights.
//
//   listeners.Add(address);
//   if (listeners.Contains(target)) return Denied("own-listener", ...);
//
// Safe from every thread.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "streams/address.h"

namespace sockbroker::server {

class OwnListeners {
 public:
  // As getsockname gives it. A Unix path is also remembered by its inode, so that another path to
  // it is recognised.
  void Add(const streams::SocketAddress& address) ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether connecting to `target` would reach one of them: the same address, any address of this
  // machine where the listener takes all of them, IPv4 in IPv6's clothes, 0.0.0.0 for loopback, the
  // same Unix socket by whatever path.
  bool Contains(const streams::SocketAddress& target) const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Listener {
    streams::SocketAddress address;
    dev_t device = 0;
    ino_t inode = 0;  // 0: not a file
  };

  mutable absl::Mutex mutex_;
  std::vector<Listener> listeners_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sockbroker::server

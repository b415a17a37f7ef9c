// ListeningSocket: one socket the broker itself is reached through: bound, listening, with the
// rights its kind needs, and gone without a trace at the end.
//
//   auto sockets = *ListeningSocket::Open(address, policy, inherited);
//   std::puts(sockets[0].ToString().c_str());  // "unix:/run/x.sock"; for port 0 "127.0.0.1:40721"
//   accept4(sockets[0].fd(), ...);
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/inherited_descriptors.h"
#include "server/listen_address.h"
#include "streams/address.h"
#include "streams/descriptor.h"

namespace sockbroker::server {

class ListeningSocket {
 public:
  // One socket, or for an inherited name as many as have it.
  //
  // A Unix socket's directory is made if it is missing (its last part, mode 0700); the file has
  // mode 0600. The file of a dead broker is replaced; a live one's, or anything else in the way, is
  // kAlreadyExists with a message that names the process. An inherited descriptor must be a
  // listening stream socket that the policy allows; `inherited` may be null.
  static absl::StatusOr<std::vector<ListeningSocket>> Open(const ListenAddress& where,
                                                           const ListenPolicy& policy,
                                                           InheritedDescriptors* inherited);

  ListeningSocket(ListeningSocket&&) noexcept = default;
  ListeningSocket& operator=(ListeningSocket&&) = delete;
  ~ListeningSocket() { RemoveFile(); }

  int fd() const { return descriptor_.get(); }
  const streams::SocketAddress& address() const { return address_; }
  // Whether its callers must speak mutual TLS.
  bool tls() const { return tls_; }
  // As a client takes it: "unix:PATH", "127.0.0.1:PORT", "[::1]:PORT".
  std::string ToString() const;

  // Removes the socket's file, if it is still this one's; the socket goes on. Idempotent.
  void RemoveFile() const;

 private:
  struct File {
    std::string path;
    dev_t device = 0;
    ino_t inode = 0;
  };

  ListeningSocket() = default;
  static absl::StatusOr<ListeningSocket> OpenUnix(const streams::SocketAddress& address);
  static absl::StatusOr<ListeningSocket> OpenTcp(const streams::SocketAddress& address);

  streams::Descriptor descriptor_;
  streams::SocketAddress address_;
  bool tls_ = false;
  // The file this socket made; null for TCP and inherited sockets.
  std::unique_ptr<const File> file_;
};

}  // namespace sockbroker::server

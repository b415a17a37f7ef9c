#include "server/listening_socket.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace sockbroker::server {
namespace {

using streams::Descriptor;
using streams::SocketAddress;

constexpr int kBacklog = 1024;

absl::Status Failed(absl::string_view address, absl::string_view what) {
  return absl::FailedPreconditionError(
      absl::StrCat("can't listen on ", address, ": ", what, ": ", std::strerror(errno)));
}

std::string DirectoryOf(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// Keeps two brokers that start at once from both taking the other's new file for a dead one's.
// Others might hold a lock on a shared directory for ever, so it is not waited for without end.
absl::StatusOr<Descriptor> LockDirectory(const std::string& directory) {
  Descriptor descriptor(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!descriptor.valid()) {
    return absl::FailedPreconditionError(std::strerror(errno));
  }
  for (int tries = 0; flock(descriptor.get(), LOCK_EX | LOCK_NB) != 0; tries++) {
    if (errno != EWOULDBLOCK) return absl::FailedPreconditionError(std::strerror(errno));
    if (tries == 250) return absl::FailedPreconditionError("another process has locked it");
    const timespec pause = {.tv_sec = 0, .tv_nsec = 20'000'000};
    nanosleep(&pause, nullptr);
  }
  return descriptor;
}

// Makes way for a new socket at `address`, whose path is taken: removes the file of a dead one.
absl::Status RemoveStale(const SocketAddress& address) {
  const std::string path = address.unix_path();
  const auto taken = [&](absl::string_view by) {
    return absl::AlreadyExistsError(absl::StrCat("can't listen on unix:", path, ": ", by));
  };
  struct stat file;
  if (lstat(path.c_str(), &file) != 0) {
    return errno == ENOENT ? absl::OkStatus() : Failed(absl::StrCat("unix:", path), "stat");
  }
  if (!S_ISSOCK(file.st_mode)) return taken("a file that is not a socket is in the way");
  const Descriptor probe(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!probe.valid()) return Failed(absl::StrCat("unix:", path), "socket");
  // EAGAIN: alive, with a full backlog.
  if (connect(probe.get(), address.data(), address.size()) == 0 || errno == EAGAIN) {
    ucred peer = {};
    socklen_t size = sizeof(peer);
    // Before it has accepted, the other side is whoever called listen().
    if (getsockopt(probe.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.pid > 0) {
      if (peer.pid == getpid()) return taken("another --listen is for the same file");
      return taken(absl::StrCat("process ", peer.pid,
                                " is listening there; stop it, or choose "
                                "another path with --listen"));
    }
    return taken(
        "another process is listening there; stop it, or choose another path with --listen");
  }
  if (errno != ECONNREFUSED) return taken(std::strerror(errno));
  if (unlink(path.c_str()) != 0 && errno != ENOENT) {
    return Failed(absl::StrCat("unix:", path), "can't remove the file a dead process has left");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ListeningSocket> ListeningSocket::OpenUnix(const SocketAddress& address) {
  const std::string path = address.unix_path();
  const std::string text = absl::StrCat("unix:", path);
  const std::string directory = DirectoryOf(path);
  if (mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
    return Failed(text, absl::StrCat("can't make the directory ", directory));
  }
  absl::StatusOr<Descriptor> lock = LockDirectory(directory);
  if (!lock.ok()) {
    return absl::FailedPreconditionError(absl::StrCat("can't listen on ", text,
                                                      ": can't lock the directory ", directory,
                                                      ": ", lock.status().message()));
  }
  if (absl::Status status = RemoveStale(address); !status.ok()) return status;

  ListeningSocket result;
  result.descriptor_ = Descriptor(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int fd = result.fd();
  if (fd < 0) return Failed(text, "socket");
  // On Linux the socket's own mode becomes the file's, so there is no moment at which others could
  // connect, and the process's umask is left alone.
  if (fchmod(fd, 0600) != 0) return Failed(text, "fchmod");
  if (bind(fd, address.data(), address.size()) != 0) return Failed(text, "bind");
  struct stat file;
  if (lstat(path.c_str(), &file) != 0) return Failed(text, "stat");
  result.file_ = std::make_unique<const File>(File{path, file.st_dev, file.st_ino});
  if (listen(fd, kBacklog) != 0) return Failed(text, "listen");
  result.address_ = SocketAddress::OfLocal(fd);
  return result;
}

absl::StatusOr<ListeningSocket> ListeningSocket::OpenTcp(const SocketAddress& address) {
  const std::string text = address.ToString();
  ListeningSocket result;
  result.descriptor_ =
      Descriptor(socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int fd = result.fd();
  if (fd < 0) return Failed(text, "socket");
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(fd, address.data(), address.size()) != 0) return Failed(text, "bind");
  if (listen(fd, kBacklog) != 0) return Failed(text, "listen");
  result.address_ = SocketAddress::OfLocal(fd);
  return result;
}

absl::StatusOr<std::vector<ListeningSocket>> ListeningSocket::Open(
    const ListenAddress& where, const ListenPolicy& policy, InheritedDescriptors* inherited) {
  std::vector<ListeningSocket> sockets;
  if (where.inherited.empty()) {
    absl::StatusOr<ListeningSocket> socket =
        where.address.is_unix() ? OpenUnix(where.address) : OpenTcp(where.address);
    if (!socket.ok()) return socket.status();
    socket->tls_ = SpeaksTls(socket->address_, policy);
    sockets.push_back(*std::move(socket));
    return sockets;
  }
  const std::string text = absl::StrCat("fd:", where.inherited);
  if (inherited == nullptr) {
    return absl::NotFoundError(absl::StrCat("can't listen on ", text, ": nothing was inherited"));
  }
  absl::StatusOr<std::vector<Descriptor>> descriptors =
      inherited->Take(where.inherited, InheritedDescriptors::Kind::kListening);
  if (!descriptors.ok()) {
    return absl::Status(descriptors.status().code(), absl::StrCat("can't listen on ", text, ": ",
                                                                  descriptors.status().message()));
  }
  for (Descriptor& descriptor : *descriptors) {
    ListeningSocket socket;
    socket.descriptor_ = std::move(descriptor);
    socket.address_ = SocketAddress::OfLocal(socket.fd());
    if (absl::Status status = CheckListenAddress(socket.address_, policy); !status.ok()) {
      return absl::Status(status.code(), absl::StrCat(text, ": ", status.message()));
    }
    if (fcntl(socket.fd(), F_SETFL, fcntl(socket.fd(), F_GETFL) | O_NONBLOCK) != 0) {
      return Failed(text, "fcntl");
    }
    socket.tls_ = SpeaksTls(socket.address_, policy);
    sockets.push_back(std::move(socket));
  }
  return sockets;
}

std::string ListeningSocket::ToString() const {
  return absl::StrCat(address_.is_unix() ? "unix:" : "", address_.ToString());
}

void ListeningSocket::RemoveFile() const {
  if (file_ == nullptr) return;
  struct stat file;
  if (lstat(file_->path.c_str(), &file) != 0) return;
  if (file.st_dev == file_->device && file.st_ino == file_->inode) unlink(file_->path.c_str());
}

}  // namespace sockbroker::server

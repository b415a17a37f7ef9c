#include "server/control_listener.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sockbroker::server {
namespace {

// So many in one turn of the loop, then others have theirs.
constexpr int kAcceptsPerTurn = 64;

}  // namespace

ControlListener::ControlListener(streams::EventLoop* loop, ListeningSocket socket,
                                 ControlListenerOptions options)
    : loop_(loop),
      socket_(std::move(socket)),
      options_(std::move(options)),
      pause_(loop, [this] { AcceptAll(); }),
      continue_(loop, [this] { AcceptAll(); }),
      next_pause_(options_.first_pause) {}

ControlListener::~ControlListener() {
  if (registration_ != nullptr) loop_->Deregister(socket_.fd(), registration_);
}

absl::Status ControlListener::Start() {
  absl::StatusOr<streams::internal::PollRegistration*> registration =
      loop_->Register(socket_.fd(), this);
  if (!registration.ok()) return registration.status();
  registration_ = *registration;
  return absl::OkStatus();
}

void ControlListener::OnPollEvents(uint32_t /*events*/) {
  // While paused, what comes waits in the backlog for the timer.
  if (!paused()) AcceptAll();
}

void ControlListener::AcceptAll() {
  for (int i = 0; i < kAcceptsPerTurn; i++) {
    streams::Descriptor connection(
        accept4(socket_.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (connection.valid()) {
      next_pause_ = options_.first_pause;
      if (Admit(connection.get())) {
        accepted_++;
        options_.on_connection(std::move(connection));
      }
      continue;
    }
    switch (errno) {
      case EAGAIN:
        return;
      case EMFILE:
      case ENFILE:
      case ENOBUFS:
      case ENOMEM:
        PauseFor(errno);
        return;
      case EINVAL:
      case EBADF:
        // Not listening (any more): an inherited socket that somebody else has shut down.
        Trouble(absl::StrCat("accept: ", std::strerror(errno)));
        return;
      default:
        // The connection's own end (ECONNABORTED), a signal, or a network error that accept(2)
        // reports early: the next one may be well.
        continue;
    }
  }
  // Edge-triggered: nobody will call again for what is left.
  continue_.SetAfter(absl::ZeroDuration());
}

bool ControlListener::Admit(int fd) {
  if (!socket_.address().is_unix()) return true;
  ucred peer = {};
  socklen_t size = sizeof(peer);
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
      (peer.uid == options_.allowed_uid || peer.uid == 0)) {
    return true;
  }
  refused_++;
  // Who is refused may try as often as he likes; the log shall not fill up with it.
  if (loop_->Now() < next_complaint_) return false;
  next_complaint_ = loop_->Now() + absl::Seconds(1);
  Trouble(absl::StrCat("refused a connection of user ", peer.uid, " (process ", peer.pid,
                       "): only the broker's own user, ", options_.allowed_uid,
                       ", and root may use it"));
  return false;
}

void ControlListener::PauseFor(int os_errno) {
  Trouble(absl::StrCat("accept: ", std::strerror(os_errno), "; trying again in ",
                       absl::FormatDuration(next_pause_)));
  pause_.SetAfter(next_pause_);
  next_pause_ = std::min(2 * next_pause_, options_.max_pause);
}

void ControlListener::Trouble(absl::string_view sentence) const {
  if (options_.on_trouble) options_.on_trouble(absl::StrCat(socket_.ToString(), ": ", sentence));
}

}  // namespace sockbroker::server

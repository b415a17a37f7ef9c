#include "server/termination_signals.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): sigset_t and friends are POSIX's
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>
#include <utility>

namespace sockbroker::server {
namespace {

streams::Descriptor Valid(int fd, const char* what) {
  if (fd < 0) throw std::system_error(errno, std::generic_category(), what);
  return streams::Descriptor(fd);
}

}  // namespace

TerminationSignals::TerminationSignals(std::function<void(int signal, int count)> on_signal)
    : on_signal_(std::move(on_signal)) {
  signal(SIGPIPE, SIG_IGN);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signals_ = Valid(signalfd(-1, &set, SFD_CLOEXEC), "signalfd");
  stop_ = Valid(eventfd(0, EFD_CLOEXEC), "eventfd");
  thread_ = std::thread([this] { Run(); });
  pthread_setname_np(thread_.native_handle(), "signals");
}

TerminationSignals::~TerminationSignals() {
  const uint64_t one = 1;
  if (write(stop_.get(), &one, sizeof(one)) == sizeof(one)) thread_.join();
}

void TerminationSignals::Run() {
  int count = 0;
  while (true) {
    pollfd polled[] = {{signals_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
    if (poll(polled, 2, -1) < 0) continue;  // EINTR
    if (polled[1].revents != 0) return;
    signalfd_siginfo info;
    if (read(signals_.get(), &info, sizeof(info)) != sizeof(info)) continue;
    on_signal_(static_cast<int>(info.ssi_signo), ++count);
  }
}

}  // namespace sockbroker::server

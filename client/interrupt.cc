#include "client/interrupt.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <utility>

namespace sockbroker::client {

Interrupt::Interrupt()
    : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      stop_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  sigemptyset(&signals_);
}

Interrupt::~Interrupt() {
  if (thread_.joinable()) {
    eventfd_write(stop_fd_, 1);
    thread_.join();
  }
  close(stop_fd_);
  close(fd_);
}

void Interrupt::CatchSignals() {
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction current{};
    sigaction(number, nullptr, &current);
    if (current.sa_handler != SIG_IGN) sigaddset(&signals_, number);
  }
  pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
  thread_ = std::thread([this] { WaitForSignals(); });
}

void Interrupt::WaitForSignals() {
  const int signal_fd = signalfd(-1, &signals_, SFD_CLOEXEC | SFD_NONBLOCK);
  pollfd fds[] = {{signal_fd, POLLIN, 0}, {stop_fd_, POLLIN, 0}};
  while (poll(fds, 2, -1) < 0) {
  }
  signalfd_siginfo info{};
  if ((fds[0].revents & POLLIN) != 0 && read(signal_fd, &info, sizeof(info)) == sizeof(info)) {
    // One thread that does not block them suffices for the next one to end the process.
    pthread_sigmask(SIG_UNBLOCK, &signals_, nullptr);
    Raise(static_cast<int>(info.ssi_signo));
    poll(&fds[1], 1, -1);
  }
  close(signal_fd);
}

void Interrupt::Raise(int signal_number) {
  absl::MutexLock lock(&mutex_);
  if (signal_number_ != 0) return;
  signal_number_ = signal_number;
  eventfd_write(fd_, 1);
  // Under the lock: a Subscription that is gone is never called.
  for (const auto& [id, function] : functions_) function();
}

int Interrupt::signal_number() const {
  absl::MutexLock lock(&mutex_);
  return signal_number_;
}

Interrupt::Subscription::Subscription(Interrupt* interrupt, std::function<void()> function)
    : interrupt_(interrupt) {
  absl::MutexLock lock(&interrupt_->mutex_);
  if (interrupt_->signal_number_ != 0) function();
  id_ = interrupt_->next_id_++;
  interrupt_->functions_.emplace(id_, std::move(function));
}

Interrupt::Subscription::~Subscription() {
  absl::MutexLock lock(&interrupt_->mutex_);
  interrupt_->functions_.erase(id_);
}

}  // namespace sockbroker::client

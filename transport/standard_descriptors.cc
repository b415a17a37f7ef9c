// A program that links this never gives the number of a standard descriptor to anything else. One
// that is closed at the start (`sockbroker ls >&-`) would become the next descriptor that is
// opened, and be spoken to by mistake.
//
// It comes before the constructors of libraries, and so before main(): gRPC's opens an eventfd. No
// header: to link it is to have it.
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace sockbroker {
namespace {

// A closed one is opened the wrong way round, but for stderr: reading stdin is at its end at once,
// and writing to stdout fails (EBADF) as it should, instead of being lost without a word.
//
// By system calls, and without what a sanitizer adds: none has begun yet.
__attribute__((disable_sanitizer_instrumentation)) void OccupyStandardDescriptors() {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    if (syscall(SYS_fcntl, fd, F_GETFD) >= 0) continue;
    // The lowest free number, which is this one: those below it are open by now.
    (void)syscall(SYS_openat, AT_FDCWD, "/dev/null", fd == STDERR_FILENO ? O_WRONLY : O_RDONLY);
  }
}

__attribute__((section(".preinit_array"), used)) void (*const occupy)() = OccupyStandardDescriptors;

}  // namespace
}  // namespace sockbroker

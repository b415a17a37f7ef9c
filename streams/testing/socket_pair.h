// Connected sockets for tests of what the kernel does: one end for a stream, the other to be played
// by hand.
//
//   auto [ours, theirs] = TcpSocketPair();
//   Connection connection = ConnectionOver(std::move(ours));
//   EXPECT_EQ(ReceiveNow(theirs.get(), 100), "hello");
//   ResetNow(&theirs);                                              // RST
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "streams/connection.h"
#include "streams/descriptor.h"

namespace sockbroker::streams {

// Blocking sockets; throws std::runtime_error when the kernel has none. TCP: over the loopback
// interface, on a port that the kernel chose.
std::pair<Descriptor, Descriptor> UnixSocketPair();
std::pair<Descriptor, Descriptor> TcpSocketPair();

// A reader and writer on `socket`, on the running loop.
Connection ConnectionOver(Descriptor socket, StreamOptions options = {});

// The socket that is played by hand. None of these waits.
//
// At most `size` bytes; empty at EOF; none when there is nothing (yet), or after an error, which
// `os_errno` gets.
std::optional<std::string> ReceiveNow(int fd, std::size_t size, int* os_errno = nullptr);
// Whether the kernel took all of it.
bool SendNow(int fd, absl::string_view data);
// Closes with a reset.
void ResetNow(Descriptor* socket);

}  // namespace sockbroker::streams

// A conversation: one connection joined to two descriptors until it is over, then closed or left,
// with the reason said.
//
//   int status = co_await Converse(link, connection, {.peer = "127.0.0.1 port 80"}, {}, notes,
//                                  &interrupt);
//   co_return status;                            // the program's exit status
#pragma once

#include <unistd.h>

#include <string>

#include "client/cpp/connection.h"
#include "client/interrupt.h"
#include "client/notes.h"
#include "client/pump.h"
#include "client/session_link.h"
#include "sockbroker/v1/connection.pb.h"
#include "streams/task.h"

namespace sockbroker::client {

// What a connection needs so that nothing is lost while it closes.
void TuneForConversation(v1::ConnectionOptions* options);

// Makes a pipe hold a megabyte, so that the program on its other side works while the next
// megabyte is fetched. Nothing for what is no pipe, or when the system's bounds don't allow it.
void WidenPipe(int fd);

struct Conversation {
  // What errors call the other end.
  std::string peer;
  int input = STDIN_FILENO;
  int output = STDOUT_FILENO;

  // What becomes of the connection when it is over here.
  enum class After {
    kClose,
    // Closed after a good end; left when the user, the output or the input ended it.
    kCloseAfterGoodEnd,
    kLeave,
  };
  After after = After::kClose;
};

// Pump::Run, and the connection's end. When it is closed after a good end, waits until the kernel
// of the broker's machine has everything that was sent, as a program's own socket would. `link` and
// `interrupt` are borrowed, and may not be null.
streams::Task<int> Converse(SessionLink* link, Connection connection, Conversation conversation,
                            PumpOptions options, Notes notes, Interrupt* interrupt,
                            PumpResult* result = nullptr);

}  // namespace sockbroker::client

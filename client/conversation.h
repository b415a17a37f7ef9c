// A conversation: one open connection joined to two descriptors until it is over, then closed, with
// the reason said.
//
//   int status = Converse(link, connection, "127.0.0.1 port 80", STDIN_FILENO, STDOUT_FILENO, {},
//   notes, &interrupt); return status;                                   // the program's exit
//   status
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "client/broker_link.h"
#include "client/interrupt.h"
#include "client/notes.h"
#include "client/pump.h"

namespace sockbroker::client {

// What a connection needs so that a pump over it is quick, and loses nothing while it closes.
void TuneForPump(v1::ConnectionOptions* options);

// Makes a pipe hold a megabyte, so that the program on its other side works while the next
// megabyte is fetched. Nothing for what is no pipe, or when the system's bounds don't allow it.
void WidenPipe(int fd);

// Every way out but the good one: the broker flushes and closes by itself, nobody waits for it.
void CloseQuickly(BrokerLink& link, const std::string& handle);

// Like Pump::Run, then closes the connection. When it ended in good order, waits until the kernel
// of the broker's machine has everything that was sent, as a program's own socket would. `peer` is
// what errors call the other end. Borrows all; `interrupt` may not be null.
int Converse(BrokerLink& link, const v1::Connection& connection, absl::string_view peer, int input,
             int output, PumpOptions options, const Notes& notes, Interrupt* interrupt,
             PumpResult* result = nullptr);

}  // namespace sockbroker::client

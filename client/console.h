// What the program says on the side, on stderr and stdout, so that it can be read by people and
// harms no terminal.
//
//   PrintError("connect to 127.0.0.1 port 9 failed");  // on stderr: "sockbroker: connect to ..."
//   if (!PrintLine(text)) return kExitBrokenPipe;      // on stdout, at once
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace sockbroker::client {

// Control characters (of a label, a path, a message from far away) made visible; line ends stay.
std::string Printable(absl::string_view text);

void PrintError(absl::string_view text);
// Prints it and gives the exit status it stands for.
int FailWith(const absl::Status& status);

// The text and a line's end on stderr, as one write.
void PrintNote(absl::string_view text);
// The same on stdout. False when nobody reads it any more.
bool PrintLine(absl::string_view text);

}  // namespace sockbroker::client

// Scripts that complete `sockbroker` in a shell, made from what the command line knows, so that
// they are never behind.
//
//   CommandLine line;
//   std::cout << CompletionScript(line.app(), "bash");
//
// Handles are completed by asking the broker (`sockbroker ls -q`), at most for as long as that
// takes to fail.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace CLI {
class App;
}

namespace sockbroker::client {

// `shell` is bash, zsh or fish; empty for any other.
std::string CompletionScript(const CLI::App& app, absl::string_view shell);

}  // namespace sockbroker::client

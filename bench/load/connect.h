// How the load generators reach the server under test.
#pragma once

#include <string>

namespace sockbroker::bench {

// A connected blocking socket to "HOST:PORT" (numeric) or "unix:PATH", TCP_NODELAY set. Ends the
// process with a message when it can't be had: a benchmark without its server has nothing to say.
int ConnectOrDie(const std::string& address);

}  // namespace sockbroker::bench

// The engine as a contestant: one loop, one thread, written as a user of the engine would.
//
//   int main(int argc, char** argv) { return RunEngineServer(argc, argv, /*tls=*/nullptr); }
#pragma once

#include <memory>

#include "streams/tls_context.h"

namespace sockbroker::bench {

// What main gives back. Usage: PROGRAM echo|discard|source tcp|unix:PATH
int RunEngineServer(int argc, char** argv, std::shared_ptr<const streams::TlsContext> tls);

}  // namespace sockbroker::bench

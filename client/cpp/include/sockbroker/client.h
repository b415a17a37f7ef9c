// The client library of sockbroker: everything a program needs.
//
//   find_package(sockbroker REQUIRED COMPONENTS client)
//   target_link_libraries(my_program PRIVATE sockbroker::client)
//
//   #include <sockbroker/client.h>
#pragma once

#include "client/cpp/blocking.h"    // IWYU pragma: export
#include "client/cpp/broker.h"      // IWYU pragma: export
#include "client/cpp/connection.h"  // IWYU pragma: export
#include "client/cpp/options.h"     // IWYU pragma: export
#include "client/cpp/server.h"      // IWYU pragma: export
#include "client/cpp/status.h"      // IWYU pragma: export
#include "streams/streams.h"        // IWYU pragma: export

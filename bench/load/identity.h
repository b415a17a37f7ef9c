// A server's certificate and key for a benchmark, made at its start: nobody verifies it.
#pragma once

#include <string>

namespace sockbroker::bench {

struct Identity {
  std::string certificate_pem;
  std::string key_pem;
};
// Self-signed, with a key on P-256.
Identity MakeIdentity();

}  // namespace sockbroker::bench

// The contract's addresses and TLS facts in the engine's types.
#pragma once

#include "sockbroker/v1/endpoint.pb.h"
#include "sockbroker/v1/tls.pb.h"
#include "streams/address.h"
#include "streams/tls_info.h"

namespace sockbroker::client::internal {

// Unknown (AF_UNSPEC) for an endpoint that has no address.
streams::SocketAddress ToSocketAddress(const v1::Endpoint& endpoint);
streams::TlsInfo ToTlsInfo(const v1::TlsInfo& tls);

}  // namespace sockbroker::client::internal

// The STARTTLS dialogue of XMPP (RFC 6120, 5), for a client.
//
//   std::unique_ptr<StartTlsDialogue> dialogue = MakeXmppStartTls("example.org");
#pragma once

#include <memory>
#include <string>

#include "client/starttls.h"

namespace sockbroker::client {

// `server`: the domain that is asked for.
std::unique_ptr<StartTlsDialogue> MakeXmppStartTls(std::string server);

}  // namespace sockbroker::client

// The STARTTLS dialogues of protocols made of counted bytes: PostgreSQL's SSLRequest, MySQL's
// CLIENT_SSL, LDAP's extended operation (RFC 4511, 4.14).
//
//   std::unique_ptr<StartTlsDialogue> dialogue = MakePostgresStartTls();
#pragma once

#include <memory>

#include "client/starttls.h"

namespace sockbroker::client {

std::unique_ptr<StartTlsDialogue> MakePostgresStartTls();
std::unique_ptr<StartTlsDialogue> MakeMysqlStartTls();
std::unique_ptr<StartTlsDialogue> MakeLdapStartTls();

}  // namespace sockbroker::client

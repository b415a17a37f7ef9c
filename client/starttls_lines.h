// The STARTTLS dialogues of protocols made of lines: SMTP (RFC 3207), FTP (RFC 4217), IMAP
// (RFC 9051), POP3 (RFC 2595).
//
//   std::unique_ptr<StartTlsDialogue> dialogue = MakeImapStartTls();
#pragma once

#include <memory>
#include <string>

#include "client/starttls.h"

namespace sockbroker::client {

// `name`: who we say we are. A server that does not offer STARTTLS is not asked for it.
std::unique_ptr<StartTlsDialogue> MakeSmtpStartTls(std::string name);
std::unique_ptr<StartTlsDialogue> MakeFtpStartTls();
std::unique_ptr<StartTlsDialogue> MakeImapStartTls();
std::unique_ptr<StartTlsDialogue> MakePop3StartTls();

}  // namespace sockbroker::client

#include "client/starttls.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace sockbroker::client {
namespace {

using testing::HasSubstr;
using State = StartTlsDialogue::State;

// A dialogue, fed as a peer would that waits for each of our words.
class Talk {
 public:
  explicit Talk(absl::string_view protocol)
      : dialogue_(MakeStartTlsDialogue(protocol, {"chat.example", "[192.0.2.1]"})) {
    Feed("");
  }

  // What we say to that.
  std::string Feed(absl::string_view bytes) {
    std::string send;
    state_ = dialogue_->Feed(bytes, &send);
    said_ += send;
    fed_ += bytes.size();
    return send;
  }
  std::string Feed(const std::vector<std::string>& answers) {
    std::string last;
    for (const std::string& answer : answers) last = Feed(answer);
    return last;
  }

  State state() const { return state_; }
  // All we said.
  const std::string& said() const { return said_; }
  // How much of what was fed is not plaintext of the dialogue.
  uint64_t left() const { return fed_ - dialogue_->consumed(); }
  const std::string& refusal() const { return dialogue_->refusal(); }

 private:
  std::unique_ptr<StartTlsDialogue> dialogue_;
  State state_ = State::kTalking;
  std::string said_;
  uint64_t fed_ = 0;
};

// A packet of MySQL's with its header.
std::string MysqlPacket(const std::string& content, int number = 0) {
  std::string packet;
  for (const std::size_t byte : {content.size(), content.size() >> 8, content.size() >> 16}) {
    packet.push_back(static_cast<char>(byte & 0xff));
  }
  packet.push_back(static_cast<char>(number));
  return packet + content;
}

std::string MysqlGreeting(int capabilities) {
  std::string content = "\x0a" + std::string("8.0.36") + '\0';
  content += std::string("\x2a\0\0\0", 4) + "12345678" + '\0';
  content.push_back(static_cast<char>(capabilities & 0xff));
  content.push_back(static_cast<char>(capabilities >> 8));
  content += std::string("\xff\x02\0\xff\xdf\x15", 6) + std::string(10, '\0') + "123456789012" +
             std::string("\0mysql_native_password\0", 23);
  return MysqlPacket(content);
}

// LDAPMessage{id, extendedResp{code, "", text}}
std::string LdapResponse(char code, const std::string& text = "", char id = 1) {
  std::string fields = {0x0a, 0x01, code, 0x04, 0x00, 0x04, static_cast<char>(text.size())};
  fields += text;
  const std::string response = {0x02, 0x01, id, 0x78, static_cast<char>(fields.size())};
  const std::string content = response + fields;
  return std::string({0x30, static_cast<char>(content.size())}) + content;
}

constexpr char kXmppHeader[] =
    "<?xml version='1.0'?><stream:stream xmlns='jabber:client' id='a>b' "
    "xmlns:stream='http://etherx.jabber.org/streams' from='chat.example' version='1.0'>";
constexpr char kXmppFeatures[] =
    "<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'><required/></starttls>"
    "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/></stream:features>";
constexpr char kXmppProceed[] = "<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";

// Each protocol's answers that end in TLS.
struct Course {
  std::string protocol;
  std::vector<std::string> answers;
};
std::vector<Course> GoodCourses() {
  return {
      {"smtp",
       {"220-mail.example\r\n220 ready\r\n",
        "250-mail.example\r\n250-SIZE 1000\r\n250 starttls\r\n", "220 go ahead\r\n"}},
      {"imap", {"* OK IMAP4rev1\r\n", "* OK still here\r\ns1 OK begin TLS\r\n"}},
      {"pop3", {"+OK POP3 <1@x>\r\n", "+OK begin\r\n"}},
      {"ftp", {"120 in a minute\r\n220-hello\r\n 220 of you\r\n220 ready\r\n", "234 AUTH TLS\r\n"}},
      {"postgres", {"S"}},
      {"mysql", {MysqlGreeting(0xffff)}},
      {"ldap", {LdapResponse(0)}},
      {"xmpp", {kXmppHeader, kXmppFeatures, kXmppProceed}},
  };
}

TEST(StartTls, EachProtocolComesToTlsAndConsumesItsAnswersWhole) {
  ASSERT_EQ(GoodCourses().size(), StartTlsProtocols().size());
  for (const Course& course : GoodCourses()) {
    Talk talk(course.protocol);
    talk.Feed(course.answers);
    EXPECT_EQ(talk.state(), State::kUpgrade) << course.protocol << ": " << talk.refusal();
    EXPECT_EQ(talk.left(), 0u) << course.protocol;
  }
}

TEST(StartTls, PiecesOfAnySizeMakeNoDifference) {
  for (const Course& course : GoodCourses()) {
    Talk whole(course.protocol);
    whole.Feed(course.answers);
    Talk pieces(course.protocol);
    for (const std::string& answer : course.answers) {
      for (const char byte : answer) {
        ASSERT_EQ(pieces.state(), State::kTalking) << course.protocol;
        pieces.Feed(std::string(1, byte));
      }
    }
    EXPECT_EQ(pieces.state(), State::kUpgrade) << course.protocol;
    EXPECT_EQ(pieces.left(), 0u);
    EXPECT_EQ(pieces.said(), whole.said());
  }
}

TEST(StartTls, WhatIsGluedBehindTheLastAnswerIsNotConsumed) {
  for (const Course& course : GoodCourses()) {
    Talk talk(course.protocol);
    for (std::size_t i = 0; i + 1 < course.answers.size(); ++i) talk.Feed(course.answers[i]);
    talk.Feed(absl::StrCat(course.answers.back(), "EVIL"));
    EXPECT_EQ(talk.state(), State::kUpgrade) << course.protocol;
    EXPECT_EQ(talk.left(), 4u) << course.protocol;
  }
}

TEST(StartTls, NoneIsReadyBeforeItsLastByte) {
  for (const Course& course : GoodCourses()) {
    Talk talk(course.protocol);
    for (std::size_t i = 0; i + 1 < course.answers.size(); ++i) talk.Feed(course.answers[i]);
    const std::string& last = course.answers.back();
    talk.Feed(last.substr(0, last.size() - 1));
    EXPECT_EQ(talk.state(), State::kTalking) << course.protocol;
    talk.Feed(last.substr(last.size() - 1));
    EXPECT_EQ(talk.state(), State::kUpgrade) << course.protocol;
  }
}

TEST(StartTls, AnAnswerWithoutAnEndIsRefused) {
  for (const char* protocol : {"smtp", "imap", "pop3", "ftp", "xmpp"}) {
    Talk talk(protocol);
    talk.Feed(absl::StrCat(protocol == std::string("xmpp") ? "<" : "220",
                           std::string(StartTlsDialogue::kMaxAnswer, 'x')));
    EXPECT_EQ(talk.state(), State::kRefused) << protocol;
    EXPECT_THAT(talk.refusal(), HasSubstr("no end")) << protocol;
  }
}

TEST(StartTls, APeerOfAnotherProtocolIsTold) {
  const std::string http = "HTTP/1.1 400 Bad Request\r\n\r\n";
  for (const std::string& protocol : StartTlsProtocols()) {
    Talk talk(protocol);
    talk.Feed(http);
    EXPECT_EQ(talk.state(), State::kRefused) << protocol;
    EXPECT_THAT(talk.refusal(), HasSubstr("does not speak")) << protocol;
  }
}

TEST(StartTls, AnUnknownProtocolHasNoDialogue) {
  EXPECT_EQ(MakeStartTlsDialogue("gopher", {}), nullptr);
}

// --- each one's own words

TEST(StartTlsSmtp, SaysHelloWithItsNameAndAsks) {
  Talk talk("smtp");
  EXPECT_EQ(talk.Feed("220 mail.example ESMTP\r\n"), "EHLO [192.0.2.1]\r\n");
  EXPECT_EQ(talk.Feed("250-mail.example\r\n250 STARTTLS\r\n"), "STARTTLS\r\n");
}

TEST(StartTlsSmtp, IsRefusedWithTheServersWords) {
  Talk busy("smtp");
  busy.Feed("554 go away\r\n");
  EXPECT_EQ(busy.refusal(), "the server refused: 554 go away");
  Talk old("smtp");
  old.Feed({"220 x\r\n", "502 no EHLO\r\n"});
  EXPECT_EQ(old.refusal(), "the server refused: 502 no EHLO");
  Talk no("smtp");
  no.Feed({"220 x\r\n", "250-x\r\n250 STARTTLS\r\n", "454 TLS not available\r\n"});
  EXPECT_EQ(no.refusal(), "the server refused: 454 TLS not available");
}

TEST(StartTlsSmtp, AServerThatDoesNotOfferItIsNotAsked) {
  Talk talk("smtp");
  // The server's greeting names itself.
  talk.Feed({"220 x\r\n", "250-STARTTLS.example\r\n250 SIZE 10\r\n"});
  EXPECT_EQ(talk.refusal(), "the server does not offer STARTTLS");
  EXPECT_EQ(talk.said(), "EHLO [192.0.2.1]\r\n");
}

TEST(StartTlsSmtp, ALineMayEndWithoutACarriageReturn) {
  Talk talk("smtp");
  talk.Feed({"220 x\n", "250 STARTTLS\n", "220 go\nEVIL"});
  EXPECT_EQ(talk.state(), State::kUpgrade);
  EXPECT_EQ(talk.left(), 4u);
}

TEST(StartTlsFtp, AsksAndIsRefused) {
  Talk talk("ftp");
  EXPECT_EQ(talk.Feed("220 ftp.example\r\n"), "AUTH TLS\r\n");
  talk.Feed("500 what?\r\n");
  EXPECT_EQ(talk.refusal(), "the server refused: 500 what?");
  Talk closed("ftp");
  closed.Feed("421 too many users\r\n");
  EXPECT_EQ(closed.refusal(), "the server refused: 421 too many users");
}

TEST(StartTlsImap, AsksAndIsRefused) {
  Talk talk("imap");
  EXPECT_EQ(talk.Feed("* OK [CAPABILITY IMAP4rev1] ready\r\n"), "s1 STARTTLS\r\n");
  talk.Feed("* CAPABILITY IMAP4rev1\r\ns1 BAD unknown\r\n");
  EXPECT_EQ(talk.refusal(), "the server refused: s1 BAD unknown");
  Talk closed("imap");
  closed.Feed("* BYE full\r\n");
  EXPECT_EQ(closed.refusal(), "the server refused: * BYE full");
}

TEST(StartTlsImap, APreauthenticatedConnectionIsNotUpgraded) {
  Talk talk("imap");
  EXPECT_EQ(talk.Feed("* PREAUTH hello\r\n"), "");
  EXPECT_THAT(talk.refusal(), HasSubstr("PREAUTH"));
}

TEST(StartTlsPop3, AsksAndIsRefused) {
  Talk talk("pop3");
  EXPECT_EQ(talk.Feed("+OK hello\r\n"), "STLS\r\n");
  talk.Feed("-ERR no\r\n");
  EXPECT_EQ(talk.refusal(), "the server refused: -ERR no");
}

TEST(StartTlsPostgres, SpeaksFirstAndTakesAnAnswerOfOneByte) {
  Talk talk("postgres");
  EXPECT_EQ(talk.said(), std::string("\0\0\0\x08\x04\xd2\x16\x2f", 8));
  Talk without("postgres");
  without.Feed("N");
  EXPECT_THAT(without.refusal(), HasSubstr("the server has no TLS"));
  Talk error("postgres");
  error.Feed("E\0\0\0\x10");
  EXPECT_THAT(error.refusal(), HasSubstr("error"));
}

TEST(StartTlsMysql, AnswersTheGreetingWithASslRequest) {
  Talk talk("mysql");
  const std::string request = talk.Feed(MysqlGreeting(0xffff));
  ASSERT_EQ(request.size(), 36u);
  EXPECT_EQ(request.substr(0, 4), std::string("\x20\0\0\x01", 4));
  // CLIENT_PROTOCOL_41, CLIENT_SSL and CLIENT_SECURE_CONNECTION.
  EXPECT_EQ(static_cast<unsigned char>(request[5]) & 0x8a, 0x8a);
}

TEST(StartTlsMysql, IsRefused) {
  Talk without("mysql");
  EXPECT_EQ(without.Feed(MysqlGreeting(0xf7ff)), "");
  EXPECT_EQ(without.refusal(), "the server has no TLS (CLIENT_SSL)");
  Talk blocked("mysql");
  blocked.Feed(MysqlPacket("\xff\x69\x04Host is not allowed to connect"));
  EXPECT_EQ(blocked.refusal(), "the server refused: Host is not allowed to connect");
  Talk cut("mysql");
  cut.Feed(MysqlPacket("\x0a" + std::string("8.0") + '\0' + "1234"));
  EXPECT_THAT(cut.refusal(), HasSubstr("MySQL"));
}

TEST(StartTlsLdap, SpeaksFirst) {
  Talk talk("ldap");
  EXPECT_EQ(talk.said(),
            "\x30\x1d\x02\x01\x01\x77\x18\x80\x16"
            "1.3.6.1.4.1.1466.20037");
}

TEST(StartTlsLdap, IsRefusedWithTheServersWords) {
  Talk without("ldap");
  without.Feed(LdapResponse(2, "unsupported extended operation"));
  EXPECT_EQ(without.refusal(),
            "the server refused: LDAP result 2 (protocolError: the server has no TLS), unsupported "
            "extended operation");
  // A notice of disconnection is nobody's answer.
  Talk leaving("ldap");
  leaving.Feed(LdapResponse(52, "", 0));
  EXPECT_THAT(leaving.refusal(), HasSubstr("LDAP result 52 (unavailable)"));
  Talk other("ldap");
  other.Feed(LdapResponse(0, "", 7));
  EXPECT_EQ(other.state(), State::kRefused);
}

TEST(StartTlsLdap, LongFormsOfLengthsAreRead) {
  std::string answer = LdapResponse(0);
  answer.replace(1, 1, std::string({'\x82', 0, answer[1]}));
  Talk talk("ldap");
  talk.Feed(answer + "EVIL");
  EXPECT_EQ(talk.state(), State::kUpgrade);
  EXPECT_EQ(talk.left(), 4u);
  // An indefinite one, and one of gigabytes.
  for (const char* bad :
       {"\x30\x80\x02\x01", "\x30\x84\x7f\xff\xff\xff\x02", "\x30\x83\x7f\xff\xff"}) {
    Talk refused("ldap");
    refused.Feed(bad);
    EXPECT_EQ(refused.state(), State::kRefused);
  }
}

TEST(StartTlsXmpp, AsksForTheServersNameAndForTls) {
  Talk talk("xmpp");
  EXPECT_THAT(talk.said(), HasSubstr(" to='chat.example' version='1.0'>"));
  EXPECT_EQ(talk.Feed(absl::StrCat(kXmppHeader, kXmppFeatures)),
            "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>");
  // Also as two tags.
  talk.Feed("<proceed xmlns=\"urn:ietf:params:xml:ns:xmpp-tls\"></proceed>\x16");
  EXPECT_EQ(talk.state(), State::kUpgrade);
  EXPECT_EQ(talk.left(), 1u);
}

TEST(StartTlsXmpp, ANameIsNoMarkup) {
  std::string send;
  MakeStartTlsDialogue("xmpp", {"a'/><b&", ""})->Feed("", &send);
  EXPECT_THAT(send, HasSubstr(" to='a&apos;/>&lt;b&amp;' "));
}

TEST(StartTlsXmpp, IsRefused) {
  Talk without("xmpp");
  without.Feed({kXmppHeader, "<stream:features><bind/></stream:features>"});
  EXPECT_EQ(without.refusal(), "the server does not offer STARTTLS");
  Talk nothing("xmpp");
  nothing.Feed({kXmppHeader, "<stream:features/>"});
  EXPECT_EQ(nothing.refusal(), "the server does not offer STARTTLS");
  Talk failure("xmpp");
  failure.Feed({kXmppHeader, kXmppFeatures, "<failure xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"});
  EXPECT_EQ(failure.refusal(), "the server refused: STARTTLS failed");
  Talk unknown("xmpp");
  unknown.Feed({kXmppHeader, "<stream:error><host-unknown/></stream:error></stream:stream>"});
  EXPECT_THAT(unknown.refusal(), HasSubstr("<host-unknown/>"));
  // Said in clear, between the question and the answer.
  Talk chatty("xmpp");
  chatty.Feed({kXmppHeader, kXmppFeatures, absl::StrCat("EVIL", kXmppProceed)});
  EXPECT_EQ(chatty.state(), State::kRefused);
}

}  // namespace
}  // namespace sockbroker::client

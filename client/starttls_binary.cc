#include "client/starttls_binary.h"

#include <cstdint>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sockbroker::client {
namespace {

uint8_t ByteAt(absl::string_view bytes, std::size_t i) { return static_cast<uint8_t>(bytes[i]); }

// --- PostgreSQL

class Postgres final : public StartTlsDialogue {
 protected:
  void Begin(std::string* send) override {
    // A length, and the version that is none: 1234.5679.
    send->append("\x00\x00\x00\x08\x04\xd2\x16\x2f", 8);
  }

  Step Take(absl::string_view unread, std::string* /*send*/) override {
    switch (unread[0]) {
      case 'S':
        return {State::kUpgrade, 1, ""};
      case 'N':
        return Refused("the server has no TLS (it answered N); see `ssl` in its postgresql.conf");
      case 'E':
        return Refused("the server answered the request for TLS with an error");
      default:
        return Refused("the peer does not speak PostgreSQL's protocol");
    }
  }
};

// --- MySQL

class Mysql final : public StartTlsDialogue {
 protected:
  Step Take(absl::string_view unread, std::string* send) override {
    constexpr std::size_t kHeader = 4;
    if (unread.size() < kHeader) return NeedMore();
    const std::size_t size = ByteAt(unread, 0) | ByteAt(unread, 1) << 8 | ByteAt(unread, 2) << 16;
    // Else what we say next is not number 1.
    if (ByteAt(unread, 3) != 0 || size == 0 || size > kMaxGreeting) return NotThat();
    if (unread.size() < kHeader + size) return NeedMore();
    const absl::string_view packet = unread.substr(kHeader, size);
    if (ByteAt(packet, 0) == 0xff) {
      return Refused(
          absl::StrCat("the server refused: ", packet.size() > 3 ? packet.substr(3) : ""));
    }
    if (ByteAt(packet, 0) != 10) return NotThat();
    // Version, connection id, 8 bytes of a challenge and a filler stand before the capabilities.
    const std::size_t version_end = packet.find('\0', 1);
    if (version_end == absl::string_view::npos) return NotThat();
    const std::size_t at = version_end + 1 + 4 + 8 + 1;
    if (packet.size() < at + 2) return NotThat();
    const int capabilities = ByteAt(packet, at) | ByteAt(packet, at + 1) << 8;
    if ((capabilities & kClientSsl) == 0) return Refused("the server has no TLS (CLIENT_SSL)");
    // SSLRequest: capabilities, the largest packet, utf8mb4, 23 reserved bytes. Who logs in says
    // the same capabilities again.
    send->append("\x20\x00\x00\x01", 4);
    send->append("\x05\xae\x0f\x00", 4);
    send->append("\x00\x00\x00\x01", 4);
    send->push_back('\x2d');
    send->append(23, '\0');
    return {State::kUpgrade, kHeader + size, ""};
  }

 private:
  static constexpr int kClientSsl = 0x0800;
  static constexpr std::size_t kMaxGreeting = 4096;
  static Step NotThat() { return Refused("the peer does not speak MySQL's protocol"); }
};

// --- LDAP

// One element of BER, of definite length; none while it is not whole.
struct Element {
  uint8_t tag = 0;
  absl::string_view content;
  // Of all of it; 0: it can never become one.
  std::size_t size = 0;
};
std::optional<Element> FirstElement(absl::string_view bytes) {
  if (bytes.size() < 2) return std::nullopt;
  Element element{.tag = ByteAt(bytes, 0)};
  std::size_t header = 2;
  std::size_t length = ByteAt(bytes, 1);
  if (length >= 0x80) {
    const std::size_t octets = length & 0x7f;
    if (octets == 0 || octets > 3) return element;
    header += octets;
    if (bytes.size() < header) return std::nullopt;
    length = 0;
    for (std::size_t i = 2; i < header; ++i) length = length << 8 | ByteAt(bytes, i);
  }
  if (length > StartTlsDialogue::kMaxAnswer) return element;
  if (bytes.size() < header + length) return std::nullopt;
  element.content = bytes.substr(header, length);
  element.size = header + length;
  return element;
}

class Ldap final : public StartTlsDialogue {
 protected:
  void Begin(std::string* send) override {
    // LDAPMessage{messageID 1, extendedReq{"1.3.6.1.4.1.1466.20037"}}
    send->append("\x30\x1d\x02\x01\x01\x77\x18\x80\x16");
    send->append("1.3.6.1.4.1.1466.20037");
  }

  Step Take(absl::string_view unread, std::string* /*send*/) override {
    const std::optional<Element> message = FirstElement(unread);
    if (!message.has_value()) return ByteAt(unread, 0) == kSequence ? NeedMore() : NotThat();
    if (message->tag != kSequence || message->size == 0) return NotThat();
    absl::string_view rest = message->content;
    const std::optional<Element> id = Next(&rest);
    const std::optional<Element> response = Next(&rest);
    if (!id.has_value() || id->tag != kInteger || !response.has_value() ||
        response->tag != kExtendedResponse) {
      return NotThat();
    }
    absl::string_view fields = response->content;
    const std::optional<Element> code = Next(&fields);
    const std::optional<Element> matched = Next(&fields);
    const std::optional<Element> text = Next(&fields);
    if (!code.has_value() || code->tag != kEnumerated || code->content.size() != 1 ||
        !matched.has_value() || !text.has_value()) {
      return NotThat();
    }
    if (const int result = ByteAt(code->content, 0); result != 0) {
      return Refused(absl::StrCat("the server refused: LDAP result ", result, ResultName(result),
                                  text->content.empty() ? "" : ", ", text->content));
    }
    // A notice of disconnection has 0.
    if (id->content != "\x01") return NotThat();
    return {State::kUpgrade, message->size, ""};
  }

 private:
  static constexpr uint8_t kSequence = 0x30;
  static constexpr uint8_t kInteger = 0x02;
  static constexpr uint8_t kEnumerated = 0x0a;
  static constexpr uint8_t kExtendedResponse = 0x78;

  static std::optional<Element> Next(absl::string_view* rest) {
    std::optional<Element> element = FirstElement(*rest);
    if (!element.has_value() || element->size == 0) return std::nullopt;
    rest->remove_prefix(element->size);
    return element;
  }

  static absl::string_view ResultName(int result) {
    switch (result) {
      case 1:
        return " (operationsError: TLS is there already, or something goes on)";
      case 2:
        return " (protocolError: the server has no TLS)";
      case 52:
        return " (unavailable)";
      default:
        return "";
    }
  }

  static Step NotThat() { return Refused("the peer does not speak LDAP"); }
};

}  // namespace

std::unique_ptr<StartTlsDialogue> MakePostgresStartTls() { return std::make_unique<Postgres>(); }
std::unique_ptr<StartTlsDialogue> MakeMysqlStartTls() { return std::make_unique<Mysql>(); }
std::unique_ptr<StartTlsDialogue> MakeLdapStartTls() { return std::make_unique<Ldap>(); }

}  // namespace sockbroker::client

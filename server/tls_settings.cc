#include "server/tls_settings.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <cstring>
#include <fstream>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "server/endpoint_codec.h"
#include "transport/utf8.h"

namespace sockbroker::server {
namespace {

constexpr std::size_t kMaxContexts = 256;
constexpr std::size_t kMaxPem = 256 * 1024;
constexpr int kMaxAlpn = 32;

bool IsStoreName(absl::string_view name) {
  if (name.empty() || name.size() > 64 || name[0] == '.') return false;
  for (const char c : name) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '-' && c != '_' && c != '.') {
      return false;
    }
  }
  return true;
}

RpcStatus CheckTime(bool present, const google::protobuf::Duration& time, absl::string_view field) {
  if (!present || (time.seconds() >= 0 && time.seconds() <= 86400 && time.nanos() >= 0 &&
                   time.nanos() < 1'000'000'000 && time.seconds() + time.nanos() > 0)) {
    return RpcStatus();
  }
  return InvalidField(field, "a positive time of at most 24 h");
}

absl::Duration ToDuration(const google::protobuf::Duration& time) {
  return absl::Seconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

streams::TlsVersion ToVersion(v1::TlsVersion version, streams::TlsVersion otherwise) {
  if (version == v1::TLS_1_2) return streams::TlsVersion::kTls12;
  if (version == v1::TLS_1_3) return streams::TlsVersion::kTls13;
  return otherwise;
}

streams::TlsVerify ToVerify(v1::TlsVerify verify) {
  switch (verify) {
    case v1::TLS_VERIFY_NONE:
      return streams::TlsVerify::kNone;
    case v1::TLS_VERIFY_OPTIONAL:
      return streams::TlsVerify::kOptional;
    case v1::TLS_VERIFY_REQUIRED:
      return streams::TlsVerify::kRequired;
    default:
      return streams::TlsVerify::kDefault;
  }
}

// What makes two contexts different; hashed, for it holds keys.
std::string ContextKey(const streams::TlsContextOptions& options, absl::string_view principal) {
  EVP_MD_CTX* hash = EVP_MD_CTX_new();
  EVP_DigestInit_ex(hash, EVP_sha256(), nullptr);
  const auto add = [hash](absl::string_view part) {
    const uint64_t size = part.size();
    EVP_DigestUpdate(hash, &size, sizeof(size));
    EVP_DigestUpdate(hash, part.data(), part.size());
  };
  add(principal);
  add(options.ca_pem);
  add(options.certificate_pem);
  add(options.private_key_pem);
  add(options.ciphers);
  add(options.ciphersuites);
  for (const std::string& protocol : options.alpn) add(protocol);
  add(absl::StrCat(static_cast<int>(options.side), static_cast<int>(options.verify),
                   options.check_hostname, static_cast<int>(options.min_version),
                   static_cast<int>(options.max_version), options.session_resumption));
  std::string digest(EVP_MAX_MD_SIZE, '\0');
  unsigned int size = 0;
  EVP_DigestFinal_ex(hash, reinterpret_cast<unsigned char*>(digest.data()), &size);
  EVP_MD_CTX_free(hash);
  digest.resize(size);
  return digest;
}

// Wipes key material when its scope ends.
class Wiped {
 public:
  explicit Wiped(streams::TlsContextOptions* options) : options_(options) {}
  ~Wiped() { OPENSSL_cleanse(options_->private_key_pem.data(), options_->private_key_pem.size()); }
  Wiped(const Wiped&) = delete;
  Wiped& operator=(const Wiped&) = delete;

 private:
  streams::TlsContextOptions* const options_;
};

// The engine's complaint is about one option: the field that it came from.
std::string FieldOf(absl::string_view message) {
  for (const auto& [word, field] :
       {std::pair{"private key", "tls.private_key_pem"},
        std::pair{"certificate", "tls.certificate_pem"}, std::pair{"ca", "tls.ca_pem"},
        std::pair{"alpn", "tls.alpn"}, std::pair{"ciphersuites", "tls.ciphersuites"},
        std::pair{"ciphers", "tls.ciphers"}, std::pair{"min_version", "tls.min_version"}}) {
    if (absl::string_view(message.data(), std::min(message.size(), strlen(word))) == word)
      return field;
  }
  return "tls";
}

}  // namespace

RpcStatus CheckTls(const v1::TlsOptions& tls, streams::TlsSide side) {
  const bool server = side == streams::TlsSide::kServer;
  constexpr absl::string_view kPemAllowed = "PEM, at most 256 KiB";
  constexpr absl::string_view kNameAllowed =
      "a name in the broker's TLS store: letters, digits, '-', '_', '.', at most 64";
  if (tls.ca_pem().size() > kMaxPem) return InvalidField("tls.ca_pem", kPemAllowed);
  if (tls.certificate_pem().size() > kMaxPem) {
    return InvalidField("tls.certificate_pem", kPemAllowed);
  }
  if (tls.private_key_pem().size() > kMaxPem) {
    return InvalidField("tls.private_key_pem", kPemAllowed);
  }
  if (!tls.ca_name().empty() && !IsStoreName(tls.ca_name())) {
    return InvalidField("tls.ca_name", kNameAllowed);
  }
  if (!tls.identity_name().empty() && !IsStoreName(tls.identity_name())) {
    return InvalidField("tls.identity_name", kNameAllowed);
  }
  if (!tls.ca_name().empty() && !tls.ca_pem().empty()) {
    return InvalidField("tls.ca_name", "not together with ca_pem");
  }
  if (!tls.identity_name().empty() && !tls.certificate_pem().empty()) {
    return InvalidField("tls.identity_name", "not together with certificate_pem");
  }
  if (server && tls.identity_name().empty() && tls.certificate_pem().empty()) {
    return InvalidField("tls.certificate_pem", "a server needs a certificate, here or by name");
  }
  if (tls.alpn_size() > kMaxAlpn) return InvalidField("tls.alpn", "at most 32");
  for (const std::string& protocol : tls.alpn()) {
    if (protocol.empty() || protocol.size() > 255) {
      return InvalidField("tls.alpn", "each of 1 to 255 bytes");
    }
  }
  if (!v1::TlsVersion_IsValid(tls.min_version())) {
    return InvalidField("tls.min_version", "TLS_1_2 or TLS_1_3");
  }
  if (!v1::TlsVersion_IsValid(tls.max_version())) {
    return InvalidField("tls.max_version", "TLS_1_2 or TLS_1_3");
  }
  if (!v1::TlsVerify_IsValid(tls.verify()) ||
      (!server && tls.verify() == v1::TLS_VERIFY_OPTIONAL)) {
    return InvalidField("tls.verify", server ? "a TlsVerify" : "NONE or REQUIRED for a client");
  }
  if (server && tls.has_server_hostname()) {
    return InvalidField("tls.server_hostname", "absent: it is a client's");
  }
  if (tls.server_hostname().size() > 253 || tls.server_hostname().find('\0') != std::string::npos) {
    return InvalidField("tls.server_hostname", "at most 253 bytes, without NUL");
  }
  RpcStatus status =
      CheckTime(tls.has_handshake_timeout(), tls.handshake_timeout(), "tls.handshake_timeout");
  if (status.ok()) {
    status = CheckTime(tls.has_shutdown_timeout(), tls.shutdown_timeout(), "tls.shutdown_timeout");
  }
  return status;
}

RpcStatus TlsSettings::ReadNamed(const std::string& name, absl::string_view suffix,
                                 absl::string_view field, std::string* out) const {
  if (store_.empty()) {
    return InvalidField(field, "absent: the broker was started without --tls-store");
  }
  std::ifstream file(absl::StrCat(store_, "/", name, suffix), std::ios::binary);
  std::ostringstream content;
  content << file.rdbuf();
  if (!file.good()) {
    return InvalidField(field,
                        absl::StrCat("the name of a ", suffix, " file in the broker's TLS store"));
  }
  *out = content.str();
  return RpcStatus();
}

RpcStatus TlsSettings::Make(const v1::TlsOptions& tls, streams::TlsSide side,
                            absl::string_view principal, streams::TlsOptions* out) {
  streams::TlsContextOptions options;
  const Wiped wiped(&options);
  options.side = side;
  options.ca_pem = tls.ca_pem();
  options.certificate_pem = tls.certificate_pem();
  options.private_key_pem = tls.private_key_pem();
  RpcStatus status;
  if (!tls.ca_name().empty()) {
    status = ReadNamed(tls.ca_name(), ".ca", "tls.ca_name", &options.ca_pem);
  }
  if (status.ok() && !tls.identity_name().empty()) {
    status = ReadNamed(tls.identity_name(), ".crt", "tls.identity_name", &options.certificate_pem);
    if (status.ok()) {
      status =
          ReadNamed(tls.identity_name(), ".key", "tls.identity_name", &options.private_key_pem);
    }
  }
  if (!status.ok()) return status;
  options.alpn.assign(tls.alpn().begin(), tls.alpn().end());
  options.min_version = ToVersion(tls.min_version(), streams::TlsVersion::kTls12);
  options.max_version = ToVersion(tls.max_version(), streams::TlsVersion::kTls13);
  options.ciphers = tls.ciphers();
  options.ciphersuites = tls.ciphersuites();
  options.verify = ToVerify(tls.verify());
  options.check_hostname = !tls.has_check_hostname() || tls.check_hostname();
  options.session_resumption = !tls.has_session_resumption() || tls.session_resumption();
  options.key_log = key_log_;

  const std::string key = ContextKey(options, principal);
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = by_key_.find(key); found != by_key_.end()) {
      recent_.splice(recent_.begin(), recent_, found->second);
      out->context = found->second->second;
    }
  }
  if (out->context == nullptr) {
    absl::StatusOr<std::shared_ptr<const streams::TlsContext>> context =
        streams::TlsContext::Create(options);
    if (!context.ok()) {
      return InvalidField(FieldOf(context.status().message()), context.status().message());
    }
    out->context = *std::move(context);
    const std::lock_guard lock(mutex_);
    recent_.emplace_front(key, out->context);
    by_key_[key] = recent_.begin();
    if (recent_.size() > kMaxContexts) {
      if (by_key_[recent_.back().first] == std::prev(recent_.end())) {
        by_key_.erase(recent_.back().first);
      }
      recent_.pop_back();
    }
  }
  if (tls.has_server_hostname()) out->server_hostname = tls.server_hostname();
  if (tls.has_handshake_timeout()) out->handshake_timeout = ToDuration(tls.handshake_timeout());
  if (tls.has_shutdown_timeout()) out->shutdown_timeout = ToDuration(tls.shutdown_timeout());
  out->allow_half_close = tls.allow_half_close();
  out->require_close_notify = tls.require_close_notify();
  return RpcStatus();
}

streams::StartTlsOptions ToStartTlsOptions(const streams::TlsOptions& tls) {
  streams::StartTlsOptions options;
  options.server_hostname = tls.server_hostname;
  options.stream.handshake_timeout =
      tls.handshake_timeout.value_or(options.stream.handshake_timeout);
  options.stream.shutdown_timeout = tls.shutdown_timeout.value_or(options.stream.shutdown_timeout);
  options.stream.allow_half_close = tls.allow_half_close;
  options.stream.require_close_notify = tls.require_close_notify;
  return options;
}

v1::TlsInfo ToProto(const streams::TlsInfo& info, bool server_side) {
  v1::TlsInfo proto;
  proto.set_version(info.version);
  proto.mutable_cipher()->set_name(info.cipher);
  proto.mutable_cipher()->set_version(info.version);
  proto.mutable_cipher()->set_bits(info.cipher_bits);
  proto.set_alpn(ToUtf8(info.alpn));
  proto.set_server_name(ToUtf8(info.server_name));
  proto.set_resumed(info.resumed);
  proto.set_verify_code(info.verify_code);
  proto.set_verify_text(info.verify_text);
  proto.set_server_side(server_side);
  for (const std::string& der : info.peer_certificates) {
    v1::Certificate* certificate = proto.add_peer_certificates();
    certificate->set_der(der);
    const std::optional<streams::CertificateText> text = streams::ReadCertificate(der);
    if (!text.has_value()) continue;
    certificate->set_subject(ToUtf8(text->subject));
    certificate->set_issuer(ToUtf8(text->issuer));
    for (const std::string& name : text->subject_alt_names) {
      certificate->add_subject_alt_names(ToUtf8(name));
    }
    *certificate->mutable_not_before() = ToProto(text->not_before);
    *certificate->mutable_not_after() = ToProto(text->not_after);
    certificate->set_serial(text->serial);
    certificate->set_sha256_fingerprint(text->sha256_fingerprint);
  }
  return proto;
}

}  // namespace sockbroker::server

#include "streams/tls_engine.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "streams/address.h"
#include "streams/error.h"
#include "streams/internal/block.h"
#include "streams/internal/openssl.h"

namespace sockbroker::streams {
namespace {

constexpr std::size_t kRecord = 16 * 1024;  // the most plaintext one record holds
// A peer has no reason to renew its keys so often without saying anything in between.
constexpr int kMaxIdleKeyUpdates = 32;

}  // namespace

// The two ends of the BIO: OpenSSL reads what was fed and writes to `out`.
struct TlsEngine::Io {
  // What is being read is stepped through and let go as a whole: cutting off its front record by
  // record would build new trees all the time.
  absl::Cord reading;
  absl::Cord::ChunkIterator position;
  absl::string_view rest;  // of the chunk at `position`
  absl::Cord fed;          // behind `reading`
  std::size_t pending = 0;

  absl::Cord out;
  std::optional<internal::Block> open;  // the end of `out`, still being filled
  std::size_t open_size = 0;
  uint64_t produced = 0;

  void Feed(absl::Cord data) {
    pending += data.size();
    fed.Append(std::move(data));
  }

  void DropInput() {
    rest = {};
    reading.Clear();
    position = {};
    fed.Clear();
    pending = 0;
  }

  int Read(char* data, int size) {
    const std::size_t wanted = std::min(pending, static_cast<std::size_t>(size));
    std::size_t copied = 0;
    while (copied < wanted) {
      if (rest.empty()) NextChunk();
      const std::size_t part = std::min(rest.size(), wanted - copied);
      std::memcpy(data + copied, rest.data(), part);
      rest.remove_prefix(part);
      copied += part;
    }
    pending -= copied;
    if (pending == 0) DropInput();
    return static_cast<int>(copied);
  }

  void NextChunk() {
    if (position != absl::Cord::ChunkIterator()) ++position;
    if (position == reading.chunk_end()) {
      reading = std::move(fed);
      fed.Clear();
      position = reading.chunk_begin();
    }
    rest = *position;
  }

  void Write(const char* data, std::size_t size) {
    produced += size;
    while (size > 0) {
      if (!open.has_value()) open.emplace();
      const std::size_t part = std::min(size, internal::Block::kSize - open_size);
      std::memcpy(open->data() + open_size, data, part);
      open_size += part;
      data += part;
      size -= part;
      if (open_size == internal::Block::kSize) Seal();
    }
  }

  void Seal() {
    if (open.has_value()) out.Append(std::move(*open).ToCord(open_size));
    open.reset();
    open_size = 0;
  }

  // The BIO method is one for the process.
  static BIO_METHOD* Method() {
    static BIO_METHOD* const method = [] {
      BIO_METHOD* m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "sockbroker");
      BIO_meth_set_read(m, [](BIO* bio, char* data, int size) {
        BIO_clear_retry_flags(bio);
        const int copied = static_cast<Io*>(BIO_get_data(bio))->Read(data, size);
        if (copied > 0) return copied;
        BIO_set_retry_read(bio);  // empty means "later", never "end"
        return -1;
      });
      BIO_meth_set_write(m, [](BIO* bio, const char* data, int size) {
        BIO_clear_retry_flags(bio);
        static_cast<Io*>(BIO_get_data(bio))->Write(data, static_cast<std::size_t>(size));
        return size;
      });
      BIO_meth_set_ctrl(m, [](BIO*, int command, long, void*) -> long {  // NOLINT
        return command == BIO_CTRL_FLUSH ? 1 : 0;
      });
      return m;
    }();
    return method;
  }
};

absl::StatusOr<std::unique_ptr<TlsEngine>> TlsEngine::Create(
    std::shared_ptr<const TlsContext> context, std::optional<std::string> server_hostname) {
  ERR_clear_error();
  const TlsContext::State& state = context->state();
  SSL* ssl = SSL_new(state.ctx.get());
  auto io = std::make_unique<Io>();
  BIO* bio = BIO_new(Io::Method());
  BIO_set_data(bio, io.get());
  BIO_set_init(bio, 1);
  SSL_set_bio(ssl, bio, bio);
  std::unique_ptr<TlsEngine> engine(new TlsEngine(std::move(context), ssl, std::move(io)));
  SSL_set_msg_callback(ssl, &TlsEngine::OnMessage);
  SSL_set_msg_callback_arg(ssl, engine.get());

  if (engine->context_->side() == TlsSide::kServer) {
    SSL_set_accept_state(ssl);
    return engine;
  }
  SSL_set_connect_state(ssl);
  if (!server_hostname.has_value() || server_hostname->empty()) return engine;
  if (server_hostname->find('\0') != std::string::npos) {
    return absl::InvalidArgumentError("embedded null byte in server_hostname");
  }
  // OpenSSL would take ".example.org" for any name below it.
  if (server_hostname->front() == '.') {
    return absl::InvalidArgumentError("server_hostname cannot start with a dot");
  }
  X509_VERIFY_PARAM* verify = SSL_get0_param(ssl);
  const bool check = engine->context_->check_hostname();
  if (SocketAddress::FromIp(*server_hostname, 0).ok()) {
    // RFC 6066: an address is no server name. The certificate must still be for it.
    if (check && X509_VERIFY_PARAM_set1_ip_asc(verify, server_hostname->c_str()) != 1) {
      return absl::InvalidArgumentError("server_hostname is not a usable IP address");
    }
    return engine;
  }
  if (SSL_set_tlsext_host_name(ssl, server_hostname->c_str()) != 1) {
    internal::TakeOpensslError();
    return absl::InvalidArgumentError("server_hostname is not a usable name");
  }
  if (check) {
    X509_VERIFY_PARAM_set_hostflags(verify, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    X509_VERIFY_PARAM_set1_host(verify, server_hostname->c_str(), server_hostname->size());
  }
  const std::lock_guard lock(state.sessions_mutex);
  if (const auto session = state.sessions.find(*server_hostname); session != state.sessions.end()) {
    SSL_set_session(ssl, session->second.get());
    // A ticket of TLS 1.3 is for one use: others could see that the two connections are one
    // client's.
    if (SSL_SESSION_get_protocol_version(session->second.get()) == TLS1_3_VERSION) {
      state.sessions.erase(session);
    }
  }
  return engine;
}

TlsEngine::TlsEngine(std::shared_ptr<const TlsContext> context, ssl_st* ssl, std::unique_ptr<Io> io)
    : context_(std::move(context)), ssl_(ssl), io_(std::move(io)) {}

TlsEngine::~TlsEngine() {
  // A connection that ended without close_notify may be resumed all the same (RFC 5246, 7.2.1);
  // OpenSSL would spoil its ticket. Not so after an error.
  if (error_.ok()) SSL_set_shutdown(ssl_, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
  SSL_free(ssl_);
}

void TlsEngine::FeedCiphertext(absl::Cord data) { io_->Feed(std::move(data)); }

std::size_t TlsEngine::ciphertext_pending() const { return io_->pending; }

absl::Cord TlsEngine::TakeCiphertext() {
  io_->Seal();
  absl::Cord out = std::move(io_->out);
  io_->out.Clear();
  return out;
}

void TlsEngine::OnMessage(int write_p, int /*version*/, int content_type, const void* buffer,
                          std::size_t size, ssl_st* /*ssl*/, void* engine) {
  if (write_p != 0 || content_type != SSL3_RT_HANDSHAKE || size == 0) return;
  if (static_cast<const unsigned char*>(buffer)[0] != SSL3_MT_KEY_UPDATE) return;
  auto* self = static_cast<TlsEngine*>(engine);
  if (++self->idle_key_updates_ <= kMaxIdleKeyUpdates) return;
  self->flooded_ = true;
  // One call of OpenSSL would work through all of them.
  self->io_->DropInput();
}

// What a call of OpenSSL came to. The queue was cleared before it.
TlsEngine::Result TlsEngine::Examine(int returned) {
  if (flooded_) {
    error_ = TlsError("too many key updates without data");
    return Result::kError;
  }
  if (returned > 0) return Result::kDone;
  switch (SSL_get_error(ssl_, returned)) {
    case SSL_ERROR_WANT_READ:
      return Result::kWantInput;
    case SSL_ERROR_ZERO_RETURN:
      return Result::kClosed;
    default:
      break;
  }
  const std::string reason = internal::TakeOpensslError();
  const long verify = SSL_get_verify_result(ssl_);  // NOLINT(google-runtime-int)
  if (verify != X509_V_OK && !SSL_is_init_finished(ssl_) &&
      context_->state().options.verify != TlsVerify::kNone) {
    error_ = TlsVerifyError(static_cast<int>(verify), X509_verify_cert_error_string(verify));
  } else {
    error_ = TlsError(reason.empty() ? "the TLS connection failed" : reason);
  }
  return Result::kError;
}

TlsEngine::Result TlsEngine::Handshake() {
  if (!error_.ok()) return Result::kError;
  ERR_clear_error();
  const Result result = Examine(SSL_do_handshake(ssl_));
  if (result == Result::kDone) FillInfo();
  return result;
}

TlsEngine::Result TlsEngine::Read(absl::Cord* plain, std::size_t max) {
  if (!error_.ok()) return Result::kError;
  const std::size_t before = plain->size();
  Result result = Result::kDone;
  while (plain->size() - before < max && result == Result::kDone) {
    // Several records go into one block.
    internal::Block block;
    std::size_t filled = 0;
    const std::size_t room = std::min(internal::Block::kSize, max - (plain->size() - before));
    while (filled < room) {
      std::size_t received = 0;
      ERR_clear_error();
      result = Examine(SSL_read_ex(ssl_, block.data() + filled, room - filled, &received));
      if (result != Result::kDone) break;
      idle_key_updates_ = 0;
      filled += received;
      if (SSL_pending(ssl_) > 0) continue;
      if (io_->pending == 0) {
        // OpenSSL could say nothing else: spares a call for each small message.
        result = Result::kWantInput;
        break;
      }
      if (room - filled < kRecord) break;
    }
    plain->Append(std::move(block).ToCord(filled));
  }
  return result;
}

TlsEngine::Result TlsEngine::Write(absl::Cord* plain) {
  if (!error_.ok()) return Result::kError;
  char gathered[kRecord];
  absl::Cord::CharIterator position = plain->char_begin();
  std::size_t left = plain->size();
  while (left > 0) {
    absl::string_view part = absl::Cord::ChunkRemaining(position);
    if (part.size() < kRecord && part.size() < left) {
      // Small chunks together make one full record rather than many small ones.
      absl::Cord::CharIterator from = position;
      std::size_t size = 0;
      while (size < kRecord && size < left) {
        const absl::string_view chunk = absl::Cord::ChunkRemaining(from);
        const std::size_t take = std::min(chunk.size(), kRecord - size);
        std::memcpy(gathered + size, chunk.data(), take);
        size += take;
        absl::Cord::Advance(&from, take);
      }
      part = absl::string_view(gathered, size);
    }
    std::size_t written = 0;
    ERR_clear_error();
    const Result result = Examine(SSL_write_ex(ssl_, part.data(), part.size(), &written));
    if (result != Result::kDone) {
      plain->RemovePrefix(plain->size() - left);
      return result;
    }
    written_ += written;
    records_.push_back({io_->produced, written_});
    left -= written;
    absl::Cord::Advance(&position, written);
  }
  plain->Clear();
  return Result::kDone;
}

uint64_t TlsEngine::PlaintextWithin(uint64_t sent) {
  while (!records_.empty() && records_.front().ciphertext_end <= sent) {
    within_ = records_.front().plaintext_end;
    records_.pop_front();
  }
  return within_;
}

TlsEngine::Result TlsEngine::SendCloseNotify() {
  if (!error_.ok()) return Result::kError;
  if ((SSL_get_shutdown(ssl_) & SSL_SENT_SHUTDOWN) != 0) return Result::kDone;
  // OpenSSL won't in the middle of a message of the peer's handshake.
  if (SSL_in_init(ssl_)) return Result::kWantInput;
  ERR_clear_error();
  const int returned = SSL_shutdown(ssl_);
  return returned >= 0 ? Result::kDone : Examine(returned);
}

TlsEngine::Result TlsEngine::Shutdown() {
  if (!error_.ok()) return Result::kError;
  // SSL_read and not SSL_shutdown, which gives up in the middle of a message of the handshake.
  char byte;
  std::size_t received = 0;
  ERR_clear_error();
  const Result result = Examine(SSL_read_ex(ssl_, &byte, 1, &received));
  if (result == Result::kClosed) return Result::kDone;
  if (result == Result::kDone) {
    error_ = TlsError("application data after close notify");
    return Result::kError;
  }
  return result;
}

void TlsEngine::FillInfo() {
  info_.version = SSL_get_version(ssl_);
  if (const SSL_CIPHER* cipher = SSL_get_current_cipher(ssl_)) {
    info_.cipher = SSL_CIPHER_get_name(cipher);
    info_.cipher_bits = SSL_CIPHER_get_bits(cipher, nullptr);
  }
  const unsigned char* alpn = nullptr;
  unsigned int alpn_size = 0;
  SSL_get0_alpn_selected(ssl_, &alpn, &alpn_size);
  info_.alpn.assign(reinterpret_cast<const char*>(alpn), alpn_size);
  if (const char* name = SSL_get_servername(ssl_, TLSEXT_NAMETYPE_host_name)) {
    info_.server_name = name;
  }
  info_.resumed = SSL_session_reused(ssl_) == 1;
  const auto add = [this](X509* certificate) {
    unsigned char* der = nullptr;
    const int size = i2d_X509(certificate, &der);
    if (size <= 0) return;
    info_.peer_certificates.emplace_back(reinterpret_cast<char*>(der),
                                         static_cast<std::size_t>(size));
    OPENSSL_free(der);
  };
  if (X509* leaf = SSL_get0_peer_certificate(ssl_)) {
    add(leaf);
    // A client's view of the chain has the leaf in it, a server's hasn't.
    STACK_OF(X509)* chain = SSL_get_peer_cert_chain(ssl_);
    for (int i = context_->side() == TlsSide::kClient ? 1 : 0; i < sk_X509_num(chain); ++i) {
      add(sk_X509_value(chain, i));
    }
  }
  const long verify = SSL_get_verify_result(ssl_);  // NOLINT(google-runtime-int)
  info_.verify_code = static_cast<int>(verify);
  info_.verify_text = X509_verify_cert_error_string(verify);
}

}  // namespace sockbroker::streams

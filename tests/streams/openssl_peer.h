// OpensslPeer: OpenSSL itself as the other side, for what TlsEngine never does: key updates,
// renegotiation, broken-up messages.
//
//   OpensslPeer peer(TlsSide::kServer, [](SSL_CTX* ctx) { SSL_CTX_set_num_tickets(ctx, 0); });
//   ASSERT_TRUE(peer.ShakeHands(*engine));
//   SSL_key_update(peer.ssl(), SSL_KEY_UPDATE_REQUESTED);
#pragma once

#include <functional>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"
#include "streams/internal/openssl.h"
#include "streams/tls_engine.h"
#include "tests/streams/tls_sides.h"

namespace sockbroker::streams {

class OpensslPeer {
 public:
  explicit OpensslPeer(TlsSide side, const std::function<void(SSL_CTX*)>& configure = nullptr)
      : context_(
            SSL_CTX_new(side == TlsSide::kClient ? TLS_client_method() : TLS_server_method())) {
    if (side == TlsSide::kServer) {
      const internal::BioPtr certificate = Pem(ServerIdentity().certificate_pem);
      const internal::BioPtr key = Pem(ServerIdentity().key_pem);
      const internal::X509Ptr x509(PEM_read_bio_X509(certificate.get(), nullptr, nullptr, nullptr));
      const internal::EvpKeyPtr evp(PEM_read_bio_PrivateKey(key.get(), nullptr, nullptr, nullptr));
      SSL_CTX_use_certificate(context_.get(), x509.get());
      SSL_CTX_use_PrivateKey(context_.get(), evp.get());
    }
    if (configure) configure(context_.get());
    ssl_ = SSL_new(context_.get());
    in_ = BIO_new(BIO_s_mem());
    out_ = BIO_new(BIO_s_mem());
    BIO_set_mem_eof_return(in_, -1);
    SSL_set_bio(ssl_, in_, out_);
    side == TlsSide::kClient ? SSL_set_connect_state(ssl_) : SSL_set_accept_state(ssl_);
  }
  ~OpensslPeer() { SSL_free(ssl_); }
  OpensslPeer(const OpensslPeer&) = delete;
  OpensslPeer& operator=(const OpensslPeer&) = delete;

  SSL* ssl() { return ssl_; }

  bool ShakeHands(TlsEngine& engine) {
    bool ours = false;
    bool theirs = false;
    for (int i = 0; i < 10; ++i) {
      if (!theirs) theirs = engine.Handshake() == EngineResult::kDone;
      Feed(engine.TakeCiphertext());
      if (!ours) ours = SSL_do_handshake(ssl_) == 1;
      engine.FeedCiphertext(Take());
    }
    return ours && theirs;
  }

  void Feed(const absl::Cord& ciphertext) {
    for (const absl::string_view chunk : ciphertext.Chunks()) {
      BIO_write(in_, chunk.data(), static_cast<int>(chunk.size()));
    }
  }
  // What it has to say.
  absl::Cord Take() {
    std::string bytes(BIO_ctrl_pending(out_), '\0');
    if (!bytes.empty()) BIO_read(out_, bytes.data(), static_cast<int>(bytes.size()));
    return absl::Cord(bytes);
  }

  bool Write(absl::string_view data) {
    return SSL_write(ssl_, data.data(), static_cast<int>(data.size())) ==
           static_cast<int>(data.size());
  }
  std::string Read() {
    std::string all;
    char block[16384];
    for (int size = 0; (size = SSL_read(ssl_, block, sizeof(block))) > 0;) {
      all.append(block, static_cast<std::size_t>(size));
    }
    ERR_clear_error();
    return all;
  }

 private:
  static internal::BioPtr Pem(const std::string& pem) {
    return internal::BioPtr(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  }

  internal::SslCtxPtr context_;
  SSL* ssl_ = nullptr;
  BIO* in_ = nullptr;   // the SSL's
  BIO* out_ = nullptr;  // the SSL's
};

}  // namespace sockbroker::streams

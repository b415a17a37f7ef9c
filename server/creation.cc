#include "server/creation.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <openssl/sha.h>

#include <utility>

namespace sockbroker::server {

CreationTable::CreationTable(streams::Clock* clock, absl::Duration lifetime, std::size_t most)
    : clock_(clock), lifetime_(lifetime), most_(most) {}

CreationTable::Entered CreationTable::Enter(std::string key, std::string fingerprint,
                                            bool abandonable, streams::EventLoop* loop, Done done) {
  Entered result;
  {
    const absl::MutexLock lock(&mutex_);
    Purge();
    const auto found = key.empty() ? by_key_.end() : by_key_.find(key);
    if (found != by_key_.end() && !found->second->abandoned_) {
      const Attempt& attempt = found->second;
      if (attempt->fingerprint_ != fingerprint) {
        result.status = RpcStatus(grpc::StatusCode::INVALID_ARGUMENT, v1::DIFFERENT_REQUEST,
                                  "the request_id was used for a request of other content");
        result.status.detail().set_field("request_id");
        return result;
      }
      result.attempt = attempt;
      result.waiter = next_waiter_++;
      if (!attempt->done_) {
        attempt->waiters_.emplace_back(result.waiter, std::move(done));
        return result;
      }
    } else {
      if (found != by_key_.end()) by_key_.erase(found);
      result.attempt = std::make_shared<CreationAttempt>(loop, std::move(key),
                                                         std::move(fingerprint), abandonable);
      result.waiter = next_waiter_++;
      result.start = true;
      result.attempt->waiters_.emplace_back(result.waiter, std::move(done));
      pending_.insert(result.attempt);
      if (!result.attempt->key.empty()) by_key_[result.attempt->key] = result.attempt;
      return result;
    }
  }
  done(result.attempt->outcome_);  // it never changes again
  return result;
}

void CreationTable::Leave(const Attempt& attempt, uint64_t waiter) {
  const absl::MutexLock lock(&mutex_);
  if (attempt->done_) return;
  std::erase_if(attempt->waiters_, [waiter](const auto& w) { return w.first == waiter; });
  if (!attempt->waiters_.empty() || !attempt->abandonable_ || attempt->abandoned_) return;
  attempt->abandoned_ = true;
  Drop(attempt);
  PostCancel(attempt);
}

bool CreationTable::Finish(const Attempt& attempt, CreationOutcome outcome) {
  std::vector<std::pair<uint64_t, Done>> waiters;
  {
    const absl::MutexLock lock(&mutex_);
    attempt->done_ = true;
    attempt->outcome_ = std::move(outcome);
    pending_.erase(attempt);
    if (attempt->abandoned_) return false;
    waiters = std::exchange(attempt->waiters_, {});
    const grpc::StatusCode code = attempt->outcome_.status.code();
    if (code == grpc::StatusCode::RESOURCE_EXHAUSTED || code == grpc::StatusCode::UNAVAILABLE ||
        code == grpc::StatusCode::CANCELLED) {
      Drop(attempt);
    } else if (!attempt->key.empty()) {
      const bool ok = code == grpc::StatusCode::OK;
      if (!ok) attempt->until_ = clock_->Now() + lifetime_;
      attempt->finished_in_ = ok ? &successes_ : &failures_;
      attempt->position_ = attempt->finished_in_->insert(attempt->finished_in_->end(), attempt);
      Purge();
    }
  }
  for (const auto& [id, done] : waiters) done(attempt->outcome_);
  return true;
}

std::optional<CreationOutcome> CreationTable::Find(const std::string& key) const {
  const absl::MutexLock lock(&mutex_);
  const auto found = by_key_.find(key);
  if (found == by_key_.end() || !found->second->done_) return std::nullopt;
  return found->second->outcome_;
}

void CreationTable::Forget(const std::string& key) {
  const absl::MutexLock lock(&mutex_);
  const auto found = by_key_.find(key);
  // A newer attempt may have the key by now.
  if (found == by_key_.end() || !found->second->done_) return;
  const Attempt attempt = found->second;
  Drop(attempt);
}

void CreationTable::CancelAll() {
  const absl::MutexLock lock(&mutex_);
  for (const Attempt& attempt : pending_) PostCancel(attempt);
}

std::size_t CreationTable::pending() const {
  const absl::MutexLock lock(&mutex_);
  return pending_.size();
}

std::size_t CreationTable::remembered() const {
  const absl::MutexLock lock(&mutex_);
  return failures_.size() + successes_.size();
}

void CreationTable::Drop(const Attempt& attempt) {
  const auto found = by_key_.find(attempt->key);
  if (found != by_key_.end() && found->second == attempt) by_key_.erase(found);
  if (attempt->finished_in_ != nullptr) {
    std::exchange(attempt->finished_in_, nullptr)->erase(attempt->position_);
  }
}

void CreationTable::Purge() {
  const absl::Time now = clock_->Now();
  while (!failures_.empty() &&
         (failures_.front()->until_ <= now || failures_.size() + successes_.size() > most_)) {
    const Attempt oldest = failures_.front();
    Drop(oldest);
  }
  while (successes_.size() > most_) {
    const Attempt oldest = successes_.front();
    Drop(oldest);
  }
}

void CreationTable::PostCancel(const Attempt& attempt) {
  attempt->loop->Post([attempt] { attempt->cancel.Cancel(); });
}

std::string Fingerprint(absl::string_view method, const google::protobuf::MessageLite& request) {
  std::string content(method);
  content.push_back('\0');
  {
    google::protobuf::io::StringOutputStream stream(&content);  // appends
    google::protobuf::io::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    request.SerializeToCodedStream(&coded);
  }
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(content.data()), content.size(), digest);
  return std::string(reinterpret_cast<const char*>(digest), sizeof(digest));
}

}  // namespace sockbroker::server

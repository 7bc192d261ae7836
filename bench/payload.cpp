#include "payload.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <tenon/model.hpp>
#include <tenon/plan.hpp>

namespace tenon::bench {
namespace {

constexpr std::uint64_t kCacheLine = 64;
constexpr std::uint64_t kStampEvery = 4096;

// splitmix64: a full-period generator, fast enough to fill memory with.
std::uint64_t next_random(std::uint64_t& state) noexcept {
  std::uint64_t z = state += 0x9E3779B97F4A7C15U;
  z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27U)) * 0x94D049BB133111EBU;
  return z ^ (z >> 31U);
}

// Places in one block, each on a cache line of its own, in shuffled order; the total comes last.
std::vector<std::uint64_t> scatter(const Layout& layout) {
  std::vector<std::size_t> order(layout.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::shuffle(order.begin(), order.end(), std::mt19937_64(layout.size()));
  std::vector<std::uint64_t> offsets(layout.size() + 1);
  std::uint64_t end = 0;
  for (const std::size_t i : order) {
    offsets[i] = end;
    end += format::round_up(std::max<std::uint64_t>(layout[i].bytes, 1), kCacheLine);
  }
  offsets.back() = end;
  return offsets;
}

template <class Visit>  // visit(first byte of a stamp, its length)
void for_each_stamp(std::uint64_t bytes, Visit visit) {
  for (std::uint64_t at = 0; at < bytes; at += kStampEvery) {
    visit(at, std::min<std::uint64_t>(sizeof(std::uint64_t), bytes - at));
  }
}

}  // namespace

Payload::Payload(const Layout& layout)
    : layout_(layout), offsets_(scatter(layout)), block_(offsets_.back()), sources_(layout.size()) {
  std::uint64_t state = layout.hash();
  for (std::uint64_t i = 0; i < block_.size(); i += sizeof(std::uint64_t)) {
    const std::uint64_t word = next_random(state);
    std::memcpy(block_.data() + i, &word, sizeof(word));
  }
  for (std::size_t i = 0; i < layout.size(); ++i)
    sources_[i] = {.data = at(i), .dtype = layout[i].dtype, .bytes = layout[i].bytes};
}

void Payload::stamp(std::uint64_t version) noexcept {
  std::uint64_t state = version;
  for (std::size_t i = 0; i < layout_.size(); ++i) {
    for_each_stamp(layout_[i].bytes, [&](std::uint64_t from, std::uint64_t bytes) {
      const std::uint64_t word = next_random(state);
      std::memcpy(at(i) + from, &word, bytes);
    });
  }
}

std::vector<Source> Payload::unchanged() const {
  std::vector<Source> all = sources_;
  for (Source& s : all) s.unchanged = true;
  return all;
}

std::uint64_t Payload::count_different(Publisher& publisher) const {
  return count_different([&](std::size_t i) { return publisher.storage(layout_[i].name); });
}

bool Payload::equals(std::size_t i, const std::byte* data) const noexcept {
  return std::memcmp(data, at(i), layout_[i].bytes) == 0;
}

bool Payload::has_stamps(std::size_t i, const std::byte* data) const noexcept {
  bool same = true;
  for_each_stamp(layout_[i].bytes, [&](std::uint64_t from, std::uint64_t bytes) {
    same = same && std::memcmp(data + from, at(i) + from, bytes) == 0;
  });
  return same;
}

Destination::Destination(const Layout& layout)
    : offsets_(scatter(layout)), block_(offsets_.back()) {
  poison();
}

void Destination::poison() noexcept { std::memset(block_.data(), 0xA5, block_.size()); }

LoadPlan Destination::plan(const Layout& layout) const {
  LoadPlan plan(layout);
  for (std::size_t i = 0; i < layout.size(); ++i) plan.into(layout[i].name, (*this)[i]);
  return plan;
}

void poison_slots(Publisher& publisher) {
  const Layout& layout = publisher.layout();
  Publisher::Update update = publisher.begin();
  for (std::size_t b = 0; b < layout.bucket_count(); ++b)
    std::memset(update.open(b), 0xA5, layout.bucket_bytes(b));
  update.abort();
}

std::vector<Parameter> scaled_model(const std::string& model, std::uint64_t divisor,
                                    std::optional<std::uint32_t> layers) {
  std::vector<Parameter> parameters = model_parameters(model, layers);
  for (Parameter& p : parameters) {
    for (std::uint64_t& dim : p.shape) dim = std::max<std::uint64_t>(1, dim / divisor);
  }
  return parameters;
}

Layout uniform_model(std::uint64_t tensors, const std::vector<std::uint64_t>& shape,
                     const PlanOptions& options) {
  std::vector<Parameter> parameters;
  for (std::uint64_t i = 0; i < tensors; ++i)
    parameters.push_back({"layers." + std::to_string(i) + ".weight", Dtype::bf16, shape});
  return plan(parameters, options);
}

std::size_t natural_buckets(const std::string& model) {
  return plan(model_parameters(model)).bucket_count();
}

Layout plan_with_buckets(const std::vector<Parameter>& parameters, std::size_t buckets) {
  std::uint64_t low = 1;  // too small: more buckets than asked for
  std::uint64_t high = plan(parameters, {.bucket_bytes = 1ULL << 40U}).bucket_bytes(0);
  while (low + 1 < high) {
    const std::uint64_t middle = low + (high - low) / 2;
    (plan(parameters, {.bucket_bytes = middle}).bucket_count() > buckets ? low : high) = middle;
  }
  return plan(parameters, {.bucket_bytes = high});
}

}  // namespace tenon::bench

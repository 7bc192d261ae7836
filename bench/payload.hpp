// Random bytes to publish, and the comparison that every row's `wrong` comes from.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <tenon/layout.hpp>
#include <tenon/plan.hpp>
#include <tenon/publisher.hpp>
#include <tenon/subscriber.hpp>
#include <vector>

#include "child.hpp"

namespace tenon::bench {

/// A trainer's parameters: one block of random bytes, each parameter somewhere in it, not in layout
/// order.
///
/// Every 4096th byte of a parameter begins a stamp of 8 bytes that depends on the version, so that
/// a version which was not handed over, or only in part, does not pass for the next one.
///
/// Threads:  one at a time. Forked children see what the parent stamps.
/// Lifetime: of the sources: as long as this object.
class Payload {
 public:
  explicit Payload(const Layout& layout);

  /// Makes this the data of `version`.
  void stamp(std::uint64_t version) noexcept;
  [[nodiscard]] const std::vector<Source>& sources() const noexcept { return sources_; }
  /// The same, all declared unchanged.
  [[nodiscard]] std::vector<Source> unchanged() const;

  /// Parameters of which `data_of(i)` does not hold exactly the bytes of the source.
  template <class DataOf>
  [[nodiscard]] std::uint64_t count_different(DataOf data_of) const {
    std::uint64_t wrong = 0;
    for (std::size_t i = 0; i < layout_.size(); ++i) wrong += equals(i, data_of(i)) ? 0U : 1U;
    return wrong;
  }
  [[nodiscard]] std::uint64_t count_different(const Lease& lease) const {
    return count_different([&](std::size_t i) { return lease[i].data(); });
  }
  /// The same of what lies in the slots of a publication in place.
  [[nodiscard]] std::uint64_t count_different(Publisher& publisher) const;
  /// The same by the stamps alone: a fast look at every page.
  template <class DataOf>
  [[nodiscard]] std::uint64_t count_stale(DataOf data_of) const {
    std::uint64_t wrong = 0;
    for (std::size_t i = 0; i < layout_.size(); ++i) wrong += has_stamps(i, data_of(i)) ? 0U : 1U;
    return wrong;
  }
  [[nodiscard]] std::uint64_t count_stale(const Lease& lease) const {
    return count_stale([&](std::size_t i) { return lease[i].data(); });
  }

  /// The whole block, which has at least layout.payload_bytes() bytes.
  [[nodiscard]] const std::byte* block() const noexcept { return block_.data(); }

 private:
  [[nodiscard]] bool equals(std::size_t i, const std::byte* data) const noexcept;
  [[nodiscard]] bool has_stamps(std::size_t i, const std::byte* data) const noexcept;
  [[nodiscard]] std::byte* at(std::size_t i) const noexcept { return block_.data() + offsets_[i]; }

  Layout layout_;
  std::vector<std::uint64_t> offsets_;
  SharedBytes block_;
  std::vector<Source> sources_;
};

/// Storage for one whole load, shared across fork().
class Destination {
 public:
  explicit Destination(const Layout& layout);
  [[nodiscard]] std::byte* operator[](std::size_t i) const noexcept {
    return block_.data() + offsets_[i];
  }
  /// Fills it with bytes that no source has throughout.
  void poison() noexcept;
  /// A plan that loads every parameter to here.
  [[nodiscard]] LoadPlan plan(const Layout& layout) const;

 private:
  std::vector<std::uint64_t> offsets_;
  SharedBytes block_;
};

/// Fills the slots of a publication in place with bytes that no source has throughout; nobody may
/// be attached.
void poison_slots(Publisher& publisher);

/// A model's parameters with every dimension divided by `divisor` (at least 1 is left): as many
/// names and records as the real one has, in little memory. `layers` as model_parameters() has it.
[[nodiscard]] std::vector<Parameter> scaled_model(const std::string& model, std::uint64_t divisor,
                                                  std::optional<std::uint32_t> layers = {});

/// Into how many tensors the same bytes are cut by what looks at that (sizes).
inline constexpr std::array<std::uint64_t, 6> kUniformTensors{1, 8, 64, 512, 4096, 32768};

/// So many bf16 tensors of one shape, as models have names for them.
[[nodiscard]] Layout uniform_model(std::uint64_t tensors, const std::vector<std::uint64_t>& shape,
                                   const PlanOptions& options = {});

/// How many buckets the model has at its real size with the default bucket size.
[[nodiscard]] std::size_t natural_buckets(const std::string& model);

/// The layout of `parameters` with `buckets` buckets, or as near to that as packing allows.
[[nodiscard]] Layout plan_with_buckets(const std::vector<Parameter>& parameters,
                                       std::size_t buckets);

}  // namespace tenon::bench

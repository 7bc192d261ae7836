// What of a trainer's sources is refused before anything is written.
#include "publisher_impl.hpp"

namespace tenon {

// Throws for sources that do not fit or cannot be copied. True when they are unchanged throughout.
bool Publisher::Impl::check_sources(std::size_t bucket, std::span<const Source> sources) const {
  const Expected* expected = &expected_[layout_.bucket_parameters(bucket).first];
  bool unchanged = buckets_[bucket].written_in != 0 && !buckets_[bucket].unconfirmed;
  for (std::size_t k = 0; k < sources.size(); ++k) {
    const Source& source = sources[k];
    if (expected[k].tied) continue;
    unchanged = unchanged && source.unchanged;
    const bool as_usual = source.data != nullptr &&
                          source.dtype.value_or(expected[k].dtype) == expected[k].dtype &&
                          source.bytes.value_or(expected[k].bytes) == expected[k].bytes;
    if (!as_usual) check_source(layout_.bucket_parameters(bucket).first + k, source);
  }
  if (unchanged && mode_ != Mode::streaming) return true;
  check_pointers(bucket, sources);
  gather_->check(bucket, sources);
  return unchanged;
}

void Publisher::Impl::check_source(std::size_t parameter, const Source& source) const {
  const Placement place = layout_[parameter];
  const auto refuse = [&](const std::string& why) {
    throw Error(Errc::InvalidArgument, "source " + std::to_string(parameter) + ", of '" +
                                           std::string(place.name) + "': " + why);
  };
  const auto cast = cast_between(source.dtype.value_or(place.dtype), place.dtype);
  if (!cast) {
    refuse("its dtype is " + std::string(info(*source.dtype).name) + ", the layout has " +
           std::string(info(place.dtype).name) +
           ", and Tenon casts only f32 to bf16 or f16 and bf16 to f32");
  }
  if (*cast != Cast::none &&
      reinterpret_cast<std::uintptr_t>(source.data) % info(*source.dtype).bytes != 0)
    refuse("it is to be cast and not aligned to its elements");
  const std::uint64_t needed = source_bytes(*cast, place.bytes);
  if (source.bytes && *source.bytes != needed) {
    refuse("it has " + std::to_string(*source.bytes) + " bytes, the layout has " +
           std::to_string(needed));
  }
  if (source.data == nullptr && place.bytes > 0 && (!source.unchanged || mode_ == Mode::streaming))
    refuse("its pointer is null");
}

// A bucket that will be copied needs every pointer, also those of parameters that did not change.
void Publisher::Impl::check_pointers(std::size_t bucket, std::span<const Source> sources) const {
  const std::size_t first = layout_.bucket_parameters(bucket).first;
  check_not_moved(bucket, sources);
  for (std::size_t k = 0; k < sources.size(); ++k) {
    const Expected& expected = expected_[first + k];
    if (sources[k].data != nullptr || expected.bytes == 0 || expected.tied) continue;
    throw Error(Errc::DirtyBucket,
                "bucket " + std::to_string(bucket) +
                    " must be written again (an aborted version touched it, or another of its "
                    "parameters changed), and '" +
                    std::string(layout_[first + k].name) + "' came without a pointer");
  }
}

// What subscribers have mapped is where the parameters were when it was planned.
void Publisher::Impl::check_not_moved(std::size_t bucket, std::span<const Source> sources) const {
  if (own_.empty() || own_[bucket].allocation == nullptr) return;
  const auto [first, last] = layout_.bucket_parameters(bucket);
  const std::byte* slot = own_[bucket].allocation + own_[bucket].offset;
  for (std::size_t i = first; i < last; ++i) {
    const Placement place = layout_[i];
    if (layout_.tied_to(i) || place.bytes == 0 || sources[i - first].data == slot + place.offset)
      continue;
    throw Error(Errc::InvalidArgument, "'" + std::string(place.name) +
                                           "' is unpacked and has moved since it was planned: "
                                           "create another publication");
  }
}

}  // namespace tenon

#include "gather.hpp"

#include <tenon/checksum.hpp>
#include <utility>

#include "copy_pool.hpp"

namespace tenon {

void append_items(const Layout& layout, std::size_t bucket, std::span<const Source> sources,
                  std::vector<CopyItem>& items) {
  const auto [first, last] = layout.bucket_parameters(bucket);
  for (std::size_t i = first; i < last; ++i) {
    const Placement place = layout[i];
    const Source& source = sources[i - first];
    if (layout.tied_to(i) || place.bytes == 0) continue;  // tied: comes with the original
    const Cast cast = cast_between(source.dtype.value_or(place.dtype), place.dtype).value();
    items.push_back({static_cast<const std::byte*>(source.data),
                     CopyBase::offset<std::byte>(place.offset), place.bytes, 0, 0, 0, cast, 0, 0});
  }
}

void settle_items(std::vector<CopyItem>& items, std::byte* slot) {
  const auto is_there = [base = CopyBase{nullptr, slot}](const CopyItem& item) {
    return base.resolve(item).to == item.from;
  };
  for (const CopyItem& item : items) {
    if (item.cast == Cast::none || !is_there(item)) continue;
    throw Error(
        Errc::InvalidArgument,
        "a parameter that is kept in its slot has the layout's dtype there: it is not cast");
  }
  std::erase_if(items, is_there);
  std::uint64_t end = 0;
  for (CopyItem& item : items) item.end = end += item.row_bytes;
}

namespace {

class HostGather final : public Gather {
 public:
  HostGather(Layout layout, unsigned threads) : layout_(std::move(layout)), pool_(threads) {}

  Stream begin(std::optional<Stream> stream) override {
    if (stream) {
      throw Error(Errc::InvalidArgument,
                  "a publication in host memory takes no stream: its sources are in host memory");
    }
    return nullptr;
  }
  void check(std::size_t, std::span<const Source>) override {}
  bool run(std::size_t bucket, std::span<const Source> sources, std::byte* slot, Stream) override {
    items_.clear();
    append_items(layout_, bucket, sources, items_);
    settle_items(items_, slot);
    pool_.run(items_, {nullptr, slot});
    return true;
  }
  void sum(std::size_t bucket, const std::byte* slot, Stream) override {
    sums_.resize(layout_.size());
    const auto [first, last] = layout_.bucket_parameters(bucket);
    for (std::size_t i = first; i < last; ++i)
      if (!layout_.tied_to(i)) sums_[i] = checksum(slot + layout_[i].offset, layout_[i].bytes);
  }
  const std::uint64_t* sums(Stream) override { return sums_.data(); }
  [[nodiscard]] bool is_idle(Stream) override { return true; }
  void after(Stream, Place, void (*function)(void*), void* argument) override {
    function(argument);
  }
  const char* broken() override { return nullptr; }

 private:
  Layout layout_;
  CopyPool pool_;
  std::vector<CopyItem> items_;  ///< kept to reuse its memory
  std::vector<std::uint64_t> sums_;
};

}  // namespace

std::unique_ptr<Gather> make_host_gather(const Layout& layout, unsigned threads) {
  return std::make_unique<HostGather>(layout, threads);
}

}  // namespace tenon

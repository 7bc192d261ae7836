#include "shard.hpp"

#include <fnmatch.h>

#include <algorithm>
#include <cstring>
#include <tenon/copy_and_wait.hpp>
#include <tenon/plan.hpp>
#include <utility>

namespace tenon::relay {
namespace {

std::vector<std::uint64_t> dims(Shape shape) { return {shape.begin(), shape.end()}; }

/// Where a parameter lies in its global tensor: a whole one at its beginning.
Box box_of(const Layout& layout, std::size_t i) {
  if (auto box = layout.box(i)) return *std::move(box);
  return {dims(layout[i].shape), std::vector<std::uint64_t>(layout[i].shape.rank(), 0)};
}

Parameter parameter_of(const Layout& layout, std::size_t i) {
  const Placement place = layout[i];
  return {std::string(place.name), place.dtype, dims(place.shape), {}, layout.box(i)};
}

/// The part of a parameter that a tensor-parallel rank keeps.
Parameter sliced(const Layout& all, std::size_t i, const Slice& slice) {
  Parameter part = parameter_of(all, i);
  if (slice.dim >= part.shape.size() || slice.of == 0 || slice.rank >= slice.of ||
      part.shape[slice.dim] % slice.of != 0) {
    throw Error(Errc::InvalidArgument,
                "'" + part.name + "' has no part " + std::to_string(slice.rank) + " of " +
                    std::to_string(slice.of) + " along dimension " + std::to_string(slice.dim));
  }
  Box box = box_of(all, i);
  part.shape[slice.dim] /= slice.of;
  box.offset[slice.dim] += slice.rank * part.shape[slice.dim];
  part.box = std::move(box);
  return part;
}

std::uint64_t largest_bucket(const Layout& layout) {
  std::uint64_t largest = 1;
  for (std::size_t b = 0; b < layout.bucket_count(); ++b)
    largest = std::max(largest, layout.bucket_bytes(b));
  return largest;
}

// Copies the box, row by row of its innermost dimension. Outer dimensions count like an odometer.
void copy_box(std::byte* to, const std::byte* from, std::uint64_t element,
              const std::vector<std::uint64_t>& shape, const std::vector<std::uint64_t>& offset,
              const std::vector<std::uint64_t>& extent) {
  const std::size_t rank = shape.size();
  std::vector<std::uint64_t> stride(rank, element);
  for (std::size_t d = rank; d-- > 1;) stride[d - 1] = stride[d] * shape[d];
  // Dimensions that are taken whole join the one outside them into one row.
  std::size_t inner = rank;
  std::uint64_t row = element;
  while (inner > 0) {
    --inner;
    row = extent[inner] * stride[inner];
    if (extent[inner] != shape[inner]) break;
  }
  for (std::size_t d = 0; d < rank; ++d) from += offset[d] * stride[d];
  if (row == 0 || std::find(extent.begin(), extent.end(), 0U) != extent.end()) return;
  std::vector<std::uint64_t> index(inner, 0);
  for (;;) {
    std::uint64_t skip = 0;
    for (std::size_t d = 0; d < inner; ++d) skip += index[d] * stride[d];
    std::memcpy(to, from + skip, row);
    to += row;
    std::size_t d = inner;
    while (d > 0 && ++index[d - 1] == extent[d - 1]) index[--d] = 0;
    if (d == 0) return;
  }
}

}  // namespace

std::optional<Layout> layout_of_parts(const Layout& all, const ReceiverOptions& options) {
  if (options.layout) return options.layout;
  if (options.only.empty()) return std::nullopt;
  std::vector<bool> met(options.only.size());
  std::vector<Parameter> parts;
  for (std::size_t i = 0; i < all.size(); ++i) {
    for (std::size_t k = 0; k < options.only.size(); ++k) {
      const Part& part = options.only[k];
      if (::fnmatch(part.pattern.c_str(), std::string(all[i].name).c_str(), 0) != 0) continue;
      met[k] = true;
      parts.push_back(part.slice ? sliced(all, i, *part.slice) : parameter_of(all, i));
      break;  // the first that fits
    }
  }
  for (std::size_t k = 0; k < met.size(); ++k) {
    if (!met[k])
      throw Error(Errc::NoSuchParameter,
                  "the sender has no parameter that is not taken before and fits '" +
                      options.only[k].pattern + "'");
  }
  return plan(parts,
              {.bucket_bytes = largest_bucket(all), .metadata = std::string(all.metadata())});
}

Shard::Piece Shard::piece_of(const Layout& wanted, std::size_t i, const Layout& all) {
  const Placement want = wanted[i];
  const auto refuse = [&](const std::string& why) {
    throw Error(Errc::Mismatch, "a receiver wants '" + detail::plain(want.name) + "', " + why);
  };
  const auto found = all.find(want.name);
  if (!found) refuse("which is not in the publication");
  const Placement have = all[*found];
  if (want.dtype != have.dtype)
    refuse("as " + std::string(info(want.dtype).name) + ", and it is " +
           std::string(info(have.dtype).name));
  const Box inner = box_of(wanted, i);
  const Box outer = box_of(all, *found);
  const bool whole = !wanted.box(i);
  if (!whole && inner.global_shape != outer.global_shape)
    refuse("as a box of a tensor of another shape");
  if (whole && dims(want.shape) != dims(have.shape)) refuse("whole, and in another shape");
  Piece piece{*found, want.offset, info(want.dtype).bytes, dims(have.shape), {}, dims(want.shape)};
  piece.offset.resize(piece.shape.size());
  for (std::size_t d = 0; !whole && d < piece.shape.size(); ++d) {
    if (inner.offset[d] < outer.offset[d] || inner.offset[d] - outer.offset[d] > piece.shape[d] ||
        piece.extent[d] > piece.shape[d] - (inner.offset[d] - outer.offset[d]))
      refuse("as a box that is not inside what this sender has of it");
    piece.offset[d] = inner.offset[d] - outer.offset[d];
  }
  return piece;
}

Shard::Shard(const Layout& wanted, const Layout& all)
    : wanted_(wanted), pieces_(wanted.bucket_count()) {
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    Piece piece = piece_of(wanted, i, all);
    if (!wanted.tied_to(i)) pieces_[wanted[i].bucket].push_back(std::move(piece));
  }
  // Room is made for a bucket: no more than its parameters need, wherever it says they lie.
  for (std::size_t b = 0; b < wanted.bucket_count(); ++b) {
    std::uint64_t needed = 0;
    const auto [first, last] = wanted.bucket_parameters(b);
    for (std::size_t i = first; i < last; ++i)
      if (!wanted.tied_to(i)) needed += format::round_up(wanted[i].bytes, format::kAlignment);
    if (wanted.bucket_bytes(b) > needed)
      throw Error(Errc::Mismatch, "a receiver wants bucket " + std::to_string(b) + " of " +
                                      std::to_string(wanted.bucket_bytes(b)) +
                                      " bytes, and its parameters need " + std::to_string(needed));
  }
}

std::uint64_t Shard::written_in(std::size_t b, const Lease& lease) const {
  std::uint64_t newest = 0;
  for (const Piece& piece : pieces_[b])
    newest = std::max(newest, lease.written_in(lease.layout()[piece.parameter].bucket));
  return newest;
}

void Shard::fill(std::size_t b, const Lease& lease, MemoryKind slots, std::byte* to,
                 const detail::Deadline& deadline) const {
  std::memset(to, 0, wanted_.bucket_bytes(b));  // what lies between is nobody's to see
  std::vector<std::byte> whole;
  for (const Piece& piece : pieces_[b]) {
    const View view = lease[piece.parameter];
    const std::byte* from = view.data();
    if (slots != MemoryKind::host) {
      whole.resize(std::max<std::size_t>(whole.size(), view.bytes()));
      copy_and_wait(slots, whole.data(), from, view.bytes(), deadline.left());
      from = whole.data();
    }
    copy_box(to + piece.at, from, piece.element, piece.shape, piece.offset, piece.extent);
  }
}

}  // namespace tenon::relay

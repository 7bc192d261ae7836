#include "load_items.hpp"

#include <bit>
#include <string_view>

namespace tenon {
namespace {

using Dims = std::vector<std::uint64_t>;
using std::to_string;

std::string quoted(std::string_view name) { return "'" + std::string(name) + "'"; }

/// Names the target, or else its first part.
[[noreturn]] void refuse(const Layout& layout, const LoadTarget& target, const std::string& why) {
  const bool is_nameless =
      target.name.empty() && !target.parts.empty() && target.parts[0] < layout.size();
  const std::string_view name = is_nameless ? layout[target.parts[0]].name : target.name;
  throw Error(Errc::InvalidArgument, "planning the load of " + quoted(name) + ": " + why);
}

Placement part_of(const Layout& layout, const LoadTarget& target, std::size_t part) {
  const std::size_t index = target.parts[part];
  if (index >= layout.size())
    refuse(layout, target,
           "there is no parameter " + to_string(index) + " among " + to_string(layout.size()));
  return layout[index];
}

void check_dimension(const Layout& layout, const LoadTarget& target, const Placement& part,
                     std::uint32_t dim, const char* purpose) {
  if (dim < part.shape.rank()) return;
  refuse(layout, target,
         quoted(part.name) + " has no dimension " + to_string(dim) + " to " + purpose +
             "; its rank is " + to_string(part.shape.rank()));
}

/// The shape of what the slice takes of a part.
Dims sliced(const Layout& layout, const LoadTarget& target, const Placement& part) {
  Dims shape(part.shape.begin(), part.shape.end());
  if (!target.slice) return shape;
  const auto [dim, rank, of] = *target.slice;
  if (rank >= of)
    refuse(
        layout, target,
        "there is no slice " + to_string(rank) + " of " + to_string(of) + "; ranks count from 0");
  if (of == 1 && shape.empty()) return shape;  // all of a scalar, along whatever
  check_dimension(layout, target, part, dim, "slice");
  if (shape[dim] % of != 0)
    refuse(layout, target,
           "dimension " + to_string(dim) + " of " + quoted(part.name) + " has size " +
               to_string(shape[dim]) + ", not a multiple of " + to_string(of) + " slices");
  shape[dim] /= of;
  return shape;
}

/// The slice does the same to both: their whole shapes tell.
void check_fusible(const Layout& layout, const LoadTarget& target, const Placement& first,
                   const Placement& other) {
  const auto check = [&](bool same, const std::string& what, const std::string& a,
                         const std::string& b) {
    if (!same)
      refuse(layout, target,
             "cannot fuse " + quoted(first.name) + " and " + quoted(other.name) +
                 " along dimension " + to_string(target.fuse_dim) + ": " + what + " is " + a +
                 " of one, " + b + " of the other");
  };
  check(first.dtype == other.dtype, "the dtype", std::string(info(first.dtype).name),
        std::string(info(other.dtype).name));
  check(first.shape.rank() == other.shape.rank(), "the rank", to_string(first.shape.rank()),
        to_string(other.shape.rank()));
  for (std::size_t d = 0; d < first.shape.rank(); ++d)
    check(d == target.fuse_dim || first.shape[d] == other.shape[d],
          "the size of dimension " + to_string(d), to_string(first.shape[d]),
          to_string(other.shape[d]));
}

Dims fused_shape(const Layout& layout, const LoadTarget& target) {
  if (target.parts.empty()) refuse(layout, target, "it has no parts");
  const Placement first = part_of(layout, target, 0);
  Dims shape = sliced(layout, target, first);
  if (target.parts.size() > 1 || !shape.empty())
    check_dimension(layout, target, first, target.fuse_dim, "fuse along");
  for (std::size_t part = 1; part < target.parts.size(); ++part) {
    const Placement other = part_of(layout, target, part);
    check_fusible(layout, target, first, other);
    std::uint64_t& size = shape[target.fuse_dim];
    if (__builtin_add_overflow(size, sliced(layout, target, other)[target.fuse_dim], &size))
      refuse(layout, target,
             "the sizes of its parts in dimension " + to_string(target.fuse_dim) +
                 " add up to 2^64 or more");
  }
  return shape;
}

Cast cast_of(const Layout& layout, const LoadTarget& target, const Placement& part) {
  const Dtype to = target.dtype.value_or(part.dtype);
  if (!is_dtype(static_cast<std::uint8_t>(to)))
    refuse(layout, target, "its dtype is not one of Tenon's");
  if (const auto cast = cast_between(part.dtype, to)) return *cast;
  refuse(layout, target,
         "there is no cast from " + std::string(info(part.dtype).name) + ", the dtype of " +
             quoted(part.name) + ", to " + std::string(info(to).name));
}

/// A target of which everything but `to` has been checked.
struct Destination {
  Destination(const Layout& layout, const LoadTarget& target)
      : shape(fused_shape(layout, target)), cast(cast_of(layout, target, layout[target.parts[0]])) {
    const Dtype from = layout[target.parts[0]].dtype;
    const Dtype to = target.dtype.value_or(from);
    const auto size = byte_size(to, Shape(shape.data(), shape.size()));
    if (!size) refuse(layout, target, "it would have 2^63 bytes or more");
    bytes = *size;
    from_element = info(from).bytes;
    to_element = info(to).bytes;
  }
  Dims shape;
  Cast cast;
  std::uint64_t bytes = 0;
  std::uint64_t from_element = 0, to_element = 0;  // bytes of one
};

void check_address(const Layout& layout, const LoadTarget& target, const Destination& destination) {
  if (target.to == nullptr) refuse(layout, target, "the destination is null");
  const std::uint64_t element = destination.to_element;
  if (destination.cast != Cast::none && reinterpret_cast<std::uintptr_t>(target.to) % element != 0)
    refuse(layout, target,
           "a cast needs a destination aligned to " + to_string(element) + " bytes");
}

/// Elements of dimension `dim` and those inside it.
std::uint64_t elements_from(const Dims& shape, std::size_t dim) {
  std::uint64_t elements = 1;
  for (std::size_t d = dim; d < shape.size(); ++d) elements *= shape[d];
  return elements;
}

/// A dimension, or several that lie as one in both source and destination. All in elements.
struct Axis {
  std::uint64_t size, from_stride, to_stride;
};
/// A box of elements as items see it: a row, rows, and items.
struct Axes {
  std::uint64_t row;
  Axis rows, items;
};

/// The box `shape` out of a tensor `from` into a tensor `to`. A slice interrupts the source at one
/// dimension and fusing the destination at another, so at most three axes remain.
Axes axes_of(const Dims& shape, Shape from, const Dims& to) {
  std::vector<Axis> axes{{1, 1, 1}};  // innermost first
  Axis next{1, 1, 1};
  for (std::size_t d = shape.size(); d-- > 0;) {
    next.size = shape[d];
    Axis& last = axes.back();
    if (last.size * last.from_stride == next.from_stride &&
        last.size * last.to_stride == next.to_stride) {
      last.size *= next.size;
    } else {
      axes.push_back(next);
    }
    next.from_stride *= from[d];
    next.to_stride *= to[d];
  }
  const std::uint64_t row = axes[0].size;
  axes.resize(3, Axis{1, row, row});
  const bool inner_is_longer = axes[1].size >= axes[2].size;  // which makes fewer items as rows
  return {row, axes[inner_is_longer ? 1 : 2], axes[inner_is_longer ? 2 : 1]};
}

}  // namespace

std::vector<std::uint64_t> target_shape(const Layout& layout, const LoadTarget& target) {
  return Destination(layout, target).shape;
}

std::uint64_t target_bytes(const Layout& layout, const LoadTarget& target) {
  return Destination(layout, target).bytes;
}

std::vector<LoadItem> load_items(const Layout& layout, const LoadTarget& target) {
  const Destination whole(layout, target);
  if (whole.bytes == 0) return {};
  check_address(layout, target, whole);
  std::vector<LoadItem> result;
  std::byte* to = target.to;  // where the part begins
  for (std::uint32_t part = 0; part < target.parts.size(); ++part) {
    const Placement place = layout[target.parts[part]];
    const Dims shape = sliced(layout, target, place);
    if (elements_from(shape, 0) == 0) continue;
    std::uint64_t from = place.offset;
    if (target.slice)
      from += target.slice->rank * elements_from(shape, target.slice->dim) * whole.from_element;
    const auto [row, rows, items] = axes_of(shape, place.shape, whole.shape);
    const std::uint64_t row_bytes = row * whole.to_element;
    for (std::uint64_t i = 0; i < items.size; ++i) {
      const std::uint64_t offset = from + i * items.from_stride * whole.from_element;
      result.push_back(
          {part,
           place.bucket,
           {std::bit_cast<const std::byte*>(offset), to + i * items.to_stride * whole.to_element,
            row_bytes, rows.from_stride * whole.from_element, rows.to_stride * whole.to_element,
            row_bytes * rows.size, whole.cast, 0, 0}});
    }
    to += elements_from(shape, target.fuse_dim) * whole.to_element;
  }
  return result;
}

}  // namespace tenon

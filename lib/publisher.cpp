#include <tenon/publisher.hpp>
#include <tenon/unpacked.hpp>
#include <utility>

#include "publisher_impl.hpp"

namespace tenon {

Publisher Publisher::create(std::string_view name, const Layout& layout,
                            const PublisherOptions& options) {
  return Publisher(share(new Impl(name, layout, options, {})));
}

Publisher Publisher::create(std::string_view name, const UnpackedPlan& plan,
                            const PublisherOptions& options) {
  if (options.mode != Mode::in_place) {
    throw Error(Errc::InvalidArgument, std::string("unpacked parameters stay where they are, which "
                                                   "is mode in-place, not ") +
                                           name_of(options.mode));
  }
  PublisherOptions on_device = options;
  on_device.memory = cuda(plan.device);
  return Publisher(share(new Impl(name, plan.layout, on_device, plan.slots)));
}

// In a forked child nothing is destroyed: the publication is the parent's.
std::shared_ptr<Publisher::Impl> Publisher::share(Impl* impl) {
  return {impl, [](Impl* i) {
            if (i->is_owner()) delete i;
          }};
}

Publisher::Publisher(std::shared_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
Publisher::Publisher(Publisher&&) noexcept = default;
Publisher& Publisher::operator=(Publisher&&) noexcept = default;
Publisher::~Publisher() {
  if (impl_ && impl_->is_owner()) impl_->close();
}

std::uint64_t Publisher::publish(std::span<const Source> sources, const PublishOptions& options) {
  return impl_->watched([&] { return impl_->publish(sources, {}, options); });
}
std::uint64_t Publisher::publish(std::span<const Source> sources, Stream stream,
                                 const PublishOptions& options) {
  return impl_->watched([&] { return impl_->publish(sources, stream, options); });
}
Publisher::Update Publisher::begin(const PublishOptions& options) {
  impl_->watched([&] { impl_->begin({}, options, false); });
  return Update(impl_);
}
Publisher::Update Publisher::begin(Stream stream, const PublishOptions& options) {
  impl_->watched([&] { impl_->begin(stream, options, false); });
  return Update(impl_);
}
std::byte* Publisher::storage(std::string_view name) { return impl_->storage(name); }
std::uint64_t Publisher::version() const noexcept {
  return format::version_of(impl_->log().current(), impl_->layout().bucket_count());
}
std::uint64_t Publisher::wait_current(Duration timeout) {
  return impl_->wait_current(detail::Deadline(timeout));
}
std::vector<SubscriberInfo> Publisher::subscribers() const {
  impl_->check_owner();
  return detail::read_places(impl_->log().segment());
}
detail::StageRecorder& Publisher::stages() noexcept { return impl_->stages(); }
const std::string& Publisher::name() const noexcept { return impl_->name(); }
const Layout& Publisher::layout() const noexcept { return impl_->layout(); }
Mode Publisher::mode() const noexcept { return impl_->mode(); }
std::uint64_t Publisher::slot_bytes() const noexcept { return impl_->slot_bytes(); }
const std::vector<std::string>& Publisher::notes() const noexcept { return impl_->notes(); }
bool Publisher::close() { return !impl_->is_owner() || impl_->close(); }

Publisher::Update::Update(std::shared_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
Publisher::Update::Update(Update&&) noexcept = default;
Publisher::Update::~Update() { abort(); }
std::uint64_t Publisher::Update::version() const noexcept { return impl_->attempted_version(); }
void Publisher::Update::put(std::size_t bucket, std::span<const Source> sources) {
  impl_->watched([&] { impl_->put(bucket, sources); });
}
std::byte* Publisher::Update::open(std::size_t bucket) { return impl_->open(bucket); }
void Publisher::Update::seal(std::size_t bucket) {
  impl_->watched([&] { impl_->seal(bucket); });
}
void Publisher::Update::keep(std::size_t bucket) { impl_->keep(bucket); }
std::uint64_t Publisher::Update::commit() {
  const std::uint64_t version = impl_->watched([&] { return impl_->commit(); });
  impl_.reset();
  return version;
}
void Publisher::Update::abort() noexcept {
  if (!impl_) return;
  impl_->abort();
  impl_.reset();
}

}  // namespace tenon

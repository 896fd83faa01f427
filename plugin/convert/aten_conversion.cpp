#include <torchfeed/plugin/convert/aten_conversion.h>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include <limits>
#include <utility>

namespace torchfeed::convert {
namespace {

bool is_all(const std::vector<double>& values, double expected) {
  for (const double value : values) {
    if (value != expected) return false;
  }
  return true;
}

/// A number for all channels, or a tensor that broadcasts along them.
at::Tensor along(const std::vector<double>& values, int channel, const at::Tensor& like) {
  const at::Tensor all = at::tensor(values, at::kDouble).to(like.scalar_type());
  if (values.size() == 1) return all[0];
  std::vector<std::int64_t> sizes(static_cast<std::size_t>(like.dim()), 1);
  sizes[static_cast<std::size_t>(channel)] = static_cast<std::int64_t>(values.size());
  return all.view(sizes);
}

/// The least and the largest value of an integer dtype that `compute` holds exactly.
std::pair<double, double> range_of(at::ScalarType dtype, at::ScalarType compute) {
  switch (dtype) {
    case at::kByte:
      return {0, 255};
    case at::kChar:
      return {-128, 127};
    default:
      return {std::numeric_limits<std::int32_t>::min(),
              compute == at::kFloat ? 2147483520.0 : std::numeric_limits<std::int32_t>::max()};
  }
}

}  // namespace

void convert_with_aten(const at::Tensor& from, const Affine& affine, int channel, const at::Tensor& to) {
  const at::NoGradGuard no_grad;
  const bool scales = !is_all(affine.scale, 1);
  const bool shifts = !is_all(affine.shift, 0);
  if (from.scalar_type() == to.scalar_type() && !scales && !shifts) {
    to.copy_(from);
    return;
  }
  const bool wide =
      from.scalar_type() == at::kDouble || from.scalar_type() == at::kLong || to.scalar_type() == at::kDouble;
  const at::ScalarType compute = wide ? at::kDouble : at::kFloat;
  const bool in_place = to.scalar_type() == compute;
  const at::Tensor values = in_place ? to : at::empty(to.sizes(), to.options().dtype(compute));
  values.copy_(from);
  if (scales) values.mul_(along(affine.scale, channel, values));
  if (shifts) values.add_(along(affine.shift, channel, values));
  if (in_place) return;
  if (c10::isIntegralType(to.scalar_type(), false)) {
    const auto [least, largest] = range_of(to.scalar_type(), compute);
    values.round_().clamp_(least, largest);
  }
  to.copy_(values);
}

}  // namespace torchfeed::convert

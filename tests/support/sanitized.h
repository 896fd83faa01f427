#pragma once

namespace torchfeed::testing {

/// Whether this program is built with a sanitizer that takes much memory and time.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace torchfeed::testing

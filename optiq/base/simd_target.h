// Which instruction set the kernels use, chosen once when the program starts.
#pragma once
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace optiq {

/// One build of the SIMD sources; a later one is preferred where the CPU has it.
///   kScalar   the plain reference, for any CPU
///   kNeon     arm64, with the dot product extension used where it is there
///   kAvx2     AVX2, FMA and F16C (x86-64-v3)
///   kAvxVnni  the same with 256-bit int8 dot products (Alder Lake and later)
///   kAvx512   AVX-512 F, BW, DQ, VL and VNNI
///   kAmx      the same with AMX's int8 tiles (Sapphire Rapids and later), where Linux
///             grants their use
enum class SimdTarget { kScalar, kNeon, kAvx2, kAvxVnni, kAvx512, kAmx };

const char* name(SimdTarget target);
std::optional<SimdTarget> simd_target_from_name(std::string_view name);

/// The targets that this build has and this machine can run, best first; ends in
/// kScalar.
std::span<const SimdTarget> supported_simd_targets();

/// The target in use: the best supported one, or the one that OPTIQ_SIMD names.
///
/// Throws  std::invalid_argument if OPTIQ_SIMD names none, or one that cannot run here.
SimdTarget simd_target();

/// For tests: forces a target until the next call; std::nullopt returns to the default.
void force_simd_target(std::optional<SimdTarget> target);

}  // namespace optiq

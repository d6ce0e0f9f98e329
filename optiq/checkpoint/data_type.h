// The element types of safetensors files, each named once.
#pragma once
#include <cstdint>
#include <optional>
#include <string_view>

#include "optiq/kernels/float_type.h"

namespace optiq::checkpoint {

enum class DataType {
  kBool,
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kU64,
  kI64,
  kF16,
  kBF16,
  kF32,
  kF64,
  kC64,
  kF8E4M3,
  kF8E5M2,
  kF8E8M0,
  kF8E4M3Fnuz,
  kF8E5M2Fnuz,
  kF6E2M3,
  kF6E3M2,
  kF4,
};

struct DataTypeInfo {
  DataType type;
  const char* name;  // as written in the file
  int bits;
};

const DataTypeInfo& info(DataType type);
std::optional<DataType> data_type_from_name(std::string_view name);

/// As kernels name it, if they compute with it.
std::optional<FloatType> float_type(DataType type);

}  // namespace optiq::checkpoint

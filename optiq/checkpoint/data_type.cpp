#include "optiq/checkpoint/data_type.h"

#include "optiq/base/error.h"

namespace optiq::checkpoint {
namespace {

constexpr DataTypeInfo kTypes[] = {
    {DataType::kBool, "BOOL", 8},
    {DataType::kU8, "U8", 8},
    {DataType::kI8, "I8", 8},
    {DataType::kU16, "U16", 16},
    {DataType::kI16, "I16", 16},
    {DataType::kU32, "U32", 32},
    {DataType::kI32, "I32", 32},
    {DataType::kU64, "U64", 64},
    {DataType::kI64, "I64", 64},
    {DataType::kF16, "F16", 16},
    {DataType::kBF16, "BF16", 16},
    {DataType::kF32, "F32", 32},
    {DataType::kF64, "F64", 64},
    {DataType::kC64, "C64", 64},
    {DataType::kF8E4M3, "F8_E4M3", 8},
    {DataType::kF8E5M2, "F8_E5M2", 8},
    {DataType::kF8E8M0, "F8_E8M0", 8},
    {DataType::kF8E4M3Fnuz, "F8_E4M3FNUZ", 8},
    {DataType::kF8E5M2Fnuz, "F8_E5M2FNUZ", 8},
    {DataType::kF6E2M3, "F6_E2M3", 6},
    {DataType::kF6E3M2, "F6_E3M2", 6},
    {DataType::kF4, "F4", 4},
};

}  // namespace

const DataTypeInfo& info(DataType type) {
  for (const DataTypeInfo& row : kTypes)
    if (row.type == type) return row;
  OPTIQ_CHECK(false, "an element type without a registry row");
}

std::optional<DataType> data_type_from_name(std::string_view name) {
  for (const DataTypeInfo& row : kTypes)
    if (row.name == name) return row.type;
  return std::nullopt;
}

std::optional<FloatType> float_type(DataType type) {
  switch (type) {
    case DataType::kF32:
      return FloatType::kF32;
    case DataType::kF16:
      return FloatType::kF16;
    case DataType::kBF16:
      return FloatType::kBF16;
    default:
      return std::nullopt;
  }
}

}  // namespace optiq::checkpoint

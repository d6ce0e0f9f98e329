// The device's copies of pages, for tests.
#pragma once
#include <memory>
#include <vector>

#include "optiq/kernels/cuda_testing.h"
#include "optiq/kernels/kv_page/kv_page_cuda.h"
#include "optiq/kernels/kv_page/testing.h"

namespace optiq::testing {

/// Some sequences' pages, each exactly as large as on the host.
class DevicePages {
 public:
  /// Requires  sequences of one form, `rows` [sequences] with first_page left open
  DevicePages(const std::vector<PagedSequence*>& sequences,
              std::vector<kernels::cuda::PagedRows> rows)
      : form_(form_of(sequences[0]->pages)) {
    std::vector<std::byte*> table;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      rows[i].first_page = static_cast<int>(table.size());
      const KvPages& pages = sequences[i]->pages;
      for (int page = 0; page < pages.n_pages; ++page) {
        memory_.push_back(std::make_unique<DeviceBuffer<std::byte>>(pages.pages[page],
                                                                    page_bytes(page)));
        table.push_back(memory_.back()->data());
      }
    }
    table_ = std::make_unique<DeviceBuffer<std::byte*>>(table.data(), table.size());
    rows_ = std::make_unique<DeviceBuffer<kernels::cuda::PagedRows>>(rows.data(),
                                                                     rows.size());
  }

  const kernels::cuda::PageForm& form() const { return form_; }
  kernels::cuda::PagedBatch batch() const {
    return {rows_->data(), table_->data(), static_cast<int>(rows_->size())};
  }

  /// The bytes of all pages, those of one sequence after those of another.
  std::vector<std::byte> to_host() const {
    std::vector<std::byte> all;
    for (const auto& page : memory_) {
      const auto bytes = page->to_host();
      all.insert(all.end(), bytes.begin(), bytes.end());
    }
    return all;
  }

  /// Back into the pages of the only sequence.
  void copy_to(PagedSequence& sequence) const {
    for (std::size_t i = 0; i < memory_.size(); ++i) {
      const auto bytes = memory_[i]->to_host();
      std::copy(bytes.begin(), bytes.end(), sequence.pages.pages[i]);
    }
  }

 private:
  kernels::cuda::PageForm form_of(const KvPages& pages) {
    const KvTransform& t = *pages.transform;
    const int dim = pages.coded_layout->head_dim;
    const int all = dim * pages.coded_layout->n_kv_heads;
    return {*pages.float_layout,
            *pages.coded_layout,
            pages.float_offset,
            pages.coded_offset,
            pages.float_pages,
            {copy(t.k_signs, dim), copy(t.v_signs, dim), copy(t.k_mean, all),
             copy(t.k_residual_signs, dim), copy(t.k_scale, all), copy(t.q_scale, all),
             copy(t.v_scale, all), copy(t.sum_scale, all)}};
  }

  const float* copy(const float* values, int n) {
    if (!values) return nullptr;
    floats_.push_back(
        std::make_unique<DeviceBuffer<float>>(values, static_cast<std::size_t>(n)));
    return floats_.back()->data();
  }

  std::size_t page_bytes(int page) const {
    return static_cast<std::size_t>(
        page < form_.float_pages ? form_.float_offset + form_.float_layout.bytes()
                                 : form_.coded_offset + form_.coded_layout.bytes());
  }

  std::vector<std::unique_ptr<DeviceBuffer<float>>> floats_;
  kernels::cuda::PageForm form_;
  std::vector<std::unique_ptr<DeviceBuffer<std::byte>>> memory_;
  std::unique_ptr<DeviceBuffer<std::byte*>> table_;
  std::unique_ptr<DeviceBuffer<kernels::cuda::PagedRows>> rows_;
};

}  // namespace optiq::testing

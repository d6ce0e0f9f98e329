// `optiq lora info`: the ranks of an adapter, from its files alone.
#include <algorithm>
#include <map>

#include "command.h"
#include "optiq/adapters/adapter_summary.h"
#include "optiq/base/format.h"
#include "optiq/generate/model_location.h"

namespace optiq::app {
namespace {

void lora_info(const std::string& path, Context& context) {
  const adapters::AdapterSummary s = adapters::summarize(find_adapter(path));
  Table table({"layer", ">rank", ">alpha"});
  std::map<int, int> distribution;
  nlohmann::ordered_json ranks = nlohmann::ordered_json::object();
  for (const auto& module : s.modules) {
    table.add_row(
        {module.path, std::to_string(module.rank), fmt::format("{:g}", module.alpha)});
    ++distribution[module.rank];
    ranks[module.path] = module.rank;
  }
  context.out.write(table.text());
  Table counts({">rank", ">layers", ""});
  const int most = std::ranges::max_element(distribution, {}, [](const auto& row) {
                     return row.second;
                   })->second;
  for (const auto& [rank, n] : distribution)
    counts.add_row(
        {std::to_string(rank), std::to_string(n),
         std::string(static_cast<std::size_t>((40 * n + most - 1) / most), '#')});
  context.out.print(
      "\n{}\n{}, rank scaling {}, {} parameters ({}), for {}\n", counts.text(),
      s.dora ? "DoRA" : "LoRA", s.rank_scaling, s.parameters, format_bytes(s.bytes),
      s.base_model.empty() ? "a model that it does not name" : s.base_model);
  context.out.summary({{"r", s.rank},
                       {"alpha", s.alpha},
                       {"rank_scaling", s.rank_scaling},
                       {"dora", s.dora},
                       {"base_model", s.base_model},
                       {"parameters", s.parameters},
                       {"bytes", s.bytes},
                       {"ranks", ranks}});
}

}  // namespace

Run add_lora_info(CLI::App& app) {
  auto path = std::make_shared<std::string>();
  app.add_option("ADAPTER", *path, "An adapter's directory, or a hub id")->required();
  return [path](Context& context) { lora_info(*path, context); };
}

}  // namespace optiq::app

#include "optiq/convert/page/size_kl_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "optiq/convert/page/html.h"

namespace optiq::convert {
namespace {

constexpr double kWidth = 720, kHeight = 380;
constexpr double kLeft = 70, kRight = 24, kTop = 16, kBottom = 48;

struct Axis {
  double low, high, from, to;
  double at(double value) const {
    return from + (value - low) / (high - low) * (to - from);
  }
};

double megabytes(const CurvePoint& point) {
  return static_cast<double>(point.bytes) / 1e6;
}

// 1, 2 or 5 times a power of ten, about `count` of them between the ends.
double tick_step(double low, double high, int count) {
  const double raw = (high - low) / count;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  for (double step : {1.0, 2.0, 5.0})
    if (step * power >= raw) return step * power;
  return 10 * power;
}

std::string line(double x1, double y1, double x2, double y2, const char* style) {
  return fmt::format("<line class={} x1={:.1f} y1={:.1f} x2={:.1f} y2={:.1f} />", style,
                     x1, y1, x2, y2);
}

std::string text(double x, double y, const char* style, const std::string& what) {
  return fmt::format("<text class='{}' x={:.1f} y={:.1f}>{}</text>", style, x, y,
                     escaped(what));
}

std::string axes(const Axis& x, const Axis& y) {
  std::string out;
  const double step = tick_step(x.low, x.high, 7);
  for (double value = std::ceil(x.low / step) * step; value <= x.high; value += step) {
    out += line(x.at(value), y.from, x.at(value), y.to, "grid");
    out += text(x.at(value), y.from + 18, "tick mid",
                fmt::format("{:g}", std::round(value / step) * step));
  }
  for (int decade = static_cast<int>(std::floor(y.low)); decade <= y.high; ++decade)
    for (double digit : {1.0, 2.0, 5.0}) {
      const double value = decade + std::log10(digit);
      if (value < y.low || value > y.high) continue;
      out += line(x.from, y.at(value), x.to, y.at(value), "grid");
      out += text(x.from - 8, y.at(value) + 4, "tick end",
                  fmt::format("{:g}", std::pow(10, value)));
    }
  out += text((x.from + x.to) / 2, kHeight - 8, "tick mid", "MB on disk");
  return out + fmt::format(
                   "<text class='tick mid' transform='translate(14 {:.1f}) "
                   "rotate(-90)'>mean KL, nats per token</text>",
                   (y.from + y.to) / 2);
}

std::string series(std::vector<CurvePoint> points, const Axis& x, const Axis& y,
                   const char* style) {
  std::ranges::sort(points, {}, &CurvePoint::bytes);
  std::string path, dots;
  for (const CurvePoint& point : points) {
    const double px = x.at(megabytes(point)), py = y.at(std::log10(point.kl_mean));
    path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", px, py);
    dots += fmt::format(
        "<circle class={} cx={:.1f} cy={:.1f} r=4><title>{}: {:.2f} MB, KL {:.5f}, p99 "
        "{:.4f}</title></circle>",
        style, px, py, escaped(point.label), megabytes(point), point.kl_mean,
        point.kl_p99);
  }
  return fmt::format("<path class={} d='{}'/>", style, path) + dots;
}

}  // namespace

std::string size_kl_chart(std::span<const CurvePoint> points) {
  std::vector<CurvePoint> drawn;
  for (const CurvePoint& point : points)
    if (point.kl_mean > 0 && std::isfinite(point.kl_mean)) drawn.push_back(point);
  if (drawn.size() < 2) return "";
  const auto [small, large] = std::ranges::minmax(drawn, {}, &CurvePoint::bytes);
  const auto [good, bad] = std::ranges::minmax(drawn, {}, &CurvePoint::kl_mean);
  const double room = std::max(0.05 * (megabytes(large) - megabytes(small)), 0.01);
  const Axis x{megabytes(small) - room, megabytes(large) + room, kLeft,
               kWidth - kRight};
  const Axis y{std::log10(good.kl_mean) - 0.15, std::log10(bad.kl_mean) + 0.15,
               kHeight - kBottom, kTop};
  const auto of = [&](CurvePoint::Series which) {
    std::vector<CurvePoint> members;
    for (const CurvePoint& point : drawn)
      if (point.series == which) members.push_back(point);
    return members;
  };
  std::string out = fmt::format(
      "<svg class=chart viewBox='0 0 {0} {1}' width={0} height={1} role=img "
      "aria-label='Size on disk against divergence'>",
      kWidth, kHeight);
  out += axes(x, y);
  const auto uniform = of(CurvePoint::Series::kUniform);
  out += series(uniform, x, y, "uniform") +
         series(of(CurvePoint::Series::kMix), x, y, "mix");
  for (const CurvePoint& point : uniform) {
    const double px = x.at(megabytes(point));
    const bool fits = px + 90 < kWidth;
    out += text(fits ? px + 8 : px + 4, y.at(std::log10(point.kl_mean)) - 9,
                fits ? "tick" : "tick end", point.label);
  }
  for (const CurvePoint& point : of(CurvePoint::Series::kChosen)) {
    const double px = x.at(megabytes(point)), py = y.at(std::log10(point.kl_mean));
    out += fmt::format("<circle class=chosen cx={:.1f} cy={:.1f} r=7 />", px, py);
    out += text(
        px - 10, py + 18, "label end",
        fmt::format("this model, {:.2f} MB, {:.4f}", megabytes(point), point.kl_mean));
  }
  return out + "</svg>";
}

}  // namespace optiq::convert

#include "quantize/report.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

namespace hearth::quantize {

using nlohmann::json;

namespace {

template <class... Values>
std::string text(const char* format, Values... values) {
  char buffer[256];
  std::snprintf(buffer, sizeof buffer, format, values...);
  return buffer;
}

}  // namespace

std::string draw_report(const json& report) {
  constexpr double height = 240, left = 70, top = 50, bar = 14;
  const json& layers = report["layers"];
  double most = 1e-12;
  for (const json& layer : layers) most = std::max({most, layer["error"].get<double>(), layer["error_rounding"].get<double>()});
  const double width = std::max(420.0, left + 20 + static_cast<double>(layers.size()) * (2 * bar + 6));
  std::string svg = text("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" font-family=\"sans-serif\" font-size=\"12\">\n", width, height + top + 40);
  svg += "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n";
  svg += text("<text x=\"10\" y=\"20\" font-size=\"14\">Relative squared error of each layer, %s</text>\n", report["method"].get<std::string>().c_str());
  svg += text("<rect x=\"%.0f\" y=\"28\" width=\"10\" height=\"10\" fill=\"#c8c8c8\"/><text x=\"%.0f\" y=\"37\">rounded to nearest</text>\n", left, left + 14);
  svg += text("<rect x=\"%.0f\" y=\"28\" width=\"10\" height=\"10\" fill=\"#d2691e\"/><text x=\"%.0f\" y=\"37\">as written</text>\n", left + 140, left + 154);
  for (int step = 0; step <= 4; step++) {
    const double y = top + height * (1 - step / 4.0);
    svg += text("<line x1=\"%.0f\" y1=\"%.1f\" x2=\"%.0f\" y2=\"%.1f\" stroke=\"#eee\"/>", left, y, width - 10, y);
    svg += text("<text x=\"%.0f\" y=\"%.1f\" text-anchor=\"end\">%.2g</text>\n", left - 6, y + 4, most * step / 4);
  }
  double x = left + 4;
  for (const json& layer : layers) {
    const double before = layer["error_rounding"].get<double>() / most * height, after = layer["error"].get<double>() / most * height;
    svg += text("<rect x=\"%.1f\" y=\"%.1f\" width=\"%.0f\" height=\"%.1f\" fill=\"#c8c8c8\"/>", x, top + height - before, bar, before);
    svg += text("<rect x=\"%.1f\" y=\"%.1f\" width=\"%.0f\" height=\"%.1f\" fill=\"#d2691e\"/>", x + bar, top + height - after, bar, after);
    svg += text("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%d</text>\n", x + bar, top + height + 16, layer["layer"].get<int>());
    x += 2 * bar + 6;
  }
  return svg + "</svg>\n";
}

}  // namespace hearth::quantize

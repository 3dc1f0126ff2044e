#include "model/draw.hpp"

#include <algorithm>
#include <numeric>
#include <tuple>
#include <unordered_map>

namespace cleave::model {
namespace {

constexpr std::uint64_t golden = 0x9e3779b97f4a7c15;
/// The key of stratified draws, never a run's seed: who made a teacher and who learns from it later
/// hold out the same rows.
constexpr std::uint64_t stratified_key = 0x636c65617665;

std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

/// The rows of each class, classes in the order in which they first appear.
std::vector<std::vector<std::int64_t>> rows_by_class(const std::vector<std::int64_t>& classes) {
  std::vector<std::vector<std::int64_t>> rows;
  std::unordered_map<std::int64_t, std::size_t> place;
  for (std::size_t i = 0; i < classes.size(); ++i) {
    const auto [found, is_new] = place.emplace(classes[i], rows.size());
    if (is_new) rows.emplace_back();
    rows[found->second].push_back(static_cast<std::int64_t>(i));
  }
  return rows;
}

/// Where the j-th of a class's n rows stands in a draw: one of each class first; then row j at the
/// share (2j + 1) / 2n of the way, so that every class has as many as its share of the draw.
struct Place {
  int group;
  std::int64_t numerator, denominator;
  std::size_t of_class;
  std::int64_t row;
  bool operator<(const Place& other) const {
    if (group != other.group) return group < other.group;
    const std::int64_t left = numerator * other.denominator, right = other.numerator * denominator;
    return std::tie(left, of_class) < std::tie(right, other.of_class);
  }
};

enum class LastRows { in_turn, last };

std::vector<std::int64_t> draw(const std::vector<std::int64_t>& classes, std::int64_t count,
                               LastRows last_rows) {
  const auto rows = rows_by_class(classes);
  std::vector<Place> places;
  for (std::size_t c = 0; c < rows.size(); ++c) {
    const auto size = static_cast<std::int64_t>(rows[c].size());
    const auto order = shuffled(size, {stratified_key, c});
    for (std::int64_t j = 0; j < size; ++j) {
      int group = j == 0 ? 0 : 1;
      if (j + 1 == size && last_rows == LastRows::last) group = 2;
      const auto drawn = static_cast<std::size_t>(order[static_cast<std::size_t>(j)]);
      places.push_back({group, 2 * j + 1, 2 * size, c, rows[c][drawn]});
    }
  }
  std::sort(places.begin(), places.end());
  places.resize(static_cast<std::size_t>(
      std::clamp<std::int64_t>(count, 0, static_cast<std::int64_t>(places.size()))));
  std::vector<std::int64_t> chosen;
  for (const Place& place : places) chosen.push_back(place.row);
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

}  // namespace

Draw::Draw(std::initializer_list<std::uint64_t> key) {
  for (const std::uint64_t part : key) state_ = mix(state_ + golden + part);
}

std::uint64_t Draw::next() {
  state_ += golden;
  return mix(state_);
}

std::int64_t Draw::below(std::int64_t count) {
  // The bias of the remainder is below 2^-40 for every count that occurs.
  return static_cast<std::int64_t>(next() % static_cast<std::uint64_t>(count));
}

double Draw::uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

std::vector<std::int64_t> shuffled(std::int64_t count, std::initializer_list<std::uint64_t> key) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  Draw draw(key);
  for (std::int64_t i = count - 1; i > 0; --i)
    std::swap(order[static_cast<std::size_t>(i)],
              order[static_cast<std::size_t>(draw.below(i + 1))]);
  return order;
}

std::vector<std::int64_t> stratified(const std::vector<std::int64_t>& classes, std::int64_t count) {
  const auto all = static_cast<std::int64_t>(classes.size());
  return draw(classes, count > 0 ? std::min(count, all) : all, LastRows::in_turn);
}

std::vector<std::int64_t> held_out(const std::vector<std::int64_t>& classes, std::int64_t count) {
  return draw(classes, count, LastRows::last);
}

}  // namespace cleave::model

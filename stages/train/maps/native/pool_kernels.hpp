// Max pooling in windows that do not overlap: each input has one output, so that the backward pass
// writes every value once and needs no zeros before it.
#pragma once

#include "lanes.hpp"

namespace maps {
namespace {

// The first of equal values, and the last of those that are not a number, as torch has it.
template <class T>
void pool(const T* x, Windows w, std::size_t begin, std::size_t end, T* y, std::uint8_t* places) {
  const std::size_t line = w.width * w.channels;
  for (std::size_t row = begin; row < end; ++row) {
    const std::size_t map = row / w.rows(), top = row % w.rows() * w.high;
    const T* const lines = x + (map * w.height + top) * line;
    for (std::size_t column = 0; column < w.columns(); ++column)
      for (std::size_t c = 0; c < w.channels; c += kLanes) {
        const T* const corner = lines + column * w.wide * w.channels + c;
        Vec most = load(corner);
        Ints place = {};
        for (std::size_t i = 0, k = 0; i < w.high; ++i)
          for (std::size_t j = 0; j < w.wide; ++j, ++k) {
            const Vec value = load(corner + i * line + j * w.channels);
            const Ints more = (value > most) | (value != value);
            most = more ? value : most;
            place = more ? Ints{} + static_cast<int>(k) : place;
          }
        const std::size_t at = (row * w.columns() + column) * w.channels + c;
        store(y + at, most);
        store(places + at, place);
      }
  }
}

template <class T>
INLINE void clear(T* from, T* to) {
  for (; from < to; from += kLanes) store(from, Vec{});
}

template <class T>
void unpool(const T* dy, const std::uint8_t* places, Windows w, std::size_t begin, std::size_t end,
            T* dx) {
  const std::size_t line = w.width * w.channels, used = w.columns() * w.wide * w.channels;
  for (std::size_t row = begin; row < end; ++row) {
    const std::size_t map = row / w.rows(), top = row % w.rows() * w.high;
    T* const lines = dx + (map * w.height + top) * line;
    for (std::size_t column = 0; column < w.columns(); ++column)
      for (std::size_t c = 0; c < w.channels; c += kLanes) {
        const std::size_t at = (row * w.columns() + column) * w.channels + c;
        T* const corner = lines + column * w.wide * w.channels + c;
        const Vec gradient = load(dy + at);
        const Ints place = load(places + at);
        for (std::size_t i = 0, k = 0; i < w.high; ++i)
          for (std::size_t j = 0; j < w.wide; ++j, ++k)
            store(corner + i * line + j * w.channels,
                  place == static_cast<int>(k) ? gradient : Vec{});
      }
    // No window reaches what is left on the right and below.
    for (std::size_t i = 0; i < w.high; ++i) clear(lines + i * line + used, lines + (i + 1) * line);
    if (top + 2 * w.high > w.height) clear(lines + w.high * line, lines + (w.height - top) * line);
  }
}

}  // namespace
}  // namespace maps

// WAV files of 16-bit integers or 32-bit floats, whole in memory.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

struct Sound {
  uint32_t rate = 0;  // samples a second
  uint16_t channels = 0;
  bool floats = false;         // in the file; else 16-bit integers
  std::vector<float> samples;  // [samples, channels], from -1 to 1
};

namespace wav {

template <class T>
T number_at(const std::string& bytes, size_t place) {
  if (place > bytes.size() || bytes.size() - place < sizeof(T)) throw std::runtime_error("the WAV file is truncated");
  T value;
  std::memcpy(&value, bytes.data() + place, sizeof value);
  return value;
}

template <class T>
void append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}

// What the chunk "fmt " says. The format is 1 for integers, 3 for floats; 0xFFFE has one of them behind it.
inline void read_format(const std::string& bytes, size_t at, Sound& sound) {
  auto format = number_at<uint16_t>(bytes, at);
  if (format == 0xFFFE) format = number_at<uint16_t>(bytes, at + 24);
  const auto bits = number_at<uint16_t>(bytes, at + 14);
  sound.channels = number_at<uint16_t>(bytes, at + 2);
  sound.rate = number_at<uint32_t>(bytes, at + 4);
  sound.floats = format == 3;
  if (!(format == 1 && bits == 16) && !(format == 3 && bits == 32)) {
    throw std::runtime_error("the WAV file must have 16-bit integers or 32-bit floats");
  }
  if (sound.channels == 0 || sound.rate == 0) throw std::runtime_error("the WAV file has no channels or no rate");
}

inline Sound read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot open " + path);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (bytes.size() < 12 || bytes.compare(0, 4, "RIFF") != 0 || bytes.compare(8, 4, "WAVE") != 0) {
    throw std::runtime_error(path + " is no WAV file");
  }
  Sound sound;
  for (size_t at = 12; at < bytes.size();) {
    const std::string name = bytes.substr(at, 4);
    const size_t size = number_at<uint32_t>(bytes, at + 4), begin = at + 8;
    if (size > bytes.size() - begin) throw std::runtime_error("the WAV file is truncated");
    if (name == "fmt ") read_format(bytes, begin, sound);
    if (name == "data") {
      if (sound.channels == 0) throw std::runtime_error("the WAV file has no format");
      const size_t sample_bytes = sound.floats ? 4 : 2, row = sample_bytes * sound.channels;
      for (size_t i = 0; i < size / row * sound.channels; ++i) {
        sound.samples.push_back(sound.floats ? number_at<float>(bytes, begin + 4 * i)
                                             : static_cast<float>(number_at<int16_t>(bytes, begin + 2 * i)) / 32768);
      }
      return sound;
    }
    at = begin + size + size % 2;
  }
  throw std::runtime_error("the WAV file has no samples");
}

inline void write(const std::string& path, const Sound& sound) {
  const uint16_t sample_bytes = sound.floats ? 4 : 2;
  const auto data_bytes = static_cast<uint32_t>(sound.samples.size() * sample_bytes);
  std::string bytes = "RIFF";
  append(bytes, static_cast<uint32_t>(36 + data_bytes));
  bytes += "WAVEfmt ";
  append(bytes, uint32_t{16});
  append(bytes, static_cast<uint16_t>(sound.floats ? 3 : 1));
  append(bytes, sound.channels);
  append(bytes, sound.rate);
  append(bytes, static_cast<uint32_t>(sound.rate * sound.channels * sample_bytes));
  append(bytes, static_cast<uint16_t>(sound.channels * sample_bytes));
  append(bytes, static_cast<uint16_t>(8 * sample_bytes));
  bytes += "data";
  append(bytes, data_bytes);
  for (const float sample : sound.samples) {
    if (sound.floats) {
      append(bytes, sample);
    } else {
      append(bytes, static_cast<int16_t>(std::lround(std::clamp(sample * 32768, -32768.0f, 32767.0f))));
    }
  }
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!file.flush()) throw std::runtime_error("cannot write " + path);
}

}  // namespace wav

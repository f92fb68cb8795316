// From a run-time choice to a compile-time type: calls a generic lambda with the chosen entry of a list of types.
#pragma once

#include <cstddef>

namespace fused_rnn {

template <class T>
struct Tag {
  using type = T;
};

template <class... Ts>
struct TypeList {
  static constexpr int kSize = sizeof...(Ts);
};

// Calls visitor(Tag<T>{}) for the T at `index`; returns whether there was one.
template <class... Ts, class Visitor>
bool visit_type(TypeList<Ts...>, int index, Visitor&& visitor) {
  int position = 0;
  return ((position++ == index ? (visitor(Tag<Ts>{}), true) : false) || ...);
}

// Calls visitor(Tag<T>{}) for every T in order.
template <class... Ts, class Visitor>
void for_each_type(TypeList<Ts...>, Visitor&& visitor) {
  (visitor(Tag<Ts>{}), ...);
}

}  // namespace fused_rnn

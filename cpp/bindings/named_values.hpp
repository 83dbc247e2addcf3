// Arguments that know their names, so that they are refused in words instead of a list of signatures.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "bindings.hpp"

namespace trajmill {

template <std::size_t size>
struct Name {
  constexpr Name(const char (&letters)[size]) { std::copy_n(letters, size, text); }  // NOLINT: a literal is a name
  char text[size] = {};
};

// An argument called `name`: anything with __index__ but True and False, at least 0 and below 2^64.
template <Name name>
struct Whole {
  std::uint64_t value;
  operator std::uint64_t() const noexcept { return value; }  // NOLINT: it is a number
};

// A number that a float64 holds.
template <Name name>
struct Real {
  double value;
  operator double() const noexcept { return value; }  // NOLINT: it is a number
};

// True or False, also NumPy's.
template <Name name>
struct Truth {
  bool value;
  operator bool() const noexcept { return value; }  // NOLINT: it is a truth value
};

}  // namespace trajmill

namespace pybind11::detail {

template <trajmill::Name argument>
struct type_caster<trajmill::Whole<argument>> {
  PYBIND11_TYPE_CASTER(trajmill::Whole<argument>, const_name("typing.SupportsIndex"));

  bool load(handle given, bool) {
    if (PyBool_Check(given.ptr()) || !PyIndex_Check(given.ptr())) {
      throw type_error(trajmill::message(argument.text, " must be an integer, got ", trajmill::text_of(repr(given))));
    }
    const auto number = reinterpret_steal<object>(PyNumber_Index(given.ptr()));
    if (!number) throw error_already_set();
    value.value = PyLong_AsUnsignedLongLong(number.ptr());
    if (PyErr_Occurred() != nullptr) {
      PyErr_Clear();
      throw value_error(
          trajmill::message(argument.text, " must be at least 0 and below 2^64, got ", trajmill::text_of(number)));
    }
    return true;
  }
};

template <trajmill::Name argument>
struct type_caster<trajmill::Real<argument>> {
  PYBIND11_TYPE_CASTER(trajmill::Real<argument>, const_name("typing.SupportsFloat"));

  bool load(handle given, bool) {
    value.value = PyBool_Check(given.ptr()) ? -1.0 : PyFloat_AsDouble(given.ptr());
    if (PyBool_Check(given.ptr()) || PyErr_Occurred() != nullptr) {
      PyErr_Clear();
      throw type_error(trajmill::message(argument.text, " must be a number, got ", trajmill::text_of(repr(given))));
    }
    return true;
  }
};

template <trajmill::Name argument>
struct type_caster<trajmill::Truth<argument>> {
  PYBIND11_TYPE_CASTER(trajmill::Truth<argument>, const_name("bool"));

  bool load(handle given, bool convert) {
    make_caster<bool> caster;
    if (!caster.load(given, false) && !(convert && caster.load(given, true) && !given.is_none())) {
      throw type_error(
          trajmill::message(argument.text, " must be True or False, got ", trajmill::text_of(repr(given))));
    }
    value.value = caster;
    return true;
  }
};

}  // namespace pybind11::detail

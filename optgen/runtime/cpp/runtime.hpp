// What generated C++ includes. PARAM, GRAD, CORRECTION, REAL, LOW_PRECISION and FLAG_... are given to the compiler.
#pragma once

#include "codes.hpp"
#include "grid.hpp"
#include "narrow.hpp"
#include "random.hpp"
#include "select.hpp"
#include "tiles.hpp"
#include "vectors.hpp"

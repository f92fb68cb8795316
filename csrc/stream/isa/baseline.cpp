// Streams for any x86-64 processor, and any other without a unit of its own.
#include "cpu/isa/baseline.h"
// (first: what follows needs its names)
#include "stream/unit.h"

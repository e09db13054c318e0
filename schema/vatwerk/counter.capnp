@0xa8ca3a2f93afe9fb;
# A built-in class to try a vat with.

using Cxx = import "/capnp/c++.capnp";
using Go = import "go.capnp";
$Cxx.namespace("vatwerk");
$Go.package("vatwerk");
$Go.import("vatwerk");

using Http = import "http.capnp";

interface Counter @0xb8f725b103f79538 $Http.open(true) {
  # A number that survives everything.

  increment @0 (amount :Int64 = 1) -> (count :Int64);
  # Adds `amount`, which may be negative, and returns the sum. `invalid-argument` if the sum does
  # not fit in 64 bits.

  get @1 () -> (count :Int64);
  # The number. It starts at zero.

  reset @2 ();
  # Sets the number to zero.
}

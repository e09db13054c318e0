@0xbdf87d7bb8304e81;
# The annotations that the C++ code generator reads, under the ids of the file of the same name that
# comes with Cap'n Proto, for compilers installed without it.

using Go = import "/go.capnp";
using Java = import "/java.capnp";
$namespace("capnp::annotations");
$Go.package("cxx");
$Go.import("capnproto.org/go/capnp/v3/std/capnp/cxx");
$Java.package("vatwerk");
$Java.outerClassname("CxxFile");

annotation namespace @0xb9c6f99ebf805f2c (file) :Text;
# The C++ namespace that generated code belongs to.

annotation name @0xf264a779fef191ce (field, enumerant, struct, enum, interface, method, param, group, union) :Text;
# A name to use in C++ instead of the declared one.

annotation allowCancellation @0xac7096ff8cfc9dce (interface, method, file) :Void;
# A C++ server ends a call of these methods when the caller gives it up.

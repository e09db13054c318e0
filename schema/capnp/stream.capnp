@0x86c366a91393f3f8;
# The type that `-> stream` stands for, under the id of the file of the same name that comes with Cap'n
# Proto, for compilers installed without it.

using Cxx = import "/capnp/c++.capnp";
using Go = import "/go.capnp";
using Java = import "/java.capnp";
$Cxx.namespace("capnp");
$Go.package("stream");
$Go.import("capnproto.org/go/capnp/v3/std/capnp/stream");
$Java.package("vatwerk");
$Java.outerClassname("StreamFile");

struct StreamResult @0x995f9a3377c0b16e {
  # Nothing: the answer of a streaming method.
}

@0xf5349eb8eb0d608d;
# A built-in class that needs no code.

using Cxx = import "/capnp/c++.capnp";
using Go = import "/go.capnp";
using Java = import "/java.capnp";
$Cxx.namespace("vatwerk");
$Go.package("vatwerk");
$Go.import("vatwerk");
$Java.package("vatwerk");
$Java.outerClassname("CellFile");

using import "storage.capnp".Storage;

interface Cell @0xe48c9cf682361897 extends(Storage) {
  # An object that is nothing but its storage: whoever holds its stub may read and write it.
}

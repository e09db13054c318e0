@0xc5f1af96651f70ea;
# The annotations that the Java code generator asks of every file, under the ids of the java.capnp that
# comes with it: put this file or that one on the import path, not both. Nothing here means anything to
# another language.

using Cxx = import "/capnp/c++.capnp";
using Go = import "/go.capnp";
$Cxx.namespace("capnp::annotations");
$Go.package("java");
$Go.import("vatwerk/java");
$package("vatwerk");
$outerClassname("JavaFile");

annotation package @0x9ee4c8f803b3b596 (file) :Text;
# The Java package that generated code belongs to.

annotation outerClassname @0x9b066bb4881f7cd3 (file) :Text;
# The Java class around everything that a file declares. No type of the file may have this name.

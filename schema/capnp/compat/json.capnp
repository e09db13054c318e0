@0x8ef99297a43a5e34;
# The annotations that say how a schema looks in JSON, under the ids of the file of the same name that comes
# with Cap'n Proto, for compilers installed without it. `vatwerk::json` has them all, but for `notification`.
# The struct `Value` of the original is not here.

using Cxx = import "/capnp/c++.capnp";
using Go = import "/go.capnp";
using Java = import "/java.capnp";
$Cxx.namespace("capnp::json");
$Go.package("json");
$Go.import("capnproto.org/go/capnp/v3/std/capnp/compat/json");
$Java.package("vatwerk");
$Java.outerClassname("JsonFile");

annotation name @0xfa5b1fd61c2e7c3d (field, enumerant, method, group, union) :Text;
# A name to use in JSON instead of the declared one. Methods keep theirs: this is of no effect on them.

annotation flatten @0x82d3e852af0336bf (field, group, union) :FlattenOptions;
# The members of this struct, group or union stand among those of the struct that it is a member of. A member
# of a union can be flattened if the union has a `discriminator`.

struct FlattenOptions @0xc4df13257bc2ea61 {
  prefix @0 :Text = "";
  # Stands before the name of each of these members.
}

annotation discriminator @0xcfa794e8d19a0162 (struct, union) :DiscriminatorOptions;
# A member of its own has the name of the member of the union that is set. On a struct it is about the
# union without a name that the struct has.

struct DiscriminatorOptions @0xc2f8c20c293e5319 {
  name @0 :Text;
  # The name of that member. Default: that of the union; a union without a name needs this.

  valueName @1 :Text;
  # The name under which the union's value stands, whichever member is set. Default: the name of the member.
}

annotation base64 @0xd7d879450a253e4b (field) :Void;
# This field, a Data, is a string of base64: as any Data is with `vatwerk::json`.

annotation hex @0xf061e22f0ae5c7b5 (field) :Void;
# This field, a Data, is a string of hexadecimal digits.

annotation notification @0xa0a054dea32fd98c (method) :Void;
# This method of JSON-RPC has no answer. Of no effect on `vatwerk::json`.

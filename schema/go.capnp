@0xd12a1c51fedd6c88;
# The annotations that a Go code generator reads, under the ids of the go.capnp that Go tools ship: put
# this file or that one on the import path, not both. Nothing here means anything to another language.

using Cxx = import "/capnp/c++.capnp";
using Java = import "/java.capnp";
$Cxx.namespace("capnp::annotations");
$package("gocp");
$import("capnproto.org/go/capnp/v3/std/go");
$Java.package("vatwerk");
$Java.outerClassname("GoFile");

annotation package @0xbea97f1023792be0 (file) :Text;
# The Go package that generated code belongs to.

annotation import @0xe130b601260e44b5 (file) :Text;
# The path by which other Go code imports that package.

annotation doc @0xc58ad6bd519f935e (struct, field, enum) :Text;
# A comment for the generated code.

annotation tag @0xa574b41924caefc7 (enumerant) :Text;
# The text that an enumerant prints as.

annotation notag @0xc8768679ec52e012 (enumerant) :Void;
# An enumerant prints as nothing.

annotation customtype @0xfa10659ae02f2093 (field) :Text;
# Obsolete. Kept because schemas may use it.

annotation name @0xc2b96012172f8df1 (struct, field, union, enum, enumerant, interface, method, param, annotation, const, group) :Text;
# A name to use in Go instead of the declared one.

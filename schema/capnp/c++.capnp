@0xbdf87d7bb8304e81;
# The annotation that every schema here uses, under the ids of the file of the same name that comes
# with Cap'n Proto, for compilers installed without it.

$namespace("capnp::annotations");

annotation namespace @0xb9c6f99ebf805f2c (file) :Text;
# The C++ namespace that generated code belongs to.

annotation name @0xf264a779fef191ce (field, enumerant, struct, enum, interface, method, param, group, union) :Text;
# A name to use in C++ instead of the declared one.

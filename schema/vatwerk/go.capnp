@0xd12a1c51fedd6c88;
# The two annotations that a Go code generator asks of every file. The file id is that of the
# go.capnp which Go tools ship, so annotations made with this copy are the ones they look for.
# Nothing here means anything to another language.

annotation package(file) :Text;
# The Go package that generated code belongs to.

annotation import(file) :Text;
# The path by which other Go code imports that package.

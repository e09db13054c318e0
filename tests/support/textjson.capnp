@0xe8a3c3f1d2b40101;
# A file that another one imports.

using Main = import "text.capnp";

annotation flat @0xe8a3c3f1d2b40102 (field) :Options;

struct Options @0xe8a3c3f1d2b40103 {
  prefix @0 :Main.Point;
}

struct Imported @0xe8a3c3f1d2b40104 {
  color @0 :Main.Color = green;
  options @1 :Options $flat(prefix = (x = 2));
}

struct Generic @0xe8a3c3f1d2b40105 (T) {
  struct Part @0xe8a3c3f1d2b40106 {
    content @0 :T;
  }
}

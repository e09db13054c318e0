@0xd753a2f3ea0f3e3b;
# Objects as callers see them: namespaces, ids and stubs.
#
# A class of your own is an interface with an explicit id:
#
#     using Object = import "/vatwerk/object.capnp";
#     interface Chat @0x... { post @0 (line :Text, to :Object.Stub); }
#
# The id is the class's identity for ever: objects are found by it, whatever the interface, its file
# or the type that implements it is called later.

using Cxx = import "/capnp/c++.capnp";
using Go = import "go.capnp";
$Cxx.namespace("vatwerk");
$Go.package("vatwerk");
$Go.import("vatwerk");

interface Namespace @0xe3b2d379d9f66f82 {
  # All objects of one class. Holding it is the permission to reach them.

  getByName @0 (objectName :Text) -> (object :Stub);
  # The object of that name (1 to `maxNameBytes` bytes). Returns without I/O: calls may be pipelined
  # on `object` at once. An object comes into being with the first call that reaches it.

  get @1 (id :Data) -> (object :Stub);
  # The object of that id, likewise without I/O. `invalid-argument` for an id of another class.

  getExisting @2 (id :Data) -> (object :Stub);
  # Like `get`, but `not-found` if the object has never come into being.

  idFromName @3 (objectName :Text) -> (id :Data);
  # The id that a name stands for. The same for ever, on every vat that serves the class.

  idFromString @4 (text :Text) -> (id :Data);
  # Reads the text form of an id of this class: 64 hexadecimal digits.

  newUniqueId @5 () -> (id :Data);
  # An id that no name stands for, and that nobody can guess.

  list @6 (prefix :Text, after :Text, limit :UInt32 = 100)
      -> (objects :List(ObjectInfo), next :Text);
  # A page of the objects that have come into being: named ones first, in the byte order of their
  # names, then, when `prefix` is empty, those without a name, in the order of their ids. `after` is
  # empty for the first page, then the `next` of the page before. `next` is empty after the last
  # page. `limit` is 1 to `maxListedObjects`.

  restrict @7 (prefix :Text) -> (namespace :Namespace);
  # The same class, narrowed to objects whose name starts with `prefix`: to be passed on. It answers
  # `permission-denied` to other names and to ids.
}

struct ObjectInfo @0xef71471e72ea38da {
  # What a listing says of an object.

  id @0 :Data;
  # Its id, `idBytes` long.

  objectName @1 :Text;
  # Its name; empty if it has none.

  createdMs @2 :Int64;
  # When it came into being, in milliseconds since 1970.
}

interface Stub @0xcd5ebe4d559db58d {
  # One object, for ever. It names the object, not an instance of it: it stays good when the object
  # is evicted or reset, and it can be passed to anybody.
  #
  # The same capability answers the interface of the object's class. Cast it (`castAs`, `cast_as`,
  # `cast_to`); that takes no round trip.
  #
  # Calls made on one stub arrive in the order they were made.

  identify @0 () -> (id :Data, objectName :Text, className :Text, interfaceId :UInt64);
  # Who this is. `objectName` is empty if the stub was made from an id and the object has no name
  # that the vat knows of. Does not wake the object.

  persist @1 (label :Text) -> (sturdyRef :Data);
  # Saves this reference as bytes that `Session.restore` takes, also after restarts of the vat.
  # Whoever holds the bytes holds the object: keep them like a password. `label`, of at most
  # `maxNameBytes`, is for whoever lists references later. Returns when the reference is on disk.
}

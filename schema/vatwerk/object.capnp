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
using Go = import "/go.capnp";
using Java = import "/java.capnp";
$Cxx.namespace("vatwerk");
$Go.package("vatwerk");
$Go.import("vatwerk");
$Java.package("vatwerk");
$Java.outerClassname("ObjectFile");

using Http = import "http.capnp";

interface Namespace @0xe3b2d379d9f66f82 {
  # All objects of one class. Holding it is the permission to reach them.

  getByName @0 (objectName :Text) -> (object :Stub);
  # The object of that name (1 to `maxNameBytes` bytes). Returns without I/O: calls may be pipelined
  # on `object` at once. An object comes into being with its first write: a call that only reads leaves nothing.

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

  delete @8 (key :ObjectKey) -> (existed :Bool);
  # Deletes an object for good: its storage, its alarms, and its place in listings. An instance that
  # is awake ends; calls that are in flight get `object-reset`. `existed` is false if there was
  # nothing to delete. Returns when the end is on disk; after `outcome-unknown` it is not known whether
  # it is, and the call may be repeated. Stubs and saved references still name the object: the next
  # call on one makes it anew.

  show @9 (key :ObjectKey) -> (status :ObjectStatus);
  # What an object looks like at the moment. Does not wake it, and does not make it.

  count @10 (prefix :Text) -> (count :UInt64);
  # How many objects `list` lists with this `prefix`, on all pages.

  reset @11 (key :ObjectKey) -> (wasAwake :Bool);
  # Ends the instance of an object, whatever it is doing, and keeps everything that is stored: for
  # operators, when an object is stuck. Calls that run, and capabilities that the instance handed out,
  # answer `object-reset`; WebSockets close; calls that are queued go to the next instance. `wasAwake`
  # is false if there was no instance to end. Returns when the instance is gone.
}

struct ObjectKey @0xd5ce6727392dde67 {
  # Which object of a class.

  union {
    objectName @0 :Text;
    # The one of that name, of 1 to `maxNameBytes` bytes.

    id @1 :Data;
    # The one of that id. `invalid-argument` for an id of another class.
  }
}

struct ObjectInfo @0xef71471e72ea38da {
  # What a listing says of an object.

  id @0 :Data;
  # Its id, `idBytes` long.

  objectName @1 :Text;
  # Its name; empty if it has none.

  createdMs @2 :Int64;
  # When it came into being, in milliseconds since 1970.

  writtenMs @3 :Int64;
  # About when it was last written, in milliseconds since 1970: while it is awake, and after a crash
  # of the vat, the last 10 s may be missing. 0 if the vat does not know.

  bytes @4 :UInt64;
  # How large its database was then, free pages not counted. 0 if the vat does not know.
}

struct ObjectStatus @0xce246fb929d9edd1 {
  # What an object looks like from outside, at one moment.

  info @0 :ObjectInfo;
  # What a listing says of it. If it does not exist, its id, and the name it was asked for by.

  exists @1 :Bool;
  # Whether it has come into being.

  state @2 :ObjectState;
  # Whether there is an instance of it.

  inFlight @3 :UInt64;
  # How many calls, other events and background tasks of it are queued or running.

  queued @4 :UInt64;
  # How many of these are queued.

  heldCapabilities @5 :UInt64;
  # How many capabilities of its own keep it awake, because others hold them. Stubs, the `Sql` of a
  # `Storage`, and cursors and transactions that have ended do not.

  alarm :union {
    # The earliest of its alarms.

    none @6 :Void;
    # It has none.

    dueMs @7 :Int64;
    # When that is due, in milliseconds since 1970, as in `PendingAlarm`.
  }

  activatedMs @8 :Int64;
  # When it last woke, in milliseconds since 1970. 0 if it has not since the vat started, as far as
  # the vat remembers.

  resets @9 :UInt64;
  # How many instances of it have ended by a failure since the vat started, as far as the vat
  # remembers.

  webSockets @10 :UInt32;
  # How many WebSockets of it are open, whether it is awake or not.

  fileBytes @11 :UInt64;
  # How long its file is. More than `bytes` of its `info` while free pages are not given back, and less,
  # or 0 without a file, while its newest commits are in the vat's journal only.
}

enum ObjectState @0xdf4d6b44ef2b47bc {
  # Whether there is an instance of an object.

  asleep @0;
  # There is none. The next call makes one.

  waking @1;
  # It is being made, or, after a deletion, its predecessor is being removed: calls wait.

  awake @2;
  # It takes calls.
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

  fetch @2 (request :Http.HttpRequest, exchange :Http.Exchange) -> (body :Http.ByteSink);
  # Has the object answer an HTTP request. The request's body is written to `body`, at once. The answer
  # comes to `exchange`; this returns when all of it has been taken, or, for a WebSocket, when that has
  # ended. Dropping the call gives it up. `unimplemented` if the class does not speak HTTP. A WebSocket
  # that is accepted does not keep the object awake: the vat holds it, and `exchange`.
}

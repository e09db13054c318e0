@0x88f84083ca88cdf0;
# What a connection meets: the vat, a session, and through it everything else.
#
# From a fresh connection to a result is one round trip, because each answer may be called before it
# arrives:
#
#     bootstrap.authenticate(none).session.namespace(className = "Counter").namespace
#         .getByName("user-123").object [cast to Counter] .increment(amount = 5)

using Cxx = import "/capnp/c++.capnp";
using Go = import "/go.capnp";
using Java = import "/java.capnp";
$Cxx.namespace("vatwerk");
$Go.package("vatwerk");
$Go.import("vatwerk");
$Java.package("vatwerk");
$Java.outerClassname("VatFile");

using import "object.capnp".Namespace;

interface Vat @0x9eef1d4f401daa25 {
  # The bootstrap capability of every connection. It holds no authority by itself.

  authenticate @0 (credential :Credential) -> (session :Session);
  # Exchanges a credential for what it may reach. `unauthenticated` if it is not good here; calls
  # pipelined on `session` then fail with the same code.

  describe @1 () -> (version :Text, codeGeneratorRequest :Data);
  # The vat's version, and the schema of everything it serves, classes of users included: a
  # CodeGeneratorRequest as `capnp compile -o-` prints it, doc comments and all.
}

struct Credential @0x90c0b584c473c3f5 {
  # Who asks.

  union {
    none @0 :Void;
    # Nobody in particular: good where reaching the listener is permission enough, as on a unix
    # socket or on loopback.

    token @1 :Text;
    # A secret that the vat was configured with.
  }
}

interface Session @0xb78b40576d5f4da2 {
  # What one credential may reach. Dropping it takes nothing back that it has handed out.

  namespace @0 (key :ClassKey) -> (namespace :Namespace);
  # The objects of a class. `not-found` if the vat does not serve it.

  classes @1 () -> (classes :List(ClassInfo));
  # The classes that the vat serves, ordered by name.

  restore @2 (sturdyRef :Data) -> (cap :Capability);
  # The capability that was saved as these bytes. `not-found` if they were never given out, or have
  # been forgotten.

  forget @3 (sturdyRef :Data) -> (existed :Bool);
  # Makes saved bytes worthless. Capabilities restored from them before stay good.

  serverInfo @4 () -> (info :ServerInfo);
  # About the vat.

  alarms @5 (after :Text, limit :UInt32 = 100) -> (alarms :List(PendingAlarm), next :Text);
  # A page of the objects that have alarms, in the order in which the earliest of each is due. `after`
  # is empty for the first page, then the `next` of the page before. `next` is empty after the last
  # page. `limit` is 1 to `maxListedObjects`. Does not wake anything.
}

struct ClassKey @0xe759bd56b0f93722 {
  # A class by either of its names.

  union {
    className @0 :Text;
    # The name it is served under.

    interfaceId @1 :UInt64;
    # The id of its interface, which never changes.
  }
}

struct ClassInfo @0xbe06a40166640cd4 {
  # One class that a vat serves.

  className @0 :Text;
  # The name it is served under, as in `ClassKey`.

  interfaceId @1 :UInt64;
  # The id of its interface: a node of that id is in `Vat.describe`.

  objectCount @2 :UInt64;
  # How many of its objects have come into being.
}

struct PendingAlarm @0xba401d81c807bf11 {
  # The earliest alarm of one object.

  className @0 :Text;
  # The name that the object's class is served under; empty if the vat does not serve it.

  interfaceId @1 :UInt64;
  # The id of its class's interface.

  id @2 :Data;
  # Its id, `idBytes` long.

  objectName @3 :Text;
  # Its name; empty if it has none.

  dueMs @4 :Int64;
  # When the alarm is due, in milliseconds since 1970. One that runs, or is late, is due in the past.
  # If a turn that set an alarm was undone, this may be the time of that one: the vat finds out when
  # that comes.
}

struct ServerInfo @0xc7bbd759102e3265 {
  # About a vat.

  version @0 :Text;
  # Its version, as in `Vat.describe`.

  startedMs @1 :Int64;
  # When it started, in milliseconds since 1970.

  residentObjects @2 :UInt64;
  # How many objects are awake in memory.
}

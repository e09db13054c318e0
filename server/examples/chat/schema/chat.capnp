@0x8f7d075ccb51b1ef;

using Object = import "/vatwerk/object.capnp";
using Http = import "/vatwerk/http.capnp";

interface Room @0xaa7863f51629485e {
  # A chat room.

  say @0 (text :Text) -> (line :UInt64) $Http.open(true);
  # Keeps a line, and returns its number. The first is 1.

  history @1 (last :UInt32 = 20) -> (lines :List(Text)) $Http.open(true);
  # The last lines, the oldest first.

  copyTo @2 (room :Object.Stub);
  # Says everything again in another room.

  copyFrom @3 (roomName :Text);
  # Has the room of that name say everything again here.
}

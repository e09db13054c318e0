@0xe6ef3d500c19854f;
# A built-in class to see a vat at work with: a room for browsers and programs alike.

using Cxx = import "/capnp/c++.capnp";
using Go = import "go.capnp";
$Cxx.namespace("vatwerk");
$Go.package("vatwerk");
$Go.import("vatwerk");

using Http = import "http.capnp";

interface ChatRoom @0x91002ba4c30e14a2 $Http.open(true) {
  # A chat room. Browsers find its page at `/ChatRoom/{name}/` of the vat's HTTP listener; what is said
  # here reaches them, and what they say is found here. Nobody has to prove who they are.
  #
  # It keeps the last 1,000 lines, and none for longer than seven days.

  say @0 (author :Text, text :Text) -> (line :UInt64);
  # Says something, and returns the number of the line. The first is 1, and no number is used twice.
  # `author` is 1 to 32 characters without line breaks, `text` 1 to 2,000; blanks around them are
  # removed. `invalid-argument` for others.

  history @1 (last :UInt32 = 20) -> (lines :List(ChatLine));
  # The last lines, the oldest first.

  present @2 () -> (names :List(Text));
  # Who is in the room with a browser, in the order of their names, each once.
}

struct ChatLine @0xd923f30e1aac61ec {
  # Something that was said.

  number @0 :UInt64;
  # Its place among all that was ever said in the room.

  saidMs @1 :Int64;
  # When it was said, in milliseconds since 1970.

  author @2 :Text;
  # Who said it.

  text @3 :Text;
  # What was said.
}

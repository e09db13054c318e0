@0xbd2f43f0ab7f9c11;
# A class for the tests of which methods are open to calls over HTTP.

using Http = import "/vatwerk/http.capnp";
using Json = import "/capnp/compat/json.capnp";

interface Hall @0xd7c2b7a1f3a6be21 {
  # An interface that is extended and does not speak of HTTP.

  look @0 () -> (seen :Text);
}

interface Porch @0x93f24e9c1b50da35 $Http.open(true) {
  # An interface that is extended and is open, but for one method.

  ring @0 () -> (seen :Text);
  bolt @1 () -> (seen :Text) $Http.open(false);
  hide @2 () -> (seen :Text);
}

interface Door @0xef0d8c6a27b94c53 extends(Hall, Porch) {
  # One method of its own is open. `hide` stands before the one of `Porch`.

  knock @0 () -> (seen :Text) $Http.open(true);
  pick @1 () -> (seen :Text);
  hide @2 () -> (seen :Text);
}

interface Porter @0xe52c8b07d4f1963a $Http.open(true) {
  # A class whose calls may be large.

  carry @0 (boxes :List(Box)) -> (weight :Int64);
}

struct Box {
  label @0 :Text;
  weight @1 :Int64 = 1;
}

interface Printer @0xf1c2a9d6b04e7385 $Http.open(true) {
  # A class whose schema says how it looks in JSON.

  print @0 Sticker -> Sticker;
}

struct Sticker {
  orderId @0 :UInt64 $Json.name("order_id");
  seal @1 :Data $Json.hex;
  box @2 :Box $Json.flatten(prefix = "box.");
  content :union $Json.flatten() $Json.discriminator(name = "kind", valueName = "value") {
    nothing @3 :Void;
    words @4 :List(Text);
    number @5 :UInt64;
  }
}

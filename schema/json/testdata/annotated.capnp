@0xc4a5b8f1d2e3a602;
# A schema that says how it looks in JSON. After a change, make annotated.cgr beside it again:
#
#     VATWERK_REGENERATE=1 cargo test --test vatwerk is_current

using Json = import "/capnp/compat/json.capnp";

enum Size @0xe1b2c3d4e5f60801 {
  small @0;
  extraLarge @1 $Json.name("extra-large");
}

struct Order @0xe1b2c3d4e5f60802 {
  orderId @0 :UInt64 $Json.name("order_id");
  sizes @1 :List(Size);
  plain @2 :Data;
  coded @3 :Data $Json.base64;
  digest @4 :Data = 0x"0a ff" $Json.hex;
  address :group $Json.flatten(prefix = "address.") {
    street @5 :Text;
    town @6 :Text $Json.name("city");
    place :group $Json.flatten(prefix = "at.") {
      x @7 :Int32;
      y @8 :Int32 = 4;
    }
  }
  buyer @9 :Person $Json.flatten();
  seller @10 :Person $Json.flatten(prefix = "seller_");
  payment :union $Json.discriminator(name = "kind") {
    cash @11 :Void;
    card @12 :Text $Json.name("credit-card");
    amount @13 :UInt32;
  }
  delivery :union $Json.flatten() $Json.discriminator() {
    post :group $Json.flatten() {
      weight @14 :Float64;
      stamps @15 :List(Text);
    }
    courier :group $Json.flatten() $Json.name("by-courier") {
      weight @16 :Text;
      who @17 :Person;
    }
    pickUp @18 :Void;
  }
  note :union $Json.flatten(prefix = "note.") $Json.discriminator(name = "type", valueName = "value") {
    none @19 :Void;
    text @20 :Text;
    lines @21 :List(List(Text));
    point @22 :Point;
  }
  shape @23 :Shape;
}

struct Person @0xe1b2c3d4e5f60803 {
  name @0 :Text;
  born @1 :Int32 = 1970;
}

struct Point @0xe1b2c3d4e5f60804 {
  x @0 :Int64;
  next @1 :Point;
}

struct Shape @0xe1b2c3d4e5f60805 $Json.discriminator(name = "type") {
  # Its union has no name.

  label @0 :Text;
  union {
    dot @1 :Void;
    circle @2 :Circle $Json.flatten();
    nested @3 :Inner $Json.flatten(prefix = "in.");
    raw @4 :Data $Json.hex;
  }
}

struct Circle @0xe1b2c3d4e5f60806 {
  radius @0 :Float64;
}

struct Inner @0xe1b2c3d4e5f60807 $Json.discriminator(name = "type", valueName = "value") {
  union {
    number @0 :Int32;
    words @1 :List(Text);
  }
}

interface Shop @0xe1b2c3d4e5f60810 {
  order @0 Order -> Order;
  shape @1 Shape -> Shape;
}

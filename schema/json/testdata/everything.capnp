@0xc4a5b8f1d2e3a601;
# Everything that the JSON form must carry. After a change, make everything.cgr beside it again:
#
#     capnp compile -I schema --src-prefix=schema/json/testdata -o- \
#         schema/json/testdata/everything.capnp > schema/json/testdata/everything.cgr

enum Color @0xe1b2c3d4e5f60701 {
  red @0;
  green @1;
  blue @2;
}

struct Scalars @0xe1b2c3d4e5f60702 {
  void @0 :Void;
  bool @1 :Bool;
  int8 @2 :Int8;
  int16 @3 :Int16;
  int32 @4 :Int32;
  int64 @5 :Int64;
  uint8 @6 :UInt8;
  uint16 @7 :UInt16;
  uint32 @8 :UInt32;
  uint64 @9 :UInt64;
  float32 @10 :Float32;
  float64 @11 :Float64;
  color @12 :Color;
  text @13 :Text;
  data @14 :Data;
}

struct Defaults @0xe1b2c3d4e5f60703 {
  bool @0 :Bool = true;
  int8 @1 :Int8 = -5;
  int64 @2 :Int64 = -9223372036854775808;
  uint64 @3 :UInt64 = 18446744073709551615;
  float32 @4 :Float32 = 0.1;
  float64 @5 :Float64 = -inf;
  color @6 :Color = blue;
  text @7 :Text = "hello";
  data @8 :Data = 0x"01 02 ff";
  numbers @9 :List(Int16) = [1, -2, 3];
  point @10 :Point = (x = 7, label = "seven");
  points @11 :List(Point) = [(x = 1), (y = 2)];
}

struct Point @0xe1b2c3d4e5f60704 {
  x @0 :Int32;
  y @1 :Int32 = 10;
  label @2 :Text;
}

struct Shape @0xe1b2c3d4e5f60705 {
  later @6 :Bool;
  # Declared first, numbered last.

  union {
    empty @0 :Void;
    circle @1 :Float64;
    corner @2 :Point;
    rectangle :group {
      width @3 :UInt32;
      height @4 :UInt32 = 3;
    }
  }
  fill :union {
    none @5 :Void;
    color @7 :Color;
    pattern @8 :Text;
  }
}

struct Lists @0xe1b2c3d4e5f60706 {
  voids @0 :List(Void);
  bools @1 :List(Bool);
  int8s @2 :List(Int8);
  int64s @3 :List(Int64);
  floats @4 :List(Float32);
  colors @5 :List(Color);
  texts @6 :List(Text);
  datas @7 :List(Data);
  points @8 :List(Point);
  shapes @9 :List(Shape);
  matrix @10 :List(List(Int32));
  words @11 :List(List(List(Text)));
  grid @12 :List(List(Point));
  empties @13 :List(Empty);
}

struct Empty @0xe1b2c3d4e5f60707 {}

struct Chain @0xe1b2c3d4e5f60708 {
  value @0 :Int32;
  next @1 :Chain;
}

struct Caps @0xe1b2c3d4e5f60709 {
  target @0 :Target;
  any @1 :AnyPointer;
  cap @2 :Capability;
  boxed @3 :Box(Text);
  inner @4 :Inner;
}

struct Inner @0xe1b2c3d4e5f6070d {
  point @0 :Point;
}

struct Box @0xe1b2c3d4e5f6070a (T) {
  content @0 :T;
}

interface Base @0xe1b2c3d4e5f60710 {
  ping @0 ();
  # Answers.
}

interface Left @0xe1b2c3d4e5f60711 extends(Base) {
  left @0 (x :Int32) -> Point;
}

interface Right @0xe1b2c3d4e5f60712 extends(Base) {
  right @0 Point -> (y :Int32);
}

interface Target @0xe1b2c3d4e5f60713 extends(Left, Right) {
  # Where the paths meet.

  scalars @0 Scalars -> Scalars;
  defaults @1 Defaults -> Defaults;
  shape @2 Shape -> Shape;
  lists @3 Lists -> Lists;
  chain @4 Chain -> Chain;
  caps @5 Caps -> Caps;
  feed @6 (lines :List(List(Text)), color :Color = green, greeting :Text = "hi \"you\"") -> stream;
  mixed @8 (shape :Shape, points :List(Point), n :Float64) -> (shape :Shape, chain :Chain);
  second @7 (point :Point = (x = 1, label = "one"), numbers :List(Int16) = [1, 2]) -> ();
}

const limit :UInt64 = 18446744073709551615;
# As far as it goes.

const origin :Point = (x = 0, y = 0, label = "origin");

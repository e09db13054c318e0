@0xe8a3c3f1d2b40001;
# What a schema can say, for the tests of schemas as text.
#
#   An indented line, "quotes" and a \backslash.

using Cxx = import "/capnp/c++.capnp";
using Object = import "/vatwerk/object.capnp";
using Json = import "textjson.capnp";
$Cxx.namespace("text");
$about("the file");

annotation about @0xe8a3c3f1d2b40002 (*) :Text;
# Something to say of anything.

annotation marked @0xe8a3c3f1d2b40003 (field, method, struct) :Void;
annotation placed @0xe8a3c3f1d2b40004 (enumerant, interface, union, group) :Point $about("an annotation");
annotation listed @0xe8a3c3f1d2b40005 (const, param, field) :List(Float64);
annotation colored @0xe8a3c3f1d2b40006 (struct, enum) :Color;

enum Color @0xe8a3c3f1d2b40010 $about("an enum") {
  # In another order than that of the numbers.

  blue @2 $placed(x = -1, label = "b");
  red @0 $about("r");
  # The first.
  green @1;
}

struct Point @0xe8a3c3f1d2b40011 $marked $colored(green) {
  y @1 :Int16 = 10;
  # Declared first.
  x @0 :Int16 $about("x");
  label @2 :Text;
}

struct Numbers @0xe8a3c3f1d2b40012 {
  bool @0 :Bool = true;
  int8 @1 :Int8 = -128;
  int64 @2 :Int64 = -9223372036854775808;
  uint64 @3 :UInt64 = 18446744073709551615;
  float32 @4 :Float32 = 0.1;
  small @5 :Float32 = 1e-45;
  float64 @6 :Float64 = -inf;
  none @7 :Float64 = nan;
  large @8 :Float64 = 1.7976931348623157e308;
  color @9 :Color = blue;
  text @10 :Text = "tab\t \"quoted\" back\\slash\nnew\x01 ünïcödé";
  data @11 :Data = 0x"00 7f ff";
  nothing @12 :Void;
  zero @13 :UInt8 = 0;
  empty @14 :Text = "";
}

struct Shape @0xe8a3c3f1d2b40013 {
  later @6 :Bool;
  union {
    empty @0 :Void $about("nothing");
    circle @1 :Float64;
    corner @2 :Point;
    # At a point.
    rectangle :group $placed(x = 3) {
      # Its sides.
      width @3 :UInt32;
      height @4 :UInt32 = 3;
      fill :union {
        solid @5 :Color;
        pattern @7 :Text;
      }
    }
  }
  border :union {
    none @8 :Void;
    width @9 :UInt8;
  }
  last @10 :List(List(Point)) = [[(x = 1)], [], [(label = "z"), ()]];
}

struct Retrofitted @0xe8a3c3f1d2b40014 {
  # A union that got its tag after two of its members.

  first @0 :UInt16;
  kind @3! :union $about("kind") {
    a @2 :Bool;
    b @4 :Bool;
  }
  second @1 :UInt64;
}

struct Defaults @0xe8a3c3f1d2b40015 {
  shape @0 :Shape = (later = true, rectangle = (width = 2, height = 7, fill = (pattern = "dots")), border = (width = 1));
  corner @1 :Shape = (corner = (x = 1, y = 2, label = "here"));
  chosen @2 :Shape = (circle = 0);
  numbers @3 :Numbers = (bool = false, int8 = 3, float64 = 2.5, color = green, text = "other");
  box @4 :Box(Text) = (content = "in a box", more = [(content = "second")]);
  boxes @5 :List(Box(Point)) = [(content = (x = 4)), (pair = (first = (x = 1), second = 0x"01"))];
  bools @6 :List(Bool) = [true, false, true];
  voids @7 :List(Void) = [void, void];
  colors @8 :List(Color) = [blue, red];
  texts @9 :List(Text) = ["a", "", "c"];
  datas @10 :List(Data) = [0x"00", 0x"ff"];
  nested @11 :List(List(List(Int8))) = [[[1], []], []];
}

struct Box @0xe8a3c3f1d2b40016 (T) {
  content @0 :T;
  more @1 :List(Box(T));
  any @2 :Box;
  pair @3 :Pair(Data);
  struct Pair @0xe8a3c3f1d2b40017 (U) {
    first @0 :T;
    second @1 :U;
    again @2 :Pair(T);
    inner @3 :Inner;
    deep @4 :Box(U).Pair(Text);
  }
  struct Inner @0xe8a3c3f1d2b40018 {
    content @0 :T;
    box @1 :Box(T);
  }
}

struct Kinds @0xe8a3c3f1d2b40019 {
  any @0 :AnyPointer;
  structure @1 :AnyStruct;
  list @2 :AnyList;
  cap @3 :Capability;
  stub @4 :Object.Stub;
  pair @5 :Box(Text).Pair(Data);
  inner @6 :Box(List(Text)).Inner;
  many @7 :List(Box(Service(Text)).Pair(Shape));
}

struct Hider @0xe8a3c3f1d2b4001a {
  # Has names inside that hide others.

  struct Point @0xe8a3c3f1d2b4001b {
    mine @0 :Bool;
  }
  struct Text @0xe8a3c3f1d2b4001c (Color) {
    color @0 : .Color;
    mine @1 :Color;
    point @2 : .Point;
    near @3 :Point;
  }
  near @0 :Point;
  far @1 : .Point = (x = 5);
  const inside @0xe8a3c3f1d2b4001d : .Point = (y = 0) $listed([1, -0.5, inf]);
  enum Empty @0xe8a3c3f1d2b4001e { only @0; }
  annotation within @0xe8a3c3f1d2b4001f (field) :Empty;
  used @2 :Bool $within(only);
}

interface Base @0xe8a3c3f1d2b40020 $placed(label = "base") {
  ping @0 ();
}

interface Service @0xe8a3c3f1d2b40021 (T) extends(Base, Source(T)) {
  # A service.

  third @2 (point :Point = (x = 1), numbers :List(Int16) = [1, 2] $listed([])) -> () $about("a method");
  first @0 Point -> Shape;
  # Written second.
  second @1 [U, V] (key :U, of :T, box :Box(V)) -> (value :V, all :List(Box(U)));
  feed @3 (bytes :Data) -> stream;
  next @4 Box(T) -> Page;
  struct Page @0xe8a3c3f1d2b40022 {
    items @0 :List(Item) = [];
    struct Item @0xe8a3c3f1d2b40023 { item @0 :T; }
  }
  imported @5 (it :Json.Imported, key :Object.ObjectKey) -> (it :Json.Generic(Point).Part);
}

interface Source @0xe8a3c3f1d2b40024 (T) {
  take @0 () -> (it :T);
}

const limit @0xe8a3c3f1d2b40030 :UInt64 = 18446744073709551615;
# As far as it goes.
const origin @0xe8a3c3f1d2b40031 :Point = (label = "origin");
const raw @0xe8a3c3f1d2b40032 :Data = "";
const words @0xe8a3c3f1d2b40033 :List(Text) = ["one", "two"];
const ratio @0xe8a3c3f1d2b40034 :Float32 = 0.333333343;

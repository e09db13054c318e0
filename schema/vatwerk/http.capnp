@0x9ff7d753aeef4c0d;
# HTTP and WebSockets as objects speak them: see `Stub.fetch`.
#
# Shape and rules are those of Cap'n Proto's own `http-over-capnp.capnp`, which is installed nowhere:
# an exchange is one call that lasts as long as the exchange does, its `body` is written to before it
# is over, and dropping it gives the exchange up. Methods and header names are plain text here.
# `ByteSink` and `Socket` have the methods, ordinals and types of `ByteStream` and `WebSocket` there,
# and a stub also answers `HttpService` (0x92963bfdad2beb6a, `request` only): a C++ program may cast a
# stub to it and put kj's HTTP server in front.

using Cxx = import "/capnp/c++.capnp";
using Go = import "/go.capnp";
using Java = import "/java.capnp";
$Cxx.namespace("vatwerk");
$Go.package("vatwerk");
$Go.import("vatwerk");
$Java.package("vatwerk");
$Java.outerClassname("HttpFile");

annotation open @0xcb4a35f3d3fe5db1 (interface, method) :Bool;
# Whether methods may be called as JSON, at `/{Class}/{name}/call/{method}` of a vat's HTTP listener, which asks
# nobody who they are. On an interface: all methods that it declares itself. On a method: this one, whatever its
# interface says. Without it: no. It holds in every class that has the method.
#
#     using Http = import "/vatwerk/http.capnp";
#     interface Chat @0x... $Http.open(true) {
#       post @0 (line :Text);
#       clear @1 () $Http.open(false);
#     }

struct HttpHeader @0xda18aaee8ac59a37 {
  # One header field. There may be several of one name, and their order is kept.

  name @0 :Text;
  # In any case; told in lower case.

  value @1 :Text;
  # Without a line break.
}

struct BodySize @0x9e40d876262de277 {
  # How long a body is.

  union {
    unknown @0 :Void;
    # Nobody knows before its end.

    fixed @1 :UInt64;
    # So many bytes. A body that ends before or goes on after that is broken.
  }
}

struct HttpRequest @0xe8aa772dbfc791cb {
  # A request, without its body.

  method @0 :Text;
  # Such as `GET`.

  url @1 :Text;
  # As the object sees it: an absolute URL, or a path with its query, which begins with `/`.

  headers @2 :List(HttpHeader);
  # Those that are for the object: none that speaks of a connection, such as `Transfer-Encoding`. One
  # that asks for a WebSocket has `Upgrade: websocket`.

  bodySize @3 :BodySize;
  # How long the body is. 0 for none.
}

struct HttpResponse @0x80a8f49581c1e14d {
  # A response, without its body.

  status @0 :UInt16;
  # 200 to 599.

  headers @1 :List(HttpHeader);
  # Likewise.

  bodySize @2 :BodySize;
  # How long the body is. Of the answer to `HEAD`, how long it would be: none is written.
}

interface ByteSink @0xc8683caa63b98c86 {
  # Takes a body. Dropping it before `end` says that the body is broken off.

  write @0 (bytes :Data) -> stream;
  # The next bytes, in pieces of any size. Returns when there is room for more: whoever waits for that
  # sends no faster than the other end reads. Who does not is told `overloaded`, and the body is
  # broken.

  end @1 ();
  # That was all of it. The vat calls it when every `write` has returned; an error of a `write` ends the body
  # and the exchange that it is part of.
}

interface Exchange @0xd068774f52f454f3 {
  # Takes the answer to one request. Implemented by whoever asks. One of the two is called, once.

  respond @0 (response :HttpResponse) -> (body :ByteSink);
  # The answer, and where its body goes. Answers that have no body have `bodySize` 0; `body` may be
  # null then.

  upgrade @1 (headers :List(HttpHeader), up :Socket) -> (down :Socket);
  # The request asked for a WebSocket, and gets one. What the asker says goes to `up`; what the object
  # says comes to `down`. `headers` are those of the answer, such as `Sec-WebSocket-Protocol`.
}

interface Socket @0xab4f7a78c0484cad {
  # Takes one direction of a WebSocket. A message is at most `maxSocketMessageBytes` long. Dropping it
  # before `close` says that the connection was lost: code 1006.

  sendText @0 (text :Text) -> stream;
  # A message of text. Returns when there is room for more. To an object: when its handler has ended,
  # and what that wrote is on disk. An object whose message is refused with an error is told the end of the
  # WebSocket, with code 1011.

  sendData @1 (data :Data) -> stream;
  # A message of bytes, likewise.

  close @2 (code :UInt16, reason :Text);
  # Nothing comes after this. `code` is 1000 to 4999 as WebSockets have them, or 1005 for none;
  # `reason` is at most 123 bytes.

  fail @3 (reason :Text);
  # Nothing comes after this, because something went wrong: what came from the other end was no
  # WebSocket message, or too long.
}

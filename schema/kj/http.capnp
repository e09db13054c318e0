@0xd8da64e553572525;
# HTTP as kj speaks it over Cap'n Proto, as far as a stub answers it: what has to be equal on the wire
# to `http-over-capnp.capnp` and `byte-stream.capnp`, and nothing else. Ids, ordinals and types are
# theirs. It is for the server alone, and no part of the contract: whoever speaks this has kj's files.

interface HttpService @0x92963bfdad2beb6a {
  # What a program casts a stub to.

  startRequest @0 ();
  # The form of before 1.0. Not answered.

  request @1 (request :HttpRequest, context :ClientRequestContext) -> (requestBody :ByteStream);
  # `Stub.fetch`.
}

interface ClientRequestContext @0xea3256705c0b63ba {
  # `Exchange`.

  startResponse @0 (response :HttpResponse) -> (body :ByteStream);
  # `respond`. Null for a body of 0 bytes.

  startWebSocket @1 (headers :List(HttpHeader), upSocket :WebSocket) -> (downSocket :WebSocket);
  # `upgrade`.
}

interface ByteStream @0xd2e7d8a0dc0a9766 {
  # `ByteSink`, but for the id and for what makes paths shorter.

  write @0 (bytes :Data) -> stream;

  end @1 ();
}

interface WebSocket @0xb09c33a9f4caa823 {
  # `Socket`, but for the id and without `fail`.

  sendText @0 (text :Text) -> stream;

  sendData @1 (data :Data) -> stream;

  close @2 (code :UInt16, reason :Text);
}

struct HttpRequest @0xdeb08db1052a4866 {
  method @0 :UInt16;
  # An enum there: a number for each method that kj knows.

  url @1 :Text;

  headers @2 :List(HttpHeader);

  bodySize :union {
    unknown @3 :Void;
    fixed @4 :UInt64;
  }
}

struct HttpResponse @0xf235351cf1531299 {
  statusCode @0 :UInt16;

  statusText @1 :Text;
  # Null for the usual one.

  headers @2 :List(HttpHeader);

  bodySize :union {
    unknown @3 :Void;
    fixed @4 :UInt64;
  }
}

struct HttpHeader @0xb39047580b6fd228 {
  union {
    common :group {
      name @0 :UInt16;
      # An enum there: a number for each name that HPACK knows. So is `commonValue`.

      union {
        commonValue @1 :UInt16;
        value @2 :Text;
      }
    }

    uncommon @3 :NameValue;
  }
}

struct NameValue @0xed5334c41abc0375 {
  name @0 :Text;

  value @1 :Text;
}

@0xc9471c5e28312c9f;
# An object's storage as a capability: key-value pairs, SQL and transactions on one database that
# belongs to one object.
#
# Keys are ordered by their UTF-8 bytes. Values are bytes to the vat; by convention they are CBOR
# (RFC 8949), so that tools and classes in any language can read each other's.
#
# Every method is one turn of the object: its writes are one atomic commit, and it answers only
# when that commit, and every earlier one of the object, is on disk.

using Cxx = import "/capnp/c++.capnp";
using Go = import "/go.capnp";
using Java = import "/java.capnp";
$Cxx.namespace("vatwerk");
$Go.package("vatwerk");
$Go.import("vatwerk");
$Java.package("vatwerk");
$Java.outerClassname("StorageFile");

interface Operations @0x8d4a021858678f67 {
  # What can be done both directly and inside a transaction.

  get @0 (key :Text) -> (value :Value);
  # The value of `key`, or none.

  put @1 (key :Text, value :Data);
  # Sets `key`. `limit-exceeded` for a key over `maxKeyBytes` or a value over `maxValueBytes`.

  delete @2 (key :Text) -> (existed :Bool);
  # Removes `key`, and says whether it was there.

  getMultiple @3 (keys :List(Text)) -> (entries :List(Entry));
  # Those of at most `maxKeysPerCall` keys that are there, in key order. `limit-exceeded` when
  # their values do not fit in one message; ask for fewer.

  putMultiple @4 (entries :List(Entry));
  # Sets all of at most `maxKeysPerCall` keys, or, on any error, none.

  deleteMultiple @5 (keys :List(Text)) -> (count :UInt32);
  # Removes all of at most `maxKeysPerCall` keys, and says how many were there.

  list @6 (range :Range, sink :EntrySink) -> (count :UInt64);
  # Sends the entries of `range` to `sink` in batches, in order, then calls `sink.end`, and returns
  # how many there were. Each batch holds at most `maxChunkBytes`, and the next is read when the
  # sink has taken the one before, so writes made meanwhile may be seen in later batches. Inside a
  # transaction the list is of one moment. If the sink refuses a batch, the list fails with that error
  # and `end` is not called.

  page @7 (range :Range) -> (entries :List(Entry), more :Bool);
  # The first entries of `range`, at most `maxChunkBytes` of them. If `more`, the rest follows the
  # last key: ask again with `startAfter` (reversed: with `end`) set to it.

  sql @8 () -> (sql :Sql);
  # SQL on the same database. Of a `Storage`, it names the object like a stub: it stays good when the
  # object is evicted or reset, and does not keep the object awake. Of a `Transaction`, it is good as
  # long as that is.

  transaction @9 () -> (transaction :Transaction);
  # Opens a transaction, nested if this is one already. While it is open every other call on the
  # object waits. A transaction has at most one open child, and while it has one it answers
  # `invalid-argument` to everything but `rollback`.
}

interface Storage @0xf22b4635b5d59fa3 extends(Operations) {
  # The whole storage of one object.

  deleteAll @0 ();
  # Removes every key and every table. Cursors that are open answer `closed` afterwards.
  # `invalid-argument` while a transaction of the class is open.

  sync @1 ();
  # Returns when every write made before the call is on disk.
}

interface Transaction @0xf6ff6da1bcc4458c extends(Operations) {
  # Writes that become one commit, or nothing. Dropping the capability rolls back, as does being
  # open for more than `maxTransactionMs`. After it has ended every method but `rollback` answers
  # `closed`. It keeps its object awake until it has ended; once the object has slept after that,
  # `rollback` answers `closed` too.

  commit @0 ();
  # Makes the writes permanent; of a nested transaction, part of its parent. Returns when they are
  # on disk; of a nested one, at once.

  rollback @1 ();
  # Undoes every write, those of nested transactions too. Idempotent, and after `commit` it answers
  # ok and does nothing.
}

struct Value @0xe3ab6ecd8d80bb59 {
  # A value that may be missing. An empty value is not a missing one.

  union {
    none @0 :Void;
    # The key is not there.

    bytes @1 :Data;
    # The value, of at most `maxValueBytes`.
  }
}

struct Entry @0xf0000112f379e7e4 {
  # One key and its value.

  key @0 :Text;
  value @1 :Data;
}

struct Range @0xf60fea89622066fb {
  # A range of keys. All bounds apply together; a range that is empty is not an error.

  prefix @0 :Text;
  # Only keys that start with these bytes. Empty: no such bound.

  from :union {
    beginning @1 :Void;
    # No lower bound.

    start @2 :Text;
    # Only this key and those after it.

    startAfter @3 :Text;
    # Only keys after this one.
  }

  to :union {
    last @4 :Void;
    # No upper bound.

    end @5 :Text;
    # Only keys before this one.
  }

  reverse @6 :Bool;
  # From the last key to the first. The bounds keep their meaning; the limit takes the last keys.

  limit :union {
    unlimited @7 :Void;
    # All of them.

    entries @8 :UInt32;
    # At most this many; zero is `invalid-argument`.
  }
}

interface EntrySink @0xcdf86e1315f9153c {
  # Implemented by the caller of `Operations.list`.

  write @0 (entries :List(Entry)) -> stream;
  # The next entries, in order. Returns when the sink wants more. An error ends the list, which fails with it.

  end @1 ();
  # There are no more. Called when every `write` has returned. A sink that is dropped without `end` has not
  # seen the whole list.
}

interface Sql @0x9a2a273dd872ac60 {
  # SQL on an object's own database. SQLite's dialect; tables whose name starts with `_vw_` are the
  # vat's own and cannot be read or changed, nor can foreign keys refer to them. The tables that
  # ANALYZE writes are for SQLite alone.
  #
  # Besides the limits in `limit.capnp`: the statements of one exec, or the rows of one call of a
  # cursor, take at most 500 ms together (the vat or the class may say otherwise; a single function is
  # not stopped before it returns), or are `limit-exceeded`. What SQLite itself limits is `sql-failed`:
  # 100 columns of a table or result, 5 terms of a compound SELECT, expressions 100 deep, LIKE and
  # GLOB patterns of 4096 bytes (the vat may say otherwise of these), 127 arguments of a function,
  # triggers 10 deep, large arguments of `json_patch` and `unhex`.

  exec @0 (query :Text, bindings :List(SqlValue)) -> (cursor :Cursor);
  # Runs every statement of `query` but the last to its end, and the last up to its first row.
  # Bindings belong to the last, by position; their number must fit it exactly. Several statements
  # are one: `sql-failed` and `sql-refused` leave nothing of any of them. Pragmas that turn something
  # on or off are for the statements after them in the same `query`.
  # `limit-exceeded` stops a statement; if it was writing after other writes of the turn, all of them
  # are undone and the object is reset. `limit-exceeded` too when `maxOpenCursors` are open.

  databaseSize @1 () -> (bytes :UInt64);
  # The size of the object's database, free pages not counted.
}

interface Cursor @0xf5d2ce7409af81e0 {
  # The rows of one statement, read as they are asked for. An open cursor keeps its object awake:
  # drop it, or read to the end. One that is not used for `maxCursorIdleMs` answers `closed`, and so
  # does every method once the object has slept after the cursor's end.

  columns @0 () -> (columnNames :List(Text));
  # The names of the columns as SQLite gives them; several may be equal. Valid after the end too.

  next @1 (maxRows :UInt32 = 1000) -> (rows :List(Row), done :Bool);
  # The next rows: at least one unless `done`, at most `maxRows` and about `maxChunkBytes`.
  # `maxRows` of zero is `invalid-argument`. After `done` it answers no rows.

  one @2 () -> (row :Row);
  # The only row of the result. `invalid-argument` when there is none or more than one.

  counts @3 () -> (rowsRead :UInt64, rowsWritten :UInt64);
  # So far: rows stepped over (rows returned, and rows passed by in full scans) and rows inserted,
  # updated or deleted, triggers' included.
}

struct Row @0xd26917199500e5ed {
  # One row of a result.

  values @0 :List(SqlValue);
  # As many as there are columns.
}

struct SqlValue @0xf44b9d3140e5f79b {
  # A value of SQLite's. An integer stays an integer of 64 bits.

  union {
    null @0 :Void;
    integer @1 :Int64;
    real @2 :Float64;
    text @3 :Text;
    blob @4 :Data;
  }
}

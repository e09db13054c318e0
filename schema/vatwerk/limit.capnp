@0xf4acd8f89b46584f;
# Limits and error codes: the numbers and words that every caller may rely on.
#
# # Errors
#
# The text of every exception that a vat sends starts with a code from the list below, then `: `,
# then words for people. Each Cap'n Proto hop may put `remote exception: ` before it, any number of
# times: strip these first. The exception's kind says what to do next:
#
# - `failed`: fix the call, or read the message. Repeating the same call gives the same answer.
# - `overloaded`: try again later, with a growing delay.
# - `disconnected`: the instance or connection is gone. Whether the call ran, its last word says. A
#   stub stays good: the next call on it reaches a fresh instance.
# - `unimplemented`: this object does not have that method. Fall back, if you can.
#
# A class may send codes of its own in the same form (`[a-z][a-z0-9-]*: `).
#
# # Whether the call ran
#
# The text of every `disconnected` and `overloaded` exception that a vat sends for a call ends with
# one of the three words `notDelivered`, `delivered` and `deliveryUnknown` in brackets, after a space:
# `overloaded: the queue of the object (calls) is full at 4096 [not-delivered]`. It speaks of the call
# that failed, not of calls that this one made. A `failed` or `unimplemented` exception ends with
# `[not-delivered]` if the call did not begin, and otherwise says nothing: the call ran, and this is its
# outcome. An error that a client's own library makes, because the connection is gone, has no such
# word: whether the call ran is not known.

using Cxx = import "/capnp/c++.capnp";
using Go = import "/go.capnp";
using Java = import "/java.capnp";
$Cxx.namespace("vatwerk");
$Go.package("vatwerk");
$Go.import("vatwerk");
$Java.package("vatwerk");
$Java.outerClassname("LimitFile");

const invalidArgument :Text = "invalid-argument";
# `failed`. An argument is malformed: an id, a range, a binding count, a value out of its range.

const notFound :Text = "not-found";
# `failed`. There is no such class, object or saved reference.

const limitExceeded :Text = "limit-exceeded";
# `failed`. Something is larger, or takes longer, than a limit in this file or in the vat's
# configuration allows. The message names the limit.

const unauthenticated :Text = "unauthenticated";
# `failed`. The credential is not good here.

const permissionDenied :Text = "permission-denied";
# `failed`. The capability was narrowed and does not reach that far.

const sqlRefused :Text = "sql-refused";
# `failed`. The statement is well formed but not allowed: it names a reserved table, opens a
# transaction, attaches a file, uses a function or pragma that is not on the list. Only whoever wrote the
# SQL is told: the caller of `Sql`, `Cursor` or `Transaction`.

const sqlFailed :Text = "sql-failed";
# `failed`. SQLite refused the statement: syntax, constraint, type, unknown table. Told to the same callers.

const closed :Text = "closed";
# `failed`. The transaction or cursor has ended: committed, rolled back, exhausted or timed out.

const activationFailed :Text = "activation-failed";
# `failed`. The class's `create` or `activate` returned an error. Nothing of the attempt is kept;
# the next call tries again.

const applicationFailed :Text = "application-failed";
# `failed`. The class's method returned an error without a code of its own, or its own SQL failed: the log of
# the vat says how.

const unimplemented :Text = "unimplemented";
# `unimplemented`. The class has no such interface or method.

const objectReset :Text = "object-reset";
# `disconnected`. The instance panicked, aborted or lost its storage while the call was in flight.
# What had been acknowledged before is kept; the rest is undone.

const shuttingDown :Text = "shutting-down";
# `disconnected`. The vat is draining. The call did not start.

const disconnected :Text = "disconnected";
# `disconnected`. A connection that the call needed is gone.

const overloaded :Text = "overloaded";
# `overloaded`. A queue is full. The call did not start.

const storageFailed :Text = "storage-failed";
# `overloaded`. The disk failed or is full, in reading or in writing. The writes of the turn, if it had
# any, are undone for good, whatever becomes of the vat, and the instance was reset.

const storageDamaged :Text = "storage-damaged";
# `failed`. The object's database is damaged, is no database, is gone, or was written by a later version of the
# vat. Nothing was written. An operator has to put it right: `vatwerk check` says what is wrong with it.

const outcomeUnknown :Text = "outcome-unknown";
# `disconnected`. The disk failed or is slow, and nobody knows whether the writes of the turn will be
# found on it: they were given to it, and 30 s later they were not durable, or it failed and could not
# be told that they do not count. The instance was reset. Read what is there before repeating the call.

const deadlock :Text = "deadlock";
# `failed`. The call would wait for ever: for an object whose `create` or `activate` waits for this
# call, or for serial objects (`SERIAL`) that wait for each other. The message names them.

const internal :Text = "internal";
# `failed`. A fault of the vat itself. Details are in its log.

const notDelivered :Text = "not-delivered";
# The call has not run, and will not. Repeating it does no harm.

const delivered :Text = "delivered";
# The call has run, and the exception is its outcome.

const deliveryUnknown :Text = "delivery-unknown";
# The call was under way when its object was lost: it may have run in part, or whole. Repeat it only if
# running it twice does no harm.

const maxMessageBytes :UInt64 = 33554432;
# The largest RPC message either side sends, 32 MiB. A larger one from a client ends the connection; results of
# the vat that would be larger are `limit-exceeded` instead, when the call has run. Send larger things in pieces.

const maxChunkBytes :UInt32 = 1048576;
# The most that a page of keys or a batch of rows holds, 1 MiB, unless one entry alone is larger.

const maxNameBytes :UInt32 = 1024;
# The longest name of an object, in bytes of UTF-8. The shortest is one byte.

const idBytes :UInt32 = 32;
# The length of an object id. Its text form is 64 lower-case hexadecimal digits.

const maxKeyBytes :UInt32 = 2048;
# The longest key of a key-value pair, in bytes of UTF-8. The empty key is a key.

const maxValueBytes :UInt32 = 2097152;
# The largest value of a key-value pair, 2 MiB.

const maxKeysPerCall :UInt32 = 128;
# The most keys in one getMultiple, putMultiple or deleteMultiple.

const maxSqlBytes :UInt32 = 100000;
# The longest SQL text of one exec, which may hold several statements. A vat may take longer ones.

const maxSqlValueBytes :UInt32 = 4194304;
# The largest text, blob or row in SQL, 4 MiB.

const maxSqlBindings :UInt32 = 100;
# The most bindings of one exec.

const maxTransactionMs :UInt32 = 30000;
# How long a transaction capability may stay open. It holds back every other call on its object;
# after this time it is rolled back.

const maxTransactionDepth :UInt32 = 64;
# How deep transactions nest.

const maxOpenCursors :UInt32 = 64;
# The most cursors of one object that are open: neither read to the end nor dropped.

const maxCursorIdleMs :UInt32 = 30000;
# How long a cursor capability stays open without a call. What it reads cannot be cleaned up in the
# meantime; after this time it answers `closed`.

const maxReturnedBytes :UInt32 = 16777216;
# The most that the rows of a statement that writes (RETURNING) hold together, 16 MiB.

const maxDatabaseBytes :UInt64 = 10737418240;
# The largest database of an object, 10 GiB. A write that does not fit is `limit-exceeded`.

const maxListedObjects :UInt32 = 1000;
# The most objects in one page of Namespace.list or Session.alarms.

const maxSocketMessageBytes :UInt32 = 33553408;
# The longest message on a WebSocket: 32 MiB but for the 1,024 bytes around it in an RPC message. What a
# browser or another WebSocket client may send is 1 MiB, unless the vat is configured otherwise.

const maxSocketsPerObject :UInt32 = 32768;
# The most WebSockets of one object.

const maxSocketTags :UInt32 = 10;
# The most tags of a WebSocket. Each is at most `maxSocketTagBytes` long.

const maxSocketTagBytes :UInt32 = 256;
# The longest tag of a WebSocket, in bytes of UTF-8.

const maxSocketAttachmentBytes :UInt32 = 16384;
# The most that an object may attach to a WebSocket.

const maxAutoResponseBytes :UInt32 = 2048;
# The longest text that is answered without waking the object, and the longest answer.

@0xa9d8018c918cd609;
# The classes of the example `promises`: small ones, in whose methods one sees what a vat promises.

using Http = import "/vatwerk/http.capnp";

interface Herald @0x9fc36ec8c0ea6f6d {
  # A number, and the ways by which others learn it. "Counts" means: adds one to the number.

  count @0 (note :Data) -> (number :UInt64);
  # Counts, keeps the note beside the number, and returns the number.

  read @1 () -> (number :UInt64);
  # Returns the number.

  tell @2 (listener :Listener) -> (number :UInt64) $Http.open(true);
  # Counts, and tells the listener. Returns when it has heard.

  keep @3 (listener :Listener);
  # Keeps the listener after the call, in memory.

  dismiss @4 () -> (number :UInt64);
  # Counts, and lets go of the listener that it kept.

  announce @5 () -> (number :UInt64);
  # Counts, and sends the number to every WebSocket.

  setAnswer @6 () -> (number :UInt64);
  # Counts, and has the vat answer the number to whoever says `ping` on a WebSocket.

  weigh @7 (parcel :Data, listener :Listener);
  # Tells the listener how many bytes the parcel has. Returns when it has heard.

  lend @8 (listener :Listener, loan :Listener) -> (loan :Listener);
  # Counts, returns the loan at once, so that it may be called by way of the results, and tells the listener the
  # number. Is over when that has heard.

  shout @9 (times :UInt32, bytes :UInt32);
  # Calls the listener that it kept so many times, each time with a parcel of so many bytes, and does not wait for it
  # to hear.

  unheard @10 () -> (number :UInt64);
  # How many of these calls have failed since the object woke.

  ring @11 (afterMs :UInt64);
  # Sets an alarm, whose handler counts.
}

interface Clerk @0x83025aa66aea827d {
  # Takes one call at a time.

  serve @0 () -> (number :UInt64);
  # Counts, and returns the number.

  attend @1 (listener :Listener);
  # Tells the listener the number and gives it a desk. Returns when it has heard, so the listener may use
  # the desk before it answers.

  consult @2 (colleague :Text, listener :Listener) -> (number :UInt64);
  # Attends to the listener, and then has the clerk of that name serve.
}

interface Desk @0xdcfcd2f2bb420566 {
  # A capability of a clerk's own.

  serve @0 () -> (number :UInt64);
  # Has the clerk count, and returns the number.
}

interface Listener @0xe648fe6a9eaba0b9 {
  # A capability of a client: somebody who is told something.

  hear @0 (number :UInt64, desk :Desk, parcel :Data);
  # A number. `desk` is null unless a clerk tells it; `parcel` is empty unless a herald shouts.
}

interface Patient @0xabc3f4fc94b7790d $Http.open(true) {
  # A number that one may wait for.

  count @0 () -> (number :UInt64);
  # Counts, and returns the number.

  reach @1 (least :UInt64 = 1) -> (number :UInt64);
  # Returns the number when it is at least that.
}

interface Thorough @0xd5b44e9e0cc1683d $Http.open(true) {
  # A number that one may wait for, whose waits go on when their callers are gone.

  count @0 () -> (number :UInt64);
  # Counts, and returns the number.

  reach @1 (least :UInt64 = 1) -> (number :UInt64);
  # Returns the number when it is at least that, and notes that it was reached.

  record @2 () -> (left :UInt64, reached :UInt64);
  # How many callers have left while they waited, and how many waits have reached their number.
}

interface Brittle @0xb1ad3f6c52c07e91 {
  # A number, and panics.

  count @0 () -> (number :UInt64);
  # Counts, and returns the number.

  break @1 (place :Place) -> (number :UInt64);
  # Panics at that place, if not before the end of the call then after it.

  enum Place {
    call @0;
    # In the call, after it has counted: the turn is undone.

    section @1;
    # In the call, in a section that has counted.

    statement @2;
    # In an SQL function of the class.

    dropped @3;
    # In what the call holds, when it is dropped. The call waits for ever, so that its caller has to leave.

    destructor @4;
    # In the destructor of the instance.

    constructor @5;
    # When the object wakes the next time, once.

    later @6;
    # In what the object does after the call.

    alarm @7;
    # In the handler of an alarm, once.

    creation @8;
    # When an object of the class comes into being the next time, once, after it has counted.

    waking @9;
    # Nowhere: the object fails to wake the next time, once, after it has counted and sent the number to its WebSockets.
  }
}

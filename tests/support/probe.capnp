@0xd1f0b7a4c2e85a01;
# A class for the tests: an object that does what it is told, step by step.

interface Probe @0x9a3c5e7f10b2d4c6 {
  # An object, or a capability that it handed out: both take the same scripts.

  run @0 (steps :List(Step)) -> (said :List(Text), cap :Probe);
  # Does the steps in order. `said` is what they had to say, `cap` the last capability that one of
  # them put there.

  arrive @1 (number :UInt32);
  # Notes the number with the test, and nothing else.

  stream @2 (number :UInt32) -> stream;
  # The same, streamed.

  later @3 ();
  # A method that the class does not have.
}

interface Sink @0xe8d1b3a5972c4f60 {
  # Somebody else, whom an object talks to.

  note @0 (text :Text);
  push @1 (text :Text) -> stream;
  keep @2 (cap :Probe);
}

struct Step @0xb57e91c03d6fa284 {
  # One thing to do.

  union {
    put :group { key @0 :Text; text @1 :Text; }
    get @2 :Text;
    # Says the value of the key, or "-".

    add @3 :Text;
    # Reads a number, waits a moment, adds one, and says the sum.

    say @4 :Text;
    pause @5 :Void;
    # Ends the turn.

    latch @6 :Text;
    # Tells the test that it is here, and waits until the test lets it go.

    fail @7 :Text;
    panic @8 :Text;
    leave @9 :Text;
    # Aborts the instance.

    tell :group { sink @10 :Sink; line @11 :Text; }
    # Says it to somebody else, and waits for the answer.

    shout :group { to @12 :Sink; words @13 :Text; }
    # Says it to somebody else, and goes on.

    push :group { into @14 :Sink; item @15 :Text; }
    # Streams it.

    hand @16 :Sink;
    # Gives somebody else a capability of the object's own.

    hold @17 :Sink;
    # Keeps the sink after the call.

    tellHeld @18 :Text;
    # Tells the sink that it kept.

    open @19 :Void;
    # Puts a capability of its own into the result.

    own @20 :Void;
    # Puts its own stub into the result.

    pass @21 :Probe;
    # Puts that capability into the result.

    early @22 :Void;
    # Lets calls on the capability in the result proceed.

    object :group { objectName @23 :Text; script @24 :List(Step); }
    # Has another object of this class do something, and waits.

    on :group { cap @25 :Probe; deeds @26 :List(Step); }
    # Has what it was given do something, and waits.

    chain :group { objectName @27 :Text; first @28 :List(Step); second @29 :List(Step); }
    # Calls another object, and what will be in its result, before it has answered.

    burst :group { objectName @30 :Text; count @31 :UInt32; backwards @32 :Bool; }
    # Calls `arrive` of another object that often, without waiting; then drops all answers, or waits
    # for them from the last to the first.

    increment @33 :Text;
    # Increments the Counter of that name, and says the count.

    who @34 :Void;
    # Says its id and its name.

    greeting @35 :Void;
    # Says what the test bound.

    gift @36 :Text;
    # Puts the stub of another object of this class into the result.

    writeSql @37 :Text;
    # Runs SQL.

    trySql @38 :Text;
    # Runs SQL, goes on if it fails, and says whether it did.

    glance @39 :Text;
    # Says the value of the key, read in a transaction.

    regret @40 :Text;
    # Sets the key in a transaction that is rolled back, and says why it was.

    mine @41 :Text;
    # Puts something that panics when it is dropped into the object's "self", the "call" or the
    # "result".

    alarm @42 :UInt64;
    # Sets its own alarm, so many milliseconds from now.
  }
}

@0xd7c15f09b3a2e864;
# The class of the tests as it must not become: callers that know it as it was would be misunderstood.

interface Probe @0x9a3c5e7f10b2d4c6 {
  # The same interface, by its id.

  run @0 (steps :Text) -> (said :List(Text), cap :Probe);
  # Takes something else than it did.

  arrive @1 (number :UInt32);
  # As it was. The methods after it are gone.
}

@0x8f6d1c29e5b7a3f0;
# A class for the tests whose code is in the tests.

interface Puppet @0xc4a7e1905d3b826f {
  # An object, or a capability that it handed out.

  act @0 (deed :UInt32, given :Puppet) -> (cap :Puppet);
  # Does the deed of that number, which the test has written.
}

@0x86c366a91393f3f8;
# What `-> stream` stands for, under the id of the file of the same name that comes with Cap'n
# Proto, for compilers installed without it.

struct StreamResult @0x995f9a3377c0b16e {
  # Nothing: the answer of a streaming method.
}

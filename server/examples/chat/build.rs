fn main() {
    vatwerk::build::compile("schema/chat.capnp");
}

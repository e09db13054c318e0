@0xf7958855f6746344;
# How workerd's debug port is asked for a server of HTTP: what has to be equal on the wire to its
# `worker-interface.capnp`, and nothing else. Ids and ordinals are its own.

using Kj = import "/kj/http.capnp";

interface WorkerdDebugPort {
  getEntrypoint @0 (service :Text, entrypoint :Text, props :AnyPointer) -> (entrypoint :WorkerdBootstrap);
}

interface WorkerdBootstrap {
  startEvent @0 (cfBlobJson :Text, fromPersistentStub :Bool) -> (dispatcher :EventDispatcher);
}

interface EventDispatcher @0xf20697475ec1752d {
  getHttpService @0 () -> (http :Kj.HttpService);
}

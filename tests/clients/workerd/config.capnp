using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [(name = "front", worker = .front)],
  sockets = [(name = "http", http = (), service = "front")],
);

const front :Workerd.Worker = (
  modules = [(name = "front.js", esModule = embed "front.js")],
  compatibilityDate = "2026-11-01",
  compatibilityFlags = ["experimental"],
  bindings = [
    (name = "PORT", workerdDebugPort = void),
    (name = "ADDRESS", fromEnvironment = "ADDRESS"),
  ],
);

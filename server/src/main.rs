//! The binary `vatwerk`: the built-in classes, and the command line.

use std::process::ExitCode;

use vatwerk_server::{
    Server,
    classes::{Cell, ChatRoom, Counter},
    cli,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run(
        Server::builder()
            .class::<Cell>()
            .class::<ChatRoom>()
            .class::<Counter>(),
    )
}

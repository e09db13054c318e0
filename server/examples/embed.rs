//! A vat inside a program of your own.

use tokio::task::LocalSet;
use vatwerk_server::{ServeError, Server, classes::Counter};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), ServeError> {
    let program = async {
        let vat = Server::builder().class::<Counter>().start().await?;
        println!("listening at {}", vat.addresses()[0]);
        // Whatever else the program does.
        let _ = tokio::signal::ctrl_c().await;
        vat.stop().await;
        Ok(())
    };
    LocalSet::new().run_until(program).await
}

//! A class that takes one call at a time, and whose calls wait for others.

use std::rc::Rc;

use vatwerk_server::{Class, Context};

use crate::{
    count, number,
    promises_capnp::{clerk, desk, listener},
};

pub struct Clerk(Context);

impl Class for Clerk {
    const NAME: &'static str = "Clerk";
    const SCHEMA: &'static [u8] = crate::SCHEMA;
    const SERIAL: bool = true;
    type Client = clerk::Client;

    async fn activate(ctx: Context) -> capnp::Result<Self> {
        Ok(Clerk(ctx))
    }
}

impl Clerk {
    /// Gives a listener a desk, which belongs to the call at hand: calls on it are let in while that waits.
    async fn attend(&self, listener: listener::Client) -> capnp::Result<()> {
        let mut request = listener.hear_request();
        request.get().set_number(number(&self.0)?);
        request
            .get()
            .set_desk(capnp_rpc::new_client(Desk(self.0.clone())));
        request.send().promise.await?;
        Ok(())
    }
}

impl clerk::Server for Clerk {
    async fn serve(
        self: Rc<Self>,
        _: clerk::ServeParams,
        mut results: clerk::ServeResults,
    ) -> capnp::Result<()> {
        results.get().set_number(count(&self.0)?);
        Ok(())
    }

    async fn attend(
        self: Rc<Self>,
        params: clerk::AttendParams,
        _: clerk::AttendResults,
    ) -> capnp::Result<()> {
        Clerk::attend(&self, params.get()?.get_listener()?).await
    }

    async fn consult(
        self: Rc<Self>,
        params: clerk::ConsultParams,
        mut results: clerk::ConsultResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        Clerk::attend(&self, params.get_listener()?).await?;
        let colleagues = self.0.namespace::<clerk::Client>()?;
        let colleague = colleagues.get(params.get_colleague()?.to_str()?)?;
        let served = colleague.serve_request().send().promise.await?;
        results.get().set_number(served.get()?.get_number());
        Ok(())
    }
}

struct Desk(Context);

impl desk::Server for Desk {
    async fn serve(
        self: Rc<Self>,
        _: desk::ServeParams,
        mut results: desk::ServeResults,
    ) -> capnp::Result<()> {
        results.get().set_number(count(&self.0)?);
        Ok(())
    }
}

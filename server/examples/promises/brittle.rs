//! A class that panics where a call tells it to.

use std::{
    future::pending,
    rc::Rc,
    sync::{Arc, Mutex},
};

use vatwerk_server::{
    Class, Context,
    alarm::AlarmInfo,
    fetch::{Request, Response},
    storage::SqlFunctions,
};

use crate::{
    count,
    promises_capnp::brittle::{self, Place},
};

/// The place at which an object of the class panics next, in an instance to come or in a handler.
#[derive(Clone, Default)]
pub struct Armed(Arc<Mutex<Option<Place>>>);

impl Armed {
    fn of(ctx: &Context) -> Rc<Armed> {
        ctx.binding().expect("the vat gives it to its classes")
    }

    fn arm(&self, place: Place) {
        *self.0.lock().unwrap() = Some(place);
    }

    /// Whether the class is to break at this place, once.
    fn is_at(&self, place: Place) -> bool {
        let mut armed = self.0.lock().unwrap();
        armed.take_if(|armed| *armed == place).is_some()
    }

    /// Panics if the class is to panic at this place, once.
    fn pass(&self, place: Place) {
        if self.is_at(place) {
            fall(place);
        }
    }
}

fn fall(place: Place) -> ! {
    panic!("brittle: {place:?}")
}

/// Panics when it is dropped.
struct Falls(Place);

impl Drop for Falls {
    fn drop(&mut self) {
        fall(self.0);
    }
}

pub struct Brittle {
    ctx: Context,
    armed: Rc<Armed>,
}

impl Drop for Brittle {
    fn drop(&mut self) {
        self.armed.pass(Place::Destructor);
    }
}

impl Class for Brittle {
    const NAME: &'static str = "Brittle";
    const SCHEMA: &'static [u8] = crate::SCHEMA;
    const ALARMS: bool = true;
    const FETCH: bool = true;
    const WEB_SOCKETS: bool = true;
    type Client = brittle::Client;

    async fn create(ctx: &Context) -> capnp::Result<()> {
        count(ctx)?;
        ctx.sync().await?;
        Armed::of(ctx).pass(Place::Creation);
        Ok(())
    }

    async fn activate(ctx: Context) -> capnp::Result<Self> {
        let armed = Armed::of(&ctx);
        armed.pass(Place::Constructor);
        if armed.is_at(Place::Waking) {
            let number = count(&ctx)?.to_string();
            for socket in ctx.web_sockets(None) {
                socket.send(number.as_str())?;
            }
            ctx.set_web_socket_auto_response(None)?;
            return Err(capnp::Error::failed("brittle: not today".into()));
        }
        Ok(Brittle { ctx, armed })
    }

    /// Accepts a WebSocket, whose `ping` the vat answers.
    async fn fetch(self: Rc<Self>, request: Request) -> capnp::Result<Response> {
        self.ctx
            .set_web_socket_auto_response(Some(("ping", "pong")))?;
        Ok(self.ctx.accept_web_socket(&request, &[])?.1)
    }

    fn sql_functions(functions: &mut SqlFunctions<'_>) -> vatwerk_server::Result<()> {
        functions.volatile("fall", Some(0), |_| fall(Place::Statement))
    }

    async fn alarm(self: Rc<Self>, _: AlarmInfo) -> capnp::Result<()> {
        self.armed.pass(Place::Alarm);
        count(&self.ctx).map(drop)
    }
}

impl brittle::Server for Brittle {
    async fn count(
        self: Rc<Self>,
        _: brittle::CountParams,
        mut results: brittle::CountResults,
    ) -> capnp::Result<()> {
        results.get().set_number(count(&self.ctx)?);
        Ok(())
    }

    async fn break_(
        self: Rc<Self>,
        params: brittle::BreakParams,
        mut results: brittle::BreakResults,
    ) -> capnp::Result<()> {
        let place = params.get()?.get_place()?;
        results.get().set_number(count(&self.ctx)?);
        match place {
            Place::Call => fall(place),
            Place::Section => {
                let section = async { fall(place) };
                self.ctx.block_concurrency_while(section).await
            }
            Place::Statement => {
                self.ctx.storage().sql().exec("SELECT fall()", ())?;
                Ok(())
            }
            Place::Dropped => {
                let _falls = Falls(place);
                pending().await
            }
            Place::Destructor | Place::Constructor => {
                self.armed.arm(place);
                self.ctx.abort("told to break");
                Ok(())
            }
            Place::Later => Ok(self.ctx.wait_until(async move { fall(place) })?),
            Place::Creation | Place::Waking => {
                self.armed.arm(place);
                Ok(())
            }
            Place::Alarm => {
                self.armed.arm(place);
                Ok(self.ctx.alarms()?.set(self.ctx.now_ms())?)
            }
        }
    }
}

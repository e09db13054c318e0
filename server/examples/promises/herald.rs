//! A class with every way out of an object that others may notice.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use http::{Method, StatusCode, header};
use vatwerk_server::{
    Class, Context,
    alarm::AlarmInfo,
    fetch::{Body, Request, Response},
    object::{SocketMessage, WebSocket},
};

use crate::{
    count, number,
    promises_capnp::{herald, listener},
};

pub struct Herald {
    ctx: Context,
    kept: RefCell<Option<listener::Client>>,
    unheard: Rc<Cell<u64>>,
}

impl Class for Herald {
    const NAME: &'static str = "Herald";
    const SCHEMA: &'static [u8] = crate::SCHEMA;
    const ALARMS: bool = true;
    const FETCH: bool = true;
    const WEB_SOCKETS: bool = true;
    type Client = herald::Client;

    async fn activate(ctx: Context) -> capnp::Result<Self> {
        Ok(Herald {
            ctx,
            kept: RefCell::default(),
            unheard: Rc::default(),
        })
    }

    async fn alarm(self: Rc<Self>, _: AlarmInfo) -> capnp::Result<()> {
        count(&self.ctx).map(drop)
    }

    /// `GET` reads the number; `POST` counts, reads the body to its end, and answers with the number and
    /// the length of the body; a WebSocket hears what is announced. At `/count` one is accepted after counting.
    async fn fetch(self: Rc<Self>, request: Request) -> capnp::Result<Response> {
        if request.headers().contains_key(header::UPGRADE) {
            let silence = Some(("ping", "nothing yet"));
            self.ctx.set_web_socket_auto_response(silence)?;
            if request.uri().path().ends_with("/count") {
                count(&self.ctx)?;
            }
            return Ok(self.ctx.accept_web_socket(&request, &[])?.1);
        }
        let text = match *request.method() {
            Method::GET => format!("{}\n", number(&self.ctx)?),
            Method::POST => {
                let number = count(&self.ctx)?;
                format!("{number} {}\n", length(request.into_body()).await?)
            }
            _ => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
                return Ok(response);
            }
        };
        Ok(Response::new(text.into()))
    }

    /// Sends a message back. `count` counts before.
    async fn web_socket_message(
        self: Rc<Self>,
        socket: WebSocket,
        message: SocketMessage,
    ) -> capnp::Result<()> {
        if matches!(&message, SocketMessage::Text(text) if text == "count") {
            count(&self.ctx)?;
        }
        Ok(socket.send(message)?)
    }
}

async fn length(mut body: Body) -> capnp::Result<usize> {
    let mut length = 0;
    while let Some(piece) = body.piece().await {
        length += piece?.len();
    }
    Ok(length)
}

/// Tells a listener a number, and waits until it has heard.
async fn tell(listener: &listener::Client, number: u64) -> capnp::Result<()> {
    let mut request = listener.hear_request();
    request.get().set_number(number);
    request.send().promise.await?;
    Ok(())
}

impl herald::Server for Herald {
    async fn count(
        self: Rc<Self>,
        params: herald::CountParams,
        mut results: herald::CountResults,
    ) -> capnp::Result<()> {
        let kv = self.ctx.storage().kv();
        kv.put_bytes("note", params.get()?.get_note()?)?;
        results.get().set_number(count(&self.ctx)?);
        Ok(())
    }

    async fn read(
        self: Rc<Self>,
        _: herald::ReadParams,
        mut results: herald::ReadResults,
    ) -> capnp::Result<()> {
        results.get().set_number(number(&self.ctx)?);
        Ok(())
    }

    async fn tell(
        self: Rc<Self>,
        params: herald::TellParams,
        mut results: herald::TellResults,
    ) -> capnp::Result<()> {
        let number = count(&self.ctx)?;
        tell(&params.get()?.get_listener()?, number).await?;
        results.get().set_number(number);
        Ok(())
    }

    async fn keep(
        self: Rc<Self>,
        params: herald::KeepParams,
        _: herald::KeepResults,
    ) -> capnp::Result<()> {
        self.kept.replace(Some(params.get()?.get_listener()?));
        Ok(())
    }

    async fn dismiss(
        self: Rc<Self>,
        _: herald::DismissParams,
        mut results: herald::DismissResults,
    ) -> capnp::Result<()> {
        results.get().set_number(count(&self.ctx)?);
        self.kept.take();
        Ok(())
    }

    async fn announce(
        self: Rc<Self>,
        _: herald::AnnounceParams,
        mut results: herald::AnnounceResults,
    ) -> capnp::Result<()> {
        let number = count(&self.ctx)?;
        let text = number.to_string();
        for socket in self.ctx.web_sockets(None) {
            socket.send(text.as_str())?;
        }
        results.get().set_number(number);
        Ok(())
    }

    async fn set_answer(
        self: Rc<Self>,
        _: herald::SetAnswerParams,
        mut results: herald::SetAnswerResults,
    ) -> capnp::Result<()> {
        let number = count(&self.ctx)?;
        let pair = Some(("ping", &*number.to_string()));
        self.ctx.set_web_socket_auto_response(pair)?;
        results.get().set_number(number);
        Ok(())
    }

    async fn weigh(
        self: Rc<Self>,
        params: herald::WeighParams,
        _: herald::WeighResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let bytes = params.get_parcel()?.len() as u64;
        tell(&params.get_listener()?, bytes).await
    }

    async fn lend(
        self: Rc<Self>,
        params: herald::LendParams,
        mut results: herald::LendResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let number = count(&self.ctx)?;
        results.get().set_loan(params.get_loan()?);
        results.set_pipeline()?;
        tell(&params.get_listener()?, number).await
    }
    async fn shout(
        self: Rc<Self>,
        params: herald::ShoutParams,
        _: herald::ShoutResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let kept = self.kept.borrow();
        let listener = kept
            .as_ref()
            .ok_or_else(|| capnp::Error::failed("nobody listens".into()))?;
        for _ in 0..params.get_times() {
            let mut request = listener.hear_request();
            request.get().init_parcel(params.get_bytes());
            let (heard, unheard) = (request.send().promise, self.unheard.clone());
            self.ctx.wait_until(async move {
                if heard.await.is_err() {
                    unheard.set(unheard.get() + 1);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    async fn unheard(
        self: Rc<Self>,
        _: herald::UnheardParams,
        mut results: herald::UnheardResults,
    ) -> capnp::Result<()> {
        results.get().set_number(self.unheard.get());
        Ok(())
    }

    async fn ring(
        self: Rc<Self>,
        params: herald::RingParams,
        _: herald::RingResults,
    ) -> capnp::Result<()> {
        let after = Duration::from_millis(params.get()?.get_after_ms());
        Ok(self.ctx.alarms()?.set_in(after)?)
    }
}

//! A room for browsers and programs: what HTTP, WebSockets, SQL and alarms look like together.

mod history;
mod page;
mod words;

use std::{collections::BTreeSet, rc::Rc};

use http::{HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, Serialize};
use vatwerk::chatroom_capnp::chat_room;

use self::{
    history::{History, KEEP_LINES, KEEP_MS},
    words::{Heard, Told},
};
use crate::{
    Class, Context, Error, Result,
    alarm::AlarmInfo,
    fetch::{Request, Response, is_web_socket},
    object::{SocketClose, SocketMessage, WebSocket},
};

/// How many lines a page is told of at first.
const SHOWN: u32 = 100;

/// How many pages may be open in a room: each of them is told of every line.
const MAX_PAGES: usize = 1000;

/// The code with which a visitor is sent away who has to come back: "try again later".
const TRY_AGAIN: u16 = 1013;

/// How long after a line the room is tidied up.
const TRIM_AFTER_MS: i64 = 10 * 60 * 1000;

/// The class `ChatRoom`, of `schema/vatwerk/chatroom.capnp`.
pub struct ChatRoom(Context);

/// What is attached to a socket.
#[derive(Deserialize, Serialize)]
struct Visitor {
    name: String,
}

impl Class for ChatRoom {
    const NAME: &'static str = "ChatRoom";
    const SCHEMA: &'static [u8] = vatwerk::CODE_GENERATOR_REQUEST;
    const ALARMS: bool = true;
    const FETCH: bool = true;
    const WEB_SOCKETS: bool = true;
    const MIGRATIONS: &'static [&'static str] = history::MIGRATIONS;
    type Client = chat_room::Client;

    async fn activate(ctx: Context) -> capnp::Result<Self> {
        Ok(ChatRoom(ctx))
    }

    async fn fetch(self: Rc<Self>, request: Request) -> capnp::Result<Response> {
        let method = request.method();
        Ok(match request.uri().path() {
            "/" if method == Method::GET || method == Method::HEAD => page::page(),
            "/" => not_allowed("GET, HEAD"),
            "/socket" if method != Method::GET => not_allowed("GET"),
            "/socket" => self.enter(&request)?,
            path => page::refusal(StatusCode::NOT_FOUND, format!("there is nothing at {path}")),
        })
    }

    async fn web_socket_message(
        self: Rc<Self>,
        socket: WebSocket,
        message: SocketMessage,
    ) -> capnp::Result<()> {
        let heard = match &message {
            SocketMessage::Text(text) => serde_json::from_str(text),
            SocketMessage::Data(bytes) => serde_json::from_slice(bytes),
        };
        let (key, reason) = match &heard {
            Ok(Heard::Say { text, key }) => match self.hear(&socket, text, key) {
                // What storage has to say is not for pages.
                Err(Error::InvalidArgument(reason)) => (Some(&**key), reason),
                other => return Ok(other?),
            },
            Err(error) => (None, format!("not understood: {error}")),
        };
        let reason = &reason;
        tell(&socket, &Told::Refused { key, reason });
        Ok(())
    }

    async fn web_socket_close(
        self: Rc<Self>,
        socket: WebSocket,
        _: SocketClose,
    ) -> capnp::Result<()> {
        Ok(self.leave(&socket)?)
    }

    async fn web_socket_error(self: Rc<Self>, socket: WebSocket, _: String) -> capnp::Result<()> {
        Ok(self.leave(&socket)?)
    }

    async fn alarm(self: Rc<Self>, _: AlarmInfo) -> capnp::Result<()> {
        if let Some(oldest_ms) = self.history().trim(self.0.now_ms())? {
            self.0.alarms()?.set(oldest_ms + KEEP_MS)?;
        }
        Ok(())
    }
}

impl ChatRoom {
    fn history(&self) -> History {
        History(self.0.storage().sql())
    }

    /// Takes in whoever asks for `/socket?name=ann&after=17`: the number of the last line that they
    /// have.
    fn enter(&self, request: &Request) -> Result<Response> {
        if !is_web_socket(request.headers()) {
            let reason = "here is a WebSocket: ask for one".into();
            let mut response = page::refusal(StatusCode::UPGRADE_REQUIRED, reason);
            let websocket = HeaderValue::from_static("websocket");
            response.headers_mut().insert(header::UPGRADE, websocket);
            return Ok(response);
        }
        let (mut name, mut after) = (String::new(), 0);
        for (field, value) in form_urlencoded::parse(request.uri().query().unwrap_or("").as_bytes())
        {
            match &*field {
                "name" => name = value.into_owned(),
                "after" => after = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        let name = match words::name(&name) {
            Ok(name) => name,
            Err(error) => return Ok(page::refusal(StatusCode::BAD_REQUEST, error.to_string())),
        };
        if self.0.web_sockets(None).len() >= MAX_PAGES {
            let reason = "the room is full".into();
            return Ok(page::refusal(StatusCode::SERVICE_UNAVAILABLE, reason));
        }

        let tag = tag(name);
        if self.0.web_sockets(Some(&tag)).is_empty() {
            self.tell_all(&Told::Joined(name));
        }
        // Pages ask whether anybody is there. That wakes nobody.
        self.0
            .set_web_socket_auto_response(Some(("ping", "pong")))?;
        let (socket, response) = self.0.accept_web_socket(request, &[&tag])?;
        socket.set_attachment(&Visitor { name: name.into() })?;
        let newest = self.history().newest()?;
        // Numbers that have not been given out are of a room of this name that was deleted.
        let after = if after > newest { 0 } else { after };
        let welcome = Told::Welcome {
            name,
            newest,
            lines: &self.history().after(after, SHOWN)?,
            present: &self.present()?,
        };
        tell(&socket, &welcome);
        Ok(response)
    }

    fn leave(&self, socket: &WebSocket) -> Result<()> {
        if let Some(Visitor { name }) = socket.attachment()?
            && self.0.web_sockets(Some(&tag(&name))).is_empty()
        {
            self.tell_all(&Told::Left(&name));
        }
        Ok(())
    }

    fn hear(&self, socket: &WebSocket, text: &str, key: &str) -> Result<()> {
        if let Some(Visitor { name }) = socket.attachment()? {
            self.say(&name, text, Some(words::key(key)?))?;
        }
        Ok(())
    }

    /// Writes a line down and tells everybody, unless there is one of that key: it was said before,
    /// and the answer got lost.
    fn say(&self, author: &str, text: &str, key: Option<&str>) -> Result<u64> {
        let (author, text) = (words::name(author)?, words::text(text)?);
        if let Some(key) = key
            && let Some(number) = self.history().number_of(key)?
        {
            return Ok(number);
        }
        let now_ms = self.0.now_ms();
        let line = self.history().add(now_ms, author, text, key)?;
        let alarms = self.0.alarms()?;
        let trim_ms = now_ms + TRIM_AFTER_MS;
        if alarms.get()?.is_none_or(|due_ms| due_ms > trim_ms) {
            alarms.set(trim_ms)?;
        }
        self.tell_all(&Told::Line(&line));
        Ok(line.number)
    }

    fn present(&self) -> Result<Vec<String>> {
        let mut names = BTreeSet::new();
        for socket in self.0.web_sockets(None) {
            names.extend(socket.attachment()?.map(|Visitor { name }| name));
        }
        Ok(names.into_iter().collect())
    }

    fn tell_all(&self, told: &Told<'_>) {
        let text = told.text();
        for socket in self.0.web_sockets(None) {
            // A visitor for whom there is no room is to come back, and asks for what it has missed. One that
            // is leaving need not hear it.
            if socket.send(text.clone()).is_err() {
                let _ = socket.close(TRY_AGAIN, "there is no room for what is said here");
            }
        }
    }
}

fn tell(socket: &WebSocket, told: &Told<'_>) {
    let _ = socket.send(told.text());
}

fn tag(name: &str) -> String {
    format!("name:{name}")
}

fn not_allowed(methods: &'static str) -> Response {
    let reason = format!("only {methods}");
    let mut response = page::refusal(StatusCode::METHOD_NOT_ALLOWED, reason);
    let methods = HeaderValue::from_static(methods);
    response.headers_mut().insert(header::ALLOW, methods);
    response
}

impl chat_room::Server for ChatRoom {
    async fn say(
        self: Rc<Self>,
        params: chat_room::SayParams,
        mut results: chat_room::SayResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let (author, text) = (params.get_author()?.to_str()?, params.get_text()?.to_str()?);
        results
            .get()
            .set_line(ChatRoom::say(&self, author, text, None)?);
        Ok(())
    }

    async fn history(
        self: Rc<Self>,
        params: chat_room::HistoryParams,
        mut results: chat_room::HistoryResults,
    ) -> capnp::Result<()> {
        let last = params.get()?.get_last().min(KEEP_LINES);
        let lines = ChatRoom::history(&self).after(0, last)?;
        let mut list = results.get().init_lines(lines.len() as u32);
        for (at, line) in (0..).zip(&lines) {
            let mut to = list.reborrow().get(at);
            to.set_number(line.number);
            to.set_said_ms(line.said_ms);
            to.set_author(&line.author);
            to.set_text(&line.text);
        }
        Ok(())
    }

    async fn present(
        self: Rc<Self>,
        _: chat_room::PresentParams,
        mut results: chat_room::PresentResults,
    ) -> capnp::Result<()> {
        results.get().set_names(&ChatRoom::present(&self)?[..])?;
        Ok(())
    }
}

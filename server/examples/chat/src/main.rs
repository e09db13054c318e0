//! A server of chat rooms.

use std::{process::ExitCode, rc::Rc};

use capnp::capability::FromClientHook;
use vatwerk_server::{Class, Context, Server, cli};

use chat_capnp::room;

vatwerk::schema!(mod chat_capnp);

struct Room(Context);

impl Class for Room {
    const NAME: &'static str = "Room";
    const SCHEMA: &'static [u8] = chat_capnp::CODE_GENERATOR_REQUEST;
    type Client = room::Client;

    async fn create(ctx: &Context) -> capnp::Result<()> {
        let table = "CREATE TABLE line (id INTEGER PRIMARY KEY, text TEXT NOT NULL)";
        ctx.storage().sql().exec(table, ())?;
        Ok(())
    }

    async fn activate(ctx: Context) -> capnp::Result<Self> {
        Ok(Room(ctx))
    }
}

impl Room {
    fn last(&self, count: u32) -> vatwerk_server::Result<Vec<String>> {
        let query = "SELECT text FROM (SELECT * FROM line ORDER BY id DESC LIMIT ?) ORDER BY id";
        self.0.storage().sql().exec(query, (count,))?.all()
    }
}

impl room::Server for Room {
    async fn say(
        self: Rc<Self>,
        params: room::SayParams,
        mut results: room::SayResults,
    ) -> capnp::Result<()> {
        let text = params.get()?.get_text()?.to_str()?;
        let query = "INSERT INTO line (text) VALUES (?) RETURNING id";
        let inserted = self.0.storage().sql().exec(query, (text,))?;
        results.get().set_line(inserted.one_as()?);
        Ok(())
    }

    async fn history(
        self: Rc<Self>,
        params: room::HistoryParams,
        mut results: room::HistoryResults,
    ) -> capnp::Result<()> {
        let lines = self.last(params.get()?.get_last())?;
        results.get().set_lines(&lines[..])?;
        Ok(())
    }

    async fn copy_to(
        self: Rc<Self>,
        params: room::CopyToParams,
        _: room::CopyToResults,
    ) -> capnp::Result<()> {
        let other: room::Client = params.get()?.get_room()?.cast_to();
        for line in self.last(u32::MAX)? {
            let mut request = other.say_request();
            request.get().set_text(&line);
            request.send().promise.await?;
        }
        Ok(())
    }

    async fn copy_from(
        self: Rc<Self>,
        params: room::CopyFromParams,
        _: room::CopyFromResults,
    ) -> capnp::Result<()> {
        let name = params.get()?.get_room_name()?.to_str()?;
        let other = self.0.namespace::<room::Client>()?.get(name)?;
        let mut request = other.copy_to_request();
        request.get().set_room(self.0.stub());
        request.send().promise.await?;
        Ok(())
    }
}

fn main() -> ExitCode {
    cli::run(Server::builder().class::<Room>())
}

//! WebSockets: the conversation, over a connection of a capnp client, and what becomes of it while the
//! object sleeps, fails and goes.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use capnp::capability::{FromClientHook, Promise, Request};
use tokio::time::timeout;
use vatwerk::{
    Code,
    http_capnp::{exchange, socket},
    object_capnp::stub,
};
use vatwerk_server::{
    Config, Context, Error, SocketClose, SocketMessage, WebSocket,
    fetch::{ClientSocket, Frame, send_frame},
    testing::{TestVat, run},
};

use crate::support::{
    code,
    puppet::{
        Client, DEED, Own, Program, Puppet, act, connect, fetch, get, keep, put, wants_socket,
    },
};

const SECOND: Duration = Duration::from_secs(1);

thread_local! {
    /// How the sockets of this test have ended, as the object was told.
    static ENDS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    /// Whether the object can wake.
    static WAKES: Cell<bool> = const { Cell::new(true) };
}

/// Does what it is told on its sockets: the first word says what.
struct Room;

impl Program for Room {
    async fn activate(_: &Context) -> capnp::Result<()> {
        match WAKES.get() {
            true => Ok(()),
            false => Err(Error::NotFound("secret".into()).into()),
        }
    }

    async fn message(own: Rc<Own>, socket: WebSocket, message: SocketMessage) -> capnp::Result<()> {
        let SocketMessage::Text(text) = message else {
            return Ok(socket.send(message)?);
        };
        let (word, rest) = text.split_once(' ').unwrap_or((&text, ""));
        match word {
            "echo" => socket.send(rest)?,
            "memory" => {
                own.memory.set(own.memory.get() + 1);
                let attachment = socket.attachment::<String>()?.unwrap_or_default();
                let tags: Vec<_> = socket.tags().collect();
                let memory = own.memory.get();
                socket.send(format!("{memory} {attachment} {}", tags.join(",")))?;
            }
            "attach" => socket.set_attachment(rest)?,
            "put" => {
                own.put("k", rest)?;
                socket.send("put")?;
            }
            "all" => {
                let all = own.ctx.web_sockets(None);
                all.iter().try_for_each(|socket| socket.send(rest))?;
            }
            "sleep" => {
                own.ctx.sleep(SECOND).await;
                socket.send("slept")?;
            }
            "flood" => {
                for _ in 0..rest.parse().expect("a number") {
                    socket.send(vec![0; 64 << 10])?;
                }
            }
            "close" => socket.close(rest.parse().expect("a number"), "as you wish")?,
            "fail" => return Err(Error::NotFound("secret".into()).into()),
            "panic" => panic!("as it is told"),
            _ => panic!("no such word: {word}"),
        }
        Ok(())
    }

    async fn closed(own: Rc<Own>, socket: WebSocket, close: SocketClose) -> capnp::Result<()> {
        let SocketClose {
            code,
            reason,
            was_clean,
        } = close;
        let left = own.ctx.web_sockets(None).len();
        assert!(!own.ctx.web_sockets(None).contains(&socket));
        let end = format!("{code} {reason} {was_clean}, {left} left");
        ENDS.with_borrow_mut(|ends| ends.push(end));
        Ok(())
    }

    async fn failed(_: Rc<Own>, _: WebSocket, reason: String) -> capnp::Result<()> {
        ENDS.with_borrow_mut(|ends| ends.push(reason));
        Ok(())
    }
}

async fn room() -> (TestVat, Client) {
    ENDS.take();
    let vat = TestVat::start(|server| server.class::<Puppet<Room>>()).await;
    let object = vat.object("p");
    (vat, object)
}

fn ends() -> Vec<String> {
    ENDS.take()
}

/// Says something. It is sent when this returns.
fn say(socket: &ClientSocket, text: &str) -> Promise<(), capnp::Error> {
    send_frame(&socket.up, &Frame::Text(text.into()))
}

/// What is heard next: text as it is, an end as its code.
async fn hear(socket: &mut ClientSocket) -> String {
    let heard = timeout(Duration::from_secs(3600), socket.next()).await;
    match heard
        .expect("something is said")
        .map(|heard| heard.into_frame())
    {
        Some(Frame::Text(text)) => text,
        Some(Frame::Data(data)) => format!("{} bytes", data.len()),
        Some(Frame::Close { code, reason }) => format!("{code} {reason}"),
        Some(Frame::Failed(reason)) => reason,
        None => "lost".into(),
    }
}

async fn ask(socket: &mut ClientSocket, text: &str) -> String {
    drop(say(socket, text));
    hear(socket).await
}

async fn close(socket: &ClientSocket, code: u16) {
    let reason = "bye".into();
    socket.send(&Frame::Close { code, reason }).await.unwrap();
}

#[test]
fn an_object_sleeps_while_its_sockets_are_open_and_wakes_with_a_message() {
    run(async {
        let (vat, p) = room().await;
        let mut socket = connect(&p, &["a", "b", "a"]).await.unwrap();
        assert_eq!(ask(&mut socket, "memory").await, "1  a,b");
        say(&socket, "attach luggage").await.unwrap();
        assert_eq!(ask(&mut socket, "memory").await, "2 luggage a,b");
        assert!(vat.is_awake::<Client>("p"));
        // Nobody asks it to.
        vat.advance(11 * SECOND).await;
        assert!(!vat.is_awake::<Client>("p"));
        assert_eq!(ask(&mut socket, "memory").await, "1 luggage a,b");
        vat.advance(11 * SECOND).await;
        // It wakes to the end of one, too.
        drop(socket);
        vat.advance(SECOND).await;
        assert_eq!(ends(), ["1006 the connection was lost false, 0 left"]);
    });
}

#[test]
fn sockets_are_found_by_their_tags_and_are_gone_when_they_are_closed() {
    run(async {
        let (vat, p) = room().await;
        let counts = async |p: &Client| {
            let counted = act(p, async |own| {
                let tags = [
                    None,
                    Some("room-a"),
                    Some("room-b"),
                    Some("admin"),
                    Some("no"),
                ];
                Ok(tags.map(|tag| own.ctx.web_sockets(tag).len()))
            });
            counted.await.unwrap()
        };
        let first = connect(&p, &["room-a"]).await.unwrap();
        let second = connect(&p, &["room-a", "admin"]).await.unwrap();
        let third = connect(&p, &["room-b"]).await.unwrap();
        assert_eq!(counts(&p).await, [3, 2, 1, 1, 0]);
        // The newest first, and with a tag in the order in which they came.
        let order = act(&p, async |own| {
            let all = own.ctx.web_sockets(None);
            let tagged = own.ctx.web_sockets(Some("room-a"));
            assert!(all[2] == tagged[0] && all[1] == tagged[1]);
            let tags = |socket: &WebSocket| socket.tags().map(str::to_owned).collect::<Vec<_>>();
            Ok(all.iter().map(tags).collect::<Vec<_>>())
        });
        assert_eq!(
            order.await.unwrap(),
            [vec!["room-b"], vec!["room-a", "admin"], vec!["room-a"]]
        );
        close(&second, 4001).await;
        assert_eq!(counts(&p).await, [2, 1, 1, 0, 0]);
        drop(third);
        vat.advance(SECOND).await;
        assert_eq!(counts(&p).await, [1, 1, 0, 0, 0]);
        assert_eq!(
            ends(),
            [
                "4001 bye true, 2 left",
                "1006 the connection was lost false, 1 left"
            ]
        );
        drop(first);
    });
}

#[test]
fn messages_of_a_socket_are_dealt_with_one_by_one_and_those_of_others_meanwhile() {
    run(async {
        let (_vat, p) = room().await;
        let mut first = connect(&p, &[]).await.unwrap();
        let mut second = connect(&p, &[]).await.unwrap();
        let slow = say(&first, "sleep");
        let next = say(&first, "echo after");
        let other = async {
            assert_eq!(ask(&mut second, "all now").await, "now");
        };
        let (slow, next, ()) = tokio::join!(slow, next, other);
        slow.and(next).unwrap();
        for said in ["now", "slept", "after"] {
            assert_eq!(hear(&mut first).await, said);
        }
    });
}

/// Whether nothing is said for a while.
async fn is_silent(socket: &mut ClientSocket) -> bool {
    timeout(5 * SECOND, socket.next()).await.is_err()
}

/// Has `ping` answered without the object.
async fn answer_pings(p: &Client) {
    let pair = Some(("ping", "pong"));
    let set = act(p, async move |own| {
        Ok(own.ctx.set_web_socket_auto_response(pair)?)
    });
    set.await.unwrap();
}

#[test]
fn what_is_sent_waits_for_what_was_written() {
    run(async {
        let (vat, p) = room().await;
        let mut socket = connect(&p, &[]).await.unwrap();
        vat.hold_commits();
        drop(say(&socket, "put v"));
        assert!(is_silent(&mut socket).await);
        vat.release_commits();
        assert_eq!(hear(&mut socket).await, "put");
        // So does the news that a socket is accepted.
        vat.hold_commits();
        let accepted = fetch(&p, wants_socket(), async |own: Rc<Own>, request| {
            own.put("k", "w")?;
            Ok(own.ctx.accept_web_socket(&request, &[])?.1)
        });
        let mut accepted = Box::pin(accepted);
        assert!(timeout(5 * SECOND, &mut accepted).await.is_err());
        vat.release_commits();
        assert_eq!(accepted.await.unwrap().status(), 101);
    });
}

#[test]
fn a_heartbeat_is_answered_without_the_object_and_after_what_it_has_said() {
    run(async {
        let (vat, p) = room().await;
        answer_pings(&p).await;
        let mut socket = connect(&p, &["beating"]).await.unwrap();
        vat.evict::<Client>("p").await;
        for _ in 0..3 {
            assert_eq!(ask(&mut socket, "ping").await, "pong");
        }
        assert!(!vat.is_awake::<Client>("p"));
        let at = act(&p, async |own| {
            let pair = own.ctx.web_socket_auto_response();
            assert_eq!(pair, Some(("ping".into(), "pong".into())));
            Ok(own.ctx.web_sockets(Some("beating"))[0].auto_response_ms())
        });
        assert_eq!(at.await.unwrap(), Some(vat.now_ms()));
        // Only the very same text.
        assert_eq!(ask(&mut socket, "echo ping ").await, "ping ");
        vat.hold_commits();
        drop(say(&socket, "put v"));
        assert!(is_silent(&mut socket).await);
        drop(say(&socket, "ping"));
        assert!(is_silent(&mut socket).await);
        vat.release_commits();
        assert_eq!(hear(&mut socket).await, "put");
        assert_eq!(hear(&mut socket).await, "pong");
    });
}

#[test]
fn a_handler_that_fails_ends_its_socket_and_one_that_panics_all_of_the_object() {
    run(async {
        let (vat, p) = room().await;
        let mut first = connect(&p, &[]).await.unwrap();
        let mut second = connect(&p, &[]).await.unwrap();
        let mut elsewhere = connect(&vat.object("q"), &[]).await.unwrap();
        drop(say(&first, "fail"));
        drop(say(&first, "all unheard"));
        // Nothing is told of why.
        assert_eq!(hear(&mut first).await, "1011 internal error");
        assert_eq!(code(say(&first, "all unheard").await), Code::Closed);
        assert_eq!(ask(&mut second, "memory").await, "1  ");
        drop(first);
        vat.advance(SECOND).await;
        assert_eq!(ends(), ["1006 the connection was lost false, 1 left"]);
        let mut third = connect(&p, &[]).await.unwrap();
        drop(say(&second, "panic"));
        for socket in [&mut second, &mut third] {
            assert_eq!(hear(socket).await, "1012 the object was reset");
        }
        assert_eq!(hear(&mut second).await, "lost");
        assert_eq!(ask(&mut elsewhere, "echo here").await, "here");
        let open = act(&p, async |own| Ok(own.ctx.web_sockets(None).len()));
        assert_eq!(open.await.unwrap(), 0);
        assert_eq!(ends(), [""; 0]);
    });
}

#[test]
fn what_an_object_that_cannot_wake_would_hear_ends_the_socket() {
    run(async {
        let (vat, p) = room().await;
        let mut first = connect(&p, &[]).await.unwrap();
        let mut second = connect(&p, &[]).await.unwrap();
        vat.evict::<Client>("p").await;
        WAKES.set(false);
        assert_eq!(ask(&mut first, "memory").await, "1011 internal error");
        assert_eq!(vat.status::<Client>("p").web_sockets, 1);
        WAKES.set(true);
        assert_eq!(ask(&mut second, "memory").await, "1  ");
    });
}

#[test]
fn both_sides_may_close_and_each_hears_of_it() {
    run(async {
        let (vat, p) = room().await;
        let mut socket = connect(&p, &[]).await.unwrap();
        assert_eq!(ask(&mut socket, "close 4000").await, "4000 as you wish");
        close(&socket, 4000).await;
        assert_eq!(ends(), ["4000 bye true, 0 left"]);
        let mut socket = connect(&p, &[]).await.unwrap();
        close(&socket, 3001).await;
        assert_eq!(hear(&mut socket).await, "3001 ");
        assert_eq!(hear(&mut socket).await, "lost");
        assert_eq!(ends(), ["3001 bye true, 0 left"]);
        // What came was no message.
        let socket = connect(&p, &[]).await.unwrap();
        socket
            .send(&Frame::Failed("not UTF-8".into()))
            .await
            .unwrap();
        assert_eq!(ends(), ["not UTF-8"]);
        // The end of the vat is no end that an object hears of.
        let mut socket = connect(&p, &[]).await.unwrap();
        vat.stop().await;
        assert_eq!(hear(&mut socket).await, "1001 the vat is shutting down");
        assert_eq!(ends(), [""; 0]);
    });
}

/// What is heard until the socket ends: the bytes, and the end.
async fn bytes_and_end(socket: &mut ClientSocket) -> (usize, String) {
    let mut bytes = 0;
    loop {
        let said = hear(socket).await;
        match said.strip_suffix(" bytes") {
            Some(said) => bytes += said.parse::<usize>().unwrap(),
            None => return (bytes, said),
        }
    }
}

#[test]
fn only_the_peer_that_does_not_read_is_closed() {
    run(async {
        let (vat, p) = room().await;
        let mut slow = connect(&p, &[]).await.unwrap();
        let mut quick = connect(&p, &[]).await.unwrap();
        let flood = act(&p, async |own| {
            let all = own.ctx.web_sockets(None);
            (0..1000).try_for_each(|_| all.iter().try_for_each(|it| it.send(vec![0; 64 << 10])))?;
            Ok(())
        });
        flood.await.unwrap();
        for _ in 0..1000 {
            assert_eq!(hear(&mut quick).await, "65536 bytes");
        }
        assert!(ends().is_empty());
        tokio::time::sleep(60 * SECOND).await;
        assert_eq!(ends(), ["1008 it reads too slowly false, 1 left"]);
        let (bytes, end) = bytes_and_end(&mut slow).await;
        assert_eq!(end, "1008 it reads too slowly");
        assert!(bytes <= 512 << 10, "{bytes} bytes were not dropped");
        tokio::time::sleep(SECOND).await;
        assert!(
            vat.metrics()
                .contains("\nvatwerk_web_sockets_slow_total 1\n")
        );
        assert!(vat.metrics().contains("\nvatwerk_web_socket_bytes 0\n"));
        drop(say(&quick, "flood 1000"));
        for _ in 0..1000 {
            assert_eq!(hear(&mut quick).await, "65536 bytes");
        }
    });
}

#[test]
fn a_peer_with_little_to_read_has_half_a_minute_for_it() {
    run(async {
        let (_vat, p) = room().await;
        let mut slow = connect(&p, &[]).await.unwrap();
        drop(say(&slow, "flood 3"));
        tokio::time::sleep(29 * SECOND).await;
        for _ in 0..3 {
            assert_eq!(hear(&mut slow).await, "65536 bytes");
        }
        drop(say(&slow, "flood 3"));
        tokio::time::sleep(60 * SECOND).await;
        assert_eq!(ends(), ["1008 it reads too slowly false, 0 left"]);
    });
}

#[test]
fn what_waits_at_the_gate_is_not_held_against_the_peer() {
    run(async {
        let (vat, p) = room().await;
        let mut socket = connect(&p, &[]).await.unwrap();
        vat.hold_commits();
        let said = act(&p, async |own| {
            own.put("k", "v")?;
            let socket = &own.ctx.web_sockets(None)[0];
            (0..500).try_for_each(|_| socket.send(vec![0; 64 << 10]))?;
            Ok(())
        });
        let mut said = Box::pin(said);
        assert!(timeout(20 * SECOND, &mut said).await.is_err());
        vat.release_commits();
        said.await.unwrap();
        for _ in 0..500 {
            assert_eq!(hear(&mut socket).await, "65536 bytes");
        }
        assert!(ends().is_empty());
    });
}

/// A room whose sockets, objects and vat may have so many bytes waiting for peers.
async fn narrow_room(per_socket: usize, per_object: usize, per_vat: usize) -> (TestVat, Client) {
    ENDS.take();
    let vat = TestVat::start(move |server| {
        let mut config = Config::default();
        config.limits.socket_bytes = per_socket;
        config.limits.socket_bytes_per_object = per_object;
        config.limits.socket_bytes_per_vat = per_vat;
        server.class::<Puppet<Room>>().config(config)
    })
    .await;
    let p = vat.object("p");
    (vat, p)
}

/// Sends until that is refused: how often it was not, and the error.
async fn fill(p: &Client) -> (usize, Error) {
    let filled = act(p, async |own| {
        let socket = &own.ctx.web_sockets(None)[0];
        let mut sent = 0;
        loop {
            match socket.send(vec![0; 64 << 10]) {
                Ok(()) => sent += 1,
                Err(error) => return Ok((sent, error)),
            }
        }
    });
    filled.await.unwrap()
}

#[test]
fn a_sender_over_the_limit_is_refused_and_nothing_that_was_accepted_is_lost() {
    run(async {
        let key_of = [
            ([1 << 20, 1 << 30, 1 << 30], "limits.socket_bytes;"),
            (
                [1 << 30, 1 << 20, 1 << 30],
                "limits.socket_bytes_per_object;",
            ),
            ([1 << 30, 1 << 30, 1 << 20], "limits.socket_bytes_per_vat;"),
        ];
        for ([per_socket, per_object, per_vat], key) in key_of {
            let (vat, p) = narrow_room(per_socket, per_object, per_vat).await;
            let mut socket = connect(&p, &[]).await.unwrap();
            for _ in 0..2 {
                let (sent, error) = fill(&p).await;
                assert_eq!(error.code(), Code::Overloaded);
                assert!(error.to_string().contains(key), "{error}");
                assert!(error.to_string().contains("1048576"), "{error}");
                assert_eq!(sent, 16);
                for _ in 0..sent {
                    assert_eq!(hear(&mut socket).await, "65536 bytes");
                }
                tokio::time::sleep(SECOND).await;
            }
            let refused = "\nvatwerk_overloaded_total{reason=\"socket_bytes\"} 2\n";
            assert!(vat.metrics().contains(refused));
            assert!(ends().is_empty());
            // The end has room always.
            let (sent, _) = fill(&p).await;
            let closed = act(&p, async |own| {
                Ok(own.ctx.web_sockets(None)[0].close(4000, "")?)
            });
            closed.await.unwrap();
            let (bytes, end) = bytes_and_end(&mut socket).await;
            assert_eq!((bytes, &*end), (sent << 16, "4000 "));
        }
    });
}

#[test]
fn a_sender_that_waits_for_room_is_never_refused() {
    run(async {
        let (_vat, p) = narrow_room(1 << 20, 1 << 20, 1 << 20).await;
        let mut socket = connect(&p, &[]).await.unwrap();
        let sent = tokio::task::spawn_local(act(&p, async |own| {
            let socket = &own.ctx.web_sockets(None)[0];
            let mut most = 0;
            for _ in 0..1000 {
                socket.ready().await?;
                socket.send(vec![0; 64 << 10])?;
                most = most.max(socket.buffered());
            }
            Ok(most)
        }));
        for _ in 0..1000 {
            assert_eq!(hear(&mut socket).await, "65536 bytes");
        }
        let most = sent.await.unwrap().unwrap();
        assert!((256 << 10..336 << 10).contains(&most), "{most}");
        // Of a peer that is gone, or goes, nobody waits for anything.
        let waits = act(&p, async |own| {
            let socket = &own.ctx.web_sockets(None)[0];
            (0..10).try_for_each(|_| socket.send(vec![0; 64 << 10]))?;
            socket.ready().await?;
            Ok(())
        });
        let mut waits = Box::pin(waits);
        assert!(timeout(5 * SECOND, &mut waits).await.is_err());
        drop(socket);
        waits.await.unwrap();
    });
}

#[test]
fn room_that_others_of_the_vat_take_is_waited_for() {
    run(async {
        let (vat, p) = narrow_room(1 << 20, 1 << 20, 1 << 20).await;
        let q: Client = vat.object("q");
        let mut of_p = connect(&p, &[]).await.unwrap();
        let mut of_q = connect(&q, &[]).await.unwrap();
        let (sent, _) = fill(&p).await;
        let says = act(&q, async |own| {
            let socket = &own.ctx.web_sockets(None)[0];
            assert_eq!(socket.send("no").unwrap_err().code(), Code::Overloaded);
            socket.ready().await?;
            Ok(socket.send("yes")?)
        });
        let mut says = Box::pin(says);
        assert!(timeout(SECOND, &mut says).await.is_err());
        for _ in 0..sent {
            assert_eq!(hear(&mut of_p).await, "65536 bytes");
        }
        says.await.unwrap();
        assert_eq!(hear(&mut of_q).await, "yes");
    });
}

/// A request for a socket, whose exchange is still to be set.
fn ask_for_socket(
    p: &Client,
    answer: usize,
) -> Request<stub::fetch_params::Owned, stub::fetch_results::Owned> {
    let stub: stub::Client = p.clone().cast_to();
    let mut ask = stub.fetch_request();
    let mut request = ask.get().init_request();
    request.set_method("GET");
    request.set_url("/");
    let fields = [
        ("upgrade", "websocket".to_owned()),
        (DEED, answer.to_string()),
    ];
    let mut headers = request.init_headers(2);
    for (at, (name, value)) in (0..).zip(&fields) {
        let mut header = headers.reborrow().get(at);
        header.set_name(name);
        header.set_value(value);
    }
    ask
}

#[test]
fn a_socket_that_nobody_takes_up_is_given_up() {
    /// Asks for a socket, and never says that it has it.
    struct Undecided;
    impl exchange::Server for Undecided {
        async fn upgrade(
            self: Rc<Self>,
            _: exchange::UpgradeParams,
            _: exchange::UpgradeResults,
        ) -> capnp::Result<()> {
            std::future::pending().await
        }
    }
    run(async {
        let (_vat, p) = room().await;
        let answer = keep(async |own: Rc<Own>, request| {
            let (socket, response) = own.ctx.accept_web_socket(&request, &[])?;
            socket.send("welcome")?;
            Ok(response)
        });
        let mut ask = ask_for_socket(&p, answer);
        ask.get().set_exchange(capnp_rpc::new_client(Undecided));
        let asked = tokio::task::spawn_local(ask.send().promise);
        tokio::time::sleep(20 * SECOND).await;
        assert!(ends().is_empty());
        tokio::time::sleep(20 * SECOND).await;
        assert_eq!(ends(), ["1008 it was not taken up in time false, 0 left"]);
        drop(asked);
    });
}

/// Asks for a socket, keeps its way up, and refuses all messages on it but the first.
struct Refuses {
    heard: Rc<RefCell<Vec<String>>>,
    _up: Option<socket::Client>,
}

impl exchange::Server for Refuses {
    async fn upgrade(
        self: Rc<Self>,
        params: exchange::UpgradeParams,
        mut results: exchange::UpgradeResults,
    ) -> capnp::Result<()> {
        let up = params.get()?.get_up()?;
        let down = capnp_rpc::new_client(Refuses {
            heard: self.heard.clone(),
            _up: Some(up),
        });
        results.get().set_down(down);
        Ok(())
    }
}

impl socket::Server for Refuses {
    async fn send_text(self: Rc<Self>, params: socket::SendTextParams) -> capnp::Result<()> {
        if !self.heard.borrow().is_empty() {
            return Err(capnp::Error::failed("no more".into()));
        }
        let text = params.get()?.get_text()?.to_string()?;
        self.heard.borrow_mut().push(text);
        Ok(())
    }
}

#[test]
fn the_object_is_told_of_a_peer_that_refuses_a_message() {
    run(async {
        let (_vat, p) = room().await;
        let answer = keep(async |own: Rc<Own>, request| {
            let (socket, response) = own.ctx.accept_web_socket(&request, &[])?;
            for text in ["first", "second", "third"] {
                socket.send(text)?;
            }
            Ok(response)
        });
        let heard = Rc::default();
        let mut ask = ask_for_socket(&p, answer);
        let refuses = Refuses {
            heard: Rc::clone(&heard),
            _up: None,
        };
        ask.get().set_exchange(capnp_rpc::new_client(refuses));
        ask.send().promise.await.unwrap();
        tokio::time::sleep(SECOND).await;
        // A capability that has refused a streamed call takes no other: not the end either.
        assert_eq!(*heard.borrow(), ["first"]);
        assert_eq!(ends(), ["1011 it refused a message false, 0 left"]);
    });
}

#[test]
fn an_object_that_is_deleted_takes_its_sockets_with_it_asleep_or_awake() {
    run(async {
        let (vat, p) = room().await;
        for asleep in [true, false] {
            let mut socket = connect(&p, &[]).await.unwrap();
            if asleep {
                vat.evict::<Client>("p").await;
            }
            vat.delete::<Client>("p").await.unwrap();
            assert_eq!(hear(&mut socket).await, "1012 the object was reset");
        }
        assert_eq!(ends(), [""; 0]);
    });
}

#[test]
fn a_handler_that_takes_longer_than_the_class_allows_resets_the_object() {
    run(async {
        let (_vat, p) = room().await;
        let mut socket = connect(&p, &[]).await.unwrap();
        let limit = act(&p, async |own| {
            let limit = Some(Duration::from_millis(999));
            own.ctx.set_web_socket_event_timeout(limit)?;
            assert_eq!(own.ctx.web_socket_event_timeout(), limit);
            let week = Duration::from_millis(604_800_001);
            let long = own.ctx.set_web_socket_event_timeout(Some(week));
            assert_eq!(long.unwrap_err().code(), Code::LimitExceeded);
            Ok(())
        });
        limit.await.unwrap();
        drop(say(&socket, "sleep"));
        assert_eq!(hear(&mut socket).await, "1012 the object was reset");
        // It went with the instance.
        let mut socket = connect(&p, &[]).await.unwrap();
        assert_eq!(ask(&mut socket, "sleep").await, "slept");
    });
}

#[test]
fn tags_attachments_and_messages_have_limits() {
    run(async {
        let (_vat, p) = room().await;
        let eleven = &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10"];
        assert_eq!(code(connect(&p, eleven).await), Code::LimitExceeded);
        assert!(connect(&p, &eleven[..10]).await.is_ok());
        let long: &'static str = String::leak("x".repeat(257));
        assert_eq!(
            code(connect(&p, Vec::leak(vec![long])).await),
            Code::LimitExceeded
        );
        let _socket = connect(&p, Vec::leak(vec![&long[1..]])).await.unwrap();
        let limits = act(&p, async move |own| {
            let socket = &own.ctx.web_sockets(Some(&long[1..]))[0];
            // Three bytes of CBOR say how long it is.
            socket.set_attachment(&"x".repeat((16 << 10) - 3))?;
            let refused = [
                socket
                    .set_attachment(&"x".repeat((16 << 10) - 2))
                    .unwrap_err(),
                socket.send(vec![0; 32 << 20]).unwrap_err(),
                socket.close(4000, &"x".repeat(124)).unwrap_err(),
                own.ctx
                    .set_web_socket_auto_response(Some(("", &"x".repeat(2049))))
                    .unwrap_err(),
            ];
            assert_eq!(refused.map(|error| error.code()), [Code::LimitExceeded; 4]);
            for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000] {
                assert_eq!(
                    socket.close(code, "").unwrap_err().code(),
                    Code::InvalidArgument
                );
            }
            assert!(socket.attachment::<u32>().is_err());
            socket.close(1000, "")?;
            assert_eq!(socket.send("late").unwrap_err().code(), Code::Closed);
            Ok(())
        });
        limits.await.unwrap();
    });
}

#[test]
fn who_does_not_wait_for_its_messages_to_be_taken_is_refused() {
    run(async {
        let (_vat, p) = room().await;
        let mut socket = connect(&p, &[]).await.unwrap();
        for _ in 0..5000 {
            drop(say(&socket, "sleep"));
        }
        let end = "1008 it does not wait for its messages to be taken";
        assert_eq!(hear(&mut socket).await, end);
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!(ends(), [format!("{} false, 0 left", end)]);
    });
}

#[test]
fn messages_are_lost_with_the_commit_that_they_wait_for() {
    run(async {
        let (vat, p) = room().await;
        put(&p, "k", "v").await.unwrap();
        let mut socket = connect(&p, &[]).await.unwrap();
        vat.fail_next_commit();
        drop(say(&socket, "put w"));
        assert_eq!(hear(&mut socket).await, "1012 the object was reset");
        // Or with the patience for it.
        let mut socket = connect(&p, &[]).await.unwrap();
        vat.hold_commits();
        drop(say(&socket, "put w"));
        assert_eq!(hear(&mut socket).await, "1012 the object was reset");
        vat.release_commits();
    });
}

#[test]
fn an_object_that_falls_asleep_hears_what_is_said_until_its_writes_are_on_disk() {
    run(async {
        let (vat, p) = room().await;
        let mut socket = connect(&p, &[]).await.unwrap();
        vat.hold_commits();
        let unheard_write = act(&p, async |own| {
            own.clone()
                .ctx
                .wait_until(async move { Ok(own.put("k", "v")?) })?;
            Ok(())
        });
        unheard_write.await.unwrap();
        let mut evicted = Box::pin(vat.evict::<Client>("p"));
        assert!(timeout(5 * SECOND, &mut evicted).await.is_err());
        drop(say(&socket, "memory"));
        let mut called = Box::pin(get(&p, "k"));
        assert!(timeout(5 * SECOND, &mut called).await.is_err());
        vat.release_commits();
        assert_eq!(hear(&mut socket).await, "1  ");
        assert_eq!(called.await.unwrap().as_deref(), Some("v"));
        evicted.await;
    });
}

#[test]
fn what_never_leaves_is_not_held_against_those_who_read() {
    run(async {
        let (_vat, p) = room().await;
        let flood = |socket: &WebSocket| (0..250).try_for_each(|_| socket.send(vec![0; 64 << 10]));
        for _ in 0..10 {
            let refused = fetch(&p, wants_socket(), async move |own: Rc<Own>, request| {
                flood(&own.ctx.accept_web_socket(&request, &[])?.0)?;
                Err(Error::NotFound("secret".into()).into())
            });
            assert_eq!(code(refused.await), Code::NotFound);
            let undone = fetch(&p, wants_socket(), async move |own: Rc<Own>, request| {
                own.put("k", "v")?;
                flood(&own.ctx.accept_web_socket(&request, &[])?.0)?;
                panic!("as it is told")
            });
            assert_eq!(code(undone.await), Code::ObjectReset);
        }
        let mut socket = connect(&p, &[]).await.unwrap();
        drop(say(&socket, "flood 100"));
        for _ in 0..100 {
            assert_eq!(hear(&mut socket).await, "65536 bytes");
        }
    });
}

#[test]
fn answers_that_wait_for_what_the_object_has_said_are_counted() {
    run(async {
        let (vat, p) = room().await;
        let set = act(&p, async |own| {
            let pair = Some(("ping", &*"x".repeat(2048)));
            Ok(own.ctx.set_web_socket_auto_response(pair)?)
        });
        set.await.unwrap();
        let mut socket = connect(&p, &[]).await.unwrap();
        vat.hold_commits();
        drop(say(&socket, "put v"));
        assert!(is_silent(&mut socket).await);
        for _ in 0..10_000 {
            drop(say(&socket, "ping"));
        }
        let end = "1008 it does not read the answers to what it says";
        assert_eq!(hear(&mut socket).await, end);
        vat.release_commits();
    });
}

#[test]
fn a_socket_is_of_no_use_to_an_instance_that_is_gone_and_none_the_worse_for_it() {
    run(async {
        let (vat, p) = room().await;
        answer_pings(&p).await;
        let mut socket = connect(&p, &[]).await.unwrap();
        let old = act(&p, async |own| Ok(own.ctx.web_sockets(None).remove(0)));
        let old = old.await.unwrap();
        vat.evict::<Client>("p").await;
        assert_eq!(old.send("late").unwrap_err().code(), Code::ObjectReset);
        assert_eq!(old.close(4000, "").unwrap_err().code(), Code::ObjectReset);
        assert_eq!(ask(&mut socket, "ping").await, "pong");
        assert_eq!(ask(&mut socket, "echo here").await, "here");
    });
}

#[test]
fn an_object_hears_of_a_socket_that_there_was_no_room_for() {
    run(async {
        let vat = TestVat::start(|server| {
            let mut config = Config::default();
            config.limits.calls_per_object = 10;
            server.class::<Puppet<Room>>().config(config)
        })
        .await;
        let p: Client = vat.object("p");
        let mut socket = connect(&p, &[]).await.unwrap();
        let busy = (0..10).map(|_| {
            act(&p, async |own| {
                own.ctx.sleep(SECOND).await;
                Ok(())
            })
        });
        let busy = futures::future::join_all(busy.collect::<Vec<_>>());
        assert_eq!(ask(&mut socket, "memory").await, "1013 overloaded");
        drop(busy.await);
        assert_eq!(ends(), ["1013 overloaded false, 0 left"]);
    });
}

#[test]
fn what_is_said_about_sockets_is_forgotten_in_a_sleep_without_any() {
    run(async {
        let (vat, p) = room().await;
        answer_pings(&p).await;
        let pair = async |p: &Client| {
            let pair = act(p, async |own| Ok(own.ctx.web_socket_auto_response()));
            pair.await.unwrap()
        };
        let socket = connect(&p, &[]).await.unwrap();
        vat.evict::<Client>("p").await;
        assert!(pair(&p).await.is_some());
        close(&socket, 1000).await;
        assert!(pair(&p).await.is_some());
        vat.evict::<Client>("p").await;
        assert!(pair(&p).await.is_none());
    });
}

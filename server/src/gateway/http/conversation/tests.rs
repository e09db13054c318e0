use std::{cell::Cell, io, pin::pin, rc::Rc};

use futures::{SinkExt, StreamExt};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::protocol::{
        Role,
        frame::{
            Frame as RawFrame, FrameHeader,
            coding::{Control, Data, OpCode},
        },
    },
};

use super::*;
use crate::fetch::frames;

/// What may be under way on a connection, in bytes.
const UNDER_WAY: usize = 1 << 10;

/// Longer than anything takes that ends by itself.
const AGES: Duration = Duration::from_secs(3600);

struct Client(WebSocketStream<DuplexStream>);

impl Client {
    async fn send(&mut self, message: Message) {
        self.0.send(message).await.unwrap();
    }

    async fn next(&mut self) -> Option<Message> {
        self.0.next().await.transpose().unwrap()
    }

    /// The close code that comes next, and that the connection ends after it.
    async fn closed(&mut self) -> Option<u16> {
        let Some(Message::Close(close)) = self.next().await else {
            panic!("no close");
        };
        assert_eq!(self.next().await, None);
        close.map(|close| close.code.into())
    }

    async fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes).await
    }
}

/// The other end of what the conversation says to an object.
struct Object {
    hears: Frames,
    says: socket::Client,
}

impl Object {
    async fn hear(&mut self) -> Option<Frame> {
        self.hears.next().await.map(Received::into_frame)
    }

    fn say(&self, frame: Frame) -> Promise<(), capnp::Error> {
        send_frame(&self.says, &frame)
    }

    fn say_text(&self, text: &str) -> Promise<(), capnp::Error> {
        self.say(Frame::Text(text.into()))
    }
}

/// Runs a conversation on `io`, with `script` for its two ends, until both are over.
async fn converse_on<T>(
    io: impl AsyncRead + AsyncWrite + Unpin,
    limits: SocketLimits,
    script: impl AsyncFnOnce(Object) -> T,
) -> T {
    let (up, hears) = frames();
    let (says, down) = frames();
    let conversation = timeout(AGES, carry(io, &[], up, down, &limits));
    let (ended, outcome) = futures::join!(conversation, script(Object { hears, says }));
    ended.expect("the conversation ends");
    outcome
}

async fn converse_within<T>(
    limits: SocketLimits,
    script: impl AsyncFnOnce(Client, Object) -> T,
) -> T {
    let (io, theirs) = duplex(UNDER_WAY);
    let client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
    converse_on(io, limits, async |object| {
        script(Client(client), object).await
    })
    .await
}

async fn converse<T>(script: impl AsyncFnOnce(Client, Object) -> T) -> T {
    converse_within(SocketLimits::default(), script).await
}

fn close(code: u16, reason: &str) -> Frame {
    Frame::Close {
        code,
        reason: reason.into(),
    }
}

fn raw(opcode: OpCode, bytes: &[u8], is_final: bool) -> Vec<u8> {
    let header = FrameHeader {
        is_final,
        opcode,
        // Masking with zeros changes nothing.
        mask: Some([0; 4]),
        ..FrameHeader::default()
    };
    let mut written = Vec::new();
    let frame = RawFrame::from_payload(header, bytes.to_vec().into());
    frame.format(&mut written).unwrap();
    written
}

fn raw_text(bytes: &[u8]) -> Vec<u8> {
    raw(OpCode::Data(Data::Text), bytes, true)
}

#[tokio::test(start_paused = true)]
async fn text_and_bytes_arrive_at_both_ends_until_the_client_closes() {
    converse(async |mut client, mut object| {
        let long = "long ".repeat(20_000);
        client.send(Message::text("hello")).await;
        assert_eq!(object.hear().await, Some(Frame::Text("hello".into())));
        let (_, heard) = futures::join!(client.send(Message::binary(long.clone())), object.hear());
        assert_eq!(heard, Some(Frame::Data(long.clone().into())));
        let said = object.say(Frame::Data("bytes".into()));
        assert_eq!(client.next().await, Some(Message::binary("bytes")));
        said.await.unwrap();
        let said = object.say_text(&long);
        assert_eq!(client.next().await, Some(Message::text(long)));
        said.await.unwrap();

        let bye = close_frame(CloseCode::Library(4_321), "bye");
        client.send(Message::Close(Some(bye))).await;
        assert_eq!(object.hear().await, Some(close(4_321, "bye")));
        assert_eq!(client.closed().await, Some(4_321));
        assert_eq!(object.hear().await, None);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_close_without_a_code_is_1005_to_the_object() {
    converse(async |mut client, mut object| {
        client.send(Message::Close(None)).await;
        assert_eq!(object.hear().await, Some(close(1_005, "")));
        assert_eq!(client.closed().await, None);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_object_closes_after_what_it_said_before() {
    for (code, sent) in [
        (1_000, Some(1_000)),
        (1_012, Some(1_012)),
        (4_999, Some(4_999)),
        (1_005, None),
    ] {
        converse(async |mut client, mut object| {
            drop(object.say_text("last words"));
            drop(object.say(close(code, &"ä".repeat(61))));
            assert_eq!(client.next().await, Some(Message::text("last words")));
            assert_eq!(client.closed().await, sent);
            let Some(Frame::Close { code, .. }) = object.hear().await else {
                panic!("the client closes as well");
            };
            assert_eq!(code, sent.unwrap_or(1_005));
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_for_a_bad_gateway_goes_out_as_it_is() {
    use tokio::io::AsyncReadExt;

    let (io, mut theirs) = duplex(UNDER_WAY);
    converse_on(io, SocketLimits::default(), async |object| {
        // What nobody has defined does not.
        for code in [1_016, 2_999] {
            assert!(object.say(close(code, "")).await.is_err());
        }
        drop(object.say(close(1_014, "")));
        // The client of the other tests does not know the code.
        let mut frame = [0; 4];
        theirs.read_exact(&mut frame).await.unwrap();
        let [high, low] = 1_014u16.to_be_bytes();
        assert_eq!(frame, [0x88, 2, high, low]);
        drop(theirs);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_answer_a_close_is_dropped() {
    for unread in [0, 10 * UNDER_WAY] {
        converse(async |client, mut object| {
            drop(object.say(Frame::Data(vec![0; unread].into())));
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(object.say_text("and"));
            drop(object.say(close(1_008, "it reads too slowly")));
            let began = Instant::now();
            assert_eq!(object.hear().await, None);
            assert_eq!(began.elapsed(), SocketLimits::default().close);
            drop(client);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_gone_closes_with_1011() {
    converse(async |mut client, object| {
        drop(object);
        assert_eq!(client.closed().await, Some(1_011));
    })
    .await;
    converse(async |mut client, object| {
        drop(object.say(Frame::Failed("no".into())));
        assert_eq!(client.closed().await, Some(1_011));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_off_ends_without_a_word() {
    converse(async |mut client, mut object| {
        client.send_raw(&raw_text(b"half")[..7]).await.unwrap();
        drop(client);
        assert_eq!(object.hear().await, None);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_speak_the_protocol_is_told_so() {
    let limits = SocketLimits {
        max_message_bytes: 1_000,
        ..SocketLimits::default()
    };
    let binary = OpCode::Data(Data::Binary);
    let in_parts = |byte: u8| {
        let first = raw(binary, &[byte; 600], false);
        let second = raw(OpCode::Data(Data::Continue), &[byte; 600], true);
        [first, second].concat()
    };
    for (bytes, code) in [
        (raw_text(b"\xff"), 1_007),
        (
            raw(OpCode::Control(Control::Close), b"\x03\xe8\xff", true),
            1_007,
        ),
        (raw(binary, &[1; 1_001], true), 1_009),
        (in_parts(1), 1_009),
        // Not masked.
        (vec![0x81, 1, b'x'], 1_002),
        // A reserved bit, and a reserved kind.
        (vec![0xc1, 0x80, 0, 0, 0, 0], 1_002),
        (vec![0x83, 0x80, 0, 0, 0, 0], 1_002),
        (raw(OpCode::Data(Data::Continue), b"", true), 1_002),
        (raw(OpCode::Control(Control::Ping), &[1; 126], true), 1_002),
        (raw(OpCode::Control(Control::Close), b"\x03", true), 1_002),
    ] {
        converse_within(limits.clone(), async |mut client, mut object| {
            // Much more is on its way, and does not keep the client from hearing why.
            client.send_raw(&bytes).await.unwrap();
            client.send_raw(&[0; 4 * UNDER_WAY]).await.unwrap();
            let Some(Message::Close(Some(close))) = client.next().await else {
                panic!("no close: {bytes:?}");
            };
            assert_eq!(u16::from(close.code), code, "{bytes:?}");
            assert!(matches!(object.hear().await, Some(Frame::Failed(_))));
            drop(client);
            assert_eq!(object.hear().await, None);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_is_dropped_that_neither_says_anything_nor_answers_pings() {
    let every = SocketLimits::default().ping_every.unwrap();
    converse(async |mut client, mut object| {
        let began = Instant::now();
        // It reads, and so answers.
        let pings = async { while let Some(Message::Ping(_)) = client.next().await {} };
        assert!(timeout(20 * every, pings).await.is_err());
        // It only speaks.
        for _ in 0..10 {
            client.send(Message::text("here")).await;
            assert_eq!(object.hear().await, Some(Frame::Text("here".into())));
            tokio::time::sleep(every).await;
        }
        assert_eq!(began.elapsed(), 30 * every);
        // It does neither.
        assert_eq!(object.hear().await, None);
        assert!(began.elapsed() <= 33 * every);
        drop(client);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn without_pings_a_silent_client_stays() {
    let limits = SocketLimits {
        ping_every: None,
        ..SocketLimits::default()
    };
    converse_within(limits, async |mut client, mut object| {
        let hears_nothing = timeout(Duration::from_secs(3_000), client.next()).await;
        assert!(hears_nothing.is_err());
        client.send(Message::text("here")).await;
        assert_eq!(object.hear().await, Some(Frame::Text("here".into())));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_dropped() {
    let stalled = SocketLimits::default().stalled;
    converse(async |mut client, mut object| {
        let said = object.say(Frame::Data(vec![7; 100 * UNDER_WAY].into()));
        let began = Instant::now();
        // Slow is not stalled: with the client's end of the pipe always full, it takes a little.
        for _ in 0..10 {
            tokio::time::sleep(stalled / 2).await;
            client.0.get_mut().read_exact(&mut [0; 10]).await.unwrap();
        }
        assert_eq!(began.elapsed(), 5 * stalled);
        assert_eq!(object.hear().await, None);
        assert!(began.elapsed() <= 7 * stalled);
        assert!(said.await.is_ok());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_was_said_is_unsent_until_the_connection_has_it() {
    converse(async |mut client, object| {
        let mut said = pin!(object.say(Frame::Data(vec![7; 2 * UNDER_WAY].into())));
        let second = timeout(Duration::from_secs(1), said.as_mut()).await;
        assert!(second.is_err(), "the client has not read it");
        assert_eq!(client.next().await.unwrap().len(), 2 * UNDER_WAY);
        said.await.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn no_more_is_read_than_the_object_answers() {
    for (bytes, most) in [(10, WINDOW), (100 << 10, WINDOW_BYTES / (100 << 10) + 1)] {
        converse(async |mut client, mut object| {
            let sending = async {
                for _ in 0..40 {
                    client.send(Message::binary(vec![1; bytes])).await;
                }
                client
            };
            let handling = async {
                let mut unanswered = Vec::new();
                while let Ok(message) = timeout(AGES / 10, object.hears.next()).await {
                    unanswered.push(message.unwrap());
                }
                assert_eq!(unanswered.len(), most);
                unanswered.pop();
                assert!(object.hears.next().await.is_some());
                drop(unanswered);
                for _ in most + 1..40 {
                    assert!(object.hear().await.is_some());
                }
            };
            futures::join!(sending, handling);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn pings_are_answered_but_not_without_end() {
    converse(async |mut client, object| {
        client.send(Message::Ping("are you there".into())).await;
        assert_eq!(
            client.next().await,
            Some(Message::Pong("are you there".into()))
        );
        // Nobody reads the answers to these.
        let pings = raw(OpCode::Control(Control::Ping), &[1; 125], true).repeat(1_000);
        let sent = timeout(Duration::from_secs(1), client.send_raw(&pings)).await;
        assert!(sent.is_err(), "the connection is full");
        drop((client, object));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_object_that_refuses_a_message_closes_the_socket() {
    let refusals = [
        (crate::Error::Closed("it is").into(), None),
        (crate::Error::ObjectReset("it was".into()).into(), None),
        (crate::Error::ShuttingDown.into(), None),
        (
            crate::Error::Overloaded {
                what: "x",
                limit: 1,
            }
            .into(),
            Some(1_013),
        ),
        (capnp::Error::failed("no".into()), Some(1_011)),
    ];
    for (error, code) in refusals {
        let close = match refused(error) {
            None => None,
            Some(End::Closing(Some(close))) => Some(u16::from(close.code)),
            Some(_) => panic!("it is this side that closes"),
        };
        assert_eq!(close, code);
    }
}

/// A connection of which the writes are counted.
struct Counting<S>(S, Rc<Cell<usize>>);

impl<S: AsyncRead + Unpin> AsyncRead for Counting<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counting<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.1.set(self.1.get() + 1);
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_ready_together_is_written_together() {
    let (io, theirs) = duplex(1 << 20);
    let writes = Rc::new(Cell::new(0));
    let io = Counting(io, writes.clone());
    let client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
    converse_on(io, SocketLimits::default(), async |object| {
        let mut client = Client(client);
        for i in 0..200 {
            drop(object.say_text(&i.to_string()));
        }
        for i in 0..200 {
            assert_eq!(client.next().await, Some(Message::text(i.to_string())));
        }
        assert_eq!(writes.get(), 1);
        // But no more than so much at a time.
        for _ in 0..4 {
            drop(object.say(Frame::Data(vec![0; BATCH_BYTES / 2].into())));
        }
        for _ in 0..4 {
            client.next().await;
        }
        assert_eq!(writes.get(), 3);
    })
    .await;
}

/// A piece of what a client sends, mostly by the rules.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..140);
    let opcode = prop_oneof![
        8 => prop_oneof![Just(Data::Text), Just(Data::Binary), Just(Data::Continue)].prop_map(OpCode::Data),
        2 => prop_oneof![Just(Control::Ping), Just(Control::Pong)].prop_map(OpCode::Control),
        1 => Just(OpCode::Control(Control::Close)),
    ];
    prop_oneof![
        10 => (opcode, bytes(), any::<bool>()).prop_map(|(opcode, bytes, last)| raw(opcode, &bytes, last)),
        10 => "[a-zä]{0,90}".prop_map(|text| raw_text(text.as_bytes())),
        1 => bytes(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever a client sends, the conversation ends, and the object never has more of it at a time
    /// than it may.
    #[test]
    fn whatever_a_client_sends(
        pieces in prop::collection::vec(piece(), 0..60),
        answers in any::<bool>(),
        reads in any::<bool>(),
    ) {
        let limits = SocketLimits { max_message_bytes: 200, ..SocketLimits::default() };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(converse_within(limits, async |client, mut object| {
            let (mut from, mut to) = tokio::io::split(client.0.into_inner());
            let sending = async {
                let _ = timeout(AGES / 10, to.write_all(&pieces.concat())).await;
            };
            let reading = async {
                if reads {
                    let _ = timeout(AGES / 10, from.read_to_end(&mut Vec::new())).await;
                }
            };
            let hearing = async {
                let mut unanswered = Vec::new();
                let mut after_last = false;
                while let Ok(Some(heard)) = timeout(AGES / 5, object.hears.next()).await {
                    assert!(!after_last && heard.frame.len() <= 200);
                    after_last = heard.frame.is_last();
                    drop(object.say(heard.frame.clone()));
                    if !answers && !after_last {
                        unanswered.push(heard);
                    }
                    assert!(unanswered.len() <= WINDOW);
                }
            };
            futures::join!(sending, reading, hearing);
            drop((from, to));
        }));
    }
}

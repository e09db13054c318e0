//! What cannot be understood is refused, with a code, and harms nobody else.

use capnp::{capability::FromClientHook, message};
use capnp_rpc::rpc_capnp;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};
use vatwerk::{Address, Code, storage_capnp::operations};
use vatwerk_server::Config;

use crate::support::{Do, TestVat, Wire, cell::cell, code, run, tell};

/// Sends bytes on a connection of their own, and returns all that the vat answers until it hangs up.
async fn answer_to(vat: &TestVat, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(vat.socket()).await.unwrap();
    // The vat may have hung up already.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

/// The reason of the abort in an answer.
fn abort_reason(answer: &[u8]) -> String {
    let message = capnp::serialize::read_message(answer, message::ReaderOptions::new()).unwrap();
    let message = message.get_root::<rpc_capnp::message::Reader>().unwrap();
    match message.which().unwrap() {
        rpc_capnp::message::Abort(abort) => {
            abort.unwrap().get_reason().unwrap().to_string().unwrap()
        }
        _ => panic!("no abort"),
    }
}

async fn is_well(bystander: &Wire, vat: &TestVat) {
    for wire in [bystander, &vat.wire().await] {
        let said = tell(&wire.probe("well"), &[Do::Say("well")]).await;
        assert_eq!(said.unwrap(), ["well"]);
    }
}

#[test]
fn garbage_ends_its_own_connection_with_a_reason_and_no_other() {
    run(async {
        let vat = TestVat::start().await;
        let bystander = vat.wire().await;
        is_well(&bystander, &vat).await;
        for garbage in [
            &b"SSH-2.0-nobody\r\n"[..],
            &[0xff; 64],
            // One segment of one word, which is no pointer to a message of ours.
            &[0, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f, 9, 9, 9, 9],
        ] {
            let reason = abort_reason(&answer_to(&vat, garbage).await);
            let (code, _) = Code::split(&reason);
            let fits = matches!(code, Some(Code::InvalidArgument | Code::LimitExceeded));
            assert!(fits, "{reason}");
        }
        is_well(&bystander, &vat).await;
    });
}

#[test]
fn a_message_over_the_limit_ends_its_connection_with_a_reason() {
    run(async {
        let vat = TestVat::start().await;
        let bystander = vat.wire().await;
        // A table that announces 32 MiB and a word more; nothing of it has to be sent.
        let words: u32 = (32 << 20) / 8 + 1;
        let table = [[0; 4], words.to_le_bytes()].concat();
        let reason = abort_reason(&answer_to(&vat, &table).await);
        assert_eq!(Code::split(&reason).0, Some(Code::LimitExceeded));
        is_well(&bystander, &vat).await;
    });
}

#[test]
fn the_limit_of_messages_can_be_lowered() {
    run(async {
        let vat = TestVat::with(|config| config.limits.message_bytes = 1 << 20).await;
        let wire = vat.wire().await;
        let small = cell(&wire, "c");
        small.put("k", &[1; 1000]).await.unwrap();
        let refused = small.put("large", &vec![1; 2 << 20]).await;
        assert!(refused.is_err());
        let wire = vat.wire().await;
        let found = cell(&wire, "c").get("large").await.unwrap();
        assert_eq!(found, None);
    });
}

#[test]
fn a_connection_that_says_nothing_or_half_a_message_is_no_trouble() {
    run(async {
        let vat = TestVat::start().await;
        let silent = UnixStream::connect(vat.socket()).await.unwrap();
        let mut half = UnixStream::connect(vat.socket()).await.unwrap();
        half.write_all(&[0, 0, 0, 0, 100, 0, 0]).await.unwrap();
        is_well(&vat.wire().await, &vat).await;
        drop((silent, half));
        is_well(&vat.wire().await, &vat).await;
    });
}

#[test]
fn a_text_that_is_no_utf8_is_an_invalid_argument() {
    run(async {
        let vat = TestVat::start().await;
        let wire = vat.wire().await;
        let cell = cell(&wire, "c");
        let mut request = operations::Client::new(cell.0.as_client_hook().add_ref()).put_request();
        request
            .get()
            .set_key(capnp::text::Reader(&[b'k', 0xff, 0xfe]));
        let refused = request.send().promise.await.map(drop);
        assert_eq!(code(refused), Code::InvalidArgument);
        // The connection is still good.
        assert!(cell.keys(Default::default()).await.is_empty());
    });
}

#[test]
fn a_vat_on_tcp_answers_too_and_only_on_loopback() {
    run(async {
        let vat = TestVat::start().await;
        let Address::Tcp { host, port } = vat.tcp() else {
            panic!("a TCP address")
        };
        assert_ne!(*port, 0);
        let stream = tokio::net::TcpStream::connect((host.as_str(), *port)).await;
        let wire = Wire::over(stream.unwrap());
        assert_eq!(
            tell(&wire.probe("p"), &[Do::Say("tcp")]).await.unwrap(),
            ["tcp"]
        );
    });
}

fn open_to_all(config: &mut Config) {
    config.listen = Some(vec!["tcp:0.0.0.0:0".parse().unwrap()]);
}

fn others_may(config: &mut Config) {
    open_to_all(config);
    config.http.insecure = true;
    config.metrics_insecure = true;
}

fn http_is_open(config: &mut Config) {
    open_to_all(config);
    config.listen_insecure = true;
    config.http.listen = Some(vec!["0.0.0.0:0".parse().unwrap()]);
}

fn metrics_are_open(config: &mut Config) {
    http_is_open(config);
    config.http.insecure = true;
    config.metrics = Some("0.0.0.0:0".parse().unwrap());
}

/// A change to the settings of a vat.
type Settings = fn(&mut Config);

#[test]
fn a_vat_does_not_listen_where_others_could_reach_it_unless_told_to() {
    run(async {
        let mut vat = TestVat::start().await;
        vat.stop().await;
        // What another listener may is not said of this one.
        let cases: [(Settings, &str); 4] = [
            (open_to_all, "--listen-insecure"),
            (others_may, "--listen-insecure"),
            (http_is_open, "--http-insecure"),
            (metrics_are_open, "--metrics-insecure"),
        ];
        for (settings, switch) in cases {
            vat.change_settings(settings);
            let refused = vat.start_serving(|server| server).await.unwrap_err();
            assert!(refused.to_string().contains(switch), "{refused}");
        }
    });
}

#[test]
fn only_its_owner_reaches_the_unix_socket() {
    run(async {
        use std::os::unix::fs::PermissionsExt;
        let vat = TestVat::start().await;
        let mode = std::fs::metadata(vat.socket())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    });
}

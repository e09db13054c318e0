//! A vat whose thread is held says so, and one whose services fail goes on.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use vatwerk_server::{Context, object::testing::Sabotage, testing};

use crate::support::{
    TestVat,
    clockwork::{Clockwork, Spring},
    on_this_thread,
    puppet::{self, Puppet},
    run,
};

/// After this, a test that waits for something waits in vain.
const PATIENCE: Duration = Duration::from_secs(60);

/// What an operator is answered.
fn ask(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Asks until the answer has this in it.
fn until(address: &str, path: &str, said: &str) -> String {
    let began = Instant::now();
    loop {
        let answer = ask(address, path);
        if answer.contains(said) {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "in vain: {said}\n{answer}");
    }
}

#[test]
fn while_a_turn_holds_the_thread_operators_are_told_whose_it_is() {
    run(async {
        let mut vat = TestVat::unstarted(|config| {
            config.metrics = Some("tcp:127.0.0.1:0".parse().unwrap());
            config.limits.held_ms = 50;
            config.limits.long_turn_ms = 50;
        });
        let started = vat.start_serving(|server| server.class::<Puppet>());
        started.await.unwrap();
        let operators = vat.operators().to_string();
        let operators = operators.strip_prefix("tcp:").unwrap().to_owned();
        let (entered, is_entered) = mpsc::channel();
        let (release, released) = mpsc::channel();
        let operator = thread::spawn(move || {
            let id = is_entered.recv().unwrap();
            let answer = until(&operators, "/healthz", "503 Service Unavailable");
            let said = format!(": object {id} of class Puppet, in act\n");
            assert!(
                answer.contains("held for ") && answer.contains(&said),
                "{answer}"
            );
            let answer = ask(&operators, "/metrics");
            assert!(
                answer.contains("vatwerk_calls_total{class=\"Puppet\""),
                "{answer}"
            );
            assert!(
                !answer.contains("vatwerk_turn_running_seconds 0.0\n"),
                "{answer}"
            );
            release.send(()).unwrap();
            until(&operators, "/healthz", "200 OK");
            let long = "vatwerk_long_turns_total{class=\"Puppet\",method=\"act\"} 1";
            let answer = until(&operators, "/metrics", long);
            assert!(
                answer.contains("vatwerk_turn_running_seconds 0.0\n"),
                "{answer}"
            );
        });
        let wire = vat.wire().await;
        let object: puppet::Client = wire.object("p");
        let held = puppet::act(&object, async move |own| {
            entered.send(own.ctx.id().to_string()).unwrap();
            released.recv().unwrap();
            Ok(())
        });
        held.await.unwrap();
        tokio::task::spawn_blocking(|| operator.join().unwrap())
            .await
            .unwrap();
    });
}

#[test]
fn alarms_run_although_the_vat_fails_once_to_see_to_them() {
    for sabotage in [Sabotage::PanicInScheduler, Sabotage::PanicInLook] {
        testing::run(async move {
            let spring = Spring::default();
            let bound = on_this_thread(spring.clone());
            let vat = testing::TestVat::start(move |server| {
                server
                    .class::<Puppet<Clockwork>>()
                    .binding_with(bound.clone())
                    .sabotage(sabotage)
            })
            .await;
            let names = ["a", "b"];
            for name in names {
                let set = spring.act(&vat, name, async move |ctx: Context| {
                    Ok(ctx.alarms()?.set_in(Duration::from_secs(1))?)
                });
                set.await.unwrap();
            }
            vat.advance(Duration::from_secs(60)).await;
            let mut ran: Vec<_> = spring.ran().into_iter().map(|ran| ran.object).collect();
            ran.sort();
            assert_eq!(ran, names, "{sabotage:?}");
        });
    }
}

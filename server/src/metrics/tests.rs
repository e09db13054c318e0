use std::{collections::BTreeMap, time::Duration};

use super::*;
use vatwerk::Code;

/// The numbers, as they are now.
fn text(metrics: &Metrics) -> String {
    metrics.refresh();
    metrics.exposition().encode(Vitals::default())
}

/// Every sample of a text, by its name and labels.
fn samples(text: &str) -> BTreeMap<&str, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let samples = lines.map(|line| line.rsplit_once(' ').unwrap());
    samples
        .map(|(name, value)| (name, value.parse().unwrap()))
        .collect()
}

#[test]
fn what_is_recorded_shows_under_its_own_name_and_word() {
    let metrics = Metrics::new("1.2.3", 1_500);
    let class = metrics.class("Room");
    let took = Duration::from_millis(2);
    class.call(Ok(()), took);
    class.activated(took);
    class.background_failed();
    class.gate_waited(took);
    class.queue_waited(took);
    class.counted(3, 12_288);
    class.alarm_started(Duration::from_secs(2));
    metrics.alarm_not_delivered();
    metrics.overloaded(Overload::Objects);
    metrics.connections_end(&["stalled", "refused"]);
    metrics.connection_ended("stalled");
    metrics.limit("limits.some", 9);
    let syncs = Durations::default();
    metrics.show_durations("sync_seconds", "A test's", &syncs);
    syncs.add(took);
    class.turn(took);
    metrics.turn_was_long("Room", "enter");
    metrics.restarts().count("alarms");
    metrics.http_answered(StatusCode::NOT_FOUND, took);
    class.http_answered(HttpKind::Page, StatusCode::SWITCHING_PROTOCOLS, took);
    class.http_answered(HttpKind::Call, StatusCode::OK, took);
    class.http_answered(HttpKind::Call, StatusCode::OK, took);
    class.web_socket_event(SocketEventKind::Message, took);
    class.web_socket_event(SocketEventKind::Message, took);
    class.web_socket_event(SocketEventKind::End, took);
    class.web_sockets(4);
    class.changed(9, 6);
    metrics.http_failed("Room", Code::Internal);
    let mut expected = BTreeMap::from([
        ("vatwerk_build_info{version=\"1.2.3\"}".to_owned(), 1.0),
        ("vatwerk_start_time_seconds".to_owned(), 1.5),
        ("vatwerk_sync_seconds_sum".to_owned(), 0.002),
        ("vatwerk_limit{setting=\"limits.some\"}".to_owned(), 9.0),
        ("vatwerk_alarm_delivery_failures_total".to_owned(), 1.0),
        ("vatwerk_overloaded_total{reason=\"calls\"}".to_owned(), 0.0),
        (
            "vatwerk_connections_ended_total{reason=\"stalled\"}".to_owned(),
            1.0,
        ),
        (
            "vatwerk_connections_ended_total{reason=\"refused\"}".to_owned(),
            0.0,
        ),
        (
            "vatwerk_overloaded_total{reason=\"objects\"}".to_owned(),
            1.0,
        ),
        (
            "vatwerk_service_restarts_total{service=\"alarms\"}".to_owned(),
            1.0,
        ),
        (
            "vatwerk_http_requests_total{class=\"\",kind=\"vat\",status=\"4xx\"}".to_owned(),
            1.0,
        ),
        (
            "vatwerk_http_requests_total{class=\"\",kind=\"vat\",status=\"5xx\"}".to_owned(),
            0.0,
        ),
        (
            "vatwerk_http_request_seconds_count{class=\"\",kind=\"vat\"}".to_owned(),
            1.0,
        ),
    ]);
    let mut expect = |name: &str, label: &str, count: f64| {
        let name = format!("vatwerk_{name}{{class=\"Room\"{label}}}");
        expected.insert(name, count);
    };
    expect("calls_total", ",code=\"ok\"", 1.0);
    for (kind, status, count) in [("page", "1xx", 1.0), ("call", "2xx", 2.0)] {
        let label = format!(",kind=\"{kind}\"");
        expect("http_request_seconds_count", &label, count);
        let label = format!("{label},status=\"{status}\"");
        expect("http_requests_total", &label, count);
    }
    let message = ",kind=\"message\"";
    expect("web_socket_event_seconds_count", message, 2.0);
    expect("web_socket_event_seconds_count", ",kind=\"end\"", 1.0);
    expect("web_sockets", "", 4.0);
    expect("objects_created_total", "", 9.0);
    expect("objects_deleted_total", "", 6.0);
    expect("http_failures_total", ",code=\"internal\"", 1.0);
    expect("activations_total", "", 1.0);
    expect("gate_wait_seconds_count", "", 1.0);
    expect("queue_wait_seconds_count", "", 1.0);
    expect("objects", "", 3.0);
    expect("object_bytes", "", 12_288.0);
    expect("activation_seconds_sum", "", 0.002);
    expect("alarm_lag_seconds_bucket", ",le=\"1\"", 0.0);
    expect("alarm_lag_seconds_bucket", ",le=\"5\"", 1.0);
    expect("turn_seconds_count", "", 1.0);
    expect("turn_seconds_sum", "", 0.002);
    expect("long_turns_total", ",method=\"enter\"", 1.0);
    expect("background_failures_total", "", 1.0);
    // So often that no two are the same.
    let mut times = 1;
    let mut so_often = |record: &dyn Fn()| {
        times += 1;
        (0..times).for_each(|_| record());
        f64::from(times)
    };
    for code in Code::ALL {
        let count = so_often(&|| class.call(Err(code), took));
        expect("calls_total", &format!(",code=\"{code}\""), count);
        let count = so_often(&|| class.activation_failed(code));
        let label = format!(",code=\"{code}\"");
        expect("activation_failures_total", &label, count);
    }
    for (why, word) in [
        (Eviction::Idle, "idle"),
        (Eviction::Objects, "objects"),
        (Eviction::Memory, "memory"),
        (Eviction::Asked, "asked"),
    ] {
        let count = so_often(&|| class.evicted(why));
        expect("evictions_total", &format!(",reason=\"{word}\""), count);
    }
    for (why, word) in [
        (Reset::Panic, "panic"),
        (Reset::Abort, "abort"),
        (Reset::Blocked, "blocked"),
        (Reset::Storage, "storage"),
        (Reset::Deleted, "deleted"),
        (Reset::Other, "other"),
    ] {
        let count = so_often(&|| class.reset(why));
        expect("resets_total", &format!(",reason=\"{word}\""), count);
    }
    for (outcome, word) in [
        (AlarmOutcome::Ok, "ok"),
        (AlarmOutcome::Failed, "failed"),
        (AlarmOutcome::GaveUp, "gave_up"),
        (AlarmOutcome::Skipped, "skipped"),
    ] {
        let count = so_often(&|| class.alarm_ran(outcome));
        expect("alarm_runs_total", &format!(",outcome=\"{word}\""), count);
    }
    let text = text(&metrics);
    let samples = samples(&text);
    for (name, value) in expected {
        assert_eq!(samples.get(name.as_str()), Some(&value), "{name}\n{text}");
    }
    let calls = samples["vatwerk_call_seconds_count{class=\"Room\"}"];
    let codes = samples
        .iter()
        .filter(|(name, _)| name.starts_with("vatwerk_calls_total{"));
    assert_eq!(codes.map(|(_, count)| count).sum::<f64>(), calls);
}

#[test]
fn every_number_has_a_type_and_a_help_text_and_a_class_is_there_from_the_start() {
    let metrics = Metrics::new("1", 0);
    metrics.class("Room");
    for reading in [
        Reading::CallsInFlight,
        Reading::ObjectsAwake,
        Reading::AlarmsPending,
        Reading::AlarmsRunning,
        Reading::AlarmsUndelivered,
        Reading::AlarmsOn,
        Reading::Connections,
        Reading::ConnectionsTaken,
        Reading::ConnectionsRefused,
        Reading::HttpConnectionsRefused,
        Reading::ConnectionCallsRefused,
        Reading::ConnectionCallsNotSent,
        Reading::ConnectionBytes,
        Reading::ConnectionBytesReceived,
        Reading::ConnectionBytesSent,
        Reading::HttpConnections,
        Reading::HttpRequests,
        Reading::HttpHeldBytes,
        Reading::HttpSockets,
        Reading::Commits,
        Reading::JournalBytes,
        Reading::JournalWaitingBytes,
        Reading::Quarantined,
    ] {
        metrics.show(reading, || 7);
    }
    let text = text(&metrics);
    let mut types = BTreeMap::new();
    let mut helped = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(types.insert(name, kind), None, "{name} is there twice");
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            helped.push(rest.split_once(' ').unwrap().0);
        }
    }
    helped.sort_unstable();
    assert_eq!(helped, types.keys().copied().collect::<Vec<_>>());
    for (name, kind) in &types {
        let is_ours = name.starts_with("vatwerk_") || name.starts_with("process_");
        assert!(is_ours, "{name}");
        assert_eq!(name.ends_with("_total"), *kind == "counter", "{name}");
    }
    for sample in samples(&text).keys() {
        let name = sample.split('{').next().unwrap();
        let ends = ["_bucket", "_sum", "_count"];
        let whole = ends.iter().find_map(|end| name.strip_suffix(end));
        assert!(
            types.contains_key(name) || types.get(whole.unwrap()) == Some(&"histogram"),
            "{sample}"
        );
        for label in sample.split(['{', ',', '}']).skip(1) {
            let label = label.split('=').next().unwrap();
            let known = [
                "class", "kind", "code", "outcome", "reason", "status", "version", "le", "service",
                "method", "setting", "",
            ];
            assert!(known.contains(&label), "{sample}");
        }
    }
    let samples = samples(&text);
    assert_eq!(
        samples["vatwerk_calls_total{class=\"Room\",code=\"ok\"}"],
        0.0
    );
    for name in [
        "connections",
        "connections_total",
        "connection_calls_refused_total",
        "connection_calls_not_sent_total",
        "connection_bytes",
        "commits_total",
        "journal_bytes",
        "journal_waiting_bytes",
    ] {
        assert_eq!(samples[format!("vatwerk_{name}").as_str()], 7.0);
    }
}

#[test]
fn a_class_has_one_set_of_numbers_and_a_reading_is_read_whenever_somebody_asks() {
    let metrics = Metrics::new("1", 0);
    metrics.class("Room").background_failed();
    metrics.clone().class("Room").background_failed();
    let awake = Rc::new(std::cell::Cell::new(1));
    let counted = awake.clone();
    metrics.show(Reading::ObjectsAwake, move || counted.get());
    for expected in [1, 2] {
        awake.set(expected);
        let text = text(&metrics);
        let samples = samples(&text);
        let failures = samples["vatwerk_background_failures_total{class=\"Room\"}"];
        assert_eq!(failures, 2.0);
        assert_eq!(samples["vatwerk_objects_awake"], f64::from(expected as u32));
    }
}

#[test]
fn a_thread_that_is_busy_with_a_turn_is_counted_once_and_never_less() {
    let metrics = Metrics::new("1", 0);
    let exposition = metrics.exposition();
    let seconds = Duration::from_secs;
    // A turn that runs, the same turn when it is over and not counted yet, and when it is.
    for (busy, turn_running, shown) in [(1, 0, 1.0), (1, 5, 6.0), (1, 0, 6.0), (7, 0, 7.0)] {
        let (busy, turn_running) = (seconds(busy), seconds(turn_running));
        let text = exposition.encode(Vitals {
            busy,
            turn_running,
            ..Vitals::default()
        });
        let samples = samples(&text);
        assert_eq!(samples["vatwerk_thread_busy_seconds_total"], shown);
        let running = samples["vatwerk_turn_running_seconds"];
        assert_eq!(running, turn_running.as_secs_f64());
    }
}

#[test]
fn the_process_is_measured_under_the_usual_names() {
    let metrics = Metrics::new("1", 0);
    let before = text(&metrics);
    let _file = std::fs::File::open("/dev/null").unwrap();
    let after = text(&metrics);
    let (before, after) = (samples(&before), samples(&after));
    for name in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_threads",
        "process_open_fds",
        "process_max_fds",
    ] {
        assert!(after[name] >= 0.0, "{name}");
    }
    assert!(after["process_resident_memory_bytes"] > f64::from(1 << 20));
    assert!(after["process_threads"] >= 1.0);
    assert!(after["process_open_fds"] <= after["process_max_fds"]);
    assert!(after["process_cpu_seconds_total"] >= before["process_cpu_seconds_total"]);
}

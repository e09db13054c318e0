//! The numbers that parts of a vat keep anyway, for operators.

use std::rc::Rc;

use crate::{
    gateway::{Gateway, http::Http, network::End},
    metrics::{Metrics, Reading},
    object::Host,
};

/// Shows operators the numbers that the parts of a vat keep.
pub(super) fn show(metrics: &Metrics, host: &Rc<Host>, gateway: &Rc<Gateway>, http: &Rc<Http>) {
    let limits = &host.limits;
    metrics.limit("limits.resident_objects", limits.resident_objects as u64);
    metrics.limit("limits.memory_bytes", limits.memory_bytes);
    metrics.limit("limits.calls_per_object", limits.calls_per_object);
    metrics.limit("limits.calls_per_vat", limits.calls_per_vat);
    metrics.limit("limits.socket_bytes", limits.socket_bytes as u64);
    let socket_bytes = limits.socket_bytes_per_object as u64;
    metrics.limit("limits.socket_bytes_per_object", socket_bytes);
    let socket_bytes = limits.socket_bytes_per_vat as u64;
    metrics.limit("limits.socket_bytes_per_vat", socket_bytes);
    metrics.limit("limits.alarms_at_once", limits.alarms_at_once as u64);
    // From the start, so that the first event of a kind is seen as a change.
    let classes = host.classes.iter();
    let classes: Vec<_> = classes
        .map(|class| (class.interface_id, metrics.class(class.name)))
        .collect();
    let counted = Rc::downgrade(host);
    metrics.show_classes(move || {
        let Some(host) = counted.upgrade() else {
            return;
        };
        let sockets = host.web_sockets();
        for (class, numbers) in &classes {
            if let Ok((objects, bytes)) = host.catalog.size(*class) {
                numbers.counted(objects, bytes);
            }
            let changes = host.catalog.changes(*class);
            numbers.changed(changes.created, changes.deleted);
            numbers.web_sockets(sockets.get(class).copied().unwrap_or_default());
        }
    });
    let before = host.commits.journal().commits();
    let commits = move |host: &Host| host.commits.journal().commits() - before;
    let bytes = |host: &Host| host.commits.journal().bytes();
    let awake = |host: &Host| host.resident() as u64;
    metrics.show(Reading::CallsInFlight, of(host, Host::calls_in_flight));
    let pending = |host: &Host| host.catalog.alarm_count().unwrap_or(0);
    metrics.show(Reading::AlarmsPending, of(host, pending));
    metrics.show(Reading::AlarmsRunning, of(host, Host::alarms_running));
    let undelivered = Host::alarms_undelivered;
    metrics.show(Reading::AlarmsUndelivered, of(host, undelivered));
    let are_on = |host: &Host| u64::from(host.limits.alarms_at_once > 0);
    metrics.show(Reading::AlarmsOn, of(host, are_on));
    let connections = |gateway: &Gateway| gateway.connections() as u64;
    metrics.show(Reading::Commits, of(host, commits));
    metrics.show(Reading::JournalBytes, of(host, bytes));
    let waiting = |host: &Host| host.commits.journal().waiting_bytes();
    metrics.show(Reading::JournalWaitingBytes, of(host, waiting));
    metrics.show_durations(
        "journal_sync_seconds",
        "How long the journal took to write and sync each batch of commits",
        host.commits.journal().syncs(),
    );
    let quarantined = |host: &Host| host.commits.journal().quarantined().len() as u64;
    metrics.show(Reading::Quarantined, of(host, quarantined));
    metrics.show(Reading::ObjectsAwake, of(host, awake));
    metrics.show(Reading::WebSocketBytes, of(host, Host::web_socket_bytes));
    metrics.show(Reading::WebSocketsSlow, of(host, Host::web_sockets_slow));
    metrics.show(Reading::Connections, of(gateway, connections));
    let taken = Gateway::connections_taken;
    metrics.show(Reading::ConnectionsTaken, of(gateway, taken));
    let over = Gateway::connections_refused;
    metrics.show(Reading::ConnectionsRefused, of(gateway, over));
    let refused = Gateway::calls_refused;
    metrics.show(Reading::ConnectionCallsRefused, of(gateway, refused));
    let not_sent = Gateway::calls_not_sent;
    metrics.show(Reading::ConnectionCallsNotSent, of(gateway, not_sent));
    let bytes = |gateway: &Gateway| gateway.held_bytes() as u64;
    metrics.show(Reading::ConnectionBytes, of(gateway, bytes));
    let received = Gateway::bytes_received;
    metrics.show(Reading::ConnectionBytesReceived, of(gateway, received));
    let sent = Gateway::bytes_sent;
    metrics.show(Reading::ConnectionBytesSent, of(gateway, sent));
    metrics.connections_end(&End::WORDS);
    let connections = |http: &Http| http.connections() as u64;
    metrics.show(Reading::HttpConnections, of(http, connections));
    let over = Http::connections_refused;
    metrics.show(Reading::HttpConnectionsRefused, of(http, over));
    let requests = |http: &Http| http.requests() as u64;
    metrics.show(Reading::HttpRequests, of(http, requests));
    let held = |http: &Http| http.held_bytes() as u64;
    metrics.show(Reading::HttpHeldBytes, of(http, held));
    let sockets = |http: &Http| http.sockets() as u64;
    metrics.show(Reading::HttpSockets, of(http, sockets));
}

/// A number of something that is not kept alive for it.
fn of<T, F: Fn(&T) -> u64>(owner: &Rc<T>, read: F) -> impl Fn() -> u64 + use<T, F> {
    let owner = Rc::downgrade(owner);
    move || owner.upgrade().map_or(0, |owner| read(&owner))
}

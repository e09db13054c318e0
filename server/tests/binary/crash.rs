//! What is acknowledged survives `kill -9`.

use tempfile::tempdir;

use crate::vat::Vat;

#[test]
fn a_call_survives_the_kill_of_its_server() {
    let folder = tempdir().unwrap();
    let vat = Vat::start(folder.path());
    let answer = vat.call("Counter", "user-123", "increment", r#"{"amount":5}"#);
    assert_eq!(answer, r#"{"count":5}"#);
    vat.kill();
    let vat = Vat::start(folder.path());
    let answer = vat.call("Counter", "user-123", "get", "{}");
    assert_eq!(answer, r#"{"count":5}"#);
}

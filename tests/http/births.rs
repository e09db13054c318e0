//! Objects that a client of HTTP only looks at, and what is left of them.

use std::{fs, path::Path};

use super::{
    client::{Client, web_socket},
    vat,
};
use crate::support::{TestVat, run};

/// How many objects there are, and how many files.
async fn left(vat: &TestVat) -> (u64, usize) {
    let client = vat.client().await;
    let classes = client.session().classes_request().send().promise.await;
    let classes = classes.unwrap();
    let classes = classes.get().unwrap().get_classes().unwrap();
    let objects = classes.iter().map(|class| class.get_object_count()).sum();
    (objects, files(&vat.data()))
}

fn files(folder: &Path) -> usize {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .map(|path| if path.is_dir() { files(&path) } else { 1 })
        .sum()
}

#[test]
fn three_thousand_requests_for_objects_that_do_not_exist_leave_the_data_folder_as_it_was() {
    run(async {
        let mut vat = vat().await;
        vat.stop().await;
        super::start(&mut vat).await;
        let before = left(&vat).await;
        assert_eq!(before.0, 0);
        for mut client in Client::each(&vat).await {
            for n in 0..500 {
                assert_eq!(client.get(&format!("/ChatRoom/{n}/")).await.status, 200);
                assert_eq!(
                    client.get(&format!("/ChatRoom/{n}/nothing")).await.status,
                    404
                );
                let present = format!("/ChatRoom/{n}/call/present");
                assert_eq!(client.post(&present, "{}").await.status, 200);
            }
        }
        assert_eq!(left(&vat).await, before);
        vat.stop().await;
        super::start(&mut vat).await;
        assert_eq!(left(&vat).await, before);
    });
}

#[test]
fn a_request_that_writes_and_a_socket_make_an_object() {
    run(async {
        let vat = vat().await;
        let mut client = Client::one(&vat).await;
        assert_eq!(client.get("/Page/m/sql").await.status, 500);
        assert_eq!(left(&vat).await.0, 0);
        let written = client.post("/Page/m/call/increment", "{}").await;
        assert_eq!((written.status, left(&vat).await.0), (200, 1));
        let _socket = web_socket(&vat).await;
        assert_eq!(left(&vat).await.0, 2);
    });
}

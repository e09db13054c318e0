//! Room that an object does not need any more is given back.

use std::time::Duration;

use vatwerk_server::testing::{TestVat, run};

use crate::support::{
    puppet::{Client, act, put, vat},
    show,
};

const SECOND: Duration = Duration::from_secs(1);
const PAIRS: u32 = 1000;

/// Puts a thousand pairs of a page each.
async fn fill(object: &Client) {
    let filled = act(object, async |own| {
        let kv = own.ctx.storage().kv();
        for n in 0..PAIRS {
            kv.put_bytes(&format!("{n:04}"), &[7; 4000])?;
        }
        Ok(())
    });
    filled.await.unwrap();
}

/// Deletes all pairs but one in so many.
async fn thin_out(object: &Client, but: u32) {
    let deleted = act(object, async move |own| {
        let kv = own.ctx.storage().kv();
        for n in (0..PAIRS).filter(|n| n % but != 0) {
            kv.delete(&format!("{n:04}"))?;
        }
        Ok(())
    });
    deleted.await.unwrap();
}

/// How large the content is, and how long the file.
async fn sizes(vat: &TestVat) -> (u64, u64) {
    let status = show::<Client>(vat, "p").await;
    (status.info.bytes.unwrap_or(0), status.file_bytes)
}

const MIB: u64 = 1 << 20;

#[test]
fn a_file_gives_its_room_back_after_delete_all() {
    run(async {
        let (vat, p) = vat().await;
        fill(&p).await;
        vat.restart().await;
        let (content, file) = sizes(&vat).await;
        assert!(content > 3 * MIB && file > 3 * MIB, "{content} {file}");
        let deleted = act(&p, async |own| Ok(own.ctx.storage().delete_all()?));
        deleted.await.unwrap();
        vat.evict::<Client>("p").await;
        let (content, file) = sizes(&vat).await;
        assert!(
            content < MIB && file > 3 * MIB,
            "not before it is retired: {content} {file}"
        );
        vat.restart().await;
        let (content, file) = sizes(&vat).await;
        assert_eq!(content, file);
        put(&p, "k", "v").await.unwrap();
    });
}

#[test]
fn an_object_that_falls_asleep_gives_free_pages_back() {
    run(async {
        let (vat, p) = vat().await;
        fill(&p).await;
        thin_out(&p, 3).await;
        vat.evict::<Client>("p").await;
        vat.restart().await;
        let (content, file) = sizes(&vat).await;
        assert!(file < content + MIB, "{content} {file}");
        let kept = act(&p, async |own| {
            let keys = own.ctx.storage().kv().list_bytes(&Default::default())?;
            Ok(keys.iter().all(|(_, value)| *value == [7; 4000]) && keys.len() == 334)
        });
        assert!(kept.await.unwrap());
    });
}

#[test]
fn an_object_with_few_free_pages_keeps_them() {
    run(async {
        let (vat, p) = vat().await;
        fill(&p).await;
        let deleted = act(&p, async |own| {
            let kv = own.ctx.storage().kv();
            (0..40).try_for_each(|n| kv.delete(&format!("{n:04}")).map(drop))?;
            Ok(())
        });
        deleted.await.unwrap();
        vat.evict::<Client>("p").await;
        vat.restart().await;
        let (content, file) = sizes(&vat).await;
        assert!(content + 30 * 4096 < file, "{content} {file}");
    });
}

#[test]
fn an_object_that_does_not_fall_asleep_gives_most_of_its_room_back() {
    run(async {
        let (vat, p) = vat().await;
        fill(&p).await;
        thin_out(&p, PAIRS).await;
        // How large it is, is looked at now and then.
        for value in ["a", "b", "c", "d", "e"] {
            vat.advance(5 * SECOND).await;
            put(&p, "k", value).await.unwrap();
        }
        assert!(vat.is_awake::<Client>("p"));
        vat.restart().await;
        let (content, file) = sizes(&vat).await;
        assert!(content < MIB && file < MIB, "{content} {file}");
    });
}

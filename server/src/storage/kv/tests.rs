use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::super::testing::{TestResult, code, fresh, open};
use super::*;

fn keys(storage: &Storage, range: &Range) -> String {
    let entries = storage.kv().list_bytes(range).expect("the list");
    let keys: Vec<_> = entries.into_iter().map(|(key, _)| key).collect();
    keys.join(",")
}

fn with_keys(keys: &[&str]) -> (tempfile::TempDir, Storage) {
    let (folder, storage) = fresh();
    for key in keys {
        storage.kv().put_bytes(key, key.as_bytes()).expect("put");
    }
    (folder, storage)
}

#[test]
fn round_trips_bytes_and_values() -> TestResult {
    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Nested {
        list: Vec<Option<String>>,
        at: i64,
        map: BTreeMap<String, f64>,
    }
    let (folder, storage) = fresh();
    let kv = storage.kv();
    assert_eq!(kv.get_bytes("k")?, None);
    assert!(!kv.delete("k")?);
    assert_eq!(kv.list_bytes(&Range::all())?, vec![]);
    kv.put_bytes("k", b"")?;
    assert_eq!(kv.get_bytes("k")?, Some(vec![]));
    let value = Nested {
        list: vec![None, Some("x".into())],
        at: i64::MIN,
        map: BTreeMap::from([("pi".into(), 3.25)]),
    };
    kv.put("", &value)?;
    kv.put("a\0b", "text")?;
    storage.close()?;

    let storage = open(&folder);
    let kv = storage.kv();
    assert_eq!(kv.get::<Nested>("")?, Some(value));
    assert_eq!(kv.get::<String>("a\0b")?.as_deref(), Some("text"));
    assert_eq!(kv.get::<String>("a")?, None);
    assert_eq!(code(kv.get::<i64>("a\0b")), "invalid-argument");
    assert!(kv.delete("a\0b")?);
    assert!(!kv.delete("a\0b")?);
    let listed: Vec<(String, u8)> = {
        kv.put("x/1", &1u8)?;
        kv.list(&Range::prefix("x/"))?
    };
    assert_eq!(listed, [("x/1".to_owned(), 1)]);
    Ok(())
}

#[test]
fn several_keys_at_once() -> TestResult {
    let (_folder, storage) = fresh();
    let kv = storage.kv();
    kv.put_many(&[("b", 2), ("a", 1), ("c", 3)])?;
    let found = kv.get_many::<i32>(&["c", "missing", "a", "a"])?;
    assert_eq!(found, BTreeMap::from([("a".into(), 1), ("c".into(), 3)]));
    assert_eq!(kv.delete_many(&["a", "a", "missing", "b"])?, 2);
    assert_eq!(keys(&storage, &Range::all()), "c");
    kv.put_many::<i32>(&[])?;
    assert_eq!(kv.delete_many(&[])?, 0);
    Ok(())
}

#[test]
fn a_failing_put_many_leaves_nothing() -> TestResult {
    let (_folder, storage) = fresh();
    let kv = storage.kv();
    let long = "x".repeat(2049);
    kv.put("before", &1)?;
    let entries: [(&str, &[u8]); 2] = [("a", b""), (&long, b"")];
    assert_eq!(code(kv.put_many_bytes(&entries)), "limit-exceeded");
    // One that fails half way in SQLite.
    storage.trusted("CREATE UNIQUE INDEX refuse ON _vw_kv (value)")?;
    let entries: [(&str, &[u8]); 2] = [("good", b"same"), ("bad", b"same")];
    assert_eq!(code(kv.put_many_bytes(&entries)), "sql-failed");
    assert_eq!(keys(&storage, &Range::all()), "before");
    assert_eq!(storage.broken(), None);
    Ok(())
}

#[test]
fn limits() -> TestResult {
    let (_folder, storage) = fresh();
    let kv = storage.kv();
    let longest = "é".repeat(1024);
    let too_long = format!("{longest}x");
    kv.put_bytes(&longest, b"x")?;
    assert_eq!(kv.get_bytes(&longest)?, Some(b"x".to_vec()));
    let error = kv.put_bytes(&too_long, b"x").expect_err("too long");
    assert!(error.to_string().contains("2049"), "{error}");
    assert_eq!(code(kv.get_bytes(&too_long)), "limit-exceeded");
    assert_eq!(code(kv.delete(&too_long)), "limit-exceeded");
    assert_eq!(
        code(kv.page(&Range::prefix(&too_long), 1)),
        "limit-exceeded"
    );

    let largest = vec![7; limit::MAX_VALUE_BYTES as usize];
    kv.put_bytes("large", &largest)?;
    assert_eq!(kv.get_bytes("large")?.as_ref(), Some(&largest));
    let too_large = vec![7; largest.len() + 1];
    assert_eq!(code(kv.put_bytes("large", &too_large)), "limit-exceeded");

    let names: Vec<String> = (0..129).map(|n| n.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let entries: Vec<(&str, u8)> = names.iter().map(|name| (*name, 0)).collect();
    kv.put_many(&entries[..128])?;
    assert_eq!(kv.get_many::<u8>(&names[..128])?.len(), 128);
    assert_eq!(code(kv.put_many(&entries)), "limit-exceeded");
    assert_eq!(code(kv.get_many::<u8>(&names)), "limit-exceeded");
    assert_eq!(code(kv.delete_many(&names)), "limit-exceeded");
    assert_eq!(kv.delete_many(&names[..128])?, 128);
    Ok(())
}

#[test]
fn ranges_keep_their_bounds_when_reversed() {
    let (_folder, storage) = with_keys(&["a", "b", "c", "d", "e"]);
    let all = Range::all;
    for (range, expected) in [
        (all().start_after("c").reverse(), "e,d"),
        (all().start("c").reverse(), "e,d,c"),
        (all().end("c").reverse(), "b,a"),
        (all().start_after("a"), "b,c,d,e"),
        (all().start_after("e"), ""),
        (all().start("b").end("d"), "b,c"),
        (all().start("d").end("b"), ""),
        (all().limit(2), "a,b"),
        (all().reverse().limit(2), "e,d"),
        (all().start("").limit(9), "a,b,c,d,e"),
        (Range::prefix("c"), "c"),
        (Range::prefix("c").start("d"), ""),
        (Range::prefix("cc"), ""),
    ] {
        assert_eq!(keys(&storage, &range), expected, "{range:?}");
    }
    assert_eq!(
        code(storage.kv().list_bytes(&all().limit(0))),
        "invalid-argument"
    );
}

#[test]
fn a_prefix_is_bytes_and_not_a_pattern() {
    let last = char::MAX.to_string();
    let names = [
        "%",
        "_",
        "A",
        "a",
        "a%",
        "aB",
        "ab",
        "b",
        "\u{d7ff}x",
        "\u{e000}",
        &last,
    ];
    let (_folder, storage) = with_keys(&names);
    for prefix in ["%", "_", "a", "A", "", "\u{d7ff}", &last, "é"] {
        let mut expected: Vec<_> = names
            .iter()
            .filter(|name| name.starts_with(prefix))
            .collect();
        expected.sort();
        let expected: Vec<&str> = expected.into_iter().copied().collect();
        assert_eq!(
            keys(&storage, &Range::prefix(prefix)),
            expected.join(","),
            "{prefix}"
        );
    }
}

#[test]
fn pages_go_on_where_they_stopped() -> TestResult {
    let (_folder, storage) = with_keys(&["a", "b", "c", "d"]);
    let kv = storage.kv();
    let (first, more) = kv.page(&Range::all(), 4)?;
    assert_eq!((first.len(), more), (2, true));
    let (rest, more) = kv.page(&Range::all().start_after(&first[1].0), 4)?;
    assert_eq!((rest.len(), more), (2, false));
    let (one, more) = kv.page(&Range::all().reverse(), 0)?;
    assert_eq!((one[0].0.as_str(), one.len(), more), ("d", 1, true));
    let (two, more) = kv.page(&Range::all().limit(2), 4)?;
    assert_eq!((two.len(), more), (2, false));
    Ok(())
}

#[test]
fn the_table_comes_and_goes_with_its_transaction() -> TestResult {
    let (_folder, storage) = fresh();
    let failed: Result<()> = storage.transaction(|storage| {
        storage.kv().put("a", &1)?;
        Err(Error::NotFound("changed my mind".into()))
    });
    assert!(failed.is_err());
    assert_eq!(storage.kv().get::<i32>("a")?, None);
    storage.enter_turn();
    storage.kv().put("b", &1)?;
    storage.rollback_turn();
    assert_eq!(storage.kv().get::<i32>("b")?, None);
    storage.kv().put("c", &1)?;
    assert_eq!(storage.keys(), ["c"]);
    Ok(())
}

fn text() -> impl Strategy<Value = String> {
    // Few characters, so that keys share prefixes; each a different length in UTF-8, and the ends.
    let characters = prop::sample::select(vec![
        '\0',
        'a',
        'b',
        '%',
        '_',
        'é',
        '\u{d7ff}',
        '\u{e000}',
        char::MAX,
    ]);
    prop::collection::vec(characters, 0..4).prop_map(|characters| characters.into_iter().collect())
}

fn range() -> impl Strategy<Value = Range> {
    let from = prop_oneof![
        Just(Lower::Beginning),
        text().prop_map(Lower::Start),
        text().prop_map(Lower::StartAfter),
    ];
    let limit = prop::option::of(1u32..5);
    (text(), from, prop::option::of(text()), any::<bool>(), limit).prop_map(
        |(prefix, from, end, reverse, limit)| Range {
            prefix: prefix.chars().take(2).collect(),
            from,
            end,
            reverse,
            limit,
        },
    )
}

fn model(entries: &BTreeMap<String, Vec<u8>>, range: &Range) -> Vec<Entry> {
    let mut found: Vec<Entry> = entries
        .iter()
        .filter(|(key, _)| key.as_bytes().starts_with(range.prefix.as_bytes()))
        .filter(|(key, _)| match &range.from {
            Lower::Beginning => true,
            Lower::Start(start) => *key >= start,
            Lower::StartAfter(start) => *key > start,
        })
        .filter(|(key, _)| range.end.as_ref().is_none_or(|end| *key < end))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if range.reverse {
        found.reverse();
    }
    found.truncate(range.limit.map_or(usize::MAX, |limit| limit as usize));
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn lists_what_a_sorted_map_would(
        entries in prop::collection::btree_map(text(), prop::collection::vec(any::<u8>(), 0..9), 0..24),
        ranges in prop::collection::vec(range(), 1..24),
        bytes in 0usize..24,
    ) {
        let (_folder, storage) = fresh();
        storage.enter_turn();
        for (key, value) in &entries {
            storage.kv().put_bytes(key, value).unwrap();
        }
        for range in ranges {
            let expected = model(&entries, &range);
            prop_assert_eq!(&storage.kv().list_bytes(&range).unwrap(), &expected, "{:?}", range);

            let mut paged = Vec::new();
            let mut rest = range.clone();
            loop {
                let (page, more) = storage.kv().page(&rest, bytes).unwrap();
                rest.limit = rest.limit.map(|limit| limit - page.len() as u32);
                if let Some((last, _)) = page.last().cloned() {
                    if range.reverse {
                        rest.end = Some(last);
                    } else {
                        rest.from = Lower::StartAfter(last);
                    }
                }
                paged.extend(page);
                if !more {
                    break;
                }
            }
            prop_assert_eq!(&paged, &expected, "in pages: {:?}", range);
        }
        storage.rollback_turn();
    }
}

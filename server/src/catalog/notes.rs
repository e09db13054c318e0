//! What objects have been doing, noted for many of them together.

use rusqlite::{Connection, params};

use super::{Catalog, alarms};
use crate::{Result, folder::DatabaseId, journal::Failures};

/// What is to be noted of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// Which object.
    pub object: DatabaseId,
    /// The earliest alarm in its database, exactly, in milliseconds since 1970; `Some(None)` if it
    /// has none, and `None` to leave the index as it is.
    pub alarm: Option<Option<i64>>,
    /// What it has written last, if that is to be noted.
    pub activity: Option<Activity>,
}

/// What an object has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// When that was, in milliseconds since 1970.
    pub written_ms: i64,
    /// How large its database was afterwards, in bytes.
    pub bytes: u64,
}

impl Catalog {
    /// Notes all of it in one commit, which is refused if the journal has failed since `failures`. Nothing is noted of an object that is not listed, except that
    /// an alarm of it that the index knows is put right: else it would be woken for it for ever.
    pub fn note(&self, notes: &[Note], failures: Failures) -> Result<()> {
        self.write_since(failures, |db| {
            for note in notes {
                if let Some(due_ms) = note.alarm {
                    alarms::set(db, note.object, due_ms)?;
                }
                if let Some(activity) = note.activity {
                    note_activity(db, note.object, activity)?;
                }
            }
            Ok(())
        })
    }
}

fn note_activity(db: &Connection, object: DatabaseId, activity: Activity) -> rusqlite::Result<()> {
    let DatabaseId { class, object } = object;
    let Activity { written_ms, bytes } = activity;
    db.prepare_cached(
        "UPDATE objects SET written_ms = ?3, bytes = ?4
         WHERE class = ?1 AND id = ?2 AND (written_ms IS NOT ?3 OR bytes IS NOT ?4)",
    )?
    .execute(params![
        class.cast_signed(),
        object.as_bytes(),
        written_ms,
        bytes.cast_signed()
    ])
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::{super::testing::*, *};

    fn activity(n: i64) -> Option<Activity> {
        Some(Activity {
            written_ms: n,
            bytes: n.cast_unsigned() * 4096,
        })
    }

    #[test]
    fn notes_on_many_objects_are_one_commit_and_survive() {
        let folder = tempfile::tempdir().unwrap();
        let first = catalog(&folder);
        for n in 0..4 {
            first.record(7, id(n), None).unwrap();
            first.expect_alarm(object(n), 5).unwrap();
        }
        let before = position(&first);
        let note = |n, alarm, activity| Note {
            object: object(n),
            alarm,
            activity,
        };
        let notes = [
            note(0, None, activity(1)),
            note(1, Some(None), activity(2)),
            note(2, Some(Some(50)), None),
            note(3, Some(Some(4)), activity(3)),
        ];
        first.note(&notes, first.failures()).unwrap();
        let after = position(&first);
        assert_eq!(after, before + 1);
        first.note(&notes, first.failures()).unwrap();
        first.note(&[], first.failures()).unwrap();
        assert_eq!(
            position(&first),
            after,
            "what is known is not written again"
        );

        let again = reopen(first);
        let alarms = [0, 1, 2, 3].map(|n| again.alarm_of(object(n)).unwrap());
        assert_eq!(alarms, [Some(5), None, Some(50), Some(4)]);
        let noted = [0, 1, 2, 3].map(|n| {
            let listed = again.find(7, id(n)).unwrap().unwrap();
            (listed.written_ms, listed.bytes)
        });
        assert_eq!(
            noted,
            [
                (Some(1), Some(4096)),
                (Some(2), Some(8192)),
                (None, None),
                (Some(3), Some(12288))
            ]
        );
    }

    #[test]
    fn what_is_noted_of_an_object_that_is_not_listed_makes_no_entry() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = catalog(&folder);
        // One whose `create` has set an alarm.
        catalog.expect_alarm(object(2), 5).unwrap();
        let note = |n, alarm| {
            let note = Note {
                object: object(n),
                alarm: Some(alarm),
                activity: activity(1),
            };
            catalog.note(&[note], catalog.failures()).unwrap();
            assert_eq!(catalog.count(7).unwrap(), 0);
            catalog.alarm_of(object(n)).unwrap()
        };
        assert_eq!(note(1, Some(5)), None);
        assert_eq!(note(2, Some(6)), Some(6));
        assert_eq!(note(2, None), None);
    }
}

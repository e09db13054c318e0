//! Pages of listings: how long they are, where the next one starts, and what they say of an object.

use vatwerk::{
    limit_capnp::MAX_LISTED_OBJECTS,
    object_capnp::{ObjectState, object_info, object_status},
};

use crate::{
    Error, Result,
    catalog::{After, Listed},
    folder::DatabaseId,
    object::{State, Status},
};

/// Refuses pages that are too long, or hold nothing.
pub(super) fn check_limit(limit: u32) -> Result<()> {
    if !(1..=MAX_LISTED_OBJECTS).contains(&limit) {
        return Err(Error::InvalidArgument(format!(
            "the limit of a listing is 1 to {MAX_LISTED_OBJECTS}, not {limit}"
        )));
    }
    Ok(())
}

/// Cuts what was read, one more than `limit` at most, to a page. The last entry, if there is another
/// page after it.
pub(super) fn cut<T>(page: &mut Vec<T>, limit: u32) -> Option<&T> {
    let more = page.len() > limit as usize;
    page.truncate(limit as usize);
    page.last().filter(|_| more)
}

fn not_a_next() -> Error {
    Error::InvalidArgument("`after` is not the `next` of an earlier page".into())
}

/// Where the page after this object starts, as text: `n` and its name, or `i` and its id.
pub(super) fn next_object(last: &Listed) -> String {
    match &last.name {
        Some(name) => format!("n{name}"),
        None => format!("i{}", last.id),
    }
}

/// Reads what [`next_object`] has written.
pub(super) fn after_object(text: &str) -> Result<After> {
    if text.is_empty() {
        return Ok(After::Beginning);
    }
    if let Some(name) = text.strip_prefix('n') {
        return Ok(After::Name(name.to_owned()));
    }
    text.strip_prefix('i')
        .and_then(|id| id.parse().ok())
        .map(After::Id)
        .ok_or_else(not_a_next)
}

/// Where the page after this alarm starts, as text: its time and its object.
pub(super) fn next_alarm(due_ms: i64, object: DatabaseId) -> String {
    format!("{due_ms}/{object}")
}

/// Reads what [`next_alarm`] has written.
pub(super) fn after_alarm(text: &str) -> Result<Option<(i64, DatabaseId)>> {
    if text.is_empty() {
        return Ok(None);
    }
    text.split_once('/')
        .and_then(|(due_ms, object)| Some((due_ms.parse().ok()?, object.parse().ok()?)))
        .map(Some)
        .ok_or_else(not_a_next)
}

pub(super) fn write_info(mut info: object_info::Builder<'_>, listed: &Listed) {
    info.set_id(listed.id.as_bytes());
    info.set_object_name(listed.name.as_deref().unwrap_or_default());
    info.set_created_ms(listed.created_ms);
    info.set_written_ms(listed.written_ms.unwrap_or(0));
    info.set_bytes(listed.bytes.unwrap_or(0));
}

/// Writes all but what a listing says, and whether the object exists.
pub(super) fn write_status(
    mut to: object_status::Builder<'_>,
    status: Status,
    alarm_ms: Option<i64>,
    file_bytes: u64,
) {
    to.set_file_bytes(file_bytes);
    to.set_state(match status.state {
        State::Asleep => ObjectState::Asleep,
        State::Waking => ObjectState::Waking,
        State::Awake => ObjectState::Awake,
    });
    to.set_in_flight(status.in_flight);
    to.set_queued(status.queued);
    to.set_held_capabilities(status.handed_out);
    to.set_web_sockets(status.web_sockets);
    let mut alarm = to.reborrow().init_alarm();
    match alarm_ms {
        Some(due_ms) => alarm.set_due_ms(due_ms),
        None => alarm.set_none(()),
    }
    to.set_activated_ms(status.activated_ms.unwrap_or(0));
    to.set_resets(status.resets);
}

#[cfg(test)]
mod tests {
    use vatwerk::ObjectId;

    use super::*;

    #[test]
    fn the_next_page_starts_where_this_one_says() {
        let object = DatabaseId {
            class: u64::MAX,
            object: ObjectId([0xab; ObjectId::LEN]),
        };
        for due_ms in [i64::MIN, 0, 1_700_000_000_000] {
            let next = next_alarm(due_ms, object);
            assert_eq!(after_alarm(&next).unwrap(), Some((due_ms, object)));
        }
        let named = |name: Option<&str>| Listed {
            id: object.object,
            name: name.map(str::to_owned),
            created_ms: 1,
            written_ms: None,
            bytes: None,
        };
        for (last, after) in [
            (named(None), After::Id(object.object)),
            (named(Some("/n")), After::Name("/n".into())),
        ] {
            assert_eq!(after_object(&next_object(&last)).unwrap(), after);
        }
        for made_up in ["x", "5", "5/", "/5", "5/5-5", "iab"] {
            assert!(after_alarm(made_up).is_err(), "{made_up}");
            assert!(after_object(made_up).is_err(), "{made_up}");
        }
    }

    #[test]
    fn a_page_says_whether_there_is_another() {
        for (found, cut_to, last) in [(0, 0, None), (2, 2, None), (3, 2, Some(1))] {
            let mut page: Vec<_> = (0..found).collect();
            assert_eq!(cut(&mut page, 2).copied(), last);
            assert_eq!(page.len(), cut_to);
        }
    }
}

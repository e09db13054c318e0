//! What a start does with what the last one has left: everything the journal says is brought to the
//! databases' files, and then the journal is empty. It can be interrupted at any point and done again.

use std::{collections::BTreeMap, io, sync::Arc};

use super::{
    Settings,
    databases::Databases,
    lsn::Lsn,
    queue::Queue,
    replay::Changes,
    retire::is_of_file,
    roster::Roster,
    segment::{Damage, Header, JournalError, Origin, Records, SegmentFile, State},
    segments::SEGMENT_SUFFIX,
};
use crate::{
    env::{Disk, Open},
    folder::{DatabaseId, Layout},
};

/// A journal in which nothing counts any more.
pub(super) struct Recovered {
    /// Its files, to be used again.
    pub free: Vec<SegmentFile>,
    /// The number that the next new file gets.
    pub next_number: u64,
    /// The newest sequence that was ever used.
    pub sequence: u64,
    /// The newest position that was ever used, as far as anything still tells.
    pub newest: Lsn,
    /// When the newest commit was written, in ms since 1970; 0 if nothing tells.
    pub time_ms: u64,
    /// The origin of what is written from now on.
    pub origin: Origin,
    /// The databases whose files could not be written: what the journal said of them is held.
    pub quarantined: Vec<(DatabaseId, io::Error)>,
    /// Which segments may hold commits: none.
    pub roster: Roster,
    /// How many commits were found.
    pub commits: u64,
    /// How many bytes were read for them.
    pub bytes: u64,
}

/// How far a recovery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How many bytes of the journal have been dealt with.
    pub done: u64,
    /// How many there are.
    pub total: u64,
}

/// A segment that counts.
struct Segment<'a> {
    file: &'a SegmentFile,
    header: Header,
    first: Lsn,
    /// From this position on its records do not count; none for the last.
    end: Option<Lsn>,
}

/// Recovers the data folder. Nothing is changed if the journal is damaged.
pub(super) fn recover(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    queue: Arc<Queue>,
    settings: &Settings,
    mut progress: impl FnMut(Progress),
) -> Result<Recovered, JournalError> {
    let (files, next_number) = open_segments(disk, layout)?;
    let mut roster = Roster::open(disk, layout)?;
    roster.check(&files.iter().map(|file| file.name().into_owned()).collect())?;
    let mut headers = Vec::new();
    for file in &files {
        headers.extend(file.read_header()?.map(|header| (file, header)));
    }
    let last = headers.iter().max_by_key(|(_, header)| header.sequence);
    let (sequence, origin) = last.map_or((0, Origin::default()), |(_, last)| {
        (last.sequence, last.origin)
    });
    let mut time_ms = headers.iter().map(|(_, header)| header.time_ms).max();
    let mut chain = chain(&headers, &queue)?;
    if sabotaged!(queue, BelieveVoid) {
        chain.iter_mut().for_each(|segment| segment.end = None);
    }
    let databases = Databases::new(
        disk.clone(),
        layout.clone(),
        queue.clone(),
        0,
        settings.open_files,
        settings.most_held_bytes(),
    );
    databases.held.load()?;
    let total = chain.iter().try_fold(0, |sum, segment| {
        Ok::<_, io::Error>(sum + segment.file.file.bytes()?)
    })?;
    let mut newest = headers
        .iter()
        .map(|(_, header)| newest_of(header))
        .max()
        .unwrap_or_default();
    let (mut done, mut commits) = (0, 0);
    let mut told = |bytes: usize| {
        done += bytes as u64;
        progress(Progress {
            done: (done / 2).min(total),
            total,
        });
    };
    // First look, then touch.
    for segment in &chain {
        let (last, last_ms) = with_changes(segment, &databases, |changes, last, bytes| {
            told(bytes);
            Ok((last, changes.time_ms))
        })?;
        newest = newest.max(last);
        time_ms = time_ms.max(Some(last_ms));
        commits += last.0 + 1 - segment.first.0;
    }
    let mut bad = apply_held(&databases, &databases.held.databases())?;
    for segment in &chain {
        with_changes(segment, &databases, |changes, _, bytes| {
            for (id, change) in changes.iter() {
                if sabotaged!(queue, SkipObject) && id.object.as_bytes()[0] % 2 == 1 {
                    continue;
                }
                if !bad.contains_key(&id)
                    && let Err(error) = databases.recover(id).apply(&databases, change)
                {
                    check_of_file(&mut bad, id, error)?;
                }
                if bad.contains_key(&id) && change.last > databases.held.last(id) {
                    databases.held.add(id, change)?;
                }
                // Of those at which the disk fails, the sync after all of them tells.
                if databases.open_files.are_many_unsynced() {
                    let _ = databases.sync();
                }
            }
            told(bytes);
            Ok(())
        })?;
    }
    let late = if sabotaged!(queue, FreeBeforeRecovered) {
        Bad::new()
    } else {
        sync(&chain, &databases)?
    };
    for segment in chain.iter().filter(|_| !late.is_empty()) {
        with_changes(segment, &databases, |changes, _, _| {
            for (id, change) in changes.iter() {
                if late.contains_key(&id) && change.last > databases.held.last(id) {
                    databases.held.add(id, change)?;
                }
            }
            Ok(())
        })?;
    }
    bad.extend(late);
    for id in databases.held.databases() {
        if !bad.contains_key(&id) {
            databases.held.remove(id)?;
        }
    }
    let quarantined = bad.into_iter().collect();
    // The oldest first: what counts must always reach to the end.
    let next = newest.next();
    headers.sort_by_key(|(_, header)| header.sequence);
    if sabotaged!(queue, FreeNewestFirst) {
        headers.reverse();
    }
    for (file, header) in &headers {
        if let State::Live { .. } = header.state {
            file.write_header(Header {
                state: State::Free { next },
                time_ms: time_ms.unwrap_or_default(),
                ..*header
            })?;
        }
    }
    roster.clear()?;
    databases.beside.remove_all()?;
    Ok(Recovered {
        free: files,
        next_number,
        sequence,
        quarantined,
        roster,
        newest,
        time_ms: time_ms.unwrap_or_default(),
        origin: origin.next(),
        commits,
        bytes: total,
    })
}

/// The databases whose files cannot be written, and why.
type Bad = BTreeMap<DatabaseId, io::Error>;

/// Notes that a database cannot be written, unless the error is no fault of its file's.
fn check_of_file(bad: &mut Bad, id: DatabaseId, error: io::Error) -> Result<(), JournalError> {
    if !is_of_file(&error) {
        return Err(error.into());
    }
    bad.insert(id, error);
    Ok(())
}

/// Passes on what a segment says, the position of its last record that counts, and how long it is.
fn with_changes<T>(
    segment: &Segment<'_>,
    databases: &Databases,
    then: impl FnOnce(&Changes<'_>, Lsn, usize) -> Result<T, JournalError>,
) -> Result<T, JournalError> {
    let mut bytes = Vec::new();
    segment.file.read(&mut bytes)?;
    let mut changes = Changes::default();
    let records = Records::new(&bytes, segment.header.salt, segment.first);
    #[cfg(any(test, feature = "testing"))]
    let records = records.believing(sabotaged!(databases.queue, AcceptTornTail));
    let last = read(segment, records, databases, &mut changes)?;
    then(&changes, last, bytes.len())
}

/// Brings what is held to the files, before anything that the journal says: it is earlier.
fn apply_held(databases: &Databases, ids: &[DatabaseId]) -> Result<Bad, JournalError> {
    let mut bad = Bad::new();
    for id in ids {
        let bytes = databases.held.read(*id)?;
        let mut changes = Changes::default();
        if !sabotaged!(databases.queue, ForgetHeld) {
            changes.add_held(databases, *id, &bytes)?;
        }
        for (id, change) in changes.iter() {
            if let Err(error) = databases.recover(id).apply(databases, change) {
                check_of_file(&mut bad, id, error)?;
            }
        }
    }
    Ok(bad)
}

/// Syncs the files. Returns at which of them the disk fails, also when they are written once more.
fn sync(chain: &[Segment<'_>], databases: &Databases) -> Result<Bad, JournalError> {
    let is_synced = databases.sync().is_ok_and(|failed| failed.is_empty());
    if is_synced && databases.suspects().is_empty() {
        return Ok(Bad::new());
    }
    let suspects = databases.suspects();
    let mut held = Vec::new();
    for id in &suspects {
        held.push(databases.held.read(*id)?);
    }
    let mut segments = vec![Vec::new(); chain.len()];
    for (segment, bytes) in chain.iter().zip(&mut segments) {
        segment.file.read(bytes)?;
    }
    // All at once, so that nothing goes back to what it was before, or comes back.
    let mut changes = Changes::default();
    for (id, bytes) in suspects.iter().zip(&held) {
        changes.add_held(databases, *id, bytes)?;
    }
    for (segment, bytes) in chain.iter().zip(&segments) {
        let records = Records::new(bytes, segment.header.salt, segment.first);
        read(segment, records, databases, &mut changes)?;
    }
    let mut bad = Bad::new();
    for id in suspects {
        if let Some(change) = changes.of(id)
            && let Err(error) = databases.recover(id).apply(databases, change)
        {
            check_of_file(&mut bad, id, error)?;
        }
    }
    for (database, error) in databases.sync()? {
        check_of_file(&mut bad, database.id(), error)?;
    }
    Ok(bad)
}

fn newest_of(header: &Header) -> Lsn {
    match header.state {
        State::Live { first, .. } => first.previous(),
        State::Free { next } => next.previous(),
    }
}

/// Every segment there is, and the number that the next one gets.
fn open_segments(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
) -> Result<(Vec<SegmentFile>, u64), JournalError> {
    let folder = layout.journal();
    let mut names = disk.list(&folder)?;
    names.sort();
    let (mut files, mut next_number) = (Vec::new(), 0);
    for name in names {
        let number = name
            .strip_suffix(SEGMENT_SUFFIX)
            .and_then(|number| number.parse::<u64>().ok());
        let Some(number) = number else { continue };
        next_number = next_number.max(number + 1);
        let path = folder.join(name);
        let file = disk.open(&path, Open::Existing)?;
        files.push(SegmentFile { path, file });
    }
    Ok((files, next_number))
}

/// The segments that count, oldest first.
fn chain<'a>(
    headers: &[(&'a SegmentFile, Header)],
    _queue: &Queue,
) -> Result<Vec<Segment<'a>>, JournalError> {
    let by_sequence: BTreeMap<u64, _> = headers
        .iter()
        .map(|(file, header)| (header.sequence, (*file, *header)))
        .collect();
    let mut chain = Vec::new();
    let newest = by_sequence
        .values()
        .rfind(|(_, header)| matches!(header.state, State::Live { .. }));
    let mut next = newest.copied();
    let (mut end, mut oldest_needed) = (None, 0);
    while let Some((file, header)) = next {
        let State::Live {
            first,
            void_from,
            previous,
            oldest,
        } = header.state
        else {
            break;
        };
        chain.push(Segment {
            file,
            header,
            first,
            end,
        });
        end = Some(void_from);
        oldest_needed = oldest_needed.max(oldest);
        next = by_sequence.get(&previous).copied();
        // Retired segments are free or used again; what was used again is older than the newest knew.
        let is_needed = previous > 0 && previous >= oldest_needed;
        if next.is_none() && is_needed && !sabotaged!(_queue, MissNoSegment) {
            return Err(file.damaged(0, Damage::Missing { sequence: previous }));
        }
    }
    chain.reverse();
    Ok(chain)
}

/// Reads what a segment says. Returns the position of its last record that counts.
fn read<'a>(
    segment: &Segment<'_>,
    mut records: Records<'a>,
    databases: &Databases,
    changes: &mut Changes<'a>,
) -> Result<Lsn, JournalError> {
    loop {
        let (lsn, offset) = (records.next_lsn(), records.offset());
        let damaged = |damage| segment.file.damaged(offset, damage);
        if segment.end.is_some_and(|end| lsn >= end) {
            return Ok(lsn.previous());
        }
        match records.next() {
            Some(record) => changes
                .add(databases, record)
                .map_err(|failure| failure.at(damaged))?,
            None if segment.end.is_some() || records.is_damaged() => {
                return Err(damaged(Damage::Record(lsn)));
            }
            // The torn end of what was never acknowledged.
            None => return Ok(lsn.previous()),
        }
    }
}

//! The roster: which segments may hold commits, in a file of its own beside the journal's folder. A journal
//! that is gone, or a part of it, is missed at the next start; without the roster it would be an empty one.
//!
//! `DATA/SEGMENTS` is one sector, of which any change is whole or not there: the names of the segments, in
//! text, padded with spaces. It is empty when nothing that the journal says counts: after a stop in order.

use std::{collections::BTreeSet, io, path::PathBuf, sync::Arc};

use super::segment::JournalError;
use crate::{
    env::{Disk, DiskFile, Open},
    folder::Layout,
};

/// How long the file is, in bytes.
const BYTES: usize = 512;

/// The roster of one journal.
pub(super) struct Roster {
    disk: Arc<dyn Disk>,
    layout: Layout,
    path: PathBuf,
    /// The file, once it is known to be there after a loss of power.
    file: Option<Arc<dyn DiskFile>>,
    /// The names that are in it for certain.
    names: BTreeSet<String>,
}

impl Roster {
    /// Reads the roster that the last vat has left, if there is one.
    pub fn open(disk: &Arc<dyn Disk>, layout: &Layout) -> io::Result<Roster> {
        let mut roster = Roster {
            disk: disk.clone(),
            layout: layout.clone(),
            path: layout.segments(),
            file: None,
            names: BTreeSet::new(),
        };
        match disk.open(&roster.path, Open::Existing) {
            Ok(file) => {
                let mut text = vec![0; BYTES];
                let read = file.read_at(&mut text, 0)?;
                let text = String::from_utf8_lossy(&text[..read]);
                // Of a file that was made and not synced before the power went, there may be zeros.
                let names = text.split(|c: char| c.is_ascii_whitespace() || c == '\0');
                let names = names.filter(|name| !name.is_empty());
                roster.names = names.map(str::to_owned).collect();
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(roster)
    }

    /// Refuses a journal of which a segment is missing that may hold commits.
    pub fn check(&self, present: &BTreeSet<String>) -> Result<(), JournalError> {
        match self.names.difference(present).next() {
            None => Ok(()),
            Some(name) => Err(JournalError::Gone {
                path: self.layout.journal().join(name),
                roster: self.path.clone(),
            }),
        }
    }

    /// Enters a segment, durably, before anything is written to it.
    pub fn enter(&mut self, name: &str) -> io::Result<()> {
        if self.names.contains(name) {
            return Ok(());
        }
        let mut names = self.names.clone();
        names.insert(name.to_owned());
        self.write(names)
    }

    /// Strikes all segments out: nothing in them counts any more.
    pub fn clear(&mut self) -> io::Result<()> {
        if self.names.is_empty() {
            Ok(())
        } else {
            self.write(BTreeSet::new())
        }
    }

    fn write(&mut self, names: BTreeSet<String>) -> io::Result<()> {
        let mut text = names
            .iter()
            .fold(String::new(), |text, name| text + name + " ");
        if text.len() >= BYTES {
            return Err(io::Error::other(
                "the journal has more segments than its roster has room for",
            ));
        }
        text.extend(std::iter::repeat_n(' ', BYTES - 1 - text.len()));
        text.push('\n');
        let file = match &self.file {
            Some(file) => file.clone(),
            None => self.disk.open(&self.path, Open::OrCreate)?,
        };
        file.write_at(text.as_bytes(), 0)?;
        file.sync()?;
        if self.file.is_none() {
            self.disk.sync_folder(self.layout.root())?;
            self.file = Some(file);
        }
        self.names = names;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::env::sim::{Fault, SimDisk, Survival};

    fn roster(disk: &SimDisk) -> Roster {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        Roster::open(&disk, &Layout::new(Path::new("/data"))).unwrap()
    }

    fn missed(disk: &SimDisk, present: &[&str]) -> bool {
        let present = present.iter().map(|name| (*name).to_owned()).collect();
        roster(disk).check(&present).is_err()
    }

    #[test]
    fn a_roster_that_was_being_made_when_the_power_went_misses_nothing() {
        let disk = SimDisk::new("/data/journal");
        let path = Layout::new(Path::new("/data")).segments();
        let file = disk.open(&path, Open::OrCreate).unwrap();
        file.write_at(&[0; BYTES], 0).unwrap();
        assert!(!missed(&disk, &[]));
    }

    #[test]
    fn what_was_entered_is_missed_until_it_is_struck_out() {
        let disk = SimDisk::new("/data/journal");
        assert!(!missed(&disk, &[]));
        let mut kept = roster(&disk);
        kept.enter("0000.segment").unwrap();
        disk.fail(Fault::io_error().times(1));
        kept.enter("0001.segment").unwrap_err();
        kept.enter("0001.segment").unwrap();
        let disk = disk.after_crash(Survival::Nothing);
        assert!(missed(&disk, &[]) && missed(&disk, &["0000.segment"]));
        let more = ["0000.segment", "0001.segment", "0002.segment"];
        assert!(!missed(&disk, &more));
        let disk = disk.after_crash(Survival::Everything);
        roster(&disk).clear().unwrap();
        assert!(!missed(&disk.after_crash(Survival::Nothing), &[]));
    }
}
